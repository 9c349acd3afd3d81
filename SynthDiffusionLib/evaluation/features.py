"""About thirty quantities of a volume that a person can name: intensities, edges, texture, noise.

They need no class map but the target's, which every arm is given, so that the same features exist for every row.
Tissues are told apart by the image's own intensities, see `TISSUES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.evaluation.rows import Item

# Name to the HU that it lies between, by the class that the target lies in; "dense" is compact, and has no texture to
# measure. The last is for limbs, where there is air round the body and fat to be told from muscle. MR ("arbitrary") has
# no tissue values: there, 0 and 1000 are the darkest and the brightest of a case (`training.mr_intensity`), and the
# limits between are round figures, not chosen on any result.
TISSUES = {
    "lung": {"lung": (-np.inf, -400.0), "soft tissue": (-200.0, 200.0), "dense": (200.0, np.inf)},
    "arbitrary": {"dark": (-np.inf, 250.0), "grey": (250.0, 600.0), "bright": (600.0, np.inf)},
    None: {"air": (-np.inf, -400.0), "fat": (-200.0, -30.0), "soft tissue": (-30.0, 200.0), "dense": (200.0, np.inf)},
}
FEWEST_VOXELS = 20
GREY_LEVELS = 16
BANDS = ((0.03, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.5))  # cycles per voxel
LAGS = (1, 2, 3)
RIM_VOXELS = (1, 4)


def volume_features(
    hu: np.ndarray,
    mask: np.ndarray,
    intensity_range: tuple[float, float],
    target: str = "nodule",
    ground: str = "lung",
) -> dict[str, float]:
    """Features of one volume, by name.

    Args:
        hu: (I, J, K) float32 as `rows.as_evaluated` gives it.
        mask: (I, J, K) bool, the input mask.
        intensity_range: the model's.
        target: name of the mask's class, for the names of its features.
        ground: name of the class that it lies in, which decides the tissues; or a unit (`EvaluationData.tissues`).

    Returns:
        nan for a quantity of a tissue that has fewer than `FEWEST_VOXELS` voxels.
    """
    from scipy import ndimage

    hu = hu.astype(np.float64)
    found: dict[str, float] = {"mean": hu.mean(), "sd": hu.std()}
    for q in (5, 25, 50, 75, 95):
        found[f"p{q}"] = np.percentile(hu, q)
    found["fraction at lower limit"] = np.mean(hu <= intensity_range[0])
    found["fraction at upper limit"] = np.mean(hu >= intensity_range[1])

    gradient = np.sqrt(sum(g**2 for g in np.gradient(hu)))
    residual = hu - ndimage.gaussian_filter(hu, 1.0, mode="nearest")
    tissues = {target: mask, "rim": _rim(mask)}
    for name, (low, high) in TISSUES.get(ground, TISSUES[None]).items():
        tissues[name] = (hu < high) & ((hu >= low) if high == np.inf else (hu > low))
    for name, inside in tissues.items():
        if name not in (target, "rim"):
            found[f"{name} fraction"] = inside.mean()
        few = inside.sum() < FEWEST_VOXELS
        found[f"{name} mean"] = np.nan if few else hu[inside].mean()
        if name != "dense":
            found[f"{name} sd"] = np.nan if few else hu[inside].std()
            found[f"{name} noise"] = np.nan if few else np.log(residual[inside].std() + 1.0)
    found[f"{target} edge"] = _edge(gradient, mask)
    found["gradient mean"] = gradient.mean()
    found["gradient p95"] = np.percentile(gradient, 95)
    found["texture contrast"], found["texture homogeneity"] = _co_occurrence(hu, intensity_range)
    for lag in LAGS:
        found[f"residual correlation at {lag}"] = _correlation(residual, lag)
    for (low, high), power in zip(BANDS, band_power(hu)):
        found[f"log power {low}-{high}"] = power
    return {k: float(v) for k, v in found.items()}


def _rim(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    if not mask.any():
        return np.zeros(mask.shape, bool)
    distance = ndimage.distance_transform_edt(~mask)
    return (distance > RIM_VOXELS[0]) & (distance <= RIM_VOXELS[1])


def _edge(gradient: np.ndarray, mask: np.ndarray) -> float:
    """Mean gradient magnitude on the surface voxels of the mask."""
    from scipy import ndimage

    surface = mask & ~ndimage.binary_erosion(mask)
    return gradient[surface].mean() if surface.any() else np.nan


def _correlation(values: np.ndarray, lag: int) -> float:
    """Correlation of voxels `lag` apart along the axes, mean of the three."""
    found = []
    for axis in range(3):
        a, b = (np.take(values, range(s, values.shape[axis] - lag + s), axis) for s in (0, lag))
        spread = a.std() * b.std()
        found.append(((a - a.mean()) * (b - b.mean())).mean() / spread if spread > 1e-9 else 0.0)
    return float(np.mean(found))


def _co_occurrence(hu: np.ndarray, intensity_range: tuple[float, float]) -> tuple[float, float]:
    """Contrast and homogeneity of grey-level co-occurrence of neighbours (Haralick et al. 1973), mean of the axes."""
    low, high = intensity_range
    levels = np.minimum((hu - low) / (high - low) * GREY_LEVELS, GREY_LEVELS - 1).astype(np.int64)
    contrast, homogeneity = [], []
    for axis in range(3):
        difference = np.abs(np.diff(levels, axis=axis))
        contrast.append((difference**2).mean())
        homogeneity.append((1.0 / (1.0 + difference**2)).mean())
    return float(np.mean(contrast)), float(np.mean(homogeneity))


def band_power(hu: np.ndarray) -> list[float]:
    """Log10 of the mean power spectrum in the radial `BANDS`, after a Hann window; (HU² per frequency, any scale)."""
    windowed = hu - hu.mean()
    for axis, n in enumerate(hu.shape):
        shape = [1, 1, 1]
        shape[axis] = n
        windowed = windowed * np.hanning(n).reshape(shape)
    power = np.abs(np.fft.fftn(windowed)) ** 2 / hu.size
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*[np.fft.fftfreq(n) for n in hu.shape], indexing="ij")))
    return [float(np.log10(power[(frequency >= a) & (frequency < b)].mean() + 1e-3)) for a, b in BANDS]


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of every feature over the real training images, which all features are scaled by."""

    names: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray


def feature_table(
    items: Sequence[Item],
    target: int,
    intensity_range: tuple[float, float],
    target_name: str = "nodule",
    ground: str = "lung",
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names (D,) and values (N, D) of the features of N items; nan where a feature is not defined."""
    found = [volume_features(i.hu, i.classes == target, intensity_range, target_name, ground) for i in items]
    names = tuple(found[0])
    return names, np.array([[f[n] for n in names] for f in found])


def standard_of(names: tuple[str, ...], values: np.ndarray) -> Standard:
    """The scale of the features, from the (N, D) values of the training images.

    A feature that hardly varies among them would make any difference infinite, so its standard deviation is at least
    a thousandth of its size.
    """
    mean, sd = np.nanmean(values, axis=0), np.nanstd(values, axis=0, ddof=1)
    return Standard(names, mean, np.maximum(sd, 1e-3 * np.abs(mean) + 1e-6))


def standardise(values: np.ndarray, standard: Standard) -> np.ndarray:
    """Values in training standard deviations from the training mean; undefined ones become 0, the mean."""
    return np.nan_to_num((values - standard.mean) / standard.sd, nan=0.0)
