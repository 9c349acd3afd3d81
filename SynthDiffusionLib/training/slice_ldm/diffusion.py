"""Stage 3: the diffusion of stacks of latents, told the characteristics of the target (Kebaili et al.,
arXiv:2406.05421)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.models.characteristics import CharacteristicsSpec
from SynthDiffusionLib.sampling.denoising import sample
from SynthDiffusionLib.sampling.schedule import DiffusionSpec
from SynthDiffusionLib.training.earlier import begin_with, steps_of
from SynthDiffusionLib.training.latent_stage import PICTURE_STEPS, LatentStage, check_channels, forward_process
from SynthDiffusionLib.training.loop import make_fabric, run_stage
from SynthDiffusionLib.training.slice_ldm.autoencoder import build_trained, check_sizes, rows_of
from SynthDiffusionLib.training.slice_ldm.config import SliceLDMConfig
from SynthDiffusionLib.training.slice_ldm.earlier import Autoencoder, check_refiner, read_stage
from SynthDiffusionLib.training.slice_ldm.latents import Latent, LatentSet, prepare_latents
from SynthDiffusionLib.training.slice_ldm.volumes import load_pairs
from SynthDiffusionLib.training.stages import HINT

PICTURE_CASES = 3


class DiffusionStage(LatentStage):
    """See the module; the condition is the characteristics, scaled, (B, 9)."""

    name = "diffusion"
    columns = ("step", "loss", "learning_rate", "validation_loss", "validation_others", "seconds")

    def __init__(
        self, config: SliceLDMConfig, fabric: Fabric, autoencoder: Autoencoder, refiner: torch.nn.Module | None,
        latents: LatentSet, diffusion: DiffusionSpec, network: torch.nn.Module,
    ) -> None:  # fmt: skip
        self.autoencoder, self.refiner = autoencoder, refiner
        super().__init__(config, fabric, latents, diffusion, (), autoencoder.network.downsampling, network)

    def stacked(self, chosen: Sequence[Latent]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled latents (B, C, i, j, K), and scaled characteristics (B, 9)."""
        values = self.latents.characteristics.for_network(np.stack([latent.characteristics for latent in chosen]))
        clean = self.scaled(torch.stack([latent.latent for latent in chosen]))
        return clean, torch.from_numpy(values).float().to(clean.device)

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        return values.float() * self.latents.scale_factor

    def decode(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Image and mask (B, 2, I, J, K), with the refiner if there is one; the characteristics are not needed."""
        return self.autoencoder.decode(latents / self.latents.scale_factor, self.refiner)

    def _draw(
        self, latents: list[Latent], crops: tuple[tuple[int, ...], ...], seed: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, np.random.Generator]:
        """A batch of random copies, whole, with their characteristics in the place of class maps."""
        rng = np.random.default_rng(seed)
        chosen = [latents[rng.integers(len(latents))] for _ in range(self.config.optimiser.batch)]
        return *self.stacked(chosen), rng

    def condition(self, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """The characteristics (B, 9); with the chance `drop` all nine of a volume are NaN, the null condition."""
        dropped = torch.from_numpy(rng.random(len(labels)) < self.config.condition.drop).to(labels.device)
        return labels.masked_fill(dropped[:, None], float("nan"))

    def predict(
        self, network: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor | None
    ) -> torch.Tensor:
        return network(noisy, timesteps, condition)

    def validate(self) -> dict[str, float]:
        return super().validate() | {"validation_others": self.validation_loss(others=True)}

    @torch.no_grad()
    def picture(self) -> np.ndarray:
        """In three planes: validation cases as the autoencoder gives them back above, and below samples with the same
        characteristics; image left, mask right."""
        clean, values = self.stacked(self.latents.validation[:PICTURE_CASES])
        network = self.averaged()

        def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            with self.fabric.autocast():
                return network(noisy, timesteps, values).float()

        drawn = sample(
            predict, tuple(clean.shape), self.diffusion, sampler="dpmpp-2m",
            steps=min(PICTURE_STEPS, self.diffusion.train_steps), seed=self.config.seed, device=self.fabric.device,
            clip=None,
        )  # fmt: skip
        found = []
        for pair in zip(clean, drawn):
            volumes = [self.decode(one[None], values)[0] for one in pair]
            found.append(np.concatenate([rows_of(*(v[c] for v in volumes)) for c in range(2)], axis=1))
        return np.concatenate(found)

    def record(self) -> dict[str, Any]:
        return {
            **super().record(),
            "scale_factor": self.latents.scale_factor,
            "autoencoder_sha256": self.autoencoder.digest,
            "diffusion": self.config.diffusion,
            "characteristics": self.latents.characteristics.to_json(),
        }


def train_diffusion(
    config: SliceLDMConfig, out: Path, *, resume: bool, device: str, on_event: Callable[[dict], None]
) -> Path:
    """Encodes the cases, then trains the U-Net; returns the checkpoint, whose "weights" are the averaged ones.

    Raises:
        BadInput: settings that do not fit each other or the earlier stages.
    """
    diffusion = forward_process(config.diffusion)
    fabric = make_fabric(config, device)  # and its seed, before any weight is drawn
    network = build_trained("diffusion", config.network)
    autoencoder = Autoencoder(read_stage(config.autoencoder, "autoencoder", on_event), fabric)
    refiner = None
    if config.refiner is not None:
        state = read_stage(config.refiner, "refiner", on_event)
        check_refiner(state, autoencoder, config.refiner)
        refiner = build_trained("refiner", state["network_json"])
        refiner.load_state_dict(state["weights"])
        refiner = refiner.eval().requires_grad_(False).to(fabric.device)
    scheme = load_scheme(config.label_scheme)
    sizes = [
        load_pairs(config.data, part, scheme, config.volumes, autoencoder.intensity_range)[0].size
        for part in ("train", "validation")
    ]
    check_sizes(autoencoder.network, *sizes, config)
    check_network(network, config, autoencoder, sizes[0])
    initial = begin_with(network, config, read_stage, autoencoder.digest)
    latents = prepare_latents(out / "latents", scheme, config, autoencoder, on_event)
    if initial:
        before = CharacteristicsSpec.from_json(initial["characteristics"])
        network.rescale_characteristics(before, latents.characteristics)
    stage = DiffusionStage(config, fabric, autoencoder, refiner, latents, diffusion, network)
    stage.initial_steps = steps_of(initial)
    return run_stage(stage, config, out, fabric, resume=resume, on_event=on_event)


def check_network(
    network: torch.nn.Module, config: SliceLDMConfig, autoencoder: Autoencoder, size: tuple[int, int, int]
) -> None:
    """Whether the U-Net takes the latents and as many characteristics as there are.

    Raises:
        BadInput: it does not.
    """
    check_channels(config.network, autoencoder.channels)
    if network.characteristics != 9:
        raise BadInput(f"[network] characteristics must be 9, not {network.characteristics}", HINT)
    factor = autoencoder.network.downsampling
    sides = (size[0] // factor, size[1] // factor, size[2])
    if any(n % network.divisor for n in sides):
        raise BadInput(
            f"The latents have the sides {sides}, which are no multiples of {network.divisor}",
            "Give another size in [volumes], or [network] fewer levels.",
        )
