"""`synthdiffusion evaluate utility`: three experiments on what synthetic images are worth for segmentation."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.cli.evaluate_sets import Event, ForReport, command_of, kept_when_cancelled, seed_arg
from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput

if TYPE_CHECKING:
    from SynthDiffusionLib.evaluation.utility.store import Store

HELP = "would synthetic images do real work? Segmentation networks trained with and without them"
EXPERIMENTS = {
    "augmentation": "real, synthetic, both, and synthetic aimed at the worst validation cases",
    "scarcity": "few real patients, with and without pairs from a generator trained on those few",
    "gap": "a network trained on real images, tested on synthetic ones of the test masks",
}
LEAST_TEST_PATIENTS = 5
DESCRIPTION = (
    "Trains segmentation networks and tests them on the same real test patients, which nothing else has seen. "
    "Everything is kept in --out: an interrupted call, or one that --minutes ended, goes on when it is made again."
)


def add_parser(actions: argparse._SubParsersAction) -> None:
    """Adds `utility` and its experiments."""
    parser = actions.add_parser("utility", help=HELP, description=DESCRIPTION)
    experiments = parser.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    for name, text in EXPERIMENTS.items():
        p = experiments.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {DESCRIPTION}")
        p.add_argument("--data", type=path_arg, required=True, metavar="PREPARED", help="prepared data set")
        p.add_argument("--out", type=path_arg, required=True, metavar="DIR", help="folder of the experiment")
        p.add_argument("--json", action="store_true", help="print one JSON object on the last line")
        _add_generator(p, name)
        if name == "scarcity":
            p.add_argument("--patients", default="5,10,20,25", metavar="N,N", help="real patients (default 5,10,20,25)")
            p.add_argument("--pairs", type=int, default=50, metavar="N", help="synthetic pairs of an arm (default 50)")
            p.add_argument("--share", type=float, default=0.5, metavar="X", help="of synthetic crops (default 0.5)")
        if name == "augmentation":
            p.add_argument("--patients", type=int, metavar="N", help="real training patients (default: all)")
            p.add_argument("--worst", type=int, default=5, metavar="N", help="cases that are aimed at (default 5)")
            p.add_argument("--per-case", type=int, default=4, metavar="N", help="volumes of each (default 4)")
        if name != "gap":
            p.add_argument(
                "--folds",
                type=int,
                default=1,
                metavar="N",
                help="draws of the patients, each with generators of its own",
            )
        seeds = 3 if name == "scarcity" else 5
        p.add_argument("--seeds", type=int, default=seeds, metavar="N", help=f"networks per arm (default {seeds})")
        p.add_argument("--targets", metavar="A,B", help="classes to segment (default: the data set's target)")
        p.add_argument(
            "--network-steps", type=int, default=1500, metavar="N", help="optimiser steps of each (default 1500)"
        )
        p.add_argument("--patch", default="32", metavar="N", help="crop in voxels, such as 32 or 48x48x24 (default 32)")
        p.add_argument("--learning-rate", type=float, default=2e-3, metavar="X", help="peak (default 0.002)")
        p.add_argument("--batch", type=int, default=4, metavar="N", help="crops per step (default 4)")
        p.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
        p.add_argument("--guidance", type=float, metavar="X", help="default: the model's")
        p.add_argument("--device", default="cpu", metavar="NAME", help="of networks and generator (default cpu)")
        p.add_argument("--seed", type=seed_arg, default=2026, metavar="N", help="of all draws (default 2026)")
        p.add_argument("--minutes", type=float, metavar="N", help="stop after this time; exit code 1 until all is done")


def _add_generator(parser: argparse.ArgumentParser, experiment: str) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    if experiment != "scarcity":
        group.add_argument(
            "--model", metavar="ID", help="the generator; it must know no patient that the arms have not"
        )
    if experiment != "gap":
        what = " that makes image and mask together" if experiment == "scarcity" else ", instead of --model"
        group.add_argument(
            "--generator",
            type=path_arg,
            nargs="+",
            metavar="TOML",
            help=f"training configurations of the stages of a generator{what}",
        )


def run(args: argparse.Namespace) -> int:
    """Carries an experiment out, or on; writes JSON, CSV and HTML when it is done."""
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.evaluation.sets import results
    from SynthDiffusionLib.evaluation.utility.report import report
    from SynthDiffusionLib.evaluation.utility.store import sets_of
    from SynthDiffusionLib.output_folders import check_writable, only_writer

    _check(args)
    check_writable(args.out)
    line = ProgressLine(quiet=args.json)
    on_event = ForReport(line)
    try:
        with kept_when_cancelled(args.out), only_writer(args.out):
            store, settings, found = _carry_out(args, on_event)
            measured = report(args.experiment, store.data, store.recipe, settings, found)
            result = results.assemble(
                "utility",
                measured.sections,
                sets=sets_of(store.data),
                settings=measured.settings | on_event.settings,
                definitions=measured.definitions,
                command=command_of(),
                seconds=store.seconds(),
            )
            paths = {k: str(p) for k, p in results.write_result(result, args.out).items()}
    finally:
        line.close()
    print("\n".join([*results.console_lines(result), "", paths["html"], paths["json"]]))
    if args.json:
        print(json.dumps(paths, ensure_ascii=False))
    return 0


def _carry_out(args: argparse.Namespace, on_event: Event) -> tuple[Store, Any, dict[str, Any]]:
    from SynthDiffusionLib.evaluation.utility import augmentation, gap, scarcity
    from SynthDiffusionLib.evaluation.utility.generators import configs_sha256
    from SynthDiffusionLib.evaluation.utility.networks import Recipe
    from SynthDiffusionLib.evaluation.utility.pairs import load_data
    from SynthDiffusionLib.evaluation.utility.store import GENERATOR, Store
    from SynthDiffusionLib.evaluation.utility.synthesis import Sampling
    from SynthDiffusionLib.memory.plan import resolve_device
    from SynthDiffusionLib.models import load_package
    from SynthDiffusionLib.training.dataset import spacing_of

    targets = [t.strip() for t in args.targets.split(",")] if args.targets else None
    package = load_package(args.model) if getattr(args, "model", None) else None
    limits = package.spec.intensity.range if package is not None else None
    data = load_data(args.data, targets, limits, LEAST_TEST_PATIENTS, on_event)
    patch = _patch(args.patch)
    cubic = len(set(patch)) == 1 and len(set(spacing_of(data.description))) == 1
    recipe = Recipe(
        steps=args.network_steps, batch=args.batch, patch=patch, learning_rate=args.learning_rate, turned=cubic
    )
    device = resolve_device(args.device)
    store = Store(args.out, data, recipe, device, args.minutes, on_event)
    sampling = Sampling(steps=args.steps, guidance=args.guidance, device=args.device)
    if args.experiment == "augmentation":
        settings: Any = augmentation.Settings(
            args.seeds, args.worst, args.per_case, args.patients, args.folds, args.seed
        )
    elif args.experiment == "gap":
        settings = gap.Settings(args.seeds, args.seed)
    else:
        numbers = _numbers(args.patients)
        settings = scarcity.Settings(numbers, args.pairs, args.share, args.seeds, args.folds, args.seed)
    store.begin(
        {"experiment": args.experiment, "settings": vars(settings), "model": package.id if package else None}
        | {GENERATOR: configs_sha256(args.generator) if getattr(args, "generator", None) else None}
        | {"sampling": {"steps": args.steps, "guidance": args.guidance}}
    )
    try:
        if args.experiment == "augmentation":
            found = augmentation.run_augmentation(data, package or args.generator, store, settings, sampling)
        elif args.experiment == "gap":
            found = gap.run_gap(data, package, store, settings, sampling)
        else:
            found = scarcity.run_scarcity(data, args.generator, store, settings, sampling)
    except BadInput:
        store.undo()
        raise
    return store, settings, found


def _check(args: argparse.Namespace) -> None:
    ranges = {"seeds": (1, 100), "network_steps": (1, 10**6), "batch": (1, 1024), "worst": (1, 1000)}
    ranges |= {
        "per_case": (1, 1000),
        "pairs": (1, 10**5),
        "folds": (1, 100),
        "share": (0.0, 1.0),
        "learning_rate": (1e-8, 1.0),
        "steps": (1, 1000),
        "guidance": (0.0, 20.0),
    }
    for name, (low, high) in ranges.items():
        value = getattr(args, name, None)
        if value is not None and not low <= value <= high:
            raise BadInput(f"--{name.replace('_', '-')} is {value}", f"Give it a number from {low:g} to {high:g}.")
    if args.minutes is not None and not args.minutes > 0:
        raise BadInput(f"--minutes is {args.minutes:g}", "Give it a number above 0.")
    if args.experiment == "augmentation" and args.folds > 1 and args.generator is None:
        raise BadInput("Several folds need a generator of their own each", "Give --generator instead of --model.")
    configs = getattr(args, "generator", None) or ()
    for path in configs:
        if not Path(path).is_file():
            raise BadInput(f"'{path}' does not exist", "Give --generator TOML files of a training.")
    if args.out.is_dir() and args.data.is_dir() and os.path.samefile(args.out, args.data):
        raise BadInput("--out is the folder of --data: results would lie among its files", "Give another folder.")
    if configs:
        from SynthDiffusionLib.evaluation.utility.generators import check_configs

        check_configs(configs)


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise BadInput(f"'{text}' is no list of numbers of patients", "Give --patients 5,10,20.")
    return tuple(sorted({int(p) for p in parts}))


def _patch(text: str) -> tuple[int, int, int]:
    parts = text.lower().split("x")
    if len(parts) not in (1, 3) or not all(p.isdigit() and 16 <= int(p) <= 512 and int(p) % 8 == 0 for p in parts):
        raise BadInput(f"'{text}' is no crop", "Give --patch multiples of 8 from 16 on, such as 32 or 48x48x24.")
    numbers = [int(p) for p in parts]
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)
