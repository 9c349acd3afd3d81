"""The archive for "Install from file...": compared with the repository, installed as Slicer does, and imported."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import build_package
import pytest
from test_file_lists import ROOT, list_files

REVISION = "34627"
MODULES = "lib/Slicer-5.12/qt-scripted-modules"
S4EXT = "share/Slicer-5.12/SynthDiffusion.s4ext"
LICENCE = "share/Slicer-5.12/qt-scripted-modules/SynthDiffusion/LICENSE"
# Below the archive's top folder, where Slicer looks for the extension.
PREFIX = {"linux": "", "win": "", "macosx": f"Slicer.app/Contents/Extensions-{REVISION}/SynthDiffusion/"}
SYSTEMS = pytest.mark.parametrize("system", sorted(PREFIX))


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, Path]:
    """One archive of this repository for each system."""
    out = tmp_path_factory.mktemp("dist")
    assert build_package.main(["--os", "all", "--out", str(out)]) == 0
    return {path.name.split("-")[1]: path for path in out.iterdir()}


def read(path: Path) -> dict[str, bytes]:
    """Every file of an archive, in its order; anything but plain files fails."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            return {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with tarfile.open(path, "r:gz") as archive:
        members = archive.getmembers()
        assert all(member.isreg() and member.mode == 0o644 and member.uid == 0 for member in members)
        return {member.name: archive.extractfile(member).read() for member in members}


def fields(text: str) -> dict[str, str]:
    """A description file as parseExtensionDescriptionFile reads it: first word the key, runs of blanks as one."""
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {words[0]: " ".join(words[1:]) for words in lines}


def expected_files() -> dict[str, bytes]:
    """What the repository holds for the archive, without the description file; not by way of the CMake lists."""
    files = {f"{MODULES}/{name.removeprefix('SynthDiffusion/')}": ROOT / name for name in list_files.shipped_files()}
    return {name: path.read_bytes() for name, path in {**files, LICENCE: ROOT / "LICENSE"}.items()}


def test_one_archive_for_each_system_under_the_name_that_slicer_gives(archives):
    assert sorted(archives) == sorted(PREFIX)
    for system, path in archives.items():
        suffix = r"\.zip" if system == "win" else r"\.tar\.gz"
        pattern = (
            rf"{REVISION}-{system}-amd64-SynthDiffusion-git([0-9a-f]{{7,}}(-dirty)?|unknown)-\d{{4}}-\d\d-\d\d{suffix}"
        )
        assert re.fullmatch(pattern, path.name)


@SYSTEMS
def test_archive_is_the_repository_byte_for_byte_and_nothing_else(archives, system):
    path = archives[system]
    top = path.name.removesuffix(".zip").removesuffix(".tar.gz") + "/" + PREFIX[system]
    packed = read(path)
    assert {name for name in packed if not name.startswith(top)} == set()
    assert list(packed) == sorted(packed)
    packed = {name.removeprefix(top): data for name, data in packed.items()}
    description = packed.pop(S4EXT)
    assert description.decode("utf-8").splitlines()[0] == "scm git"
    expected = expected_files()
    assert sorted(packed) == sorted(expected)
    assert [name for name, data in expected.items() if packed[name] != data] == []


@SYSTEMS
def test_paths_are_safe_on_every_system(archives, system):
    for name in read(archives[system]):
        path = PurePosixPath(name)
        assert not path.is_absolute() and ".." not in path.parts and str(path) == name
        assert not re.search(r'[\\:*?"<>|\s]', name) and name.isascii(), name
    names = [name.lower() for name in read(archives[system])]
    assert len(names) == len(set(names)), "two names differ in case only"


def test_paths_stay_short_enough_for_windows(archives):
    """260 characters are what Windows takes by default; the user's folder of extensions takes about 115 of them."""
    below_top = [name.split("/", 1)[1] for name in read(archives["win"])]
    assert max(map(len, below_top)) <= 260 - 115


def test_archive_stays_small(archives):
    """A few models of at most 8 MB each; more points to something that does not belong there."""
    for path in archives.values():
        assert 100_000 < path.stat().st_size < 40_000_000


@SYSTEMS
def test_description_says_what_the_index_entry_and_cmake_say(archives, system):
    packed = read(archives[system])
    (name,) = [name for name in packed if name.endswith(".s4ext")]
    found = fields(packed[name].decode("utf-8"))
    entry = json.loads((ROOT / "SynthDiffusion.json").read_text(encoding="utf-8"))
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert list(found) == [
        *("scm", "scmurl", "scmrevision", "depends", "recommends", "build_subdirectory", "homepage", "contributors"),
        *("category", "iconurl", "status", "tier", "description", "screenshoturls", "enabled", "dicom_support_rule"),
        "keywords",
    ]
    assert found["scm"] == "git"
    assert found["scmurl"] == found["homepage"] == entry["scm_url"]
    assert found["scmrevision"] == archives[system].name.split("-git")[1].rsplit("-", 3)[0]
    assert found["depends"].split() == entry["build_dependencies"]
    assert found["category"] == entry["category"]
    assert found["tier"] == str(entry["tier"])
    assert found["build_subdirectory"] == entry["build_subdirectory"]
    assert (found["enabled"], found["recommends"], found["dicom_support_rule"]) == ("1", "NA", "")
    for key in ("contributors", "description", "iconurl", "screenshoturls", "status", "keywords"):
        assert found[key] and f'set(EXTENSION_{key.upper()} "{found[key]}")' in cmake, key


def install(archive: Path, folder: Path, system: str) -> Path:
    """Does what qSlicerExtensionsManagerModel::installExtension does with a file, by Slicer's own archive reader.

    It takes the name of the first .s4ext file, unpacks, takes the first entry's topmost folder for the archive's, goes
    down to the extension's own folder on macOS, and reads the description there. Returns that folder.
    """
    slicer = pytest.importorskip("slicer")
    names: list[str] = []
    assert slicer.vtkArchive.ListArchive(str(archive), names)
    extension = next(PurePosixPath(name).stem for name in names if name.endswith(".s4ext"))
    assert extension == "SynthDiffusion"
    assert slicer.vtkArchive.UnZip(str(archive), str(folder))
    top = PurePosixPath(names[0]).parts[0]
    inner = f"Slicer.app/Contents/Extensions-{REVISION}/{extension}" if system == "macosx" else "."
    installed = folder / top / inner
    assert fields((installed / "share" / "Slicer-5.12" / f"{extension}.s4ext").read_text(encoding="utf-8"))
    return installed


@SYSTEMS
def test_slicers_archive_reader_unpacks_it_to_where_slicer_looks(archives, system, tmp_path):
    installed = install(archives[system], tmp_path, system)
    found = {path.relative_to(installed).as_posix(): path for path in installed.rglob("*") if path.is_file()}
    expected = expected_files()
    assert sorted(found) == sorted([*expected, S4EXT])
    assert [name for name, data in expected.items() if found[name].read_bytes() != data] == []


STUBS = """
import sys, types
names = ("slicer", "slicer.i18n", "slicer.ScriptedLoadableModule")
sys.modules.update({name: types.ModuleType(name) for name in names})
i18n, base = sys.modules[names[1]], sys.modules[names[2]]
i18n.tr, i18n.translate = str, lambda context, text: text
for name in ("Module", "ModuleWidget", "ModuleLogic", "ModuleTest"):
    setattr(base, "ScriptedLoadable" + name, type(name, (), {}))
sys.path.insert(0, sys.argv[1])
"""


def run_unpacked(archive: Path, folder: Path, code: str) -> list[str]:
    """Lines that `code` prints in a bare Python that has the unpacked archive on sys.path, and no installed package."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (tree,) = folder.glob(f"*/{MODULES}")
    command = [sys.executable, "-I", "-S", "-c", STUBS + code, str(tree)]
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert answer.returncode == 0, answer.stderr
    return [line.replace(str(tree), "TREE") for line in answer.stdout.splitlines()]


def test_module_imports_from_the_unpacked_tree_and_finds_engine_and_resources(archives, tmp_path):
    code = (
        "import SynthDiffusion; logic = SynthDiffusion.SynthDiffusionLogic(); print(SynthDiffusion.__file__);"
        "print(logic.engineFolder());"
        "print(*(logic.resourcePath(n) for n in ('LabelSchemes', 'Icons/SynthDiffusion.png')), sep='\\n')"
    )
    lines = run_unpacked(archives["linux"], tmp_path / "an umläut", code)
    assert [Path(line) for line in lines] == [
        Path("TREE/SynthDiffusion.py"),
        Path("TREE"),
        Path("TREE/Resources/LabelSchemes"),
        Path("TREE/Resources/Icons/SynthDiffusion.png"),
    ]


def test_every_import_within_the_project_leads_to_a_file_of_the_archive(archives):
    """Also those inside functions, which a mere import of the module would not reach."""
    top = archives["linux"].name.removesuffix(".tar.gz") + f"/{MODULES}/"
    packed = {n.removeprefix(top): data for n, data in read(archives["linux"]).items() if n.startswith(top)}
    own = {name.split("/")[0] for name in packed if name.endswith("/__init__.py")}
    assert own == {f"SynthDiffusion{layer}" for layer in ("Lib", "Jobs", "Panels", "Scene")}
    count = 0
    for name, data in packed.items():
        for node in ast.walk(ast.parse(data)) if name.endswith(".py") else ():
            named = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in (module for module in named if module.split(".")[0] in own):
                path = module.replace(".", "/")
                assert {f"{path}.py", f"{path}/__init__.py"} & packed.keys(), f"{name}:{node.lineno}: {module}"
                count += 1
    assert count > 50


# The rest is about clones in every state, made of the files that the script reads.


@pytest.fixture
def copy(tmp_path) -> Path:
    """A small project without Git, in a folder whose name has a blank and an umlaut; its file lists are in step."""
    root = tmp_path / "a clöne"
    for name in ("CMakeLists.txt", "SynthDiffusion/CMakeLists.txt", "SynthDiffusion.json", "LICENSE", "Makefile"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, root / name)
    for name in ("SynthDiffusionLib/__init__.py", "SynthDiffusion/SynthDiffusion.py", "Resources/a.json"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(f"# {name}\n", encoding="utf-8")
    (root / "Testing" / "Packaging").mkdir(parents=True)
    for name in ("build_package.py", "list_files.py"):
        shutil.copyfile(ROOT / "Testing" / "Packaging" / name, root / "Testing" / "Packaging" / name)
    for name, text in list_files.updated_texts(root).items():
        (root / name).write_text(text, encoding="utf-8", newline="\n")
    return root


def git(root: Path, *arguments: str) -> str:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    who = {f"GIT_{role}_{what}": "t@t" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    date = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "2026-03-04T23:30:00-02:00")
    answer = subprocess.run(["git", *arguments], cwd=root, env={**os.environ, **who, **date}, capture_output=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.decode("utf-8").strip()


@pytest.fixture
def clone(copy) -> Path:
    """The same as a clone with one commit, of 5 March 2026 in UTC."""
    git(copy, "init", "--quiet")
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "first")
    return copy


def script(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs the script of `root`, as from a shell, for Linux unless `arguments` name a system."""
    command = [
        sys.executable,
        "-S",
        str(root / "Testing" / "Packaging" / "build_package.py"),
        "--os",
        "linux",
        *arguments,
    ]
    inherited = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    return subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, timeout=60)


def build(root: Path, *arguments: str, **environment: str) -> Path:
    """The archive that the script writes into `root`'s dist folder."""
    shutil.rmtree(root / "dist", ignore_errors=True)
    answer = script(root, *arguments, **environment)
    assert answer.returncode == 0, answer.stderr
    (path,) = (root / "dist").iterdir()
    return path


def refusal(root: Path, *arguments: str, **environment: str) -> str:
    """The one line by which the script refuses; nothing must have been written."""
    answer = script(root, *arguments, **environment)
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (2, "", 1), answer.stderr
    assert not list((root / "dist").glob("*"))
    return answer.stderr


@SYSTEMS
def test_same_commit_gives_the_same_bytes(clone, system):
    first = build(clone, "--os", system)
    before = (first.name, first.read_bytes())
    for index, path in enumerate(clone.rglob("*.*")):
        os.utime(path, (10**9 + index, 10**9 + index))
    (clone / "SynthDiffusionLib" / "__pycache__").mkdir()
    (clone / "SynthDiffusionLib" / "__pycache__" / "a.cpython-312.pyc").write_bytes(b"cache")
    (clone / ".git" / "info" / "exclude").write_text("__pycache__\ndist\n", encoding="utf-8")
    again = build(clone, "--os", system, TZ="America/Los_Angeles")
    assert (again.name, again.read_bytes()) == before


def test_commit_and_its_date_are_in_the_name_and_on_every_file(clone):
    path = build(clone)
    commit = git(clone, "rev-parse", "--short=7", "HEAD")
    assert path.name == f"{REVISION}-linux-amd64-SynthDiffusion-git{commit}-2026-03-05.tar.gz"
    with tarfile.open(path) as archive:
        assert {member.mtime for member in archive} == {int(git(clone, "log", "-1", "--format=%ct"))}


@pytest.mark.parametrize("name", ["Resources/a.json", "CMakeLists.txt", "LICENSE"])
def test_a_changed_tree_shows_in_the_name_and_in_the_description(clone, name):
    with (clone / name).open("a", encoding="utf-8") as file:
        file.write("\n")
    path = build(clone)
    assert "-dirty-2026-03-05.tar.gz" in path.name
    packed = read(path)
    assert packed[f"{path.name.removesuffix('.tar.gz')}/{S4EXT}"].count(b"-dirty\n") == 1


def test_what_is_not_packed_makes_no_difference(clone):
    (clone / "notes.txt").write_text("not part of the extension", encoding="utf-8")
    assert "dirty" not in build(clone).name


def test_without_git_the_newest_file_gives_the_date(copy):
    for path in copy.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    os.utime(copy / "Resources" / "a.json", (1_700_000_000, 1_700_000_000))
    assert build(copy).name == f"{REVISION}-linux-amd64-SynthDiffusion-gitunknown-2023-11-14.tar.gz"


def test_a_copy_within_another_repository_does_not_take_its_commit(copy):
    git(copy.parent, "init", "--quiet")
    git(copy.parent, "commit", "--quiet", "--allow-empty", "--message", "not ours")
    assert "-gitunknown-" in build(copy).name


def test_source_date_epoch_is_honoured(clone):
    path = build(clone, "--os", "win", SOURCE_DATE_EPOCH="1000000000")
    assert path.name.endswith("-2001-09-09.zip")
    with zipfile.ZipFile(path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(2001, 9, 9, 1, 46, 40)}
    assert build(clone, SOURCE_DATE_EPOCH="0").name.endswith("-1970-01-01.tar.gz")
    assert "zip" in build(clone, "--os", "win", SOURCE_DATE_EPOCH="0").name
    shutil.rmtree(clone / "dist")
    for wrong in ("tomorrow", "-1", "99999999999"):
        assert f"SOURCE_DATE_EPOCH is '{wrong}'" in refusal(clone, SOURCE_DATE_EPOCH=wrong)


def test_version_and_revision_of_another_slicer(clone):
    path = build(clone, "--slicer-version", "5.13", "--slicer-revision", "34908", "--os", "macosx")
    assert path.name.startswith("34908-macosx-")
    inner = f"{path.name.removesuffix('.tar.gz')}/Slicer.app/Contents/Extensions-34908/SynthDiffusion/"
    packed = {name.removeprefix(inner) for name in read(path)}
    assert "share/Slicer-5.13/SynthDiffusion.s4ext" in packed
    assert "lib/Slicer-5.13/qt-scripted-modules/SynthDiffusion.py" in packed


def test_stale_lists_are_refused(clone):
    (clone / "SynthDiffusionLib" / "new.py").write_text("", encoding="utf-8")
    assert "CMakeLists.txt is not up to date: run python Testing/Packaging/list_files.py" in refusal(clone)


def test_two_files_for_one_place_are_refused(copy):
    (copy / "SynthDiffusion" / "Resources").mkdir()
    shutil.copyfile(copy / "Resources" / "a.json", copy / "SynthDiffusion" / "Resources" / "a.json")
    for name, text in list_files.updated_texts(copy).items():
        (copy / name).write_text(text, encoding="utf-8", newline="\n")
    assert "'Resources/a.json' lies both in SynthDiffusion/ and beside it" in refusal(copy)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--slicer-version", "5.13"], "Help > About"),
        (["--slicer-version", "5.10"], "give 5.12 or a later one"),
        (["--slicer-version", "5.12.3"], "without the third number"),
        (["--slicer-revision", "../x"], "give the number"),
    ],
)
def test_a_slicer_that_cannot_be_meant_is_refused(copy, arguments, reason):
    assert reason in refusal(copy, *arguments)


def test_an_unwritable_folder_is_named(copy):
    (copy / "taken").write_text("a file", encoding="utf-8")
    assert "taken" in refusal(copy, "--out", str(copy / "taken"))


def make(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    if os.name == "nt" or shutil.which("make") is None:
        pytest.skip("needs make")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "package", *arguments]
    return subprocess.run(
        command, cwd=root, env={**inherited, **environment}, capture_output=True, text=True, timeout=60
    )


def test_make_package_needs_no_virtual_environment(copy):
    answer = make(copy, "PACKAGE_ARGS=--os all", PYTHON=sys.executable)
    assert answer.returncode == 0, answer.stderr
    assert len(list((copy / "dist").iterdir())) == 3
    assert not (copy / ".venv").exists()
    assert make(copy, "PACKAGE_ARGS=--slicer-version 4.11", PYTHON=sys.executable).returncode != 0


def test_make_package_refuses_an_old_python(copy, tmp_path):
    old = tmp_path / "old python"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    answer = make(copy, PYTHON=str(old))
    assert answer.returncode != 0
    assert "needs Python 3.11 or later" in answer.stderr and str(old) in answer.stderr
