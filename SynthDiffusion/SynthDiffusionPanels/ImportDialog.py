"""Asks which files are to become a model, under which name, and what it is made like."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import qt
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Session import Session

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # as in model.schema.json


@dataclass(frozen=True)
class ImportRequest:
    """What the user wants to import.

    Args:
        files: paths.
        id: of the new model.
        like: a model or a preset with the same networks; "" has the engine find out.
    """

    files: tuple[str, ...]
    id: str
    like: str = ""

    @property
    def arguments(self) -> list[str]:
        """Of `synthdiffusion models`."""
        return ["import", *self.files, "--as", self.id, *(["--like", self.like] if self.like else [])]


class ImportDialog:
    """The dialog, for one use.

    Args:
        session: whose engine knows the models and presets.
    """

    def __init__(self, session: Session) -> None:
        self.dialog = slicer.util.loadUI(session.resourcePath("UI/ImportDialog.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.dialog)
        self._engine = session.engine
        self._files: list[str] = []
        ui.likeBox.addItem(_("let SynthDiffusion find out"), "")
        for name, modelId in likeChoices(session.engine):
            ui.likeBox.addItem(name, modelId)
        ui.addButton.connect("clicked()", self._onAdd)
        ui.takeOutButton.connect("clicked()", self._onTakeOut)
        ui.filesList.connect("itemSelectionChanged()", self._refresh)
        ui.idEdit.connect("textChanged(QString)", self._onNamed)
        self._refresh()

    def ask(self) -> ImportRequest | None:
        """Opens it; None if the user has thought better of it."""
        try:
            if not self.dialog.exec_():
                return None
            like = str(self.ui.likeBox.itemData(self.ui.likeBox.currentIndex) or "")
            return ImportRequest(tuple(self._files), self._id, like)
        finally:
            self.dialog.deleteLater()

    @property
    def _id(self) -> str:
        return self.ui.idEdit.text.strip()

    def _onAdd(self) -> None:
        filters = _("Weights") + " (*.safetensors *.pt *.pth *.ckpt *.bin)"
        paths = qt.QFileDialog.getOpenFileNames(self.dialog, _("Files with trained weights"), "", filters)
        self._files += [str(path) for path in paths or () if str(path) not in self._files]
        self._refresh()

    def _onTakeOut(self) -> None:
        del self._files[self.ui.filesList.currentRow]
        self._refresh()

    def _onNamed(self, text: str) -> None:
        self._refresh()

    def _refresh(self) -> None:
        ui = self.ui
        names = [Path(path).name for path in self._files]
        if names != [ui.filesList.item(n).text() for n in range(ui.filesList.count)]:
            ui.filesList.clear()
            for name, path in zip(names, self._files):
                ui.filesList.addItem(name)
                ui.filesList.item(ui.filesList.count - 1).setToolTip(path)
        problem = ""
        if self._id and not _ID.fullmatch(self._id):
            text = _("'{id}' cannot be a name: use small letters, digits and hyphens.")
            problem = text.format(id=self._id)
        elif self._engine.model(self._id) is not None:
            problem = _("There is a model called '{id}' already.").format(id=self._id)
        elif not self._files:
            problem = _("Add at least one file.")
        ui.problemLabel.text = problem
        ui.okButton.enabled = bool(self._id) and not problem
        ui.takeOutButton.enabled = bool(self._files) and ui.filesList.currentRow >= 0


def likeChoices(engine) -> Iterable[tuple[str, str]]:
    """(name, ID) of what an imported model can be made like: the models, then the designs without weights."""
    models = [model for model in engine.models if model.usable]
    yield from ((model.name, model.id) for model in models)
    taken = {model.id for model in models}
    yield from ((_("{id} (design)").format(id=preset), preset) for preset in engine.presets if preset not in taken)
