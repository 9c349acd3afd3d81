"""Progress of a job, one JSON object an event: to a callback, to `events.jsonl`, to standard output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

OnEvent = Callable[[dict[str, Any]], None]


def ignore(event: dict[str, Any]) -> None:
    """The default receiver: nobody listens."""


def json_lines(*streams: TextIO) -> OnEvent:
    """A receiver that writes every event as one line to all streams and flushes it."""

    def write(event: dict[str, Any]) -> None:
        line = json.dumps(event, ensure_ascii=True, default=str)
        for stream in streams:
            stream.write(line + "\n")
            stream.flush()

    return write


def event_file(job_dir: Path) -> TextIO:
    """`events.jsonl` of a job folder, emptied: a job that is run again starts its log anew."""
    return (Path(job_dir) / "events.jsonl").open("w", encoding="utf-8")


class Progress:
    """Counts the denoising steps of a whole job and estimates the time that is left.

    The estimate goes by the voxels that are left to denoise, since regions differ in size. The first step is slower
    than the others and is left out when there are others. What comes after denoising (writing, a scene) counts for the
    samples to come as soon as one is finished.

    Args:
        on_event: receiver.
        steps: denoising steps a condition.
        costs: of one step for each condition of a sample, in any unit (voxels).
        samples: of the job.
        should_cancel: asked after every step, and between the slabs of later work.

    Attributes:
        denoise_s: seconds in the blocks of `sample` that have ended.
    """

    def __init__(
        self,
        on_event: OnEvent,
        steps: int,
        costs: Sequence[float],
        samples: int = 1,
        should_cancel: Callable[[], bool] = lambda: False,
    ) -> None:
        self._on_event = on_event
        self._steps, self._costs, self._samples = steps, costs, samples
        self._should_cancel = should_cancel
        self._sample = 0
        self._done = 0
        self._cost_left = float(steps * sum(costs) * samples)
        self._timed_s = self._timed_cost = 0.0
        self._other_s = self._last = 0.0
        self._first = 0.0, 0.0  # seconds and cost of the first step
        self._part = "", -1  # stage, and percent that was told last
        self._part_began = 0.0
        self.denoise_s = 0.0

    @contextmanager
    def sample(self) -> Iterator[None]:
        """The block denoises the next sample."""
        began = time.monotonic()
        if self._sample:
            self._other_s += began - self._last
        self._sample += 1
        self._last = began
        yield
        self._last = time.monotonic()
        self.denoise_s += self._last - began

    def step(self, *_: int) -> None:
        """One denoising step is done."""
        from SynthDiffusionLib.errors import Cancelled

        now = time.monotonic()
        cost = self._costs[self._done // self._steps % len(self._costs)]
        if self._done == 0:
            self._first = now - self._last, cost
        elif self._done == 1:  # the second step takes the place of the first
            self._timed_s = self._timed_cost = 0.0
        self._timed_s += now - self._last
        self._timed_cost += cost
        self._cost_left -= cost
        self._done += 1
        self._last = now
        total = self._steps * len(self._costs) * self._samples
        left = {"eta_s": round(self._seconds_left(), 1)}
        self._on_event(self._event("denoise", self._done, total) | left | _memory())
        if self._should_cancel():
            raise Cancelled

    def part(self, stage: str, fraction: float) -> None:
        """A part of a stage after the denoising is done: told in percent, with an estimate. See `backends.OnPart`.

        Args:
            stage: its name; of `backends.ESTIMATE` nothing is told.
            fraction: that is done; 0 as it begins.

        Raises:
            Cancelled: the job is to end.
        """
        from SynthDiffusionLib.backends import ESTIMATE
        from SynthDiffusionLib.errors import Cancelled

        percent = int(100 * fraction)
        if stage != ESTIMATE and (stage, percent) != self._part:
            now = time.monotonic()
            if stage != self._part[0] or percent < self._part[1]:
                self._part_began = now
            self._part = stage, percent
            left = {}
            if 0 < percent < 100 and self._timed_cost:
                seconds = (now - self._part_began) * (1.0 - fraction) / fraction
                left = {"eta_s": round(seconds + self._seconds_left(), 1)}
            self._on_event(self._event(stage, percent, 100) | left | _memory())
        if self._should_cancel():
            raise Cancelled

    def stage(self, name: str) -> None:
        """Another stage of the present sample begins, after its denoising."""
        self._on_event(self._event(name, 0, 1))

    def _event(self, stage: str, step: int, total: int) -> dict[str, Any]:
        return {
            "event": "progress",
            "stage": stage,
            "step": step,
            "total": total,
            "sample": self._sample,
            "samples": self._samples,
        }

    @property
    def warm_up_s(self) -> float:
        """How much longer the first step took than the others did; part of `denoise_s`. 0 where there are no others."""
        if self._done < 2:
            return 0.0
        seconds, cost = self._first
        return max(0.0, seconds - self._timed_s / self._timed_cost * cost)

    def _seconds_left(self) -> float:
        denoising = self._timed_s / self._timed_cost * self._cost_left
        finished = self._sample - 1
        other = self._other_s / finished * (self._samples - finished) if finished else 0.0
        return denoising + other


def _memory() -> dict[str, int]:
    import torch

    return {"vram_bytes": int(torch.cuda.max_memory_allocated())} if torch.cuda.is_available() else {}
