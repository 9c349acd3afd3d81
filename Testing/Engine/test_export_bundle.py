"""`export bundle`: what `monai.bundle` says of what it writes, and that a run gives the voxels of `generate`."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import tiny_package
import torch
from bundle_examples import ROOT, SCHEMA, monai_bundle, write_json
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out
from tiny_latent import make_latent_package
from tiny_package import edit_description, make_package, make_working_package
from tiny_released import maisi_files, tiny_preset

from SynthDiffusionLib import cli
from SynthDiffusionLib.bundles.inference import sample
from SynthDiffusionLib.bundles.write import export_bundle
from SynthDiffusionLib.errors import BadInput, ModelError, RunFailed
from SynthDiffusionLib.models import import_checkpoint, load_package, sha256_of
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.volumes import Segment, Segmentation, write_segmentation

model_folders = tiny_package.model_folders
SHIPPED = ("lung-nodule-ct", "limb-tumour-ct", "limb-tumour-mr", "hippocampus-mr")
# Networks that a user of MONAI alone can load.
MONAIS = {
    "limb-tumour-ct": {"network_def", "autoencoder_def"},
    "maisi-rflow": {"network_def", "autoencoder_def", "controlnet_def"},
    "maisi-ddpm": {"network_def", "autoencoder_def", "controlnet_def"},
}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def texts(value):
    """All texts anywhere in a configuration, keys too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


@pytest.fixture(params=[*SHIPPED, "maisi-rflow", "maisi-ddpm"])
def exported(request, tmp_path, monkeypatch):
    """A package of each backend, and its bundle."""
    if request.param in SHIPPED:
        package = load_package(request.param)
    else:
        monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(tmp_path / "user"))
        files, _ = maisi_files(tmp_path, request.param)
        package = import_checkpoint(files, "mine", like=tiny_preset(tmp_path / "tiny.json", request.param)).package
    return request.param, package, export_bundle(package.folder, tmp_path / "out")


def test_monai_verifies_it(exported, tmp_path):
    name, package, bundle = exported
    folder = bundle.folder
    meta, config = folder / "configs" / "metadata.json", folder / "configs" / "inference.json"
    schema = write_json(tmp_path / "schema.json", SCHEMA)
    checksum = {"hash_val": sha256_of(schema), "hash_type": "sha256"}
    verify_metadata(meta_file=str(meta), filepath=str(schema), **checksum)  # what is there is not downloaded
    # Another step of the pattern ("8 * n") than the first: the shapes that are given must hold for all.
    verify_net_in_out("network_at_step", meta_file=str(meta), config_file=str(config), device="cpu", n=2, any=3)
    assert not [text for text in texts([read(meta), read(config)]) if text.startswith("$")], "an expression"
    parser = ConfigParser(read(config))
    for role, path in bundle.weights.items():
        stored = torch.load(path, weights_only=True)
        ours = package.load_tensors(role)
        assert stored.keys() == ours.keys() and all(torch.equal(stored[k], t) for k, t in ours.items())
        key = "network_def" if role == "denoiser" else f"{role}_def"
        parser.get_parsed_content(key).load_state_dict(stored)  # strict
        assert read(config)[key]["_target_"].startswith("monai.") == (key in MONAIS.get(name, ()))


def test_its_metadata_say_what_the_package_says(exported):
    _, package, bundle = exported
    spec, said = package.spec, read(bundle.folder / "configs" / "metadata.json")
    assert said["version"] == spec.version and said["version"] in said["changelog"]
    assert said["eval_metrics"] == spec.quality
    assert said["monai_version"] == importlib.metadata.version("monai")
    assert said["numpy_version"] == np.__version__ and torch.__version__.startswith(said["pytorch_version"])
    assert said["required_packages_version"]["SynthDiffusion"]
    assert spec.license.attribution in said["authors"] and spec.license.spdx in said["copyright"]
    assert spec.training.dataset in said["data_source"]
    assert "not for diagnosis" in said["intended_use"] and "synthetic" in said["image_classes"]
    for end in ("inputs", "outputs"):
        for tensor in said["network_data_format"][end].values():
            assert len(tensor["channel_def"]) == tensor["num_channels"]
    drawn = said["synthesis_data_format"]["inputs"]
    assert bool(drawn) == bool({"whole", "inpaint"} & set(spec.modes))
    if drawn:
        assert set(drawn["segmentation"]["channel_def"].values()) == {
            "background",
            *(c.name for c in spec.label_scheme.classes),
        }
    assert tuple(said["synthesis_data_format"]["outputs"]["pred"]["value_range"]) == spec.intensity.range
    licence = (bundle.folder / "LICENSE").read_text(encoding="utf-8")
    assert spec.license.attribution in licence and spec.license.permitted_use in licence
    known = spec.license.spdx != "NOASSERTION"
    assert (f"SPDX-License-Identifier: {spec.license.spdx}" in licence) == known
    assert bool(bundle.notes) != known
    card = package.file("card").read_text(encoding="utf-8")
    assert (bundle.folder / "docs" / "README.md").read_text(encoding="utf-8").endswith(card)


@pytest.fixture
def drawing(tmp_path):
    """A segmentation that the tiny MedLoRD can take, on a grid of its own spacing."""
    labels = np.zeros((16, 24, 16), np.uint8)
    labels[2:14, 3:21, 2:14], labels[5:9, 8:14, 5:9] = 1, 3
    segments = tuple(Segment(n, v) for n, v in (("body", 1), ("tumour", 3)))
    write_segmentation(Segmentation((labels,), np.diag([2.0, 2.0, 3.0, 1.0]), segments), tmp_path / "drawing.seg.nrrd")
    return tmp_path / "drawing.seg.nrrd"


def test_monai_runs_it_to_the_voxels_of_generate(drawing, tmp_path):
    package = make_latent_package(tmp_path / "tiny-limb")
    folder = export_bundle(package.folder, tmp_path / "out").folder
    settings = ("--segmentation", str(drawing), "--seed", "7", "--steps", "3", "--device", "cpu")
    done = monai_bundle("run", folder, "--config_file", "configs/inference.json", *settings)
    assert done.returncode == 0, done.stderr
    (volume,) = (folder / "output").glob("*.nii.gz")
    assert volume.name in done.stdout
    arguments = [str(drawing), "--model", str(package.folder), "--out", str(tmp_path / "ours"), *settings[2:]]
    assert cli.main(["generate", *arguments]) == 0
    ours = tmp_path / "ours" / volume.name
    made, expected = (np.asarray(nib.load(path).dataobj) for path in (volume, ours))
    assert expected.std() > 0 and np.array_equal(made, expected)
    record, ours_record = (read(path.with_name(path.name.replace(".nii.gz", ".json"))) for path in (volume, ours))
    assert record["model"] == ours_record["model"] and record["settings"] == ours_record["settings"]


@pytest.mark.parametrize("settings", [{"size": "16x24x16", "spacing": 2.5}, {"size": [16, 24, 16]}, {}])
def test_without_a_drawing(settings, tmp_path):
    package = make_latent_package(tmp_path / "tiny-limb", controlnet=False, grid=GRID)
    folder = export_bundle(package.folder, tmp_path / "out").folder
    (path,) = sample(folder, tmp_path / "volumes", seed=1, steps=1, device="cpu", **settings)
    volume = nib.load(path)
    assert volume.shape == (16, 24, 16)
    assert volume.header.get_zooms() == ((2.5, 2.5, 2.5) if "spacing" in settings else (2.0, 2.0, 3.0))


GRID = {
    "spacing_mm": [2.0, 2.0, 3.0],
    "orientation": "LPS",
    "min_size": [8, 8, 8],
    "max_size": [48, 48, 48],
    "divisor": 8,
    "default_size": [16, 24, 16],
    "spacing_range_mm": [[1.0, 4.0]] * 3,
}


def test_settings_as_monais_command_line_hands_them_over(drawing, tmp_path):
    """A label map as text becomes a table there, and null a text."""
    package = make_latent_package(tmp_path / "tiny-limb")
    folder = export_bundle(package.folder, tmp_path / "out").folder
    labels = '{"body": "body", "tumour": null}'
    common = ("--segmentation", str(drawing), "--steps", "1", "--device", "cpu")
    command = ("run", folder, "--config_file", "configs/inference.json", *common)
    done = monai_bundle(*command, "--seed", "null", "--labels", labels, "--sampler", "null")
    assert done.returncode == 0, done.stderr
    (record,) = (read(path) for path in (folder / "output").glob("*.json"))
    assert record["settings"]["seed"] >= 0 and "tumour" not in record["given_classes"]
    (path,) = sample(folder, tmp_path / "v", seed=None, labels=json.loads(labels), segmentation=drawing, steps=1)
    assert "seed" in path


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (("--steps", "5000"), "synthdiffusion: error: 5000 steps were asked for. Give --steps"),
        (("--steps", "few"), "synthdiffusion: error: The setting 'steps' cannot be \"few\". Give it as the first"),
        (("--segmentation", "none.nrrd"), "synthdiffusion: error: "),
    ],
)
def test_an_ordinary_mistake_is_said_before_monais_traceback(setting, line, tmp_path):
    folder = export_bundle(make_latent_package(tmp_path / "tiny-limb").folder, tmp_path / "out").folder
    done = monai_bundle("run", folder, "--config_file", "configs/inference.json", *setting)
    assert done.returncode != 0
    told = [text for text in done.stderr.splitlines() if text.startswith("synthdiffusion: error: ")]
    assert len(told) == 1 and told[0].startswith(line)
    assert done.stderr.index(told[0]) < done.stderr.index("Traceback")


@pytest.mark.parametrize("settings", [{"size": "16x24"}, {"size": 5}, {"spacing": "wide"}, {"spacing": [1.0, 2.0]}])
def test_settings_that_cannot_be(settings, tmp_path):
    folder = export_bundle(make_latent_package(tmp_path / "tiny-limb").folder, tmp_path / "out").folder
    with pytest.raises(BadInput, match="is no (size|spacing)"):
        sample(folder, tmp_path / "volumes", **settings)


def test_a_run_of_changed_weights_says_so(tmp_path):
    package = make_latent_package(tmp_path / "tiny-limb", controlnet=False)
    bundle = export_bundle(package.folder, tmp_path / "out")
    trained = {k: v * 1.01 for k, v in torch.load(bundle.weights["denoiser"], weights_only=True).items()}
    torch.save(trained, bundle.weights["denoiser"])
    (path,) = sample(bundle.folder, tmp_path / "volumes", seed=1, steps=1, device="cpu")
    record = read(tmp_path / "volumes" / (path.rsplit("/", 1)[-1].replace(".nii.gz", ".json")))
    assert record["model"]["version"] == f"{package.spec.version}+changed"


def test_a_bundle_of_somebody_else_is_not_run(tmp_path):
    write_json(tmp_path / "theirs" / "configs" / "metadata.json", {"version": "1.0.0"})
    with pytest.raises(ModelError, match="was not exported by SynthDiffusion"):
        sample(tmp_path / "theirs")


def test_command(tmp_path, capsys):
    make_working_package(tmp_path / "tiny-ct")
    arguments = ["export", "bundle", str(tmp_path / "tiny-ct"), "--out", str(tmp_path / "out"), "--json"]
    assert cli.main(arguments) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["folder"] == str(tmp_path / "out" / "tiny-ct") and set(told["weights"]) == {"denoiser"}
    assert cli.main(arguments) == 2, "the folder is there"
    assert "there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("medlord-x4", "is a preset"),
        ("lung-nodul-ct", "no model"),
        (str(resource_path("Models")), "not a model package"),
    ],
)
def test_models_that_cannot_be_exported(model, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        export_bundle(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "of_a_later_version"}, "the backend 'of_a_later_version'"),
        ({"damaged": True}, "changed or damaged"),
    ],
)
def test_a_package_that_cannot_be_exported_leaves_nothing(change, message, tmp_path):
    package = make_package(tmp_path / "tiny-ct")
    if "damaged" in change:
        content = bytearray(package.file("denoiser").read_bytes())
        content[-1] ^= 1
        package.file("denoiser").write_bytes(content)
    else:
        edit_description(package.folder, lambda data: data.update(change))
    with pytest.raises(ModelError, match=message):
        export_bundle(package.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_killed_export_has_left_goes_with_the_next(tmp_path):
    package, out = make_working_package(tmp_path / "tiny-ct"), tmp_path / "out"
    code = f"""
import os, sys
from pathlib import Path
from SynthDiffusionLib.output_folders import staging_folder
with staging_folder(Path({str(out)!r})) as staging:
    (staging / "new").mkdir()
    (staging / "new" / "model.pt").write_bytes(b"half")
    print("begun", flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout.readline().strip() == b"begun"
    (out / ".part-mine").mkdir()  # nobody says whose it is
    export_bundle(package.folder, out)
    assert len(list(out.glob(".part-*"))) == 2, "the other export is at work"
    child.kill()
    child.communicate()
    (out / "tiny-ct").rename(tmp_path / "first")
    export_bundle(package.folder, out)
    assert [path.name for path in out.glob(".part-*")] == [".part-mine"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    package = make_working_package(tmp_path / "tiny-ct")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(RunFailed, match="No space|full"):
        export_bundle(package.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
