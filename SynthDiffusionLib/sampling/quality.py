"""The quality slider: three plain names for pairs of sampler and steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

QUALITIES = ("fast", "balanced", "best")

FAST_SAMPLER = "dpmpp-2m"  # the one that stays close to the true distribution in few steps: Docs/SAMPLERS.md
LEAST_FAST_STEPS = 5
BEST_STEPS = 50
BEST_FACTOR = 2.5


def quality_settings(name: str, sampling: Mapping[str, Any], train_steps: int) -> tuple[str, int]:
    """Sampler and steps of a quality.

    "balanced" is the model's default. "fast" takes half as many steps, at least five but never more than the default,
    with the sampler that bears it best if the model has it. "best" takes 50 steps or 2.5 times the default, whichever
    is more, and no more than there are.

    Args:
        name: one of `QUALITIES`.
        sampling: the section "sampling" of a `model.json`.
        train_steps: "diffusion.train_steps" of it.

    Returns:
        plain name of the sampler, and the number of steps.

    Raises:
        ValueError: no such quality.
    """
    sampler, steps = sampling["default_sampler"], int(sampling["default_steps"])
    if name == "balanced":
        return sampler, steps
    if name == "fast":
        fast = FAST_SAMPLER if FAST_SAMPLER in sampling["samplers"] else sampler
        return fast, min(steps, max(LEAST_FAST_STEPS, math.ceil(steps / 2)))
    if name == "best":
        return sampler, min(train_steps, max(BEST_STEPS, math.ceil(BEST_FACTOR * steps)))
    raise ValueError(f"'{name}' is none of the qualities {', '.join(QUALITIES)}")


def quality_of(sampler: str, steps: int, sampling: Mapping[str, Any], train_steps: int) -> str | None:
    """The quality that has these settings, or None. Where two have them (a model of very few steps), the default."""
    for name in ("balanced", "fast", "best"):
        if quality_settings(name, sampling, train_steps) == (sampler, steps):
            return name
    return None
