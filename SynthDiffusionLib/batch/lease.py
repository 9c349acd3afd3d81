"""The lock of a batch's driver, kept alive: that of a computer that has gone is not waited for.

A lock names its process, and one of this computer that has ended is taken over at once (`reader_study.locks`). Of
another computer nobody can tell from here, so a driver touches its lock every minute, and one that has not been touched
for ten is dropped. The times compared are both the file server's. A driver that was only asleep loses nothing by it:
what two drivers make at once is published once.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from SynthDiffusionLib.output_folders import only_writer
from SynthDiffusionLib.reader_study.locks import host_name

TOUCHED_EVERY_S = 60.0
LOST_AFTER_S = 600.0


def lock_name(part: str) -> str:
    """Name of a driver's lock.

    Args:
        part: "" or "-3-of-16".
    """
    return f"running{part}.lock"


@contextmanager
def only_driver(folder: Path, part: str) -> Iterator[Path]:
    """The folder of a batch (see `output_folders.only_writer`), in which no other driver has this part in hand.

    Raises:
        BadInput, RunFailed: as `only_writer`.
    """
    path = Path(folder).expanduser() / lock_name(part)
    _drop_if_lost(path)
    with only_writer(folder, lock_name(part)) as out:
        ended = threading.Event()

        def touch() -> None:
            while not ended.wait(TOUCHED_EVERY_S):
                with suppress(OSError):
                    os.utime(path)

        threading.Thread(target=touch, name="lease", daemon=True).start()
        try:
            yield out
        finally:
            ended.set()


def others_at_work(folder: Path, part: str) -> bool:
    """Whether drivers of other parts have locks in the folder."""
    return any(path.name != lock_name(part) for path in folder.glob(lock_name("*")))


def _drop_if_lost(lock: Path) -> None:
    """Removes the lock of another computer that has not been touched for `LOST_AFTER_S`."""
    with suppress(OSError, ValueError, AttributeError):
        if json.loads(lock.read_text(encoding="utf-8")).get("host") in (None, host_name()):
            return
        with tempfile.NamedTemporaryFile(dir=lock.parent, prefix=".part-") as now:
            age = os.stat(now.name).st_mtime - lock.stat().st_mtime
        if age > LOST_AFTER_S:
            lock.unlink()
