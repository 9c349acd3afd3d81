"""`synthdiffusion demo`: the main job on sample segmentations that ship with the project."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import MissingExtra
from SynthDiffusionLib.jobs.request import GenerateRequest

MODEL = "lung-nodule-ct"
SAMPLES = ("solitary-nodule", "pleural-nodule", "two-nodules")


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `demo`; `run` carries it out."""
    parser = subparsers.add_parser(
        "demo",
        help="try it: synthetic chest CT from segmentations that ship with SynthDiffusion",
        description="Makes synthetic chest CT from sample segmentations, which a program has drawn: no patient data.",
    )
    parser.add_argument(
        "--out",
        type=path_arg,
        default=Path("demo-output"),
        metavar="DIR",
        help="folder for the results (default demo-output)",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.jobs.runner import run as run_job
    from SynthDiffusionLib.jobs.scene_export import require_scene_writer
    from SynthDiffusionLib.resources import resource_path

    scene = True
    try:
        require_scene_writer()
    except MissingExtra as error:
        scene = False
        print(f"note: no scenes are written. {error.one_line()}")
    written: list[Path] = []
    for number, name in enumerate(SAMPLES, start=1):
        print(f"[{number} of {len(SAMPLES)}] {name}: a synthetic chest CT from a drawn segmentation", flush=True)
        segmentation = resource_path("Segmentations", f"{name}.seg.nrrd")
        # One scene shows what a scene is; each takes as long as a volume.
        request = GenerateRequest(segmentation, MODEL, args.out, seed=number, scene=scene and number == 1)
        line = ProgressLine()
        try:
            result = run_job(request, WholeDemo(line, len(SAMPLES) - number))
        finally:
            line.close()
        written += [value for output in result.outputs for value in output.values() if isinstance(value, Path)]
    print(f"\n{len(written)} files in {args.out}:")
    for path in written:
        print(f"  {path.name}")
    print("\nLook at the .png files first: drawing, synthetic CT, overlay. Open the .mrb file in 3D Slicer.")
    print("These images are synthetic: for research only, not for diagnosis.")
    print("\nNext: three different volumes from one segmentation (put your own in its place):")
    sample = resource_path("Segmentations", f"{SAMPLES[0]}.seg.nrrd")
    print(f"  {_command()} generate {sample} --model {MODEL} --out results --samples 3")
    return 0


class WholeDemo:
    """Passes a job's events on, with the time that the cases after it will take in their estimates.

    Args:
        receiver: of the events.
        left: cases after this one.
    """

    def __init__(self, receiver: Callable[[dict[str, Any]], None], left: int) -> None:
        self._receiver, self._left, self._began = receiver, left, time.monotonic()

    def __call__(self, event: dict[str, Any]) -> None:
        if "eta_s" in event:
            one_case = time.monotonic() - self._began + event["eta_s"]
            event = {**event, "eta_s": round(event["eta_s"] + self._left * one_case, 1)}
        self._receiver(event)


def _command() -> str:
    """How this program was called, so that the next command can be typed as it stands."""
    called = Path(sys.argv[0])
    return str(called) if called.name.startswith("synthdiffusion") else f"{sys.executable} -m SynthDiffusionLib"
