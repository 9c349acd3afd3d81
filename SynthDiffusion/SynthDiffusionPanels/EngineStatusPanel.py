"""Shows which engine the module works with, or how to mend it when there is none."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _


class EngineStatusPanel:
    """A form of two lines, version and folder, and the research notice.

    Args:
        status: a `SynthDiffusion.EngineStatus`.

    Attributes:
        widget: the qt.QWidget to put into a layout.
        versionLabel, folderLabel, noticeLabel: its labels.
    """

    def __init__(self, status) -> None:
        self.widget = qt.QWidget()
        layout = qt.QFormLayout(self.widget)
        self.versionLabel = self._label(status.version or _("not found"))
        self.folderLabel = self._label(status.folder or f"{status.problem} {status.hint}")
        self.noticeLabel = self._label(_("Research only. Synthetic images are not for diagnosis."))
        layout.addRow(_("Engine version:"), self.versionLabel)
        layout.addRow(_("Engine folder:") if status.folder else _("What to do:"), self.folderLabel)
        layout.addRow(self.noticeLabel)

    @staticmethod
    def _label(text: str) -> qt.QLabel:
        label = qt.QLabel(text)
        label.setTextFormat(qt.Qt.PlainText)  # a folder may have characters that rich text takes for markup
        label.setWordWrap(True)
        label.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
        return label
