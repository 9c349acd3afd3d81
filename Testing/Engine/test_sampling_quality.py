"""The quality slider's settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.sampling.quality import QUALITIES, quality_of, quality_settings

ROOT = Path(__file__).resolve().parents[2]
ALL = ["ddpm", "ddim", "dpmpp-2m", "unipc"]


def sampling(sampler: str = "dpmpp-2m", steps: int = 20, samplers: list[str] = ALL) -> dict:
    return {"default_sampler": sampler, "default_steps": steps, "samplers": samplers}


@pytest.mark.parametrize(
    ("section", "train_steps", "expected"),
    [
        (sampling(), 1000, [("dpmpp-2m", 10), ("dpmpp-2m", 20), ("dpmpp-2m", 50)]),
        (sampling("ddim", 50), 1000, [("dpmpp-2m", 25), ("ddim", 50), ("ddim", 125)]),
        (sampling("ddim", 50, ["ddim"]), 1000, [("ddim", 25), ("ddim", 50), ("ddim", 125)]),
        (sampling("ddpm", 300), 300, [("dpmpp-2m", 150), ("ddpm", 300), ("ddpm", 300)]),
        (sampling("unipc", 15), 1000, [("dpmpp-2m", 8), ("unipc", 15), ("unipc", 50)]),
        (sampling("unipc", 7), 40, [("dpmpp-2m", 5), ("unipc", 7), ("unipc", 40)]),
        (sampling("ddim", 3), 1000, [("dpmpp-2m", 3), ("ddim", 3), ("ddim", 50)]),
        (sampling("unipc", 21), 1000, [("dpmpp-2m", 11), ("unipc", 21), ("unipc", 53)]),
    ],
)
def test_settings(section, train_steps, expected):
    assert [quality_settings(name, section, train_steps) for name in QUALITIES] == expected
    for name, (sampler, steps) in zip(QUALITIES, expected):
        found = quality_of(sampler, steps, section, train_steps)
        assert quality_settings(found, section, train_steps) == (sampler, steps)
        if expected.count((sampler, steps)) == 1:
            assert found == name


def test_settings_of_none():
    assert quality_of("unipc", 20, sampling(), 1000) is None
    assert quality_of("dpmpp-2m", 21, sampling(), 1000) is None
    with pytest.raises(ValueError, match="'good' is none of"):
        quality_settings("good", sampling(), 1000)


def test_two_qualities_alike_are_the_default():
    assert quality_of("dpmpp-2m", 4, sampling(steps=4), 1000) == "balanced"
    assert quality_of("ddpm", 300, sampling("ddpm", 300), 300) == "balanced"


def test_the_shipped_model_bears_them():
    model = json.loads(resource_path("Models", "lung-nodule-ct", "model.json").read_text(encoding="utf-8"))
    section, train_steps = model["sampling"], model["diffusion"]["train_steps"]
    settings = [quality_settings(name, section, train_steps) for name in QUALITIES]
    assert all(sampler in section["samplers"] and 1 <= steps <= train_steps for sampler, steps in settings)
    steps = [steps for _, steps in settings]
    assert steps == sorted(set(steps)), "each costs more than the one before"


# What Slicer's own process may import, and what that may load beside the standard library.
IN_SLICER = {
    "SynthDiffusionLib.sampling.quality": set(),
    "SynthDiffusionLib.jobs.command_line": set(),
    "SynthDiffusionLib.jobs.request": set(),
    "SynthDiffusionLib.resources": set(),
    "SynthDiffusionLib.errors": set(),
    "SynthDiffusionLib.labels": {"numpy"},
}


@pytest.mark.parametrize("module", IN_SLICER)
def test_what_slicer_imports_loads_no_package(module):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}; print(*sys.modules)"
    options = ["-I"] if IN_SLICER[module] else ["-I", "-S"]
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    packages = {"torch", "monai", "diffusers", "nibabel", "nrrd", "jsonschema", "scipy", "pydicom", "psutil", "PIL"}
    assert not loaded & packages
    assert ("numpy" in loaded) == ("numpy" in IN_SLICER[module])
