"""Adds and removes models: installs packages, imports checkpoints, deletes what the user has installed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import qt
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.EngineProcess import EngineProcess, ProcessResult
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.sentences import panelWords

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # as in model.schema.json
# argparse and the engine begin their last line with the name of the command.
_COMMAND_PREFIX = re.compile(r"^synthdiffusion[a-z ]*: error: ")


class ModelLibrary:
    """The group "Add or remove models".

    Args:
        session: whose engine does it, in a child process.
        ui: of the model panel; has `installButton`, `importButton`, `removeButton`, `libraryCancelButton`,
            `libraryLabel`.
        onAdded: called with the ID of a model that was added.
    """

    def __init__(self, session: Session, ui, onAdded: Callable[[str], None]) -> None:
        self._session, self._ui, self._onAdded = session, ui, onAdded
        self._process: EngineProcess | None = None
        self._text = ""
        self._closed = False
        self._menu = qt.QMenu(ui.installButton)
        self._menu.addAction(_("Archive (.zip)...")).connect("triggered()", self._onInstallArchive)
        self._menu.addAction(_("Folder...")).connect("triggered()", self._onInstallFolder)
        ui.installButton.setMenu(self._menu)
        ui.importButton.connect("clicked()", self._onImport)
        ui.removeButton.connect("clicked()", self._onRemove)
        ui.libraryCancelButton.connect("clicked()", self._onCancel)

    @property
    def busy(self) -> bool:
        return self._process is not None

    def refresh(self) -> None:
        """Shows what can be done now, and how the last command ended."""
        ui, model = self._ui, self._session.model
        free = not self.busy and self._session.engine.status.ready
        ui.installButton.enabled = ui.importButton.enabled = free
        ui.removeButton.enabled = free and model is not None and model.origin == "user"
        ui.libraryCancelButton.visible = self.busy
        ui.libraryLabel.text = self._text
        ui.libraryLabel.visible = bool(self._text)

    def close(self) -> None:
        """Ends a command under way. What it has begun to copy never gets its final name."""
        self._closed = True
        self._onCancel()

    def _onInstallArchive(self) -> None:
        filters = _("Model packages") + " (*.zip)"
        self._install(qt.QFileDialog.getOpenFileName(self._window(), _("Install a model"), "", filters))

    def _onInstallFolder(self) -> None:
        self._install(qt.QFileDialog.getExistingDirectory(self._window(), _("Install a model: choose its folder")))

    def _install(self, path: str) -> None:
        if path:
            self._run(["install", path], _("Installing {path} ...").format(path=path), _("Installed '{id}'."))

    def _onImport(self) -> None:
        filters = _("Checkpoints") + " (*.safetensors *.pt *.pth *.ckpt *.bin)"
        path = qt.QFileDialog.getOpenFileName(self._window(), _("Import a checkpoint"), "", filters)
        if not path:
            return
        label = _("A short name for the new model: small letters, digits and hyphens.")
        newId = str(qt.QInputDialog.getText(self._window(), _("Import a checkpoint"), label) or "").strip()
        if not newId:
            return
        if not _ID.fullmatch(newId):
            self._show(_("'{id}' cannot be a name: use small letters, digits and hyphens.").format(id=newId))
            return
        done = _("Imported '{id}'. Its license, training data and quality are not known.")
        self._run(["import", path, "--as", newId], _("Importing {path} ...").format(path=path), done)

    def _onRemove(self) -> None:
        model = self._session.model
        if any(run.context.get("modelId") == model.id and not run.ended for run in self._session.queue.runs):
            self._show(_("'{name}' is being used by a run. Remove it when the run has ended.").format(name=model.name))
            return
        question = _("Delete the model '{name}' and its files in {folder}?")
        if slicer.util.confirmOkCancelDisplay(question.format(name=model.name, folder=model.folder)):
            self._run(["remove", model.id], _("Removing '{name}' ...").format(name=model.name), _("Removed '{id}'."))

    def _onCancel(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _run(self, arguments: Sequence[str], progress: str, done: str) -> None:
        """Runs `synthdiffusion models ...`; `done` has a place for the model's {id}."""
        self._text = progress
        added = arguments[0] != "remove"

        def answered(result: ProcessResult, message: str) -> None:
            self._process = None
            if self._closed:
                return
            if result.done:
                self._session.engine.refreshModels()
                self._show(done.format(id=result.event["id"]))
                if added:
                    self._onAdded(result.event["id"])
            elif result.cancelled:
                self._show(_("Canceled."))
            else:
                self._show(panelWords(_COMMAND_PREFIX.sub("", message)) or _("It ended without a message."))

        command = ["SynthDiffusionLib", "models", *arguments, "--json"]
        self._process = self._session.engine.ask(command, answered)
        self._ui.libraryBox.collapsed = False
        self.refresh()

    def _show(self, text: str) -> None:
        self._text = text
        self.refresh()

    def _window(self):
        return slicer.util.mainWindow()
