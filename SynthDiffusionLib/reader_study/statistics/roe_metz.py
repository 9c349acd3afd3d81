"""The simulator of multi-reader multi-case data of Roe and Metz (Acad Radiol 1997, 4:298 and 4:587).

A latent rating is mu * truth + reader + case + their interactions with each other and with the treatment + error, all
normal, independent for real and synthetic cases. Variances of the terms that involve cases add up to 1. Answers of a
form are the latent rating cut at fixed thresholds, shifted by a criterion of each reader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

from .results import Result


@dataclass(frozen=True)
class Structure(Result):
    """Variances of the terms. `error` holds the interaction of treatment, reader and case too."""

    reader: float
    treatment_reader: float
    case: float
    treatment_case: float
    reader_case: float
    error: float

    @property
    def cases_total(self) -> float:
        return self.case + self.treatment_case + self.reader_case + self.error

    @property
    def total(self) -> float:
        return self.cases_total + self.reader + self.treatment_reader


# Roe and Metz 1997, table 1: correlation between readings of a case high (H) or low (L), then reader variance high (H)
# or low (L). The high reader variance rises with the separation mu (AUC 0.702, 0.855, 0.962).
_CASES = {"H": (0.3, 0.3, 0.2, 0.2), "L": (0.1, 0.1, 0.2, 0.6)}
_LOW_READER = 0.0055
_HIGH_READER = {0.75: 0.011, 1.5: 0.03, 2.5: 0.056}
STRUCTURES = ("HL", "LL", "HH", "LH")


def structure(name: str, separation: float = 0.75) -> Structure:
    """A standard structure: "HL", "LL", "HH" or "LH" (first letter: correlation of data, second: reader variance).

    Args:
        separation: mu; the published value nearest to it (0.75, 1.5, 2.5) sets the high reader variance.

    Raises:
        BadInput: unknown name.
    """
    if name not in STRUCTURES:
        raise BadInput(f"Variance structure {name!r} is not known", f"Use one of: {', '.join(STRUCTURES)}.")
    nearest = min(_HIGH_READER, key=lambda mu: abs(mu - separation))
    reader = _HIGH_READER[nearest] if name[1] == "H" else _LOW_READER
    return Structure(reader, reader, *_CASES[name[0]])


@dataclass(frozen=True)
class Design(Result):
    """What is simulated.

    Attributes:
        readers, real, synthetic: numbers.
        separation: mu of each treatment (their number is that of the treatments).
        variances: the structure.
        thresholds: cuts of the latent rating; () leaves it continuous. Answers are 0 .. len(thresholds).
        criterion_sd: spread over readers of the shift of all thresholds (who says "synthetic" readily).
        shared_real: each reader reads a real case once, and the reading serves all treatments.
        paired_synthetic: synthetic case k of each treatment has the same case term (made from the same mask).
        pair_correlation: share of the case variance that real and synthetic case k have in common (same patient).
    """

    readers: int
    real: int
    synthetic: int
    separation: tuple[float, ...]
    variances: Structure
    thresholds: tuple[float, ...] = ()
    criterion_sd: float = 0.0
    shared_real: bool = False
    paired_synthetic: bool = True
    pair_correlation: float = 0.0


def rating_thresholds(levels: int, separation: float, variances: Structure) -> tuple[float, ...]:
    """Thresholds that cut real and synthetic readings together into levels of about equal frequency; the middle one (of
    an even number of levels) lies half way between the two means."""
    from scipy.stats import norm

    sd = math.sqrt(variances.total + separation**2 / 4.0)
    return tuple(float(separation / 2.0 + sd * norm.ppf(i / levels)) for i in range(1, levels))


def _latent(d: Design, truth: int, case: np.ndarray, once: bool, rng: np.random.Generator) -> np.ndarray:
    """(treatments, readers, cases) latent ratings of one truth; `once`: one reading serves all treatments."""
    v, t, r, n = d.variances, len(d.separation), d.readers, case.shape[-1]

    def draw(variance: float, *shape: int) -> np.ndarray:
        return math.sqrt(variance) * rng.standard_normal(shape)

    treatments = 1 if once else t
    x = draw(v.reader, 1, r, 1) + draw(v.treatment_reader, treatments, r, 1) + case
    x = x + draw(v.treatment_case, treatments, 1, n)
    joined = once or truth == 0 or d.paired_synthetic
    x = x + draw(v.reader_case, 1 if joined else t, r, n) + draw(v.error, treatments, r, n)
    x = np.broadcast_to(x, (t, r, n))
    return x + truth * np.asarray(d.separation)[:, None, None]


def simulate(design: Design, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One study.

    Returns:
        ratings (treatments, readers, real + synthetic) and truth (real + synthetic,): real cases first. With
        `paired_synthetic` False the columns of synthetic cases are different cases in each treatment: see `spread`.

    Raises:
        BadInput: pairs without equal numbers of real and synthetic cases.
    """
    d, t, sd = design, len(design.separation), math.sqrt(design.variances.case)
    common = d.pair_correlation
    if common and d.real != d.synthetic:
        raise BadInput("Pairs need as many real as synthetic cases", "Make `real` and `synthetic` equal.")
    pair = rng.standard_normal((1, 1, d.real))
    own = rng.standard_normal((1, 1, d.real))
    others = rng.standard_normal((1 if d.paired_synthetic else t, 1, d.synthetic))
    real = sd * (math.sqrt(common) * pair + math.sqrt(1.0 - common) * own)
    synthetic = sd * math.sqrt(1.0 - common) * others
    if common:
        synthetic = synthetic + sd * math.sqrt(common) * pair
    x = np.concatenate([_latent(d, 0, real, d.shared_real, rng), _latent(d, 1, synthetic, False, rng)], axis=2)
    truth = np.repeat([0, 1], [d.real, d.synthetic])
    if not d.thresholds:
        return x, truth
    shift = d.criterion_sd * rng.standard_normal((1, d.readers, 1))
    return np.searchsorted(np.asarray(d.thresholds), x - shift).astype(np.float64), truth


def spread(ratings: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gives the synthetic cases of each treatment columns of their own (NaN elsewhere); real cases stay shared.

    Returns:
        ratings (treatments, readers, real + treatments * synthetic) and truth.
    """
    t, r, _ = ratings.shape
    real, synthetic = ratings[:, :, truth == 0], ratings[:, :, truth == 1]
    n = synthetic.shape[2]
    out = np.full((t, r, real.shape[2] + t * n), np.nan)
    out[:, :, : real.shape[2]] = real
    for i in range(t):
        start = real.shape[2] + i * n
        out[i, :, start : start + n] = synthetic[i]
    return out, np.repeat([0, 1], [real.shape[2], t * n])


def true_figure(design: Design, figure: str = "auc", threshold: float | None = None, treatment: int = 0) -> float:
    """The value of a figure of merit in the populations of readers and cases of the model.

    Args:
        figure: "auc", "accuracy" (answers above `threshold` are called synthetic) or "mean_difference".

    Raises:
        BadInput: another figure.
    """
    from scipy.stats import norm

    mu, sd = design.separation[treatment], math.sqrt(design.variances.total)
    if not design.thresholds:
        if figure == "auc":
            return float(norm.cdf(mu / (sd * math.sqrt(2.0))))
        if figure == "mean_difference":
            return float(mu)
        raise BadInput(f"{figure} of continuous ratings is not known here", "Give thresholds.")
    # Real and synthetic readings of a reader share the criterion, so the mean over it is taken last.
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    weights = weights / weights.sum()
    cuts = np.concatenate([[-np.inf], design.thresholds, [np.inf]])[:, None] + design.criterion_sd * nodes
    real = np.diff(norm.cdf(cuts / sd), axis=0)
    synthetic = np.diff(norm.cdf((cuts - mu) / sd), axis=0)
    levels = np.arange(len(real))
    if figure == "auc":
        below = np.cumsum(real, axis=0) - real
        return float(((below + real / 2.0) * synthetic).sum(0) @ weights)
    if figure == "mean_difference":
        return float((levels[:, None] * (synthetic - real)).sum(0) @ weights)
    if figure == "accuracy" and threshold is not None:
        called = levels > threshold
        right = synthetic[called].sum(0) * design.synthetic + real[~called].sum(0) * design.real
        return float(right @ weights / (design.synthetic + design.real))
    raise BadInput(
        f"The true {figure} is not known here", 'Use "auc", "mean_difference", or "accuracy" with a threshold.'
    )
