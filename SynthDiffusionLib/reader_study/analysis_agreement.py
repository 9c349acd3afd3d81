"""Agreement between readers, and of each reader with the hidden repeats.

The coefficient follows the level of the answers: named answers (choices, yes/no, the call "real" or "synthetic", which
volume of a pair was chosen) take Fleiss's kappa, Gwet's AC1 and Krippendorff's nominal alpha; ordered ones weighted
kappa, ordinal alpha and intraclass correlations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput, MissingExtra
from SynthDiffusionLib.reader_study.analysis_turing import correct_value
from SynthDiffusionLib.reader_study.forms import Item
from SynthDiffusionLib.reader_study.selection import Data, Matrix, refused
from SynthDiffusionLib.reader_study.study import Task
from SynthDiffusionLib.reader_study.tables import Rating
from SynthDiffusionLib.reports.sections import Section, Table, columns, counted, interval_text, number, percent

SOURCES = (
    "Fleiss, Psychol Bull 1971;76:378; Gwet, Br J Math Stat Psychol 2008;61:29 (AC1); Krippendorff, Content Analysis, "
    "2004 (alpha); Cohen, Psychol Bull 1968;70:213 (weighted kappa).",
    "Shrout and Fleiss, Psychol Bull 1979;86:420 (intraclass correlations).",
    "Bland and Altman, Stat Methods Med Res 1999;8:135 (repeatability coefficient).",
    "Words for a coefficient (slight, fair, moderate, ...) are not given: it depends on how often each answer is used.",
)
ALL_ALIKE = "All answers are the same: chance agreement is complete, and no coefficient is defined."
NO_WIDTH = 1e-9  # of an interval: rounding
COEFFICIENTS = columns(
    "task|Task", "item|Question", "level|Level", "name|Coefficient", "value|Value|number", "se|SE|number",
    "low|from|number", "high|to|number", "observed|Observed agreement|number",
    "expected|Expected agreement|number", "observed_disagreement|Observed disagreement|number",
    "expected_disagreement|Expected disagreement|number", "units|Cases|int", "compared|of them with two answers|int",
    "raters|Readers|int", "interval|Interval by", "note|Note",
)  # fmt: skip
PAIRS = columns(
    "task|Task", "item|Question", "first|Reader", "second|Reader", "units|Cases|int", "agreement|Same answer|percent",
    "weights|Weights", "kappa|Kappa|number", "low|from|number", "high|to|number", "note|Note",
)  # fmt: skip
REPEATS = columns(
    "task|Task", "item|Question", "level|Level", "reader|Reader", "pairs|Repeats|int", "agreement|Same answer|percent",
    "low|from|percent", "high|to|percent", "kappa|Kappa|number", "kappa_low|from|number", "kappa_high|to|number",
    "icc|ICC(2,1)|number", "icc_low|from|number", "icc_high|to|number", "within_sd|Within-reader SD|number",
    "repeatability_coefficient|Repeatability coefficient|number", "note|Note",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One thing that readers can agree on.

    Args:
        level: "nominal", "ordinal" or "interval".
        number: an answer as a number; None: no answer.
        categories: all values that were offered, used or not; None: those that occur.
    """

    task: Task
    item: Item
    name: str
    level: str
    number: Callable[[Rating], float | None]
    categories: tuple[float, ...] | None = None


def questions(data: Data) -> list[Question]:
    """Everything that readers can agree on, in the order of the forms."""
    found: list[Question] = []
    for task in [*data.tasks("single"), *data.tasks("forced_choice")]:
        for item in data.items(
            task, ("confidence", "scale", "number", "choice", "boolean", "multiple_choice", "forced_choice")
        ):
            found += _of_item(task, item)
    return found


def agreement_section(data: Data) -> Section | None:
    """Between readers, first readings; None if no question has two readers."""
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    plots: list[dict[str, Any]] = []
    sentences: list[str] = []
    alike: dict[tuple[str, str], list[Question]] = {}
    for question in questions(data):
        matrix = data.matrix(question.task.id, question.item.id, None, question.number)
        if len(matrix.readers) < 2:
            continue
        found = _coefficients(question, matrix, data.confidence)
        rows += found
        if question.item.type == "multiple_choice" and found[0]["name"] == "none":  # one sentence for all clues
            alike.setdefault((question.task.id, question.item.id), []).append(question)
        else:
            sentences += _sentence(question, found, data)
        pairs += _pairs(question, matrix, data.confidence)
    if not rows:
        return None
    sentences += [_alike(same) for same in alike.values()]
    shown = [r for r in rows if r.get("value") is not None and np.isfinite(r["value"]) and is_main(r["name"])]
    if shown:
        bars = [{k: r.get(k) for k in ("item", "name", "value", "low", "high")} for r in shown]
        plots.append({"id": "agreement", "kind": "agreement", "title": "Agreement between readers", "rows": bars})
    tables = (
        Table("agreement", "Agreement between all readers", COEFFICIENTS, tuple(rows),
              "Over the cases that are drawn. Agreement is that of cases with two answers or more; how often an "
              "answer is given by chance is taken from all. A question under a condition is compared only where two "
              "readers were asked. No test is made: that agreement differs from chance is not the question."),
        Table("agreement_pairs", "Agreement of each two readers (Cohen)", PAIRS, tuple(pairs),
              "Quadratic weights for ordered answers."),
    )  # fmt: skip
    return Section(
        "agreement", "Do readers agree with each other?", "exploratory", tuple(sentences), tables, tuple(plots),
        "Estimates with intervals; no tests, hence no correction.", SOURCES,
    )  # fmt: skip


def repeatability_section(data: Data) -> Section | None:
    """Each reader against the own hidden repeats; None if the study has none."""
    second = [r for r in data.ratings if r.phase == "main" and r.presentation == 2]
    if not second:
        return None
    from SynthDiffusionLib.reader_study.statistics.repeatability import repeatability

    rows: list[dict[str, Any]] = []
    for question in questions(data):
        first = {(r.reader, r.unit): question.number(r) for r in data.of(question.task.id, question.item.id)}
        again = [r for r in second if r.task == question.task.id and r.item == question.item.id]
        for reader in sorted({r.reader for r in again}):
            pairs = [(first.get((reader, r.unit)), question.number(r)) for r in again if r.reader == reader]
            pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
            row: dict[str, Any] = {
                "task": question.task.id, "item": question.name, "level": question.level, "reader": reader,
                "pairs": len(pairs),
            }  # fmt: skip
            if pairs:
                row["agreement"] = float(np.mean([a == b for a, b in pairs]))
                try:
                    a, b = np.array(pairs, float).T
                    with np.errstate(invalid="ignore", divide="ignore"):  # constant answers; said in the notes
                        row |= _repeat(repeatability(a, b, question.level, reader, data.confidence))
                except (BadInput, MissingExtra) as error:
                    row["note"] = f"Not calculated: {error.one_line()}"
            rows.append(row)
    known = [r for r in rows if r.get("agreement") is not None]
    if not known:
        return None
    sentences = []
    for key in dict.fromkeys((r["item"], r["task"]) for r in known):
        own = [r for r in known if (r["item"], r["task"]) == key]
        parts = sorted(r["agreement"] for r in own)
        span = percent(parts[0]) if parts[0] == parts[-1] else f"{percent(parts[0])} to {percent(parts[-1])}"
        times = counted(sum(r["pairs"] for r in own), "hidden repeat")
        sentences.append(
            f"{key[0]} ({key[1]}): the same answer again in {span} ({counted(len(own), 'reader')}, {times} in all)."
        )
    few = max(r["pairs"] for r in known)
    if few < 10:
        sentences.append(f"With at most {counted(few, 'repeat')} a reader, these figures are rough.")
    sentences.append("Repeats count here only; all other analyses take first readings.")
    tables = (Table("repeatability", "Each reader's first and second readings", REPEATS, tuple(rows)),)
    return Section(
        "repeatability", "Do readers agree with themselves?", "exploratory", tuple(sentences), tables, (),
        "Estimates with intervals; no tests, hence no correction.", SOURCES,
    )  # fmt: skip


def is_main(name: str) -> bool:
    """Whether a coefficient is one to show first: five that say the same thing are for the table."""
    return any(word in name.lower() for word in ("fleiss", "ac1", "alpha", "icc(2,1)"))


def _of_item(task: Task, item: Item) -> list[Question]:
    name, two = item.text, (0.0, 1.0)

    def plain(rating: Rating) -> float | None:
        return float(rating.value) if isinstance(rating.value, int | float) else None

    match item.type:
        case "confidence" | "scale":
            levels = tuple(sorted(float(option.value) for option in item.options))
            if item.type == "scale":
                return [Question(task, item, name, "ordinal", plain, levels)]
            call = Question(task, item, f"{name} [real or synthetic]", "nominal", lambda r: float(r.value > 0), two)
            return [call, Question(task, item, f"{name} [confidence]", "ordinal", plain, levels)]
        case "number":
            return [Question(task, item, name, "interval", plain)]
        case "boolean":
            return [Question(task, item, name, "nominal", lambda r: float(bool(r.value)), two)]
        case "forced_choice":
            return [Question(task, item, f"{name} [which volume]", "nominal", correct_value, two)]
        case "choice":
            index = {_key(option.value): float(i) for i, option in enumerate(item.options)}
            chosen = tuple(index.values())
            return [Question(task, item, name, "nominal", lambda r: index.get(_key(r.value)), chosen)]
        case _:
            return [
                Question(task, item, f"{name} [{option.label}]", "nominal", _chosen(option.value), two)
                for option in item.options
            ]


def _key(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


def _chosen(wanted: Any) -> Callable[[Rating], float | None]:
    return lambda rating: float(wanted in rating.value) if isinstance(rating.value, list) else None


def _coefficients(question: Question, matrix: Matrix, confidence: float) -> list[dict[str, Any]]:
    from SynthDiffusionLib.reader_study.statistics.agreement import agreement_table
    from SynthDiffusionLib.reader_study.statistics.icc import icc

    place: dict[str, Any] = {"task": question.task.id, "item": question.name, "level": question.level}
    rows: list[dict[str, Any]] = []
    ratings = matrix.values.T
    place["compared"] = int((np.isfinite(ratings).sum(axis=1) > 1).sum())
    there = ratings[np.isfinite(ratings)]
    if len(np.unique(there)) < 2:
        return [{**place, "name": "none", "units": ratings.shape[0], "raters": ratings.shape[1], "note": ALL_ALIKE}]
    try:
        for c in agreement_table(ratings, question.level, question.categories, confidence):
            row = {**place, **{k: getattr(c, k, None) for k in _FIELDS}}
            if c.name.startswith("Krippendorff"):  # defined by disagreement: alpha = 1 - observed / expected
                row |= {f"{k}_disagreement": row.pop(k) for k in ("observed", "expected")}
            rows.append(row)
    except (BadInput, MissingExtra) as error:
        rows.append({**place, "name": "all", "note": f"Not calculated: {error.one_line()}"})
    for row in rows:
        if row.get("low") is not None and row["high"] - row["low"] < NO_WIDTH:  # a width of 0 is not precision
            row |= {"low": None, "high": None, "note": "The cases do not vary in agreement: no interval can be given."}
    if question.level != "nominal":
        whole = ratings[np.isfinite(ratings).all(axis=1)]
        try:
            for form in icc(whole, confidence).forms:
                row = {"name": form.name, "value": form.value, "low": form.low, "high": form.high}
                sizes = {"units": len(whole), "raters": whole.shape[1], "interval": "F distribution"}
                rows.append({**place, **row, **sizes})
        except BadInput as error:
            rows.append({**place, "name": "ICC", "note": refused(error)})
    return rows


_FIELDS = ("name", "value", "se", "low", "high", "observed", "expected", "units", "raters", "interval")


def _sentence(question: Question, rows: list[dict[str, Any]], data: Data) -> list[str]:
    """The one coefficient to quote: Fleiss's kappa for named answers, alpha of the level for ordered ones."""
    wanted = "fleiss" if question.level == "nominal" else "alpha"
    best = next((r for r in rows if wanted in str(r["name"]).lower()), rows[0])
    place = f"{question.name} ({question.task.id})"
    if best.get("value") is None or not np.isfinite(best["value"]):
        return [f"{place}: {best.get('note') or 'no coefficient can be given.'}"]
    return [
        f"{place}: {best['name']} {number(best['value'], 2)} "
        f"({interval_text(best['low'], best['high'], data.confidence)}); 1 is full agreement, 0 what chance gives."
    ]


def _alike(same: Sequence[Question]) -> str:
    """One sentence for the options of a question that every reader ticked, or left, in all cases."""
    first = same[0]
    if len(same) == 1:
        return f"{first.name} ({first.task.id}): {ALL_ALIKE}"
    of = f"{len(same)} of {counted(len(first.item.options), 'option')}"
    return f"{first.item.text} ({first.task.id}), {of}: {ALL_ALIKE}"


def _pairs(question: Question, matrix: Matrix, confidence: float) -> list[dict[str, Any]]:
    from SynthDiffusionLib.reader_study.statistics.agreement import cohen_kappa

    weights = None if question.level == "nominal" else "squared"
    if question.level == "interval":
        return []  # kappa is for a few levels
    rows = []
    for i, j in combinations(range(len(matrix.readers)), 2):
        both = np.isfinite(matrix.values[[i, j]]).all(axis=0)
        a, b = matrix.values[i, both], matrix.values[j, both]
        row: dict[str, Any] = {
            "task": question.task.id, "item": question.name, "first": matrix.readers[i], "second": matrix.readers[j],
            "units": int(both.sum()), "weights": weights or "none",
        }  # fmt: skip
        if both.any():
            row["agreement"] = float((a == b).mean())
            try:
                with np.errstate(invalid="ignore", divide="ignore"):  # constant answers give no kappa
                    c = cohen_kappa(a, b, weights, question.categories, confidence)
                row |= {"kappa": c.value, **_with_width("low", c.low, "high", c.high)}
            except (BadInput, MissingExtra) as error:
                row["note"] = f"Not calculated: {error.one_line()}"
        rows.append(row)
    return rows


def _repeat(result: Any) -> dict[str, Any]:
    row = {k: getattr(result, k) for k in ("agreement", "low", "high", "within_sd", "repeatability_coefficient")}
    row["note"] = " ".join(result.notes)
    if result.kappa is not None:
        row["kappa"] = result.kappa.value
        row |= _with_width("kappa_low", result.kappa.low, "kappa_high", result.kappa.high)
    if result.icc is not None:  # of two readings, which cannot agree less than -1
        row["icc"] = max(result.icc.value, -1.0)
        row |= _with_width("icc_low", max(result.icc.low, -1.0), "icc_high", result.icc.high)
    return row


def _with_width(low_key: str, low: float, high_key: str, high: float) -> dict[str, float]:
    """An interval for a row; none where it has no width, which is not precision."""
    return {low_key: low, high_key: high} if high - low >= NO_WIDTH else {}
