"""What the rows of `speed_table.py` share: backends with random weights, drawings, plans, time and memory."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_size import with_random_weights

from SynthDiffusionLib.backends import medlord
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.memory.execution import DEFAULT_EXECUTION, Execution
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.models.presets import load_preset

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Setting:
    """Where and how a row is measured.

    Args:
        device: "cpu" or "cuda:N".
        precision: "fp32", "bf16" or "fp16".
        repeats: of what is timed.
        steps: denoising steps that are timed, and multiplied where a row says so.
    """

    device: str
    precision: str
    repeats: int
    steps: int

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")


def size_of(text: str) -> tuple[int, int, int]:
    """ "96x96x64" as numbers."""
    return tuple(int(n) for n in text.split("x"))


def ran_on(device: str) -> dict[str, Any]:
    """Machine and versions."""
    import diffusers
    import monai

    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "machine": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "diffusers": diffusers.__version__,
        "system": platform.system(),
    }


def random_backend(preset: str) -> Any:
    """The backend of a preset with seeded random weights, no layer of which is zero.

    Networks are made with their ways out at zero: a control network would change nothing, and two ways of computing it
    would agree whatever they do.
    """
    backend = with_random_weights(preset)
    fill_zeros(getattr(backend, role, None) for role in ("network", "controlnet", "embedding"))
    return backend


def fill_zeros(networks: Iterable[torch.nn.Module | None]) -> None:
    """Gives seeded random values to weights that are all zero."""
    generator = torch.Generator().manual_seed(7)
    for network in networks:
        for weights in () if network is None else network.parameters():
            if not weights.any():
                fan = max(1, weights[0].numel())
                weights.data.copy_(torch.randn(weights.shape, generator=generator) * 0.5 / fan**0.5)


def drawing(spec: Any, shape: tuple[int, int, int]) -> Condition:
    """Boxes within boxes, of the first classes of a model's scheme."""
    classes, names = np.zeros(shape, np.uint8), []
    for number, label in enumerate(spec.label_scheme.condition_classes[:3]):
        inset = tuple(slice(n * (1 + number) // 10, n - n * (1 + number) // 10) for n in shape)
        classes[inset] = label.value
        names.append(label.name)
    return Condition(classes, np.diag([*spec.grid.spacing_mm, 1.0]), spec.label_scheme, tuple(names))


def plan_of(
    grid: tuple[int, int, int], setting: Setting, execution: Execution = DEFAULT_EXECUTION, precision: str = ""
) -> Plan:
    """A plan that nobody has planned: a grid as it is, computed as `execution` says."""
    precision = precision or setting.precision
    return Plan(setting.device, precision, execution.summary, None, 0, torch.get_num_threads(), grid, execution)


class _Denoised(Exception):
    """Carries the latents out of a backend, before they are decoded."""

    def __init__(self, latents: torch.Tensor) -> None:
        super().__init__()
        self.latents = latents


@contextmanager
def _ending_after_denoising() -> Iterator[None]:
    """Backends in the block end with `_Denoised` where they would begin to decode."""
    from SynthDiffusionLib.backends import maisi

    places = [(medlord, "draw_sample"), (maisi, "draw_sample"), (maisi, "sample_flow")]
    kept = [getattr(module, name) for module, name in places]

    def ending(loop: Callable) -> Callable:
        def call(*arguments: Any, **settings: Any) -> None:
            raise _Denoised(loop(*arguments, **settings))

        return call

    for (module, name), loop in zip(places, kept):
        setattr(module, name, ending(loop))
    try:
        yield
    finally:
        for (module, name), loop in zip(places, kept):
            setattr(module, name, loop)


def denoised(backend: Any, condition: Condition, plan: Plan, **settings: Any) -> torch.Tensor:
    """What `backend.sample` has before it decodes: its own path, the drawing's features computed once.

    Args:
        backend: of MedLoRD or MAISI.
        condition: a new object for each call, whose features are then not remembered from the last.
        plan: of the computation.
        settings: as `sample` takes them.
    """
    with _ending_after_denoising():
        try:
            backend.sample(condition, plan, **settings)
        except _Denoised as end:
            return end.latents
    raise RuntimeError("the backend did not denoise by the loops that are known here")


def synchronised(device: str) -> None:
    """Waits for a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float, float]:
    """Result, seconds, and seconds of processor time of this process."""
    synchronised(device)
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    synchronised(device)
    return result, time.perf_counter() - wall, time.process_time() - processor


def in_turn(ways: dict[str, Callable[[], Any]], device: str, repeats: int) -> tuple[dict[str, dict], dict[str, Any]]:
    """Every way, each time in another order: medians, and the first results.

    Args:
        ways: what is timed, by name; one call of each comes first and is not counted.
        device: that is waited for.
        repeats: of every way.

    Returns:
        {name: {"seconds", "processor_s", "all_s"}}, {name: result of the uncounted call}.
    """
    results = {name: work() for name, work in ways.items()}
    walls: dict[str, list[float]] = {name: [] for name in ways}
    processors: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            _, wall, processor = timed(ways[name], device)
            walls[name].append(wall)
            processors[name].append(processor)
    medians = {
        name: {
            "seconds": statistics.median(walls[name]),
            "processor_s": statistics.median(processors[name]),
            "all_s": [round(n, 4) for n in walls[name]],
        }
        for name in names
    }
    return medians, results


def peak_of(work: Callable[[], Any], device: str, networks: Sequence[torch.nn.Module]) -> int:
    """Bytes of tensors at the peak of a call over what there was before: as a GPU's allocator counts them; on a CPU of
    live storages, which does not depend on what the C library keeps.

    Args:
        work: the call.
        device: where it computes.
        networks: whose weights are there already.
    """
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Engine"))
    from real_tensors import LiveStorages

    with LiveStorages() as live:
        for network in networks:
            live.ignore(network)
        work()
    return live.peak


def give_back() -> None:
    """Freed memory that the C library keeps goes back to the system (glibc), so that it is in no later peak."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def deviation(made: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference as a share of the expected values' range."""
    wide = float(expected.max() - expected.min())
    return float((made - expected).abs().max()) / (wide or 1.0)


def spec_of(model: str) -> Any:
    """The description of a preset or of a shipped model."""
    from SynthDiffusionLib.models.package import load_package
    from SynthDiffusionLib.models.presets import is_preset

    return load_preset(model) if is_preset(model) else load_package(model, verify=False).spec


def environment(threads: int) -> dict[str, str]:
    """Of a child process: its threads, and this clone's library."""
    root = str(Path(__file__).resolve().parents[2])
    paths: Sequence[str] = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **counts, "PYTHONPATH": os.pathsep.join(paths)}
