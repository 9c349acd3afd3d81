"""Segmentation nodes to job inputs and back. What is written is read by pynrrd and slicerio, not by our own code."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from scene_examples import LUNG, NODULE, SHAPE

pytest.importorskip("slicer")
nrrd = pytest.importorskip("nrrd")

import slicer  # noqa: E402

from SynthDiffusionScene import segmentations  # noqa: E402
from SynthDiffusionScene.errors import SceneError  # noqa: E402


def _affine_of(header) -> np.ndarray:
    """RAS affine of a NRRD header in left-posterior-superior space (NRRD definition, section "space")."""
    assert header["space"] == "left-posterior-superior"
    affine = np.eye(4)
    affine[:3, :3] = header["space directions"][-3:].T
    affine[:3, 3] = header["space origin"]
    return np.diag([-1, -1, 1, 1]) @ affine


def _masks_of(path) -> dict[str, np.ndarray]:
    voxels, header = nrrd.read(str(path))
    layers = voxels if voxels.ndim == 4 else voxels[None]
    masks = {}
    for index in range(sum(key.endswith("_ID") for key in header)):
        layer, value = int(header[f"Segment{index}_Layer"]), int(header[f"Segment{index}_LabelValue"])
        masks[index] = layers[layer] == value
    return masks


def _tag(header, index: int) -> str:
    return header[f"Segment{index}_Tags"]


def test_job_input_keeps_grid_voxels_and_terminology(two_overlapping, affine, tmp_path):
    node, masks = two_overlapping
    segmentations.writeJobInput(node, tmp_path)
    path = tmp_path / "segmentation.seg.nrrd"
    voxels, header = nrrd.read(str(path))
    assert voxels.shape == (2, *SHAPE)  # two layers, for the segments overlap
    np.testing.assert_allclose(_affine_of(header), affine, atol=1e-6)
    for mask, written in zip(masks.values(), _masks_of(path).values()):
        np.testing.assert_array_equal(written, mask)
    assert f"TerminologyEntry:{LUNG}" in _tag(header, 0)
    assert f"TerminologyEntry:{NODULE}" in _tag(header, 1)


def test_slicerio_reads_names_and_codes_of_the_job_input(two_overlapping, tmp_path):
    slicerio = pytest.importorskip("slicerio")
    node, _ = two_overlapping
    segmentations.writeJobInput(node, tmp_path)
    read = slicerio.read_segmentation(str(tmp_path / "segmentation.seg.nrrd"))
    assert [segment["terminology"]["type"] for segment in read["segments"]] == [
        ["SCT", "39607008", "Lung"],
        ["SCT", "27925004", "Nodule"],
    ]
    assert read["segments"][0]["name"] == "lung, left"


def test_round_trip_keeps_everything(scene, two_overlapping, tmp_path):
    node, masks = two_overlapping
    segmentations.writeJobInput(node, tmp_path)
    copy = segmentations.importSegmentation(scene, tmp_path / "segmentation.seg.nrrd", "copy")
    before, after = segmentations.segmentsOf(node), segmentations.segmentsOf(copy)
    assert [segment.GetName() for segment in after] == list(masks)
    assert [segment.GetTerminology() for segment in after] == [LUNG, NODULE]
    for one, other in zip(before, after):
        assert one.GetColor() == pytest.approx(other.GetColor(), abs=1e-6)
        (mask, place), (mask2, place2) = segmentations.segmentBounds(one), segmentations.segmentBounds(other)
        np.testing.assert_array_equal(mask, mask2)
        np.testing.assert_allclose(place, place2, atol=1e-6)
    assert copy.GetDisplayNode() and copy.GetStorageNode()


@pytest.mark.parametrize("tight", [True, False])
def test_bounds_are_the_place_of_the_first_voxel(two_overlapping, add_segmentation, affine, tight):
    masks = two_overlapping[1]
    node = add_segmentation({name: (mask, "") for name, mask in masks.items()}, tight=tight)
    for segment, expected in zip(segmentations.segmentsOf(node), masks.values()):
        mask, place = segmentations.segmentBounds(segment)
        first = [int(axis.min()) for axis in np.nonzero(expected)]
        np.testing.assert_allclose(place[:3, 3], (affine @ [*first, 1])[:3], atol=1e-6)
        assert mask.sum() == expected.sum()


@pytest.fixture
def volume_on(scene):
    """A volume node of zeros: `volume_on(affine, shape)`."""
    import slicer.util

    def make(place: np.ndarray, shape: tuple[int, int, int]):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "image")
        slicer.util.updateVolumeFromArray(node, np.zeros(shape[::-1], np.int16))
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(place))
        return node

    return make


def test_on_the_grid_of_a_crop_the_voxels_are_those_of_the_drawing(two_overlapping, volume_on, affine, tmp_path):
    node, masks = two_overlapping
    low, high = (2, 3, 4), tuple(n - 1 for n in SHAPE)
    place = affine.copy()
    place[:3, 3] = (affine @ [*low, 1])[:3]
    shape = tuple(b - a for a, b in zip(low, high))
    assert segmentations.exportOnGrid(node, volume_on(place, shape), tmp_path / "a.seg.nrrd") is True
    _voxels, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_allclose(_affine_of(header), place, atol=1e-6)
    part = tuple(slice(a, b) for a, b in zip(low, high))
    for mask, written in zip(masks.values(), _masks_of(tmp_path / "a.seg.nrrd").values()):
        assert mask[part].any()
        np.testing.assert_array_equal(written, mask[part])
    assert f"TerminologyEntry:{NODULE}" in _tag(header, 1)


def test_on_other_voxels_the_nearest_are_taken(two_overlapping, volume_on, affine, tmp_path):
    """Every voxel cut into eight has the value of the one that it was cut from."""
    node, masks = two_overlapping
    place = affine @ np.diag([0.5, 0.5, 0.5, 1])
    place[:3, 3] = (affine @ [-0.25, -0.25, -0.25, 1])[:3]
    shape = tuple(2 * n for n in SHAPE)
    assert segmentations.exportOnGrid(node, volume_on(place, shape), tmp_path / "a.seg.nrrd") is False
    for mask, written in zip(masks.values(), _masks_of(tmp_path / "a.seg.nrrd").values()):
        np.testing.assert_array_equal(written, mask.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_what_lies_beside_the_volume_is_refused(two_overlapping, volume_on, affine, tmp_path):
    place = affine.copy()
    place[:3, 3] += 1e4
    with pytest.raises(SceneError, match="Nothing of the segmentation"):
        segmentations.exportOnGrid(two_overlapping[0], volume_on(place, SHAPE), tmp_path / "a.seg.nrrd")
    assert not list(tmp_path.iterdir())


def test_file_of_another_writer_keeps_its_whole_grid(scene, affine, tmp_path):
    """Without Slicer's own reference geometry in the header, Slicer's writer would crop to the drawn voxels."""
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[4:7, 5:8, 6:9] = 1
    lps = np.diag([-1, -1, 1, 1]) @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "Segment0_ID": "Segment_1",
        "Segment0_Name": "box",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment0_Extent": "4 6 5 7 6 8",
    }
    nrrd.write(str(tmp_path / "foreign.seg.nrrd"), voxels, header)
    node = segmentations.importSegmentation(scene, tmp_path / "foreign.seg.nrrd")
    assert node.GetName() == "foreign"
    segmentations.exportSegmentation(node, tmp_path / "again.seg.nrrd")
    again, header = nrrd.read(str(tmp_path / "again.seg.nrrd"))
    np.testing.assert_array_equal(again, voxels)
    np.testing.assert_allclose(_affine_of(header), affine, atol=1e-6)


def test_node_without_reference_geometry_keeps_the_grid_of_its_label_maps(add_segmentation, affine, tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[4:9, 3:12, 2:7] = True
    node = add_segmentation({"a": (mask, ""), "b": (np.zeros(SHAPE, bool), "")}, tight=False)
    segmentations.exportSegmentation(node, tmp_path / "a.seg.nrrd")
    voxels, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(voxels.reshape(-1, *SHAPE).any(0), mask)
    np.testing.assert_allclose(_affine_of(header), affine, atol=1e-6)


def test_segment_beyond_the_reference_geometry_is_not_cut(add_segmentation, affine, tmp_path):
    mask = np.zeros((26, 20, 14), bool)
    mask[15:25, 10:19, 8:13] = True
    node = add_segmentation({"large": (mask, "")}, shape=SHAPE)
    segmentations.exportSegmentation(node, tmp_path / "a.seg.nrrd")
    voxels, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    assert voxels.shape == (25, 19, 13)
    np.testing.assert_array_equal(voxels > 0, mask[:25, :19, :13])
    np.testing.assert_allclose(_affine_of(header), affine, atol=1e-6)


@pytest.fixture
def conversions(scene):
    """Slicer's segmentation module registers the conversions between surfaces and label maps."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    return logic


@pytest.mark.usefixtures("conversions")
def test_surfaces_are_turned_into_label_maps_on_the_reference_geometry(two_overlapping, tmp_path):
    node, masks = two_overlapping
    segmentation = node.GetSegmentation()
    # Through surfaces and back voxels may change at the border; what must hold is the grid and roughly the size.
    assert segmentation.CreateRepresentation("Closed surface")
    segmentation.SetSourceRepresentationName("Closed surface")
    segmentation.RemoveRepresentation("Binary labelmap")
    segmentations.exportSegmentation(node, tmp_path / "a.seg.nrrd")
    written = _masks_of(tmp_path / "a.seg.nrrd")
    assert written[0].shape == SHAPE
    assert written[0].sum() == pytest.approx(list(masks.values())[0].sum(), rel=0.3)
    assert segmentation.GetSourceRepresentationName() == "Closed surface"  # the user's node is as it was


@pytest.mark.usefixtures("conversions")
def test_surfaces_without_a_grid_are_refused(add_segmentation, tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[4:9, 3:12, 2:7] = True
    node = add_segmentation({"a": (mask, "")})
    segmentation = node.GetSegmentation()
    assert segmentation.CreateRepresentation("Closed surface")
    segmentation.SetSourceRepresentationName("Closed surface")
    with pytest.raises(SceneError, match="no voxel grid") as caught:
        segmentations.exportSegmentation(node, tmp_path / "a.seg.nrrd")
    assert "source volume" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("segments", [{}, {"a": (np.zeros(SHAPE, bool), ""), "b": (np.zeros(SHAPE, bool), "")}])
def test_empty_segmentation_is_refused(add_segmentation, tmp_path, segments):
    node = add_segmentation(segments, name="lobes", shape=SHAPE)
    with pytest.raises(SceneError, match="lobes") as caught:
        segmentations.writeJobInput(node, tmp_path)
    assert caught.value.hint and caught.value.exitCode == 2
    assert not list(tmp_path.iterdir())


def test_no_segmentation_is_refused(tmp_path):
    with pytest.raises(SceneError, match="No segmentation"):
        segmentations.writeJobInput(None, tmp_path)


def test_nameless_segment_is_named_rather_than_ending_the_process(add_segmentation, scene, tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[4:9, 3:12, 2:7] = True
    node = add_segmentation({"a": (mask, "")}, shape=SHAPE)
    bare = slicer.vtkSegment()
    bare.AddRepresentation(
        "Binary labelmap", node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    )
    assert bare.GetName() is None
    node.GetSegmentation().AddSegment(bare, "Segment_7")
    segmentations.checkSegmentation(node)
    assert bare.GetName() == "Segment_7"
    assert segmentations.writeJobInput(node, tmp_path)["Segment_7"] == "Segment_7"
    copy = segmentations.importSegmentation(scene, tmp_path / "segmentation.seg.nrrd")
    assert [segment.GetName() for segment in segmentations.segmentsOf(copy)] == ["a", "Segment_7"]


def _nrrd(data: bytes, **fields: str) -> bytes:
    header = {"type": "uint8", "dimension": "3", "sizes": "4 4 4", "encoding": "raw"} | fields
    return b"NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in header.items()).encode() + b"\n" + data


ZIPPED = gzip.compress(bytes(range(64)))


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"not an image " * 50,
        b"NRRD0004\n",
        b"NRRD0004\ntype: uint8\n",
        _nrrd(b""),
        _nrrd(bytes(63)),
        _nrrd(bytes(64), type="colour"),
        _nrrd(bytes(64), sizes="4 -4 4"),
        _nrrd(bytes(64), dimension="4"),
        _nrrd(ZIPPED[:-20], encoding="gzip"),
        _nrrd(b"junk" * 20, encoding="gzip"),
        _nrrd(bytes(64), **{"data file": "elsewhere.raw"}),
    ],
)
def test_unreadable_file_is_refused_and_leaves_no_node(scene, tmp_path, content):
    path = tmp_path / "broken.seg.nrrd"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SceneError, match=r"broken\.seg\.nrrd"):
        segmentations.importSegmentation(scene, path)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_folder_that_does_not_exist_is_an_error_while_running(two_overlapping, tmp_path):
    with pytest.raises(SceneError, match="could not be written") as caught:
        segmentations.writeJobInput(two_overlapping[0], tmp_path / "missing")
    assert caught.value.exitCode == 1
