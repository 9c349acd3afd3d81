"""Sampling from rectified flow models (Liu et al., arXiv:2209.03003), in the terms of MAISI.

Data and noise are joined by straight lines, x = (1 - s) x0 + s noise, where the noise level s goes from 1 to 0 and the
network is told the time 1000 s. It predicts the velocity v = x0 - noise, so a step from s to a smaller s' is
x <- x + v (s - s'), and x + s v is the clean image that a prediction implies. (diffusers counts v the other way round.)

For large volumes the levels are shifted towards the noise (Esser et al., arXiv:2403.03206, section 5.3.2), as MAISI's
training does: s <- r s / (1 + (r - 1) s) with r the cube root of the latent's voxels over `DiffusionSpec.shift_numel`.

Defects avoided (figures on a Gaussian with a closed-form solution: Docs/SAMPLERS.md and
Testing/Engine/test_sampling_flow.py):

* MONAI's RFlowScheduler keeps its times in half precision and cuts the next one down to a whole number, so that its
  steps add up to 1.01 instead of 1. "maisi-rflow" is that scheduler, to repeat what it does; "euler" is the exact one.
* diffusers' flow schedulers shift explicit levels a second time, or take none, and round times to whole numbers: the
  levels are set here, in double precision, and only the solvers' arithmetic is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.sampling.samplers import FLOW_SAMPLERS, check_sampler
from SynthDiffusionLib.sampling.schedule import DiffusionSpec

__all__ = ["FLOW_SAMPLERS", "flow_levels", "sample_flow", "shift_ratio"]

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Evaluates the network on x at a level; returns the velocity and the clean image that it implies.
Evaluate = Callable[[torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]

# The solvers work with log((1 - s) / s), which is not finite at s = 1: their first level is this much below it.
BELOW_ONE = 1e-6


def shift_ratio(diffusion: DiffusionSpec, numel: int) -> float:
    """How far the noise levels of a latent are shifted; 1 leaves them.

    Args:
        diffusion: of which `shift_numel` is used.
        numel: voxels of the latent, not counting channels.
    """
    return 1.0 if diffusion.shift_numel is None else (numel / diffusion.shift_numel) ** (1 / 3)


def flow_levels(intervals: int, ratio: float) -> list[float]:
    """Noise levels from 1 to 0, evenly spaced before the shift.

    Returns:
        one more than `intervals`.
    """
    even = [1.0 - i / intervals for i in range(intervals)]
    return [ratio * s / (1.0 + (ratio - 1.0) * s) for s in even] + [0.0]


@torch.inference_mode()
def sample_flow(
    predict: Predict,
    shape: tuple[int, ...],
    diffusion: DiffusionSpec,
    *,
    sampler: str,
    steps: int,
    seed: int,
    device: torch.device | str = "cpu",
    numel: int | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    on_estimate: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Draws one batch of images or latents.

    The noise comes from a CPU generator, so that a seed gives the same start on every device.

    Args:
        predict: maps noisy images (B, C, D, H, W) and times (B,) float32, from T down, to the velocity x0 - noise.
        shape: (B, C, D, H, W) of the result.
        diffusion: the model's forward process, "rectified_flow".
        sampler: one of `FLOW_SAMPLERS`.
        steps: network evaluations.
        seed: of the noise.
        numel: voxels that the shift is computed from; None: those of `shape`, not counting channels.
        on_step: called after every evaluation with (done, total), when the device has finished it.
        on_estimate: called before `on_step` with the clean image as this evaluation sees it, (B, C, D, H, W); it must
            not change it.

    Returns:
        (B, C, D, H, W) float32 on `device`.

    Raises:
        BadInput: unknown sampler, or a number of steps that the model does not have.
        ModelError: a sampler for another kind of model.
    """
    check_sampler(sampler, diffusion.beta_schedule)
    if not 1 <= steps <= diffusion.train_steps:
        raise BadInput(f"{steps} steps were asked for", f"The model has {diffusion.train_steps}: give 1 to that many.")
    numel = math.prod(shape[2:]) if numel is None else numel
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    done = 0

    def tell(clean: torch.Tensor) -> None:
        nonlocal done
        if clean.is_cuda:
            torch.cuda.synchronize(clean.device)  # a GPU's work is queued: without this, steps would be told at once
        if on_estimate is not None:
            on_estimate(clean)
        done += 1
        on_step(done, steps)

    def evaluate(x: torch.Tensor, level: float) -> tuple[torch.Tensor, torch.Tensor]:
        times = torch.full((shape[0],), level * diffusion.train_steps, device=device)
        velocity = predict(x, times).float()
        clean = x + velocity * level
        tell(clean)
        return velocity, clean

    if sampler == "maisi-rflow":
        return _monai(predict, tell, x, diffusion, steps, numel)
    ratio = shift_ratio(diffusion, numel)
    if sampler == "euler":
        return _euler(evaluate, x, flow_levels(steps, ratio))
    if sampler == "heun":
        return _heun(evaluate, x, flow_levels((steps + 1) // 2, ratio), steps)
    return _multistep(sampler, evaluate, x, flow_levels(steps, ratio), diffusion.train_steps)


def _euler(evaluate: Evaluate, x: torch.Tensor, levels: Sequence[float]) -> torch.Tensor:
    for level, following in pairwise(levels):
        x = x + evaluate(x, level)[0] * (level - following)
    return x


def _heun(evaluate: Evaluate, x: torch.Tensor, levels: Sequence[float], steps: int) -> torch.Tensor:
    """Heun's method, two evaluations an interval; with an odd number of them the first interval, where paths are
    straightest, gets one (Euler)."""
    for index, (level, following) in enumerate(pairwise(levels)):
        velocity = evaluate(x, level)[0]
        if index > 0 or steps % 2 == 0:
            velocity = (velocity + evaluate(x + velocity * (level - following), following)[0]) / 2
        x = x + velocity * (level - following)
    return x


def _multistep(
    name: str, evaluate: Evaluate, x: torch.Tensor, levels: Sequence[float], train_steps: int
) -> torch.Tensor:
    """DPM-Solver++ (arXiv:2211.01095) or UniPC (arXiv:2302.04867) of second order with alpha = 1 - s and sigma = s."""
    import diffusers

    classes: dict[str, Any] = {
        "dpmpp-2m": diffusers.DPMSolverMultistepScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
    }
    scheduler = classes[name](
        num_train_timesteps=train_steps, prediction_type="sample", use_flow_sigmas=True, solver_order=2
    )
    scheduler.set_timesteps(len(levels) - 1)
    scheduler.sigmas = torch.tensor([min(level, 1.0 - BELOW_ONE) for level in levels], dtype=torch.float64)
    scheduler.set_begin_index(0)
    for level, timestep in zip(levels, scheduler.timesteps):
        x = scheduler.step(evaluate(x, level)[1], timestep, x).prev_sample
    return x


def _monai(
    predict: Predict,
    tell: Callable[[torch.Tensor], None],
    x: torch.Tensor,
    diffusion: DiffusionSpec,
    steps: int,
    numel: int,
) -> torch.Tensor:
    """MONAI's own scheduler in its own loop: times in half precision, the next one cut down to a whole number."""
    from monai.networks.schedulers import RFlowScheduler

    scheduler = RFlowScheduler(
        num_train_timesteps=diffusion.train_steps,
        use_discrete_timesteps=False,
        use_timestep_transform=diffusion.shift_numel is not None,
        base_img_size_numel=diffusion.shift_numel or 1,
    )
    # As a tensor, the size takes the shift's arithmetic to single precision, as in MAISI's own sampling.
    scheduler.set_timesteps(steps, input_img_size_numel=torch.tensor(numel))
    times = scheduler.timesteps
    for time, following in zip(times, torch.cat([times[1:], times.new_zeros(1)])):
        velocity = predict(x, time.float().to(x.device).expand(x.shape[0])).float()
        x, clean = scheduler.step(velocity, time, x, following)
        tell(clean)
    return x
