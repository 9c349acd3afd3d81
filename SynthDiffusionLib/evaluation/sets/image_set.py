"""A folder of volumes as a set that can be measured: one spacing, one orientation, one intensity range, patients told.

Files that cannot be read are left out, named and counted; what would make two sets incomparable (another spacing,
another modality, a patient in both) is refused.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput, SynthDiffusionError
from SynthDiffusionLib.training import mr_intensity
from SynthDiffusionLib.training.prepare import READABLE_SUFFIXES, case_name
from SynthDiffusionLib.volumes import Volume, read_volume, reorient, resample_to, resample_volume, same_grid

FEWEST_CASES = 10
ORIENTATION = "LPS"
SAME_SPACING = 0.01  # relative difference up to which two spacings are one
RANGES = {"CT": (-1000.0, 1000.0), "MR": (0.0, 1000.0)}
UNITS = {"CT": "HU", "MR": "arbitrary"}
LOWEST_OF_CT = -200.0  # of the first percentile: images of the body that reach below are taken for CT
MEMORY_SHARE = 0.5  # of the free memory that all sets together may take
# What `synthdiffusion generate` adds to the name of a case.
MADE = re.compile(r"^(?P<case>.+?)_[A-Za-z0-9.-]+_seed\d+(?:_inpainted)?$")


@dataclass(frozen=True)
class Frame:
    """How every volume of every set is brought to one form before anything is measured.

    Args:
        modality: "CT" (HU) or "MR".
        spacing_mm: (3,) along i, j, k in the orientation LPS; None keeps the volumes' own, which must be one.
        intensity_range: values are clipped to it; HU, or for MR the scale of `training.mr_intensity`.
        normalise: MR only: bring each volume to that scale by its own percentiles. False for volumes that are on one
            scale already, such as those of a prepared data set.
    """

    modality: str
    spacing_mm: tuple[float, float, float] | None
    intensity_range: tuple[float, float]
    normalise: bool = True

    def to_json(self) -> dict[str, Any]:
        """For the results."""
        return {
            "modality": self.modality,
            "unit": UNITS[self.modality],
            "spacing_mm": list(self.spacing_mm) if self.spacing_mm else None,
            "intensity_range": list(self.intensity_range),
            "normalised_by_percentiles": self.modality == "MR" and self.normalise,
            "orientation": ORIENTATION,
        }


@dataclass(frozen=True)
class SetCase:
    """One volume of a set.

    Args:
        name: file name without suffix.
        patient: the unit of every interval, split and fold; of a synthetic volume, whose mask it was made for.
        file: its path.
        sha256: of the file.
        image: (I, J, K) float32, in the set's frame.
        labels: (I, J, K) uint16 on the same grid, or None.
        affine: (4, 4) of both, RAS mm.
    """

    name: str
    patient: str
    file: Path
    sha256: str
    image: np.ndarray
    labels: np.ndarray | None
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        return tuple(float(n) for n in np.linalg.norm(self.affine[:3, :3], axis=0))


@dataclass(frozen=True)
class ImageSet:
    """The volumes of one folder.

    Args:
        role: what it is in the results: "real", "synthetic", "training", "validation", ...
        folder: of the images.
        cases: those that could be read, in order of their names.
        skipped: {"file", "reason"} of those that could not.
        frame: of all of them.
        classes: name of each label value, where label maps were given.
    """

    role: str
    folder: Path
    cases: tuple[SetCase, ...]
    skipped: tuple[Mapping[str, str], ...]
    frame: Frame
    classes: Mapping[int, str]

    @property
    def patients(self) -> list[str]:
        """The patient of each case."""
        return [case.patient for case in self.cases]

    def summary(self) -> dict[str, Any]:
        """What the results say about the set; no path, since results are passed on."""
        return {
            "role": self.role,
            "volumes": len(self.cases),
            "patients": len(set(self.patients)),
            "skipped": [dict(s) for s in self.skipped],
            "sha256": hashlib.sha256("".join(sorted(c.sha256 for c in self.cases)).encode()).hexdigest(),
        }


def read_set(
    role: str,
    images: Path,
    frame: Frame,
    *,
    labels: Path | None = None,
    classes: Mapping[int, str] | None = None,
    patient_pattern: str | None = None,
    patients: Path | None = None,
    least: int = FEWEST_CASES,
    on_event: Callable[[dict], None] = lambda event: None,
) -> ImageSet:
    """Reads all volumes of a folder.

    Args:
        role: see `ImageSet`.
        images: folder of NIfTI, NRRD or MetaImage files; hidden files and other suffixes are passed over.
        frame: what they are brought to.
        labels: folder of label maps; the one of a case has its name, or for a file that `synthdiffusion generate`
            wrote, the name of the segmentation that it was made for.
        classes: name of each label value; "class 1", ... where None.
        patient_pattern: regular expression whose first group is the patient of a case name; by default the whole
            name, less what `synthdiffusion generate` adds to it.
        patients: a CSV file with the columns `case` and `patient`, instead of a pattern.
        least: volumes that must be left.
        on_event: called with progress events, and a warning for each file that is left out.

    Raises:
        BadInput: no folder, no files, a case without a patient, fewer than `least` volumes, volumes of different
            spacing, or more voxels than fit into memory.
    """
    images = Path(images)
    files = _files(images, role)
    of_labels = _files(Path(labels), f"{role} label maps") if labels is not None else {}
    table = _patient_table(patients) if patients is not None else None
    cases: list[SetCase] = []
    skipped: list[dict[str, str]] = []
    size = 0
    for number, (name, path) in enumerate(files.items()):
        on_event({"event": "progress", "stage": f"reading {role}", "step": number, "total": len(files)})
        patient = _patient(name, patient_pattern, table)
        try:
            label_file = None
            if labels is not None:
                label_file = of_labels.get(name) or of_labels.get(base_name(name))
                if label_file is None:
                    raise BadInput(f"it has no label map in '{labels}'")
            case = _read_case(name, patient, path, label_file, frame)
        except (SynthDiffusionError, OSError, ValueError, MemoryError) as error:
            reason = error.message if isinstance(error, SynthDiffusionError) else f"{type(error).__name__}: {error}"
            skipped.append({"file": path.name, "reason": reason})
            on_event({"event": "warning", "message": f"{path.name} is left out: {reason}"})
            continue
        cases.append(case)
        size += case.image.nbytes + (case.labels.nbytes if case.labels is not None else 0)
        _check_memory(size / len(cases) * len(files))
    if len(cases) < least:
        left = f", {len(skipped)} could not be read" if skipped else ""
        raise BadInput(
            f"The {role} set in '{images}' has {len(cases)} usable volumes{left}; fewer than {least} say nothing",
            "Give a folder with more volumes."
            + (f" First left out: {skipped[0]['file']}: {skipped[0]['reason']}" if skipped else ""),
        )
    found = sorted({int(v) for c in cases if c.labels is not None for v in np.unique(c.labels)} - {0})
    names = {v: (classes or {}).get(v, f"class {v}") for v in sorted({*found, *(classes or {})})}
    whole = ImageSet(role, images, tuple(cases), tuple(skipped), frame, names)
    _check_spacing([whole])
    return whole


def base_name(name: str) -> str:
    """A case's name without what `synthdiffusion generate` adds to it (`_MODEL_seedN`)."""
    made = MADE.match(name)
    return made["case"] if made else name


def guess_modality(images: Path) -> str:
    """ "CT" or "MR", from the darkest percentile of up to five volumes of a folder: CT holds air, at -1000 HU.

    Raises:
        BadInput: none can be read, or they disagree.
    """
    votes = []
    for path in list(_files(Path(images), "given").values()):
        try:
            array = read_volume(path).array
        except (SynthDiffusionError, OSError, ValueError):
            continue
        votes.append("CT" if np.percentile(array, 1) < LOWEST_OF_CT else "MR")
        if len(votes) == 5:
            break
    if not votes:
        raise BadInput(f"No volume in '{images}' can be read", "Give a folder of NIfTI, NRRD or MetaImage files.")
    if len(set(votes)) > 1:
        raise BadInput(
            f"Some volumes in '{images}' look like CT in HU and some do not", "Say which with --modality CT or MR."
        )
    return votes[0]


def frame_of(
    folders: Mapping[str, Path],
    modality: str | None,
    spacing_mm: Sequence[float] | None,
    intensity_range: tuple[float, float] | None,
    normalise: bool = True,
) -> Frame:
    """The frame of several folders.

    Args:
        folders: by role.
        modality: "CT" or "MR"; guessed where None, and then the folders must agree.
        spacing_mm: common spacing that volumes are resampled to; None keeps their own.
        intensity_range: by default `RANGES` of the modality.

    Raises:
        BadInput: folders of different modalities, or settings out of range.
    """
    if modality is None:
        guesses = {role: guess_modality(folder) for role, folder in folders.items()}
        if len(set(guesses.values())) > 1:
            told = ", ".join(f"{role} looks like {'CT' if g == 'CT' else 'MR (no HU)'}" for role, g in guesses.items())
            raise BadInput(f"The sets are of different modalities: {told}", "Compare sets of one modality.")
        modality = next(iter(guesses.values()))
    if modality not in RANGES:
        raise BadInput(f"'{modality}' is no modality", "Give --modality CT or MR.")
    low, high = intensity_range or RANGES[modality]
    if not (np.isfinite([low, high]).all() and low < high):
        raise BadInput(f"{low:g} to {high:g} is no intensity range", "Give --range LOW,HIGH with LOW below HIGH.")
    if spacing_mm is not None and not all(0 < s < 1000 for s in spacing_mm):
        raise BadInput("The spacing must be above 0 mm", "Give --spacing 1 or 1x1x2.")
    return Frame(modality, tuple(spacing_mm) if spacing_mm is not None else None, (low, high), normalise)


def check_comparable(*sets: ImageSet) -> None:
    """Refuses sets whose volumes have different spacings.

    Raises:
        BadInput: with the two spacings, and the file that has the second.
    """
    _check_spacing(sets)


def check_apart(one: ImageSet, other: ImageSet) -> None:
    """Refuses two sets that must not share patients or files.

    Raises:
        BadInput: they do; naming the first.
    """
    shared = sorted(set(one.patients) & set(other.patients))
    if shared:
        raise BadInput(
            f"{len(shared)} patients are in the {one.role} and in the {other.role} set, first '{shared[0]}'",
            "Give sets of different patients; if their names only look alike, give --patient-pattern or --patients.",
        )
    files = {c.sha256: c.file.name for c in one.cases}
    same = next((c for c in other.cases if c.sha256 in files), None)
    if same is not None:
        raise BadInput(
            f"'{same.file.name}' of the {other.role} set is the same file as '{files[same.sha256]}' of the {one.role}",
            "Give sets of different patients.",
        )


def check_unseen(tested: ImageSet, trained_on: Path) -> int:
    """Refuses patients that a generator or segmenter was trained on.

    Args:
        tested: the set that figures are measured on.
        trained_on: a `model.json` or `dataset.json` with a split, a CSV with a column `patient` (or `case`), or a text
            file with a patient a line.

    Returns:
        how many patients the list names.

    Raises:
        BadInput: one of them is in `tested`, or the file cannot be read.
    """
    seen = _training_list(Path(trained_on))
    if not seen:
        raise BadInput(f"'{trained_on}' names no patient", "Give a list with a patient a line.")
    leaked = sorted({c.patient for c in tested.cases if {c.patient, c.name, base_name(c.name)} & seen})
    if leaked:
        raise BadInput(
            f"{len(leaked)} patients of the {tested.role} set are in the training list '{Path(trained_on).name}', "
            f"first '{leaked[0]}'",
            "Evaluate on patients that no training has seen.",
        )
    return len(seen)


def parse_classes(text: str) -> dict[int, str]:
    """Names of label values from "1=liver,2=spleen", or from a CSV file with the columns `value` (or `id`) and `name`.

    Raises:
        BadInput: neither.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    if all(value.strip().isdigit() and name.strip() for value, _, name in pairs):
        return {int(value): name.strip() for value, _, name in pairs}
    try:
        with Path(text).open(newline="", encoding="utf-8-sig") as stream:
            rows = [{k.strip().lower(): (v or "").strip() for k, v in r.items() if k} for r in csv.DictReader(stream)]
        return {int(next(r[k] for k in ("value", "id", "label", "index") if r.get(k))): r["name"] for r in rows}
    except (OSError, ValueError, KeyError, StopIteration, AttributeError) as error:
        raise BadInput(
            f"'{text}' names no classes", "Give --classes 1=liver,2=spleen or a CSV file with the columns value, name."
        ) from error


def only_patients(whole: ImageSet, patients: Sequence[str]) -> ImageSet:
    """The part of a set that is of some patients."""
    wanted = set(patients)
    return replace(whole, cases=tuple(c for c in whole.cases if c.patient in wanted))


def _files(folder: Path, role: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise BadInput(f"The folder of the {role} set, '{folder}', does not exist", "Give a folder of volumes.")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or not path.name.lower().endswith(READABLE_SUFFIXES):
            continue
        other = files.setdefault(case_name(path.name), path)
        if other != path:
            raise BadInput(f"'{other.name}' and '{path.name}' in '{folder}' are of one case", "Remove one of the two.")
    if not files:
        raise BadInput(
            f"No volume in '{folder}'", f"Expected files that end in {', '.join(READABLE_SUFFIXES)}, one a case."
        )
    return files


def _read_case(name: str, patient: str, path: Path, label_file: Path | None, frame: Frame) -> SetCase:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    image = read_volume(path, UNITS[frame.modality])
    image = image.with_array(image.array.astype(np.float32))
    labels = read_volume(label_file, "label") if label_file is not None else None
    if labels is not None and not same_grid(image.shape, image.affine, labels.shape, labels.affine):
        raise BadInput("its label map is on another grid")
    if frame.modality == "MR" and frame.normalise:
        scale = mr_intensity.percentile_range(image.array, path.name)
        image = image.with_array(mr_intensity.to_scale(image.array, *scale).astype(np.float32))
    image = reorient(image, ORIENTATION)
    labels = reorient(labels, ORIENTATION) if labels is not None else None
    if frame.spacing_mm is not None:
        image = resample_volume(image, frame.spacing_mm)
        labels = resample_to(labels, image.shape, image.affine) if labels is not None else None
    array = np.clip(image.array, *frame.intensity_range).astype(np.float32)
    classes = labels.array.astype(np.uint16) if isinstance(labels, Volume) else None
    return SetCase(name, patient, path, digest, array, classes, image.affine)


def _patient(name: str, pattern: str | None, table: Mapping[str, str] | None) -> str:
    if table is not None:
        found = table.get(name) or table.get(base_name(name))
        if not found:
            raise BadInput(f"The table of patients has no case '{name}'", "Add it to the file given with --patients.")
        return found
    if pattern is None:
        return base_name(name)
    from SynthDiffusionLib.training.prepare import patient_of

    return patient_of(name, pattern)


def _patient_table(path: Path) -> dict[str, str]:
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as stream:
            return {row["case"].strip(): row["patient"].strip() for row in csv.DictReader(stream)}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(
            f"'{path}' is no table of patients", "Give --patients a CSV file with the columns case and patient."
        ) from error


def _training_list(path: Path) -> set[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return _split_of(json.loads(text))
        if path.suffix.lower() == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
            return {row[key].strip() for row in rows for key in ("patient", "case") if row.get(key)}
        return {line.strip() for line in text.splitlines() if line.strip()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadInput(
            f"The training list '{path}' cannot be read", "Give a model.json, a dataset.json, a CSV or a text file."
        ) from error


def _split_of(content: Mapping[str, Any]) -> set[str]:
    if "training" in content:  # model.json: cases or patients
        split, cases = content["training"]["split"], {}
    else:  # dataset.json
        split, cases = content["split"], content["cases"]
    names = {str(n) for part in ("train", "validation") for n in split.get(part, ())}
    return names | {cases[n]["patient"] for n in names if n in cases}


def _check_spacing(sets: Sequence[ImageSet]) -> None:
    first = next(c for s in sets for c in s.cases)
    for one in sets:
        for case in one.cases:
            if not np.allclose(case.spacing, first.spacing, rtol=SAME_SPACING):
                told = [" x ".join(f"{mm:.3g}" for mm in spacing) for spacing in (first.spacing, case.spacing)]
                raise BadInput(
                    f"The volumes have different spacings: '{first.file.name}' ({sets[0].role}) {told[0]} mm, "
                    f"'{case.file.name}' ({one.role}) {told[1]} mm",
                    "Give --spacing, which resamples all of them to one.",
                )


def _check_memory(wanted: float) -> None:
    import psutil

    free = psutil.virtual_memory().available
    if wanted > MEMORY_SHARE * free:
        raise BadInput(
            f"The set needs about {wanted / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free",
            "Give a coarser --spacing, or fewer volumes.",
        )
