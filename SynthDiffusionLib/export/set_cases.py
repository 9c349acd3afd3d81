"""The volumes of a training set: found, read once, checked, and with all by which they are told apart and together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, Cancelled, MissingExtra, SynthDiffusionError, escaped
from SynthDiffusionLib.evaluation.sets.case_file import check_values, first_percentile
from SynthDiffusionLib.evaluation.sets.image_set import volume_files
from SynthDiffusionLib.evaluation.sets.lists import base_name, patient_of_case, patient_table
from SynthDiffusionLib.evaluation.sets.training_lists import CHANNEL, spellings
from SynthDiffusionLib.export.dicom_marks import modality_of, weights_sha256
from SynthDiffusionLib.export.groups import Marks, mask_places, slice_digests
from SynthDiffusionLib.export.image_blocks import block_digests
from SynthDiffusionLib.export.on_grid import read_on_grid
from SynthDiffusionLib.export.set_classes import Part, parts_of
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.jobs.records import beside, check_header, record_of
from SynthDiffusionLib.volumes import read_volume
from SynthDiffusionLib.volumes.digests import voxels_sha256
from SynthDiffusionLib.volumes.header_texts import header_texts
from SynthDiffusionLib.volumes.marks import mention, own_mark

REAL, SYNTHETIC, INPAINTED = "real", "synthetic", "inpainted"
MOST_CHANNELS = 8  # of a case, by the numbers of its files
_WITHOUT_DRAWING = ("joint", "unconditional")  # modes whose case is not the name of a drawing

Event = Callable[[dict], None]


@dataclass(frozen=True)
class Patients:
    """How patients are told from the names of cases.

    Args:
        pattern: regular expression whose first group is the patient, or None.
        table: patient by case, or None.
    """

    pattern: str | None = None
    table: Mapping[str, str] | None = None

    @classmethod
    def of(cls, pattern: str | None, table: Path | None) -> Patients:
        """From the options `--patient-pattern` and `--patients`.

        Raises:
            BadInput: no regular expression, or one without a group; no table.
        """
        if pattern is not None:
            _check_pattern(pattern)
        return cls(pattern, patient_table(table) if table is not None else None)


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise BadInput(
            f"--patient-pattern {pattern!r} is no regular expression: {error}",
            "Give one whose first group is the patient, such as '(P[0-9]+)'.",
        ) from error
    if not groups:
        raise BadInput(
            f"--patient-pattern {pattern!r} has no group",
            "Put what stands for the patient in brackets, such as '(P[0-9]+)'.",
        )


@dataclass(frozen=True)
class SourceCase:
    """A volume that goes into a training set.

    Args:
        name: its file's, without suffix and channel.
        kind: "real", "synthetic" or "inpainted".
        patient: whose image it is, or whose mask it was made from, by its name; "" of nobody.
        image: its file.
        label: file of its label map, or None.
        record: of `generate`, or None if it is real.
        sha256: of the image's file.
        label_sha256: of the label map's file, "" without one.
        parts: segments of the label map that have voxels.
        marks: what it is recognised by.
        darkest: smallest of its values, and their first percentile.
        notes: what the user should know about it.
        channel: it is taken for one of several channels of nnU-Net, all of one patient.
        mention: field of a real volume's header that says "synthetic", though not that it was made here; "" if none.
        mask_places: layer and value of each mask by its digest; None: all classes together.
    """

    name: str
    kind: str
    patient: str
    image: Path
    label: Path | None
    record: Mapping[str, Any] | None
    sha256: str
    label_sha256: str
    parts: tuple[Part, ...]
    marks: Marks
    darkest: tuple[float, float]
    notes: tuple[str, ...] = ()
    channel: bool = False
    mention: str = ""
    mask_places: Mapping[str, tuple[int, int] | None] = field(default_factory=dict)

    @property
    def modality(self) -> str | None:
        """ "CT" or "MR", as the record says; None of a real volume."""
        return modality_of(self.record) if self.record is not None else None

    @property
    def model(self) -> Mapping[str, Any]:
        """Of the record; empty for a real volume."""
        return self.record["model"] if self.record is not None else {}

    @property
    def mode(self) -> str:
        """In which it was generated; "" of a real volume."""
        return self.record["settings"]["mode"] if self.record is not None else ""


def read_cases(
    real: tuple[Path, Path | None] | None,
    synthetic: tuple[Path, Path | None] | None,
    patients: Patients,
    *,
    need_labels: bool,
    skip_unusable: bool = False,
    on_event: Event = lambda event: None,
) -> tuple[list[SourceCase], list[dict[str, str]]]:
    """Reads all volumes of two folders with their label maps.

    Args:
        real: folder of images, and that of their label maps.
        synthetic: folder that `generate` has written into, and that of the drawings; None: those beside the volumes.
        patients: how they are told.
        need_labels: whether a volume without a label map is unusable.
        skip_unusable: leave unusable volumes out, instead of refusing them.
        on_event: is told the progress, and what is left out.

    Returns:
        the volumes, real ones first, and {"file", "reason"} of those that were left out.

    Raises:
        BadInput: no volumes, or unusable ones.
    """
    wanted = [(is_real, *folders) for is_real, folders in ((True, real), (False, synthetic)) if folders is not None]
    found: list[SourceCase] = []
    unusable: list[dict[str, str]] = []
    for is_real, images, labels in wanted:
        role = "real" if is_real else "synthetic"
        files, odd = volume_files(images, role)
        unusable += odd
        of_labels = _label_files(images, labels, role)
        channels = _channels(files) if is_real and patients.pattern is None and patients.table is None else {}
        for number, (name, path) in enumerate(files.items(), 1):
            on_event({"event": "progress", "stage": f"reading {role} volumes", "step": number, "total": len(files)})
            try:
                found.append(_case(name, path, of_labels, is_real, patients, need_labels, channels.get(name)))
            except (Cancelled, MissingExtra):
                raise
            except (SynthDiffusionError, OSError, ValueError, MemoryError) as error:
                unusable.append({"file": path.name, "reason": _reason(error, path)})
    if unusable and not skip_unusable:
        more = f", and {len(unusable) - 1} more" if len(unusable) > 1 else ""
        raise BadInput(
            f"'{escaped(unusable[0]['file'])}' cannot be used: {unusable[0]['reason']}{more}",
            "Mend or remove what cannot be used, or give --skip-unusable.",
        )
    for entry in unusable:
        message = f"'{escaped(entry['file'])}' is left out: {entry['reason']}"
        on_event({"event": "warning", "message": message})
    if not found:
        raise BadInput("No volume can be used", f"First left out: {unusable[0]['reason']}." if unusable else "")
    return found, unusable


def _case(
    name: str,
    path: Path,
    of_labels: Mapping[str, Path] | None,
    is_real: bool,
    patients: Patients,
    need_labels: bool,
    channel_of: str | None,
) -> SourceCase:
    volume = read_volume(path)
    check_values(volume.array, path.name)
    record = None
    if not is_real:
        record = record_of(path, None)
        modality_of(record)
        check_header(record, volume.metadata, path.name)
        said = ""
    else:
        said = _mention(path)
    label = _label_of(name, path, of_labels, record, channel_of)
    if label is None and need_labels:
        raise BadInput("it has no label map")
    notes: list[str] = []
    parts: tuple[Part, ...] = ()
    masks: dict[str, tuple[int, int] | None] = {}
    if label is not None:
        try:
            segmentation, _ = read_on_grid(label, volume, record)
        except BadInput as error:  # whose file may have the name of the image's
            raise BadInput(f"label map {error.message}", error.hint) from error
        label_sha256 = sha256_of(label)
        known = (record or {}).get("inputs", {}).get("segmentation_sha256")
        if known not in (None, label_sha256):
            notes.append(f"'{label.name}' is not the file that '{path.name}' was made from, according to its record")
        parts = parts_of(segmentation, record if known == label_sha256 else None)
        masks = mask_places(segmentation)
    case = name.removesuffix(CHANNEL)
    patient = _patient(channel_of or case, record, patients, notes)
    sha256 = sha256_of(path)
    sums = {sha256, voxels_sha256(volume)}
    mask_files = {label_sha256} if parts else set()
    if record is not None:
        source = record.get("source", {})
        inputs = dict(record.get("inputs", {}))
        if "segmentation_sha256" in inputs:
            mask_files.add(inputs.pop("segmentation_sha256"))
        sums |= {*inputs.values(), record.get("generated_sha256") or sha256, *source.get("files", ())}
        sums |= {source[name] for name in ("key", "voxels_sha256") if name in source}
    kind = REAL if is_real else INPAINTED if record["contains_real_patient_pixels"] else SYNTHETIC
    names = frozenset(spellings([patient]) if patient else ())
    marks = Marks(
        names,
        frozenset(sums),
        frozenset(masks),
        slice_digests(volume),
        block_digests(volume),
        frozenset(mask_files),
        _noise(record),
        is_real,
    )
    return SourceCase(
        case,
        kind,
        patient,
        path,
        label,
        record,
        sha256,
        label_sha256 if label is not None else "",
        parts,
        marks,
        (float(volume.array.min()), first_percentile(volume.array)),
        tuple(notes),
        channel_of is not None,
        said,
        masks,
    )


def _noise(record: Mapping[str, Any] | None) -> frozenset[str]:
    """What a volume without a drawing was made from: model, weights, mode, seed. Other steps give nearly the same."""
    if record is None or record["settings"]["mode"] not in _WITHOUT_DRAWING:
        return frozenset()
    model, settings = record["model"], record["settings"]
    weights = weights_sha256(record)
    return frozenset([f"{model['id']} {model.get('version', '')} {weights} {settings['mode']} {settings['seed']}"])


def _mention(path: Path) -> str:
    """The field of a real volume's header that says "synthetic", or "".

    Raises:
        BadInput: it says that the volume was made here.
    """
    texts = header_texts(path)
    field = own_mark(texts)
    if field is not None:
        raise BadInput(f"its header says that it is synthetic ({field})", "Give it with --synthetic, with its record.")
    return mention(texts) or ""


def _channels(names: Iterable[str]) -> dict[str, str]:
    """The case of each file that is taken for a channel of nnU-Net: CASE_0000, CASE_0001, ... without a gap.

    More than `MOST_CHANNELS` are taken for cases that somebody has numbered.
    """
    numbered: dict[str, list[str]] = {}
    for name in names:
        if match := re.fullmatch(r"(.+)_(\d{4})", name):
            numbered.setdefault(match[1], []).append(match[2])
    return {
        f"{case}_{number}": case
        for case, numbers in numbered.items()
        if 2 <= len(numbers) <= MOST_CHANNELS and sorted(map(int, numbers)) == list(range(len(numbers)))
        for number in numbers
    }


def _label_files(images: Path, labels: Path | None, role: str) -> dict[str, Path] | None:
    """Label maps by case; None: none were given."""
    if labels is None:
        return None
    same = Path(labels).resolve() == Path(images).resolve()
    return volume_files(Path(labels), f"{role} label maps", labels=True, only_segmentations=same)[0]


def _label_of(
    name: str,
    path: Path,
    of_labels: Mapping[str, Path] | None,
    record: Mapping[str, Any] | None,
    channel_of: str | None,
) -> Path | None:
    """The label map of a volume: of its name, for a synthetic one of the name of what it was made for, or beside it."""
    if record is not None and record["settings"]["mode"] == "joint":
        made = beside(path, ".seg.nrrd")
        if made.is_file():
            return made
    if of_labels is None:
        return None
    names = [name, name.removesuffix(CHANNEL), *([channel_of] if channel_of else [])]
    if record is not None:
        names += [base_name(name), record["case"]]
    return next((of_labels[n] for n in names if n in of_labels), None)


def _patient(case: str, record: Mapping[str, Any] | None, patients: Patients, notes: list[str]) -> str:
    """Whose image or mask it is, by the names; a synthetic volume without a drawing is of nobody."""
    if record is None:
        return patient_of_case(case, patients.pattern, patients.table)
    if record["settings"]["mode"] in _WITHOUT_DRAWING:
        return ""
    try:
        return patient_of_case(record["case"], patients.pattern, patients.table)
    except BadInput:  # drawn by hand, perhaps; files and voxels tell what belongs to whom all the same
        notes.append(f"whose mask '{case}' was made from cannot be told by its name")
        return ""


def _reason(error: Exception, path: Path) -> str:
    text = error.message if isinstance(error, SynthDiffusionError) else str(error) or type(error).__name__
    return escaped(" ".join(text.split())).removeprefix(f"{path.name}: ")
