"""`train`: interrupted and resumed runs, what it writes, and what it refuses."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import ball, prepared_set, write_config

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.evaluation.performance import measure_performance
from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.jobs.runner import run
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.sampling.schedule import DiffusionSpec
from SynthDiffusionLib.training import train_patch_ddpm
from SynthDiffusionLib.training.config import load_config
from SynthDiffusionLib.training.dataset import load_split, read_description
from SynthDiffusionLib.training.train import train
from SynthDiffusionLib.training.train_patch_ddpm import (
    denoising_loss,
    draw_batch,
    drawn_ahead,
    learning_rate_at,
    phase_at,
)
from SynthDiffusionLib.volumes import Volume, read_volume, write_volume

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return prepared_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> dict:
    """One uninterrupted run, with a record of the weights after every step."""
    folder = tmp_path_factory.mktemp("straight")
    trail = []

    class Recorder(torch.optim.swa_utils.AveragedModel):
        def update_parameters(self, model):
            trail.append([p.detach().clone() for p in model.parameters()])
            super().update_parameters(model)

    events = []
    config = write_config(folder, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_patch_ddpm, "AveragedModel", Recorder)
        package = train(config, folder / "run", device="cpu", on_event=events.append)
    return {"config": config, "run": folder / "run", "package": package, "events": events, "trail": trail}


def checkpoint(run_folder: Path, name: str = "checkpoint.pt") -> dict:
    return torch.load(run_folder / name, weights_only=True)


def log_rows(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / "log.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class Killed(Exception):
    """Stands for a kill."""


def die_at(stage: str, step: int):
    def on_event(event: dict) -> None:
        if event["stage"] == stage and event["step"] >= step:
            raise Killed

    return on_event


def test_a_killed_run_that_goes_on_ends_with_the_same_weights(straight, tmp_path):
    """Killed at step 50, after the log entry and 10 steps after the last checkpoint; then again in the segmenter."""
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(straight["config"], out, device="cpu", on_event=die_at("train", 50))
    assert checkpoint(out)["step"] == 40
    assert [row["step"] for row in log_rows(out)] == ["50"]
    with pytest.raises(Killed):
        train(straight["config"], out, resume=True, device="cpu", on_event=die_at("train segmenter", 20))
    train(straight["config"], out, resume=True, device="cpu")

    for name, part in (("checkpoint.pt", "network"), ("checkpoint.pt", "ema"), ("segmenter.pt", "network")):
        resumed, whole = checkpoint(out, name), checkpoint(straight["run"], name)
        assert resumed["step"] == whole["step"]
        for key, tensor in whole[part].items():
            torch.testing.assert_close(resumed[part][key], tensor, rtol=0, atol=0)
    assert [row["step"] for row in log_rows(out)] == ["50", "60"]
    assert log_rows(out)[-1]["validation_loss"] == log_rows(straight["run"])[-1]["validation_loss"]
    denoiser = (out / "package" / "denoiser.safetensors").read_bytes()
    assert denoiser == (straight["package"] / "denoiser.safetensors").read_bytes()
    assert not list(out.rglob("*.part")) and not list(out.rglob(".part*"))


def test_the_average_of_the_weights_has_its_closed_form(straight):
    """theta_1 first; then mean_n = d_n mean + (1 - d_n) theta with d_n = min(decay, (1 + n) / (10 + n))."""
    trail = straight["trail"]
    assert len(trail) == 60
    decays = [min(0.9, (1 + n) / (10 + n)) for n in range(1, 60)]
    shares = [math.prod(decays)] + [(1 - d) * math.prod(decays[i + 1 :]) for i, d in enumerate(decays)]
    assert sum(shares) == pytest.approx(1)
    average = list(checkpoint(straight["run"])["ema"].values())
    assert len(average) == len(trail[0])
    for index, tensor in enumerate(average):
        expected = sum(share * step[index].double() for share, step in zip(shares, trail))
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-4, atol=1e-6)
    final = list(checkpoint(straight["run"])["network"].values())
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(average, final))


def test_training_lowers_the_loss(straight):
    """Against a network that says zero, on the validation patches of the log."""
    config = load_config(straight["config"])
    scheme = load_scheme(config.label_scheme)
    cases = [(normalise(c.image.array, config.intensity_range), c.classes.array)
             for c in load_split(config.data, "validation")]  # fmt: skip
    diffusion = DiffusionSpec(**config.diffusion)
    losses = [
        denoising_loss(
            lambda x, t: torch.zeros_like(x[:, :1]),
            draw_batch(cases, scheme, config.phases[0], config, [config.seed, 1, i]),
            diffusion,
            diffusion.alphas_cumprod(),
            config.seed + i,
        )
        for i in range(8)
    ]
    rows = log_rows(straight["run"])
    assert float(rows[-1]["validation_loss"]) < 0.8 * float(torch.cat(losses).mean())
    ends = [e for e in straight["events"] if e["stage"] == "train"]
    assert [e["step"] for e in ends] == [50, 60] and ends[-1]["eta_s"] == 0
    assert (straight["run"] / "samples" / "step000060.png").stat().st_size > 100


def test_learning_rate_rises_and_ends_at_zero(straight):
    config = load_config(straight["config"])
    rates = [learning_rate_at(config, step) for step in range(config.steps + 1)]
    peak = config.optimiser.learning_rate
    np.testing.assert_allclose(rates[:5], [peak * n / 5 for n in range(1, 6)])
    assert rates[-1] == pytest.approx(0, abs=1e-12) and rates[-2] > 0
    assert all(a >= b for a, b in zip(rates[5:], rates[6:]))
    # Half-way down the cosine, and what was really used.
    assert rates[5 + 55 // 2] == pytest.approx(peak * 0.5 * (1 + math.cos(math.pi * 27 / 55)))
    used = {int(row["step"]): float(row["learning_rate"]) for row in log_rows(straight["run"])}
    assert used == pytest.approx({50: rates[49], 60: rates[59]}, rel=0.01)


def test_phases_follow_one_another(straight):
    config = load_config(straight["config"])
    assert [phase_at(config, s).patch for s in (0, 29, 30, 59)] == [16, 16, 8, 8]
    assert config.steps == 60


def test_batches_drawn_ahead_come_in_order_and_errors_come_through():
    assert list(drawn_ahead(lambda step: step * step, 3, 7)) == [(3, 9), (4, 16), (5, 25), (6, 36)]
    assert list(drawn_ahead(lambda step: step, 5, 5)) == []

    def fail(step: int) -> int:
        if step == 2:
            raise ValueError("two")
        return step

    seen = []
    with pytest.raises(ValueError, match="two"):
        for step, _ in drawn_ahead(fail, 0, 5):
            seen.append(step)
    assert seen == [0, 1]


def test_the_package_loads_and_generates(straight, tmp_path):
    package = load_package(straight["package"])
    spec = package.spec
    assert (spec.id, spec.target_class, spec.grid.divisor) == ("tiny-trained", "nodule", 2)
    assert spec.training.steps == 60 and spec.training.seed == 7
    assert {part: len(cases) for part, cases in spec.training.split.items()} == {
        "train": 4, "validation": 1, "test": 1,
    }  # fmt: skip
    average = checkpoint(straight["run"])["ema"]
    for name, tensor in package.load_tensors("denoiser").items():
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor, average[name].half())

    shape = (20, 22, 18)
    classes = np.where(ball(shape, (10, 11, 9), 8), 2, 1).astype(np.uint8)
    classes[ball(shape, (10, 11, 9), 3)] = 4
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    write_volume(Volume(classes, affine, "label"), tmp_path / "drawing.nii.gz")
    request = GenerateRequest(tmp_path / "drawing.nii.gz", str(straight["package"]), tmp_path / "out", steps=2, seed=4)
    result = run(request)
    volume = read_volume(result.outputs[0]["volume"])
    assert volume.shape == shape
    np.testing.assert_allclose(volume.affine, affine)
    assert volume.array.std() > 50 and -1000 <= volume.array.min() <= volume.array.max() <= 400


def test_a_run_is_not_overwritten(straight):
    with pytest.raises(BadInput, match="already holds a run") as refusal:
        train(straight["config"], straight["run"], device="cpu")
    assert "--resume" in refusal.value.hint


def test_a_finished_run_is_only_packed_again(straight, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(straight["run"], out)
    shutil.rmtree(out / "package")
    events = []
    package = train(straight["config"], out, resume=True, device="cpu", on_event=events.append)
    assert events == []
    assert (package / "model.json").read_bytes() == (straight["package"] / "model.json").read_bytes()
    assert log_rows(out) == log_rows(straight["run"])


@pytest.mark.parametrize("steps", [30, 24])
def test_a_segmenter_of_other_steps_is_refused_before_the_denoiser_trains(steps, straight, data, tmp_path):
    """Its learning rate has come down by the steps that it was begun with."""
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(straight["run"] / "segmenter.pt", out)
    config = write_config(tmp_path, data, (("steps = 20\npatch = 16", f"steps = {steps}\npatch = 16"),))
    events = []
    with pytest.raises(BadInput, match=f"begun with 20 steps, but .* steps = {steps}") as refusal:
        train(config, out, resume=True, device="cpu", on_event=events.append)
    assert "Set steps = 20, or remove the file" in refusal.value.hint
    assert events == [] and [p.name for p in out.iterdir()] == ["segmenter.pt"]


def test_initial_weights_are_where_the_run_begins(straight, data, tmp_path):
    """With next to no learning rate, only the rounding to fp16 lies between the weights given and those got."""
    weights = straight["run"] / "package" / "denoiser.safetensors"
    text = straight["config"].read_text(encoding="utf-8").replace("[run]", f"[run]\ninitial_weights = '{weights}'")
    config = tmp_path / "config.toml"
    config.write_text(text.replace("learning_rate = 5e-3", "learning_rate = 1e-12"), encoding="utf-8")
    package = train(config, tmp_path / "run", device="cpu")
    given = checkpoint(straight["run"])["ema"]
    for key, tensor in checkpoint(tmp_path / "run")["network"].items():
        torch.testing.assert_close(tensor, given[key].half().float(), rtol=1e-6, atol=1e-7)
    recorded = load_package(package).spec.provenance["initial_weights_sha256"]
    assert recorded == hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", [None, b"no safetensors", "another network"])
def test_unusable_initial_weights_are_refused(content, straight, tmp_path):
    weights = tmp_path / "weights.safetensors"
    if content == "another network":
        from safetensors.torch import save_file

        save_file({"stem.weight": torch.zeros(2)}, weights)
    elif content is not None:
        weights.write_bytes(content)
    text = straight["config"].read_text(encoding="utf-8")
    text = text.replace("[run]", "[run]\ninitial_weights = 'weights.safetensors'")
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="weights.safetensors"):
        train(tmp_path / "config.toml", tmp_path / "run", device="cpu")


def test_a_checkpoint_of_another_network_is_refused(straight, data, tmp_path):
    config = write_config(tmp_path, data, (("channels = [8, 8]", "channels = [12, 12]"),))
    shutil.copytree(straight["run"], tmp_path / "run")
    with pytest.raises(BadInput, match="another network"):
        train(config, tmp_path / "run", resume=True, device="cpu")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def changed(**entries: object):
    """A checkpoint with other entries; None takes one out."""

    def change(content: bytes) -> bytes:
        state = torch.load(io.BytesIO(content), weights_only=True) | entries
        stream = io.BytesIO()
        torch.save({k: v for k, v in state.items() if v is not None}, stream)
        return stream.getvalue()

    return change


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": cut,
    "garbage": lambda content: b"x" * 1000,
    "no step": changed(step=None),
    "step text": changed(step="x"),
    "step negative": changed(step=-5),
    "step too large": changed(step=10**9),
    "weights missing": changed(network=None),
    "weights nan": changed(network={"stem.weight": torch.full((2,), math.nan)}),
    "optimiser a number": changed(optimiser=5),
}


@pytest.mark.parametrize("name", ["checkpoint.pt", "segmenter.pt"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_are_refused(name, damage, straight, tmp_path):
    for file in ("checkpoint.pt", "segmenter.pt", "log.csv"):
        shutil.copy(straight["run"] / file, tmp_path / file)
    content = DAMAGES[damage]((tmp_path / name).read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=name.replace(".", r"\.")) as refusal:
        train(straight["config"], tmp_path, resume=True, device="cpu")
    assert "another --out" in refusal.value.hint
    assert "is damaged" in refusal.value.message or damage == "step too large"
    assert (tmp_path / name).read_bytes() == content and log_rows(tmp_path) == log_rows(straight["run"])


@pytest.mark.parametrize("rest", [b"\xff\xfe\n", b"1" * 200_000, b"1" * 5000 + b",,,,\n"])
def test_a_log_that_cannot_be_read_is_kept_as_far_as_it_can(rest, straight, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(straight["run"], out)
    with (out / "log.csv").open("ab") as stream:
        stream.write(rest)
    train(straight["config"], out, resume=True, device="cpu")
    assert log_rows(out) == log_rows(straight["run"])


def test_a_full_disk_is_named(straight, tmp_path, monkeypatch):
    """No writing past 30 kB, as if the disk ended there."""
    real = train_patch_ddpm.save_state.__globals__["atomic_file"]

    @contextlib.contextmanager
    def small_disk(path: Path):
        with real(path) as stream:

            class Full:
                def write(self, data: bytes) -> int:
                    if len(data) > 30_000:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return stream.write(data)

            yield Full()

    monkeypatch.setitem(train_patch_ddpm.save_state.__globals__, "atomic_file", small_disk)
    with pytest.raises(RunFailed, match=r"checkpoint\.pt: No space left"):
        train(straight["config"], tmp_path / "run", device="cpu")
    assert not list((tmp_path / "run").glob("*.pt")) and not list((tmp_path / "run").glob(".part*"))


def test_output_that_cannot_be_written_is_refused_before_the_work(straight, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    package = load_package(straight["package"])
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match="cannot be written to"):
            train(straight["config"], out, device="cpu")
        with pytest.raises(BadInput, match="cannot be written to"):
            measure_performance(package, out=out)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (None, "unknown format"),
        ([], "unknown format"),
        ({"split": None}, "it has no 'split'"),
        ({"cases": None}, "it has no 'cases'"),
        ({"classes": None}, "it has no 'classes'"),
        ({"split": [1]}, "'split' is of another type"),
        ({"split": {"train": "p1"}}, "'split.train' must be a list"),
        ({"split": {"train": ["p9"]}}, "names 'p9', which is no case"),
        ({"split": {"train": ["../p1"]}, "cases": {"../p1": {"patient": "p1"}}}, "no plain name"),
        ({"cases": {"p1": 3}}, "the case 'p1' has no patient"),
        ({"spacing_mm": "x"}, "'spacing_mm' is of another type"),
    ],
)
def test_a_damaged_description_is_refused(changes, named, data, tmp_path):
    description = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    if isinstance(changes, dict):
        changes = {k: v for k, v in (description | changes).items() if v is not None}
    (tmp_path / "dataset.json").write_text(json.dumps(changes), encoding="utf-8")
    with pytest.raises(BadInput, match=re.escape(named)):
        read_description(tmp_path)


def test_class_maps_that_do_not_fit_are_refused(data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    name = read_description(folder)["split"]["train"][0]
    path = folder / "classes" / f"{name}.nii.gz"
    classes = read_volume(path, unit="label")
    write_volume(Volume(np.full_like(classes.array, 9), classes.affine, "label"), path)
    with pytest.raises(BadInput, match=f"'{name}' .* has the value 9, which is no class"):
        load_split(folder, "train")
    write_volume(Volume(classes.array[:20], classes.affine, "label"), path)
    with pytest.raises(BadInput, match=f"'{name}' .* different grids"):
        load_split(folder, "train")
