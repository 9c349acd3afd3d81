"""A network as a graph of maps, and the streams that make the rows of a map from those of others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from SynthDiffusionLib.networks.streaming.calls import NO_PADS, Call, Layer
from SynthDiffusionLib.networks.streaming.moments import Affine, Moments
from SynthDiffusionLib.networks.streaming.stores import Store
from SynthDiffusionLib.networks.streaming.streams import Context, Given, Preparation, Stream, Window

Triple = tuple[int, int, int]
Activation = Callable[[torch.Tensor], torch.Tensor]


def silu_(x: torch.Tensor) -> torch.Tensor:
    """In place."""
    return F.silu(x, inplace=True)


@dataclass(eq=False)
class Node:
    """A map: (1, channels, *size), and what it is made from.

    Args:
        inputs: of the layer that makes it.
        role: "block": what one block passes on to the next; "inner": within a block, or upsampled before one;
            "through": never kept, unless with another.
        together: maps that are made in one go with this one, if it is kept, in the place of what both read.
    """

    channels: int
    size: Triple
    inputs: tuple[Node, ...] = ()
    role: str = "through"
    together: tuple[Node, ...] = ()
    moments: Moments | None = field(default=None, init=False)
    store: Store | None = field(default=None, init=False)

    @property
    def row_values(self) -> int:
        return self.channels * math.prod(self.size[1:])

    def normalised_by(self) -> tuple[Node, ...]:
        """Maps whose moments are needed to make this one."""
        return ()

    def asks(self, rows: int) -> int:
        """Rows that it reads of each input to go on by `rows`."""
        return -(-rows * self.inputs[0].size[0] // self.size[0])

    def workspace(self, rows: int) -> int:
        """Values that are held, beside those of its inputs' own, to make `rows` at a time."""
        return rows * self.row_values

    def multiplications(self) -> int:
        """Of all rows."""
        return 0

    def stream(self, inputs: list[Stream], context: Context) -> Stream:
        raise NotImplementedError


def normalise(rows: torch.Tensor, affine: Affine, out: torch.Tensor) -> None:
    """out = (rows - mean) * scale + offset, computed in fp32."""
    if out.dtype == torch.float32:
        torch.sub(rows, affine.mean, out=out)  # first, so that nothing cancels where the deviation is small
        torch.addcmul(affine.offset, out, affine.scale, out=out)
    elif rows.device.type == "cpu":  # mixed types would be copied three times
        out.copy_(torch.addcmul(affine.offset, rows.float().sub_(affine.mean), affine.scale))
    else:
        torch.addcmul(affine.offset - affine.mean * affine.scale, rows, affine.scale, out=out)


@dataclass(eq=False)
class Source(Node):
    """What the network is given: a tensor of the caller's, (1, C, *size)."""

    tensor: torch.Tensor | None = None

    def workspace(self, rows: int) -> int:
        return 0

    def stream(self, inputs: list[Stream], context: Context) -> Stream:
        return Given(self.tensor, context)


@dataclass(eq=False)
class Convolved(Node):
    """A convolution, its input normalised and activated first, if it is.

    Args:
        norm: of the input, by its moments over the whole map.
        before, after: activations of the input and of the result, in place.
    """

    layer: Layer | None = None
    norm: nn.GroupNorm | None = None
    before: Activation | None = None
    after: Activation | None = None

    def normalised_by(self) -> tuple[Node, ...]:
        return () if self.norm is None else self.inputs

    def workspace(self, rows: int) -> int:
        first, last = self.layer.reads(0, rows)
        given = self.inputs[0].row_values
        # A transposed convolution gives more rows than are wanted.
        extra, again = self.layer.extent[0] if self.layer.transposed else 0, self.layer.extent[0] - 1
        return (last - first + again) * given + (rows + extra) * self.row_values

    def multiplications(self) -> int:
        conv = self.layer.conv
        kernel = math.prod(conv.kernel_size) * conv.in_channels * conv.out_channels // conv.groups
        return kernel * math.prod(self.inputs[0].size if self.layer.transposed else self.size)

    def stream(self, inputs: list[Stream], context: Context) -> Stream:
        return _Convolving(self, inputs[0], context)


class _Convolving(Stream):
    def __init__(self, node: Convolved, source: Stream, context: Context) -> None:
        super().__init__(node.size[0])
        self.node, self.context, given = node, context, node.inputs[0]
        self.call = Call(node.layer, context.dtype, context.device, context.limit)
        affine = None if node.norm is None else given.moments.affine(node.norm)
        prepare = _preparation(affine, node.before)
        self.window = Window(source, given.channels, given.size[1:], prepare, node.layer, context)
        self.source = source
        layer = node.layer
        plain = layer.extent == layer.conv.stride == (1, 1, 1) and layer.padding == (0, 0, 0) and layer.pads == NO_PADS
        self.direct = plain and affine is None and node.before is None  # nothing need be copied

    def make(self, start: int, stop: int) -> torch.Tensor:
        self.context.check()
        layer = self.node.layer
        low, high = layer.reads(start, stop)
        made = self.call(self.source.take(stop) if self.direct else self.window.rows(low, high))
        if layer.transposed:
            skipped = start + layer.padding[0] - (low + layer.pads[0][0]) * layer.conv.stride[0]
            made = made[:, :, skipped : skipped + stop - start]
        return made if self.node.after is None else self.node.after(made)


def _preparation(affine: Affine | None, activation: Activation | None) -> Preparation:
    """What a convolution does to its input first. Not a method: a stream and its window that knew each other would stay
    in memory until the garbage is collected."""

    def prepare(rows: torch.Tensor, out: torch.Tensor) -> None:
        if affine is None:
            out.copy_(rows)
        else:
            normalise(rows, affine, out)
        if activation is not None:
            activation(out)

    return prepare


@dataclass(eq=False)
class Doubled(Node):
    """Twice as many voxels along every axis, trilinear: within the rows first, then between them."""

    def asks(self, rows: int) -> int:
        return rows // 2 + 1

    def workspace(self, rows: int) -> int:
        return (rows // 2 + 3 + rows) * self.row_values

    def stream(self, inputs: list[Stream], context: Context) -> Stream:
        return _Doubling(self, inputs[0], context)


class _Doubling(Stream):
    def __init__(self, node: Doubled, source: Stream, context: Context) -> None:
        super().__init__(node.size[0])
        self.node, self.context, self.source = node, context, source
        self.window = Window(source, node.channels, node.size[1:], _widening(node, context), _PLAIN, context)

    def make(self, start: int, stop: int) -> torch.Tensor:
        self.context.check()
        # Row j lies between rows (j - 1) // 2 and (j - 1) // 2 + 1 of what is doubled; ends are repeated.
        low, high = max(0, (start - 1) // 2), min(self.source.rows, stop // 2 + 1)
        rows = self.window.rows(low, high)
        flat = rows.new_empty((1, stop - start, *self.node.size[1:], self.node.channels))
        made = flat.movedim(-1, 1)
        for row in range(start, stop):
            near, far = (row // 2, row // 2 + 1) if row % 2 else (row // 2, row // 2 - 1)
            far = min(max(far, 0), self.source.rows - 1)
            torch.lerp(rows[:, :, near - low], rows[:, :, far - low], 0.25, out=made[:, :, row - start])
        return made


def _widening(node: Doubled, context: Context) -> Preparation:
    """Doubles the rows' own sides. In any other order of memory a CPU takes several times as long for it."""
    step = max(1, (context.limit - 1) // node.row_values)

    def prepare(rows: torch.Tensor, out: torch.Tensor) -> None:
        pictures = rows[0].transpose(0, 1).contiguous(memory_format=torch.channels_last)
        for first in range(0, len(pictures), step):
            made = F.interpolate(pictures[first : first + step], scale_factor=2.0, mode="bilinear")
            out[0, :, first : first + step] = made.transpose(0, 1)

    return prepare


_PLAIN = Layer(nn.Conv3d(1, 1, 1, bias=False, device="meta"))


@dataclass(eq=False)
class Added(Node):
    """The sum of two maps.

    Args:
        after: activation of the result, in place.
    """

    after: Activation | None = None

    def asks(self, rows: int) -> int:
        return rows

    def stream(self, inputs: list[Stream], context: Context) -> Stream:
        return _Adding(self, inputs)


class _Adding(Stream):
    def __init__(self, node: Added, inputs: list[Stream]) -> None:
        super().__init__(node.size[0])
        self.node, self.inputs = node, inputs

    def make(self, start: int, stop: int) -> torch.Tensor:
        # The last one is a convolution, which reads ahead; the other one's rows are then at hand.
        made = self.inputs[1].take(stop)
        if not self.inputs[1].fresh:
            made = made.clone()
        done = 0
        for piece in self.inputs[0].pieces(stop):
            made[:, :, done : done + piece.shape[2]] += piece
            done += piece.shape[2]
            del piece
        return made if self.node.after is None else self.node.after(made)


@dataclass(eq=False)
class Thinned(Node):
    """Every `factor`-th voxel along every axis, as nearest-neighbour resampling by whole factors takes them."""

    factor: int = 1

    def asks(self, rows: int) -> int:
        return rows * self.factor

    def stream(self, inputs: list[Stream], context: Context) -> Stream:
        return _Thinning(self, inputs[0])


class _Thinning(Stream):
    fresh = False

    def __init__(self, node: Thinned, source: Stream) -> None:
        super().__init__(node.size[0])
        self.factor, self.source = node.factor, source

    def make(self, start: int, stop: int) -> torch.Tensor:
        f = self.factor
        return self.source.take(stop * f)[:, :, ::f, ::f, ::f]


@dataclass(eq=False)
class Modulated(Node):
    """A map normalised, then scaled and offset voxel by voxel by another (SPADE), then activated.

    Args:
        norm: of the first input; the second has its scale in the first half of its channels and its offset in the rest.
    """

    norm: nn.GroupNorm | None = None
    after: Activation | None = None

    def normalised_by(self) -> tuple[Node, ...]:
        return self.inputs[:1]

    def asks(self, rows: int) -> int:
        return rows

    def workspace(self, rows: int) -> int:
        return 2 * rows * self.row_values

    def stream(self, inputs: list[Stream], context: Context) -> Stream:
        return _Modulating(self, inputs)


class _Modulating(Stream):
    def __init__(self, node: Modulated, inputs: list[Stream]) -> None:
        super().__init__(node.size[0])
        self.node, self.inputs = node, inputs
        self.affine = node.inputs[0].moments.affine(node.norm)

    def make(self, start: int, stop: int) -> torch.Tensor:
        rows = self.inputs[0].take(stop)
        made = torch.empty_like(rows)
        normalise(rows, self.affine, made)
        scale, offset = self.inputs[1].take(stop).chunk(2, dim=1)
        made = made.addcmul_(made, scale).add_(offset)
        return made if self.node.after is None else self.node.after(made)


@dataclass(eq=False)
class Whole(Node):
    """A layer that sees all of a map at once, such as self-attention: computed plainly, from a kept map to another."""

    module: nn.Module | None = None
