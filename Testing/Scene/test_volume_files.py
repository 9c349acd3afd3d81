"""Volume nodes as files; what is written is read by pynrrd and by the engine, not by our own code."""

from __future__ import annotations

import numpy as np
import pytest
from scene_examples import LUNG, SHAPE

pytest.importorskip("slicer")
nrrd = pytest.importorskip("nrrd")

import slicer  # noqa: E402
import slicer.util  # noqa: E402

from SynthDiffusionLib.volumes import read_volume  # noqa: E402
from SynthDiffusionScene import drawing, volumeFiles, volumes  # noqa: E402
from SynthDiffusionScene.errors import SceneError  # noqa: E402


@pytest.fixture
def add_transform(scene):
    def add(matrix: np.ndarray, name: str = "registration"):
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        return node

    return add


@pytest.fixture
def segmentation(add_segmentation):
    mask = np.zeros(SHAPE, bool)
    mask[4:9, 3:12, 2:7] = True
    return add_segmentation({"lung": (mask, LUNG)}, shape=SHAPE)


def _turn(angle_deg: float, shift=(3.5, -2.25, 10.0)) -> np.ndarray:
    angle = np.deg2rad(angle_deg)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = shift
    return matrix


def _affine_of(header) -> np.ndarray:
    """RAS affine by the NRRD definition, whichever of the two spaces the writer chose."""
    affine = np.eye(4)
    affine[:3, :3] = header["space directions"].T
    affine[:3, 3] = header["space origin"]
    flip = {"left-posterior-superior": [-1, -1, 1, 1], "right-anterior-superior": [1, 1, 1, 1]}[header["space"]]
    return np.diag(flip) @ affine


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_and_geometry_are_exact(add_volume, affine, tmp_path, dtype):
    values = np.random.default_rng(1).normal(100, 50, SHAPE)
    voxels = np.clip(values, 0, 255).astype(dtype)
    path = volumeFiles.writeVolume(add_volume(voxels), tmp_path / "real.nrrd")
    written, header = nrrd.read(str(path))
    np.testing.assert_array_equal(written, voxels)
    assert written.dtype == dtype
    np.testing.assert_allclose(_affine_of(header), affine, rtol=0, atol=1e-10)
    read = read_volume(path)
    np.testing.assert_array_equal(read.array, voxels)
    np.testing.assert_allclose(read.affine, affine, rtol=0, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["real.nrrd"]


def test_marks_are_written_and_nothing_that_tells_the_patient(add_volume, tmp_path):
    node = add_volume(np.zeros(SHAPE, np.int16), "Doe^John")
    for name, text in {
        "SynthDiffusion.Synthetic": "YES",
        "SynthDiffusion.Seed": "3",
        "DICOM.instanceUIDs": "1.2.3.4",
        "SynthDiffusion.Provenance": '{"case": "Doe"}',
    }.items():
        node.SetAttribute(name, text)
    path = volumeFiles.writeVolume(node, tmp_path / "again.nrrd")
    header = nrrd.read_header(str(path))
    assert header["SynthDiffusion.Synthetic"] == "YES" and header["SynthDiffusion.Seed"] == "3"
    head = path.read_bytes().split(b"\n\n")[0]
    assert b"1.2.3.4" not in head and b"Doe" not in head
    from SynthDiffusionLib.jobs.provenance import is_synthetic

    assert is_synthetic(read_volume(path).metadata)


def test_the_nodes_stay_as_they_are(add_volume, segmentation, scene, tmp_path):
    node = add_volume(np.zeros(SHAPE, np.int16))
    nodes, before = scene.GetNumberOfNodes(), volumes.ijkToRas(node)
    volumeFiles.writeVolume(node, tmp_path / "a.nrrd", segmentation)
    assert scene.GetNumberOfNodes() == nodes and node.GetStorageNode() is None
    np.testing.assert_array_equal(volumes.ijkToRas(node), before)


def test_linear_transform_is_applied_where_no_segmentation_goes_with_it(add_volume, add_transform, affine, tmp_path):
    node = add_volume(np.zeros(SHAPE, np.int16))
    inner, outer = _turn(20), _turn(-35, (0, 7, 1))
    below, above = add_transform(inner), add_transform(outer, "outer")
    below.SetAndObserveTransformNodeID(above.GetID())
    node.SetAndObserveTransformNodeID(below.GetID())
    _, header = nrrd.read(str(volumeFiles.writeVolume(node, tmp_path / "a.nrrd")))
    np.testing.assert_allclose(_affine_of(header), outer @ inner @ affine, rtol=0, atol=1e-9)
    # The same through Slicer itself: hardened in the scene.
    node.HardenTransform()
    np.testing.assert_allclose(_affine_of(header), volumes.ijkToRas(node), rtol=0, atol=1e-6)


def test_transform_that_shears_is_refused(add_volume, add_transform, tmp_path):
    node = add_volume(np.zeros(SHAPE, np.int16))
    shear = np.eye(4)
    shear[0, 1] = 0.2
    node.SetAndObserveTransformNodeID(add_transform(shear).GetID())
    with pytest.raises(SceneError, match="bends or shears") as caught:
        volumeFiles.writeVolume(node, tmp_path / "a.nrrd")
    assert "Harden" in caught.value.hint and not list(tmp_path.iterdir())


def test_transform_that_bends_is_refused(add_volume, scene, tmp_path):
    import vtk

    node = add_volume(np.zeros(SHAPE, np.int16))
    spline = vtk.vtkThinPlateSplineTransform()
    points = [vtk.vtkPoints(), vtk.vtkPoints()]
    for corner in ((0, 0, 0), (50, 0, 0), (0, 50, 0), (0, 0, 50), (20, 20, 20)):
        points[0].InsertNextPoint(corner)
        points[1].InsertNextPoint([n + (5 if corner[0] == 20 else 0) for n in corner])
    spline.SetSourceLandmarks(points[0])
    spline.SetTargetLandmarks(points[1])
    spline.SetBasisToR()
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
    transform.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(SceneError, match="bends or shears"):
        volumeFiles.writeVolume(node, tmp_path / "a.nrrd")


def test_real_image_under_another_transform_than_the_segmentation_is_refused(
    add_volume, add_transform, segmentation, affine, tmp_path
):
    node = add_volume(np.zeros(SHAPE, np.int16), "CT")
    node.SetAndObserveTransformNodeID(add_transform(_turn(20)).GetID())
    with pytest.raises(
        SceneError, match="'CT' and the segmentation 'drawing' lie under different transforms"
    ) as caught:
        volumeFiles.writeVolume(node, tmp_path / "a.nrrd", segmentation)
    assert "same transform" in caught.value.hint and not list(tmp_path.iterdir())
    # Both under the same one, or under two that do the same: the nodes' own coordinates are written.
    for transform in (node.GetParentTransformNode(), add_transform(_turn(20), "copy")):
        segmentation.SetAndObserveTransformNodeID(transform.GetID())
        _, header = nrrd.read(str(volumeFiles.writeVolume(node, tmp_path / "a.nrrd", segmentation)))
        np.testing.assert_allclose(_affine_of(header), affine, rtol=0, atol=1e-10)


def test_what_is_no_image_is_refused(scene, add_volume, segmentation, tmp_path):
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(labels, np.ones((3, 4, 5), np.uint8))
    color = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    slicer.util.updateVolumeFromArray(color, np.ones((3, 4, 5, 3), np.uint8))
    hollow = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow")
    blank = drawing.newSegmentation(scene, None, (20, 20, 20), 2.0, "d").GetNodeReference("referenceImageGeometryRef")
    for node, message in (
        (None, "No volume is selected"),
        (labels, "is a label map"),
        (color, "3 values a voxel"),
        (hollow, "has no voxels"),
        (blank, "blank volume"),
    ):
        with pytest.raises(SceneError, match=message) as caught:
            volumeFiles.writeVolume(node, tmp_path / "a.nrrd", segmentation)
        assert caught.value.hint and caught.value.exitCode == 2
    good = add_volume(np.zeros(SHAPE, np.int16))
    with pytest.raises(SceneError, match="does not end in .nrrd"):
        volumeFiles.writeVolume(good, tmp_path / "a.nii.gz")
    with pytest.raises(SceneError, match="could not be written") as caught:
        volumeFiles.writeVolume(good, tmp_path / "missing" / "a.nrrd")
    assert caught.value.exitCode == 1
    assert not list(tmp_path.iterdir())
