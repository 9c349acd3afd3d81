"""Checkpoints of earlier stages that a stage builds on: read, and checked as a whole before anything uses them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.files import check_finite, damaged, read_table
from SynthDiffusionLib.training.medlord.autoencoder import build_trained, downsampling_of
from SynthDiffusionLib.training.medlord.config import LatentConfig

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
    path = Path(folder) / "checkpoint.pt"
    if not path.is_file():
        raise BadInput(
            f"'{folder}' holds no checkpoint of the stage {stage}",
            f"Train that stage first: synthdiffusion train ...-{stage}.toml --out '{folder}'.",
        )
    state = read_table(path)
    if state.get("stage") != stage:
        raise BadInput(
            f"'{folder}' is a run of the stage {state.get('stage')}, not {stage}",
            "The stages are trained in this order: autoencoder, diffusion, controlnet.",
        )
    for name, kind in {"weights": dict, "network_json": dict, "step": int, **_ENTRIES[stage]}.items():
        if not isinstance(state.get(name), kind) or isinstance(state[name], bool):
            raise damaged(path, f"it has no '{name}'")
    _check_weights(path, stage, state)
    if stage == "autoencoder":
        _check_range(path, state["intensity_range"])
        if state["downsampling"] != downsampling_of(state["network_json"]):
            raise damaged(path, "its downsampling is not its network's")
    if stage == "diffusion":
        if not (math.isfinite(state["scale_factor"]) and state["scale_factor"] > 0):
            raise damaged(path, "its scale_factor is no number above 0")
        latent_settings(path, state["latents"])
        _check_process(path, state["diffusion"])
    if on_event is not None and not state.get("finished", True):
        message = f"The stage {stage} in '{folder}' is not finished: its weights are those of step {state['step']}."
        on_event({"event": "note", "message": f"Warning: {message}"})
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


def _check_weights(path: Path, stage: str, state: dict[str, Any]) -> None:
    check_finite(path, state["weights"])
    try:
        with torch.device("meta"):  # names and shapes are enough
            wanted = build_trained(stage, state["network_json"]).state_dict()
    except BadInput as error:
        raise damaged(path, "its network_json describes no network") from error
    found = {name: tuple(tensor.shape) for name, tensor in state["weights"].items()}
    if found != {name: tuple(tensor.shape) for name, tensor in wanted.items()}:
        raise damaged(path, "its weights are not those of the network that it describes")


def _check_process(path: Path, stated: dict[str, Any]) -> None:
    from SynthDiffusionLib.training.medlord.diffusion import forward_process  # which reads earlier stages itself

    try:
        forward_process(stated)
    except (BadInput, TypeError) as error:
        raise damaged(path, "its [diffusion] describes no forward process") from error


def _check_range(path: Path, stated: list[Any]) -> None:
    numbers = [n for n in stated if isinstance(n, int | float) and math.isfinite(n)]
    if len(stated) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise damaged(path, "its intensity_range is not two rising numbers")
