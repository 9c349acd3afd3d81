"""How alike are two volumes of one set? Multi-scale structural similarity (MS-SSIM) over pairs of different patients.

MS-SSIM: Wang, Simoncelli and Bovik 2003, Asilomar 2:1398, as MONAI computes it. Of a set that repeats itself, pairs are
more alike than those of real patients; so the figure is read beside the same of the real set, and neither high nor low
is good by itself: blur and noise move it too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SynthDiffusionLib.evaluation.sets.extraction import Source
from SynthDiffusionLib.evaluation.sets.no_skill_sets import middle
from SynthDiffusionLib.evaluation.sets.resampling import bootstrap_weights
from SynthDiffusionLib.evaluation.statistics import Estimate, interval
from SynthDiffusionLib.volumes.atomic import atomic_file

VERSION = 1
KERNEL = 7
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first (Wang et al. 2003, section 3.2)
LARGEST_SIDE = 128  # voxels; of larger volumes the middle counts


@dataclass(frozen=True)
class Measure:
    """What pairs are compared at.

    Args:
        shape: (3,) to which the middle of every volume is cut.
        scales: as many as fit, 1 to 5.
    """

    shape: tuple[int, ...]
    scales: int

    def to_json(self) -> dict:
        return {"shape": list(self.shape), "scales": self.scales, "kernel": KERNEL, "version": VERSION,
                "weights": [round(w, 4) for w in weights_of(self.scales)]}  # fmt: skip


def weights_of(scales: int) -> list[float]:
    """Weights of the first scales, which sum to 1."""
    total = sum(WEIGHTS[:scales])
    return [w / total for w in WEIGHTS[:scales]]


def measure_for(shape: Sequence[int]) -> Measure | None:
    """The middle part and the number of scales for volumes of this size at least; None where not even one fits.

    MONAI asks that a side, divided by the square of the number of scales less one, be larger than the kernel less one;
    the coarsest scale must hold a kernel besides.
    """
    shape = tuple(min(int(n), LARGEST_SIDE) for n in shape)
    side = min(shape)
    fitting = [s for s in range(1, 6) if side // max(1, s - 1) ** 2 >= KERNEL and side // 2 ** (s - 1) >= KERNEL]
    return Measure(shape, max(fitting)) if fitting else None


def draw_pairs(patients: Sequence[Hashable], most: int, seed: int) -> list[tuple[int, int]]:
    """At most `most` different pairs of volumes of different patients, at random, in order."""
    pairs = [(i, j) for j in range(len(patients)) for i in range(j) if patients[i] != patients[j]]
    if len(pairs) > most:
        chosen = np.random.default_rng([seed, 17, len(pairs)]).permutation(len(pairs))[:most]
        pairs = [pairs[i] for i in sorted(chosen)]
    return pairs


def similarities(
    name: str,
    sources: Sequence[Source],
    pairs: Sequence[tuple[int, int]],
    measure: Measure,
    intensity_range: tuple[float, float],
    cache: Path,
    on_event: Callable[[dict], None] = lambda event: None,
) -> np.ndarray:
    """(P,) MS-SSIM of pairs of volumes; kept in `cache` by what the volumes are, in pieces of one row of pairs."""
    cache.mkdir(parents=True, exist_ok=True)
    settings = {"measure": measure.to_json(), "range": list(intensity_range)}
    text = json.dumps([settings, [s.key for s in sources], list(pairs)], sort_keys=True)
    file = cache / f"ms-ssim-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    found = _kept(file, len(pairs))
    images: dict[int, np.ndarray] = {}
    for number in range(len(found), len(pairs)):
        on_event({"event": "progress", "stage": f"similarity of pairs: {name}", "step": number, "total": len(pairs)})
        i, j = pairs[number]
        for volume in (i, j):
            if volume not in images:
                if len(images) > 24:
                    images.clear()
                images[volume] = middle(sources[volume].image(), measure.shape)
        if i not in images:
            images[i] = middle(sources[i].image(), measure.shape)
        found.append(ms_ssim(images[i], images[j], measure.scales, intensity_range))
        if number % 20 == 19 or number == len(pairs) - 1:
            with atomic_file(file) as stream:
                stream.write(json.dumps(found).encode())
    return np.array(found)


def ms_ssim(a: np.ndarray, b: np.ndarray, scales: int, intensity_range: tuple[float, float]) -> float:
    """MS-SSIM of two volumes (I, J, K) of one size."""
    import torch
    from monai.metrics import MultiScaleSSIMMetric

    low, high = intensity_range
    metric = MultiScaleSSIMMetric(spatial_dims=3, data_range=1.0, kernel_size=KERNEL, weights=weights_of(scales))
    tensors = [torch.from_numpy((x.astype(np.float32) - low) / (high - low))[None, None] for x in (a, b)]
    with torch.inference_mode():
        return float(metric(*tensors).item())


def mean_similarity(
    values: np.ndarray, pairs: Sequence[tuple[int, int]], patients: Sequence[Hashable], seed: int
) -> Estimate:
    """Mean over pairs, with an interval over patients: a pair counts as often as both of its patients are drawn."""
    names = list(dict.fromkeys(patients))
    index = {p: i for i, p in enumerate(names)}
    i, j = (np.array([index[patients[pair[n]]] for pair in pairs]) for n in (0, 1))
    w = bootstrap_weights(names, names, names, seed=seed)
    both = w[:, i] * w[:, j]
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(float(np.mean(values)), (both @ values) / both.sum(1))


def _kept(file: Path, most: int) -> list[float]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        good = isinstance(found, list) and len(found) <= most and np.isfinite(np.array(found, np.float64)).all()
    except (OSError, ValueError, TypeError):
        return []
    return [float(v) for v in found] if good else []
