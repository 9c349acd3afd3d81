"""Training sets in the form of the Medical Segmentation Decathlon (http://medicaldecathlon.com), which MONAI reads
(`monai.data.load_decathlon_datalist`).

    NAME/
      dataset.json
      imagesTr/CASE.nii.gz, labelsTr/CASE.nii.gz      training and validation
      imagesTs/CASE.nii.gz, labelsTs/CASE.nii.gz      test
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib.export.manifest import Entry
from SynthDiffusionLib.export.nnunet import CHANNEL_NAMES
from SynthDiffusionLib.export.set_files import SUFFIX
from SynthDiffusionLib.export.set_form import SetFacts, SetForm, in_parts
from SynthDiffusionLib.export.splits import TEST, TRAINING, VALIDATION
from SynthDiffusionLib.jobs.provenance import write_json


class Decathlon(SetForm):
    """The form of the Medical Segmentation Decathlon."""

    needs_labels = True

    def places(self, entries: Sequence[Entry], modality: str) -> list[tuple[str, str]]:
        return in_parts(entries, SUFFIX)

    def describe(self, folder: Path, entries: Sequence[Entry], facts: SetFacts) -> None:
        training, validation, test = (
            [_item(e) for e in entries if e.part == part] for part in (TRAINING, VALIDATION, TEST)
        )
        content: dict[str, Any] = {
            "name": facts.name,
            "description": facts.description,
            "reference": "",
            "licence": "",
            "release": "",
            "tensorImageSize": "3D",
            "modality": {"0": CHANNEL_NAMES[facts.modality]},
            "labels": {str(value): name for name, value in facts.values.items()},
            "numTraining": len(training),
            "numValidation": len(validation),
            "numTest": len(test),
            "training": training,
        }
        if validation:
            content["validation"] = validation
        if test:  # an empty list cannot be loaded
            content["test"] = [item["image"] for item in test]  # as the Decathlon has it, without labels
            content["testing"] = test  # as MONAI's Auto3DSeg has it
        write_json(folder / "dataset.json", content)


def _item(entry: Entry) -> dict[str, str]:
    paths = {"image": f"./{entry.file}", "label": f"./{entry.label}"}
    return paths | {"case": entry.case, "kind": entry.kind, "group": entry.group}
