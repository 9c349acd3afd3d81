"""What the set-up panel installs is what pyproject.toml asks for, and its sizes are those of these packages."""

from __future__ import annotations

import importlib.metadata
import json
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from SynthDiffusionLib.jobs.probe import read_requirements

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SIZES = json.loads((ROOT / "Resources" / "Requirements" / "sizes.json").read_text(encoding="utf-8"))


def test_the_files_hold_what_the_project_depends_on():
    """The engine's Python is given torch by the PyTorch extension, and all else from engine.txt."""
    engine, torch = (read_requirements(name) for name in ("engine.txt", "torch.txt"))
    assert [line for _, line in engine] == [d for d in PROJECT["dependencies"] if Requirement(d).name != "torch"]
    assert [line for _, line in torch] == [d for d in PROJECT["dependencies"] if Requirement(d).name == "torch"]
    assert [line for _, line in read_requirements("dicom.txt")] == PROJECT["optional-dependencies"]["dicom"]


@pytest.mark.parametrize("file", ["engine.txt", "torch.txt", "dicom.txt"])
def test_the_lines_are_what_the_probe_can_read(file):
    for name, line in read_requirements(file):
        parsed = Requirement(line)
        assert parsed.name == name and not parsed.extras and parsed.marker is None and parsed.url is None
        assert {s.operator for s in parsed.specifier} <= {">=", "<"}


def test_sizes_are_of_packages_that_do():
    measured = {canonicalize_name(name): entry for name, entry in SIZES["packages"].items()}
    for name, line in read_requirements("engine.txt"):
        entry = measured[canonicalize_name(name)]
        assert Requirement(line).specifier.contains(entry["version"]), f"measure again: {name} {entry['version']}"
    assert "torch" not in measured
    for name, entry in measured.items():
        assert Version(entry["version"]) and 5_000 < entry["bytes"] < 200_000_000, name
    assert set(SIZES["measured_with"]) == {"python", "system", "machine", "torch", "date"}


def needed(names: set[str]) -> set[str]:
    """The distributions that these need by the metadata of what is installed here, without extras."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name in found or name == "torch":
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": "", "python_version": "3.12"}):
                names.add(canonicalize_name(requirement.name))
    return found


def test_sizes_leave_out_nothing():
    """Held against the metadata of the packages in this environment, which pip has not been asked about."""
    try:
        wanted = needed({canonicalize_name(name) for name, _ in read_requirements("engine.txt")})
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    measured = {canonicalize_name(name) for name in SIZES["packages"]}
    assert not wanted - measured, "run Testing/Packaging/measure_requirements.py"
