"""Groups of volumes dealt to training, validation, test and folds. A group is never in two parts.

Test and validation parts have real volumes only, as long as there are any: how good a network is on synthetic volumes
says little. Synthetic and inpainted volumes of a group that is tested or validated on are not trained on either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.evaluation.sets.training_lists import spellings
from SynthDiffusionLib.reports.sections import counted

TRAINING, VALIDATION, TEST, LEFT_OUT = "training", "validation", "test", "left out"
MOST_FOLDS = 100


@dataclass(frozen=True)
class Member:
    """A volume, as far as splits go.

    Args:
        group: see `groups.grouped`.
        patient: its name; "" of nobody.
        real: whether all of it is real.
    """

    group: int
    patient: str
    real: bool


@dataclass(frozen=True)
class Parts:
    """Where each volume goes.

    Args:
        part: of each volume: "training", "validation", "test", or "left out".
        fold: of each volume: the one in which its group is not trained on; None if it always is.
        folds: how many there are.
    """

    part: tuple[str, ...]
    fold: tuple[int | None, ...]
    folds: int = 0


def split(
    members: Sequence[Member],
    *,
    test_real: int = 0,
    test_patients: Collection[str] = (),
    not_drawn: Collection[int] = (),
    validation: float = 0.0,
    folds: int = 0,
    seed: int = 0,
    why: str = "",
) -> Parts:
    """Deals groups to parts.

    Args:
        members: all volumes.
        test_real: real patients for the test part, drawn by the seed.
        test_patients: or their names.
        not_drawn: groups with patients that a generator has seen, which are not drawn.
        validation: share of the volumes left that are validated on, 0 to below 1.
        folds: or the number of folds; 0: none.
        seed: of all draws.
        why: which two belong together and by what, for messages.

    Raises:
        BadInput: unknown patients, or too few groups.
    """
    rng = np.random.default_rng(seed)
    tested = _named(members, test_patients) if test_patients else _drawn(members, test_real, not_drawn, rng)
    if not any(m.group not in tested for m in members):
        raise BadInput("All patients are in the test part, so that none is left to train on", "Test on fewer patients.")
    counting = any(m.real for m in members)
    sizes = Counter(m.group for m in members if (m.real or not counting) and m.group not in tested)
    held_out = _share(sizes, validation, rng, why) if validation else frozenset()
    fold_of = _folds(sizes, folds, rng, why) if folds else {}
    part = []
    for m in members:
        whose = TEST if m.group in tested else VALIDATION if m.group in held_out else TRAINING
        part.append(whose if whose == TRAINING or m.real or not counting else LEFT_OUT)
    if TRAINING not in part:
        raise BadInput(
            "Nothing is left to train on beside test and validation", "Give more volumes, or make the parts smaller."
        )
    fold = tuple(fold_of.get(m.group) if p == TRAINING else None for m, p in zip(members, part, strict=True))
    return Parts(tuple(part), fold, folds)


def _named(members: Sequence[Member], names: Collection[str]) -> frozenset[int]:
    of_spelling = {s: m.group for m in members if m.real for s in spellings([m.patient])}
    found = {name: {of_spelling[s] for s in spellings([name]) if s in of_spelling} for name in names}
    unknown = [name for name, groups in found.items() if not groups]
    if unknown:
        raise BadInput(
            f"The test patient '{shortened(unknown[0])}' is not among the real volumes",
            "Give names of patients as --patients or --patient-pattern tell them, else names of cases.",
        )
    return frozenset(group for groups in found.values() for group in groups)


def _drawn(
    members: Sequence[Member], number: int, not_drawn: Collection[int], rng: np.random.Generator
) -> frozenset[int]:
    """Groups with so many real patients together."""
    patients: dict[int, set[str]] = {}
    for m in members:
        if m.real and m.group not in not_drawn:
            patients.setdefault(m.group, set()).add(m.patient.casefold())
    most = sum(map(len, patients.values()))
    if number > most:
        raise BadInput(
            f"{counted(number, 'real patient')} cannot be taken for the test part: there are {most}"
            + (" that no generator has seen" if not_drawn else ""),
            "Give --test-real a smaller number.",
        )
    order = sorted(patients)
    tested: set[int] = set()
    left = number
    for i in rng.permutation(len(order)):
        if len(patients[order[i]]) <= left:
            tested.add(order[i])
            left -= len(patients[order[i]])
    if left:
        raise BadInput(
            f"{counted(number, 'real patient')} cannot be taken for the test part without cutting a group of patients "
            "that belong together in two",
            f"{number - left} would do; or name them with --test-patients."
            if left < number
            else "Name them with --test-patients.",
        )
    return frozenset(tested)


def _share(sizes: Mapping[int, int], share: float, rng: np.random.Generator, why: str) -> frozenset[int]:
    """Groups with about this share of the volumes: never more, but at least one group."""
    wanted = share * sum(sizes.values())
    if len(sizes) < 2:
        raise BadInput(
            f"{counted(len(sizes), 'group')} of volumes cannot be dealt to training and validation{_because(why)}",
            f"Give volumes of more patients{_one_of_two(why)}, or --validation 0.",
        )
    order = sorted(sizes)
    shuffled = [order[i] for i in rng.permutation(len(order))]
    taken: set[int] = set()
    for group in shuffled:
        if sizes[group] + sum(sizes[t] for t in taken) <= wanted:
            taken.add(group)
    return frozenset(taken or {min(shuffled, key=sizes.__getitem__)})


def _folds(sizes: Mapping[int, int], folds: int, rng: np.random.Generator, why: str) -> dict[int, int]:
    """A fold for each group, the largest groups first, each to the fold that has the fewest volumes."""
    if len(sizes) < folds:
        raise BadInput(
            f"{counted(len(sizes), 'group')} of volumes that belong together cannot be dealt to {folds} folds"
            + _because(why),
            (f"Give --folds {len(sizes)}, or volumes" if len(sizes) > 1 else "Give volumes")
            + f" of more patients{_one_of_two(why)}.",
        )
    order = sorted(sizes)
    shuffled = [order[i] for i in rng.permutation(len(order))]
    held = [0] * folds
    found = {}
    for group in sorted(shuffled, key=lambda g: -sizes[g]):
        fold = int(np.argmin(held))
        found[group] = fold
        held[fold] += sizes[group]
    return found


def _because(why: str) -> str:
    return f": {why}" if why else ""


def _one_of_two(why: str) -> str:
    """What else can be done about volumes that belong together."""
    return ", or remove or mend one of each two that are alike" if why else ""
