"""The model card, written from the description of the model and the JSON results: no number in it comes from anywhere
else, so that a card cannot say what was not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation import memorisation_card
from SynthDiffusionLib.evaluation.memorisation import SUSPICION
from SynthDiffusionLib.evaluation.report import (
    by_target,
    class_table,
    classifier,
    console,
    markdown,
    mask_table,
    number,
    read_result,
    table,
    unit_of,
    verdict_lines,
    with_interval,
)

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelSpec

NEEDED = ("adherence", "fidelity", "memorisation")
OPTIONAL = (memorisation_card.KIND, "performance", "coherence", "control")
NOTABLE_SD = 1.0
NOTABLE_AUC = 0.6
BRIGHT_HU = 800.0  # a range that ends above it holds vessels with contrast medium


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The results in a folder, by kind; those of `OPTIONAL` may be absent.

    Raises:
        BadInput: one is missing, or they are of different models, data or samples.
    """
    folder = Path(folder)
    results = {kind: read_result(folder / f"{kind}.json") for kind in NEEDED}
    results |= {kind: read_result(folder / f"{kind}.json") for kind in OPTIONAL if (folder / f"{kind}.json").is_file()}
    first = results["adherence"]
    for kind, result in results.items():
        for key in ("model", "data", "samples"):
            comparable = key == "model" or kind not in ("performance", "control")
            if comparable and result[key] and _identity(result, key) != _identity(first, key):
                raise BadInput(
                    f"'{folder}' holds results of different {key}: {kind} and adherence disagree",
                    "Run synthdiffusion evaluate card, which makes all of them.",
                )
    return results


def _identity(result: Mapping[str, Any], key: str) -> Any:
    return result["samples"]["settings"] if key == "samples" else result[key]


def render_card(
    spec: ModelSpec,
    results: Mapping[str, Mapping[str, Any]],
    picture: str | None = None,
    shown: list[str] | None = None,
) -> str:
    """The whole MODEL_CARD.md.

    Args:
        spec: the model's description.
        results: by kind, as `read_results` gives them.
        picture: file name of the picture beside the card.
        shown: cases in the picture, for its caption.
    """
    adherence, fidelity, memorisation = (results[kind] for kind in NEEDED)
    data, samples = adherence["data"], adherence["samples"]
    lines = [
        f"# {spec.name}",
        "",
        f"`{spec.id}`, version {spec.version}. "
        "**For research only. Not for diagnosis, and for no decision about a patient.**",
        "",
        spec.description,
        "",
        "## Intended use",
        "",
        *_intended_use(spec),
        "",
        "## Training data",
        "",
        *_training(spec, data),
        "",
        "## Figures",
        "",
        f"All figures are measured on {data['patients']} patients of the part '{data['split']}' ({data['cases']} "
        "cases), of whom the model has seen nothing: its training and validation patients were compared with them by "
        f"patient ({data['leak_check']['shared_patients']} shared). "
        f"{_how_made(samples, spec.default_guidance_text)} "
        f"Intervals hold {adherence['settings']['confidence']:.0%} and are bootstraps over patients. With so few "
        "patients they are wide, and a difference that is not seen may still be there.",
        "",
        "Every table has no-skill rows, made without any model. A figure means something as far as the model differs "
        "from them.",
        "",
    ]
    if picture:
        lines += [f"![Real and synthetic side by side]({picture})", "", _caption(spec, data, shown or []), ""]
    lines += ["### Mask adherence", ""]
    for name, part in by_target(adherence):
        one = {k: v for k, v in part.items() if k != "others"}
        lines += [f"Of the {name}:", ""] if name else []
        lines += [*markdown(*table(one)), "", *_bullets(verdict_lines(one)), ""]
    lines += [*_definitions(adherence), "", "### Realism", "", *markdown(*table(fidelity)), ""]
    lines += [*_split_halves(fidelity), "", *markdown(*class_table(fidelity)), ""]
    lines += [*_bullets(verdict_lines(fidelity)), "", *_definitions(fidelity), ""]
    lines += ["### Memorisation", "", *markdown(*table(memorisation)), ""]
    lines += [*markdown(*mask_table(memorisation)), ""] if "masks" in memorisation else []
    lines += [*_bullets(verdict_lines(memorisation)), "", *_definitions(memorisation), ""]
    if memorisation_card.KIND in results:
        lines += memorisation_card.section_lines(results[memorisation_card.KIND])
    for kind, title in (("control", "Control of what is asked for"), ("coherence", "Coherence of slices")):
        if kind in results:
            lines += [f"### {title}", "", *markdown(*table(results[kind])), ""]
            lines += [*_bullets(verdict_lines(results[kind])), "", *_definitions(results[kind]), ""]
    if "performance" in results:
        performance = results["performance"]
        lines += ["### Time and memory", "", *markdown(*table(performance)), "", *_definitions(performance), ""]
    lines += ["## Known weaknesses", "", *_bullets(weaknesses(spec, results)), ""]
    lines += ["## How to make these figures again", "", "```", *_commands(results), "```", ""]
    return "\n".join(lines)


def _caption(spec: ModelSpec, data: Mapping[str, Any], shown: Sequence[str]) -> str:
    names = (
        ", all of them: " if len(shown) == data["cases"] else f", chosen by the size of the {spec.target_class} alone: "
    )
    names = names + ", ".join(shown) if shown else ""
    layout = "" if "border_mm" not in data["training_facts"] else ", in one axial and one coronal slice"
    return (
        f"The same test masks, real and synthetic{names}. "
        f"One window{layout}; the outline is the mask that the model was given."
        if "joint" not in spec.modes
        else f"Test patients, and what the model made of the characteristics of their masks{names}. "
        f"One window{layout}; each image has the outline of its own mask."
    )


def _intended_use(spec: ModelSpec) -> list[str]:
    what = {
        "whole": "whole volumes from a segmentation",
        "inpaint": "drawing a structure into a real volume",
        "unconditional": "whole volumes without one",
        "joint": "whole volumes together with their segmentation, from characteristics of the structure",
    }
    inpainted = " An inpainted volume holds a real patient's image and is not anonymous." if spec.inpaint else ""
    modes = ", and ".join(what[m] for m in spec.modes if m in what)
    low, high = spec.intensity.range
    return [
        f"Research on synthetic {spec.modality} of the {spec.body_part}: {modes}. It works at "
        f"{' x '.join(f'{s:g}' for s in spec.grid.spacing_mm)} mm and makes values from {low:g} to {high:g} "
        f"{spec.intensity.unit}. Permitted use of the weights: {spec.license.permitted_use} "
        f"(licence {spec.license.spdx}).",
        "",
        "Not intended: diagnosis, treatment planning, training of a medical product without an evaluation of one's "
        f"own, or any use that takes a synthetic image for a patient's.{inpainted}",
    ]


def _training(spec: ModelSpec, data: Mapping[str, Any]) -> list[str]:
    facts = data["training_facts"]
    shape = _by(facts["shape"])
    if "smallest_shape" in facts:
        shape = f"{_by(facts['smallest_shape'])} to {_by(facts['largest_shape'])} (median {shape})"
    lines = [
        f"{spec.training.dataset} ({spec.training.license}). {spec.license.attribution}",
        "",
        f"Split by patient: {data['training_patients']} to train, {data['reference_cases']} to validate, "
        f"{data['patients']} to test, fixed once. Training images are of {shape} voxels, "
        f"{facts['minimum']:g} to {facts['maximum']:g} "
        f"{spec.intensity.unit}.",
    ]
    if spec.training.command:
        begun = spec.provenance.get("initial_weights_sha256")
        made = [f"Trained with `{spec.training.command}`"]
        made += [f"the code of commit {spec.training.commit}"] if spec.training.commit else []
        made += [f"{spec.training.steps} steps"] if spec.training.steps else []
        made += [f"from the weights of an earlier model (SHA-256 {begun})"] if begun else []
        lines += ["", f"{', '.join(made)}."]
    if spec.training.citation:
        lines += ["", f"Cite: {spec.training.citation}"]
    return lines


def _by(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _how_made(samples: Mapping[str, Any], default_guidance: str) -> str:
    settings = samples["settings"]
    sampler = f"with {settings['sampler']}" if settings["sampler"] else "with the model's default sampler"
    guidance = default_guidance if settings.get("guidance") is None else f"{settings['guidance']:g}"
    scale = f"condition scale {settings['condition_scale']:g}, " if "condition_scale" in settings else ""
    return (
        f"Samples: {settings['seeds']} per mask and arm, {settings['steps']} steps {sampler}, guidance {guidance}, "
        f"{scale}seeds from {settings['first_seed']}, none chosen."
    )


def _split_halves(fidelity: Mapping[str, Any]) -> list[str]:
    lines = []
    for view in ("whole", "crop", "region"):
        halves = fidelity["settings"].get(f"split_halves_{view}")
        if halves:
            low, middle, high = (number(v, 3) for v in halves["mmd2"])
            lines.append(
                f"Two disjoint sets of {halves['size']} real training images ({view}) are at MMD² {middle} "
                f"[{low}, {high}] from each other."
            )
    return lines


def weaknesses(spec: ModelSpec, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a user should know, from the data and from what the measurements found."""
    adherence, fidelity, memorisation = (results[kind] for kind in NEEDED)
    data = adherence["data"]
    facts = data["training_facts"]
    found = [
        f"The training set is tiny: {data['training_patients']} patients. Rare anatomy is missing, and the figures "
        f"above come from {data['patients']} patients only."
    ]
    if facts["outside_fraction"] == 0 and "classes" not in data:
        found.append(
            "No training image has a voxel that its class map puts outside the body: expect unrealistic values there."
        )
    if facts["most_targets"] == 1:
        low, middle, high = (number(v, 0) for v in facts["center_offset_mm"])
        found.append(
            f"Every training image has exactly one annotated {spec.target_class}, {middle} mm ({low} to {high} mm) "
            "from the middle of the image; several in one volume were never seen."
        )
    if "border_mm" in facts:
        low, middle, high = (number(v, 0) for v in facts["border_mm"])
        found.append(
            f"Every training volume ends {middle} mm ({low} to {high} mm) beyond the {spec.target_class}: where that "
            "lies and how large it is could be guessed from the size of the volume (the row of the ellipsoid says how "
            f"well); one nearer to the end of a volume, or much further from it, was never seen."
        )
    reach = "are clipped to" if facts["maximum"] <= spec.intensity.range[1] else "go from"
    beyond = (
        "denser bone, metal and contrast medium" if spec.intensity.range[1] < BRIGHT_HU else "denser bone and metal"
    )
    beyond = beyond if unit_of(adherence) == "HU" else "brighter tissue"
    found.append(
        f"The training images {reach} {facts['minimum']:g} to {facts['maximum']:g} {spec.intensity.unit}, and "
        f"the model to {spec.intensity.range[0]:g} to {spec.intensity.range[1]:g}: {beyond} "
        "cannot appear. Real images were clipped in the same way before every comparison."
    )
    for name, part in by_target(adherence):
        for arm, verdict in part["verdicts"].items():
            row = next(r for r in part["rows"] if r["row"] == arm)
            label = row["label"].capitalize() + (f" ({name})" if name else "")
            if not verdict["ratio_within_limits"]:
                found.append(
                    f"{label}: the segmenter's Dice is {number(row['ratio'])} times that on real "
                    "images, outside the limits."
                )
            found += _missed(label, arm, part["per_volume"], name or spec.target_class)
    for row in fidelity["rows"]:
        if row["kind"] != "ours":
            continue
        large = [n for n in row["largest_differences"] if abs(row["feature_differences"][n]) >= NOTABLE_SD]
        if large:
            named = ", ".join(f"{n} ({number(row['feature_differences'][n], 1)})" for n in large)
            found.append(
                f"{row['label'].capitalize()}: features furthest from the real images of the same masks, in standard "
                f"deviations of real images: {named}."
            )
        told = {n: a for n, a in row["auc"].items() if a["value"] is not None and a["value"] >= NOTABLE_AUC}
        if told:
            named = ", ".join(f"{with_interval(a)} ({classifier(n)})" for n, a in told.items())
            found.append(f"{row['label'].capitalize()}: simple classifiers tell it from real images; AUC {named}.")
        for name, c in row["classes"].items():
            if c and c["difference"]["low"] is not None and not c["difference"]["low"] <= 0 <= c["difference"]["high"]:
                found.append(
                    f"{row['label'].capitalize()}: the mean of '{name}' is off by {with_interval(c['difference'], 0)} "
                    f"{spec.intensity.unit}."
                )
    for arm, cases in adherence["samples"]["skipped"].items():
        if cases:
            reason = adherence["samples"]["skipped_reasons"][cases[0]]
            found.append(f"{arm.capitalize()}: {len(cases)} test cases have no sample; of the first, {reason}.")
    for row in memorisation["rows"]:
        if row["kind"] == "ours" and row["suspected"]:
            found.append(
                f"{row['label'].capitalize()} ({row['view']}): copying of training cases is suspected, see above."
            )
        elif row["row"] == "copies" and row["p_nearest"] is not None and row["p_nearest"] >= SUSPICION:
            found.append(
                f"Memorisation ({row['view']}): with so few volumes and validation patients, the second test, whether "
                "the nearest case is a training case, does not even suspect a set of copies "
                f"(p {number(row['p_nearest'])}). "
                "Only the first test says anything here."
            )
    found += [f"{sentence[0].upper()}{sentence[1:]}" for sentence in spec.provenance.get("noted", ())]
    found += [f"Seen by eye: {sentence}" for sentence in spec.provenance.get("seen", ())]
    return found


def _missed(label: str, arm: str, per_volume: Sequence[Mapping[str, Any]], target: str) -> list[str]:
    """What the mean ratio hides: targets that are hardly there, and what the ratio is without them."""
    volumes = [v for v in per_volume if v["row"] == arm]
    there = [v for v in volumes if v["found"]]
    if not there or len(there) == len(volumes):
        return []
    real = {v["case"]: v["dice"] for v in per_volume if v["row"] == "real"}
    ratio = np.mean([v["dice"] for v in there]) / np.mean([real[v["case"]] for v in there])
    return [
        f"{label}: in {len(volumes) - len(there)} of {len(volumes)} volumes the segmenter does not find the {target}; "
        f"in the others its Dice is {number(ratio)} times that on the real images of the same patients. The ratio in "
        "the table is the mean of both."
    ]


def _bullets(lines: list[str]) -> list[str]:
    return [f"  - {line.strip()}" if line.startswith("  ") else f"- {line}" for line in lines]


def _definitions(result: Mapping[str, Any]) -> list[str]:
    texts = result["definitions"] | result.get("masks", {}).get("definitions", {})
    return ["Definitions:", "", *[f"- *{name}*: {text}" for name, text in texts.items()]]


def _commands(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    samples = results["adherence"]["samples"]["command"]
    return list(dict.fromkeys([samples, *(r["command"] for r in results.values())]))


def quality_measures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The `measured.quality` object of a `model.json`: numbers only, nested by kind and row."""
    adherence, fidelity, memorisation = (results[kind] for kind in NEEDED)
    data = adherence["data"]
    unit = "_hu" if unit_of(adherence) == "HU" else ""
    measures = {
        "command": adherence["command"].replace(" adherence ", " card ", 1),
        "note": "Definitions, no-skill rows and limits: MODEL_CARD.md. Intervals are bootstraps over patients.",
        "test_patients": data["patients"],
        "adherence": _dice_measures(adherence),
        "fidelity": {
            f"{r['row']}_{r['view']}" if r["row"].startswith("real") else r["row"]: {
                "mmd2": _round(r["mmd2"]["value"]),
                "mmd2_interval": [_round(r["mmd2"][k]) for k in ("low", "high")],
                "auc": {n: _round(a["value"]) for n, a in r["auc"].items()},
                "auc_interval": {n: [_round(a[k]) for k in ("low", "high")] for n, a in r["auc"].items()},
                **{
                    f"{name}{unit}": {n: _round(c[key]["value"], 1) for n, c in r["classes"].items() if c}
                    for name, key in (("mean_difference", "difference"), ("wasserstein", "wasserstein"))
                },
            }
            for r in fidelity["rows"]
        },
        "memorisation": {
            f"{r['row']}_{r['view']}": {
                "median_distance": _round(r["median"]),
                "below_quantile": r["below_quantile"],
                "volumes": r["volumes"],
                "nearest_is_training": r["nearest_is_training"],
                "p_below": _round(r["p_below"]),
                "p_nearest": _round(r["p_nearest"]),
            }
            for r in memorisation["rows"]
        },
    }
    if adherence.get("others"):
        measures["adherence_targets"] = {o["target"]: _dice_measures(o) for o in adherence["others"]}
    if memorisation_card.KIND in results:
        measures[memorisation_card.KIND] = memorisation_card.quality(results[memorisation_card.KIND])
    if "coherence" in results:
        from SynthDiffusionLib.evaluation.coherence import STEPS

        measures["coherence"] = {
            r["row"]: {m: _round(r[m]["value"]) for m in ("ratio", "correlation")}
            | {f"{m}_to_real": _round(r["to_real"][m]["value"]) for m in STEPS}
            for r in results["coherence"]["rows"]
        }
    if "control" in results:
        control = results["control"]
        measures["control"] = {k: control[k] for k in ("requests", "empty", "several_pieces")} | {
            r["row"]: {m: _round(r[m]["value"]) for m in ("slope", "theil_sen", "pearson", "spearman")}
            for r in control["rows"]
        }
    return measures


def _dice_measures(adherence: Mapping[str, Any]) -> dict[str, Any]:
    return {
        r["row"]: {
            "dice": _round(r["dice_mean"]),
            "dice_interval": [_round(v) for v in r["dice_interval"]],
            "ratio": _round(r["ratio"]),
            "ratio_interval": [_round(v) for v in r["ratio_interval"]],
        }
        for r in adherence["rows"]
    }


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(float(value), digits)


def card_summary(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The main tables in short, for the console."""
    lines: list[str] = []
    for result in results.values():
        for name, part in by_target(result):
            title = f"{result['kind']}, {name}" if name and "others" in result else result["kind"]
            lines += ["", title, *console(*table(part))]
        lines += verdict_lines(result)
    return lines
