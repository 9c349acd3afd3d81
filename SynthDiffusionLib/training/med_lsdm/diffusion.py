"""Stage 2: the factorised U-Net on scaled latents, led by the label map (Tang, Seyam, Yang, arXiv:2507.00206).

Their released training never withholds the label map, so that the null condition they lead away from is not trained;
here it is, with the chance `drop_all`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import LabelScheme, load_scheme
from SynthDiffusionLib.sampling.schedule import DiffusionSpec
from SynthDiffusionLib.training.earlier import begin_with, steps_of
from SynthDiffusionLib.training.latent_stage import LatentStage, check_channels, check_crops, forward_process
from SynthDiffusionLib.training.latents import LatentSet
from SynthDiffusionLib.training.loop import make_fabric, run_stage
from SynthDiffusionLib.training.masks import class_table, masks_of, one_hot_masks
from SynthDiffusionLib.training.med_lsdm.autoencoder import build_trained
from SynthDiffusionLib.training.med_lsdm.condition import check_names, draw_all_given
from SynthDiffusionLib.training.med_lsdm.config import MedLSDMConfig
from SynthDiffusionLib.training.med_lsdm.earlier import read_stage
from SynthDiffusionLib.training.med_lsdm.latents import Autoencoder, prepare_latents
from SynthDiffusionLib.training.stages import HINT


class DiffusionStage(LatentStage):
    """See the module."""

    name = "diffusion"

    def __init__(
        self, config: MedLSDMConfig, fabric: Fabric, autoencoder: Autoencoder, latents: LatentSet,
        diffusion: DiffusionSpec, network: torch.nn.Module, scheme: LabelScheme,
    ) -> None:  # fmt: skip
        self.autoencoder, self.scheme = autoencoder, scheme
        self.clip = tuple(float(autoencoder.scaled(torch.tensor(end))) for end in autoencoder.range)
        self.table = class_table(scheme).to(fabric.device)
        super().__init__(config, fabric, latents, diffusion, config.latents.crops, autoencoder.downsampling, network)

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.scaled(values)

    def decode(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.decode(latents, self.picture_condition(labels))

    def predict(
        self, network: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor | None
    ) -> torch.Tensor:
        return network(noisy, timesteps, condition)

    def _map(self, labels: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        masks = masks_of(labels, self.table, torch.ones_like(given))
        return one_hot_masks(masks, given)

    def condition(self, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        given = draw_all_given(self.scheme, self.config.condition, len(labels), rng)
        return self._map(labels, given.to(labels.device))

    def picture_condition(self, labels: torch.Tensor) -> torch.Tensor:
        return self._map(labels, torch.ones(len(labels), self.table.shape[1], device=labels.device))

    def record(self) -> dict[str, Any]:
        return {
            **super().record(),
            "latent_range": list(self.autoencoder.range) if self.autoencoder.factor is None else [],
            "scale_factor": self.autoencoder.factor or 1.0,
            "autoencoder_sha256": self.autoencoder.digest,
            "diffusion": self.config.diffusion,
            "drop_all": float(self.config.condition.drop_all),
        }


def train_diffusion(
    config: MedLSDMConfig, out: Path, *, resume: bool, device: str, on_event: Callable[[dict], None]
) -> Path:
    """Encodes the cases, then trains the U-Net; returns the checkpoint, whose "weights" are the averaged ones."""
    diffusion = forward_process(config.diffusion)
    scheme = load_scheme(config.label_scheme)
    check_names(scheme, config)
    fabric = make_fabric(config, device)  # and its seed, before any weight is drawn
    network = build_trained("diffusion", config.network)
    check_crops(config.latents.crops, (network.divisor, network.divisor, 1))
    earlier = read_stage(config.autoencoder, "autoencoder", on_event)
    autoencoder = Autoencoder(earlier, fabric)
    check_fit(config, autoencoder, earlier["label_scheme"], scheme)
    initial = begin_with(network, config, read_stage, autoencoder.digest)
    latents = prepare_latents(out / "latents", config.data, scheme, config.latents, autoencoder, config.seed, on_event)
    stage = DiffusionStage(config, fabric, autoencoder, latents, diffusion, network, scheme)
    stage.initial_steps = steps_of(initial)
    return run_stage(stage, config, out, fabric, resume=resume, on_event=on_event)


def check_fit(config: MedLSDMConfig, autoencoder: Autoencoder, of_autoencoder: str, scheme: LabelScheme) -> None:
    """The U-Net must fit the autoencoder, and both the label scheme.

    Args:
        of_autoencoder: the label scheme that the autoencoder was trained with.

    Raises:
        BadInput: they do not.
    """
    check_channels(config.network, autoencoder.channels)
    wanted = {
        "condition_channels": (len(scheme.condition_classes) + 1, 3, "the label scheme's classes and background are"),
        "mask_downsampling": (autoencoder.downsampling, 4, "the autoencoder's downsampling is"),
    }
    for name, (value, default, why) in wanted.items():
        found = config.network.get(name, default)
        if found != value:
            raise BadInput(f"[network] {name} is {found}, but {why} {value}", f"Write {name} = {value}.")
    if autoencoder.steered and of_autoencoder != config.label_scheme:
        raise BadInput(f"The autoencoder's decoder was trained with the label scheme '{of_autoencoder}'", HINT)
    if config.segmenter is not None and tuple(config.intensity_range) != autoencoder.intensity_range:
        raise BadInput(
            f"[run] intensity_range is {list(config.intensity_range)}, but that of the autoencoder is "
            f"{list(autoencoder.intensity_range)}",
            "Give the segmenter, which this stage trains, the autoencoder's.",
        )
