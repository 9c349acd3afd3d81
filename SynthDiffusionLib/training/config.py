"""The TOML file that `synthdiffusion train` reads."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.patches import PatchConfig


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one patch size.

    Args:
        patch: side of the patches in voxels.
        batch: patches per step.
        steps: optimiser steps; left out where [run] gives minutes.
    """

    patch: int
    batch: int
    steps: int = 0


@dataclass(frozen=True)
class Optimiser:
    """AdamW with warm-up and cosine decay to zero.

    Args:
        learning_rate: peak.
        warmup_steps: linear warm-up.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema: decay of the exponential moving average of the weights, which is what the package holds.
    """

    learning_rate: float = 4e-4
    warmup_steps: int = 200
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema: float = 0.999


@dataclass(frozen=True)
class SegmenterConfig:
    """The small network that mask adherence is measured with; trained on real training cases only.

    Args:
        channels: features per level.
        steps: optimiser steps.
        patch: side of the random crops in voxels.
        batch: crops per step.
        learning_rate: peak of a cosine decay.
        intensity_range: values that its input's -1 and 1 stand for, where those of the model are too wide to see the
            target in; the model's when None.
        context_voxels: surroundings on every side of a structure that a run's adherence is measured in.
        ball_radius_mm: of the ball, blind to the image, that a run's adherence is compared with.
        targets: classes that it finds, one output channel each; the target class of the data set alone when None.
    """

    channels: tuple[int, ...] = (16, 32, 48, 64)
    steps: int = 2000
    patch: int = 40
    batch: int = 4
    learning_rate: float = 2e-3
    intensity_range: tuple[float, float] | None = None
    context_voxels: int = 0
    ball_radius_mm: float | None = None
    targets: tuple[str, ...] | None = None

    def network(self) -> dict[str, Any]:
        """The segmenter's network as `model.json` describes it."""
        outputs = len(self.targets or ())
        return {"class": "UNet", "channels": list(self.channels)} | ({"out_channels": outputs} if outputs > 1 else {})

    def details(self) -> dict[str, Any]:
        """What `model.json` says of the segmenter beside its network, where it differs from the defaults."""
        stated = {
            "patch": self.patch,
            "intensity_range": None if self.intensity_range is None else list(self.intensity_range),
            "context_voxels": self.context_voxels or None,
            "ball_radius_mm": self.ball_radius_mm,
            "targets": None if self.targets is None else list(self.targets),
        }
        return {name: value for name, value in stated.items() if value is not None}


@dataclass(frozen=True)
class TrainConfig:
    """One training run, complete: with the data, the seed and the commit it makes the same package again.

    Args:
        package: fields of `model.json` that are stated, not measured (id, name, licence, grid, ...).
        data: folder that `synthdiffusion prepare` wrote, relative to the configuration file.
        label_scheme: name of a scheme in Resources/LabelSchemes.
        network: parameters of the denoiser.
        preset: a full-size preset of the patch-wise DDPM, whose network, diffusion and intensities are taken.
        initial_weights: safetensors file of a denoiser to go on from, relative to the configuration file; random
            weights when None.
        diffusion: fields of `DiffusionSpec`.
        minutes: training time of the only phase, in the place of its steps, as in `stages.StageConfig`.
        clock: what `minutes` counts, "wall" or "processor".
    """

    package: dict[str, Any]
    data: Path
    label_scheme: str
    network: dict[str, Any]
    diffusion: dict[str, Any]
    phases: tuple[Phase, ...]
    patches: PatchConfig
    optimiser: Optimiser
    segmenter: SegmenterConfig | None = None
    intensity_range: tuple[float, float] = (-1000.0, 400.0)
    seed: int = 0
    precision: str = "bf16-mixed"
    initial_weights: Path | None = None
    preset: str | None = None
    minutes: float = 0.0
    clock: str = "wall"
    checkpoint_every: int = 250
    validate_every: int = 500
    sample_every: int = 1000
    source: Path = field(default=Path(), compare=False)

    @property
    def steps(self) -> int:
        return sum(p.steps for p in self.phases)


# By the annotation of a field: the type that TOML must give, and what to call it.
_TOML_TYPES = {
    "int": (int, "a whole number"),
    "float": (int | float, "a number"),
    "str": (str, "a text"),
    "str | None": (str, "a text"),
    "Path": (str | Path, "a path"),
    "Path | None": (str | Path, "a path"),
    "dict[str, float] | None": (dict, "a table"),
    "tuple[int, int]": (tuple, "two numbers"),
    "tuple[float, float]": (tuple, "two numbers"),
    "tuple[float, float] | None": (tuple, "two numbers"),
    "float | None": (int | float, "a number"),
    "tuple[int, ...]": (tuple, "a list of numbers"),
    "tuple[str, ...] | None": (tuple, "a list of texts"),
}


def _has_type(value: Any, annotation: str) -> bool:
    expected, _ = _TOML_TYPES.get(annotation, (object, ""))
    if isinstance(value, bool) or not isinstance(value, expected):
        return expected is object
    if expected is tuple:
        numbers = int if "int" in annotation else str if "str" in annotation else int | float
        right_length = len(value) > 0 if "..." in annotation else len(value) == 2
        return right_length and all(isinstance(v, numbers) and not isinstance(v, bool) for v in value)
    return True


def _fill(cls: type, table: Any, where: str) -> Any:
    """A dataclass from a TOML table; unknown, missing and ill-typed settings are errors, lists become tuples."""
    if not isinstance(table, dict):
        raise BadInput(f"'{where}' is not a table", f"Write [{where}] on a line of its own, and its settings below.")
    fields = {f.name: str(f.type) for f in dataclasses.fields(cls)}
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise BadInput(f"[{where}] has no setting '{unknown[0]}'", f"It knows: {', '.join(sorted(fields))}.")
    table = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    for name, value in table.items():
        if not _has_type(value, fields[name]):
            raise BadInput(
                f"[{where}] {name} must be {_TOML_TYPES[fields[name]][1]}, not {value!r}", "See Docs/TRAINING.md."
            )
    try:
        return cls(**table)
    except TypeError as error:
        missing = str(error).partition(": ")[2] or str(error)
        raise BadInput(f"[{where}] lacks {missing}", "See Docs/TRAINING.md for every setting.") from error


def _not_finite(value: Any, where: str = "", table: str = "") -> Iterator[str]:
    """The settings that are inf or nan, as "[table] name = value"; TOML knows both, no setting makes sense of them."""
    if isinstance(value, dict):
        for name, inner in value.items():
            is_table = isinstance(inner, dict) or (isinstance(inner, list) and inner and isinstance(inner[0], dict))
            if is_table:
                yield from _not_finite(inner, "", f"{table}.{name}" if table else name)
            else:
                yield from _not_finite(inner, name, table)
    elif isinstance(value, list):
        for inner in value:
            yield from _not_finite(inner, where, table)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"[{table}] {where} = {value}"


def _take_preset(run: dict[str, Any], tables: dict[str, Any]) -> None:
    """Fills in the tables that a preset stands for.

    Raises:
        BadInput: it is unknown or of another method, or a table is given as well.
    """
    from SynthDiffusionLib.models.presets import is_preset, load_preset, preset_ids

    name = run["preset"]
    if not isinstance(name, str) or not is_preset(name):
        raise BadInput(f"[run] preset {name!r} is unknown", f"Choose one of: {', '.join(preset_ids())}.")
    spec = load_preset(name)
    if spec.backend != "patch_ddpm":
        trained = spec.backend in ("medlord", "med_lsdm", "slice_ldm")
        mend = f'Write method = "{spec.backend}" in [run].' if trained else "Its authors' code trains it."
        raise BadInput(
            f"The preset '{name}' is of the method {spec.backend}, which this kind of run does not train", mend
        )
    for table in ("network", "diffusion"):
        if table in tables:
            raise BadInput(f"[{table}] is given, and preset = '{name}' in [run] too", "Leave one of the two out.")
        tables[table] = {key: value for key, value in spec.raw[table].items() if key != "class"}
    run.setdefault("intensity_range", list(spec.intensity.range))


def load_config(path: Path) -> TrainConfig:
    """Reads and checks a training configuration.

    Raises:
        BadInput: no such file, not TOML, unknown or missing settings.
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
        raise BadInput(f"{strange} in '{path}' is not a finite number", "See Docs/TRAINING.md for every setting.")
    run = tables.pop("run", {})
    if not isinstance(run, dict):
        raise BadInput("'run' is not a table", "Write [run] on a line of its own, and its settings below.")
    tables_of_their_own = {"package", "network", "diffusion", "phases", "patches", "optimiser", "segmenter"}
    stray = sorted(set(run) & {*tables_of_their_own, "source"})
    if stray:
        raise BadInput(f"[run] has no setting '{stray[0]}'", "Tables of their own are described in Docs/TRAINING.md.")
    if "preset" in run:
        _take_preset(run, tables)
    for required in ("package", "network", "diffusion", "phase"):
        if required not in tables:
            raise BadInput(f"'{path}' has no [{required}] table", "See Docs/TRAINING.md for a complete example.")
    for table in ("package", "network", "diffusion"):
        if not isinstance(tables[table], dict):
            raise BadInput(f"'{table}' is not a table", f"Write [{table}] on a line of its own, its settings below.")
    if not isinstance(tables["phase"], list) or not tables["phase"]:
        raise BadInput(f"'{path}' has a [phase] table", "Write it in double brackets, [[phase]], once for each phase.")
    known = {"package", "network", "diffusion", "phase", "patches", "optimiser", "segmenter"}
    unknown = sorted(set(tables) - known)
    if unknown:
        raise BadInput(
            f"'{path}' has an unknown table [{unknown[0]}]", f"It may hold: run, {', '.join(sorted(known))}."
        )
    config = _fill(
        TrainConfig,
        {
            **run,
            "package": tables["package"],
            "network": tables["network"],
            "diffusion": tables["diffusion"],
            "phases": [_fill(Phase, p, "phase") for p in tables["phase"]],
            "patches": _fill(PatchConfig, tables.get("patches", {}), "patches"),
            "optimiser": _fill(Optimiser, tables.get("optimiser", {}), "optimiser"),
            "segmenter": _fill(SegmenterConfig, tables["segmenter"], "segmenter") if "segmenter" in tables else None,
            "source": path,
        },
        "run",
    )
    weights = config.initial_weights
    return dataclasses.replace(
        config,
        data=(path.parent / config.data).resolve(),
        initial_weights=None if weights is None else (path.parent / weights).resolve(),
    )
