"""How well the samplers draw a distribution that is known: the tables of Docs/SAMPLERS.md.

Every voxel of the data is N(0.2, 0.5²) and the network is the exact denoiser, so that all error is the sampler's. A
standard deviation below 0.5 means samples that are too much alike (and images that are too smooth), above 0.5 noise
that was left over.

Run: python Testing/Benchmarks/sampler_table.py        (about a minute on one CPU core)
"""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

MEAN, STD = 0.2, 0.5
SHAPE = (1, 1, 48, 48, 48)
STEPS = (5, 10, 20, 50, 250)


def exact_denoiser(alphas) -> Callable:
    """E[x0 | x_t] for Gaussian data; see Testing/Engine/test_sampling.py."""

    def predict(x, timesteps):
        a = alphas[timesteps].view(-1, 1, 1, 1, 1)
        return MEAN + a.sqrt() * STD**2 / (a * STD**2 + 1 - a) * (x - a.sqrt() * MEAN)

    return predict


def ours(schedule: str, sampler: str, steps: int):
    """Samples drawn as `generate` draws them."""
    from SynthDiffusionLib.sampling.denoising import sample
    from SynthDiffusionLib.sampling.schedule import DiffusionSpec

    spec = DiffusionSpec(1000, schedule, prediction="sample")
    predict = exact_denoiser(spec.alphas_cumprod().double())
    return sample(predict, SHAPE, spec, sampler=sampler, steps=steps, seed=1, clip=None)


def diffusers_as_it_comes(cls: str, steps: int, **options):
    """A diffusers scheduler with its default settings on the linear schedule."""
    import diffusers
    import torch

    scheduler = getattr(diffusers, cls)(beta_start=1e-4, beta_end=0.02, prediction_type="sample", **options)
    scheduler.set_timesteps(steps)
    predict = exact_denoiser(scheduler.alphas_cumprod.double())
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    for timestep in scheduler.timesteps:
        x = scheduler.step(predict(x, timestep[None]), timestep, x).prev_sample
    return x


def monai_ddpm(steps: int):
    """MONAI's DDPMScheduler on the linear schedule."""
    import torch
    from monai.networks.schedulers import DDPMScheduler

    scheduler = DDPMScheduler(
        1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02, prediction_type="sample", clip_sample=False
    )
    scheduler.set_timesteps(steps)
    predict = exact_denoiser(scheduler.alphas_cumprod.double())
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    for timestep in scheduler.timesteps:
        x, _ = scheduler.step(predict(x, timestep[None]), int(timestep), x)
    return x


def exact_velocity(x, times):
    """x0 - noise, at its best, for rectified flow; see Testing/Engine/test_sampling_flow.py."""
    s = (times.double() / 1000).view(-1, 1, 1, 1, 1)
    rest = (x.double() - (1 - s) * MEAN) / ((1 - s) ** 2 * STD**2 + s**2)
    return MEAN + (1 - s) * STD**2 * rest - s * rest


def ours_flow(sampler: str, ratio: float, steps: int):
    """Samples of a rectified flow whose noise levels are shifted by `ratio`."""
    from SynthDiffusionLib.sampling.flow import sample_flow
    from SynthDiffusionLib.sampling.schedule import DiffusionSpec

    spec = DiffusionSpec(1000, "rectified_flow", prediction="velocity", shift_numel=round(SHAPE[-1] ** 3 / ratio**3))
    return sample_flow(exact_velocity, SHAPE, spec, sampler=sampler, steps=steps, seed=1)


def monai_flow_sum(latent: tuple[int, int, int], steps: int) -> float:
    """What the steps of MONAI's RFlowScheduler add up to; 1 would be right."""
    import torch
    from monai.networks.schedulers import RFlowScheduler

    scheduler = RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True)
    scheduler.set_timesteps(steps, input_img_size_numel=torch.prod(torch.tensor(latent)))
    times = [float(t) for t in scheduler.timesteps]
    return sum(t - int(following) for t, following in zip(times, [*times[1:], 0.0])) / 1000


def row(name: str, draw: Callable, steps: tuple[int, ...] = STEPS) -> str:
    """One line of a table: the standard deviation at each number of steps."""
    cells = []
    for count in steps:
        try:
            cells.append(f"{float(draw(count).std()):.3f}")
        except (IndexError, AssertionError, ValueError) as error:
            cells.append(type(error).__name__)
    return f"| {name} | " + " | ".join(cells) + " |"


def flow_tables() -> None:
    """Prints the tables of rectified flow."""
    from SynthDiffusionLib.sampling.samplers import FLOW_SAMPLERS

    steps = (5, 10, 15, 20, 30, 50, 100)
    print("\n| shift | sampler | " + " | ".join(f"{n} steps" for n in steps) + " |")
    print("|---|---|" + "---|" * len(steps))
    for ratio in (1, 2, 4):
        for sampler in FLOW_SAMPLERS:
            print(row(f"{ratio} | {sampler}", lambda n, r=ratio, m=sampler: ours_flow(m, r, n), steps), flush=True)
    steps = (10, 30, 50, 100)
    print("\n| sum of MONAI's steps, latent of | " + " | ".join(f"{n} steps" for n in steps) + " |")
    print("|---|" + "---|" * len(steps))
    for latent in ((32, 32, 32), (64, 64, 64), (128, 128, 64), (128, 128, 128)):
        sums = " | ".join(f"{monai_flow_sum(latent, n):.4f}" for n in steps)
        print(f"| {'x'.join(map(str, latent))} | {sums} |")


def main() -> None:
    """Prints all tables in Markdown, and what they were made on."""
    import diffusers
    import monai
    import torch

    warnings.filterwarnings("ignore")
    from SynthDiffusionLib.sampling.samplers import BETA_SCHEDULES, SAMPLERS

    began = time.monotonic()
    torch.manual_seed(1)
    print("| schedule | sampler | " + " | ".join(f"{n} steps" for n in STEPS) + " |")
    print("|---|---|" + "---|" * len(STEPS))
    for schedule in BETA_SCHEDULES:
        for sampler in SAMPLERS:
            print(row(f"{schedule} | {sampler}", lambda n, s=schedule, m=sampler: ours(s, m, n)), flush=True)
    print()
    steps = (10, 20, 50, 150, 600, 1000)
    print("| as it comes, linear schedule | " + " | ".join(f"{n} steps" for n in steps) + " |")
    print("|---|" + "---|" * len(steps))
    print(row("MONAI DDPMScheduler", monai_ddpm, steps), flush=True)
    for cls, options in (
        ("DDPMScheduler", {"clip_sample": False}),
        ("DDIMScheduler", {"clip_sample": False}),
        ("DPMSolverMultistepScheduler", {}),
        ("UniPCMultistepScheduler", {}),
    ):
        print(row(f"diffusers {cls}", lambda n, c=cls, o=options: diffusers_as_it_comes(c, n, **o), steps), flush=True)
    flow_tables()
    print(
        f"\n{'x'.join(map(str, SHAPE[2:]))} voxels of N({MEAN}, {STD}²), T = 1000, seed 1; torch {torch.__version__}, "
        f"diffusers {diffusers.__version__}, MONAI {monai.__version__}, {platform.machine()} CPU, "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
