"""The counts behind `synthdiffusion plan` for Med-LSDM and the slice-based model: real networks, tensor by tensor."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from live_tensors import peak_bytes
from tiny_med_lsdm import SECTIONS as LSDM
from tiny_package import DESCRIPTION
from tiny_slice_ldm import SECTIONS as SLICES
from tiny_slice_ldm import tiny_characteristics

from SynthDiffusionLib.memory import counted, table
from SynthDiffusionLib.memory.outlook import look_ahead
from SynthDiffusionLib.models.spec import FORMAT, ModelSpec, NetworkSpec, WindowsSpec
from SynthDiffusionLib.networks.build import build_network

ROOT = Path(__file__).resolve().parents[2]


def spec_of(sections, **networks) -> ModelSpec:
    """A tiny package's description with the arguments of some networks changed; the published ones where it says so."""
    data = copy.deepcopy(DESCRIPTION | sections | {"format": FORMAT, "files": []})
    for section in ("inpaint", "segmenter", "characteristics"):
        data.pop(section, None)
    if "joint" in data["modes"]:
        data["characteristics"] = tiny_characteristics().to_json()
    spec = ModelSpec.from_json(data, preset=True)
    changed = {}
    for name, parameters in networks.items():
        network = getattr(spec, name)
        changed[name] = NetworkSpec(network.name, {**network.parameters, **parameters})
    return dataclasses.replace(spec, **changed)


PUBLISHED = {"channels": [64, 128, 256, 512], "spade_hidden": 128, "mask_channels": 32, "heads": 8, "head_channels": 32}
PUBLISHED |= {"norm_groups": 8, "blocks_per_level": 2}
NETWORKS = (
    {},
    PUBLISHED,
    PUBLISHED | {"channels": [32, 64, 128], "blocks_per_level": 1},
    PUBLISHED | {"channels": [64, 128], "heads": 4},
)


def lsdm(network=None, autoencoder=None, **changes) -> ModelSpec:
    spec = spec_of(LSDM, network=network or {}, autoencoder=autoencoder or {})
    return dataclasses.replace(spec, **changes)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_denoiser_of_med_lsdm(network):
    spec, (i, j, k) = (
        lsdm(network, windows=None, controls=dataclasses.replace(lsdm().controls, guidance=False)),
        (64, 64, 8),
    )
    assert k * 4 == 32

    def build():
        net = build_network(spec.network)
        modulations = net.modulate(torch.zeros(1, spec.network.parameters["mask_channels"], i, j, k))
        latent, step = torch.zeros(1, 3, i, j, k), torch.zeros(1)
        return lambda x, t, *held: net(x, t, modulations=held), [latent, step, *modulations]

    found = peak_bytes(build)
    assert counted.counted_bytes(spec, "denoise", (4 * i, 4 * j, 4 * k), False) == pytest.approx(found, rel=0.2)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_drawing_of_med_lsdm(network):
    spec = lsdm(network, windows=None, controls=dataclasses.replace(lsdm().controls, guidance=False))
    masks, (i, j, k) = spec.network.parameters["mask_channels"], (128, 128, 32)
    embedding = peak_bytes(lambda: (build_network(spec.network).embed, [torch.zeros(1, 4, i, j, k)]))
    features = torch.Size((1, masks, i // 4, j // 4, k // 4))

    def held():
        net = build_network(spec.network)
        return net.modulate, [torch.zeros(features)]

    modulating = peak_bytes(held)
    found = counted.counted_bytes(spec, "condition", (i, j, k), False)
    # Counted as one sum: the masks of a window are embedded while the modulations of others are held.
    assert max(embedding, modulating) <= 1.02 * found <= 1.1 * (embedding + modulating)


@pytest.mark.parametrize(
    "autoencoder",
    [
        {"hidden": 16, "norm_groups": 32, "num_embeddings": 256},
        {"hidden": 32, "norm_groups": 32, "num_embeddings": 256},
        {"hidden": 16, "norm_groups": 32, "condition_channels": 4, "num_embeddings": 256},
        {"hidden": 8, "norm_groups": 8, "condition_channels": 4, "num_embeddings": 256},
    ],
)
def test_the_decoder_of_med_lsdm(autoencoder):
    spec, (i, j, k) = lsdm(autoencoder=autoencoder), (64, 64, 32)

    def build():
        net = build_network(spec.autoencoder)
        masks = [torch.zeros(1, 4, i, j, k)] if autoencoder.get("condition_channels") else []
        return net.decode, [torch.zeros(1, 3, i // 4, j // 4, k // 4), *masks]

    found = peak_bytes(build)
    assert counted.counted_bytes(spec, "decode", (i, j, k), False) == pytest.approx(found, rel=0.1)


def test_the_distances_to_the_codebook():
    spec = lsdm(autoencoder={"num_embeddings": 16384})

    def build():
        net = build_network(spec.autoencoder)
        return net.quantise, [torch.zeros(1, 3, 32, 32, 8)]

    found = counted.counted_bytes(spec, "decode", (128, 128, 32), False)
    assert found == 3 * 4 * 8192 * 16384
    assert found == pytest.approx(peak_bytes(build), rel=0.02)


@pytest.mark.parametrize(("channels", "blocks"), [([64, 128, 256, 512], 1), ([64, 128, 256, 512], 2), ([32, 64], 1)])
def test_the_denoiser_of_the_slice_based_model(channels, blocks):
    spec = spec_of(SLICES, network={"channels": channels, "num_res_blocks": blocks, "norm_num_groups": 8})

    def build():
        net = build_network(spec.network)
        net.unet.class_embedding = net.unet.class_embedding.mlp  # its check of the values needs values
        inputs = [torch.zeros(1, 3, 24, 24, 96), torch.zeros(1), torch.zeros(1, 9)]
        return lambda x, t, c: net.unet(x, t, class_labels=c), inputs

    found = counted.counted_bytes(spec, "denoise", (48, 48, 96), False)
    assert found == pytest.approx(peak_bytes(build), rel=0.1)


@pytest.mark.parametrize(("channels", "strides"), [([128, 256, 384, 512], [1, 2, 2, 2]), ([32, 64], [1, 2])])
def test_the_decoder_of_the_slice_based_model(channels, strides):
    spec = spec_of(SLICES, autoencoder={"channels": channels, "strides": strides, "norm_groups": 8, "slices": 96})
    n, factor = counted.SLICES_AT_A_TIME, math.prod(strides)

    def build():
        net = build_network(spec.autoencoder)
        return lambda z: net.decode_volume(z, n), [torch.zeros(1, 3, 96 // factor, 96 // factor, 96)]

    found = counted.counted_bytes(spec, "decode", (96, 96, 96), False)
    assert found == pytest.approx(peak_bytes(build), rel=0.1)


def test_as_many_slices_are_counted_as_are_decoded_at_a_time():
    from SynthDiffusionLib.backends import slice_ldm

    assert counted.SLICES_AT_A_TIME == slice_ldm.SLICES_AT_A_TIME


def test_the_refiner_of_the_slice_based_model():
    spec = spec_of(SLICES, refiner={"channels": [64, 24], "blocks": 2})

    def build():
        return build_network(spec.refiner).refine, [torch.zeros(1, 2, 48, 48, 24)]

    assert counted.counted_bytes(spec, "refine", (48, 48, 24), False) == pytest.approx(peak_bytes(build), rel=0.05)
    without = dataclasses.replace(spec, refiner=None)
    assert [s.name for s in table.stages(spec, (48, 48, 24), "fp32")] == ["denoise", "decode", "refine"]
    assert [s.name for s in table.stages(without, (48, 48, 24), "fp32")] == ["denoise", "decode"]


def test_windows_bound_the_denoiser_and_with_finished_ones_the_decoder():
    by_depth = {}
    for join in ("steps", "samples"):
        spec = lsdm(PUBLISHED, windows=WindowsSpec(32, 16, join))
        for depth in (32, 64, 128):
            found = table.stages(spec, (256, 256, depth), "fp32", margin=1.0)
            by_depth[join, depth] = {stage.name: stage.working_bytes for stage in found}
    for name in ("condition", "denoise", "decode"):
        assert by_depth["samples", 64][name] == by_depth["samples", 128][name]
    steps = [by_depth["steps", depth] for depth in (32, 64, 128)]
    assert steps[0] == by_depth["samples", 32]
    assert steps[2]["decode"] == 4 * steps[0]["decode"]
    # Three windows and seven, beside what one takes: their modulations are held, 1,264 values a voxel of the latent.
    held = 1264 * 64 * 64 * 8 * 4
    assert [s["denoise"] - steps[0]["denoise"] for s in steps] == [0, 2 * held, 6 * held]


def test_the_source_says_that_nothing_was_measured():
    for spec in (lsdm(), spec_of(SLICES)):
        for stage in table.stages(spec, (48, 48, 32), "bf16"):
            assert stage.source == table.COUNTED and "not measured" in stage.source


def test_autocast_is_not_counted_below_what_it_takes():
    """It normalises in 32 bits: half of fp32 would be too little."""
    spec, grid = lsdm({}, {"hidden": 16, "norm_groups": 32, "num_embeddings": 256}), (64, 64, 32)

    def build():
        net = build_network(spec.autoencoder)

        def decode(z):
            with torch.autocast("cpu", torch.bfloat16):
                return net.decode(z)

        return decode, [torch.zeros(1, 3, 16, 16, 8)]

    found = peak_bytes(build)
    assert found <= 1.05 * counted.counted_bytes(spec, "decode", grid, True) <= 1.3 * found


def test_a_look_ahead_finds_the_largest_size_without_torch():
    code = (
        "import sys\n"
        "sys.path.insert(0, 'Testing/Engine')\n"
        "import json\n"
        "from SynthDiffusionLib.memory.outlook import look_ahead\n"
        "from SynthDiffusionLib.models.spec import ModelSpec\n"
        "spec = ModelSpec.from_json(json.load(sys.stdin), preset=True)\n"
        "found = look_ahead(spec, spec.grid.default_size, parameters={})\n"
        "assert found.fits and found.largest == (48, 48, 48), found\n"
        "assert not {'torch', 'monai'} & set(sys.modules)\n"
    )
    data = json.dumps(lsdm().raw)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120, input=data, text=True)


def test_sizes_of_a_model_with_one_depth_keep_it():
    grid = dataclasses.replace(spec_of(SLICES).grid, min_size=(32, 32, 40), max_size=(96, 96, 40), divisor=16)
    spec = dataclasses.replace(spec_of(SLICES), grid=grid)
    assert list(table.allowed_sizes(spec)) == [(n, n, 40) for n in (32, 48, 64, 80, 96)]
    assert look_ahead(spec, (96, 96, 40), parameters={}).largest == (96, 96, 40)
