"""A preflight says what the run says: the same plan for a good request, the same refusal for a bad one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_process import labels, save
from tiny_package import DESCRIPTION, edit_description, make_working_package

from SynthDiffusionLib.backends import load_backend, patch_ddpm
from SynthDiffusionLib.errors import SynthDiffusionError
from SynthDiffusionLib.jobs import GenerateRequest, run, timings
from SynthDiffusionLib.jobs.preflight import Device, main, preflight
from SynthDiffusionLib.memory import working_grids
from SynthDiffusionLib.memory.figures import Figures
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.resources import resource_path

ROOT = Path(__file__).resolve().parents[2]
FREE = 8 * 1024**3
CPU = Device("cpu", "a processor", FREE, "fp32")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with models, segmentations and volumes, good and bad."""
    folder = tmp_path_factory.mktemp("pre flight")
    make_working_package(folder / "models" / "tiny-ct")
    make_working_package(folder / "models" / "no-inpainting", id="no-inpainting", modes=["whole"])
    sampling = {"default_sampler": "ddim", "default_steps": 2, "samplers": ["ddim"]}
    diffusion = DESCRIPTION["diffusion"] | {"train_steps": 300}
    make_working_package(folder / "models" / "one-sampler", id="one-sampler", sampling=sampling, diffusion=diffusion)
    make_working_package(folder / "models" / "of-tomorrow", id="of-tomorrow", backend="of_tomorrow")
    make_working_package(folder / "models" / "damaged", id="damaged")
    (folder / "models" / "damaged" / "denoiser.safetensors").write_bytes(b"damaged")
    make_working_package(folder / "models" / "invalid", id="invalid")
    edit_description(folder / "models" / "invalid", lambda data: data.update(modality="PET"))
    save(folder / "seg.nii.gz", labels())
    save(folder / "large.nii.gz", labels((90, 50, 50)))
    save(folder / "empty.nii.gz", np.zeros((20, 20, 20), np.uint8))
    save(folder / "unknown.nii.gz", labels() * 40)
    save(folder / "lung.nii.gz", labels() * 0 + 2)
    save(folder / "wide.nii.gz", labels((60, 60, 60), slice(5, 50)))
    save(folder / "image.nii.gz", np.full((20, 20, 20), -700, np.int16))
    save(folder / "wide image.nii.gz", np.full((60, 60, 60), -700, np.int16))
    save(folder / "unsigned.nii.gz", np.full((20, 20, 20), 300, np.uint16))
    save(folder / "elsewhere.nii.gz", np.full((20, 20, 20), -700, np.int16), np.diag([1.0, 1, 1, 1]) + _shift(500))
    (folder / "cut.nii.gz").write_bytes((folder / "seg.nii.gz").read_bytes()[:60])
    (folder / "a file").write_text("mine", encoding="utf-8")
    return folder


def _shift(mm: float) -> np.ndarray:
    shift = np.zeros((4, 4))
    shift[:3, 3] = mm
    return shift


@pytest.fixture
def request_for(place, tmp_path, monkeypatch) -> Callable[..., GenerateRequest]:
    """Makes a request of names in `place`."""
    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(place / "models"))

    def make(seg: str = "seg.nii.gz", model: str = "tiny-ct", **fields: Any) -> GenerateRequest:
        for name in ("image", "out"):
            if name in fields:
                fields[name] = place / fields[name]
        values = {"out": tmp_path / "out", "device": "cpu", "precision": "fp32", "seed": 1} | fields
        return GenerateRequest(place / seg, model, **values)

    return make


INTO = {"mode": "inpaint", "image": "image.nii.gz"}
BAD = {  # what the message says, and the request
    "no model": ("no model 'tiny-cd'", {"model": "tiny-cd"}),
    "damaged model": ("changed or damaged", {"model": "damaged"}),
    "invalid model": ("not a valid model description", {"model": "invalid"}),
    "backend of another version": ("needs the backend", {"model": "of-tomorrow"}),
    "mode": ("no mode 'inpaint'", {"model": "no-inpainting", **INTO}),
    "sampler": ("Unknown sampler", {"sampler": "dmp"}),
    "sampler of another model": ("does not fit the schedule", {"model": "one-sampler", "sampler": "unipc"}),
    "steps": ("1000 steps were asked for", {"model": "one-sampler", "steps": 1000}),
    "no segmentation": ("does not exist", {"seg": "none.nii.gz"}),
    "damaged segmentation": ("truncated or damaged", {"seg": "cut.nii.gz"}),
    "not a segmentation": ("not an image", {"seg": "a file"}),
    "empty": ("is empty", {"seg": "empty.nii.gz"}),
    "unknown labels": ("only unknown labels", {"seg": "unknown.nii.gz"}),
    "too large": ("covers 90x50x50 mm", {"seg": "large.nii.gz"}),
    "no such class": ("no class of this model", {"labels": {"4": "nodul"}}),
    "no such segment": ("no segment and no value", {"labels": {"77": "nodule"}}),
    "all left out": ("leaves out everything", {"labels": {"1": None, "4": None}}),
    "classes unknown": ("no class of this model", {"classes": ("tumour",)}),
    "classes not drawn": ("None of the classes bone", {"classes": ("bone",)}),
    "only a region to remove": ("Only a region to remove", {"labels": {"4": "remove"}}),
    "no image": ("does not exist", {"mode": "inpaint", "image": "none.nii.gz"}),
    "image elsewhere": ("lie in different places", {"mode": "inpaint", "image": "elsewhere.nii.gz"}),
    "image without sign": ("uint16", {"mode": "inpaint", "image": "unsigned.nii.gz"}),
    "nothing to inpaint": (
        "Nothing is drawn that can be inpainted",
        {"seg": "lung.nii.gz", "labels": {"2": "lung"}, **INTO},
    ),
    "region too large": ("45 x 45 x 45 mm", {"seg": "wide.nii.gz", "mode": "inpaint", "image": "wide image.nii.gz"}),
    "no room for the rim": ("A rim of 20 mm", {"margin_mm": 20.0, **INTO}),
    "output is a file": ("cannot be written to", {"out": "a file"}),
    "Apple's device": ("mps", {"device": "mps"}),
    "no such GPU": ("'cuda:7' is not available", {"device": "cuda:7"}),
    "precision": ("no fp16 kernels", {"precision": "fp16"}),
    "memory limit": ("0.00 GiB may be used", {"vram_limit": 10_000_000}),
}


def outcome(function: Callable[[], Any]) -> dict[str, str]:
    with pytest.raises(SynthDiffusionError) as refused:
        function()
    error = refused.value
    return {"kind": error.kind, "message": error.message, "hint": error.hint, "code": error.exit_code}


@pytest.mark.parametrize("case", BAD)
def test_the_refusal_is_that_of_the_run(request_for, tmp_path, monkeypatch, case):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cause, fields = BAD[case]
    asked = request_for(**fields)
    before = sorted(tmp_path.rglob("*"))
    said = outcome(lambda: preflight(asked, CPU))
    assert sorted(tmp_path.rglob("*")) == before, "a preflight writes nothing"
    assert cause in said["message"] and said["hint"]
    assert said == outcome(lambda: run(asked))


def test_names_that_are_taken(request_for, tmp_path):
    out = tmp_path / "out"
    (out / "seg_tiny-ct_seed2.png").mkdir(parents=True)
    asked = request_for(samples=2)
    said = outcome(lambda: preflight(asked, CPU))
    assert "is a folder" in said["message"] and said == outcome(lambda: run(asked))
    (out / "seg_tiny-ct_seed2.png").rmdir()
    (out / "seg_tiny-ct_seed1.nrrd").write_bytes(b"mine")
    said = outcome(lambda: preflight(asked, CPU))
    assert "seed1.nrrd" in said["message"] and said == outcome(lambda: run(asked))


def test_what_others_have_taken_of_the_memory(request_for, monkeypatch):
    free = 50_000_000
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free, total=2 * free))
    asked = request_for()
    said = outcome(lambda: preflight(asked, replace(CPU, free_bytes=free)))
    assert said["kind"] == "out_of_memory" and "close other programs" in said["hint"]
    assert said == outcome(lambda: run(asked))


GOOD = {
    "plain": {},
    "guided": {"guidance": 2.0, "steps": 3, "samples": 2},
    "cropped": {"seg": "large.nii.gz", "crop": True, "sampler": "unipc", "vram_limit": 2 * 1024**3},
    "bf16": {"precision": "bf16"},
    "some classes": {"classes": ("nodule",), "labels": {"4": "nodule", "1": "body"}},
    "inpainted": {**INTO, "margin_mm": 3.0, "guidance": 1.0},
    "few steps": {"sampler": "ddpm", "steps": 1},
}


@pytest.mark.parametrize("case", GOOD)
def test_the_plan_is_that_of_the_run(request_for, case):
    asked = request_for(**GOOD[case])
    said = preflight(asked, CPU)
    events: list[dict[str, Any]] = []
    done = run(asked, events.append)
    record = json.loads(done.outputs[0]["provenance"].read_text(encoding="utf-8"))
    plan, settings = record["plan"], record["settings"]
    assert said["grid"] == plan["grid"]
    for name in ("predicted_bytes", "limit_bytes", "strategy", "execution", "precision", "device"):
        assert said[name] == plan[name], name
    for name in ("sampler", "steps", "guidance"):
        assert said[name] == settings[name], name
    assert said["notes"] == record["notes"] == done.notes
    assert said["mapping"] == record["mapping"]
    assert said["evaluations"] == events[-1]["timing"]["evaluations"]
    assert said["fits"] is True and said["free_bytes"] == FREE


def test_what_auto_stands_for_is_told(request_for):
    """The probe looks at the device; the preflight takes its word."""
    asked = request_for(precision="auto", device="auto")
    gpu = Device("cuda:1", "a GPU", 30 * 1024**3, "bf16")
    said = preflight(asked, gpu)
    assert (said["device"], said["precision"]) == ("cuda:0", "bf16")
    assert said["limit_bytes"] == 24 * 1024**3
    assert preflight(replace(asked, device="cuda:1"), gpu)["device"] == "cuda:1"
    assert preflight(asked, CPU)["precision"] == "fp32"


def test_time_is_known_after_a_run(request_for, monkeypatch, tmp_path):
    monkeypatch.setenv("SYNTHDIFFUSION_STATE", str(tmp_path / "state"))
    asked, device = request_for(steps=4), replace(CPU, name=timings.cpu_name())
    assert (preflight(asked, device)["seconds"], preflight(asked, device)["seconds_from"]) == (None, None)
    run(asked)
    said = preflight(asked, device)
    assert said["seconds"] > 0 and (said["seconds_from"], said["runs"]) == ("past runs", 1)
    assert preflight(replace(asked, steps=400), device)["seconds"] > said["seconds"]
    assert preflight(asked, CPU)["seconds"] is None, "it was another device"


def test_weights_and_grids_are_those_of_the_network(request_for):
    for name in ("lung-nodule-ct", "tiny-ct"):
        request_for()
        package = load_package(name)
        backend = load_backend(package)
        assert sum(Figures(package.spec, "cpu", True).weights().values()) == backend.weight_bytes
        for shape in ((1, 1, 1), (40, 41, 47), (64, 50, 33)):
            assert working_grids.padded(package.spec, shape) == backend.working_grid(shape)
    assert patch_ddpm.SMALLEST_SIDE == working_grids.SMALLEST_SIDE


def run_preflight(job: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", "SynthDiffusionLib.jobs.preflight", str(job)]
    device = ["--device", "cpu", "--device-name", "a processor", "--free-bytes", str(FREE)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*command, *device, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_as_a_process(tmp_path):
    """One line, nothing written, and no library loaded that takes seconds."""
    sample = resource_path("Segmentations", "solitary-nodule.seg.nrrd")
    GenerateRequest(sample, "lung-nodule-ct", tmp_path / "out", seed=1).save(tmp_path)
    done = run_preflight(tmp_path, "--precision", "bf16")
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert said["event"] == "done" and said["grid"] == [56, 56, 56] and said["precision"] == "bf16"
    loaded = {entry.rpartition("|")[2].strip().split(".")[0] for entry in done.stderr.splitlines()}
    assert "numpy" in loaded, "the list of imports was not seen"
    assert not loaded & {"torch", "monai", "diffusers", "SimpleITK"}
    assert [p.name for p in tmp_path.iterdir()] == ["request.json"]


def test_a_refusal_as_a_process_is_the_event_of_the_worker(tmp_path, place, capsys):
    asked = GenerateRequest(Path("none.seg.nrrd"), str(place / "models" / "tiny-ct"), Path("out"), precision="fp32")
    asked.save(tmp_path)
    done = run_preflight(tmp_path)
    from SynthDiffusionLib.jobs import worker

    assert worker.main([str(tmp_path)]) == done.returncode == 2
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert json.loads(done.stdout) == events[-1]
    assert events[-1]["event"] == "error" and "none.seg.nrrd" in events[-1]["message"]


def test_arguments(tmp_path, capsys):
    assert main([str(tmp_path), "--device", "gpu", "--device-name", "x", "--free-bytes", "1"]) == 2
    assert "Unknown device 'gpu'" in json.loads(capsys.readouterr().out)["message"]
    assert main([str(tmp_path), "--device", "cpu", "--device-name", "x", "--free-bytes", "1"]) == 2
    assert "request.json" in json.loads(capsys.readouterr().out)["message"]
