"""How often do the tests of `evaluate fidelity` find something, and how often where nothing is?

    python Testing/Benchmarks/fidelity_tests.py --real train test --synthetic-size 20 --out runs/fidelity-tests

The patients of real folders (one volume each) are dealt at random to a real set and a set that is tested as if it were
synthetic. Unchanged, every finding is false. Then half of the volumes are blurred, or the set is made of near copies of
patients of the real set, a few again and again or one of each (their radiomics with noise of 2 % of a standard
deviation; other patients each time).
Features are kept in the output folder.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

COPIED = (3, 4, 6, 20)
COPY_NOISE_SD = 0.02


def verdicts(
    real: Sequence[Sequence[np.ndarray]], made: Sequence[Sequence[np.ndarray]], kinds, k: int, seed: int, slow: bool
) -> dict[str, float]:
    """What the tests say of two sets of different patients: 1 for a finding at 5 %.

    Args:
        real: by part of each kind of features, (rows, D) of each volume; made: the same.
        kinds: tuples of part names, the first that of whole volumes.
        slow: also the classifier's test and slices, which take most of the time.
    """
    from SynthDiffusionLib.evaluation.discriminant import discriminate_by_features
    from SynthDiffusionLib.evaluation.sets import comparison, distances, exchange
    from SynthDiffusionLib.evaluation.sets.extraction import SetFeatures

    names = [[f"{s}{i}" for i in range(len(own[0]))] for s, own in (("a", real), ("b", made))]
    first, spaces, found = 0, [], {}
    for parts in kinds if slow else kinds[:1]:
        sides = [
            SetFeatures(s, tuple(n), {p: tuple(own[first + i]) for i, p in enumerate(parts)})
            for s, n, own in zip("ab", names, (real, made))
        ]
        first += len(parts)
        view = comparison.view_of(sides[0], seed)
        drawn = [comparison.dealt_kernel(view, sides[1], part, distances.energy_kernel) for part in parts]
        mean = {key: np.mean([d[key] for d in drawn], axis=0) for key in drawn[0]}
        spaces.append(exchange.result(float(mean["tested"][0]), mean["dealt"], [len(n) for n in names]))
        if len(parts) == 1:
            clouds = comparison.compare_clouds(view, sides[1], k, floor=False)
            for title, keys in (("plausible", comparison.PLAUSIBLE), ("varied", comparison.VARIED)):
                found[title] = float(min(clouds[key]["test"]["p_holm"] for key in keys) < exchange.LEVEL)
            (x, of_x), (y, of_y) = (side.rows(parts[0]) for side in sides)
            standard = view.standard[parts[0]]
            told = discriminate_by_features(standard(x), of_x, standard(y), of_y, seed=seed).auc
            found["auc interval"] = float(not told.low <= 0.5 <= told.high)
            if slow:
                found["auc"] = float(
                    comparison.compare_by_classifier(view, sides[1], floor=True)["test"]["p"] < exchange.LEVEL
                )
    found["energy, volumes alone"] = float(spaces[0]["p"] < exchange.LEVEL)
    found["energy smaller than deals, volumes alone"] = float(spaces[0]["p_low"] < exchange.LEVEL / 2)
    if slow:
        comparison.correct(*spaces)
        found["energy, volumes and slices"] = float(min(s["p_holm"] for s in spaces) < exchange.LEVEL)
    return found


def main() -> None:
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.evaluation.sets import comparison, exchange, extraction, no_skill_sets
    from SynthDiffusionLib.evaluation.sets.fidelity import sources_of
    from SynthDiffusionLib.evaluation.sets.image_set import Frame, read_set
    from SynthDiffusionLib.evaluation.sets.resampling import weighted_share

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, nargs="+", required=True, help="folders of CT volumes, one a patient")
    parser.add_argument("--synthetic-size", type=int, default=20, help="volumes of the tested set (default 20)")
    parser.add_argument("--real-size", type=int, help="volumes of the real set (default: all that are left)")
    parser.add_argument("--draws", type=int, default=300, help="of unchanged volumes (default 300)")
    parser.add_argument("--planted", type=int, default=50, help="draws of each planted fault (default 50)")
    parser.add_argument("--slow", type=int, default=40, help="draws with the classifier's test and slices, at most")
    parser.add_argument("--out", type=Path, required=True, help="folder for the table and for features")
    args = parser.parse_args()
    comparison.AUC_SPLITS, exchange.DEALS, exchange.AUC_DEALS, exchange.CLOUD_DEALS = 1, 999, 99, 199
    frame = Frame("CT", None, (-1000.0, 1000.0))
    sources = [s for folder in args.real for s in sources_of(read_set("real", folder, frame))]
    blurred = [
        extraction.Source(s.patient, f"blurred {s.key}", lambda s=s: no_skill_sets.blurred(s.image())) for s in sources
    ]
    extractors = (extraction.volume_radiomics(frame.intensity_range), extraction.slice_radiomics(frame.intensity_range))
    line = ProgressLine()
    real, blur = (
        [extraction.extract(name, own, e, frame, args.out / "cache", line) for e in extractors]
        for name, own in (("real", sources), ("blurred", blurred))
    )
    kinds = [e.parts for e in extractors]
    plain, smooth = ([f.parts[p] for f, ps in zip(own, kinds) for p in ps] for own in (real, blur))
    spread = [np.concatenate(part).std(0) for part in plain]
    size, total = args.synthetic_size, len(sources)
    own = total - size if args.real_size is None else args.real_size
    if min(own, size) < exchange.FEWEST_PATIENTS or own + size > total:
        parser.error(f"{own} real and {size} other volumes cannot be dealt from {total}")
    k = comparison.neighbours(range(own), range(size))
    cases = {"unchanged": args.draws, "half of the set blurred by 1 voxel": args.planted}
    cases |= {f"{size} near copies of {c} patients of the real set": args.planted for c in COPIED}
    rows = []
    for number, (case, draws) in enumerate(cases.items()):
        told: dict[str, list[float]] = {}
        for draw in range(draws):
            line({"event": "progress", "stage": case, "step": draw, "total": draws})
            rng = np.random.default_rng([2026, number, draw])
            order = rng.permutation(total)
            ours, others = order[:own], order[total - size :]
            copied = ours[np.arange(size) % COPIED[number - 2]]
            made = []
            for part, soft, sd in zip(plain, smooth, spread):
                if number < 2:
                    half = size // 2 if number == 1 else 0
                    made.append([soft[i] if n < half else part[i] for n, i in enumerate(others)])
                else:
                    made.append([part[i] + COPY_NOISE_SD * sd * rng.standard_normal(part[i].shape) for i in copied])
            kept = [[part[i] for i in ours] for part in plain]
            for key, value in verdicts(kept, made, kinds, k, draw, draw < args.slow).items():
                told.setdefault(key, []).append(value)
        for key, values in told.items():
            share = weighted_share(np.array(values), range(len(values)))
            rows.append({"set": case, "finding": key, "draws": len(values), "share": share.value, "low": share.low,
                         "high": share.high})  # fmt: skip
            print(", ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in rows[-1].values()), flush=True)
    with (args.out / "fidelity-tests.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
