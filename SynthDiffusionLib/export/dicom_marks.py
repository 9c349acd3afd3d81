"""What the headers of an exported series say: that it is synthetic, what made it, and whose it is not.

Everything here comes from the record of `generate` and from options; no header of an input is read. PS3.3 C.7.1.1
(Patient), C.7.2.1 (General Study), C.7.3.1 (General Series), C.7.5.1 (General Equipment), C.7.6.1 (General Image),
C.12.1 (SOP Common: Synthetic Data, Contributing Equipment Sequence).
"""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib import __version__
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.outputs import kind_of
from SynthDiffusionLib.jobs.provenance import NOTICE, NOTICE_INPAINTED, NOTICE_INPAINTED_AGAIN
from SynthDiffusionLib.jobs.records import edits_of, own_edits_of
from SynthDiffusionLib.jobs.sources import source_key
from SynthDiffusionLib.volumes.marks import EDITED_WORDS

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER = "SynthDiffusion"
_BODY_PARTS = {
    "chest": "CHEST",
    "brain": "BRAIN",
    "whole body": "WHOLEBODY",
    "breast": "BREAST",
    "limb": "EXTREMITY",
}
"""Defined terms of Body Part Examined (PS3.16 annex L)."""
_UNPAIRED = ("CHEST", "BRAIN", "WHOLEBODY")


@dataclass(frozen=True)
class Marks:
    """What all files of an export have in common.

    Args:
        record: provenance of the volume.
        modality: "CT" or "MR".
        subject: name of the synthetic subject.
        date: of creation, or None to leave it out.
        identity: stands for all that the files hold; equal exports have equal UIDs, others never.
    """

    record: Mapping[str, Any]
    modality: str
    subject: str
    date: datetime.date | None
    identity: str

    @property
    def partly_real(self) -> bool:
        return self.record["contains_real_patient_pixels"]

    @property
    def edits(self) -> str:
        """See `jobs.records.edits_of`."""
        return edits_of(self.record)

    @property
    def wholly_made(self) -> bool:
        """All voxels are known to be the model's: none is a patient's, and none was changed or left unchecked."""
        return not self.partly_real and not self.edits

    @property
    def again(self) -> bool:
        """It was inpainted into an image that was partly or wholly synthetic itself."""
        return self.notice == NOTICE_INPAINTED_AGAIN

    @property
    def notice(self) -> str:
        """See `notice_of`."""
        return notice_of(self.record)

    @property
    def label(self) -> str:
        """What a label on the slices says."""
        return "PARTLY SYNTHETIC" if self.partly_real else "SYNTHETIC"

    @property
    def model(self) -> tuple[str, str]:
        """Id and version of the model."""
        return self.record["model"]["id"], self.record["model"]["version"]

    @property
    def weights_sha256(self) -> str:
        """See the function of this name."""
        return weights_sha256(self.record)

    def uid(self, *what: object) -> str:
        """A UID that follows from the export's content: 2.25 and a UUID as a number (PS3.5 B.2).

        Args:
            what: which one, such as "slice" and a number.
        """
        name = "/".join(map(str, what))
        return f"2.25.{uuid.uuid5(uuid.UUID(hex=self.identity[:32]), f'{self.identity}/{name}').int}"


def notice_of(record: Mapping[str, Any]) -> str:
    """What the record's notice says, in words of this program only: the text of a record may be anybody's."""
    if not record["contains_real_patient_pixels"]:
        return NOTICE
    again = record.get("source", {}).get("image_synthetic", False) or record["notice"] == NOTICE_INPAINTED_AGAIN
    return NOTICE_INPAINTED_AGAIN if again else NOTICE_INPAINTED


def weights_sha256(record: Mapping[str, Any]) -> str:
    """Of the model's only file of weights, or over the names and checksums of all of them; "" if unknown."""
    files = record["model"].get("files", {})
    if len(files) == 1:
        return next(iter(files.values()))
    lines = "".join(f"{name}:{digest}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest() if files else ""


def modality_of(record: Mapping[str, Any]) -> str:
    """ "CT" or "MR", as the record says; older records have a window for CT and none for MR.

    Raises:
        BadInput: the record says nothing.
    """
    if "modality" in record["model"]:
        return record["model"]["modality"]
    if "display" not in record:
        raise BadInput("The record does not say whether the volume is CT or MR", "Generate the volume again.")
    return "CT" if record["display"] else "MR"


def subject_of(record: Mapping[str, Any], name: str | None) -> str:
    """The name of the synthetic subject.

    Without a name it is made from the checksum of what the volume was made from, see `jobs.sources.source_key`. So
    volumes of one source have one subject, and no name of a file, which may be a patient's, is used.

    Raises:
        BadInput: a name that DICOM cannot hold.
    """
    if name is None:
        return "SYN-" + hashlib.sha256(f"subject {source_key(record)}".encode()).hexdigest()[:12].upper()
    name = name.strip()
    if not name or len(name) > 48 or not name.isprintable() or set(name) & set('\\^=/:*?"<>|'):
        raise BadInput(
            "--subject cannot be used as a name in DICOM", "Give at most 48 letters, digits, blanks, dots and dashes."
        )
    return name


def identity_of(record: Mapping[str, Any], *content: object) -> str:
    """SHA-256 of the record, but for the case's name, and of all else that decides what the files hold."""
    kept = {key: value for key, value in record.items() if key not in ("case", "notes")}
    text = json.dumps([kept, __version__, [str(c) for c in content]], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def shortened_to(text: str, most: int) -> str:
    """Text of at most so many characters, without what ends a value or a line."""
    clean = "".join(" " if c == "\\" or not c.isprintable() else c for c in text)
    return clean if len(clean) <= most else clean[: most - 3].rstrip() + "..."


def described(marks: Marks, values: str) -> str:
    """The derivation in words, at most 1,024 characters (ST).

    Args:
        values: a sentence on how voxels are stored.
    """
    settings, (model, version) = marks.record["settings"], marks.model
    made = f"{kind_of(marks.record)}: made by the diffusion model {model} {version} (mode {settings['mode']}, "
    made += "".join(f"{key} {settings[key]}, " for key in ("sampler", "steps") if key in settings)
    sentences = [f"{made}seed {settings['seed']})."]
    if marks.again:
        sentences.append(
            "It was made from an image that was partly or wholly synthetic already. What is not synthetic of it is a "
            "real patient's and not anonymous."
        )
    elif marks.partly_real:
        sentences.append("Outside the inpainted region it holds a real patient's pixels and is not anonymous.")
    elif marks.wholly_made:
        sentences.append("No part of it was acquired from a patient.")
    whose = "its voxels" if own_edits_of(marks.record) == marks.edits else "voxels of the image that it was made from"
    if marks.edits == "yes":
        sentences.append(f"{whose.capitalize()} were {EDITED_WORDS}; nothing shows whose they are.")
    elif marks.edits:
        sentences.append(f"Whether {whose} are the model's was not checked; nothing shows whose they are.")
    return shortened_to(" ".join([*sentences, values]), 1024)


def add_subject_and_study(item: Dataset, marks: Marks) -> None:
    """Patient, study and frame of reference, which image and segmentations share."""
    item.SpecificCharacterSet = "ISO_IR 192"
    item.PatientName = f"SYNTHETIC^{marks.subject}"
    item.PatientID = marks.subject
    item.IssuerOfPatientID = MANUFACTURER
    item.PatientBirthDate = item.PatientSex = ""
    item.PatientComments = marks.notice
    if marks.partly_real:
        item.PatientIdentityRemoved = "NO"
    item.StudyInstanceUID = marks.uid("study")
    item.StudyDate, item.StudyTime = day(marks), "000000" if marks.date is not None else ""
    item.StudyID = marks.identity[:8].upper()
    item.AccessionNumber = item.ReferringPhysicianName = ""
    item.StudyDescription = f"{marks.label} {marks.modality}, research only"
    item.FrameOfReferenceUID = marks.uid("frame of reference")
    item.PositionReferenceIndicator = ""


def add_marks(item: Dataset, marks: Marks) -> None:
    """Synthetic Data, the program and the model, the notice and the date of creation."""
    item.SyntheticData = "YES"
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = marks.model[0]
    item.SoftwareVersions = versions(marks)
    if marks.weights_sha256:
        item.DeviceSerialNumber = marks.weights_sha256
    item.ContributingEquipmentSequence = [equipment(marks)]
    item.ImageComments = f"{kind_of(marks.record)}. {marks.notice}"
    if marks.date is not None:
        item.InstanceCreationDate = item.SeriesDate = item.ContentDate = day(marks)


def equipment(marks: Marks) -> Dataset:
    """The item of the Contributing Equipment Sequence: program, model, versions and checksum of the weights.

    Its purpose is that of PS3.3 C.12.1 for synthetic data, (109100, DCM, "Synthesizing Equipment").
    """
    from highdicom import ContributingEquipment
    from pydicom.sr.codedict import codes

    files = marks.record["model"].get("files", {})
    # Without folders: those of somebody's computer would tell whose it is.
    sums = ", ".join(f"{name.replace(chr(92), '/').rpartition('/')[2]} {s}" for name, s in sorted(files.items()))
    return ContributingEquipment(
        MANUFACTURER,
        codes.DCM.SynthesizingEquipment,
        manufacturer_model_name=marks.model[0],
        software_versions=versions(marks),
        device_serial_number=marks.weights_sha256 or None,
        contribution_description=shortened_to(f"Diffusion model; SHA-256 of its weights: {sums or 'unknown'}", 1024),
    )


def versions(marks: Marks) -> list[str]:
    """Of the program that made the volume, of the one that exported it if it is another, and of the model."""
    made = marks.record.get("software", {}).get("version", __version__)
    programs = dict.fromkeys(f"{MANUFACTURER} {version}" for version in (made, __version__))
    return [shortened_to(text, 64) for text in (*programs, " ".join(marks.model))]


def series_description(marks: Marks, what: str = "") -> str:
    """A line for the list of series."""
    model, version = marks.model
    return shortened_to(f"{marks.label}{what} {model} {version} seed {marks.record['settings']['seed']}", 64)


def add_body_part(item: Dataset, marks: Marks) -> None:
    """Body Part Examined of the model's volumes; Laterality, which paired and unknown parts must have, stays empty."""
    part = _BODY_PARTS.get(marks.record["model"].get("body_part", ""))
    if part is not None:
        item.BodyPartExamined = part
    if part not in _UNPAIRED:
        item.Laterality = ""


def day(marks: Marks) -> str:
    """The date of creation as DICOM has it, or ""."""
    return marks.date.strftime("%Y%m%d") if marks.date is not None else ""
