"""Which segmentation is used, where it comes from, and what the model makes of it."""

from __future__ import annotations

from functools import partial

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Mapping import MappedSegment
from SynthDiffusionJobs.Parameters import JOINT, UNCONDITIONAL, UNDRAWN
from SynthDiffusionJobs.Samples import Sample, samples
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.DrawSection import DrawSection
from SynthDiffusionPanels.MappingTable import MappingTable
from SynthDiffusionPanels.sentences import failureText

_UPDATE_MS = 300
# The size of a blank drawing where no model says one, and the largest that is useful to draw on by hand.
_BLANK_MM, _BLANK_SPACING_MM, _LARGEST_BLANK_VOXELS = 64.0, 1.0, 256


class SegmentationPanel:
    """Selector, ways to get a segmentation, the segment editor, and the mapping table.

    Args:
        session: whose segmentation is chosen.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.widget = slicer.util.loadUI(session.resourcePath("UI/SegmentationPanel.ui"))
        self.widget.setMRMLScene(session.scene)
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self.draw = DrawSection(session, ui)
        self.table = MappingTable(ui.mappingTable, self._onClassChosen)
        self._message = ""
        self._mapping: tuple[tuple, list[MappedSegment]] = ((), [])
        self._update = qt.QTimer()
        self._update.setSingleShot(True)
        self._update.setInterval(_UPDATE_MS)
        self._update.connect("timeout()", self._onDrawn)
        self._sampleMenu = self._makeSampleMenu()
        self._loadMenu = qt.QMenu(ui.loadButton)
        self._loadMenu.addAction(_("Segmentation file...")).connect("triggered()", self._onLoad)
        self._loadMenu.addAction(_("Other data, such as a label map...")).connect("triggered()", self._onLoadOther)
        ui.sampleButton.setMenu(self._sampleMenu)
        ui.loadButton.setMenu(self._loadMenu)
        ui.segmentationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onSegmentationChosen)
        ui.volumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onVolumeChosen)
        ui.loadButton.connect("clicked()", self._onLoad)
        ui.dicomButton.connect("clicked()", self._onDicom)
        ui.newButton.connect("clicked()", self._onNewDrawing)
        ui.resetButton.connect("clicked()", self._onReset)
        ui.caseEdit.connect("editingFinished()", self._onCaseName)
        ui.drawSection.connect("contentsCollapsed(bool)", self._onDrawToggled)
        session.drawingChanged.connect(self._updateSoon)
        self.refresh()

    def enter(self) -> None:
        self.draw.enter()
        self.refresh()

    def exit(self) -> None:
        self.draw.exit()

    def close(self) -> None:
        self._session.drawingChanged.disconnect(self._updateSoon)
        self._update.stop()
        self._update.disconnect("timeout()", self._onDrawn)
        self._update.deleteLater()
        self.ui.drawSection.disconnect("contentsCollapsed(bool)", self._onDrawToggled)
        self.draw.close()

    def refresh(self) -> None:
        """Shows the chosen segmentation and its mapping."""
        ui, parameters = self.ui, self._session.parameters
        self.widget.enabled = parameters is not None
        self.draw.refresh()
        self._showMessage()
        if parameters is None:
            self._mapping = ((), [])
            self._showMapping([])
            return
        self._hideBlankVolumes()
        for selector, node in (
            (ui.segmentationSelector, parameters.segmentation),
            (ui.volumeSelector, parameters.realVolume),
        ):
            if selector.currentNode() is not node:
                selector.setCurrentNode(node)
        if not ui.caseEdit.hasFocus() and ui.caseEdit.text != parameters.caseName:
            ui.caseEdit.text = parameters.caseName
        segmentation = parameters.segmentation
        ui.caseEdit.placeholderText = self._session.generation.caseName(parameters) if segmentation else ""
        self._showMapping(self._mapped())

    # Where a segmentation comes from

    def _onSegmentationChosen(self, node) -> None:
        parameters = self._session.parameters
        if parameters is not None and node is not parameters.segmentation:
            self._message = ""
            self._take(node)

    def _take(self, node) -> None:
        """Works on another segmentation from now on. What was chosen for the segments of the old one is forgotten."""
        from SynthDiffusionScene.errors import SceneError
        from SynthDiffusionScene.labelMaps import ensureGrid

        parameters = self._session.parameters
        if node is not None:
            try:
                ensureGrid(node, parameters.realVolume)
            except SceneError as error:
                self._message = failureText(error.message, error.hint)
        with slicer.util.NodeModify(parameters.parameterNode):
            parameters.classes = {}
            parameters.segmentation = node
        self.refresh()

    def _onVolumeChosen(self, node) -> None:
        parameters = self._session.parameters
        if parameters is None or node is parameters.realVolume:
            return
        segmentation = parameters.segmentation
        if node is not None and segmentation is not None:
            from SynthDiffusionScene.drawing import segmentDescriptions
            from SynthDiffusionScene.labelMaps import moveToGridOf

            if all(segment.voxels == 0 for segment in segmentDescriptions(segmentation)):
                moveToGridOf(self._session.scene, segmentation, node)
        parameters.realVolume = node

    def _onLoad(self) -> None:
        self._load(slicer.util.openAddSegmentationDialog)

    def _onLoadOther(self) -> None:
        self._load(slicer.util.openAddDataDialog)

    def _load(self, openDialog) -> None:
        """Opens a dialog of Slicer and takes the segmentation, or the label map, that was loaded with it."""
        from SynthDiffusionScene.errors import SceneError
        from SynthDiffusionScene.labelMaps import nameByValue, segmentationFromLabelMap

        before = {node.GetID() for node in self._nodes("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode")}
        openDialog()
        if self._session.parameters is None:
            return  # a scene was loaded in place of this one
        self._message = ""
        new = [node for node in self._nodes("vtkMRMLSegmentationNode") if node.GetID() not in before]
        for labelMap in self._nodes("vtkMRMLLabelMapVolumeNode"):
            if labelMap.GetID() in before:
                continue
            try:
                new.append(segmentationFromLabelMap(self._session.scene, labelMap))
            except SceneError as error:
                self._message = failureText(error.message, error.hint)
        for node in new:
            nameByValue(node)
        if new:
            self._take(new[-1])
        self._showMessage()

    def _onDicom(self) -> None:
        slicer.util.selectModule("DICOM")

    def _onSample(self, sample: Sample) -> None:
        from SynthDiffusionScene.errors import SceneError
        from SynthDiffusionScene.segmentations import importSegmentation
        from SynthDiffusionScene.segmentationViews import fitToSegmentation

        self._message = ""
        scene = self._session.scene
        try:
            segmentation = importSegmentation(scene, sample.path, scene.GenerateUniqueName(sample.title))
            self._take(segmentation)
            fitToSegmentation(scene, segmentation)
        except SceneError as error:
            self._message = failureText(error.message, error.hint)
        self._showMessage()

    def _onNewDrawing(self) -> None:
        from SynthDiffusionScene.drawing import newSegmentation
        from SynthDiffusionScene.errors import SceneError

        self._message = ""
        size, spacing = self._blankGrid()
        volume = self._session.parameters.realVolume
        try:
            self._take(newSegmentation(self._session.scene, volume, size, spacing, _("Drawing")))
        except SceneError as error:
            self._message = failureText(error.message, error.hint)
            self._showMessage()
            return
        self.draw.open()
        self.draw.fitViews()

    def _blankGrid(self) -> tuple[list[float], float]:
        """Size (x, y, z) and spacing in mm of what the chosen model, or the first that can be used, makes."""
        for model in (self._session.model, *self._session.engine.models):
            if model is not None and model.usable:
                grid = model.description["grid"]
                spacing = min(grid["spacing_mm"])
                sizes = [n * mm for n, mm in zip(grid["max_size"], grid["spacing_mm"])]
                return [min(size, _LARGEST_BLANK_VOXELS * spacing) for size in sizes], spacing
        return [_BLANK_MM] * 3, _BLANK_SPACING_MM

    def _makeSampleMenu(self):
        menu = qt.QMenu(self.ui.sampleButton)
        menu.toolTipsVisible = True
        for sample in samples(self._session.resourcePath):
            action = menu.addAction(sample.title)
            action.toolTip = sample.description
            action.connect("triggered()", partial(self._onSample, sample))
        return menu

    def _nodes(self, *classes: str) -> list:
        scene = self._session.scene
        return [scene.GetNthNodeByClass(n, c) for c in classes for n in range(scene.GetNumberOfNodesByClass(c))]

    def _hideBlankVolumes(self) -> None:
        """What was made to draw on is nobody's image, so it cannot be drawn into."""
        from SynthDiffusionScene.drawing import isBlank

        blank = [node.GetID() for node in self._nodes("vtkMRMLScalarVolumeNode") if isBlank(node)]
        model = self.ui.volumeSelector.sortFilterProxyModel()
        if list(model.hiddenNodeIDs) != blank:
            model.hiddenNodeIDs = blank

    # Mapping

    def _mapped(self) -> list[MappedSegment]:
        """The mapping, computed anew only when something that it depends on has changed: counting voxels takes time."""
        from SynthDiffusionScene.modified import modifiedTime

        session, parameters = self._session, self._session.parameters
        node, model = parameters.segmentation, session.model
        if node is None or model is None or not model.usable or parameters.mode in UNDRAWN:
            return []
        classes = dict(parameters.classes)
        key = (node.GetID(), modifiedTime(node), model, tuple(sorted(classes.items())))
        if key != self._mapping[0]:
            self._mapping = (key, session.generation.mapping(parameters))
        return self._mapping[1]

    def _showMapping(self, rows: list[MappedSegment]) -> None:
        from SynthDiffusionScene.labelMaps import voxelVolumesMl

        ui, session, parameters = self.ui, self._session, self._session.parameters
        for widget in (ui.tableLabel, ui.mappingTable, ui.resetButton):
            widget.visible = bool(rows)
        if rows:
            classes = [c["name"] for c in session.model.description["label_scheme"]]
            self.table.show(rows, classes, voxelVolumesMl(parameters.segmentation))
            ui.resetButton.enabled = any(row.how == "chosen" for row in rows)
        else:
            self.table.clear()
        notes = self._notes(rows)
        ui.notesLabel.text = "\n".join(notes)
        ui.notesLabel.visible = bool(notes)

    def _notes(self, rows: list[MappedSegment]) -> list[str]:
        """What to know about the mapping, a sentence each."""
        parameters = self._session.parameters
        if parameters is None:
            return []
        if parameters.mode == JOINT:
            text = _("The segmentation is made with the image, see Model and quality. What is drawn here is not used.")
            return [text]
        if parameters.mode == UNCONDITIONAL:
            return [_("The image is made without a drawing, see Model and quality. What is drawn here is not used.")]
        if parameters.segmentation is None:
            return [_("To begin, load a segmentation, take a sample, or make a new drawing.")]
        if self._session.model is None and not self._session.engine.status.ready:
            return [_("Which classes the segments go to is shown once the set-up is complete and a model is chosen.")]
        if self._session.model is None:
            return [_("Which classes the segments go to is shown once a model is chosen.")]
        if not any(row.drawn for row in rows):
            return [_("Nothing is drawn yet.")]
        notes = []
        ignored = [row.name for row in rows if row.drawn and not row.target]
        if ignored:
            notes.append(_("Left out, the model does not see them: {names}.").format(names=", ".join(ignored)))
        for target in dict.fromkeys(row.target for row in rows if row.target):
            names = [row.name for row in rows if row.target == target and row.drawn]
            if len(names) > 1:
                text = _("Taken together as {target}: {names}.")
                notes.append(text.format(target=target, names=", ".join(names)))
        for row in rows:
            if row.how == "only-segment":
                text = _(
                    "{name} is the only segment, so it is taken as {target}. If it is something else, choose it above."
                )
                notes.append(text.format(name=row.name, target=row.target))
            elif row.note:
                notes.append(f"{row.name}: {row.note}.")
        return notes

    def _onClassChosen(self, segmentId: str, target: str) -> None:
        from SynthDiffusionJobs.Mapping import mapSegments
        from SynthDiffusionScene.drawing import segmentDescriptions

        parameters = self._session.parameters
        descriptions = segmentDescriptions(parameters.segmentation)
        automatic = {row.id: row.target for row in mapSegments(descriptions, self._session.model.description, {})}
        classes = dict(parameters.classes)
        if automatic.get(segmentId) == target:
            classes.pop(segmentId, None)
        else:
            classes[segmentId] = target
        if classes != dict(parameters.classes):
            parameters.classes = classes

    def _onReset(self) -> None:
        self._session.parameters.classes = {}

    # Other

    def _onDrawToggled(self, collapsed: bool) -> None:
        self.refresh()  # opening may have made a blank volume

    def _onCaseName(self) -> None:
        parameters = self._session.parameters
        if parameters is not None and parameters.caseName != self.ui.caseEdit.text.strip():
            parameters.caseName = self.ui.caseEdit.text.strip()

    def _showMessage(self) -> None:
        self.ui.messageLabel.text = self._message
        self.ui.messageLabel.visible = bool(self._message)

    def _updateSoon(self) -> None:
        """Painting tells of every change of the brush; the table follows a few times a second."""
        if not self._update.isActive():
            self._update.start()

    def _onDrawn(self) -> None:
        parameters = self._session.parameters
        if parameters is not None and parameters.segmentation is not None:
            # A new segment may get the ID of one that was deleted, and must not inherit what was chosen for that.
            present = set(parameters.segmentation.GetSegmentation().GetSegmentIDs())
            classes = {key: target for key, target in dict(parameters.classes).items() if key in present}
            if classes != dict(parameters.classes):
                parameters.classes = classes
        self.refresh()
