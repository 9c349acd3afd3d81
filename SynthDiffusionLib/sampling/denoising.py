"""The sampling loop: noise to image, for any sampler and any network that predicts noise, v or the image."""

from __future__ import annotations

from collections.abc import Callable

import torch

from SynthDiffusionLib.sampling.samplers import build_scheduler
from SynthDiffusionLib.sampling.schedule import DiffusionSpec

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def to_clean_image(prediction: torch.Tensor, noisy: torch.Tensor, alpha_bar: torch.Tensor, kind: str) -> torch.Tensor:
    """The clean image that a prediction implies.

    Args:
        prediction: the network's output, (B, C, D, H, W).
        noisy: the network's noisy input, same shape.
        alpha_bar: scalar, product of 1 - beta at this time step.
        kind: "epsilon", "v_prediction" or "sample".
    """
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if kind == "epsilon":
        return (noisy - s * prediction) / a
    if kind == "v_prediction":
        return a * noisy - s * prediction
    return prediction


@torch.inference_mode()
def sample(
    predict: Predict,
    shape: tuple[int, ...],
    diffusion: DiffusionSpec,
    *,
    sampler: str,
    steps: int,
    seed: int,
    device: torch.device | str = "cpu",
    clip: tuple[float, float] | None = (-1.0, 1.0),
    replace_known: tuple[torch.Tensor, torch.Tensor] | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    on_estimate: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Draws one batch of images.

    The noise comes from a CPU generator, so that a seed gives the same start on every device.

    Args:
        predict: maps noisy images (B, C, D, H, W) and time steps (B,) to the network's prediction.
        shape: (B, C, D, H, W) of the result.
        diffusion: the model's forward process.
        sampler: plain name, see `samplers.SAMPLERS`.
        steps: network evaluations.
        seed: of the noise.
        clip: range that clean images are clipped to at every step; None leaves them.
        replace_known: (known image, known mask), (B, C, D, H, W) each: after every step the known voxels are
            overwritten with the known image at the noise level of the next step. This is the replacement method of
            Song et al., arXiv:2011.13456, section 5; it needs no trained inpainting channels.
        on_step: called after every step with (done, total), when the device has finished it.
        on_estimate: called before `on_step` with the clean image as this step estimates it, (B, C, D, H, W); it must
            not change it.

    Returns:
        (B, C, D, H, W) float32 on `device`.
    """
    scheduler = build_scheduler(sampler, diffusion, steps)
    alphas = diffusion.alphas_cumprod().to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).to(device) * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps
    for index, timestep in enumerate(timesteps):
        alpha_bar = _alpha_bar(scheduler, alphas, index).to(torch.float32).to(device)
        prediction = predict(x, timestep.to(device).expand(shape[0]))
        clean = to_clean_image(prediction.float(), x, alpha_bar, diffusion.prediction)
        if clip is not None:
            clean = clean.clamp(*clip)
        arguments = {"generator": generator} if sampler == "ddpm" else {}
        x = scheduler.step(clean, timestep, x, **arguments).prev_sample
        if replace_known is not None:
            image, mask = replace_known
            last = index + 1 == len(timesteps)
            level = _alpha_bar(scheduler, alphas, index + 1) if not last else torch.tensor(1.0, dtype=torch.float64)
            noise = torch.randn(shape, generator=generator).to(device)
            level = level.to(torch.float32).to(device)
            x = torch.where(mask > 0, level.sqrt() * image + (1 - level).sqrt() * noise, x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)  # a GPU's work is queued: without this, the steps would be told at once
        if on_estimate is not None:
            on_estimate(clean)
        on_step(index + 1, len(timesteps))
    return x


def _alpha_bar(scheduler, alphas: torch.Tensor, index: int) -> torch.Tensor:
    """Product of 1 - beta at a step; from the solver's own noise levels where it has them, since those are not rounded
    to whole training steps."""
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None:
        return 1.0 / (1.0 + sigmas[index].to(torch.float64) ** 2)
    return alphas[int(scheduler.timesteps[index])]
