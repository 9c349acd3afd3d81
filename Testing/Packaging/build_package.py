"""Builds the archive that Slicer's Extensions Manager installs with "Install from file...".

    python Testing/Packaging/build_package.py [--os all] [--out dist]

Needs Python 3.11 or later and nothing else: no Slicer, no CMake. The archive holds what Slicer's own packaging would
put there: the files that the CMake lists name, flattened into qt-scripted-modules, the licence, and a description file
by which the Extensions Manager knows the extension. The layout was read in Slicer 5.12: CMake/SlicerDirectories.cmake,
CMake/UseSlicer.cmake.in, CMake/SlicerExtensionCPack.cmake, and qSlicerExtensionsManagerModel.cxx, which installs it.

The same commit gives the same bytes (with the same version of Python): files are sorted, and every one has the date of
the commit, or SOURCE_DATE_EPOCH where that is set. An archive of files that are not committed has "-dirty" in its name.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import list_files

ROOT = list_files.ROOT
EXTENSION = "SynthDiffusion"
SYSTEMS = ("linux", "win", "macosx")
ARCHITECTURE = "amd64"  # what Slicer 5.12 calls every 64-bit system, Apple's arm64 included
# Commits of Slicer's branch plus the offsets in its CMakeLists.txt; Help > About shows the number. Here: Slicer 5.12.3.
REVISIONS = {"5.12": "34627"}

_INPUTS = ("SynthDiffusion", "SynthDiffusionLib", "Resources", "CMakeLists.txt", "SynthDiffusion.json", "LICENSE")


class PackageError(Exception):
    """The archive cannot be built as asked; the message is one line that says why and what to do."""


@dataclass(frozen=True)
class Source:
    """State of the files: `revision` (short Git hash, and "-dirty" if changed; or "unknown"), `epoch` in seconds."""

    revision: str
    epoch: int

    @property
    def date(self) -> str:
        """Day of `epoch` in UTC, YYYY-MM-DD."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.epoch))


@dataclass(frozen=True)
class Target:
    """The Slicer that the archive is for: version ("5.12"), revision, and system (one of SYSTEMS)."""

    version: str
    revision: str
    system: str

    def prefix(self) -> str:
        """Where `lib` and `share` begin, below the archive's top folder; ends with "/" unless empty."""
        # On macOS, Slicer looks in a folder with its own revision, and finds nothing if that is another one.
        return f"Slicer.app/Contents/Extensions-{self.revision}/{EXTENSION}/" if self.system == "macosx" else ""


def source_of(root: Path = ROOT) -> Source:
    """Commit and date of the files below `root`; without Git, "unknown" and the date of the newest file."""
    revision, epoch = "unknown", 0
    # Asking for .git first: a copy without it may lie within somebody else's repository.
    if (root / ".git").exists() and (commit := _git(root, "log", "-1", "--format=%ct")):
        revision = _git(root, "rev-parse", "--short=7", "HEAD")
        revision += "-dirty" if _git(root, "status", "--porcelain", "--", *_INPUTS) else ""
        epoch = int(commit)
    else:
        epoch = max(int(path.stat().st_mtime) for path in _payload(root).values())
    if text := os.environ.get("SOURCE_DATE_EPOCH"):
        if not re.fullmatch(r"\d{1,10}", text) or int(text) >= 2**32:  # gzip has 32 bits for it
            raise PackageError(f"SOURCE_DATE_EPOCH is '{text}': give whole seconds since 1970, or unset it")
        epoch = int(text)
    return Source(revision, epoch)


def cmake_variables(text: str) -> dict[str, str]:
    """Values of the lines `set(NAME "value")` of a CMake file, with `${NAME}` of earlier ones put in."""
    values: dict[str, str] = {}
    for name, value in re.findall(r'^set\((\w+) "([^"]*)"\)$', text, re.MULTILINE):
        values[name] = re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], match[0]), value)
    return values


def description(root: Path, source: Source) -> str:
    """The .s4ext file: one "key value" a line, as Slicer's extension_description.s4ext.in orders them."""
    cmake = cmake_variables((root / "CMakeLists.txt").read_text(encoding="utf-8"))
    entry = json.loads((root / "SynthDiffusion.json").read_text(encoding="utf-8"))
    fields = {
        "scm": entry.get("scm_type", "git"),
        "scmurl": entry["scm_url"],
        "scmrevision": source.revision,
        "depends": cmake.get("EXTENSION_DEPENDS", "NA"),
        "recommends": cmake.get("EXTENSION_RECOMMENDS", "NA"),
        "build_subdirectory": entry.get("build_subdirectory", "."),
        "homepage": cmake["EXTENSION_HOMEPAGE"],
        "contributors": cmake["EXTENSION_CONTRIBUTORS"],
        "category": entry["category"],
        "iconurl": cmake["EXTENSION_ICONURL"],
        "status": cmake.get("EXTENSION_STATUS", ""),
        "tier": entry.get("tier", 1),
        "description": cmake["EXTENSION_DESCRIPTION"],
        "screenshoturls": cmake["EXTENSION_SCREENSHOTURLS"],
        "enabled": int(entry.get("enabled", True)),
        "dicom_support_rule": entry.get("dicom_support_rule", ""),
        "keywords": cmake.get("EXTENSION_KEYWORDS", ""),
    }
    return "".join(f"{key} {' '.join(str(value).split())}".rstrip() + "\n" for key, value in fields.items())


def contents(root: Path, source: Source, target: Target) -> dict[str, bytes]:
    """Every file of the archive by its path below the top folder.

    Raises:
        PackageError: the CMake lists do not name the files that are there, or two files would get one path.
    """
    share = f"share/Slicer-{target.version}"
    files = {f"lib/Slicer-{target.version}/qt-scripted-modules/{name}": path for name, path in _payload(root).items()}
    files[f"{share}/qt-scripted-modules/{EXTENSION}/LICENSE"] = root / "LICENSE"
    packed = {target.prefix() + name: path.read_bytes() for name, path in files.items()}
    packed[f"{target.prefix()}{share}/{EXTENSION}.s4ext"] = description(root, source).encode("utf-8")
    return dict(sorted(packed.items()))


def build(out: Path, target: Target, root: Path = ROOT) -> Path:
    """Writes the archive into the folder `out`, made if need be, in place of one of the same name; returns its path."""
    source = source_of(root)
    stem = "-".join(
        [target.revision, target.system, ARCHITECTURE, EXTENSION, f"git{source.revision}", source.date]
    )  # as CPACK_PACKAGE_FILE_NAME
    files = {f"{stem}/{name}": data for name, data in contents(root, source, target).items()}
    suffix, pack = (".zip", _zip) if target.system == "win" else (".tar.gz", _tar_gz)
    out.mkdir(parents=True, exist_ok=True)
    path = out / (stem + suffix)
    part = out / (path.name + ".part")
    try:
        part.write_bytes(pack(files, source.epoch))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _payload(root: Path) -> dict[str, Path]:
    """What the CMake lists name: {path in qt-scripted-modules: file}."""
    stale = [name for name, text in list_files.updated_texts(root).items() if (root / name).read_text("utf-8") != text]
    if stale:
        raise PackageError(f"{stale[0]} is not up to date: run python Testing/Packaging/list_files.py")
    files: dict[str, Path] = {}
    for name in list_files.listed_files(root):
        place = name.removeprefix("SynthDiffusion/")  # the module's folder and the engine's parent become one
        if place in files:
            raise PackageError(f"'{place}' lies both in SynthDiffusion/ and beside it: rename one")
        files[place] = root / name
    return files


def _tar_gz(files: Mapping[str, bytes], epoch: int) -> bytes:
    # No entries for folders: Slicer takes the folder of the first entry for the archive's, and makes what is missing.
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(data), epoch, 0o644
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=epoch)


def _zip(files: Mapping[str, bytes], epoch: int) -> bytes:
    raw = io.BytesIO()
    date = max(time.gmtime(epoch)[:6], (1980, 1, 1, 0, 0, 0))  # the first day that a zip file knows
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, date)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
            archive.writestr(entry, data)
    return raw.getvalue()


def _git(root: Path, *arguments: str) -> str:
    """What Git says; "" where there is no Git, no commit, or a clone that Git refuses to read."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, encoding="utf-8")
    except FileNotFoundError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _targets(options: argparse.Namespace) -> list[Target]:
    """The Slicers that the options ask for."""
    version = options.slicer_version
    match = re.fullmatch(r"(\d+)\.(\d+)", version)
    if not match or (int(match[1]), int(match[2])) < (5, 12):
        raise PackageError(f"--slicer-version is '{version}': give 5.12 or a later one, without the third number")
    revision = options.slicer_revision or REVISIONS.get(version)
    if not revision:
        raise PackageError(f"the revision of Slicer {version} is not known: see Help > About, give --slicer-revision")
    if not re.fullmatch(r"\w+", revision):
        raise PackageError(f"--slicer-revision is '{revision}': give the number that Help > About shows")
    named = options.os or {"linux": "linux", "win32": "win", "darwin": "macosx"}.get(sys.platform)
    if not named:
        raise PackageError(f"Slicer does not run on '{sys.platform}': say for which system with --os")
    return [Target(version, revision, system) for system in (SYSTEMS if named == "all" else (named,))]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 2 refused with one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slicer-version", default="5.12", help="first two numbers of the version (%(default)s)")
    parser.add_argument(
        "--slicer-revision",
        help="revision of Slicer, from Help > About; has to be right for macOS only (5.12: that of 5.12.3)",
    )
    parser.add_argument("--os", choices=(*SYSTEMS, "all"), help="system of the Slicer (default: this one)")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder to write to (dist)")
    options = parser.parse_args(arguments)
    try:
        for target in _targets(options):
            path = build(options.out, target)
            only = f", for revision {target.revision} only" if target.system == "macosx" else ""
            print(f"{path} ({path.stat().st_size / 1e6:.1f} MB, Slicer {target.version}{only})")
    except subprocess.CalledProcessError as error:
        print(f"error: Git cannot read this clone: {error.stderr.decode(errors='replace').strip()}", file=sys.stderr)
        return 2
    except (PackageError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
