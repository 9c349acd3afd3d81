"""What a reader's records tell, replayed in order: answers, changes, sittings; and what in them cannot have happened.

Resuming, merging and verifying all read a record through `replay`, so that they agree on what it says.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from SynthDiffusionLib.reader_study.clock import LARGEST_JUMP_S, parse_utc
from SynthDiffusionLib.reader_study.study import Presentation, Study

# Types of records, by who makes them: the reading, and the record file itself on opening.
READING_TYPES = (
    "open",
    "login",
    "shown",
    "answer",
    "change",
    "study_answer",
    "feedback_shown",
    "pause",
    "resume",
    "override",
    "clock",
    "unblinded",
    "close",
)
FILE_TYPES = ("recovered", "integrity")


@dataclass(frozen=True)
class Finding:
    """Something that verification found.

    Args:
        kind: a short name, e.g. "chain".
        line: 0-based number of the record; None: the file as a whole.
        message: a sentence.
        severity: "damage", what the program never writes and never leaves behind; or "note", what ordinary accidents
            do (a kill, a power cut, a clock that was set) or a person decided, to be known and judged.
    """

    kind: str
    line: int | None
    message: str
    severity: str


@dataclass
class Given:
    """What was answered at a position, with its later changes.

    Args:
        position, session, task, unit, presentation, phase: of the presentation.
        sitting: 1-based number of the log-in in which it was answered.
        answers: in force, after changes.
        first_answers: as committed first.
        utc: of the first commit.
        active_s: active time until the first commit.
        changes: number of changes.
        record: of the first commit, whole.
    """

    position: int
    session: str
    task: str
    unit: str
    presentation: int
    phase: str
    sitting: int
    answers: dict[str, Any]
    first_answers: dict[str, Any]
    utc: str
    active_s: float
    changes: int
    record: Mapping[str, Any]


@dataclass
class History:
    """A record, replayed.

    Args:
        given: by position.
        study_answers: of questions that are asked once, by task.
        sittings: number of log-ins.
        overrides: sessions whose washout or order was overridden.
        begun: sessions with a case shown or answered.
        washout_from: by session, the latest UTC seen when one of its cases was last answered or looked at again.
        latest_utc: the latest UTC of any record.
        is_open: a sitting was begun and not closed.
        unblinded: whether the reader was unblinded.
        findings: what does not fit.
    """

    given: dict[int, Given] = field(default_factory=dict)
    study_answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    sittings: int = 0
    overrides: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    washout_from: dict[str, str] = field(default_factory=dict)
    latest_utc: str = ""
    is_open: bool = False
    unblinded: bool = False
    findings: list[Finding] = field(default_factory=list)


def replay(
    records: Sequence[Mapping[str, Any] | None],
    study: Study | None = None,
    order: Sequence[Presentation] | None = None,
    order_sha256: str | None = None,
    reader: str | None = None,
) -> History:
    """Goes through the records of a reader.

    Args:
        records: in the file's order; None for lines that are none.
        study: to hold the answers against the forms and the sessions against the washout.
        order: the reader's realised order, to hold positions and units against.
        order_sha256: of the order's file.
        reader: whose records they should be.
    """
    going = Replay(study, order, order_sha256, reader)
    for line, record in enumerate(records):
        if record is not None:
            going.take(line, record)
    return going.history


def earliest_date(study: Study, history: History, session: str) -> datetime.date | None:
    """First day on which a session may be read: its washout after the session before; None if there is none.

    Counted from the latest time seen until then, so that setting the clock back gains nothing.
    """
    ids = [s["id"] for s in study.sessions]
    index = ids.index(session)
    days = study.sessions[index].get("min_days_after_previous") or 0
    before = [history.washout_from[s] for s in ids[:index] if s in history.washout_from]
    if not days or not before:
        return None
    last = max([*before, study.data.get("created_utc") or ""])
    try:
        return parse_utc(last).date() + datetime.timedelta(days=days)
    except OverflowError:  # a clock in the year 9999
        return datetime.date.max


class Replay:
    """Goes through records one by one; `history` is what they tell so far.

    Args:
        study, order, order_sha256, reader: as in `replay`.
    """

    def __init__(
        self,
        study: Study | None = None,
        order: Sequence[Presentation] | None = None,
        order_sha256: str | None = None,
        reader: str | None = None,
    ) -> None:
        self.history = History()
        self._study, self._order, self._order_sha256, self._reader = study, order, order_sha256, reader
        self._shown: dict[int, Mapping[str, Any]] = {}  # of this sitting: first showing by position
        self._boot: dict[str, tuple[float, float]] = {}  # boot: last mono, offset of UTC against it
        self._last_utc = ""
        self._session = ""

    def _damage(self, kind: str, line: int, message: str) -> None:
        self.history.findings.append(Finding(kind, line, message, "damage"))

    def _note(self, kind: str, line: int, message: str) -> None:
        self.history.findings.append(Finding(kind, line, message, "note"))

    def take(self, line: int, record: Mapping[str, Any]) -> None:
        """The next record.

        Args:
            line: its 0-based number.
            record: as stored.
        """
        try:
            self._take(line, record)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            self._damage("fields", line, f"a record of the type '{record.get('type')}' lacks or misuses {error}")

    def _take(self, line: int, record: Mapping[str, Any]) -> None:
        kind = record["type"]
        self._times(line, record)
        if kind not in READING_TYPES + FILE_TYPES:
            self._damage("type", line, f"there are no records of the type '{kind}'")
            return
        if line == 0 and kind not in ("open", *FILE_TYPES):
            self._damage("open", line, "the first record is not the opening one")
        getattr(self, f"_on_{kind}")(line, record)

    def _times(self, line: int, record: Mapping[str, Any]) -> None:
        utc, mono, boot = record["utc"], float(record["mono"]), record["boot"]
        moment = parse_utc(utc).timestamp()
        if boot in self._boot:
            last, offset = self._boot[boot]
            if mono < last:
                self._damage("times", line, f"the monotonic clock ran backwards by {last - mono:.3f} s")
            jump = moment - mono - offset
            if abs(jump) > LARGEST_JUMP_S:
                self._note("clock", line, f"the time of day jumped by {jump:+.0f} s against the monotonic clock")
                offset = moment - mono
            self._boot[boot] = (max(mono, last), offset)
        else:
            if self._last_utc and moment < parse_utc(self._last_utc).timestamp() - LARGEST_JUMP_S:
                self._note("clock", line, f"the time of day is before that of the record before ({self._last_utc})")
            created = self._study.data.get("created_utc") if self._study else None
            if created and moment < parse_utc(created).timestamp() - LARGEST_JUMP_S:
                self._note("clock", line, f"the time of day is before the study was made ({created})")
            self._boot[boot] = (mono, moment - mono)
        self._last_utc = utc
        self.history.latest_utc = max(self.history.latest_utc, utc)

    # One method for each type

    def _on_open(self, line: int, record: Mapping[str, Any]) -> None:
        # After a torn first line, the note of it comes before the opening record.
        if self.history.sittings or line > 1:
            self._damage("open", line, "there is a second opening record")
        if self._study is not None:
            if record["study_sha256"] != self._study.sha256:
                self._damage("study", line, "it was read with another study file")
            if record["study_id"] != self._study.id:
                self._damage("study", line, "it belongs to another study")
        if self._order_sha256 is not None and record["order_sha256"] != self._order_sha256:
            self._damage("order_file", line, "the reader's order was changed since")
        if self._reader is not None and record["reader"] != self._reader:
            self._damage("reader", line, f"it is the record of the reader '{record['reader']}'")

    def _on_login(self, line: int, record: Mapping[str, Any]) -> None:
        history = self.history
        if history.is_open:
            self._note("not_closed", line, f"sitting {history.sittings} was not closed (killed, or a power cut)")
        history.sittings += 1
        if record["sitting"] != history.sittings:
            self._damage("sitting", line, f"sitting {record['sitting']} follows {history.sittings - 1}")
        self._session, history.is_open = record["session"], True
        self._shown = {}

    def _in_sitting(self, line: int) -> None:
        if not self.history.is_open:
            self._damage("sitting", line, "it lies outside of a sitting")

    def _at(self, line: int, record: Mapping[str, Any]) -> Presentation | None:
        """The presentation that a record speaks of, after holding the record against it."""
        self._in_sitting(line)
        position = record["position"]
        if self._order is None:
            return None
        if type(position) is not int or not 0 <= position < len(self._order):
            self._damage("position", line, f"the order has no position {position}")
            return None
        there = self._order[position]
        for name, value in (
            ("unit", there.unit),
            ("presentation", there.presentation),
            ("session", there.session),
            ("volumes", list(there.volumes)),
        ):
            if name in record and record[name] != value:
                self._damage("order", line, f"position {position} has another {name} in the order")
        if there.session != self._session:
            self._damage("session", line, f"position {position} belongs to the session '{there.session}'")
        return there

    def _on_shown(self, line: int, record: Mapping[str, Any]) -> None:
        there = self._at(line, record)
        self._shown.setdefault(record["position"], record)
        if there is None or self._study is None:
            return
        if there.session in self.history.begun:
            self._seen(there.session)
            return
        self.history.begun.add(there.session)
        first = earliest_date(self._study, self.history, there.session)
        if first and parse_utc(record["utc"]).date() < first and there.session not in self.history.overrides:
            self._damage("washout", line, f"the session '{there.session}' was begun before {first} without an override")

    def _on_answer(self, line: int, record: Mapping[str, Any]) -> None:
        there, history, position = self._at(line, record), self.history, record["position"]
        shown = self._shown.get(position)
        if shown is None:
            self._damage("not_shown", line, f"position {position} was answered without being shown in this sitting")
        elif shown["boot"] == record["boot"]:
            passed = float(record["mono"]) - float(shown["mono"])
            if record["committed_s"] - passed > 2.0 or record["active_s"] > record["committed_s"] + 0.01:
                self._damage("times", line, "its times do not fit those of its records")
            elif passed - record["committed_s"] > 10.0:
                self._note("times", line, f"it was stored {passed - record['committed_s']:.0f} s after it was given")
        if position in history.given:
            self._damage("twice", line, f"position {position} was answered already")
            return
        if there is not None and self._order is not None:
            waiting = [p.position for p in self._order if p.session == there.session]
            expected = next((p for p in waiting if p not in history.given), None)
            if position != expected:
                self._damage("order", line, f"position {position} was answered when {expected} was next")
            self._fits(line, there.task, record["answers"], ("case", "pair"))
        session = there.session if there else record.get("session", self._session)
        history.given[position] = Given(
            position=position,
            session=session,
            task=there.task if there else record.get("task", ""),
            unit=record["unit"],
            presentation=record["presentation"],
            phase=there.phase if there else record.get("phase", ""),
            sitting=history.sittings,
            answers=dict(record["answers"]),
            first_answers=dict(record["answers"]),
            utc=record["utc"],
            active_s=float(record["active_s"]),
            changes=0,
            record=record,
        )
        history.begun.add(session)
        self._seen(session)

    def _seen(self, session: str) -> None:
        """The washout counts from the last time that a case of a session was answered, changed, or looked at again."""
        self.history.washout_from[session] = self.history.latest_utc

    def _on_change(self, line: int, record: Mapping[str, Any]) -> None:
        there, given = self._at(line, record), self.history.given.get(record["position"])
        if given is None:
            self._damage("change", line, f"position {record['position']} was changed without an answer")
            return
        if record["old_answers"] != given.answers:
            self._damage("change", line, "the old answers that it names are not those that were given")
        if not str(record["reason"]).strip():
            self._damage("change", line, "a change lacks its reason")
        if record["position"] not in self._shown:
            self._damage("not_shown", line, f"position {record['position']} was changed without being shown")
        if self._study is not None and self._study.viewing.get("back", "none") != "session":
            self._damage("change", line, "the study allows no changes")
        if there is not None:
            if there.phase == "training":
                self._damage("change", line, "a training case was changed after its feedback")
            self._fits(line, there.task, record["answers"], ("case", "pair"))
        given.answers, given.changes = dict(record["answers"]), given.changes + 1
        self._seen(given.session)

    def _on_study_answer(self, line: int, record: Mapping[str, Any]) -> None:
        self._in_sitting(line)
        task = record["task"]
        if task in self.history.study_answers:
            self._damage("twice", line, f"the questions at the end of '{task}' were answered already")
        if self._study is not None and task not in self._study.tasks:
            self._damage("order", line, f"the study has no task '{task}'")
        else:
            self._fits(line, task, record["answers"], ("study",))
        self.history.study_answers[task] = dict(record["answers"])

    def _fits(self, line: int, task: str, answers: Mapping[str, Any], per: tuple[str, ...]) -> None:
        if self._study is None:
            return
        for item, problem in self._study.tasks[task].form.problems(answers, per).items():
            self._damage("form", line, f"the answer to '{item}' does not fit the form: {problem}")

    def _on_feedback_shown(self, line: int, record: Mapping[str, Any]) -> None:
        there = self._at(line, record)
        if there is not None and there.phase != "training":
            self._damage("feedback", line, "feedback was given on a case that is not training")

    def _on_pause(self, line: int, record: Mapping[str, Any]) -> None:
        self._in_sitting(line)

    _on_resume = _on_pause

    def _on_override(self, line: int, record: Mapping[str, Any]) -> None:
        self.history.overrides.add(record["session"])
        days = f"{record['days']} day(s) early" if record.get("days") else "out of turn"
        self._note("override", line, f"session '{record['session']}' was begun {days}: {record['reason']}")

    def _on_clock(self, line: int, record: Mapping[str, Any]) -> None:
        """The jump that it tells of shows in the times themselves."""

    def _on_unblinded(self, line: int, record: Mapping[str, Any]) -> None:
        self.history.unblinded = True
        self._note("unblinded", line, f"the reader was unblinded: {record['reason']}")

    def _on_recovered(self, line: int, record: Mapping[str, Any]) -> None:
        self._note("recovered", line, f"after a kill or power cut: {record['what']}")
        if record.get("head") == "missing":
            self._on_integrity(line, record)

    def _on_integrity(self, line: int, record: Mapping[str, Any]) -> None:
        if record.get("head") == "missing":
            self._damage("head_was_missing", line, "before this record the head file was missing")

    def _on_close(self, line: int, record: Mapping[str, Any]) -> None:
        self._in_sitting(line)
        self.history.is_open = False
        if record["sitting"] != self.history.sittings or record["count"] != line + 1:
            self._damage("sitting", line, "its sitting or count is wrong")
