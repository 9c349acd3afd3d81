"""A device that runs out of memory in spite of the plan: once more in the next exact way, then a clear error."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_execution import EXACT, Tiny, small_pieces, tiny  # noqa: F401  fixtures

from SynthDiffusionLib import backends
from SynthDiffusionLib.errors import OutOfMemory
from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.memory.execution import CHUNK, OFFLOAD, STREAM, WHOLE, Execution
from SynthDiffusionLib.memory.plan import Plan

NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


class Failing:
    """Stands for a function of which some calls find no memory, as PyTorch's allocator says it.

    Args:
        function: that is called.
        calls: numbers of the calls that fail, from 0.
    """

    def __init__(self, function, calls) -> None:
        self.function, self.calls, self.count = function, calls, 0

    def __call__(self, *arguments, **settings):
        self.count += 1
        if self.count - 1 in self.calls:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return self.function(*arguments, **settings)


def plan_with(model: Tiny, told: list, **ways) -> Plan:
    fallbacks = tuple((stage, tuple((way, None) for way in left)) for stage, left in ways.items())
    return dataclasses.replace(
        model.plan(Execution()), fallbacks=fallbacks, tell=lambda stage, plan: told.append((stage, plan))
    )


def draw(model: Tiny, plan: Plan, monkeypatch) -> np.ndarray:
    with monkeypatch.context() as patched:
        patched.setattr(model, "plan", lambda execution, precision="fp32": plan)
        return model.draw(Execution())


def test_decoding_is_done_once_more_in_slabs(tiny, monkeypatch):  # noqa: F811
    usual = tiny.draw(Execution())
    name = "decode_volume" if tiny.joint else "decode"
    way = OFFLOAD if tiny.joint else STREAM  # slices are decoded a few at a time in every way
    failing, told = Failing(getattr(tiny.backend.autoencoder, name), (0,)), []
    monkeypatch.setattr(tiny.backend.autoencoder, name, failing)
    found = draw(tiny, plan_with(tiny, told, decode=(way,)), monkeypatch)
    assert np.abs(found - usual).max() <= 2 * EXACT
    assert [stage for stage, _ in told] == ["decode"]
    assert told[0][1].execution.decode == way and told[0][1].strategy == way


def test_a_step_is_done_once_more_with_chunks(tiny, monkeypatch):  # noqa: F811
    """The second evaluation fails: what was denoised before is not lost."""
    usual = tiny.draw(Execution())
    failing, told = Failing(tiny.backend.network.forward, (1,)), []
    monkeypatch.setattr(tiny.backend.network, "forward", failing)
    found = draw(tiny, plan_with(tiny, told, denoise=(CHUNK,)), monkeypatch)
    assert np.abs(found - usual).max() <= 2 * EXACT
    assert [(stage, plan.execution.denoise) for stage, plan in told] == [("denoise", CHUNK)]
    monkeypatch.undo()
    assert np.array_equal(tiny.draw(Execution()), usual), "nothing of it stays"


@pytest.mark.parametrize(
    ("error", "mended"),
    [
        (
            RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("shapes do not fit"), False),
    ],
)
def test_a_cpu_that_runs_out_is_a_device_too(tiny, monkeypatch, error, mended):  # noqa: F811
    usual, forward, failed = tiny.draw(Execution()), tiny.backend.network.forward, []

    def fails_once(*arguments, **settings):
        if not failed:
            failed.append(True)
            raise error
        return forward(*arguments, **settings)

    monkeypatch.setattr(tiny.backend.network, "forward", fails_once)
    plan = plan_with(tiny, [], denoise=(CHUNK,))
    if mended:
        assert np.abs(draw(tiny, plan, monkeypatch) - usual).max() <= 2 * EXACT
        failed.clear()
        with pytest.raises(OutOfMemory):
            draw(tiny, plan_with(tiny, []), monkeypatch)
    else:
        with pytest.raises(RuntimeError, match="shapes"):
            draw(tiny, plan, monkeypatch)


@pytest.mark.parametrize(("calls", "ways"), [((0,), ()), ((0, 1), (CHUNK, CHUNK))])
def test_then_it_ends_with_a_clear_error(tiny, monkeypatch, calls, ways):  # noqa: F811
    """No way is left, or the next one does not fit either."""
    monkeypatch.setattr(tiny.backend.network, "forward", Failing(tiny.backend.network.forward, calls))
    with pytest.raises(OutOfMemory, match="ran out of memory on a grid of") as failed:
        draw(tiny, plan_with(tiny, [], denoise=ways), monkeypatch)
    assert failed.value.hint and failed.value.exit_code == 1


def test_a_job_tells_and_records_it(tmp_path, monkeypatch):
    """Two samples: the second begins in the way that worked."""
    from command_process import labels, save
    from tiny_package import make_working_package

    from SynthDiffusionLib.memory import plan as plans

    package = make_working_package(tmp_path / "tiny-ct")
    save(tmp_path / "seg.nii.gz", labels())
    resolve, failing = plans.resolve_plan, None

    def on_a_gpu(*arguments, **settings) -> Plan:
        """A CPU's plan with the ways that are left on a GPU."""
        return dataclasses.replace(resolve(*arguments, **settings), fallbacks=(("denoise", ((CHUNK, None),)),))

    load = backends.load_backend

    def loaded(package):
        nonlocal failing
        backend = load(package)
        backend.network.forward = failing = Failing(backend.network.forward, (1,))
        return backend

    monkeypatch.setattr(plans, "resolve_plan", on_a_gpu)
    monkeypatch.setattr("SynthDiffusionLib.jobs.runner.load_backend", loaded)
    events: list[dict] = []
    request = GenerateRequest(
        tmp_path / "seg.nii.gz",
        str(package.folder),
        tmp_path / "out",
        steps=2,
        seed=1,
        samples=2,
        guidance=1.0,
        device="cpu",
    )
    done = run(request, events.append)
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert [w for w in warnings if "ran out of memory in the stage 'denoise'" in w and "'chunk'" in w]
    assert failing.count == 5, "one evaluation was done twice"
    for number, output in enumerate(done.outputs):
        record = json.loads(output["provenance"].read_text(encoding="utf-8"))
        assert record["plan"]["execution"] == {"denoise": CHUNK} and record["plan"]["strategy"] == CHUNK
        assert any("ran out of memory" in note for note in record["notes"]) == (number == 0)
    assert WHOLE not in record["plan"]["execution"].values()


def test_the_last_error_names_what_fits_now(monkeypatch):
    """Of a GPU that others have filled since the plan was made."""
    from types import SimpleNamespace

    from SynthDiffusionLib.memory import gpu, plan
    from SynthDiffusionLib.memory.devices import GIB, budget_for
    from SynthDiffusionLib.models.presets import load_preset

    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    error = OutOfMemory("The device ran out of memory on a grid of 512x512x256", "Close other programs.")
    made = Plan("cuda:0", "bf16", WHOLE, 24 * GIB, 0, 1, (512, 512, 256))
    spec = load_preset("medlord-x4")
    for free, largest in ((GIB, "voxels: make"), (40 * GIB, None)):
        monkeypatch.setattr(
            gpu,
            "measured_budget",
            lambda device, limit, host, free=free: budget_for(device, limit, free, host_bytes=host),
        )
        found = plan.told_largest(error, spec, made, True)
        assert (found is error) == (largest is None)
        assert largest is None or ("other programs have taken" in found.message and "GiB may be used" in found.message)
    assert plan.told_largest(error, spec, dataclasses.replace(made, device="cpu"), True) is error
