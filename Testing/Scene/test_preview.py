"""Previews in the slice views: real slice views of MRML, without a window."""

from __future__ import annotations

import numpy as np
import pytest
from scene_examples import SHAPE

pytest.importorskip("slicer")
nrrd = pytest.importorskip("nrrd")

import slicer  # noqa: E402
import slicer.util  # noqa: E402

from SynthDiffusionScene import bundle, volumes  # noqa: E402
from SynthDiffusionScene.errors import SceneError  # noqa: E402
from SynthDiffusionScene.preview import Preview, fitThrough  # noqa: E402


@pytest.fixture
def write(tmp_path):
    """Writes a preview as the worker does: `write(value, name, shape)`; its path."""

    def write(value: int = 100, name: str = "p", shape=(8, 9, 10), origin=(-30.0, 20.0, 5.5)):
        header = {
            "space": "left-posterior-superior",
            "space directions": np.diag([3.0, 3.0, 3.0]),
            "space origin": origin,
        }
        path = tmp_path / f"{name}.nrrd"
        nrrd.write(str(path), np.full(shape, value, np.int16), header)
        return path

    return write


@pytest.fixture
def add_view(scene):
    """Adds a slice view: `add_view("Red", background, foreground, opacity)`; its composite node."""

    def add(name: str, background=None, foreground=None, opacity: float = 0.0):
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(name)
        composite = scene.AddNode(composite)
        composite.SetBackgroundVolumeID(background.GetID() if background else None)
        composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
        composite.SetForegroundOpacity(opacity)
        return composite

    return add


@pytest.fixture
def real(add_volume):
    return add_volume(np.zeros(SHAPE, np.int16), "real")


def _state(composite) -> dict[str, str]:
    """Everything that the node would write into a scene file."""
    names = ("BackgroundVolumeID", "ForegroundVolumeID", "LabelVolumeID", "ForegroundOpacity", "LabelOpacity")
    names += ("ClipToBackgroundVolume", "LinkedControl", "HotLinkedControl", "Compositing")
    return {name: getattr(composite, f"Get{name}")() or None for name in names}


def test_without_views_there_is_only_a_hidden_node(scene, write):
    before = scene.GetNumberOfNodes()
    preview = Preview(scene)
    preview.show(write(7))
    node = preview.node
    assert (slicer.util.arrayFromVolume(node) == 7).all()
    np.testing.assert_allclose(volumes.ijkToRas(node)[:3, 3], [30, -20, 5.5])
    assert node.GetHideFromEditors() and not node.GetSaveWithScene() and node.GetStorageNode() is None
    display = node.GetDisplayNode()
    assert not display.GetSaveWithScene() and (display.GetWindow(), display.GetLevel()) == (1400, -500)
    preview.remove()
    preview.remove()
    assert preview.node is None and scene.GetNumberOfNodes() == before


def test_over_a_background_and_in_the_background_where_there_is_none(scene, write, real, add_volume, add_view):
    other = add_volume(np.zeros(SHAPE, np.int16), "other")
    views = [
        add_view("Red", real, other, 0.3),
        add_view("Green", real),
        add_view("Yellow"),
        add_view("Blue", None, other),
    ]
    views[1].SetClipToBackgroundVolume(False)
    before, nodes = [_state(view) for view in views], scene.GetNumberOfNodes()
    preview = Preview(scene)
    preview.show(write())
    shown = preview.node.GetID()
    for view in views[:2]:
        assert view.GetBackgroundVolumeID() == real.GetID()
        assert (view.GetForegroundVolumeID(), view.GetForegroundOpacity()) == (shown, 1.0)
        assert not view.GetClipToBackgroundVolume()
    assert views[2].GetBackgroundVolumeID() == shown and views[2].GetForegroundVolumeID() is None
    assert views[3].GetBackgroundVolumeID() == shown and views[3].GetForegroundVolumeID() == other.GetID()
    preview.remove()
    assert [_state(view) for view in views] == before
    assert scene.GetNumberOfNodes() == nodes


def test_a_new_preview_takes_the_place_of_the_old_and_a_new_view_gets_it(scene, write, real, add_view):
    red = add_view("Red", real)
    preview = Preview(scene)
    preview.show(write(1, "a"))
    node, nodes = preview.node, scene.GetNumberOfNodes()
    green, yellow = add_view("Green"), add_view("Yellow", real, real, 0.5)
    before = [_state(green), _state(yellow)]
    preview.show(write(2, "b", (4, 4, 4), (1.0, 2.0, 3.0)))
    assert preview.node is node and scene.GetNumberOfNodes() == nodes + 2  # the two views
    assert slicer.util.arrayFromVolume(node).shape == (4, 4, 4) and (slicer.util.arrayFromVolume(node) == 2).all()
    np.testing.assert_allclose(volumes.ijkToRas(node)[:3, 3], [-1, -2, 3])
    assert {red.GetForegroundVolumeID(), green.GetBackgroundVolumeID(), yellow.GetForegroundVolumeID()} == {
        node.GetID()
    }
    preview.remove()
    assert [_state(green), _state(yellow)] == before


def test_what_the_user_chooses_meanwhile_stays(scene, write, real, add_volume, add_view):
    chosen = add_volume(np.zeros(SHAPE, np.int16), "chosen")
    inBackground, overIt, under = (
        add_view("Red"),
        add_view("Green", real, real, 0.25),
        add_view("Yellow", real, real, 0.25),
    )
    preview = Preview(scene)
    preview.show(write())
    inBackground.SetBackgroundVolumeID(chosen.GetID())
    overIt.SetForegroundVolumeID(chosen.GetID())
    overIt.SetForegroundOpacity(0.75)
    under.SetBackgroundVolumeID(chosen.GetID())
    preview.show(write(5))
    # A view that the user took the preview out of does not get it again.
    assert preview.node.GetID() not in (inBackground.GetBackgroundVolumeID(), inBackground.GetForegroundVolumeID())
    assert overIt.GetForegroundVolumeID() == chosen.GetID()
    assert under.GetForegroundVolumeID() == preview.node.GetID()
    with preview.suspended():
        assert under.GetForegroundVolumeID() == real.GetID()
    assert under.GetForegroundVolumeID() == preview.node.GetID()
    assert overIt.GetForegroundVolumeID() == inBackground.GetBackgroundVolumeID() == chosen.GetID()
    preview.remove()
    assert inBackground.GetBackgroundVolumeID() == chosen.GetID() and inBackground.GetForegroundVolumeID() is None
    assert (overIt.GetForegroundVolumeID(), overIt.GetForegroundOpacity()) == (chosen.GetID(), 0.75)
    assert (under.GetBackgroundVolumeID(), under.GetForegroundVolumeID()) == (chosen.GetID(), real.GetID())
    assert under.GetForegroundOpacity() == 0.25


def test_volume_that_was_deleted_meanwhile_is_not_put_back(scene, write, real, add_volume, add_view):
    gone = add_volume(np.zeros(SHAPE, np.int16), "gone")
    red = add_view("Red", real, gone, 0.5)
    preview = Preview(scene)
    preview.show(write())
    scene.RemoveNode(gone)
    preview.remove()
    assert red.GetForegroundVolumeID() is None and red.GetBackgroundVolumeID() == real.GetID()


def test_view_that_was_closed_meanwhile(scene, write, real, add_view):
    red, green = add_view("Red", real), add_view("Green", real)
    preview = Preview(scene)
    preview.show(write())
    scene.RemoveNode(red)
    # In its place comes one with the same ID.
    again = add_view("Red", real, real, 0.5)
    preview.show(write())
    assert again.GetForegroundVolumeID() == preview.node.GetID()
    preview.remove()
    assert again.GetForegroundVolumeID() == real.GetID() and green.GetForegroundVolumeID() is None


@pytest.mark.parametrize("how", ["clear", "remove"])
def test_preview_that_somebody_else_has_removed(scene, write, real, add_view, how):
    red = add_view("Red", real, real, 0.5)
    before = _state(red)
    preview = Preview(scene)
    preview.show(write())
    if how == "clear":
        scene.Clear(True)
    else:
        scene.RemoveNode(preview.node)
    assert preview.node is None
    preview.show(write(3))
    assert (slicer.util.arrayFromVolume(preview.node) == 3).all()
    preview.remove()
    if how == "clear":
        assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    else:
        assert _state(red) == before


@pytest.mark.parametrize("content", [None, b"half a fi"])
def test_unreadable_preview_is_refused_and_the_one_shown_stays(scene, write, real, add_view, tmp_path, content):
    red = add_view("Red", real)
    preview = Preview(scene)
    preview.show(write(4))
    nodes = scene.GetNumberOfNodes()
    path = tmp_path / "broken.nrrd"
    if content:
        path.write_bytes(content)
    with pytest.raises(SceneError, match=r"broken\.nrrd"):
        preview.show(path)
    assert (slicer.util.arrayFromVolume(preview.node) == 4).all() and scene.GetNumberOfNodes() == nodes
    preview.remove()
    assert red.GetForegroundVolumeID() is None


def test_lies_under_the_transform_and_has_the_window_of_the_real_volume(scene, write, real, add_segmentation):
    real.CreateDefaultDisplayNodes()
    real.GetDisplayNode().SetAutoWindowLevel(False)
    real.GetDisplayNode().SetWindowLevel(350, 40)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    segmentation = add_segmentation({"a": (np.ones(SHAPE, bool), "")}, shape=SHAPE)
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    preview = Preview(scene, segmentation, real)
    preview.show(write())
    assert preview.node.GetParentTransformNode() is transform
    display = preview.node.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == (350, 40)


def test_field_of_view_is_fitted_only_where_there_was_nothing_to_see(scene, write, real):
    """Real slice logics, as the application has them."""
    application = slicer.vtkMRMLApplicationLogic()
    application.SetMRMLScene(scene)
    logics = slicer.vtkMRMLColorLogic(), [slicer.vtkMRMLSliceLogic(), slicer.vtkMRMLSliceLogic()]
    import vtk

    collection = vtk.vtkCollection()
    for name, logic in zip(("Red", "Green"), logics[1]):
        logic.SetMRMLScene(scene)
        logic.AddSliceNode(name).SetDimensions(200, 200, 1)
        collection.AddItem(logic)
    application.SetSliceLogics(collection)
    red, green = logics[1]
    red.GetSliceCompositeNode().SetBackgroundVolumeID(real.GetID())
    nodes = [logic.GetSliceNode() for logic in (red, green)]
    before = [(node.GetFieldOfView(), node.GetXYZOrigin()) for node in nodes]
    preview = Preview(scene, fitView=fitThrough(application))
    preview.show(write(shape=(60, 50, 40), origin=(300.0, 300.0, 300.0)))
    assert (nodes[0].GetFieldOfView(), nodes[0].GetXYZOrigin()) == before[0]
    # Axial: 60 x 50 voxels of 3 mm in a square view, so that the field is at least as wide as the volume.
    field, center = nodes[1].GetFieldOfView(), [nodes[1].GetSliceToRAS().GetElement(i, 3) for i in range(3)]
    assert 180 <= field[0] <= 200 and 150 <= field[1] <= 200
    np.testing.assert_allclose(center[:2], [-300 - 3 * 29.5, -300 - 3 * 24.5], atol=3)
    preview.show(write(1))
    assert nodes[1].GetFieldOfView() == field  # not again for the next preview
    preview.remove()
    assert green.GetSliceCompositeNode().GetBackgroundVolumeID() is None


def test_is_never_in_a_saved_scene(scene, write, real, add_view, tmp_path):
    """Also when the user saves by Slicer's own means while it is shown."""
    add_view("Red", real)
    preview = Preview(scene)
    preview.show(write())
    bundle.writeBundle(scene, tmp_path / "scene.mrb")
    opened = bundle.readBundle(tmp_path / "scene.mrb", tmp_path / "unpacked")
    names = [opened.GetNthNode(index).GetName() for index in range(opened.GetNumberOfNodes())]
    assert "real" in names and not [name for name in names if name and "preview" in name]
    assert not [path for path in (tmp_path / "unpacked").rglob("*preview*")]
    red = opened.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    assert red.GetForegroundVolumeID() is None
