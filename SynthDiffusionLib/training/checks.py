"""What is wrong with a training run, found before it begins and not hours later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from SynthDiffusionLib.backends.patch_ddpm import build_network
from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.models.spec import FORMAT, ModelSpec
from SynthDiffusionLib.sampling.samplers import BETA_SCHEDULES
from SynthDiffusionLib.training.budget import CLOCKS
from SynthDiffusionLib.training.config import TrainConfig
from SynthDiffusionLib.training.dataset import Case, shared_patient
from SynthDiffusionLib.training.files import load_initial_weights
from SynthDiffusionLib.training.pack import package_content

MOST_CHANNELS = 4096
MOST_WEIGHTS = 1_000_000_000
LARGEST_BATCH = 1024
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def check_run(config: TrainConfig, scheme: LabelScheme, description: dict) -> None:
    """Checks the settings against each other, against the label scheme and against the data set.

    Args:
        description: `dataset.json` of the training data.

    Raises:
        BadInput: with the first thing that is wrong.
    """
    divisor = _network_divisor(config, scheme)
    problem = next(_problems(config, scheme, description, divisor), None)
    if problem:
        raise BadInput(problem, "See Docs/TRAINING.md for every setting.")
    if config.initial_weights is not None:
        load_initial_weights(build_network(config.network, scheme), config.initial_weights)
    content = package_content(
        config,
        scheme,
        description,
        steps=config.steps or 1,
        segmenter_steps=config.segmenter and config.segmenter.steps,
    )
    roles = ["denoiser"] + ["segmenter"] * (config.segmenter is not None)
    files = [{"path": f"{r}.safetensors", "sha256": "0" * 64, "bytes": 0, "role": r} for r in roles]
    try:
        ModelSpec.from_json({"format": FORMAT, **content, "files": files}, config.source.name)
    except ModelError as error:
        raise BadInput(error.message, "See Docs/TRAINING.md for every setting.") from error


def _network_divisor(config: TrainConfig, scheme: LabelScheme) -> int:
    """Checks [network] by building it without memory for its weights."""
    hint = "See Docs/TRAINING.md for every setting."
    problem = _channel_problem(config.network["channels"], 1) if "channels" in config.network else None
    for name, highest in (("blocks_per_level", 16), ("norm_groups", MOST_CHANNELS), ("out_channels", 1)):
        value = config.network.get(name, 1)
        if not _is_whole(value) or not 1 <= value <= highest:
            problem = f"{name} must be a whole number from 1 to {highest}, not {value!r}"
    try:
        if problem:
            raise ValueError(problem)
        with torch.device("meta"):
            network = build_network(config.network, scheme)
    except (TypeError, ValueError, IndexError, RuntimeError, ArithmeticError) as error:
        raise BadInput(f"[network] does not describe a network: {error}", hint) from error
    weights = sum(p.numel() for p in network.parameters())
    if weights > MOST_WEIGHTS:
        raise BadInput(f"The channels in [network] make {weights:,} weights, more than {MOST_WEIGHTS:,}", hint)
    return network.divisor


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _channel_problem(channels: Sequence[int], fewest: int) -> str | None:
    is_list = isinstance(channels, list | tuple) and fewest <= len(channels) <= 8
    if is_list and all(_is_whole(n) and 1 <= n <= MOST_CHANNELS for n in channels):
        return None
    return f"channels must be {fewest} to 8 whole numbers from 1 to {MOST_CHANNELS}, not {channels!r}"


def check_case_sizes(cases: Sequence[Case], config: TrainConfig) -> None:
    """Refuses cases that patches do not fit into, and fields that no case has room for.

    Raises:
        BadInput: naming the first such case, or the setting.
    """
    sides = {"patch": max(p.patch for p in config.phases), "field_sizes": config.patches.field_sizes[0]}
    if config.segmenter is not None:
        sides["patch of [segmenter]"] = config.segmenter.patch
    name, side = max(sides.items(), key=lambda item: item[1])
    for case in cases:
        if min(case.image.shape) < side:
            size = "x".join(map(str, case.image.shape))
            raise BadInput(
                f"The case '{case.name}' has {size} voxels, fewer than the {side} that '{name}' asks for",
                f"Lower that setting, or remove the case from the data set in '{config.data}'.",
            )
    largest, high = max(max(case.image.shape) for case in cases), config.patches.field_sizes[1]
    if high > largest:
        raise BadInput(
            f"[patches] field_sizes go up to {high} voxels, but no case has more than {largest} along an axis",
            "Lower the second number of field_sizes.",
        )


def _problems(config: TrainConfig, scheme: LabelScheme, description: dict, divisor: int) -> Iterator[str]:
    for part in ("train", "validation"):
        if not description["split"].get(part):
            yield f"The data set in '{config.data}' has no {part} cases"
    classes = {c.name: c.value for c in scheme.condition_classes}
    if description["classes"] != classes:
        yield f"The data set in '{config.data}' was prepared for other classes than those of '{config.label_scheme}'"
    shared = shared_patient(description)
    if shared is not None:
        patient, *parts = shared
        yield f"The patient '{patient}' is in the parts {' and '.join(parts)} of the data set in '{config.data}'"
    stated, found = config.package.get("orientation"), description.get("orientation")
    if found is not None and stated != found:
        yield f"[package] says orientation {stated}, but the data set has {found}"
    if config.precision not in PRECISIONS:
        yield f"Unknown precision '{config.precision}' in [run]: choose one of {', '.join(PRECISIONS)}"
    for name in ("checkpoint_every", "validate_every", "sample_every"):
        if getattr(config, name) < 1:
            yield f"[run] {name} must be at least 1"
    if config.diffusion.get("beta_schedule") not in BETA_SCHEDULES:
        yield f"[diffusion] beta_schedule must be one of {', '.join(BETA_SCHEDULES)}"
    yield from _phase_problems(config, divisor)
    yield from _patch_problems(config, classes)
    if not 0 <= config.seed < 2**32:  # the seeds of the steps are made from it, and must fit into 64 bits
        yield f"[run] seed must be a whole number from 0 to {2**32 - 1}, not {config.seed}"
    optimiser = config.optimiser
    if not 0 < optimiser.learning_rate <= 1:
        yield f"[optimiser] learning_rate must be above 0 and at most 1, not {optimiser.learning_rate:g}"
    if not 0 < optimiser.gradient_clip:
        yield f"[optimiser] gradient_clip must be above 0, not {optimiser.gradient_clip:g}"
    if not 0 <= optimiser.weight_decay <= 1:
        yield f"[optimiser] weight_decay must be from 0 to 1, not {optimiser.weight_decay:g}"
    if not (optimiser.warmup_steps >= 0 and 0 <= optimiser.ema < 1):
        yield "[optimiser] needs warmup_steps >= 0 and ema from 0 to below 1"


def _phase_problems(config: TrainConfig, divisor: int) -> Iterator[str]:
    if config.minutes < 0:
        yield f"[run] minutes must be above 0, not {config.minutes:g}"
    if config.clock not in CLOCKS:
        yield f"[run] clock must be one of {', '.join(CLOCKS)}, not '{config.clock}'"
    if config.minutes and (len(config.phases) > 1 or config.steps):
        yield "[run] gives minutes: there must be one [[phase]], without steps"
    for phase in config.phases:
        if min(phase.steps or bool(config.minutes), phase.batch) < 1 or phase.patch < 1 or phase.patch % divisor:
            yield f"[[phase]] needs steps and batch of at least 1, and a patch that is a multiple of {divisor}"
        if phase.batch > LARGEST_BATCH:
            yield f"[[phase]] batch must be at most {LARGEST_BATCH}, not {phase.batch}"
    segmenter = config.segmenter
    if segmenter is not None:
        if problem := _channel_problem(segmenter.channels, 2):
            yield f"[segmenter] {problem}"
        if segmenter.batch > LARGEST_BATCH:
            yield f"[segmenter] batch must be at most {LARGEST_BATCH}, not {segmenter.batch}"
        if not 0 < segmenter.learning_rate <= 1:
            yield f"[segmenter] learning_rate must be above 0 and at most 1, not {segmenter.learning_rate:g}"
        levels = 2 ** (len(segmenter.channels) - 1)
        if min(segmenter.steps, segmenter.batch) < 1 or segmenter.patch < 1 or segmenter.patch % levels:
            yield f"[segmenter] needs steps and batch of at least 1, and a patch that is a multiple of {levels}"


def _patch_problems(config: TrainConfig, classes: dict[str, int]) -> Iterator[str]:
    patches = config.patches
    if patches.target not in classes:
        yield f"[patches] target '{patches.target}' is no class of '{config.label_scheme}': {', '.join(classes)}"
    for name in patches.drop or {}:
        if name not in classes:
            yield f"[patches] drop names '{name}', which is no class of '{config.label_scheme}': {', '.join(classes)}"
    chances = {f"drop.{name}": value for name, value in (patches.drop or {}).items()}
    for name in ("target_probability", "drop_anatomy", "drop_all", "inpaint_probability", "blur_probability"):
        chances[name] = getattr(patches, name)
    for name, value in chances.items():
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            yield f"[patches] {name} is a probability, not {value}"
    low, high = patches.field_sizes
    if not 1 <= low <= high:
        yield f"[patches] field_sizes must rise from at least 1, not {low} to {high}"
    low, high = patches.outline_sigmas
    if not 0 <= low <= high <= 100:
        yield f"[patches] outline_sigmas must rise from at least 0 to at most 100, not {low:g} to {high:g}"
    if not 0.6 <= patches.blur_sigma <= 100:
        yield f"[patches] blur_sigma must be from 0.6 to 100, not {patches.blur_sigma:g}"
