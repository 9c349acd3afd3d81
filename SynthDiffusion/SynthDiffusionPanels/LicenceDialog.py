"""Asks whether the licence of a model is accepted."""

from __future__ import annotations

from html import escape

import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import AvailableModel
from SynthDiffusionPanels.modelTexts import isNonCommercial, licenceName
from SynthDiffusionPanels.sentences import bytesText


def licenceAccepted(resourcePath, model: AvailableModel) -> bool:
    """Shows the licence of a model with Accept and Decline. Closing the dialog is declining.

    Args:
        resourcePath: gives the path of a file under Resources.
        model: that is to be installed.
    """
    dialog = slicer.util.loadUI(resourcePath("UI/LicenceDialog.ui"))
    slicer.util.findChild(dialog, "licenceText").text = licenceMarkup(model)
    try:
        return bool(dialog.exec_())
    finally:
        dialog.deleteLater()


def licenceMarkup(model: AvailableModel) -> str:
    """Name, address and permitted use of a licence, as rich text."""
    licence = model.licence
    lines = [_("The model '{name}' has this license:").format(name=f"<b>{escape(model.name)}</b>")]
    lines.append(f"<b>{escape(licenceName(licence))}</b>")
    if isWebAddress(licence["url"]):
        lines[-1] += "<br>" + link(licence["url"])
    if isNonCommercial(licence):
        lines.append("<b>" + _("Not for commercial use.") + "</b>")
    if licence["permitted_use"]:
        lines.append(escape(licence["permitted_use"]))
    lines.append(_("Read it at its address. By accepting you agree to it."))
    if model.bytes:
        lines.append(_("{size} are downloaded then.").format(size=bytesText(model.bytes)))
    return "".join(f"<p>{line}</p>" for line in lines)


def isWebAddress(text: str) -> bool:
    """Whether a text is what a browser may be given."""
    return text.startswith(("https://", "http://"))


def link(address: str) -> str:
    """An address that opens in the browser, as rich text; broken where Qt would not break it."""
    shown = escape(address).replace("/", "/&#8203;")
    return f'<a href="{escape(address, quote=True)}">{shown}</a>'
