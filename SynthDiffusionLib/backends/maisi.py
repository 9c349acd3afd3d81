"""MAISI (Guo et al., arXiv:2409.11169; version 2 of arXiv:2508.05772; NVIDIA-Medtech/NV-Generate-CTMR).

A KL autoencoder shrinks the volume by 4 along every axis; a U-Net, told the spacing of the voxels and either the region
of the body (DDPM) or the kind of image (rectified flow), denoises its latents; the drawing acts through a ControlNet.
The ControlNet sees the label value of every voxel as 8 binary digits, the lowest first (`binarize_labels` in
scripts/utils.py there). Without a drawing, or with a package that has no ControlNet, volumes are unconditional.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

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
from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.labels.class_maps import values_of
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.labels.regions import REGIONS, choose_regions
from SynthDiffusionLib.memory.execution import TOGETHER
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.memory.working_grids import latent_divisor, working_grid
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.maisi_decoder import replace_layers, safe_splits, set_splits
from SynthDiffusionLib.sampling.denoising import sample as draw_sample
from SynthDiffusionLib.sampling.flow import sample_flow
from SynthDiffusionLib.sampling.guidance import guided
from SynthDiffusionLib.sampling.samplers import RECTIFIED_FLOW
from SynthDiffusionLib.sampling.schedule import DiffusionSpec

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

SCALE = 100.0  # of the spacing in mm and of the regions' ones, on their way into the network
NO_MODALITY = 0  # class of an image of any kind: what guidance leads away from


def binary_code(class_map: np.ndarray, digits: int) -> np.ndarray:
    """The label value of every voxel in binary, one channel a digit, the lowest first.

    Args:
        class_map: (I, J, K) uint8.
        digits: number of channels.

    Returns:
        (digits, I, J, K) uint8, 0 or 1.
    """
    return (class_map[None] >> np.arange(digits, dtype=np.uint8)[:, None, None, None]) & 1


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Edge lengths of a voxel in mm, along the axes of the array.

    Args:
        affine: (4, 4) voxel indices to millimetres.
    """
    return tuple(float(n) for n in np.linalg.norm(np.asarray(affine, float)[:3, :3], axis=0))


class Maisi:
    """A trained MAISI, ready to draw volumes.

    Args:
        package: its description and weights; without a ControlNet it draws without a segmentation only.

    Raises:
        ModelError: the weights are not those of the networks.
    """

    def __init__(self, package: ModelPackage) -> None:
        self.spec = spec = package.spec
        self.latent = spec.latent
        self.diffusion = DiffusionSpec(**spec.raw["diffusion"])
        self._smallest, self._divisor = max(spec.grid.min_size), latent_divisor(spec)
        self.network = load_weights(build_network(spec.network), package.file("denoiser"))
        self.autoencoder = load_weights(build_network(spec.autoencoder), package.file("autoencoder"))
        replace_layers(self.autoencoder.decoder)
        self._features = Remembered()
        self.controlnet: nn.Module | None = None
        self.embedding: nn.Module | None = None
        if spec.controlnet is not None:
            self.controlnet = load_weights(build_network(spec.controlnet), package.file("controlnet"))
            # The embedding of the drawing does not depend on the step. It is taken out, so that it is computed once
            # for all of them; in its place the ControlNet is given the result.
            self.embedding = self.controlnet.controlnet_cond_embedding
            self.controlnet.controlnet_cond_embedding = nn.Identity()
            self.controlnet.use_checkpointing = False

    @property
    def weight_bytes(self) -> int:
        """Size of all weights in fp32."""
        networks = [n for n in (self.network, self.autoencoder, self.controlnet, self.embedding) if n is not None]
        return 4 * sum(p.numel() for n in networks for p in n.parameters())

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

        Outside the body, if its outline is given and the drawing counts, the volume is set to the lowest intensity, as
        MAISI's authors do.

        Args:
            condition: with no class given, the volume is unconditional. Its affine gives the spacing.
            guidance: w in v_0 + w (v_m - v_0), where m is the kind of image and 0 stands for any kind; 1 is off,
                otherwise a step costs two evaluations. Without a drawing only.
            known: must be None; this model does not inpaint.
            controls: `condition_scale` is the factor on the ControlNet's residuals, `region` goes to a DDPM model,
                `modality` to a rectified flow model.
            on_step: called after every step with (done, total).
            on_estimate: called before `on_step` with a function of no arguments that decodes the estimate of the volume
                at this step.
            on_part: told how far decoding has come; see `backends.OnPart`.

        Returns:
            (I, J, K) float32 in [-1, 1].

        Raises:
            BadInput: controls or a guidance that the model does not take.
            ModelError: a drawing, and no ControlNet; or a known image, which the model cannot continue.
            OutOfMemory: in spite of the plan.
            RunFailed: the networks give values that are not numbers.
        """
        if known is not None:
            raise ModelError(f"The model '{self.spec.id}' does not inpaint", "Choose another model.")
        device, grid = torch.device(plan.device), plan.grid
        autocast = autocast_for(plan)
        shape = (1, *self.latent.shape(grid))
        conditioned = self._is_conditioned(condition, controls)
        inputs = self._inputs(condition, controls, device)
        self._check_guidance(guidance, conditioned)
        outside = self._outside(condition) if conditioned else None

        with out_of_memory_is_told(grid), torch.inference_mode():
            stages = self._stages(plan, conditioned)
            told: dict[str, torch.Tensor] = dict(inputs)
            if conditioned:
                told["features"] = self._features.of(condition, plan, lambda: self._embed(condition, plan, stages))
            stages.begin("denoise")

            def evaluate(noisy: torch.Tensor, timesteps: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
                features, inputs = inputs.get("features"), {k: v for k, v in inputs.items() if k != "features"}
                down, mid = None, None
                classes = {"class_labels": inputs["class_labels"]} if "class_labels" in inputs else {}
                with autocast:
                    if features is not None:
                        down, mid = self.controlnet(
                            noisy, timesteps, features, conditioning_scale=controls.condition_scale, **classes
                        )
                    return self.network(
                        noisy,
                        timesteps,
                        down_block_additional_residuals=down,
                        mid_block_additional_residual=mid,
                        **inputs,
                    ).float()

            untold = dict(told)
            if guidance != 1.0:
                untold["class_labels"] = torch.full_like(inputs["class_labels"], NO_MODALITY)
            predict = guided(
                stages.attempting("denoise", evaluate), told, untold, guidance, plan.execution.guidance == TOGETHER
            )

            def decode(latents: torch.Tensor, stage: str) -> np.ndarray:
                stages.begin("decode")
                listen = partial(on_part, stage)
                made = stages.attempt("decode", lambda: self._decode(latents, stages.plan, listen))
                volume = cropped(made, condition.shape)
                if outside is not None:
                    volume[outside] = -1.0
                return volume

            def estimate(clean: torch.Tensor) -> np.ndarray:
                volume = decode(clean, ESTIMATE)
                stages.begin("denoise")
                return volume

            settings: dict[str, Any] = {
                "sampler": sampler,
                "steps": steps,
                "seed": seed,
                "device": device,
                "on_step": on_step,
                "on_estimate": None if on_estimate is None else lambda clean: on_estimate(lambda: estimate(clean)),
            }
            if self.diffusion.beta_schedule == RECTIFIED_FLOW:
                latents = sample_flow(predict, shape, self.diffusion, **settings)
            else:
                latents = draw_sample(predict, shape, self.diffusion, clip=None, **settings)
            finite_or_raise(latents)
            del predict, told, untold  # the drawing's features have done their work
            return decode(latents, "decode")

    def _stages(self, plan: Plan, conditioned: bool) -> Stages:
        """On a GPU every stage has its networks alone: decoding takes the most memory, and needs none of the others."""
        roles = {"embedding": self.embedding, "controlnet": self.controlnet} if conditioned else {}
        used = {"condition": ["embedding"], "denoise": ["denoiser"], "decode": ["autoencoder"]}
        if conditioned:
            used["denoise"].append("controlnet")
        networks = {"denoiser": self.network, "autoencoder": self.autoencoder, **roles}
        return Stages(plan, networks, used, alone=True)

    def _is_conditioned(self, condition: Condition, controls: Controls) -> bool:
        if condition.given and self.controlnet is None:
            raise ModelError(
                f"The model '{self.spec.id}' cannot follow a segmentation: it has no ControlNet",
                "Use it without one (--mode unconditional), or choose another model.",
            )
        return bool(condition.given) and controls.condition_scale != 0

    def _check_guidance(self, guidance: float, conditioned: bool) -> None:
        if guidance == 1.0:
            return
        if conditioned:
            raise BadInput(
                f"A guidance of {guidance:g} cannot be used with a segmentation: this model has no counterpart without "
                "the drawing that it could lead away from",
                "Leave --guidance at 1; --condition-scale sets how strongly the drawing acts.",
            )
        if self.network.num_class_embeds is None:
            raise BadInput(
                f"A guidance of {guidance:g} cannot be used: the model '{self.spec.id}' knows one kind of image only",
                "Leave --guidance at 1.",
            )

    def _inputs(self, condition: Condition, controls: Controls, device: torch.device) -> dict[str, torch.Tensor]:
        """What the U-Net is told beside the latents and the time, by the names of its arguments, (1, *) each."""
        inputs = {}
        if self.network.include_spacing_input:
            inputs["spacing_tensor"] = torch.tensor([spacing_of(condition.affine)], device=device) * SCALE
        takes_regions = self.network.include_top_region_index_input
        if controls.region is not None and not takes_regions:
            raise BadInput(f"The model '{self.spec.id}' takes no body region", "Leave out --region.")
        if takes_regions:
            chosen, _ = choose_regions(values_of(condition.class_map), controls.region)
            for name, region in zip(("top_region_index_tensor", "bottom_region_index_tensor"), chosen):
                ones = torch.tensor([[float(region == r) for r in REGIONS]], device=device)
                inputs[name] = ones * SCALE
        if self.network.num_class_embeds is not None:
            inputs["class_labels"] = torch.tensor([self._modality(controls.modality)], device=device)
        elif controls.modality is not None:
            raise BadInput(f"The model '{self.spec.id}' makes one kind of image only", "Leave out --modality.")
        return inputs

    def _modality(self, name: str | None) -> int:
        modalities = self.spec.controls.modalities
        if not modalities:
            raise ModelError(f"The description of '{self.spec.id}' names no modalities", "Get the package again.")
        if name is None:
            return next(iter(modalities.values()))
        if name not in modalities:
            raise BadInput(
                f"The model '{self.spec.id}' makes no images of the kind '{name}'",
                f"Choose one of: {', '.join(modalities)}.",
            )
        return modalities[name]

    def _outside(self, condition: Condition) -> np.ndarray | None:
        """(I, J, K) bool, what lies outside the body; None where its outline is not given."""
        outlines = [c.name for c in condition.scheme.classes if c.derive == "outline"]
        return condition.class_map == 0 if any(name in condition.given for name in outlines) else None

    def _embed(self, condition: Condition, plan: Plan, stages: Stages) -> torch.Tensor:
        """The ControlNet's embedding of the drawing, (1, C, D, H, W) of the latents' size."""
        stages.begin("condition")
        autocast = autocast_for(plan)
        digits = self.spec.controlnet.parameters["conditioning_embedding_in_channels"]
        code = torch.from_numpy(binary_code(pad_channels(condition.class_map, plan.grid), digits))[None].to(plan.device)
        dtype = autocast.fast_dtype if plan.precision != "fp32" else torch.float32  # 0 and 1 are exact in all of them
        factor = self.latent.downsampling
        return stages.attempt("condition", lambda: embedded(self.embedding, code, factor, stages.plan, dtype))

    def _decode(self, latents: torch.Tensor, plan: Plan, on_progress: Callable[[float], None]) -> torch.Tensor:
        """Latents as they are diffused to (1, 1, I', J', K'), -1 and 1 the ends of the intensity range."""
        parameters = self.spec.autoencoder.parameters
        set_splits(
            self.autoencoder.decoder,
            safe_splits(latents.shape[2:], self.latent.downsampling, parameters["num_channels"], plan.device),
        )
        with torch.inference_mode():
            scaled = latents / self.latent.scale_factor
            volume = decoded(self.autoencoder, scaled, plan, on_progress=on_progress)
            return finite_or_raise(to_unit_range(volume, self.latent.decoded_range))
