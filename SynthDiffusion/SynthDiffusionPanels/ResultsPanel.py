"""The synthetic volumes of the scene: what they are, how they were made, and what can be done with them."""

from __future__ import annotations

import json

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.sentences import durationText, failureText

_REFRESH_MS = 200


class ResultsPanel(VTKObservationMixin):
    """A table of all synthetic volumes, also of those that came with a saved scene.

    Args:
        session: whose scene is shown.
    """

    def __init__(self, session: Session) -> None:
        VTKObservationMixin.__init__(self)
        self._session = session
        self.widget = slicer.util.loadUI(session.resourcePath("UI/ResultsPanel.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self._rows: list = []
        self._texts: list[tuple[str, ...]] = []
        self._message = ""
        ui.volumesTable.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        ui.detailsWidget.hide()
        ui.showButton.connect("clicked()", self._onShow)
        ui.renameButton.connect("clicked()", self._onRename)
        ui.deleteButton.connect("clicked()", self._onDelete)
        ui.againButton.connect("clicked()", self._onAgain)
        ui.sameButton.connect("clicked()", self._onSame)
        ui.copyCommandButton.connect("clicked()", self._onCopyCommand)
        ui.detailsButton.connect("toggled(bool)", self._onDetailsToggled)
        ui.volumesTable.connect("itemSelectionChanged()", self._onSelectionChanged)
        ui.volumesTable.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)
        # Volumes are added, renamed and deleted in other modules too; a burst of such events is answered once.
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REFRESH_MS)
        self._timer.connect("timeout()", self.refresh)
        for event in (slicer.vtkMRMLScene.NodeAddedEvent, slicer.vtkMRMLScene.NodeRemovedEvent):
            self.addObserver(session.scene, event, self._onSceneChanged)

    def enter(self) -> None:
        self.refresh()

    def exit(self) -> None:
        self._timer.stop()

    def close(self) -> None:
        self.removeObservers()
        self._timer.stop()
        self._timer.disconnect("timeout()", self.refresh)
        self._timer.deleteLater()

    def refresh(self) -> None:
        from SynthDiffusionScene.runs import runsOf

        table, selected = self.ui.volumesTable, self.selectedNode()
        # In the middle of closing, nodes are half gone.
        self._rows = [] if self._session.scene.IsClosing() else runsOf(self._session.scene)
        texts = [self._textsOf(row) for row in self._rows]
        if texts != self._texts:
            self._texts = texts
            table.blockSignals(True)
            table.setRowCount(len(texts))
            for row, cells in enumerate(texts):
                for column, text in enumerate(cells):
                    item = qt.QTableWidgetItem(text)
                    item.setToolTip(self._tipOf(self._rows[row], column) or text)
                    if column > 0:
                        item.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled)
                    table.setItem(row, column, item)
            table.clearSelection()
            table.blockSignals(False)
            self.select(selected)
        table.setVisible(bool(texts))
        self.ui.emptyLabel.setVisible(not texts)
        self._refreshSelection()

    def selectedNode(self):
        """The chosen volume node, or None."""
        row = self.ui.volumesTable.currentRow()
        return self._rows[row].node if 0 <= row < len(self._rows) else None

    def select(self, node) -> None:
        """Chooses a volume in the table."""
        for number, row in enumerate(self._rows):
            if row.node is node:
                self.ui.volumesTable.selectRow(number)

    @staticmethod
    def _textsOf(row) -> tuple[str, ...]:
        time = _("not known") if row.seconds is None else durationText(row.seconds)
        adherence = row.adherence or row.adherenceNote or _("not measured")
        return row.name, row.model, row.seed, time, adherence

    @staticmethod
    def _tipOf(row, column: int) -> str:
        """What is behind a cell: the run of a name, and what an adherence is to be compared with."""
        from SynthDiffusionScene.volumes import provenanceOf

        if column == 0:
            return row.title
        measured = (provenanceOf(row.node) or {}).get("adherence") if column == 4 else None
        if not measured or measured.get("real_dice") is None or measured.get("ball_dice") is None:
            return ""
        return _(
            "Dice of the segmenter with the drawn {structure}: {own:.2f}. On real images of the model's test patients"
            " it gets {real:.2f} on average; a ball in the middle, drawn without looking at the image, gets {ball:.2f}."
        ).format(
            structure=measured["class"],
            own=measured["dice"],
            real=measured["real_dice"],
            ball=measured["ball_dice"],
        )

    def _onSceneChanged(self, caller=None, event=None) -> None:
        self._timer.start()

    def _onSelectionChanged(self) -> None:
        self._message = ""
        self._refreshSelection()

    def _refreshSelection(self) -> None:
        ui, node = self.ui, self.selectedNode()
        for button in (ui.showButton, ui.renameButton, ui.detailsButton, ui.deleteButton, ui.copyCommandButton):
            button.enabled = node is not None
        usable = node is not None and self._session.parameters is not None and self._session.engine.status.ready
        ui.againButton.enabled = ui.sameButton.enabled = usable
        for button in (
            ui.showButton,
            ui.renameButton,
            ui.detailsButton,
            ui.deleteButton,
            ui.againButton,
            ui.sameButton,
        ):
            button.setVisible(bool(self._rows))
        shown = bool(self._rows) and ui.detailsButton.checked and node is not None
        ui.detailsWidget.setVisible(shown)
        if shown:
            ui.detailsText.setPlainText(json.dumps(self._provenance(node), indent=2, ensure_ascii=False))
        ui.messageLabel.text = self._message
        ui.messageLabel.setVisible(bool(self._message))

    def _onDetailsToggled(self, shown: bool) -> None:
        self._refreshSelection()

    @staticmethod
    def _provenance(node) -> dict:
        from SynthDiffusionScene.volumes import provenanceOf

        return provenanceOf(node)

    def _onShow(self) -> None:
        slicer.util.setSliceViewerLayers(background=self.selectedNode(), foreground=None, fit=True)

    def _onRename(self) -> None:
        self.ui.volumesTable.editItem(self.ui.volumesTable.item(self.ui.volumesTable.currentRow(), 0))

    def _onItemChanged(self, item) -> None:
        from SynthDiffusionScene.errors import SceneError
        from SynthDiffusionScene.runs import renameVolume

        try:
            renameVolume(self._rows[item.row()].node, item.text())
        except SceneError as error:
            self._message = failureText(error.message, error.hint)
        self._texts = []  # the name in the table may not be the one that the volume has got
        self.refresh()

    def _onDelete(self) -> None:
        from SynthDiffusionScene.runs import deleteVolume

        node = self.selectedNode()
        question = _("Delete '{name}' from the scene?").format(name=node.GetName())
        if slicer.util.confirmOkCancelDisplay(question):
            deleteVolume(self._session.scene, node)
            self.refresh()

    def _onSame(self) -> bool:
        """Puts the settings back. Returns whether all of them could be."""
        from SynthDiffusionJobs.Repeat import applySettings

        node = self.selectedNode()
        missing = applySettings(self._session.parameters, node, self._session.engine)
        self._message = "\n".join(missing) or _("The settings of '{name}' are set.").format(name=node.GetName())
        self._refreshSelection()
        return not missing

    def _onAgain(self) -> None:
        from SynthDiffusionLib.errors import SynthDiffusionError
        from SynthDiffusionScene.errors import SceneError

        self._onSame()
        self._session.parameters.fixedSeed = False
        problem = self._session.generation.problem(self._session.parameters)
        if not problem:
            try:
                self._session.generation.start(self._session.parameters)
            except (SceneError, SynthDiffusionError) as error:
                problem = failureText(error.message, error.hint)
        if problem:
            self._message = "\n".join(filter(None, [self._message, problem]))
            self._refreshSelection()

    def _onCopyCommand(self) -> None:
        from SynthDiffusionLib.jobs.command_line import as_text, command_line

        provenance = self._provenance(self.selectedNode())
        image = "REAL_VOLUME.nrrd" if provenance["settings"]["mode"] == "inpaint" else None
        command = command_line(provenance, "SEGMENTATION.seg.nrrd", "results", image=image)
        slicer.app.clipboard().setText(as_text(command))
        self._message = _("Copied. Put the paths of your exported files in place of the words in capitals.")
        self._refreshSelection()
