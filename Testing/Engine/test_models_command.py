"""`synthdiffusion models`: what is printed, as text and as JSON, and the exit codes."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_package
from safetensors.numpy import save_file
from tiny_package import WEIGHTS, edit_description, make_package

from SynthDiffusionLib.cli import models_command
from SynthDiffusionLib.errors import ModelError

ROOT = Path(__file__).resolve().parents[2]
model_folders = tiny_package.model_folders


@pytest.fixture
def command(capsys):
    parser = argparse.ArgumentParser(prog="synthdiffusion")
    models_command.add_parser(parser.add_subparsers(dest="command"))

    def run(*arguments):
        args = parser.parse_args(["models", *map(str, arguments)])
        assert args.run is models_command.run
        assert models_command.run(args) == 0
        return capsys.readouterr().out.rstrip("\n").splitlines()

    return run


def test_the_life_of_a_package(model_folders, tmp_path, command):
    make_package(model_folders[0] / "shipped", id="shipped")
    make_package(tmp_path / "p")
    assert command("install", tmp_path / "p")[0].startswith("Installed 'tiny-ct' 1.2.0")
    assert "installed already" in command("install", tmp_path / "p")[0]
    table = command("list")
    assert [line.split()[0] for line in table] == ["ID", "shipped", "tiny-ct"]
    assert command("verify", "tiny-ct")[-1] == "tiny-ct: all 3 files are as described"
    save_file({k: v.astype(np.float32) for k, v in WEIGHTS.items()}, tmp_path / "c.safetensors")
    imported = command("import", tmp_path / "c.safetensors", "--as", "mine", "--like", "tiny-ct")
    assert "licence, training data and quality are unknown" in imported[1]
    assert command("remove", "mine")[0].startswith("Removed 'mine'")
    assert command("remove", "tiny-ct")
    assert len(command("list")) == 2


def test_nothing_of_a_package_drives_the_terminal(model_folders, tmp_path, command):
    """A description that could is not installed; what a folder is called, and other characters that do not print, are
    spelled."""
    evil = "a\x1b]0;owned\x07\x1b[31m\u202eb"
    make_package(tmp_path / "p")
    edit_description(tmp_path / "p", lambda data: data.update(name=evil))
    with pytest.raises(ModelError, match=r"'name' holds the character \\x1b") as raised:
        command("install", tmp_path / "p")
    assert raised.value.one_line().isprintable()
    make_package(model_folders[0] / evil, id="tiny-ct")
    make_package(tmp_path / "q", description="soft\u00adhyphen\ufeff")
    assert command("install", tmp_path / "q")
    for arguments in (
        ("list",),
        ("show", "tiny-ct"),
        ("verify", "tiny-ct"),
        ("list", "--json"),
        ("show", "tiny-ct", "--json"),
    ):
        assert all(line.isprintable() for line in command(*arguments)), arguments
    assert "soft\\xadhyphen\\ufeff" in "\n".join(command("show", "tiny-ct"))


@pytest.mark.skipif(sys.platform == "win32", reason="no such file names")
def test_the_name_of_a_checkpoint_does_not_stop_its_import(model_folders, tmp_path, command):
    make_package(tmp_path / "p")
    command("install", tmp_path / "p")
    path = tmp_path / "a\nb\x1b.safetensors"
    save_file({k: v.astype(np.float32) for k, v in WEIGHTS.items()}, path)
    assert command("import", path, "--as", "mine", "--like", "tiny-ct")[0].startswith("Imported 'mine'")


def test_json_is_one_object_on_the_last_line(model_folders, tmp_path, command):
    make_package(tmp_path / "p")
    save_file({k: v.astype(np.float32) for k, v in WEIGHTS.items()}, tmp_path / "c.safetensors")
    installed = json.loads(command("install", tmp_path / "p", "--json")[-1])
    assert installed["id"] == "tiny-ct" and installed["already_installed"] is False
    listed = json.loads(command("list", "--json")[-1])
    assert [(m["id"], m["ok"], m["license"]) for m in listed["models"]] == [("tiny-ct", True, "CC-BY-4.0")]
    (model,) = (m["model"] for m in listed["models"])
    written = json.loads((model_folders[1] / "tiny-ct" / "model.json").read_text(encoding="utf-8"))
    split = written["training"].pop("split")  # lists every case
    assert split
    written["training"]["split_sizes"] = {part: len(cases) for part, cases in split.items()}
    assert model == written
    shown = json.loads(command("show", "tiny-ct", "--json")[-1])
    assert shown["model"] == json.loads((model_folders[1] / "tiny-ct" / "model.json").read_text(encoding="utf-8"))
    assert json.loads(command("verify", "tiny-ct", "--json")[-1])["ok"] is True
    imported = json.loads(command("import", tmp_path / "c.safetensors", "--as", "mine", "--json")[-1])
    assert imported["template"] == "tiny-ct 1.2.0"
    assert json.loads(command("remove", "mine", "--json")[-1])["id"] == "mine"
    assert set(os.listdir(model_folders[1])) == {"tiny-ct"}


def test_show_tells_what_a_user_must_know(model_folders, command):
    package = make_package(model_folders[0] / "tiny-ct")
    text = "\n".join(command("show", "tiny-ct"))
    for expected in (
        "CT of the chest, -1000 to 400 HU",
        "16 x 16 x 16 to 64 x 64 x 64 voxels",
        "lung (1), nodule (2)",
        "CC-BY-4.0",
        "Research only.",
        "LIDC-IDRI (CC BY 3.0)",
        "2 train, 1 validation, 1 test",
        "seconds: 41.2 s",
        "peak bytes: 2.1 GB",
        "ratio, interval: 0.9 to 1.1",
        f"denoiser.safetensors (denoiser, {package.spec.files[0].bytes} bytes)",
        "regions up to 40 mm",
    ):
        assert expected in text, expected
    make_package(model_folders[0] / "bare", id="bare", measured={"quality": {}, "performance": {}})
    assert "not measured" in "\n".join(command("show", "bare"))


def test_damaged_packages_are_listed_and_verify_fails(model_folders, command):
    make_package(model_folders[1] / "tiny-ct")
    (model_folders[1] / "tiny-ct" / "MODEL_CARD.md").write_text("# tiny\n", encoding="utf-8")
    (model_folders[1] / "segments").mkdir()
    table = command("list")
    assert any(line.startswith("segments") and line.endswith("damaged") for line in table)
    listed = {m["id"]: m for m in json.loads(command("list", "--json")[-1])["models"]}
    assert listed["segments"]["model"] is None and listed["tiny-ct"]["model"]["id"] == "tiny-ct"
    assert command("show", "tiny-ct")  # what it says of itself can still be read
    with pytest.raises(ModelError, match="'MODEL_CARD.md' has been changed") as caught:
        command("verify", "tiny-ct")
    assert caught.value.exit_code == 2


def test_an_empty_list_says_what_to_do(model_folders, command):
    assert "models install" in command("list")[0]
    assert json.loads(command("list", "--json")[-1])["models"] == []


@pytest.mark.skipif(
    not (ROOT / "SynthDiffusionLib" / "__main__.py").is_file(), reason="SynthDiffusionLib has no __main__.py yet"
)
def test_an_ascii_terminal(model_folders, monkeypatch, tmp_path):
    make_package(model_folders[0] / "tiny-ct", name="Größe 🙂")
    for action in (["verify", "tiny-ct"], ["show", "tiny-ct"], ["show", "tiny-ct", "--json"]):
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr("sys.stdout", out)
        parser = argparse.ArgumentParser()
        models_command.add_parser(parser.add_subparsers())
        assert models_command.run(parser.parse_args(["models", *action])) == 0
        out.flush()
        text = out.buffer.getvalue().decode("ascii")
    assert json.loads(text)["model"]["name"] == "Größe 🙂"


def test_as_a_process(tmp_path):
    make_package(tmp_path / "p")
    environment = os.environ | {"SYNTHDIFFUSION_MODELS": str(tmp_path / "models")}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "SynthDiffusionLib", "models", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )

    done = run("install", tmp_path / "p", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["id"] == "tiny-ct"
    (tmp_path / "models" / "tiny-ct" / "denoiser.safetensors").write_bytes(b"changed")
    failed = run("verify", "tiny-ct")
    assert failed.returncode == 2
    assert len(failed.stderr.strip().splitlines()) == 1 and "'denoiser.safetensors'" in failed.stderr
    unknown = run("show", "tiny-c")
    assert unknown.returncode == 2 and "Did you mean 'tiny-ct'?" in unknown.stderr
    assert run("explode").returncode == 2
