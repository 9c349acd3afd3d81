"""Does `evaluate volumes` find a structure that is larger, and leave the others alone? On patients made from one CT.

    python Testing/Benchmarks/regional_changes.py --data SHARED_DATA/inputs/abdomen --out runs/regional-changes

The label map with 61 classes is deformed smoothly, another way for each patient, and scaled as a whole. Such patients
differ less and otherwise than people do: this checks the measure, and says nothing about any model. `--write` leaves
the label maps as two folders for `synthdiffusion evaluate volumes` instead.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage


def deformed(labels: np.ndarray, seed: int, strength: float = 0.06, size: float = 0.05) -> np.ndarray:
    """The label map under a smooth random deformation, scaled as a whole at random.

    Args:
        labels: (I, J, K).
        seed: of the deformation.
        strength: largest local shift, about, as a share of the volume's sides.
        size: standard deviation of the scale of the whole.
    """
    rng = np.random.default_rng([seed, 11])
    shape = np.array(labels.shape)
    grid = np.indices(labels.shape, np.float64)
    middle = (shape - 1)[:, None, None, None] / 2
    grid = middle + (grid - middle) / rng.normal(1.0, size)
    for axis in range(3):
        noise = ndimage.gaussian_filter(rng.standard_normal(labels.shape), shape / 8, mode="reflect")
        grid[axis] += strength * shape[axis] * noise / (2 * noise.std()) / 2
    return ndimage.map_coordinates(labels, grid, order=0, mode="constant").astype(labels.dtype)


def enlarged(labels: np.ndarray, value: int, factor: float) -> np.ndarray:
    """The label map with one structure grown (or shrunk) to `factor` times its voxels, into the nearest voxels that are
    background: no other structure loses any."""
    inside = labels == value
    wanted = int(round(inside.sum() * abs(factor - 1.0)))
    result = labels.copy()
    if factor >= 1:
        distance = ndimage.distance_transform_edt(~inside)
        distance[labels != 0] = np.inf
        result.flat[np.argsort(distance, axis=None, kind="stable")[:wanted]] = value
    else:
        distance = ndimage.distance_transform_edt(inside)
        distance[~inside] = np.inf
        result.flat[np.argsort(distance, axis=None, kind="stable")[:wanted]] = 0
    return result


def main() -> None:
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.evaluation.sets.image_set import Frame, read_set
    from SynthDiffusionLib.evaluation.sets.volumes import Whole, measure_sets
    from SynthDiffusionLib.volumes import Volume, write_volume

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the abdomen CT")
    parser.add_argument("--out", type=Path, required=True, help="folder for the table")
    parser.add_argument("--patients", type=int, default=20, help="of either set (default 20)")
    parser.add_argument("--every", type=int, default=2, help="take every so many voxels along each axis (default 2)")
    parser.add_argument("--permutations", type=int, default=4999, help="of every test (default 4999)")
    parser.add_argument("--write", action="store_true", help="write label maps of a liver that is 20 %% larger, too")
    args = parser.parse_args()
    with (args.data / "label_names_total.csv").open() as stream:
        names = {int(r["value"]): r["name"] for r in csv.DictReader(stream)}
    ct = args.data / "abdomen_pelvis_ct_3mm"
    args.out.mkdir(parents=True, exist_ok=True)
    links = {"images": ct / "example_ct.nii.gz", "labels": ct / "example_seg_fast_force_split.nii.gz"}
    for folder, file in links.items():
        (args.out / "one" / folder).mkdir(parents=True, exist_ok=True)
        (args.out / "one" / folder / "patient.nii.gz").write_bytes(file.read_bytes())
    frame = Frame("CT", None, (-1000.0, 1000.0))
    one = read_set(
        "real", args.out / "one" / "images", frame, labels=args.out / "one" / "labels", classes=names, least=1
    )
    case = one.cases[0]
    affine = case.affine @ np.diag([args.every] * 3 + [1])
    labels = np.ascontiguousarray(case.labels[:: args.every, :: args.every, :: args.every])
    line = ProgressLine()

    def people(role: str, first: int, value: int | None = None, factor: float = 1.0):
        cases = []
        for seed in range(first, first + args.patients):
            line({"event": "progress", "stage": f"{role} patients", "step": seed - first, "total": args.patients})
            map_ = deformed(labels, seed)
            map_ = map_ if value is None else enlarged(map_, value, factor)
            image = np.zeros(map_.shape, np.float32)
            cases.append(
                replace(case, name=f"{role}{seed}", patient=f"{role}{seed}", image=image, labels=map_, affine=affine)
            )
        return replace(one, role=role, cases=tuple(cases))

    real = people("real", 0)
    by_name = {name: value for value, name in names.items()}
    there = {int(v) for v in np.unique(labels)}
    spine = Whole("classes", tuple(v for v, n in names.items() if n.startswith("vertebrae") and v in there))
    union = ("all labelled voxels", Whole())
    runs = [(None, 1.0, union), ("liver", 1.2, union), ("liver", 1.2, ("the vertebrae", spine)), ("liver", 1.1, union)]
    runs += [("spleen", 1.2, union), ("kidney_left", 1.2, union)]
    rows = []
    for name, factor, (of, whole) in runs:
        synthetic = people("synthetic", 1000, None if name is None else by_name[name], factor)
        if args.write and (name, factor) == ("liver", 1.2):
            for whole_set in (real, synthetic):
                folder = args.out / whole_set.role
                folder.mkdir(exist_ok=True)
                for c in whole_set.cases:
                    write_volume(Volume(c.labels, c.affine, "label"), folder / f"{c.name}.nii.gz")
        found = measure_sets(real, synthetic, None, [], whole, permutations=args.permutations, seed=2026, on_event=line)
        called = [found.names[r["value"]] for r in found.rows if r.get("differs")]
        tested = sum(r.get("p") is not None for r in found.rows)
        change = "nothing" if name is None else f"{name} x {factor:g}"
        row = {"change": change, "of": of, "compared": tested, "called": len(called), "which": " ".join(called)}
        rows.append(row)
        print(f"| {change} | {of} | {tested} | {len(called)} | {row['which'][:200] or '-'} |", flush=True)
    line.close()
    with (args.out / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
