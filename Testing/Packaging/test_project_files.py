"""The project's files agree with each other: versions, dependencies, licences, stamps of the Makefile."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import SynthDiffusionLib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def requirements() -> dict[str, Requirement]:
    """Everything that pyproject.toml asks for, extras included, by normalised name."""
    lines = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in parsed if canonicalize_name(r.name) != "synthdiffusion"}


def constraints() -> dict[str, str]:
    """Exact versions of constraints.txt by normalised name."""
    lines = [line for line in text_of("constraints.txt").splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([\w.-]+)==([\d.]+(?:b\d+)?)", line) for line in lines]
    assert all(pairs), "constraints.txt holds something other than name==version"
    return {canonicalize_name(match.group(1)): match.group(2) for match in pairs}


def test_one_version():
    assert re.search(r"^version: (.+)$", text_of("CITATION.cff"), re.M).group(1) == SynthDiffusionLib.__version__
    assert SynthDiffusionLib.__version__ in text_of("CHANGELOG.md")


def test_constraints_lie_within_the_ranges():
    wanted = requirements()
    pinned = constraints()
    for name, version in pinned.items():
        if name in wanted:
            assert wanted[name].specifier.contains(version), f"{name} {version} is outside {wanted[name].specifier}"
    # pre-commit is a tool that never touches the library; setuptools comes with the interpreter's environment.
    assert set(wanted) - set(pinned) == {"pre-commit", "setuptools"}
    assert pinned["slicer-core"] == "5.12.4.0"


def test_one_version_of_ruff():
    pinned = constraints()["ruff"]
    assert set(re.findall(r"ruff==([\d.]+)", text_of(".pre-commit-config.yaml"))) == {pinned}
    assert str(requirements()["ruff"].specifier) == f"=={pinned}"


def test_every_dependency_is_in_the_table():
    rows = re.findall(r"^\| ([\w.-]+) \|", text_of("Docs/DEPENDENCIES.md"), re.M)
    listed = {canonicalize_name(name) for name in rows} - {"package"}
    assert listed == set(requirements())


def licence_of(name: str) -> str:
    """What a distribution's own metadata say about its licence."""
    metadata = importlib.metadata.metadata(name)
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License")]
    return " ".join([metadata.get("License-Expression") or "", (metadata.get("License") or "")[:300], *classifiers])


@pytest.mark.parametrize("name", sorted(requirements()))
def test_no_dependency_is_under_the_gpl(name):
    try:
        licence = licence_of(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert licence.strip(), f"{name} states no licence"
    if name == "pyside6-essentials":  # used by tests only, and offered under the LGPL as well
        assert "LGPL-3.0" in licence
    else:
        assert not re.search(r"\b[AL]?GPL|General Public License", licence), licence


@pytest.fixture
def make_folder(tmp_path):
    """A folder with a blank in its name that holds the Makefile and stand-ins for what it installs."""
    if os.name == "nt" or shutil.which("make") is None:
        pytest.skip("needs make")
    folder = tmp_path / "my clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    # The tests may run under make themselves, whose variables a make below them would take over.
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k not in ("PYTEST_ARGS", "WORKERS")
    }
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fake_python(folder: Path, body: str) -> Path:
    path = folder / "fake python"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_make_refuses_an_old_python(make_folder, tmp_path):
    old = fake_python(tmp_path, 'case "$1" in --version) echo "Python 3.9.18";; *) exit 1;; esac')
    result = make(make_folder, "demo", PYTHON=str(old))
    assert result.returncode != 0
    assert "needs Python 3.11 or 3.12" in result.stderr
    assert "Python 3.9.18" in result.stderr
    assert not (make_folder / ".venv").exists()


def test_make_installs_once(make_folder, tmp_path):
    """Two calls of each target: the second installs nothing; a changed pyproject.toml installs again."""
    log = tmp_path / "log"
    # Stands for the interpreter that is named, and, through "-m venv", for those in the environment.
    script = (
        f'echo "$*" >> "{log}"\n'
        'if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; '
        'cp "$0" "$3/bin/synthdiffusion"; fi\nexit 0'
    )
    python = fake_python(tmp_path, script)

    def calls(*arguments: str) -> list[str]:
        log.write_text("", encoding="utf-8")
        result = make(make_folder, *arguments, PYTHON=str(python))
        assert result.returncode == 0, result.stderr
        return [line for line in log.read_text(encoding="utf-8").splitlines() if not line.startswith(("-c", "--v"))]

    assert calls("demo") == [
        "-m venv .venv",
        "-m pip --disable-pip-version-check install -c constraints.txt -e .[slicer]",
        "demo --out demo-output",
    ]
    assert calls("demo", "OUT=my output") == ["demo --out my output"]
    assert calls("test") == [
        "-m pip --disable-pip-version-check install -c constraints.txt -e .[dev]",
        "-m pytest -n 2 --dist worksteal",
    ]
    assert calls("test", "WORKERS=4", "PYTEST_ARGS=-x") == ["-m pytest -n 4 --dist worksteal -x"]
    assert calls("lint") == ["-m ruff check .", "-m ruff format --check ."]
    assert calls("docs") == [
        "-m pip --disable-pip-version-check install -c constraints.txt -e .[docs]",
        "Docs/Site/build_site.py",
    ]
    assert calls("docs", "DOCS_ARGS=--online") == ["Docs/Site/build_site.py --online"]
    assert calls("demo") == ["demo --out demo-output"]
    later = (make_folder / ".venv" / "stamp-demo").stat().st_mtime + 5
    os.utime(make_folder / "pyproject.toml", (later, later))
    assert any("install" in call for call in calls("demo"))


def test_make_test_fails_when_there_are_no_tests(make_folder, tmp_path):
    (make_folder / ".venv" / "bin").mkdir(parents=True)
    python = fake_python(tmp_path, 'case "$2" in pytest) exit 5;; esac; exit 0')
    shutil.copy(python, make_folder / ".venv" / "bin" / "python")
    result = make(make_folder, "test", PYTHON=str(python))
    assert result.returncode != 0
    assert "No tests were found" in result.stderr


def test_python_range_is_the_same_everywhere():
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert f"not (3, {low}) <= sys.version_info < (3, {high})" in text_of("Makefile")
    assert (3, int(low)) <= sys.version_info[:2] < (3, int(high))
