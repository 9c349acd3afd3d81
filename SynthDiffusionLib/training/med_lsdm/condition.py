"""Which classes the networks of Med-LSDM are given in training."""

from __future__ import annotations

import numpy as np
import torch

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.training.masks import draw_given
from SynthDiffusionLib.training.med_lsdm.config import ConditionConfig, MedLSDMConfig
from SynthDiffusionLib.training.stages import HINT


def draw_all_given(scheme: LabelScheme, config: ConditionConfig, batch: int, rng: np.random.Generator) -> torch.Tensor:
    """(B, C) float32: 1 where a class is given; with the chance `drop_all` none is, which is the null condition."""
    given = draw_given(scheme, config, batch, rng)
    kept = rng.random((batch, 1)) >= config.drop_all
    return given * torch.from_numpy(kept.astype(np.float32))


def check_names(scheme: LabelScheme, config: MedLSDMConfig) -> None:
    """Whether the classes that the configuration names are those of the label scheme.

    Raises:
        BadInput: they are not.
    """
    names = [c.name for c in scheme.condition_classes]
    named = {"[condition] drop": config.condition.drop or {}, "[latents] sharp": config.latents.sharp}
    for where, given in named.items():
        for name in given:
            if name not in names:
                raise BadInput(f"{where} names '{name}', which is none of {', '.join(names)}", HINT)
