"""Autoencoders computed slab by slab: the same result as whole, in a fraction of the memory.

`decode` and `encode` stand for the methods of the networks of these names. Nothing is approximated: group normalisation
takes its moments from whole maps, and slabs take from their neighbours what the kernels reach. In fp32 the results
agree within rounding, in 16 bits within what rounding does there.

What can be streamed: `AutoencoderKlMaisi`, with MONAI's layers or those of `maisi_decoder`; MONAI's `VQVAE`; `VqGan`,
also with a label map. `SliceVAE` works on single slices, a few at a time, and needs none of this: its normalisations
see one slice, whose maps at 512 x 512 take a few hundred MB.

    from SynthDiffusionLib.networks.streaming import Streaming, decode

    volume = decode(autoencoder, latents, Streaming(slab_bytes=256 * 2**20))
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from SynthDiffusionLib.memory.execution import STREAM, STREAM_AGAIN, STREAM_HOST
from SynthDiffusionLib.networks.streaming.graphs import decoder_graph, encoder_graph
from SynthDiffusionLib.networks.streaming.nodes import Node
from SynthDiffusionLib.networks.streaming.sweeps import Computation, Streaming

__all__ = ["Outlook", "Streaming", "decode", "encode", "outlook", "streaming_for"]

MIB = 2**20
# Working memory of a slab by strategy. On a CPU more than 32 MiB is no faster (Testing/Benchmarks/streamed_decode.py).
SLAB_BYTES = {STREAM: 128 * MIB, STREAM_AGAIN: 128 * MIB, STREAM_HOST: 64 * MIB}
SLAB_BYTES_ON_CPU = 32 * MIB


def streaming_for(strategy: str, device: str) -> Streaming | None:
    """The settings of a way of `memory.execution`; None where the network is computed whole.

    Args:
        strategy: one of `memory.execution.STRATEGIES`.
        device: "cpu" or "cuda:N".
    """
    if strategy not in SLAB_BYTES:
        return None
    slab = SLAB_BYTES_ON_CPU if device == "cpu" else SLAB_BYTES[strategy]
    return Streaming(
        slab_bytes=slab,
        keep_inner=0 if strategy == STREAM_AGAIN else None,
        device_bytes=0 if strategy == STREAM_HOST else None,
    )


def decode(
    network: nn.Module,
    latents: torch.Tensor,
    streaming: Streaming | None = None,
    masks: torch.Tensor | None = None,
    *,
    result_device: torch.device | str | None = None,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> torch.Tensor:
    """What `network.decode(latents)` gives.

    Computed where the latents are, in the precision of autocast if that is on, otherwise in theirs; without gradients.

    Args:
        network: see above.
        latents: (B, C, i, j, k); for a VQ network, quantised.
        streaming: how; by default all maps are kept on the device.
        masks: (B, condition_channels, I, J, K), for a `VqGan` that takes them.
        result_device: where the volume is put together; by default where the latents are.
        on_progress: told the fraction that is done, before each slab of each layer and after the last. What it raises
            ends the computation there, and nothing of it stays in memory.

    Returns:
        (B, C', I, J, K)

    Raises:
        ModelError: a network that cannot be streamed.
        ValueError: masks are needed and are not given.
    """

    def graph(item: int) -> Node:
        return decoder_graph(network, latents[item : item + 1], None if masks is None else masks[item : item + 1])

    return _computed(graph, latents, streaming, result_device, on_progress)


def encode(
    network: nn.Module,
    images: torch.Tensor,
    streaming: Streaming | None = None,
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Any:
    """What `network.encode(images)` gives: a KL autoencoder's mean and deviation, or a VQ network's latents.

    Args:
        images: (B, C, I, J, K).
        streaming, on_progress: as for `decode`.

    Returns:
        (B, C', i, j, k), not quantised; for a KL autoencoder, two of them.

    Raises:
        ModelError: a network that cannot be streamed.
        ValueError: sides that a `VqGan` does not take.
    """
    factor = network.downsampling if type(network).__name__ == "VqGan" else 1
    if any(n % factor for n in images.shape[2:]):
        raise ValueError(f"sides must be multiples of {factor}, not {tuple(images.shape[2:])}")

    def graph(item: int) -> Node:
        return encoder_graph(network, images[item : item + 1])

    made = _computed(graph, images, streaming, None, on_progress)
    if not hasattr(network, "quant_conv_mu"):
        return made
    with torch.no_grad():  # of the latent's size: nothing to stream
        mean, logvar = network.quant_conv_mu(made), network.quant_conv_log_sigma(made)
    return mean, torch.exp(logvar.clamp(-30.0, 20.0) / 2)


@dataclass(frozen=True)
class Outlook:
    """What a computation takes.

    Args:
        device_bytes: at its peak, without weights, the caller's input and the result.
        host_bytes: of maps in host memory.
        multiplications: of all convolutions, with those that are done more than once.
        sweeps: over the rows of a map.
    """

    device_bytes: int
    host_bytes: int
    multiplications: int
    sweeps: int


def outlook(network: nn.Module, shape: tuple[int, ...], part: str, streaming: Streaming, dtype: torch.dtype) -> Outlook:
    """What decoding or encoding would take; nothing is computed, and the network may be on the meta device.

    An upper bound for the tensors that are made here; what convolutions take inside cuDNN or oneDNN is not in it.

    Args:
        shape: (1, C, *sides) of the latents, or of the images.
        part: "decode" or "encode".
        dtype: of the computation.
    """
    given = torch.empty(shape, device="meta")
    masks = None
    if part == "decode" and getattr(network, "condition_channels", 0):
        sides = (n * network.downsampling for n in shape[2:])
        masks = torch.empty((1, network.condition_channels, *sides), device="meta")
    graph = decoder_graph(network, given, masks) if part == "decode" else encoder_graph(network, given)
    return Outlook(*Computation(graph, streaming, dtype, torch.device("meta")).outlook())


def _computed(
    graph: Callable[[int], Node],
    given: torch.Tensor,
    streaming: Streaming | None,
    result_device: torch.device | str | None,
    on_progress: Callable[[float], None],
) -> torch.Tensor:
    """One item of the batch after the other: each has its own moments."""
    kind, batch = given.device.type, given.shape[0]
    casts = torch.amp.is_autocast_available(kind)
    dtype = torch.get_autocast_dtype(kind) if casts and torch.is_autocast_enabled(kind) else given.dtype
    result = None
    with torch.no_grad(), torch.autocast(kind, enabled=False) if casts else nullcontext():
        for item in range(batch):
            final = graph(item)
            if result is None:
                shape = (batch, final.channels, *final.size)
                result = torch.empty(shape, dtype=dtype, device=result_device or given.device)
            Computation(final, streaming or Streaming(), dtype, given.device).run(
                result[item : item + 1], lambda part, item=item: on_progress((item + part) / batch)
            )
    return result
