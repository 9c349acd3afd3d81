"""`model.json` and weights of a method that is trained in stages: what the methods' packages have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.models.package import seal_package
from SynthDiffusionLib.models.spec import FORMAT, ModelSpec
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.sampling.samplers import SAMPLERS
from SynthDiffusionLib.training.dataset import read_description, spacing_of
from SynthDiffusionLib.training.pack import CARD, write_half
from SynthDiffusionLib.training.stages import HINT, StageConfig
from SynthDiffusionLib.volumes.atomic import atomic_file


def stage_content(
    config: StageConfig,
    sections: Mapping[str, Any],
    *,
    divisor: int,
    intensity_range: list[float],
    steps: Mapping[str, int],
    segmenter_steps: int,
) -> dict[str, Any]:
    """`model.json` of a run, without "format" and "files".

    Args:
        config: of the last stage.
        sections: what the method says itself: backend, networks, latent, diffusion, modes, controls and the like.
        divisor: of the grid.
        intensity_range: of the autoencoder.
        steps: of each stage.
        segmenter_steps: 0 without a segmenter.

    Raises:
        BadInput: [package] lacks a field.
    """
    description, stated = read_description(config.data), config.package
    try:
        grid = {
            "spacing_mm": [float(n) for n in stated.get("spacing_mm", spacing_of(description))],
            "orientation": stated["orientation"],
            "min_size": stated.get("min_size", [1, 1, 1]),
            "max_size": stated["max_size"],
            "divisor": divisor,
            **{name: stated[name] for name in ("spacing_range_mm", "default_size") if name in stated},
        }
        content: dict[str, Any] = {
            **{k: stated[k] for k in ("id", "name", "version", "description", "modality", "body_part")},
            "target_class": description.get("target"),
            **sections,
            "grid": grid,
            "intensity": {"unit": description["unit"], "range": list(intensity_range)},
            "label_scheme": json.loads(
                resource_path("LabelSchemes", f"{config.label_scheme}.json").read_text(encoding="utf-8")
            ),
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
                "steps": dict(steps),
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
            "network": config.segmenter.network(),
            "steps": segmenter_steps,
            "measured": {},
            **config.segmenter.details(),
        }
    return content


def check_content(config: StageConfig, content: dict[str, Any], roles: list[str]) -> None:
    """Whether a `model.json` would be valid, found before the training and not after it.

    Args:
        roles: of the files with weights.

    Raises:
        BadInput: it would not.
    """
    files = [{"path": f"{r}.safetensors", "sha256": "0" * 64, "bytes": 0, "role": r} for r in roles]
    try:
        ModelSpec.from_json({"format": FORMAT, **json.loads(json.dumps(content)), "files": files}, config.source.name)
    except ModelError as error:
        raise BadInput(error.message, HINT) from error


def read_segmenter(checkpoint: Path | None) -> tuple[dict[str, torch.Tensor] | None, int]:
    """Weights and steps of what `train_segmenter` wrote; None and 0 without one."""
    if checkpoint is None:
        return None, 0
    trained = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return trained["network"], trained["step"]


def write_stage_package(
    folder: Path, content: dict[str, Any], weights: Mapping[str, dict[str, torch.Tensor] | None]
) -> Path:
    """Writes `model.json`, the weights in fp16, and a card without measurements.

    Args:
        folder: of the package; made if missing.
        weights: tensors by role; None for a role that there is not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = {role: tensors for role, tensors in weights.items() if tensors is not None}
    for role, tensors in present.items():
        write_half(tensors, folder / f"{role}.safetensors")
    card = CARD.format(name=content["name"], description=content["description"])
    with atomic_file(folder / "MODEL_CARD.md") as stream:
        stream.write(card.encode("utf-8"))
    roles = {f"{role}.safetensors": role for role in present} | {"MODEL_CARD.md": "card"}
    seal_package(folder, json.loads(json.dumps(content)), roles)
    return folder
