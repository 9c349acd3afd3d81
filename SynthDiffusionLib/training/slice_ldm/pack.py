"""From the checkpoints of the stages to a model package."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.labels.characteristics import fit_distribution
from SynthDiffusionLib.models.characteristics import NAMES
from SynthDiffusionLib.training.dataset import read_description
from SynthDiffusionLib.training.earlier import steps_of
from SynthDiffusionLib.training.slice_ldm.config import SliceLDMConfig
from SynthDiffusionLib.training.slice_ldm.earlier import read_stage
from SynthDiffusionLib.training.stage_pack import check_content, read_segmenter, stage_content, write_stage_package


def package_content(
    config: SliceLDMConfig,
    autoencoder: dict[str, Any],
    refiner: dict[str, Any] | None,
    denoiser: dict[str, Any],
    *,
    segmenter_steps: int,
) -> dict[str, Any]:
    """`model.json` of a run, without "format" and "files".

    Args:
        autoencoder: checkpoint of the stage autoencoder.
        refiner: the same of the stage refiner, if there is one.
        denoiser: of the stage diffusion: "step", "scale_factor" and "characteristics" of it.
        segmenter_steps: 0 without a segmenter.

    Raises:
        BadInput: [package] lacks a field.
    """
    size, network = list(autoencoder["size"]), autoencoder["network_json"]
    strides = [int(n) for n in network.get("strides", (1, 2, 2, 2))]
    factor = int(np.prod(strides))
    steps = {"autoencoder": autoencoder["step"], "diffusion": steps_of(denoiser)}
    sections: dict[str, Any] = {
        "backend": "slice_ldm",
        "network": {"class": "SliceUNet", **config.network},
        "autoencoder": {"class": "SliceVAE", **network, "strides": strides},
        "latent": {
            "channels": network.get("latent_channels", 4),
            "downsampling": [factor, factor, 1],
            "scale_factor": denoiser["scale_factor"],
            "decoded_range": [-1.0, 1.0],
        },
        "diffusion": config.diffusion,
        "modes": ["joint"],
        "controls": {"guidance": config.condition.drop > 0},
        "characteristics": denoiser["characteristics"],
    }
    if refiner is not None:
        sections["refiner"] = {"class": "SliceRefiner", **refiner["network_json"]}
        steps["refiner"] = refiner["step"]
    # Of one size: place and extent of the target are told as shares of it.
    sized = {**config.package, "min_size": size, "max_size": size, "default_size": size}
    return stage_content(
        dataclasses.replace(config, package=sized),
        sections,
        divisor=factor * 2 ** (len(config.network.get("channels", (64, 128, 256, 512))) - 1),
        intensity_range=autoencoder["intensity_range"],
        steps=steps,
        segmenter_steps=segmenter_steps,
    )


def _stages(config: SliceLDMConfig) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Checkpoints of the autoencoder and, if there is one, of the refiner."""
    refiner = None if config.refiner is None else read_stage(config.refiner, "refiner")
    return read_stage(config.autoencoder, "autoencoder"), refiner


def check_package(config: SliceLDMConfig) -> None:
    """Whether [package] would make a valid `model.json`, found before the training and not after it.

    Raises:
        BadInput: it would not, or an earlier stage is missing.
    """
    autoencoder, refiner = _stages(config)
    steps = config.segmenter.steps if config.segmenter is not None else 0
    # What only the training knows, as some valid values: one case, and latents that need no scale.
    target = read_description(config.data).get("target") or ""
    unknown = fit_distribution(np.ones((1, len(NAMES))), (1.0, 1.0, 1.0), target)
    denoiser = {"step": 1, "scale_factor": 1.0, "characteristics": unknown.to_json()}
    content = package_content(config, autoencoder, refiner, denoiser, segmenter_steps=steps)
    roles = ["denoiser", "autoencoder"] + ["refiner"] * (refiner is not None) + ["segmenter"] * bool(steps)
    check_content(config, content, roles)


def write_slice_ldm_package(config: SliceLDMConfig, checkpoint: Path, segmenter: Path | None, folder: Path) -> Path:
    """Writes `model.json`, the weights of all networks in fp16, and a card without measurements.

    Args:
        checkpoint: of the stage diffusion.
        segmenter: checkpoint of `train_segmenter`, or None.
        folder: of the package; made if missing.
    """
    autoencoder, refiner = _stages(config)
    denoiser = read_stage(checkpoint.parent, "diffusion")
    stages = {"denoiser": denoiser, "autoencoder": autoencoder, "refiner": refiner}
    weights = {role: None if state is None else state["weights"] for role, state in stages.items()}
    weights["segmenter"], segmenter_steps = read_segmenter(segmenter)
    content = package_content(config, autoencoder, refiner, denoiser, segmenter_steps=segmenter_steps)
    return write_stage_package(folder, content, weights)
