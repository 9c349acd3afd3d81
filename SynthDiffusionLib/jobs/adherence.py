"""Whether the package's segmenter finds the drawn structure in a sample: one Dice, with what to compare it with.

The figures of the model card come from `evaluation.adherence`; this is the same segmenter on one sample. It has learnt
on crops with the structure near their middle, and hardly finds one elsewhere, however plain it is. So it is shown every
drawn structure in the middle of a window, as in the cubes that the card's figures are measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.adherence import WINDOW
from SynthDiffusionLib.jobs.events import OnEvent
from SynthDiffusionLib.models import ModelPackage
from SynthDiffusionLib.models.spec import ModelSpec
from SynthDiffusionLib.volumes import Volume

Segment = Callable[[np.ndarray], np.ndarray]
View = tuple[Volume, np.ndarray]  # a volume on the model's grid, and its class map

# What the segmenter's training patches were moved by, both ways together: the window is larger than a patch by that.
SHIFT_VOXELS = 11

NO_SEGMENTER = "no segmenter"
NOT_DRAWN = "the target class is not drawn"


def load_segmenter(package: ModelPackage) -> Segment | None:
    """The package's segmenter, on the CPU; None if it has none.

    Raises:
        ModelError: its weights do not fit.
    """
    if package.spec.segmenter is None:
        return None
    from SynthDiffusionLib.evaluation.adherence import package_segmenter

    return package_segmenter(package)


def adherence_of(
    views: Callable[[], Iterable[View]], spec: ModelSpec, segment: Segment | None, on_event: OnEvent
) -> dict[str, Any]:
    """Measures one sample.

    Args:
        views: gives the sample on the model's grid: once for a whole volume, a crop for each inpainted region. Crops
            without the target (regions that are removed) do not count; the others are pooled.
        spec: of the model.
        segment: from `load_segmenter`.
        on_event: gets a warning if the segmenter fails; a run does not end for that.

    Returns:
        for the provenance and the `done` event: "adherence" with class, Dice, volumes in ml, and the package's mean
        Dice on the real images of its test masks and of the ball that does not look at the image; or "adherence" None
        and "adherence_note".
    """
    if segment is None:
        return _none(NO_SEGMENTER)
    if spec.target_class is None:
        return _none(NOT_DRAWN)
    wanted = spec.label_scheme.containing(spec.target_class)
    side = int(spec.segmenter.details.get("patch", WINDOW)) + SHIFT_VOXELS
    both = drawn = found = 0
    drawn_ml = found_ml = 0.0
    try:
        for volume, classes in views():
            voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000.0
            for hu, own, others in windows(volume.array, np.isin(classes, wanted), side):
                marked = segment(hu) & ~others
                both += int((marked & own).sum())
                drawn += int(own.sum())
                found += int(marked.sum())
                drawn_ml += voxel_ml * int(own.sum())
                found_ml += voxel_ml * int(marked.sum())
    except Exception as error:
        note = f"the segmenter failed ({type(error).__name__}: {error})"
        on_event({"event": "warning", "message": f"Adherence was not measured: {note}"})
        return _none(note)
    if not drawn:
        return _none(NOT_DRAWN)
    return {
        "adherence": {
            "class": spec.target_class,
            "dice": round(2.0 * both / (drawn + found), 4),
            "drawn_ml": round(drawn_ml, 4),
            "found_ml": round(found_ml, 4),
            "real_dice": _measured_dice(spec, "real"),
            "ball_dice": _measured_dice(spec, "ball"),
        }
    }


def windows(hu: np.ndarray, target: np.ndarray, side: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A window round every connected structure, in its middle.

    Args:
        hu: (I, J, K).
        target: (I, J, K) bool, all that is drawn.
        side: of a window in voxels; one that is smaller than a structure is widened.

    Yields:
        the voxels, the last ones repeated beyond the edge; the structure; and other structures, which are neither right
        nor wrong in this window. All of one shape.
    """
    from scipy.ndimage import find_objects, label

    labels, count = label(target, np.ones((3, 3, 3)))
    boxes = find_objects(labels)
    for number in range(1, count + 1):
        box = boxes[number - 1]
        sides = [max(side, b.stop - b.start) for b in box]
        starts = [(b.start + b.stop - s) // 2 for b, s in zip(box, sides)]
        pads = [(max(0, -start), max(0, start + s - n)) for start, s, n in zip(starts, sides, hu.shape)]
        cut = tuple(slice(start + low, start + low + s) for start, s, (low, _) in zip(starts, sides, pads))
        drawn = np.pad(labels, pads)[cut]
        yield np.pad(hu, pads, mode="edge")[cut], drawn == number, (drawn > 0) & (drawn != number)


def _none(note: str) -> dict[str, Any]:
    return {"adherence": None, "adherence_note": note}


def _measured_dice(spec: ModelSpec, row: str) -> float | None:
    """Mean Dice of a row of the package's measured adherence; None where it was not measured."""
    value: Any = spec.quality
    for key in ("adherence", row, "dice"):
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, (int, float)) else None
