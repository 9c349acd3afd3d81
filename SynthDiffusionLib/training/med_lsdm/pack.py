"""From the checkpoints of the two stages to a model package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.earlier import steps_of
from SynthDiffusionLib.training.med_lsdm.config import MedLSDMConfig
from SynthDiffusionLib.training.med_lsdm.earlier import read_stage
from SynthDiffusionLib.training.med_lsdm.latents import digest_of
from SynthDiffusionLib.training.stage_pack import check_content, read_segmenter, stage_content, write_stage_package
from SynthDiffusionLib.training.stages import HINT


def codebook_for_inference(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A VqGan's tensors without the running averages of its codebook, which only training needs."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith("ema_")}


def package_content(
    config: MedLSDMConfig, autoencoder: dict[str, Any], denoiser: dict[str, Any], *, segmenter_steps: int
) -> dict[str, Any]:
    """`model.json` of a run, without "format" and "files".

    Args:
        autoencoder: checkpoint of the stage autoencoder.
        denoiser: checkpoint of the stage diffusion, or what of it is used here.
        segmenter_steps: 0 without a segmenter.

    Raises:
        BadInput: [package] lacks a field.
    """
    network, codebook, factor = (
        denoiser["network_json"],
        autoencoder["weights"]["codebook"],
        autoencoder["downsampling"],
    )
    depth = max(size[2] for size in config.latents.crops) * factor
    windows = config.package.get("windows", {})
    if not isinstance(windows, dict):
        raise BadInput("[package] windows is not a table", HINT)
    windows = {"depth": depth, "stride": max(factor, depth // 2 // factor * factor), "join": "steps", **windows}
    for name in ("depth", "stride"):
        if isinstance(windows[name], int) and windows[name] % factor:
            raise BadInput(f"[package.windows] {name} must be a multiple of {factor}, not {windows[name]}", HINT)
    # Without the null condition there is nothing to make a volume of without a drawing, and nothing to lead away from.
    has_null = denoiser["drop_all"] > 0
    sections = {
        "backend": "med_lsdm",
        "network": {"class": "FactorisedUNet", **network, "mask_downsampling": factor},
        "autoencoder": {
            "class": "VqGan",
            **autoencoder["network_json"],
            "embedding_dim": codebook.shape[1],
            "num_embeddings": codebook.shape[0],
            "downsampling": factor,
        },
        "latent": {
            "channels": codebook.shape[1],
            "downsampling": factor,
            "scale_factor": denoiser["scale_factor"],
            "decoded_range": [-1.0, 1.0],
            **({"range": denoiser["latent_range"]} if denoiser["latent_range"] else {}),
        },
        "windows": windows,
        "diffusion": denoiser["diffusion"],
        "modes": ["whole", "unconditional"] if has_null else ["whole"],
        "controls": {"guidance": has_null},
    }
    return stage_content(
        config,
        sections,
        divisor=factor * 2 ** (len(network.get("channels", (64, 128, 256, 512))) - 1),
        intensity_range=autoencoder["intensity_range"],
        steps={"autoencoder": autoencoder["step"], "diffusion": steps_of(denoiser)},
        segmenter_steps=segmenter_steps,
    )


def check_package(config: MedLSDMConfig) -> None:
    """Whether [package] would make a valid `model.json`, found before the training and not after it.

    Raises:
        BadInput: it would not, or the earlier stage is missing.
    """
    autoencoder = read_stage(config.autoencoder, "autoencoder")
    denoiser = {
        "network_json": config.network,
        "latent_range": [-1.0, 1.0],
        "scale_factor": 1.0,
        "diffusion": config.diffusion,
        "drop_all": config.condition.drop_all,
        "step": 1,
    }
    steps = config.segmenter.steps if config.segmenter is not None else 0
    content = package_content(config, autoencoder, denoiser, segmenter_steps=steps)
    check_content(config, content, ["denoiser", "autoencoder"] + ["segmenter"] * bool(steps))


def write_med_lsdm_package(config: MedLSDMConfig, checkpoint: Path, segmenter: Path | None, folder: Path) -> Path:
    """Writes `model.json`, the weights of all networks in fp16, and a card without measurements.

    Args:
        checkpoint: of the stage diffusion.
        segmenter: checkpoint of `train_segmenter`, or None.
        folder: of the package; made if missing.

    Raises:
        BadInput: the autoencoder is another one than the denoiser was trained with.
    """
    autoencoder = read_stage(config.autoencoder, "autoencoder")
    denoiser = read_stage(checkpoint.parent, "diffusion")
    if denoiser["autoencoder_sha256"] != digest_of(autoencoder["weights"]):
        raise BadInput(
            f"The denoiser in '{checkpoint.parent}' was trained on latents of another autoencoder than that in "
            f"'{config.autoencoder}'",
            "Name the run of the autoencoder that it was trained with, or train the denoiser again.",
        )
    found, steps = read_segmenter(segmenter)
    weights = {
        "denoiser": denoiser["weights"],
        "autoencoder": codebook_for_inference(autoencoder["weights"]),
        "segmenter": found,
    }
    content = package_content(config, autoencoder, denoiser, segmenter_steps=steps)
    return write_stage_package(folder, content, weights)
