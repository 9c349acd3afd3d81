"""Exported files before programs that nobody here wrote: dicom3tools' dciodvfy and dcm2niix, where they are installed.

On Debian and Ubuntu: apt-get install dicom3tools dcm2niix.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dicom_examples import SHAPE, assert_same_image, ct, drawing, exported, generated, nifti

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

SYNTHETIC_DATA = "Attribute with an even group number is not a recognized standard attribute - (0x0008,0x001c)"
"""dciodvfy up to 2024 (the newest in Debian) does not know Synthetic Data (0008,001C), which is in PS3.6 since 2023."""


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install dicom3tools dcm2niix)")
    return found


SIDE = "Warning - is only permitted to be empty when actually unknown"
"""Of a limb and a breast, and of a model that does not say what its volumes show, no side is known."""


def complaints(path: Path) -> list[str]:
    """What dciodvfy says of a file beyond the name of its IOD; it must not end with an error."""
    done = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if "Error" in line or "Warning" in line]


@pytest.mark.parametrize(
    ("modality", "mode", "label", "body_part", "marks"),
    [
        ("CT", "whole", "none", "chest", {}),
        ("CT", "whole", "none", "chest", {"modified_after_generation": True}),
        ("MR", "whole", "none", "brain", {"voxels_unchecked": True}),
        ("MR", "whole", "none", "brain", {}),
        ("CT", "inpaint", "overlay", "whole body", {}),
        ("CT", "whole", "burned-in", "limb", {}),
        ("MR", "whole", "none", "breast", {}),
        ("MR", "whole", "none", None, {}),
    ],
)
def test_dciodvfy_finds_no_error_and_warns_of_no_more_than_an_unknown_side(
    tmp_path, oblique_affine, modality, mode, label, body_part, marks
):
    """Neither in the files as they are, but for the attribute that it is too old for, nor without that attribute."""
    affine, shape = oblique_affine("PSL"), (140, 120, 3)
    model = {"id": "lung-nodule-ct", "version": "1", "modality": modality} | (
        {} if body_part is None else {"body_part": body_part}
    )
    volume = generated(tmp_path, np.abs(ct(shape) // 2), affine, modality, mode, model=model, **marks)
    export = exported(volume, tmp_path / "out", segmentation=drawing(tmp_path, affine, shape), label=label)
    files = [next(export.image.iterdir()), *export.folder.glob("*.dcm")]
    assert len(files) == (3 if mode == "inpaint" else 2)
    for path in files:
        assert ("BurnedInAnnotation" in pydicom.dcmread(path)) == (mode == "whole" and not marks)
        assert [c for c in complaints(path) if "Error" in c and SYNTHETIC_DATA not in c] == []
        item = pydicom.dcmread(path)
        del item.SyntheticData
        item.save_as(tmp_path / "without.dcm")
        rest = complaints(tmp_path / "without.dcm")
        side_unknown = item.Modality != "SEG" and body_part in ("limb", "breast", None)
        assert len(rest) == side_unknown and all(SIDE in c for c in rest)


def test_dciodvfy_only_warns_of_the_rescaling_of_fractions_in_mr(tmp_path, oblique_affine):
    array = np.random.default_rng(0).normal(300, 90, SHAPE).astype(np.float32)
    export = exported(generated(tmp_path, array, oblique_affine("LPS"), "MR"), tmp_path / "out")
    found = [c for c in complaints(export.image / "slice0001.dcm") if "0x001c" not in c]
    allowed = ("Rescale", "Standard Extended SOP Class", SIDE)
    assert len(found) > 5 and all(any(words in c for words in allowed) for c in found)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "AIR", "SAL"])
@pytest.mark.parametrize("kind", ["ct", "mr", "mr-fractions"])
def test_dcm2niix_makes_the_volume_again(tmp_path, oblique_affine, codes, kind):
    array = ct() if kind == "ct" else np.abs(ct() // 2)
    if kind == "mr-fractions":
        array = np.random.default_rng(0).normal(300, 90, SHAPE).astype(np.float32)
    volume = generated(tmp_path, array, oblique_affine(codes), "CT" if kind == "ct" else "MR")
    export = exported(volume, tmp_path / "out")
    made = tmp_path / "made"
    made.mkdir()
    command = [tool("dcm2niix"), "-b", "n", "-z", "n", "-f", "again", "-o", str(made), str(export.image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (path,) = made.glob("*.nii")
    error = export.stored.largest_error
    assert_same_image(*nifti(volume), *nifti(path), error=error * 1.001 + (1e-4 if error else 0))
