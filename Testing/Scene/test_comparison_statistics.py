"""Segment statistics, histograms and the table's text: each number against numpy or SimpleITK."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("slicer")

import slicer  # noqa: E402
import vtk  # noqa: E402
from comparison_examples import add_segmentation, add_volume, ball, grid, place_sitk, to_sitk  # noqa: E402

from SynthDiffusionScene import statistics  # noqa: E402
from SynthDiffusionScene.comparisonTables import formatValue, tableCells  # noqa: E402
from SynthDiffusionScene.histogram import histogramPair  # noqa: E402
from SynthDiffusionScene.volumes import markSynthetic  # noqa: E402

SHAPE = (14, 18, 22)
AFFINE = grid((0.7, 1.1, 2.3), (-31.3, 12.7, 8.1), 21)
RANDOM = np.random.default_rng(11)
REAL = RANDOM.integers(-1000, 400, SHAPE).astype(np.int16)
SYNTHETIC = RANDOM.normal(-500, 250, SHAPE).astype(np.float32)
LUNG, NODULE = ball(SHAPE, (7, 9, 10), 6), ball(SHAPE, (6, 8, 9), 2)


@pytest.fixture
def nodes(scene):
    """Real, synthetic and a segmentation of overlapping segments, on one grid."""
    return (
        add_volume(scene, REAL, AFFINE, "real"),
        add_volume(scene, SYNTHETIC, AFFINE, "synthetic"),
        add_segmentation(scene, {"lung": LUNG, "nodule": NODULE}, AFFINE),
    )


def test_same_grid_is_numpy(nodes):
    real, synthetic, segmentation = nodes
    rows = statistics.compareSegments(segmentation, real, synthetic)
    assert [row.name for row in rows] == ["lung", "nodule"]
    for row, mask in zip(rows, (LUNG, NODULE)):
        assert row.drawnVoxels == row.real.voxels == row.synthetic.voxels == mask.sum()
        assert row.volumeMl == pytest.approx(mask.sum() * 0.7 * 1.1 * 2.3 / 1000)
        assert row.real.mean == pytest.approx(REAL[mask].mean(dtype=float))
        assert row.synthetic.mean == pytest.approx(SYNTHETIC[mask].mean(dtype=float))
        assert row.real.deviation == pytest.approx(REAL[mask].std(dtype=float, ddof=1))
        assert row.synthetic.deviation == pytest.approx(SYNTHETIC[mask].std(dtype=float, ddof=1))
        assert row.meanDifference == pytest.approx(row.synthetic.mean - row.real.mean)
        assert row.real.outsideMl == row.synthetic.outsideMl == 0 and row.note == ""
    assert rows[1].color == pytest.approx((1.0, 0.3, 0.2), abs=1e-6)


def test_segment_next_to_the_border_says_what_is_missing(scene, nodes):
    real, _, segmentation = nodes
    move = np.eye(4)
    move[:3, 3] = (0, 0, 6)  # a crop that begins in the middle of the segments
    cropped = add_volume(scene, SYNTHETIC[6:], AFFINE @ move, "cropped")
    lung, _ = statistics.compareSegments(segmentation, real, cropped)
    assert lung.synthetic.voxels == LUNG[6:].sum()
    assert lung.synthetic.outsideMl == pytest.approx(LUNG[:6].sum() * 0.7 * 1.1 * 2.3 / 1000)
    assert lung.drawnVoxels == LUNG.sum()
    assert "lie outside of the synthetic volume" in lung.note and "real" not in lung.note


def test_means_beside_a_crop_are_of_the_part_that_both_show(scene):
    """A whole CT with fat around a crop of the lung: the fat must not make the real mean."""
    real = np.where(np.arange(SHAPE[0])[:, None, None] < 6, -100, REAL).astype(np.int16)
    move = np.eye(4)
    move[:3, 3] = (0, 0, 6)
    whole = add_volume(scene, real, AFFINE, "whole")
    cropped = add_volume(scene, SYNTHETIC[6:], AFFINE @ move, "cropped")
    segmentation = add_segmentation(scene, {"lung": LUNG}, AFFINE)
    (row,) = statistics.compareSegments(segmentation, whole, cropped)
    (turned,) = statistics.compareSegments(segmentation, cropped, whole)
    both = LUNG[6:]
    assert row.real.voxels == row.synthetic.voxels == both.sum() < LUNG.sum()
    assert row.real.mean == pytest.approx(REAL[6:][both].mean(dtype=float))
    assert row.real.deviation == pytest.approx(REAL[6:][both].std(dtype=float, ddof=1))
    assert row.meanDifference == pytest.approx(SYNTHETIC[6:][both].mean(dtype=float) - row.real.mean)
    assert (turned.synthetic.mean, turned.meanDifference) == (row.real.mean, -row.meanDifference)
    assert row.drawnVoxels == LUNG.sum() and row.volumeMl == pytest.approx(LUNG.sum() * 0.7 * 1.1 * 2.3 / 1000)
    assert row.note.endswith("Means, SD and voxels are of the part that both volumes show.")


def test_means_on_turned_grids_are_those_of_simpleitk_in_the_common_part(scene):
    sitk = pytest.importorskip("SimpleITK")
    volumes = []
    for shape, spacing, angle, move in (((24, 26, 28), (0.6, 0.8, 0.9), -12, 0), ((9, 15, 9), (1.4, 1.9, 2.9), 33, 5)):
        affine = grid(spacing, angle_deg=angle)
        affine[:3, 3] = (AFFINE @ (10, 9, 7, 1) - affine @ [*np.array(shape[::-1]) / 2, 0])[:3] + move
        volumes.append(add_volume(scene, RANDOM.normal(-300, 200, shape), affine, "volume"))
    row = statistics.compareSegments(add_segmentation(scene, {"lung": LUNG}, AFFINE), *volumes)[0]
    label = place_sitk(sitk.GetImageFromArray(LUNG.astype(np.uint8)), AFFINE)
    for found, volume, other in zip((row.real, row.synthetic), volumes, volumes[::-1]):
        image = to_sitk(volume)
        ones = to_sitk(other) * 0 + 1
        drawn, there = (
            sitk.GetArrayFromImage(sitk.Resample(one, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)) > 0
            for one in (label, ones)
        )
        values = sitk.GetArrayFromImage(image)[drawn & there]
        assert 30 < found.voxels == values.size < drawn.sum() and found.leftOut == (drawn & ~there).sum()
        assert found.mean == pytest.approx(values.mean())
        assert found.deviation == pytest.approx(values.std(ddof=1))
        common = statistics.commonVoxels(volume, other)
        np.testing.assert_array_equal(common, sitk.GetArrayFromImage(image)[there])


def test_a_segment_that_only_one_volume_shows_has_no_difference(scene):
    move = np.eye(4)
    move[:3, 3] = (0, 0, 7)
    low = add_volume(scene, REAL[:7], AFFINE, "low")
    high = add_volume(scene, SYNTHETIC[7:], AFFINE @ move, "high")
    lung, below = statistics.compareSegments(
        add_segmentation(scene, {"lung": LUNG, "below": ball(SHAPE, (3, 8, 9), 2)}, AFFINE), low, high
    )
    assert lung.meanDifference is None and "No part is in both." in lung.note and lung.note.count(" ml of it") == 2
    assert below.note == "It lies outside of the synthetic volume. No part is in both."
    assert statistics.commonVoxels(low, high).size == 0


def test_volumes_of_one_extent_are_taken_as_they_are(nodes):
    real, synthetic, _ = nodes
    assert statistics.commonVoxels(real, synthetic).base is not None  # no copy
    assert statistics.commonVoxels(real, synthetic).shape == SHAPE


def test_segments_without_values_have_a_reason(scene, nodes):
    real, synthetic, _ = nodes
    corner = ball(SHAPE, (0, 0, 0), 1)
    far = grid((1, 1, 1), (500.0, 500.0, 500.0))
    segmentation = add_segmentation(scene, {"empty": np.zeros(SHAPE, bool), "corner": corner}, AFFINE)
    away = add_segmentation(scene, {"away": corner}, far)
    empty, drawn = statistics.compareSegments(segmentation, real, synthetic)
    (beyond,) = statistics.compareSegments(away, real, synthetic)
    assert empty.drawnVoxels == 0 and empty.meanDifference is None and empty.note == "Nothing is drawn."
    assert drawn.real.voxels == corner.sum() and drawn.note == ""
    assert beyond.real.mean is None and beyond.note.count("It lies outside of the") == 2


def test_surface_without_voxels_says_what_to_do(scene, nodes):
    real, synthetic, _ = nodes
    sphere = vtk.vtkSphereSource()
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surfaces")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    segment = slicer.vtkSegment()
    segment.AddRepresentation("Closed surface", sphere.GetOutput())
    node.GetSegmentation().AddSegment(segment, "sphere")
    (row,) = statistics.compareSegments(node, real, synthetic)
    assert row.volumeMl is None and "binary label map in the Segmentations module" in row.note
    assert tableCells([row], statistics.adherenceOf(synthetic), "HU")[1][0][1] == ""


def test_segment_smaller_than_the_volumes_voxels(scene):
    point = np.zeros(SHAPE, bool)
    point[3, 4, 5] = True
    segmentation = add_segmentation(scene, {"point": point}, AFFINE)
    coarse = add_volume(scene, np.zeros((6, 6, 6), np.int16), grid((9, 9, 9), (-40.0, 0.0, -10.0)), "coarse")
    row = statistics.compareSegments(segmentation, coarse, coarse)[0]
    assert row.real.voxels == 0 and "smaller than the voxels of the real volume" in row.note


def test_single_voxel_has_no_spread(scene, nodes):
    real, synthetic, _ = nodes
    point = np.zeros(SHAPE, bool)
    point[3, 4, 5] = True
    row = statistics.compareSegments(add_segmentation(scene, {"point": point}, AFFINE), real, synthetic)[0]
    assert (row.real.mean, row.real.deviation) == (REAL[3, 4, 5], 0.0)


# Histograms


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16, np.int32, np.float32])
def test_histogram_is_that_of_numpy(dtype):
    voxels = RANDOM.integers(0, 250, 30_000).astype(dtype)
    found = histogramPair(voxels, voxels[:7000], 20.0, 200.0, bins=37)
    for percent, values in ((found.real, voxels), (found.synthetic, voxels[:7000])):
        counts, edges = np.histogram(values, bins=37, range=(20.0, 200.0))
        np.testing.assert_allclose(percent, 100 * counts / counts.sum())
        np.testing.assert_allclose(found.edges, edges)
        assert percent.sum() == pytest.approx(100)
    assert found.realOutside == pytest.approx(100 * np.mean((voxels < 20) | (voxels > 200)))
    np.testing.assert_allclose(found.centers, found.edges[:-1] + 180 / 74)


def test_histograms_of_equal_volumes_are_equal():
    found = histogramPair(REAL, REAL.astype(np.float32), -1000.0, 400.0)
    np.testing.assert_allclose(found.real, found.synthetic)
    assert len(found.real) == 64


@pytest.mark.parametrize("voxels", [np.zeros(0, np.int16), np.full(5, 900, np.int16), np.full(5, 900.0)])
def test_histogram_without_voxels_in_range_is_zero(voxels):
    found = histogramPair(voxels, REAL, 0.0, 100.0)
    assert found.real.sum() == 0 and found.realOutside == (100 if voxels.size else 0)


def test_window_of_no_width_still_has_bins():
    found = histogramPair(np.full(4, 7, np.int16), np.full(3, 7.0), 7.0, 7.0)
    assert found.real.sum() == found.synthetic.sum() == pytest.approx(100)


# Adherence and text

MEASURED = {
    "mapping": {"segments": [{"name": "nodule", "class": "nodule"}, {"name": "lung", "class": "lung"}]},
    "adherence": {"class": "nodule", "dice": 0.7123, "structures": 2, "found": 1, "real_dice": 0.684}
    | {"ball_dice": 0.424, "cartoon_dice": 0.736},
}
EARLIER = MEASURED | {"adherence": {"class": "nodule", "dice": 0.7123, "real_dice": 0.684, "ball_dice": 0.42}}


@pytest.mark.parametrize(
    ("provenance", "texts"),
    [
        (MEASURED, ["", "0.71, 1 of 2 found"]),
        (EARLIER, ["", "0.71"]),
        ({"adherence": None, "adherence_note": "no segmenter"}, ["no segmenter", "no segmenter"]),
        ({}, ["not measured", "not measured"]),
        ({"adherence": {"class": "nodule", "dice": 0.5, "real_dice": None}}, ["", "", "0.50"]),
    ],
)
def test_adherence_stands_beside_its_segment(nodes, provenance, texts):
    real, synthetic, segmentation = nodes
    markSynthetic(synthetic, json.loads(json.dumps(provenance)))
    rows = statistics.compareSegments(segmentation, real, synthetic)
    headers, cells = tableCells(rows, statistics.adherenceOf(synthetic), "HU")
    assert all(len(line) == len(headers) for line in cells)
    assert [line[headers.index("Adherence (Dice)")] for line in cells] == texts


@pytest.mark.parametrize(
    ("provenance", "brief", "explanation"),
    [
        (
            MEASURED,
            "0.71, 1 of 2 found",
            "Dice of the model's segmenter with the drawn nodule: 0.71, 1 of 2 found. For comparison: real images get "
            "0.68 on average, a ball that does not look at the image gets 0.42 for this drawing, a flat picture with "
            "a blurred blob gets 0.74 on average. A low value may mean",
        ),
        ({"adherence": MEASURED["adherence"] | {"found": 2}}, "0.71", "nodule: 0.71, 2 of 2 found. For"),
        # What an earlier version calls the ball's Dice is not of this drawing.
        (EARLIER, "0.71", "nodule: 0.71. For comparison: real images get 0.68 on average. A low"),
        ({"adherence": {"class": "nodule", "dice": 0.5, "found": None}}, "0.50", "nodule: 0.50. A low value"),
        ({"adherence": {"class": "nodule", "dice": None}}, "", "not measured"),
        ({"adherence": None, "adherence_note": "no segmenter"}, "", "no segmenter"),
    ],
)
def test_adherence_is_explained(provenance, brief, explanation):
    adherence = statistics.adherenceFrom(provenance)
    assert adherence.brief == brief
    assert explanation in adherence.explanation
    ending = "at or above that of real images does not mean that the image is realistic."
    assert adherence.explanation.endswith(ending) == bool(brief)


def test_each_class_that_was_measured_stands_beside_its_segments():
    """Of a model whose segmenter finds several; a class that was not drawn, and so not measured, has none."""
    head = {"class": "head", "dice": 0.8, "structures": 1, "found": 1, "real_dice": 0.9}
    tail = head | {"class": "tail", "dice": 0.6, "structures": 2}
    segments = [{"name": "A", "class": "head"}, {"name": "B", "class": "tail"}, {"name": "C", "class": "tail"}]
    provenance = {"adherence": head | {"targets": {"head": head, "tail": tail}}, "mapping": {"segments": segments}}
    adherence = statistics.adherenceFrom(provenance)
    assert [adherence.textOf(name) for name in "ABCD"] == ["0.80, 1 of 1 found", *["0.60, 1 of 2 found"] * 2, ""]
    assert "head: 0.80, 1 of 1 found. tail: 0.60, 1 of 2 found. For comparison, head: real" in adherence.explanation
    earlier = replace(adherence, ofDrawing="the earlier drawing")
    assert earlier.textOf("B") == "0.60, 1 of 2 found, of the earlier drawing"


def test_table_shows_the_rows(nodes):
    real, synthetic, segmentation = nodes
    rows = statistics.compareSegments(segmentation, real, synthetic)
    headers, cells = tableCells(rows, statistics.adherenceOf(synthetic), "HU")
    line = dict(zip(headers, cells[1]))
    assert line["Segment"] == "nodule" and line["Voxels, real"] == str(NODULE.sum())
    assert float(line["Mean, real, HU"]) == pytest.approx(REAL[NODULE].mean(), abs=0.06)
    assert float(line["Difference of means, HU"]) == pytest.approx(rows[1].meanDifference, abs=0.06)
    assert line["Difference of means, HU"][0] in "+-"
    assert "Mean, real" in tableCells(rows, statistics.adherenceOf(synthetic), "")[0]


@pytest.mark.parametrize(
    ("ml", "text"), [(0, "0"), (0.01234, "0.0123"), (4.567, "4.57"), (45.67, "45.7"), (3210.4, "3210")]
)
def test_volumes_are_short(ml, text):
    assert statistics.formatMl(ml) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(None, "HU", ""), (-873.155, "HU", "-873.2"), (0.012345, "", "0.01235"), (12345.6, "", "12346"), (0.0, "", "0.0")],
)
def test_values_are_short(value, unit, text):
    assert formatValue(value, unit) == text
