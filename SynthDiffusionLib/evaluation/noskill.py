"""Stand-ins that need no model. A figure of merit says something only as far as it tells the model from these.

1. a ball, blind to the image: a prediction (not an image) of a ball of the median training nodule's radius where
   training nodules lie on average; its Dice is what position alone is worth.
2. an unrelated real image: a real cube of a validation patient, taken as if it had been made for the mask.
3. class means plus noise: the mean and the voxel standard deviation of each class in the training images, painted on
   the class map as independent Gaussian noise.
4. a blob in flat lung: the training images' mean lung value everywhere, and the mask at their mean nodule value,
   blurred.

All of them are deterministic by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.rows import Item, Row, as_evaluated, paste
from SynthDiffusionLib.training.dataset import Case

SEED = 2026
BLOB_SIGMA_VOXELS = 1.0
LABELS = {
    "ball": "ball, blind to the image",
    "unrelated_real": "unrelated real image",
    "class_means_noise": "class means plus noise",
    "blob_flat_lung": "blob in flat lung",
}


@dataclass(frozen=True)
class TrainingStatistics:
    """What the stand-ins know of the training images.

    Args:
        mean: class value to mean intensity; every case counts the same.
        sd: class value to standard deviation of its voxels about that mean.
        radius_mm: of the ball with the median volume of the target.
        offset: (3,) mean position of the target's centroid, in voxels from the middle of the cube.
    """

    mean: dict[int, float]
    sd: dict[int, float]
    radius_mm: float
    offset: np.ndarray


def training_statistics(
    cases: Sequence[Case], classes: Sequence[int], target: int, intensity_range: tuple[float, float]
) -> TrainingStatistics:
    """Measures the training cases.

    Args:
        classes: values of the class map; a class that no case has gets the lower end of the range.
        target: value of the target class.
    """
    mean, sd = {}, {}
    images = [as_evaluated(c.image.array, intensity_range) for c in cases]
    for value in classes:
        inside = [hu[c.classes.array == value] for hu, c in zip(images, cases)]
        inside = [v for v in inside if len(v)]
        if not inside:
            mean[value], sd[value] = float(intensity_range[0]), 0.0
            continue
        mean[value] = float(np.mean([v.mean() for v in inside]))
        sd[value] = float(np.sqrt(np.mean([((v - mean[value]) ** 2).mean() for v in inside])))
    volumes, offsets = [], []
    for c in cases:
        voxels = np.argwhere(c.classes.array == target)
        if len(voxels):
            volumes.append(len(voxels) * float(abs(np.linalg.det(c.classes.affine[:3, :3]))))
            offsets.append(voxels.mean(0) - (np.array(c.classes.shape) - 1) / 2)
    if not volumes:
        raise BadInput("No training case holds the target class", "Prepare the data set again.")
    radius = float((3.0 * np.median(volumes) / (4.0 * np.pi)) ** (1.0 / 3.0))
    return TrainingStatistics(mean, sd, radius, np.mean(offsets, axis=0))


def ball(shape: tuple[int, int, int], affine: np.ndarray, statistics: TrainingStatistics) -> np.ndarray:
    """The prediction that is blind to the image. (I, J, K) bool."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    middle = (np.array(shape) - 1) / 2 + statistics.offset
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return (((grid - middle) * spacing) ** 2).sum(-1) <= statistics.radius_mm**2


def unrelated_real(
    cases: Sequence[Item], others: Sequence[Case], intensity_range: tuple[float, float], seed: int = SEED
) -> Row:
    """Real images of `others` under the masks of `cases`: dealt at random, none twice before all are used once.

    Raises:
        BadInput: the others share a patient with the cases, or lie on other grids.
    """
    shared = sorted({c.patient for c in others} & {c.patient for c in cases})
    if shared:
        raise BadInput(f"Patient '{shared[0]}' is in two parts of the split", "Prepare the data set again.")
    order = np.random.default_rng([seed, 1]).permutation(len(others))
    items = []
    for i, case in enumerate(cases):
        other = others[order[i % len(others)]]
        if other.image.shape != case.hu.shape:
            raise BadInput(
                f"'{other.name}' and '{case.case}' have grids of different size", "Prepare cubes of one size."
            )
        items.append(
            Item(case.case, case.patient, as_evaluated(other.image.array, intensity_range), case.classes, case.affine)
        )
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


def blob_flat_lung(
    cases: Sequence[Item],
    statistics: TrainingStatistics,
    lung: int,
    target: int,
    intensity_range: tuple[float, float],
) -> Row:
    """The mask at the mean nodule value in lung of one value, blurred by `BLOB_SIGMA_VOXELS`."""
    from scipy import ndimage

    items = []
    for case in cases:
        weight = ndimage.gaussian_filter((case.classes == target).astype(np.float64), BLOB_SIGMA_VOXELS)
        hu = statistics.mean[lung] + weight * (statistics.mean[target] - statistics.mean[lung])
        items.append(Item(case.case, case.patient, as_evaluated(hu, intensity_range), case.classes, case.affine))
    return Row("blob_flat_lung", LABELS["blob_flat_lung"], "no-skill", tuple(items))


def pasted(row: Row, real: Sequence[Item], target: int, margin_mm: float) -> Row:
    """A no-skill row for inpainting: its volumes pasted into the real images where inpainting would synthesise."""
    items = tuple(paste(r, item, target, margin_mm) for r, item in zip(real, row.items))
    return Row(f"{row.name}_pasted", f"{row.label}, pasted", row.kind, items)
