"""Quality against the number of steps, for every sampler that a model allows.

    python Testing/Benchmarks/steps_table.py --model hippocampus-mr --arm anatomy --data runs/hippocampus-prepared \
        --out runs/steps/hippocampus-mr
    python Testing/Benchmarks/steps_table.py --plot runs/steps/*/steps.json --picture Docs/Images/steps.png

Settings are chosen here, so the masks are those of the validation patients, and the figures are no measure of the
model's quality. Goes on where it was stopped; steps.json grows by a row at a time. Definitions:

* evaluations: of the network, for a volume; twice the steps where guidance is not 1;
* ratio: Dice of the model's segmenter with the target's mask, divided by that on the real images of the same patients;
  the interval is a bootstrap over patients (percentiles of 2,000);
* MMD2: of features, to real images (Docs/EVALUATION.md). *Level* is what disjoint sets of so many real training images
  have (97.5 % quantile): nothing below it can be told from real ones by it;
* away: mean absolute difference to the volume of the same noise from the most steps, divided by what two volumes of
  one mask from different noise differ by. 0: the same volume, 1: another one. A sampler that adds noise at every step
  (ddpm) ends elsewhere by design, and has none.

The row "other noise" is the most steps once more, from other seeds: differences smaller than between it and the row
above are chance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from guidance_table import dice, having, validation_data

from SynthDiffusionLib.evaluation.adherence import package_segmenters
from SynthDiffusionLib.evaluation.fidelity import measure_fidelity
from SynthDiffusionLib.evaluation.rows import Row, real_items
from SynthDiffusionLib.evaluation.samples import Settings, load_samples, make_samples
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.volumes.atomic import atomic_file

STEPS = (5, 10, 20, 50)
REFERENCE = "dpmpp-2m"
DRAWS = 2000
OTHER_SEED = 500_000


def bootstrap(ours: np.ndarray, real: np.ndarray) -> list[float]:
    """Ratio of means with its 95 % interval, cases drawn together."""
    drawn = np.random.default_rng(0).integers(0, len(ours), (DRAWS, len(ours)))
    low, high = np.quantile(ours[drawn].mean(1) / real[drawn].mean(1), (0.025, 0.975))
    return [float(ours.mean() / real.mean()), float(low), float(high)]


def apart(first: Row, second: Row) -> float:
    """Mean absolute difference of the voxels of volumes of one case."""
    pairs = zip(first.items, second.items, strict=True)
    return float(np.mean([np.abs(a.hu - b.hu).mean() for a, b in pairs]))


def measure(args: argparse.Namespace) -> None:
    package = load_package(args.model)
    spec = package.spec
    values = {c.name: c.value for c in spec.label_scheme.condition_classes}
    data = validation_data(package, args.data, args.cases)
    arm = args.arm or data.target
    segment = package_segmenters(package, (data.target,))[data.target]
    real = having(real_items(data.evaluated, spec.intensity.range), values[data.target])
    scores = {item.case: dice(segment, item, values[data.target]) for item in real}
    guidance = spec.sampling.default_guidance
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "steps.json"
    result: dict[str, Any] = {"rows": []} if not path.is_file() else json.loads(path.read_text(encoding="utf-8"))
    result |= {"model": args.model, "arm": arm, "cases": len(data.evaluated), "default": spec.sampling.default_steps}
    result |= {"guidance": guidance, "real_dice": float(np.mean(list(scores.values())))}

    def made(sampler: str, steps: int, other: bool = False) -> Row:
        name = f"{sampler}_{steps}" + ("_other" if other else "")
        settings = Settings((arm,), steps=steps, sampler=sampler, first_seed=OTHER_SEED if other else 1000)
        make_samples(package, data, args.out / name, settings)
        return load_samples(args.out / name, package, data)[0][arm]

    most = made(REFERENCE, args.most)
    noise = apart(most, made(REFERENCE, args.most, True))
    wanted = [(REFERENCE, args.most, False), (REFERENCE, args.most, True)]
    samplers = sorted(spec.sampling.samplers, key=lambda s: s != REFERENCE)
    wanted += [(sampler, steps, False) for steps in args.steps for sampler in samplers]
    for sampler, steps, other in wanted:
        if any((r["sampler"], r["steps"], r["other_noise"]) == (sampler, steps, other) for r in result["rows"]):
            continue
        row = made(sampler, steps, other)
        found = measure_fidelity(data, {arm: row}, spec.inpaint.margin_mm if spec.inpaint else None, auc_steps=0)
        mmd2 = found["rows"][-1]["mmd2"]
        level = next(v for k, v in found["settings"].items() if k.startswith("split_halves_"))["mmd2"][2]
        items = having(row.items, values[data.target])
        ours = np.array([dice(segment, item, values[data.target]) for item in items])
        against = np.array([scores[item.case] for item in items])
        result["rows"].append(
            {
                "sampler": sampler,
                "steps": steps,
                "other_noise": other,
                "evaluations": steps * (2 if guidance != 1 else 1),
                "ratio": bootstrap(ours, against),
                "mmd2": [mmd2["value"], mmd2["low"], mmd2["high"]],
                "level": level,
                "away": None if sampler == "ddpm" or other else apart(row, most) / noise,
            }
        )
        with atomic_file(path) as file:
            file.write(f"{json.dumps(result, indent=1)}\n".encode())
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The rows in Markdown, by sampler and steps."""
    lines = [
        "| sampler | steps | evaluations | ratio | MMD² | away |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(result["rows"], key=lambda r: (r["sampler"], r["steps"], r["other_noise"])):
        name = row["sampler"] + (", other noise" if row["other_noise"] else "")
        away = "" if row["away"] is None else f"{row['away']:.2f}"
        ratio, mmd2 = ("{:.2f} [{:.2f}, {:.2f}]".format(*row[key]) for key in ("ratio", "mmd2"))
        lines.append(f"| `{name}` | {row['steps']} | {row['evaluations']} | {ratio} | {mmd2} | {away} |")
    head = f"{result['model']}, {result['arm']}, {result['cases']} validation cases, guidance {result['guidance']:g}; "
    level = result["rows"][0]["level"]
    return f"{head}Dice on real images {result['real_dice']:.2f}, level of MMD² {level:.2f}\n\n" + "\n".join(lines)


def plot(files: list[Path], picture: Path) -> None:
    """Adherence and distance against evaluations, a column for each model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(files), figsize=(3.4 * len(files), 5.4), sharex="col", squeeze=False)
    for column, path in enumerate(files):
        result = json.loads(path.read_text(encoding="utf-8"))
        for sampler, style in zip(("dpmpp-2m", "unipc", "ddim", "ddpm"), ("o-", "s--", "^-.", "v:")):
            rows = [r for r in result["rows"] if r["sampler"] == sampler and not r["other_noise"]]
            rows.sort(key=lambda r: r["evaluations"])
            for axis, key in zip(axes[:, column], ("ratio", "mmd2")):
                line = [r[key][0] for r in rows]
                axis.plot([r["evaluations"] for r in rows], line, style, markersize=4, linewidth=1.2, label=sampler)
        other = next(r for r in result["rows"] if r["other_noise"])
        for axis, key in zip(axes[:, column], ("ratio", "mmd2")):
            axis.plot(other["evaluations"], other[key][0], "x", color="black", label="other noise")
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
        axes[1, column].axhline(other["level"], color="grey", linewidth=1, linestyle="--", label="two sets of real")
        axes[0, column].axhline(1.0, color="grey", linewidth=1, linestyle="--")
        axes[0, column].set_title(f"{result['model']}\n{result['cases']} validation cases", fontsize=9)
        axes[1, column].set_xlabel("network evaluations")
    axes[0, 0].set_ylabel("adherence")
    axes[1, 0].set_ylabel("MMD² (less is better)")
    axes[1, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(picture, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data", type=Path, help="what `synthdiffusion prepare` wrote")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arm", help="target class (default), anatomy or joint")
    parser.add_argument("--cases", type=int, help="only so many validation cases, at even steps")
    parser.add_argument("--steps", type=lambda text: [int(n) for n in text.split(",")], default=list(STEPS))
    parser.add_argument("--most", type=int, default=100, help="steps of the reference")
    parser.add_argument("--plot", type=Path, nargs="+", metavar="JSON", help="draw and print what is there")
    parser.add_argument("--picture", type=Path, default=Path("steps.png"))
    args = parser.parse_args()
    if args.plot:
        plot(args.plot, args.picture)
        for path in args.plot:
            print(table(json.loads(path.read_text(encoding="utf-8"))), end="\n\n")
    elif args.model and args.data and args.out:
        measure(args)
    else:
        parser.error("give --model, --data and --out, or --plot")


if __name__ == "__main__":
    main()
