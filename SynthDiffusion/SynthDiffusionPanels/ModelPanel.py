"""Which model makes the image, how well, how many, and from what chance."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import qt
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import ModelInfo
from SynthDiffusionJobs.Parameters import JOINT, LARGEST_SEED, MODES, QUALITIES, UNCONDITIONAL, UNDRAWN
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels import modelTexts
from SynthDiffusionPanels.AdvancedSettings import AdvancedSettings
from SynthDiffusionPanels.ModelAbout import ModelAbout
from SynthDiffusionPanels.ModelLibrary import ModelLibrary
from SynthDiffusionPanels.SizeSettings import SizeSettings
from SynthDiffusionPanels.TumourSettings import TumourSettings

DEFAULT_MODEL = "lung-nodule-ct"  # proposed where the drawing speaks for no other
_UPDATE_MS = 500
_MOST_CLASSES = 8  # that are named one by one


@dataclass(frozen=True)
class ModelRow:
    """A model in the list.

    Args:
        model: the package.
        drawn: names of its classes that are drawn; empty if it cannot use the segmentation.
        reason: why it comes after the others, "" if it does not.
    """

    model: ModelInfo
    drawn: tuple[str, ...] = ()
    reason: str = ""

    @property
    def text(self) -> str:
        name = self.model.name
        if self.model.origin == "user":
            name = _("{name} (yours)").format(name=name)
        return _("{name}: {reason}").format(name=name, reason=self.reason) if self.reason else name

    @property
    def toolTip(self) -> str:
        """The model in a few lines, so that models can be compared in the open list."""
        if not self.model.usable:
            return self.model.problem
        texts = (
            modelTexts.makesText,
            modelTexts.limitsText,
            modelTexts.licenceText,
            modelTexts.trainingText,
            modelTexts.performanceText,
        )
        return "\n".join(filter(None, (text(self.model.description) for text in texts)))


class ModelPanel:
    """List of models, what the chosen one is, and the settings of a run.

    Args:
        session: whose model is chosen.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.widget = slicer.util.loadUI(session.resourcePath("UI/ModelPanel.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        ui.seedBox.setRange(0, LARGEST_SEED)
        self.library = ModelLibrary(session, ui, self._onAdded)
        self.advanced = AdvancedSettings(session, ui)
        self.about = ModelAbout(session, ui, self._say)
        self.size = SizeSettings(session, ui)
        self.tumour = TumourSettings(session)
        ui.tumourPlace.addWidget(self.tumour.widget)
        buttons = (ui.wholeButton, ui.inpaintButton, ui.unconditionalButton, ui.jointButton)
        self._modeButtons = dict(zip(MODES, buttons))
        self._modeTips = {mode: button.toolTip for mode, button in self._modeButtons.items()}
        self._rows: tuple[tuple, list[ModelRow]] = ((), [])
        self._note = self._added = ""
        self._refreshing = False
        self._update = qt.QTimer()
        self._update.setSingleShot(True)
        self._update.setInterval(_UPDATE_MS)
        self._update.connect("timeout()", self.refresh)
        ui.modelSelector.connect("activated(int)", self._onModelChosen)
        ui.qualitySlider.connect("valueChanged(int)", self._onQuality)
        ui.wholeButton.connect("clicked()", self._onWhole)
        ui.inpaintButton.connect("clicked()", self._onInpaint)
        ui.unconditionalButton.connect("clicked()", self._onUnconditional)
        ui.jointButton.connect("clicked()", self._onJoint)
        ui.cropBox.connect("clicked()", self._onCrop)
        ui.samplesBox.connect("valueChanged(int)", self._onSamples)
        ui.randomSeedButton.connect("clicked()", self._onSeedMode)
        ui.fixedSeedButton.connect("clicked()", self._onSeedMode)
        ui.seedBox.connect("valueChanged(int)", self._onSeed)
        session.engine.changed.connect(self._propose)
        session.parametersChanged.connect(self._propose)
        session.drawingChanged.connect(self._updateSoon)
        self.refresh()

    def enter(self) -> None:
        self.tumour.enter()
        self.refresh()

    def exit(self) -> None:
        """An installation under way goes on."""
        self.tumour.exit()

    def close(self) -> None:
        self._session.engine.changed.disconnect(self._propose)
        self._session.parametersChanged.disconnect(self._propose)
        self._session.drawingChanged.disconnect(self._updateSoon)
        self._update.stop()
        self._update.disconnect("timeout()", self.refresh)
        self._update.deleteLater()
        self.library.close()
        self.tumour.close()

    def refresh(self) -> None:
        """Shows the models, and the settings as they are."""
        parameters = self._session.parameters
        self.widget.enabled = parameters is not None
        self.library.refresh()
        if parameters is None:
            self.tumour.refresh()
            return
        self._refreshing = True
        try:
            rows = self.rows()
            row = next((row for row in rows if row.model.id == parameters.modelId), None)
            self._showModels(rows, row)
            self.about.show(row.model if row is not None else None)
            self._showSettings(parameters, row)
            self.size.refresh()
            self.tumour.refresh()
            self.advanced.refresh()
        finally:
            self._refreshing = False

    def rows(self) -> list[ModelRow]:
        """The models that fit the segmentation, those that do not, and the damaged ones."""
        from SynthDiffusionScene.modified import modifiedTime

        parameters, models = self._session.parameters, self._session.engine.models
        node = parameters.segmentation
        key = (
            models,
            node and (node.GetID(), modifiedTime(node)),
            tuple(sorted(dict(parameters.classes).items())),
        )
        if key != self._rows[0]:
            self._rows = (key, self._makeRows(node, models, dict(parameters.classes)))
        return self._rows[1]

    @staticmethod
    def _makeRows(node, models: tuple[ModelInfo, ...], classes: dict[str, str]) -> list[ModelRow]:
        from SynthDiffusionJobs.Mapping import mapSegments
        from SynthDiffusionScene.drawing import segmentDescriptions

        descriptions = segmentDescriptions(node) if node is not None else []
        empty = all(segment.voxels == 0 for segment in descriptions)
        fitting, others, damaged = [], [], []
        for model in models:
            if not model.usable:
                damaged.append(ModelRow(model, reason=_("damaged")))
                continue
            if not modelTexts.needsDrawing(model.description):
                row = ModelRow(model, reason="" if empty else _("works without a drawing"))
                (fitting if empty else others).append(row)
                continue
            mapped = [row.target for row in mapSegments(descriptions, model.description, classes) if row.drawn]
            drawn = tuple(dict.fromkeys(target for target in mapped if target))
            if drawn or empty:
                fitting.append(ModelRow(model, drawn))
            else:
                others.append(ModelRow(model, reason=_("no segment goes to one of its classes")))
        # What most of the drawing goes to comes first, so that a chest is not proposed to the model of a limb.
        fitting.sort(key=lambda row: (-len(row.drawn), row.model.id != DEFAULT_MODEL))
        return fitting + others + damaged

    # Showing

    def _showModels(self, rows: list[ModelRow], chosen: ModelRow | None) -> None:
        selector = self.ui.modelSelector
        items = [(row.text, row.model.id) for row in rows]
        if items != [(selector.itemText(n), selector.itemData(n)) for n in range(selector.count)]:
            selector.clear()
            for row in rows:
                selector.addItem(row.text, row.model.id)
                selector.setItemData(selector.count - 1, row.toolTip, qt.Qt.ToolTipRole)
        selector.enabled = bool(rows)
        selector.setCurrentIndex(rows.index(chosen) if chosen is not None else -1)
        self.ui.fitLabel.text = " ".join(filter(None, [self._note, self._fitText(rows, chosen)]))
        self.ui.fitLabel.visible = bool(self.ui.fitLabel.text)

    def _fitText(self, rows: list[ModelRow], chosen: ModelRow | None) -> str:
        parameters, status = self._session.parameters, self._session.engine.status
        if not rows:
            if status.ready:
                return _("No model is installed.")
            return _("The models are listed when the set-up is complete.")
        if chosen is None:
            return _("Choose a model.")
        if not chosen.model.usable:
            return _("This model cannot be used: {reason}.").format(reason=chosen.model.problem.rstrip("."))
        if parameters.mode == UNCONDITIONAL:
            return _("Makes an image without a drawing. What is drawn is not used.")
        if parameters.mode == JOINT:
            text = _("Makes the image and the segmentation of the {target} together. What is drawn is not used.")
            return text.format(target=modelTexts.targetName(chosen.model.description))
        if parameters.segmentation is None:
            return ""
        if chosen.drawn:
            names, more = chosen.drawn[:_MOST_CLASSES], len(chosen.drawn) - _MOST_CLASSES
            text = ", ".join(names)
            if more > 0:
                text = _("{names} and {n} more").format(names=text, n=more)
            return _("Fits this segmentation. Drawn for it: {classes}.").format(classes=text)
        if chosen.reason:
            return _("No segment goes to one of its classes. Choose classes in the table above, or another model.")
        return ""

    def _showSettings(self, parameters, row: ModelRow | None) -> None:
        ui = self.ui
        description = row.model.description if row is not None and row.model.usable else None
        ui.settingsWidget.enabled = description is not None
        ui.qualitySlider.value = QUALITIES.index(parameters.quality)
        ui.qualitySlider.enabled = not parameters.customSampling
        ui.customLabel.visible = parameters.customSampling
        meanings = modelTexts.qualityMeanings(description)
        for quality, label in zip(QUALITIES, (ui.fastLabel, ui.balancedLabel, ui.bestLabel)):
            name = escape(modelTexts.qualityNames()[quality])
            name = f"<b>{name}</b>" if quality == parameters.quality and not parameters.customSampling else name
            label.text = f"{name}<br>{escape(meanings[quality])}"
        for mode, button in self._modeButtons.items():
            possible = description is None or mode in description["modes"]
            button.enabled = possible
            button.toolTip = self._modeTips[mode]
            if not possible:
                button.toolTip = _("The model '{name}' cannot do this.").format(name=row.model.name)
            button.checked = mode == parameters.mode
        # Most models need a drawing; of them nobody has to read that they do.
        for mode in UNDRAWN:
            able = description is not None and mode in description["modes"]
            self._modeButtons[mode].visible = able or parameters.mode == mode
        ui.cropBox.visible = parameters.mode == "whole"
        ui.cropBox.checked = parameters.crop
        ui.samplesBox.value = parameters.samples
        ui.fixedSeedButton.checked = parameters.fixedSeed
        ui.randomSeedButton.checked = not parameters.fixedSeed
        ui.seedBox.enabled = parameters.fixedSeed
        ui.seedBox.value = parameters.seed

    # Choosing a model

    def _propose(self) -> None:
        """Chooses the first model that fits where none is chosen, or where the chosen one is not there any more."""
        session = self._session
        parameters, models = session.parameters, session.engine.models
        if parameters is not None and session.engine.model(self._added) is not None:
            added, self._added = self._added, ""
            self._choose(added)
        if parameters is None or not models or session.model is not None:
            return
        row = next((row for row in self.rows() if row.model.usable), None)
        if row is None:
            return
        if parameters.modelId:
            self._note = _("The model '{id}' is not installed.").format(id=parameters.modelId)
        self._choose(row.model.id)

    def _onAdded(self, modelId: str) -> None:
        """A model was installed: it is chosen as soon as the engine lists it."""
        self._added = modelId

    def _updateSoon(self) -> None:
        """While the user paints, other models may come to fit; looking a few times a second is enough."""
        if not self._update.isActive():
            self._update.start()

    def _onModelChosen(self, index: int) -> None:
        self._note = ""
        self._choose(self.ui.modelSelector.itemData(index))
        self.refresh()  # the note is gone, also if the model is the same

    def _choose(self, modelId: str) -> None:
        """Chooses a model, and in place of settings that it does not have, its own."""
        parameters, model = self._session.parameters, self._session.engine.model(modelId)
        if parameters is None:
            return
        with slicer.util.NodeModify(parameters.parameterNode):
            parameters.modelId = modelId
            if model is not None and model.usable:
                modes = [mode for mode in MODES if mode in model.description["modes"]]
                if modes and parameters.mode not in modes:
                    parameters.mode = modes[0]
                if parameters.sampler not in model.description["sampling"]["samplers"]:
                    parameters.sampler = ""
                self.size.fit(model.description)
                self.tumour.fit(model.description)
                self.advanced.fit(model.description)

    def _say(self, text: str) -> None:
        """Shows a text below the list of models, until another one is chosen."""
        self._note = text
        self.refresh()

    # Settings

    def _set(self, name: str, value: object) -> None:
        """Writes a parameter on the user's action, and not while a widget is being set from it."""
        parameters = self._session.parameters
        if not self._refreshing and parameters is not None and getattr(parameters, name) != value:
            setattr(parameters, name, value)

    def _onQuality(self, value: int) -> None:
        self._set("quality", QUALITIES[value])

    def _onWhole(self) -> None:
        self._set("mode", "whole")

    def _onInpaint(self) -> None:
        self._set("mode", "inpaint")

    def _onUnconditional(self) -> None:
        self._set("mode", UNCONDITIONAL)

    def _onJoint(self) -> None:
        self._set("mode", JOINT)

    def _onCrop(self) -> None:
        self._set("crop", self.ui.cropBox.checked)

    def _onSamples(self, value: int) -> None:
        self._set("samples", value)

    def _onSeedMode(self) -> None:
        self._set("fixedSeed", self.ui.fixedSeedButton.checked)

    def _onSeed(self, value: int) -> None:
        self._set("seed", value)
