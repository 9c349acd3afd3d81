"""MedLoRD (Seyfarth et al., arXiv:2503.13211; code Cardio-AI/medlord): a latent diffusion model for whole CT volumes.

A 3D VQ-GAN shrinks the volume by 4 or 8 along every axis; a U-Net denoises its latents; the drawing acts through a slim
ControlNet beside the frozen U-Net, so that the same weights also draw volumes without a drawing. The sample is
quantised again before it is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from SynthDiffusionLib.backends import ESTIMATE, OnEstimate, OnPart, nothing_told
from SynthDiffusionLib.backends.controls import DEFAULT_CONTROLS, Controls
from SynthDiffusionLib.backends.latent import (
    Remembered,
    autocast_for,
    cropped,
    decoded,
    embedded,
    finite_or_raise,
    load_weights,
    out_of_memory_is_told,
    pad_channels,
    to_unit_range,
)
from SynthDiffusionLib.backends.stages import Stages
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.memory.execution import TOGETHER
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.memory.working_grids import latent_divisor, working_grid
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.codebook import embed_codes, nearest_codes
from SynthDiffusionLib.sampling.denoising import sample as draw_sample
from SynthDiffusionLib.sampling.guidance import guided
from SynthDiffusionLib.sampling.schedule import DiffusionSpec

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage


def quantise(quantizer: nn.Module, z: torch.Tensor) -> torch.Tensor:
    """Replaces every latent voxel by the nearest entry of the codebook, in fp32.

    Args:
        quantizer: MONAI's `EMAQuantizer`.
        z: (B, C, D, H, W), C the length of an entry.

    Returns:
        (B, C, D, H, W) float32.
    """
    codebook = quantizer.embedding.weight.float()
    return embed_codes(codebook, nearest_codes(codebook, z))


def masks_of(channels: np.ndarray) -> np.ndarray:
    """The ControlNet's masks: 1 inside a class, 0 outside it, and 0 everywhere where it is not given.

    Args:
        channels: (C, I, J, K) of `Condition.channels`.

    Returns:
        (C, I, J, K) float32.
    """
    return (channels > 0).astype(np.float32)


class MedLoRD:
    """A trained MedLoRD, ready to draw volumes.

    Args:
        package: its description and weights; without a ControlNet it draws without a condition only.

    Raises:
        ModelError: the weights are not those of the networks.
    """

    def __init__(self, package: ModelPackage) -> None:
        spec = package.spec
        self.latent = spec.latent
        self.diffusion = DiffusionSpec(**spec.raw["diffusion"])
        self._smallest, self._divisor = max(spec.grid.min_size), latent_divisor(spec)
        self.autoencoder = load_weights(build_network(spec.autoencoder), package.file("autoencoder"))
        self.network = load_weights(build_network(spec.network), package.file("denoiser"))
        self._features = Remembered()
        self.controlnet: nn.Module | None = None
        if spec.controlnet is not None:
            self.controlnet = load_weights(build_network(spec.controlnet), package.file("controlnet"))

    @property
    def weight_bytes(self) -> int:
        """Size of all weights in fp32."""
        networks = [self.autoencoder, self.network, *([self.controlnet] if self.controlnet is not None else [])]
        return 4 * sum(t.numel() for n in networks for t in n.state_dict().values())

    def working_grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The grid of voxels that the networks work on for a condition of `shape`."""
        return working_grid(shape, self._smallest, self._divisor)

    def sample(
        self,
        condition: Condition,
        plan: Plan,
        *,
        sampler: str,
        steps: int,
        seed: int,
        guidance: float = 1.0,
        known: None = None,
        controls: Controls = DEFAULT_CONTROLS,
        on_step: Callable[[int, int], None] = lambda done, total: None,
        on_estimate: OnEstimate | None = None,
        on_part: OnPart = nothing_told,
    ) -> np.ndarray:
        """Draws one volume on the condition's grid.

        Args:
            condition: with no class given, the volume is unconditional.
            guidance: w in v_null + w (v_cond - v_null), where v_null is the U-Net without its ControlNet; 1 is off,
                otherwise a step costs the U-Net twice. An addition of this project: the released code has none.
            known: must be None; this model does not inpaint.
            controls: of which `condition_scale` is used: the factor on the ControlNet's residuals.
            on_step: called after every step with (done, total).
            on_estimate: called before `on_step` with a function of no arguments that decodes the estimate of the volume
                at this step.
            on_part: told how far decoding has come; see `backends.OnPart`.

        Returns:
            (I, J, K) float32 in [-1, 1].

        Raises:
            OutOfMemory: in spite of the plan.
            RunFailed: the networks give values that are not numbers.
        """
        device, grid = torch.device(plan.device), plan.grid
        autocast = autocast_for(plan)
        shape = (1, *self.latent.shape(grid))
        conditioned = bool(condition.given) and self.controlnet is not None and controls.condition_scale != 0

        with out_of_memory_is_told(grid), torch.inference_mode():
            stages = self._stages(plan, conditioned)
            features = torch.empty(0)
            if conditioned:  # does not depend on the step, nor on the seed: once is enough
                features = self._features.of(condition, plan, lambda: self._embed(condition, plan, stages))
            stages.begin("denoise")

            def evaluate(noisy: torch.Tensor, timesteps: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
                """The first items of the batch follow drawings, as many as there are features for."""
                down, mid, drawn = None, None, len(features)
                with autocast:
                    if drawn:
                        residuals, last = self.controlnet(
                            noisy[:drawn], timesteps[:drawn], embedded=features, scale=controls.condition_scale
                        )
                        down, mid = [_extended(r, len(noisy)) for r in residuals], _extended(last, len(noisy))
                    return self.network(
                        noisy,
                        timesteps,
                        down_block_additional_residuals=down,
                        mid_block_additional_residual=mid,
                    ).float()

            scale = guidance if conditioned else 1.0
            predict = guided(
                stages.attempting("denoise", evaluate),
                features,
                features[:0],
                scale,
                plan.execution.guidance == TOGETHER,
            )

            def decode(latents: torch.Tensor, stage: str) -> np.ndarray:
                stages.begin("decode")
                with torch.inference_mode():
                    codes = quantise(self.autoencoder.quantizer.quantizer, latents / self.latent.scale_factor)
                    volume = stages.attempt(
                        "decode",
                        lambda: decoded(self.autoencoder, codes, stages.plan, on_progress=partial(on_part, stage)),
                    )
                    return cropped(finite_or_raise(to_unit_range(volume, self.latent.decoded_range)), condition.shape)

            def estimate(clean: torch.Tensor) -> np.ndarray:
                volume = decode(clean, ESTIMATE)
                stages.begin("denoise")
                return volume

            latents = draw_sample(
                predict,
                shape,
                self.diffusion,
                sampler=sampler,
                steps=steps,
                seed=seed,
                device=device,
                clip=None,
                on_step=on_step,
                on_estimate=None if on_estimate is None else lambda clean: on_estimate(lambda: estimate(clean)),
            )
            del predict, features  # the drawing's features have done their work
            return decode(finite_or_raise(latents), "decode")

    def _embed(self, condition: Condition, plan: Plan, stages: Stages) -> torch.Tensor:
        """The ControlNet's embedding of the drawing, (1, C, D, H, W) of the latents' size."""
        stages.begin("condition")
        masks = torch.from_numpy(pad_channels(masks_of(condition.channels()), plan.grid))[None].to(plan.device)
        layers, factor = self.controlnet.embedding, self.controlnet.downsampling
        return stages.attempt("condition", lambda: embedded(layers, masks, factor, stages.plan))

    def _stages(self, plan: Plan, conditioned: bool) -> Stages:
        networks = {"denoiser": self.network, "autoencoder": self.autoencoder}
        used = {"denoise": ["denoiser"], "decode": ["autoencoder"]}
        if conditioned:
            networks["controlnet"], used["condition"] = self.controlnet, ["controlnet"]
            used["denoise"].append("controlnet")
        return Stages(plan, networks, used)


def _extended(residual: torch.Tensor, batch: int) -> torch.Tensor:
    """Zeros for the items of a batch that follow no drawing.

    Args:
        residual: (b, C, D, H, W) of the first items.
        batch: of all.
    """
    missing = batch - len(residual)
    return residual if not missing else torch.cat([residual, residual.new_zeros((missing, *residual.shape[1:]))])
