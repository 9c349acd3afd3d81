"""Gradients and results of convolutions on small grids under bf16 on the CPU, against fp32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from SynthDiffusionLib.networks.chunked_convolution import chunk_convolutions
from SynthDiffusionLib.networks.factorised_unet import FactorisedUNet
from SynthDiffusionLib.networks.small_grids import SmallGridConv3d, exact_on_small_grids


def gradients(network: nn.Module, inputs: tuple[torch.Tensor, ...], bf16: bool) -> dict[str, torch.Tensor]:
    network = copy.deepcopy(network)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        made = network(*inputs)
    made.float().square().mean().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(
    ("kernel", "size"), [((3, 3, 3), (2, 3, 8)), ((3, 3, 1), (2, 6, 8)), ((4, 4, 4), (3, 3, 2)), ((4, 4, 4), (1, 6, 6))]
)
def test_gradients_are_those_of_fp32_where_those_of_bf16_are_garbage(kernel, size):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv3d(16, 64, 1), nn.Conv3d(64, 64, kernel, padding=tuple(k // 2 for k in kernel)))
    image = (torch.randn(8, 16, *size),)
    guarded = exact_on_small_grids(copy.deepcopy(plain))
    assert list(guarded.state_dict()) == list(plain.state_dict()) and type(guarded[1]) is SmallGridConv3d
    right, found = gradients(plain, image, bf16=False), gradients(guarded, image, bf16=True)
    for name, gradient in right.items():
        assert (found[name] - gradient).norm() < 0.02 * gradient.norm(), name


@pytest.mark.parametrize("size", [(2, 3, 8), (1, 2, 4)])
def test_transposed_convolutions_are_guarded_too(size):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv3d(8, 32, 1), nn.ConvTranspose3d(32, 16, 4, stride=2, padding=1))
    guarded, image = exact_on_small_grids(copy.deepcopy(plain)), (torch.randn(8, 8, *size),)
    right, found = gradients(plain, image, bf16=False), gradients(guarded, image, bf16=True)
    for name, gradient in right.items():
        assert (found[name] - gradient).norm() < 0.02 * gradient.norm(), name


def test_a_whole_network_learns_from_its_smallest_crops():
    torch.manual_seed(0)
    network = FactorisedUNet(4, 4, (16, 16, 32), 3, 8, 8, heads=2, head_channels=8, blocks_per_level=1, norm_groups=8)
    nn.init.normal_(network.head.weight, std=0.1)
    inputs = torch.randn(4, 4, 8, 12, 8), torch.tensor([1, 100, 200, 400]), torch.rand(4, 3, 32, 48, 32).round()
    right = gradients(network, inputs, bf16=False)
    found = gradients(exact_on_small_grids(network), inputs, bf16=True)
    total = torch.cat([gradient.flatten() for gradient in right.values()])
    difference = torch.cat([(found[name] - gradient).flatten() for name, gradient in right.items()])
    assert difference.norm() < 0.1 * total.norm()


def test_large_grids_and_fp32_are_left_alone():
    convolution = exact_on_small_grids(nn.Conv3d(2, 2, 3, padding=1))
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(torch.randn(1, 2, 8, 8, 8)).dtype == torch.bfloat16
        assert convolution(torch.randn(1, 2, 2, 8, 8)).dtype == torch.bfloat16
    assert convolution(torch.randn(1, 2, 2, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("kernel", "padding"), [(2, 0), (3, 1), (4, 1)])
def test_results_are_those_of_fp32_where_a_side_shrinks_to_one(kernel, padding, chunked):
    """On a processor with AMX the plain convolution is wrong here; NaN in freed memory makes that show."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv3d(16, 16, kernel, 2, padding))
    guarded = exact_on_small_grids(copy.deepcopy(plain))
    if chunked:
        guarded = chunk_convolutions(guarded, 500)
    for last in (1, 2, 3):
        if last + 2 * padding < kernel:
            continue
        image = torch.randn(1, 16, 6, 12, last)
        for _ in range(3):
            [torch.full((n,), float("nan")) for n in (256, 4096, 65536)]
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                found = guarded(image)
            assert found.dtype == torch.bfloat16
            assert (found.float() - plain(image)).abs().max() < 0.02, (kernel, last)
