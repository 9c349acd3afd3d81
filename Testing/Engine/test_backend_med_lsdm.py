"""Med-LSDM's backend on tiny random networks: against its networks put together by hand with diffusers' sampler, and
windows against the whole with a denoiser that looks at every slice alone."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from tiny_med_lsdm import make_lsdm_package
from torch import nn

from SynthDiffusionLib.backends import load_backend
from SynthDiffusionLib.backends.med_lsdm import window_slices, window_weights
from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.jobs.preflight import Device, preflight
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.labels.onehot import one_hot_condition
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.memory.working_grids import padded
from SynthDiffusionLib.models.spec import WindowsSpec
from SynthDiffusionLib.volumes import Volume, read_volume, write_volume

SHAPE = (16, 24, 16)
DEEP = (16, 16, 44)  # windows from 0, 8, 16, 24 and 28
AFFINE = np.diag([-2.5, -2.5, 3.5, 1.0])


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_lsdm_package(tmp_path_factory.mktemp("models") / "tiny-lsdm")


@pytest.fixture(scope="module")
def backend(package):
    return load_backend(package)


@pytest.fixture
def rewindowed(package):
    """The backend with other windows, and a denoiser that is its own or another."""

    def make(depth=None, stride=8, join="steps", network=None):
        backend = load_backend(package)
        backend.windows = None if depth is None else WindowsSpec(depth, stride, join)
        if network is not None:
            backend.network = network
        return backend

    return make


class SliceBySlice(nn.Module):
    """A denoiser without attention along the depth or statistics over it: every slice of the latent on its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.mix = nn.Conv3d(3, 3, (3, 3, 1), padding=(1, 1, 0))
        self.drawing = nn.Conv3d(4, 3, 4, stride=4)

    def embed(self, masks):
        return self.drawing(masks)

    def modulate(self, features):
        return [features]

    def forward(self, noisy, timesteps, modulations):
        return torch.tanh(self.mix(noisy) + modulations[0] + timesteps.view(-1, 1, 1, 1, 1) / 500)


def condition_for(package, shape=SHAPE, given=("body", "muscle", "tumour")) -> Condition:
    classes = np.zeros(shape, np.uint8)
    classes[2:-2, 2:-2] = 1
    classes[5:9, 5:9, 1 : shape[2] // 2] = 3
    return Condition(classes if given else np.zeros(shape, np.uint8), np.eye(4), package.spec.label_scheme, given)


def draw(backend, condition, precision="fp32", **changes) -> np.ndarray:
    plan = Plan("cpu", precision, "whole", None, 0, 1, backend.working_grid(condition.shape))
    settings = {"sampler": "dpmpp-2m", "steps": 2, "seed": 5} | changes
    return backend.sample(condition, plan, **settings)


def one_hot_by_hand(condition) -> torch.Tensor:
    classes = torch.from_numpy(condition.class_map)
    return torch.stack([classes == 0, classes >= 1, classes >= 2, classes == 3]).float()[None]


@pytest.mark.parametrize("spade_decoder", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_sample_is_that_of_the_networks_put_together_by_hand(tmp_path, guidance, spade_decoder):
    """Ancestral sampling by diffusers, noise predicted, clean latents clipped to the ends of the codebook."""
    package = make_lsdm_package(tmp_path / "tiny-lsdm", spade_decoder=spade_decoder)
    backend, condition = load_backend(package), condition_for(package)
    found = draw(backend, condition, sampler="ddpm", steps=5, guidance=guidance)

    scheduler = DDPMScheduler(500, beta_schedule="squaredcos_cap_v2", clip_sample=True, clip_sample_range=1.0)
    scheduler.set_timesteps(timesteps=[499, 399, 299, 199, 99])
    generator, masks = torch.Generator().manual_seed(5), one_hot_by_hand(condition)
    with torch.inference_mode():
        x = torch.randn(1, 3, 4, 6, 4, generator=generator)
        for t in scheduler.timesteps:
            eps = backend.network(x, t[None], masks=masks)
            null = backend.network(x, t[None], masks=torch.zeros_like(masks))
            x = scheduler.step(null + guidance * (eps - null), t, x, generator=generator).prev_sample
        codes, _ = backend.autoencoder.quantise(4.0 * (x + 1.0) / 2.0 - 2.5)
        wanted = backend.autoencoder.decode(codes, masks)[0, 0].clamp(-1, 1).numpy()
    assert wanted.std() > 0.01
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_the_one_hot_map_has_a_background_only_where_all_is_known():
    #                    tumour in muscle, muscle, nothing;  tumour, and nothing known of muscle; nothing known at all
    channels = np.array([[1, 1, -1, 0, 0, 0], [1, -1, -1, 1, -1, 0]], np.int8)[:, :, None, None]
    expected = [[0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]]
    hot = one_hot_condition(channels)
    assert hot.dtype == np.float32 and hot[..., 0, 0].tolist() == expected


def test_the_one_hot_map_of_training_is_the_same(package):
    masks = pytest.importorskip("SynthDiffusionLib.training.masks")
    condition = condition_for(package, (8, 12, 4))
    table = masks.class_table(package.spec.label_scheme)
    for given in (("body", "muscle", "tumour"), ("tumour",), ()):
        flags = torch.tensor([[float(c.name in given) for c in package.spec.label_scheme.condition_classes]])
        drawn = masks.masks_of(torch.from_numpy(condition.class_map)[None], table, flags)
        wanted = one_hot_condition(dataclasses.replace(condition, given=given).channels())
        np.testing.assert_array_equal(masks.one_hot_masks(drawn, flags)[0].numpy(), wanted)


def test_windows_cover_the_depth_and_the_last_ends_with_it():
    assert window_slices(4, 4, 2) == [slice(0, 4)]
    assert window_slices(8, 4, 2) == [slice(0, 4), slice(2, 6), slice(4, 8)]
    assert window_slices(11, 4, 3) == [slice(0, 4), slice(3, 7), slice(6, 10), slice(7, 11)]
    assert window_slices(9, 4, 4) == [slice(0, 4), slice(4, 8), slice(5, 9)]
    with pytest.raises(ValueError, match="does not fit"):
        window_slices(3, 4, 2)


@pytest.mark.parametrize(("depth", "window", "stride"), [(8, 4, 2), (11, 4, 3), (30, 8, 4), (9, 4, 4), (5, 5, 1)])
def test_weights_add_up_to_one_and_are_greatest_in_the_middle(depth, window, stride):
    pieces = window_slices(depth, window, stride)
    weights, total = window_weights(pieces, depth), torch.zeros(depth)
    for piece, weight in zip(pieces, weights, strict=True):
        total[piece] += weight
        assert bool((weight > 0).all())
    torch.testing.assert_close(total, torch.ones(depth))
    if len(pieces) > 2 and stride * 2 == window:
        middle = weights[1]
        assert middle[0] < middle[window // 2 - 1] and middle[-1] < middle[window // 2]


def test_one_window_is_the_way_without_windows(package, rewindowed):
    condition = condition_for(package, DEEP)
    whole = draw(rewindowed(None), condition)
    for join in ("steps", "samples"):
        np.testing.assert_array_equal(draw(rewindowed(44, 8, join), condition), whole)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp-2m"])
@pytest.mark.parametrize("join", ["steps", "samples"])
def test_slice_by_slice_windows_are_as_the_whole(package, rewindowed, monkeypatch, join, sampler):
    """Nothing may depend on where windows begin and end, neither in the latent nor in the noise of the steps."""
    latents = {}

    def kept(backend, latents_of):
        # The decoder looks across slices: its input is compared, put together from the windows.
        factor = backend.latent.factors[2]

        def decode(z, *_):
            where = len(latents_of)
            latents_of.append(z.clone())
            return z.new_full((1, 1, *(n * factor for n in z.shape[2:])), float(where) / 100)

        monkeypatch.setattr(backend, "_decode", decode)
        return backend

    condition = condition_for(package, DEEP)
    for name, backend in (
        ("whole", rewindowed(None, network=SliceBySlice())),
        ("windows", rewindowed(16, 8, join, SliceBySlice())),
    ):
        latents[name] = []
        draw(kept(backend, latents[name]), condition, sampler=sampler, steps=4, guidance=1.5)
    (whole,) = latents["whole"]
    assert whole.std() > 0.1
    if join == "steps":
        (windows,) = latents["windows"]
        torch.testing.assert_close(windows, whole, atol=1e-5, rtol=0)
        return
    pieces = window_slices(11, 4, 2)
    assert len(pieces) == 5
    for piece, window in zip(pieces, latents["windows"], strict=True):
        torch.testing.assert_close(window, whole[..., piece], atol=1e-5, rtol=0)


def test_finished_windows_are_averaged_where_they_overlap(package, rewindowed, monkeypatch):
    backend, made = rewindowed(16, 8, "samples"), iter((0.1, 0.3, 0.5, 0.7, 0.9))
    monkeypatch.setattr(backend, "_decode", lambda z, *_: torch.full((1, 1, 16, 16, 16), next(made)))
    drawn = draw(backend, condition_for(package, DEEP))
    assert drawn.shape == DEEP
    # 0-16, 8-24, 16-32, 24-40, 28-44
    expected = [0.1] * 8 + [0.2] * 8 + [0.4] * 8 + [0.6] * 4 + [0.7] * 4 + [0.8] * 8 + [0.9] * 4
    np.testing.assert_allclose(drawn[3, 4], expected, atol=1e-6)


def test_depth_attention_makes_windows_matter(package, rewindowed):
    condition = condition_for(package, DEEP)
    made = [draw(rewindowed(*w), condition) for w in ((None,), (16, 8), (16, 16), (32, 8), (16, 8, "samples"))]
    assert len({v.tobytes() for v in made}) == 5
    assert all(v.shape == DEEP and np.isfinite(v).all() for v in made)


@pytest.mark.parametrize("join", ["steps", "samples"])
def test_steps_and_estimates_are_told_once_a_step(package, rewindowed, join):
    backend, condition = rewindowed(16, 8, join), condition_for(package, DEEP)
    steps, seen = [], []
    drawn = draw(
        backend,
        condition,
        steps=3,
        on_step=lambda *step: steps.append((*step, len(seen))),
        on_estimate=lambda estimate: seen.append(estimate()),
    )
    assert steps == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]
    assert [s.shape for s in seen] == [DEEP] * 3
    np.testing.assert_array_equal(drawn, draw(backend, condition, steps=3))  # looking changes nothing
    np.testing.assert_array_equal(seen[-1], drawn)
    if join == "samples":
        assert (seen[0][..., 24:] == -1.0).all(), "windows that have not begun"


def test_the_drawing_matters_and_only_its_given_classes(package, backend):
    drawn = draw(backend, condition_for(package))
    without = draw(backend, condition_for(package, given=()))
    partly = draw(backend, condition_for(package, given=("tumour",)))
    assert len({v.tobytes() for v in (drawn, without, partly)}) == 3


def test_guidance_is_a_line_from_the_null_condition_to_the_drawing(package, backend):
    condition, null = condition_for(package), condition_for(package, given=())
    np.testing.assert_allclose(draw(backend, condition, guidance=0.0), draw(backend, null), atol=1e-6)
    assert not np.array_equal(draw(backend, condition, guidance=2.0), draw(backend, condition))
    np.testing.assert_array_equal(draw(backend, null, guidance=3.0), draw(backend, null))  # nothing to lead to


def test_a_decoder_that_is_led_by_the_drawing(tmp_path, package):
    led = make_lsdm_package(tmp_path / "tiny-lsdm", spade_decoder=True, windows={"depth": 16, "stride": 8})
    backend, condition = load_backend(led), condition_for(led, DEEP)
    other = dataclasses.replace(condition, class_map=condition.class_map[::-1].copy())
    # The same latents, by a denoiser that does not see the drawing.
    blind = SliceBySlice()
    nn.init.zeros_(blind.drawing.weight)
    backend.network = blind
    assert not np.array_equal(draw(backend, condition), draw(backend, other))
    plain = load_backend(package)
    plain.network = blind
    np.testing.assert_array_equal(draw(plain, condition), draw(plain, other))


@pytest.mark.parametrize("shape", [(16, 16, 16), (13, 9, 11), (17, 8, 21)])
def test_sizes_are_padded_to_a_window_and_cropped_back(package, backend, shape):
    drawn = draw(backend, condition_for(package, shape))
    assert drawn.shape == shape and np.isfinite(drawn).all()
    grid = backend.working_grid(shape)
    assert grid[2] == max(16, -(-shape[2] // 4) * 4) and all(n % 8 == 0 for n in grid[:2])
    assert padded(package.spec, shape) == grid


def test_bf16_is_near_fp32(package, backend):
    condition = condition_for(package)
    difference = np.abs(draw(backend, condition, "bf16") - draw(backend, condition))
    assert 0 < np.median(difference) < 0.1  # codes flip


def test_windows_that_do_not_fit_the_latent_are_refused(tmp_path):
    package = make_lsdm_package(tmp_path / "tiny-lsdm", windows={"depth": 16, "stride": 6})
    with pytest.raises(ModelError, match="multiples of 4.*16 with a stride of 6"):
        load_backend(package)


def test_weights_of_another_network_are_refused(tmp_path):
    broken = make_lsdm_package(tmp_path / "tiny-lsdm")
    (broken.folder / "autoencoder.safetensors").write_bytes((broken.folder / "denoiser.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"autoencoder\.safetensors"):
        load_backend(broken)


@pytest.fixture
def drawing(tmp_path):
    classes = np.zeros((20, 18, 10), np.uint8)
    classes[4:15, 4:14, 2:8] = 3
    angle = np.deg2rad(12)
    affine = AFFINE.copy()
    affine[:2, :2] = affine[:2, :2] @ [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, 3] = (11.3, -7.9, 42.1)
    write_volume(Volume(classes, affine, "label"), tmp_path / "drawn.nii.gz")
    return tmp_path / "drawn.nii.gz", classes.shape, affine


def test_a_run_from_a_segmentation_and_one_without(tmp_path, package, drawing):
    path, shape, affine = drawing
    common = {"model": str(package.folder), "seed": 3, "device": "cpu", "precision": "fp32"}
    from_drawing = common | {"segmentation": path, "labels": {"3": "tumour"}}
    result = run(GenerateRequest(out=tmp_path / "a", **from_drawing))
    # 10 slices of 3.5 mm are 12 of the model's 3 mm.
    assert any("16 slices or more, and here are 12" in note for note in result.notes)
    volume = read_volume(result.outputs[0]["volume"], unit="arbitrary")
    assert volume.shape == shape and volume.array.std() > 1.0
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    again = run(GenerateRequest(out=tmp_path / "b", **from_drawing)).outputs[0]
    np.testing.assert_array_equal(read_volume(again["volume"], unit="arbitrary").array, volume.array)
    led = run(GenerateRequest(out=tmp_path / "c", guidance=2.5, **from_drawing)).outputs[0]
    assert not np.array_equal(read_volume(led["volume"], unit="arbitrary").array, volume.array)
    assert json.loads(led["provenance"].read_text(encoding="utf-8"))["settings"]["guidance"] == 2.5

    free = run(GenerateRequest(segmentation=None, mode="unconditional", out=tmp_path / "d", **common))
    volume = read_volume(free.outputs[0]["volume"], unit="arbitrary")
    assert volume.shape == (16, 24, 24) and not any("slices or more" in note for note in free.notes)
    np.testing.assert_allclose(volume.spacing, (2.0, 2.0, 3.0))


def test_preflight_says_what_the_run_does(tmp_path, package, drawing):
    request = GenerateRequest(
        segmentation=drawing[0], labels={"3": "tumour"}, model=str(package.folder), out=tmp_path / "out", device="cpu"
    )
    told = preflight(request, Device("cpu", "a CPU", 2**34, "fp32"))
    assert told["grid"] == [32, 24, 16] and told["evaluations"] == 2
    assert any("slices or more" in note for note in told["notes"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"segmentation": None}, "needs a segmentation"),
        ({"labels": {"3": "spleen"}}, "spleen"),
        ({"labels": {"9": "tumour"}}, "'9'"),
        ({"condition_scale": 0.5}, "takes no --condition-scale"),
        ({"region": ("chest", "abdomen")}, "takes no --region"),
        ({"size": (16, 16, 16)}, "of the segmentation's size"),
        ({"mode": "unconditional", "segmentation": None, "labels": None, "guidance": 2.0}, "there is none"),
    ],
)
def test_what_the_model_does_not_take_is_refused(tmp_path, package, drawing, changes, said):
    settings = {"segmentation": drawing[0], "labels": {"3": "tumour"}, "model": str(package.folder)}
    with pytest.raises((BadInput, ModelError)) as caught:
        run(GenerateRequest(**settings | {"out": tmp_path / "out"} | changes))
    assert said in caught.value.one_line()


def test_guidance_is_refused_where_no_null_condition_was_trained(tmp_path, drawing):
    package = make_lsdm_package(tmp_path / "tiny-lsdm", controls={"guidance": False}, modes=["whole"])
    settings = {"segmentation": drawing[0], "labels": {"3": "tumour"}, "model": str(package.folder), "seed": 1}
    settings |= {"out": tmp_path / "out", "device": "cpu", "precision": "fp32"}
    with pytest.raises(BadInput, match="'tiny-lsdm' was trained with its condition only") as caught:
        run(GenerateRequest(guidance=1.5, **settings))
    assert "--guidance" in caught.value.hint and not (tmp_path / "out").exists()
    assert run(GenerateRequest(guidance=1.0, **settings)).outputs
