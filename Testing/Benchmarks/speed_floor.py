"""Rows of `speed_table.py` on the floor: counted arithmetic and bytes, and the machine's measured ceilings."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from speed_parts import DTYPES, Setting, drawing, plan_of, random_backend, size_of, spec_of, synchronised, timed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

SEED = 3
# Products of matrices and convolutions: what must be read and written even if all else were fused into them.
COUNTED = {"convolution", "mm", "addmm", "bmm", "baddbmm", "linear", "matmul"}


class CountedBytes(TorchDispatchMode):
    """Adds up the bytes of what convolutions, products and attention read and write, each tensor once a call."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in COUNTED or "attention" in name:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return result


def counted(work: Any) -> tuple[float, float]:
    """Floating-point operations (two for a multiply-add, as PyTorch counts them) and bytes of a call."""
    with CountedBytes() as traffic, FlopCounterMode(display=False) as flops:
        work()
    return float(flops.get_total_flops()), float(traffic.bytes)


def ceilings(device: str, precision: str, repeats: int = 10) -> dict[str, float]:
    """What the machine does at best of such work: FLOP/s of a large product of matrices, bytes/s of a large copy."""
    side = 8192 if device.startswith("cuda") else 3072
    a, b = (torch.randn((side, side), device=device).to(DTYPES[precision]) for _ in range(2))
    source = torch.ones(2**28, device=device, dtype=torch.uint8).view(torch.float32)
    target = torch.empty_like(source)
    best = {}
    for name, work, amount in (
        ("flop_per_s", lambda: torch.mm(a, b), 2.0 * side**3),
        ("bytes_per_s", lambda: target.copy_(source), 2.0 * source.numel() * 4),
    ):
        work()
        best[name] = amount / min(timed(work, device)[1] for _ in range(repeats))
    return best


def floor(row: str, setting: Setting) -> dict[str, Any]:
    """Group g: each stage of a preset, computed whole: its time, what was counted, and what the ceilings would allow.

    Args:
        row: "PRESET:XxYxZ".
        setting: of which `steps` evaluations and `repeats` volumes are timed, of these three at most.
    """
    preset, size = row.split(":")
    spec, grid = spec_of(preset), size_of(size)
    backend = random_backend(preset)
    plan, condition = plan_of(grid, setting), drawing(spec, grid)
    marks: list[float] = []

    def mark(*_: Any) -> None:
        synchronised(setting.device)
        marks.append(time.perf_counter())

    def work(steps: int, on_step: Any = mark) -> None:
        sampler = "euler" if spec.backend == "maisi" else "dpmpp-2m"
        backend.sample(condition, plan, sampler=sampler, steps=steps, seed=SEED, on_step=on_step)

    work(1)  # the drawing's features are kept from here on: not in what follows
    evaluations, decodes = [], []
    for _ in range(min(3, setting.repeats)):
        marks.clear()
        mark()
        work(1 + setting.steps)
        mark()
        evaluations += [b - a for a, b in zip(marks[1:-2], marks[2:-1])]
        decodes.append(marks[-1] - marks[-2])
    one, two = counted(lambda: work(1, lambda *_: None)), counted(lambda: work(2, lambda *_: None))
    denoise = tuple(b - a for a, b in zip(one, two))
    decode = tuple(a - b for a, b in zip(one, denoise))
    best = ceilings(setting.device, setting.precision)
    stages = {}
    for name, seconds, (flop, moved) in (
        ("evaluation", statistics.median(evaluations), denoise),
        ("decode", statistics.median(decodes), decode),
    ):
        least = {"arithmetic_s": flop / best["flop_per_s"], "bytes_s": moved / best["bytes_per_s"]}
        stages[name] = {"seconds": seconds, "flop": flop, "bytes": moved, **least}
        stages[name]["times_the_floor"] = seconds / max(least.values())
    return {"ceilings": best, "stages": stages}
