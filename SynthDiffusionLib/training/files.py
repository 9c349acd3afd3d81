"""Weights on disk: checkpoints that a kill cannot damage, and weights to begin with."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.atomic import atomic_file


def save_state(path: Path, state: dict) -> None:
    """Writes a checkpoint beside its final name and renames it, so that the last complete one always stays.

    Raises:
        BadInput: the file cannot be written there.
        RunFailed: the disk is full.
    """
    buffer = io.BytesIO()  # torch.save to a file reports a full disk as a RuntimeError without its cause
    torch.save(state, buffer)
    with atomic_file(path) as stream:
        stream.write(buffer.getvalue())


def read_table(path: Path) -> dict[str, Any]:
    """What `save_state` wrote, without a look at its entries.

    Raises:
        BadInput: the file is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what an unpickler meets in a file that is none
            with zipfile.ZipFile(path) as archive:
                if (member := archive.testzip()) is not None:  # torch does not compare the checksums
                    raise ValueError(f"the checksum of '{member}' is wrong")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file shows as almost any of them, from EOFError to UnicodeDecodeError
        raise damaged(path, str(error).partition("\n")[0][:100] or type(error).__name__) from error
    if not isinstance(state, dict):
        raise damaged(path, "it holds no table")
    return state


def check_finite(path: Path, weights: dict[str, Any]) -> None:
    """Whether the weights of the checkpoint at `path` are tensors of finite numbers.

    Raises:
        BadInput: they are not.
    """
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor) or (value.is_floating_point() and not torch.isfinite(value).all()):
            raise damaged(path, f"its weights '{name}' are no finite numbers")


def load_state(path: Path, tables: Sequence[str], last_step: int, data_sha256: str | None = None) -> dict[str, Any]:
    """Reads a checkpoint and checks that it can be gone on from.

    Args:
        path: what `save_state` wrote.
        tables: entries that must be there, each a dictionary.
        last_step: of the configuration; "step" lies between 1 and this.
        data_sha256: of the data set's description; that of the checkpoint, if it says one, must be the same.

    Raises:
        BadInput: the file is damaged, of a longer run, or of another data set.
    """
    state = read_table(path)
    if data_sha256 is not None and state.get("data_sha256", data_sha256) != data_sha256:
        raise BadInput(
            f"The checkpoint '{path}' was trained on another data set than the one that the configuration names",
            "Give another --out, or the data set that the run was begun with: a model may say of no patient that it "
            "was not trained on them when it was.",
        )
    for name in tables:
        if not isinstance(state.get(name), dict):
            raise damaged(path, f"it has no '{name}'")
    check_finite(path, state["network"])
    step = state.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 1:
        raise damaged(path, "it does not say its step")
    if step > last_step:
        raise BadInput(
            f"The checkpoint '{path}' is of step {step}, but the configuration has only {last_step} steps",
            "Give another --out, or the configuration that the run was begun with.",
        )
    return state


class DamagedCheckpoint(BadInput):
    """A checkpoint that cannot be used; the hint is for one of the run itself.

    Attributes:
        path: of the checkpoint.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"The checkpoint '{path}' is damaged: {why}", "Remove it to begin again, or give another --out."
        )
        self.path = path


def damaged(path: Path, why: str) -> BadInput:
    """The error for a checkpoint that cannot be used."""
    return DamagedCheckpoint(path, why)


def restore(path: Path, state: dict[str, Any], parts: dict[str, Any]) -> None:
    """Gives the entries of a checkpoint to networks and optimisers.

    Args:
        path: of the checkpoint, for errors.
        state: from `load_state`.
        parts: by the name of the entry, what has `load_state_dict`.

    Raises:
        BadInput: they do not fit.
    """
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (RuntimeError, KeyError, ValueError) as error:
        raise BadInput(
            f"'{path}' is of another network than this configuration's",
            "Give another --out, or the configuration that the run was begun with.",
        ) from error
    except (TypeError, AttributeError, IndexError) as error:
        raise damaged(path, f"{type(error).__name__}") from error


def load_initial_weights(network: torch.nn.Module, path: Path) -> None:
    """Weights of an earlier denoiser with the same network.

    Raises:
        BadInput: no such file, or the tensors of another network.
    """
    if not path.is_file():
        raise BadInput(
            f"The initial weights '{path}' do not exist",
            "Docs/TRAINING.md tells where the shipped model's come from; without the line, training begins at random.",
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInput(
            f"'{path}' does not hold weights of this configuration's network",
            "Give initial_weights the denoiser.safetensors of a model with the same [network] and label scheme.",
        ) from error
