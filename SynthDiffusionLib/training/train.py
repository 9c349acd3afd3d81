"""`train(config)`: denoiser, segmenter and package, in that order; what is done already is not done again.

`[run] method` of the configuration says which method; without it, it is the patch-wise DDPM.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from SynthDiffusionLib.errors import BadInput, OutOfMemory
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.output_folders import check_writable
from SynthDiffusionLib.training.config import load_config
from SynthDiffusionLib.training.dataset import read_description
from SynthDiffusionLib.training.pack import write_package
from SynthDiffusionLib.training.stages import method_of
from SynthDiffusionLib.volumes.atomic import writing_error

# Methods that are trained in stages, by `[run] method`: the modules whose `train_stage` carries out one of them.
STAGED = {
    "medlord": "SynthDiffusionLib.training.medlord.run",
    "med_lsdm": "SynthDiffusionLib.training.med_lsdm.run",
    "slice_ldm": "SynthDiffusionLib.training.slice_ldm.run",
}


def train(
    config_path: Path,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    only_segmenter: bool = False,
    on_event: Callable[[dict], None] = lambda event: None,
) -> Path:
    """Carries out a training configuration.

    Args:
        config_path: TOML file.
        out: folder of the run.
        resume: go on from the checkpoints in `out`.
        device: "auto", "cpu", "cuda" or "cuda:N", for the denoiser; the segmenter of a patch-wise DDPM is small and
            trains on the CPU.
        only_segmenter: of a configuration of a method that is trained in stages, train the segmenter alone.

    Returns:
        Folder of the model package; of a stage that makes none, its checkpoint.

    Raises:
        BadInput: a configuration that cannot be used, no training data, an `out` that cannot be written to, or a run
            in it that would be overwritten.
        OutOfMemory: batches too large for the GPU or the machine.
        RunFailed: the disk is full, or the training diverged.
    """
    from SynthDiffusionLib.memory.plan import resolve_device
    from SynthDiffusionLib.training.checks import check_run
    from SynthDiffusionLib.training.train_patch_ddpm import train_denoiser
    from SynthDiffusionLib.training.train_segmenter import check_earlier_segmenter, train_segmenter

    method = method_of(config_path)
    if method in STAGED:
        return _train_stage(STAGED[method], config_path, Path(out), resume, device, only_segmenter, on_event)
    if method != "patch_ddpm":
        raise BadInput(f"Unknown method '{method}' in [run]", f"Choose one of patch_ddpm, {', '.join(STAGED)}.")
    if only_segmenter:
        raise BadInput("--only-segmenter belongs to methods that are trained in stages", "Leave it out.")
    config = load_config(config_path)
    scheme = load_scheme(config.label_scheme)
    description = read_description(config.data)
    out = Path(out)
    if not resume and (out / "checkpoint.pt").exists():
        raise BadInput(f"'{out}' already holds a run", "Add --resume to go on with it, or give another --out.")
    check_run(config, scheme, description)
    device = resolve_device(device)
    if device == "cpu" and config.precision == "16-mixed":
        raise BadInput("The CPU cannot train with the precision 16-mixed", "Set bf16-mixed or 32-true in [run].")
    check_writable(out)
    if resume and config.segmenter is not None:
        check_earlier_segmenter(config.segmenter, out)
    with _memory_and_disk(out, "Lower batch or patch in the [[phase]] or [segmenter] tables."):
        denoiser = train_denoiser(config, scheme, out, resume=resume, device=device, on_event=on_event)
        segmenter = None
        if config.segmenter is not None:
            segmenter = train_segmenter(config, scheme, out, resume=resume, on_event=on_event)
        return write_package(config, scheme, denoiser, segmenter, out / "package")


def _train_stage(
    module: str, config: Path, out: Path, resume: bool, device: str, only_segmenter: bool,
    on_event: Callable[[dict], None],
) -> Path:  # fmt: skip
    train_stage = importlib.import_module(module).train_stage
    with _memory_and_disk(out, "Lower batch in [optimiser], or the crops of the configuration, where it has any."):
        return train_stage(config, out, resume=resume, device=device, only_segmenter=only_segmenter, on_event=on_event)


@contextmanager
def _memory_and_disk(out: Path, hint: str) -> Iterator[None]:
    """Errors of the device's memory and of the disk as those that a user can act on."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory("The device ran out of memory while training", hint) from error
    except RuntimeError as error:  # what PyTorch raises for the memory of the CPU
        if "allocate memory" in str(error):
            raise OutOfMemory("The device ran out of memory while training", hint) from error
        raise
    except OSError as error:  # logs and pictures
        raise writing_error(error, Path(error.filename or out)) from error
