"""Device, precision and memory limit of a job, resolved once and recorded with the result."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.memory.execution import DEFAULT_EXECUTION, Execution
from SynthDiffusionLib.memory.fit import check_fits, choose_device, choose_precision


@dataclass(frozen=True)
class Plan:
    """How a job is computed; part of the provenance, so that a re-run can pin it.

    Args:
        device: "cpu" or "cuda:N".
        precision: "fp32", "bf16" or "fp16" (the last two by autocast, weights in fp32).
        strategy: the last resort among the ways of `execution`; "whole": everything is computed at once.
        limit_bytes: memory that must not be passed; None on the CPU unless the user set one.
        predicted_bytes: predicted peak of the denoiser, from the package's measured bytes per voxel.
        threads: CPU threads that torch uses.
        grid: (I, J, K) that the network works on.
        execution: how each stage is computed.
    """

    device: str
    precision: str
    strategy: str
    limit_bytes: int | None
    predicted_bytes: int
    threads: int
    grid: tuple[int, int, int]
    execution: Execution = DEFAULT_EXECUTION

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"execution": self.execution.to_json()}


def parse_bytes(text: str) -> int:
    """ "24GiB", "8 GB", "512MiB" or a plain number of bytes.

    Raises:
        BadInput: not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?i?B?)\s*", text, re.IGNORECASE)
    units = {"": 1, "b": 1}
    for power, letter in enumerate("kmgt", start=1):
        units |= {letter: 1024**power, f"{letter}ib": 1024**power, f"{letter}b": 1000**power, f"{letter}i": 1024**power}
    if not match or match.group(2).lower() not in units:
        raise BadInput(f"'{text}' is not a size of memory", "Write it like 24GiB or 8000MB.")
    if not match.group(2) and float(match.group(1)) < 1024:
        raise BadInput(
            f"A size of memory of {text.strip()} bytes is too little",
            f"Give a unit, such as {text.strip()}GiB or 24GiB.",
        )
    size = float(match.group(1)) * units[match.group(2).lower()]
    if not 1 <= size < 2**63:
        raise BadInput(f"'{text}' is no possible size of memory", "Write it like 24GiB or 8000MB.")
    return int(size)


def resolve_device(name: str) -> str:
    """ "auto" to the device that is there; anything else is checked.

    Raises:
        BadInput: an unknown or absent device; Apple's mps, which has not been tested.
    """
    import torch

    return choose_device(name, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def resolve_precision(name: str, device: str) -> str:
    """ "auto" is bf16 where the device computes with it (on a GPU without it fp16, on a CPU without it fp32); on such a
    GPU fp16 also takes the place of bf16 where that was asked for.

    On a CPU with the instructions for bf16 it takes less than half the time of fp32; without them, more.

    Raises:
        BadInput: fp16 on the CPU.
    """
    if device == "cpu":
        best = "bf16" if _cpu_computes_bf16() else "fp32"
    else:
        best = "bf16" if _gpu_computes_bf16(device) else "fp16"
    return choose_precision(name, device, best)


def _gpu_computes_bf16(device: str) -> bool:
    """Whether a GPU computes in bf16; one that only emulates it, several times slower, does not."""
    import torch

    with torch.cuda.device(device):  # PyTorch asks the current one
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_computes_bf16() -> bool:
    """Whether the CPU has instructions for bf16; an older torch cannot say."""
    import torch

    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_plan(
    *,
    device: str,
    precision: str,
    vram_limit: int | None,
    grid: tuple[int, int, int],
    bytes_per_voxel: float,
    weight_bytes: int,
    smallest_side: int = 8,
    execution: Execution = DEFAULT_EXECUTION,
) -> Plan:
    """Settles where and how a grid is computed.

    Args:
        precision: "fp32", "bf16", "fp16" or "auto"; bf16 becomes fp16 on a GPU that does not compute in it.
        bytes_per_voxel: peak working memory of the denoiser in fp32 per voxel of its grid, as measured for the package.
        weight_bytes: of the denoiser in fp32.
        smallest_side: of a grid; smaller ones are padded to it.
        execution: how the stages are to be computed. The prediction is that of computing everything at once.

    Raises:
        OutOfMemory: the prediction passes the limit; the message names the largest cube that fits.
    """
    import psutil
    import torch

    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    free = psutil.virtual_memory().available if device == "cpu" else torch.cuda.mem_get_info(device)[0]
    fit = check_fits(
        device=device,
        precision=precision,
        vram_limit=vram_limit,
        free_bytes=free,
        grid=grid,
        bytes_per_voxel=bytes_per_voxel,
        weight_bytes=weight_bytes,
        smallest_side=smallest_side,
    )
    threads, summary = torch.get_num_threads(), execution.summary
    return Plan(device, precision, summary, fit.limit_bytes, fit.predicted_bytes, threads, grid, execution)
