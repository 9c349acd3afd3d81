"""The real cases that a model is measured against, and the check that it has not been trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.dataset import Case, description_sha256, load_split, read_description

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelSpec

FEWEST_CASES = 5
TRAINING_PARTS = ("train", "validation")
CROP_MULTIPLE = 8
# What a target lies in, if there is such a class; else it is the first class, in which all others lie.
GROUNDS = ("lung", "muscle")
# What stands for it where a scheme has no class but its targets: everything outside them, value 0 of the class map.
SURROUNDINGS = "surroundings"


def ground_of(names: Sequence[str], targets: Sequence[str] = ()) -> str:
    """The class that targets lie in; `SURROUNDINGS` where all classes are targets.

    Args:
        names: of a scheme's classes, the enclosing one first.
        targets: those that lie in another one, and enclose nothing.
    """
    return next((n for n in (*GROUNDS, *names) if n in names and n not in targets), SURROUNDINGS)


def targets_of(spec: ModelSpec, target: str | None = None) -> tuple[str, ...]:
    """The classes that adherence is measured for: those that the package's segmenter finds, the target class first.

    Args:
        target: the target class, where the model names none.
    """
    first = spec.target_class or target
    listed = spec.segmenter.details.get("targets", ()) if spec.segmenter else ()
    return tuple(dict.fromkeys([*((first,) if first else ()), *listed]))


@dataclass(frozen=True)
class EvaluationData:
    """A prepared data set, read for the evaluation of one model.

    Args:
        folder: the prepared data set.
        split: name of the evaluated part.
        evaluated: its cases.
        training: the training cases: what no-skill rows and scales are made of.
        others: held-out cases that are not evaluated ("validation"): the real-to-real reference.
        values: class name to label value.
        target: name of the target class.
        intensity_range: the model's.
        leak_check: what was compared, for the results.
        unit: of the intensities, "HU" or "arbitrary" (MR on the scale of `training.mr_intensity`).
        targets: classes that adherence is measured for, the target class first; that class alone when empty.
    """

    folder: Path
    split: str
    evaluated: list[Case]
    training: list[Case]
    others: list[Case]
    values: dict[str, int]
    target: str
    intensity_range: tuple[float, float]
    leak_check: dict[str, Any]
    unit: str = "HU"
    targets: tuple[str, ...] = ()

    @property
    def target_value(self) -> int:
        return self.values[self.target]

    @property
    def all_targets(self) -> tuple[str, ...]:
        """The classes that adherence is measured for."""
        return self.targets or (self.target,)

    @property
    def ground(self) -> str:
        """Name of the class that the target lies in, see `ground_of`."""
        return ground_of(sorted(self.values, key=self.values.__getitem__), (self.target, *self.targets))

    @property
    def ground_value(self) -> int:
        """Its value in the class maps; 0 for `SURROUNDINGS`."""
        return self.values.get(self.ground, 0)

    @property
    def tissues(self) -> str:
        """What decides how tissues are told apart (`features.TISSUES`): the ground, or the unit where it is not HU."""
        return self.ground if self.unit == "HU" else self.unit

    @property
    def crop(self) -> tuple[int, int, int] | None:
        """The size that volumes are cut to where whole ones are compared: the smallest of the data set along each axis,
        rounded down to a multiple of `CROP_MULTIPLE`. None where all volumes are of one size."""
        shapes = {tuple(c.image.shape) for part in (self.evaluated, self.training, self.others) for c in part}
        if len(shapes) == 1:
            return None
        smallest = np.array(sorted(shapes)).min(0)
        return tuple(int(max(min(n, CROP_MULTIPLE), n // CROP_MULTIPLE * CROP_MULTIPLE)) for n in smallest)

    def summary(self) -> dict[str, Any]:
        """What the results say about the data."""
        return {
            "split": self.split,
            "cases": len(self.evaluated),
            "patients": len({c.patient for c in self.evaluated}),
            "training_cases": len(self.training),
            "training_patients": len({c.patient for c in self.training}),
            "reference_cases": len(self.others),
            "intensity_range": list(self.intensity_range),
            **({} if self.unit == "HU" else {"unit": self.unit}),
            **({} if self.ground != SURROUNDINGS else {"classes": list(self.values)}),
            "training_facts": training_facts(self.training, self.target_value),
            "description_sha256": description_sha256(self.folder),
            "leak_check": self.leak_check,
        }


def training_facts(cases: Sequence[Case], target: int) -> dict[str, Any]:
    """What the training images do not show, as far as numbers tell."""
    from scipy import ndimage

    shapes = np.array([c.image.shape for c in cases])
    sizes: dict[str, Any] = {}
    if len(np.unique(shapes, axis=0)) > 1:  # volumes that were cut round their target: what their size gives away
        borders = np.concatenate([borders_mm(c, target) for c in cases if (c.classes.array == target).any()])
        sizes = {
            "smallest_shape": shapes.min(0).tolist(),
            "largest_shape": shapes.max(0).tolist(),
            "border_mm": [round(float(np.quantile(borders, q)), 1) for q in (0.05, 0.5, 0.95)],
        }
    offsets = [center_offset_mm(c, target) for c in cases if (c.classes.array == target).any()]
    targets = [int(ndimage.label(c.classes.array == target, structure=np.ones((3, 3, 3)))[1]) for c in cases]
    return {
        "shape": [int(n) for n in np.median(shapes, axis=0)],
        "minimum": float(min(c.image.array.min() for c in cases)),
        "maximum": float(max(c.image.array.max() for c in cases)),
        "outside_fraction": float(np.mean([(c.classes.array == 0).mean() for c in cases])),
        "most_targets": max(targets),
        "center_offset_mm": [round(float(np.quantile(offsets, q)), 1) for q in (0.05, 0.5, 0.95)],
    } | sizes


def center_offset_mm(case: Case, target: int) -> float:
    """How far the middle of the target's bounding box is from the volume's, in mm."""
    voxels = np.argwhere(case.classes.array == target)
    middle = (voxels.min(0) + voxels.max(0)) / 2 - (np.array(case.classes.shape) - 1) / 2
    return float(np.linalg.norm(middle * np.asarray(case.classes.spacing)))


def borders_mm(case: Case, target: int) -> np.ndarray:
    """How far the target's bounding box is from the two ends of the volume along each axis, (3, 2) in mm."""
    voxels = np.argwhere(case.classes.array == target)
    low, high = voxels.min(0), np.array(case.classes.shape) - 1 - voxels.max(0)
    return np.stack([low, high], axis=1) * np.asarray(case.classes.spacing)[:, None]


def load_evaluation_data(folder: Path, spec: ModelSpec, split: str = "test") -> EvaluationData:
    """Reads the data set and checks that it fits the model and that nothing leaks.

    Raises:
        BadInput: no such data set, fewer than `FEWEST_CASES` cases, other classes or another unit than the model's, or
            a leak.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"The data folder '{folder}' does not exist", "Give --data what synthdiffusion prepare wrote.")
    description = read_description(folder)
    if split not in description["split"]:
        raise BadInput(f"'{split}' is no part of the data set", f"Choose one of {', '.join(description['split'])}.")
    if split in TRAINING_PARTS:
        raise BadInput(
            f"The part '{split}' was used to make models, so nothing measured on it says how good one is",
            "Evaluate on test.",
        )
    check = check_leak(description, spec.training.split, split)
    values = {c.name: c.value for c in spec.label_scheme.condition_classes}
    if description["classes"] != values:
        raise BadInput(
            f"The data set has the classes {description['classes']}, the model '{spec.id}' has {values}",
            "Prepare the data with the model's label scheme.",
        )
    if description["unit"] != spec.intensity.unit:
        raise BadInput(
            f"The data set is in {description['unit']}, the model '{spec.id}' makes {spec.intensity.unit}",
            "Evaluate with data of the model's modality.",
        )
    if len(description["split"][split]) < FEWEST_CASES:
        raise BadInput(
            f"The part '{split}' has {len(description['split'][split])} cases; figures from fewer than {FEWEST_CASES} "
            "say nothing",
            "Prepare a data set with a larger part.",
        )
    for part in TRAINING_PARTS:
        if len(description["split"].get(part, [])) < FEWEST_CASES:
            raise BadInput(
                f"The part '{part}' has fewer than {FEWEST_CASES} cases; the no-skill rows and the real-to-real "
                "reference need them",
                "Prepare a data set with a larger part.",
            )
    target = spec.target_class or description["target"]
    targets = targets_of(spec, target)
    unknown = [name for name in targets if name not in values]
    if unknown:
        raise BadInput(
            f"The model '{spec.id}' measures '{unknown[0]}', which is none of its classes ({', '.join(values)})",
            "Correct target_class and segmenter.targets in its model.json.",
        )
    return EvaluationData(
        folder,
        split,
        load_split(folder, split),
        load_split(folder, "train"),
        load_split(folder, "validation"),
        values,
        target,
        spec.intensity.range,
        check,
        description["unit"],
        targets,
    )


def check_leak(description: Mapping[str, Any], model_split: Mapping[str, Sequence[str]], split: str) -> dict[str, Any]:
    """Compares the evaluated part with what the model was trained on, by patient.

    Args:
        description: `dataset.json`.
        model_split: part to cases, or to patients, from the model's `training.split`.
        split: the evaluated part.

    Returns:
        what was compared, for the results.

    Raises:
        BadInput: a patient or an image is in two parts, or the model has seen an evaluated patient, or does not say
            what it has seen.
    """
    cases = description["cases"]
    part_of_patient: dict[str, str] = {}
    part_of_image: dict[str, str] = {}
    for part, names in description["split"].items():
        for name in names:
            for seen, key in (
                (part_of_patient, cases[name]["patient"]),
                (part_of_image, cases[name].get("image_sha256")),
            ):
                if key is not None and seen.setdefault(key, part) != part:
                    raise BadInput(
                        f"The data set leaks: '{name}' ({part}) has the patient or the image of a case in {seen[key]}",
                        "Prepare it again with a --patient-pattern that tells patients apart.",
                    )
    if not model_split.get("train"):
        raise BadInput(
            "The model does not say which cases it was trained on, so a leak cannot be ruled out",
            'Add them to "training.split" in its model.json.',
        )
    evaluated = {cases[name]["patient"] for name in description["split"][split]}
    seen_by_model = {
        cases[entry]["patient"] if entry in cases else entry
        for part in TRAINING_PARTS
        for entry in model_split.get(part, ())
    }
    leaked = sorted(evaluated & seen_by_model)
    if leaked:
        raise BadInput(
            f"{len(leaked)} evaluated patients were used to train the model, first: '{leaked[0]}'",
            "Evaluate on patients that it has not seen.",
        )
    return {
        "compared_by": "patient",
        "evaluated_patients": len(evaluated),
        "patients_seen_by_model": len(seen_by_model),
        "shared_patients": 0,
        "shared_images": 0,
    }
