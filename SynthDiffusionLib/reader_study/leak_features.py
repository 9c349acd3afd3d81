"""What a leak report looks at: numbers from the header, the global intensities, where bright and dark parts lie, and
the texture of each volume.

Header and intensities are about the format: they should say nothing. Where parts lie may be the image's own, or a
fault: volumes of one kind that are mirrored, cut elsewhere, or marked in a corner. Texture is about the image, which is
what readers are asked to judge: it is reported apart, so that nobody takes it for a fault of the blinding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.reader_study.headers import SourceHeader

GROUPS = {
    "header": "header and file",
    "intensity": "global intensities",
    "place": "where bright and dark parts lie",
    "texture": "image content (texture)",
}
_BLOCKS = 4  # along each axis, of which means are taken
_CORNER = 8  # part of a side that a corner takes
_MOST_VOXELS = 2_000_000  # of which distinct values and entropy are counted


@dataclass(frozen=True)
class FeatureTable:
    """Features of all volumes.

    Args:
        names: of the columns.
        groups: of each column, a key of `GROUPS`.
        values: (N, F) float64, finite.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    values: np.ndarray

    def part(self, *groups: str) -> FeatureTable:
        """The columns of some groups."""
        chosen = [i for i, g in enumerate(self.groups) if g in groups]
        return FeatureTable(
            tuple(self.names[i] for i in chosen), tuple(self.groups[i] for i in chosen), self.values[:, chosen]
        )


def feature_table(
    headers: Sequence[SourceHeader],
    intensities: Sequence[dict[str, float]],
    textures: Sequence[dict[str, float]],
    places: Sequence[dict[str, float]] = (),
) -> FeatureTable:
    """One table of the features of all volumes; a field that a file lacks is a value of its own.

    Args:
        headers: of `read_header`.
        intensities: of `intensity_features`.
        textures: of `texture_features`.
        places: of `place_features`.
    """
    rows: list[dict[str, float]] = [dict(h.numbers) for h in headers]
    categories = [{**h.categories, **{f"field {k}": "there" for k in h.texts}} for h in headers]
    for name in sorted({k for row in categories for k in row}):
        # One column for each word but the last: which words there are is known before the arms are looked at.
        words = sorted({row.get(name, "") for row in categories})
        for word in words[:-1]:
            for row, category in zip(rows, categories):
                row[f"{name}={word or 'none'}"] = float(category.get(name, "") == word)
    columns: list[tuple[str, str, list[float]]] = []
    for group, table in (
        ("header", rows),
        ("intensity", intensities),
        ("place", places),
        ("texture", textures),
    ):
        for name in sorted({k for row in table for k in row}):
            present = [row[name] for row in table if name in row]
            missing = min(present) - 1.0 - abs(min(present))
            columns.append((name, group, [row.get(name, missing) for row in table]))
    values = np.array([c[2] for c in columns], float).T.reshape(len(rows), len(columns))
    return FeatureTable(tuple(c[0] for c in columns), tuple(c[1] for c in columns), values)


def intensity_features(array: np.ndarray) -> dict[str, float]:
    """Global intensities of a volume, in its own units.

    Args:
        array: (I, J, K), any real type.
    """
    flat = array.ravel()
    low, high = float(flat.min()), float(flat.max())
    sample = _sampled(array).astype(np.float64)
    distinct, counts = np.unique(sample, return_counts=True)
    shares = counts / counts.sum()
    whole = sample == np.rint(sample)
    steps = np.diff(distinct)
    percentiles = (1, 5, 25, 50, 75, 95, 99)
    found = {
        "minimum": low,
        "maximum": high,
        "mean": float(flat.mean(dtype=np.float64)),
        "sd": float(flat.std(dtype=np.float64)),
        "at_minimum": float(np.mean(flat == flat.min())),
        "at_maximum": float(np.mean(flat == flat.max())),
        "entropy_bits": float(-(shares * np.log2(shares)).sum()),
        "distinct_values": float(len(distinct)),
        "smallest_step": float(steps.min()) if len(steps) else 0.0,
        "whole_numbers": float(whole.mean()),
        "odd_numbers": float(np.mean(np.mod(np.rint(sample), 2) == 1)),
        "constant_border": _constant_border(array),
    }
    found |= {f"percentile_{p}": float(v) for p, v in zip(percentiles, np.percentile(sample, percentiles))}
    return found


def place_features(array: np.ndarray) -> dict[str, float]:
    """Where bright and dark parts lie, whatever the volume's mean and spread are.

    Args:
        array: (I, J, K), any real type.

    Returns:
        mean values of 4 x 4 x 4 blocks, differences between halves along each axis, and the brightest and darkest
        voxel of the corners of slices along k (mean over the slices), all in standard deviations from the mean.
    """
    mean, spread = float(array.mean(dtype=np.float64)), max(float(array.std(dtype=np.float64)), 1e-6)
    edges = [np.linspace(0, n, min(_BLOCKS, n) + 1).round().astype(int) for n in array.shape]
    means = np.empty([len(e) - 1 for e in edges])
    for block in np.ndindex(*means.shape):
        part = array[tuple(slice(e[b], e[b + 1]) for e, b in zip(edges, block))]
        means[block] = (float(part.mean(dtype=np.float64)) - mean) / spread
    found = {f"block_{i}_{j}_{k}": float(means[i, j, k]) for i, j, k in np.ndindex(*means.shape)}
    for axis, name in enumerate("ijk"):
        first, second = np.array_split(means, 2, axis) if means.shape[axis] > 1 else (means, means)
        found[f"halves_{name}"] = float(first.mean() - second.mean())
    side = [max(1, n // _CORNER) for n in array.shape[:2]]
    for a, i in enumerate((slice(None, side[0]), slice(-side[0], None))):
        for b, j in enumerate((slice(None, side[1]), slice(-side[1], None))):
            corner = array[i, j]
            for name, extreme in (("brightest", corner.max((0, 1))), ("darkest", corner.min((0, 1)))):
                found[f"corner_{a}{b}_{name}"] = (float(extreme.mean(dtype=np.float64)) - mean) / spread
    return found


def texture_features(array: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Sharpness and noise of a volume.

    Args:
        array: (I, J, K).
        spacing: (3,) mm.

    Returns:
        logarithms of the energy of the discrete Laplacian (second differences along the three axes, in voxels) and of
        the mean gradient in units a mm, both relative to the spread of values; share of the variance that lies beyond
        half of the highest frequency, along each axis.
    """
    values = np.asarray(array, np.float32)
    spread = max(float(values.std()), 1e-6)
    second = sum(float(np.mean(np.diff(values, 2, axis=a) ** 2)) for a in range(3) if values.shape[a] > 2)
    slopes = [float(np.abs(np.diff(values, axis=a)).mean()) / float(spacing[a]) for a in range(3)]
    found = {
        "laplacian_energy": float(np.log(max(second, 1e-12)) - 2 * np.log(spread)),
        "gradient": float(np.log(max(np.mean(slopes), 1e-12)) - np.log(spread)),
    }
    centred = values - values.mean()
    for axis, name in enumerate("ijk"):
        power = np.abs(np.fft.rfft(centred, axis=axis)) ** 2
        other = tuple(a for a in range(3) if a != axis)
        profile = power.mean(axis=other)
        found[f"high_frequency_{name}"] = float(profile[len(profile) // 2 :].sum() / max(profile[1:].sum(), 1e-12))
    return found


def _sampled(array: np.ndarray) -> np.ndarray:
    step = max(1, int(np.ceil(array.size / _MOST_VOXELS)))
    return array.ravel()[::step]


def _constant_border(array: np.ndarray) -> float:
    """Share of the six outer faces that are one value: padding."""
    faces = [array.take(i, axis=axis) for axis in range(3) for i in (0, -1)]
    return float(np.mean([face.min() == face.max() for face in faces]))
