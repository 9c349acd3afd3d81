"""On which grid a model works: fixed spacing, or the segmentation's own within rules. No network is needed for that."""

from __future__ import annotations

import numpy as np
import pytest

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs import GenerateRequest
from SynthDiffusionLib.jobs.grids import choose_grid, unconditional_grid
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.models.grid_rules import GridRules
from SynthDiffusionLib.models.presets import load_preset
from SynthDiffusionLib.volumes import Volume, axis_codes, resample_to, spacing_of, voxel_positions

MAISI = load_preset("maisi-rflow")
LUNA = load_preset("medlord-x8")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def drawing(shape, spacing) -> Volume:
    classes = np.zeros(shape, np.uint8)
    classes[tuple(slice(n // 4, -(n // 4)) for n in shape)] = 1
    affine = LPS @ np.diag([*spacing, 1.0])
    affine[:3, 3] = (31.0, -12.5, 400.0)
    return Volume(classes, affine, "label")


def request(**changes) -> GenerateRequest:
    return GenerateRequest(**{"segmentation": "drawn.nii.gz", "model": "maisi", "out": "out"} | changes)


def test_a_grid_that_the_rules_allow_is_kept():
    volume = drawing((256, 256, 128), (1.5, 1.5, 2.0))
    chosen = choose_grid(request(), MAISI, volume, ("liver",))
    assert (chosen.shape, chosen.cropped, chosen.notes) == ((256, 256, 128), False, [])
    np.testing.assert_allclose(chosen.affine, volume.affine)


def test_another_grid_is_refused_with_the_nearest_one():
    with pytest.raises(BadInput) as caught:
        choose_grid(request(), MAISI, drawing((200, 180, 90), (2.0, 2.0, 3.0)), ("liver",))
    text = caught.value.one_line()
    assert "200 x 180 x 90 voxels" in text
    assert "--size nearest" in text
    assert "256 x 256 x 128" in text


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((200, 180, 90), (2.0, 2.0, 3.0)), ((330, 260, 300), (0.9, 0.9, 1.5)), ((64, 64, 79), (4.1, 4.1, 4.1))],
)
def test_the_nearest_grid_covers_the_drawing_and_leads_back_to_its_voxels(shape, spacing):
    volume = drawing(shape, spacing)
    chosen = choose_grid(request(size="nearest"), MAISI, volume, ("liver",))
    assert GridRules.from_grid(MAISI.grid).problems(chosen.shape, tuple(spacing_of(chosen.affine))) == []
    assert axis_codes(chosen.affine) == "LPS"
    assert any("brought back" in note for note in chosen.notes)
    centre = voxel_positions(volume.affine, (np.array(shape) - 1) / 2)
    middle = voxel_positions(chosen.affine, (np.array(chosen.shape) - 1) / 2)
    for axis in range(3):  # with the same spacing, voxels lie on voxels, and the middle up to half a voxel beside
        same = np.isclose(spacing_of(chosen.affine)[axis], spacing[axis], rtol=1e-4)
        assert abs(middle - centre)[axis] <= (spacing[axis] / 2 if same else 0.0) + 1e-6
    there = resample_to(volume, chosen.shape, chosen.affine, fill=0)
    back = resample_to(there, shape, volume.affine, fill=0)
    both = 2 * ((back.array > 0) & (volume.array > 0)).sum() / ((back.array > 0).sum() + (volume.array > 0).sum())
    assert both > 0.97


def test_with_the_same_spacing_no_voxel_is_averaged():
    """White noise on the model's grid comes back as it is, whatever sides are odd."""
    volume = drawing((201, 180, 91), (2.0, 2.0, 3.0))
    chosen = choose_grid(request(size=(256, 256, 128), spacing_mm=(2.0, 2.0, 3.0)), MAISI, volume, ("liver",))
    noise = np.random.default_rng(1).normal(size=chosen.shape).astype(np.float32)
    back = resample_to(Volume(noise, chosen.affine, "HU"), volume.shape, volume.affine)
    assert 0.99 < back.array.std() < 1.01


def test_what_is_too_large_for_every_grid_is_cropped_on_demand_only():
    volume = drawing((200, 200, 60), (10.0, 10.0, 5.0))
    with pytest.raises(BadInput, match="at most 1536x1536"):
        choose_grid(request(size="nearest"), MAISI, volume, ("liver",))
    chosen = choose_grid(request(size="nearest", crop=True), MAISI, volume, ("liver",))
    assert chosen.cropped
    assert chosen.part.shape[:2] == (153, 153)


def hippocampus_in_a_head(length: int) -> Volume:
    """The anterior part at the end of a posterior one of so many voxels, far from the border of a large volume."""
    classes = np.zeros((160, 180, 160), np.uint8)
    classes[70:80, 60:70, 80:90] = 1
    classes[70:80, 70 : 70 + length, 80:90] = 2
    return Volume(classes, LPS, "label")


def test_a_crop_keeps_all_that_is_drawn_where_that_fits():
    spec = load_package("hippocampus-mr").spec
    parts = ("anterior hippocampus", "posterior hippocampus")
    drawn = hippocampus_in_a_head(50)
    chosen = choose_grid(request(crop=True), spec, drawn, parts)
    assert chosen.cropped and len(chosen.notes) == 1
    for value in (1, 2):
        assert (chosen.part.array == value).sum() == (drawn.array == value).sum()
    long = choose_grid(request(crop=True), spec, hippocampus_in_a_head(100), parts)
    lost = 1 - (long.part.array == 2).sum() / 10_000
    assert lost == pytest.approx((110 - 64) / 100)  # as little as a box of 64 can: it begins where the drawing does
    assert (long.part.array == 1).sum() == 1000
    assert long.notes[1] == f"{100 * lost:.0f} % of the posterior hippocampus lies outside of that box and is cut off"


def test_a_size_of_ones_own_must_obey_the_rules_too():
    volume = drawing((200, 180, 90), (2.0, 2.0, 3.0))
    chosen = choose_grid(request(size=(256, 256, 128), spacing_mm=(2.0, 2.0, 2.5)), MAISI, volume, ("liver",))
    assert chosen.shape == (256, 256, 128)
    with pytest.raises(BadInput, match="must be 0.5 to 3 mm"):
        choose_grid(request(size=(256, 256, 128), spacing_mm=(4.0, 4.0, 2.5)), MAISI, volume, ("liver",))


def test_a_model_with_a_range_of_spacings_keeps_the_drawings_own():
    volume = drawing((130, 120, 60), (0.8, 0.8, 2.0))
    chosen = choose_grid(request(), LUNA, volume, ("lung",))
    assert chosen.shape == volume.shape
    np.testing.assert_allclose(chosen.affine, volume.affine)
    with pytest.raises(BadInput, match="spacing along z is 7 mm"):
        choose_grid(request(), LUNA, drawing((130, 120, 60), (0.8, 0.8, 7.0)), ("lung",))


def test_a_range_of_spacings_does_not_lift_the_limits_of_the_size():
    with pytest.raises(BadInput, match="at most 512x512x640 mm"):
        choose_grid(request(), LUNA, drawing((520, 64, 64), (1.0, 1.0, 2.5)), ("lung",))
    chosen = choose_grid(request(crop=True), LUNA, drawing((520, 64, 64), (1.0, 1.0, 2.5)), ("lung",))
    assert (chosen.cropped, chosen.shape) == (True, (512, 64, 64))
    with pytest.raises(BadInput, match="513 voxels along an axis, at most 512"):
        choose_grid(request(size=(513, 64, 64)), LUNA, drawing((64, 64, 64), (1.0, 1.0, 2.5)), ("lung",))
    with pytest.raises(BadInput, match="at most 256 are possible"):
        unconditional_grid(request(segmentation=None, mode="unconditional", size=(64, 64, 300)), LUNA)
    with pytest.raises(BadInput, match="at least 128 are needed"):
        unconditional_grid(request(segmentation=None, mode="unconditional", size=(64, 64, 64)), MAISI)


def test_without_a_drawing_the_models_default_or_what_is_asked_for():
    free = {"segmentation": None, "mode": "unconditional"}
    shape, affine = unconditional_grid(request(**free), MAISI)
    assert shape == MAISI.grid.default_size
    np.testing.assert_allclose(spacing_of(affine), MAISI.grid.spacing_mm)
    np.testing.assert_allclose(voxel_positions(affine, (np.array(shape) - 1) / 2), 0.0, atol=1e-9)
    assert axis_codes(affine) == MAISI.grid.orientation
    with pytest.raises(BadInput, match="a side in plane has 100 voxels"):
        unconditional_grid(request(**free, size=(100, 100, 100)), MAISI)
