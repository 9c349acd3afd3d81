"""Files so small that a search for copies would compare all volumes in a small part alone.

Volumes are compared in the box round their middle that fits into all of them. A few files that are much smaller than
the others are left out, as other files that do not fit in are; where they are many, they stay and it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from SynthDiffusionLib.errors import escaped
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet, SetCase
from SynthDiffusionLib.reports.sections import counted, listing, percent

SMALL = 0.5  # of the usual size along an axis: below, a file is odd
MOST = 0.1  # of the files of a set that may be left out for it; one file always may


def usual_size(sets: Sequence[ImageSet]) -> np.ndarray:
    """(3,) voxels: the median of all volumes along each axis."""
    return np.median([c.image.shape for s in sets for c in s.cases], axis=0)


def odd_cases(sets: Sequence[ImageSet]) -> list[list[SetCase]]:
    """Of each set, the cases with less than half of the usual size along an axis."""
    usual = usual_size(sets)
    return [[c for c in s.cases if (np.array(c.image.shape) < SMALL * usual).any()] for s in sets]


def without_odd(
    sets: Sequence[ImageSet], least: Sequence[int], on_event: Callable[[dict], None] = lambda event: None
) -> list[ImageSet]:
    """The sets without files that are much smaller than the others, which are told, and named in each set's `skipped`.

    Args:
        least: volumes that each set must keep; if one cannot, or many of its files are small, all sets stay as they
            are.
    """
    odd = odd_cases(sets)
    few = all(
        len(small) <= max(1, MOST * len(s.cases)) and len(s.cases) - len(small) >= kept
        for s, small, kept in zip(sets, odd, least, strict=True)
        if small
    )
    if not few:
        return list(sets)
    usual = _size(usual_size(sets))
    left = []
    for one, small in zip(sets, odd, strict=True):
        skipped = []
        for case in small:
            reason = (
                f"its {_size(case.image.shape)} voxels are less than half of the usual {usual} along an axis, and all "
                "volumes would be compared in so small a part"
            )
            skipped.append({"file": case.file.name, "reason": reason})
            message = f"{escaped(case.file.name)} of the {one.role} set is left out: {reason}"
            on_event({"event": "warning", "message": message})
        names = {case.name for case in small}
        cases = tuple(c for c in one.cases if c.name not in names)
        left.append(replace(one, cases=cases, skipped=(*one.skipped, *skipped)))
    return left


def box_sentences(sets: Sequence[ImageSet], box: Sequence[int]) -> list[str]:
    """What part of the volumes is compared and which files make it so small; none where it is half of the usual size
    or more along each axis.

    Args:
        box: (3,) voxels in which the volumes are compared.
    """
    names = [f"'{c.file.name}' ({s.role})" for s, small in zip(sets, odd_cases(sets), strict=True) for c in small]
    if not names:
        return []
    usual = usual_size(sets)
    return [
        f"All volumes are compared in their middle {_size(box)} voxels alone, {percent(np.prod(box) / np.prod(usual))} "
        f"of the usual {_size(usual)}, since {counted(len(names), 'file')} {'has' if len(names) == 1 else 'have'} less "
        f"than half of that along an axis: {listing(names, 6)}. Copies of what lies outside are not looked for. Leave "
        "such files out to compare more."
    ]


def _size(voxels: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in voxels)
