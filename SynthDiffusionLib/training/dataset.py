"""Reading what `prepare` wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes import Volume, read_volume


@dataclass(frozen=True)
class Case:
    """One training pair on one grid: `image` in HU, `classes` the class map."""

    name: str
    patient: str
    image: Volume
    classes: Volume


def read_description(folder: Path) -> dict:
    """`dataset.json` of a prepared folder."""
    path = Path(folder) / "dataset.json"
    if not path.is_file():
        raise BadInput(f"'{folder}' is not a prepared data set", "Make one with: synthdiffusion prepare IMAGES LABELS.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"'{path}' is damaged: {error}", "Make it again with synthdiffusion prepare.") from error
    if description.get("format") != "synthdiffusion-dataset-1":
        raise BadInput(f"'{path}' is of an unknown format", "Make it again with synthdiffusion prepare.")
    return description


def load_split(folder: Path, split: str) -> list[Case]:
    """All cases of "train", "validation" or "test"."""
    folder = Path(folder)
    description = read_description(folder)
    if split not in description["split"]:
        raise BadInput(f"'{split}' is no part of the data set", f"Choose one of {', '.join(description['split'])}.")
    return [
        Case(
            name,
            description["cases"][name]["patient"],
            read_volume(folder / "images" / f"{name}.nii.gz", unit="HU"),
            read_volume(folder / "classes" / f"{name}.nii.gz", unit="label"),
        )
        for name in description["split"][split]
    ]
