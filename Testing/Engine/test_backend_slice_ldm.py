"""The backend of slice-based latent diffusion on tiny random networks, compared with these put together by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from tiny_slice_ldm import SHAPE, make_joint_package

from SynthDiffusionLib.backends import load_backend
from SynthDiffusionLib.errors import BadInput, ModelError, RunFailed
from SynthDiffusionLib.memory.execution import DEFAULT_EXECUTION, Execution
from SynthDiffusionLib.memory.figures import Figures
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.memory.working_grids import padded

TUMOUR = np.array([20000.0, 4500.0, 0.78, 2.0, -4.0, 6.0, 36.0, 30.0, 40.0])


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_joint_package(tmp_path_factory.mktemp("models") / "tiny-joint")


@pytest.fixture(scope="module")
def backend(package):
    return load_backend(package)


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """As one that was trained with the null condition."""
    controls = {"guidance": True}
    return load_backend(make_joint_package(tmp_path_factory.mktemp("models") / "tiny-joint", controls=controls))


def plan_for(backend, shape=SHAPE, precision="fp32") -> Plan:
    return Plan("cpu", precision, "whole", None, 0, 1, backend.working_grid(shape))


def draw(
    backend, tumour=TUMOUR, shape=SHAPE, precision="fp32", execution=DEFAULT_EXECUTION, **changes
) -> tuple[np.ndarray, np.ndarray]:
    settings = {"sampler": "dpmpp-2m", "steps": 2, "seed": 5, "shape": shape} | changes
    plan = dataclasses.replace(plan_for(backend, shape, precision), execution=execution)
    return backend.sample_joint(tumour, plan, **settings)


def by_hand(backend, times: list[int], guidance: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """diffusers' ancestral steps on the noise that the network predicts; each slice is decoded alone."""
    scheduler = DDPMScheduler(1000, beta_start=0.002, beta_end=0.02, beta_schedule="scaled_linear", clip_sample=False)
    scheduler.set_timesteps(timesteps=times)
    generator = torch.Generator().manual_seed(5)
    values = torch.tensor(backend.characteristics.for_network(TUMOUR), dtype=torch.float32)[None]
    with torch.inference_mode():
        x = torch.randn(1, 3, SHAPE[0] // 2, SHAPE[1] // 2, SHAPE[2], generator=generator)
        for t in scheduler.timesteps:
            noise = backend.network(x, t[None], values)
            if guidance != 1.0:
                null = backend.network(x, t[None], None)
                noise = null + guidance * (noise - null)
            x = scheduler.step(noise, t, x, generator=generator).prev_sample
        z = backend.refiner.latents(x / 1.25)
        # As many slices as in training: their positions are 0, 1, 2, ...
        slices = [backend.autoencoder.decode(z[..., k], torch.tensor([float(k)]))[0] for k in range(SHAPE[2])]
        image, mask = backend.refiner.images(torch.stack(slices, -1)[None])[0]
    return image.clamp(-1, 1).numpy(), (mask > 0).numpy()


def test_a_sample_is_that_of_the_networks_put_together_by_hand(backend):
    image, mask = draw(backend, sampler="ddpm", steps=3)
    wanted = by_hand(backend, [999, 666, 332])
    assert wanted[0].std() > 0.01 and 0.02 < wanted[1].mean() < 0.98
    assert image.dtype == np.float32 and mask.dtype == bool and image.shape == mask.shape == SHAPE
    np.testing.assert_allclose(image, wanted[0], atol=2e-5)
    assert (mask != wanted[1]).mean() < 1e-3


def test_guidance_is_a_line_through_the_predictions_with_and_without_the_tumour(guided):
    image, mask = draw(guided, sampler="ddpm", steps=3, guidance=2.5)
    wanted = by_hand(guided, [999, 666, 332], guidance=2.5)
    np.testing.assert_allclose(image, wanted[0], atol=5e-5)
    assert (mask != wanted[1]).mean() < 1e-3
    without = draw(guided, None)
    np.testing.assert_allclose(draw(guided, guidance=0.0)[0], without[0], atol=1e-6)
    assert not np.array_equal(draw(guided)[0], without[0])


def test_every_characteristic_matters(backend):
    """The network is told all nine, each in its place."""
    drawn = {draw(backend)[0].tobytes()}
    for index in range(9):
        other = TUMOUR.copy()
        other[index] += 0.4 * backend.characteristics.scale[index]
        drawn.add(draw(backend, other)[0].tobytes())
    assert len(drawn) == 10


@pytest.mark.parametrize("shape", [(16, 16, 16), (13, 9, 11), (18, 20, 5)])
def test_sizes_that_are_not_divisible_are_padded_and_cropped_back(package, backend, shape):
    image, mask = draw(backend, shape=shape)
    assert image.shape == mask.shape == shape and np.isfinite(image).all()
    grid = backend.working_grid(shape)
    # Twice in plane by the autoencoder, and twice along every axis by the U-Net.
    assert grid[0] % 4 == grid[1] % 4 == grid[2] % 2 == 0
    assert padded(package.spec, shape) == grid


def test_padding_does_not_move_the_slices(backend):
    """The decoder is told how far a slice lies from the middle of the volume, not of the padded grid."""
    told = []
    positions = backend.autoencoder.positions

    class Spy:
        def __call__(self, depth):
            told.append(depth)
            return positions(depth)

    backend.autoencoder.positions = Spy()
    try:
        draw(backend, shape=(16, 16, 11))
    finally:
        del backend.autoencoder.positions
    assert told == [11]


@pytest.mark.parametrize("slices", [1, 3, 64])
def test_the_volume_does_not_depend_on_how_many_slices_are_decoded_at_once(backend, monkeypatch, slices):
    usual, seen = draw(backend), []
    decode = backend.autoencoder.decode

    def watched(z, index):
        seen.append(len(z))
        return decode(z, index)

    monkeypatch.setattr(backend.autoencoder, "decode", watched)
    pieces = draw(backend, execution=Execution(slices=slices))
    np.testing.assert_allclose(pieces[0], usual[0], atol=1e-5)
    assert (pieces[1] != usual[1]).mean() < 1e-3
    assert max(seen) == min(slices, SHAPE[2]) and sum(seen) == SHAPE[2]


def test_estimates_are_images_and_change_nothing(backend):
    seen, steps = [], []
    image, mask = draw(
        backend, on_estimate=lambda estimate: seen.append(estimate()), on_step=lambda *step: steps.append(step)
    )
    again = draw(backend)
    assert np.array_equal(image, again[0]) and np.array_equal(mask, again[1])
    assert [s.shape for s in seen] == [SHAPE, SHAPE] and steps == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(seen[-1], image)  # the last step's estimate is the sample


def test_without_a_refiner(tmp_path, backend):
    plain = load_backend(make_joint_package(tmp_path / "tiny-joint", refiner=False))
    assert plain.refiner is None and plain.weight_bytes < backend.weight_bytes
    assert not np.array_equal(draw(plain)[0], draw(backend)[0])


def test_lower_precision_is_near(backend):
    exact, near = draw(backend)[0], draw(backend, precision="bf16")[0]
    assert 0 < np.abs(exact - near).max() < 0.5 and np.corrcoef(exact.ravel(), near.ravel())[0, 1] > 0.95


def test_weights_are_counted(package, backend):
    weights = Figures(package.spec, "cpu", True).weights()
    assert set(weights) == {"denoiser", "autoencoder", "refiner"}
    assert backend.weight_bytes == sum(weights.values())


@pytest.mark.parametrize(
    ("tumour", "fields"),
    [(None, {}), (TUMOUR, {"guidance": 2.0}), (TUMOUR[:5], {}), (np.where(np.arange(9) == 4, np.nan, TUMOUR), {})],
)
def test_refusals(backend, tumour, fields):
    with pytest.raises(BadInput):
        draw(backend, tumour, **fields)


def test_no_volume_without_its_mask(backend):
    with pytest.raises(ModelError, match="makes its segmentation itself"):
        backend.sample(None, None, sampler="ddim", steps=2, seed=1)


def test_values_that_are_not_numbers_are_told(package):
    broken = load_backend(package)
    with torch.no_grad():
        broken.autoencoder.decoder[-1].bias.fill_(float("nan"))
    with pytest.raises(RunFailed, match="not numbers"):
        draw(broken)
