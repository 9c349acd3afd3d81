"""One stage of MedLoRD from a configuration file, and the package at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.output_folders import check_writable
from SynthDiffusionLib.training.config import Optimiser, SegmenterConfig, TrainConfig
from SynthDiffusionLib.training.dataset import read_description
from SynthDiffusionLib.training.medlord.autoencoder import train_autoencoder
from SynthDiffusionLib.training.medlord.config import HINT, MedLoRDConfig, load_medlord_config
from SynthDiffusionLib.training.medlord.controlnet import train_controlnet
from SynthDiffusionLib.training.medlord.diffusion import train_diffusion
from SynthDiffusionLib.training.medlord.pack import check_package, write_medlord_package
from SynthDiffusionLib.training.patches import PatchConfig
from SynthDiffusionLib.training.train_segmenter import train_segmenter

TRAIN = {"autoencoder": train_autoencoder, "diffusion": train_diffusion, "controlnet": train_controlnet}


def train_stage(
    config_path: Path,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    only_segmenter: bool = False,
    on_event: Callable[[dict], None] = lambda event: None,
) -> Path:
    """Carries out the configuration of one stage.

    Args:
        only_segmenter: train the segmenter of the stage controlnet alone; it needs no other stage, so that it can run
            beside one.

    Returns:
        Folder of the package for the stage controlnet with [package]; the checkpoint otherwise.

    Raises:
        BadInput: a configuration that cannot be used, or a run in `out` that would be overwritten.
        RunFailed: the training diverged, or the disk is full.
    """
    config = load_medlord_config(config_path)
    _check_data(config)
    if not resume and not only_segmenter and (out / "checkpoint.pt").exists():
        raise BadInput(f"'{out}' already holds a run", "Add --resume to go on with it, or give another --out.")
    if only_segmenter and config.segmenter is None:
        raise BadInput(f"'{config_path}' has no [segmenter] table", HINT)
    check_writable(out)
    if only_segmenter:
        return _train_segmenter(config, out, device, on_event)
    if config.package:
        check_package(config)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = TRAIN[config.stage](config, out, resume=resume, device=device, on_event=on_event)
    if config.stage != "controlnet" or not config.package:
        return checkpoint
    segmenter = _train_segmenter(config, out, device, on_event) if config.segmenter is not None else None
    return write_medlord_package(config, checkpoint, segmenter, out / "package")


def _check_data(config: MedLoRDConfig) -> None:
    scheme, description = load_scheme(config.label_scheme), read_description(config.data)
    for part in ("train", "validation"):
        if not description["split"].get(part):
            raise BadInput(f"The data set in '{config.data}' has no {part} cases", HINT)
    if description["classes"] != {c.name: c.value for c in scheme.condition_classes}:
        raise BadInput(
            f"The data set in '{config.data}' was prepared for other classes than those of '{config.label_scheme}'",
            HINT,
        )
    if config.segmenter is not None:
        _check_segmenter(config.segmenter)
        if not isinstance(description.get("target"), str):
            raise BadInput(f"The data set in '{config.data}' names no target for the segmenter", HINT)


def _check_segmenter(segmenter: SegmenterConfig) -> None:
    levels = 2 ** (len(segmenter.channels) - 1)
    if len(segmenter.channels) < 2 or min(segmenter.channels) < 1:
        raise BadInput("[segmenter] channels must be at least two whole numbers from 1", HINT)
    if min(segmenter.steps, segmenter.batch) < 1 or segmenter.patch < 1 or segmenter.patch % levels:
        raise BadInput(f"[segmenter] needs steps and batch of at least 1, and a patch that is a multiple of {levels}",
                       HINT)  # fmt: skip


def _train_segmenter(config: MedLoRDConfig, out: Path, device: str, on_event: Callable[[dict], None]) -> Path:
    """The segmenter of the patch-wise models, on the same data; one that is trained already is only read."""
    target = read_description(config.data)["target"]
    settings = TrainConfig(
        package={},
        data=config.data,
        label_scheme=config.label_scheme,
        network={},
        diffusion={},
        phases=(),
        patches=dataclasses.replace(PatchConfig(), target=target),
        optimiser=Optimiser(),
        segmenter=config.segmenter,
        intensity_range=config.intensity_range,
        seed=config.seed,
        precision=config.precision,
        checkpoint_every=config.checkpoint_every,
    )
    scheme = load_scheme(config.label_scheme)
    return train_segmenter(settings, scheme, out, resume=True, device=device, on_event=on_event)
