"""Streamed decoding and encoding against the networks' own, at random sizes and in every way."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from streamed_examples import NETWORKS, WAYS, build, decoded, deviation, factor, latents, masks
from torch import nn

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.networks.codebook import nearest_codes
from SynthDiffusionLib.networks.streaming import Streaming, decode, encode, stores
from SynthDiffusionLib.networks.streaming.calls import Call, Layer
from SynthDiffusionLib.networks.streaming.moments import Moments
from SynthDiffusionLib.networks.streaming.nodes import normalise

EXACT = 1e-4  # of the range: what is asked; found are some 1e-6
FOUND = 1e-5


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Maps of the tests' sizes lie in several blocks, as full-size ones do."""
    monkeypatch.setattr(stores, "SMALLEST_BLOCK", 2_000)


@pytest.fixture(scope="module", params=list(NETWORKS))
def network(request):
    return request.param, build(request.param)


def sizes(seed: int, count: int, largest: int, total: int) -> list[tuple[int, int, int]]:
    """Random sides from 1 to `largest`; the product at most `total`."""
    generator = torch.Generator().manual_seed(seed)
    found = [(1, 1, 1)]
    while len(found) < count:
        sides = tuple(int(n) for n in torch.randint(1, largest + 1, (3,), generator=generator))
        if math.prod(sides) <= total:
            found.append(sides)
    return found


@pytest.mark.parametrize("way", list(WAYS))
def test_decoding_is_exact(network, way):
    name, net = network
    generator = torch.Generator().manual_seed(11)
    for sides in sizes(seed=len(way), count=6, largest=9, total=80):
        z, drawn = latents(name, sides, generator), masks(name, sides, generator)
        with torch.inference_mode():
            expected = decoded(net, z, drawn)
            assert deviation(decode(net, z, WAYS[way], drawn), expected) <= FOUND < EXACT, sides


@pytest.mark.parametrize("way", list(WAYS))
def test_encoding_is_exact(network, way):
    """Also of sides that nothing divides, where the network takes them."""
    name, net = network
    generator = torch.Generator().manual_seed(12)
    for sides in sizes(seed=2 * len(way), count=5, largest=5, total=30):
        n = factor(name)
        rest = 0 if name.startswith("vq-gan") else int(torch.randint(0, n, (1,), generator=generator))
        image = torch.rand((1, 1, *(n * side + rest for side in sides)), generator=generator)
        with torch.inference_mode():
            expected, found = net.encode(image), encode(net, image, WAYS[way])
        if isinstance(expected, torch.Tensor):
            expected, found = (expected,), (found,)
        assert len(expected) == len(found)
        for a, b in zip(found, expected):
            assert deviation(a, b) <= FOUND < EXACT, (sides, rest)


def test_codes_are_the_same():
    """A latent between two codes could go either way by rounding; none of a few thousand does."""
    net = build("vqvae")
    generator = torch.Generator().manual_seed(5)
    image = torch.rand((1, 1, 50, 62, 46), generator=generator)
    codebook = net.quantizer.quantizer.embedding.weight
    with torch.inference_mode():
        expected, found = net.encode(image), encode(net, image, Streaming(slab_bytes=10_000))
        codebook.copy_(expected.std() * codebook + expected.mean((0, 2, 3, 4)))  # so that many are used
        codes = nearest_codes(codebook, expected)
    assert len(codes.unique()) > 20
    differing = float((nearest_codes(codebook, found) != codes).float().mean())
    assert differing <= 1e-3


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", ["slabs", "all anew", "host"])
def test_16_bits_differ_by_their_own_rounding(network, way, precision):
    """No further from fp32 than the network's own result in 16 bits, nearly."""
    name, net = network
    generator = torch.Generator().manual_seed(13)
    plain, streamed = [], []
    for sides in [(3, 4, 5), (6, 3, 2), (5, 5, 1)]:
        z, drawn = latents(name, sides, generator), masks(name, sides, generator)
        with torch.inference_mode():
            expected = decoded(net, z, drawn)
            with torch.autocast("cpu", precision):
                whole, ours = decoded(net, z, drawn), decode(net, z, WAYS[way], drawn)
        assert ours.dtype == whole.dtype == precision
        span = float(expected.max() - expected.min())
        plain.append(float((whole - expected).pow(2).mean().sqrt()) / span)
        streamed.append(float((ours - expected).pow(2).mean().sqrt()) / span)
    assert max(streamed) <= 1.5 * max(plain)
    assert max(streamed) > 0.0


def test_items_of_a_batch_have_moments_of_their_own(network):
    name, net = network
    generator = torch.Generator().manual_seed(14)
    z, drawn = latents(name, (4, 3, 2), generator, batch=2), masks(name, (4, 3, 2), generator, batch=2)
    z[1] = 3.0 * z[1] + 2.0
    with torch.inference_mode():
        assert deviation(decode(net, z, WAYS["slabs"], drawn), decoded(net, z, drawn)) <= FOUND


def test_moments_survive_a_large_mean():
    """Squares added up in fp32 would lose all of a deviation of 1 beside a mean of 3,000."""
    values = torch.randn((1, 6, 31, 8, 9), generator=torch.Generator().manual_seed(2)) + 3000.0
    values[:, :, 15:] -= 700.0
    norm = nn.GroupNorm(3, 6, eps=1e-6)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    moments = Moments()
    for slab in values.split(4, dim=2):
        moments.update(slab)
    with torch.no_grad():
        affine = moments.affine(norm)
        found = torch.empty_like(values)
        normalise(values, affine, found)
        expected = F.group_norm(values.double(), 3, norm.weight.double(), norm.bias.double(), 1e-6)
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.max() - expected.min())
    assert float((moments.squares / moments.count - values.double().var((0, 2, 3, 4), correction=0)).abs().max()) < 0.1


@pytest.mark.parametrize("limit", [700, 1500, 5000, 10**9])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv3d(5, 3, 3, padding=1),
        nn.Conv3d(4, 6, 3, stride=2, padding=1),
        nn.Conv3d(4, 6, (3, 5, 3), stride=(2, 3, 1), padding=(1, 4, 0), dilation=(1, 2, 1)),
        nn.Conv3d(4, 6, 1),
        nn.ConvTranspose3d(4, 2, 4, stride=2, padding=1),
        nn.ConvTranspose3d(4, 2, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose3d(2, 2, (3, 5, 2), stride=(1, 3, 2), padding=(0, 2, 0), output_padding=(0, 1, 0)),
    ],
    ids=str,
)
def test_calls_are_split_and_right(conv, limit, monkeypatch):
    """A convolution in pieces is the convolution; every call is below the limit."""
    x = torch.randn((1, conv.in_channels, 5, 13, 11), generator=torch.Generator().manual_seed(1))
    largest = []
    for name in ("conv3d", "conv_transpose3d"):
        original = getattr(F, name)

        def noted(x, *arguments, original=original):
            made = original(x, *arguments)
            largest.append(max(x.numel(), made.numel()))
            return made

        monkeypatch.setattr(F, name, noted)
    with torch.inference_mode():
        layer = Layer.of(conv)
        padding = layer.padding[0]
        if layer.transposed:  # rows of zeros make room for what it takes off and adds at the ends
            made = Call(layer, torch.float32, x.device, limit)(F.pad(x, (0, 0, 0, 0, 0, 1)))
            found = made[:, :, padding : padding + layer.size(tuple(x.shape[2:]))[0]]
        else:
            found = Call(layer, torch.float32, x.device, limit)(F.pad(x, (0, 0, 0, 0, padding, padding)))
        calls, largest[:] = list(largest), []
        expected = conv(x)
    assert deviation(found, expected) <= 1e-6
    assert max(calls) < limit
    assert len(calls) == 1 if limit == 10**9 else len(calls) > 1 or max(calls) > limit // 8


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(ModelError, match="cannot be streamed"):
        decode(nn.Conv3d(1, 1, 1), torch.zeros(1, 1, 2, 2, 2))
    net = build("vqvae")
    net.decoder.blocks[0].add_module("norm", nn.InstanceNorm3d(16))
    with pytest.raises(ModelError, match="InstanceNorm3d"):
        decode(net, torch.zeros(1, 8, 2, 2, 2))
    spade = build("vq-gan, spade")
    with pytest.raises(ValueError, match="label map"):
        decode(spade, torch.zeros(1, 8, 2, 2, 2))
    with pytest.raises(ValueError, match="label map"):
        decode(spade, torch.zeros(1, 8, 2, 2, 2), masks=torch.zeros(1, 3, 4, 4, 4))
    with pytest.raises(ValueError, match="multiples of 4"):
        encode(spade, torch.zeros(1, 1, 8, 8, 7))
