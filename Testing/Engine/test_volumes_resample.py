"""Resampling against closed forms (linear fields, spheres), identities and ITK."""

from __future__ import annotations

import time

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes import (
    Segment,
    Segmentation,
    Volume,
    grid_with_spacing,
    reorient,
    resample,
    resample_segmentation,
    resample_to,
    resample_volume,
    same_grid,
    shifted_affine,
    voxel_positions,
)

RADIUS_MM = 15.0


def _positions(shape, affine):
    return voxel_positions(affine, np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1))


def _ball(affine, shape, unit):
    """A ball in the middle of the grid (label 1) or the same ball in HU."""
    centre = voxel_positions(affine, (np.array(shape) - 1) / 2 + [0.3, -0.4, 0.2])
    inside = np.linalg.norm(_positions(shape, affine) - centre, axis=-1) <= RADIUS_MM
    array = inside.astype(np.uint8) if unit == "label" else np.where(inside, 40, -850).astype(np.int16)
    return Volume(array, affine, unit), centre


def _centroid_and_volume(volume):
    weight = volume.array.astype(float)
    if volume.unit != "label":
        weight = (weight + 850) / 890
    centroid = (_positions(volume.shape, volume.affine) * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    return centroid, weight.sum() * abs(np.linalg.det(volume.affine[:3, :3]))


@pytest.mark.parametrize("unit", ["HU", "label"])
@pytest.mark.parametrize("spacing", [1.0, 2.0, (0.5, 3.0, 1.7)])
def test_a_ball_keeps_centroid_and_volume_there_and_back(oblique_affine, unit, spacing):
    shape = (62, 44, 24)
    affine = oblique_affine("LPS", spacing=(0.7, 1.1, 2.3))
    ball, centre = _ball(affine, shape, unit)
    there = resample_volume(ball, spacing)
    np.testing.assert_allclose(there.spacing, np.broadcast_to(spacing, 3), rtol=1e-9)
    back = resample_to(there, shape, affine)
    assert there.array.dtype == back.array.dtype == ball.array.dtype
    assert same_grid(back.shape, back.affine, shape, affine)
    _, expected_volume = _centroid_and_volume(ball)
    for volume in (there, back):
        centroid, mm3 = _centroid_and_volume(volume)
        assert np.linalg.norm(centroid - centre) < 0.12
        assert mm3 == pytest.approx(expected_volume, rel=0.02)


def test_the_same_grid_gives_the_same_voxels(oblique_affine):
    rng = np.random.default_rng(3)
    for unit, dtype in (("HU", np.int16), ("arbitrary", np.float32), ("label", np.uint8)):
        affine = oblique_affine("SAL")
        volume = Volume(rng.integers(0, 5, (9, 8, 7)).astype(dtype), affine, unit)
        for other in (resample_to(volume, volume.shape, affine), resample_volume(volume, volume.spacing)):
            np.testing.assert_array_equal(other.array, volume.array)
            assert other.array.dtype == dtype


def test_a_permuted_grid_gives_the_reoriented_voxels(oblique_affine):
    """Axes swapped and flipped only: interpolation must return the very voxels that `reorient` does."""
    rng = np.random.default_rng(4)
    for unit in ("HU", "label"):
        volume = Volume(rng.integers(0, 9, (9, 8, 7)).astype(np.int16), oblique_affine("LPS"), unit)
        for codes in ("RAS", "SPL", "AIR", "LPI"):
            goal = reorient(volume, codes)
            np.testing.assert_array_equal(resample_to(volume, goal.shape, goal.affine).array, goal.array)


def test_a_crop_with_a_border_is_the_very_voxels(oblique_affine):
    """Whole steps, on an affine that went through a float32 header."""
    rng = np.random.default_rng(6)
    affine = oblique_affine("LPS").astype(np.float32).astype(np.float64)
    for unit, dtype in (("arbitrary", np.float32), ("label", np.uint8), ("HU", np.int16)):
        volume = Volume(rng.integers(0, 99, (20, 18, 16)).astype(dtype), affine, unit)
        goal = shifted_affine(affine, (-2, 3, 4)).astype(np.float32).astype(np.float64)
        out = resample_to(volume, (12, 10, 9), goal, fill=7)
        np.testing.assert_array_equal(out.array[2:], volume.array[:10, 3:13, 4:13])
        assert np.all(out.array[:2] == 7)


def test_a_linear_field_is_reproduced_on_any_grid(oblique_affine):
    """Linear interpolation is exact on f(x) = a.x + b, within the outer voxel centres."""
    affine, goal = oblique_affine("LPS"), oblique_affine("AIR", spacing=(0.9, 1.3, 0.8), angles_deg=(-5, 12, 31))
    slope = np.array([1.7, -0.6, 2.2])
    volume = Volume((_positions((40, 30, 20), affine) @ slope + 5).astype(np.float64), affine, "arbitrary")
    centre = voxel_positions(affine, np.array([19.5, 14.5, 9.5]))
    goal[:3, 3] += centre - voxel_positions(goal, np.array([7.5, 7.5, 7.5]))
    out = resample_to(volume, (16, 16, 16), goal)
    np.testing.assert_allclose(out.array, _positions((16, 16, 16), goal) @ slope + 5, atol=1e-6)


def test_values_and_positions_agree_with_itk(oblique_affine):
    rng = np.random.default_rng(5)
    affine = oblique_affine("LPS", angles_deg=(3, 2, 8))
    goal = oblique_affine("RAS", spacing=(0.65, 0.9, 2.0), angles_deg=(-4, 6, -9))  # no coarser: no smoothing
    volume = Volume(rng.normal(0, 100, (30, 24, 18)).astype(np.float32), affine, "arbitrary")
    goal[:3, 3] += voxel_positions(affine, np.array([19.5, 13.5, 9.5])) - voxel_positions(goal, np.array([14, 11, 8]))

    def itk_image(array, ras):
        lps = np.diag([-1, -1, 1, 1]) @ ras
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        return image

    reference = itk_image(np.zeros((30, 24, 18), np.float32), goal)
    theirs = sitk.Resample(itk_image(volume.array, affine), reference, sitk.Transform(), sitk.sitkLinear, -7777.0)
    theirs = sitk.GetArrayFromImage(theirs).transpose(2, 1, 0)
    ours = resample_to(volume, (30, 24, 18), goal, fill=-7777.0).array
    assert 0.1 < (theirs == -7777).mean() < 0.9
    np.testing.assert_array_equal(ours == -7777, theirs == -7777)
    inner = theirs != -7777
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=0.05)


def test_box_centre_and_size_of_a_new_spacing(oblique_affine):
    for shape, spacing in (((51, 51, 51), 2.0), ((64, 64, 79), (1.0, 1.0, 1.0)), ((10, 20, 30), 0.33)):
        affine = oblique_affine("LIP", spacing=(4.1, 4.1, 3.9))
        new_shape, new_affine = grid_with_spacing(shape, affine, spacing)
        np.testing.assert_allclose(
            voxel_positions(new_affine, (np.array(new_shape) - 1) / 2),
            voxel_positions(affine, (np.array(shape) - 1) / 2),
            atol=1e-9,
        )
        extent = np.array(shape) * [4.1, 4.1, 3.9]
        assert np.all(np.abs(np.array(new_shape) * spacing - extent) <= np.array(spacing) / 2 + 1e-4)


def test_downsampling_does_not_alias():
    """A checkerboard of 1 mm voxels is flat grey at 4 mm, and the mean stays."""
    board = np.indices((48, 48, 48)).sum(0) % 2 * 1000.0 - 500
    out = resample_volume(Volume(board.astype(np.float32), np.eye(4), "HU"), 4.0)
    assert np.abs(out.array).max() < 5


def test_integers_are_rounded_and_stay_in_range():
    array = np.full((6, 6, 6), -1024, np.int16)
    array[3:] = 32767
    out = resample_volume(Volume(array, np.eye(4), "HU"), 0.4)
    assert out.array.dtype == np.int16
    assert out.array.min() == -1024 and out.array.max() == 32767
    assert np.all(np.diff(out.array.astype(int), axis=0) >= 0)


def test_outside_is_filled(oblique_affine):
    affine = np.eye(4)
    far = affine.copy()
    far[:3, 3] = 4
    for unit, array, expected in (
        ("HU", np.full((6, 6, 6), 50, np.int16), -1000),
        ("label", np.full((6, 6, 6), 3, np.uint8), 0),
        ("arbitrary", np.arange(216, dtype=np.float32).reshape(6, 6, 6) + 12, 12),
    ):
        out = resample_to(Volume(array, affine, unit), (6, 6, 6), far)
        assert out.array[5, 5, 5] == expected
        np.testing.assert_allclose(out.array[:2, :2, :2], array[4:, 4:, 4:])


def test_a_class_vote_is_smoother_than_nearest():
    """A half space cut obliquely, refined 4 times: fewer voxels on the wrong side of the true plane than by nearest."""
    normal = np.array([1.0, 0.55, 0.3])
    coarse = np.diag([4.0, 4, 4, 1])
    labels = (_positions((12, 12, 12), coarse) @ normal > 40).astype(np.uint8)
    fine_shape, fine = grid_with_spacing((12, 12, 12), coarse, 1.0)
    truth = _positions(fine_shape, fine) @ normal > 40
    ours = resample_to(Volume(labels, coarse, "label"), fine_shape, fine).array
    nearest = np.kron(labels, np.ones((4, 4, 4), np.uint8))
    assert (ours != truth).sum() < 0.6 * (nearest != truth).sum()


def test_layers_of_a_segmentation_are_resampled_alike(oblique_affine):
    affine = oblique_affine()
    ball, _ = _ball(affine, (62, 44, 24), "label")
    segmentation = Segmentation((ball.array, 7 * ball.array), affine, (Segment("a", 1), Segment("b", 7, 1)))
    shape, goal = grid_with_spacing(ball.shape, affine, 1.5)
    out = resample_segmentation(segmentation, shape, goal)
    np.testing.assert_array_equal(out.layers[1], 7 * out.layers[0])
    np.testing.assert_array_equal(out.layers[0], resample_volume(ball, 1.5).array)
    assert same_grid(out.shape, out.affine, shape, goal)


@pytest.mark.parametrize("spacing", [0, -1.0, float("nan"), (1, 1, 0)])
def test_impossible_spacing_is_refused(spacing):
    with pytest.raises(BadInput, match="Spacing"):
        resample_volume(Volume(np.zeros((3, 3, 3), np.int16), np.eye(4)), spacing)


@pytest.mark.parametrize("unit", ["HU", "label"])
def test_very_fine_voxels_are_resampled_in_blocks_to_the_same(monkeypatch, unit):
    rng = np.random.default_rng(5)
    field = gaussian_filter(rng.standard_normal((70, 64, 45)), (9, 8, 6))
    values = np.digitize(field, [0.0]).astype(np.uint8) if unit == "label" else (3e4 * field).astype(np.float32)
    volume = Volume(values, np.diag([0.05, 0.04, 0.05, 1]), unit)
    blocks = resample_volume(volume, 1.0)
    monkeypatch.setattr(resample, "_BLOCKS_PER_VOXEL", 10**6)
    plain = resample_volume(volume, 1.0)
    assert blocks.shape == plain.shape == (4, 3, 2)
    if unit == "label":
        assert np.mean(blocks.array != plain.array) < 0.1
    else:
        assert np.abs(blocks.array - plain.array).max() < 0.05 * np.ptp(plain.array)


def test_the_smallest_voxels_cost_little():
    volume = Volume(np.zeros((48, 48, 48), np.uint8), np.diag([1e-5, 1e-5, 1e-5, 1]), "label")
    began = time.process_time()
    resample_volume(volume, 1.0)
    assert time.process_time() - began < 2  # 48^3 Gaussians of 340,000 voxels take minutes


@pytest.mark.parametrize("unit", ["HU", "label"])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "SLA", "PIR", "ASL", "IRP"])
def test_a_grid_whose_voxels_are_the_old_ones_gets_them_without_interpolation(oblique_affine, monkeypatch, unit, codes):
    rng = np.random.default_rng(2)
    array = rng.integers(0, 4, (9, 7, 12)).astype(np.uint8)
    array = array if unit == "label" else (array * np.int16(211) - 900).astype(np.int16)
    volume = Volume(array, oblique_affine("LPS", spacing=(0.7, 1.1, 2.3)), unit)
    turned = reorient(volume, codes)
    inner = shifted_affine(turned.affine, (2, 0, 1))
    shape = tuple(n - 3 for n in turned.shape)
    with monkeypatch.context() as changed:
        changed.setattr(resample, "_interpolate", None)  # it is not called
        whole, cut = resample_to(volume, turned.shape, turned.affine), resample_to(volume, shape, inner)
    np.testing.assert_array_equal(whole.array, turned.array)
    np.testing.assert_array_equal(cut.array, turned.array[2:-1, :-3, 1:-2])
    assert cut.array.flags.c_contiguous and not np.shares_memory(cut.array, array)
    monkeypatch.setattr(resample, "_whole_steps", lambda *_: None)
    np.testing.assert_array_equal(resample_to(volume, shape, inner).array, cut.array)


def test_a_grid_that_goes_beyond_the_old_one_by_whole_voxels_is_filled(oblique_affine):
    volume = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), oblique_affine("LPS", spacing=(1, 1, 2)), "HU")
    wider = resample_to(volume, (5, 4, 5), shifted_affine(volume.affine, (-1, 0, 0)))
    np.testing.assert_array_equal(wider.array[1:4], volume.array)
    assert (wider.array[[0, 4]] == -1000).all()
