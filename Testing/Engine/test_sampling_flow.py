"""Rectified flow samplers against Gaussian data, for which everything has a closed form, and against MONAI's scheduler.

For data x0 ~ N(m, d^2), independent in every voxel, and x = (1 - s) x0 + s noise, with a = 1 - s:

    E[x0 | x] = m + a d^2 / (a^2 d^2 + s^2) (x - a m)        E[noise | x] = s / (a^2 d^2 + s^2) (x - a m)

The best velocity is their difference, and following it exactly takes N(0, 1) to N(m, d^2).
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.sampling.flow import FLOW_SAMPLERS, flow_levels, sample_flow, shift_ratio
from SynthDiffusionLib.sampling.samplers import BETA_SCHEDULES, SAMPLERS, build_scheduler, check_sampler, samplers_for
from SynthDiffusionLib.sampling.schedule import DiffusionSpec

MEAN, STD = 0.2, 0.5
SHAPE = (1, 1, 24, 24, 24)
NUMEL = 24**3
SOLVERS = ("dpmpp-2m", "unipc")


def spec(ratio: float | None = None) -> DiffusionSpec:
    """A rectified flow whose shift on `SHAPE` is `ratio`."""
    base = None if ratio is None else round(NUMEL / ratio**3)
    return DiffusionSpec(1000, "rectified_flow", prediction="velocity", shift_numel=base)


def gaussian_velocity(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """The best possible network for N(MEAN, STD^2)."""
    assert times.dtype == torch.float32 and times.shape == x.shape[:1]
    s = (times.double() / 1000).view(-1, 1, 1, 1, 1)
    a = 1 - s
    rest = (x.double() - a * MEAN) / (a**2 * STD**2 + s**2)
    return MEAN + a * STD**2 * rest - s * rest


def start(seed: int = 1, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw(sampler: str, steps: int, ratio: float | None = None, **options) -> torch.Tensor:
    return sample_flow(
        gaussian_velocity, SHAPE, spec(ratio), **{"sampler": sampler, "steps": steps, "seed": 1} | options
    )


def closed_euler_std(levels: list[float]) -> float:
    """Standard deviation that Euler ends with: every step is linear in x."""
    factor = 1.0
    for s, following in pairwise(levels):
        a = 1 - s
        factor *= 1 + (s - following) * (a * STD**2 - s) / (a**2 * STD**2 + s**2)
    return abs(factor)


@pytest.mark.parametrize("ratio", [None, 2.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_euler_is_the_closed_form_recursion(steps, ratio):
    levels = flow_levels(steps, 1.0 if ratio is None else ratio)
    start_std = float(start().double().std())
    found = float(draw("euler", steps, ratio).double().std())
    assert found == pytest.approx(closed_euler_std(levels) * start_std, abs=2e-5)


@pytest.mark.parametrize("sampler", ["heun", *SOLVERS])
def test_samplers_of_second_order_draw_the_distribution(sampler):
    """As a deterministic map, noise goes to mean + std * noise voxel by voxel, not only on average."""
    exact = MEAN + STD * start()
    error = {steps: float((draw(sampler, steps) - exact).abs().max()) for steps in (20, 80)}
    assert error[80] < 0.02
    assert float((draw("euler", 80) - exact).abs().max()) > 2 * error[80]
    assert error[20] < 0.12 and float(draw(sampler, 20).std()) == pytest.approx(STD, abs=0.015)


@pytest.mark.parametrize("ratio", [1.0, 2.0, 3.17, 4.0])
def test_shifted_levels(ratio):
    """They run from 1 to exactly 0, so that the steps add up to 1, and have MAISI's closed form in between."""
    levels = flow_levels(30, ratio)
    assert levels[0] == 1.0 and levels[-1] == 0.0 and len(levels) == 31
    assert levels == sorted(levels, reverse=True)
    assert sum(s - following for s, following in pairwise(levels)) == pytest.approx(1.0, abs=1e-12)
    middle = levels[15]
    assert middle == pytest.approx(ratio * 0.5 / (1 + (ratio - 1) * 0.5))


@pytest.mark.parametrize(
    ("latent", "ratio"), [((64, 64, 64), 2.0), ((128, 128, 64), 3.1748), ((128, 128, 128), 4.0), ((32, 32, 32), 1.0)]
)
def test_shift_goes_by_the_voxels_of_the_latent(latent, ratio):
    maisi = DiffusionSpec(1000, "rectified_flow", prediction="velocity", shift_numel=32**3)
    assert shift_ratio(maisi, math.prod(latent)) == pytest.approx(ratio, abs=1e-4)
    assert shift_ratio(spec(), math.prod(latent)) == 1.0
    from monai.networks.schedulers.rectified_flow import timestep_transform

    levels = flow_levels(10, shift_ratio(maisi, math.prod(latent)))
    theirs = [timestep_transform(1000 * (1 - i / 10), math.prod(latent)) / 1000 for i in range(10)]
    assert levels[:-1] == pytest.approx(theirs)


def monai_loop(shape: tuple[int, ...], steps: int, seed: int):
    """MONAI's scheduler as MAISI's own sampling drives it; gives the result and the sum of its steps."""
    from monai.networks.schedulers import RFlowScheduler

    scheduler = RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True)
    scheduler.set_timesteps(steps, input_img_size_numel=torch.prod(torch.tensor(shape[2:])))
    x, total = start(seed, shape), 0.0
    times = scheduler.timesteps
    for t, following in zip(times, torch.cat([times[1:], torch.tensor([0], dtype=times.dtype)])):
        x, _ = scheduler.step(gaussian_velocity(x, torch.Tensor((t,))).float(), t, x, following)
        total += float(t - int(following)) / 1000
    return x, total


@pytest.mark.parametrize("steps", [10, 30, 50])
@pytest.mark.parametrize("shape", [(1, 4, 16, 16, 16), (1, 2, 12, 20, 28), (1, 1, 40, 40, 24)])
def test_maisi_rflow_is_monais_scheduler_bit_for_bit(shape, steps):
    diffusion = DiffusionSpec(1000, "rectified_flow", prediction="velocity", shift_numel=32**3)
    theirs, total = monai_loop(shape, steps, seed=3)
    ours = sample_flow(gaussian_velocity, shape, diffusion, sampler="maisi-rflow", steps=steps, seed=3)
    assert torch.equal(ours, theirs)
    assert total > 1.002, "MONAI's steps add up to 1 by now: 'euler' and 'maisi-rflow' are the same"
    exact = sample_flow(gaussian_velocity, shape, diffusion, sampler="euler", steps=steps, seed=3)
    assert 1e-4 < float((exact - ours).abs().max()) < 0.2


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_a_step_is_an_evaluation(sampler, steps):
    """Whatever the sampler does between, the network is asked `steps` times, from T down, and each time is told of."""
    asked, told, estimates = [], [], []

    def predict(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        asked.append(float(times[0]))
        return gaussian_velocity(x, times)

    x = sample_flow(
        predict,
        SHAPE,
        spec(2.0),
        sampler=sampler,
        steps=steps,
        seed=4,
        on_step=lambda done, total: told.append((done, total, len(estimates))),
        on_estimate=lambda clean: estimates.append(clean.clone()),
    )
    assert len(asked) == steps and asked[0] == 1000.0 and asked == sorted(asked, reverse=True)
    assert told == [(i + 1, steps, i + 1) for i in range(steps)]
    assert torch.isfinite(x).all() and x.dtype == torch.float32 and x.shape == SHAPE
    # With nothing but noise to go by, the best estimate is the mean.
    assert float((estimates[0] - MEAN).abs().max()) < 1e-4


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_a_straight_flow_takes_one_step(sampler):
    """Where the velocity really is x0 - noise, any number of steps ends on x0; MONAI's overshoots by its excess."""
    target = torch.full(SHAPE, 0.3)
    noise = start(5)
    for steps in (1, 2, 5, 40):
        x = sample_flow(lambda x, t: target - noise, SHAPE, spec(2.0), sampler=sampler, steps=steps, seed=5)
        off = float((x - target).abs().max())
        assert off < (0.2 if sampler == "maisi-rflow" else 2e-5)


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_a_seed_fixes_the_draw(sampler):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = draw(sampler, 4, seed=11)
    assert torch.equal(torch.get_rng_state(), state), "sampling has drawn from the global generator"
    torch.randn(10)
    assert torch.equal(draw(sampler, 4, seed=11), first)
    assert not torch.equal(draw(sampler, 4, seed=12), first)


def test_the_shift_can_be_taken_from_another_size():
    assert torch.equal(draw("euler", 6, 2.0, numel=NUMEL), draw("euler", 6, 2.0))
    assert torch.equal(draw("euler", 6, 2.0, numel=NUMEL // 8), draw("euler", 6))


def test_samplers_fit_their_kind_of_model():
    """The names of the solvers serve both kinds; those of the others one."""
    assert samplers_for("rectified_flow") == FLOW_SAMPLERS
    assert all(samplers_for(schedule) == SAMPLERS for schedule in BETA_SCHEDULES)
    assert samplers_for("sigmoid") == ()
    for name in ("ddpm", "ddim"):
        with pytest.raises(ModelError, match="schedule of betas") as refusal:
            sample_flow(gaussian_velocity, SHAPE, spec(), sampler=name, steps=5, seed=1)
        assert "euler" in refusal.value.hint and "ddim" not in refusal.value.hint
    for name in ("euler", "heun", "maisi-rflow"):
        with pytest.raises(ModelError, match="straight lines") as refusal:
            build_scheduler(name, DiffusionSpec(), 5)
        assert "ddim" in refusal.value.hint and "euler" not in refusal.value.hint
    for name in SOLVERS:
        with pytest.raises(ModelError, match="no schedule of betas"):
            build_scheduler(name, spec(), 5)
        check_sampler(name, "rectified_flow")
        check_sampler(name, "linear")


def test_refusals():
    with pytest.raises(BadInput, match="Unknown sampler 'rk4'"):
        draw("rk4", 5)
    for steps in (0, 1001):
        with pytest.raises(BadInput, match=f"{steps} steps"):
            draw("euler", steps)
