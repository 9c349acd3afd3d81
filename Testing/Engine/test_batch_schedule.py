"""The scheduler, with workers that behave as they are told: nothing is lost, nothing is tried without end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from SynthDiffusionLib.batch.items import Item
from SynthDiffusionLib.batch.maker import FINAL, PASSING, SURROUNDINGS, UNREADABLE, Made
from SynthDiffusionLib.batch.pool import LOST, MADE, READY, UNUSABLE, Outcome
from SynthDiffusionLib.batch.schedule import Schedule, Tally
from SynthDiffusionLib.batch.store import Store
from SynthDiffusionLib.errors import Cancelled, RunFailed

DONE = "done"


def some(count: int) -> list[Item]:
    return [Item(f"{n:02}", f"c{n}", 0, n, Path(f"{n}.nii.gz"), None, {}) for n in range(count)]


class Workers:
    """A pool: `does` says what a worker makes of an item: `DONE`, "lost", or how it fails.

    Attributes:
        given: (worker, key) as they were submitted.
        closed: whether it was.
    """

    def __init__(
        self, names: Sequence[str], does: Callable[[str, Item, int], str], unusable: Sequence[str] = ()
    ) -> None:
        self._does, self._names, self._unusable = does, list(names), set(unusable)
        self._busy: dict[str, Item] = {}
        self._news: list[Outcome] = []
        self.given: list[tuple[str, str]] = []
        self.closed = False

    def start(self) -> None:
        for name in list(self._names):
            if name in self._unusable:
                self._names.remove(name)
                self._news.append(Outcome(name, UNUSABLE, reason="it has SynthDiffusion 0.9"))
            else:
                self._news.append(Outcome(name, READY))

    def free(self) -> Sequence[str]:
        return [name for name in self._names if name not in self._busy]

    def submit(self, worker: str, item: Item) -> None:
        assert worker in self.free(), "a worker got a second item"
        self._busy[worker] = item
        self.given.append((worker, item.key))

    def wait(self, timeout_s: float) -> list[Outcome]:
        news, self._news = self._news, []
        for worker, item in list(self._busy.items()):
            del self._busy[worker]
            tries = sum(key == item.key for _, key in self.given)
            what = self._does(worker, item, tries)
            if what == "lost":
                news += [Outcome(worker, LOST, item, reason="killed by SIGKILL"), Outcome(worker, READY)]
            elif what == DONE:
                news.append(Outcome(worker, MADE, item, Made(item.key, DONE, 1.0)))
            else:
                news.append(Outcome(worker, MADE, item, Made(item.key, "failed", 1.0, what, "kind", f"{what} trouble")))
        return news

    def put_aside(self, worker: str) -> None:
        self._names.remove(worker)

    def alive(self) -> int:
        return len(self._names)

    def close(self) -> None:
        self.closed = True


def carry_out(tmp_path, pool: Workers, items: list[Item], retries=2, cancel=lambda: False) -> tuple[Tally, list[dict]]:
    tally, events = Tally(len(items)), []
    try:
        Schedule(pool, Store(tmp_path), tally, retries, events.append, cancel).carry_out(items)
    finally:
        assert pool.closed
    assert tally.done + len(tally.failed) + tally.left + tally.there == tally.total, "an item is lost"
    return tally, events


def test_all_items_are_made_once(tmp_path):
    pool = Workers(["a", "b", "c"], lambda *_: DONE)
    tally, events = carry_out(tmp_path, pool, some(50))
    assert tally.done == 50 and len(pool.given) == 50 and set(tally.by_worker) == {"a", "b", "c"}
    last = [e for e in events if e["event"] == "progress"][-1]
    assert (last["step"], last["total"], last["failed"], last["eta_s"]) == (50, 50, 0, 0)


def test_what_may_pass_is_tried_again_after_the_others(tmp_path):
    pool = Workers(["a"], lambda worker, item, tries: PASSING if item.key == "00" and tries < 3 else DONE)
    tally, _ = carry_out(tmp_path, pool, some(4))
    assert tally.done == 4 and tally.repeats == 2
    assert [key for _, key in pool.given] == ["00", "01", "02", "03", "00", "00"]


def test_a_poisonous_item_fails_after_its_retries_and_the_rest_goes_on(tmp_path):
    pool = Workers(["a", "b"], lambda worker, item, tries: "lost" if item.key == "01" else DONE)
    tally, _ = carry_out(tmp_path, pool, some(6))
    assert tally.done == 5 and tally.lost == 3
    assert [(i.key, message) for i, _, message, _ in tally.failed] == [("01", "Its worker ended (killed by SIGKILL)")]
    assert Store(tmp_path).failure("01")["attempts"] == 3


def test_what_is_wrong_with_an_input_is_not_tried_again(tmp_path):
    pool = Workers(["a"], lambda worker, item, tries: FINAL if item.key == "02" else DONE)
    tally, events = carry_out(tmp_path, pool, some(4))
    assert tally.done == 3 and len(pool.given) == 4
    assert any(e.get("message") == "c2, seed 2: final trouble" for e in events)


def test_a_worker_with_bad_surroundings_gets_nothing_more_and_costs_no_attempt(tmp_path):
    pool = Workers(["full", "b"], lambda worker, item, tries: SURROUNDINGS if worker == "full" else DONE)
    tally, _ = carry_out(tmp_path, pool, some(10), retries=0)
    assert tally.done == 10 and not tally.failed
    assert sum(worker == "full" for worker, _ in pool.given) == 1
    assert tally.aside == [("full", "surroundings trouble. ")]


def test_without_any_worker_left_the_rest_is_left_and_not_failed(tmp_path):
    pool = Workers(["a", "b"], lambda *_: SURROUNDINGS)
    tally, _ = carry_out(tmp_path, pool, some(10))
    assert (tally.done, tally.left, tally.failed) == (0, 10, [])


def test_a_worker_of_another_version_is_put_aside_and_the_others_do_the_work(tmp_path):
    pool = Workers(["old", "b"], lambda *_: DONE, unusable=["old"])
    tally, events = carry_out(tmp_path, pool, some(5))
    assert tally.done == 5 and tally.aside == [("old", "it has SynthDiffusion 0.9")]
    assert any("it has SynthDiffusion 0.9" in e.get("message", "") for e in events)


def test_a_worker_whose_items_all_fail_is_put_aside_unless_it_is_the_last(tmp_path):
    pool = Workers(["bad", "b"], lambda worker, item, tries: PASSING if worker == "bad" else DONE)
    tally, _ = carry_out(tmp_path, pool, some(30))
    assert tally.done == 30 and sum(worker == "bad" for worker, _ in pool.given) == 3
    pool = Workers(["bad"], lambda *_: PASSING)
    tally, _ = carry_out(tmp_path, pool, some(5), retries=1)
    assert len(tally.failed) == 5 and len(pool.given) == 10


def test_files_that_have_gone_are_no_fault_of_a_worker(tmp_path):
    pool = Workers(["a", "b"], lambda worker, item, tries: UNREADABLE if int(item.key) < 10 else DONE)
    tally, _ = carry_out(tmp_path, pool, some(20))  # the driver does not find them either
    assert tally.done == 10 and len(tally.failed) == 10 and not tally.aside and len(pool.given) == 20


def test_files_that_one_worker_alone_does_not_see_go_to_another(tmp_path):
    (tmp_path / "there.nii.gz").write_bytes(b"")
    items = [replace(item, segmentation=tmp_path / "there.nii.gz") for item in some(20)]
    pool = Workers(["blind", "b"], lambda worker, item, tries: UNREADABLE if worker == "blind" else DONE)
    tally, _ = carry_out(tmp_path, pool, items)
    assert tally.done == 20 and not tally.failed and [worker for worker, _ in tally.aside] == ["blind"]


def test_a_failure_that_cannot_be_recorded_ends_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise RunFailed("No space left", "Free some.")

    monkeypatch.setattr(Store, "fail", full)
    pool = Workers(["a"], lambda worker, item, tries: FINAL if item.key == "01" else DONE)
    tally, events = carry_out(tmp_path, pool, some(3))
    assert tally.done == 2 and len(tally.failed) == 1
    assert any("could not be recorded: No space left" in e.get("message", "") for e in events)


def test_cancelling_ends_all_workers_and_keeps_count(tmp_path):
    asked = iter([False] * 3 + [True] * 100)
    pool, tally = Workers(["a"], lambda *_: DONE), Tally(10)
    with pytest.raises(Cancelled):
        Schedule(pool, Store(tmp_path), tally, 2, lambda e: None, lambda: next(asked)).carry_out(some(10))
    assert pool.closed and tally.done + tally.left == 10 and tally.done > 0
