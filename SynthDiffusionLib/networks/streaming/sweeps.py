"""Which maps are kept and which are made anew, in what order, and the sweeps over their rows.

Group normalisation needs the moments of a whole map before the first voxel behind it can be made: that takes a sweep
over all rows of that map, in which it is kept too, or only measured and made once more when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field

import torch

from SynthDiffusionLib.networks.streaming.calls import LARGEST_CALL
from SynthDiffusionLib.networks.streaming.moments import VALUES_IN_FP32, Moments
from SynthDiffusionLib.networks.streaming.nodes import Node, Source, Whole
from SynthDiffusionLib.networks.streaming.stores import Shelf, Store
from SynthDiffusionLib.networks.streaming.streams import Context, Kept, Shared, Stream


@dataclass(frozen=True)
class Streaming:
    """How a network is streamed. None of it changes what is computed, only rounding.

    Args:
        slab_bytes: working memory of a slab through all layers of a sweep; at least one row is taken.
        keep_inner: maps within residual blocks, and upsampled ones, of more bytes than this are computed anew whenever
            they are read, instead of being kept; None: all are kept.
        keep_blocks: the same for what one block passes on to the next.
        device_bytes: what is kept in a buffer of more bytes than this lies in host memory; None: nothing does.
        largest_call: elements that neither input nor output of a convolution may reach.
    """

    slab_bytes: int = 128 * 2**20
    keep_inner: int | None = None
    keep_blocks: int | None = None
    device_bytes: int | None = None
    largest_call: int = LARGEST_CALL


@dataclass
class Sweep:
    """One way over all rows of some maps of the same length.

    Args:
        targets: maps that are made.
        kept: of each, whether it is kept.
        reads: kept maps that are read.
        path: maps that are made on the way, targets among them.
        rows: at a time.
    """

    targets: tuple[Node, ...]
    kept: tuple[bool, ...]
    reads: list[Node] = field(default_factory=list)
    path: list[Node] = field(default_factory=list)
    rows: int = 1

    def workspace(self, rows: int) -> int:
        """Values of all slabs together."""
        total = 0
        readers = [given for node in self.path for given in node.inputs]
        for node, asked in self.steps(rows).items():
            total += node.workspace(asked) if node in self.path else 0
            if readers.count(node) > 1:  # one of them reads ahead by the reach of two convolutions
                total += (asked + 3) * node.row_values
        return total

    def steps(self, rows: int) -> dict[Node, int]:
        """How many rows of each map are made at a time, for so many of the targets."""
        asked: dict[Node, int] = dict.fromkeys(self.targets, rows)
        for node in reversed(self.path):  # each comes after those that it is made from
            asked[node] = min(asked.get(node, 1), node.size[0])
            for given in node.inputs:
                asked[given] = max(asked.get(given, 0), node.asks(asked[node]))
        return asked

    def multiplications(self) -> int:
        return sum(node.multiplications() for node in self.path)


def in_order(final: Node, known: Set[Node] = frozenset()) -> list[Node]:
    """All maps that a map is made from, and itself last, each after its inputs; not beyond maps that are known."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(final, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(given, False) for given in reversed(node.inputs) if node not in known]
    return order


def schedule(final: Node, streaming: Streaming, itemsize: int) -> list[Sweep]:
    """The sweeps that make a map.

    Args:
        itemsize: bytes of a value.
    """
    order = in_order(final)
    measured = {given for node in order for given in node.normalised_by()}
    seen_whole = {given for node in order if isinstance(node, Whole) for given in node.inputs}

    def keeps(node: Node) -> bool:
        if isinstance(node, Whole) or node in seen_whole:
            return True
        if node.role == "through" or node is final:
            return False
        limit = streaming.keep_inner if node.role == "inner" else streaming.keep_blocks
        return limit is None or node.row_values * node.size[0] * itemsize <= limit

    sweeps: list[Sweep] = []
    made: set[Node] = set()
    kept: set[Node] = set()
    for node in order:
        if node in made or isinstance(node, Source):
            continue
        stays = keeps(node)
        if not (stays or node in measured or node is final):
            continue
        targets, stay = [node], [stays]
        for other in node.together if stays else ():
            targets.append(other)
            stay.append(True)
        sweep = Sweep(tuple(targets), tuple(stay))
        _trace(sweep, kept)
        sweep.rows = _thickness(sweep, streaming, itemsize)
        sweeps.append(sweep)
        made.update(targets)
        kept.update(target for target, yes in zip(targets, stay) if yes)
    return sweeps


def _trace(sweep: Sweep, kept: set[Node]) -> None:
    """Follows the targets back to maps that are kept."""
    order: dict[Node, None] = {}
    for target in sweep.targets:
        order.update(dict.fromkeys(in_order(target, kept)))
    sweep.reads = [node for node in order if node in kept]
    sweep.path = [node for node in order if node not in kept]


def _thickness(sweep: Sweep, streaming: Streaming, itemsize: int) -> int:
    """The most rows whose slabs fit in the working memory."""
    low, high = 1, sweep.targets[0].size[0]
    while low < high:
        middle = (low + high + 1) // 2
        if sweep.workspace(middle) * itemsize <= streaming.slab_bytes:
            low = middle
        else:
            high = middle - 1
    return low


class Computation:
    """A map, made sweep by sweep.

    Args:
        final: what is wanted.
        dtype: of all maps and convolutions; moments and normalisation are in fp32 at least.
    """

    def __init__(self, final: Node, streaming: Streaming, dtype: torch.dtype, device: torch.device) -> None:
        self.final, self.streaming, self.dtype, self.device = final, streaming, dtype, device
        self.sweeps = schedule(final, streaming, dtype.itemsize)
        self.shelf = Shelf(dtype, device, streaming.device_bytes)
        self.measured = {given for node in in_order(final) for given in node.normalised_by()}
        self._last = {node: number for number, sweep in enumerate(self.sweeps) for node in sweep.reads}

    def run(self, result: torch.Tensor, on_progress: Callable[[float], None] = lambda fraction: None) -> None:
        """
        Args:
            result: (1, C, *size) of what is wanted, on any device: it is written slab by slab.
            on_progress: told before each slab of each layer, and after the last, what fraction is done, by the number
                of multiplications; raises to stop.
        """
        reached = 0.0

        def tell(fraction: float) -> None:
            nonlocal reached
            reached = fraction
            on_progress(fraction)

        context = Context(self.dtype, self.device, self.streaming.largest_call, lambda: on_progress(reached))
        total = sum(sweep.multiplications() for sweep in self.sweeps) or 1
        done = 0
        try:
            for number, sweep in enumerate(self.sweeps):
                work = sweep.multiplications()
                if isinstance(sweep.targets[0], Whole):
                    tell(done / total)
                    self._whole(sweep.targets[0], number)
                else:

                    def on_part(part: float, done: int = done, work: int = work) -> None:
                        tell((done + part * work) / total)

                    self._sweep(number, result, context, on_part)
                done += work
        finally:
            for node in in_order(self.final):
                node.store = node.moments = None
            self.shelf.buffers.clear()

    def outlook(self) -> tuple[int, int, int, int]:
        """Bytes on the device at the peak, bytes in host memory, multiplications and number of sweeps."""
        device_peak = host_peak = 0
        for number, sweep in enumerate(self.sweeps):
            before = set(self.shelf.buffers)
            stores = self._make_room(number, in_place=not isinstance(sweep.targets[0], Whole))
            dying = self._dying(number)
            there = [b for b in self.shelf.buffers if not b.on_host]
            # While new buffers fill, those that are read for the last time empty.
            new = [b for b in there if b not in before]
            emptying = [b for b in there if b in before and all(owner in dying for owner in b.owners)]
            blocks = max((b.block_bytes for b in emptying), default=0) + max((b.block_bytes for b in new), default=0)
            filled, emptied = sum(b.nbytes for b in new), sum(b.nbytes for b in emptying)
            changing = min(filled + emptied, max(filled, emptied) + blocks)
            staying = sum(b.nbytes for b in there) - filled - emptied
            work = sweep.workspace(sweep.rows) * self.dtype.itemsize
            if self.measured & set(sweep.targets):  # a copy in fp32, and what var_mean makes of it
                target = sweep.targets[0]
                work += 8 * min(sweep.rows * target.row_values, max(VALUES_IN_FP32, target.row_values))
            if isinstance(sweep.targets[0], Whole):
                changing, work = filled + emptied, 8 * sweep.targets[0].row_values * sweep.targets[0].size[0] * 4
            device_peak = max(device_peak, staying + changing + work)
            host_peak = max(host_peak, self.shelf.nbytes(on_host=True))
            self._clear(number, stores)
        for node in in_order(self.final):
            node.store = None
        self.shelf.buffers.clear()
        return device_peak, host_peak, sum(s.multiplications() for s in self.sweeps), len(self.sweeps)

    def _sweep(self, number: int, result: torch.Tensor, context: Context, on_part: Callable[[float], None]) -> None:
        sweep = self.sweeps[number]
        streams, readers = _open(sweep, context)
        stores = self._make_room(number)
        leaving = [stream for stream in readers if stream.store in self._dying(number)]
        for target in sweep.targets:
            target.moments = Moments() if target in self.measured else None
        size = sweep.targets[0].size[0]
        for start in range(0, size, sweep.rows):
            stop = min(start + sweep.rows, size)
            # All are made before one is written: it may take the place of what the others are made from.
            made = [stream.take(stop) for stream in streams]
            for target, store, rows in zip(sweep.targets, stores, made):
                if target.moments is not None:
                    target.moments.update(rows)
                if store is not None:
                    store.write(start, rows)
                if target is self.final:
                    result[:, :, start:stop].copy_(rows)
            del made, rows  # before the next ones are made
            _release(leaving)
            on_part(stop / size)
        self._clear(number, stores)

    def _whole(self, node: Whole, number: int) -> None:
        (store,) = self._make_room(number, in_place=False)
        given = node.inputs[0]
        x = Kept(given.store).take(given.size[0]).contiguous()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            made = node.module(x)
        node.moments = Moments() if node in self.measured else None
        if node.moments is not None:
            node.moments.update(made)
        store.write(0, made)
        self._clear(number, [store])

    def _dying(self, number: int) -> set[Store]:
        return {node.store for node in self.sweeps[number].reads if self._last[node] == number}

    def _make_room(self, number: int, in_place: bool = True) -> list[Store | None]:
        """Stores of what a sweep keeps, without telling the nodes yet: they are not there to be read."""
        sweep = self.sweeps[number]
        leaving = self._dying(number) if in_place else set()
        return [
            self.shelf.allocate(target.channels, target.size, leaving) if kept else None
            for target, kept in zip(sweep.targets, sweep.kept)
        ]

    def _clear(self, number: int, stores: list[Store | None]) -> None:
        """Takes off the shelf what has been read for the last time."""
        for node in self.sweeps[number].reads:
            if self._last[node] == number:
                self.shelf.remove(node.store)
                node.store = None
        for target, store in zip(self.sweeps[number].targets, stores):
            target.store = store


def _open(sweep: Sweep, context: Context) -> tuple[list[Stream], list[Kept]]:
    """Streams of the targets, and those of the kept maps that they begin with."""
    consumers: dict[Node, int] = dict.fromkeys(sweep.targets, 1)
    for node in sweep.path:
        for given in node.inputs:
            consumers[given] = consumers.get(given, 0) + 1
    shared: dict[Node, Shared] = {}
    readers: list[Kept] = []
    steps = sweep.steps(sweep.rows)

    def limited(node: Node, stream: Stream) -> Stream:
        stream.step = max(1, steps[node])
        return stream

    streams = [_open_one(target, consumers, shared, readers, context, limited) for target in sweep.targets]
    return streams, readers


def _open_one(
    node: Node,
    consumers: dict[Node, int],
    shared: dict[Node, Shared],
    readers: list[Kept],
    context: Context,
    limited: Callable[[Node, Stream], Stream],
) -> Stream:
    if node in shared:
        return limited(node, shared[node].tap())
    if node.store is not None:
        stream: Stream = Kept(node.store)
        readers.append(stream)
        if not node.store.buffer.on_host:
            return stream  # reading twice costs nothing
    else:
        inputs = [_open_one(given, consumers, shared, readers, context, limited) for given in node.inputs]
        stream = limited(node, node.stream(inputs, context))
    if consumers[node] == 1:
        return stream
    shared[node] = Shared(stream)
    return limited(node, shared[node].tap())


def _release(leaving: list[Kept]) -> None:
    """Gives back what all have read of buffers that hold nothing else."""
    positions: dict[Store, int] = {}
    for stream in leaving:
        positions[stream.store] = min(stream.position, positions.get(stream.store, stream.position))
    for store in positions:
        owners = store.buffer.owners
        if all(owner in positions for owner in owners):
            store.buffer.release_before(min(positions[owner] for owner in owners))
