"""What the comparison's views show, drawn off screen as Slicer draws them, and looked at pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

import slicer  # noqa: E402
import slicer.util  # noqa: E402
import vtk  # noqa: E402
from comparison_examples import add_segmentation, add_volume, ball  # noqa: E402
from comparison_world import AFFINE, LUNG, NODULE, SHAPE, opened  # noqa: E402
from slice_pictures import comparisonPicture  # noqa: E402

from SynthDiffusionScene.comparisonLayout import TAGS  # noqa: E402
from SynthDiffusionScene.volumes import loadVolume, markSynthetic, setDisplay  # noqa: E402


@pytest.fixture
def world(scene):
    with opened(scene) as world:
        yield world


def _region_in_view(world, mask: np.ndarray) -> np.ndarray:
    """Which pixels of the real view lie in a mask, at least one pixel away from its border."""
    toIjk = np.linalg.inv(AFFINE) @ slicer.util.arrayFromVTKMatrix(world.view("third").GetXYToRAS())
    width, height = world.view("third").GetDimensions()[:2]
    y, x = np.mgrid[:height, :width]
    ijk = np.round(np.einsum("ab,byx->ayx", toIjk, np.stack([x, y, 0 * x, 0 * x + 1]))[:3]).astype(int)
    inside = ((ijk >= 0) & (ijk < np.array(SHAPE[::-1])[:, None, None])).all(0)
    found = np.zeros((height, width), bool)
    found[inside] = mask[tuple(ijk[::-1][:, inside])]
    return found[::-1]


def test_pictures_show_real_synthetic_and_difference(world, tmp_path):
    comparison = world.start()
    picture = comparisonPicture(
        world.views, comparison, tmp_path / "comparison.png", "Drawn off screen from the scene."
    )
    assert picture.width > 3 * 160
    world.segmentation.GetDisplayNode().SetVisibility(False)
    real, synthetic, difference = (world.views.draw(tag).astype(int) for tag in TAGS.values())
    everywhere, nodule = _region_in_view(world, np.ones(SHAPE, bool)), _region_in_view(world, NODULE)
    assert nodule.sum() > 50
    # Interpolated between voxels, the picture may change up to a voxel around the nodule.
    around = _region_in_view(world, ball(SHAPE, (12, 13, 19), 5))
    assert np.abs(real - synthetic)[~around].max() == 0
    colored = _region_in_view(world, ball(SHAPE, (12, 13, 19), 2))
    assert (synthetic - real)[colored].min() > 60  # soft tissue in the lung, in the lung window
    neutral = everywhere & ~around
    assert (np.ptp(difference[neutral], axis=-1) == 0).all() and difference[neutral].min() > 30
    assert (difference[colored][:, 0] - difference[colored][:, 2]).min() > 60  # higher: the warm colour


def test_difference_is_black_where_the_real_volume_does_not_reach(world):
    half = add_volume(world.scene, slicer.util.arrayFromVolume(world.real)[:, :, :16], AFFINE, "half")
    world.comparison.start(half, world.synthetic)
    difference = world.views.draw(TAGS["third"])
    covered = np.zeros(SHAPE, bool)
    covered[:, :, :15] = True
    beyond = np.zeros(SHAPE, bool)
    beyond[:, :, 17:] = True
    assert difference[_region_in_view(world, covered)].min() > 0
    assert difference[_region_in_view(world, beyond)].max() == 0
    # No rim between the two, as interpolation towards the value that stands for "outside" would draw it in blue.
    assert (difference[..., 2].astype(int) - difference[..., 0]).max() < 20


def test_other_segmentations_do_not_cover_the_views(world):
    display = add_segmentation(world.scene, {"region": LUNG}, AFFINE, "region of a run").GetDisplayNode()
    hidden = add_segmentation(world.scene, {"region": LUNG}, AFFINE, "hidden").GetDisplayNode()
    hidden.SetVisibility2D(False)
    before = world.xml()
    comparison = world.start()
    assert not display.GetVisibility2D() and world.segmentation.GetDisplayNode().GetVisibility2D()
    comparison.stop()
    assert world.xml() == before


def test_outlines_are_drawn_on_both(world):
    world.start()
    with_outlines = [world.views.draw(TAGS[place]) for place in ("real", "synthetic")]
    world.segmentation.GetDisplayNode().SetVisibility(False)
    without = [world.views.draw(TAGS[place]) for place in ("real", "synthetic")]
    for one, other in zip(with_outlines, without):
        changed = (one != other).any(-1)
        assert 40 < changed.sum() < 0.2 * changed.size  # lines and no areas
        assert np.ptp(one[changed].astype(int), axis=-1).max() > 100  # in the segments' colours


def test_real_chest_with_a_nodule(world, shared_data, tmp_path):
    folder = shared_data / "inputs" / "chest_ct_64"
    real = loadVolume(world.scene, folder / "ct-64.nrrd", "chest")
    lung = slicer.util.arrayFromVolume(loadVolume(world.scene, folder / "wholeLung-64.nrrd", "lung")) > 0
    voxels = slicer.util.arrayFromVolume(real)
    center = np.argwhere(lung)[lung.sum() // 3]
    nodule = ball(voxels.shape, center, 2.5) & lung
    affine = slicer.util.arrayFromVTKMatrix(_ijkToRas(real))
    synthetic = add_volume(world.scene, np.where(nodule, 20, voxels).astype(voxels.dtype), affine, "synthetic chest")
    markSynthetic(synthetic, {"mode": "inpaint", "modality": "CT"})
    setDisplay(synthetic, {"modality": "CT"})
    segmentation = add_segmentation(world.scene, {"lung": lung, "nodule": nodule}, affine)
    world.comparison.start(real, synthetic, segmentation)
    rows = {row.name: row for row in world.comparison.rows}
    assert rows["nodule"].synthetic.mean == 20 and rows["nodule"].real.mean == pytest.approx(voxels[nodule].mean())
    assert 2000 < rows["lung"].volumeMl < 8000
    picture = comparisonPicture(world.views, world.comparison, tmp_path / "chest.png", "Drawn off screen.")
    assert picture.height > 300


def _ijkToRas(node) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix
