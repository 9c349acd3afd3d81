"""Stage 1: the variational autoencoder of slices of image and mask (Kebaili et al., arXiv:2406.05421)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.small_grids import exact_on_small_grids
from SynthDiffusionLib.training.loop import Ema, Stage, adamw, learning_rate_at, make_fabric, plain, run_stage
from SynthDiffusionLib.training.slice_ldm.config import METHOD, SliceLDMConfig
from SynthDiffusionLib.training.slice_ldm.losses import PairLoss, hard_dice, perceptual_loss, to_slices
from SynthDiffusionLib.training.slice_ldm.volumes import PARTS, SliceSource, load_pairs
from SynthDiffusionLib.training.stages import HINT

PICTURE_CASES = 3


def build_trained(stage: str, parameters: dict[str, Any]) -> torch.nn.Module:
    """A network of a stage with fresh weights.

    Raises:
        BadInput: [network] does not describe one.
    """
    try:
        return exact_on_small_grids(build_network(NetworkSpec(METHOD.classes[stage], parameters)))
    except ModelError as error:
        raise BadInput(f"[network] does not describe a network: {error.message}", HINT) from error


def psnr(found: torch.Tensor, real: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of images in [-1, 1], in dB."""
    mse = float((found.clamp(-1.0, 1.0) - real).square().mean())
    return 10.0 * float(np.log10(4.0 / max(mse, 1e-12)))


def gray(values: torch.Tensor) -> np.ndarray:
    """(I, J) in [-1, 1] as an image of rows J, 0 to 255."""
    return ((values.float().clamp(-1.0, 1.0).cpu().numpy().T + 1.0) * 127.5).astype(np.uint8)


def rows_of(*volumes: torch.Tensor) -> np.ndarray:
    """For each of some volumes (I, J, K) a row of the middle slices of three planes, padded with black."""
    rows = []
    for volume in volumes:
        planes = [gray(volume.select(axis, volume.shape[axis] // 2)) for axis in (2, 1, 0)]
        height = max(plane.shape[0] for plane in planes)
        rows.append(np.concatenate([np.pad(p, ((0, height - p.shape[0]), (0, 0))) for p in planes], axis=1))
    return np.concatenate(rows)


class AutoencoderStage(Stage):
    """See the module."""

    name = "autoencoder"
    columns = ("step", "loss", "learning_rate", "validation_loss", "seconds", "image", "ssim", "mask", "dice", "kl",
               "perceptual", "validation_psnr", "validation_dice")  # fmt: skip

    def __init__(self, config: SliceLDMConfig, fabric: Fabric, on_event: Callable[[dict], None]) -> None:
        self.config, self.fabric = config, fabric
        optimiser, scheme = config.optimiser, load_scheme(config.label_scheme)
        network = build_trained("autoencoder", config.network)
        pairs = {part: load_pairs(config.data, part, scheme, config.volumes, config.intensity_range) for part in PARTS}
        self.size = pairs["train"][0].size
        check_sizes(network, self.size, pairs["validation"][0].size, config)
        volumes = {part: [p.pair.to(fabric.device) for p in found] for part, found in pairs.items()}
        self.source = SliceSource.of(volumes["train"], config.slices.empty_share)
        self.validation = torch.stack(volumes["validation"])
        slices = sum(len(content) for content in self.source.content)
        self.epoch_steps = -(-slices // (optimiser.batch * fabric.world_size))
        self.ema = Ema(network, optimiser.ema) if optimiser.ema else None
        self.trained, self.optimiser = fabric.setup(
            network, adamw(config, fabric, network.parameters(), optimiser.learning_rate)
        )
        self.parts = {"network": plain(self.trained), "optimiser": self.optimiser}
        if self.ema is not None:
            self.ema.module.to(fabric.device)
            self.parts["ema_state"] = self.ema
        perceptual = perceptual_loss(config.losses.perceptual, on_event) if config.losses.perceptual_weight else None
        self.criterion = PairLoss(config.losses, perceptual).to(fabric.device)

    def train_step(self, step: int, share: float) -> dict[str, torch.Tensor]:
        config, rank = self.config, self.fabric.global_rank
        rng = np.random.default_rng([config.seed, 10, step, rank])
        slices, places = self.source.draw(config.optimiser.batch, config.volumes, rng)
        rate = learning_rate_at(config.optimiser, config.optimiser.learning_rate, step, share, self.epoch_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # The network draws the noise of the latents itself: seeded for the step, so that a resumed run draws it, too.
        torch.manual_seed((config.seed * 1_000_003 + step) * 1009 + rank)
        self.trained.train()
        found, mean, logvar = self.trained(slices, places.to(slices.device))
        total, parts = self.criterion(found.float(), slices)
        parts["kl"] = divergence(mean.float(), logvar.float())
        total = total + config.losses.kl * parts["kl"]
        self.descend(self.trained, self.optimiser, total)
        if self.ema is not None:
            self.ema.update(plain(self.trained))
        parts |= {"loss": total, "learning_rate": torch.tensor(rate)}
        return {name: value.detach() for name, value in parts.items()}

    def averaged(self) -> torch.nn.Module:
        """The network that is used: the average, if one is kept."""
        return self.ema.module if self.ema is not None and self.ema.count else plain(self.trained).eval()

    @torch.no_grad()
    def _reconstruct(self, volumes: torch.Tensor) -> torch.Tensor:
        network = self.averaged()
        with self.fabric.autocast():
            return network.decode_volume(network.encode_volume(volumes)).float()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Of the validation volumes as they are, from the means of the latents; the loss is without the divergence."""
        found = torch.cat([self._reconstruct(v[None]) for v in self.validation])
        total, _ = self.criterion(to_slices(found), to_slices(self.validation))
        return {
            "validation_loss": float(total),
            "validation_psnr": psnr(found[:, 0], self.validation[:, 0]),
            "validation_dice": hard_dice(found[:, 1], self.validation[:, 1]),
        }

    def picture(self) -> np.ndarray:
        """Validation cases in three planes, real above and reconstructed below; image left, mask right."""
        found = []
        for pair in self.validation[:PICTURE_CASES]:
            back = self._reconstruct(pair[None])[0]
            found.append(np.concatenate([rows_of(pair[c], back[c]) for c in range(2)], axis=1))
        return np.concatenate(found)

    def record(self) -> dict[str, Any]:
        return {
            "weights": {name: t.detach().cpu().clone() for name, t in self.averaged().state_dict().items()},
            "intensity_range": list(self.config.intensity_range),
            "size": list(self.size),
        }


def divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of latents (N, C, i, j) from a standard normal distribution, summed over each."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1).sum(1).mean()


def check_sizes(
    network: torch.nn.Module, size: tuple[int, ...], other: tuple[int, ...], config: SliceLDMConfig
) -> None:
    """Whether the network and its losses take the slices of the volumes, and know as many positions.

    Raises:
        BadInput: they do not.
    """
    if size != other:
        raise BadInput(f"The training cases are {size} voxels large, the validation cases {other}", HINT)
    factor = network.downsampling
    if any(n % factor for n in size[:2]):
        raise BadInput(f"The slices' sides must be multiples of {factor}, not {size[0]} x {size[1]}",
                       "Give another size in [volumes].")  # fmt: skip
    if network.position is not None and network.slices != size[2]:
        raise BadInput(f"[network] slices is {network.slices}, but the volumes have {size[2]} slices", HINT)
    if config.losses.ssim and min(size[:2]) < config.losses.ssim_window:
        raise BadInput(f"[losses] ssim_window is {config.losses.ssim_window}, wider than slices of {size[:2]}", HINT)


def train_autoencoder(
    config: SliceLDMConfig, out: Path, *, resume: bool, device: str, on_event: Callable[[dict], None]
) -> Path:
    """Trains the autoencoder; returns the checkpoint, whose "weights" later stages take."""
    fabric = make_fabric(config, device)
    stage = AutoencoderStage(config, fabric, on_event)
    return run_stage(stage, config, out, fabric, resume=resume, on_event=on_event)
