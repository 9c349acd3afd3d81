"""Checkpoints of earlier stages that a stage builds on: read, and checked as a whole before anything uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.earlier import check_rising, read_checkpoint, warn_if_unfinished
from SynthDiffusionLib.training.files import damaged
from SynthDiffusionLib.training.latents import digest_of
from SynthDiffusionLib.training.slice_ldm.autoencoder import build_trained
from SynthDiffusionLib.training.slice_ldm.config import METHOD
from SynthDiffusionLib.training.stages import is_size

# What later stages and the package take from a checkpoint, beside its weights.
_ENTRIES: dict[str, dict[str, type]] = {
    "autoencoder": {"intensity_range": list, "size": list},
    "refiner": {"autoencoder_sha256": str},
    "diffusion": {"autoencoder_sha256": str, "scale_factor": float, "characteristics": dict},
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
        if not is_size(tuple(state["size"])):
            raise damaged(path, "its size is not three whole numbers of at least 1")
    warn_if_unfinished(folder, stage, state, on_event)
    return state


class Autoencoder:
    """A trained SliceVAE for encoding and decoding; not trained further.

    Attributes:
        digest: of its weights.
        size: (I, J, K) of the volumes that it was trained on.
    """

    def __init__(self, state: dict[str, Any], fabric: Fabric) -> None:
        """`state` is a checkpoint from `read_stage`, which has checked it."""
        self.parameters = state["network_json"]
        self.intensity_range = tuple(state["intensity_range"])
        self.size = tuple(state["size"])
        self.digest = digest_of(state["weights"])
        self.fabric = fabric
        network = build_trained("autoencoder", self.parameters)
        network.load_state_dict(state["weights"])
        self.network = network.eval().requires_grad_(False).to(fabric.device)

    @property
    def channels(self) -> int:
        """Of the latent."""
        return self.parameters.get("latent_channels", 4)

    @torch.no_grad()
    def encode(self, pairs: torch.Tensor) -> torch.Tensor:
        """Image and mask (B, 2, I, J, K) to the means of the latents (B, C, i, j, K)."""
        with self.fabric.autocast():
            return self.network.encode_volume(pairs).float()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, refiner: torch.nn.Module | None = None) -> torch.Tensor:
        """Latents (B, C, i, j, K), not scaled, to image and mask (B, 2, I, J, K), with a refiner if there is one."""
        with self.fabric.autocast():
            if refiner is not None:
                latents = refiner.aggregate(latents)
            volumes = self.network.decode_volume(latents)
            return (volumes if refiner is None else refiner.refine(volumes)).float()


def check_refiner(state: dict[str, Any], autoencoder: Autoencoder, folder: Path) -> None:
    """Whether a refiner was trained with this autoencoder.

    Raises:
        BadInput: it was not.
    """
    if state["autoencoder_sha256"] != autoencoder.digest:
        raise BadInput(
            f"The refiner in '{folder}' was trained with another autoencoder than [run] names",
            "Name the autoencoder that it was trained with, or train the refiner again.",
        )
