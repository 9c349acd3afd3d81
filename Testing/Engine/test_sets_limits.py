"""Volumes and spacings that no figure can be computed of: refused in plain words, without a word of NumPy's."""

from __future__ import annotations

import warnings

import nibabel
import numpy as np
import pytest
from tiny_sets import SHAPE, affine, ct_array, mr_array, write_set

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets.case_file import FEWEST_VOXELS
from SynthDiffusionLib.evaluation.sets.image_set import Frame, frame_of, guess_modality, read_set

RANGES = {"CT": (-1000.0, 1000.0), "MR": (0.0, 1000.0)}


@pytest.mark.parametrize("modality, array", [("CT", ct_array), ("MR", mr_array)])
@pytest.mark.parametrize("factor", [1e300, 1e36])
def test_values_beyond_float32_are_left_out_by_name(tmp_path, modality, array, factor):
    folder = write_set(tmp_path / "s", array=array)
    nibabel.save(nibabel.Nifti1Image(array(3).astype(np.float64) * factor, affine()), folder / "p03.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert guess_modality(folder) == modality
        found = read_set("real", folder, Frame(modality, None, RANGES[modality]), least=9)
    assert [s["file"] for s in found.skipped] == ["p03.nii.gz"] and len(found.cases) == 9
    assert "values beyond float32" in found.skipped[0]["reason"]


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros(SHAPE, np.int16), "every voxel is 0 in the range -1000 to 1000: it is constant"),
        (np.full(SHAPE, -1024, np.int16), "every voxel is -1000 in the range"),
        (ct_array(1)[:2, :2, :2], "2 x 2 x 2 voxels are too few to show anatomy"),
    ],
    ids=["zeros", "below the range", "a few voxels"],
)
def test_a_volume_without_an_image_is_left_out(tmp_path, array, told):
    folder = write_set(tmp_path / "s")
    nibabel.save(nibabel.Nifti1Image(array, affine()), folder / "p05.nii.gz")
    found = read_set("real", folder, Frame("CT", None, RANGES["CT"]), least=9)
    assert [s["file"] for s in found.skipped] == ["p05.nii.gz"] and told in found.skipped[0]["reason"]


def test_a_spacing_that_leaves_no_anatomy_is_refused(tmp_path):
    folder = write_set(tmp_path / "s", spacing=(6, 6, 6))
    with pytest.raises(BadInput, match="spacing of 999 x 999 x 999 mm leaves 0 usable volumes of the real") as caught:
        read_set("real", folder, Frame("CT", (999.0,) * 3, RANGES["CT"]))
    assert "1 x 1 x 1 voxels" in caught.value.message and "finer --spacing" in caught.value.hint
    # A volume with few slices of its own is no fault of the spacing.
    flat = tmp_path / "flat"
    write_set(flat, array=lambda seed: ct_array(seed, (40, 40, 5)), spacing=(1, 1, 5))
    found = read_set("real", flat, Frame("CT", (2.0, 2.0, 5.0), RANGES["CT"]))
    assert found.cases[0].image.shape == (20, 20, 5) and FEWEST_VOXELS == 8


def test_a_spacing_too_fine_for_the_memory_is_the_fault_of_the_option(tmp_path):
    folder = write_set(tmp_path / "s")
    with pytest.raises(BadInput, match="spacing of 0.0002 x 0.0002 x 0.0002 mm leaves 0 usable") as caught:
        read_set("real", folder, Frame("CT", (0.0002,) * 3, RANGES["CT"]))
    assert "coarser --spacing" in caught.value.hint and "Give a folder" not in caught.value.one_line()


@pytest.mark.parametrize("spacing", [1e-300, 5e-324, 0.00001])
def test_a_spacing_that_no_scanner_has_is_refused_at_once(tmp_path, spacing):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadInput, match="must be above 0 mm, from 0.0001"):
            frame_of({"real": tmp_path}, "CT", (spacing,) * 3, None)
