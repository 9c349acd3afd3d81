"""The hash chain of a record file, as bytes: what a line is, and what does not fit. No file is opened for writing.

Each line is the canonical JSON of its record (sorted keys, no blanks, UTF-8), so that a record has exactly one spelling
and any changed byte shows. `previous` is the SHA-256 of the line before it, `hash` that of the record without `hash`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.schemas import finite_number, whole_number

HEAD_FORMAT = "synthdiffusion-study-head-1"
NO_PREVIOUS = "0" * 64
OWN_FIELDS = ("n", "previous", "type", "utc", "mono", "boot", "hash")


class AnyClock(Protocol):
    """What records need of a clock; see `clock.Clock`."""

    boot: str

    def utc(self) -> str: ...

    def monotonic(self) -> float: ...


@dataclass(frozen=True)
class Head:
    """Count of a file's records and hash of its last one ("" with none)."""

    count: int
    hash: str


@dataclass(frozen=True)
class Fault:
    """Something in a chain that its writer would not have written.

    Args:
        kind: a short name.
        line: 0-based number of the line.
        message: a sentence.
    """

    kind: str
    line: int
    message: str


@dataclass
class Chain:
    """What the bytes of a record file hold.

    Args:
        records: of the whole lines; None for a line that is no record.
        tail: bytes after the last newline. A write that was cut off leaves some.
        size: bytes of the whole lines.
        faults: everything that does not fit.
        last_line: bytes of the last whole line, without its newline.
    """

    records: list[dict[str, Any] | None] = field(default_factory=list)
    tail: bytes = b""
    size: int = 0
    faults: list[Fault] = field(default_factory=list)
    last_line: bytes = b""

    @property
    def head(self) -> Head:
        last = self.records[-1] if self.records else None
        return Head(len(self.records), str((last or {}).get("hash", "")))

    @property
    def tail_is_record(self) -> bool:
        """Whether only the newline is missing."""
        return bool(self.tail) and not _line_faults(self.tail, len(self.records), self.last_line)[1]


def canonical(data: Mapping[str, Any]) -> bytes:
    """The one spelling of a record.

    Raises:
        BadInput: it holds something that JSON or UTF-8 does not have.
    """
    try:
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise BadInput(f"This cannot be stored: {error}", "Change the answer.") from error


def record_hash(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record's canonical JSON without its own `hash`."""
    return hashlib.sha256(canonical({k: v for k, v in record.items() if k != "hash"})).hexdigest()


def make_line(n: int, previous_line: bytes, kind: str, clock: AnyClock, fields: Mapping[str, Any]) -> bytes:
    """A record as it goes into the file, without its newline.

    Args:
        n: its number.
        previous_line: the line before it without newline; b"" for the first.
        kind: its type.
        clock: stamps it.
        fields: what it says; none of `OWN_FIELDS`.
    """
    if taken := [name for name in fields if name in OWN_FIELDS]:
        raise ValueError(f"fields of the chain itself: {taken}")
    record: dict[str, Any] = {
        "n": n,
        "previous": hashlib.sha256(previous_line).hexdigest() if n else NO_PREVIOUS,
        "type": kind,
        "utc": clock.utc(),
        "mono": round(clock.monotonic(), 4),
        "boot": clock.boot,
        **fields,
    }
    line = canonical(record | {"hash": record_hash(record)})
    try:
        _loads(line)
    except ValueError as error:  # what could not be read again must not be written
        raise BadInput(f"This cannot be stored: {error}", "Change the answer.") from error
    return line


def read_chain(raw: bytes) -> Chain:
    """Takes a record file apart and checks every line against itself and the line before it."""
    chain = Chain()
    *lines, chain.tail = raw.split(b"\n")
    for n, line in enumerate(lines):
        record, faults = _line_faults(line, n, chain.last_line)
        chain.records.append(record)
        chain.faults += faults
        chain.last_line = line
        chain.size += len(line) + 1
    return chain


def read_head(path: Path) -> Head | None:
    """The head file; None if there is none.

    Raises:
        BadInput: it cannot be read or is damaged.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"'{path}' cannot be read ({error.strerror})", "Check the path and its permissions.") from error
    return parse_head(raw, Path(path).name)


def parse_head(raw: bytes, name: str) -> Head:
    """A head from the bytes of its file.

    Raises:
        BadInput: they are none.
    """
    try:
        data = _loads(raw)
        if data["format"] != HEAD_FORMAT or not isinstance(data["hash"], str) or type(data["count"]) is not int:
            raise ValueError
        if data["count"] < 0:
            raise ValueError
        if raw != head_bytes(Head(data["count"], data["hash"])):
            raise ValueError
        return Head(data["count"], data["hash"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"The head file '{name}' is damaged", "Put back the copy that belongs to the record.") from error


def head_bytes(head: Head) -> bytes:
    """Content of a head file."""
    return canonical({"count": head.count, "format": HEAD_FORMAT, "hash": head.hash}) + b"\n"


def _loads(raw: bytes) -> Any:
    """JSON without numbers that no calculation can take: a line that holds one was not written by this program."""
    return json.loads(raw, parse_int=whole_number, parse_float=finite_number)


def _line_faults(line: bytes, n: int, previous_line: bytes) -> tuple[dict[str, Any] | None, list[Fault]]:
    """A line as a record, and what is wrong with it."""
    try:
        record = _loads(line)
        if not isinstance(record, dict):
            raise ValueError
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None, [Fault("unreadable", n, "it is no record")]
    faults = []
    try:
        one_spelling = canonical(record) == line
    except BadInput:  # NaN, a lone surrogate
        one_spelling = False
    if not one_spelling:
        return record, [Fault("spelling", n, "it is not spelled as the program writes it")]
    if any(name not in record for name in OWN_FIELDS):
        return record, [Fault("fields", n, "it lacks a field of the chain")]
    if record["hash"] != record_hash(record):
        faults.append(Fault("content", n, "its content does not fit its own hash"))
    if type(record["n"]) is not int or record["n"] != n:
        faults.append(Fault("number", n, f"it says that it is record {shortened(record['n'], 40)}"))
    if record["previous"] != (hashlib.sha256(previous_line).hexdigest() if n else NO_PREVIOUS):
        faults.append(Fault("chain", n, "it does not follow from the line before it"))
    return record, faults
