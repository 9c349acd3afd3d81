"""Checkpoints of earlier stages of MedLoRD, and what a stage takes from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from SynthDiffusionLib.training.earlier import check_process, check_rising, read_checkpoint, warn_if_unfinished
from SynthDiffusionLib.training.files import damaged
from SynthDiffusionLib.training.medlord.autoencoder import build_trained, downsampling_of
from SynthDiffusionLib.training.medlord.config import METHOD, LatentConfig

# What later stages and the package take from a checkpoint, beside its weights.
_ENTRIES: dict[str, dict[str, type]] = {
    "autoencoder": {"intensity_range": list, "downsampling": int},
    "diffusion": {"scale_factor": float, "autoencoder_sha256": str, "diffusion": dict, "latents": dict, "seed": int},
    "controlnet": {},
}


def read_stage(folder: Path, stage: str, on_event: Callable[[dict], None] | None = None) -> dict[str, Any]:
    """The checkpoint of an earlier stage; its weights fit the network that it describes.

    Args:
        on_event: gets a warning when the stage's run has not come to its end.

    Raises:
        BadInput: there is none, it is damaged, or of another stage.
    """
    path, state = read_checkpoint(folder, stage, METHOD, _ENTRIES[stage], build_trained)
    if stage == "autoencoder":
        check_rising(path, "intensity_range", state["intensity_range"])
        if state["downsampling"] != downsampling_of(state["network_json"]):
            raise damaged(path, "its downsampling is not its network's")
    if stage == "diffusion":
        if not (math.isfinite(state["scale_factor"]) and state["scale_factor"] > 0):
            raise damaged(path, "its scale_factor is no number above 0")
        latent_settings(path, state["latents"])
        check_process(path, state["diffusion"])
    warn_if_unfinished(folder, stage, state, on_event)
    return state


def latent_settings(path: Path, stored: dict[str, Any]) -> LatentConfig:
    """The settings of the latents that a checkpoint of the stage diffusion was trained on.

    Raises:
        BadInput: the checkpoint at `path` is damaged.
    """
    try:
        return LatentConfig(
            crops=tuple(tuple(int(n) for n in size) for size in stored["crops"]),
            copies=int(stored["copies"]),
            flip_probability=float(stored["flip_probability"]),
            outline_sigmas=tuple(float(n) for n in stored["outline_sigmas"]),
            target=stored["target"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "its settings of the latents are not complete") from error
