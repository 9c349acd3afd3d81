"""Scales (Likert, anchored): do real and synthetic volumes get different ratings?

Readers and cases are crossed: every reader's answers hang together, and so do all answers to one case. Ratings of
several readers in one heap, as a Mann-Whitney test takes them, count each case as often as there are readers; that test
is refused, and offered for each reader alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput, MissingExtra
from SynthDiffusionLib.reader_study.analysis_generators import compare, difference_sentences, parts_of
from SynthDiffusionLib.reader_study.analysis_turing import AVERAGES, averaged, said
from SynthDiffusionLib.reader_study.forms import Item
from SynthDiffusionLib.reader_study.selection import Data, Matrix, refused
from SynthDiffusionLib.reader_study.study import Task
from SynthDiffusionLib.reports.sections import Section, Table, columns, corrected, degrees, family_note, with_holm

SOURCES = (
    "Obuchowski and Rockette 1995 with the mean difference as figure of merit (readers and cases random).",
    "Ordinal regression with proportional odds (McCullagh, J R Stat Soc B 1980;42:109), as in visual grading "
    "regression "
    "(Smedby and Fredrikson, Br J Radiol 2010;83:767).",
    "Cameron, Gelbach and Miller, J Bus Econ Stat 2011;29:238 (variance clustered by reader and case).",
    "Mann and Whitney, Ann Math Stat 1947;18:50 (one reader).",
)
TESTS = columns(
    "task|Task", "arm|Generator", "method|Method", "value|Value|number", "low|from|number", "high|to|number",
    "se|SE|number", "statistic|Statistic|number", "p|p|p", "p_holm|p after Holm|p", "note|Note",
)  # fmt: skip
ONE_READER = columns(
    "task|Task", "arm|Generator", "reader|Reader", "n_real|Real|int", "mean_real|Mean|number", "sd_real|SD|number",
    "n_synthetic|Synthetic|int", "mean_synthetic|Mean|number", "sd_synthetic|SD|number", "p|p (Mann-Whitney)|p",
    "p_holm|p after Holm|p", "note|Note",
)  # fmt: skip
COUNTS = columns("task|Task", "arm|Arm", "reader|Reader", "value|Rating|number", "label|Label", "count|Answers|int")


def likert_section(data: Data) -> Section | None:
    """All scales of single volumes; None if the study has none."""
    rows: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    per_reader: list[dict[str, Any]] = []
    counts: list[dict[str, Any]] = []
    plots: list[dict[str, Any]] = []
    sentences: list[str] = []
    between: list[tuple[str, Any, int]] = []
    refusal = ""
    for task in data.tasks("single"):
        for item in data.items(task, ("scale",)):
            counts += _counts(data, task, item)
            plots.append(_plot(data, task, item, len(plots)))
            here = sorted({r.arm for r in data.of(task.id, item.id)} & set(data.generators))
            for arm in here:
                place = {"task": f"{task.id}, {item.id}", "arm": arm}
                try:
                    matrix = data.arm_matrix(task.id, item.id, arm)
                except BadInput as error:
                    sentences.append(f"{item.text} '{arm}': {refused(error)}")
                    continue
                rows += _averages(data, matrix, place, item)
                others += _other_tests(data, matrix, place)
                per_reader += _one_reader(matrix, place)
                refusal = refusal or _refusal(matrix)
            if len(here) > 1 and data.reals:
                between.append(_between(data, task, item, here, others))
    if not counts:
        return None
    corrected(rows, data.alpha)
    sentences = [*said(rows, data), *sentences]
    with_holm(others)
    for name, result, start in between:
        if result is None:
            sentences.append(name)
        else:
            holm = [row["p_holm"] for row in others[start : start + len(result.differences)]]
            sentences += difference_sentences(result, name, data, holm)
    with_holm(per_reader)
    if refusal:
        sentences.append(refusal)
    if data.margin("likert") is None and rows:
        sentences.append("The study names no margin for scales, so equivalence of ratings was not tested.")
    tables = (
        Table("likert_average", "Synthetic less real, averaged over readers", AVERAGES, tuple(rows),
              "Mean difference in steps of the scale, and AUC (chance that a synthetic volume is rated higher than a "
              f"real one). {family_note(rows)}"),
        Table("likert_other", "The same question by other methods", TESTS, tuple(others),
              "Checks that do not rest on the model above; Holm's correction within this table."),
        Table("likert_readers", "Each reader alone", ONE_READER, tuple(per_reader),
              "Mann-Whitney test of one reader's ratings. Holm's correction within this table."),
        Table("likert_counts", "How often each rating was given", COUNTS, tuple(counts)),
    )  # fmt: skip
    return Section(
        "likert",
        "Do real and synthetic volumes get different ratings?",
        "exploratory",
        tuple(sentences),
        tables,
        tuple(plots),
        "Averages, other methods and single readers are three families (Holm's method within each).",
        SOURCES,
    )


def _averages(data: Data, matrix: Matrix, place: dict[str, Any], item: Item) -> list[dict[str, Any]]:
    rows = []
    for figure, null, name in (("mean_difference", 0.0, "Mean difference"), ("auc", 0.5, "AUC")):
        margin = data.margin("likert") if figure == "mean_difference" else None
        what = f"{item.text} '{place['arm']}' less real, in steps of the scale"
        if figure == "auc":
            what = f"{item.text} Chance that a volume of '{place['arm']}' is rated higher than a real one"
        head = {**place, "measure": name, "what": what, "as_percent": False, "chance": "no difference"}
        if figure == "mean_difference":
            task, item_id = place["task"].split(", ", 1)
            head["is_primary"] = data.is_primary("likert_difference", task, item_id, (place["arm"],), 0.0)
        try:
            rows.append({**head, **averaged(data, matrix, figure, null=null, margin=margin)[0]})
        except BadInput as error:
            rows.append({**head, "note": refused(error)})
    return rows


def _other_tests(data: Data, matrix: Matrix, place: dict[str, Any]) -> list[dict[str, Any]]:
    from SynthDiffusionLib.reader_study.statistics.ordinal import (
        ordinal_regression,
        reader_averaged_test,
        two_way_cluster,
    )

    def row(method: str, calculate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            found = calculate()
        except (BadInput, MissingExtra) as error:
            return {**place, "method": method, "note": f"Not calculated: {error.one_line()}"}
        found["p"] = found["p"] if np.isfinite(found["p"]) else None
        return {**place, "method": method, **found}

    def fields(test: Any) -> dict[str, Any]:
        found = {k: getattr(test, k) for k in ("low", "high", "se", "statistic", "p")}
        return {"value": test.difference, "note": " ".join(test.notes), **found}

    def averaged_test() -> dict[str, Any]:
        whole = matrix.complete()
        kinds: dict[str, set[int]] = {}
        for patient, truth in zip(whole.patients, whole.truth):
            kinds.setdefault(patient, set()).add(int(truth))
        paired = all(len(k) == 2 for k in kinds.values())
        return fields(reader_averaged_test(whole.values, whole.truth, list(whole.patients) if paired else None))

    def regression() -> dict[str, Any]:
        fit = ordinal_regression(matrix.values, matrix.truth, matrix.clusters, data.confidence)
        found = {k: getattr(fit, k) for k in ("low", "high", "se", "p")}
        return {"value": fit.odds_ratio, "statistic": fit.z, "note": " ".join(fit.notes), **found}

    rows = [
        row("Permutation of the cases' mean ratings (these readers)", averaged_test),
        row("Ordinal regression: odds ratio of a higher rating (SE of its logarithm; clusters: cases)", regression),
    ]
    if len(matrix.readers) > 1:
        rows.append(
            row(
                "Difference of means, variance clustered by reader and case",
                lambda: fields(two_way_cluster(matrix.values, matrix.truth, data.confidence)),
            )
        )
    return rows


def _one_reader(matrix: Matrix, place: dict[str, Any]) -> list[dict[str, Any]]:
    from SynthDiffusionLib.reader_study.statistics.ordinal import mann_whitney

    rows = []
    for reader, values in zip(matrix.readers, matrix.values):
        there = np.isfinite(values)
        real, synthetic = values[there & (matrix.truth == 0)], values[there & (matrix.truth == 1)]
        row: dict[str, Any] = {**place, "reader": reader}
        for name, x in (("real", real), ("synthetic", synthetic)):
            row |= {
                f"n_{name}": len(x),
                f"mean_{name}": float(x.mean()) if len(x) else None,
                f"sd_{name}": float(x.std(ddof=1)) if len(x) > 1 else None,
            }
        try:
            p = mann_whitney(real, synthetic).p
            row["p"] = p if np.isfinite(p) else None
            if row["p"] is None:
                row["note"] = "All ratings are equal: there is nothing to compare."
        except BadInput as error:
            row["note"] = refused(error)
        rows.append(row)
    return rows


def _refusal(matrix: Matrix) -> str:
    """The reason why the pooled test is not made, as the statistics give it."""
    from SynthDiffusionLib.reader_study.statistics.ordinal import pooled_mann_whitney

    try:
        pooled_mann_whitney(matrix.values, matrix.truth)
    except BadInput as error:
        return f"{error.message}. The tests of each reader alone are in the tables."
    return ""


def _between(
    data: Data, task: Task, item: Item, here: Sequence[str], others: list[dict[str, Any]]
) -> tuple[str, Any, int]:
    """Adds the differences of generators: what they are of, the result (None: refused), and their first row."""
    start = len(others)
    try:
        result, notes = compare(data, parts_of(data, task.id, item.id, here), "mean_difference")
    except BadInput as error:
        return f"{item.text} Difference between generators: {refused(error)}", None, start
    for d in result.differences:
        others.append(
            {
                "task": f"{task.id}, {item.id}",
                "arm": f"{d.first} less {d.second}",
                "method": f"Obuchowski-Rockette, mean rating (df {degrees(d.df)})",
                "value": d.value,
                "low": d.low,
                "high": d.high,
                "se": d.se,
                "statistic": d.t,
                "p": d.p if np.isfinite(d.p) else None,
                "note": " ".join(notes),
            }
        )
    return f"{item.text} Mean rating", result, start


def _arms(data: Data, task: Task, item: Item) -> list[str]:
    here = {r.arm for r in data.of(task.id, item.id)}
    return [a for a in [*data.reals, *data.generators] if a in here]


def _counts(data: Data, task: Task, item: Item) -> list[dict[str, Any]]:
    ratings = data.of(task.id, item.id)
    rows = []
    for arm in _arms(data, task, item):
        for reader in sorted({r.reader for r in ratings}):
            own = [r.value for r in ratings if r.arm == arm and r.reader == reader]
            for option in item.options:
                count = sum(v == option.value for v in own)
                row = {"arm": arm, "reader": reader, "value": option.value, "label": option.label, "count": count}
                rows.append({"task": f"{task.id}, {item.id}", **row})
    return rows


def _plot(data: Data, task: Task, item: Item, index: int) -> dict[str, Any]:
    ratings = data.of(task.id, item.id)
    bars = []
    for arm in _arms(data, task, item):
        own = [r.value for r in ratings if r.arm == arm]
        bars.append({"arm": arm, "counts": [sum(v == option.value for v in own) for option in item.options]})
    labels = [f"{option.value:g} {option.label}" for option in item.options]
    return {
        "id": f"likert_{index}",
        "kind": "likert",
        "title": f"{item.text} ({task.id})",
        "labels": labels,
        "rows": bars,
    }
