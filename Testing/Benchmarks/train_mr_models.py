"""Trains the models hippocampus-mr and limb-tumour-mr at the same time on one GPU, and prints a table last.

Run: python Testing/Benchmarks/train_mr_models.py [--copy FOLDER]

It prepares no data: Docs/TRAINING.md says how. The runs are runs/hippocampus-{autoencoder,diffusion} and
runs/limb-mr-{autoencoder,refiner,diffusion}; called again after an interruption, it goes on from their checkpoints.
Segmenters train beside the earlier stages.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs"
CONFIGURATIONS = ROOT / "Resources" / "Training"
MODELS = {  # configuration without its stage, folder of the runs without it, stages
    "hippocampus-mr": ("hippocampus", ("autoencoder", "diffusion")),
    "limb-tumour-mr": ("limb-mr", ("autoencoder", "refiner", "diffusion")),
}
# What a GPU takes: minutes on the wall, and crops or volumes per step where a GPU bears more of them.
ON_GPU = {
    "hippocampus-mr-autoencoder": (1.2, 4),
    "hippocampus-mr-diffusion": (4.0, 64),
    "limb-tumour-mr-autoencoder": (1.3, 16),
    "limb-tumour-mr-refiner": (1.0, 2),
    "limb-tumour-mr-diffusion": (5.0, 24),
}
SEGMENTER = ("--only-segmenter",)
KEPT = ("summary.json", "log.csv", "segmenter.csv", "segmenter.pt", "samples", "package")


def configuration(model: str, stage: str, share: float) -> Path:
    """A configuration beside the shipped one of a stage, for a GPU and a share of its minutes and segmenter's steps."""
    text = (CONFIGURATIONS / f"{model}-{stage}.toml").read_text(encoding="utf-8")
    minutes, batch = ON_GPU[f"{model}-{stage}"]
    for name, value in (("minutes", f"{share * minutes:.4f}"), ("clock", '"wall"'), ("batch", str(batch))):
        text, count = re.subn(rf"(?m)^{name} = [^#\n]*?(?=[ \t]*(?:#|$))", f"{name} = {value}", text, count=1)
        assert count, name
    text = re.sub(r"(?m)^steps = ([0-9]+)", lambda m: f"steps = {max(1, int(share * int(m[1])))}", text)
    made = CONFIGURATIONS / f".{model}-{stage}.toml"  # paths in it are relative
    made.write_text(text, encoding="utf-8")
    return made


def run(args: argparse.Namespace, model: str, stage: str, *more: str) -> None:
    """A stage to its end, its output in a log beside its folder.

    Raises:
        RuntimeError: it failed.
    """
    folder = RUNS / f"{MODELS[model][0]}-{stage}"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "SynthDiffusionLib", "train", str(configuration(model, stage, args.share))]
    command += ["--out", str(folder), "--device", args.device, *more]
    name = f"{folder.name}{'-segmenter' if more == SEGMENTER else ''}.log"
    with (RUNS / name).open("a", encoding="utf-8") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise RuntimeError(f"{model}, {stage}, failed with exit code {code}: see {RUNS / name}")


def train_model(args: argparse.Namespace, model: str) -> None:
    """All stages in order, the segmenter beside them until the last one begins."""
    stages = MODELS[model][1]
    with ThreadPoolExecutor(1) as pool:
        last = RUNS / f"{MODELS[model][0]}-{stages[-1]}"
        beside = None if (last / "segmenter.pt").is_file() else pool.submit(run, args, model, stages[-1], *SEGMENTER)
        for stage in stages[:-1]:
            run(args, model, stage, "--resume")
        if beside is not None:
            beside.result()
    run(args, model, stages[-1], "--resume")


def row_of(folder: Path) -> list[str]:
    """What a stage took and how far it came."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    with (folder / "log.csv").open(newline="", encoding="utf-8") as stream:
        last = list(csv.DictReader(stream))[-1]
    memory = summary["peak_gpu_bytes"]
    also = [f"{name.removeprefix('validation_')} {last[name]}" for name in ("validation_psnr", "validation_dice")
            if last.get(name)]  # fmt: skip
    return [folder.name, str(summary["steps"]), f"{summary['seconds']:.0f}",
            f"{memory / 2**30:.1f} GiB" if memory else "-", last["loss"], last["validation_loss"],
            ", ".join(also)]  # fmt: skip


def print_table(args: argparse.Namespace, models: Sequence[str]) -> None:
    """Every stage, and the size of the packages."""
    print("\n| stage | steps | seconds | GPU memory | training loss | validation loss | validation |")
    print("|---|---|---|---|---|---|---|")
    for model in models:
        name, stages = MODELS[model]
        for stage in stages:
            if (RUNS / f"{name}-{stage}" / "summary.json").is_file():
                print("| " + " | ".join(row_of(RUNS / f"{name}-{stage}")) + " |")
        package = RUNS / f"{name}-{stages[-1]}" / "package"
        if package.is_dir():
            print(f"\n{model}: {sum(f.stat().st_size for f in package.iterdir()):,} bytes in {package}\n")


def copy(args: argparse.Namespace, models: Sequence[str]) -> None:
    """What is needed elsewhere: packages, logs and pictures, without the checkpoints."""
    for model in models:
        name, stages = MODELS[model]
        for folder in (RUNS / f"{name}-{stage}" for stage in stages):
            for kept in KEPT:
                if (folder / kept).is_dir():
                    shutil.copytree(folder / kept, args.copy / folder.name / kept, dirs_exist_ok=True)
                elif (folder / kept).is_file():
                    (args.copy / folder.name).mkdir(parents=True, exist_ok=True)
                    shutil.copy(folder / kept, args.copy / folder.name / kept)
    for log in RUNS.glob("*.log"):
        shutil.copy(log, args.copy / log.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, and returns 1 where a model failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS), help="default: both")
    parser.add_argument("--share", type=float, default=1.0, help="of the minutes; a trial takes 0.05 (default 1)")
    parser.add_argument("--copy", type=Path, help="folder for packages, logs and pictures, checkpoints left out")
    args = parser.parse_args(arguments)
    args.models = list(args.models)
    began, code = time.monotonic(), 0
    try:
        with ThreadPoolExecutor(len(args.models)) as pool:
            for done in [pool.submit(train_model, args, model) for model in args.models]:
                try:
                    done.result()
                except RuntimeError as error:
                    print(error, file=sys.stderr)
                    code = 1
    finally:
        for made in CONFIGURATIONS.glob(".*-mr-*.toml"):
            made.unlink()
    if args.copy is not None:
        copy(args, args.models)
    print_table(args, args.models)
    print(f"{time.monotonic() - began:.0f} s of wall time in this call")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
