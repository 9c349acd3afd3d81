"""The drawn sample segmentations: their geometry, and that the shipped files are what the script draws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.phantoms import (
    ANTERIOR,
    BODY,
    BONE,
    HIPPOCAMPUS,
    LUNG,
    NODULE,
    PHANTOMS,
    POSTERIOR,
    Ellipsoid,
    Nodule,
    Phantom,
    Ribs,
    Section,
    draw_hippocampus,
    draw_phantom,
    hippocampus_segmentation,
    main,
    phantom_segmentation,
)

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "Resources" / "Segmentations"
BY_NAME = {phantom.name: phantom for phantom in PHANTOMS}
each_phantom = pytest.mark.parametrize("phantom", PHANTOMS, ids=lambda p: p.name)


def scheme_of(name: str) -> LabelScheme:
    text = (ROOT / "Resources" / "LabelSchemes" / f"{name}.json").read_text(encoding="utf-8")
    return LabelScheme.from_json(json.loads(text))


@pytest.fixture(scope="module")
def scheme() -> LabelScheme:
    return scheme_of("lung-nodule-ct")


def nodule_diameters(classes: np.ndarray) -> list[float]:
    """Diameters in mm of the balls that are as large as the nodules, on a 1 mm grid."""
    parts, count = ndimage.label(classes == NODULE)
    return [float((6.0 * (parts == part).sum() / np.pi) ** (1 / 3)) for part in range(1, count + 1)]


def test_a_plain_ellipsoid_has_its_closed_form_volume():
    """Away from everything else, lung and nodule are ellipsoids: 4/3 pi r1 r2 r3."""
    phantom = Phantom(
        name="ball",
        description="",
        origin=(40.3, 40.1, -39.8),
        lung=Ellipsoid((0.0, 0.0, 0.0), (30.0, 27.0, 33.0)),
        ribs=Ribs(depth_mm=500.0),
        nodules=(Nodule((1.0, -2.0, 3.0), (9.0, 7.0, 8.0)),),
    )
    classes, affine = draw_phantom(phantom, (81, 81, 81))
    inside = np.argwhere(classes == NODULE) @ affine[:3, :3].T + affine[:3, 3]
    assert len(inside) == pytest.approx(4 / 3 * np.pi * 9 * 7 * 8, rel=0.01)
    # RAS mean of a nodule whose LPS center is (1, -2, 3).
    np.testing.assert_allclose(inside.mean(0), (-1.0, 2.0, 3.0), atol=0.05)
    lung = np.isin(classes, (LUNG, NODULE)).sum()
    assert lung == pytest.approx(4 / 3 * np.pi * 30 * 27 * 33, rel=0.05)  # the border ripples by 0.4 mm
    assert not (classes == BONE).any()


@each_phantom
def test_looks_like_the_training_cubes(phantom):
    """Shares of the classes lie within those of the 107 real LIDC cubes (10th to 90th percentile, a little wider)."""
    classes, affine = draw_phantom(phantom)
    assert classes.shape == (56, 56, 56)
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(affine[:3, :3], np.diag([-1.0, -1.0, 1.0]))
    share = {value: (classes == value).mean() for value in (BODY, LUNG, BONE, NODULE)}
    assert (classes > 0).all(), "the piece lies inside the patient: no air outside"
    assert 0.15 < share[BODY] < 0.45
    assert 0.45 < share[LUNG] < 0.8
    assert 0.03 < share[BONE] < 0.1
    assert 0.001 < share[NODULE] < 0.05
    assert ndimage.label(classes == LUNG)[1] == 1
    ribs, count = ndimage.label(classes == BONE)
    assert sum((ribs == rib).sum() > 300 for rib in range(1, count + 1)) >= 2
    # Ribs lie in the chest wall: none touches the lung.
    assert not (ndimage.binary_dilation(classes == BONE) & np.isin(classes, (LUNG, NODULE))).any()


@each_phantom
def test_another_grid_shows_the_same_anatomy(phantom):
    """Drawn at 0.5 mm, voxels of the 1 mm drawing keep their class, and volumes agree."""
    coarse, _ = draw_phantom(phantom)
    fine, affine = draw_phantom(phantom, (112, 112, 112), 0.5)
    np.testing.assert_array_equal(fine[::2, ::2, ::2], coarse)
    assert abs(np.linalg.det(affine[:3, :3])) == pytest.approx(0.125)
    for value in (LUNG, BONE, NODULE):
        assert (fine == value).sum() / 8 == pytest.approx((coarse == value).sum(), rel=0.12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("solitary-nodule", [(10, 12)]), ("pleural-nodule", [(14, 16)]), ("two-nodules", [(5, 7), (8, 10)])],
)
def test_nodules_have_the_described_size_and_place(name, expected):
    classes, _ = draw_phantom(BY_NAME[name])
    diameters = sorted(nodule_diameters(classes))
    assert len(diameters) == len(expected)
    assert all(low < d < high for d, (low, high) in zip(diameters, expected))
    center = np.array(ndimage.center_of_mass(classes == NODULE))
    assert np.abs(center - 27.5).max() > 5, "a nodule in the middle could be guessed from its position"
    touches_wall = (ndimage.binary_dilation(classes == NODULE) & (classes == BODY)).sum()
    assert touches_wall > 40 if name == "pleural-nodule" else touches_wall == 0


def test_nodules_are_lobulated():
    """Lobes make a nodule larger than its core and less round than any ellipsoid's coarse outline."""
    phantom = BY_NAME["solitary-nodule"]
    (nodule,) = phantom.nodules
    classes, _ = draw_phantom(phantom)
    core = 4 / 3 * np.pi * np.prod(nodule.radii)
    assert 1.15 * core < (classes == NODULE).sum() < 2.0 * core


def test_the_hippocampus_has_the_size_and_place_that_it_says():
    """Volumes lie within those of the 138 training cases (5th to 95th percentile)."""
    classes, affine = draw_hippocampus(HIPPOCAMPUS)
    assert classes.shape == (40, 56, 40)
    assert 1225 < (classes == ANTERIOR).sum() < 2194
    assert 1230 < (classes == POSTERIOR).sum() < 1943
    assert ndimage.label(classes == ANTERIOR)[1] == ndimage.label(classes == POSTERIOR)[1] == 1
    head, rest = (np.argwhere(classes == v) @ affine[:3, :3].T + affine[:3, 3] for v in (ANTERIOR, POSTERIOR))
    assert head[:, 1].min() > rest[:, 1].max(), "the head lies in front, in RAS"
    assert head[:, 0].mean() > 0 and head[:, 0].mean() < rest[:, 0].mean(), "on the right; the head bends to the middle"
    assert head[:, 2].mean() < rest[:, 2].mean(), "the tail rises"


def test_the_hippocampus_on_a_finer_grid_is_the_same():
    coarse, _ = draw_hippocampus(HIPPOCAMPUS)
    fine, _ = draw_hippocampus(HIPPOCAMPUS, (80, 112, 80), 0.5)
    np.testing.assert_array_equal(fine[::2, ::2, ::2], coarse)
    assert (fine > 0).sum() / 8 == pytest.approx((coarse > 0).sum(), rel=0.05)


def test_a_straight_hippocampus_is_an_elliptic_tube():
    """Equal sections: pi times the radii times the length."""
    ends = tuple(Section(front, 0.0, 0.0, (8.0, 5.0)) for front in (-15.0, 15.0))
    tube = replace(HIPPOCAMPUS, sections=ends, middle=(27.25, -22.25, -14.25))
    classes, _ = draw_hippocampus(tube, (80, 112, 80), 0.5)
    assert (classes > 0).sum() / 8 == pytest.approx(np.pi * 8 * 5 * 30, rel=0.02)


@each_phantom
def test_segments_carry_the_terminology_of_the_scheme(phantom, scheme):
    segmentation = phantom_segmentation(phantom, scheme)
    by_value = {segment.value: segment for segment in segmentation.segments}
    assert set(by_value) == {BODY, LUNG, BONE, NODULE}
    for value, segment in by_value.items():
        (label,) = [c for c in scheme.classes if c.value == value]
        assert segment.type in label.codes
        assert segment.name.lower() in (label.name, *label.synonyms)
        assert segment.category == label.category
        assert segment.color == label.color


def test_shipped_files_are_the_phantoms():
    shipped = {path.name for path in SAMPLES.glob("*.seg.nrrd")}
    assert shipped == {f"{name}.seg.nrrd" for name in (*BY_NAME, HIPPOCAMPUS.name)}
    readme = (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(name in readme for name in shipped)


@pytest.mark.parametrize("phantom", (*PHANTOMS, HIPPOCAMPUS), ids=lambda p: p.name)
def test_shipped_file_holds_what_is_drawn(phantom, scheme):
    """Read by pynrrd, not by the project's own reader."""
    nrrd = pytest.importorskip("nrrd")
    path = SAMPLES / f"{phantom.name}.seg.nrrd"
    assert path.stat().st_size < 20_000
    array, header = nrrd.read(str(path))
    if phantom is HIPPOCAMPUS:
        expected = hippocampus_segmentation(phantom, scheme_of("hippocampus-mr"))
    else:
        expected = phantom_segmentation(phantom, scheme)
    np.testing.assert_array_equal(array, expected.layers[0])

    # NRRD states its axes in its own space; both the writer's choice and RAS are brought to RAS here.
    flip = np.diag(
        {"left-posterior-superior": [-1.0, -1.0, 1.0], "right-anterior-superior": [1.0, 1.0, 1.0]}[header["space"]]
    )
    np.testing.assert_allclose(flip @ np.array(header["space directions"], float).T, expected.affine[:3, :3], atol=1e-9)
    np.testing.assert_allclose(flip @ np.array(header["space origin"], float), expected.affine[:3, 3], atol=1e-9)

    found = {}
    for key, name in header.items():
        if key.startswith("Segment") and key.endswith("_Name"):
            prefix = key.removesuffix("_Name")
            tags = header[f"{prefix}_Tags"]
            color = tuple(float(c) for c in header[f"{prefix}_Color"].split())
            found[name] = (int(header[f"{prefix}_LabelValue"]), tags, color)
    assert set(found) == {segment.name for segment in expected.segments}
    for segment in expected.segments:
        value, tags, color = found[segment.name]
        assert value == segment.value
        assert f"{segment.type.scheme}^{segment.type.value}" in tags
        assert color == pytest.approx(segment.color, abs=1e-3)


def test_the_command_writes_the_same_files_again(tmp_path, capsys):
    nrrd = pytest.importorskip("nrrd")
    assert main(["--out", str(tmp_path / "samples")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(PHANTOMS) + 1
    for name in (*BY_NAME, HIPPOCAMPUS.name):
        again, _ = nrrd.read(str(tmp_path / "samples" / f"{name}.seg.nrrd"))
        shipped, _ = nrrd.read(str(SAMPLES / f"{name}.seg.nrrd"))
        np.testing.assert_array_equal(again, shipped)
