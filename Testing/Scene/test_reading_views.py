"""The images of a reading in a real scene: what is loaded, where it begins, which nodes are there, and that they go."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from comparison_examples import add_segmentation
from slice_pictures import SliceViews

nib = pytest.importorskip("nibabel")
slicer = pytest.importorskip("slicer")

SHAPE = (20, 24, 16)
SPACING = (2.0, 2.0, 3.0)
AFFINE = np.diag([*SPACING, 1.0])
AFFINE[:3, 3] = (-20.0, -30.0, 7.0)
VIEWING = {
    "layout": "three_planes",
    "windows": [{"name": "Lung", "center": -600, "width": 1500}, {"name": "Soft", "center": 40, "width": 400}],
    "window_locked": True,
    "start_slice": "middle",
}


def write_volume(path: Path, seed: int, note: bytes = b"SECRET synthetic") -> Path:
    voxels = np.random.default_rng(seed).integers(-1000, 400, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(voxels, AFFINE)
    image.header["descrip"] = note
    nib.save(image, path)
    return path


def write_mask(path: Path, centre=(5, 6, 4)) -> Path:
    """A .seg.nrrd with a segment whose name would give it away, written by Slicer."""
    mask = np.zeros(SHAPE[::-1], bool)
    mask[tuple(slice(c - 1, c + 2) for c in reversed(centre))] = True
    private = slicer.vtkMRMLScene()
    node = add_segmentation(private, {"SECRET nodule": mask}, AFFINE, "SECRET drawing")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    return path


class World:
    """A scene with Slicer's own layout and slice logics."""

    def __init__(self, scene, folder: Path) -> None:
        from SynthDiffusionScene.readingViews import ReadingViews

        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self.scene, self.folder, self.reasons = scene, folder, []
        scene.AddNode(slicer.vtkMRMLInteractionNode())
        scene.AddNode(slicer.vtkMRMLSelectionNode())
        self.slices = SliceViews(scene, (160, 140))
        self.layoutLogic = slicer.vtkMRMLLayoutLogic()
        self.layoutLogic.SetMRMLScene(scene)
        self.layoutNode = self.layoutLogic.GetLayoutNode()
        self.layoutNode.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.fitted = []
        self.views = ReadingViews(scene, self.layoutNode, self.fitted.append, self.reasons.append)
        self.left = write_volume(folder / "v0123456789.nii.gz", 1)
        self.right = write_volume(folder / "vabcdef0123.nii.gz", 2)

    def nodes(self, name: str = "vtkMRMLNode") -> list:
        return [self.scene.GetNthNodeByClass(n, name) for n in range(self.scene.GetNumberOfNodesByClass(name))]

    def state(self) -> str:
        """The scene as it would be saved."""
        self.scene.SetSaveToXMLString(1)
        self.scene.Commit()
        return self.scene.GetSceneXMLString()

    def ids(self) -> list[str]:
        return sorted(node.GetID() for node in self.nodes())

    def close(self) -> None:
        self.views.end()
        self.slices.close()
        self.layoutLogic.SetMRMLScene(None)


@pytest.fixture
def world(scene, tmp_path):
    made = World(scene, tmp_path)
    yield made
    made.close()


def positions(state: dict) -> list[float]:
    """S of the axial, R of the sagittal and A of the coronal view, in mm."""
    axis = {"Axial": 2, "Sagittal": 0, "Coronal": 1}
    return [view["center_ras_mm"][axis[view["orientation"]]] for view in state["views"]]


def test_voxels_and_geometry_are_the_files(world):
    import slicer.util

    from SynthDiffusionScene.readingNodes import addOpaqueVolume
    from SynthDiffusionScene.volumes import ijkToRas

    node = addOpaqueVolume(world.scene, world.left)
    read = nib.load(world.left)
    assert np.array_equal(slicer.util.arrayFromVolume(node).T, np.asarray(read.dataobj))
    assert np.allclose(ijkToRas(node), read.affine, atol=1e-6)


def test_nothing_of_the_file_but_its_voxels_is_in_the_scene(world):
    mask = write_mask(world.folder / "vsecretmask.seg.nrrd")
    before = set(world.ids())
    world.views.show("single", VIEWING, [world.left], [mask], showMasks=True)
    new = [node for node in world.nodes() if node.GetID() not in before]
    texts = [part for node in new for part in (node.GetName(), node.GetID(), node.GetDescription() or "", str(node))]
    for text in texts:
        assert not any(word in text for word in ("SECRET", "v0123", "vsecretmask", str(world.folder), ".nii")), text
    (segmentation,) = world.nodes("vtkMRMLSegmentationNode")
    segment = segmentation.GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == "1" and "SECRET" not in segmentation.GetSegmentation().GetNthSegmentID(0)
    assert not world.nodes("vtkMRMLStorageNode")
    for node in new:
        if node.IsA("vtkMRMLDisplayableNode") and not node.IsA("vtkMRMLModelNode"):
            assert node.GetHideFromEditors() and not node.GetSaveWithScene()
    assert "SECRET" not in world.state() and "ScalarVolumeDisplay" not in world.state()


def test_three_planes_of_one_volume(world):
    world.views.show("single", VIEWING, [world.left])
    views = world.views.views
    assert [view.orientation for view in views] == ["Axial", "Sagittal", "Coronal"]
    (volume,) = world.nodes("vtkMRMLScalarVolumeNode")
    for view in views:
        assert world.views.layout.slices[view.tag].GetOrientation() == view.orientation
        assert world.views.layout.composites[view.tag].GetBackgroundVolumeID() == volume.GetID()
    assert len(world.fitted) == 3
    middle = (AFFINE @ [*(n // 2 for n in SHAPE), 1])[:3]
    assert positions(world.views.state()) == pytest.approx([middle[2], middle[0], middle[1]])


def test_one_plane_where_the_study_says_so(world):
    world.views.show("single", VIEWING | {"layout": "axial"}, [world.left])
    assert [view["view"] for view in world.views.state()["views"]] == ["axial"]


def test_pairs_lie_side_by_side_as_they_are_given(world):
    import slicer.util

    world.views.show("forced_choice", VIEWING, [world.left, world.right])
    for view, path in zip(world.views.views, (world.left, world.right)):
        shown = world.scene.GetNodeByID(world.views.layout.composites[view.tag].GetBackgroundVolumeID())
        assert np.array_equal(slicer.util.arrayFromVolume(shown).T, np.asarray(nib.load(path).dataobj))
    assert [view["view"] for view in world.views.state()["views"]] == ["left", "right"]


def test_it_begins_in_the_middle_of_the_mask(world):
    mask = write_mask(world.folder / "m.seg.nrrd", (5, 6, 4))
    for shown in (True, False):
        world.views.show("single", VIEWING | {"start_slice": "mask"}, [world.left], [mask], showMasks=shown)
        centre = (AFFINE @ [5, 6, 4, 1])[:3]
        assert positions(world.views.state()) == pytest.approx([centre[2], centre[0], centre[1]])
        assert len(world.nodes("vtkMRMLSegmentationNode")) == shown


def test_a_mask_is_drawn_over_its_own_volume_only(world):
    masks = [write_mask(world.folder / f"{n}.seg.nrrd") for n in "ab"]
    world.views.show("forced_choice", VIEWING, [world.left, world.right], masks, showMasks=True)
    slices = world.views.layout.slices
    seen = [
        [display.GetNthViewNodeID(n) for n in range(display.GetNumberOfViewNodeIDs())]
        for display in (node.GetDisplayNode() for node in world.nodes("vtkMRMLSegmentationNode"))
    ]
    assert seen == [[slices["SynthDiffusionReadLeft"].GetID()], [slices["SynthDiffusionReadRight"].GetID()]]


def test_the_next_case_replaces_the_one_before(world):
    world.views.show("single", VIEWING, [world.left])
    count = len(world.ids())
    for path in (world.right, world.left, world.right):
        world.views.show("single", VIEWING, [path])
        assert len(world.ids()) == count and len(world.nodes("vtkMRMLScalarVolumeNode")) == 1


def test_a_locked_window_is_put_back_and_counted(world):
    world.views.show("forced_choice", VIEWING, [world.left, world.right])
    for node in world.nodes("vtkMRMLScalarVolumeNode"):
        display = node.GetDisplayNode()
        display.SetWindowLevelMinMax(0, 10)
        assert (display.GetWindow(), display.GetLevel()) == (1500, -600)
    assert world.views.reverts == 2
    world.views.setWindow(None)
    window = world.views.state()["views"][0]
    assert window["window"] == pytest.approx(1399, abs=5) and world.views.reverts == 2
    world.views.show("single", VIEWING, [world.left])
    assert world.views.reverts == 0  # of this case


def test_a_free_window_is_the_same_for_both(world):
    world.views.show("forced_choice", VIEWING | {"window_locked": False}, [world.left, world.right])
    first, second = (node.GetDisplayNode() for node in world.nodes("vtkMRMLScalarVolumeNode"))
    second.SetWindowLevel(321, 12)
    assert (first.GetWindow(), first.GetLevel()) == (321, 12) and world.views.reverts == 0


def test_the_chosen_preset_stays_for_the_next_case(world):
    from SynthDiffusionScene.readingViews import Window

    world.views.show("single", VIEWING, [world.left])
    world.views.setWindow(Window.listed(VIEWING)[1])
    world.views.show("single", VIEWING, [world.right])
    assert world.views.state()["window_preset"] == "Soft"
    assert world.views.state()["views"][0]["window"] == 400


def test_hidden_images_leave_nothing_to_see(world):
    mask = write_mask(world.folder / "m.seg.nrrd")
    world.views.show("single", VIEWING | {"start_slice": "mask"}, [world.left], [mask], showMasks=True)
    world.views.showPoints([(0, (1, 2, 3), "1")])
    tag = world.views.views[0].tag
    with_image = world.slices.draw(tag)
    assert with_image.std() > 5 and np.ptp(with_image, axis=2).max() > 0  # grey voxels, coloured outline
    world.views.hideImages()
    assert not world.views.state()["images"]
    black = world.slices.draw(tag)
    assert black.std() == 0
    world.views.showImages()
    assert np.array_equal(world.slices.draw(tag), with_image)
    assert all(node.GetDisplayNode().GetVisibility() for node in world.nodes("vtkMRMLMarkupsFiducialNode"))


@pytest.mark.parametrize("kind", ["single", "forced_choice"])
def test_leaving_restores_the_scene_exactly(world, kind):
    before, ids, layout = world.state(), world.ids(), world.layoutNode.GetViewArrangement()
    interaction = world.nodes("vtkMRMLInteractionNode")[0]
    mode = interaction.GetCurrentInteractionMode()
    for _ in range(3):
        world.views.show(kind, VIEWING | {"window_locked": False}, [world.left, world.right][: 1 + (kind != "single")])
        world.views.showPoints([(0, (1, 2, 3), "1")])
        world.views.points.place(lambda ras: None, lambda: None)
        world.views.end()
    assert world.ids() == ids and world.layoutNode.GetViewArrangement() == layout
    assert interaction.GetCurrentInteractionMode() == mode
    assert world.state() == before
    assert not world.layoutNode.IsLayoutDescription(20671)


def test_a_scene_saved_meanwhile_holds_nothing_of_the_reading(world):
    before = world.state()
    world.views.show("single", VIEWING, [world.left])
    during = world.state()
    for line in during.splitlines():
        if line.strip() and line not in before:
            assert "vtkMRML" not in line and "<Volume" not in line or "currentViewArrangement" in line, line


@pytest.mark.parametrize("damage", ["missing", "cut", "no image"])
def test_a_file_that_cannot_be_read_is_named_and_leaves_nothing(world, damage):
    from SynthDiffusionScene.errors import SceneError

    path = world.folder / "vbad.nii.gz"
    if damage == "cut":
        path.write_bytes(world.left.read_bytes()[:50])
    elif damage == "no image":
        path.write_bytes(gzip.compress(b"hello"))
    with pytest.raises(SceneError, match="vbad.nii.gz") as caught:
        world.views.show("forced_choice", VIEWING, [world.left, path])
    assert str(world.folder) not in caught.value.message
    assert not world.nodes("vtkMRMLScalarVolumeNode") and world.views.isActive
    world.views.show("single", VIEWING, [world.left])
    assert world.views.state()["images"]


def test_closing_the_scene_ends_it(world):
    world.views.show("single", VIEWING, [world.left])
    world.scene.Clear(0)
    assert not world.views.isActive and world.reasons == ["The scene was closed."]
    assert not world.nodes("vtkMRMLScalarVolumeNode")


def test_opening_a_scene_ends_it(world):
    other = slicer.vtkMRMLScene()
    other.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "foreign")
    other.SetSaveToXMLString(1)
    other.Commit()
    layout = world.layoutNode.GetViewArrangement()
    world.views.show("single", VIEWING, [world.left])
    world.scene.SetLoadFromXMLString(1)
    world.scene.SetSceneXMLString(other.GetSceneXMLString())
    world.scene.Import()
    assert not world.views.isActive and world.reasons == ["A scene was opened."]
    assert world.layoutNode.GetViewArrangement() == layout
    assert [node.GetName() for node in world.nodes("vtkMRMLScalarVolumeNode")] == ["foreign"]


def test_removing_an_image_ends_it(world):
    world.views.show("single", VIEWING, [world.left])
    world.scene.RemoveNode(world.nodes("vtkMRMLScalarVolumeNode")[0])
    assert not world.views.isActive and world.reasons == ["An image of the reading was removed."]


def test_a_segmentation_of_the_user_is_out_of_sight_meanwhile(world):
    node = add_segmentation(world.scene, {"lung": np.ones(SHAPE[::-1], bool)}, AFFINE)
    node.CreateDefaultDisplayNodes()
    world.views.show("single", VIEWING, [world.left])
    assert not node.GetDisplayNode().GetVisibility2D()
    world.views.end()
    assert node.GetDisplayNode().GetVisibility2D()


def test_placing_a_point_uses_slicers_mode_and_gives_it_back(world):
    interaction, selection = (world.nodes(f"vtkMRML{name}Node")[0] for name in ("Interaction", "Selection"))
    selection.SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsLineNode")
    world.views.show("single", VIEWING, [world.left])
    placed, ended = [], []
    points = world.views.points
    points.place(placed.append, lambda: ended.append(True))
    assert interaction.GetCurrentInteractionMode() == slicer.vtkMRMLInteractionNode.Place
    (node,) = world.nodes("vtkMRMLMarkupsFiducialNode")
    assert selection.GetActivePlaceNodeID() == node.GetID()
    node.AddControlPoint([1, 2, 3])
    assert placed == [[1.0, 2.0, 3.0]] and points.isPlacing
    points.stop()
    assert not points.isPlacing and not world.nodes("vtkMRMLMarkupsFiducialNode")
    assert selection.GetActivePlaceNodeClassName() == "vtkMRMLMarkupsLineNode"
    assert not ended
