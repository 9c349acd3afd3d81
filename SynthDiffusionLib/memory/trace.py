"""The most memory that a computation takes, followed tensor by tensor: its shapes are computed, its values are not.

A computation runs once on PyTorch's fake tensors, which know shape, type and device and hold no values. Each storage
counts from the operation that makes it until nothing refers to it any more; views share the storage of what they look
at. Fake tensors can be on a GPU that is not there: autocast then follows the rules of CUDA, and what is moved to host
memory counts there. On top of the live tensors come, while an operation runs, the workspaces of its kernel
(`SynthDiffusionLib.memory.allowance`). Testing/Engine/test_memory_trace.py compares this with real processes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from SynthDiffusionLib.memory.stand_ins import StandIns

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
ATTENTION = ("flash", "math")

# Bytes that a kernel takes beside its inputs and its result: of an operation, from its arguments and its result.
Workspace = Callable[[Any, Sequence[Any], Any], int]


@dataclass(frozen=True)
class Peak:
    """What a computation takes at most.

    Args:
        live_bytes: of tensors on the device at once, weights among them.
        device_bytes: the same with the workspaces of the kernels.
        host_bytes: of tensors in host memory at once, where the device is a GPU; 0 on the CPU, whose memory the
            device's is.
        operation: at which `device_bytes` is reached.
        largest_call: elements of the largest input or result of a convolution; from 2^31 on, PyTorch leaves cuDNN
            (pytorch issue 95024) and the prediction does not hold.
    """

    live_bytes: int
    device_bytes: int
    host_bytes: int
    operation: str
    largest_call: int


class Tracer:
    """Makes the tensors and networks of a computation that `trace` follows.

    Args:
        device: of the tensors, "cpu" or "cuda:0".
        dtype: of autocast; None: none.
    """

    def __init__(self, device: str, dtype: torch.dtype | None) -> None:
        self.device, self.dtype = device, dtype

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A tensor on the device, which counts while it lives."""
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def network(self, network: nn.Module) -> nn.Module:
        """A network in evaluation mode with its weights on the device; they count to the end.

        Args:
            network: anywhere, such as on PyTorch's meta device, where building takes no memory; its weights are taken
                out, and others of their shapes put in their place.
        """
        network.eval()
        for module in network.modules():
            for name, old in module._parameters.items():
                if old is not None:
                    # Without a gradient: a GPU that is not there has no stream for one.
                    fresh = torch.empty(old.shape, dtype=old.dtype, device=self.device)
                    module._parameters[name] = nn.Parameter(fresh, requires_grad=False)
            for name, old in module._buffers.items():
                if old is not None:
                    module._buffers[name] = torch.empty(old.shape, dtype=old.dtype, device=self.device)
        return network

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Autocast of the precision, by the rules of the device; with fp32, nothing.

        `torch.autocast` refuses a GPU that is not there. The copy of a weight in 16 bits lives as long as the
        operation that takes it: in inference mode, in which all backends compute, autocast keeps none.
        """
        kind = self.device.split(":")[0]
        if self.dtype is None:
            yield
            return
        before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        torch.set_autocast_enabled(kind, True)
        torch.set_autocast_dtype(kind, self.dtype)
        try:
            yield
        finally:
            torch.set_autocast_enabled(kind, before[0])
            torch.set_autocast_dtype(kind, before[1])


def trace(
    run: Callable[[Tracer], object],
    *,
    device: str = "cuda:0",
    precision: str = "fp32",
    attention: str = "flash",
    workspace: Workspace | None = None,
) -> Peak:
    """Follows a computation without computing it.

    Args:
        run: makes its tensors and networks with the tracer that it is given, and computes. It must not look at values.
        device: "cpu" or "cuda:0", which need not be there.
        precision: of `Tracer.autocast`: "fp32", "bf16" or "fp16".
        attention: what `scaled_dot_product_attention` is: "flash" never holds the score matrix, as the fused kernels of
            PyTorch do, "math" does, in fp32.
        workspace: of kernels; None: none.

    Raises:
        ValueError: an unknown attention.
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention is one of {ATTENTION}, not {attention!r}")
    counter = _Counter(device, workspace)
    with FakeTensorMode(), torch.no_grad(), StandIns(attention == "flash"), counter:
        run(Tracer(device, HALF.get(precision)))
    return Peak(
        counter.live_peak[counter.kind],
        counter.peak,
        counter.live_peak["cpu"] if counter.kind != "cpu" else 0,
        counter.operation,
        counter.largest_call,
    )


class _Counter(TorchDispatchMode):
    """Adds up storages while they live, by the kind of device."""

    def __init__(self, device: str, workspace: Workspace | None) -> None:
        super().__init__()
        self.kind = device.split(":")[0]
        self.live, self.live_peak = {"cpu": 0, self.kind: 0}, {"cpu": 0, self.kind: 0}
        self.peak, self.operation, self.largest_call = 0, "", 0
        self._workspace = workspace
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._add(tensor)
        name = func._schema.name.removeprefix("aten::")
        if name in ("convolution", "convolution_overrideable"):
            self.largest_call = max(self.largest_call, args[0].numel(), result.numel())
        extra = self._workspace(func, args, result) if self._workspace else 0
        if (now := self.live[self.kind] + extra) > self.peak:
            self.peak, self.operation = now, name
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size, kind = storage._cdata, storage.nbytes(), tensor.device.type
        if key in self._known or kind not in self.live:
            return
        self._known.add(key)
        self.live[kind] += size
        self.live_peak[kind] = max(self.live_peak[kind], self.live[kind])

        def gone() -> None:
            self._known.discard(key)
            self.live[kind] -= size

        weakref.finalize(storage, gone).atexit = False


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [tree] if isinstance(tree, torch.Tensor) else [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]
