"""Volumes as `generate` would have written them, exported as DICOM, and how two readings of a volume are compared."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from SynthDiffusionLib.export.dicom import DicomExport, DicomRequest, export_dicom
from SynthDiffusionLib.jobs import provenance
from SynthDiffusionLib.volumes import Code, Segment, Segmentation, Volume, write_segmentation, write_volume

SHAPE = (20, 16, 9)
DATE = datetime.date(2026, 1, 31)
WEIGHTS = {"denoiser.safetensors": "ab" * 32}
LUNG = Segment(
    "Lunge ü",
    1,
    category=Code("SCT", "123037004", "Anatomical Structure"),
    type=Code("SCT", "39607008", "Lung"),
    type_modifier=Code("SCT", "7771000", "Left"),
    color=(0.8, 0.2, 0.1),
)
NODULE = Segment(
    "nodule",
    4,
    category=Code("SCT", "49755003", "Morphologically Altered Structure"),
    type=Code("SCT", "27925004", "Nodule"),
    region=Code("SCT", "39607008", "Lung"),
    region_modifier=Code("SCT", "24028007", "Right"),
    color=(0.2, 0.6, 0.3),
)


def ct(shape=SHAPE, seed=0) -> np.ndarray:
    """Whole numbers over the whole range of int16, its ends included."""
    array = np.random.default_rng(seed).integers(-(2**15), 2**15, shape).astype(np.int16)
    array.flat[:2] = -(2**15), 2**15 - 1
    return array


def labels(shape=SHAPE) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[4:13, 4:13, 2:5] = 1
    array[7:11, 6:8, 3:7] = 4
    return array


def generated(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    modality="CT",
    mode="whole",
    suffix=".nii.gz",
    case="Doe",
    seed=3,
    **changes: Any,
) -> Path:
    """A volume with its record, and if it is inpainted its region: the files of one sample of `generate`."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{case}_m_seed{seed}"
    volume = folder / f"{stem}{suffix}"
    write_volume(Volume(array, affine, "HU"), volume)
    inpainted = mode == "inpaint"
    record = {
        "format": provenance.FORMAT,
        "synthetic": True,
        "contains_real_patient_pixels": inpainted,
        "notice": provenance.NOTICE_INPAINTED if inpainted else provenance.NOTICE,
        "software": {"name": "SynthDiffusion", "version": "0.0.9"},
        "case": case,
        "model": {"id": "lung-nodule-ct", "version": "1.2.0", "modality": modality, "files": WEIGHTS},
        "inputs": {"segmentation_sha256": "cd" * 32},
        "settings": {"mode": mode, "seed": seed, "sampler": "ddim", "steps": 20},
        "display": {"window": 1400, "level": -500} if modality == "CT" else {},
        "output_sha256": provenance.sha256_of(volume),
    }
    if inpainted:
        region = (labels(array.shape) == labels(array.shape).max()).astype(np.uint8)
        parts = Segmentation((region,), affine, (Segment("synthetic region", 1),))
        write_segmentation(parts, folder / f"{stem}_region.seg.nrrd")
    (folder / f"{stem}.json").write_text(json.dumps(record | changes), encoding="utf-8")
    return volume


def drawing(folder: Path, affine: np.ndarray, shape=SHAPE) -> Path:
    path = folder / "drawing.seg.nrrd"
    write_segmentation(Segmentation((labels(shape),), affine, (LUNG, NODULE)), path)
    return path


def exported(volume: Path, out: Path, **options: Any) -> DicomExport:
    return export_dicom(DicomRequest(volume, out, **{"date": DATE, **options}))


def assert_same_image(
    array_a: np.ndarray, affine_a: np.ndarray, array_b: np.ndarray, affine_b: np.ndarray, error: float = 0.0
) -> None:
    """Two arrays hold the same values at the same places, to 1e-4 mm, whatever the order of their axes.

    Args:
        error: how far values may be apart.
    """
    step = np.linalg.inv(affine_b) @ affine_a
    order = np.abs(step[:3, :3]).argmax(axis=1)
    assert sorted(order) == [0, 1, 2]
    signs = np.sign(step[range(3), order])
    turned = np.transpose(array_a, order)
    turned = turned[tuple(slice(None, None, int(sign)) for sign in signs)]
    assert turned.shape == array_b.shape
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [
        *(np.array(array_b.shape) - 1),
        1,
    ]
    inside = np.empty_like(corners)
    inside[:, 3] = 1
    for axis, (source, sign) in enumerate(zip(order, signs)):
        last = array_b.shape[axis] - 1
        inside[:, source] = corners[:, axis] if sign > 0 else last - corners[:, axis]
    distance = np.linalg.norm((corners @ affine_b.T - inside @ affine_a.T)[:, :3], axis=1)
    assert distance.max() < 1e-4
    difference = np.abs(turned.astype(np.float64) - array_b).max()
    assert difference <= error


def nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values and RAS affine of a NIfTI file, by nibabel."""
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def itk_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values and RAS affine of a DICOM series, by ITK (GDCM)."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
