"""`synthdiffusion evaluate memorisation` of folders of volumes."""

from __future__ import annotations

import argparse
from dataclasses import replace

from SynthDiffusionLib.cli.evaluate_sets import Event, Measured, add_set_options, frame_from, read_role
from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput

FEWEST = {"validation": 5}  # volumes of a set, else `FEWEST_CASES`; below 19 there is no limit at 5 %, but ranks


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the measure."""
    add_set_options(parser)
    group = parser.add_argument_group("memorisation, of folders")
    group.add_argument(
        "--training", type=path_arg, metavar="DIR", help="the real volumes that the generator was trained on"
    )
    group.add_argument(
        "--validation", type=path_arg, metavar="DIR", help="real volumes of other patients, which set the limit"
    )
    group.add_argument(
        "--own-mask",
        choices=("keep", "leave-out"),
        default="keep",
        help="what the sentences are about: a synthetic volume against all training cases, or without those of the "
        "patient whose mask it was made for; both are in the tables (default keep)",
    )
    group.add_argument(
        "--reference",
        choices=("validation", "held-out"),
        default="validation",
        help="who sets the limit: validation, or validation and --real together (default validation)",
    )
    group.add_argument("--embedding-steps", type=int, metavar="N", help="training steps of the embedding (default 400)")
    group.add_argument("--pairs", type=int, default=8, metavar="N", help="closest pairs in the report (default 8)")
    group.add_argument("--no-pictures", action="store_true", help="leave the pictures out: they show training patients")


def measure(args: argparse.Namespace, on_event: Event) -> Measured:
    """Reads the sets and measures."""
    missing = [f"--{name}" for name in ("training", "validation") if getattr(args, name) is None]
    if missing:
        raise BadInput(
            f"{' and '.join(missing)} must be given with --synthetic",
            "Copies are looked for among the training volumes; real volumes of other patients say what is near.",
        )
    if not 0 <= args.pairs <= 100:
        raise BadInput(f"{args.pairs} pairs were asked for", "Give --pairs a number from 0 to 100.")
    if args.embedding_steps is not None and not 1 <= args.embedding_steps <= 100_000:
        raise BadInput(
            f"{args.embedding_steps} steps were asked for", "Give --embedding-steps a number from 1 to 100000."
        )
    from SynthDiffusionLib.evaluation.sets.image_set import FEWEST_CASES
    from SynthDiffusionLib.evaluation.sets.memorisation import Settings, check_sets, measure_copies
    from SynthDiffusionLib.evaluation.sets.memorisation_definitions import definitions_of
    from SynthDiffusionLib.evaluation.sets.memorisation_report import sections_of
    from SynthDiffusionLib.evaluation.sets.odd_sizes import without_odd

    roles = ["training", "validation", "synthetic", *(["real"] if args.real is not None else [])]
    frame = frame_from(args, {role: getattr(args, role) for role in roles})
    sets = {r: read_role(args, r, frame, on_event, least=FEWEST.get(r, FEWEST_CASES)) for r in roles}
    fresh = replace(sets["real"], role="fresh real") if "real" in sets else None
    given = (sets["training"], sets["validation"], sets["synthetic"], fresh)
    check_sets(*given)
    there = [s for s in given if s is not None]
    left = without_odd(there, [FEWEST.get(s.role, FEWEST_CASES) for s in there], on_event)
    given = (*left, *[None] * (len(given) - len(left)))
    settings = Settings(args.own_mask, args.reference, pairs=args.pairs, seed=args.seed)
    embedding = replace(settings.embedding, seed=args.seed)
    if args.embedding_steps is not None:
        embedding = replace(embedding, steps=args.embedding_steps)
    settings = replace(settings, embedding=embedding)
    found = measure_copies(*given, args.out / "cache", settings, on_event)
    sections = sections_of(found, *given, pictures=not args.no_pictures)
    kept = ("space", "embedding", "thresholds", "own_mask", "reference")
    return Measured(
        sections,
        {k: found[k] for k in kept} | {"seed": args.seed, "pictures": not args.no_pictures},
        definitions_of(found),
        [s for s in given if s is not None],
    )
