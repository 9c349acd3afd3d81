"""A scene with Slicer's own layout, slice, link and segmentation display logics, as the comparison meets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import slicer
from comparison_examples import add_segmentation, add_volume, ball, grid
from slice_pictures import SliceViews

from SynthDiffusionScene.comparison import Comparison
from SynthDiffusionScene.comparisonLayout import TAGS
from SynthDiffusionScene.volumes import markSynthetic, setDisplay

SHAPE = (20, 32, 32)
AFFINE = grid((2.0, 2.0, 3.0), (-30.0, -28.0, 11.0), 15)
LUNG, NODULE = ball(SHAPE, (10, 16, 16), 9), ball(SHAPE, (12, 13, 19), 3)
FOUR_UP = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


class World:
    """A scene as the application holds it, with what the user has in it."""

    def __init__(self, scene) -> None:
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self.scene = scene
        self.views = SliceViews(scene, (160, 140))
        self.layoutLogic = slicer.vtkMRMLLayoutLogic()
        self.layoutLogic.SetMRMLScene(scene)
        self.layoutNode = self.layoutLogic.GetLayoutNode()
        self.layoutNode.SetViewArrangement(FOUR_UP)
        random = np.random.default_rng(7)
        voxels = np.where(LUNG, -850, 40) + random.integers(-60, 60, SHAPE)
        self.real = add_volume(scene, voxels.astype(np.int16), AFFINE, "real")
        self.synthetic = add_volume(scene, np.where(NODULE, 30, voxels).astype(np.int16), AFFINE, "synthetic")
        markSynthetic(self.synthetic, {"mode": "inpaint", "modality": "CT", "seed": 3, "model": "lung-nodule-ct"})
        setDisplay(self.synthetic, {"modality": "CT"})
        self.segmentation = add_segmentation(scene, {"lung": LUNG, "nodule": NODULE}, AFFINE)
        self.reasons: list[str] = []
        self.comparison = Comparison(scene, self.layoutNode, self.reasons.append)

    def start(self, **options) -> Comparison:
        self.comparison.start(self.real, self.synthetic, self.segmentation, **options)
        return self.comparison

    def xml(self) -> str:
        self.scene.SetSaveToXMLString(1)
        self.scene.Commit()
        return self.scene.GetSceneXMLString()

    def nodeIds(self) -> list[str]:
        return sorted(self.scene.GetNthNode(n).GetID() for n in range(self.scene.GetNumberOfNodes()))

    def view(self, place: str):
        return self.scene.GetSingletonNode(TAGS[place], "vtkMRMLSliceNode")

    def composite(self, place: str):
        return self.scene.GetSingletonNode(TAGS[place], "vtkMRMLSliceCompositeNode")

    def shown(self, place: str) -> tuple:
        """Names of background and foreground, and the foreground's opacity."""
        node = self.composite(place)
        names = [
            volume.GetName() if volume else None for volume in (node.GetNthLayerVolume(0), node.GetNthLayerVolume(1))
        ]
        return (*names, node.GetForegroundOpacity())

    def close(self) -> None:
        self.comparison.stop()
        self.views.close()
        self.layoutLogic.SetMRMLScene(None)


@contextmanager
def opened(scene) -> Iterator[World]:
    """A world in a scene, closed at the end as the application would."""
    world = World(scene)
    try:
        yield world
    finally:
        world.close()
