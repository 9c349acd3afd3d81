"""What pip installs: a normal and an editable build of this tree, without any download."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed (extra dev)"
)

# Where each installed package comes from.
SOURCES = {
    "SynthDiffusionLib": ROOT / "SynthDiffusionLib",
    "SynthDiffusionScene": ROOT / "SynthDiffusion" / "SynthDiffusionScene",
    "SynthDiffusionResources": ROOT / "Resources",
}
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "*.part")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of what a build reads, for builds write beside their input; its name has a blank and an umlaut."""
    copy = tmp_path_factory.mktemp("clone") / "a clöne"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("SynthDiffusionLib", "SynthDiffusion", "Resources"):
        shutil.copytree(ROOT / name, copy / name, ignore=IGNORED)
    return copy


def build(tree: Path, out: Path, hook: str) -> Path:
    """Calls a PEP 517 hook of setuptools in the tree and unpacks the wheel into `out`, as pip does."""
    code = f"import sys\nfrom setuptools import build_meta\nprint(build_meta.{hook}(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=tree, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (wheel,) = out.glob("*.whl")
    site = out / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.fixture(scope="module")
def site(tree, tmp_path_factory) -> Path:
    """The contents of a normal installation."""
    return build(tree, tmp_path_factory.mktemp("wheel"), "build_wheel")


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not path.name.startswith(".")
        and path.suffix != ".part"
        and "CMakeLists.txt" not in path.name
    }


@pytest.mark.parametrize("package", SOURCES)
def test_wheel_holds_every_file(site, package):
    """All Python files (CMake lists are for Slicer's build), and every resource whatever its suffix."""
    expected = files_below(SOURCES[package])
    assert expected, f"{SOURCES[package]} is empty"
    assert expected - files_below(site / package) == set()


def test_wheel_holds_nothing_else(site):
    top = {path.name for path in site.iterdir()}
    assert {name for name in top if not name.endswith(".dist-info")} == set(SOURCES)


def test_metadata(site):
    (info,) = site.glob("*.dist-info")
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    version = (ROOT / "SynthDiffusionLib" / "__init__.py").read_text(encoding="utf-8").split('__version__ = "')[1]
    assert f"\nVersion: {version.split(chr(34))[0]}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert any((info / "licenses").rglob("LICENSE"))
    scripts = configparser.ConfigParser()
    scripts.read(info / "entry_points.txt", encoding="utf-8")
    assert scripts["console_scripts"]["synthdiffusion"] == "SynthDiffusionLib.cli:main"


PROBE = """
import json, sys
import SynthDiffusionLib, SynthDiffusionScene
from SynthDiffusionLib.resources import resource_path
scheme = resource_path("LabelSchemes", "lung-nodule-ct.json")
assert [entry["name"] for entry in json.loads(scheme.read_text(encoding="utf-8"))][:2] == ["body", "lung"]
samples = sorted(p.name for p in resource_path("Segmentations").glob("*.seg.nrrd"))
print(json.dumps([SynthDiffusionLib.__file__, SynthDiffusionScene.__file__, str(scheme), samples]))
"""


def probe(prelude: str, cwd: Path) -> list:
    """Runs PROBE outside of the clone, and so that the clone is not found by chance."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONUTF8"] = "1"
    result = subprocess.run(
        [sys.executable, "-c", prelude + PROBE],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_normal_installation_finds_its_resources(site, tmp_path):
    lib, scene, scheme, samples = probe(f"import sys; sys.path.insert(0, {str(site)!r})\n", tmp_path)
    for path in (lib, scene, scheme):
        assert Path(path).is_relative_to(site)
    assert Path(scheme).parent.parent.name == "SynthDiffusionResources"
    assert len(samples) == 4


def test_editable_installation_points_into_the_clone(tree, tmp_path):
    site = build(tree, tmp_path, "build_editable")
    # The environment that runs the tests may itself hold an editable installation, of this very clone: forget it.
    prelude = f"""
import site, sys
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
for name in [n for n in sys.modules if n.startswith("__editable__")]:
    del sys.modules[name]
sys.path.insert(0, {str(site)!r})
site.addsitedir({str(site)!r})
"""
    lib, scene, scheme, samples = probe(prelude, tmp_path)
    for path in (lib, scene, scheme):
        assert Path(path).is_relative_to(tree)
    assert len(samples) == 4
