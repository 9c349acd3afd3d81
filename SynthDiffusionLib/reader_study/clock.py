"""Times of a reading: UTC for people, a monotonic clock for durations, and active time with a cap on idle gaps.

The time of day can be set, jump and run backwards; durations never come from it. The monotonic clock cannot be set, but
its zero means nothing and differs from process to process: its values are comparable within one `boot` only.
"""

from __future__ import annotations

import datetime
import time
import uuid

# A jump of UTC against the monotonic clock that is told of, in s. Smaller ones are a time server's ordinary work.
LARGEST_JUMP_S = 60.0


class Clock:
    """The clocks of this computer. Tests hand in another object with the same three names.

    Attributes:
        boot: 12 hex digits; monotonic values are comparable between records of the same `boot`.
    """

    def __init__(self) -> None:
        self.boot = uuid.uuid4().hex[:12]

    def utc(self) -> str:
        """Now, as in `2026-11-28T10:00:00.123Z`."""
        return format_utc(datetime.datetime.now(datetime.UTC))

    def monotonic(self) -> float:
        """Seconds of a clock that nobody can set. It runs on while the computer sleeps, wherever the system has one."""
        # time.monotonic stands still during sleep on Linux and macOS; a UTC jump would then be seen at each wake-up.
        if hasattr(time, "clock_gettime"):
            which = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
            if which is not None:
                return time.clock_gettime(which)
        return time.monotonic()


def format_utc(moment: datetime.datetime) -> str:
    """A moment as in `2026-11-28T10:00:00.123Z`.

    Args:
        moment: with its time zone.
    """
    moment = moment.astimezone(datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_utc(text: str) -> datetime.datetime:
    """The moment that `format_utc` wrote.

    Raises:
        ValueError: it is no such text, or lacks the Z.
    """
    if not isinstance(text, str) or not text.endswith("Z"):
        raise ValueError(f"{text!r} is no UTC time")
    return datetime.datetime.fromisoformat(text[:-1] + "+00:00")


class CaseTimer:
    """Times of one case, in seconds of the monotonic clock.

    Active time is what lies between signs of life (showing, input, commit): a gap longer than `idle_cap_s` counts as
    `idle_cap_s`, and time paused or spent on another case does not count.

    Args:
        now: when the images were on the screen.
        idle_cap_s: longest gap that counts whole.
    """

    def __init__(self, now: float, idle_cap_s: float) -> None:
        self.shown = now
        self.first_touch: float | None = None
        self._cap = float(idle_cap_s)
        self._active = 0.0
        self._viewed = 0.0
        self._last: float | None = now  # None: stopped

    def touch(self, now: float, is_input: bool = True) -> None:
        """A sign of life; `is_input`: it came from the reader."""
        if self._last is None:
            return
        gap = max(now - self._last, 0.0)
        self._active += min(gap, self._cap)
        self._viewed += gap
        self._last = now
        if is_input and self.first_touch is None:
            self.first_touch = now

    def stop(self, now: float) -> None:
        """Paused, or another case is looked at."""
        self.touch(now, is_input=False)
        self._last = None

    def start(self, now: float) -> None:
        """Goes on after `stop`."""
        if self._last is None:
            self._last = now

    @property
    def is_running(self) -> bool:
        return self._last is not None

    def active_s(self, now: float) -> float:
        """Active time so far."""
        gap = 0.0 if self._last is None else max(now - self._last, 0.0)
        return self._active + min(gap, self._cap)

    def viewed_s(self, now: float) -> float:
        """Time on the screen so far, idle gaps included, pauses not."""
        return self._viewed + (0.0 if self._last is None else max(now - self._last, 0.0))
