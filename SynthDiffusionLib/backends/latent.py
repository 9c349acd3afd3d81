"""What the backends that diffuse in the latent space of an autoencoder have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from SynthDiffusionLib.backends.stages import ran_out
from SynthDiffusionLib.errors import ModelError, OutOfMemory, RunFailed
from SynthDiffusionLib.memory.execution import CHUNK, CHUNK_ELEMENTS
from SynthDiffusionLib.networks.chunked_convolution import embed_by_slabs, slabs_for
from SynthDiffusionLib.networks.streaming import decode as decode_by_slabs
from SynthDiffusionLib.networks.streaming import streaming_for

if TYPE_CHECKING:
    from SynthDiffusionLib.labels.condition import Condition
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


def decoded(
    network: torch.nn.Module,
    codes: torch.Tensor,
    plan: Plan,
    masks: torch.Tensor | None = None,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> torch.Tensor:
    """What `network.decode` gives, computed as the plan says: at once, or slab by slab.

    Args:
        network: an autoencoder that `networks.streaming` knows, on the plan's device.
        codes: (B, C, i, j, k) latents, quantised for a VQ network.
        plan: of which the precision and the way of decoding are used.
        masks: (B, condition_channels, I, J, K), for a decoder that takes the drawing.
        on_progress: told the fraction that is done, slab by slab; what it raises ends the computation.

    Returns:
        (B, C', I, J, K) in the precision of the plan.
    """
    on_progress(0.0)
    streaming = streaming_for(plan.execution.decode, plan.device)
    with autocast_for(plan):
        if streaming is not None:
            volume = decode_by_slabs(network, codes, streaming, masks, on_progress=on_progress)
        else:
            volume = network.decode(codes) if masks is None else network.decode(codes, masks)
    on_progress(1.0)
    return volume


def embedded(
    layers: torch.nn.Module, drawing: torch.Tensor, factor: int, plan: Plan, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Features of a drawing, computed at once or, where the plan says "chunk", slab by slab of the volume.

    Args:
        layers: convolutions without norms that shrink every side by `factor`.
        drawing: (B, C, I, J, K).
        plan: of which the precision and the way of the stage "condition" are used.
        dtype: that the drawing is brought to, a slab at a time; None: it has one that the layers take.

    Returns:
        (B, C', I / factor, J / factor, K / factor)
    """

    def features(part: torch.Tensor) -> torch.Tensor:
        return layers(part if dtype is None else part.to(dtype))

    with autocast_for(plan):
        if plan.execution.condition != CHUNK:
            return features(drawing)
        widest = max(p.shape[0] for p in layers.parameters())
        slabs = slabs_for(widest * drawing[0, 0].numel(), CHUNK_ELEMENTS)
        return embed_by_slabs(features, drawing, factor, slabs)


class Remembered:
    """What was computed from a drawing, kept in host memory for the next sample of the same job."""

    def __init__(self) -> None:
        self._key: tuple[Condition, Plan] | None = None
        self._value: torch.Tensor | None = None

    def of(self, condition: Condition, plan: Plan, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The features of a drawing on the plan's device; computed where the drawing or the plan is another than last.

        Args:
            condition: the drawing, which nobody changes.
            plan: of the computation.
            compute: gives the features.
        """
        if self._key is not None and self._key[0] is condition and self._key[1] == plan:
            return self._value.to(plan.device)
        self._key = self._value = None
        value = compute()
        self._key, self._value = (condition, plan), value.to("cpu")
        return value


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
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
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
