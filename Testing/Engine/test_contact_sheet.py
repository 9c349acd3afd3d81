"""The contact sheet voxel by voxel, and the grey levels that it and Slicer show a model's volumes with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from SynthDiffusionLib.contact_sheet import GAP, HEADER, PANEL, write_contact_sheet
from SynthDiffusionLib.jobs.outputs import display_of, limits_of
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.models.presets import load_preset
from SynthDiffusionLib.volumes import Volume

SIDE = 32
ZOOM = PANEL // SIDE
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SCHEME = load_scheme("lung-nodule-ct")


def panels(path) -> np.ndarray:
    """The sheet of a cube of `SIDE` voxels: (row, column, SIDE, SIDE, RGB), a pixel a voxel."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    count = (picture.shape[1] - GAP) // (PANEL + GAP)
    middle = slice(ZOOM // 2, PANEL, ZOOM)
    tops = [HEADER + GAP + r * (PANEL + GAP) for r in range(3)]
    lefts = [GAP + c * (PANEL + GAP) for c in range(count)]
    return np.array([[picture[y : y + PANEL, x : x + PANEL][middle, middle] for x in lefts] for y in tops])


def cuts(array: np.ndarray, center: tuple[int, int, int]) -> list[np.ndarray]:
    """Axial, coronal and sagittal planes of an LPS volume as a radiologist looks at them."""
    i, j, k = center
    return [array[:, :, k].T, array[:, j].T[::-1], array[i].T[::-1]]


def grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor(np.clip((values - low) / (high - low), 0, 1) * 255)


@pytest.mark.parametrize(
    ("spec", "display", "limits"),
    [
        (load_package("lung-nodule-ct", verify=False).spec, {"window": 1400, "level": -500}, (-1200.0, 200.0)),
        (load_preset("medlord-x4"), {"window": 1400, "level": -500}, (-1200.0, 200.0)),
        (replace(load_preset("medlord-x4"), body_part="limb"), {"window": 500, "level": 50}, (-200.0, 300.0)),
        (load_preset("maisi-rflow"), {"window": 500, "level": 50}, (-200.0, 300.0)),
        (load_preset("maisi-rflow-mr"), {}, None),
        (load_preset("maisi-rflow-mr-brain"), {}, None),
        (replace(load_preset("maisi-rflow-mr"), body_part="chest"), {}, None),
    ],
    ids=["lung nodule", "chest", "limb", "whole body", "MR", "brain", "MR of the chest"],
)
def test_window_and_level(spec, display, limits):
    assert display_of(spec) == display
    assert limits_of(display) == limits


def test_an_mr_volume_is_shown_from_its_darkest_to_nearly_its_brightest_voxel(tmp_path):
    """Of a few voxels that outshine all others, as in an angiogram, the rest does not become black."""
    values = np.random.default_rng(0).uniform(100.0, 600.0, (SIDE,) * 3)
    values[:2, :2, :2] = 20000.0
    classes = np.zeros(values.shape, np.uint8)
    classes[8:20, 8:20, 8:20] = SCHEME["lung"].value
    classes[10:15, 12:17, 14:19] = SCHEME["nodule"].value
    path = tmp_path / "sheet.png"
    write_contact_sheet(path, Volume(values, LPS, "arbitrary"), classes, SCHEME, "nodule", limits=None)
    low, high = values.min(), np.percentile(values, 99.5)
    shown = panels(path)
    assert high < 700 and shown.shape[1] == 3
    center = (12, 14, 16)
    for row, plane in zip(shown, cuts(values, center)):
        assert np.abs(row[1] - grey(plane, low, high)[..., None]).max() <= 1
    color = np.asarray(SCHEME["nodule"].color) * 255
    for row, plane in zip(shown, cuts(classes, center)):
        assert np.abs(row[0][plane == SCHEME["nodule"].value] - color).max() <= 1
        assert not row[0][plane == 0].any()


def test_a_volume_of_one_value_can_be_shown(tmp_path):
    volume = Volume(np.full((SIDE,) * 3, 7.0), LPS, "arbitrary")
    write_contact_sheet(tmp_path / "sheet.png", volume, np.zeros(volume.shape, np.uint8), SCHEME, limits=None)
    assert not panels(tmp_path / "sheet.png").any()


def test_an_unconditional_volume_is_shown_in_its_middle_without_a_drawing(tmp_path):
    values = np.random.default_rng(0).uniform(-1000.0, 1000.0, (SIDE,) * 3)
    path = tmp_path / "sheet.png"
    limits = limits_of(display_of(load_preset("maisi-rflow")))
    nothing = np.zeros(values.shape, np.uint8)
    write_contact_sheet(path, Volume(values, LPS, "HU"), nothing, SCHEME, "nodule", limits=limits, notice="SYNTHETIC")
    shown = panels(path)
    for row, plane in zip(shown, cuts(values, (SIDE // 2,) * 3)):
        assert np.abs(row[1] - grey(plane, -200.0, 300.0)[..., None]).max() <= 1
        assert not row[0].any() and np.array_equal(row[1], row[2])
    assert Image.open(path).text["Description"] == "SYNTHETIC"
