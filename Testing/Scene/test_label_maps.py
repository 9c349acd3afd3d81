"""Label maps, surfaces and segmentations without an image, made ready to draw on and to generate from."""

from __future__ import annotations

import numpy as np
import pytest
from scene_examples import SHAPE


def affine_of(volume) -> np.ndarray:
    import slicer.util
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def transform_of(scene):
    import slicer.util

    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    matrix = np.eye(4)
    matrix[:3, 3] = 10, -20, 5
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


@pytest.fixture
def label_map(scene, affine):
    import slicer.util

    array = np.zeros(SHAPE, np.int16)
    array[3:8, 4:9, 2:6] = 2
    array[12:15, 3:5, 7:9] = 4
    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.T))
    return node, array


def test_a_label_map_becomes_a_segmentation_voxel_by_voxel(scene, affine, label_map, tmp_path):
    import SimpleITK

    from SynthDiffusionScene.hierarchy import studyOfNode, subjectHierarchy
    from SynthDiffusionScene.labelMaps import nameByValue, segmentationFromLabelMap
    from SynthDiffusionScene.segmentations import exportSegmentation, hasGrid

    node, array = label_map
    hierarchy = subjectHierarchy(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.CreateItem(hierarchy.GetSceneItemID(), node), study)
    transform = transform_of(scene)
    node.SetAndObserveTransformNodeID(transform.GetID())
    node.CreateDefaultDisplayNodes()
    segmentation = segmentationFromLabelMap(scene, node)
    assert scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeDisplayNode") == 0
    nameByValue(segmentation)
    assert scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0
    assert segmentation.GetParentTransformNode() is transform
    assert studyOfNode(scene, segmentation) == study
    assert hasGrid(segmentation)
    names = [segmentation.GetSegmentation().GetNthSegment(n).GetName() for n in range(2)]
    assert names == ["2", "4"]
    exportSegmentation(segmentation, tmp_path / "out.seg.nrrd")
    image = SimpleITK.ReadImage(str(tmp_path / "out.seg.nrrd"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).T > 0, array > 0)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    assert np.allclose(image.TransformIndexToPhysicalPoint((3, 5, 7)), (lps @ (3, 5, 7, 1))[:3])


def test_an_empty_label_map_is_refused_and_stays(scene):
    import slicer.util

    from SynthDiffusionScene.errors import SceneError
    from SynthDiffusionScene.labelMaps import segmentationFromLabelMap

    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "nothing")
    slicer.util.updateVolumeFromArray(node, np.zeros((3, 4, 5), np.int16))
    with pytest.raises(SceneError, match="'nothing' has no labels"):
        segmentationFromLabelMap(scene, node)
    assert scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 1
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_names_and_terminology_of_others_are_kept(two_overlapping):
    from SynthDiffusionScene.labelMaps import nameByValue

    node, masks = two_overlapping
    segmentation = node.GetSegmentation()
    segmentation.GetNthSegment(0).SetName("Segment_1")  # a nodule or a lung by its code, whatever it is called
    nameByValue(node)
    assert [segmentation.GetNthSegment(n).GetName() for n in range(2)] == ["Segment_1", list(masks)[1]]
    assert "39607008" in segmentation.GetNthSegment(0).GetTerminology()


@pytest.mark.parametrize("shape", [SHAPE, None])
def test_the_blank_volume_lies_where_the_segmentation_lies(scene, affine, add_segmentation, shape):
    import slicer.util

    from SynthDiffusionScene.drawing import isBlank
    from SynthDiffusionScene.labelMaps import volumeToDrawOn

    mask = np.zeros(SHAPE, bool)
    mask[5:9, 2:12, 3:7] = True
    node = add_segmentation({"lung": (mask, None)}, shape=shape)
    transform = transform_of(scene)
    node.SetAndObserveTransformNodeID(transform.GetID())
    volume = volumeToDrawOn(scene, node)
    start = (0, 0, 0) if shape else (5, 2, 3)  # without a grid of its own, the drawn block is all there is
    size = shape or (4, 10, 4)
    expected = affine.copy()
    expected[:, 3] = affine @ (*start, 1)
    assert np.allclose(affine_of(volume), expected)
    assert volume.GetImageData().GetDimensions() == size
    assert volume.GetParentTransformNode() is transform
    assert isBlank(volume) and (slicer.util.arrayFromVolume(volume) == -1000).all()
    assert volumeToDrawOn(scene, node) is volume
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_a_segmentation_without_anything_has_no_volume_to_draw_on(scene):
    from SynthDiffusionScene.labelMaps import volumeToDrawOn

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nothing")
    assert volumeToDrawOn(scene, node) is None
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_a_blank_volume_stays_while_another_segmentation_is_drawn_on_it(scene, add_volume):
    from SynthDiffusionScene.drawing import newSegmentation
    from SynthDiffusionScene.labelMaps import moveToGridOf, volumeToDrawOn

    first = newSegmentation(scene, None, (8, 8, 8), 1.0, "first")
    blank = volumeToDrawOn(scene, first)
    second = newSegmentation(scene, blank, (8, 8, 8), 1.0, "second")
    real = add_volume(np.zeros(SHAPE, np.int16), "real")
    real.SetAndObserveTransformNodeID(transform_of(scene).GetID())
    moveToGridOf(scene, first, real)
    assert volumeToDrawOn(scene, first) is real and first.GetTransformNodeID() == real.GetTransformNodeID()
    assert volumeToDrawOn(scene, second) is blank
    moveToGridOf(scene, second, real)
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_voxel_volumes_are_those_of_the_grid(add_segmentation, affine):
    from SynthDiffusionScene.labelMaps import voxelVolumesMl

    node = add_segmentation({"lung": (np.ones(SHAPE, bool), None)})
    assert list(voxelVolumesMl(node).values()) == [pytest.approx(abs(np.linalg.det(affine[:3, :3])) / 1000)]
