"""Results of `synthdiffusion evaluate` as the panel shows them: the very text that the report has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Evaluation:
    """What a file or a folder of results says.

    Args:
        sentences: the answers, one of each measure, and what is to be known about all of them.
        titles: of the columns.
        valueColumn: which of them has the figures.
        cells: a row for each of the main figures.
        tips: the sentence behind each row.
        page: the HTML report, "" if there is none.
        problems: files of a folder that could not be read.
    """

    sentences: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    valueColumn: int = 0
    cells: tuple[tuple[str, ...], ...] = ()
    tips: tuple[str, ...] = ()
    page: str = ""
    problems: tuple[str, ...] = ()


def readEvaluation(path: str) -> Evaluation:
    """Reads the JSON of a measure or of a report, or a folder with them.

    Raises:
        SynthDiffusionError: nothing is there that `synthdiffusion evaluate` has written of folders, or it is damaged.
    """
    from SynthDiffusionLib.evaluation.sets.overview import show
    from SynthDiffusionLib.reports.headlines import COLUMNS

    shown = show(Path(path))
    used = [column for column in COLUMNS if any(row[column.key] for row in shown.rows)]
    return Evaluation(
        shown.sentences,
        tuple(column.label for column in used),
        next((i for i, column in enumerate(used) if column.key == "value"), 0),
        tuple(tuple(row[column.key] for column in used) for row in shown.rows),
        tuple(row["sentence"] for row in shown.rows),
        str(shown.page or ""),
        shown.problems,
    )
