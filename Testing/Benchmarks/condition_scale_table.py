"""What the strength of the drawing (`--condition-scale`) and guidance do for the adherence to the mask.

    python Testing/Benchmarks/condition_scale_table.py --data runs/limb-prepared --out runs/scales

One row per scale beside those that need no model: 0 ignores the drawing, so that what is left is position and chance; 1
is as trained. Dice of the model's segmenter with the mask, its ratio to the Dice on the real images of the same
patients, how many are found; definitions and intervals are those of Docs/EVALUATION.md. The masks are those of the
validation patients, or with `--split test` of the test patients; a default is chosen on the former.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

from SynthDiffusionLib.evaluation.adherence import measure_adherence, package_segmenter, window_of
from SynthDiffusionLib.evaluation.arms import arms_of
from SynthDiffusionLib.evaluation.cases import EvaluationData, load_evaluation_data
from SynthDiffusionLib.evaluation.report import console, table
from SynthDiffusionLib.evaluation.samples import Settings, load_samples, make_samples
from SynthDiffusionLib.models import ModelPackage, load_package
from SynthDiffusionLib.training.dataset import load_split


def load_data(folder: Path, package: ModelPackage, split: str) -> EvaluationData:
    """The test cases as `synthdiffusion evaluate` reads them; or the validation cases, which it refuses."""
    if split == "test":
        return load_evaluation_data(folder, package.spec, split)
    spec = package.spec
    values = {c.name: c.value for c in spec.label_scheme.condition_classes}
    training, validation = (load_split(folder, part) for part in ("train", "validation"))
    others = training[: len(validation)]
    return EvaluationData(
        folder, "validation", validation, training, others, values, spec.target_class, spec.intensity.range, {}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="limb-tumour-ct")
    parser.add_argument("--data", type=Path, required=True, help="what `synthdiffusion prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the volumes; goes on where it was ended")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--scales", default="0,0.5,1,2", help="values to compare")
    parser.add_argument("--guidances", help="values of --guidance to compare (default: the model's alone)")
    parser.add_argument("--arm", help="the target's name (default) or anatomy")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    package = load_package(args.model)
    arm = args.arm or arms_of(package.spec)[0]
    data = load_data(args.data, package, args.split)
    arms = {}
    default = package.spec.default_guidance("whole")
    guidances = [float(g) for g in args.guidances.split(",")] if args.guidances else [default]
    for guidance, scale in itertools.product(guidances, (float(s) for s in args.scales.split(","))):
        name = f"guidance_{guidance:g}_scale_{scale:g}"
        folder = args.out / f"{args.split}_{arm}_{name}"
        settings = Settings((arm,), steps=args.steps, device=args.device, guidance=guidance, condition_scale=scale)
        make_samples(package, data, folder, settings)
        row = load_samples(folder, package, data)[0][arm]
        arms[name] = replace(row, name=name, label=f"{row.label}, guidance {guidance:g}, scale {scale:g}")
    result = measure_adherence(data, arms, package_segmenter(package), None, window=window_of(package.spec))
    print(f"{package.id} {package.spec.version}, {len(data.evaluated)} patients of '{args.split}', {args.steps} steps")
    print("\n".join(console(*table(result))))


if __name__ == "__main__":
    main()
