"""What a killed `study new` leaves beside STUDY: its hidden folder, half filled, goes with the next build.

The folder names its maker. It is removed only if that process is certainly dead: a process of this computer since it
was last started, counted as ours are (a container counts its own), that no longer runs. All others are told.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import shortened
from SynthDiffusionLib.reader_study.locks import _started, host_name, process_runs
from SynthDiffusionLib.reader_study.study import utc_now

PREFIX, MARKER, CONTENT = ".part-", "maker.json", "study"
FORMAT = "synthdiffusion-study-part-1"
_SAME_START_S = 2.0


def make_part(parent: Path, form: str = FORMAT) -> Path:
    """A new hidden folder that names this process as its maker; what is built goes to `CONTENT` in it.

    Args:
        parent: where to make it.
        form: what it is for: `FORMAT`, a study, or another name.

    Raises:
        OSError: it cannot be made.
    """
    part = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    data = {"format": form, **_computer(), "pid": os.getpid(), "started": _started(os.getpid()), "utc": utc_now()}
    try:
        (part / MARKER).write_text(json.dumps(data), encoding="utf-8")
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return part


def remove_leftovers(parent: Path) -> list[str]:
    """Removes the folders of builds that were killed, where that is certain.

    Args:
        parent: the folder that the study will be in.

    Returns:
        a sentence for each that was removed, and for each that may be a leftover.
    """
    notes = []
    try:
        found = sorted(path for path in parent.iterdir() if path.name.startswith(PREFIX))
    except OSError:
        return []
    for part in found:
        if not _is_part(part):
            continue
        maker = _maker(part)
        if maker is None:
            notes.append(
                f"'{shortened(part)}' may be left from a `study new` that was killed; it does not say of which "
                "process. If no study is being built there, delete it."
            )
        elif any(maker.get(key) != value for key, value in _computer().items()):
            notes.append(
                f"'{shortened(part)}' is of a `study new` on the computer {_word(maker, 'host')} (process "
                f"{_word(maker, 'pid')}, since {_word(maker, 'utc')}), and whether it still runs cannot be seen from "
                "here. If it does not, delete the folder."
            )
        elif not _runs(maker):
            shutil.rmtree(part, ignore_errors=True)
            what = f"what a `study new` that was killed had left (process {maker['pid']}, since {_word(maker, 'utc')})"
            if part.exists():
                notes.append(f"'{shortened(part)}' is {what}, and cannot be removed. Delete it.")
            else:
                notes.append(f"'{shortened(part)}' was removed: {what}.")
    return notes


def remove_dead(parent: Path, form: str) -> None:
    """Removes the folders of `make_part` whose makers certainly run no more, whatever they hold; says nothing.

    Args:
        parent: where they were made.
        form: what they are for, as it was told to `make_part`.
    """
    try:
        found = [path for path in parent.iterdir() if path.name.startswith(PREFIX)]
    except OSError:
        return
    for part in found:
        maker = _maker(part, form) if part.is_dir() and not part.is_symlink() else None
        if maker is not None and all(maker.get(k) == v for k, v in _computer().items()) and not _runs(maker):
            shutil.rmtree(part, ignore_errors=True)


def _is_part(path: Path) -> bool:
    """Whether a folder holds what `make_part` and a build put there, and nothing else."""
    try:
        names = {p.name for p in path.iterdir()} if path.is_dir() and not path.is_symlink() else set()
    except OSError:
        return False
    return CONTENT in names and names <= {CONTENT, MARKER} or names == {MARKER}


def _maker(part: Path, form: str = FORMAT) -> dict[str, Any] | None:
    try:
        data = json.loads((part / MARKER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or data.get("format") != form:
        return None
    return data if type(data.get("pid")) is int and 0 < data["pid"] < 2**32 else None


def _computer() -> dict[str, str]:
    """What tells where numbers of processes count: the name of this computer, since when it runs, the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.readlink("/proc/self/ns/pid")
    except (OSError, ValueError):  # not Linux: no containers that share a name
        boot, space = f"{uuid.getnode():x}", ""
    return {"host": host_name(), "boot": boot, "processes": space}


def _runs(maker: dict[str, Any]) -> bool:
    """Whether the maker may still run; a later process with its number is another one."""
    if not process_runs(maker["pid"]):
        return False
    then, now = maker.get("started"), _started(maker["pid"])
    numbers = isinstance(then, int | float) and now is not None
    return not numbers or abs(then - now) < _SAME_START_S


def _word(maker: dict[str, Any], key: str) -> str:
    return shortened(maker.get(key, "unknown"), 60)
