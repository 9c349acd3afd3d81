"""Cases that lie in the training set too, under another name, perhaps mirrored, shifted or noisy: held-out ones, and
synthetic volumes, which are then probable copies.

One such case among the real ones that set the limit makes the limit so small that no copy is below it; and one copy
among many synthetic volumes is a patient given away, though no test of a rate can show it. It is known by
being as near to a training case as planted copies are, and far out of what training cases of different patients have
among themselves: Tukey's outer fence (Exploratory Data Analysis, 1977), of the logarithms since distances are products
of many small differences. Only registered voxel space is asked, which has learnt nothing from the training cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet
from SynthDiffusionLib.reports.sections import counted, listing

FENCE = 3.0  # interquartile ranges below the lower quartile
COPY_SHARE = 0.9  # of planted copies that are so near
FEWEST_LEFT = 5  # patients of a held-out set
MILD = ("exact", "noise", "shift", "flip", "all_three", "blur", "gamma")  # of `copies.CONTROLS`


@dataclass(frozen=True)
class Leak:
    """A case that is too near to a training case.

    Args:
        role: of its set.
        case, patient: its own.
        nearest: the training case.
        own: it is of the same patient: a synthetic volume that was made for that patient's mask.
        distance: in registered voxel space.
        limit: below which it lies.
        median: distance that training cases of different patients have to their nearest, for comparison.
    """

    role: str
    case: str
    patient: str
    nearest: str
    own: bool
    distance: float
    limit: float
    median: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def leak_limit(between: Sequence[float], planted: Sequence[float]) -> float:
    """The distance below which a case is taken for one of the training set.

    Args:
        between: distance of each training patient to the nearest other one.
        planted: distances of planted copies of training cases.
    """
    low, high = np.quantile(np.maximum(between, 1e-9), [0.25, 0.75])
    fence = float(low * (low / high) ** FENCE)
    return min(fence, float(np.quantile(planted, COPY_SHARE)))


@dataclass(frozen=True)
class Doubles:
    """What is as near to a training case as planted copies are.

    Args:
        limit: of `leak_limit`; None where all training cases are of one patient, so that there is none.
        real: held-out cases, and training cases that are another patient's too.
        synthetic: probable copies.
        looked_at: held-out cases, real ones that nobody copied, before any was left out.
    """

    limit: float | None = None
    real: tuple[Leak, ...] = ()
    synthetic: tuple[Leak, ...] = ()
    looked_at: int = 0

    def to_json(self) -> dict[str, Any]:
        """`leaks`, `copies` and what belongs to them, as the report takes them."""
        return {
            "leaks": [leak.to_json() for leak in self.real],
            "copies": [leak.to_json() for leak in self.synthetic],
            "copy_limit": self.limit,
            "held_out": self.looked_at,
        }


def leaks_of(
    cases: ImageSet, distances: np.ndarray, training: ImageSet, limit: float, median: float
) -> tuple[Leak, ...]:
    """The cases of a set that are nearer to a training case than `leak_limit`.

    Args:
        distances: (N, T) to the training cases; of real cases, infinite where the two are of one patient.
    """
    found = []
    for case, row in zip(cases.cases, distances, strict=True):
        nearest = int(row.argmin())
        if row[nearest] < limit:
            near = training.cases[nearest]
            own = near.patient == case.patient
            found.append(Leak(cases.role, case.name, case.patient, near.name, own, float(row[nearest]), limit, median))
    return tuple(found)


def without(cases: ImageSet, leaks: Sequence[Leak]) -> ImageSet:
    """The set without the patients of whom a case was found.

    Raises:
        BadInput: fewer than `FEWEST_LEFT` patients are left.
    """
    own = [leak for leak in leaks if leak.role == cases.role]
    patients = {leak.patient for leak in own}
    left = tuple(c for c in cases.cases if c.patient not in patients)
    if patients and len({c.patient for c in left}) < FEWEST_LEFT:
        pairs = listing((f"'{leak.case}' ({leak.nearest})" for leak in own), 3)
        raise BadInput(
            f"{counted(len(patients), 'patient')} of the {cases.role} set are probably in the training set too: "
            f"{pairs}; too few are left",
            "Give real volumes of patients that the generator was not trained on.",
        )
    return replace(cases, cases=left) if patients else cases


def leak_sentences(leaks: Sequence[Leak]) -> list[str]:
    """Who was found, and what was made of it; without the names of training cases, which are in the table."""
    lines = []
    for role in dict.fromkeys(leak.role for leak in leaks):
        own = [leak for leak in leaks if leak.role == role]
        number = len({leak.patient for leak in own})
        if role == "training":
            lines.append(
                f"{counted(len(own), 'training case')} of {counted(number, 'patient')} are as near to a training case "
                "of another patient as planted copies are: probably the same scan or the same person twice, under two "
                "names. They do not count for the limit (table of probable doubles)."
            )
            continue
        names = listing(leak.case for leak in own)
        lines.append(
            f"{counted(len(own), f'{role} case')} ({names}) {'is' if len(own) == 1 else 'are'} as near to a training "
            "case as planted copies are, and far nearer than other patients: probably the same scan, or the same "
            f"person, is in the training set. {counted(number, 'patient')} of the {role} set "
            f"{'was' if number == 1 else 'were'} left out of all that follows (table of probable doubles)."
        )
    return lines


def copy_sentence(copies: Sequence[Leak], volumes: int, named: bool = True) -> str:
    """Which synthetic volumes are probably copies, and of whom; nothing where none is.

    Args:
        copies: of `Doubles.synthetic`.
        volumes: all synthetic ones.
        named: with the names; a model card has none of training cases.
    """
    if not copies:
        return ""
    one = len(copies) == 1
    text = f"{len(copies)} of {volumes} synthetic volumes "
    text += "is probably a copy of a training case" if one else "are probably copies of training cases"
    if named:
        text += ": " + listing(f"{c.case} (of '{c.nearest}')" for c in copies)
    text += f"; {'it is' if one else 'they are'} as near to {'it' if one else 'those'} as planted copies are, and far "
    text += "nearer than other patients are."
    if own := sum(c.own for c in copies):
        text += f" {own} of them {'was' if own == 1 else 'were'} made for the mask of the very patient that "
        text += f"{'it is' if own == 1 else 'they are'} near to."
    return text
