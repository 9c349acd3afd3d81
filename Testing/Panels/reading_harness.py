"""A small study, the panel that reads it, and what a reader does with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from panel_harness import ROOT, Harness
from pytest import MonkeyPatch

sys.path.append(str(ROOT / "Testing" / "Engine"))

import reader_study_examples  # noqa: E402

VIEWING = {
    "windows": [{"name": "Lung", "center": -600, "width": 1500}, {"name": "Soft", "center": 40, "width": 400}],
    "window_locked": True,
}


def make_study(folder: Path, pair_form: dict | None = None, **options) -> Path:
    """A reading folder with real small volumes; see `reader_study_examples.make_reading_folder`.

    Args:
        folder: where to make it.
        pair_form: questions on pairs, in place of the example's.
        options: of `make_reading_folder`.
    """
    viewing = VIEWING | options.pop("viewing", {})
    with MonkeyPatch.context() as patch:
        if pair_form is not None:
            patch.setattr(reader_study_examples, "choice_form", lambda: pair_form)
        return reader_study_examples.make_reading_folder(folder, real_volumes=True, viewing=viewing, **options)


class Reader:
    """A reader in front of the section "Reader study".

    Args:
        standin: the environment.
        folder: the reading folder.
        name: of the reader.
    """

    def __init__(self, standin, folder: Path, name: str = "R1") -> None:
        from SynthDiffusionPanels.StudyPanel import StudyPanel

        self.standin, self.folder, self.name = standin, Path(folder), name
        self.harness = Harness(standin.scene, StudyPanel)
        self.study = self.harness.panel
        self.panel, self.login = self.study.reading, self.study.ui
        self.ui = self.panel.ui

    def log_in(self) -> None:
        """Chooses the folder and the name."""
        self.login.folderEdit.currentPath = str(self.folder)
        names = [self.login.readerCombo.itemText(n) for n in range(self.login.readerCombo.count)]
        self.login.readerCombo.setCurrentIndex(names.index(self.name))

    def begin(self) -> None:
        """Logs in and begins."""
        self.log_in()
        self.login.beginButton.click()
        assert self.panel.isActive, self.login.messageLabel.text
        self.standin.process_events()

    @property
    def form(self):
        return self.panel.form

    def answer(self, item: str = "score", number: int = 2) -> None:
        """Clicks the option of that number, from 1."""
        question = self.form.question(item)
        buttons = question.buttons
        (list(buttons.values()) if isinstance(buttons, dict) else buttons)[number - 1].click()

    def next(self) -> None:
        self.ui.nextButton.click()
        self.standin.process_events()

    def read_all(self, number: int = 2) -> int:
        """Answers until the session is read. Returns how many cases that were."""
        count = 0
        while self.panel.isActive:
            if self.panel.page == "case":
                self.answer(self.form.questions[0].item.id, number)
                count += 1
            self.next()
            assert count < 100
        return count

    def records(self) -> list[dict]:
        """What is on the disk."""
        path = self.folder / "records" / f"{self.name}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def answers(self) -> list[dict]:
        return [record for record in self.records() if record["type"] == "answer"]

    def types(self) -> list[str]:
        return [record["type"] for record in self.records()]

    def close(self) -> None:
        self.harness.close()


def interactor(tag: str):
    """The interactor of a slice view, by its layout name."""
    import slicer

    return slicer.app.layoutManager().sliceWidget(tag).sliceView().interactor()


_TEXTS = ("text", "placeholderText", "toPlainText", "toolTip", "windowTitle", "currentText", "currentMessage")


def shown_texts(widget) -> list[str]:
    """Everything that a person can read on a widget and in it, tooltips and menus included, but not what is hidden."""
    from PySide6 import QtWidgets

    top = widget._obj if hasattr(widget, "_obj") else widget
    found: list[str] = []

    def menu(actions) -> None:
        for action in actions:
            found.append(action.text())
            if action.menu() is not None:
                menu(action.menu().actions())

    def look(part) -> None:
        if part is not top and part.isHidden():
            return
        readers = [getattr(part, name, None) for name in _TEXTS]
        found.extend(str(read()) for read in readers if callable(read))
        if isinstance(part, QtWidgets.QGroupBox):
            found.append(part.title())
        elif isinstance(part, QtWidgets.QListWidget):
            found.extend(part.item(row).text() for row in range(part.count()))
        elif isinstance(part, QtWidgets.QComboBox):
            found.extend(part.itemText(n) for n in range(part.count()))
        elif isinstance(part, QtWidgets.QMenuBar):
            menu(part.actions())
        for child in part.children():
            if isinstance(child, QtWidgets.QWidget):
                look(child)

    look(top)
    return [text for text in found if text]
