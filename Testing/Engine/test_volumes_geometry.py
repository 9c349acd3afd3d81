"""Where voxels lie: our files against nibabel's and ITK's reading of them, and theirs against ours."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes import (
    Volume,
    axis_codes,
    grids_overlap,
    read_segmentation,
    read_volume,
    reorient,
    same_grid,
    shifted_affine,
    voxel_positions,
    write_segmentation,
    write_volume,
)
from SynthDiffusionLib.volumes.files import from_label_map

ORIENTATIONS = [
    "".join(letters)
    for order in permutations(("RL", "AP", "SI"))
    for letters in product(*order)
]  # fmt: skip
SHAPE = (5, 6, 7)
POINTS = np.array([[0, 0, 0], [4, 0, 0], [0, 5, 0], [0, 0, 6], [4, 5, 6], [2, 3, 1]])


def _volume(affine: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> Volume:
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) - 90
    return Volume(voxels, affine, "arbitrary")


def _itk_reading(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (i, j, k) and positions of POINTS in RAS mm, as ITK has them."""
    image = sitk.ReadImage(str(path))
    lps = np.array([image.TransformIndexToPhysicalPoint([int(n) for n in point]) for point in POINTS])
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), lps * [-1, -1, 1]


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("angles", [(0, 0, 0), (11, -7, 19), (179.99, 0.01, 0)], ids=["straight", "oblique", "180"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_written_files_lie_where_they_should_for_all_orientations(tmp_path, oblique_affine, suffix, angles):
    for codes in ORIENTATIONS:
        volume = _volume(oblique_affine(codes, angles_deg=angles))
        path = tmp_path / f"{codes}{suffix}"
        write_volume(volume, path)
        expected = voxel_positions(volume.affine, POINTS)

        ours = read_volume(path)
        assert ours.array.dtype == np.int16
        np.testing.assert_array_equal(ours.array, volume.array)
        np.testing.assert_allclose(voxel_positions(ours.affine, POINTS), expected, atol=1e-4)

        voxels, positions = _itk_reading(path)
        np.testing.assert_array_equal(voxels, volume.array)
        np.testing.assert_allclose(positions, expected, atol=1e-3, err_msg=codes)
        if suffix.startswith(".nii"):
            image = nib.load(path)
            np.testing.assert_array_equal(np.asarray(image.dataobj), volume.array)
            np.testing.assert_allclose(nib.affines.apply_affine(image.affine, POINTS), expected, atol=1e-3)
            assert int(image.header["sform_code"]) == 1
            if int(image.header["qform_code"]):
                qform = image.header.get_qform()
                np.testing.assert_allclose(nib.affines.apply_affine(qform, POINTS), expected, atol=1e-3)
        if angles == (0, 0, 0):
            assert axis_codes(ours.affine) == codes


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_files_written_by_itk_are_read_where_itk_has_them(tmp_path, oblique_affine, suffix):
    rng = np.random.default_rng(1)
    for codes in ORIENTATIONS:
        lps = np.diag([-1, -1, 1, 1]) @ oblique_affine(codes)
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image = sitk.GetImageFromArray(rng.integers(-1000, 1000, SHAPE[::-1]).astype(np.int16))
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        path = tmp_path / f"{codes}{suffix}"
        sitk.WriteImage(image, str(path), codes < "P")  # compressed or not
        volume = read_volume(path)
        voxels, positions = _itk_reading(path)
        np.testing.assert_array_equal(volume.array, voxels)
        np.testing.assert_allclose(voxel_positions(volume.affine, POINTS), positions, atol=1e-3)


@pytest.mark.parametrize("space, signs", [("right-anterior-superior", (1, 1)), ("left-anterior-superior", (-1, 1)),
                                          ("left-posterior-superior", (-1, -1)), ("RAS", (1, 1))])  # fmt: skip
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
def test_nrrd_of_every_space_and_encoding(tmp_path, oblique_affine, space, signs, encoding):
    affine = oblique_affine("PIR")
    volume = _volume(affine)
    in_space = np.diag([*signs, 1, 1]) @ affine
    header = {"space": space, "space directions": in_space[:3, :3].T, "space origin": in_space[:3, 3],
              "encoding": encoding, "kinds": ["domain"] * 3}  # fmt: skip
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), volume.array, header)
    ours = read_volume(path)
    np.testing.assert_array_equal(ours.array, volume.array)
    np.testing.assert_allclose(ours.affine, affine, atol=1e-9)


def test_detached_nrrd_and_big_endian(tmp_path, oblique_affine):
    volume = _volume(oblique_affine("LPS"))
    lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    header = {"space": "LPS", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3], "encoding": "raw"}
    nrrd.write(str(tmp_path / "a.nhdr"), volume.array.astype(">i2"), header)
    path = (tmp_path / "a.nhdr").rename(tmp_path / "with blank ü.NHDR")  # pynrrd itself writes ASCII names only
    ours = read_volume(path)
    np.testing.assert_array_equal(ours.array, volume.array)
    assert ours.array.dtype.isnative
    np.testing.assert_allclose(ours.affine, volume.affine, atol=1e-9)


def test_nrrd_without_directions_is_read_as_itk_reads_it(tmp_path):
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), _volume(np.eye(4)).array, {"spacings": [0.5, 2.0, 3.0]})
    voxels, positions = _itk_reading(path)
    ours = read_volume(path)
    np.testing.assert_array_equal(ours.array, voxels)
    np.testing.assert_allclose(voxel_positions(ours.affine, POINTS), positions, atol=1e-6)


def test_a_trailing_or_leading_axis_of_one_is_no_axis(tmp_path, oblique_affine):
    volume = _volume(oblique_affine())
    nib.save(nib.Nifti1Image(volume.array[..., None], volume.affine), tmp_path / "a.nii.gz")
    ours = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(ours.array, volume.array)
    np.testing.assert_allclose(ours.affine, volume.affine, atol=1e-4)
    directions = np.vstack([[np.nan] * 3, volume.affine[:3, :3].T])
    header = {"space": "RAS", "space directions": directions, "space origin": volume.affine[:3, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), volume.array[None], header)
    ours = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(ours.array, volume.array)
    np.testing.assert_allclose(ours.affine, volume.affine, atol=1e-9)


def test_nifti_qform_alone_and_no_form_at_all(tmp_path, oblique_affine):
    volume = _volume(oblique_affine("LIA"))
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.set_qform(volume.affine, 2)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "q.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "q.nii").affine, volume.affine, atol=1e-3)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "none.nii")
    _, positions = _itk_reading(tmp_path / "none.nii")
    ours = read_volume(tmp_path / "none.nii")
    np.testing.assert_allclose(voxel_positions(ours.affine, POINTS), positions, atol=1e-4)


@pytest.mark.parametrize("unit, factor", [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_nifti_length_units(tmp_path, oblique_affine, unit, factor):
    affine = oblique_affine() / factor
    affine[3, 3] = 1
    image = nib.Nifti1Image(_volume(affine).array, affine)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    ours = read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(ours.affine[:3], affine[:3] * factor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("slope, inter, dtype", [(1, -1024, np.int16), (0.5, 3, np.float32), (0, 7, np.int16)])
def test_nifti_scaling(tmp_path, slope, inter, dtype):
    voxels = np.arange(210, dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.set_slope_inter(slope or None, inter if slope else None)
    nib.save(image, tmp_path / "a.nii.gz")
    ours = read_volume(tmp_path / "a.nii.gz")
    assert ours.array.dtype == dtype
    np.testing.assert_allclose(ours.array, nib.load(tmp_path / "a.nii.gz").get_fdata())


@pytest.mark.parametrize("codes, without_qform", [("LPS", False), ("LPI", False), ("LAS", True)])
def test_a_quaternion_near_a_half_turn_moves_no_voxel_of_a_long_volume(tmp_path, codes, without_qform, oblique_affine):
    """NIfTI has the first part of the quaternion computed as sqrt(1 - b2 - c2 - d2), from float32: dust, near zero."""
    path = tmp_path / "long.nii"
    for angle in (0.001, 0.01, 0.05, 179.95, 179.99):
        affine = oblique_affine(codes, angles_deg=(angle, angle / 3, 0), spacing=(0.7, 0.7, 2.5))
        volume = _volume(affine, (3, 3, 700))
        write_volume(volume, path)
        far = np.array([2, 2, 699])
        expected = voxel_positions(affine, far)
        image = sitk.ReadImage(str(path))
        found = np.array(image.TransformIndexToPhysicalPoint([int(n) for n in far])) * [-1, -1, 1]
        np.testing.assert_allclose(found, expected, atol=1e-3)
        header = nib.load(path).header
        np.testing.assert_allclose(nib.affines.apply_affine(header.get_sform(), far), expected, atol=1e-3)
        if int(header["qform_code"]):
            np.testing.assert_allclose(nib.affines.apply_affine(header.get_qform(), far), expected, atol=2e-3)
        assert (int(header["qform_code"]) == 0) == without_qform


def test_sheared_geometry_survives(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    affine[:3, 2] += 0.3 * affine[:3, 1]  # a tilted gantry
    volume = _volume(affine)
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        write_volume(volume, tmp_path / name)
        np.testing.assert_allclose(read_volume(tmp_path / name).affine, affine, atol=1e-4)
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(header["pixdim"][1:4], volume.spacing, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".seg.nrrd", ".mha"])
def test_segmentations_lie_where_volumes_do(tmp_path, oblique_affine, suffix):
    labels = (np.arange(210).reshape(SHAPE) % 4).astype(np.uint8)
    path = tmp_path / f"labels{suffix}"
    write_segmentation(from_label_map(labels, oblique_affine("SAL")), path)
    ours = read_segmentation(path)
    np.testing.assert_array_equal(ours.layers[0], labels)
    assert [(s.name, s.value) for s in ours.segments] == [("1", 1), ("2", 2), ("3", 3)]
    voxels, positions = _itk_reading(path)
    np.testing.assert_array_equal(voxels, labels)
    np.testing.assert_allclose(voxel_positions(ours.affine, POINTS), positions, atol=1e-3)


def test_reorient_moves_no_voxel_in_space(oblique_affine):
    """Against nibabel's own reorientation, for all pairs of start and goal with a fixed set of goals."""
    for start in ORIENTATIONS:
        volume = _volume(oblique_affine(start))
        for goal in ("LPS", "RAS", "SPR"):
            ours = reorient(volume, goal)
            transform = nib.orientations.ornt_transform(
                nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt(goal)
            )
            theirs = nib.Nifti1Image(volume.array, volume.affine).as_reoriented(transform)
            np.testing.assert_array_equal(ours.array, np.asarray(theirs.dataobj))
            np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-9)
            assert axis_codes(ours.affine) == goal


@pytest.mark.parametrize("codes", ["LLS", "LP", "XYZ", ""])
def test_reorient_refuses_what_is_no_orientation(codes):
    with pytest.raises(BadInput, match="no orientation"):
        reorient(_volume(np.eye(4)), codes)


def test_same_grid_looks_at_the_far_corner():
    """A relative error of 2e-6 in the spacing is 0.5 nm at the origin and 1 um at voxel 511."""
    affine = np.eye(4)
    off = affine.copy()
    off[0, 0] += 4e-6
    assert same_grid((100, 100, 100), affine, (100, 100, 100), off)
    assert not same_grid((512, 100, 100), affine, (512, 100, 100), off)
    assert not same_grid((100, 100, 99), affine, (100, 100, 100), affine)


def test_grids_overlap_fractions():
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    shape = (48, 48, 48)
    for start, fraction in (((0, 0, 0), 1), ((24, 0, 0), 1 / 2), ((24, 24, 24), 1 / 8), ((48, 0, 0), 0)):
        moved = shifted_affine(affine, start)
        assert grids_overlap(shape, affine, shape, moved) == pytest.approx(fraction)
