"""Samples, cost and measures of the comparison of methods; see `compare_methods`.

Every method makes one volume for each test patient, through `jobs.run` as everybody's are. Those that take a drawing
are given the patient's whole class map; the slice-based method, which takes none, is given the nine characteristics of
the patient's nodule, and makes a mask of its own, which it is then measured with. One segmenter measures all of them,
that of the shipped model `lung-nodule-ct`, which was trained on the same training patients.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from compare_methods import Method

    from SynthDiffusionLib.evaluation.cases import EvaluationData
    from SynthDiffusionLib.evaluation.rows import Row
    from SynthDiffusionLib.models import ModelPackage, ModelSpec

SEGMENTER_OF = "lung-nodule-ct"
OTHERS = "_others_masks"  # ends the name of a row whose volumes are scored with other patients' masks
PAINTED = "class_means_blurred"
PAINTED_LABEL = "class means, blurred"
PAINTED_SIGMA = 1.0  # voxels
REPEATS = 3
MORE_VOLUMES = 3  # of the process that says what a further volume takes
FIRST_SEED = 1000
SCRAMBLED = 24  # voxels of a side of the cubes of scrambled images
SCRAMBLED_LABEL = f"training images in cubes of {SCRAMBLED} voxels, shuffled"


def package_of(method: Method, out: Path) -> ModelPackage | None:
    """The package that a method's training wrote, or None."""
    from SynthDiffusionLib import models

    folder = method.package(out)
    return models.load_package(str(folder)) if (folder / "model.json").is_file() else None


def arm_of(spec: ModelSpec) -> str:
    """What a method is given: the whole class map, or characteristics where it takes no drawing."""
    from SynthDiffusionLib.evaluation.arms import ANATOMY, JOINT

    return ANATOMY if "whole" in spec.modes else JOINT


def settings_of(package: ModelPackage, args: argparse.Namespace):
    """The package's own sampler, steps and guidance."""
    from SynthDiffusionLib.evaluation.samples import Settings

    return Settings(
        arms=(arm_of(package.spec),),
        steps=package.spec.sampling.default_steps,
        first_seed=FIRST_SEED,
        device=args.device,
    )


def make_all_samples(args: argparse.Namespace, methods: Sequence[Method]) -> None:
    """One volume for each test patient and method, in `OUT/samples/NAME`; goes on where it was interrupted."""
    import torch

    from SynthDiffusionLib.evaluation.cases import load_evaluation_data
    from SynthDiffusionLib.evaluation.samples import make_samples

    torch.set_num_threads(args.threads)
    for method in methods:
        package = package_of(method, args.out)
        if package is None:
            print(f"{method.name}: not trained yet", file=sys.stderr, flush=True)
            continue
        print(f"{time.strftime('%H:%M:%S')} {method.name}: samples", flush=True)
        data = load_evaluation_data(args.data, package.spec)
        make_samples(package, data, args.out / "samples" / method.name, settings_of(package, args))


def measure_cost(args: argparse.Namespace, methods: Sequence[Method]) -> None:
    """Seconds and peak memory of one volume and of a further one; parameters and bytes. Writes `cost.json`."""
    from compare_methods import machine, read_json, write_json

    from SynthDiffusionLib.evaluation.cases import load_evaluation_data

    path = args.out / "cost.json"
    record = read_json(path) or {"clock": args.clock, "machine": machine(args.device, args.threads), "methods": {}}
    for method in methods:
        package = package_of(method, args.out)
        if package is None or method.name in record["methods"]:
            continue
        print(f"{time.strftime('%H:%M:%S')} {method.name}: cost", flush=True)
        data = load_evaluation_data(args.data, package.spec)
        runs = [one_process(package, data, args, 1) for _ in range(REPEATS)]
        more = one_process(package, data, args, 1 + MORE_VOLUMES)
        first = float(np.median([r["seconds"] for r in runs]))
        record["methods"][method.name] = {
            "seconds": first,
            "seconds_further": max(0.0, (more["seconds"] - first) / MORE_VOLUMES),
            "peak_bytes": int(np.median([r["peak_bytes"] for r in runs])),
            "peak_gpu_bytes": max((r["peak_gpu_bytes"] for r in runs), default=0) or None,
            "steps": package.spec.sampling.default_steps,
            "sampler": package.spec.sampling.default_sampler,
            "parameters": parameters_of(package),
            "package_bytes": package.spec.total_bytes,
            "runs": [*runs, more],
        }
        write_json(path, record)


def parameters_of(package: ModelPackage) -> dict[str, int]:
    """Numbers in each network of a package, its segmenter left out."""
    roles = [f.role for f in package.spec.files if f.path.endswith(".safetensors") and f.role != "segmenter"]
    return {role: sum(t.numel() for t in package.load_tensors(role).values()) for role in roles}


def one_process(
    package: ModelPackage, data: EvaluationData, args: argparse.Namespace, samples: int
) -> dict[str, float | int]:
    """The worker that Slicer starts, from its start to its end, for the first test patient.

    Returns:
        "seconds" by the clock of the comparison, "wall_s", "processor_s", "peak_bytes", "peak_gpu_bytes", "samples".

    Raises:
        RuntimeError: it failed.
    """
    import json

    from compare_methods import child_environment, children_seconds

    from SynthDiffusionLib.evaluation.performance import PeakMemory
    from SynthDiffusionLib.evaluation.samples import _request  # so that what is timed is what is measured

    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="synthdiffusion-compare-") as name:
        folder = Path(name)
        request = _request(
            arm_of(package.spec),
            data.evaluated[0],
            data,
            package,
            folder / "out",
            FIRST_SEED,
            settings_of(package, args),
        )
        replace(request, samples=samples).save(folder)
        before, began = children_seconds(), time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "SynthDiffusionLib.jobs.worker", str(folder)],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environment(args.threads),
            text=True,
        )
        watch = PeakMemory(process.pid)
        try:
            output, _ = process.communicate()
        finally:
            peak = watch.stop()
        wall, processor = time.monotonic() - began, children_seconds() - before
    if process.returncode != 0:
        raise RuntimeError(f"The worker of {package.id} ended with code {process.returncode}: {output[-2000:]}")
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {
        "seconds": round(processor if args.clock == "processor" else wall, 2),
        "wall_s": round(wall, 2),
        "processor_s": round(processor, 2),
        "peak_bytes": int(peak),
        "peak_gpu_bytes": max((int(e.get("vram_bytes", 0)) for e in events), default=0),
        "samples": samples,
    }


def check_same_patients(description: Mapping[str, Any], split: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """That a segmenter was trained on the same training patients as the methods, and has seen no test patient.

    Args:
        description: `dataset.json`.
        split: of the segmenter's package, part to cases or patients.

    Returns:
        number of patients by part.

    Raises:
        ValueError: its parts hold other patients.
    """
    patient = {name: case["patient"] for name, case in description["cases"].items()}
    found = {}
    for part in ("train", "validation", "test"):
        ours = {patient[name] for name in description["split"][part]}
        theirs = {patient.get(name, name) for name in split[part]}
        if ours != theirs:
            raise ValueError(
                f"The segmenter's part '{part}' differs from the data set's by the patients {sorted(ours ^ theirs)[:5]}"
            )
        found[part] = len(ours)
    return found


def with_others_masks(row: Row) -> Row:
    """A row's volumes, each with the mask of the next one: what following nothing would score."""
    following = [*row.items[1:], *row.items[:1]]
    items = tuple(
        replace(mask, hu=item.hu, seed=item.seed) for item, mask in zip(row.items, following)
    )  # case, patient and affine go with the mask, as for the unrelated real image
    return replace(row, name=row.name + OTHERS, label=f"{row.label}, other patients' masks", items=items)


def remembering(segment: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """A segmenter that looks at each image once: rows with others' masks hold the same images again."""
    known: dict[str, np.ndarray] = {}

    def once(hu: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(np.ascontiguousarray(hu).tobytes()).hexdigest()
        if key not in known:
            known[key] = segment(hu)
        return known[key]

    return once


def scrambled_row(data: EvaluationData) -> Row:
    """Training images cut into cubes of `SCRAMBLED` voxels and put together anew, each under a test patient's mask:
    real in texture and intensities, without anatomy."""
    from SynthDiffusionLib.evaluation.arms import ANATOMY
    from SynthDiffusionLib.evaluation.rows import Row, real_items

    rng = np.random.default_rng(SCRAMBLED)
    dealt = rng.permutation(len(data.training))
    items = []
    for number, item in enumerate(real_items(data.evaluated, data.intensity_range)):
        image = np.clip(data.training[dealt[number % len(dealt)]].image.array, *data.intensity_range)
        items.append(replace(item, hu=scramble(image, SCRAMBLED, rng).astype(item.hu.dtype)))
    return Row(ANATOMY, SCRAMBLED_LABEL, "ours", tuple(items))


def scramble(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """An image (I, J, K), its sides multiples of `side`, as cubes in random order."""
    blocks = image.reshape([m for n in image.shape for m in (n // side, side)]).transpose(0, 2, 4, 1, 3, 5)
    shuffled = rng.permutation(blocks.reshape(-1, side, side, side)).reshape(blocks.shape)
    return shuffled.transpose(0, 3, 1, 4, 2, 5).reshape(image.shape)


def hold_against_scrambled(fidelity: dict[str, Any], scrambled: Mapping[str, Any]) -> None:
    """Makes the scrambled images one more no-skill row of a method's fidelity, and its verdict one that counts it."""
    ((arm, verdict),) = fidelity["verdicts"].items()
    own = next(r for r in fidelity["rows"] if r["row"] == arm)
    fidelity["rows"].append({**scrambled, "row": "scrambled", "kind": "no-skill"})
    verdict["mmd2_below_all"] &= own["mmd2"]["high"] < scrambled["mmd2"]["low"]


def gain_over_others(per_volume: Sequence[Mapping[str, Any]], name: str) -> dict[str, float | None]:
    """Mean over the patients of Dice with the own mask minus Dice with another patient's, with its interval.

    Args:
        per_volume: of `measure_adherence`.
        name: of the row.
    """
    from SynthDiffusionLib.evaluation.statistics import bootstrap_mean

    own, other = ({v["patient"]: v["dice"] for v in per_volume if v["row"] == row} for row in (name, name + OTHERS))
    patients = sorted(set(own) & set(other))
    return bootstrap_mean(np.array([own[p] - other[p] for p in patients])).to_json()


def painted_row(data: EvaluationData) -> Row:
    """The training images' class means painted on the test patients' class maps, without noise, blurred: a cartoon that
    shows every structure where it is drawn."""
    from scipy import ndimage

    from SynthDiffusionLib.evaluation import noskill
    from SynthDiffusionLib.evaluation.rows import Row, as_evaluated, real_items

    values = [0, *data.values.values()]
    means = noskill.training_statistics(data.training, values, data.target_value, data.intensity_range).mean
    items = []
    for item in real_items(data.evaluated, data.intensity_range):
        flat = np.vectorize(means.__getitem__, otypes=[float])(item.classes)
        blurred = ndimage.gaussian_filter(flat, PAINTED_SIGMA)
        items.append(replace(item, hu=as_evaluated(blurred, data.intensity_range)))
    return Row(PAINTED, PAINTED_LABEL, "no-skill", tuple(items))


def rows_without_a_model(data: EvaluationData, rows: Mapping[str, Row]) -> list[Row]:
    """Real images and all no-skill rows of the adherence table, those for the samples' own masks included."""
    from SynthDiffusionLib.evaluation.adherence import joint_rows, no_skill_rows
    from SynthDiffusionLib.evaluation.arms import JOINT
    from SynthDiffusionLib.evaluation.rows import Row, real_items

    real = Row("real", "real images", "real", real_items(data.evaluated, data.intensity_range))
    found = [real, *no_skill_rows(data, real, None), painted_row(data)]
    for row in rows.values():
        found += joint_rows(no_skill_rows(data, row, None)) if row.name == JOINT else []
    return found


def scores_with_others(
    data: EvaluationData, rows: Sequence[Row], segment: Callable[[np.ndarray], np.ndarray]
) -> list[dict[str, Any]]:
    """Dice of rows that no method made with other patients' masks, as entries of `per_volume`."""
    from SynthDiffusionLib.evaluation import noskill
    from SynthDiffusionLib.evaluation.adherence import JOINT_SUFFIX
    from SynthDiffusionLib.training.train_segmenter import dice

    values = [0, *data.values.values()]
    statistics = noskill.training_statistics(data.training, values, data.target_value, data.intensity_range)
    found = []
    for row in rows:
        for item in with_others_masks(row).items:
            name, mask = row.name.removesuffix(JOINT_SUFFIX), item.classes == data.target_value
            seen = noskill.predicted(name, item, statistics) if name in noskill.PREDICTIONS else segment(item.hu)
            found.append({"row": row.name + OTHERS, "case": item.case, "patient": item.patient, "seed": item.seed}
                         | {"dice": float(dice(seen, mask)) if mask.any() else 0.0})  # fmt: skip
    return found


def nearer_to_one(per_volume: Sequence[Mapping[str, Any]], name: str, other: str) -> float:
    """Share of bootstrap resamples of the patients, the same for both rows, in which the ratio of one row is nearer to
    1 than the other's.

    Args:
        per_volume: of `measure_adherence`.
        name, other: of the rows.
    """
    from SynthDiffusionLib.evaluation.statistics import patient_weights

    by_row = [{v["patient"]: v["dice"] for v in per_volume if v["row"] == row} for row in (name, other, "real")]
    patients = sorted(set.intersection(*map(set, by_row)))
    a, b, real = (np.array([found[p] for p in patients]) for found in by_row)
    w = patient_weights(len(patients))
    return float(np.mean(np.abs((w @ a) / (w @ real) - 1.0) < np.abs((w @ b) / (w @ real) - 1.0)))


def asked_and_made(items: Sequence[Any], data: EvaluationData) -> list[dict[str, Any]]:
    """For each volume of the slice-based method, the characteristics that it was asked for and those of its mask."""
    from SynthDiffusionLib.evaluation.control_statistics import pieces
    from SynthDiffusionLib.labels.characteristics import measure

    cases = {c.name: c for c in data.evaluated}
    found = []
    for number, item in enumerate(items):
        case, mask = cases[item.case], item.classes == data.target_value
        found.append(
            {
                "request": number,
                "case": item.case,
                "seed": item.seed,
                "asked": measure(case.classes.array == data.target_value, case.classes.affine),
                "measured": measure(mask, item.affine) if mask.any() else None,
                "pieces": pieces(mask),
            }
        )
    return found


def row_name(method: Method) -> str:
    """Of a method's row among the measures: the arm's, where the evaluation treats it in a way of its own."""
    from SynthDiffusionLib.evaluation.arms import JOINT

    return JOINT if method.backend == "slice_ldm" else method.name


def load_rows(args: argparse.Namespace, methods: Sequence[Method]) -> tuple[EvaluationData, dict[str, Row], Any]:
    """The data set, the rows of the methods that have samples, by method, and the segmenter's package."""
    from SynthDiffusionLib import models
    from SynthDiffusionLib.evaluation.cases import load_evaluation_data
    from SynthDiffusionLib.evaluation.samples import INDEX, load_samples

    shipped = models.load_package(SEGMENTER_OF)
    data = load_evaluation_data(args.data, shipped.spec)
    rows = {}
    for method in methods:
        folder, package = args.out / "samples" / method.name, package_of(method, args.out)
        if package is None or not (folder / INDEX).is_file():
            print(f"{method.name}: no samples yet", file=sys.stderr, flush=True)
            continue
        found, _ = load_samples(folder, package, load_evaluation_data(args.data, package.spec))
        rows[method.name] = replace(found[arm_of(package.spec)], name=row_name(method), label=method.title)
    return data, rows, shipped


def adherence_of(
    data: EvaluationData, rows: Mapping[str, Row], arms: Mapping[str, Row], segment: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """The measures of adherence, and what only the comparison has: gains of all rows, and the methods held against each
    other and against the cartoons that are painted on the drawing.

    Args:
        rows: of the methods, by method.
        arms: the same by name, and those with others' masks.
        segment: HU to mask; should remember, see `remembering`.
    """
    from SynthDiffusionLib.evaluation.adherence import measure_adherence

    painted = painted_row(data)
    adherence = measure_adherence(data, {**arms, painted.name: painted}, segment, None)
    adherence["per_volume"] += scores_with_others(data, rows_without_a_model(data, rows), segment)
    per_volume = adherence["per_volume"]
    measured = {v["row"] for v in per_volume}
    gains = {name: gain_over_others(per_volume, row.name) for name, row in rows.items()}
    gains |= {r["row"]: gain_over_others(per_volume, r["row"]) for r in adherence["rows"]
              if r["kind"] != "ours" and r["row"] + OTHERS in measured}  # fmt: skip
    others = {v["row"]: [] for v in per_volume if v["row"].endswith(OTHERS)}
    for v in per_volume:
        if v["row"] in others:
            others[v["row"]].append(v["dice"])
    rivals = {name: row.name for name, row in rows.items()}
    rivals |= {r["row"]: r["row"] for r in adherence["rows"] if r["kind"] == "no-skill"}
    nearer = {
        name: {other: nearer_to_one(per_volume, row.name, rival) for other, rival in rivals.items() if other != name}
        for name, row in rows.items()
    }
    return adherence | {
        "gain_over_others": gains,
        "others_dice": {name.removesuffix(OTHERS): float(np.mean(values)) for name, values in others.items()},
        "nearer_to_one": nearer,
    }


def measure_all(args: argparse.Namespace, methods: Sequence[Method]) -> None:
    """Adherence, fidelity, and asked against made. Writes `measures.json`."""
    import torch
    from compare_methods import read_json, write_json

    from SynthDiffusionLib.evaluation.adherence import package_segmenter
    from SynthDiffusionLib.evaluation.arms import ANATOMY, JOINT
    from SynthDiffusionLib.evaluation.control import summarise, training_characteristics
    from SynthDiffusionLib.evaluation.fidelity import measure_fidelity

    torch.set_num_threads(args.threads)
    data, rows, shipped = load_rows(args, methods)
    if not rows:
        return
    described = read_json(args.data / "dataset.json")
    result: dict[str, Any] = {
        "data": data.summary(),
        "segmenter": {"model": f"{shipped.id} {shipped.spec.version}"}
        | {"patients": check_same_patients(described, shipped.spec.training.split)},
        "row_of": {name: row.name for name, row in rows.items()},
        "auc_steps": args.auc_steps,
    }
    arms = {row.name: row for row in rows.values()}
    arms |= {row.name: row for row in map(with_others_masks, rows.values())}
    print(f"{time.strftime('%H:%M:%S')} adherence", flush=True)
    result["adherence"] = adherence_of(data, rows, arms, remembering(package_segmenter(shipped)))
    result["fidelity"] = {}
    for name, row in rows.items():
        print(f"{time.strftime('%H:%M:%S')} fidelity: {name}", flush=True)
        arm = JOINT if row.name == JOINT else ANATOMY
        result["fidelity"][name] = measure_fidelity(data, {arm: replace(row, name=arm)}, None, auc_steps=args.auc_steps)
    print(f"{time.strftime('%H:%M:%S')} fidelity: scrambled", flush=True)
    scrambled = measure_fidelity(data, {ANATOMY: scrambled_row(data)}, None, auc_steps=args.auc_steps)
    for fidelity in result["fidelity"].values():
        hold_against_scrambled(fidelity, next(r for r in scrambled["rows"] if r["row"] == ANATOMY))
    if any(row.name == JOINT for row in rows.values()):
        made = asked_and_made(next(row.items for row in rows.values() if row.name == JOINT), data)
        if sum(v["measured"] is not None for v in made) >= 5:
            result["control"] = summarise(made, training_characteristics(data, data.target_value))
        else:
            result["control"] = {"rows": [], "requests": len(made), "empty": sum(v["pieces"] == 0 for v in made)}
    write_json(args.out / "measures.json", result)
