"""From the checkpoints of the three stages to a model package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from SynthDiffusionLib.training.earlier import steps_of
from SynthDiffusionLib.training.medlord.config import MedLoRDConfig
from SynthDiffusionLib.training.medlord.earlier import read_stage
from SynthDiffusionLib.training.stage_pack import check_content, read_segmenter, stage_content, write_stage_package


def codebook_for_inference(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A VQVAE's tensors without the state of the codebook's training.

    The moving averages are not needed to encode or decode, and the counts of a large model pass what fp16 holds; they
    are written as those of a codebook that no latent has used yet, so that every tensor of MONAI's class is there.
    """
    prefix = "quantizer.quantizer."
    return {
        **weights,
        f"{prefix}ema_w": weights[f"{prefix}embedding.weight"],
        f"{prefix}ema_cluster_size": torch.zeros_like(weights[f"{prefix}ema_cluster_size"]),
    }


def package_content(
    config: MedLoRDConfig, autoencoder: dict[str, Any], denoiser: dict[str, Any], *, steps: int, segmenter_steps: int
) -> dict[str, Any]:
    """`model.json` of a run, without "format" and "files".

    Args:
        autoencoder: checkpoint of the stage autoencoder, or what of it is used here.
        denoiser: the same of the stage diffusion.
        steps: of the stage controlnet.
        segmenter_steps: 0 without a segmenter.

    Raises:
        BadInput: [package] lacks a field.
    """
    levels = len(denoiser["network_json"]["channels"])
    sections = {
        "backend": "medlord",
        "network": {"class": "DiffusionModelUNet", **denoiser["network_json"]},
        "autoencoder": {"class": "VQVAE", **autoencoder["network_json"]},
        "controlnet": {"class": "SlimControlNet", **config.network},
        "latent": {
            "channels": autoencoder["network_json"]["embedding_dim"],
            "downsampling": autoencoder["downsampling"],
            "scale_factor": denoiser["scale_factor"],
            "decoded_range": [-1.0, 1.0],
        },
        "diffusion": denoiser["diffusion"],
        "modes": ["whole", "unconditional"],
        "controls": {"condition_scale": True},
    }
    return stage_content(
        config,
        sections,
        divisor=autoencoder["downsampling"] * 2 ** (levels - 1),
        intensity_range=autoencoder["intensity_range"],
        steps={
            "autoencoder": autoencoder["step"],
            "diffusion": steps_of(denoiser),
            "controlnet": steps,
        },
        segmenter_steps=segmenter_steps,
    )


def check_package(config: MedLoRDConfig) -> None:
    """Whether [package] would make a valid `model.json`, found before the training and not after it.

    Raises:
        BadInput: it would not, or an earlier stage is missing.
    """
    autoencoder = read_stage(config.autoencoder, "autoencoder")
    denoiser = read_stage(config.denoiser, "diffusion")
    steps = config.segmenter.steps if config.segmenter is not None else 0
    content = package_content(config, autoencoder, denoiser, steps=1, segmenter_steps=steps)
    check_content(config, content, ["denoiser", "autoencoder", "controlnet"] + ["segmenter"] * bool(steps))


def write_medlord_package(config: MedLoRDConfig, checkpoint: Path, segmenter: Path | None, folder: Path) -> Path:
    """Writes `model.json`, the weights of all networks in fp16, and a card without measurements.

    Args:
        checkpoint: of the stage controlnet.
        segmenter: checkpoint of `train_segmenter`, or None.
        folder: of the package; made if missing.
    """
    autoencoder = read_stage(config.autoencoder, "autoencoder")
    denoiser = read_stage(config.denoiser, "diffusion")
    controlnet = read_stage(checkpoint.parent, "controlnet")
    found, segmenter_steps = read_segmenter(segmenter)
    weights = {
        "denoiser": denoiser["weights"],
        "autoencoder": codebook_for_inference(autoencoder["weights"]),
        "controlnet": controlnet["weights"],
        "segmenter": found,
    }
    content = package_content(config, autoencoder, denoiser, steps=controlnet["step"], segmenter_steps=segmenter_steps)
    return write_stage_package(folder, content, weights)
