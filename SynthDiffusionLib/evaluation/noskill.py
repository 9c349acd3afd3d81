"""Stand-ins that need no model. A figure of merit says something only as far as it tells the model from these.

1. a ball, blind to the image: a prediction (not an image) of a ball of the median training nodule's radius where
   training nodules lie on average; its Dice is what position alone is worth.
2. an unrelated real image: a real volume of a validation patient, taken as if it had been made for the mask.
3. class means plus noise: the mean and the voxel standard deviation of each class in the training images, painted on
   the class map as independent Gaussian noise.
4. a blob in flat ground: the training images' mean value of what a target lies in (lung, muscle) everywhere, and the
   mask at their mean target value, blurred.

Where the volumes of a data set are of different sizes, two more:

5. an ellipsoid from the size of the volume, blind to the image: such volumes were cut round their targets, so that a
   volume's size gives away that of its target. It fills the box that lies as far from the ends of the volume as the
   training targets do.
6. a painted training image: the real image of the training patient whose target is most like the drawn one in size,
   laid with its target on the drawn one, and the drawn one painted in at the mean target value, blurred. What a model
   would be worth that recalls an image and paints.

They are not made where all volumes are of one size: there a volume's size says nothing, and published figures have no
such rows. Such volumes may have been cut round their targets all the same, and padded with black to one size; then

5b. an ellipsoid inside the box that is not black: the same as 5, for the smallest box that holds what is brighter than
    padding. It looks at the image, but at nothing but where that ends.

Where a scheme has no class but its targets (parts of an organ in MR), what a target lies in is unknown, and "flat
ground" is the mean of everything outside the targets. Such cut-outs resemble each other, so that two more are made:

7. the mean training image: training images laid with their targets on the drawn ones and averaged, all that is drawn
   painted in at the mean value of its class, blurred.
8. the training image of the nearest mask: of all training masks, laid middle on middle, the one with the highest Dice
   with the drawn one; its image, unchanged. What a model would be worth that looks a training case up.

All of them are deterministic by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.cases import borders_mm
from SynthDiffusionLib.evaluation.rows import Item, Row, as_evaluated, fitted, paste
from SynthDiffusionLib.training.dataset import Case

SEED = 2026
BLOB_SIGMA_VOXELS = 1.0
LABELS = {
    "ball": "ball, blind to the image",
    "unrelated_real": "unrelated real image",
    "class_means_noise": "class means plus noise",
    "ellipsoid": "ellipsoid from the size of the volume, blind to the image",
    "bright_ellipsoid": "ellipsoid inside the box that is not black, blind to what is in it",
    "painted_training": "training image, blob painted in",
    "mean_training": "mean training image, mask painted in",
    "nearest_training": "training image of the nearest mask",
}
# Predictions: the items of these rows are images that are not looked at.
BLIND = ("ball", "ellipsoid")
# Predictions that look at nothing but where the image ends and black padding begins.
BOX = "bright_ellipsoid"
PREDICTIONS = (*BLIND, BOX)
BLACK = 0.02  # of the intensity range: what is darker is padding
BRIGHT_PLANE = 0.1  # of the brightest plane's share of bright voxels: what has less is outside the box
LEAST_PADDING = 0.1  # of the volume outside that box, median of the training images: below it, none is padding


@dataclass(frozen=True)
class TrainingStatistics:
    """What the stand-ins know of the training images.

    Args:
        mean: class value to mean intensity; every case counts the same.
        sd: class value to standard deviation of its voxels about that mean.
        radius_mm: of the ball with the median volume of the target.
        offset: (3,) mean position of the target's centroid, in voxels from the middle of the volume.
        border_mm: (3,) median distance of the target's bounding box from the ends of the volume, along each axis.
        bright_border: (3, 2) the same in voxels, and on either side, from the ends of the box that is not black.
        padding: share of the volume outside that box, median of the training images.
        floor: intensity that is still black.
    """

    mean: dict[int, float]
    sd: dict[int, float]
    radius_mm: float
    offset: np.ndarray
    border_mm: np.ndarray | None = None
    bright_border: np.ndarray | None = None
    padding: float = 0.0
    floor: float = -np.inf


def blob_row(ground: str) -> str:
    """Name of the row of the blob, by the class that it lies in: "blob_flat_lung"."""
    return f"blob_flat_{ground}"


def training_statistics(
    cases: Sequence[Case], classes: Sequence[int], target: int, intensity_range: tuple[float, float]
) -> TrainingStatistics:
    """Measures the training cases.

    Args:
        classes: values of the class map; a class that no case has gets the lower end of the range.
        target: value of the target class.
    """
    mean, sd = {}, {}
    if not cases:
        raise BadInput("There is no training case", "Prepare the data set again.")
    images = [as_evaluated(c.image.array, intensity_range) for c in cases]
    for value in classes:
        inside = [hu[c.classes.array == value] for hu, c in zip(images, cases)]
        inside = [v for v in inside if len(v)]
        if not inside:
            mean[value], sd[value] = float(intensity_range[0]), 0.0
            continue
        mean[value] = float(np.mean([v.mean() for v in inside]))
        sd[value] = float(np.sqrt(np.mean([((v - mean[value]) ** 2).mean() for v in inside])))
    floor = intensity_range[0] + BLACK * (intensity_range[1] - intensity_range[0])
    volumes, offsets, borders, bright, padding = [], [], [], [], []
    for c, hu in zip(cases, images):
        voxels = np.argwhere(c.classes.array == target)
        if len(voxels):
            volumes.append(len(voxels) * float(abs(np.linalg.det(c.classes.affine[:3, :3]))))
            offsets.append(voxels.mean(0) - (np.array(c.classes.shape) - 1) / 2)
            borders.append(borders_mm(c, target))
            box = bright_box(hu, floor)
            bright.append(np.stack([voxels.min(0) - box[:, 0], box[:, 1] - voxels.max(0)], axis=1))
            padding.append(1.0 - np.prod(box[:, 1] - box[:, 0] + 1) / hu.size)
    if not volumes:
        raise BadInput("No training case holds the target class", "Prepare the data set again.")
    radius = float((3.0 * np.median(volumes) / (4.0 * np.pi)) ** (1.0 / 3.0))
    border = np.median(np.array(borders), axis=(0, 2))
    sides = np.median(np.array(bright), axis=0)
    return TrainingStatistics(
        mean, sd, radius, np.mean(offsets, axis=0), border, sides, float(np.median(padding)), floor
    )


def ball(shape: tuple[int, int, int], affine: np.ndarray, statistics: TrainingStatistics) -> np.ndarray:
    """The prediction that is blind to the image. (I, J, K) bool."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    middle = (np.array(shape) - 1) / 2 + statistics.offset
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return (((grid - middle) * spacing) ** 2).sum(-1) <= statistics.radius_mm**2


def ellipsoid(shape: tuple[int, int, int], affine: np.ndarray, statistics: TrainingStatistics) -> np.ndarray:
    """The prediction from the size of the volume alone. (I, J, K) bool."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    half = np.maximum(np.array(shape) * spacing / 2 - statistics.border_mm, spacing)
    return _filled(shape, (np.array(shape) - 1) / 2, half / spacing)


def bright_ellipsoid(hu: np.ndarray, statistics: TrainingStatistics) -> np.ndarray:
    """The prediction from where the black padding of an image begins. (I, J, K) bool."""
    box = bright_box(hu, statistics.floor)
    low, high = box[:, 0] + statistics.bright_border[:, 0], box[:, 1] - statistics.bright_border[:, 1]
    return _filled(hu.shape, (low + high) / 2, np.maximum((high - low + 1) / 2, 1.0))


def bright_box(hu: np.ndarray, floor: float) -> np.ndarray:
    """First and last plane along each axis with at least `BRIGHT_PLANE` times as many voxels brighter than `floor` as
    the plane that has most, so that single bright voxels of a synthetic image do not count. The whole volume where
    nothing is brighter.

    Returns:
        (3, 2) voxels, both inside the box.
    """
    bright = hu > floor
    box = np.array([[0, n - 1] for n in hu.shape])
    if bright.any():
        for axis in range(3):
            shares = bright.mean(tuple(a for a in range(3) if a != axis))
            box[axis] = np.flatnonzero(shares >= BRIGHT_PLANE * shares.max())[[0, -1]]
    return box


def predicted(name: str, item: Item, statistics: TrainingStatistics) -> np.ndarray:
    """What one of the `PREDICTIONS` says. (I, J, K) bool."""
    if name == BOX:
        return bright_ellipsoid(item.hu, statistics)
    return {"ball": ball, "ellipsoid": ellipsoid}[name](item.hu.shape, item.affine, statistics)


def _filled(shape: tuple[int, int, int], middle: np.ndarray, half: np.ndarray) -> np.ndarray:
    """The ellipsoid with that middle and those half axes, in voxels."""
    axes = [((np.arange(n) - m) / h).astype(np.float32) ** 2 for n, m, h in zip(shape, middle, half)]
    return axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :] <= 1.0


def unrelated_real(
    cases: Sequence[Item], others: Sequence[Case], intensity_range: tuple[float, float], seed: int = SEED
) -> Row:
    """Real images of `others` under the masks of `cases`: dealt at random, none twice before all are used once. One of
    another size is laid on the case's grid, middle on middle, with the lower end of the range round it.

    Raises:
        BadInput: the others share a patient with the cases.
    """
    shared = sorted({c.patient for c in others} & {c.patient for c in cases})
    if shared:
        raise BadInput(f"Patient '{shared[0]}' is in two parts of the split", "Prepare the data set again.")
    order = np.random.default_rng([seed, 1]).permutation(len(others))
    items = []
    for i, case in enumerate(cases):
        other = others[order[i % len(others)]]
        hu = as_evaluated(other.image.array, intensity_range)
        if hu.shape != case.hu.shape:
            hu = fitted(hu, case.hu.shape, intensity_range[0])
        items.append(Item(case.case, case.patient, hu, case.classes, case.affine))
    return Row("unrelated_real", LABELS["unrelated_real"], "no-skill", tuple(items))


def class_means_noise(
    cases: Sequence[Item],
    statistics: TrainingStatistics,
    intensity_range: tuple[float, float],
    seed: int = SEED,
) -> Row:
    """The training images' class means and noise, painted on the class maps of `cases`."""
    items = []
    for i, case in enumerate(cases):
        noise = np.random.default_rng([seed, 2, i]).standard_normal(case.hu.shape)
        hu = np.zeros(case.hu.shape)
        for value in np.unique(case.classes):
            inside = case.classes == value
            hu[inside] = statistics.mean[int(value)] + statistics.sd[int(value)] * noise[inside]
        items.append(Item(case.case, case.patient, as_evaluated(hu, intensity_range), case.classes, case.affine))
    return Row("class_means_noise", LABELS["class_means_noise"], "no-skill", tuple(items))


def blob_flat(
    cases: Sequence[Item],
    statistics: TrainingStatistics,
    ground: int,
    target: int,
    intensity_range: tuple[float, float],
    ground_name: str,
) -> Row:
    """The mask at the mean target value in ground of one value, blurred by `BLOB_SIGMA_VOXELS`."""
    items = []
    for case in cases:
        weight = _blob_weight(case.classes, target)
        hu = statistics.mean[ground] + weight * (statistics.mean[target] - statistics.mean[ground])
        items.append(Item(case.case, case.patient, as_evaluated(hu, intensity_range), case.classes, case.affine))
    return Row(blob_row(ground_name), f"blob in flat {ground_name}", "no-skill", tuple(items))


def painted_training(
    cases: Sequence[Item],
    training: Sequence[Case],
    statistics: TrainingStatistics,
    target: int,
    intensity_range: tuple[float, float],
) -> Row:
    """For each mask the training image whose target is nearest in volume, with the mask painted in as a blob."""
    sizes = [float((c.classes.array == target).sum()) * np.prod(c.classes.spacing) for c in training]
    candidates = [(size, c) for size, c in zip(sizes, training) if size > 0]
    items = []
    for case in cases:
        mask = case.classes == target
        size = max(1.0, float(mask.sum())) * np.prod(np.linalg.norm(case.affine[:3, :3], axis=0))
        source = min(candidates, key=lambda pair: (abs(np.log(pair[0] / size)), pair[1].name))[1]
        # `fitted` lays middle on middle; the shift then brings centroid on centroid.
        corner = (np.array(mask.shape) - np.array(source.classes.shape)) // 2
        shift = _centroid(mask) - _centroid(source.classes.array == target) - corner
        hu = as_evaluated(source.image.array, intensity_range)
        hu = fitted(hu, mask.shape, intensity_range[0], np.rint(shift).astype(int))
        weight = _blob_weight(case.classes, target)
        hu = (1.0 - weight) * hu + weight * statistics.mean[target]
        items.append(Item(case.case, case.patient, as_evaluated(hu, intensity_range), case.classes, case.affine))
    return Row("painted_training", LABELS["painted_training"], "no-skill", tuple(items))


def mean_training(
    cases: Sequence[Item],
    training: Sequence[Case],
    statistics: TrainingStatistics,
    intensity_range: tuple[float, float],
) -> Row:
    """The mean training image under each mask, with all that is drawn painted in at the mean value of its class.

    Training images are laid with the centroid of all their targets on the middle of one frame, to whole voxels, and
    averaged where they have voxels; that frame is laid on the centroid of what is drawn. Beyond all of them there is
    the lower end of the range.
    """
    reach = 2 * np.max([c.classes.shape for c in training] + [i.classes.shape for i in cases], axis=0) + 2
    total, count = np.zeros(reach), np.zeros(reach)
    for c in training:
        if not c.classes.array.any():
            continue
        start = np.rint(reach / 2 - _centroid(c.classes.array > 0)).astype(int)
        inside = tuple(slice(a, a + n) for a, n in zip(start, c.classes.shape))
        total[inside] += as_evaluated(c.image.array, intensity_range)
        count[inside] += 1
    mean = np.where(count > 0, total / np.maximum(count, 1), intensity_range[0])
    items = []
    for case in cases:
        drawn = case.classes > 0
        start = np.rint(reach / 2 - _centroid(drawn)).astype(int)
        hu = mean[tuple(slice(a, a + n) for a, n in zip(start, drawn.shape))]
        weights = {int(v): _blob_weight(case.classes, v) for v in np.unique(case.classes) if v}
        share = sum(weights.values(), np.zeros(drawn.shape))
        hu = (1.0 - share) * hu + sum(w * statistics.mean[v] for v, w in weights.items())
        items.append(replace(case, hu=as_evaluated(hu, intensity_range), seed=None))
    return Row("mean_training", LABELS["mean_training"], "no-skill", tuple(items))


def nearest_training(
    cases: Sequence[Item], training: Sequence[Case], target: int, intensity_range: tuple[float, float]
) -> Row:
    """For each mask the real training image whose own mask, laid middle on middle, has the highest Dice with it."""
    items = []
    for case in cases:
        source = nearest_mask(case.classes == target, training, target)[0]
        hu = fitted(as_evaluated(source.image.array, intensity_range), case.classes.shape, intensity_range[0])
        items.append(replace(case, hu=hu, seed=None))
    return Row("nearest_training", LABELS["nearest_training"], "no-skill", tuple(items))


def nearest_mask(mask: np.ndarray, training: Sequence[Case], target: int) -> tuple[Case, float]:
    """The case whose target's mask, laid middle on middle on the grid of `mask`, has the highest Dice with it, and that
    Dice; the first by name of equal ones. Voxels that are cut off count as not found."""
    best: tuple[float, Case] | None = None
    for c in sorted(training, key=lambda case: case.name):
        other = c.classes.array == target
        both = int((fitted(other, mask.shape, False) & mask).sum())
        dice = 2.0 * both / max(1, int(mask.sum()) + int(other.sum()))
        if best is None or dice > best[0]:
            best = (dice, c)
    return best[1], best[0]


def _blob_weight(classes: np.ndarray, target: int) -> np.ndarray:
    from scipy import ndimage

    return ndimage.gaussian_filter((classes == target).astype(np.float64), BLOB_SIGMA_VOXELS)


def _centroid(mask: np.ndarray) -> np.ndarray:
    """Of the marked voxels; the middle of the grid where none is, as in an empty mask that a model made."""
    return np.argwhere(mask).mean(0) if mask.any() else (np.array(mask.shape) - 1) / 2


def pasted(row: Row, real: Sequence[Item], target: int, margin_mm: float) -> Row:
    """A no-skill row for inpainting: its volumes pasted into the real images where inpainting would synthesise."""
    items = tuple(paste(r, item, target, margin_mm) for r, item in zip(real, row.items))
    return Row(f"{row.name}_pasted", f"{row.label}, pasted", row.kind, items)
