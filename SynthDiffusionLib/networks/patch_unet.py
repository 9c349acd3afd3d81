"""The U-Net of the patch-wise DDPM.

Follows the design of PatchDDM (Bieder et al., arXiv:2303.15288): fully convolutional, no attention, and skip
connections that are averaged with the decoder's features instead of concatenated, which keeps the widest feature maps,
those at full resolution, narrow. The residual blocks are MONAI's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, get_timestep_embedding
from torch import nn


class PatchUNet(nn.Module):
    """Fully convolutional denoiser with averaged skip connections.

    Args:
        in_channels: noisy image, coordinates, condition and known-image channels together.
        out_channels: channels of the prediction.
        channels: features per resolution level; each level halves the resolution of the one before.
        blocks_per_level: residual blocks per level on the way down, and again on the way up.
        norm_groups: groups of the group normalisation; must divide every entry of `channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        channels: Sequence[int] = (32, 64, 96, 128),
        blocks_per_level: int = 1,
        norm_groups: int = 8,
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        width = 4 * self.channels[0]

        def block(n: int) -> DiffusionUNetResnetBlock:
            return DiffusionUNetResnetBlock(3, n, width, n, norm_num_groups=norm_groups)

        def level(n: int) -> nn.ModuleList:
            return nn.ModuleList([block(n) for _ in range(blocks_per_level)])

        self.time_embedding = nn.Sequential(nn.Linear(self.channels[0], width), nn.SiLU(), nn.Linear(width, width))
        self.stem = nn.Conv3d(in_channels, self.channels[0], 3, padding=1)
        self.encoder = nn.ModuleList([level(n) for n in self.channels])
        self.widen = nn.ModuleList([nn.Conv3d(a, b, 1) for a, b in zip(self.channels, self.channels[1:])])
        self.middle = block(self.channels[-1])
        self.narrow = nn.ModuleList([nn.Conv3d(b, a, 1) for a, b in zip(self.channels, self.channels[1:])])
        self.decoder = nn.ModuleList([level(n) for n in self.channels])
        self.head = nn.Sequential(
            nn.GroupNorm(norm_groups, self.channels[0]),
            nn.SiLU(),
            nn.Conv3d(self.channels[0], out_channels, 3, padding=1),
        )
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    @property
    def divisor(self) -> int:
        """Every side of the input must be a multiple of this."""
        return 2 ** (len(self.channels) - 1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (B, in_channels, D, H, W), sides multiples of `divisor`.
            timesteps: (B,) diffusion time steps.

        Returns:
            (B, out_channels, D, H, W)
        """
        emb = self.time_embedding(get_timestep_embedding(timesteps, self.channels[0]).to(x.dtype))
        h = self.stem(x)
        skips = []
        for depth, blocks in enumerate(self.encoder):
            if depth:
                h = self.widen[depth - 1](F.avg_pool3d(h, 2))
            for block in blocks:
                h = block(h, emb)
            skips.append(h)
        h = self.middle(h, emb)
        for depth in reversed(range(len(self.channels))):
            if depth < len(self.channels) - 1:
                h = F.interpolate(self.narrow[depth](h), scale_factor=2.0, mode="nearest")
            h = (h + skips[depth]) / 2
            for block in self.decoder[depth]:
                h = block(h, emb)
        return self.head(h)
