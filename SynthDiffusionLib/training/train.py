"""`train(config)`: denoiser, segmenter and package, in that order; what is done already is not done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from SynthDiffusionLib.errors import BadInput, OutOfMemory
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.output_folders import check_writable
from SynthDiffusionLib.training.config import load_config
from SynthDiffusionLib.training.dataset import read_description
from SynthDiffusionLib.training.pack import write_package
from SynthDiffusionLib.volumes.atomic import writing_error


def train(
    config_path: Path,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    on_event: Callable[[dict], None] = lambda event: None,
) -> Path:
    """Carries out a training configuration.

    Args:
        config_path: TOML file.
        out: folder of the run.
        resume: go on from the checkpoints in `out`.
        device: "auto", "cpu", "cuda" or "cuda:N", for the denoiser; the segmenter is small and trains on the CPU.

    Returns:
        Folder of the model package.

    Raises:
        BadInput: a configuration that cannot be used, no training data, an `out` that cannot be written to, or a run
            in it that would be overwritten.
        OutOfMemory: batches too large for the GPU or the machine.
        RunFailed: the disk is full, or the training diverged.
    """
    import torch

    from SynthDiffusionLib.memory.plan import resolve_device
    from SynthDiffusionLib.training.checks import check_run
    from SynthDiffusionLib.training.train_patch_ddpm import train_denoiser
    from SynthDiffusionLib.training.train_segmenter import train_segmenter

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
    try:
        denoiser = train_denoiser(config, scheme, out, resume=resume, device=device, on_event=on_event)
        segmenter = None
        if config.segmenter is not None:
            segmenter = train_segmenter(config, scheme, out, resume=resume, on_event=on_event)
        return write_package(config, scheme, denoiser, segmenter, out / "package")
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory() from error
    except RuntimeError as error:  # what PyTorch raises for the memory of the CPU
        if "allocate memory" in str(error):
            raise _out_of_memory() from error
        raise
    except OSError as error:  # logs and pictures
        raise writing_error(error, Path(error.filename or out)) from error


def _out_of_memory() -> OutOfMemory:
    return OutOfMemory(
        "The device ran out of memory while training", "Lower batch or patch in the [[phase]] or [segmenter] tables."
    )
