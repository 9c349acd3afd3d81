"""The denoiser of Med-LSDM (Tang, Seyam, Yang, arXiv:2507.00206): a U-Net factorised into in-plane and depth, which a
label volume steers through SPADE normalisation.

Factorised as video diffusion models are (Ho et al., arXiv:2204.03458): no convolution looks along the depth, neither
does the spatial attention; only the depth attention joins slices. Depth is the third axis here, (B, C, I, J, K): the
kernels are (3, 3, 1) where the paper's order of axes has (1, 3, 3). Statistics of the group normalisation are those of
the whole volume. Features are held with their channels last, so that attention gets its tokens without a copy.

Known of the method: widths, both kinds of attention at every level with rotary embedding and relative position bias,
down- and up-sampling in-plane only, the mask encoder of three convolutions with two max-pools, SPADE in the middle and
in every decoder block with its hidden width, plain normalisation in the encoder. Chosen here, where no source says it:
pre-activated residual blocks with an additive time embedding (Ho et al., arXiv:2006.11239), layer normalisation before
attention, 3x3 kernels in the first convolution too, downsampling by stride and upsampling by nearest neighbours before
a convolution, one skip connection per level, linear attention in the middle too, ReLU and constant width in the mask
encoder, one table of position biases for all levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn

from SynthDiffusionLib.networks.spade import SpadeGroupNorm, group_norm

BUCKETS = 32  # of relative positions, half of them on either side
FURTHEST = 32  # slices of the latent; all beyond share the last bucket
THETA = 10000.0  # slowest rotation of the rotary embedding, in radians per slice: 1 / THETA
VECTOR = 16  # numbers of fp32 that the widest vector instructions of CPUs take at once
POOLINGS = {1: 0, 2: 1, 4: 2}  # max-pools of the mask encoder by its downsampling


class FactorisedUNet(nn.Module):
    """Predicts the noise of a latent, given the label volume at the resolution of the image.

    Args:
        in_channels: channels of the latent.
        out_channels: channels of the prediction.
        channels: features per level; each level halves the resolution in-plane of the one before.
        condition_channels: channels of the label volume, its background among them; all zero is the null condition.
        mask_channels: features of the mask encoder.
        spade_hidden: hidden features of every SPADE normalisation.
        heads: attention heads.
        head_channels: channels of each of them, an even number.
        blocks_per_level: residual blocks per level on the way down, and again on the way up.
        norm_groups: groups of the normalisation; must divide every entry of `channels`.
        mask_downsampling: image voxels per latent voxel along each axis: 1, 2 or 4.

    Raises:
        ValueError: a downsampling that the mask encoder cannot make, or head channels that cannot be rotated in pairs.
    """

    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 8,
        channels: Sequence[int] = (64, 128, 256, 512),
        condition_channels: int = 3,
        mask_channels: int = 32,
        spade_hidden: int = 128,
        heads: int = 8,
        head_channels: int = 32,
        blocks_per_level: int = 2,
        norm_groups: int = 8,
        mask_downsampling: int = 4,
    ) -> None:
        super().__init__()
        if mask_downsampling not in POOLINGS:
            raise ValueError(f"mask_downsampling must be one of {sorted(POOLINGS)}, not {mask_downsampling}")
        if head_channels % 2 or not channels:
            raise ValueError(f"head_channels must be even, not {head_channels}, and channels must not be empty")
        self.channels = tuple(channels)
        first, last = self.channels[0], self.channels[-1]
        width = 4 * first
        narrow_to_wide = list(zip(self.channels, self.channels[1:]))

        def plain(n: int) -> nn.Module:
            return nn.GroupNorm(norm_groups, n)

        def spade(n: int) -> nn.Module:
            return SpadeGroupNorm(n, mask_channels, spade_hidden, norm_groups, kernel=(3, 3, 1))

        def level(n: int, normalise, extra: int = 0) -> nn.ModuleDict:
            entering = (n + extra, *[n] * (blocks_per_level - 1))
            blocks = nn.ModuleList([_ResidualBlock(a, n, width, normalise) for a in entering])
            return nn.ModuleDict({"blocks": blocks, "attention": _Attention(n, heads, head_channels)})

        self.mask_encoder = _mask_encoder(condition_channels, mask_channels, POOLINGS[mask_downsampling])
        self.time_embedding = nn.Sequential(nn.Linear(first, width), nn.SiLU(), nn.Linear(width, width))
        self.position_bias = RelativePositionBias(heads)
        self.stem = _conv(in_channels, first)
        self.encoder = nn.ModuleList([level(n, plain) for n in self.channels])
        self.down = nn.ModuleList([_conv(a, b, stride=2) for a, b in narrow_to_wide])
        self.middle = nn.ModuleDict(
            {
                "enter": _ResidualBlock(last, last, width, spade),
                "attention": _Attention(last, heads, head_channels),
                "leave": _ResidualBlock(last, last, width, spade),
            }
        )
        self.decoder = nn.ModuleList([level(n, spade, extra=n) for n in self.channels])
        self.up = nn.ModuleList([_conv(b, a) for a, b in narrow_to_wide])
        self.head_norm = plain(first)
        self.head = _conv(first, out_channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def divisor(self) -> int:
        """The sides I and J of the latent must be multiples of this; its depth K may be any."""
        return 2 ** (len(self.channels) - 1)

    def embed(self, masks: torch.Tensor) -> torch.Tensor:
        """Features of a label volume, which do not depend on the time step.

        Args:
            masks: (B, condition_channels, I, J, K) at the image's resolution, 0 to 1.

        Returns:
            (B, mask_channels, I / mask_downsampling, J / mask_downsampling, K / mask_downsampling)
        """
        return self.mask_encoder(masks.to(self.stem.weight.dtype))

    def modulate(self, features: torch.Tensor) -> list[torch.Tensor]:
        """What the SPADE layers make of the features of `embed`, in the order in which `forward` meets them.

        None of it depends on the time step or looks along the depth: it is computed once to sample a volume, and a
        window along the depth may be cut from each entry just as from the features.

        Args:
            features: (B, mask_channels, i, j, k).

        Returns:
            (B, 2 C, i', j', k) for every layer, C being its channels.
        """
        pyramid = [features]
        for _ in self.down:
            i, j, k = pyramid[-1].shape[2:]
            pyramid.append(F.interpolate(pyramid[-1], size=(i // 2, j // 2, k), mode="nearest"))
        blocks = [(self.middle["enter"], pyramid[-1]), (self.middle["leave"], pyramid[-1])]
        for depth in reversed(range(len(self.channels))):
            blocks += [(block, pyramid[depth]) for block in self.decoder[depth]["blocks"]]
        return [norm.modulation(at) for block, at in blocks for norm in (block.norm_in, block.norm_out)]

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        masks: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        modulations: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        Args:
            noisy: (B, in_channels, i, j, k) latent; i and j multiples of `divisor`, k any.
            timesteps: (B,) diffusion time steps.
            masks: the label volume, as `embed` takes it; not needed with `features`.
            features: what `embed` has returned for it; not needed with `modulations`.
            modulations: what `modulate` has returned for the features.

        Returns:
            (B, out_channels, i, j, k)

        Raises:
            ValueError: nothing is given for the condition, or a side of the latent is not a multiple of `divisor`.
        """
        if any(n % self.divisor for n in noisy.shape[2:4]):
            raise ValueError(f"i and j must be multiples of {self.divisor}, not {tuple(noisy.shape[2:4])}")
        if modulations is None:
            if features is None:
                if masks is None:
                    raise ValueError("FactorisedUNet needs the masks, their features or their modulations")
                features = self.embed(masks)
            modulations = self.modulate(features)
        given = iter(modulations)
        time = self.time_embedding(get_timestep_embedding(timesteps, self.channels[0]).to(noisy.dtype))
        bias = self.position_bias(noisy.shape[4])
        h = self.stem(noisy.contiguous(memory_format=torch.channels_last_3d))
        skips = []
        for depth, level in enumerate(self.encoder):
            if depth:
                h = self.down[depth - 1](h)
            for block in level["blocks"]:
                h = block(h, time)
            h = level["attention"](h, bias)
            skips.append(h)
        h = self.middle["enter"](h, time, next(given), next(given))
        h = self.middle["attention"](h, bias)
        h = self.middle["leave"](h, time, next(given), next(given))
        for depth in reversed(range(len(self.channels))):
            if depth < len(self.channels) - 1:
                h = self.up[depth](F.interpolate(h, scale_factor=(2.0, 2.0, 1.0), mode="nearest"))
            h = torch.cat([h, skips.pop()], dim=1)
            for block in self.decoder[depth]["blocks"]:
                h = block(h, time, next(given), next(given))
            h = self.decoder[depth]["attention"](h, bias)
        return self.head(F.silu(group_norm(h, self.head_norm)))


class _ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the time embedding is added between.

    Args:
        entering: channels of the input.
        leaving: channels of the output.
        time_width: of the time embedding.
        normalise: makes the normalisation of a number of channels: plain, or SPADE.
    """

    def __init__(self, entering: int, leaving: int, time_width: int, normalise) -> None:
        super().__init__()
        self.norm_in, self.conv_in = normalise(entering), _conv(entering, leaving)
        self.time = nn.Linear(time_width, leaving)
        self.norm_out, self.conv_out = normalise(leaving), _conv(leaving, leaving)
        self.skip = nn.Conv3d(entering, leaving, 1) if entering != leaving else nn.Identity()

    def forward(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        modulation_in: torch.Tensor | None = None,
        modulation_out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        h = self.conv_in(F.silu(_normalised(self.norm_in, x, modulation_in)))
        h = h + self.time(F.silu(time))[:, :, None, None, None]
        return self.skip(x) + self.conv_out(F.silu(_normalised(self.norm_out, h, modulation_out)))


class _Attention(nn.Module):
    """Spatial attention, then depth attention, each added to its input."""

    def __init__(self, channels: int, heads: int, head_channels: int) -> None:
        super().__init__()
        self.spatial = SpatialLinearAttention(channels, heads, head_channels)
        self.depth = DepthAttention(channels, heads, head_channels)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        tokens = x.permute(0, 2, 3, 4, 1)
        tokens = tokens + self.spatial(tokens)
        tokens = tokens + self.depth(tokens, bias)
        return tokens.permute(0, 4, 1, 2, 3)


class SpatialLinearAttention(nn.Module):
    """Attention among the voxels of a slice, at a cost linear in their number (Shen et al., arXiv:1812.01243): softmax
    over the features of the queries and over the positions of the keys.

    Args:
        channels: of the tokens.
        heads: attention heads.
        head_channels: channels of each.
    """

    def __init__(self, channels: int, heads: int, head_channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * heads * head_channels, bias=False)
        self.out = nn.Linear(heads * head_channels, channels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """
        Args:
            tokens: (B, I, J, K, channels).

        Returns:
            the same shape.
        """
        batch, i, j, k, channels = tokens.shape
        # Channels before positions: both softmaxes and all products then run along memory.
        rows = self.norm(tokens).reshape(batch, i * j, k, channels).permute(0, 2, 3, 1).reshape(-1, channels, i * j)
        qkv = torch.bmm(self.qkv.weight.expand(len(rows), -1, -1), rows)
        query, key, value = qkv.reshape(batch * k, 3, self.heads, -1, i * j).unbind(1)
        query = query.softmax(dim=-2) * query.shape[-2] ** -0.5
        mixed = (value @ key.softmax(dim=-1).transpose(-1, -2)) @ query  # (B K, heads, head_channels, I J)
        mixed = torch.bmm(self.out.weight.expand(len(rows), -1, -1), mixed.reshape(batch * k, -1, i * j))
        return mixed.reshape(batch, k, channels, i * j).permute(0, 3, 1, 2).reshape(tokens.shape) + self.out.bias


class DepthAttention(nn.Module):
    """Attention among the slices of a column, with rotary embedding and a bias by relative position.

    Args:
        channels: of the tokens.
        heads: attention heads.
        head_channels: channels of each, an even number.
    """

    def __init__(self, channels: int, heads: int, head_channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * heads * head_channels, bias=False)
        self.out = nn.Linear(heads * head_channels, channels)

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """
        Args:
            tokens: (B, I, J, K, channels).
            bias: (heads, K, K), added to the scores.

        Returns:
            the shape of the tokens.
        """
        batch, i, j, k, _ = tokens.shape
        qkv = self.qkv(self.norm(tokens)).reshape(batch * i * j, k, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        turned, value = qkv.contiguous().split([2, 1])
        query, key = rotate(turned, torch.arange(k, device=tokens.device))
        value = value[0]
        mixed = attend(query, key, value, bias)
        return self.out(mixed.transpose(1, 2).reshape(batch, i, j, k, -1))


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Scaled dot product attention with a bias on the scores.

    On CPUs PyTorch's takes twice as long for sequences as short as a depth, whose rows its softmax cannot vectorise:
    there the keys are padded to whole vectors, and the softmax is in fp32.

    Args:
        query, key, value: (N, heads, K, head_channels).
        bias: (heads, K, K), which may be trained.

    Returns:
        (N, heads, K, head_channels)
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
    missing = -key.shape[2] % VECTOR
    key, value = F.pad(key, (0, 0, 0, missing)), F.pad(value, (0, 0, 0, missing))
    bias = F.pad(bias.float(), (0, missing), value=float("-inf"))
    scores = torch.add(bias, query @ key.transpose(-1, -2), alpha=query.shape[-1] ** -0.5)
    return scores.softmax(dim=-1).to(value.dtype) @ value


class RelativePositionBias(nn.Module):
    """A learned bias per head for every bucket of relative positions, after T5 (Raffel et al., arXiv:1910.10683).

    Near distances have a bucket each, further ones share them in logarithmic steps: it serves depths that the network
    was not trained on.

    Args:
        heads: attention heads.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Embedding(BUCKETS, heads)

    def forward(self, k: int) -> torch.Tensor:
        """(heads, k, k), query by key, for `k` slices."""
        positions = torch.arange(k, device=self.table.weight.device)
        return self.table(bucket(positions[None, :] - positions[:, None])).permute(2, 0, 1)


def bucket(offset: torch.Tensor) -> torch.Tensor:
    """Bucket of the offsets key minus query, in slices of the latent.

    The first half of the buckets is for keys at or before the query, the second for those after it. In each half, half
    of the buckets are for one distance each.
    """
    side, exact = BUCKETS // 2, BUCKETS // 4
    distance = offset.abs()
    steps = torch.log(distance.clamp(min=1) / exact) / math.log(FURTHEST / exact) * (side - exact)
    far = (exact + steps.long()).clamp(max=side - 1)
    return torch.where(distance < exact, distance, far) + side * (offset > 0)


def rotate(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al., arXiv:2104.09864): neighbouring channels in pairs are turned by an angle
    that grows with the position, so that the product of a query and a key depends on the offset between them alone.

    Args:
        x: (..., K, D), D even.
        positions: (K,), in slices.

    Returns:
        The same shape and type; computed in fp32.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    rates = THETA ** (-torch.arange(pairs.shape[-1], device=x.device, dtype=torch.float32) / pairs.shape[-1])
    angles = positions.float()[:, None] * rates
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).to(x.dtype)


def _normalised(norm: nn.Module, x: torch.Tensor, modulation: torch.Tensor | None) -> torch.Tensor:
    return group_norm(x, norm) if modulation is None else norm(x, modulation)


def _conv(entering: int, leaving: int, stride: int = 1) -> nn.Conv3d:
    return nn.Conv3d(entering, leaving, (3, 3, 1), stride=(stride, stride, 1), padding=(1, 1, 0))


def _mask_encoder(entering: int, leaving: int, poolings: int) -> nn.Sequential:
    """Three convolutions, the first `poolings` of them with a max-pool after them. It may look along the depth."""
    layers: list[nn.Module] = []
    for place, channels in enumerate((entering, leaving, leaving)):
        layers.append(nn.Conv3d(channels, leaving, 3, padding=1))
        if place < 2:
            layers.append(nn.ReLU())
        if place < poolings:
            layers.append(nn.MaxPool3d(2))
    return nn.Sequential(*layers)
