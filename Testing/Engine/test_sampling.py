"""Samplers against Gaussian data, for which everything has a closed form.

For data x0 ~ N(m, s^2), independent in every voxel, the best denoiser is the posterior mean

    E[x0 | x_t] = m + sqrt(a) s^2 / (a s^2 + 1 - a) (x_t - sqrt(a) m),      a the product of 1 - beta up to t,

so a sampler that is fed with it must draw N(m, s^2), but for the error of its finite steps.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.sampling.denoising import sample, to_clean_image
from SynthDiffusionLib.sampling.samplers import BETA_SCHEDULES, SAMPLERS, build_scheduler, trailing_steps
from SynthDiffusionLib.sampling.schedule import PREDICTIONS, DiffusionSpec, diffuse

MEAN, STD = 0.2, 0.5
SHAPE = (1, 1, 24, 24, 24)
SOLVERS = ("dpmpp-2m", "unipc")


def gaussian_denoiser(spec: DiffusionSpec):
    """The best possible network for N(MEAN, STD^2), in the terms of the spec's prediction."""
    alphas = spec.alphas_cumprod().double()

    def predict(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        a = alphas[timesteps].view(-1, 1, 1, 1, 1)
        x0 = MEAN + a.sqrt() * STD**2 / (a * STD**2 + 1 - a) * (x - a.sqrt() * MEAN)
        noise = (x - a.sqrt() * x0) / (1 - a).sqrt()
        return {"sample": x0, "epsilon": noise, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * x0}[spec.prediction]

    return predict


def draw(spec: DiffusionSpec, sampler: str, steps: int, seed: int = 1, **options) -> torch.Tensor:
    options = {"clip": None} | options
    return sample(gaussian_denoiser(spec), SHAPE, spec, sampler=sampler, steps=steps, seed=seed, **options)


def closed_alphas(spec: DiffusionSpec) -> np.ndarray:
    """(T,) products of 1 - beta, by the papers' formulas."""
    n = spec.train_steps
    if spec.beta_schedule == "squaredcos_cap_v2":  # Nichol and Dhariwal, arXiv:2102.09672, eq. 17
        f = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
        betas = [min(1 - f[i + 1] / f[i], 0.999) for i in range(n)]
    else:
        power = {"linear": 1.0, "scaled_linear": 0.5}[spec.beta_schedule]
        low, high = spec.beta_start**power, spec.beta_end**power
        betas = [(low + (high - low) * i / (n - 1)) ** (1 / power) for i in range(n)]
    return np.cumprod(1 - np.array(betas))


def closed_std(spec: DiffusionSpec, steps: int, ancestral: bool) -> float:
    """Standard deviation that DDIM, or DDPM when `ancestral`, ends with on the Gaussian: every step is linear in x."""
    alphas = closed_alphas(spec)
    times = [round((steps - i) * spec.train_steps / steps) - 1 for i in range(steps)]
    variance = 1.0
    for t, following in itertools.zip_longest(times, times[1:]):
        a, p = alphas[t], 1.0 if following is None else alphas[following]
        gain = math.sqrt(a) * STD**2 / (a * STD**2 + 1 - a)  # of x0 in x
        if ancestral:  # Ho et al., arXiv:2006.11239, eq. 7
            beta = 1 - a / p
            factor = math.sqrt(p) * beta / (1 - a) * gain + math.sqrt(a / p) * (1 - p) / (1 - a)
            variance = factor**2 * variance + (1 - p) / (1 - a) * beta
        else:  # Song et al., arXiv:2010.02502, eq. 12 with sigma = 0
            factor = math.sqrt(p) * gain + math.sqrt((1 - p) / (1 - a)) * (1 - math.sqrt(a) * gain)
            variance = factor**2 * variance
    return math.sqrt(variance)


@pytest.mark.parametrize("train_steps", [300, 1000])
@pytest.mark.parametrize("schedule", BETA_SCHEDULES)
def test_noise_levels_have_their_closed_form(schedule, train_steps):
    spec = DiffusionSpec(train_steps, schedule)
    np.testing.assert_allclose(spec.alphas_cumprod().numpy(), closed_alphas(spec), rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_diffuse_and_to_clean_image_are_inverse(prediction):
    generator = torch.Generator().manual_seed(3)
    x0, noise = torch.randn((2, 4, 1, 5, 6, 7), generator=generator, dtype=torch.float64)
    alpha_bar = torch.tensor([0.93, 0.41, 0.06, 0.0009], dtype=torch.float64)
    noisy, target = diffuse(x0, noise, alpha_bar, prediction)
    # The forward process itself: unit variance is kept, and x0 and noise come in with the stated weights.
    torch.testing.assert_close(noisy[2], math.sqrt(0.06) * x0[2] + math.sqrt(0.94) * noise[2])
    for i in range(4):
        torch.testing.assert_close(to_clean_image(target[i], noisy[i], alpha_bar[i], prediction), x0[i])


@pytest.mark.parametrize("schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gaussian_is_drawn(sampler, schedule):
    """Mean and standard deviation at 20 and 50 steps; ddim and ddpm are known to draw too narrow, less so with more
    steps. What the network predicts makes no difference."""
    spec = DiffusionSpec(1000, schedule)
    drawn = {steps: draw(spec, sampler, steps) for steps in (20, 50)}
    for prediction in PREDICTIONS[1:]:
        same = draw(DiffusionSpec(1000, schedule, prediction=prediction), sampler, 20)
        torch.testing.assert_close(same, drawn[20], atol=2e-3, rtol=0)
    for volume in drawn.values():
        assert volume.shape == SHAPE and volume.dtype == torch.float32
        assert float(volume.mean()) == pytest.approx(MEAN, abs=0.03)
    stds = {steps: float(volume.std()) for steps, volume in drawn.items()}
    if sampler in SOLVERS:
        assert stds == pytest.approx({20: STD, 50: STD}, abs=0.03)
    else:
        stds[250] = float(draw(spec, sampler, 250).std())
        assert 0.38 < stds[20] < stds[50] < stds[250] < 0.505
        assert stds[50] > 0.44 and stds[250] > 0.48


@pytest.mark.parametrize(("train_steps", "steps"), [(1000, 20), (1000, 30), (1000, 600), (300, 7), (300, 180)])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_first_order_samplers_follow_the_closed_recursion(sampler, train_steps, steps):
    """Also where the steps do not divide T: there diffusers' DDIMScheduler steps too short (0.66 instead of 0.50 at 600
    steps), and its evenly spaced steps may end at t = -1 (noise is lost or left: 7 of 300)."""
    schedule = "squaredcos_cap_v2" if train_steps == 300 else "linear"
    spec = DiffusionSpec(train_steps, schedule, prediction="v_prediction")
    volume = draw(spec, sampler, steps)
    expected = closed_std(spec, steps, ancestral=sampler == "ddpm")
    if sampler == "ddim":  # one factor for all voxels: only the spread of the first noise comes in
        first = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        assert float(volume.std()) == pytest.approx(expected * float(first.std()), rel=2e-3)
    else:
        assert float(volume.std()) == pytest.approx(expected, rel=0.025)


def test_the_defect_of_diffusers_ddim_is_there():
    """If it goes, `ddim` may use the scheduler of that name again."""
    import diffusers

    spec = DiffusionSpec(1000)
    scheduler = diffusers.DDIMScheduler(
        beta_start=spec.beta_start,
        beta_end=spec.beta_end,
        prediction_type="sample",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(600)
    predict = gaussian_denoiser(DiffusionSpec(prediction="sample"))
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    for timestep in scheduler.timesteps:
        x = scheduler.step(predict(x, timestep[None]), timestep, x).prev_sample
    assert float(x.std()) > 0.6
    assert float(draw(spec, "ddim", 600).std()) == pytest.approx(STD, abs=0.01)


def test_ddim_is_ddim():
    """The first-order solver that stands for it gives what diffusers' DDIMScheduler gives where that is right."""
    import diffusers

    spec = DiffusionSpec(1000, prediction="sample")
    scheduler = diffusers.DDIMScheduler(
        beta_start=spec.beta_start,
        beta_end=spec.beta_end,
        prediction_type="sample",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(20)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    for timestep in scheduler.timesteps:
        x = scheduler.step(gaussian_denoiser(spec)(x, timestep[None]), timestep, x).prev_sample
    torch.testing.assert_close(draw(spec, "ddim", 20), x.float(), atol=1e-4, rtol=0)


def test_monai_ddpm_draws_noise_at_fewer_steps_and_ours_does_not():
    from monai.networks.schedulers import DDPMScheduler

    spec = DiffusionSpec(1000, "linear", prediction="epsilon")
    scheduler = DDPMScheduler(
        1000, schedule="linear_beta", beta_start=spec.beta_start, beta_end=spec.beta_end, clip_sample=False
    )
    scheduler.set_timesteps(50)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SHAPE, generator=generator)
    for timestep in scheduler.timesteps:
        x, _ = scheduler.step(gaussian_denoiser(spec)(x, timestep[None]), int(timestep), x, generator=generator)
    assert float(x.std()) > 0.8, "MONAI has mended its DDPMScheduler"
    assert float(draw(spec, "ddpm", 50).std()) == pytest.approx(closed_std(spec, 50, ancestral=True), rel=0.025)


@pytest.mark.parametrize("train_steps", [300, 500, 1000])
@pytest.mark.parametrize("schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_time_steps_begin_at_the_noise(sampler, schedule, train_steps):
    """diffusers' default "leading" spacing begins well below T: 950 for 20 of 1000 steps."""
    for steps in (1, 2, 3, 7, 20, 61, train_steps - 1, train_steps):
        scheduler = build_scheduler(sampler, DiffusionSpec(train_steps, schedule), steps)
        timesteps = [int(t) for t in scheduler.timesteps]
        assert len(timesteps) == steps
        assert timesteps[0] == train_steps - 1
        assert min(timesteps) >= 0 and timesteps == sorted(timesteps, reverse=True)
        assert float(scheduler.init_noise_sigma) == 1.0


@pytest.mark.parametrize("train_steps", [300, 500, 1000])
def test_evenly_spaced_steps_are_whole_at_every_count(train_steps):
    for steps in range(1, train_steps + 1):
        timesteps = trailing_steps(train_steps, steps)
        assert len(set(timesteps)) == steps
        assert timesteps[0] == train_steps - 1 and timesteps[-1] == math.floor(train_steps / steps + 0.5) - 1
        gaps = -np.diff(timesteps)
        assert steps == 1 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("train_steps", [300, 500])
@pytest.mark.parametrize("sampler", SOLVERS)
def test_multistep_solvers_on_the_cosine_schedule(sampler, train_steps):
    """Karras noise levels fail here (diffusers #12771): they must not be used, at any number of steps."""
    spec = DiffusionSpec(train_steps, "squaredcos_cap_v2", prediction="v_prediction")
    assert float(draw(spec, sampler, 20).std()) == pytest.approx(STD, abs=0.01)
    for steps in (1, 2, 3, 250, train_steps):
        assert torch.isfinite(draw(spec, sampler, steps)).all()


@pytest.mark.parametrize("sampler", SOLVERS)
def test_all_steps_of_a_scaled_linear_schedule(sampler):
    """After rounding the first Karras step comes twice here, which puts diffusers' own counting one off."""
    volume = draw(DiffusionSpec(1000, "scaled_linear"), sampler, 1000)
    assert float(volume.std()) == pytest.approx(STD, abs=0.01)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_fixes_the_draw_whatever_the_global_generator_does(sampler):
    spec = DiffusionSpec()
    torch.manual_seed(5)
    first = draw(spec, sampler, 5, seed=11)
    state = torch.get_rng_state()
    torch.manual_seed(6)
    torch.randn(100)
    assert torch.equal(draw(spec, sampler, 5, seed=11), first)
    assert not torch.equal(draw(spec, sampler, 5, seed=12), first)
    torch.set_rng_state(state)
    draw(spec, sampler, 5, seed=11)
    assert torch.equal(torch.get_rng_state(), state), "sampling has drawn from the global generator"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clean_images_are_clipped_at_every_step(sampler):
    """With clipping, the last clean image, which is the result, lies in the range; without, it does not."""
    spec = DiffusionSpec(1000, "linear", prediction="v_prediction")
    assert float(draw(spec, sampler, 10, clip=None).abs().max()) > 1.3
    clipped = draw(spec, sampler, 10, clip=(-1.0, 0.5))
    assert float(clipped.min()) >= -1.0 - 1e-5 and float(clipped.max()) <= 0.5 + 1e-5
    assert float(clipped.max()) > 0.49


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_replacement_keeps_the_known_voxels_and_draws_the_others(sampler):
    generator = torch.Generator().manual_seed(9)
    image = torch.rand(SHAPE, generator=generator) * 2 - 1
    mask = (torch.rand(SHAPE, generator=generator) < 0.5).float()
    spec = DiffusionSpec(1000, "linear", prediction="v_prediction")
    volume = draw(spec, sampler, 20, replace_known=(image, mask))
    assert torch.equal(volume[mask > 0], image[mask > 0])
    others = volume[mask == 0]
    assert float(others.mean()) == pytest.approx(MEAN, abs=0.03) and 0.35 < float(others.std()) < 0.55


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_replacement_puts_known_voxels_at_the_noise_of_the_next_step(sampler):
    """What the network is shown on known voxels is the image at the noise level of the step's time."""
    spec = DiffusionSpec(1000, "linear", prediction="epsilon")
    alphas = closed_alphas(spec)
    image = torch.full(SHAPE, 0.7)
    seen = []

    def predict(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append((int(timesteps[0]), float(x.mean()), float(x.std())))
        return torch.zeros_like(x)

    sample(predict, SHAPE, spec, sampler=sampler, steps=8, seed=2, clip=None, replace_known=(image, torch.ones(SHAPE)))
    assert len(seen) == 8
    for timestep, mean, std in seen[1:]:
        # Karras noise levels lie between whole time steps, so the neighbours bound them.
        below, above = (alphas[np.clip(timestep + d, 0, 999)] for d in (-1, 1))
        assert 0.7 * math.sqrt(above) - 0.03 <= mean <= 0.7 * math.sqrt(below) + 0.03
        assert 0.97 * math.sqrt(1 - below) - 1e-3 <= std <= 1.03 * math.sqrt(1 - above) + 1e-3


def test_progress_is_told_after_every_step():
    told = []
    draw(DiffusionSpec(), "ddim", 4, on_step=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_refusals():
    spec = DiffusionSpec(300)
    with pytest.raises(BadInput, match="Unknown sampler 'dpmpp_2m'") as unknown:
        build_scheduler("dpmpp_2m", spec, 20)
    assert "'dpmpp-2m'" in unknown.value.hint
    for steps in (0, 301):
        with pytest.raises(BadInput, match=f"{steps} steps") as many:
            build_scheduler("ddim", spec, steps)
        assert "300" in many.value.hint
    for sampler in SAMPLERS:
        with pytest.raises(ModelError, match="'sigmoid'"):
            build_scheduler(sampler, DiffusionSpec(300, "sigmoid"), 20)
