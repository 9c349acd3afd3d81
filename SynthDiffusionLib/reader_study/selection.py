"""What goes into an analysis: which answers, as which matrix of readers and cases, and what is left out.

Only first readings outside of training count, except for repeatability. The multi-reader formulas need complete data:
a case that not every reader answered is left out, and said; if that would leave less than half of the cases, the
analysis is refused rather than made with a remainder that nobody chose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.forms import Item
from SynthDiffusionLib.reader_study.study import Study, Task
from SynthDiffusionLib.reader_study.tables import Rating
from SynthDiffusionLib.reports.sections import counted, listing

PROPORTIONS = ("accuracy", "auc", "forced_choice")
_SMALLEST_PART = 0.5  # of the cases must remain


@dataclass(frozen=True)
class Matrix:
    """Ratings of one question.

    Args:
        values: (readers, cases), NaN where there is no answer.
        truth: (cases,) 0 real, 1 synthetic.
        readers, cases: names of rows and columns; cases are units.
        arms, pairs, patients, volumes: per case.
        notes: what was left out, as sentences.
    """

    values: np.ndarray
    truth: np.ndarray
    readers: tuple[str, ...]
    cases: tuple[str, ...]
    arms: tuple[str, ...]
    pairs: tuple[str, ...]
    patients: tuple[str, ...]
    volumes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def clusters(self) -> list[str] | None:
        """Patients, if any two cases share one: what is drawn at random is then the patient. None: all differ."""
        return list(self.patients) if len(set(self.patients)) < len(self.patients) else None

    def of_cases(self, chosen: np.ndarray) -> Matrix:
        """The cases where `chosen` (cases,) is true."""
        pick = np.flatnonzero(chosen)

        def part(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(names[i] for i in pick)

        return replace(
            self,
            values=self.values[:, pick],
            truth=self.truth[pick],
            cases=part(self.cases),
            arms=part(self.arms),
            pairs=part(self.pairs),
            patients=part(self.patients),
            volumes=part(self.volumes),
        )

    def complete(self) -> Matrix:
        """The cases that every reader answered, with a note on the others.

        Raises:
            BadInput: less than half of the cases, or no synthetic or real one, would remain.
        """
        if not self.values.size:
            raise BadInput("There is no answer to analyse", "Merge the readers' records first.")
        whole = np.isfinite(self.values).all(axis=0)
        if whole.all():
            return self
        lacking = [
            f"{r} (answered {int(np.isfinite(row).sum())} of {len(row)})"
            for r, row in zip(self.readers, self.values)
            if not np.isfinite(row).all()
        ]
        if whole.sum() < _SMALLEST_PART * len(whole):
            raise BadInput(
                f"Only {int(whole.sum())} of {len(whole)} cases have an answer of every reader; incomplete: "
                f"{listing(lacking)}",
                "Let the readers finish, or merge without the incomplete reader (exclude).",
            )
        left_out = int((~whole).sum())
        note = (
            f"{left_out} of {len(whole)} cases {'is' if left_out == 1 else 'are'} left out because not every reader "
            f"answered ({listing(lacking)}). That is right only if an answer is missing for reasons that have nothing "
            "to do with it."
        )
        return replace(self.of_cases(whole), notes=(*self.notes, note))


@dataclass(frozen=True)
class Data:
    """A merged study, ready to analyse.

    Args:
        study: tasks, forms, primary endpoint.
        ratings: all answers.
    """

    study: Study
    ratings: tuple[Rating, ...]
    problems: tuple[str, ...] = field(default=())

    @cached_property
    def first(self) -> list[Rating]:
        """First readings outside of training."""
        return [r for r in self.ratings if r.is_first]

    @cached_property
    def readers(self) -> list[str]:
        return sorted({r.reader for r in self.ratings if r.phase == "main"})

    @cached_property
    def reals(self) -> list[str]:
        """Arms of real volumes."""
        return sorted({r.arm for r in self.first if r.kind == "single" and r.truth == 0})

    @cached_property
    def generators(self) -> list[str]:
        """Arms of synthetic volumes."""
        return sorted({r.arm for r in self.first if r.arm} - set(self.reals))

    @property
    def alpha(self) -> float:
        return float(self.study.primary.get("alpha", 0.05))

    @property
    def confidence(self) -> float:
        return 1.0 - self.alpha

    def margin(self, kind: str) -> float | None:
        """The study's margin, if it was stated for the same kind of measure: "proportion", "likert" or "mrmc"."""
        measure = self.study.primary.get("measure")
        stated = {"likert_difference": "likert", "mrmc_auc_difference": "mrmc"}.get(str(measure), "proportion")
        value = self.study.primary.get("margin")
        return float(value) if value is not None and stated == kind else None

    def model(self, what: str) -> str:
        """Whether "readers" or "cases" are random or fixed."""
        return str(self.study.primary.get(what, "random"))

    def readers_model(self, readers: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """The model for so many readers, and a note where the study's cannot be kept."""
        model = self.model("readers")
        if model == "random" and len(readers) < 2:
            return "fixed", (
                f"With one reader ({listing(readers)}) nothing can be said about other readers: the reader is taken "
                "as fixed.",
            )
        return model, ()

    @property
    def covariance(self) -> str:
        return str(self.study.primary.get("covariance", "delong"))

    def is_primary(self, measure: str, task: str, item: str, arms: Sequence[str], null: float = 0.5) -> bool:
        """Whether a figure is the primary endpoint, or the same test under another heading.

        Args:
            measure: one of the study file's.
            task, item: the question.
            arms: the generator, or both of a difference.
            null: what the figure is compared with.
        """
        p = self.study.primary
        if (p.get("measure"), p.get("task")) != (measure, task) or p.get("item", item) != item:
            return False
        stated = {str(p[k]) for k in ("arm", "arm2") if p.get(k)} - set(self.reals)
        return stated <= set(arms) and float(p.get("null", null)) == null

    def tasks(self, kind: str) -> list[Task]:
        """Tasks of that kind that have answers, in the study's order."""
        answered = {r.task for r in self.first}
        return [t for t in self.study.tasks.values() if t.kind == kind and t.id in answered]

    def items(self, task: Task, types: Sequence[str]) -> list[Item]:
        """Questions of these types that are asked per case and have answers."""
        answered = {r.item for r in self.first if r.task == task.id}
        return [i for i in task.form.items if i.type in types and i.per != "study" and i.id in answered]

    def of(self, task: str, item: str) -> list[Rating]:
        return [r for r in self.first if r.task == task and r.item == item]

    def matrix(
        self,
        task: str,
        item: str,
        arms: Sequence[str] | None = None,
        value: Callable[[Rating], float | None] | None = None,
    ) -> Matrix:
        """First readings as readers x cases.

        Args:
            task, item: the question.
            arms: only cases of these arms (None: all).
            value: number of an answer; default: the answer itself.

        Raises:
            BadInput: there are none.
        """
        chosen = [r for r in self.of(task, item) if arms is None or r.arm in arms]
        if not chosen:
            raise BadInput(
                f"There is no answer to '{item}' of the task '{task}'"
                + (f" in {listing(arms)}" if arms is not None else ""),
                "Check the study's task, item and arm, and that the records were merged.",
            )
        return _matrix(chosen, value or _number)

    def arm_matrix(
        self, task: str, item: str, arm: str, value: Callable[[Rating], float | None] | None = None
    ) -> Matrix:
        """The real volumes and those of one generator.

        Raises:
            BadInput: one of them is missing.
        """
        matrix = self.matrix(task, item, [*self.reals, arm], value)
        for truth, what in ((0, "real"), (1, f"synthetic ('{arm}')")):
            if not (matrix.truth == truth).any():
                raise BadInput(
                    f"The task '{task}' has no answered {what} volume", "Real and synthetic ones are needed."
                )
        return matrix


def score_items(data: Data, task: Task) -> list[Item]:
    """The signed confidences of a task: positive is called synthetic."""
    return data.items(task, ("confidence",))


def cases_text(data: Data) -> str:
    """How many cases were read, and what they are made of: volumes, and what is drawn at random, patients."""
    cases = {(r.task, r.unit) for r in data.first if r.unit}
    volumes = {v for r in data.first for v in (r.volume_left, r.volume_right) if v}
    patients = {r.patient for r in data.first if r.patient}
    of = f"{counted(len(volumes), 'volume')}, {counted(len(patients), 'patient or mask', 'patients or masks')}"
    return f"{counted(len(cases), 'case')} ({of})"


def refused(error: BadInput) -> str:
    """Why something was not calculated, as a sentence for the report."""
    return f"Not calculated: {error.one_line()}"


def _number(rating: Rating) -> float | None:
    value: Any = rating.value
    return float(value) if isinstance(value, int | float) else None


def _matrix(ratings: Sequence[Rating], value: Callable[[Rating], float | None]) -> Matrix:
    readers = sorted({r.reader for r in ratings})
    by_unit = {r.unit: r for r in ratings}
    units = sorted(by_unit)
    row, column = {r: i for i, r in enumerate(readers)}, {u: i for i, u in enumerate(units)}
    values = np.full((len(readers), len(units)), np.nan)
    for rating in ratings:
        number = value(rating)
        if number is not None:
            values[row[rating.reader], column[rating.unit]] = number
    first = [by_unit[u] for u in units]
    # In a forced choice, truth is a side, which differs between readers: every unit holds a synthetic volume.
    truth = [1 if r.kind == "forced_choice" else int(r.truth or 0) for r in first]
    return Matrix(
        values,
        np.array(truth),
        tuple(readers),
        tuple(units),
        tuple(r.arm for r in first),
        tuple(r.pair for r in first),
        tuple(r.patient for r in first),
        tuple(r.volume_left for r in first),
    )
