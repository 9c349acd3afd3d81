"""Shows why the adherence of a run is measured in windows round the drawn structures: the same Dice without them.

    python Testing/Benchmarks/adherence_centring.py [--sample solitary-nodule] [--seed 1] [--steps 20]

Makes one volume from a sample segmentation through `jobs.run` and prints the adherence that the run reports, and the
Dice of the same segmenter when it is shown the whole volume at once.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from SynthDiffusionLib.evaluation.adherence import package_segmenter
from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.volumes import read_segmentation, read_volume

ROOT = Path(__file__).resolve().parents[2]


def dice(found: np.ndarray, drawn: np.ndarray) -> float:
    """Dice of two masks of one shape."""
    return 2.0 * int((found & drawn).sum()) / (int(found.sum()) + int(drawn.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", default="solitary-nodule")
    parser.add_argument("--model", default="lung-nodule-ct")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    path = ROOT / "Resources" / "Segmentations" / f"{args.sample}.seg.nrrd"
    package = load_package(args.model)
    segmentation = read_segmentation(path)
    target = next(s for s in segmentation.segments if s.name.lower() == package.spec.target_class)
    with tempfile.TemporaryDirectory() as folder:
        request = GenerateRequest(path, args.model, Path(folder), seed=args.seed, steps=args.steps, adherence=True)
        output = run(request).outputs[0]
        volume = read_volume(output["volume"], "HU")
    whole = dice(package_segmenter(package)(volume.array.astype(np.float32)), segmentation.mask(target))
    print(f"{args.sample}, seed {args.seed}, {args.steps} steps")
    print(f"Dice, in a window round each structure: {output['adherence']['dice']:.2f}")
    print(f"Dice, on the whole volume at once:      {whole:.2f}")


if __name__ == "__main__":
    main()
