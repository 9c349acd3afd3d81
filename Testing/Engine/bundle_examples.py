"""MONAI bundles as others write them, of tiny networks with random weights; and `monai.bundle` in its own process."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_released import NETWORKS, maisi_files, medlord_files

from SynthDiffusionLib.bundles.layout import TARGETS

ROOT = Path(__file__).resolve().parents[2]

_TEXT = {"type": "string"}
_TENSOR = {
    "type": "object",
    "properties": {
        "type": _TEXT,
        "format": _TEXT,
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "dtype": _TEXT,
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}
_FORMAT = {
    "type": "object",
    "properties": {end: {"type": "object", "additionalProperties": _TENSOR} for end in ("inputs", "outputs")},
    "required": ["inputs", "outputs"],
}
_TEXTS = "schema version monai_version pytorch_version numpy_version task description authors copyright data_source"
_TABLES = "changelog required_packages_version eval_metrics"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{name: _TEXT for name in (*_TEXTS.split(), "data_type", "image_classes", "label_classes", "intended_use")},
        **{name: {"type": "object"} for name in _TABLES.split()},
        "references": {"type": "array", "items": _TEXT},
    },
    "patternProperties": {"^[_a-zA-Z0-9]+_data_format$": _FORMAT},
    "required": [*_TEXTS.split(), "changelog", "required_packages_version", "network_data_format"],
}
"""What MONAI's bundle specification asks of a metadata.json, written from its text: the schema itself is downloaded by
`monai.bundle`, and there may be no network here."""


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def definition(network: dict[str, Any]) -> dict[str, Any]:
    """An entry of inference.json for a network as `model.json` has it."""
    return {
        "_target_": TARGETS[network["class"]][-1],
        **{k: copy.deepcopy(v) for k, v in network.items() if k != "class"},
    }


def zoo_bundle(folder: Path, preset: str = "maisi-rflow") -> dict[str, torch.nn.Module]:
    """A bundle in the form of MAISI's in the model zoo: three networks and two that generate masks, expressions for all
    that is run, references among the arguments, and code of its own. Returns the networks that its weights are of."""
    (folder / "models").mkdir(parents=True)
    files, source = maisi_files(folder / "models", preset)
    for path, name in zip(files, ("autoencoder_epoch273.pt", "diff_unet_ckpt_epoch19350.pt", "controlnet_current.pt")):
        path.rename(path.with_name(name))
    masks = {**source["autoencoder"].state_dict()}
    masks["encoder.blocks.0.conv.conv.weight"] = torch.ones(4, 8, 3, 3, 3)
    torch.save(masks, folder / "models" / "mask_generation_autoencoder.pt")
    networks = NETWORKS[preset]
    unet = definition(networks["denoiser"]) | {
        "spatial_dims": "@spatial_dims",
        "in_channels": "@latent_channels",
        "out_channels": "@shapes::0",
        "num_head_channels": "%heads",
        "use_flash_attention": True,
        "_desc_": "the denoiser",
    }
    config = {
        "imports": ["$import torch", "$import scripts"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "ckpt_path": "/etc/passwd",
        "spatial_dims": 3,
        "latent_channels": 4,
        "shapes": ["@latent_channels", "$@output_size[0]//4"],
        "heads": [0, 8],
        "autoencoder_def": definition(networks["autoencoder"]) | {"norm_float16": True, "num_splits": 2},
        "diffusion_unet_def": unet,
        "controlnet_def": definition(networks["controlnet"]) | {"spatial_dims": "@spatial_dims"},
        "mask_generation_autoencoder_def": definition(networks["autoencoder"])
        | {"in_channels": 8, "out_channels": 125},
        "autoencoder": "$@autoencoder_def.to(@device)",
        "load_autoencoder": "$@autoencoder.load_state_dict(torch.load(@ckpt_path))",
        "noise_scheduler": {"_target_": "scripts.rectified_flow.RFlowScheduler", "num_train_timesteps": 1000},
        "sampler": {"_target_": "scripts.sample.LDMSampler", "_requires_": ["@load_autoencoder"], "unet": "@device"},
        "run": ["$@sampler.sample_multiple_images(1)"],
    }
    write_json(folder / "configs" / "inference.json", config)
    write_json(
        folder / "configs" / "metadata.json", {"version": "0.4.5", "name": "CT generation", "authors": "MONAI team"}
    )
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    return source


def medlord_bundle(folder: Path, layout: str = "bare") -> dict[str, torch.nn.Module]:
    """A bundle of MONAI's DiffusionModelUNet and VQVAE."""
    (folder / "models").mkdir(parents=True)
    _, source = medlord_files(folder / "models", layout)
    networks = NETWORKS["medlord-x4"]
    config = {
        "network_def": definition(networks["denoiser"]),
        "vqvae_def": definition(networks["autoencoder"]),
        "scheduler": {
            "_target_": "monai.networks.schedulers.DDPMScheduler",
            "num_train_timesteps": 300,
            "schedule": "cosine",
            "prediction_type": "v_prediction",
        },
    }
    write_json(folder / "configs" / "inference.json", config)
    write_json(folder / "configs" / "metadata.json", {"version": "1.0.0", "name": "Chest"})
    return source


def edit(path: Path, change: Any) -> None:
    """Rewrites a JSON file; `change` gets what is in it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write_json(path, content)


def monai_bundle(command: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m monai.bundle COMMAND --NAME VALUE ...` in the folder of a bundle; where fire is not installed, which
    that command line needs, the same function called with the same arguments."""
    if importlib.util.find_spec("fire"):
        call = ["-m", "monai.bundle", command, *arguments]
    else:
        values = dict(zip([name.removeprefix("--") for name in arguments[::2]], arguments[1::2], strict=True))
        plain = {name: int(value) if value.isdecimal() else value for name, value in values.items()}
        call = ["-c", f"import monai.bundle; monai.bundle.{command}(**{plain!r})"]
    return subprocess.run(
        [sys.executable, "-W", "ignore", *call],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
