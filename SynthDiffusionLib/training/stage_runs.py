"""One stage of a method from its configuration to its checkpoint, and the package after the last."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.output_folders import check_writable, output_folder
from SynthDiffusionLib.training.config import Optimiser, SegmenterConfig, TrainConfig
from SynthDiffusionLib.training.dataset import read_description, shared_patient, spacing_of
from SynthDiffusionLib.training.files import DamagedCheckpoint
from SynthDiffusionLib.training.patches import PatchConfig
from SynthDiffusionLib.training.stages import HINT, StageConfig
from SynthDiffusionLib.training.train_segmenter import check_earlier_segmenter, train_segmenter

SAME_SPACING = 1e-3  # relative: as far as [package] may round the data's


@dataclass(frozen=True)
class Workshop:
    """What a method does in its stages.

    Args:
        train: stage to the function that trains it: (config, out, *, resume, device, on_event) to its checkpoint.
        check_package: whether [package] would make a valid `model.json`; called before the training.
        write_package: (config, checkpoint, segmenter's checkpoint or None, folder) to the folder.
    """

    train: Mapping[str, Callable[..., Path]]
    check_package: Callable[[Any], None]
    write_package: Callable[[Any, Path, Path | None, Path], Path]


def carry_out(
    config: StageConfig,
    workshop: Workshop,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    only_segmenter: bool = False,
    on_event: Callable[[dict], None] = lambda event: None,
) -> Path:
    """Carries out the configuration of one stage.

    Args:
        only_segmenter: train the segmenter of the last stage alone; it needs no other stage, so that it can run beside
            one.

    Returns:
        Folder of the package for a stage with [package]; the checkpoint otherwise.

    Raises:
        BadInput: a configuration that cannot be used, or a run in `out` that would be overwritten.
        RunFailed: the training diverged, or the disk is full.
    """
    check_data(config)
    if not resume and not only_segmenter and (out / "checkpoint.pt").exists():
        raise BadInput(f"'{out}' already holds a run", "Add --resume to go on with it, or give another --out.")
    if only_segmenter and config.segmenter is None:
        raise BadInput(f"'{config.source}' has no [segmenter] table", HINT)
    check_writable(out)
    if config.segmenter is not None:
        check_earlier_segmenter(config.segmenter, out)
    with _damage_of_earlier_stages(config, workshop, out):
        if config.package and not only_segmenter:
            workshop.check_package(config)
        with output_folder(out):  # gone again if the training is refused before it has written anything
            if only_segmenter:
                return train_stage_segmenter(config, out, device, on_event)
            checkpoint = workshop.train[config.stage](config, out, resume=resume, device=device, on_event=on_event)
        if not config.package:
            return checkpoint
        segmenter = train_stage_segmenter(config, out, device, on_event) if config.segmenter is not None else None
        return workshop.write_package(config, checkpoint, segmenter, out / "package")


@contextmanager
def _damage_of_earlier_stages(config: StageConfig, workshop: Workshop, out: Path) -> Iterator[None]:
    """Gives errors of checkpoints in other folders than `out` the hint that helps there: to train that stage again."""
    try:
        yield
    except DamagedCheckpoint as error:
        folder = error.path.parent
        if folder.resolve() == out.resolve():
            raise
        fields = {stage: stage for stage in workshop.train} | {"diffusion": "denoiser"}  # that name their folders
        stage = next((stage for stage, field in fields.items() if getattr(config, field, None) == folder), None)
        file = f"...-{stage}.toml" if stage else "its configuration"
        raise BadInput(
            error.message,
            f"Remove it, and train that stage again: synthdiffusion train {file} --out '{folder}'.",
        ) from error


def check_data(config: StageConfig) -> None:
    """Whether the data set fits the configuration.

    It must have cases, each patient in one part only, the label scheme's classes and the grid that [package] states;
    the segmenter's settings must fit each other.

    Raises:
        BadInput: with the first thing that is wrong.
    """
    scheme, description = load_scheme(config.label_scheme), read_description(config.data)
    for part in ("train", "validation"):
        if not description["split"].get(part):
            raise BadInput(f"The data set in '{config.data}' has no {part} cases", HINT)
    if description["classes"] != {c.name: c.value for c in scheme.condition_classes}:
        raise BadInput(
            f"The data set in '{config.data}' was prepared for other classes than those of '{config.label_scheme}'",
            HINT,
        )
    shared = shared_patient(description)
    if shared is not None:
        patient, first, second = shared
        raise BadInput(
            f"The patient '{patient}' is in the parts {first} and {second} of the data set in '{config.data}'",
            "Prepare the data again: synthdiffusion prepare splits by patient.",
        )
    _check_grid(config, description)
    if config.segmenter is not None:
        _check_segmenter(config.segmenter)
        if not isinstance(description.get("target"), str):
            raise BadInput(f"The data set in '{config.data}' names no target for the segmenter", HINT)


def _check_grid(config: StageConfig, description: dict[str, Any]) -> None:
    """Whether the orientation and spacing of [package] are the data's: a package that says otherwise is used mirrored
    or stretched.

    Raises:
        BadInput: one of them is not.
    """
    stated, found = config.package.get("orientation"), description.get("orientation")
    if stated is not None and found is not None and stated != found:
        raise BadInput(
            f"[package] says orientation {stated}, but the data set in '{config.data}' has {found}",
            f'Write orientation = "{found}".',
        )
    stated, found = config.package.get("spacing_mm"), spacing_of(description)
    if stated is None:
        return
    numbers = stated if isinstance(stated, list | tuple) else ()
    same = len(numbers) == 3 and all(
        isinstance(mm, int | float) and math.isclose(mm, real, rel_tol=SAME_SPACING) for mm, real in zip(numbers, found)
    )
    if not same:
        raise BadInput(
            f"[package] says spacing_mm {stated}, but the data set in '{config.data}' has {list(found)}",
            "Leave spacing_mm out: the data's is taken then.",
        )


def _check_segmenter(segmenter: SegmenterConfig) -> None:
    levels = 2 ** (len(segmenter.channels) - 1)
    if len(segmenter.channels) < 2 or min(segmenter.channels) < 1:
        raise BadInput("[segmenter] channels must be at least two whole numbers from 1", HINT)
    if min(segmenter.steps, segmenter.batch) < 1 or segmenter.patch < 1 or segmenter.patch % levels:
        raise BadInput(f"[segmenter] needs steps and batch of at least 1, and a patch that is a multiple of {levels}",
                       HINT)  # fmt: skip


def train_stage_segmenter(config: StageConfig, out: Path, device: str, on_event: Callable[[dict], None]) -> Path:
    """The segmenter of the patch-wise models, on the same data; one that is trained already is only read."""
    target = read_description(config.data)["target"]
    settings = TrainConfig(
        package={},
        data=config.data,
        label_scheme=config.label_scheme,
        network={},
        diffusion={},
        phases=(),
        patches=dataclasses.replace(PatchConfig(), target=target),
        optimiser=Optimiser(),
        segmenter=config.segmenter,
        intensity_range=config.intensity_range,
        seed=config.seed,
        precision=config.precision,
        checkpoint_every=config.checkpoint_every,
    )
    scheme = load_scheme(config.label_scheme)
    return train_segmenter(settings, scheme, out, resume=True, device=device, on_event=on_event)
