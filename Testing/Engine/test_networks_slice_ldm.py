"""The networks of the slice-based latent diffusion model: counts, shapes, and what is independent of what."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.presets import load_preset, parameter_counts
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.slice_refiner import SliceRefiner
from SynthDiffusionLib.networks.slice_unet import SliceUNet
from SynthDiffusionLib.networks.slice_vae import SliceVAE

SIZE, LATENT = (192, 192, 96), (4, 24, 24, 96)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """With random values where a fresh network has zeros, so that a result depends on every layer."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network.eval()


def tiny_vae(**changes) -> SliceVAE:
    return randomised(SliceVAE(**{"channels": (8, 16), "strides": (1, 2), "norm_groups": 4, "slices": 6} | changes))


def tiny_unet() -> SliceUNet:
    return SliceUNet(channels=(8, 16), norm_num_groups=4, characteristics_width=16)


def convolution(a: int, b: int, taps: int) -> int:
    return taps * a * b + b


def test_counts_at_full_size():
    expected = {"autoencoder": 25_947_018, "denoiser": 110_836_548, "refiner": 868_766}
    assert parameter_counts(load_preset("slice-ldm")) == expected


def test_count_of_the_autoencoder_by_formula():
    channels = (128, 256, 384, 512)
    # A block: two norms, two convolutions, and the linear map of the position's 64 features.
    blocks = sum(4 * n + 2 * convolution(n, n, 9) + convolution(64, n, 1) for n in channels)
    attention = 2 * 512 + 4 * convolution(512, 512, 1)  # norm; query, key, value and output
    ways = sum(convolution(a, b, 9) for a, b in zip(channels, channels[1:]))
    back = sum(convolution(b, a, 9) for a, b in zip(channels, channels[1:]))
    ends = convolution(2, 128, 9) + (2 * 512 + convolution(512, 8, 9))
    ends += convolution(4, 512, 9) + (2 * 128 + convolution(128, 2, 9))
    position = convolution(16, 64, 1) + convolution(64, 64, 1)
    total = 2 * (blocks + attention) + ways + back + ends + position
    assert total == parameter_counts(load_preset("slice-ldm"))["autoencoder"]


def test_denoiser_is_monais_without_attention_and_with_the_mlp():
    with torch.device("meta"):
        monai = DiffusionModelUNet(
            3, 4, 4, num_res_blocks=1, channels=(64, 128, 256, 512), attention_levels=(False,) * 4, num_head_channels=32
        )
    attention = 2 * 512 + 4 * convolution(512, 512, 1)
    mlp = convolution(9, 256, 1) + convolution(256, 256, 1) + 256  # the last is the null embedding
    total = sum(p.numel() for p in monai.parameters()) - attention + mlp
    assert total == parameter_counts(load_preset("slice-ldm"))["denoiser"]


def test_count_of_the_refiner_by_formula():
    parts = [convolution(n, w, 45) + 4 * convolution(w, w, 45) + convolution(w, n, 45) for n, w in ((4, 64), (2, 24))]
    assert sum(parts) == parameter_counts(load_preset("slice-ldm"))["refiner"]


def test_shapes_at_full_size():
    """On the meta device, which holds no values; a stack of three slices stands for 96 in the autoencoder."""
    spec = load_preset("slice-ldm")
    assert spec.latent.shape(SIZE) == LATENT
    with torch.device("meta"):
        vae, unet, refiner = (build_network(part) for part in (spec.autoencoder, spec.network, spec.refiner))
        x, z = torch.empty(1, 2, *SIZE[:2], 3), torch.empty(1, *LATENT)
        assert vae.encode_volume(x).shape == (1, *LATENT[:3], 3)
        assert vae.decode_volume(z[..., :3]).shape == x.shape
        assert unet(z, torch.empty(1), torch.empty(1, 9)).shape == z.shape
        assert refiner.aggregate(z).shape == z.shape
        assert refiner.refine(torch.empty(1, 2, *SIZE)).shape == (1, 2, *SIZE)


@pytest.mark.parametrize(("strides", "factor"), [((1, 2), 2), ((2, 2), 4), ((1, 1), 1)])
@pytest.mark.parametrize("attention", [True, False])
def test_autoencoder_has_the_downsampling_of_its_strides(strides, factor, attention):
    vae = tiny_vae(strides=strides, attention=attention)
    x, index = torch.randn(3, 2, 8, 12), torch.tensor([0, 2, 5])
    mean, logvar = vae.encode(x, index)
    assert mean.shape == logvar.shape == (3, 4, 8 // factor, 12 // factor)
    assert vae.decode(mean, index).shape == x.shape and vae.downsampling == factor


def test_position_changes_the_latents_and_the_decoded_slices():
    vae = tiny_vae()
    x, z = torch.randn(1, 2, 8, 8), torch.randn(1, 4, 4, 4)
    first, last = torch.tensor([0]), torch.tensor([5])
    with torch.inference_mode():
        assert (vae.encode(x, first)[0] - vae.encode(x, last)[0]).abs().max() > 1e-3
        assert (vae.decode(z, first) - vae.decode(z, last)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="positions of 1 slices"):
        vae.encode(x)


@pytest.mark.parametrize("position_embedding", [True, False])
def test_order_of_the_slices_matters_with_the_position_embedding_only(position_embedding):
    """Without it, shuffled slices give shuffled results, to the bit when every slice is a batch of its own."""
    vae = tiny_vae(position_embedding=position_embedding)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    x, z = torch.randn(1, 2, 8, 8, 6), torch.randn(1, 4, 4, 4, 6)
    with torch.inference_mode():
        for function, volume in ((vae.encode_volume, x), (vae.decode_volume, z)):
            shuffled, expected = function(volume[..., order], chunk=1), function(volume, chunk=1)[..., order]
            assert torch.equal(shuffled, expected) is not position_embedding
            assert position_embedding is False or (shuffled - expected).abs().max() > 1e-3


def test_slices_know_nothing_of_each_other():
    vae = tiny_vae()
    x, z = torch.randn(1, 2, 8, 8, 6), torch.randn(1, 4, 4, 4, 6)
    with torch.inference_mode():
        for function, volume in ((vae.encode_volume, x), (vae.decode_volume, z)):
            changed = volume.clone()
            changed[..., 2] += 1
            difference = (function(changed) - function(volume)).abs().amax((0, 1, 2, 3))
            assert difference[2] > 1e-3
            assert difference[[0, 1, 3, 4, 5]].max() < 1e-5


def test_chunks_do_not_change_the_result_and_volumes_are_kept_apart():
    vae = tiny_vae()
    x, told = torch.randn(2, 2, 8, 8, 6), []
    with torch.inference_mode():
        whole = vae.encode_volume(x, chunk=100)
        chunked = vae.encode_volume(x, chunk=5, on_slices=lambda done, total: told.append((done, total)))
        torch.testing.assert_close(chunked, whole)
        torch.testing.assert_close(vae.encode_volume(x[1:]), whole[1:])
        slices, index = x[1].movedim(-1, 0), torch.arange(6)
        torch.testing.assert_close(vae.encode(slices, index)[0].movedim(0, -1), whole[1])
        torch.testing.assert_close(
            vae.decode(whole[1].movedim(-1, 0), index).movedim(0, -1), vae.decode_volume(whole)[1]
        )
    assert told == [(5, 12), (10, 12), (12, 12)]


def test_stacks_of_another_depth_lie_about_the_same_middle():
    vae = tiny_vae()
    assert vae.positions(6).tolist() == [0, 1, 2, 3, 4, 5]
    assert vae.positions(4).tolist() == [1, 2, 3, 4]
    assert vae.positions(3).tolist() == [1.5, 2.5, 3.5]


def test_gradients_reach_every_parameter_of_the_autoencoder():
    vae = tiny_vae().train()
    reconstruction, mean, logvar = vae(torch.randn(2, 2, 8, 8), torch.tensor([1, 4]))
    (reconstruction.square().mean() + mean.square().mean() + logvar.square().mean()).backward()
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_fresh_refiner_changes_nothing():
    refiner = SliceRefiner(4, (8, 8))
    z, x = torch.randn(1, 4, 3, 5, 7), torch.randn(1, 2, 6, 10, 7)
    assert torch.equal(refiner.aggregate(z), z) and torch.equal(refiner.refine(x), x)
    refiner.refine(x).square().sum().backward()
    assert refiner.images.head.weight.grad.any()  # and yet it can learn


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 16, 3), (7, 2, 11)])
def test_refiner_takes_any_size(shape):
    refiner = randomised(SliceRefiner(4, (8, 8)))
    with torch.inference_mode():
        assert refiner.aggregate(torch.randn(2, 4, *shape)).shape == (2, 4, *shape)
        assert refiner.refine(torch.randn(2, 2, *shape)).shape == (2, 2, *shape)


def test_refiner_sees_as_far_as_it_says_and_both_channels():
    """Twice as far along the slices; image and mask depend on each other."""
    refiner = randomised(SliceRefiner(4, (8, 8), blocks=1)).double()
    assert refiner.reach == (4, 4, 8)
    x = torch.zeros(1, 2, 21, 21, 29, dtype=torch.float64)
    changed = x.clone()
    changed[0, 0, 10, 10, 14] = 1
    with torch.inference_mode():
        difference = (refiner.refine(changed) - refiner.refine(x))[0, 1]  # of the mask
    seen = [axis.unique() for axis in difference.nonzero().unbind(1)]
    assert [(int(axis.min()), int(axis.max())) for axis in seen] == [(6, 14), (6, 14), (6, 22)]


def test_null_rows_give_the_null_embedding_and_no_nan():
    unet = randomised(tiny_unet()).train()
    embedding = unet.unet.class_embedding
    values = torch.rand(2, 9)
    values[1] = float("nan")
    found = embedding(values)
    assert torch.equal(found[1], embedding.null) and not torch.equal(found[0], embedding.null)
    out = unet(torch.randn(2, 4, 4, 4, 6), torch.tensor([3, 800]), values)
    out.square().mean().backward()
    assert out.isfinite().all()
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_mixed_batches_are_separate_calls():
    unet = randomised(tiny_unet())
    x, t, values = torch.randn(3, 4, 4, 4, 6), torch.tensor([3, 400, 800]), torch.rand(3, 9)
    values[1] = float("nan")
    with torch.inference_mode():
        mixed = unet(x, t, values)
        apart = [unet(x[:1], t[:1], values[:1]), unet(x[1:2], t[1:2]), unet(x[2:], t[2:], values[2:])]
        torch.testing.assert_close(mixed, torch.cat(apart), rtol=1e-4, atol=1e-5)
        assert (unet(x[:1], t[:1]) - mixed[:1]).abs().max() > 1e-4


def test_characteristics_have_an_effect_after_a_step_of_training():
    """A fresh network says zero whatever it is asked for; every characteristic acts once it has learnt a little."""
    unet = tiny_unet()
    x, t, values = torch.randn(2, 4, 4, 4, 4), torch.tensor([10, 500]), torch.rand(2, 9)
    optimiser = torch.optim.Adam(unet.parameters(), 1e-2)
    assert not unet(x, t, values).any()
    for _ in range(2):  # the head is zero at first, and the blocks' second convolutions learn after it
        optimiser.zero_grad()
        (unet(x, t, values) - torch.randn_like(x)).abs().mean().backward()
        optimiser.step()
    with torch.inference_mode():
        base = unet(x, t, values)
        for k in range(9):
            changed = values.clone()
            changed[:, k] += 0.5
            assert (unet(x, t, changed) - base).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("side", "values", "reason"),
    [
        ((4, 4, 5), torch.zeros(1, 9), "multiples of 2"),
        ((4, 4, 4), torch.zeros(1, 8), r"\(batch, 9\), not \[1, 8\]"),
        ((4, 4, 4), torch.tensor([[float("nan")] + [0.5] * 8]), "partly NaN"),
    ],
)
def test_what_the_denoiser_cannot_take_is_refused(side, values, reason):
    with pytest.raises(ValueError, match=reason):
        tiny_unet()(torch.zeros(1, 4, *side), torch.tensor([1]), values)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("SliceVAE", {"strides": [1, 2, 4, 2]}, "strides must be 1 or 2"),
        ("SliceVAE", {"strides": [1, 2]}, "4 levels"),
        ("SliceVAE", {"channels": [6, 8, 8, 8]}, "divisible"),
        ("SliceUNet", {"channels": [40, 64]}, "norm_num_groups|multiple"),
        ("SliceRefiner", {"channels": [8]}, "two widths"),
        ("SliceRefiner", {"kernel": [3, 3, 4]}, "odd"),
    ],
)
def test_networks_that_cannot_be_are_refused(name, arguments, reason):
    with pytest.raises(ModelError, match=reason):
        build_network(NetworkSpec(name, arguments))
