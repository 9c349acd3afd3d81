"""Tells of everything that a reader does in the slice views."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import slicer

_EVENTS = (
    "LeftButtonPressEvent",
    "MiddleButtonPressEvent",
    "RightButtonPressEvent",
    "MouseWheelForwardEvent",
    "MouseWheelBackwardEvent",
    "KeyPressEvent",
)
_PRESS = "LeftButtonPressEvent"
_BEFORE_SLICER = 10.0  # priority: markups take a click for themselves, and the others do not hear of it


class ReadingTouch:
    """Listens to the interactors of slice views, before Slicer does. Moving the mouse alone counts for nothing.

    Args:
        onTouched: called without arguments at each press, turn of the wheel and key.

    Attributes:
        pressedView: layout name of the view that was clicked last, "" at first.
    """

    def __init__(self, onTouched: Callable[[], None]) -> None:
        self._onTouched = onTouched
        self._observers: dict[str, list[tuple]] = {}
        self.pressedView = ""

    def listen(self, tags: Iterable[str]) -> None:
        """Listens to these views only, by their layout names."""
        wanted = list(tags)
        if sorted(wanted) == sorted(self._observers):
            return
        self.stop()
        for tag in wanted:
            widget = slicer.app.layoutManager().sliceWidget(tag)
            interactor = widget.sliceView().interactor() if widget is not None else None
            if interactor is None:
                continue

            def heard(caller, event, tag=tag) -> None:
                if event == _PRESS:
                    self.pressedView = tag
                self._onTouched()

            self._observers[tag] = [(interactor, interactor.AddObserver(e, heard, _BEFORE_SLICER)) for e in _EVENTS]

    def stop(self) -> None:
        """Lets go of all views."""
        for observers in self._observers.values():
            for interactor, number in observers:
                interactor.RemoveObserver(number)
        self._observers = {}
