"""Installing from folders and archives, hostile archives, and removal."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import sys
import time
import zipfile

import pytest
import tiny_package
from tiny_package import edit_description, make_package

from SynthDiffusionLib.errors import ModelError, RunFailed
from SynthDiffusionLib.models import install, list_packages, load_package, registry, remove, verify

model_folders = tiny_package.model_folders


def pack(folder, archive, prefix="", compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(archive, "w", compression) as z:
        for path in sorted(folder.iterdir()):
            z.write(path, prefix + path.name)
    return archive


def left_behind(user):
    return sorted(p.name for p in user.iterdir()) if user.exists() else []


def test_a_folder_is_copied_and_only_what_it_lists(model_folders, tmp_path):
    _, user = model_folders
    source = tmp_path / "übung mit leerzeichen" / "download"
    make_package(source)
    (source / "run.py").write_text("raise SystemExit", encoding="utf-8")
    done = install(source)
    assert not done.already_there
    assert done.package.folder == user / "tiny-ct"
    assert left_behind(user) == ["tiny-ct"]
    assert left_behind(user / "tiny-ct") == [
        "MODEL_CARD.md",
        "denoiser.safetensors",
        "model.json",
        "segmenter.safetensors",
    ]
    shutil.rmtree(source)
    assert load_package("tiny-ct").spec == done.package.spec
    found = verify("tiny-ct")
    assert found.ok and found.extra == () and len(found.files) == 3


@pytest.mark.parametrize("prefix", ["", "tiny-ct/", "anything at all/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_is_unpacked(model_folders, tmp_path, prefix, compression):
    _, user = model_folders
    make_package(tmp_path / "p")
    archive = pack(tmp_path / "p", tmp_path / "p.zip", prefix, compression)
    with zipfile.ZipFile(archive, "a") as z:  # what a Mac adds
        z.writestr("__MACOSX/._model.json", b"x")
    assert install(str(archive)).package.folder == user / "tiny-ct"
    assert left_behind(user) == ["tiny-ct"]
    for path in (tmp_path / "p").iterdir():
        assert (user / "tiny-ct" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("as_archive", [False, True])
def test_the_same_again_changes_nothing_another_version_is_refused_a_damaged_one_mended(
    model_folders, tmp_path, as_archive
):
    _, user = model_folders

    def source(name, **changes):
        make_package(tmp_path / name, **changes)
        return pack(tmp_path / name, tmp_path / f"{name}.zip") if as_archive else tmp_path / name

    first = source("first")
    install(first)
    assert install(first).already_there
    assert install("tiny-ct").already_there
    with pytest.raises(ModelError, match=r"version 1\.2\.0\) is installed already") as caught:
        install(source("second", version="2.0.0"))
    assert "models remove tiny-ct" in caught.value.hint
    weights = user / "tiny-ct" / "denoiser.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert not verify("tiny-ct").ok
    assert not install(first).already_there
    assert verify("tiny-ct").ok
    assert left_behind(user) == ["tiny-ct"]


def test_the_id_of_a_shipped_model_is_taken(model_folders, tmp_path):
    shipped, user = model_folders
    make_package(shipped / "tiny-ct")
    make_package(tmp_path / "same")
    make_package(tmp_path / "mine", version="9.0.0")
    assert install(tmp_path / "same").already_there
    assert install(shipped / "tiny-ct").already_there
    with pytest.raises(ModelError, match="ships with SynthDiffusion"):
        install(tmp_path / "mine")
    assert left_behind(user) == []


def test_what_is_not_there_or_no_package(model_folders, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        install(tmp_path / "nowhere.zip")
    with pytest.raises(ModelError, match="There is no model 'nothing'"):
        install("nothing")
    with pytest.raises(ModelError, match="not a model package"):
        install(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ModelError, match="not a readable .zip archive"):
        install(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as z:
        z.writestr("readme.txt", "x")
    with pytest.raises(ModelError, match="has 0 files model.json"):
        install(tmp_path / "empty.zip")


def test_a_tampered_package_is_not_installed(model_folders, tmp_path):
    _, user = model_folders
    make_package(tmp_path / "p")
    weights = tmp_path / "p" / "denoiser.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    for source in (tmp_path / "p", pack(tmp_path / "p", tmp_path / "p.zip")):
        with pytest.raises(ModelError, match="'denoiser.safetensors' has been changed or damaged"):
            install(source)
    assert left_behind(user) == []


def test_weights_that_are_no_safetensors_are_not_installed_even_with_the_right_checksum(model_folders, tmp_path):
    _, user = model_folders
    make_package(tmp_path / "p")
    weights = tmp_path / "p" / "denoiser.safetensors"
    weights.write_bytes(b"\x80\x02cos\nsystem\n." * 30)
    sha256 = registry.sha256_of(weights)
    edit_description(tmp_path / "p", lambda d: d["files"][0].update(sha256=sha256, bytes=weights.stat().st_size))
    with pytest.raises(ModelError, match="not a valid safetensors file"):
        install(tmp_path / "p")
    assert left_behind(user) == []


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "a/../../evil.txt",
        "/evil.txt",
        "~/evil.txt",
        "..\\evil.txt",
        "a\\..\\..\\evil.txt",
        "C:\\evil.txt",
        "C:evil.txt",
        "evil.txt:stream",
        "..",
    ],
)
def test_an_archive_with_an_entry_that_leaves_is_refused_whole(model_folders, tmp_path, name):
    _, user = model_folders
    make_package(tmp_path / "p")
    archive = pack(tmp_path / "p", tmp_path / "p.zip")
    with zipfile.ZipFile(archive, "a") as z:
        entry = zipfile.ZipInfo("placeholder")
        entry.filename = name
        z.writestr(entry, b"evil")
    with pytest.raises(ModelError, match="leaves its folder"):
        install(archive)
    assert left_behind(user) == []
    assert not list(tmp_path.rglob("evil*"))


def test_links_devices_duplicates_and_encryption_in_archives_are_refused(model_folders, tmp_path):
    _, user = model_folders
    make_package(tmp_path / "p")
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        archive = pack(tmp_path / "p", tmp_path / "p.zip")
        with zipfile.ZipFile(archive, "a") as z:
            entry = zipfile.ZipInfo("extra")
            entry.create_system = 3
            entry.external_attr = (kind | 0o777) << 16
            z.writestr(entry, "/etc/passwd")
        with pytest.raises(ModelError, match="holds a link or a device"):
            install(archive)
    archive = pack(tmp_path / "p", tmp_path / "p.zip")
    with zipfile.ZipFile(archive, "a") as z, pytest.warns(UserWarning, match="Duplicate"):
        z.writestr("MODEL_CARD.md", "other")
    with pytest.raises(ModelError, match="twice"):
        install(archive)
    archive = pack(tmp_path / "p", tmp_path / "p.zip")
    content = bytearray(archive.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(ModelError, match="is encrypted"):
        install(archive)
    archive = pack(tmp_path / "p", tmp_path / "p.zip", compression=zipfile.ZIP_BZIP2)
    with pytest.raises(ModelError, match="unusual method"):
        install(archive)
    assert left_behind(user) == []


def test_archives_that_would_fill_the_disk_are_refused(model_folders, tmp_path):
    _, user = model_folders
    make_package(tmp_path / "p")
    archive = pack(tmp_path / "p", tmp_path / "p.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as z:
        z.writestr("zeros.bin", b"\0" * 8_000_000)
    with pytest.raises(ModelError, match="unpacks to 8000000 bytes from"):
        install(archive)
    archive = pack(tmp_path / "p", tmp_path / "p.zip")
    with zipfile.ZipFile(archive, "a") as z:
        for i in range(1001):
            z.writestr(f"n{i}", b"")
    with pytest.raises(ModelError, match="too many"):
        install(archive)
    # A size in the archive's directory that is a lie: what follows it is cut off, and the checksum of the entry fails.
    make_package(tmp_path / "p")
    archive = pack(tmp_path / "p", tmp_path / "p.zip", compression=zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\x01\x02")
    assert content[at + 46 : at + 59] == b"MODEL_CARD.md"
    struct.pack_into("<I", content, at + 24, 3)
    archive.write_bytes(content)
    edit_description(tmp_path / "p", lambda d: None)
    with pytest.raises(ModelError, match="has 3 bytes, its model.json says 7"):
        install(archive)
    assert left_behind(user) == []


def test_a_corrupt_archive_leaves_nothing(model_folders, tmp_path):
    _, user = model_folders
    make_package(tmp_path / "p")
    whole = pack(tmp_path / "p", tmp_path / "p.zip").read_bytes()
    refused = 0
    for position in range(0, len(whole), 41):
        content = bytearray(whole)
        content[position] ^= 0xFF
        (tmp_path / "q.zip").write_bytes(content)
        try:
            install(tmp_path / "q.zip")
            remove("tiny-ct")  # the change was in a time stamp or the like
        except ModelError:
            refused += 1
        assert left_behind(user) == []
    assert refused > 10
    for length in range(0, len(whole), 211):
        (tmp_path / "q.zip").write_bytes(whole[:length])
        with pytest.raises(ModelError):
            install(tmp_path / "q.zip")


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), RunFailed, "is full"),
        (PermissionError(errno.EACCES, "Permission denied"), ModelError, "Cannot copy the model"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_an_installation_that_stops_half_way_leaves_nothing(
    model_folders, tmp_path, monkeypatch, error, expected, said
):
    _, user = model_folders
    make_package(tmp_path / "p")
    real = shutil.copyfile

    def copy(source, destination):
        if source.name == "segmenter.safetensors":
            raise error
        assert destination.parent.name != "tiny-ct"
        return real(source, destination)

    monkeypatch.setattr(registry.shutil, "copyfile", copy)
    with pytest.raises(expected, match=said):
        install(tmp_path / "p")
    assert left_behind(user) == [] and list_packages() == []


def test_too_little_space_is_found_before_copying(model_folders, tmp_path, monkeypatch):
    make_package(tmp_path / "p")
    monkeypatch.setattr(registry.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(ModelError, match="needs [0-9.]+ (bytes|kB), but only 10 bytes are free"):
        install(tmp_path / "p")


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    make_package(tmp_path / "p")
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(tmp_path / "file" / "below"))
    with pytest.raises(ModelError) as caught:
        install(tmp_path / "p")
    assert "file" in caught.value.message and "SYNTHDIFFUSION_MODELS" in caught.value.hint


def test_remove_takes_installed_models_only(model_folders, tmp_path):
    shipped, user = model_folders
    make_package(shipped / "shipped", id="shipped")
    make_package(user / "mine", id="mine")
    (user / "broken").mkdir()
    with pytest.raises(ModelError, match="ships with SynthDiffusion"):
        remove("shipped")
    with pytest.raises(ModelError, match="no model 'min'") as caught:
        remove("min")
    assert "Did you mean 'mine'?" in caught.value.hint
    for name in ("../user models/mine", str(user / "mine"), ".", "..", ""):
        with pytest.raises(ModelError):
            remove(name)
    assert remove("mine") == user / "mine"
    remove("broken")
    assert left_behind(user) == []
    assert (shipped / "shipped" / "model.json").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_removing_a_linked_package_keeps_what_it_points_to(model_folders, tmp_path):
    _, user = model_folders
    make_package(tmp_path / "elsewhere")
    user.mkdir()
    (user / "tiny-ct").symlink_to(tmp_path / "elsewhere")
    assert load_package("tiny-ct").id == "tiny-ct"
    remove("tiny-ct")
    assert left_behind(user) == []
    assert load_package(tmp_path / "elsewhere").id == "tiny-ct"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
@pytest.mark.parametrize("packed", [False, True])
def test_a_disk_that_fills_up_is_named(model_folders, tmp_path, monkeypatch, code, packed):
    make_package(tmp_path / "p")
    source = pack(tmp_path / "p", tmp_path / "p.zip") if packed else tmp_path / "p"

    def full(*_):
        raise OSError(code, "full")

    monkeypatch.setattr(registry.shutil, "copyfile", full)
    monkeypatch.setattr(registry, "copy_at_most", full)
    with pytest.raises(RunFailed, match="The disk with .* is full"):
        install(source)
    assert left_behind(model_folders[1]) == []


def test_leftovers_of_yesterday_are_removed(model_folders, tmp_path):
    _, user = model_folders
    make_package(tmp_path / "p")
    for name, age in ((".unfinished-old", 25), (".unfinished-now", 1), (".other", 99), ("mine", 99)):
        (user / name).mkdir(parents=True)
        (user / name / "half.bin").write_bytes(b"x")
        os.utime(user / name, (time.time() - age * 3600,) * 2)
    install(tmp_path / "p")
    assert left_behind(user) == [".other", ".unfinished-now", "mine", "tiny-ct"]
