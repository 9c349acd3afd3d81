"""Which device computes, in which precision, and how much of its memory. Nothing here loads torch or asks a device."""

from __future__ import annotations

import re
from dataclasses import dataclass

from SynthDiffusionLib.errors import BadInput

GIB = 1024**3
MIB = 1024**2
DEFAULT_LIMIT = 24 * GIB
# Resident memory of a process that has loaded PyTorch, MONAI and diffusers, the drawing and the weights, before a
# network is evaluated: with PyTorch 2.13 on Linux, what whole processes of the shipped models took beside the traced
# stages (Testing/Engine/test_jobs_memory.py compares predictions with such processes).
PROCESS_BYTES = 546 * MIB
# The same where PyTorch's libraries for GPUs are loaded too. Assumed, not measured.
PROCESS_BYTES_CUDA = 2 * GIB
# The CUDA context with the kernels of PyTorch, cuBLAS and cuDNN, which the driver counts and PyTorch's allocator does
# not. Assumed, from what is usual, where a run cannot measure its own (`memory.gpu`).
CONTEXT_BYTES = 600 * MIB
DESKTOP_BYTES = GIB  # left to the desktop and to Slicer where the card drives one


@dataclass(frozen=True)
class Budget:
    """What a run may take.

    Args:
        device: "cpu" or "cuda:N".
        limit_bytes: of the whole process on the device, as its driver counts; None: no limit was set (CPU).
        free_bytes: of the device, beside what the process has taken already; None: not known.
        host_bytes: free host memory, where the device is a GPU; None: not known.
        context_bytes: of the CUDA context, measured or assumed.
        drives_display: the card draws the desktop too.
        host_is_limit: `host_bytes` is what the user has set, not what is free.
    """

    device: str
    limit_bytes: int | None
    free_bytes: int | None
    host_bytes: int | None = None
    context_bytes: int = CONTEXT_BYTES
    drives_display: bool = False
    host_is_limit: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def reserved(self) -> int:
        """Bytes of the limit that are left to the desktop."""
        return DESKTOP_BYTES if self.on_gpu and self.drives_display else 0

    @property
    def allowed(self) -> int | None:
        """Bytes that the process may take on the device; None: any number."""
        limits = []
        if self.limit_bytes is not None:
            limits.append(max(0, self.limit_bytes - self.reserved))
        if self.free_bytes is not None:
            # On a GPU the context exists already when its free memory is asked for.
            limits.append(self.free_bytes + (self.context_bytes if self.on_gpu else 0))
        return min(limits, default=None)

    @property
    def allocator_cap(self) -> int | None:
        """Bytes that PyTorch's allocator may take on a GPU; None on a CPU."""
        if not self.on_gpu or self.allowed is None:
            return None
        return max(0, self.allowed - self.context_bytes)

    @property
    def mend(self) -> str:
        """What gives more memory."""
        by_limit = self.limit_bytes is not None and self.allowed == max(0, self.limit_bytes - self.reserved)
        return "raise --vram-limit" if by_limit else "close other programs"


def budget_for(
    device: str,
    vram_limit: int | None,
    free_bytes: int | None,
    *,
    host_bytes: int | None = None,
    context_bytes: int | None = None,
    drives_display: bool = False,
) -> Budget:
    """What a run may take; on a GPU 24 GiB where the user has set no limit.

    Args:
        device: "cpu" or "cuda:N".
        vram_limit: what the user has set, in bytes.
        free_bytes: as of `Budget`.
        host_bytes: as of `Budget`.
        context_bytes: measured; None: `CONTEXT_BYTES`.
        drives_display: as of `Budget`.
    """
    limit = vram_limit if device == "cpu" else vram_limit or DEFAULT_LIMIT
    context = CONTEXT_BYTES if context_bytes is None else context_bytes
    return Budget(device, limit, free_bytes, None if device == "cpu" else host_bytes, context, drives_display)


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
        best: what "auto" stands for there; a GPU of "fp16" does not compute in bf16, and gets it in place of that.

    Raises:
        BadInput: fp16 on the CPU.
    """
    if name == "fp16" and device == "cpu":
        raise BadInput("The CPU has no fp16 kernels for this model", "Use --precision fp32 or bf16.")
    without_bf16 = device != "cpu" and best == "fp16"
    return best if name == "auto" or (name == "bf16" and without_bf16) else name
