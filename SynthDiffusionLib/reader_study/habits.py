"""How often each reader gave the commonest of the answers, and when equivalence is therefore not judged.

A reader who gives one answer to a share s of the volumes has an accuracy, an AUC or a proportion right of at most
0.5 + (1 - s), whatever is to be seen and however well the other answers hit; near s = 1 the figure hardly varies
either. Such a figure lies near chance because of the answers and says nothing about the volumes. The rule: equivalence
is not judged where s reaches `COMMONEST` for any reader, or, with a margin above 1 - `COMMONEST` around chance,
1 - margin (not below `LEAST`), from which on the figure cannot leave the margin. Real and synthetic volumes count half
each in s, so that whoever tells them apart without a mistake has 0.5, however many there are of either kind.

What counts as one answer depends on the figure: a level of the scale for the AUC and for mean ratings, which use the
levels; "real" or "synthetic" for accuracy; the side for forced choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.selection import Data, Matrix
from SynthDiffusionLib.reader_study.tables import Rating
from SynthDiffusionLib.reports.sections import counted, listing, p_text

COMMONEST = 0.9
LEAST = 0.8
NOT_JUDGED = "not judged"
LEVEL, CALL, SIDE = "level", "call", "side"
KINDS = {"accuracy": CALL, "balanced_accuracy": CALL, "auc": LEVEL, "mean_difference": LEVEL}  # by figure
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Habit:
    """The commonest answer of one reader.

    Args:
        reader: who.
        kind: LEVEL, CALL or SIDE.
        answer: the commonest one; calls are 1 (synthetic) and 0 (real), sides 1 (right) and 0 (left).
        count, n: how often it was given, of so many answers.
        share: the same as a share, real and synthetic volumes counting half each.
        used: how many different answers were given.
    """

    reader: str
    kind: str
    answer: float
    count: int
    n: int
    share: float
    used: int

    def did(self) -> str:
        """ "gave the same answer to 39 of 40 volumes" """
        of = f"{self.count} of {self.n}"
        if self.kind == SIDE:
            return f"chose the {'right' if self.answer else 'left'} side in {of} pairs"
        if self.kind == CALL:
            return f"called {of} volumes {'synthetic' if self.answer else 'real'}"
        return f"gave the same answer to {of} volumes"

    def cell(self) -> str:
        """What stands in a table in place of a verdict on this reader."""
        how_often = "all" if self.count == self.n else f"{self.count} of {self.n}"
        return f"{NOT_JUDGED}: same {'side in' if self.kind == SIDE else 'answer to'} {how_often}"


def commonest(reader: str, kind: str, answers: np.ndarray, truth: np.ndarray) -> Habit:
    """The commonest of a reader's answers.

    Args:
        answers: (cases,) numbers, one case or more.
        truth: (cases,) kinds of cases that count the same in the share.
    """
    kinds = np.unique(truth)
    values = np.unique(answers)
    shares = [float(np.mean([(answers[truth == k] == v).mean() for k in kinds])) for v in values]
    best = int(np.argmax(shares))
    count = int((answers == values[best]).sum())
    return Habit(reader, kind, float(values[best]), count, len(answers), shares[best], len(values))


def of_matrix(matrix: Matrix, kind: str) -> list[Habit]:
    """Of every reader with an answer; `kind` LEVEL takes signed confidences or grades as they are, CALL their signs."""
    found = []
    for reader, values in zip(matrix.readers, matrix.values):
        there = np.isfinite(values)
        if there.any():
            answers = values[there] if kind == LEVEL else (values[there] > 0).astype(float)
            found.append(commonest(reader, kind, answers, matrix.truth[there]))
    return found


def of_sides(ratings: Iterable[Rating], arm: str, cases: Sequence[str] | None = None) -> list[Habit]:
    """Of every reader of a forced choice; the synthetic volume stands on either side equally often.

    Args:
        ratings: answers to one question.
        arm: the generator.
        cases: only these units (None: all).
    """
    chosen: dict[str, list[float]] = {}
    for r in ratings:
        if r.arm == arm and (cases is None or r.unit in cases):
            chosen.setdefault(r.reader, []).append(float(r.value == "right"))
    return [
        commonest(reader, SIDE, np.array(sides), np.zeros(len(sides), np.int64))
        for reader, sides in sorted(chosen.items())
    ]


def of_choice(data: Data, task: str, item: str, matrix: Matrix) -> list[Habit]:
    """The sides chosen in the cases of a forced choice that are analysed; none, if too few are complete."""
    try:
        whole = matrix.complete()
    except BadInput:
        return []
    return of_sides(data.of(task, item), whole.arms[0], whole.cases)


def limit(margin: float | None = None) -> float:
    """The share from which on equivalence is not judged; `margin` only if it is around chance, on a scale of 0 to 1."""
    return COMMONEST if margin is None else min(COMMONEST, max(LEAST, 1.0 - margin))


def beyond(habits: Iterable[Habit], margin: float | None = None) -> list[Habit]:
    """Those whose share reaches the limit."""
    return [h for h in habits if h.share >= limit(margin) - _ROUNDING]


def reason(habits: Sequence[Habit], margin: float | None = None, what: str = "a figure near chance") -> str:
    """Why nothing follows from the figure of such readers, as a clause; "" if no reader is beyond the limit."""
    found = beyond(habits, margin)
    return f"{told(found)}; {what} then says nothing about likeness" if found else ""


def told(habits: Iterable[Habit]) -> str:
    """Who did what, as a clause; readers who did the same together."""
    groups: dict[str, list[str]] = {}
    for h in habits:
        groups.setdefault(h.did(), []).append(h.reader)
    return listing(
        f"reader {readers[0]} {did}" if len(readers) == 1 else f"readers {listing(readers)} each {did}"
        for did, readers in groups.items()
    )


def judged(
    row: Mapping[str, Any], habits: Sequence[Habit], margin: float | None, what: str = "a figure near chance"
) -> dict[str, Any]:
    """What to change in a row with a verdict on equivalence: nothing, or the verdict, its reason and the note."""
    why = reason(habits, margin, what)
    if not why:
        return {}
    text = f"Equivalence is not judged: {why}."
    return {"equivalent": NOT_JUDGED, "not_judged": text, "note": f"{row.get('note', '')} {text}".strip()}


def is_shown(equivalent: Any) -> bool:
    """Whether an entry "equivalent" says that equivalence is shown; a text says that it was not judged."""
    return not isinstance(equivalent, str) and bool(equivalent)


def usage(habits: Sequence[Habit]) -> str:
    """How many levels each reader used, as a sentence."""
    parts = (f"{h.reader} {counted(h.used, 'level')}, the commonest for {h.count} of {h.n} volumes" for h in habits)
    return f"Levels of the scale that were used: {'; '.join(parts)}."


def side_p(habit: Habit) -> float:
    """Exact test that either side is chosen half of the time."""
    from SynthDiffusionLib.reader_study.statistics.proportions import exact_test

    return exact_test(habit.count, habit.n).p


def side_warnings(habits: Sequence[Habit], alpha: float) -> list[str]:
    """A sentence for the readers who prefer a side significantly, or none."""
    found = [(h, p) for h in habits if (p := side_p(h)) < alpha]
    if not found:
        return []
    who = told(h for h, _ in found)
    p = p_text(max(p for _, p in found))
    return [
        f"{upper(who)} ({p if len(found) == 1 else f'the largest {p}'}, against one half): a preference for a side "
        "draws the proportion right towards 50 %, whatever is to be seen."
    ]


def upper(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]
