"""Which way of computing is chosen, what is allowed of a device's memory, and how the driver is asked."""

from __future__ import annotations

import ctypes
import dataclasses
from types import SimpleNamespace

import pytest

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.memory import gpu, plan
from SynthDiffusionLib.memory.devices import (
    CONTEXT_BYTES,
    DEFAULT_LIMIT,
    DESKTOP_BYTES,
    GIB,
    Budget,
    budget_for,
    choose_precision,
)
from SynthDiffusionLib.memory.execution import CHUNK, OFFLOAD, STREAM, STREAM_HOST, WHOLE, Execution
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.memory.strategies import Option, StageOptions, choose


def stage(name: str, *options: Option) -> StageOptions:
    return StageOptions(name, options, tuple(option.step for option in options))


DENOISE = stage("denoise", Option(WHOLE, 9, 1), Option(OFFLOAD, 7, 1), Option(CHUNK, 4, 1))
DECODE = stage("decode", Option(WHOLE, 20, 1), Option(STREAM, 8, 1), Option(STREAM_HOST, 3, 30))


@pytest.mark.parametrize(
    ("limit", "denoise", "decode"),
    [(None, WHOLE, WHOLE), (20, WHOLE, WHOLE), (19, WHOLE, STREAM), (8, OFFLOAD, STREAM), (5, CHUNK, STREAM_HOST)],
)
def test_every_stage_gets_the_first_way_that_fits(limit, denoise, decode):
    found = choose([DENOISE, DECODE], limit, "bf16")
    assert found.fits and found.exact
    assert found.execution() == Execution(denoise=denoise, decode=decode)
    assert found.peak_bytes <= (limit or 20)
    assert found.steps["decode"][0] == (decode, None) and found.steps["decode"][-1] == (STREAM_HOST, None)


def test_what_is_least_is_what_the_hungriest_stage_takes_at_least():
    found = choose([DENOISE, DECODE], 2, "bf16")
    assert not found.fits and found.least_limit == 4 and found.least_host == 30
    assert choose([DENOISE, DECODE], 4, "bf16").fits
    assert "nothing fits" in found.reasons[0]


def test_host_memory_is_a_limit_of_its_own():
    found = choose([DECODE], 8, "bf16", host_limit=10)
    assert found.fits and found.execution().decode == STREAM
    found = choose([DECODE], 4, "bf16", host_limit=10)
    assert not found.fits and "host memory" in found.reasons[0]


def test_options_that_are_not_needed_are_not_asked_for():
    """Each takes a trace."""

    def options():
        yield Option(WHOLE, 5)
        raise AssertionError("asked for more than was needed")

    assert choose([StageOptions("denoise", options(), ((WHOLE, None), (CHUNK, None)))], 6, "fp32").strategy == WHOLE


def test_what_cannot_be_computed_is_passed_over_however_much_there_is():
    found = choose([stage("denoise", Option(WHOLE, 5, 0, "a reason"), Option(CHUNK, 4))], None, "bf16")
    assert found.execution().denoise == CHUNK and "a reason" in found.reasons[0]
    with pytest.raises(ValueError, match="denoise"):
        choose([stage("denoise", Option(WHOLE, 5, 0, "a reason"))], None, "bf16")
    with pytest.raises(ValueError, match="no stage"):
        choose([], None, "bf16")


def test_the_cap_is_the_limit_without_context_and_desktop():
    alone = budget_for("cuda:0", 12 * GIB, 100 * GIB, context_bytes=GIB // 2)
    assert alone.allocator_cap == 12 * GIB - GIB // 2 and alone.mend == "raise --vram-limit"
    shared = dataclasses.replace(alone, drives_display=True)
    assert shared.allocator_cap == alone.allocator_cap - DESKTOP_BYTES
    assert budget_for("cuda:0", None, 100 * GIB).limit_bytes == DEFAULT_LIMIT == 24 * GIB


def test_what_others_have_taken_is_not_given():
    """A card of 24 GiB on which another program has 20."""
    busy = budget_for("cuda:0", None, 4 * GIB)
    assert busy.allowed == 4 * GIB + CONTEXT_BYTES and busy.allocator_cap == 4 * GIB
    assert busy.mend == "close other programs"


def test_on_a_cpu_only_a_limit_that_was_set_counts():
    assert budget_for("cpu", None, 7 * GIB).limit_bytes is None
    assert budget_for("cpu", None, 7 * GIB).allowed == 7 * GIB
    assert budget_for("cpu", 3 * GIB, 7 * GIB).allowed == 3 * GIB
    assert budget_for("cpu", 3 * GIB, 7 * GIB).allocator_cap is None
    assert Budget("cpu", None, None).allowed is None


def test_a_gpu_without_bf16_computes_in_fp16():
    assert choose_precision("auto", "cuda:0", "fp16") == choose_precision("bf16", "cuda:0", "fp16") == "fp16"
    assert choose_precision("bf16", "cuda:0", "bf16") == choose_precision("bf16", "cpu", "fp32") == "bf16"
    with pytest.raises(BadInput, match="no fp16 kernels"):
        choose_precision("fp16", "cpu", "fp32")


class Driver:
    """Stands for NVML: two processes on a card that may draw a desktop."""

    def __init__(self, used: dict[int, int], display: bool = False, failing: bool = False) -> None:
        self.used, self.display, self.failing = used, display, failing

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus_id: bytes, handle: object) -> int:
        return 0 if bus_id == b"00000000:0a:00.0" else 2

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: object, count: object, processes: object) -> int:
        for place, (pid, used) in zip(processes, self.used.items()):
            place.pid, place.used = pid, used
        ctypes.cast(count, ctypes.POINTER(ctypes.c_uint))[0] = len(self.used)
        return 3 if self.failing else 0

    def nvmlDeviceGetDisplayActive(self, handle: object, active: object) -> int:
        ctypes.cast(active, ctypes.POINTER(ctypes.c_uint))[0] = self.display
        return 0


BUS = "00000000:0a:00.0"


@pytest.mark.parametrize(
    ("driver", "used", "display"),
    [
        (Driver({7: 3 * GIB, 8: GIB}, display=True), 3 * GIB, True),
        (Driver({8: GIB}), None, False),  # a container that hides process numbers
        (Driver({7: gpu.NOT_AVAILABLE}), None, False),  # Windows with a desktop's driver
        (Driver({7: GIB}, failing=True), None, False),
        (SimpleNamespace(), None, False),  # an older driver
        (None, None, False),  # no driver
    ],
)
def test_the_driver_is_asked_for_this_process(monkeypatch, driver, used, display):
    monkeypatch.setattr(gpu, "_nvml", lambda: driver)
    assert gpu.process_bytes(BUS, pid=7) == used
    assert gpu.drives_display(BUS) is display
    assert gpu.process_bytes("00000000:0b:00.0", pid=7) is None


@pytest.fixture
def card(monkeypatch):
    """A GPU of 24 GiB that is not there, with what was asked of PyTorch."""
    import torch

    found = SimpleNamespace(
        total_memory=24 * GIB, is_integrated=False, pci_domain_id=0, pci_bus_id=10, pci_device_id=0, free=20 * GIB
    )
    asked = []
    monkeypatch.setattr(torch, "zeros", lambda *args, **kwargs: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (found.free, found.total_memory))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: asked.append(args))
    monkeypatch.setattr(gpu, "process_bytes", lambda bus, pid=None: GIB + 2**28 if bus == BUS else None)
    monkeypatch.setattr(gpu, "drives_display", lambda bus: False)
    return SimpleNamespace(properties=found, asked=asked)


def test_the_context_is_measured(card):
    """What the driver counts beside PyTorch's allocator; the libraries that are loaded later come on top."""
    budget = gpu.measured_budget("cuda:0", 16 * GIB, 64 * GIB)
    assert budget.context_bytes == 2**28 + gpu.LATER_BYTES
    assert budget.free_bytes == 21 * GIB  # with what PyTorch has already
    assert budget.allocator_cap == 16 * GIB - budget.context_bytes
    gpu.cap_allocator("cuda:0", budget.allocator_cap)
    ((fraction, device),) = card.asked
    assert device == "cuda:0" and fraction * 24 * GIB == pytest.approx(budget.allocator_cap)


def test_an_integrated_gpu_has_what_the_host_has_free(card):
    card.properties.is_integrated = True
    assert gpu.measured_budget("cuda:0", None, 6 * GIB).free_bytes == 6 * GIB


def test_a_gpu_that_does_not_answer_is_named(card, monkeypatch):
    import torch

    def broken(*args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image\nis available")

    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.raises(BadInput, match="cuda:1 cannot be used: CUDA error: no kernel image is available"):
        gpu.measured_budget("cuda:1", None, None)


def test_bf16_is_asked_of_the_card_that_computes(monkeypatch):
    """Of several GPUs only the first may have it; PyTorch asks the current one."""
    import torch

    current = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: _Current(current, device))
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation and current == ["cuda:0"]
    )
    assert plan.resolve_precision("auto", "cuda:0") == "bf16"
    assert plan.resolve_precision("auto", "cuda:1") == plan.resolve_precision("bf16", "cuda:1") == "fp16"


class _Current:
    def __init__(self, current: list[str], device: str) -> None:
        self.current, self.device = current, device

    def __enter__(self) -> None:
        self.current.append(self.device)

    def __exit__(self, *error: object) -> None:
        self.current.pop()


def test_a_plan_knows_what_comes_after_running_out():
    fallbacks = (("denoise", ()), ("decode", ((STREAM, None), (STREAM_HOST, None))))
    first = Plan("cuda:0", "bf16", WHOLE, None, 0, 1, (8, 8, 8), fallbacks=fallbacks)
    second = first.after_running_out("decode")
    assert second.execution == Execution(decode=STREAM) and second.strategy == STREAM
    third = second.after_running_out("decode")
    assert third.execution.decode == STREAM_HOST and third.after_running_out("decode") is None
    assert first.after_running_out("denoise") is None and first.after_running_out("refine") is None
    assert "fallbacks" not in first.to_json()
