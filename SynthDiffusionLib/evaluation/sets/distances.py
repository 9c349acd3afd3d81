"""Distances between two sets of features: Fréchet, kernel (maximum mean discrepancy, of which the energy distance is
one), and how their clouds overlap.

Every set brings its own mean and its own covariance, and exactly as many rows as it has volumes; see `check_features`.

Pairs of one patient are never compared, in one set or across the two: a synthetic volume and the real one whose mask
it was made for depend on each other, and a patient whom a resample draws twice is at distance zero from herself. So two
sets that are the same files are at a kernel distance of exactly 0, as they should be, and not below.

Sources: Fréchet distance of normal distributions: Dowson and Landau 1982, J Multivariate Anal 12:450; of features:
Heusel et al. 2017, arXiv:1706.08500. Kernel: Gretton et al. 2012, JMLR 13:723, lemma 6; polynomial kernel: Bińkowski et
al. 2018, arXiv:1801.01401, section 4; energy distance: Székely and Rizzo 2013, J Stat Plan Inference 143:1249, a kernel
distance by Sejdinovic et al. 2013, Ann Stat 41:2263. Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991,
section 2. Density and coverage: Naeem et al. 2020, arXiv:2002.09797, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
CHUNK = 512  # rows of a kernel matrix at a time
MANIFOLD = ("precision", "recall", "density", "coverage")


def check_features(features: np.ndarray, volumes: int, what: str = "set") -> np.ndarray:
    """Refuses features that are not one row a volume, all of them measured.

    A buffer of a fixed number of rows, of which only some are filled, gives distances to whatever was in memory (as in
    released code of a 3D Fréchet distance); so does a row of NaN.

    Args:
        features: (N, D).
        volumes: N.

    Raises:
        BadInput: another number of rows, or a value that is not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) != volumes:
        raise BadInput(
            f"The features of the {what} have the shape {features.shape} for {volumes} volumes",
            "There must be one row a volume, and none that is not filled.",
        )
    bad = ~np.isfinite(features).all(1)
    if bad.any():
        raise BadInput(
            f"{bad.sum()} rows of features of the {what} are not finite, first number {np.flatnonzero(bad)[0]}",
            "Remove the volume, or mend it.",
        )
    return features


def enough_for_frechet(*numbers: int, features: int) -> bool:
    """Whether every set has more rows than there are features, so that its covariance has full rank."""
    return min(numbers) > features


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance (squared, as is usual) between normal distributions fitted to two sets of features.

    Biased: sets of the same kind are not at 0, the less so the fewer they are. Read it beside real against real of the
    same numbers.

    Args:
        x: (N, D); y: (M, D).

    Raises:
        BadInput: a set has not more rows than features: its covariance is singular, and what comes out says more about
            N than about the images.
    """
    if not enough_for_frechet(len(x), len(y), features=x.shape[1]):
        raise BadInput(
            f"A Fréchet distance of {x.shape[1]} features needs more than {x.shape[1]} volumes in each set; "
            f"there are {len(x)} and {len(y)}",
            "Take the kernel distance, which is unbiased for any number, or give more volumes.",
        )
    return frechet_of_moments(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))


def frechet_of_moments(mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray) -> float:
    """|m_x - m_y|² + tr(C_x + C_y - 2 (C_x C_y)^½).

    The trace of the root is the sum of the roots of the eigenvalues of C_x^½ C_y C_x^½, which is symmetric: no matrix
    root of a product that is not, whose function in SciPy lost the argument `disp` in version 1.18.

    Args:
        mean_x, mean_y: (D,); cov_x, cov_y: (D, D).
    """
    cov_x, cov_y = np.atleast_2d(cov_x), np.atleast_2d(cov_y)
    values, vectors = np.linalg.eigh(cov_x)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    middle = root @ cov_y @ root
    trace = np.sqrt(np.maximum(np.linalg.eigvalsh((middle + middle.T) / 2.0), 0.0)).sum()
    apart = np.sum((np.asarray(mean_x) - np.asarray(mean_y)) ** 2)
    return float(max(apart + np.trace(cov_x) + np.trace(cov_y) - 2.0 * trace, 0.0))


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y / D + 1)³ for the rows of `x` (N, D) and `y` (M, D); (N, M). The kernel of the Kernel Inception Distance."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def energy_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """-|x - y| / √D: its MMD² is the energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'|, per root of the number of features.

    It is 0 only for equal distributions and grows in proportion to a shift, where the polynomial kernel grows with the
    sixth power of one outlying feature, and the Gaussian one stops growing.
    """
    return -np.sqrt(squared_distances(x, y) / x.shape[1])


def gaussian_kernel(bandwidth: float) -> Kernel:
    """exp(-|x - y|² / (2 bandwidth²)); without the (N, M, D) array, for sets of thousands of slices."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(-squared_distances(x, y) / (2.0 * bandwidth**2))

    return kernel


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|² of the rows of (N, D) and (M, D); (N, M), not below 0, and exactly 0 for equal rows."""
    from scipy.spatial.distance import cdist

    return cdist(x, y, "sqeuclidean")


def median_distance(x: np.ndarray, most: int = 1000, seed: int = 2026) -> float:
    """Median distance between different rows, of at most `most` of them; 1 where all are equal."""
    if len(x) > most:
        x = x[np.sort(np.random.default_rng(seed).permutation(len(x))[:most])]
    apart = np.sqrt(squared_distances(x, x)[np.triu_indices(len(x), 1)])
    return float(np.median(apart)) or 1.0 if len(apart) else 1.0


@dataclass(frozen=True)
class PairSums:
    """Sums of a kernel over pairs of volumes of different patients, by pairs of patients.

    Every statistic of patients that are drawn or weighted comes from these small matrices. The diagonals are 0: pairs
    of one patient do not count.

    Args:
        patients: P of them, of both sets.
        xx, yy, xy: (P, P) sums over pairs of volumes: both of x, both of y, of x and y.
        nx, ny: (P,) volumes of each patient in x and y.
    """

    patients: tuple[Hashable, ...]
    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    nx: np.ndarray
    ny: np.ndarray

    def mmd2(self, wx: np.ndarray, wy: np.ndarray) -> np.ndarray:
        """Unbiased squared maximum mean discrepancy of weighted patients.

        Args:
            wx: (B, P) how often each patient counts in x; wy: in y.

        Returns:
            (B,); nan where a set has fewer than two patients.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return (
                _weighted(wx, wx, self.xx, self.nx, self.nx)
                + _weighted(wy, wy, self.yy, self.ny, self.ny)
                - 2.0 * _weighted(wx, wy, self.xy, self.nx, self.ny)
            )

    def value(self) -> float:
        """Of all volumes."""
        ones = np.ones((1, len(self.patients)))
        return float(self.mmd2(ones, ones)[0])


def _weighted(a: np.ndarray, b: np.ndarray, sums: np.ndarray, na: np.ndarray, nb: np.ndarray) -> np.ndarray:
    pairs = ((a * na).sum(1) * (b * nb).sum(1)) - (a * na * b * nb).sum(1)
    return ((a @ sums) * b).sum(1) / pairs


def pair_sums(
    x: np.ndarray,
    x_patients: Sequence[Hashable],
    y: np.ndarray,
    y_patients: Sequence[Hashable],
    kernel: Kernel,
) -> PairSums:
    """Sums a kernel by patients.

    Args:
        x: (N, D); y: (M, D).
        x_patients: of each row; y_patients: as well. Names that occur in both are the same patient.
    """
    patients = tuple(dict.fromkeys([*x_patients, *y_patients]))
    index = {p: i for i, p in enumerate(patients)}
    of_x, of_y = (np.array([index[p] for p in names]) for names in (x_patients, y_patients))
    sums = [_block_sums(a, i, b, j, kernel, len(patients)) for a, i, b, j in
            ((x, of_x, x, of_x), (y, of_y, y, of_y), (x, of_x, y, of_y))]  # fmt: skip
    counts = (np.bincount(i, minlength=len(patients)).astype(np.float64) for i in (of_x, of_y))
    return PairSums(patients, *sums, *counts)


def _block_sums(
    a: np.ndarray, of_a: np.ndarray, b: np.ndarray, of_b: np.ndarray, kernel: Kernel, patients: int
) -> np.ndarray:
    by_b = np.zeros((len(b), patients))
    by_b[np.arange(len(b)), of_b] = 1.0
    total = np.zeros((patients, patients))
    for start in range(0, len(a), CHUNK):
        rows = slice(start, start + CHUNK)
        np.add.at(total, of_a[rows], kernel(a[rows], b) @ by_b)
    np.fill_diagonal(total, 0.0)
    return total


def mmd2(
    x: np.ndarray,
    y: np.ndarray,
    kernel: Kernel = polynomial_kernel,
    x_patients: Sequence[Hashable] | None = None,
    y_patients: Sequence[Hashable] | None = None,
) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy, over pairs of different patients.

    0 in expectation for two sets of one kind, so about half of such values are negative. Without patients, every row is
    a patient of its own, and this is the estimate of Gretton et al. 2012, lemma 6.
    """
    own = [("x", i) for i in range(len(x))] if x_patients is None else x_patients
    others = [("y", i) for i in range(len(y))] if y_patients is None else y_patients
    return pair_sums(x, own, y, others, kernel).value()


@dataclass(frozen=True)
class Overlap:
    """How the clouds of two sets overlap; see `overlap`.

    Args:
        k: of the k-th nearest neighbour.
        precise: (M,) bool, synthetic volumes within the real cloud.
        recalled: (N,) bool, real volumes within the synthetic cloud.
        dense: (M,) number of real balls that hold the synthetic volume, divided by k.
        covered: (N,) bool, real balls that hold a synthetic volume.
    """

    k: int
    precise: np.ndarray
    recalled: np.ndarray
    dense: np.ndarray
    covered: np.ndarray

    def to_json(self) -> dict[str, float]:
        parts = (self.precise, self.recalled, self.dense, self.covered)
        return {name: float(np.mean(part)) for name, part in zip(MANIFOLD, parts)}


def overlap(
    real: np.ndarray,
    real_patients: Sequence[Hashable],
    synthetic: np.ndarray,
    synthetic_patients: Sequence[Hashable],
    k: int,
) -> Overlap:
    """Precision, recall, density and coverage of two clouds of features.

    Round each volume lies a ball that reaches to its k-th nearest neighbour in its own set. Precision is the share of
    synthetic volumes in some real ball, recall the share of real volumes in some synthetic ball, coverage the share of
    real balls with some synthetic volume, density the mean number of real balls a synthetic volume is in, over k (which
    may pass 1). Volumes of one patient are no neighbours of each other, within a set and across.

    Args:
        real: (N, D); synthetic: (M, D); both in the same standardised features.
        k: below the number of patients of either set.

    Raises:
        BadInput: fewer than k + 1 patients in a set.
    """
    for patients, what in ((real_patients, "real"), (synthetic_patients, "synthetic")):
        if len(set(patients)) <= k:
            raise BadInput(
                f"{k} nearest neighbours need more than {k} patients; the {what} set has {len(set(patients))}",
                "Give more volumes.",
            )
    names = {p: i for i, p in enumerate(dict.fromkeys([*real_patients, *synthetic_patients]))}
    of_real, of_synthetic = (np.array([names[p] for p in s]) for s in (real_patients, synthetic_patients))
    sides = ((real, of_real, real, of_real), (synthetic, of_synthetic, synthetic, of_synthetic),
             (real, of_real, synthetic, of_synthetic))  # fmt: skip
    return _overlap_of(*(_of_different_patients(*side) for side in sides), k)


def manifold_figures(real: np.ndarray, synthetic: np.ndarray, between: np.ndarray, k: int) -> tuple[float, ...]:
    """(4,) figures of `MANIFOLD`, from squared distances that are known; those of one patient are infinite.

    Args:
        real: (N, N); synthetic: (M, M); between: (N, M).
    """
    return tuple(_overlap_of(real, synthetic, between, k).to_json().values())


def _of_different_patients(a: np.ndarray, of_a: np.ndarray, b: np.ndarray, of_b: np.ndarray) -> np.ndarray:
    apart = squared_distances(a, b)
    apart[of_a[:, None] == of_b[None]] = np.inf
    return apart


def _overlap_of(real: np.ndarray, synthetic: np.ndarray, between: np.ndarray, k: int) -> Overlap:
    # Squared distances to the k-th nearest volume of another patient.
    real_radius, synthetic_radius = (np.partition(own, k - 1, axis=1)[:, k - 1] for own in (real, synthetic))
    in_real = between <= real_radius[:, None]
    in_synthetic = between <= synthetic_radius[None]
    return Overlap(k, in_real.any(0), in_synthetic.any(1), in_real.sum(0) / k, in_real.any(1))
