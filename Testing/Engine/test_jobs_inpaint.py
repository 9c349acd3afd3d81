"""`jobs.run` when it inpaints: what changes lies where it was drawn, and everything else keeps its bits."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from tiny_package import Painter, make_working_package

from SynthDiffusionLib.backends import patch_ddpm
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.inpainting.regions import find_regions
from SynthDiffusionLib.jobs import GenerateRequest, run, runner
from SynthDiffusionLib.schemas import first_problem
from SynthDiffusionLib.volumes import Segment, Segmentation, read_segmentation, write_segmentation, write_volume
from SynthDiffusionLib.volumes.digests import mask_sha256, voxels_sha256
from SynthDiffusionLib.volumes.volume import Volume

BODY, LUNG, BONE, NODULE, REMOVE = 1, 2, 3, 4, 5
MARGIN_MM = 4.0  # of the package
PAINTED_HU = 400.0  # what `Painter` gives a nodule; the rest of what it makes has -1000


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return make_working_package(tmp_path_factory.mktemp("model") / "tiny-ct").folder


@pytest.fixture
def model(package, monkeypatch) -> str:
    """The model, on grids as small as 16 voxels a side."""
    monkeypatch.setattr(patch_ddpm, "SMALLEST_SIDE", 16)
    return str(package)


@pytest.fixture
def painter(package, monkeypatch) -> Painter:
    fake = Painter()
    monkeypatch.setattr(runner, "load_backend", lambda package: fake)
    return fake


@pytest.fixture
def inpaint(package, tmp_path):
    """Writes image and drawing, inpaints, and returns the result with its voxels, changed region and provenance."""

    def call(image: np.ndarray, drawn: np.ndarray, affine=None, model=package, out="out", **settings):
        affine = np.eye(4) if affine is None else affine
        write_volume(Volume(image, affine, "HU"), tmp_path / "ct.nii.gz")
        write_volume(Volume(drawn.astype(np.uint8), affine, "label"), tmp_path / "case.nii.gz")
        request = GenerateRequest(
            tmp_path / "case.nii.gz", str(model), tmp_path / out, "inpaint", tmp_path / "ct.nii.gz", seed=1, **settings
        )
        result = run(request)
        (output,) = result.outputs
        region = read_segmentation(output["region"])
        made = nib.load(output["volume"])
        np.testing.assert_allclose(made.affine, affine, atol=1e-4)
        np.testing.assert_allclose(region.affine, affine, atol=1e-4)
        record = json.loads(output["provenance"].read_text(encoding="utf-8"))
        return result, np.asanyarray(made.dataobj), region.layers[0] > 0, record

    return call


def chest(shape=(44, 40, 36), dtype=np.int16, seed=0) -> np.ndarray:
    """Noise in HU, with values far beyond the model's range on both ends."""
    rng = np.random.default_rng(seed)
    array = rng.normal(-600.0, 150.0, shape)
    array[rng.random(shape) < 0.05] = 3071.25
    array[rng.random(shape) < 0.05] = -2048.5
    return (np.rint(array) if np.issubdtype(dtype, np.integer) else array).astype(dtype)


def ball(shape, centre, radius_mm, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    offsets = (np.stack(np.indices(shape), -1) - centre) * spacing
    return (offsets**2).sum(-1) <= radius_mm**2


def outside_rim(drawn: np.ndarray, spacing=(1.0, 1.0, 1.0), margin=MARGIN_MM) -> np.ndarray:
    """Beyond the margin; where voxels are large, beyond one and a half of them."""
    return ndimage.distance_transform_edt(~drawn, sampling=np.minimum(spacing, margin / 1.5)) > margin


def check_bits(image: np.ndarray, made: np.ndarray, region: np.ndarray, drawn: np.ndarray, spacing=(1, 1, 1)) -> None:
    """What must hold of every inpainted volume."""
    assert made.dtype == image.dtype and made.shape == image.shape
    changed = made != image
    assert not (changed & ~region).any(), "the region file names every voxel that has changed"
    assert not (region & outside_rim(drawn, spacing)).any(), "nothing beyond the rim"
    assert region[drawn].all()
    assert made[~region].tobytes() == image[~region].tobytes()
    assert changed[drawn].mean() > 0.99


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.int32])
def test_voxels_outside_the_margin_keep_their_bits(painter, inpaint, dtype):
    image = chest(dtype=dtype)
    drawn = ball(image.shape, (20, 18, 15), 5)
    result, made, region, record = inpaint(image, np.where(drawn, NODULE, LUNG))
    check_bits(image, made, region, drawn)
    assert (np.abs(image[~region].astype(float)) > 2000).any(), "the image has values beyond the model's range"
    inner = ndimage.binary_erosion(drawn)
    np.testing.assert_allclose(made[inner], PAINTED_HU, atol=1.0)
    assert record["settings"]["margin_mm"] == MARGIN_MM


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16])
def test_numbers_that_cannot_hold_hu_are_refused(painter, inpaint, dtype):
    """CT is often exported as HU + 1024 without a sign: what the model makes would be clipped to it."""
    image = np.clip(chest(dtype=np.int32) // 8 + 128, 0, 127).astype(dtype)
    with pytest.raises(BadInput, match=f"stored as {np.dtype(dtype).name}, which cannot hold -1000 to 400 HU"):
        inpaint(image, np.where(ball(image.shape, (20, 18, 15), 5), NODULE, LUNG))
    assert not painter.conditions


@pytest.mark.parametrize(("offset", "noted"), [(0, False), (1024, True), (5000, True), (-5000, True)])
def test_an_image_that_is_not_in_hu_is_noted(painter, inpaint, offset, noted):
    image = np.random.default_rng(0).normal(-600.0 + offset, 150.0, (44, 40, 36)).astype(np.int16)
    result, *_ = inpaint(image, np.where(ball(image.shape, (20, 18, 15), 5), NODULE, LUNG))
    assert any("check that the image is in HU" in note for note in result.notes) == noted


def test_known_voxels_reach_the_model_unhurt_and_unknown_ones_do_not(painter, inpaint):
    image = chest()
    drawn = ball(image.shape, (20, 18, 15), 5)
    inpaint(image, np.where(drawn, NODULE, LUNG))
    (known,), (condition,) = painter.known, painter.conditions
    where = np.linalg.inv(np.eye(4)) @ condition.affine
    index = np.rint(nib.affines.apply_affine(where, np.argwhere(known.mask))).astype(int)
    assert outside_rim(drawn)[tuple(index.T)].all(), "nothing of the region is given away"
    expected = 2 * (np.clip(image[tuple(index.T)], -1000, 400) + 1000) / 1400 - 1
    np.testing.assert_allclose(known.values[known.mask], expected, atol=1e-4, err_msg="1 mm is not interpolated")
    interior = ~known.mask
    index = np.rint(nib.affines.apply_affine(where, np.argwhere(interior))).astype(int)
    inside = ((index >= 0) & (index < image.shape)).all(1)
    assert not outside_rim(drawn)[tuple(index[inside].T)].any()
    assert known.values.min() == -1.0 and known.values.max() == 1.0, "clipped to the range that the network knows"
    assert not known.replacement


def test_the_picture_shows_before_and_after_around_the_region(painter, inpaint, tmp_path):
    """Four columns: the third has the painted nodule that the second has not, the fourth its border in color."""
    image = np.full((130, 120, 36), -700, np.int16)
    drawn = ball(image.shape, (20, 100, 15), 5)
    result, *_ = inpaint(image, np.where(drawn, NODULE, 0))
    picture = Image.open(result.outputs[0]["contact_sheet"])
    assert "PARTLY SYNTHETIC" in picture.text["Description"] and "patient" in picture.text["Description"]
    pixels = np.asarray(picture)[22:]
    columns = [pixels[:, part].astype(int) for part in np.array_split(np.arange(pixels.shape[1]), 4)]
    white = [(c.min(-1) > 250).sum() for c in columns]
    assert white[1] == 0 < white[2], white
    cyan = [(np.abs(c - (51, 204, 230)).max(-1) == 0).sum() for c in columns]
    assert cyan[:3] == [0, 0, 0] and cyan[3] > 100, cyan


def test_a_nodule_outside_the_image_makes_no_nodule_of_the_rest(painter, package, tmp_path):
    """Within the image only label 1 is left. It stays body, and is not "the only label"."""
    drawn = np.ones((40, 40, 40), np.uint8)
    drawn[4:9, 4:9, 4:9] = NODULE
    affine = np.eye(4)
    affine[:3, 3] = 25
    write_volume(Volume(drawn, np.eye(4), "label"), tmp_path / "case.nii.gz")
    write_volume(Volume(chest((12, 12, 12)), affine, "HU"), tmp_path / "ct.nii.gz")
    with pytest.raises(BadInput, match="drawn as nodule does not lie within --image"):
        run(
            GenerateRequest(
                tmp_path / "case.nii.gz", str(package), tmp_path / "out", "inpaint", tmp_path / "ct.nii.gz", seed=1
            )
        )
    assert not painter.conditions


def test_names_and_notice(painter, inpaint):
    image = chest()
    drawn = ball(image.shape, (20, 18, 15), 5)
    result, _, _, record = inpaint(image, np.where(drawn, NODULE, 0))
    stem = "case_tiny-ct_seed1_inpainted"
    (output,) = result.outputs
    assert {k: v.name for k, v in output.items() if k != "seed"} == {
        "volume": f"{stem}.nii.gz",
        "provenance": f"{stem}.json",
        "contact_sheet": f"{stem}.png",
        "region": f"{stem}_region.seg.nrrd",
    }
    assert record["contains_real_patient_pixels"] is True
    for words in ("real patient", "not anonymous", "not for diagnosis", "every split"):
        assert words in record["notice"]
    assert b"PARTLY SYNTHETIC" in nib.load(output["volume"]).header["descrip"].item()
    assert {"segmentation_sha256", "image_sha256"} == set(record["inputs"])


def test_the_record_says_which_image_it_goes_back_to_and_which_region_is_its_own(painter, inpaint, package, tmp_path):
    """Also over a second step, whose image is the first step's volume."""
    image = chest()
    drawn = ball(image.shape, (20, 18, 15), 5)
    result, *_, first = inpaint(image, np.where(drawn, NODULE, 0))
    (output,) = result.outputs
    source = first["source"]
    assert source["key"] == source["voxels_sha256"] == voxels_sha256(Volume(image, np.eye(4)))
    assert source["files"] == [first["inputs"]["image_sha256"]] and not source["image_synthetic"]
    region = read_segmentation(output["region"])
    assert first["masks"] == {"region_sha256": mask_sha256(region.layers[0], region.affine)}
    other = ball(image.shape, (30, 25, 20), 4)
    write_volume(Volume(np.where(other, NODULE, 0).astype(np.uint8), np.eye(4), "label"), tmp_path / "second.nii.gz")
    again = run(GenerateRequest(tmp_path / "second.nii.gz", str(package), tmp_path / "two", "inpaint",
                                output["volume"], seed=2))  # fmt: skip
    second = json.loads(again.outputs[0]["provenance"].read_text(encoding="utf-8"))
    assert second["source"]["key"] == source["key"] and second["source"]["image_synthetic"]
    assert {first["inputs"]["image_sha256"], first["output_sha256"]} <= set(second["source"]["files"])
    assert "synthetic already" in second["notice"]
    assert first_problem(first, "provenance") is None and first_problem(second, "provenance") is None
    output["provenance"].write_text(json.dumps(first | {"modified_after_generation": True}), encoding="utf-8")
    again = run(GenerateRequest(tmp_path / "second.nii.gz", str(package), tmp_path / "three", "inpaint",
                                output["volume"], seed=2))  # fmt: skip
    third = json.loads(again.outputs[0]["provenance"].read_text(encoding="utf-8"))
    assert third["source"]["edited"] == "yes" and not third["source"]["known"]
    assert "--image was edited after it was made: nothing shows whose its voxels are" in third["notes"]
    assert b", EDITED" in nib.load(again.outputs[0]["volume"]).header["descrip"].item()


@pytest.mark.parametrize("method", ["conditioned", "replacement"])
def test_the_real_network_inpaints(model, inpaint, method):
    image = chest((24, 22, 20))
    drawn = ball(image.shape, (11, 12, 9), 3)
    _, made, region, record = inpaint(image, np.where(drawn, NODULE, 0), model=model, inpaint_method=method)
    check_bits(image, made, region, drawn)
    assert -1000 <= made[drawn].min() and made[drawn].max() <= 400
    assert record["settings"]["inpaint_method"] == method


def test_the_methods_differ(model, inpaint):
    image = chest((24, 22, 20))
    drawn = np.where(ball(image.shape, (11, 12, 9), 3), NODULE, 0)
    made = {m: inpaint(image, drawn, model=model, inpaint_method=m, out=m)[1] for m in ("conditioned", "replacement")}
    assert (made["conditioned"] != made["replacement"]).sum() > 50


def test_two_regions_one_after_the_other(painter, inpaint):
    image = chest((80, 40, 36))
    left, right = ball(image.shape, (16, 18, 15), 5), ball(image.shape, (62, 20, 20), 4)
    drawn = left | right
    _, made, region, _ = inpaint(image, np.where(drawn, NODULE, LUNG))
    check_bits(image, made, region, drawn)
    assert len(painter.conditions) == 2 and len(set(painter.seeds)) == 2
    assert ndimage.label(region)[1] == 2
    for part in (left, right):
        assert made[ndimage.binary_erosion(part)] == pytest.approx(PAINTED_HU, abs=1)


def test_regions_whose_rims_touch_are_one(painter, inpaint):
    image = chest((60, 40, 36))
    drawn = ball(image.shape, (22, 18, 15), 3) | ball(image.shape, (38, 18, 15), 3)
    _, made, region, _ = inpaint(image, np.where(drawn, NODULE, LUNG))
    assert len(painter.conditions) == 2, "10 mm between them, two rims of 4 mm"
    check_bits(image, made, region, drawn)
    painter.conditions.clear()
    drawn = ball(image.shape, (24, 18, 15), 3) | ball(image.shape, (36, 18, 15), 3)
    _, made, region, _ = inpaint(image, np.where(drawn, NODULE, LUNG))
    assert len(painter.conditions) == 1, "6 mm between them"
    check_bits(image, made, region, drawn)
    assert ndimage.label(region)[1] == 1


def test_second_region_sees_the_first_one_as_it_is_now(painter, inpaint):
    image = np.full((60, 40, 36), -700, np.int16)
    first, second = ball(image.shape, (20, 18, 15), 4), ball(image.shape, (38, 18, 15), 4)
    inpaint(image, np.where(first | second, NODULE, LUNG))
    before, after = painter.known
    assert (before.values[before.mask] < -0.5).all()
    assert (after.values[after.mask] > 0.9).any(), "the first nodule, painted with 400 HU"


def test_the_first_region_does_not_see_what_the_second_will_replace(painter, inpaint):
    """Its class map shows both nodules already; the image shows none, and is not known where the second will be."""
    image = np.full((60, 40, 36), -700, np.int16)
    first, second = ball(image.shape, (20, 18, 15), 4), ball(image.shape, (38, 18, 15), 4)
    _, made, region, _ = inpaint(image, np.where(first | second, NODULE, LUNG))
    before, after = painter.known
    in_class_map = painter.conditions[0].class_map == NODULE
    assert in_class_map.sum() > 1.2 * first.sum(), "the crop of the first region reaches into the second"
    assert not before.mask[in_class_map].any()
    assert after.mask[painter.conditions[1].class_map == NODULE].any()
    check_bits(image, made, region, first | second)


def test_remove(painter, package, inpaint, tmp_path):
    image = chest()
    drawn = ball(image.shape, (20, 18, 15), 5)
    inpaint(image, np.where(drawn, REMOVE, LUNG), labels={"5": "remove", "2": "lung"})
    (condition,) = painter.conditions
    channels = dict(zip([c.name for c in condition.scheme.condition_classes], condition.channels()))
    assert set(condition.given) == {"lung", "nodule"}
    assert (channels["nodule"] == -1).all(), "the model is told that there is no nodule"
    assert (channels["lung"] == 1).all(), "what was removed leaves no hole in the lung, and the lung goes on outside"

    segmentation = Segmentation((drawn.astype(np.uint8),), np.eye(4), (Segment("remove", 1),))
    write_segmentation(segmentation, tmp_path / "only.seg.nrrd")
    result = run(
        GenerateRequest(
            tmp_path / "only.seg.nrrd", str(package), tmp_path / "o", "inpaint", tmp_path / "ct.nii.gz", seed=1
        )
    )
    made = np.asanyarray(nib.load(result.outputs[0]["volume"]).dataobj)
    region = read_segmentation(result.outputs[0]["region"]).layers[0] > 0
    check_bits(image, made, region, drawn)
    assert painter.conditions[-1].given == ("nodule",)


def test_remove_and_draw_in_one_go(painter, inpaint):
    image = chest((80, 40, 36))
    gone, new = ball(image.shape, (16, 18, 15), 4), ball(image.shape, (62, 20, 20), 4)
    array = np.where(gone, REMOVE, np.where(new, NODULE, LUNG))
    _, made, region, _ = inpaint(image, array, labels={"5": "remove", "4": "nodule", "2": "lung"})
    check_bits(image, made, region, gone | new)
    assert made[ndimage.binary_erosion(new)] == pytest.approx(PAINTED_HU, abs=1)
    assert made[ndimage.binary_erosion(gone)] == pytest.approx(-1000, abs=1)


@pytest.mark.parametrize("corner", [(0, 0, 0), (43, 0, 35), (43, 39, 17)])
def test_region_at_the_border(painter, inpaint, corner):
    image = chest()
    drawn = ball(image.shape, corner, 6)
    _, made, region, _ = inpaint(image, np.where(drawn, NODULE, 0))
    check_bits(image, made, region, drawn)
    assert made[ndimage.binary_erosion(drawn)] == pytest.approx(PAINTED_HU, abs=1)
    known, condition = painter.known[0], painter.conditions[0]
    index = nib.affines.apply_affine(condition.affine, np.stack(np.indices(known.mask.shape), -1))
    outside = ((index < -0.5) | (index > np.array(image.shape) - 0.5)).any(-1)
    assert outside.any() and not known.mask[outside].any(), "nothing is known outside the image"


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SLA", "IPR"])
def test_coarse_oblique_image(painter, inpaint, codes, oblique_affine):
    spacing = (4.1, 3.2, 4.6)
    affine = oblique_affine(codes, spacing)
    image = chest((24, 28, 22))
    drawn = ball(image.shape, (9, 15, 12), 6.0, spacing)
    result, made, region, _ = inpaint(image, np.where(drawn, NODULE, LUNG), affine)
    check_bits(image, made, region, drawn, spacing)
    condition = painter.conditions[0]
    assert nib.aff2axcodes(condition.affine) == ("L", "P", "S")
    np.testing.assert_allclose(nib.affines.voxel_sizes(condition.affine), 1.0, atol=1e-6)
    inside = nib.affines.apply_affine(condition.affine, np.argwhere(condition.class_map == NODULE))
    expected = nib.affines.apply_affine(affine, np.argwhere(drawn))
    assert np.linalg.norm(inside.mean(0) - expected.mean(0)) < 0.7
    placed = made > -300
    placed &= region
    assert 2 * (placed & drawn).sum() / (placed.sum() + drawn.sum()) > 0.85
    beside = ndimage.binary_dilation(drawn) & ~drawn
    assert region[beside].all(), "a drawing in a coarse image has a rim too"
    assert any("coarse beside the margin of 4 mm" in note for note in result.notes)


def test_the_rim_blends_into_unclipped_values(painter, inpaint, oblique_affine, monkeypatch):
    """Known voxels beside the rim have a share in it by interpolation. They must come with their own HU, 2500 here, and
    not with the 400 that the network's range ends at."""
    monkeypatch.setattr(painter, "sample", lambda condition, plan, **_: np.ones(condition.shape, np.float32))
    spacing = (1.7, 1.7, 1.7)
    image = np.full((24, 24, 24), 2500, np.int16)
    drawn = ball(image.shape, (12, 12, 12), 6, spacing)
    _, made, region, _ = inpaint(image, np.where(drawn, NODULE, LUNG), oblique_affine("LPS", spacing))
    distance = ndimage.distance_transform_edt(~drawn, sampling=spacing)
    weight = np.clip((MARGIN_MM - distance) / (MARGIN_MM / 2), 0, 1)  # falls to 0 over the outer half of the rim
    rim = (distance > 0) & (weight > 0)
    most = weight * 400 + (1 - weight) * 2500  # if every value in the crop were within the range
    assert rim.any() and (made[rim] > most[rim] + 20).any()
    assert (made[distance > MARGIN_MM] == 2500).all()


@pytest.mark.parametrize("margin", [0.0, 1.5, 6.0])
def test_width_of_the_rim(painter, inpaint, margin):
    image = chest()
    drawn = ball(image.shape, (20, 18, 15), 4)
    _, made, region, record = inpaint(image, np.where(drawn, NODULE, LUNG), margin_mm=margin)
    distance = ndimage.distance_transform_edt(~drawn)
    assert (made != image)[drawn].mean() > 0.99, "the drawing itself always changes"
    assert not region[distance > max(margin, 1.5 if margin else 0)].any()
    if margin:
        assert region[distance <= max(margin / 2, 1)].all()
    assert record["settings"]["margin_mm"] == margin


def test_drawing_thinner_than_a_voxel_of_the_model(painter, inpaint):
    image = chest((60, 60, 60))
    drawn = np.zeros(image.shape, bool)
    drawn[30, 30, 30] = True
    spacing = (0.3, 0.3, 0.3)
    _, made, region, _ = inpaint(image, np.where(drawn, NODULE, 0), np.diag([*spacing, 1.0]))
    check_bits(image, made, region, drawn, spacing)


def test_samples_start_from_the_same_image(painter, package, tmp_path):
    image = chest()
    drawn = ball(image.shape, (20, 18, 15), 5)
    write_volume(Volume(image, np.eye(4)), tmp_path / "ct.nii.gz")
    write_volume(Volume(np.where(drawn, NODULE, 0).astype(np.uint8), np.eye(4), "label"), tmp_path / "case.nii.gz")
    request = GenerateRequest(
        tmp_path / "case.nii.gz", str(package), tmp_path / "out", "inpaint", tmp_path / "ct.nii.gz", seed=4, samples=2
    )
    run(request)
    assert painter.seeds == [4, 5]
    np.testing.assert_array_equal(painter.known[0].values, painter.known[1].values)


def test_drawing_in_another_frame(painter, package, tmp_path, oblique_affine):
    image, affine = chest((30, 30, 30)), oblique_affine("LPS", (1.0, 1.2, 1.4), (10.0, 5.0, -8.0))
    drawn = ball((50, 50, 50), (25, 25, 25), 5)
    centre = nib.affines.apply_affine(affine, (15, 14, 16))
    own = np.eye(4)
    own[:3, 3] = centre - 25
    write_volume(Volume(image, affine), tmp_path / "ct.nii.gz")
    write_volume(Volume(np.where(drawn, NODULE, 0).astype(np.uint8), own, "label"), tmp_path / "case.nii.gz")
    result = run(
        GenerateRequest(
            tmp_path / "case.nii.gz", str(package), tmp_path / "out", "inpaint", tmp_path / "ct.nii.gz", seed=4
        )
    )
    assert "The segmentation was resampled to the grid of --image" in result.notes
    made = nib.load(result.outputs[0]["volume"])
    assert made.shape == image.shape
    placed = (np.asanyarray(made.dataobj) > 300) & (read_segmentation(result.outputs[0]["region"]).layers[0] > 0)
    assert np.linalg.norm(nib.affines.apply_affine(affine, np.argwhere(placed)).mean(0) - centre) < 0.7


def test_small_image_in_a_large_segmentation_overlaps(painter, package, tmp_path):
    """An image that lies between the points at which the overlap of the boxes is sampled."""
    array = np.zeros((250, 60, 60), np.uint8)
    array[108:116] = NODULE
    write_volume(Volume(array, np.diag([4.0, 1.0, 1.0, 1.0]), "label"), tmp_path / "case.nii.gz")
    affine = np.eye(4)
    affine[:3, 3] = (443.0, 20.0, 20.0)
    write_volume(Volume(chest((8, 20, 20)), affine), tmp_path / "ct.nii.gz")
    result = run(
        GenerateRequest(
            tmp_path / "case.nii.gz", str(package), tmp_path / "out", "inpaint", tmp_path / "ct.nii.gz", seed=4
        )
    )
    assert result.outputs[0]["volume"].is_file()


def test_limit_of_the_region(painter, inpaint):
    image = chest((60, 40, 36))
    drawn = np.zeros(image.shape, bool)
    drawn[10:30, 18, 15] = True  # 20 mm, the most that a grid of 40 mm takes with rim and surroundings
    inpaint(image, np.where(drawn, NODULE, 0))
    assert max(painter.conditions[0].shape) <= 40
    drawn[30, 18, 15] = True
    with pytest.raises(BadInput, match="21 x 1 x 1 mm large; this model can inpaint at most 20 mm"):
        inpaint(image, np.where(drawn, NODULE, 0))


def test_regions_partition_the_drawing():
    """Every drawn voxel belongs to exactly one region, and regions never share a voxel that may change."""
    rng = np.random.default_rng(3)
    drawn = np.zeros((70, 50, 40), bool)
    for centre in rng.integers(0, (70, 50, 40), (9, 3)):
        drawn |= ball(drawn.shape, centre, rng.uniform(1, 4))
    regions = find_regions(drawn, (1.0, 1.3, 0.8), 3.0)
    assert len(regions) > 2
    times_drawn, times_changed = np.zeros(drawn.shape, int), np.zeros(drawn.shape, int)
    for region in regions:
        times_drawn[region.box] += region.drawn()
        times_changed[region.box] += region.changed()
        weights = region.blend_weights(3.0)
        assert (weights[region.drawn()] == 1).all() and weights.min() == 0 and (weights[~region.changed()] == 0).all()
    np.testing.assert_array_equal(times_drawn, drawn)
    distance = ndimage.distance_transform_edt(~drawn, sampling=(1.0, 1.3, 0.8))
    np.testing.assert_array_equal(times_changed, distance <= 3.0)


def test_inpainting_what_was_inpainted_does_not_call_the_rest_real(painter, inpaint, package, tmp_path):
    image = chest()
    _, _, _, first = inpaint(image, np.where(ball(image.shape, (20, 18, 15), 5), NODULE, LUNG))
    assert first["notice"].startswith("Partly synthetic") and "Everything outside" in first["notice"]
    (earlier,) = (tmp_path / "out").glob("*_inpainted.nii.gz")
    drawing = tmp_path / "again.nii.gz"
    drawn = np.where(ball(image.shape, (30, 20, 20), 4), NODULE, LUNG).astype(np.uint8)
    write_volume(Volume(drawn, np.eye(4), "label"), drawing)
    request = GenerateRequest(drawing, str(package), tmp_path / "second", "inpaint", earlier, seed=1)
    result = run(request)
    record = json.loads(result.outputs[0]["provenance"].read_text(encoding="utf-8"))
    assert "Everything outside" not in record["notice"] and "synthetic already" in record["notice"]
    assert any("is partly or wholly synthetic itself" in note for note in result.notes)
