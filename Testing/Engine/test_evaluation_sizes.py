"""Evaluation of a model of another target on volumes of different sizes: tumours of limbs, no inpainting."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from test_evaluation_samples import Job, write_prepared
from tiny_evaluation import (
    LIMB_BORDER,
    LIMB_RANGE,
    LIMB_SPACING,
    LIMB_VALUES,
    limb_case,
    limb_data,
    phantom_data,
)
from tiny_package import DESCRIPTION, make_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation import adherence, card, fidelity, memorisation, noskill, performance, samples
from SynthDiffusionLib.evaluation.arms import arms_of
from SynthDiffusionLib.evaluation.cases import load_evaluation_data
from SynthDiffusionLib.evaluation.features import volume_features
from SynthDiffusionLib.evaluation.fidelity import measure_fidelity
from SynthDiffusionLib.evaluation.picture_sizes import PIXELS_PER_MM, write_sizes_picture
from SynthDiffusionLib.evaluation.rows import Row, as_evaluated, common_crop, fitted, real_items
from SynthDiffusionLib.evaluation.statistics import Estimate
from SynthDiffusionLib.models import seal_package
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.training.train_segmenter import dice

TUMOUR = LIMB_VALUES["tumour"]


@pytest.fixture(scope="module")
def data():
    return limb_data()


@pytest.fixture(scope="module")
def real(data):
    return real_items(data.evaluated, data.intensity_range)


@pytest.fixture(scope="module")
def statistics(data):
    return noskill.training_statistics(data.training, range(6), TUMOUR, LIMB_RANGE)


def limb_package(folder, split, **changes):
    """A package that says of itself what `limb-tumour-ct` says; its network is never loaded."""
    make_package(folder)
    scheme = json.loads(resource_path("LabelSchemes", "limb-tumour-ct.json").read_text(encoding="utf-8"))
    description = {k: v for k, v in copy.deepcopy(DESCRIPTION).items() if k not in ("inpaint", "segmenter")} | {
        "id": "tiny-limb",
        "name": "Tiny limb CT",
        "body_part": "limb",
        "target_class": "tumour",
        "modes": ["whole"],
        "intensity": {"unit": "HU", "range": list(LIMB_RANGE)},
        "grid": DESCRIPTION["grid"] | {"spacing_mm": list(LIMB_SPACING), "min_size": [1, 1, 1]},
        "label_scheme": scheme,
        "training": {"dataset": "phantoms", "license": "CC BY 3.0", "citation": "Vallières 2015", "split": split},
        "measured": {"quality": {}, "performance": {}},
    }
    return seal_package(folder, description | changes, {"denoiser.safetensors": "denoiser", "MODEL_CARD.md": "card"})


def discriminated(real, synthetic, recipe, intensity_range, *, repeats):
    """Stands for the networks, which have tests of their own: all that they get is of one size, and real and synthetic
    volumes are of the same patients, so that folds are."""
    assert len({item.hu.shape for item in (*real, *synthetic)}) == 1
    assert {item.patient for item in synthetic} <= {item.patient for item in real}
    return SimpleNamespace(auc=Estimate(0.75, 0.5, 1.0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with prepared limbs, a package, samples, and the outputs of `evaluate card`."""
    folder = tmp_path_factory.mktemp("limb")
    prepared = write_prepared(folder / "prepared", (8, 5, 5), limb_case, LIMB_VALUES, "tumour", list(LIMB_SPACING))
    split = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))["split"]
    package = limb_package(folder / "tiny-limb", split)
    limbs = load_evaluation_data(prepared, package.spec)
    job = Job()
    samples.make_samples(package, limbs, folder / "samples", run=job)
    patch = pytest.MonkeyPatch()
    patch.setattr(adherence, "package_segmenter", lambda package: lambda hu: (hu > 100.0) & (hu < 300.0))
    patch.setattr(memorisation, "CORES_VOXELS", {"whole": 10, "region": 8})
    patch.setattr(fidelity, "discriminate", discriminated)
    code = cli.main(
        ["evaluate", "card", "--model", str(package.folder), "--data", str(prepared), "--samples"]
        + [str(folder / "samples"), "--out", str(folder / "results"), "--auc-steps", "1"]
    )
    patch.undo()
    assert code == 0
    return folder, package, job, card.read_results(folder / "results")


def test_the_arms_are_named_after_the_target_and_leave_out_what_the_model_cannot(made):
    folder, package, job, _ = made
    assert arms_of(package.spec) == ("tumour", "anatomy", "moved")
    assert {r.out.name for r in job.requests} == set(arms_of(package.spec))
    assert all(r.mode == "whole" and r.image is None and r.condition_scale is None for r in job.requests)
    assert {r.classes for r in job.requests if r.out.name == "tumour"} == {("tumour",)}
    assert {r.classes for r in job.requests if r.out.name == "anatomy"} == {None}
    index = json.loads((folder / "samples" / "samples.json").read_text(encoding="utf-8"))
    assert not index["skipped"] and "condition_scale" not in index["settings"]
    with pytest.raises(BadInput, match="'inpainting' is no arm"):
        samples.make_samples(package, limb_data(), folder / "no", samples.Settings(("inpainting",)), run=Job())


def test_every_row_is_there_and_every_table_has_no_skill_rows(made):
    _, _, _, results = made
    blind = {"ball", "ellipsoid"}
    images = {"unrelated_real", "class_means_noise", "blob_flat_muscle", "painted_training"}
    found = {kind: [r["row"] for r in result["rows"]] for kind, result in results.items()}
    moved = {f"{name}_moved" for name in blind}
    assert set(found["adherence"]) == blind | images | moved | {"real", "real_shifted", "tumour", "anatomy", "moved"}
    assert set(found["fidelity"]) == images | {"real_reference", "tumour", "anatomy"}
    assert set(found["memorisation"]) == {"reference", "copies", "copies_warped", "tumour", "anatomy"}
    assert {r["view"] for r in results["fidelity"]["rows"]} == {"crop"}
    assert {r["view"] for r in results["memorisation"]["rows"]} == {"crop", "region"}
    assert all(r["auc"].keys() == {"features", "large", "small"} for r in results["fidelity"]["rows"])
    for kind in ("fidelity", "memorisation"):
        assert len(results[kind]["settings"]["crop"]) == 3 and "crop" in results[kind]["definitions"]
    rivals = results["adherence"]["verdicts"]
    assert set(rivals["moved"]["against_no_skill"]) == images | moved
    assert set(rivals["tumour"]["against_no_skill"]) == images | blind


def test_the_card_speaks_of_the_target_and_of_nothing_else(made):
    folder, _, _, results = made
    text = (folder / "results" / "MODEL_CARD.md").read_text(encoding="utf-8")
    console = "\n".join(line for r in results.values() for line in card.card_summary({"x": r}))
    for written in (text, console, json.dumps([r["definitions"] for r in results.values()])):
        for word in ("nodule", "lung", "inpaint", "cube"):
            assert word not in written.lower(), word
    for needed in ("tumour alone", "CC BY 3.0", "Vallières 2015", "exactly one annotated tumour", "beyond the tumour"):
        assert needed in text, needed
    assert "all of them: " in text and " to 29x" not in text.split("## Figures")[1]
    facts = results["adherence"]["data"]["training_facts"]
    assert "x".join(map(str, facts["largest_shape"])) in text and "x".join(map(str, facts["smallest_shape"])) in text


def test_a_test_of_copies_that_has_no_power_is_named(made):
    """Copies that the second test does not suspect are said; where it does, nothing is."""
    _, package, _, results = made
    changed = copy.deepcopy(results)
    for row in changed["memorisation"]["rows"]:
        row["p_nearest"] = 0.11 if (row["row"], row["view"]) == ("copies", "crop") else 0.001
    said = [w for w in card.weaknesses(package.spec, changed) if "second test" in w]
    assert len(said) == 1 and said[0].startswith("Memorisation (crop)") and "p 0.11" in said[0]


def test_lung_and_limb_are_told_apart_by_their_classes_alone(data):
    assert data.ground == "muscle" and phantom_data().ground == "lung"
    assert replace(data, values={"body": 1, "tumour": 5}).ground == "body"


def test_the_command_of_the_card_is_the_one_that_was_run(made):
    _, _, _, results = made
    assert "--arms" not in results["adherence"]["samples"]["command"]
    assert "--condition-scale" not in results["adherence"]["samples"]["command"]


def test_cartoons_do_not_pass_as_a_model(data, real, statistics):
    """A model that paints classes, or the blob: adherence alone lets it through, realism does not."""
    painted = noskill.class_means_noise(real, statistics, LIMB_RANGE, seed=5)
    arms = {"anatomy": Row("anatomy", "anatomy", "ours", painted.items)}
    result = measure_fidelity(data, arms, None, auc_steps=0)
    rows = {r["row"]: r for r in result["rows"]}
    assert rows["anatomy"]["auc"]["features"]["low"] > 0.8
    assert rows["anatomy"]["mmd2"]["value"] > rows["real_reference"]["mmd2"]["value"]
    assert not any(result["verdicts"]["anatomy"].values())
    found = adherence.measure_adherence(data, arms, lambda hu: (hu > 100.0) & (hu < 300.0), None)
    scores = {r["row"]: r["dice_mean"] for r in found["rows"]}
    assert scores["anatomy"] == pytest.approx(scores["class_means_noise"], abs=0.05)
    assert found["settings"]["window"] == adherence.WINDOW


def test_the_ellipsoid_knows_the_size_of_the_volume_and_no_more(data, statistics):
    assert statistics.border_mm == pytest.approx(np.array(LIMB_BORDER) * LIMB_SPACING)
    for case in data.evaluated:
        guess = noskill.ellipsoid(case.image.shape, case.image.affine, statistics)
        drawn = case.classes.array == TUMOUR
        # The phantoms' tumours are such ellipsoids: the guess is right without a look at the image.
        assert dice(guess, drawn) > 0.95
        assert dice(noskill.ball(case.image.shape, case.image.affine, statistics), drawn) < dice(guess, drawn)


def test_the_painted_training_image_is_real_but_for_the_tumour(data, real, statistics):
    row = noskill.painted_training(real, data.training, statistics, TUMOUR, LIMB_RANGE)
    volumes = {c.name: int((c.classes.array == TUMOUR).sum()) for c in data.training}
    for item, case in zip(row.items, data.evaluated):
        mask = case.classes.array == TUMOUR
        assert item.hu.shape == case.image.shape and item.patient == case.patient
        inner = ndimage.binary_erosion(mask, iterations=2)
        if inner.any():
            assert item.hu[inner] == pytest.approx(statistics.mean[TUMOUR], abs=25)
        nearest = min(abs(np.log(v / mask.sum())) for v in volumes.values())
        likely = [c for c in data.training if abs(np.log(volumes[c.name] / mask.sum())) == nearest]
        far = ndimage.distance_transform_edt(~mask) > 5
        there = set(np.unique(item.hu[far])) - {LIMB_RANGE[0]}
        assert there and any(there <= set(np.unique(as_evaluated(c.image.array, LIMB_RANGE))) for c in likely)


@pytest.mark.parametrize("shape", [(5, 9, 4), (8, 8, 8), (11, 3, 6)])
def test_an_array_is_laid_on_another_grid_middle_on_middle(shape):
    array = np.arange(8**3, dtype=np.float32).reshape(8, 8, 8) + 1
    laid = fitted(array, shape, -1.0)
    assert laid.shape == shape and (laid >= 1).sum() == np.prod(np.minimum(shape, 8))
    offset = np.argwhere(laid >= 1)[0] - np.argwhere(array == laid[laid >= 1][0])[0]
    middles = (np.array(shape) - 1) / 2 - 3.5  # half a voxel is given to one side
    assert np.abs(offset - middles).max() <= 0.5
    moved = fitted(array, (8, 8, 8), -1.0, (1, 0, -2))
    assert np.array_equal(moved[1:, :, :-2], array[:-1, :, 2:])
    assert (fitted(array, (8, 8, 8), -1.0, (9, 0, 0)) == -1.0).all()


def test_all_is_compared_at_one_size_with_the_target_in_it(data, real):
    crop = data.crop
    shapes = np.array([c.image.shape for c in [*data.training, *data.others, *data.evaluated]])
    assert all(n <= low and n % 8 == 0 for n, low in zip(crop, shapes.min(0)))
    assert phantom_data().crop is None
    cut = common_crop(Row("real", "", "real", real), TUMOUR, crop)
    for item, before in zip(cut.items, real):
        assert item.hu.shape == crop
        voxel = np.argwhere(item.classes == TUMOUR)[0]
        place = np.rint(np.linalg.inv(before.affine) @ item.affine @ [*voxel, 1])[:3].astype(int)
        assert before.hu[tuple(place)] == item.hu[tuple(voxel)]


def test_shifted_crops_hold_the_target_off_centre(data, real):
    row = adherence.shifted_crops(Row("real", "", "real", real), TUMOUR, data.crop)
    offsets = []
    for item, before in zip(row.items, real):
        voxels = np.argwhere(item.classes == TUMOUR)
        assert item.hu.shape == data.crop and len(voxels) > 0.2 * (before.classes == TUMOUR).sum()
        offsets.append(voxels.mean(0) - (np.array(data.crop) - 1) / 2)
    assert np.std(offsets, axis=0).max() > 1.0


def test_copies_are_found_in_volumes_of_different_sizes(monkeypatch):
    """Muscle with a texture of its own in every patient; a model that gives back training images, mirrored."""

    def textured(number, case):
        classes = np.kron(case.classes.array, np.ones((2, 2, 2), np.uint8))
        rough = ndimage.gaussian_filter(np.random.default_rng([6, number]).standard_normal(classes.shape), 1.5)
        hu = np.rint(20 + 60 * rough / rough.std()).astype(np.int16)
        return replace(case, image=case.image.with_array(hu), classes=case.classes.with_array(classes))

    plain = limb_data(train=12, validation=8, test=8)
    numbers = iter(range(28))
    parts = {k: [textured(next(numbers), c) for c in getattr(plain, k)] for k in ("training", "others", "evaluated")}
    data = replace(plain, **parts)
    monkeypatch.setattr(memorisation, "CORES_VOXELS", {"whole": 16, "region": 10})
    monkeypatch.setattr(memorisation, "CONTROL_SHIFT", (2, -2, 1))
    test, training = real_items(data.evaluated, LIMB_RANGE), real_items(data.training, LIMB_RANGE)
    turned = [np.ascontiguousarray(np.flip(item.hu, n % 3)) for n, item in enumerate(training)]
    copied = tuple(replace(t, hu=fitted(c, t.hu.shape, -1000.0)) for t, c in zip(test, turned))
    arms = {
        "tumour": Row("tumour", "tumour alone", "ours", copied),
        "anatomy": Row("anatomy", "tumour and coarse anatomy", "ours", test),
    }
    result = memorisation.measure_memorisation(data, arms)
    rows = {(r["row"], r["view"]): r for r in result["rows"]}
    assert rows["copies", "crop"]["suspected"] and rows["tumour", "crop"]["suspected"]
    assert not rows["anatomy", "crop"]["suspected"]
    own = [v for v in result["per_volume"] if v["row"] == "tumour" and v["view"] == "crop"]
    assert sum(v["nearest"] == item.case for v, item in zip(own, training)) >= 7
    assert len(result["settings"]["core_mm_crop"]) == 3 and result["settings"]["clipped_to"] == [-150.0, 100.0]


def test_features_of_a_limb_tell_fat_from_muscle_and_air(real):
    mask = real[0].classes == TUMOUR
    found = volume_features(real[0].hu, mask, LIMB_RANGE, "tumour", "muscle")
    assert {"tumour mean", "tumour edge", "fat fraction", "air fraction", "dense mean"} <= set(found)
    assert not any("lung" in name or "nodule" in name for name in found)
    assert found["fat fraction"] + found["soft tissue fraction"] + found["dense fraction"] + found["air fraction"] <= 1
    assert found["fat mean"] < 0 < found["soft tissue mean"]


def test_bones_that_all_patients_have_are_not_taken_for_copies(data):
    assert memorisation._clipped_to(data) == memorisation.MUSCLE_HU
    lung = phantom_data()
    assert memorisation._clipped_to(lung) == lung.intensity_range
    bone = np.where(np.indices((24, 24, 24))[0] > 12, 700.0, 50.0)
    flat = memorisation.reduce(bone, memorisation.MUSCLE_HU)
    assert np.ptp(flat) < np.ptp(memorisation.reduce(bone - 600.0, memorisation.MUSCLE_HU))


def test_the_picture_keeps_the_proportions_in_mm(real, tmp_path):
    path = tmp_path / "picture.png"
    arms = {"tumour": Row("tumour", "tumour alone", "ours", real[:-1]), "moved": Row("moved", "", "ours", real)}
    shown = write_sizes_picture(path, real, arms, TUMOUR)
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert len(shown) == len(real)
    ends = [max(i.hu.shape[a] for i in real) * LIMB_SPACING[a] * PIXELS_PER_MM for a in range(3)]
    assert picture.shape[0] > 2 * (ends[1] - 1) + 2 * (ends[2] - 1)
    assert picture.shape[1] > sum(round(i.hu.shape[0] * LIMB_SPACING[0] * PIXELS_PER_MM) for i in real)
    with pytest.raises(ValueError):
        write_sizes_picture(path, [], arms, TUMOUR)


def test_a_condition_scale_is_asked_for_and_kept_apart(made, tmp_path):
    folder, package, _, _ = made
    limbs = load_evaluation_data(folder / "prepared", package.spec)
    with pytest.raises(BadInput, match="has no condition scale"):
        samples.make_samples(package, limbs, tmp_path / "no", samples.Settings(condition_scale=2.0), run=Job())
    spec = replace(package.spec, controls=replace(package.spec.controls, condition_scale=True))
    scaled = replace(package, spec=spec)
    job = Job()
    twice = samples.Settings(("tumour",), condition_scale=2.0)
    samples.make_samples(scaled, limbs, tmp_path / "twice", twice, run=job)
    assert {r.condition_scale for r in job.requests} == {2.0}
    _, index = samples.load_samples(tmp_path / "twice", scaled, limbs)
    assert index["settings"]["condition_scale"] == 2.0
    with pytest.raises(BadInput, match="another kind: their settings"):
        samples.make_samples(scaled, limbs, tmp_path / "twice", samples.Settings(("tumour",)), run=Job())


def test_performance_is_measured_on_the_models_own_grid(made):
    _, package, _, _ = made
    assert performance.size_of(package.spec) == (51, 51, 51)
    grid = replace(package.spec.grid, min_size=(8, 8, 8), max_size=(256, 256, 64))
    other = replace(package.spec, backend="medlord", grid=grid)
    assert performance.size_of(other) == (128, 128, 64)
    assert performance.size_of(replace(other, grid=replace(grid, default_size=(96, 96, 64)))) == (96, 96, 64)


def test_a_volume_thinner_than_a_window_is_segmented_as_if_its_ends_went_on():
    import torch

    from SynthDiffusionLib.networks.segmenter import build_segmenter

    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build_segmenter([4, 8]).eval()
    segment = adherence.windowed_segmenter(network, LIMB_RANGE, 16)
    hu = np.random.default_rng(0).uniform(-200, 200, (16, 16, 10)).astype(np.float32)
    padded = np.pad(hu, ((0, 0), (0, 0), (3, 3)), mode="edge")
    found = segment(hu)
    assert found.shape == hu.shape and 0.01 < found.mean() < 0.99
    assert np.array_equal(found, segment(padded)[:, :, 3:-3])


def test_a_segmenter_gets_the_intensities_and_windows_it_was_trained_on(tmp_path, monkeypatch):
    """Beyond its range it sees no difference; without one of its own it has the model's."""
    from safetensors.torch import save_file

    from SynthDiffusionLib.networks.segmenter import build_segmenter

    package = limb_package(tmp_path / "limb", {"train": ["a"]})
    save_file(build_segmenter([4, 8]).state_dict(), package.folder / "segmenter.safetensors")
    network = {"class": "UNet", "channels": [4, 8]}
    files = {"denoiser.safetensors": "denoiser", "segmenter.safetensors": "segmenter", "MODEL_CARD.md": "card"}
    raw = {k: v for k, v in package.spec.raw.items() if k not in ("files", "format")}
    seen = []
    monkeypatch.setattr(adherence, "windowed_segmenter", lambda network, limits, window: seen.append((limits, window)))
    for details in ({}, {"intensity_range": [-150.0, 250.0], "patch": 48}):
        sealed = seal_package(package.folder, raw | {"segmenter": {"network": network} | details}, files)
        adherence.package_segmenter(sealed)
    assert seen == [(LIMB_RANGE, adherence.WINDOW), ((-150.0, 250.0), 48)]
