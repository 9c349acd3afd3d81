"""Makes a reader study from folders of volumes, in a child process."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Session import Session
from SynthDiffusionJobs.Signal import Signal
from SynthDiffusionJobs.StudyCommand import StudyCommand, StudyOutcome, StudyRequest
from SynthDiffusionPanels.sentences import durationText, failureText, plainText

_FIRST_FORM = "turing"


class NewStudy:
    """The form of the coordinator.

    Args:
        session: whose engine makes the study.

    Attributes:
        made: Signal(folder), a study was made; the folder to give to readers.
    """

    def __init__(self, session: Session) -> None:
        self.made = Signal()
        self.widget = slicer.util.loadUI(session.resourcePath("UI/NewStudy.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self._engine = session.engine
        self._command = StudyCommand(session.engine)
        self._report = self._folder = ""
        self._forms: list[str] = []
        self._fillForms()
        self._say("")
        ui.progressBar.setRange(0, 0)
        self._paths = (ui.realEdit, ui.syntheticEdit, ui.outEdit)
        for edit in (*self._paths, ui.designEdit, ui.questionsEdit):
            edit.connect("currentPathChanged(QString)", self._onEdited)
        ui.readersEdit.connect("textChanged(QString)", self._onEdited)
        ui.makeButton.connect("clicked()", self._onMake)
        ui.cancelButton.connect("clicked()", self._command.cancel)
        ui.reportButton.connect("clicked()", self._onReport)
        ui.folderButton.connect("clicked()", self._onFolder)
        self._command.changed.connect(self._onProgress)
        self.refresh()

    @property
    def busy(self) -> bool:
        """Whether a study is being made."""
        return self._command.busy

    def close(self) -> None:
        self.made.disconnectAll()
        self._command.close()

    def refresh(self) -> None:
        ui, busy = self.ui, self.busy
        designed, out = bool(_path(ui.designEdit)), bool(_path(ui.outEdit))
        given = designed or (all(map(_path, self._paths)) and bool(self._readers))
        ready = self._engine.status.ready
        ui.makeButton.enabled = ready and given and out and not busy
        tip = _(
            "Rewrites all volumes under names that tell nothing, checks whether their files give away which are"
            " synthetic, and draws the order of each reader."
        )
        ui.makeButton.toolTip = tip if ready else _("Complete the set-up first.")
        ui.progressBar.setVisible(busy)
        ui.cancelButton.setVisible(busy)
        said = (ui.realEdit, ui.syntheticEdit, ui.readersEdit, ui.seedBox, ui.secondEdit, ui.thirdEdit)
        said += (ui.questionsEdit, ui.patientsEdit, ui.masksEdit, ui.trainingBox, ui.repeatsBox, ui.marginBox)
        for widget in said:
            widget.enabled = not designed
        ui.formCombo.enabled = not designed and not _path(ui.questionsEdit)

    @property
    def _readers(self) -> list[str]:
        return [name.strip() for name in str(self.ui.readersEdit.text).split(",") if name.strip()]

    def _fillForms(self) -> None:
        from SynthDiffusionLib.reader_study.forms import load_form, shipped_forms

        for formId, path in shipped_forms().items():
            form = load_form(path)
            self.ui.formCombo.addItem(form.title, formId)
            self.ui.formCombo.setItemData(self.ui.formCombo.count - 1, plainText(form.description), qt.Qt.ToolTipRole)
            self._forms.append(formId)
        if _FIRST_FORM in self._forms:
            self.ui.formCombo.setCurrentIndex(self._forms.index(_FIRST_FORM))

    def _onEdited(self, text: str = "") -> None:
        self.refresh()

    def _onMake(self) -> None:
        ui = self.ui
        request = StudyRequest(
            out=_path(ui.outEdit),
            design=_path(ui.designEdit),
            real=_path(ui.realEdit),
            synthetic=tuple(filter(None, map(_path, (ui.syntheticEdit, ui.secondEdit, ui.thirdEdit)))),
            form=_path(ui.questionsEdit) or self._forms[ui.formCombo.currentIndex],
            readers=tuple(self._readers),
            seed=int(ui.seedBox.value),
            patients=_path(ui.patientsEdit),
            masks=_path(ui.masksEdit),
            training=int(ui.trainingBox.value),
            repeats=int(ui.repeatsBox.value) / 100,
            margin=round(float(ui.marginBox.value), 2),
        )
        for edit in self._paths:
            edit.addCurrentPathToHistory()
        self._say(_("Starting."))
        self._command.run(request, self._onEnded)
        self.refresh()

    def _onProgress(self) -> None:
        command, bar = self._command, self.ui.progressBar
        bar.setRange(0, command.total)
        bar.setValue(command.step)
        text = {
            "look at the volumes": _("Looking at the volumes"),
            "rewrite the volumes": _("Rewriting the volumes"),
            "rewrite the masks": _("Rewriting the masks"),
            "leak report": _("Looking for what gives the volumes away"),
        }.get(command.stage, _("Generating volumes") if command.stage.startswith("generate") else _("Working"))
        if command.total:
            text += _(", {step} of {total}").format(step=command.step, total=command.total)
        if command.etaSeconds is not None:
            text += _(", about {time} left").format(time=durationText(command.etaSeconds))
        self._say(text + ".")

    def _onEnded(self, outcome: StudyOutcome) -> None:
        if outcome.done:
            advice = _(
                "Give the folder '{reading}' to the readers, whole. Keep '{private}' to yourself: it says which volumes"
                " are synthetic."
            ).format(reading=Path(outcome.reading).name, private=Path(outcome.private).name)
            warnings = [f"⚠ {line}" for line in outcome.warnings]
            self._say("\n".join([_("The study is made."), *(warnings or outcome.leaks[:1]), advice]))
            self._report, self._folder = outcome.leakReport, outcome.folder
            self.made.emit(outcome.reading)
        elif outcome.cancelled:
            self._say(_("Canceled."))
        else:
            self._say(failureText(outcome.message, outcome.hint))
        self.ui.reportButton.setVisible(bool(self._report))
        self.ui.folderButton.setVisible(bool(self._folder))
        self.refresh()

    def _onReport(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._report))

    def _onFolder(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._folder))

    def _say(self, text: str) -> None:
        ui = self.ui
        self._report = self._folder = ""
        ui.messageLabel.text = text
        ui.messageLabel.setVisible(bool(text))
        ui.reportButton.hide()
        ui.folderButton.hide()


def _path(edit) -> str:
    """What stands in a field for a path."""
    return str(edit.currentPath).strip()
