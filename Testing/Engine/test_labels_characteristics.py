"""Characteristics of masks: the values that IBSI publishes for its phantom, bodies whose geometry is known, and the
distribution over a set of cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from nibabel.eulerangles import euler2mat
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.stats import multivariate_normal, norm

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.characteristics import fit_distribution, measure, normal_scores, shrunk_correlation
from SynthDiffusionLib.models.characteristics import NAMES, CharacteristicsSpec, characteristics_problems

# The mask of IBSI's digital phantom (theibsi/data_sets, ibsi_1_digital_phantom, by A. Zwanenburg, CC BY 4.0): slices
# along z, each with rows along x; voxels of 2 mm.
PHANTOM = np.array(
    [
        ["1111", "1111", "1111", "1111", "1111"],
        ["1101", "1111", "1111", "1111", "1111"],
        ["1111", "1111", "1101", "0111", "0111"],
        ["1111", "1111", "1111", "0111", "0111"],
    ]
)
AXIAL = np.diag([-1.0, -1.0, 1.0, 1.0])


def phantom() -> np.ndarray:
    return np.array([[[c == "1" for c in row] for row in slab] for slab in PHANTOM]).transpose(1, 2, 0)


def test_the_phantom_has_the_values_that_ibsi_publishes():
    """Reference values of the morphological features, with their tolerances: volume (mesh) 556 +- 4, volume (voxel
    counting) 592 +- 4, surface area 388 +- 3, sphericity 0.843 +- 0.005 (arXiv:1612.07003, digital phantom)."""
    mask = phantom()
    assert mask.shape == (5, 4, 4) and mask.sum() == 74
    found = measure(mask, np.diag([-2.0, -2.0, 2.0, 1.0]))
    assert found["volume_mm3"] == 592.0
    assert found["surface_mm2"] == pytest.approx(388, abs=3)
    assert found["sphericity"] == pytest.approx(0.843, abs=0.005)
    mesh_volume = math.sqrt((found["sphericity"] * found["surface_mm2"]) ** 3 / (36 * math.pi))
    assert mesh_volume == pytest.approx(556, abs=4)
    assert [found[f"box_{axis}_mm"] for axis in "ras"] == [10.0, 8.0, 8.0]


@pytest.mark.parametrize("radius", [12.0, 20.0])
def test_a_ball(radius):
    """The mesh of a voxelised ball has steps: its surface is about 8 % too large, however fine the voxels are, and so
    its sphericity 8 % too small. Volumes are right."""
    grid = np.indices((48,) * 3) - np.array([23.5 + 2, 23.5 - 1, 23.5])[:, None, None, None]
    found = measure((grid**2).sum(0) <= radius**2, AXIAL)
    assert found["volume_mm3"] == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.01)
    assert 1.0 < found["surface_mm2"] / (4 * math.pi * radius**2) < 1.12
    assert 0.88 < found["sphericity"] < 1.0
    # LPS: two voxels along L are -2 mm along R, one along A is +1.
    np.testing.assert_allclose([found[n] for n in NAMES[3:6]], [-2.0, 1.0, 0.0], atol=0.05)
    np.testing.assert_allclose([found[n] for n in NAMES[6:]], 2 * radius, atol=1.0)


def test_a_large_box_with_unequal_voxels():
    """Flat faces are exact; marching cubes cuts the edges off at 45 degrees, which costs little of a large box."""
    mask = np.zeros((60, 50, 40), bool)
    mask[10:50, 5:45, 10:30] = True
    found = measure(mask, np.diag([-1.0, -1.5, 3.0, 1.0]))
    sides = (40.0, 60.0, 60.0)
    assert found["volume_mm3"] == math.prod(sides)
    surface = 2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[0] * sides[2])
    assert surface * 0.96 < found["surface_mm2"] < surface
    cube = (36 * math.pi * math.prod(sides) ** 2) ** (1 / 3) / surface
    assert found["sphericity"] == pytest.approx(cube, rel=0.03)
    assert [found[n] for n in NAMES[6:]] == list(sides)
    np.testing.assert_allclose([found[n] for n in NAMES[3:6]], [0.0, 0.0, 0.0], atol=1e-9)


def test_a_single_voxel():
    """Marching cubes makes an octahedron of it, whose corners are half a voxel from its middle."""
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 3, 1] = True
    found = measure(mask, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert found["volume_mm3"] == 8.0
    assert found["surface_mm2"] == pytest.approx(2 * math.sqrt(3) * 2.0, rel=1e-6)  # octahedron of edge sqrt(2)
    assert found["sphericity"] == pytest.approx((36 * math.pi * (4 / 3) ** 2) ** (1 / 3) / (4 * math.sqrt(3)), rel=1e-6)
    assert [found[n] for n in NAMES[3:]] == [-3.0, 3.0, -1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SLA", "ARI"])
def test_the_same_body_in_another_orientation_is_the_same(codes):
    rng = np.random.default_rng(2)
    mask = np.zeros((14, 12, 10), bool)
    mask[2:9, 3:7, 4:9] = rng.random((7, 4, 5)) < 0.7
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [17.0, -40.5, 8.0]  # where the volume lies does not matter: places are from its middle
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    turned = mask.transpose(np.argsort(turn[:, 0]).astype(int))
    for axis, flip in enumerate(turn[np.argsort(turn[:, 0]), 1]):
        turned = np.flip(turned, axis) if flip < 0 else turned
    found = measure(turned, affine @ inv_ornt_aff(turn, mask.shape))
    wanted = measure(mask, affine)
    for name in NAMES:
        assert found[name] == pytest.approx(wanted[name], rel=1e-5, abs=1e-5), name


def test_an_oblique_grid_is_measured_along_its_own_axes():
    mask = phantom()
    straight = np.diag([-2.0, -2.0, 2.0, 1.0])
    oblique = straight.copy()
    oblique[:3, :3] = euler2mat(0.3, 0.2, -0.25) @ straight[:3, :3]
    assert measure(mask, oblique) == pytest.approx(measure(mask, straight), rel=1e-6)


def test_refusals():
    with pytest.raises(BadInput, match="Nothing is marked"):
        measure(np.zeros((4, 4, 4), bool), np.eye(4))
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    with pytest.raises(BadInput, match="right angles"):
        measure(np.ones((4, 4, 4), bool), sheared)
    with pytest.raises(BadInput, match="9 columns"):
        fit_distribution(np.ones((3, 8)), (1, 1, 1))
    with pytest.raises(BadInput, match="not numbers"):
        fit_distribution(np.full((3, 9), np.nan), (1, 1, 1))


def table_of(cases: int, seed: int = 0) -> np.ndarray:
    """Log-normal columns with a known correlation, the last one constant."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(9, 9)) / 3
    table = np.exp(rng.normal(size=(cases, 9)) @ mixing)
    table[:, 2] /= 1 + table[:, 2]  # a sphericity is at most 1
    table[:, 8] = 5.0
    return table


@pytest.mark.parametrize("cases", [1, 2, 5, 25, 400])
def test_the_distribution_is_a_valid_section_and_its_correlation_positive_definite(cases):
    table = table_of(cases)
    spec = fit_distribution(table, (100.0, 120.0, 90.0), "lump")
    assert list(characteristics_problems(spec.to_json(), ["lump"])) == []
    assert CharacteristicsSpec.from_json(spec.to_json()) == spec
    assert np.linalg.eigvalsh(np.array(spec.correlation)).min() > 0.5 * max(1 / (cases + 1), 1e-3)
    assert spec.cases == cases
    np.testing.assert_allclose(spec.scale[:3], [table[:, 0].max(), table[:, 1].max(), 1.0], rtol=1e-5)
    assert spec.scale[3:] == (100.0, 120.0, 90.0, 100.0, 120.0, 90.0)
    assert spec.range[8] == (5.0, 5.0) and spec.correlation[8][:8] == (0.0,) * 8
    for column, quantiles in enumerate(spec.quantiles):
        np.testing.assert_allclose(
            [quantiles[0], quantiles[10], quantiles[20]], np.quantile(table[:, column], [0, 0.5, 1])
        )


def test_copies_are_no_cases():
    """Twelve exact copies of each of 25 cases say what the cases say: the same shrinkage and number, the same range."""
    table = table_of(25)
    alone, copied = (fit_distribution(rows, (100.0,) * 3, cases=25) for rows in (table, np.repeat(table, 12, axis=0)))
    assert alone.cases == copied.cases == 25 and alone.range == copied.range
    unshrunk = np.corrcoef(normal_scores(np.repeat(table, 12, axis=0))[:, :8].T)
    found, own = (np.array(spec.correlation)[:8, :8] for spec in (copied, alone))
    outside = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(found[outside], unshrunk[outside] * (1 - 1 / 26), atol=1e-6)
    np.testing.assert_allclose(found, own, atol=0.02)  # ranks of ties differ a little from those of single cases
    with pytest.raises(BadInput, match="25 rows of characteristics cannot be of 26 cases"):
        fit_distribution(table, (100.0,) * 3, cases=26)


def test_a_correlation_that_is_not_positive_definite_is_told():
    section = fit_distribution(table_of(25), (100.0,) * 3, "lump").to_json()
    for pairs, wrong in (
        ({(0, 1): 0.9, (1, 2): 0.9, (0, 2): -0.9}, True),  # each possible, not all three
        ({(0, 1): 1.0}, True),  # singular
        ({(0, 1): 0.9, (1, 2): 0.9, (0, 2): 0.9}, False),
    ):
        matrix = np.eye(9)
        for (i, j), value in pairs.items():
            matrix[i, j] = matrix[j, i] = value
        found = list(characteristics_problems({**section, "correlation": matrix.tolist()}, ["lump"]))
        assert [("positive definite" in problem) for problem in found] == [True] * wrong
    section["correlation"][0][1] = 0.5
    (found,) = characteristics_problems(section, ["lump"])
    assert "symmetric" in found


@pytest.mark.parametrize(
    ("column", "low", "high", "says"),
    [
        (0, -5.0, -5.0, "volume_mm3 must be above 0"),
        (1, 0.0, 3.0, "surface_mm2 must be above 0"),
        (2, 0.5, 5.0, "sphericity must be at most 1"),
        (2, 0.0, 0.5, "sphericity must be above 0"),
        (7, -1.0, 2.0, "box_a_mm must be above 0"),
        (4, -3.0, -1.0, None),
    ],
)
def test_what_no_body_can_have_is_told(column, low, high, says):
    section = fit_distribution(table_of(25), (100.0,) * 3, "lump").to_json()
    section["range"][column] = [low, high]
    section["quantiles"][column] = np.linspace(low, high, 21).tolist()
    found = list(characteristics_problems(section, ["lump"]))
    assert [says in problem for problem in found] == [True] if says else found == []


def test_a_range_that_is_not_that_of_the_quantiles_is_told():
    section = fit_distribution(table_of(25), (100.0,) * 3, "lump").to_json()
    section["range"][3][1] *= 1.01
    (found,) = characteristics_problems(section, ["lump"])
    assert "'characteristics.range' of center_r_mm" in found and "ends of its quantiles" in found


def test_the_correlation_of_normal_scores_is_that_behind_any_monotone_columns():
    """Scores see ranks only, so that of exp(Gaussian) is the Gaussian's."""
    wanted = np.array([[1.0, 0.8, -0.3], [0.8, 1.0, 0.1], [-0.3, 0.1, 1.0]])
    drawn = multivariate_normal(np.zeros(3), wanted).rvs(20_000, random_state=1)
    np.testing.assert_allclose(shrunk_correlation(normal_scores(np.exp(2 * drawn)), 20_000), wanted, atol=0.02)


def test_normal_scores_are_blind_to_the_order_and_fair_to_ties():
    scores = normal_scores(np.array([[3.0], [1.0], [2.0], [1.0]]))[:, 0]
    np.testing.assert_allclose(scores, norm.ppf([3.5 / 4, 1.0 / 4, 2.5 / 4, 1.0 / 4]))
