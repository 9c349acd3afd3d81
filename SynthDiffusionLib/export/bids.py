"""Training sets laid out like BIDS (https://bids-specification.readthedocs.io), as far as BIDS goes.

    NAME/
      dataset_description.json, participants.tsv, participants.json, README
      sub-X/[ses-N/]anat/sub-X[_ses-N][_desc-synthetic]_T1w.nii.gz, .json
      sub-X/[ses-N/]anat/sub-X[_ses-N][_desc-synthetic]_dseg.nii.gz, .tsv

"BIDS-like": BIDS has no CT (the suffix `_ct` is not in it), and no place for images that no scanner has made. The set
is declared a derivative, where `desc-` and `_dseg` are defined. Real volumes have no `desc-`. Every synthetic volume is
a participant of its own; the column `group` says whom it belongs to.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib import __version__
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.export.dicom_marks import notice_of, weights_sha256
from SynthDiffusionLib.export.manifest import Entry
from SynthDiffusionLib.export.set_cases import REAL
from SynthDiffusionLib.export.set_files import SUFFIX
from SynthDiffusionLib.export.set_form import SetFacts, SetForm, safe_names
from SynthDiffusionLib.jobs.provenance import write_json
from SynthDiffusionLib.reports.cells import cell

VERSION = "1.10.0"  # of BIDS
SUFFIXES = {"MR": ("T1w", "T2w", "PDw", "FLAIR", "T2starw", "inplaneT1", "inplaneT2", "angio"), "CT": ("ct",)}
"""Suffixes of images by modality, the default first (BIDS, anatomical MRI data)."""

_PARTICIPANTS = {
    "participant_id": "the folder",
    "source": "real, synthetic, or inpainted: partly a real patient's image, and not anonymous",
    "group": "participants that must stay on one side of every split have the same",
    "part": "training, validation or test",
    "model": "that made the image, and its version",
}


class Bids(SetForm):
    """The form of BIDS.

    Args:
        suffix: of the images; None: the first of `SUFFIXES`.
    """

    def __init__(self, suffix: str | None = None) -> None:
        if suffix is not None and suffix not in (known := [s for group in SUFFIXES.values() for s in group]):
            raise BadInput(f"'{suffix}' is no suffix of an image", f"Give --suffix one of {', '.join(known)}.")
        self.suffix = suffix

    def stems(self, entries: Sequence[Entry]) -> list[tuple[str, str]]:
        """Participant of each volume, and the path of its files without suffix."""
        people = list(dict.fromkeys(e.subject.casefold() for e in entries if e.kind == REAL))
        subjects = {e.subject.casefold(): e.subject for e in entries if e.kind == REAL}
        labels = dict(zip(people, safe_names((subjects[p] for p in people), only_letters=True), strict=True))
        taken = {label.casefold() for label in labels.values()}
        volumes = Counter(e.subject.casefold() for e in entries if e.kind == REAL)
        seen: Counter[str] = Counter()
        found = []
        for entry in entries:
            whose = entry.subject.casefold() if entry.kind == REAL else entry.kind
            seen[whose] += 1
            if entry.kind == REAL:
                folder = stem = subject = f"sub-{labels[whose]}"
                if volumes[whose] > 1:
                    folder, stem = f"{subject}/ses-{seen[whose]:02d}", f"{subject}_ses-{seen[whose]:02d}"
            else:
                while f"{entry.kind}{seen[whose]:04d}" in taken:
                    seen[whose] += 1
                folder = subject = f"sub-{entry.kind}{seen[whose]:04d}"
                stem = f"{subject}_desc-{entry.kind}"
            found.append((subject, f"{folder}/anat/{stem}"))
        return found

    def places(self, entries: Sequence[Entry], modality: str) -> list[tuple[str, str]]:
        suffix = self.suffix or SUFFIXES[modality][0]
        if suffix not in SUFFIXES[modality]:
            raise BadInput(
                f"'{suffix}' is no suffix of {modality} images",
                f"Give --suffix one of {', '.join(SUFFIXES[modality])}.",
            )
        return [(f"{stem}_{suffix}{SUFFIX}", f"{stem}_dseg{SUFFIX}") for _, stem in self.stems(entries)]

    def describe(self, folder: Path, entries: Sequence[Entry], facts: SetFacts) -> None:
        write_json(
            folder / "dataset_description.json",
            {
                "Name": facts.name,
                "BIDSVersion": VERSION,
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": "SynthDiffusion", "Version": __version__, "Description": facts.description}],
            },
        )
        (folder / "README").write_text(_README.format(description=facts.description), encoding="utf-8")
        people: dict[str, dict[str, str]] = {}
        for entry, (subject, _) in zip(entries, self.stems(entries), strict=True):
            model = entry.source.model
            people.setdefault(
                subject,
                {
                    "participant_id": subject,
                    "source": entry.kind,
                    "group": entry.group,
                    "part": entry.part,
                    "model": f"{model['id']} {model['version']}" if model else "n/a",
                },
            )
            image = folder / entry.file
            write_json(image.with_name(image.name.removesuffix(SUFFIX) + ".json"), sidecar(entry))
            if entry.label:
                classes = [{"index": str(value), "name": name} for name, value in facts.values.items()]
                label = folder / entry.label
                _write_table(label.with_name(label.name.removesuffix(SUFFIX) + ".tsv"), ("index", "name"), classes)
        _write_table(folder / "participants.tsv", tuple(_PARTICIPANTS), list(people.values()))
        write_json(folder / "participants.json", {k: {"Description": text} for k, text in _PARTICIPANTS.items()})


def sidecar(entry: Entry) -> dict[str, Any]:
    """What is said beside an image: of a synthetic one what its record says of its making, and no name."""
    record = entry.source.record
    if record is None:
        return {"Synthetic": False}
    model, settings = record["model"], record["settings"]
    return {
        "Synthetic": True,
        "ContainsRealPatientPixels": record["contains_real_patient_pixels"],
        "Notice": notice_of(record),
        "Model": model["id"],
        "ModelVersion": model["version"],
        "WeightsSHA256": weights_sha256(record),
        "Seed": settings["seed"],
        "Mode": settings["mode"],
        **{name.capitalize(): settings[name] for name in ("sampler", "steps", "guidance") if name in settings},
        "MaskOrigin": entry.mask_origin,
        "SourcesSHA256": dict(record.get("inputs", {})),
    }


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(row[column]) for column in columns] for row in rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


_README = """{description}

Laid out like BIDS, written by SynthDiffusion. BIDS has no CT and no images that no scanner has made: do not expect a
validator to pass. The column source of participants.tsv and the Synthetic entry of each sidecar tell real and synthetic
apart; desc-synthetic and desc-inpainted in a file's name do too. An inpainted image is partly a real patient's: it is
not anonymous. Participants of one group must stay on one side of every split.
"""
