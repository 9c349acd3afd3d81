"""Convolutions in slabs against PyTorch's own, and embeddings of drawings against the networks that make them whole."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from SynthDiffusionLib.models.presets import load_preset
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.chunked_convolution import chunk_convolutions, embed_by_slabs

CONVOLUTIONS = [
    nn.Conv3d(3, 5, 3, padding=1),
    nn.Conv3d(4, 6, 3, stride=2, padding=1, groups=2),
    nn.Conv3d(4, 6, (3, 5, 3), stride=(2, 3, 1), padding=(1, 4, 0), dilation=(2, 1, 1)),
    nn.Conv3d(4, 2, (5, 1, 1), stride=(3, 1, 1), padding=(4, 0, 0), bias=False),
    nn.Conv3d(4, 2, 1),
]


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def largest_call(monkeypatch):
    """Elements of the largest input of a convolution."""
    largest = [0]
    original = F.conv3d

    def noted(x, *arguments):
        largest[0] = max(largest[0], x.numel())
        return original(x, *arguments)

    monkeypatch.setattr(F, "conv3d", noted)
    return largest


@pytest.mark.parametrize("elements", [1, 700, 4000, None])
@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_slabs_are_the_convolution(conv, elements, largest_call):
    x = _noise(2, conv.in_channels, 13, 7, 9)
    network = nn.Sequential(copy.deepcopy(conv))
    chunk_convolutions(chunk_convolutions(network, 10), elements)  # the second size counts
    assert list(network.state_dict()) == [f"0.{name}" for name in conv.state_dict()]
    with torch.inference_mode():
        found = network(x)
        slabs = largest_call[0]
        expected = conv(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (slabs < x.numel()) == (elements in (1, 700)) or elements == 4000


def test_a_network_in_slabs_gives_the_same(largest_call):
    """The denoiser of a preset's class, at a small width."""
    spec = {
        "class": "DiffusionModelUNet",
        "spatial_dims": 3,
        "in_channels": 4,
        "out_channels": 4,
        "channels": [8, 8],
        "num_res_blocks": [1, 1],
        "attention_levels": [False, True],
        "num_head_channels": 8,
        "norm_num_groups": 4,
    }
    network = build_network(NetworkSpec.from_json(spec)).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    x, time = _noise(1, 4, 8, 6, 10), torch.tensor([7])
    with torch.inference_mode():
        expected = network(x, time)
        largest_call[0] = 0
        chunk_convolutions(network, 1000)
        found = network(x, time)
        assert largest_call[0] < 8 * x[0, 0].numel()  # of a map of 8 channels
        whole = chunk_convolutions(network, None)(x, time)
    span = float(expected.max() - expected.min())
    assert float((found - expected).abs().max()) <= 1e-5 * span
    assert float((whole - expected).abs().max()) <= 1e-6 * span


@pytest.mark.parametrize("preset", ["maisi-rflow", "medlord-x4", "medlord-x8"])
@pytest.mark.parametrize("slabs", [2, 3, 7])
def test_embeddings_of_the_presets_in_slabs(preset, slabs):
    """At the width and depth of the presets: the margin of a slab must reach as far as their convolutions do."""
    network = build_network(load_preset(preset).controlnet)
    maisi = preset.startswith("maisi")
    layers = network.controlnet_cond_embedding if maisi else network.embedding
    factor = 4 if maisi else network.downsampling
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in layers.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.1))
    channels = next(layers.parameters()).shape[1]
    drawing = _noise(1, channels, 15 * factor, 2 * factor, 3 * factor)
    with torch.inference_mode():
        expected, found = layers(drawing), embed_by_slabs(layers, drawing, factor, slabs)
        short = embed_by_slabs(layers, drawing, factor, slabs, reach=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert float((short - expected).abs().max()) > 1e-2  # without a margin there would be seams


def test_sides_that_the_factor_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        embed_by_slabs(nn.Identity(), torch.zeros(1, 1, 6, 4, 4), 4, 2)
