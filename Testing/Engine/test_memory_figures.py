"""The table of traced peaks agrees with traces, and what lies between its rows is never too little."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys

import pytest

from SynthDiffusionLib.memory.execution import OFFLOAD
from SynthDiffusionLib.memory.figures import FORMAT, Figures, fingerprint, sizes_of
from SynthDiffusionLib.memory.working_grids import padded
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.models.presets import load_preset, preset_ids
from SynthDiffusionLib.resources import resource_path

SHIPPED = sorted(path.parent.name for path in resource_path("Models").glob("*/model.json"))


def table() -> dict:
    return json.loads(resource_path("Memory", "traced.json").read_text(encoding="utf-8"))


def spec_of(model: str):
    return load_preset(model) if model in preset_ids() else load_package(model, verify=False).spec


@pytest.mark.parametrize("model", [*SHIPPED, *preset_ids()])
def test_every_shipped_model_and_preset_is_in_the_table(model):
    """Else a plan would need torch, and seconds."""
    spec, package = spec_of(model), model in SHIPPED
    conditional = set(spec.modes) != {"unconditional"}
    for device in ("cpu", "cuda") if package else ("cuda",):
        figures = Figures(spec, device, conditional)
        assert figures.stored_sizes() == sizes_of(spec, package=package), f"run python -m {Figures.__module__}"


@pytest.mark.parametrize("model", [*SHIPPED, "medlord-x4", "maisi-rflow", "med-lsdm", "slice-ldm", "patch-ddpm"])
def test_the_table_holds_what_a_trace_gives(model):
    """One of its sizes, every stage; another version of PyTorch may take its operations apart otherwise."""
    assert table()["format"] == FORMAT
    spec = spec_of(model)
    device = "cpu" if model in SHIPPED else "cuda"
    conditional = set(spec.modes) != {"unconditional"}
    stored, traced = (Figures(spec, device, conditional, stored=s) for s in (True, False))
    assert stored.weights() == traced.weights() and stored.stages == traced.stages
    grid = min(stored.stored_sizes(), key=math.prod)
    for stage in stored.stages:
        for kind in stored.kinds(stage) if model not in SHIPPED else (OFFLOAD,):
            found, expected = (f.figure(grid, stage, kind, "bf16") for f in (stored, traced))
            assert found.device_bytes == pytest.approx(expected.device_bytes, rel=0.02), (stage, kind)
            assert found.host_bytes == pytest.approx(expected.host_bytes, rel=0.02), (stage, kind)
            assert found.largest_call == expected.largest_call, (stage, kind)


@pytest.mark.parametrize("model", ["lung-nodule-ct", "limb-tumour-ct"])
def test_between_two_sizes_the_table_is_never_below_a_trace_and_near_it(model):
    spec = spec_of(model)
    stored, traced = (Figures(spec, "cpu", True, stored=s) for s in (True, False))
    divisor, largest = padded(spec, (1, 1, 1)), spec.grid.max_size
    step = padded(spec, tuple(n + 1 for n in divisor))[0] - divisor[0]
    sides = (range(low, high + 1, step) for low, high in zip(divisor, largest))
    grids = random.Random(7).sample(list(itertools.product(*sides)), 5)
    for grid in grids:
        assert padded(spec, grid) == grid
        for stage, precision in itertools.product(stored.stages, ("fp32", "bf16")):
            said, is_ = (f.figure(grid, stage, OFFLOAD, precision).device_bytes for f in (stored, traced))
            assert is_ <= said * 1.0001 <= 1.1 * is_ + 2**22, (grid, stage, precision)


def test_between_two_sizes_of_a_preset(monkeypatch):
    """The distances to the codebook grow only up to a number of voxels: a bend the other way."""
    spec = load_preset("medlord-x4")
    stored, traced = (Figures(spec, "cuda", True, stored=s) for s in (True, False))
    for grid in ((96, 96, 96), (256, 256, 96), (416, 416, 224)):
        said, is_ = (f.figure(grid, "decode", OFFLOAD, "bf16").device_bytes for f in (stored, traced))
        assert is_ <= said <= 1.1 * is_ + 2**22, grid


def test_without_torch_a_larger_size_stands_for_one_that_is_not_in_the_table(monkeypatch):
    spec = load_preset("medlord-x4")
    figures = Figures(spec, "cuda", True)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "SynthDiffusionLib.memory.stage_runs", raising=False)
    monkeypatch.delitem(sys.modules, "SynthDiffusionLib.memory.trace", raising=False)
    found = figures.figure((480, 480, 224), "decode", "stream", "bf16")
    assert found == figures.figure((512, 512, 256), "decode", "stream", "bf16")
    with pytest.raises(ImportError):
        figures.figure((640, 640, 640), "decode", "stream", "bf16")


def test_models_of_the_same_networks_share_a_row():
    """An imported checkpoint is planned as its preset, without tracing."""
    spec = load_preset("medlord-x4")
    assert fingerprint(spec, True) != fingerprint(spec, False)
    assert fingerprint(spec, True) != fingerprint(load_preset("medlord-x8"), True)
    assert fingerprint(load_preset("maisi-rflow-mr"), False) != fingerprint(load_preset("maisi-ddpm"), False)
