"""Going on from an earlier run's weights: what is taken over, what it is told of, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_medlord as medlord
import tiny_training_med_lsdm as med_lsdm
import tiny_training_slice_ldm as slice_ldm
import torch
from tiny_training import prepared_set
from tiny_training import write_config as write_patch_config

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.models.characteristics import CharacteristicsSpec
from SynthDiffusionLib.training.train import train

slice_data, slice_run = slice_ldm.slice_data, slice_ldm.slice_run
STILL = ("learning_rate = 1e-3", "learning_rate = 1e-12")


def begun(tiny, run: Path, data: Path, folder: Path, *changes: tuple[str, str]) -> Path:
    """Trains a step from the weights of a finished run; returns the folder of the new run."""
    stages = [(f'"{stage}"', f'"{(run / stage).as_posix()}"') for stage in ("autoencoder", "refiner")]
    stages = [change for change in stages if f"{change[0]}\n" in tiny.TEXTS["diffusion"].split("[network]")[0]]
    lines = ("steps = 4\n", f'steps = 1\ninitial = "{(run / "diffusion").as_posix()}"\n')
    config = tiny.write_config(folder, "diffusion", data, lines, STILL, *stages, *changes)
    train(config, folder / "again", device="cpu", on_event=lambda event: None)
    return folder / "again"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint.pt", weights_only=True)["weights"]


def test_the_slice_based_model_goes_on_where_it_was_and_counts_its_steps(slice_run, slice_data, tmp_path):
    again = begun(slice_ldm, slice_run["folder"], slice_data, tmp_path)
    for name, tensor in weights(slice_run["folder"] / "diffusion").items():
        torch.testing.assert_close(weights(again)[name], tensor, rtol=0, atol=1e-6)
    assert load_package(again / "package").spec.provenance["steps"]["diffusion"] == 4 + 1


def test_characteristics_may_be_scaled_otherwise_and_mean_the_same(slice_run, slice_data, tmp_path):
    again = begun(slice_ldm, slice_run["folder"], slice_data, tmp_path, ("drop = 0.25", 'scaling = "deviation"'))
    before, after = (load_package(p).spec.characteristics for p in (slice_run["package"], again / "package"))
    assert not any(before.offset) and all(after.offset[:3])
    assert CharacteristicsSpec.from_json(json.loads(json.dumps(after.to_json()))) == after
    middle = np.array([q[10] for q in after.quantiles])
    assert np.abs(after.for_network(middle)).max() < 1.0  # standard deviations from the mean

    def features(run: Path, spec: CharacteristicsSpec) -> torch.Tensor:
        state = weights(run)
        weight, bias = (state[f"unet.class_embedding.mlp.0.{name}"].double() for name in ("weight", "bias"))
        return weight @ torch.from_numpy(spec.for_network(middle)) + bias

    first, second = features(slice_run["folder"] / "diffusion", before), features(again, after)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tiny", [medlord, med_lsdm], ids=["medlord", "med_lsdm"])
def test_the_other_methods_go_on_too_and_refuse_what_does_not_fit(tiny, tmp_path):
    data, run = prepared_set(tmp_path / "data"), tmp_path / "run"
    run.mkdir()
    for stage in ("autoencoder", "diffusion"):
        config = tiny.write_config(run, stage, data)
        train(config, run / stage, device="cpu", on_event=lambda event: None)
    again = begun(tiny, run, data, tmp_path)
    state = torch.load(again / "checkpoint.pt", weights_only=True)
    assert (state["step"], state["initial_steps"]) == (1, 4)
    for name, tensor in weights(run / "diffusion").items():
        torch.testing.assert_close(state["weights"][name], tensor, rtol=0, atol=1e-6)
    other = torch.load(run / "diffusion" / "checkpoint.pt", weights_only=True)
    torch.save(other | {"autoencoder_sha256": "0" * 64}, run / "diffusion" / "checkpoint.pt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(BadInput, match="trained with another autoencoder"):
        begun(tiny, run, data, elsewhere)


def test_another_network_is_refused(slice_run, slice_data, tmp_path):
    with pytest.raises(BadInput, match="of another network"):
        begun(slice_ldm, slice_run["folder"], slice_data, tmp_path, ("channels = [8, 8]", "channels = [8, 16]"))


def test_another_forward_process_is_refused(slice_run, slice_data, tmp_path):
    with pytest.raises(BadInput, match="another \\[diffusion\\]"):
        begun(slice_ldm, slice_run["folder"], slice_data, tmp_path, ('"epsilon"', '"v_prediction"'))


def test_other_stages_begin_at_random(slice_data, tmp_path):
    config = slice_ldm.write_config(tmp_path, "autoencoder", slice_data, ("seed = 5", 'seed = 5\ninitial = "x"'))
    with pytest.raises(BadInput, match="initial is no setting of the stage autoencoder"):
        train(config, tmp_path / "out", device="cpu")


def test_a_patch_wise_ddpm_may_be_given_minutes(tmp_path):
    data = prepared_set(tmp_path / "data")
    text = write_patch_config(tmp_path, data).read_text(encoding="utf-8")
    first, *_, rest = text.split("[[phase]]")
    phase = "[[phase]]\npatch = 8\nbatch = 3\n" + rest[rest.index("\n[") :]
    text = (first + phase).replace("seed = 7", 'seed = 7\nminutes = 0.02\nclock = "processor"', 1)
    config = tmp_path / "minutes.toml"
    config.write_text(text, encoding="utf-8")
    package = train(config, tmp_path / "run", device="cpu", on_event=lambda event: None)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["clock"] == "processor" and 1.2 <= summary["seconds"] < 60.0
    with (tmp_path / "run" / "log.csv").open(newline="", encoding="utf-8") as stream:
        last = list(csv.DictReader(stream))[-1]
    assert int(last["step"]) == summary["steps"] > 0 and float(last["validation_loss"]) > 0
    assert load_package(package).spec.training.steps == summary["steps"]
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    train(config, tmp_path / "run", resume=True, device="cpu", on_event=lambda event: None)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before  # its minutes are over
