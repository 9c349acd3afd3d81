"""What a joint model is asked for: nine characteristics of its target, and how they were distributed in training.

Nothing here imports torch; the characteristics of a mask are measured by `labels.characteristics`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

NAMES = (
    "volume_mm3",
    "surface_mm2",
    "sphericity",
    "center_r_mm",
    "center_a_mm",
    "center_s_mm",
    "box_r_mm",
    "box_a_mm",
    "box_s_mm",
)

POSITIVE = tuple(name for name in NAMES if not name.startswith("center"))  # of every body
LEAST_EIGENVALUE = 1e-6  # of the correlation: far above rounding, far below what a fit on many cases leaves


@dataclass(frozen=True)
class CharacteristicsSpec:
    """The section "characteristics" of a `model.json`; every list has nine entries, in the order of `NAMES`.

    Args:
        target: class that they describe.
        scale: what each is divided by for the network, after
        offset: has been subtracted.
        range: least and largest of the training cases and their varied copies.
        quantiles: evenly spaced quantiles of the same, the first the least, the last the largest.
        correlation: (9, 9), of the normal scores of the same.
        cases: number of independent training cases (patients), not of their copies.
    """

    target: str
    scale: tuple[float, ...]
    range: tuple[tuple[float, float], ...]
    quantiles: tuple[tuple[float, ...], ...]
    correlation: tuple[tuple[float, ...], ...]
    cases: int
    offset: tuple[float, ...] = (0.0,) * len(NAMES)

    def for_network(self, values: np.ndarray) -> np.ndarray:
        """Characteristics (..., 9) as the network is given them."""
        return (values - self.offset) / self.scale

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CharacteristicsSpec:
        nested = {key: tuple(tuple(row) for row in data[key]) for key in ("range", "quantiles", "correlation")}
        offset = tuple(data.get("offset", (0.0,) * len(NAMES)))
        return CharacteristicsSpec(data["target"], tuple(data["scale"]), cases=data["cases"], offset=offset, **nested)

    def to_json(self) -> dict[str, Any]:
        """The section."""
        nested = {key: [list(row) for row in getattr(self, key)] for key in ("range", "quantiles", "correlation")}
        moved = {"offset": list(self.offset)} if any(self.offset) else {}
        scales = {"scale": list(self.scale), **moved}
        return {"target": self.target, "names": list(NAMES), **scales, **nested, "cases": self.cases}


def characteristics_problems(data: Mapping[str, Any], classes: Sequence[str]) -> Iterator[str]:
    """What is wrong with a section that satisfies the schema."""
    if list(data.get("names", NAMES)) != list(NAMES):
        yield f"'characteristics.names' must be {', '.join(NAMES)}"
    if data["target"] not in classes:
        yield f"'characteristics.target' {data['target']} is not in the label scheme"
    for name, (low, high), quantiles in zip(NAMES, data["range"], data["quantiles"]):
        if low > high:
            yield f"'characteristics.range' of {name} must not fall, from {low} to {high}"
        if any(a > b for a, b in zip(quantiles, quantiles[1:])):
            yield f"'characteristics.quantiles' of {name} must not fall"
        if name in POSITIVE and min(low, quantiles[0]) <= 0:
            yield f"'characteristics' of {name} must be above 0, not {min(low, quantiles[0])}"
        if name == "sphericity" and max(high, quantiles[-1]) > 1:
            yield f"'characteristics' of sphericity must be at most 1, not {max(high, quantiles[-1])}"
        if not all(
            math.isclose(*ends, rel_tol=1e-6, abs_tol=1e-6) for ends in zip((low, high), (quantiles[0], quantiles[-1]))
        ):
            yield (
                f"'characteristics.range' of {name}, {low} to {high}, must be the ends of its quantiles, "
                f"{quantiles[0]} to {quantiles[-1]}"
            )
    matrix = data["correlation"]
    for i, row in enumerate(matrix):
        if row[i] != 1 or any(not math.isclose(row[j], matrix[j][i], abs_tol=1e-9) for j in range(len(row))):
            yield "'characteristics.correlation' must be symmetric, with 1 on its diagonal"
            return
    import numpy as np

    least = float(np.linalg.eigvalsh(np.array(matrix, float)).min())
    if least < LEAST_EIGENVALUE:
        yield f"'characteristics.correlation' must be positive definite, but its least eigenvalue is {least:.3g}"
