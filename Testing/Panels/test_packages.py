"""What is installed, by the metadata of this Python, and what the real pip says about it. No network is used."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from installation_fakes import Setup, forgetJobs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture
def setup(tmp_path, monkeypatch):
    made = Setup(tmp_path, monkeypatch)
    yield made
    forgetJobs()


def test_constraints_hold_every_distribution_once(tmp_path, setup, monkeypatch):
    packages = setup.packages
    monkeypatch.setattr(packages, "installedVersions", setup.realInstalledVersions)
    for folder, name, version in (("a", "Odd_Name.x", "1.0"), ("b", "odd-name.X", "2.0"), ("b", "legacy", "2004d-x_y")):
        info = tmp_path / folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "b"))
    monkeypatch.syspath_prepend(str(tmp_path / "a"))
    versions = packages.installedVersions()
    lines = packages.constraintLines(versions)
    names = [Requirement(line).name for line in lines]
    assert len(names) == len(set(names))
    there = {canonicalize_name(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    assert set(names) == there - {"legacy"} and "legacy" in versions
    assert "odd-name-x==1.0" in lines  # the one that is imported
    assert packages.changedVersions(versions, versions | {"new": "1"}) == []


def makeWheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {requires}\n" * bool(requires)
    )
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def dryRun(setup, tmp_path, requirement):
    """Runs the command of `Installation` with the real pip, for one requirement, on wheels in `tmp_path`."""
    setup.versions = {"packaging": importlib.metadata.version("packaging")}
    process = setup.begin()
    words = [word for word in process.command if not (">=" in word and "<" in word or word.startswith("pillow"))]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": tmp_path.as_uri()}
    command = [*words, requirement]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    process.end(ended.returncode, ended.stdout, ended.stderr)


def test_real_pip_reports_what_it_would_install(setup, tmp_path):
    makeWheel(tmp_path, "synth_wheel_a", "1.5", "synth-wheel-b>=2")
    makeWheel(tmp_path, "synth_wheel_b", "2.1")
    dryRun(setup, tmp_path, "synth-wheel-a")
    ((summary, packages),) = setup.shown
    assert packages == ["synth_wheel_a 1.5 (size not known)", "synth_wheel_b 2.1 (size not known)"]
    assert setup.installation.state == "installing"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("synth_wheel_b")


def test_real_pip_refuses_under_the_constraints(setup, tmp_path):
    makeWheel(tmp_path, "packaging", "9999")
    makeWheel(tmp_path, "synth_wheel_a", "1.5", "packaging>=9999")
    dryRun(setup, tmp_path, "synth-wheel-a")
    assert setup.shown == [] and setup.packaging.calls == []
    assert f"packaging=={importlib.metadata.version('packaging')}" in setup.installation.message
    assert "another Python" in setup.installation.hint
