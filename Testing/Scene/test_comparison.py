"""The comparison while it is shown: its views, what they show, what it measures, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

import slicer  # noqa: E402
import slicer.util  # noqa: E402
import vtk  # noqa: E402
import vtk.util.numpy_support  # noqa: E402
from comparison_examples import add_segmentation, add_volume, grid  # noqa: E402
from comparison_world import AFFINE, LUNG, NODULE, opened  # noqa: E402

from SynthDiffusionScene.comparisonLayout import PLOT_TAG, TABLE_TAG, TAGS  # noqa: E402
from SynthDiffusionScene.comparisonTables import tableCells  # noqa: E402
from SynthDiffusionScene.difference import NOTE_WHOLE  # noqa: E402
from SynthDiffusionScene.errors import SceneError  # noqa: E402
from SynthDiffusionScene.volumes import markSynthetic  # noqa: E402


@pytest.fixture
def world(scene):
    with opened(scene) as world:
        yield world


# One click makes the layout


def test_layout_has_three_slice_views_a_plot_and_a_table(world):
    world.start()
    node = world.layoutNode
    assert node.GetViewArrangement() > slicer.vtkMRMLLayoutNode.SlicerLayoutUserView
    shown = world.layoutLogic.GetViewNodes()
    names = [shown.GetItemAsObject(n).GetSingletonTag() for n in range(shown.GetNumberOfItems())]
    assert names == [*TAGS.values(), PLOT_TAG, TABLE_TAG]
    assert [world.shown(place)[0] for place in TAGS] == ["real", "synthetic", "Difference (synthetic minus real), HU"]
    assert [world.view(place).GetLayoutLabel() for place in TAGS] == ["Real", "Synthetic", "Difference"]


def test_layout_id_of_another_module_is_left_alone(world):
    world.start()
    taken = world.layoutNode.GetViewArrangement()
    world.comparison.stop()
    assert not world.layoutNode.IsLayoutDescription(taken)
    world.layoutNode.AddLayoutDescription(taken, "<layout type='horizontal'/>")
    world.start()
    assert world.layoutNode.GetViewArrangement() != taken
    world.comparison.stop()
    assert world.layoutNode.GetLayoutDescription(taken) == "<layout type='horizontal'/>"


@pytest.mark.parametrize("orientation", ["Axial", "Sagittal", "Coronal"])
def test_views_are_alike_and_go_through_the_smallest_segment(world, orientation):
    comparison = world.start(orientation="Axial")
    comparison.setOrientation(orientation)
    nodes = [world.view(place) for place in TAGS]
    for node in nodes:
        assert node.GetOrientation() == orientation
        np.testing.assert_allclose(node.GetFieldOfView(), nodes[0].GetFieldOfView())
        assert slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS()) == pytest.approx(
            slicer.util.arrayFromVTKMatrix(nodes[0].GetSliceToRAS())
        )
    assert comparison.segmentId == "nodule"
    center = AFFINE @ (19, 13, 12, 1)
    inSlice = np.linalg.inv(slicer.util.arrayFromVTKMatrix(nodes[0].GetSliceToRAS())) @ center
    assert abs(inSlice[2]) < 1e-3  # the plane goes through the middle of the nodule


@pytest.mark.parametrize("orientation", ["Axial", "Sagittal", "Coronal"])
def test_field_of_view_is_that_of_slicers_own_fit(world, orientation):
    world.start(orientation=orientation)
    node, logic = world.view("real"), world.views.views[TAGS["real"]].logic
    found, center = np.array(node.GetFieldOfView()), _center(node)
    logic.FitSliceToVolume(world.synthetic, *node.GetDimensions()[:2])
    np.testing.assert_allclose(found[:2], node.GetFieldOfView()[:2], rtol=1e-6)
    np.testing.assert_allclose(center[:2], _center(node)[:2], atol=1e-3)


def _center(sliceNode) -> np.ndarray:
    """Where the view's middle lies, in its own axes (mm)."""
    toRas = slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())
    return toRas[:3, :3].T @ toRas[:3, 3]


def test_what_the_user_does_in_one_view_happens_in_the_others(world):
    world.start()
    red = world.scene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    red.SetOrientation("Axial")
    redBefore = slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS()).copy()
    logic = world.views.views[TAGS["third"]].logic
    before = logic.GetSliceOffset()
    logic.StartSliceOffsetInteraction()
    logic.SetSliceOffset(before + 7.5)
    logic.EndSliceOffsetInteraction()
    for place in TAGS:
        assert world.views.views[TAGS[place]].logic.GetSliceOffset() == pytest.approx(before + 7.5)
    np.testing.assert_array_equal(slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS()), redBefore)


def test_views_keep_their_volumes_when_another_one_is_loaded(world):
    world.start()
    before = [world.shown(place) for place in TAGS]
    assert all(world.composite(place).GetHotLinkedControl() for place in TAGS)
    other = add_volume(world.scene, np.zeros((4, 4, 4), np.int16), AFFINE, "loaded later")
    logic = world.views.applicationLogic  # Slicer does this after loading
    logic.GetSelectionNode().SetActiveVolumeID(other.GetID())
    logic.PropagateVolumeSelection(0)
    assert world.scene.GetSingletonNode("Red", "vtkMRMLSliceCompositeNode").GetBackgroundVolumeID() == other.GetID()
    assert [world.shown(place) for place in TAGS] == before


def test_window_and_level_stay_equal(world):
    world.real.GetDisplayNode().SetAutoWindowLevel(False)
    world.real.GetDisplayNode().SetWindowLevel(900, -300)
    comparison = world.start()
    displays = [node.GetDisplayNode() for node in (world.real, world.synthetic)]
    assert [(d.GetWindow(), d.GetLevel()) for d in displays] == [(900, -300)] * 2
    for changed, window in zip(displays, (350, 1600)):
        changed.SetWindowLevel(window, 40)
        assert [(d.GetWindow(), d.GetLevel()) for d in displays] == [(window, 40)] * 2
    comparison.stop()
    displays[0].SetWindowLevel(100, 1)
    assert (displays[1].GetWindow(), displays[1].GetLevel()) == (1400, -500)


def test_a_chosen_window_goes_before_an_automatic_one(world):
    assert world.real.GetDisplayNode().GetAutoWindowLevel()
    world.start()
    assert (world.real.GetDisplayNode().GetWindow(), world.real.GetDisplayNode().GetLevel()) == (1400, -500)


def test_segmentation_is_shown_as_outlines(world):
    display = world.segmentation.GetDisplayNode()
    display.SetVisibility(False)
    display.SetSegmentVisibility("lung", False)
    display.SetSegmentVisibility2DOutline("nodule", False)
    display.AddViewNodeID("vtkMRMLSliceNodeRed")
    world.start()
    assert display.GetVisibility() and not display.GetVisibility2DFill() and display.GetVisibility2DOutline()
    assert display.GetSegmentVisibility2DOutline("nodule")
    assert not display.GetSegmentVisibility("lung")  # hidden by the user
    assert all(display.IsDisplayableInView(world.view(place).GetID()) for place in TAGS)


# What the third view shows


def test_flicker_alternates_the_whole_view(world):
    comparison = world.start()
    comparison.setMode("flicker")
    assert world.shown("third") == ("synthetic", None, 0.0)
    seen = [(comparison.flick(), world.shown("third")[0], world.view("third").GetLayoutLabel()) for _ in range(3)]
    assert seen == [("real", "real", "Real"), ("synthetic", "synthetic", "Synthetic"), ("real", "real", "Real")]
    assert comparison.titles["third"] == "Flicker: real"
    comparison.setMode("difference")
    assert comparison.flick() == "real" and world.shown("third")[0].startswith("Difference")


def test_fade_mixes_both(world):
    comparison = world.start()
    comparison.setMode("fade")
    comparison.setFade(0.25)
    assert world.shown("third") == ("real", "synthetic", 0.25)
    comparison.setFade(7)
    assert world.shown("third")[2] == 1.0
    with pytest.raises(ValueError):
        comparison.setMode("wipe")


def test_difference_scale_can_be_changed(world):
    comparison = world.start()
    assert comparison.limit >= 800
    comparison.setDifferenceLimit(150)
    display = world.composite("third").GetNthLayerVolume(0).GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == (300, 0)


def test_plot_and_table_hold_what_was_measured(world):
    comparison = world.start()
    table = world.scene.GetSingletonNode(TABLE_TAG, "vtkMRMLTableViewNode").GetTableNode()
    assert [table.GetCellText(row, 0) for row in range(table.GetNumberOfRows())] == ["lung", "nodule"]
    chart = world.scene.GetSingletonNode(PLOT_TAG, "vtkMRMLPlotViewNode").GetPlotChartNode()
    assert chart.GetNumberOfPlotSeriesNodes() == 4
    for index, expected in enumerate(
        [comparison.whole.real, comparison.whole.synthetic, comparison.within.real, comparison.within.synthetic]
    ):
        series = chart.GetNthPlotSeriesNode(index)
        column = series.GetTableNode().GetTable().GetColumnByName(series.GetYColumnName())
        np.testing.assert_array_equal([column.GetValue(n) for n in range(column.GetNumberOfTuples())], expected)
    voxels = slicer.util.arrayFromVolume(world.real)
    window = (-1200.0, 200.0)
    counts = np.histogram(voxels[NODULE], 64, window)[0]
    np.testing.assert_allclose(comparison.within.real, 100 * counts / counts.sum())
    comparison.setSegment(None)
    assert comparison.within is None and chart.GetNumberOfPlotSeriesNodes() == 2
    world.real.GetDisplayNode().SetWindowLevel(200, 0)
    comparison.updateHistograms()
    assert comparison.whole.edges[[0, -1]].tolist() == [-100, 100]


def test_edited_segmentation_is_measured_anew(world):
    comparison = world.start()
    segment = world.segmentation.GetSegmentation().GetSegment("nodule")
    image = segment.GetRepresentation("Binary labelmap")
    vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())[:] = LUNG.ravel()
    comparison.refresh()
    assert comparison.rows[1].drawnVoxels == LUNG.sum()


def test_without_segmentation_only_volumes_are_compared(world):
    world.comparison.start(world.real, world.synthetic)
    assert world.comparison.rows == [] and world.comparison.within is None


# What cannot be compared


def _transform(world, *nodes, shift=(40.0, -25.0, 13.0)):
    transform = world.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    for node in nodes:
        node.SetAndObserveTransformNodeID(transform.GetID())


def _refused(world, real, synthetic, segmentation=None) -> SceneError:
    before = world.xml(), world.nodeIds()
    with pytest.raises(SceneError) as caught:
        world.comparison.start(real, synthetic, segmentation)
    assert (world.xml(), world.nodeIds()) == before and caught.value.hint
    return caught.value


@pytest.mark.parametrize("moved", ["real", "synthetic", "segmentation"])
def test_different_transforms_are_refused_by_name(world, moved):
    _transform(world, getattr(world, moved))
    error = _refused(world, world.real, world.synthetic, world.segmentation)
    assert "the transform 'moved'" in error.message and "no transform" in error.message


def test_the_same_transform_moves_the_views_along(world):
    _transform(world, world.real, world.synthetic, world.segmentation)
    world.start()
    toSlice = np.linalg.inv(slicer.util.arrayFromVTKMatrix(world.view("real").GetSliceToRAS()))
    center = AFFINE @ (19, 13, 12, 1) + (40, -25, 13, 0)
    assert abs((toSlice @ center)[2]) < 1e-3
    differences = world.composite("third").GetNthLayerVolume(0)
    assert differences.GetParentTransformNode().GetName() == "moved"


def test_what_makes_no_pair_is_refused(world):
    scene = world.scene
    assert "chosen twice" in _refused(world, world.real, world.real).message
    assert "Two volumes" in _refused(world, None, world.synthetic).message
    away = add_volume(scene, np.zeros((4, 4, 4), np.int16), grid(origin=(900.0, 0.0, 0.0)), "away")
    assert "do not overlap" in _refused(world, away, world.synthetic).message
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    assert "'empty' has no voxels" in _refused(world, empty, world.synthetic).message
    colored = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colored")
    slicer.util.updateVolumeFromArray(colored, np.zeros((4, 4, 4, 3), np.uint8))
    assert "3 values" in _refused(world, world.real, colored).message


def test_histograms_are_of_the_part_that_both_volumes_show(world):
    voxels = slicer.util.arrayFromVolume(world.real).copy()
    move = np.eye(4)
    move[:3, 3] = (4, 0, 5)
    cropped = add_volume(world.scene, voxels[5:15, :, 4:], AFFINE @ move, "cropped")
    world.comparison.start(world.real, cropped, world.segmentation, segmentId="lung")
    for pair in (world.comparison.whole, world.comparison.within):
        np.testing.assert_array_equal(pair.real, pair.synthetic)
        assert pair.realOutside == pair.syntheticOutside and pair.real.sum() == pytest.approx(100)


def test_a_drawing_that_was_changed_is_not_the_one_that_the_volume_follows(world):
    from SynthDiffusionScene.digests import DRAWING_DIGEST, segmentationDigest
    from SynthDiffusionScene.runs import SEGMENTATION_ROLE

    measured = {"class": "nodule", "dice": 0.5}
    segments = [{"name": "nodule", "class": "nodule"}]
    markSynthetic(world.synthetic, {"mode": "whole", "adherence": measured, "mapping": {"segments": segments}})
    world.synthetic.SetNodeReferenceID(SEGMENTATION_ROLE, world.segmentation.GetID())

    def adherenceCell() -> str:
        headers, cells = tableCells(comparison.rows, comparison.adherence, "HU")
        return cells[1][headers.index("Adherence (Dice)")]

    comparison = world.start()
    assert comparison.note == NOTE_WHOLE  # of an earlier version, which says nothing of the drawing
    world.synthetic.SetAttribute(DRAWING_DIGEST, segmentationDigest(world.segmentation))
    comparison.refresh()
    assert comparison.note == NOTE_WHOLE and "earlier" not in adherenceCell()
    lung = world.segmentation.GetSegmentation().GetSegment("lung").GetRepresentation("Binary labelmap")
    lung.SetScalarComponentFromDouble(16, 16, 10, 0, 0)  # one voxel erased
    comparison.refresh()
    assert comparison.note == f"{NOTE_WHOLE} The drawing was changed after this volume was made."
    assert adherenceCell().startswith("0.50") and adherenceCell().endswith("of the earlier drawing")
    other = add_segmentation(world.scene, {"nodule": NODULE}, AFFINE, "another")
    comparison.start(world.real, world.synthetic, other)
    assert comparison.adherence.text == "0.50, of another drawing"
    assert comparison.note == f"{NOTE_WHOLE} The segmentation is not the drawing that this volume was made from."
    comparison.start(world.real, world.synthetic)
    assert comparison.note == NOTE_WHOLE
