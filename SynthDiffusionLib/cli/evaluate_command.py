"""`synthdiffusion evaluate`: how good a model is, beside stand-ins that need no model."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from SynthDiffusionLib.cli import (
    evaluate_adherence,
    evaluate_fidelity,
    evaluate_memorisation,
    evaluate_report,
    evaluate_utility,
    evaluate_volumes,
)
from SynthDiffusionLib.cli.evaluate_sets import given_folders, run_sets
from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput

EXAMPLES = """examples, in this order:
  synthdiffusion evaluate samples --model lung-nodule-ct --data PREPARED --out samples
  synthdiffusion evaluate card --model lung-nodule-ct --data PREPARED --samples samples --out results
PREPARED is what synthdiffusion prepare wrote. Patients that the model was trained on are refused."""

MEASURES = {
    "adherence": "Dice of the model's segmenter on synthetic and on real volumes of the same masks",
    "fidelity": "histograms, distance of features, and classifiers that tell real from synthetic",
    "memorisation": "distance to the nearest training case, against that of unseen real images",
}
VOLUMES = "each region's share of the body, real against synthetic, with its mean, deviation and texture"
SETS = {"fidelity": evaluate_fidelity, "adherence": evaluate_adherence, "memorisation": evaluate_memorisation}
# Measured only when asked for; the card takes in what is in its folder.
COHERENCE = "whether slices follow each other as in real images"
CONTROL = "whether a model that makes the mask itself makes what it is asked for"


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `evaluate` and its own subcommands; `run` carries them out."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure how good a model is",
        description="Measures a model on patients that it has not seen, each figure beside those of stand-ins that "
        "need no model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="evaluate_action", metavar="WHAT", required=True)

    def action(
        name: str, help_text: str, *, data: bool = True, samples: bool = True, either: bool = False
    ) -> argparse.ArgumentParser:
        p = _new(actions, name, help_text)
        p.add_argument("--model", required=not either, metavar="ID", help="ID or folder of a model")
        if data:
            p.add_argument("--data", type=path_arg, required=not either, metavar="PREPARED", help="prepared data set")
            p.add_argument("--split", default="test", metavar="PART", help="part of it to evaluate (default test)")
        if samples:
            p.add_argument(
                "--samples", type=path_arg, required=not either, metavar="DIR", help="what 'evaluate samples' wrote"
            )
        return p

    p = action(
        "samples", "make the synthetic volumes that are measured; goes on where it was interrupted", samples=False
    )
    p.add_argument(
        "--arms",
        metavar="A,B",
        help="some of the model's target class (nodule, tumour), anatomy, "
        "inpainting, moved, joint (default: all that it can be measured on)",
    )
    p.add_argument("--seeds", type=int, default=1, metavar="N", help="volumes per mask and arm (default 1)")
    p.add_argument(
        "--condition-scale",
        type=float,
        metavar="X",
        help="weight of the segmentation, of models that have one (default: the model's)",
    )
    _sampling_options(p)
    for name, text in MEASURES.items():
        p = action(name, f"{text}; or, with --synthetic, of any folders of volumes", either=True)
        if name == "fidelity":
            _network_options(p)
        SETS[name].add_options(p)
    evaluate_volumes.add_options(_new(actions, "volumes", VOLUMES))
    evaluate_utility.add_parser(actions)
    evaluate_report.add_options(_new(actions, "report", evaluate_report.HELP))
    p = action("coherence", COHERENCE)
    p.add_argument(
        "--compare",
        type=path_arg,
        metavar="DIR",
        help="other samples of the same masks, such as those made without a refiner; of any model",
    )
    p = action("control", CONTROL, samples=False)
    p.add_argument("--requests", type=int, default=40, metavar="N", help="samples to make (default 40)")
    _sampling_options(p)
    p = action("card", "adherence, fidelity and memorisation, with a picture, MODEL_CARD.md and quality.json")
    p.add_argument("--measured", action="store_true", help="measure nothing: take the results that are in --out")
    p.add_argument(
        "--into-package", action="store_true", help="also put card, picture and figures into the model package"
    )
    _network_options(p)
    p = action("performance", "seconds and peak memory of one sample on the CPU", data=False, samples=False)
    p.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default 2)")
    p.add_argument("--steps", type=int, default=20, metavar="N", help="denoising steps (default 20)")
    p.add_argument("--size", metavar="XxYxZ", help="grid of the mask (default: the model's, such as 51x51x51)")
    p.add_argument("--repeats", type=int, default=3, metavar="N", help="fresh processes (default 3)")
    p.add_argument("--precision", default="auto", metavar="NAME", help="auto (default), fp32 or bf16")
    return parser


def _new(actions: argparse._SubParsersAction, name: str, help_text: str) -> argparse.ArgumentParser:
    p = actions.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    p.add_argument("--out", type=path_arg, required=True, metavar="DIR", help="folder for the results; made if missing")
    p.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    return p


def _sampling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's default_steps)")
    parser.add_argument("--sampler", metavar="NAME", help="default: the model's")
    parser.add_argument("--guidance", type=float, metavar="X", help="default: the model's")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", metavar="NAME", help="auto (default), fp32, bf16 or fp16")


def _network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--auc-steps",
        type=int,
        metavar="N",
        help="training steps of the real-or-synthetic networks (default: their own); 0 leaves them out",
    )
    parser.add_argument("--auc-repeats", type=int, default=1, metavar="N", help="trainings to average (default 1)")


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    if args.evaluate_action == "utility":
        return evaluate_utility.run(args)
    if args.evaluate_action == "report":
        return evaluate_report.run_report(args)
    if args.evaluate_action == "volumes":
        return run_sets(args, "volumes", evaluate_volumes.measure)
    if args.evaluate_action in SETS and given_folders(args):
        _check_no_model_options(args)
        return run_sets(args, args.evaluate_action, SETS[args.evaluate_action].measure)
    _check_model_options(args)
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.models import load_package

    package = load_package(args.model)
    line = ProgressLine(quiet=args.json)
    actions: dict[str, Callable[..., tuple[list[str], dict[str, Any]]]] = {
        "samples": _samples,
        "performance": _performance,
        "card": _card,
        "coherence": _measure,
        "control": _control,
        **dict.fromkeys(MEASURES, _measure),
    }
    try:
        lines, outcome = actions[args.evaluate_action](args, package, line)
    finally:
        line.close()
    print("\n".join(lines))
    if args.json:
        print(json.dumps(outcome, ensure_ascii=False))
    return 0


def _check_no_model_options(args: argparse.Namespace) -> None:
    given = [f"--{n}" for n in ("model", "data", "samples") if getattr(args, n) is not None]
    given += ["--split"] if args.split != "test" else []
    if given:
        raise BadInput(
            f"{', '.join(given)} cannot go with {', '.join(given_folders(args))}",
            "Measure folders of volumes with --real DIR --synthetic DIR, or a model's samples with --model, --data and "
            "--samples.",
        )


def _check_model_options(args: argparse.Namespace) -> None:
    missing = [f"--{n}" for n in ("model", "data", "samples") if getattr(args, n, "") is None]
    if missing:
        raise BadInput(
            f"{', '.join(missing)} must be given",
            "Or measure any two folders of volumes with --real DIR --synthetic DIR.",
        )


def _samples(args: argparse.Namespace, package, on_event) -> tuple[list[str], dict[str, Any]]:
    from SynthDiffusionLib.evaluation.cases import load_evaluation_data
    from SynthDiffusionLib.evaluation.samples import Settings, make_samples

    settings = Settings(
        tuple(a.strip() for a in args.arms.split(",")) if args.arms else None,
        args.seeds,
        args.steps,
        args.sampler,
        args.guidance,
        device=args.device,
        precision=args.precision,
        condition_scale=args.condition_scale,
    )
    data = load_evaluation_data(args.data, package.spec, args.split)
    index = make_samples(package, data, args.out, settings, on_event=on_event)
    content = json.loads(index.read_text(encoding="utf-8"))
    skipped = [f"skipped in {e['arm']}: {e['case']}: {e['reason']}" for e in content["skipped"]]
    return [*skipped, str(index)], {"samples": str(index), "volumes": len(content["samples"]), "skipped": len(skipped)}


def _measure(args: argparse.Namespace, package, on_event) -> tuple[list[str], dict[str, Any]]:
    from SynthDiffusionLib.evaluation.report import summary_lines

    ((result, written),) = _results(args, package, on_event, (args.evaluate_action,))
    paths = {k: str(p) for k, p in written.items()}
    return [*summary_lines(result), "", *paths.values()], paths


def _results(
    args: argparse.Namespace, package, on_event, kinds: tuple[str, ...]
) -> Iterator[tuple[dict[str, Any], dict[str, Path]]]:
    """Measures one or several kinds on one reading of the data and the samples, and writes each when it is done."""
    from SynthDiffusionLib.evaluation import report
    from SynthDiffusionLib.evaluation.cases import load_evaluation_data
    from SynthDiffusionLib.evaluation.samples import describe, load_samples

    data = load_evaluation_data(args.data, package.spec, args.split)
    arms, index = load_samples(args.samples, package, data)
    margin = package.spec.inpaint.margin_mm if package.spec.inpaint else None
    samples = describe(index, tuple(arms), _samples_command(args, package, index["settings"], tuple(arms)))
    summary = data.summary()
    for kind in kinds:
        began = time.monotonic()
        measured = _measure_one(kind, args, package, data, arms, margin, on_event)
        result = report.complete(
            measured,
            package,
            data=summary,
            samples=samples,
            seconds=time.monotonic() - began,
            command=f"synthdiffusion evaluate {kind} --model {package.id} --data PREPARED --samples SAMPLES"
            + " --out RESULTS"
            + (f" --split {args.split}" if args.split != "test" else "")
            + (_network_arguments(args) if kind == "fidelity" else "")
            + (" --compare OTHER_SAMPLES" if kind == "coherence" and args.compare else ""),
        )
        yield result, report.write_result(result, args.out)


def _measure_one(kind: str, args: argparse.Namespace, package, data, arms, margin, on_event) -> dict[str, Any]:
    if kind == "adherence":
        from SynthDiffusionLib.evaluation import adherence

        segments = adherence.package_segmenters(package, data.all_targets)
        return adherence.measure_targets(data, arms, segments, margin, on_event, adherence.window_of(package.spec))
    if kind == "coherence":
        from SynthDiffusionLib.evaluation.coherence import measure_coherence, other_model
        from SynthDiffusionLib.evaluation.samples import generator_identity, load_samples

        if not args.compare:
            return measure_coherence(data, arms, on_event=on_event)
        rows, index = load_samples(args.compare, package, data, same_model=False)
        return measure_coherence(data, arms, rows, other_model(generator_identity(package), index["model"]), on_event)
    if kind == "fidelity":
        from SynthDiffusionLib.evaluation.fidelity import measure_fidelity

        if (args.auc_steps is not None and args.auc_steps < 0) or not 1 <= args.auc_repeats <= 100:
            raise BadInput(
                "The networks' steps or repeats are out of range", "Give --auc-repeats a number from 1 to 100."
            )
        return measure_fidelity(
            data, arms, margin, auc_steps=args.auc_steps, auc_repeats=args.auc_repeats, on_event=on_event
        )
    from SynthDiffusionLib.evaluation.memorisation import measure_memorisation

    return measure_memorisation(data, arms, on_event)


def _control(args: argparse.Namespace, package, on_event) -> tuple[list[str], dict[str, Any]]:
    from SynthDiffusionLib.evaluation import control, report
    from SynthDiffusionLib.evaluation.cases import load_evaluation_data
    from SynthDiffusionLib.output_folders import check_writable

    data = load_evaluation_data(args.data, package.spec, args.split)
    check_writable(args.out)
    settings = control.Settings(args.requests, args.steps, args.sampler, args.guidance, args.device, args.precision)
    began = time.monotonic()
    index = control.make_control(package, data, args.out, settings, on_event=on_event)
    command = f"synthdiffusion evaluate control --model {package.id} --data PREPARED --out RESULTS"
    command += f" --requests {args.requests} --steps {index['settings']['steps']}"
    command += f" --sampler {args.sampler}" if args.sampler else ""
    command += f" --guidance {args.guidance:g}" if args.guidance is not None else ""
    result = report.complete(
        control.measure_control(package, data, args.out, index),
        package,
        data=data.summary(),
        samples=None,
        seconds=time.monotonic() - began,
        command=command + (f" --split {args.split}" if args.split != "test" else ""),
    )
    written = report.write_result(result, args.out) | {"png": args.out / "control.png"}
    control.write_scatter(written["png"], result)
    paths = {k: str(p) for k, p in written.items()}
    return [*report.summary_lines(result), "", *paths.values()], paths


def _card(args: argparse.Namespace, package, on_event) -> tuple[list[str], dict[str, Any]]:
    from SynthDiffusionLib.contact_sheet import LUNG_WINDOW
    from SynthDiffusionLib.evaluation import card
    from SynthDiffusionLib.evaluation.cases import load_evaluation_data
    from SynthDiffusionLib.evaluation.picture import window_of, write_picture
    from SynthDiffusionLib.evaluation.picture_sizes import SOFT_TISSUE_WINDOW, write_sizes_picture
    from SynthDiffusionLib.evaluation.rows import real_items
    from SynthDiffusionLib.evaluation.samples import load_samples
    from SynthDiffusionLib.jobs.provenance import write_json
    from SynthDiffusionLib.volumes.atomic import atomic_file

    if not args.measured:
        for result, _ in _results(args, package, on_event, tuple(MEASURES)):
            on_event({"event": "progress", "stage": f"{result['kind']} is measured", "step": 0, "total": 1})
    results = card.read_results(args.out)
    data = load_evaluation_data(args.data, package.spec, args.split)
    arms, _ = load_samples(args.samples, package, data)
    picture = args.out / ("real_and_synthetic.png" if data.crop is None else "real_and_synthetic.jpg")
    real = real_items(data.evaluated, data.intensity_range)
    if data.crop is None:
        shown = write_picture(picture, real, arms, data.target_value, window_of(data, real, LUNG_WINDOW))
    else:
        limits = window_of(data, real, SOFT_TISSUE_WINDOW)
        shown = write_sizes_picture(picture, real, arms, data.target_value, limits)
    text, quality = card.render_card(package.spec, results, picture.name, shown), card.quality_measures(results)
    with atomic_file(args.out / "MODEL_CARD.md") as stream:
        stream.write(text.encode("utf-8"))
    write_json(args.out / "quality.json", quality)
    if args.into_package:
        from SynthDiffusionLib.evaluation.performance import performance_measures
        from SynthDiffusionLib.training.pack import update_package

        performance = performance_measures(results["performance"]) if "performance" in results else {}
        update_package(package.folder, quality, performance, text, [picture])
    paths = {"card": args.out / "MODEL_CARD.md", "picture": picture, "quality": args.out / "quality.json"}
    paths |= {kind: args.out / f"{kind}.json" for kind in results}
    texts = {k: str(p) for k, p in paths.items()}
    return [*card.card_summary(results), "", *texts.values()], texts


def _performance(args: argparse.Namespace, package, on_event) -> tuple[list[str], dict[str, Any]]:
    from SynthDiffusionLib.evaluation import report
    from SynthDiffusionLib.evaluation.performance import measure_performance, size_of

    text = "x".join(map(str, size_of(package.spec))) if args.size is None else args.size
    if not re.fullmatch(r"\d{1,4}(x\d{1,4}){2}", text):
        raise BadInput(f"'{text}' is no size", "Give --size as 51x51x51.")
    began = time.monotonic()
    measured = measure_performance(
        package,
        threads=args.threads,
        steps=args.steps,
        size=tuple(int(n) for n in text.split("x")),
        repeats=args.repeats,
        precision=args.precision,
        out=args.out,
        on_event=on_event,
    )
    result = report.complete(
        measured,
        package,
        data=None,
        samples=None,
        seconds=time.monotonic() - began,
        command=f"synthdiffusion evaluate performance --model {package.id} --threads {args.threads} "
        f"--steps {args.steps} --size {text} --repeats {args.repeats} --precision {args.precision} --out RESULTS",
    )
    paths = {k: str(p) for k, p in report.write_result(result, args.out).items()}
    return [*report.console(*report.table(result)), "", *paths.values()], paths


def _samples_command(args: argparse.Namespace, package, settings: dict[str, Any], arms: tuple[str, ...]) -> str:
    from SynthDiffusionLib.evaluation.arms import arms_of

    text = f"synthdiffusion evaluate samples --model {package.id} --data PREPARED --out SAMPLES"
    text += f" --seeds {settings['seeds']} --steps {settings['steps']}"
    text += f" --sampler {settings['sampler']}" if settings["sampler"] else ""
    text += f" --guidance {settings['guidance']:g}" if settings.get("guidance") is not None else ""
    text += f" --condition-scale {settings['condition_scale']:g}" if "condition_scale" in settings else ""
    text += f" --precision {settings['precision']}" if settings["precision"] != "auto" else ""
    text += f" --arms {','.join(arms)}" if arms != arms_of(package.spec) else ""
    return text + (f" --split {args.split}" if args.split != "test" else "")


def _network_arguments(args: argparse.Namespace) -> str:
    text = f" --auc-steps {args.auc_steps}" if args.auc_steps is not None else ""
    return text + (f" --auc-repeats {args.auc_repeats}" if args.auc_repeats != 1 else "")
