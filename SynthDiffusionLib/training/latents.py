"""Latents of the training and validation cases, encoded once and kept on disk with what they were made of.

A file for each case holds its encoded copies, beside each the class map of the same shifted and flipped copy at full
resolution, and a checksum of all that they depend on: what is missing, damaged or stale is encoded anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.training.crops import smooth_outlines
from SynthDiffusionLib.training.dataset import Case, load_split
from SynthDiffusionLib.volumes.atomic import atomic_file


def digest_of(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names and values of tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Latent:
    """One copy of a case on the device.

    Args:
        case: its name.
        values: (..., d, h, w), as a method stores latents.
        classes: (D, H, W) uint8, of the image's voxels.
    """

    case: str
    values: torch.Tensor
    classes: torch.Tensor


@dataclass(frozen=True)
class Recipe:
    """How the copies of a case are made, and what they depend on beside the case.

    Args:
        name: of the entries with the latents; those of copy n are "NAMEn" and "classesn".
        copies: of each training case; a validation case has one.
        settings: all that decides what a copy is, as JSON has it.
        digest: of the autoencoder's weights.
        intensity_range: of the autoencoder.
        encode: case, its number within its part and the number of copies to the entries.
        fits: whether latent and class map of a copy are of this autoencoder.
        load: a latent of a file, as it is wanted on the device.
    """

    name: str
    copies: int
    settings: dict[str, Any]
    digest: str
    intensity_range: tuple[float, ...]
    encode: Callable[[Case, int, int], dict[str, torch.Tensor]]
    fits: Callable[[torch.Tensor, torch.Tensor], bool]
    load: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LatentSet:
    """All latents of a run: the two parts, the bytes on disk, and how many cases were encoded now."""

    train: list[Latent]
    validation: list[Latent]
    bytes: int
    renewed: int


def keep_latents(folder: Path, data: Path, recipe: Recipe, fabric: Fabric) -> LatentSet:
    """Reads `folder`, and encodes anew what is missing, damaged, or of another autoencoder, case or setting.

    Args:
        folder: for one file per case, "train-NAME.safetensors" or "validation-NAME.safetensors".

    Raises:
        BadInput: no training or validation cases, or a class map with other classes than the scheme's.
        RunFailed: the disk is full.
    """
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
            count = recipe.copies if split == "train" else 1
            stamp = _stamp(case, recipe, index)
            path = folder / f"{split}-{case.name}.safetensors"
            tensors = read_sealed(path, stamp, recipe, count)
            if tensors is None:
                tensors = recipe.encode(case, index, count)
                renewed += 1
                if fabric.is_global_zero:
                    write_sealed(path, stamp, tensors)
            total += sum(t.numel() * t.element_size() for t in tensors.values())
            latents += [
                Latent(
                    case.name,
                    recipe.load(tensors[f"{recipe.name}{n}"].to(fabric.device)),
                    tensors[f"classes{n}"].to(fabric.device),
                )
                for n in range(count)
            ]
    fabric.barrier()
    return LatentSet(parts["train"], parts["validation"], total, renewed)


def write_summary(folder: Path, latents: LatentSet, recipe: Recipe, **more: Any) -> None:
    """`latents.json`: what the latents in a folder are."""
    summary = {
        "autoencoder_sha256": recipe.digest,
        "settings": recipe.settings,
        "bytes": latents.bytes,
        **more,
        "copies": {"train": len(latents.train), "validation": len(latents.validation)},
    }
    with atomic_file(folder / "latents.json") as stream:
        stream.write((json.dumps(summary, indent=1) + "\n").encode("utf-8"))


def _stamp(case: Case, recipe: Recipe, index: int) -> str:
    """SHA-256 of all that the latents of a case depend on."""
    stated = json.dumps([recipe.settings, index, list(recipe.intensity_range)], sort_keys=True)
    digest = hashlib.sha256(stated.encode())
    digest.update(recipe.digest.encode())
    for array in (case.image.array, case.classes.array):
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def sealed(stamp: str, tensors: dict[str, torch.Tensor]) -> str:
    """The stamp and, after it, a SHA-256 of names, types, shapes and values of the tensors."""
    return f"{stamp} {hashlib.sha256(save(tensors)).hexdigest()}"


def write_sealed(path: Path, stamp: str, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a file that `read_whole` reads.

    Raises:
        RunFailed: the disk is full.
    """
    with atomic_file(path) as stream:
        stream.write(save(tensors, metadata={"stamp": sealed(stamp, tensors)}))


def read_whole(path: Path, stamp: str) -> dict[str, torch.Tensor] | None:
    """The tensors of a file that is whole and of this stamp, or None."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("stamp", "")
        if not found.startswith(stamp):
            return None
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError):  # KeyError: a type of numbers that PyTorch has not
        return None
    return tensors if found == sealed(stamp, tensors) else None


def read_sealed(path: Path, stamp: str, recipe: Recipe, count: int) -> dict[str, torch.Tensor] | None:
    """The tensors of a file that is whole, of this stamp and of `count` copies, or None."""
    tensors = read_whole(path, stamp)
    if tensors is None or tensors.keys() != {f"{kind}{n}" for kind in (recipe.name, "classes") for n in range(count)}:
        return None
    whole = all(recipe.fits(tensors[f"{recipe.name}{n}"], tensors[f"classes{n}"]) for n in range(count))
    return tensors if whole else None


def standard_deviation(latents: Sequence[torch.Tensor]) -> float:
    """Over all numbers of some latents, in float64; at least 1e-6, so that it can be divided by."""
    count = sum(values.numel() for values in latents)
    mean = sum(float(values.double().sum()) for values in latents) / count
    squares = sum(float((values.double() - mean).square().sum()) for values in latents)
    return max((squares / count) ** 0.5, 1e-6)


def blunt(
    classes: torch.Tensor, scheme: LabelScheme, sharp: Collection[str], sigma: float, bias: float
) -> torch.Tensor:
    """`patches.blunt_anatomy` on any device: smoother, slightly larger or smaller outlines of all but some classes."""
    if sigma <= 0:
        return classes
    result = torch.zeros_like(classes)
    for label in scheme.condition_classes:
        values = torch.tensor(scheme.containing(label.name), dtype=classes.dtype, device=classes.device)
        mask = torch.isin(classes, values)
        if label.name not in sharp:
            mask = smooth_outlines(mask[None], sigma, bias)[0]
        result[mask] = label.value
    return result


def largest_that_fits(latents: Sequence[Latent], crops: Sequence[Sequence[int]]) -> Sequence[int]:
    """The last of the sizes that a latent is large enough for; the first fits every latent."""
    fitting = [size for size in crops if any(all(n >= s for n, s in zip(o.values.shape[-3:], size)) for o in latents)]
    return (fitting or crops[:1])[-1]


def draw_latents(
    latents: Sequence[Latent], crops: Sequence[Sequence[int]], batch: int, factor: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of random crops of one size: latents (B, ..., d, h, w) and class maps (B, D, H, W).

    Args:
        crops: sizes in latent voxels, one of which is taken; the first fits every latent.
        factor: image voxels per latent voxel.
    """
    size = crops[rng.integers(len(crops))]
    large = [latent for latent in latents if all(n >= s for n, s in zip(latent.values.shape[-3:], size))]
    if not large:
        large, size = latents, crops[0]
    values, classes = [], []
    for _ in range(batch):
        latent = large[rng.integers(len(large))]
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(latent.values.shape[-3:], size)]
        values.append(latent.values[(..., *(slice(a, a + s) for a, s in zip(start, size)))])
        full = [slice(a * factor, (a + s) * factor) for a, s in zip(start, size)]
        classes.append(latent.classes[tuple(full)])
    return torch.stack(values), torch.stack(classes)
