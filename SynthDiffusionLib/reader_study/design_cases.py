"""The cases of a study: folders expanded, pairs found by name, patients, masks, and which cases train the readers."""

from __future__ import annotations

import fnmatch
import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.reader_study.headers import check_image_name, image_files, read_header, stem_of


@dataclass(frozen=True)
class StudyCase:
    """One volume of a study.

    Args:
        image: its file, or its folder with a DICOM series; None until it is generated.
        arm: id of its arm.
        truth: 0 real, 1 synthetic.
        pair: name that the volumes of one mask share.
        patient: whom the image, or the mask that it was made from, is of.
        phase: "main" or "training"; "" until it is decided.
        mask: segmentation; None if there is none.
        segmentation: what it is to be generated from; None if it exists.
    """

    image: Path | None
    arm: str
    truth: int
    pair: str
    patient: str
    phase: str = ""
    mask: Path | None = None
    segmentation: Path | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return self.image.name if self.image is not None else f"{self.pair} (to be generated)"


@dataclass(frozen=True)
class Arm:
    """One kind of volumes.

    Args:
        id: unique in the study.
        truth: "real" or "synthetic".
        images: folder.
        masks: folder of segmentations.
        suffix: glob that is taken off the end of stems.
        model: what made the images, as text; for `generate`, the model's id.
        generate: the design's part of this name.
    """

    id: str
    truth: str
    images: Path | None = None
    masks: Path | None = None
    suffix: str | None = None
    model: str | None = None
    generate: Mapping[str, Any] | None = None

    @property
    def is_synthetic(self) -> bool:
        return self.truth == "synthetic"


def pair_name(stem: str, suffix: str | None) -> str:
    """A stem without the part at its end that the glob fits, as short a part as fits.

    `pair_name("7_nod1_lung-nodule-ct_seed4", "_*_seed*")` is "7_nod1". A stem that the glob does not fit stays.
    """
    if not suffix:
        return stem
    # fnmatch.translate ends with an anchor of its own.
    found = re.fullmatch(f"(.+)(?:{fnmatch.translate(suffix)})", stem, re.DOTALL)
    return found[1] if found else stem


def collect_cases(
    arms: Sequence[Arm], explicit: Sequence[Mapping[str, Any]], patients: Path | None, base: Path
) -> tuple[list[StudyCase], list[str]]:
    """All cases of the arms' folders, and those that are listed one by one.

    Args:
        arms: of the design.
        explicit: the design's `cases`.
        patients: CSV with the columns file and patient; None: every pair is a patient of its own.
        base: folder that explicit paths are relative to.

    Returns:
        cases, and notes on lines of the CSV that are of no case.

    Raises:
        BadInput: an arm without cases, a missing file, a patient that the CSV does not have.
    """
    from SynthDiffusionLib.reader_study.patients import with_patients

    cases: list[StudyCase] = []
    for arm in arms:
        if arm.generate is not None:
            folder = Path(arm.generate["segmentations"])
            for path in segmentation_files(folder):
                pair = pair_name(stem_of(path), arm.suffix)
                cases.append(StudyCase(None, arm.id, 1, pair, "", mask=path, segmentation=path))
        elif arm.images is not None:
            for path in image_files(arm.images):
                pair = pair_name(stem_of(path), arm.suffix)
                mask = _mask_for(arm, path, pair)
                cases.append(StudyCase(path, arm.id, int(arm.is_synthetic), pair, "", mask=mask))
    by_id = {arm.id: arm for arm in arms}
    for entry in explicit:
        arm = by_id.get(entry["arm"])
        if arm is None:
            raise BadInput(
                f"The case '{shortened(entry['image'], 60)}' names the arm '{entry['arm']}', which the design does not "
                "have",
                f"Arms are {', '.join(by_id)}.",
            )
        path = resolved(base, entry["image"])
        if not path.exists():
            raise BadInput(
                f"The image '{shortened(path)}' does not exist", "Check the path; it is relative to the design file."
            )
        pair = entry.get("pair") or pair_name(stem_of(path), arm.suffix)
        mask = resolved(base, entry["mask"]) if "mask" in entry else _mask_for(arm, path, pair)
        if mask is not None and not mask.exists():
            raise BadInput(
                f"The mask '{shortened(mask)}' does not exist", "Check the path; it is relative to the design file."
            )
        patient, phase = entry.get("patient", ""), entry.get("phase", "")
        cases.append(StudyCase(path, arm.id, int(arm.is_synthetic), pair, patient, phase, mask))
    for arm in arms:
        if not any(c.arm == arm.id for c in cases):
            where = arm.images or (arm.generate or {}).get("segmentations")
            raise BadInput(
                f"The arm '{arm.id}' has no cases"
                + (f": there are no images in '{shortened(where)}'" if where else ""),
                "Give it a folder with NIfTI, NRRD or MetaImage files, or folders of DICOM series.",
            )
    return with_patients(cases, patients)


def segmentation_files(folder: Path) -> list[Path]:
    """Segmentations of a folder, sorted.

    Raises:
        BadInput: the folder does not exist.
    """
    from SynthDiffusionLib.reader_study.headers import IMAGE_SUFFIXES, folder_entries

    found = []
    for path in folder_entries(folder):
        if path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith("."):
            check_image_name(path)
            found.append(path)
    return found


def resolved(base: Path, name: str) -> Path:
    """A path of a design, relative to the folder of the design; it need not exist.

    Raises:
        BadInput: no file could have it: too long, a name that the system does not take, a folder that is closed to us.
    """
    try:
        path = Path(name).expanduser()
        path = path if path.is_absolute() else base / path
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of somebody whom the system does not know
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BadInput(f"The path '{shortened(name)}' cannot be used ({why})", "Check the path.") from error
    return path


def check_sources(cases: Sequence[StudyCase], on_file: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Looks at the files themselves: none twice, no synthetic one among the real ones.

    Args:
        cases: with their images; those to be generated are passed over.
        on_file: called with (files looked at, files in all).

    Raises:
        BadInput: see above.
    """
    from SynthDiffusionLib.jobs.provenance import sha256_of

    seen: dict[str, StudyCase] = {}
    existing = [c for c in cases if c.image is not None]
    for number, case in enumerate(existing, 1):
        checksum = sha256_of(cast(Path, case.image))
        if (other := seen.get(checksum)) is not None:
            where = f"in the arms '{other.arm}' and '{case.arm}'" if other.arm != case.arm else f"twice in '{case.arm}'"
            raise BadInput(
                f"'{other.image}' and '{case.image}' are the same image, {where}", "Each volume can be there once."
            )
        seen[checksum] = case
        if case.truth == 0:
            _refuse_synthetic(case)
        on_file(number, len(existing))


def with_phases(cases: Sequence[StudyCase], training: int, seed: int) -> tuple[list[StudyCase], list[str]]:
    """Decides which cases train the readers, and takes all other cases of their patients out of the study.

    Args:
        cases: those with a phase keep it.
        training: so many of each arm, drawn by the seed.
        seed: of the study.

    Returns:
        cases, and notes on what was left out.

    Raises:
        BadInput: a patient was put into both phases by the design, or an arm is left without cases.
    """
    rng = random.Random(int.from_bytes(hashlib.sha256(f"training cases|{seed}".encode()).digest(), "big"))
    arms = list(dict.fromkeys(c.arm for c in cases))
    chosen = {i for i, c in enumerate(cases) if c.phase == "training"}
    blocked = {c.patient for c in cases if c.phase == "main"}
    missing = {arm: max(0, training - sum(cases[i].arm == arm for i in chosen)) for arm in arms}
    # Patients who have cases of many arms first: the fewer patients train, the more are left to be read.
    patients = sorted({c.patient for c in cases} - blocked)
    drawn = sorted(patients, key=lambda p: rng.random())
    arms_of = {p: {c.arm for c in cases if c.patient == p} for p in patients}
    for patient in sorted(drawn, key=lambda p: -len(arms_of[p])):
        for arm in sorted(arms_of[patient]):
            free = [i for i, c in enumerate(cases) if c.patient == patient and c.arm == arm and i not in chosen]
            if missing[arm] and free and not cases[free[0]].phase:
                chosen.add(free[0])
                missing[arm] -= 1
    for arm, count in missing.items():
        if count:
            raise BadInput(
                f"The arm '{arm}' has too few cases for {training} training cases", "Give more cases, or fewer of them."
            )
    taught = {cases[i].patient for i in chosen}
    kept, left_out = [], 0
    for i, case in enumerate(cases):
        if i in chosen:
            kept.append(replace(case, phase="training"))
        elif case.patient not in taught:
            kept.append(replace(case, phase="main"))
        elif case.phase == "main":
            raise BadInput(
                f"The patient '{case.patient}' has cases in the training and in the main phase ('{case.name}')",
                "Put all cases of a patient into one phase.",
            )
        else:
            left_out += 1
    for arm in arms:
        if not any(c.arm == arm and c.phase == "main" for c in kept):
            raise BadInput(
                f"The arm '{arm}' has no cases left beside those for training", "Give more patients, or fewer of them."
            )
    notes = []
    if left_out:
        notes.append(
            f"{left_out} cases of patients whose cases train the readers are left out: what a reader has learnt of a "
            "patient must not help with another case."
        )
    return kept, notes


def _refuse_synthetic(case: StudyCase) -> None:
    from SynthDiffusionLib.jobs.provenance import FORMAT
    from SynthDiffusionLib.schemas import read_json

    image = cast(Path, case.image)
    said = read_header(image).says_synthetic
    beside = image.with_name(f"{stem_of(image)}.json")
    if said is None and beside.is_file():
        try:
            record = read_json(beside)
        except (OSError, ValueError):
            record = None  # some other program's file
        if isinstance(record, dict) and FORMAT in (record.get("format"), record.get("schema")):
            said = f"its provenance '{beside.name}' lies beside it"
    if said is not None:
        raise BadInput(
            f"'{image}' is in the arm '{case.arm}' of real images, but is synthetic: {said}",
            "Move it into an arm of synthetic images.",
        )


def _mask_for(arm: Arm, image: Path, pair: str) -> Path | None:
    if arm.masks is None:
        return None
    files = {stem_of(p): p for p in segmentation_files(arm.masks)}
    return files.get(stem_of(image)) or files.get(pair)
