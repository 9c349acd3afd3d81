"""Which tumour the joint mode makes: what is asked for is checked, and what is left out is drawn.

What is left out is drawn from the distribution of the training cases given what is asked for: a Gaussian copula, with
the quantiles of `CharacteristicsSpec` for each characteristic and the correlation of their normal scores between them.
Of volume, surface and sphericity two give the third. Draws that no tumour can have are thrown away. (The authors of the
method draw each characteristic alone, and say themselves that the combinations can be unrealistic.) The copula does not
know that a tumour is rounder than its box; so a draw is preferred that an ellipsoid in its box could be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.tumour import FIELDS, as_values
from SynthDiffusionLib.models.characteristics import NAMES, CharacteristicsSpec

# The sphericity is that of a mesh, which encloses less than the voxels do: by as much of the volume they may differ.
MESH_TOLERANCE = 0.15
TRIES = 4000
TRIES_FOR_ELLIPSOIDS = 400
DIGITS = 6  # significant ones of what is drawn, so that a command line can say it
AXES = ("R", "A", "S")
SHAPE = ("volume_mm3", "surface_mm2", "sphericity")
_ROUNDING = 1.0 + 1e-5  # of the comparisons, for values of `DIGITS` digits


@dataclass(frozen=True)
class TumourValues:
    """The tumour of one sample.

    Args:
        asked: characteristics that the user gave.
        drawn: names of the others, drawn or following from two of volume, surface and sphericity.
        used: all nine, in the order of `NAMES`.
    """

    asked: Mapping[str, float]
    drawn: tuple[str, ...]
    used: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """For the provenance."""
        return {"asked": dict(self.asked), "drawn": list(self.drawn), "used": dict(zip(NAMES, self.used))}


def ball_surface(volume: float) -> float:
    """Surface of the ball of a volume, (36 pi V^2)^(1/3): the least that any body of that volume has."""
    return (36.0 * math.pi * volume**2) ** (1 / 3)


def volume_of(surface: float, sphericity: float) -> float:
    """Volume of a body with a surface and a sphericity, the inverse of sphericity = `ball_surface` / surface."""
    return math.sqrt((sphericity * surface) ** 3 / (36.0 * math.pi))


def impossible(values: Mapping[str, float], extent_mm: Sequence[float], voxel_mm: Sequence[float]) -> str | None:
    """Why no tumour has these characteristics, or None.

    Args:
        values: some or all of the nine.
        extent_mm: of the volume along R, A and S.
        voxel_mm: of its voxels, likewise.
    """
    volume, surface, sphericity = (values.get(name) for name in SHAPE)
    box = [values.get(name) for name in FIELDS["box"]]
    center = [values.get(name) for name in FIELDS["center"]]
    if sphericity is not None and not 0 < sphericity <= 1:
        return f"a sphericity is above 0 and at most 1, which is a ball's, not {sphericity:g}"
    if volume is not None and volume < math.prod(voxel_mm) / _ROUNDING:
        return f"a volume of {volume:g} mm3 is less than one voxel, {math.prod(voxel_mm):g} mm3"
    if surface is not None and surface <= 0:
        return f"a surface is above 0 mm2, not {surface:g}"
    for axis, side, voxel, extent in zip(AXES, box, voxel_mm, extent_mm):
        if side is not None and side < voxel / _ROUNDING:
            return f"a box of {side:g} mm along {axis} is less than one voxel, {voxel:g} mm"
        if side is not None and side > extent * _ROUNDING:
            return f"a box of {side:g} mm along {axis} is larger than the volume, which has {extent:g} mm there"
    if None not in box and volume is not None and math.prod(box) * _ROUNDING < volume:
        return f"a box of {_by(box)} mm holds {math.prod(box):g} mm3, less than the volume of {volume:g} mm3"
    for n, (axis, middle, extent) in enumerate(zip(AXES, center, extent_mm)):
        if middle is None:
            continue
        # Packed against one end of its box, which lies against the edge, the mass is nearest to the edge.
        others = [side for m, side in enumerate(box) if m != n]
        known = volume is not None and None not in others
        reach = volume / math.prod(others) / 2 if known else 0.0
        if abs(middle) + reach > extent / 2 * _ROUNDING:
            edge = f"the volume ends {extent / 2:g} mm from its middle"
            if not reach:
                return f"a centre at {middle:g} mm along {axis} lies outside the volume: {edge}"
            return f"round a centre at {middle:g} mm along {axis} there is no room for the tumour: {edge}"
    return _shape_contradiction(volume, surface, sphericity)


def _shape_contradiction(volume: float | None, surface: float | None, sphericity: float | None) -> str | None:
    if volume is None or surface is None:
        return None
    if surface * _ROUNDING < ball_surface((1 - MESH_TOLERANCE) * volume):
        return (
            f"a surface of {surface:g} mm2 is smaller than that of a ball of {volume:g} mm3, "
            f"{ball_surface(volume):.4g} mm2, and no body has less"
        )
    if sphericity is None:
        return None
    implied = volume_of(surface, sphericity)
    if abs(implied - volume) > (MESH_TOLERANCE + 1e-4) * volume:
        return (
            f"a surface of {surface:g} mm2 and a sphericity of {sphericity:g} belong to a volume of {implied:.4g} mm3, "
            f"not {volume:g} mm3"
        )
    return None


def check_asked(asked: Mapping[str, float], extent_mm: Sequence[float], voxel_mm: Sequence[float]) -> None:
    """Refuses what is asked for if no tumour is like that.

    Raises:
        BadInput: with the reason.
    """
    why = impossible(asked, extent_mm, voxel_mm)
    if why:
        raise BadInput(
            f"No tumour is like that: {why}", "Change these values of --tumour, or leave some out to have them drawn."
        )


def range_notes(asked: Mapping[str, float], spec: CharacteristicsSpec) -> list[str]:
    """A warning for each characteristic that is asked for beyond those of the training cases."""
    notes = []
    for name, (low, high) in zip(NAMES, spec.range):
        if name in asked and not low <= asked[name] <= high:
            notes.append(
                f"{name} = {asked[name]:g} lies outside the model's training range, {low:.4g} to {high:.4g}: "
                "expect it to be missed, or an unrealistic image"
            )
    return notes


def draw_tumour(
    asked: Mapping[str, float],
    spec: CharacteristicsSpec,
    seed: int,
    extent_mm: Sequence[float],
    voxel_mm: Sequence[float],
) -> TumourValues:
    """All nine characteristics of a tumour: those asked for, and the others drawn to go with them.

    Args:
        asked: passed `check_asked`.
        seed: of the draws; the same gives the same.
        extent_mm, voxel_mm: see `impossible`.

    Raises:
        BadInput: among `TRIES` draws none was possible.
    """
    missing = tuple(name for name in NAMES if name not in asked)
    if not missing:
        return TumourValues(dict(asked), (), as_values(asked))
    generator = np.random.default_rng(seed)
    possible = None
    for number in range(1, TRIES + 1):
        values = _draw_once(asked, spec, generator)
        why = impossible(values, extent_mm, voxel_mm)
        if why is None and _fits_an_ellipsoid(values, voxel_mm):
            return TumourValues(dict(asked), missing, as_values(values))
        if why is None and possible is None:
            possible = values
        if possible is not None and number >= TRIES_FOR_ELLIPSOIDS:
            return TumourValues(dict(asked), missing, as_values(possible))
    given = ", ".join(f"{name}={value:g}" for name, value in asked.items()) or "nothing"
    raise BadInput(
        f"In {TRIES} draws nothing was found that goes with {given}: in the last one, {why}",
        "Change these values of --tumour, or leave some of them out.",
    )


def _fits_an_ellipsoid(values: Mapping[str, float], voxel_mm: Sequence[float]) -> bool:
    """Whether the box is as large as that of an ellipsoid of the volume, up to the voxels at its ends."""
    sides = [values[name] + voxel for name, voxel in zip(FIELDS["box"], voxel_mm)]
    return values["volume_mm3"] <= math.pi / 6 * math.prod(sides)


def _draw_once(
    asked: Mapping[str, float], spec: CharacteristicsSpec, generator: np.random.Generator
) -> dict[str, float]:
    """One draw, possible or not."""
    values = dict(asked)
    # Of the three of the shape one follows from two: a body has no surface, volume and sphericity of its choice.
    if "surface_mm2" not in asked:
        follows = "surface_mm2"
    else:
        follows = "sphericity" if "volume_mm3" in asked else "volume_mm3"
    first = [name for name in SHAPE if name not in values and name != follows]
    values |= draw_missing(spec, asked, first, generator)
    if follows not in values:
        volume, surface, sphericity = (values.get(name) for name in SHAPE)
        if follows == "surface_mm2":
            found = ball_surface(volume) / sphericity
        elif follows == "sphericity":
            found = min(1.0, ball_surface(volume) / surface)
        else:
            found = volume_of(surface, sphericity)
        values[follows] = _rounded(found)
    rest = [name for name in NAMES if name not in values]
    known = {name: value for name, value in values.items() if name in asked or name in first or name == "volume_mm3"}
    return values | draw_missing(spec, known, rest, generator)


def draw_missing(
    spec: CharacteristicsSpec, known: Mapping[str, float], wanted: Sequence[str], generator: np.random.Generator
) -> dict[str, float]:
    """One draw of some characteristics from the training distribution, given others."""
    if not wanted:
        return {}
    given = [name for name in NAMES if name in known]
    scores = np.array([score_of(known[name], spec, NAMES.index(name)) for name in given])
    mean, covariance = conditional_normal(
        np.array(spec.correlation),
        [NAMES.index(name) for name in given],
        scores,
        [NAMES.index(name) for name in wanted],
    )
    drawn = mean + np.linalg.cholesky(covariance) @ generator.standard_normal(len(wanted))
    return {name: _rounded(value_of(score, spec, NAMES.index(name))) for name, score in zip(wanted, drawn)}


def conditional_normal(
    correlation: np.ndarray, given: Sequence[int], scores: np.ndarray, wanted: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (m,) and covariance (m, m) of the entries `wanted` of a standard normal vector, given others' values.

    Args:
        correlation: (n, n), positive definite.
        given: indices of the known entries.
        scores: their values.
        wanted: indices of m others.
    """
    own = correlation[np.ix_(wanted, wanted)]
    if not len(given):
        return np.zeros(len(wanted)), own
    across = correlation[np.ix_(wanted, given)]
    weights = np.linalg.solve(correlation[np.ix_(given, given)], across.T).T
    return weights @ np.asarray(scores, float), own - weights @ across.T


def score_of(value: float, spec: CharacteristicsSpec, index: int) -> float:
    """Normal score of a value of characteristic number `index`; beyond the training cases that of the outermost."""
    from scipy.special import ndtri

    quantiles = np.array(spec.quantiles[index])
    steps = np.linspace(0.0, 1.0, len(quantiles))
    low, high = np.searchsorted(quantiles, value, "left"), np.searchsorted(quantiles, value, "right")
    if high > low:  # on one of the quantiles, or on several that are equal
        probability = (steps[low] + steps[high - 1]) / 2
    else:
        probability = float(np.interp(value, quantiles, steps))
    edge = 0.5 / max(spec.cases, 1)
    return float(ndtri(min(max(probability, edge), 1.0 - edge)))


def value_of(score: float, spec: CharacteristicsSpec, index: int) -> float:
    """The value of characteristic number `index` at a normal score, linear between the quantiles."""
    from scipy.special import ndtr

    quantiles = np.array(spec.quantiles[index])
    return float(np.interp(ndtr(score), np.linspace(0.0, 1.0, len(quantiles)), quantiles))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
