"""Which tumour the joint mode makes: what is asked for is checked, and what is left out is drawn.

What is left out is drawn from the distribution of the training cases given what is asked for: a Gaussian copula, with
the quantiles of `CharacteristicsSpec` for each characteristic and the correlation of their normal scores between them.
Of volume, surface and sphericity two give the third. Draws that no tumour can have are thrown away. (The authors of the
method draw each characteristic alone, and say themselves that the combinations can be unrealistic.) The copula does not
know that a tumour is rounder than its box; so a draw is preferred that an ellipsoid in its box could be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
FIRST_BATCH = 64  # draws made at once; nearly always enough
RARE = 1e-4  # share of tumours that lie farther out than one that a note is made for
DIGITS = 6  # significant ones of what is drawn, so that a command line can say it
AXES = ("R", "A", "S")
SHAPE = ("volume_mm3", "surface_mm2", "sphericity")
Values = float | np.ndarray
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


def ball_surface(volume: Values) -> Values:
    """Surface of the ball of a volume, (36 pi V^2)^(1/3): the least that any body of that volume has."""
    return (36.0 * math.pi * volume**2) ** (1 / 3)


def volume_of(surface: Values, sphericity: Values) -> Values:
    """Volume of a body with a surface and a sphericity, the inverse of sphericity = `ball_surface` / surface."""
    return ((sphericity * surface) ** 3 / (36.0 * math.pi)) ** 0.5


def impossible(values: Mapping[str, float], extent_mm: Sequence[float], voxel_mm: Sequence[float]) -> str | None:
    """Why no tumour in one piece has these characteristics, or None.

    Every power is taken of what is bounded already: a request may hold any number that a float can.

    Args:
        values: some or all of the nine.
        extent_mm: of the volume along R, A and S.
        voxel_mm: of its voxels, likewise.
    """
    volume, surface, sphericity = (values.get(name) for name in SHAPE)
    box = [values.get(name) for name in FIELDS["box"]]
    center = [values.get(name) for name in FIELDS["center"]]
    voxel, grid = math.prod(voxel_mm), math.prod(extent_mm)
    if sphericity is not None and not 0 < sphericity <= 1:
        return f"a sphericity is above 0 and at most 1, which is a ball's, not {_num(sphericity)}"
    if volume is not None and volume < voxel / _ROUNDING:
        return f"a volume of {_num(volume)} mm3 is less than one voxel, {_plain(voxel)} mm3"
    if volume is not None and volume > grid * _ROUNDING:
        return f"a volume of {_num(volume)} mm3 is more than the whole grid's, {_plain(grid)} mm3"
    if surface is not None and surface <= 0:
        return f"a surface is above 0 mm2, not {_num(surface)}"
    for axis, side, step, extent in zip(AXES, box, voxel_mm, extent_mm):
        if side is not None and side < step / _ROUNDING:
            return f"a box of {_num(side)} mm along {axis} is less than one voxel, {step:g} mm"
        if side is not None and side > extent * _ROUNDING:
            return f"a box of {_num(side)} mm along {axis} is larger than the volume, which has {extent:g} mm there"
    if None not in box and volume is not None and math.prod(box) * _ROUNDING < volume:
        return f"a box of {_by(box)} mm holds {_plain(math.prod(box))} mm3, less than the volume of {_num(volume)} mm3"
    slabs = [1.0 if side is None else side / step for side, step in zip(box, voxel_mm)]
    if volume is not None and volume / voxel * _ROUNDING < max(slabs):
        return (
            f"a volume of {_num(volume)} mm3, {_plain(volume / voxel)} voxels, is too small for one piece in a box "
            f"that is {_plain(max(slabs))} voxels long"
        )
    return _place_contradiction(center, box, volume, extent_mm, voxel_mm) or _shape_contradiction(
        values, slabs, math.prod(box) if None not in box else grid, voxel_mm
    )


def _place_contradiction(
    center: Sequence[float | None],
    box: Sequence[float | None],
    volume: float | None,
    extent_mm: Sequence[float],
    voxel_mm: Sequence[float],
) -> str | None:
    """Why no tumour has its centre of mass there."""
    for n, (axis, middle, extent, step) in enumerate(zip(AXES, center, extent_mm, voxel_mm)):
        if middle is None:
            continue
        edge = f"the volume ends {extent / 2:g} mm from its middle"
        told = f"a centre at {_num(middle)} mm along {axis}"
        if abs(middle) > extent / 2 * _ROUNDING:
            return f"{told} lies outside the volume: {edge}"
        if abs(middle) + step / 2 > extent / 2 * _ROUNDING:
            return f"{told} lies nearer to the edge than half a voxel: {edge}"
        others = [(extent_mm[m] if box[m] is None else box[m]) / voxel_mm[m] for m in range(3) if m != n]
        slabs = 1.0 if box[n] is None else box[n] / step
        voxels = None if volume is None else volume / math.prod(voxel_mm)
        if abs(middle) + step * least_distance(slabs, math.prod(others), voxels) > extent / 2 * _ROUNDING:
            return f"round {told} there is no room for the tumour: {edge}"
    return None


def least_distance(slabs: float, per_slab: float, voxels: float | None) -> float:
    """How near to the edge a body's centre of mass can be, in voxels: its box lies against the edge, one voxel at the
    far end of it, and all others packed against the edge.

    Args:
        slabs: voxels of the box along the axis.
        per_slab: voxels of the box across it.
        voxels: of the body; None: as many as bring it nearest.
    """
    far = slabs - 1
    if voxels is not None:
        rest = max(voxels - 1, 0.0)
        full = rest // per_slab
        return 0.5 + (far + per_slab * full * (full - 1) / 2 + (rest - per_slab * full) * full) / max(voxels, 1.0)
    # More voxels in a slab bring it towards that slab, so that it is nearest where some slabs are full.
    filled = range(1, max(math.floor(far), 1) + 1)
    return 0.5 + min((far + per_slab * n * (n - 1) / 2) / (per_slab * n + 1) for n in filled)


def least_surface(slabs: Sequence[float], voxel_mm: Sequence[float]) -> float:
    """The least surface (mm2) of the mesh round one piece that reaches over a box.

    Along every axis each slab of the box holds a voxel, whose mesh is at least an octahedron. So the shadow on a plane
    of two axes is at least half a voxel's face for each slab of the longer one. A closed surface has twice its shadow
    on both its sides together; and it is at least the root of the sum of their squares over the three planes.

    Args:
        slabs: voxels of the box along R, A and S; 1 where it is not known.
    """
    pairs = ((0, 1), (1, 2), (0, 2))
    return math.sqrt(sum((max(slabs[u], slabs[v]) * voxel_mm[u] * voxel_mm[v]) ** 2 for u, v in pairs))


def _shape_contradiction(
    values: Mapping[str, float], slabs: Sequence[float], room: float, voxel_mm: Sequence[float]
) -> str | None:
    """Why volume, surface and sphericity do not go together, or not with the box.

    Args:
        values: see `impossible`.
        slabs: see `least_surface`.
        room: the volume of the box, or of the grid, in mm3.
    """
    volume, surface, sphericity = (values.get(name) for name in SHAPE)
    most = room if volume is None else volume
    a, b, c = voxel_mm
    apart = most / math.prod(voxel_mm) * 2 * (a * b + b * c + a * c)
    least = least_surface(slabs, voxel_mm)
    if surface is not None and surface > apart * _ROUNDING:
        all_apart = f"that of all voxels of {_plain(most)} mm3 apart, {_plain(apart)} mm2"
        return f"a surface of {_num(surface)} mm2 is more than {all_apart}"
    if surface is not None and surface * _ROUNDING < least:
        what = "one voxel's" if max(slabs) <= 1 else "the least of one piece that reaches over the box"
        return f"a surface of {_num(surface)} mm2 is less than {what}, {_plain(least)} mm2"
    if sphericity is not None and surface is None:
        # The mesh of a voxel that stands alone holds a sixth of it.
        low, high = ball_surface(most / 6) / apart, ball_surface((1 + MESH_TOLERANCE) * most) / least
        if sphericity * _ROUNDING < low:
            all_apart = f"that of all voxels of {_plain(most)} mm3 apart, {low:.2g}"
            return f"a sphericity of {_num(sphericity)} is less than {all_apart}"
        if sphericity > high * _ROUNDING:
            return (
                f"a sphericity of {_num(sphericity)} is more than one piece of {_plain(most)} mm3 can have that "
                f"reaches over the box, {high:.2g}"
            )
    if surface is None or (volume is None and sphericity is None):
        return None
    if volume is None:
        implied = volume_of(surface, sphericity)
        if not math.prod(voxel_mm) / _ROUNDING <= implied <= room * _ROUNDING:
            limit = "less than one voxel" if implied < room else f"more than there is room for, {_plain(room)} mm3"
            return (
                f"a surface of {_num(surface)} mm2 and a sphericity of {_num(sphericity)} belong to a volume of "
                f"{_plain(implied)} mm3, {limit}"
            )
        return None
    if surface * _ROUNDING < ball_surface((1 - MESH_TOLERANCE) * volume):
        return (
            f"a surface of {_num(surface)} mm2 is smaller than that of a ball of {_num(volume)} mm3, "
            f"{_plain(ball_surface(volume))} mm2, and no body has less"
        )
    if sphericity is None:
        return None
    implied = volume_of(surface, sphericity)
    if abs(implied - volume) > (MESH_TOLERANCE + 1e-4) * volume:
        return (
            f"a surface of {_num(surface)} mm2 and a sphericity of {_num(sphericity)} belong to a volume of "
            f"{_plain(implied)} mm3, not {_num(volume)} mm3"
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
    """A warning for each characteristic that is asked for beyond those of the training cases, or that follows from what
    is asked for; and one where each alone is among them, but all together are not."""
    given = dict(asked)
    if sum(name in asked for name in SHAPE) == 2:
        follows = next(name for name in SHAPE if name not in asked)
        given[follows] = float(_third(*(asked.get(name) for name in SHAPE)))
    notes = []
    ranges = dict(zip(NAMES, spec.range))
    for name in sorted(given, key=lambda name: (name not in asked, NAMES.index(name))):
        low, high = ranges[name]
        if not low <= given[name] <= high:
            value = _num(given[name]) if name in asked else _plain(given[name])
            notes.append(
                f"{name} = {value} lies outside the model's training range, {_plain(low)} to "
                f"{_plain(high)}: expect it to be missed, or an unrealistic image"
                + ("" if name in asked else " (it follows from the other two of volume, surface and sphericity)")
            )
    if not notes and _together(asked, spec) < RARE:
        notes.append(
            "What is asked for is, taken together, far from any training case: expect it to be missed, or an "
            "unrealistic image"
        )
    return notes


def _plain(value: float) -> str:
    """Three digits or more, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _together(asked: Mapping[str, float], spec: CharacteristicsSpec) -> float:
    """The share of tumours that lie farther out than this one, by the correlation of the training cases."""
    from scipy.special import chdtrc

    # Of the three of the shape one says nothing new, and the correlation of all three is nearly singular.
    known = [n for n in NAMES if n in asked and not (n == "surface_mm2" and all(other in asked for other in SHAPE))]
    if len(known) < 2:
        return 1.0
    indices = [NAMES.index(name) for name in known]
    scores = np.array([score_of(asked[name], spec, index) for name, index in zip(known, indices)])
    correlation = np.array(spec.correlation)[np.ix_(indices, indices)]
    return float(chdtrc(len(known), scores @ np.linalg.solve(correlation, scores)))


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
    extent_mm, voxel_mm = (tuple(map(float, numbers)) for numbers in (extent_mm, voxel_mm))
    possible, number, size = None, 0, FIRST_BATCH
    while number < TRIES:
        size = min(size, TRIES - number)
        for values in _draws(asked, spec, size, generator):
            number += 1
            why = impossible(values, extent_mm, voxel_mm)
            if why is None and _fits_an_ellipsoid(values, voxel_mm):
                return TumourValues(dict(asked), missing, as_values(values))
            if why is None and possible is None:
                possible = values
            if possible is not None and number >= TRIES_FOR_ELLIPSOIDS:
                return TumourValues(dict(asked), missing, as_values(possible))
        size = 8 * FIRST_BATCH
    given = ", ".join(f"{name}={_num(value)}" for name, value in asked.items()) or "nothing"
    raise BadInput(
        f"In {TRIES} draws nothing was found that goes with {given}: in the last one, {why}",
        "Change these values of --tumour, or leave some of them out.",
    )


def _fits_an_ellipsoid(values: Mapping[str, float], voxel_mm: Sequence[float]) -> bool:
    """Whether the box is as large as that of an ellipsoid of the volume, up to the voxels at its ends."""
    sides = [values[name] + voxel for name, voxel in zip(FIELDS["box"], voxel_mm)]
    return values["volume_mm3"] <= math.pi / 6 * math.prod(sides)


def _draws(
    asked: Mapping[str, float], spec: CharacteristicsSpec, number: int, generator: np.random.Generator
) -> Iterator[dict[str, float]]:
    """Several draws, possible or not; how many are made at once does not change them."""
    # Of the three of the shape one follows from two: a body has no surface, volume and sphericity of its choice.
    if "surface_mm2" not in asked:
        follows = "surface_mm2"
    else:
        follows = "sphericity" if "volume_mm3" in asked else "volume_mm3"
    first = [name for name in SHAPE if name not in asked and name != follows]
    rest = [name for name in NAMES if name not in (*asked, *first, follows)]
    noise = generator.standard_normal((number, len(first) + len(rest)))
    drawn = draw_missing(spec, asked, first, noise[:, : len(first)])
    known = {**asked, **drawn}
    if follows not in asked:
        drawn[follows] = _rounded(np.broadcast_to(_third(*(known.get(name) for name in SHAPE)), number))
        if follows == "volume_mm3":
            known[follows] = drawn[follows]
    drawn |= draw_missing(spec, known, rest, noise[:, len(first) :])
    columns = {name: column.tolist() for name, column in drawn.items()}
    for row in range(number):
        yield {**asked, **{name: column[row] for name, column in columns.items()}}


def _third(volume: Values | None, surface: Values | None, sphericity: Values | None) -> Values:
    """Of volume, surface and sphericity that which is None, by the other two."""
    if surface is None:
        return ball_surface(volume) / sphericity
    return np.minimum(1.0, ball_surface(volume) / surface) if sphericity is None else volume_of(surface, sphericity)


def draw_missing(
    spec: CharacteristicsSpec, known: Mapping[str, Values], wanted: Sequence[str], noise: np.ndarray
) -> dict[str, np.ndarray]:
    """Draws of some characteristics from the training distribution, given others.

    Args:
        known: values of others: one for all draws, or (n,).
        wanted: names of m characteristics.
        noise: (n, m) standard normal.

    Returns:
        (n,) of each.
    """
    if not wanted:
        return {}
    given = [name for name in NAMES if name in known]
    scores = np.zeros((len(noise), len(given)))
    for column, name in enumerate(given):
        scores[:, column] = score_of(known[name], spec, NAMES.index(name))
    mean, covariance = conditional_normal(
        np.array(spec.correlation),
        [NAMES.index(name) for name in given],
        scores,
        [NAMES.index(name) for name in wanted],
    )
    drawn = mean + noise @ np.linalg.cholesky(covariance).T
    return {name: _rounded(value_of(score, spec, NAMES.index(name))) for name, score in zip(wanted, drawn.T)}


def conditional_normal(
    correlation: np.ndarray, given: Sequence[int], scores: np.ndarray, wanted: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (..., m) and covariance (m, m) of the entries `wanted` of a standard normal vector, given others' values.

    Args:
        correlation: (n, n), positive definite.
        given: indices of the g known entries.
        scores: (..., g), their values.
        wanted: indices of m others.
    """
    own = correlation[np.ix_(wanted, wanted)]
    if not len(given):
        return np.zeros(len(wanted)), own
    across = correlation[np.ix_(wanted, given)]
    weights = np.linalg.solve(correlation[np.ix_(given, given)], across.T).T
    return np.asarray(scores, float) @ weights.T, own - weights @ across.T


def score_of(value: Values, spec: CharacteristicsSpec, index: int) -> Values:
    """Normal score of values of characteristic number `index`; beyond the training cases that of the outermost."""
    from scipy.special import ndtri

    quantiles = np.array(spec.quantiles[index])
    steps = np.linspace(0.0, 1.0, len(quantiles))
    low, high = np.searchsorted(quantiles, value, "left"), np.searchsorted(quantiles, value, "right")
    # On one of the quantiles, or on several that are equal, it is in the middle of them.
    middle = (steps[np.minimum(low, len(steps) - 1)] + steps[np.maximum(high, 1) - 1]) / 2
    probability = np.where(high > low, middle, np.interp(value, quantiles, steps))
    edge = 0.5 / max(spec.cases, 1)
    return ndtri(np.clip(probability, edge, 1.0 - edge))


def value_of(score: Values, spec: CharacteristicsSpec, index: int) -> Values:
    """The values of characteristic number `index` at normal scores, linear between the quantiles."""
    from scipy.special import ndtr

    quantiles = np.array(spec.quantiles[index])
    return np.interp(ndtr(score), np.linspace(0.0, 1.0, len(quantiles)), quantiles)


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.array([float(f"{value:.{DIGITS}g}") for value in values])


def _num(value: float) -> str:
    """Short, but never as another number, and without an exponent from a thousandth to a thousand million."""
    short = f"{value:g}"
    if "e" in short and 1e-3 <= abs(value) < 1e9:
        short = f"{value:.0f}"
    return short if float(short) == value else repr(float(value))


def _by(values: Sequence[float]) -> str:
    return " x ".join(map(_num, values))
