"""What the tensors of a computation take at most, followed with PyTorch's fake tensors: nothing is computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode


class _Watch(TorchDispatchMode):
    """Adds up the storages that operations make while they live. Views make none."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            if tensor.untyped_storage()._cdata not in given:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
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


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def peak_bytes(build: Callable[[], tuple[Callable[..., Any], list[torch.Tensor]]]) -> int:
    """Bytes of live tensors at the peak of a call, its inputs and its result among them, weights not.

    Args:
        build: makes what is called, such as a network, and its inputs; nothing of it takes memory.
    """
    with FakeTensorMode(), torch.no_grad():
        function, inputs = build()
        held = sum(t.untyped_storage().nbytes() for t in inputs)
        with _Watch() as watch:
            function(*inputs)
    return held + watch.peak
