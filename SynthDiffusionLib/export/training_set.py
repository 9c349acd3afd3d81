"""A training set from real and synthetic volumes with label maps, split so that nothing leaks: Docs/DATASETS.md.

All files get their names together, as one new folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.evaluation.sets.image_set import LOWEST_OF_CT
from SynthDiffusionLib.evaluation.sets.training_lists import look_alike
from SynthDiffusionLib.export.generators import check_generators, generators_of
from SynthDiffusionLib.export.groups import Join, grouped, named_joins
from SynthDiffusionLib.export.manifest import Entry, mask_origins, write_manifest
from SynthDiffusionLib.export.set_cases import REAL, Patients, SourceCase, read_cases
from SynthDiffusionLib.export.set_classes import ClassTable, class_table
from SynthDiffusionLib.export.set_files import write_case
from SynthDiffusionLib.export.set_form import SetFacts, SetForm, safe_names
from SynthDiffusionLib.export.set_joins import generic_masks, generic_notes, why_together, with_classes
from SynthDiffusionLib.export.splits import LEFT_OUT, MOST_FOLDS, TEST, TRAINING, VALIDATION, Member, Parts, split
from SynthDiffusionLib.output_folders import move_into, staging_folder
from SynthDiffusionLib.reports.sections import counted
from SynthDiffusionLib.volumes.atomic import writing_error

LARGE_GROUP = 0.5  # share of the volumes in one group that is told

Event = Callable[[dict], None]


@dataclass(frozen=True)
class SetRequest:
    """What goes into a training set, and how it is split.

    Args:
        form: nnU-Net's, the Decathlon's or BIDS's.
        name: of the set.
        out: folder for the new folder; made if missing.
        real, real_labels: folders of real volumes and of their label maps.
        synthetic, synthetic_labels: folder that `generate` has written into, and that of the drawings.
        real_names, synthetic_names: names of label values that the files do not name.
        modality: "CT" or "MR"; None: as the records say, else as the values do.
        patients, patient_pattern: how patients are told from the names of cases, as in `evaluate`.
        test_real, test_patients: the test part: a number of real patients, or their names.
        validation: share of the volumes left that are validated on, for forms without folds.
        folds: for forms with folds.
        trained_on: list of patients that the models were trained on; None: what their packages say.
        seed: of all draws.
        skip_unusable: leave files out that cannot be used, instead of refusing them.
        all_classes: keep classes that no real label map has.
    """

    form: SetForm
    name: str
    out: Path
    real: Path | None = None
    real_labels: Path | None = None
    synthetic: Path | None = None
    synthetic_labels: Path | None = None
    real_names: Mapping[int, str] = field(default_factory=dict)
    synthetic_names: Mapping[int, str] = field(default_factory=dict)
    modality: str | None = None
    patients: Path | None = None
    patient_pattern: str | None = None
    test_real: int = 0
    test_patients: tuple[str, ...] = ()
    validation: float = 0.0
    folds: int = 0
    trained_on: Path | None = None
    seed: int = 2026
    skip_unusable: bool = False
    all_classes: bool = False


@dataclass(frozen=True)
class TrainingSet:
    """What was written.

    Args:
        folder: the new folder.
        entries: its volumes.
        groups: how many groups they are of.
        notes: what the user should know.
    """

    folder: Path
    entries: tuple[Entry, ...]
    groups: int
    notes: tuple[str, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Volumes by part and kind."""
        found: dict[str, dict[str, int]] = {}
        for part in (TRAINING, VALIDATION, TEST):
            of_part = Counter(e.kind for e in self.entries if e.part == part)
            if of_part:
                found[part] = dict(sorted(of_part.items()))
        return found


def export_training_set(request: SetRequest, on_event: Event = lambda event: None) -> TrainingSet:
    """Writes a training set.

    The same request gives the same files, byte for byte.

    Raises:
        BadInput: options or files that cannot be used, too few patients for the parts, a test patient that a generator
            has seen, or a folder that is there already.
        RunFailed: the disk is full.
    """
    _check(request)
    folder = Path(request.out).expanduser() / request.form.folder_name(request.name)
    _refuse_existing(folder)
    patients = Patients.of(request.patient_pattern, request.patients)
    cases, left_out = read_cases(
        (request.real, request.real_labels) if request.real is not None else None,
        (request.synthetic, request.synthetic_labels) if request.synthetic is not None else None,
        patients,
        need_labels=request.form.needs_labels,
        skip_unusable=request.skip_unusable,
        on_event=on_event,
    )
    modality = modality_of_set(cases, request.modality)
    classes = class_table(cases, request.real_names, request.synthetic_names, request.all_classes)
    groups, joins, generic = grouped([case.marks for case in cases])
    joins = with_classes(joins, cases, classes)
    generators = generators_of(cases, patients, request.trained_on)
    seen = {patient for known in generators.values() for patient in known.seen}
    parts = split(
        [Member(g, c.patient or c.name, c.kind == REAL) for g, c in zip(groups, cases, strict=True)],
        test_real=request.test_real,
        test_patients=request.test_patients,
        not_drawn={g for g, c in zip(groups, cases, strict=True) if c.kind == REAL and c.patient in seen},
        validation=request.validation if not request.form.takes_folds else 0.0,
        folds=request.folds if request.form.takes_folds else 0,
        seed=request.seed,
        why=why_together(joins, groups, cases),
    )
    notes = _notes(cases, groups, joins, parts, classes)
    notes += check_generators(cases, parts.part, generators)
    entries = _entries(cases, groups, parts)
    alike = generic_masks(generic, cases, [entry.case for entry in entries], classes)
    notes += generic_notes(alike)
    kept = [i for i, part in enumerate(parts.part) if part != LEFT_OUT]
    written = [entries[i] for i in kept]
    placed = [
        replace(entry, file=image, label=label if entry.source.label is not None else "")
        for entry, (image, label) in zip(written, request.form.places(written, modality), strict=True)
    ]
    counts = dict(sorted(Counter(e.kind for e in placed).items()))
    facts = SetFacts(request.name, modality, classes.values, parts.folds, counts)
    about: dict[str, Any] = {
        "name": request.name,
        "modality": modality,
        "classes": classes.values,
        "settings": {
            "seed": request.seed,
            "test_real": request.test_real,
            "test_patients": list(request.test_patients),
            "validation": request.validation,
            "folds": parts.folds,
        },
        "joins": named_joins(joins, [entry.case for entry in entries]),
        "generic_masks": alike,
        "held_back": [entries[i].case for i, part in enumerate(parts.part) if part == LEFT_OUT],
        "left_out": left_out,
    }
    with staging_folder(folder.parent) as staging:
        try:
            done = _write(staging / "new", placed, [classes.of[i] for i in kept], notes, on_event)
            request.form.describe(staging / "new", done, facts)
            write_manifest(staging / "new", done, about | {"notes": notes})
            _refuse_existing(folder)
            move_into(staging / "new", folder)
        except OSError as error:
            raise writing_error(error, folder) from error
    return TrainingSet(folder, tuple(done), len(set(groups)), tuple(notes))


def modality_of_set(cases: Sequence[SourceCase], given: str | None) -> str:
    """ "CT" or "MR": as given, as all records say, or as the values of the real volumes do.

    Raises:
        BadInput: they disagree, or it cannot be told.
    """
    first: dict[str, SourceCase] = {}
    for case in cases:
        if case.modality is not None:
            first.setdefault(case.modality, case)
    if len(first) > 1 or given is not None and first and given not in first:
        told = " and ".join(f"'{shortened(c.image.name)}' is {m}" for m, c in sorted(first.items()))
        raise BadInput(f"A training set is of one modality: {told}", "Export CT and MR one after the other.")
    modality = given or next(iter(first), None)
    real = [case for case in cases if case.kind == REAL]
    air = [case for case in real if case.darkest[1] < LOWEST_OF_CT]
    if modality is None:
        unclear = next((c for c in real if LOWEST_OF_CT <= c.darkest[1] < 0), None)
        if unclear is not None or 0 < len(air) < len(real):
            raise BadInput(
                "Whether the real volumes are CT or MR cannot be told from their values", "Say --modality CT or MR."
            )
        modality = "CT" if air else "MR"
    if modality == "MR" and air:
        raise BadInput(
            f"'{shortened(air[0].image.name)}' holds values like the air of a CT, and the set is MR",
            "Remove it, or say --modality CT.",
        )
    odd = [case for case in real if case.darkest[0] >= 0]
    if modality == "CT" and odd and any(case.darkest[1] < LOWEST_OF_CT for case in cases):
        raise BadInput(
            f"'{shortened(odd[0].image.name)}' is not in HU like the others: no value of it is below 0",
            "Convert it to HU, or remove it.",
        )
    return modality


def _check(request: SetRequest) -> None:
    if request.real is None and request.synthetic is None:
        raise BadInput("No volumes were given", "Give --real, --synthetic, or both.")
    for role, images, labels in (
        ("real", request.real, request.real_labels),
        ("synthetic", request.synthetic, request.synthetic_labels),
    ):
        if images is None and labels is not None:
            raise BadInput(f"--{role}-labels was given without --{role}", f"Give --{role}, the folder of the images.")
    if request.real is not None and request.real_labels is None and request.form.needs_labels:
        raise BadInput("--real was given without --real-labels", "Give the folder of the label maps.")
    if request.real is None and (request.test_real or request.test_patients):
        raise BadInput("A test part has real volumes only, and none were given", "Give --real.")
    if request.test_real and request.test_patients:
        raise BadInput("--test-real and --test-patients exclude each other", "Give one of them.")
    if request.test_real < 0:
        raise BadInput(f"--test-real is {request.test_real}", "Give a number of patients.")
    if not 0 <= request.validation < 1:
        raise BadInput(f"--validation is {request.validation:g}", "Give a share from 0 to below 1.")
    if request.form.takes_folds and not 2 <= request.folds <= MOST_FOLDS:
        raise BadInput(f"--folds is {request.folds}", f"Give a number from 2 to {MOST_FOLDS}.")


def _refuse_existing(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise BadInput(f"'{folder}' is there already", "Remove it, or choose another --out, --name or --id.")


def _entries(cases: Sequence[SourceCase], groups: Sequence[int], parts: Parts) -> list[Entry]:
    names = safe_names(case.name for case in cases)
    width = max(3, len(str(max(groups) + 1)))
    return [
        Entry(name, case, case.patient or name, f"g{group + 1:0{width}d}", part, fold, origin)
        for name, case, group, part, fold, origin in zip(
            names, cases, groups, parts.part, parts.fold, mask_origins(cases), strict=True
        )
    ]


def _write(
    folder: Path,
    entries: Sequence[Entry],
    values: Sequence[Mapping[tuple[int, int], int]],
    notes: list[str],
    on_event: Event,
) -> list[Entry]:
    """Writes all volumes; what was written."""
    done: list[Entry] = []
    facts: list[Mapping[str, object]] = []
    for number, (entry, of_case) in enumerate(zip(entries, values, strict=True), 1):
        on_event({"event": "progress", "stage": "writing volumes", "step": number, "total": len(entries)})
        image, label = folder / entry.file, folder / entry.label if entry.label else None
        for path in (image, label):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
        facts.append(write_case(entry.source, of_case, image, label))
        sums = {key: str(facts[-1][key]) for key in ("sha256", "label_sha256")}
        done.append(replace(entry, **sums))
        if facts[-1]["source_sha256"] != entry.source.sha256:
            raise BadInput(f"'{entry.source.image.name}' has changed while it was read", "Export again.")
    copied = sum(bool(f["copied"]) for f in facts)
    if copied < len(facts):
        notes.append(
            f"{len(facts) - copied} of {counted(len(facts), 'image')} written anew as .nii.gz, the others copied"
        )
    if sheared := [e.case for e, f in zip(done, facts, strict=True) if f["sheared"]]:
        notes.append(
            f"the axes of {counted(len(sheared), 'image')} are not at right angles, first '{sheared[0]}': ITK, and so "
            "nnU-Net's reader, refuses such a file"
        )
    return done


def _notes(
    cases: Sequence[SourceCase], groups: Sequence[int], joins: Sequence[Join], parts: Parts, classes: ClassTable
) -> list[str]:
    notes = [*classes.notes]
    told = Counter(note for case in cases for note in case.notes)
    if told:
        first = next(iter(told))
        notes.append(first + (f" (and {len(told) - 1} more such notes)" if len(told) > 1 else ""))
    notes += _notes_on_cases(cases)
    by_name = {case.patient.casefold() for case in cases if case.patient}
    hidden = [j for j in joins if cases[j.one].patient.casefold() != cases[j.other].patient.casefold()]
    both_real = [j for j in hidden if cases[j.one].kind == cases[j.other].kind == REAL]
    if both_real:
        one, other = cases[both_real[0].one], cases[both_real[0].other]
        notes.append(
            f"{counted(len(both_real), 'pair')} of real volumes with different names of patients {_belong(both_real)}, "
            f"first '{shortened(one.name)}' and '{shortened(other.name)}': {both_real[0].why}"
        )
    if len(hidden) > len(both_real):
        notes.append(
            f"{len(hidden) - len(both_real)} synthetic or inpainted volumes were found to belong to others by their "
            "files or voxels, not by their names (joins in manifest.json)"
        )
    sizes = Counter(groups)
    largest, size = sizes.most_common(1)[0]
    if size > LARGE_GROUP * len(cases) and len(by_name) > 1:
        why = Counter(j.why for j in joins if groups[j.one] == largest).most_common(1)
        notes.append(
            f"{size} of {counted(len(cases), 'volume')} belong to one group, mostly for '{why[0][0]}': they stay on "
            "one side of every split"
        )
    alike = look_alike({case.patient for case in cases if case.kind == REAL})
    if alike:
        name, other = next(iter(alike.items()))
        notes.append(
            f"{counted(len(alike), 'name')} of patients may stand for another patient of the set, first "
            f"'{shortened(name)}' and '{shortened(other)}': --patients or --patient-pattern says who is whose"
        )
    held = parts.part.count(LEFT_OUT)
    if held:
        notes.append(
            f"{counted(held, 'synthetic or inpainted volume')} of test or validation patients {_is(held)} not in the "
            "set (held_back in manifest.json)"
        )
    return notes


def _notes_on_cases(cases: Sequence[SourceCase]) -> list[str]:
    """What could not be compared, or was taken for something by its name."""
    notes = []
    if mentions := [case for case in cases if case.mention]:
        notes.append(
            f"the headers of {counted(len(mentions), 'real volume')} speak of something synthetic, first "
            f"'{shortened(mentions[0].name)}' ({shortened(mentions[0].mention)}): not a mark of SynthDiffusion; make "
            "sure that patients were imaged"
        )
    maskless = [c for c in cases if c.label is None and "segmentation_sha256" in (c.record or {}).get("inputs", {})]
    if maskless:
        notes.append(
            f"{counted(len(maskless), 'synthetic or inpainted volume')} came without the drawing, first "
            f"'{shortened(maskless[0].name)}', so that the shape of the mask was not compared: only names, and "
            "checksums of files, can tell whose it is (--synthetic-labels)"
        )
    if channels := [case for case in cases if case.channel]:
        notes.append(
            f"{counted(len(channels), 'real volume')} with names like '{shortened(channels[0].name)}' and the next "
            "numbers are taken for channels of one patient: --patients or --patient-pattern says if they are not"
        )
    return notes


def _belong(found: Sequence[object]) -> str:
    return "belongs together" if len(found) == 1 else "belong together"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"
