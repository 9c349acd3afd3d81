"""Plot and table of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from SynthDiffusionScene.histogram import HistogramPair
from SynthDiffusionScene.statistics import Adherence, SegmentRow, formatMl
from SynthDiffusionScene.temporaryNodes import addTemporary

# Told apart by readers with any colour vision; also lighter and darker than each other.
REAL_COLOR, SYNTHETIC_COLOR = (0.0, 0.45, 0.70), (0.90, 0.62, 0.0)
_VALUE = "Value"


class ComparisonTables:
    """Table node of the segments, and a chart of the histograms with its table and series.

    Args:
        scene: the MRML scene.
        plotView: shows the chart.
        tableView: shows the table.
    """

    def __init__(self, scene, plotView, tableView) -> None:
        self.table = addTemporary(scene, "vtkMRMLTableNode", "Comparison: segments")
        self.table.SetUseColumnTitleAsColumnHeader(True)
        self.table.SetLocked(True)
        self.histograms = addTemporary(scene, "vtkMRMLTableNode", "Comparison: histograms")
        self.chart = addTemporary(scene, "vtkMRMLPlotChartNode", "Comparison: histograms")
        self.series = [addTemporary(scene, "vtkMRMLPlotSeriesNode", "") for _ in range(4)]
        self._scene = scene
        plotView.SetPlotChartNodeID(self.chart.GetID())
        tableView.SetTableNodeID(self.table.GetID())

    def showRows(self, rows: Sequence[SegmentRow], adherence: Adherence, unit: str) -> None:
        """Fills the table; see `tableCells`."""
        headers, cells = tableCells(rows, adherence, unit)
        table = vtk.vtkTable()
        for index, header in enumerate(headers):
            column = vtk.vtkStringArray()
            column.SetName(header)
            for line in cells:
                column.InsertNextValue(line[index])
            table.AddColumn(column)
        self.table.SetAndObserveTable(table)

    def showHistograms(self, whole: HistogramPair, within: HistogramPair | None, segmentName: str, unit: str) -> None:
        """Plots the histograms: dashed for the whole volumes, solid within the segment.

        Args:
            whole: of all voxels that both volumes show.
            within: of the voxels in a segment, on the same bins; None to leave it out.
            segmentName: name of that segment.
            unit: of the voxels, or "".
        """
        curves = [("Real", whole.real, REAL_COLOR, True), ("Synthetic", whole.synthetic, SYNTHETIC_COLOR, True)]
        if within is not None:
            curves += [
                (f"Real, {segmentName}", within.real, REAL_COLOR, False),
                (f"Synthetic, {segmentName}", within.synthetic, SYNTHETIC_COLOR, False),
            ]
        table = vtk.vtkTable()
        table.AddColumn(_column(_VALUE, whole.centers))
        for name, percent, _, _ in curves:
            table.AddColumn(_column(name, percent))
        self.histograms.SetAndObserveTable(table)
        wasModifying = self.chart.StartModify()
        self.chart.RemoveAllPlotSeriesNodeIDs()
        for series, (name, _, color, dashed) in zip(self.series, curves):
            series.SetName(name)
            series.SetPlotType(series.PlotTypeScatter)
            series.SetAndObserveTableNodeID(self.histograms.GetID())
            series.SetXColumnName(_VALUE)
            series.SetYColumnName(name)
            series.SetColor(*color)
            series.SetMarkerStyle(series.MarkerStyleNone)
            series.SetLineStyle(series.LineStyleDash if dashed else series.LineStyleSolid)
            series.SetLineWidth(1 if dashed else 3)
            self.chart.AddAndObservePlotSeriesNodeID(series.GetID())
        self.chart.SetTitleVisibility(False)
        self.chart.SetXAxisTitle(unit or "Voxel value")
        self.chart.SetYAxisTitle("Voxels, %")
        self.chart.SetLegendVisibility(True)
        self.chart.EndModify(wasModifying)

    def remove(self) -> None:
        """Removes all nodes that were added."""
        for node in (self.chart, *self.series, self.histograms, self.table):
            if self._scene.IsNodePresent(node):
                self._scene.RemoveNode(node)


def tableCells(rows: Sequence[SegmentRow], adherence: Adherence, unit: str) -> tuple[list[str], list[list[str]]]:
    """The table as text: headers, and one list of cells for each segment.

    Adherence stands beside the segments that it was measured for; where they are not known, in a line of its own.

    Args:
        rows: of `statistics.compareSegments`.
        adherence: of `statistics.adherenceOf`.
        unit: of the voxels, or "".
    """
    of = f", {unit}" if unit else ""
    headers = ["Segment", "Volume, ml", f"Mean, real{of}", f"Mean, synthetic{of}", f"Difference of means{of}"]
    headers += [f"SD, real{of}", f"SD, synthetic{of}", "Voxels, real", "Voxels, synthetic", "Adherence (Dice)", "Note"]
    measured = adherence.dice is not None
    cells = [
        [
            row.name,
            "" if row.volumeMl is None else formatMl(row.volumeMl),
            formatValue(row.real.mean, unit),
            formatValue(row.synthetic.mean, unit),
            formatValue(row.meanDifference, unit, sign=True),
            formatValue(row.real.deviation, unit),
            formatValue(row.synthetic.deviation, unit),
            str(row.real.voxels),
            str(row.synthetic.voxels),
            adherence.textOf(row.name) if measured else adherence.text,
            row.note,
        ]
        for row in rows
    ]
    if measured and not any(adherence.textOf(row.name) for row in rows):
        cells.append([adherence.className, *[""] * 8, adherence.text, ""])
    return headers, cells


def formatValue(value: float | None, unit: str, sign: bool = False) -> str:
    """A voxel value: one digit after the point in HU, else four significant digits and no exponent; "" for None."""
    if value is None:
        return ""
    digits = 1 if unit == "HU" or not value else min(6, max(0, 3 - math.floor(math.log10(abs(value)))))
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _column(name: str, values: np.ndarray) -> vtk.vtkDoubleArray:
    column = numpy_to_vtk(np.ascontiguousarray(values, float), deep=True)
    column.SetName(name)
    return column
