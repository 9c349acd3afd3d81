"""Being told to end: SIGTERM (`kill`, a batch system) and SIGHUP (a closed terminal) as Ctrl+C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Lets these signals raise KeyboardInterrupt in the block, so that it cleans up and says that it was cancelled.

    Signals that the parent process has told us to ignore (`nohup`) stay ignored. Only the main thread can set
    handlers; elsewhere nothing is changed.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
