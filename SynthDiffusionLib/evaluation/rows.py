"""Rows of the tables: sets of volumes that are measured in the same way, one volume or more per mask.

A row is one arm of the model, a no-skill stand-in, or real images. All rows see the same preparation: intensities are
clipped to the model's range and rounded to whole numbers, so that nothing but the image can tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from SynthDiffusionLib.training.dataset import Case

REGION_SIDE = 32

KINDS = {"real": "real images, for reference", "no-skill": "made without any model", "ours": "made by the model"}


@dataclass(frozen=True)
class Item:
    """One volume of a row.

    Args:
        case: name of the case whose mask it was made for.
        patient: of that case; the unit of every interval and every fold.
        hu: (I, J, K) float32, clipped and rounded.
        classes: (I, J, K) uint8, the class map that it was made for.
        affine: (4, 4) of both.
        seed: of the sample, None where there is none.
    """

    case: str
    patient: str
    hu: np.ndarray
    classes: np.ndarray
    affine: np.ndarray
    seed: int | None = None


@dataclass(frozen=True)
class Row:
    """A named set of items.

    Args:
        name: key in the results, such as "class_means_noise".
        label: as printed.
        kind: key of `KINDS`.
        items: the volumes.
    """

    name: str
    label: str
    kind: str
    items: tuple[Item, ...]

    @property
    def patients(self) -> list[str]:
        return [item.patient for item in self.items]


def as_evaluated(hu: np.ndarray, intensity_range: tuple[float, float]) -> np.ndarray:
    """Values as every row is measured: clipped to the model's range, whole numbers, float32."""
    return np.rint(np.clip(hu, *intensity_range)).astype(np.float32)


def real_items(cases: Sequence[Case], intensity_range: tuple[float, float]) -> tuple[Item, ...]:
    """Real images with their own class maps."""
    return tuple(
        Item(c.name, c.patient, as_evaluated(c.image.array, intensity_range), c.classes.array, c.image.affine)
        for c in cases
    )


def region_crop(item: Item, target: int, side: int | Sequence[int] = REGION_SIDE) -> Item:
    """The cube, or box, of `side` voxels round the middle of the target's bounding box, moved inwards at the border.

    Inpainted volumes are compared on it, since outside it they are the real patient; and volumes of different sizes,
    since what is compared must be of one.
    """
    voxels = np.argwhere(item.classes == target)
    shape = np.array(item.hu.shape)
    # An empty mask, which a model that makes its own may leave, has the middle of its volume.
    middle = (voxels.min(0) + voxels.max(0) + 1) // 2 if len(voxels) else shape // 2
    size = np.minimum(side, shape)
    start = np.clip(middle - size // 2, 0, shape - size)
    inside = tuple(slice(a, a + n) for a, n in zip(start, size))
    affine = item.affine.copy()
    affine[:3, 3] += item.affine[:3, :3] @ start
    return replace(item, hu=item.hu[inside], classes=item.classes[inside], affine=affine)


def crop_row(row: Row, target: int, side: int | Sequence[int] = REGION_SIDE) -> Row:
    """A row of the `region_crop`s."""
    return replace(row, items=tuple(region_crop(item, target, side) for item in row.items))


def common_crop(row: Row, target: int, crop: Sequence[int] | None) -> Row:
    """A row as its volumes are compared as wholes: cut to one size where the data set has several
    (`EvaluationData.crop`), and as it is where it has one."""
    return row if crop is None else crop_row(row, target, crop)


def fitted(array: np.ndarray, shape: Sequence[int], fill: float, shift: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """An array laid on another grid, middle on middle (moved by `shift` voxels): cut where it is larger, and `fill`
    where there is nothing of it."""
    result = np.full(tuple(shape), fill, array.dtype)
    start = [(n - m) // 2 + int(d) for n, m, d in zip(shape, array.shape, shift)]
    here = tuple(slice(max(0, a), max(0, min(n, a + m))) for a, n, m in zip(start, shape, array.shape))
    there = tuple(slice(h.start - a, h.stop - a) for h, a in zip(here, start))
    if all(h.stop > h.start for h in here):
        result[here] = array[there]
    return result


def synthesised_share(mask: np.ndarray, affine: np.ndarray, margin_mm: float) -> np.ndarray:
    """Share of the synthetic value in every voxel when a drawn mask is inpainted: 1 in the drawing, falling to 0 over
    the outer half of the rim. The same as a job's. (I, J, K) float64."""
    from SynthDiffusionLib.inpainting.regions import find_regions

    share = np.zeros(mask.shape)
    for region in find_regions(mask, np.linalg.norm(affine[:3, :3], axis=0), margin_mm):
        share[region.box] = np.maximum(share[region.box], region.blend_weights(margin_mm))
    return share


def paste(real: Item, filling: Item, target: int, margin_mm: float) -> Item:
    """`real` with the region of its target filled from the same voxels of `filling`: inpainting without a model."""
    share = synthesised_share(real.classes == target, real.affine, margin_mm)
    return replace(real, hu=np.rint(share * filling.hu + (1.0 - share) * real.hu).astype(np.float32))
