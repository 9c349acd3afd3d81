"""Stacks of latents of the training and validation cases, encoded once and kept on disk with their characteristics.

A case has a file of some copies, each varied in another way: the latent (fp16), the mask of the same copy (one bit a
voxel), and the nine characteristics measured from that mask.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from SynthDiffusionLib.labels.characteristics import fit_distribution, measure, straight_axes
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.models.characteristics import NAMES, CharacteristicsSpec
from SynthDiffusionLib.training.dataset import patients_of
from SynthDiffusionLib.training.latents import read_whole, standard_deviation, write_sealed
from SynthDiffusionLib.training.slice_ldm.config import SliceLDMConfig
from SynthDiffusionLib.training.slice_ldm.earlier import Autoencoder
from SynthDiffusionLib.training.slice_ldm.volumes import (
    PARTS,
    Pair,
    Variation,
    draw_variation,
    load_pairs,
    target_of,
    varied,
)
from SynthDiffusionLib.volumes.atomic import atomic_file

KINDS = ("latent", "mask", "characteristics")


@dataclass(frozen=True)
class Latent:
    """One copy of a case.

    Args:
        case: its name.
        latent: (C, i, j, K) fp16 on the device, not scaled.
        characteristics: (9,) in the order of `models.characteristics.NAMES`.
    """

    case: str
    latent: torch.Tensor
    characteristics: np.ndarray


@dataclass(frozen=True)
class LatentSet:
    """All latents of a run.

    Args:
        train: of the training cases.
        validation: of the validation cases, one each.
        scale_factor: 1 / standard deviation of all numbers of the training latents.
        characteristics: how those of the training copies are distributed.
        bytes: of the tensors on disk.
    """

    train: list[Latent]
    validation: list[Latent]
    scale_factor: float
    characteristics: CharacteristicsSpec
    bytes: int


def packed(mask: np.ndarray) -> torch.Tensor:
    """(I, J, K) bool as bits, eight to a byte."""
    return torch.from_numpy(np.packbits(np.ascontiguousarray(mask).reshape(-1)))


def unpacked(bits: torch.Tensor, size: tuple[int, ...]) -> np.ndarray:
    """The inverse of `packed`."""
    return np.unpackbits(bits.numpy(), count=int(np.prod(size))).reshape(size).astype(bool)


def _copies(
    pair: Pair, index: int, count: int, config: SliceLDMConfig, autoencoder: Autoencoder, split: str
) -> dict[str, torch.Tensor]:
    """The tensors of a case: `count` varied copies; of a validation case one, as it is."""
    tensors: dict[str, torch.Tensor] = {}
    for copy in range(count):
        rng = np.random.default_rng([config.seed, 20, index, copy])
        variation = draw_variation(config.volumes, rng) if split == "train" else Variation()
        array = varied(pair.pair.to(autoencoder.fabric.device), variation, config.volumes.border)
        mask = (array[1] > 0).cpu().numpy()
        found = measure(mask, pair.affine)
        tensors[f"latent{copy}"] = autoencoder.encode(array[None])[0].to("cpu", torch.float16).contiguous()
        tensors[f"mask{copy}"] = packed(mask)
        tensors[f"characteristics{copy}"] = torch.tensor([found[name] for name in NAMES], dtype=torch.float64)
    return tensors


def prepare_latents(
    folder: Path,
    scheme: LabelScheme,
    config: SliceLDMConfig,
    autoencoder: Autoencoder,
    on_event: Callable[[dict], None],
) -> LatentSet:
    """Reads `folder`, and encodes anew what is missing, damaged, or of another autoencoder, case or setting.

    Args:
        folder: for one file per case, "train-NAME.safetensors" or "validation-NAME.safetensors", and "latents.json"
            with the checksum of the autoencoder and what the latents have in common.

    Raises:
        BadInput: no training or validation cases, or one without the target.
        RunFailed: the disk is full.
    """
    fabric = autoencoder.fabric
    settings = json.loads(json.dumps({**asdict(config.volumes), **asdict(config.latents), "seed": config.seed}))
    parts: dict[str, list[Latent]] = {part: [] for part in PARTS}
    total, renewed, extent = 0, 0, None
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
    fabric.barrier()
    for split, latents in parts.items():
        count = config.latents.copies if split == "train" else 1
        for index, pair in enumerate(
            load_pairs(config.data, split, scheme, config.volumes, autoencoder.intensity_range)
        ):
            if extent is None:
                extent = np.abs(straight_axes(pair.affine)) @ np.array(pair.size)
            stamp = _stamp(pair, settings, autoencoder, index)
            path = folder / f"{split}-{pair.name}.safetensors"
            tensors = _read(path, stamp, count, autoencoder, pair.size)
            if tensors is None:
                tensors = _copies(pair, index, count, config, autoencoder, split)
                renewed += 1
                if fabric.is_global_zero:
                    write_sealed(path, stamp, tensors)
            total += sum(t.numel() * t.element_size() for t in tensors.values())
            latents += [
                Latent(
                    pair.name, tensors[f"latent{n}"].to(fabric.device), tensors[f"characteristics{n}"].numpy().copy()
                )
                for n in range(count)
            ]
    fabric.barrier()
    factor = 1.0 / standard_deviation([latent.latent for latent in parts["train"]])
    table = np.stack([latent.characteristics for latent in parts["train"]])
    patients = patients_of(config.data, "train")
    standardise = config.condition.scaling == "deviation"
    spec = fit_distribution(table, extent.tolist(), target_of(config.data, scheme), len(patients), standardise)
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
            "characteristics": spec.to_json(),
        }
        with atomic_file(folder / "latents.json") as stream:
            stream.write((json.dumps(summary, indent=1) + "\n").encode("utf-8"))
    return LatentSet(parts["train"], parts["validation"], factor, spec, total)


def _stamp(pair: Pair, settings: dict[str, Any], autoencoder: Autoencoder, index: int) -> str:
    """SHA-256 of all that the latents of a case depend on."""
    parameters = [settings, index, list(autoencoder.intensity_range), pair.affine.tolist()]
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    digest.update(autoencoder.digest.encode())
    digest.update(f"{tuple(pair.pair.shape)}".encode())
    digest.update(pair.pair.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(
    path: Path, stamp: str, count: int, autoencoder: Autoencoder, size: tuple[int, int, int]
) -> dict[str, torch.Tensor] | None:
    """The tensors of a file that is whole, of this stamp and of `count` copies, or None."""
    tensors = read_whole(path, stamp)
    if tensors is None:
        return None
    factor = autoencoder.network.downsampling
    shapes = {
        "latent": (autoencoder.channels, size[0] // factor, size[1] // factor, size[2]),
        "mask": (-(-int(np.prod(size)) // 8),),
        "characteristics": (len(NAMES),),
    }
    wanted = {f"{kind}{n}": shapes[kind] for kind in KINDS for n in range(count)}
    return tensors if {name: tuple(tensor.shape) for name, tensor in tensors.items()} == wanted else None
