"""What `evaluate adherence` and `evaluate volumes` share: segmenters, parts of prepared data sets, names of classes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.cli.evaluate_sets import Event, read_role
from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput

if TYPE_CHECKING:
    from SynthDiffusionLib.evaluation.sets.image_set import Frame, ImageSet
    from SynthDiffusionLib.evaluation.sets.segmenters import Segmenter

ROLES = ("real", "synthetic", "training")


def add_segmenter_options(parser: argparse.ArgumentParser) -> None:
    """Options of what segments the volumes."""
    group = parser.add_argument_group("segmenter", "what finds the classes in the volumes")
    group.add_argument(
        "--segmenter",
        metavar="WHAT",
        help="package:ID (a model's own), train (a network trained here), totalsegmentator[:TASK], "
        'nnunet:DATASET_OR_FOLDER, or "command:PROGRAM {input} {output}", which writes a label map',
    )
    group.add_argument("--training", type=path_arg, metavar="DIR", help="of train: real volumes, of other patients")
    group.add_argument("--training-labels", type=path_arg, metavar="DIR", help="their label maps")
    group.add_argument(
        "--training-may-share",
        action="store_true",
        help="allow patients that are measured among those that it (or the package) was trained on; said in the report",
    )
    group.add_argument("--segmenter-steps", type=int, metavar="N", help="of train: training steps (default 1500)")
    group.add_argument(
        "--segmenter-values",
        metavar="FOUND=CLASS,...",
        help="where its label values are not those of the masks, such as 5=1,6=2; all others are left out",
    )
    group.add_argument(
        "--segmenter-timeout", type=float, default=3600.0, metavar="S", help="of a program, for a volume (default 3600)"
    )
    group.add_argument("--only", metavar="CLASS,...", help="measure these classes alone, by name or value")
    for role in ("real", "training"):
        group.add_argument(
            f"--{role}-part",
            metavar="PART",
            help=f"of the prepared data set that --{role} is the images folder of: train, validation or test",
        )


def use_known_classes(args: argparse.Namespace) -> None:
    """Takes the names of classes from the `dataset.json` of a prepared data set, where none are given."""
    if args.classes is None:
        for folder in (args.real_labels, args.synthetic_labels, args.training_labels):
            classes = _description(folder).get("classes", {})
            if classes and not any("," in name or "=" in name for name in classes):
                args.classes = ",".join(f"{value}={name}" for name, value in classes.items())
                return


def read_part(
    args: argparse.Namespace, role: str, frame: Frame, on_event: Event, *, labels: Path | None, least: int = 1
) -> ImageSet:
    """A set, as the options say; of a prepared data set the part that is asked for, with the patients that it names.

    Raises:
        BadInput: as `read_set`; no such part; too few volumes.
    """
    from SynthDiffusionLib.evaluation.sets.image_set import base_name, check_unseen

    asked = getattr(args, f"{role}_part", None)
    folder = getattr(args, role)
    own = _description(folder)
    if asked is not None and asked not in own.get("split", {}):
        raise BadInput(
            f"'{folder}' is not the images folder of a prepared data set with the part '{asked}'",
            f"Leave --{role}-part out, or give PREPARED/images.",
        )
    trained_on, args.trained_on = args.trained_on, None  # checked below, for the part alone
    try:
        whole = read_role(args, role, frame, on_event, labels=labels, least=1)
    finally:
        args.trained_on = trained_on
    known: dict[str, str] = {}
    if args.patients is None and args.patient_pattern is None:
        known = _patients(args)
        whole = replace(
            whole,
            cases=tuple(
                replace(c, patient=known.get(c.name) or known.get(base_name(c.name)) or c.patient) for c in whole.cases
            ),
        )
    if asked is not None:
        names = set(own["split"][asked])
        whole = replace(
            whole,
            cases=tuple(c for c in whole.cases if c.name in names),
            skipped=tuple(s for s in whole.skipped if _case_of(s["file"]) in names),
        )
    if len(whole.cases) < least:
        raise BadInput(f"The {role} set has {len(whole.cases)} usable volumes", f"Give at least {least}.")
    if role == "real" and trained_on is not None:
        args.unseen = check_unseen(
            whole, trained_on, args.patient_pattern, args.patients, known=known, on_event=on_event
        )
    return whole


def make_segmenter(
    args: argparse.Namespace, frame: Frame, measured: Sequence[ImageSet], on_event: Event
) -> tuple[Segmenter, list[ImageSet], int]:
    """The segmenter that the options ask for.

    Returns:
        it, the sets that were read for it, and how many measured patients it was trained on.

    Raises:
        BadInput: no such segmenter, or options that do not go with it.
    """
    from SynthDiffusionLib.evaluation.sets import programs, segmenters

    kind, rest = segmenters.check_spelled(args.segmenter)
    if kind != "train" and (args.training or args.training_labels or args.segmenter_steps):
        raise BadInput("--training and --segmenter-steps go with --segmenter train alone", "Leave them out.")
    mapped = segmenters.parse_values(args.segmenter_values) if args.segmenter_values else None
    if mapped and kind in ("train", "package"):
        raise BadInput(f"--segmenter-values does not go with {kind}, which finds the classes by name", "Leave it out.")
    classes = {v: name for s in measured for v, name in s.classes.items()}
    values = list(mapped or classes)
    if not values and kind not in ("package", "train"):  # those know their own
        raise BadInput(
            "Nothing says which classes the segmenter finds", "Give label maps, or --classes 1=liver,2=spleen."
        )
    made: Segmenter
    if kind == "package":
        made = segmenters.PackageSegmenter(rest, frame, classes)
        shared = _seen_by_package(args, made.trained_on, measured)
        return made, [], shared
    elif kind == "command":
        made = programs.command_segmenter(rest, values, args.segmenter_timeout, others_dropped=bool(mapped))
    elif kind == "totalsegmentator":
        made = programs.totalsegmentator(rest, values, frame.modality, args.segmenter_timeout)
    elif kind == "nnunet":
        made = programs.nnunet(rest, values, args.segmenter_timeout)
    else:
        return _trained(args, frame, measured, values, on_event)
    return (segmenters.MappedSegmenter(made, mapped) if mapped else made), [], 0


def only_values(args: argparse.Namespace, sets: Sequence[ImageSet]) -> list[int] | None:
    """The label values of `--only`; None where it is not given.

    Raises:
        BadInput: it names no class.
    """
    if args.only is None:
        return None
    return class_values(args.only, {v: n for s in sets for v, n in s.classes.items()}, "--only")


def class_values(text: str, classes: dict[int, str], option: str) -> list[int]:
    """Label values of classes that are given by name or value.

    Raises:
        BadInput: one is no class.
    """
    by_name = {name.lower(): value for value, name in classes.items()}
    values = []
    for word in (w.strip() for w in text.split(",")):
        value = by_name.get(word.lower(), int(word) if word.isdigit() else None)
        if value is None or value not in classes:
            raise BadInput(
                f"{option}: '{word}' is no class of the label maps", f"They have: {', '.join(classes.values())}."
            )
        values.append(value)
    return list(dict.fromkeys(values))


def _seen_by_package(args: argparse.Namespace, trained_on: set[str], measured: Sequence[ImageSet]) -> int:
    """How many measured patients the package's training had.

    Raises:
        BadInput: some, and nobody allowed it.
    """
    from SynthDiffusionLib.evaluation.sets.training_lists import names_of, spellings

    known = spellings(trained_on)
    seen = [(s.role, c.patient) for s in measured for c in s.cases if names_of(c) & known]
    shared = {patient for _, patient in seen}
    if seen and not args.training_may_share:
        raise BadInput(
            f"{len(shared)} patients were used to train this model and its segmenter, first '{seen[0][1]}' "
            f"({seen[0][0]})",
            "Measure patients that it has not seen, or give --training-may-share, which the report says.",
        )
    return len(shared)


def _trained(
    args: argparse.Namespace, frame: Frame, measured: Sequence[ImageSet], values: Sequence[int], on_event: Event
) -> tuple[Segmenter, list[ImageSet], int]:
    from SynthDiffusionLib.evaluation.sets import trained_segmenter as trained
    from SynthDiffusionLib.evaluation.sets.image_set import check_comparable

    if not (args.training and args.training_labels):
        raise BadInput("--segmenter train needs real cases", "Give --training DIR --training-labels DIR.")
    training = read_part(args, "training", frame, on_event, labels=args.training_labels, least=trained.LEAST_CASES)
    shared = trained.check_training(training, measured, args.training_may_share, on_event)
    check_comparable(measured[0], training)
    steps = trained.STEPS if args.segmenter_steps is None else args.segmenter_steps
    recipe = trained.recipe_for(training, steps, args.seed)
    wanted = only_values(args, measured) or values or list(training.classes)
    made = trained.TrainedSegmenter(training, wanted, recipe, args.out / "cache", on_event)
    return made, [training], shared


def _description(folder: Path | None) -> dict[str, Any]:
    """`dataset.json` of the prepared data set that a folder is a part of; empty where it is none."""
    if folder is None:
        return {}
    path = Path(folder).resolve().parent / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    prepared = isinstance(content, dict) and content.get("format") == "synthdiffusion-dataset-1"
    return content if prepared else {}


def _patients(args: argparse.Namespace) -> dict[str, str]:
    """Case to patient, of all prepared data sets among the folders."""
    folders = [getattr(args, n, None) for n in (*ROLES, "real_labels", "synthetic_labels")]
    return {
        name: case["patient"]
        for folder in folders
        for name, case in _description(folder).get("cases", {}).items()
        if isinstance(case, dict) and isinstance(case.get("patient"), str)
    }


def _case_of(file: str) -> str:
    from SynthDiffusionLib.training.prepare import case_name

    return case_name(file)
