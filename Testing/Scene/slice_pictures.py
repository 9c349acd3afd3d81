"""Pictures of slice views without a screen, as Slicer draws them. Test equipment.

Each slice node gets what a slice view of Slicer has: a vtkMRMLSliceLogic, whose blended image is drawn, and the
displayable managers of segmentations. They draw into an off-screen window of VTK. Plots and tables are drawn with
Pillow, from the nodes that Slicer's widgets would show.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import slicer
import vtk
from PIL import Image, ImageDraw, ImageFont
from vtk.util.numpy_support import vtk_to_numpy

_BAR, _GAP = 26, 4


class SliceView:
    """One slice view.

    Args:
        scene: the MRML scene.
        sliceNode: a slice node of the scene.
        size: width and height in pixels.
        applicationLogic: a vtkMRMLApplicationLogic of the scene.
    """

    def __init__(self, scene, sliceNode, size: tuple[int, int], applicationLogic) -> None:
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(applicationLogic)
        self.logic.SetSliceNode(sliceNode)
        self.logic.SetMRMLScene(scene)
        self.logic.ResizeSliceNode(*size)
        self._image = vtk.vtkImageMapper()
        self._image.SetColorWindow(255)
        self._image.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._image)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer = vtk.vtkRenderer()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetSize(*size)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.Initialize()
        self._segments = slicer.vtkMRMLSegmentationsDisplayableManager2D()
        self._segments.SetMRMLApplicationLogic(applicationLogic)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self._renderer)
        self._group.AddDisplayableManager(self._segments)
        self._group.SetMRMLDisplayableNode(sliceNode)

    def close(self) -> None:
        """As Slicer does when the view's node is removed (qMRMLLayoutViewFactory::deleteView)."""
        self._group.SetMRMLDisplayableNode(None)
        self._group.SetRenderer(None)
        self._window.Finalize()
        self.logic.SetMRMLScene(None)

    def draw(self) -> np.ndarray:
        """Colours, shape (height, width, 3), first row on top."""
        self.logic.UpdatePipeline()
        connection = self.logic.GetImageDataConnection()
        self._renderer.RemoveViewProp(self._actor)
        if connection is not None:
            self._image.SetInputConnection(connection)
            self._renderer.AddViewProp(self._actor)
        self._window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.Update()
        width, height, _ = grab.GetOutput().GetDimensions()
        return vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()


class SliceViews:
    """The slice views of a scene, made and closed with their nodes as Slicer's layout manager does.

    Call `close` at the end: VTK's windows do not survive the end of the interpreter.

    Args:
        scene: the MRML scene.
        size: width and height of each view in pixels.
    """

    def __init__(self, scene, size: tuple[int, int] = (300, 300)) -> None:
        self.scene, self.size = scene, size
        self.applicationLogic = slicer.vtkMRMLApplicationLogic()
        self.applicationLogic.SetMRMLScene(scene)
        self._colors = slicer.vtkMRMLColorLogic()  # makes the grey scale and the other colours that volumes refer to
        self._colors.SetMRMLScene(scene)
        self.views: dict[str, SliceView] = {}
        self._observers = [
            scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, self._onAdded),
            scene.AddObserver(slicer.vtkMRMLScene.NodeRemovedEvent, self._onRemoved),
        ]
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")):
            self._add(scene.GetNthNodeByClass(index, "vtkMRMLSliceNode"))

    def close(self) -> None:
        for tag in self._observers:
            self.scene.RemoveObserver(tag)
        for view in self.views.values():
            view.close()
        self.views = {}

    def draw(self, layoutName: str) -> np.ndarray:
        return self.views[layoutName].draw()

    def _add(self, node) -> None:
        self.views[node.GetLayoutName()] = SliceView(self.scene, node, self.size, self.applicationLogic)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onAdded(self, scene, event, node) -> None:
        if node.IsA("vtkMRMLSliceNode"):
            self._add(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onRemoved(self, scene, event, node) -> None:
        if node.IsA("vtkMRMLSliceNode") and node.GetLayoutName() in self.views:
            self.views.pop(node.GetLayoutName()).close()


def comparisonPicture(views: SliceViews, comparison, path: Path, caption: str) -> Image.Image:
    """Saves a picture of a comparison: its three views with their titles, plot and table, and a caption.

    Args:
        views: the views of the scene.
        comparison: an active SynthDiffusionScene.comparison.Comparison.
        path: PNG to write.
        caption: below the picture; says what it was drawn by.
    """
    from SynthDiffusionScene.comparisonLayout import TAGS

    panels = [_titled(views.draw(TAGS[place]), title) for place, title in comparison.titles.items()]
    width = sum(panel.width for panel in panels) + _GAP * (len(panels) - 1)
    chart = comparison.layout.plotView.GetPlotChartNode()
    parts = [_beside(panels), _text(width, comparison.note)]
    table = comparison.layout.tableView.GetTableNode()
    parts += [_plot(chart, width, 220), _table(table, width), _text(width, caption)]
    picture = Image.new("RGB", (width, sum(part.height + _GAP for part in parts)), "white")
    top = 0
    for part in parts:
        picture.paste(part, (0, top))
        top += part.height + _GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return picture


def _font(size: int = 13):
    return ImageFont.load_default(size)


def _titled(pixels: np.ndarray, title: str) -> Image.Image:
    height, width = pixels.shape[:2]
    panel = Image.new("RGB", (width, height + _BAR), (40, 40, 40))
    ImageDraw.Draw(panel).text((6, 5), title, "white", _font())
    panel.paste(Image.fromarray(pixels), (0, _BAR))
    return panel


def _beside(panels: list[Image.Image]) -> Image.Image:
    width = sum(panel.width for panel in panels) + _GAP * (len(panels) - 1)
    row, left = Image.new("RGB", (width, max(panel.height for panel in panels)), "white"), 0
    for panel in panels:
        row.paste(panel, (left, 0))
        left += panel.width + _GAP
    return row


def _text(width: int, text: str) -> Image.Image:
    lines = _wrapped(text, width)
    image = Image.new("RGB", (width, 12 + 16 * (lines.count("\n") + 1)), "white")
    ImageDraw.Draw(image).text((6, 5), lines, (60, 60, 60), _font(12))
    return image


def _wrapped(text: str, width: float) -> str:
    return "\n".join(textwrap.wrap(text, max(4, int(width / 6.5))))


def _columns(tableNode) -> dict[str, list]:
    table = tableNode.GetTable()
    columns = [table.GetColumn(index) for index in range(table.GetNumberOfColumns())]
    return {c.GetName(): [c.GetValue(row) for row in range(c.GetNumberOfTuples())] for c in columns}


def _plot(chart, width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    series = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    left, bottom, right, top = 50, height - 40, width - 240, 10
    curves = []
    for node in series:
        columns = _columns(node.GetTableNode())
        curves.append((node, columns[node.GetXColumnName()], columns[node.GetYColumnName()]))
    low, high = curves[0][1][0], curves[0][1][-1]
    most = max(max(y) for _, _, y in curves) or 1.0
    draw.rectangle([left, top, right, bottom], outline=(120, 120, 120))
    for number, (node, x, y) in enumerate(curves):
        color = tuple(round(255 * part) for part in node.GetColor())
        points = [
            (left + (right - left) * (a - low) / (high - low), bottom - (bottom - top) * b / most) for a, b in zip(x, y)
        ]
        for (x0, y0), (x1, y1) in zip(points, points[1:]):
            if node.GetLineStyle() != node.LineStyleSolid:  # a dash for each bin
                x1, y1 = x0 + 0.6 * (x1 - x0), y0 + 0.6 * (y1 - y0)
            draw.line([(x0, y0), (x1, y1)], color, round(node.GetLineWidth()))
        draw.line([(right + 12, 20 + 22 * number), (right + 36, 20 + 22 * number)], color, round(node.GetLineWidth()))
        draw.text((right + 42, 12 + 22 * number), node.GetName(), "black", _font(12))
    draw.text((left, bottom + 4), f"{low:.0f}", "black", _font(12))
    draw.text((right - 30, bottom + 4), f"{high:.0f}", "black", _font(12))
    draw.text(((left + right) / 2 - 20, bottom + 20), chart.GetXAxisTitle(), "black", _font(12))
    draw.text((4, top), f"{most:.0f} %", "black", _font(12))
    return image


def _table(tableNode, width: int) -> Image.Image:
    columns = _columns(tableNode)
    lines = max((len(values) for values in columns.values()), default=0)
    top = 70
    image = Image.new("RGB", (width, top + _BAR * (lines + 1)), "white")
    draw = ImageDraw.Draw(image)
    step = width / max(1, len(columns))
    for index, (name, values) in enumerate(columns.items()):
        draw.text((index * step + 6, 5), _wrapped(name, step), "black", _font(11))
        for line, value in enumerate(values):
            draw.text((index * step + 6, top + _BAR * line), _wrapped(str(value), step), (40, 40, 40), _font(11))
    return image
