"""Normalisation that a map modulates (SPADE, Park et al., arXiv:1903.07291), on group normalisation.

MONAI's `SPADE` puts an instance normalisation behind the convolutions for scale and offset, which takes the size of a
structure out of them and leaves nothing of an even map; here they are as in the paper. Scale and offset come from one
convolution, and apart from the normalisation: where the map stays the same, they need computing once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class SpadeGroupNorm(nn.Module):
    """Group normalisation without weights of its own, then x (1 + scale) + offset, both of them from a map.

    Args:
        channels: of what is normalised.
        map_channels: of the map.
        hidden: features between the map and its scale and offset.
        groups: of the normalisation; must divide `channels`.
        kernel: of the convolutions, odd along each axis.
    """

    def __init__(self, channels: int, map_channels: int, hidden: int, groups: int, kernel: Sequence[int]) -> None:
        super().__init__()
        kernel = tuple(kernel)
        padding = tuple(n // 2 for n in kernel)
        self.norm = nn.GroupNorm(groups, channels, affine=False)
        self.hidden = nn.Conv3d(map_channels, hidden, kernel, padding=padding)
        self.scale_and_offset = nn.Conv3d(hidden, 2 * channels, kernel, padding=padding)

    def modulation(self, at: torch.Tensor) -> torch.Tensor:
        """Scale and offset of a map.

        Args:
            at: (B, map_channels, I, J, K) at the resolution of what is normalised.

        Returns:
            (B, 2 channels, I, J, K)
        """
        return self.scale_and_offset(F.relu(self.hidden(at)))

    def forward(self, x: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (B, channels, I, J, K).
            modulation: (B, 2 channels, I, J, K), of `modulation`; one in place of B serves all.
        """
        scale, offset = modulation.chunk(2, dim=1)
        return torch.addcmul(offset, group_norm(x, self.norm), 1 + scale)


def group_norm(x: torch.Tensor, norm: nn.GroupNorm) -> torch.Tensor:
    """A group normalisation in fp32 whatever autocast says, of the type of its input.

    On CPUs it is also several times as fast as in bf16 where channels are last.
    """
    weights = (None if p is None else p.float() for p in (norm.weight, norm.bias))
    return F.group_norm(x.float(), norm.num_groups, *weights, norm.eps).to(x.dtype)
