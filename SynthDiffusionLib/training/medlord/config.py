"""The TOML files of the three MedLoRD stages: what they may say, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.config import SegmenterConfig, _fill, _not_finite

STAGES = ("autoencoder", "diffusion", "controlnet")
HINT = "See Docs/TRAINING.md for every setting."
NETWORK_CLASSES = {"autoencoder": "VQVAE", "diffusion": "DiffusionModelUNet", "controlnet": "SlimControlNet"}


@dataclass(frozen=True)
class Optimiser:
    """AdamW, how its learning rate falls, and the batch.

    Args:
        batch: crops per step and process.
        learning_rate: peak.
        discriminator_rate: peak of the discriminator's (stage autoencoder).
        warmup_steps: linear warm-up.
        decay: "cosine" falls to zero at the end of the run, "gamma" is multiplied by `gamma` once an epoch,
            "constant" stays.
        gamma: see `decay`.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema: decay of the exponential moving average of the weights; 0 keeps none. In the stage autoencoder the
            decoder alone is averaged, since the encoder and the codebook must fit each other.
        loss: "smooth_l1" (Huber, beta 1), "l1" or "mse" (stages diffusion and controlnet).
    """

    batch: int = 2
    learning_rate: float = 1e-4
    discriminator_rate: float = 1e-4
    warmup_steps: int = 0
    decay: str = "cosine"
    gamma: float = 0.9995
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema: float = 0.999
    loss: str = "smooth_l1"


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
class FabricConfig:
    """Devices, as Lightning Fabric names them; `--device` goes before `accelerator` and `devices`."""

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    num_nodes: int = 1


@dataclass(frozen=True)
class MedLoRDConfig:
    """One stage of a training.

    Args:
        stage: one of `STAGES`.
        data: folder that `synthdiffusion prepare` wrote, relative to the configuration file.
        label_scheme: name of a scheme in Resources/LabelSchemes.
        steps: optimiser steps; or
        minutes: training time. The learning rate falls by the time that has passed, so that a slow machine ends a run
            as completely as a fast one; but no two runs are the same.
        preset: id of a preset that networks, diffusion and intensity are taken from.
        intensity_range: values that map to -1 and 1.
        autoencoder: folder of the run of the stage autoencoder (the other two stages).
        denoiser: folder of the run of the stage diffusion (stage controlnet).
    """

    stage: str
    data: Path
    label_scheme: str
    steps: int = 0
    minutes: float = 0.0
    preset: str = ""
    intensity_range: tuple[float, float] = (-1000.0, 2000.0)
    autoencoder: Path | None = None
    denoiser: Path | None = None
    seed: int = 0
    precision: str = "bf16-mixed"
    log_every: int = 50
    checkpoint_every: int = 500
    validate_every: int = 500
    sample_every: int = 1000
    network: dict[str, Any] = field(default_factory=dict)
    diffusion: dict[str, Any] = field(default_factory=dict)
    crops: CropConfig = CropConfig()
    losses: LossConfig = LossConfig()
    latents: LatentConfig = LatentConfig()
    condition: ConditionConfig = ConditionConfig()
    optimiser: Optimiser = Optimiser()
    fabric: FabricConfig = FabricConfig()
    segmenter: SegmenterConfig | None = None
    package: dict[str, Any] = field(default_factory=dict)
    source: Path = field(default=Path(), compare=False)


# The tables of a stage, and the settings of [run] that only some stages have.
_TABLES = {
    "autoencoder": {"crops": CropConfig, "losses": LossConfig},
    "diffusion": {"latents": LatentConfig},
    "controlnet": {"condition": ConditionConfig, "segmenter": SegmenterConfig},
}
_FREE_TABLES = {
    "autoencoder": ("network",),
    "diffusion": ("network", "diffusion"),
    "controlnet": ("network", "package"),
}
_EARLIER = {"autoencoder": (), "diffusion": ("autoencoder",), "controlnet": ("autoencoder", "denoiser")}
_RUN_ONLY = {f.name for f in dataclasses.fields(MedLoRDConfig)} - {
    *("network", "diffusion", "crops", "losses", "latents", "condition", "optimiser", "fabric", "segmenter", "package"),
    "source",
}  # fmt: skip


def read_tables(path: Path) -> dict[str, Any]:
    """A training configuration as plain tables.

    Raises:
        BadInput: no such file, not TOML, or numbers that are not finite.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"Cannot read '{path}'", "Give the path of a training configuration (TOML).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"'{path}' is not valid TOML: {error}", "Mend the file at the place named.") from error
    strange = next(_not_finite(tables), None)
    if strange:
        raise BadInput(f"{strange} in '{path}' is not a finite number", HINT)
    return tables


def method_of(path: Path) -> str:
    """ "patch_ddpm" (the default) or what `[run] method` says, of a configuration that can be read."""
    try:
        run = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("run", {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return "patch_ddpm"  # its reader says what is wrong
    return run.get("method", "patch_ddpm") if isinstance(run, dict) else "patch_ddpm"


def load_medlord_config(path: Path) -> MedLoRDConfig:
    """Reads and checks the configuration of one stage.

    Raises:
        BadInput: no such file, not TOML, unknown, missing or impossible settings.
    """
    path = Path(path)
    tables = read_tables(path)
    run = tables.pop("run", {})
    if not isinstance(run, dict):
        raise BadInput("'run' is not a table", "Write [run] on a line of its own, and its settings below.")
    run = {k: v for k, v in run.items() if k != "method"}
    stage = run.get("stage")
    if stage not in STAGES:
        raise BadInput(f"[run] stage must be one of {', '.join(STAGES)}, not {stage!r}", HINT)
    stray = sorted(set(run) - _RUN_ONLY)
    if stray:
        raise BadInput(f"[run] has no setting '{stray[0]}'", f"It knows: {', '.join(sorted(_RUN_ONLY))}.")
    known = {*_TABLES[stage], *_FREE_TABLES[stage], "optimiser", "fabric"}
    unknown = sorted(set(tables) - known)
    if unknown:
        raise BadInput(
            f"'{path}' has an unknown table [{unknown[0]}]",
            f"The stage {stage} may have: run, {', '.join(sorted(known))}.",
        )
    classes = {**_TABLES[stage], "optimiser": Optimiser, "fabric": FabricConfig}
    filled: dict[str, Any] = {}
    for name, table in tables.items():
        if name in classes:
            filled[name] = _fill(classes[name], _tuples(table), name)
        elif not isinstance(table, dict):
            raise BadInput(f"'{name}' is not a table", f"Write [{name}] on a line of its own, its settings below.")
        else:
            filled[name] = table
    config = _fill(MedLoRDConfig, {**run, **filled, "source": path}, "run")
    if config.preset:
        config = _with_preset(config, run)
    places = {n: (path.parent / p).resolve() for n in ("autoencoder", "denoiser") if (p := getattr(config, n))}
    config = dataclasses.replace(config, data=(path.parent / config.data).resolve(), **places)
    problem = next(_problems(config), None)
    if problem:
        raise BadInput(problem, HINT)
    return config


def _tuples(table: Any) -> Any:
    """Lists in lists as tuples, so that a configuration can be compared."""
    if not isinstance(table, dict):
        return table
    return {k: tuple(tuple(i) if isinstance(i, list) else i for i in v) if isinstance(v, list) else v
            for k, v in table.items()}  # fmt: skip


def _with_preset(config: MedLoRDConfig, run: dict[str, Any]) -> MedLoRDConfig:
    from SynthDiffusionLib.models.presets import load_preset

    spec = load_preset(config.preset)
    network = {"autoencoder": spec.autoencoder, "diffusion": spec.network, "controlnet": spec.controlnet}[config.stage]
    if network is None or network.name != NETWORK_CLASSES[config.stage]:
        raise BadInput(f"The preset '{config.preset}' has no {config.stage} that can be trained here", HINT)
    for table in ("network", "diffusion"):
        if getattr(config, table):
            raise BadInput(f"[{table}] is given, and a preset in [run] too", "Leave one of them out.")
    changes: dict[str, Any] = {"network": dict(network.parameters)}
    if config.stage == "diffusion":
        changes["diffusion"] = {k: v for k, v in spec.raw["diffusion"].items() if k != "shift_numel"}
    if "intensity_range" not in run:
        changes["intensity_range"] = tuple(spec.intensity.range)
    return dataclasses.replace(config, **changes)


def _problems(config: MedLoRDConfig) -> Iterator[str]:
    if not config.network:
        yield f"'{config.source}' has neither a [network] table nor a preset in [run]"
    if config.stage == "diffusion" and not config.diffusion:
        yield f"'{config.source}' has no [diffusion] table"
    for name in ("autoencoder", "denoiser"):
        needed = name in _EARLIER[config.stage]
        if needed and getattr(config, name) is None:
            yield f"[run] lacks {name}: the folder of the run that the stage {config.stage} builds on"
        if not needed and getattr(config, name) is not None:
            yield f"[run] {name} is no setting of the stage {config.stage}"
    if (config.steps > 0) == (config.minutes > 0) or config.steps < 0 or config.minutes < 0:
        yield "[run] needs either steps or minutes, above 0"
    if not 0 <= config.seed < 2**32:
        yield f"[run] seed must be a whole number from 0 to {2**32 - 1}, not {config.seed}"
    for name in ("log_every", "checkpoint_every", "validate_every", "sample_every"):
        if getattr(config, name) < 1:
            yield f"[run] {name} must be at least 1"
    if config.precision not in ("32-true", "bf16-mixed", "16-mixed"):
        yield f"Unknown precision '{config.precision}' in [run]: choose one of 32-true, bf16-mixed, 16-mixed"
    low, high = config.intensity_range
    if not low < high:
        yield f"[run] intensity_range must rise, not {low:g} to {high:g}"
    yield from _optimiser_problems(config.optimiser)
    yield from _crop_problems(config)
    if config.fabric.devices < 1 or config.fabric.num_nodes < 1:
        yield "[fabric] devices and num_nodes must be at least 1"


def _optimiser_problems(optimiser: Optimiser) -> Iterator[str]:
    if not 1 <= optimiser.batch <= 1024:
        yield f"[optimiser] batch must be from 1 to 1024, not {optimiser.batch}"
    for name in ("learning_rate", "discriminator_rate"):
        if not 0 < getattr(optimiser, name) <= 1:
            yield f"[optimiser] {name} must be above 0 and at most 1, not {getattr(optimiser, name):g}"
    if optimiser.decay not in ("cosine", "gamma", "constant"):
        yield f"[optimiser] decay must be cosine, gamma or constant, not '{optimiser.decay}'"
    if optimiser.loss not in ("smooth_l1", "l1", "mse"):
        yield f"[optimiser] loss must be smooth_l1, l1 or mse, not '{optimiser.loss}'"
    if not 0 < optimiser.gamma <= 1:
        yield f"[optimiser] gamma must be above 0 and at most 1, not {optimiser.gamma:g}"
    if not 0 <= optimiser.weight_decay <= 1 or not optimiser.gradient_clip > 0:
        yield "[optimiser] needs weight_decay from 0 to 1 and gradient_clip above 0"
    if not (optimiser.warmup_steps >= 0 and 0 <= optimiser.ema < 1):
        yield "[optimiser] needs warmup_steps >= 0 and ema from 0 to below 1"


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in value)
    )


def _crop_problems(config: MedLoRDConfig) -> Iterator[str]:
    crops, losses, latents = config.crops, config.losses, config.latents
    if not _is_size(crops.size):
        yield f"[crops] size must be three whole numbers of at least 1, not {crops.size!r}"
    if not (isinstance(latents.crops, tuple) and latents.crops and all(map(_is_size, latents.crops))):
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
