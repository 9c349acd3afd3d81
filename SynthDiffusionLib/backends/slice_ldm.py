"""Slice-based latent diffusion (Kebaili et al., ISBI 2024, arXiv:2406.05421): an image together with its mask.

A 2D autoencoder, told each slice's place, makes one small latent of a slice of the image and that of the mask; one
U-Net denoises the stack of all latents, told nine characteristics of the tumour; the slices are decoded one by one. A
refiner, where the package has one, mends what the authors name as the method's weak points: it lets the latents of
neighbouring slices see each other before they are decoded, and image and mask afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from SynthDiffusionLib.backends import ESTIMATE, OnEstimate, OnPart, nothing_told
from SynthDiffusionLib.backends.latent import (
    autocast_for,
    finite_or_raise,
    load_weights,
    out_of_memory_is_told,
    to_unit_range,
)
from SynthDiffusionLib.backends.stages import Stages
from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.memory.execution import TOGETHER
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.memory.working_grids import latent_divisor, smallest_sides, working_grid
from SynthDiffusionLib.models.characteristics import NAMES
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.sampling.denoising import sample as draw_sample
from SynthDiffusionLib.sampling.guidance import guided
from SynthDiffusionLib.sampling.schedule import DiffusionSpec

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage


class SliceLDM:
    """A trained slice-based latent diffusion model, ready to draw images with their masks.

    Args:
        package: its description and weights.

    Raises:
        ModelError: the weights are not those of the networks, or nothing says what the characteristics are.
    """

    def __init__(self, package: ModelPackage) -> None:
        spec = package.spec
        if spec.characteristics is None:
            raise ModelError(f"The model '{spec.id}' lacks the section 'characteristics'", "Get the package again.")
        self.id = spec.id
        self.latent = spec.latent
        self.diffusion = DiffusionSpec(**spec.raw["diffusion"])
        self.characteristics = spec.characteristics
        self.has_null = spec.controls.guidance
        self._smallest, self._divisor = smallest_sides(spec), latent_divisor(spec)
        self.autoencoder = load_weights(build_network(spec.autoencoder), package.file("autoencoder"))
        self.network = load_weights(build_network(spec.network), package.file("denoiser"))
        self.refiner: nn.Module | None = None
        if spec.refiner is not None:
            self.refiner = load_weights(build_network(spec.refiner), package.file("refiner"))

    @property
    def _networks(self) -> list[nn.Module]:
        return [self.network, self.autoencoder, *([self.refiner] if self.refiner is not None else [])]

    @property
    def weight_bytes(self) -> int:
        """Size of all weights in fp32."""
        return 4 * sum(t.numel() for n in self._networks for t in n.state_dict().values())

    def working_grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The grid of voxels that the networks work on for a volume of `shape`."""
        return working_grid(shape, self._smallest, self._divisor)

    def sample(self, *arguments: object, **settings: object) -> np.ndarray:
        """Refused: this model draws no volume without its mask; see `sample_joint`."""
        raise ModelError(f"The model '{self.id}' makes its segmentation itself", "Use --mode joint.")

    def sample_joint(
        self,
        characteristics: np.ndarray | None,
        plan: Plan,
        *,
        sampler: str,
        steps: int,
        seed: int,
        guidance: float = 1.0,
        shape: tuple[int, int, int] | None = None,
        on_step: Callable[[int, int], None] = lambda done, total: None,
        on_estimate: OnEstimate | None = None,
        on_part: OnPart = nothing_told,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws one image and its mask.

        The latents are not clipped, as in the authors' code; a mask is where its decoded channel is above 0.

        Args:
            characteristics: (9,) in the order and units of `models.characteristics.NAMES`; None: the null condition.
            guidance: w in eps_null + w (eps - eps_null), where eps_null is the U-Net's prediction under the null
                condition; 1 is off, otherwise a step costs the U-Net twice. An addition of this project.
            shape: (I, J, K) of the result, the plan's grid without its padding, which lies at the ends of the axes;
                None: all of the grid.
            on_step: called after every step with (done, total).
            on_estimate: called before `on_step` with a function of no arguments that decodes the image as this step
                estimates it.
            on_part: told how far decoding has come; see `backends.OnPart`.

        Returns:
            (I, J, K) float32 in [-1, 1], and (I, J, K) bool.

        Raises:
            BadInput: the null condition is needed, and the model was not trained with it.
            OutOfMemory: in spite of the plan.
            RunFailed: the networks give values that are not numbers.
        """
        shape = plan.grid if shape is None else shape
        device = torch.device(plan.device)
        autocast = autocast_for(plan)
        condition = self._condition(characteristics, guidance).to(device)

        with out_of_memory_is_told(plan.grid), torch.inference_mode():
            stages = self._stages(plan)
            stages.begin("denoise")

            def evaluate(noisy: torch.Tensor, timesteps: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
                with autocast:
                    return self.network(noisy, timesteps, values).float()

            scale = 1.0 if characteristics is None else guidance
            null = torch.full_like(condition, float("nan"))
            predict = guided(
                stages.attempting("denoise", evaluate), condition, null, scale, plan.execution.guidance == TOGETHER
            )

            def estimate(clean: torch.Tensor) -> np.ndarray:
                image = _image(self.decode(clean, plan, shape, partial(on_part, ESTIMATE)))
                stages.begin("denoise")
                return image

            latents = draw_sample(
                predict,
                (1, *self.latent.shape(plan.grid)),
                self.diffusion,
                sampler=sampler,
                steps=steps,
                seed=seed,
                device=device,
                clip=None,
                on_step=on_step,
                on_estimate=None if on_estimate is None else lambda clean: on_estimate(lambda: estimate(clean)),
            )
            decoded = self.decode(finite_or_raise(latents), plan, shape, partial(on_part, "decode"))
            return _image(decoded), (decoded[1] > 0).cpu().numpy()

    def _stages(self, plan: Plan) -> Stages:
        networks = {"denoiser": self.network, "autoencoder": self.autoencoder}
        used = {"denoise": ["denoiser"], "decode": ["autoencoder"]}
        if self.refiner is not None:
            networks["refiner"], used["refine"] = self.refiner, ["refiner"]
            used["decode"].append("refiner")
        return Stages(plan, networks, used)

    def decode(
        self,
        latents: torch.Tensor,
        plan: Plan,
        shape: tuple[int, int, int],
        on_progress: Callable[[float], None] = lambda fraction: None,
    ) -> torch.Tensor:
        """Image and mask of latents, without their padding.

        Args:
            latents: (1, C, i, j, k) as they are denoised.
            plan: how it is decoded and refined.
            shape: (I, J, K) to keep.
            on_progress: told the fraction of the slices that are decoded.

        Returns:
            (2, I, J, K) float32: the image, not clipped, and the mask's channel.
        """
        stages = self._stages(plan)
        on_progress(0.0)
        with torch.inference_mode(), autocast_for(plan):
            stages.begin("decode")
            # Slices of padding are left out first: the decoder is told how far each lies from the middle of the stack.
            z = latents[..., : shape[2]] / self.latent.scale_factor
            if self.refiner is not None:
                z = self.refiner.aggregate(z)

            def listen(done: int, total: int) -> None:
                on_progress(done / total)

            def decode_slices() -> torch.Tensor:
                return self.autoencoder.decode_volume(z, stages.plan.execution.slices, listen)

            pair = stages.attempt("decode", decode_slices)
            if self.refiner is not None:
                stages.begin("refine")
                pair = stages.attempt("refine", partial(self.refiner.refine, pair.float()))
        image, mask = finite_or_raise(pair[0, :, : shape[0], : shape[1]].float())
        return torch.stack([to_unit_range(image, self.latent.decoded_range), mask])

    def _condition(self, characteristics: np.ndarray | None, guidance: float) -> torch.Tensor:
        """(1, 9) as the U-Net takes them: scaled; NaN is the null condition."""
        if (characteristics is None or guidance != 1.0) and not self.has_null:
            raise BadInput(
                f"The model '{self.id}' was trained with the characteristics of a tumour only",
                "Give them, and leave --guidance out.",
            )
        if characteristics is None:
            return torch.full((1, len(NAMES)), float("nan"))
        values = np.asarray(characteristics, float)
        if values.shape != (len(NAMES),) or not (np.abs(values) <= np.finfo(np.float32).max).all():  # false for NaN
            raise BadInput(
                f"The model '{self.id}' needs {len(NAMES)} characteristics that are numbers",
                f"They are: {', '.join(NAMES)}.",
            )
        return torch.from_numpy(self.characteristics.for_network(values).astype(np.float32))[None]


def _image(decoded: torch.Tensor) -> np.ndarray:
    """(I, J, K) float32 within [-1, 1], of what `SliceLDM.decode` gives."""
    return decoded[0].clamp(-1.0, 1.0).cpu().numpy()
