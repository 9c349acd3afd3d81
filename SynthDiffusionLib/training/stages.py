"""The TOML files of methods that are trained in stages: what they have in common, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.budget import CLOCKS
from SynthDiffusionLib.training.config import SegmenterConfig, _fill, _not_finite

HINT = "See Docs/TRAINING.md for every setting."


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
class FabricConfig:
    """Devices, as Lightning Fabric names them; `--device` goes before `accelerator` and `devices`."""

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    num_nodes: int = 1


@dataclass(frozen=True)
class StageConfig:
    """One stage of a training; a method's own class adds what only it has.

    Args:
        stage: one of `Method.stages`.
        data: folder that `synthdiffusion prepare` wrote, relative to the configuration file.
        label_scheme: name of a scheme in Resources/LabelSchemes.
        steps: optimiser steps; or
        minutes: training time. The learning rate falls by the time that has passed, so that a slow machine ends a run
            as completely as a fast one; but no two runs are the same.
        clock: what `minutes` counts: "wall", or "processor", the time that the process has had on all processors,
            which other programs do not take from it.
        preset: id of a preset that networks, diffusion and intensity are taken from.
        intensity_range: values that map to -1 and 1.
        initial: folder of an earlier run of the stage diffusion, on the same autoencoder, whose weights training
            begins with; random weights when None.
    """

    stage: str
    data: Path
    label_scheme: str
    steps: int = 0
    minutes: float = 0.0
    clock: str = "wall"
    preset: str = ""
    intensity_range: tuple[float, float] = (-1000.0, 2000.0)
    initial: Path | None = None
    seed: int = 0
    precision: str = "bf16-mixed"
    log_every: int = 50
    checkpoint_every: int = 500
    validate_every: int = 500
    sample_every: int = 1000
    network: dict[str, Any] = field(default_factory=dict)
    diffusion: dict[str, Any] = field(default_factory=dict)
    optimiser: Optimiser = Optimiser()
    fabric: FabricConfig = FabricConfig()
    segmenter: SegmenterConfig | None = None
    package: dict[str, Any] = field(default_factory=dict)
    source: Path = field(default=Path(), compare=False)


Config = TypeVar("Config", bound=StageConfig)


@dataclass(frozen=True)
class Method:
    """A method and its stages.

    Args:
        name: as in `[run] method`, and of its backend.
        config: its class of configurations.
        sections: stage to the section of `model.json` (a field of `ModelSpec`) that its network is, in order.
        classes: stage to the class of its network.
        tables: stage to the tables that it may have, by name, and their dataclasses.
        free_tables: stage to the tables whose settings are arguments of something else.
        earlier: stage to the settings of [run] that name folders of earlier stages.
        optional: those that a stage can do without.
        problems: what is wrong with a configuration, beyond what all methods have.
    """

    name: str
    config: type[StageConfig]
    sections: Mapping[str, str]
    classes: Mapping[str, str]
    tables: Mapping[str, Mapping[str, type]]
    free_tables: Mapping[str, tuple[str, ...]]
    earlier: Mapping[str, tuple[str, ...]]
    optional: tuple[str, ...] = ()
    problems: Callable[[Any], Iterator[str]] = lambda config: iter(())

    @property
    def stages(self) -> tuple[str, ...]:
        """In the order of training."""
        return tuple(self.sections)


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


def load_stage_config(path: Path, method: Method) -> Any:
    """Reads and checks the configuration of one stage.

    Returns:
        a `method.config`.

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
    if stage not in method.stages:
        raise BadInput(f"[run] stage must be one of {', '.join(method.stages)}, not {stage!r}", HINT)
    run_only = _settings_of_run(method)
    stray = sorted(set(run) - run_only)
    if stray:
        raise BadInput(f"[run] has no setting '{stray[0]}'", f"It knows: {', '.join(sorted(run_only))}.")
    classes = {**method.tables[stage], "optimiser": Optimiser, "fabric": FabricConfig}
    known = {*classes, *method.free_tables[stage]}
    unknown = sorted(set(tables) - known)
    if unknown:
        raise BadInput(
            f"'{path}' has an unknown table [{unknown[0]}]",
            f"The stage {stage} may have: run, {', '.join(sorted(known))}.",
        )
    filled: dict[str, Any] = {}
    for name, table in tables.items():
        if name in classes:
            filled[name] = _fill(classes[name], _tuples(table), name)
        elif not isinstance(table, dict):
            raise BadInput(f"'{name}' is not a table", f"Write [{name}] on a line of its own, its settings below.")
        else:
            filled[name] = table
    config = _fill(method.config, {**run, **filled, "source": path}, "run")
    if config.preset:
        config = _with_preset(config, run, method)
    folders = {name for names in method.earlier.values() for name in names}
    places = {n: (path.parent / p).resolve() for n in sorted(folders) if (p := getattr(config, n))}
    config = dataclasses.replace(config, data=(path.parent / config.data).resolve(), **places)
    problem = next(_problems(config, method), None) or next(method.problems(config), None)
    if problem:
        raise BadInput(problem, HINT)
    return config


def _settings_of_run(method: Method) -> set[str]:
    """Fields of the configuration that are settings of [run], and not tables of their own."""
    tables = {name for stage in method.tables.values() for name in stage}
    tables |= {name for names in method.free_tables.values() for name in names}
    return {f.name for f in dataclasses.fields(method.config)} - tables - {"optimiser", "fabric", "source"}


def _tuples(table: Any) -> Any:
    """Lists in lists as tuples, so that a configuration can be compared."""
    if not isinstance(table, dict):
        return table
    return {k: tuple(tuple(i) if isinstance(i, list) else i for i in v) if isinstance(v, list) else v
            for k, v in table.items()}  # fmt: skip


def _with_preset(config: Config, run: dict[str, Any], method: Method) -> Config:
    from SynthDiffusionLib.models.presets import load_preset

    spec = load_preset(config.preset)
    network = getattr(spec, method.sections[config.stage])
    if network is None or network.name != method.classes[config.stage]:
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


def _problems(config: StageConfig, method: Method) -> Iterator[str]:
    """What is wrong with what all methods have."""
    if not config.network:
        yield f"'{config.source}' has neither a [network] table nor a preset in [run]"
    if config.stage == "diffusion" and not config.diffusion:
        yield f"'{config.source}' has no [diffusion] table"
    for name in sorted({name for names in method.earlier.values() for name in names}):
        possible, given = name in method.earlier[config.stage], getattr(config, name) is not None
        if possible and not given and name not in method.optional:
            yield f"[run] lacks {name}: the folder of the run that the stage {config.stage} builds on"
        if given and not possible:
            yield f"[run] {name} is no setting of the stage {config.stage}"
    if (config.steps > 0) == (config.minutes > 0) or config.steps < 0 or config.minutes < 0:
        yield "[run] needs either steps or minutes, above 0"
    if config.clock not in CLOCKS:
        yield f"[run] clock must be one of {', '.join(CLOCKS)}, not '{config.clock}'"
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


def is_size(value: Any) -> bool:
    """Whether a setting is three whole numbers of at least 1."""
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in value)
    )
