"""Utility experiments: who may see whom, equal recipes, statistics, going on after an interruption."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from tiny_utility import SPLIT, package_of, prepared

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.utility import analysis, augmentation, gap
from SynthDiffusionLib.evaluation.utility.generators import stage_name, toml_text
from SynthDiffusionLib.evaluation.utility.networks import Recipe, scores, train_network
from SynthDiffusionLib.evaluation.utility.pairs import Pair, cartoons, load_data
from SynthDiffusionLib.evaluation.utility.parts import draw_patients, write_part
from SynthDiffusionLib.evaluation.utility.store import Store, Unfinished
from SynthDiffusionLib.evaluation.utility.synthesis import Sampling
from SynthDiffusionLib.training.dataset import read_description

TRAINING = Path(__file__).resolve().parents[2] / "Resources" / "Training"
QUICK = Recipe(steps=2, batch=1, patch=(16, 16, 16), channels=(4, 8), precision="fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return prepared(tmp_path_factory.mktemp("utility"))


@pytest.fixture(scope="module")
def data(folder):
    return load_data(folder, None, None, 5)


# Who sees whom.


def test_smaller_arms_are_parts_of_larger_ones(folder):
    description = read_description(folder)
    draws = [draw_patients(description, n, seed=3, fold=1) for n in (2, 4, 6)]
    assert draws[0] == draws[2][:2] and draws[1] == draws[2][:4]
    assert sorted(draws[2]) == sorted({description["cases"][n]["patient"] for n in description["split"]["train"]})
    assert draw_patients(description, 6, seed=3, fold=2) != draws[2]
    with pytest.raises(BadInput, match="7 training patients were asked for; the data set has 6"):
        draw_patients(description, 7, seed=3, fold=1)


def test_a_part_holds_the_files_of_its_own_patients_only(folder, tmp_path):
    description = read_description(folder)
    patients = draw_patients(description, 2, seed=3, fold=1)
    part = read_description(write_part(folder, patients, tmp_path / "part"))
    own = {c.stem.removesuffix(".nii") for c in (tmp_path / "part" / "images").iterdir()}
    assert {part["cases"][n]["patient"] for n in part["split"]["train"]} == set(patients)
    assert own == set(part["split"]["train"]) | set(part["split"]["validation"]) == set(part["cases"])
    assert "test" not in part["split"] and not own & set(description["split"]["test"])


@pytest.mark.parametrize(
    ("targets", "least", "message"),
    [(["spleen"], 5, "'spleen' is no class"), (["nodule", "nodule"], 5, "is no class"), (None, 6, "has 5 patients")],
)
def test_bad_data(folder, targets, least, message):
    with pytest.raises(BadInput, match=message):
        load_data(folder, targets, None, least)


# Configurations.


@pytest.mark.parametrize("path", sorted(TRAINING.rglob("*.toml")), ids=lambda p: p.stem)
def test_configurations_survive_being_written_again(path):
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    assert tomllib.loads(toml_text(values)) == values


def test_stages_of_the_shipped_configurations():
    names = [stage_name(TRAINING / "Utility" / f"scarcity-{s}.toml") for s in ("autoencoder", "diffusion")]
    assert names == ["autoencoder", "diffusion"]


# Networks.


def bright_balls(number: int) -> list[Pair]:
    rng = np.random.default_rng(number)
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"))
    pairs = []
    for i in range(number):
        target = ((grid - rng.uniform(5, 10, 3)[:, None, None, None]) ** 2).sum(0) < 12
        image = np.where(target, 0.5, -0.5) + 0.05 * rng.standard_normal(target.shape)
        pairs.append(Pair(f"c{i}", f"p{i}", image.astype(np.float32), target.astype(np.uint8)))
    return pairs


def test_a_network_learns_and_its_dice_is_monais():
    from monai.metrics import compute_dice

    recipe = Recipe(steps=60, batch=2, patch=(16, 16, 16), channels=(4, 8), learning_rate=1e-2, precision="fp32")
    pairs = bright_balls(6)
    network = train_network([pairs[:4]], None, 1, recipe, seed=1)
    found = scores(network, pairs[4:], ["ball"], recipe)
    assert all(s["dice"]["ball"] > 0.8 for s in found)
    import torch
    from monai.inferers import sliding_window_inference

    for pair, score in zip(pairs[4:], found):
        with torch.inference_mode():
            image = torch.from_numpy(pair.image)[None, None]
            mask = sliding_window_inference(image, recipe.patch, 4, network, overlap=0.5, mode="gaussian") > 0
        oracle = compute_dice(mask.float(), torch.from_numpy(pair.target == 1)[None, None].float())
        assert score["dice"]["ball"] == pytest.approx(float(oracle), abs=1e-6)


def test_the_same_seed_gives_the_same_network_and_arms_start_alike():
    pairs = bright_balls(4)
    one, same = (train_network([pairs], None, 1, QUICK, seed=1) for _ in range(2))
    other = train_network([pairs], None, 1, QUICK, seed=2)
    weights = [np.concatenate([p.detach().numpy().ravel() for p in n.parameters()]) for n in (one, same, other)]
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])


def test_shares_decide_what_crops_come_from(monkeypatch):
    drawn = []
    from SynthDiffusionLib.training import train_segmenter

    real_draw = train_segmenter.draw_crop

    def draw(image, target, *rest):
        drawn.append(float(image.mean()))
        return real_draw(image, target, *rest)

    monkeypatch.setattr(train_segmenter, "draw_crop", draw)
    low = [Pair("a", "a", np.full((16, 16, 16), -1.0, np.float32), np.zeros((16, 16, 16), np.uint8))]
    high = [Pair("b", "b", np.full((16, 16, 16), 1.0, np.float32), np.zeros((16, 16, 16), np.uint8))] * 9
    recipe = dataclasses.replace(QUICK, steps=100, batch=4)
    train_network([low, high], [0.5, 0.5], 1, recipe, seed=1)
    assert np.mean(np.array(drawn) > 0) == pytest.approx(0.5, abs=0.1)
    drawn.clear()
    train_network([low, high], None, 1, recipe, seed=1)  # by their numbers: 9 of 10
    assert np.mean(np.array(drawn) > 0) == pytest.approx(0.9, abs=0.06)


def test_cartoons_know_nothing_of_the_images_that_they_stand_for(data):
    painted = cartoons(data, data.parts["test"], data.parts["train"], seed=1)
    changed = [
        dataclasses.replace(c, image=c.image.with_array(np.zeros_like(c.image.array))) for c in data.parts["test"]
    ]
    again = cartoons(data, changed, data.parts["train"], seed=1)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(painted, again))
    assert all((a.target > 0).any() for a in painted)


# Statistics.


def networks_of(values: dict[str, np.ndarray], folds: int = 1) -> list[dict]:
    """Scores as a store has them, from (networks, patients) Dice by arm."""
    return [
        {
            "arm": arm,
            "fold": 1 + n % folds,
            "seed": n,
            "training": [["x"]],
            "scores": {
                "test": [{"case": f"c{p}", "patient": f"p{p}", "dice": {"t": float(d)}} for p, d in enumerate(r)]
            },
        }
        for arm, rows in values.items()
        for n, r in enumerate(rows)
    ]


def test_intervals_are_those_of_theory_where_theory_has_them():
    """With two networks that agree, Student's interval of a mean over patients; with one value for all patients, that
    of the networks' means; both by SciPy. A difference of networks that agree is the paired one."""
    from scipy import stats

    rng = np.random.default_rng(0)
    values = {arm: np.repeat(rng.normal(0.6, 0.1, (1, 8)), 2, 0) for arm in "ab"}
    of_networks = np.repeat(rng.normal(0.6, 0.01, (4, 1)), 6, 1)
    for arm, x in ((values["a"], values["a"][0]), (of_networks, of_networks[:, 0])):
        found = analysis.mean(analysis.scores_of(networks_of({"a": arm}), "a"))
        expected = stats.ttest_1samp(x, 0.0).confidence_interval()
        assert (found.low, found.high) == pytest.approx(tuple(expected))
    found = analysis.difference(*(analysis.scores_of(networks_of(values), arm) for arm in "ab"))
    expected = stats.ttest_rel(values["a"][0], values["b"][0]).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    # Two arms that differ in their networks only: Welch's interval.
    other = np.repeat(rng.normal(0.6, 0.05, (3, 1)), 6, 1)
    networks = networks_of({"a": of_networks, "b": other})
    found = analysis.difference(*(analysis.scores_of(networks, arm) for arm in "ab"))
    expected = stats.ttest_ind(of_networks[:, 0], other[:, 0], equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_networks_of_several_folds_differ_within_their_fold():
    values = np.repeat([[0.5], [0.9], [0.52], [0.92]], 5, 1)  # folds 1, 2, 1, 2
    apart = analysis.mean(analysis.scores_of(networks_of({"a": values}, folds=2), "a"))
    together = analysis.mean(analysis.scores_of(networks_of({"a": values}), "a"))
    assert apart.high - apart.low < 0.25 * (together.high - together.low)
    assert (together.low, together.high) == pytest.approx((0.34, 1.0), abs=0.05)  # not above 1
    one = analysis.mean(analysis.scores_of(networks_of({"a": np.array([[0.5]])}), "a"))
    assert one.value == 0.5 and np.isnan(one.low)


def test_without_two_networks_of_a_fold_those_of_all_folds_are_one_group():
    """And one network alone has no interval, however many patients it is tested on."""
    rng = np.random.default_rng(5)
    values = {arm: rng.normal(0.5, 0.1, (3, 9)) for arm in "ab"}
    each, one = (
        [analysis.scores_of(networks_of(values, folds), arm) for arm in "ab"] for folds in (3, 1)
    )  # three folds of one network, and one fold of three
    assert analysis.difference(*each) == analysis.difference(*one)
    assert analysis.difference_of_sets(*each) == analysis.difference_of_sets(*one)
    alone = [analysis.scores_of(networks_of({arm: v[:1] for arm, v in values.items()}), arm) for arm in "ab"]
    for found in (
        analysis.mean(alone[0]), analysis.difference(*alone), analysis.difference_of_sets(*alone),
        analysis.ratio_of_sets(*alone),
    ):  # fmt: skip
        assert np.isfinite(found.value) and np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize(
    "networks, of_networks, of_draws", [(3, 0.12, 0), (3, 0.02, 0), (5, 0.05, 0), (3, 0.02, 0.03), (3, 0.05, 0.03)]
)
def test_intervals_cover_what_they_are_of(networks, of_networks, of_draws):
    """Two arms with patients in common, noise of patients, of networks and of both: 95 % intervals hold the truth about
    as often as they say, also with three networks that went unevenly. Where each network is of another fold, whose draw
    of training patients both arms share, they hold that of a difference at least as often."""
    inside = np.zeros(3)
    trials = 400
    for trial in range(trials):
        rng = np.random.default_rng([1, trial])
        patient = rng.normal(0, 0.15, 20)
        draws = rng.normal(0, of_draws, (networks, 1)) if of_draws else 0.0
        folds = np.arange(networks) if of_draws else np.ones(networks, int)
        arms = {}
        for arm, mean in (("a", 0.5), ("b", 0.55)):
            own = rng.normal(0, 0.05, (1, 20)) + rng.normal(0, of_networks, (networks, 1)) + draws
            arms[arm] = mean + patient + own + rng.normal(0, 0.05, (networks, 20))
        a, b = (analysis.Scores(arms[arm], tuple(map(str, range(20))), folds) for arm in ("a", "b"))
        shift = analysis.Scores(a.values + rng.normal(0.1, 0.05, (1, 20)), a.patients, a.folds)
        for i, (found, truth) in enumerate(
            ((analysis.mean(a), 0.5), (analysis.difference(b, a), 0.05), (analysis.difference_of_sets(shift, a), 0.1))
        ):
            inside[i] += found.low <= truth <= found.high
    assert (inside / trials > 0.9).all() and (of_draws or (inside / trials < 0.995).all())


def test_the_interval_of_a_ratio_is_that_of_the_difference_where_nothing_else_varies():
    rng = np.random.default_rng(4)
    bottom = analysis.Scores(np.full((3, 9), 0.5), tuple("abcdefghi"), np.ones(3, int))
    top = analysis.Scores(bottom.values + rng.normal(0.1, 0.1, (3, 9)), bottom.patients, bottom.folds)
    found, apart = analysis.ratio_of_sets(top, bottom), analysis.difference_of_sets(top, bottom)
    for one, other in zip((found.value, found.low, found.high), (apart.value, apart.low, apart.high)):
        assert one == pytest.approx(1 + 2 * other)
    same = analysis.ratio_of_sets(top, top)
    assert (same.value, same.low, same.high) == pytest.approx((1.0, 1.0, 1.0))


def test_signed_rank_is_scipys():
    from scipy.stats import wilcoxon

    rng = np.random.default_rng(3)
    values = {"a": rng.random((3, 12)), "b": rng.random((3, 12))}
    a, b = (analysis.scores_of(networks_of(values), arm) for arm in "ab")
    assert analysis.signed_rank(a, b) == wilcoxon(values["a"].mean(0), values["b"].mean(0)).pvalue
    assert analysis.signed_rank(a, a) == 1.0


def test_a_patient_with_several_cases_counts_once():
    network = {
        "arm": "a", "fold": 1, "seed": 1, "training": [["x"]],
        "scores": {"test": [{"case": c, "patient": p, "dice": {"t": d}}
                            for c, p, d in (("1", "p", 0.2), ("2", "p", 0.4), ("3", "q", 0.9))]},
    }  # fmt: skip
    found = analysis.scores_of([network], "a")
    assert found.patients == ("p", "q") and found.values.tolist() == [[pytest.approx(0.3), 0.9]]


def test_the_worst_cases_are_those_of_the_validation_part():
    def network(validation: list[float], test: list[float]) -> dict:
        return {
            "scores": {
                part: [{"case": f"{part}{i}", "patient": f"{part}{i}", "dice": {"t": d}} for i, d in enumerate(values)]
                for part, values in (("validation", validation), ("test", test))
            }
        }

    networks = [network([0.9, 0.1, 0.5, 0.3, 0.8, 0.7], [0.0] * 5), network([0.9, 0.3, 0.5, 0.2, 0.8, 0.7], [1.0] * 5)]
    worst, others = augmentation.choose_cases(networks, augmentation.Settings(worst=2))
    assert worst == ["validation1", "validation3"] and len(others) == 2 and not set(worst) & set(others)


# The course on disk.


def test_a_store_goes_on_and_refuses_another_experiment(data, tmp_path, monkeypatch):
    store = Store(tmp_path / "out", data, QUICK)
    store.begin({"experiment": "x"})
    real, tests = data.real(data.parts["train"]), {"test": data.real(data.parts["test"])}
    first = store.network("real", 1, 1, [real], tests)
    assert first["training"] == [[c.name for c in data.parts["train"]]] and store.trained == 1
    again = Store(tmp_path / "out", data, QUICK)
    again.begin({"experiment": "x"})
    assert again.network("real", 1, 1, [real], tests) == json.loads(json.dumps(first)) and again.trained == 0
    again.network("real", 1, 1, [real[:-1]], tests)  # other examples: not the same network
    assert again.trained == 1
    (tmp_path / "out" / "networks" / "real-fold1-seed1.json").write_text("{")
    again.network("real", 1, 1, [real], tests)
    assert again.trained == 2
    with pytest.raises(BadInput, match="holds another experiment: its experiment"):
        again.begin({"experiment": "y"})
    late = Store(tmp_path / "out", data, QUICK, minutes=1e-9)
    with pytest.raises(Unfinished, match="0 networks"):
        late.network("real", 1, 2, [real], tests)


def test_augmentation_from_one_end_to_the_other(data, tmp_path):
    """All arms, as many steps each, the test patients in none of them; interrupted in the middle of the volumes."""
    package = package_of(tmp_path / "model", data.patients("train"))
    settings = augmentation.Settings(seeds=2, worst=2, per_case=2)
    store = Store(tmp_path / "out", data, QUICK)
    calls = iter(range(1000))

    def interrupt() -> None:
        if next(calls) == 5:
            raise Unfinished("over")

    store.check_time = interrupt
    sampling = Sampling(steps=1, device="cpu", precision="fp32")
    with pytest.raises(Unfinished):
        augmentation.run_augmentation(data, package, store, settings, sampling)
    made = len(list((tmp_path / "out" / "synthetic").rglob("*.nii.gz")))
    store = Store(tmp_path / "out", data, QUICK)
    found = augmentation.run_augmentation(data, package, store, settings, sampling)
    assert {n["arm"] for n in found["networks"]} == set(augmentation.ARMS) and len(found["networks"]) == 16
    assert made < len(list((tmp_path / "out" / "synthetic").rglob("*.nii.gz"))) == 6 + 2 * 2 + 2 * 2
    tested = {c.name for c in data.parts["test"]} | set(data.patients("test"))
    for network in found["networks"]:
        assert network["steps"] == QUICK.steps
        assert not any(t in case for g in network["training"] for case in g for t in tested)
        assert [s["case"] for s in network["scores"]["test"]] == [c.name for c in data.parts["test"]]
    sizes = {n["arm"]: [len(g) for g in n["training"]] for n in found["networks"]}
    assert sizes["real-targeted"] == sizes["real-untargeted"] == sizes["real-cartoons"] == [SPLIT[0], 4]
    assert sizes["synthetic"] == sizes["cartoons"] == [SPLIT[0]]


def test_gap_compares_the_same_masks(data, tmp_path):
    package = package_of(tmp_path / "model", data.patients("train"))
    store = Store(tmp_path / "out", data, QUICK)
    found = gap.run_gap(data, package, store, gap.Settings(seeds=1), Sampling(steps=1, device="cpu", precision="fp32"))
    parts = found["networks"][0]["scores"]
    assert set(parts) == set(gap.SETS)
    assert len({tuple(s["patient"] for s in part) for part in parts.values()}) == 1
    with pytest.raises(BadInput, match="patients that the arm does not have"):
        gap.run_gap(data, package_of(tmp_path / "b", data.patients("test")), store, gap.Settings(), Sampling())


# The command.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--patch", "20"], "'20' is no crop"),
        (["--folds", "2"], "Several folds need a generator"),
        (["--minutes", "-1"], "--minutes is -1"),
        (["--targets", "spleen"], "'spleen' is no class"),
    ],
)
def test_command_refuses(folder, tmp_path, capsys, arguments, message):
    command = ["evaluate", "utility", "augmentation", "--data", str(folder), "--model", "lung-nodule-ct"]
    assert main([*command, "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_refuses_a_model_of_other_patients(folder, tmp_path, capsys):
    """The shipped model was trained on patients that this data set does not have."""
    command = ["evaluate", "utility", "gap", "--data", str(folder), "--model", "lung-nodule-ct"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "patients that the arm does not have" in capsys.readouterr().err
