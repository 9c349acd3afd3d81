"""What is written beside every synthetic volume so that anyone can tell what it is and make it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib import __version__
from SynthDiffusionLib.volumes.atomic import atomic_file
from SynthDiffusionLib.volumes.detached import detached_data
from SynthDiffusionLib.volumes.marks import SYNTHETIC_DATA, own_mark

FORMAT = "synthdiffusion-provenance-1"
NOTICE = "Synthetic image for research. Not for diagnosis."
NOTICE_INPAINTED = (
    "Partly synthetic image for research, not for diagnosis. Everything outside the region file is a real patient's "
    "image: it is not anonymous, and belongs to its source patient in every split."
)

NOTICE_INPAINTED_AGAIN = (
    "Partly synthetic image for research, not for diagnosis. It was made from an image that was partly or wholly "
    "synthetic already: the region file holds only what was changed last. What is not synthetic is a real patient's "
    "image: it is not anonymous, and belongs to its source patient in every split."
)


def is_synthetic(metadata: Mapping[str, str]) -> bool:
    """Whether the header of a volume says that it comes from here, or by DICOM's Synthetic Data (0008,001C) that it is
    synthetic at least in part.

    Args:
        metadata: of a volume as `volumes.read_volume` gives it.
    """
    return own_mark(metadata) is not None or metadata.get(SYNTHETIC_DATA, "").upper() == "YES"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, followed by the one that holds its voxels if it is only their header; of a folder (a DICOM
    series), that of its files' names and hashes."""
    path = Path(path).expanduser()
    if path.is_dir():
        lines = [f"{p.relative_to(path).as_posix()}:{sha256_of(p)}" for p in sorted(path.rglob("*")) if p.is_file()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    digest = hashlib.sha256()
    for part in filter(None, (path, detached_data(path))):
        with part.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of what the voxels depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "monai", "diffusers", "numpy", "scipy")}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file, complete or not at all."""
    with atomic_file(Path(path)) as stream:
        # What is no text, as in some file names, is spelled as JSON has it: \\udc80.
        stream.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def software() -> dict[str, Any]:
    """This software and the versions of its libraries."""
    return {"name": "SynthDiffusion", "version": __version__, "libraries": library_versions()}
