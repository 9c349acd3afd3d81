"""Reading what `prepare` wrote."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes import Volume, read_volume

# What everything that reads a data set relies on, by type.
_ENTRIES: dict[str, Any] = {
    "unit": str,
    "spacing_mm": int | float | list,
    "classes": dict,
    "split_seed": int,
    "split": dict,
    "cases": dict,
}


UNITS = ("HU", "arbitrary")


@dataclass(frozen=True)
class Case:
    """One training pair on one grid: `image` in the unit of the data set ("HU", or "arbitrary" for MR on the scale of
    `mr_intensity`), `classes` the class map."""

    name: str
    patient: str
    image: Volume
    classes: Volume


def description_sha256(folder: Path) -> str:
    """Checksum of `dataset.json`, which holds the split and the checksums of all sources."""
    return hashlib.sha256((Path(folder) / "dataset.json").read_bytes()).hexdigest()


def read_description(folder: Path) -> dict:
    """`dataset.json` of a prepared folder.

    Raises:
        BadInput: it is missing, of another format, or lacks what `prepare` writes.
    """
    path = Path(folder) / "dataset.json"
    if not path.is_file():
        raise BadInput(f"'{folder}' is not a prepared data set", "Make one with: synthdiffusion prepare IMAGES LABELS.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"'{path}' is damaged: {error}", "Make it again with synthdiffusion prepare.") from error
    if not isinstance(description, dict) or description.get("format") != "synthdiffusion-dataset-1":
        raise BadInput(f"'{path}' is of an unknown format", "Make it again with synthdiffusion prepare.")
    problem = next(_problems(description), None)
    if problem:
        raise BadInput(f"'{path}' is damaged: {problem}", "Make it again with synthdiffusion prepare.")
    return description


def spacing_of(description: dict[str, Any]) -> tuple[float, float, float]:
    """The spacing of a data set in mm along i, j and k; `dataset.json` has one number where they are the same."""
    spacing = description["spacing_mm"]
    return tuple(spacing) if isinstance(spacing, list) else (spacing,) * 3


def _problems(description: dict[str, Any]) -> Iterator[str]:
    for name, expected in _ENTRIES.items():
        if name not in description:
            yield f"it has no '{name}'"
        elif not isinstance(description[name], expected) or isinstance(description[name], bool):
            yield f"'{name}' is of another type than expected"
    if description["unit"] not in UNITS:
        yield f"its unit is {description['unit']!r}, and neither of {', '.join(UNITS)}"
    spacing = description["spacing_mm"]
    numbers = spacing if isinstance(spacing, list) else [spacing] * 3
    if len(numbers) != 3 or not all(
        isinstance(mm, int | float) and not isinstance(mm, bool) and 0 < mm < float("inf") for mm in numbers
    ):
        yield f"'spacing_mm' is {spacing}"
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in description["classes"].values()):
        yield "'classes' must give a whole number for each class"
    for name, case in description["cases"].items():
        if not isinstance(case, dict) or not isinstance(case.get("patient"), str):
            yield f"the case '{name}' has no patient"
    for part, names in description["split"].items():
        if not isinstance(names, list):
            yield f"'split.{part}' must be a list of cases"
            continue
        for name in names:
            if not isinstance(name, str) or name not in description["cases"]:
                yield f"'split.{part}' names {name!r}, which is no case"
            elif re.search(r"[/\\\0]", name):
                yield f"'split.{part}' names {name!r}, which is no plain name"


def patients_of(folder: Path, split: str) -> set[str]:
    """The patients of a part of a data set; one may have several cases."""
    description = read_description(folder)
    return {description["cases"][name]["patient"] for name in description["split"][split]}


def shared_patient(description: dict[str, Any]) -> tuple[str, str, str] | None:
    """The first patient who is in two parts of a data set, with the two parts; None where each is in one only."""
    seen: dict[str, str] = {}
    for part, names in description["split"].items():
        for name in names:
            patient = description["cases"][name]["patient"]
            if seen.setdefault(patient, part) != part:
                return patient, seen[patient], part
    return None


def load_split(folder: Path, split: str) -> list[Case]:
    """All cases of "train", "validation" or "test".

    Raises:
        BadInput: no such part, or a file that is missing, damaged, or does not fit its case.
    """
    folder = Path(folder)
    description = read_description(folder)
    if split not in description["split"]:
        raise BadInput(f"'{split}' is no part of the data set", f"Choose one of {', '.join(description['split'])}.")
    values = {0, *description["classes"].values()}
    return [
        _load_case(folder, name, description["cases"][name]["patient"], values, description["unit"])
        for name in description["split"][split]
    ]


def _load_case(folder: Path, name: str, patient: str, values: set[int], unit: str) -> Case:
    image = read_volume(folder / "images" / f"{name}.nii.gz", unit)
    classes = read_volume(folder / "classes" / f"{name}.nii.gz", unit="label")
    if image.shape != classes.shape or not np.allclose(image.affine, classes.affine, atol=1e-3):
        raise BadInput(
            f"The image and the class map of the case '{name}' in '{folder}' lie on different grids",
            "Make the data set again with synthdiffusion prepare.",
        )
    strange = sorted(set(np.unique(classes.array).tolist()) - values)
    if strange:
        raise BadInput(
            f"The class map of the case '{name}' in '{folder}' has the value {strange[0]:g}, which is no class",
            "Make the data set again with synthdiffusion prepare.",
        )
    return Case(name, patient, image, classes)
