"""Mends two weaknesses of the slice-based latent diffusion model: slices that do not fit together, and blur.

Kebaili et al. name both themselves, and their follow-up (Computerized Medical Imaging and Graphics 2025) answers with a
module that aggregates latents across slices and one that refines the decoded image. Only those words are known here;
the networks are this project's own design: two small residual networks of three-dimensional convolutions, wider along
the slices. They have no normalisation, so that a voxel depends on its surroundings alone: every size is allowed, and
pieces with enough overlap (`reach`) give what the whole gives. The last layers begin at zero: a fresh refiner changes
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class SliceRefiner(nn.Module):
    """Corrections of a stack of latents before the decoder, and of the image and mask after it.

    Args:
        latent_channels: channels of the latent.
        channels: widths of the two networks: of that for the latents, and of that for image and mask.
        image_channels: image and mask.
        blocks: residual blocks of each network, of two convolutions.
        kernel: sides of the convolutions along I, J and the slices K, all odd.

    Raises:
        ValueError: not two widths, or an even side.
    """

    def __init__(
        self,
        latent_channels: int = 4,
        channels: Sequence[int] = (64, 24),
        image_channels: int = 2,
        blocks: int = 2,
        kernel: Sequence[int] = (3, 3, 5),
    ) -> None:
        super().__init__()
        kernel = tuple(kernel)
        if len(channels) != 2:
            raise ValueError(
                f"channels must be two widths, of the latents' and the image's network, not {len(channels)}"
            )
        if len(kernel) != 3 or any(side % 2 == 0 for side in kernel):
            raise ValueError(f"kernel must be three odd sides, not {list(kernel)}")
        self.latents = _Residual(latent_channels, channels[0], blocks, kernel)
        self.images = _Residual(image_channels, channels[1], blocks, kernel)
        self.reach = tuple((2 + 2 * blocks) * (side // 2) for side in kernel)

    def aggregate(self, z: torch.Tensor) -> torch.Tensor:
        """Latents that know their neighbours.

        Args:
            z: (B, latent_channels, i, j, K) as the decoder takes them: not multiplied by a scale factor.

        Returns:
            of the same shape
        """
        return self.latents(z)

    def refine(self, x: torch.Tensor) -> torch.Tensor:
        """Image and mask, mended together.

        Args:
            x: (B, image_channels, I, J, K) as decoded.

        Returns:
            of the same shape; not clipped
        """
        return self.images(x)


class _Residual(nn.Module):
    """x plus a correction that begins at zero."""

    def __init__(self, n: int, width: int, blocks: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()

        def convolution(a: int, b: int) -> nn.Conv3d:
            return nn.Conv3d(a, b, kernel, padding=tuple(side // 2 for side in kernel))

        self.stem = convolution(n, width)
        self.first = nn.ModuleList(convolution(width, width) for _ in range(blocks))
        self.second = nn.ModuleList(convolution(width, width) for _ in range(blocks))
        self.head = convolution(width, n)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A third faster on the CPU in bf16, and no slower in fp32.
        h = self.stem(x.contiguous(memory_format=torch.channels_last_3d) if x.device.type == "cpu" else x)
        for first, second in zip(self.first, self.second):
            h = h + second(F.silu(first(F.silu(h))))
        return x + self.head(F.silu(h))
