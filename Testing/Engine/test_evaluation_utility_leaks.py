"""Who may know whom in the utility experiments: generators, their earlier stages, and the parts of the data set."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from tiny_utility import package_of, prepared

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.utility import generators, scarcity
from SynthDiffusionLib.evaluation.utility.generators import check_configs, check_subset, toml_text
from SynthDiffusionLib.evaluation.utility.pairs import load_data
from SynthDiffusionLib.evaluation.utility.store import Unfinished
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.training import train as training
from SynthDiffusionLib.training.dataset import description_sha256
from SynthDiffusionLib.training.files import save_state

STAGES = {
    "slice_ldm": ("autoencoder", "refiner", "diffusion"),
    "med_lsdm": ("autoencoder", "diffusion"),
    "medlord": ("autoencoder", "diffusion", "controlnet"),
}
FOREIGN = {"autoencoder": "autoencoder", "refiner": "refiner", "denoiser": "diffusion", "initial": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return prepared(tmp_path_factory.mktemp("utility"))


@pytest.fixture(scope="module")
def data(folder):
    return load_data(folder, None, None, 5)


# Packages.


def test_a_generator_that_knows_others_is_refused(data, tmp_path):
    arm, validation = data.patients("train"), data.patients("validation")
    allowed = (arm, validation, data.case_patients)
    knows_all = package_of(tmp_path / "a", arm)
    assert check_subset(knows_all, *allowed) == {"generator_patients": 6, "arm_patients": 6}
    # A case's name is as good as a patient's.
    by_case = package_of(tmp_path / "b", [c.name for c in data.parts["train"]])
    assert check_subset(by_case, *allowed)["generator_patients"] == 6
    with pytest.raises(BadInput, match="trained on 1 patient that the arm does not have"):
        check_subset(knows_all, arm[:-1], *allowed[1:])
    with pytest.raises(BadInput, match="trained on 1 patient that the arm does not have"):
        check_subset(package_of(tmp_path / "d", arm + data.patients("test")[:1]), *allowed)
    with pytest.raises(BadInput, match="does not say which patients"):
        check_subset(package_of(tmp_path / "e", []), *allowed)


def test_validation_patients_may_choose_a_generator_but_not_train_it(data, tmp_path):
    arm, validation, tested = (data.patients(part) for part in ("train", "validation", "test"))
    allowed = (arm, validation, data.case_patients)
    chosen = package_of(tmp_path / "a", arm[:2], validation)
    assert check_subset(chosen, *allowed) == {"generator_patients": 2, "arm_patients": 6}
    with pytest.raises(BadInput, match="trained on 2 patients that the arm does not have"):
        check_subset(package_of(tmp_path / "b", arm + validation[:2]), *allowed)
    with pytest.raises(BadInput, match="validated with 1 patient that the arm does not have"):
        check_subset(package_of(tmp_path / "c", arm, validation + tested[:1]), *allowed)
    with pytest.raises(BadInput, match="does not say which patients it was trained on"):
        check_subset(package_of(tmp_path / "d", [], validation), *allowed)


def test_the_shipped_lung_model_fits_the_data_that_it_was_trained_on():
    split = load_package("lung-nodule-ct").spec.training.split
    patients = {part: list(names) for part, names in split.items()}
    found = check_subset(load_package("lung-nodule-ct"), patients["train"], patients["validation"], {})
    assert found == {"generator_patients": 67, "arm_patients": 67}


# Configurations of generators.


def write_stage(folder: Path, method: str, stage: str, losses: str = "off", **run: str) -> Path:
    path = folder / f"{method}-{stage}.toml"
    values = {"run": {"method": method, "stage": stage, **run}, "losses": {"perceptual": losses}}
    path.write_text(toml_text(values), encoding="utf-8")
    return path


@pytest.mark.parametrize("method", STAGES)
def test_every_path_of_a_configuration_is_the_arms_own_or_refused(tmp_path, method, monkeypatch):
    """Every setting that is a path; `data` is always replaced. The names are those of the method's own class."""
    settings = generators._weights(method, tmp_path)
    assert settings <= set(FOREIGN) and {"autoencoder", "initial"} <= settings
    stages = STAGES[method]
    plain = [write_stage(tmp_path, method, stage) for stage in stages[:-1]]
    for setting in settings:
        last = write_stage(tmp_path, method, stages[-1], **{setting: "elsewhere"})
        earlier = FOREIGN[setting]
        if earlier in stages[:-1]:
            check_configs([*plain, last])
            given = [c for c in plain if not c.stem.endswith(f"-{earlier}")]
            mend = f"Give --generator the TOML file of the stage {earlier} too"
        else:
            given, mend = plain, f"Take {setting} out of" if earlier is None else "Give --generator"
        for configs in ([*given, last], [last, *plain]):  # also where the stage comes too late
            with pytest.raises(BadInput, match=rf"takes weights from elsewhere: \[run\] {setting}") as refused:
                check_configs(configs)
            assert mend in refused.value.hint
    monkeypatch.setattr(training, "train", lambda *arguments, **settings: pytest.fail("trained"))
    with pytest.raises(BadInput, match="takes weights from elsewhere"):
        generators.train_generator([last], tmp_path, tmp_path / "out", seed=1)
    assert not (tmp_path / "out").exists()


def test_other_weights_from_elsewhere(tmp_path):
    plain = tmp_path / "plain.toml"
    plain.write_text("[run]\n")
    check_configs([plain])  # the patch-wise DDPM
    plain.write_text('[run]\ninitial_weights = "denoiser.safetensors"\n')
    with pytest.raises(BadInput, match=r"\[run\] initial_weights"):
        check_configs([plain])
    check_configs([write_stage(tmp_path, "slice_ldm", "autoencoder", "vgg")])  # photographs
    with pytest.raises(BadInput, match="perceptual = 'medicalnet_resnet10_23datasets'"):
        check_configs([write_stage(tmp_path, "slice_ldm", "autoencoder", "medicalnet_resnet10_23datasets")])
    with pytest.raises(BadInput, match="Two configurations are of the stage 'autoencoder'"):
        check_configs([write_stage(tmp_path, m, "autoencoder") for m in ("slice_ldm", "medlord")])
    with pytest.raises(BadInput, match="Unknown method 'x'"):
        check_configs([write_stage(tmp_path, "x", "autoencoder")])


def test_stages_are_trained_on_each_other(tmp_path, monkeypatch):
    """The folder of every earlier stage, the denoiser of the ControlNet among them, is the arm's own."""
    own = {"autoencoder": "ae", "denoiser": "d"}
    configs = [
        write_stage(tmp_path, "medlord", "autoencoder"),
        write_stage(tmp_path, "medlord", "diffusion", autoencoder="ae"),
        write_stage(tmp_path, "medlord", "controlnet", **own),
    ]
    trained = []

    def train(config: Path, out: Path, **settings) -> Path:
        trained.append(tomllib.loads(config.read_text(encoding="utf-8"))["run"])
        (out / "package").mkdir()
        return out / "package"

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(BadInput, match="makes no model package"):
        generators.train_generator(configs, tmp_path / "part", tmp_path / "out", seed=4)
    folders = {stage: str((tmp_path / "out" / stage).resolve()) for stage in ("autoencoder", "diffusion")}
    assert trained[2]["autoencoder"] == folders["autoencoder"] and trained[2]["denoiser"] == folders["diffusion"]
    assert {r["data"] for r in trained} == {str((tmp_path / "part").resolve())} and {r["seed"] for r in trained} == {4}


def test_a_stage_that_is_damaged_or_was_trained_by_another_hand_is_trained_anew(tmp_path, monkeypatch):
    """And all that build on it: the remedy may not be a training on patients whom the arm does not have."""
    configs = [
        write_stage(tmp_path, "slice_ldm", "autoencoder"),
        write_stage(tmp_path, "slice_ldm", "diffusion", autoencoder="x"),
    ]
    part, where = tmp_path / "part", tmp_path / "out" / "fold1"
    part.mkdir()
    (part / "dataset.json").write_text("{}")
    trained, told = [], []

    def train(config: Path, out: Path, *, resume: bool, **settings) -> Path:
        trained.append((out.name, resume))
        save_state(out / "checkpoint.pt", {"data_sha256": description_sha256(part)})
        (out / "summary.json").write_text("{}")
        (out / "package").mkdir()
        (out / "package" / "model.json").write_text("{}")
        return out / "package"

    def again() -> list[tuple[str, bool]]:
        trained.clear()
        told.clear()
        generators.train_generator(configs, part, where, seed=1, on_event=lambda e: told.append(e["message"]))
        return trained

    def unfinished() -> Path:
        for name in ("done.json", "summary.json", "package/model.json"):
            (where / "diffusion" / name).unlink()
        (where / "diffusion" / "package").rmdir()
        return where / "diffusion" / "checkpoint.pt"

    monkeypatch.setattr(training, "train", train)
    first, second = ("autoencoder", False), ("diffusion", False)
    assert again() == [first, second] and not told
    assert again() == []
    (where / "autoencoder" / "checkpoint.pt").write_text("of other patients")
    assert again() == [first, second] and "autoencoder: trained anew: it is not as this experiment left it" in told[0]
    (where / "diffusion" / "package" / "model.json").write_text("[]")
    assert again() == [second]
    # Ended before the stage was: gone on with, unless it is damaged or was begun on other patients.
    unfinished()
    assert again() == [("diffusion", True)] and not told
    unfinished().write_text("damaged")
    assert again() == [second] and "is damaged" in told[0]
    save_state(unfinished(), {"data_sha256": "of other patients"})
    assert again() == [second] and told[0].endswith("'checkpoint.pt' was not trained on the arm's patients")


def test_the_command_refuses_foreign_weights_and_changed_configurations(folder, tmp_path, capsys, monkeypatch):
    """Before any work; comments, and what is replaced, may change."""

    def unfinished(*arguments):
        raise Unfinished("over")

    monkeypatch.setattr(scarcity, "run_scarcity", unfinished)
    stages = [write_stage(tmp_path, "slice_ldm", "autoencoder"),
              write_stage(tmp_path, "slice_ldm", "diffusion", autoencoder="x", data="a")]  # fmt: skip
    command = ["evaluate", "utility", "scarcity", "--data", str(folder), "--out", str(tmp_path / "out"), "--generator"]
    assert main([*command, str(stages[1])]) == 2
    assert "takes weights from elsewhere: [run] autoencoder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    command += [str(path) for path in stages]
    assert main(command) == 1
    write_stage(tmp_path, "slice_ldm", "diffusion", autoencoder="y", data="b").open("a").write("# a comment\n")
    capsys.readouterr()
    assert main(command) == 1 and "over" in capsys.readouterr().err
    write_stage(tmp_path, "slice_ldm", "autoencoder", steps="8")
    assert main(command) == 2
    assert "its generators were trained by other settings than --generator now has" in capsys.readouterr().err
    plan = tmp_path / "out" / "plan.json"
    plan.write_text(json.dumps({k: v for k, v in json.loads(plan.read_text()).items() if k != "generator"}))
    assert main(command) == 2
    assert "its plan does not say by which settings its generators were trained" in capsys.readouterr().err


# The data set.


def changed(folder: Path, copy: Path, change) -> Path:
    """A copy of a data set whose description, or files, `change` has changed."""
    shutil.copytree(folder, copy)
    content = json.loads((copy / "dataset.json").read_text())
    change(content, *(content["split"][part][0] for part in ("train", "validation", "test")))
    (copy / "dataset.json").write_text(json.dumps(content))
    return copy


def renamed(folder: Path, copy: Path, train: str, test: str) -> Path:
    """A copy in which a patient of the training part and one of the test part have these names."""

    def rename(content, of_train, _, of_test):
        content["cases"][of_train]["patient"], content["cases"][of_test]["patient"] = train, test

    return changed(folder, copy, rename)


@pytest.mark.parametrize("names", [("p", "p"), ("P01-x", "p01-X"), ("p_0000", "P")])
def test_a_patient_in_two_parts_is_refused(folder, tmp_path, names):
    """Also where the names differ in upper and lower case."""
    with pytest.raises(BadInput, match="is in the parts train and test"):
        load_data(renamed(folder, tmp_path / "copy", *names), None, None, 5)


def test_names_that_may_be_of_one_patient_are_told(folder, tmp_path):
    events: list[dict] = []
    load_data(renamed(folder, tmp_path / "copy", "Q_01", "q1"), None, None, 5, events.append)
    assert [(e["event"], e["report"]) for e in events] == [("warning", True)]
    assert "test: Perhaps the same patient under another name: 'q1' ('Q_01' in the part train)" in events[0]["message"]


def test_an_image_in_two_parts_is_refused(folder, tmp_path):
    """By the checksum of its source, and by its voxels where that says nothing."""

    def source(content, train, validation, test):
        content["cases"][test]["image_sha256"] = content["cases"][validation]["image_sha256"]

    def voxels(content, train, validation, test):
        images = tmp_path / "voxels" / "images"
        shutil.copyfile(images / f"{train}.nii.gz", images / f"{test}.nii.gz")
        del content["cases"][test]["image_sha256"]

    for change, part in ((source, "validation"), (voxels, "train")):
        with pytest.raises(BadInput, match=f"in the part test holds the same image as '.*' in the part {part}"):
            load_data(changed(folder, tmp_path / change.__name__, change), None, None, 5)
