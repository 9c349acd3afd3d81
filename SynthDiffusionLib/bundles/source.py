"""A bundle as files that are read one by one: a folder, or a .zip of one. Only what is asked for is read."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from SynthDiffusionLib.bundles.layout import CONFIGS, METADATA
from SynthDiffusionLib.errors import ModelError, SynthDiffusionError, shortened
from SynthDiffusionLib.models.archives import checked_members, copy_at_most
from SynthDiffusionLib.models.package import path_of
from SynthDiffusionLib.models.spec import SPEC_NAME, size_text
from SynthDiffusionLib.schemas import LARGEST_JSON_BYTES, parse_json

_MOST_FILES = 10_000
_AGAIN = "Get the bundle again."


class BundleSource(ABC):
    """Files of a bundle by their names below its folder, with "/" between the parts.

    Args:
        path: of the folder or archive, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """All files, sorted."""

    @abstractmethod
    def read(self, name: str, most: int = LARGEST_JSON_BYTES) -> bytes:
        """The content of a file of at most so many bytes.

        Raises:
            ModelError: no such file in the bundle, or larger.
        """

    @abstractmethod
    def file(self, name: str) -> Path:
        """The file on the disk; of an archive, unpacked.

        Raises:
            ModelError: no such file in the bundle.
        """

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file whose top level is an object.

        Raises:
            ModelError: missing, too large, or not so.
        """
        try:
            data = parse_json(self.read(name))
        except ValueError as error:
            raise ModelError(f"'{self.path}': its {name} is damaged: {error}", _AGAIN) from error
        if not isinstance(data, dict):
            raise ModelError(f"'{self.path}': its {name} is no table of names and values", _AGAIN)
        return data

    def missing(self, name: str) -> ModelError:
        """The error to raise for a file that is not there."""
        return ModelError(
            f"'{self.path}' lacks '{shortened(name)}'", "Give the folder or .zip of a whole MONAI bundle."
        )

    def too_large(self, name: str, most: int) -> ModelError:
        """The error to raise for a file that nobody writes so large."""
        return ModelError(f"'{self.path}': its {shortened(name)} is larger than {most // 1024**2} MiB", _AGAIN)


@contextmanager
def open_bundle(path: Path) -> Iterator[BundleSource]:
    """A bundle to read from while the block runs.

    Args:
        path: of a folder, or of a .zip with the bundle at its top or in one folder.

    Raises:
        ModelError: neither, damaged, or an archive that would leave its folder or fill the disk.
    """
    path = path_of(path)
    try:
        if path.is_dir():
            yield _Folder(path)
            return
        if not path.is_file():
            raise ModelError(f"There is no bundle '{str(path)[:200]}'", "Check the path.")
        with (
            zipfile.ZipFile(path) as archive,
            tempfile.TemporaryDirectory(prefix="synthdiffusion-", ignore_cleanup_errors=True) as unpacked,
        ):
            try:
                yield _Archive(path, archive, Path(unpacked))
            except SynthDiffusionError as error:  # of a file that was unpacked: the user knows the archive alone
                error.message = error.message.replace(f"{unpacked}{os.sep}", f"{path}/")
                raise
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelError(f"'{path}' is not a readable .zip archive ({error})", _AGAIN) from error
    except OSError as error:
        raise ModelError(
            f"'{path}' cannot be read ({error.strerror})", "Check the bundle, and whether a disk is full."
        ) from error


class _Folder(BundleSource):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if (path / SPEC_NAME).is_file() and not (path / METADATA).is_file():
            raise _package_instead(path)

    def names(self) -> list[str]:
        found = []
        for top in ("", "configs", "docs", "models", "scripts"):
            folder = self.path / top
            if folder.is_dir():
                found += [f"{top}/{p.name}".lstrip("/") for p in folder.iterdir() if p.is_file()]
            if len(found) > _MOST_FILES:
                raise ModelError(
                    f"'{self.path}' has over {_MOST_FILES} files, too many for a bundle", "Check the path."
                )
        return sorted(found)

    def read(self, name: str, most: int = LARGEST_JSON_BYTES) -> bytes:
        with open(self.file(name), "rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise self.too_large(name, most)
        return content

    def file(self, name: str) -> Path:
        check_name(name, self.path)
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ModelError(
                f"'{self.path}': '{shortened(name)}' is a link that leaves the bundle's folder",
                "Put the file itself there.",
            )
        if not path.is_file():
            raise self.missing(name)
        return path


class _Archive(BundleSource):
    def __init__(self, path: Path, archive: zipfile.ZipFile, unpacked: Path) -> None:
        super().__init__(path)
        self._archive, self._unpacked = archive, unpacked
        members = checked_members(archive, path, "import")
        prefix = _prefix(members, path)
        self._members = {name.removeprefix(prefix): m for name, m in members.items() if name.startswith(prefix)}

    def names(self) -> list[str]:
        return sorted(self._members)

    def read(self, name: str, most: int = LARGEST_JSON_BYTES) -> bytes:
        member = self._member(name)
        if member.file_size > most:
            raise self.too_large(name, most)
        with self._archive.open(member) as packed:
            return packed.read(most)

    def file(self, name: str) -> Path:
        member = self._member(name)
        path = self._unpacked / name
        if not path.exists():
            free = shutil.disk_usage(self._unpacked).free
            if member.file_size > free:
                raise ModelError(
                    f"'{self.path}': '{name}' takes {size_text(member.file_size)}, but only {size_text(free)} are free",
                    f"Free some space on the disk of '{self._unpacked.parent}', or unpack the archive yourself.",
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._archive.open(member) as packed, open(path, "xb") as file:
                copy_at_most(packed, file, member.file_size)
        return path

    def _member(self, name: str) -> zipfile.ZipInfo:
        check_name(name, self.path)
        if name not in self._members:
            raise self.missing(name)
        return self._members[name]


def check_name(name: str, source: Path) -> None:
    """Refuses the name of a file that is not below the bundle's folder, whatever the system.

    Raises:
        ModelError: it is not.
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    if any(p in ("", ".", "..") or p.startswith("~") or set(p) & set("\\:\0") for p in parts):
        raise ModelError(f"'{source}' names a file outside its folder: '{shortened(name)}'", "Do not use this bundle.")


def _prefix(members: dict[str, zipfile.ZipInfo], source: Path) -> str:
    """Where the bundle is in an archive: at the top (an empty prefix), or in a folder there ("FOLDER/")."""
    found = set()
    for name in members:
        for wanted in (METADATA, *CONFIGS):
            if name == wanted or (name.endswith(f"/{wanted}") and name.count("/") == 2):
                found.add(name.removesuffix(wanted))
    found.discard("__MACOSX/")
    if not found and any(name.split("/")[-1] == SPEC_NAME and name.count("/") <= 1 for name in members):
        raise _package_instead(source)
    if len(found) != 1:
        raise ModelError(
            f"'{source}' holds {len(found)} bundles ({METADATA}) at its top or in a folder there, not one",
            "Give a .zip of one bundle.",
        )
    return found.pop()


def _package_instead(path: Path) -> ModelError:
    return ModelError(
        f"'{path}' is a model package, not a MONAI bundle", "A package goes in by synthdiffusion models install."
    )
