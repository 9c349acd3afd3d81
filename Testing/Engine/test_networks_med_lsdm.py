"""The networks of Med-LSDM: counts by hand sums, shapes at full size, and the identities that their parts keep."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from monai.networks.layers.vector_quantizer import EMAQuantizer
from torch import nn

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.presets import latent_shape, load_preset, parameter_counts
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks import factorised_unet, spade
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.factorised_unet import (
    DepthAttention,
    FactorisedUNet,
    SpatialLinearAttention,
    attend,
    bucket,
    rotate,
)
from SynthDiffusionLib.networks.spade import SpadeGroupNorm
from SynthDiffusionLib.networks.vq_gan import VqGan

UNET = {
    "in_channels": 3,
    "out_channels": 3,
    "channels": [8, 16],
    "condition_channels": 2,
    "mask_channels": 4,
    "spade_hidden": 8,
    "heads": 2,
    "head_channels": 4,
    "blocks_per_level": 1,
    "norm_groups": 4,
    "mask_downsampling": 2,
}
AUTOENCODER = {"hidden": 4, "downsampling": 2, "embedding_dim": 3, "num_embeddings": 32, "norm_groups": 4}


def unet(**changes) -> FactorisedUNet:
    """With random weights where a fresh network has zeros, so that a result depends on every layer."""
    torch.manual_seed(0)
    network = FactorisedUNet(**UNET | changes).eval()
    with torch.no_grad():
        network.head.weight.normal_(std=0.1)
    return network


def autoencoder(**changes) -> VqGan:
    torch.manual_seed(0)
    return VqGan(**AUTOENCODER | changes).eval()


def inputs(k: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, 4, 6, k), torch.tensor([3, 400]), torch.rand(2, 2, 8, 12, 2 * k)


# Counts and shapes


def conv(a: int, b: int, voxels: int) -> int:
    return a * b * voxels + b


def test_the_count_of_the_autoencoder_is_that_of_its_layers():
    def block(n: int) -> int:
        return 2 * (2 * n + conv(n, n, 27))

    encoder = conv(1, 16, 27) + conv(16, 32, 64) + block(32) + conv(32, 64, 64) + block(64) + 2 * 64 + conv(64, 8, 1)
    decoder = conv(8, 64, 1) + 2 * 64 + conv(64, 64, 64) + 2 * block(64) + conv(64, 32, 64) + 2 * block(32)
    assert encoder + decoder + conv(32, 1, 27) == 1_391_081
    assert parameter_counts(load_preset("med-lsdm"))["autoencoder"] == 1_391_081


def test_the_count_of_the_unet_is_that_of_its_layers():
    masks, hidden, width, time = 8, 128, 8 * 32, 4 * 64

    def spade_norm(n: int) -> int:
        return conv(masks, hidden, 9) + conv(hidden, 2 * n, 9)

    def block(a: int, b: int, norm) -> int:
        skip = conv(a, b, 1) if a != b else 0
        return norm(a) + conv(a, b, 9) + conv(time, b, 1) + norm(b) + conv(b, b, 9) + skip

    def attention(n: int) -> int:  # spatial and depth: layer norm, queries, keys and values without bias, output
        return 2 * (2 * n + 3 * n * width + conv(width, n, 1))

    widths = (64, 128, 256, 512)
    total = conv(3, masks, 27) + 2 * conv(masks, masks, 27) + conv(64, time, 1) + conv(time, time, 1) + 32 * 8
    total += conv(8, 64, 9) + 2 * 64 + conv(64, 8, 9)
    for n in widths:
        total += 2 * block(n, n, lambda c: 2 * c) + block(2 * n, n, spade_norm) + block(n, n, spade_norm)
        total += 2 * attention(n)
    total += 2 * block(512, 512, spade_norm) + attention(512)
    total += sum(conv(a, b, 9) + conv(b, a, 9) for a, b in zip(widths, widths[1:]))
    assert total == parameter_counts(load_preset("med-lsdm"))["denoiser"] == 63_770_728


def test_shapes_at_full_size():
    """A block of 256 x 256 x 32 is a latent of 8 x 64 x 64 x 8: by arithmetic and by both encoders."""
    spec = load_preset("med-lsdm")
    assert latent_shape(spec, (256, 256, 32)) == (8, 64, 64, 8)
    with torch.device("meta"):
        vq_gan, network = build_network(spec.autoencoder), build_network(spec.network)
        z = vq_gan.encode(torch.empty(1, 1, 256, 256, 32))
        features = network.embed(torch.empty(1, 3, 256, 256, 32))
        assert z.shape == (1, 8, 64, 64, 8) and features.shape == (1, 8, 64, 64, 8)
        assert vq_gan.decode(z).shape == (1, 1, 256, 256, 32)
        assert vq_gan.codebook.shape == (16384, 8)
        assert network(z, torch.empty(1, dtype=torch.int64), features=features).shape == z.shape


@pytest.mark.parametrize(("downsampling", "side"), [(1, 4), (2, 8), (4, 16)])
def test_the_mask_encoder_leads_to_the_latent(downsampling, side):
    network = unet(mask_downsampling=downsampling)
    assert sum(isinstance(m, nn.Conv3d) for m in network.mask_encoder) == 3
    assert network.embed(torch.rand(1, 2, side, side, 2 * side)).shape == (1, 4, 4, 4, 8)


# The U-Net


def test_a_fresh_unet_predicts_nothing_and_every_weight_can_be_trained():
    x, t, masks = inputs()
    assert not FactorisedUNet(**UNET)(x, t, masks).any()
    network = unet().train()
    network(x, t, masks).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_result_depends_on_latent_time_and_drawing():
    network = unet()
    x, t, masks = inputs()
    with torch.inference_mode():
        plain = network(x, t, masks)
        for other in (network(x + 0.1, t, masks), network(x, t + 50, masks), network(x, t, torch.zeros_like(masks))):
            assert (plain - other).abs().max() > 1e-4


def test_features_and_modulations_once_are_the_masks_every_time():
    network = unet(blocks_per_level=2)
    x, t, masks = inputs()
    with torch.inference_mode():
        features = network.embed(masks)
        modulations = network.modulate(features)
        assert len(modulations) == 2 * (2 + 2 * 2)  # two layers of two blocks in the middle and of two at each level
        expected = network(x, t, masks)
        assert torch.equal(network(x, t, features=features), expected)
        assert torch.equal(network(x, t, modulations=modulations), expected)
        for whole, part in zip(modulations, network.modulate(features[..., 1:4]), strict=True):
            torch.testing.assert_close(whole[..., 1:4], part)
    with pytest.raises(ValueError, match="masks"):
        network(x, t)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_any_depth_but_not_any_side(k):
    network = unet()
    x, t, masks = inputs(k)
    with torch.inference_mode():
        assert network(x, t, masks).shape == x.shape
        with pytest.raises(ValueError, match="multiples of 2"):
            network(x[:, :, :3], t, masks)


def test_bf16_is_close_to_fp32():
    network = unet()
    x, t, masks = inputs()
    with torch.inference_mode():
        exact = network(x, t, masks)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(x, t, masks).float()
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("depth_attention", [False, True])
def test_only_depth_attention_and_statistics_join_slices(depth_attention, monkeypatch):
    """With the statistics of the normalisation out of the way, a changed slice changes no other one."""
    network = unet()
    for module in (factorised_unet, spade):
        monkeypatch.setattr(module, "group_norm", lambda x, norm: x)
    if not depth_attention:
        for module in network.modules():
            if isinstance(module, DepthAttention):
                nn.init.zeros_(module.out.weight)
    x, t, masks = inputs()
    with torch.inference_mode():
        modulations = network.modulate(network.embed(masks))
        before = network(x, t, modulations=modulations)
        x[..., 2] += torch.randn_like(x[..., 2])
        change = (network(x, t, modulations=modulations) - before).abs().amax(dim=(0, 1, 2, 3))
    assert change[2] > 1e-3
    others = change[[0, 1, 3, 4]]
    assert (others > 1e-5).all() if depth_attention else (others < 1e-6).all()


# Attention


def test_the_product_of_rotated_queries_and_keys_depends_on_their_offset_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 8)
    positions = torch.arange(12)
    turned = [rotate(v.expand(12, 8), positions) for v in (query, key)]
    scores = turned[0] @ turned[1].T
    for offset in range(-11, 12):
        torch.testing.assert_close(scores.diagonal(offset), scores.diagonal(offset)[:1].expand(12 - abs(offset)))
    assert scores[0].std() > 0.01
    torch.testing.assert_close(scores.diagonal(), (query @ key).expand(12))
    later = [rotate(v.expand(12, 8), positions + 100) for v in (query, key)]
    torch.testing.assert_close(later[0] @ later[1].T, scores, rtol=1e-4, atol=1e-4)


def test_the_first_pair_turns_by_one_radian_a_slice_and_the_next_more_slowly():
    turned = rotate(torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(3, 4), torch.arange(3))
    rates = (1.0, 10000**-0.5)
    expected = [[v for rate in rates for v in (math.cos(k * rate), math.sin(k * rate))] for k in range(3)]
    torch.testing.assert_close(turned, torch.tensor(expected))


def test_buckets_of_relative_positions():
    """T5's: on either side 8 single distances, then 8 in logarithmic steps up to 32 slices, then all that is beyond."""
    offsets = torch.tensor([0, -1, -7, -8, -16, -31, -32, -500, 1, 7, 8, 16, 32, 500])
    assert bucket(offsets).tolist() == [0, 1, 7, 8, 12, 15, 15, 15, 17, 23, 24, 28, 31, 31]
    bias = unet().position_bias(40)
    assert bias.shape == (2, 40, 40)
    assert torch.equal(bias[:, 0, 3], bias[:, 20, 23]) and not torch.equal(bias[:, 3, 0], bias[:, 0, 3])


@pytest.mark.parametrize("k", [1, 5, 16, 21])
def test_attention_on_cpus_is_pytorchs(k):
    torch.manual_seed(0)
    query, key, value, bias = (*torch.randn(3, 7, 2, k, 4), torch.randn(2, k, k))
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    torch.testing.assert_close(attend(query, key, value, bias), expected, rtol=1e-5, atol=1e-6)


def test_linear_attention_is_its_formula_in_every_slice():
    torch.manual_seed(0)
    attention, tokens = SpatialLinearAttention(6, heads=2, head_channels=4), torch.randn(2, 3, 5, 4, 6)
    batch, k = 1, 2
    query, key, value = attention.qkv(attention.norm(tokens[batch, :, :, k].reshape(15, 6))).chunk(3, dim=1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        context = key[:, part].softmax(dim=0).T @ value[:, part]
        heads.append(query[:, part].softmax(dim=1) / 2 @ context)
    expected = attention.out(torch.cat(heads, dim=1)).reshape(3, 5, 6)
    torch.testing.assert_close(attention(tokens)[batch, :, :, k], expected, rtol=1e-4, atol=1e-6)


# SPADE


def test_spade_of_the_null_map_is_the_group_norm_by_a_fixed_map():
    torch.manual_seed(0)
    norm = SpadeGroupNorm(8, map_channels=3, hidden=5, groups=4, kernel=(3, 3, 1))
    null = norm.modulation(torch.zeros(1, 3, 6, 6, 4))
    inner = null[0, :, 1:-1, 1:-1]  # zero padding of the hidden features shows at the borders alone
    torch.testing.assert_close(inner, inner[:, :1, :1, :1].expand_as(inner))
    scale, offset = null.chunk(2, dim=1)
    for x in torch.randn(2, 2, 8, 6, 6, 4):
        torch.testing.assert_close(norm(x, null), F.group_norm(x, 4) * (1 + scale) + offset)
    drawn = norm.modulation(torch.ones(1, 3, 6, 6, 4))
    assert (drawn - null).abs().max() > 1e-2
    with torch.no_grad():
        norm.scale_and_offset.weight.zero_()
        norm.scale_and_offset.bias.zero_()
    torch.testing.assert_close(norm(x, norm.modulation(torch.rand(2, 3, 6, 6, 4))), F.group_norm(x, 4))


def test_spade_keeps_the_extent_of_a_structure():
    """What MONAI's loses: of an even map it leaves nothing, whatever its value."""
    torch.manual_seed(0)
    norm = SpadeGroupNorm(8, map_channels=1, hidden=5, groups=4, kernel=(3, 3, 3))
    low, high = (norm.modulation(torch.full((1, 1, 5, 5, 5), v))[..., 2, 2, 2] for v in (0.0, 1.0))
    assert (low - high).abs().max() > 1e-2


# The VQ-GAN


@pytest.mark.parametrize("downsampling", [1, 2, 4])
@pytest.mark.parametrize("condition_channels", [0, 2])
def test_there_and_back(downsampling, condition_channels):
    network = autoencoder(downsampling=downsampling, condition_channels=condition_channels)
    images, masks = torch.randn(2, 1, 8, 12, 4), torch.rand(2, 2, 8, 12, 4)
    with torch.inference_mode():
        z = network.encode(images)
        assert z.shape == (2, 3, 8 // downsampling, 12 // downsampling, 4 // downsampling)
        q, codes = network.quantise(z)
        assert torch.equal(q[1, :, 0, 1, 0], network.codebook[codes[1, 0, 1, 0]])
        one, again = network.decode(q, masks), network.decode(q, masks)
        assert one.shape == images.shape and one.dtype == torch.float32 and torch.equal(one, again)
        assert torch.equal(network.decode(q, 1 - masks), one) == (condition_channels == 0)
    if condition_channels:
        with pytest.raises(ValueError, match="label map of 2 channels"):
            network.decode(q)


def test_an_even_image_has_an_even_latent():
    """As only replicate padding makes it: zeros round it would show at the borders."""
    network = autoencoder(downsampling=4)
    with torch.inference_mode():
        z = network.encode(torch.full((1, 1, 16, 16, 16), 0.7))
        torch.testing.assert_close(z, z[..., :1, :1, :1].expand_as(z), rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="multiples of 4"):
            network.encode(torch.zeros(1, 1, 16, 16, 18))


def test_gradients_pass_straight_through_and_commitment_pulls_the_latent():
    network = autoencoder()
    z = torch.randn(1, 3, 2, 2, 2, requires_grad=True)
    weights = torch.randn(1, 3, 2, 2, 2)
    q, commitment, perplexity = network.vq(z)
    expected, codes = network.quantise(z)
    torch.testing.assert_close(q, expected)
    assert torch.equal(torch.autograd.grad((q * weights).sum(), z)[0], weights)
    _, commitment, _ = network.vq(z)
    torch.testing.assert_close(commitment, 0.25 * (z - expected).square().mean())
    torch.testing.assert_close(torch.autograd.grad(commitment, z)[0], 0.25 * 2 * (z - expected).detach() / z.numel())
    shares = torch.unique(codes, return_counts=True)[1] / codes.numel()
    torch.testing.assert_close(perplexity, torch.exp(-(shares * shares.log()).sum()), rtol=1e-4, atol=1e-4)


def test_every_weight_of_the_autoencoder_can_be_trained():
    network = autoencoder(condition_channels=2).train()
    images = torch.randn(2, 1, 8, 8, 8)
    made, commitment, _ = network(images, torch.rand(2, 2, 8, 8, 8))
    ((made - images).square().mean() + commitment).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_codebook_is_fp32_under_autocast():
    network = autoencoder().train()
    with torch.autocast("cpu", torch.bfloat16):
        z = network.encode(torch.randn(1, 1, 8, 8, 8))
        q, commitment, _ = network.vq(z)
        codes = network.quantise(z)[1]
    assert z.dtype == torch.bfloat16
    assert {q.dtype, commitment.dtype, network.codebook.dtype, network.ema_sum.dtype} == {torch.float32}
    assert torch.equal(codes, network.quantise(z.float())[1])


def test_the_averages_of_the_codebook_are_those_of_monai():
    """Restarts off. MONAI's smoothing of the counts is the difference that the tolerance allows."""
    network = autoencoder(restart_threshold=0.0).train()
    reference = EMAQuantizer(3, 32, 3, decay=0.99).train()
    torch.manual_seed(3)
    codes = torch.randn(32, 3)
    for target in (network.codebook, network.ema_sum, reference.embedding.weight.data, reference.ema_w):
        target.data.copy_(codes)
    network.ema_count.fill_(1.0)
    reference.ema_cluster_size.fill_(1.0)
    for _ in range(5):
        z = torch.randn(2, 3, 4, 4, 4)
        q, commitment, _ = network.vq(z)
        expected, loss, _ = reference(z)
        torch.testing.assert_close(q, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(commitment, loss, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(network.codebook, reference.embedding.weight.data, rtol=1e-3, atol=1e-4)
    assert (network.codebook - codes).abs().max() > 1e-2


def test_unused_codes_move_to_latents_and_used_ones_do_not():
    network = autoencoder().train()
    torch.manual_seed(3)
    latents = torch.randn(2, 3, 4, 4, 4)
    network.vq(latents)
    rows = latents.movedim(1, -1).reshape(-1, 3)
    network.codebook[:16] = network.ema_sum[:16] = 100.0  # far from every latent
    network.ema_count[:16] = 1.0
    network.ema_sum[16:] = network.codebook[16:]
    network.ema_count[16:] = 1.0
    before = network.codebook.clone()
    used = torch.bincount(network.quantise(latents)[1].flatten(), minlength=32) > 0
    assert 5 < used.sum() <= 16
    network.vq(latents)
    among = (network.codebook[:, None] == rows).all(dim=2).any(dim=1)
    assert among[~used].all() and (network.codebook[:16] < 10).all()
    # A used code has gone to 0.01 of the sum of its latents and 0.99 of itself, over a count of the same weights.
    codes = network_codes(before, rows)
    for code in torch.nonzero(used).flatten():
        mine = rows[codes == code]
        count = 0.99 + 0.01 * len(mine)
        expected = (0.99 * before[code] + 0.01 * mine.sum(dim=0)) / count
        torch.testing.assert_close(network.codebook[code], expected, rtol=1e-4, atol=1e-5)


def network_codes(codebook: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.cdist(rows.double(), codebook.double()).argmin(dim=1)


def test_a_code_in_use_outlives_batches_without_it():
    network = autoencoder().train()
    network.vq(torch.randn(2, 3, 4, 4, 4))
    network.codebook[0] = 5.0
    network.ema_count[0], network.ema_sum[0] = 10.0, 50.0
    for _ in range(20):  # 10 x 0.99^20 is 8.2, still above the threshold of 1
        network.vq(torch.randn(2, 3, 4, 4, 4).clamp(-1, 1))
    torch.testing.assert_close(network.codebook[0], torch.full((3,), 5.0))
    assert network.ema_count[0].item() == pytest.approx(10 * 0.99**20)


def test_nothing_moves_outside_training():
    network = autoencoder()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    network.vq(torch.randn(2, 3, 4, 4, 4))
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


@pytest.mark.parametrize("averages", [True, False])
def test_a_state_with_or_without_averages_can_be_loaded_and_trained_on(averages):
    source = autoencoder().train()
    source.vq(torch.randn(2, 3, 4, 4, 4))
    state = {name: t for name, t in source.state_dict().items() if averages or not name.startswith("ema_")}
    assert "codebook" in state
    given = set(state)
    loaded = autoencoder()
    loaded.load_state_dict(state)
    assert set(state) == given
    z = torch.randn(1, 3, 2, 2, 2)
    assert torch.equal(loaded.quantise(z)[1], source.quantise(z)[1])
    used = torch.unique(loaded.quantise(z)[1])
    loaded.train().vq(z)  # goes on from the codes: no code begins anew that is in use
    torch.testing.assert_close(loaded.codebook[used], source.codebook[used], rtol=0.2, atol=0.2)
    with pytest.raises(RuntimeError, match="codebook"):
        autoencoder().load_state_dict({name: t for name, t in state.items() if name != "codebook"})


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("FactorisedUNet", {"mask_downsampling": 8}, "mask_downsampling must be one of"),
        ("FactorisedUNet", {"head_channels": 5}, "head_channels must be even"),
        ("FactorisedUNet", {"norm_groups": 3}, "divisible"),
        ("FactorisedUNet", {"colour": "red"}, "colour"),
        ("VqGan", {"downsampling": 3}, "power of two, not 3"),
        ("VqGan", {"downsampling": 0}, "power of two, not 0"),
        ("VqGan", {"hidden": 6}, "divisible"),
    ],
)
def test_networks_that_cannot_be_are_refused(name, change, reason):
    arguments = {"FactorisedUNet": UNET, "VqGan": AUTOENCODER | {"norm_groups": 8}}[name]
    with pytest.raises(ModelError, match=reason):
        build_network(NetworkSpec(name, arguments | change))
