"""Adds and removes models: downloads released ones, installs packages, imports weights, deletes installed ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.ModelCommand import CONVERT, DOWNLOAD, ModelCommand, Outcome
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.AvailableModels import AvailableModels
from SynthDiffusionPanels.ImportDialog import ImportDialog
from SynthDiffusionPanels.sentences import bytesText, durationText, failureText

_BAR = 1000  # bytes of a download do not fit into the numbers of a progress bar


class ModelLibrary:
    """The group "Add or remove models".

    Args:
        session: whose engine does it, in a child process.
        ui: of the model panel; has what is in its `libraryBox`.
        onAdded: called with the ID of a model that was added.
    """

    def __init__(self, session: Session, ui, onAdded: Callable[[str], None]) -> None:
        self._session, self._ui, self._onAdded = session, ui, onAdded
        self._command = ModelCommand(session.engine)
        self._command.changed.connect(self._showProgress)
        self.available = AvailableModels(session, ui, self._installReleased, self._show)
        self._text = ""
        self._menu = qt.QMenu(ui.installButton)
        self._menu.addAction(_("Archive (.zip)...")).connect("triggered()", self._onInstallArchive)
        self._menu.addAction(_("Folder...")).connect("triggered()", self._onInstallFolder)
        ui.installButton.setMenu(self._menu)
        ui.importButton.connect("clicked()", self._onImport)
        ui.removeButton.connect("clicked()", self._onRemove)
        ui.libraryCancelButton.connect("clicked()", self._onCancel)
        ui.libraryLogButton.connect("toggled(bool)", self._onLogToggled)

    @property
    def busy(self) -> bool:
        return self._command.busy

    def refresh(self) -> None:
        """Shows what can be done now, and how the last command ended."""
        ui, model = self._ui, self._session.model
        free = not self.busy and self._session.engine.status.ready
        self.available.refresh(free)
        ui.installButton.enabled = ui.importButton.enabled = free
        ui.removeButton.enabled = free and model is not None and model.origin == "user"
        ui.libraryCancelButton.visible = ui.libraryProgress.visible = self.busy
        if self.busy:
            self._showProgress()
        else:
            ui.libraryLabel.text = self._text
            ui.libraryLabel.visible = bool(self._text)
        log = "" if self.busy else self._command.log
        ui.libraryLogButton.visible = bool(log)
        ui.libraryLogText.visible = bool(log) and ui.libraryLogButton.checked
        if ui.libraryLogText.plainText != log:
            ui.libraryLogText.setPlainText(log)

    def close(self) -> None:
        """Ends a command under way. What it has begun to copy never gets its final name."""
        self._command.close()

    def _onInstallArchive(self) -> None:
        filters = _("Model packages") + " (*.zip)"
        self._install(qt.QFileDialog.getOpenFileName(self._window(), _("Install a model"), "", filters))

    def _onInstallFolder(self) -> None:
        self._install(qt.QFileDialog.getExistingDirectory(self._window(), _("Install a model: choose its folder")))

    def _install(self, path: str) -> None:
        if path:
            self._run(["install", path], _("Installing {path} ...").format(path=path), _("Installed '{id}'."))

    def _installReleased(self, arguments: Sequence[str], text: str, ended: Callable[[Outcome], None]) -> None:
        self._run(arguments, text, _("Installed '{id}'."), ended)

    def _onImport(self) -> None:
        request = ImportDialog(self._session).ask()
        if request is None:
            return
        text = _("Importing '{id}' ...").format(id=request.id)
        done = _("Imported '{id}'. What is known of its license and training is said above.")
        self._run(request.arguments, text, done)

    def _onRemove(self) -> None:
        model = self._session.model
        if any(run.context.get("modelId") == model.id and not run.ended for run in self._session.queue.runs):
            self._show(_("'{name}' is being used by a run. Remove it when the run has ended.").format(name=model.name))
            return
        question = _("Delete the model '{name}' and its files in {folder}?")
        if slicer.util.confirmOkCancelDisplay(question.format(name=model.name, folder=model.folder)):
            self._run(["remove", model.id], _("Removing '{name}' ...").format(name=model.name), _("Removed '{id}'."))

    def _onCancel(self) -> None:
        self._command.cancel()

    def _run(
        self,
        arguments: Sequence[str],
        progress: str,
        done: str,
        ended: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """Runs `synthdiffusion models ...`.

        Args:
            arguments: of it.
            progress: what is said meanwhile.
            done: what is said afterwards, with a place for the model's {id}.
            ended: called first of all when it has ended.
        """
        added = arguments[0] != "remove"
        self.available.forgetRefusal()

        def answered(outcome: Outcome) -> None:
            ended(outcome)
            if outcome.done:
                self._session.engine.refreshModels()
                self._show(done.format(id=outcome.id))
                if added:
                    self._onAdded(outcome.id)
            elif outcome.cancelled:
                kept = _("Canceled. The next try goes on with what was downloaded.")
                self._show(kept if self._command.downloaded else _("Canceled."))
            else:
                self._show(failureText(outcome.message, outcome.hint) or _("It ended without a message."))

        self._text = progress
        self._command.run(arguments, answered)
        self._ui.libraryBox.collapsed = False
        self.refresh()

    def _showProgress(self) -> None:
        """What is under way, and of a download how much is there."""
        ui, command = self._ui, self._command
        if not command.busy:
            return
        text, known = self._text, command.stage == DOWNLOAD and command.total > 0
        if command.stage == CONVERT:
            text += "\n" + _("All files are there. They are being checked and made into a model.")
        elif known:
            parts = _("{done} of {total}").format(done=bytesText(command.step), total=bytesText(command.total))
            if command.etaSeconds is not None:
                parts += _(", about {time} left").format(time=durationText(command.etaSeconds))
            text = f"{text}\n{parts}"
        ui.libraryProgress.setRange(0, _BAR if known else 0)  # 0 to 0 is shown as busy
        ui.libraryProgress.setValue(min(_BAR, round(_BAR * command.step / command.total)) if known else 0)
        ui.libraryLabel.text = text
        ui.libraryLabel.visible = True

    def _onLogToggled(self, shown: bool) -> None:
        self._ui.libraryLogButton.text = _("Hide log") if shown else _("Show log")
        self.refresh()

    def _show(self, text: str) -> None:
        self._text = text
        self.refresh()

    def _window(self):
        return slicer.util.mainWindow()
