"""One panel with a session, without the other panels: what the panel's own tests need of `ModulePanel`."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL_ID = "lung-nodule-ct"


def resource_path(name: str) -> str:
    """As SynthDiffusionLogic.resourcePath in a clone."""
    places = [ROOT / "SynthDiffusion" / "Resources" / name, ROOT / "Resources" / name]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise FileNotFoundError(name)
    return str(found)


def shipped_description() -> dict:
    """model.json of the shipped model, as `models list --json` gives it."""
    path = ROOT / "Resources" / "Models" / MODEL_ID / "model.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    split = description["training"].pop("split")
    description["training"]["split_sizes"] = {part: len(cases) for part, cases in split.items()}
    return description


def shipped_model(**changes):
    """The shipped model as the engine knows it; keywords replace entries of its description."""
    from SynthDiffusionJobs.Engine import ModelInfo

    folder = str(ROOT / "Resources" / "Models" / MODEL_ID)
    description = shipped_description() | changes
    return ModelInfo(description["id"], "shipped", folder, "", description)


class Harness:
    """A session with a set-up that is complete, a parameter node, and one panel that follows both.

    Args:
        scene: the scene of the test.
        panelClass: made with the session.
        models: what the engine lists.

    Attributes:
        session, parameters, panel, ui: see there.
    """

    def __init__(self, scene, panelClass, models=()) -> None:
        from SynthDiffusionJobs.Engine import Device, EngineStatus
        from SynthDiffusionJobs.Session import Session

        self.scene, self._segmentation = scene, None
        self.session = Session(scene, ROOT, resource_path)
        devices = (
            Device("cuda:0", "NVIDIA RTX 4090", 24 << 30, 20 << 30, "bf16"),
            Device("cpu", "Some CPU", 32 << 30, 16 << 30, "bf16"),
        )
        self.session.engine.status = EngineStatus(state="ready", devices=devices)
        self.session.engine.models = tuple(models)
        self.panel = panelClass(self.session)
        self.ui = self.panel.ui
        self.writes = 0
        self.beginScene()
        self.panel.enter()

    def beginScene(self) -> None:
        """What ModulePanel does when there is a new scene: parameters of its own."""
        import vtk

        from SynthDiffusionJobs.Parameters import Parameters

        node = self.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "parameters")
        self.parameters = Parameters(node)
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onModified)
        self.session.setParameters(self.parameters)
        self.panel.refresh()

    def _onModified(self, caller, event) -> None:
        self.writes += 1
        self._follow()
        self.session.parametersChanged.emit()
        self.panel.refresh()

    def _follow(self) -> None:
        """Tells of drawing, as `ModulePanel` does."""
        import slicer

        node = self.parameters.segmentation
        if node is None or node is self._segmentation:
            return
        self._segmentation = node
        for name in ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SourceRepresentationModified"):
            event = getattr(slicer.vtkSegmentation, name)
            node.GetSegmentation().AddObserver(event, lambda *_: self.session.drawingChanged.emit())

    def setModels(self, *models) -> None:
        """The engine lists other models now."""
        self.session.engine.models = tuple(models)
        self.session.engine.changed.emit()
        self.panel.refresh()

    def closeScene(self) -> None:
        """What ModulePanel does when the scene begins to close."""
        self.parameters.parameterNode.RemoveObserver(self._tag)
        self.session.setParameters(None)
        self.panel.refresh()

    def close(self) -> None:
        self.panel.exit()
        self.panel.close()
        self.session.shutdown()


def add_segmentation(scene, sizes_mm: dict[str, int], name: str = "drawing"):
    """A segmentation on a grid of 40 x 40 x 40 voxels of 1 mm, with a cube of so many voxels a side for every name."""
    import numpy as np
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    grid = slicer.vtkOrientedImageData()
    grid.SetExtent(0, 39, 0, 39, 0, 39)
    geometry = slicer.vtkSegmentationConverter.SerializeImageGeometry(grid)
    role = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    node.GetSegmentation().SetConversionParameter(role, geometry)
    for number, (title, side) in enumerate(sizes_mm.items()):
        segment = slicer.vtkSegment()
        segment.SetName(title)
        segment.SetColor(0.2 * number % 1, 0.5, 0.7)
        image = slicer.vtkOrientedImageData()
        if side:
            image.SetExtent(5, 4 + side, 5, 4 + side, 5, 4 + side)
            image.GetPointData().SetScalars(numpy_to_vtk(np.ones(side**3, np.uint8), deep=True))
        else:
            image.SetExtent(0, -1, 0, -1, 0, -1)
            image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, f"Segment_{number + 1}")
    return node


def add_volume(scene, name: str = "real CT", shape: tuple[int, int, int] = (30, 30, 30)):
    import numpy as np
    import slicer.util

    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.full(shape, -500, np.int16))
    return node


def widths(panel, folder: Path, name: str) -> dict[str, int]:
    """Writes screenshots at the sizes that a panel must bear.

    Returns:
        by the name of the picture, how many pixels wider the contents are than the panel; 0 if they fit.
    """
    from standin.screenshots import screenshot

    found = {}
    for width, scale, dark in (
        (400, 1.0, False),
        (600, 1.0, False),
        (900, 1.0, False),
        (400, 2.0, False),
        (400, 1.0, True),
    ):
        picture = f"{name}_{width}{'_200' if scale == 2 else ''}{'_dark' if dark else ''}"
        least = screenshot(panel.widget, folder / f"{picture}.png", width, fontScale=scale, dark=dark, caption=name)
        found[picture] = max(0, least.width() - width)
    return found
