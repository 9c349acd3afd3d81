"""The memory limit of a job, and how sizes of memory are written."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_package import Painter, make_working_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import BadInput, OutOfMemory
from SynthDiffusionLib.jobs import runner
from SynthDiffusionLib.memory.fit import GIB
from SynthDiffusionLib.memory.plan import parse_bytes, resolve_plan, resolve_precision
from SynthDiffusionLib.volumes import Volume, write_volume

REQUEST = {"device": "cpu", "precision": "fp32", "bytes_per_voxel": 2000.0, "weight_bytes": 1_000_000}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * GIB),
        ("8 GB", 8_000_000_000),
        ("8G", 8 * GIB),
        ("512MiB", 512 * 1024**2),
        ("512mib", 512 * 1024**2),
        ("1.5GiB", 1_610_612_736),
        ("2TB", 2 * 10**12),
        ("64k", 65536),
        ("1000000", 1_000_000),
        ("1000000 B", 1_000_000),
        (" 3GiB ", 3 * GIB),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-1GiB", "8 parrots", "1e9", "0", "0GiB", "0.1B", "8iB", "8GiBB", "1,5GiB", "nan", "inf", "9" * 400],
)
def test_what_is_no_size(text):
    with pytest.raises(BadInput, match="size of memory") as refused:
        parse_bytes(text)
    assert "24GiB" in refused.value.hint and refused.value.exit_code == 2


def test_the_named_cube_is_the_largest_that_fits():
    limit = 700 * 1024**2
    with pytest.raises(OutOfMemory) as failed:
        resolve_plan(vram_limit=limit, grid=(200, 200, 200), **REQUEST)
    side = int(re.search(r"largest cube that fits is (\d+) voxels a side", failed.value.hint).group(1))
    assert "200x200x200" in failed.value.message and "0.68 GiB may be used" in failed.value.message
    assert "raise --vram-limit" in failed.value.hint and failed.value.exit_code == 1
    plan = resolve_plan(vram_limit=limit, grid=(side, side, side), **REQUEST)
    assert plan.predicted_bytes <= plan.limit_bytes == limit
    with pytest.raises(OutOfMemory):
        resolve_plan(vram_limit=limit, grid=(side + 8, side + 8, side + 8), **REQUEST)


def test_nothing_fits():
    with pytest.raises(OutOfMemory) as failed:
        resolve_plan(vram_limit=500_000, grid=(40, 40, 40), smallest_side=40, **REQUEST)
    assert "Not even the smallest grid, 40 voxels a side, fits: raise --vram-limit" in failed.value.hint
    with pytest.raises(OutOfMemory) as failed:
        resolve_plan(vram_limit=None, grid=(100_000, 100_000, 100_000), **REQUEST)
    assert "close other programs" in failed.value.hint, "no limit was set that could be raised"


def test_limit_on_the_command_line(tmp_path, monkeypatch, capsys):
    package = make_working_package(
        tmp_path / "model",
        grid={
            "spacing_mm": [1, 1, 1],
            "orientation": "LPS",
            "min_size": [1, 1, 1],
            "max_size": [96, 96, 96],
            "divisor": 4,
        },
    )
    write_volume(Volume(np.ones((80, 40, 40), np.uint8), np.eye(4), "label"), tmp_path / "case.nii.gz")
    out = tmp_path / "out"
    arguments = ["generate", str(tmp_path / "case.nii.gz"), "--model", str(package.folder), "--out", str(out)]
    arguments += ["--precision", "fp32"]
    assert cli.main([*arguments, "--vram-limit", "680MiB"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("synthdiffusion: error: A grid of 80x40x40 needs about 0.71 GiB, but 0.66 GiB may be used")
    assert "The largest cube that fits is 40 voxels a side" in line
    assert not Path(out).exists()
    monkeypatch.setattr(runner, "load_backend", lambda package: Painter())
    assert cli.main([*arguments, "--vram-limit", "780MiB"]) == 0


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"avx512_bf16": True}, "bf16"), ({"avx512_bf16": False, "avx512_f": True}, "fp32"), ({}, "fp32")],
)
def test_the_cpu_computes_in_bf16_where_it_can(monkeypatch, capabilities, precision):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", "cpu") == precision
    assert resolve_precision("fp32", "cpu") == "fp32"


def test_a_torch_that_cannot_say_computes_in_fp32(monkeypatch):
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    assert resolve_precision("auto", "cpu") == "fp32"


@pytest.mark.parametrize("model", ["lung-nodule-ct", "limb-tumour-ct", "hippocampus-mr"])
def test_on_the_cpu_the_prediction_is_that_of_a_real_process(tmp_path, model):
    """Peak resident memory of a shipped model's process, looked at while it runs."""
    import subprocess
    import sys
    import time

    import psutil

    from SynthDiffusionLib.resources import resource_path

    sample = "hippocampus" if model == "hippocampus-mr" else "solitary-nodule"
    drawing, labels = resource_path("Segmentations", f"{sample}.seg.nrrd"), []
    if model == "limb-tumour-ct":
        drawing, labels = tmp_path / "limb.nii.gz", ["--labels", '{"3": "muscle", "5": "tumour"}']
        classes = np.full((96, 96, 64), 3, np.uint8)
        classes[30:60, 30:60, 20:40] = 5
        write_volume(Volume(classes, np.diag([-1.953124, -1.953124, 3.27, 1.0]), "label"), drawing)
    command = [sys.executable, "-m", "SynthDiffusionLib", "generate", str(drawing), "--model", model, *labels]
    command += ["--out", str(tmp_path), "--steps", "1", "--guidance", "1", "--seed", "1", "--precision", "fp32"]
    with open(tmp_path / "log.txt", "wb") as log:
        process = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, process.memory_info().rss)
            time.sleep(0.02)
    assert process.returncode == 0, (tmp_path / "log.txt").read_text()
    (record,) = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json")]
    predicted = record["plan"]["predicted_bytes"]
    # PyTorch for GPUs takes more than the CPU build, and Windows counts otherwise.
    assert 0.5 * predicted < peak < 1.3 * predicted, (peak, predicted)


@pytest.mark.parametrize("name", ["med_lsdm", "slice_ldm"])
def test_models_whose_layers_are_counted_are_predicted_alike_by_run_and_preflight(tmp_path, name):
    """`needs` from the files alone, and the grid that the backend works on."""
    from tiny_med_lsdm import make_lsdm_package
    from tiny_slice_ldm import make_joint_package

    from SynthDiffusionLib.backends import load_backend
    from SynthDiffusionLib.memory.needs import WORKSPACE_BYTES, needs_of
    from SynthDiffusionLib.memory.table import stages

    make = make_lsdm_package if name == "med_lsdm" else make_joint_package
    package = make(tmp_path / ("tiny-lsdm" if name == "med_lsdm" else "tiny-joint"))
    needs, backend = needs_of(package), load_backend(package)
    assert needs.weight_bytes == backend.weight_bytes + WORKSPACE_BYTES
    for shape in ((16, 24, 16), (9, 9, 9), (32, 32, 32)):
        grid = needs.working_grid(shape)
        assert grid == backend.working_grid(shape)
        live = max(stage.working_bytes for stage in stages(package.spec, grid, "fp32", margin=1.0))
        assert live <= needs.bytes_per_voxel * grid[0] * grid[1] * grid[2]


def test_a_shallow_volume_takes_a_whole_window(tmp_path):
    """Not the share of a deep one, whose windows are denoised one after the other."""
    from tiny_med_lsdm import make_lsdm_package

    from SynthDiffusionLib.memory.needs import needs_of

    deep = make_lsdm_package(tmp_path / "deep" / "tiny-lsdm")
    grid = deep.spec.raw["grid"] | {"max_size": [48, 48, 16]}
    shallow = make_lsdm_package(tmp_path / "shallow" / "tiny-lsdm", grid=grid | {"default_size": [16, 24, 16]})
    assert needs_of(deep).bytes_per_voxel >= needs_of(shallow).bytes_per_voxel


def test_calibrating_a_model_with_windows(tmp_path, monkeypatch):
    from tiny_med_lsdm import make_lsdm_package

    from SynthDiffusionLib.jobs import calibrate, timings

    recorded = []
    monkeypatch.setattr(timings, "record", recorded.append)
    package = make_lsdm_package(tmp_path / "tiny-lsdm")
    made = calibrate.calibrate(str(package.folder), "cpu", "fp32")
    assert made["seconds_per_evaluation"] > 0 and recorded[0].grid == (48, 48, 48) and recorded[0].evaluations == 2
