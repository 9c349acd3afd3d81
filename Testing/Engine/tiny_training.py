"""A training set of a few small phantoms, and a configuration that trains on it in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.training.prepare import prepare
from SynthDiffusionLib.volumes import Volume, write_volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def ball(shape: tuple[int, int, int], center: tuple[float, ...], radius: float) -> np.ndarray:
    """(I, J, K) bool."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    return ((grid - np.array(center)[:, None, None, None]) ** 2).sum(0) <= radius**2


def phantom_pair(seed: int, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """HU and nodule mask of a lung with a nodule in soft tissue, a little different for every seed."""
    rng = np.random.default_rng(seed)
    shape = (side,) * 3
    hu = np.full(shape, 40.0)
    hu[ball(shape, (side / 2,) * 3, 0.45 * side)] = -850.0
    nodule = ball(shape, tuple(side / 2 + rng.uniform(-2, 2, 3)), rng.uniform(2.5, 4.0))
    hu[nodule] = 30.0
    return np.rint(hu + rng.normal(0, 20, shape)).astype(np.int16), nodule


def write_pairs(folder: Path, names: list[str], affine: np.ndarray = LPS, side: int = 24) -> tuple[Path, Path]:
    """`images/NAME.nii.gz` and `labels/NAME.nii.gz`; returns both folders."""
    images, labels = folder / "images", folder / "labels"
    for path in (images, labels):
        path.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        hu, nodule = phantom_pair(seed, side)
        write_volume(Volume(hu, affine, "HU"), images / f"{name}.nii.gz")
        write_volume(Volume(nodule.astype(np.uint8), affine, "label"), labels / f"{name}.nii.gz")
    return images, labels


def prepared_set(folder: Path) -> Path:
    """A data set of four training, one validation and one test patient; returns its folder."""
    images, labels = write_pairs(folder / "source", [f"p{i}" for i in range(6)])
    prepare(images, labels, folder / "prepared", load_scheme("lung-nodule-ct"), split=(4, 1, 1), seed=1)
    return folder / "prepared"


CONFIG = """
[run]
data = "{data}"
label_scheme = "lung-nodule-ct"
seed = 7
precision = "32-true"
checkpoint_every = 20
validate_every = 50

[network]
channels = [8, 8]
norm_groups = 4

[diffusion]
train_steps = 100
beta_schedule = "linear"
beta_start = 1e-3
beta_end = 0.2
prediction = "v_prediction"

[patches]
field_sizes = [16, 20]
drop = {{ body = 0.4, lung = 0.4, bone = 0.5, nodule = 0.15 }}

[optimiser]
learning_rate = 5e-3
warmup_steps = 5
ema = 0.9

[[phase]]
steps = 30
patch = 16
batch = 2

[[phase]]
steps = 30
patch = 8
batch = 3

[segmenter]
channels = [4, 8]
steps = 20
patch = 16
batch = 2

[package]
id = "tiny-trained"
name = "Tiny"
version = "0.1.0"
description = "A test."
modality = "CT"
body_part = "chest"
orientation = "LPS"
max_size = [24, 24, 24]

[package.inpaint]
margin_mm = 2.0
max_region_mm = 10.0

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


def write_config(folder: Path, data: Path, changes: tuple[tuple[str, str], ...] = ()) -> Path:
    """The configuration with pieces of its text replaced; each piece must be there."""
    text = CONFIG.format(data=data.as_posix())
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path
