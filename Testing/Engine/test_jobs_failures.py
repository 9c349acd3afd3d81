"""`jobs.run` when something goes wrong on the way: nothing half-written stays; and the scenes that it has written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_package import Painter, edit_description, make_working_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.backends import patch_ddpm
from SynthDiffusionLib.errors import BadInput, Cancelled, MissingExtra, RunFailed
from SynthDiffusionLib.jobs import GenerateRequest, run, runner, scene_export


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return make_working_package(tmp_path_factory.mktemp("model") / "tiny-ct").folder


@pytest.fixture
def model(package, monkeypatch) -> str:
    """The model, on grids as small as 16 voxels a side."""
    monkeypatch.setattr(patch_ddpm, "SMALLEST_SIDE", 16)
    return str(package)


@pytest.fixture
def painter(package, monkeypatch) -> Painter:
    """Stands for the network: what it paints shows where every class has ended up."""
    fake = Painter()
    monkeypatch.setattr(runner, "load_backend", lambda package: fake)
    return fake


def nested() -> np.ndarray:
    """Body with a nodule."""
    array = np.ones((14, 14, 14), np.uint8)
    array[4:8, 5:9, 4:8] = 4
    return array


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, descrip: str = "") -> Path:
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    image.header["descrip"] = descrip.encode()
    nib.save(image, path)
    return path


def test_cancelled_runs_leave_nothing(model, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested())
    steps = []
    with pytest.raises(Cancelled) as cancelled:
        run(
            GenerateRequest(seg, model, tmp_path / "out", seed=1, steps=50),
            lambda e: steps.append(e.get("step")),
            should_cancel=lambda: len(steps) > 7,
        )
    assert cancelled.value.exit_code == 130
    assert len(steps) < 12 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("full_at", [".nii.gz", ".json", ".png"])
def test_a_disk_that_fills_up_leaves_no_volume_without_its_provenance(painter, package, tmp_path, monkeypatch, full_at):
    seg = save(tmp_path / "case.nii.gz", nested())
    out = tmp_path / "out"
    replace = os.replace

    def full(source, target):
        if str(target).endswith(full_at):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunFailed, match="No space left") as failed:
        run(GenerateRequest(seg, str(package), out, seed=1))
    assert failed.value.exit_code == 1 and not out.exists()
    monkeypatch.undo()
    monkeypatch.setattr(runner, "load_backend", lambda package: painter)
    run(GenerateRequest(seg, str(package), out, seed=1))
    assert len(list(out.iterdir())) == 3


def test_an_earlier_result_survives_a_failed_run(painter, package, tmp_path, monkeypatch):
    seg = save(tmp_path / "case.nii.gz", nested())
    out = tmp_path / "out"
    run(GenerateRequest(seg, str(package), out, seed=1))
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def broken(*_, **__):
        raise RunFailed("broken")

    monkeypatch.setattr(Painter, "sample", broken)
    with pytest.raises(RunFailed):
        run(GenerateRequest(seg, str(package), out, seed=1))
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.parametrize("at", [".nii.gz", ".json", ".png"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_earlier_result_survives_a_run_that_ends_while_it_writes(painter, package, tmp_path, monkeypatch, at, error):
    seg = save(tmp_path / "case.nii.gz", nested())
    out = tmp_path / "out"
    run(GenerateRequest(seg, str(package), out, seed=1))
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    replace = os.replace

    def ends(source, target):
        if Path(target).parent == out and str(target).endswith(at) and "new" in str(source):
            raise error
        replace(source, target)

    save(tmp_path / "case.nii.gz", np.flip(nested(), 0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", ends)
        with pytest.raises((KeyboardInterrupt, RunFailed)):
            run(GenerateRequest(seg, str(package), out, seed=1))
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    run(GenerateRequest(seg, str(package), out, seed=1))
    assert {p.name for p in out.iterdir()} == set(before) and {p.name: p.read_bytes() for p in out.iterdir()} != before


@pytest.mark.parametrize("at", [".nii.gz", ".json", ".png"])
def test_an_earlier_result_that_cannot_be_moved_away_stays(painter, package, tmp_path, monkeypatch, at):
    """As on Windows, where another program may have the file open."""
    seg = save(tmp_path / "case.nii.gz", nested())
    out = tmp_path / "out"
    run(GenerateRequest(seg, str(package), out, seed=1))
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    replace = os.replace

    def held(source, target):
        if Path(source).parent == out and str(source).endswith(at):
            raise PermissionError(errno.EACCES, "open in another program")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", held)
        with pytest.raises(BadInput, match="no permission"):
            run(GenerateRequest(seg, str(package), out, seed=1))
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_result_that_is_not_a_number_is_refused(model, tmp_path, monkeypatch):
    seg = save(tmp_path / "case.nii.gz", nested())
    monkeypatch.setattr(patch_ddpm, "draw_sample", lambda *_, **__: torch.full((1, 1, 16, 16, 16), float("nan")))
    with pytest.raises(RunFailed, match="not numbers"):
        run(GenerateRequest(seg, model, tmp_path / "out", seed=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["deep/a/b", "x" * 300, "nul\0"])
def test_an_output_folder_that_cannot_be_is_refused_and_no_part_of_it_stays(model, tmp_path, name, monkeypatch):
    seg = save(tmp_path / "case.nii.gz", nested())
    if name == "deep/a/b":
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: (_ for _ in ()).throw(OSError(13, "no")))
    with pytest.raises(BadInput, match="cannot be written to"):
        run(GenerateRequest(seg, model, tmp_path / name, seed=1))
    assert [p.name for p in tmp_path.iterdir()] == ["case.nii.gz"]


# Scenes (what is in them: Testing/Scene).


@pytest.fixture
def scenes(monkeypatch):
    """Stands for the child process that writes scenes: the folders and descriptions that it was given."""
    asked = []

    def write(folder, description):
        for entry in (*description["volumes"], *description["segmentations"]):
            assert Path(entry["path"]).is_file()
        asked.append((folder, description))
        Path(description["output"]).write_bytes(b"scene")

    monkeypatch.setattr(scene_export, "require_scene_writer", lambda: None)
    monkeypatch.setattr(scene_export, "write_scene", write)
    return asked


@pytest.mark.parametrize("mode", ["whole", "inpaint"])
def test_scene_of_every_sample(painter, package, tmp_path, scenes, mode):
    seg = save(tmp_path / "case.nii.gz", nested())
    image = save(tmp_path / "ct.nii.gz", np.full((14, 14, 14), -700, np.int16)) if mode == "inpaint" else None
    result = run(GenerateRequest(seg, str(package), tmp_path / "out", mode, image, seed=1, samples=2, scene=True))
    assert [Path(d["output"]) for _, d in scenes] == [o["scene"].resolve() for o in result.outputs]
    folder, description = scenes[0]
    roles = ["inpainted", "real"] if mode == "inpaint" else ["synthetic"]
    assert [v["role"] for v in description["volumes"]] == roles
    assert description["volumes"][0]["provenance"]["settings"]["seed"] == 1
    assert not folder.exists(), "the copies of the input are removed"
    assert {p.suffix for p in (tmp_path / "out").iterdir()} >= {".mrb", ".json", ".png", ".gz"}


@pytest.mark.parametrize(("error", "log_stays"), [(RunFailed("no scene"), True), (KeyboardInterrupt(), False)])
def test_failed_scene_keeps_the_volume_and_no_copy_of_the_image(
    painter, package, tmp_path, scenes, monkeypatch, error, log_stays
):
    folders = []

    def fail(folder, description):
        folders.append(folder)
        (folder / "scene.log").write_text("why")
        raise error

    monkeypatch.setattr(scene_export, "write_scene", fail)
    seg = save(tmp_path / "case.nii.gz", nested())
    image = save(tmp_path / "ct.nii.gz", np.full((14, 14, 14), -700, np.int16))
    with pytest.raises(type(error)):
        run(GenerateRequest(seg, str(package), tmp_path / "out", "inpaint", image, seed=1, scene=True))
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert ([p.name for p in folders[0].iterdir()] if folders[0].exists() else []) == ["scene.log"] * log_stays
    shutil.rmtree(folders[0], ignore_errors=True)


def test_scene_without_the_extra_is_refused_at_once(painter, package, tmp_path, monkeypatch, capsys):
    def missing():
        raise MissingExtra("--scene", "slicer")

    monkeypatch.setattr(scene_export, "require_scene_writer", missing)
    seg = save(tmp_path / "case.nii.gz", nested())
    out = tmp_path / "out"
    assert cli.main(["generate", str(seg), "--model", str(package), "--out", str(out), "--scene"]) == 2
    assert 'pip install "SynthDiffusion[slicer]"' in capsys.readouterr().err.splitlines()[-1]
    assert not painter.conditions and not out.exists()


def test_another_backend_is_named(package, tmp_path, capsys):
    other = Path(tmp_path / "own")
    make_working_package(other)
    edit_description(other, lambda d: d.update(backend="patch_flow"))
    seg = save(tmp_path / "case.nii.gz", nested())
    assert cli.main(["generate", str(seg), "--model", str(other), "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "needs the backend 'patch_flow'" in line and "Install a newer version" in line
