"""What the probe says of a Python: this one, a bare one, and ones in which something is wrong."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from packaging.requirements import Requirement

from SynthDiffusionLib import __version__
from SynthDiffusionLib.errors import RunFailed
from SynthDiffusionLib.jobs import probe, timings
from SynthDiffusionLib.memory.plan import resolve_precision

ROOT = Path(__file__).resolve().parents[2]
RUN = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module({!r}, run_name='__main__')"


def run_probe(*options: str) -> dict:
    command = [sys.executable, *options, "-c", RUN.format("SynthDiffusionLib.jobs.probe"), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def test_this_python():
    said = run_probe()
    assert said["event"] == "done" and said["version"] == __version__
    assert said["python"] == platform.python_version()
    assert Path(said["executable"]) == Path(sys.executable)
    assert (said["missing"], said["torch"], said["torch_problem"]) == ([], torch.__version__, None)
    assert {entry["name"] for entry in said["missing_dicom"]} <= {"pydicom", "highdicom"}
    cpu = said["devices"][0]
    assert (cpu["id"], cpu["name"], cpu["precision"]) == ("cpu", timings.cpu_name(), resolve_precision("auto", "cpu"))
    assert cpu["total_bytes"] == psutil.virtual_memory().total
    assert 0 < cpu["free_bytes"] < cpu["total_bytes"]
    assert len(said["devices"]) == 1 + (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_a_python_without_any_package():
    said = run_probe("-I", "-S")
    lines = [line for _, line in probe.read_requirements("engine.txt")]
    assert [m["requirement"] for m in said["missing"]] == lines
    assert {m["installed"] for m in said["missing"]} == {None}
    assert [m["name"] for m in said["missing"]] == [Requirement(line).name for line in lines]
    assert [m["requirement"] for m in said["missing_dicom"]] == [
        line for _, line in probe.read_requirements("dicom.txt")
    ]
    assert said["torch"] is None and "not installed" in said["torch_problem"]
    (cpu,) = said["devices"]
    assert cpu["name"] and [cpu[k] for k in ("total_bytes", "free_bytes", "precision")] == [None] * 3


def pretend(monkeypatch, **versions: str | None) -> None:
    """Lets distributions have another version, or be absent."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name not in versions:
            return real(name)
        if versions[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_what_is_missing_or_of_another_version(monkeypatch):
    pretend(monkeypatch, monai=None, nibabel="6.0.1", numpy="1.26.4")
    assert [(m["name"], m["installed"]) for m in probe.missing_packages()] == [
        ("monai", None),
        ("nibabel", "6.0.1"),
        ("numpy", "1.26.4"),
    ]
    assert probe.look_at_torch() == (torch.__version__, None), "torch is looked at all the same"


def test_an_old_torch(monkeypatch):
    pretend(monkeypatch, torch="2.4.1+cu121")
    version, problem = probe.look_at_torch()
    assert version == "2.4.1+cu121" and "2.4.1" in problem and "torch>=2.8,<3" in problem
    assert probe.probe()["devices"][0]["precision"] is None


@pytest.mark.parametrize("error", [OSError("libcudart.so.13: cannot open\n shared object"), ImportError("no torch._C")])
def test_a_torch_that_cannot_be_loaded(monkeypatch, error):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise error

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    version, problem = probe.look_at_torch()
    assert version == importlib.metadata.version("torch")
    assert " ".join(str(error).split()) in problem and "\n" not in problem


def test_gpus(monkeypatch):
    """Two GPUs, the second without bf16; a third one does not answer."""
    current = []

    class Chosen:
        def __init__(self, device: str) -> None:
            self.device = device

        def __enter__(self) -> None:
            current.append(self.device)

        def __exit__(self, *_) -> None:
            current.pop()

    def memory(device: str) -> tuple[int, int]:
        if device == "cuda:2":
            raise RuntimeError("CUDA error: device-side\nassert")
        return {"cuda:0": (20, 24), "cuda:1": (7, 8)}[device]

    fake = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 3,
        mem_get_info=memory,
        get_device_name=lambda device: f"GPU at {device}",
        device=Chosen,
        is_bf16_supported=lambda including_emulation: current[-1] == "cuda:0",
    )
    monkeypatch.setattr(torch, "cuda", fake)
    assert probe.gpus() == [
        {"id": "cuda:0", "name": "GPU at cuda:0", "total_bytes": 24, "free_bytes": 20, "precision": "bf16"},
        {"id": "cuda:1", "name": "GPU at cuda:1", "total_bytes": 8, "free_bytes": 7, "precision": "fp16"},
    ]


def test_an_incomplete_installation_is_told(monkeypatch, capsys):
    def nowhere(*parts: str) -> Path:
        raise RunFailed("The Resources folder of SynthDiffusion is missing", "Install SynthDiffusion again.")

    monkeypatch.setattr(probe, "resource_path", nowhere)
    assert probe.main() == 0
    said = json.loads(capsys.readouterr().out)
    assert said["event"] == "error" and "Resources" in said["message"] and said["hint"]


VERSIONS = (
    "0 0.9 1 1.0 1.0.0 1.4.9 1.5 1.5.0.post1 1.5.1 1.10 2 2.0rc1 2.0.dev3 2.0b2 2.0.0 2.1+cpu 2.13.0+cu130 3 3.0a1"
)


@pytest.mark.parametrize("line", ["a>=1.5,<2", "a>=1.10", "a<3", "a >= 2.0, < 2.10", "a>=1.5.0.1", "a"])
@pytest.mark.parametrize("version", VERSIONS.split())
def test_ranges_are_read_as_packaging_reads_them(line, version):
    assert probe.satisfies(version, line) == Requirement(line).specifier.contains(version, prereleases=True)


def test_a_version_that_is_none():
    assert not probe.satisfies("unknown", "a>=1")
