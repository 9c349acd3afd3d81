"""Files in the layouts of MedLoRD's and MAISI's released checkpoints: the imported package computes what the networks
that the files were made from compute, to the last bit, and what does not fit is refused with its name."""

from __future__ import annotations

import json
import math

import pytest
import tiny_package
import torch
from tiny_released import (
    NETWORKS,
    maisi_files,
    medlord_files,
    network,
    older_names,
    tiny_preset,
)

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models import import_checkpoint, load_package, remove, verify
from SynthDiffusionLib.models.presets import load_preset
from SynthDiffusionLib.models.templates import find_template, network_shapes
from SynthDiffusionLib.networks.build import build_network

model_folders = tiny_package.model_folders


@pytest.fixture
def folder(tmp_path, model_folders):
    return tmp_path


def outputs(preset, role, net):
    """What a network computes of fixed inputs, as a flat list of tensors."""
    g = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=g)

    with torch.inference_mode():
        if role == "autoencoder":
            x = noise(1, 1, 16, 16, 16)
            if preset.startswith("medlord"):
                quantised = net.encode_stage_2_inputs(x)
                return [quantised, net.decode_stage_2_outputs(quantised * 1.01)]
            mean, sigma = net.encode(x)
            return [mean, sigma, net.decode(mean)]
        latent, t = noise(1, 4, 8, 8, 8), torch.tensor([17])
        classes = {"class_labels": torch.tensor([1])} if preset == "maisi-rflow" else {}
        if role == "controlnet":
            condition = noise(1, 8, 32, 32, 32).sign()
            down, middle = net(latent, t, condition, **classes)
            return [*down, middle]
        if preset.startswith("medlord"):
            return [net(latent, t)]
        spacing = {"spacing_tensor": torch.tensor([[78.0, 78.0, 298.0]])}
        region = torch.tensor([[0.0, 1.0, 0.0, 0.0]]) * 100
        regions = {} if classes else {"top_region_index_tensor": region, "bottom_region_index_tensor": region}
        return [net(latent, t, **spacing, **regions, **classes)]


def assert_same_outputs(package, preset, source):
    networks = {"denoiser": package.spec.network, "autoencoder": package.spec.autoencoder}
    networks["controlnet"] = package.spec.controlnet
    for role, net in source.items():
        loaded = build_network(networks[role]).eval()
        tensors = package.load_tensors(role)
        assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float32}
        loaded.load_state_dict(tensors)  # strict: every name
        for ours, theirs in zip(outputs(preset, role, loaded), outputs(preset, role, net), strict=True):
            assert theirs.std() > 0  # a constant would agree with anything
            assert torch.equal(ours, theirs), role


@pytest.mark.parametrize("layout", ["old", "shadow", "model", "bare"])
def test_medlord(folder, layout):
    like = tiny_preset(folder / "tiny.json", "medlord-x4")
    files, source = medlord_files(folder, layout)
    done = import_checkpoint(files[::-1], "mine", like=like)  # in any order
    assert_same_outputs(done.package, "medlord", source)
    spec = load_package("mine").spec
    assert verify("mine").ok and spec.license.spdx == "NOASSERTION"
    assert spec.modes == ("unconditional",) and spec.controlnet is None  # nothing to draw for without a control network
    scale = spec.provenance["scale_factor"]
    assert scale["value"] == spec.latent.scale_factor == load_preset("medlord-x4").latent.scale_factor
    assert "1 / standard deviation" in spec.provenance["notes"][0] and "1.11" in spec.provenance["notes"][0]
    assert spec.provenance["averaged_weights"] is (layout in ("old", "shadow"))
    assert [f["file"] for f in spec.provenance["imported_files"]] == ["stage two.pth", "stage one.pth"]
    remove("mine")
    assert not done.package.folder.exists()


def test_the_older_names_are_those_that_monai_converts():
    """The names that the tests write are MONAI Generative's only if MONAI reads them so, using every one."""
    source = network("medlord-x4", "denoiser")
    older = older_names(source.state_dict())
    assert set(older) != set(source.state_dict())
    assert sum(".proj_attn." in name for name in older) >= 2
    fresh = network("medlord-x4", "denoiser", seed=9)
    fresh.load_old_state_dict(older)
    assert not older
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), source.state_dict().values()))


@pytest.mark.parametrize("preset", ["maisi-ddpm", "maisi-rflow"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_maisi(folder, preset, wrapped):
    like = tiny_preset(folder / "tiny.json", preset)
    files, source = maisi_files(folder, preset, wrapped)
    package = import_checkpoint(files, "mine", like=like).package
    assert_same_outputs(package, preset, source)
    assert package.spec.latent.scale_factor == 0.9375
    assert package.spec.provenance["scale_factor"] == {"value": 0.9375, "from": "'d.pt'"}
    assert package.spec.modes == ("whole", "unconditional") and verify("mine").ok
    assert package.spec.license.spdx == "NOASSERTION"


def test_maisi_without_its_control_network_and_with_a_scale_factor_of_monai(folder):
    from monai.data import MetaTensor

    like = tiny_preset(folder / "tiny.json", "maisi-rflow")
    files, source = maisi_files(folder, "maisi-rflow")
    content = torch.load(files[1], weights_only=True)
    torch.save(content | {"scale_factor": MetaTensor(torch.tensor(1.25))}, files[1])
    package = import_checkpoint(files[:2], "mine", like=like).package
    assert_same_outputs(package, "maisi-rflow", {role: source[role] for role in ("autoencoder", "denoiser")})
    assert package.spec.latent.scale_factor == 1.25
    assert package.spec.modes == ("unconditional",) and not package.has("controlnet")


def test_projections_that_maisi_never_used_are_left_out(folder):
    """MAISI loads with strict=False; of what that forgives, only these are forgiven here."""
    like = tiny_preset(folder / "tiny.json", "maisi-ddpm")
    files, source = maisi_files(folder, "maisi-ddpm")
    content = torch.load(files[1], weights_only=True)
    unused = {"middle_block.attention.attn.out_proj.weight": torch.zeros(16, 16)}
    torch.save(content | {"unet_state_dict": content["unet_state_dict"] | unused}, files[1])
    package = import_checkpoint(files, "mine", like=like).package
    assert_same_outputs(package, "maisi-ddpm", source)


def test_a_package_is_a_template_too_and_its_own_files_go_in_again(folder):
    like = tiny_preset(folder / "tiny.json", "maisi-rflow")
    files, source = maisi_files(folder, "maisi-rflow")
    first = import_checkpoint(files, "first", like=like).package
    own = [first.file(role) for role in ("controlnet", "denoiser", "autoencoder")]
    second = import_checkpoint(own, "second", like="first").package
    assert_same_outputs(second, "maisi-rflow", source)
    assert second.spec.latent.scale_factor == 0.9375  # of the template: safetensors files hold none


def test_full_size_files_find_their_preset(folder, monkeypatch):
    """Shapes only: the full-size networks are told apart by them, and MedLoRD's other published U-Nets are known."""
    from SynthDiffusionLib.models import released

    def part(preset, role, changes=()):
        spec = load_preset(preset)
        net = dict(network=spec.network, denoiser=spec.network, autoencoder=spec.autoencoder)[role]
        if changes:
            net = type(net)(net.name, net.parameters | dict(changes))
        tensors = {name: torch.empty(shape, device="meta") for name, shape in network_shapes(net).items()}
        return released.Part(folder / role, role, spec.backend, tensors)

    monkeypatch.setattr(released, "fit", lambda role, tensors, *_: tensors)
    for preset in ("medlord-x4", "medlord-x8"):
        made = released.assemble([part(preset, "autoencoder"), part(preset, "denoiser")], None)
        assert made.description["provenance"]["template"].split()[0] == preset
    three = dict(released._MEDLORD_UNETS[1])
    made = released.assemble([part("medlord-x8", "autoencoder"), part("medlord-x8", "denoiser", three)], None)
    assert made.description["network"]["channels"] == [128, 256, 512]
    assert made.description["network"]["num_head_channels"] == [0, 0, 64]
    assert made.description["grid"]["divisor"] == 8 * 4
    assert "T = 300 cannot be read off" in " ".join(made.notes)
    made = released.assemble([part("maisi-ddpm", "autoencoder"), part("maisi-ddpm", "denoiser")], None)
    assert made.description["provenance"]["template"].split()[0] == "maisi-ddpm"
    with pytest.raises(ModelError, match="fit 3 presets: maisi-rflow, maisi-rflow-mr, maisi-rflow-mr-brain"):
        released.assemble([part("maisi-rflow", "autoencoder"), part("maisi-rflow", "denoiser")], None)


class EMA:
    """Stands for a trainer's class."""


def refused(match, files, like, new_id="mine"):
    with pytest.raises(ModelError, match=match) as caught:
        import_checkpoint(files, new_id, like=like)
    assert "\n" not in caught.value.one_line() and caught.value.exit_code == 2
    return caught.value


def test_averaged_weights_that_are_no_tensors(folder):
    like = tiny_preset(folder / "tiny.json", "medlord-x4")
    files, _ = medlord_files(folder, "model")
    torch.save({"model": {}, "ema": EMA()}, files[1])
    error = refused("holds program code, which is never run", files, like)
    assert "EMA" in error.message
    torch.save({"model": network("medlord-x4", "denoiser").state_dict(), "ema": {"shadow": [1, 2]}}, files[1])
    refused(r"averaged weights \('ema'\) are no plain tensors", files, like)


def test_wrong_method_missing_parts_and_strangers(folder):
    (folder / "m").mkdir()
    tiny = {preset: tiny_preset(folder / f"{preset}.json", preset) for preset in NETWORKS}
    medlord, _ = medlord_files(folder)
    maisi, _ = maisi_files(folder / "m", "maisi-ddpm")
    refused("'tiny-maisi-ddpm' is a model of MAISI", medlord, tiny["maisi-ddpm"])
    refused("MedLoRD's autoencoder, 'd.pt' is MAISI's diffusion network", [medlord[0], maisi[1]], None)
    refused("The autoencoder is missing: 'stage two.pth'", medlord[1], tiny["medlord-x4"])
    refused("The diffusion network is missing", maisi[0], tiny["maisi-ddpm"])
    refused("both are MedLoRD's autoencoder", [medlord[0], *medlord], tiny["medlord-x4"])
    torch.save({"strange": torch.ones(1), "also": torch.ones(1)}, folder / "s.pt")
    refused(
        r"s.pt' is no network of MedLoRD or MAISI \(it begins with also, strange\)", [*medlord, folder / "s.pt"], None
    )
    refused("no preset|There is no model 'medlord-x5'", medlord, "medlord-x5")


def test_what_does_not_fit_is_named(folder):
    like = tiny_preset(folder / "tiny.json", "medlord-x4")
    files, source = medlord_files(folder, "bare")
    weights = source["denoiser"].state_dict()
    torch.save(weights | {"extra.a": torch.ones(1), "extra.b": torch.ones(1)}, files[1])
    refused("it has 'extra.a', 'extra.b' too", files, like)
    torch.save({k: v for k, v in weights.items() if not k.startswith("out.2")}, files[1])
    refused("it lacks 'out.2.conv.weight', 'out.2.conv.bias'", files, like)
    torch.save(weights | {"conv_in.conv.bias": torch.ones(9)}, files[1])
    refused(r"'conv_in.conv.bias' is \(9,\), not \(8,\)", files, like)
    torch.save(weights | {"conv_in.conv.bias": torch.full((8,), math.nan)}, files[1])
    refused("'conv_in.conv.bias' of the denoiser is not finite", files, like)
    torch.save(weights, files[1])
    refused("fits no preset; nearest is 'medlord-x[48]': .* and [0-9]+ more", files, None)
    whole = files[1].read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        files[1].write_bytes(whole[:length])
        refused("it is damaged", files, like)


def test_a_control_network_that_cannot_be_completed(folder):
    like = tiny_preset(folder / "tiny.json", "maisi-ddpm")
    files, source = maisi_files(folder, "maisi-ddpm")
    own = source["controlnet"].state_dict()
    torch.save({"controlnet_state_dict": {k: v for k, v in own.items() if "mid_block" not in k}}, files[2])
    refused("control network.*it lacks 'controlnet_mid_block.conv.weight'", files, like)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, torch.ones(2)])
def test_scale_factors_that_are_none(folder, value):
    like = tiny_preset(folder / "tiny.json", "maisi-ddpm")
    files, _ = maisi_files(folder, "maisi-ddpm")
    torch.save(torch.load(files[1], weights_only=True) | {"scale_factor": value}, files[1])
    refused("its scale_factor is no positive number", files, like)


def test_other_steps_of_noise_and_networks_for_masks(folder):
    like = tiny_preset(folder / "tiny.json", "maisi-ddpm")
    files, source = maisi_files(folder, "maisi-ddpm")
    torch.save(torch.load(files[1], weights_only=True) | {"num_train_timesteps": 300}, files[1])
    refused("trained with 300 steps of noise, not 1000", files, like)
    weights = source["autoencoder"].state_dict()
    first = "encoder.blocks.0.conv.conv.weight"
    torch.save(weights | {first: weights[first].repeat(1, 8, 1, 1, 1)}, files[0])
    refused("MAISI's autoencoder of masks", files, like)


@pytest.mark.parametrize("preset", NETWORKS)
def test_import_verify_generate_and_remove(folder, capsys, preset):
    import nibabel

    from SynthDiffusionLib.cli import main

    like = tiny_preset(folder / "tiny.json", preset)
    files = (medlord_files(folder) if preset.startswith("medlord") else maisi_files(folder, preset))[0]
    assert main(["models", "import", *map(str, files), "--as", "mine", "--like", str(like)]) == 0
    assert main(["models", "verify", "mine"]) == 0
    made = ["generate", "--model", "mine", "--mode", "unconditional", "--steps", "2", "--seed", "5"]
    assert main([*made, "--out", str(folder / "out")]) == 0, capsys.readouterr().err
    (volume,) = (nibabel.load(path) for path in (folder / "out").glob("*.nii.gz"))
    values = volume.get_fdata()
    assert volume.shape == (32, 24, 16) and values.std() > 0
    low, high = load_preset(preset).intensity.range
    assert low <= values.min() and values.max() <= high
    assert main(["models", "remove", "mine"]) == 0


def test_the_command_takes_several_files(folder, capsys):
    from SynthDiffusionLib.cli import main

    like = tiny_preset(folder / "tiny.json", "medlord-x4")
    files, _ = medlord_files(folder)
    assert main(["models", "import", *map(str, files), "--as", "mine", "--like", str(like), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["template"].startswith("tiny-medlord-x4") and "scale factor" in answer["notes"][0]
    assert main(["models", "verify", "mine"]) == 0
    assert main(["models", "import", str(files[1]), "--as", "other"]) == 2
    assert "The autoencoder is missing" in capsys.readouterr().err
    assert find_template("mine").package is not None
