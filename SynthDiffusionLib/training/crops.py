"""Random crops of volumes that stay on the device: networks this small wait for the CPU otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

AIR = -1.0


class CropSettings(Protocol):
    """Size in voxels, and how often a crop is flipped, along all axes or along each, and turned about one of them."""

    size: tuple[int, ...]
    flip_probability: float | tuple[float, ...]
    rotation_degrees: float
    rotation_probability: float


def pad_to(volume: torch.Tensor, size: Sequence[int], value: float) -> torch.Tensor:
    """Pads the last three axes at both ends, the far one more, to at least `size`."""
    short = [max(0, want - have) for have, want in zip(volume.shape[-3:], size)]
    if not any(short):
        return volume
    pads = [n for s in reversed(short) for n in (s // 2, s - s // 2)]
    return F.pad(volume, pads, value=value)


def mirror_to(array: np.ndarray, size: Sequence[int], before: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """Mirrors an array at the ends of its three axes: `before` voxels at the near one, then up to at least `size`.

    Of an image that ends within the body, as MR images cut round an organ do, air would teach that there is air.
    """
    pads = [(b, max(0, want - have - b)) for have, want, b in zip(array.shape, size, before)]
    return np.pad(array, pads, mode="symmetric") if any(map(any, pads)) else array


def _rotated(crop: torch.Tensor, axis: int, degrees: float) -> torch.Tensor:
    """(C, D, H, W) turned about one of its axes; the border's values go on outside."""
    angle = float(np.deg2rad(degrees))
    shape = np.array(crop.shape[1:], np.float64)
    turn = np.eye(3)
    a, b = [i for i in range(3) if i != axis]
    turn[a, a] = turn[b, b] = np.cos(angle)
    # The grid runs from -1 to 1 along every axis whatever its length: the turn is made in voxels.
    turn[a, b] = -np.sin(angle) * shape[b] / shape[a]
    turn[b, a] = np.sin(angle) * shape[a] / shape[b]
    theta = torch.zeros(1, 3, 4, device=crop.device)
    theta[0, :, :3] = torch.from_numpy(turn[::-1, ::-1].copy())  # grid_sample names the last axis first
    grid = F.affine_grid(theta, [1, *crop.shape], align_corners=False)
    return F.grid_sample(crop[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def draw_images(
    volumes: Sequence[torch.Tensor], batch: int, crops: CropSettings, rng: np.random.Generator
) -> torch.Tensor:
    """A batch of random crops.

    Args:
        volumes: (I, J, K) or (C, I, J, K) each, float, on one device, at least as large as a crop.

    Returns:
        (B, C, D, H, W), C 1 for volumes without channels.
    """
    drawn = []
    chances = np.broadcast_to(crops.flip_probability, 3)
    for _ in range(batch):
        volume = volumes[rng.integers(len(volumes))]
        volume = volume[None] if volume.ndim == 3 else volume
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(volume.shape[1:], crops.size)]
        crop = volume[(slice(None), *(slice(a, a + s) for a, s in zip(start, crops.size)))]
        flips = [axis + 1 for axis in range(3) if rng.random() < chances[axis]]
        if flips:
            crop = crop.flip(flips)
        if rng.random() < crops.rotation_probability:
            degrees = rng.uniform(-crops.rotation_degrees, crops.rotation_degrees)
            crop = _rotated(crop, int(rng.integers(3)), degrees)
        drawn.append(crop)
    return torch.stack(drawn)


def smooth_outlines(masks: torch.Tensor, sigma: float, bias: float) -> torch.Tensor:
    """`coarse_anatomy.smooth_outline` on any device: Gaussian smoothing and a threshold at one half.

    Args:
        masks: (C, I, J, K) bool.
        sigma: of the Gaussian in voxels; 0 returns the masks.
        bias: added to the smoothed masks; positive values grow them.
    """
    if sigma <= 0:
        return masks
    radius = int(4.0 * sigma + 0.5)  # as SciPy truncates it
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(masks.device, torch.float32)
    smooth = masks.float()[:, None]
    for axis in range(3):
        pads = [0] * 6
        pads[2 * (2 - axis)] = pads[2 * (2 - axis) + 1] = radius
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(kernel)
        smooth = F.conv3d(F.pad(smooth, pads, mode="replicate"), kernel.view(shape))
    return smooth[:, 0] + bias > 0.5
