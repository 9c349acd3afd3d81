"""MONAI's own splitting of MAISI's autoencoder is wrong without an error where sizes do not divide. Ours is not."""

from __future__ import annotations

import pytest
import torch
from streamed_examples import MAISI, build, deviation

from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.streaming import Streaming, decode, encode

SLABS = Streaming(slab_bytes=200_000)


@pytest.fixture(scope="module")
def whole():
    return build("maisi")


def split(whole: torch.nn.Module, splits: int) -> torch.nn.Module:
    """The same weights, computed by MONAI in so many slabs along the first axis."""
    network = build_network(NetworkSpec.from_json(MAISI | {"num_splits": splits, "dim_split": 0})).eval()
    network.load_state_dict(whole.state_dict())
    return network


def test_both_are_right_where_sizes_divide(whole):
    """So what is compared is the same computation."""
    z = torch.randn((1, 4, 16, 6, 5), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = whole.decode(z)
        assert deviation(split(whole, 4).decode(z), expected) <= 1e-5
        assert deviation(decode(whole, z, SLABS), expected) <= 1e-5


@pytest.mark.parametrize(("size", "splits"), [(14, 4), (18, 4), (17, 2), (19, 3)])
def test_decoding(whole, size, splits):
    """MONAI's volume is too short, and nothing says so."""
    z = torch.randn((1, 4, size, 6, 5), generator=torch.Generator().manual_seed(size))
    with torch.inference_mode():
        expected, theirs = whole.decode(z), split(whole, splits).decode(z)
        assert theirs.shape != expected.shape
        assert deviation(decode(whole, z, SLABS), expected) <= 1e-5


def test_encoding_to_the_right_shape_with_wrong_values(whole):
    """The worst of it: 50 voxels in two slabs give latents of the right shape."""
    image = torch.rand((1, 1, 50, 24, 20), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected, theirs = whole.encode(image)[0], split(whole, 2).encode(image)[0]
        assert theirs.shape == expected.shape
        assert deviation(theirs, expected) > 0.05
        assert deviation(encode(whole, image, SLABS)[0], expected) <= 1e-5
