"""Evaluation of models that make image and mask together: samples with masks of their own, and control."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from scipy.spatial.distance import dice as dice_dissimilarity
from tiny_mr import MR_RANGE, TUMOUR, tumour_case, tumour_data, write_mr
from tiny_slice_ldm import AFFINE, EXTENT, SHAPE, SPACING, make_joint_package, tiny_characteristics

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation import (
    adherence,
    card,
    control,
    fidelity,
    joint,
    memorisation,
    noskill,
    performance,
    samples,
)
from SynthDiffusionLib.evaluation import control_statistics as cs
from SynthDiffusionLib.evaluation.arms import arms_of
from SynthDiffusionLib.evaluation.cases import load_evaluation_data
from SynthDiffusionLib.evaluation.features import volume_features
from SynthDiffusionLib.evaluation.rows import Row, real_items, region_crop
from SynthDiffusionLib.evaluation.statistics import Estimate
from SynthDiffusionLib.jobs.joint import impossible
from SynthDiffusionLib.labels.characteristics import measure
from SynthDiffusionLib.models.characteristics import NAMES
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, write_segmentation, write_volume


def drawn_ellipsoid(tumour, heeds=True, rng=None):
    """A mask of the volume and centre that were asked for, its radii as those of the box; or of none of it."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    center, box = (np.array(tumour[k]) for k in ("center", "box"))
    if not heeds:
        center, box = rng.uniform(-5, 5, 3), rng.uniform(16, 40, 3)
    middle = (np.array(SHAPE) - 1) / 2 + center * [-1, -1, 1] / SPACING
    # By the box for the shape, by the volume for the size.
    radii = box / SPACING / 2
    if heeds:
        voxels = tumour["volume_mm3"] / np.prod(SPACING)
        radii = radii * (voxels / (4 / 3 * np.pi * np.prod(radii))) ** (1 / 3)
    return (((grid - middle) / np.maximum(radii, 0.6)) ** 2).sum(-1) <= 1.0


class Maker:
    """Stands for `jobs.run` in the mode "joint": paints the mask that it makes."""

    def __init__(self, mask_of=drawn_ellipsoid) -> None:
        self.requests, self.mask_of = [], mask_of

    def __call__(self, request):
        assert request.mode == "joint" and request.segmentation is None
        self.requests.append(request)
        mask = self.mask_of(request.tumour)
        stem = f"{request.case}_{request.seed}"
        paths = {"volume": request.out / f"{stem}.nii.gz", "segmentation": request.out / f"{stem}.seg.nrrd"}
        write_volume(Volume(np.where(mask, 900, 300).astype(np.int16), AFFINE, "arbitrary"), paths["volume"])
        layers = (mask.astype(np.uint8) * 7,)
        write_segmentation(Segmentation(layers, AFFINE, (Segment("tumour", 7),)), paths["segmentation"])
        return SimpleNamespace(outputs=[{"seed": request.seed, **paths}])


@pytest.fixture(scope="module")
def data():
    return tumour_data()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with prepared tumours, a package that makes full masks, samples, and results of `evaluate card`."""
    folder = tmp_path_factory.mktemp("joint")
    prepared = write_mr(folder / "prepared", (8, 5, 5), tumour_case, TUMOUR, list(SPACING))
    split = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))["split"]
    training = {"dataset": "phantoms", "license": "CC0-1.0", "split": split}
    package = make_joint_package(folder / "tiny-joint", mask_bias=100.0, training=training)
    tumours = load_evaluation_data(prepared, package.spec)
    maker = Maker()
    samples.make_samples(package, tumours, folder / "samples", run=maker)
    results = folder / "results"
    control_index = control.make_control(package, tumours, results, control.Settings(8), run=Maker())
    found = control.measure_control(package, tumours, results, control_index)
    patch = pytest.MonkeyPatch()
    patch.setattr(adherence, "package_segmenters", lambda package, targets: {"tumour": lambda v: v > 600})
    patch.setattr(memorisation, "CORES_VOXELS", {"whole": 12, "region": 8})
    patch.setattr(fidelity, "discriminate", lambda *a, **k: SimpleNamespace(auc=Estimate(0.75, 0.5, 1.0)))
    command = ["evaluate", "card", "--model", str(package.folder), "--data", str(prepared), "--samples"]
    code = cli.main([*command, str(folder / "samples"), "--out", str(results), "--auc-steps", "1"])
    patch.undo()
    assert code == 0
    return folder, package, tumours, maker, card.read_results(results), found


def test_a_sample_is_asked_for_by_the_characteristics_of_its_real_mask(made):
    folder, package, tumours, maker, _, _ = made
    assert arms_of(package.spec) == ("joint",)
    for request, case in zip(maker.requests, tumours.evaluated):
        real = measure(case.classes.array == 7, case.classes.affine)
        assert request.tumour["volume_mm3"] == real["volume_mm3"]
        assert request.tumour["center"] == tuple(real[f"center_{a}_mm"] for a in "ras")
        assert request.tumour["box"] == tuple(real[f"box_{a}_mm"] for a in "ras")
    rows, index = samples.load_samples(folder / "samples", package, tumours)
    for entry, item, request in zip(index["samples"], rows["joint"].items, maker.requests):
        assert len(entry["segmentation_sha256"]) == 64 and entry["segmentation"].endswith(".seg.nrrd")
        assert np.array_equal(item.classes == 7, drawn_ellipsoid(request.tumour))  # its own, not the real one
        assert np.array_equal(item.affine, AFFINE)


def test_a_changed_mask_is_made_again(made, tmp_path):
    _, package, tumours, _, _, _ = made
    maker = Maker()
    samples.make_samples(package, tumours, tmp_path, run=maker)
    entry = json.loads((tmp_path / "samples.json").read_text(encoding="utf-8"))["samples"][0]
    (tmp_path / entry["segmentation"]).write_bytes(b"other")
    with pytest.raises(BadInput, match="missing or has been changed"):
        samples.load_samples(tmp_path, package, tumours)
    samples.make_samples(package, tumours, tmp_path, run=maker)
    assert len(maker.requests) == len(tumours.evaluated) + 1
    samples.load_samples(tmp_path, package, tumours)
    other = replace(
        tumours, evaluated=[replace(c, image=_cut(c.image), classes=_cut(c.classes)) for c in tumours.evaluated]
    )
    with pytest.raises(BadInput, match="has 16x24x16 voxels, the data set's 't13_a' 15x24x16"):
        samples.load_samples(tmp_path, package, other)
    # Nothing is made for data of another frame, be it of another size, spacing or direction.
    turned = [replace(c, image=replace(c.image, affine=np.diag([4.0, -4.0, 5.0, 1.0]))) for c in tumours.evaluated]
    wide = [replace(c, image=replace(c.image, affine=np.diag([-4.0, -4.0, 6.0, 1.0]))) for c in tumours.evaluated]
    for wrong, says in (
        (other, "'t13_a' has 15x24x16 voxels of 4x4x5 mm along LPS"),
        (replace(tumours, evaluated=turned), "has 16x24x16 voxels of 4x4x5 mm along RPS"),
        (replace(tumours, evaluated=wide), "has 16x24x16 voxels of 4x4x6 mm along LPS"),
    ):
        before = Maker()
        with pytest.raises(BadInput, match=says):
            samples.make_samples(package, wrong, tmp_path / "wrong", run=before)
        assert not before.requests and not (tmp_path / "wrong").exists()
    index = json.loads((tmp_path / "samples.json").read_text(encoding="utf-8"))
    del index["samples"][0]["segmentation"]
    (tmp_path / "samples.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(BadInput, match="is damaged"):
        samples.load_samples(tmp_path, package, tumours)


def _cut(volume):
    return volume.with_array(volume.array[1:])


def test_every_table_has_rows_for_the_samples_own_masks(made):
    _, _, _, _, results, _ = made
    images = {"unrelated_real", "class_means_noise", "blob_flat_surroundings", "mean_training", "nearest_training"}
    own = {f"{name}_joint" for name in images}
    assert {r["row"] for r in results["adherence"]["rows"]} == own | {"real", "real_shifted", "ball_joint", "joint"}
    assert {r["row"] for r in results["fidelity"]["rows"]} == own | {"real_reference", "joint"}
    assert set(results["adherence"]["verdicts"]["joint"]["against_no_skill"]) == own | {"ball_joint"}
    (row,) = (r for r in results["adherence"]["rows"] if r["row"] == "joint")
    assert row["dice_mean"] == 1.0 and row["empty"] == 0
    assert {r["row"] for r in results["memorisation"]["masks"]["rows"]} == {"reference", "copies", "joint"}


def test_the_card_of_a_joint_model(made):
    folder, _, _, _, _, _ = made
    text = (folder / "results" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for needed in ("image and tumour made together", "together with their segmentation", "nearest training mask"):
        assert needed in text, needed
    for word in ("nodule", "lung", " HU", "drawn back", "the mask that the model was given"):
        assert word not in text, word
    with Image.open(folder / "results" / "real_and_synthetic.png") as picture:
        assert picture.size[0] > 2 * SHAPE[0] * 4


def test_an_empty_mask_is_no_agreement(data):
    items = real_items(data.evaluated, MR_RANGE)
    bare = tuple(replace(i, hu=np.full_like(i.hu, 300.0), classes=np.zeros_like(i.classes)) for i in items)
    row = Row("joint", "", "ours", (*bare[:2], *items[2:]))
    result = adherence.measure_adherence(data, {"joint": row}, lambda v: v > 600, None)
    scores = [v["dice"] for v in result["per_volume"] if v["row"] == "joint"]
    assert scores[:2] == [0.0, 0.0] and min(scores[2:]) > 0.8
    assert next(r for r in result["rows"] if r["row"] == "joint")["empty"] == 2
    assert region_crop(bare[0], 7, 8).hu.shape == (8, 8, 8)
    features = volume_features(bare[0].hu, bare[0].classes == 7, MR_RANGE, "tumour", "arbitrary")
    assert np.isnan(features["tumour mean"]) and np.isnan(features["rim mean"])
    found = memorisation.measure_memorisation(data, {"joint": row})
    assert found["masks"]["settings"]["empty_masks"] == 2


def test_copied_masks_are_found_wherever_they_lie(data):
    mask = data.training[3].classes.array == 7
    moved = np.roll(np.flip(mask, 0), (1, 2, -1), (0, 1, 2))
    gallery = np.stack([joint.centred(c.classes.array == 7, SHAPE) for c in data.training])
    dice = joint.nearest_mask_dice(joint.centred(moved, SHAPE), gallery)
    assert dice.argmax() == 3 and dice[3] == 1.0
    plain = joint.nearest_mask_dice(gallery[0], gallery[1:2])[0]
    flips = [np.flip(gallery[0], [a for a in range(3) if n >> a & 1]) for n in range(8)]
    assert plain == pytest.approx(max(1 - dice_dissimilarity(f.ravel(), gallery[1].ravel()) for f in flips))
    numbers = np.arange(6)
    copies = [data.training[n].classes.array for n in numbers]
    fresh = [tumour_case(n + 500).classes.array for n in numbers]
    items = real_items(data.evaluated, MR_RANGE)
    suspected = {}
    for name, classes in (("copies", copies), ("fresh", fresh)):
        row = Row("joint", "", "ours", tuple(replace(i, classes=c) for i, c in zip(items, classes)))
        result = joint.measure_masks(data, row, memorisation.rank_test, memorisation.SUSPICION)
        suspected[name] = next(r for r in result["rows"] if r["row"] == "joint")["suspected"]
    assert suspected == {"copies": True, "fresh": False}


def test_regression_and_correlation_agree_with_scipy():
    rng = np.random.default_rng(3)
    for n in (8, 40):
        x = np.round(rng.normal(size=n), 1)  # with equal values
        y = 0.4 * x + rng.normal(size=n)
        found = cs.compare(x, y)
        line = scipy.stats.linregress(x, y)
        assert found["slope"]["value"] == pytest.approx(line.slope)
        assert found["intercept"] == pytest.approx(line.intercept)
        assert found["pearson"]["value"] == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
        assert found["spearman"]["value"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
        assert found["theil_sen"]["value"] == pytest.approx(scipy.stats.theilslopes(y, x).slope)
        exact = scipy.stats.permutation_test(
            (y,),
            lambda v, x=x: scipy.stats.spearmanr(x, v).statistic,
            permutation_type="pairings",
            alternative="greater",
            n_resamples=2000,
            random_state=np.random.default_rng(0),
        )
        assert found["p_spearman"] == pytest.approx(exact.pvalue, abs=0.04)
        assert found["slope"]["low"] < line.slope < found["slope"]["high"]
    same = cs.compare(np.arange(6.0), np.full(6, 2.0))
    assert same["slope"]["value"] == 0 and same["pearson"]["value"] is None and same["p_spearman"] is None


def test_the_interval_of_the_slope_covers_the_true_one():
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.uniform(size=40)
        found = cs.compare(x, 0.7 * x + rng.normal(0, 0.3, 40))["slope"]
        covered += found["low"] <= 0.7 <= found["high"]
    assert 33 <= covered <= 40


def test_a_latin_hypercube_has_one_point_in_every_interval():
    points = cs.latin_hypercube(40, 5, np.random.default_rng(1))
    assert points.shape == (40, 5)
    assert all(sorted(np.floor(column * 40).astype(int)) == list(range(40)) for column in points.T)
    assert np.abs(np.corrcoef(points.T) - np.eye(5)).max() < 0.5


def test_what_ignores_the_request_has_a_slope_of_nought():
    rng = np.random.default_rng(2)
    asked, others = rng.uniform(size=40), rng.normal(5, 1, 25)
    found = cs.dealt(asked, others)
    assert abs(found["slope"]["value"]) < 0.05 and abs(found["spearman"]["value"]) < 0.02
    # For independent normal values the standard error of a correlation is 1 / sqrt(n - 1).
    assert found["pearson"]["high"] == pytest.approx(1.96 / np.sqrt(39), abs=0.06)
    assert cs.pieces(np.eye(3)[None] > 0) == 1 and cs.pieces(np.array([[[1, 0, 1]]]) > 0) == 2


def test_requests_lie_in_the_trained_range_and_can_be():
    spec = tiny_characteristics()
    requests = control.plan_requests(spec, 40, EXTENT, (4.0, 4.0, 5.0))
    assert requests == control.plan_requests(spec, 40, EXTENT, (4.0, 4.0, 5.0)) and len(requests) == 40
    for name, (low, high) in zip(NAMES, spec.range):
        values = np.array([r[name] for r in requests])
        if name in control.CHOSEN:
            assert low * 0.999 - 1e-6 <= values.min() and values.max() <= high * 1.001 + 1e-6
            spread = np.log(values) if name == "volume_mm3" else values
            ends = np.log([low, high]) if name == "volume_mm3" else np.array([low, high])
            assert np.ptp(spread) > 0.7 * np.ptp(ends)
    assert not any(impossible(r, EXTENT, (4.0, 4.0, 5.0)) for r in requests)


def test_control_tells_a_model_that_heeds_from_one_that_does_not(data, tmp_path):
    package = make_joint_package(tmp_path / "tiny-joint", mask_bias=0.0)
    rng = np.random.default_rng(7)
    found = {}
    for name, maker in {
        "heeds": Maker(),
        "ignores": Maker(lambda tumour: drawn_ellipsoid(tumour, False, rng)),
    }.items():
        index = control.make_control(package, data, tmp_path / name, run=maker)
        found[name] = control.measure_control(package, data, tmp_path / name, index)
        assert len(maker.requests) == control.REQUESTS
        control.make_control(package, data, tmp_path / name, run=maker)  # nothing is missing
        assert len(maker.requests) == control.REQUESTS
    rows = {name: {r["row"]: r for r in result["rows"]} for name, result in found.items()}
    for key in ("volume_mm3", "center_r_mm", "center_a_mm", "center_s_mm"):
        assert rows["heeds"][key]["slope"]["value"] == pytest.approx(1.0, abs=0.15), key
        assert rows["heeds"][key]["spearman"]["low"] > 0.8 and rows["heeds"][key]["p_spearman"] < 0.001
        assert rows["heeds"][key]["slope"]["low"] > rows["heeds"][key]["ignores"]["slope"]["high"]
        assert abs(rows["ignores"][key]["spearman"]["value"]) < 0.45
    said = {name: control.verdict_lines(result) for name, result in found.items()}
    assert sum("NOT clearly heeded" in line for line in said["ignores"]) >= 7
    assert not any("NOT" in line for line in said["heeds"] if line.startswith(("volume", "center")))
    with pytest.raises(BadInput, match="another model or with other settings"):
        control.make_control(package, data, tmp_path / "heeds", control.Settings(7), run=Maker())


def filled_box(tumour):
    """The ellipsoid that fills the box that was asked for, whatever the volume."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    middle = (np.array(SHAPE) - 1) / 2 + np.array(tumour["center"]) * [-1, -1, 1] / SPACING
    radii = np.maximum(np.array(tumour["box"]) / SPACING / 2, 0.6)
    return (((grid - middle) / radii) ** 2).sum(-1) <= 1.0


def drawn_ball(tumour, rng):
    """A ball of the volume that was asked for, at a random place."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    radius = (tumour["volume_mm3"] * 3 / (4 * np.pi)) ** (1 / 3)
    room = np.maximum(np.array(SHAPE) * SPACING / 2 - radius, 0)
    middle = (np.array(SHAPE) - 1) / 2 + rng.uniform(-1, 1, 3) * room / SPACING
    squared = (((grid - middle) * SPACING) ** 2).sum(-1)
    return squared <= max(radius**2, squared.min())


def test_a_ball_of_the_right_volume_heeds_no_box(data, tmp_path):
    package = make_joint_package(tmp_path / "tiny-joint", mask_bias=0.0)
    rng = np.random.default_rng(11)
    makers = {"ball": Maker(lambda tumour: drawn_ball(tumour, rng)), "heeds": Maker(filled_box)}
    rows, said = {}, {}
    for name, maker in makers.items():
        index = control.make_control(package, data, tmp_path / name, run=maker)
        assert {r.steps for r in maker.requests} == {package.spec.sampling.default_steps}
        assert index["settings"]["steps"] == package.spec.sampling.default_steps
        result = control.measure_control(package, data, tmp_path / name, index)
        rows[name] = {r["row"]: r for r in result["rows"]}
        said[name] = {line.split(":")[0].split(" ")[0]: line for line in control.verdict_lines(result)[1:]}
    boxes = 0
    for key in control.BOXES:
        ball, cartoon = rows["ball"][key], rows["ball"][key]["ball"]
        boxes += ball["p_spearman"] < 0.01 and ball["slope"]["low"] > ball["ignores"]["slope"]["high"]
        assert cartoon["slope"]["value"] == pytest.approx(ball["slope"]["value"], abs=0.12), key
        assert abs(ball["given_volume"]["value"]) < 0.2 and abs(cartoon["given_volume"]["value"]) < 0.2, key
        assert "NOT clearly heeded beyond the volume" in said["ball"][key]
        assert "NOT" not in said["heeds"][key], said["heeds"][key]
    assert boxes  # by the slope alone they would be called heeded
    assert "NOT" not in said["ball"]["volume_mm3"] and rows["ball"]["volume_mm3"]["ball"]["slope"]["low"] > 0.9
    for key in ("sphericity", "center_r_mm", "center_a_mm", "center_s_mm"):
        assert "NOT clearly heeded" in said["ball"][key]
    titles, cells = control.table({"rows": list(rows["ball"].values())})
    assert len(cells) == 3 * len(control.COMPARED) and all(len(line) == len(titles) for line in cells)
    assert sum(line[0] == "  ball of that volume, anywhere" for line in cells) == len(control.COMPARED)


def test_the_slope_given_the_volume_is_that_of_a_regression_on_both():
    rng = np.random.default_rng(4)
    z = rng.uniform(1, 3, 30)
    x = z + rng.normal(0, 0.4, 30)
    y = 0.3 * x + 2.0 * z + rng.normal(0, 0.2, 30)
    expected = np.linalg.lstsq(np.stack([x, z, np.ones(30)], 1), y, rcond=None)[0][0]
    found = cs.given(x, y, z)
    assert found["value"] == pytest.approx(expected) and found["low"] < 0.3 < found["high"]
    assert float(cs.ols_slope(x, y)) > 1.0  # the slope alone takes in what z does
    assert np.isnan(cs.partial_slope(2 * z + 1, y, z))
    # A ball in continuous space: 2 r along every axis, mesh and voxels a little off.
    ball = cs.random_balls(np.array([30000.0]), (100, 100, 100), (2, 2, 2))[0]
    side = 2 * (3 * 30000 / (4 * np.pi)) ** (1 / 3)
    assert ball["volume_mm3"] == pytest.approx(30000, rel=0.03) and ball["box_r_mm"] == pytest.approx(side, abs=4)
    assert cs.random_balls(np.array([1.0]), (20, 20, 20), (5, 5, 5))[0]["volume_mm3"] == 125.0  # one voxel


def test_empty_masks_and_masks_in_pieces_are_counted():
    spec = tiny_characteristics()
    asked = control.plan_requests(spec, 8, EXTENT, (4.0, 4.0, 5.0))
    entries = [{"asked": a, "measured": a, "pieces": 1} for a in asked]
    entries[0] |= {"measured": None, "pieces": 0}
    entries[1] |= {"pieces": 3}
    training = np.array([[a[name] for name in NAMES] for a in asked])
    result = control.summarise(entries, training)
    assert (result["requests"], result["empty"], result["several_pieces"]) == (8, 1, 1)
    assert all(r["n"] == 7 and r["slope"]["value"] == pytest.approx(1.0) for r in result["rows"])
    assert control.verdict_lines(result)[0] == "1 of 8 masks are empty, 1 have several pieces."
    with pytest.raises(BadInput, match="4 of 8 masks are empty"):
        control.summarise(
            [e | {"measured": None, "pieces": 0} if n < 4 else e for n, e in enumerate(entries)], training
        )


def test_the_command_of_the_whole_way(made, tmp_path, capsys):
    """Through `jobs.run` and the model's networks, whose masks are all of the volume."""
    folder, package, _, _, _, _ = made
    command = ["evaluate", "control", "--model", str(package.folder), "--data", str(folder / "prepared")]
    assert cli.main([*command, "--out", str(tmp_path), "--requests", "5", "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "training masks at random" in said and "NOT clearly heeded" in said
    result = json.loads((tmp_path / "control.json").read_text(encoding="utf-8"))
    assert len(result["per_volume"]) == 5 and result["empty"] == 0
    full = float(np.prod(SHAPE) * np.prod(SPACING))
    assert all(v["measured"]["volume_mm3"] == pytest.approx(full) for v in result["per_volume"])
    lines = (tmp_path / "control.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6 and "asked.volume_mm3" in lines[0] and "measured.center_s_mm" in lines[0]
    with Image.open(tmp_path / "control.png") as picture:
        assert picture.size[0] > 800 and len(picture.getcolors(1 << 20)) > 3
    assert cli.main([*command, "--out", str(tmp_path), "--requests", "2"]) != 0


def test_samples_are_made_by_the_model_itself(made, tmp_path):
    folder, package, tumours, _, _, _ = made
    samples.make_samples(package, tumours, tmp_path, samples.Settings(steps=1))
    rows, _ = samples.load_samples(tmp_path, package, tumours)
    assert all((item.classes == 7).all() and item.hu.shape == SHAPE for item in rows["joint"].items)


def test_the_time_of_a_joint_model_is_measured_without_a_drawing(made):
    _, package, _, _, _, _ = made
    result = performance.measure_performance(package, steps=1, repeats=1, threads=1)
    assert result["settings"]["size"] == list(SHAPE) and result["largest_peak_bytes"] > 1e7


def test_the_results_of_control_are_in_the_card(made):
    folder, package, _, _, results, found = made
    complete = {"format": "", "model": results["adherence"]["model"], "data": results["adherence"]["data"]}
    both = results | {"control": found | complete | {"samples": None, "command": "synthdiffusion evaluate control"}}
    text = card.render_card(package.spec, both)
    assert "### Control of what is asked for" in text and "training masks at random" in text
    assert set(card.quality_measures(both)["control"]) == {"requests", "empty", "several_pieces", *control.COMPARED}


def test_no_skill_images_for_masks_of_samples_are_of_other_patients(data):
    items = real_items(data.evaluated, MR_RANGE)
    row = Row("joint", "", "ours", tuple(replace(i, classes=np.roll(i.classes, 1, 0)) for i in items))
    statistics = noskill.training_statistics(data.training, [0, 7], 7, MR_RANGE)
    unrelated = adherence.joint_rows(adherence.no_skill_images(data, row, statistics))[0]
    images = {c.image.array.astype(np.float32).tobytes() for c in data.others}
    for item, own in zip(unrelated.items, row.items):
        assert item.hu.tobytes() in images and np.array_equal(item.classes, own.classes)
    assert unrelated.label == "unrelated real image, for the samples' masks"


def padded_tumours(border=4):
    """Tumours in images that end at about one distance from them, with black beyond; the last images have none."""
    found = tumour_data()

    def padded(case):
        voxels = np.argwhere(case.classes.array == 7)
        image = np.zeros(SHAPE, np.int16)
        box = tuple(slice(max(0, a - border), b + border + 1) for a, b in zip(voxels.min(0), voxels.max(0)))
        image[box] = case.image.array[box]
        image[0, 0, 0] = 900  # a single bright voxel, as synthetic images have them, does not make the box larger
        return replace(case, image=case.image.with_array(image))

    return replace(found, **{k: [padded(c) for c in getattr(found, k)] for k in ("evaluated", "training", "others")})


def test_where_the_image_ends_gives_the_tumour_away_and_has_a_row():
    data = padded_tumours(2)
    statistics = noskill.training_statistics(data.training, [0, 7], 7, MR_RANGE)
    assert statistics.padding > 0.1 and np.abs(statistics.bright_border - 2).max() <= 1
    for case in data.evaluated:
        voxels = np.argwhere(case.classes.array == 7)
        guess = noskill.bright_ellipsoid(case.image.array.astype(np.float32), statistics)
        assert 1 - dice_dissimilarity(guess.ravel(), case.classes.array.ravel() == 7) > 0.7
        assert np.abs(np.argwhere(guess).mean(0) - (voxels.min(0) + voxels.max(0)) / 2).max() <= 1.0
    samples_row = Row("joint", "made together", "ours", real_items(data.evaluated, MR_RANGE))
    found = adherence.measure_adherence(data, {"joint": samples_row}, lambda hu: hu > 600, None)
    rows = {r["row"]: r for r in found["rows"]}
    # On the real images, for what the segmenter is worth, and on the samples, among the rows that these must beat.
    for name in ("bright_ellipsoid", "bright_ellipsoid_joint"):
        assert rows[name]["dice_mean"] > 0.7 and rows[name]["kind"] == "no-skill"
    assert set(found["verdicts"]["joint"]["against_no_skill"]) >= {"ball_joint", "bright_ellipsoid_joint"}
    assert "bright_ellipsoid" not in found["verdicts"]["joint"]["against_no_skill"]
    assert "padded with black" in found["definitions"]["bright_ellipsoid"] and found["settings"]["padding"] > 0.1


def test_images_without_padding_have_no_such_row(data):
    samples_row = Row("joint", "made together", "ours", real_items(data.evaluated, MR_RANGE))
    found = adherence.measure_adherence(data, {"joint": samples_row}, lambda hu: hu > 600, None)
    assert not any("bright" in r["row"] for r in found["rows"])
    assert "bright_ellipsoid" not in found["definitions"] and "padding" not in found["settings"]
    whole = [[0, n - 1] for n in SHAPE]
    assert noskill.bright_box(np.zeros(SHAPE), 5.0).tolist() == whole  # nothing is brighter
