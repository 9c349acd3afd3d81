"""One stage of the slice-based model from a configuration file, and the package at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from SynthDiffusionLib.training.slice_ldm.autoencoder import train_autoencoder
from SynthDiffusionLib.training.slice_ldm.config import load_slice_ldm_config
from SynthDiffusionLib.training.slice_ldm.diffusion import train_diffusion
from SynthDiffusionLib.training.slice_ldm.pack import check_package, write_slice_ldm_package
from SynthDiffusionLib.training.slice_ldm.refiner import train_refiner
from SynthDiffusionLib.training.stage_runs import Workshop, carry_out

WORKSHOP = Workshop(
    {"autoencoder": train_autoencoder, "refiner": train_refiner, "diffusion": train_diffusion},
    check_package,
    write_slice_ldm_package,
)


def train_stage(
    config_path: Path,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    only_segmenter: bool = False,
    on_event: Callable[[dict], None] = lambda event: None,
) -> Path:
    """Carries out the configuration of one stage; see `stage_runs.carry_out`."""
    config = load_slice_ldm_config(config_path)
    return carry_out(
        config, WORKSHOP, out, resume=resume, device=device, only_segmenter=only_segmenter, on_event=on_event
    )
