"""`synthdiffusion evaluate fidelity` of two folders of volumes."""

from __future__ import annotations

import argparse

from SynthDiffusionLib.cli.evaluate_sets import Event, Measured, add_set_options, frame_from, read_role
from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the measure."""
    add_set_options(parser)
    group = parser.add_argument_group("fidelity of folders", "networks are trained with --auc-steps above 0 only")
    group.add_argument(
        "--reference", type=path_arg, metavar="DIR", help="further real volumes, of other patients: a row of their own"
    )
    group.add_argument(
        "--medicalnet",
        type=path_arg,
        metavar="FILE",
        help="weights of MedicalNet's ResNet-10, 18, 34 or 50 (resnet_50_23dataset.pth): distances of its features",
    )
    group.add_argument(
        "--resnet2d",
        type=path_arg,
        metavar="FILE",
        help="weights of a 2D ResNet-50 (torchvision, RadImageNet) for the slices, in place of radiomics",
    )
    group.add_argument(
        "--pairs",
        type=int,
        default=100,
        metavar="N",
        help="pairs of volumes for MS-SSIM (default 100; 0 leaves it out)",
    )


def measure(args: argparse.Namespace, on_event: Event) -> Measured:
    """Reads the sets and measures."""
    from SynthDiffusionLib.evaluation.sets import fidelity, fidelity_definitions, fidelity_sections

    if args.real is None:
        raise BadInput("--real must be given", "Give the folder of real volumes that --synthetic is compared with.")
    steps = args.auc_steps or 0
    if not 0 <= args.pairs <= 100_000 or steps < 0 or not 1 <= args.auc_repeats <= 100:
        raise BadInput(
            "--pairs, --auc-steps or --auc-repeats is out of range",
            "Give --pairs 0 to 100000, --auc-steps 0 or more, --auc-repeats 1 to 100.",
        )
    roles = {"real": args.real, "synthetic": args.synthetic}
    roles |= {"reference": args.reference} if args.reference is not None else {}
    frame = frame_from(args, roles)
    sets = {role: read_role(args, role, frame, on_event) for role in roles}
    options = fidelity.Options(args.seed, args.medicalnet, args.resnet2d, args.pairs, steps, args.auc_repeats)
    found = fidelity.measure_fidelity_sets(
        sets["real"], sets["synthetic"], sets.get("reference"), args.out / "cache", options, on_event
    )
    return Measured(
        fidelity_sections.sections_of(found),
        found.settings,
        fidelity_definitions.definitions(),
        list(sets.values()),
    )
