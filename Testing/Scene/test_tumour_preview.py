"""The box of the tumour that is asked for: in the slice views, and nowhere else."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from scene_examples import SHAPE

pytest.importorskip("slicer")

import slicer  # noqa: E402

from SynthDiffusionScene import bundle, hierarchy  # noqa: E402
from SynthDiffusionScene.comparisonLayout import TAGS  # noqa: E402
from SynthDiffusionScene.sceneExport import exportScene  # noqa: E402
from SynthDiffusionScene.tumourPreview import TumourPreview  # noqa: E402


@pytest.fixture
def add_view(scene):
    """Adds a slice view: `add_view("Red", background)`; its composite and its slice node."""

    def add(name: str, background=None):
        composite, view = slicer.vtkMRMLSliceCompositeNode(), slicer.vtkMRMLSliceNode()
        composite.SetLayoutName(name)
        view.SetLayoutName(name)
        composite.SetSingletonTag(name)
        view.SetSingletonTag(name)
        composite, view = scene.AddNode(composite), scene.AddNode(view)
        composite.SetBackgroundVolumeID(background.GetID() if background else None)
        return composite, view

    return add


def _bounds(node) -> list[float]:
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return bounds


def _content(scene) -> list[str]:
    return sorted(scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes()))


def test_the_box_lies_where_it_is_asked_for_and_moves(scene):
    preview = TumourPreview(scene)
    preview.show((1.0, 20.0, -30.0), (10.0, 40.0, 60.0))
    np.testing.assert_allclose(_bounds(preview.node), [-4, 6, 0, 40, -60, 0])
    node = preview.node
    preview.show((0.0, 0.0, 5.0), (2.0, 4.0, 6.0))
    assert preview.node is node and scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode") == 1
    np.testing.assert_allclose(_bounds(node), [-1, 1, -2, 2, 2, 8])


def test_it_is_hidden_from_lists_cannot_be_dragged_and_leaves_nothing(scene):
    tree = hierarchy.subjectHierarchy(scene)
    before, items = _content(scene), tree.GetNumberOfItems()
    preview = TumourPreview(scene)
    preview.show((0, 0, 0), (10, 10, 10))
    node, display = preview.node, preview.node.GetDisplayNode()
    for each in (node, display):
        assert each.GetHideFromEditors() and not each.GetSaveWithScene()
    assert node.GetLocked() and not display.GetHandlesInteractive() and not node.GetSelectable()
    assert display.GetVisibility() and display.GetVisibility2D() and not display.GetVisibility3D()
    assert not display.GetFillVisibility()  # the image is seen through it
    assert node.GetStorageNode() is None and tree.GetNumberOfItems() == items
    preview.remove()
    preview.remove()
    assert _content(scene) == before and preview.node is None


def test_views_keep_their_images_and_a_comparison_does_not_show_it(scene, add_view, add_volume):
    volume = add_volume(np.zeros(SHAPE, np.int16), "CT")
    own = [add_view("Red", volume), add_view("Green")]
    add_view(next(iter(TAGS.values())), volume)
    preview = TumourPreview(scene)
    state = [(view.GetMTime(), composite.GetMTime()) for composite, view in own]
    preview.show((0, 0, 0), (10, 10, 10))
    preview.show((0, 0, 3), (10, 10, 10))
    assert [(view.GetMTime(), composite.GetMTime()) for composite, view in own] == state
    assert list(preview.node.GetDisplayNode().GetViewNodeIDs()) == [view.GetID() for _composite, view in own]
    _composite, late = add_view("Yellow")
    preview.show((0, 0, 4), (10, 10, 10))
    assert late.GetID() in preview.node.GetDisplayNode().GetViewNodeIDs()
    preview.remove()
    assert [(view.GetMTime(), composite.GetMTime()) for composite, view in own] == state


def test_slicers_markups_module_gives_it_no_second_display(scene):
    scene.AddNode(slicer.vtkMRMLSelectionNode())
    scene.AddNode(slicer.vtkMRMLInteractionNode())
    logic = slicer.vtkSlicerMarkupsLogic()
    logic.SetMRMLScene(scene)
    tree = hierarchy.subjectHierarchy(scene)
    before, items = _content(scene), tree.GetNumberOfItems()
    preview = TumourPreview(scene)
    preview.show((0, 0, 0), (10, 10, 10))
    assert preview.node.GetNumberOfDisplayNodes() == 1
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROIDisplayNode") == 1
    assert tree.GetNumberOfItems() == items
    preview.remove()
    assert _content(scene) == before


def test_a_box_that_somebody_else_has_removed_comes_again(scene):
    preview = TumourPreview(scene)
    preview.show((0, 0, 0), (10, 10, 10))
    scene.RemoveNode(preview.node)
    assert preview.node is None
    preview.show((0, 0, 0), (10, 10, 10))
    assert preview.node is not None
    scene.Clear(True)
    assert preview.node is None
    preview.remove()


def test_it_is_not_saved(scene, add_volume, tmp_path):
    add_volume(np.zeros(SHAPE, np.int16), "CT")
    preview = TumourPreview(scene)
    preview.show((0, 0, 0), (10, 10, 10))
    path = exportScene(scene, tmp_path / "scene.mrb")
    assert preview.node is not None  # it stays in sight meanwhile
    with zipfile.ZipFile(path) as archive:
        text = next(archive.read(name).decode() for name in archive.namelist() if name.endswith(".mrml"))
        assert "MarkupsROI" not in text and not [name for name in archive.namelist() if "tumor" in name.lower()]
    opened = bundle.readBundle(path, tmp_path / "opened")
    assert opened.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode") == 0
