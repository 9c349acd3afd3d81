"""How many volumes are nearer than the limit, with an interval and a test, where a patient may have several volumes.

The volumes of one patient (seeds of one mask, sides of one body) depend on each other. Where each patient has one, the
number of flagged ones has an exact distribution under the null (`rank_test`). So the first volumes of all patients are
tested, then the second ones, and so on: each of these tests is exact, however the volumes of a patient hang together.
The smallest p counts, corrected for having been looked for (Bonferroni, weighted by the patients of each test, which
are known beforehand: Genovese, Roeder and Wasserman 2006, Biometrika 93:509).
`Testing/Engine/test_set_flags.py` simulates that the level holds and that the intervals cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.memorisation import rank_test
from SynthDiffusionLib.evaluation.sets.thresholds import Threshold, clopper_pearson


def places_of(patients: Sequence[str]) -> np.ndarray:
    """Which volume of its patient each one is, in the order given: 0 the first, 1 the second, ...; (N,) int."""
    seen: dict[str, int] = {}
    places = []
    for patient in patients:
        places.append(seen.get(patient, 0))
        seen[patient] = places[-1] + 1
    return np.array(places, int)


def patient_shares(flagged: Sequence[bool], patients: Sequence[str]) -> np.ndarray:
    """Share of each patient's volumes that is flagged, patients in order of first occurrence; (P,)."""
    of: dict[str, list[bool]] = {}
    for one, patient in zip(flagged, patients, strict=True):
        of.setdefault(patient, []).append(bool(one))
    return np.array([np.mean(v) for v in of.values()])


def share_interval(shares: np.ndarray, volumes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean share over patients.

    The exact interval of a share, of the number of independent volumes that would leave the mean as uncertain as the
    patients leave it (Korn and Graubard 1998, Survey Methodology 24:193). Where each patient has one volume that is the
    number of patients, and the interval that of Clopper and Pearson. Where all volumes or none are flagged, nothing is
    known of how they hang together: the number is that of patients.

    Args:
        shares: (P,) of `patient_shares`.
        volumes: of all patients.
    """
    from scipy.stats import t

    patients, mean = len(shares), float(np.mean(shares))
    spread = float(np.var(shares))
    number = float(patients)
    if volumes > patients > 1 and spread > 0:
        tail = (1.0 + confidence) / 2.0
        number = patients * mean * (1.0 - mean) / spread * (t.ppf(tail, volumes - 1) / t.ppf(tail, patients - 1)) ** 2
        number = min(max(number, patients), volumes)
    return clopper_pearson(mean * number, number, confidence)


def place_tests(flagged: Sequence[bool], patients: Sequence[str], threshold: Threshold) -> list[dict[str, Any]]:
    """The exact test of the first volumes of all patients, of the second ones, ...

    Returns:
        place (1: first), patients, flagged, p of each, as it is without any correction.
    """
    places, flags = places_of(patients), np.asarray(flagged, bool)
    tests = []
    for place in range(int(places.max()) + 1):
        chosen = places == place
        hits, number = int(flags[chosen].sum()), int(chosen.sum())
        p = rank_test(hits, number, threshold.safe_rank, threshold.patients)
        tests.append({"place": place + 1, "patients": number, "flagged": hits, "p": p})
    return tests


def combined(tests: Sequence[dict[str, Any]]) -> float:
    """One p of `place_tests`: the smallest, each times the volumes of all tests over its own."""
    volumes = sum(t["patients"] for t in tests)
    return min(1.0, *(t["p"] * volumes / t["patients"] for t in tests))


def flags_needed(tests: Sequence[dict[str, Any]], safe_rank: int, reference: int, level: float) -> int | None:
    """The least number of flagged patients in the fullest of `place_tests` that would be more than chance explains.

    Args:
        safe_rank, reference: of the limit.
        level: of the test, after correction for other searches.
    """
    fullest = max(t["patients"] for t in tests)
    factor = sum(t["patients"] for t in tests) / fullest
    enough = (b for b in range(fullest + 1) if rank_test(b, fullest, safe_rank, reference) * factor < level)
    return next(enough, None)


def flag_figures(flagged: Sequence[bool], patients: Sequence[str], threshold: Threshold, test: bool) -> dict[str, Any]:
    """Flag rate, interval, and where asked for the test of one row of volumes.

    Args:
        flagged, patients: of each volume (N,).
        test: whether the volumes are such that may be tested against the limit.
    """
    shares = patient_shares(flagged, patients)
    low, high = share_interval(shares, len(flagged))
    tests = place_tests(flagged, patients, threshold) if test else []
    return {
        "rate": float(shares.mean()),
        "low": low,
        "high": high,
        "patients_flagged": int((shares > 0).sum()),
        "expected": threshold.expected if test else None,
        "p": combined(tests) if test else None,
        "places": tests,
    }
