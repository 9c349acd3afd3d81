"""Two or more generators: multi-reader multi-case analysis of Obuchowski and Rockette.

Generators that were read against the same real volumes share those cases, and synthetic volumes of two generators are
paired only if they were made for the same mask. Cases are therefore named by what was sampled: a real volume by its
opaque ID, a synthetic one by its pair, so that the formulas see which cases are in common. Data in which not every
reader read every case of every generator go to the partly paired form, never to the fully crossed one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study import habits
from SynthDiffusionLib.reader_study.analysis_turing import NO_DIFFERENCE, averaged, correct_value
from SynthDiffusionLib.reader_study.selection import Data, Matrix, refused, score_items
from SynthDiffusionLib.reader_study.tables import Rating
from SynthDiffusionLib.reports.sections import (
    Section,
    Table,
    both_p,
    columns,
    degrees,
    family_note,
    interval_text,
    number,
    p_text,
    with_holm,
)

SOURCES = (
    "Obuchowski and Rockette, Commun Stat Simul Comput 1995;24:285; Hillis, Stat Med 2007;26:596 (degrees of freedom). "
    "With the jackknife covariance this is the analysis of Dorfman, Berbaum and Metz, Invest Radiol 1992;27:723 "
    "(Hillis et al., Stat Med 2005;24:1579).",
    "Obuchowski, Acad Radiol 1995;2:S22 (partly paired designs); DeLong et al., Biometrics 1988;44:837.",
)
DIFFERENCES = columns(
    "task|Task",
    "measure|Measure",
    "first|First",
    "second|Second",
    "difference|First - second|number",
    "low|from|number",
    "high|to|number",
    "se|SE|number",
    "df|df|number",
    "t|t|number",
    "p|p|p",
    "p_holm|p after Holm|p",
    "equivalence_p|p of equivalence|p",
    "equivalent|Equivalent|yes",
    "design|Design",
    "note|Note",
)
ARMS = columns(
    "task|Task", "measure|Measure", "arm|Generator", "value|Value|number", "low|from|number", "high|to|number",
    "se|SE|number", "df|df|number",
)  # fmt: skip
OMNIBUS = columns(
    "task|Task", "measure|Measure", "statistic_name|Statistic", "statistic|Value|number", "df1|df1|number",
    "df2|df2|number", "p|p|p", "mst|MS(T)|number6", "mstr|MS(TR)|number6", "msr|MS(R)|number6",
    "error|Error variance|number6", "cov1|Cov1|number6", "cov2|Cov2|number6", "cov3|Cov3|number6",
    "var_r|Var(R)|number6", "var_tr|Var(TR)|number6", "readers|Readers|int", "cases|Cases|int", "covariance|Covariance",
)  # fmt: skip
BY_READER = columns(
    "task|Task", "measure|Measure", "reader|Reader", "first|First", "second|Second", "difference|First - second|number",
    "low|from|number", "high|to|number", "se|SE|number", "p|p|p", "p_holm|p after Holm|p",
)  # fmt: skip


def compare(
    data: Data,
    parts: Sequence[tuple[str, Matrix]],
    figure: str,
    *,
    margin: float | None = None,
) -> tuple[Any, tuple[str, ...]]:
    """Obuchowski-Rockette over generators.

    Args:
        parts: (generator, its cases with the real ones it is judged against), one per treatment.
        figure: one of `statistics.figures.FIGURES`.

    Returns:
        the ObuchowskiRockette, and notes.

    Raises:
        BadInput: readers differ, cases are incomplete, or the formulas refuse.
    """
    from SynthDiffusionLib.reader_study.statistics.mrmc import (
        obuchowski_rockette,
        or_partly_paired,
        readings_from_long,
    )

    parts = [(name, matrix.complete()) for name, matrix in parts]
    notes = tuple(dict.fromkeys(note for _, matrix in parts for note in matrix.notes))
    readers = set(parts[0][1].readers)
    if any(set(matrix.readers) != readers for _, matrix in parts):
        raise BadInput("Not every reader read every generator", "Merge without the readers who did not (exclude).")
    if figure == "accuracy" and any(2 * matrix.truth.sum() != len(matrix.truth) for _, matrix in parts):
        figure = "balanced_accuracy"
        notes = (*notes, "Real and synthetic cases are not equally many: accuracy is the mean of sensitivity and "
                 "specificity.")  # fmt: skip
    rows = [row for name, matrix in parts for row in _long(name, matrix, is_paired(parts))]
    reader, treatment, case, truth, rating, cluster = (list(column) for column in zip(*rows))
    owner: dict[str, str] = {}
    for c, k in zip(case, cluster):
        owner.setdefault(c, k)
    clustered = len(set(owner.values())) < len(owner)
    readings = readings_from_long(
        reader, treatment, case, truth, rating, [owner[c] for c in case] if clustered else None
    )
    model, model_notes = data.readers_model(sorted(readers))
    method = obuchowski_rockette if readings.crossed else or_partly_paired
    result = method(
        readings.ratings,
        readings.truth,
        figure=figure,
        covariance=data.covariance,
        readers=model,
        cases=data.model("cases"),
        threshold=0.0 if figure in ("accuracy", "balanced_accuracy") else None,
        clusters=readings.clusters if clustered else None,
        margin=margin,
        alpha=data.alpha,
        confidence=data.confidence,
        treatment_names=readings.treatments,
        reader_names=readings.readers,
    )
    return result, (*notes, *model_notes, *result.notes)


def parts_of(
    data: Data, task: str, item: str, arms: Sequence[str], value: Callable[[Rating], float | None] | None = None
) -> list[tuple[str, Matrix]]:
    """Each generator with the real cases of the task (none in a forced choice)."""
    forced = data.study.tasks[task].kind == "forced_choice"
    return [
        (arm, data.matrix(task, item, [arm], value) if forced else data.arm_matrix(task, item, arm, value))
        for arm in arms
    ]


def generators_section(data: Data) -> Section | None:
    """All generators of a task against each other; None if there are fewer than two."""
    rows: list[dict[str, Any]] = []
    arms: list[dict[str, Any]] = []
    omnibus: list[dict[str, Any]] = []
    by_reader: list[dict[str, Any]] = []
    results: list[tuple[str, Any, int]] = []
    sentences: list[str] = []
    for task in [*data.tasks("single"), *data.tasks("forced_choice")]:
        forced = task.kind == "forced_choice"
        for item in data.items(task, ("forced_choice",)) if forced else score_items(data, task):
            here = sorted({r.arm for r in data.of(task.id, item.id)} & set(data.generators))
            if len(here) < 2:
                continue
            for figure, name in (
                (("mean", "Proportion correct"),) if forced else (("auc", "AUC"), ("accuracy", "Accuracy"))
            ):
                place = {"task": f"{task.id}, {item.id}", "measure": name}
                try:
                    parts = parts_of(data, task.id, item.id, here, correct_value if forced else None)
                    result, notes = compare(data, parts, figure)
                except BadInput as error:
                    rows.append({**place, "note": refused(error)})
                    sentences.append(f"{name} of {', '.join(here)}: {refused(error)}")
                    continue
                add_result(place, result, notes, data, rows, omnibus, by_reader)
                arms += values(place, data, parts, figure)
                for row in rows[len(rows) - len(result.differences) :]:
                    named = (row["first"], row["second"])
                    row["is_primary"] = figure == "auc" and data.is_primary(
                        "mrmc_auc_difference", task.id, item.id, named, 0.0
                    )
                results.append((name, result, len(rows) - len(result.differences)))
    if not rows:
        return None
    with_holm(rows)
    with_holm(by_reader)
    for name, result, start in results:
        corrected = [row["p_holm"] for row in rows[start : start + len(result.differences)]]
        sentences += difference_sentences(result, name, data, corrected)
    sentences = list(dict.fromkeys(sentences))
    return Section(
        "generators",
        "Do generators differ?",
        "exploratory",
        tuple(sentences),
        tables(rows, arms, omnibus, by_reader, ""),
        (),
        f"Differences of generators are one family: {family_note(rows)} Those of single readers are another.",
        SOURCES,
    )


def tables(rows: list, arms: list, omnibus: list, by_reader: list, prefix: str) -> tuple[Table, ...]:
    """The tables of `add_result`."""
    return (
        Table(f"{prefix}generators", "Differences between generators", DIFFERENCES, tuple(rows),
              "Obuchowski-Rockette. Cases in common: real volumes that both generators are judged against, and "
              "synthetic volumes of the same mask."),
        Table(f"{prefix}generators_values", "Each generator", ARMS, tuple(arms)),
        Table(f"{prefix}generators_components", "Test of all generators, and variance components", OMNIBUS,
              tuple(omnibus),
              "The jackknife covariance gives the analysis of Dorfman, Berbaum and Metz."),
        Table(f"{prefix}generators_readers", "Differences of each reader", BY_READER, tuple(by_reader)),
    )  # fmt: skip


def add_result(
    place: dict[str, Any],
    result: Any,
    notes: Sequence[str],
    data: Data,
    rows: list[dict[str, Any]],
    omnibus: list[dict[str, Any]],
    by_reader: list[dict[str, Any]],
) -> None:
    """Puts an ObuchowskiRockette into the rows of the tables."""
    design = "partly paired" if result.partly_paired else "all cases in common"
    for d in result.differences:
        row = {
            **place,
            **{k: getattr(d, k) for k in ("first", "second", "se", "t", "low", "high")},
            "df": degrees(d.df),
            "difference": d.value,
            "p": d.p if np.isfinite(d.p) else None,
            "design": f"{design}; readers {result.readers}, cases {result.cases}",
            "note": " ".join(notes),
        }
        if d.equivalence is not None:
            row |= {"equivalence_p": d.equivalence.p, "equivalent": d.equivalence.equivalent}
        rows.append(row)
    c = result.components
    names = ("mst", "mstr", "msr", "error", "cov1", "cov2", "cov3", "var_r", "var_tr", "readers", "cases")
    omnibus.append(
        {
            **place,
            **{k: getattr(result, k) for k in ("statistic", "statistic_name", "df1", "p")},
            "df2": degrees(result.df2),
            **{k: getattr(c, k) for k in names},
            "covariance": data.covariance,
        }
    )
    for r in result.reader_differences:
        keys = ("reader", "first", "second", "difference", "low", "high", "se", "p")
        by_reader.append({**place, **{k: getattr(r, k) for k in keys}})


def values(place: dict[str, Any], data: Data, parts: Sequence[tuple[str, Matrix]], figure: str) -> list[dict[str, Any]]:
    """Each generator's own figure, with the interval that it has everywhere (`analysis_turing.averaged`)."""
    keys = ("value", "low", "high", "se", "df")
    rows = []
    for name, matrix in parts:
        row, _, _ = averaged(data, matrix, figure)
        rows.append(
            {**place, "measure": row.get("measure", place["measure"]), "arm": name, **{k: row[k] for k in keys}}
        )
    return rows


def judge(rows: Sequence[dict[str, Any]], parts: Sequence[tuple[str, Matrix]]) -> list[str]:
    """Takes verdicts on equivalence back where a reader gave nearly one answer to all volumes of a generator's task.

    Args:
        rows: of `add_result`; those with a verdict are changed.
        parts: as of `compare`.

    Returns:
        the reason for each row, "" where the verdict stands or there is none.
    """
    used = {name: habits.of_matrix(matrix.complete(), habits.LEVEL) for name, matrix in parts}
    reasons = []
    for row in rows:
        both = list(dict.fromkeys([*used.get(row["first"], ()), *used.get(row["second"], ())]))
        found = habits.judged(row, both, None, "a small difference") if "equivalent" in row else {}
        row |= found
        reasons.append(found.get("not_judged", ""))
    return reasons


def difference_sentences(
    result: Any,
    name: str,
    data: Data,
    corrected: Sequence[float | None] | None = None,
    reasons: Sequence[str] | None = None,
) -> list[str]:
    """The differences of an ObuchowskiRockette in plain words; a corrected p-value decides where there is one.

    Args:
        reasons: of `judge`, where there is a margin.
    """
    sentences = []
    for i, d in enumerate(result.differences):
        holm = None if corrected is None else corrected[i]
        p, deciding = both_p(d.p, holm), d.p if holm is None else holm
        text = (
            f"{name}, '{d.first}' less '{d.second}': {number(d.value)} "
            f"({interval_text(d.low, d.high, data.confidence)}; {p})."
        )
        if np.isfinite(deciding) and deciding < data.alpha:
            text += " The difference is statistically significant."
        elif np.isfinite(deciding):
            text += " The difference is not statistically significant. " + NO_DIFFERENCE.replace(
                "readers cannot tell the volumes apart", "the generators are equally good"
            )
        if reasons is not None and reasons[i]:
            text += f" {reasons[i]} (Two one-sided tests, as a mere number: {p_text(d.equivalence.p)}.)"
        elif d.equivalence is not None:
            limits = f"{number(d.equivalence.lower)} to {number(d.equivalence.upper)}"
            text += (
                f" Equivalence (a difference within {limits}) "
                f"{'is shown' if d.equivalence.equivalent else 'is not shown'}"
                f" ({p_text(d.equivalence.p)})."
            )
        sentences.append(text)
    if result.partly_paired:
        sentences.append(
            "The generators have only a part of their cases in common, which the standard errors take into account "
            "(partly paired design)."
        )
    return sentences


def is_paired(parts: Sequence[tuple[str, Matrix]]) -> bool:
    """Whether a pair's name says which synthetic volumes belong together: no generator has two of one pair."""
    for _, matrix in parts:
        names = [p for p, truth in zip(matrix.pairs, matrix.truth) if truth == 1]
        if len(set(names)) < len(names) or not all(names):
            return False
    return True


def _long(name: str, matrix: Matrix, paired: bool) -> list[tuple[str, str, str, int, float, str]]:
    """(reader, treatment, case, truth, rating, patient), the case named by what was sampled."""
    rows = []
    for j, truth in enumerate(matrix.truth):
        if truth == 0:
            case = f"real {matrix.volumes[j]}"
        else:
            case = f"pair {matrix.pairs[j]}" if paired else f"unit {matrix.cases[j]}"
        for i, reader in enumerate(matrix.readers):
            rows.append((reader, name, case, int(truth), float(matrix.values[i, j]), matrix.patients[j]))
    return rows
