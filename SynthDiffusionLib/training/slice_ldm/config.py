"""The TOML files of the three stages of the slice-based model: what they may say, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.training.config import SegmenterConfig
from SynthDiffusionLib.training.stages import Method, StageConfig, is_size, load_stage_config

BORDERS = ("air", "reflect")


@dataclass(frozen=True)
class VolumeConfig:
    """The one grid of all volumes, and how image and mask are varied together.

    Args:
        size: (I, J, K) in voxels that every case is cut or padded to, about the middle of its target; the data's own
            size where there is none, which must then be the same for all cases.
        flip_probability: of each axis.
        shift: largest shift along each axis, in voxels, either way.
        border: what a shift brings in: "air", or the volume mirrored at its edge ("reflect"), the mask with it.
        intensity_scale: largest relative change of the image's intensities, counted from their lowest value.
    """

    size: tuple[int, ...] | None = None
    flip_probability: tuple[float, ...] = (0.5, 0.5, 0.5)
    shift: tuple[int, ...] = (0, 0, 0)
    border: str = "air"
    intensity_scale: float = 0.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses of the stages autoencoder and refiner; 0 switches one off.

    Args:
        l1: of the image.
        ssim: of 1 - SSIM of the image's slices, both brought from [-1, 1] to [0, 1].
        ssim_window: side of the Gaussian window of SSIM, in pixels; odd.
        mask: of the L1 of the mask, which is -1 outside and 1 inside.
        dice: of the soft Dice loss of the mask.
        kl: of the divergence of the latents from a standard normal distribution, summed over a slice's latent
            (stage autoencoder).
        perceptual: "off", or a two-dimensional network of MONAI's PerceptualLoss such as "vgg" (the paper's); its
            weights are downloaded at the first use (stage autoencoder).
        perceptual_weight: of that loss.
        neighbours: of the L1 between the differences of neighbouring slices of what comes out and of the real volume,
            image and mask (stage refiner).
    """

    l1: float = 1.0
    ssim: float = 1.0
    ssim_window: int = 11
    mask: float = 1.0
    dice: float = 0.0
    kl: float = 1e-6
    perceptual: str = "off"
    perceptual_weight: float = 1.0
    neighbours: float = 1.0


@dataclass(frozen=True)
class SliceConfig:
    """Which slices the autoencoder sees.

    Args:
        empty_share: share of the slices without image content and without target that is kept: the authors drop nine
            of ten.
    """

    empty_share: float = 0.1


@dataclass(frozen=True)
class RefineConfig:
    """What the refiner is trained on.

    Args:
        slices: neighbouring slices of a volume that are scored; as many more on either side as the refiner reaches
            are only seen. 0 takes all, and so does a number with which all are seen anyway.
        noise: largest standard deviation of the noise that is added to the latents, in standard deviations of the
            latents; each crop draws its own between 0 and this.
    """

    slices: int = 32
    noise: float = 0.3


@dataclass(frozen=True)
class LatentConfig:
    """Latents on disk.

    Args:
        copies: encoded copies of each training case, each varied as [volumes] says; a validation case has one, as it
            is.
    """

    copies: int = 8


@dataclass(frozen=True)
class ConditionConfig:
    """The characteristics that the diffusion is given in training.

    Args:
        drop: how often a volume's characteristics are withheld, all nine. The paper's 0 trains no null condition, and
            the package then allows no guidance.
        scaling: of the characteristics for the network: "extent" is the paper's, by the largest value of the training
            cases and by the extent of the volumes; "deviation" gives each a mean of 0 and a standard deviation of 1,
            so that a short training heeds them sooner.
    """

    drop: float = 0.0
    scaling: str = "extent"


@dataclass(frozen=True)
class SliceLDMConfig(StageConfig):
    """One stage of a training; see `StageConfig` for the other fields.

    Args:
        autoencoder: folder of the run of the stage autoencoder (the other two stages).
        refiner: folder of the run of the stage refiner (stage diffusion); the package has none without it.
    """

    autoencoder: Path | None = None
    refiner: Path | None = None
    volumes: VolumeConfig = VolumeConfig()
    slices: SliceConfig = SliceConfig()
    losses: LossConfig = LossConfig()
    refining: RefineConfig = RefineConfig()
    latents: LatentConfig = LatentConfig()
    condition: ConditionConfig = ConditionConfig()


def load_slice_ldm_config(path: Path) -> SliceLDMConfig:
    """Reads and checks the configuration of one stage.

    Raises:
        BadInput: no such file, not TOML, unknown, missing or impossible settings.
    """
    return load_stage_config(path, METHOD)


def _problems(config: SliceLDMConfig) -> Iterator[str]:
    volumes, losses = config.volumes, config.losses
    if volumes.size is not None and not is_size(volumes.size):
        yield f"[volumes] size must be three whole numbers of at least 1, not {volumes.size!r}"
    if len(volumes.flip_probability) != 3 or not all(0 <= p <= 1 for p in volumes.flip_probability):
        yield f"[volumes] flip_probability must be three numbers from 0 to 1, not {volumes.flip_probability!r}"
    if len(volumes.shift) != 3 or not all(0 <= n <= 4096 for n in volumes.shift):
        yield f"[volumes] shift must be three whole numbers from 0 to 4096, not {volumes.shift!r}"
    if volumes.border not in BORDERS:
        yield f"[volumes] border must be one of {', '.join(BORDERS)}, not '{volumes.border}'"
    if not 0 <= volumes.intensity_scale < 1:
        yield f"[volumes] intensity_scale must be from 0 to below 1, not {volumes.intensity_scale:g}"
    chances: dict[str, Any] = {
        "[slices] empty_share": config.slices.empty_share,
        "[condition] drop": config.condition.drop,
    }
    for name, value in chances.items():
        if not 0 <= value <= 1:
            yield f"{name} must be from 0 to 1, not {value:g}"
    if config.condition.drop == 1:
        yield "[condition] drop must be below 1: the model would never see its condition"
    if config.condition.scaling not in ("extent", "deviation"):
        yield f"[condition] scaling must be extent or deviation, not '{config.condition.scaling}'"
    for name in ("l1", "ssim", "mask", "dice", "kl", "perceptual_weight", "neighbours"):
        if getattr(losses, name) < 0:
            yield f"[losses] {name} must not be negative"
    if losses.ssim_window < 3 or losses.ssim_window % 2 == 0:
        yield f"[losses] ssim_window must be an odd number of at least 3, not {losses.ssim_window}"
    if config.refining.slices < 0 or config.refining.slices == 1:
        yield "[refining] slices must be at least 2, or 0 for all"
    if not 0 <= config.refining.noise <= 10:
        yield f"[refining] noise must be from 0 to 10, not {config.refining.noise:g}"
    forward = config.diffusion
    if forward.get("beta_schedule") == "squaredcos_cap_v2" and forward.get("prediction", "epsilon") == "epsilon":
        # Its last steps are all but pure noise, and an error of the noise is divided by almost nothing; these latents
        # have no known range that the estimates could be clipped to.
        yield "[diffusion] cannot predict epsilon with squaredcos_cap_v2: give v_prediction or scaled_linear"
    if not 1 <= config.latents.copies <= 1000:
        yield f"[latents] copies must be from 1 to 1000, not {config.latents.copies}"


METHOD = Method(
    name="slice_ldm",
    config=SliceLDMConfig,
    sections={"autoencoder": "autoencoder", "refiner": "refiner", "diffusion": "network"},
    classes={"autoencoder": "SliceVAE", "refiner": "SliceRefiner", "diffusion": "SliceUNet"},
    tables={
        "autoencoder": {"volumes": VolumeConfig, "slices": SliceConfig, "losses": LossConfig},
        "refiner": {"volumes": VolumeConfig, "refining": RefineConfig, "losses": LossConfig},
        "diffusion": {
            "volumes": VolumeConfig,
            "latents": LatentConfig,
            "condition": ConditionConfig,
            "segmenter": SegmenterConfig,
        },
    },
    free_tables={
        "autoencoder": ("network",),
        "refiner": ("network",),
        "diffusion": ("network", "diffusion", "package"),
    },
    earlier={"autoencoder": (), "refiner": ("autoencoder",), "diffusion": ("autoencoder", "refiner", "initial")},
    optional=("refiner", "initial"),
    problems=_problems,
)
