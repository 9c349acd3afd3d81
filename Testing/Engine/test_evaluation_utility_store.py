"""What an experiment keeps on disk: changed test images are scored again, damaged files are told or passed over."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_utility import SPLIT, prepared

from SynthDiffusionLib.cli import evaluate_utility, main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets.results import problem_of, read_result
from SynthDiffusionLib.evaluation.utility import gap, store, synthesis
from SynthDiffusionLib.evaluation.utility.networks import Recipe
from SynthDiffusionLib.evaluation.utility.pairs import Pair, load_data

QUICK = Recipe(steps=2, batch=1, patch=(16, 16, 16), channels=(4, 8), precision="fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return prepared(tmp_path_factory.mktemp("utility"))


@pytest.fixture(scope="module")
def data(folder):
    return load_data(folder, None, None, 5)


@pytest.fixture
def trainings(monkeypatch) -> list[int]:
    """Seeds of the networks that were really trained."""
    done: list[int] = []
    original = store.train_network

    def counting(groups, shares, targets, recipe, seed, *rest):
        done.append(seed)
        return original(groups, shares, targets, recipe, seed, *rest)

    monkeypatch.setattr(store, "train_network", counting)
    return done


def warnings(events: list[dict]) -> list[str]:
    return [e["message"] for e in events if e["event"] == "warning"]


def noise(pairs: list[Pair]) -> list[Pair]:
    rng = np.random.default_rng(1)
    return [dataclasses.replace(p, image=rng.uniform(-1, 1, p.image.shape).astype(np.float32)) for p in pairs]


def test_changed_test_images_or_masks_are_scored_again_by_the_same_network(data, tmp_path, trainings):
    real, test = data.real(data.parts["train"]), data.real(data.parts["test"])
    emptied = [dataclasses.replace(p, target=np.zeros_like(p.target)) for p in test]
    events: list[dict] = []
    first = store.Store(tmp_path / "a", data, QUICK).network("real", 1, 1, [real], {"test": test})
    again = store.Store(tmp_path / "a", data, QUICK, on_event=events.append)
    for changed in (noise(test), emptied):
        found = again.network("real", 1, 1, [real], {"test": changed})
        # The oracle: the same network scored on these images from the beginning.
        fresh = store.Store(tmp_path / f"b{len(trainings)}", data, QUICK).network(
            "real", 1, 1, [real], {"test": changed}
        )
        assert found["scores"] == fresh["scores"] != first["scores"]
    assert trainings == [1, 1, 1] and again.trained == 0  # those of the oracle, and the first
    told = "real-fold1-seed1: test images or masks have changed (set 'test'): scored again"
    assert warnings(events) == [told, told]
    assert again.network("real", 1, 1, [real], {"test": test}) == json.loads(json.dumps(first))
    (tmp_path / "a" / "networks" / "real-fold1-seed1.safetensors").write_bytes(b"damaged")
    events.clear()
    assert again.network("real", 1, 1, [real], {"test": test})["scores"] == first["scores"] and again.trained == 0
    found = again.network("real", 1, 1, [real], {"test": emptied})
    assert found["scores"] == fresh["scores"] and again.trained == 1
    assert warnings(events) == [
        "real-fold1-seed1: the kept weights are damaged: the scores from before are used",
        "real-fold1-seed1: test images or masks have changed (set 'test'), and the kept weights are damaged: trained "
        "and scored again",
    ]


def test_what_is_done_again_is_told_with_its_reason(data, tmp_path, trainings):
    real, tests = data.real(data.parts["train"]), {"a": [], "b": data.real(data.parts["test"])}
    events: list[dict] = []
    kept = store.Store(tmp_path, data, QUICK, on_event=events.append)
    path = tmp_path / "networks" / "real-fold1-seed1.json"
    for groups in ([real], [real], [noise(real)]):
        kept.network("real", 1, 1, groups, tests)
    assert warnings(events) == [
        "real-fold1-seed1: training images or masks of arm 'real' have changed: trained and scored again"
    ]
    path.write_text("{")
    kept.network("real", 1, 1, [real], tests)
    path.with_suffix(".safetensors").unlink()
    kept.network("real", 1, 1, [real], tests)  # the scores are there
    kept.network("real", 1, 1, [real], tests | {"b": noise(tests["b"])})
    assert warnings(events)[1:] == [
        "real-fold1-seed1: the kept scores are damaged: trained and scored again",
        "real-fold1-seed1: test images or masks have changed (set 'b'), and the kept weights are gone: trained and "
        "scored again",
    ]
    assert trainings == [1, 1, 1, 1]


def test_a_network_of_another_recipe_is_not_taken(data, tmp_path, trainings):
    """Not even where somebody has removed the plan, which would have refused."""
    real, test = data.real(data.parts["train"]), data.real(data.parts["test"])
    for recipe in (QUICK, dataclasses.replace(QUICK, steps=3), dataclasses.replace(QUICK, steps=3, learning_rate=0.1)):
        for _ in range(2):
            store.Store(tmp_path, data, recipe).network("real", 1, 1, [real], {"test": test})
    assert trainings == [1, 1, 1]


def test_results_of_before_are_taken_while_no_file_is_newer(folder, tmp_path, trainings):
    shutil.copytree(folder, tmp_path / "data")
    data = load_data(tmp_path / "data", None, None, 5)
    real, tests = data.real(data.parts["train"]), {"test": data.real(data.parts["test"])}
    kept = store.Store(tmp_path / "out", data, QUICK)
    path = tmp_path / "out" / "networks" / "real-fold1-seed1.json"
    first = kept.network("real", 1, 1, [real], tests)
    old = {k: v for k, v in first.items() if not k.endswith("sha256") or k == "training_sha256"}
    path.with_suffix(".safetensors").unlink()
    path.write_text(json.dumps(old))
    assert kept.network("real", 1, 1, [real], tests)["scores"] == first["scores"]
    assert "tests_sha256" in json.loads(path.read_text()) and trainings == [1]  # from now on, changes are seen
    path.write_text(json.dumps(old))
    os.utime(path, (1, 1))
    with pytest.raises(BadInput, match="does not say which images the network was tested on.*is newer"):
        kept.network("real", 1, 1, [real], tests)


@pytest.mark.parametrize("content", ["[]", "5", "null", '"x"', "{", "[" * 100_000])
def test_a_plan_that_is_none(data, tmp_path, content):
    (tmp_path / store.PLAN).write_text(content)
    with pytest.raises(BadInput, match="plan.json' is damaged"):
        store.Store(tmp_path, data, QUICK).begin({"experiment": "x"})


def test_damaged_files_of_networks_that_are_not_asked_for_are_passed_over(data, tmp_path):
    networks = tmp_path / "networks"
    networks.mkdir()
    for name, content in {"a": '{"seconds": 2.5}', "b": "{", "c": "[]", "d": '{"seconds": "x"}', "e": "{}"}.items():
        (networks / f"{name}.json").write_text(content)
    assert store.Store(tmp_path, data, QUICK).seconds() == 2.5


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--steps", "0"], "--steps is 0"),
        (["--steps", "-5"], "--steps is -5"),
        (["--guidance", "nan"], "--guidance is nan"),
        (["--guidance", "inf"], "--guidance is inf"),
        (["--seed", "-1"], "'-1' is no seed"),
        (["--seed", "1.5"], "'1.5' is no seed"),
        ([], "patients that the arm does not have"),  # seen after the plan was written
    ],
)
def test_a_refused_command_leaves_the_folder_free_for_the_corrected_one(folder, tmp_path, capsys, arguments, message):
    command = ["evaluate", "utility", "gap", "--data", str(folder), "--model", "lung-nodule-ct"]
    try:
        code = main([*command, "--out", str(tmp_path / "out"), *arguments])
    except SystemExit as ended:
        code = ended.code
    assert code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_plan_under_which_something_was_done_stays(data, tmp_path):
    kept = store.Store(tmp_path / "out", data, QUICK)
    kept.begin({"experiment": "x"})
    (tmp_path / "out" / "networks").mkdir()
    (tmp_path / "out" / "networks" / "a.json").write_text("{}")
    kept.undo()
    assert (tmp_path / "out" / store.PLAN).is_file()
    again = store.Store(tmp_path / "out", data, QUICK)
    (tmp_path / "out" / "networks" / "a.json").unlink()
    again.begin({"experiment": "x"})
    again.undo()  # the plan was not of this call
    assert (tmp_path / "out" / store.PLAN).is_file()


def test_the_result_says_which_files_it_is_of(folder, data, tmp_path, monkeypatch, capsys):
    """And a cancelled command says that it can go on."""
    real, tests = data.real(data.parts["train"]), data.real(data.parts["test"])

    def found(data, package, kept, *rest):
        sets = dict.fromkeys(gap.SETS, tests)
        networks = [kept.network(gap.REAL, 1, seed, [real], sets) for seed in (1, 2)]
        return {"networks": networks, "leak": {}, "examples": []}

    monkeypatch.setattr(gap, "run_gap", found)
    command = ["evaluate", "utility", "gap", "--data", str(folder), "--model", "lung-nodule-ct", "--seeds", "2"]
    command += ["--network-steps", "2", "--patch", "16", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    result = read_result(tmp_path / "out" / "utility.json")
    assert problem_of(result) is None
    assert {s["role"]: (s["volumes"], s["patients"]) for s in result["sets"]} == dict(
        zip(("training", "validation", "test"), [(n, n) for n in SPLIT])
    )
    names = [f"{kind}/{c.name}.nii.gz" for c in data.parts["test"] for kind in ("images", "classes")]
    sums = sorted(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names)
    assert result["sets"][2]["sha256"] == hashlib.sha256("".join(sums).encode()).hexdigest()
    assert f"test: {SPLIT[2]} volumes of {SPLIT[2]} patients" in capsys.readouterr().out

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(gap, "run_gap", interrupted)
    assert main(command) == 130
    assert "Cancelled. What was done is kept in --out: the same command goes on" in capsys.readouterr().err
    assert evaluate_utility.HELP


def test_progress_counts_what_is_there(data, tmp_path, monkeypatch):
    """14 of 28 kept: the first that is told is the fifteenth."""
    names = [c.name for c in data.parts["test"]]
    made = []
    monkeypatch.setattr(synthesis, "_run", lambda request: made.append(request.seed) or {})
    monkeypatch.setattr(synthesis, "_entry", lambda made, out: {"file": "x"})
    monkeypatch.setattr(synthesis, "_read", lambda out, package: {"made": {f"{n}-1": {"file": "x"} for n in names[:3]}})
    monkeypatch.setattr(synthesis, "_intact", lambda out, entry: True)
    monkeypatch.setattr(synthesis, "_write", lambda out, index: None)
    monkeypatch.setattr(synthesis, "read_pair", lambda *arguments: arguments[1])
    events: list[dict] = []
    package = type("Package", (), {"folder": tmp_path})
    wanted = [(n, 1) for n in names]
    synthesis.make_for_masks(
        package, data, wanted, "test", tmp_path, synthesis.Sampling(device="cpu"), events.append, lambda: None
    )
    assert [(e["step"], e["total"]) for e in events] == [(3, 5), (4, 5)] and made == [1, 1]
