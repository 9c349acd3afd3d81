"""MedLoRD's latents, quantised: stored as their codes, the indices into the codebook (2 bytes a latent voxel instead of
32), which give the quantised latent back exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.networks.codebook import embed_codes, nearest_codes
from SynthDiffusionLib.training.crops import AIR, pad_to
from SynthDiffusionLib.training.dataset import Case
from SynthDiffusionLib.training.latents import LatentSet, Recipe, blunt, digest_of, keep_latents, write_summary
from SynthDiffusionLib.training.medlord.autoencoder import build_trained, downsampling_of
from SynthDiffusionLib.training.medlord.config import LatentConfig


class Autoencoder:
    """A trained VQVAE for encoding and decoding; not trained further.

    Attributes:
        digest: of its weights.
        downsampling: image voxels per latent voxel.
    """

    def __init__(self, state: dict[str, Any], fabric: Fabric) -> None:
        """`state` is a checkpoint from `earlier.read_stage`, which has checked it."""
        self.parameters = state["network_json"]
        self.intensity_range = tuple(state["intensity_range"])
        self.downsampling = downsampling_of(self.parameters)
        self.weights = state["weights"]
        self.digest = digest_of(self.weights)
        self.fabric = fabric
        network = build_trained("autoencoder", self.parameters)
        network.load_state_dict(self.weights)
        self.network = network.eval().requires_grad_(False).to(fabric.device)
        self.codebook = self.network.quantizer.quantizer.embedding.weight

    @property
    def channels(self) -> int:
        return self.codebook.shape[1]

    @torch.no_grad()
    def codes(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, d, h, w) to the indices of the nearest codes, (B, d, h, w) int64."""
        return nearest_codes(self.codebook, latents)

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """Indices (B, d, h, w) to quantised latents (B, C, d, h, w)."""
        return embed_codes(self.codebook, codes)

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, D, H, W) to codes (B, d, h, w)."""
        with self.fabric.autocast():
            encodings = self.network.encode(images)
        return self.codes(encodings)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents, quantised here, to images (B, 1, D, H, W) float32."""
        quantised = self.embed(self.codes(latents))
        with self.fabric.autocast():
            return self.network.decode(quantised).float()


def _copies(
    case: Case, config: LatentConfig, index: int, autoencoder: Autoencoder, scheme: LabelScheme, count: int, seed: int
) -> dict[str, torch.Tensor]:
    """Codes and class maps of `count` copies; the first of a validation case is the case as it is."""
    device = autoencoder.fabric.device
    factor = autoencoder.downsampling
    image = torch.from_numpy(normalise(case.image.array, autoencoder.intensity_range)).to(device)
    classes = torch.from_numpy(case.classes.array.astype(np.uint8)).to(device)
    smallest = [n * factor for n in config.crops[0]]
    tensors = {}
    for copy in range(count):
        plain = count == 1
        rng = np.random.default_rng([seed, 20, index, copy])
        flips = [a for a in range(3) if rng.random() < config.flip_probability]
        shift = [int(rng.integers(factor)) for _ in range(3)]
        sigma, bias = rng.uniform(*config.outline_sigmas), rng.uniform(-0.15, 0.15)
        if plain:
            flips, shift, sigma = [], [0, 0, 0], 0.0
        copied, labels = (v.flip(flips) if flips else v for v in (image, classes))
        labels = blunt(labels, scheme, [config.target], sigma, bias)
        size = [-(-(n + s) // factor) * factor for n, s in zip(copied.shape, shift)]
        pads = [p for n, s, t in reversed(list(zip(copied.shape, shift, size))) for p in (s, t - n - s)]
        copied = pad_to(F.pad(copied, pads, value=AIR), smallest, AIR)
        labels = pad_to(F.pad(labels, pads, value=0), smallest, 0)
        codes = autoencoder.encode(copied[None, None])[0]
        kind = torch.int16 if len(autoencoder.codebook) <= 2**15 else torch.int32
        tensors[f"codes{copy}"] = codes.to("cpu", kind).contiguous()
        tensors[f"classes{copy}"] = labels.cpu().contiguous()
    return tensors


def recipe_of(scheme: LabelScheme, config: LatentConfig, autoencoder: Autoencoder, seed: int) -> Recipe:
    """How the copies of a case are made."""

    def encode(case: Case, index: int, count: int) -> dict[str, torch.Tensor]:
        return _copies(case, config, index, autoencoder, scheme, count, seed)

    return Recipe(
        name="codes",
        copies=config.copies,
        settings=json.loads(json.dumps({**asdict(config), "crops": [list(config.crops[0])], "seed": seed})),
        digest=autoencoder.digest,
        intensity_range=autoencoder.intensity_range,
        encode=encode,
        fits=partial(_fit, autoencoder),
        load=lambda codes: codes.to(torch.int64),
    )


def prepare_latents(
    folder: Path,
    data: Path,
    scheme: LabelScheme,
    config: LatentConfig,
    autoencoder: Autoencoder,
    seed: int,
    on_event: Callable[[dict], None],
) -> tuple[LatentSet, float]:
    """Reads `folder`, and encodes anew what is missing, damaged, or of another autoencoder, case or setting.

    Args:
        folder: as of `keep_latents`, and for "latents.json" with the checksum of the autoencoder.

    Returns:
        the latents, and 1 / standard deviation of those of training.

    Raises:
        BadInput: no training or validation cases, or a class map with other classes than the scheme's.
        RunFailed: the disk is full.
    """
    fabric, recipe = autoencoder.fabric, recipe_of(scheme, config, autoencoder, seed)
    latents = keep_latents(folder, data, recipe, fabric)
    factor = scale_factor([latent.values for latent in latents.train], autoencoder.codebook)
    count = len(latents.train) + len(latents.validation)
    on_event(
        {
            "event": "note",
            "message": f"Latents in '{folder}': {latents.bytes:,} bytes for {count} copies, {latents.renewed} "
            f"cases encoded now; scale factor {factor:.5f}.",
        }
    )
    if fabric.is_global_zero:
        write_summary(folder, latents, recipe, scale_factor=factor)
    return latents, factor


def _fit(autoencoder: Autoencoder, codes: torch.Tensor, classes: torch.Tensor) -> bool:
    """Whether codes are of the codebook, and a class map covers them."""
    if codes.dtype not in (torch.int16, torch.int32) or classes.dtype != torch.uint8 or not codes.numel():
        return False
    if codes.ndim != 3 or [n * autoencoder.downsampling for n in codes.shape] != list(classes.shape):
        return False
    return 0 <= int(codes.min()) and int(codes.max()) < len(autoencoder.codebook)


def scale_factor(codes: Sequence[torch.Tensor], codebook: torch.Tensor) -> float:
    """1 / standard deviation of the quantised latents, over all of their numbers, from how often each code occurs."""
    counts = sum(torch.bincount(c.flatten(), minlength=len(codebook)) for c in codes).double().cpu()
    book = codebook.double().cpu()
    number = counts.sum() * book.shape[1]
    mean = (counts[:, None] * book).sum() / number
    variance = (counts[:, None] * (book - mean) ** 2).sum() / number
    return 1.0 / max(float(variance.sqrt()), 1e-6)
