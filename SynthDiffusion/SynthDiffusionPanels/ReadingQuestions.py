"""One question of a form as widgets: a class for each kind of answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import qt
from slicer.i18n import tr as _

# No wrapped text in Qt's buttons: labels are broken so that they fit into a panel of 400 pixels, at any font.
_LABEL_PIXELS = 300
_SHORT_ROW = 16  # characters of all labels of a scale that is laid out in a row
_TEXT_LINES = 3
_LARGE = 2.6  # height of the two buttons of a choice, in lines


@dataclass(frozen=True)
class Point:
    """A mark in an image.

    Args:
        volume: 0, or 1 for the right one of two.
        ras: in mm.
        slice: in which plane it was marked.
        text: what stands beside it in the image.
    """

    volume: int
    ras: tuple[float, float, float]
    slice: str
    text: str = ""


class Question:
    """Text, help and problem of a question; what answers it is put below by the classes that derive from this one.

    Args:
        item: a `SynthDiffusionLib.reader_study.forms.Item`.
        onChanged: called with this question when its answer has changed.
    """

    keyCount = 0

    def __init__(self, item, onChanged: Callable) -> None:
        self.item, self._onChanged = item, onChanged
        self.isShown = True
        self.widget = qt.QWidget()
        self._layout = qt.QVBoxLayout(self.widget)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(3)
        needed = item.required and item.type != "info"
        self.textLabel = self._label(f"{item.text} *" if needed else item.text)
        if item.type != "info":
            font = self.textLabel.font
            font.setBold(True)
            self.textLabel.setFont(font)
        if needed:
            self.textLabel.setToolTip(_("An answer is needed."))
        self.helpLabel = self._label(item.help)
        self.helpLabel.setVisible(bool(item.help))
        self._build()
        self.problemLabel = self._label("")
        self.problemLabel.hide()

    @property
    def takesKeys(self) -> bool:
        """Whether number keys answer it."""
        return self.keyCount > 0

    def answer(self):
        """The answer as the form stores it; None without one."""
        return None

    def setAnswer(self, value) -> None:
        """Shows an answer that was given before."""

    def pressKey(self, number: int) -> bool:
        """Answers with option `number`, from 1. Returns whether there is one."""
        return False

    def setShown(self, shown: bool) -> None:
        self.isShown = shown
        self.widget.setVisible(shown)

    def setProblem(self, text: str) -> None:
        """What is wrong with the answer; "" for nothing."""
        self.problemLabel.text = f"⚠ {text}" if text else ""
        self.problemLabel.setVisible(bool(text))

    def _build(self) -> None:
        """Adds what answers the question."""

    def _changed(self, *_arguments) -> None:
        self._onChanged(self)

    def _label(self, text: str):
        label = qt.QLabel(text)
        label.setTextFormat(qt.Qt.PlainText)
        label.setWordWrap(True)
        label.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)
        self._layout.addWidget(label)
        return label


class OptionsQuestion(Question):
    """One of several options: confidence, scale, choice."""

    def _build(self) -> None:
        self.keyCount = len(self.item.options)
        self.buttons, self._group = [], qt.QButtonGroup(self.widget)
        inRow = sum(len(option.label) for option in self.item.options) <= _SHORT_ROW
        box = qt.QHBoxLayout() if inRow else qt.QVBoxLayout()
        box.setSpacing(2)
        for number, option in enumerate(self.item.options):
            button = qt.QRadioButton(brokenLabel(option.label, self.widget))
            button.setToolTip(keyTip(number))
            self._group.addButton(button, number)
            box.addWidget(button)
            self.buttons.append(button)
        self._layout.addLayout(box)
        self._group.connect("buttonClicked(QAbstractButton*)", self._changed)

    def answer(self):
        number = self._group.checkedId()
        return self.item.options[number].value if number >= 0 else None

    def setAnswer(self, value) -> None:
        for button, option in zip(self.buttons, self.item.options):
            if option.value == value:
                button.setChecked(True)

    def pressKey(self, number: int) -> bool:
        if not 1 <= number <= len(self.buttons):
            return False
        self.buttons[number - 1].click()
        return True


class ManyOptionsQuestion(Question):
    """Any of several options."""

    def _build(self) -> None:
        self.keyCount = len(self.item.options)
        self.buttons = []
        for index, option in enumerate(self.item.options):
            button = qt.QCheckBox(brokenLabel(option.label, self.widget))
            button.setToolTip(keyTip(index))
            button.connect("clicked(bool)", self._changed)
            self._layout.addWidget(button)
            self.buttons.append(button)

    def answer(self):
        chosen = [option.value for button, option in zip(self.buttons, self.item.options) if button.checked]
        return chosen or None

    def setAnswer(self, value) -> None:
        for button, option in zip(self.buttons, self.item.options):
            button.setChecked(option.value in value)

    def pressKey(self, number: int) -> bool:
        if not 1 <= number <= len(self.buttons):
            return False
        self.buttons[number - 1].click()
        return True


class SidesQuestion(Question):
    """Left or right: two large buttons, as the images lie."""

    keyCount = 2

    def _build(self) -> None:
        self._words = {"left": _("Left"), "right": _("Right")}
        row, self._group = qt.QHBoxLayout(), qt.QButtonGroup(self.widget)
        self.buttons = {}
        for number, (value, word) in enumerate(self._words.items()):
            button = qt.QPushButton(word)
            button.setCheckable(True)
            button.setAutoDefault(False)
            button.setMinimumHeight(round(_LARGE * button.fontMetrics().height()))
            button.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
            self._group.addButton(button, number)
            row.addWidget(button)
            self.buttons[value] = button
        self._layout.addLayout(row)
        self._group.connect("buttonClicked(QAbstractButton*)", self._onClicked)

    def answer(self):
        return next((value for value, button in self.buttons.items() if button.checked), None)

    def setAnswer(self, value) -> None:
        if value in self.buttons:
            self.buttons[value].setChecked(True)
        self._tick()

    def pressKey(self, number: int) -> bool:
        if number not in (1, 2):
            return False
        self.buttons["left" if number == 1 else "right"].click()
        return True

    def _onClicked(self, button) -> None:
        self._tick()
        self._changed()

    def _tick(self) -> None:
        """Not by colour alone: themes hardly show which button is down."""
        for value, button in self.buttons.items():
            button.text = f"✓ {self._words[value]}" if button.checked else self._words[value]


class YesNoQuestion(Question):
    """Yes or no; neither at first."""

    keyCount = 2

    def _build(self) -> None:
        row, self._group = qt.QHBoxLayout(), qt.QButtonGroup(self.widget)
        self.buttons = [qt.QRadioButton(_("Yes")), qt.QRadioButton(_("No"))]
        for number, button in enumerate(self.buttons):
            self._group.addButton(button, number)
            row.addWidget(button)
        row.addStretch(1)
        self._layout.addLayout(row)
        self._group.connect("buttonClicked(QAbstractButton*)", self._changed)

    def answer(self):
        number = self._group.checkedId()
        return number == 0 if number >= 0 else None

    def setAnswer(self, value) -> None:
        self.buttons[0 if value else 1].setChecked(True)

    def pressKey(self, number: int) -> bool:
        if number not in (1, 2):
            return False
        self.buttons[number - 1].click()
        return True


class TextQuestion(Question):
    """Free text."""

    def _build(self) -> None:
        self.edit = qt.QPlainTextEdit()
        self.edit.setTabChangesFocus(True)
        self.edit.setAccessibleName(self.item.text)
        lines = self.edit.fontMetrics().lineSpacing() * _TEXT_LINES
        self.edit.setFixedHeight(lines + 4 * self.edit.frameWidth + 8)
        self._layout.addWidget(self.edit)
        self.edit.connect("textChanged()", self._changed)

    def answer(self):
        return self.edit.plainText.strip() or None

    def setAnswer(self, value) -> None:
        self.edit.setPlainText(str(value))


class NumberQuestion(Question):
    """A number, which can be left empty: Qt's spin boxes cannot."""

    def _build(self) -> None:
        self.edit = qt.QLineEdit()
        self.edit.setAccessibleName(self.item.text)
        self.edit.setPlaceholderText(self._range())
        self._layout.addWidget(self.edit)
        self.edit.connect("textChanged(QString)", self._changed)

    def answer(self):
        text = self.edit.text.strip().replace(",", ".")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            return text  # the form says what is wrong with it
        return int(value) if value.is_integer() and abs(value) < 2**53 else value

    def setAnswer(self, value) -> None:
        self.edit.setText(f"{value:.12g}" if isinstance(value, float) else str(value))

    def _range(self) -> str:
        low, high = self.item.min, self.item.max
        if low is not None and high is not None:
            return _("a number from {low:g} to {high:g}").format(low=low, high=high)
        if low is not None:
            return _("a number, at least {low:g}").format(low=low)
        return _("a number, at most {high:g}").format(high=high) if high is not None else _("a number")


class PointQuestion(Question):
    """Points that are clicked in the images.

    Attributes:
        markRequested: called with this question and whether the next click in an image is a point; set by the form.
        points: what is marked.
    """

    def __init__(self, item, onChanged: Callable, places: Sequence[str] = ()) -> None:
        self._places = list(places)
        self.markRequested: Callable = lambda question, wanted: None
        self.points: list[Point] = []
        self._volumes: list[str] = []
        Question.__init__(self, item, onChanged)

    def _build(self) -> None:
        self.markButton = qt.QPushButton(_("Mark a point"))
        self.markButton.setCheckable(True)
        self.markButton.setAutoDefault(False)
        self.markButton.setToolTip(_("Then click the place in the image. Esc ends it."))
        self._layout.addWidget(self.markButton)
        self.list = qt.QListWidget()
        self.list.setAccessibleName(_("Marked points"))
        self.list.setSizeAdjustPolicy(qt.QAbstractScrollArea.AdjustToContents)
        self.list.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Maximum)
        self._layout.addWidget(self.list)
        self.removeButton = qt.QPushButton(_("Remove the chosen point"))
        self.removeButton.setAutoDefault(False)
        self._layout.addWidget(self.removeButton)
        self.markButton.connect("clicked(bool)", self._onMark)
        self.removeButton.connect("clicked()", self._onRemove)
        self.list.connect("currentRowChanged(int)", self._onRow)
        self._fill()

    def setVolumes(self, volumes: Sequence[str]) -> None:
        """The opaque IDs that stand for volume 0 and 1 in the answer."""
        self._volumes = list(volumes)

    def answer(self):
        return [
            {"volume": self._volumes[point.volume], "ras": list(point.ras), "slice": point.slice}
            for point in self.points
        ] or None

    def setAnswer(self, value) -> None:
        self.points = [
            Point(self._volumes.index(p["volume"]), tuple(p["ras"]), str(p.get("slice", "")), str(number))
            for number, p in enumerate(value, start=1)
            if p["volume"] in self._volumes
        ]
        self._fill()

    def addPoint(self, volume: int, ras: Sequence[float], plane: str) -> None:
        """A point was clicked."""
        self.points.append(Point(volume, tuple(float(x) for x in ras), plane))
        self._number()
        self.setMarking(False)
        self._changed()

    def setMarking(self, marking: bool) -> None:
        """Shows whether the next click in an image is a point of this question."""
        self.markButton.setChecked(marking)
        self.markButton.text = _("Click the place in the image") if marking else _("Mark a point")

    def _onMark(self, checked: bool) -> None:
        self.setMarking(checked)
        self.markRequested(self, checked)

    def _onRemove(self) -> None:
        row = self.list.currentRow
        if 0 <= row < len(self.points):
            del self.points[row]
            self._number()
            self._changed()

    def _onRow(self, row: int) -> None:
        self.removeButton.setEnabled(0 <= row < len(self.points))

    def _number(self) -> None:
        self.points = [Point(p.volume, p.ras, p.slice, str(number)) for number, p in enumerate(self.points, start=1)]
        self._fill()

    def _fill(self) -> None:
        self.list.blockSignals(True)
        self.list.clear()
        for point in self.points:
            place = self._places[point.volume] if point.volume < len(self._places) else ""
            words = [f"{point.text}.", place, point.slice, ", ".join(f"{x:.0f}" for x in point.ras) + " mm"]
            self.list.addItem(" ".join(filter(None, words)))
        self.list.setCurrentRow(len(self.points) - 1)
        self.list.blockSignals(False)
        for widget in (self.list, self.removeButton):
            widget.setVisible(bool(self.points))
        self._onRow(self.list.currentRow)
        most = self.item.max
        self.markButton.setEnabled(most is None or len(self.points) < most)


_CLASSES = {
    "confidence": OptionsQuestion,
    "scale": OptionsQuestion,
    "choice": OptionsQuestion,
    "multiple_choice": ManyOptionsQuestion,
    "forced_choice": SidesQuestion,
    "text": TextQuestion,
    "number": NumberQuestion,
    "boolean": YesNoQuestion,
    "info": Question,
}


def questionFor(item, onChanged: Callable, places: Sequence[str] = ()) -> Question:
    """The question of an item; `places` name the volumes of points."""
    if item.type == "point":
        return PointQuestion(item, onChanged, places)
    return _CLASSES[item.type](item, onChanged)


def keyTip(index: int) -> str:
    """Which key chooses the option of that index; "" for none."""
    return _("Key {n}").format(n=index + 1) if index < 9 else ""


def brokenLabel(text: str, widget) -> str:
    """A text broken into lines that are narrow enough for the panel, and with "&" as it is."""
    metrics = widget.fontMetrics()
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and metrics.boundingRect(longer).width() > _LABEL_PIXELS:
            lines.append(line)
            longer = word
        line = longer
    return "\n".join([*lines, line]).replace("&", "&&")
