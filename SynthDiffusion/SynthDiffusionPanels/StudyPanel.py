"""Reader studies: a reader logs in and reads, a coordinator makes a study."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Session import Session
from SynthDiffusionJobs.Signal import Signal
from SynthDiffusionLib.errors import SynthDiffusionError
from SynthDiffusionPanels.NewStudy import NewStudy
from SynthDiffusionPanels.ReadingPanel import ReadingPanel
from SynthDiffusionPanels.sentences import failureText, plainText

_READER = "SynthDiffusion/StudyReader"


class StudyPanel:
    """The section "Reader study".

    Args:
        session: whose scene is read in, and whose engine makes studies.

    Attributes:
        reading: the panel of a reading.
        newStudy: the panel that makes studies.
        startRequested: Signal(), a reading is about to take the views.
        readingChanged: Signal(), a reading has begun or ended.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.startRequested, self.readingChanged = Signal(), Signal()
        self.widget = slicer.util.loadUI(session.resourcePath("UI/StudyPanel.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self.reading, self.newStudy = ReadingPanel(session), NewStudy(session)
        self.widget.layout().insertWidget(0, self.reading.widget)
        ui.newGroup.layout().addWidget(self.newStudy.widget)
        self._study = None
        self._isRead = False
        self._receipt = ""
        self.reading.widget.hide()
        ui.folderEdit.connect("currentPathChanged(QString)", self._onFolder)
        ui.readerCombo.connect("currentIndexChanged(int)", self._onReader)
        ui.beginButton.connect("clicked()", self._onBegin)
        ui.overrideButton.connect("clicked()", self._onOverride)
        ui.takeOverButton.connect("clicked()", self._onTakeOver)
        ui.receiptButton.connect("clicked()", self._onReceipt)
        self.reading.ended.connect(self._onEnded)
        self.newStudy.made.connect(self._onMade)
        self._say("")
        self._onFolder(ui.folderEdit.currentPath)

    @property
    def isReading(self) -> bool:
        """Whether a reading has the views and the window."""
        return self.reading.isActive

    def enter(self) -> None:
        self.refresh()

    def exit(self) -> None:
        """Ends a reading: another module would show what it must not."""
        self.reading.leave(_("The module was left."))

    def close(self) -> None:
        self.startRequested.disconnectAll()
        self.readingChanged.disconnectAll()
        self.reading.close()
        self.newStudy.close()

    def refresh(self) -> None:
        ui, reading = self.ui, self.isReading
        ui.loginWidget.setVisible(not reading)
        ui.newGroup.setVisible(not reading)
        self.reading.widget.setVisible(reading)
        busy = self._session.queue.current is not None
        ui.beginButton.enabled = self._study is not None and bool(self._reader) and not busy and not self._isRead
        tip = _("Slicer hides everything but the images and the questions until you are done or leave.")
        ui.beginButton.toolTip = _("Wait until the image is made.") if busy else tip
        self.newStudy.refresh()

    @property
    def _reader(self) -> str:
        return str(self.ui.readerCombo.currentText)

    def _onFolder(self, path: str) -> None:
        from SynthDiffusionLib.reader_study.study import Study

        self._study, problem, readers = None, "", []
        path = str(path).strip()
        if path:
            try:
                study = Study.load(Path(path))
                readers = study.readers()
                self._study = study
            except SynthDiffusionError as error:
                problem = failureText(error.message, error.hint)
        combo = self.ui.readerCombo
        combo.blockSignals(True)
        combo.clear()
        for reader in readers:
            combo.addItem(reader)
        usual = str(slicer.app.userSettings().value(_READER, "") or "")
        if usual in readers:
            combo.setCurrentIndex(readers.index(usual))
        elif len(readers) > 1:
            combo.setCurrentIndex(-1)  # nobody is to read under another one's name because it was the first
        combo.blockSignals(False)
        self._say(problem)
        self._onReader()

    def _onReader(self, index: int = 0) -> None:
        ui = self.ui
        study, text, begun = self._study, "", False
        self._isRead = False
        if study is not None:
            text = "\n".join(filter(None, [study.title, str(study.data.get("description") or "")]))
            begun = bool(self._reader) and (study.folder / "records" / f"{self._reader}.jsonl").is_file()
            self._isRead = begun and self._everythingIsRead()
        ui.beginButton.text = _("All is read") if self._isRead else _("Continue") if begun else _("Begin")
        ui.studyLabel.text = text
        ui.studyLabel.setVisible(bool(text))
        self._offer()
        self.refresh()

    def _everythingIsRead(self) -> bool:
        """Whether this reader has nothing left to read, and may change nothing."""
        from SynthDiffusionLib.reader_study.sitting import following_session

        try:
            left, _day = following_session(self._study, self._reader)
        except SynthDiffusionError:
            return False  # beginning says what is wrong
        return left is None and self._study.viewing.get("back", "none") != "session"

    def _onBegin(self) -> None:
        self._open()

    def _onOverride(self) -> None:
        reason = str(qt.QInputDialog.getText(self.widget, _("Begin all the same"), _("Why?")) or "").strip()
        if reason:
            self._open(override_reason=reason)

    def _onTakeOver(self) -> None:
        self._open(take_over=True)

    def _open(self, **options) -> None:
        """Logs in and begins, or says why not."""
        from SynthDiffusionLib.reader_study.locks import Locked
        from SynthDiffusionLib.reader_study.reading import Reading
        from SynthDiffusionLib.reader_study.sitting import WashoutNotOver

        self._say("")
        software = {"Slicer": f"{slicer.app.majorVersion}.{slicer.app.minorVersion} r{slicer.app.revision}"}
        try:
            with slicer.util.WaitCursor():
                reading = Reading.open(self._study.folder, self._reader, software=software, **options)
        except SynthDiffusionError as error:
            self._say(failureText(error.message, error.hint))
            self._offer(override=isinstance(error, WashoutNotOver), takeOver=isinstance(error, Locked))
            return
        slicer.app.userSettings().setValue(_READER, self._reader)
        self.ui.folderEdit.addCurrentPathToHistory()
        self.startRequested.emit()
        try:
            self.reading.begin(reading)
        finally:
            self.refresh()
            self.readingChanged.emit()

    def _onEnded(self, text: str, receipt: str) -> None:
        self._onReader()
        self._say(text, receipt)
        self.readingChanged.emit()

    def _onMade(self, folder: str) -> None:
        """A new study is the one to read next."""
        self.ui.folderEdit.currentPath = folder

    def _onReceipt(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(Path(self._receipt).parent)))

    def _say(self, text: str, receipt: str = "") -> None:
        ui, self._receipt = self.ui, receipt
        ui.messageLabel.text = text
        ui.messageLabel.setVisible(bool(text))
        ui.receiptButton.setVisible(bool(receipt))
        ui.receiptButton.toolTip = plainText(receipt)
        self._offer()

    def _offer(self, override: bool = False, takeOver: bool = False) -> None:
        self.ui.overrideButton.setVisible(override)
        self.ui.takeOverButton.setVisible(takeOver)
