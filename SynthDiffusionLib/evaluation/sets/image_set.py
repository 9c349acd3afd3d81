"""A folder of volumes as a set that can be measured: one spacing, one orientation, one intensity range, patients told.

Files that cannot be read are left out, named and counted; what would make two sets incomparable (another spacing,
another modality, a patient in both) is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.batch.store import batch_files, is_batch
from SynthDiffusionLib.errors import BadInput, Cancelled, MissingExtra, SynthDiffusionError, escaped
from SynthDiffusionLib.evaluation.sets.case_file import (
    ORIENTATION,
    RANGES,
    UNITS,
    Frame,
    Read,
    SetCase,
    SpacingFault,
    check_values,
    first_percentile,
    read_case,
)
from SynthDiffusionLib.evaluation.sets.lists import base_name, parse_classes, patient_of_case, patient_table
from SynthDiffusionLib.evaluation.sets.training_lists import check_unseen, perhaps_shared, shared_patients
from SynthDiffusionLib.reports.sections import counted
from SynthDiffusionLib.training.prepare import READABLE_SUFFIXES, case_name
from SynthDiffusionLib.volumes import read_volume

__all__ = [
    "FEWEST_CASES",
    "Frame",
    "ImageSet",
    "ORIENTATION",
    "RANGES",
    "SetCase",
    "UNITS",
    "base_name",
    "check_apart",
    "check_comparable",
    "check_unseen",
    "frame_of",
    "guess_modality",
    "only_patients",
    "parse_classes",
    "read_set",
    "same_images",
    "volume_files",
]

FEWEST_CASES = 10
SAME_SPACING = 0.01  # relative difference up to which two spacings are one
LOWEST_OF_CT = -200.0  # of the first percentile: images of the body that reach below are taken for CT
MEMORY_SHARE = 0.5  # of the free memory that one set may take
SPACINGS = (0.0001, 1000.0)  # mm, that can be asked for
SEGMENTATION = ".seg.nrrd"  # never an image


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
            "same_files": len(self.cases) - len({c.sha256 for c in self.cases}),
            "spacing_mm": [round(mm, 4) for mm in self.cases[0].spacing] if self.cases else None,
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
        images: folder of NIfTI, NRRD or MetaImage files; hidden files, other suffixes and .seg.nrrd are passed over.
        frame: what they are brought to.
        labels: folder of label maps; the one of a case has its name, or for a file that `synthdiffusion generate`
            wrote, the name of the segmentation that it was made for. The same folder as `images`: its .seg.nrrd files.
        classes: name of each label value, over those that .seg.nrrd files have; else "class 1", ... .
        patient_pattern: regular expression whose first group is the patient, matched with the case name less what
            `synthdiffusion generate` adds to it; by default that whole name.
        patients: a CSV file with the columns `case` and `patient`, instead of a pattern.
        least: volumes that must be left.
        on_event: called with progress events, and a warning for each file that is left out.

    Raises:
        BadInput: no folder, no files, a case without a patient, fewer than `least` volumes, volumes of different
            spacing, label values of different meaning, or more voxels than fit into memory.
    """
    images = Path(images)
    files, skipped = volume_files(images, role)
    of_labels: dict[str, Path] = {}
    if labels is not None:
        same = Path(labels).resolve() == images.resolve()
        of_labels = volume_files(Path(labels), f"{role} label maps", labels=True, only_segmentations=same)[0]
    for entry in skipped:
        on_event({"event": "warning", "message": f"{escaped(entry['file'])} is left out: {entry['reason']}"})
    table = patient_table(patients) if patients is not None else None
    whose = {name: patient_of_case(name, patient_pattern, table) for name in files}
    found: dict[str, Read] = {}

    def leave_out(name: str, reason: str) -> None:
        found.pop(name, None)
        skipped.append({"file": files[name].name, "reason": reason})
        on_event({"event": "warning", "message": f"{escaped(files[name].name)} is left out: {reason}"})

    size = 0
    of_spacing: dict[str, SpacingFault] = {}
    for number, (name, path) in enumerate(files.items()):
        on_event({"event": "progress", "stage": f"reading {role}", "step": number, "total": len(files)})
        try:
            label_file = None
            if labels is not None:
                label_file = of_labels.get(name) or of_labels.get(base_name(name))
                if label_file is None:
                    raise BadInput(f"it has no label map in '{Path(labels).name}'")
            found[name] = read_case(name, whose[name], path, label_file, frame)
        except (Cancelled, MissingExtra):
            raise
        except (SynthDiffusionError, OSError, ValueError, MemoryError) as error:
            leave_out(name, _reason(error, path))
            if isinstance(error, SpacingFault):
                of_spacing[name] = error
            continue
        case = found[name].case
        size += case.image.nbytes + (case.labels.nbytes if case.labels is not None else 0)
        _check_memory(role, size / len(found) * len(files), size)
    for name, reason in _of_another_modality(found, frame).items():
        leave_out(name, reason)
    if len(found) < least <= len(found) + len(of_spacing):
        told = " x ".join(f"{mm:g}" for mm in frame.spacing_mm or ())
        name, fault = next(iter(of_spacing.items()))
        raise BadInput(
            f"The spacing of {told} mm leaves {counted(len(found), 'usable volume')} of the {role} set, of which "
            f"{least} are needed; first left out: {files[name].name}: {_reason(fault, files[name])}",
            fault.hint,
        )
    if len(found) < least:
        left = f" ({len(skipped)} left out)" if skipped else ""
        raise BadInput(
            f"The {role} set in '{images}' has {counted(len(found), 'usable volume')}{left}; "
            f"fewer than {least} say nothing",
            "Give a folder with more volumes."
            + (f" First left out: {skipped[0]['file']}: {skipped[0]['reason']}" if skipped else ""),
        )
    cases = tuple(read.case for read in found.values())
    whole = ImageSet(role, images, cases, tuple(skipped), frame, _class_names(found, classes))
    _check_spacing([whole])
    if repeated := whole.summary()["same_files"]:
        on_event({"event": "warning", "message": f"{role}: {counted(repeated, 'file')} repeat another one exactly"})
    return whole


def guess_modality(images: Path) -> str:
    """ "CT" or "MR", from the darkest percentile of up to five volumes of a folder: CT holds air, at -1000 HU.

    Raises:
        BadInput: none can be read, they disagree, or one has negative values and no air: a CT of the inside of the
            body, or an MR that was standardised.
    """
    votes = []
    for path in volume_files(Path(images), "given")[0].values():
        try:
            array = read_volume(path).array
            check_values(array, path.name)
        except (SynthDiffusionError, OSError, ValueError):
            continue
        darkest = first_percentile(array)
        if LOWEST_OF_CT <= darkest < 0:
            raise BadInput(
                f"Whether '{path.name}' is CT or MR cannot be told: it has negative values, but no air",
                "Say which with --modality CT or MR.",
            )
        votes.append("CT" if darkest < LOWEST_OF_CT else "MR")
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
    if spacing_mm is not None and not all(SPACINGS[0] <= s < SPACINGS[1] for s in spacing_mm):
        low, high = SPACINGS
        raise BadInput(f"The spacing must be above 0 mm, from {low:g} up to {high:g}", "Give --spacing 1 or 1x1x2.")
    return Frame(modality, tuple(spacing_mm) if spacing_mm is not None else None, (low, high), normalise)


def check_comparable(*sets: ImageSet) -> None:
    """Refuses sets whose volumes have different spacings, or whose label values mean different things.

    Raises:
        BadInput: with the two spacings, and the file that has the second; or with the two names of a value.
    """
    _check_spacing(sets)
    first: dict[int, tuple[str, str]] = {}
    for one in sets:
        for value, name in one.classes.items():
            if name == f"class {value}":  # the files have no name for it
                continue
            known, role = first.setdefault(value, (name, one.role))
            if known.casefold() != name.casefold():
                raise BadInput(
                    f"The label value {value} is '{known}' in the {role} set and '{name}' in the {one.role} set",
                    "Save both with the same label values.",
                )


def check_apart(one: ImageSet, other: ImageSet, on_event: Callable[[dict], None] = lambda event: None) -> None:
    """Refuses two sets that must not share patients or files; names are compared as `check_unseen` does.

    Args:
        on_event: gets a warning, which is for the report too, where names look like those of one patient.

    Raises:
        BadInput: they do; naming the first.
    """
    shared = shared_patients(one.patients, other.patients)
    if shared:
        first, known = min(shared.items())
        raise BadInput(
            f"{counted(len(shared), 'patient')} {'is' if len(shared) == 1 else 'are'} in the {one.role} and in the "
            f"{other.role} set, first '{first}'" + (f" ('{known}' in the {other.role} set)" if known != first else ""),
            "Give sets of different patients; if their names only look alike, give --patient-pattern or --patients.",
        )
    for same, case in same_images(one, other):
        raise BadInput(
            f"'{case.file.name}' of the {other.role} set holds the same image as '{same.file.name}' of the {one.role} "
            "set",
            "Give sets of different patients.",
        )
    for sentence in perhaps_shared(one.patients, other.patients, f"in the {one.role} set"):
        on_event({"event": "warning", "message": f"{other.role}: {sentence}", "report": True})


def same_images(one: ImageSet, other: ImageSet) -> list[tuple[SetCase, SetCase]]:
    """Cases of the second set that hold the image of a case of the first, voxel by voxel in the frame; that case first.

    The file may be another: of another format or number type, or turned.
    """
    known: dict[str, SetCase] = {}
    for case in one.cases:
        known.setdefault(_voxels(case), case)
    return [(known[digest], case) for case in other.cases if (digest := _voxels(case)) in known]


def only_patients(whole: ImageSet, patients: Sequence[str]) -> ImageSet:
    """The part of a set that is of some patients."""
    wanted = set(patients)
    return replace(whole, cases=tuple(c for c in whole.cases if c.patient in wanted))


def volume_files(
    folder: Path, role: str, *, labels: bool = False, only_segmentations: bool = False
) -> tuple[dict[str, Path], list[dict[str, str]]]:
    """Files by case name, and what has the name of a volume but is no file.

    Args:
        folder: of NIfTI, NRRD or MetaImage files; or that of a batch, whose volumes lie in folders of their own.
        role: for messages.
        labels: .seg.nrrd files count; for images they are passed over, since `synthdiffusion generate` writes the
            segmentation of a sample beside its volume.
        only_segmentations: nothing else counts.

    Returns:
        the files in order of their names, and {"file", "reason"} of what is none.

    Raises:
        BadInput: no folder, no file, or two files of one case.
    """
    if not folder.is_dir():
        raise BadInput(f"The folder of the {role} set, '{folder}', does not exist", "Give a folder of volumes.")
    try:
        found = batch_files(folder) if is_batch(folder) else folder.iterdir()
        paths = sorted(found, key=lambda path: path.name)
    except OSError as error:
        raise BadInput(f"The folder '{folder}' cannot be read ({error.strerror})", "Check its permissions.") from error
    files: dict[str, Path] = {}
    skipped: list[dict[str, str]] = []
    for path in paths:
        name = path.name.lower()
        if path.name.startswith(".") or not name.endswith(READABLE_SUFFIXES):
            continue
        if name.endswith(SEGMENTATION) and not labels or only_segmentations and not name.endswith(SEGMENTATION):
            continue
        if not path.is_file():
            what = "a folder" if path.is_dir() else "a link that leads nowhere" if path.is_symlink() else "no file"
            skipped.append({"file": path.name, "reason": f"it is {what}"})
            continue
        other = files.setdefault(case_name(path.name), path)
        if other != path:
            raise BadInput(f"'{other.name}' and '{path.name}' in '{folder}' are of one case", "Remove one of the two.")
    if not files:
        first = f" '{skipped[0]['file']}': {skipped[0]['reason']}." if skipped else ""
        raise BadInput(
            f"No volume of the {role} set is in '{folder}'",
            f"Expected files that end in {', '.join(READABLE_SUFFIXES)}, one a case.{first}",
        )
    return files, skipped


def _reason(error: Exception, path: Path) -> str:
    """Why a file is left out, in one line without the folder it is in: results are passed on."""
    text = error.message if isinstance(error, SynthDiffusionError) else str(error) or type(error).__name__
    text = text.replace(f"{path.parent}{os.sep}", "").removeprefix(f"{path.name}: ")
    return escaped(" ".join(text.split()))


def _of_another_modality(found: Mapping[str, Read], frame: Frame) -> dict[str, str]:
    """Volumes that are not what the others are: one without any negative value among CT with air, and CT among MR."""
    if not found:
        return {}
    smallest, first_percentile = np.array([read.darkest for read in found.values()]).T
    if frame.modality == "CT":
        odd = (smallest >= 0) & (np.median(first_percentile) < LOWEST_OF_CT)
        reason = "no value is below 0: it is not in HU like the others"
    else:
        odd = (first_percentile < LOWEST_OF_CT) & (np.median(first_percentile) >= LOWEST_OF_CT)
        reason = "it holds values like the air of a CT, unlike the others"
    return {name: reason for name, is_odd in zip(found, odd, strict=True) if is_odd}


def _class_names(found: Mapping[str, Read], given: Mapping[int, str] | None) -> dict[int, str]:
    """Name of each label value that occurs or is named: as given, as in the files, or "class 1"."""
    values = {int(v) for r in found.values() if r.case.labels is not None for v in np.unique(r.case.labels)} - {0}
    named: dict[int, tuple[str, str]] = {}
    for read in found.values():
        for value, name in read.names.items():
            known, file = named.setdefault(value, (name, read.case.file.name))
            if known.casefold() != name.casefold():
                raise BadInput(
                    f"The label value {value} is '{known}' for '{file}' and '{name}' for '{read.case.file.name}'",
                    "Save the segmentations with one label value for each class, for example as label maps.",
                )
    names = {value: f"class {value}" for value in values} | {v: name for v, (name, _) in named.items()}
    return dict(sorted((names | dict(given or {})).items()))


def _voxels(case: SetCase) -> str:
    """Digest of the voxels in the frame: the same image in another file format has it too."""
    return hashlib.sha256(f"{case.image.shape}".encode() + case.image.tobytes()).hexdigest()


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


def _check_memory(role: str, wanted: float, taken: float) -> None:
    """Refuses a set that would fill the memory, as soon as its first volumes say how large it is."""
    import psutil

    free = psutil.virtual_memory().available + taken
    if wanted > MEMORY_SHARE * free:
        raise BadInput(
            f"The {role} set needs about {wanted / 2**30:.1f} GiB and may take half of the {free / 2**30:.1f} GiB free",
            "Give a coarser --spacing, or fewer volumes.",
        )
