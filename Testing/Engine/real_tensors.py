"""The computations that `memory.trace` follows, with real tensors on the CPU; and what lives of them at once."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class RealTensors:
    """Stands for `memory.trace.Tracer`, with tensors that hold values.

    Args:
        precision: "fp32" or "bf16".
    """

    device = "cpu"

    def __init__(self, precision: str) -> None:
        self.dtype = {"bf16": torch.bfloat16}.get(precision)
        self.weight_bytes = 0

    def tensor(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        # Zeros would not be in memory before they are written.
        return torch.full(shape, 1, dtype=dtype or torch.float32)

    def network(self, network: nn.Module) -> nn.Module:
        with torch.inference_mode(False):
            network = network.to_empty(device="cpu").eval()
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.requires_grad_(False)  # as in inference mode, autocast keeps no copies then
                tensor.data.fill_(0.01)
                self.weight_bytes += tensor.numel() * tensor.element_size()
        return network

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            yield


class LiveStorages(TorchDispatchMode):
    """Adds up the bytes of real storages from the operation that makes them until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return result

    def ignore(self, module: nn.Module) -> None:
        """Weights that are there already, of which operations look at views."""
        self._seen.update(t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers()))

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)
