"""What the coordinator is told about the common form of a study's volumes: what they lose, and because of which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from SynthDiffusionLib.errors import shortened

if TYPE_CHECKING:
    from SynthDiffusionLib.reader_study.equalise import Survey

LEAST_CUT = 0.01  # share of a volume: below it, a cut is not worth a sentence
SAME_SPACING = 1e-3  # relative: below it, a voxel is said to be of the other size, and nothing is interpolated
_MOST_NAMES = 3
_AXES = "RAS"
_KINDS = {0: "real", 1: "synthetic"}


def resampling_notes(
    surveys: Sequence[Survey], resampled: np.ndarray, truths: np.ndarray, spacing: np.ndarray, *, asked: bool
) -> list[str]:
    """Which volumes are interpolated, and which are the reason.

    Args:
        surveys: of all volumes.
        resampled: (N,) of bool.
        truths: (N,), 0 real, 1 synthetic.
        spacing: (3,) mm, that all volumes get.
        asked: the design asks for this spacing.
    """
    if not resampled.any():
        return []
    counts = {name: (int(resampled[truths == t].sum()), int((truths == t).sum())) for t, name in _KINDS.items()}
    said = " and ".join(f"{a} of {n} {name}" for name, (a, n) in counts.items() if n)
    note = f"Resampled to {in_mm(spacing)} mm, which smooths: {said} volumes."
    shares = [a / n for a, n in counts.values() if n]
    if len(shares) == 2 and abs(shares[0] - shares[1]) > 0.2:
        note += " Smoothness may tell them apart: it would be better to prepare both kinds at one spacing."
    if not asked and (said := coarsest(surveys, range(3))):
        note += f" The spacing is the coarsest: {said}."
    return [note]


def cutting_notes(surveys: Sequence[Survey], fields: np.ndarray, size: np.ndarray, *, asked: bool) -> list[str]:
    """From what to what the volumes are cut, what the largest loses, and which volumes are the reason.

    Args:
        surveys: of all volumes.
        fields: (N, 3) voxels that each has at the common spacing.
        size: (3,) voxels that all get.
        asked: the design asks for this size, so that no volume is the reason.
    """
    voxels = fields.astype(float).prod(axis=1)
    largest = int(voxels.argmax())
    lost = 1.0 - float(np.prod(size.astype(float))) / voxels[largest]
    if lost < LEAST_CUT:
        return []
    note = (
        f"Volumes are cut to their middle, {by(size)} voxels along R, A and S: of the largest, "
        f"{_name(surveys[largest])} with {by(fields[largest])}, {_percent(lost)} are not shown."
    )
    if not asked:
        cut = [axis for axis in range(3) if fields[largest, axis] > size[axis]]
        note += f" What all have in common is so small because {smallest(surveys, fields, cut)}."
    return [note]


def smallest(surveys: Sequence[Survey], fields: np.ndarray, axes: Sequence[int]) -> str:
    """Which volumes are the smallest along some axes, such as "'real/a.nii.gz' has 9 voxels along S".

    Args:
        surveys: of all volumes.
        fields: (N, 3) voxels that each has at the common spacing.
        axes: 0 to 2.
    """
    said = []
    for axis in axes:
        least = int(fields[:, axis].min())
        found = [s for s, n in zip(surveys, fields[:, axis]) if n == least]
        said.append(f"{_have(found)} {least} voxel{'' if least == 1 else 's'} along {_AXES[axis]}")
    return "; ".join(said)


def coarsest(surveys: Sequence[Survey], axes: Sequence[int]) -> str:
    """Which volumes have the largest spacing along those of some axes along which it differs; "" if it never does.

    Args:
        surveys: of all volumes.
        axes: 0 to 2.
    """
    said = []
    for axis in axes:
        own = np.array([s.spacing[axis] for s in surveys])
        if not np.allclose(own, own.max(), rtol=SAME_SPACING, atol=0):
            found = [s for s, mm in zip(surveys, own) if np.isclose(mm, own.max(), rtol=SAME_SPACING, atol=0)]
            said.append(f"{_have(found)} {own.max():g} mm along {_AXES[axis]}")
    return "; ".join(said)


def by(size: Sequence[int] | np.ndarray) -> str:
    """A size as "16x16x9"."""
    return "x".join(str(int(n)) for n in size)


def in_mm(spacing: Sequence[float] | np.ndarray) -> str:
    """A spacing as "1 x 1 x 2.5"."""
    return " x ".join(f"{v:g}" for v in spacing)


def _percent(share: float) -> str:
    """Rounded, but never to all of it."""
    text = f"{100 * share:.0f}"
    return f"{100 * share:.4g} %" if text == "100" else f"{text} %"


def _have(found: Sequence[Survey]) -> str:
    names = ", ".join(_name(s) for s in found[:_MOST_NAMES])
    more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
    return f"{names}{more} {'has' if len(found) == 1 else 'have'}"


def _name(found: Survey) -> str:
    return f"'{shortened(found.name, 80)}'" if found.name else "a volume"
