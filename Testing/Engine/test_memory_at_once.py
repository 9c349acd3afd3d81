"""Slices and windows that are computed at once: planned by the limit, and the volume is the same however many."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_med_lsdm import make_lsdm_package

from SynthDiffusionLib.backends import load_backend
from SynthDiffusionLib.backends.med_lsdm import window_slices
from SynthDiffusionLib.errors import BadInput, TooLarge
from SynthDiffusionLib.jobs.inputs import Inputs, memory_of
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.labels.mapping import MappedSegmentation
from SynthDiffusionLib.memory.at_once import numbers, pieces_of
from SynthDiffusionLib.memory.devices import GIB, PROCESS_BYTES, budget_for
from SynthDiffusionLib.memory.execution import OFFLOAD, STREAM, TOGETHER, WHOLE, Execution
from SynthDiffusionLib.memory.figures import Figures
from SynthDiffusionLib.memory.plan import Plan, planned
from SynthDiffusionLib.memory.predict import Request, plan_choice, stage_options
from SynthDiffusionLib.memory.strategies import Option, StageOptions, choose
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.models.presets import load_preset
from SynthDiffusionLib.models.spec import WindowsSpec
from SynthDiffusionLib.volumes import Segmentation, Volume

DEEP = (16, 16, 44)  # windows from 0, 8, 16, 24 and 28
SLICES, WINDOWS = load_preset("slice-ldm"), load_preset("med-lsdm")


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    """A tiny Med-LSDM, and a drawing as deep as five of its windows."""
    package = make_lsdm_package(tmp_path_factory.mktemp("models") / "tiny-lsdm")
    backend = load_backend(package)
    backend.windows = WindowsSpec(16, 8, "steps")
    classes = np.zeros(DEEP, np.uint8)
    classes[4:12, 4:12, 6:38] = package.spec.label_scheme.condition_classes[0].value
    given = (package.spec.label_scheme.condition_classes[0].name,)
    return backend, Condition(classes, np.diag([2.5, 2.5, 3.5, 1.0]), package.spec.label_scheme, given)


def draw(windowed, execution: Execution, **changes) -> np.ndarray:
    backend, condition = windowed
    plan = Plan("cpu", "fp32", WHOLE, None, 0, 1, DEEP, execution, **changes.pop("plan", {}))
    return backend.sample(condition, plan, **{"sampler": "dpmpp-2m", "steps": 3, "seed": 5} | changes)


@pytest.mark.parametrize("guidance", ["in-turn", TOGETHER])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_volume_does_not_depend_on_how_many_windows_are_denoised_at_once(windowed, monkeypatch, guidance, scale):
    backend, seen = windowed[0], []
    usual = draw(windowed, Execution(), guidance=scale)
    forward = backend.network.forward

    def watched(noisy, *arguments, **settings):
        seen.append(len(noisy))
        return forward(noisy, *arguments, **settings)

    monkeypatch.setattr(backend.network, "forward", watched)
    for windows, largest in ((1, 1), (2, 2), (5, 5), (64, 5)):
        seen.clear()
        made = draw(windowed, Execution(windows=windows, guidance=guidance), guidance=scale)
        np.testing.assert_allclose(made, usual, atol=1e-5)
        assert usual.std() > 0.01
        assert max(seen) == largest * (2 if scale != 1.0 and guidance == TOGETHER else 1)
        assert sum(seen) == 3 * 5 * (2 if scale != 1.0 else 1)


def test_a_device_that_runs_out_takes_fewer_windows(windowed, monkeypatch):
    backend, told = windowed[0], []
    usual, forward = draw(windowed, Execution()), backend.network.forward

    def small(noisy, *arguments, **settings):
        if len(noisy) > 2:
            raise torch.OutOfMemoryError("no memory for that")
        return forward(noisy, *arguments, **settings)

    monkeypatch.setattr(backend.network, "forward", small)
    left = (("denoise", ((WHOLE, ("windows", 2)), (WHOLE, ("windows", 1)), (OFFLOAD, ("windows", 4)))),)
    plan = {"fallbacks": left, "tell": lambda stage, plan: told.append((stage, plan.execution.windows))}
    np.testing.assert_allclose(draw(windowed, Execution(windows=4), plan=plan), usual, atol=1e-5)
    assert told == [("denoise", 1)], "there is one more try: with as few as can be"


def test_powers_of_two_the_most_first():
    assert numbers(SLICES, "decode", (192, 192, 96), "cuda:0") == (32, 16, 8, 4, 2, 1)
    assert numbers(SLICES, "decode", (192, 192, 5), "cuda") == (8, 4, 2, 1)
    assert numbers(SLICES, "decode", (192, 192, 96), "cpu") == (8, 4, 2, 1)
    assert numbers(WINDOWS, "denoise", (256, 256, 256), "cuda") == (16, 8, 4, 2, 1)  # of 15
    assert numbers(WINDOWS, "denoise", (256, 256, 32), "cuda") == numbers(WINDOWS, "denoise", DEEP, "cpu") == (1,)
    assert (
        numbers(SLICES, "denoise", (192, 192, 96), "cuda")
        == numbers(load_preset("medlord-x4"), "decode", DEEP, "cuda")
        == ()
    )
    one_by_one = dataclasses.replace(WINDOWS, windows=dataclasses.replace(WINDOWS.windows, join="samples"))
    assert pieces_of(one_by_one, "denoise") is None


@pytest.mark.parametrize("depth", [32, 33, 47, 48, 49, 64, 100, 256])
def test_the_number_of_windows_is_that_of_the_backend(depth):
    count = len(window_slices(depth, 32, 16))
    most = numbers(WINDOWS, "denoise", (64, 64, depth), "cuda")[0]
    assert most >= count > most // 2


@pytest.mark.parametrize(
    ("spec", "grid", "stage", "field"),
    [
        (SLICES, (192, 192, 96), "decode", "slices"),
        (WINDOWS, (256, 256, 128), "denoise", "windows"),
    ],
)
def test_as_many_at_once_as_fit_a_limit(spec, grid, stage, field):
    """And what is chosen needs no other network to leave the device before fewer are computed at once."""
    request, figures = Request(spec), Figures(spec, "cuda", True)
    (options,) = (list(s.options) for s in stage_options(request, grid, figures) if s.name == stage)
    whole = [o for o in options if o.way == WHOLE]
    sizes = [o.device_bytes for o in whole]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.05 * sizes[-1]
    found = plan_choice(request, grid, None, None, figures)
    assert getattr(found.execution(), field) == whole[0].pieces[1] == numbers(spec, stage, grid, "cuda")[0]
    others = max((o.device_bytes for n, o in found.stages.items() if n != stage), default=0)
    for option in whole:
        if option.device_bytes < others:
            break
        limited = plan_choice(request, grid, option.device_bytes, None, figures)
        assert limited.stages[stage].pieces == option.pieces and limited.strategy == WHOLE and limited.reasons == ()
    # Without the table, traced.
    traced = Figures(spec, "cuda", True, stored=False)
    for n in (whole[0].pieces[1], 2):
        kept, anew = (f.figure(grid, stage, OFFLOAD, "bf16", n) for f in (figures, traced))
        assert kept.device_bytes == pytest.approx(anew.device_bytes, rel=0.02)


def test_a_pinned_number_is_kept_and_told():
    plan = planned(SLICES, (192, 192, 96), budget_for("cuda:0", 24 * GIB, None), "bf16", None, True, {"slices": 3})
    assert plan.execution == Execution(slices=3)
    assert plan.to_json()["execution"] == {"slices": 3}
    assert dict(plan.fallbacks)["decode"] == ((OFFLOAD, ("slices", 3)),)
    json.dumps(plan.to_json())
    plan = planned(SLICES, (192, 192, 96), budget_for("cuda:0", 24 * GIB, None), "bf16", None)
    assert plan.execution.slices == 32 and dict(plan.fallbacks)["decode"][0] == (WHOLE, ("slices", 16))
    assert plan.after_running_out("decode").execution.slices == 1


def test_the_least_host_memory_is_that_of_a_way_that_the_device_bears():
    options = [Option(STREAM, 6, 9), Option(OFFLOAD, 5, 30), Option(WHOLE, 20, 1)]
    stage = StageOptions("decode", options, tuple(o.step for o in options))
    found = choose([stage], 8, "bf16", host_limit=8)
    assert not found.fits and (found.least_limit, found.least_host) == (6, 9)
    assert choose([stage], 8, "bf16", host_limit=9).fits
    assert choose([stage], 4, "bf16", host_limit=9).least_limit == 5


def test_inputs_count_and_are_no_stage_of_the_networks():
    """A small region of a large volume: what the files take is what a limit must bear."""
    spec, budget = load_package("lung-nodule-ct", verify=False).spec, budget_for("cpu", None, None)
    small = planned(spec, (48, 48, 48), budget, "fp32", None)
    large = planned(spec, (48, 48, 48), budget, "fp32", None, held_bytes=GIB, files_bytes=2 * GIB)
    assert (
        large.predicted_bytes == PROCESS_BYTES + 3 * GIB and dict(large.stage_bytes)["files"] == large.predicted_bytes
    )
    assert dict(large.stage_bytes)["denoise"] == small.predicted_bytes + GIB
    assert large.execution == small.execution and large.strategy == WHOLE
    with pytest.raises(TooLarge, match="needs at least"):
        planned(spec, (48, 48, 48), budget_for("cpu", 3 * GIB, None), "fp32", None, held_bytes=GIB, files_bytes=2 * GIB)
    on_gpu = planned(
        spec, (48, 48, 48), budget_for("cuda:0", None, None), "bf16", None, held_bytes=GIB, files_bytes=2 * GIB
    )
    assert on_gpu.predicted_host_bytes > 3 * GIB > on_gpu.predicted_bytes


def test_what_inputs_take_is_that_of_their_arrays():
    real = Volume(np.zeros((10, 10, 10), np.int16), np.eye(4))
    drawn = Segmentation((np.zeros((10, 10, 10), np.uint8),), np.eye(4), ())
    mapping = MappedSegmentation(np.zeros((10, 10, 10), np.uint8), np.eye(4), SLICES.label_scheme, ())
    of = {"case": "x", "mapping": mapping, "notes": [], "checksums": {}}
    assert memory_of(Inputs(segmentation=drawn, image=real, **of), False) == (4000, 8000)
    assert memory_of(Inputs(segmentation=drawn, image=None, **of), True) == (2000, 5000)
    assert memory_of(Inputs(segmentation=drawn, image=None, **of), False) == (2000, 10000)
    assert memory_of(Inputs(segmentation=None, image=None, **of), False) == (0, 0)
    fine = Inputs(segmentation=drawn, image=real, **of, drawn_voxels=8000)
    assert memory_of(fine, False) == (4000, 40000)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_maps_go_back_to_the_system():
    """In a process that has freed blocks of 8 MiB, between which small ones stay."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from SynthDiffusionLib.memory.heap import keep_heap_small\n"
        "if sys.argv[2] == 'small': keep_heap_small()\n"
        "kept = []\n"
        "for n in range(30):\n"
        "    blocks = [bytearray(2**23 + 2**16 * n) for _ in range(8)]\n"
        "    kept += [bytearray(5000) for _ in range(40)]\n"
        "    blocks = None\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(next(int(line.split()[1]) for line in lines if line.startswith('VmRSS')))\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    resident = [
        int(subprocess.run([sys.executable, "-c", script, root, how], capture_output=True, check=True).stdout)
        for how in ("small", "as it is")
    ]
    assert resident[0] < 80_000 and resident[0] < 1.2 * resident[1]


def test_reasons_name_other_ways_only():
    steps = [(WHOLE, 8), (WHOLE, 1), (OFFLOAD, 8), (OFFLOAD, 1)]
    options = [
        Option(way, size, pieces=("windows", n)) for (way, n), size in zip(steps, (9 * GIB, 7 * GIB, 8 * GIB, 5 * GIB))
    ]
    stage = StageOptions("denoise", options, tuple(o.step for o in options))
    assert choose([stage], 7 * GIB, "bf16").reasons == ()
    found = choose([stage], 6 * GIB, "bf16")
    assert found.execution() == Execution(denoise=OFFLOAD, windows=1)
    assert found.reasons[0].count("whole takes") == 1 and "7.00 GiB" in found.reasons[0]


@pytest.mark.parametrize(
    ("model", "asked", "said"),
    [
        ("patch-ddpm", {"decode": STREAM}, "no stage 'decode'"),
        ("medlord-x4", {"slices": 4}, "no slices"),
        ("slice-ldm", {"windows": 4}, "no windows"),
        ("medlord-x4", {"refine": OFFLOAD}, "no stage 'refine'"),
    ],
)
def test_what_a_model_does_not_have_cannot_be_set(model, asked, said):
    with pytest.raises(BadInput, match=said):
        planned(load_preset(model), (192, 192, 96), budget_for("cuda:0", None, None), "bf16", None, True, asked)


@pytest.mark.parametrize(
    "wrong", [{"slices": 0}, {"windows": -1}, {"slices": True}, {"windows": "two"}, {"slices": 2.0}]
)
def test_numbers_that_are_none_are_refused(wrong):
    with pytest.raises(BadInput, match="at once"):
        Execution.from_json(wrong)
    assert Execution(decode=STREAM, slices=2, windows=3).to_json() == {"decode": STREAM, "slices": 2, "windows": 3}
