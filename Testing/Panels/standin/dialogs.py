"""Modal dialogs: recorded, and answered as the test says, since nobody is there to click."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from PySide6 import QtWidgets

from .qt_values import to_python


@dataclass(frozen=True)
class Shown:
    """A dialog that was opened: its class or function, its title, its text, and the detailed text of a message box."""

    kind: str
    title: str
    text: str = ""
    details: str = ""


class Dialogs:
    """The dialogs of one test.

    Attributes:
        shown: all of them, in order.
        opened_urls: what QDesktopServices was asked to open.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.shown: list[Shown] = []
        self.opened_urls: list[str] = []
        self._answers: deque = deque()

    def answer(self, *answers) -> None:
        """Adds answers, for one dialog each.

        A text clicks the button, or triggers the menu action, of that text; in a dialog for a file or a text it is what
        is chosen. A function is called with the dialog's proxy, shown, and does what the user would. Anything else is
        returned.
        """
        self._answers.extend(answers)

    def unused(self) -> list:
        return list(self._answers)

    def ask(self, kind: str, title: str, text: str = ""):
        """The answer to a static function such as QFileDialog.getOpenFileName."""
        self.shown.append(Shown(kind, title, text))
        if not self._answers:
            raise AssertionError(f"{kind} '{title}' was opened, and the test has no answer to it")
        return self._answers.popleft()

    def execute(self, proxy) -> int:
        """Stands for exec_() of a dialog."""
        dialog = proxy._obj
        box = isinstance(dialog, QtWidgets.QMessageBox)
        text = " ".join(t for t in (dialog.text(), dialog.informativeText()) if t) if box else ""
        details = dialog.detailedText() if box else ""
        self.shown.append(Shown(type(proxy).__name__, dialog.windowTitle().strip(), text, details))
        if not self._answers:
            if box and len(_choices(dialog)) <= 1:
                return QtWidgets.QMessageBox.StandardButton.Ok.value  # a message that can only be acknowledged
            raise AssertionError(f"{self.shown[-1]} was opened, and the test has no answer to it")
        answer = self._answers.popleft()
        if not callable(answer) and not isinstance(answer, str):
            return int(answer)
        dialog.show()
        try:
            if callable(answer):
                answer(proxy)
            else:
                _button(dialog, answer).click()
            return dialog.result()
        finally:
            dialog.hide()

    def execute_menu(self, proxy):
        """Stands for exec_() of a menu: the chosen action, triggered, or None."""
        title = self.ask("QMenu", proxy._obj.title())
        if not title:
            return None
        actions = {action.text().replace("&", ""): action for action in proxy._obj.actions()}
        if title not in actions or not actions[title].isEnabled():
            raise AssertionError(f"no action '{title}' to choose from {', '.join(actions)}")
        actions[title].trigger()
        return to_python(actions[title])


def _choices(box: QtWidgets.QMessageBox) -> list:
    """The buttons that end a message box; "Show Details..." does not."""
    details = QtWidgets.QMessageBox.ButtonRole.ActionRole
    return [button for button in box.buttons() if box.buttonRole(button) != details]


def _button(dialog, text: str) -> QtWidgets.QAbstractButton:
    buttons = {b.text().replace("&", ""): b for b in dialog.findChildren(QtWidgets.QAbstractButton)}
    if text not in buttons:
        raise AssertionError(f"no button '{text}' among {', '.join(buttons)}")
    return buttons[text]


dialogs = Dialogs()
