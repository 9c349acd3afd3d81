"""`synthdiffusion prepare`: images and masks to a training set."""

from __future__ import annotations

import argparse
import json
import sys

from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `prepare`; `run` carries it out."""
    parser = subparsers.add_parser(
        "prepare",
        help="make a training set from CT volumes and nodule masks",
        description="Makes a training set: one spacing, coarse anatomy derived from the CT (body, filled lung, bone), "
        "and a split by patient that is stored with the data and with every model trained on it.",
    )
    add = parser.add_argument
    add("images", type=path_arg, metavar="IMAGES", help="folder of CT volumes in HU")
    add("labels", type=path_arg, metavar="LABELS", help="folder of nodule masks with the same file names")
    add("--out", type=path_arg, required=True, metavar="DIR", help="folder to write")
    add("--scheme", default="lung-nodule-ct", metavar="NAME", help="label scheme (default lung-nodule-ct)")
    add("--spacing", type=float, default=1.0, metavar="MM", help="isotropic spacing of the training set (default 1)")
    add("--split", metavar="A,B,C", help="patients in train, validation and test (default: 70, 15 and 15 %%)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the split (default 0)")
    add(
        "--patient-pattern",
        default=r"([^_]+)",
        metavar="REGEX",
        help="its first group in a file's name is the patient (default: up to the first '_')",
    )
    add("--json", action="store_true", help="print one JSON object on the last line")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    from SynthDiffusionLib.labels.scheme import load_scheme
    from SynthDiffusionLib.training.prepare import prepare

    try:
        split = [int(n) for n in args.split.split(",")] if args.split else None
    except ValueError as error:
        raise BadInput(f"'{args.split}' is not a split", "Write three numbers, such as 67,20,20.") from error
    if split is not None and len(split) != 3:
        raise BadInput(f"'{args.split}' is not a split", "Write three numbers, such as 67,20,20.")
    if not 0.05 <= args.spacing <= 100:
        raise BadInput(f"A spacing of {args.spacing} mm was asked for", "Give --spacing a number from 0.05 to 100.")

    def show(done: int, total: int) -> None:
        if done % 10 == 0:
            print(f"case {done + 1} of {total}", file=sys.stderr)

    path = prepare(
        args.images,
        args.labels,
        args.out,
        load_scheme(args.scheme),
        spacing_mm=args.spacing,
        split=split,
        seed=args.seed,
        patient_pattern=args.patient_pattern,
        on_progress=show,
    )
    description = json.loads(path.read_text(encoding="utf-8"))
    sizes = {name: len(cases) for name, cases in description["split"].items()}
    print(f"{path}: " + ", ".join(f"{n} {name}" for name, n in sizes.items()))
    if args.json:
        print(json.dumps({"dataset": str(path), "split": sizes}))
    return 0
