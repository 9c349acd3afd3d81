"""What lies where in a bundle, and which class is meant by which name. Imports neither torch nor MONAI."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.models.spec import SPEC_NAME

if TYPE_CHECKING:
    import torch

FORMAT = "synthdiffusion-bundle-1"
OWN = "synthdiffusion"  # the entry of metadata.json that an exported package is told by
METADATA = "configs/metadata.json"
CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
DESCRIPTION = f"configs/{SPEC_NAME}"
MODELS = "models"
README = "docs/README.md"
LICENSE = "LICENSE"

# MONAI's name for the weights of the network that a bundle is about; the others are called as their role.
WEIGHT_FILES = {"denoiser": "models/model.pt"}
DEFINITIONS = {"denoiser": "network_def"}

ROLES = {
    "AutoencoderKlMaisi": "autoencoder",
    "ControlNetMaisi": "controlnet",
    "DiffusionModelUNet": "denoiser",
    "DiffusionModelUNetMaisi": "denoiser",
    "FactorisedUNet": "denoiser",
    "PatchUNet": "denoiser",
    "SliceRefiner": "refiner",
    "SliceUNet": "denoiser",
    "SliceVAE": "autoencoder",
    "SlimControlNet": "controlnet",
    "VQVAE": "autoencoder",
    "VqGan": "autoencoder",
}
"""What a network of a class is for; the segmenter, MONAI's UNet, stays with the model that it came with."""

_MAISI = "monai.apps.generation.maisi.networks"
TARGETS: dict[str, tuple[str, ...]] = {
    "AutoencoderKlMaisi": (f"{_MAISI}.autoencoderkl_maisi.AutoencoderKlMaisi",),
    "ControlNetMaisi": (f"{_MAISI}.controlnet_maisi.ControlNetMaisi",),
    "DiffusionModelUNet": (
        "monai.networks.nets.DiffusionModelUNet",
        "monai.networks.nets.diffusion_model_unet.DiffusionModelUNet",
        "DiffusionModelUNet",
    ),
    "DiffusionModelUNetMaisi": (f"{_MAISI}.diffusion_model_unet_maisi.DiffusionModelUNetMaisi",),
    "FactorisedUNet": ("SynthDiffusionLib.networks.factorised_unet.FactorisedUNet",),
    "PatchUNet": ("SynthDiffusionLib.networks.patch_unet.PatchUNet",),
    "SliceRefiner": ("SynthDiffusionLib.networks.slice_refiner.SliceRefiner",),
    "SliceUNet": ("SynthDiffusionLib.networks.slice_unet.SliceUNet",),
    "SliceVAE": ("SynthDiffusionLib.networks.slice_vae.SliceVAE",),
    "SlimControlNet": ("SynthDiffusionLib.networks.slim_controlnet.SlimControlNet",),
    "UNet": ("SynthDiffusionLib.networks.segmenter.build_segmenter",),
    "VQVAE": ("monai.networks.nets.VQVAE", "monai.networks.nets.vqvae.VQVAE", "VQVAE"),
    "VqGan": ("SynthDiffusionLib.networks.vq_gan.VqGan",),
}
"""Names of `_target_` by class: the first is written, all are read. MONAI finds its own by the bare name too."""

CLASSES = {target: name for name, targets in TARGETS.items() for target in targets}


def weight_file(role: str) -> str:
    """Where the weights of a role lie in a bundle."""
    return WEIGHT_FILES.get(role, f"{MODELS}/{role}.pt")


def definition_name(role: str) -> str:
    """What the network of a role is called in inference.json."""
    return DEFINITIONS.get(role, f"{role}_def")


def description_digests(description: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each section of a `model.json`, whatever its spacing and order of entries."""
    return {
        name: hashlib.sha256(json.dumps(section, sort_keys=True, ensure_ascii=True).encode("ascii")).hexdigest()
        for name, section in description.items()
    }


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of weights by name, type, shape and bytes, whatever file they lie in.

    Args:
        tensors: dense tensors on the CPU.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode("utf-8"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
