"""MedLoRD's backend on tiny random networks, compared with MONAI's own classes put together by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from tiny_latent import make_latent_package

from SynthDiffusionLib.backends import load_backend
from SynthDiffusionLib.backends.controls import Controls
from SynthDiffusionLib.backends.medlord import masks_of, quantise
from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.memory.working_grids import padded
from SynthDiffusionLib.volumes import Volume, read_volume, write_volume

SHAPE = (16, 24, 8)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_latent_package(tmp_path_factory.mktemp("models") / "tiny-limb")


@pytest.fixture(scope="module")
def backend(package):
    return load_backend(package)


def condition_for(package, shape=SHAPE, given=("body", "tumour")) -> Condition:
    classes = np.zeros(shape, np.uint8)
    classes[2:-2, 2:-2] = 1
    classes[5:9, 5:9, 2:6] = 3
    return Condition(classes if given else np.zeros(shape, np.uint8), np.eye(4), package.spec.label_scheme, given)


def draw(backend, condition, precision="fp32", **changes) -> np.ndarray:
    plan = Plan("cpu", precision, "whole", None, 0, 1, backend.working_grid(condition.shape))
    settings = {"sampler": "dpmpp-2m", "steps": 2, "seed": 5} | changes
    return backend.sample(condition, plan, **settings)


def test_a_sample_is_that_of_monais_networks_put_together_by_hand(package, backend):
    """Ancestral sampling with diffusers, v-prediction, MONAI's own decoding of stage 2; condition scale 1."""
    condition = condition_for(package)
    found = draw(backend, condition, sampler="ddpm", steps=300 // 100)

    scheduler = DDPMScheduler(300, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)
    scheduler.set_timesteps(timesteps=[299, 199, 99])
    generator = torch.Generator().manual_seed(5)
    masks = torch.zeros(1, 3, *SHAPE)
    masks[0, 0][torch.from_numpy(condition.class_map) > 0] = 1.0
    masks[0, 2][torch.from_numpy(condition.class_map) == 3] = 1.0
    with torch.inference_mode():
        x = torch.randn(1, 3, 4, 6, 2, generator=generator)
        for t in scheduler.timesteps:
            down, mid = backend.controlnet(x, t[None], condition=masks)
            v = backend.network(x, t[None], down_block_additional_residuals=down, mid_block_additional_residual=mid)
            x = scheduler.step(v, t, x, generator=generator).prev_sample
        wanted = backend.autoencoder.decode_stage_2_outputs(x / 1.25)[0, 0].clamp(-1, 1).numpy()
    assert wanted.std() > 0.01
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_codes_are_those_of_monais_quantizer(backend):
    z = torch.randn(2, 3, 5, 4, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, _ = backend.autoencoder.quantize(z)
    # MONAI's passes the gradient straight through, z + (entry - z), which rounds.
    torch.testing.assert_close(quantise(backend.autoencoder.quantizer.quantizer, z), expected, atol=1e-6, rtol=0)


def test_codes_do_not_depend_on_the_size_of_a_block(backend, monkeypatch):
    z = torch.randn(1, 3, 7, 5, 3, generator=torch.Generator().manual_seed(1))
    whole = quantise(backend.autoencoder.quantizer.quantizer, z)
    entries = len(backend.autoencoder.quantizer.quantizer.embedding.weight)
    monkeypatch.setattr("SynthDiffusionLib.networks.codebook.DISTANCES_AT_A_TIME", 16 * entries)
    assert torch.equal(quantise(backend.autoencoder.quantizer.quantizer, z), whole)


def test_masks_are_zero_outside_and_where_not_given():
    assert masks_of(np.array([[1, -1, 0]], np.int8)).tolist() == [[1.0, 0.0, 0.0]]


def test_the_drawing_matters_and_its_strength_too(package, backend):
    condition = condition_for(package)
    by_scale = {s: draw(backend, condition, controls=Controls(condition_scale=s)) for s in (0.0, 0.5, 1.0, 2.0)}
    without = draw(backend, condition_for(package, given=()))
    np.testing.assert_array_equal(by_scale[0.0], without)
    assert len({v.tobytes() for v in by_scale.values()}) == 4


def test_guidance_is_a_line_through_the_prediction_without_and_with_the_drawing(package, backend):
    """Guidance 0 leaves the drawing out, 1 is the network's own prediction."""
    condition = condition_for(package)
    np.testing.assert_allclose(
        draw(backend, condition, guidance=0.0), draw(backend, condition_for(package, given=())), atol=1e-6
    )
    assert not np.array_equal(draw(backend, condition, guidance=2.0), draw(backend, condition))


@pytest.mark.parametrize("shape", [(16, 16, 16), (13, 9, 11), (17, 8, 5)])
def test_sizes_that_are_not_divisible_are_padded_and_cropped_back(package, backend, shape):
    drawn = draw(backend, condition_for(package, shape))
    assert drawn.shape == shape
    assert np.isfinite(drawn).all()
    assert all(n % 8 == 0 for n in backend.working_grid(shape))
    assert padded(package.spec, shape) == backend.working_grid(shape)


def test_estimates_are_volumes_and_change_nothing(package, backend):
    seen = []
    condition = condition_for(package)
    drawn = draw(backend, condition, on_estimate=lambda estimate: seen.append(estimate()))
    np.testing.assert_array_equal(drawn, draw(backend, condition))
    assert [s.shape for s in seen] == [SHAPE, SHAPE]
    np.testing.assert_array_equal(seen[-1], drawn)  # the last step's estimate is the sample


def test_bf16_is_near_fp32(package, backend):
    """Codes flip, so that not every voxel can be: see generation facts on VQ models in Docs/SAMPLERS.md."""
    condition = condition_for(package)
    difference = np.abs(draw(backend, condition, "bf16") - draw(backend, condition))
    assert 0 < np.median(difference) < 0.1


def test_weights_of_another_network_are_refused(tmp_path, package):
    broken = make_latent_package(tmp_path / "tiny-limb")
    (broken.folder / "autoencoder.safetensors").write_bytes((broken.folder / "controlnet.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"autoencoder\.safetensors"):
        load_backend(broken)


def test_a_run_from_a_segmentation_and_one_without(tmp_path, package):
    classes = np.zeros((20, 18, 12), np.uint8)
    classes[4:15, 4:14, 2:10] = 3
    write_volume(Volume(classes, np.diag([-2.5, -2.5, 3.0, 1.0]), "label"), tmp_path / "drawn.nii.gz")
    common = {"model": str(package.folder), "out": tmp_path / "out", "seed": 3, "device": "cpu", "precision": "fp32"}
    made = run(
        GenerateRequest(segmentation=tmp_path / "drawn.nii.gz", labels={"3": "tumour"}, condition_scale=0.5, **common)
    ).outputs[0]
    volume = read_volume(made["volume"], unit="HU")
    assert volume.shape == classes.shape
    np.testing.assert_allclose(volume.affine, np.diag([-2.5, -2.5, 3.0, 1.0]))

    free = run(GenerateRequest(segmentation=None, mode="unconditional", **common)).outputs[0]
    assert free["volume"].name == "unconditional_tiny-limb_seed3.nii.gz"
    volume = read_volume(free["volume"], unit="HU")
    assert volume.shape == (16, 24, 16)
    np.testing.assert_allclose(volume.spacing, (2.0, 2.0, 3.0))
    assert volume.array.std() > 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"segmentation": None}, "needs a segmentation"),
        ({"mode": "unconditional"}, "has no drawing"),
        ({"segmentation": None, "mode": "unconditional", "size": (64, 16, 16)}, "at most 48"),
        ({"segmentation": None, "mode": "unconditional", "spacing_mm": (1.0, 1.0, 1.0)}, "at 2 x 2 x 3 mm only"),
        ({"size": (16, 16, 16)}, "of the segmentation's size"),
        ({"region": ("chest", "abdomen")}, "takes no --region"),
        ({"modality": "CT"}, "takes no --modality"),
        ({"condition_scale": 11.0}, "from 0 to 10"),
    ],
)
def test_what_the_model_does_not_take_is_refused(tmp_path, package, changes, said):
    classes = np.zeros((16, 16, 16), np.uint8)
    classes[4:12, 4:12, 4:12] = 3
    write_volume(Volume(classes, np.diag([-2.0, -2.0, 3.0, 1.0]), "label"), tmp_path / "drawn.nii.gz")
    settings = {"segmentation": tmp_path / "drawn.nii.gz", "model": str(package.folder), "out": tmp_path / "out"}
    with pytest.raises((BadInput, ModelError)) as caught:
        run(GenerateRequest(**settings | changes))
    assert said in caught.value.one_line()


def test_a_model_without_a_controlnet_refuses_a_drawing(tmp_path):
    package = make_latent_package(tmp_path / "tiny-limb", controlnet=False)
    assert load_backend(package).controlnet is None
    classes = np.ones((16, 16, 16), np.uint8)
    write_volume(Volume(classes, np.diag([-2.0, -2.0, 3.0, 1.0]), "label"), tmp_path / "drawn.nii.gz")
    request = GenerateRequest(segmentation=tmp_path / "drawn.nii.gz", model=str(package.folder), out=tmp_path / "out")
    with pytest.raises(ModelError, match="no mode .whole."):
        run(request)
