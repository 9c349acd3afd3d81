"""`synthdiffusion prepare`: images and masks to a training set with one geometry, class maps and a split by patient.

The training set is a folder that can be looked at in Slicer:

    dataset.json        classes, spacing, orientation, split by patient, checksums of the sources
    images/CASE.nii.gz  int16 HU (CT), or int16 on the scale of `mr_intensity` (MR)
    classes/CASE.nii.gz uint8 class map
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.output_folders import move_into, staging_folder
from SynthDiffusionLib.training import mr_intensity
from SynthDiffusionLib.training.coarse_anatomy import chest_class_map
from SynthDiffusionLib.training.file_labels import every_label, labels_of_file
from SynthDiffusionLib.training.fixed_size import cut_or_pad, window_start
from SynthDiffusionLib.training.limb_anatomy import limb_class_map
from SynthDiffusionLib.volumes import (
    Segmentation,
    Volume,
    read_segmentation,
    read_volume,
    reorient,
    resample_volume,
    write_volume,
)
from SynthDiffusionLib.volumes.atomic import atomic_file, writing_error

SPLITS = ("train", "validation", "test")
ORIENTATION = "LPS"  # of every case, whatever its file has: at generation the model's grid is brought to one too
SAME_SPACING = 0.01  # relative difference up to which the spacings of two files are one
READABLE_SUFFIXES = (".nii.gz", ".seg.nrrd", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")  # longer first: `case_name`


def _as_drawn(image: np.ndarray, labels: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """The classes of the file, where nothing is derived."""
    return labels.astype(np.uint8)


@dataclass(frozen=True)
class Anatomy:
    """How the classes of a scheme come from an image and its label map.

    Args:
        classes: name to value, as `class_map` makes them.
        targets: the classes that are drawn; the first one is the target of the data set.
        class_map: (voxels of the image, labels, spacing in mm of i, j, k) to a uint8 class map.
        unit: of the image: "HU" for CT, "arbitrary" for MR, which is brought to the scale of `mr_intensity`.
        labels: (segmentation, scheme, file name) to the uint8 labels that `class_map` gets.
    """

    classes: dict[str, int]
    targets: tuple[str, ...]
    class_map: Callable[[np.ndarray, np.ndarray, tuple[float, float, float]], np.ndarray]
    unit: str = "HU"
    labels: Callable[[Segmentation, LabelScheme, str], np.ndarray] = every_label

    @property
    def target(self) -> str:
        return self.targets[0]

    @property
    def drawn(self) -> str:
        """What the label maps hold, for messages: "nodule", or "anterior hippocampus or posterior hippocampus"."""
        return " or ".join(self.targets)


ANATOMIES = {
    "lung-nodule-ct": Anatomy(
        {"body": 1, "lung": 2, "bone": 3, "nodule": 4},
        ("nodule",),
        lambda hu, mask, spacing_mm: chest_class_map(hu, mask > 0),
    ),
    "limb-tumour-ct": Anatomy(
        {"body": 1, "fat": 2, "muscle": 3, "bone": 4, "tumour": 5},
        ("tumour",),
        lambda hu, mask, spacing_mm: limb_class_map(hu, mask > 0, spacing_mm),
    ),
    "limb-tumour-mr": Anatomy({"tumour": 1}, ("tumour",), _as_drawn, mr_intensity.UNIT),
    "hippocampus-mr": Anatomy(
        {"anterior hippocampus": 1, "posterior hippocampus": 2},
        ("anterior hippocampus", "posterior hippocampus"),
        _as_drawn,
        mr_intensity.UNIT,
        labels_of_file,
    ),
}


def anatomy_of(scheme: LabelScheme) -> Anatomy:
    """The anatomy whose classes are those of a label scheme.

    Raises:
        BadInput: there is none.
    """
    wanted = {c.name: c.value for c in scheme.condition_classes}
    for anatomy in ANATOMIES.values():
        if anatomy.classes == wanted:
            return anatomy
    known = "; ".join(f"{', '.join(a.classes)} ({name})" for name, a in ANATOMIES.items())
    raise BadInput(
        f"This label scheme has the classes {', '.join(wanted)}, but only these can be prepared: {known}",
        f"Use one of the schemes {', '.join(ANATOMIES)}.",
    )


def patient_of(case: str, pattern: str) -> str:
    """The patient that a case belongs to: the first group of `pattern` in the case's name."""
    try:
        match = re.match(pattern, case)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadInput(
            f"The patient pattern {pattern!r} is no regular expression: {error}",
            "Give --patient-pattern a regular expression whose first group is the patient.",
        ) from error
    if not match or not match.groups() or not match.group(1):
        raise BadInput(
            f"'{case}' does not match the patient pattern {pattern!r} from its first letter on",
            "Give --patient-pattern a regular expression that fits the beginning of the name, and whose first group is "
            "the patient; '.*' stands for whatever comes before it.",
        )
    return match.group(1)


def split_by_patient(cases: Sequence[str], sizes: Sequence[int], seed: int, pattern: str) -> dict[str, list[str]]:
    """Deals patients, never cases, into train, validation and test.

    The order is that of the SHA-256 of "seed:patient", which no library version or platform changes.

    Args:
        cases: case names.
        sizes: number of patients in train, validation and test; must add up to the number of patients.
        pattern: see `patient_of`.
    """
    by_patient: dict[str, list[str]] = {}
    for case in sorted(cases):
        by_patient.setdefault(patient_of(case, pattern), []).append(case)
    if sum(sizes) != len(by_patient) or any(n < 0 for n in sizes):
        raise BadInput(
            f"The split {tuple(sizes)} adds up to {sum(sizes)}, but there are {len(by_patient)} patients",
            "Give --split three numbers that add up to the number of patients.",
        )
    order = sorted(by_patient, key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).hexdigest())
    split, start = {}, 0
    for name, size in zip(SPLITS, sizes):
        split[name] = sorted(case for patient in order[start : start + size] for case in by_patient[patient])
        start += size
    return split


def case_name(file_name: str) -> str:
    """A file's name without its format's suffix; dots before that (as in DICOM UIDs) belong to the name."""
    for suffix in READABLE_SUFFIXES:
        if file_name.lower().endswith(suffix):
            return file_name[: -len(suffix)]
    return file_name


def find_pairs(images: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    """Case name to image and label file, matched by file name.

    Raises:
        BadInput: no folder, no files, two files of one name, or a file without a partner.
    """

    def by_stem(folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            raise BadInput(f"'{folder}' is not a folder", "Give the folder that holds the files.")
        files: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not path.name.lower().endswith(READABLE_SUFFIXES):
                continue
            other = files.setdefault(case_name(path.name), path)
            if other != path:
                raise BadInput(
                    f"'{other.name}' and '{path.name}' in '{folder}' are of the same case", "Remove one of the two."
                )
        return files

    image_files, label_files = by_stem(images), by_stem(labels)
    alone = sorted(set(image_files) ^ set(label_files))
    if alone:
        raise BadInput(
            f"{len(alone)} files have no partner of the same name in the other folder, first: '{alone[0]}'",
            "Every image needs a label map of the same name.",
        )
    if not image_files:
        raise BadInput(f"No readable image in '{images}'", f"Expected files ending in {', '.join(READABLE_SUFFIXES)}.")
    return {case: (image_files[case], label_files[case]) for case in image_files}


def prepare(
    images: Path,
    labels: Path,
    out: Path,
    scheme: LabelScheme,
    *,
    spacing_mm: float | Sequence[float] | None = 1.0,
    split: Sequence[int] | None = None,
    seed: int = 0,
    patient_pattern: str = r"([^_]+)",
    size: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Makes a training set from images with a label map per case.

    The scheme says which kind. CT: every non-zero label is the nodule or tumour, and the other classes are derived as
    in `coarse_anatomy` or `limb_anatomy`. MR: the image is brought to the scale of `mr_intensity`, and nothing is
    derived; every non-zero label is the tumour, or the label values are the classes (`file_labels`).

    Args:
        images: folder of volumes, CT in HU or MR. Which of the two they are cannot be told from the files.
        labels: folder of label maps of the same names.
        out: folder to be written, complete or not at all; must not hold another data set, nor images or classes of
            anything else.
        scheme: one of `ANATOMIES`.
        spacing_mm: of the training set: one number, one for each axis (L, P, S), or None to keep that of the cases.
        split: patients in train, validation and test; 70 %, 15 % and the rest by default.
        seed: of the split.
        patient_pattern: regular expression whose first group in a case's name is the patient.
        size: voxels along L, P and S that every case is cut or padded to, round its target (`fixed_size`), after
            resampling; None leaves each its own. Outside the volume is the image's smallest value, and class 0.

    Returns:
        Path of `dataset.json`.

    Raises:
        BadInput: an `out` that cannot be written to, no pairs, an empty mask, geometry that differs within a pair, a
            split that does not add up, a scheme that cannot be prepared, labels that are no class, an MR image without
            contrast, the same image under two patients, or a spacing that is to be kept and is not the same in all
            cases.
    """
    anatomy = anatomy_of(scheme)
    pairs = find_pairs(Path(images), Path(labels))
    patients = {patient_of(case, patient_pattern) for case in pairs}
    if split is None:
        n_train, n_val = round(0.7 * len(patients)), round(0.15 * len(patients))
        split = (n_train, n_val, len(patients) - n_train - n_val)
    dealt = split_by_patient(list(pairs), split, seed, patient_pattern)
    out = Path(out)
    if (out / "dataset.json").exists():
        raise BadInput(f"'{out}' already holds a data set", "Give another --out, or remove that folder first.")
    for folder in (out / "images", out / "classes"):
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise BadInput(
                f"'{folder}' is there already, and would be overwritten",
                "Give another --out, outside the folders of the images and labels.",
            )
    with staging_folder(out) as staging:
        keep = spacing_mm is None
        spacing = _common_spacing(pairs, anatomy.unit) if keep else tuple(np.broadcast_to(spacing_mm, 3).tolist())
        grid = _Grid(spacing, keep, None if size is None else tuple(int(n) for n in size))
        entries = _write_cases(pairs, staging, scheme, anatomy, grid, patient_pattern, on_progress)
        description = {
            "format": "synthdiffusion-dataset-1",
            "unit": anatomy.unit,
            "spacing_mm": spacing[0] if len(set(spacing)) == 1 else list(spacing),
            "orientation": ORIENTATION,
            "classes": anatomy.classes,
            "target": anatomy.target,
            **({"targets": list(anatomy.targets)} if len(anatomy.targets) > 1 else {}),
            **({"size": list(grid.size)} if grid.size is not None else {}),
            **({"normalisation": mr_intensity.DESCRIPTION} if anatomy.unit == mr_intensity.UNIT else {}),
            "split_seed": seed,
            "split": dealt,
            "cases": entries,
        }
        with atomic_file(staging / "dataset.json") as stream:
            stream.write((json.dumps(description, indent=1) + "\n").encode("utf-8"))
        moved: list[Path] = []
        try:
            for name in ("images", "classes", "dataset.json"):  # the last one makes it a data set
                move_into(staging / name, out / name)
                moved.append(out / name)
        except BaseException as error:
            for folder in moved[:2]:
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise writing_error(error, out / name) from error
            raise
    return out / "dataset.json"


@dataclass(frozen=True)
class _Grid:
    """What every case is brought to: the spacing in mm, or its own (`keep`) if they agree, and the size in voxels."""

    spacing_mm: tuple[float, float, float]
    keep: bool
    size: tuple[int, int, int] | None


def _common_spacing(pairs: dict[str, tuple[Path, Path]], unit: str) -> tuple[float, float, float]:
    """The spacing in mm that all images have in the training set's orientation, to a nanometre.

    Raises:
        BadInput: two images differ by more than `SAME_SPACING`.
    """
    first: tuple[str, np.ndarray] | None = None
    for image_file, _ in (pairs[case] for case in sorted(pairs)):
        spacing = np.asarray(reorient(read_volume(image_file, unit), ORIENTATION).spacing, float)
        if first is None:
            first = (image_file.name, spacing)
        elif np.any(np.abs(spacing - first[1]) > SAME_SPACING * first[1]):
            one, other = (" x ".join(f"{mm:.4g}" for mm in s) for s in (first[1], spacing))
            raise BadInput(
                f"The spacing cannot be kept: it is {one} mm in '{first[0]}' and {other} mm in '{image_file.name}'",
                "Give --spacing a number, or three such as 2x2x3.",
            )
    return tuple(round(float(mm), 6) for mm in first[1])


def _write_cases(
    pairs: dict[str, tuple[Path, Path]],
    folder: Path,
    scheme: LabelScheme,
    anatomy: Anatomy,
    grid: _Grid,
    patient_pattern: str,
    on_progress: Callable[[int, int], None],
) -> dict[str, dict[str, Any]]:
    """Writes `images` and `classes`; returns the "cases" of `dataset.json`."""
    for name in ("images", "classes"):
        (folder / name).mkdir()
    entries: dict[str, dict[str, Any]] = {}
    first: dict[str, tuple[str, str]] = {}  # by the image's voxels: patient and file
    for done, (case, (image_file, label_file)) in enumerate(sorted(pairs.items())):
        on_progress(done, len(pairs))
        patient = patient_of(case, patient_pattern)
        image, classes, facts, voxels = _prepared_case(case, image_file, label_file, scheme, anatomy, grid)
        other, other_file = first.setdefault(voxels, (patient, image_file.name))
        if other != patient:
            raise BadInput(
                f"'{other_file}' and '{image_file.name}' hold the same image, but are of the patients '{other}' and "
                f"'{patient}', who may be dealt into different parts",
                "Remove one of the two, or give a --patient-pattern that makes them one patient.",
            )
        write_volume(image, folder / "images" / f"{case}.nii.gz")
        write_volume(classes, folder / "classes" / f"{case}.nii.gz")
        entries[case] = {
            "patient": patient,
            "image_sha256": hashlib.sha256(image_file.read_bytes()).hexdigest(),
            "label_sha256": hashlib.sha256(label_file.read_bytes()).hexdigest(),
            **facts,
        }
    return entries


def _prepared_case(
    case: str, image_file: Path, label_file: Path, scheme: LabelScheme, anatomy: Anatomy, grid: _Grid
) -> tuple[Volume, Volume, dict[str, Any], str]:
    """Image (int16) and class map (uint8) of a case, what `dataset.json` says about it beyond its sources, and the
    SHA-256 of the source's voxels, which does not hang on the format of its file."""
    image = read_volume(image_file, anatomy.unit)
    drawn = read_segmentation(label_file)
    if image.shape != drawn.shape or not np.allclose(image.affine, drawn.affine, atol=1e-3):
        raise BadInput(f"'{image_file.name}' and its label map lie on different grids", "Resample one to the other.")
    labels = Volume(anatomy.labels(drawn, scheme, label_file.name), drawn.affine, "label")
    if not labels.array.any():
        raise BadInput(f"The label map of '{case}' is empty", f"Remove the case, or draw its {anatomy.drawn}.")
    facts: dict[str, Any] = {}
    if anatomy.unit == mr_intensity.UNIT:
        facts["intensity"] = list(mr_intensity.percentile_range(image.array, image_file.name))
        image = image.with_array(image.array.astype(np.float32))  # rounded once, after resampling and scaling
    image, labels = (reorient(v, ORIENTATION) for v in (image, labels))
    voxels = hashlib.sha256(f"{image.shape}".encode() + image.array.astype(np.float32).tobytes()).hexdigest()
    before = set(np.unique(labels.array).tolist())
    if not grid.keep:
        image, labels = (resample_volume(v, grid.spacing_mm) for v in (image, labels))
    lost = before - set(np.unique(labels.array).tolist()) - {0}
    if lost:
        spacing = grid.spacing_mm if len(set(grid.spacing_mm)) > 1 else grid.spacing_mm[:1]
        name = anatomy.target
        if len(anatomy.targets) > 1:  # else the labels are 1, whatever the target's value
            name = next(n for n, value in anatomy.classes.items() if value == min(lost))
        raise BadInput(
            f"The {name} of '{case}' vanishes at a spacing of {' x '.join(f'{mm:g}' for mm in spacing)} mm",
            "Give a smaller --spacing.",
        )
    if "intensity" in facts:
        image = image.with_array(mr_intensity.to_scale(image.array, *facts["intensity"]))
    else:
        image = image.with_array(np.rint(image.array).astype(np.int16))
    classes = Volume(anatomy.class_map(image.array, labels.array, grid.spacing_mm), image.affine, "label")
    if grid.size is not None:
        target = labels.array > 0
        start = window_start(target, grid.size)
        image = cut_or_pad(image, start, grid.size, int(image.array.min()))
        classes = cut_or_pad(classes, start, grid.size, 0)
        left = np.count_nonzero(cut_or_pad(labels, start, grid.size, 0).array)
        facts["cut_share"] = round(1 - left / np.count_nonzero(target), 6)
    return image, classes, facts, voxels
