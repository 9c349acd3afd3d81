"""What every training set says of its files, whatever its form: manifest.csv, a row a volume, and manifest.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib import __version__
from SynthDiffusionLib.export.dicom_marks import weights_sha256
from SynthDiffusionLib.export.set_cases import REAL, SourceCase
from SynthDiffusionLib.jobs.provenance import write_json
from SynthDiffusionLib.jobs.records import edits_of
from SynthDiffusionLib.reports.cells import cell

FORMAT = "synthdiffusion-training-set-1"
CSV_NAME, JSON_NAME = "manifest.csv", "manifest.json"
COLUMNS = {
    "file": "the image, relative to this folder",
    "label": "its label map; empty without one",
    "case": "its name in this set",
    "subject": "whose image it is, or whose mask it was made from, by the names; of nobody: its case",
    "group": "volumes that must stay on one side of every split have the same",
    "part": "training, validation or test",
    "fold": "the fold in which its group is not trained on; empty: trained on in every fold",
    "kind": "real, synthetic, or inpainted: partly a real patient's image, and not anonymous",
    "model": "that made it",
    "model_version": "its version",
    "weights_sha256": "of its only file of weights, or over the names and checksums of all of them",
    "mode": "whole, inpaint, joint or unconditional",
    "seed": "of the noise",
    "edited": "yes: its voxels, or those of the image that it was inpainted into, were changed after the model had "
    "made them; not checked: they may have been",
    "mask_origin": "real label map, drawing, the real case that the mask is from, or made by the model",
    "mask_sha256": "of the file of the mask that it was made from",
    "sha256": "of the image",
    "label_sha256": "of the label map",
}


@dataclass(frozen=True)
class Entry:
    """A volume of a training set.

    Args:
        case: its name in the set.
        source: where it is from.
        subject, group, part, fold, mask_origin: see `COLUMNS`.
        file, label: POSIX paths relative to the set; `label` is "" without one.
        sha256, label_sha256: of these files.
    """

    case: str
    source: SourceCase
    subject: str
    group: str
    part: str
    fold: int | None
    mask_origin: str
    file: str = ""
    label: str = ""
    sha256: str = ""
    label_sha256: str = ""

    @property
    def kind(self) -> str:
        return self.source.kind

    def row(self) -> dict[str, Any]:
        """By the columns of the manifest."""
        source = self.source
        record = source.record or {}
        return {
            "file": self.file,
            "label": self.label,
            "case": self.case,
            "subject": self.subject,
            "group": self.group,
            "part": self.part,
            "fold": self.fold,
            "kind": self.kind,
            "model": source.model.get("id", ""),
            "model_version": source.model.get("version", ""),
            "weights_sha256": weights_sha256(record) if record else "",
            "mode": source.mode,
            "seed": record["settings"]["seed"] if record else None,
            "edited": edits_of(record),
            "mask_origin": self.mask_origin,
            "mask_sha256": record.get("inputs", {}).get("segmentation_sha256", ""),
            "sha256": self.sha256,
            "label_sha256": self.label_sha256,
        }


def mask_origins(cases: Sequence[SourceCase]) -> list[str]:
    """Where the mask of each case is from, see `COLUMNS`."""
    of_file: dict[str, str] = {}
    of_shape: dict[str, str] = {}
    for case in cases:
        if case.kind == REAL and case.parts:
            of_file.setdefault(case.label_sha256, case.name)
            for digest in case.marks.masks:
                of_shape.setdefault(digest, case.name)
    found = []
    for case in cases:
        drawn = (case.record or {}).get("inputs", {}).get("segmentation_sha256")
        same = next((of_shape[m] for m in sorted(case.marks.masks) if m in of_shape), None)
        if case.kind == REAL:
            found.append("real label map" if case.label is not None else "")
        elif case.mode == "joint":
            found.append("made by the model")
        elif drawn in of_file or same is not None:
            found.append(f"real case {of_file.get(drawn) or same}")
        else:
            found.append("drawing" if drawn is not None else "")
    return found


def write_manifest(folder: Path, entries: Sequence[Entry], about: Mapping[str, Any]) -> None:
    """Writes manifest.csv and manifest.json.

    Args:
        folder: of the set.
        entries: its volumes.
        about: further entries of the JSON file.
    """
    rows = [entry.row() for entry in entries]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([cell(row[column]) for column in COLUMNS] for row in rows)
    (folder / CSV_NAME).write_text(text.getvalue(), encoding="utf-8", newline="")
    head = {"format": FORMAT, "software": {"name": "SynthDiffusion", "version": __version__}}
    write_json(folder / JSON_NAME, head | dict(about) | {"columns": COLUMNS, "volumes": rows})
