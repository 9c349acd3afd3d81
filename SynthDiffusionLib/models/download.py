"""Downloads a file so that it can be broken off and taken up again, and is what it should be in the end.

While it is incomplete, a file is NAME.part, and NAME.part.json beside it says of which version: bytes of another one
are never put after them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import Cancelled, ModelError, RunFailed
from SynthDiffusionLib.models import hub
from SynthDiffusionLib.models.hub import RemoteFile
from SynthDiffusionLib.models.package import sha256_of
from SynthDiffusionLib.models.spec import size_text

ATTEMPTS = 4  # without a new byte
PAUSE_S = 2.0
_CHUNK = 1 << 18  # at most; what has come is written at once
_LOCK_WRITTEN_S = 10.0  # a lock that is still empty after that is a leftover
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))

OnBytes = Callable[[int], None]


def download(
    remote: RemoteFile,
    folder: Path,
    token: str | None = None,
    on_bytes: OnBytes = lambda done: None,
    should_cancel: Callable[[], bool] = lambda: False,
) -> Path:
    """Downloads a file into a folder, taking up what is there of the same version.

    Args:
        remote: as `hub.describe` gives it.
        folder: made if missing.
        token: for gated repositories.
        on_bytes: is given how many bytes of the file are there.
        should_cancel: asked after every piece.

    Returns:
        path of the file, which has the server's size and checksum.

    Raises:
        ModelError: no access.
        RunFailed: broken off (what is there is kept), wrong length or checksum (it is not), or the disk is full.
        Cancelled: by `should_cancel`; what is there is kept.
    """
    final = folder / remote.name
    part, note = folder / f"{remote.name}.part", folder / f"{remote.name}.part.json"
    version = {"repo": remote.repo, "path": remote.path, "etag": remote.etag, "bytes": remote.bytes}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if final.is_file():  # complete, but not used up: checked again
            os.replace(final, part)
        if not remote.etag or _read_note(note) != version:
            part.unlink(missing_ok=True)
            note.write_text(json.dumps(version), encoding="utf-8")
        _fetch(remote, part, token, on_bytes, should_cancel)
        _check(remote, part)
        os.replace(part, final)
    except OSError as error:
        if error.errno in _FULL:
            raise RunFailed(
                f"The disk with '{folder}' is full; {_size_of(part)} of '{remote.name}' are there",
                "Free some space and try again: the download goes on from there.",
            ) from error
        raise RunFailed(f"'{remote.name}' cannot be written to '{folder}' ({error})", "Check the folder.") from error
    return final


def bytes_there(remote: RemoteFile, folder: Path) -> int:
    """How many bytes of this version are in the folder already."""
    if (folder / remote.name).is_file():
        return (folder / remote.name).stat().st_size
    part = folder / f"{remote.name}.part"
    known = _read_note(folder / f"{remote.name}.part.json")
    same = known is not None and bool(remote.etag) and known.get("etag") == remote.etag
    return part.stat().st_size if same and part.is_file() else 0


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises:
    RunFailed: the disk of a folder, which may not exist yet, has less than `needed` bytes free.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise RunFailed(
            f"{what} needs {size_text(needed)}, but only {size_text(free)} are free",
            f"Free some space on the disk of '{folder}', or set SYNTHDIFFUSION_MODELS to a folder on another.",
        )


def _read_note(note: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _size_of(part: Path) -> str:
    return size_text(part.stat().st_size if part.is_file() else 0)


def _fetch(
    remote: RemoteFile, part: Path, token: str | None, on_bytes: OnBytes, should_cancel: Callable[[], bool]
) -> None:
    failures = 0
    while True:
        there = part.stat().st_size if part.is_file() else 0
        if remote.bytes is not None and there >= remote.bytes:
            on_bytes(there)
            return
        try:
            answer, headers = hub.get(remote, there, token)
            with closing(answer):
                complete = _append(answer, headers, remote, part, there, on_bytes, should_cancel)
            if complete:
                return
            reason = "the connection ended"
        except hub.Interrupted as error:
            reason = str(error)
        grown = part.is_file() and part.stat().st_size > there
        failures = 0 if grown else failures + 1
        if failures >= ATTEMPTS:
            total = f" of {size_text(remote.bytes)}" if remote.bytes else ""
            raise RunFailed(
                f"The download of '{remote.name}' broke off ({reason}); {_size_of(part)}{total} are there",
                f"Try again: it goes on from there. {hub.OFFLINE_HINT}",
            )
        _pause(PAUSE_S * failures, should_cancel)


def _pause(seconds: float, should_cancel: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if should_cancel():
            raise Cancelled
        time.sleep(min(0.1, left))


def _append(
    answer: Any,
    headers: Message,
    remote: RemoteFile,
    part: Path,
    there: int,
    on_bytes: OnBytes,
    should_cancel: Callable[[], bool],
) -> bool:
    """Writes what comes. Returns whether the file is complete now, as far as lengths tell."""
    if there and answer.status != 206:  # the server begins anew, whatever was asked
        there = 0
    elif there and headers.get("Content-Range", "").split("-")[0].strip() != f"bytes {there}":
        raise hub.Interrupted("the server sent another part of the file")
    length = hub.size_in(headers.get("Content-Length"))
    if length is not None and remote.bytes is not None and there + length != remote.bytes:
        part.unlink(missing_ok=True)
        raise RunFailed(
            f"'{remote.name}' has the wrong length: {there + length} bytes come, {remote.bytes} were announced",
            "Try again later; nothing was installed.",
        )
    done = there
    with open(part, "r+b" if there else "wb") as file:
        file.seek(there)
        # A byte more than was announced, and no more, is enough to see that it is not that file.
        while chunk := _read(answer, _CHUNK if remote.bytes is None else min(_CHUNK, remote.bytes - done + 1)):
            file.write(chunk)
            file.flush()  # nothing that has come is lost when the process is ended
            done += len(chunk)
            on_bytes(done)
            if should_cancel():
                raise Cancelled
            if remote.bytes is not None and done > remote.bytes:
                break
    if remote.bytes is not None:
        return done >= remote.bytes
    return length is None or done - there == length


def _read(answer: Any, most: int) -> bytes:
    try:
        return answer.read1(most)  # does not wait until so much has come
    except (OSError, HTTPException) as error:  # of the network, not of the disk
        raise hub.Interrupted(str(error) or type(error).__name__) from error


def _check(remote: RemoteFile, part: Path) -> None:
    size = part.stat().st_size if part.is_file() else 0
    if size == 0:
        part.unlink(missing_ok=True)
        raise RunFailed(f"The server sent nothing for '{remote.name}'", "Try again later; nothing was installed.")
    problem = ""
    if remote.bytes is not None and size != remote.bytes:
        problem = f"has the wrong length: {size} bytes instead of {remote.bytes}"
    elif remote.sha256 is not None and (found := sha256_of(part)) != remote.sha256:
        problem = f"has the wrong checksum: sha256 {found[:12]}... instead of {remote.sha256[:12]}..."
    if problem:
        part.unlink(missing_ok=True)
        raise RunFailed(f"'{remote.name}' {problem}", "It was deleted. Try again; nothing was installed.")


@contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Keeps other processes from downloading into the same folder: FOLDER.lock names the process that does.

    Raises:
        RunFailed: another one is at it.
        ModelError: the folder cannot be written to.
    """
    import psutil

    lock = folder.with_name(f"{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        holder = _holder(lock)
        if holder is None:  # nobody's, or that of a process that was killed
            lock.unlink(missing_ok=True)
        with open(lock, "x", encoding="ascii") as file:
            file.write(f"{os.getpid()} {psutil.Process().create_time()}")
    except FileExistsError as error:
        who = f" (process {holder})" if holder else ""
        raise RunFailed(f"Another installation of '{what}' is under way{who}", "Wait until it has ended.") from error
    except OSError as error:
        raise ModelError(f"Cannot write to '{folder.parent}' ({error.strerror})", "Check the folder.") from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink(missing_ok=True)
            folder.parent.rmdir()


def _holder(lock: Path) -> int | None:
    """The process that holds a lock; 0 for one that is just writing its number, None if it no longer runs."""
    import psutil

    try:
        pid, _, began = lock.read_text(encoding="ascii").partition(" ")
        if not began:
            return 0 if time.time() - lock.stat().st_mtime < _LOCK_WRITTEN_S else None
        # Numbers are used again: another process of this number began at another time.
        return int(pid) if abs(psutil.Process(int(pid)).create_time() - float(began)) < 2 else None
    except psutil.AccessDenied:
        return int(pid)
    except (OSError, ValueError, OverflowError, psutil.Error):
        return None


def clear(folder: Path, names: Sequence[str]) -> None:
    """Deletes downloads that have been used up, and their folder if it is empty then."""
    for name in names:
        for file in (folder / name, folder / f"{name}.part", folder / f"{name}.part.json"):
            with suppress(OSError):
                file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def expect(remote: RemoteFile, sha256: str | None, size: int | None) -> RemoteFile:
    """The file with what the catalogue knows of it where the server says nothing.

    Raises:
        ModelError: they differ.
    """
    for what, known, said in (("checksum", sha256, remote.sha256), ("length", size, remote.bytes)):
        if known is not None and said is not None and known != said:
            raise ModelError(
                f"The server has another '{remote.name}' than the catalogue: {what} {said} instead of {known}",
                "Install a newer SynthDiffusion, or import the files by models import.",
            )
    return replace(remote, sha256=remote.sha256 or sha256, bytes=size if remote.bytes is None else remote.bytes)
