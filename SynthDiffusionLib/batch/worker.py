"""`python -m SynthDiffusionLib.batch.worker`: a worker of a batch on this machine, in a process of its own.

Standard input brings one JSON object a line: first the `Setup`, then items. Standard output gives one a line: "ready",
or "unusable", then "made" for each item. When standard input is closed the process ends at once, with its children:
the driver is gone, and what is complete has its place already.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from SynthDiffusionLib.batch.maker import Maker


def main() -> int:
    """Makes items until standard input is closed; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the driver's, which then closes standard input
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is for the log
    first = sys.stdin.readline()
    if not first:
        return 0
    from SynthDiffusionLib.batch.items import Item
    from SynthDiffusionLib.batch.maker import Maker, Setup
    from SynthDiffusionLib.errors import RunFailed, SynthDiffusionError

    try:
        maker = Maker(Setup(**json.loads(first)))
    except Exception as error:
        if not isinstance(error, SynthDiffusionError):
            import traceback

            traceback.print_exception(error)
            error = RunFailed(f"{type(error).__name__}: {error}", "See the log of the worker.")
        _say(answers, {"what": "unusable", "reason": error.one_line()})
        return error.exit_code
    _say(answers, {"what": "ready", "about": maker.describe()})
    # Only now: on Windows a thread that reads standard input holds up the import of numpy (`jobs.interrupts`).
    waiting: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(waiting, maker), name="stdin", daemon=True).start()
    while True:
        item = Item.from_json(json.loads(waiting.get()))
        _say(answers, {"what": "made", "made": asdict(maker.make(item))})


def _read(waiting: queue.Queue[str], maker: Maker) -> None:
    """Hands lines on; after the last one, throws away what was begun and ends the process."""
    import psutil

    try:
        for line in sys.stdin:
            waiting.put(line)
        for child in psutil.Process().children(recursive=True):  # it writes a scene
            with suppress(psutil.Error):
                child.kill()
        maker.close()
    finally:
        os._exit(0)


def _say(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content, default=str) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
