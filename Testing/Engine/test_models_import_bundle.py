"""`models import` of MONAI bundles: exported packages come back whole, and the networks of other bundles are found by
what their configuration and their weights agree on."""

from __future__ import annotations

import json
import zipfile

import nibabel as nib
import numpy as np
import pytest
import tiny_package
import torch
from bundle_examples import definition, edit, medlord_bundle, write_json, zoo_bundle
from tiny_latent import make_latent_package
from tiny_released import NETWORKS, tiny_preset

from SynthDiffusionLib import cli
from SynthDiffusionLib.bundles.importer import import_bundle
from SynthDiffusionLib.bundles.layout import tensors_digest
from SynthDiffusionLib.bundles.write import export_bundle
from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.jobs.runner import run
from SynthDiffusionLib.models import load_package, verify
from SynthDiffusionLib.resources import resource_path

model_folders = tiny_package.model_folders
INFERENCE = "configs/inference.json"


@pytest.fixture
def folder(tmp_path, model_folders):
    return tmp_path


def zipped(folder, inside=""):
    """The folder as a .zip, at its top or within a folder."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{inside}{file.relative_to(folder).as_posix()}")
    return path


@pytest.mark.parametrize("name", ["lung-nodule-ct", "limb-tumour-ct", "limb-tumour-mr", "hippocampus-mr"])
def test_an_exported_package_comes_back(name, folder):
    package = load_package(resource_path("Models", name))
    bundle = export_bundle(package.folder, folder / "out").folder
    edit(bundle / INFERENCE, lambda config: config.update(network_def={"_target_": "os.system"}))  # is not looked at
    back = import_bundle(bundle, "back").package
    assert verify("back").ok
    for f in package.spec.files:
        assert (back.folder / f.path).read_bytes() == (package.folder / f.path).read_bytes()
    ours = {k: v for k, v in back.spec.raw.items() if k not in ("id", "provenance")}
    assert ours == {k: v for k, v in package.spec.raw.items() if k not in ("id", "provenance")}
    assert back.spec.provenance["imported_bundle"]["unchanged"]
    assert package.spec.provenance.items() <= back.spec.provenance.items()


@pytest.mark.parametrize("inside", ["", "tiny-limb/"])
def test_it_draws_the_same(inside, folder):
    package = make_latent_package(folder / "tiny-limb", controlnet=False)
    bundle = zipped(export_bundle(package.folder, folder / "out").folder, inside)
    back = import_bundle(bundle, "back").package
    drawn = []
    for which in (package, back):
        request = GenerateRequest(None, str(which.folder), folder / which.id, "unconditional", steps=2, seed=4)
        (output,) = run(request).outputs
        drawn.append(np.asarray(nib.load(output["volume"]).dataobj))
    assert drawn[0].std() > 0 and np.array_equal(*drawn)


def test_changed_weights_lose_what_was_known_of_the_old_ones(folder):
    bundle = export_bundle(resource_path("Models", "lung-nodule-ct"), folder / "out")
    trained = {k: v.float() * 1.01 for k, v in torch.load(bundle.weights["denoiser"], weights_only=True).items()}
    torch.save(trained, bundle.weights["denoiser"])
    spec = import_bundle(bundle.folder, "trained").package.spec
    assert spec.version.endswith("+changed") and spec.quality == {} and spec.segmenter is None
    assert spec.license.spdx == "NOASSERTION" and "unknown" in spec.training.dataset
    assert "denoiser" in spec.provenance["notes"][0]
    assert torch.equal(load_package("trained").load_tensors()["stem.weight"], trained["stem.weight"])
    torch.save({"stem.weight": torch.ones(2)}, bundle.weights["denoiser"])
    with pytest.raises(ModelError, match="are not the denoiser"):
        import_bundle(bundle.folder, "other")


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("license", lambda d: d["license"].update(spdx="CC0-1.0", permitted_use="Anything, diagnosis too.")),
        ("measured", lambda d: d["measured"]["quality"].update(fid=0.01)),
        ("diffusion", lambda d: d["diffusion"].update(train_steps=999)),
        ("training", lambda d: d["training"].update(dataset="10,000 patients")),
        ("provenance", lambda d: d.pop("provenance")),
    ],
)
def test_a_changed_description_is_not_vouched_for(section, change, folder, capsys):
    bundle = export_bundle(resource_path("Models", "lung-nodule-ct"), folder / "out").folder
    edit(bundle / "configs" / "model.json", change)
    assert cli.main(["models", "import", str(bundle), "--as", "back"]) == 0
    said = capsys.readouterr().out
    assert f"since the bundle was exported ({section})" in said and "exported together" not in said
    assert "settings are those of the bundle's changed description" in said
    package = load_package("back")
    spec = package.spec
    assert spec.version.endswith("+changed") and spec.quality == {} and spec.segmenter is None
    assert spec.license.spdx == "NOASSERTION" and spec.training.dataset == "unknown"
    assert spec.provenance["imported_bundle"]["unchanged"] is False
    assert "another description" in package.file("card").read_text(encoding="utf-8")


def test_a_description_that_was_only_laid_out_anew_is_the_same(folder):
    bundle = export_bundle(resource_path("Models", "lung-nodule-ct"), folder / "out").folder
    path = bundle / "configs" / "model.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(data.items())), indent=7), encoding="utf-8")
    assert import_bundle(bundle, "back").package.spec.provenance["imported_bundle"]["unchanged"]


@pytest.mark.parametrize("role", ["denoiser", "autoencoder", "controlnet"])
def test_weights_that_do_not_fit_are_refused_even_with_their_checksum(role, folder):
    bundle = export_bundle(make_latent_package(folder / "tiny-limb").folder, folder / "out")
    tensors = torch.load(bundle.weights[role], weights_only=True)
    torch.save(tensors | {next(iter(tensors)): torch.zeros(3)}, bundle.weights[role])
    changed = tensors_digest(torch.load(bundle.weights[role], weights_only=True))
    metadata = bundle.folder / "configs" / "metadata.json"
    edit(metadata, lambda m: m["synthdiffusion"]["weights"][role].update(tensors_sha256=changed))
    with pytest.raises(ModelError, match=f"are not the {role} of"):
        import_bundle(bundle.folder, "back")
    assert not (folder / "user models" / "back").exists()


def test_a_changed_card_is_left_out(folder):
    bundle = export_bundle(resource_path("Models", "lung-nodule-ct"), folder / "out").folder
    (bundle / "docs" / "MODEL_CARD.md").write_text("# Approved for diagnosis\n", encoding="utf-8")
    package = import_bundle(bundle, "back").package
    assert not package.has("card") and "is left out" in package.spec.provenance["notes"][-1]


@pytest.mark.parametrize("preset", ["maisi-rflow", "maisi-ddpm"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_form_of_the_model_zoo(preset, packed, folder, capsys):
    source = zoo_bundle(folder / "maisi", preset)
    if preset == "maisi-ddpm":
        edit(folder / "maisi" / INFERENCE, lambda config: config["noise_scheduler"].update(_target_="scripts.DDPM"))
    path = zipped(folder / "maisi", "maisi_ct_generative/") if packed else folder / "maisi"
    like = tiny_preset(folder / "tiny.json", preset)
    assert cli.main(["models", "import", str(path), "--as", "zoo", "--like", str(like), "--json"]) == 0
    notes = " ".join(json.loads(capsys.readouterr().out.splitlines()[-1])["notes"])
    assert "scripts/__init__.py" in notes and "mask_generation_autoencoder.pt" in notes
    package = load_package("zoo")
    for role, network in source.items():
        tensors = package.load_tensors(role)
        state = network.state_dict()
        assert tensors.keys() == state.keys() and all(torch.equal(tensors[k], v) for k, v in state.items())
    assert package.spec.latent.scale_factor == 0.9375, "of the diffusion network's file"
    assert package.spec.provenance["bundle"] == {"name": "CT generation", "version": "0.4.5", "authors": "MONAI team"}
    assert package.spec.license.spdx == "NOASSERTION"


def test_the_full_size_network_of_the_zoo(folder):
    """The denoiser of the real bundle, whose weights are not here: it is not that of the tiny weights."""
    zoo_bundle(folder / "maisi")
    preset = json.loads(resource_path("Presets", "maisi-rflow.json").read_text(encoding="utf-8"))
    edit(folder / "maisi" / INFERENCE, lambda c: c.update(diffusion_unet_def=definition(preset["network"])))
    with pytest.raises(ModelError, match="is not the network 'diffusion_unet_def'.*'conv_in.conv.weight' is"):
        import_bundle(folder / "maisi", "zoo")


@pytest.mark.parametrize("layout", ["bare", "old"])
def test_networks_of_monai(layout, folder):
    source = medlord_bundle(folder / "chest", layout)
    like = tiny_preset(folder / "tiny.json", "medlord-x4")
    package = import_bundle(folder / "chest", "chest", like).package
    state = source["denoiser"].state_dict()
    tensors = package.load_tensors("denoiser")
    assert tensors.keys() == state.keys() and all(torch.equal(tensors[k], v) for k, v in state.items())


def test_yaml(folder):
    yaml = pytest.importorskip("yaml")
    medlord_bundle(folder / "chest")
    config = folder / "chest" / INFERENCE
    content = json.loads(config.read_text(encoding="utf-8"))
    config.unlink()
    # Without aliases, which a list that stands twice would get.
    text = "\n".join(yaml.safe_dump({key: value}) for key, value in content.items())
    config.with_suffix(".yaml").write_text(text, encoding="utf-8")
    assert (
        import_bundle(folder / "chest", "chest", tiny_preset(folder / "tiny.json", "medlord-x4")).package.id == "chest"
    )


def network_def(**changes):
    return lambda config: config["network_def"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            network_def(channels=[8, 32]),
            r"'models/stage two.pth' is not the network 'network_def' .*is \(16,\), not \(32,\)",
        ),
        (
            network_def(out_channels=3),
            r"'models/stage two.pth' is not the network 'network_def' .*is \(4, 8, 3, 3, 3\)",
        ),
        # What the weights do not show: more heads of fewer channels, other groups of the normalisation.
        (network_def(num_head_channels=[0, 4]), r"'network_def::num_head_channels' is \[0, 4\], but .* has \[0, 8\]"),
        (network_def(norm_num_groups=8), r"'network_def::norm_num_groups' is 8, but .* has 4"),
        (network_def(norm_eps=1e-3), r"'network_def::norm_eps' is 0.001, but .* has 1e-06"),
        (lambda c: c["scheduler"].update(num_train_timesteps=1000), r"'scheduler::num_train_timesteps' is 1000"),
        (lambda c: c["scheduler"].update(prediction_type="epsilon"), r"'scheduler::prediction_type' is epsilon"),
        (lambda c: c["scheduler"].update(schedule="linear_beta"), r"'scheduler::schedule' is linear"),
        (
            lambda c: c["scheduler"].update(_target_="scripts.RFlowScheduler"),
            r"'scheduler::_target_' is rectified_flow",
        ),
        (lambda c: c["scheduler"].update(num_train_timesteps=[300]), r"'scheduler::num_train_timesteps' is \[300\]"),
        (lambda c: c["scheduler"].update(num_train_timesteps=True), r"'scheduler::num_train_timesteps' is True"),
        (lambda c: c["scheduler"].update(s=0.5), r"'scheduler::schedule' is cosine with an offset s of 0.5"),
        (lambda c: c["scheduler"].update(beta_start=0.5), r"'scheduler::beta_start' is 0.5, but .* has none"),
        # What is not written down is the class's default.
        (
            lambda c: c.update(scheduler={"_target_": "monai.networks.schedulers.DDPMScheduler"}),
            r"'scheduler::num_train_timesteps \(by default\)' is 1000",
        ),
        (lambda c: c["scheduler"].pop("prediction_type"), r"'scheduler::prediction_type \(by default\)' is epsilon"),
        (lambda c: c["scheduler"].pop("schedule"), r"'scheduler::schedule \(by default\)' is linear"),
        # Another one than the first, one that is referred to, and one within another entry.
        (
            lambda c: c.update(noise_scheduler={"_target_": "x"}) or c["scheduler"].update(num_train_timesteps=7),
            r"'scheduler::num_train_timesteps' is 7",
        ),
        (
            lambda c: c.update(other=c["scheduler"] | {"num_train_timesteps": 7}, scheduler="@other"),
            r"'other::num_train_timesteps' is 7",
        ),
        (
            lambda c: c.update(sampler={"_target_": "S", "by": [c["scheduler"] | {"num_train_timesteps": 7}]}),
            r"'sampler::by::0::num_train_timesteps' is 7",
        ),
        (lambda c: c.update(scheduler="@scheduler"), r"'scheduler' refers to itself"),
        (lambda c: c.update(scheduler="@nowhere"), r"refers to 'nowhere', which is not in the file"),
        (lambda c: c.pop("network_def"), r"defines no denoiser, but 'models/stage two.pth' is one"),
        (network_def(wings=2), r"'network_def' of the bundle: The network DiffusionModelUNet cannot be built"),
        (network_def(channels=[10**9, 16]), r"'network_def.channels\[0\]' must be 0 to"),
    ],
)
def test_a_configuration_that_is_not_of_the_weights(change, message, folder):
    medlord_bundle(folder / "chest")
    edit(folder / "chest" / INFERENCE, change)
    with pytest.raises(ModelError, match=message):
        import_bundle(folder / "chest", "chest", tiny_preset(folder / "tiny.json", "medlord-x4"))
    assert not (folder / "user models" / "chest").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["scheduler"].update(num_train_timesteps=300.0, s=0.008, clip_sample=False),
        lambda c: c["scheduler"].update(_disabled_=True, num_train_timesteps=9),
        lambda c: c.update(other=c.pop("scheduler"), scheduler="@other"),
        lambda c: c.pop("scheduler"),
    ],
)
def test_schedulers_of_the_same_diffusion(change, folder):
    medlord_bundle(folder / "chest")
    edit(folder / "chest" / INFERENCE, change)
    assert import_bundle(folder / "chest", "chest", tiny_preset(folder / "tiny.json", "medlord-x4"))


def test_a_scheduler_of_another_class_than_the_description(folder):
    """MAISI's two denoisers have the same tensors, and are told apart by their schedulers alone."""
    zoo_bundle(folder / "maisi", "maisi-rflow")
    like = tiny_preset(folder / "tiny.json", "maisi-rflow")
    ddpm = {"_target_": "monai.networks.schedulers.DDPMScheduler", "num_train_timesteps": 1000}
    edit(folder / "maisi" / INFERENCE, lambda config: config.update(noise_scheduler=ddpm))
    with pytest.raises(ModelError, match=r"'noise_scheduler::prediction_type \(by default\)' is epsilon"):
        import_bundle(folder / "maisi", "zoo", like)


def test_a_scheduler_of_an_unknown_class_is_told(folder):
    medlord_bundle(folder / "chest")
    edit(folder / "chest" / INFERENCE, lambda c: c["scheduler"].update(_target_="scripts.Mine"))
    package = import_bundle(folder / "chest", "chest", tiny_preset(folder / "tiny.json", "medlord-x4")).package
    assert any("not known here (scripts.Mine)" in note for note in package.spec.provenance["notes"])


@pytest.mark.parametrize("written", [{"num_res_blocks": 1}, {"num_head_channels": [0, 8], "use_flash_attention": True}])
def test_arguments_that_say_the_same(written, folder):
    medlord_bundle(folder / "chest")
    edit(folder / "chest" / INFERENCE, network_def(**written))
    assert import_bundle(folder / "chest", "chest", tiny_preset(folder / "tiny.json", "medlord-x4"))


def test_weights_that_did_not_come_along(folder):
    zoo_bundle(folder / "maisi")
    (folder / "maisi" / "models" / "controlnet_current.pt").unlink()
    (folder / "maisi" / "large_files.yml").write_text("large_files: []\n", encoding="utf-8")
    with pytest.raises(ModelError, match="weights of 'controlnet_def' are not in") as raised:
        import_bundle(folder / "maisi", "zoo", tiny_preset(folder / "tiny.json", "maisi-rflow"))
    assert "large_files" in raised.value.hint


def test_another_network_of_the_same_role_is_left_out(folder):
    medlord_bundle(folder / "chest")
    weights = torch.load(folder / "chest" / "models" / "stage two.pth", weights_only=True)
    other = {k: v for k, v in weights.items() if not k.startswith("out.")}
    torch.save(other, folder / "chest" / "models" / "a_draft.pt")
    package = import_bundle(folder / "chest", "chest", tiny_preset(folder / "tiny.json", "medlord-x4")).package
    assert any("a_draft.pt" in note for note in package.spec.provenance["notes"])


def test_a_disabled_network_is_passed_over(folder):
    medlord_bundle(folder / "chest")
    draft = definition(NETWORKS["medlord-x4"]["denoiser"]) | {"channels": "$len([])", "_disabled_": True}
    edit(folder / "chest" / INFERENCE, lambda config: config.update(draft_def=draft))
    assert import_bundle(folder / "chest", "chest", tiny_preset(folder / "tiny.json", "medlord-x4"))


def test_command(folder, capsys):
    package = make_latent_package(folder / "tiny-limb")
    bundle = export_bundle(package.folder, folder / "out").folder
    assert cli.main(["models", "import", str(bundle), "--as", "back"]) == 0
    assert "exported together, as tiny-limb 1.2.0" in capsys.readouterr().out
    for arguments, message in (
        ([bundle, "--as", "back"], "There is a model 'back' already"),
        ([bundle, "--as", "lung_nodule"], "cannot be the ID"),
        ([bundle, bundle, "--as", "two"], "one bundle at a time"),
        ([bundle, "--as", "two", "--like", "medlord-x4"], "Leave --like out"),
        ([package.folder, "--as", "two"], "models install"),
        ([folder / "none.zip", "--as", "two"], "There is no bundle"),
        ([folder / "shipped", "--as", "two"], "lacks 'configs/metadata.json'"),
    ):
        assert cli.main(["models", "import", *map(str, arguments)]) == 2
        told = capsys.readouterr().err
        assert message in told and len(told.splitlines()) == 1


def test_a_metadata_file_alone_is_no_bundle(folder):
    write_json(folder / "b" / "configs" / "metadata.json", {"version": "1.0.0"})
    with pytest.raises(ModelError, match="lacks 'configs/inference.json'"):
        import_bundle(folder / "b", "b")
    write_json(folder / "b" / INFERENCE, {"network_def": definition(NETWORKS["medlord-x4"]["denoiser"])})
    with pytest.raises(ModelError, match="has no weights in its folder models"):
        import_bundle(folder / "b", "b")
