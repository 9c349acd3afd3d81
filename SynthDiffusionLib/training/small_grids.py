"""Convolutions that are trained in fp32 on grids no larger than their kernel.

On CPUs the gradients of PyTorch's three-dimensional convolutions in bf16 are garbage on grids with a side of 1 or 2 (3
for a kernel of 4; seen with PyTorch 2.13 and oneDNN): now NaN, which a step can be kept from, now finite numbers, which
it cannot. The deepest levels of a U-Net are such grids when latents are small. What is computed in fp32 there costs
next to nothing.
"""

from __future__ import annotations

import torch
from torch import nn


class SmallGridConv3d(nn.Conv3d):
    """A `Conv3d` that leaves CPU autocast where a side of its input is no larger than the kernel's largest."""

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        small = min(input.shape[2:]) <= max(self.kernel_size)
        if not small or input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            made = super()._conv_forward(input.float(), weight.float(), None if bias is None else bias.float())
        return made.to(torch.get_autocast_dtype("cpu"))


def exact_on_small_grids(network: nn.Module) -> nn.Module:
    """The network, with every plain `Conv3d` in it made a `SmallGridConv3d`; weights and their names stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = SmallGridConv3d
    return network
