"""The primary endpoint, exactly as the study file states it; what it does not state is not chosen here.

If it cannot be calculated as stated, the report says so and why. The nearest thing that can be calculated is given with
it, named as a departure from the study.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study import analysis_generators, analysis_likert, analysis_turing, habits, single_reader
from SynthDiffusionLib.reader_study.primary_text import MEASURES, is_proportion, primary_text
from SynthDiffusionLib.reader_study.selection import Data, Matrix, refused, score_items
from SynthDiffusionLib.reader_study.study import MEASURE_TYPES
from SynthDiffusionLib.reports.sections import Section, Table

_SHORT = {
    "accuracy": "Accuracy",
    "auc": "AUC",
    "likert_difference": "Mean difference",
    "forced_choice": "Proportion correct",
}
_FIGURE = {"accuracy": "accuracy", "auc": "auc", "likert_difference": "mean_difference", "forced_choice": "mean"}


def primary_section(data: Data) -> Section:
    """The first section of the report."""
    stated = data.study.primary
    measure = str(stated.get("measure"))
    statement = primary_text(data.study)
    rows: list[dict[str, Any]] = []
    try:
        if measure not in MEASURES:
            raise BadInput(f"The primary measure '{measure}' is unknown", f"Measures are {', '.join(MEASURES)}.")
        if measure == "mrmc_auc_difference":
            return _difference(data, statement)
        row, sentences, detail, plots = _one_arm(data, measure)
        rows.append(row)
    except BadInput as error:
        sentences = [
            "The primary endpoint could not be calculated as the study states it. " + refused(error),
            "Nothing else in this report takes its place: the other sections are exploratory.",
        ]
        detail, plots = {"refused": error.one_line()}, []
    table = Table("primary", "Primary endpoint", analysis_turing.AVERAGES[1:], tuple(rows), statement)
    shown = Table(table.id, table.title, tuple(c for c in table.columns if "holm" not in c.key), table.rows, table.note)
    return Section(
        "primary",
        "Primary endpoint",
        "primary",
        (statement, *sentences),
        (shown,) if rows else (),
        tuple(plots),
        "One endpoint that was fixed before reading: not corrected for other tests.",
        _sources(measure),
        {"stated": dict(stated), **detail},
    )


def _item(data: Data) -> tuple[str, str]:
    p = data.study.primary
    task = data.study.tasks.get(str(p.get("task")))
    if task is None:
        raise BadInput(f"The primary endpoint names the task '{p.get('task')}', which the study lacks", "")
    item = p.get("item")
    if item is None:
        found = data.items(task, ("forced_choice",)) if task.kind == "forced_choice" else score_items(data, task)
        if len(found) != 1:
            raise BadInput("The primary endpoint names no question, and there is not exactly one", "Name it as 'item'.")
        item = found[0].id
    if not task.form.has(str(item)):
        raise BadInput(f"The primary endpoint names the question '{item}', which the form lacks", "")
    return task.id, str(item)


def _one_arm(data: Data, measure: str) -> tuple[dict[str, Any], list[str], dict[str, Any], list[dict[str, Any]]]:
    p = data.study.primary
    task, item = _item(data)
    kind = data.study.tasks[task].form.item(item).type
    arm = _arm(data, p.get("arm"))
    matrix = _matrix(data, measure, task, item, kind, arm)
    null = float(p.get("null", 0.5 if is_proportion(measure) else 0.0))
    margin = _margin(data)
    sides = habits.of_choice(data, task, item, matrix) if measure == "forced_choice" else []
    row, result, notes = analysis_turing.averaged(data, matrix, _FIGURE[measure], null=null, margin=margin, used=sides)
    row = {"arm": arm, "measure": _SHORT[measure], **row}
    proportion = measure in ("accuracy", "forced_choice")
    chance = "the value that the study compares with"
    if is_proportion(measure) and null == 0.5:
        chance = "guessing"
    elif measure == "likert_difference" and null == 0:
        chance = "no difference"
    what = _what(measure, arm)
    if row["measure"] == analysis_turing.BALANCED:
        what = f"{analysis_turing.BALANCED} (mean of sensitivity and specificity) in telling '{arm}' from real volumes"
    sentences = analysis_turing.verdict(row, what, data, chance=chance, as_percent=proportion)
    if p.get("test") == "equivalence":  # the stated test is named first
        stated = [s for s in sentences if s.startswith("Equivalence")]
        others = [f"Not the stated test, and not corrected: {s}" for s in sentences[1:] if s not in stated]
        sentences = [sentences[0], *stated, *others]
    if measure in ("accuracy", "auc"):
        sentences += analysis_turing.habit_sentences(data, matrix, measure, row, kind == "confidence")
    named = habits.beyond(sides, margin) if row.get("not_judged") else []
    sentences += habits.side_warnings([side for side in sides if side not in named], data.alpha)
    sentences.insert(0, _outcome(data, row.get("p"), row.get("equivalent")))
    sentences += _departures(data, row, notes)
    plots = []
    if measure == "auc" and (plot := single_reader.roc_plot(matrix, "primary_roc", f"ROC curves, '{arm}'")) is not None:
        plots.append(plot)
    bars = [{"reader": r.reader, "value": r.value, "low": r.low, "high": r.high} for r in result.reader_values]
    average = {k: row.get(k) for k in ("value", "low", "high")}
    plots.append(
        {"id": "primary_readers", "kind": "intervals", "title": "Each reader and the average", "rows": bars,
         "average": average, "line": null, "label": _SHORT[measure]}
    )  # fmt: skip
    return row, sentences, {"result": result, "notes": list(notes)}, plots


def _outcome(data: Data, p: float | None, equivalent: bool | str | None) -> str:
    test = data.study.primary.get("test", "difference")
    if test == "equivalence":
        found = equivalent if isinstance(equivalent, str) else "shown" if equivalent else "not shown"
        return f"Result of the stated test: equivalence is {found}."
    if p is None:
        return "Result of the stated test: none, because no p-value can be calculated."
    return f"Result of the stated test: a difference is {'shown' if p < data.alpha else 'not shown'}."


def _what(measure: str, arm: str) -> str:
    return {
        "accuracy": f"Readers told '{arm}' from real volumes correctly",
        "auc": f"Area under the ROC curve for telling '{arm}' from real volumes",
        "likert_difference": f"Mean rating of '{arm}' less real volumes, in steps of the scale",
        "forced_choice": f"Readers found the synthetic volume of a pair, '{arm}'",
    }[measure]


def _matrix(data: Data, measure: str, task: str, item: str, kind: str, arm: str) -> Matrix:
    allowed = MEASURE_TYPES[measure]
    if kind not in allowed:
        raise BadInput(
            f"The measure '{measure}' cannot be made of the question '{item}' of the type '{kind}'",
            f"It needs a question of the type {' or '.join(allowed)}.",
        )
    if measure == "forced_choice":
        return data.matrix(task, item, [arm], analysis_turing.correct_value)
    return data.arm_matrix(task, item, arm)


def _arm(data: Data, arm: Any) -> str:
    if arm is None and len(data.generators) == 1:
        return data.generators[0]
    if arm not in data.generators:
        raise BadInput(
            f"The primary endpoint names the arm '{arm}', of which there are no answers",
            f"Generators with answers: {', '.join(data.generators) or 'none'}.",
        )
    return str(arm)


def _margin(data: Data) -> float | None:
    p = data.study.primary
    if p.get("test") == "equivalence" and p.get("margin") is None:
        raise BadInput("The study states a test of equivalence without a margin", "State a margin before reading.")
    return None if p.get("margin") is None else float(p["margin"])


def _departures(data: Data, row: dict[str, Any], notes: tuple[str, ...]) -> list[str]:
    sentences = list(notes)
    if row["measure"] == analysis_turing.BALANCED:
        sentences.insert(
            0,
            "Departure from the study: it states accuracy; the mean of sensitivity and specificity takes its place, as "
            "the cases that are analysed are not equally many of both kinds.",
        )
    if row["readers_model"] != data.model("readers"):
        sentences.insert(
            0,
            "Departure from the study: it states random readers; with a single reader they are fixed, and the result "
            "holds for this reader only.",
        )
    elif row["readers_model"] == "random" and row["degenerate"]:
        sentences.insert(
            0, "Departure from the study: without variation among readers, the result holds for these readers only."
        )
    return sentences


def _sources(measure: str) -> tuple[str, ...]:
    if measure == "mrmc_auc_difference":
        return analysis_generators.SOURCES
    return (*analysis_turing.SOURCES, *(analysis_likert.SOURCES[:1] if measure == "likert_difference" else ()))


def _task_of(data: Data, arm: str, task: str, item: str) -> str:
    """The task in which a generator was read: the named one, or the only other one that asks the same question of "
    "it."""
    holders = list(dict.fromkeys(r.task for r in data.first if r.item == item and r.arm == arm and r.kind == "single"))
    if task in holders:
        return task
    if len(holders) != 1:
        raise BadInput(
            f"'{arm}' was not read in the task '{task}', and {len(holders)} other tasks ask '{item}' of it",
            "State the endpoint of a task that holds both generators.",
        )
    return holders[0]


def _difference(data: Data, statement: str) -> Section:
    """Two generators, in one task with common real volumes, or each in a task (tasks may be limited to arms)."""
    p = data.study.primary
    task, item = _item(data)
    first = _arm(data, p.get("arm"))
    others = [a for a in data.generators if a != first]
    second = p.get("arm2") or (others[0] if len(others) == 1 else None)
    if second not in others:
        raise BadInput(f"The primary endpoint names the second arm '{second}', of which there are no answers", "")
    second_task = _task_of(data, second, task, item)
    parts = [
        (first, data.arm_matrix(task, item, first)),
        (second, data.arm_matrix(second_task, item, second)),
    ]
    result, notes = analysis_generators.compare(data, parts, "auc", margin=_margin(data))
    place = {"task": f"{task}, {item}", "measure": "AUC"}
    rows: list[dict[str, Any]] = []
    omnibus: list[dict[str, Any]] = []
    by_reader: list[dict[str, Any]] = []
    analysis_generators.add_result(place, result, notes, data, rows, omnibus, by_reader)
    arms = analysis_generators.values(place, data, parts, "auc")
    d = result.differences[0]
    reasons = analysis_generators.judge(rows, parts)
    equivalent = rows[0].get("equivalent")
    outcome = _outcome(data, d.p if np.isfinite(d.p) else None, equivalent)
    sentences = [outcome, *analysis_generators.difference_sentences(result, "AUC", data, reasons=reasons)]
    if result.readers != data.model("readers"):
        sentences.append("Departure from the study: it states random readers; with a single reader they are fixed.")
    sentences += notes
    keep = [c for c in analysis_generators.DIFFERENCES if c.key != "p_holm"]
    tables = (
        Table("primary", "Primary endpoint", tuple(keep), tuple(rows), statement),
        *analysis_generators.tables([], arms, omnibus, by_reader, "primary_")[1:],
    )
    plots = [
        plot
        for i, (name, matrix) in enumerate(parts)
        if (plot := single_reader.roc_plot(matrix, f"primary_roc_{i}", f"ROC curves, '{name}'")) is not None
    ]
    return Section(
        "primary", "Primary endpoint", "primary", (statement, *sentences), tables, tuple(plots),
        "One endpoint that was fixed before reading: not corrected for other tests.",
        _sources("mrmc_auc_difference"), {"stated": dict(p), "result": result, "notes": list(notes)},
    )  # fmt: skip
