"""Models that others have released: what they are, under which licence, and how to install them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import qt
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import AvailableModel
from SynthDiffusionJobs.ModelCommand import Outcome
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.LicenceDialog import isWebAddress, licenceAccepted, link
from SynthDiffusionPanels.modelTexts import isNonCommercial, licenceName
from SynthDiffusionPanels.sentences import bytesText, panelWords


class AvailableModels:
    """The upper part of the group "Add or remove models".

    Args:
        session: whose engine lists them.
        ui: of the model panel; has `availableWidget` and `tokenWidget` with what is in them.
        install: called with arguments of `synthdiffusion models`, what is said meanwhile, and what is called with the
            `Outcome`.
        say: called with a text for the user.
    """

    def __init__(
        self,
        session: Session,
        ui,
        install: Callable[[Sequence[str], str, Callable[[Outcome], None]], None],
        say: Callable[[str], None],
    ) -> None:
        self._session, self._ui, self._install, self._say = session, ui, install, say
        self._chosen = ""
        self._refused: tuple[AvailableModel, list[str], str] | None = None  # model, arguments, why
        ui.availableSelector.connect("activated(int)", self._onChosen)
        ui.downloadButton.connect("clicked()", self._onDownload)
        ui.fromFolderButton.connect("clicked()", self._onFromFolder)
        ui.tokenButton.connect("clicked()", self._onToken)

    @property
    def chosen(self) -> AvailableModel | None:
        """The one that is shown."""
        models = self._session.engine.available
        found = next((model for model in models if model.id == self._chosen), None)
        return found or next((model for model in models if not model.installed), models[0] if models else None)

    def refresh(self, free: bool) -> None:
        """Shows the list, and what can be done.

        Args:
            free: whether a command can be started now.
        """
        ui, models, chosen = self._ui, self._session.engine.available, self.chosen
        ui.availableWidget.visible = bool(models)
        ui.tokenWidget.visible = self._refused is not None and free
        if self._refused is not None:
            ui.tokenLabel.text = self._accessMarkup()
        if chosen is None:
            return
        items = [(itemText(model), model.id) for model in models]
        if items != [(ui.availableSelector.itemText(n), ui.availableSelector.itemData(n)) for n in range(len(items))]:
            ui.availableSelector.clear()
            for text, modelId in items:
                ui.availableSelector.addItem(text, modelId)
        ui.availableSelector.setCurrentIndex(models.index(chosen))
        ui.availableLabel.text = aboutMarkup(chosen)
        ui.downloadButton.enabled = ui.fromFolderButton.enabled = free and not chosen.installed

    def forgetRefusal(self) -> None:
        """Something else has begun; the token is not asked for any more."""
        self._refused = None

    def _onChosen(self, index: int) -> None:
        self._chosen = str(self._ui.availableSelector.itemData(index))
        self._refused = None
        self._say("")

    def _onDownload(self) -> None:
        self._begin(self.chosen, [])

    def _onFromFolder(self) -> None:
        model = self.chosen
        title = _("The folder with the files of '{name}'").format(name=model.name)
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)
        if folder:
            self._begin(model, ["--from", str(folder)])

    def _begin(self, model: AvailableModel, options: list[str]) -> None:
        """Asks for the licence and installs."""
        self._chosen = model.id
        self._refused = None
        if not licenceAccepted(self._session.resourcePath, model):
            text = _("The license of '{name}' was declined. Nothing was downloaded or changed.")
            self._say(text.format(name=model.name))
            return
        self._start(model, ["install", model.id, "--accept-licence", *options, "--events"])

    def _start(self, model: AvailableModel, arguments: list[str]) -> None:
        def ended(outcome: Outcome) -> None:
            if outcome.needsAccess:
                self._refused = model, arguments, " ".join(filter(None, (outcome.message, outcome.hint)))

        self._install(arguments, _("Installing '{name}' ...").format(name=model.name), ended)

    def _onToken(self) -> None:
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("A text file that holds your token"), "")
        if not path or self._refused is None:
            return
        (model, arguments, _why), self._refused = self._refused, None
        if "--token-file" in arguments:  # that of the try before
            place = arguments.index("--token-file")
            arguments = arguments[:place] + arguments[place + 2 :]
        self._start(model, [*arguments[:-1], "--token-file", str(path), arguments[-1]])

    def _accessMarkup(self) -> str:
        """What to do where the download is refused, with the addresses in the engine's words as links."""
        model, _arguments, why = self._refused
        words = []
        for word in escape(panelWords(why)).split(" "):
            address = word.rstrip(".,;:)")
            words.append(link(address) + word[len(address) :] if isWebAddress(address) else word)
        how = _(
            "The download of '{name}' needs access of your own: ask for it at the address with an account there, make a"
            " token, and save it as a text file."
        )
        return f"{escape(how.format(name=model.name))}<br>{' '.join(words)}"


def itemText(model: AvailableModel) -> str:
    """A model as the list calls it."""
    state = _("installed") if model.installed else _("not installed")
    return _("{name} ({state})").format(name=model.name, state=state)


def aboutMarkup(model: AvailableModel) -> str:
    """What a model is, its licence, its size and whether one must ask for it, as rich text."""
    licence = escape(licenceName(model.licence))
    if isNonCommercial(model.licence):
        licence += " <b>" + _("(not for commercial use)") + "</b>"
    lines = [escape(model.description), _("License: {name}.").format(name=licence)]
    if model.installed:
        lines.append(_("Installed."))
    else:
        size = _(", {size} to download").format(size=bytesText(model.bytes)) if model.bytes else ""
        lines.append(_("Not installed{size}.").format(size=size))
        if model.gated:
            lines.append(_("Access must be asked for, with an account at the place that it comes from."))
    return "<br>".join(filter(None, lines))
