"""Configurations of MedLoRD's three stages that train on phantoms in seconds, and their uninterrupted runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import prepared_set

from SynthDiffusionLib.training.train import train

RUN = """
[run]
method = "medlord"
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
spatial_dims = 3
in_channels = 1
out_channels = 1
channels = [4, 8]
num_res_layers = 1
num_res_channels = [4, 8]
downsample_parameters = [[2, 4, 1, 1], [2, 4, 1, 1]]
upsample_parameters = [[2, 4, 1, 1, 0], [2, 4, 1, 1, 0]]
num_embeddings = 16
embedding_dim = 4
decay = 0.9

[crops]
size = [16, 16, 16]
rotation_probability = 0.5

[losses]
adversarial = 0.01
adversarial_start = 0.25
adversarial_ramp = 0.5
discriminator_channels = 4
discriminator_layers = 1
restart_below = 0.5

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
spatial_dims = 3
in_channels = 4
out_channels = 4
channels = [8, 8]
num_res_blocks = [1, 1]
attention_levels = [false, true]
num_head_channels = 8
norm_num_groups = 4

[diffusion]
train_steps = 20
beta_schedule = "squaredcos_cap_v2"
prediction = "v_prediction"

[latents]
crops = [[4, 4, 4], [6, 6, 6]]
copies = 2
target = "nodule"

[optimiser]
batch = 2
learning_rate = 1e-3
warmup_steps = 2
ema = 0.9
"""
)
CONTROLNET = (
    RUN
    + """autoencoder = "autoencoder"
denoiser = "diffusion"

[network]
spatial_dims = 3
unet_channels = [8, 8]
ratio = 0.5
in_channels = 4
condition_channels = 4
num_res_blocks = [1, 1]
attention_levels = [false, true]
num_head_channels = 4
norm_num_groups = 2
embedding_channels = [4, 8]
stem_stride = 2
downsampling = 4

[condition]
drop = {{ nodule = 0.1 }}

[optimiser]
batch = 2
learning_rate = 1e-3
ema = 0.9
loss = "l1"

[segmenter]
channels = [4, 8]
steps = 2
patch = 16
batch = 2

[package]
id = "tiny-medlord"
name = "Tiny"
version = "0.1.0"
description = "A test."
modality = "CT"
body_part = "chest"
orientation = "LPS"
max_size = [64, 64, 64]
default_size = [16, 16, 16]

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
TEXTS = {"autoencoder": AUTOENCODER, "diffusion": DIFFUSION, "controlnet": CONTROLNET}


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
    """The three stages, uninterrupted."""
    folder, events, made = tmp_path_factory.mktemp("whole"), [], {}
    for stage in TEXTS:
        config = write_config(folder, stage, data)
        made[stage] = train(config, folder / stage, device="cpu", on_event=events.append)
    return {"folder": folder, "events": events, "package": made["controlnet"]}
