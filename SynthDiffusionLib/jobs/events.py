"""Progress of a job, one JSON object an event: to a callback, to `events.jsonl`, to standard output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
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

    Args:
        on_event: receiver.
        total: denoising steps of all samples and regions together.
        should_cancel: asked after every step.
    """

    def __init__(self, on_event: OnEvent, total: int, should_cancel: Callable[[], bool] = lambda: False) -> None:
        self._on_event = on_event
        self._total = total
        self._done = 0
        self._should_cancel = should_cancel
        self._began = time.monotonic()

    def step(self, *_: int) -> None:
        """One denoising step is done."""
        from SynthDiffusionLib.errors import Cancelled

        self._done += 1
        elapsed = time.monotonic() - self._began
        self._on_event(
            {
                "event": "progress",
                "stage": "denoise",
                "step": self._done,
                "total": self._total,
                "eta_s": round(elapsed / self._done * (self._total - self._done), 1),
            }
            | _memory()
        )
        if self._should_cancel():
            raise Cancelled


def _memory() -> dict[str, int]:
    import torch

    return {"vram_bytes": int(torch.cuda.max_memory_allocated())} if torch.cuda.is_available() else {}
