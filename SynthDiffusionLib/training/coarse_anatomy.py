"""Coarse anatomy of chest CT, as a person would draw it: body outline, filled lung, bone.

Training needs such maps for images that come with a nodule mask only. They are derived from HU here, and then made
blunt: vessels are inside the lung, marrow is inside the bone, outlines are smooth. The raw thresholds would hand the
patient over to the model (on LIDC cubes the class means of five HU classes explain 96 % of an image) and no user could
draw them, so they are never a condition themselves.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

LUNG_BELOW_HU = -400.0
OUTSIDE_AIR_BELOW_HU = -960.0
BONE_ABOVE_HU = 200.0
SMALLEST_BONE_MM3 = 150.0
HOMOGENEOUS_BELOW_HU = 30.0
NARROWEST_VESSEL_MM = 7.0


def _ball(radius: float) -> np.ndarray:
    r = int(np.ceil(radius))
    x, y, z = np.mgrid[-r : r + 1, -r : r + 1, -r : r + 1]
    return x * x + y * y + z * z <= radius * radius + 0.5


def _close(mask: np.ndarray, radius: int) -> np.ndarray:
    """Closing that treats the outside of the array like its edge, so that structures cut by the border stay whole."""
    padded = np.pad(mask, radius, mode="edge")
    closed = ndimage.binary_closing(padded, _ball(radius))
    inner = tuple(slice(radius, -radius) for _ in range(3))
    return closed[inner] | mask


def _contrast_filled(smooth: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """Dense voxels that belong to the heart or a great vessel with contrast medium: wide and without texture.

    Bone as wide as that is spongy inside, and its compact outside is thin.
    """
    mean = ndimage.gaussian_filter(smooth, 1.5, mode="nearest")
    spread = np.sqrt(np.maximum(ndimage.gaussian_filter(smooth**2, 1.5, mode="nearest") - mean**2, 0.0))
    padded = np.pad(dense & (spread < HOMOGENEOUS_BELOW_HU), 8, mode="edge")
    wide = ndimage.binary_opening(padded, _ball(NARROWEST_VESSEL_MM / 2))[8:-8, 8:-8, 8:-8]
    return ndimage.binary_dilation(wide, _ball(4.5)) & dense


def smooth_outline(mask: np.ndarray, sigma: float, bias: float = 0.0) -> np.ndarray:
    """A blunter version of a mask: Gaussian smoothing and a threshold at one half.

    Args:
        mask: (I, J, K) bool.
        sigma: of the Gaussian, in voxels; 0 returns the mask.
        bias: added to the smoothed mask; positive values grow it.
    """
    if sigma <= 0:
        return mask
    return ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest") + bias > 0.5


def chest_class_map(hu: np.ndarray, nodule: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """Class map of one chest CT at 1 mm: 1 body, 2 lung, 3 bone, 4 nodule, 0 outside.

    Args:
        hu: (I, J, K) HU.
        nodule: (I, J, K) bool.
        sigma: smoothing of the outlines in voxels.

    Returns:
        (I, J, K) uint8 in the label scheme `lung-nodule-ct`.
    """
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), 1.0, mode="nearest")
    air = smooth < LUNG_BELOW_HU

    outside = np.zeros_like(air)
    parts, count = ndimage.label(air)
    for part in range(1, count + 1):
        voxels = parts == part
        # Air around the patient is homogeneous and near -1000 HU; lung and even emphysema are denser and textured.
        # Its border is blurred, and says nothing.
        core = ndimage.binary_erosion(voxels, iterations=2, border_value=1)
        if core.sum() > 500 and np.median(hu[core]) < OUTSIDE_AIR_BELOW_HU and smooth[core].std() < 60:
            outside |= voxels
    lung = _close((air & ~outside) | nodule, 4)
    lung = ndimage.binary_fill_holes(lung)
    lung = smooth_outline(lung, sigma) | nodule
    lung &= ~outside

    dense = ndimage.gaussian_filter(hu.astype(np.float32), 0.7, mode="nearest") > BONE_ABOVE_HU
    dense &= ~ndimage.binary_erosion(lung, iterations=2) & ~nodule
    dense &= ~_contrast_filled(smooth, dense)
    parts, count = ndimage.label(dense)
    if count:
        sizes = ndimage.sum_labels(dense, parts, np.arange(1, count + 1))
        dense = np.isin(parts, 1 + np.flatnonzero(sizes >= SMALLEST_BONE_MM3))
    bone = smooth_outline(_close(dense, 3), sigma / 2) & ~outside

    classes = np.ones(hu.shape, np.uint8)
    classes[outside] = 0
    classes[lung] = 2
    classes[bone & ~lung] = 3
    classes[nodule] = 4
    return classes
