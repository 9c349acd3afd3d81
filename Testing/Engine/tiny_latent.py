"""A tiny MedLoRD package with random weights: one that something can be drawn from, but nothing that looks like CT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tiny_package import DESCRIPTION

from SynthDiffusionLib.models import ModelPackage, NetworkSpec, seal_package

CLASSES = [
    {"name": "body", "value": 1},
    {"name": "muscle", "value": 2, "within": ["body"]},
    {"name": "tumour", "value": 3, "within": ["body", "muscle"], "color": [0.9, 0.2, 0.2]},
]
SECTIONS: dict[str, Any] = {
    "id": "tiny-limb",
    "name": "Tiny limb",
    "backend": "medlord",
    "body_part": "limb",
    "target_class": "tumour",
    "network": {
        "class": "DiffusionModelUNet",
        "spatial_dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "channels": [8, 16],
        "num_res_blocks": [1, 1],
        "attention_levels": [False, True],
        "num_head_channels": [0, 8],
        "norm_num_groups": 8,
    },
    "autoencoder": {
        "class": "VQVAE",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "channels": [4, 8],
        "num_res_layers": 1,
        "num_res_channels": [4, 8],
        "downsample_parameters": [[2, 4, 1, 1], [2, 4, 1, 1]],
        "upsample_parameters": [[2, 4, 1, 1, 0], [2, 4, 1, 1, 0]],
        "num_embeddings": 32,
        "embedding_dim": 3,
    },
    "controlnet": {
        "class": "SlimControlNet",
        "spatial_dims": 3,
        "unet_channels": [8, 16],
        "ratio": 0.5,
        "in_channels": 3,
        "condition_channels": 3,
        "num_res_blocks": [1, 1],
        "attention_levels": [False, True],
        "num_head_channels": 8,
        "norm_num_groups": 4,
        "embedding_channels": [4, 8],
        "downsampling": 4,
    },
    "latent": {"channels": 3, "downsampling": 4, "scale_factor": 1.25, "decoded_range": [-1.0, 1.0]},
    "diffusion": {"train_steps": 300, "beta_schedule": "squaredcos_cap_v2", "prediction": "v_prediction"},
    "grid": {
        "spacing_mm": [2.0, 2.0, 3.0],
        "orientation": "LPS",
        "min_size": [8, 8, 8],
        "max_size": [48, 48, 48],
        "divisor": 8,
        "default_size": [16, 24, 16],
    },
    "intensity": {"unit": "HU", "range": [-1000.0, 1000.0]},
    "label_scheme": CLASSES,
    "modes": ["whole", "unconditional"],
    "sampling": {
        "default_sampler": "dpmpp-2m",
        "default_steps": 2,
        "samplers": ["ddpm", "ddim", "dpmpp-2m", "unipc"],
    },
    "controls": {"condition_scale": True},
}
ROLES = {"denoiser": "network", "autoencoder": "autoencoder", "controlnet": "controlnet"}


def make_latent_package(folder: Path, *, controlnet: bool = True, **changes: Any) -> ModelPackage:
    """A sealed package; zero-initialised outputs get random weights, so that every input has an effect.

    Args:
        folder: of the package; its name must be the ID.
        controlnet: whether it can follow a drawing.
        changes: sections of `model.json` that replace those of `SECTIONS`.
    """
    import torch
    from safetensors.torch import save_file

    from SynthDiffusionLib.networks.build import build_network

    description = copy.deepcopy(DESCRIPTION | SECTIONS | changes)
    for section in ("inpaint", "segmenter"):
        description.pop(section, None)
    if not controlnet:
        description.pop("controlnet")
        description |= {"modes": ["unconditional"], "controls": {}}
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    roles = {}
    for role, section in ROLES.items():
        if section in description:
            network = build_network(NetworkSpec.from_json(description[section]))
            for parameter in network.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / f"{role}.safetensors")
            roles[f"{role}.safetensors"] = role
    return seal_package(folder, description, roles)
