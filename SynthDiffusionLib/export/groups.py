"""Which volumes must stay on one side of every split: those of one patient, of one mask, of one image.

Volumes are joined where they share a mark: the patient by name, a file by its checksum, the shape of a mask, a slice of
the image or several small blocks of it. Marks join transitively: if A shares one with B and B another with C, all
three are one group. Slices, blocks and masks are known again also where axes were flipped or swapped.

A mask that more than `MOST_ALIKE` patients have whose images share nothing, such as one cylinder drawn for all of them,
is generic: it says nothing of a patient, and joins no real volumes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from SynthDiffusionLib.export.image_blocks import mixed_values, same_blocks
from SynthDiffusionLib.volumes import Segmentation, Volume

MOST_ALIKE = 3  # patients with one mask; of more it is a shape that anybody has
FEWEST_MASK_VOXELS = 64  # of a mask whose shape says whose it is
FEWEST_VALUES = 16  # different ones among at most `_SAMPLED` voxels of a slice that says whose it is
_SAMPLED = 1024
_AT_ONCE = 16  # slices: those along the last axis lie in one line of the processor's cache


@dataclass(frozen=True)
class Marks:
    """What a volume can be recognised by.

    Args:
        names: spellings of its patient.
        files: SHA-256 of its files, and of those that it was made from, but for masks.
        masks: digests of the shapes of its masks.
        slices: (n,) uint64 digests of its slices, sorted, see `slice_digests`.
        blocks: (n,) uint64 digests of small blocks, sorted, see `image_blocks.block_digests`.
        mask_files: SHA-256 of its label map, and of the segmentation that it was made from.
        noise: model and seed that it was made from alone, without a mask.
        real: whether all of it is a patient's image.
    """

    names: frozenset[str]
    files: frozenset[str]
    masks: frozenset[str]
    slices: np.ndarray
    blocks: np.ndarray = field(default_factory=lambda: np.array([], np.uint64))
    mask_files: frozenset[str] = frozenset()
    noise: frozenset[str] = frozenset()
    real: bool = False


@dataclass(frozen=True)
class Join:
    """Two volumes that were put into one group by a mark that they share.

    Args:
        one, other: their places in the list.
        why: "the same patient", ...
        mask: digest of the mask that they share; "" if something else joined them.
    """

    one: int
    other: int
    why: str
    mask: str = ""


@dataclass(frozen=True)
class Generic:
    """A mask that so many patients have that it joins none of them.

    Args:
        mask: its digest, or the SHA-256 of its file.
        volumes: places in the list of the real volumes that have it, the first of each patient.
    """

    mask: str
    volumes: tuple[int, ...]


class Grouping(NamedTuple):
    """The group of each volume, what joined them, and masks that joined nobody."""

    groups: list[int]
    joins: list[Join]
    generic: list[Generic]


class _Forest:
    """Volumes joined so far (union-find)."""

    def __init__(self, size: int) -> None:
        self.joins: list[Join] = []
        self._parent = list(range(size))

    def root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, one: int, other: int, why: str, mask: str = "") -> None:
        a, b = sorted((self.root(one), self.root(other)))
        if a != b:
            self._parent[b] = a
            self.joins.append(Join(one, other, why, mask))


def grouped(marks: Sequence[Marks]) -> Grouping:
    """Groups of volumes that share marks.

    Args:
        marks: of each volume.

    Returns:
        the group of each volume, numbered from 0 in their order; what joined them, the least that was needed; and the
        generic masks.
    """
    forest = _Forest(len(marks))
    of_masks = frozenset().union(*(m.mask_files for m in marks))
    for why, found in (
        ("the same patient", [m.names for m in marks]),
        ("made from the same file", [m.files - of_masks for m in marks]),
        ("made from the same noise", [m.noise for m in marks]),
    ):
        for volumes in _owners(found).values():
            for i in volumes[1:]:
                forest.join(volumes[0], i, why)
    for one, other in [*_same_slices([m.slices for m in marks]), *same_blocks([m.blocks for m in marks])]:
        forest.join(one, other, "the same image in whole or in part")
    files = _owners([(m.files | m.mask_files) & of_masks for m in marks])
    masks = _owners([m.masks for m in marks])
    generic = _generic(masks, marks, forest) + _generic(files, marks, forest)
    nobodys = {found.mask for found in generic}
    for mark, volumes in files.items():
        for i in volumes[1:] if mark not in nobodys else ():
            one, other = marks[volumes[0]], marks[i]
            same = sorted((one.masks & other.masks) - nobodys) if one.real and other.real else []
            forest.join(volumes[0], i, "the same mask" if same else "made from the same file", *same[:1])
    for mark, volumes in masks.items():
        for i in volumes[1:] if mark not in nobodys else ():
            forest.join(volumes[0], i, "the same mask", mark)
    with_real = {forest.root(i) for i, m in enumerate(marks) if m.real}
    for shape in generic:  # volumes of nobody that were made from it: their images may be alike all the same
        owners = masks.get(shape.mask) or files[shape.mask]
        volumes = [i for i in owners if forest.root(i) not in with_real]
        for i in volumes[1:]:
            forest.join(volumes[0], i, "the same mask", shape.mask)
    numbers: dict[int, int] = {}
    groups = [numbers.setdefault(forest.root(i), len(numbers)) for i in range(len(marks))]
    return Grouping(groups, forest.joins, generic)


def _owners(marks: Sequence[Iterable[str]]) -> dict[str, list[int]]:
    """The volumes that have each mark, in their order."""
    found: dict[str, list[int]] = {}
    for i, of_one in enumerate(marks):
        for mark in sorted(of_one):
            found.setdefault(mark, []).append(i)
    return found


def _generic(owners: Mapping[str, Sequence[int]], marks: Sequence[Marks], forest: _Forest) -> list[Generic]:
    """Masks of more than `MOST_ALIKE` patients whom names, other files and images have not joined."""
    found = []
    for mark, volumes in owners.items():
        first: dict[int, int] = {}
        for i in volumes:
            if marks[i].real:
                first.setdefault(forest.root(i), i)
        if len(first) > MOST_ALIKE:
            found.append(Generic(mark, tuple(first.values())))
    return found


def slice_digests(volume: Volume) -> np.ndarray:
    """Digests of the slices along all three axes: two volumes that have one in common hold the same image there.

    An inpainted volume has all slices that its region does not reach in common with its source, also if the source was
    saved again in another format or orientation, with axes flipped or swapped, or cropped along one axis. Slices of few
    values, such as air, say nothing and are left out.

    Returns:
        (n,) uint64, sorted; the first 8 bytes of BLAKE2b over the shape and the slice as `_folded`.
    """
    array = np.array(volume.array, np.float32, order="C")
    array += 0  # -0 becomes 0
    found = set()
    for axis in range(3):
        planes = np.moveaxis(array, axis, 0)
        for first in range(0, len(planes), _AT_ONCE):
            slab = np.ascontiguousarray(planes[first : first + _AT_ONCE])
            for plane, folded in zip(slab, _folded(mixed_values(slab)), strict=True):
                sample = plane.ravel()[:: max(1, plane.size // _SAMPLED)]
                if len(np.unique(sample)) >= FEWEST_VALUES:
                    rows, columns = plane.shape
                    ways = ([folded] if rows <= columns else []) + ([folded.T] if rows >= columns else [])
                    head = f"{sorted(plane.shape)}".encode()
                    found.add(min(_first_8_bytes(head + way.tobytes()) for way in ways))
    return np.array(sorted(found), np.uint64)


def _folded(checksums: np.ndarray) -> np.ndarray:
    """A quarter of each slice: sums of the checksums of the four voxels that flips put into each other's places."""
    rows, columns = ((n + 1) // 2 for n in checksums.shape[1:])
    half = checksums[:, :rows] + checksums[:, ::-1][:, :rows]
    return half[:, :, :columns] + half[:, :, ::-1][:, :, :columns]


def _first_8_bytes(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def mask_places(segmentation: Segmentation) -> dict[str, tuple[int, int] | None]:
    """Digests of the shapes of all segments, and of all together, each cut to its bounding box: name, value, place,
    format, order and direction of the axes do not count, nor whether all classes were merged into one.

    Masks of fewer than `FEWEST_MASK_VOXELS` voxels and full boxes are alike by chance, and are left out.

    Returns:
        for each digest the layer and value of the segment; None: all together.
    """
    from scipy.ndimage import find_objects

    boxes = [find_objects(np.ascontiguousarray(layer)) for layer in segmentation.layers]
    found: dict[str, tuple[int, int] | None] = {}
    for segment in segmentation.segments:
        of_layer = boxes[segment.layer]
        place = of_layer[segment.value - 1] if segment.value <= len(of_layer) else None
        if place is None:
            continue
        box = segmentation.layers[segment.layer][place] == segment.value
        found.setdefault(_shape_digest(box), (segment.layer, segment.value))
    together = np.logical_or.reduce([layer > 0 for layer in segmentation.layers])
    for place in find_objects(together.astype(np.uint8)):
        found.setdefault(_shape_digest(together[place]), None)
    found.pop("", None)
    return found


def _shape_digest(box: np.ndarray) -> str:
    """SHA-256 of a mask that is cut to its bounding box; "" if it says nothing."""
    if np.count_nonzero(box) < FEWEST_MASK_VOXELS or box.all():
        return ""
    return min(hashlib.sha256(f"{way.shape}".encode() + np.packbits(way).tobytes()).hexdigest() for way in _ways(box))


def _ways(box: np.ndarray) -> list[np.ndarray]:
    """The orientations of a mask that are first by its profiles: one, but for a symmetrical mask.

    The profile of an axis is how many voxels each slice across it has. Each axis runs in the direction whose profile
    comes first, and the axes are in the order of their profiles; what profiles leave open is returned in all ways.
    """
    directions, profiles = [], []
    for axis in range(3):
        forth = tuple(np.count_nonzero(box, axis=tuple({0, 1, 2} - {axis})).tolist())
        back = forth[::-1]
        profiles.append(min(forth, back))
        directions.append([step for step, profile in ((1, forth), (-1, back)) if profile == profiles[-1]])
    orders = [o for o in itertools.permutations(range(3)) if [profiles[i] for i in o] == sorted(profiles)]
    flipped = [box[tuple(slice(None, None, step) for step in steps)] for steps in itertools.product(*directions)]
    return [way.transpose(order) for way in flipped for order in orders]


def named_joins(joins: Iterable[Join], names: Sequence[str]) -> list[dict[str, str]]:
    """Joins for a manifest, by the names of volumes."""
    return [{"one": names[j.one], "other": names[j.other], "why": j.why} for j in joins]


def _same_slices(slices: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of volumes that have a slice in common."""
    if not slices:
        return []
    digests = np.concatenate(slices)
    owners = np.repeat(np.arange(len(slices)), [len(s) for s in slices])
    order = np.argsort(digests, kind="stable")
    digests, owners = digests[order], owners[order]
    same = np.flatnonzero(digests[1:] == digests[:-1])
    return sorted({(int(owners[i]), int(owners[i + 1])) for i in same})
