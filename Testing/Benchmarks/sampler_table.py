"""How well the samplers draw a distribution that is known: the tables of Docs/SAMPLERS.md.

Every voxel of the data is N(0.2, 0.5²) and the network is the exact denoiser, so that all error is the sampler's. A
standard deviation below 0.5 means samples that are too much alike (and images that are too smooth), above 0.5 noise
that was left over.

Run: python Testing/Benchmarks/sampler_table.py        (about half a minute on one CPU core)
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


def row(name: str, draw: Callable, steps: tuple[int, ...] = STEPS) -> str:
    """One line of a table: the standard deviation at each number of steps."""
    cells = []
    for count in steps:
        try:
            cells.append(f"{float(draw(count).std()):.3f}")
        except (IndexError, AssertionError, ValueError) as error:
            cells.append(type(error).__name__)
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Prints both tables in Markdown, and what they were made on."""
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
    print(
        f"\n{'x'.join(map(str, SHAPE[2:]))} voxels of N({MEAN}, {STD}²), T = 1000, seed 1; torch {torch.__version__}, "
        f"diffusers {diffusers.__version__}, MONAI {monai.__version__}, {platform.machine()} CPU, "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
