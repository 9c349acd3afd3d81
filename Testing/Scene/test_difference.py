"""The difference volume against SimpleITK, and where it must be exact."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

import slicer.util  # noqa: E402
from comparison_examples import add_volume, ball, grid, matrix_of, to_sitk  # noqa: E402

from SynthDiffusionScene import difference  # noqa: E402
from SynthDiffusionScene.digests import REAL_VOLUME_DIGEST, VOXEL_DIGEST, volumeDigest  # noqa: E402
from SynthDiffusionScene.grids import countOutside, resample  # noqa: E402
from SynthDiffusionScene.runs import REAL_VOLUME_ROLE  # noqa: E402
from SynthDiffusionScene.volumes import markSynthetic  # noqa: E402

SHAPE = (14, 18, 22)


@pytest.fixture
def texture():
    return np.random.default_rng(5).normal(-400, 300, SHAPE).astype(np.float32)


def test_oblique_anisotropic_difference_is_that_of_simpleitk(scene, texture):
    sitk = pytest.importorskip("SimpleITK")
    real = add_volume(scene, texture, grid((0.7, 1.1, 2.3), (-31.3, 12.7, 8.1), 21), "real")
    other = np.random.default_rng(6).normal(-500, 200, (16, 20, 17)).astype(np.float32)
    synthetic = add_volume(scene, other, grid((1.0, 0.9, 1.7), (-33.1, 11.2, 5.3), -8), "synthetic")
    found = difference.differenceArray(synthetic, real)
    outside = -1e6
    moved = sitk.Resample(to_sitk(real), to_sitk(synthetic), sitk.Transform(), sitk.sitkLinear, outside)
    expected = sitk.GetArrayFromImage(moved)
    covered = expected != outside
    assert 0.2 < covered.mean() < 0.9  # the example has voxels of both kinds
    np.testing.assert_array_equal(np.isfinite(found), covered)
    np.testing.assert_allclose(found[covered], other[covered] - expected[covered], atol=1e-3)


def test_a_shift_by_half_a_voxel_takes_the_mean_of_two_neighbours(scene, texture):
    affine = grid((2.0, 1.5, 1.0), (3.0, -7.0, 11.0), 30)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 0] / 2
    real = add_volume(scene, texture, affine, "real")
    synthetic = add_volume(scene, np.zeros(SHAPE, np.float32), moved, "synthetic")
    found = difference.differenceArray(synthetic, real)
    np.testing.assert_allclose(found[:, :, :-1], -(texture[:, :, :-1] + texture[:, :, 1:]) / 2, atol=1e-3)
    # The last voxel's centre lies on the border of the real volume, whose outermost voxel reaches so far.
    np.testing.assert_allclose(found[:, :, -1], -texture[:, :, -1], atol=1e-3)


@pytest.mark.parametrize("voxels", [1, 4])
def test_a_linear_ramp_is_resampled_exactly_on_any_grid(scene, voxels):
    real_grid, other_grid = (
        grid((1.0, 2.0, 3.0), (-4.0, 5.0, 1.0), 12),
        grid((0.8 * voxels, 1.1, 1.9), (3.0, 9.0, 8.0), 37),
    )

    def ramp(affine, shape):
        k, j, i = np.indices(shape)
        r, a, s = (affine[:3, :3] @ np.stack([i, j, k]).reshape(3, -1) + affine[:3, 3:]).reshape(3, *shape)
        return (3 * r - 2 * a + 5 * s).astype(np.float32)

    real = add_volume(scene, ramp(real_grid, (20, 30, 40)), real_grid, "real")
    synthetic = add_volume(scene, ramp(other_grid, (8, 9, 6)), other_grid, "synthetic")
    found = difference.differenceArray(synthetic, real)
    inner = resample(
        np.pad(np.ones((18, 28, 38), np.float32), 1), real_grid, (8, 9, 6), other_grid, linear=True
    )  # 1 where no voxel of the border takes part
    assert (inner == 1).sum() > 50
    np.testing.assert_allclose(found[inner == 1], 0, atol=1e-3)


def test_inpainted_volume_differs_in_its_region_only(scene):
    voxels = np.random.default_rng(1).integers(-1000, 400, SHAPE).astype(np.int16)
    region = ball(SHAPE, (7, 9, 10), 3)
    affine = grid((0.73, 0.73, 1.25), (-101.37, 42.9, 7.123), 17)
    real = add_volume(scene, voxels, affine, "real")
    # As after a file: the same grid up to rounding.
    synthetic = add_volume(scene, np.where(region, 41, voxels).astype(np.int16), affine * (1 + 1e-9), "synthetic")
    found = difference.differenceArray(synthetic, real)
    assert np.count_nonzero(found[~region]) == 0
    np.testing.assert_array_equal(found[region], 41.0 - voxels[region])


def test_crop_is_copied_and_not_interpolated(scene):
    voxels = np.random.default_rng(2).integers(-1000, 400, SHAPE).astype(np.int16)
    affine = grid((0.7, 1.1, 2.3), (-3.3, 4.7, 8.1), 25)
    move = np.eye(4)
    move[:3, 3] = (5, -3, 2)  # i, j, k: it begins inside along i and k, and before the first row along j
    real = add_volume(scene, voxels, affine, "real")
    synthetic = add_volume(scene, np.zeros((9, 12, 10), np.int16), affine @ move, "synthetic")
    found = difference.differenceArray(synthetic, real)
    assert np.isnan(found[:, :3]).all()
    np.testing.assert_array_equal(found[:, 3:], -voxels[2:11, 0:9, 5:15].astype(np.float32))


def test_masks_keep_to_the_nearest_voxel():
    mask = np.random.default_rng(3).random((9, 11, 13)) < 0.4
    source, target, shape = (
        grid((1.3, 0.9, 2.1), (1.0, 2.0, 3.0), 14),
        grid((0.8, 1.2, 1.1), (-2.0, 1.0, 2.0), -19),
        (20, 16, 24),
    )
    found = resample(mask.astype(np.uint8), source, shape, target, linear=False).astype(bool)
    k, j, i = np.indices(shape)
    points = np.linalg.inv(source) @ target @ np.stack([i, j, k, np.ones(shape)]).reshape(4, -1)
    nearest = np.round(points[:3]).astype(int)[::-1]
    inside = ((nearest >= 0) & (nearest < np.array(mask.shape)[:, None])).all(0)
    expected = np.zeros(found.size, bool)
    expected[inside] = mask[tuple(nearest[:, inside])]
    np.testing.assert_array_equal(found.ravel(), expected)
    assert 100 < expected.sum()


def test_drawn_voxels_beyond_a_volume_are_counted():
    mask = ball((12, 12, 12), (6, 6, 6), 5)
    affine = grid((1.0, 1.0, 1.0))
    assert countOutside(mask, affine, (12, 12, 12), affine) == 0
    assert countOutside(mask, affine, (12, 12, 7), affine) == mask[:, :, 7:].sum()
    turned = grid((1.0, 1.0, 1.0), (4.0, 3.0, 2.0), 33)
    points = np.linalg.inv(turned) @ affine @ np.c_[np.argwhere(mask)[:, ::-1], np.ones(mask.sum())].T
    expected = mask.sum() - ((points[:3] >= -0.5) & (points[:3] <= 8.5)).all(0).sum()
    assert countOutside(mask, affine, (9, 9, 9), turned) == expected > 0


@pytest.mark.parametrize(("values", "limit"), [([0, 0, 0], 1.0), ([0, 0, -926, 926], 930.0), ([0.0, 0.0123], 0.013)])
def test_colour_scale_ends_above_the_differences(values, limit):
    assert difference.suggestedLimit(np.array([*values, np.nan], np.float32)) == pytest.approx(limit)


def test_difference_node_is_hidden_unsaved_and_symmetric(scene, texture):
    real = add_volume(scene, texture, grid(), "real")
    smaller = grid(origin=(10.0, 0.0, 0.0))
    synthetic = add_volume(scene, texture + 50, smaller, "synthetic")
    values = difference.differenceArray(synthetic, real)
    node, display, colors = nodes = difference.addDifferenceVolume(scene, synthetic, values, 200.0)
    assert all(n.GetHideFromEditors() and not n.GetSaveWithScene() for n in nodes)
    np.testing.assert_allclose(matrix_of(node), smaller, atol=1e-9)
    stored = slicer.util.arrayFromVolume(node)
    np.testing.assert_array_equal(stored[np.isfinite(values)], values[np.isfinite(values)])
    assert (stored[np.isnan(values)] == difference.OUTSIDE).all() and np.isnan(values).any()
    assert display.GetWindow() == 400 and display.GetLevel() == 0
    assert display.GetApplyThreshold() and difference.OUTSIDE < display.GetLowerThreshold() < -65536
    rgb = np.array([colors.GetLookupTable().GetTableValue(n)[:3] for n in range(256)])
    assert rgb[0, 2] > rgb[0, 0] and rgb[255, 0] > rgb[255, 2]  # blue below, red above
    assert np.ptp(rgb[127:129]) == 0  # grey where nothing differs


@pytest.mark.parametrize(
    ("provenance", "note", "unit"),
    [
        ({"mode": "inpaint", "modality": "CT"}, difference.NOTE_INPAINTED_UNKNOWN, "HU"),
        ({"mode": "whole", "modality": "MR"}, difference.NOTE_WHOLE, ""),
        ({}, difference.NOTE_WHOLE, "HU"),
    ],
)
def test_title_and_note_say_what_the_difference_is(scene, texture, provenance, note, unit):
    synthetic = add_volume(scene, texture, grid(), "synthetic")
    markSynthetic(synthetic, provenance)
    assert difference.differenceNote(synthetic, add_volume(scene, texture, grid(), "real")) == note
    assert difference.unitOf(synthetic) == unit
    title = difference.differenceTitle(unit)
    assert title.startswith("Difference (synthetic minus real)") and title.endswith(", HU") == (unit == "HU")


def test_that_only_the_region_differs_is_said_of_the_source_alone_and_while_it_is_as_it_was(scene, texture):
    real, other = (add_volume(scene, texture, grid(), name) for name in ("real", "other"))
    synthetic = add_volume(scene, texture, grid(), "synthetic")
    markSynthetic(synthetic, {"mode": "inpaint"})
    synthetic.SetNodeReferenceID(REAL_VOLUME_ROLE, real.GetID())
    assert difference.differenceNote(synthetic, real) == difference.NOTE_INPAINTED  # of an earlier version
    synthetic.SetAttribute(REAL_VOLUME_DIGEST, volumeDigest(real))
    synthetic.SetAttribute(VOXEL_DIGEST, volumeDigest(synthetic))
    assert difference.differenceNote(synthetic, real) == difference.NOTE_INPAINTED
    assert difference.differenceNote(synthetic, other) == difference.NOTE_INPAINTED_ELSEWHERE
    slicer.util.arrayFromVolume(real)[2, 3, 4] += 1
    assert difference.differenceNote(synthetic, real) == "The real volume was changed after this volume was made."
    slicer.util.arrayFromVolume(real)[2, 3, 4] -= 1
    slicer.util.arrayFromVolume(synthetic)[2, 3, 4] += 1
    assert difference.differenceNote(synthetic, real) == difference.NOTE_SYNTHETIC_CHANGED
    scene.RemoveNode(real)
    note = difference.differenceNote(synthetic, other)
    assert note == f"{difference.NOTE_INPAINTED_UNKNOWN} {difference.NOTE_SYNTHETIC_CHANGED}"
