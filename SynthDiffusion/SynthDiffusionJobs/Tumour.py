"""The tumour of the mode "joint": what is asked of it, and what the tumours of the training patients were like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Fields of a request, and the characteristics that each stands for. Values are in mm, mm2 and mm3; places and extents
# are along the patient's axes, towards the right, the front and the head, from the middle of the volume.
FIELDS = {
    "volume_mm3": ("volume_mm3",),
    "surface_mm2": ("surface_mm2",),
    "sphericity": ("sphericity",),
    "center": ("center_r_mm", "center_a_mm", "center_s_mm"),
    "box": ("box_r_mm", "box_a_mm", "box_s_mm"),
}
NAMES = tuple(name for names in FIELDS.values() for name in names)  # in the order of a model.json

_BEYOND = 0.25  # of the trained range, by which a value may lie outside of it
_LEAST_SPHERICITY = 0.05


@dataclass(frozen=True)
class Trained:
    """One characteristic in the training patients.

    Args:
        low, high: the least and the largest.
        median: half of them have less.
        least, most: what can be asked for, a little more than that.
    """

    low: float
    high: float
    median: float
    least: float
    most: float

    def holds(self, value: float) -> bool:
        """Whether the model has seen the like; not so sharp that a rounded end lies outside."""
        tolerance = 1e-6 * max(abs(self.low), abs(self.high))
        return self.low - tolerance <= value <= self.high + tolerance


def validAsked(asked: Mapping[str, float]) -> dict[str, float]:
    """The entries that can be asked for: known names, finite numbers, and of three that belong together all."""
    numbers = {
        name: float(value)
        for name, value in asked.items()
        if name in NAMES and not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    }
    whole = [name for names in FIELDS.values() if all(name in numbers for name in names) for name in names]
    return {name: numbers[name] for name in whole}


def requestOf(asked: Mapping[str, float]) -> dict[str, float | tuple[float, ...]]:
    """What is asked for as `tumour` of a `GenerateRequest`; {} where all is left to chance."""
    valid = validAsked(asked)
    found: dict[str, float | tuple[float, ...]] = {}
    for field, names in FIELDS.items():
        if names[0] in valid:
            values = tuple(valid[name] for name in names)
            found[field] = values if len(values) > 1 else values[0]
    return found


def askedOf(tumour: Mapping[str, float | Sequence[float]]) -> dict[str, float]:
    """The other way round."""
    found: dict[str, float] = {}
    for field, value in tumour.items():
        names = FIELDS.get(field, ())
        found |= zip(names, value if isinstance(value, list | tuple) else (value,))
    return validAsked(found)


def extentMm(description: Mapping, size: Sequence[int] | None = None) -> tuple[float, float, float]:
    """How large the volume is along the patient's axes, and so how far it reaches from its middle to both sides.

    Args:
        description: a model.json.
        size: voxels along i, j and k; default the model's own.
    """
    return _alongPatient(description, [n * mm for n, mm in zip(size or _ownSize(description), _spacing(description))])


def trainedOf(description: Mapping, size: Sequence[int] | None = None) -> dict[str, Trained]:
    """What the tumours of the training patients were like, by the names of `NAMES`; {} of a model without any.

    Args:
        description, size: as for `extentMm`.
    """
    section = description.get("characteristics")
    if not section:
        return {}
    extent, voxel = extentMm(description, size), _alongPatient(description, _spacing(description))
    bounds = {"volume_mm3": (math.prod(voxel), math.prod(extent)), "sphericity": (_LEAST_SPHERICITY, 1.0)}
    for number, (name, box) in enumerate(zip(FIELDS["center"], FIELDS["box"])):
        bounds[name] = (-extent[number] / 2, extent[number] / 2)
        bounds[box] = (voxel[number], extent[number])
    found = {}
    for name, (low, high), quantiles in zip(NAMES, section["range"], section["quantiles"]):
        beyond = _BEYOND * (high - low) or 0.1 * abs(high) or 1.0
        least, most = low - beyond, high + beyond
        if name not in FIELDS["center"]:  # these are never below 0
            least = max(least, low / 2)
        lowest, highest = bounds.get(name, (least, most))
        least, most = min(max(least, lowest), low), max(min(most, highest), high)
        found[name] = Trained(low, high, quantiles[len(quantiles) // 2], least, most)
    return found


def boxOf(asked: Mapping[str, float], trained: Mapping[str, Trained]) -> tuple[tuple[float, ...], ...] | None:
    """About where the tumour will be: middle and sides of a box in mm; None where nothing is asked that says it.

    Of a size alone it is the cube round the ball of that volume; what is left to chance is that of the middle patient.
    """
    place, box = FIELDS["center"], FIELDS["box"]
    if not trained or not {"volume_mm3", place[0], box[0]} & asked.keys():
        return None
    middle = tuple(asked.get(name, trained[name].median) for name in place)
    if box[0] in asked or "volume_mm3" not in asked:
        return middle, tuple(asked.get(name, trained[name].median) for name in box)
    return middle, ((6 * asked["volume_mm3"] / math.pi) ** (1 / 3),) * 3


def _ownSize(description: Mapping) -> Sequence[int]:
    grid = description["grid"]
    return grid.get("default_size") or grid["max_size"]


def _spacing(description: Mapping) -> Sequence[float]:
    return description["grid"]["spacing_mm"]


def _alongPatient(description: Mapping, values: Sequence[float]) -> tuple[float, float, float]:
    """Values along i, j and k put in the order of the patient's axes."""
    letters = description["grid"].get("orientation", "LPS")
    axes = [{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter] for letter in letters]
    return tuple(values[axes.index(axis)] for axis in range(3))
