"""Groups that must stay on one side of every split, and how they are dealt: no leak, whatever the volumes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from training_set_examples import SHAPE, affine, ct, labels

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.export.groups import MOST_ALIKE, Marks, grouped, mask_places, slice_digests
from SynthDiffusionLib.export.splits import LEFT_OUT, TEST, TRAINING, VALIDATION, Member, split
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, reorient, reorient_segmentation

NOTHING = np.array([], np.uint64)


def marks(names=(), files=(), masks=(), slices=()) -> Marks:
    return Marks(frozenset(names), frozenset(files), frozenset(masks), np.array(sorted(slices), np.uint64))


def random_marks(rng: np.random.Generator, n: int) -> list[Marks]:
    """Volumes of which some share marks of each kind."""

    def drawn(kind: str) -> list[str]:
        return [f"{kind}{rng.integers(3 * n)}" for _ in range(rng.integers(0, 3))]

    return [
        marks(drawn("n"), drawn("f"), drawn("m"), {int(i) for i in rng.integers(0, 40 * n, rng.integers(0, 12))})
        for _ in range(n)
    ]


def keys(mark: Marks) -> set[object]:
    return {*mark.names, *mark.files, *mark.masks, *(int(s) for s in mark.slices)}


def same_partition(one, other) -> bool:
    """Whether two numberings of groups say the same."""
    pairs = set(zip(one, other))
    return len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)


@pytest.mark.parametrize("seed", range(40))
def test_groups_are_the_connected_components_of_shared_marks(seed):
    """Against scipy's, on the bipartite graph of volumes and marks; and each join says which two it joined."""
    rng = np.random.default_rng(seed)
    volumes = random_marks(rng, int(rng.integers(1, 40)))
    every = {key: i for i, key in enumerate(sorted(set().union(*map(keys, volumes)), key=str))}
    rows = [i for i, v in enumerate(volumes) for _ in keys(v)]
    columns = [len(volumes) + every[k] for v in volumes for k in keys(v)]
    size = len(volumes) + len(every)
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), (size, size))
    groups, joins, _ = grouped(volumes)
    assert same_partition(groups, connected_components(graph, directed=False)[1][: len(volumes)])
    assert groups[0] == 0 and set(groups) == set(range(max(groups) + 1))
    assert len(joins) == len(volumes) - len(set(groups)), "a forest"
    assert all(keys(volumes[j.one]) & keys(volumes[j.other]) for j in joins)


@pytest.mark.parametrize("seed", range(60))
def test_no_group_is_ever_on_two_sides(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 60))
    groups, *_ = grouped(random_marks(rng, n))
    members = [Member(g, f"p{i}", bool(rng.random() < 0.7)) for i, g in enumerate(groups)]
    folds, share = ((int(rng.integers(2, 5)), 0.0), (0, float(rng.uniform(0.05, 0.5))))[seed % 2]
    test = int(rng.integers(0, 4))
    try:
        parts = split(members, test_real=test, validation=share, folds=folds, seed=seed)
    except BadInput:
        assert len(set(groups)) < 12, "refused for too few groups only"
        return
    for group in set(groups):
        sides = {p for p, m in zip(parts.part, members) if m.group == group} - {LEFT_OUT}
        assert len(sides) <= 1
        assert len({f for f, p, m in zip(parts.fold, parts.part, members) if m.group == group and p == TRAINING}) <= 1
    held = [m for p, m in zip(parts.part, members) if p in (TEST, VALIDATION)]
    assert all(m.real for m in held), "tested and validated on real volumes only"
    assert len({m.patient for p, m in zip(parts.part, members) if p == TEST}) == test
    if folds:
        counts = [sum(f == i and m.real for f, m in zip(parts.fold, members)) for i in range(folds)]
        largest = max(sum(m.group == g and m.real for m in members) for g in set(groups))
        assert min(counts) >= 1 and max(counts) - min(counts) <= largest
    else:
        real = sum(m.real for p, m in zip(parts.part, members) if p != TEST)
        validated = parts.part.count(VALIDATION)
        assert 1 <= validated and (validated <= share * real or len({m.group for m in held}) - test <= 1)
    assert parts == split(members, test_real=test, validation=share, folds=folds, seed=seed)


def test_without_real_volumes_synthetic_ones_are_validated_on():
    members = [Member(i, "", False) for i in range(10)]
    parts = split(members, folds=5)
    assert sorted(parts.fold) == sorted([*range(5)] * 2)
    assert split(members, validation=0.2).part.count(VALIDATION) == 2


def test_synthetic_volumes_of_nobody_are_trained_on_in_every_fold():
    members = [Member(0, "a", True), Member(1, "b", True), Member(2, "", False), Member(0, "a", False)]
    parts = split(members, folds=2)
    assert parts.fold[2] is None and parts.fold[3] == parts.fold[0] != parts.fold[1]
    tested = split([*members, Member(3, "c", True)], folds=2, test_patients=["C"])
    assert tested.part == (TRAINING, TRAINING, TRAINING, TRAINING, TEST)
    assert split([*members, Member(3, "c", True)], folds=2, test_patients=["c_0000"]).part[4] == TEST


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"test_real": 4}, "4 real patients cannot be taken for the test part: there are 3"),
        ({"test_real": 3}, "All patients are in the test part"),
        ({"test_real": 1}, None),
        ({"test_patients": ["d"]}, "'d' is not among the real volumes"),
        ({"folds": 3}, "2 groups of volumes that belong together cannot be dealt to 3 folds"),
        ({"folds": 2, "test_patients": ["c"]}, "1 group of volumes"),
        ({"validation": 0.2, "test_patients": ["c"]}, "cannot be dealt to training and validation"),
    ],
)
def test_parts_that_cannot_be(options, cause):
    """Two patients belong together: one alone cannot be tested on."""
    members = [Member(0, "a", True), Member(0, "b", True), Member(1, "c", True)]
    if cause is None:
        assert split(members, **options).part == (TRAINING, TRAINING, TEST)
        return
    with pytest.raises(BadInput, match=cause):
        split(members, **options)


def test_a_group_cannot_be_cut_to_get_a_number_of_test_patients():
    members = [Member(0, "a", True), Member(0, "b", True), Member(1, "c", True), Member(1, "d", True)]
    with pytest.raises(BadInput, match="1 real patient cannot be taken.*without cutting a group") as error:
        split(members, test_real=1)
    assert error.value.hint == "Name them with --test-patients."
    with pytest.raises(BadInput, match="3 real patients") as error:
        split([*members, Member(2, "e", True), Member(2, "f", True)], test_real=3)
    assert error.value.hint.startswith("2 would do")


def test_slices_of_a_turned_cropped_or_inpainted_volume_are_known_again(oblique_affine):
    volume = Volume(ct(1), oblique_affine("RAS"))
    own = set(slice_digests(volume))
    assert len(own) == sum(SHAPE)
    assert set(slice_digests(reorient(volume, "PIR"))) == own
    assert set(slice_digests(Volume(volume.array.astype(np.float64), volume.affine))) == own
    assert len(own & set(slice_digests(Volume(volume.array[:, :, 3:7], volume.affine)))) == 4
    changed = volume.array.copy()
    changed[4:8, 4:8, 4:8] += 1
    assert len(own & set(slice_digests(Volume(changed, volume.affine)))) == sum(SHAPE) - 12
    assert not own & set(slice_digests(Volume(ct(2), volume.affine)))
    flat = np.full(SHAPE, -1024, np.int16)
    flat[5, 5, 5] = 3
    assert len(slice_digests(Volume(flat, volume.affine))) == 0, "air is like air"


ORDERS = list(itertools.permutations(range(3)))
STEPS = list(itertools.product((1, -1), repeat=3))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shape", [SHAPE, (13, 13, 8), (9, 9, 9)])
def test_slices_and_masks_in_all_48_orientations_without_a_word_in_the_header(order, steps, shape):
    """As after LPS was taken for RAS, or axes were swapped."""
    flips = tuple(slice(None, None, step) for step in steps)
    image = ct(4, shape)
    turned = np.ascontiguousarray(image[flips].transpose(order))
    assert np.array_equal(slice_digests(Volume(turned, affine())), slice_digests(Volume(image, affine())))
    masks = [np.random.default_rng(5).random(shape) < 0.7, ball()]
    for mask in masks:
        again = np.ascontiguousarray(mask[flips].transpose(order)).astype(np.uint8)
        assert mask_digests(segmentation(again)) == mask_digests(segmentation(mask.astype(np.uint8))) != frozenset()


def test_masks_with_the_same_profiles_are_told_apart():
    """Latin squares as heights: every slice of all three axes has as many voxels, and the masks differ."""
    rows = np.arange(8)
    cyclic, binary = (rows[:, None] + rows) % 8, rows[:, None] ^ rows
    one, other = (np.isin((square[..., None] - rows) % 8, (0, 1)).astype(np.uint8) for square in (cyclic, binary))
    for axes in ((0, 1), (0, 2), (1, 2)):
        assert np.array_equal(np.count_nonzero(one, axis=axes), np.count_nonzero(other, axis=axes))
    assert mask_digests(segmentation(one)) != mask_digests(segmentation(other))


def ball() -> np.ndarray:
    """A mask with every symmetry."""
    return sum((np.indices((9, 9, 9)) - 4) ** 2) <= 14


def mask_digests(drawn: Segmentation) -> frozenset[str]:
    return frozenset(mask_places(drawn))


def segmentation(array: np.ndarray, matrix=None) -> Segmentation:
    values = [int(v) for v in np.unique(array) if v]
    return Segmentation((array,), affine() if matrix is None else matrix, tuple(Segment(f"s{v}", v) for v in values))


def test_masks_are_known_again_by_their_shape(oblique_affine):
    array = labels(3)
    one = segmentation(array, oblique_affine("RAS"))
    digests = mask_digests(one)
    assert len(digests) == 2, "the first class and both together; the small box says nothing"
    merged = mask_digests(segmentation((array > 0).astype(np.uint8), one.affine))
    assert len(merged) == 1 and merged < digests, "all classes as one"
    assert mask_digests(reorient_segmentation(one, "PIR")) == digests
    assert mask_digests(segmentation(np.pad(array, 3) * np.uint8(5), one.affine)) == digests
    alone = mask_digests(segmentation(np.where(array == 1, 1, 0), one.affine))
    assert len(alone) == 1 and alone < digests
    other = array.copy()
    other[tuple(np.argwhere(array == 1)[0])] = 0
    assert mask_digests(segmentation(other, one.affine)).isdisjoint(digests)
    boxes = np.zeros(SHAPE, np.uint8)
    boxes[2:10, 2:10, 2:10] = 1
    assert mask_digests(segmentation(boxes)) == frozenset()


def real(name: str, mask: str, file: str, image: int) -> Marks:
    return Marks(
        frozenset([name]),
        frozenset(),
        frozenset([mask]),
        np.array([image], np.uint64),
        mask_files=frozenset([file]),
        real=True,
    )


@pytest.mark.parametrize("patients", [2, MOST_ALIKE, MOST_ALIKE + 1, 9])
@pytest.mark.parametrize("same_file", [False, True])
def test_a_mask_of_many_patients_is_generic(patients, same_file):
    """Of two or three it joins them; of more, images that share nothing are not joined. Volumes of nobody that were
    made from it stay together, and belong to no patient."""
    volumes = [real(f"p{i}", "tube", "f" if same_file else f"f{i}", i) for i in range(patients)]
    volumes += [marks(masks=["tube"])] * 2 + [marks(names=["p0"], masks=["tube"]), marks(masks=["else"])]
    groups, joins, generic = grouped(volumes)
    if patients <= MOST_ALIKE:
        assert set(groups[:-1]) == {0} and groups[-1] == 1 and not generic
        return
    assert groups == [*range(patients), patients, patients, 0, patients + 1]
    assert {g.mask for g in generic} == ({"tube", "f"} if same_file else {"tube"})
    assert all(g.volumes == tuple(range(patients)) for g in generic)
    assert [(j.one, j.other, j.why) for j in joins] == [
        (0, patients + 2, "the same patient"),
        (patients, patients + 1, "the same mask"),
    ]


def test_copies_of_one_image_do_not_make_a_mask_generic():
    """Patients are counted by their images, whatever they are called."""
    volumes = [real(f"p{i}", "tube", f"f{i}", 0) for i in range(8)] + [real("q", "tube", "q", 1)]
    assert grouped(volumes).groups == [0] * 9 and not grouped(volumes).generic
