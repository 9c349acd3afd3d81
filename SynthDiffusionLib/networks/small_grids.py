"""Convolutions that are computed in fp32 on grids that are hardly larger than their kernel.

On CPUs PyTorch's three-dimensional convolutions in bf16 give garbage on such grids (seen with PyTorch 2.13 and oneDNN):
now NaN, now finite numbers that nothing tells from results. Gradients do where a side is 1 or 2 (3 for a kernel of 4);
on processors with AMX also the results of strided ones, where the last axis shrinks to one voxel. The deepest levels of
a U-Net are such grids when latents are small. What is computed in fp32 there costs next to nothing.
"""

from __future__ import annotations

import torch
from torch import nn


def leaves_autocast(image: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...] = (1,)) -> bool:
    """Whether a convolution of this image is to be computed in fp32."""
    small = min(image.shape[2:]) < max(kernel) + max(stride)
    return small and image.device.type == "cpu" and torch.is_autocast_enabled("cpu")


class SmallGridConv3d(nn.Conv3d):
    """A `Conv3d` that leaves CPU autocast where a side of its input is hardly larger than its kernel."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not leaves_autocast(input, self.kernel_size, self.stride):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            made = super().forward(input.float())
        return made.to(torch.get_autocast_dtype("cpu"))


class SmallGridConvTranspose3d(nn.ConvTranspose3d):
    """The same for a `ConvTranspose3d`."""

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        if not leaves_autocast(input, self.kernel_size):
            return super().forward(input, output_size)
        with torch.autocast("cpu", enabled=False):
            made = super().forward(input.float(), output_size)
        return made.to(torch.get_autocast_dtype("cpu"))


GUARDED = {nn.Conv3d: SmallGridConv3d, nn.ConvTranspose3d: SmallGridConvTranspose3d}


def exact_on_small_grids(network: nn.Module) -> nn.Module:
    """The network, with every plain convolution in three dimensions made one of those above; weights and their names
    stay."""
    for module in network.modules():
        module.__class__ = GUARDED.get(type(module), type(module))
    return network
