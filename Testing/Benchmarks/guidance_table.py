"""What classifier-free guidance does for the adherence to a mask that is given alone.

    python Testing/Benchmarks/guidance_table.py --data runs/lidc-prepared --out runs/guidance [--guidance 1,2]

A setting is chosen here, so the masks are those of the validation patients, and the figures are no measure of the
model's quality: `synthdiffusion evaluate` gives that, on test patients. The table has the mean Dice of the model's
segmenter with the mask, beside its Dice on the real images of the same patients.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from SynthDiffusionLib.evaluation.adherence import package_segmenter
from SynthDiffusionLib.evaluation.cases import EvaluationData
from SynthDiffusionLib.evaluation.rows import Item, real_items
from SynthDiffusionLib.evaluation.samples import Settings, load_samples, make_samples
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.training.dataset import load_split


def dice(segment, item: Item, value: int) -> float:
    mask, found = item.classes == value, segment(item.hu)
    return float(2.0 * (mask & found).sum() / max(mask.sum() + found.sum(), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="what `synthdiffusion prepare` wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="lung-nodule-ct")
    parser.add_argument("--guidance", default="1,2", help="values to compare")
    parser.add_argument("--arm", default="nodule", help="nodule or anatomy")
    args = parser.parse_args()

    package = load_package(args.model)
    spec = package.spec
    values = {c.name: c.value for c in spec.label_scheme.condition_classes}
    training, validation = (load_split(args.data, part) for part in ("train", "validation"))
    data = EvaluationData(
        args.data, "validation", validation, training, [], values, spec.target_class, spec.intensity.range, {}
    )
    segment, target = package_segmenter(package), values[spec.target_class]
    real = [dice(segment, item, target) for item in real_items(validation, spec.intensity.range)]
    print(f"{len(validation)} validation patients; Dice on their real images {np.mean(real):.3f}")
    print("guidance   Dice   ratio   found (Dice above 0.1)")
    for guidance in (float(g) for g in args.guidance.split(",")):
        folder = args.out / f"guidance_{guidance:g}"
        make_samples(package, data, folder, Settings((args.arm,), guidance=guidance))
        rows, _ = load_samples(folder, package, data)
        scores = np.array([dice(segment, item, target) for item in rows[args.arm].items])
        ratio, found = scores.mean() / np.mean(real), (scores > 0.1).mean()
        print(f"{guidance:8g}   {scores.mean():.3f}  {ratio:.2f}   {found:.0%}", flush=True)


if __name__ == "__main__":
    main()
