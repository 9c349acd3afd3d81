"""The nine characteristics of a mask that a joint model is asked for, and their distribution over a training set.

Volume, surface, sphericity, place and size are those of Kebaili et al. (arXiv:2406.05421, authors' code, which takes
them from pyradiomics). Surface, mesh volume and sphericity follow the Image Biomarker Standardisation Initiative (IBSI,
arXiv:1612.07003, morphological features): a mesh by marching cubes at 0.5 round the mask, which is not smoothed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.models.characteristics import NAMES, CharacteristicsSpec
from SynthDiffusionLib.volumes.grid import axis_codes, is_orthogonal, spacing_of

QUANTILES = 21  # evenly spaced, from the least to the largest
LEAST_SHRINKAGE = 1e-3  # of the correlation towards none: the matrix stays positive definite when it is rounded


def straight_axes(affine: np.ndarray) -> np.ndarray:
    """The axes of a grid turned to the patient axes that they lie nearest to.

    Args:
        affine: (4, 4) voxel indices to RAS+ mm.

    Returns:
        (3, 3): mm along R, A and S of a step along i, j and k; one entry a column, the spacing with a sign.

    Raises:
        BadInput: the grid is sheared, or two of its axes lie nearest to the same patient axis.
    """
    codes = axis_codes(affine)
    axes = [{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter] for letter in codes]
    if not is_orthogonal(affine, 1e-3) or len(set(axes)) < 3:
        raise BadInput("The axes of the mask's grid are not at right angles", "Resample it to a grid whose axes are.")
    straight = np.zeros((3, 3))
    for column, (axis, letter, step) in enumerate(zip(axes, codes, spacing_of(affine))):
        straight[axis, column] = step if letter in "RAS" else -step
    return straight


def measure(mask: np.ndarray, affine: np.ndarray) -> dict[str, float]:
    """The nine characteristics of a mask, several pieces taken together.

    Place and extent are along the grid's own axes, each named after the patient axis that it lies nearest to: for an
    oblique grid, as if it were turned straight about its middle. That is the frame that a model sees.

    Args:
        mask: (I, J, K) bool.
        affine: (4, 4) voxel indices to RAS+ mm.

    Returns:
        by the names of `models.characteristics.NAMES`:

        - volume_mm3: number of voxels times their volume;
        - surface_mm2: of the mesh;
        - sphericity: (36 pi V^2)^(1/3) / surface, with V the volume within the mesh, which is smaller than volume_mm3;
        - center_*_mm: centre of mass of the voxels, from the middle of the grid's box;
        - box_*_mm: number of voxels that the mask extends over, times the spacing.

    Raises:
        BadInput: nothing is marked, or `straight_axes` refuses the grid.
    """
    mask = np.asarray(mask, bool)
    where = np.argwhere(mask)
    if not len(where):
        raise BadInput(
            "Nothing is marked in the mask, so it has no characteristics", "Give a mask with the target in it."
        )
    straight = straight_axes(affine)
    spacing = np.abs(straight).sum(0)
    surface, inside = _mesh(mask[_box(where)], spacing)
    center = straight @ (where.mean(0) - (np.array(mask.shape) - 1) / 2)
    box = np.abs(straight) @ (np.ptp(where, axis=0) + 1)
    sphericity = (36.0 * np.pi * inside**2) ** (1 / 3) / surface
    values = (len(where) * float(np.prod(spacing)), surface, sphericity, *center, *box)
    return {name: float(value) for name, value in zip(NAMES, values)}


def _box(where: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(a, b + 1) for a, b in zip(where.min(0), where.max(0)))


def _mesh(mask: np.ndarray, spacing: np.ndarray) -> tuple[float, float]:
    """Surface (mm2) and enclosed volume (mm3) of the mesh round a mask, by the sum of signed tetrahedra."""
    from skimage.measure import marching_cubes, mesh_surface_area

    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, spacing=tuple(spacing))
    corners = vertices[faces].astype(np.float64)
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6.0
    return float(mesh_surface_area(vertices, faces)), float(abs(volume))


def fit_distribution(
    table: np.ndarray,
    extent_mm: Sequence[float],
    target: str = "tumour",
    cases: int | None = None,
    standardise: bool = False,
) -> CharacteristicsSpec:
    """How the characteristics of training cases are distributed: quantiles of each, and a Gaussian copula.

    The correlation is that of the normal scores, shrunk towards none by 1 / (N + 1), as if one more case had shown
    none: so it is positive definite with fewer cases than characteristics too. Shrinking by more, as the data's own
    noise would ask for, loosens what holds for every body, such as that a large volume needs a large box.

    Args:
        table: (rows, 9), in the order of `NAMES`; a case may have several rows, each of a varied copy.
        extent_mm: (3,) of the volumes, along R, A and S.
        target: class that they describe.
        cases: N, how many independent cases (patients) the rows are of; as many as rows if it is not given.
        standardise: scale them for the network by their mean and standard deviation, and not by their largest value
            and the extent of the volumes.

    Raises:
        BadInput: another shape, fewer rows than cases, or values that are not numbers.
    """
    table = np.asarray(table, float)
    if table.ndim != 2 or table.shape[1] != len(NAMES) or not len(table):
        raise BadInput(
            f"A table of characteristics has {len(NAMES)} columns and a row per case, not the shape {table.shape}",
            "Measure every case by labels.characteristics.measure.",
        )
    if not np.isfinite(table).all():
        raise BadInput("The table of characteristics holds values that are not numbers", "Measure the cases again.")
    cases = len(table) if cases is None else cases
    if not 1 <= cases <= len(table):
        raise BadInput(f"{len(table)} rows of characteristics cannot be of {cases} cases", "Give each case a row.")
    low, high = table.min(0), table.max(0)
    scale, offset = np.array([high[0], high[1], 1.0, *extent_mm, *extent_mm]), np.zeros(len(NAMES))
    if standardise:
        deviation, offset = table.std(0), table.mean(0)
        scale = np.where(deviation > 1e-3 * np.abs(scale), deviation, scale)  # one that never differs stays small
    return CharacteristicsSpec(
        target=target,
        scale=tuple(float(f"{s:.6g}") for s in scale),
        offset=tuple(float(f"{s:.6g}") for s in offset),
        range=tuple((float(a), float(b)) for a, b in zip(low, high)),
        quantiles=tuple(
            tuple(float(q) for q in column) for column in np.quantile(table, np.linspace(0, 1, QUANTILES), axis=0).T
        ),
        correlation=tuple(tuple(row) for row in shrunk_correlation(normal_scores(table), cases).tolist()),
        cases=cases,
    )


def normal_scores(table: np.ndarray) -> np.ndarray:
    """(N, C) of the standard normal distribution's values at the ranks of each column's entries, equal ones together.

    Ranks r from 1 to N are taken for probabilities (r - 0.5) / N.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return ndtri((rankdata(table, axis=0) - 0.5) / len(table))


def shrunk_correlation(scores: np.ndarray, cases: int) -> np.ndarray:
    """(C, C) correlation of the columns of (rows, C), its entries off the diagonal shrunk; see `fit_distribution`.

    A column that does not vary has no correlation.

    Args:
        cases: N, how many independent cases the rows are of.
    """
    deviation = scores.std(0)
    varies = deviation > 1e-12
    standard = np.where(varies, (scores - scores.mean(0)) / np.where(varies, deviation, 1.0), 0.0)
    shrinkage = max(1.0 / (cases + 1), LEAST_SHRINKAGE)
    shrunk = np.round((1.0 - shrinkage) * (standard.T @ standard) / len(scores), 6)
    np.fill_diagonal(shrunk, 1.0)
    return shrunk
