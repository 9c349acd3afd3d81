"""Archives of model packages and of MONAI bundles: nothing in one leaves its folder or fills the disk."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from SynthDiffusionLib.errors import ModelError

_COPY_CHUNK = 1 << 20
_MOST_ENTRIES = 1000
# Weights hardly compress: an archive that unpacks to a multiple of its size was made to fill the disk.
_LARGEST_EXPANSION = 50
_SMALL_FILE_BYTES = 1 << 20


def checked_members(archive: zipfile.ZipFile, source: Path, command: str = "install") -> dict[str, zipfile.ZipInfo]:
    """Files of an archive by name. Refuses the whole archive if any entry tries to leave the folder, or is a link or a
    device, or unpacks to far more than it takes.

    Args:
        archive: open for reading.
        source: its file, for the error.
        command: `synthdiffusion models COMMAND` takes the folder that is packed.

    Raises:
        ModelError: an entry is refused, or there are too many.
    """
    unpack = f"Unpack it, and give the folder: synthdiffusion models {command} FOLDER."
    entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise ModelError(f"'{source}' has {len(entries)} entries, too many for a model", "Give a .zip of one.")
    members: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        # `ZipInfo` turns the system's separator into "/"; the name as stored is in `orig_filename`.
        for name in (entry.filename, entry.orig_filename):
            parts = name.rstrip("/").split("/")
            if name.startswith(("/", "~")) or ".." in parts or "\\" in name or ":" in name or "\0" in name:
                raise ModelError(
                    f"'{source}' holds an entry that leaves its folder: '{name}'", "Do not use this archive."
                )
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ModelError(f"'{source}' holds a link or a device: '{entry.filename}'", "Do not use this archive.")
        if entry.flag_bits & 0x1:
            raise ModelError(f"'{source}' is encrypted", unpack)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelError(f"'{source}' is packed by an unusual method", unpack)
        if entry.is_dir():
            continue
        if entry.file_size > max(_SMALL_FILE_BYTES, _LARGEST_EXPANSION * entry.compress_size):
            raise ModelError(
                f"'{source}': '{entry.filename}' unpacks to {entry.file_size} bytes from {entry.compress_size}",
                "No weights compress so well: do not use this archive.",
            )
        if entry.filename in members:
            raise ModelError(f"'{source}' holds '{entry.filename}' twice", "Do not use this archive.")
        members[entry.filename] = entry
    return members


def copy_at_most(source: BinaryIO, destination: BinaryIO, size: int) -> None:
    """Copies, whatever the archive claims, no more than `size` bytes and one: the excess then fails the check."""
    left = size + 1
    while left > 0 and (chunk := source.read(min(_COPY_CHUNK, left))):
        destination.write(chunk)
        left -= len(chunk)
