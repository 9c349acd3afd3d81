"""The joint mode: what may be asked for, and how the rest is drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny_slice_ldm import AFFINE, EXTENT, SHAPE, tiny_characteristics

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs import GenerateRequest
from SynthDiffusionLib.jobs.joint import (
    ball_surface,
    check_asked,
    conditional_normal,
    draw_missing,
    draw_tumour,
    impossible,
    range_notes,
    score_of,
    value_of,
    volume_of,
)
from SynthDiffusionLib.jobs.tumour import check_tumour, parse_tumour, tumour_text, tumour_values
from SynthDiffusionLib.labels.characteristics import measure
from SynthDiffusionLib.models.characteristics import NAMES, CharacteristicsSpec

FULL = {"volume_mm3": 20000.0, "sphericity": 0.75, "center": (0.0, 10.0, -5.0), "box": (40.0, 30.0, 50.0)}
VOXEL = (4.0, 4.0, 5.0)


# --- how a tumour is named


def test_the_command_line_says_what_the_json_says():
    text = "volume_mm3=20000, sphericity = 0.75,center=0x10x-5,box=40x3e1x50.0"
    assert parse_tumour(text) == FULL
    assert parse_tumour("volume_mm3=-3") == {"volume_mm3": -3.0}  # no number is refused here for its value
    values = tumour_values(FULL)
    assert list(values) == [n for n in NAMES if n != "surface_mm2"] and values["center_s_mm"] == -5.0
    assert parse_tumour(tumour_text(values)) == FULL
    check_tumour(json.loads(json.dumps(FULL)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("volum_mm3=1", "Did you mean 'volume_mm3'"),
        ("centre=0x0x0", "Did you mean 'center'"),
        ("colour=3", "They are: volume_mm3"),
        ("volume_mm3", "has no value"),
        ("volume_mm3=", "has no value"),
        ("volume_mm3=1,volume_mm3=2", "stands twice"),
        ("volume_mm3=much", "no finite number"),
        ("volume_mm3=nan", "no finite number"),
        ("box=1xinfx1", "no finite number"),
        ("box=1x2", "needs three numbers"),
        ("box=5", "needs three numbers"),
        ("sphericity=0.5x0.5", "needs one number"),
        (" , ", "empty"),
    ],
)
def test_texts_that_are_refused(text, says):
    with pytest.raises(BadInput) as error:
        parse_tumour(text)
    assert says in error.value.one_line()


@pytest.mark.parametrize("value", [True, "3", None, float("nan"), [1.0, 2.0, 3.0]])
def test_values_that_are_refused_in_json(value):
    with pytest.raises(BadInput):
        check_tumour({"volume_mm3": value})


def joint_request(**fields) -> GenerateRequest:
    return GenerateRequest(**{"segmentation": None, "model": "m", "out": Path("o"), "mode": "joint"} | fields)


def test_a_request_travels_through_json():
    request = joint_request(tumour=FULL, seed=3)
    assert GenerateRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"segmentation": Path("a.nrrd")}, "the mode 'joint' makes the segmentation itself"),
        ({"labels": {"1": "tumour"}}, "the mode 'joint' makes the segmentation itself"),
        ({"image": Path("a.nrrd")}, "--image was given"),
        ({"mode": "unconditional", "tumour": FULL}, "It belongs to --mode joint"),
        ({"mode": "whole", "segmentation": Path("a.nrrd"), "tumour": FULL}, "It belongs to --mode joint"),
        ({"size": "nearest"}, "no segmentation"),
        ({"tumour": {"vol": 3}}, "no characteristic"),
    ],
)
def test_requests_that_are_refused(fields, says):
    with pytest.raises(BadInput) as error:
        joint_request(**fields)
    assert says in error.value.one_line()


@pytest.mark.parametrize("value", [3, "volume_mm3=3", ["volume_mm3"], {"box": [1, 2]}])
def test_json_that_is_refused(value):
    content = joint_request().to_json() | {"tumour": value}
    with pytest.raises(BadInput):
        GenerateRequest.from_json(content)


# --- what is possible


BALL = 4 / 3 * math.pi * 15**3


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sphericity": 1.01}, "at most 1"),
        ({"sphericity": 0.0}, "above 0"),
        ({"volume_mm3": -5.0}, "less than one voxel"),
        ({"volume_mm3": 79.0}, "less than one voxel, 80 mm3"),
        ({"surface_mm2": 0.0}, "above 0"),
        ({"box_s_mm": 4.0}, "less than one voxel, 5 mm"),
        ({"box_a_mm": 97.0}, "larger than the volume, which has 96 mm"),
        ({"volume_mm3": 7000.0, "box_r_mm": 20.0, "box_a_mm": 20.0, "box_s_mm": 17.0}, "less than the volume"),
        ({"center_r_mm": 33.0}, "outside the volume: the volume ends 32 mm"),
        ({"center_r_mm": -33.0}, "outside the volume"),
        # A full box of 20 mm cannot have its middle 25 mm off: it would end at 35.
        (
            {"volume_mm3": 8000.0, "box_r_mm": 20.0, "box_a_mm": 20.0, "box_s_mm": 20.0, "center_r_mm": 25.0},
            "no room for the tumour",
        ),
        ({"volume_mm3": BALL, "surface_mm2": 0.85 * 4 * math.pi * 225}, "smaller than that of a ball"),
        ({"volume_mm3": BALL, "surface_mm2": 4 * math.pi * 225 / 0.5, "sphericity": 0.9}, "belong to a volume of"),
    ],
)
def test_the_impossible(values, says):
    assert says in impossible(values, EXTENT, VOXEL)
    with pytest.raises(BadInput, match="No tumour is like that"):
        check_asked(values, EXTENT, VOXEL)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"sphericity": 1.0},
        {"volume_mm3": 80.0, "box_r_mm": 4.0, "box_a_mm": 4.0, "box_s_mm": 5.0},
        {"volume_mm3": 8000.0, "box_r_mm": 20.0, "box_a_mm": 20.0, "box_s_mm": 20.0, "center_r_mm": 22.0},
        {"box_r_mm": 64.0, "center_r_mm": 20.0},
        {"volume_mm3": BALL, "surface_mm2": 4 * math.pi * 225, "sphericity": 1.0},
        {"volume_mm3": BALL * 1.1, "surface_mm2": 4 * math.pi * 225, "sphericity": 1.0},  # the mesh holds less
    ],
)
def test_the_possible(values):
    assert impossible(values, EXTENT, VOXEL) is None


def test_what_is_measured_in_any_mask_is_possible():
    """Also of many pieces, at the edge, and full of holes; but for the mesh's volume, which for single voxels is a
    sixth of theirs."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        mask = np.zeros(SHAPE, bool)
        start = [rng.integers(0, n - 6) for n in SHAPE]
        mask[tuple(slice(a, a + rng.integers(1, 6)) for a in start)] = True
        mask &= rng.random(SHAPE) < rng.choice([0.5, 1.0])
        if mask.any():
            found = measure(mask, AFFINE)
            kept = {name: value for name, value in found.items() if name not in ("surface_mm2", "sphericity")}
            assert impossible(kept, EXTENT, VOXEL) is None, found


def test_volume_and_surface_of_a_ball_belong_together():
    assert ball_surface(BALL) == pytest.approx(4 * math.pi * 225)
    assert volume_of(4 * math.pi * 225, 1.0) == pytest.approx(BALL)


def test_beyond_the_training_cases_a_note_names_their_range():
    spec = tiny_characteristics()
    low, high = spec.range[0]
    (note,) = range_notes({"volume_mm3": high * 1.01, "sphericity": np.mean(spec.range[2])}, spec)
    assert note.startswith("volume_mm3") and f"{low:.4g} to {high:.4g}" in note
    assert range_notes({"volume_mm3": high, "box_r_mm": spec.range[6][0]}, spec) == []


# --- what is drawn


def gaussian_spec(correlation: np.ndarray, cases: int = 1_000_000) -> CharacteristicsSpec:
    """Nine normal characteristics, mean 100 + index, deviation 2, with fine quantiles."""
    from scipy.stats import norm

    scores = norm.ppf(np.concatenate([[1e-6], np.linspace(0, 1, 4001)[1:-1], [1 - 1e-6]]))
    quantiles = tuple(tuple(100 + n + 2 * scores) for n in range(9))
    ranges = tuple((q[0], q[-1]) for q in quantiles)
    return CharacteristicsSpec("tumour", (1.0,) * 9, ranges, quantiles, tuple(map(tuple, correlation)), cases)


def random_correlation(seed: int = 5) -> np.ndarray:
    mixing = np.random.default_rng(seed).normal(size=(9, 12))
    covariance = mixing @ mixing.T
    deviation = np.sqrt(np.diag(covariance))
    return covariance / np.outer(deviation, deviation)


def test_the_conditional_normal_is_that_of_the_joint_density():
    """By the block of the precision matrix, which is another way to the same."""
    correlation = random_correlation()
    given, wanted = [1, 4, 8], [0, 2, 3, 5, 6, 7]
    mean, covariance = conditional_normal(correlation, given, [0.5, -1.0, 2.0], wanted)
    precision = np.linalg.inv(correlation)
    block = precision[np.ix_(wanted, wanted)]
    np.testing.assert_allclose(covariance, np.linalg.inv(block), atol=1e-10)
    np.testing.assert_allclose(
        mean, -np.linalg.solve(block, precision[np.ix_(wanted, given)] @ [0.5, -1.0, 2.0]), atol=1e-10
    )


def test_draws_given_others_have_the_closed_form_s_mean_and_covariance():
    """For normal characteristics the copula is the normal distribution itself: E = m + S_wg S_gg^-1 (x - m)."""
    correlation = random_correlation()
    spec, generator = gaussian_spec(correlation), np.random.default_rng(1)
    known = {"surface_mm2": 103.0, "center_a_mm": 102.0}  # means 101 and 104
    wanted = [n for n in NAMES if n not in known]
    rows = np.array([list(draw_missing(spec, known, wanted, generator).values()) for _ in range(6000)])
    g, w = [1, 4], [NAMES.index(n) for n in wanted]
    covariance = 4 * correlation
    weights = covariance[np.ix_(w, g)] @ np.linalg.inv(covariance[np.ix_(g, g)])
    mean = 100 + np.array(w) + weights @ [2.0, -2.0]
    np.testing.assert_allclose(rows.mean(0), mean, atol=0.12)  # 2 / sqrt(6000) = 0.026, and quantiles
    closed = covariance[np.ix_(w, w)] - weights @ covariance[np.ix_(g, w)]
    np.testing.assert_allclose(np.cov(rows.T), closed, atol=0.3)


def test_quantiles_come_back_when_nothing_is_asked():
    spec = tiny_characteristics()
    generator = np.random.default_rng(2)
    rows = np.array([list(draw_missing(spec, {}, NAMES, generator).values()) for _ in range(4000)])
    for column, quantiles in zip(rows.T, spec.quantiles):
        spread = quantiles[-1] - quantiles[0]
        np.testing.assert_allclose(np.quantile(column, np.linspace(0, 1, 21)), quantiles, atol=0.06 * spread)
        assert quantiles[0] <= column.min() and column.max() <= quantiles[-1]


def test_scores_and_values_are_inverse_and_stay_a_hair_inside():
    spec = tiny_characteristics()
    for index, quantiles in enumerate(spec.quantiles):
        for value in np.linspace(quantiles[1], quantiles[-2], 7):
            assert value_of(score_of(value, spec, index), spec, index) == pytest.approx(value, rel=1e-9)
    edge = 0.5 / spec.cases
    from scipy.stats import norm

    assert score_of(1e9, spec, 0) == pytest.approx(norm.ppf(1 - edge))
    assert score_of(-1e9, spec, 0) == pytest.approx(norm.ppf(edge))
    flat = CharacteristicsSpec("t", (1.0,) * 9, ((5.0, 5.0),) * 9, ((5.0,) * 21,) * 9, tuple(map(tuple, np.eye(9))), 30)
    assert score_of(5.0, flat, 0) == 0.0 and value_of(1.3, flat, 0) == 5.0


ASKED = [
    {},
    {"volume_mm3": 15000.0},
    {"surface_mm2": 4000.0},
    {"sphericity": 0.8},
    {"volume_mm3": 15000.0, "surface_mm2": 4000.0},
    {"surface_mm2": 4000.0, "sphericity": 0.8},
    {"volume_mm3": 15000.0, "sphericity": 0.8},
    {"box_r_mm": 30.0, "box_a_mm": 30.0, "box_s_mm": 30.0},
    {"center_r_mm": 3.0, "center_a_mm": 3.0, "center_s_mm": -3.0, "volume_mm3": 5000.0},
]


@pytest.mark.parametrize("asked", ASKED)
def test_a_drawn_tumour_keeps_what_is_asked_is_possible_and_of_one_shape(asked):
    spec = tiny_characteristics()
    for seed in range(20):
        tumour = draw_tumour(asked, spec, seed, EXTENT, VOXEL)
        used = dict(zip(NAMES, tumour.used))
        assert tumour == draw_tumour(asked, spec, seed, EXTENT, VOXEL)
        assert asked.items() <= used.items() and set(tumour.drawn) == set(NAMES) - set(asked)
        assert impossible(used, EXTENT, VOXEL) is None
        # Two give the third.
        assert volume_of(used["surface_mm2"], used["sphericity"]) == pytest.approx(used["volume_mm3"], rel=1e-4)
        for name, (low, high) in zip(NAMES[3:], spec.range[3:]):
            assert name in asked or low <= used[name] <= high
    assert draw_tumour(asked, spec, 1, EXTENT, VOXEL) != draw_tumour(asked, spec, 2, EXTENT, VOXEL)


def test_a_larger_volume_brings_a_larger_box():
    spec = tiny_characteristics()

    def sides(volume: float) -> float:
        drawn = [draw_tumour({"volume_mm3": volume}, spec, seed, EXTENT, VOXEL).used[6:] for seed in range(60)]
        return float(np.prod(drawn, axis=1).mean())

    small, large = sides(spec.quantiles[0][3]), sides(spec.quantiles[0][17])
    assert large > 1.5 * small


def test_a_drawn_tumour_does_not_fill_its_box_unless_it_is_asked_to():
    """Training's ellipsoids fill about pi / 6 = 0.52 of their boxes."""
    spec = tiny_characteristics()

    def filled(asked: dict[str, float]) -> np.ndarray:
        used = np.array([draw_tumour(asked, spec, seed, EXTENT, VOXEL).used for seed in range(80)])
        return used[:, 0] / (used[:, 6:] + VOXEL).prod(1)

    assert filled({}).max() <= math.pi / 6
    cube = {"box_r_mm": 24.0, "box_a_mm": 24.0, "box_s_mm": 25.0, "volume_mm3": 24.0 * 24.0 * 25.0}
    (share,) = set(filled(cube).round(6))  # possible, so made: a block
    assert share > math.pi / 6


def test_what_has_no_partner_is_refused_by_name():
    """The training boxes are far smaller than what half of the volume needs."""
    with pytest.raises(BadInput) as error:
        draw_tumour({"volume_mm3": 250_000.0}, tiny_characteristics(), 0, EXTENT, VOXEL)
    assert "volume_mm3=250000" in error.value.one_line() and "less than the volume" in error.value.one_line()


def test_a_request_and_a_model_have_the_same_names():
    from SynthDiffusionLib.jobs import tumour
    from SynthDiffusionLib.models import characteristics

    assert tumour.NAMES == characteristics.NAMES
