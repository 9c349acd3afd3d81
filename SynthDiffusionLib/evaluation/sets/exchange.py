"""Are two sets of volumes of one kind? Permutation tests over patients, at the full numbers.

If they are, it makes no difference which set a patient's volumes lie in. So the patients of both sets are dealt anew,
many times, and the figure is computed anew: p = (1 + deals at least as extreme) / (1 + deals), Phipson and Smyth,
SAGMB 2010;9:39. A patient of both sets (a synthetic volume belongs to the patient whose mask it was made for) keeps
both volumes, which change places or not. Such a test keeps its level with few patients, where a bootstrap interval is
too narrow, and uses all of them, where parts of the real set use half.

That holds exactly only if nothing but the deal tells the observed division from another one. So the features must come
in units that are the same for every deal (`comparison.pooled`: those of both sets together), and what else is chosen,
such as the folds of a classifier, belongs to the places in the two sets, not to the patients who lie in them.

A block is what is dealt: the volumes of one patient in one set. Blocks must be of one size, since a set of large blocks
varies less than one of small ones: `block_rows` takes as many volumes of each patient as the patient with the fewest
has.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.sets.distances import PairSums, manifold_figures, squared_distances

DEALS = 9999  # of kernel distances
CLOUD_DEALS = 499
AUC_DEALS = 199
FEWEST_PATIENTS = 4  # of either set
CHUNK = 1000  # deals at once
LEVEL = 0.05


def enough(x_patients: Sequence[Hashable], y_patients: Sequence[Hashable]) -> bool:
    """Whether there are patients enough to deal."""
    return min(len(set(x_patients)), len(set(y_patients))) >= FEWEST_PATIENTS


def block_rows(
    x_patients: Sequence[Hashable], y_patients: Sequence[Hashable], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the volumes of each set that are dealt: equally many of each patient, drawn at random."""
    rows = [_by_patient(patients) for patients in (x_patients, y_patients)]
    size = min(len(own) for table in rows for own in table.values())
    rng = np.random.default_rng([seed, 23])
    chosen = [[i for own in t.values() for i in np.array(own)[rng.permutation(len(own))[:size]]] for t in rows]
    return tuple(np.sort(np.array(c, int)) for c in chosen)  # type: ignore[return-value]


def _by_patient(patients: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    rows: dict[Hashable, list[int]] = {}
    for i, patient in enumerate(patients):
        rows.setdefault(patient, []).append(i)
    return rows


def placings(x_blocks: Sequence[Hashable], y_blocks: Sequence[Hashable], count: int, seed: int) -> np.ndarray:
    """Which block lies in which place, in each of many deals.

    Args:
        x_blocks, y_blocks: patients, each once in a set.

    Returns:
        (count, X + Y) numbers of blocks; places and blocks of x come first.
    """
    of_y = {p: len(x_blocks) + j for j, p in enumerate(y_blocks)}
    pairs = np.array([(i, of_y[p]) for i, p in enumerate(x_blocks) if p in of_y], int).reshape(-1, 2)
    total = len(x_blocks) + len(y_blocks)
    placed = np.repeat(np.arange(total, dtype=np.int32)[None], count, axis=0)
    rng = np.random.default_rng([seed, 29, len(x_blocks), total, len(pairs)])
    changed = rng.random((count, len(pairs))) < 0.5
    one, other = pairs.T
    placed[:, one], placed[:, other] = np.where(changed, other, one), np.where(changed, one, other)
    free = np.setdiff1d(np.arange(total), pairs)
    placed[:, free] = rng.permuted(placed[:, free], axis=1)
    return placed


def deals(x_blocks: Sequence[Hashable], y_blocks: Sequence[Hashable], count: int, seed: int) -> np.ndarray:
    """Which blocks lie in the first set, in each deal of `placings`.

    Returns:
        (count, X + Y) bool, X true in each row; the blocks of x come first.
    """
    member = np.zeros((count, len(x_blocks) + len(y_blocks)), bool)
    np.put_along_axis(member, placings(x_blocks, y_blocks, count, seed)[:, : len(x_blocks)], True, axis=1)
    return member


def p_value(observed: float, dealt: np.ndarray, low: bool = False) -> float:
    """Share of deals at least as high (or low) as the observed figure, itself counted.

    Rounding must not tell equal deals apart.
    """
    dust = 1e-9 * max(float(np.abs(dealt).max(initial=0.0)), abs(observed))
    extreme = dealt <= observed + dust if low else dealt >= observed - dust
    return float((1 + extreme.sum()) / (1 + len(dealt)))


def result(observed: float, dealt: np.ndarray, patients: Sequence[int], low: bool = False) -> dict[str, Any]:
    """A test as results have it.

    Returns:
        "p"; "p_low", of figures for which high is extreme: that of one at least as low; "deals", their number; "mean"
        and "limit", of the figure in the deals: 95 % of them are not more extreme; "observed", the figure of the
        volumes that were dealt; "patients", of either set.
    """
    return {
        "p": p_value(observed, dealt, low),
        **({} if low else {"p_low": p_value(observed, dealt, low=True)}),
        "deals": len(dealt),
        "mean": float(np.mean(dealt)),
        "limit": float(np.quantile(dealt, LEVEL if low else 1.0 - LEVEL)),
        "observed": float(observed),
        "patients": list(patients),
    }


def kernel_deals(sums: PairSums, seed: int, count: int | None = None) -> tuple[float, np.ndarray]:
    """The squared maximum mean discrepancy of patients, each counting once, and that of deals.

    Args:
        sums: of blocks of one size.

    Returns:
        the figure, and (count,) of deals.
    """
    x, y = sums.nx > 0, sums.ny > 0
    blocks = [list(np.flatnonzero(own)) for own in (x, y)]
    with np.errstate(invalid="ignore", divide="ignore"):
        xx, yy, xy = (s / np.outer(a, b) for s, a, b in ((sums.xx, sums.nx, sums.nx), (sums.yy, sums.ny, sums.ny),
                                                         (sums.xy, sums.nx, sums.ny)))  # fmt: skip
    between = xy[np.ix_(x, y)]
    kernel = np.block([[xx[np.ix_(x, x)], between], [between.T, yy[np.ix_(y, y)]]])
    n, m, both = len(blocks[0]), len(blocks[1]), int((x & y).sum())
    row_sums, total = kernel.sum(1), kernel.sum()

    def figure(member: np.ndarray) -> np.ndarray:
        w = member.astype(np.float64)
        within_x = ((w @ kernel) * w).sum(1)
        across = w @ row_sums - within_x
        within_y = total - within_x - 2.0 * across
        # A patient of both sets has one block in each, in every deal: so many pairs do not count.
        return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2.0 * across / (n * m - both)

    member = deals(*blocks, DEALS if count is None else count, seed)
    observed = float(figure((np.arange(n + m) < n)[None])[0])
    return observed, np.concatenate([figure(member[i : i + CHUNK]) for i in range(0, len(member), CHUNK)])


def cloud_deals(
    values: np.ndarray, n: int, patients: Sequence[Hashable], k: int, seed: int, count: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Precision, recall, density and coverage of volumes, and those of deals.

    Args:
        values: (N + M, D) features of volumes in blocks of one size, the N of the real set first.
        patients: of each.

    Returns:
        (4,) and (count, 4), in the order of `distances.MANIFOLD`.
    """
    index = {p: i for i, p in enumerate(dict.fromkeys(patients))}
    of = np.array([index[p] for p in patients])
    apart = squared_distances(values, values)
    apart[of[:, None] == of[None]] = np.inf

    def figure(member: np.ndarray) -> np.ndarray:
        a, b = np.flatnonzero(member), np.flatnonzero(~member)
        return np.array(manifold_figures(apart[np.ix_(a, a)], apart[np.ix_(b, b)], apart[np.ix_(a, b)], k))

    x, y = (list(dict.fromkeys(own)) for own in (patients[:n], patients[n:]))
    of_x, of_y = ({p: i for i, p in enumerate(own)} for own in (x, y))
    block = [of_x[p] for p in patients[:n]] + [len(x) + of_y[p] for p in patients[n:]]
    members = deals(x, y, CLOUD_DEALS if count is None else count, seed)[:, block]
    return figure(np.arange(len(of)) < n), np.array([figure(member) for member in members])


def auc_deals(
    values: np.ndarray,
    n: int,
    patients: Sequence[Hashable],
    score: Callable[[np.ndarray, Sequence, np.ndarray, Sequence], float],
    seed: int,
    count: int | None = None,
) -> tuple[float, np.ndarray]:
    """A classifier's AUC, and that of deals, each with a training of its own.

    Names stay in their places, and the values move: folds, which go by names, hold the same places in every deal.

    Args:
        values: (N + M, D) features of volumes in blocks of one size, the N of the real set first.
        patients: of each.
        score: AUC of real values and patients, synthetic values and patients.
    """
    x, y = _by_patient(patients[:n]), _by_patient(patients[n:])
    rows = np.array([*x.values(), *([n + i for i in own] for own in y.values())])  # (blocks, volumes of each)
    names = [p for table in (x, y) for p, own in table.items() for _ in own]

    def figure(placed: np.ndarray) -> float:
        moved = values[rows[placed].ravel()]
        return score(moved[:n], names[:n], moved[n:], names[n:])

    placed = placings(list(x), list(y), AUC_DEALS if count is None else count, seed)
    return figure(np.arange(len(rows))), np.array([figure(row) for row in placed])
