"""What the slice-based model is told in training, and whether its log shows that it listens."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_training_slice_ldm as tiny
import torch
from tiny_training_slice_ldm import diffusion_stage

slice_data, slice_run = tiny.slice_data, tiny.slice_run


def test_conditions_are_the_scaled_characteristics_and_dropped_as_a_whole(slice_run, slice_data, tmp_path):
    stage = diffusion_stage(slice_run, slice_data, tmp_path)
    chosen = stage.latents.train[:2]
    _, values = stage.stacked(chosen)
    for row, latent in zip(values, chosen):
        np.testing.assert_allclose(row, latent.characteristics / np.array(stage.latents.characteristics.scale), 1e-5)
    assert float(values[:, 3:6].abs().max()) <= 0.5 and float(values.max()) <= 1.0001
    dropped = stage.condition(torch.ones(4000, 9), np.random.default_rng(0)).isnan()
    assert torch.equal(dropped.all(1), dropped.any(1))
    assert float(dropped.all(1).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_characteristics_by_their_deviation_have_a_mean_of_0_and_a_deviation_of_1(slice_run, slice_data, tmp_path):
    stage = diffusion_stage(slice_run, slice_data, tmp_path, ("drop = 0.25", 'drop = 0.25\nscaling = "deviation"'))
    _, values = stage.stacked(stage.latents.train)
    torch.testing.assert_close(values.mean(0), torch.zeros(9), rtol=0, atol=1e-4)
    torch.testing.assert_close(values.std(0, correction=0), torch.ones(9), rtol=1e-3, atol=0)


def test_a_network_that_listens_loses_by_the_characteristics_of_others(slice_run, slice_data, tmp_path):
    stage = diffusion_stage(slice_run, slice_data, tmp_path)
    found = stage.validate()
    assert found["validation_others"] == found["validation_loss"]  # its last convolution is still zero
    told: list[torch.Tensor] = []

    def listening(network, noisy, timesteps, condition):
        told.append(condition)
        return torch.full_like(noisy, 9.0) if len(told) > len(stage.fixed) else torch.zeros_like(noisy)

    stage.predict, stage.condition = listening, lambda labels, rng: labels
    found = stage.validate()
    assert found["validation_others"] > found["validation_loss"]
    for one, other in zip(told[: len(stage.fixed)], told[len(stage.fixed) :]):
        assert torch.equal(one.roll(1, 0), other) and len(one) == stage.config.optimiser.batch
