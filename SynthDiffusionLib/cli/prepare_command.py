"""`synthdiffusion prepare`: images and masks to a training set."""

from __future__ import annotations

import argparse
import json
import sys

from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput

SMALLEST_SPACING_MM = 0.05
LARGEST_SPACING_MM = 100.0


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `prepare`; `run` carries it out."""
    parser = subparsers.add_parser(
        "prepare",
        help="make a training set from CT volumes and masks of nodules or tumours",
        description="Makes a training set: one spacing, coarse anatomy derived from the CT (of the chest: body, filled "
        "lung, bone; of a limb: body, fat, muscle, bone), and a split by patient that is stored with the data and with "
        "every model trained on it.",
    )
    add = parser.add_argument
    add("images", type=path_arg, metavar="IMAGES", help="folder of CT volumes in HU")
    add(
        "labels",
        type=path_arg,
        metavar="LABELS",
        help="folder of masks of the nodule or tumour, with the same file names",
    )
    add("--out", type=path_arg, required=True, metavar="DIR", help="folder to write")
    add(
        "--scheme",
        default="lung-nodule-ct",
        metavar="NAME",
        help="label scheme, lung-nodule-ct (default) or limb-tumour-ct: says which anatomy is derived",
    )
    add(
        "--spacing",
        default="1",
        metavar="keep|MM|XxYxZ",
        help="spacing of the training set in mm: one number (default 1), one for each axis (left, back, up) such as "
        "2x2x3, or keep, where all cases have the same",
    )
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


def parse_spacing(text: str) -> float | tuple[float, float, float] | None:
    """The value of `--spacing`: a number, three numbers, or None for "keep".

    Raises:
        BadInput: it is none of these, or out of range.
    """
    if text.strip().lower() == "keep":
        return None
    try:
        numbers = [float(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(SMALLEST_SPACING_MM <= mm <= LARGEST_SPACING_MM for mm in numbers):
        raise BadInput(
            f"'{text}' is no spacing",
            f"Give --spacing a number from {SMALLEST_SPACING_MM:g} to {LARGEST_SPACING_MM:g}, three such as 2x2x3, or "
            "keep.",
        )
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


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
    spacing_mm = parse_spacing(args.spacing)

    def show(done: int, total: int) -> None:
        if done % 10 == 0:
            print(f"case {done + 1} of {total}", file=sys.stderr)

    path = prepare(
        args.images,
        args.labels,
        args.out,
        load_scheme(args.scheme),
        spacing_mm=spacing_mm,
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
