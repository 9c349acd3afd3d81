"""Every file that must ship is named in the CMake files, which is all that Slicer ships."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load_list_files():
    spec = importlib.util.spec_from_file_location("list_files", Path(__file__).with_name("list_files.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


list_files = _load_list_files()


def test_lists_and_addresses_are_in_step():
    for name, text in list_files.updated_texts().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run python Testing/Packaging/list_files.py"


def test_every_python_file_of_the_product_is_listed_once():
    """Counted without list_files: what is on the disk against what the CMake text says."""
    listed = re.findall(r"^  (\S+\.py)$", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"), re.MULTILINE)
    on_disk = [path.relative_to(ROOT).as_posix() for path in (ROOT / "SynthDiffusionLib").rglob("*.py")]
    assert sorted(listed) == sorted(on_disk)


@pytest.fixture
def small_project(tmp_path):
    """A copy of the CMake files with one file for each list, outside of Git."""
    for name in ("CMakeLists.txt", "SynthDiffusion/CMakeLists.txt", "SynthDiffusion.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("SynthDiffusionLib/__init__.py", "SynthDiffusion/SynthDiffusion.py", "Resources/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    _rewrite(tmp_path)
    return tmp_path


def _rewrite(root: Path) -> None:
    for name, text in list_files.updated_texts(root).items():
        (root / name).write_text(text, encoding="utf-8", newline="\n")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("SynthDiffusionLib/sub/new.py", "CMakeLists.txt"),
        ("SynthDiffusionLib/table.json", "CMakeLists.txt"),
        ("Resources/Models/m/model.json", "CMakeLists.txt"),
        ("SynthDiffusion/SynthDiffusionPanels/New.py", "SynthDiffusion/CMakeLists.txt"),
        ("SynthDiffusion/Resources/UI/new.ui", "SynthDiffusion/CMakeLists.txt"),
    ],
)
def test_a_new_file_is_noticed_and_listed(small_project, name, file):
    before = (small_project / file).read_text(encoding="utf-8")
    assert list_files.updated_texts(small_project)[file] == before
    (small_project / name).parent.mkdir(parents=True, exist_ok=True)
    (small_project / name).write_text("", encoding="utf-8")
    after = list_files.updated_texts(small_project)[file]
    assert set(after.splitlines()) - set(before.splitlines()) == {f"  {name.removeprefix('SynthDiffusion/')}"}
    _rewrite(small_project)
    (small_project / name).unlink()
    assert list_files.updated_texts(small_project)[file] == before


def test_caches_are_not_shipped(small_project):
    cache = small_project / "SynthDiffusionLib" / "__pycache__" / "a.cpython-311.pyc"
    cache.parent.mkdir()
    cache.write_bytes(b"")
    assert list_files.shipped_files(small_project) == [
        "Resources/a.json",
        "SynthDiffusion/SynthDiffusion.py",
        "SynthDiffusionLib/__init__.py",
    ]


def test_a_name_that_cmake_would_split_is_refused(small_project):
    (small_project / "Resources" / "two words.json").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="two words.json"):
        list_files.updated_texts(small_project)


def test_one_variable_moves_all_addresses(small_project):
    root_file = small_project / "CMakeLists.txt"
    text = root_file.read_text(encoding="utf-8")
    variable = re.compile(r'set\(SYNTHDIFFUSION_ORGANIZATION "[^"]+"\)')
    root_file.write_text(variable.sub('set(SYNTHDIFFUSION_ORGANIZATION "some-lab")', text), encoding="utf-8")
    _rewrite(small_project)
    texts = [(small_project / name).read_text(encoding="utf-8") for name in ("CMakeLists.txt", "SynthDiffusion.json")]
    owners = re.findall(
        r"https://(?:raw\.githubusercontent|github)\.com/([\w.${}-]+)/SlicerSynthDiffusion", "".join(texts)
    )
    assert set(owners) == {"some-lab", "${SYNTHDIFFUSION_ORGANIZATION}"}
    assert len(owners) >= 4
