"""The small segmentation network that mask adherence is measured with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import UNet


def build_segmenter(channels: Sequence[int] = (12, 24, 48, 64), out_channels: int = 1) -> torch.nn.Module:
    """A residual 3D U-Net (MONAI's) from one image channel to one logit per voxel and target.

    It is given the image alone: no coordinates, so that it cannot guess from position.

    Args:
        channels: features per level; each level halves the resolution.
        out_channels: targets, a sigmoid each: a voxel may be in several.
    """
    return UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=out_channels,
        channels=tuple(channels),
        strides=(2,) * (len(channels) - 1),
        num_res_units=1,
        norm="instance",
    )


def segment(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """The first, or only, target of one image: (I, J, K) bool, see `segment_targets`."""
    return segment_targets(network, image)[0]


def segment_targets(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """The targets of one image.

    Args:
        image: (I, J, K) in [-1, 1]; any size, padded here to what the network needs.

    Returns:
        (C, I, J, K) bool, a channel for each target.
    """
    divisor = 2 ** (len(network.channels) - 1)
    pads = [max((-n) % divisor, 2 * divisor - n) for n in image.shape]  # instance norm needs more than one voxel
    padded = torch.nn.functional.pad(image[None, None], [p for n in reversed(pads) for p in (0, n)], mode="replicate")
    with torch.inference_mode():
        logits = network(padded)[0]
    return logits[(slice(None), *(slice(0, n) for n in image.shape))] > 0
