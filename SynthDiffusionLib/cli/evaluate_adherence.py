"""`synthdiffusion evaluate adherence` of two folders of volumes."""

from __future__ import annotations

import argparse

from SynthDiffusionLib.cli.evaluate_labels import (
    add_segmenter_options,
    make_segmenter,
    only_values,
    read_part,
    use_known_classes,
)
from SynthDiffusionLib.cli.evaluate_sets import Event, Measured, add_set_options, frame_from
from SynthDiffusionLib.errors import BadInput


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the measure."""
    add_set_options(parser, labels=True, classes=True)
    add_segmenter_options(parser)
    parser.add_argument(
        "--tolerance", type=float, metavar="MM", help="of surface Dice (default: the diagonal of a voxel)"
    )


def measure(args: argparse.Namespace, on_event: Event) -> Measured:
    """Reads the sets and measures."""
    from SynthDiffusionLib.evaluation.sets import (
        adherence,
        adherence_definitions,
        adherence_picture,
        adherence_report,
        overlap,
        segmenters,
    )
    from SynthDiffusionLib.evaluation.sets.image_set import check_comparable

    needed = ("real", "real_labels", "synthetic_labels", "segmenter")
    missing = [f"--{n.replace('_', '-')}" for n in needed if getattr(args, n) is None]
    if missing:
        raise BadInput(
            f"{', '.join(missing)} must be given with --synthetic",
            "Adherence compares what a segmenter finds with what was drawn, beside the same on real images.",
        )
    if args.tolerance is not None:
        overlap.check_tolerance(args.tolerance)
    segmenters.check_spelled(args.segmenter)
    use_known_classes(args)
    folders = {"real": args.real, "synthetic": args.synthetic}
    frame = frame_from(args, folders | ({"training": args.training} if args.training else {}))
    real = read_part(args, "real", frame, on_event, labels=args.real_labels)
    synthetic = read_part(args, "synthetic", frame, on_event, labels=args.synthetic_labels)
    check_comparable(real, synthetic)
    sets = [real, synthetic]
    only = only_values(args, sets)
    segmenter, more, shared = make_segmenter(args, frame, sets, on_event)
    tolerance = args.tolerance
    if tolerance is None:
        tolerance = overlap.default_tolerance(real.cases[0].spacing)
    scores = adherence.score_sets(
        real,
        synthetic,
        segmenter,
        args.out / "cache",
        only=only,
        tolerance_mm=tolerance,
        seed=args.seed,
        on_event=on_event,
    )
    sections = adherence_report.build_sections(scores, segmenter.name, tolerance, shared)
    sections.insert(1, adherence_picture.picture_section(real, synthetic, scores))
    settings = {
        **segmenters.described(segmenter),
        "surface_dice_tolerance_mm": tolerance,
        "classes": {str(v): scores.names[v] for v in scores.values},
        "seed": args.seed,
        "resamples": adherence.RESAMPLES,
        "confidence": adherence.CONFIDENCE,
        "fewest_patients_for_an_interval": adherence.FEWEST_PATIENTS,
        "training_patients_measured": shared,
    }
    return Measured(sections, settings, adherence_definitions.definitions(tolerance), [*sets, *more])
