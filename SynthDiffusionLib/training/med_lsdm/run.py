"""One stage of Med-LSDM from a configuration file, and the package at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from SynthDiffusionLib.training.med_lsdm.autoencoder import train_autoencoder
from SynthDiffusionLib.training.med_lsdm.config import load_med_lsdm_config
from SynthDiffusionLib.training.med_lsdm.diffusion import train_diffusion
from SynthDiffusionLib.training.med_lsdm.pack import check_package, write_med_lsdm_package
from SynthDiffusionLib.training.stage_runs import Workshop, carry_out

WORKSHOP = Workshop(
    {"autoencoder": train_autoencoder, "diffusion": train_diffusion}, check_package, write_med_lsdm_package
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
    config = load_med_lsdm_config(config_path)
    return carry_out(
        config, WORKSHOP, out, resume=resume, device=device, only_segmenter=only_segmenter, on_event=on_event
    )
