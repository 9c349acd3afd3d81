"""The Turing question: can readers tell the volumes of one generator from real ones?

The averages are over readers and cases as they are drawn (`statistics.single_arm`); the tests of single readers are in
`single_reader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study import habits, single_reader
from SynthDiffusionLib.reader_study.forms import Item
from SynthDiffusionLib.reader_study.selection import Data, Matrix, refused, score_items
from SynthDiffusionLib.reader_study.study import Task
from SynthDiffusionLib.reader_study.tables import Rating
from SynthDiffusionLib.reports.sections import (
    Section,
    Table,
    both_p,
    columns,
    corrected,
    counted,
    degrees,
    family_note,
    interval_text,
    number,
    percent,
)

BALANCED = "Balanced accuracy"
NO_DIFFERENCE = (
    "A difference that is not significant does not show that readers cannot tell the volumes apart; only a test of "
    "equivalence can show that."
)
HABIT = (
    "Equivalence with guessing does not show that the volumes look alike: a reader who gives one answer to most of "
    "them cannot get far from 0.5, in accuracy or AUC, whatever is to be seen. The tables say how often each reader "
    "gave the commonest one."
)
EQUAL = 1e-9  # figures that differ by less are the same: rounding
NO_SPREAD = (
    "The readers' figures do not differ, so that the interval cannot say how other readers would do: it stands for the "
    "cases."
)
SOURCES = (
    "Obuchowski and Rockette, Commun Stat Simul Comput 1995;24:285, for one arm against a value, with the degrees of "
    "freedom of Hillis, Stat Med 2007;26:596. Tests and intervals of values between 0 and 1 are made on the logit "
    "scale "
    "(t and df are those), and the readers' mean square is not taken below what the cases explain; both were chosen by "
    "simulation (module reader_study.statistics.single_arm).",
)
AVERAGES = columns(
    "task|Task",
    "arm|Generator",
    "measure|Measure",
    "n_readers|Readers|int",
    "n_real|Real cases|int",
    "n_synthetic|Synthetic cases|int",
    "value|Value|number",
    "low|from|number",
    "high|to|number",
    "se|SE|number",
    "statistic|t|number",
    "df|df|number",
    "null|against|number",
    "p|p|p",
    "p_holm|p after Holm|p",
    "equivalence_low|Equivalence interval from|number",
    "equivalence_high|to|number",
    "equivalence_p|p of equivalence|p",
    "equivalence_holm|after Holm|p",
    "equivalent|Equivalent|yes",
    "readers_model|Readers|text",
    "cases_model|Cases|text",
    "covariance|Covariance|text",
    "note|Note",
)


def averaged(
    data: Data,
    matrix: Matrix,
    figure: str,
    *,
    null: float = 0.5,
    margin: float | None = None,
    readers: str | None = None,
    used: Sequence[habits.Habit] = (),
) -> tuple[dict[str, Any], Any, tuple[str, ...]]:
    """One generator's figure of merit, averaged over readers, against a value.

    Args:
        matrix: real cases and one arm's; complete or not.
        figure: one of `statistics.figures.FIGURES`.
        readers: "random" or "fixed"; default: as the study says.
        used: what readers answered, where it is not in the matrix (forced choice).

    Returns:
        a row for a table, the SingleArm, and notes.

    Raises:
        BadInput: it cannot be calculated; the message says why.
    """
    from SynthDiffusionLib.reader_study.statistics.single_arm import single_arm

    matrix = matrix.complete()
    model, notes = data.readers_model(matrix.readers)
    model = readers or model
    real, synthetic = (int((matrix.truth == kind).sum()) for kind in (0, 1))
    balanced = figure == "accuracy" and real != synthetic
    if balanced:
        figure = "balanced_accuracy"
        notes = (
            *notes,
            f"There are {real} real and {synthetic} synthetic cases, so that accuracy is the mean of sensitivity and "
            "specificity: the share of right answers of a reader who guesses would not be 50 %.",
        )
    result = single_arm(
        matrix.values,
        matrix.truth,
        figure=figure,
        null=null,
        covariance=data.covariance,
        readers=model,
        cases=data.model("cases"),
        threshold=0.0 if figure in ("accuracy", "balanced_accuracy", "sensitivity", "specificity") else None,
        clusters=matrix.clusters,
        margin=margin,
        alpha=data.alpha,
        confidence=data.confidence,
        reader_names=matrix.readers,
    )
    notes = (*matrix.notes, *notes, *result.notes)
    equal = len(matrix.readers) > 1 and np.ptp([r.value for r in result.reader_values]) < EQUAL
    same = bool(equal) and model == "random" and not result.degenerate
    if same:
        notes = (*notes, NO_SPREAD)
    if matrix.clusters is not None:
        notes = (*notes, "Volumes of one patient or mask count as one cluster.")
    row = {
        "n_readers": len(matrix.readers),
        "n_real": real if figure != "mean" else None,
        "n_synthetic": synthetic,
        "value": result.value,
        "low": result.low,
        "high": result.high,
        "se": result.se,
        "statistic": result.t,
        "df": degrees(result.df),
        "null": result.null,
        "p": result.p if np.isfinite(result.p) else None,
        "readers_model": model,
        "degenerate": result.degenerate,
        "no_spread": same,
        "cases_model": data.model("cases"),
        "covariance": data.covariance,
        "note": " ".join(notes),
    }
    if balanced:
        row["measure"] = BALANCED
    if result.equivalence is not None:
        e = result.equivalence
        row |= {
            "equivalence_low": e.low,
            "equivalence_high": e.high,
            "equivalence_p": e.p,
            "equivalent": e.equivalent,
            "lower": e.lower,
            "upper": e.upper,
        }
        found = used or (habits.of_matrix(matrix, habits.KINDS[figure]) if figure in habits.KINDS else ())
        if figure == "mean_difference":
            row |= habits.judged(row, found, None, "a small difference")
        else:
            row |= habits.judged(row, found, margin)
    return row, result, notes


def verdict(
    row: dict[str, Any], what: str, data: Data, *, chance: str = "guessing", as_percent: bool = True
) -> list[str]:
    """A row of `averaged` in plain sentences; where p-values were corrected (`p_holm`), the corrected one decides."""
    show = percent if as_percent else number
    several = row["n_readers"] > 1
    who = "these readers" if several else "this reader"
    if row["readers_model"] == "random" and not row["degenerate"]:
        who = "these readers and cases like these" if row["no_spread"] else "readers and cases like these"
    what = f"{what} (the primary endpoint)" if row.get("is_primary") else what
    first = (
        f"{what}: {show(row['value'])} {'on average over' if several else 'by'} {counted(row['n_readers'], 'reader')} "
        f"({interval_text(row['low'], row['high'], data.confidence, as_percent)} for {who}); "
        f"{show(row['null'])} is {chance}."
    )
    sentences = [first]
    if row.get("p") is None:
        sentences.append("No p-value can be given: the answers leave no variation to judge by.")
    else:
        shown = both_p(row["p"], row.get("p_holm"))
        deciding = row["p"] if row.get("p_holm") is None else row["p_holm"]
        verb = "is" if deciding < data.alpha else "is not"
        text = f"The difference from {show(row['null'])} {verb} statistically significant ({shown})."
        sentences.append(text if deciding < data.alpha else f"{text} {NO_DIFFERENCE}")
    if row.get("not_judged"):
        shown = both_p(row["equivalence_p"], row.get("equivalence_holm"))
        sentences.append(f"{row['not_judged']} (Two one-sided tests, as a mere number: {shown}.)")
    elif "equivalent" in row:
        limits = f"between {show(row['lower'])} and {show(row['upper'])}"
        sentences.append(
            f"Equivalence with {chance} ({limits}) {'is shown' if row['equivalent'] else 'is not shown'} "
            f"({both_p(row['equivalence_p'], row.get('equivalence_holm'))}, two one-sided tests)."
        )
    return sentences


def said(rows: Sequence[dict[str, Any]], data: Data) -> list[str]:
    """`verdict` of rows with the entries "what" and "chance", after correction; or why there is none."""
    sentences = []
    for row in rows:
        if "value" not in row:
            sentences.append(f"{row['what']}: {row['note']}")
            continue
        shown = verdict(row, row["what"], data, chance=row.get("chance", "guessing"), as_percent=row["as_percent"])
        if any(NO_DIFFERENCE in sentence for sentence in sentences):  # said once is enough
            shown = [sentence.replace(f" {NO_DIFFERENCE}", "") for sentence in shown]
        sentences += shown
    return sentences


def turing_section(data: Data) -> Section | None:
    """Single volumes with a signed confidence, each generator against the real ones; None if the study has none."""
    rows: list[dict[str, Any]] = []
    per_reader: list[dict[str, Any]] = []
    detection: list[dict[str, Any]] = []
    plots: list[dict[str, Any]] = []
    sentences: list[str] = []
    for task in data.tasks("single"):
        for item in score_items(data, task):
            for arm in data.generators:
                _one_arm(data, task, item, arm, rows, per_reader, detection, plots, sentences)
    if not sentences and not rows:
        return None
    corrected(rows, data.alpha)
    sentences += said(rows, data)
    if any(habits.is_shown(row.get("equivalent")) for row in rows):
        sentences.append(HABIT)
    sentences += mean_detection(detection, data)
    margin = data.margin("proportion")
    if margin is None:
        sentences.append("The study names no margin for accuracy or AUC, so equivalence with guessing was not tested.")
    tables = (
        Table(
            "turing_average",
            "Accuracy and AUC, averaged over readers",
            AVERAGES,
            tuple(rows),
            f"Obuchowski-Rockette for one arm against a value. {family_note(rows)}",
        ),
        single_reader.per_reader_table(per_reader, "turing_readers", "Accuracy of each reader", data.alpha, margin),
        Table(
            "turing_detection",
            "Sensitivity, specificity, d' and AUC of each reader",
            single_reader.DETECTION,
            tuple(detection),
            "Positive: called synthetic. d' with the log-linear correction (0.5 added to each count, 1 to each total), "
            "applied to all readers alike. Intervals of proportions are exact; of the AUC, DeLong's on the logit "
            "scale, with patients as clusters.",
        ),
    )
    return Section(
        "turing",
        "Can readers tell synthetic volumes from real ones?",
        "exploratory",
        tuple(sentences),
        tables,
        tuple(plots),
        "Averages and single readers are two families; p-values are corrected within each by Holm's method.",
        (*SOURCES, *single_reader.COUNT_SOURCES, *single_reader.DETECTION_SOURCES, *single_reader.ROC_SOURCES),
    )


def _one_arm(
    data: Data,
    task: Task,
    item: Item,
    arm: str,
    rows: list[dict],
    per_reader: list[dict],
    detection: list[dict],
    plots: list[dict],
    sentences: list[str],
) -> None:
    place = {"task": f"{task.id}, {item.id}", "arm": arm}
    if not any(r.arm == arm for r in data.of(task.id, item.id)):
        return  # another task has this generator
    try:
        matrix = data.arm_matrix(task.id, item.id, arm)
    except BadInput as error:
        sentences.append(f"{arm}: {refused(error)}")
        return
    margin = data.margin("proportion")
    for figure in ("accuracy", "auc"):
        name = "Accuracy" if figure == "accuracy" else "AUC"
        head = {**place, "measure": name, "what": f"{name} for '{arm}' ({task.id})", "as_percent": figure == "accuracy"}
        head["is_primary"] = data.is_primary(figure, task.id, item.id, (arm,))
        try:
            rows.append(_named({**head, **averaged(data, matrix, figure, margin=margin)[0]}, arm, task))
        except BadInput as error:
            rows.append({**head, "note": refused(error)})
    accuracy, details = single_reader.sign_rows(matrix, data.alpha, margin)
    per_reader += [{**place, **row} for row in accuracy]
    detection += [{**place, **row} for row in details]
    number = len(plots)
    if (plot := single_reader.roc_plot(matrix, f"roc_{number}", f"ROC curves, '{arm}' ({task.id})")) is not None:
        plots.append(plot)
    mean = next((r for r in rows if (r["arm"], r["task"]) == (arm, place["task"]) and r["measure"] != "AUC"), {})
    balanced = "balanced_" if mean.get("measure") == BALANCED else ""
    bars = [
        {
            "reader": r["reader"],
            "value": r[f"{balanced}accuracy"],
            "low": r[f"{balanced}low"],
            "high": r[f"{balanced}high"],
        }
        for r in accuracy
        if f"{balanced}accuracy" in r
    ]
    plots.append(
        {
            "id": f"accuracy_{number}",
            "kind": "intervals",
            "title": f"{BALANCED if balanced else 'Accuracy'}, '{arm}' ({task.id})",
            "rows": bars,
            "average": {k: mean.get(k) for k in ("value", "low", "high")},
            "line": 0.5,
            "label": BALANCED if balanced else "Accuracy",
        }
    )


def _named(row: dict[str, Any], arm: str, task: Task) -> dict[str, Any]:
    """A row of `averaged` whose sentence says which accuracy it is."""
    if row["measure"] == BALANCED:
        row["what"] = f"{BALANCED} (mean of sensitivity and specificity) for '{arm}' ({task.id})"
    return row


def habit_sentences(data: Data, matrix: Matrix, figure: str, row: dict[str, Any], signed: bool = True) -> list[str]:
    """What stands behind an accuracy or an AUC: how often readers gave which answer.

    Args:
        figure: "accuracy" or "auc".
        row: of `averaged`.
        signed: whether the sign of an answer is the call; a scale has none.
    """
    whole = matrix.complete()
    levels = habits.of_matrix(whole, habits.LEVEL)
    sentences = []
    if signed:
        called = whole.values > 0
        shares = [percent(float(called[:, whole.truth == kind].mean())) for kind in (1, 0)]
        text = f"Readers called {shares[0]} of the synthetic and {shares[1]} of the real volumes synthetic, on average"
        if figure == "accuracy":
            area, _, _ = averaged(data, matrix, "auc")
            text += f"; AUC {number(area['value'])} ({interval_text(area['low'], area['high'], data.confidence)})"
        sentences.append(f"{text}.")
    if "equivalent" in row:
        sentences.append(habits.usage(levels))
    elif why := habits.reason(levels if figure == "auc" else habits.of_matrix(whole, habits.CALL)):
        sentences.append(f"{habits.upper(why)}.")
    if habits.is_shown(row.get("equivalent")):
        if signed and figure == "auc" and (alike := habits.beyond(habits.of_matrix(whole, habits.CALL))):
            who = habits.upper(habits.told(alike))
            sentences.append(f"{who}: the AUC then rests on the degrees of confidence in one and the same answer.")
        sentences.append(HABIT)
    return sentences


def forced_choice_section(data: Data) -> Section | None:
    """Pairs side by side: how often the synthetic volume is found; None if the study has none."""
    from SynthDiffusionLib.reader_study.statistics.detection import d_prime_2afc

    rows: list[dict[str, Any]] = []
    per_reader: list[dict[str, Any]] = []
    detection: list[dict[str, Any]] = []
    plots: list[dict[str, Any]] = []
    preferences: list[str] = []
    margin = data.margin("proportion")
    for task in data.tasks("forced_choice"):
        for item in data.items(task, ("forced_choice",)):
            for arm in data.generators:
                place = {"task": f"{task.id}, {item.id}", "arm": arm}
                try:
                    matrix = data.matrix(task.id, item.id, [arm], correct_value)
                except BadInput:
                    continue  # another task holds this generator
                head = {**place, "measure": "Proportion correct", "as_percent": True}
                head["what"] = f"The synthetic volume of a pair was found, '{arm}' ({task.id})"
                head["is_primary"] = data.is_primary("forced_choice", task.id, item.id, (arm,))
                mean: dict[str, Any] = {}
                sides = {h.reader: h for h in habits.of_sides(data.of(task.id, item.id), arm)}
                preferences += [
                    f"'{arm}' ({task.id}): {s}" for s in habits.side_warnings([*sides.values()], data.alpha)
                ]
                try:
                    mean, _, _ = averaged(
                        data, matrix, "mean", margin=margin, used=habits.of_choice(data, task.id, item.id, matrix)
                    )
                    rows.append({**head, **mean})
                except BadInput as error:
                    rows.append({**head, "note": refused(error)})
                bars = []
                for reader, values in zip(matrix.readers, matrix.values):
                    there = values[np.isfinite(values)]
                    if not len(there):
                        continue
                    side = sides[reader]
                    row = single_reader.accuracy_row(int(there.sum()), len(there), data.alpha, margin, side)
                    per_reader.append({**place, "reader": reader, **row})
                    d = d_prime_2afc(int(there.sum()), len(there), confidence=data.confidence)
                    place_d = {**place, "reader": reader, "d_prime": d.d_prime, "d_low": d.low, "d_high": d.high}
                    right = side.count if side.answer else side.n - side.count
                    detection.append({**place_d, "right": right, "n": side.n, "side_p": habits.side_p(side)})
                    bars.append({"reader": reader, "value": row["accuracy"], "low": row["low"], "high": row["high"]})
                plots.append(
                    {
                        "id": f"forced_choice_{len(plots)}",
                        "kind": "intervals",
                        "title": f"Forced choice, '{arm}' ({task.id})",
                        "rows": bars,
                        "average": {k: mean.get(k) for k in ("value", "low", "high")},
                        "line": 0.5,
                        "label": "Proportion correct",
                    }
                )
    if not rows:
        return None
    corrected(rows, data.alpha)
    sentences = [*said(rows, data), *preferences, *mean_detection(detection, data)]
    detail_columns = columns(
        "task|Task", "arm|Generator", "reader|Reader", "d_prime|d'|number", "d_low|from|number", "d_high|to|number",
        "right|Answers 'right'|int", "n|of|int", "side_p|p of a side bias|p",
    )  # fmt: skip
    tables = (
        Table("forced_choice_average", "Proportion correct, averaged over readers", AVERAGES, tuple(rows),
              "Obuchowski-Rockette for one arm against a value, figure of merit: mean of correct answers. "
              f"{family_note(rows)}"),
        single_reader.per_reader_table(
            per_reader, "forced_choice_readers", "Proportion correct of each reader", data.alpha, margin
        ),
        Table("forced_choice_detection", "d' and side bias of each reader", detail_columns, tuple(detection),
              "d' = sqrt(2) z(proportion correct), log-linear correction (0.5 added to the count, 1 to the total). "
              "Side bias: exact test that 'right' is chosen half of the time; not corrected, a check of the reading."),
    )  # fmt: skip
    sentences.append("The side that is named in an answer is taken as the one that the reader holds for synthetic.")
    return Section(
        "forced_choice",
        "Can readers find the synthetic volume of a pair?",
        "exploratory",
        tuple(sentences),
        tables,
        tuple(plots),
        "Averages and single readers are two families; p-values are corrected within each by Holm's method.",
        (*SOURCES, *single_reader.COUNT_SOURCES, *single_reader.DETECTION_SOURCES),
    )


def mean_detection(rows: Sequence[dict[str, Any]], data: Data) -> list[str]:
    """d' averaged over readers, one sentence for each task and generator."""
    from SynthDiffusionLib.reader_study.statistics.detection import mean_d_prime

    sentences = []
    for key in dict.fromkeys((row["task"], row["arm"]) for row in rows):
        values = [row["d_prime"] for row in rows if (row["task"], row["arm"]) == key and "d_prime" in row]
        if len(values) > 1:
            mean, low, high = mean_d_prime(np.array(values), data.confidence)
            if np.ptp(values) < EQUAL:  # equal counts of all readers do not make the interval a point
                interval = "no interval over readers can be given, since all have the same d'"
            else:
                interval = f"{interval_text(low, high, data.confidence)} over readers, for these cases"
            sentences.append(f"d' for '{key[1]}' ({key[0]}): {number(mean, 2)} on average ({interval}); 0 is guessing.")
    return sentences


def correct_value(rating: Rating) -> float | None:
    """1 for a right answer, 0 for a wrong one."""
    return None if rating.is_correct is None else float(rating.is_correct)
