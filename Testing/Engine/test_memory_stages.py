"""The traced stages hold what the backends hold: shipped models draw volumes, and their storages are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from real_tensors import LiveStorages

from SynthDiffusionLib.backends import load_backend
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.memory.figures import Figures
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.memory.stage_runs import How, stage_runs
from SynthDiffusionLib.memory.trace import trace
from SynthDiffusionLib.models import load_package

GRIDS = {
    "lung-nodule-ct": (40, 40, 40),
    "limb-tumour-ct": (96, 96, 64),
    "limb-tumour-mr": (96, 96, 40),
    "hippocampus-mr": (48, 48, 48),
}


@pytest.mark.parametrize("model", GRIDS)
def test_what_a_backend_holds_beside_its_weights_is_what_its_stages_were_traced_to_hold(model):
    package, grid = load_package(model, verify=False), GRIDS[model]
    spec, backend = package.spec, load_backend(package)
    assert backend.working_grid(grid) == grid
    plan = Plan("cpu", "fp32", "whole", None, 0, 1, grid)
    settings = {"sampler": "dpmpp-2m", "steps": 2, "seed": 1}
    classes = np.zeros(grid, np.uint8)
    names = []
    for number, label in enumerate(spec.label_scheme.condition_classes[:2]):
        classes[4 + 4 * number : -4 - 4 * number, 8:-8, 8:-8] = label.value
        names.append(label.name)
    condition = Condition(classes, np.diag([*spec.grid.spacing_mm, 1.0]), spec.label_scheme, tuple(names))
    with LiveStorages() as live:
        for network in vars(backend).values():
            if isinstance(network, torch.nn.Module):
                live.ignore(network)
        if spec.backend == "slice_ldm":
            typical = [quantiles[len(quantiles) // 2] for quantiles in spec.characteristics.quantiles]
            backend.sample_joint(np.array(typical, np.float32), plan, **settings)
        else:
            backend.sample(condition, plan, **settings)
    figures = Figures(spec, "cpu", True, stored=False)
    every, traced = sum(figures.weights().values()), {}
    for stage in figures.stages:
        how = How(all_resident=False, guided=False)
        own = every - figures.other_weights(stage)
        traced[stage] = trace(stage_runs(spec, grid, how)[stage], device="cpu").live_bytes - own
    assert live.peak <= 1.01 * max(traced.values()) <= 1.25 * live.peak, (live.peak, traced)
