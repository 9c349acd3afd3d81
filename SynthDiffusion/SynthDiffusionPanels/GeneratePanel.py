"""Starts runs, shows how they get on, and ends them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs import RunQueue
from SynthDiffusionJobs.EngineProcess import OUTPUT_FILE
from SynthDiffusionJobs.Generation import Estimate
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.sentences import estimateText, failureText, stageText, stateText

_LARGEST_LOG = 200_000  # characters that are shown; the end of a log is what matters


class GeneratePanel:
    """Estimate, start, progress, previews, queue and log.

    Args:
        session: whose parameters are run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.widget = slicer.util.loadUI(session.resourcePath("UI/GeneratePanel.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self._preview = None
        self._estimate = Estimate(session.generation, self._onEstimate)
        self._answer: dict = {}
        self._failure = ""
        self._visible = False
        self._shownRuns: list[RunQueue.Run] = []
        ui.progressBar.hide()
        ui.logText.hide()
        ui.runsTable.horizontalHeader().setSectionResizeMode(1, qt.QHeaderView.Stretch)
        ui.generateButton.connect("clicked()", self._onGenerate)
        ui.cancelButton.connect("clicked()", self._onCancel)
        ui.cancelRunButton.connect("clicked()", self._onCancelRun)
        ui.retryButton.connect("clicked()", self._onRetry)
        ui.removeRunButton.connect("clicked()", self._onRemove)
        ui.logButton.connect("toggled(bool)", self._onLogToggled)
        ui.runsTable.connect("itemSelectionChanged()", self._onSelectionChanged)
        session.queue.changed.connect(self._onRunChanged)
        session.queue.progressed.connect(self._onProgressed)
        session.queue.previewed.connect(self._onPreviewed)
        session.parametersChanged.connect(self._askForEstimate)
        session.drawingChanged.connect(self._askForEstimate)
        session.engine.changed.connect(self._askForEstimate)

    def enter(self) -> None:
        self._visible = True
        self._askForEstimate()

    def exit(self) -> None:
        self._visible = False
        self._estimate.drop()

    def close(self) -> None:
        self._estimate.close()
        self._removePreview()

    def refresh(self) -> None:
        session, ui = self._session, self.ui
        problem = session.generation.problem(session.parameters) if session.parameters is not None else ""
        ui.generateButton.enabled = session.parameters is not None and not problem
        ui.estimateLabel.text = problem or self._estimateLine()
        known = self._answer.get("mapping_notes", ())  # what the mapping table says already
        notes = [] if problem else [note for note in self._answer.get("notes", ()) if note not in known]
        ui.notesLabel.text = "\n".join(notes)
        ui.notesLabel.setVisible(bool(notes))
        self._refreshProgress()
        self._refreshRuns()

    # The estimate

    def _askForEstimate(self) -> None:
        self._answer = {}
        if self._visible and self._session.parameters is not None:
            self._estimate.askSoon(self._session.parameters)
        self.ui.estimateLabel.text = self._estimateLine()

    def _onEstimate(self, answer: dict) -> None:
        self._answer = answer
        self.refresh()

    def _estimateLine(self) -> str:
        if not self._answer:
            return _("Working out what this takes...")
        if self._answer["event"] == "error":
            return failureText(self._answer["message"], self._answer["hint"])
        return estimateText(self._answer)

    # Runs

    def _onGenerate(self) -> None:
        from SynthDiffusionLib.errors import SynthDiffusionError
        from SynthDiffusionScene.errors import SceneError

        self._failure = ""
        try:
            run = self._session.generation.start(self._session.parameters)
        except (SceneError, SynthDiffusionError) as error:
            self._failure = failureText(error.message, error.hint)
        except OSError as error:
            cause = _("The files of the run could not be written ({reason})").format(reason=error.strerror or error)
            self._failure = failureText(cause, _("Free some space on the disk."))
        else:
            self._select(run)
        self.refresh()

    def _onCancel(self) -> None:
        if self._session.queue.current is not None:
            self._session.queue.cancel(self._session.queue.current)
            self.ui.stageLabel.text = _("Canceling...")

    def _onCancelRun(self) -> None:
        run = self._selectedRun()
        if run is not None:
            self._session.queue.cancel(run)

    def _onRetry(self) -> None:
        run = self._selectedRun()
        if run is not None:
            self._session.queue.retry(run)
            self._select(run)

    def _onRemove(self) -> None:
        run = self._selectedRun()
        if run is not None:
            self._session.queue.remove(run)

    def _onRunChanged(self, run: RunQueue.Run | None) -> None:
        if run is not None and run.ended:
            self._removePreview()
        self.refresh()
        if run is not None and run.state == RunQueue.FAILED:
            self._select(run)

    def _onProgressed(self, run: RunQueue.Run) -> None:
        self._refreshProgress()
        if self.ui.logButton.checked:
            self._refreshLog()

    def _onPreviewed(self, run: RunQueue.Run, path: str) -> None:
        from SynthDiffusionScene.errors import SceneError
        from SynthDiffusionScene.preview import Preview, fitThrough

        if self._preview is None:
            segmentation, realVolume = self._session.generation.sourcesOf(run)
            fitView = fitThrough(slicer.app.applicationLogic())
            self._preview = Preview(self._session.scene, segmentation, realVolume, fitView)
        try:
            self._preview.show(path)
        except SceneError as error:
            # A preview is a courtesy: the run goes on, and its log says what was wrong.
            run.warnings.append(error.message)

    def previewSuspended(self) -> AbstractContextManager:
        """Context in which the slice views are as they are without the preview, so that the scene can be saved."""
        return self._preview.suspended() if self._preview is not None else nullcontext()

    def _removePreview(self) -> None:
        if self._preview is not None:
            self._preview.remove()
            self._preview = None

    def _refreshProgress(self) -> None:
        ui, run = self.ui, self._session.queue.current
        ui.cancelButton.enabled = run is not None
        ui.progressBar.setVisible(run is not None)
        ui.stageLabel.setVisible(run is not None)
        if run is None:
            return
        known = run.stage == "denoise" and run.total > 0
        ui.progressBar.setRange(0, run.total if known else 0)  # 0 to 0 is shown as busy
        ui.progressBar.setValue(run.step if known else 0)
        ui.stageLabel.text = stageText(run)

    # The list of runs

    def _refreshRuns(self) -> None:
        table, runs = self.ui.runsTable, self._session.queue.runs
        selected = self._selectedRun()
        table.setVisible(bool(runs))
        if runs != self._shownRuns:
            table.blockSignals(True)
            table.setRowCount(len(runs))
            for row in range(len(runs)):
                for column in range(table.columnCount):
                    table.setItem(row, column, qt.QTableWidgetItem())
            table.blockSignals(False)
            self._shownRuns = list(runs)
            if selected in runs:
                self._select(selected)
        for row, run in enumerate(runs):
            texts = (str(run.number), run.title, stateText(run))
            for column, text in enumerate(texts):
                item = table.item(row, column)
                item.setText(text)
                item.setToolTip(failureText(run.message, run.hint) if run.message else text)
        self._refreshSelection()

    def _refreshSelection(self) -> None:
        ui, run = self.ui, self._selectedRun()
        visible = bool(self._session.queue.runs)
        for button in (ui.cancelRunButton, ui.retryButton, ui.logButton, ui.removeRunButton):
            button.setVisible(visible)
        ui.cancelRunButton.enabled = run is not None and not run.ended
        ui.retryButton.enabled = run is not None and run.state in (RunQueue.FAILED, RunQueue.CANCELLED)
        ui.removeRunButton.enabled = run is not None and run.ended
        ui.logButton.enabled = run is not None
        failure = self._failure
        if not failure and run is not None and run.state == RunQueue.FAILED:
            failure = failureText(run.message, run.hint)
        elif not failure and run is not None:
            failure = "\n".join(run.warnings)
        ui.errorLabel.text = failure
        ui.errorLabel.setVisible(bool(failure))
        self._refreshLog()

    def _onSelectionChanged(self) -> None:
        self._failure = ""
        self._refreshSelection()

    def _selectedRun(self) -> RunQueue.Run | None:
        row = self.ui.runsTable.currentRow()
        return self._shownRuns[row] if 0 <= row < len(self._shownRuns) else None

    def _select(self, run: RunQueue.Run) -> None:
        if run in self._shownRuns:
            self.ui.runsTable.selectRow(self._shownRuns.index(run))

    # The log

    def _onLogToggled(self, shown: bool) -> None:
        self.ui.logButton.text = _("Hide log") if shown else _("Show log")
        self._refreshLog()

    def _refreshLog(self) -> None:
        ui, run = self.ui, self._selectedRun()
        shown = ui.logButton.checked and run is not None
        ui.logText.setVisible(shown)
        if shown:
            ui.logText.setPlainText(logOf(run))


def logOf(run: RunQueue.Run) -> str:
    """All that a run has reported, events first, its end if it is long."""
    parts = [str(run.folder)]
    for path in (run.folder / OUTPUT_FILE, run.logPath):
        if path.is_file():
            parts.append(path.read_text(encoding="utf-8", errors="replace").strip())
    return "\n\n".join(filter(None, parts))[-_LARGEST_LOG:]
