"""Settings for those who know how the models work: sampler, steps, guidance, precision, device, memory."""

from __future__ import annotations

from collections.abc import Mapping

import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Generation import bearsGuidance
from SynthDiffusionJobs.Parameters import PRECISIONS, UNDRAWN
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.modelTexts import guidanceDefault, regionName, samplerName
from SynthDiffusionPanels.sentences import memoryText


class AdvancedSettings:
    """The group "Advanced" of the model panel.

    Args:
        session: whose parameters are set.
        ui: of the model panel.
    """

    def __init__(self, session: Session, ui) -> None:
        self._session, self._ui = session, ui
        self._refreshing = False
        ui.customBox.connect("clicked()", self._onCustom)
        ui.samplerBox.connect("activated(int)", self._onSampler)
        ui.stepsBox.connect("valueChanged(int)", self._onSteps)
        ui.guidanceBox.connect("valueChanged(double)", self._onGuidance)
        ui.conditionBox.connect("valueChanged(double)", self._onCondition)
        ui.regionTopBox.connect("activated(int)", self._onRegionTop)
        ui.regionBottomBox.connect("activated(int)", self._onRegionBottom)
        ui.modalityBox.connect("activated(int)", self._onModality)
        ui.marginBox.connect("valueChanged(double)", self._onMargin)
        ui.precisionBox.connect("activated(int)", self._onPrecision)
        ui.deviceBox.connect("activated(int)", self._onDevice)
        ui.memoryBox.connect("valueChanged(double)", self._onMemory)
        ui.previewsBox.connect("clicked()", self._onPreviews)

    def refresh(self) -> None:
        """Shows the parameters, and what the model takes where they leave it to the model."""
        parameters, model = self._session.parameters, self._session.model
        description = model.description if model is not None and model.usable else None
        self._refreshing = True
        try:
            self._showSampling(parameters, description)
            self._showDefaults(parameters, description)
            self._showControls(parameters, description)
            self._showDevices(parameters)
            self._ui.memoryBox.value = parameters.memoryLimitGiB
            self._ui.previewsBox.checked = parameters.previews
        finally:
            self._refreshing = False

    def _showSampling(self, parameters, description) -> None:
        ui = self._ui
        ui.customBox.checked = parameters.customSampling
        for widget in (ui.samplerBox, ui.stepsBox):
            widget.enabled = parameters.customSampling and description is not None
        if description is None:
            return
        _setItems(ui.samplerBox, [(samplerName(name), name) for name in description["sampling"]["samplers"]])
        sampler, steps = self._sampling(parameters, description)
        ui.samplerBox.setCurrentIndex(ui.samplerBox.findData(sampler))
        ui.stepsBox.maximum = description["diffusion"]["train_steps"]
        ui.stepsBox.value = steps

    @staticmethod
    def _sampling(parameters, description) -> tuple[str, int]:
        """Sampler and steps of the slider, or the user's own."""
        from SynthDiffusionLib.sampling.quality import quality_settings

        most = description["diffusion"]["train_steps"]
        sampler, steps = quality_settings(parameters.quality, description["sampling"], most)
        if parameters.customSampling:
            sampler, steps = parameters.sampler or sampler, parameters.steps or steps
        return sampler, min(steps, most)

    def _showDefaults(self, parameters, description) -> None:
        ui = self._ui
        guidance, margin = _("model's own"), _("model's own")
        if description is not None:
            default = guidanceDefault(description, parameters.mode)
            guidance = _("model's own ({value})").format(value=f"{default:g}")
            if description.get("inpaint"):
                margin = _("model's own ({value})").format(value=f"{description['inpaint']['margin_mm']:g}")
        ui.guidanceBox.specialValueText = guidance
        ui.guidanceBox.value = parameters.guidance
        for widget in (ui.guidanceLabel, ui.guidanceBox):
            widget.visible = description is None or bearsGuidance(description)
        ui.marginBox.specialValueText = margin
        ui.marginBox.value = parameters.marginMm
        ui.marginBox.enabled = parameters.mode == "inpaint"

    def _showControls(self, parameters, description) -> None:
        """What only some models take; hidden for the others."""
        ui, controls = self._ui, (description or {}).get("controls") or {}
        regions, modalities = list(controls.get("regions") or ()), list(controls.get("modalities") or ())
        scaled = bool(controls.get("condition_scale")) and parameters.mode not in UNDRAWN
        for widget in (ui.conditionLabel, ui.conditionBox):
            widget.visible = scaled
        ui.conditionBox.value = parameters.conditionScale
        for widget in (ui.regionTopLabel, ui.regionTopBox, ui.regionBottomLabel, ui.regionBottomBox):
            widget.visible = bool(regions)
        items = [(_("automatic"), ""), *((regionName(region), region) for region in regions)]
        for box, chosen in ((ui.regionTopBox, parameters.regionTop), (ui.regionBottomBox, parameters.regionBottom)):
            _setItems(box, items)
            box.setCurrentIndex(max(0, box.findData(chosen)))
        for widget in (ui.modalityLabel, ui.modalityBox):
            widget.visible = len(modalities) > 1  # of one there is no choice
        first = _("automatic ({name})").format(name=modalities[0]) if modalities else _("automatic")
        _setItems(ui.modalityBox, [(first, ""), *((name, name) for name in modalities)])
        ui.modalityBox.setCurrentIndex(max(0, ui.modalityBox.findData(parameters.modality)))

    def fit(self, description: Mapping) -> None:
        """Takes back what another model does not have."""
        parameters, controls = self._session.parameters, description.get("controls") or {}
        if not {parameters.regionTop, parameters.regionBottom} <= {"", *(controls.get("regions") or ())}:
            parameters.regionTop = parameters.regionBottom = ""
        if parameters.modality not in (controls.get("modalities") or ()):
            parameters.modality = ""

    def _showDevices(self, parameters) -> None:
        ui, engine = self._ui, self._session.engine
        automatic = engine.device("auto")
        text = _("automatic ({name})").format(name=automatic.name) if automatic else _("automatic")
        items = [(text, "auto")]
        for device in engine.status.devices:
            name = f"{device.id}: {device.name}"
            if device.freeBytes is not None:
                name = _("{name}, {free} free").format(name=name, free=memoryText(device.freeBytes))
            items.append((name, device.id))
        if parameters.device not in [data for _text, data in items]:
            items.append((_("{id} (not found)").format(id=parameters.device), parameters.device))
        _setItems(ui.deviceBox, items)
        ui.deviceBox.setCurrentIndex(ui.deviceBox.findData(parameters.device))
        device = engine.device(parameters.device)
        texts = {
            "auto": _("automatic ({precision})").format(precision=device.precision) if device else _("automatic"),
            "fp32": _("full (fp32)"),
            "bf16": _("half (bf16)"),
            "fp16": _("half (fp16)"),
        }
        _setItems(ui.precisionBox, [(texts[precision], precision) for precision in PRECISIONS])
        ui.precisionBox.setCurrentIndex(ui.precisionBox.findData(parameters.precision))

    def _set(self, name: str, value: object) -> None:
        """Writes a parameter on the user's action, and not while a widget is being set from it."""
        parameters = self._session.parameters
        if not self._refreshing and parameters is not None and getattr(parameters, name) != value:
            setattr(parameters, name, value)

    def _onCustom(self) -> None:
        """Begins with what the slider stands for."""
        parameters, model = self._session.parameters, self._session.model
        with slicer.util.NodeModify(parameters.parameterNode):
            parameters.sampler, parameters.steps = self._sampling(parameters, model.description)
            parameters.customSampling = self._ui.customBox.checked

    def _onSampler(self, index: int) -> None:
        self._set("sampler", self._ui.samplerBox.itemData(index))

    def _onSteps(self, value: int) -> None:
        if self._session.parameters is not None and self._session.parameters.customSampling:
            self._set("steps", value)

    def _onGuidance(self, value: float) -> None:
        self._set("guidance", value)

    def _onCondition(self, value: float) -> None:
        self._set("conditionScale", round(value, 1))

    def _onRegionTop(self, index: int) -> None:
        self._setRegion("regionTop", "regionBottom", self._ui.regionTopBox.itemData(index))

    def _onRegionBottom(self, index: int) -> None:
        self._setRegion("regionBottom", "regionTop", self._ui.regionBottomBox.itemData(index))

    def _setRegion(self, name: str, other: str, region: str) -> None:
        """Sets one end. The two ends are chosen, or left to the model, together."""
        parameters = self._session.parameters
        if self._refreshing or parameters is None:
            return
        with slicer.util.NodeModify(parameters.parameterNode):
            setattr(parameters, name, str(region or ""))
            if not region or not getattr(parameters, other):
                setattr(parameters, other, str(region or ""))

    def _onModality(self, index: int) -> None:
        self._set("modality", str(self._ui.modalityBox.itemData(index) or ""))

    def _onMargin(self, value: float) -> None:
        self._set("marginMm", value)

    def _onPrecision(self, index: int) -> None:
        self._set("precision", self._ui.precisionBox.itemData(index))

    def _onDevice(self, index: int) -> None:
        self._set("device", self._ui.deviceBox.itemData(index))

    def _onMemory(self, value: float) -> None:
        self._set("memoryLimitGiB", value)

    def _onPreviews(self) -> None:
        self._set("previews", self._ui.previewsBox.checked)


def _setItems(box, items: list[tuple[str, str]]) -> None:
    """Fills a combo box with (text, data), unless it holds them already."""
    if items != [(box.itemText(n), box.itemData(n)) for n in range(box.count)]:
        box.clear()
        for text, data in items:
            box.addItem(text, data)
