"""One reader's sitting: what to show next, what was answered, and everything on the disk before the next case shows.

No Qt here: the panel in Slicer, the command line and the tests drive the same object.

    reading = Reading.open(folder, "R1")
    while reading.current is not None:
        ...                                  # show reading.volume_paths and reading.form
        reading.show({"window": "Lung"})     # the images are on the screen
        reading.touch()                      # at each input
        reading.commit({"score": 2}, {"window": "Lung"})
    receipt = reading.close()

Where one is in a study is never stored apart: it is what the records say. A program that is killed at any moment goes
on where the last committed answer left it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, SynthDiffusionError
from SynthDiffusionLib.reader_study.answers import PER_CASE, PER_STUDY, TooEarly, fitting_answers
from SynthDiffusionLib.reader_study.clock import LARGEST_JUMP_S, CaseTimer, Clock, parse_utc
from SynthDiffusionLib.reader_study.forms import Form, Item
from SynthDiffusionLib.reader_study.history import Given, Replay
from SynthDiffusionLib.reader_study.receipts import Receipt, write_receipt
from SynthDiffusionLib.reader_study.records import AnyClock, RecordFile
from SynthDiffusionLib.reader_study.sitting import begin_session, checked_replay, choose_session, record_path
from SynthDiffusionLib.reader_study.study import Presentation, Study, Task
from SynthDiffusionLib.reader_study.study_files import StudyFiles


class Reading:
    """A sitting of a reader. Use `open`.

    Attributes:
        study: what is read.
        reader: whose sitting it is.
        order: the reader's realised order, all sessions.
        session: id of the session that is read.
        sitting: 1-based number of this log-in.
        messages: sentences to tell the reader once; the caller empties the list.
        is_paused: whether active time stands still.
    """

    def __init__(
        self, study: Study, reader: str, order: list[Presentation], session: str, file: RecordFile, replay: Replay
    ) -> None:
        self.study, self.reader, self.order, self.session = study, reader, order, session
        self.sitting = replay.history.sittings
        self.messages: list[str] = list(file.messages)
        self.is_paused = False
        self._file, self._replay, self._history = file, replay, replay.history
        self._here = [p for p in order if p.session == session]
        self._clock: AnyClock = file.clock
        self._looking: int | None = None  # index in _here of an answered case that is looked at again
        self._timers: dict[int, CaseTimer] = {}
        self._on_screen: int | None = None  # position whose images are shown
        self._shown_utc: dict[int, str] = {}  # first showing in this sitting
        self._offset = self._utc_offset()
        self._closed = False
        self._files = StudyFiles(study)

    @classmethod
    def open(
        cls,
        folder: Path,
        reader: str,
        *,
        session: str | None = None,
        clock: AnyClock | None = None,
        software: Mapping[str, str] | str | None = None,
        take_over: bool = False,
        override_reason: str | None = None,
    ) -> Reading:
        """Logs a reader in, resuming where the last sitting stopped. The study is fixed from now on.

        Args:
            folder: the reading folder, or the one that holds it.
            reader: its id.
            session: which; default: the first that is not finished.
            clock: stamps records; default: a new `Clock`.
            software: versions to record, e.g. {"Slicer": "5.12"}.
            take_over: take the lock from another computer or process.
            override_reason: begin a session before its washout is over, or before the one before it is finished. It is
                recorded.

        Raises:
            Locked: another process reads as this reader.
            WashoutNotOver: with `earliest` and `session`.
            BadInput: unknown reader or session, study or record changed, read-only folder.
            RunFailed: the disk is full.
        """
        study = Study.load(folder)
        order, order_sha256 = study.order(reader)
        clock = clock or Clock()
        file = RecordFile.open(record_path(study, reader), clock=clock, take_over=take_over)
        try:
            history = checked_replay(file, study, order, order_sha256, reader).history
            session_id, override = choose_session(
                study, order, history, session=session, utc=clock.utc(), reason=override_reason
            )
            study.freeze()
            begin_session(file, study, reader, order_sha256, history, session_id, override=override, software=software)
            replay = checked_replay(file, study, order, order_sha256, reader)
            return cls(study, reader, order, session_id, file, replay)
        except BaseException:
            file.close()
            raise

    # Where one is

    @property
    def current(self) -> Presentation | None:
        """What to show; None: this session is read."""
        index = self._index
        return self._here[index] if index < len(self._here) else None

    @property
    def is_answered(self) -> bool:
        """Whether `current` is an answered case that is looked at again."""
        return self._looking is not None

    @property
    def progress(self) -> tuple[int, int]:
        """Answered cases of this session, and all of them; training included."""
        return self._frontier, len(self._here)

    @property
    def position_text(self) -> str:
        """As in "Case 3 of 24"; training is counted apart."""
        current = self.current
        if current is None:
            return "All cases of this session are read"
        same = [p for p in self._here if p.phase == current.phase]
        name = "Training" if current.phase == "training" else "Case"
        return f"{name} {same.index(current) + 1} of {len(same)}"

    @property
    def task(self) -> Task:
        """Task of `current`."""
        return self.study.tasks[self._needed().task]

    @property
    def form(self) -> Form:
        """What is asked of `current`; of its items, those per case and per pair."""
        return self.task.form

    @property
    def volume_paths(self) -> list[Path]:
        """Files of `current`, left before right.

        Raises:
            BadInput: one is missing or is not the study's.
        """
        return [self._files.volume(v) for v in self._needed().volumes]

    @property
    def mask_paths(self) -> list[Path | None]:
        """Masks of `current`, as `volume_paths`; None where there is none or the task shows none.

        Raises:
            BadInput: one is missing or is not the study's.
        """
        return [self._files.mask(v) if self.task.show_mask else None for v in self._needed().volumes]

    @property
    def previous_answers(self) -> dict[str, Any] | None:
        """Answers in force of the case that is looked at again; None for one that has none."""
        current = self.current
        given = self._history.given.get(current.position) if current else None
        return dict(given.answers) if given else None

    @property
    def given(self) -> dict[int, Given]:
        """All that this reader has answered, by position."""
        return dict(self._history.given)

    # Reading

    def show(self, view: Mapping[str, Any] | None = None) -> None:
        """The images of `current` are on the screen: records it and starts its clock. A second call changes nothing.

        Args:
            view: state of the views (window, level, slices, layout), JSON.

        Raises:
            BadInput, RunFailed: it could not be stored; try again.
        """
        current = self._needed()
        if self._on_screen == current.position:
            return
        record = self._write(
            "shown",
            position=current.position,
            unit=current.unit,
            volumes=list(current.volumes),
            presentation=current.presentation,
            session=self.session,
            view=dict(view or {}),
        )
        now = record["mono"]
        if current.position in self._timers:
            self._timers[current.position].start(now)
        else:
            self._timers[current.position] = CaseTimer(now, self.study.viewing.get("idle_cap_s", 60))
            self._shown_utc[current.position] = record["utc"]
        self._on_screen = current.position
        if self.is_paused:
            self._timers[current.position].stop(now)

    def touch(self) -> None:
        """An input of the reader (mouse, key, a widget of the form). During a pause it does not count."""
        if self._on_screen is not None:
            self._timers[self._on_screen].touch(self._clock.monotonic())

    def commit(self, answers: Mapping[str, Any], view: Mapping[str, Any] | None = None) -> str | None:
        """Stores the answers of `current`; when this returns they are on the disk, and `current` is the next case.

        Args:
            answers: by item id. Those to items that are not shown are left out.
            view: state of the views.

        Returns:
            Feedback to show, for a training case that has one; otherwise None.

        Raises:
            AnswersIncomplete: with `problems`.
            TooEarly: the study asks for a longer look.
            BadInput, RunFailed: not shown yet, paused, or not stored; nothing has changed, try again.
        """
        current, timer = self._ready()
        if self.is_answered:
            raise BadInput("This case was answered already", "Change the answer, with a reason.")
        fitting = fitting_answers(self.form, answers, PER_CASE)
        self._watch_clock()  # before the time is taken: its record may take long to store
        now = self._clock.monotonic()
        remaining = float(self.study.viewing.get("min_view_s") or 0) - timer.viewed_s(now)
        if remaining > 0:
            raise TooEarly(remaining)
        self._write(
            "answer",
            position=current.position,
            unit=current.unit,
            presentation=current.presentation,
            session=self.session,
            task=current.task,
            phase=current.phase,
            answers=fitting,
            shown_utc=self._shown_utc[current.position],
            first_touch_s=None if timer.first_touch is None else round(timer.first_touch - timer.shown, 3),
            committed_s=round(now - timer.shown, 3),
            viewed_s=round(timer.viewed_s(now), 3),
            active_s=round(timer.active_s(now), 3),
            view=dict(view or {}),
        )
        self._leave(now)
        feedback = self.study.units[current.unit].feedback if current.phase == "training" else ""
        if feedback:
            try:
                self._write("feedback_shown", position=current.position, unit=current.unit, feedback=feedback)
            except SynthDiffusionError as error:
                self.messages.append(error.one_line())  # the answer itself is stored
        return feedback or None

    def change(self, answers: Mapping[str, Any], reason: str, view: Mapping[str, Any] | None = None) -> None:
        """Changes the answers of an answered case that is looked at again; the old ones are kept.

        Args:
            answers: all of them.
            reason: why; must not be empty.
            view: state of the views.

        Raises:
            AnswersIncomplete: with `problems`.
            BadInput, RunFailed: the study's rule, no reason, no difference, or not stored; nothing has changed.
        """
        current, timer = self._ready()
        given = self._history.given.get(current.position)
        if given is None:
            raise BadInput("This case has no answer yet", "Commit one first.")
        if not reason.strip():
            raise BadInput("A change needs a reason", "Say why the answer is changed.")
        fitting = fitting_answers(self.form, answers, PER_CASE)
        if fitting == given.answers:
            raise BadInput("Nothing was changed", "Go forward without a change.")
        self._watch_clock()
        now = self._clock.monotonic()
        self._write(
            "change",
            position=current.position,
            unit=current.unit,
            presentation=current.presentation,
            answers=fitting,
            old_answers=given.answers,
            reason=reason.strip(),
            active_s=round(timer.active_s(now), 3),
            view=dict(view or {}),
        )

    @property
    def can_go_back(self) -> bool:
        """Whether there is an answered case before this one that the study's rule lets one see again."""
        index = self._index - 1
        return (
            self.study.viewing.get("back", "none") == "session"
            and index >= 0
            and self._here[index].phase != "training"  # its feedback has been seen
        )

    def back(self) -> None:
        """Goes to the case before, of this session.

        Raises:
            BadInput: there is none, or the study's rule forbids it.
        """
        if not self.can_go_back:
            rule = self.study.viewing.get("back", "none")
            raise BadInput(
                "There is no going back here" if rule == "session" else "In this study there is no going back",
                "Read on with the next case.",
            )
        self._leave(self._clock.monotonic())
        self._looking = self._index - 1

    def forward(self) -> None:
        """Goes to the case after; from the last answered one to the next to be answered. Does nothing there."""
        if self._looking is None:
            return
        self._leave(self._clock.monotonic())
        self._looking = self._looking + 1 if self._looking + 1 < self._frontier else None

    def pause(self) -> None:
        """Active time stands still until `resume`.

        Raises:
            BadInput, RunFailed: it could not be stored.
        """
        if self.is_paused:
            return
        now = self._write("pause")["mono"]
        self.is_paused = True
        if self._on_screen is not None:
            self._timers[self._on_screen].stop(now)

    def resume(self) -> None:
        """Ends a pause.

        Raises:
            BadInput, RunFailed: it could not be stored.
        """
        if not self.is_paused:
            return
        now = self._write("resume")["mono"]
        self.is_paused = False
        if self._on_screen is not None:
            self._timers[self._on_screen].start(now)

    @property
    def current_study_task(self) -> str | None:
        """Task whose questions per study are to be asked now: all its cases are read, in all sessions."""
        if self._frontier < len(self._here):
            return None
        for task_id, task in self.study.tasks.items():
            asked = any(item.per == "study" for item in task.form.items)
            cases = [p.position for p in self.order if p.task == task_id]
            is_read = bool(cases) and all(position in self._history.given for position in cases)
            if asked and is_read and task_id not in self._history.study_answers:
                return task_id
        return None

    @property
    def study_items(self) -> list[Item]:
        """Questions per study of `current_study_task`; none if nothing is to be asked."""
        task = self.current_study_task
        return [item for item in self.study.tasks[task].form.items if item.per == "study"] if task else []

    def commit_study(self, task: str, answers: Mapping[str, Any]) -> None:
        """Stores the answers to a task's questions per study.

        Args:
            task: `current_study_task`.
            answers: by item id.

        Raises:
            AnswersIncomplete: with `problems`.
            BadInput, RunFailed: not asked now, or not stored; nothing has changed.
        """
        if task != self.current_study_task:
            raise BadInput(f"Nothing is asked about the task '{task}' now", "These questions come once, at its end.")
        self._write("study_answer", task=task, answers=fitting_answers(self.study.tasks[task].form, answers, PER_STUDY))

    def unblinded(self, reason: str) -> None:
        """Records that the reader learnt, or may have learnt, what is real: ICH E6(R3) 4.1.4 wants it documented.

        Raises:
            BadInput, RunFailed: it could not be stored.
        """
        self._write("unblinded", reason=reason.strip() or "no reason given")

    def close(self) -> Receipt:
        """Ends the sitting: closing record, receipt for the coordinator, lock released.

        Raises:
            BadInput, RunFailed: it could not be stored; try again, or `abandon`.
        """
        record = self._write(
            "close", sitting=self.sitting, count=self._file.count + 1, answered=len(self._history.given)
        )
        receipt = Receipt(
            study_sha256=self.study.sha256,
            reader=self.reader,
            count=self._file.count,
            hash=self._file.head.hash,
            utc=record["utc"],
            answered=len(self._history.given),
        )
        self.abandon()
        try:
            write_receipt(receipt, self._file.path.parent / "receipts")
        except SynthDiffusionError as error:
            self.messages.append(error.one_line())  # the sitting is closed; the caller still has the receipt
        return receipt

    def abandon(self) -> None:
        """Gives the lock back without a closing record, as after an error; what was committed stays."""
        self._closed = True
        self._file.close()

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._closed:
            return
        if kind is None:
            self.close()
        else:
            self.abandon()

    # Inside

    @property
    def _frontier(self) -> int:
        """Index of the first case of this session without an answer."""
        return next((i for i, p in enumerate(self._here) if p.position not in self._history.given), len(self._here))

    @property
    def _index(self) -> int:
        return self._frontier if self._looking is None else self._looking

    def _needed(self) -> Presentation:
        current = self.current
        if current is None:
            raise BadInput("All cases of this session are read", "Close the sitting.")
        return current

    def _ready(self) -> tuple[Presentation, CaseTimer]:
        current = self._needed()
        if self._on_screen != current.position:
            raise BadInput("The case has not been shown yet", "Wait until its images are on the screen.")
        if self.is_paused:
            raise BadInput("The reading is paused", "Resume it first.")
        return current, self._timers[current.position]

    def _leave(self, now: float) -> None:
        if self._on_screen is not None:
            self._timers[self._on_screen].stop(now)
            self._on_screen = None

    def _write(self, kind: str, **fields: Any) -> dict[str, Any]:
        if self._closed:
            raise BadInput("This sitting is closed", "Log in again.")
        self._watch_clock()
        return self._append(kind, fields)

    def _append(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        record = self._file.append(kind, **fields)
        # What has just been stored goes the way that a resumed reading takes.
        self._replay.take(self._file.count - 1, record)
        return record

    def _watch_clock(self) -> None:
        offset = self._utc_offset()
        jump = offset - self._offset
        if abs(jump) > LARGEST_JUMP_S:
            what = f"the time of day jumped by {jump:+.0f} s"
            self._append("clock", {"what": what, "jump_s": round(jump, 3)})
            self._offset = offset
            self.messages.append("The time of day of this computer was changed. Reading times are not affected.")

    def _utc_offset(self) -> float:
        return parse_utc(self._clock.utc()).timestamp() - self._clock.monotonic()
