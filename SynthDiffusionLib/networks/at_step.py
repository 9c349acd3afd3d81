"""A denoiser as a function of the noisy image alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


class AtStep(nn.Module):
    """A denoiser at one time step, with nothing drawn: what calls networks with one tensor, such as
    `monai.bundle verify_net_in_out`, can call it.

    Args:
        network: takes the noisy image and the time steps.
        timestep: of the diffusion.
        inputs: what else it is told, by the name of its argument: nested lists of numbers, for a batch of one.
        empty_masks: channels of a label volume of zeros that it is told, and voxels of that per voxel of the noisy
            image along each axis; None where it takes none.
    """

    def __init__(
        self,
        network: nn.Module,
        timestep: int,
        inputs: Mapping[str, Any] | None = None,
        empty_masks: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.timestep = timestep
        self.empty_masks = empty_masks
        self.inputs = {name: torch.as_tensor(value) for name, value in (inputs or {}).items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (B, C, D, H, W), the noisy image or latent.

        Returns:
            (B, C', D, H, W), what the denoiser predicts.
        """
        inputs = {name: t.to(x.device).expand(len(x), *t.shape[1:]) for name, t in self.inputs.items()}
        if self.empty_masks is not None:
            channels, factor = self.empty_masks
            inputs["masks"] = x.new_zeros((len(x), channels, *(factor * side for side in x.shape[2:])))
        return self.network(x, torch.full((len(x),), self.timestep, device=x.device), **inputs)
