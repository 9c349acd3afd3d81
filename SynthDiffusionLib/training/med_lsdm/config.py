"""The TOML files of the two stages of Med-LSDM: what they may say, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.training.config import SegmenterConfig
from SynthDiffusionLib.training.stages import Method, StageConfig, is_size, load_stage_config


@dataclass(frozen=True)
class WindowConfig:
    """Random windows of the images that the autoencoder is trained on.

    Args:
        size: sides in voxels, the last one the depth; multiples of the downsampling. Smaller cases are mirrored at
            their far ends.
        flip_probability: along each of the three axes.
        rotation_degrees: largest rotation about an axis chosen at random.
        rotation_probability: how often a window is rotated.
    """

    size: tuple[int, ...] = (256, 256, 32)
    flip_probability: tuple[float, ...] = (0.5, 0.5, 0.5)
    rotation_degrees: float = 5.0
    rotation_probability: float = 0.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the autoencoder's losses; 0 switches one off. The defaults are those of the authors' code.

    Args:
        l1: of the reconstruction.
        quantisation: of the commitment loss, which holds its own factor (`commitment_cost`).
        perceptual: "off", or a network of MONAI's PerceptualLoss in 2D such as "vgg"; it looks at one random slice, and
            its weights are downloaded at the first use.
        perceptual_weight: of that loss.
        image_gan: of the hinge loss of a 2D discriminator that looks at one random slice.
        volume_gan: of the hinge loss of a 3D discriminator.
        feature_matching: of the difference between the discriminators' features for real and reconstructed windows.
        discriminator_start: share of the run, 0 to 1, at which the discriminators begin to count.
        discriminator_ramp: share of the run over which their weights then rise from 0.
        discriminator_channels: width of the discriminators' first layer.
        discriminator_layers: number of their further layers.
    """

    l1: float = 4.0
    quantisation: float = 1.0
    perceptual: str = "off"
    perceptual_weight: float = 4.0
    image_gan: float = 1.0
    volume_gan: float = 1.0
    feature_matching: float = 4.0
    discriminator_start: float = 0.1
    discriminator_ramp: float = 0.0
    discriminator_channels: int = 64
    discriminator_layers: int = 3


@dataclass(frozen=True)
class LatentConfig:
    """Latents on disk, and the crops of them that the diffusion is trained on.

    Args:
        crops: sides of the crops in latent voxels, the first two multiples of 2^(levels - 1) of the denoiser; every
            step takes one of the sizes at random, and cases that are at least that large. A case smaller than the first
            size is mirrored at its far ends.
        copies: encoded copies of each training case, each with other flips and another shift by less than a latent
            voxel; validation cases have one copy, as they are.
        flip_probability: along each of the three axes, for each copy.
        outline_sigmas: range of the extra smoothing of the outlines in the label volumes, in voxels; one draw per copy.
        sharp: classes whose outlines stay as drawn.
        number: "float16" or "float32", how a latent is stored.
        scaling: "codebook", as published: the ends of the codebook become -1 and 1; or "deviation": the training
            latents get a standard deviation of 1. Few codes lie near the ends, so that the first leaves latents far
            below the noise, and all but the last steps of a schedule made for a deviation of 1 have nothing to tell.
    """

    crops: tuple[tuple[int, ...], ...] = ((64, 64, 8),)
    copies: int = 4
    flip_probability: tuple[float, ...] = (0.5, 0.5, 0.5)
    outline_sigmas: tuple[float, float] = (0.0, 0.0)
    sharp: tuple[str, ...] = ()
    number: str = "float16"
    scaling: str = "codebook"


@dataclass(frozen=True)
class ConditionConfig:
    """Label volumes that the networks are given in training.

    Args:
        drop: probability that a class is withheld, by class name.
        drop_default: of the classes that `drop` does not name.
        drop_all: probability that all classes are withheld at once: the null condition that guidance leads away from.
            With 0 there is none, and the package says so.
    """

    drop: dict[str, float] | None = None
    drop_default: float = 0.0
    drop_all: float = 0.1


@dataclass(frozen=True)
class MedLSDMConfig(StageConfig):
    """One stage of a training; see `StageConfig` for the other fields.

    Args:
        autoencoder: folder of the run of the stage autoencoder (stage diffusion).
    """

    autoencoder: Path | None = None
    windows: WindowConfig = WindowConfig()
    losses: LossConfig = LossConfig()
    latents: LatentConfig = LatentConfig()
    condition: ConditionConfig = ConditionConfig()


def load_med_lsdm_config(path: Path) -> MedLSDMConfig:
    """Reads and checks the configuration of one stage.

    Raises:
        BadInput: no such file, not TOML, unknown, missing or impossible settings.
    """
    return load_stage_config(path, METHOD)


def _is_chance(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _problems(config: MedLSDMConfig) -> Iterator[str]:
    windows, losses, latents, condition = config.windows, config.losses, config.latents, config.condition
    if not is_size(windows.size):
        yield f"[windows] size must be three whole numbers of at least 1, not {windows.size!r}"
    if not (isinstance(latents.crops, tuple) and latents.crops and all(map(is_size, latents.crops))):
        yield f"[latents] crops must be a list of sizes, each of three whole numbers, not {latents.crops!r}"
    for table, flips in (("windows", windows.flip_probability), ("latents", latents.flip_probability)):
        if not (isinstance(flips, tuple) and len(flips) == 3 and all(map(_is_chance, flips))):
            yield f"[{table}] flip_probability must be three numbers from 0 to 1, one for each axis, not {flips!r}"
    chances: dict[str, Any] = {f"[condition] drop.{n}": v for n, v in (condition.drop or {}).items()}
    chances |= {f"[condition] {n}": getattr(condition, n) for n in ("drop_default", "drop_all")}
    chances["[windows] rotation_probability"] = windows.rotation_probability
    chances |= {f"[losses] {n}": getattr(losses, n) for n in ("discriminator_start", "discriminator_ramp")}
    for name, value in chances.items():
        if not _is_chance(value):
            yield f"{name} must be from 0 to 1, not {value}"
    if not 0 <= windows.rotation_degrees <= 45:
        yield f"[windows] rotation_degrees must be from 0 to 45, not {windows.rotation_degrees:g}"
    for name in ("l1", "quantisation", "perceptual_weight", "image_gan", "volume_gan", "feature_matching"):
        if getattr(losses, name) < 0:
            yield f"[losses] {name} must not be negative"
    if losses.discriminator_channels < 1 or not 1 <= losses.discriminator_layers <= 6:
        yield "[losses] needs discriminator_channels of at least 1 and discriminator_layers from 1 to 6"
    if not 1 <= latents.copies <= 1000:
        yield f"[latents] copies must be from 1 to 1000, not {latents.copies}"
    low, high = latents.outline_sigmas
    if not 0 <= low <= high <= 100:
        yield f"[latents] outline_sigmas must rise from at least 0 to at most 100, not {low:g} to {high:g}"
    if not (isinstance(latents.sharp, tuple) and all(isinstance(name, str) for name in latents.sharp)):
        yield f"[latents] sharp must be a list of names of classes, not {latents.sharp!r}"
    if latents.scaling not in ("codebook", "deviation"):
        yield f"[latents] scaling must be codebook or deviation, not '{latents.scaling}'"
    if latents.number not in ("float16", "float32"):
        yield f"[latents] number must be float16 or float32, not '{latents.number}'"


METHOD = Method(
    name="med_lsdm",
    config=MedLSDMConfig,
    sections={"autoencoder": "autoencoder", "diffusion": "network"},
    classes={"autoencoder": "VqGan", "diffusion": "FactorisedUNet"},
    tables={
        "autoencoder": {"windows": WindowConfig, "losses": LossConfig, "condition": ConditionConfig},
        "diffusion": {"latents": LatentConfig, "condition": ConditionConfig, "segmenter": SegmenterConfig},
    },
    free_tables={"autoencoder": ("network",), "diffusion": ("network", "diffusion", "package")},
    earlier={"autoencoder": (), "diffusion": ("autoencoder", "initial")},
    optional=("initial",),
    problems=_problems,
)
