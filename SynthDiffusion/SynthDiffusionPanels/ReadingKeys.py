"""Keys of a reading. Fields to type into keep theirs: Qt asks them first."""

from __future__ import annotations

from collections.abc import Callable

import qt

_NEXT = ("Return", "Enter", "Ctrl+Return", "Ctrl+Enter")  # the main key and that of the number pad
_PAUSE, _BACK = "P", "Backspace"


class ReadingKeys:
    """Shortcuts of the whole window, in the slice views too.

    Args:
        widget: in the window.
        onNumber: called with 1 to 9.
        onNext, onPause, onBack: called without arguments.
    """

    def __init__(
        self,
        widget,
        onNumber: Callable[[int], object],
        onNext: Callable[[], None],
        onPause: Callable[[], None],
        onBack: Callable[[], None],
    ) -> None:
        self._shortcuts: list = []
        self._onNumber = onNumber
        for number in range(1, 10):
            self._add(widget, str(number), lambda number=number: self._onNumber(number))
        for key in _NEXT:
            self._add(widget, key, onNext)
        self._add(widget, _PAUSE, onPause)
        self._add(widget, _BACK, onBack)

    def close(self) -> None:
        """Takes them away."""
        shortcuts, self._shortcuts = self._shortcuts, []
        for shortcut, receiver in shortcuts:
            shortcut.setEnabled(False)
            for signal in ("activated()", "activatedAmbiguously()"):
                shortcut.disconnect(signal, receiver)
            shortcut.deleteLater()

    def _add(self, widget, key: str, receiver: Callable[[], object]) -> None:
        shortcut = qt.QShortcut(qt.QKeySequence(key), widget)
        shortcut.setAutoRepeat(False)  # a key held down must not answer several cases
        for signal in ("activated()", "activatedAmbiguously()"):
            shortcut.connect(signal, receiver)
        self._shortcuts.append((shortcut, receiver))
