"""The part of a prepared data set that one arm may see, as a prepared data set of its own.

The folder holds the files of its own cases and no others, so that whatever is trained on it cannot read a test case.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.dataset import read_description
from SynthDiffusionLib.volumes.atomic import atomic_file

DRAW = 7  # tells this use of a seed from others


def draw_patients(description: dict[str, Any], number: int, seed: int, fold: int) -> list[str]:
    """Some of the training patients, in the order in which they were drawn.

    One order is drawn for each fold, and its first `number` are taken: the patients of a smaller arm are among those of
    every larger one of the same fold.

    Raises:
        BadInput: the training part has fewer patients.
    """
    patients = list(dict.fromkeys(description["cases"][n]["patient"] for n in sorted(description["split"]["train"])))
    if not 1 <= number <= len(patients):
        raise BadInput(
            f"{number} training patients were asked for; the data set has {len(patients)}",
            f"Give --patients numbers from 1 to {len(patients)}.",
        )
    order = np.random.default_rng([seed, DRAW, fold]).permutation(len(patients))
    return [patients[i] for i in order[:number]]


def write_part(data: Path, patients: Sequence[str], out: Path) -> Path:
    """A prepared data set of some training patients.

    Its training part has their cases; its validation part is the data set's own, which trainings only log; it has no
    test part. A folder that is complete is left as it is.

    Args:
        data: the whole prepared data set.
        patients: of its training part.
        out: the folder to write.

    Returns:
        `out`.
    """
    data, out = Path(data), Path(out)
    description = read_description(data)
    wanted = set(patients)
    train = [n for n in description["split"]["train"] if description["cases"][n]["patient"] in wanted]
    split = {"train": train, "validation": description["split"]["validation"]}
    kept = {n: description["cases"][n] for names in split.values() for n in names}
    part = description | {"split": split, "cases": kept}
    text = json.dumps(part, indent=1) + "\n"
    path = out / "dataset.json"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return out
    for kind in ("images", "classes"):
        (out / kind).mkdir(parents=True, exist_ok=True)
        for name in kept:
            shutil.copyfile(data / kind / f"{name}.nii.gz", out / kind / f"{name}.nii.gz")
    with atomic_file(path) as stream:  # last: a folder without it is not taken for complete
        stream.write(text.encode("utf-8"))
    return out
