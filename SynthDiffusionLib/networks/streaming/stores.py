"""Feature maps that are kept, row by row, so that a map can take the place of another that is being read.

A row is all of one index of the first spatial axis. The rows of a buffer have room for the channels of the largest map
in it; two maps of half the channels fit in the place of one. Rows are written behind those that are read, and each is
read once, so a map may be overwritten by what is made from it. Buffers are made of blocks of rows: those of a map that
is read for the last time are given back as soon as they have been read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

# Blocks below this come from the heap of the C library, which keeps what is freed.
SMALLEST_BLOCK = 32 * 2**20
BLOCKS = 16  # of a large map

Triple = tuple[int, int, int]


@dataclass(eq=False)
class Buffer:
    """Room for maps of the same sides, on a device or in host memory.

    Args:
        rows: length of the first axis.
        width: values in a row.
        device: where the maps are computed.
        on_host: kept in host memory (page-locked, for a GPU), and copied slab by slab.
    """

    rows: int
    width: int
    dtype: torch.dtype
    device: torch.device
    on_host: bool
    blocks: list[torch.Tensor | None] = field(default_factory=list)
    owners: dict[Store, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        row = self.width * self.dtype.itemsize
        self.step = min(self.rows, max(-(-SMALLEST_BLOCK // row), -(-self.rows // BLOCKS)))
        self.blocks = [None] * -(-self.rows // self.step)

    @property
    def nbytes(self) -> int:
        return self.rows * self.width * self.dtype.itemsize

    @property
    def block_bytes(self) -> int:
        return self.step * self.width * self.dtype.itemsize

    def block(self, number: int) -> torch.Tensor:
        """(rows, width); made when it is asked for first."""
        if self.blocks[number] is None:
            shape = (min(self.step, self.rows - number * self.step), self.width)
            self.blocks[number] = self._empty(shape)
        return self.blocks[number]

    def _empty(self, shape: tuple[int, int]) -> torch.Tensor:
        if not self.on_host or self.device.type == "meta":
            return torch.empty(shape, dtype=self.dtype, device=self.device)
        try:
            return torch.empty(shape, dtype=self.dtype, pin_memory=self.device.type == "cuda")
        except RuntimeError:  # the system has no more memory that it would lock: slower, but right
            return torch.empty(shape, dtype=self.dtype)

    def release_before(self, row: int) -> None:
        """Gives back the blocks that end at or before a row."""
        for number in range(min(row, self.rows) // self.step):
            self.blocks[number] = None
        if row >= self.rows:
            self.blocks[-1] = None

    def gap(self, width: int, leaving: set[Store]) -> int | None:
        """Offset of room for `width` values per row, if those that are leaving are not counted."""
        position = 0
        for start, stop in sorted(span for owner, span in self.owners.items() if owner not in leaving):
            if start - position >= width:
                return position
            position = stop
        return position if self.width - position >= width else None


@dataclass(eq=False)
class Store:
    """A kept map, (1, channels, *size), channels last.

    Args:
        offset: of its values within the rows of the buffer.
    """

    channels: int
    size: Triple
    buffer: Buffer
    offset: int

    @property
    def width(self) -> int:
        return self.channels * math.prod(self.size[1:])

    def _rows(self, number: int, start: int, stop: int) -> torch.Tensor:
        """(d, H, W, C) of one block, rows counted from its first."""
        flat = self.buffer.block(number)[start:stop, self.offset : self.offset + self.width]
        return flat.unflatten(1, (*self.size[1:], self.channels))

    def _pieces(self, start: int, stop: int) -> list[tuple[int, torch.Tensor]]:
        step, pieces = self.buffer.step, []
        while start < stop:
            number = start // step
            end = min(stop, (number + 1) * step)
            pieces.append((start, self._rows(number, start - number * step, end - number * step)))
            start = end
        return pieces

    def read(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        """(1, C, d, H, W) on the device, one after the other: views, or from host memory a row at a time."""
        for _, piece in self._pieces(start, stop):
            if not self.buffer.on_host:
                yield piece.permute(3, 0, 1, 2).unsqueeze(0)
                continue
            for row in piece:  # each is one run of memory
                yield row.to(self.buffer.device, non_blocking=True).permute(2, 0, 1)[None, :, None]

    def write(self, start: int, rows: torch.Tensor) -> None:
        """
        Args:
            start: first row to write.
            rows: (1, C, d, H, W).
        """
        values = rows[0].permute(1, 2, 3, 0)
        for first, piece in self._pieces(start, start + len(values)):
            given = values[first - start : first - start + len(piece)]
            if self.buffer.on_host:
                for row, of in zip(piece, given):
                    row.copy_(of.contiguous(), non_blocking=True)
            else:
                piece.copy_(given)


class Shelf:
    """All buffers of a computation.

    Args:
        device_bytes: a buffer larger than this is kept in host memory; None: never.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, device_bytes: int | None) -> None:
        self.dtype, self.device, self.device_bytes = dtype, device, device_bytes
        self.buffers: list[Buffer] = []

    def allocate(self, channels: int, size: Triple, leaving: set[Store]) -> Store:
        """Room for a map: in a buffer that has it, counting what is read for the last time, or in a new one."""
        width = channels * math.prod(size[1:])
        for buffer in self.buffers:
            if buffer.rows == size[0] and (offset := buffer.gap(width, leaving)) is not None:
                break
        else:
            large = self.device_bytes is not None and size[0] * width * self.dtype.itemsize > self.device_bytes
            buffer, offset = Buffer(size[0], width, self.dtype, self.device, large), 0
            self.buffers.append(buffer)
        store = Store(channels, size, buffer, offset)
        buffer.owners[store] = (offset, offset + width)
        return store

    def remove(self, store: Store) -> None:
        """The map is not needed any more; a buffer without any is given back."""
        del store.buffer.owners[store]
        if not store.buffer.owners:
            self.buffers.remove(store.buffer)
            store.buffer.blocks = []

    def nbytes(self, on_host: bool) -> int:
        """Of all buffers on the device, or in host memory, when they are full."""
        return sum(b.nbytes for b in self.buffers if b.on_host == on_host)
