"""Whether a shipped model's samples are copies of its training cases, for its card: one command.

    python Testing/Benchmarks/memorisation_cards.py --model hippocampus-mr --data PREPARED --samples SAMPLES --out OUT

takes what `synthdiffusion evaluate samples` wrote (or any folder of volumes, named by their cases), sets the training,
validation and test images of the prepared data set beside it, split as the model's package says, runs
`synthdiffusion evaluate memorisation` on the folders, and writes `memorisation_embedding.json` into OUT. When
OUT holds the other results of the model, `synthdiffusion evaluate card --measured` takes it into the card.
`--into-package` puts the same section into the MODEL_CARD.md that the package has, and the figures into its model.json,
and renews the checksums.

The volumes of one arm are measured: "anatomy", or "joint", or the first one of whole volumes that there is. Inpainted
volumes are mostly the test patient and are not measured here.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import BadInput, SynthDiffusionError
from SynthDiffusionLib.evaluation import memorisation_card, report, samples
from SynthDiffusionLib.evaluation.arms import ANATOMY, INPAINTING, JOINT, MOVED
from SynthDiffusionLib.evaluation.cases import load_evaluation_data
from SynthDiffusionLib.evaluation.sets.image_set import base_name
from SynthDiffusionLib.evaluation.sets.results import read_result
from SynthDiffusionLib.evaluation.sets.thresholds import fewest
from SynthDiffusionLib.models import ModelPackage, load_package
from SynthDiffusionLib.training.dataset import read_description
from SynthDiffusionLib.training.prepare import READABLE_SUFFIXES, case_name

PARTS = {"training": "train", "validation": "validation", "real": "test"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="ID or folder of a model")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set that it was trained on")
    parser.add_argument("--samples", type=Path, required=True, help="of evaluate samples, or a folder of volumes")
    parser.add_argument("--arm", help="of the samples (default: anatomy, or joint, or the first of whole volumes)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--embedding-steps", type=int, help="default: the measure's")
    parser.add_argument("--into-package", action="store_true", help="also into card and model.json of the package")
    args = parser.parse_args(arguments)
    try:
        result = measure(args)
    except SynthDiffusionError as error:
        parser.exit(2, f"{error.one_line()}\n")
    if args.into_package:
        put_into_package(load_package(args.model), result)
    print(*report.verdict_lines(result), "", *report.console(*report.table(result)), sep="\n")
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the measure and writes `memorisation_embedding.json`."""
    package = load_package(args.model)
    description = read_description(args.data)
    data = load_evaluation_data(args.data, package.spec)
    work = args.out / "memorisation-folders"
    counts = stage_real(package, args.data, description, work)
    arm, described = stage_synthetic(args, package, data, description, work / "synthetic")
    reference = "held-out" if counts["validation"] < fewest() else "validation"
    low, high = package.spec.intensity.range
    words = ["evaluate", "memorisation", *(w for r in (*PARTS, "synthetic") for w in (f"--{r}", str(work / r)))]
    words += ["--patients", str(work / "patients.csv"), "--modality", package.spec.modality, "--no-normalise"]
    words += [f"--range={low:g},{high:g}", "--reference", reference, "--no-pictures", "--pairs", "0"]
    words += ["--embedding-steps", str(args.embedding_steps)] if args.embedding_steps else []
    if cli.main([*words, "--out", str(args.out / "memorisation-sets")]) != 0:
        raise BadInput("The measure did not run", "See above.")
    whole = read_result(args.out / "memorisation-sets" / "memorisation.json")
    command = f"python Testing/Benchmarks/memorisation_cards.py --model {package.id} --data PREPARED --samples SAMPLES"
    command += f" --arm {arm}" if args.arm else ""
    command += f" --embedding-steps {args.embedding_steps}" if args.embedding_steps else ""
    result = memorisation_card.card_result(
        whole, package, data=data.summary(), samples=described, command=f"{command} --out RESULTS"
    )
    report.write_result(result, args.out)
    return result


def stage_real(package: ModelPackage, data: Path, description: Mapping[str, Any], work: Path) -> dict[str, int]:
    """Copies the images of the model's own split into folders, with a table of patients.

    Returns:
        patients of each folder.

    Raises:
        BadInput: the data set lacks a case of the model's split, or splits it otherwise.
    """
    shutil.rmtree(work, ignore_errors=True)
    counts = {}
    rows = []
    for role, part in PARTS.items():
        names = description["split"][part]
        own = package.spec.training.split.get(part, ())
        known = {description["cases"][n]["patient"] for n in own if n in description["cases"]} | set(own)
        strange = [n for n in names if n not in own and description["cases"][n]["patient"] not in known]
        if strange:
            raise BadInput(
                f"'{strange[0]}' is in the part '{part}' of the data set, but not of the model '{package.id}'",
                "Prepare the data set as the model's was, with the same seed of the split.",
            )
        (work / role).mkdir(parents=True)
        for name in names:
            shutil.copyfile(data / "images" / f"{name}.nii.gz", work / role / f"{name}.nii.gz")
            rows.append((name, description["cases"][name]["patient"]))
        counts[role] = len({description["cases"][n]["patient"] for n in names})
    with (work / "patients.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("case", "patient"), *rows])
    return counts


def stage_synthetic(
    args: argparse.Namespace, package: ModelPackage, data: Any, description: Mapping[str, Any], folder: Path
) -> tuple[str | None, dict[str, Any] | None]:
    """Copies the samples of one arm.

    Returns:
        the arm, and what the results say of the samples; None twice for a folder that is none of `evaluate samples`.

    Raises:
        BadInput: no such arm, or a volume whose case the data set does not have.
    """
    folder.mkdir(parents=True)
    if not (args.samples / samples.INDEX).is_file():
        for path in sorted(args.samples.iterdir()):
            if path.name.lower().endswith(READABLE_SUFFIXES):
                if base_name(case_name(path.name)) not in description["cases"]:
                    raise BadInput(
                        f"'{path.name}' is not named by a case of the data set",
                        "Give samples of evaluate samples, or volumes named CASE_MODEL_seedN.nii.gz.",
                    )
                shutil.copyfile(path, folder / path.name)
        return None, None
    rows, index = samples.load_samples(args.samples, package, data)
    whole = [a for a in (ANATOMY, JOINT, *rows) if a in rows and a not in (INPAINTING, MOVED)]
    arm = args.arm or next(iter(whole), None)
    if arm not in whole:
        raise BadInput(f"The samples have no arm '{arm}' of whole volumes", f"Choose from: {', '.join(whole)}.")
    for entry in (e for e in index["samples"] if e["arm"] == arm):
        source = args.samples / entry["file"]
        ending = next(s for s in READABLE_SUFFIXES if source.name.lower().endswith(s))
        shutil.copyfile(source, folder / f"{entry['case']}_{package.id}_seed{entry['seed']}{ending}")
    settings = index["settings"]
    command = f"synthdiffusion evaluate samples --model {package.id} --data PREPARED --out SAMPLES"
    command += f" --seeds {settings['seeds']} --steps {settings['steps']}"
    return arm, samples.describe(index, tuple(rows), command)


def put_into_package(package: ModelPackage, result: Mapping[str, Any]) -> None:
    """Card and figures of a package, with its checksums renewed; everything else stays."""
    from SynthDiffusionLib.training.pack import update_package

    content = json.loads((package.folder / "model.json").read_text(encoding="utf-8"))
    card = (package.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    quality = content["measured"]["quality"] | {memorisation_card.KIND: memorisation_card.quality(result)}
    figures = [package.folder / f["path"] for f in content["files"] if f["role"] == "figure"]
    text = memorisation_card.with_section(card, result)
    update_package(package.folder, quality, content["measured"]["performance"], text, figures)


if __name__ == "__main__":
    raise SystemExit(main())
