"""Saves the scene, and single volumes as files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import qt
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Session import Session
from SynthDiffusionJobs.VolumeExport import FORMATS, VolumeExport, targetName
from SynthDiffusionPanels.sentences import failureText, plainText

_MOST_ROWS = 10  # beyond that the list scrolls
_UNLIMITED = 16777215  # QWIDGETSIZE_MAX


class ExportPanel:
    """Scene and volume files.

    Args:
        session: whose scene is exported.
        savable: gives a context in which the scene is as the user knows it, see `ModulePanel.savable`.
    """

    def __init__(self, session: Session, savable: Callable[[], AbstractContextManager]) -> None:
        self._session, self._savable = session, savable
        self.widget = slicer.util.loadUI(session.resourcePath("UI/ExportPanel.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self._nodes: list = []
        self._names: list[str] = []
        self._export: VolumeExport | None = None
        self._target = ""
        ui.messageLabel.hide()
        ui.folderButton.hide()
        ui.sceneButton.connect("clicked()", self._onScene)
        ui.volumesButton.connect("clicked()", self._onVolumes)
        ui.cancelButton.connect("clicked()", self._onCancel)
        ui.folderButton.connect("clicked()", self._onFolder)
        ui.formatCombo.connect("currentIndexChanged(int)", self._nameFiles)
        ui.volumesList.connect("itemChanged(QListWidgetItem*)", self._refreshButtons)

    def enter(self) -> None:
        self.refresh()

    def exit(self) -> None:
        """An export under way goes on."""

    def close(self) -> None:
        if self._export is not None:
            self._export.cancel()

    @property
    def busy(self) -> bool:
        """Whether volumes are being written."""
        return self._export is not None

    def refresh(self) -> None:
        from SynthDiffusionScene.runs import runsOf

        nodes = [] if self._session.scene.IsClosing() else [row.node for row in runsOf(self._session.scene)]
        names = [node.GetName() for node in nodes]
        if nodes != self._nodes or names != self._names:
            unchecked = {node for node, checked in self._checks() if not checked}
            self._nodes, self._names = nodes, names
            volumes = self.ui.volumesList
            volumes.blockSignals(True)
            volumes.clear()
            for node, name in zip(nodes, names):
                item = qt.QListWidgetItem(name)
                item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
                item.setCheckState(qt.Qt.Unchecked if node in unchecked else qt.Qt.Checked)
                volumes.addItem(item)
            volumes.blockSignals(False)
            self._nameFiles()
            height = _UNLIMITED
            if len(nodes) > _MOST_ROWS:
                height = _MOST_ROWS * volumes.sizeHintForRow(0) + 2 * volumes.frameWidth
            volumes.setMaximumHeight(height)
        self._refreshButtons()

    def _suffix(self) -> str:
        return FORMATS[self.ui.formatCombo.currentIndex]  # which has them in this order

    def _nameFiles(self, index: int = 0) -> None:
        """Says in the tooltips what the files will be called."""
        volumes = self.ui.volumesList
        volumes.blockSignals(True)
        for row, node in enumerate(self._nodes):
            file = _("File: {name}").format(name=targetName(node, self._suffix()))
            volumes.item(row).setToolTip(plainText(f"{node.GetName()}\n{file}"))
        volumes.blockSignals(False)

    def _checks(self) -> list[tuple]:
        items = [self.ui.volumesList.item(row) for row in range(self.ui.volumesList.count)]
        return [(node, item.checkState() == qt.Qt.Checked) for node, item in zip(self._nodes, items)]

    def _refreshButtons(self, item=None) -> None:
        ui = self.ui
        for widget in (ui.volumesList, ui.formatLabel, ui.formatCombo, ui.segmentationCheck, ui.volumesButton):
            widget.setVisible(bool(self._nodes))
        ready = self._session.engine.status.ready and not self.busy
        ui.volumesButton.enabled = ready and any(checked for _node, checked in self._checks())
        ui.sceneButton.enabled = not self._session.scene.IsClosing()
        ui.progressBar.setVisible(self.busy)
        ui.cancelButton.setVisible(self.busy)

    def _say(self, text: str, target: str = "") -> None:
        """Shows a text, and the way to a folder if something was written into one."""
        ui, self._target = self.ui, target
        ui.messageLabel.text = text
        ui.messageLabel.setVisible(bool(text))
        ui.folderButton.setVisible(bool(target))
        ui.folderButton.toolTip = plainText(target)

    def _onFolder(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._target))

    def _onScene(self) -> None:
        path = qt.QFileDialog.getSaveFileName(
            self.widget, _("Save the scene"), "SynthDiffusion.mrb", _("Slicer scene (*.mrb)")
        )
        if path:
            self.saveScene(path)

    def saveScene(self, path: str) -> None:
        """Saves the scene and says how that went."""
        from SynthDiffusionScene.errors import SceneError
        from SynthDiffusionScene.sceneExport import exportScene

        path = path if path.lower().endswith(".mrb") else f"{path}.mrb"
        try:
            with slicer.util.WaitCursor(), self._savable():
                exportScene(self._session.scene, Path(path))
        except SceneError as error:
            self._say(failureText(error.message, error.hint))
        else:
            self._say(_("Saved: {path}").format(path=path), str(Path(path).parent))

    def _onVolumes(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.widget, _("Export into the folder"))
        if folder:
            self.exportVolumes(folder)

    def exportVolumes(self, folder: str) -> None:
        """Exports the checked volumes and says how that goes."""
        from SynthDiffusionScene.errors import SceneError

        nodes = [node for node, checked in self._checks() if checked]
        suffix = self._suffix()
        export = VolumeExport(self._session.engine, self._session.folders, self._onProgress, self._onExported)
        self._export, self._exportFolder = export, folder
        try:
            export.start(nodes, Path(folder), suffix, self.ui.segmentationCheck.checked)
        except SceneError as error:
            self._onExported([], failureText(error.message, error.hint))
        self._refreshButtons()

    def _onCancel(self) -> None:
        if self._export is not None:
            self._export.cancel()
            self._onExported(self._export.written, _("Canceled."))

    def _onProgress(self, done: int, total: int) -> None:
        self.ui.progressBar.setRange(0, total)
        self.ui.progressBar.setValue(done)
        self._say(_("Exporting: {done} of {total} volumes are written.").format(done=done, total=total))

    def _onExported(self, paths: list[str], problem: str) -> None:
        self._export = None
        folder = Path(self._exportFolder)
        lines = [_("Written: {name}").format(name=Path(path).relative_to(folder)) for path in paths]
        self._say("\n".join(filter(None, [*lines, problem])), self._exportFolder if paths else "")
        self._refreshButtons()
