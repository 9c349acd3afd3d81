"""CTK's widgets, as far as panels use them, on PySide6. What each may offer is in the table of Slicer's headers."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Qt

from .collapsible import Collapsible


class ctkCollapsibleButton(Collapsible, QtWidgets.QAbstractButton):
    """A title to click on, above contents that it hides."""

    standin_name = "ctkCollapsibleButton"
    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, *args) -> None:
        text = args[0] if args and isinstance(args[0], str) else ""
        super().__init__(next((a for a in args if isinstance(a, QtWidgets.QWidget)), None))
        self.setText(text)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Preferred)
        self.flat, self.collapsedHeight, self.contentsLineWidth = False, 10, 1
        self._fit_title()
        self.make_collapsible()
        self.toggled.connect(lambda shown: self.contentsCollapsed.emit(not shown))

    def title_height(self) -> int:
        return self._title + 4

    def _fit_title(self) -> None:
        self._title = self.fontMetrics().height() + 10
        self.setContentsMargins(4, self._title + 2, 4, 4)

    def hitButton(self, position) -> bool:
        return 0 <= position.y() < self._title

    def sizeHint(self):
        contents = self.layout().totalSizeHint() if self.layout() and not self.collapsed else QtCore.QSize(0, 0)
        title = QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text()) + 40, self.title_height())
        return contents.expandedTo(title)

    def minimumSizeHint(self):
        opened = self.layout() is not None and not self.collapsed
        return self.layout().totalMinimumSize() if opened else QtCore.QSize(60, self.title_height())

    def changeEvent(self, event) -> None:
        if event.type() == QtCore.QEvent.Type.FontChange:
            self._fit_title()
        super().changeEvent(event)

    def paintEvent(self, _event) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width(), self._title)
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        painter.setPen(self.palette().color(QtGui.QPalette.ColorRole.ButtonText))
        text = ("\u25b8  " if self.collapsed else "\u25be  ") + self.text()
        painter.drawText(option.rect.adjusted(8, 0, -8, 0), Qt.AlignmentFlag.AlignVCenter, text)
        if not self.collapsed:
            painter.setPen(self.palette().color(QtGui.QPalette.ColorRole.Mid))
            painter.drawRect(0, self._title, self.width() - 1, self.height() - self._title - 1)


class ctkCollapsibleGroupBox(Collapsible, QtWidgets.QGroupBox):
    """A group box whose title hides its contents."""

    standin_name = "ctkCollapsibleGroupBox"

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.collapsedHeight = 14
        self.make_collapsible()

    def title_height(self) -> int:
        return self.fontMetrics().height() + self.collapsedHeight


class _NumberWidget(QtWidgets.QWidget):
    """What the spin box and the slider of CTK share: a QDoubleSpinBox that holds the value."""

    valueChanged = QtCore.Signal(float)
    decimalsChanged = QtCore.Signal(int)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._box = QtWidgets.QDoubleSpinBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._box.valueChanged.connect(self.valueChanged)
        self.setFocusProxy(self._box)

    decimals = property(lambda self: self._box.decimals(), lambda self, value: self.setDecimals(value))
    minimum = property(lambda self: self._box.minimum(), lambda self, value: self._box.setMinimum(value))
    maximum = property(lambda self: self._box.maximum(), lambda self, value: self._box.setMaximum(value))
    singleStep = property(lambda self: self._box.singleStep(), lambda self, value: self._box.setSingleStep(value))
    prefix = property(lambda self: self._box.prefix(), lambda self, value: self._box.setPrefix(value))
    suffix = property(lambda self: self._box.suffix(), lambda self, value: self._box.setSuffix(value))
    value = property(lambda self: self._box.value(), lambda self, value: self.setValue(value))

    def setValue(self, value: float) -> None:
        self._box.setValue(value)

    def setDecimals(self, decimals: int) -> None:
        self._box.setDecimals(decimals)
        self.decimalsChanged.emit(decimals)


class ctkDoubleSpinBox(_NumberWidget):
    standin_name = "ctkDoubleSpinBox"
    editingFinished = QtCore.Signal()

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.layout().addWidget(self._box)
        self._box.editingFinished.connect(self.editingFinished)

    readOnly = property(lambda self: self._box.isReadOnly(), lambda self, value: self._box.setReadOnly(value))
    cleanText = property(lambda self: self._box.cleanText())

    def stepUp(self) -> None:
        self._box.stepUp()

    def stepDown(self) -> None:
        self._box.stepDown()


class ctkSliderWidget(_NumberWidget):
    """A slider with a spin box of the same value. The slider counts single steps from the minimum."""

    standin_name = "ctkSliderWidget"
    valueIsChanging = QtCore.Signal(float)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(Qt.Orientation.Horizontal, self)
        self.layout().addWidget(self._slider, 1)
        self.layout().addWidget(self._box)
        self.tracking, self.pageStep = True, 10.0
        self._box.valueChanged.connect(lambda _value: self._move_slider())
        self._slider.valueChanged.connect(lambda step: self._box.setValue(self.minimum + step * self.singleStep))
        self._slider.sliderMoved.connect(lambda _step: self.valueIsChanging.emit(self.value))
        self._move_slider()

    def _move_slider(self) -> None:
        with QtCore.QSignalBlocker(self._slider):
            step = self.singleStep or 1.0
            self._slider.setRange(0, min(10000, round((self.maximum - self.minimum) / step)))
            self._slider.setValue(round((self.value - self.minimum) / step))

    def _set_range(self, which: str, value: float) -> None:
        getattr(self._box, which)(value)
        self._move_slider()

    minimum = property(lambda self: self._box.minimum(), lambda self, value: self._set_range("setMinimum", value))
    maximum = property(lambda self: self._box.maximum(), lambda self, value: self._set_range("setMaximum", value))
    singleStep = property(
        lambda self: self._box.singleStep(), lambda self, value: self._set_range("setSingleStep", value)
    )
    spinBoxVisible = property(lambda self: not self._box.isHidden(), lambda self, value: self._box.setVisible(value))
    tickInterval = property(
        lambda self: float(self._slider.tickInterval()), lambda self, value: self._slider.setTickInterval(int(value))
    )
    tickPosition = property(
        lambda self: self._slider.tickPosition(), lambda self, value: self._slider.setTickPosition(value)
    )

    def setSpinBoxVisible(self, visible: bool) -> None:
        self._box.setVisible(visible)

    def reset(self) -> None:
        self.setValue(min(max(0.0, self.minimum), self.maximum))


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path to type, with a history and a button to browse."""

    standin_name = "ctkPathLineEdit"
    Dirs, Files, Drives = QtCore.QDir.Filter.Dirs, QtCore.QDir.Filter.Files, QtCore.QDir.Filter.Drives
    Readable, Writable, Executable = (getattr(QtCore.QDir.Filter, n) for n in ("Readable", "Writable", "Executable"))
    NoDot, NoDotDot = QtCore.QDir.Filter.NoDot, QtCore.QDir.Filter.NoDotDot
    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)

    def __init__(self, *args) -> None:
        super().__init__(next((a for a in args if isinstance(a, QtWidgets.QWidget)), None))
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setEditable(True)
        self._combo.setMinimumContentsLength(0)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._browse = QtWidgets.QToolButton(self)
        self._browse.setText("...")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo, 1)
        layout.addWidget(self._browse)
        self.label, self.settingKey, self.nameFilters = "", "", ()
        self.filters = QtCore.QDir.Filter.AllEntries
        self.options = QtWidgets.QFileDialog.Option(0)
        self._combo.editTextChanged.connect(self.currentPathChanged)
        self._browse.clicked.connect(lambda: self.browse())
        self.setFocusProxy(self._combo)

    currentPath = property(lambda self: self._combo.currentText(), lambda self, value: self.setCurrentPath(value))
    showBrowseButton = property(
        lambda self: not self._browse.isHidden(), lambda self, value: self._browse.setVisible(value)
    )
    showHistoryButton = property(lambda self: True, lambda self, value: None)

    def setCurrentPath(self, path: str) -> None:
        self._combo.setEditText(path)

    def addCurrentPathToHistory(self) -> None:
        if self._combo.findText(self.currentPath) < 0:
            self._combo.insertItem(0, self.currentPath)

    def comboBox(self):
        return self._combo

    def browse(self) -> None:
        from .dialogs import dialogs

        files = bool(self.filters & QtCore.QDir.Filter.Files)
        path = dialogs.ask("ctkPathLineEdit file" if files else "ctkPathLineEdit folder", self.label)
        if path:
            self.setCurrentPath(path)


class ctkComboBox(QtWidgets.QComboBox):
    standin_name = "ctkComboBox"
    NeverScroll, AlwaysScroll, ScrollWithFocus, ScrollWithNoVScrollBar = range(4)
    returnRelease = QtCore.Signal(str)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.forceDefault, self.scrollWheelEffect = False, self.AlwaysScroll
        self.elideMode, self.defaultIcon = Qt.TextElideMode.ElideNone, QtGui.QIcon()

    defaultText = property(lambda self: self.placeholderText(), lambda self, value: self.setPlaceholderText(value))
    currentUserDataAsString = property(
        lambda self: str(self.currentData() or ""), lambda self, value: self.setCurrentUserDataAsString(value)
    )

    def setCurrentUserDataAsString(self, data: str) -> None:
        self.setCurrentIndex(self.findData(data))

    def wheelEvent(self, event) -> None:
        if self.scrollWheelEffect == self.AlwaysScroll:
            super().wheelEvent(event)
        elif self.scrollWheelEffect == self.NeverScroll:
            event.ignore()
        else:
            raise NotImplementedError("ctkComboBox: a wheel effect that the stand-in does not make yet")


class ctkSearchBox(QtWidgets.QLineEdit):
    standin_name = "ctkSearchBox"

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.setClearButtonEnabled(True)
        self.showSearchIcon, self.searchIcon, self.clearIcon = False, QtGui.QIcon(), QtGui.QIcon()


class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    """A text browser as high as its text, part of which may be folded away."""

    standin_name = "ctkFittedTextBrowser"

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._collapsed, self._teaser, self._rest, self.disableMouseScroll = True, "", "", False
        self.showDetailsText, self.hideDetailsText = "Show details...", "Hide details."
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self.textChanged.connect(self.updateGeometry)

    collapsed = property(lambda self: self._collapsed, lambda self, value: self._fold(value))

    def setCollapsibleText(self, text: str) -> None:
        self._teaser, _, self._rest = text.partition("\n")
        self._fold(self._collapsed)

    setCollapsiblePlainText = setCollapsibleText
    setCollapsibleHtml = setCollapsibleText

    def collapsibleText(self) -> str:
        return "\n".join(part for part in (self._teaser, self._rest) if part)

    def _fold(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self.setText(self._teaser if collapsed else self.collapsibleText())

    def heightForWidth(self, width: int) -> int:
        document = self.document().clone()
        document.setTextWidth(width - 4)
        return int(document.size().height()) + 4

    def sizeHint(self):
        return QtCore.QSize(120, self.heightForWidth(self.width()))

    def minimumSizeHint(self):
        return QtCore.QSize(60, self.heightForWidth(self.width()))

    def resizeEvent(self, event) -> None:
        super().resizeEvent(event)
        self.updateGeometry()


class ctkCheckBox(QtWidgets.QCheckBox):
    standin_name = "ctkCheckBox"


class ctkMessageBox(QtWidgets.QMessageBox):
    """A message box with "don't show again"."""

    standin_name = "ctkMessageBox"

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.dontShowAgain, self.dontShowAgainVisible, self.dontShowAgainSettingsKey = False, False, ""


CLASSES = {name: value for name, value in globals().items() if name.startswith("ctk")}
