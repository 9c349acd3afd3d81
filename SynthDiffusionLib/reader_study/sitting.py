"""The beginning of a sitting: which session, whether its time has come, and the records that open it."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib import __version__
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.chain import read_chain
from SynthDiffusionLib.reader_study.clock import LARGEST_JUMP_S, parse_utc
from SynthDiffusionLib.reader_study.history import History, Replay, earliest_date, replay
from SynthDiffusionLib.reader_study.locks import host_name, writing_error
from SynthDiffusionLib.reader_study.receipts import receipts_in
from SynthDiffusionLib.reader_study.records import RecordFile
from SynthDiffusionLib.reader_study.study import Presentation, Study

# Found in a record, these do not keep a reader from reading on; `verify` reports them.
_HARMLESS_ON_RESUME = ("head_was_missing",)


class WashoutNotOver(BadInput):
    """The session may not begin yet.

    Attributes:
        session: id of the session.
        earliest: first day on which it may be read (UTC).
    """

    def __init__(self, session: str, earliest: datetime.date, today: datetime.date) -> None:
        days = (earliest - today).days
        super().__init__(
            f"The session '{session}' may be read from {earliest.isoformat()} on, in {days} "
            f"day{'' if days == 1 else 's'}: the study asks for a pause after the session before",
            "Come back then. If the coordinator decides otherwise, begin it with a reason, which is recorded.",
        )
        self.session, self.earliest = session, earliest


def record_path(study: Study, reader: str) -> Path:
    """A reader's record file; its folder is made if need be.

    Raises:
        BadInput, RunFailed: the folder cannot be made.
    """
    path = study.folder / "records" / f"{reader}.jsonl"
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise writing_error(error, path.parent, "Answers cannot be stored") from error
    return path


def checked_replay(
    file: RecordFile, study: Study, order: Sequence[Presentation], order_sha256: str, reader: str
) -> Replay:
    """The record so far, replayed.

    Raises:
        BadInput: something in it cannot have been written by a reading of this study, or it is not the one that the
            receipts beside it know.
    """
    _check_receipts(file, study, reader)
    replay = Replay(study, order, order_sha256, reader)
    for line, record in enumerate(file.records):
        replay.take(line, record)
    for finding in replay.history.findings:
        if finding.severity == "damage" and finding.kind not in _HARMLESS_ON_RESUME:
            where = "" if finding.line is None else f"line {finding.line + 1}: "
            raise BadInput(
                f"The record '{file.path.name}' does not fit this study: {where}{finding.message}",
                "Tell the coordinator of the study; 'study verify' lists what is wrong.",
            )
    return replay


def choose_session(
    study: Study,
    order: Sequence[Presentation],
    history: History,
    *,
    session: str | None,
    utc: str,
    reason: str | None,
) -> tuple[str, dict[str, Any] | None]:
    """Which session to read, and the override that it takes.

    Args:
        study, order, history: of the reader.
        session: the wanted one; None: the first that is not finished, or the last.
        utc: now.
        reason: for an override; None or blank: no override.

    Returns:
        Id of the session, and fields of an `override` record or None.

    Raises:
        WashoutNotOver: too early, and no reason was given.
        BadInput: there is no such session, or the one before it is not finished and no reason was given.
    """
    ids = [s["id"] for s in study.sessions]
    unfinished = [s for s in ids if any(p.session == s and p.position not in history.given for p in order)]
    if session is None:
        session = unfinished[0] if unfinished else ids[-1]
    if session not in ids:
        raise BadInput(f"The study has no session '{session}'", f"Sessions are {', '.join(ids)}.")
    if session in history.begun:
        return session, None
    reason = (reason or "").strip()
    before = [s for s in ids[: ids.index(session)] if s in unfinished]
    today, earliest = parse_utc(utc).date(), earliest_date(study, history, session)
    if earliest is not None and today < earliest:
        if not reason:
            raise WashoutNotOver(session, earliest, today)
        return session, {
            "session": session,
            "reason": reason,
            "days": (earliest - today).days,
            "earliest": earliest.isoformat(),
        }
    if before:
        if not reason:
            raise BadInput(f"The session '{before[0]}' is not finished yet", "Finish it first, or give a reason.")
        return session, {"session": session, "reason": reason, "days": 0, "unfinished": before}
    return session, None


def following_session(study: Study, reader: str) -> tuple[str | None, datetime.date | None]:
    """What a reader's record on the disk leaves to read.

    Args:
        study: which.
        reader: its id.

    Returns:
        the first session that is not finished, and its first day if it is not begun and has a washout. None: all is
        read.

    Raises:
        BadInput: the order or the record cannot be read.
    """
    order, _ = study.order(reader)
    path = study.folder / "records" / f"{reader}.jsonl"
    try:
        history = replay(read_chain(path.read_bytes()).records, study, order)
    except OSError as error:
        raise BadInput(f"The record '{path}' cannot be read ({error.strerror})", "Check its permissions.") from error
    asked = {task.id for task in study.tasks.values() if any(item.per == "study" for item in task.form.items)}
    for session in study.sessions:
        cases = any(p.session == session["id"] and p.position not in history.given for p in order)
        if cases or (asked & set(session["tasks"])) - set(history.study_answers):
            begun = session["id"] in history.begun
            return session["id"], None if begun else earliest_date(study, history, session["id"])
    return None, None


def begin_session(
    file: RecordFile,
    study: Study,
    reader: str,
    order_sha256: str,
    history: History,
    session: str,
    *,
    override: Mapping[str, Any] | None,
    software: Mapping[str, str] | str | None,
) -> None:
    """Writes what opens a sitting: `open` the first time, `clock` if the date went back, `override`, `login`.

    Raises:
        BadInput, RunFailed: it cannot be stored.
    """
    versions = {"SynthDiffusion": __version__, "Python": platform.python_version()}
    versions["system"] = f"{platform.system()} {platform.release()}"
    versions |= {"program": software} if isinstance(software, str) else dict(software or {})
    if not any(record["type"] == "open" for record in file.records):
        file.append(
            "open",
            study_sha256=study.sha256,
            order_sha256=order_sha256,
            reader=reader,
            study_id=study.id,
            software=versions,
        )
    known = max(history.latest_utc, study.data.get("created_utc") or "")
    back_s = parse_utc(known).timestamp() - parse_utc(file.clock.utc()).timestamp() if known else 0.0
    if back_s > LARGEST_JUMP_S:
        file.append("clock", what=f"the time of day is {back_s:.0f} s before {known}", jump_s=round(-back_s, 3))
        file.messages.append(
            f"The time of day of this computer is earlier than it was before ({known}). Is its date right? Reading "
            "times are not affected."
        )
    if override is not None:
        file.append("override", **override)
    file.append("login", sitting=history.sittings + 1, session=session, software=versions, host=host_name())


def _check_receipts(file: RecordFile, study: Study, reader: str) -> None:
    """Holds a record against the receipts beside it, before anything is added to it.

    Raises:
        BadInput: it was shortened, or another took its place.
    """
    for receipt in receipts_in(file.path.parent / "receipts", []):
        if (receipt.reader, receipt.study_sha256) != (reader, study.sha256):
            continue
        if receipt.count > file.count or file.records[receipt.count - 1]["hash"] != receipt.hash:
            raise BadInput(
                f"The record of '{reader}' is not the one that was read before: the receipt of {receipt.utc} knows of "
                f"{receipt.answered} answers in {receipt.count} records, the file has {file.count} records or others",
                "Put the record and its head file back, from a copy if there is one, or tell the coordinator.",
            )
