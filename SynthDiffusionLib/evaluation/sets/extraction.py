"""Features of volumes and of their slices, kept per file so that a run that was stopped goes on.

What is kept is keyed by the file's sha256, the frame, and the computation with its version: a changed file or setting
is measured again. A kept file that is damaged is measured again too.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets import radiomics
from SynthDiffusionLib.evaluation.sets.distances import check_features
from SynthDiffusionLib.evaluation.sets.image_set import Frame
from SynthDiffusionLib.evaluation.sets.segmenters import stored_arrays
from SynthDiffusionLib.volumes.atomic import atomic_file

PLANES = ("XY", "YZ", "ZX")
NORMAL = {"XY": 2, "YZ": 0, "ZX": 1}  # axis that a plane is perpendicular to, in LPS
PLANE_NAMES = {"XY": "axial", "YZ": "sagittal", "ZX": "coronal"}
CENTRAL_SHARE = 0.4  # of the slices of a plane, from the middle (as in MAISI's evaluation, arXiv:2409.11169)
MOST_SLICES = 24  # of one volume and plane, evenly spread over the central share


@dataclass(frozen=True)
class Extractor:
    """A way to features.

    Args:
        id: short, of a file name.
        title: of a report.
        names: of the features, empty for those of a network.
        size: number of features.
        parts: ("volume",), or the planes that slices are taken along.
        identity: everything that the features depend on, for the key of what is kept.
        compute: image (I, J, K) to {part: (rows, size)}.
    """

    id: str
    title: str
    names: tuple[str, ...]
    size: int
    parts: tuple[str, ...]
    identity: Mapping[str, Any]
    compute: Callable[[np.ndarray], dict[str, np.ndarray]] = field(repr=False)


def volume_radiomics(intensity_range: tuple[float, float]) -> Extractor:
    """`radiomics.FEATURES` of the whole volume."""
    return Extractor(
        "radiomics",
        "radiomics of the volume",
        radiomics.NAMES,
        len(radiomics.NAMES),
        ("volume",),
        {"version": radiomics.VERSION, "levels": radiomics.LEVELS, "features": list(radiomics.CODES)},
        lambda image: {"volume": radiomics.radiomics(image, intensity_range)[None]},
    )


def slice_radiomics(intensity_range: tuple[float, float]) -> Extractor:
    """`radiomics.FEATURES` of slices along the three planes."""
    return Extractor(
        "slices",
        "radiomics of slices",
        radiomics.NAMES,
        len(radiomics.NAMES),
        PLANES,
        {"version": radiomics.VERSION, "levels": radiomics.LEVELS, "features": list(radiomics.CODES)}
        | {"share": CENTRAL_SHARE, "most": MOST_SLICES},
        lambda image: {
            plane: np.array([radiomics.radiomics(s, intensity_range) for s in central_slices(image, plane)])
            for plane in PLANES
        },
    )


def network_extractor(file: Path, intensity_range: tuple[float, float]) -> Extractor:
    """Features of a MedicalNet file, see `medicalnet`."""
    from SynthDiffusionLib.evaluation.sets import medicalnet

    network = medicalnet.load_medicalnet(file)
    return Extractor(
        "medicalnet",
        f"{network.description['network']} of the volume",
        (),
        network.features,
        ("volume",),
        network.description,
        lambda image: {"volume": medicalnet.volume_features(network, image, intensity_range)},
    )


def slice_network_extractor(file: Path, intensity_range: tuple[float, float]) -> Extractor:
    """Features of a 2D ResNet-50 of slices along the three planes, see `medicalnet`."""
    from SynthDiffusionLib.evaluation.sets import medicalnet

    network = medicalnet.load_resnet2d(file)
    return Extractor(
        "resnet2d",
        f"{network.description['network']} of slices",
        (),
        network.features,
        PLANES,
        network.description | {"share": CENTRAL_SHARE, "most": MOST_SLICES},
        lambda image: {
            plane: medicalnet.slice_features(network, central_slices(image, plane), intensity_range) for plane in PLANES
        },
    )


def central_slices(image: np.ndarray, plane: str) -> np.ndarray:
    """(N, H, W) slices of the middle of a volume (I, J, K) in LPS: `CENTRAL_SHARE` of all, at least one, at most
    `MOST_SLICES`, evenly spread."""
    axis = NORMAL[plane]
    length = image.shape[axis]
    number = max(1, round(CENTRAL_SHARE * length))
    first = (length - number) // 2
    at = np.unique(np.rint(np.linspace(first, first + number - 1, min(number, MOST_SLICES))).astype(int))
    return np.moveaxis(np.take(image, at, axis), axis, 0)


@dataclass(frozen=True)
class Source:
    """An image that features are taken of, made only when they are not kept.

    Args:
        patient: whose.
        key: what the image is: sha256 of its file, and what was done to it.
        image: gives (I, J, K).
    """

    patient: str
    key: str
    image: Callable[[], np.ndarray] = field(repr=False)


@dataclass(frozen=True)
class SetFeatures:
    """Features of a set.

    Args:
        name: of the row.
        patients: of each of the V volumes.
        parts: part to features of every volume (V arrays of (rows, D)).
    """

    name: str
    patients: tuple[str, ...]
    parts: Mapping[str, tuple[np.ndarray, ...]]

    def rows(self, part: str, volumes: Sequence[int] | np.ndarray | None = None) -> tuple[np.ndarray, list[str]]:
        """Features (R, D) of some volumes, one after the other, and the patient of each row."""
        chosen = range(len(self.patients)) if volumes is None else volumes
        blocks = [self.parts[part][i] for i in chosen]
        owners = [self.patients[i] for i, block in zip(chosen, blocks) for _ in range(len(block))]
        return np.concatenate(blocks), owners


def extract(
    name: str,
    sources: Sequence[Source],
    extractor: Extractor,
    frame: Frame,
    cache: Path,
    on_event: Callable[[dict], None] = lambda event: None,
) -> SetFeatures:
    """Features of all sources, kept ones from `cache`.

    Raises:
        BadInput: a volume whose features are not finite, or are not of the extractor's size.
    """
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[np.ndarray]] = {part: [] for part in extractor.parts}
    for number, source in enumerate(sources):
        on_event({"event": "progress", "stage": f"{extractor.title}: {name}", "step": number, "total": len(sources)})
        file = cache / f"{extractor.id}-{_key(source, extractor, frame)}.npz"
        parts = _kept(file, extractor)
        if parts is None:
            parts = {p: np.asarray(v, np.float64) for p, v in extractor.compute(source.image()).items()}
            for part, values in parts.items():
                if values.shape[1:] != (extractor.size,):
                    raise BadInput(f"Features of the shape {values.shape} where {extractor.size} were expected")
                check_features(values, len(values), f"{name} set ({part})")
            buffer = io.BytesIO()
            np.savez(buffer, **parts)
            with atomic_file(file) as stream:
                stream.write(buffer.getvalue())
        for part, values in parts.items():
            found[part].append(values)
    return SetFeatures(name, tuple(s.patient for s in sources), {p: tuple(v) for p, v in found.items()})


def _key(source: Source, extractor: Extractor, frame: Frame) -> str:
    content = {"image": source.key, "frame": frame.to_json(), "extractor": extractor.id} | dict(extractor.identity)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _kept(file: Path, extractor: Extractor) -> dict[str, np.ndarray] | None:
    parts = stored_arrays(file, extractor.parts)
    if parts is None:
        return None
    good = all(
        v.ndim == 2 and v.shape[1] == extractor.size and v.dtype == np.float64 and np.isfinite(v).all()
        for v in parts.values()
    )
    return parts if good else None
