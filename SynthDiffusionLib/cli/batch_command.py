"""`synthdiffusion batch`: thousands of volumes, on the GPUs of this machine, in a Slurm array, or on a Ray cluster."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from typing import Any

from SynthDiffusionLib.cli.generate_command import add_settings, request_of
from SynthDiffusionLib.cli.paths import path_arg

EXAMPLES = """examples:
  synthdiffusion batch masks/ --model lung-nodule-ct --out batch --samples 10
  synthdiffusion batch masks/ --model lung-nodule-ct --out batch --samples 10 --resume
  synthdiffusion batch masks/ --model lung-nodule-ct --out /shared/batch --shard 3/16 --resume
  synthdiffusion batch masks/ --model lung-nodule-ct --out /shared/batch --ray 10.0.0.5:6379
  synthdiffusion batch pairs.csv --model lung-nodule-ct --out batch --mode inpaint
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `batch`; `run` carries it out."""
    parser = subparsers.add_parser(
        "batch",
        help="make many volumes, on several GPUs or machines",
        description="Makes volumes from many segmentations, each with several seeds. A volume that fails is recorded "
        "with its reason, and the others go on. Whatever ends a batch, the same command with --resume goes on with it: "
        "no volume is made twice, none is lost. Beside the volumes lie manifest.csv with checksums, and report.html.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "segmentations",
        type=path_arg,
        nargs="*",
        metavar="SEGMENTATIONS",
        help="files; folders, of which all segmentations are taken; CSV lists with the columns segmentation and, if "
        "need be, image (to inpaint into) and case. Without any: volumes without a drawing, by models that can do so",
    )
    add("--model", required=True, metavar="ID", help="ID or folder of a model; see: synthdiffusion models list")
    add("--out", type=path_arg, required=True, metavar="DIR", help="folder of the batch; made if missing")
    add("--samples", type=int, default=1, metavar="N", help="volumes of each segmentation (default 1)")
    add(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="from which all seeds follow (default 1); each segmentation gets other ones, told in the manifest",
    )
    add("--same-seeds", action="store_true", help="give every segmentation the seeds N, N+1, ... instead")
    add("--resume", action="store_true", help="go on with the batch in --out; begins one where there is none")
    add(
        "--verify",
        action="store_true",
        help="with --resume: read all volumes that are there, and make those anew that have been changed",
    )
    add("--retries", type=int, default=2, metavar="N", help="further attempts at a volume that failed (default 2)")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="volumes that are made at a time (default: one a GPU; without a GPU as many as cores and memory bear)",
    )
    add("--threads", type=int, metavar="N", help="CPU cores of each worker (default: as fits)")
    add(
        "--shard",
        type=_shard_arg,
        default=(1, 1),
        metavar="I/N",
        help="only part I of N, for the jobs of an array; all of them write into the same --out",
    )
    add(
        "--ray",
        metavar="ADDRESS",
        help="use a Ray cluster, all of whose machines see the files under the same paths: HOST:PORT, auto, or local "
        "for one that is started here; needs the extra 'ray'",
    )
    add(
        "--scratch",
        type=path_arg,
        metavar="DIR",
        help="folder on each machine's own disk for what is being made, such as '$TMPDIR' (default: within --out)",
    )
    add_settings(parser)
    parser.set_defaults(run=run)
    return parser


def _shard_arg(text: str) -> tuple[int, int]:
    """ "3/16"."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"'{text}' is no shard: give it as 1/16 to 16/16")
    return int(match[1]), int(match[2])


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed; 1 if a volume is missing at the end."""
    from SynthDiffusionLib.batch.run import BatchRequest, run_batch
    from SynthDiffusionLib.batch.sources import Source, find_sources
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.errors import BadInput

    if args.verify and not args.resume:
        raise BadInput("--verify was given without --resume", "Add --resume to mend what is there.")
    sources = find_sources(args.segmentations)
    first = sources[0] if sources else Source("", None)
    template = request_of(args, first.segmentation, first.image)
    if not sources:
        sources = [Source(template.mode, None)]
    elif template.mode != "inpaint" and (having := [s for s in sources if s.image is not None]):
        raise BadInput(
            f"'{having[0].case}' has an image, but the mode is '{template.mode}'",
            "Add --mode inpaint to change regions of images.",
        )
    elif template.mode == "inpaint" and (without := [s for s in sources if s.image is None]):
        raise BadInput(
            f"'{without[0].case}' and {len(without) - 1} more have no image to inpaint into",
            "Give a CSV list with the columns segmentation and image.",
        )
    request = BatchRequest(
        template=replace(template, out=args.out),
        sources=sources,
        samples=args.samples,
        seed=args.seed,
        same_seeds=args.same_seeds,
        shard=args.shard,
        resume=args.resume,
        verify=args.verify,
        retries=args.retries,
        workers=args.workers,
        threads=args.threads,
        ray=args.ray,
        scratch=args.scratch,
    )
    line = ProgressLine(quiet=args.json)
    try:
        result = run_batch(request, line)
    finally:
        line.close()
    _tell(result.summary)
    for path in result.paths.values():
        print(path)
    if args.json:
        print(json.dumps({**result.summary, "paths": {what: str(path) for what, path in result.paths.items()}}))
    return 0 if result.complete else 1


def _tell(summary: dict[str, Any]) -> None:
    run = summary["this_run"]
    text = f"{summary['there']} of {summary['total']} volumes are there, {run['made']} of them made now"
    if summary["failed"]:
        text += f"; {summary['failed']} could not be made (report.html says why)"
    if summary["left"]:
        text += f"; {summary['left']} are left"
    print(text, file=sys.stderr)
    if summary["there"] < summary["total"]:
        first = "Mend what the report names, and go" if summary["failed"] else "Go"
        print(f"{first} on with the same command and --resume.", file=sys.stderr)
