"""What the tumour is to be like that is made together with an image: size, shape and place, set or left to chance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Parameters import JOINT, sizeOf
from SynthDiffusionJobs.Session import Session
from SynthDiffusionJobs.Tumour import FIELDS, Trained, boxOf, trainedOf
from SynthDiffusionPanels.modelTexts import targetName
from SynthDiffusionPanels.tumourTexts import decimalsOf, meant, shown, trainedText, warningText


class TumourSettings:
    """The group "The tumour" of the model panel, with a box in the slice views.

    While the group is open in front of the user, the box follows the sliders, also in the middle of a drag; the
    parameters are written at its end.

    Args:
        session: whose parameters are set.

    Attributes:
        widget: to be put into the model panel; hidden where the model or the mode has no tumour to be asked for.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.widget = slicer.util.loadUI(session.resourcePath("UI/TumourSettings.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self._sliders = {
            "volume_mm3": (ui.volumeSlider,),
            "surface_mm2": (ui.surfaceSlider,),
            "sphericity": (ui.sphericitySlider,),
            "center": (ui.centerRSlider, ui.centerASlider, ui.centerSSlider),
            "box": (ui.boxRSlider, ui.boxASlider, ui.boxSSlider),
        }
        keys = {"volume_mm3": "volume", "surface_mm2": "surface"}
        parts = {field: keys.get(field, field) for field in FIELDS}
        self._boxes = {field: getattr(ui, f"{part}Box") for field, part in parts.items()}
        self._groups = {field: getattr(ui, f"{part}Widget") for field, part in parts.items()}
        self._ranges = {field: getattr(ui, f"{part}RangeLabel") for field, part in parts.items()}
        self._trained: dict[str, Trained] = {}
        self._preview = None
        self._refreshing = self._visible = self._inSight = False
        for field, box in self._boxes.items():
            box.connect("clicked()", partial(self._onChecked, field))
            for name, slider in zip(FIELDS[field], self._sliders[field]):
                slider.connect("valueIsChanging(double)", partial(self._onChanging, name))
                slider.connect("valueChanged(double)", partial(self._onChanged, name))
        ui.tumourBox.connect("toggled(bool)", self._onToggled)
        self.widget.hide()

    def enter(self) -> None:
        self._visible = True
        self._showPreview(self._asked())

    def exit(self) -> None:
        self._visible = False
        self._removePreview()

    def close(self) -> None:
        self._removePreview()

    def setInSight(self, inSight: bool) -> None:
        """Whether the section of the module that the group lies in is open."""
        self._inSight = inSight
        self._showPreview(self._asked())

    def refresh(self) -> None:
        """Shows the parameters, if there are any and the model makes a tumour by them."""
        parameters, model = self._session.parameters, self._session.model
        description = model.description if model is not None and model.usable else {}
        asking = parameters is not None and parameters.mode == JOINT and JOINT in description.get("modes", ())
        self._trained = trainedOf(description, sizeOf(parameters.size)) if asking else {}
        self.widget.visible = bool(self._trained)
        if not self._trained:
            self._removePreview()
            return
        self._refreshing = True
        try:
            self._showFields(self._asked(), targetName(description))
        finally:
            self._refreshing = False
        self._showPreview(self._asked())

    def fit(self, description: Mapping) -> None:
        """Takes back what another model has not been trained near to."""
        parameters = self._session.parameters
        trained, asked = trainedOf(description), self._asked()
        if not trained:  # it is not used, and is there again when the user comes back to the other model
            return
        fitting = {
            name: asked[name]
            for names in FIELDS.values()
            if all(name in asked and trained[name].least <= asked[name] <= trained[name].most for name in names)
            for name in names
        }
        if fitting != asked:
            parameters.tumour = fitting

    def _asked(self) -> dict[str, float]:
        parameters = self._session.parameters
        return dict(parameters.tumour) if parameters is not None else {}

    def _showFields(self, asked: Mapping[str, float], target: str) -> None:
        ui = self.ui
        ui.tumourBox.title = _("The {target}").format(target=target)
        ui.introLabel.text = _(
            "The image and the segmentation of the {target} are made together; nothing is drawn. Uncheck what you want"
            " to set; the rest is left to chance."
        ).format(target=target)
        for field, names in FIELDS.items():
            chance = names[0] not in asked
            self._boxes[field].checked = chance
            self._groups[field].visible = not chance
            self._ranges[field].text = trainedText(field, self._trained)
            for name, slider in zip(names, self._sliders[field]):
                self._set(slider, name, asked.get(name, self._trained[name].median))
        self._warn(asked)

    def _set(self, slider, name: str, value: float) -> None:
        trained = self._trained[name]
        decimals = decimalsOf(name, trained)
        slider.decimals = decimals
        slider.singleStep = 10.0**-decimals
        # A value of elsewhere, such as of a volume of the command line, is shown as it is.
        slider.minimum = shown(name, min(trained.least, value))
        slider.maximum = shown(name, max(trained.most, value))
        slider.value = shown(name, value)

    def _warn(self, asked: Mapping[str, float]) -> None:
        text = warningText(asked, self._trained)
        self.ui.warningLabel.text = text
        self.ui.warningLabel.visible = bool(text)

    # The box in the slice views

    def _showPreview(self, asked: Mapping[str, float]) -> None:
        from SynthDiffusionScene.tumourPreview import TumourPreview

        box = boxOf(asked, self._trained)
        self.ui.previewLabel.visible = box is not None
        self.ui.previewLabel.text = self._previewText(asked)
        if box is None or not (self._visible and self._inSight) or self.ui.tumourBox.collapsed:
            self._removePreview()
            return
        if self._preview is None:
            self._preview = TumourPreview(self._session.scene)
        self._preview.show(*box)

    @staticmethod
    def _previewText(asked: Mapping[str, float]) -> str:
        if FIELDS["center"][0] in asked:
            return _("The box in the slice views shows about where it will be.")
        return _("The box in the slice views shows about how large it will be. Where it will be is left to chance.")

    def _removePreview(self) -> None:
        if self._preview is not None:
            self._preview.remove()
            self._preview = None

    def _onToggled(self, opened: bool) -> None:
        self._showPreview(self._asked())

    # What the user sets

    def _onChecked(self, field: str) -> None:
        """Left to chance, or set, beginning with the middle patient's."""
        if self._refreshing or self._session.parameters is None or not self._trained:
            return
        asked = {name: value for name, value in self._asked().items() if name not in FIELDS[field]}
        if not self._boxes[field].checked:
            asked |= {name: self._middle(name) for name in FIELDS[field]}
        self._session.parameters.tumour = asked

    def _middle(self, name: str) -> float:
        """The median, as the slider shows it."""
        trained = self._trained[name]
        return meant(name, round(shown(name, trained.median), decimalsOf(name, trained)))

    def _onChanging(self, name: str, value: float) -> None:
        asked = self._asked()
        if not self._refreshing and name in asked:
            asked[name] = meant(name, value)
            self._warn(asked)
            self._showPreview(asked)

    def _onChanged(self, name: str, value: float) -> None:
        asked = self._asked()
        if not self._refreshing and name in asked and asked[name] != meant(name, value):
            self._session.parameters.tumour = asked | {name: meant(name, value)}
