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

_HINT = "Give another --out."


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """An empty folder within `folder`, gone when the block ends, as is `folder` (with its parents) if that was made
    here and is empty.

    Args:
        folder: of the results; made with its parents if missing.

    Raises:
        BadInput: `folder` is a file, cannot be made, or cannot be written to.
        RunFailed: the disk is full.
    """
    folder = Path(folder)
    made: list[Path] = []
    staging = None
    try:
        try:
            for path in reversed([folder, *folder.parents]):
                if not path.exists():
                    path.mkdir()
                    made.append(path)
            staging = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
        except (OSError, ValueError) as error:  # ValueError: a null byte
            raise _unusable(folder, error) from error
        yield staging
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):
            for path in reversed(made):
                path.rmdir()


def check_writable(folder: Path) -> None:
    """Refuses a folder that results cannot be written to; leaves nothing behind.

    Raises:
        BadInput: it is a file, cannot be made, or cannot be written to.
        RunFailed: the disk is full.
    """
    with staging_folder(folder):
        pass


def move_into(source: Path, target: Path) -> None:
    """Renames a file or folder; the target may be an empty folder."""
    if target.is_dir():
        target.rmdir()  # only POSIX renames onto an empty folder
    os.replace(source, target)


def _unusable(folder: Path, error: OSError | ValueError) -> SynthDiffusionError:
    if isinstance(error, OSError):
        known = writing_error(error, folder)
        if isinstance(known, RunFailed) and "No space" in known.message:
            return known
        why = error.strerror or str(error)
    else:
        why = str(error)
    return BadInput(f"The folder '{folder}' cannot be written to: {why}".replace("\0", "?"), _HINT)
