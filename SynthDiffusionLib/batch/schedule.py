"""Giving the items of a batch to workers until all are made, or have failed for good."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from SynthDiffusionLib.batch.items import Item
from SynthDiffusionLib.batch.maker import FINAL, SURROUNDINGS, UNREADABLE, Made
from SynthDiffusionLib.batch.pool import LOST, MADE, READY, UNUSABLE, Outcome, Pool
from SynthDiffusionLib.batch.store import Store
from SynthDiffusionLib.errors import Cancelled, SynthDiffusionError
from SynthDiffusionLib.jobs.events import OnEvent

POLL_S = 0.5
WAITING_S = 30.0  # for the first worker, after which the user is told
FAILURES_IN_A_ROW = 3  # of different items, after which a worker is put aside
FAILURES_TOLD = 20  # one by one
_WINDOW = 100  # finished items that the estimate is made of


@dataclass
class Tally:
    """How a batch went.

    Attributes:
        total: items of the list.
        there: of these, those that were there before.
        done: made now.
        failed: (item, kind, message, hint) of those that could not be made.
        left: how many were not tried to the end.
        aside: (worker, reason) of workers that were put aside.
        lost: how often a worker ended with an item unmade.
        repeats: how often an item was given out again.
        by_worker: items made by each worker.
        seconds: of each item made.
        resident_bytes: of the worker after each item made, in order.
        wall_s: from the first item given out to the last one made.
        workers: most workers that were ready at a time.
    """

    total: int
    there: int = 0
    done: int = 0
    failed: list[tuple[Item, str, str, str]] = field(default_factory=list)
    left: int = 0
    aside: list[tuple[str, str]] = field(default_factory=list)
    lost: int = 0
    repeats: int = 0
    by_worker: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    resident_bytes: dict[str, list[int]] = field(default_factory=dict)
    wall_s: float = 0.0
    workers: int = 0


class Schedule:
    """Carries a list out with a pool.

    Args:
        pool: of workers, not started yet.
        store: folder of the batch.
        tally: filled in as it goes.
        retries: how often an item is given out again after something that may pass.
        on_event: gets "progress" with the stage "batch", and "warning".
        should_cancel: asked twice a second and more.
    """

    def __init__(
        self,
        pool: Pool,
        store: Store,
        tally: Tally,
        retries: int,
        on_event: OnEvent,
        should_cancel: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pool, self._store, self._tally = pool, store, tally
        self._retries, self._on_event, self._should_cancel = retries, on_event, should_cancel
        self._waiting: deque[Item] = deque()
        self._attempts: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()
        self._ready: set[str] = set()
        self._finished: deque[float] = deque(maxlen=_WINDOW)
        self._began: float | None = None

    def carry_out(self, items: Sequence[Item]) -> None:
        """Makes the items; when it returns, each is there or told of as failed or left.

        Raises:
            Cancelled: the batch is to end; what was begun is thrown away.
        """
        tally = self._tally
        self._waiting.extend(items)
        running = 0
        waiting_since: float | None = time.monotonic()
        self._pool.start()
        try:
            self._tell()
            while self._waiting or running:
                if self._should_cancel():
                    raise Cancelled
                for worker in self._pool.free():
                    if not self._waiting:
                        break
                    self._began = self._began or time.monotonic()
                    self._pool.submit(worker, self._waiting.popleft())
                    running += 1
                outcomes = self._pool.wait(POLL_S)
                for outcome in outcomes:
                    running -= outcome.item is not None
                    self._take(outcome)
                if not outcomes and not self._pool.alive():
                    break
                if waiting_since is not None and (self._ready or time.monotonic() - waiting_since > WAITING_S):
                    if not self._ready:
                        self._warn("No worker is ready yet: they load the model, or the cluster has no room for them")
                    waiting_since = None
                if outcomes:
                    self._tell()
        finally:
            tally.left = len(self._waiting) + running
            if self._began is not None and self._finished:
                tally.wall_s = self._finished[-1] - self._began
            self._pool.close()

    def _take(self, outcome: Outcome) -> None:
        """Learns from news of a worker."""
        if outcome.what == READY:
            self._ready.add(outcome.worker)
            self._tally.workers = max(self._tally.workers, len(self._ready))
        elif outcome.what == UNUSABLE:
            self._aside(outcome.worker, outcome.reason, ended=True)
            if outcome.item is not None:
                self._waiting.appendleft(outcome.item)
        elif outcome.what == LOST:
            self._tally.lost += 1
            self._ready.discard(outcome.worker)
            self._warn(f"The worker {outcome.worker} ended ({outcome.reason}); it is started again")
            if outcome.item is not None:
                self._again(
                    outcome.item, "internal", f"Its worker ended ({outcome.reason})", "See the log of the worker."
                )
        elif outcome.what == MADE and outcome.item is not None and outcome.made is not None:
            self._made(outcome.worker, outcome.item, outcome.made)

    def _made(self, worker: str, item: Item, made: Made) -> None:
        tally = self._tally
        if made.status != "failed":
            self._in_a_row[worker] = 0
            self._finished.append(time.monotonic())
            if made.status == "there":
                tally.there += 1
                return
            tally.done += 1
            tally.by_worker[worker] += 1
            tally.seconds.append(made.seconds)
            tally.resident_bytes.setdefault(worker, []).append(made.resident_bytes)
            return
        if made.how == SURROUNDINGS:
            self._aside(worker, f"{made.message.rstrip('.')}. {made.hint}")
            self._waiting.append(item)
            return
        if made.how == FINAL or made.how == UNREADABLE and not _readable(item):
            self._finished.append(time.monotonic())
            self._give_up(item, made.kind, made.message, made.hint)
            return
        self._again(item, made.kind, made.message, made.hint)
        self._in_a_row[worker] += 1
        if self._in_a_row[worker] >= FAILURES_IN_A_ROW and self._pool.alive() > 1:
            self._aside(worker, f"{FAILURES_IN_A_ROW} items in a row failed, the last one so: {made.message}")

    def _again(self, item: Item, kind: str, message: str, hint: str) -> None:
        """Another attempt, after all others, or the end of them."""
        self._attempts[item.key] += 1
        if self._attempts[item.key] > self._retries:
            self._give_up(item, kind, message, hint)
            return
        self._tally.repeats += 1
        self._waiting.append(item)

    def _give_up(self, item: Item, kind: str, message: str, hint: str) -> None:
        self._tally.failed.append((item, kind, message, hint))
        try:
            self._store.fail(item, kind, message, hint, self._attempts[item.key] or 1)
        except SynthDiffusionError as error:  # the report tells it all the same
            self._warn(f"The failure of {item.case}, seed {item.seed}, could not be recorded: {error.message}")
        if len(self._tally.failed) <= FAILURES_TOLD:
            self._warn(f"{item.case}, seed {item.seed}: {message}")
        elif len(self._tally.failed) == FAILURES_TOLD + 1:
            self._warn("Further failures are told in the report only")

    def _aside(self, worker: str, reason: str, ended: bool = False) -> None:
        self._ready.discard(worker)
        self._tally.aside.append((worker, reason))
        if not ended:
            self._pool.put_aside(worker)
        self._warn(f"The worker {worker} is put aside: {reason}")

    def _warn(self, message: str) -> None:
        self._on_event({"event": "warning", "message": message})

    def _tell(self) -> None:
        tally = self._tally
        step = tally.there + tally.done + len(tally.failed)
        event: dict[str, Any] = {"event": "progress", "stage": "batch", "step": step, "total": tally.total}
        event |= {"failed": len(tally.failed), "workers": len(self._ready)}
        if len(self._finished) > 1:
            # From the first item given out while there are few, else from the window of the last ones.
            whole = len(self._finished) < _WINDOW
            began = self._began if whole else self._finished[0]
            count = len(self._finished) if whole else len(self._finished) - 1
            event["eta_s"] = round((self._finished[-1] - began) / count * (tally.total - step), 1)
        self._on_event(event)


def _readable(item: Item) -> bool:
    """Whether the driver can read the files of an item: then it is the worker that cannot."""
    return all(os.access(path, os.R_OK) for path in (item.segmentation, item.image) if path is not None)
