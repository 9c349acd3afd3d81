"""Patch-wise DDPM (Khadra and Türkbey, arXiv:2410.12542, on the PatchDDM design, arXiv:2303.15288).

Voxel space; trained on random patches with three coordinate channels; sampled on the whole volume at once, without
tiles or seams; conditioned on the segmentation by concatenation. Two more channels hold the known part of a real image
and say where it is known: inpainting is conditioning, and works with every sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from SynthDiffusionLib.backends import OnEstimate, OnPart, nothing_told
from SynthDiffusionLib.backends.controls import DEFAULT_CONTROLS, Controls
from SynthDiffusionLib.backends.coordinates import coordinate_channels
from SynthDiffusionLib.backends.latent import out_of_memory_is_told
from SynthDiffusionLib.backends.stages import Stages
from SynthDiffusionLib.errors import ModelError, RunFailed
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.memory.execution import TOGETHER
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.memory.working_grids import SMALLEST_SIDE, working_grid
from SynthDiffusionLib.sampling.denoising import sample as draw_sample
from SynthDiffusionLib.sampling.guidance import guided
from SynthDiffusionLib.sampling.schedule import DiffusionSpec

if TYPE_CHECKING:
    from SynthDiffusionLib.networks.patch_unet import PatchUNet

COORDINATE_CHANNELS = 3
IMAGE_CHANNELS = 3  # noisy image, known image, known mask


@dataclass(frozen=True)
class KnownImage:
    """The part of a real image that inpainting must continue.

    Args:
        values: (I, J, K) float32 in [-1, 1].
        mask: (I, J, K) bool, where it is known.
        replacement: overwrite the known voxels after every step instead of giving them to the network.
    """

    values: np.ndarray
    mask: np.ndarray
    replacement: bool = False


def build_network(parameters: dict[str, Any], scheme: LabelScheme) -> PatchUNet:
    """The denoiser for a label scheme, with fresh weights."""
    from SynthDiffusionLib.networks.patch_unet import PatchUNet

    return PatchUNet(IMAGE_CHANNELS + COORDINATE_CHANNELS + len(scheme.condition_classes), **parameters)


def assemble_input(
    noisy: torch.Tensor,
    coordinates: torch.Tensor,
    condition: torch.Tensor,
    known_image: torch.Tensor,
    known_mask: torch.Tensor,
) -> torch.Tensor:
    """Concatenates the network's input channels, all (B, *, D, H, W), in the order that the weights expect."""
    return torch.cat([noisy, coordinates, condition, known_image, known_mask], dim=1)


class PatchDDPM:
    """A trained patch-wise DDPM, ready to draw volumes.

    Args:
        network: parameters of `PatchUNet`, from `model.json`.
        diffusion: the forward process that it was trained with.
        scheme: its label scheme.
        weights: the denoiser's safetensors file.

    Raises:
        ModelError: the tensors are not those of the network.
    """

    def __init__(self, network: dict[str, Any], diffusion: DiffusionSpec, scheme: LabelScheme, weights: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.diffusion = diffusion
        try:
            self.network = build_network(network, scheme)
            self.network.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
        except (RuntimeError, OSError, TypeError, ValueError, SafetensorError) as error:
            raise ModelError(
                f"The weights in '{Path(weights).name}' do not fit the model's network", "Install the package again."
            ) from error
        self.network.eval()

    @property
    def weight_bytes(self) -> int:
        """Size of the weights in fp32."""
        return 4 * sum(p.numel() for p in self.network.parameters())

    def working_grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The grid that the network works on for a condition of `shape`: padded to `SMALLEST_SIDE` and its divisor."""
        return working_grid(shape, SMALLEST_SIDE, self.network.divisor)

    def sample(
        self,
        condition: Condition,
        plan: Plan,
        *,
        sampler: str,
        steps: int,
        seed: int,
        guidance: float = 1.0,
        known: KnownImage | None = None,
        controls: Controls = DEFAULT_CONTROLS,
        on_step: Callable[[int, int], None] = lambda done, total: None,
        on_estimate: OnEstimate | None = None,
        on_part: OnPart = nothing_told,
    ) -> np.ndarray:
        """Draws one volume on the condition's grid.

        Args:
            guidance: w in x_null + w (x_cond - x_null), classifier-free guidance of arXiv:2207.12598 in the
                convention where 1 is off; otherwise a step costs two network evaluations.
            known: what to continue; None synthesises every voxel.
            controls: not used: this model takes none.
            on_step: called after every step with (done, total).
            on_estimate: called before `on_step` with a function of no arguments that gives the estimate of the volume
                at this step, as it will be returned at the end.
            on_part: not called: there is nothing to decode.

        Returns:
            (I, J, K) float32 in [-1, 1].

        Raises:
            OutOfMemory: in spite of the plan.
        """
        shape, grid = condition.shape, plan.grid
        pads = [(0, g - n) for g, n in zip(grid, shape)]
        device = torch.device(plan.device)

        def tensor(array: np.ndarray, mode: str = "edge", **arguments) -> torch.Tensor:
            padded = np.pad(array, [(0, 0)] * (array.ndim - 3) + pads, mode=mode, **arguments).astype(np.float32)
            return torch.from_numpy(padded.reshape(1, -1, *grid)).to(device)

        classes = tensor(condition.channels())
        coordinates = torch.from_numpy(coordinate_channels(grid))[None].to(device)
        nothing = torch.zeros((1, 1, *grid), device=device)
        known_image, known_mask, replace = nothing, nothing, None
        if known is not None:
            mask = tensor(known.mask, mode="constant", constant_values=False)
            image = tensor(np.where(known.mask, known.values, 0.0), mode="constant") * mask
            if known.replacement:
                replace = (image, mask)
            else:
                known_image, known_mask = image, mask

        network = self.network
        stages = Stages(plan, {"denoiser": network}, {"denoise": ["denoiser"]})
        stages.begin("denoise")
        autocast = torch.autocast(
            device.type,
            {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.precision),
            enabled=plan.precision != "fp32",
        )

        def evaluate(noisy: torch.Tensor, timesteps: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
            place, image, mask = (t.expand(len(noisy), -1, -1, -1, -1) for t in (coordinates, known_image, known_mask))
            with autocast:
                return network(assemble_input(noisy, place, channels, image, mask), timesteps).float()

        unconditioned = torch.zeros_like(classes) if guidance != 1.0 else None
        predict = guided(
            stages.attempting("denoise", evaluate),
            classes,
            unconditioned,
            guidance,
            plan.execution.guidance == TOGETHER,
        )

        def unpadded(volume: torch.Tensor) -> np.ndarray:
            return volume[0, 0][tuple(slice(0, n) for n in shape)].clamp(-1.0, 1.0).cpu().numpy()

        with out_of_memory_is_told(grid):
            volume = draw_sample(
                predict,
                (1, 1, *grid),
                self.diffusion,
                sampler=sampler,
                steps=steps,
                seed=seed,
                device=device,
                replace_known=replace,
                on_step=on_step,
                on_estimate=None if on_estimate is None else lambda clean: on_estimate(lambda: unpadded(clean)),
            )
        if not torch.isfinite(volume).all():
            raise RunFailed(
                "The network's result holds values that are not numbers",
                "Try --precision fp32; if that does not help, install the model again.",
            )
        return unpadded(volume)
