"""Latents of the training and validation cases, encoded once and kept on disk with what they were made of.

A latent is stored as its codes, the indices into the codebook (2 bytes a latent voxel instead of 32), which give the
quantised latent back exactly; beside it lies the class map of the same shifted and flipped copy, at full resolution.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.networks.codebook import embed_codes, nearest_codes
from SynthDiffusionLib.training.dataset import Case, load_split
from SynthDiffusionLib.training.medlord.autoencoder import build_trained, downsampling_of
from SynthDiffusionLib.training.medlord.config import LatentConfig
from SynthDiffusionLib.training.medlord.crops import AIR, pad_to, smooth_outlines
from SynthDiffusionLib.volumes.atomic import atomic_file


def digest_of(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names and values of tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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


@dataclass(frozen=True)
class Latent:
    """One copy of a case on the device: `codes` (d, h, w) int64, `classes` (D, H, W) uint8, `case` its name."""

    case: str
    codes: torch.Tensor
    classes: torch.Tensor


@dataclass(frozen=True)
class LatentSet:
    """All latents of a run: the two parts, 1 / standard deviation of the training latents, and the bytes on disk."""

    train: list[Latent]
    validation: list[Latent]
    scale_factor: float
    bytes: int


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
        labels = blunt(labels, scheme, config.target, sigma, bias)
        size = [-(-(n + s) // factor) * factor for n, s in zip(copied.shape, shift)]
        pads = [p for n, s, t in reversed(list(zip(copied.shape, shift, size))) for p in (s, t - n - s)]
        copied = pad_to(F.pad(copied, pads, value=AIR), smallest, AIR)
        labels = pad_to(F.pad(labels, pads, value=0), smallest, 0)
        codes = autoencoder.encode(copied[None, None])[0]
        kind = torch.int16 if len(autoencoder.codebook) <= 2**15 else torch.int32
        tensors[f"codes{copy}"] = codes.to("cpu", kind).contiguous()
        tensors[f"classes{copy}"] = labels.cpu().contiguous()
    return tensors


def blunt(classes: torch.Tensor, scheme: LabelScheme, target: str | None, sigma: float, bias: float) -> torch.Tensor:
    """`patches.blunt_anatomy` on any device: smoother, slightly larger or smaller outlines of all but the target."""
    if sigma <= 0:
        return classes
    result = torch.zeros_like(classes)
    for label in scheme.condition_classes:
        values = torch.tensor(scheme.containing(label.name), dtype=classes.dtype, device=classes.device)
        mask = torch.isin(classes, values)
        if label.name != target:
            mask = smooth_outlines(mask[None], sigma, bias)[0]
        result[mask] = label.value
    return result


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
        folder: for one file per case, "train-NAME.safetensors" or "validation-NAME.safetensors", and "latents.json"
            with the checksums of the autoencoder and of each case.

    Raises:
        BadInput: no training or validation cases, or a class map with other classes than the scheme's.
        RunFailed: the disk is full.
    """
    fabric = autoencoder.fabric
    settings = json.loads(json.dumps({**asdict(config), "crops": [list(config.crops[0])], "seed": seed}))
    parts: dict[str, list[Latent]] = {"train": [], "validation": []}
    total, renewed = 0, 0
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
    fabric.barrier()
    for split, latents in parts.items():
        cases = load_split(data, split)
        if not cases:
            raise BadInput(f"The data set in '{data}' has no {split} cases", "Prepare it with another --split.")
        for index, case in enumerate(cases):
            count = config.copies if split == "train" else 1
            stamp = _stamp(case, settings, autoencoder, index)
            path = folder / f"{split}-{case.name}.safetensors"
            tensors = _read(path, stamp, count, autoencoder)
            if tensors is None:
                tensors = _copies(case, config, index, autoencoder, scheme, count, seed)
                renewed += 1
                if fabric.is_global_zero:
                    with atomic_file(path) as stream:
                        stream.write(save(tensors, metadata={"stamp": _sealed(stamp, tensors)}))
            total += sum(t.numel() * t.element_size() for t in tensors.values())
            latents += [
                Latent(
                    case.name,
                    tensors[f"codes{n}"].to(fabric.device, torch.int64),
                    tensors[f"classes{n}"].to(fabric.device),
                )
                for n in range(count)
            ]
    fabric.barrier()
    factor = scale_factor([latent.codes for latent in parts["train"]], autoencoder.codebook)
    on_event(
        {
            "event": "note",
            "message": f"Latents in '{folder}': {total:,} bytes for {sum(map(len, parts.values()))} copies, {renewed} "
            f"cases encoded now; scale factor {factor:.5f}.",
        }
    )
    if fabric.is_global_zero:
        summary = {
            "autoencoder_sha256": autoencoder.digest,
            "settings": settings,
            "bytes": total,
            "scale_factor": factor,
            "copies": {split: len(latents) for split, latents in parts.items()},
        }
        with atomic_file(folder / "latents.json") as stream:
            stream.write((json.dumps(summary, indent=1) + "\n").encode("utf-8"))
    return LatentSet(parts["train"], parts["validation"], factor, total)


def _stamp(case: Case, settings: dict[str, Any], autoencoder: Autoencoder, index: int) -> str:
    """SHA-256 of all that the latents of a case depend on."""
    digest = hashlib.sha256(json.dumps([settings, index, list(autoencoder.intensity_range)], sort_keys=True).encode())
    digest.update(autoencoder.digest.encode())
    for array in (case.image.array, case.classes.array):
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _sealed(stamp: str, tensors: dict[str, torch.Tensor]) -> str:
    """The stamp and, after it, a SHA-256 of names, types, shapes and values of the tensors."""
    return f"{stamp} {hashlib.sha256(save(tensors)).hexdigest()}"


def _read(path: Path, stamp: str, count: int, autoencoder: Autoencoder) -> dict[str, torch.Tensor] | None:
    """The tensors of a file that is whole, of this stamp and of `count` copies, or None."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            sealed = (file.metadata() or {}).get("stamp", "")
        if not sealed.startswith(stamp):
            return None
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError):  # KeyError: a type of numbers that PyTorch has not
        return None
    if tensors.keys() != {f"{kind}{n}" for kind in ("codes", "classes") for n in range(count)}:
        return None
    whole = all(_fit(tensors[f"codes{n}"], tensors[f"classes{n}"], autoencoder) for n in range(count))
    return tensors if whole and sealed == _sealed(stamp, tensors) else None


def _fit(codes: torch.Tensor, classes: torch.Tensor, autoencoder: Autoencoder) -> bool:
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


def draw_latents(
    latents: Sequence[Latent], crops: Sequence[Sequence[int]], batch: int, factor: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of random crops of one size: codes (B, d, h, w) and class maps (B, D, H, W).

    Args:
        crops: sizes in latent voxels, one of which is taken; the first fits every latent.
        factor: image voxels per latent voxel.
    """
    size = crops[rng.integers(len(crops))]
    large = [latent for latent in latents if all(n >= s for n, s in zip(latent.codes.shape, size))]
    if not large:
        large, size = latents, crops[0]
    codes, classes = [], []
    for _ in range(batch):
        latent = large[rng.integers(len(large))]
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(latent.codes.shape, size)]
        codes.append(latent.codes[tuple(slice(a, a + s) for a, s in zip(start, size))])
        full = [slice(a * factor, (a + s) * factor) for a, s in zip(start, size)]
        classes.append(latent.classes[tuple(full)])
    return torch.stack(codes), torch.stack(classes)
