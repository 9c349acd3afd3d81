"""One reader, one file, one process: a lock file that says who holds it.

It is made with O_EXCL, which is atomic on local disks and on network folders (NFSv3 and later, SMB). Nothing ends it
when its process is killed, so it names the process: the lock of a process of this computer that no longer runs is taken
over at once, that of another computer on request only, as nobody here can tell whether it still reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, RunFailed, shortened

_EMPTY_WAIT_S = 1.0  # a lock that is being written is empty for a moment
_SETTLE_S = 0.1
_COORDINATOR = "coordinator"  # the name of its log, which nobody reads as
_LARGEST_PID = 2**32 - 1  # Windows has the widest ones
_held: set[str] = set()  # tokens of this process's locks


class Locked(BadInput):
    """Another process has the file open.

    Attributes:
        holder: {"pid", "host", "utc"} as far as the lock says.
        other_computer: whether the lock is another computer's, so that nobody here can tell if it still runs.
    """

    def __init__(self, message: str, hint: str, holder: dict[str, Any], other_computer: bool) -> None:
        super().__init__(message, hint)
        self.holder, self.other_computer = holder, other_computer


class FileLock:
    """A lock file. Use `acquire`.

    Attributes:
        path: of the lock file.
        note: a sentence if a stale lock was taken over, otherwise "".
    """

    def __init__(self, path: Path, content: dict[str, Any], note: str) -> None:
        self.path, self.note = path, note
        self._content = content
        _held.add(content["token"])

    @classmethod
    def acquire(cls, path: Path, *, utc: str, take_over: bool = False, what: str = "") -> FileLock:
        """Takes the lock.

        Args:
            path: of the lock file.
            utc: now, for the one who finds it.
            take_over: take it from whoever has it; the other is then refused at its next write.
            what: is the matter when the file cannot be made (default: nobody can read, or write the log).

        Raises:
            Locked: another process has it (the message names computer, process and time).
            BadInput: the folder is missing or read-only.
            RunFailed: the disk is full, or another failure of the system.
        """
        path = Path(path)
        content: dict[str, Any] = {"pid": os.getpid(), "host": host_name(), "utc": utc, "token": uuid.uuid4().hex}
        started = _started(os.getpid())
        if started is not None:
            content["started"] = started
        note = ""
        for _ in range(5):
            if _create(path, content, what):
                if note:
                    # Another that saw the same stale lock may just now be putting back what it moved by mistake.
                    time.sleep(_SETTLE_S)
                    if (_read(path) or {}).get("token") != content["token"]:
                        continue
                return cls(path, content, note)
            holder = _read(path)
            if holder is None:
                continue  # released in this moment
            if damage := _damage(holder):
                if not take_over:
                    raise Locked(
                        f"The lock '{shortened(path)}' is damaged: {damage}",
                        f"If nobody reads as '{path.stem}' anywhere, delete this file, or take the reading over.",
                        {},
                        True,
                    )
                note = f"The damaged lock '{path.name}' ({damage}) was taken over on request."
            else:
                note = _stale_note(holder, path)
            if not note and not take_over:
                raise _locked(path, holder)
            note = note or (
                f"The lock of process {holder.get('pid')} on {_text(holder, 'host')} (since {_text(holder, 'utc')}) "
                "was taken over on request."
            )
            _remove(path, holder)
        raise BadInput(f"'{path}' changes hands all the time", "Close the other windows that read as this reader.")

    def check(self) -> None:
        """Before each write: is the lock still ours?

        Raises:
            Locked: another process took it over.
        """
        holder = _read(self.path, wait_s=0.0)
        if holder is None:
            # Somebody tidied up. Whoever makes the file has it.
            if _create(self.path, self._content):
                return
            holder = _read(self.path) or {}
        if holder.get("token") != self._content["token"]:
            raise Locked(
                f"'{self.path.stem}' is now written by process {_text(holder, 'pid', '?')} on "
                f"{_text(holder, 'host', 'another computer')}, which took it over at {_text(holder, 'utc', '?')}",
                "Close this window and read on there. What was committed here is kept.",
                holder,
                holder.get("host") != host_name(),
            )

    def release(self) -> None:
        """Gives the lock back, if it is still ours. A failure is left for the next one, who finds this process gone."""
        _held.discard(self._content["token"])
        with contextlib.suppress(OSError):
            if (_read(self.path, wait_s=0.0) or {}).get("token") == self._content["token"]:
                self.path.unlink(missing_ok=True)


def host_name() -> str:
    """Name of this computer, for locks and records."""
    return socket.gethostname() or "unknown"


def process_runs(pid: int) -> bool:
    """Whether a process of this computer runs. When in doubt it does."""
    try:
        import psutil

        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:
            return True
    except ImportError:
        pass  # Slicer's own Python may lack it
    if os.name == "nt":
        return _runs_on_windows(pid)
    try:
        os.kill(pid, 0)  # POSIX: only asks. On Windows it would send Ctrl+C.
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def writing_error(error: OSError, path: Path, what: str) -> BadInput | RunFailed:
    """The error to show when a record or lock cannot be written.

    Args:
        error: of the system.
        path: the file.
        what: e.g. "The answer was not stored".
    """
    import errno

    full = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
    if error.errno in full:
        return RunFailed(
            f"{what}: no space left on the disk of '{path.parent}'",
            "Free some space and try again; everything stored before is safe.",
        )
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return BadInput(
            f"{what}: no permission to write '{path}'",
            "Ask for write permission to this folder, or close the program that has the file open; then try again.",
        )
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return BadInput(
            f"{what}: '{path}' or its folder is gone", "Is the disk or network folder connected? Then try again."
        )
    return RunFailed(
        f"{what}: '{path}' cannot be written ({error.strerror or error})",
        "Check the disk or network folder and try again; everything stored before is safe.",
    )


def _create(path: Path, content: dict[str, Any], what: str = "") -> bool:
    if _is_log(path):
        what = "What is done cannot be written into the coordinator's log"
    what = what or f"Nobody can read as '{path.stem}'"
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o644)
    except FileExistsError:
        return False
    except PermissionError as error:
        # Windows answers so for a file that is being deleted.
        if os.name == "nt" and path.exists():
            return False
        raise writing_error(error, path, what) from error
    except OSError as error:
        raise writing_error(error, path, what) from error
    try:
        try:
            os.write(file, json.dumps(content).encode())
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise writing_error(error, path, what) from error
    return True


def _read(path: Path, wait_s: float = _EMPTY_WAIT_S) -> dict[str, Any] | None:
    """Content of a lock; {} if its writer was killed in between; None: there is none. See `_damage`."""
    end = time.monotonic() + wait_s
    while True:
        try:
            data = json.loads(path.read_bytes())
            return data if isinstance(data, dict) else {"damaged": "it is no JSON object"}
        except FileNotFoundError:
            return {"damaged": "it is a link to nothing"} if path.is_symlink() else None
        except RecursionError:
            return {"damaged": "it is nested too deeply"}
        except (OSError, ValueError):
            pass  # being written, or held for a moment by a virus scanner
        if time.monotonic() >= end:
            return {}
        time.sleep(0.05)


def _damage(holder: dict[str, Any]) -> str:
    """What in a lock cannot be from this program; "" if nothing is, or if it is empty, as after a power cut."""
    if not holder or "damaged" in holder:
        return str(holder.get("damaged", ""))
    pid, started = holder.get("pid"), holder.get("started")
    if type(pid) is not int or not 0 < pid <= _LARGEST_PID:
        return f"'pid' is no number of a process ({shortened(pid, 40)})"
    if started is not None and (isinstance(started, bool) or not isinstance(started, int | float)):
        return f"'started' is no time ({shortened(started, 40)})"
    for key in ("host", "utc", "token"):
        if not isinstance(holder.get(key, ""), str):
            return f"'{key}' is no text ({shortened(holder[key], 40)})"
    return ""


def _text(holder: dict[str, Any], key: str, missing: str = "unknown") -> str:
    return shortened(holder.get(key, missing), 60)


def _stale_note(holder: dict[str, Any], path: Path) -> str:
    if not holder:
        return f"The lock '{path.name}' was empty, as after a power cut, and was taken over."
    pid, host = holder.get("pid"), holder.get("host")
    if host != host_name() or not isinstance(pid, int):
        return ""
    if pid == os.getpid():
        if holder.get("token") in _held:
            return ""
    elif process_runs(pid):
        started, now_started = holder.get("started"), _started(pid)
        if started is None or now_started is None or abs(started - now_started) < 2.0:
            return ""
    return (
        f"The last sitting ended without a log-out (process {pid}, since {_text(holder, 'utc')}); its lock was taken "
        "over."
    )


def _locked(path: Path, holder: dict[str, Any]) -> Locked:
    pid, host, since = holder.get("pid"), _text(holder, "host"), _text(holder, "utc")
    other = holder.get("host") != host_name()
    if other:
        hint = (
            "If nobody reads there any more (ask, or look at that computer), take the reading over; "
            "the other window is then refused."
        )
    elif pid == os.getpid():
        hint = "Close the other reading window of this program first."
    else:
        hint = "Close the reading there first, or end that process."
    where = f"the computer '{host}'" if other else "this computer"
    if _is_log(path):
        who = f"process {pid} on {where} since {since}"
        text = f"Another command is writing the coordinator's log of this study ({who})"
        hint = "Wait until it has ended, and try again."
        if other:
            hint += f" If none runs there any more (ask, or look at that computer), delete the file '{path.name}'."
        return Locked(text, hint, holder, other)
    return Locked(f"'{path.stem}' is being read by process {pid} on {where} since {since}", hint, holder, other)


def _is_log(path: Path) -> bool:
    """Whether a lock is that of the coordinator's log, not a reader's."""
    return path.stem == _COORDINATOR and path.parent.name == "private"


def _remove(path: Path, holder: dict[str, Any]) -> None:
    """Removes the lock that was looked at, and no other that came in its place since."""
    aside = path.with_name(f"{path.name}.stale-{uuid.uuid4().hex[:8]}")
    try:
        os.rename(path, aside)  # atomic: of two that want it, one gets it
    except FileNotFoundError:
        return
    except OSError as error:
        raise writing_error(error, path, "The lock cannot be taken over") from error
    try:
        if (_read(aside, wait_s=0.0) or {}).get("token") != holder.get("token") and not path.exists():
            os.rename(aside, path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _started(pid: int) -> float | None:
    """When a process was started, in s of UTC: tells a process from a later one with the same number."""
    try:
        import psutil
    except ImportError:
        return None
    try:
        return round(psutil.Process(pid).create_time(), 2)
    except psutil.Error:
        return None


def _runs_on_windows(pid: int) -> bool:
    import ctypes

    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel32.OpenProcess.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(kernel32.OpenProcess(0x1000, False, pid))  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle.value:
        return ctypes.get_last_error() != 87  # type: ignore[attr-defined]  # ERROR_INVALID_PARAMETER: no such process
    code = ctypes.c_ulong()
    known = kernel32.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel32.CloseHandle(handle)
    return not known or code.value == 259  # STILL_ACTIVE
