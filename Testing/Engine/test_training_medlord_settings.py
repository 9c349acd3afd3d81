"""MedLoRD's training: settings that are refused with one line, and that the shipped configurations are complete."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_medlord
import torch
from tiny_medlord import TEXTS, write_config

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.training.medlord.config import load_medlord_config
from SynthDiffusionLib.training.train import train

ROOT = Path(__file__).resolve().parents[2]
data, whole = tiny_medlord.data, tiny_medlord.whole


WRONG = [
    ("autoencoder", "seed = 5", "sede = 5", "[run] has no setting 'sede'"),
    ("autoencoder", 'stage = "autoencoder"', 'stage = "vae"', "stage must be one of"),
    ("autoencoder", 'method = "medlord"', 'method = "gan"', "Unknown method 'gan'"),
    ("autoencoder", "steps = 4", "steps = 4\nminutes = 1.0", "either steps or minutes"),
    ("autoencoder", "[losses]", "[loss]", "unknown table [loss]"),
    ("autoencoder", "size = [16, 16, 16]", "size = [16, 16, 15]", "multiples of 4"),
    ("autoencoder", "rotation_probability = 0.5", "rotation_probability = 2.0", "rotation_probability must be"),
    ("autoencoder", "size = [16, 16, 16]", "size = [4, 4, 4]", "too small for the discriminator's 1 layers"),
    ("autoencoder", "num_embeddings = 16", "num_embeddings = 0", "num_embeddings must be at least 1"),
    ("autoencoder", "embedding_dim = 4", "embedding_dim = 0", "embedding_dim must be at least 1"),
    ("autoencoder", "[[2, 4, 1, 1, 0], [2, 4, 1, 1, 0]]", "[[1, 3, 1, 1, 0], [2, 4, 1, 1, 0]]", "of a crop of"),
    ("autoencoder", "channels = [4, 8]", "channels = [4, 8, 8]", "does not describe a network"),
    ("autoencoder", "adversarial_start = 0.25", "adversarial_begin = 0.25", "[losses] has no setting"),
    ("autoencoder", "ema = 0.9", "ema = 0.9\nloss = 'huber'", "loss must be"),
    ("autoencoder", 'precision = "32-true"', 'precision = "16-mixed"', "cannot train with the precision 16-mixed"),
    ("autoencoder", "seed = 5", "seed = 5\nautoencoder = 'x'", "is no setting of the stage autoencoder"),
    ("autoencoder", "[network]", "[fabric]\ndevices = 0\n[network]", "devices and num_nodes"),
    ("diffusion", 'autoencoder = "autoencoder"', "", "lacks autoencoder"),
    ("diffusion", 'autoencoder = "autoencoder"', 'autoencoder = "nowhere"', "holds no checkpoint"),
    ("diffusion", 'autoencoder = "autoencoder"', 'autoencoder = "diffusion"', "not autoencoder"),
    ("diffusion", "in_channels = 4", "in_channels = 8", "latents have 4"),
    ("diffusion", "crops = [[4, 4, 4], [6, 6, 6]]", "crops = [[4, 4, 5]]", "multiples of 2"),
    ("diffusion", "crops = [[4, 4, 4], [6, 6, 6]]", "crops = [4, 4, 4]", "list of sizes"),
    ("diffusion", 'prediction = "v_prediction"', 'prediction = "noise"', "prediction must be one of"),
    ("diffusion", 'target = "nodule"', 'target = "wart"', "none of the classes"),
    ("controlnet", 'denoiser = "diffusion"', "", "lacks denoiser"),
    ("controlnet", 'denoiser = "diffusion"', 'denoiser = "autoencoder"', "not diffusion"),
    ("controlnet", "downsampling = 4", "downsampling = 8", "downsampling' is 8"),
    ("controlnet", "unet_channels = [8, 8]", "unet_channels = [8, 16]", "unet_channels' is"),
    ("controlnet", "condition_channels = 4", "condition_channels = 5", "condition_channels' is 5"),
    ("controlnet", "drop = { nodule = 0.1 }", "drop = { wart = 0.1 }", "drop names 'wart'"),
    ("controlnet", "drop = { nodule = 0.1 }", "drop = { nodule = 1.5 }", "drop.nodule must be"),
    ("controlnet", "max_size = [64, 64, 64]", "", "[package] has no 'max_size'"),
    ("controlnet", 'version = "0.1.0"', 'version = "one"', "version"),
    ("controlnet", "patch = 16", "patch = 15", "multiple of 2"),
    ("controlnet", "intensity_range = [-1000.0, 400.0]", "intensity_range = [-500.0, 400.0]", "intensity_range is"),
]


WITHOUT_PACKAGE = [
    ("downsampling = 4", "downsampling = 8", "[network] downsampling is 8"),
    ("unet_channels = [8, 8]", "unet_channels = [8, 16]", "[network] unet_channels is"),
    ("condition_channels = 4", "condition_channels = 5", "[network] condition_channels is 5"),
]


@pytest.mark.parametrize(("old", "new", "named"), WITHOUT_PACKAGE, ids=["downsampling", "unet", "condition"])
def test_a_controlnet_that_does_not_fit_is_refused_without_a_package_too(old, new, named, whole, data, tmp_path):
    for earlier in ("autoencoder", "diffusion"):
        (tmp_path / earlier).mkdir()
        shutil.copy(whole["folder"] / earlier / "checkpoint.pt", tmp_path / earlier)
    text = TEXTS["controlnet"]
    config = write_config(tmp_path, "controlnet", data, (old, new), (text[text.index("[package]") :], ""))
    with pytest.raises(BadInput) as caught:
        train(config, tmp_path / "out", device="cpu")
    assert named in caught.value.message


@pytest.mark.parametrize(("stage", "old", "new", "named"), WRONG, ids=[f"{w[0]}{i}" for i, w in enumerate(WRONG)])
def test_wrong_settings_get_one_line(stage, old, new, named, whole, data, tmp_path, capsys):
    for earlier in ("autoencoder", "diffusion"):
        (tmp_path / earlier).mkdir()
        shutil.copy(whole["folder"] / earlier / "checkpoint.pt", tmp_path / earlier)
    config = write_config(tmp_path, stage, data, (old, new))
    assert main(["train", str(config), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("synthdiffusion: error: ")]
    assert len(lines) == 1 and named in lines[0], lines
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


@pytest.mark.parametrize("name", [f"{m}-{s}.toml" for m in ("limb-tumour-ct", "medlord-x4") for s in TEXTS])
def test_shipped_configurations_are_complete(name):
    config = load_medlord_config(ROOT / "Resources" / "Training" / name)
    scheme = load_scheme(config.label_scheme)
    classes = {"autoencoder": "VQVAE", "diffusion": "DiffusionModelUNet", "controlnet": "SlimControlNet"}
    with torch.device("meta"):
        network = build_network(NetworkSpec(classes[config.stage], config.network))
    assert sum(p.numel() for p in network.parameters()) > 1e5
    if config.stage == "controlnet":
        assert config.network["condition_channels"] == len(scheme.condition_classes)
        assert config.network["downsampling"] == 4
