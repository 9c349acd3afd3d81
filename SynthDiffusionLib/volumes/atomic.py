"""Writing a file so that its final name never holds half of it."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from SynthDiffusionLib.errors import BadInput, RunFailed

_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_REPLACE_ATTEMPTS = 10
_RETRIES_PERMISSION = os.name == "nt"  # elsewhere a refusal does not pass


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well and vanishes when it does not.

    The temporary name keeps the suffix, since libraries choose the format by it.

    Raises:
        BadInput: the folder is missing or not writable.
        RunFailed: the disk is full, or the file cannot be written for another reason of the system.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise BadInput(f"Folder {path.parent} does not exist", "Create it or choose another.")
    # A short name: with a long final name, one that is longer still could pass the system's limit.
    suffix = "".join(path.suffixes[-2:])[-12:]
    temporary = path.with_name(f".part-{uuid.uuid4().hex[:12]}{suffix}")
    try:
        try:
            yield temporary
            rename(temporary, path)
        except OSError as error:
            raise writing_error(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """As `atomic_path`, giving the open binary file."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


@contextmanager
def files_together(paths: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Temporary places for several files of one folder, which get their final names together when the block ends well.

    When it does not, files that had these names before are as they were, and folders below the first file's that were
    made for some of them and hold nothing go.

    Raises:
        BadInput, RunFailed: as `atomic_path`.
    """
    folder = next(iter(paths.values())).parent
    staging: Path | None = None
    try:
        try:
            staging = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
        except OSError as error:
            raise writing_error(error, folder) from error
        (staging / "new").mkdir()
        staged = {name: staging / "new" / path.name for name, path in paths.items()}
        yield staged
        _exchange([(staged[name], path, staging / path.name) for name, path in paths.items()])
    except BaseException:
        for inner in {path.parent for path in paths.values()} - {folder}:
            with suppress(OSError):  # something is in it
                inner.rmdir()
        raise
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def gzip_stream(file: BinaryIO, level: int = 6) -> Iterator[BinaryIO]:
    """A gzip stream whose bytes depend on its content only: no time and no file name in its header (RFC 1952)."""
    with gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=file, mtime=0) as stream:
        yield stream


def writing_error(error: OSError, path: Path) -> BadInput | RunFailed:
    """The error to show for a failed write; `path` may lie in a temporary folder of `files_together`."""
    parts = list(path.parts)
    staging = next((i for i, part in enumerate(parts) if part.startswith(".part-")), None)
    if staging is not None and staging < len(parts) - 1:
        path = Path(*parts[:staging], path.name)
    error = _of_the_system(error)
    if error.errno in _NO_SPACE:
        return RunFailed(
            f"{path.name}: No space left on the disk of {path.parent}", "Free some space or choose another folder."
        )
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return BadInput(
            f"{path}: no permission to write it", "Choose another folder, or close the program that has the file open."
        )
    if error.errno == errno.ENAMETOOLONG:
        return BadInput(f"{path.name[:60]}...: the file name is too long", "Choose a shorter name.")
    if isinstance(error, IsADirectoryError):
        return BadInput(f"{path} is a folder", "Choose a file name.")
    return RunFailed(f"{path.name}: it cannot be written ({error.strerror or error})", "Choose another folder.")


def _of_the_system(error: OSError) -> OSError:
    """The error as the system gave it, where a library has raised another of its kind with more text (pydicom does)."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _exchange(moves: list[tuple[Path, Path, Path]]) -> None:
    """Renames new to final and keeps what was there as old, for each (new, final, old); all of them or none."""
    begun: list[tuple[Path, Path, bool]] = []
    try:
        for new, final, old in moves:
            try:
                there = final.is_file()
                begun.append((final, old, there))
                if there:
                    rename(final, old)
                rename(new, final)
            except OSError as error:
                raise writing_error(error, final) from error
    except BaseException:
        for final, old, there in reversed(begun):
            with suppress(OSError):
                if old.is_file():
                    os.replace(old, final)
                elif not there and not final.is_dir():
                    final.unlink(missing_ok=True)
        raise


def rename(temporary: Path, path: Path) -> None:
    """os.replace, tried again while a virus scanner or viewer holds the target open on Windows. A folder takes no place
    that holds another with something in it."""
    for attempt in range(_REPLACE_ATTEMPTS):
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            if attempt == _REPLACE_ATTEMPTS - 1 or not _RETRIES_PERMISSION:
                raise
            time.sleep(0.05 * (attempt + 1))
