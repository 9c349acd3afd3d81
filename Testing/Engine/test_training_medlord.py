"""MedLoRD's training: three stages on phantoms, going on after a kill, latents and their scale, masks."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import tiny_medlord
import torch
from monai.losses.spectral_loss import JukeboxLoss
from safetensors.torch import load_file
from tiny_medlord import TEXTS, checkpoint, write_config
from tiny_training import ball

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.labels.condition import encode_classes
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.training import loop
from SynthDiffusionLib.training.budget import CLOCKS
from SynthDiffusionLib.training.coarse_anatomy import smooth_outline
from SynthDiffusionLib.training.crops import _rotated, draw_images, smooth_outlines
from SynthDiffusionLib.training.latents import Latent, blunt, draw_latents
from SynthDiffusionLib.training.loop import Ema, learning_rate_at, make_fabric, zero_if_not_finite
from SynthDiffusionLib.training.masks import class_table, draw_given, masks_of
from SynthDiffusionLib.training.medlord.autoencoder import AutoencoderStage, perceptual_loss, restart_codes
from SynthDiffusionLib.training.medlord.config import ConditionConfig, CropConfig, load_medlord_config
from SynthDiffusionLib.training.medlord.latents import Autoencoder, scale_factor
from SynthDiffusionLib.training.patches import blunt_anatomy
from SynthDiffusionLib.training.stages import Optimiser
from SynthDiffusionLib.training.train import train

data, whole = tiny_medlord.data, tiny_medlord.whole


def test_the_stages_make_a_package_whose_weights_are_theirs(whole):
    package = load_package(whole["package"])
    spec = package.spec
    assert (spec.id, spec.backend, spec.target_class) == ("tiny-medlord", "medlord", "nodule")
    assert set(spec.modes) == {"whole", "unconditional"}
    assert (spec.latent.channels, spec.latent.downsampling, spec.grid.divisor) == (4, 4, 8)
    runs = {"autoencoder": "autoencoder", "denoiser": "diffusion", "controlnet": "controlnet"}
    networks = {"autoencoder": spec.autoencoder, "denoiser": spec.network, "controlnet": spec.controlnet}
    for role, stage in runs.items():
        tensors = {k: v.float() for k, v in package.load_tensors(role).items()}
        build_network(networks[role]).load_state_dict(tensors, strict=True)
        for name, tensor in checkpoint(whole["folder"] / stage)["weights"].items():
            if "ema_" not in name:
                torch.testing.assert_close(tensors[name], tensor.half().float(), rtol=0, atol=0)
    assert spec.latent.scale_factor == checkpoint(whole["folder"] / "diffusion")["scale_factor"]
    segmenter = build_network(spec.segmenter.network)
    segmenter.load_state_dict({k: v.float() for k, v in package.load_tensors("segmenter").items()})


def test_events_log_and_pictures(whole):
    folder = whole["folder"]
    progress = [(e["stage"], e["step"], e["total"]) for e in whole["events"] if e["event"] == "progress"]
    assert progress[:-1] == [(f"train {s}", n, 4) for s in TEXTS for n in (2, 4)]
    notes = [e["message"] for e in whole["events"] if e["event"] == "note"]
    assert any("No perceptual loss" in n for n in notes) and any("bytes" in n and "scale factor" in n for n in notes)
    for stage in TEXTS:
        with (folder / stage / "log.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["step"] for row in rows] == ["2", "4"]
        assert rows[0]["validation_loss"] == "" and float(rows[1]["validation_loss"]) > 0
        assert (folder / stage / "samples" / "step000004.png").stat().st_size > 100
    with (folder / "autoencoder" / "log.csv").open(newline="", encoding="utf-8") as stream:
        row = list(csv.DictReader(stream))[-1]
    assert 1 <= float(row["perplexity"]) <= 16.001 and float(row["discriminator"]) > 0


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("stage", list(TEXTS))
def test_a_killed_stage_that_goes_on_ends_with_the_same_weights(stage, whole, data, tmp_path):
    for earlier in ("autoencoder", "diffusion"):
        if earlier != stage:
            shutil.copytree(whole["folder"] / earlier, tmp_path / earlier)
    config = write_config(tmp_path, stage, data, ("log_every = 2", "log_every = 1"))

    def die(event: dict) -> None:
        if event["event"] == "progress" and event["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path / stage, device="cpu", on_event=die)
    assert checkpoint(tmp_path / stage)["step"] == 2
    with pytest.raises(BadInput, match="already holds a run"):
        train(config, tmp_path / stage, device="cpu")
    train(config, tmp_path / stage, device="cpu", resume=True)
    resumed, straight = checkpoint(tmp_path / stage), checkpoint(whole["folder"] / stage)
    assert resumed["step"] == straight["step"] == 4
    for table in ("network", "weights"):
        assert resumed[table].keys() == straight[table].keys()
        for name, tensor in straight[table].items():
            torch.testing.assert_close(resumed[table][name], tensor, rtol=0, atol=0)


def test_the_frozen_denoiser_stays_and_the_controlnet_moves(whole):
    """With one step's residuals at zero the ControlNet learns from its outputs on; the U-Net is not touched."""
    weights = checkpoint(whole["folder"] / "controlnet")["weights"]
    moved = [n for n, t in weights.items() if n.startswith(("down_outputs", "middle_output")) and t.abs().max() > 0]
    assert moved
    assert set(checkpoint(whole["folder"] / "diffusion")["weights"]).isdisjoint({"stem.weight"})


def test_scale_factor_is_one_over_the_standard_deviation(whole):
    folder = whole["folder"]
    fabric = make_fabric(load_medlord_config(folder / "diffusion.toml"), "cpu")
    state = checkpoint(folder / "autoencoder")
    autoencoder = Autoencoder(state, fabric)
    values = []
    for path in sorted((folder / "diffusion" / "latents").glob("train-*.safetensors")):
        tensors = load_file(path)
        assert len(tensors) == 4
        values += [autoencoder.embed(tensors[f"codes{n}"][None]).flatten() for n in range(2)]
        for n in range(2):
            assert [4 * s for s in tensors[f"codes{n}"].shape] == list(tensors[f"classes{n}"].shape)
    expected = 1.0 / float(torch.cat(values).double().std(correction=0))
    assert checkpoint(folder / "diffusion")["scale_factor"] == pytest.approx(expected, rel=1e-6)
    stored = json.loads((folder / "diffusion" / "latents" / "latents.json").read_text(encoding="utf-8"))
    assert stored["scale_factor"] == pytest.approx(expected, rel=1e-6)
    assert stored["bytes"] == sum(
        t.numel() * t.element_size()
        for p in (folder / "diffusion" / "latents").glob("*.safetensors")
        for t in load_file(p).values()
    )
    book = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    assert scale_factor([torch.tensor([0, 1])], book) == pytest.approx(1 / math.sqrt(5.0))  # of 0, 2, 4, 6


def test_codes_are_those_of_monai(whole):
    """Chunked look-up against MONAI's own quantiser, and decoding against its `decode_stage_2_outputs`."""
    fabric = make_fabric(load_medlord_config(whole["folder"] / "diffusion.toml"), "cpu")
    autoencoder = Autoencoder(checkpoint(whole["folder"] / "autoencoder"), fabric)
    images = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(autoencoder.encode(images), autoencoder.network.index_quantize(images))
        latents = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
        theirs = autoencoder.network.decode_stage_2_outputs(latents)
    torch.testing.assert_close(autoencoder.decode(latents), theirs, rtol=1e-4, atol=1e-5)


def test_latents_are_kept_and_stale_ones_renewed(whole, data, tmp_path):
    for stage in ("autoencoder", "diffusion"):
        shutil.copytree(whole["folder"] / stage, tmp_path / stage)
    config = write_config(tmp_path, "diffusion", data)
    folder = tmp_path / "diffusion" / "latents"

    def encoded_now() -> int:
        events = []
        train(config, tmp_path / "diffusion", device="cpu", resume=True, on_event=events.append)
        note = next(e["message"] for e in events if e["event"] == "note")
        return int(note.split(" cases encoded now")[0].split()[-1])

    assert encoded_now() == 0
    file = next(iter(sorted(folder.glob("train-*.safetensors"))))
    whole_file = file.read_bytes()
    file.write_bytes(whole_file[: len(whole_file) // 2])
    assert encoded_now() == 1
    assert file.read_bytes() == whole_file
    state = torch.load(tmp_path / "autoencoder" / "checkpoint.pt", weights_only=True)
    name = next(n for n in state["weights"] if n.startswith("encoder"))
    state["weights"][name] = state["weights"][name] + 0.1
    torch.save(state, tmp_path / "autoencoder" / "checkpoint.pt")
    assert encoded_now() == 5  # four training cases and one of validation


def test_outlines_are_smoothed_as_on_the_cpu():
    """SciPy's Gaussian is the oracle."""
    scheme = load_scheme("lung-nodule-ct")
    classes = np.ones((24, 22, 20), np.uint8)
    for value, radius in ((2, 9.0), (3, 6.0), (4, 3.0)):
        classes[ball(classes.shape, (12 + value, 11, 9), radius)] = value
    classes[:, :3] = 0
    mask = classes >= 2
    for sigma, bias in ((0.7, 0.1), (1.8, -0.12)):
        ours = smooth_outlines(torch.from_numpy(mask)[None], sigma, bias)[0].numpy()
        assert (ours != smooth_outline(mask, sigma, bias)).mean() < 1e-4
        theirs = blunt_anatomy(classes, scheme, "nodule", sigma, bias)
        assert (blunt(torch.from_numpy(classes), scheme, ["nodule"], sigma, bias).numpy() != theirs).mean() < 1e-4
    assert (theirs != classes).mean() > 1e-3  # with the larger sigma


def test_masks_are_those_of_the_condition():
    """`encode_classes(...) > 0`, with zeros for a mask that is not given."""
    scheme = load_scheme("lung-nodule-ct")
    classes = np.random.default_rng(0).integers(0, 5, (6, 5, 4)).astype(np.uint8)
    given = ("lung", "nodule")
    names = [c.name for c in scheme.condition_classes]
    flags = torch.tensor([[float(n in given) for n in names]])
    ours = masks_of(torch.from_numpy(classes)[None], class_table(scheme), flags)[0].numpy()
    np.testing.assert_array_equal(ours, encode_classes(classes, scheme, given) > 0)


def test_masks_are_dropped_each_on_its_own():
    scheme = load_scheme("lung-nodule-ct")
    config = ConditionConfig(drop={"body": 0.5, "nodule": 0.0, "bone": 1.0}, drop_default=0.3)
    given = draw_given(scheme, config, 4000, np.random.default_rng(0)).numpy()
    assert given.mean(0) == pytest.approx([0.5, 0.7, 0.0, 1.0], abs=0.03)
    assert abs(np.corrcoef(given[:, 0], given[:, 1])[0, 1]) < 0.05


def test_learning_rates():
    optimiser = Optimiser(warmup_steps=4, decay="cosine")
    assert learning_rate_at(optimiser, 1.0, 0, 0.0, 1) == pytest.approx(0.25)
    assert learning_rate_at(optimiser, 1.0, 9, 0.5, 1) == pytest.approx(0.5)
    assert learning_rate_at(optimiser, 1.0, 9, 1.2, 1) == pytest.approx(0.0)
    gamma = Optimiser(decay="gamma", gamma=0.5)
    assert [learning_rate_at(gamma, 1.0, s, 0.0, 3) for s in (0, 2, 3, 8)] == [1.0, 1.0, 0.5, 0.25]
    assert learning_rate_at(Optimiser(decay="constant"), 1.0, 50, 0.9, 1) == 1.0


def test_the_average_of_the_weights_has_its_closed_form():
    layer, decay = torch.nn.Linear(1, 1, bias=False), 0.5
    ema, mean = Ema(layer, decay), None
    for n, value in enumerate((3.0, 5.0, -1.0, 2.0)):
        layer.weight.data.fill_(value)
        ema.update(layer)
        keep = min(decay, (1 + n) / (10 + n)) if n else 0.0
        mean = value if mean is None else keep * mean + (1 - keep) * value
        assert float(ema.module.weight) == pytest.approx(mean, rel=1e-6)


def test_a_run_by_time_ends_in_time_with_its_learning_rate_at_zero(data, tmp_path, monkeypatch):
    """A clock that goes on by 0.05 s whenever it is looked at."""
    ticks = itertools.count()
    monkeypatch.setitem(CLOCKS, "wall", lambda: 0.05 * next(ticks))
    rare = [
        (f"{what}_every = {n}", f"{what}_every = 99") for what, n in (("checkpoint", 2), ("validate", 4), ("sample", 4))
    ]
    often = [
        ("steps = 4", "minutes = 0.05"),
        ("log_every = 2", "log_every = 1"),
        ("adversarial = 0.01", "adversarial = 0.0"),
    ]
    config = write_config(tmp_path, "autoencoder", data, *rare, *often)
    events = []
    train(config, tmp_path / "run", device="cpu", on_event=events.append)
    rates = [e["learning_rate"] for e in events if e["event"] == "progress"]
    assert len(rates) > 10 and rates[0] == pytest.approx(1e-3, rel=1e-2) and rates[-1] < 0.03 * rates[0]
    assert all(a >= b for a, b in zip(rates, rates[1:]))
    state = checkpoint(tmp_path / "run")
    assert 3.0 <= state["seconds"] < 3.5
    again = []
    train(config, tmp_path / "run", device="cpu", resume=True, on_event=again.append)
    assert not [e for e in again if e["event"] == "progress"]  # its time is over
    assert checkpoint(tmp_path / "run")["step"] == state["step"]


def test_the_adversarial_weight_ramps(data, tmp_path):
    config = load_medlord_config(write_config(tmp_path, "autoencoder", data))
    stage = AutoencoderStage(config, make_fabric(config, "cpu"), lambda event: None)
    weights = [stage.adversarial_weight(s) for s in (0.0, 0.24, 0.25, 0.5, 0.75, 1.0)]
    assert weights == pytest.approx([0.0, 0.0, 0.0, 0.005, 0.01, 0.01])


def test_unused_codes_are_put_on_encodings():
    network = build_network(
        NetworkSpec("VQVAE", {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": [4],
                              "num_res_layers": 1, "num_res_channels": [4], "num_embeddings": 6, "embedding_dim": 2,
                              "downsample_parameters": [[2, 4, 1, 1]], "upsample_parameters": [[2, 4, 1, 1, 0]]})
    )  # fmt: skip
    quantiser = network.quantizer.quantizer
    quantiser.ema_cluster_size.copy_(torch.tensor([9.0, 0.1, 9.0, 0.1, 0.1, 9.0]))
    before = quantiser.embedding.weight.clone()
    encodings = torch.randn(1, 2, 3, 3, 3)
    assert restart_codes(network, encodings, 0.5, torch.Generator().manual_seed(0)) == 3
    rows = encodings.movedim(1, -1).reshape(-1, 2)
    for index in range(6):
        code = quantiser.embedding.weight[index]
        if index in (0, 2, 5):
            assert torch.equal(code, before[index])
        else:
            assert (rows == code).all(1).any()
            torch.testing.assert_close(quantiser.ema_w[index] / quantiser.ema_cluster_size[index], code)


def test_rotations_turn_by_their_angle():
    """A quarter turn on a cube is exact; 5 degrees move a voxel at radius r by about r sin(5 degrees)."""
    cube = torch.randn(1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    turned = [torch.rot90(cube, k, (2, 3)) for k in (1, 3)]
    ours = _rotated(cube, 0, 90.0)
    assert any(torch.allclose(ours, t, atol=1e-4) for t in turned)
    line = torch.zeros(1, 1, 41, 21)
    line[0, 0, 38, 10] = 1.0  # 18 voxels from the middle along the longer axis
    moved = _rotated(line, 0, 5.0)[0, 0]
    moved = moved / moved.sum()
    a = float((moved.sum(1) * torch.arange(41)).sum()) - 20
    b = float((moved.sum(0) * torch.arange(21)).sum()) - 10
    assert math.hypot(a, b) == pytest.approx(18, abs=0.3) and abs(b) == pytest.approx(
        18 * math.sin(math.radians(5)), abs=0.3
    )


def test_crops_hold_what_the_volume_holds():
    volume = torch.arange(6 * 5 * 4, dtype=torch.float32).view(6, 5, 4)
    crops = draw_images([volume], 50, CropConfig((3, 3, 3), 0.5, 0.0, 0.0), np.random.default_rng(0))
    assert crops.shape == (50, 1, 3, 3, 3)
    steps = {int(c[0, 1, 1, 2] - c[0, 1, 1, 1]) for c in crops}
    assert steps == {-1, 1}  # mirrored and not
    assert {float(c.min()) for c in crops} >= {0.0} and float(crops.max()) == 119.0


def test_latent_crops_and_their_masks_lie_together(whole):
    folder = whole["folder"]
    codes = torch.arange(6 * 6 * 6).view(6, 6, 6)
    classes = codes.repeat_interleave(4, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)
    for seed in range(5):
        drawn, masks = draw_latents(
            [Latent("a", codes, classes)], [(2, 2, 2), (4, 4, 4)], 3, 4, np.random.default_rng(seed)
        )
        assert torch.equal(masks[:, ::4, ::4, ::4], drawn)
    assert checkpoint(folder / "diffusion")["latents"]["crops"] == [[4, 4, 4], [6, 6, 6]]


def test_a_missing_perceptual_network_is_told(monkeypatch):
    import monai.losses

    class Offline:
        def __init__(self, *args, **kwargs):
            raise OSError("no network")

    monkeypatch.setattr(monai.losses, "PerceptualLoss", Offline)
    events = []
    assert perceptual_loss("squeeze", events.append) is None
    assert "'squeeze' cannot be had" in events[0]["message"]


class OneLayer(loop.Stage):
    """A stage that fits constant crops by the spectral loss, whose gradient is NaN where an amplitude is zero."""

    def __init__(self, config, norm_known: bool) -> None:
        self.config, self.fabric = config, make_fabric(config, "cpu")
        if not norm_known:  # as on a GPU, where nobody waits for it
            clip = self.fabric.clip_gradients
            self.fabric.clip_gradients = lambda *args, **kwargs: clip(*args, **kwargs) and None
        module = torch.nn.Conv3d(1, 1, 3, padding=1, padding_mode="replicate")
        self.module, self.optimiser = self.fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
        self.loss = JukeboxLoss(spatial_dims=3)

    def train_step(self, step: int, share: float) -> dict[str, torch.Tensor]:
        loss = self.loss(self.module(torch.full((1, 1, 8, 8, 8), -1.0)), torch.full((1, 1, 8, 8, 8), -0.5))
        self.descend(self.module, self.optimiser, loss)
        return {"loss": loss.detach()}

    validate = picture = record = None


@pytest.mark.parametrize("norm_known", [True, False])
def test_a_gradient_that_is_not_finite_changes_nothing(norm_known, data, tmp_path):
    """On the CPU the step is left out; on a GPU, where the norm is not looked at, the gradient becomes zero."""
    stage = OneLayer(load_medlord_config(write_config(tmp_path, "autoencoder", data)), norm_known)
    before = [p.detach().clone() for p in stage.module.parameters()]
    assert math.isfinite(stage.train_step(0, 0.0)["loss"])
    gradients = torch.cat([p.grad.flatten() for p in stage.module.parameters()])
    assert gradients.isnan().all() if norm_known else not gradients.any()
    assert all(torch.equal(old, new) for old, new in zip(before, stage.module.parameters()))
    stage.descend(stage.module, stage.optimiser, stage.module(torch.ones(1, 1, 8, 8, 8)).square().mean())
    assert not any(torch.equal(old, new) for old, new in zip(before, stage.module.parameters()))


def test_many_such_gradients_in_a_row_end_the_run(data, tmp_path):
    stage = OneLayer(load_medlord_config(write_config(tmp_path, "autoencoder", data)), norm_known=True)
    for step in range(loop.MOST_SKIPPED - 1):
        stage.train_step(step, 0.0)
    with pytest.raises(RunFailed, match="20 steps in a row"):
        stage.train_step(loop.MOST_SKIPPED, 0.0)


def test_only_what_is_not_finite_becomes_zero():
    first, second, third = (torch.nn.Parameter(torch.zeros(3)) for _ in range(3))
    first.grad = torch.tensor([math.nan, 1.0, -2.0])
    second.grad = torch.tensor([math.inf, -math.inf, 0.5])
    zero_if_not_finite([first, second, third])
    assert first.grad.tolist() == [0.0, 1.0, -2.0] and second.grad.tolist() == [0.0, 0.0, 0.5]
    assert third.grad is None


def test_a_diverged_run_is_told(data, tmp_path):
    changes = (
        ("[losses]", "[losses]\njukebox = 1e39"),
        ("learning_rate = 1e-3", "learning_rate = 1.0\ngradient_clip = 1e30"),
        ("steps = 4", "steps = 25"),
    )
    config = write_config(tmp_path, "autoencoder", data, *changes)
    with pytest.raises(RunFailed, match="diverged"):
        train(config, tmp_path / "run", device="cpu")


def test_a_controlnet_for_another_autoencoder_is_refused(whole, data, tmp_path):
    for stage in ("autoencoder", "diffusion"):
        shutil.copytree(whole["folder"] / stage, tmp_path / stage)
    state = torch.load(tmp_path / "autoencoder" / "checkpoint.pt", weights_only=True)
    name = next(n for n in state["weights"] if n.startswith("decoder"))
    state["weights"][name] = state["weights"][name] + 1.0
    torch.save(state, tmp_path / "autoencoder" / "checkpoint.pt")
    with pytest.raises(BadInput, match="latents of another autoencoder"):
        train(write_config(tmp_path, "controlnet", data), tmp_path / "out", device="cpu")


def test_the_segmenter_can_be_trained_alone(data, tmp_path):
    config = write_config(tmp_path, "controlnet", data)
    path = train(config, tmp_path / "run", device="cpu", only_segmenter=True)
    assert path.name == "segmenter.pt" and torch.load(path, weights_only=True)["step"] == 2
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion", "controlnet"])
def test_the_seed_of_the_configuration_decides_all(whole, data, stage):
    """A second run gives the same weights, whatever torch has drawn before."""
    torch.manual_seed(12345)
    torch.randn(7)
    config = whole["folder"] / f"{stage}.toml"
    train(config, whole["folder"] / f"{stage}-again", device="cpu")
    first, second = (checkpoint(whole["folder"] / name)["weights"] for name in (stage, f"{stage}-again"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
