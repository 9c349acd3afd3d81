"""Convolutions, and embeddings of a drawing, computed slab by slab along the first spatial axis: the same result.

A feature map is still made whole; what shrinks is what a convolution takes beside it: kernels that want the channels
innermost copy their input and their result, of a slab then instead of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from SynthDiffusionLib.networks.small_grids import SmallGridConv3d, leaves_autocast

AXIS = 2  # of (B, C, D, H, W)
WHOLE = 2**62  # elements that no slab has


class ChunkedConv3d(nn.Conv3d):
    """A convolution with zeros round its input, in slabs; weights and their names are those of `nn.Conv3d`.

    Args:
        conv: whose weights are taken, not copied.
        elements: of input and result of a slab together, roughly; a slab has one row at least.
    """

    def __init__(self, conv: nn.Conv3d, elements: int) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias, self.elements = conv.weight, conv.bias, elements

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if leaves_autocast(x, self.kernel_size, self.stride):
            with torch.autocast("cpu", enabled=False):
                made = self.forward(x.float())
            return made.to(torch.get_autocast_dtype("cpu"))
        (kernel, *_), (stride, *_), (pad, *rest) = self.kernel_size, self.stride, self.padding
        reach, size = self.dilation[0] * (kernel - 1) + 1, x.shape[AXIS]
        rows = (size + 2 * pad - reach) // stride + 1
        sides = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(x.shape[3:], rest, self.dilation[1:], self.kernel_size[1:], self.stride[1:])
        ]
        made = x.shape[0] * self.out_channels * rows * sides[0] * sides[1]
        slabs = slabs_for(x.numel() + made, self.elements, rows)
        if slabs == 1:
            return super().forward(x)
        result = None
        edges = [rows * i // slabs for i in range(slabs + 1)]
        for start, end in pairwise(edges):
            low, high = start * stride - pad, (end - 1) * stride - pad + reach
            part = x.narrow(AXIS, max(low, 0), min(high, size) - max(low, 0))
            if low < 0 or high > size:
                part = F.pad(part, (0, 0, 0, 0, max(-low, 0), max(high - size, 0)))
            part = F.conv3d(part, self.weight, self.bias, self.stride, (0, *rest), self.dilation, self.groups)
            if result is None:
                result = part.new_empty((*part.shape[:AXIS], rows, *part.shape[AXIS + 1 :]))
            result.narrow(AXIS, start, end - start).copy_(part)
        return result


def slabs_for(total: int, at_most: int, rows: int | None = None) -> int:
    """Number of slabs of at most so many elements each, no more than there are rows.

    Args:
        total: elements of the whole.
        at_most: elements of a slab.
        rows: along the axis; None: any number.
    """
    slabs = -(-total // max(1, at_most))
    return max(1, slabs if rows is None else min(slabs, rows))


def chunk_convolutions(network: nn.Module, elements: int | None) -> nn.Module:
    """Puts `ChunkedConv3d` in the place of every convolution that pads with zeros; the weights and their names stay.

    Args:
        network: changed; one that has been changed before gets another size of slabs.
        elements: of a slab; None: convolutions are computed whole.
    """
    elements = WHOLE if elements is None else elements
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ChunkedConv3d):
                child.elements = elements
                continue
            plain = type(child) in (nn.Conv3d, SmallGridConv3d)
            plain = plain and child.padding_mode == "zeros" and not isinstance(child.padding, str)
            if plain and elements != WHOLE:
                setattr(parent, name, ChunkedConv3d(child, elements).train(child.training))
    return network


def embed_by_slabs(
    layer: Callable[[torch.Tensor], torch.Tensor], drawing: torch.Tensor, factor: int, slabs: int, reach: int = 32
) -> torch.Tensor:
    """Features of a drawing by convolutions without norms, slab by slab.

    Args:
        layer: shrinks every side by `factor`.
        drawing: (B, C, D, H, W), D a multiple of `factor`.
        factor: a power of two.
        slabs: number of them.
        reach: voxels on each side that a result depends on at most, and more; a multiple of `factor`.

    Returns:
        (B, C', D / factor, H / factor, W / factor)

    Raises:
        ValueError: sides or a reach that `factor` does not divide.
    """
    size = drawing.shape[AXIS]
    if size % factor or reach % factor:
        raise ValueError(f"{size} rows and a reach of {reach} are not both multiples of {factor}")
    rows, result = size // factor, None
    slabs = max(1, min(slabs, rows))
    for start, end in pairwise([rows * i // slabs for i in range(slabs + 1)]):
        low, high = max(0, start * factor - reach), min(size, end * factor + reach)
        part = layer(drawing.narrow(AXIS, low, high - low))
        if result is None:
            result = part.new_empty((*part.shape[:AXIS], rows, *part.shape[AXIS + 1 :]))
        kept = part.narrow(AXIS, start - low // factor, end - start)
        result.narrow(AXIS, start, end - start).copy_(kept)
    return result
