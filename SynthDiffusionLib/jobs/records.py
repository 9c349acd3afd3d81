"""The record of a volume that is to be exported: found, checked, and held against the volume's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.marks import own_mark

_SUFFIXES = (".nii.gz", ".nrrd", ".nii", ".mha", ".mhd")


def read_record(path: Path) -> dict[str, Any]:
    """The provenance of a volume.

    Raises:
        BadInput: no such file, or not a provenance record.
    """
    from SynthDiffusionLib.schemas import first_problem, read_json

    mend = "Give the .json file that generate has written beside the volume."
    try:
        record = read_json(path)
    except OSError as error:
        raise BadInput(f"Cannot read the provenance '{path}' ({error.strerror})", mend) from error
    except ValueError as error:
        raise BadInput(f"The provenance '{path}' is not valid JSON: {error}", mend) from error
    problem = first_problem(record, "provenance")
    if problem:
        raise BadInput(f"'{path}' is not the provenance of a synthetic volume: {problem}", mend)
    if (record["settings"]["mode"] == "inpaint") != record["contains_real_patient_pixels"]:
        raise BadInput(f"The provenance '{path}' contradicts itself about real patient pixels in the volume", mend)
    return record


def own_edits_of(record: Mapping[str, Any]) -> str:
    """ "yes" if voxels of a volume were changed after the model had made them, "not checked" if they may have been, and
    else ""."""
    if record.get("modified_after_generation"):
        return "yes"
    return "not checked" if record.get("voxels_unchecked") else ""


def edits_of(record: Mapping[str, Any]) -> str:
    """As `own_edits_of`, of a volume or of an image that it was inpainted into, in however many steps."""
    found = (own_edits_of(record), record.get("source", {}).get("edited", ""))
    return next((edits for edits in ("yes", "not checked") if edits in found), "")


def check_header(record: Mapping[str, Any], metadata: Mapping[str, str], name: str) -> None:
    """Refuses a record that contradicts what the volume's own header says about real pixels in it.

    Args:
        record: of the volume.
        metadata: of the volume, as `volumes.read_volume` gives it.
        name: of its file, for the message.

    Raises:
        BadInput: they disagree.
    """
    described = metadata.get("description", "")
    if own_mark({"description": described}) is None:
        return
    if described.startswith("PARTLY SYNTHETIC") != record["contains_real_patient_pixels"]:
        says = [
            "partly a real patient's" if partly else "synthetic as a whole"
            for partly in (described.startswith("PARTLY SYNTHETIC"), record["contains_real_patient_pixels"])
        ]
        raise BadInput(
            f"'{name}' is {says[0]} by its header, and {says[1]} by its record",
            "Give the two files as generate has written them.",
        )


def beside(volume: Path, ending: str) -> Path:
    """The file that `generate` has written with a volume, by its ending: ".json", ".seg.nrrd", "_region.seg.nrrd"."""
    suffix = next((s for s in _SUFFIXES if volume.name.lower().endswith(s)), "")
    return volume.with_name(volume.name[: len(volume.name) - len(suffix)] + ending)


def record_of(volume: Path, provenance: Path | None) -> dict[str, Any]:
    """The record of a volume's file, which must be the very file that the record was written with.

    A record of another volume could pass a patient's image off as synthetic, so that it is refused.

    Args:
        volume: its file.
        provenance: its record; None: the file of the same name that ends in .json.

    Raises:
        BadInput: no record, none that can be used, or the record of another file.
    """
    from SynthDiffusionLib.jobs.provenance import sha256_of
    from SynthDiffusionLib.volumes.files import existing

    volume = existing(volume)
    if volume.is_dir():
        raise BadInput(f"'{volume}' is a folder", "Give the .nii.gz or .nrrd file that generate has written.")
    if provenance is None:
        provenance = beside(volume, ".json")
        if not provenance.is_file():
            raise BadInput(
                f"'{volume.name}' has no record ('{provenance.name}') beside it, so it is not known to be synthetic",
                "Only volumes that generate has written are exported. Give the record with --provenance.",
            )
    record = read_record(provenance)
    if record.get("output_sha256") != sha256_of(volume):
        raise BadInput(
            f"'{provenance.name}' is not the record of '{volume.name}': the checksums differ",
            "Give the two files that were written together. For a volume that was saved from a scene, run "
            "synthdiffusion export volume first: it writes both anew.",
        )
    return record
