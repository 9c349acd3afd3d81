"""The data-scarce experiment: generators of their own, and the reports of all three experiments."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from tiny_training_slice_ldm import write_config
from tiny_utility import prepared, scored

pytest.importorskip("matplotlib")

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets import results
from SynthDiffusionLib.evaluation.utility import augmentation, gap, scarcity
from SynthDiffusionLib.evaluation.utility.networks import Recipe
from SynthDiffusionLib.evaluation.utility.pairs import load_data
from SynthDiffusionLib.evaluation.utility.report import report
from SynthDiffusionLib.evaluation.utility.store import Store
from SynthDiffusionLib.evaluation.utility.synthesis import Sampling, make_jointly
from SynthDiffusionLib.models import load_package

QUICK = Recipe(steps=2, batch=1, patch=(16, 16, 16), channels=(4, 8), precision="fp32")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Two and four patients, two pairs each, from one end to the other."""
    folder = tmp_path_factory.mktemp("scarcity")
    data = load_data(prepared(folder), None, None, 5)
    configs = [
        write_config(folder, "autoencoder", data.folder),
        write_config(folder, "diffusion", data.folder, ('refiner = "refiner"\n', "")),
    ]
    store = Store(folder / "out", data, QUICK)
    settings = scarcity.Settings(patients=(2, 4), pairs=2, seeds=2, seed=3)
    sampling = Sampling(steps=1, device="cpu", precision="fp32")
    try:
        found = scarcity.run_scarcity(data, configs, store, settings, sampling)
    except BadInput as error:  # random weights may make no mask at all
        pytest.skip(error.message)
    return data, configs, store, settings, sampling, found


def test_every_arm_has_a_generator_that_knows_its_own_patients_only(experiment):
    data, _, store, settings, _, found = experiment
    tested = set(data.patients("test"))
    for number in settings.patients:
        name = f"fold1-n{number:02d}"
        package = load_package(str(store.out / "generators" / name / "diffusion" / "package"))
        patients = {data.case_patients.get(c, c) for c in package.spec.training.split["train"]}
        assert patients == set(found["patients"][name]) and len(patients) == number and not patients & tested
        assert found["leak"][name] == {"generator_patients": number, "arm_patients": number}
        files = {p.name for p in (store.out / "parts" / name / "images").iterdir()}
        assert not files & {f"{c.name}.nii.gz" for c in data.parts["test"]}


def test_all_arms_are_there_with_as_many_steps(experiment):
    _, _, _, settings, _, found = experiment
    arms = [scarcity.arm_name(arm, n) for n in settings.patients for arm in scarcity.ARMS]
    assert sorted({n["arm"] for n in found["networks"]}) == sorted(arms)
    assert {n["steps"] for n in found["networks"]} == {QUICK.steps}
    assert len(found["networks"]) == len(arms) * settings.seeds


def test_it_goes_on_without_training_again(experiment):
    data, configs, store, settings, sampling, found = experiment
    again = Store(store.out, data, QUICK)
    assert scarcity.run_scarcity(data, configs, again, settings, sampling)["networks"] == json.loads(
        json.dumps(found["networks"])
    )
    assert again.trained == 0


def test_empty_masks_are_counted_and_drawn_again(experiment, tmp_path, monkeypatch):
    data, _, store, _, sampling, _ = experiment
    from SynthDiffusionLib.evaluation.utility import synthesis

    package = load_package(str(store.out / "generators" / "fold1-n04" / "diffusion" / "package"))
    real_read = synthesis.read_pair
    turn = iter(range(100))

    def read(*arguments):
        pair = real_read(*arguments)
        target = np.ones_like(pair.target) if next(turn) % 2 else np.zeros_like(pair.target)
        return dataclasses.replace(pair, target=target)

    monkeypatch.setattr(synthesis, "read_pair", read)
    pairs, empty = make_jointly(package, data, 2, 1, tmp_path / "pairs", sampling)
    assert len(pairs) == 2 and empty == 2
    monkeypatch.setattr(synthesis, "MOST_EMPTY", 0)
    with pytest.raises(BadInput, match="left 1 of 1 masks empty"):
        make_jointly(package, data, 2, 1, tmp_path / "pairs", sampling)


def test_the_report_says_what_was_found(experiment, tmp_path):
    """A clear gain, a clear loss and none, in words; the page, the JSON and every Dice as CSV."""
    data = experiment[0]
    cases = {
        "augmentation": (
            augmentation.Settings(),
            {"networks": scored(augmentation.ARMS, ["test", "validation"],
                                gains={"real-targeted": 0.1, "synthetic": -0.2})}
            | {"worst": ["x"], "others": ["y"], "leak": {}},
            ["worst validation masks raises the Dice: +0.100", "training mask does not clearly change the Dice",
             "That is clearly more than cartoons", "minus real) is clear: -0.200"],
        ),
        "gap": (
            gap.Settings(),
            {"networks": scored(["real"], list(gap.SETS), gains={"synthetic": -0.05}), "leak": {}},
            ["-0.050", "a clear difference", "it does not say that the image is realistic"],
        ),
        "scarcity": (
            scarcity.Settings(patients=(5,)),
            {"networks": scored([scarcity.arm_name(a, 5) for a in scarcity.ARMS], ["test"],
                                gains={"real-synthetic-n05": 0.07, "real-cartoons-n05": 0.07})}
            | {"leak": {}, "empty": {}, "patients": {}},
            ["5 real patients: adding 50 synthetic pairs raises the Dice: +0.070",
             "The difference (pairs minus cartoons) is not clear"],
        ),
    }  # fmt: skip
    for name, (settings, found, sentences) in cases.items():
        measured = report(name, data, QUICK, settings, found)
        result = results.assemble(
            "utility", measured.sections, sets=[], settings=measured.settings, definitions=measured.definitions,
            command="synthdiffusion evaluate utility", seconds=1.0,
        )  # fmt: skip
        paths = results.write_result(result, tmp_path / name)
        text = " ".join(s for section in result["sections"] for s in section["sentences"])
        for sentence in sentences:
            assert sentence in text, (name, sentence, text)
        assert "<svg" in paths["html"].read_text(encoding="utf-8")
        rows = paths["each"].read_text(encoding="utf-8").splitlines()
        assert len(rows) == 1 + sum(len(s) for n in found["networks"] for s in n["scores"].values())
        assert results.read_result(paths["json"])["settings"]["experiment"] == name
        assert any(line.startswith("- ") for line in results.console_lines(result))
