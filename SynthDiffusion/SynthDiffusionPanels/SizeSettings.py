"""How large the image is, where the drawing does not say it."""

from __future__ import annotations

from collections.abc import Mapping

from slicer.i18n import tr as _

from SynthDiffusionJobs.Generation import bearsSizes
from SynthDiffusionJobs.Parameters import NEAREST, UNCONDITIONAL, UNDRAWN, sizeOf, sizeText
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.modelTexts import sizeChoices


class SizeSettings:
    """Size and voxels of an image without a drawing, and whether a drawing is brought to a size that the model makes.

    Args:
        session: whose parameters are set.
        ui: of the model panel; has `sizeWidget` with what is in it, and `nearestBox`.
    """

    def __init__(self, session: Session, ui) -> None:
        self._session, self._ui = session, ui
        self._refreshing = False
        ui.sizeBox.connect("activated(int)", self._onSize)
        ui.acrossBox.connect("valueChanged(double)", self._onAcross)
        ui.sliceBox.connect("valueChanged(double)", self._onSlice)
        ui.nearestBox.connect("clicked()", self._onNearest)

    def refresh(self) -> None:
        """Shows the parameters."""
        ui, parameters, model = self._ui, self._session.parameters, self._session.model
        description = model.description if model is not None and model.usable else None
        self._refreshing = True
        try:
            undrawn = description is not None and parameters.mode in UNDRAWN
            ui.sizeWidget.visible = undrawn and (parameters.mode == UNCONDITIONAL or _hasChoice(description))
            limited = description is not None and bearsSizes(description)
            ui.nearestBox.visible = parameters.mode == "whole" and limited
            ui.nearestBox.checked = parameters.size == NEAREST
            if description is not None:
                self._showSizes(parameters.size, description)
                self._showVoxels(parameters, description)
        finally:
            self._refreshing = False

    def fit(self, description: Mapping) -> None:
        """Takes back what another model does not make."""
        parameters = self._session.parameters
        size = sizeOf(parameters.size)
        if size is not None and tuple(size) not in sizeChoices(description):
            parameters.size = ""
        if not bearsSizes(description):
            parameters.acrossMm = parameters.sliceMm = 0.0
            if parameters.size == NEAREST:
                parameters.size = ""

    def _showSizes(self, chosen: str, description: Mapping) -> None:
        box, own = self._ui.sizeBox, description["grid"].get("default_size")
        text = _("model's own ({size})").format(size=_by(own)) if own else _("model's own")
        sizes = [(text, ""), *((_by(size), sizeText(size)) for size in sizeChoices(description))]
        size = sizeOf(chosen)
        if size is not None and chosen not in [data for _text, data in sizes]:  # of a volume of the command line
            sizes.append((_by(size), chosen))
        if sizes != [(box.itemText(n), box.itemData(n)) for n in range(box.count)]:
            box.clear()
            for text, data in sizes:
                box.addItem(text, data)
        box.setCurrentIndex(box.findData(chosen if size is not None else ""))

    def _showVoxels(self, parameters, description: Mapping) -> None:
        ui, grid = self._ui, description["grid"]
        for label, box, value, axis in (
            (ui.acrossLabel, ui.acrossBox, parameters.acrossMm, 0),
            (ui.sliceLabel, ui.sliceBox, parameters.sliceMm, 2),
        ):
            # Voxels of a model that makes one kind only cannot be chosen.
            label.visible = box.visible = bearsSizes(description) or value > 0
            box.specialValueText = _("model's own ({value})").format(value=f"{grid['spacing_mm'][axis]:g}")
            box.value = value

    def _set(self, name: str, value: object) -> None:
        """Writes a parameter on the user's action, and not while a widget is being set from it."""
        parameters = self._session.parameters
        if not self._refreshing and parameters is not None and getattr(parameters, name) != value:
            setattr(parameters, name, value)

    def _onSize(self, index: int) -> None:
        self._set("size", str(self._ui.sizeBox.itemData(index) or ""))

    def _onAcross(self, value: float) -> None:
        self._set("acrossMm", value)

    def _onSlice(self, value: float) -> None:
        self._set("sliceMm", value)

    def _onNearest(self) -> None:
        self._set("size", NEAREST if self._ui.nearestBox.checked else "")


def _hasChoice(description: Mapping) -> bool:
    return bearsSizes(description) or len(sizeChoices(description)) > 1


def _by(values) -> str:
    return " x ".join(f"{value:g}" for value in values)
