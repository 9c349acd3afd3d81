"""`synthdiffusion evaluate` of any two folders: the options that all measures of sets share, reading and writing."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput, Cancelled, shortened
from SynthDiffusionLib.evaluation.sets.measured import Measured

if TYPE_CHECKING:
    from SynthDiffusionLib.evaluation.sets.image_set import Frame, ImageSet

Event = Callable[[dict], None]
LARGEST_SEED = 2**32 - 1
INPUTS = ("real", "synthetic", "training", "validation", "reference", "real_labels", "synthetic_labels",
          "training_labels")  # fmt: skip
__all__ = [
    "Event",
    "ForReport",
    "Measured",
    "add_set_options",
    "command_of",
    "check_folders",
    "frame_from",
    "given_folders",
    "kept_when_cancelled",
    "read_role",
    "run_sets",
    "seed_arg",
]


def seed_arg(text: str) -> int:
    """`--seed` of an option.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.strip().isdecimal() and int(text) <= LARGEST_SEED):
        raise argparse.ArgumentTypeError(
            f"'{shortened(text)}' is no seed: give a whole number from 0 to {LARGEST_SEED}"
        )
    return int(text)


@contextmanager
def kept_when_cancelled(out: Path) -> Iterator[None]:
    """Says, where the block is cancelled, that what was done until then is kept."""
    try:
        yield
    except (KeyboardInterrupt, Cancelled) as error:
        cancelled = Cancelled()
        if out.is_dir():
            cancelled.hint = "What was done is kept in --out: the same command goes on where it stopped."
        raise cancelled from error


def add_set_options(parser: argparse.ArgumentParser, *, labels: bool = False, classes: bool = False) -> None:
    """Options of every measure of sets.

    Args:
        labels: also the folders of label maps.
        classes: also the names of their values.
    """
    group = parser.add_argument_group("folders of volumes", "instead of --model, --data and --samples")
    group.add_argument("--real", type=path_arg, metavar="DIR", help="real volumes (NIfTI, NRRD or MetaImage)")
    group.add_argument("--synthetic", type=path_arg, metavar="DIR", help="synthetic volumes")
    if labels:
        group.add_argument("--real-labels", type=path_arg, metavar="DIR", help="their label maps, of the same names")
        group.add_argument(
            "--synthetic-labels", type=path_arg, metavar="DIR", help="the segmentations that they were made for"
        )
    if classes:
        group.add_argument(
            "--classes", metavar="NAMES", help="names of label values: 1=liver,2=spleen, or a CSV file (value, name)"
        )
    group.add_argument("--modality", choices=("CT", "MR"), help="CT in HU, or MR (default: told from the volumes)")
    group.add_argument(
        "--spacing", metavar="MM", help="resample all to this spacing, such as 2 or 1x1x3 (default: their own, one)"
    )
    group.add_argument("--range", metavar="LOW,HIGH", help="intensities that count (default -1000,1000; MR 0,1000)")
    group.add_argument(
        "--no-normalise", action="store_true", help="MR is on one scale already; leave its intensities as they are"
    )
    group.add_argument("--patients", type=path_arg, metavar="CSV", help="table with the columns case and patient")
    group.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="matched from the name's first letter on, its first group is the patient (default: the whole case name)",
    )
    group.add_argument(
        "--trained-on",
        type=path_arg,
        metavar="FILE",
        help="model.json, dataset.json, JSON, CSV or text file of training patients; --real may have none of them",
    )
    group.add_argument(
        "--seed", type=seed_arg, default=2026, metavar="N", help="of everything that is drawn (default 2026)"
    )


def given_folders(args: argparse.Namespace) -> dict[str, Path]:
    """The folders of volumes and label maps that were given, by their options (`--real-labels`)."""
    given = {f"--{name.replace('_', '-')}": getattr(args, name, None) for name in INPUTS}
    return {option: folder for option, folder in given.items() if isinstance(folder, Path)}


def check_folders(args: argparse.Namespace) -> None:
    """Refuses what was given in place of a folder, and an `--out` that is one of the folders given.

    Raises:
        BadInput: naming the option.
    """
    for option, folder in given_folders(args).items():
        if not folder.exists():
            raise BadInput(f"The folder of {option}, '{folder}', does not exist", "Check the path.")
        if not folder.is_dir():
            raise BadInput(f"{option}: '{folder}' is a file, not a folder", "Give the folder that the files are in.")
        if args.out.is_dir() and os.path.samefile(args.out, folder):
            raise BadInput(
                f"--out is the folder of {option}, '{folder}': results and files on the way would lie among its own",
                "Give another folder for --out.",
            )


def frame_from(args: argparse.Namespace, folders: dict[str, Path]) -> Frame:
    """The frame that the options ask for.

    Raises:
        BadInput: a folder that was not given, settings out of range, or folders of different modalities.
    """
    for role, folder in folders.items():
        _check_given(role, folder)
    from SynthDiffusionLib.evaluation.sets.image_set import frame_of

    return frame_of(folders, args.modality, _spacing(args.spacing), _range(args.range), not args.no_normalise)


def read_role(
    args: argparse.Namespace, role: str, frame: Frame, on_event: Event, *, labels: Path | None = None, least: int = 10
) -> ImageSet:
    """The set of one role ("real": `--real`), read as the options say."""
    from SynthDiffusionLib.evaluation.sets.image_set import check_unseen, parse_classes, read_set
    from SynthDiffusionLib.evaluation.sets.lists import training_list

    folder = getattr(args, role)
    _check_given(role, folder)
    unseen = role == "real" and args.trained_on is not None
    if unseen:
        training_list(args.trained_on)  # whether it can be read, before the volumes are
    names = getattr(args, "classes", None)
    found = read_set(
        role,
        folder,
        frame,
        labels=labels,
        classes=parse_classes(names) if names else None,
        patient_pattern=args.patient_pattern,
        patients=args.patients,
        least=least,
        on_event=on_event,
    )
    if unseen:
        args.unseen = check_unseen(found, args.trained_on, args.patient_pattern, args.patients, on_event=on_event)
    return found


class ForReport:
    """Passes events on, and keeps the warnings that are for the report too ("report": True).

    Args:
        on_event: gets all of them.
    """

    def __init__(self, on_event: Event) -> None:
        self._on_event = on_event
        self._told: list[str] = []

    def __call__(self, event: dict) -> None:
        self._on_event(event)
        if event.get("report"):
            self._told.append(event["message"])

    @property
    def settings(self) -> dict[str, list[str]]:
        """For the settings of a result: what was told; {} where nothing was."""
        return {"told": self._told} if self._told else {}


def run_sets(args: argparse.Namespace, kind: str, measure: Callable[[argparse.Namespace, Event], Measured]) -> int:
    """Measures, writes JSON, CSV and HTML into `--out`, prints sentences and tables.

    Warnings that are marked for the report ("report": True) stand there too, in the settings under "told".
    """
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.evaluation.sets import results
    from SynthDiffusionLib.output_folders import check_writable, only_writer
    from SynthDiffusionLib.reports.plots import require_matplotlib

    check_folders(args)
    check_writable(args.out)
    require_matplotlib()
    line = ProgressLine(quiet=args.json)
    began = time.monotonic()
    on_event = ForReport(line)
    try:
        with kept_when_cancelled(args.out), only_writer(args.out):
            measured = measure(args, on_event)
            unseen = getattr(args, "unseen", None)  # of `read_role`
            told: dict[str, object] = {"trained_on": unseen.to_json()} if unseen is not None else {}
            told |= on_event.settings
            frame = {"frame": measured.sets[0].frame.to_json()} if measured.sets else {}
            result = results.assemble(
                kind,
                measured.sections,
                sets=[s.summary() for s in measured.sets],
                settings=frame | measured.settings | told,
                definitions=measured.definitions,
                command=command_of(),
                seconds=time.monotonic() - began,
            )
            paths = {k: str(p) for k, p in results.write_result(result, args.out).items()}
    finally:
        line.close()
    print("\n".join([*results.console_lines(result), "", paths["html"], paths["json"]]))
    if args.json:
        print(json.dumps(paths, ensure_ascii=False))
    return 0


def _check_given(role: str, folder: Path | None) -> None:
    if folder is None:
        raise BadInput(f"--{role} must be given", f"Give the folder of the {role} volumes.")


def command_of() -> str:
    """The command as it was typed, files and folders reduced to their names: results are passed on."""
    return f"synthdiffusion {shlex.join(map(_without_folders, sys.argv[1:]))}"


def _without_folders(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if os.path.isabs(value) or (os.sep in value or "/" in value) and os.path.exists(value):
        value = Path(value).name or value
    return f"{option}{equals}{value}"


def _spacing(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    try:
        numbers = [float(p) for p in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise BadInput(f"'{text}' is no spacing", "Give --spacing 2 or --spacing 1x1x3, in mm.")
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(p) for p in text.split(","))
    except ValueError as error:
        raise BadInput(
            f"'{text}' is no intensity range", "Give --range LOW,HIGH, such as --range=-1000,400."
        ) from error
    return low, high
