"""MAISI's decoder without the traps of MONAI's: the same weights and the same results.

MONAI's `MaisiConvolution` can work slab by slab, which keeps every call below 2^31 elements, where PyTorch leaves cuDNN
and asks for far too much memory (pytorch #95024). But its slabs give wrong volumes, without an error, where the axis is
not divisible by their number at every level; and its layers go through the CPU, and to the first GPU whichever is in
use, as soon as a side has 500 voxels. The layers here take slabs of any thickness and stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

AXIS = 2  # of (B, C, D, H, W): the axis that slabs are cut along
LARGEST_CALL = 2**31  # elements of one tensor of a convolution
HALO = 2  # voxels that slabs overlap by on each side, at most


class GroupedNorm(nn.GroupNorm):
    """Group normalisation one group at a time: computed in fp32, kept in the precision of autocast.

    MONAI's `MaisiGroupNorm3D` does the same, but keeps the result in fp32 or, with `norm_float16`, in fp16, which
    convolutions under bf16 refuse.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        result = torch.empty_like(x, dtype=dtype)
        for part, out, weight, bias in zip(
            x.chunk(self.num_groups, dim=1),
            result.chunk(self.num_groups, dim=1),
            self.weight.chunk(self.num_groups),
            self.bias.chunk(self.num_groups),
        ):
            values = part.float().unsqueeze(1)
            std = values.var([2, 3, 4, 5], unbiased=False, keepdim=True).add_(self.eps).sqrt_()
            values = ((values - values.mean([2, 3, 4, 5], keepdim=True)) / std).squeeze(1)
            out.copy_(values.mul_(weight.view(1, -1, 1, 1, 1)).add_(bias.view(1, -1, 1, 1, 1)))
        return result


class SlabConvolution(nn.Module):
    """A convolution of stride 1 that keeps the size, in as many slabs as `splits` says.

    Args:
        conv: MONAI's, with zeros round its input; the weights keep their names.
        upsample: double every side first (trilinear), also slab by slab.
    """

    def __init__(self, conv: nn.Module, upsample: bool = False) -> None:
        super().__init__()
        self.conv, self.upsample, self.splits = conv, upsample, 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return by_slabs(self._whole, x, self.splits, 2 if self.upsample else 1, 1)

    def _whole(self, x: torch.Tensor) -> torch.Tensor:
        if self.upsample:
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="trilinear")
        return self.conv(x)


class SlabUpsample(nn.Module):
    """In place of MONAI's `MaisiUpsample`, with its names of the weights."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = SlabConvolution(conv, upsample=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def by_slabs(
    layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, splits: int, factor: int, reach: int
) -> torch.Tensor:
    """Applies a layer that sees only near voxels, slab by slab.

    Args:
        layer: makes every side `factor` times as long.
        x: (B, C, D, H, W).
        splits: number of slabs, of nearly equal thickness.
        reach: input voxels beyond a slab that its result depends on.
    """
    size = x.shape[AXIS]
    edges = [size * i // splits for i in range(splits + 1)]
    result = None
    for start, end in pairwise(edges):
        if start == end:
            continue
        low, high = max(0, start - reach), min(size, end + reach)
        if (low, high) == (0, size) and (start, end) == (0, size):
            return layer(x)
        slab = layer(x.narrow(AXIS, low, high - low))
        if result is None:
            shape = list(slab.shape)
            shape[AXIS] = size * factor
            result = slab.new_empty(shape)
        kept = slab.narrow(AXIS, (start - low) * factor, (end - start) * factor)
        result.narrow(AXIS, start * factor, (end - start) * factor).copy_(kept)
    return result


def replace_layers(decoder: nn.Module) -> nn.Module:
    """Puts the layers of this module in place of MONAI's; the weights, and their names, stay."""
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
        MaisiConvolution,
        MaisiGroupNorm3D,
        MaisiUpsample,
    )

    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MaisiGroupNorm3D):
                norm = GroupedNorm(child.num_groups, child.num_channels, child.eps)
                norm.weight, norm.bias = child.weight, child.bias
                setattr(parent, name, norm)
            elif isinstance(child, MaisiUpsample) and not child.use_convtranspose:
                setattr(parent, name, SlabUpsample(child.conv.conv))
            elif isinstance(child, MaisiConvolution) and not isinstance(parent, MaisiUpsample):
                setattr(parent, name, SlabConvolution(child.conv))
    for module in decoder.modules():
        if hasattr(module, "save_mem"):
            module.save_mem = False  # it empties the CUDA cache, and collects garbage, after every layer
        if isinstance(module, MaisiConvolution):
            module.num_splits = 1  # a transposed one
    return decoder


def set_splits(decoder: nn.Module, splits: int) -> None:
    """Number of slabs of every convolution."""
    for module in decoder.modules():
        if isinstance(module, SlabConvolution):
            module.splits = splits


def safe_splits(
    latent_shape: Sequence[int], downsampling: int, channels: Sequence[int], device: str, limit: int = LARGEST_CALL
) -> int:
    """The least number of slabs with which every convolution's input and output stay below `limit` elements.

    Args:
        latent_shape: (D, H, W).
        downsampling: of the autoencoder; the number of levels follows from it.
        channels: of the autoencoder's levels, from the finest, as its constructor takes them.
        device: "cpu" needs no slabs.
        limit: elements that must not be reached.
    """
    if torch.device(device).type == "cpu":
        return 1
    depth, height, width = latent_shape
    coarse_first = list(reversed(channels))
    for splits in range(1, depth + 1):
        calls, factor = [], 1
        for level, count in enumerate(coarse_first):
            widest = max(count, coarse_first[max(0, level - 1)])  # a level begins with the channels of the one before
            thickness = min(depth * factor, -(-depth // splits) * factor + 2 * HALO)
            calls.append(widest * thickness * height * width * factor**2)
            factor = min(2 * factor, downsampling)
        if max(calls) < limit:
            return splits
    return depth
