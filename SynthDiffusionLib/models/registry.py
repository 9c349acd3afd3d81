"""Lists, installs, verifies and removes model packages."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.archives import checked_members, copy_at_most
from SynthDiffusionLib.models.folders import (
    find_folder,
    move_away,
    new_package_folder,
    package_folders,
    put_in_place,
    shipped_folder,
    user_folder,
)
from SynthDiffusionLib.models.package import (
    ModelPackage,
    check_file,
    check_weights,
    load_package,
    looks_like_path,
    path_of,
    sha256_of,
)
from SynthDiffusionLib.models.spec import SPEC_NAME, ModelSpec, read_spec, size_text
from SynthDiffusionLib.schemas import LARGEST_JSON_BYTES


@dataclass(frozen=True)
class ModelEntry:
    """One line of the list of models.

    Args:
        id: name of its folder.
        folder: where it lies.
        origin: "shipped" or "user".
        spec: its description; None if that cannot be read.
        problem: why it cannot be used, in one line; empty if it can.
    """

    id: str
    folder: Path
    origin: str
    spec: ModelSpec | None
    problem: str = ""


@dataclass(frozen=True)
class FileCheck:
    """One file of a package: its size and checksum as described, and what is wrong with it (empty: nothing)."""

    path: str
    role: str
    bytes: int
    sha256: str
    problem: str = ""


@dataclass(frozen=True)
class Verification:
    """What `verify` found; `extra` names files that the description does not list, which are never read."""

    id: str
    folder: Path
    files: tuple[FileCheck, ...]
    extra: tuple[str, ...]
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem


@dataclass(frozen=True)
class Installed:
    """Where a package is now, and whether it was there before."""

    package: ModelPackage
    already_there: bool


def list_packages() -> list[ModelEntry]:
    """All packages, by ID; damaged ones are listed as such. Sizes are compared, checksums are not (see `verify`)."""
    entries = []
    for model_id, (folder, origin) in sorted(package_folders().items()):
        spec, problem = None, ""
        try:
            spec = read_spec(folder)
            spec = load_package(model_id, verify=False).spec
        except ModelError as error:
            problem = error.message
        entries.append(ModelEntry(model_id, folder, origin, spec, problem))
    return entries


def verify(id_or_path: str | os.PathLike[str]) -> Verification:
    """Compares every file of a package with its description.

    Raises:
        ModelError: there is no such package, or it has no readable description.
    """
    folder = path_of(id_or_path) if looks_like_path(id_or_path) else find_folder(str(id_or_path))[0]
    spec = read_spec(folder)
    checks = []
    for f in spec.files:
        problem = ""
        try:
            check_file(folder, f, spec.id)
        except ModelError as error:
            problem = error.message
        checks.append(FileCheck(f.path, f.role, f.bytes, f.sha256, problem))
    problem = next((c.problem for c in checks if c.problem), "")
    if not problem:
        try:
            check_weights(folder, spec)
        except ModelError as error:
            problem = error.message
    listed = {SPEC_NAME, *(f.path for f in spec.files)}
    extra = tuple(sorted(p.name for p in folder.iterdir() if p.name not in listed))
    return Verification(spec.id, folder, tuple(checks), extra, problem)


def install(id_or_path: str | os.PathLike[str]) -> Installed:
    """Copies a package into the user's model folder, checks it there, and gives it its name only then.

    Args:
        id_or_path: a package folder, or a .zip of one. The ID of an installed package is accepted and changes nothing.

    Raises:
        ModelError: no such package; not valid; another package has its ID; the archive tries to leave its folder.
        RunFailed: the disk is full.
    """
    source = path_of(id_or_path)
    if not source.exists():
        if looks_like_path(id_or_path):
            raise ModelError(f"'{source}' does not exist", "Give a package folder or a .zip file.")
        return Installed(load_package(id_or_path), already_there=True)  # or says that there is no such model
    if source.is_dir():
        return _install_folder(source)
    if not source.is_file():  # a pipe or a device might never end
        raise ModelError(f"'{source}' is not a regular file", "Give a package folder or a .zip file.")
    return _install_archive(source)


def remove(model_id: str) -> Path:
    """Deletes a package from the user's model folder. Returns the folder that is gone.

    Raises:
        ModelError: unknown, or shipped with SynthDiffusion.
    """
    folder, origin = find_folder(model_id)
    if origin == "shipped":
        raise ModelError(f"'{model_id}' ships with SynthDiffusion and cannot be removed", "Installed models can.")
    try:
        move_away(folder)
    except OSError as error:
        raise ModelError(
            f"Cannot remove '{folder}' ({error.strerror})", "Close the programs that use the model, and try again."
        ) from error
    return folder


def put_package(model_id: str, fill: Callable[[Path], None]) -> Installed:
    """Installs a package whose files `fill` writes into an empty folder, the `model.json` included. A damaged package
    of the user's with this ID is replaced; that no intact one is there, the caller has seen to.

    Raises:
        ModelError: what was written does not agree with its description, or the folder cannot be written to.
        RunFailed: the disk is full.
    """
    with new_package_folder() as folder:
        fill(folder)
        spec = read_spec(folder)
        if spec.id != model_id:
            raise ModelError(f"The package '{spec.id}' cannot be installed as '{model_id}'", "Get the package again.")
        for f in spec.files:
            check_file(folder, f, spec.id)
        check_weights(folder, spec)
        return Installed(ModelPackage(put_in_place(folder, model_id), spec), already_there=False)


def _already_there(spec: ModelSpec) -> Installed | None:
    """The same package, installed and intact; None if the ID is free, or a damaged package of the user's has it, which
    may be replaced.

    Raises:
        ModelError: another package has the ID.
    """
    known = package_folders()
    if spec.id not in known:
        return None
    origin = known[spec.id][1]
    try:
        existing = load_package(spec.id)
    except ModelError:
        if origin == "user":
            return None
        raise
    if existing.spec.raw == spec.raw:
        return Installed(existing, already_there=True)
    if origin == "shipped":
        raise ModelError(
            f"'{spec.id}' is the ID of a model that ships with SynthDiffusion", "Give the package another ID."
        )
    raise ModelError(
        f"Another model '{spec.id}' (version {existing.spec.version}) is installed already",
        f"Remove it first: synthdiffusion models remove {spec.id}.",
    )


def _install_folder(source: Path) -> Installed:
    spec = read_spec(source)
    if source.resolve().parent in (shipped_folder().resolve(), user_folder().resolve()):
        return Installed(load_package(source), already_there=True)
    for f in spec.files:
        check_file(source, f, spec.id)
    if installed := _already_there(spec):
        return installed
    _check_space(spec)

    def fill(folder: Path) -> None:
        for name in (SPEC_NAME, *(f.path for f in spec.files)):
            shutil.copyfile(source / name, folder / name)

    return put_package(spec.id, fill)


def _install_archive(source: Path) -> Installed:
    try:
        with zipfile.ZipFile(source) as archive:
            return _install_open_archive(archive, source)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelError(
            f"'{source}' is not a readable .zip archive ({error})",
            "Give a package folder or a .zip of one; a bare checkpoint goes in by synthdiffusion models import.",
        ) from error
    except OSError as error:
        raise ModelError(f"Cannot read '{source}' ({error.strerror})", "Check the file.") from error


def _install_open_archive(archive: zipfile.ZipFile, source: Path) -> Installed:
    from SynthDiffusionLib.schemas import parse_json

    members = checked_members(archive, source)
    prefix = _package_prefix(members, source)
    description = members[prefix + SPEC_NAME]
    if description.file_size > LARGEST_JSON_BYTES:
        raise ModelError(f"'{source}': its {SPEC_NAME} is too large", "Get the package again.")
    with archive.open(description) as file:
        text = file.read(LARGEST_JSON_BYTES)
    try:
        spec = ModelSpec.from_json(parse_json(text), f"{source}/{SPEC_NAME}")
    except ValueError as error:
        raise ModelError(f"'{source}': its {SPEC_NAME} is damaged: {error}", "Get the package again.") from error
    for f in spec.files:
        member = members.get(prefix + f.path)
        if member is None:
            raise ModelError(f"'{source}' lacks '{f.path}', which its {SPEC_NAME} lists", "Get the package again.")
        if member.file_size != f.bytes:
            raise ModelError(
                f"'{source}': '{f.path}' has {member.file_size} bytes, its {SPEC_NAME} says {f.bytes}",
                "Get the package again.",
            )
    if installed := _already_there(spec):
        return installed
    _check_space(spec)

    def fill(folder: Path) -> None:
        (folder / SPEC_NAME).write_bytes(text)
        for f in spec.files:
            with archive.open(members[prefix + f.path]) as packed, open(folder / f.path, "xb") as unpacked:
                copy_at_most(packed, unpacked, f.bytes)

    return put_package(spec.id, fill)


def _package_prefix(members: dict[str, zipfile.ZipInfo], source: Path) -> str:
    """Where the one model.json is: at the top (an empty prefix), or in a folder there ("FOLDER/")."""
    found = [
        name
        for name in members
        if name.split("/")[-1] == SPEC_NAME and name.count("/") <= 1 and not name.startswith("__MACOSX/")
    ]
    if len(found) != 1:
        raise ModelError(
            f"'{source}' has {len(found)} files {SPEC_NAME} at its top or in a folder there, not one",
            "Give a .zip of one package folder.",
        )
    return found[0].removesuffix(SPEC_NAME)


def _check_space(spec: ModelSpec) -> None:
    folder = user_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if spec.total_bytes > free:
        raise ModelError(
            f"Model '{spec.id}' needs {size_text(spec.total_bytes)}, but only {size_text(free)} are free",
            f"Free some space on the disk of '{user_folder()}'.",
        )


def package_digest(package: ModelPackage) -> str:
    """SHA-256 of the model.json, which holds the checksums of all else: names the exact package in provenance."""
    return sha256_of(package.folder / SPEC_NAME)
