"""The chosen result as DICOM: options, a folder, progress, and what was written."""

from __future__ import annotations

import qt
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.DicomExport import DicomExport, DicomOutcome
from SynthDiffusionJobs.Parameters import DICOM_LABELS
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.sentences import failureText, panelWords, plainText


class DicomPanel:
    """The part "DICOM" of the results.

    Args:
        session: whose engine writes the files, and whose parameters keep the options.
    """

    def __init__(self, session: Session) -> None:
        self._session, self._node = session, None
        self.widget = slicer.util.loadUI(session.resourcePath("UI/DicomPanel.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self._export = DicomExport(session.engine, session.folders)
        self._cancelling = False
        self._say("")
        ui.labelCombo.connect("activated(int)", self._onLabel)
        ui.segmentationCheck.connect("clicked()", self._onSegmentation)
        ui.exportButton.connect("clicked()", self._onExport)
        ui.cancelButton.connect("clicked()", self._onCancel)
        ui.folderButton.connect("clicked()", self._onFolder)
        self._export.changed.connect(self._onProgress)

    @property
    def busy(self) -> bool:
        """Whether a volume is being exported."""
        return self._export.busy

    def close(self) -> None:
        self._export.close()

    def refresh(self, node) -> None:
        """Shows what can be done with a volume; None for none. An export under way goes on."""
        ui, parameters, status = self.ui, self._session.parameters, self._session.engine.status
        self._node = node
        if parameters is not None:
            ui.labelCombo.setCurrentIndex(DICOM_LABELS.index(parameters.dicomLabel))
            ui.segmentationCheck.checked = parameters.dicomSegmentation
        usable = node is not None and self._provenance() is not None and parameters is not None
        for widget in (ui.labelCombo, ui.segmentationCheck):
            widget.enabled = parameters is not None and not self.busy
        ui.segmentationCheck.setVisible(node is None or self._segmentation() is not None)
        missing = self._missingText() if status.ready else ""
        ui.missingLabel.text = missing
        ui.missingLabel.setVisible(bool(missing))
        ui.exportButton.enabled = usable and status.ready and not missing and not self.busy
        tip = _("Asks for a folder, and writes the chosen image into a new folder in it.")
        ui.exportButton.toolTip = tip if status.ready else _("Complete the set-up first.")
        ui.realLabel.setVisible(node is not None and self._isPartlyReal())
        ui.progressBar.setVisible(self.busy)
        ui.cancelButton.setVisible(self.busy)
        ui.cancelButton.enabled = not self._cancelling

    def _provenance(self):
        from SynthDiffusionScene.volumes import provenanceOf

        return provenanceOf(self._node)

    def _segmentation(self):
        from SynthDiffusionScene.runs import SEGMENTATION_ROLE

        return self._node.GetNodeReference(SEGMENTATION_ROLE)

    def _isPartlyReal(self) -> bool:
        from SynthDiffusionScene.volumes import REAL_PIXELS

        return self._node.GetAttribute(REAL_PIXELS) == "YES"

    def _missingText(self) -> str:
        """What the engine's Python lacks to write DICOM, and the mend; "" if it lacks nothing."""
        from SynthDiffusionLib.jobs.command_line import as_text

        engine = self._session.engine
        missing = engine.status.missingDicom
        if not missing:
            return ""
        names = _(" and ").join(entry["requirement"] for entry in missing)
        if not engine.otherPython:  # both belong to Slicer, from 5.12 on
            return _(
                "Writing DICOM needs {names}, which Slicer 5.12 comes with. Install Slicer anew, or choose another"
                " Python in the set-up, under Advanced."
            ).format(names=names)
        command = [engine.otherPython, "-m", "pip", "install", *(entry["requirement"] for entry in missing)]
        return _(
            "Writing DICOM needs {names}. Enter this in a terminal, then click Check again in the set-up:\n{command}"
        ).format(names=names, command=as_text(command))

    def _onLabel(self, index: int) -> None:
        if self._session.parameters is not None:
            self._session.parameters.dicomLabel = DICOM_LABELS[index]  # which are in the order of the box

    def _onSegmentation(self) -> None:
        if self._session.parameters is not None:
            self._session.parameters.dicomSegmentation = self.ui.segmentationCheck.checked

    def _onExport(self) -> None:
        node = self._node
        if self._isPartlyReal() and not slicer.util.confirmOkCancelDisplay(
            plainText(
                _(
                    "'{name}' holds a real patient's image around what was drawn into it. It is not anonymous: the"
                    " files belong where the patient's own images belong. Export it all the same?"
                ).format(name=node.GetName())
            ),
            windowTitle=_("Not anonymous"),
        ):
            return
        folder = qt.QFileDialog.getExistingDirectory(self.widget, _("Export as DICOM into the folder"))
        if folder:
            self.export(node, folder)

    def export(self, node, folder: str) -> None:
        """Exports a volume with the options that are set, and says how that goes."""
        parameters = self._session.parameters
        self._cancelling = False
        self.ui.progressBar.setRange(0, 0)
        self._say(_("Preparing the image."))
        self._export.run(node, folder, parameters.dicomLabel, parameters.dicomSegmentation, self._onEnded)
        self.refresh(self._node)

    def _onCancel(self) -> None:
        self._cancelling = True
        self._say(_("Canceling."))
        self._export.cancel()
        self.refresh(self._node)

    def _onProgress(self) -> None:
        export, bar = self._export, self.ui.progressBar
        bar.setRange(0, export.total)
        bar.setValue(export.step)
        if not self._cancelling:
            self._say(_("Writing slice {step} of {total}.").format(step=export.step, total=export.total))

    def _onEnded(self, outcome: DicomOutcome) -> None:
        self._cancelling = False
        if outcome.done:
            self._say(_writtenText(outcome), outcome.folder)
        elif outcome.cancelled:
            self._say(_("Canceled. Nothing was written."))
        else:
            self._say(failureText(outcome.message, outcome.hint))
        self.refresh(self._node)

    def _onFolder(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._folder))

    def _say(self, text: str, folder: str = "") -> None:
        """Shows a text, and the way to a folder if something was written into it."""
        ui, self._folder = self.ui, folder
        ui.messageLabel.text = text
        ui.messageLabel.setVisible(bool(text))
        ui.folderButton.setVisible(bool(folder))
        ui.folderButton.toolTip = plainText(folder)


def _writtenText(outcome: DicomOutcome) -> str:
    """What was written and where, and what has to be known of it."""
    parts = [_("{n} slices").format(n=outcome.slices)]
    if outcome.segmentation:
        parts.append(_("the segmentation"))
    if outcome.region:
        parts.append(_("the region that is synthetic"))
    lines = [_("Written: {parts}, in {folder}").format(parts=", ".join(parts), folder=outcome.folder)]
    if outcome.realPixels:
        lines.append(_("⚠ Not anonymous: it holds a real patient's image."))
    return "\n".join([*lines, *(panelWords(note) for note in outcome.notes)])
