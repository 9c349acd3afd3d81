"""The synthetic volumes of the scene: what they are, how they were made, and what can be done with them."""

from __future__ import annotations

import json

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from SynthDiffusionJobs.JobFolders import unwritableText
from SynthDiffusionJobs.Parameters import UNDRAWN
from SynthDiffusionJobs.Session import Session
from SynthDiffusionJobs.Signal import Signal
from SynthDiffusionPanels.DicomPanel import DicomPanel
from SynthDiffusionPanels.EvaluationPanel import EvaluationPanel
from SynthDiffusionPanels.sentences import durationText, failureText, plainText
from SynthDiffusionPanels.tumourTexts import resultText

_REFRESH_MS = 200
_MOST_ROWS = 6  # beyond that the table scrolls
_UNLIMITED = 16777215  # QWIDGETSIZE_MAX
_NAME, _MODEL, _SEED, _TIME, _ADHERENCE = range(5)


class ResultsPanel(VTKObservationMixin):
    """A table of all synthetic volumes, also of those that came with a saved scene.

    Args:
        session: whose scene is shown.

    Attributes:
        showRequested: Signal(volume node), it is about to be put into the slice views.
        compareRequested: Signal(volume node).
        dicom: the part that exports the chosen volume as DICOM.
        evaluation: the part on whole sets of volumes.
    """

    def __init__(self, session: Session) -> None:
        VTKObservationMixin.__init__(self)
        self._session = session
        self.showRequested, self.compareRequested = Signal(), Signal()
        self.widget = slicer.util.loadUI(session.resourcePath("UI/ResultsPanel.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self.dicom, self.evaluation = DicomPanel(session), EvaluationPanel(session)
        ui.dicomGroup.layout().addWidget(self.dicom.widget)
        ui.evaluationGroup.layout().addWidget(self.evaluation.widget)
        self._rows: list = []
        self._cells: list[tuple[str, ...]] = []
        self._edited: dict[tuple[str, int], bool] = {}
        self._message = ""
        header = ui.volumesTable.horizontalHeader()
        for column in (_MODEL, _SEED, _TIME, _ADHERENCE):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(_NAME, qt.QHeaderView.Stretch)
        # Long names take several lines in a narrow panel.
        ui.volumesTable.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.detailsWidget.hide()
        ui.showButton.connect("clicked()", self._onShow)
        ui.compareButton.connect("clicked()", self._onCompare)
        ui.renameButton.connect("clicked()", self._onRename)
        ui.deleteButton.connect("clicked()", self._onDelete)
        ui.againButton.connect("clicked()", self._onAgain)
        ui.sameButton.connect("clicked()", self._onSame)
        ui.copyCommandButton.connect("clicked()", self._onCopyCommand)
        ui.detailsButton.connect("toggled(bool)", self._onDetailsToggled)
        ui.evaluationGroup.connect("toggled(bool)", self._onEvaluationToggled)
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
        self.evaluation.exit()

    def close(self) -> None:
        self.removeObservers()
        self.showRequested.disconnectAll()
        self.compareRequested.disconnectAll()
        self._timer.stop()
        self._timer.disconnect("timeout()", self.refresh)
        self._timer.deleteLater()
        self.dicom.close()
        self.evaluation.close()

    def refresh(self) -> None:
        from SynthDiffusionScene.runs import runsOf

        table, selected, place = self.ui.volumesTable, self.selectedNode(), self.ui.volumesTable.currentRow()
        before = [row.node for row in self._rows]
        # In the middle of closing, nodes are half gone.
        self._rows = [] if self._session.scene.IsClosing() else runsOf(self._session.scene)
        nodes = [row.node for row in self._rows]
        if nodes != before:
            table.blockSignals(True)
            table.setRowCount(len(nodes))
            table.blockSignals(False)
        self._fill()
        if nodes != before:
            if selected is not None and selected not in nodes and nodes:  # deleted: the one in its place
                selected = nodes[min(place, len(nodes) - 1)]
            self.select(selected)
            self._limitHeight()
        table.setVisible(bool(nodes))
        self.ui.emptyLabel.setVisible(not nodes)
        self._refreshSelection()

    def selectedNode(self):
        """The chosen volume node, or None."""
        row = self.ui.volumesTable.currentRow()
        return self._rows[row].node if 0 <= row < len(self._rows) else None

    def select(self, node) -> None:
        """Chooses a volume in the table; None for none."""
        nodes = [row.node for row in self._rows]
        if node in nodes:
            self.ui.volumesTable.selectRow(nodes.index(node))
        elif node is None:
            self.ui.volumesTable.setCurrentCell(-1, -1)
            self.ui.volumesTable.clearSelection()

    def showNewest(self, node) -> None:
        """Chooses a volume that was just made, unless the user is writing a name."""
        self.refresh()
        if not self.ui.volumesTable.findChildren(qt.QLineEdit):
            self.select(node)

    def _fill(self) -> None:
        """Writes into cells only what is new there: a name that is being written is not disturbed."""
        table = self.ui.volumesTable
        table.blockSignals(True)
        del self._cells[len(self._rows) :]
        for number, row in enumerate(self._rows):
            texts = (*self._textsOf(row), row.title)
            if number < len(self._cells) and self._cells[number] == texts:
                continue
            self._cells[number : number + 1] = [texts]
            for column, text in enumerate(texts[:-1]):
                item = table.item(number, column)
                if item is None:
                    item = qt.QTableWidgetItem()
                    if column != _NAME:
                        item.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled)
                    table.setItem(number, column, item)
                item.setText(text)
                item.setToolTip(plainText(self._tipOf(row, column) or text))
        table.blockSignals(False)

    def _limitHeight(self) -> None:
        table, height = self.ui.volumesTable, _UNLIMITED
        if len(self._rows) > _MOST_ROWS:
            rows = sum(table.rowHeight(row) for row in range(_MOST_ROWS))
            height = rows + table.horizontalHeader().sizeHint.height() + 2 * table.frameWidth
        table.setMaximumHeight(height)

    def _textsOf(self, row) -> tuple[str, ...]:
        time = _("not known") if row.seconds is None else durationText(row.seconds)
        adherence = row.adherence or row.adherenceNote or _("not measured")
        if row.adherence and self._isEdited(row.node):
            adherence = _("{figure}, before it was edited").format(figure=row.adherence)
        return row.name, row.model, row.seed, time, adherence

    def _isEdited(self, node) -> bool:
        """Whether the voxels are not those that were made; counted anew only when the node has changed."""
        from SynthDiffusionScene.digests import voxelsChanged
        from SynthDiffusionScene.modified import modifiedTime

        key = node.GetID(), modifiedTime(node)
        if key not in self._edited:
            self._edited = {k: v for k, v in self._edited.items() if k[0] != node.GetID()}
            self._edited[key] = voxelsChanged(node)
        return self._edited[key]

    @staticmethod
    def _tipOf(row, column: int) -> str:
        """What is behind a cell: the run of a name, and what an adherence is to be compared with."""
        from SynthDiffusionScene.statistics import adherenceOf

        if column == _NAME:
            return "\n".join(filter(None, [row.name, row.title]))
        return adherenceOf(row.node).explanation if column == _ADHERENCE and row.adherence else ""

    def _onSceneChanged(self, caller=None, event=None) -> None:
        self._timer.start()

    def _onSelectionChanged(self) -> None:
        self._message = ""
        self._refreshSelection()

    def _refreshSelection(self) -> None:
        ui, node = self.ui, self.selectedNode()
        provenance = self._provenance(node)
        anyway = (ui.showButton, ui.compareButton, ui.renameButton, ui.deleteButton)
        recorded = (ui.detailsButton, ui.copyCommandButton)
        repeated = (ui.againButton, ui.sameButton)
        usable = provenance is not None and self._session.engine.status.ready
        for buttons, enabled in (
            (anyway, node is not None),
            (recorded, provenance is not None),
            (repeated, usable and self._session.parameters is not None),
        ):
            for button in buttons:
                button.enabled = enabled
                button.setVisible(bool(self._rows))
        ui.dicomGroup.setVisible(bool(self._rows))
        self.dicom.refresh(node)
        ui.tumourLabel.text = resultText(provenance) if provenance is not None else ""
        ui.tumourLabel.setVisible(bool(ui.tumourLabel.text))
        shown = bool(self._rows) and ui.detailsButton.checked and provenance is not None
        ui.detailsWidget.setVisible(shown)
        if shown:
            text = json.dumps(provenance, indent=2, ensure_ascii=False)
            if text != ui.detailsText.plainText:  # otherwise whoever reads it is thrown back to the beginning
                ui.detailsText.setPlainText(text)
        ui.messageLabel.text = self._message
        ui.messageLabel.setVisible(bool(self._message))

    def _say(self, text: str) -> None:
        self._message = text
        self._refreshSelection()

    def _onDetailsToggled(self, shown: bool) -> None:
        self._refreshSelection()

    def _onEvaluationToggled(self, shown: bool) -> None:
        if shown:
            self.evaluation.open()

    @staticmethod
    def _provenance(node) -> dict | None:
        from SynthDiffusionScene.volumes import provenanceOf

        return provenanceOf(node) if node is not None else None

    def _onShow(self) -> None:
        from SynthDiffusionScene.resultViews import showMade

        node = self.selectedNode()
        self.showRequested.emit(node)
        slicer.util.setSliceViewerLayers(background=node, foreground=None, fit=True)
        showMade(self._session.scene, node)

    def _onCompare(self) -> None:
        self.compareRequested.emit(self.selectedNode())

    def _onRename(self) -> None:
        self.ui.volumesTable.editItem(self.ui.volumesTable.item(self.ui.volumesTable.currentRow(), _NAME))

    def _onItemChanged(self, item) -> None:
        from SynthDiffusionScene.errors import SceneError
        from SynthDiffusionScene.runs import renameVolume

        self._message = ""
        try:
            renameVolume(self._rows[item.row()].node, item.text())
        except SceneError as error:
            self._message = failureText(error.message, error.hint)
        self._cells = []  # the name in the table may not be the one that the volume has got
        self.refresh()

    def _onDelete(self) -> None:
        from SynthDiffusionScene.runs import deleteVolume

        node = self.selectedNode()
        question = _("Delete '{name}' from the scene?").format(name=node.GetName())
        if slicer.util.confirmOkCancelDisplay(plainText(question)):
            deleteVolume(self._session.scene, node)
            self.refresh()

    def _onSame(self) -> None:
        from SynthDiffusionJobs.Repeat import applySettings
        from SynthDiffusionScene.errors import SceneError

        node = self.selectedNode()
        try:
            missing = applySettings(self._session.parameters, node, self._session.engine)
        except SceneError as error:
            self._say(failureText(error.message, error.hint))
        else:
            self._say("\n".join(missing) or _("The settings of '{name}' are set.").format(name=node.GetName()))

    def _onAgain(self) -> None:
        from SynthDiffusionLib.errors import SynthDiffusionError
        from SynthDiffusionScene.errors import SceneError

        try:
            self._say("\n".join(self._startAgain(self.selectedNode())))
        except (SceneError, SynthDiffusionError) as error:
            self._say(failureText(error.message, error.hint))
        except OSError as error:
            self._say(unwritableText(error))

    def _startAgain(self, node) -> list[str]:
        """Starts a run with the settings of a volume but a new seed. Returns what is to be said."""
        from SynthDiffusionJobs.Repeat import applySettings, obstacles

        session = self._session
        problems = obstacles(node, session.engine)
        if problems:  # what is chosen now has nothing to do with this volume
            return problems
        parameters = session.parameters
        fixedSeed, seed = parameters.fixedSeed, parameters.seed
        missing = applySettings(parameters, node, session.engine)
        try:
            parameters.fixedSeed = False
            problem = session.generation.problem(parameters)
            if problem:
                return [*missing, problem]
            run = session.generation.start(parameters)
        finally:  # the next run is the user's again
            parameters.seed, parameters.fixedSeed = seed, fixedSeed
        text = _("Run {number} is in the queue, see Generate. The settings of '{name}' are set now, but not its seed.")
        return [*missing, text.format(number=run.number, name=node.GetName())]

    def _onCopyCommand(self) -> None:
        from SynthDiffusionLib.jobs.command_line import as_text, command_line

        provenance = self._provenance(self.selectedNode())
        try:
            mode = provenance["settings"]["mode"]
            image = "REAL_VOLUME.nrrd" if mode == "inpaint" else None
            segmentation = None if mode in UNDRAWN else "SEGMENTATION.seg.nrrd"
            command = command_line(provenance, segmentation, "results", image=image)
        except (KeyError, TypeError) as error:  # a record that this version has not written
            self._say(_("The record of this volume is incomplete ({reason}).").format(reason=error))
            return
        slicer.app.clipboard().setText(as_text(command))
        self._say(_("Copied. Put the paths of your exported files in place of the words in capitals."))
