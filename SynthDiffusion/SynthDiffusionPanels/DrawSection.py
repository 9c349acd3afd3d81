"""Slicer's segment editor inside the panel, with the classes of a model as ready-made segments."""

from __future__ import annotations

from functools import partial

import qt
import slicer
from slicer.i18n import tr as _

from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.MappingTable import colorIcon

EDITOR_TAG = "SynthDiffusion.SegmentEditor"
_UNDO_STATES = 10
_COLUMNS = 2


class DrawSection:
    """The section "Draw". The editor is made when the section is opened first.

    Args:
        session: whose segmentation is drawn into.
        ui: of the segmentation panel; has the ctkCollapsibleButton `drawSection`, the layouts `classesLayout` and
            `editorLayout` in it, and the labels `drawLabel` and `drawProblemLabel`.
    """

    def __init__(self, session: Session, ui) -> None:
        self._session, self._ui, self._section = session, ui, ui.drawSection
        self._editor = None
        self._buttons: list = []
        self._shownClasses: tuple = ()
        self._visible = self._shortcuts = False
        ui.drawProblemLabel.hide()
        self._section.connect("contentsCollapsed(bool)", self._onCollapsed)
        session.parametersChanged.connect(self._follow)

    def enter(self) -> None:
        self._visible = True
        self._follow()

    def exit(self) -> None:
        """Another module is shown: the mouse and the keys are its own."""
        self._visible = False
        self._rest()

    def close(self) -> None:
        """Takes the editor off the views and its node out of the scene."""
        self._section.disconnect("contentsCollapsed(bool)", self._onCollapsed)
        self._session.parametersChanged.disconnect(self._follow)
        self._rest()
        if self._editor is not None:
            self._editor.setSegmentationNode(None)
            self._editor.setMRMLSegmentEditorNode(None)
            self._editor = None
        node = self._session.scene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        if node is not None:
            self._session.scene.RemoveNode(node)

    def open(self) -> None:
        """Opens the section, as when a new drawing begins."""
        self._section.collapsed = False

    def refresh(self) -> None:
        """Shows the classes of the model."""
        classes = self._classes()
        enabled = self._session.parameters is not None and self._session.parameters.segmentation is not None
        if classes != self._shownClasses:
            self._shownClasses = classes
            self._makeButtons(classes)
        self._ui.drawLabel.visible = bool(classes)  # it is about the buttons
        for button in self._buttons:
            button.enabled = enabled

    def fitViews(self) -> None:
        """Brings the volume that is drawn on into the user's slice views, whole."""
        from SynthDiffusionScene.preview import fitThrough
        from SynthDiffusionScene.segmentationViews import showVolume

        volume = self._editor.sourceVolumeNode() if self._editor is not None else None
        if volume is not None:
            showVolume(self._session.scene, volume, fitThrough(slicer.app.applicationLogic()))

    def putDown(self) -> None:
        """No tool is active, and no mouse event of a view goes to the editor."""
        if self._editor is not None:
            self._editor.setActiveEffect(None)
            self._editor.removeViewObservations()

    # Classes

    def _classes(self) -> tuple:
        """The `LabelClass`es of the chosen model, or of the first that can be used."""
        from SynthDiffusionLib.labels import LabelScheme

        usable = [model for model in (self._session.model, *self._session.engine.models) if model and model.usable]
        return LabelScheme.from_json(usable[0].description["label_scheme"]).classes if usable else ()

    def _makeButtons(self, classes: tuple) -> None:
        for button in self._buttons:
            self._ui.classesLayout.removeWidget(button)
            button.hide()
            button.deleteLater()
        self._buttons = []
        row = column = 0
        for labelClass in classes:
            button = qt.QPushButton(self._section)
            remove = labelClass.role == "remove"
            button.text = _("Add region to remove") if remove else _("Add {name}").format(name=labelClass.name)
            button.toolTip = self._buttonToolTip(labelClass)
            button.setIcon(colorIcon(labelClass.color))
            # Never wider than the panel; the tool tip has the whole name.
            button.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
            button.connect("clicked()", partial(self._onAdd, labelClass))
            if remove and column:
                row, column = row + 1, 0
            self._ui.classesLayout.addWidget(button, row, column, 1, _COLUMNS if remove else 1)
            column += _COLUMNS if remove else 1
            if column >= _COLUMNS:
                row, column = row + 1, 0
            self._buttons.append(button)

    @staticmethod
    def _buttonToolTip(labelClass) -> str:
        if labelClass.role == "remove":
            return _("Adds a segment for a region that is to be filled with healthy anatomy in a real volume.")
        return _("Adds a segment that the model takes as {name}, with its color and terminology.").format(
            name=labelClass.name
        )

    def _onAdd(self, labelClass) -> None:
        from SynthDiffusionScene.drawing import addClassSegment

        segmentId = addClassSegment(self._session.parameters.segmentation, labelClass)
        if self._editor is not None:
            self._editor.setCurrentSegmentID(segmentId)
            if self._editor.activeEffect() is None:
                self._editor.setActiveEffectByName("Paint")

    # Editor

    def _onCollapsed(self, collapsed: bool) -> None:
        if collapsed:
            self._rest()
            return
        if self._editor is None:
            self._makeEditor()
        self._follow()

    def _makeEditor(self) -> None:
        editor = slicer.qMRMLSegmentEditorWidget()
        editor.segmentationNodeSelectorVisible = False
        editor.sourceVolumeNodeSelectorVisible = False
        editor.switchToSegmentationsButtonVisible = False
        # It would show the volume in the views of a comparison, too; see `_showNodes`.
        editor.autoShowSourceVolumeNode = False
        editor.undoEnabled = True
        editor.maximumNumberOfUndoStates = _UNDO_STATES
        # The node comes before the scene, see qMRMLSegmentEditorWidget.h.
        editor.setMRMLSegmentEditorNode(self._editorNode())
        editor.setMRMLScene(self._session.scene)
        self._ui.editorLayout.addWidget(editor)
        self._editor = editor

    def _editorNode(self):
        """The settings of this editor, apart from those of the module Segment Editor."""
        scene = self._session.scene
        node = scene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        if node is None:
            node = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)  # CreateNodeByClass hands over a reference
            node.SetSingletonTag(EDITOR_TAG)
            # A nodule that is drawn inside the lung shall not cut a hole into the segment of the lung.
            node.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
            node = scene.AddNode(node)
        return node

    def _follow(self) -> None:
        """Puts the segmentation and the volume to draw on into the editor, as far as somebody sees it."""
        if self._editor is None:
            return
        parameters = self._session.parameters
        if parameters is None:
            self._rest()
            self._editor.setSegmentationNode(None)
            return
        if self._section.collapsed or not self._visible:
            return
        self._showNodes(parameters)
        if not self._shortcuts:
            self._editor.installKeyboardShortcuts()
            self._shortcuts = True

    def _showNodes(self, parameters) -> None:
        from SynthDiffusionScene.labelMaps import volumeToDrawOn
        from SynthDiffusionScene.segmentationViews import showVolume

        editor, segmentation = self._editor, parameters.segmentation
        editor.setMRMLSegmentEditorNode(self._editorNode())  # closing the scene may have removed the old one
        if editor.segmentationNode() is not segmentation:
            editor.setSegmentationNode(segmentation)
        volume = parameters.realVolume
        if segmentation is not None and volume is None:
            volume = volumeToDrawOn(self._session.scene, segmentation)
        self._ui.drawProblemLabel.visible = segmentation is not None and volume is None
        if segmentation is not None and volume is not editor.sourceVolumeNode():
            editor.setSourceVolumeNode(volume)
            if volume is not None:
                showVolume(self._session.scene, volume)

    def _rest(self) -> None:
        """No tool is active, and no key or mouse event goes to the editor."""
        if self._editor is None:
            return
        self.putDown()
        self._editor.uninstallKeyboardShortcuts()
        self._shortcuts = False
