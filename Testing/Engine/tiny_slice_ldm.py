"""A tiny slice-based latent diffusion model with random weights: it makes an image and a mask, neither of which looks
like anything."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from tiny_package import DESCRIPTION

from SynthDiffusionLib.labels.characteristics import fit_distribution, measure
from SynthDiffusionLib.models import ModelPackage, NetworkSpec, seal_package
from SynthDiffusionLib.models.characteristics import CharacteristicsSpec

SHAPE = (16, 24, 16)
SPACING = (4.0, 4.0, 5.0)
EXTENT = (64.0, 96.0, 80.0)  # along R, A and S: the grid is LPS
AFFINE = np.diag([-4.0, -4.0, 5.0, 1.0])
SECTIONS: dict[str, Any] = {
    "id": "tiny-joint",
    "name": "Tiny joint",
    "backend": "slice_ldm",
    "modality": "MR",
    "body_part": "limb",
    "target_class": "tumour",
    "network": {
        "class": "SliceUNet",
        "in_channels": 3,
        "out_channels": 3,
        "channels": [8, 16],
        "norm_num_groups": 4,
        "characteristics_width": 16,
    },
    "autoencoder": {
        "class": "SliceVAE",
        "channels": [4, 8],
        "strides": [1, 2],
        "latent_channels": 3,
        "norm_groups": 4,
        "slices": 16,
    },
    "refiner": {"class": "SliceRefiner", "latent_channels": 3, "channels": [6, 4], "blocks": 1},
    "latent": {"channels": 3, "downsampling": [2, 2, 1], "scale_factor": 1.25, "decoded_range": [-1.0, 1.0]},
    "diffusion": {
        "train_steps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.002,
        "beta_end": 0.02,
        "prediction": "epsilon",
    },
    "grid": {
        "spacing_mm": list(SPACING),
        "orientation": "LPS",
        "min_size": [8, 8, 8],
        "max_size": [32, 32, 32],
        "divisor": 4,
        "default_size": list(SHAPE),
    },
    "intensity": {"unit": "arbitrary", "range": [0.0, 1500.0]},
    "label_scheme": [
        {
            "name": "tumour",
            "value": 7,
            "codes": [{"scheme": "SCT", "value": "108369006", "meaning": "Neoplasm"}],
            "category": {"scheme": "SCT", "value": "49755003", "meaning": "Morphologically Altered Structure"},
            "color": [0.9, 0.2, 0.2],
        }
    ],
    "modes": ["joint"],
    "sampling": {"default_sampler": "ddim", "default_steps": 2, "samplers": ["ddpm", "ddim", "dpmpp-2m", "unipc"]},
    "controls": {"guidance": False},
    "measured": {"quality": {}, "performance": {}},
}
ROLES = {"denoiser": "network", "autoencoder": "autoencoder", "refiner": "refiner"}


def ellipsoids(cases: int = 30, seed: int = 4) -> np.ndarray:
    """(cases, 9) characteristics of ellipsoids that were drawn on the package's grid."""
    rng = np.random.default_rng(seed)
    axes = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)
    rows = []
    for _ in range(cases):
        middle = (np.array(SHAPE) - 1) / 2 + rng.uniform(-1.5, 1.5, 3)
        radii = rng.uniform(2.0, 5.0) * rng.uniform(0.7, 1.1, 3)
        mask = (((axes - middle) / radii) ** 2).sum(-1) <= 1
        rows.append(list(measure(mask, AFFINE).values()))
    return np.array(rows)


def tiny_characteristics() -> CharacteristicsSpec:
    """Their distribution."""
    return fit_distribution(ellipsoids(), EXTENT)


def make_joint_package(
    folder: Path, *, refiner: bool = True, mask_bias: float | None = None, **changes: Any
) -> ModelPackage:
    """A sealed package; zero-initialised outputs get random weights, so that every input has an effect.

    Args:
        folder: of the package; its name must be the ID.
        refiner: whether it has one.
        mask_bias: instead of the decoder's, for the mask: -100 makes empty masks, 100 full ones; without a refiner.
        changes: sections of `model.json` that replace those of `SECTIONS`.
    """
    import torch
    from safetensors.torch import save_file

    from SynthDiffusionLib.networks.build import build_network

    description = copy.deepcopy(
        DESCRIPTION | SECTIONS | {"characteristics": tiny_characteristics().to_json()} | changes
    )
    for section in ("inpaint", "segmenter"):
        description.pop(section, None)
    if not refiner or mask_bias is not None:
        description.pop("refiner")
    folder.mkdir(parents=True)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    roles = {}
    for role, section in ROLES.items():
        if section in description:
            network = build_network(NetworkSpec.from_json(description[section]))
            for parameter in network.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
            tensors = {k: v.contiguous() for k, v in network.state_dict().items()}
            if role == "autoencoder" and mask_bias is not None:
                tensors[f"decoder.{len(network.decoder) - 1}.bias"][1] = mask_bias
            save_file(tensors, folder / f"{role}.safetensors")
            roles[f"{role}.safetensors"] = role
    torch.random.set_rng_state(state)
    return seal_package(folder, description, roles)
