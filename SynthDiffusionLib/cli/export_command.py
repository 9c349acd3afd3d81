"""`synthdiffusion export`: results in the form that others take them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

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
        "and marked as synthetic, without any other text from its header, and with its provenance (.json) beside it.",
    )
    add = volume.add_argument
    add("volume", type=path_arg, metavar="VOLUME", help="the synthetic volume (.nii.gz, .nrrd, .mha)")
    add("--provenance", type=path_arg, required=True, metavar="FILE.json", help="its provenance")
    add("--region", type=path_arg, metavar="FILE", help="of an inpainted volume: segmentation of what is synthetic")
    add("--out", type=path_arg, required=True, metavar="DIR", help="folder for the results; made if missing")
    add("--format", default="nii.gz", metavar="FORMAT", help="nii.gz (default) or nrrd")
    add("--json", action="store_true", help="print one JSON object on the last line")
    export_dicom.add_parser(kinds)
    export_datasets.add_parser(kinds)
    export_bundle.add_parser(kinds)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    written = export_volume(args.volume, args.provenance, args.out, args.format, args.region)
    for path in written.values():
        print(path)
    if args.json:
        print(json.dumps({what: str(path) for what, path in written.items()}))
    return 0


def export_volume(
    volume: Path, provenance: Path, out: Path, volume_format: str = "nii.gz", region: Path | None = None
) -> dict[str, Path]:
    """Writes a synthetic volume with its marks and its provenance, all files together.

    Args:
        volume: file of the volume; nothing of its header but the geometry is taken over.
        provenance: its record, as `generate` has written it.
        out: folder; made if missing.
        volume_format: "nii.gz" or "nrrd".
        region: for an inpainted volume: what is synthetic in it.

    Returns:
        paths under "volume", "provenance" and, where it was given, "region". The record has the checksum of the new
        file; that of the file which `generate` had written is kept under "generated_sha256".

    Raises:
        BadInput: a file that cannot be used, a name that is taken, or a region that is not the volume's.
        RunFailed: the disk is full.
    """
    from SynthDiffusionLib.jobs.outputs import check_names, header_marks, output_paths, safe_stem
    from SynthDiffusionLib.jobs.provenance import sha256_of, write_json
    from SynthDiffusionLib.jobs.records import read_record
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
    read = read_volume(volume)
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
        with files_together(paths) as staged:
            write_volume(marked, staged["volume"])
            if segmentation is not None:
                write_segmentation(segmentation, staged["region"])
            generated = record.get("generated_sha256", record.get("output_sha256"))
            sums = {"output_sha256": sha256_of(staged["volume"]), "generated_sha256": generated}
            write_json(staged["provenance"], record | sums)
    return paths
