"""Checkpoints in exactly the layouts that MedLoRD and MAISI are released in, made of tiny networks with random weights,
and descriptions of these networks for `--like`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from SynthDiffusionLib.models.presets import load_preset
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network

MEDLORD_NETWORKS: dict[str, dict[str, Any]] = {
    "denoiser": {
        "class": "DiffusionModelUNet",
        "spatial_dims": 3,
        "in_channels": 4,
        "out_channels": 4,
        "channels": [8, 16],
        "num_res_blocks": [1, 1],
        "attention_levels": [False, True],
        "num_head_channels": [0, 8],
        "norm_num_groups": 4,
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
        "num_embeddings": 16,
        "embedding_dim": 4,
    },
}


def _maisi_networks(rflow: bool) -> dict[str, dict[str, Any]]:
    body = {
        "spatial_dims": 3,
        "in_channels": 4,
        "num_channels": [8, 16],
        "num_res_blocks": 1,
        "attention_levels": [False, True],
        "num_head_channels": [0, 8],
        "norm_num_groups": 4,
        "resblock_updown": rflow,
        "include_fc": rflow,
        **({"num_class_embeds": 8} if rflow else {}),
    }
    return {
        "denoiser": {
            "class": "DiffusionModelUNetMaisi",
            "out_channels": 4,
            "include_spacing_input": True,
            "include_top_region_index_input": not rflow,
            "include_bottom_region_index_input": not rflow,
            **body,
        },
        "autoencoder": {
            "class": "AutoencoderKlMaisi",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 1,
            "latent_channels": 4,
            "num_channels": [4, 8, 8],
            "num_res_blocks": [1, 1, 1],
            "norm_num_groups": 4,
            "norm_eps": 1e-6,
            "attention_levels": [False, False, False],
            "with_encoder_nonlocal_attn": False,
            "with_decoder_nonlocal_attn": False,
            "use_convtranspose": False,
            "norm_float16": False,
            "num_splits": 1,
            "dim_split": 1,
            "save_mem": False,
        },
        "controlnet": {
            "class": "ControlNetMaisi",
            "conditioning_embedding_in_channels": 8,
            "conditioning_embedding_num_channels": [4, 8, 8],
            **body,
        },
    }


NETWORKS = {
    "medlord-x4": MEDLORD_NETWORKS,
    "maisi-ddpm": _maisi_networks(rflow=False),
    "maisi-rflow": _maisi_networks(rflow=True),
}
SECTIONS = {"denoiser": "network", "autoencoder": "autoencoder", "controlnet": "controlnet"}


def tiny_preset(path: Path, preset: str) -> Path:
    """Writes the preset with the tiny networks in place of its own, for volumes of 32 x 24 x 16 voxels."""
    raw = copy.deepcopy(load_preset(preset).raw)
    networks = NETWORKS[preset]
    for role, section in SECTIONS.items():
        if role in networks:
            raw[section] = networks[role]
        else:
            raw.pop(section, None)
    raw["latent"]["channels"] = 4
    raw["grid"] |= {"min_size": [8, 8, 8], "max_size": [64, 64, 64], "default_size": [32, 24, 16], "divisor": 8}
    raw["grid"].pop("rules", None)
    raw["id"] = f"tiny-{preset}"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


def network(preset: str, role: str, seed: int = 3) -> torch.nn.Module:
    """A tiny network with random weights everywhere, those that start at zero too."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    made = build_network(NetworkSpec.from_json(NETWORKS[preset][role])).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(0.2 * torch.randn(p.shape))
    torch.random.set_rng_state(state)
    return made


def older_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A DiffusionModelUNet's state dict by the names of MONAI Generative."""
    renamed = {}
    for name, tensor in tensors.items():
        for new, old in (
            (".attn.out_proj.", ".proj_attn."),
            (".attn.to_q.", ".to_q."),
            (".attn.to_k.", ".to_k."),
            (".attn.to_v.", ".to_v."),
            (".upsampler.postconv.", ".upsampler.conv."),
        ):
            name = name.replace(new, old)
        renamed[name] = tensor
    return renamed


def medlord_files(folder: Path, layout: str = "old") -> tuple[list[Path], dict[str, torch.nn.Module]]:
    """MedLoRD's two files, and the networks whose outputs they must give.

    Args:
        folder: to write to.
        layout: of the diffusion file: "old" attention names with averaged weights, "shadow" with present names, "model"
            without averaged weights, "bare" state dict.
    """
    source = {role: network("medlord-x4", role) for role in ("autoencoder", "denoiser")}
    not_averaged = network("medlord-x4", "denoiser", seed=4).state_dict()
    trainer = {"epoch": 12, "best_loss": 0.5, "optimizer": {"state": {}, "param_groups": []}, "lr_scheduler": None}
    vqgan, unet = folder / "stage one.pth", folder / "stage two.pth"
    torch.save({"epoch": 3, "model": source["autoencoder"].state_dict(), "discriminator": {"w": torch.ones(2)}}, vqgan)
    weights = source["denoiser"].state_dict()
    content: Any = {
        "old": lambda: {
            **trainer,
            "model": older_names(not_averaged),
            "ema": {"decay": 0.999, "shadow": older_names(weights)},
        },
        "shadow": lambda: {**trainer, "model": not_averaged, "ema": {"decay": 0.999, "shadow": weights}},
        "model": lambda: {**trainer, "model": weights, "ema": None},
        "bare": lambda: weights,
    }[layout]()
    torch.save(content, unet)
    return [vqgan, unet], source


def maisi_files(
    folder: Path, preset: str, wrapped_autoencoder: bool = False, scale_factor: float = 0.9375
) -> tuple[list[Path], dict[str, torch.nn.Module]]:
    """MAISI's three files, and the networks whose outputs they must give. The control network's file lacks the tensors
    that are those of the diffusion network, which `strict=False` allows."""
    source = {role: network(preset, role, seed) for seed, role in enumerate(("autoencoder", "denoiser", "controlnet"))}
    shared = source["denoiser"].state_dict()
    control = source["controlnet"].state_dict()
    left_out = [k for k in control if k.startswith(("conv_in.", "time_embed."))]
    source["controlnet"].load_state_dict({**control, **{k: shared[k] for k in left_out}})
    files = [folder / name for name in ("a.pt", "d.pt", "c.pt")]
    autoencoder = source["autoencoder"].state_dict()
    torch.save({"unet_state_dict": autoencoder} if wrapped_autoencoder else autoencoder, files[0])
    torch.save(
        {
            "epoch": 9,
            "loss": torch.tensor(0.25),
            "num_train_timesteps": 1000,
            "scale_factor": torch.tensor(scale_factor),
            "unet_state_dict": shared,
        },
        files[1],
    )
    partial = {k: v for k, v in source["controlnet"].state_dict().items() if k not in left_out}
    torch.save({"epoch": 9, "loss": 0.25, "controlnet_state_dict": partial}, files[2])
    return files, source
