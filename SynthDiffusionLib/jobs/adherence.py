"""Whether the package's segmenter finds the drawn structures in a sample: a Dice, with what to compare it with.

The figures of the model card come from `evaluation.adherence`; this is the same segmenter on one sample. It has learnt
on crops with the structure near their middle, and hardly finds one elsewhere, however plain it is. So it is shown every
drawn structure in the middle of a window, as in the cubes that the card's figures are measured on.

A low value may mean that a structure is missing or misplaced. A high one does not mean that the image is realistic: a
blurred blob in flat lung or muscle may score as high as a real image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation import noskill
from SynthDiffusionLib.evaluation.adherence import FOUND_FRACTION, JOINT_SUFFIX, WINDOW
from SynthDiffusionLib.evaluation.cases import ground_of, targets_of
from SynthDiffusionLib.jobs.events import OnEvent, ignore
from SynthDiffusionLib.models import ModelPackage
from SynthDiffusionLib.models.spec import ModelSpec
from SynthDiffusionLib.volumes import Volume

Segment = Callable[[np.ndarray], np.ndarray]
# A volume on the model's grid, its class map, and bool voxels: the structures to measure there are those that have one.
View = tuple[Volume, np.ndarray, np.ndarray]

# What the segmenter's training patches were moved by, both ways together: the window is larger than a patch by that.
COARSE_FACTOR = 1.5  # of the drawing's voxels, beyond which adherence is told to be lowered by them
SHIFT_VOXELS = 11

# Of the ball that does not look at the image, where the package does not say its own ("ball_radius_mm" of "segmenter"):
# about that of the ball with the median volume of the nodules that `lung-nodule-ct` was trained on, which is what the
# ball of the model card is.
BALL_RADIUS_MM = 5.0

NO_SEGMENTER = "no segmenter"
NOT_DRAWN = "the target class is not drawn"
NOT_MADE = "the model made nothing of the target class"


def load_segmenter(package: ModelPackage, on_event: OnEvent = ignore) -> Segment | dict[str, Segment] | None:
    """The package's segmenter, on the CPU; by target where it finds several; None if it has none.

    Args:
        on_event: gets a warning if it has none: what was asked for will be missing.

    Raises:
        ModelError: its weights do not fit.
    """
    if package.spec.segmenter is None:
        message = f"The model '{package.spec.id}' has no segmenter: adherence will not be measured."
        on_event({"event": "warning", "message": message})
        return None
    from SynthDiffusionLib.evaluation.adherence import package_segmenter

    targets = targets_of(package.spec)
    if len(targets) > 1:
        return {name: package_segmenter(package, name) for name in targets}
    return package_segmenter(package)


def adherence_of(
    views: Callable[[], Iterable[View]],
    spec: ModelSpec,
    segment: Segment | Mapping[str, Segment] | None,
    on_event: OnEvent,
    inpainted: bool = False,
    segmented: bool = False,
) -> dict[str, Any]:
    """Measures one sample.

    Args:
        views: gives the sample on the model's grid: once for a whole volume, a crop for each inpainted region. Views
            without the target (regions that are removed) do not count; the others are pooled.
        spec: of the model.
        segment: from `load_segmenter`.
        on_event: gets a warning if the segmenter fails; a run does not end for that.
        inpainted: the sample is a real image but for the regions; then the cartoon is a blob pasted into one.
        segmented: the class map was made with the image; then "drawn" is what the model has marked itself.

    Returns:
        for the provenance and the `done` event: "adherence" with

        - class: the target;
        - dice: of what the segmenter marks and what is drawn, all structures together;
        - structures: connected structures drawn, on the model's grid;
        - found: those of them that it covers by `FOUND_FRACTION` at least, which is how the model card counts;
        - drawn_ml, found_ml: volumes of what is drawn and of what it marks;
        - ball_dice: for this drawing, of a ball in the middle of every window that does not look at the image;
        - real_dice, cartoon_dice: the package's measured means on its test masks, of the segmenter on the real images
          and on a blurred blob in flat ground (lung, muscle); None where not measured;
        - targets: where the segmenter finds several classes, all these for each that is drawn, by name; the others are
          then those of the first of them, which is the target class if that is drawn;

        or "adherence" None and "adherence_note".
    """
    if segment is None:
        return _none(NO_SEGMENTER)
    if not isinstance(segment, Mapping):
        if spec.target_class is None:
            return _none(NOT_DRAWN)
        return _of_target(views, spec, spec.target_class, segment, on_event, inpainted, segmented)
    each = {name: _of_target(views, spec, name, one, on_event, inpainted, segmented) for name, one in segment.items()}
    drawn = {name: found["adherence"] for name, found in each.items() if found["adherence"] is not None}
    if not drawn:
        return next(iter(each.values()))
    return {"adherence": next(iter(drawn.values())) | {"targets": drawn}}


def _of_target(
    views: Callable[[], Iterable[View]],
    spec: ModelSpec,
    target: str,
    segment: Segment,
    on_event: OnEvent,
    inpainted: bool,
    segmented: bool,
) -> dict[str, Any]:
    """`adherence_of` for one class."""
    wanted = spec.label_scheme.containing(target)
    details = spec.segmenter.details
    side, context = int(details.get("patch", WINDOW)) + SHIFT_VOXELS, int(details.get("context_voxels", 0))
    radius = float(details.get("ball_radius_mm", BALL_RADIUS_MM))
    cartoon = noskill.blob_row(ground_of([c.name for c in spec.label_scheme.condition_classes], targets_of(spec)))
    if spec.characteristics is not None:  # its figures are those for masks that it made itself
        cartoon += JOINT_SUFFIX
    marks, balls = _Overlap(), _Overlap()
    try:
        for volume, classes, here in views():
            for hu, own, others in windows(volume.array, np.isin(classes, wanted), here, side, context):
                marks.add(segment(hu) & ~others, own, volume.affine)
                balls.add(_ball(own, volume.affine, radius) & ~others, own, volume.affine)
    except Exception as error:
        note = f"the segmenter failed ({type(error).__name__}: {error})"
        on_event({"event": "warning", "message": f"Adherence was not measured: {note}"})
        return _none(note)
    if not marks.structures:
        return _none(NOT_MADE if segmented else NOT_DRAWN)
    return {
        "adherence": {
            "class": target,
            "dice": marks.dice(),
            "structures": marks.structures,
            "found": marks.found,
            "drawn_ml": round(marks.drawn_ml, 4),
            "found_ml": round(marks.marked_ml, 4),
            "ball_dice": balls.dice(),
            "real_dice": _measured_dice(spec, "real", target),
            "cartoon_dice": _measured_dice(spec, f"{cartoon}_pasted" if inpainted else cartoon, target),
        }
    }


def coarse_note(affine: np.ndarray, model_affine: np.ndarray) -> list[str]:
    """A note where a sample was written in voxels so coarse that its adherence says little.

    Args:
        affine, model_affine: (4, 4) of the sample as it is written, and of the model's own grid.
    """
    written, own = (np.linalg.norm(np.asarray(a)[:3, :3], axis=0) for a in (affine, model_affine))
    if written.max() < COARSE_FACTOR * own.max():
        return []
    sizes = [" x ".join(f"{n:.3g}" for n in spacing) for spacing in (written, own)]
    return [
        f"The drawing's voxels ({sizes[0]} mm) are coarser than the model's ({sizes[1]} mm): what is lost between them "
        "lowers the adherence, of real images too, and their figure was measured without that"
    ]


def windows(
    hu: np.ndarray, target: np.ndarray, here: np.ndarray, side: int, context: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A window round every connected structure, in its middle.

    Args:
        hu: (I, J, K).
        target: (I, J, K) bool, all that is drawn.
        here: (I, J, K) bool; structures without a voxel of it have no window of their own.
        side: of a window in voxels; one that is smaller than a structure with its surroundings is widened.
        context: voxels of surroundings on every side of a structure. 0: the segmenter knows structures in the middle
            only, so that a window reaches beyond the edge if need be; else it ends there, as the whole volumes do that
            the card's figures are of.

    Yields:
        the voxels, the last ones repeated beyond the edge; the structure; and other structures, which are neither right
        nor wrong in this window. All of one shape.
    """
    from scipy.ndimage import find_objects, label

    labels, _ = label(target, np.ones((3, 3, 3)))
    boxes = find_objects(labels)
    for number in np.unique(labels[here & target]):
        box = boxes[number - 1]
        sides = [max(side, b.stop - b.start + 2 * context) for b in box]
        starts = [(b.start + b.stop - s) // 2 for b, s in zip(box, sides)]
        if context:
            ends = [min(start + s, n) for start, s, n in zip(starts, sides, hu.shape)]
            starts = [max(start, 0) for start in starts]
            sides = [end - start for start, end in zip(starts, ends)]
        pads = [(max(0, -start), max(0, start + s - n)) for start, s, n in zip(starts, sides, hu.shape)]
        cut = tuple(slice(start + low, start + low + s) for start, s, (low, _) in zip(starts, sides, pads))
        drawn = np.pad(labels, pads)[cut]
        yield np.pad(hu, pads, mode="edge")[cut], drawn == number, (drawn > 0) & (drawn != number)


class _Overlap:
    """What is marked and what is drawn, over all windows."""

    def __init__(self) -> None:
        self.structures = self.found = 0
        self.drawn_ml = self.marked_ml = self._both_ml = 0.0

    def add(self, marked: np.ndarray, own: np.ndarray, affine: np.ndarray) -> None:
        both, drawn = int((marked & own).sum()), int(own.sum())
        self.structures += 1
        self.found += both / drawn >= FOUND_FRACTION
        voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
        self.drawn_ml += voxel_ml * drawn
        self.marked_ml += voxel_ml * int(marked.sum())
        self._both_ml += voxel_ml * both

    def dice(self) -> float:
        return round(2.0 * self._both_ml / (self.drawn_ml + self.marked_ml), 4)


def _ball(own: np.ndarray, affine: np.ndarray, radius_mm: float) -> np.ndarray:
    """The ball of the model card's no-skill row, in the middle of the structure's box (of the window, if all of it is
    within the volume)."""
    voxels = np.argwhere(own)
    offset = np.floor((voxels.min(0) + voxels.max(0) - np.array(own.shape) + 1) / 2)
    return noskill.ball(own.shape, affine, noskill.TrainingStatistics({}, {}, radius_mm, offset))


def _none(note: str) -> dict[str, Any]:
    return {"adherence": None, "adherence_note": note}


def _measured_dice(spec: ModelSpec, row: str, target: str) -> float | None:
    """Mean Dice of a row of the package's measured adherence to a class; None where it was not measured."""
    value: Any = spec.quality
    own = ("adherence",) if target == spec.target_class else ("adherence_targets", target)
    for key in (*own, row, "dice"):
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, (int, float)) else None
