"""Which volumes must stay on one side of every split: those of one patient, of one mask, of one image.

Volumes are joined where they share a mark: the patient by name, a file by its checksum, the shape of a mask, a slice of
the image or several small blocks of it. Marks join transitively: if A shares one with B and B another with C, all
three are one group. Slices, blocks and masks are known again also where axes were flipped or swapped.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from SynthDiffusionLib.export.image_blocks import mixed_values, same_blocks
from SynthDiffusionLib.volumes import Segmentation, Volume

FEWEST_MASK_VOXELS = 64  # of a mask whose shape says whose it is
FEWEST_VALUES = 16  # different ones among at most `_SAMPLED` voxels of a slice that says whose it is
_SAMPLED = 1024
_AT_ONCE = 16  # slices: those along the last axis lie in one line of the processor's cache


@dataclass(frozen=True)
class Marks:
    """What a volume can be recognised by.

    Args:
        names: spellings of its patient.
        files: SHA-256 of its files, and of those that it was made from.
        masks: digests of the shapes of its masks.
        slices: (n,) uint64 digests of its slices, sorted, see `slice_digests`.
        blocks: (n,) uint64 digests of small blocks, sorted, see `image_blocks.block_digests`.
    """

    names: frozenset[str]
    files: frozenset[str]
    masks: frozenset[str]
    slices: np.ndarray
    blocks: np.ndarray = field(default_factory=lambda: np.array([], np.uint64))


@dataclass(frozen=True)
class Join:
    """Two volumes that were put into one group by a mark that they share.

    Args:
        one, other: their places in the list.
        why: "the same patient", ...
    """

    one: int
    other: int
    why: str


def grouped(marks: Sequence[Marks]) -> tuple[list[int], list[Join]]:
    """Groups of volumes that share marks.

    Args:
        marks: of each volume.

    Returns:
        the group of each volume, numbered from 0 in their order; and what joined them, the least that was needed.
    """
    parent = list(range(len(marks)))
    joins: list[Join] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(one: int, other: int, why: str) -> None:
        a, b = sorted((root(one), root(other)))
        if a != b:
            parent[b] = a
            joins.append(Join(one, other, why))

    for kind, why in (("names", "the same patient"), ("files", "made from the same file"), ("masks", "the same mask")):
        first: dict[str, int] = {}
        for i, of_one in enumerate(marks):
            for mark in sorted(getattr(of_one, kind)):
                join(first.setdefault(mark, i), i, why)
    for one, other in [*_same_slices([m.slices for m in marks]), *same_blocks([m.blocks for m in marks])]:
        join(one, other, "the same image in whole or in part")
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(marks))], joins


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


def mask_digests(segmentation: Segmentation) -> frozenset[str]:
    """Digests of the shapes of all segments, and of all together, each cut to its bounding box: name, value, place,
    format, order and direction of the axes do not count, nor whether all classes were merged into one.

    Masks of fewer than `FEWEST_MASK_VOXELS` voxels and full boxes are alike by chance, and are left out.
    """
    from scipy.ndimage import find_objects

    boxes = [find_objects(np.ascontiguousarray(layer)) for layer in segmentation.layers]
    found = set()
    for segment in segmentation.segments:
        of_layer = boxes[segment.layer]
        place = of_layer[segment.value - 1] if segment.value <= len(of_layer) else None
        if place is None:
            continue
        box = segmentation.layers[segment.layer][place] == segment.value
        found.add(_shape_digest(box))
    together = np.logical_or.reduce([layer > 0 for layer in segmentation.layers])
    for place in find_objects(together.astype(np.uint8)):
        found.add(_shape_digest(together[place]))
    return frozenset(found - {""})


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
