"""CMake installs every file where Slicer will look for it; the installed tree works, and the archive is the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import build_package
import pytest
from test_file_lists import ROOT, list_files

STUB = Path(__file__).with_name("slicer_stub")
MODULES = "lib/Slicer-5.12/qt-scripted-modules"

# project() of the extension enables C and C++, which a scripted module does not need and a test machine may not have.
DRIVER = """
cmake_minimum_required(VERSION 3.19)
project(driver NONE)
macro(project name)
  set(PROJECT_NAME ${name})
endmacro()
add_subdirectory("@ROOT@" extension)
"""


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """Build and install folders of the extension."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    folder = tmp_path_factory.mktemp("cmake")
    (folder / "driver").mkdir()
    (folder / "driver" / "CMakeLists.txt").write_text(DRIVER.replace("@ROOT@", ROOT.as_posix()), encoding="utf-8")
    configure = [cmake, "-S", folder / "driver", "-B", folder / "build", f"-DSlicer_DIR={STUB.as_posix()}"]
    _run([*configure, "-DBUILD_TESTING=ON"])
    _run([cmake, "--install", folder / "build", "--prefix", folder / "install"])
    return folder


def _run(command):
    answer = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_installed_tree_is_the_repository_flattened(configured):
    tree = configured / "install" / MODULES
    installed = {path.relative_to(tree).as_posix(): path for path in tree.rglob("*") if path.is_file()}
    expected = {name.removeprefix("SynthDiffusion/"): ROOT / name for name in list_files.shipped_files()}
    assert sorted(installed) == sorted(expected)
    for name, source in expected.items():
        assert installed[name].read_bytes() == source.read_bytes(), name


def test_only_the_module_file_lies_where_slicer_takes_every_py_for_a_module(configured):
    assert [path.name for path in (configured / "install" / MODULES).glob("*.py")] == ["SynthDiffusion.py"]


def test_installed_engine_imports_and_finds_its_resources(configured):
    tree = configured / "install" / MODULES
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]);"
        "import SynthDiffusionLib, SynthDiffusionScene;"
        "from SynthDiffusionLib.resources import resource_path;"
        "print(pathlib.Path(SynthDiffusionLib.__file__).parent.parent);"
        "print(resource_path('LabelSchemes', 'lung-nodule-ct.json').is_file(), resource_path().parent)"
    )
    # -I: neither this repository nor an installed copy of it may help out. -B: the tree stays as it was installed.
    answer = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code, str(tree)], capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == [str(tree.resolve()), "True", str(tree.resolve())]


def test_metadata_as_cmake_evaluates_it(configured):
    metadata = json.loads((configured / "build" / "metadata.json").read_text(encoding="utf-8"))
    entry = json.loads((ROOT / "SynthDiffusion.json").read_text(encoding="utf-8"))
    assert metadata["HOMEPAGE"] == entry["scm_url"]
    assert metadata["CATEGORY"] == entry["category"]
    assert metadata["DEPENDS"].split() == entry["build_dependencies"]
    assert all(metadata.values())
    assert "generative" in metadata["DESCRIPTION"].lower()
    assert "not for diagnosis" in metadata["DESCRIPTION"]


def test_archive_holds_what_cmake_installs_and_says_what_cmake_says(configured, tmp_path):
    tree = configured / "install"
    installed = {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    target = build_package.Target("5.12", "34627", "linux")
    path = build_package.build(tmp_path, target)
    with tarfile.open(path) as archive:
        packed = {member.name.split("/", 1)[1]: archive.extractfile(member).read() for member in archive}
    description = packed.pop("share/Slicer-5.12/SynthDiffusion.s4ext").decode("utf-8")
    assert sorted(packed) == sorted(installed)
    assert [name for name, data in installed.items() if packed[name] != data] == []
    values = dict(line.partition(" ")[::2] for line in description.splitlines())
    metadata = json.loads((configured / "build" / "metadata.json").read_text(encoding="utf-8"))
    assert {key: values[key.lower()] for key in metadata} == metadata
