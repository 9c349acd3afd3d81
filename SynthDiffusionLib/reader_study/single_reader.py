"""Each reader alone: counts with exact intervals, d', ROC points. Answers of one reader to different cases are
independent, so that binomial tests hold here; pooled over readers they would not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study import habits
from SynthDiffusionLib.reader_study.selection import Matrix
from SynthDiffusionLib.reports.sections import Table, columns, corrected, family_note, plain

if TYPE_CHECKING:
    from SynthDiffusionLib.reader_study.statistics.single_arm import ReaderFigure

COUNT_SOURCES = (
    "Clopper and Pearson, Biometrika 1934;26:404 (exact interval); Wilson, JASA 1927;22:209 (score interval).",
    "Schuirmann, J Pharmacokinet Biopharm 1987;15:657 (two one-sided tests of equivalence), here exact binomial tests.",
)
DETECTION_SOURCES = (
    "Macmillan and Creelman, Detection Theory: A User's Guide, 2005 (d', criterion c, beta).",
    "Hautus, Behav Res Methods 1995;27:46 (log-linear correction: 0.5 is added to each count, 1 to each total).",
)
ROC_SOURCES = (
    "DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837 (empirical AUC with its variance).",
    "Chen and Samuelson, Br J Radiol 2014;87:20140016 (average of ROC curves over readers at equal 1 - specificity).",
)

PER_READER = columns(
    "task|Task",
    "arm|Generator",
    "reader|Reader",
    "correct|Correct|int",
    "n|Answers|int",
    "accuracy|Accuracy|percent",
    "low|Exact interval from|percent",
    "high|to|percent",
    "wilson_low|Wilson interval from|percent",
    "wilson_high|to|percent",
    "p|p (exact, two-sided)|p",
    "p_holm|p after Holm|p",
    "equivalence_p|p of equivalence|p",
    "equivalence_holm|after Holm|p",
    "equivalent|Equivalent|yes",
)


BALANCED = columns(
    "balanced_accuracy|Balanced accuracy|percent", "balanced_low|from|percent", "balanced_high|to|percent"
)


def accuracy_row(
    correct: int, n: int, alpha: float, margin: float | None, habit: habits.Habit, null: float = 0.5
) -> dict[str, Any]:
    """Exact test against `null`, intervals, and the equivalence test if there is a margin and `habit` allows it."""
    from SynthDiffusionLib.reader_study.statistics.proportions import exact_test, tost_exact

    test = exact_test(correct, n, null, 1.0 - alpha)
    row = {
        "correct": correct,
        "n": n,
        "accuracy": test.value,
        "low": test.low,
        "high": test.high,
        "wilson_low": test.wilson_low,
        "wilson_high": test.wilson_high,
        "p": test.p,
    }
    if margin is not None:
        equivalence = tost_exact(correct, n, null, margin, alpha)
        verdict = habit.cell() if habits.beyond([habit], margin) else equivalence.equivalent
        row |= {"equivalence_p": equivalence.p, "equivalent": verdict}
    return row


def per_reader_table(
    rows: list[dict[str, Any]], table_id: str, title: str, alpha: float, margin: float | None
) -> Table:
    """Rows of `accuracy_row` with reader, arm and task; adds the correction for several tests."""
    corrected(rows, alpha)
    shown = PER_READER if margin is not None else PER_READER[:-3]
    note = (
        "Exact binomial test against 50 %, or where real and synthetic cases are not equally many, Fisher's exact test "
        f"of call against truth; {100 * (1 - alpha):g} % intervals for one reader alone. {family_note(rows)}"
    )
    if any("balanced_accuracy" in row for row in rows):
        shown = (*shown[:8], *BALANCED, *shown[8:])
        note += (
            " Balanced accuracy is the mean of sensitivity and specificity (interval on the logit scale). Only it can "
            "be held against 50 %: a reader who guesses, but likes one answer, gets another share right."
        )
    if margin is not None:
        note += (
            f" Equivalence: within {100 * margin:g} percentage points of 50 % (two one-sided exact tests, Holm too); "
            f"not judged of readers who gave one answer to {100 * habits.limit(margin):g} % of the volumes or more."
        )
    return Table(table_id, title, shown, tuple(rows), note)


def sign_rows(matrix: Matrix, alpha: float, margin: float | None) -> tuple[list[dict], list[dict]]:
    """Of signed confidences: rows of accuracy, and rows of sensitivity, specificity, AUC and d', one per reader."""
    from SynthDiffusionLib.reader_study.statistics.detection import d_prime_yes_no
    from SynthDiffusionLib.reader_study.statistics.proportions import exact_test

    accuracy, detection = [], []
    for reader, values in zip(matrix.readers, matrix.values):
        there = np.isfinite(values)
        called, truth = values[there] > 0, matrix.truth[there] == 1
        if not there.any():
            continue
        hits, signal = int((called & truth).sum()), int(truth.sum())
        false_alarms, noise = int((called & ~truth).sum()), int((~truth).sum())
        own_calls = habits.commonest(reader, habits.CALL, called.astype(float), truth)
        right = accuracy_row(int((called == truth).sum()), len(truth), alpha, margin, own_calls)
        if signal != noise:  # guessing is not right in 50 %: what is tested is whether the call depends on the truth
            from scipy.stats import fisher_exact

            table = [[hits, signal - hits], [false_alarms, noise - false_alarms]]
            right = {k: v for k, v in right.items() if not k.startswith("equiv")} | {
                "p": float(fisher_exact(table).pvalue)
            }
            if signal and noise:
                own = _alone(matrix.of_cases(there), reader, "balanced_accuracy", alpha)
                right |= {"balanced_accuracy": own.value, "balanced_low": own.low, "balanced_high": own.high}
        accuracy.append({"reader": reader, **right})
        level = habits.commonest(reader, habits.LEVEL, values[there], truth)
        row: dict[str, Any] = {"reader": reader, "signal": signal, "noise": noise}
        row |= {"levels": level.used, "commonest": level.share}
        for name, k, n in (("sensitivity", hits, signal), ("specificity", noise - false_alarms, noise)):
            if n:
                test = exact_test(k, n, confidence=1.0 - alpha)
                row |= {name: test.value, f"{name}_low": test.low, f"{name}_high": test.high}
        try:
            d = d_prime_yes_no(hits, signal, false_alarms, noise, confidence=1.0 - alpha)
            row |= {"d_prime": d.d_prime, "d_low": d.low, "d_high": d.high, "criterion": d.criterion, "beta": d.beta}
            area = _alone(matrix.of_cases(there), reader, "auc", alpha)
            row |= {"auc": area.value, "auc_se": area.se, "auc_low": area.low, "auc_high": area.high}
        except BadInput as error:
            row["note"] = error.one_line()
        detection.append(row)
    return accuracy, detection


def _alone(matrix: Matrix, reader: str, figure: str, alpha: float) -> ReaderFigure:
    """One reader's figure with its interval over cases, patients as clusters, as where it stands beside the average."""
    from SynthDiffusionLib.reader_study.statistics.single_arm import single_arm

    row = matrix.readers.index(reader)
    result = single_arm(
        matrix.values[row : row + 1],
        matrix.truth,
        figure=figure,
        readers="fixed",
        threshold=0.0 if figure == "balanced_accuracy" else None,
        clusters=matrix.clusters,
        alpha=alpha,
        confidence=1.0 - alpha,
    )
    return result.reader_values[0]


DETECTION = columns(
    "task|Task",
    "arm|Generator",
    "reader|Reader",
    "signal|Synthetic|int",
    "noise|Real|int",
    "levels|Levels used|int",
    "commonest|Share of the commonest level|percent",
    "sensitivity|Synthetic called synthetic|percent",
    "sensitivity_low|from|percent",
    "sensitivity_high|to|percent",
    "specificity|Real called real|percent",
    "specificity_low|from|percent",
    "specificity_high|to|percent",
    "d_prime|d'|number",
    "d_low|from|number",
    "d_high|to|number",
    "criterion|Criterion c|number",
    "beta|beta|number",
    "auc|AUC|number",
    "auc_se|SE|number",
    "auc_low|from|number",
    "auc_high|to|number",
    "note|Note",
)


def roc_plot(matrix: Matrix, plot_id: str, title: str) -> dict[str, Any] | None:
    """Empirical ROC curves of the readers and their average at equal 1 - specificity, for `plots`.

    The area under the average is the average of the areas.
    """
    from SynthDiffusionLib.reader_study.statistics.curves import roc_points

    curves = []
    for reader, values in zip(matrix.readers, matrix.values):
        there = np.isfinite(values)
        truth = matrix.truth[there]
        if truth.min(initial=1) == 1 or truth.max(initial=0) == 0:
            continue
        points = roc_points(values[there], truth)
        curves.append((reader, np.asarray(points.false_positive, float), np.asarray(points.true_positive, float)))
    if not curves:
        return None
    x, y = average_curve([c[1] for c in curves], [c[2] for c in curves])
    readers = [{"reader": r, "false_positive": plain(a), "true_positive": plain(b)} for r, a, b in curves]
    average = {"false_positive": plain(x), "true_positive": plain(y)}
    return {"id": plot_id, "kind": "roc", "title": title, "readers": readers, "average": average}


def average_curve(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of piecewise linear curves over x in [0, 1], steps kept.

    Args:
        xs, ys: points of each curve from (0, 0) to (1, 1), x not falling.

    Returns:
        points of the average; where a curve steps, both ends of the step.
    """
    grid = np.unique(np.concatenate(xs))
    below, above = [], []
    for x, y in zip(xs, ys):
        order = np.lexsort((y, x))
        x, y = x[order], y[order]
        low, high = np.empty(len(grid)), np.empty(len(grid))
        for i, g in enumerate(grid):
            at = np.flatnonzero(x == g)
            low[i] = y[at[0]] if len(at) else np.interp(g, x, y)
            high[i] = y[at[-1]] if len(at) else low[i]
        below.append(low)
        above.append(high)
    low, high = np.mean(below, axis=0), np.mean(above, axis=0)
    return np.repeat(grid, 2), np.stack([low, high], 1).ravel()
