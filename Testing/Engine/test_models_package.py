"""Loading packages: by ID and path, tampered with, reaching out of their folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_package
from tiny_package import DESCRIPTION, ROLES, WEIGHTS, edit_description, make_package

from SynthDiffusionLib import resources
from SynthDiffusionLib.errors import ModelError, RunFailed
from SynthDiffusionLib.models import (
    install,
    list_packages,
    load_package,
    seal_package,
    sha256_of,
    user_folder,
    verify,
)
from SynthDiffusionLib.resources import resource_path

ROOT = Path(__file__).resolve().parents[2]
model_folders = tiny_package.model_folders
make_pipe = getattr(os, "mkfifo", None)  # Windows has none


def test_load_by_id_and_by_path(model_folders):
    shipped, user = model_folders
    make_package(shipped / "tiny-ct")
    make_package(user / "other", id="other")
    assert load_package("tiny-ct").folder == shipped / "tiny-ct"
    assert load_package("other").spec.id == "other"
    for path in (user / "other", str(user / "other")):
        package = load_package(path)
        assert package.file("denoiser") == user / "other" / "denoiser.safetensors"
        assert package.file("card").read_text(encoding="utf-8") == "# Tiny\n"
    with pytest.raises(ModelError, match="has no autoencoder"):
        package.file("autoencoder")
    tensors = package.load_tensors()
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in WEIGHTS.items()}
    np.testing.assert_array_equal(tensors["stem.weight"].numpy(), WEIGHTS["stem.weight"])


def test_a_relative_path_and_an_id_are_told_apart(model_folders, tmp_path, monkeypatch):
    shipped, _ = model_folders
    make_package(shipped / "tiny-ct")
    make_package(tmp_path / "here" / "tiny-ct", version="9.9.9")
    make_package(tmp_path / "here" / "mine", id="mine")
    monkeypatch.chdir(tmp_path / "here")
    assert load_package("tiny-ct").spec.version == "1.2.0"
    assert load_package("./tiny-ct").spec.version == "9.9.9"
    assert load_package("mine").spec.id == "mine"


def test_the_user_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(tmp_path / "x"))
    assert user_folder() == tmp_path / "x"
    monkeypatch.delenv("SYNTHDIFFUSION_MODELS")
    assert user_folder().name == "Models" and user_folder().parent.name == "SynthDiffusion"


def test_unknown_id_names_the_closest_and_all(model_folders):
    shipped, user = model_folders
    with pytest.raises(ModelError) as caught:
        load_package("tiny-ct")
    assert "No model is installed" in caught.value.hint
    make_package(shipped / "lung-nodule-ct", id="lung-nodule-ct")
    make_package(user / "tiny-ct")
    with pytest.raises(ModelError) as caught:
        load_package("lung-nodul-ct")
    assert "no model 'lung-nodul-ct'" in caught.value.message
    assert "Did you mean 'lung-nodule-ct'?" in caught.value.hint
    assert "Installed: lung-nodule-ct, tiny-ct" in caught.value.hint
    with pytest.raises(ModelError) as caught:
        load_package("zzz")
    assert "Did you mean" not in caught.value.hint
    with pytest.raises(ModelError, match="is not a folder with a model package"):
        load_package("nowhere/tiny-ct")


def test_same_size_tampering_is_found_by_checksum_and_names_both(tmp_path):
    folder = tmp_path / "tiny-ct"
    package = make_package(folder)
    path = folder / "denoiser.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_package(folder)
    expected = package.spec.files[0].sha256
    assert "'denoiser.safetensors' has been changed or damaged" in caught.value.message
    assert expected[:12] in caught.value.message and expected not in caught.value.message
    assert "sha256" in caught.value.message and "nstall the package again" in caught.value.hint
    assert load_package(folder, verify=False).id == "tiny-ct"  # sizes agree
    found = verify(folder)
    assert not found.ok and [bool(f.problem) for f in found.files] == [True, False, False]


@pytest.mark.parametrize("check", [True, False])
def test_a_truncated_and_a_missing_file_are_found_with_and_without_checksums(tmp_path, check):
    folder = tmp_path / "tiny-ct"
    make_package(folder)
    path = folder / "segmenter.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelError, match=f"{size - 3} bytes instead of {size}"):
        load_package(folder, verify=check)
    path.unlink()
    with pytest.raises(ModelError, match="'segmenter.safetensors' is missing"):
        load_package(folder, verify=check)
    path.mkdir()
    with pytest.raises(ModelError, match="'segmenter.safetensors' is missing"):
        load_package(folder, verify=check)


ESCAPES = [
    "../denoiser.safetensors",
    "sub/../../denoiser.safetensors",
    "/etc/denoiser.safetensors",
    "sub/denoiser.safetensors",
    "..\\denoiser.safetensors",
    "sub\\denoiser.safetensors",
    "C:\\denoiser.safetensors",
    "C:denoiser.safetensors",
    "\\\\server\\share\\denoiser.safetensors",
    "file:///denoiser.safetensors",
    "~/denoiser.safetensors",
    "~root.safetensors",
    "denoiser.safetensors:stream.safetensors",
    "..",
    ".",
    "./denoiser.safetensors",
]
NO_NAMES = [
    ".hidden.safetensors",
    "denoiser.safetensors\n",
    "denoiser.safetensors\0",
    "denoiser.safetensors ",
    "denoiser.safetensors.",
    "de\u2044noiser.safetensors",
    "x" * 200 + ".safetensors",
    "con.safetensors",
    "NUL",
    "model.json",
    "MODEL.JSON",
]


@pytest.mark.parametrize("name", ESCAPES + NO_NAMES)
def test_no_path_leaves_the_folder(tmp_path, name):
    folder = tmp_path / "package" / "tiny-ct"
    make_package(folder)
    shutil.copy(folder / "denoiser.safetensors", tmp_path / "package" / "denoiser.safetensors")
    edit_description(folder, lambda data: data["files"][0].update(path=name))
    with pytest.raises(ModelError) as caught:
        load_package(folder)
    if name in ESCAPES:
        assert "path outside its folder" in caught.value.message
    assert "\n" not in caught.value.one_line()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = tmp_path / "tiny-ct"
    make_package(folder)
    shutil.move(folder / "denoiser.safetensors", tmp_path / "elsewhere.safetensors")
    os.symlink(tmp_path / "elsewhere.safetensors", folder / "denoiser.safetensors")
    for check in (True, False):
        with pytest.raises(ModelError, match="a link that leaves"):
            load_package(folder, verify=check)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_package_folder_that_is_itself_a_link_is_fine(tmp_path):
    make_package(tmp_path / "real")
    os.symlink(tmp_path / "real", tmp_path / "link")
    assert load_package(tmp_path / "link").id == "tiny-ct"


def test_weights_that_are_no_safetensors_are_refused_when_sealed(tmp_path):
    make_package(tmp_path)
    (tmp_path / "denoiser.safetensors").write_bytes(b"\x80\x04not tensors" * 20)
    with pytest.raises(ModelError, match="not a valid safetensors file"):
        seal_package(tmp_path, DESCRIPTION, ROLES)
    assert not list(tmp_path.glob("*part*"))


def test_list_shows_damaged_packages_and_goes_on(model_folders):
    shipped, user = model_folders
    make_package(shipped / "good", id="good")
    for name in ("cut", "no-json", "odd", "misnamed", "no-weights"):
        make_package(user / name, id="other" if name == "misnamed" else name)
    (user / "cut" / "model.json").write_text("{", encoding="utf-8")
    (user / "no-json" / "model.json").unlink()
    edit_description(user / "odd", lambda data: data.update(grid=3))
    (user / "no-weights" / "denoiser.safetensors").unlink()
    (user / "a file").write_text("", encoding="utf-8")
    (user / ".unfinished-1").mkdir()
    entries = {e.id: e for e in list_packages()}
    assert set(entries) == {"good", "cut", "no-json", "odd", "misnamed", "no-weights"}
    assert [e.id for e in entries.values() if not e.problem] == ["good"]
    assert "damaged" in entries["cut"].problem and entries["cut"].spec is None
    assert "cannot be read" in entries["no-json"].problem
    assert "'grid' must be an object" in entries["odd"].problem
    assert "holds the package 'other'" in entries["misnamed"].problem
    assert "missing" in entries["no-weights"].problem and entries["no-weights"].spec.id == "no-weights"
    assert (entries["good"].origin, entries["cut"].origin) == ("shipped", "user")
    with pytest.raises(ModelError, match="holds the package 'other'"):
        load_package("misnamed")


def test_resources_are_found_and_their_absence_is_named(monkeypatch, tmp_path):
    assert resource_path("Schemas", "model.schema.json").is_file()
    assert not resource_path("Models", "no-such-model").exists()
    with pytest.raises(ValueError, match="leads out"):
        resource_path("..", "SynthDiffusionLib")
    # A folder of that name that belongs to somebody else is passed over.
    (tmp_path / "Resources" / "Icons").mkdir(parents=True)
    (tmp_path / "ours" / "LabelSchemes").mkdir(parents=True)
    (tmp_path / "ours" / "Schemas").mkdir()
    resources._root.cache_clear()
    try:
        monkeypatch.setattr(resources, "_candidates", lambda: [tmp_path / "Resources", tmp_path / "ours"])
        assert resource_path("Models") == tmp_path / "ours" / "Models"
        resources._root.cache_clear()
        monkeypatch.setattr(resources, "_candidates", lambda: [tmp_path / "Resources"])
        with pytest.raises(RunFailed, match="Resources folder of SynthDiffusion is missing"):
            resource_path("Models")
    finally:
        resources._root.cache_clear()


def test_a_model_folder_that_is_a_file_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="Cannot read the model folder"):
        list_packages()


def test_importing_models_loads_nothing_heavy():
    code = "import sys, SynthDiffusionLib.models, SynthDiffusionLib.labels, SynthDiffusionLib.cli.models_command as c\n"
    code += "print([m for m in ('torch', 'monai', 'pydicom') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(make_pipe is None, reason="this system has no pipes among its files")
def test_a_pipe_is_not_waited_for(model_folders, tmp_path):
    make_package(tmp_path / "p")
    (tmp_path / "p" / "model.json").unlink()
    make_pipe(tmp_path / "p" / "model.json")
    make_pipe(tmp_path / "p.zip")
    with pytest.raises(ModelError, match="not a regular file"):
        load_package(tmp_path / "p")
    with pytest.raises(ModelError, match="not a regular file"):
        install(tmp_path / "p.zip")


@pytest.mark.parametrize("text", ["a" * 5000, "./" + "a" * 5000, "./a\0b", "a\0b", "~nobody-of-this-name/x"])
@pytest.mark.parametrize("use", [load_package, verify, install])
def test_text_that_can_be_no_path(model_folders, use, text):
    with pytest.raises(ModelError) as caught:
        use(text)
    assert len(caught.value.one_line()) < 400


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_refused(tmp_path, dtype, value):
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "p"
    make_package(folder)
    weights = {"a": torch.ones(5), "b": torch.full((3, 2), -60000.0, dtype=getattr(torch, dtype))}

    def seal():
        save_file(weights, folder / "denoiser.safetensors")
        file = folder / "denoiser.safetensors"
        entry = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        edit_description(folder, lambda data: data["files"][0].update(entry))

    seal()
    load_package(folder)
    weights["b"][2, 1] = float(value)
    seal()
    with pytest.raises(ModelError, match="not finite, in the tensor 'b'"):
        load_package(folder)
