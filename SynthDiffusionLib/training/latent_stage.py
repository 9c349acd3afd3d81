"""What stages that train a diffusion on latents share: forward process, loss, averages, validation and pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.sampling.denoising import sample
from SynthDiffusionLib.sampling.schedule import PREDICTIONS, DiffusionSpec, diffuse
from SynthDiffusionLib.training.latents import Latent, LatentSet, draw_latents, largest_that_fits
from SynthDiffusionLib.training.loop import Ema, Stage, adamw, learning_rate_at, plain
from SynthDiffusionLib.training.stages import HINT, StageConfig

VALIDATION_BATCHES = 8
PICTURE_STEPS = 25
LOSSES = {"smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss, "mse": F.mse_loss}


def forward_process(table: dict[str, Any]) -> DiffusionSpec:
    """The [diffusion] table.

    Raises:
        BadInput: settings that do not exist, or make no forward process.
    """
    from SynthDiffusionLib.sampling.samplers import BETA_SCHEDULES

    try:
        diffusion = DiffusionSpec(**table)
    except TypeError as error:
        raise BadInput(f"[diffusion] is not complete: {error}", HINT) from error
    if diffusion.beta_schedule not in BETA_SCHEDULES:
        raise BadInput(f"[diffusion] beta_schedule must be one of {', '.join(BETA_SCHEDULES)}", HINT)
    if diffusion.prediction not in PREDICTIONS:
        raise BadInput(f"[diffusion] prediction must be one of {', '.join(PREDICTIONS)}", HINT)
    if not isinstance(diffusion.train_steps, int) or not 1 <= diffusion.train_steps <= 100_000:
        raise BadInput("[diffusion] train_steps must be a whole number from 1 to 100000", HINT)
    return diffusion


def check_crops(crops: tuple[tuple[int, ...], ...], divisors: Sequence[int]) -> None:
    """Sides must be multiples of what the U-Net halves along each axis, the first size the smallest.

    Raises:
        BadInput: they are not.
    """
    same = len(set(divisors)) == 1
    for size in crops:
        if any(n % divisor for n, divisor in zip(size, divisors)):
            wanted = divisors[0] if same else list(divisors)
            raise BadInput(f"[latents] crops must be multiples of {wanted}, not {list(size)}", HINT)
        if any(n < first for n, first in zip(size, crops[0])):
            raise BadInput(f"[latents] crops must begin with the smallest size, but {list(size)} is smaller", HINT)


def check_channels(network: dict[str, Any], channels: int) -> None:
    """The U-Net must take and give as many channels as the latent has.

    Raises:
        BadInput: it does not.
    """
    for name in ("in_channels", "out_channels"):
        if network.get(name) != channels:
            raise BadInput(
                f"[network] {name} is {network.get(name)}, but the autoencoder's latents have {channels} channels",
                "Give the number of channels of the autoencoder that [run] names.",
            )


class LatentStage(Stage):
    """See the module.

    What goes with each latent is called its labels: its class map (D, H, W), or what a method has in the place of that.

    Attributes:
        trained: the network that is trained, set up by Fabric.
        clip: what the estimates of clean latents are kept within in the picture's samples.
        downsampling: image voxels per latent voxel.
        initial_steps: that the weights were trained for before this run.
    """

    initial_steps: int = 0
    clip: tuple[float, float] | None = None

    def __init__(
        self, config: StageConfig, fabric: Fabric, latents: LatentSet, diffusion: DiffusionSpec,
        crops: tuple[tuple[int, ...], ...], downsampling: int, network: torch.nn.Module,
    ) -> None:  # fmt: skip
        self.config, self.fabric, self.latents = config, fabric, latents
        self.diffusion, self.crops, self.downsampling = diffusion, crops, downsampling
        self.alphas = diffusion.alphas_cumprod().to(fabric.device)
        optimiser = config.optimiser
        self.epoch_steps = -(-len({latent.case for latent in latents.train}) // (optimiser.batch * fabric.world_size))
        self.ema = Ema(network, optimiser.ema) if optimiser.ema else None
        self.trained, self.optimiser = fabric.setup(
            network, adamw(config, fabric, network.parameters(), optimiser.learning_rate)
        )
        self.parts = {"network": plain(self.trained), "optimiser": self.optimiser}
        if self.ema is not None:
            self.ema.module.to(fabric.device)
            self.parts["ema_state"] = self.ema
        self.fixed = [self._draw(latents.validation, crops, [config.seed, 31, i]) for i in range(VALIDATION_BATCHES)]

    @abstractmethod
    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        """Latents as they are stored, (B, ..., d, h, w), as the diffusion works on them, (B, C, d, h, w)."""

    @abstractmethod
    def decode(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Latents of the diffusion, with their labels, to images (B, 1, D, H, W) float32, or what a method makes."""

    def _draw(
        self, latents: list[Latent], crops: tuple[tuple[int, ...], ...], seed: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, np.random.Generator]:
        """Scaled latents (B, C, d, h, w), class maps (B, D, H, W), and the generator to draw on with."""
        rng = np.random.default_rng(seed)
        values, labels = draw_latents(latents, crops, self.config.optimiser.batch, self.downsampling, rng)
        return self.scaled(values), labels, rng

    def predict(
        self, network: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor | None
    ) -> torch.Tensor:
        """The prediction of the whole model, with `network` in the place of the one that is trained."""
        return network(noisy, timesteps)

    def condition(self, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor | None:
        """The condition for labels (B, ...), randomly dropped; None without one."""
        return None

    def loss(
        self,
        network: torch.nn.Module,
        clean: torch.Tensor,
        condition: torch.Tensor | None,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Loss of a batch; noise and time steps are drawn on the device from `generator`."""
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        timesteps = torch.randint(
            0, self.diffusion.train_steps, (len(clean),), generator=generator, device=clean.device
        )
        noisy, target = diffuse(clean, noise, self.alphas[timesteps], self.diffusion.prediction)
        return LOSSES[self.config.optimiser.loss](self.predict(network, noisy, timesteps, condition).float(), target)

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.fabric.device).manual_seed(seed)

    def train_step(self, step: int, share: float) -> dict[str, torch.Tensor]:
        config, rank = self.config, self.fabric.global_rank
        clean, labels, rng = self._draw(self.latents.train, self.crops, [config.seed, 30, step, rank])
        rate = learning_rate_at(config.optimiser, config.optimiser.learning_rate, step, share, self.epoch_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.trained.train()
        seed = (config.seed * 1_000_003 + step) * 1009 + rank
        loss = self.loss(self.trained, clean, self.condition(labels, rng), self._generator(seed))
        self.descend(self.trained, self.optimiser, loss)
        if self.ema is not None:
            self.ema.update(plain(self.trained))
        return {"loss": loss.detach(), "learning_rate": torch.tensor(rate)}

    def averaged(self) -> torch.nn.Module:
        """The network that is used: the average, if one is kept."""
        return self.ema.module if self.ema is not None and self.ema.count else plain(self.trained).eval()

    def validate(self) -> dict[str, float]:
        return {"validation_loss": self.validation_loss()}

    @torch.no_grad()
    def validation_loss(self, others: bool = False) -> float:
        """Mean loss of the validation batches.

        Args:
            others: each volume is given the labels of another of its batch. What a network loses by that is what its
                condition tells it.
        """
        network, losses = self.averaged(), []
        for index, (clean, labels, _) in enumerate(self.fixed):
            labels = labels.roll(1, 0) if others else labels
            condition = self.condition(labels, np.random.default_rng([self.config.seed, 32, index]))
            with self.fabric.autocast():
                losses.append(self.loss(network, clean, condition, self._generator(self.config.seed + index)))
        return float(torch.stack(losses).mean())

    def picture_condition(self, labels: torch.Tensor) -> torch.Tensor | None:
        """The condition of the samples in the picture."""
        return None

    def picture(self) -> np.ndarray:
        """Middle slices: validation cases as the autoencoder gives them back above, samples below."""
        size = largest_that_fits(self.latents.validation, self.crops)
        clean, labels, _ = self._draw(self.latents.validation, (size,), [self.config.seed, 33])
        clean, labels = clean[:6], labels[:6]
        network, condition = self.averaged(), self.picture_condition(labels)

        def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            with self.fabric.autocast():
                return self.predict(network, noisy, timesteps, condition).float()

        drawn = sample(
            predict, tuple(clean.shape), self.diffusion, sampler="dpmpp-2m",
            steps=min(PICTURE_STEPS, self.diffusion.train_steps), seed=self.config.seed, device=self.fabric.device,
            clip=self.clip,
        )  # fmt: skip
        rows = []
        for latents in (clean, drawn):
            made = [self.decode(one[None], its[None]) for one, its in zip(latents, labels)]
            images = torch.cat(made).cpu().numpy()
            rows.append(np.concatenate([p[0, :, :, p.shape[-1] // 2].T for p in images], axis=1))
        return ((np.clip(np.concatenate(rows), -1, 1) + 1) * 127.5).astype(np.uint8)

    def record(self) -> dict[str, Any]:
        return {
            "weights": {name: t.detach().cpu().clone() for name, t in self.averaged().state_dict().items()},
            "seed": self.config.seed,
            "initial_steps": self.initial_steps,
        }
