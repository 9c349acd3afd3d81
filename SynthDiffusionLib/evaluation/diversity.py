"""How different are samples of one mask from each other? Guidance makes a model follow its mask, and may cost that."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from SynthDiffusionLib.evaluation.rows import Item, Row, common_crop
from SynthDiffusionLib.evaluation.statistics import Estimate, bootstrap_mean, mean_by_patient


def pairwise_difference(volumes: Sequence[np.ndarray]) -> float:
    """Mean over all pairs of the mean absolute difference of their voxels; nan for fewer than two volumes.

    Args:
        volumes: (I, J, K) of one shape.
    """
    pairs = [float(np.abs(a.astype(np.float64) - b).mean()) for a, b in combinations(volumes, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def diversity(row: Row) -> Estimate:
    """`pairwise_difference` of the samples of each mask, mean over patients with an interval over them; masks with one
    sample do not count."""
    by_case: dict[str, list[Item]] = {}
    for item in row.items:
        by_case.setdefault(item.case, []).append(item)
    several = [items for items in by_case.values() if len(items) > 1]
    if not several:
        return Estimate(float("nan"), float("nan"), float("nan"))
    values, _ = mean_by_patient(
        [pairwise_difference([i.hu for i in items]) for items in several], [items[0].patient for items in several]
    )
    return bootstrap_mean(values)


def real_to_real(row: Row, target: int, crop: Sequence[int] | None) -> float:
    """`pairwise_difference` of real images of different patients, each cut to one size round its target: what different
    patients differ by, anatomy and all. One image of each patient counts."""
    first = {item.patient: item for item in reversed(common_crop(row, target, crop).items)}
    return pairwise_difference([item.hu for item in first.values()])
