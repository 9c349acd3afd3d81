"""`synthdiffusion study power`: how many cases and readers a study needs."""

from __future__ import annotations

import argparse
import math
import stat
from typing import Any

from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput, shortened

MOST_READERS = 1000
MOST_PILOT_BYTES = 64 * 1024 * 1024

EXAMPLES = """examples:
  synthdiffusion study power accuracy --true 0.6             can a reader tell better than by guessing?
  synthdiffusion study power equivalence --margin 0.1        are the volumes indistinguishable, within a margin?
  synthdiffusion study power mrmc --pilot RATINGS.csv --effect 0.05     two generators, several readers
RATINGS.csv has the columns reader, treatment, case, truth and rating; every reader has read all cases of both."""


def add_parser(actions: argparse._SubParsersAction) -> None:
    """Adds `power` to the actions of `study`."""
    parser = actions.add_parser(
        "power",
        help="how many cases and readers a study needs",
        description="How many cases and readers a study needs. Accuracy and equivalence: independent answers of one "
        "reader, exact binomial tests. Several readers who read the same cases do not add up to as many independent "
        "answers: --readers and --correlation multiply the number by 1 + (readers - 1) x correlation.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="power_kind", metavar="KIND", required=True)

    def kind(name: str, help_text: str) -> Any:
        p = kinds.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        p.add_argument("--power", type=float, default=0.8, metavar="X", help="wanted power (default 0.8)")
        p.add_argument("--alpha", type=float, default=0.05, metavar="X", help="level of the test (default 0.05)")
        p.add_argument("--json", action="store_true", help="print one JSON object on the last line")
        return p.add_argument

    for name, text in (
        ("accuracy", "answers for a two-sided exact test against guessing"),
        ("equivalence", "answers for two one-sided exact tests (TOST) of equivalence with guessing"),
    ):
        add = kind(name, text)
        add("--true", type=float, required=name == "accuracy", metavar="X", help="true proportion of right answers")
        add("--null", type=float, default=0.5, metavar="X", help="of guessing (default 0.5)")
        add("--readers", type=int, default=1, metavar="N", help="readers of each case (default 1)")
        add("--correlation", type=float, default=0.0, metavar="X", help="of readers' answers to a case (default 0)")
        if name == "equivalence":
            add("--margin", type=float, required=True, metavar="X", help="largest difference that does not matter")
    add = kind("mrmc", "cases for a comparison of two generators by several readers (Obuchowski-Rockette, Hillis 2011)")
    add("--pilot", type=path_arg, required=True, metavar="CSV", help="ratings of a pilot study")
    add("--effect", type=float, required=True, metavar="X", help="difference of the two AUCs to detect")
    add("--readers", type=int, default=5, metavar="N", help="readers (default 5)")
    add("--reader-model", default="random", metavar="X", help="random (default) or fixed")
    add("--case-model", default="random", metavar="X", help="random (default) or fixed")


def run(args: argparse.Namespace) -> tuple[list[str], dict[str, Any], int]:
    """Carries out `study power`; lines, outcome, exit code."""
    if not (0 < args.power < 1 and 0 < args.alpha < 1):
        raise BadInput("Power and alpha lie between 0 and 1", "Give --power 0.8 --alpha 0.05.")
    if not 1 <= args.readers <= MOST_READERS:
        raise BadInput(f"--readers {shortened(args.readers)} is not between 1 and {MOST_READERS}", "Give --readers 5.")
    if args.power_kind != "mrmc" and args.readers == 1 and args.correlation != 0:
        raise BadInput(
            f"--correlation {args.correlation:g} is of the answers of several readers, and there is one",
            "Give --readers 3 with it, or leave it out.",
        )
    if args.power_kind == "mrmc" and not 0 < abs(args.effect) < 1:
        raise BadInput(
            f"--effect {args.effect:g} is no difference of two areas under a curve",
            "Give one between 0 and 1, such as --effect 0.05.",
        )
    lines, outcome = {"accuracy": _binomial, "equivalence": _binomial, "mrmc": _mrmc}[args.power_kind](args)
    return lines, outcome, 0


def _binomial(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    from SynthDiffusionLib.reader_study.statistics.power import binomial_size, design_effect, tost_size

    if args.power_kind == "accuracy":
        size = binomial_size(args.true, args.null, args.power, args.alpha)
        what = f"to find a true proportion of {args.true:g} different from {args.null:g}"
    else:
        true = args.null if args.true is None else args.true
        size = tost_size(args.margin, true, args.null, args.power, args.alpha)
        what = f"to show a true proportion of {true:g} to be within {args.margin:g} of {args.null:g}"
    effect = design_effect(args.readers, args.correlation)
    needed = math.ceil(size.trials * effect)
    lines = [
        f"{size.trials} independent answers {what}: power {_power(size.power)} (and at least {args.power} for the "
        "next 11 numbers too)"
    ]
    outcome = size.to_json() | {"design_effect": effect, "answers": needed}
    if args.readers > 1:
        cases = math.ceil(needed / args.readers)
        outcome["cases"] = cases
        lines.append(
            f"{args.readers} readers with a correlation of {args.correlation:g}: design effect {effect:.2f}, {needed} "
            f"answers, {cases} cases that all of them read. Approximate: a study that is analysed with readers at "
            "random needs more."
        )
    return lines, outcome


def _mrmc(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    import csv

    from SynthDiffusionLib.reader_study.statistics.mrmc import obuchowski_rockette, readings_from_long
    from SynthDiffusionLib.reader_study.statistics.power import mrmc_cases

    columns: dict[str, list[str]] = {name: [] for name in ("reader", "treatment", "case", "truth", "rating")}
    what = f"The pilot '{shortened(args.pilot)}'"
    try:
        status = args.pilot.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_PILOT_BYTES:  # a pipe or a device may never end
            raise BadInput(
                f"{what} is no regular file of at most {MOST_PILOT_BYTES // 1024**2} MiB", "Give a CSV of ratings."
            )
        with open(args.pilot, newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                for name, values in columns.items():
                    values.append(row[name])
        truth = [float(t) for t in columns["truth"]]
        rating = [float(r) for r in columns["rating"]]
        if odd := [t for t in truth if t not in (0.0, 1.0)]:
            raise ValueError(f"a truth is {odd[0]:g}, neither 0 nor 1")
        if not all(map(math.isfinite, rating)):
            raise ValueError("a rating is not finite")
    except OSError as error:
        raise BadInput(f"{what} cannot be read ({error.strerror})", "Check the path.") from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise BadInput(
            f"{what} is no table of ratings ({shortened(error)})",
            "It needs the columns reader, treatment, case, truth and rating.",
        ) from error
    pilot = readings_from_long(
        columns["reader"], columns["treatment"], columns["case"], [int(t) for t in truth], rating
    )
    if len(pilot.treatments) != 2:
        raise BadInput(f"The pilot has {len(pilot.treatments)} treatments", "Give one of two generators.")
    if not pilot.crossed:
        raise BadInput(
            "In the pilot not every reader has read every case of both treatments, as where two generators share the "
            "real volumes but not the synthetic ones",
            "Give a pilot in which both treatments are of the same cases.",
        )
    components = obuchowski_rockette(pilot.ratings, pilot.truth).components
    found = mrmc_cases(
        components, args.effect, args.readers, args.power, args.reader_model, args.case_model, args.alpha
    )
    if found is None:
        raise BadInput(
            f"More than 2000 cases would be needed with {args.readers} readers",
            "Plan for a larger effect or more readers.",
        )
    lines = [
        f"{found.cases} cases with {args.readers} readers find a difference of {args.effect:g} in the area under the "
        f"curve with a power of {_power(found.power)} (readers {args.reader_model}, cases {args.case_model}; the share "
        "of synthetic cases as in the pilot)"
    ]
    return lines, found.to_json()


def _power(value: float) -> str:
    """Three decimals, but never a power of 1, which no study has."""
    text = f"{value:.3f}"
    return ">0.999" if text == "1.000" else text
