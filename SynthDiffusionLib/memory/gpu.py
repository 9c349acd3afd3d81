"""What a GPU is asked about memory: free bytes, the context of this process, whether the card drives a desktop.

NVIDIA's driver counts by process what PyTorch's allocator does not see: the CUDA context, kernels, and what libraries
take for themselves. It is asked through its own library, NVML, which comes with the driver (`nvmlInit_v2`,
`nvmlDeviceGetHandleByPciBusId_v2`, `nvmlDeviceGetComputeRunningProcesses_v3`, `nvmlDeviceGetDisplayActive` of NVML's
API reference). Where it cannot say, as on Windows with a desktop's driver or in a container that hides process
numbers, a usual size of the context is assumed.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.memory.devices import Budget, budget_for

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARIES = ("nvml.dll",) if sys.platform == "win32" else ("libnvidia-ml.so.1",)
MOST_PROCESSES = 256
# What the libraries of PyTorch take when they are first used, after the context has been measured. Assumed.
LATER_BYTES = 300 * 2**20
NOT_AVAILABLE = 2**64 - 1  # NVML's answer where the driver does not count by process


class _Process(ctypes.Structure):
    """`nvmlProcessInfo_t`"""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


def measured_budget(device: str, vram_limit: int | None, host_bytes: int | None) -> Budget:
    """What a run may take on a GPU; begins PyTorch's context there.

    Args:
        device: "cuda:N".
        vram_limit: bytes of the whole process; None: 24 GiB.
        host_bytes: free host memory.

    Raises:
        BadInput: the GPU does not answer.
    """
    import torch

    try:
        torch.zeros(1, device=device)  # begins the context, without which nothing is measured
        reserved = torch.cuda.memory_reserved(device)
        free = torch.cuda.mem_get_info(device)[0] + reserved
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"The GPU {device} cannot be used: {reason}", "Choose another --device.") from error
    bus = pci_bus_id(device)
    used = process_bytes(bus)
    context = None if used is None else max(0, used - reserved) + LATER_BYTES
    # An integrated GPU's memory is the host's: what one takes the other has not.
    if torch.cuda.get_device_properties(device).is_integrated and host_bytes is not None:
        free = min(free, host_bytes)
    return budget_for(
        device, vram_limit, free, host_bytes=host_bytes, context_bytes=context, drives_display=drives_display(bus)
    )


def cap_allocator(device: str, cap_bytes: int) -> None:
    """Keeps PyTorch's allocator below a number of bytes on a device: beyond it, it says that memory has run out.

    Args:
        device: "cuda:N".
        cap_bytes: as of `Budget.allocator_cap`.
    """
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap_bytes / total), device)


def release() -> None:
    """Gives back what PyTorch keeps of a GPU's memory without a tensor in it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def pci_bus_id(device: str) -> str:
    """Where a GPU is, by which driver and PyTorch know the same one; they may number GPUs differently.

    Args:
        device: "cuda:N".
    """
    import torch

    found = torch.cuda.get_device_properties(device)
    return f"{found.pci_domain_id:08x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"


def process_bytes(bus_id: str, pid: int | None = None) -> int | None:
    """Memory of a process on a GPU as its driver counts it; None where that cannot be known.

    Args:
        bus_id: as of `pci_bus_id`.
        pid: of the process; this one when None.
    """
    pid = os.getpid() if pid is None else pid

    def ask(nvml: Any, handle: ctypes.c_void_p) -> int | None:
        processes, count = (_Process * MOST_PROCESSES)(), ctypes.c_uint(MOST_PROCESSES)
        if nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), processes):
            return None
        used = [p.used for p in processes[: count.value] if p.pid == pid and p.used != NOT_AVAILABLE]
        return used[0] if used else None

    return _asked(bus_id, ask)


def drives_display(bus_id: str) -> bool:
    """Whether a desktop is drawn by a GPU, as far as its driver says.

    Args:
        bus_id: as of `pci_bus_id`.
    """

    def ask(nvml: Any, handle: ctypes.c_void_p) -> bool:
        active = ctypes.c_uint(0)
        return not nvml.nvmlDeviceGetDisplayActive(handle, ctypes.byref(active)) and bool(active.value)

    return bool(_asked(bus_id, ask))


def _asked(bus_id: str, ask: Callable[[Any, ctypes.c_void_p], Any]) -> Any:
    """An answer of NVML, None where there is none."""
    nvml, handle = _nvml(), ctypes.c_void_p()
    if nvml is None:
        return None
    try:
        if nvml.nvmlDeviceGetHandleByPciBusId_v2(bus_id.encode(), ctypes.byref(handle)):
            return None
        return ask(nvml, handle)
    except AttributeError:  # a driver that is older than the function
        return None


@lru_cache(maxsize=1)
def _nvml() -> Any:
    """The library, begun; None where there is none."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if not library.nvmlInit_v2():
            return library
    return None
