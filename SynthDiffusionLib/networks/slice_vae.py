"""The autoencoder of the slice-based latent diffusion model (Kebaili et al., arXiv:2406.05421).

A volume and its mask are taken apart into slices along their third axis. Every pair of an image slice and a mask slice
is encoded on its own, together with its position in the stack, q(z_i | x_i, m_i, l(i)); decoding gives both back.

The widths, strides, normalisation, attention at the deepest level only, the latent's channels and the position
embedding (16 sines and cosines, 64 features) are those of the authors' public code. Chosen here, because neither the
paper's text nor a description says it: one residual block per level, where the position enters them (as a diffusion
U-Net's time step does), and how a stack of another depth is placed. The position embedding is on by default, since the
paper has it; the authors' script leaves it off. The blocks are MONAI's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.nets.autoencoderkl import AEKLResBlock
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, get_timestep_embedding
from torch import nn

# Logarithms of variances are kept within these, as MONAI's AutoencoderKL does.
LEAST_LOGVAR, LARGEST_LOGVAR = -30.0, 20.0


class SliceVAE(nn.Module):
    """Two-dimensional variational autoencoder for the slices of a volume and its mask.

    Tensors of volumes are (B, C, I, J, K) with the slices along K; those of slices are (N, C, I, J).

    Args:
        in_channels: of a slice: the image and its mask, both from -1 to 1; as many come out.
        channels: features per resolution level.
        strides: 1 or 2 per level: what the resolution is divided by on entering it.
        latent_channels: channels of the latent.
        norm_groups: groups of the normalisation; must divide every entry of `channels`.
        attention: self-attention after each block of the deepest level.
        position_embedding: whether the networks are told which slice they see.
        slices: number of slices of the volumes it is trained on; positions go from 0 to this.
        blocks_per_level: residual blocks per level of the encoder, and again of the decoder.

    Raises:
        ValueError: strides that are neither 1 nor 2, or not one per level.
    """

    position_channels = 16
    position_width = 64

    def __init__(
        self,
        in_channels: int = 2,
        channels: Sequence[int] = (128, 256, 384, 512),
        strides: Sequence[int] = (1, 2, 2, 2),
        latent_channels: int = 4,
        norm_groups: int = 8,
        attention: bool = True,
        position_embedding: bool = True,
        slices: int = 96,
        blocks_per_level: int = 1,
    ) -> None:
        super().__init__()
        channels, strides = tuple(channels), tuple(strides)
        if len(strides) != len(channels) or not set(strides) <= {1, 2}:
            raise ValueError(f"strides must be 1 or 2 for each of {len(channels)} levels, not {list(strides)}")
        if slices < 1:
            raise ValueError(f"slices must be at least 1, not {slices}")
        self.slices = slices
        self.downsampling = math.prod(strides)
        width = self.position_width if position_embedding else None
        self.position = None
        if width is not None:
            self.position = nn.Sequential(nn.Linear(self.position_channels, width), nn.SiLU(), nn.Linear(width, width))

        def level(depth: int) -> list[nn.Module]:
            n, deepest = channels[depth], depth == len(channels) - 1
            layers: list[nn.Module] = []
            for _ in range(blocks_per_level):
                layers.append(_block(n, norm_groups, width))
                if deepest and attention:
                    layers.append(
                        SpatialAttentionBlock(
                            2, n, norm_num_groups=norm_groups, norm_eps=1e-6, use_flash_attention=True
                        )
                    )
            return layers

        encoder: list[nn.Module] = []
        for depth, (before, n, stride) in enumerate(zip((in_channels, *channels), channels, strides)):
            encoder += [nn.Conv2d(before, n, 3, stride=stride, padding=1), *level(depth)]
        self.encoder = nn.ModuleList([*encoder, *_head(channels[-1], 2 * latent_channels, norm_groups)])

        decoder: list[nn.Module] = [nn.Conv2d(latent_channels, channels[-1], 3, padding=1)]
        for depth in reversed(range(len(channels))):
            decoder += level(depth)
            if strides[depth] > 1:
                decoder.append(nn.Upsample(scale_factor=float(strides[depth]), mode="nearest"))
            if depth:
                decoder.append(nn.Conv2d(channels[depth], channels[depth - 1], 3, padding=1))
        self.decoder = nn.ModuleList([*decoder, *_head(channels[0], in_channels, norm_groups)])

    def encode(self, x: torch.Tensor, index: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The distribution of the latents of slices.

        Args:
            x: (N, in_channels, I, J), sides multiples of `downsampling`.
            index: (N,) their positions in the stack, from 0 to `slices`; not needed without a position embedding.

        Returns:
            mean and logarithm of the variance, each (N, latent_channels, I / downsampling, J / downsampling)

        Raises:
            ValueError: sides that the strides do not divide, or no positions.
        """
        if any(side % self.downsampling for side in x.shape[2:]):
            raise ValueError(f"the sides of a slice must be multiples of {self.downsampling}, not {list(x.shape[2:])}")
        mean, logvar = _run(self.encoder, x, self._embed(index, x)).chunk(2, dim=1)
        return mean, logvar.clamp(LEAST_LOGVAR, LARGEST_LOGVAR)

    def decode(self, z: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        """Slices from their latents.

        Args:
            z: (N, latent_channels, i, j), as the encoder's means are: not multiplied by a scale factor.
            index: as for `encode`.

        Returns:
            (N, in_channels, i * downsampling, j * downsampling): the image and, above 0 inside, the mask.
        """
        return _run(self.decoder, z, self._embed(index, z))

    def forward(
        self, x: torch.Tensor, index: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction from a sample of the latents, their mean and the logarithm of their variance: for training.

        Args:
            x: (N, in_channels, I, J)
            index: as for `encode`.
        """
        mean, logvar = self.encode(x, index)
        return self.decode(mean + torch.randn_like(mean) * (0.5 * logvar).exp(), index), mean, logvar

    def positions(self, depth: int) -> torch.Tensor:
        """(depth,) positions of the slices of a stack: 0 to `slices` - 1, or, with another depth, about the same middle
        at the same distance from each other."""
        return torch.arange(depth, dtype=torch.float32) + (self.slices - depth) / 2

    def encode_volume(
        self, x: torch.Tensor, chunk: int = 16, on_slices: Callable[[int, int], None] | None = None
    ) -> torch.Tensor:
        """The means of the latents of all slices, stacked.

        Args:
            x: (B, in_channels, I, J, K), I and J multiples of `downsampling`.
            chunk: slices at a time; the result does not depend on it.
            on_slices: told after every chunk how many slices are done, and of how many.

        Returns:
            (B, latent_channels, I / downsampling, J / downsampling, K)
        """
        return self._slice_by_slice(lambda *piece: self.encode(*piece)[0], x, chunk, on_slices)

    def decode_volume(
        self, z: torch.Tensor, chunk: int = 16, on_slices: Callable[[int, int], None] | None = None
    ) -> torch.Tensor:
        """A volume and its mask from a stack of latents.

        Args:
            z: (B, latent_channels, i, j, K), not multiplied by a scale factor.
            chunk: as for `encode_volume`.
            on_slices: as for `encode_volume`.

        Returns:
            (B, in_channels, i * downsampling, j * downsampling, K)
        """
        return self._slice_by_slice(self.decode, z, chunk, on_slices)

    def _slice_by_slice(
        self,
        function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        volume: torch.Tensor,
        chunk: int,
        on_slices: Callable[[int, int], None] | None,
    ) -> torch.Tensor:
        batch, depth = volume.shape[0], volume.shape[-1]
        slices = volume.movedim(-1, 1).flatten(0, 1)
        index = self.positions(depth).repeat(batch).to(volume.device)
        done = []
        for start in range(0, len(slices), max(1, chunk)):
            piece = slice(start, start + max(1, chunk))
            done.append(function(slices[piece], index[piece]))
            if on_slices is not None:
                on_slices(min(piece.stop, len(slices)), len(slices))
        return torch.cat(done).unflatten(0, (batch, depth)).movedim(1, -1).contiguous()

    def _embed(self, index: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
        """(N, position_width) features of positions, or None."""
        if self.position is None:
            return None
        if index is None or index.shape != like.shape[:1]:
            raise ValueError(f"SliceVAE needs the positions of {len(like)} slices")
        return self.position(get_timestep_embedding(index, self.position_channels).to(like.dtype))


def _block(n: int, norm_groups: int, width: int | None) -> nn.Module:
    """A residual block of MONAI, one that takes an embedding of `width` features where there is one."""
    if width is None:
        return AEKLResBlock(2, n, norm_groups, 1e-6, n)
    return DiffusionUNetResnetBlock(2, n, width, n, norm_num_groups=norm_groups)


def _head(n: int, out_channels: int, norm_groups: int) -> list[nn.Module]:
    return [nn.GroupNorm(norm_groups, n, eps=1e-6), nn.SiLU(), nn.Conv2d(n, out_channels, 3, padding=1)]


def _run(layers: Iterable[nn.Module], x: torch.Tensor, emb: torch.Tensor | None) -> torch.Tensor:
    for layer in layers:
        x = layer(x, emb) if isinstance(layer, DiffusionUNetResnetBlock) else layer(x)
    return x
