"""Distances in registered voxel space: the search of `evaluation.memorisation` for sets of any size, kept in a cache.

The core of one volume, a cube round its middle of two thirds of the shortest side, is laid on every place of the other,
in all eight mirror images; the distance is 1 minus the largest normalised cross-correlation of the band-passed volumes.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np

from SynthDiffusionLib.evaluation.memorisation import (
    BACKGROUND_VOXELS,
    CORES_VOXELS,
    FLAT_SD,
    SMOOTHING_VOXELS,
    Gallery,
    build_gallery,
    distances,
    reduce,
)
from SynthDiffusionLib.evaluation.sets.embedding import central, thinned, thinning

VERSION = 1
LONGEST = 64  # voxels of the longest side; larger boxes are thinned
CORE_SHARE = 2.0 / 3.0
SAVE_EVERY = 20


@dataclass(frozen=True)
class VoxelSpace:
    """How volumes are compared.

    Args:
        box: voxels round the middle of each volume that count.
        factor: of thinning by block means.
        step: every so-manyth voxel of what is left is taken after the band-pass.
        core: side of the core in voxels of that.
        intensity_range: values are scaled by it.
    """

    box: tuple[int, int, int]
    factor: int
    step: int
    core: int
    intensity_range: tuple[float, float]

    @property
    def core_voxels(self) -> int:
        """Side of the core in voxels of the volumes."""
        return self.core * self.step * self.factor

    def reduced(self, image: np.ndarray) -> np.ndarray:
        """A volume as it is compared."""
        return reduce(thinned(central(image, self.box), self.factor), self.intensity_range, self.step)

    def to_json(self) -> dict[str, object]:
        bands = [SMOOTHING_VOXELS * self.factor, BACKGROUND_VOXELS * self.factor]
        return asdict(self) | {"core_voxels": self.core_voxels, "band_sigmas_voxels": bands, "version": VERSION}


def voxel_space(box: tuple[int, int, int], intensity_range: tuple[float, float]) -> VoxelSpace:
    """How volumes with that box in common are compared: at half resolution where they are not small already."""
    factor = thinning(box, LONGEST)
    shortest = min(n // factor for n in box)
    step = 2 if shortest >= CORES_VOXELS["whole"] else 1
    return VoxelSpace(box, factor, step, max(4, int(shortest * CORE_SHARE) // step), intensity_range)


class DistanceCache:
    """Rows of distances by the key of a volume, in one file for each gallery."""

    def __init__(self, folder: Path, gallery_key: object) -> None:
        digest = hashlib.sha256(json.dumps([VERSION, gallery_key], sort_keys=True).encode()).hexdigest()[:24]
        self._path = Path(folder) / f"voxel-distances-{digest}.npz"
        self._rows: dict[str, np.ndarray] = {}
        self._unsaved = 0
        if self._path.is_file():
            try:
                with np.load(self._path, allow_pickle=False) as stored:
                    self._rows = {name: stored[name] for name in stored.files}
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                self._rows = {}  # damaged: measured again

    def row(self, key: str, measure: Callable[[], np.ndarray]) -> np.ndarray:
        """The row of a key; measured if it is not known."""
        if key not in self._rows:
            self._rows[key] = measure()
            self._unsaved += 1
            if self._unsaved >= SAVE_EVERY:
                self.save()
        return self._rows[key]

    def save(self) -> None:
        """Writes what is new."""
        from SynthDiffusionLib.volumes.atomic import atomic_file

        if self._unsaved:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._path) as stream:
                np.savez(stream, **self._rows)
            self._unsaved = 0


def gallery_of(images: Mapping[str, np.ndarray], space: VoxelSpace) -> Gallery:
    """Volumes by their keys, prepared to be searched."""
    return build_gallery({key: space.reduced(image) for key, image in images.items()}, space.core)


def voxel_distances(
    images: Mapping[str, np.ndarray],
    gallery: Gallery,
    space: VoxelSpace,
    cache: DistanceCache,
    stage: str,
    on_event: Callable[[dict], None] = lambda event: None,
    equals: Mapping[str, Sequence[int]] | None = None,
) -> np.ndarray:
    """Distances of volumes, by their keys, to all of a gallery; (N, M) float64.

    Args:
        equals: of `by_content` of the gallery's volumes: those that a volume is equal to are at distance 0, also where
            its core has hardly a pattern, so that its correlation with itself is counted as less than 1.
    """
    rows = []
    try:
        for number, (key, image) in enumerate(images.items()):
            on_event({"event": "progress", "stage": stage, "step": number, "total": len(images)})

            def measure(image: np.ndarray = image) -> np.ndarray:
                volume = space.reduced(image)
                return distances(volume, [n // 2 for n in volume.shape], gallery)

            row = np.array(cache.row(key, measure))
            row[list((equals or {}).get(_content(image), ()))] = 0.0
            rows.append(row)
    finally:
        cache.save()
    return np.stack(rows)


def by_content(images: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """The places, in their order, of the volumes that have one content, voxel by voxel."""
    places: dict[str, list[int]] = {}
    for number, image in enumerate(images.values()):
        places.setdefault(_content(image), []).append(number)
    return places


def _content(image: np.ndarray) -> str:
    array = np.ascontiguousarray(image, np.float32)
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest()


@dataclass(frozen=True)
class Alignment:
    """How a volume is laid on another: voxel x of one is voxel `offset` + x of the other along each axis, or where it
    is mirrored, `offset` - x; both in voxels of the thinned box."""

    flips: tuple[bool, bool, bool]
    offsets: tuple[int, int, int]
    correlation: float


def align(image: np.ndarray, other: np.ndarray, space: VoxelSpace) -> Alignment:
    """The shift and the mirror image at which the core of `image` correlates best with `other`."""
    from scipy.fft import irfftn, rfftn

    volume = space.reduced(image)
    gallery = gallery_of({"other": other}, space)
    core, shape = space.core, gallery.shape
    start = [int(np.clip(n // 2 - core // 2, 0, n - core)) for n in volume.shape]
    piece = volume[tuple(slice(a, a + core) for a in start)]
    piece = piece - piece.mean()
    deviation = max(float(piece.std()), FLAT_SD)
    valid = tuple(slice(0, n - core + 1) for n in shape)
    best = (-2.0, (False,) * 3, (0,) * 3)
    for flips in product((False, True), repeat=3):
        padded = np.zeros(shape, np.float32)
        padded[:core, :core, :core] = np.flip(piece, [axis for axis, flip in enumerate(flips) if flip])
        sums = irfftn(gallery.spectra[0] * np.conj(rfftn(padded)), s=shape)[valid]
        places = sums / (core**3 * deviation * np.maximum(gallery.deviations[0], FLAT_SD))
        where = np.unravel_index(int(places.argmax()), places.shape)
        if places[where] > best[0]:
            best = (float(places[where]), flips, tuple(int(w) for w in where))
    correlation, flips, place = best
    ends = [core - 1 + a if flip else -a for flip, a in zip(flips, start)]
    return Alignment(flips, tuple(space.step * (p + e) for p, e in zip(place, ends)), correlation)


def laid_on(other: np.ndarray, alignment: Alignment, space: VoxelSpace) -> np.ndarray:
    """`other` in the frame of the volume that it was aligned with, thinned box; outermost voxels repeated outside."""
    array = thinned(central(other, space.box), space.factor)
    places = []
    for n, flip, offset in zip(array.shape, alignment.flips, alignment.offsets):
        x = np.arange(n)
        places.append(np.clip(offset - x if flip else offset + x, 0, n - 1))
    return array[np.ix_(*places)]


def keys_of(names: Sequence[str]) -> str:
    """One key of many, whatever their order."""
    return hashlib.sha256("".join(sorted(names)).encode()).hexdigest()
