"""Checkpoints of earlier stages of Med-LSDM, and what a stage takes from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from SynthDiffusionLib.training.earlier import check_process, check_rising, read_checkpoint, warn_if_unfinished
from SynthDiffusionLib.training.files import damaged
from SynthDiffusionLib.training.med_lsdm.autoencoder import build_trained
from SynthDiffusionLib.training.med_lsdm.config import METHOD

# What later stages and the package take from a checkpoint, beside its weights.
_ENTRIES: dict[str, dict[str, type]] = {
    "autoencoder": {"intensity_range": list, "downsampling": int, "label_scheme": str},
    "diffusion": {
        "latent_range": list,
        "scale_factor": float,
        "autoencoder_sha256": str,
        "diffusion": dict,
        "drop_all": float,
        "label_scheme": str,
    },
}


def read_stage(folder: Path, stage: str, on_event: Callable[[dict], None] | None = None) -> dict[str, Any]:
    """The checkpoint of an earlier stage; its weights fit the network that it describes.

    Args:
        on_event: gets a warning when the stage's run has not come to its end.

    Raises:
        BadInput: there is none, it is damaged, or of another stage.
    """
    path, state = read_checkpoint(folder, stage, METHOD, _ENTRIES[stage], build_trained)
    if stage == "autoencoder":
        check_rising(path, "intensity_range", state["intensity_range"])
        if state["downsampling"] != state["network_json"].get("downsampling", 4):
            raise damaged(path, "its downsampling is not its network's")
        if not state["weights"]["codebook"].min() < state["weights"]["codebook"].max():
            raise damaged(path, "its codebook has only one value")
    if stage == "diffusion":
        if state["latent_range"]:
            check_rising(path, "latent_range", state["latent_range"])
        if not 0 < state["scale_factor"] < math.inf:
            raise damaged(path, "its scale_factor is no number above 0")
        if not 0 <= state["drop_all"] <= 1:
            raise damaged(path, "its drop_all is no number from 0 to 1")
        check_process(path, state["diffusion"])
    warn_if_unfinished(folder, stage, state, on_event)
    return state
