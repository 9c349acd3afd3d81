"""Finds the project's data files: model packages, label schemes, schemas, sample segmentations."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from SynthDiffusionLib.errors import RunFailed

# Slicer merges the Resources folders of all modules into one, and any other package may have a folder of that name, so
# that the name alone does not tell ours.
_MARKERS = ("LabelSchemes", "Schemas")


def _candidates() -> list[Path]:
    beside = Path(__file__).resolve().parent.parent / "Resources"  # in a clone, and in Slicer's flat installation
    spec = importlib.util.find_spec("SynthDiffusionResources")  # as pip installs it
    installed = list(spec.submodule_search_locations or ()) if spec else []
    return [beside, *map(Path, installed)]


@lru_cache(maxsize=1)
def _root() -> Path:
    candidates = _candidates()
    for folder in candidates:
        if all((folder / marker).is_dir() for marker in _MARKERS):
            return folder
    raise RunFailed(
        "The Resources folder of SynthDiffusion is missing (looked in "
        + " and ".join(f"'{folder}'" for folder in candidates)
        + ")",
        "The installation is incomplete: install SynthDiffusion again.",
    )


def resource_path(*parts: str) -> Path:
    """A file or folder under Resources, whether or not it exists.

    Args:
        parts: path components below Resources, such as `"LabelSchemes", "lung-nodule-ct.json"`.

    Raises:
        RunFailed: the Resources folder is not installed.
        ValueError: the parts lead out of Resources.
    """
    path = _root().joinpath(*parts)
    if not path.resolve().is_relative_to(_root().resolve()):
        raise ValueError(f"{parts!r} leads out of the Resources folder")
    return path
