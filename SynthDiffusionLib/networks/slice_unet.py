"""The denoiser of the slice-based latent diffusion model (Kebaili et al., arXiv:2406.05421): a U-Net without attention
over the stack of the slices' latents, told nine characteristics of the tumour.

The widths, the missing attention, the normalisation and the way of the characteristics (an MLP whose result is added to
the time embedding) are those of the authors' public code. The U-Net is MONAI's, so that the time embedding has four
times its first width (256 features; in the authors' code 512), and one residual block per level is the default, as a
description of the paper has it (the class of the authors' code has two). The null embedding is an addition of this
project: the authors train none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import nn


class Scaling(Protocol):
    """How characteristics are scaled: (value - offset) / scale."""

    scale: Sequence[float]
    offset: Sequence[float]


class CharacteristicsEmbedding(nn.Module):
    """Features of the characteristics of a tumour, or of none.

    Args:
        characteristics: number of values.
        width: hidden features of the MLP.
        out_features: of the time embedding that the result is added to.
    """

    def __init__(self, characteristics: int, width: int, out_features: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(characteristics, width), nn.SiLU(), nn.Linear(width, out_features))
        self.null = nn.Parameter(torch.zeros(out_features))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """
        Args:
            values: (B, characteristics), scaled; a row of NaN is the null condition.

        Returns:
            (B, out_features)

        Raises:
            ValueError: another number of values, or a row with some of its values NaN.
        """
        expected = self.mlp[0].in_features
        if values.ndim != 2 or values.shape[1] != expected:
            raise ValueError(f"characteristics must be (batch, {expected}), not {list(values.shape)}")
        missing = values.isnan()
        null = missing.all(dim=1, keepdim=True)
        if not values.is_meta and bool((missing & ~null).any()):
            raise ValueError("a row of characteristics is partly NaN: give all of them, or none")
        # Masked before the MLP, too: NaN times a gradient of zero is NaN.
        features = self.mlp(values.masked_fill(null, 0.0))
        return torch.where(null, self.null.to(features.dtype), features)


class SliceUNet(nn.Module):
    """Denoiser for stacks of latents, (B, C, i, j, K) with the slices along K; its convolutions are 3x3x3.

    Args:
        in_channels: channels of the latent.
        out_channels: channels of the prediction.
        channels: features per resolution level; each level halves the resolution along all three axes.
        num_res_blocks: residual blocks per level, one number or one per level.
        norm_num_groups: groups of the normalisation; must divide every entry of `channels`.
        characteristics: number of characteristics.
        characteristics_width: hidden features of their MLP.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        channels: Sequence[int] = (64, 128, 256, 512),
        num_res_blocks: Sequence[int] | int = 1,
        norm_num_groups: int = 32,
        characteristics: int = 9,
        characteristics_width: int = 256,
    ) -> None:
        super().__init__()
        channels = tuple(channels)
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=channels,
            num_res_blocks=num_res_blocks,
            attention_levels=(False,) * len(channels),
            norm_num_groups=norm_num_groups,
            num_head_channels=channels[-1],  # of the middle block's attention, which goes away below
            num_class_embeds=1,
        )
        # MONAI's middle block always has attention; the paper's network has none.
        self.unet.middle_block.attention = nn.Identity()
        # MONAI adds what this module makes of `class_labels` to the time embedding.
        self.unet.class_embedding = CharacteristicsEmbedding(characteristics, characteristics_width, 4 * channels[0])
        self.characteristics = characteristics

    @torch.no_grad()
    def rescale_characteristics(self, before: Scaling, after: Scaling) -> None:
        """Changes the first layer of their MLP so that the network computes from characteristics that are scaled as in
        `after` what it computed from those that were scaled as in `before`."""
        layer = self.unet.class_embedding.mlp[0]
        old_scale, old_offset, scale, offset = (
            torch.tensor(numbers, dtype=torch.float64)
            for numbers in (before.scale, before.offset, after.scale, after.offset)
        )
        weight = layer.weight.double()
        layer.bias.add_((weight @ ((offset - old_offset) / old_scale)).to(layer.bias))
        layer.weight.copy_(weight * (scale / old_scale))

    @property
    def divisor(self) -> int:
        """Every side of the latent must be a multiple of this."""
        return 2 ** (len(self.unet.block_out_channels) - 1)

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, characteristics: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            noisy: (B, in_channels, i, j, K), sides multiples of `divisor`.
            timesteps: (B,) diffusion time steps.
            characteristics: (B, characteristics), scaled; a row of NaN is the null condition, and so is None for
                all of them. Means something only where training has dropped some.

        Returns:
            (B, out_channels, i, j, K)

        Raises:
            ValueError: sides that are no multiples of `divisor`, or characteristics of another shape or partly NaN.
        """
        if any(side % self.divisor for side in noisy.shape[2:]):
            raise ValueError(f"the latent's sides must be multiples of {self.divisor}, not {list(noisy.shape[2:])}")
        if characteristics is None:
            characteristics = noisy.new_full((len(noisy), self.characteristics), float("nan"))
        return self.unet(noisy, timesteps, class_labels=characteristics.to(noisy.dtype))
