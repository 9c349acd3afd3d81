"""What maps a volume to a label map, whoever made it: a package's own network, one trained here, or another program.

A segmenter is told the image alone. What it finds is kept in a cache by the image's voxels and the segmenter's
identity, so that a run that was interrupted goes on, and a volume that occurs twice is segmented once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.evaluation.sets.image_set import ORIENTATION, UNITS, Frame, ImageSet
from SynthDiffusionLib.volumes import Volume, resample_to, resample_volume
from SynthDiffusionLib.volumes.atomic import atomic_path

Event = Callable[[dict], None]
CACHE_VERSION = 1  # of what is stored; counted up when a segmenter here would find something else
KINDS = "package:ID, train, totalsegmentator[:TASK], nnunet:DATASET_OR_FOLDER or command:PROGRAM ARGUMENTS"


class SegmenterFailed(RunFailed):
    """A segmenter could not segment one volume; others may go well."""


@dataclass(frozen=True)
class Segmented:
    """What a segmenter found in one volume.

    Args:
        layers: label maps (I, J, K); classes that overlap lie in different layers.
    """

    layers: tuple[np.ndarray, ...]

    def mask(self, value: int) -> np.ndarray:
        """(I, J, K) bool: the voxels of a class."""
        return np.logical_or.reduce([layer == value for layer in self.layers])


class Segmenter(Protocol):
    """What `segment_images` calls.

    Attributes:
        name: for people.
        identity: everything that what it finds depends on, as text.
        values: label values that it can find; None: it does not say.
    """

    name: str
    identity: str
    values: tuple[int, ...] | None

    def __call__(self, image: Volume, on_event: Event) -> tuple[np.ndarray, ...]:
        """The layers of `Segmented`, on the image's grid.

        Raises:
            SegmenterFailed: on this volume.
        """


@dataclass(frozen=True)
class Failure:
    """A volume that could not be segmented."""

    row: str
    case: str
    reason: str


class PackageSegmenter:
    """The segmenter of a model package, which works at the model's spacing.

    Args:
        text: ID or folder of the package.
        frame: of the images that it will be given.
        classes: names of the label values of the masks; a class that the segmenter names the same has that value,
            otherwise the one of the model's label scheme. Empty where nothing is known of them.

    Raises:
        BadInput: it has no segmenter, is of another modality, or finds none of the classes.
        ModelError: there is no such package, or it is damaged.
    """

    def __init__(self, text: str, frame: Frame, classes: Mapping[int, str]) -> None:
        from SynthDiffusionLib.evaluation.adherence import package_segmenters, window_of
        from SynthDiffusionLib.evaluation.cases import TRAINING_PARTS, targets_of
        from SynthDiffusionLib.models import load_package

        package = load_package(text)
        spec = package.spec
        if spec.segmenter is None:
            raise BadInput(
                f"The model '{spec.id}' has no segmenter to measure adherence with", "Use a package that has one."
            )
        if spec.intensity.unit != UNITS[frame.modality]:
            raise BadInput(
                f"The segmenter of '{spec.id}' is for {spec.modality}, the volumes are {frame.modality}",
                "Use a segmenter of the same modality.",
            )
        targets = targets_of(spec)
        of_scheme = {c.name: c.value for c in spec.label_scheme.condition_classes}
        by_name = {name.lower(): value for value, name in classes.items()}
        found = {t: by_name.get(t.lower(), of_scheme[t]) for t in targets}
        self.names = {value: target for target, value in found.items()}
        if classes and not set(self.names) & set(classes):
            raise BadInput(
                f"The segmenter of '{spec.id}' finds {', '.join(targets)}, of which the masks have nothing",
                "Name the classes of the masks with --classes, or use another segmenter.",
            )
        self._segments = {found[t]: s for t, s in package_segmenters(package, targets).items()}
        self._spacing = tuple(spec.grid.spacing_mm)
        split = spec.training.split
        self.trained_on = {str(n) for part in TRAINING_PARTS for n in split.get(part, ())}  # cases or patients
        self.values: tuple[int, ...] | None = tuple(found.values())
        self.name = f"the segmenter of the model {spec.id} {spec.version}"
        weights = sorted(f"{f.path}:{f.sha256}" for f in spec.files)
        self.identity = f"package {spec.id} {spec.version} {window_of(spec)} {found} {weights}"

    def __call__(self, image: Volume, on_event: Event) -> tuple[np.ndarray, ...]:
        own = image if np.allclose(image.spacing, self._spacing, rtol=0.01) else resample_volume(image, self._spacing)
        layers = []
        for value, segment in self._segments.items():
            layer = Volume(segment(own.array).astype(np.uint16) * np.uint16(value), own.affine, "label")
            layers.append(resample_to(layer, image.shape, image.affine).array)
        return tuple(layers)


class MappedSegmenter:
    """A segmenter whose label values are not those of the masks.

    Args:
        segmenter: what segments.
        values: its value to the masks' value; all others become background.
    """

    def __init__(self, segmenter: Segmenter, values: Mapping[int, int]) -> None:
        self.base, self._values = segmenter, dict(values)
        self.name = segmenter.name
        self.identity = segmenter.identity  # mapped after the cache
        self.values: tuple[int, ...] | None = tuple(dict.fromkeys(self._values.values()))

    def __call__(self, image: Volume, on_event: Event) -> tuple[np.ndarray, ...]:
        return tuple(self.mapped(layer) for layer in self.base(image, on_event))

    def mapped(self, layer: np.ndarray) -> np.ndarray:
        """A layer with the values of the masks."""
        table = np.zeros(max(int(layer.max()), *self._values) + 1, np.uint16)
        table[list(self._values)] = list(self._values.values())
        return table[layer]


def parse_values(text: str) -> dict[int, int]:
    """ "5=1,6=1" as a table from a segmenter's values to those of the masks.

    Raises:
        BadInput: it is none.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(a.strip().isdigit() and b.strip().isdigit() and int(b) > 0 for a, _, b in pairs):
        raise BadInput(
            f"'{text}' maps no label values", "Give --segmenter-values FOUND=CLASS,..., such as 5=1,6=2 for numbers."
        )
    return {int(a): int(b) for a, _, b in pairs}


def check_spelled(text: str) -> tuple[str, str]:
    """The kind of a `--segmenter` and what follows the colon.

    Raises:
        BadInput: no such kind, or something is missing after the colon, or too much.
    """
    kind, _, rest = text.partition(":")
    kind, rest = kind.strip().lower(), rest.strip()
    known = ("package", "train", "totalsegmentator", "nnunet", "command")
    if kind not in known:
        raise BadInput(f"'{text}' is no segmenter", f"Give --segmenter {KINDS}.")
    if kind in ("package", "nnunet", "command") and not rest:
        raise BadInput(f"--segmenter {kind}: lacks what follows the colon", f"Give --segmenter {KINDS}.")
    if kind == "train" and rest:
        raise BadInput(f"--segmenter train takes nothing after a colon, not '{rest}'", "Give --training DIR.")
    return kind, rest


def image_of(image: np.ndarray, affine: np.ndarray, frame: Frame) -> Volume:
    """Voxels of a set as a volume."""
    return Volume(image, affine, UNITS[frame.modality])


def segment_images(
    row: str,
    images: Iterable[tuple[str, Volume]],
    total: int,
    segmenter: Segmenter,
    cache: Path,
    on_event: Event = lambda event: None,
) -> tuple[list[Segmented | None], list[Failure]]:
    """Segments volumes, or takes what is in the cache.

    Args:
        row: what they are, for progress and failures.
        images: name of the case, and volume; one at a time.
        total: their number.
        segmenter: see `Segmenter`.
        cache: folder; made if missing.

    Returns:
        what was found in each, None where the segmenter failed; and the failures.

    Raises:
        RunFailed: it failed on all of them.
    """
    found: list[Segmented | None] = []
    failures: list[Failure] = []
    for number, (case, image) in enumerate(images):
        on_event({"event": "progress", "stage": f"segmenting {row}", "step": number, "total": total})
        path = cache / f"{_key(image, segmenter.identity)}.npz"
        layers = _stored(path, image.shape)
        if layers is None:
            base = segmenter.base if isinstance(segmenter, MappedSegmenter) else segmenter
            try:
                layers = base(image, on_event)
            except SegmenterFailed as error:
                failures.append(Failure(row, case, error.message))
                on_event({"event": "warning", "message": f"{case} ({row}) is left out: {error.message}"})
                found.append(None)
                if len(failures) == 3 == number + 1:
                    raise _all_failed(segmenter, failures) from error
                continue
            _store(path, layers)
        if isinstance(segmenter, MappedSegmenter):
            layers = tuple(segmenter.mapped(layer) for layer in layers)
        found.append(Segmented(layers))
    if found and len(failures) == len(found):
        raise _all_failed(segmenter, failures)
    return found, failures


def segment_set(
    whole: ImageSet, segmenter: Segmenter, cache: Path, on_event: Event = lambda event: None
) -> tuple[list[Segmented | None], list[Failure]]:
    """`segment_images` of all cases of a set."""
    images = ((c.name, image_of(c.image, c.affine, whole.frame)) for c in whole.cases)
    return segment_images(f"{whole.role} images", images, len(whole.cases), segmenter, cache, on_event)


def described(segmenter: Segmenter) -> dict[str, Any]:
    """For the settings of a result; no path of this machine."""
    return {"segmenter": segmenter.name, "segmenter_sha256": hashlib.sha256(segmenter.identity.encode()).hexdigest()}


def _all_failed(segmenter: Segmenter, failures: Sequence[Failure]) -> RunFailed:
    return RunFailed(
        f"{segmenter.name[0].upper()}{segmenter.name[1:]} failed on the first {len(failures)} volumes "
        f"({failures[0].row}), first '{failures[0].case}': {failures[0].reason}",
        "Try it on one of the volumes by hand; what was done already is kept.",
    )


def _key(image: Volume, identity: str) -> str:
    array = np.ascontiguousarray(image.array, np.float32)
    digest = hashlib.sha256(f"{CACHE_VERSION} {ORIENTATION} {identity} {array.shape}".encode())
    digest.update(np.ascontiguousarray(image.affine, np.float64).tobytes())
    digest.update(array.tobytes())
    return digest.hexdigest()


def stored_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray] | None:
    """Arrays of an .npz of a cache (all of them where no names are given); None where it is missing or damaged, so
    that it is made again."""
    import zipfile
    import zlib

    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):  # a lone .npy, which has no names
                return None
            return {name: file[name] for name in (sorted(file.files) if names is None else names)}
    except (
        OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, SyntaxError, MemoryError, OverflowError,
        RuntimeError, zipfile.BadZipFile, zlib.error,
    ):  # fmt: skip
        # A flipped byte of the archive can ask for another way of packing (NotImplementedError), a password
        # (RuntimeError), or a header of NumPy that is none (SyntaxError, TypeError) or asks for terabytes.
        return None


def _stored(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, ...] | None:
    """Layers of the cache; None where there are none, or a damaged file, which is made again."""
    layers = tuple((stored_arrays(path) or {}).values())
    good = bool(layers) and all(a.shape == tuple(shape) and a.dtype == np.uint16 for a in layers)
    return layers if good else None


def _store(path: Path, layers: Sequence[np.ndarray]) -> None:
    os.makedirs(path.parent, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **{f"layer{i:03d}": np.asarray(a, np.uint16) for i, a in enumerate(layers)})
