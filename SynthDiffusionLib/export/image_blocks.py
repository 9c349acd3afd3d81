"""Small blocks by which a part of an image is known again, wherever it lies in another one.

Slices are compared as they are, so that an image cropped along two axes shares none with the whole. Blocks are chosen
by what is in them instead of by their place (content-defined, as in deduplicating storage): a cube of 2 x 2 x 2 voxels
whose checksum is small is an anchor, also in a crop of the image or with a rim around it, and the block around it is
compared.

Neither the checksum of a cube nor the digest of a block depends on the order or the direction of the axes: voxels that
some of the 48 orientations of a cube put into each other's places are taken in no order. So a copy whose axes were
flipped or swapped is known again, as after LPS was taken for RAS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from SynthDiffusionLib.volumes import Volume

MOST_BLOCKS = 16384  # that are kept of a volume
FEWEST_SHARED = 4  # different blocks of two volumes that are one image
_REACH = 2  # voxels of a block on either side of the anchor's cube
_FEWEST_VALUES = 16  # different ones in a block, and in an anchor's cube; air and padding are like air and padding
_FEWEST_IN_CUBE = 5
_SLAB = 1 << 22  # voxels at a time
_DENSEST = 3  # at most every 2**3rd cube is an anchor
_A, _B = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B)  # odd, so that no bit of a voxel is lost


def block_digests(volume: Volume) -> np.ndarray:
    """Digests of blocks of 6 x 6 x 6 voxels around the anchors of a volume.

    The larger a volume is, the fewer of its cubes are anchors; those of a sparser choice are among those of a denser
    one, so that a small part is compared with a large whole by what both have kept.

    Returns:
        (n,) uint64, sorted, at most `MOST_BLOCKS`; the first 8 bytes of BLAKE2b over float32 values, see `_unordered`.
    """
    array = np.array(volume.array, np.float32, order="C")
    array += 0  # -0 becomes 0
    if min(array.shape) < 2 + 2 * _REACH:
        return np.array([], np.uint64)
    limit = 1 << (32 - max(_DENSEST, int(np.ceil(np.log2(max(1, array.size / MOST_BLOCKS))))))
    checksums, places = _anchors(array, limit)
    while len(places) > MOST_BLOCKS:
        limit >>= 1
        checksums, places = checksums[checksums < limit], places[checksums < limit]
    found = set()
    for first in range(0, len(places), 1024):
        for block in _unordered(_blocks(array, places[first : first + 1024])):
            found.add(int.from_bytes(hashlib.blake2b(block.tobytes(), digest_size=8).digest(), "little"))
    return np.array(sorted(found), np.uint64)


def same_blocks(blocks: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of volumes that have at least `FEWEST_SHARED` blocks in common.

    Args:
        blocks: of each volume, see `block_digests`.
    """
    from scipy.sparse import coo_array, triu

    if not blocks or not sum(map(len, blocks)):
        return []
    _, columns, counts = np.unique(np.concatenate(blocks), return_inverse=True, return_counts=True)
    owners = np.repeat(np.arange(len(blocks)), [len(b) for b in blocks])
    shared = counts[columns] > 1
    size = (len(blocks), len(counts))
    table = coo_array((np.ones(shared.sum(), np.int32), (owners[shared], columns[shared])), size).tocsr()
    common = triu(table @ table.T, 1).tocoo()
    many = common.data >= FEWEST_SHARED
    return sorted((int(one), int(other)) for one, other in zip(common.row[many], common.col[many], strict=True))


def mixed_values(array: np.ndarray) -> np.ndarray:
    """uint32 checksums of float32 values, of which sums are checksums of several values in any order."""
    mixed = array.view(np.uint32).copy()
    mixed ^= mixed >> np.uint32(16)
    mixed *= _A
    mixed ^= mixed >> np.uint32(15)
    mixed *= _B
    mixed ^= mixed >> np.uint32(13)
    return mixed


def _anchors(array: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Checksums of the anchors' cubes, and the places of their first voxels, (n, 3)."""
    thickness = max(1, _SLAB // (array.shape[1] * array.shape[2]))
    checksums, places = [], []
    for first in range(_REACH, array.shape[0] - 1 - _REACH, thickness):
        slab = array[first : min(first + thickness, array.shape[0] - 1 - _REACH) + 1]
        mixed = mixed_values(slab)
        for axis in range(3):
            mixed = np.moveaxis(mixed, axis, 0)
            mixed = np.moveaxis(mixed[:-1] + mixed[1:], 0, axis)  # a sum has no order
        mixed ^= mixed >> np.uint32(15)
        mixed *= _B
        inner = mixed[:, _REACH : mixed.shape[1] - _REACH, _REACH : mixed.shape[2] - _REACH]
        place = np.argwhere(inner < limit)
        cubes = _around(slab, place + (0, _REACH, _REACH), 0, 2)
        rich = _different(cubes) >= _FEWEST_IN_CUBE
        checksums.append(inner[tuple(place[rich].T)])
        places.append(place[rich] + (first, _REACH, _REACH))
    return np.concatenate(checksums), np.concatenate(places)


def _blocks(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(n, 216) float32: the blocks around anchors that have enough different values."""
    blocks = _around(array, places, -_REACH, 2 + _REACH)
    return blocks[_different(blocks) >= _FEWEST_VALUES]


def _unordered(blocks: np.ndarray) -> np.ndarray:
    """(n, 216) blocks with the values of each orbit sorted, so that all 48 orientations of a block are one.

    An orbit holds the voxels that orientations put into each other's places: those with the same three distances from
    the middle planes, in any order. There are 10, of 8, 24 or 48 voxels.
    """
    side = 2 + 2 * _REACH
    distances = np.abs(2 * np.indices((side,) * 3).reshape(3, -1) - (side - 1))
    _, orbits = np.unique(np.sort(distances, axis=0), axis=1, return_inverse=True)
    orbits = orbits.ravel()
    return np.concatenate([np.sort(blocks[:, orbits == orbit], axis=1) for orbit in range(orbits.max() + 1)], axis=1)


def _around(array: np.ndarray, places: np.ndarray, start: int, stop: int) -> np.ndarray:
    """(n, (stop - start) ** 3) voxels from `start` to before `stop` along each axis around places."""
    steps = np.stack(np.meshgrid(*[np.arange(start, stop)] * 3, indexing="ij"), -1).reshape(-1, 3)
    _, columns, slices = array.shape
    flat = (places[:, 0] * columns + places[:, 1]) * slices + places[:, 2]
    return array.reshape(-1)[flat[:, None] + (steps[:, 0] * columns + steps[:, 1]) * slices + steps[:, 2]]


def _different(values: np.ndarray) -> np.ndarray:
    """(n,) how many different values each row has."""
    if not len(values):
        return np.zeros(0, int)
    ordered = np.sort(values, axis=1)
    return 1 + np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1)
