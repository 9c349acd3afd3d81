"""Whether the models that made synthetic volumes were trained on patients that a network is to be tested on."""

from __future__ import annotations

from collections import Counter
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
class Generator:
    """A model by which volumes of a set were made.

    Args:
        id, version: of the model.
        files: name and SHA-256 of its weights.
    """

    id: str
    version: str
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Known:
    """What is known of the patients that a model was trained on.

    Args:
        listed: its training list; empty if that is not known.
        seen: real patients of the set that are on it.
        whose: the name on the list by each of its spellings.
        problem: why nothing is known.
    """

    listed: tuple[Listed, ...]
    seen: frozenset[str]
    whose: Mapping[str, str]
    problem: str = ""


def generators_of(cases: Sequence[SourceCase], patients: Patients, trained_on: Path | None) -> dict[Generator, Known]:
    """The models that made the synthetic volumes, with what is known of their training.

    Args:
        cases: of the set.
        patients: how they are told from names.
        trained_on: list of all patients that the models were trained on; None: what their packages say.

    Raises:
        BadInput: the list cannot be read.
    """
    real = [case for case in cases if case.record is None]
    found: dict[Generator, Known] = {}
    for generator in dict.fromkeys(_generator(case) for case in cases if case.record is not None):
        try:
            listed = training_list(trained_on) if trained_on is not None else _listed(generator)
        except ModelError as error:
            found[generator] = Known((), frozenset(), {}, error.message)
            continue
        seen, whose = seen_patients(real, listed, patients.pattern, patients.table or {})
        found[generator] = Known(tuple(listed), frozenset(seen), whose)
    return found


def check_generators(
    cases: Sequence[SourceCase], part: Sequence[str], generators: Mapping[Generator, Known]
) -> list[str]:
    """Refuses synthetic volumes to train on whose model has seen a real test patient.

    Args:
        cases: of the set.
        part: of each, see `splits.Parts`.
        generators: see `generators_of`.

    Returns:
        what the user should know: what was compared, what cannot be known, and real training patients that a model has
        seen, since folds are validated on them.

    Raises:
        BadInput: a test patient was seen.
    """
    tested = [case for case, its in zip(cases, part, strict=True) if its == TEST]
    made = Counter(
        _generator(case) for case, its in zip(cases, part, strict=True) if case.record is not None and its == TRAINING
    )
    notes = []
    for generator, volumes in made.items():
        told = f"'{generator.id}' {generator.version} ({counted(volumes, 'training volume')})"
        known = generators[generator]
        if known.problem:
            if tested:
                notes.append(f"whether {told} has seen a test patient is not known: {known.problem}")
            continue
        if leaked := sorted(known.seen & {case.patient for case in tested}):
            raise BadInput(
                f"{counted(len(leaked), 'test patient')} {'is' if len(leaked) == 1 else 'are'} among those that the "
                f"model {told} was trained on, first '{shortened(leaked[0])}'",
                "Test on patients that no generator has seen (--test-real draws them), or leave its volumes out.",
            )
        if tested:
            notes.append(
                f"by the names, no test patient is among the {counted(len(known.listed), 'entry', 'entries')} of the "
                f"training list of {told}; names there are like '{shortened(known.listed[0].names[0])}'"
            )
            own = {case.name: spellings([case.name, case.patient]) for case in tested}
            notes += perhaps_sentences(perhaps_same(own, known.whose), "on the list")
        if seen := len(known.seen):
            notes.append(
                f"{counted(seen, 'real patient')} outside of the test part {'was' if seen == 1 else 'were'} trained on "
                f"by {told}: what is validated on them is not of patients that nothing has seen"
            )
    return notes


def _generator(case: SourceCase) -> Generator:
    return Generator(case.model["id"], case.model["version"], tuple(sorted(case.model.get("files", {}).items())))


def _listed(generator: Generator) -> list[Listed]:
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
