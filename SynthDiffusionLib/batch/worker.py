"""`python -m SynthDiffusionLib.batch.worker`: a worker of a batch on this machine, in a process of its own.

Standard input brings one JSON object a line: first the `Setup`, then items. Standard output gives one a line: "ready",
or "unusable", then "made" for each item. When standard input is closed the process ends at once, with its children:
the driver is gone, and what is complete has its place already.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from SynthDiffusionLib.batch.maker import Maker, Setup


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

    setup, made, waiting = Setup(**json.loads(first)), [], queue.Queue()
    reader = threading.Thread(target=_read, args=(waiting, setup, made), name="stdin", daemon=True)
    if os.name != "nt":  # there, a thread that reads standard input holds up the import of numpy (`jobs.interrupts`)
        reader.start()
    try:
        maker = Maker(setup)
        made.append(maker)
    except Exception as error:
        if not isinstance(error, SynthDiffusionError):
            import traceback

            traceback.print_exception(error)
            error = RunFailed(f"{type(error).__name__}: {error}", "See the log of the worker.")
        _say(answers, {"what": "unusable", "reason": error.one_line()})
        return error.exit_code
    _say(answers, {"what": "ready", "about": maker.describe()})
    if os.name == "nt":
        reader.start()
    while True:
        item = Item.from_json(json.loads(waiting.get()))
        _say(answers, {"what": "made", "made": asdict(maker.make(item))})


def _read(waiting: queue.Queue[str], setup: Setup, made: Sequence[Maker]) -> None:
    """Hands lines on; after the last one, throws away what was begun and ends the process.

    Args:
        waiting: gets the lines.
        setup: of the worker.
        made: its maker, once there is one.
    """
    import psutil

    from SynthDiffusionLib.batch.maker import begun_folder

    try:
        for line in sys.stdin:
            waiting.put(line)
        for child in psutil.Process().children(recursive=True):  # it writes a scene
            with suppress(psutil.Error):
                child.kill()
        for maker in made:
            maker.close()
        if setup.scratch is not None:
            shutil.rmtree(begun_folder(setup), ignore_errors=True)
    finally:
        os._exit(0)


def _say(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content, default=str) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
