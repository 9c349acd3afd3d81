"""Two answers of `synthdiffusion evaluate memorisation` that are known beforehand: a copying generator, a perfect one.

    python Testing/Benchmarks/memorisation_examples.py --data runs/lidc-prepared --out runs/memorisation
    python Testing/Benchmarks/evaluation_pages.py Docs/Evaluation/memorisation.md \
        planted=runs/memorisation/planted/memorisation.json perfect=runs/memorisation/perfect/memorisation.json

"planted": twenty training cases, mirrored, shifted and with noise, as if they were synthetic, against all test cases as
fresh real ones. "perfect": every other test case as if it were synthetic, against the rest. CT of a prepared data set.
The whole takes minutes on one core; a second call finds features and distances in the cache.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from SynthDiffusionLib import cli
from SynthDiffusionLib.evaluation.sets import copies
from SynthDiffusionLib.training.dataset import read_description
from SynthDiffusionLib.volumes import read_volume, write_volume

KIND = "all_three"  # of `copies.CONTROLS`
COUNT = 20
SEED = 2026
LIMITS = (-1000.0, 400.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Stages the folders and runs the measure on both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared CT data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for sets and results")
    args = parser.parse_args(arguments)
    stage(args.data, args.out / "sets")
    here = Path.cwd()
    os.chdir(args.out / "sets")  # so that the commands in the results hold no path of this machine
    try:
        words = ["evaluate", "memorisation", "--training", "training", "--validation", "validation"]
        words += ["--patients", "patients.csv", f"--range={LIMITS[0]:g},{LIMITS[1]:g}"]
        for synthetic, real in (("planted", "test"), ("perfect", "perfect-fresh")):
            sys.argv = ["synthdiffusion", *words, "--synthetic", synthetic, "--real", real]  # what the results say
            sys.argv += ["--out", str(Path("..") / synthetic)]
            if (code := cli.main(sys.argv[1:])) != 0:
                return code
    finally:
        os.chdir(here)
    return 0


def stage(data: Path, out: Path) -> None:
    """Folders training, validation, test, planted, perfect and perfect-fresh, and a table of patients."""
    shutil.rmtree(out, ignore_errors=True)
    description = read_description(data)
    split, rows = description["split"], []

    def copy(role: str, names: Sequence[str]) -> None:
        (out / role).mkdir(parents=True)
        for name in names:
            shutil.copyfile(data / "images" / f"{name}.nii.gz", out / role / f"{name}.nii.gz")
            rows.append((name, description["cases"][name]["patient"]))

    for role, part in (("training", "train"), ("validation", "validation"), ("test", "test")):
        copy(role, split[part])
    copy("perfect", split["test"][::2])
    copy("perfect-fresh", split["test"][1::2])
    (out / "planted").mkdir()
    volumes = [read_volume(data / "images" / f"{name}.nii.gz") for name in split["train"][:COUNT]]
    images = [np.clip(v.array, *LIMITS).astype(np.float32) for v in volumes]
    for n, (volume, array) in enumerate(zip(volumes, copies.planted(images, KIND, LIMITS, SEED), strict=True)):
        write_volume(volume.with_array(np.rint(array).astype(np.int16)), out / "planted" / f"copy{n + 1:02d}.nii.gz")
        rows.append((f"copy{n + 1:02d}", f"copy{n + 1:02d}"))
    with (out / "patients.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("case", "patient"), *dict.fromkeys(rows)])


if __name__ == "__main__":
    raise SystemExit(main())
