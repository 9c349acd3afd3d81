"""Results as files and as tables: JSON with everything, CSV with a line per row, text for the console."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.atomic import atomic_file

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

FORMAT = "synthdiffusion-evaluation-1"
KINDS = ("adherence", "fidelity", "memorisation", "memorisation_embedding", "performance", "control", "coherence")
NOTHING = "-"


def complete(
    measured: Mapping[str, Any],
    package: ModelPackage,
    *,
    data: Mapping[str, Any] | None,
    samples: Mapping[str, Any] | None,
    seconds: float,
    command: str,
) -> dict[str, Any]:
    """A result with what one needs to know where it comes from.

    Args:
        measured: of `measure_adherence` and the like.
        data: `EvaluationData.summary`.
        samples: `samples.describe`.
        seconds: that measuring took.
        command: that makes it again.
    """
    from SynthDiffusionLib.evaluation.samples import model_identity
    from SynthDiffusionLib.jobs.provenance import software

    return {
        "format": FORMAT,
        "kind": measured["kind"],
        "model": model_identity(package),
        "data": dict(data) if data else None,
        "samples": dict(samples) if samples else None,
        "command": command,
        "seconds": round(seconds, 1),
        "software": software(),
        **{k: v for k, v in measured.items() if k != "kind"},
    }


def write_result(result: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Writes `KIND.json` and `KIND.csv` into a folder.

    Returns:
        the paths, by "json" and "csv".
    """
    from SynthDiffusionLib.jobs.provenance import write_json

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    paths = {"json": out / f"{result['kind']}.json", "csv": out / f"{result['kind']}.csv"}
    write_json(paths["json"], dict(result))
    rows = [dict(flatten(row)) for row in result["rows"]]
    if result.get("others"):  # several targets: a column says which
        parts = by_target(result)
        rows = [{"target": name} | dict(flatten(row)) for name, part in parts for row in part["rows"]]
    elif result["kind"] == "control":  # a line for each request: the figures are in the JSON
        rows = [dict(flatten(entry)) for entry in result["per_volume"]]
    fields = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(paths["csv"]) as stream:
        stream.write(text.getvalue().encode("utf-8"))
    return paths


def by_target(result: Mapping[str, Any]) -> list[tuple[str | None, Mapping[str, Any]]]:
    """The parts of a result, each with the target that it is of; one part without a name where there is one target."""
    return [(result.get("target"), result), *((other["target"], other) for other in result.get("others", ()))]


def unit_of(result: Mapping[str, Any]) -> str:
    """The unit of a result's intensities, as it is printed."""
    unit = (result.get("data") or {}).get("unit", "HU")
    return unit if unit == "HU" else f"{unit} units"


def read_result(path: Path) -> dict[str, Any]:
    """Reads a `KIND.json`.

    Raises:
        BadInput: missing, or no result.
    """
    from SynthDiffusionLib.schemas import read_json

    try:
        result = read_json(Path(path))
    except OSError as error:
        raise BadInput(f"The result '{path}' cannot be read", "Run synthdiffusion evaluate first.") from error
    except ValueError as error:
        raise BadInput(f"'{path}' is damaged: {error}", "Run synthdiffusion evaluate again.") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT or result.get("kind") not in KINDS:
        raise BadInput(f"'{path}' is no result of synthdiffusion evaluate", "Give a file that it wrote.")
    return result


def flatten(row: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested entries as names joined by dots; lists get their position."""
    found: list[tuple[str, Any]] = []
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found += flatten(value, f"{name}.")
        elif isinstance(value, list):
            found += [(f"{name}.{i}", v) for i, v in enumerate(value)]
        else:
            found.append((name, value))
    return found


def number(value: float | None, digits: int = 2) -> str:
    """A number as in a table; a dash for none."""
    if value is None:
        return NOTHING
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def with_interval(estimate: Mapping[str, float | None] | None, digits: int = 2) -> str:
    """`value [low, high]`."""
    if not estimate or estimate["value"] is None:
        return NOTHING
    low, high = number(estimate["low"], digits), number(estimate["high"], digits)
    return f"{number(estimate['value'], digits)} [{low}, {high}]"


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells of the main table of a result, as in the console and the model card."""
    from SynthDiffusionLib.evaluation import coherence, control, memorisation_card

    return {
        "adherence": _adherence_table,
        "fidelity": _fidelity_table,
        "memorisation": _memorisation_table,
        "memorisation_embedding": memorisation_card.table,
        "performance": _performance_table,
        "control": control.table,
        "coherence": coherence.table,
    }[result["kind"]](result)


def _adherence_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    titles = ["row", "volumes", "Dice, mean", "median", "ratio to real", "found", "false, ml"]
    titles += ["empty masks"] if any("empty" in r for r in result["rows"]) else []
    cells = []
    for r in result["rows"]:
        dice = {"value": r["dice_mean"], "low": r["dice_interval"][0], "high": r["dice_interval"][1]}
        ratio = {"value": r["ratio"], "low": r["ratio_interval"][0], "high": r["ratio_interval"][1]}
        cells.append(
            [r["label"], str(r["volumes"]), with_interval(dice), number(r["dice_median"])]
            + [NOTHING if r["row"] == "real" else with_interval(ratio), number(r["found"]), number(r["false_ml"])]
            + ([str(r.get("empty", NOTHING))] if "empty masks" in titles else [])
        )
    return titles, cells


def _fidelity_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    recipes = list(dict.fromkeys(name for r in result["rows"] for name in r["auc"]))
    titles = ["row", "compared", "volumes", "MMD²", "Fréchet", *(f"AUC, {classifier(name)}" for name in recipes)]
    cells = [
        [r["label"], r["view"], str(r["volumes"]), with_interval(r["mmd2"], 3), number(r["frechet"]["value"])]
        + [with_interval(r["auc"].get(name)) for name in recipes]
        for r in result["rows"]
    ]
    return titles, cells


def classifier(name: str) -> str:
    """A classifier as it is named in tables: "features", "large crops", "small crops"."""
    return name if name == "features" else f"{name} crops"


def class_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Per class: mean, difference from real, and histogram distances."""
    unit = unit_of(result)
    mean = "mean HU" if unit == "HU" else f"mean, {unit}"
    titles = ["row", "compared", "class", mean, "real", "difference", "L1", f"Wasserstein, {unit}"]
    cells = [
        [r["label"], r["view"], name, number(c["mean"], 0), number(c["mean_real"], 0)]
        + [with_interval(c["difference"], 0), number(c["l1"]), with_interval(c["wasserstein"], 0)]
        for r in result["rows"]
        for name, c in r["classes"].items()
        if c
    ]
    return titles, cells


def _memorisation_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    quantile = f"{result['settings']['quantile']:.0%} quantile"
    titles = ["row", "compared", "volumes", "nearest", quantile, "median", "below the limit", "p"]
    titles += ["nearest is a training case", "p"]
    cells = []
    for r in result["rows"]:
        below = f"{r['below_quantile']} (expected {number(r['expected_below_quantile'], 1)})"
        nearest = f"{r['nearest_is_training']} of {r['nearest_compared']} (expected "
        nearest += f"{number(r['expected_nearest_is_training'], 1)})"
        cells.append(
            [r["label"], r["view"], str(r["volumes"]), number(r["smallest"]), number(r["lower_quantile"])]
            + [number(r["median"]), below, number(r["p_below"], 3), nearest, number(r["p_nearest"], 3)]
        )
    return titles, cells


def mask_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Of models that make masks: how near those are to training masks. Empty for others."""
    titles = ["masks", "number", "Dice with the nearest training mask, median", "largest", "above the limit", "p"]
    cells = [
        [
            r["label"],
            str(r["masks"]),
            number(r["median"]),
            number(r["largest"]),
            str(r["above_limit"]),
            number(r["p"], 3),
        ]
        for r in result.get("masks", {}).get("rows", ())
    ]
    return titles, cells


def _performance_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    titles = [
        "run",
        "grid",
        "steps",
        "guidance",
        "precision",
        "CPU threads",
        "whole process, s",
        "job, s",
        "peak memory, MiB",
    ]
    cells = [
        [
            str(r["row"]),
            "x".join(map(str, r["grid"])),
            str(r["steps"]),
            f"{r['guidance']:g}",
            r["precision"],
            str(r["threads"]),
        ]
        + [number(r["seconds_process"], 1), number(r["seconds_job"], 1), number(r["peak_bytes"] / 2**20, 0)]
        for r in result["rows"]
    ]
    return titles, cells


def console(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns."""
    widths = [max(len(row[i]) for row in [titles, *cells]) for i in range(len(titles))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in [titles, *cells]]


def markdown(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def summary_lines(result: Mapping[str, Any]) -> list[str]:
    """What is printed: what was measured on how much, the tables, verdicts, definitions."""
    data, settings = result.get("data"), result["settings"]
    lines = []
    if data:
        lines.append(
            f"{result['kind']} of {result['model']['id']} {result['model']['version']}: {data['patients']} patients of "
            f"'{data['split']}'"
            + (
                f", intervals {settings['confidence']:.0%} by {settings['resamples']} resamples of patients"
                if "resamples" in settings
                else ""
            )
        )
    for name, part in by_target(result):
        lines += ["", *([f"{name}:"] if name and result["kind"] == "adherence" else []), *console(*table(part))]
    if "masks" in result:
        lines += ["", *console(*mask_table(result))]
    if result["kind"] == "fidelity":
        lines += ["", *console(*class_table(result))]
        for r in result["rows"]:
            if r["kind"] == "ours":
                named = ", ".join(f"{n} {number(r['feature_differences'][n], 1)}" for n in r["largest_differences"])
                lines += ["", f"{r['label']}: features that differ most, in training standard deviations: {named}"]
    lines += ["", *verdict_lines(result)]
    skipped = (result.get("samples") or {}).get("skipped", {})
    for arm, cases in skipped.items():
        if cases:
            reasons = result["samples"]["skipped_reasons"]
            lines.append(f"{arm}: {len(cases)} cases without a sample, such as {cases[0]}: {reasons[cases[0]]}")
    lines += ["", "Definitions"]
    texts = result["definitions"] | result.get("masks", {}).get("definitions", {})
    lines += [f"  {name}: {text}" for name, text in texts.items()]
    return lines


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """Verdicts in words, a line each."""
    from SynthDiffusionLib.evaluation import coherence, control

    if result["kind"] == "memorisation_embedding":
        return [s for part in ("copies", "controls", "membership", "limits") for s in result["sentences"].get(part, ())]
    if result["kind"] in ("control", "coherence"):
        return {"control": control, "coherence": coherence}[result["kind"]].verdict_lines(result)
    if result.get("others"):
        parts = [(name, {k: v for k, v in part.items() if k != "others"}) for name, part in by_target(result)]
        return [line for name, part in parts for line in (f"{name}:", *verdict_lines(part))]
    verdicts, settings = result.get("verdicts", {}), result["settings"]
    lines = []
    if result["kind"] == "adherence":
        real = next(r for r in result["rows"] if r["row"] == "real")
        enough = "reaches" if result["real_dice_sufficient"] else "does not reach"
        lines.append(
            f"Dice on real images {number(real['dice_mean'])} {enough} {number(settings['least_real_dice'])}, "
            "below which the segmenter would be too weak to judge by."
        )
        low, high = settings["ratio_limits"]
        for arm, v in verdicts.items():
            inside = "within" if v["ratio_within_limits"] else "NOT within"
            whole = "with its whole interval" if v["interval_within_limits"] else "but its interval reaches beyond"
            tail = f", {whole}" if v["ratio_within_limits"] else ""
            lines.append(f"{_label(result, arm)}: ratio {inside} {number(low)} to {number(high)}{tail}.")
            for other, n in v["against_no_skill"].items():
                lines.append(
                    f"  nearer to real than '{_label(result, other)}' in {n['nearer_to_real']:.0%} of the resamples"
                )
    elif result["kind"] == "fidelity":
        for arm, v in verdicts.items():
            view = next(r["view"] for r in result["rows"] if r["row"] == arm)
            # Real images among the no-skill rows: nothing can beat them where they are compared as a whole.
            ending = "_joint" if arm == "joint" else ""
            names = [f"{name}{ending}" for name in ("unrelated_real", "nearest_training")]
            but = [r["label"] for r in result["rows"] if r["row"] in names and r["view"] == view]
            rivals = "every no-skill row"
            if but:
                rivals += f" but {' and '.join(map(repr, but))}, which {'is' if len(but) == 1 else 'are'} real"
            for key, value in v.items():
                measure = {"mmd2_below_all": "MMD²"}.get(key, f"AUC ({classifier(key.split('_')[1])})")
                word = "clearly below" if value else "NOT clearly below"
                lines.append(f"{_label(result, arm)}: {measure} {word} {rivals}.")
    elif result["kind"] == "memorisation":
        for r in result["rows"]:
            if r["kind"] == "ours":
                word = "SUSPECTED" if r["suspected"] else "no sign"
                lines.append(f"{r['label']}, {r['view']}: copying of training cases: {word}.")
            elif r["row"] == "copies":
                lines.append(f"Control, {r['view']}: {r['below_quantile']} of {r['volumes']} copies are found.")
            elif r["row"] == "copies_warped":
                word = "suspected" if r["suspected"] else "NOT suspected"
                lines.append(
                    f"Control, {r['view']}: {r['below_quantile']} of {r['volumes']} warped copies are below the limit; "
                    f"a model that makes only such copies is {word}."
                )
        for r in result.get("masks", {}).get("rows", ()):
            if r["kind"] == "ours":
                word = "SUSPECTED" if r["suspected"] else "no sign"
                lines.append(f"{r['label']}, masks: copying of training masks: {word}.")
            elif r["row"] == "copies":
                lines.append(f"Control, masks: {r['above_limit']} of {r['masks']} copied masks are found.")
    return lines


def _label(result: Mapping[str, Any], row: str) -> str:
    return next((r["label"] for r in result["rows"] if r["row"] == row), row)
