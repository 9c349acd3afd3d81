"""Stage 3: the slim ControlNet beside the frozen U-Net (Seyfarth et al., arXiv:2503.13211); any mask can be missing."""

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
from SynthDiffusionLib.training.latent_stage import check_channels, forward_process
from SynthDiffusionLib.training.latents import LatentSet
from SynthDiffusionLib.training.loop import make_fabric, run_stage
from SynthDiffusionLib.training.masks import class_table, draw_given, masks_of
from SynthDiffusionLib.training.medlord.autoencoder import build_trained
from SynthDiffusionLib.training.medlord.config import MedLoRDConfig
from SynthDiffusionLib.training.medlord.diffusion import CodeStage
from SynthDiffusionLib.training.medlord.earlier import latent_settings, read_stage
from SynthDiffusionLib.training.medlord.latents import Autoencoder, prepare_latents
from SynthDiffusionLib.training.stages import HINT


class ControlNetStage(CodeStage):
    """See the module."""

    name = "controlnet"

    def __init__(
        self, config: MedLoRDConfig, fabric: Fabric, autoencoder: Autoencoder, latents: LatentSet, factor: float,
        diffusion: DiffusionSpec, crops: tuple[tuple[int, ...], ...], network: torch.nn.Module,
        denoiser: torch.nn.Module, scheme: LabelScheme,
    ) -> None:  # fmt: skip
        self.scheme = scheme
        self.table = class_table(scheme).to(fabric.device)
        self.denoiser = denoiser.eval().requires_grad_(False).to(fabric.device)
        super().__init__(config, fabric, autoencoder, latents, factor, diffusion, crops, network)

    def condition(self, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        given = draw_given(self.scheme, self.config.condition, len(labels), rng)
        return masks_of(labels, self.table, given.to(labels.device))

    def picture_condition(self, labels: torch.Tensor) -> torch.Tensor:
        return masks_of(labels, self.table, torch.ones(len(labels), self.table.shape[1], device=labels.device))

    def predict(
        self, network: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor | None
    ) -> torch.Tensor:
        with self.fabric.autocast():
            down, middle = network(noisy, timesteps, condition)
            return self.denoiser(
                noisy,
                timesteps,
                down_block_additional_residuals=tuple(down),
                mid_block_additional_residual=middle,
            )


def train_controlnet(
    config: MedLoRDConfig, out: Path, *, resume: bool, device: str, on_event: Callable[[dict], None]
) -> Path:
    """Trains the ControlNet; returns the checkpoint, whose "weights" are the averaged ones."""
    scheme = load_scheme(config.label_scheme)
    names = [c.name for c in scheme.condition_classes]
    for name in config.condition.drop or {}:
        if name not in names:
            raise BadInput(f"[condition] drop names '{name}', which is none of {', '.join(names)}", HINT)
    fabric = make_fabric(config, device)  # and its seed, before any weight is drawn
    network = build_trained("controlnet", config.network)
    autoencoder = Autoencoder(read_stage(config.autoencoder, "autoencoder", on_event), fabric)
    earlier = read_stage(config.denoiser, "diffusion", on_event)
    _check_fit(config, autoencoder, earlier, len(names))
    denoiser = build_trained("diffusion", earlier["network_json"])
    denoiser.load_state_dict(earlier["weights"])
    settings = latent_settings(config.denoiser / "checkpoint.pt", earlier["latents"])
    latents, factor = prepare_latents(
        config.denoiser / "latents", config.data, scheme, settings, autoencoder, earlier["seed"], on_event
    )
    diffusion = forward_process(earlier["diffusion"])
    stage = ControlNetStage(
        config, fabric, autoencoder, latents, factor, diffusion, settings.crops, network, denoiser, scheme
    )
    return run_stage(stage, config, out, fabric, resume=resume, on_event=on_event)


def _check_fit(config: MedLoRDConfig, autoencoder: Autoencoder, earlier: dict[str, Any], classes: int) -> None:
    """The ControlNet must fit the U-Net, the U-Net's run the autoencoder's, and all the label scheme.

    Raises:
        BadInput: they do not.
    """
    if earlier.get("autoencoder_sha256") != autoencoder.digest:
        raise BadInput(
            f"The denoiser in '{config.denoiser}' was trained on latents of another autoencoder than that in "
            f"'{config.autoencoder}'",
            "Name the run of the autoencoder that it was trained with, or train the denoiser again.",
        )
    if earlier.get("label_scheme") != config.label_scheme:
        raise BadInput(f"The denoiser was trained with the label scheme '{earlier.get('label_scheme')}'", HINT)
    if config.segmenter is not None and tuple(config.intensity_range) != autoencoder.intensity_range:
        raise BadInput(
            f"[run] intensity_range is {list(config.intensity_range)}, but that of the autoencoder is "
            f"{list(autoencoder.intensity_range)}",
            "Give the segmenter, which this stage trains, the autoencoder's.",
        )
    unet, network = earlier["network_json"], config.network
    check_channels(unet, autoencoder.channels)

    def levels(value: Any) -> Any:
        return [value] * len(unet["channels"]) if isinstance(value, int) else list(value)

    wanted = {
        "unet_channels": list(unet["channels"]),
        "in_channels": autoencoder.channels,
        "condition_channels": classes,
        "downsampling": autoencoder.downsampling,
        "attention_levels": list(unet.get("attention_levels", ())),
        "num_res_blocks": levels(unet.get("num_res_blocks", 2)),
    }
    for name, value in wanted.items():
        found = network.get(name, 4 if name == "downsampling" else 2 if name == "num_res_blocks" else None)
        found = levels(found) if name == "num_res_blocks" else list(found) if isinstance(found, list | tuple) else found
        if found != value:
            raise BadInput(f"[network] {name} is {found}, but the denoiser and autoencoder ask for {value}", HINT)
