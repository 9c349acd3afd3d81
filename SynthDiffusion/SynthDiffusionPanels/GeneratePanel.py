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
from SynthDiffusionJobs.JobFolders import unwritableText
from SynthDiffusionJobs.Parameters import NEAREST
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.sentences import estimateText, failureText, panelWords, plainText, stageText, stateText

_LARGEST_LOG = 200_000  # characters that are shown; the end of a log is what matters
_MOST_ROWS = 8  # beyond that the table of runs scrolls
_UNLIMITED = 16777215  # QWIDGETSIZE_MAX
_ICON_PIXELS = 16
NEAREST_OPTION = "--size nearest"  # in the engine's hint
# What the answer of the preflight rules out. An "internal" error may be gone the next time.
_HOPELESS = ("out_of_memory", "bad_input", "model")


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
        self._cells: list[tuple[str, ...]] = []
        self._canceling: RunQueue.Run | None = None
        self._log: RunLog | None = None
        ui.progressBar.hide()
        ui.logText.hide()
        header = ui.runsTable.horizontalHeader()
        for column, mode in enumerate((qt.QHeaderView.ResizeToContents, qt.QHeaderView.Stretch)):
            header.setSectionResizeMode(column, mode)
        header.setSectionResizeMode(2, qt.QHeaderView.ResizeToContents)
        ui.runsTable.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.checkButton.connect("clicked()", self._onCheck)
        ui.nearestButton.connect("clicked()", self._onNearest)
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
        session = self._session
        session.queue.changed.disconnect(self._onRunChanged)
        session.queue.progressed.disconnect(self._onProgressed)
        session.queue.previewed.disconnect(self._onPreviewed)
        for signal in (session.parametersChanged, session.drawingChanged, session.engine.changed):
            signal.disconnect(self._askForEstimate)
        self._estimate.close()
        self._removePreview()

    def refresh(self) -> None:
        session, ui = self._session, self.ui
        problem = session.generation.problem(session.parameters) if session.parameters is not None else ""
        kind = self._answer.get("kind") if self._answer.get("event") == "error" else None
        # While there is no answer yet it may be tried: the run refuses by itself what cannot be done.
        ui.generateButton.enabled = session.parameters is not None and not problem and kind not in _HOPELESS
        ui.estimateLabel.text = problem or self._estimateLine()
        ui.checkButton.setVisible(not problem and kind == "out_of_memory")
        ui.checkButton.enabled = session.queue.current is None
        ui.nearestButton.setVisible(not problem and kind == "bad_input" and self._offersNearest())
        known = self._answer.get("mapping_notes", ())  # what the mapping table says already
        notes = [] if problem else [note for note in self._answer.get("notes", ()) if note not in known]
        ui.notesLabel.text = panelWords("\n".join(notes))
        ui.notesLabel.setVisible(bool(notes))
        self._refreshProgress()
        self._refreshRuns()

    # The estimate

    def _askForEstimate(self) -> None:
        self._answer = {}
        if self._visible and self._session.parameters is not None:
            self._estimate.askSoon(self._session.parameters)
        else:
            self._estimate.drop()
        self.ui.estimateLabel.text = self._estimateLine()

    def _onEstimate(self, answer: dict) -> None:
        self._answer = answer
        self.refresh()

    def _estimateLine(self) -> str:
        if self._session.parameters is None:
            return ""
        if not self._answer:
            return _("Working out what this takes...")
        if self._answer["event"] == "error":
            return failureText(self._answer["message"], self._answer["hint"])
        return estimateText(self._answer)

    def _offersNearest(self) -> bool:
        """Whether the refusal has the mend that the drawing is brought to the next size that the model makes."""
        parameters = self._session.parameters
        return parameters.mode == "whole" and parameters.size != NEAREST and NEAREST_OPTION in self._answer["hint"]

    def _onCheck(self) -> None:
        self._session.engine.refresh(quietly=True)

    def _onNearest(self) -> None:
        self._session.parameters.size = NEAREST

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
            self._failure = unwritableText(error)
        else:
            self._select(run)
        self.refresh()

    def _onCancel(self) -> None:
        self._cancel(self._session.queue.current)

    def _onCancelRun(self) -> None:
        self._cancel(self._selectedRun())

    def _cancel(self, run: RunQueue.Run | None) -> None:
        if run is None:
            return
        if run is self._session.queue.current:
            self._canceling = run
        self._session.queue.cancel(run)
        self._refreshProgress()

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
        if run is self._canceling:
            self._canceling = None
        self.refresh()
        if run is not None and run.state == RunQueue.FAILED:
            self._select(run)

    def _onProgressed(self, run: RunQueue.Run) -> None:
        self._refreshProgress()
        if run is self._selectedRun():
            self._refreshMessage()
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
        ui, queue = self.ui, self._session.queue
        run = queue.current
        ui.cancelButton.enabled = run is not None and run is not self._canceling
        ui.progressBar.setVisible(run is not None)
        ui.stageLabel.setVisible(run is not None)
        if run is None:
            return
        known = run.stage == "denoise" and run.total > 0
        ui.progressBar.setRange(0, run.total if known else 0)  # 0 to 0 is shown as busy
        ui.progressBar.setValue(run.step if known else 0)
        text = _("Canceling...") if run is self._canceling else stageText(run)
        waiting = sum(other.state == RunQueue.WAITING for other in queue.runs)
        if waiting:
            text = _("Run {number}: {text} Waiting: {n}.").format(number=run.number, text=text, n=waiting)
        ui.stageLabel.text = text

    # The list of runs

    def _refreshRuns(self) -> None:
        table, runs = self.ui.runsTable, self._session.queue.runs
        if runs != self._shownRuns:
            selected, row = self._selectedRun(), table.currentRow()
            table.blockSignals(True)
            table.setRowCount(len(runs))
            table.blockSignals(False)
            self._shownRuns = list(runs)
            if selected not in runs and runs:  # it was removed: the one that is in its place, or the newest
                selected = runs[min(row, len(runs) - 1)]
            self._select(selected)
            self._limitHeight()
        table.setVisible(bool(runs))
        del self._cells[len(runs) :]
        for row, run in enumerate(runs):
            tip = plainText(failureText(run.message, run.hint))
            cells = (str(run.number), run.title, stateText(run), tip)
            if row < len(self._cells) and self._cells[row] == cells:
                continue
            self._cells[row : row + 1] = [cells]
            for column, text in enumerate(cells[:3]):
                item = table.item(row, column)
                if item is None:
                    item = qt.QTableWidgetItem()
                    table.setItem(row, column, item)
                item.setText(text)
                item.setToolTip(tip or plainText(text))
        self._refreshSelection()

    def _limitHeight(self) -> None:
        table = self.ui.runsTable
        height = _UNLIMITED
        if len(self._shownRuns) > _MOST_ROWS:
            rows = sum(table.rowHeight(row) for row in range(_MOST_ROWS))
            height = rows + table.horizontalHeader().sizeHint.height() + 2 * table.frameWidth
        table.setMaximumHeight(height)

    def _refreshSelection(self) -> None:
        ui, run = self.ui, self._selectedRun()
        visible = bool(self._session.queue.runs)
        for button in (ui.cancelRunButton, ui.logButton, ui.removeRunButton):
            button.setVisible(visible)
        ui.cancelRunButton.enabled = run is not None and not run.ended
        ui.removeRunButton.enabled = run is not None and run.ended
        ui.logButton.enabled = run is not None
        self._refreshMessage()
        self._refreshLog()

    def _refreshMessage(self) -> None:
        """What is to be said of the chosen run, with "Run again" right below where that makes sense."""
        ui, run = self.ui, self._selectedRun()
        text, icon, again = self._failure, qt.QStyle.SP_MessageBoxWarning, False
        if not text and run is not None:
            if run.state == RunQueue.FAILED:
                failure = failureText(run.message, run.hint)
                text, again = _("Run {number} failed: {failure}").format(number=run.number, failure=failure), True
            elif run.state == RunQueue.CANCELLED:
                text, icon, again = _("Run {number} was canceled.").format(number=run.number), None, True
            elif run.warnings:
                text, icon = panelWords("\n".join(run.warnings)), qt.QStyle.SP_MessageBoxInformation
        if ui.errorLabel.text != text:  # what is selected in it stays selected
            ui.errorLabel.text = text
        if text and icon is not None:
            ui.iconLabel.setPixmap(self.widget.style().standardIcon(icon).pixmap(_ICON_PIXELS, _ICON_PIXELS))
        ui.iconLabel.setVisible(icon is not None)
        ui.messageWidget.setVisible(bool(text))
        ui.retryButton.setVisible(again)
        ui.retryButton.enabled = again

    def _onSelectionChanged(self) -> None:
        self._failure = ""
        self._refreshSelection()

    def _selectedRun(self) -> RunQueue.Run | None:
        row = self.ui.runsTable.currentRow()
        return self._shownRuns[row] if 0 <= row < len(self._shownRuns) else None

    def _select(self, run: RunQueue.Run | None) -> None:
        if run in self._shownRuns:
            self.ui.runsTable.selectRow(self._shownRuns.index(run))

    # The log

    def _onLogToggled(self, shown: bool) -> None:
        self.ui.logButton.text = _("Hide log") if shown else _("Show log")
        self._refreshLog()

    def _refreshLog(self) -> None:
        """Shows the log, or what has been added to it: whoever reads it is not thrown back to its beginning."""
        ui, run = self.ui, self._selectedRun()
        shown = ui.logButton.checked and run is not None
        ui.logText.setVisible(shown)
        if not shown:
            self._log = None
            return
        if self._log is None or not self._log.continues(run):
            self._log = RunLog(run)
            ui.logText.setPlainText(self._log.more())
            ui.logText.verticalScrollBar().setValue(ui.logText.verticalScrollBar().maximum)
            return
        added = self._log.more()
        if added:
            bar = ui.logText.verticalScrollBar()
            atEnd = bar.value == bar.maximum
            ui.logText.appendPlainText(added)
            if atEnd:
                bar.setValue(bar.maximum)


class RunLog:
    """Reads the log of a run bit by bit: events and what libraries say, as they come.

    Args:
        run: whose files are read.
    """

    def __init__(self, run: RunQueue.Run) -> None:
        self._run = run
        self._positions = dict.fromkeys((run.folder / OUTPUT_FILE, run.logPath), 0)
        self._began = False

    def continues(self, run: RunQueue.Run) -> bool:
        """Whether what was read is the beginning of a run's log, which begins anew when the run is started again."""
        sizes = [(path.stat().st_size if path.is_file() else 0) for path in self._positions]
        return run is self._run and all(size >= read for size, read in zip(sizes, self._positions.values()))

    def more(self) -> str:
        """Whole lines that have not been read yet. The first time also the folder, and of a long log only the end."""
        parts = []
        for path, position in self._positions.items():
            if not path.is_file():
                continue
            with open(path, "rb") as file:
                file.seek(position)
                data = file.read()
            if not self._run.ended:
                data = data[: data.rfind(b"\n") + 1]
            self._positions[path] += len(data)
            parts.append(data.decode("utf-8", errors="replace").strip())
        text = "\n".join(filter(None, parts))
        if not self._began:
            self._began = True
            text = "\n\n".join(filter(None, [str(self._run.folder), text[-_LARGEST_LOG:]]))
        return text
