"""Nodes for the scene tests, made with the slicer-core wheel."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scene_examples import LUNG, NODULE, SHAPE, oblique_affine

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "SynthDiffusion"))  # as Slicer does with the module's folder


@pytest.fixture
def affine():
    """Oblique and anisotropic."""
    return oblique_affine()


@pytest.fixture
def scene():
    slicer = pytest.importorskip("slicer")
    return slicer.vtkMRMLScene()


@pytest.fixture
def add_volume(scene, affine):
    """Adds a volume node: `add_volume(array_ijk, name)`."""
    import slicer
    import slicer.util

    def add(array_ijk: np.ndarray, name: str = "volume"):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
        slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array_ijk.T))
        return node

    return add


@pytest.fixture
def add_segmentation(scene, affine):
    """Adds a segmentation node: `add_segmentation({name: (mask_ijk, terminology)}, shape=...)`.

    Each segment is stored on the smallest block of voxels that holds it, as the Segment Editor does, or on the whole
    array with `tight=False`. With `shape` the node gets a reference geometry of that size.
    """
    import slicer
    import slicer.util
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    matrix = slicer.util.vtkMatrixFromArray(affine)

    def labelmap(mask: np.ndarray, tight: bool):
        image = slicer.vtkOrientedImageData()
        used = np.nonzero(mask if tight else np.ones_like(mask))
        if not len(used[0]):
            image.SetExtent(0, -1, 0, -1, 0, -1)
            image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        else:
            low, high = [axis.min() for axis in used], [axis.max() for axis in used]
            image.SetExtent(*[int(n) for pair in zip(low, high) for n in pair])
            block = mask[tuple(slice(a, b + 1) for a, b in zip(low, high))].astype(np.uint8)
            image.GetPointData().SetScalars(numpy_to_vtk(block.ravel(order="F"), deep=True))
        image.SetImageToWorldMatrix(matrix)
        return image

    def add(segments: dict, name: str = "drawing", shape: tuple[int, int, int] | None = None, tight: bool = True):
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        if shape:
            grid = slicer.vtkOrientedImageData()
            grid.SetExtent(0, shape[0] - 1, 0, shape[1] - 1, 0, shape[2] - 1)
            grid.SetImageToWorldMatrix(matrix)
            node.GetSegmentation().SetConversionParameter(
                slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
                slicer.vtkSegmentationConverter.SerializeImageGeometry(grid),
            )
        for title, (mask, terminology) in segments.items():
            segment = slicer.vtkSegment()
            segment.SetName(title)
            segment.AddRepresentation("Binary labelmap", labelmap(mask, tight))
            if terminology:
                segment.SetTerminology(terminology)
            node.GetSegmentation().AddSegment(segment)
        return node

    return add


@pytest.fixture
def two_overlapping(add_segmentation):
    """A lung with a nodule inside it (both segments own the nodule's voxels), and their masks."""
    lung, nodule = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    lung[3:17, 2:14, 1:10] = True
    nodule[5:9, 6:11, 4:8] = True
    nodule[5, 6, 4] = False  # not a box: an axis taken for another shows
    masks = {"lung, left": lung, "Nodule größer & <5 mm>": nodule}
    segments = dict(zip(masks, zip(masks.values(), (LUNG, NODULE))))
    return add_segmentation(segments, shape=SHAPE), masks
