"""A tiny Med-LSDM package with random weights: one that something can be drawn from, but nothing that looks like MR."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tiny_latent import CLASSES
from tiny_package import DESCRIPTION

from SynthDiffusionLib.models import ModelPackage, NetworkSpec, seal_package

SECTIONS: dict[str, Any] = {
    "id": "tiny-lsdm",
    "name": "Tiny LSDM",
    "backend": "med_lsdm",
    "modality": "MR",
    "body_part": "limb",
    "target_class": "tumour",
    "network": {
        "class": "FactorisedUNet",
        "in_channels": 3,
        "out_channels": 3,
        "channels": [8, 16],
        "condition_channels": 4,
        "mask_channels": 4,
        "spade_hidden": 8,
        "heads": 2,
        "head_channels": 4,
        "blocks_per_level": 1,
        "norm_groups": 4,
        "mask_downsampling": 4,
    },
    "autoencoder": {
        "class": "VqGan",
        "in_channels": 1,
        "out_channels": 1,
        "hidden": 4,
        "downsampling": 4,
        "embedding_dim": 3,
        "num_embeddings": 256,
        "norm_groups": 4,
    },
    "latent": {
        "channels": 3,
        "downsampling": 4,
        "scale_factor": 1.0,
        "decoded_range": [-1.0, 1.0],
        "range": [-2.5, 1.5],
    },
    "windows": {"depth": 16, "stride": 8, "join": "steps"},
    "diffusion": {"train_steps": 500, "beta_schedule": "squaredcos_cap_v2", "prediction": "epsilon"},
    "grid": {
        "spacing_mm": [2.0, 2.0, 3.0],
        "orientation": "LPS",
        "min_size": [8, 8, 4],
        "max_size": [48, 48, 48],
        "divisor": 8,
        "default_size": [16, 24, 24],
    },
    "intensity": {"unit": "arbitrary", "range": [0.0, 1500.0]},
    "label_scheme": CLASSES,
    "modes": ["whole", "unconditional"],
    "sampling": {"default_sampler": "ddim", "default_steps": 2, "samplers": ["ddpm", "ddim", "dpmpp-2m", "unipc"]},
    "controls": {},
    "measured": {"quality": {}, "performance": {}},
}
ROLES = {"denoiser": "network", "autoencoder": "autoencoder"}


def make_lsdm_package(folder: Path, *, spade_decoder: bool = False, **changes: Any) -> ModelPackage:
    """A sealed package; zero-initialised outputs get random weights, so that every input has an effect.

    Args:
        folder: of the package; its name must be the ID.
        spade_decoder: whether the drawing leads the decoder, too.
        changes: sections of `model.json` that replace those of `SECTIONS`; None takes one away.
    """
    import torch
    from safetensors.torch import save_file

    from SynthDiffusionLib.networks.build import build_network

    description = copy.deepcopy(DESCRIPTION | SECTIONS | changes)
    for section in ("inpaint", "segmenter", *(name for name, value in changes.items() if value is None)):
        description.pop(section, None)
    if spade_decoder:
        description["autoencoder"]["condition_channels"] = len(description["label_scheme"]) + 1
    folder.mkdir(parents=True)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    roles = {}
    for role, section in ROLES.items():
        network = build_network(NetworkSpec.from_json(description[section]))
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "scale_and_offset" in name:  # fresh, a drawing moves the latents by less than codes are apart
                    parameter.mul_(8.0)
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / f"{role}.safetensors")
        roles[f"{role}.safetensors"] = role
    torch.random.set_rng_state(state)
    return seal_package(folder, description, roles)
