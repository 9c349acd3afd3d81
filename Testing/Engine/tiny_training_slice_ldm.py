"""Configurations of the slice-based model's three stages that train on phantoms in seconds, and their uninterrupted
runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny_training import prepared_set

from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.training.latent_stage import forward_process
from SynthDiffusionLib.training.loop import make_fabric
from SynthDiffusionLib.training.slice_ldm.autoencoder import build_trained
from SynthDiffusionLib.training.slice_ldm.config import load_slice_ldm_config
from SynthDiffusionLib.training.slice_ldm.diffusion import DiffusionStage
from SynthDiffusionLib.training.slice_ldm.earlier import Autoencoder, read_stage
from SynthDiffusionLib.training.slice_ldm.latents import prepare_latents
from SynthDiffusionLib.training.train import train

RUN = """
[run]
method = "slice_ldm"
stage = "{stage}"
data = "{data}"
label_scheme = "lung-nodule-ct"
intensity_range = [-1000.0, 400.0]
seed = 5
precision = "32-true"
steps = 4
log_every = 2
checkpoint_every = 2
validate_every = 4
sample_every = 4
"""
VOLUMES = """
[volumes]
size = [24, 20, 16]
shift = [3, 2, 4]
intensity_scale = 0.1
"""
AUTOENCODER = (
    RUN
    + """
[network]
in_channels = 2
channels = [8, 8]
strides = [1, 2]
latent_channels = 3
norm_groups = 4
attention = false
slices = 16
"""
    + VOLUMES
    + """
[losses]
dice = 0.1
ssim_window = 7

[optimiser]
batch = 4
learning_rate = 1e-3
ema = 0.9
"""
)
REFINER = (
    RUN
    + """autoencoder = "autoencoder"

[network]
latent_channels = 3
channels = [4, 4]
blocks = 1
kernel = [3, 3, 3]
"""
    + VOLUMES
    + """
[refining]
slices = 6

[losses]
ssim_window = 7

[optimiser]
batch = 2
learning_rate = 1e-3
ema = 0.9
"""
)
DIFFUSION = (
    RUN
    + """autoencoder = "autoencoder"
refiner = "refiner"

[network]
in_channels = 3
out_channels = 3
channels = [8, 8]
num_res_blocks = 1
norm_num_groups = 4
characteristics = 9
characteristics_width = 8

[diffusion]
train_steps = 20
beta_schedule = "scaled_linear"
beta_start = 0.002
beta_end = 0.02
prediction = "epsilon"
"""
    + VOLUMES
    + """
[latents]
copies = 3

[condition]
drop = 0.25

[optimiser]
batch = 2
learning_rate = 1e-3
ema = 0.9
loss = "l1"

[segmenter]
channels = [4, 8]
steps = 4
patch = 16
batch = 1

[package]
id = "tiny-slices"
name = "Tiny"
version = "0.1.0"
description = "A test."
modality = "CT"
body_part = "chest"
orientation = "LPS"

[package.sampling]
default_sampler = "ddim"
default_steps = 2

[package.license]
spdx = "CC0-1.0"
attribution = "nobody"
permitted_use = "Tests."

[package.training]
dataset = "phantoms"
license = "CC0-1.0"
"""
)
TEXTS = {"autoencoder": AUTOENCODER, "refiner": REFINER, "diffusion": DIFFUSION}


def write_config(folder: Path, stage: str, data: Path, *changes: tuple[str, str]) -> Path:
    """The configuration of a stage with pieces of its text replaced; each piece must be there."""
    text = TEXTS[stage].format(stage=stage, data=data.as_posix())
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    path = folder / f"{stage}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def checkpoint(folder: Path) -> dict:
    """The checkpoint of a run."""
    return torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)


@pytest.fixture(scope="session")
def slice_data(tmp_path_factory) -> Path:
    """The prepared phantoms."""
    return prepared_set(tmp_path_factory.mktemp("slice-data"))


@pytest.fixture(scope="session")
def slice_run(slice_data, tmp_path_factory) -> dict:
    """All stages, uninterrupted: "folder" with a run a stage, their "events", and the "package"."""
    folder, events = tmp_path_factory.mktemp("slice-runs"), []
    for stage in TEXTS:
        last = train(write_config(folder, stage, slice_data), folder / stage, device="cpu", on_event=events.append)
    return {"folder": folder, "events": events, "package": last}


def diffusion_stage(slice_run: dict, slice_data: Path, tmp_path: Path, *changes: tuple[str, str]) -> DiffusionStage:
    """The stage on the latents of the finished run, with a fresh network."""
    for stage in TEXTS:
        shutil.copytree(slice_run["folder"] / stage, tmp_path / stage)
    config = load_slice_ldm_config(write_config(tmp_path, "diffusion", slice_data, *changes))
    fabric = make_fabric(config, "cpu")
    autoencoder = Autoencoder(read_stage(config.autoencoder, "autoencoder"), fabric)
    latents = prepare_latents(
        tmp_path / "diffusion" / "latents", load_scheme(config.label_scheme), config, autoencoder, lambda event: None
    )
    network = build_trained("diffusion", config.network)
    return DiffusionStage(config, fabric, autoencoder, None, latents, forward_process(config.diffusion), network)
