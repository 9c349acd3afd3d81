"""The denoiser and the segmenter: shapes, counts, and what averaged skip connections mean for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from SynthDiffusionLib.backends.patch_ddpm import COORDINATE_CHANNELS, IMAGE_CHANNELS, assemble_input, build_network
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.networks.patch_unet import PatchUNet
from SynthDiffusionLib.networks.segmenter import build_segmenter, segment
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.training.config import load_config


def random_network(channels=(8, 8, 16), in_channels=3, seed=0, **options) -> PatchUNet:
    """With no layer at zero: the head begins there, and so does the second convolution of MONAI's residual blocks."""
    torch.manual_seed(seed)
    network = PatchUNet(in_channels, channels=channels, norm_groups=options.pop("norm_groups", 4), **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network


def resnet_parameters(n: int, width: int) -> int:
    """Of MONAI's residual block from n to n channels: two norms, two 3x3x3 convolutions, the time's linear map."""
    return 2 * 2 * n + 2 * (27 * n * n + n) + (width * n + n)


def test_the_shipped_network_has_3_197_601_parameters():
    """Counted from the layers' formulas, and by torch."""
    config = load_config(resource_path("Training", "lung-nodule-ct.toml"))
    scheme = load_scheme(config.label_scheme)
    network = build_network(config.network, scheme)
    channels, width = (32, 64, 96, 96), 128
    inputs = IMAGE_CHANNELS + COORDINATE_CHANNELS + 4  # body, lung, bone, nodule; "remove" is no condition
    expected = (32 * width + width) + (width * width + width) + (27 * inputs * 32 + 32)
    expected += 2 * sum(resnet_parameters(n, width) for n in channels) + resnet_parameters(96, width)
    expected += sum(a * b + b + a * b + a for a, b in zip(channels, channels[1:]))
    expected += 2 * 32 + (27 * 32 + 1)
    assert sum(p.numel() for p in network.parameters()) == expected == 3_197_601
    assert network.divisor == 8


@pytest.mark.parametrize("shape", [(8, 8, 8), (16, 8, 12), (4, 20, 8)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_output_has_the_size_of_the_input(shape, blocks):
    network = random_network(blocks_per_level=blocks)
    assert network.divisor == 4
    with torch.no_grad():
        out = network(torch.randn(2, 3, *shape), torch.tensor([3, 800]))
    assert out.shape == (2, 1, *shape) and torch.isfinite(out).all()


def test_a_fresh_network_says_zero():
    network = PatchUNet(3, channels=(8, 16), norm_groups=4)
    with torch.no_grad():
        out = network(torch.randn(2, 3, 8, 8, 8), torch.tensor([0, 999]))
    assert not out.any()


def test_gradients_reach_every_parameter():
    network = random_network().train()
    network(torch.randn(2, 3, 8, 8, 8), torch.tensor([5, 500])).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_time_steps_and_all_channels_matter():
    network = random_network()
    x = torch.randn(1, 3, 8, 8, 8)
    with torch.no_grad():
        base = network(x, torch.tensor([100]))
        assert (network(x, torch.tensor([900])) - base).abs().max() > 1e-3
        for channel in range(3):
            changed = x.clone()
            changed[:, channel] += 1
            assert (network(changed, torch.tensor([100])) - base).abs().max() > 1e-3


def test_skips_are_averaged_not_concatenated():
    """Decoder convolutions take no more channels than their level has; and a level's decoder is handed the mean of
    what comes from below and of the encoder's features."""
    network = random_network()
    for depth, blocks in enumerate(network.decoder):
        for module in blocks.modules():
            if isinstance(module, nn.Conv3d):
                assert module.in_channels == module.out_channels == network.channels[depth]
    seen = {}
    network.encoder[0][-1].register_forward_hook(lambda m, i, o: seen.update(skip=o))
    network.narrow[0].register_forward_hook(lambda m, i, o: seen.update(below=o))
    network.decoder[0][0].register_forward_hook(lambda m, i, o: seen.update(mixed=i[0]))
    with torch.no_grad():
        network(torch.randn(1, 3, 8, 8, 8), torch.tensor([10]))
    up = seen["below"].repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    torch.testing.assert_close(seen["mixed"], (up + seen["skip"]) / 2)


def test_shifted_input_gives_shifted_output_away_from_the_border():
    """Fully convolutional: nothing but the coordinate channels and the border tells a voxel where it is. Holds for
    shifts by the divisor; group normalisation sees the whole volume, so the content must be the same: a wave of that
    period. The border is replaced by wrapping round, which makes the property exact."""
    network = random_network()
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [1] * 6
    torch.manual_seed(1)
    x = torch.randn(1, 3, 16, 16, 16)
    with torch.no_grad():
        out = network(x, torch.tensor([50]))
        for shift in ((4, 0, 0), (0, 8, 4)):
            moved = network(x.roll(shift, (2, 3, 4)), torch.tensor([50]))
            torch.testing.assert_close(moved, out.roll(shift, (2, 3, 4)), atol=1e-5, rtol=1e-4)
        odd = network(x.roll((1,), (2,)), torch.tensor([50]))
        assert (odd - out.roll((1,), (2,))).abs().max() > 1e-3, "the network does not pool at all"


def test_input_channels_have_their_order():
    """The weights rely on it: noisy image, coordinates, classes, known image, known mask."""
    pieces = [torch.full((1, n, 2, 2, 2), float(i)) for i, n in enumerate((1, 3, 4, 1, 1))]
    stacked = assemble_input(*pieces)
    assert stacked[0, :, 0, 0, 0].tolist() == [0, 1, 1, 1, 2, 2, 2, 2, 3, 4]


def test_pieces_of_different_batches_do_not_stack():
    with pytest.raises(RuntimeError):
        assemble_input(*[torch.zeros(2 if i == 3 else 1, 1, 2, 2, 2) for i in range(5)])


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 16, 9), (17, 8, 23)])
def test_segmenter_takes_any_size(shape):
    torch.manual_seed(0)
    network = build_segmenter((4, 8, 8)).eval()
    mask = segment(network, torch.randn(shape))
    assert mask.shape == shape and mask.dtype == torch.bool


def test_segmenter_pads_by_repeating_the_border_and_cuts_it_off():
    torch.manual_seed(0)
    network = build_segmenter((4, 8)).eval()
    image = torch.randn(6, 7, 8)
    padded = torch.cat([image, image[:, -1:]], dim=1)
    with torch.inference_mode():
        logits = network(padded[None, None])[0, 0]
    mask = segment(network, image)
    assert torch.equal(mask, logits[:, :7] > 0)
    assert 0 < mask.float().mean() < 1


def test_segmenter_sees_the_image_alone():
    """One input channel and one output channel, at the shipped width: it is given no coordinates."""
    network = build_segmenter((16, 32, 64, 96))
    first = next(m for m in network.modules() if isinstance(m, nn.Conv3d))
    assert first.in_channels == 1
    assert network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 1, 16, 16, 16)
    assert sum(p.numel() for p in network.parameters()) < 600_000
