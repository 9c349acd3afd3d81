"""From the checkpoints of the three stages to a model package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.models.package import seal_package
from SynthDiffusionLib.models.spec import FORMAT, ModelSpec
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.sampling.samplers import SAMPLERS
from SynthDiffusionLib.training.dataset import read_description, spacing_of
from SynthDiffusionLib.training.medlord.config import HINT, MedLoRDConfig
from SynthDiffusionLib.training.medlord.earlier import read_stage
from SynthDiffusionLib.training.pack import CARD, write_half
from SynthDiffusionLib.volumes.atomic import atomic_file


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
    description, stated = read_description(config.data), config.package
    levels = len(denoiser["network_json"]["channels"])
    try:
        grid = {
            "spacing_mm": [float(n) for n in stated.get("spacing_mm", spacing_of(description))],
            "orientation": stated["orientation"],
            "min_size": stated.get("min_size", [1, 1, 1]),
            "max_size": stated["max_size"],
            "divisor": autoencoder["downsampling"] * 2 ** (levels - 1),
            **{name: stated[name] for name in ("spacing_range_mm", "default_size") if name in stated},
        }
        content: dict[str, Any] = {
            **{k: stated[k] for k in ("id", "name", "version", "description", "modality", "body_part")},
            "backend": "medlord",
            "target_class": description.get("target"),
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
            "grid": grid,
            "intensity": {"unit": description["unit"], "range": list(autoencoder["intensity_range"])},
            "label_scheme": json.loads(
                resource_path("LabelSchemes", f"{config.label_scheme}.json").read_text(encoding="utf-8")
            ),
            "modes": ["whole", "unconditional"],
            "controls": {"condition_scale": True},
            "sampling": {**stated["sampling"], "samplers": list(SAMPLERS)},
            "license": stated["license"],
            "training": {
                **stated["training"],
                "split": description["split"],
                "steps": None,  # one number for each stage: see "provenance"
                "seed": config.seed,
            },
            "measured": {"quality": {}, "performance": {}},
            "provenance": {
                "split_seed": description["split_seed"],
                "steps": {"autoencoder": autoencoder["step"], "diffusion": denoiser["step"], "controlnet": steps},
                "seen": list(stated.get("seen", ())),
                "noted": list(stated.get("noted", ())),
            },
        }
    except KeyError as error:
        raise BadInput(f"[package] has no '{error.args[0]}'", HINT) from error
    except (TypeError, ValueError) as error:
        raise BadInput(f"[package] is not as it should be: {error}", HINT) from error
    if segmenter_steps:
        content["segmenter"] = {
            "network": {"class": "UNet", "channels": list(config.segmenter.channels)},
            "steps": segmenter_steps,
            "measured": {},
            **config.segmenter.details(),
        }
    return content


def check_package(config: MedLoRDConfig) -> None:
    """Whether [package] would make a valid `model.json`, found before the training and not after it.

    Raises:
        BadInput: it would not, or an earlier stage is missing.
    """
    autoencoder = read_stage(config.autoencoder, "autoencoder")
    denoiser = read_stage(config.denoiser, "diffusion")
    steps = config.segmenter.steps if config.segmenter is not None else 0
    content = package_content(config, autoencoder, denoiser, steps=1, segmenter_steps=steps)
    roles = ["denoiser", "autoencoder", "controlnet"] + ["segmenter"] * bool(steps)
    files = [{"path": f"{r}.safetensors", "sha256": "0" * 64, "bytes": 0, "role": r} for r in roles]
    try:
        ModelSpec.from_json({"format": FORMAT, **json.loads(json.dumps(content)), "files": files}, config.source.name)
    except ModelError as error:
        raise BadInput(error.message, HINT) from error


def write_medlord_package(config: MedLoRDConfig, checkpoint: Path, segmenter: Path | None, folder: Path) -> Path:
    """Writes `model.json`, the weights of all networks in fp16, and a card without measurements.

    Args:
        checkpoint: of the stage controlnet.
        segmenter: checkpoint of `train_segmenter`, or None.
        folder: of the package; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    autoencoder = read_stage(config.autoencoder, "autoencoder")
    denoiser = read_stage(config.denoiser, "diffusion")
    controlnet = read_stage(checkpoint.parent, "controlnet")
    weights = {
        "denoiser": denoiser["weights"],
        "autoencoder": codebook_for_inference(autoencoder["weights"]),
        "controlnet": controlnet["weights"],
    }
    segmenter_steps = 0
    if segmenter is not None:
        trained = torch.load(segmenter, map_location="cpu", weights_only=True)
        weights["segmenter"], segmenter_steps = trained["network"], trained["step"]
    for role, tensors in weights.items():
        write_half(tensors, folder / f"{role}.safetensors")
    content = package_content(config, autoencoder, denoiser, steps=controlnet["step"], segmenter_steps=segmenter_steps)
    card = CARD.format(name=content["name"], description=content["description"])
    with atomic_file(folder / "MODEL_CARD.md") as stream:
        stream.write(card.encode("utf-8"))
    roles = {f"{role}.safetensors": role for role in weights} | {"MODEL_CARD.md": "card"}
    seal_package(folder, json.loads(json.dumps(content)), roles)
    return folder
