"""Convolutions that are trained in fp32 on grids no larger than their kernel.

On CPUs the gradients of PyTorch's three-dimensional convolutions in bf16 are garbage on grids with a side of 1 or 2 (3
for a kernel of 4; seen with PyTorch 2.13 and oneDNN): now NaN, which a step can be kept from, now finite numbers, which
it cannot. The deepest levels of a U-Net are such grids when latents are small. What is computed in fp32 there costs
next to nothing.
"""

from __future__ import annotations

import torch
from torch import nn


def leaves_autocast(image: torch.Tensor, kernel: tuple[int, ...]) -> bool:
    """Whether a convolution of this image is to be computed in fp32."""
    return image.device.type == "cpu" and torch.is_autocast_enabled("cpu") and min(image.shape[2:]) <= max(kernel)


class SmallGridConv3d(nn.Conv3d):
    """A `Conv3d` that leaves CPU autocast where a side of its input is no larger than the kernel's largest."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not leaves_autocast(input, self.kernel_size):
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
