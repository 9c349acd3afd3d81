"""Evaluation of MR models of several targets that no class encloses: parts of an organ."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.distance import dice as dice_dissimilarity
from tiny_evaluation import phantom_data
from tiny_mr import LPS, MR_RANGE, PARTS, organ_case, organ_data, write_mr
from tiny_package import DESCRIPTION, make_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation import adherence, card, fidelity, memorisation, noskill, samples
from SynthDiffusionLib.evaluation.arms import arm_label, arms_of, moved_mask
from SynthDiffusionLib.evaluation.cases import SURROUNDINGS, ground_of, load_evaluation_data, targets_of
from SynthDiffusionLib.evaluation.diversity import diversity, real_to_real
from SynthDiffusionLib.evaluation.rows import Row, real_items
from SynthDiffusionLib.evaluation.statistics import Estimate
from SynthDiffusionLib.jobs.adherence import adherence_of
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.models import load_package, seal_package
from SynthDiffusionLib.networks.segmenter import build_segmenter, segment, segment_targets
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.training.config import SegmenterConfig, TrainConfig, _fill
from SynthDiffusionLib.training.dataset import Case
from SynthDiffusionLib.training.train_segmenter import train_segmenter
from SynthDiffusionLib.volumes import Volume, read_volume, write_volume

ANTERIOR, POSTERIOR = PARTS
SCHEME = json.loads(resource_path("LabelSchemes", "hippocampus-mr.json").read_text(encoding="utf-8"))
SEGMENTS = {ANTERIOR: lambda v: v < 400, POSTERIOR: lambda v: v > 800}


@pytest.fixture(scope="module")
def data():
    return organ_data()


@pytest.fixture(scope="module")
def real(data):
    return real_items(data.evaluated, data.intensity_range)


@pytest.fixture(scope="module")
def statistics(data):
    return noskill.training_statistics(data.training, [0, 1, 2], 1, MR_RANGE)


def organ_package(folder, split):
    """A package of two targets whose segmenter has random weights."""
    make_package(folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_segmenter([4, 8], 2)
    save_file(network.state_dict(), folder / "segmenter.safetensors")
    description = {k: v for k, v in copy.deepcopy(DESCRIPTION).items() if k != "inpaint"} | {
        "id": "tiny-organ",
        "name": "Tiny organ MR",
        "modality": "MR",
        "body_part": "head",
        "target_class": ANTERIOR,
        "modes": ["whole"],
        "intensity": {"unit": "arbitrary", "range": list(MR_RANGE)},
        "grid": DESCRIPTION["grid"] | {"min_size": [1, 1, 1]},
        "label_scheme": SCHEME,
        "segmenter": {
            "network": {"class": "UNet", "channels": [4, 8], "out_channels": 2},
            "targets": [ANTERIOR, POSTERIOR],
            "patch": 40,
        },
        "training": {"dataset": "phantoms", "license": "CC0-1.0", "split": split},
        "measured": {"quality": {}, "performance": {}},
    }
    roles = {"denoiser.safetensors": "denoiser", "segmenter.safetensors": "segmenter", "MODEL_CARD.md": "card"}
    return seal_package(folder, description, roles)


class Painter:
    """Stands for `jobs.run`: paints the classes that were given, in the unit of the model."""

    def __init__(self) -> None:
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        mask = read_volume(request.segmentation, unit="label")
        values = {v for v, name in PARTS.items() if request.classes is None or v in request.classes}
        drawn = np.where(np.isin(mask.array, [PARTS[v] for v in values]), mask.array, 0) if values else mask.array
        image = np.choose(drawn.astype(int), [600, 200, 1000]).astype(np.int16)
        path = request.out / f"{request.case}_{request.seed}.nii.gz"
        write_volume(Volume(image, mask.affine, "arbitrary"), path)
        return SimpleNamespace(outputs=[{"volume": path, "seed": request.seed}])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with prepared organs, a package, samples and the outputs of `evaluate card`."""
    folder = tmp_path_factory.mktemp("organ")
    prepared = write_mr(folder / "prepared", (8, 5, 5), organ_case, PARTS, 1.0)
    split = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))["split"]
    package = organ_package(folder / "tiny-organ", split)
    painter = Painter()
    organs = load_evaluation_data(prepared, package.spec)
    samples.make_samples(package, organs, folder / "samples", run=painter)
    patch = pytest.MonkeyPatch()
    patch.setattr(adherence, "package_segmenters", lambda package, targets: {t: SEGMENTS[t] for t in targets})
    patch.setattr(memorisation, "CORES_VOXELS", {"whole": 12, "region": 8})
    patch.setattr(fidelity, "discriminate", lambda *a, **k: SimpleNamespace(auc=Estimate(0.75, 0.5, 1.0)))
    command = ["evaluate", "card", "--model", str(package.folder), "--data", str(prepared), "--samples"]
    code = cli.main([*command, str(folder / "samples"), "--out", str(folder / "results"), "--auc-steps", "1"])
    patch.undo()
    assert code == 0
    return folder, package, painter, card.read_results(folder / "results")


def test_arms_and_data_know_both_targets_and_no_ground(made):
    folder, package, painter, _ = made
    organs = load_evaluation_data(folder / "prepared", package.spec)
    assert organs.all_targets == (ANTERIOR, POSTERIOR) == targets_of(package.spec)
    assert (organs.unit, organs.ground, organs.ground_value) == ("arbitrary", SURROUNDINGS, 0)
    assert ground_of(["body", "tumour"], ["tumour"]) == "body" and ground_of(["nodule", "lung"]) == "lung"
    assert arms_of(package.spec) == (ANTERIOR, "anatomy", "moved")
    assert arm_label("anatomy", ANTERIOR, PARTS, organs.ground) == "both labels"
    assert arm_label("anatomy", "nodule") == "nodule and coarse anatomy"
    by_arm = {arm: {r.classes for r in painter.requests if r.out.name == arm} for arm in arms_of(package.spec)}
    assert by_arm == {ANTERIOR: {(ANTERIOR,)}, "anatomy": {None}, "moved": {(ANTERIOR,)}}
    one = replace(package.spec, label_scheme=LabelScheme.from_json(SCHEME[:1]))
    assert arms_of(one) == (ANTERIOR, "moved")


def test_every_target_has_rows_of_its_own(made):
    folder, _, _, results = made
    first, (second,) = results["adherence"], results["adherence"]["others"]
    assert (first["target"], second["target"]) == (ANTERIOR, POSTERIOR)
    images = {"unrelated_real", "class_means_noise", "blob_flat_surroundings", "mean_training", "nearest_training"}
    rows = [{r["row"] for r in part["rows"]} for part in (first, second)]
    assert images | {"ball", "ellipsoid", ANTERIOR, "anatomy", "moved"} <= rows[0]
    assert images | {"ball", "ellipsoid", "anatomy"} <= rows[1]
    assert not {ANTERIOR, "moved"} & rows[1]  # those arms are not given the other part
    for part in (first, second):  # painted without blur: a threshold finds exactly what was drawn
        assert next(r for r in part["rows"] if r["row"] == "anatomy")["dice_mean"] == 1.0
        assert set(part["verdicts"]["anatomy"]["against_no_skill"]) >= images
    lines = (folder / "results" / "adherence.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("target,row")
    assert {line.split(",")[0] for line in lines[1:]} == {ANTERIOR, POSTERIOR}


def test_the_card_has_a_table_for_each_target_and_the_unit_of_mr(made):
    folder, _, _, results = made
    text = (folder / "results" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for needed in (
        f"Of the {ANTERIOR}:",
        f"Of the {POSTERIOR}:",
        "both labels",
        "arbitrary units",
        "flat surroundings",
    ):
        assert needed in text, needed
    for word in ("nodule", "lung", "HU", "Of the None", "bone"):
        assert word not in text, word
    quality = json.loads((folder / "results" / "quality.json").read_text(encoding="utf-8"))
    assert quality["adherence_targets"].keys() == {POSTERIOR}
    assert quality["adherence_targets"][POSTERIOR]["anatomy"]["dice"] == 1.0
    assert "mean_difference" in quality["fidelity"]["anatomy"]
    names = results["fidelity"]["rows"][0]["feature_differences"]
    assert {"dark mean", "grey fraction", "bright noise"} <= set(names) and "lung mean" not in names


def test_targets_are_not_mixed_up(data, real):
    arms = {"anatomy": Row("anatomy", "both labels", "ours", real)}
    right = adherence.measure_targets(data, arms, SEGMENTS, None)
    wrong = adherence.measure_targets(data, arms, dict(zip(PARTS, reversed(SEGMENTS.values()))), None)
    for result, low, high in ((right, 0.8, 1.0), (wrong, 0.0, 0.1)):
        for part in (result, result["others"][0]):
            assert low <= next(r for r in part["rows"] if r["row"] == "anatomy")["dice_mean"] <= high
    single = adherence.measure_targets(data, arms, {ANTERIOR: SEGMENTS[ANTERIOR]}, None)
    assert "others" not in single and "target" not in single


def test_flat_surroundings_are_what_lies_outside_all_targets(data, real, statistics):
    outside = np.mean([c.image.array[c.classes.array == 0].mean() for c in data.training])
    row = next(
        r for r in adherence.no_skill_images(data, Row("real", "", "real", real), statistics) if "blob" in r.name
    )
    assert row.name == "blob_flat_surroundings"
    assert row.items[0].hu[0, 0, 0] == pytest.approx(outside, abs=1.0)


def test_the_mean_training_image_is_the_mean_of_what_is_laid_on_the_mask(real, statistics):
    """Training images that are one value each: their mean, far from what is drawn, is the mean of the values."""
    flat = []
    for number, value in enumerate((100.0, 200.0, 600.0)):
        classes = np.zeros((60, 60, 60), np.uint8)
        classes[25 + number : 35, 20:30, 20:30] = 1
        image = Volume(np.full(classes.shape, value, np.int16), LPS, "arbitrary")
        flat.append(Case(f"c{number}", f"c{number}", image, Volume(classes, LPS, "label")))
    row = noskill.mean_training(real[:2], flat, statistics, MR_RANGE)
    for item, before in zip(row.items, real):
        assert item.hu[0, 0, 0] == 300.0 and item.hu.shape == before.hu.shape
        middle = tuple(np.argwhere(before.classes == 2).mean(0).astype(int))
        assert item.hu[middle] == pytest.approx(statistics.mean[2], abs=2.0)


def test_the_mean_training_image_is_laid_centroid_on_centroid(real, statistics):
    """One bright voxel beside the mask of the only training case is found at the same place beside the drawn one."""
    classes = np.zeros((40, 40, 40), np.uint8)
    classes[10:17, 10:17, 10:17] = 1
    image = np.zeros(classes.shape, np.int16)
    image[13 + 8, 13, 13] = 1000
    case = Case("c", "c", Volume(image, LPS, "arbitrary"), Volume(classes, LPS, "label"))
    drawn = np.zeros((30, 30, 30), np.uint8)
    drawn[12:15, 12:15, 17:20] = 1
    item = replace(real[0], hu=np.zeros(drawn.shape, np.float32), classes=drawn)
    (found,) = noskill.mean_training([item], [case], statistics, MR_RANGE).items
    assert found.hu[13 + 8, 13, 18] == 1000.0


def test_the_nearest_training_image_is_that_of_the_highest_dice(data, real):
    row = noskill.nearest_training(real, data.training, 1, MR_RANGE)
    assert all(item.hu.shape == before.hu.shape for item, before in zip(row.items, real))
    own = noskill.nearest_training(real_items(data.training, MR_RANGE), data.training, 1, MR_RANGE)
    for item, case in zip(own.items, data.training):  # of a training mask, its own image, unchanged
        assert np.array_equal(item.hu, case.image.array)
    mask = real[0].classes == 1
    pad = [(8, 8)] * 3
    best, value = noskill.nearest_mask(mask, data.training, 1)
    laid = noskill.fitted(np.pad(best.classes.array == 1, pad), np.pad(mask, pad).shape, False)
    assert value == pytest.approx(1 - dice_dissimilarity(laid.ravel(), np.pad(mask, pad).ravel()))


def test_each_target_has_its_channel_of_the_segmenter(made):
    """Where the window holds the whole volume: the sign of the network's own output, channel by channel."""
    _, package, _, _ = made
    image = np.random.default_rng(0).uniform(0, 1000, (40, 40, 40)).astype(np.float32)
    network = build_segmenter([4, 8], 2).eval()
    network.load_state_dict(package.load_tensors("segmenter"))
    scaled = torch.from_numpy(image / 750.0 - 1.0)
    with torch.inference_mode():
        logits = network(scaled[None, None])[0].numpy()
    for name, channel in zip(PARTS, logits):
        found = adherence.package_segmenter(package, name)(image)
        assert np.mean(found != (channel > 0)) < 1e-3 and 0 < found.mean() < 1
    assert np.array_equal(
        adherence.package_segmenter(package)(image), adherence.package_segmenter(package, ANTERIOR)(image)
    )
    assert set(adherence.package_segmenters(package, tuple(PARTS))) == set(PARTS)
    with pytest.raises(BadInput, match="finds anterior hippocampus, posterior hippocampus, not 'lung'"):
        adherence.package_segmenter(package, "lung")
    assert segment_targets(network, scaled).shape == (2, 40, 40, 40)
    assert torch.equal(segment(network, scaled), segment_targets(network, scaled)[0])


def trained(folder, targets, steps):
    prepared = write_mr(folder / "prepared", (4, 2, 1), organ_case, PARTS, 1.0)
    config = TrainConfig(
        package={},
        data=prepared,
        label_scheme="hippocampus-mr",
        network={},
        diffusion={},
        phases=(),
        patches=SimpleNamespace(target=ANTERIOR),
        optimiser=None,
        segmenter=SegmenterConfig((8, 16), steps, 24, 2, 1e-2, targets=targets),
        intensity_range=(0.0, 1000.0),
        precision="32-true",
        checkpoint_every=1000,
    )
    events = []
    path = train_segmenter(config, LabelScheme.from_json(SCHEME), folder / "out", on_event=events.append)
    return config, torch.load(path, weights_only=True)["network"], events


def test_a_segmenter_learns_both_targets(tmp_path):
    config, weights, events = trained(tmp_path, tuple(PARTS), 80)
    network = build_segmenter(config.segmenter.channels, 2).eval()
    network.load_state_dict(weights)
    case = organ_case(5)
    found = segment_targets(network, torch.from_numpy(case.image.array.astype(np.float32) / 500.0 - 1.0)).numpy()
    for value, mask in zip((1, 2), found):
        assert 1 - dice_dissimilarity(mask.ravel(), (case.classes.array == value).ravel()) > 0.7
    assert events[-1]["validation_dice"] > 0.5
    assert config.segmenter.network() == {"class": "UNet", "channels": [8, 16], "out_channels": 2}
    assert config.segmenter.details()["targets"] == list(PARTS)
    assert "targets" not in SegmenterConfig().details() and "out_channels" not in SegmenterConfig().network()


def test_targets_of_a_segmenter_are_classes(tmp_path):
    with pytest.raises(BadInput, match="must be different classes of 'hippocampus-mr'"):
        trained(tmp_path, (ANTERIOR, "hilus"), 1)
    assert _fill(SegmenterConfig, {"targets": [ANTERIOR]}, "segmenter").targets == (ANTERIOR,)
    for wrong in (3, [], [1, 2], "anterior"):
        with pytest.raises(BadInput, match="targets must be a list of texts"):
            _fill(SegmenterConfig, {"targets": wrong}, "segmenter")


def test_a_run_reports_every_target_that_is_drawn(made):
    _, package, _, _ = made
    quality = {"adherence": {"real": {"dice": 0.9}}, "adherence_targets": {POSTERIOR: {"real": {"dice": 0.8}}}}
    spec = replace(package.spec, quality=quality)
    case = organ_case(3)
    everywhere = np.ones(case.classes.shape, bool)

    def measured(classes):
        view = (Volume(case.image.array.astype(np.float32), LPS), classes, everywhere)
        return adherence_of(lambda: [view], spec, SEGMENTS, print)

    entry = measured(case.classes.array)["adherence"]
    assert entry["class"] == ANTERIOR and set(entry["targets"]) == set(PARTS)
    assert entry["real_dice"] == 0.9 and entry["targets"][POSTERIOR]["real_dice"] == 0.8
    for name, value in PARTS.items():
        assert entry["targets"][name]["dice"] > 0.8
        assert entry["targets"][name]["drawn_ml"] == pytest.approx((case.classes.array == value).sum() / 1000)
    assert entry["dice"] == entry["targets"][ANTERIOR]["dice"]
    alone = measured(np.where(case.classes.array == 2, 2, 0))["adherence"]
    assert alone["class"] == POSTERIOR and set(alone["targets"]) == {POSTERIOR}
    nothing = measured(np.zeros_like(case.classes.array))
    assert nothing == {"adherence": None, "adherence_note": "the target class is not drawn"}


def test_diversity_is_the_mean_difference_of_the_samples_of_one_mask(real):
    """Samples that differ by 10, 10 and 20 have a mean of 40 / 3; those of other masks are not compared with them."""
    base = replace(real[0], hu=np.zeros_like(real[0].hu))
    items = [replace(base, hu=base.hu + v, seed=n) for n, v in enumerate((0, 10, 20))]
    items += [replace(real[1], hu=real[1].hu + v, seed=n) for n, v in enumerate((500, 516))]
    found = diversity(Row("anatomy", "", "ours", tuple(items)))
    assert found.value == pytest.approx((40 / 3 + 16) / 2)
    assert np.isnan(diversity(Row("anatomy", "", "ours", real)).value)
    pair = Row("real", "", "real", (base, replace(real[1], hu=np.full_like(real[1].hu, 7.0))))
    assert real_to_real(pair, 1, (16, 16, 16)) == 7.0


def test_the_table_of_guidance(made, tmp_path, monkeypatch, capsys):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))
    import guidance_table

    folder, package, _, _ = made
    asked = []

    class Guided(Painter):
        """The stronger the guidance, the less two seeds differ."""

        def __call__(self, request):
            asked.append((request.guidance, request.classes))
            made = super().__call__(request)
            path = made.outputs[0]["volume"]
            volume = read_volume(path, "arbitrary")
            write_volume(
                volume.with_array((volume.array + request.seed % 2 * 30 / request.guidance).astype(np.int16)), path
            )
            return made

    monkeypatch.setattr("SynthDiffusionLib.jobs.run", Guided())
    monkeypatch.setattr(
        guidance_table, "package_segmenters", lambda package, targets: {t: SEGMENTS[t] for t in targets}
    )
    command = ["--data", str(folder / "prepared"), "--out", str(tmp_path), "--model", str(package.folder)]
    guidance_table.main([*command, "--arm", "anatomy", "--guidance", "1,3", "--seeds", "2", "--steps", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4 and "they differ by" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["1", "1", "3", "3"]
    assert [line.rsplit("]  ", 1)[1] for line in lines[2:]] == [ANTERIOR, POSTERIOR] * 2
    assert "30 [30, 30]" in lines[2] and "10 [10, 10]" in lines[4]
    assert set(asked) == {(1.0, None), (3.0, None)} and len(asked) == 2 * 2 * 5


def test_copies_are_found_in_cut_outs_that_are_no_larger_than_the_usual_core(data, monkeypatch):
    """With the usual core there is no room for a shift, and the same copies are missed."""
    assert memorisation.is_small(data) and min(data.crop) < memorisation.CORES_VOXELS["whole"]
    found = {}
    for small in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(memorisation, "is_small", lambda data, small=small: small)
            result = memorisation.measure_memorisation(data, {})
        found[small] = [r["below_quantile"] for r in result["rows"] if r["row"] == "copies"]
    assert found[True] == [6, 6] and min(found[False]) < 6
    assert not memorisation.is_small(phantom_data())


def test_a_case_without_the_target_is_skipped(made, tmp_path):
    folder, package, _, _ = made
    organs = load_evaluation_data(folder / "prepared", package.spec)
    first = organs.evaluated[0]
    bare = replace(first, classes=first.classes.with_array(np.where(first.classes.array == 1, 0, 2).astype(np.uint8)))
    changed = replace(organs, evaluated=[bare, *organs.evaluated[1:]])
    samples.make_samples(package, changed, tmp_path, samples.Settings((ANTERIOR,)), run=Painter())
    index = json.loads((tmp_path / "samples.json").read_text(encoding="utf-8"))
    assert [e["case"] for e in index["skipped"]] == [bare.name] and "no anterior" in index["skipped"][0]["reason"]
    assert moved_mask(organs.evaluated[1], organs).max() == 1


def test_a_model_of_other_classes_is_refused(made):
    folder, package, _, _ = made
    details = package.spec.segmenter.details | {"targets": [ANTERIOR, "hilus"]}
    spec = replace(package.spec, segmenter=replace(package.spec.segmenter, details=details))
    with pytest.raises(BadInput, match="measures 'hilus', which is none of its classes"):
        load_evaluation_data(folder / "prepared", spec)
    assert load_package(str(package.folder)).spec.segmenter.details["targets"] == [ANTERIOR, POSTERIOR]
