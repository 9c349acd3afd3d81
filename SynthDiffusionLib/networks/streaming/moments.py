"""Mean and variance of maps that are seen slab by slab, and the group normalisation that follows from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

VALUES_IN_FP32 = 2**23  # at least a row: what there is a copy of in fp32 on a GPU
VALUES_AT_A_TIME = 2**18  # that a CPU takes differences of: they stay in its cache


class Affine(NamedTuple):
    """(x - mean) * scale + offset, per channel: (1, C, 1, 1, 1) fp32 each."""

    mean: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor


class Moments:
    """Mean and sum of squared differences from it, per channel, of all rows so far.

    Each slab's own are computed first and joined with the earlier ones (Chan, Golub, LeVeque, The American Statistician
    37(3), 1983), so that nothing cancels where the mean is large beside the deviation. Joined in fp64, where there is.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: torch.Tensor | None = None
        self.squares: torch.Tensor | None = None

    def update(self, rows: torch.Tensor) -> None:
        """
        Args:
            rows: (1, C, d, H, W).
        """
        step = max(1, VALUES_IN_FP32 * rows.shape[2] // rows.numel())
        for piece in rows.split(step, dim=2):
            self._join(piece)

    def _join(self, rows: torch.Tensor) -> None:
        count = rows.numel() // rows.shape[1]
        mean, squares = _of_slab(rows)
        exact = torch.float32 if rows.device.type == "mps" else torch.float64
        mean, squares = mean.to(exact), squares.to(exact)
        if self.mean is None:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        difference = mean - self.mean
        self.squares = self.squares + squares + difference**2 * (self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.count = total

    def affine(self, norm: nn.GroupNorm) -> Affine:
        """What a group normalisation does to this map.

        Args:
            norm: its groups, eps, weight and bias (none: 1 and 0).
        """
        mean = self.mean.unflatten(0, (norm.num_groups, -1))
        squares = self.squares.unflatten(0, (norm.num_groups, -1))
        of_group = mean.mean(1, keepdim=True)
        variance = (squares / self.count + (mean - of_group) ** 2).mean(1, keepdim=True)
        scale = (variance + norm.eps).rsqrt().expand_as(mean).flatten()
        offset = torch.zeros_like(scale)
        if norm.weight is not None:
            scale, offset = scale * norm.weight.detach().to(scale), norm.bias.detach().to(scale)
        return Affine(*(t.float().view(1, -1, 1, 1, 1) for t in (of_group.expand_as(mean).flatten(), scale, offset)))


def _of_slab(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if rows.device.type != "cpu":
        variance, mean = torch.var_mean(rows.float(), (0, 2, 3, 4), correction=0)
        return mean, variance * (rows.numel() // rows.shape[1])
    # The CPU's var_mean takes ten times as long as sums do.
    values = rows[0].permute(1, 2, 3, 0).flatten(0, 2)
    mean = values.mean(0, dtype=torch.float32)
    step = max(1, VALUES_AT_A_TIME // rows.shape[1])
    squares = torch.zeros_like(mean, dtype=torch.float64)
    scratch = torch.empty((min(step, len(values)), rows.shape[1]), dtype=torch.float32)
    for start in range(0, len(values), step):
        piece = values[start : start + step]
        differences = torch.sub(piece, mean, out=scratch[: len(piece)])
        squares += differences.square_().sum(0)
    return mean, squares
