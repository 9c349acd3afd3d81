"""Training sets for nnU-Net v2 (https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md).

DatasetNNN_NAME/
  dataset.json           channel, classes, number of cases
  splits_final.json      folds, which nnU-Net takes over when it plans (from 2.2 on; before, into nnUNet_preprocessed)
  imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz
  imagesTs/CASE_0000.nii.gz, labelsTs/CASE.nii.gz      of the test part
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.export.manifest import Entry
from SynthDiffusionLib.export.set_files import SUFFIX
from SynthDiffusionLib.export.set_form import SetFacts, SetForm, in_parts
from SynthDiffusionLib.export.splits import TEST
from SynthDiffusionLib.jobs.provenance import write_json

CHANNEL_NAMES = {"CT": "CT", "MR": "MRI"}
"""nnU-Net normalises a channel named "CT" by the intensities of all cases, every other one case by case (z-score)."""

LARGEST_NUMBER = 999


class NnUNet(SetForm):
    """The form of nnU-Net v2.

    Args:
        number: of the data set, 1 to 999.
    """

    needs_labels = True
    takes_folds = True

    def __init__(self, number: int) -> None:
        if not 1 <= number <= LARGEST_NUMBER:
            raise BadInput(f"{number} is no number of a data set", f"Give --id a number from 1 to {LARGEST_NUMBER}.")
        self.number = number

    def folder_name(self, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
            raise BadInput(
                f"'{name}' cannot be the name of a data set of nnU-Net",
                "Give --name up to 60 letters, digits, _ and -.",
            )
        return f"Dataset{self.number:03d}_{name}"

    def places(self, entries: Sequence[Entry], modality: str) -> list[tuple[str, str]]:
        return in_parts(entries, SUFFIX, "_0000")

    def describe(self, folder: Path, entries: Sequence[Entry], facts: SetFacts) -> None:
        (folder / "imagesTs").mkdir(exist_ok=True)
        trained = [entry for entry in entries if entry.part != TEST]
        content: dict[str, Any] = {
            "channel_names": {"0": CHANNEL_NAMES[facts.modality]},
            "labels": facts.values,
            "numTraining": len(trained),
            "file_ending": SUFFIX,
            "name": facts.name,
            "description": facts.description,
            "kinds": {entry.case: entry.kind for entry in entries},
        }
        write_json(folder / "dataset.json", content)
        text = json.dumps(folds_of(trained, facts.folds), indent=1)
        (folder / "splits_final.json").write_text(text + "\n", encoding="utf-8")


def folds_of(entries: Sequence[Entry], folds: int) -> list[dict[str, list[str]]]:
    """nnU-Net's splits_final.json: in each fold, the cases to train and to validate on.

    Validated on are the fold's real cases, or all of it where there is none in the set. What else belongs to the same
    groups is in neither list.
    """
    counting = any(entry.kind == "real" for entry in entries)
    return [
        {
            "train": [e.case for e in entries if e.fold != fold],
            "val": [e.case for e in entries if e.fold == fold and (e.kind == "real" or not counting)],
        }
        for fold in range(folds)
    ]
