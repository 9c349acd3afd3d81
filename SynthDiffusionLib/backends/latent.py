"""What the backends that diffuse in the latent space of an autoencoder have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from SynthDiffusionLib.errors import ModelError, OutOfMemory, RunFailed

if TYPE_CHECKING:
    from SynthDiffusionLib.memory.plan import Plan


def pad_channels(array: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Repeats the last voxels of every axis up to a grid; what is added lies at the ends, so slicing crops it away.

    Args:
        array: (..., I, J, K); leading axes are channels.
        grid: (I', J', K') with no side below the array's.

    Returns:
        (..., I', J', K'), same type.
    """
    pads = [(0, 0)] * (array.ndim - 3) + [(0, int(g) - n) for g, n in zip(grid, array.shape[-3:])]
    return np.pad(array, pads, mode="edge")


def cropped(volume: torch.Tensor, shape: Sequence[int]) -> np.ndarray:
    """The first volume of a batch without its padding.

    Args:
        volume: (B, 1, I', J', K').
        shape: (I, J, K) to keep.

    Returns:
        (I, J, K) float32, within [-1, 1].
    """
    kept = volume[0, 0][tuple(slice(0, int(n)) for n in shape)]
    return kept.float().clamp(-1.0, 1.0).cpu().numpy()


def to_unit_range(decoded: torch.Tensor, decoded_range: Sequence[float]) -> torch.Tensor:
    """Decoder outputs to values where -1 and 1 are the ends of the model's intensity range (not clipped).

    Args:
        decoded: any shape.
        decoded_range: decoder outputs that stand for -1 and 1.
    """
    low, high = decoded_range
    return (decoded.float() - low) * (2.0 / (high - low)) - 1.0


def autocast_for(plan: Plan) -> torch.autocast:
    """The autocast of a plan's precision; may be entered many times, one after the other."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.precision)
    return torch.autocast(torch.device(plan.device).type, dtype, enabled=dtype is not None)


def finite_or_raise(volume: torch.Tensor, what: str = "network") -> torch.Tensor:
    """The volume itself.

    Raises:
        RunFailed: it holds NaN or infinity.
    """
    if not torch.isfinite(volume).all():
        raise RunFailed(
            f"The {what}'s result holds values that are not numbers",
            "Try --precision fp32; if that does not help, install the model again.",
        )
    return volume


@contextmanager
def out_of_memory_is_told(grid: Sequence[int]) -> Iterator[None]:
    """Turns the device's out-of-memory error into one that a user can act on.

    Args:
        grid: (I, J, K) that is worked on.

    Raises:
        OutOfMemory: in spite of the plan.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"The device ran out of memory on a grid of {'x'.join(map(str, grid))}",
            "Close other programs that use it, lower --precision, or use --crop.",
        ) from error


def load_weights(network: torch.nn.Module, weights: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Loads a safetensors file into a network, every tensor of both, and puts it into evaluation mode.

    Args:
        network: with the names and shapes of the file.
        weights: the file.
        dtype: of floating-point tensors; others keep their own.

    Raises:
        ModelError: a tensor is missing, superfluous or of another shape, or the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(weights).items()}
        network.load_state_dict(tensors)
    except (RuntimeError, OSError, TypeError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"The weights in '{Path(weights).name}' do not fit the model's network", "Install the package again."
        ) from error
    return network.eval()
