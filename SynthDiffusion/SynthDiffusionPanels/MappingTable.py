"""The table that says which segment goes to which class of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import ctk
import qt
from slicer.i18n import tr as _

from SynthDiffusionJobs.Mapping import MappedSegment

SEGMENT, VOLUME, CLASS, WHY = range(4)
_MOST_ROWS = 12  # beyond that the table scrolls, so that the panel does not become endless
_UNLIMITED = 16777215  # QWIDGETSIZE_MAX


class MappingTable:
    """Fills a QTableWidget, with a choice of classes in each row.

    Args:
        table: with the columns segment, volume, class and why.
        onChosen: called with a segment's ID and the class that the user has chosen, "" to leave it out.
    """

    def __init__(self, table, onChosen: Callable[[str, str], None]) -> None:
        self._table, self._onChosen = table, onChosen
        self._ids: list[str] = []
        self._classes: list[str] = []
        header = table.horizontalHeader()
        for column, mode in (
            (SEGMENT, qt.QHeaderView.Stretch),
            (VOLUME, qt.QHeaderView.ResizeToContents),
            (CLASS, qt.QHeaderView.ResizeToContents),
            (WHY, qt.QHeaderView.Stretch),
        ):
            header.setSectionResizeMode(column, mode)
        table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)

    def show(self, rows: Sequence[MappedSegment], classes: Sequence[str], voxelMl: Mapping[str, float]) -> None:
        """Shows the mapping. Rows are made anew only when other segments or classes are shown.

        Args:
            rows: the mapping.
            classes: names of the classes that the user may choose.
            voxelMl: volume of a voxel in ml, by segment ID.
        """
        ids = [row.id for row in rows]
        if ids != self._ids or list(classes) != self._classes:
            self._ids, self._classes = ids, list(classes)
            self._makeRows(len(rows))
        for number, row in enumerate(rows):
            self._fill(number, row, voxelMl.get(row.id))
        header = self._table.horizontalHeader()
        # Narrower than its title no column can be read; then the table scrolls sideways.
        header.setMinimumSectionSize(header.sectionSizeHint(SEGMENT))
        self._table.setMaximumHeight(self._height() if len(rows) > _MOST_ROWS else _UNLIMITED)

    def clear(self) -> None:
        self.show([], [], {})

    def _makeRows(self, count: int) -> None:
        self._table.setRowCount(0)  # deletes the choices of the old rows
        self._table.setRowCount(count)
        before = self._table
        for number in range(count):
            for column in (SEGMENT, VOLUME, WHY):
                self._table.setItem(number, column, qt.QTableWidgetItem())
            choice = ctk.ctkComboBox()
            choice.scrollWheelEffect = ctk.ctkComboBox.NeverScroll  # whoever scrolls the panel changes no class
            choice.sizeAdjustPolicy = qt.QComboBox.AdjustToContents
            for name in self._classes:
                choice.addItem(name, name)
            choice.addItem(_("left out"), "")
            choice.connect("activated(int)", partial(self._onActivated, number))
            self._table.setCellWidget(number, CLASS, choice)
            # Qt puts what is made later behind everything else in Slicer's window.
            qt.QWidget.setTabOrder(before, choice)
            before = choice

    def _fill(self, number: int, row: MappedSegment, voxelMl: float | None) -> None:
        name = self._table.item(number, SEGMENT)
        name.setText(row.name)
        name.setToolTip(row.name)
        name.setIcon(colorIcon(row.color))
        volume = self._table.item(number, VOLUME)
        volume.setText(volumeText(row.voxels, voxelMl))
        volume.setToolTip("" if row.voxels is None else _("{n} voxels").format(n=f"{row.voxels:,}"))
        why = self._table.item(number, WHY)
        why.setText(howText(row))
        why.setToolTip(row.note)
        choice = self._table.cellWidget(number, CLASS)
        choice.setCurrentIndex(choice.findData(row.target))
        choice.setAccessibleName(_("Class of {segment}").format(segment=row.name))

    def _onActivated(self, number: int, index: int) -> None:
        self._onChosen(self._ids[number], self._table.cellWidget(number, CLASS).itemData(index))

    def _height(self) -> int:
        """Pixels for the rows that are shown at once."""
        rows = sum(self._table.rowHeight(number) for number in range(_MOST_ROWS))
        return rows + self._table.horizontalHeader().sizeHint.height() + 2 * self._table.frameWidth


def colorIcon(color: Sequence[float]):
    """A small square of a segment's color, RGB in 0..1."""
    pixmap = qt.QPixmap(16, 16)
    pixmap.fill(qt.QColor.fromRgbF(*color))
    return qt.QIcon(pixmap)


def howText(row: MappedSegment) -> str:
    """How the class of a segment was found."""
    texts = {
        "chosen": _("chosen by you"),
        "code": _("by SNOMED code"),
        "name": _("by name"),
        "value": _("by label value"),
        "only-segment": _("the only segment"),
        "": _("not recognized: left out"),
    }
    return texts.get(row.how, row.how)


def volumeText(voxels: int | None, voxelMl: float | None) -> str:
    """How much is drawn: ml, or voxels where their size is unknown or the volume tiny."""
    if voxels is None:
        return _("surface")
    if voxels == 0:
        return _("empty")
    ml = voxels * voxelMl if voxelMl else 0.0
    if ml < 0.005:
        return _("{n} voxels").format(n=f"{voxels:,}")
    return _("{n} ml").format(n=f"{ml:.2f}" if ml < 10 else f"{ml:,.0f}")
