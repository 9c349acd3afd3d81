"""Checkpoints of earlier stages that a stage builds on: read, and checked as a whole before anything uses them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.files import check_finite, damaged, read_table
from SynthDiffusionLib.training.stages import Method, StageConfig


def read_checkpoint(
    folder: Path,
    stage: str,
    method: Method,
    entries: Mapping[str, type],
    build: Callable[[str, dict[str, Any]], torch.nn.Module],
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of an earlier stage; its weights fit the network that it describes.

    Args:
        entries: what the stage's checkpoint has beside its weights, and of which type.
        build: stage and arguments to a network with fresh weights.

    Returns:
        its path and its content.

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
            f"The stages are trained in this order: {', '.join(method.stages)}.",
        )
    for name, kind in {"weights": dict, "network_json": dict, "step": int, **entries}.items():
        if not isinstance(state.get(name), kind) or isinstance(state[name], bool):
            raise damaged(path, f"it has no '{name}'")
    check_finite(path, state["weights"])
    try:
        with torch.device("meta"):  # names and shapes are enough
            wanted = build(stage, state["network_json"]).state_dict()
    except BadInput as error:
        raise damaged(path, "its network_json describes no network") from error
    found = {name: tuple(tensor.shape) for name, tensor in state["weights"].items()}
    if found != {name: tuple(tensor.shape) for name, tensor in wanted.items()}:
        raise damaged(path, "its weights are not those of the network that it describes")
    return path, state


def begin_with(
    network: torch.nn.Module, config: StageConfig, read: Callable[..., dict[str, Any]], digest: str
) -> dict[str, Any]:
    """Gives a denoiser the weights of an earlier run, where the configuration names one.

    Args:
        read: folder and stage to the content of a checkpoint.
        digest: of the autoencoder, which must be that of the earlier run.

    Returns:
        the checkpoint of that run; {} without one.

    Raises:
        BadInput: there is no such run, or it is of another network or autoencoder.
    """
    if config.initial is None:
        return {}
    state = read(config.initial, "diffusion")
    if state["autoencoder_sha256"] != digest:
        raise BadInput(
            f"The run in '{config.initial}' was trained with another autoencoder than [run] names",
            "Name the autoencoder that it was trained with, or leave initial out.",
        )
    if state.get("diffusion", config.diffusion) != config.diffusion:
        raise BadInput(
            f"The run in '{config.initial}' has another [diffusion] than this configuration",
            "Give [diffusion] as it was there, or leave initial out.",
        )
    try:
        network.load_state_dict(state["weights"])
    except RuntimeError as error:
        raise BadInput(
            f"The run in '{config.initial}' is of another network than this configuration's",
            "Give [network] as it was there, or leave initial out.",
        ) from error
    return state


def steps_of(state: Mapping[str, Any]) -> int:
    """Steps that the weights of a checkpoint were trained for, those of the run that it began with among them; 0 of
    {}."""
    return state.get("step", 0) + state.get("initial_steps", 0)


def warn_if_unfinished(
    folder: Path, stage: str, state: dict[str, Any], on_event: Callable[[dict], None] | None
) -> None:
    """Tells of an earlier stage whose run has not come to its end."""
    if on_event is not None and not state.get("finished", True):
        message = f"The stage {stage} in '{folder}' is not finished: its weights are those of step {state['step']}."
        on_event({"event": "note", "message": f"Warning: {message}"})


def check_process(path: Path, stated: dict[str, Any]) -> None:
    """Whether the [diffusion] of a checkpoint describes a forward process.

    Raises:
        BadInput: it does not.
    """
    from SynthDiffusionLib.training.latent_stage import forward_process

    try:
        forward_process(stated)
    except (BadInput, TypeError) as error:
        raise damaged(path, "its [diffusion] describes no forward process") from error


def check_rising(path: Path, name: str, stated: list[Any]) -> None:
    """Whether an entry of a checkpoint is two rising numbers.

    Raises:
        BadInput: it is not.
    """
    numbers = [n for n in stated if isinstance(n, int | float) and math.isfinite(n)]
    if len(stated) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise damaged(path, f"its {name} is not two rising numbers")
