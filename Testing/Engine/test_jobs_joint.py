"""The joint mode: what may be asked for, and how the rest is drawn."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_slice_ldm import AFFINE, EXTENT, SHAPE, tiny_characteristics

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs import GenerateRequest, joint
from SynthDiffusionLib.jobs.joint import (
    ball_surface,
    check_asked,
    conditional_normal,
    draw_missing,
    draw_tumour,
    impossible,
    least_distance,
    least_surface,
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
SHAPE_NAMES = ("volume_mm3", "surface_mm2", "sphericity")


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
        ("volume_mm3=much", "is 'much', and needs one number"),
        ("volume_mm3=nan", "a finite one"),
        ("volume_mm3=1e400", "a finite one"),
        ("volume_mm3=2_000", "'2_000', and needs one number"),
        ("volume_mm3=\uff12\uff10", "needs one number"),
        ("volume_mm3=0x10", "'0x10', and needs one number"),
        ("box=box", "'box', and needs three finite numbers"),
        ("box=1xinfx1", "three finite numbers"),
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


@pytest.mark.parametrize(
    "value", [True, "3", None, float("nan"), [1.0, 2.0, 3.0], 10**400, pytest.param(-(10**5000), id="long")]
)
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


def box_of(r: float, a: float, s: float) -> dict[str, float]:
    return {"box_r_mm": r, "box_a_mm": a, "box_s_mm": s}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"volume_mm3": 1e308}, "more than the whole grid's, 491,520 mm3"),
        ({"volume_mm3": 600_000.0}, "more than the whole grid's"),
        ({"surface_mm2": 1e308}, "all voxels of 491,520 mm3 apart"),
        ({"surface_mm2": 1e6}, "all voxels of 491,520 mm3 apart"),
        ({"surface_mm2": 1e200, "sphericity": 0.5}, "all voxels of 491,520 mm3 apart"),
        ({"surface_mm2": 1e9, "volume_mm3": 100_000.0}, "all voxels of 100,000 mm3 apart, 140,000"),
        ({"surface_mm2": 1e6, "volume_mm3": 2000.0}, "all voxels of 2,000 mm3 apart, 2,800 mm2"),
        ({"surface_mm2": 6e5, "sphericity": 1.0}, "more than there is room for"),
        ({"surface_mm2": 40.0, "sphericity": 0.2}, "less than one voxel"),
        ({"surface_mm2": 1e-300}, "less than one voxel's, 32.5 mm2"),
        ({"surface_mm2": 200.0} | box_of(64.0, 96.0, 80.0), "the least of one piece that reaches over the box"),
        ({"sphericity": 1e-9}, "a sphericity of 1e-09 is less than that of all voxels"),
        ({"sphericity": 1e-300}, "less than that of all voxels"),
        ({"sphericity": 1.0000001}, "not 1.0000001"),
        ({"volume_mm3": 79.99}, "a volume of 79.99 mm3 is less than one voxel"),
        ({"center_r_mm": 32.0}, "nearer to the edge than half a voxel"),
        ({"center_r_mm": 30.0} | box_of(20.0, 20.0, 20.0), "no room for the tumour"),
        ({"volume_mm3": 80.0} | box_of(64.0, 96.0, 80.0), "too small for one piece in a box that is 24 voxels long"),
    ],
)
def test_extremes_are_refused_at_once(values, says):
    assert says in impossible(values, EXTENT, VOXEL)


def test_a_ball_does_not_reach_over_a_box_that_is_far_longer():
    values = {"sphericity": 1.0, "volume_mm3": 100.0} | box_of(64.0, 96.0, 80.0)
    assert "more than one piece of 100 mm3 can have that reaches over" in impossible(values, EXTENT, (1.0, 1.0, 1.0))
    assert impossible(values | {"sphericity": 0.5}, EXTENT, (1.0, 1.0, 1.0)) is None


def test_what_is_measured_in_one_piece_has_a_possible_surface():
    """Random walks over faces, edges and corners: thin, branched, diagonal; surface and box of each are possible."""
    rng = np.random.default_rng(8)
    for _ in range(60):
        mask = np.zeros(SHAPE, bool)
        at = np.array([rng.integers(0, n) for n in SHAPE])
        for _ in range(rng.integers(1, 40)):
            mask[tuple(at)] = True
            at = np.clip(at + rng.integers(-1, 2, 3), 0, np.array(SHAPE) - 1)
        found = measure(mask, AFFINE)
        assert (
            impossible({n: v for n, v in found.items() if n not in ("volume_mm3", "sphericity")}, EXTENT, VOXEL) is None
        )
        assert impossible({n: v for n, v in found.items() if n not in SHAPE_NAMES[1:]}, EXTENT, VOXEL) is None
        sphericity = {"sphericity": found["sphericity"], "volume_mm3": found["volume_mm3"]}
        assert impossible(sphericity, EXTENT, VOXEL) is None
        slabs = [found[n] / step for n, step in zip(NAMES[6:], VOXEL)]
        assert least_surface(slabs, VOXEL) <= found["surface_mm2"] * (1 + 1e-6)
    single = np.zeros(SHAPE, bool)
    single[3, 3, 3] = True
    assert least_surface([1, 1, 1], VOXEL) == pytest.approx(measure(single, AFFINE)["surface_mm2"], rel=1e-5)


def test_the_least_distance_is_that_of_all_arrangements():
    """By trying every number of voxels in each slab, the last slab having at least one."""
    for slabs, per_slab in ((1, 3), (3, 2), (4, 1), (4, 3), (5, 2)):
        least: dict[int, float] = {}
        for counts in itertools.product(range(per_slab + 1), repeat=slabs):
            if counts[0] and counts[-1]:
                mean = sum(c * (n + 0.5) for n, c in enumerate(counts)) / sum(counts)
                least[sum(counts)] = min(mean, least.get(sum(counts), math.inf))
        for voxels, mean in least.items():
            assert least_distance(slabs, per_slab, voxels) == pytest.approx(mean)
        assert least_distance(slabs, per_slab, None) == pytest.approx(min(least.values()))


def test_what_is_measured_in_any_mask_is_possible():
    """Also of many pieces, at the edge, and full of holes; but for the mesh's volume, which for single voxels is a
    sixth of theirs, and for pieces so far apart that they could not be one."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        mask = np.zeros(SHAPE, bool)
        start = [rng.integers(0, n - 6) for n in SHAPE]
        mask[tuple(slice(a, a + rng.integers(1, 6)) for a in start)] = True
        mask &= rng.random(SHAPE) < rng.choice([0.5, 1.0])
        if mask.any():
            found = measure(mask, AFFINE)
            kept = {name: value for name, value in found.items() if name not in ("surface_mm2", "sphericity")}
            why = impossible(kept, EXTENT, VOXEL)
            assert why is None or "too small for one piece" in why, found


def test_volume_and_surface_of_a_ball_belong_together():
    assert ball_surface(BALL) == pytest.approx(4 * math.pi * 225)
    assert volume_of(4 * math.pi * 225, 1.0) == pytest.approx(BALL)


def test_beyond_the_training_cases_a_note_names_their_range():
    spec = tiny_characteristics()
    low, high = spec.range[0]
    (note,) = range_notes({"volume_mm3": high * 1.01, "center_r_mm": np.mean(spec.range[3])}, spec)
    assert note.startswith("volume_mm3") and f"{low:,.0f} to {high:,.0f}" in note
    assert range_notes({"volume_mm3": high, "box_r_mm": spec.range[6][1]}, spec) == []


def test_a_third_that_follows_from_two_has_its_note_too():
    spec = tiny_characteristics()
    (note,) = range_notes({"volume_mm3": 15000.0, "surface_mm2": 5800.0}, spec)  # each is within its range
    assert note.startswith(f"sphericity = {ball_surface(15000.0) / 5800:.3g} lies")
    assert "follows from the other two" in note
    first, last = range_notes({"volume_mm3": 15000.0, "sphericity": 0.3}, spec)
    assert first.startswith("sphericity = 0.3") and last.startswith("surface_mm2 = ")


def test_what_no_training_case_has_together_is_noted():
    """A large volume in the smallest box: each is within its range. What the model draws itself is never noted."""
    spec = tiny_characteristics()
    ends = {"volume_mm3": spec.range[0][1], **{n: spec.range[NAMES.index(n)][0] for n in NAMES[6:]}}
    (note,) = range_notes(ends, spec)
    assert "taken together, far from any training case" in note
    drawn = [dict(zip(NAMES, draw_tumour({}, spec, seed, EXTENT, VOXEL).used)) for seed in range(60)]
    for used in drawn:
        for names in (NAMES[:2], (NAMES[0], *NAMES[6:]), NAMES[3:]):
            assert not any("together" in note for note in range_notes({n: used[n] for n in names}, spec))


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
    rows = np.stack(list(draw_missing(spec, known, wanted, generator.standard_normal((6000, 7))).values()), 1)
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
    rows = np.stack(list(draw_missing(spec, {}, NAMES, generator.standard_normal((4000, 9))).values()), 1)
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


@pytest.mark.parametrize("asked", [{"volume_mm3": 491_520.0}, box_of(4.0, 4.0, 5.0), {"volume_mm3": 250_000.0}])
def test_all_tries_take_less_than_a_second(asked):
    check_asked(asked, EXTENT, VOXEL)
    began = time.process_time()
    with pytest.raises(BadInput, match="In 4000 draws nothing was found"):
        draw_tumour(asked, tiny_characteristics(), 0, EXTENT, VOXEL)
    assert time.process_time() - began < 1


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    spec = tiny_characteristics()
    wanted = [draw_tumour({"sphericity": 0.9}, spec, seed, EXTENT, VOXEL) for seed in range(10)]
    monkeypatch.setattr(joint, "FIRST_BATCH", 1)
    assert [draw_tumour({"sphericity": 0.9}, spec, seed, EXTENT, VOXEL) for seed in range(10)] == wanted


def test_a_request_and_a_model_have_the_same_names():
    from SynthDiffusionLib.jobs import tumour
    from SynthDiffusionLib.models import characteristics

    assert tumour.NAMES == characteristics.NAMES
