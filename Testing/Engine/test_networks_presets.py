"""The full-size presets: known parameter counts, latent shapes, one forward pass each; the slim ControlNet beside
MONAI's own.

Counts and the shapes at 512 x 512 x 256 are taken on PyTorch's meta device, which computes shapes and holds no values.
"""

from __future__ import annotations

import json

import pytest
import torch
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets import ControlNet

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.memory.working_grids import latent_divisor
from SynthDiffusionLib.models import presets
from SynthDiffusionLib.models.presets import (
    describe,
    is_preset,
    latent_shape,
    load_preset,
    parameter_counts,
    preset_ids,
)
from SynthDiffusionLib.models.spec import ModelSpec, NetworkSpec
from SynthDiffusionLib.networks.build import NETWORKS, build_network, count_parameters
from SynthDiffusionLib.networks.slim_controlnet import SlimControlNet

LARGE = (512, 512, 256)
FULL_WIDTH = {"unet_channels": [64, 128, 256, 512], "ratio": 0.5, "in_channels": 8, "condition_channels": 2}
TINY = {
    "spatial_dims": 3,
    "unet_channels": [16, 32],
    "ratio": 0.5,
    "in_channels": 4,
    "condition_channels": 2,
    "attention_levels": [False, True],
    "num_res_blocks": 1,
    "num_head_channels": 8,
    "norm_num_groups": 4,
    "embedding_channels": [8, 16],
}
TINY_UNET = {
    "spatial_dims": 3,
    "in_channels": 4,
    "out_channels": 4,
    "channels": [16, 32],
    "attention_levels": [False, True],
    "num_res_blocks": 1,
    "num_head_channels": 8,
    "norm_num_groups": 4,
}


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """With random values where a fresh network has zeros, so that a result depends on every layer."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return network.eval()


def full_size(network: NetworkSpec, scheme=None) -> torch.nn.Module:
    """With random weights everywhere, drawn faster than the layers' own initialisation does."""
    with torch.device("meta"):
        built = build_network(network, scheme)
    built.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*built.parameters(), *built.buffers()):
            tensor.uniform_(-0.05, 0.05)
    return built.eval()


def tiny(name: str, arguments: dict, seed: int = 0) -> torch.nn.Module:
    return randomised(build_network(NetworkSpec(name, arguments)), seed)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("maisi-ddpm", {"autoencoder": 20_944_897, "denoiser": 169_370_884, "controlnet": 68_644_944}),
        ("maisi-rflow", {"autoencoder": 20_944_897, "denoiser": 180_500_868, "controlnet": 72_037_072}),
        ("maisi-rflow-mr", {"autoencoder": 20_944_897, "denoiser": 180_500_868}),
        ("maisi-rflow-mr-brain", {"autoencoder": 20_944_897, "denoiser": 180_500_868}),
    ],
)
def test_maisi_has_the_counts_of_the_released_configurations(preset, expected):
    assert parameter_counts(load_preset(preset)) == expected


@pytest.mark.parametrize(("preset", "autoencoder"), [("medlord-x4", 22.2), ("medlord-x8", 95.7)])
def test_medlord_has_the_counts_of_its_configurations(preset, autoencoder):
    """In millions, buffers left out: with the codebook's running averages it would be 22.3 and 95.8."""
    counts = parameter_counts(load_preset(preset))
    assert round(counts["denoiser"] / 1e6, 1) == 166.6
    assert round(counts["autoencoder"] / 1e6, 1) == autoencoder
    assert counts["controlnet"] / 1e6 == pytest.approx(17.5, abs=0.5)


def test_slim_controlnet_is_monais_at_half_the_width_with_wider_ways_out():
    """17.49 M as in MONAI's class, and the 1x1x1 convolutions that lead back to the U-Net's width."""
    ours = count_parameters(load_preset("medlord-x4").controlnet)
    with torch.device("meta"):
        reference = ControlNet(
            3,
            8,
            channels=(32, 64, 128, 256),
            num_head_channels=32,
            conditioning_embedding_in_channels=2,
            conditioning_embedding_num_channels=(32, 64),
        )
    assert round(sum(p.numel() for p in reference.parameters()) / 1e6, 1) == 17.5
    ways = [32] * 4 + [64] * 3 + [128] * 3 + [256] * 2 + [256]  # stem, blocks and downsamplings by level; middle
    wider = sum(n * n + n for n in ways)  # from n to 2 n channels instead of n to n
    assert ours == sum(p.numel() for p in reference.parameters()) + wider


@pytest.mark.parametrize(
    ("preset", "shape"),
    [
        ("medlord-x4", (8, 128, 128, 64)),
        ("medlord-x8", (8, 64, 64, 32)),
        ("maisi-ddpm", (4, 128, 128, 64)),
        ("maisi-rflow", (4, 128, 128, 64)),
    ],
)
def test_latents_of_512_x_512_x_256(preset, shape):
    """By arithmetic, by the encoder and by the control network's embedding of the drawing.

    MAISI's encoder is asked for half of every side: with 500 voxels along one, MONAI's sends its values to the CPU.
    """
    spec = load_preset(preset)
    assert latent_shape(spec, LARGE) == shape
    medlord = preset.startswith("medlord")
    with torch.device("meta"):
        size = LARGE if medlord else tuple(n // 2 for n in LARGE)
        encoded = build_network(spec.autoencoder).encode(torch.empty(1, 1, *size))
        encoded = encoded if medlord else encoded[0].repeat(1, 1, 2, 2, 2)
        control = build_network(spec.controlnet)
        embed, masks = (control.embed, 2) if medlord else (control.controlnet_cond_embedding, 8)
        features = embed(torch.empty(1, masks, *LARGE))
    assert tuple(encoded.shape) == (1, *shape)
    assert tuple(features.shape[2:]) == shape[1:]


def test_a_model_in_voxel_space_has_no_latent():
    assert latent_shape(load_preset("patch-ddpm"), (64, 64, 64)) is None


@pytest.mark.parametrize("preset", ["medlord-x4", "maisi-ddpm", "maisi-rflow"])
def test_one_pass_of_the_full_size_denoiser(preset):
    """On the smallest latent; the result depends on the time step."""
    spec = load_preset(preset)
    network = full_size(spec.network)
    side = latent_divisor(spec)[0] // spec.latent.downsampling
    x = torch.randn(1, spec.latent.channels, side, side, side)
    extra = {}
    if preset != "medlord-x4":
        extra["spacing_tensor"] = torch.full((1, 3), 100.0)
    if preset == "maisi-ddpm":
        extra |= {f"{end}_region_index_tensor": torch.tensor([[0.0, 100.0, 0.0, 0.0]]) for end in ("top", "bottom")}
    if preset == "maisi-rflow":
        extra["class_labels"] = torch.tensor([1])
    with torch.inference_mode():
        y = network(x, torch.tensor([5]), **extra)
        later = network(x, torch.tensor([200]), **extra)
    assert y.shape == x.shape and torch.isfinite(y).all()
    assert not torch.equal(y, later)


@pytest.mark.parametrize("preset", ["medlord-x4", "medlord-x8", "maisi-rflow"])
def test_one_pass_of_the_full_size_autoencoder(preset):
    spec = load_preset(preset)
    network = full_size(spec.autoencoder)
    side = 4 * spec.latent.downsampling
    with torch.inference_mode():
        x = torch.randn(1, 1, side, side, side)
        z = network.encode(x)
        z = z[0] if isinstance(z, tuple) else z
        assert z.shape == (1, spec.latent.channels, 4, 4, 4)
        assert network.decode(z).shape == x.shape


def test_one_pass_of_the_full_size_patch_network():
    spec = load_preset("patch-ddpm")
    assert count_parameters(spec.network, spec.label_scheme) == 17_592_242
    network = full_size(spec.network, spec.label_scheme)
    assert network.divisor == spec.grid.divisor == 64
    assert network.stem.in_channels == 3 + 3 + len(spec.label_scheme.condition_classes)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(1, network.stem.in_channels, 64, 64, 64), torch.tensor([7])).shape[2:] == (64,) * 3


def test_slim_controlnet_computes_what_monais_controlnet_computes():
    """At ratio 1 and with a stem of stride 1 the two are the same network under other names."""
    arguments = TINY | {"ratio": 1.0, "stem_stride": 1, "embedding_channels": [8, 16, 16], "downsampling": 4}
    ours = tiny("SlimControlNet", arguments)
    reference = ControlNet(
        3,
        4,
        num_res_blocks=1,
        channels=(16, 32),
        attention_levels=(False, True),
        norm_num_groups=4,
        num_head_channels=8,
        conditioning_embedding_in_channels=2,
        conditioning_embedding_num_channels=(8, 16, 16),
    ).eval()
    pairs = [
        (ours.stem, reference.conv_in),
        (ours.time_embedding, reference.time_embed),
        (ours.embedding, reference.controlnet_cond_embedding),
        (ours.down_blocks, reference.down_blocks),
        (ours.middle_block, reference.middle_block),
        (ours.down_outputs, reference.controlnet_down_blocks),
        (ours.middle_output, reference.controlnet_mid_block),
    ]
    with torch.no_grad():
        for mine, theirs in pairs:
            for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
                b.copy_(a)
    x, masks, t = torch.randn(2, 4, 8, 8, 8), torch.rand(2, 2, 32, 32, 32), torch.tensor([3, 250])
    with torch.inference_mode():
        (down, middle), (expected, expected_middle) = ours(x, t, masks, scale=0.7), reference(x, t, masks, 0.7)
    assert len(down) == len(expected) == 4  # stem, block, downsampling, block
    for mine, theirs in zip([*down, middle], [*expected, expected_middle], strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("downsampling", "stem_stride"), [(4, 2), (8, 2), (4, 1), (2, 2)])
def test_a_fresh_slim_controlnet_leaves_the_unet_as_it_is(downsampling, stem_stride):
    torch.manual_seed(1)
    arguments = TINY | {"downsampling": downsampling, "stem_stride": stem_stride}
    control, unet = (
        build_network(NetworkSpec("SlimControlNet", arguments)).eval(),
        tiny("DiffusionModelUNet", TINY_UNET),
    )
    x, t = torch.randn(1, 4, 8, 8, 8), torch.tensor([9])
    masks = torch.rand(1, 2, *[8 * downsampling] * 3)
    with torch.inference_mode():
        down, middle = control(x, t, masks)
        assert not any(r.any() for r in [*down, middle])
        plain = unet(x, t)
        controlled = unet(x, t, down_block_additional_residuals=down, mid_block_additional_residual=middle)
        assert torch.equal(plain, controlled)
        down, middle = randomised(control)(x, t, masks)
        controlled = unet(x, t, down_block_additional_residuals=down, mid_block_additional_residual=middle)
    assert (plain - controlled).abs().max() > 1e-3


def test_embedding_once_is_the_same_as_embedding_every_time_and_scale_is_a_factor():
    control = tiny("SlimControlNet", TINY)
    x, t, masks = torch.randn(1, 4, 4, 4, 4), torch.tensor([9]), torch.rand(1, 2, 16, 16, 16)
    with torch.inference_mode():
        down, middle = control(x, t, masks)
        again, again_middle = control(x, t, embedded=control.embed(masks), scale=2.0)
        none, none_middle = control(x, t, masks, scale=0.0)
    for one, two, zero in zip([*down, middle], [*again, again_middle], [*none, none_middle], strict=True):
        assert one.any()
        torch.testing.assert_close(2 * one, two)
        assert not zero.any()
    with pytest.raises(ValueError, match="masks"):
        control(x, t)


def test_every_weight_of_the_slim_controlnet_can_be_trained():
    control = tiny("SlimControlNet", TINY).train()
    down, middle = control(torch.randn(1, 4, 4, 4, 4), torch.tensor([9]), torch.rand(1, 2, 16, 16, 16))
    sum(r.square().sum() for r in [*down, middle]).backward()
    assert [name for name, p in control.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"downsampling": 6}, "downsampling of 6"),
        ({"stem_stride": 3}, "stem of stride 3"),
        ({"ratio": 0.1}, "do not divide"),
        ({"ratio": 1.5}, "ratio"),
        ({"attention_levels": [True]}, "same length"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_slim_controlnet_that_cannot_be_is_refused(change, reason):
    with pytest.raises(ModelError, match=reason):
        build_network(NetworkSpec("SlimControlNet", TINY | change))


def test_unknown_networks_are_refused_with_the_known_ones():
    with pytest.raises(ModelError) as error:
        build_network(NetworkSpec("os.system", {}))
    assert "SlimControlNet" in error.value.hint and "os.system" in error.value.message
    for name in sorted(NETWORKS):
        with pytest.raises(ModelError, match=name):
            build_network(NetworkSpec(name, {"no_such_argument": 1}))


def test_attention_is_the_scaled_dot_product_everywhere_with_the_same_result():
    network = tiny("DiffusionModelUNet", TINY_UNET | {"use_flash_attention": False})
    blocks = [m for m in network.modules() if isinstance(m, SABlock)]
    assert blocks and all(block.use_flash_attention for block in blocks)
    x, t = torch.randn(1, 4, 8, 8, 8), torch.tensor([9])
    with torch.inference_mode():
        fast = network(x, t)
        for block in blocks:
            block.use_flash_attention = False
        torch.testing.assert_close(fast, network(x, t), rtol=1e-4, atol=1e-5)
    maisi = dict(TINY_UNET, num_channels=TINY_UNET["channels"], use_flash_attention=True)
    del maisi["channels"]
    network = build_network(NetworkSpec("DiffusionModelUNetMaisi", maisi))  # MONAI's refuses this without CUDA
    assert all(m.use_flash_attention for m in network.modules() if isinstance(m, SABlock))


def test_presets_are_those_of_the_documentation():
    named = {"patch-ddpm", "medlord-x4", "medlord-x8", "med-lsdm", "slice-ldm", "maisi-ddpm", "maisi-rflow"}
    assert named <= set(preset_ids())
    assert is_preset("medlord-x4") and not is_preset("lung-nodule-ct") and not is_preset("../Presets/medlord-x4")
    with pytest.raises(BadInput) as error:
        load_preset("medlord-4")
    assert "medlord-x4" in error.value.hint


@pytest.mark.parametrize("preset", sorted(preset_ids()))
def test_a_preset_agrees_with_itself(preset):
    spec = load_preset(preset)
    assert isinstance(spec, ModelSpec) and spec.files == () and spec.id == preset
    assert spec.provenance["sources"] and spec.provenance["chosen"]  # what is known, and what was chosen
    for size in (spec.grid.max_size, spec.grid.default_size or spec.grid.max_size):
        divisors = (spec.grid.divisor,) * 3 if spec.latent is None else latent_divisor(spec)
        assert all(n % divisor == 0 for n, divisor in zip(size, divisors))
    if spec.latent is None:
        return
    assert spec.grid.divisor == latent_divisor(spec)[0]
    if spec.backend == "medlord":
        strides = [p[0] for p in spec.autoencoder.parameters["downsample_parameters"]]
        assert 2 ** len(strides) == spec.latent.downsampling == spec.controlnet.parameters["downsampling"]
        assert spec.controlnet.parameters["condition_channels"] == len(spec.label_scheme.condition_classes)
        assert spec.controlnet.parameters["unet_channels"] == spec.network.parameters["channels"]
        assert (spec.diffusion.train_steps, spec.diffusion.prediction) == (300, "v_prediction")
    elif spec.backend == "maisi" and spec.label_scheme.classes:
        assert [c.name for c in spec.label_scheme.classes] == [c.name for c in load_scheme("maisi-ct").classes]
        assert max(c.value for c in spec.label_scheme.classes) < 256  # 8 binary digits
        assert any(c.value == 200 and c.derive == "outline" for c in spec.label_scheme.classes)


def test_presets_differ_in_what_the_two_kinds_of_maisi_differ_in():
    ddpm, flow = load_preset("maisi-ddpm"), load_preset("maisi-rflow")
    assert (ddpm.diffusion.beta_start, ddpm.diffusion.beta_end, ddpm.diffusion.train_steps) == (0.0015, 0.0195, 1000)
    assert (flow.diffusion.beta_schedule, flow.diffusion.shift_numel) == ("rectified_flow", 32**3)
    assert {ddpm.grid.orientation, flow.grid.orientation} == {"RAS"}  # as its programs turn every image
    assert ddpm.controls.regions and not flow.controls.regions
    assert flow.controls.modalities == {"CT": 1} and not ddpm.controls.modalities


def test_a_damaged_preset_is_told_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "_folder", lambda: tmp_path)
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="broken"):
        load_preset("broken")
    data = load_raw("medlord-x4")
    (tmp_path / "other.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ModelError, match="calls itself 'medlord-x4'"):
        load_preset("other")


def load_raw(preset: str) -> dict:
    from SynthDiffusionLib.resources import resource_path

    return json.loads(resource_path("Presets", f"{preset}.json").read_text(encoding="utf-8"))


def test_a_description_for_people_has_the_counts_and_what_was_chosen():
    rows = describe(load_preset("medlord-x4"))
    text = "\n".join(f"{label}: {value}" for label, value in rows)
    assert "Denoiser: DiffusionModelUNet, 166.6 M parameters" in text
    assert "Latent: 8 x 128 x 128 x 64 for 512 x 512 x 256 voxels" in text
    assert "Chosen here" in text and all(isinstance(value, str) for _, value in rows)


def test_full_width_arguments_are_those_of_the_preset():
    """A control network built by hand from the numbers in the literature is the preset's."""
    with torch.device("meta"):
        by_hand = SlimControlNet(3, **FULL_WIDTH, num_head_channels=32)
    assert sum(p.numel() for p in by_hand.parameters()) == count_parameters(load_preset("medlord-x4").controlnet)
