"""The condition in training: which masks are given, and what the networks see of them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from SynthDiffusionLib.labels.scheme import LabelScheme


class DropSettings(Protocol):
    """How often a class is withheld: by name, and those that have none there."""

    drop: dict[str, float] | None
    drop_default: float


def class_table(scheme: LabelScheme) -> torch.Tensor:
    """(256, C) float32: which masks a voxel of each label value belongs to."""
    table = torch.zeros(256, len(scheme.condition_classes))
    for channel, label in enumerate(scheme.condition_classes):
        table[list(scheme.containing(label.name)), channel] = 1.0
    return table


def draw_given(scheme: LabelScheme, config: DropSettings, batch: int, rng: np.random.Generator) -> torch.Tensor:
    """(B, C) float32: 1 where a mask is given. Each is withheld on its own, so that any subset works at generation."""
    drop = config.drop or {}
    chances = np.array([drop.get(c.name, config.drop_default) for c in scheme.condition_classes])
    return torch.from_numpy((rng.random((batch, len(chances))) >= chances).astype(np.float32))


def masks_of(classes: torch.Tensor, table: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """The masks as zeros and ones.

    Args:
        classes: (B, D, H, W) label values.
        table: from `class_table`.
        given: (B, C), from `draw_given`.

    Returns:
        (B, C, D, H, W) float32: 1 inside a given mask, 0 outside it and where it is not given.
    """
    return table[classes.long()].movedim(-1, 1) * given[:, :, None, None, None]


def one_hot_masks(masks: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """`labels.onehot.one_hot_condition` on any device, of masks of training.

    Args:
        masks: (B, C, D, H, W), 1 inside a class.
        given: (B, C), 1 where a mask is given.

    Returns:
        (B, C + 1, D, H, W) float32: the background, 0 where a class is not given; then the classes that are.
    """
    all_given = given.amin(dim=1)[:, None, None, None, None]
    background = (1.0 - masks.amax(dim=1, keepdim=True)) * all_given
    return torch.cat([background, masks * given[:, :, None, None, None]], dim=1)
