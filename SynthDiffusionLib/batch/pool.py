"""What a batch's scheduler needs of those who do the work, wherever they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from SynthDiffusionLib.batch.items import Item
from SynthDiffusionLib.batch.maker import Made

READY, MADE, LOST, UNUSABLE = "ready", "made", "lost", "unusable"


@dataclass(frozen=True)
class Outcome:
    """News of a worker.

    Args:
        worker: its name.
        what: `READY`: it takes items; `MADE`: see `made`; `LOST`: it ended, with its item unmade if it had one, and its
            pool starts it again; `UNUSABLE`: it will not work, see `reason`.
        item: that it had, if any.
        made: what became of it.
        reason: why it ended.
        about: of a worker that is ready, see `Maker.describe`.
    """

    worker: str
    what: str
    item: Item | None = None
    made: Made | None = None
    reason: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


class Pool(Protocol):
    """Workers that make one item each at a time."""

    def start(self) -> None:
        """Begins to start the workers; `wait` tells when they are ready."""

    def free(self) -> Sequence[str]:
        """Workers that are ready and have no item."""

    def submit(self, worker: str, item: Item) -> None:
        """Gives a free worker an item."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """News since the last call; waits for some, but no longer than so many seconds."""

    def put_aside(self, worker: str) -> None:
        """Ends a worker for good."""

    def alive(self) -> int:
        """Workers that are ready, at work, or being started."""

    def close(self) -> None:
        """Ends all workers at once, with their children."""
