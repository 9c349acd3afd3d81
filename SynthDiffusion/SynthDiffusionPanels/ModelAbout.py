"""What the chosen model is: what it makes and knows, its licence, and how well it does."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import qt
from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import ModelInfo
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels import modelTexts

_MOST_CLASSES = 12  # beyond that they are in a list that can be searched


class ModelAbout:
    """The group "About this model" of the model panel.

    Args:
        session: whose model is shown.
        ui: of the model panel.
        say: called with a text for the user.
    """

    def __init__(self, session: Session, ui, say: Callable[[str], None]) -> None:
        self._session, self._ui, self._say = session, ui, say
        self._classes: list[str] = []
        ui.cardButton.connect("clicked()", self._onCard)
        ui.folderButton.connect("clicked()", self._onFolder)
        ui.classesSearch.connect("textChanged(QString)", self._onSearched)

    def show(self, model: ModelInfo | None) -> None:
        """Shows a model; None for none."""
        ui = self._ui
        description = model.description if model is not None else {}
        ui.aboutBox.visible = model is not None
        texts = (
            (ui.makesLabel, _("Makes:"), modelTexts.makesText),
            (ui.limitsLabel, _("Sizes:"), modelTexts.limitsText),
            (ui.classesLabel, _("Can be drawn:"), self._classesText),
            (ui.licenceLabel, _("License:"), modelTexts.licenceText),
            (ui.trainingLabel, _("Trained on:"), modelTexts.trainingText),
            (ui.performanceLabel, _("Speed and memory:"), modelTexts.performanceText),
            (ui.measuredLabel, _("Quality:"), modelTexts.qualityText),
        )
        for label, title, textOf in texts:
            text = textOf(description) if description else _("Not known.")
            label.text = f"<b>{escape(title)}</b> {escape(text)}"
            label.visible = bool(text)
        best = model.bestFor if model is not None else ""
        ui.bestForLabel.text = f"<b>{escape(_('Best for:'))}</b> {escape(best)}"
        ui.bestForLabel.visible = bool(best)
        self._showClasses(modelTexts.classNames(description) if description else [])
        ui.cardButton.enabled = bool(description) and self._cardPath() is not None
        ui.folderButton.toolTip = model.folder if model is not None else ""

    @staticmethod
    def _classesText(description) -> str:
        names = modelTexts.classNames(description) if modelTexts.needsDrawing(description) else []
        if len(names) > _MOST_CLASSES:
            return _("{n} structures, see below.").format(n=len(names))
        return ", ".join(names) + "." if names else ""

    def _showClasses(self, names: list[str]) -> None:
        """The list, which is there for models that know many structures."""
        ui, many = self._ui, len(names) > _MOST_CLASSES
        ui.classesBox.visible = many
        if not many or names == self._classes:
            return
        self._classes = names
        ui.classesList.clear()
        for name in sorted(names, key=str.casefold):
            ui.classesList.addItem(name)
        self._onSearched(ui.classesSearch.text)

    def _onSearched(self, text: str) -> None:
        """Each of the words must be in the name, wherever."""
        words = text.casefold().replace("_", " ").split()
        for number in range(self._ui.classesList.count):
            item = self._ui.classesList.item(number)
            name = item.text().casefold().replace("_", " ")
            item.setHidden(not all(word in name for word in words))

    def _cardPath(self) -> Path | None:
        model = self._session.model
        files = model.description.get("files", ()) if model is not None else ()
        path = next((Path(model.folder) / file["path"] for file in files if file["role"] == "card"), None)
        return path if path is not None and path.is_file() else None

    def _onCard(self) -> None:
        self._openPath(self._cardPath())

    def _onFolder(self) -> None:
        self._openPath(Path(self._session.model.folder))

    def _openPath(self, path: Path) -> None:
        if not qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path))):
            self._say(_("No program opens '{path}'.").format(path=path))
