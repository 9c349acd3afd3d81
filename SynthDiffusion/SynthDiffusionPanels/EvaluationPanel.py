"""Results of `synthdiffusion evaluate`: the answers, the main figures, and the report behind them."""

from __future__ import annotations

import qt
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.EvaluationResults import Evaluation, readEvaluation
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.sentences import failureText, plainText

_TYPING_MS = 400
_WIDEST = 1.5  # of a column but that of the figures, in usual column widths


class EvaluationPanel:
    """The part "Evaluation" of the results.

    Args:
        session: whose resources are used; the scene is not touched.
    """

    def __init__(self, session: Session) -> None:
        self.widget = slicer.util.loadUI(session.resourcePath("UI/EvaluationPanel.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self._evaluation = Evaluation()
        # A path that is being typed is read when it is done.
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_TYPING_MS)
        self._timer.connect("timeout()", self.read)
        ui.figuresTable.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.resultEdit.connect("currentPathChanged(QString)", self._onPath)
        ui.pageButton.connect("clicked()", self._onPage)
        self._show("")

    def open(self) -> None:
        """The part is opened: reads the path that was left there, perhaps in an earlier session."""
        if not self._evaluation.sentences:
            self.read()

    def exit(self) -> None:
        self._timer.stop()

    def close(self) -> None:
        self._timer.stop()
        self._timer.disconnect("timeout()", self.read)
        self._timer.deleteLater()

    def read(self) -> None:
        """Reads what the path names, anew."""
        from SynthDiffusionLib.errors import SynthDiffusionError

        path, problem = str(self.ui.resultEdit.currentPath).strip(), ""
        self._evaluation = Evaluation()
        if path:
            try:
                self._evaluation = readEvaluation(path)
                problem = "\n".join(self._evaluation.problems)
                self.ui.resultEdit.addCurrentPathToHistory()
            except SynthDiffusionError as error:
                problem = failureText(error.message, error.hint)
            except OSError as error:
                problem = _("It cannot be read ({reason}).").format(reason=error.strerror)
        self._show(problem)

    def _show(self, problem: str) -> None:
        ui, evaluation = self.ui, self._evaluation
        if evaluation.sentences and not evaluation.cells:
            problem = "\n".join(filter(None, [problem, _("It has no main figures; the report has all there are.")]))
        ui.answersLabel.text = "\n".join(f"• {sentence}" for sentence in evaluation.sentences)
        ui.answersLabel.setVisible(bool(evaluation.sentences))
        ui.messageLabel.text = problem
        ui.messageLabel.setVisible(bool(problem))
        ui.pageButton.setVisible(bool(evaluation.sentences))
        ui.pageButton.enabled = bool(evaluation.page)
        ui.pageButton.toolTip = (
            _("Opens the page with plots, tables and definitions in the web browser.")
            if evaluation.page
            else _("The page is not beside the file any more; synthdiffusion evaluate report makes a new one.")
        )
        table = ui.figuresTable
        table.setRowCount(0)
        table.setColumnCount(len(evaluation.titles))
        table.setHorizontalHeaderLabels(evaluation.titles)
        table.setRowCount(len(evaluation.cells))
        for row, cells in enumerate(evaluation.cells):
            for column, text in enumerate(cells):
                item = qt.QTableWidgetItem(text)
                item.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled)
                item.setToolTip(plainText(evaluation.tips[row] or text))
                table.setItem(row, column, item)
        table.resizeColumnsToContents()
        # Long names take several lines: the figures are to be seen without scrolling.
        most = int(_WIDEST * table.horizontalHeader().defaultSectionSize)
        for column in range(len(evaluation.titles)):
            if column != evaluation.valueColumn and table.columnWidth(column) > most:
                table.setColumnWidth(column, most)
        table.setVisible(bool(evaluation.cells))

    def _onPath(self, path: str) -> None:
        self._timer.start()

    def _onPage(self) -> None:
        if not qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._evaluation.page)):
            self._show(_("No program opens the page. It is {path}").format(path=self._evaluation.page))
