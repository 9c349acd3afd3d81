"""Configurations of Med-LSDM's two stages that train on phantoms in seconds, and their uninterrupted runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import prepared_set

from SynthDiffusionLib.training.train import train

RUN = """
[run]
method = "med_lsdm"
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
AUTOENCODER = (
    RUN
    + """
[network]
hidden = 4
downsampling = 2
embedding_dim = 4
num_embeddings = 16
norm_groups = 2
condition_channels = 5
spade_hidden = 4

[windows]
size = [16, 16, 8]
flip_probability = [0.5, 0.0, 0.5]
rotation_probability = 0.5

[losses]
image_gan = 0.1
volume_gan = 0.1
feature_matching = 0.5
discriminator_start = 0.25
discriminator_ramp = 0.5
discriminator_channels = 4
discriminator_layers = 1

[condition]
drop_default = 0.2

[optimiser]
batch = 2
learning_rate = 1e-3
ema = 0.9
"""
)
DIFFUSION = (
    RUN
    + """autoencoder = "autoencoder"

[network]
in_channels = 4
out_channels = 4
channels = [8, 16]
condition_channels = 5
mask_channels = 4
spade_hidden = 4
heads = 2
head_channels = 4
blocks_per_level = 1
norm_groups = 4
mask_downsampling = 2

[diffusion]
train_steps = 20
beta_schedule = "squaredcos_cap_v2"
prediction = "epsilon"

[latents]
crops = [[8, 8, 5], [10, 12, 6], [14, 12, 6]]
copies = 2
flip_probability = [0.5, 0.5, 0.0]
outline_sigmas = [0.0, 1.0]
sharp = ["nodule"]

[condition]
drop = {{ nodule = 0.1 }}
drop_default = 0.3
drop_all = 0.2

[optimiser]
batch = 2
learning_rate = 1e-3
warmup_steps = 2
ema = 0.9
loss = "l1"

[segmenter]
channels = [4, 8]
steps = 2
patch = 16
batch = 2
targets = ["lung", "nodule"]

[package]
id = "tiny-med-lsdm"
name = "Tiny"
version = "0.1.0"
description = "A test."
modality = "CT"
body_part = "chest"
orientation = "LPS"
max_size = [64, 64, 64]
default_size = [16, 16, 16]

[package.windows]
depth = 12
stride = 6

[package.sampling]
default_sampler = "ddim"
default_steps = 2
default_guidance = 1.5

[package.license]
spdx = "CC0-1.0"
attribution = "nobody"
permitted_use = "Tests."

[package.training]
dataset = "phantoms"
license = "CC0-1.0"
"""
)
TEXTS = {"autoencoder": AUTOENCODER, "diffusion": DIFFUSION}


def write_config(folder: Path, stage: str, data: Path, *changes: tuple[str, str]) -> Path:
    """The configuration of a stage in `folder`, with pieces of its text replaced; each must be there."""
    text = TEXTS[stage].format(stage=stage, data=data.as_posix())
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / f"{stage}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def checkpoint(run: Path) -> dict:
    return torch.load(run / "checkpoint.pt", weights_only=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return prepared_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> dict:
    """The two stages, uninterrupted."""
    folder, events, made = tmp_path_factory.mktemp("whole"), [], {}
    for stage in TEXTS:
        config = write_config(folder, stage, data)
        made[stage] = train(config, folder / stage, device="cpu", on_event=events.append)
    return {"folder": folder, "events": events, "package": made["diffusion"]}
