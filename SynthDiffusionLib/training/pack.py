"""From checkpoints to a model package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from SynthDiffusionLib.backends.patch_ddpm import SMALLEST_SIDE, build_network
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.models.package import seal_package, sha256_of
from SynthDiffusionLib.models.spec import SPEC_NAME
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.sampling.samplers import SAMPLERS
from SynthDiffusionLib.training.config import TrainConfig
from SynthDiffusionLib.training.dataset import read_description, spacing_of
from SynthDiffusionLib.volumes.atomic import atomic_file

CARD = """# {name}

{description}

No quality has been measured yet. Run `synthdiffusion evaluate card` (see Docs/EVALUATION.md).
"""


def write_half(state: dict[str, torch.Tensor], path: Path) -> None:
    """Writes weights as fp16 safetensors."""
    with atomic_file(path) as stream:
        stream.write(save({name: tensor.half().contiguous() for name, tensor in state.items()}))


def package_content(
    config: TrainConfig, scheme: LabelScheme, description: dict[str, Any], *, steps: int, segmenter_steps: int | None
) -> dict[str, Any]:
    """`model.json` of a run, without "format" and "files".

    Args:
        description: `dataset.json` of the training data.
        steps: training steps of the denoiser.
        segmenter_steps: training steps of the segmenter, or None if there is none.

    Raises:
        BadInput: [package] lacks a field.
    """
    stated = config.package
    try:
        content: dict[str, Any] = {
            **{k: stated[k] for k in ("id", "name", "version", "description", "modality", "body_part")},
            "backend": "patch_ddpm",
            "target_class": config.patches.target,
            "network": {"class": "PatchUNet", **config.network},
            "diffusion": config.diffusion,
            "grid": {
                "spacing_mm": list(spacing_of(description)),
                "orientation": stated["orientation"],
                "min_size": [1, 1, 1],
                "max_size": stated["max_size"],
                "divisor": build_network(config.network, scheme).divisor,
            },
            "intensity": {"unit": description["unit"], "range": list(config.intensity_range)},
            "label_scheme": json.loads(
                resource_path("LabelSchemes", f"{config.label_scheme}.json").read_text(encoding="utf-8")
            ),
            "modes": ["whole", "inpaint"],
            "inpaint": stated["inpaint"],
            "sampling": {**stated["sampling"], "samplers": list(SAMPLERS)},
            "license": stated["license"],
            "training": {
                **stated["training"],
                "split": description["split"],
                "steps": steps,
                "seed": config.seed,
            },
            "measured": {"quality": {}, "performance": {}},
            "provenance": {
                "smallest_working_side": SMALLEST_SIDE,
                "split_seed": description["split_seed"],
                "seen": list(stated.get("seen", ())),
                "noted": list(stated.get("noted", ())),
            },
        }
    except KeyError as error:
        raise BadInput(f"[package] has no '{error.args[0]}'", "See Docs/TRAINING.md for every setting.") from error
    if config.initial_weights is not None:
        content["provenance"]["initial_weights_sha256"] = sha256_of(config.initial_weights)
    if segmenter_steps is not None:
        content["segmenter"] = {
            "network": config.segmenter.network(),
            "steps": segmenter_steps,
            "measured": {},
            **config.segmenter.details(),
        }
    return content


def write_package(
    config: TrainConfig, scheme: LabelScheme, denoiser: Path, segmenter: Path | None, folder: Path
) -> Path:
    """Writes `model.json`, the weights in fp16, and a card without measurements.

    Args:
        denoiser: checkpoint of `train_denoiser`; its averaged weights are taken.
        segmenter: checkpoint of `train_segmenter`, or None.
        folder: of the package; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = torch.load(denoiser, map_location="cpu", weights_only=True)
    write_half(state["ema"], folder / "denoiser.safetensors")
    roles = {"denoiser.safetensors": "denoiser"}
    segmenter_steps = None
    if segmenter is not None:
        trained = torch.load(segmenter, map_location="cpu", weights_only=True)
        write_half(trained["network"], folder / "segmenter.safetensors")
        roles["segmenter.safetensors"] = "segmenter"
        segmenter_steps = trained["step"]
    content = package_content(
        config, scheme, read_description(config.data), steps=state["step"], segmenter_steps=segmenter_steps
    )
    card = CARD.format(name=content["name"], description=content["description"])
    with atomic_file(folder / "MODEL_CARD.md") as stream:
        stream.write(card.encode("utf-8"))
    seal_package(folder, content, {**roles, "MODEL_CARD.md": "card"})
    return folder


def update_package(
    folder: Path, quality: dict[str, Any], performance: dict[str, Any], card: str, figures: Sequence[Path] = ()
) -> None:
    """Puts measurements, card and figures into a package and renews the checksums.

    Args:
        quality: replaces `measured.quality`.
        performance: replaces `measured.performance`.
        card: text of MODEL_CARD.md.
        figures: PNG files to copy beside it.
    """
    content = json.loads((folder / SPEC_NAME).read_text(encoding="utf-8"))
    roles = {f["path"]: f["role"] for f in content["files"] if f["role"] != "figure"}
    with atomic_file(folder / "MODEL_CARD.md") as stream:
        stream.write(card.encode("utf-8"))
    for figure in figures:
        with atomic_file(folder / figure.name) as stream:
            stream.write(figure.read_bytes())
        roles[figure.name] = "figure"
    content["measured"] = {"quality": quality, "performance": performance}
    seal_package(folder, {k: v for k, v in content.items() if k not in ("format", "files")}, roles)
