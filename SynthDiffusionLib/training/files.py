"""Weights on disk: checkpoints that a kill cannot damage, and weights to begin with."""

from __future__ import annotations

from pathlib import Path

import torch

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.atomic import atomic_path


def save_state(path: Path, state: dict) -> None:
    """Writes a checkpoint beside its final name and renames it, so that the last complete one always stays."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_initial_weights(network: torch.nn.Module, path: Path) -> None:
    """Weights of an earlier denoiser with the same network.

    Raises:
        BadInput: no such file, or the tensors of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInput(
            f"'{path}' does not hold weights of this configuration's network",
            "Give initial_weights the denoiser.safetensors of a model with the same [network] and label scheme.",
        ) from error
