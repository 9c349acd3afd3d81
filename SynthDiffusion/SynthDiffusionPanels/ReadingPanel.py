"""A blinded reading: one case after the other, with its questions beside the images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs.Session import Session
from SynthDiffusionJobs.Signal import Signal
from SynthDiffusionLib.errors import SynthDiffusionError
from SynthDiffusionPanels.ReadingForm import STUDY, ReadingForm, answerKeysText
from SynthDiffusionPanels.ReadingKeys import ReadingKeys
from SynthDiffusionPanels.ReadingMarks import ReadingMarks
from SynthDiffusionPanels.ReadingTouch import ReadingTouch
from SynthDiffusionPanels.ReadingWindow import ReadingWindow
from SynthDiffusionPanels.sentences import failureText

# What is on the panel.
CASE, PAUSED, FEEDBACK, STUDY_QUESTIONS, STUCK = "case", "paused", "feedback", "study questions", "stuck"


class ReadingPanel:
    """Shows a `SynthDiffusionLib.reader_study.reading.Reading` until its session is read, or the reader leaves.

    From `begin` to the end Slicer's window is blinded (`ReadingWindow`) and its views are the reading's
    (`SynthDiffusionScene.readingViews`); both are given back at the end, whatever ends it.

    Args:
        session: whose scene the images are loaded into.

    Attributes:
        ended: Signal(sentence, path of the receipt or ""), the reading is over and the window is the user's again.
        page: what is shown now.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.ended = Signal()
        self.widget = slicer.util.loadUI(session.resourcePath("UI/ReadingPanel.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        font = ui.caseLabel.font
        font.setBold(True)
        ui.caseLabel.setFont(font)
        # Where Slicer's panel is taller than the questions, the space goes below them.
        ui.formWidget.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Maximum)
        self.widget.layout().addStretch(1)
        for button in (ui.againButton, ui.backButton, ui.nextButton, ui.pauseButton, ui.leaveButton):
            button.setAutoDefault(False)
        self._window, self._touch = ReadingWindow(), ReadingTouch(self._onTouched)
        self._reading = self._views = self._marks = self._form = self._keys = None
        self._presets: list = []
        self._retry: Callable[[], None] | None = None
        self._fitted, self._endFailed = "", False
        self._drafts: dict[int, dict] = {}  # answers that were begun and not stored, by position
        self.page = ""
        ui.nextButton.connect("clicked()", self.goOn)
        ui.backButton.connect("clicked()", self.goBack)
        ui.pauseButton.connect("clicked()", self.togglePause)
        ui.leaveButton.connect("clicked()", self._onLeave)
        ui.againButton.connect("clicked()", self._onAgain)
        ui.windowCombo.connect("currentIndexChanged(int)", self._onWindow)

    @property
    def isActive(self) -> bool:
        """Whether a reading is shown."""
        return self._reading is not None

    @property
    def form(self) -> ReadingForm | None:
        """The questions that are shown."""
        return self._form

    def begin(self, reading) -> None:
        """Shows a reading.

        Raises:
            Exception: the window could not be prepared. It is as before then, and the reading is abandoned.
        """
        from SynthDiffusionScene.preview import fitThrough
        from SynthDiffusionScene.readingViews import ReadingViews, Window

        self._reading = reading
        try:
            layoutNode = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
            fitView = fitThrough(slicer.app.applicationLogic())
            self._views = ReadingViews(self._session.scene, layoutNode, fitView, self._onViewsStopped)
            self._marks = ReadingMarks(self._views, self._touch)
            self._presets = Window.listed(reading.study.viewing)
            self._window.hide()
            self._keys = ReadingKeys(self.widget, self._onNumber, self.goOn, self.togglePause, self.goBack)
            self._fillWindows()
            self._refreshNotices(forget=True)
            self._showCase()
        except BaseException:
            self._giveBack()
            reading.abandon()
            raise

    def leave(self, reason: str = "") -> None:
        """Ends the sitting, whether or not its end can be stored: for ends that do not wait. Nothing without a reading.

        Args:
            reason: a sentence that tells the reader why, where it was not the reader's own wish.
        """
        reading = self._reading
        if reading is None:
            return
        try:
            self._end(reading.close(), reason)
        except SynthDiffusionError as error:
            reading.abandon()
            text = _("Your answers are stored, but the end of the sitting could not be.")
            self._end(None, "\n".join(filter(None, [reason, text, failureText(error.message, error.hint)])))

    def close(self) -> None:
        """Ends a reading, and lets go of everything."""
        if self.isActive:
            self.leave()
            window = slicer.util.mainWindow()
            if window is not None:  # what Slicer has stored while it was blinded must not be how it starts
                window.saveGUIState()
        self.ended.disconnectAll()

    # Cases

    def _showCase(self) -> None:
        """Shows what comes next: a case, the questions on the whole study, or the end."""
        reading = self._reading
        self._dropForm()
        self._say("")
        if reading.current is None:
            task = reading.current_study_task
            if task is None:
                self._attempt(self._finish, STUCK)
            else:
                self._showStudyQuestions(task)
            return
        from SynthDiffusionScene.errors import SceneError

        task = reading.task
        try:
            with slicer.util.WaitCursor():
                volumes, masks = reading.volume_paths, reading.mask_paths
                self._views.show(task.kind, reading.study.viewing, volumes, masks, task.show_mask)
            tags = [view.tag for view in self._views.views]
            self._window.hideControllers(tags)
            self._touch.listen(tags)
            self._makeForm(task)
            reading.show(self._views.state())
        except (SceneError, SynthDiffusionError) as error:
            self._views.clear()  # no images without a record that they were shown
            self._dropForm()
            self._stick(error, self._showCase)
            return
        if self._fitted != self._views.layoutName:
            # The views get their size when Qt has laid them out.
            self._fitted = self._views.layoutName
            qt.QTimer.singleShot(0, self._fitOnce)
        self._setPage(CASE)

    def _fitOnce(self) -> None:
        if self.isActive and self._views is not None:
            self._views.fit()

    def _makeForm(self, task) -> None:
        reading = self._reading
        places = (_("left"), _("right")) if len(reading.current.volumes) == 2 else ()
        answers = self._drafts.get(reading.current.position, reading.previous_answers)
        form = ReadingForm(task.form, answers=answers, places=places, volumes=reading.current.volumes)
        self._putForm(form)
        self._marks.follow(form)

    def _showStudyQuestions(self, task: str) -> None:
        self._views.clear()
        self._studyTask = task
        self._putForm(ReadingForm(self._reading.study.tasks[task].form, per=STUDY))
        self._setPage(STUDY_QUESTIONS)

    def _putForm(self, form: ReadingForm) -> None:
        self._form = form
        self.ui.formWidget.layout().addWidget(form.widget)
        form.changed.connect(self._onAnswered)

    def _dropForm(self) -> None:
        if self._marks is not None:
            self._marks.giveUp()
            self._marks.follow(None)
        if self._form is not None:
            form, self._form = self._form, None
            form.widget.hide()
            self.ui.formWidget.layout().removeWidget(form.widget)
            form.close()

    def goOn(self) -> None:
        """Stores the answers and shows the next case."""
        if self.isActive:
            self._refreshNotices(forget=True)
        if self.page == CASE:
            self._attempt(self._storeCase)
        elif self.page == FEEDBACK:
            self._showCase()
        elif self.page == STUDY_QUESTIONS:
            self._attempt(self._storeStudyQuestions)
        elif self.page == STUCK:
            self._onAgain()

    def goBack(self) -> None:
        """Shows the case before again, where the study lets the reader."""
        if self.page == CASE and self._reading.can_go_back:
            self._attempt(self._stepBack)

    def togglePause(self) -> None:
        """Hides the images and stops the time, or goes on."""
        if self.page in (CASE, PAUSED):
            self._attempt(self._resume if self.page == PAUSED else self._pause)

    @property
    def _unstored(self) -> dict | None:
        """Answers on the panel that differ from those that are stored."""
        if self.page not in (CASE, PAUSED) or self._form is None:
            return None
        return None if self._form.answers == (self._reading.previous_answers or {}) else self._form.answers

    def _stepBack(self) -> None:
        begun = {self._reading.current.position: self._unstored}
        self._reading.back()
        self._drafts |= {position: answers for position, answers in begun.items() if answers is not None}
        self._showCase()

    def _pause(self) -> None:
        self._marks.giveUp()
        self._views.hideImages()
        try:
            self._reading.pause()
        except SynthDiffusionError:
            self._views.showImages()
            raise
        self._setPage(PAUSED)

    def _resume(self) -> None:
        self._reading.resume()
        self._views.showImages()
        self._setPage(CASE)

    def _storeCase(self) -> None:
        reading, form = self._reading, self._form
        if not form.isComplete:
            form.showProblems()
            self._say(_("Some answers are missing."))
            return
        if reading.is_answered:
            if form.answers != reading.previous_answers:
                reason = str(qt.QInputDialog.getText(self.widget, _("Change"), _("Why do you change it?")) or "")
                if not reason.strip():
                    self._say(_("Nothing was changed: a change needs a reason."))
                    return
                reading.change(form.answers, reason, self._views.state())
            self._drafts.pop(reading.current.position, None)
            reading.forward()
            self._showCase()
            return
        self._drafts.pop(reading.current.position, None)  # if it cannot be stored, the form still has it
        feedback = reading.commit(form.answers, self._views.state())
        if feedback:
            self.ui.feedbackLabel.text = feedback
            form.widget.enabled = False
            self._setPage(FEEDBACK)
        else:
            self._showCase()

    def _storeStudyQuestions(self) -> None:
        if not self._form.isComplete:
            self._form.showProblems()
            self._say(_("Some answers are missing."))
            return
        self._reading.commit_study(self._studyTask, self._form.answers)
        self._showCase()

    # Failures

    def _attempt(self, action: Callable[[], None], page: str = "") -> None:
        """Does something that writes to the disk. If that fails all stays as it is, and can be tried again.

        Args:
            action: what to do.
            page: what to show if it fails; "" for what is shown.
        """
        from SynthDiffusionLib.reader_study.answers import AnswersIncomplete, TooEarly

        self._say("")
        try:
            action()
        except AnswersIncomplete as error:
            self._form.showProblems(error.problems)
            self._say(_("Some answers are missing."))
        except TooEarly as error:
            self._say(failureText(error.message, error.hint))
        except SynthDiffusionError as error:
            if page:
                self._setPage(page)
            self._say(failureText(error.message, error.hint), lambda: self._attempt(action, page))
        if self.isActive:
            self._refreshNotices()

    def _stick(self, error, retry: Callable[[], None]) -> None:
        """The next case cannot be shown."""
        self._setPage(STUCK)
        self._say(failureText(error.message, error.hint), retry)

    def _say(self, text: str, retry: Callable[[], None] | None = None) -> None:
        self._retry = retry
        if retry is not None:
            text += "\n" + _("Your answers so far are stored. Nothing is lost.")
        self.ui.messageLabel.text = f"⚠ {text}" if text else ""
        self.ui.messageLabel.setVisible(bool(text))
        self.ui.againButton.setVisible(retry is not None)

    def _onAgain(self) -> None:
        if self._retry is not None:
            self._retry()

    # What the reader does

    def _onTouched(self) -> None:
        if self.isActive and self.page == CASE:
            self._reading.touch()

    def _onAnswered(self) -> None:
        self._onTouched()
        if self._retry is None and self._form.isComplete:
            self._say("")
        self._refreshButtons()

    def _onNumber(self, number: int) -> None:
        if self.page in (CASE, STUDY_QUESTIONS) and self._form is not None:
            self._form.pressKey(number)

    def _onWindow(self, index: int) -> None:
        if self.isActive and 0 <= index < len(self._presets):
            self._onTouched()
            self._views.setWindow(self._presets[index])

    def _onLeave(self) -> None:
        box = qt.QMessageBox(self.widget)
        box.setWindowTitle(_("Leave the reading"))
        text = _("What you have answered is stored. You can go on another time.")
        if self._unstored is not None or self._drafts:
            text = _("The answers to this case are not stored yet: stay and go on to keep them. All others are stored.")
        box.setText(text)
        leave = box.addButton(_("Leave"), qt.QMessageBox.AcceptRole)
        unblinded = box.addButton(_("I learned which is synthetic..."), qt.QMessageBox.DestructiveRole)
        stay = box.addButton(_("Stay"), qt.QMessageBox.RejectRole)
        box.setDefaultButton(stay)
        box.setEscapeButton(stay)
        box.exec_()
        clicked = box.clickedButton()
        box.deleteLater()
        if clicked == leave and self._endFailed:
            self.leave()
        elif clicked == leave:
            self._attempt(self._finish)
        elif clicked == unblinded:
            reason = str(qt.QInputDialog.getText(self.widget, _("Unblinded"), _("What happened?")) or "").strip()
            if reason:
                self._attempt(lambda: self._leaveUnblinded(reason))

    def _leaveUnblinded(self, reason: str) -> None:
        self._reading.unblinded(reason)
        self.leave(_("It is recorded that you were unblinded. Please tell the coordinator."))

    def _finish(self) -> None:
        try:
            receipt = self._reading.close()
        except SynthDiffusionError:
            self._endFailed = True
            raise
        self._end(receipt)

    def _onViewsStopped(self, reason: str) -> None:
        self.leave(reason)

    # End

    def _end(self, receipt, reason: str = "") -> None:
        reading = self._reading
        lines, path = [reason, *reading.messages, self._farewell(reading)], None
        if receipt is not None:
            path = reading.study.folder / "records" / "receipts" / receipt.file_name
        written = path is not None and path.is_file()
        if written:
            lines.append(_("Please send the receipt to the coordinator: it shows that nothing was changed afterwards."))
        self._giveBack()
        self.ended.emit("\n".join(filter(None, lines)), str(path) if written else "")

    def _giveBack(self) -> None:
        """Everything as it was before `begin`; each part whether or not another one fails."""
        self._reading, self.page = None, ""
        with contextlib.ExitStack() as stack:
            stack.callback(self._window.restore)
            if self._views is not None:
                stack.callback(self._views.end)
            stack.callback(self._touch.stop)
            if self._keys is not None:
                stack.callback(self._keys.close)
            stack.callback(self._dropForm)
        self._views = self._marks = self._keys = None
        self._fitted, self._endFailed, self._drafts = "", False, {}

    def _farewell(self, reading) -> str:
        from SynthDiffusionLib.reader_study.sitting import following_session

        done, total = reading.progress
        if done < total:
            text = _("{done} of {total} cases of this session are read. You can go on another time.")
            return text.format(done=done, total=total)
        text = _("All {total} cases of this session are read. Thank you.").format(total=total)
        try:
            session, day = following_session(reading.study, reading.reader)
        except SynthDiffusionError:  # the disk is gone; what is stored was said
            return text
        if session is None:
            return text
        follows = _("Another session follows.") if day is None else _("Another session follows, from {date} on.")
        return f"{text} {follows.format(date=day)}"

    # What is seen

    def _fillWindows(self) -> None:
        combo = self.ui.windowCombo
        combo.blockSignals(True)
        combo.clear()
        for preset in self._presets:
            combo.addItem(preset.name)
        combo.blockSignals(False)

    def _setPage(self, page: str) -> None:
        self.page = page
        ui, reading = self.ui, self._reading
        viewing, training = reading.study.viewing, page == FEEDBACK
        if page != FEEDBACK:  # the reading is at the next case already, the images are not
            ui.caseLabel.text = self._caseText(page)
            ui.titleLabel.text = self._form.form.title if self._form is not None else ""
        ui.titleLabel.setVisible(page in (CASE, FEEDBACK, STUDY_QUESTIONS))
        done, total = reading.progress
        ui.progressBar.setRange(0, max(total, 1))
        ui.progressBar.setValue(done)
        ui.progressBar.setVisible(bool(viewing.get("show_position", True)))
        images = page in (CASE, FEEDBACK)
        ui.windowWidget.setVisible(images and len(self._presets) > 1)
        locked = bool(viewing.get("window_locked"))
        ui.windowHintLabel.text = "" if locked else _("Drag in an image to change its brightness and contrast.")
        ui.windowHintLabel.setVisible(page == CASE and not locked)
        ui.formWidget.setVisible(page in (CASE, FEEDBACK, STUDY_QUESTIONS))
        ui.feedbackLabel.setVisible(training)
        ui.pauseButton.setVisible(page in (CASE, PAUSED))
        ui.pauseButton.text = _("Go on") if page == PAUSED else _("Pause")
        ui.nextButton.setVisible(page in (CASE, FEEDBACK, STUDY_QUESTIONS))
        ui.keysLabel.setVisible(page in (CASE, PAUSED, FEEDBACK, STUDY_QUESTIONS))
        self._refreshButtons()
        self._refreshNotices()

    def _caseText(self, page: str) -> str:
        if page == PAUSED:
            return _("Paused")
        if page == STUDY_QUESTIONS:
            return _("Closing questions")
        text = self._reading.position_text
        if not self._reading.study.viewing.get("show_position", True):
            text = text.split(" ")[0]
        return _("{case} (answered)").format(case=text) if self._reading.is_answered else text

    def _refreshButtons(self) -> None:
        ui, reading = self.ui, self._reading
        looking = self.page == CASE and reading.is_answered
        text = _("Next")
        if self.page == FEEDBACK:
            text = _("Go on")
        elif looking:
            changed = self._form.answers != reading.previous_answers
            text = _("Store the change...") if changed else _("Forward")
        ui.nextButton.text = text
        ui.backButton.setVisible(self.page == CASE and reading.study.viewing.get("back") == "session")
        ui.backButton.enabled = reading.can_go_back
        keys = [answerKeysText(self._form) if self._form and self.page in (CASE, STUDY_QUESTIONS) else ""]
        keys.append(_("Enter: {button}").format(button=text.lower().rstrip(".")) if self.page != PAUSED else "")
        keys.append({CASE: _("P: pause"), PAUSED: _("P: go on")}.get(self.page, ""))
        keys.append(_("Backspace: back") if ui.backButton.enabled and self.page == CASE else "")
        ui.keysLabel.text = _("Keys: {keys}").format(keys=", ".join(filter(None, keys)))

    def _refreshNotices(self, forget: bool = False) -> None:
        """What the reading wants to be told once; it stays until the reader goes on."""
        messages, self._reading.messages = list(self._reading.messages), []
        if messages or forget:
            self.ui.noticeLabel.text = "\n".join(messages)
            self.ui.noticeLabel.setVisible(bool(messages))
