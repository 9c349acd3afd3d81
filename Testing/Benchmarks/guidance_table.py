"""What classifier-free guidance does for the adherence to the mask, and what it costs in realism.

    python Testing/Benchmarks/guidance_table.py --data runs/lidc-prepared --out runs/guidance --arm nodule

A setting is chosen here, so the masks are those of the validation patients, and the figures are no measure of the
model's quality: `synthdiffusion evaluate` gives that, on test patients. Definitions are those of Docs/EVALUATION.md:

* Dice of the model's segmenter with the mask; its ratio to the Dice on the real images of the same patients; found:
  share of volumes in which the segmenter covers at least 10% of the mask;
* HU: mean intensity of the nodule, synthetic minus real of the same mask;
* MMD2 and AUC of the features (20 training images serve as the other real images that the classifier needs).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from SynthDiffusionLib.evaluation.adherence import package_segmenter
from SynthDiffusionLib.evaluation.cases import EvaluationData
from SynthDiffusionLib.evaluation.fidelity import measure_fidelity
from SynthDiffusionLib.evaluation.rows import Item, real_items
from SynthDiffusionLib.evaluation.samples import Settings, load_samples, make_samples
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.training.dataset import load_split


def dice(segment, item: Item, value: int) -> float:
    mask, found = item.classes == value, segment(item.hu)
    return float(2.0 * (mask & found).sum() / max(mask.sum() + found.sum(), 1))


def covered(segment, item: Item, value: int) -> float:
    mask = item.classes == value
    return float((mask & segment(item.hu)).sum() / mask.sum())


def interval(estimate: dict, form: str) -> str:
    value, low, high = (format(estimate[k], form) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="what `synthdiffusion prepare` wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="lung-nodule-ct")
    parser.add_argument("--guidance", default="1,1.5,2", help="values to compare")
    parser.add_argument("--arm", default="nodule", help="nodule, anatomy or inpainting")
    args = parser.parse_args()

    package = load_package(args.model)
    spec = package.spec
    values = {c.name: c.value for c in spec.label_scheme.condition_classes}
    training, validation = (load_split(args.data, part) for part in ("train", "validation"))
    data = EvaluationData(
        args.data,
        "validation",
        validation,
        training,
        training[: len(validation)],
        values,
        spec.target_class,
        spec.intensity.range,
        {},
    )
    segment, target = package_segmenter(package), values[spec.target_class]
    real = [dice(segment, item, target) for item in real_items(validation, spec.intensity.range)]
    print(f"{len(validation)} validation patients; Dice on their real images {np.mean(real):.3f}")
    print("guidance   Dice  ratio  found    HU, interval      MMD2   AUC, interval")
    for guidance in (float(g) for g in args.guidance.split(",")):
        folder = args.out / f"{args.arm}_guidance_{guidance:g}"
        make_samples(package, data, folder, Settings((args.arm,), guidance=guidance))
        rows, _ = load_samples(folder, package, data)
        row = rows[args.arm]
        scores = np.array([dice(segment, item, target) for item in row.items])
        found = np.mean([covered(segment, item, target) >= 0.1 for item in row.items])
        realism = measure_fidelity(data, {args.arm: row}, spec.inpaint.margin_mm, auc_steps=0)["rows"][-1]
        hu = realism["classes"][spec.target_class]["difference"]
        mmd2, auc = realism["mmd2"]["value"], realism["auc"]["features"]
        ratio = scores.mean() / np.mean(real)
        print(
            f"{guidance:8g}  {scores.mean():.3f}   {ratio:.2f}   {found:4.0%}  {interval(hu, '+4.0f')}  {mmd2:.3f}  "
            f"{interval(auc, '.2f')}",
            flush=True,
        )


if __name__ == "__main__":
    main()
