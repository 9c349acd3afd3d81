"""The questions of a reading, drawn from a form: which are shown, what was answered, what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import qt
from slicer.i18n import tr as _

from SynthDiffusionJobs.Signal import Signal
from SynthDiffusionPanels.ReadingQuestions import Point, PointQuestion, questionFor

CASE = ("case", "pair")
STUDY = ("study",)
_GAP = 10


class ReadingForm:
    """A widget with the questions of a form, in its order.

    Args:
        form: a `SynthDiffusionLib.reader_study.forms.Form`.
        per: which of its questions are asked, see `forms.PER`.
        answers: what is answered already.
        places: names of the volumes of points, such as "left" and "right"; one volume needs no name.
        volumes: their IDs, for answers that name one.

    Attributes:
        widget: the qt.QWidget.
        changed: Signal(), an answer has changed.
        pointsChanged: Signal(), points were marked or removed.
        markRequested: Signal(question), the reader wants to click a point of this question, or, with None, no more.
    """

    def __init__(
        self,
        form,
        per: Sequence[str] = CASE,
        answers: Mapping | None = None,
        places: Sequence[str] = (),
        volumes: Sequence[str] = (),
    ) -> None:
        self.form, self._per = form, tuple(per)
        self.changed, self.pointsChanged, self.markRequested = Signal(), Signal(), Signal()
        self.widget = qt.QWidget()
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(_GAP)
        self._lastKeyed = None
        self.questions = [questionFor(item, self._onChanged, places) for item in form.items if item.per in self._per]
        for question in self.questions:
            if isinstance(question, PointQuestion):
                question.markRequested = self._onMark
                question.setVolumes(volumes)
            layout.addWidget(question.widget)
        for question in self.questions:
            if answers and question.item.id in answers:
                question.setAnswer(answers[question.item.id])
        self._showQuestions()

    @property
    def answers(self) -> dict:
        """What is answered, without questions that are not shown."""
        return self.form.cleaned(self._allAnswers(), self._per)

    @property
    def isComplete(self) -> bool:
        """Whether the answers can be stored as they are."""
        return not self.form.problems(self.answers, self._per)

    def question(self, itemId: str):
        """The question of that item."""
        return next(question for question in self.questions if question.item.id == itemId)

    def showProblems(self, problems: Mapping[str, str] | None = None) -> None:
        """Says beside the questions what is wrong with their answers; without an argument, what the form finds."""
        found = self.form.problems(self.answers, self._per) if problems is None else problems
        for question in self.questions:
            question.setProblem(found.get(question.item.id, ""))

    def pressKey(self, number: int) -> bool:
        """Answers with the option of that number (from 1) the question that is next.

        That is the first one without an answer that takes a number, or, if all have one, the one that was answered last
        in this way: a slip is put right by pressing another number.

        Returns:
            Whether there was such an option.
        """
        shown = [question for question in self.questions if question.isShown and question.takesKeys]
        open_ = [question for question in shown if question.answer() is None]
        if open_:
            question = open_[0]
        elif self._lastKeyed in shown:
            question = self._lastKeyed
        else:
            return False
        if not question.pressKey(number):
            return False
        self._lastKeyed = question
        return True

    def points(self) -> list[Point]:
        """All points of questions that are shown."""
        found = [q.points for q in self.questions if isinstance(q, PointQuestion) and q.isShown]
        return [point for points in found for point in points]

    def close(self) -> None:
        """Lets go of who listens, and of the widget."""
        for signal in (self.changed, self.pointsChanged, self.markRequested):
            signal.disconnectAll()
        self.widget.deleteLater()

    def _allAnswers(self) -> dict:
        return {q.item.id: q.answer() for q in self.questions if q.answer() is not None}

    def _onChanged(self, question) -> None:
        question.setProblem("")
        self._showQuestions()
        self.changed.emit()
        if isinstance(question, PointQuestion):
            self.pointsChanged.emit()

    def _onMark(self, question, wanted: bool) -> None:
        for other in self.questions:
            if isinstance(other, PointQuestion) and other is not question:
                other.setMarking(False)
        self.markRequested.emit(question if wanted else None)

    def _showQuestions(self) -> None:
        shown = {item.id for item in self.form.visible(self._allAnswers(), self._per)}
        for question in self.questions:
            question.setShown(question.item.id in shown)


def answerKeysText(form: ReadingForm) -> str:
    """Which number keys answer, for the line that names the keys; "" for none."""
    counts = [question.keyCount for question in form.questions if question.takesKeys]
    return _("1 to {n}: answer").format(n=min(9, max(counts))) if counts else ""
