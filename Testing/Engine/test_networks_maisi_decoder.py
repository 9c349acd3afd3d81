"""MAISI's decoder in slabs, against MONAI's decoder with the same weights."""

from __future__ import annotations

import pytest
import torch

from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.maisi_decoder import LARGEST_CALL, replace_layers, safe_splits, set_splits

AUTOENCODER = {
    "class": "AutoencoderKlMaisi",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "num_channels": [8, 8, 16],
    "num_res_blocks": [1, 1, 1],
    "norm_num_groups": 4,
    "attention_levels": [False, False, False],
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
    "num_splits": 4,  # as shipped, with the next two: the backend goes its own way
    "dim_split": 1,
    "norm_float16": True,
}


def build(**changes) -> torch.nn.Module:
    """A tiny autoencoder of MAISI's class, its weights fixed by a seed."""
    state = torch.random.get_rng_state()
    torch.manual_seed(3)
    network = build_network(NetworkSpec.from_json(AUTOENCODER | changes)).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape))  # also what begins at nought or one, as norms do
    torch.random.set_rng_state(state)
    return network


@pytest.fixture(scope="module")
def decoders():
    """MONAI's decoder whole, and the project's with the same weights."""
    monai = build(num_splits=1, norm_float16=False)
    ours = build()
    ours.load_state_dict(monai.state_dict())
    names = list(ours.state_dict())
    replace_layers(ours.decoder)
    assert list(ours.state_dict()) == names
    return monai.decoder, ours.decoder


# The first five are sizes at which MONAI's own splitting fails or gives a wrong volume without an error.
@pytest.mark.parametrize(
    ("size", "splits"), [(16, 8), (14, 4), (18, 4), (6, 4), (9, 2), (8, 1), (8, 2), (7, 3), (5, 5), (3, 7)]
)
def test_decoding_in_slabs_is_exact_at_any_size(decoders, size, splits):
    monai, ours = decoders
    z = torch.randn((1, 4, size, 4, 3), generator=torch.Generator().manual_seed(size))
    set_splits(ours, splits)
    with torch.inference_mode():
        expected, found = monai(z), ours(z)
    assert found.shape == expected.shape == (1, 1, 4 * size, 16, 12)
    assert float((found - expected).abs().max()) <= (0.0 if splits == 1 else 2e-5)


def test_monais_own_slabs_are_wrong_without_an_error():
    """Why they are not used: a result of the wrong size."""
    decoder = build(norm_float16=False).decoder
    with torch.inference_mode():
        assert decoder(torch.zeros(1, 4, 4, 14, 4)).shape != (1, 1, 16, 56, 16)


def test_slabs_keep_convolutions_below_the_limit(decoders):
    channels, small = (8, 8, 16), (12, 6, 5)
    _, ours = decoders
    largest = []

    def note(module, inputs, output):
        largest.append(max(inputs[0].numel(), output.numel()))

    hooks = [m.register_forward_hook(note) for m in ours.modules() if isinstance(m, torch.nn.Conv3d)]
    try:
        for limit in (10**9, 120_000, 60_000, 40_000):
            splits = safe_splits(small, 4, channels, "cuda:1", limit)
            largest.clear()
            set_splits(ours, splits)
            with torch.inference_mode():
                ours(torch.zeros(1, 4, *small))
            assert max(largest) < limit
            assert splits == 1 if limit == 10**9 else splits > 1
    finally:
        for hook in hooks:
            hook.remove()


def test_slabs_at_the_sizes_of_maisi():
    maisi = (64, 128, 256)
    assert safe_splits((128, 128, 64), 4, maisi, "cpu") == 1
    assert safe_splits((32, 32, 32), 4, maisi, "cuda:0") == 1
    # 128 channels at the full resolution of 256x256x256 are 2^31 elements exactly: one call too many.
    assert 128 * 256**3 == LARGEST_CALL and safe_splits((64, 64, 64), 4, maisi, "cuda:0") == 2
    # At 512x512x256, half of the resolution with 256 channels has 2^31 elements, all of it four times as many.
    assert safe_splits((128, 128, 64), 4, maisi, "cuda:0") == 5
