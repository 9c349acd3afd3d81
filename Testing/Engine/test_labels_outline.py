"""The outline of the body that is added where none is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from SynthDiffusionLib.labels import map_to_model
from SynthDiffusionLib.labels.outline import add_outline, axial_axis, outline_of_drawing, outline_of_image
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, read_segmentation, read_volume

ABDOMEN = Path(__file__).resolve().parents[3] / "shared/data/inputs/abdomen/abdomen_pelvis_ct_3mm"
BODY = 200


def mapped(array, affine=None, names=None):
    names = names or {1: "liver", 2: "left kidney"}
    segments = tuple(Segment(name, value) for value, name in names.items())
    return map_to_model(
        Segmentation((array,), np.eye(4) if affine is None else affine, segments), load_scheme("maisi-ct")
    )


def two_organs():
    array = np.zeros((40, 36, 20), np.uint8)
    array[10:14, 12:20, 5:15] = 1
    array[24:30, 14:18, 5:8] = 2
    return array


def test_the_body_is_added_around_the_organs_and_never_over_them():
    before = mapped(two_organs())
    after, notes = add_outline(before, margin_mm=3)
    assert after.given == ("liver", "left kidney")  # a guess is not drawn: nothing beyond it is known to be air
    assert np.array_equal(after.class_map[before.class_map != 0], before.class_map[before.class_map != 0])
    assert set(np.unique(after.class_map)) == {0, 1, 14, BODY}
    assert after.class_map[18, 16, 6] == BODY  # between the two
    assert after.class_map[7, 16, 10] == BODY
    assert after.class_map[5, 16, 10] == 0  # beyond the margin
    assert len(notes) == 1
    assert "'body' is not drawn" in notes[0]
    assert "guess" in notes[0]


def test_a_drawn_body_is_left_alone():
    array = two_organs()
    array[4:30, 4:30, 2:18][array[4:30, 4:30, 2:18] == 0] = 3
    before = mapped(array, names={1: "liver", 2: "left kidney", 3: "body"})
    after, notes = add_outline(before)
    assert after is before
    assert notes == []


def test_a_drawn_shell_is_filled():
    array = two_organs()
    array[4:30, 4:30, 2:18][array[4:30, 4:30, 2:18] == 0] = 3
    whole = array.copy()
    array[6:28, 6:28, 2:18][array[6:28, 6:28, 2:18] == 3] = 0
    names = {1: "liver", 2: "left kidney", 3: "body"}
    after, notes = add_outline(mapped(array, names=names))
    assert np.array_equal(after.class_map, mapped(whole, names=names).class_map)
    assert after.given == ("body", "liver", "left kidney")
    assert "Holes in 'body' were filled" in notes[0]


def test_a_part_of_the_body_is_not_taken_for_the_whole_without_a_warning():
    array = two_organs()
    array[1:3, 1:30, 2:18] = 3  # an arm, say
    _, notes = add_outline(mapped(array, names={1: "liver", 2: "left kidney", 3: "body"}))
    assert "becomes air" in notes[-1]
    assert "Leave 'body' out of the drawing" in notes[-1]


def test_a_scheme_without_an_outline_is_left_alone():
    array = np.zeros((9, 9, 9), np.uint8)
    array[4, 4, 4] = 1
    segmentation = Segmentation((array,), np.eye(4), (Segment("nodule", 1),))
    before = map_to_model(segmentation, load_scheme("lung-nodule-ct"))
    assert add_outline(before) == (before, [])


def test_one_voxel_becomes_a_disc_of_the_margins_area():
    drawn = np.zeros((81, 81, 5), bool)
    drawn[40, 40, 2] = True
    outline = outline_of_drawing(drawn, np.ones(3), 2, margin_mm=30.0)
    # A square of 1 mm widened by r: 1 + 4 r + pi r^2.
    assert outline[:, :, 2].sum() == pytest.approx(1 + 4 * 30 + np.pi * 900, rel=0.01)


def test_the_hull_agrees_with_scipys():
    from scipy.spatial import Delaunay

    drawn = np.zeros((30, 40, 1), bool)
    drawn[tuple(np.random.default_rng(1).integers(5, 25, (2, 12)))] = True
    outline = outline_of_drawing(drawn, np.array([1.0, 0.7, 2.0]), 2, margin_mm=0.0)[:, :, 0]
    points = np.argwhere(drawn[:, :, 0])
    corners = np.concatenate([points + [dr, dc] for dr in (-0.5, 0.5) for dc in (-0.5, 0.5)]) * [1.0, 0.7]
    pixels = np.argwhere(np.ones((30, 40))) * [1.0, 0.7]
    hull = (Delaunay(corners).find_simplex(pixels) >= 0).reshape(30, 40)
    assert outline[hull].all()
    assert (outline & ~hull).sum() <= 0.04 * hull.sum()  # 64 directions


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_run_along_the_patients_long_axis(axis):
    order = {0: (2, 0, 1), 1: (0, 2, 1), 2: (0, 1, 2)}[axis]
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, np.argsort(order)] if axis != 2 else np.eye(3)
    affine[:3, :3] = 0
    for array_axis, world in enumerate(order):
        affine[world, array_axis] = -1.0
    assert axial_axis(affine) == axis
    straight, _ = add_outline(mapped(two_organs(), np.diag([-1.0, -1.0, -1.0, 1.0])), margin_mm=4)
    turned, _ = add_outline(mapped(np.ascontiguousarray(two_organs().transpose(order)), affine), margin_mm=4)
    assert np.array_equal(turned.class_map, straight.class_map.transpose(order))


def test_slices_in_between_are_blended_and_the_ends_go_on_for_the_margin():
    drawn = np.zeros((40, 40, 30), bool)
    drawn[15:25, 15:25, 5] = True
    drawn[10:30, 10:30, 15] = True
    outline = outline_of_drawing(drawn, np.ones(3), 2, margin_mm=4.0)
    areas = outline.sum(axis=(0, 1))
    assert list(np.flatnonzero(areas)) == list(range(1, 20))
    assert areas[5] < areas[10] < areas[15]
    assert outline[10:30, 20, 10].sum() > 20 - 1


def test_the_outline_stays_within_a_cropped_grid():
    array = np.zeros((12, 12, 6), np.uint8)
    array[0:12, 2:12, :] = 1
    after, _ = add_outline(mapped(array, names={1: "liver"}))
    assert after.class_map.shape == (12, 12, 6)
    assert (after.class_map != 0).all()


def test_an_image_shows_the_body_without_the_table_and_with_the_lungs():
    image = np.full((60, 60, 12), -1000.0)
    image[15:45, 15:40] = 40  # trunk
    image[20:28, 20:35] = -850  # lung
    image[5:55, 48:49] = 200  # table, thinner than 4 mm
    body = outline_of_image(image, np.ones(3), 2)
    truth = np.zeros(image.shape, bool)
    truth[15:45, 15:40] = True
    assert not (body & ~truth).any()
    assert (truth & ~body).sum() <= 4 * 12  # the four sharp edges
    array = np.zeros(image.shape, np.uint8)
    array[30:35, 20:30, 3:9] = 1
    after, notes = add_outline(mapped(array, names={1: "liver"}), Volume(image, np.eye(4), "HU"))
    assert np.array_equal(after.class_map != 0, body)
    assert "image" in notes[0]
    assert "guess" not in notes[0]


def test_on_a_real_abdomen_the_guess_is_near_the_bodys_own_outline():
    if not ABDOMEN.is_dir():
        pytest.skip(f"the abdomen CT is not in {ABDOMEN}")
    drawn = read_segmentation(ABDOMEN / "example_seg_fast_force_split.nii.gz")
    image = read_volume(ABDOMEN / "example_ct.nii.gz")
    axis = axial_axis(drawn.affine)
    body = outline_of_image(image.array, image.spacing, axis)
    guess = outline_of_drawing(drawn.layers[0] > 0, drawn.spacing, axis)
    dice = 2 * (body & guess).sum() / (body.sum() + guess.sum())
    print(f"Dice of the guessed outline with the one of the CT: {dice:.3f}")
    assert dice > 0.9  # 0.927 when this was written; organs without a margin: 0.79
    assert (drawn.layers[0] > 0)[~body].mean() == 0
