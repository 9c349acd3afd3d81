"""The TOML files of the three MedLoRD stages: what they may say, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.training.config import SegmenterConfig
from SynthDiffusionLib.training.stages import Method, StageConfig, is_size, load_stage_config


@dataclass(frozen=True)
class CropConfig:
    """Random crops of the images that the autoencoder is trained on.

    Args:
        size: sides in voxels, multiples of the downsampling; smaller cases are padded with air.
        flip_probability: of each axis.
        rotation_degrees: largest rotation about an axis chosen at random.
        rotation_probability: how often a crop is rotated.
    """

    size: tuple[int, ...] = (128, 128, 128)
    flip_probability: float = 0.5
    rotation_degrees: float = 5.0
    rotation_probability: float = 0.2


@dataclass(frozen=True)
class LossConfig:
    """Weights of the autoencoder's losses; 0 switches one off.

    Args:
        l1: of the reconstruction.
        quantisation: of the commitment loss, which holds its own factor (`commitment_cost`).
        perceptual: "off", or a network of MONAI's PerceptualLoss such as "squeeze" or
            "medicalnet_resnet10_23datasets"; their weights are downloaded at the first use.
        perceptual_weight: of that loss.
        jukebox: of the difference of the Fourier amplitudes (MONAI's JukeboxLoss).
        adversarial: of the least-squares loss of a 3D PatchGAN.
        adversarial_start: share of the run, 0 to 1, at which the discriminator begins to count.
        adversarial_ramp: share of the run over which its weight rises from 0 to `adversarial`.
        discriminator_channels: width of the discriminator's first layer.
        discriminator_layers: number of its further layers.
        restart_below: a code of the codebook that fewer latent voxels a step use (moving average) is put anew on a
            random latent, once every 50 steps in the first half of the run; 0 leaves the codebook to itself.
    """

    l1: float = 1.0
    quantisation: float = 1.0
    perceptual: str = "off"
    perceptual_weight: float = 0.002
    jukebox: float = 1.0
    adversarial: float = 0.005
    adversarial_start: float = 0.1
    adversarial_ramp: float = 0.1
    discriminator_channels: int = 64
    discriminator_layers: int = 3
    restart_below: float = 0.0


@dataclass(frozen=True)
class LatentConfig:
    """Latents on disk, and the crops of them that the diffusion is trained on.

    Args:
        crops: sides of the crops in latent voxels, multiples of 2^(levels - 1) of the denoiser; every step takes one of
            the sizes at random, and cases that are at least that large. A case smaller than the first size is padded
            with air to it.
        copies: encoded copies of each training case, each with other flips and another shift by less than a latent
            voxel; validation cases have one copy, as they are.
        flip_probability: of each axis, for each copy.
        outline_sigmas: range of the extra smoothing of the outlines in the condition masks, in voxels (not of the
            target); one draw per copy.
        target: class whose outline stays as drawn.
    """

    crops: tuple[tuple[int, ...], ...] = ((32, 32, 32),)
    copies: int = 4
    flip_probability: float = 0.5
    outline_sigmas: tuple[float, float] = (0.0, 2.0)
    target: str | None = None


@dataclass(frozen=True)
class ConditionConfig:
    """Masks that the ControlNet is given in training.

    Args:
        drop: probability that a class is withheld, by class name.
        drop_default: of the classes that `drop` does not name.
    """

    drop: dict[str, float] | None = None
    drop_default: float = 0.3


@dataclass(frozen=True)
class MedLoRDConfig(StageConfig):
    """One stage of a training; see `StageConfig` for the other fields.

    Args:
        autoencoder: folder of the run of the stage autoencoder (the other two stages).
        denoiser: folder of the run of the stage diffusion (stage controlnet).
    """

    autoencoder: Path | None = None
    denoiser: Path | None = None
    crops: CropConfig = CropConfig()
    losses: LossConfig = LossConfig()
    latents: LatentConfig = LatentConfig()
    condition: ConditionConfig = ConditionConfig()


def load_medlord_config(path: Path) -> MedLoRDConfig:
    """Reads and checks the configuration of one stage.

    Raises:
        BadInput: no such file, not TOML, unknown, missing or impossible settings.
    """
    return load_stage_config(path, METHOD)


def _problems(config: MedLoRDConfig) -> Iterator[str]:
    crops, losses, latents = config.crops, config.losses, config.latents
    if not is_size(crops.size):
        yield f"[crops] size must be three whole numbers of at least 1, not {crops.size!r}"
    if not (isinstance(latents.crops, tuple) and latents.crops and all(map(is_size, latents.crops))):
        yield f"[latents] crops must be a list of sizes, each of three whole numbers, not {latents.crops!r}"
    chances: dict[str, Any] = {f"[condition] drop.{n}": v for n, v in (config.condition.drop or {}).items()}
    chances["[condition] drop_default"] = config.condition.drop_default
    chances["[crops] flip_probability"] = crops.flip_probability
    chances["[crops] rotation_probability"] = crops.rotation_probability
    chances["[latents] flip_probability"] = latents.flip_probability
    chances["[losses] adversarial_start"] = losses.adversarial_start
    chances["[losses] adversarial_ramp"] = losses.adversarial_ramp
    for name, value in chances.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            yield f"{name} must be from 0 to 1, not {value}"
    if not 0 <= crops.rotation_degrees <= 45:
        yield f"[crops] rotation_degrees must be from 0 to 45, not {crops.rotation_degrees:g}"
    for name in ("l1", "quantisation", "perceptual_weight", "jukebox", "adversarial", "restart_below"):
        if getattr(losses, name) < 0:
            yield f"[losses] {name} must not be negative"
    if losses.discriminator_channels < 1 or not 1 <= losses.discriminator_layers <= 6:
        yield "[losses] needs discriminator_channels of at least 1 and discriminator_layers from 1 to 6"
    if not 1 <= latents.copies <= 1000:
        yield f"[latents] copies must be from 1 to 1000, not {latents.copies}"
    low, high = latents.outline_sigmas
    if not 0 <= low <= high <= 100:
        yield f"[latents] outline_sigmas must rise from at least 0 to at most 100, not {low:g} to {high:g}"


METHOD = Method(
    name="medlord",
    config=MedLoRDConfig,
    sections={"autoencoder": "autoencoder", "diffusion": "network", "controlnet": "controlnet"},
    classes={"autoencoder": "VQVAE", "diffusion": "DiffusionModelUNet", "controlnet": "SlimControlNet"},
    tables={
        "autoencoder": {"crops": CropConfig, "losses": LossConfig},
        "diffusion": {"latents": LatentConfig},
        "controlnet": {"condition": ConditionConfig, "segmenter": SegmenterConfig},
    },
    free_tables={
        "autoencoder": ("network",),
        "diffusion": ("network", "diffusion"),
        "controlnet": ("network", "package"),
    },
    earlier={"autoencoder": (), "diffusion": ("autoencoder", "initial"), "controlnet": ("autoencoder", "denoiser")},
    optional=("initial",),
    problems=_problems,
)
