"""What classifier-free guidance does for the adherence to the mask, and what it costs in realism.

    python Testing/Benchmarks/guidance_table.py --data runs/lidc-prepared --out runs/guidance --arm nodule
    python Testing/Benchmarks/guidance_table.py --data runs/hippocampus-prepared --out runs/guidance-mr \
        --model hippocampus-mr --arm anatomy --guidance 1,1.5,3,5 --seeds 3

A setting is chosen here, so the masks are those of the validation patients, and the figures are no measure of the
model's quality: `synthdiffusion evaluate` gives that, on test patients. Definitions are those of Docs/EVALUATION.md:

* Dice of the model's segmenter with the mask; its ratio to the Dice on the real images of the same patients; found:
  share of volumes in which the segmenter covers at least 10% of the mask;
* mean: mean intensity of the target, synthetic minus real of the same mask, in the unit of the images;
* MMD2 and AUC of the features (20 training images serve as the other real images that the classifier needs);
* differ, with --seeds from 2 on: mean absolute difference of the samples of one mask, all voxels and pairs. A guidance
  that makes the model follow its mask may make all samples alike. Beside it, what real images of different patients
  differ by, cut to one size round their targets.

A model of several targets has a Dice, ratio and share found for each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from SynthDiffusionLib.evaluation.adherence import package_segmenters
from SynthDiffusionLib.evaluation.arms import ANATOMY
from SynthDiffusionLib.evaluation.cases import EvaluationData, targets_of
from SynthDiffusionLib.evaluation.diversity import diversity, real_to_real
from SynthDiffusionLib.evaluation.fidelity import measure_fidelity
from SynthDiffusionLib.evaluation.rows import Item, Row, real_items
from SynthDiffusionLib.evaluation.samples import Settings, load_samples, make_samples
from SynthDiffusionLib.models import ModelPackage, load_package
from SynthDiffusionLib.training.dataset import load_split, read_description


def dice(segment, item: Item, value: int) -> float:
    mask, found = item.classes == value, segment(item.hu)
    return float(2.0 * (mask & found).sum() / max(mask.sum() + found.sum(), 1))


def covered(segment, item: Item, value: int) -> float:
    mask = item.classes == value
    return float((mask & segment(item.hu)).sum() / mask.sum())


def interval(estimate: dict, form: str) -> str:
    value, low, high = (format(estimate[k], form) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def validation_data(package: ModelPackage, folder: Path, cases: int | None = None) -> EvaluationData:
    """The validation patients, for settings that are chosen; training images serve as the other real ones.

    Args:
        package: whose classes and targets count.
        folder: what `synthdiffusion prepare` wrote.
        cases: only so many, at even steps.
    """
    spec = package.spec
    training, validation = (load_split(folder, part) for part in ("train", "validation"))
    if cases:
        picked = np.unique(np.linspace(0, len(validation) - 1, cases).round().astype(int))
        validation = [validation[n] for n in picked]
    description = read_description(folder)
    first = spec.target_class or description["target"]
    return EvaluationData(
        folder,
        "validation",
        validation,
        training,
        training[: len(validation)],
        {c.name: c.value for c in spec.label_scheme.condition_classes},
        first,
        spec.intensity.range,
        {},
        description["unit"],
        targets_of(spec, first),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="what `synthdiffusion prepare` wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="lung-nodule-ct")
    parser.add_argument("--guidance", default="1,1.5,2", help="values to compare")
    parser.add_argument("--arm", help="target class (default), anatomy or inpainting")
    parser.add_argument("--seeds", type=int, default=1, help="samples per mask")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cases", type=int, help="only so many validation cases, at even steps")
    args = parser.parse_args(arguments)

    package = load_package(args.model)
    spec = package.spec
    values = {c.name: c.value for c in spec.label_scheme.condition_classes}
    data = validation_data(package, args.data, args.cases)
    first = data.target
    arm = args.arm or first
    targets = data.all_targets if arm == ANATOMY else (first,)
    segments, margin = package_segmenters(package, targets), spec.inpaint.margin_mm if spec.inpaint else None
    real = real_items(data.evaluated, spec.intensity.range)
    scores_real = {
        name: np.mean([dice(s, i, values[name]) for i in having(real, values[name])]) for name, s in segments.items()
    }
    apart = real_to_real(Row("real", "", "real", real), values[first], data.crop)
    said = ", ".join(f"{score:.3f} ({name})" for name, score in scores_real.items())
    print(f"{len(data.evaluated)} validation cases; Dice on their real images {said}; they differ by {apart:.0f}")
    print("guidance   Dice  ratio  found    mean, interval    MMD2   AUC, interval      differ, interval")
    for guidance in (float(g) for g in args.guidance.split(",")):
        folder = args.out / f"{arm}_guidance_{guidance:g}".replace(" ", "_")
        settings = Settings((arm,), seeds=args.seeds, steps=args.steps, guidance=guidance)
        make_samples(package, data, folder, settings)
        row = load_samples(folder, package, data)[0][arm]
        realism = measure_fidelity(data, {arm: row}, margin, auc_steps=0)["rows"][-1]
        mmd2, auc = realism["mmd2"]["value"], realism["auc"]["features"]
        spread = vars(diversity(row)) if args.seeds > 1 else None
        for name, segment in segments.items():
            items = having(row.items, values[name])
            scores = np.array([dice(segment, item, values[name]) for item in items])
            found = np.mean([covered(segment, item, values[name]) >= 0.1 for item in items])
            mean = realism["classes"][name]["difference"]
            print(
                f"{guidance:8g}  {scores.mean():.3f}   {scores.mean() / scores_real[name]:.2f}   {found:4.0%}  "
                f"{interval(mean, '+4.0f')}  {mmd2:.3f}  {interval(auc, '.2f')}"
                + (f"  {interval(spread, '.0f')}" if spread else "")
                + (f"  {name}" if len(segments) > 1 else ""),
                flush=True,
            )


def having(items: Sequence[Item], value: int) -> list[Item]:
    """Those whose class map has the class."""
    return [item for item in items if (item.classes == value).any()]


if __name__ == "__main__":
    main()
