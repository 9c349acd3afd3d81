"""The course of reading: times, learning or fatigue over the sequence, marks, and comments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import MissingExtra
from SynthDiffusionLib.reader_study.selection import Data
from SynthDiffusionLib.reader_study.tables import Rating
from SynthDiffusionLib.reports.sections import (
    Section,
    Table,
    both_p,
    columns,
    counted,
    interval_text,
    number,
    with_holm,
)

TIME_SOURCES = (
    "Times are log-transformed; each reader's mean log ratio is one observation of a t-test, so that readers are "
    "random.",
)
COURSE_SOURCES = (
    "Slope of a logistic regression of right answers on position, one per reader; t interval of the mean over readers "
    "(two-stage analysis: Matthews et al., BMJ 1990;300:230).",
)
MOST_COMMENTS = 2000
TIMES = columns(
    "task|Task", "reader|Reader", "arm|Arm", "n|Readings|int", "median|Median|seconds", "q1|Lower quartile|seconds",
    "q3|Upper quartile|seconds", "untimed|Without time|int",
)  # fmt: skip
RATIOS = columns(
    "task|Task", "arm|Generator", "readers|Readers|int", "ratio|Time, synthetic / real|number", "low|from|number",
    "high|to|number", "t|t|number", "df|df|number", "p|p|p", "p_holm|p after Holm|p", "note|Note",
)  # fmt: skip
SLOPES = columns(
    "task|Task", "what|What", "readers|Readers|int", "value|Change per 10 readings|number", "low|from|number",
    "high|to|number", "t|t|number", "df|df|number", "p|p|p", "p_holm|p after Holm|p", "note|Note",
)  # fmt: skip
BY_READER = columns(
    "task|Task", "reader|Reader", "n|Readings|int", "first_half|Accuracy, first half|percent",
    "second_half|second half|percent", "slope|Change in log odds per 10 readings|number",
    "time_slope|Change in log time per 10 readings|number", "note|Note",
)  # fmt: skip


def presentations(ratings: Sequence[Rating]) -> list[Rating]:
    """One rating for each reader and position: times belong to a reading, not to a question."""
    found: dict[tuple[str, int], Rating] = {}
    for rating in ratings:
        found.setdefault((rating.reader, rating.position), rating)
    return [found[key] for key in sorted(found)]


def times_section(data: Data) -> Section | None:
    """Active reading times by reader and arm; None if no time was recorded."""
    rows: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    sentences: list[str] = []
    for task in [*data.tasks("single"), *data.tasks("forced_choice")]:
        read = [r for r in presentations(data.first) if r.task == task.id]
        if not any(r.active_s is not None for r in read):
            continue
        arms = [a for a in [*data.reals, *data.generators] if any(r.arm == a for r in read)]
        for reader in [*sorted({r.reader for r in read}), "all"]:
            for arm in [*arms, "all"]:
                chosen = [r for r in read if reader in (r.reader, "all") and arm in (r.arm, "all")]
                rows.append({"task": task.id, "reader": reader, "arm": arm, **_quartiles(chosen)})
        overall = rows[-1]
        sentences.append(
            f"A reading of '{task.id}' took {number(overall['median'], 1)} s (median; quartiles "
            f"{number(overall['q1'], 1)} to {number(overall['q3'], 1)} s), without pauses and idle time."
        )
        if task.kind == "single" and data.reals:
            for arm in [a for a in arms if a in data.generators]:
                ratios.append({"task": task.id, "arm": arm, **_ratio(data, read, arm)})
    if not rows:
        return None
    with_holm(ratios)
    for row in ratios:
        if row.get("ratio") is not None:
            sentences.append(
                f"'{row['arm']}' ({row['task']}) took {number(row['ratio'], 2)} times as long as real volumes "
                f"({interval_text(row.get('low'), row.get('high'), data.confidence)}; "
                f"{both_p(row.get('p'), row.get('p_holm'))})."
            )
    tables = (
        Table("times", "Active reading time", TIMES, tuple(rows), "First readings, without training."),
        Table("times_ratio", "Synthetic against real", RATIOS, tuple(ratios),
              "Ratio of geometric means, readers random; Holm's correction within this table."),
    )  # fmt: skip
    return Section(
        "times", "How long did readings take?", "exploratory", tuple(sentences), tables, tuple(_time_plots(data)),
        "Ratios are one family (Holm's method).", TIME_SOURCES,
    )  # fmt: skip


def course_section(data: Data) -> Section | None:
    """Whether accuracy or time changes over the sequence (learning, fatigue); None without right and wrong answers."""
    by_reader: list[dict[str, Any]] = []
    slopes: list[dict[str, Any]] = []
    sentences: list[str] = []
    for task in [*data.tasks("single"), *data.tasks("forced_choice")]:
        answers = [r for r in data.first if r.task == task.id and r.is_correct is not None]
        if not answers:
            continue
        rows = [_course(task.id, reader, answers) for reader in sorted({r.reader for r in answers})]
        by_reader += rows
        for key, what in (("slope", "log odds of a right answer"), ("time_slope", "log active time")):
            slopes.append({"task": task.id, "what": what, **_mean(data, rows, key)})
    if not by_reader:
        return None
    with_holm(slopes)
    for row in slopes:
        if row.get("value") is None:
            sentences.append(f"{row['task']}, {row['what']}: no change can be given. {row['note']}")
            continue
        change = f"{number(row['value'], 2)} per 10 readings"
        sentences.append(
            f"{row['task']}: the {row['what']} changed by {change} "
            f"({interval_text(row.get('low'), row.get('high'), data.confidence)}; "
            f"{both_p(row.get('p'), row.get('p_holm'))})."
        )
    sentences.append("A change can be learning, fatigue, or both; reading without feedback keeps learning small.")
    tables = (
        Table("course", "Change over the sequence, averaged over readers", SLOPES, tuple(slopes),
              "Mean of the readers' slopes with a t interval (readers random); Holm's correction within this table."),
        Table("course_readers", "Each reader", BY_READER, tuple(by_reader), "First readings, by position."),
    )  # fmt: skip
    return Section(
        "course", "Did reading change over the sequence?", "exploratory", tuple(sentences), tables, (),
        "Slopes are one family (Holm's method).", COURSE_SOURCES,
    )  # fmt: skip


def marks_section(data: Data) -> Section | None:
    """Marked points; None if there are none."""
    marks = [r for r in data.ratings if r.item_type == "point" and r.phase == "main" and isinstance(r.value, list)]
    if not marks:
        return None
    rows, summary = [], []
    for r in marks:
        for point in r.value:
            ras = point.get("ras", [None] * 3)
            rows.append(
                {"reader": r.reader, "task": r.task, "item": r.item, "unit": r.unit, "presentation": r.presentation,
                 "arm": _arm_of(r, point), "volume": point.get("volume"), "r": ras[0], "a": ras[1], "s": ras[2]}
            )  # fmt: skip
    first = [r for r in marks if r.is_first]
    for key in sorted({(r.task, r.item, _arm_of(r, point)) for r in first for point in r.value}):
        counts = [sum(_arm_of(r, point) == key[2] for point in r.value) for r in first if (r.task, r.item) == key[:2]]
        asked = {
            (r.reader, r.position)
            for r in data.first
            if r.task == key[0] and (r.kind == "forced_choice" or r.arm == key[2])
        }
        points, marked = sum(counts), sum(c > 0 for c in counts)
        row = {"task": key[0], "item": key[1], "arm": key[2], "readings": len(asked), "marked": marked}
        summary.append({**row, "points": points, "part": marked / len(asked)})
    sentences = [
        f"'{r['arm']}' ({r['task']}, {r['item']}): {counted(r['points'], 'mark')} in {r['marked']} of "
        f"{counted(r['readings'], 'reading')}."
        for r in summary
    ]
    tables = (
        Table("marks_summary", "Marks by arm", columns(
            "task|Task", "item|Question", "arm|Arm", "readings|Readings|int", "marked|With a mark|int",
            "part|Part|percent",
            "points|Marks|int"), tuple(summary), "First readings."),
        Table("marks", "Every mark", columns(
            "reader|Reader", "task|Task", "item|Question", "unit|Unit", "presentation|Presentation|int", "arm|Arm",
            "volume|Volume", "r|R (mm)|number", "a|A (mm)|number", "s|S (mm)|number"), tuple(rows),
            "RAS coordinates of the volumes as shown."),
    )  # fmt: skip
    return Section("marks", "Where did readers put marks?", "exploratory", tuple(sentences), tables)


def _arm_of(rating: Rating, point: Mapping[str, Any]) -> str:
    """Of the volume that a mark is on: beside a synthetic one, a forced choice shows a real one."""
    if rating.kind != "forced_choice":
        return rating.arm
    synthetic = rating.volume_right if rating.truth == 1 else rating.volume_left
    return rating.arm if point.get("volume") == synthetic else "real"


def comments_section(data: Data) -> Section | None:
    """Free text and answers that are given once a study; None if there are none."""
    said = [r for r in data.ratings if (r.item_type == "text" or r.position < 0) and r.phase != "training"]
    if not said:
        return None
    rows = [
        {"reader": r.reader, "task": r.task, "item": r.item, "arm": r.arm, "unit": r.unit, "position": r.position,
         "value": r.value if isinstance(r.value, str) else str(r.value)}
        for r in said[:MOST_COMMENTS]
    ]  # fmt: skip
    sentences = [f"Readers wrote {counted(len(said), 'answer')} in their own words or at the end of the study."]
    if len(said) > MOST_COMMENTS:
        sentences.append(f"The first {MOST_COMMENTS} are listed; the long table has all.")
    shown = columns(
        "reader|Reader", "task|Task", "item|Question", "arm|Arm", "unit|Unit", "position|Position|int", "value|Text"
    )
    return Section("comments", "What did readers write?", "exploratory", tuple(sentences), (Table("comments", "Free text", shown, tuple(rows)),))  # fmt: skip  # noqa: E501


def _quartiles(ratings: Sequence[Rating]) -> dict[str, Any]:
    times = [r.active_s for r in ratings if r.active_s is not None]
    row: dict[str, Any] = {"n": len(ratings), "untimed": len(ratings) - len(times)}
    if times:
        q1, median, q3 = np.percentile(times, (25, 50, 75))
        row |= {"median": float(median), "q1": float(q1), "q3": float(q3)}
    return row


def _ratio(data: Data, read: Sequence[Rating], arm: str) -> dict[str, Any]:
    differences = []
    for reader in sorted({r.reader for r in read}):
        logs = [
            [math.log(r.active_s) for r in read if r.reader == reader and r.arm in chosen and (r.active_s or 0) > 0]
            for chosen in ([arm], data.reals)
        ]
        if all(logs):
            differences.append(float(np.mean(logs[0]) - np.mean(logs[1])))
    row = _t_interval(differences, data.confidence)
    if row.get("value") is None:
        return {"readers": len(differences), "note": "No reader has times of both."}
    found = {"ratio": math.exp(row["value"]), **{k: row.get(k) for k in ("t", "df", "p", "note", "readers")}}
    return found | {k: math.exp(row[k]) for k in ("low", "high") if row.get(k) is not None}


def _t_interval(values: Sequence[float], confidence: float) -> dict[str, Any]:
    """Mean of one number a reader, against 0; with fewer than two readers, the mean alone."""
    from scipy.stats import t as student

    if not values:
        return {"readers": 0}
    row: dict[str, Any] = {"readers": len(values), "value": float(np.mean(values))}
    if len(values) < 2:
        return row | {"note": "One reader: no interval over readers can be given."}
    se, df = float(np.std(values, ddof=1)) / math.sqrt(len(values)), len(values) - 1
    if se < 1e-9:  # rounding is no variation
        return row | {"note": "All readers have the same value: no interval can be given."}
    half = float(student.ppf(0.5 + confidence / 2, df)) * se
    t = row["value"] / se
    return row | {"low": row["value"] - half, "high": row["value"] + half, "t": t, "df": df, "p": float(2 * student.sf(abs(t), df))}  # fmt: skip  # noqa: E501


def _course(task: str, reader: str, answers: Sequence[Rating]) -> dict[str, Any]:
    own = sorted((r for r in answers if r.reader == reader), key=lambda r: r.position)
    right = np.array([bool(r.is_correct) for r in own], float)
    place = np.array([r.position for r in own], float) / 10.0
    half = len(own) // 2
    row: dict[str, Any] = {"task": task, "reader": reader, "n": len(own)}
    if half:
        row |= {"first_half": float(right[:half].mean()), "second_half": float(right[half:].mean())}
    row["slope"], note = _logistic_slope(place, right)
    if note:
        row["note"] = note
    timed = [(p, math.log(r.active_s)) for p, r in zip(place, own) if (r.active_s or 0) > 0]
    x = np.array([p for p, _ in timed])
    if len(timed) > 2 and np.ptp(x) > 0:
        row["time_slope"] = float(np.polyfit(x, [t for _, t in timed], 1)[0])
    return row


def _logistic_slope(x: np.ndarray, right: np.ndarray) -> tuple[float | None, str]:
    """Change in log odds per unit of x, or why there is none."""
    if len(x) < 5 or np.ptp(x) == 0:
        return None, "Too few readings for a slope."
    if right.min() == right.max():
        return None, "All answers are right, or all wrong: no slope is defined."
    lowest, highest = x[right == 1].min(), x[right == 1].max()
    if highest <= x[right == 0].min() or lowest >= x[right == 0].max():
        return None, "Right and wrong answers do not overlap in the sequence: the slope is infinite."
    try:
        import statsmodels.api as sm
    except ImportError as error:
        raise MissingExtra("The analysis of a reader study", "study") from error
    return float(sm.GLM(right, sm.add_constant(x), family=sm.families.Binomial()).fit().params[1]), ""


def _mean(data: Data, rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    known = [row[key] for row in rows if row.get(key) is not None]
    result = _t_interval(known, data.confidence)
    lacking = [row["reader"] for row in rows if row.get(key) is None]
    notes = [result.get("note", "")] if result.get("note") else []
    if lacking:
        notes.append(f"Without {', '.join(lacking)}, for whom no slope is defined.")
    return result | {"note": " ".join(notes) or ""}


def _time_plots(data: Data) -> list[dict[str, Any]]:
    plots = []
    for task in [*data.tasks("single"), *data.tasks("forced_choice")]:
        read = [r for r in presentations(data.first) if r.task == task.id and (r.active_s or 0) > 0]
        if read:
            points = [{"reader": r.reader, "position": r.position + 1, "seconds": r.active_s} for r in read]
            title = f"Active time over the sequence ({task.id})"
            plots.append({"id": f"times_{len(plots)}", "kind": "times", "title": title, "points": points})
    return plots
