"""The sizes, spacings and fields of view that MAISI takes, by its published limits, and the nearest allowed grid."""

from __future__ import annotations

import math
import random

import pytest

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.grid_rules import GridRules

CT = GridRules.from_json(
    {
        "in_plane": [256, 384, 512],
        "through_plane": [128, 256, 384, 512, 640, 768],
        "least_field_of_view_mm": 256,
        "least_field_of_view_body_mm": 384,
    },
    [[0.5, 3.0], [0.5, 3.0], [0.5, 5.0]],
)
MR_SIZES = [[n, n, 128] for n in (128, 256, 384, 512)] + [[128, 256, 256], [256, 128, 256], [256, 256, 256]]
MR = GridRules.from_json({"sizes": MR_SIZES}, [[0.4, 5.0]] * 3)


@pytest.mark.parametrize(
    ("size", "spacing"),
    [  # rows of the tables of recommended grids that come with the models
        ((512, 512, 128), (0.781, 0.781, 2.981)),
        ((512, 512, 384), (1.367, 1.367, 4.603)),
        ((256, 256, 256), (1.5, 1.5, 1.5)),
        ((512, 512, 512), (1.0, 1.0, 1.0)),
        ((512, 512, 768), (3.0, 3.0, 5.0)),
    ],
)
def test_recommended_ct_grids_are_allowed(size, spacing):
    assert CT.problems(size, spacing) == []
    assert CT.nearest(size, spacing).size == size
    assert CT.nearest(size, spacing).spacing_mm == spacing
    assert CT.nearest(size, spacing).note == ""


@pytest.mark.parametrize(
    ("size", "spacing", "words"),
    [
        ((512, 384, 128), (1, 1, 1), "512 and 384"),
        ((500, 500, 128), (1, 1, 1), "500 voxels; it must have 256, 384 or 512"),
        ((512, 512, 100), (1, 1, 1), "100 slices"),
        ((512, 512, 128), (1, 1.1, 1), "1 by 1.1 mm"),
        ((512, 512, 128), (3.1, 3.1, 1), "along x is 3.1 mm; it must be 0.5 to 3 mm"),
        ((512, 512, 128), (1, 1, 0.4), "along z is 0.4 mm; it must be 0.5 to 5 mm"),
        ((256, 256, 128), (0.9, 0.9, 1), "230 x 230 mm; it must be at least 256 mm"),
    ],
)
def test_what_is_wrong_is_said_with_numbers(size, spacing, words):
    assert any(words in problem for problem in CT.problems(size, spacing))


def test_a_head_needs_less_room():
    assert CT.problems((256, 256, 128), (1.4, 1.4, 1), head_only=True) == []
    assert CT.advice((256, 256, 128), (1.4, 1.4, 1), head_only=True) == []
    assert "358 mm" in CT.advice((256, 256, 128), (1.4, 1.4, 1))[0]
    assert CT.problems((256, 256, 128), (1.4, 1.4, 1)) == []


@pytest.mark.parametrize("size", MR_SIZES)
def test_mr_sizes(size):
    assert MR.problems(size, (0.4, 1.0, 5.0)) == []


@pytest.mark.parametrize("size", [(128, 128, 256), (256, 512, 128), (512, 512, 256), (256, 256, 64)])
def test_other_mr_sizes_are_refused(size):
    assert len(MR.problems(size, (1.0, 1.0, 1.0))) == 1


def _covers(size, spacing, box):
    return all(n * s >= length * (1 - 1e-4) for n, s, length in zip(size, spacing, box))


@pytest.mark.parametrize("rules", [CT, MR], ids=["ct", "mr"])
def test_nearest_grid_is_allowed_and_covers_whenever_one_can(rules):
    random.seed(4)
    largest = (512 * 3.0, 512 * 3.0, 768 * 5.0)
    for _ in range(400):
        shape = tuple(random.randint(20, 900) for _ in range(3))
        spacing = tuple(math.exp(random.uniform(math.log(0.2), math.log(7))) for _ in range(3))
        if random.random() < 0.5:
            spacing = (spacing[0], spacing[0], spacing[2])
        head = random.random() < 0.3
        box = [n * s for n, s in zip(shape, spacing)]
        found = rules.nearest(shape, spacing, head)
        assert rules.problems(found.size, found.spacing_mm, head) == []
        assert found.covers == _covers(found.size, found.spacing_mm, box)
        if rules is CT:
            possible = all(length <= most for length, most in zip(box, largest))
        else:
            possible = any(_covers(size, (5.0, 5.0, 5.0), box) for size in MR_SIZES)
        assert found.covers == possible
        assert possible or "cut off" in found.note


def test_the_segmentations_spacing_is_kept_where_it_can_be():
    found = CT.nearest((122, 101, 112), (3.0, 3.0, 3.0))
    assert (found.size, found.spacing_mm) == ((256, 256, 128), (3.0, 3.0, 3.0))


def test_two_slices_too_many_do_not_double_the_volume():
    found = CT.nearest((512, 512, 130), (0.78, 0.78, 3.0))
    assert found.size == (512, 512, 128)
    assert found.spacing_mm[2] == pytest.approx(130 * 3.0 / 128, abs=1e-4)


def test_without_rules_every_grid_is_allowed():
    rules = GridRules.from_json(None)
    assert rules.problems((7, 8, 9), (0.1, 20.0, 3.0)) == []
    assert rules.nearest((7, 8, 9), (0.1, 20.0, 3.0)).size == (7, 8, 9)


@pytest.mark.parametrize(
    "rules", [{"in_plain": [256]}, {"in_plane": [256]}, {"in_plane": ["a"], "through_plane": [1]}, {"sizes": [[1, 2]]}]
)
def test_malformed_rules_are_refused(rules):
    with pytest.raises(ModelError):
        GridRules.from_json(rules)
