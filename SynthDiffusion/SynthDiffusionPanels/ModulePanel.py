"""The whole panel of the module: its sections, and what ties them to the scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import slicer
import slicer.util
import vtk
from slicer.util import VTKObservationMixin

from SynthDiffusionJobs import RunQueue
from SynthDiffusionJobs.Parameters import makeValid
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.ComparePanel import ComparePanel
from SynthDiffusionPanels.ExportPanel import ExportPanel
from SynthDiffusionPanels.GeneratePanel import GeneratePanel
from SynthDiffusionPanels.ModelPanel import ModelPanel
from SynthDiffusionPanels.ResultsPanel import ResultsPanel
from SynthDiffusionPanels.SegmentationPanel import SegmentationPanel
from SynthDiffusionPanels.SetupPanel import SetupPanel
from SynthDiffusionPanels.StudyPanel import StudyPanel

# Of a segmentation: all that changes what is drawn, or what a segment means.
_DRAWING_EVENTS = ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SourceRepresentationModified")


class ModulePanel(VTKObservationMixin):
    """Sections from set-up to export.

    Args:
        session: what the panels show.
        parametersOf: gives the parameters of the scene as it now is.

    Attributes:
        widget: the qt.QWidget to put into the module's layout.
        panels: the sections' panels, from top to bottom.
    """

    def __init__(self, session: Session, parametersOf: Callable[[], object]) -> None:
        VTKObservationMixin.__init__(self)
        self.session, self._parametersOf = session, parametersOf
        self.widget = slicer.util.loadUI(session.resourcePath("UI/SynthDiffusion.ui"))
        self.widget.setMRMLScene(session.scene)
        ui = slicer.util.childWidgetVariables(self.widget)
        self.setupPanel = SetupPanel(session)
        self.segmentationPanel = SegmentationPanel(session)
        self.modelPanel = ModelPanel(session)
        self.generatePanel = GeneratePanel(session)
        self.resultsPanel = ResultsPanel(session)
        self.comparePanel = ComparePanel(session)
        self.exportPanel = ExportPanel(session, self.savable)
        self.studyPanel = StudyPanel(session)
        self.sections = {
            ui.setupSection: self.setupPanel,
            ui.segmentationSection: self.segmentationPanel,
            ui.modelSection: self.modelPanel,
            ui.generateSection: self.generatePanel,
            ui.resultsSection: self.resultsPanel,
            ui.compareSection: self.comparePanel,
            ui.exportSection: self.exportPanel,
            ui.studySection: self.studyPanel,
        }
        self.panels = list(self.sections.values())
        for section, panel in self.sections.items():
            section.layout().addWidget(panel.widget)
        self._setupSection, self._studySection, self._noticeLabel = ui.setupSection, ui.studySection, ui.noticeLabel
        ui.modelSection.connect("contentsCollapsed(bool)", self._onModelCollapsed)
        self.modelPanel.tumour.setInSight(not ui.modelSection.collapsed)
        self._resultsSection, self._compareSection = ui.resultsSection, ui.compareSection
        self._observedSegmentation = None
        self._wasReady = False
        self._visible = False
        self.addObserver(session.scene, slicer.vtkMRMLScene.StartCloseEvent, self._onSceneStartClose)
        self.addObserver(session.scene, slicer.vtkMRMLScene.EndCloseEvent, self._onSceneEndClose)
        self.addObserver(session.scene, slicer.vtkMRMLScene.EndImportEvent, self._onSceneImported)
        session.engine.changed.connect(self._onEngineChanged)
        session.queue.changed.connect(self._onRunChanged)
        self.resultsPanel.showRequested.connect(self._onShowRequested)
        self.resultsPanel.compareRequested.connect(self._onCompareRequested)
        # A tool that stayed active would draw, and have Slicer's editor change layers, in the comparison's views.
        self.comparePanel.startRequested.connect(self.segmentationPanel.draw.putDown)
        self.studyPanel.startRequested.connect(self.segmentationPanel.draw.putDown)
        self.studyPanel.startRequested.connect(self.comparePanel.stop)
        self.studyPanel.readingChanged.connect(self._onReadingChanged)

    def enter(self) -> None:
        """The module is shown. The first time, the engine is asked about itself."""
        self._visible = True
        if self.session.parameters is None:
            self._takeParameters()
        for panel in self.panels:
            panel.enter()
        if self.session.engine.status.state == "unknown":
            self.session.begin()

    def exit(self) -> None:
        """Another module is shown. Runs go on."""
        self._visible = False
        for panel in self.panels:
            panel.exit()

    def close(self) -> None:
        """Ends all processes and lets go of the scene."""
        self.removeObservers()
        for panel in self.panels:
            panel.close()
        self.session.shutdown()
        # Slicer's "Reload" only hides it; its selectors would go on following the scene.
        self.widget.deleteLater()

    def refresh(self) -> None:
        """Shows what the session now is, in all sections."""
        for panel in self.panels:
            panel.refresh()

    @contextmanager
    def savable(self) -> Iterator[None]:
        """Context in which the scene can be saved as the user knows it, without the preview and the comparison."""
        with self.comparePanel.paused(), self.generatePanel.previewSuspended():
            yield

    def _takeParameters(self) -> None:
        self._forgetParameters()
        parameters = self._parametersOf()
        self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
        if parameters.segmentation is None:
            # What is loaded already is most likely what the user wants to work on.
            parameters.segmentation = self.session.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        self.session.setParameters(parameters)
        self._observeSegmentation()
        self.refresh()

    def _forgetParameters(self) -> None:
        if self.session.parameters is not None:
            node = self.session.parameters.parameterNode
            self.removeObserver(node, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)

    def _onSceneStartClose(self, caller=None, event=None) -> None:
        self._forgetParameters()
        self.session.setParameters(None)  # ends the runs: what they belong to is going away
        self._observeSegmentation()
        self.refresh()

    def _onSceneEndClose(self, caller=None, event=None) -> None:
        if self._visible:
            self._takeParameters()

    def _onSceneImported(self, caller=None, event=None) -> None:
        """A scene was opened, or added to what is there, with settings of its own as it may be. Runs go on."""
        from SynthDiffusionScene.comparisonLayout import recoverLayout

        # A scene that was saved from Slicer's menu during a comparison asks for views that are not there.
        recoverLayout(slicer.app.layoutManager().layoutLogic().GetLayoutNode())
        if self._visible or self.session.parameters is not None:
            self._takeParameters()

    def _onParametersModified(self, caller=None, event=None) -> None:
        if self.session.scene.IsImporting():
            return  # they are taken, and put right, at its end
        try:
            makeValid(self.session.parameters)
        except (ValueError, TypeError):  # not even of the right type: written by hand
            self._takeParameters()
            return
        self._observeSegmentation()
        self.session.parametersChanged.emit()
        self.refresh()

    def _observeSegmentation(self) -> None:
        """Follows the segments of the chosen segmentation."""
        parameters = self.session.parameters
        node = parameters.segmentation if parameters is not None else None
        if node is self._observedSegmentation:
            return
        for observed, change in ((self._observedSegmentation, self.removeObserver), (node, self.addObserver)):
            if observed is not None:
                for name in _DRAWING_EVENTS:
                    change(observed.GetSegmentation(), getattr(slicer.vtkSegmentation, name), self._onDrawingChanged)
        self._observedSegmentation = node

    def _onDrawingChanged(self, caller=None, event=None) -> None:
        self.session.drawingChanged.emit()

    def _onEngineChanged(self) -> None:
        ready = self.session.engine.status.ready
        if ready != self._wasReady:
            # Out of the way when all is there, in sight when something is missing or was changed that should not.
            self._setupSection.collapsed = ready and not self.setupPanel.installation.alert
            self._wasReady = ready
        self.refresh()

    def _onRunChanged(self, run) -> None:
        queue = self.session.queue
        if run is not None and run.ended and not any(other.state == RunQueue.WAITING for other in queue.runs):
            self.session.engine.refresh(quietly=True)  # the free memory is another one now
        self.refresh()
        if run is not None and run.state == RunQueue.DONE:
            self._showResultOf(run)

    def _showResultOf(self, run: RunQueue.Run) -> None:
        """Brings what a run has made to the user's eyes, unless the user is occupied with something else."""
        from SynthDiffusionScene.preview import fitThrough
        from SynthDiffusionScene.resultViews import showResult

        newest = self.session.scene.GetNodeByID(run.context["nodes"][-1])
        self._resultsSection.collapsed = False
        self.resultsPanel.showNewest(newest)
        if self._visible and not self.comparePanel.isActive:
            showResult(self.session.scene, newest, fitThrough(slicer.app.applicationLogic()))
            self.comparePanel.choose(newest)

    def _onModelCollapsed(self, collapsed: bool) -> None:
        self.modelPanel.tumour.setInSight(not collapsed)

    def _onReadingChanged(self) -> None:
        """A reading takes the place of all else: other sections name the volumes of the scene."""
        reading = self.studyPanel.isReading
        for section in self.sections:
            section.setVisible(not reading or section is self._studySection)
        self._noticeLabel.setVisible(not reading)

    def _onShowRequested(self, node) -> None:
        self.comparePanel.stop()  # its views are not the user's

    def _onCompareRequested(self, node) -> None:
        self._compareSection.collapsed = False
        self.comparePanel.compare(node)
