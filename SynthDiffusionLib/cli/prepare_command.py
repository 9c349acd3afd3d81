"""`synthdiffusion prepare`: images and masks to a training set."""

from __future__ import annotations

import argparse
import json
import sys

from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput

SMALLEST_SPACING_MM = 0.05
LARGEST_SPACING_MM = 100.0
LARGEST_SIDE = 1024  # voxels


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `prepare`; `run` carries it out."""
    parser = subparsers.add_parser(
        "prepare",
        help="make a training set from CT or MR volumes and label maps",
        description="Makes a training set: one spacing, class maps, and a split by patient stored with the data "
        "and with every model trained on it. CT: coarse anatomy is derived from the image (of the chest: body, filled "
        "lung, bone; of a limb: body, fat, muscle, bone). MR: the classes are those of the label maps, and each image "
        "is stretched so that its percentile 0.5 becomes 0 and its percentile 99.5 becomes 1000, over all its voxels, "
        "clipped to 0..1500. Whether a file is CT or MR cannot be told from its voxels: the scheme must be the right "
        "one.",
    )
    add = parser.add_argument
    add("images", type=path_arg, metavar="IMAGES", help="folder of volumes: CT in HU, or MR")
    add(
        "labels",
        type=path_arg,
        metavar="LABELS",
        help="folder of label maps with the same file names: masks of the nodule or tumour, or for hippocampus-mr "
        "labels 1 (anterior) and 2 (posterior hippocampus)",
    )
    add("--out", type=path_arg, required=True, metavar="DIR", help="folder to write")
    add(
        "--scheme",
        default="lung-nodule-ct",
        metavar="NAME",
        help="label scheme: lung-nodule-ct (default), limb-tumour-ct, limb-tumour-mr or hippocampus-mr; says the "
        "modality and where the classes come from",
    )
    add(
        "--spacing",
        default="1",
        metavar="keep|MM|XxYxZ",
        help="spacing of the training set in mm: one number (default 1), one for each axis (left, back, up) such as "
        "2x2x3, or keep, where all cases have the same",
    )
    add(
        "--size",
        metavar="IxJxK",
        help="voxels along left, back and up, such as 96x96x40, that every case is cut or padded to, round the middle "
        "of what is drawn, after resampling (default: each keeps its size)",
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


def parse_size(text: str | None) -> tuple[int, int, int] | None:
    """The value of `--size`: three whole numbers, or None where it is not given.

    Raises:
        BadInput: it is something else, or out of range.
    """
    if text is None:
        return None
    parts = text.strip().lower().split("x")
    if len(parts) != 3 or not all(p.isascii() and p.isdecimal() and len(p) < 9 for p in parts):
        numbers = []
    else:
        numbers = [int(p) for p in parts]
    if len(numbers) != 3 or not all(1 <= n <= LARGEST_SIDE for n in numbers):
        raise BadInput(
            f"'{text}' is no size", f"Give --size three numbers of voxels from 1 to {LARGEST_SIDE}, such as 96x96x40."
        )
    return tuple(numbers)


def cut_line(cases: dict[str, dict], target: str) -> str:
    """How many cases lost part of their target to `--size`, and which one most.

    Args:
        cases: "cases" of `dataset.json`, each with its "cut_share".
        target: what is drawn.
    """
    shares = {name: case["cut_share"] for name, case in cases.items()}
    cut = [name for name, share in shares.items() if share > 0]
    if not cut:
        return f"no case lost part of its {target} to the size"
    worst = max(cut, key=lambda name: shares[name])
    return (
        f"{len(cut)} of {len(shares)} cases lost part of their {target} to the size, most '{worst}' "
        f"({100 * shares[worst]:.1f} %); see cut_share in dataset.json"
    )


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
    size = parse_size(args.size)

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
        size=size,
        on_progress=show,
    )
    description = json.loads(path.read_text(encoding="utf-8"))
    sizes = {name: len(cases) for name, cases in description["split"].items()}
    print(f"{path}: " + ", ".join(f"{n} {name}" for name, n in sizes.items()))
    told = {"dataset": str(path), "split": sizes}
    if size is not None:
        drawn = " or ".join(description.get("targets", [description["target"]]))
        print(cut_line(description["cases"], drawn))
        told["cut"] = sorted(name for name, case in description["cases"].items() if case["cut_share"] > 0)
    if args.json:
        print(json.dumps(told))
    return 0
