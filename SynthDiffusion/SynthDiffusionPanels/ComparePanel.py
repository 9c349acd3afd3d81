"""A real and a synthetic volume side by side, in views of their own and in numbers."""

from __future__ import annotations

import contextlib

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Session import Session
from SynthDiffusionJobs.Signal import Signal
from SynthDiffusionPanels.sentences import failureText, plainText

_FLICKER_MS = 700
_REFRESH_MS = 500
# In the order of the combo boxes, whose texts are translated.
_ORIENTATIONS = ("Axial", "Sagittal", "Coronal")
_MODES = ("difference", "flicker", "fade")


class ComparePanel:
    """Chooses the two volumes, starts and ends the comparison, and shows its table.

    Args:
        session: whose scene is compared.

    Attributes:
        startRequested: Signal(), a comparison is about to be shown.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.startRequested = Signal()
        self.widget = slicer.util.loadUI(session.resourcePath("UI/ComparePanel.ui"))
        self.widget.setMRMLScene(session.scene)
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        ui.syntheticSelector.addAttribute("vtkMRMLScalarVolumeNode", "SynthDiffusion.Synthetic", "YES")
        self._comparison = None
        self._message = ""
        self._segmentIds: list[str | None] = []
        ui.statisticsTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.controlsWidget.hide()
        ui.realSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onRealChosen)
        ui.syntheticSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onSyntheticChosen)
        ui.compareButton.connect("clicked(bool)", self._onCompare)
        ui.orientationCombo.connect("currentIndexChanged(int)", self._onOrientation)
        ui.modeCombo.connect("currentIndexChanged(int)", self._onMode)
        ui.fadeSlider.connect("valueChanged(int)", self._onFade)
        ui.segmentCombo.connect("currentIndexChanged(int)", self._onSegment)
        ui.copyButton.connect("clicked()", self._onCopy)
        self._flicker = self._timer(_FLICKER_MS, self._onFlicker)
        self._measure = self._timer(_REFRESH_MS, self._onDrawn, singleShot=True)
        session.drawingChanged.connect(self._onDrawingChanged)

    def enter(self) -> None:
        self.refresh()

    def exit(self) -> None:
        """Gives the user's views back."""
        self.stop()

    def close(self) -> None:
        self.startRequested.disconnectAll()
        self._session.drawingChanged.disconnect(self._onDrawingChanged)
        self.stop()
        for timer, receiver in ((self._flicker, self._onFlicker), (self._measure, self._onDrawn)):
            timer.stop()
            timer.disconnect("timeout()", receiver)
            timer.deleteLater()
        # Without a scene the selectors choose no node, which must not get into the parameters.
        self.ui.realSelector.disconnect("currentNodeChanged(vtkMRMLNode*)", self._onRealChosen)
        self.ui.syntheticSelector.disconnect("currentNodeChanged(vtkMRMLNode*)", self._onSyntheticChosen)
        self.widget.setMRMLScene(None)

    def refresh(self) -> None:
        parameters, ui = self._session.parameters, self.ui
        if parameters is None:
            self._message = ""  # it was about another scene
        else:
            for selector, node in (
                (ui.realSelector, parameters.compareReal),
                (ui.syntheticSelector, parameters.compareSynthetic),
            ):
                if selector.currentNode() is not node:
                    selector.blockSignals(True)
                    selector.setCurrentNode(node)
                    selector.blockSignals(False)
        chosen = parameters is not None and None not in (parameters.compareReal, parameters.compareSynthetic)
        ui.compareButton.enabled = chosen or self.isActive
        ui.compareButton.checked = self.isActive
        ui.compareButton.text = _("Back to my own views") if self.isActive else _("Compare")
        ui.controlsWidget.setVisible(self.isActive)
        message = self._message
        if not message and parameters is not None and not chosen:
            message = _("Choose a real volume and a synthetic one.")
        ui.messageLabel.text = message
        ui.messageLabel.setVisible(bool(message))
        fading = self.isActive and self._comparison.mode == "fade"
        ui.fadeLabel.setVisible(fading)
        ui.fadeSlider.setVisible(fading)

    @property
    def isActive(self) -> bool:
        """Whether the comparison is shown."""
        return self._comparison is not None and self._comparison.isActive

    def choose(self, syntheticNode) -> bool:
        """Sets up a comparison of a synthetic volume with what it was made from.

        Returns:
            Whether that is known and in the scene. If not, the real volume that the user has chosen last stays chosen.
        """
        from SynthDiffusionScene.drawing import isBlank
        from SynthDiffusionScene.runs import REAL_VOLUME_ROLE, SEGMENTATION_ROLE

        parameters = self._session.parameters
        real = syntheticNode.GetNodeReference(REAL_VOLUME_ROLE)
        segmentation = syntheticNode.GetNodeReference(SEGMENTATION_ROLE)
        if real is None and segmentation is not None:
            role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
            real = segmentation.GetNodeReference(role)
        known = real is not None and real is not syntheticNode and not isBlank(real)
        with slicer.util.NodeModify(parameters.parameterNode):
            parameters.compareSynthetic = syntheticNode
            if known:
                parameters.compareReal = real
        return known

    def compare(self, syntheticNode) -> None:
        """Shows a synthetic volume beside the real one, or asks which one that is."""
        if self.choose(syntheticNode):
            self.start()
        else:
            self.stop()
            self._message = self._question(syntheticNode)
            self.refresh()

    def _question(self, syntheticNode) -> str:
        """What to do where nobody knows which real volume belongs to a synthetic one."""
        from SynthDiffusionScene.drawing import isBlank
        from SynthDiffusionScene.volumes import SYNTHETIC

        if self._session.parameters.compareReal not in (None, syntheticNode):
            return _("Which real volume it belongs to is not known. Click Compare if it is the one that is chosen.")
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", self._session.scene)
        images = [node for node in volumes if not (node.IsA("vtkMRMLLabelMapVolumeNode") or node.GetHideFromEditors())]
        if any(node.GetAttribute(SYNTHETIC) != "YES" and not isBlank(node) for node in images):
            return _("Choose the real volume to compare with.")
        return _(
            "There is no real volume in the scene to compare with. Load one, or choose another synthetic volume above"
            " in its place."
        )

    def start(self) -> None:
        """Shows the comparison of the chosen volumes, or says why it cannot be shown."""
        from SynthDiffusionScene.comparison import Comparison
        from SynthDiffusionScene.errors import SceneError
        from SynthDiffusionScene.runs import SEGMENTATION_ROLE

        parameters = self._session.parameters
        if self._comparison is None:
            layoutNode = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
            self._comparison = Comparison(self._session.scene, layoutNode, self._onStoppedByItself)
        synthetic = parameters.compareSynthetic
        segmentation = synthetic.GetNodeReference(SEGMENTATION_ROLE) or parameters.segmentation
        orientation = _ORIENTATIONS[self.ui.orientationCombo.currentIndex]
        self._message = ""
        self.startRequested.emit()
        try:
            self._comparison.start(parameters.compareReal, synthetic, segmentation, orientation)
        except SceneError as error:
            self._message = failureText(error.message, error.hint)
        else:
            self._fillSegments()
            self._onMode(self.ui.modeCombo.currentIndex)
            self._showTable()
        self.refresh()

    def stop(self) -> None:
        """Gives the user's views back."""
        self._flicker.stop()
        self._measure.stop()
        if self._comparison is not None:
            self._comparison.stop()
        self.refresh()

    def paused(self):
        """Context in which the scene is as it is without the comparison, to be saved."""
        return self._comparison.paused() if self.isActive else contextlib.nullcontext()

    @staticmethod
    def _timer(milliseconds: int, receiver, singleShot: bool = False):
        timer = qt.QTimer()
        timer.setInterval(milliseconds)
        timer.setSingleShot(singleShot)
        timer.connect("timeout()", receiver)
        return timer

    def _onRealChosen(self, node) -> None:
        if self._session.parameters is not None:
            self._session.parameters.compareReal = node
            self._restart()

    def _onSyntheticChosen(self, node) -> None:
        if self._session.parameters is not None:
            self._session.parameters.compareSynthetic = node
            self._restart()

    def _restart(self) -> None:
        """Another volume was chosen while the comparison is shown."""
        if self.isActive:
            parameters = self._session.parameters
            if None in (parameters.compareReal, parameters.compareSynthetic):
                self.stop()
            else:
                self.start()

    def _onCompare(self, checked: bool) -> None:
        if checked:
            self.start()
        else:
            self.stop()

    def _onStoppedByItself(self, reason: str) -> None:
        self._flicker.stop()
        self._message = reason
        self.refresh()

    def _onOrientation(self, index: int) -> None:
        if self.isActive:
            self._comparison.setOrientation(_ORIENTATIONS[index])

    def _onMode(self, index: int) -> None:
        if not self.isActive:
            return
        self._comparison.setMode(_MODES[index])
        if _MODES[index] == "flicker":
            self._flicker.start()
        else:
            self._flicker.stop()
        if _MODES[index] == "fade":
            self._comparison.setFade(self.ui.fadeSlider.value / 100)
        self.refresh()

    def _onFade(self, value: int) -> None:
        if self.isActive:
            self._comparison.setFade(value / 100)

    def _onFlicker(self) -> None:
        self._comparison.flick()

    def _onSegment(self, index: int) -> None:
        if self.isActive and 0 <= index < len(self._segmentIds):
            self._comparison.setSegment(self._segmentIds[index])

    def _onDrawingChanged(self) -> None:
        if self.isActive:
            self._measure.start()

    def _onDrawn(self) -> None:
        if self.isActive:
            self._comparison.refresh()
            self._fillSegments()
            self._showTable()

    def _fillSegments(self) -> None:
        combo, rows = self.ui.segmentCombo, self._comparison.rows
        combo.blockSignals(True)
        combo.clear()
        combo.addItem(_("Whole volume"))
        for row in rows:
            combo.addItem(row.name)
        self._segmentIds = [None, *(row.segmentId for row in rows)]
        if self._comparison.segmentId in self._segmentIds:
            combo.setCurrentIndex(self._segmentIds.index(self._comparison.segmentId))
        combo.blockSignals(False)

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        from SynthDiffusionScene.comparisonTables import tableCells

        return tableCells(self._comparison.rows, self._comparison.adherence, self._comparison.unit)

    def _showTable(self) -> None:
        header, rows = self._cells()
        table = self.ui.statisticsTable
        table.setColumnCount(len(header))
        table.setHorizontalHeaderLabels(header)
        table.setRowCount(len(rows))
        for row, cells in enumerate(rows):
            for column, text in enumerate(cells):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(plainText(text))
                table.setItem(row, column, item)
        self.ui.noteLabel.text = self._comparison.note

    def _onCopy(self) -> None:
        header, rows = self._cells()
        slicer.app.clipboard().setText("\n".join("\t".join(cells) for cells in (header, *rows)))
