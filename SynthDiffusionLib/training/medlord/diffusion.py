"""Stage 2: the latent diffusion U-Net, without a condition (Seyfarth et al., arXiv:2503.13211)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.sampling.schedule import DiffusionSpec
from SynthDiffusionLib.training.earlier import begin_with, steps_of
from SynthDiffusionLib.training.latent_stage import LatentStage, check_channels, check_crops, forward_process
from SynthDiffusionLib.training.latents import LatentSet
from SynthDiffusionLib.training.loop import make_fabric, run_stage
from SynthDiffusionLib.training.medlord.autoencoder import build_trained
from SynthDiffusionLib.training.medlord.config import MedLoRDConfig
from SynthDiffusionLib.training.medlord.earlier import read_stage
from SynthDiffusionLib.training.medlord.latents import Autoencoder, prepare_latents
from SynthDiffusionLib.training.stages import HINT


class CodeStage(LatentStage):
    """What the stages diffusion and controlnet share: quantised latents, multiplied by one factor."""

    def __init__(
        self, config: MedLoRDConfig, fabric: Fabric, autoencoder: Autoencoder, latents: LatentSet, factor: float,
        diffusion: DiffusionSpec, crops: tuple[tuple[int, ...], ...], network: torch.nn.Module,
    ) -> None:  # fmt: skip
        self.autoencoder, self.factor = autoencoder, factor
        super().__init__(config, fabric, latents, diffusion, crops, autoencoder.downsampling, network)

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.embed(values) * self.factor

    def decode(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.decode(latents / self.factor)

    def record(self) -> dict[str, Any]:
        more = {"scale_factor": self.factor, "autoencoder_sha256": self.autoencoder.digest}
        return {**super().record(), **more}


class DiffusionStage(CodeStage):
    """See the module."""

    name = "diffusion"

    def record(self) -> dict[str, Any]:
        latents = self.config.latents
        settings = {
            "crops": [list(size) for size in latents.crops],
            "copies": latents.copies,
            "flip_probability": latents.flip_probability,
            "outline_sigmas": list(latents.outline_sigmas),
            "target": latents.target,
        }
        return {**super().record(), "diffusion": self.config.diffusion, "latents": settings}


def train_diffusion(
    config: MedLoRDConfig, out: Path, *, resume: bool, device: str, on_event: Callable[[dict], None]
) -> Path:
    """Encodes the cases, then trains the U-Net; returns the checkpoint, whose "weights" are the averaged ones."""
    diffusion = forward_process(config.diffusion)
    fabric = make_fabric(config, device)  # and its seed, before any weight is drawn
    network = build_trained("diffusion", config.network)
    check_crops(config.latents.crops, (2 ** (len(config.network.get("channels", ())) - 1),) * 3)
    autoencoder = Autoencoder(read_stage(config.autoencoder, "autoencoder", on_event), fabric)
    check_channels(config.network, autoencoder.channels)
    initial = begin_with(network, config, read_stage, autoencoder.digest)
    scheme = load_scheme(config.label_scheme)
    names = [c.name for c in scheme.condition_classes]
    if config.latents.target is not None and config.latents.target not in names:
        raise BadInput(f"[latents] target '{config.latents.target}' is none of the classes {', '.join(names)}", HINT)
    latents, factor = prepare_latents(
        out / "latents", config.data, scheme, config.latents, autoencoder, config.seed, on_event
    )
    stage = DiffusionStage(config, fabric, autoencoder, latents, factor, diffusion, config.latents.crops, network)
    stage.initial_steps = steps_of(initial)
    return run_stage(stage, config, out, fabric, resume=resume, on_event=on_event)
