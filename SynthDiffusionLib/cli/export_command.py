"""`synthdiffusion export`: results in the form that others take them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.cli import export_bundle, export_datasets, export_dicom
from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `export` and its own subcommands; `run` carries them out."""
    parser = subparsers.add_parser("export", help="write synthetic volumes for others", description=__doc__)
    parser.set_defaults(run=run)
    kinds = parser.add_subparsers(dest="export_kind", metavar="KIND", required=True)
    volume = kinds.add_parser(
        "volume",
        help="a volume from a scene as a file that is marked as synthetic, with its provenance",
        description="Writes a synthetic volume, such as one that was saved from a scene, as generate would have: named "
        "and marked as synthetic, without any other text from its header, and with its provenance (.json) beside it. "
        "Its voxels must be those of the provenance, and of the same size, whatever the file's format; it may have "
        "been moved or turned.",
    )
    add = volume.add_argument
    add("volume", type=path_arg, metavar="VOLUME", help="the synthetic volume (.nii.gz, .nrrd, .mha)")
    add("--provenance", type=path_arg, required=True, metavar="FILE.json", help="its provenance")
    add(
        "--region",
        type=path_arg,
        metavar="FILE",
        help="of an inpainted volume: what is synthetic in it (default: the _region.seg.nrrd beside it)",
    )
    add("--edited", action="store_true", help="its voxels were edited or scaled on purpose: take them, and mark it")
    add(
        "--out",
        type=path_arg,
        required=True,
        metavar="DIR",
        help="folder for the results, made if missing; files of other content are not replaced",
    )
    add(
        "--replace",
        action="store_true",
        help="replace an earlier export of the same volume, but never one that was not edited by one that was",
    )
    add("--format", default="nii.gz", metavar="FORMAT", help="nii.gz (default) or nrrd")
    add("--json", action="store_true", help="print one JSON object on the last line")
    export_dicom.add_parser(kinds)
    export_datasets.add_parser(kinds)
    export_bundle.add_parser(kinds)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    exported = export_volume(
        args.volume, args.provenance, args.out, args.format, args.region, args.edited, args.replace
    )
    for path in exported.paths.values():
        print(path)
    for note in exported.notes:
        print(f"note: {note}", file=sys.stderr)
    if args.json:
        told: dict[str, Any] = {what: str(path) for what, path in exported.paths.items()}
        told |= {"edited": True} if exported.edited else {}
        print(json.dumps(told | ({"notes": list(exported.notes)} if exported.notes else {})))
    return 0


@dataclass(frozen=True)
class ExportedVolume:
    """What was written.

    Args:
        paths: under "volume", "provenance" and, where it was given, "region".
        edited: its voxels are not those that the model has made, by its record.
        notes: what the user should know.
    """

    paths: dict[str, Path]
    edited: bool
    notes: tuple[str, ...]


def export_volume(
    volume: Path,
    provenance: Path,
    out: Path,
    volume_format: str = "nii.gz",
    region: Path | None = None,
    edited: bool = False,
    replace: bool = False,
) -> ExportedVolume:
    """Writes a synthetic volume with its marks and its provenance, all files together.

    Args:
        volume: file of the volume; nothing of its header but the geometry is taken over.
        provenance: its record, as `generate` has written it.
        out: folder; made if missing.
        volume_format: "nii.gz" or "nrrd".
        region: for an inpainted volume: what is synthetic in it; None: the file that was written with it, if it lies
            beside the volume.
        edited: other voxels than those of the record are taken too; the record and the header then say so.
        replace: see `export.taken_names.require_free`.

    Returns:
        what was written. The record has the checksums of the new file and of its voxels; that of the file which
        `generate` had written is kept under "generated_sha256".

    Raises:
        BadInput: a file that cannot be used, voxels that are not those of the record, a name that is taken, or a region
            that is not the volume's.
        RunFailed: the disk is full.
    """
    from SynthDiffusionLib.export.own_voxels import compared
    from SynthDiffusionLib.export.taken_names import require_free
    from SynthDiffusionLib.jobs.outputs import check_names, header_marks, output_paths, safe_stem
    from SynthDiffusionLib.jobs.provenance import sha256_of, write_json
    from SynthDiffusionLib.jobs.records import beside, read_record
    from SynthDiffusionLib.jobs.request import CHOICES, check_choice
    from SynthDiffusionLib.output_folders import output_folder
    from SynthDiffusionLib.volumes import (
        Volume,
        read_segmentation,
        read_volume,
        same_grid,
        write_segmentation,
        write_volume,
    )
    from SynthDiffusionLib.volumes.atomic import files_together

    check_choice(volume_format, CHOICES["format"], "format")
    record = read_record(provenance)
    inpainted = record["contains_real_patient_pixels"]
    if region is not None and not inpainted:
        raise BadInput("--region was given, but the volume is synthetic as a whole", "Leave --region out.")
    found = beside(volume, "_region.seg.nrrd")
    if region is None and inpainted and found.is_file():
        region = found
    read = read_volume(volume)
    record, notes = compared(record, read, volume, provenance, edited)
    marked = Volume(read.array, read.affine, read.unit, header_marks(record))
    segmentation = read_segmentation(region) if region is not None else None
    if segmentation is not None and not same_grid(segmentation.shape, segmentation.affine, marked.shape, marked.affine):
        raise BadInput(f"'{region}' has another grid than the volume", "Give the region that was made with it.")
    with output_folder(out) as folder:
        case, model, seed = safe_stem(record["case"]), record["model"]["id"], record["settings"]["seed"]
        paths = output_paths(folder, case, model, seed, inpainted=inpainted, volume_format=volume_format)
        del paths["contact_sheet"]
        if segmentation is None:
            paths.pop("region", None)
        check_names(paths, volume_format)
        require_free(paths, record, marked, segmentation, replace)
        with files_together(paths) as staged:
            write_volume(marked, staged["volume"])
            if segmentation is not None:
                write_segmentation(segmentation, staged["region"])
            write_json(staged["provenance"], record | {"output_sha256": sha256_of(staged["volume"])})
    return ExportedVolume(paths, bool(record.get("modified_after_generation")), notes)
