"""Convolutions of slabs, none of which takes or makes 2^31 elements or more in one call.

From there on PyTorch leaves cuDNN and asks for many times the memory (pytorch #95024, #128947).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from SynthDiffusionLib.errors import RunFailed

LARGEST_CALL = 2**31  # elements of one tensor of a convolution: fewer than this

Triple = tuple[int, int, int]
Pads = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
NO_PADS: Pads = ((0, 0), (0, 0), (0, 0))


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution as numbers, with what is put round its input.

    Args:
        conv: the layer; of its weights nothing is copied before they are used.
        pads: rows, columns and so on that are put round the input first, per axis and end, as `mode` says; they come
            on top of the zeros that the convolution adds itself.
        mode: "constant" (zeros) or "replicate".
    """

    conv: nn.Conv3d | nn.ConvTranspose3d
    pads: Pads = NO_PADS
    mode: str = "constant"

    @staticmethod
    def of(conv: nn.Module, pads: Pads = NO_PADS, mode: str = "constant") -> Layer:
        """The layer of a module of PyTorch; a `padding_mode` of its own becomes `pads`.

        Raises:
            ValueError: padding other than by numbers, of zeros or of repeated edges; a dilated transposed convolution.
        """
        own = conv.padding_mode
        if isinstance(conv.padding, str) or own not in ("zeros", "replicate"):
            raise ValueError(f"padding '{conv.padding}' of mode '{own}' cannot be streamed")
        if own == "replicate" and any(conv.padding):
            if pads != NO_PADS or isinstance(conv, nn.ConvTranspose3d):
                raise ValueError("a convolution that repeats edges takes no other padding")
            return Layer(conv, tuple((n, n) for n in conv.padding), "replicate")
        if isinstance(conv, nn.ConvTranspose3d) and any(n != 1 for n in conv.dilation):
            raise ValueError("a dilated transposed convolution cannot be streamed")
        return Layer(conv, pads, mode)

    @property
    def transposed(self) -> bool:
        return isinstance(self.conv, nn.ConvTranspose3d)

    @property
    def padding(self) -> Triple:
        """Zeros that the convolution adds itself (transposed: what it takes off its result)."""
        return (0, 0, 0) if self.mode == "replicate" and not self.transposed else tuple(self.conv.padding)

    @property
    def extent(self) -> Triple:
        """Voxels from one end of the kernel to the other."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.conv.kernel_size, self.conv.dilation))

    def size(self, given: Triple) -> Triple:
        """Sides of the result for an input of sides `given`."""
        sides = []
        for n, (low, high), k, s, p, more in zip(
            given, self.pads, self.extent, self.conv.stride, self.padding, self.conv.output_padding
        ):
            n += low + high
            sides.append((n - 1) * s - 2 * p + k + more if self.transposed else (n + 2 * p - k) // s + 1)
        return tuple(sides)

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """Rows of the input (its own numbering: negative ones, and those past its end, are padding) that rows `start`
        to `stop` of the result depend on: what makes slabs exact."""
        before = self.pads[0][0]
        return reach(start, stop, self.extent[0], self.conv.stride[0], self.padding[0], before, self.transposed)


def reach(
    start: int, stop: int, extent: int, stride: int, padding: int, before: int, transposed: bool
) -> tuple[int, int]:
    """Inputs that outputs `start` to `stop` of a convolution along one axis depend on: first, and last + 1.

    Args:
        extent: of the kernel.
        padding: of the convolution.
        before: inputs that were put in front of the first.
    """
    if transposed:
        return -((extent - 1 - start - padding) // stride) - before, (stop - 1 + padding) // stride + 1 - before
    return start * stride - padding - before, (stop - 1) * stride + extent - padding - before


@dataclass
class Call:
    """A layer's weights in the type and on the device of the computation, ready for slabs.

    Args:
        layer: what is computed.
        limit: elements that neither input nor output of a call may reach.
    """

    layer: Layer
    dtype: torch.dtype
    device: torch.device
    limit: int = LARGEST_CALL

    def __post_init__(self) -> None:
        conv = self.layer.conv
        self.weight = conv.weight.detach().to(self.device, self.dtype).contiguous(memory_format=torch.channels_last_3d)
        self.bias = None if conv.bias is None else conv.bias.detach().to(self.device, self.dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (1, C, d, H, W), its padding along the first axis, and all its `pads`, already there.

        Returns:
            (1, C', d', H', W'); transposed: with all rows that the input has a part in, along the first axis.

        Raises:
            RunFailed: a single voxel's surroundings are too large for one call.
        """
        padding = self.layer.padding[1:]
        return self._split(x, (0, *padding), [0, 1, 2])

    def _split(self, x: torch.Tensor, padding: Triple, axes: list[int]) -> torch.Tensor:
        """In pieces along the first of `axes`, and where single ones are still too large, along the next."""
        sides, channels = self._sides(x, padding), self.layer.conv.out_channels
        outputs = channels * sides[0] * sides[1] * sides[2]
        if max(x.numel(), outputs) < self.limit:
            return self._call(x, padding)
        if not axes:
            raise RunFailed("One row of a convolution is too large for a single call", "Choose a smaller size.")
        (axis, *later), stride = axes, self.layer.conv.stride[axes[0]]
        n, extent, length = x.shape[2 + axis], self.layer.extent[axis], sides[axis]
        while length > 1:
            length = -(-length // 2)
            read = (length + extent) // stride + 1 if self.layer.transposed else (length - 1) * stride + extent
            made = (read - 1) * stride + extent if self.layer.transposed else length
            if max(x.numel() // n * read, outputs // sides[axis] * made) < self.limit:
                break
        result = x.new_empty((1, *sides, channels)).movedim(-1, 1)
        inner = tuple(0 if a == axis else p for a, p in enumerate(padding))
        for start in range(0, sides[axis], length):
            stop = min(start + length, sides[axis])
            low, high = reach(start, stop, extent, stride, padding[axis], 0, self.layer.transposed)
            part = x.narrow(2 + axis, max(0, low), min(n, high) - max(0, low))
            pads = [0] * 6  # the last axis first
            pads[2 * (2 - axis)], pads[2 * (2 - axis) + 1] = max(0, -low), max(0, high - n)
            piece = self._split(F.pad(part, pads) if any(pads) else part, inner, later)
            skipped = start + padding[axis] - low * stride if self.layer.transposed else 0
            result.narrow(2 + axis, start, stop - start).copy_(piece.narrow(2 + axis, skipped, stop - start))
        return result

    def _sides(self, x: torch.Tensor, padding: Triple) -> Triple:
        conv, sides = self.layer.conv, []
        for axis, n in enumerate(x.shape[2:]):
            k, s, p = self.layer.extent[axis], conv.stride[axis], padding[axis]
            more = self._more(axis, p)
            sides.append((n - 1) * s - 2 * p + k + more if self.layer.transposed else (n + 2 * p - k) // s + 1)
        return tuple(sides)

    def _more(self, axis: int, padding: int) -> int:
        """Voxels that a transposed convolution adds at the end; along the first axis, rows of zeros serve for them."""
        return self.layer.conv.output_padding[axis] if axis and padding == self.layer.padding[axis] else 0

    def _call(self, x: torch.Tensor, padding: Triple) -> torch.Tensor:
        conv = self.layer.conv
        if self.layer.transposed:
            more = tuple(self._more(axis, p) for axis, p in enumerate(padding))
            made = F.conv_transpose3d(x, self.weight, self.bias, conv.stride, padding, more, conv.groups)
        else:
            made = F.conv3d(x, self.weight, self.bias, conv.stride, padding, conv.dilation, conv.groups)
        assert max(x.numel(), made.numel()) < self.limit
        return made
