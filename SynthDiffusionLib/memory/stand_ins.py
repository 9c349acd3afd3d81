"""What stands for the parts of PyTorch that ask the real device, when a computation is followed on one that is not
there.

The fused kernel of attention is chosen by the device; Python's indexing asks for its guard, which a PyTorch without
CUDA does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_GET, _SET = torch.Tensor.__getitem__, torch.Tensor.__setitem__


class StandIns(TorchFunctionMode):
    """Takes the place of attention and of indexing while it is entered.

    Args:
        fused: attention never holds its score matrix; else it does, in fp32.
    """

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self._fused = fused

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args)) | (kwargs or {})
            return self._attention(given["query"], given["key"], given["value"])
        if func is F.interpolate and args[0].device.type != "cpu":
            return _resized(*args, **(kwargs or {}))
        if func is _GET and args[0].device.type != "cpu" and (view := _indexed(*args)) is not None:
            return view
        if func is torch.Tensor.contiguous:
            form = (kwargs or {}).get("memory_format", torch.contiguous_format)
            tensor = args[0]
            return tensor if tensor.is_contiguous(memory_format=form) else tensor.clone(memory_format=form)
        if func is torch.Tensor.copy_:
            return torch.ops.aten.copy_.default(*args[:2])
        if func is _SET and args[0].device.type != "cpu" and (view := _indexed(*args[:2])) is not None:
            value = args[2]
            torch.ops.aten.copy_.default(view, value) if isinstance(value, torch.Tensor) else view.fill_(value)
            return None
        return func(*args, **(kwargs or {}))

    def _attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(kind := query.device.type):
            query, key, value = (t.to(torch.get_autocast_dtype(kind)) for t in (query, key, value))
        if self._fused:
            sums = query.new_empty(query.shape[:-1], dtype=torch.float32)  # of every row, beside the result
            result = query.new_empty((*query.shape[:-1], value.shape[-1]))
            del sums
            return result
        query, key = (t.float() * t.shape[-1] ** -0.25 for t in (query, key))
        weights = torch.softmax(query @ key.transpose(-2, -1), dim=-1)
        return (weights @ value.float()).to(value.dtype)


def _resized(
    tensor: torch.Tensor,
    size: Any = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> torch.Tensor:
    """What interpolation makes in one kernel, which PyTorch's fake tensors take apart."""
    sides = tensor.shape[2:]
    if size is None:
        factors = (scale_factor,) * len(sides) if isinstance(scale_factor, (int, float)) else scale_factor
        size = [int(n * factor) for n, factor in zip(sides, factors)]
    elif isinstance(size, int):
        size = [size] * len(sides)
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim(), torch.contiguous_format)
    form = last if tensor.is_contiguous(memory_format=last) else torch.contiguous_format
    return torch.empty((*tensor.shape[:2], *size), dtype=tensor.dtype, device=tensor.device, memory_format=form)


def _indexed(tensor: torch.Tensor, index: Any) -> torch.Tensor | None:
    """The view that basic indexing gives; None where an index is a tensor or a list."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts):
        return None
    rest = tensor.dim() - sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * rest
    dim = 0
    for part in parts:
        if part is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(part, slice):
            if part != slice(None):
                start, stop, step = part.indices(tensor.shape[dim])
                tensor = torch.ops.aten.slice.Tensor(tensor, dim, start, max(start, stop), step)
        else:
            tensor = tensor.select(dim, part)
            continue
        dim += 1
    return tensor
