"""Leaving the comparison, and what may happen to the scene under it.

The oracle of "restores exactly" is the scene's own XML before and after.
"""

from __future__ import annotations

import pytest

pytest.importorskip("slicer")

import slicer  # noqa: E402
import slicer.util  # noqa: E402
from comparison_world import FOUR_UP, opened  # noqa: E402

from SynthDiffusionScene import comparison as comparisonModule  # noqa: E402
from SynthDiffusionScene.comparisonLayout import PLOT_TAG, TABLE_TAG, TAGS, recoverLayout  # noqa: E402

LAYOUT_OF_ANOTHER_MODULE = 501


@pytest.fixture
def world(scene):
    with opened(scene) as world:
        yield world


# Leaving restores the user's own


def _customise(world, case: str) -> None:
    """What a user may have set."""
    display = world.segmentation.GetDisplayNode()
    node = world.layoutNode
    if case == "custom layout":
        view = '<view class="vtkMRMLSliceNode" singletontag="Blue"/>'
        node.AddLayoutDescription(LAYOUT_OF_ANOTHER_MODULE, f'<layout type="horizontal"><item>{view}</item></layout>')
        node.SetViewArrangement(LAYOUT_OF_ANOTHER_MODULE)
    elif case == "maximized view":
        node.AddMaximizedViewNode(world.scene.GetSingletonNode("Green", "vtkMRMLSliceNode"))
    elif case == "display":
        world.real.GetDisplayNode().SetAutoWindowLevel(False)
        world.real.GetDisplayNode().SetWindowLevel(333.25, 44.5)
        world.synthetic.GetDisplayNode().SetAutoWindowLevel(True)
        display.SetVisibility2DOutline(False)
        display.SetOpacity2DFill(0.35)
        display.SetOpacity2DOutline(0.6)
        display.SetOpacity(0.8)
        display.SetSegmentVisibility2DOutline("lung", False)
        display.SetSegmentOpacity2DOutline("nodule", 0.4)
        display.SetSegmentVisibility("nodule", False)
        display.AddViewNodeID("vtkMRMLSliceNodeGreen")
        display.SetVisibility(False)
        display.SetVisibility2D(False)
    elif case == "own views":
        for tag in ("Red", "Yellow", "Green"):
            composite = world.scene.GetSingletonNode(tag, "vtkMRMLSliceCompositeNode")
            composite.SetBackgroundVolumeID(world.real.GetID())
            composite.SetForegroundVolumeID(world.synthetic.GetID())
            composite.SetForegroundOpacity(0.4)
            world.scene.GetSingletonNode(tag, "vtkMRMLSliceNode").SetFieldOfView(77, 66, 1)
    elif case == "no display nodes":
        for owner in (world.real, world.segmentation):
            world.scene.RemoveNode(owner.GetDisplayNode())


CASES = ["as loaded", "custom layout", "maximized view", "display", "own views", "no display nodes"]


def _maximized(world) -> list[str]:
    node = world.layoutNode
    return [node.GetMaximizedViewNode(n).GetID() for n in range(node.GetNumberOfMaximizedViewNodes())]


@pytest.mark.parametrize("case", CASES)
def test_leaving_restores_the_scene_exactly(world, case):
    _customise(world, case)
    before = world.xml(), world.nodeIds(), world.layoutNode.GetLayoutIndices(), _maximized(world)
    comparison = world.start()
    comparison.setMode("flicker")
    comparison.flick()
    comparison.setOrientation("Coronal")
    world.real.GetDisplayNode().SetWindowLevel(10, 20)
    world.segmentation.GetDisplayNode().SetSegmentOpacity2DOutline("lung", 0.2)
    for view in TAGS.values():
        world.views.draw(view)
    assert world.nodeIds() != before[1]
    comparison.stop()
    after = world.xml(), world.nodeIds(), world.layoutNode.GetLayoutIndices(), _maximized(world)
    assert after == before
    assert world.reasons == [] and not comparison.isActive


def test_twenty_comparisons_leave_nothing_behind(world):
    before = world.nodeIds()
    displays = [node.GetDisplayNode() for node in (world.real, world.synthetic)]
    observers = [str(watched).count("Command") for watched in (world.scene, *displays)]
    for index in range(20):
        world.start(orientation=("Axial", "Sagittal", "Coronal")[index % 3])
        if index % 2:
            world.comparison.stop()
    world.comparison.stop()
    world.comparison.stop()
    assert world.nodeIds() == before
    assert [str(watched).count("Command") for watched in (world.scene, *displays)] == observers


def test_layout_that_the_user_has_chosen_meanwhile_stays(world):
    comparison = world.start()
    other = slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView
    world.layoutNode.SetViewArrangement(other)
    assert not comparison.layout.isShown
    comparison.stop()
    assert world.layoutNode.GetViewArrangement() == other
    world.start()
    world.layoutNode.AddMaximizedViewNode(world.view("real"))
    comparison.stop()
    assert world.layoutNode.GetViewArrangement() == other and _maximized(world) == []


def test_failure_while_starting_changes_nothing(world, monkeypatch):
    before = world.xml(), world.nodeIds()

    def fail(*nodes):
        raise MemoryError("no memory")

    monkeypatch.setattr(comparisonModule, "compareSegments", fail)
    with pytest.raises(MemoryError):
        world.start()
    assert (world.xml(), world.nodeIds()) == before


# When the scene changes under it


def test_closing_the_scene_ends_it(world):
    world.start()
    world.scene.Clear(0)
    assert world.reasons == ["The scene was closed."]
    assert world.layoutNode.GetViewArrangement() == FOUR_UP
    assert not [tag for tag in (*TAGS.values(), PLOT_TAG, TABLE_TAG) if tag in " ".join(world.nodeIds())]
    world.comparison.stop()
    assert world.reasons == ["The scene was closed."]


@pytest.mark.parametrize("removed", ["real", "synthetic", "segmentation"])
def test_removing_an_input_ends_it(world, removed):
    before = {
        node.GetName(): (d.GetAutoWindowLevel(), d.GetWindow(), d.GetLevel())
        for node in (world.real, world.synthetic)
        for d in [node.GetDisplayNode()]
    }
    fill = world.segmentation.GetDisplayNode().GetVisibility2DFill()
    world.start()
    gone = getattr(world, removed)
    name = gone.GetName()
    world.scene.RemoveNode(gone)
    assert world.reasons == [f"'{name}' was removed."]
    assert not world.comparison.isActive and world.layoutNode.GetViewArrangement() == FOUR_UP
    assert not [tag for tag in TAGS.values() if tag in " ".join(world.nodeIds())]
    for node in (world.real, world.synthetic):
        if node is not gone:
            d = node.GetDisplayNode()
            assert (d.GetAutoWindowLevel(), d.GetWindow(), d.GetLevel()) == before[node.GetName()]
    if removed != "segmentation":
        assert world.segmentation.GetDisplayNode().GetVisibility2DFill() == fill


def test_removed_segment_does_not_disturb_it(world):
    world.start()
    world.segmentation.GetSegmentation().RemoveSegment("nodule")
    world.comparison.refresh()
    assert [row.name for row in world.comparison.rows] == ["lung"] and world.comparison.within is None
    world.comparison.stop()


def test_scene_saved_meanwhile_holds_nothing_of_it(world):
    before = world.xml()
    comparison = world.start()
    tags = (*TAGS.values(), PLOT_TAG, TABLE_TAG, "Difference", "Comparison")
    assert not [tag for tag in tags if f'"{tag}' in world.xml()]
    shown = world.layoutNode.GetViewArrangement()
    with comparison.paused():
        assert world.xml() == before
    assert world.layoutNode.GetViewArrangement() == shown
    assert (world.real.GetDisplayNode().GetWindow(), world.real.GetDisplayNode().GetLevel()) == (1400, -500)
    assert not world.segmentation.GetDisplayNode().GetVisibility2DFill()
    world.real.GetDisplayNode().SetWindowLevel(5, 6)
    assert world.synthetic.GetDisplayNode().GetWindow() == 5
    comparison.stop()
    assert world.xml() == before
    with comparison.paused():
        assert world.xml() == before


def test_scene_saved_with_the_comparison_shown_is_recovered(world):
    world.start()
    saved = world.xml()
    world.close()
    other = slicer.vtkMRMLScene()
    logic = slicer.vtkMRMLLayoutLogic()
    logic.SetMRMLScene(other)
    other.SetLoadFromXMLString(1)
    other.SetSceneXMLString(saved)
    other.Connect()
    node = logic.GetLayoutNode()
    assert recoverLayout(node)
    assert node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutInitialView
    assert not recoverLayout(node)
    logic.SetMRMLScene(None)
