"""Folders for results: looked at before any work, and filled so that a failure leaves nothing half done."""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, RunFailed, SynthDiffusionError, shortened
from SynthDiffusionLib.volumes.atomic import writing_error

STAGING = "synthdiffusion-part-1"  # in the file that names the maker of a folder that is being filled
LOCK = "running.lock"  # in a folder that `only_writer` holds


@contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """Makes a folder with its parents and checks that it can be written to. Those that were made here go again when
    the block fails and has left nothing in them.

    Raises:
        BadInput: it is a file, cannot be made, or cannot be written to.
        RunFailed: the disk is full.
    """
    folder = Path(folder).expanduser()
    made: list[Path] = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null byte
        _remove_empty(made)
        raise _unusable(folder, error) from error
    try:
        yield folder
    except BaseException:
        _remove_empty(made)
        raise


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """A folder within `folder` (see `output_folder`), gone when the block ends. It holds nothing but a file that names
    its maker; those of processes that were killed in here go first, where that is certain."""
    from SynthDiffusionLib.reader_study.leftovers import make_part, remove_dead

    with output_folder(folder) as out:
        remove_dead(out, STAGING)
        try:
            staging = make_part(out, STAGING)
        except OSError as error:
            raise _unusable(out, error) from error
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def only_writer(folder: Path, lock_name: str = LOCK) -> Iterator[Path]:
    """A folder for results (see `output_folder`) that no other process works in while the block runs: those that ask
    by this function are refused. The lock of a process that was killed is taken over.

    Args:
        folder: made if missing.
        lock_name: of the lock's file; who uses another works beside.

    Raises:
        BadInput, RunFailed: as `output_folder`; another process works in it.
    """
    from SynthDiffusionLib.reader_study.locks import FileLock, Locked

    utc = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    with output_folder(folder) as out:
        try:
            lock = FileLock.acquire(out / lock_name, utc=utc, what=f"The folder '{out}' cannot be locked")
        except Locked as error:
            raise _at_work(out, lock_name, error.holder, error.other_computer) from error
        try:
            yield out
        finally:
            lock.release()


def check_writable(folder: Path) -> None:
    """Refuses a folder that results cannot be written to; leaves nothing behind.

    Raises:
        BadInput, RunFailed: as `output_folder`.
    """
    folder = Path(folder).expanduser()
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
    except (OSError, ValueError) as error:
        raise _unusable(folder, error) from error
    with output_folder(folder):
        pass
    _remove_empty(missing)


def move_into(source: Path, target: Path) -> None:
    """Renames a file or folder; the target may be an empty folder."""
    if target.is_dir():
        target.rmdir()  # only POSIX renames onto an empty folder
    os.replace(source, target)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError, ValueError):  # something is in it; a name that cannot be
        for folder in folders:
            folder.rmdir()


def _at_work(folder: Path, lock_name: str, holder: dict[str, Any], unsure: bool) -> BadInput:
    """The error to show for a folder whose lock another process has; without a holder, the lock is damaged."""
    who = ""
    if holder:
        host = f" on the computer '{shortened(holder.get('host'), 60)}'" if unsure else ""
        who = f": process {holder.get('pid')}{host}, since {shortened(holder.get('utc'), 60)}"
    hint = "Wait until it has ended, or choose another folder with --out."
    if unsure:
        hint += f" If none is at work there any more, delete '{lock_name}' in the folder."
    return BadInput(f"Another command is at work in '{folder}'{who}", hint)


def _unusable(folder: Path, error: OSError | ValueError) -> SynthDiffusionError:
    if isinstance(error, OSError):
        known = writing_error(error, folder)
        if isinstance(known, RunFailed) and "No space" in known.message:
            return known
    reason = getattr(error, "strerror", None) or error
    shown = str(folder) if len(str(folder)) <= 200 else f"{str(folder)[:200]}..."
    return BadInput(f"The output folder {shown!r} cannot be written to ({reason})", "Choose another folder with --out.")
