"""Losses of image and mask that the stages autoencoder and refiner share."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.slice_ldm.config import LossConfig
from SynthDiffusionLib.training.stages import HINT


class PairLoss(torch.nn.Module):
    """Weighted losses of slices of image and mask, each (N, 2, I, J) and from -1 to 1.

    Args:
        losses: their weights.
        perceptual: network from `perceptual_loss`, or None.
    """

    def __init__(self, losses: LossConfig, perceptual: torch.nn.Module | None = None) -> None:
        from monai.losses.ssim_loss import SSIMLoss

        super().__init__()
        self.losses, self.perceptual = losses, perceptual
        # SSIM's constants are for intensities that begin at zero: images are brought to 0 to 1 first.
        self.ssim = SSIMLoss(spatial_dims=2, data_range=1.0, win_size=losses.ssim_window)

    def forward(self, found: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum, and the losses that it is made of by column of the log, without their weights."""
        losses = self.losses
        parts = {"image": F.l1_loss(found[:, :1], real[:, :1]), "mask": F.l1_loss(found[:, 1:], real[:, 1:])}
        total = losses.l1 * parts["image"] + losses.mask * parts["mask"]
        if losses.ssim:
            parts["ssim"] = self.ssim((found[:, :1] + 1.0) / 2.0, (real[:, :1] + 1.0) / 2.0)
            total = total + losses.ssim * parts["ssim"]
        if losses.dice:
            parts["dice"] = soft_dice(found[:, 1], real[:, 1])
            total = total + losses.dice * parts["dice"]
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(found[:, :1], real[:, :1])
            total = total + losses.perceptual_weight * parts["perceptual"]
        return total, parts


def soft_dice(found: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """1 - Dice of masks between -1 and 1, over the whole batch: many slices have no target."""
    a, b = ((mask.clamp(-1.0, 1.0) + 1.0) / 2.0 for mask in (found, real))
    return 1.0 - (2.0 * (a * b).sum() + 1.0) / (a.sum() + b.sum() + 1.0)


def neighbour_loss(found: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """L1 between the differences of neighbouring slices of two volumes, (B, C, I, J, K)."""
    return F.l1_loss(found.diff(dim=-1), real.diff(dim=-1))


def to_slices(volume: torch.Tensor) -> torch.Tensor:
    """(B, C, I, J, K) to (B K, C, I, J)."""
    return volume.movedim(-1, 1).flatten(0, 1)


def hard_dice(found: torch.Tensor, real: torch.Tensor) -> float:
    """Dice of masks cut at 0, over all of their numbers; 1 when both are empty."""
    a, b = found > 0, real > 0
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def perceptual_loss(name: str, on_event: Callable[[dict], None]) -> torch.nn.Module | None:
    """MONAI's PerceptualLoss of slices, or None when it is off or its weights cannot be had; an event says so."""
    if name == "off":
        on_event({"event": "note", "message": "No perceptual loss: it is off in [losses] (offline setting)."})
        return None
    from monai.losses import PerceptualLoss

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PerceptualLoss(2, network_type=name).eval().requires_grad_(False)
    except ValueError as error:
        raise BadInput(f"[losses] perceptual '{name}' is none of MONAI's PerceptualLoss: {error}", HINT) from error
    except Exception as error:  # no package lpips, no network, a hub that answers otherwise: each shows differently
        on_event(
            {
                "event": "note",
                "message": f"No perceptual loss: the weights of '{name}' cannot be had ({type(error).__name__}).",
            }
        )
        return None
