"""Points that a reader marks: from a click in an image to a question's answer."""

from __future__ import annotations

import qt

from SynthDiffusionPanels.ReadingForm import ReadingForm
from SynthDiffusionPanels.ReadingTouch import ReadingTouch


class ReadingMarks:
    """Marks points for the questions of one form after another.

    Args:
        views: a `SynthDiffusionScene.readingViews.ReadingViews`.
        touch: knows which view was clicked last.
    """

    def __init__(self, views, touch: ReadingTouch) -> None:
        self._views, self._touch = views, touch
        self._form: ReadingForm | None = None
        self._question = None
        self._placed: list[float] | None = None

    def follow(self, form: ReadingForm | None) -> None:
        """Marks points for this form, and shows those that it has; None: for none."""
        self._form, self._question, self._placed = form, None, None
        if form is not None:
            form.pointsChanged.connect(self.show)
            form.markRequested.connect(self._onRequested)
            self.show()

    def show(self) -> None:
        """Draws the points."""
        if self._form is not None:
            self._views.showPoints([(p.volume, p.ras, p.text) for p in self._form.points()])

    def giveUp(self) -> None:
        """Ends marking without a point."""
        if self._question is not None:
            question, self._question = self._question, None
            self._views.points.stop()
            question.setMarking(False)

    def _onRequested(self, question) -> None:
        self._question, self._placed = question, None
        if question is None:
            self._views.points.stop()
        else:
            self._views.points.place(self._onPlaced, self._afterSlicer)

    def _onPlaced(self, ras: list[float]) -> None:
        self._placed = ras
        self._afterSlicer()

    def _afterSlicer(self) -> None:
        """Slicer is in the middle of handling the click: nodes change when it is done."""
        qt.QTimer.singleShot(0, self._take)

    def _take(self) -> None:
        question, ras = self._question, self._placed
        self.giveUp()
        if question is not None and ras is not None:
            tag = self._touch.pressedView
            question.addPoint(self._views.volumeOf(tag), ras, self._views.orientationOf(tag))
