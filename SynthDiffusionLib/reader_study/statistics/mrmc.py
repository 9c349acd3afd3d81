"""Two or more generators read by the same readers: the analysis of Obuchowski and Rockette.

Figures of merit of treatment i and reader j follow a two-way model whose errors covary: cov1 between treatments of one
reader, cov2 between readers of one treatment, cov3 between both (Obuchowski and Rockette, Commun Stat Simul 1995;
degrees of freedom of Hillis, Stat Med 2007, 26:596). With the jackknife covariance and the cases crossed, this is the
analysis of Dorfman, Berbaum and Metz (Invest Radiol 1992) in its corrected form: the two give the same F (Hillis,
Obuchowski, Schartz and Berbaum, Stat Med 2005). It is therefore not written a second time.

Two generators that share their real cases are only partly paired. The model stays the same; what changes is how much
the errors covary, and that follows from the cases two readings have in common. `or_partly_paired` computes the
covariances from those; `obuchowski_rockette` refuses data in which a reading lacks a case.

With few readers the mean square MSTR has few degrees of freedom and is often far too small by chance, so that the test
rejects too often where readers differ in what they make of the treatments (7 to 9 % instead of 5 % in simulation with 3
readers). MSTR is therefore never taken below error - cov1 - max(cov2 - cov3, 0), which it must exceed on average since
variances are not negative; the degrees of freedom keep the observed MSTR. Where that happens a note says so and gives
the p-value of Hillis's own form, which is `floor=False`. Where it does not, the two are the same.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reports.sections import holm

from .figures import Figures, figures
from .results import ALPHA, CONFIDENCE, Equivalence, Result, check_choice, check_confidence, equivalence_t

EFFECTS = ("random", "fixed")


@dataclass(frozen=True)
class Readings(Result):
    """Readings as an array. ratings: (treatments, readers, cases), NaN where not read; truth: (cases,)."""

    ratings: np.ndarray
    truth: np.ndarray
    treatments: tuple[str, ...]
    readers: tuple[str, ...]
    cases: tuple[str, ...]
    clusters: tuple[str, ...] | None
    crossed: bool


@dataclass(frozen=True)
class Components(Result):
    """Mean squares, error covariances, variance components, and sizes; these are also the pilot values of `power`."""

    mst: float
    mstr: float
    msr: float
    error: float
    cov1: float
    cov2: float
    cov3: float
    var_r: float
    var_tr: float
    treatments: int
    readers: int
    cases: int
    positives: int
    negatives: int


@dataclass(frozen=True)
class ArmFigure(Result):
    """Reader-averaged figure of merit of one treatment, from this treatment's data alone.

    The interval is a symmetric one by t (Hillis 2007), cut at 0 and 1 for areas and proportions; `single_arm` makes one
    on the logit scale, which holds its level better near the ends.
    """

    name: str
    value: float
    se: float
    df: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Result):
    """`first` less `second`, reader-averaged. `p_holm` is corrected for all pairs of treatments."""

    first: str
    second: str
    value: float
    se: float
    df: float
    t: float
    p: float
    p_holm: float
    low: float
    high: float
    equivalence: Equivalence | None


@dataclass(frozen=True)
class ReaderDifference(Result):
    """One reader's difference between two treatments (this reader fixed, cases random)."""

    reader: str
    first: str
    second: str
    first_value: float
    second_value: float
    difference: float
    se: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class ObuchowskiRockette(Result):
    """All results. `statistic` is F, or chi-square for fixed readers (df2 infinite); p: are all arms equal?"""

    figure: str
    covariance: str
    readers: str
    cases: str
    statistic_name: str
    statistic: float
    df1: int
    df2: float
    p: float
    confidence: float
    arms: tuple[ArmFigure, ...]
    differences: tuple[Difference, ...]
    reader_differences: tuple[ReaderDifference, ...]
    components: Components
    partly_paired: bool
    notes: tuple[str, ...]


def readings_from_long(
    reader: Sequence[Hashable],
    treatment: Sequence[Hashable],
    case: Sequence[Hashable],
    truth: Sequence[int],
    rating: Sequence[float],
    cluster: Sequence[Hashable] | None = None,
) -> Readings:
    """Long data as an array; all arguments have one entry per reading, orders are those of first occurrence.

    A case id names what was sampled. Synthetic cases of two generators that were made from the same mask are paired by
    giving both the mask's id; with the volume's id they are independent cases. A real case keeps its id in every
    treatment that it serves (give its one reading once per treatment), and is then shared.

    Raises:
        BadInput: different lengths, a case with two truths or clusters, or two readings of a case by a reader in a
            treatment.
    """
    columns = [list(c) for c in (reader, treatment, case, truth, rating)]
    if cluster is not None:
        columns.append(list(cluster))
    if len({len(c) for c in columns}) != 1 or not columns[0]:
        raise BadInput("The columns of the readings have different lengths or are empty", "Give one entry per reading.")
    names = [list(dict.fromkeys(c)) for c in columns[:3]]
    places = [{name: i for i, name in enumerate(c)} for c in names]
    ratings = np.full((len(names[1]), len(names[0]), len(names[2])), math.nan)
    seen = np.zeros(ratings.shape, bool)
    truths: dict[Hashable, int] = {}
    clusters: dict[Hashable, Hashable] = {}
    for row in zip(*columns):
        r, t, c = row[:3]
        if truths.setdefault(c, row[3]) != row[3]:
            raise BadInput(f"Case {c!r} is real in one reading and synthetic in another", "Give each case one truth.")
        if len(row) > 5 and clusters.setdefault(c, row[5]) != row[5]:
            raise BadInput(f"Case {c!r} is in two clusters", "Give each case one cluster.")
        place = places[1][t], places[0][r], places[2][c]
        if seen[place]:
            raise BadInput(
                f"Reader {r!r} has two readings of case {c!r} in {t!r}", "Use first readings only, one per case."
            )
        seen[place] = True
        ratings[place] = float(row[4])
    texts = [tuple(str(n) for n in c) for c in names]
    grouped = tuple(str(clusters[c]) for c in names[2]) if cluster is not None else None
    return Readings(
        ratings, np.array([int(truths[c]) for c in names[2]]), texts[1], texts[0], texts[2], grouped,
        bool(np.isfinite(ratings).all()),
    )  # fmt: skip


def _blocks(matrix: np.ndarray, t: int, r: int) -> tuple[float, float, float, float, np.ndarray]:
    """error, cov1, cov2, cov3, and cov2 of each treatment, from the (t * r, t * r) matrix. Absent ones are 0."""
    block = matrix.reshape(t, r, t, r)
    same_reader = np.einsum("ijkj->ikj", block)
    diagonal = float(np.einsum("iji->ij", np.einsum("ijkj->ijk", block)).sum())
    across = float(same_reader.sum()) - diagonal
    within = np.einsum("ijik->i", block) - np.einsum("ijij->i", block)
    rest = float(block.sum()) - diagonal - across - float(within.sum())
    pairs = r * (r - 1)
    cov2 = within / pairs if r > 1 else np.zeros(t)
    cov3 = rest / (t * (t - 1) * pairs) if r > 1 else 0.0
    return diagonal / (t * r), across / (t * (t - 1) * r), float(cov2.mean()), cov3, cov2


def components(values: np.ndarray, fitted: Figures) -> Components:
    """Mean squares and variance components of a (treatments, readers) table of figures of merit."""
    t, r = values.shape
    error, cov1, cov2, cov3, _ = _blocks(fitted.covariance, t, r)
    by_arm, by_reader, grand = values.mean(1), values.mean(0), values.mean()
    mst = r * float(((by_arm - grand) ** 2).sum()) / (t - 1)
    msr = t * float(((by_reader - grand) ** 2).sum()) / (r - 1) if r > 1 else 0.0
    rest = values - by_arm[:, None] - by_reader[None, :] + grand
    mstr = float((rest**2).sum()) / ((t - 1) * (r - 1)) if r > 1 else 0.0
    var_r = (msr - mstr) / t - cov1 + cov3
    var_tr = mstr - error + cov1 + (cov2 - cov3)
    return Components(
        mst, mstr, msr, error, cov1, cov2, cov3, var_r, var_tr, t, r, fitted.cases, fitted.positives, fitted.negatives
    )


def _denominator(c: Components, readers: str, cases: str, floor: bool) -> tuple[float, float]:
    """What MST is compared with, and its degrees of freedom."""
    reader_df = (c.treatments - 1) * (c.readers - 1)
    if readers == "fixed":
        return c.error - c.cov1 + (c.readers - 1) * (c.cov2 - c.cov3), math.inf
    if cases == "fixed":
        return c.mstr, float(reader_df)
    shared = max(c.cov2 - c.cov3, 0.0)
    total = (max(c.mstr, c.error - c.cov1 - shared) if floor else c.mstr) + c.readers * shared
    return total, math.inf if c.mstr == 0 else total**2 / (c.mstr**2 / reader_df)


def _test(c: Components, readers: str, denominator: float, df2: float) -> tuple[float, float]:
    """MST over the denominator, and p."""
    from scipy.stats import chi2
    from scipy.stats import f as fisher

    if not denominator > 0:
        return math.nan, math.nan
    ratio, df1 = c.mst / denominator, c.treatments - 1
    return ratio, float(chi2.sf(ratio * df1, df1) if readers == "fixed" else fisher.sf(ratio, df1, df2))


def _arm(
    name: str, row: np.ndarray, block: np.ndarray, readers: str, cases: str, confidence: float, figure: str
) -> ArmFigure:
    """Reader average of one arm (Hillis 2007, eq. for a single treatment)."""
    from scipy.stats import t as student

    r = len(row)
    msr = float(row.var(ddof=1)) if r > 1 else 0.0
    if readers == "fixed":
        variance, df = float(block.mean()), math.inf
    elif cases == "fixed":
        variance, df = msr / r, float(r - 1)
    else:
        cov2 = float(block.sum() - np.trace(block)) / (r * (r - 1))
        total = msr + r * max(cov2, 0.0)
        variance, df = total / r, math.inf if msr == 0 else total**2 / (msr**2 / (r - 1))
    se = math.sqrt(max(variance, 0.0))
    half = float(student.ppf(0.5 + confidence / 2.0, df)) * se
    value = float(row.mean())
    low, high = value - half, value + half
    if figure != "mean_difference":  # a proportion or an area: cut at the ends of the scale, as the docstring says
        low, high = max(low, 0.0), min(high, 1.0)
    return ArmFigure(name, value, se, df, low, high)


def _two_sided(value: float, se: float, df: float, confidence: float) -> tuple[float, float, float, float]:
    """t, p, low, high; NaN where the standard error is 0."""
    from scipy.stats import t as student

    if not se > 0:
        return math.nan, math.nan, math.nan, math.nan
    half = float(student.ppf(0.5 + confidence / 2.0, df)) * se
    return value / se, float(2.0 * student.sf(abs(value / se), df)), value - half, value + half


def _reader_differences(
    values: np.ndarray, matrix: np.ndarray, arms: Sequence[str], readers: Sequence[str], confidence: float
) -> tuple[ReaderDifference, ...]:
    t, r = values.shape
    block, out = matrix.reshape(t, r, t, r), []
    for i, k in combinations(range(t), 2):
        for j in range(r):
            variance = block[i, j, i, j] + block[k, j, k, j] - 2.0 * block[i, j, k, j]
            se, difference = math.sqrt(max(float(variance), 0.0)), float(values[i, j] - values[k, j])
            _, p, low, high = _two_sided(difference, se, math.inf, confidence)
            out.append(
                ReaderDifference(
                    readers[j], arms[i], arms[k], float(values[i, j]), float(values[k, j]), difference, se, p, low, high
                )
            )
    return tuple(out)


def _names(given: Sequence[str] | None, number: int, what: str) -> tuple[str, ...]:
    if given is None:
        return tuple(f"{what} {i + 1}" for i in range(number))
    if len(given) != number:
        raise BadInput(f"{len(given)} names for {number} {what}s", "Give one name for each.")
    return tuple(str(n) for n in given)


def _analyse(
    ratings: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    figure: str,
    covariance: str,
    readers: str,
    cases: str,
    threshold: float | None,
    clusters: Sequence[Hashable] | np.ndarray | None,
    margin: float | None,
    alpha: float,
    confidence: float,
    treatment_names: Sequence[str] | None,
    reader_names: Sequence[str] | None,
    floor: bool,
) -> ObuchowskiRockette:

    t, r, n = ratings.shape
    check_effects(readers, cases, r)
    check_confidence(confidence)
    arms, names = _names(treatment_names, t, "treatment"), _names(reader_names, r, "reader")
    if margin is not None and not margin > 0:
        raise BadInput(f"A margin of {margin} is not above 0", "Give the largest difference that does not matter.")
    fitted = figures(ratings.reshape(t * r, n), truth, figure, covariance, threshold, clusters)
    values = fitted.values.reshape(t, r)
    c = components(values, fitted)
    denominator, df2 = _denominator(c, readers, cases, floor)
    ratio, p = _test(c, readers, denominator, df2)
    notes = []
    if not denominator > 0:
        notes.append("The estimated variance of the differences is not above 0, so that nothing can be tested.")
    plain = _denominator(c, readers, cases, False)
    if plain[0] < denominator:
        text = f"p would be {_test(c, readers, *plain)[1]:.3g}"
        if t == 2 and plain[0] > 0:
            difference = float(values[0].mean() - values[1].mean())
            low, high = _two_sided(difference, math.sqrt(2.0 / r * plain[0]), plain[1], confidence)[2:]
            text += f" and the interval {low:.3g} to {high:.3g}"
        notes.append(
            f"MSTR {c.mstr:.3g} is smaller than the cases alone make it on average and was raised; without that "
            f"(Hillis 2007) {text}."
        )
    if t > 2 and not fitted.crossed:
        notes.append("With more than two arms, the covariances of pairs of arms are averaged although they may differ.")
    if cases == "random" and readers == "random" and c.cov2 < c.cov3:
        notes.append("cov2 is below cov3; their difference is taken as 0 (Hillis 2007).")
    se = math.sqrt(2.0 / r * denominator) if denominator > 0 else math.nan
    pairs = list(combinations(range(t), 2))
    tested = [(float(values[i].mean() - values[k].mean()), i, k) for i, k in pairs]
    tests = [_two_sided(value, se, df2, confidence) for value, _, _ in tested]
    corrected = holm([test[1] for test in tests])
    differences = tuple(
        Difference(
            arms[i], arms[k], value, se, df2, test[0], test[1], float(corrected[m]), test[2], test[3],
            None if margin is None else equivalence_t(value, se, df2, -margin, margin, alpha),
        )
        for m, ((value, i, k), test) in enumerate(zip(tested, tests))
    )  # fmt: skip
    block = fitted.covariance.reshape(t, r, t, r)
    return ObuchowskiRockette(
        figure, covariance, readers, cases, "chi2" if readers == "fixed" else "F",
        ratio * (t - 1) if readers == "fixed" else ratio, t - 1, df2, p, confidence,
        tuple(_arm(arms[i], values[i], block[i, :, i, :], readers, cases, confidence, figure) for i in range(t)),
        differences,
        _reader_differences(values, fitted.covariance, arms, names, confidence), c, not fitted.crossed, tuple(notes),
    )  # fmt: skip


def check_effects(readers: str, cases: str, number: int) -> None:
    """Raises BadInput if nothing is random, or readers are to be random and there is only one."""
    check_choice("The kind of readers", readers, EFFECTS)
    check_choice("The kind of cases", cases, EFFECTS)
    if readers == "fixed" and cases == "fixed":
        raise BadInput("With readers and cases both fixed nothing is left to vary", "Make one of them random.")
    if readers == "random" and number < 2:
        raise BadInput("One reader cannot stand for readers at large", 'Use two or more, or readers "fixed".')


def _as_ratings(ratings: np.ndarray) -> np.ndarray:
    array = np.asarray(ratings, np.float64)
    if array.ndim != 3 or array.shape[0] < 2:
        raise BadInput(
            f"Ratings of shape {array.shape} do not compare treatments",
            "Give (treatments, readers, cases) with two or more treatments; `single_arm` is for one.",
        )
    return array


def obuchowski_rockette(
    ratings: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    *,
    figure: str = "auc",
    covariance: str = "delong",
    readers: str = "random",
    cases: str = "random",
    threshold: float | None = None,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    margin: float | None = None,
    alpha: float = ALPHA,
    confidence: float = CONFIDENCE,
    treatment_names: Sequence[str] | None = None,
    reader_names: Sequence[str] | None = None,
    floor: bool = True,
) -> ObuchowskiRockette:
    """Obuchowski-Rockette analysis of fully crossed data: every reader read every case in every treatment.

    Args:
        ratings: (treatments, readers, cases), finite.
        truth: (cases,) 0 real, 1 synthetic.
        figure, covariance, threshold, clusters: see `figures.figures`.
        readers, cases: "random" or "fixed". Both random: F with Hillis's degrees of freedom; readers fixed: chi-square;
            cases fixed: F with (t - 1)(r - 1).
        margin: adds to each difference a test of equivalence within +- margin at `alpha`.
        floor: see the module; False gives Hillis's own test.

    Raises:
        BadInput: missing readings, or what `figures` refuses.
    """
    array = _as_ratings(ratings)
    if np.isnan(array).any():
        raise BadInput(
            f"{int(np.isnan(array).sum())} readings are missing, and the crossed analysis needs all of them",
            "Use or_partly_paired: it takes what two readings have in common into account.",
        )
    return _analyse(
        array, truth, figure, covariance, readers, cases, threshold, clusters, margin, alpha, confidence,
        treatment_names, reader_names, floor,
    )  # fmt: skip


def or_partly_paired(
    ratings: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    *,
    figure: str = "auc",
    covariance: str = "delong",
    readers: str = "random",
    cases: str = "random",
    threshold: float | None = None,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    margin: float | None = None,
    alpha: float = ALPHA,
    confidence: float = CONFIDENCE,
    treatment_names: Sequence[str] | None = None,
    reader_names: Sequence[str] | None = None,
    floor: bool = True,
) -> ObuchowskiRockette:
    """Obuchowski-Rockette analysis where readings share only some cases: NaN marks what was not read.

    For generators that share real cases and have synthetic cases of their own; for cases nested in treatments or in
    readers; and for crossed data with some missing answers. Covariances come from the shared cases only. Every reader
    must have read in every treatment. Arguments as in `obuchowski_rockette`.

    Raises:
        BadInput: a reader without two cases of each kind in a treatment, or what `figures` refuses.
    """
    return _analyse(
        _as_ratings(ratings), truth, figure, covariance, readers, cases, threshold, clusters, margin, alpha,
        confidence, treatment_names, reader_names, floor,
    )  # fmt: skip
