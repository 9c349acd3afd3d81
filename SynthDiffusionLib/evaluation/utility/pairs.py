"""What segmentation networks learn from and are tested on: image and target, real or made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation import noskill
from SynthDiffusionLib.evaluation.rows import Item, as_evaluated
from SynthDiffusionLib.evaluation.sets.training_lists import perhaps_shared, shared_patients
from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.training.dataset import Case, load_split, read_description
from SynthDiffusionLib.volumes import read_segmentation, read_volume, same_grid


@dataclass(frozen=True)
class Pair:
    """One training or test example.

    Args:
        case: name of the case, or of the synthetic file.
        patient: of the case, or whose mask the image was made for; "" where there is none.
        image: (I, J, K) float32 in [-1, 1].
        target: (I, J, K) uint8, 1 for the first target and so on, 0 outside all.
    """

    case: str
    patient: str
    image: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Data:
    """A prepared data set, with what is to be segmented.

    Args:
        folder: what `synthdiffusion prepare` wrote.
        description: its `dataset.json`.
        targets: names of the classes that networks are to find, one at least.
        intensity_range: values that become -1 and 1.
        parts: the cases of "train", "validation" and "test".
    """

    folder: Path
    description: dict
    targets: tuple[str, ...]
    intensity_range: tuple[float, float]
    parts: dict[str, list[Case]]

    @property
    def case_patients(self) -> dict[str, str]:
        """The patient of every case."""
        return {name: case["patient"] for name, case in self.description["cases"].items()}

    def patients(self, part: str) -> list[str]:
        """The patients of a part, each once."""
        return list(dict.fromkeys(c.patient for c in self.parts[part]))

    def of_patients(self, part: str, patients: Sequence[str]) -> list[Case]:
        """The cases of some patients."""
        wanted = set(patients)
        return [c for c in self.parts[part] if c.patient in wanted]

    def target_of(self, classes: np.ndarray) -> np.ndarray:
        """A class map as `Pair.target`."""
        found = np.zeros(classes.shape, np.uint8)
        for number, name in enumerate(self.targets, 1):
            found[classes == self.description["classes"][name]] = number
        return found

    def real(self, cases: Sequence[Case]) -> list[Pair]:
        """Real cases as examples."""
        return [Pair(c.name, c.patient, self.scaled(c.image.array), self.target_of(c.classes.array)) for c in cases]

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Whole numbers within the range, as every example is, then [-1, 1]."""
        return normalise(as_evaluated(values, self.intensity_range), self.intensity_range)


def load_data(
    folder: Path,
    targets: Sequence[str] | None,
    intensity_range: tuple[float, float] | None,
    least: int,
    on_event: Callable[[dict], None] = lambda event: None,
) -> Data:
    """Reads a prepared data set.

    Args:
        targets: classes to segment; the data set's target where None.
        intensity_range: [-1000, 400] HU, or [0, 1000] for MR, where None.
        least: test patients that are needed.
        on_event: gets a warning, which is for the report too, where names of two parts look like those of one patient.

    Raises:
        BadInput: no data set, a patient or an image in two parts, an unknown class, or too few test patients.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"The data folder '{folder}' does not exist", "Give --data what synthdiffusion prepare wrote.")
    description = read_description(folder)
    names = tuple(targets or ([description["target"]] if description.get("target") else ()))
    unknown = [n for n in names if n not in description["classes"]]
    if unknown or not names or len(set(names)) < len(names):
        raise BadInput(
            f"'{(unknown or [''])[0]}' is no class of the data set",
            f"Choose from: {', '.join(description['classes'])}.",
        )
    parts = {part: load_split(folder, part) for part in ("train", "validation", "test")}
    _check_apart(parts, description["cases"], on_event)
    tested = {c.patient for c in parts["test"]}
    if len(tested) < least:
        raise BadInput(
            f"The test part has {len(tested)} patients; fewer than {least} say nothing", "Prepare a larger test part."
        )
    limits = intensity_range or ((-1000.0, 400.0) if description["unit"] == "HU" else (0.0, 1000.0))
    return Data(folder, description, names, limits, parts)


def _check_apart(
    parts: Mapping[str, Sequence[Case]], described: Mapping[str, dict], on_event: Callable[[dict], None]
) -> None:
    """Refuses a patient or an image in two parts, as `check_apart` does of sets: names are compared as people write
    them, images by the checksum of their source and by their voxels.

    Args:
        described: "cases" of the data set.
    """
    for (first, ours), (second, others) in combinations(parts.items(), 2):
        known, names = (list(dict.fromkeys(c.patient for c in cases)) for cases in (ours, others))
        for name, other in sorted(shared_patients(names, known).items()):
            spelled = f" ('{other}' in {first})" if other != name else ""
            raise BadInput(
                f"The patient '{name}' is in the parts {first} and {second} of the data set{spelled}",
                "Prepare it again with a --patient-pattern that tells patients apart.",
            )
        whose = {digest: c.name for c in ours for digest in _digests(c, described[c.name])}
        for case in others:
            for digest in _digests(case, described[case.name]):
                if digest in whose:
                    raise BadInput(
                        f"'{case.name}' in the part {second} holds the same image as '{whose[digest]}' in the part "
                        f"{first} of the data set",
                        "Prepare it again without one of the two.",
                    )
        for sentence in perhaps_shared(known, names, f"in the part {first}", "Its --patient-pattern"):
            on_event({"event": "warning", "message": f"{second}: {sentence}", "report": True})


def _digests(case: Case, described: Mapping[str, Any]) -> list[str]:
    """What tells an image: the checksum of its source file, where the data set has it, and that of its voxels."""
    voxels = hashlib.sha256(f"{case.image.shape}".encode() + case.image.array.tobytes()).hexdigest()
    source = described.get("image_sha256")
    return [voxels, source] if isinstance(source, str) else [voxels]


def read_pair(data: Data, case: str, patient: str, image: Path, segmentation: Path | None, classes: np.ndarray) -> Pair:
    """A synthetic volume with the class map that it was made for, or the mask that was made with it.

    Args:
        segmentation: of a joint model; its segments bear the names of classes.
        classes: (I, J, K) that it was made for, where there is no such mask.

    Raises:
        BadInput: image and mask lie on different grids, or a segment has another name.
    """
    volume = read_volume(image, "HU" if data.description["unit"] == "HU" else "arbitrary")
    if segmentation is not None:
        made = read_segmentation(segmentation, empty=True)
        if not same_grid(volume.shape, volume.affine, made.layers[0].shape, made.affine):
            raise BadInput(f"The mask '{segmentation.name}' is not on the grid of its image", "Make it again.")
        classes = np.zeros(volume.shape, np.uint8)
        for segment in made.segments:
            if segment.name not in data.description["classes"]:
                raise BadInput(f"'{segmentation.name}' has the segment '{segment.name}', which is no class of the data")
            inside = made.layers[segment.layer] == segment.value
            classes[inside] = data.description["classes"][segment.name]
    elif volume.shape != classes.shape:
        raise BadInput(f"'{image.name}' is not on the grid of its mask", "Make it again.")
    return Pair(case, patient, data.scaled(volume.array), data.target_of(classes))


def cartoons(data: Data, masks: Sequence[Case], training: Sequence[Case], seed: int) -> list[Pair]:
    """Images that need no model, for the same masks: the training cases' class means with noise of their deviations.

    Where the data set has no class but its targets, everything else has one mean and one deviation.

    Args:
        masks: cases whose class maps are painted.
        training: cases that the means are of: the arm's.
    """
    values = data.description["classes"]
    statistics = noskill.training_statistics(
        training, [0, *values.values()], values[data.targets[0]], data.intensity_range
    )
    items = [Item(c.name, c.patient, c.image.array, c.classes.array, c.image.affine) for c in masks]
    painted = noskill.class_means_noise(items, statistics, data.intensity_range, seed)
    return [
        Pair(f"cartoon of {i.case}", i.patient, normalise(i.hu, data.intensity_range), data.target_of(i.classes))
        for i in painted.items
    ]
