"""Parts of an image are known again wherever they lie in another, and two images are never taken for one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from SynthDiffusionLib.export import image_blocks
from SynthDiffusionLib.export.image_blocks import FEWEST_SHARED, MOST_BLOCKS, block_digests, same_blocks
from SynthDiffusionLib.volumes import Volume, read_volume, reorient

SHAPE = (40, 36, 30)


def noise(seed=0, shape=SHAPE) -> np.ndarray:
    array = np.random.default_rng(seed).normal(40, 30, shape).astype(np.int16)
    array[:4] = -1000
    return array


def padded(array: np.ndarray, value: int) -> np.ndarray:
    out = np.full(tuple(n + 7 for n in array.shape), value, array.dtype)
    out[2 : 2 + array.shape[0], 5 : 5 + array.shape[1], 3 : 3 + array.shape[2]] = array
    return out


def digests(array, affine=None) -> np.ndarray:
    return block_digests(Volume(array, np.eye(4) if affine is None else affine))


def inpainted(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed[10:20, 10:20, 10:20] = noise(9, (10, 10, 10))
    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[:, 1:, 3:],
        lambda a: a[3:-2, 1:-5, 2:-4],
        lambda a: padded(a, -1000),
        lambda a: padded(a, -3024),
        lambda a: padded(a[5:, 5:, 5:], 0),
        lambda a: inpainted(a)[1:, 1:, 1:],
        lambda a: a.astype(np.float64),
        lambda a: a[::-1, ::-1],
        lambda a: padded(a[3:, ::-1, 4:].transpose(2, 0, 1), 0),
    ],
)
def test_a_crop_on_any_axes_a_rim_and_an_inpainted_part(change):
    whole = digests(noise())
    part = digests(np.ascontiguousarray(change(noise())))
    assert same_blocks([whole, digests(noise(1)), part]) == [(0, 2)]


def test_in_any_order_of_axes(oblique_affine):
    volume = Volume(noise(), oblique_affine("RAS"))
    assert np.array_equal(block_digests(reorient(volume, "PIR")), block_digests(volume))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("steps", list(itertools.product((1, -1), repeat=3)))
def test_in_all_48_orientations_without_a_word_in_the_header(order, steps):
    array = noise(2, (18, 17, 16))
    turned = array[tuple(slice(None, None, step) for step in steps)].transpose(order)
    assert np.array_equal(digests(np.ascontiguousarray(turned)), digests(array))


def test_the_values_of_an_orbit_are_those_that_turns_exchange():
    """Against the orbits that numpy's own turns and flips make; and no two of noise are one."""
    blocks = np.arange(216, dtype=np.float32).reshape(1, 6, 6, 6)
    turns = [
        np.flip(blocks[0], axes).transpose(order).ravel()
        for order in itertools.permutations(range(3))
        for n in range(4)
        for axes in itertools.combinations(range(3), n)
    ]
    orbits = {frozenset(column) for column in np.stack(turns, 1).astype(int).tolist()}
    row = image_blocks._unordered(blocks.reshape(1, 216))[0].astype(int).tolist()
    found, first = set(), 0
    while first < 216:
        size = next(len(o) for o in orbits if row[first] in o)
        found.add(frozenset(row[first : first + size]))
        first += size
    assert found == orbits and len(orbits) == 10


def test_every_block_inside_a_crop_is_found_again():
    """But for those that the denser choice of a small volume adds: anchors follow from what is in them only."""
    whole, part = digests(noise()), digests(np.ascontiguousarray(noise()[8:30, 8:30, 8:28]))
    assert len(np.intersect1d(whole, part)) == len(part) > 200


def test_a_small_part_of_a_large_volume(monkeypatch):
    """A large volume keeps fewer of its blocks, and a part of it enough of the same ones."""
    monkeypatch.setattr(image_blocks, "MOST_BLOCKS", 600)
    whole = noise(3, (70, 70, 70))
    large, small = digests(whole), digests(np.ascontiguousarray(whole[20:50, 21:51, 22:52]))
    assert 100 < len(large) <= 600 and same_blocks([large, small]) == [(0, 1)]
    assert len(np.intersect1d(large, small)) < len(small) / 3, "by what both have kept"


def test_slabs_do_not_show(monkeypatch):
    expected = digests(noise())
    monkeypatch.setattr(image_blocks, "_SLAB", 3 * SHAPE[1] * SHAPE[2])
    assert np.array_equal(digests(noise()), expected)


@pytest.mark.parametrize(
    "array",
    [
        np.full(SHAPE, -3024, np.int16),
        np.arange(30)[None, None].repeat(40, 0).repeat(36, 1).astype(np.int16) // 8,
        np.random.default_rng(0).integers(-1000, -998, SHAPE).astype(np.int16),
        noise(0, (5, 40, 40)),
    ],
)
def test_flat_images_and_thin_ones_say_nothing(array):
    assert len(digests(array)) == 0


def test_few_blocks_in_common_join_nothing():
    one = np.arange(100, dtype=np.uint64)
    for shared in (FEWEST_SHARED - 1, FEWEST_SHARED):
        other = np.concatenate([one[:shared], np.arange(1000, 1100, dtype=np.uint64)])
        assert same_blocks([one, np.array([], np.uint64), other]) == ([(0, 2)] if shared == FEWEST_SHARED else [])
    assert same_blocks([]) == same_blocks([np.array([], np.uint64)] * 2) == []


@pytest.mark.parametrize("folder", ["lidc_nodules_51/images", "hippocampus_msd/images"])
def test_no_two_real_patients_share_a_block(folder, shared_data):
    """And an off-centre crop of each, turned by 180 degrees, is known again."""
    paths = sorted((shared_data / folder).iterdir())[:24]
    volumes = [read_volume(path) for path in paths]
    crops = [Volume(np.ascontiguousarray(v.array[3:, 2:-1, 1:][::-1, ::-1]), v.affine) for v in volumes]
    found = [block_digests(v) for v in [*volumes, *crops]]
    assert all(FEWEST_SHARED < len(f) <= MOST_BLOCKS for f in found)
    assert same_blocks(found) == [(i, i + len(volumes)) for i in range(len(volumes))]
    assert len(np.unique(np.concatenate(found[: len(volumes)]))) == sum(map(len, found[: len(volumes)]))
