"""The autoencoder of Med-LSDM (Tang, Seyam, Yang, arXiv:2507.00206): a 3D VQ-GAN as in Medical Diffusion (Khader et
al., doi 10.1038/s41598-023-34341-2) and TATS (Ge et al., arXiv:2204.03638).

Known of the method: strided 4x4x4 convolutions that double the width, group normalisation, replicate padding, 1x1x1
convolutions on either side of the codebook, its size, its restarts, and the variant whose decoder a label map steers
through SPADE. Chosen here, where no source says it: one residual block per level of the encoder and two of the decoder,
first normalisation and SiLU in each, transposed convolutions to go up, the decay of the averages, first codes from the
first batch, and the hidden width of SPADE in the decoder.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from SynthDiffusionLib.networks.codebook import embed_codes, nearest_codes
from SynthDiffusionLib.networks.spade import SpadeGroupNorm, group_norm


class VqGan(nn.Module):
    """Images to latents and back, by way of a codebook.

    Encoder and decoder are trained by gradients; the codebook follows the latents by running averages, which `vq`
    updates in training mode. Its averages are buffers: a state without them is complete for all but going on training.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the reconstruction.
        hidden: width of the first convolution; every halving of the resolution doubles it.
        downsampling: image voxels per latent voxel along each axis, a power of two.
        embedding_dim: channels of the latent.
        num_embeddings: entries of the codebook.
        norm_groups: groups of the normalisation; at most one per channel.
        condition_channels: channels of the label map that the decoder is given; 0: it is given none.
        spade_hidden: hidden width of the decoder's SPADE normalisations.
        commitment_cost: weight of the commitment loss.
        decay: of the running averages, per update.
        restart_threshold: a code whose average use per batch falls below it is moved to a latent of the batch.

    Raises:
        ValueError: a downsampling that is no power of two, or groups that do not divide a width.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        hidden: int = 16,
        downsampling: int = 4,
        embedding_dim: int = 8,
        num_embeddings: int = 16384,
        norm_groups: int = 32,
        condition_channels: int = 0,
        spade_hidden: int = 32,
        commitment_cost: float = 0.25,
        decay: float = 0.99,
        restart_threshold: float = 1.0,
    ) -> None:
        super().__init__()
        levels = round(math.log2(downsampling)) if downsampling >= 1 else -1
        if levels < 0 or 2**levels != downsampling:
            raise ValueError(f"downsampling must be a power of two, not {downsampling}")
        self.downsampling, self.condition_channels = downsampling, condition_channels
        self.commitment_cost, self.decay, self.restart_threshold = commitment_cost, decay, restart_threshold
        widths = [hidden * 2**level for level in range(levels + 1)]
        # As in TATS, the decoder keeps the width of the encoder's first level up to full resolution.
        falling = [widths[-1], *widths[:0:-1]]

        def plain(n: int) -> nn.Module:
            return nn.GroupNorm(min(norm_groups, n), n)

        def spade(n: int) -> nn.Module:
            return SpadeGroupNorm(n, condition_channels, spade_hidden, min(norm_groups, n), kernel=(3, 3, 3))

        normalise = spade if condition_channels else plain
        self.stem = _conv(in_channels, hidden)
        self.down = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv3d(a, b, 4, stride=2, padding=1, padding_mode="replicate"), _ResidualBlock(b, plain)
                )
                for a, b in zip(widths, widths[1:])
            ]
        )
        self.encoder_norm = plain(widths[-1])
        self.pre_vq = nn.Conv3d(widths[-1], embedding_dim, 1)
        self.post_vq = nn.Conv3d(embedding_dim, widths[-1], 1)
        self.decoder_norm = normalise(widths[-1])
        self.up = nn.ModuleList(
            [
                nn.ModuleDict(
                    {
                        # The input is padded by one on each side: 2 n + 6 voxels come out, less 3 at each end.
                        "conv": nn.ConvTranspose3d(a, b, 4, stride=2, padding=3),
                        "blocks": nn.ModuleList([_ResidualBlock(b, normalise) for _ in range(2)]),
                    }
                )
                for a, b in zip(falling, falling[1:])
            ]
        )
        self.head = _conv(falling[-1], out_channels)
        self.register_buffer("codebook", torch.randn(num_embeddings, embedding_dim))
        self.register_buffer("ema_count", torch.zeros(num_embeddings))  # all zero: no batch has been seen
        self.register_buffer("ema_sum", torch.zeros(num_embeddings, embedding_dim))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """
        Args:
            images: (B, in_channels, I, J, K) in [-1, 1], sides multiples of `downsampling`.

        Returns:
            (B, embedding_dim, i, j, k), not quantised.

        Raises:
            ValueError: a side is not a multiple of `downsampling`.
        """
        if any(n % self.downsampling for n in images.shape[2:]):
            raise ValueError(f"sides must be multiples of {self.downsampling}, not {tuple(images.shape[2:])}")
        h = self.stem(images.contiguous(memory_format=torch.channels_last_3d))
        for level in self.down:
            h = level(h)
        return self.pre_vq(F.silu(group_norm(h, self.encoder_norm)))

    def quantise(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest entries of the codebook, in fp32.

        Args:
            z: (B, embedding_dim, i, j, k).

        Returns:
            the entries (B, embedding_dim, i, j, k), and their indices (B, i, j, k) int64.
        """
        codes = nearest_codes(self.codebook, z)
        return embed_codes(self.codebook, codes), codes

    def decode(self, q: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            q: (B, embedding_dim, i, j, k), quantised.
            masks: (B, condition_channels, I, J, K) label map at the image's resolution, 0 to 1; where the decoder takes
                none, it must be None or is ignored.

        Returns:
            (B, out_channels, I, J, K)

        Raises:
            ValueError: the decoder takes a label map, and none is given.
        """
        if self.condition_channels and masks is None:
            raise ValueError(f"the decoder needs a label map of {self.condition_channels} channels")
        masks = masks.to(q.dtype) if self.condition_channels else None
        h = self.post_vq(q.contiguous(memory_format=torch.channels_last_3d))
        h = F.silu(_normalised(self.decoder_norm, h, masks))
        for level in self.up:
            h = level["conv"](F.pad(h, (1,) * 6, mode="replicate"))
            for block in level["blocks"]:
                h = block(h, masks)
        return self.head(h)

    def vq(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantises for training: gradients pass straight through; in training mode the codebook follows the latents.

        All in fp32, also under autocast.

        Args:
            z: (B, embedding_dim, i, j, k).

        Returns:
            the entries (B, embedding_dim, i, j, k), the weighted commitment loss, and the perplexity of the codes:
            the number of equally used codes that would be as varied.
        """
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            if self.training and not self.ema_count.any():
                self._begin(z.detach())
            q, codes = self.quantise(z.detach())
            used = torch.bincount(codes.flatten(), minlength=len(self.codebook)).to(z.dtype)
            if self.training:
                self._follow(z.detach(), codes, used)
            commitment = self.commitment_cost * F.mse_loss(z, q)
            share = used / used.sum()
            perplexity = torch.exp(-(share * (share + 1e-10).log()).sum())
            return z + (q - z).detach(), commitment, perplexity

    def forward(
        self, images: torch.Tensor, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A step of training up to its losses: the reconstruction, then commitment loss and perplexity as `vq`."""
        q, commitment, perplexity = self.vq(self.encode(images))
        return self.decode(q, masks), commitment, perplexity

    @torch.no_grad()
    def _begin(self, z: torch.Tensor) -> None:
        """All codes at latents of the first batch."""
        self.codebook.copy_(_drawn(z, len(self.codebook)))
        self.ema_sum.copy_(self.codebook).mul_(self.restart_threshold)
        self.ema_count.fill_(self.restart_threshold)

    @torch.no_grad()
    def _follow(self, z: torch.Tensor, codes: torch.Tensor, used: torch.Tensor) -> None:
        """One update of the averages (van den Oord et al., arXiv:1711.00937, appendix A.1) and of the codebook.

        A code begins at the threshold: one that the next batch does not use is moved again, one that it uses stays.
        """
        flat = z.movedim(1, -1).reshape(-1, z.shape[1])
        sums = torch.zeros_like(self.ema_sum).index_add_(0, codes.flatten(), flat)
        self.ema_count.lerp_(used, 1 - self.decay)
        self.ema_sum.lerp_(sums, 1 - self.decay)
        restart = (self.ema_count < self.restart_threshold) & (used == 0)
        fresh = _drawn(z, len(self.codebook))
        self.ema_count.copy_(torch.where(restart, self.restart_threshold, self.ema_count))
        self.ema_sum.copy_(torch.where(restart[:, None], fresh * self.restart_threshold, self.ema_sum))
        average = self.ema_sum / self.ema_count.clamp(min=1e-5)[:, None]
        self.codebook.copy_(torch.where(restart[:, None], fresh, average))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Accepts a state without the averages, as packages have it: training would go on from the codes alone."""
        codebook = state.get(f"{prefix}codebook")
        if codebook is not None and f"{prefix}ema_count" not in state and f"{prefix}ema_sum" not in state:
            state = dict(state)
            state[f"{prefix}ema_count"] = torch.full_like(codebook[:, 0], self.restart_threshold)
            state[f"{prefix}ema_sum"] = codebook * self.restart_threshold
        super()._load_from_state_dict(state, prefix, *arguments)


class _ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; `normalise` makes the normalisation: plain, or SPADE."""

    def __init__(self, channels: int, normalise) -> None:
        super().__init__()
        self.norm_in, self.conv_in = normalise(channels), _conv(channels, channels)
        self.norm_out, self.conv_out = normalise(channels), _conv(channels, channels)

    def forward(self, x: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        h = self.conv_in(F.silu(_normalised(self.norm_in, x, masks)))
        return x + self.conv_out(F.silu(_normalised(self.norm_out, h, masks)))


def _normalised(norm: nn.Module, x: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
    """Where there are masks, they are brought to the resolution of what is normalised by their nearest voxels."""
    if masks is None:
        return group_norm(x, norm)
    if masks.shape[2:] != x.shape[2:]:
        masks = F.interpolate(masks, size=x.shape[2:], mode="nearest")
    return norm(x, norm.modulation(masks))


def _drawn(z: torch.Tensor, count: int) -> torch.Tensor:
    """Latents of a batch (B, C, i, j, k), drawn with replacement: (count, C)."""
    flat = z.movedim(1, -1).reshape(-1, z.shape[1])
    return flat[torch.randint(len(flat), (count,), device=z.device)]


def _conv(entering: int, leaving: int) -> nn.Conv3d:
    return nn.Conv3d(entering, leaving, 3, padding=1, padding_mode="replicate")
