"""Tables for other programs: long and wide CSV, iMRMC, MRMCaov and RJafroc.

The formats of multi-reader programs take one rating per reader, case and modality. Here a modality is a generator, and
a case is a volume. Real volumes serve every generator: each one's only reading is written once per modality. Only
first readings outside of training are written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.analysis_generators import is_paired
from SynthDiffusionLib.reader_study.merge import Merged
from SynthDiffusionLib.reader_study.selection import Data, Matrix
from SynthDiffusionLib.reader_study.study import Task
from SynthDiffusionLib.reader_study.tables import write_csv, write_ratings
from SynthDiffusionLib.volumes.atomic import atomic_file

MRMC_COLUMNS = ("reader", "treatment", "case", "truth", "rating")
RATED = ("confidence", "scale", "number")


@dataclass(frozen=True)
class MrmcRow:
    """One rating as multi-reader programs take it; truth 1 is synthetic."""

    reader: str
    treatment: str
    case: str
    truth: int
    rating: float


def long_csv(merged: Merged, path: Path) -> Path:
    """One answer a line, training and repeats included; columns as `tables.Rating`."""
    return write_ratings(path, merged.ratings)


def wide_csv(merged: Merged, path: Path) -> Path:
    """One reading a line, a column for each question.

    Columns of a question are named TASK.ITEM, unless only one task has that item. A list is JSON.
    """
    owners: dict[str, set[str]] = {}
    for r in merged.ratings:
        owners.setdefault(r.item, set()).add(r.task)

    def name(task: str, item: str) -> str:
        return item if len(owners[item]) == 1 and item not in fixed else f"{task}.{item}"

    fixed = (
        "reader", "session", "sitting", "position", "task", "kind", "unit", "presentation", "phase", "arm", "truth",
        "pair",
        "patient", "volume_left", "volume_right", "answered_utc", "first_touch_s", "committed_s", "active_s", "changed",
    )  # fmt: skip
    questions: list[str] = []
    readings: dict[tuple[str, str, int], dict[str, Any]] = {}
    for r in merged.ratings:
        key = (r.reader, r.task, r.position)
        row = readings.setdefault(key, {k: getattr(r, k) for k in fixed})
        row["changed"] = max(row["changed"], r.changed)
        column = name(r.task, r.item)
        row[column] = r.value
        if column not in questions:
            questions.append(column)
    order = [name(t.id, i.id) for t in merged.study.tasks.values() for i in t.form.items if i.id in owners and t.id in owners[i.id]]  # fmt: skip  # noqa: E501
    columns = [*fixed, *sorted(questions, key=order.index)]
    return write_csv(path, columns, ([row.get(c) for c in columns] for row in readings.values()))


def mrmc_rows(merged: Merged, task: str | None = None, item: str | None = None) -> list[MrmcRow]:
    """The ratings of one question as multi-reader programs take them.

    Args:
        task, item: the question; default: that of the primary endpoint if it is rated, otherwise the only one that is.

    Raises:
        BadInput: no such question, or no real or synthetic volume.
    """
    data = Data(merged.study, tuple(merged.ratings))
    chosen = _question(data, task, item)
    generators = sorted({r.arm for r in data.of(*chosen)} & set(data.generators))
    if not generators:
        raise BadInput(f"The task '{chosen[0]}' has no synthetic volume with an answer", "Choose another task.")
    parts = [(arm, data.arm_matrix(*chosen, arm)) for arm in generators]
    made = Counter(p for _, matrix in parts for p, truth in zip(matrix.pairs, matrix.truth) if truth == 1)
    shared = {pair for pair, number in made.items() if number > 1} if is_paired(parts) else set()
    return [row for arm, matrix in parts for row in _rows_of(arm, matrix, shared)]


def imrmc(merged: Merged, path: Path, task: str | None = None, item: str | None = None) -> Path:
    """Input of iMRMC (FDA DIDSR), which RJafroc reads too.

    Rows are `reader,case,modality,score` without blanks. Each case has one row of truth, `-1,case,truth,0|1`: the
    manual's form of it, with the word that RJafroc's own sample has in the third field. Cases are numbered from 1, as
    RJafroc takes whole numbers only; `<name>.cases.csv` says which volume each is.

    Raises:
        BadInput: as `mrmc_rows`; or a name that the format cannot hold.
    """
    rows = mrmc_rows(merged, task, item)
    asked = _question(Data(merged.study, tuple(merged.ratings)), task, item)
    is_score = _is_score(merged.study.tasks[asked[0]], asked[1])
    for name in {row.treatment for row in rows} | {row.reader for row in rows}:
        if re.search(r"[\s,;]", name) or name in ("-1", "truth"):
            raise BadInput(f"The name '{name}' cannot be written to an iMRMC file", "It allows no blanks and commas.")
    numbers = _case_numbers(rows)
    truth = {row.case: row.truth for row in rows}
    lines = [
        f"Study {merged.study.id}, SHA-256 {merged.study.sha256}",
        "truth 0 = real, 1 = synthetic; "
        + ("scores rise with the belief that a volume is synthetic" if is_score else "scores as the scale has them"),
        f"N0: {sum(t == 0 for t in truth.values())}",
        f"N1: {sum(t == 1 for t in truth.values())}",
        f"NR: {len({row.reader for row in rows})}",
        f"NM: {len({row.treatment for row in rows})}",
        "BEGIN DATA:",
        *(f"-1,{number},truth,{truth[case]}" for case, number in numbers.items()),
        *(f"{row.reader},{numbers[row.case]},{row.treatment},{_score(row.rating)}" for row in rows),
    ]
    with atomic_file(Path(path)) as file:
        file.write(("\n".join(lines) + "\n").encode("ascii", "replace"))
    write_cases(rows, Path(path).with_suffix(".cases.csv"))
    return Path(path)


def mrmcaov_csv(merged: Merged, path: Path, task: str | None = None, item: str | None = None) -> Path:
    """`reader,treatment,case,truth,rating` for MRMCaov and RJafroc; cases numbered as in `imrmc`.

    Raises:
        BadInput: as `mrmc_rows`.
    """
    rows = mrmc_rows(merged, task, item)
    numbers = _case_numbers(rows)
    write_cases(rows, Path(path).with_suffix(".cases.csv"))
    return write_csv(
        path,
        MRMC_COLUMNS,
        ([r.reader, r.treatment, numbers[r.case], r.truth, _exact(r.rating)] for r in rows),
    )


def write_cases(rows: Sequence[MrmcRow], path: Path) -> Path:
    """Which volume each case number is, or which pair, of synthetic volumes of one mask."""
    truth = {row.case: row.truth for row in rows}
    return write_csv(path, ("case", "volume", "truth"), ([n, c, truth[c]] for c, n in _case_numbers(rows).items()))


def write_json(path: Path, data: Any) -> Path:
    """JSON, indented, UTF-8, whole or not at all."""
    with atomic_file(Path(path)) as file:
        file.write(f"{json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode())
    return Path(path)


def _question(data: Data, task: str | None, item: str | None) -> tuple[str, str]:
    candidates = [(t, i.id) for t in data.tasks("single") for i in data.items(t, RATED)]
    rated = [(t.id, i) for t, i in candidates if task in (None, t.id) and item in (None, i)]
    primary = (str(data.study.primary.get("task")), str(data.study.primary.get("item")))
    if primary in rated:
        return primary
    scores = [(t.id, i) for t, i in candidates if (t.id, i) in rated and _is_score(t, i)]
    if len(scores) == 1 and len(rated) > 1:
        return scores[0]
    if len(rated) != 1:
        names = ", ".join(f"{t.id}/{i}" for t, i in candidates) or "none"
        raise BadInput(
            f"{'More than one' if rated else 'No'} rated question fits",
            f"Name the task and the question; there are: {names}.",
        )
    return rated[0]


def _is_score(task: Task, item: str) -> bool:
    return task.form.item(item).type == "confidence"


def _rows_of(arm: str, matrix: Matrix, shared: Collection[str]) -> list[MrmcRow]:
    """A case is a volume; synthetic ones of one mask are one case, read in several treatments."""
    names = [
        f"pair {pair}" if truth == 1 and pair in shared else volume
        for pair, volume, truth in zip(matrix.pairs, matrix.volumes, matrix.truth)
    ]
    return [
        MrmcRow(reader, arm, names[j], int(matrix.truth[j]), float(matrix.values[i, j]))
        for i, reader in enumerate(matrix.readers)
        for j in range(len(matrix.cases))
        if np.isfinite(matrix.values[i, j])
    ]


def _case_numbers(rows: Sequence[MrmcRow]) -> dict[str, int]:
    """1, 2, ... : real cases first, each group by name."""
    order = sorted({(row.truth, row.case) for row in rows})
    return {case: i for i, (_, case) in enumerate(order, start=1)}


def _exact(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _score(value: float) -> str:
    return repr(_exact(value))
