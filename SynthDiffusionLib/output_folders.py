"""Folders for results: looked at before any work, and filled so that a failure leaves nothing half done."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from SynthDiffusionLib.errors import BadInput, RunFailed, SynthDiffusionError
from SynthDiffusionLib.volumes.atomic import writing_error


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
    """An empty folder within `folder` (see `output_folder`), gone when the block ends."""
    with output_folder(folder) as out:
        staging = Path(tempfile.mkdtemp(prefix=".part-", dir=out))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


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


def _unusable(folder: Path, error: OSError | ValueError) -> SynthDiffusionError:
    if isinstance(error, OSError):
        known = writing_error(error, folder)
        if isinstance(known, RunFailed) and "No space" in known.message:
            return known
    reason = getattr(error, "strerror", None) or error
    shown = str(folder) if len(str(folder)) <= 200 else f"{str(folder)[:200]}..."
    return BadInput(f"The output folder {shown!r} cannot be written to ({reason})", "Choose another folder with --out.")
