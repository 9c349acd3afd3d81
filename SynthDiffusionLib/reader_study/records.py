"""Append-only, hash-chained records: one JSON object a line, on the disk before anybody is told that it is.

`chain` says what a line is. A chain cannot show that its own end was cut off or that its last record was rewritten. So
count and hash of the last record also go to `<name>.head`, which is replaced atomically after each line; receipts carry
them elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.chain import AnyClock, Chain, Head, head_bytes, make_line, read_chain, read_head
from SynthDiffusionLib.reader_study.clock import Clock
from SynthDiffusionLib.reader_study.locks import FileLock, writing_error


class RecordFile:
    """A record file that this process writes to. Use `open`, then `close`; a `with` block closes it.

    Attributes:
        path: of the file, `<name>.jsonl`.
        records: all records so far.
        clock: stamps the records.
        messages: what happened on opening, for the reader to be told: a torn tail, a stale lock, a missing head.
    """

    def __init__(self, path: Path, clock: AnyClock, lock: FileLock | None) -> None:
        self.path, self.head_path = Path(path), Path(path).with_suffix(".head")
        self.records: list[dict[str, Any]] = []
        self.messages: list[str] = [lock.note] if lock and lock.note else []
        self.clock, self._lock = clock, lock
        self._size, self._last_line = 0, b""
        self._unclean = False  # a failed write may have left bytes behind the last record

    @classmethod
    def open(
        cls, path: Path, *, clock: AnyClock | None = None, take_over: bool = False, lock: bool = True
    ) -> RecordFile:
        """Opens a record file, or begins one; checks it, and recovers from a write that was cut off.

        An incomplete last line is moved to `<name>.torn-<n>` and noted in the chain as `recovered`.

        Args:
            path: `<name>.jsonl` in a folder that exists.
            clock: stamps the records; default: a `Clock` of its own.
            take_over: take the lock even from another process (see `locks`).
            lock: False: the caller sees to it that only one process writes.

        Raises:
            Locked: another process has it.
            BadInput: it was changed, cut off, or cannot be read or written.
            RunFailed: the disk is full.
        """
        path, clock = Path(path), clock or Clock()
        if not path.parent.is_dir():
            raise BadInput(f"The folder '{path.parent}' does not exist", "Is the disk or network folder connected?")
        held = FileLock.acquire(path.with_suffix(".lock"), utc=clock.utc(), take_over=take_over) if lock else None
        file = cls(path, clock, held)
        try:
            file._replay()
        except BaseException:
            file.close()
            raise
        return file

    @property
    def count(self) -> int:
        return len(self.records)

    @property
    def head(self) -> Head:
        return Head(self.count, self.records[-1]["hash"] if self.records else "")

    def append(self, kind: str, /, **fields: Any) -> dict[str, Any]:
        """Writes a record: when this returns, it is on the disk, and so is the head. When it raises, nothing was added.

        Args:
            kind: its type.
            fields: what it says (JSON).

        Returns:
            The record as stored.

        Raises:
            Locked: another process took the file over.
            BadInput: a value cannot be stored; the folder is read-only or gone; another program changed the file.
            RunFailed: the disk is full, or another failure of the system. It may be tried again.
        """
        line = make_line(self.count, self._last_line, kind, self.clock, fields)
        if self._lock is not None:
            self._lock.check()
        try:
            self._write_line(line)
        except OSError as error:
            raise writing_error(error, self.path, "Nothing was stored") from error
        record = json.loads(line)
        self.records.append(record)
        before, self._last_line, self._size = (self._last_line, self._size), line, self._size + len(line) + 1
        try:
            self._write_head()
        except OSError as error:
            if self._head_on_disk() == self.head:
                return record  # the system failed after the exchange: all is stored
            self.records.pop()
            self._last_line, self._size = before
            self._cut_off()
            raise writing_error(error, self.head_path, "Nothing was stored") from error
        return record

    def close(self) -> None:
        """Releases the lock. Every record is on the disk already."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Opening

    def _replay(self) -> None:
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            raw = b""
        except OSError as error:
            raise BadInput(f"'{self.path}' cannot be read ({error.strerror})", "Check its permissions.") from error
        chain, head = read_chain(raw), read_head(self.head_path)
        mend = "Put back the last good copy, or ask the coordinator of the study; 'study verify' lists what is wrong."
        if chain.faults:
            first = chain.faults[0]
            raise BadInput(f"'{self.path.name}' was changed: line {first.line + 1}: {first.message}", mend)
        complete = chain.tail_is_record
        count = len(chain.records) + complete
        if head is not None and head.count > count:
            raise BadInput(
                f"'{self.path.name}' was cut off: it has {count} records, its head file knows of {head.count}", mend
            )
        if head is not None and head.count < count - 1:
            raise BadInput(
                f"'{self.path.name}' has {count} records, its head file only knows of {head.count}: one of them is of "
                "another time",
                mend,
            )
        self.records = [record for record in chain.records if record is not None]
        self._size, self._last_line = chain.size, chain.last_line
        known = [record["hash"] for record in self.records]
        if complete:
            known.append(json.loads(chain.tail)["hash"])
        if head is not None and head.count and known[head.count - 1] != head.hash:
            raise BadInput(f"Record {head.count} of '{self.path.name}' was changed after it was written", mend)
        try:
            self._recover(chain, head, complete)
        except OSError as error:
            raise writing_error(error, self.path, "The record cannot be continued") from error

    def _recover(self, chain: Chain, head: Head | None, complete: bool) -> None:
        note: dict[str, Any] | None = None
        if complete:
            self._append_newline(chain)
            note = {"what": "the newline of the last record was missing", "torn_bytes": 0}
            self.messages.append("The last record had been written without its end; nothing is lost.")
        elif chain.tail:
            kept = self._keep_aside(chain.tail)
            self._unclean = True
            self._cut_off(must=True)
            note = self._torn_note(kept)
            self.messages.append(
                "The program was ended while it was storing something: the incomplete end was put aside as "
                f"'{kept.name}'. Everything stored before is there; the last step may have to be done again."
            )
        else:
            # Killed between cutting the tail off and noting it.
            kept = self.path.with_name(f"{self.path.stem}.torn-{self.count}")
            if kept.is_file():
                note = self._torn_note(kept)
        if head is None and self.count > 1:
            note = (note or {}) | {"head": "missing"}
            self.messages.append(
                f"The head file '{self.head_path.name}' was missing and is made anew. Tell the study's coordinator."
            )
        if self.count and self.head != head:
            self._write_head()
        if note is not None:
            self.append("recovered" if "torn_bytes" in note else "integrity", **note)

    def _keep_aside(self, tail: bytes) -> Path:
        stem = f"{self.path.stem}.torn-{self.count}"
        kept = self.path.with_name(stem)
        while kept.exists() and kept.read_bytes() != tail:
            kept = kept.with_name(f"{stem}-{uuid.uuid4().hex[:6]}")
        write_whole(kept, tail)
        return kept

    def _torn_note(self, kept: Path) -> dict[str, Any]:
        tail = kept.read_bytes()
        return {
            "what": "an incomplete last line was put aside",
            "torn_bytes": len(tail),
            "torn_sha256": hashlib.sha256(tail).hexdigest(),
            "torn_hex": tail[:256].hex(),
            "kept_as": kept.name,
        }

    def _append_newline(self, chain: Chain) -> None:
        file = os.open(self.path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            os.lseek(file, 0, os.SEEK_END)
            _write_all(file, b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        self.records.append(json.loads(chain.tail))
        self._last_line, self._size = chain.tail, chain.size + len(chain.tail) + 1

    # Writing

    def _write_line(self, line: bytes) -> None:
        new = not self.count and not self.path.exists()
        if self._unclean:
            self._cut_off(must=True)
        flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | (os.O_CREAT if not self.count else 0)
        file = os.open(self.path, flags, 0o644)
        try:
            self._check_end(file)
            self._unclean = True
            os.lseek(file, self._size, os.SEEK_SET)
            _write_all(file, line + b"\n")
            os.fsync(file)
            self._unclean = False
        finally:
            try:
                os.close(file)
            finally:
                if self._unclean:
                    self._cut_off()
        if new:
            _sync_folder(self.path.parent)

    def _check_end(self, file: int) -> None:
        """Somebody without a lock, a synchronised folder, a restored copy: never write behind what is not ours."""
        length = len(self._last_line) + 1 if self.count else 0
        os.lseek(file, self._size - length, os.SEEK_SET)
        end = b""
        while len(end) <= length and (part := os.read(file, length + 1 - len(end))):
            end += part
        if end != (self._last_line + b"\n" if self.count else b""):
            raise BadInput(
                f"Another program changed '{self.path.name}' while it was open; nothing was stored",
                "Close the reading, tell the coordinator of the study, and open it again.",
            )

    def _cut_off(self, must: bool = False) -> None:
        """Takes away what a failed write left behind the last record."""
        self._unclean = True
        try:
            file = os.open(self.path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            self._unclean = False
            return
        except OSError:
            if must:
                raise
            return  # tried again before the next write
        try:
            os.ftruncate(file, self._size)
            os.fsync(file)
            self._unclean = False
        except OSError:
            if must:
                raise
        finally:
            os.close(file)

    def _write_head(self) -> None:
        write_whole(self.head_path, head_bytes(self.head))

    def _head_on_disk(self) -> Head | None:
        try:
            return read_head(self.head_path)
        except BadInput:
            return None


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.write(file, view)
        if written <= 0:
            raise OSError(errno.EIO, "the system wrote nothing and gave no reason")
        view = view[written:]


def write_whole(path: Path, data: bytes) -> None:
    """Writes a small file beside its name, then exchanges: the name never holds half of it, even after a power cut.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(f".part-{uuid.uuid4().hex[:12]}")
    try:
        file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o644)
        try:
            _write_all(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        for attempt in range(10):
            try:
                os.replace(temporary, path)
                break
            except PermissionError:
                if attempt == 9 or os.name != "nt":  # Windows refuses while a virus scanner looks at the target
                    raise
                time.sleep(0.05 * (attempt + 1))
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """A new name is only safe from a power cut when its folder is on the disk too. Windows has no such call."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):  # some network folders refuse it
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
