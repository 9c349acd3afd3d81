"""Streams: the rows of a map in order, each once, and windows on them.

A window keeps of a stream the rows that later ones depend on. Which these are follows from kernel, stride and padding
of the layer, so slabs of any thickness are exact, and none is computed twice. Rows are those of the first spatial axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from SynthDiffusionLib.networks.streaming.calls import LARGEST_CALL, NO_PADS, Layer
from SynthDiffusionLib.networks.streaming.stores import Store

Preparation = Callable[[torch.Tensor, torch.Tensor], None]


@dataclass
class Context:
    """What all streams of a computation share.

    Args:
        limit: elements that neither input nor output of a convolution may reach.
        check: called before each slab of each layer; raises to stop.
    """

    dtype: torch.dtype
    device: torch.device
    limit: int = LARGEST_CALL
    check: Callable[[], None] = lambda: None


class Stream:
    """Rows of a map in order.

    Args:
        rows: how many there are.
    """

    fresh = True  # what `take` gives belongs to whoever took it
    step = 2**31  # rows that working memory is reckoned for

    def __init__(self, rows: int) -> None:
        self.rows, self.position = rows, 0

    def take(self, stop: int) -> torch.Tensor:
        """The rows up to `stop` that have not been taken: (1, C, d, H, W)."""
        rows = self.make(self.position, stop)
        self.position = stop
        return rows

    def pieces(self, stop: int) -> Iterator[torch.Tensor]:
        """The same, in several tensors: at the beginning more rows are asked for than later, to reach past a slab."""
        while self.position < stop:
            yield self.take(min(stop, self.position + self.step))

    def make(self, start: int, stop: int) -> torch.Tensor:
        raise NotImplementedError


class Kept(Stream):
    """A map that is kept."""

    fresh = False

    def __init__(self, store: Store) -> None:
        super().__init__(store.size[0])
        self.store = store

    def make(self, start: int, stop: int) -> torch.Tensor:
        found = list(self.store.read(start, stop))
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)

    def pieces(self, stop: int) -> Iterator[torch.Tensor]:
        for piece in self.store.read(self.position, stop):
            self.position += piece.shape[2]
            yield piece


class Given(Stream):
    """A tensor of the caller's."""

    fresh = False

    def __init__(self, tensor: torch.Tensor, context: Context) -> None:
        super().__init__(tensor.shape[2])
        self.tensor, self.context = tensor, context

    def make(self, start: int, stop: int) -> torch.Tensor:
        return self.tensor[:, :, start:stop].to(self.context.device, self.context.dtype, non_blocking=True)


class Shared:
    """One stream for several that read it at their own pace."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.pieces, self.positions = stream, [], []

    def tap(self) -> Stream:
        self.positions.append(0)
        return _Tap(self, len(self.positions) - 1)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        if stop > self.stream.position:
            first = self.stream.position
            self.pieces.append((first, self.stream.take(stop)))
        found = []
        for first, piece in self.pieces:
            low, high = max(start, first), min(stop, first + piece.shape[2])
            if low < high:
                found.append(piece[:, :, low - first : high - first])
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)

    def taken(self, number: int, stop: int) -> None:
        """A tap has gone on to `stop`: what none needs any more is forgotten."""
        self.positions[number] = stop
        needed = min(self.positions)
        self.pieces = [(first, piece) for first, piece in self.pieces if first + piece.shape[2] > needed]


class _Tap(Stream):
    fresh = False

    def __init__(self, shared: Shared, number: int) -> None:
        super().__init__(shared.stream.rows)
        self.shared, self.number = shared, number

    def take(self, stop: int) -> torch.Tensor:
        rows = super().take(stop)
        self.shared.taken(self.number, stop)
        return rows

    def make(self, start: int, stop: int) -> torch.Tensor:
        return self.shared.rows(start, stop)


class Window:
    """The latest rows of a stream, prepared for a layer, with what is put round them.

    Args:
        stream: of (1, C, d, *sides).
        prepare: writes rows, changed as they have to be, into a tensor of their shape.
        layer: its `pads` and `mode` are what is put round the rows; beyond them there are zeros.
    """

    def __init__(
        self,
        stream: Stream,
        channels: int,
        sides: tuple[int, int],
        prepare: Preparation,
        layer: Layer,
        context: Context,
    ) -> None:
        self.stream, self.prepare, self.layer, self.context = stream, prepare, layer, context
        (top, bottom), (left, right) = layer.pads[1:]
        self.shape = (channels, sides[0] + top + bottom, sides[1] + left + right)
        self.inside = (slice(top, top + sides[0]), slice(left, left + sides[1]))
        self.buffer: torch.Tensor | None = None
        self.low = self.high = 0

    def rows(self, low: int, high: int) -> torch.Tensor:
        """(1, C, high - low, H, W): rows from `low` on, which may be negative, to `high`, which may be past the end.

        Each call begins at or after the beginning of the one before, and ends at or after its end.
        """
        if self.buffer is None:
            self.low = self.high = low
        if low > self.high:  # a stride that leaves rows out
            if min(low, self.stream.rows) > self.stream.position:
                self.stream.take(min(low, self.stream.rows))
            self.high = low
        self._make_room(low, high)
        start, stop = max(self.high, 0), min(high, self.stream.rows)
        if start < stop:
            for rows in self.stream.pieces(stop):
                part = self.buffer[:, :, start - low : start + rows.shape[2] - low]
                start += rows.shape[2]
                self.prepare(rows, part[..., self.inside[0], self.inside[1]])
                if self.layer.mode == "replicate":
                    self._repeat_edges(part)
                del rows  # before the next ones are made
        n = self.stream.rows
        for row in (*range(self.high, min(0, high)), *range(max(self.high, n), high)):
            if self.layer.mode == "replicate":
                self.buffer[:, :, row - low] = self.buffer[:, :, (0 if row < 0 else n - 1) - low]
            else:
                self.buffer[:, :, row - low] = 0.0
        self.low, self.high = low, high
        return self.buffer[:, :, : high - low]

    def _make_room(self, low: int, high: int) -> None:
        """Rows that are needed again move to the front; a new buffer has zeros all round what will be inside."""
        kept = self.high - low
        if self.buffer is None or self.buffer.shape[2] < high - low:
            old, (channels, height, width) = self.buffer, self.shape
            make = torch.empty if self.layer.pads[1:] == NO_PADS[1:] else torch.zeros
            flat = make((high - low, height, width, channels), dtype=self.context.dtype, device=self.context.device)
            self.buffer = flat.permute(3, 0, 1, 2).unsqueeze(0)
            if kept > 0:
                self.buffer[:, :, :kept] = old[:, :, low - self.low : self.high - self.low]
        elif kept > 0 and low > self.low:
            moved = self.buffer[:, :, low - self.low : self.high - self.low]
            self.buffer[:, :, :kept] = moved.clone() if low - self.low < kept else moved

    def _repeat_edges(self, part: torch.Tensor) -> None:
        rows, columns = self.inside
        part[..., : rows.start, :] = part[..., rows.start : rows.start + 1, :]
        part[..., rows.stop :, :] = part[..., rows.stop - 1 : rows.stop, :]
        part[..., : columns.start] = part[..., columns.start : columns.start + 1]
        part[..., columns.stop :] = part[..., columns.stop - 1 : columns.stop]
