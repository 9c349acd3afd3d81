"""diffusers' schedulers under plain names, set up so that their known defects do not bite.

Every scheduler is told that the network predicts the clean image ("sample"), whatever it really predicts: the
conversion is done once, in `denoising.py`, where the clean image can also be clipped to the range of the data for every
sampler alike.

Defects avoided (figures on a Gaussian with a closed-form solution: Docs/SAMPLERS.md, Testing/Engine/test_sampling.py):

* MONAI's DDPMScheduler looks up alpha at t - 1 instead of at the previous sampled step: not used.
* "leading" spacing never starts at T: ddpm and ddim step evenly down from T ("trailing"). diffusers' own trailing steps
  come from a floating-point range, which for some step counts (7 of T = 300) ends with a step at t = -1, so they are
  computed here.
* diffusers' DDIMScheduler goes down by T // steps whatever the steps are: too little where steps does not divide T (it
  leaves a third of the noise at 600 of 1000). DPM-Solver++ of first order is DDIM (arXiv:2211.01095, section 4.1) and
  uses the true steps: taken instead.
* Without Karras noise levels the multistep solvers under-disperse on linear schedules; with them they fail on the
  cosine schedule (diffusers #12771): Karras for linear and scaled-linear, plain spacing for cosine.
* With nearly T Karras steps the first time step comes twice after rounding, and diffusers begins at the second: the
  index of the first step is set.
"""

from __future__ import annotations

from typing import Any

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.jobs.request import check_choice
from SynthDiffusionLib.sampling.schedule import DiffusionSpec

SAMPLERS = ("ddpm", "ddim", "dpmpp-2m", "unipc")
FLOW_SAMPLERS = ("euler", "heun", "dpmpp-2m", "unipc", "maisi-rflow")  # for rectified flow: see `flow.py`
ALL_SAMPLERS = (*SAMPLERS, *(name for name in FLOW_SAMPLERS if name not in SAMPLERS))
# With fewer steps their samples are too much alike, see Docs/SAMPLERS.md.
LEAST_STEPS = {"ddpm": 250, "ddim": 50, "euler": 30, "maisi-rflow": 30}
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
RECTIFIED_FLOW = "rectified_flow"


def samplers_for(beta_schedule: str) -> tuple[str, ...]:
    """The samplers that the mathematics of a schedule allows; none for a schedule that is not known."""
    if beta_schedule == RECTIFIED_FLOW:
        return FLOW_SAMPLERS
    return SAMPLERS if beta_schedule in BETA_SCHEDULES else ()


def check_sampler(name: str, beta_schedule: str) -> None:
    """Refuses a sampler that does not belong to a kind of model.

    Raises:
        BadInput: there is no sampler of that name.
        ModelError: it is for the other kind: with betas, or rectified flow.
    """
    check_choice(name, ALL_SAMPLERS, "sampler")
    allowed = samplers_for(beta_schedule)
    if not allowed:
        raise ModelError(
            f"The sampler '{name}' does not fit the model's '{beta_schedule}' schedule",
            f"This version samples from: {', '.join((*BETA_SCHEDULES, RECTIFIED_FLOW))}. Choose another model.",
        )
    if name not in allowed:
        why = (
            "it removes noise by a schedule of betas, which a rectified flow model does not have"
            if beta_schedule == RECTIFIED_FLOW
            else "it follows the straight lines of rectified flow, which this model was not trained on"
        )
        raise ModelError(f"The sampler '{name}' does not fit the model: {why}", f"Choose one of: {', '.join(allowed)}.")


def build_scheduler(name: str, diffusion: DiffusionSpec, steps: int) -> Any:
    """A diffusers scheduler with its time steps set.

    Args:
        name: one of `SAMPLERS`.
        diffusion: the model's forward process, with a schedule of betas (for rectified flow, see `flow.py`).
        steps: number of network evaluations.

    Raises:
        BadInput: unknown name, or more steps than the model was trained with.
        ModelError: the model's schedule does not bear this sampler.
    """
    check_sampler(name, diffusion.beta_schedule)
    if diffusion.beta_schedule == RECTIFIED_FLOW:
        raise ModelError("A rectified flow model has no schedule of betas", "Sample it with `flow.sample_flow`.")
    if not 1 <= steps <= diffusion.train_steps:
        raise BadInput(f"{steps} steps were asked for", f"The model has {diffusion.train_steps}: give 1 to that many.")
    import diffusers

    common = {
        "num_train_timesteps": diffusion.train_steps,
        "beta_schedule": diffusion.beta_schedule,
        "beta_start": diffusion.beta_start,
        "beta_end": diffusion.beta_end,
        "prediction_type": "sample",
    }
    if name == "ddpm":
        scheduler = diffusers.DDPMScheduler(**common, variance_type="fixed_small", clip_sample=False)
        scheduler.set_timesteps(timesteps=trailing_steps(diffusion.train_steps, steps))
        return scheduler
    if name == "ddim":
        scheduler = diffusers.DPMSolverMultistepScheduler(**common, solver_order=1)
        scheduler.set_timesteps(timesteps=trailing_steps(diffusion.train_steps, steps))
    else:
        cls = diffusers.DPMSolverMultistepScheduler if name == "dpmpp-2m" else diffusers.UniPCMultistepScheduler
        karras = diffusion.beta_schedule != "squaredcos_cap_v2"
        # "linspace" puts steps + 1 points on T values: with all T steps, two would be the same.
        spacing = "linspace" if steps < diffusion.train_steps else "trailing"
        scheduler = cls(**common, use_karras_sigmas=karras, timestep_spacing=spacing, solver_order=2)
        scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    return scheduler


def trailing_steps(train_steps: int, steps: int) -> list[int]:
    """Time steps from T - 1 down, evenly spaced, the last of them T / steps above the clean image.

    "Trailing" in table 2 of Lin et al., arXiv:2305.08891.
    """
    return [(2 * (steps - i) * train_steps + steps) // (2 * steps) - 1 for i in range(steps)]
