"""`synthdiffusion evaluate volumes` of two folders of volumes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from SynthDiffusionLib.cli.evaluate_labels import (
    add_segmenter_options,
    class_values,
    make_segmenter,
    only_values,
    read_part,
    use_known_classes,
)
from SynthDiffusionLib.cli.evaluate_sets import Event, Measured, add_set_options, frame_from
from SynthDiffusionLib.errors import BadInput

if TYPE_CHECKING:
    from SynthDiffusionLib.evaluation.sets.image_set import Frame, ImageSet
    from SynthDiffusionLib.evaluation.sets.volumes import Whole


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the measure."""
    add_set_options(parser, labels=True, classes=True)
    add_segmenter_options(parser)
    parser.add_argument(
        "--of",
        metavar="WHOLE",
        help="what shares are of: classes by name or value, or body, which is taken from the image (default: all "
        "labelled voxels)",
    )
    parser.add_argument(
        "--body-above", type=float, metavar="X", help="of --of body: intensity (default -300 HU; MR 100 of 1000)"
    )
    parser.add_argument("--permutations", type=int, metavar="N", help="of every test (default 9999)")


def measure(args: argparse.Namespace, on_event: Event) -> Measured:
    """Reads the sets and measures."""
    from SynthDiffusionLib.evaluation.sets import regional, segmenters, volumes, volumes_report
    from SynthDiffusionLib.evaluation.sets.image_set import UNITS, check_comparable

    _check_options(args)
    use_known_classes(args)
    roles = [role for role in ("real", "synthetic") if getattr(args, role) is not None]
    folders = {role: getattr(args, role) for role in (*roles, "training") if getattr(args, role) is not None}
    frame = frame_from(args, folders)
    sets = [read_part(args, role, frame, on_event, labels=getattr(args, f"{role}_labels")) for role in roles]
    check_comparable(*sets)
    real, synthetic = sets[0], sets[1] if len(sets) > 1 else None
    whole = _whole(args, frame, sets)
    only = only_values(args, sets)
    found, failures, more, shared, name, told, names = None, [], [], 0, None, {}, {}
    if args.segmenter is not None:
        segmenter, more, shared = make_segmenter(args, frame, sets, on_event)
        name, told = segmenter.name, segmenters.described(segmenter)
        names = getattr(segmenter, "names", {}) | {v: n for s in more for v, n in s.classes.items()}
        found = {}
        for one in sets:
            found[one.role], failed = segmenters.segment_set(one, segmenter, args.out / "cache", on_event)
            failures += failed
    permutations = args.permutations or regional.PERMUTATIONS
    result = volumes.measure_sets(
        real,
        synthetic,
        found,
        failures,
        whole,
        only=only,
        names=names,
        permutations=permutations,
        seed=args.seed,
        on_event=on_event,
    )
    labels_given = any(s.cases[0].labels is not None for s in sets)
    unit = UNITS[frame.modality] if frame.modality == "CT" else "MR scale, 0 to 1000"
    sections = volumes_report.build_sections(result, unit, name, labels_given)
    settings = {
        **told,
        "share_of": whole.text(result.names, UNITS[frame.modality]),
        "regions": {str(v): result.names[v] for v in result.values},
        "regions_from": "segmenter" if found is not None else "label maps",
        "permutations": permutations,
        "seed": args.seed,
        "fewest_patients_to_compare": volumes.FEWEST_CASES,
        "alpha": volumes.ALPHA,
        "same_label_maps": result.same_masks,
        "training_patients_measured": shared,
    }
    return Measured(sections, settings, volumes_report.definitions(result, unit, permutations), [*sets, *more])


def _check_options(args: argparse.Namespace) -> None:
    from SynthDiffusionLib.evaluation.sets import segmenters

    if args.real is None:
        raise BadInput("--real must be given", "Give the folder of real volumes that the synthetic ones are like.")
    if args.segmenter is not None:
        segmenters.check_spelled(args.segmenter)
    else:
        given = [role for role in ("real", "synthetic") if getattr(args, role) is not None]
        missing = [f"--{role}-labels" for role in given if getattr(args, f"{role}_labels") is None]
        if missing:
            raise BadInput(
                f"{' and '.join(missing)} must be given, or --segmenter",
                "Regions are taken from label maps, or found in the images by a segmenter.",
            )
    if args.permutations is not None and not 99 <= args.permutations <= 1_000_000:
        raise BadInput(f"{args.permutations} permutations are out of range", "Give --permutations 99 to 1000000.")


def _whole(args: argparse.Namespace, frame: Frame, sets: list[ImageSet]) -> Whole:
    from SynthDiffusionLib.evaluation.sets.regional import BODY_ABOVE
    from SynthDiffusionLib.evaluation.sets.volumes import BODY, Whole

    classes = {v: name for s in sets for v, name in s.classes.items()}
    is_body = args.of is not None and args.of.strip().lower() == BODY
    if args.body_above is not None and not is_body:
        raise BadInput("--body-above goes with --of body alone", "Leave it out, or give --of body.")
    if args.of is None:
        return Whole()
    if is_body:
        named = [v for v, name in classes.items() if name.lower() == BODY]
        if named:
            raise BadInput(
                f"--of body is the body in the image, but a class has that name too (value {named[0]})",
                f"Give --of {named[0]} for the class, or another name of it with --classes.",
            )
        low, high = frame.intensity_range
        above = BODY_ABOVE[frame.modality] if args.body_above is None else args.body_above
        if not low <= above < high:
            raise BadInput(
                f"{above:g} is outside the intensity range {low:g} to {high:g}", "Give another --body-above."
            )
        return Whole("body", above=above)
    return Whole("classes", tuple(class_values(args.of, classes, "--of")))
