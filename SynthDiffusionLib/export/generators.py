"""Whether the models that made synthetic volumes were trained on patients that a network is to be tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from SynthDiffusionLib.errors import BadInput, ModelError, shortened
from SynthDiffusionLib.evaluation.sets.lists import Listed, training_list
from SynthDiffusionLib.evaluation.sets.training_lists import perhaps_same, perhaps_sentences, seen_patients, spellings
from SynthDiffusionLib.export.set_cases import Patients, SourceCase
from SynthDiffusionLib.export.splits import TEST, TRAINING
from SynthDiffusionLib.reports.sections import counted


@dataclass(frozen=True)
class _Generator:
    """A model by which volumes were made: its ID, version, and the checksums of its weights."""

    id: str
    version: str
    files: tuple[tuple[str, str], ...]


def check_generators(
    cases: Sequence[SourceCase], part: Sequence[str], patients: Patients, trained_on: Path | None
) -> list[str]:
    """Refuses synthetic volumes to train on whose model has seen a real test patient.

    Args:
        cases: of the set.
        part: of each, see `splits.Parts`.
        patients: how they are told from names.
        trained_on: list of all patients that the models were trained on; None: what their packages say.

    Returns:
        what the user should know: what was compared, what cannot be known, and real training patients that a model has
        seen, since folds are validated on them.

    Raises:
        BadInput: a test patient was seen, or the list cannot be read.
    """
    made: dict[_Generator, int] = {}
    for case, its in zip(cases, part, strict=True):
        if case.record is not None and its == TRAINING:
            files = tuple(sorted(case.model.get("files", {}).items()))
            generator = _Generator(case.model["id"], case.model["version"], files)
            made[generator] = made.get(generator, 0) + 1
    real = [(case, its) for case, its in zip(cases, part, strict=True) if case.record is None]
    tested = [case for case, its in real if its == TEST]
    notes = []
    for generator, volumes in made.items():
        if not real:
            break
        told = f"'{generator.id}' {generator.version} ({counted(volumes, 'training volume')})"
        try:
            listed = training_list(trained_on) if trained_on is not None else _listed(generator)
        except ModelError as error:
            if tested:
                notes.append(f"whether {told} has seen a test patient is not known: {error.message}")
            continue
        table: Mapping[str, str] = patients.table or {}
        seen, whose = seen_patients([case for case, _ in real], listed, patients.pattern, table)
        if leaked := sorted(seen & {case.patient for case in tested}):
            raise BadInput(
                f"{counted(len(leaked), 'test patient')} {'is' if len(leaked) == 1 else 'are'} among those that the "
                f"model {told} was trained on, first '{shortened(leaked[0])}'",
                "Test on patients that no generator has seen (--test-patients), or leave its volumes out.",
            )
        if tested:
            notes.append(
                f"by the names, no test patient is among the {counted(len(listed), 'entry', 'entries')} of the "
                f"training list of {told}; names there are like '{shortened(listed[0].names[0])}'"
            )
            own = {case.name: spellings([case.name, case.patient]) for case in tested}
            notes += perhaps_sentences(perhaps_same(own, whose), "on the list")
        if seen:
            notes.append(
                f"{counted(len(seen), 'real patient')} outside of the test part {'was' if len(seen) == 1 else 'were'} "
                f"trained on by {told}: what is validated on them is not of patients that nothing has seen"
            )
    return notes


def _listed(generator: _Generator) -> list[Listed]:
    """The patients that a model was trained on, by its installed package.

    Raises:
        ModelError: it is not installed, or not in this version, or says nothing.
    """
    from SynthDiffusionLib.models.folders import find_folder
    from SynthDiffusionLib.models.spec import SPEC_NAME, read_spec

    folder, _ = find_folder(generator.id)
    spec = read_spec(folder)
    own = {f.path: f.sha256 for f in spec.files}
    if not generator.files or any(own.get(path) != digest for path, digest in generator.files):
        raise ModelError("the installed model of this name has other weights; --trained-on gives its list")
    try:
        return training_list(folder / SPEC_NAME)
    except BadInput as error:
        raise ModelError("its package has no list of training patients; --trained-on gives one") from error
