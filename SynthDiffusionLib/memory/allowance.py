"""What a device takes beside live tensors: workspaces of its kernels, and constants. Nothing here loads torch.

Convolutions dominate. Kernels of cuDNN and oneDNN want the channels innermost, or in blocks; feature maps that are laid
out otherwise are copied for the time of the call.

CUDA: the input, the result and the weights exist twice during a convolution (NCDHW beside NDHWC). That is reasoned, not
measured kernel by kernel. The one GPU figure that the project has (medlord-x4 at 512 x 512 x 256 in bf16, peaks of
PyTorch's allocator on an H100: 4.8 GiB denoising, 11.4 GiB decoding; Docs/performance.md) agrees with it: without
the copies, live tensors are 7.1 GiB while decoding, with them 11.1. `SLACK["cuda"]` then lies on top. One figure of one
GPU is a calibration, not a proof.

CPU: oneDNN, as measured operation by operation on x86 with AVX-512 (PyTorch 2.13, by peak resident memory): see
`_onednn`. Other processors take other kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

MIB = 1024**2
BLOCK = 16  # channels that oneDNN rounds up to, with AVX-512

# Share by which an allocator takes more than it gives: on a GPU PyTorch rounds and fragments; on a CPU the C library
# does.
SLACK = {"cuda": 1.05, "cpu": 1.1}
# Bytes of the device beside what scales: workspaces of cuBLAS (32 MiB a handle on Hopper) and small tensors; on a CPU,
# what oneDNN keeps of its kernels and what is compiled for a shape (up to 60 MiB, Testing/Benchmarks/memory_trace.py).
FIXED = {"cuda": 64 * MIB, "cpu": 68 * MIB}


def peak_with_allowance(device_bytes: int, device: str) -> int:
    """Peak of the device's allocator (of the process's own growth, on a CPU) from what `memory.trace` has followed.

    Args:
        device_bytes: `Peak.device_bytes`, traced with `workspace_of(device)`.
        device: "cpu" or "cuda".
    """
    kind = device.split(":")[0]
    return int(device_bytes * SLACK[kind]) + FIXED[kind]


def workspace_of(device: str) -> Callable[[Any, Sequence[Any], Any], int]:
    """Bytes that kernels of a device take beside input and result, for `memory.trace`.

    Args:
        device: "cpu" or "cuda".
    """
    convolution = _onednn if device.split(":")[0] == "cpu" else _cudnn

    def workspace(func: Any, arguments: Sequence[Any], result: Any) -> int:
        if func._schema.name != "aten::convolution":
            return 0
        x, weight = arguments[:2]
        if _channels_last(x):
            return 0
        return convolution(x, weight, result, bool(arguments[6]))

    return workspace


def _cudnn(x: Any, weight: Any, result: Any, transposed: bool) -> int:
    return _bytes(x) + _bytes(result) + _bytes(weight)


def _onednn(x: Any, weight: Any, result: Any, transposed: bool) -> int:
    """Input and result are copied to blocks of channels and back.

    While the convolution runs, its input exists twice and its result in blocks; afterwards the result exists twice. A
    transposed one holds its result three times. In fp32, kernels of one voxel work on what they are given. Few input
    channels that are no multiple of 4 are unrolled.
    """
    before, after, weights = _bytes(x), _bytes(result), _bytes(weight)
    if transposed:
        return max(before + after, 2 * after) + weights
    if x.element_size() == 4 and all(n == 1 for n in weight.shape[2:]):
        return weights
    channels = x.shape[1]
    blocked = after // result.shape[1] * (-(-result.shape[1] // BLOCK) * BLOCK)
    if channels < 8 and channels % 4 and channels > 1:
        return 2 * blocked + weights
    # A narrow input is not copied; a wide one is, and is gone when the result is copied back.
    copied = before if channels >= BLOCK else 0
    return max(copied + blocked - after, blocked) + weights


def _channels_last(x: Any) -> bool:
    """Whether the channels lie innermost; a map of one channel lies either way, and is taken to be copied."""
    return x.shape[1] > 1 and x.dim() in (4, 5) and x.stride(1) == 1 and x.numel() > x.shape[1]


def _bytes(tensor: Any) -> int:
    return tensor.numel() * tensor.element_size()
