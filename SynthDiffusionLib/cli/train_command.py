"""`synthdiffusion train`: a model package from a training configuration."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import MissingExtra


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `train`; `run` carries it out."""
    parser = subparsers.add_parser(
        "train",
        help="train a model from a configuration",
        description="Trains a model as a TOML file says (see Docs/TRAINING.md) and writes a model package. An "
        "interrupted run goes on with --resume, from its last checkpoint, as if it had not been interrupted.",
    )
    add = parser.add_argument
    add("config", type=path_arg, metavar="CONFIG.toml", help="such as Resources/Training/lung-nodule-ct.toml")
    add(
        "--out",
        type=path_arg,
        default=Path("runs/train"),
        metavar="DIR",
        help="folder for checkpoints, log, sample pictures and the package (default runs/train)",
    )
    add("--resume", action="store_true", help="go on from the last checkpoint in --out")
    add("--device", default="auto", metavar="NAME", help="auto (default), cpu or cuda")
    add(
        "--only-segmenter",
        action="store_true",
        help="train the segmenter of a last stage alone; it needs no other stage",
    )
    add("--json", action="store_true", help="print one JSON object on the last line")
    parser.set_defaults(run=run)
    return parser


def show(event: dict[str, Any]) -> None:
    """One line of progress, or a note, on standard error."""
    if event["event"] == "note":
        print(event["message"], file=sys.stderr, flush=True)
        return
    parts = [f"{event['stage']}: step {event['step']} of {event['total']}", f"loss {event['loss']:.4f}"]
    for name in ("validation_loss", "validation_dice", "validation_psnr", "perplexity"):
        if event.get(name) is not None:
            parts.append(f"{name.replace('_', ' ')} {event[name]:.4f}")
    minutes = event["eta_s"] / 60
    parts.append(f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left")
    print(", ".join(parts), file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    import importlib.util

    if importlib.util.find_spec("lightning_fabric") is None:
        raise MissingExtra("Training", "train")
    from SynthDiffusionLib.training.train import train

    made = train(
        args.config,
        args.out,
        resume=args.resume,
        device=args.device,
        only_segmenter=args.only_segmenter,
        on_event=show,
    )
    print(made)
    if args.json:
        print(json.dumps({"package" if made.is_dir() else "checkpoint": str(made)}))
    return 0
