"""Volumes and segmentations on grids of their own, for the comparison's tests."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
from vtk.util.numpy_support import numpy_to_vtk


def grid(spacing=(2.0, 2.0, 2.0), origin=(0.0, 0.0, 0.0), angle_deg: float = 0.0) -> np.ndarray:
    """(4, 4) voxel indices (i, j, k) to RAS mm, turned about S and then about R."""
    a = np.radians(angle_deg)
    about_s = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_r = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = np.eye(4)
    affine[:3, :3] = about_r @ about_s @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def add_volume(scene, array_kji: np.ndarray, affine: np.ndarray, name: str):
    """A volume node with a display node; `array_kji` as slicer.util.arrayFromVolume gives it."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array_kji))
    node.CreateDefaultDisplayNodes()
    return node


def add_segmentation(scene, masks_kji: dict[str, np.ndarray], affine: np.ndarray, name: str = "drawing"):
    """A segmentation node with a display node, its segments with IDs like their names."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    colors = [(0.4, 0.7, 1.0), (1.0, 0.3, 0.2), (0.3, 0.9, 0.4)]
    for (title, mask), color in zip(masks_kji.items(), colors):
        image = slicer.vtkOrientedImageData()
        k, j, i = mask.shape
        image.SetExtent(0, i - 1, 0, j - 1, 0, k - 1)
        image.GetPointData().SetScalars(numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=True))
        image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(affine))
        segment = slicer.vtkSegment()
        segment.SetName(title)
        segment.SetColor(*color)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, title)
    node.CreateDefaultDisplayNodes()
    return node


def ball(shape: tuple[int, int, int], center_kji, radius: float) -> np.ndarray:
    """bool (K, J, I); radius in voxels."""
    indices = np.indices(shape).transpose(1, 2, 3, 0)
    return np.linalg.norm(indices - np.array(center_kji), axis=-1) <= radius


def to_sitk(node):
    """The volume for SimpleITK, in LPS."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(slicer.util.arrayFromVolume(node).astype(np.float64))
    return place_sitk(image, matrix_of(node))


def place_sitk(image, affine: np.ndarray):
    """Gives an image of SimpleITK the geometry of an RAS affine."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def matrix_of(node) -> np.ndarray:
    """(4, 4) voxel indices to RAS mm of a volume node."""
    matrix = slicer.util.vtkMatrixFromArray(np.eye(4))
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)
