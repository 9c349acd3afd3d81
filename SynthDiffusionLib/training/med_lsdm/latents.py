"""Med-LSDM's latents: what the encoder gives, not quantised, and scaled by the ends of the codebook."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.training.crops import mirror_to
from SynthDiffusionLib.training.dataset import Case
from SynthDiffusionLib.training.latents import (
    LatentSet,
    Recipe,
    blunt,
    digest_of,
    keep_latents,
    standard_deviation,
    write_summary,
)
from SynthDiffusionLib.training.med_lsdm.autoencoder import build_trained
from SynthDiffusionLib.training.med_lsdm.config import LatentConfig

NUMBERS = {"float16": torch.float16, "float32": torch.float32}


class Autoencoder:
    """A trained VQ-GAN for encoding and decoding; not trained further.

    Attributes:
        digest: of its weights.
        downsampling: image voxels per latent voxel.
        range: least and greatest number of the codebook, which become -1 and 1 where there is no `factor`.
        factor: what latents are multiplied by to get a standard deviation of 1; None until `prepare_latents` has
            measured it, and where the codebook scales them.
        steered: whether the decoder takes the label map.
    """

    def __init__(self, state: dict[str, Any], fabric: Fabric) -> None:
        """`state` is a checkpoint from `earlier.read_stage`, which has checked it."""
        self.parameters = state["network_json"]
        self.intensity_range = tuple(state["intensity_range"])
        self.downsampling = int(state["downsampling"])
        self.weights = state["weights"]
        self.digest = digest_of(self.weights)
        self.fabric = fabric
        network = build_trained("autoencoder", self.parameters)
        network.load_state_dict(self.weights)
        self.network = network.eval().requires_grad_(False).to(fabric.device)
        self.range = (float(network.codebook.min()), float(network.codebook.max()))
        self.factor: float | None = None
        self.steered = network.condition_channels > 0

    @property
    def channels(self) -> int:
        return self.network.codebook.shape[1]

    def scaled(self, z: torch.Tensor) -> torch.Tensor:
        """Latents as the encoder gives them to those of the diffusion."""
        if self.factor is not None:
            return z.float() * self.factor
        low, high = self.range
        return 2.0 * (z.float() - low) / (high - low) - 1.0

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of `scaled`."""
        if self.factor is not None:
            return latents.float() / self.factor
        low, high = self.range
        return (latents.float() + 1.0) * (0.5 * (high - low)) + low

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, D, H, W) to latents (B, C, d, h, w) float32, not quantised; once for a run, so in fp32."""
        return self.network.encode(images).float()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Latents of the diffusion, quantised here, with a label map (B, C + 1, D, H, W), to images (B, 1, D, H, W)."""
        quantised, _ = self.network.quantise(self.unscaled(latents))
        with self.fabric.autocast():
            return self.network.decode(quantised, condition if self.steered else None).float()


def _copies(
    case: Case, config: LatentConfig, index: int, autoencoder: Autoencoder, scheme: LabelScheme, count: int, seed: int
) -> dict[str, torch.Tensor]:
    """Latents and class maps of `count` copies; the only one of a validation case is the case as it is."""
    device, factor = autoencoder.fabric.device, autoencoder.downsampling
    image = normalise(case.image.array, autoencoder.intensity_range)
    smallest = [n * factor for n in config.crops[0]]
    tensors = {}
    for copy in range(count):
        rng = np.random.default_rng([seed, 20, index, copy])
        flips = [a for a in range(3) if rng.random() < config.flip_probability[a]]
        shift = [int(rng.integers(factor)) for _ in range(3)]
        sigma, bias = rng.uniform(*config.outline_sigmas), rng.uniform(-0.15, 0.15)
        if count == 1:
            flips, shift, sigma = [], [0, 0, 0], 0.0
        classes = torch.from_numpy(case.classes.array.astype(np.uint8)).to(device)
        classes = blunt(classes, scheme, config.sharp, sigma, bias).cpu().numpy()
        size = [max(least, -(-(n + s) // factor) * factor) for n, s, least in zip(image.shape, shift, smallest)]
        copied, labels = (mirror_to(np.flip(a, flips), size, shift).copy() for a in (image, classes))
        latent = autoencoder.encode(torch.from_numpy(copied).to(device)[None, None])[0]
        tensors[f"latent{copy}"] = latent.to("cpu", NUMBERS[config.number]).contiguous()
        tensors[f"classes{copy}"] = torch.from_numpy(labels)
    return tensors


def recipe_of(scheme: LabelScheme, config: LatentConfig, autoencoder: Autoencoder, seed: int) -> Recipe:
    """How the copies of a case are made."""

    # How latents are scaled says nothing of what is stored.
    settings = {k: v for k, v in asdict(config).items() if k != "scaling"}
    settings |= {"crops": [list(config.crops[0])], "seed": seed}

    def encode(case: Case, index: int, count: int) -> dict[str, torch.Tensor]:
        return _copies(case, config, index, autoencoder, scheme, count, seed)

    def fits(latent: torch.Tensor, classes: torch.Tensor) -> bool:
        if latent.dtype != NUMBERS[config.number] or classes.dtype != torch.uint8 or not latent.numel():
            return False
        if latent.ndim != 4 or latent.shape[0] != autoencoder.channels or not torch.isfinite(latent).all():
            return False
        return [n * autoencoder.downsampling for n in latent.shape[1:]] == list(classes.shape)

    return Recipe(
        name="latent",
        copies=config.copies,
        settings=json.loads(json.dumps(settings)),
        digest=autoencoder.digest,
        intensity_range=autoencoder.intensity_range,
        encode=encode,
        fits=fits,
        load=lambda latent: latent,
    )


def prepare_latents(
    folder: Path,
    data: Path,
    scheme: LabelScheme,
    config: LatentConfig,
    autoencoder: Autoencoder,
    seed: int,
    on_event: Callable[[dict], None],
) -> LatentSet:
    """Reads `folder`, and encodes anew what is missing, damaged, or of another autoencoder, case or setting.

    Args:
        folder: as of `keep_latents`, and for "latents.json" with the checksum of the autoencoder.

    Raises:
        BadInput: no training or validation cases, or a class map with other classes than the scheme's.
        RunFailed: the disk is full.
    """
    recipe = recipe_of(scheme, config, autoencoder, seed)
    latents = keep_latents(folder, data, recipe, autoencoder.fabric)
    if config.scaling == "deviation":
        autoencoder.factor = 1.0 / standard_deviation([latent.values for latent in latents.train])
    count, (low, high) = len(latents.train) + len(latents.validation), autoencoder.range
    beyond = max(float(autoencoder.scaled(latent.values).abs().max()) for latent in latents.train)
    on_event(
        {
            "event": "note",
            "message": f"Latents in '{folder}': {latents.bytes:,} bytes for {count} copies, {latents.renewed} cases "
            f"encoded now; {low:.4f} to {high:.4f} become {_text(autoencoder, low)} to {_text(autoencoder, high)}, the "
            f"furthest {beyond:.3f}.",
        }
    )
    if autoencoder.fabric.is_global_zero:
        write_summary(folder, latents, recipe, range=[low, high], factor=autoencoder.factor, furthest=beyond)
    return latents


def _text(autoencoder: Autoencoder, value: float) -> str:
    return f"{float(autoencoder.scaled(torch.tensor(value))):.3g}"
