"""Classifier-free guidance (Ho and Salimans, arXiv:2207.12598) in the convention where a scale of 1 is off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from SynthDiffusionLib.sampling.denoising import Predict

# Noisy images (B, C, D, H, W), time steps (B,) and what the network is told beside them, to its prediction.
Evaluate = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]


def guided(evaluate: Evaluate, told: Any, untold: Any, scale: float, together: bool = False) -> Predict:
    """The prediction untold + scale (told - untold).

    Args:
        evaluate: the network.
        told: what it is told: tensors with one item of the batch after the other along their first axis, and mappings
            and sequences of such.
        untold: the same without what guidance leads towards; may have fewer items. Not used with a scale of 1.
        scale: 1 is off, and costs one evaluation instead of two.
        together: both evaluations in one batch, the told one first, instead of one after the other.
    """

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if scale == 1.0:
            return evaluate(noisy, timesteps, told)
        if together:
            both = evaluate(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]), joined(told, untold))
            towards, away = both.chunk(2)
        else:
            towards, away = evaluate(noisy, timesteps, told), evaluate(noisy, timesteps, untold)
        return away + scale * (towards - away)

    return predict


def joined(first: Any, second: Any) -> Any:
    """Two batches as one.

    Args:
        first, second: tensors, or mappings and sequences of them, alike but for the length of the first axes.
    """
    if isinstance(first, torch.Tensor):
        return torch.cat([first, second])
    if isinstance(first, Mapping):
        return {name: joined(value, second[name]) for name, value in first.items()}
    if isinstance(first, Sequence):
        return [joined(a, b) for a, b in zip(first, second, strict=True)]
    raise TypeError(f"cannot join {type(first).__name__}")
