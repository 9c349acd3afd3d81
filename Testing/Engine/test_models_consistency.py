"""Descriptions whose networks, latent and grid do not fit each other, or that no memory holds: refused before anything
is built."""

from __future__ import annotations

import copy
import json
import time

import pytest
from test_models_spec import description, put
from tiny_latent import SECTIONS
from tiny_released import NETWORKS, tiny_preset

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models import ModelSpec, NetworkSpec
from SynthDiffusionLib.models.presets import load_preset, preset_ids
from SynthDiffusionLib.networks.build import LARGEST_NETWORK, build_network, count_parameters
from SynthDiffusionLib.resources import resource_path

RULES = {"in_plane": [256, 384, 512], "through_plane": [128, 256]}


def medlord():
    data = description(**copy.deepcopy(SECTIONS))
    data.pop("inpaint")
    data["files"] = []
    return data


def maisi():
    return copy.deepcopy(load_preset("maisi-rflow").raw)


def said_of(data):
    with pytest.raises(ModelError) as caught:
        ModelSpec.from_json(data, "x/model.json", preset=True)
    assert len(caught.value.one_line()) < 400
    return caught.value.one_line()


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("latent", "channels"), 4, "'network.in_channels' is 3, but latent.channels is 4"),
        (("network", "out_channels"), 6, "'network.out_channels' is 6"),
        (("autoencoder", "embedding_dim"), 4, "'autoencoder.embedding_dim' is 4, but latent.channels is 3"),
        (("latent", "downsampling"), 8, "but latent.downsampling is 8"),
        (("network", "in_channels"), "3\n" * 500, "'network.in_channels' is 3 3 3"),
        (("network", "class"), "A" * 500, "for the backend medlord, not AAA"),
        (("autoencoder", "downsample_parameters"), [[2, 4, 1, 1], [4, 4, 1, 1]], "the autoencoder's is 8"),
        (("autoencoder", "downsample_parameters"), [2, 4], "the autoencoder's is not described"),
        (("controlnet", "downsampling"), 2, "'controlnet.downsampling' is 2, but latent.downsampling is 4"),
        (("controlnet", "condition_channels"), 2, "the number of classes that condition is 3"),
        (("label_scheme", 0, "role"), "remove", "the number of classes that condition is 2"),
        (("controlnet", "in_channels"), 4, "'controlnet.in_channels' is 4"),
        (("controlnet", "unet_channels"), [8, 8], "'controlnet.unet_channels' is [8, 8]"),
        (("network", "class"), "PatchUNet", "'network.class' must be DiffusionModelUNet for the backend medlord"),
        (("autoencoder", "class"), "AutoencoderKlMaisi", "'autoencoder.class' must be VQVAE"),
        (("controlnet", "class"), "ControlNetMaisi", "'controlnet.class' must be SlimControlNet"),
        (("backend",), "maisi", "for the backend maisi, not DiffusionModelUNet"),
        (("backend",), "patch_ddpm", "'network.class' must be PatchUNet"),
        (("grid", "default_size"), [64, 16, 16], "'grid.default_size' is not within"),
        (("grid", "default_size"), [16, 4, 16], "'grid.default_size' is not within"),
    ],
)
def test_each_contradiction_of_medlord_is_named(place, value, said):
    data = medlord()
    ModelSpec.from_json(data, preset=True)
    put(data, place, value)
    assert said in said_of(data)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("latent", "channels"), 8, "'network.in_channels' is 4, but latent.channels is 8"),
        (("latent", "downsampling"), 8, "'latent.downsampling' is 8, but the autoencoder's is 4"),
        (("autoencoder", "latent_channels"), 10_000_000, "'autoencoder.latent_channels' must be 0 to 65536"),
        (("autoencoder", "latent_channels"), 8, "'autoencoder.latent_channels' is 8"),
        (("autoencoder", "num_res_blocks"), [100_000_000, 1, 1], "'autoencoder.num_res_blocks[0]' must be at most 64"),
        (("network", "num_res_blocks"), 1e9, "'network.num_res_blocks' must be at most 64"),
        (("network", "num_channels"), 1, "'network.num_channels' must be a list"),
        (("network", "num_channels"), [], "'network.num_channels' must have at least 1 entries"),
        (("controlnet", "in_channels"), 1, "'controlnet.in_channels' is 1"),
        (("controlnet", "num_channels"), [64], "'controlnet.num_channels' is [64]"),
        (("controlnet", "conditioning_embedding_in_channels"), 7, "must be 8 to 8, the binary digits of the labels"),
        (("controlnet", "conditioning_embedding_num_channels"), [8, 16], "shrinks by 2, but latent.downsampling is 4"),
        (("backend",), "medlord", "'network.class' must be DiffusionModelUNet for the backend medlord"),
        (("grid", "default_size"), [300, 300, 128], "is against 'grid.rules': a side in plane has 300 voxels"),
        (("grid", "spacing_mm"), [0.4, 0.4, 1.0], "is against 'grid.rules': the spacing along x"),
    ],
)
def test_each_contradiction_of_maisi_is_named(place, value, said):
    data = maisi()
    put(data, place, value)
    assert said in said_of(data)


def method(preset):
    return copy.deepcopy(load_preset(preset).raw)


@pytest.mark.parametrize(
    ("preset", "place", "value", "said"),
    [
        ("slice-ldm", ("modes",), ["whole"], "'modes' has whole, which the backend slice_ldm cannot do"),
        ("slice-ldm", ("modes",), ["joint", "unconditional"], "'modes' has unconditional, which the backend slice_ldm"),
        ("slice-ldm", ("windows",), {"depth": 32, "stride": 16}, "the backend slice_ldm has no 'windows'"),
        ("slice-ldm", ("latent", "scale_factor"), 1e-300, "'latent.scale_factor' must be at least 1e-06"),
        ("slice-ldm", ("characteristics", "scale", 0), 1e-300, "'characteristics.scale[0]' must be at least 1e-06"),
        ("med-lsdm", ("characteristics",), None, "the backend med_lsdm has no 'characteristics'"),
        ("maisi-rflow", ("windows",), {"depth": 32, "stride": 16}, "the backend maisi has no 'windows'"),
    ],
)
def test_what_a_method_does_not_know_is_named(preset, place, value, said):
    data = method(preset)
    if place == ("characteristics",):
        value = method("slice-ldm")["characteristics"] | {"target": data["label_scheme"][0]["name"]}
    put(data, place, value)
    assert said in said_of(data)


def test_the_joint_mode_is_that_of_one_backend():
    data = method("med-lsdm") | {"modes": ["joint"], "characteristics": method("slice-ldm")["characteristics"]}
    data["characteristics"]["target"] = data["label_scheme"][0]["name"]
    assert "the backend med_lsdm" in said_of(data)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (RULES | {"in_plane": [-1]}, "'grid.rules.in_plane[0]' must be at least 1"),
        (RULES | {"through_plane": [0]}, "'grid.rules.through_plane[0]' must be at least 1"),
        (RULES | {"least_field_of_view_mm": "nan"}, "'grid.rules.least_field_of_view_mm' must be a number"),
        (RULES | {"least_field_of_view_mm": float("inf")}, "'grid.rules.least_field_of_view_mm' must be at most"),
        (RULES | {"least_field_of_view_mm": -1}, "'grid.rules.least_field_of_view_mm' must be at least 0"),
        (RULES | {"in_plain": [256]}, "unknown entry 'in_plain' (did you mean 'in_plane'?)"),
        ({"in_plane": [256]}, "'grid.rules': The rules of the model's grid name sizes for some axes only"),
        ({"sizes": [[256, 256]]}, "'grid.rules.sizes[0]' must have at least 3 entries"),
        ({"sizes": []}, "'grid.rules.sizes' must have at least 1 entries"),
    ],
)
def test_rules_that_make_no_sense(rules, said):
    data = maisi()
    data["grid"]["rules"] = rules
    assert said in said_of(data)


@pytest.mark.parametrize("section", ["network", "autoencoder", "controlnet"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1e12, "must be 0 to 65536"),
        (10**400, "must be 0 to 65536"),
        (-1, "must be 0 to 65536"),
        (float("inf"), "must be 0 to 65536"),
        ([[1, {"deep": 65537}]], "must be 0 to 65536"),
        ([[[[1]]]], "is nested too deeply"),
        ([1] * 65, "must have at most 64 entries"),
    ],
)
def test_no_argument_is_without_bounds_in_any_backend(section, value, said):
    data = maisi() | {"backend": "of_tomorrow"}
    data[section] = data[section] | {"of_tomorrow": value}
    found = said_of(data)
    assert f"'{section}.of_tomorrow" in found and said in found


def test_a_segmenter_has_bounds_too():
    data = medlord()
    data["segmenter"] = {"network": {"class": "UNet", "channels": [4, 8], "kernel_size": 1e9}}
    assert "'segmenter.network.kernel_size' must be 0 to 65536" in said_of(data)


def test_networks_of_an_unknown_backend_are_its_own_business():
    data = maisi() | {"backend": "of_tomorrow"}
    data["latent"]["channels"] = 16
    data["network"]["class"] = "Novelty"
    assert ModelSpec.from_json(data, preset=True).latent.channels == 16


@pytest.mark.parametrize("section", ["autoencoder", "latent"])
def test_a_latent_backend_needs_its_sections(section):
    data = medlord()
    del data[section]
    assert "'latent' and 'autoencoder' belong together" in said_of(data)
    data.pop("latent", None)
    data.pop("autoencoder", None)
    assert "'autoencoder' is missing, which the backend medlord needs" in said_of(data)


def test_a_patch_model_has_no_autoencoder():
    data = description(autoencoder=SECTIONS["autoencoder"], latent=SECTIONS["latent"], files=[])
    assert "the backend patch_ddpm has no 'autoencoder'" in said_of(data)


@pytest.mark.parametrize("preset", sorted(NETWORKS))
def test_the_tiny_presets_are_valid(tmp_path, preset):
    data = json.loads(tiny_preset(tmp_path / "tiny.json", preset).read_text(encoding="utf-8"))
    ModelSpec.from_json(data, preset=True)


def test_what_is_shipped_is_valid():
    for preset in preset_ids():
        assert load_preset(preset).id == preset
    packages = sorted(resource_path("Models").glob("*/model.json"))
    assert packages
    for path in packages:
        assert ModelSpec.from_json(json.loads(path.read_text(encoding="utf-8"))).id == path.parent.name


@pytest.mark.parametrize(
    ("preset", "role", "change"),
    [
        ("maisi-rflow", "denoiser", {"num_channels": 1}),
        ("maisi-rflow", "denoiser", {"num_channels": "ab"}),
        ("maisi-rflow", "denoiser", {"num_channels": [8, {"a": 1}]}),
        ("maisi-rflow", "denoiser", {"attention_levels": 1}),
        ("maisi-rflow", "denoiser", {"norm_num_groups": 0}),
        ("maisi-rflow", "autoencoder", {"num_res_blocks": [None, 1, 1]}),
        ("maisi-rflow", "controlnet", {"conditioning_embedding_num_channels": 4}),
        ("maisi-rflow", "controlnet", {"conditioning_embedding_num_channels": []}),
        ("medlord-x4", "autoencoder", {"downsample_parameters": [[2], [2]]}),
        ("medlord-x4", "autoencoder", {"act": {"a": 1}}),
        ("medlord-x4", "autoencoder", {"spatial_dims": 7}),
        ("medlord-x4", "denoiser", {"spatial_dims": "three"}),
    ],
)
def test_arguments_of_a_wrong_type_are_told(preset, role, change):
    with pytest.raises(ModelError, match="cannot be built as described"):
        build_network(NetworkSpec.from_json(NETWORKS[preset][role] | change))


def test_a_network_that_no_memory_holds_is_not_built():
    arguments = NETWORKS["maisi-rflow"]["denoiser"] | {"num_channels": [8192, 8192], "num_head_channels": [0, 8192]}
    spec = NetworkSpec.from_json(arguments | {"num_res_blocks": 8})
    assert count_parameters(spec) > LARGEST_NETWORK
    began = time.monotonic()
    with pytest.raises(ModelError, match="thousand million parameters"):
        build_network(spec)
    assert time.monotonic() - began < 20
