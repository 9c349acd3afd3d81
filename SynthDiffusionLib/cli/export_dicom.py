"""`synthdiffusion export dicom`: a synthetic volume as a CT or MR series, with its segmentation as DICOM SEG."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from SynthDiffusionLib.cli.paths import path_arg

if TYPE_CHECKING:
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.export.dicom import DicomExport, DicomRequest

NO_DATE = "none"


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Adds `export dicom`."""
    parser = kinds.add_parser(
        "dicom",
        help="a volume as a CT or MR series that is marked as synthetic, with its segmentation as DICOM SEG",
        description="Writes a volume that generate has written as a CT or MR series, into a new folder "
        "DIR/SUBJECT_MODEL_seedN. Nothing of an input's headers or file names gets into it. An inpainted volume holds "
        "a real patient's pixels, and every file says so. Needs the extra dicom.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("volume", type=path_arg, metavar="VOLUME", help="the synthetic volume (.nii.gz, .nrrd)")
    add(
        "--provenance",
        type=path_arg,
        metavar="FILE.json",
        help="its record (default: the .json file of the same name)",
    )
    add(
        "--segmentation",
        type=path_arg,
        metavar="FILE",
        help="the drawing that it was made from, on the same grid (joint models: what lies beside the volume)",
    )
    add(
        "--region",
        type=path_arg,
        metavar="FILE",
        help="of an inpainted volume: what is synthetic in it (default: the _region.seg.nrrd beside it)",
    )
    add("--out", type=path_arg, required=True, metavar="DIR", help="folder for the new folder; made if missing")
    add(
        "--subject",
        metavar="NAME",
        help="name and ID of the synthetic subject, never those of a patient (default: SYN- and a checksum)",
    )
    add(
        "--date",
        type=_date,
        default=datetime.date.today(),
        metavar="YYYY-MM-DD",
        help="date of creation in the headers, or none (default: today)",
    )
    add(
        "--label",
        default="none",
        metavar="KIND",
        help="write SYNTHETIC on every slice: overlay, which viewers can hide, or burned-in, which replaces voxels",
    )
    add("--json", action="store_true", help="print one JSON object on the last line")
    add("--events", action="store_true", help="print progress as JSON lines before the last line")


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.export.dicom import DicomRequest, export_dicom

    request = DicomRequest(
        args.volume, args.out, args.provenance, args.segmentation, args.region, args.subject, args.date, args.label
    )
    if args.events:
        written = _export_with_events(request)
    else:
        line = ProgressLine()
        try:
            written = export_dicom(request, _teller(line))
        finally:
            line.close()
    for note in written.notes:
        print(f"note: {note}", file=sys.stderr)
    if written.other_drawing is not None:
        name = written.other_drawing
        print(f"note: '{name}' is not the file that the volume was made from, according to its record", file=sys.stderr)
    paths = {"image": written.image, "segmentation": written.segmentation, "region": written.region}
    paths = {what: str(path) for what, path in paths.items() if path is not None}
    for path in paths.values():
        print(path)
    if args.json or args.events:
        stored = written.stored
        values = {"slope": stored.slope, "intercept": stored.intercept, "largest_error": stored.largest_error}
        about = {"subject": written.subject, "slices": written.slices, "values": values, "notes": list(written.notes)}
        about["other_drawing"] = written.other_drawing
        print(json.dumps({"folder": str(written.folder)} | paths | about))
    return 0


def _teller(line: ProgressLine) -> Callable[[int, int], None]:
    """Tells of every hundredth slice."""

    def tell(done: int, total: int) -> None:
        if done % 100 == 0:
            line({"event": "progress", "stage": "writing slices", "step": done, "total": total})

    return tell


def _export_with_events(request: DicomRequest) -> DicomExport:
    """Tells of every hundredth part. Who reads the events asks for an end as of a job: by a file in the working folder.

    Raises:
        KeyboardInterrupt: the file is there.
    """
    from SynthDiffusionLib.export.dicom import export_dicom
    from SynthDiffusionLib.jobs.events import json_lines
    from SynthDiffusionLib.jobs.worker import CANCEL_FILE, interrupted_by

    on_event = json_lines(sys.stdout)

    def tell(done: int, total: int) -> None:
        if done == total or done % max(1, total // 100) == 0:
            on_event({"event": "progress", "stage": "slices", "step": done, "total": total})

    with interrupted_by(Path(CANCEL_FILE)):
        return export_dicom(request, tell)


def _date(text: str) -> datetime.date | None:
    if text == NO_DATE:
        return None
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no date; write it like 2026-01-31, or none") from None
