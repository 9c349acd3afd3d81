"""`synthdiffusion prepare`: images and masks to a training set with one geometry, class maps and a split by patient.

The training set is a folder that can be looked at in Slicer:

    dataset.json        classes, spacing, orientation, split by patient, checksums of the sources
    images/CASE.nii.gz  int16 HU (CT)
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

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.output_folders import move_into, staging_folder
from SynthDiffusionLib.training.coarse_anatomy import chest_class_map
from SynthDiffusionLib.training.limb_anatomy import limb_class_map
from SynthDiffusionLib.volumes import Volume, read_segmentation, read_volume, reorient, resample_volume, write_volume
from SynthDiffusionLib.volumes.atomic import atomic_file, writing_error

SPLITS = ("train", "validation", "test")
ORIENTATION = "LPS"  # of every case, whatever its file has: at generation the model's grid is brought to one too
SAME_SPACING = 0.01  # relative difference up to which the spacings of two files are one
READABLE_SUFFIXES = (".nii.gz", ".seg.nrrd", ".nii", ".nrrd", ".mha", ".mhd")  # longer ones first: see `case_name`


@dataclass(frozen=True)
class Anatomy:
    """What can be derived from CT and one mask.

    Args:
        classes: name to value, as `class_map` makes them.
        target: the class that the mask is.
        class_map: (HU, mask, spacing in mm of i, j, k) to a uint8 class map.
    """

    classes: dict[str, int]
    target: str
    class_map: Callable[[np.ndarray, np.ndarray, tuple[float, float, float]], np.ndarray]


ANATOMIES = {
    "lung-nodule-ct": Anatomy(
        {"body": 1, "lung": 2, "bone": 3, "nodule": 4},
        "nodule",
        lambda hu, mask, spacing_mm: chest_class_map(hu, mask),
    ),
    "limb-tumour-ct": Anatomy(
        {"body": 1, "fat": 2, "muscle": 3, "bone": 4, "tumour": 5},
        "tumour",
        limb_class_map,
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
        f"This label scheme has the classes {', '.join(wanted)}, but only these can be derived from CT: {known}",
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
            f"'{case}' does not match the patient pattern {pattern!r}",
            "Give --patient-pattern a regular expression whose first group is the patient.",
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
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Makes a training set from CT with a mask of one nodule or tumour per case.

    Every non-zero label is the target; the other classes are derived as in `coarse_anatomy` or `limb_anatomy`,
    whichever has the classes of the scheme.

    Args:
        images: folder of CT volumes in HU.
        labels: folder of label maps of the same names.
        out: folder to be written, complete or not at all; must not hold another data set, nor images or classes of
            anything else.
        scheme: `lung-nodule-ct` or `limb-tumour-ct`.
        spacing_mm: of the training set: one number, one for each axis (L, P, S), or None to keep that of the cases.
        split: patients in train, validation and test; 70 %, 15 % and the rest by default.
        seed: of the split.
        patient_pattern: regular expression whose first group in a case's name is the patient.

    Returns:
        Path of `dataset.json`.

    Raises:
        BadInput: an `out` that cannot be written to, no pairs, an empty mask, geometry that differs within a pair, a
            split that does not add up, a scheme whose classes cannot be derived, or a spacing that is to be kept and
            is not the same in all cases.
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
        spacing = _common_spacing(pairs) if spacing_mm is None else tuple(np.broadcast_to(spacing_mm, 3).tolist())
        entries = _write_cases(pairs, staging, anatomy, spacing, spacing_mm is None, patient_pattern, on_progress)
        description = {
            "format": "synthdiffusion-dataset-1",
            "unit": "HU",
            "spacing_mm": spacing[0] if len(set(spacing)) == 1 else list(spacing),
            "orientation": ORIENTATION,
            "classes": anatomy.classes,
            "target": anatomy.target,
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


def _common_spacing(pairs: dict[str, tuple[Path, Path]]) -> tuple[float, float, float]:
    """The spacing in mm that all images have in the training set's orientation, to a nanometre.

    Raises:
        BadInput: two images differ by more than `SAME_SPACING`.
    """
    first: tuple[str, np.ndarray] | None = None
    for image_file, _ in (pairs[case] for case in sorted(pairs)):
        spacing = np.asarray(reorient(read_volume(image_file, unit="HU"), ORIENTATION).spacing, float)
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
    anatomy: Anatomy,
    spacing_mm: tuple[float, float, float],
    keep_grid: bool,
    patient_pattern: str,
    on_progress: Callable[[int, int], None],
) -> dict[str, dict[str, str]]:
    """Writes `images` and `classes`; returns the "cases" of `dataset.json`."""
    for name in ("images", "classes"):
        (folder / name).mkdir()
    entries = {}
    for done, (case, (image_file, label_file)) in enumerate(sorted(pairs.items())):
        on_progress(done, len(pairs))
        image = read_volume(image_file, unit="HU")
        target = read_segmentation(label_file)
        if image.shape != target.shape or not np.allclose(image.affine, target.affine, atol=1e-3):
            raise BadInput(
                f"'{image_file.name}' and its label map lie on different grids", "Resample one to the other."
            )
        target_mask = np.any([layer > 0 for layer in target.layers], axis=0)
        if not target_mask.any():
            raise BadInput(f"The label map of '{case}' is empty", f"Remove the case, or draw its {anatomy.target}.")
        mask = Volume(target_mask.astype(np.uint8), target.affine, "label")
        image, mask = (reorient(v, ORIENTATION) for v in (image, mask))
        if not keep_grid:
            image, mask = (resample_volume(v, spacing_mm) for v in (image, mask))
        if not mask.array.any():
            asked = " x ".join(f"{mm:g}" for mm in (spacing_mm if len(set(spacing_mm)) > 1 else spacing_mm[:1]))
            raise BadInput(
                f"The {anatomy.target} of '{case}' vanishes at a spacing of {asked} mm", "Give a smaller --spacing."
            )
        hu = np.rint(image.array).astype(np.int16)
        classes = anatomy.class_map(hu, mask.array > 0, spacing_mm)
        write_volume(Volume(hu, image.affine, "HU"), folder / "images" / f"{case}.nii.gz")
        write_volume(Volume(classes, image.affine, "label"), folder / "classes" / f"{case}.nii.gz")
        entries[case] = {
            "patient": patient_of(case, patient_pattern),
            "image_sha256": hashlib.sha256(image_file.read_bytes()).hexdigest(),
            "label_sha256": hashlib.sha256(label_file.read_bytes()).hexdigest(),
        }
    return entries
