"""Whether a grid fits: the arithmetic that a run and its preflight share. Nothing here loads torch or asks a device."""

from __future__ import annotations

import re
from dataclasses import dataclass

from SynthDiffusionLib.errors import BadInput, OutOfMemory

GIB = 1024**3
DEFAULT_LIMIT = 24 * GIB
LOWER_PRECISION = 0.6  # working memory of bf16 and fp16 by autocast, as a share of that of fp32
# Resident memory of a process that has loaded PyTorch, MONAI, diffusers and a small model, before it denoises: 470 MiB
# with PyTorch 2.13 on Linux (Testing/Engine/test_jobs_memory.py compares the prediction with a real process).
PROCESS_BYTES = 480 * 1024**2


@dataclass(frozen=True)
class Fit:
    """What a grid takes, and what it may take.

    Args:
        predicted_bytes: predicted peak: of the whole process on the CPU, of what is on a GPU there.
        limit_bytes: memory that must not be passed; None on the CPU unless the user has set one.
    """

    predicted_bytes: int
    limit_bytes: int | None


def choose_device(name: str, gpus: int) -> str:
    """ "auto" to the device that is there; anything else is checked.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:N".
        gpus: how many CUDA GPUs there are.

    Returns:
        "cpu" or "cuda:N".

    Raises:
        BadInput: an unknown or absent device; Apple's mps, which has not been tested.
    """
    name = name.lower()
    if name == "auto":
        return "cuda:0" if gpus else "cpu"
    if name == "cpu":
        return "cpu"
    if name.startswith("mps"):
        raise BadInput("Apple's mps device is not supported", "Use --device cpu.")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if not match:
        raise BadInput(f"Unknown device '{name}'", "Choose auto, cpu, cuda or cuda:N.")
    if not gpus:
        raise BadInput(f"The device '{name}' is not available", "PyTorch sees no CUDA GPU here; use --device cpu.")
    index = int(match.group(1) or 0)
    if index >= gpus:
        raise BadInput(f"There is no GPU number {index}", f"This machine has {gpus}; they count from 0.")
    return f"cuda:{index}"


def choose_precision(name: str, device: str, best: str) -> str:
    """ "auto" to the best precision of the device; anything else is checked.

    Args:
        name: "auto", "fp32", "bf16" or "fp16".
        device: "cpu" or "cuda:N".
        best: what "auto" stands for there; fp16 says of a GPU that it has no bf16, and replaces it.

    Raises:
        BadInput: fp16 on the CPU.
    """
    if name == "fp16" and device == "cpu":
        raise BadInput("The CPU has no fp16 kernels for this model", "Use --precision fp32 or bf16.")
    without_bf16 = device != "cpu" and best == "fp16"
    return best if name == "auto" or (name == "bf16" and without_bf16) else name


def check_fits(
    *,
    device: str,
    precision: str,
    vram_limit: int | None,
    free_bytes: int,
    grid: tuple[int, int, int],
    bytes_per_voxel: float,
    weight_bytes: int,
    smallest_side: int = 8,
) -> Fit:
    """Predicts what a grid takes and compares it with what there is.

    On the CPU the whole process counts, on a GPU what is on it.

    Args:
        device: "cpu" or "cuda:N".
        precision: "fp32", "bf16" or "fp16".
        vram_limit: what the user has set, in bytes.
        free_bytes: of the device's memory.
        grid: (I, J, K) that the network works on.
        bytes_per_voxel: peak working memory of the denoiser in fp32 per voxel of its grid, as measured for the package.
        weight_bytes: of the denoiser in fp32.
        smallest_side: of a grid; smaller ones are padded to it.

    Raises:
        OutOfMemory: the prediction passes the limit; the message names the largest cube that fits.
    """
    per_voxel = bytes_per_voxel * (1.0 if precision == "fp32" else LOWER_PRECISION)
    fixed = weight_bytes + (PROCESS_BYTES if device == "cpu" else 0)
    predicted = int(fixed + per_voxel * grid[0] * grid[1] * grid[2])
    limit = vram_limit if device == "cpu" else min(vram_limit or DEFAULT_LIMIT, free_bytes)
    ceiling = min(limit or free_bytes, free_bytes)
    if predicted > ceiling:
        side = int(max(0.0, (ceiling - fixed) / per_voxel) ** (1 / 3)) // 8 * 8
        mend = "raise --vram-limit" if ceiling < free_bytes else "close other programs"
        raise OutOfMemory(
            f"A grid of {'x'.join(map(str, grid))} needs about {predicted / GIB:.2f} GiB, "
            f"but {ceiling / GIB:.2f} GiB may be used",
            f"The largest cube that fits is {side} voxels a side: make the segmentation or region smaller, or {mend}."
            if side >= smallest_side
            else f"Not even the smallest grid, {smallest_side} voxels a side, fits: {mend}.",
        )
    return Fit(predicted, limit)
