"""The lightweight control network of MedLoRD (Seyfarth et al., arXiv:2503.13211): a ControlNet (arXiv:2302.05543) whose
channels are those of the frozen U-Net times a ratio, with 1x1x1 convolutions from its widths back to the U-Net's.

The masks come at the image's resolution. Their embedding does not depend on the time step, so that sampling computes it
once (`embed`) and hands it in at every step. The blocks are MONAI's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.nets.diffusion_model_unet import get_down_block, get_mid_block, get_timestep_embedding
from torch import nn


class SlimControlNet(nn.Module):
    """Control branch for a `DiffusionModelUNet` of MONAI.

    Every way out of it begins at zero: a fresh control network leaves the U-Net as it is.

    Args:
        spatial_dims: 3.
        unet_channels: widths of the frozen U-Net, one per level.
        ratio: width of the branch as a share of the U-Net's, in (0, 1].
        in_channels: channels of the latent.
        condition_channels: number of masks.
        num_res_blocks: of the U-Net, as one number or one per level.
        attention_levels: of the U-Net.
        num_head_channels: channels per attention head.
        norm_num_groups: groups of the normalisation; must divide the branch's widths.
        norm_eps: added to variances.
        embedding_channels: widths of the mask embedding.
        stem_stride: of its first convolution: 2 needs no feature map at full resolution, 1 keeps finer detail.
        downsampling: image voxels per latent voxel along each axis, a power of two.

    Raises:
        ValueError: widths that the groups do not divide, or a downsampling that the strides cannot make.
    """

    def __init__(
        self,
        spatial_dims: int,
        unet_channels: Sequence[int],
        ratio: float,
        in_channels: int,
        condition_channels: int,
        num_res_blocks: Sequence[int] | int = 2,
        attention_levels: Sequence[bool] = (False, False, True, True),
        num_head_channels: int = 32,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-6,
        embedding_channels: Sequence[int] = (32, 64),
        stem_stride: int = 2,
        downsampling: int = 4,
    ) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"SlimControlNet has three spatial dimensions, not {spatial_dims}")
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must be above 0 and at most 1, not {ratio}")
        channels = tuple(round(n * ratio) for n in unet_channels)
        if wrong := [n for n in channels if n < 1 or n % norm_num_groups]:
            raise ValueError(f"{norm_num_groups} groups of normalisation do not divide a width of {wrong[0]}")
        levels = len(channels)
        blocks = (num_res_blocks,) * levels if isinstance(num_res_blocks, int) else tuple(num_res_blocks)
        if not levels == len(attention_levels) == len(blocks):
            raise ValueError("unet_channels, num_res_blocks and attention_levels are not of the same length")
        self.channels = channels
        self.downsampling = downsampling
        width = 4 * channels[0]

        self.embedding = nn.Sequential(
            *_embedding_layers(condition_channels, tuple(embedding_channels), stem_stride, downsampling),
            _zeroed(nn.Conv3d(embedding_channels[-1], channels[0], 3, padding=1)),
        )
        self.time_embedding = nn.Sequential(nn.Linear(channels[0], width), nn.SiLU(), nn.Linear(width, width))
        self.stem = nn.Conv3d(in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            get_down_block(
                spatial_dims=3,
                in_channels=channels[max(level - 1, 0)],
                out_channels=channels[level],
                temb_channels=width,
                num_res_blocks=blocks[level],
                norm_num_groups=norm_num_groups,
                norm_eps=norm_eps,
                add_downsample=level < levels - 1,
                resblock_updown=False,
                with_attn=attention_levels[level],
                with_cross_attn=False,
                num_head_channels=num_head_channels,
                transformer_num_layers=1,
                cross_attention_dim=None,
            )
            for level in range(levels)
        )
        self.middle_block = get_mid_block(
            spatial_dims=3,
            in_channels=channels[-1],
            temb_channels=width,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            with_conditioning=False,
            num_head_channels=num_head_channels,
            transformer_num_layers=1,
            cross_attention_dim=None,
        )
        # One way out per skip connection of the U-Net: its stem, its residual blocks, and its downsamplings.
        ways = [0] + [n for n in range(levels) for _ in range(blocks[n] + (n < levels - 1))]
        self.down_outputs = nn.ModuleList(_zeroed(nn.Conv3d(channels[n], unet_channels[n], 1)) for n in ways)
        self.middle_output = _zeroed(nn.Conv3d(channels[-1], unet_channels[-1], 1))

    def embed(self, condition: torch.Tensor) -> torch.Tensor:
        """The masks' features at the latent's resolution; they hold for all time steps.

        Args:
            condition: (B, condition_channels, D, H, W) at the image's resolution, 1 inside, 0 outside and where a mask
                is not given; sides multiples of `downsampling`.

        Returns:
            (B, channels[0], D / downsampling, H / downsampling, W / downsampling)
        """
        return self.embedding(condition)

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        condition: torch.Tensor | None = None,
        scale: float = 1.0,
        embedded: torch.Tensor | None = None,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        Args:
            x: (B, in_channels, D, H, W) noisy latent, sides multiples of 2^(levels - 1).
            timesteps: (B,) diffusion time steps.
            condition: the masks, as `embed` takes them; not needed with `embedded`.
            scale: strength of the control; 0 is none.
            embedded: what `embed` has returned for the masks.

        Returns:
            what `DiffusionModelUNet.forward` takes as `down_block_additional_residuals` and
            `mid_block_additional_residual`.

        Raises:
            ValueError: neither `condition` nor `embedded` is given.
        """
        if embedded is None:
            if condition is None:
                raise ValueError("SlimControlNet needs the masks or their embedding")
            embedded = self.embed(condition)
        emb = self.time_embedding(get_timestep_embedding(timesteps, self.channels[0]).to(x.dtype))
        h = self.stem(x) + embedded
        features = [h]
        for block in self.down_blocks:
            h, outputs = block(hidden_states=h, temb=emb, context=None)
            features += outputs
        h = self.middle_block(hidden_states=h, temb=emb, context=None)
        residuals = [output(feature) * scale for output, feature in zip(self.down_outputs, features, strict=True)]
        return residuals, self.middle_output(h) * scale


def _embedding_layers(masks: int, widths: tuple[int, ...], stem_stride: int, downsampling: int) -> list[nn.Module]:
    """Convolutions from the masks to the latent's resolution; the last width repeats where strides are left over."""
    stages = round(math.log2(downsampling)) if downsampling >= 1 else -1
    stages -= {1: 0, 2: 1}.get(stem_stride, 99)
    if stages < 0 or 2 ** round(math.log2(downsampling)) != downsampling:
        raise ValueError(f"a stem of stride {stem_stride} does not lead to a downsampling of {downsampling}")
    widths += widths[-1:] * max(0, stages - (len(widths) - 1))
    layers: list[nn.Module] = [nn.Conv3d(masks, widths[0], 3, stride=stem_stride, padding=1), nn.SiLU()]
    for stage, (narrow, wide) in enumerate(zip(widths, widths[1:])):
        layers += [nn.Conv3d(narrow, narrow, 3, padding=1), nn.SiLU()]
        layers += [nn.Conv3d(narrow, wide, 3, stride=2 if stage < stages else 1, padding=1), nn.SiLU()]
    return layers


def _zeroed(convolution: nn.Conv3d) -> nn.Conv3d:
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution
