"""Volumes with a known answer: changed copies of training cases, which must be found, and stand-ins without any detail,
which nobody copied and which must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SHIFT_SHARE = 0.08  # of each side, at most
NOISE_SHARE = 0.03  # of the intensity range, standard deviation
BLUR_VOXELS = 1.0
GAMMA = 1.5
TURN_DEGREES = 8.0
WARP_SHARE = 0.05  # of the shortest side: standard deviation of the displacement along each axis
WARP_SMOOTHING_SHARE = 0.1  # of the shortest side: how smooth it is
SMOOTH_VOXELS = 3.0  # of the stand-ins
CARTOON_CLASSES = 4
MEANS = 20  # mean images
VERSION = 1  # of what is made

Range = tuple[float, float]
Make = Callable[[np.ndarray, np.ndarray, Range, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Control:
    """A kind of copy.

    Args:
        label: in tables.
        make: of an image (I, J, K), another of the same shape, the intensity range and a random generator; of the same
            shape, within the range.
        needed: whether a search that misses most of them is broken; the others show where it ends.
    """

    label: str
    make: Make
    needed: bool


def _same(image: np.ndarray, other: np.ndarray, limits: Range, rng: np.random.Generator) -> np.ndarray:
    return image.copy()


def _noise(image: np.ndarray, other: np.ndarray, limits: Range, rng: np.random.Generator) -> np.ndarray:
    sd = NOISE_SHARE * (limits[1] - limits[0])
    return np.clip(image + sd * rng.standard_normal(image.shape), *limits).astype(np.float32)


def _shift(image: np.ndarray, other: np.ndarray, limits: Range, rng: np.random.Generator) -> np.ndarray:
    """By whole voxels, not by none along all axes; beyond the ends, the outermost voxels are repeated."""
    most = [max(1, round(SHIFT_SHARE * n)) for n in image.shape]
    moves = [int(rng.integers(-m, m + 1)) for m in most]
    moves = moves if any(moves) else most
    places = [np.clip(np.arange(n) - m, 0, n - 1) for n, m in zip(image.shape, moves)]
    return image[np.ix_(*places)]


def _flip(image: np.ndarray, other: np.ndarray, limits: Range, rng: np.random.Generator) -> np.ndarray:
    return np.flip(image, int(rng.integers(3))).copy()


def _all_three(image: np.ndarray, other: np.ndarray, limits: Range, rng: np.random.Generator) -> np.ndarray:
    return _noise(_shift(_flip(image, other, limits, rng), other, limits, rng), other, limits, rng)


def _blur(image: np.ndarray, other: np.ndarray, limits: Range, rng: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    return ndimage.gaussian_filter(image, BLUR_VOXELS, mode="nearest")


def _gamma(image: np.ndarray, other: np.ndarray, limits: Range, rng: np.random.Generator) -> np.ndarray:
    low, high = limits
    power = GAMMA if rng.random() < 0.5 else 1.0 / GAMMA
    return (low + (high - low) * ((image - low) / (high - low)) ** power).astype(np.float32)


def _turn(image: np.ndarray, other: np.ndarray, limits: Range, rng: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    axes = [(0, 1), (0, 2), (1, 2)][int(rng.integers(3))]
    angle = float(rng.choice((-1, 1))) * TURN_DEGREES
    return ndimage.rotate(image, angle, axes, reshape=False, order=1, mode="nearest")


def _warp(image: np.ndarray, other: np.ndarray, limits: Range, rng: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    side = min(image.shape)
    rough = [ndimage.gaussian_filter(rng.standard_normal(image.shape), WARP_SMOOTHING_SHARE * side) for _ in range(3)]
    places = np.indices(image.shape) + np.stack([WARP_SHARE * side * r / r.std() for r in rough])
    return ndimage.map_coordinates(image, places, order=1, mode="nearest").astype(np.float32)


def _halves(image: np.ndarray, other: np.ndarray, limits: Range, rng: np.random.Generator) -> np.ndarray:
    """One half of a case, and the other half of another."""
    axis = int(rng.integers(3))
    first = np.arange(image.shape[axis]) < image.shape[axis] // 2
    return np.where(np.expand_dims(first, [a for a in range(3) if a != axis]), image, other)


CONTROLS = {
    "exact": Control("exact copies", _same, True),
    "noise": Control("with noise", _noise, True),
    "shift": Control("shifted", _shift, True),
    "flip": Control("mirrored", _flip, True),
    "all_three": Control("mirrored, shifted, with noise", _all_three, True),
    "blur": Control("blurred", _blur, False),
    "gamma": Control("with another gamma", _gamma, False),
    "turn": Control("rotated", _turn, False),
    "warp": Control("warped", _warp, False),
    "halves": Control("half of one case, half of another", _halves, False),
}


def planted(images: Sequence[np.ndarray], kind: str, limits: Range, seed: int) -> list[np.ndarray]:
    """A copy of each image, changed in one way of `CONTROLS`.

    Args:
        images: (I, J, K) each, of one shape.
        limits: intensity range of the images.
        seed: copy n depends on it, the kind and n alone.
    """
    order = list(CONTROLS).index(kind)
    return [
        CONTROLS[kind].make(image, images[(n + 1) % len(images)], limits, np.random.default_rng([seed, order, n]))
        for n, image in enumerate(images)
    ]


def mean_images(images: Sequence[np.ndarray], seed: int, count: int = MEANS) -> list[np.ndarray]:
    """Means of random halves of the images: smooth, like all of them and a copy of none."""
    rng = np.random.default_rng([seed, 1000])
    half = max(2, len(images) // 2)
    return [np.mean([images[i] for i in rng.permutation(len(images))[:half]], axis=0) for _ in range(count)]


def smoothed(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The images without any detail."""
    from scipy import ndimage

    return [ndimage.gaussian_filter(image, SMOOTH_VOXELS, mode="nearest") for image in images]


@dataclass(frozen=True)
class FlatClasses:
    """A few classes of intensity.

    Args:
        centers: (C,) their means, rising.
        edges: (C - 1,) between them.
        spreads: (C,) standard deviation of the voxels of each.
    """

    centers: np.ndarray
    edges: np.ndarray
    spreads: np.ndarray

    def numbers(self, image: np.ndarray) -> np.ndarray:
        """The class of each voxel of an image, after some smoothing, so that areas are whole. (I, J, K) int."""
        from scipy import ndimage

        return np.digitize(ndimage.gaussian_filter(image, 1.0, mode="nearest"), self.edges)


def flat_classes(like: Sequence[np.ndarray], seed: int) -> FlatClasses:
    """Classes of the voxels of images, by k-means."""
    from scipy.cluster.vq import kmeans2

    rng = np.random.default_rng([seed, 1001])
    values = np.concatenate([rng.choice(image.ravel(), 2000) for image in like]).astype(np.float64)
    start = np.quantile(values, (np.arange(CARTOON_CLASSES) + 0.5) / CARTOON_CLASSES)
    centers = np.sort(kmeans2(values[:, None], np.unique(start)[:, None], minit="matrix", seed=0)[0].ravel())
    edges = (centers[1:] + centers[:-1]) / 2
    of = np.digitize(values, edges)
    spreads = [values[of == c].std() if (of == c).any() else 0.0 for c in range(len(centers))]
    return FlatClasses(centers, edges, np.array(spreads))


def cartoons(images: Sequence[np.ndarray], like: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """The images as flat areas of a few intensities, the class means of `like` (k-means of its voxels)."""
    classes = flat_classes(like, seed)
    return [classes.centers[classes.numbers(image)].astype(np.float32) for image in images]


def noisy_cartoon(image: np.ndarray, classes: FlatClasses, rng: np.random.Generator) -> np.ndarray:
    """An image as flat areas, with independent normal noise of each class's standard deviation."""
    of = classes.numbers(image)
    return (classes.centers[of] + classes.spreads[of] * rng.standard_normal(image.shape)).astype(np.float32)
