"""Random training patches: what is dropped, what is known, and that everything in a patch belongs together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats
from tiny_training import ball

from SynthDiffusionLib.backends.coordinates import coordinate_channels
from SynthDiffusionLib.labels.condition import encode_classes
from SynthDiffusionLib.labels.scheme import LabelScheme, load_scheme
from SynthDiffusionLib.training.config import load_config
from SynthDiffusionLib.training.patches import (
    PatchConfig,
    blunt_anatomy,
    draw_given,
    draw_patch,
    draw_unknown_region,
)

BODY, LUNG, BONE, NODULE = 1, 2, 3, 4
NAMES = ("body", "lung", "bone", "nodule")
ALL = {name: 0.0 for name in NAMES}
# Patches as they are in the case: nothing dropped, blunted, hidden or blurred.
PLAIN = PatchConfig(
    field_sizes=(20, 24), drop=ALL, drop_anatomy=0.0, drop_all=0.0, outline_sigmas=(0.0, 0.0), inpaint_probability=0.0
)


@pytest.fixture(scope="module")
def scheme() -> LabelScheme:
    return load_scheme("lung-nodule-ct")


@pytest.fixture(scope="module")
def classes() -> np.ndarray:
    """A lung with a nodule off centre and a rib, 26³."""
    shape = (26, 26, 26)
    found = np.full(shape, BODY, np.uint8)
    found[ball(shape, (13, 13, 13), 10)] = LUNG
    found[2:5, 4:22, 10:14] = BONE
    found[ball(shape, (15, 10, 14), 3.2)] = NODULE
    return found


@pytest.fixture(scope="module")
def serial() -> np.ndarray:
    """An image in which every voxel has its own value, so that it can be found again; float32 holds them exactly."""
    return np.arange(26**3, dtype=np.float32).reshape(26, 26, 26)


def draws(classes, scheme, config, count: int, size: int = 12, image=None, seed: int = 0):
    rng = np.random.default_rng(seed)
    image = np.zeros(classes.shape, np.float32) if image is None else image
    return [draw_patch(image, classes, scheme, size, config, rng) for _ in range(count)]


def shipped_patches() -> PatchConfig:
    from SynthDiffusionLib.resources import resource_path

    return load_config(resource_path("Training", "lung-nodule-ct.toml")).patches


def test_classes_are_dropped_as_often_as_configured():
    """Counts lie in the 1 - 1e-6 interval of their binomial distribution."""
    config = shipped_patches()
    rng = np.random.default_rng(1)
    count = 8000
    given = [draw_given(NAMES, config, rng) for _ in range(count)]
    kept = (1 - config.drop_all) * (1 - config.drop_anatomy)
    expected = {(): config.drop_all + kept * np.prod([config.drop[n] for n in NAMES])}
    for name in NAMES:
        share = kept * (1 - config.drop[name])
        if name == config.target:
            share += (1 - config.drop_all) * config.drop_anatomy
        expected[name] = share
    alone = kept * (1 - config.drop["nodule"]) * np.prod([config.drop[n] for n in ("body", "lung", "bone")])
    expected["nodule",] = (1 - config.drop_all) * config.drop_anatomy + alone
    for key, share in expected.items():
        found = sum(key in g for g in given) if isinstance(key, str) else sum(g == key for g in given)
        low, high = stats.binom.interval(1 - 1e-6, count, share)
        assert low <= found <= high, (key, found / count, share)
    assert len(set(given)) == 2 ** len(NAMES), "not every subset has been drawn"
    assert all(list(g) == [n for n in NAMES if n in g] for g in given)


def test_given_reaches_the_condition_channels(classes, scheme):
    """A class that is not given is 0 everywhere in its channel; one that is given is 1 and -1."""
    found = set()
    for patch in draws(classes, scheme, replace(PLAIN, drop=dict.fromkeys(NAMES, 0.5), drop_anatomy=0.3), 150):
        subset = tuple(bool(channel.any()) for channel in patch.condition)
        found.add(subset)
        for channel, given in zip(patch.condition, subset):
            assert set(np.unique(channel)) <= ({-1.0, 1.0} if given else {0.0})
    assert (False, False, False, True) in found and (False,) * 4 in found and len(found) > 8


@pytest.mark.parametrize("given", [(), ("lung",), ("body", "lung"), ("body", "lung", "bone"), ("bone",)])
def test_a_dropped_nodule_leaves_no_trace(classes, scheme, given):
    """The other channels are those of a case in which the nodule is plain lung: no hole, no outline."""
    healthy = np.where(classes == NODULE, LUNG, classes)
    for sigma, bias in ((0.0, 0.0), (1.3, 0.1), (2.0, -0.15)):
        blunt, plain = (blunt_anatomy(c, scheme, "nodule", sigma, bias) for c in (classes, healthy))
        assert (blunt == NODULE).any() and not (plain == NODULE).any()
        np.testing.assert_array_equal(encode_classes(blunt, scheme, given), encode_classes(plain, scheme, given))


def test_blunting_leaves_the_nodule_alone_and_changes_the_rest(classes, scheme):
    blunt = blunt_anatomy(classes, scheme, "nodule", 1.5, 0.1)
    np.testing.assert_array_equal(blunt == NODULE, classes == NODULE)
    assert not np.array_equal(blunt == LUNG, classes == LUNG)
    np.testing.assert_array_equal(blunt_anatomy(classes, scheme, "nodule", 0.0, 0.0), classes)
    grown, shrunk = (blunt_anatomy(classes, scheme, "nodule", 1.0, b) for b in (0.15, -0.15))
    for value in (LUNG, BONE):
        assert (grown == value).sum() > (shrunk == value).sum()


def test_patches_are_pieces_of_the_case(classes, scheme, serial):
    """Every patch is found in the case, in one piece; image, classes and known mask are flipped together; and
    coordinates are those of the patch's place in a field of the case."""
    flipped = 0
    fields = [coordinate_channels((n, n, n))[0, :, 0, 0] for n in range(20, 25)]
    for patch in draws(classes, scheme, PLAIN, 60, image=serial):
        places = np.stack(np.unravel_index(patch.image[0].astype(int), classes.shape))
        for axis, line in enumerate(places):
            steps = np.diff(line, axis=axis)
            assert np.abs(steps).min() == 1 and steps.min() == steps.max(), "not a box, or flipped in part"
            flipped += int(steps.max() == -1)
        here = classes[tuple(places)]
        np.testing.assert_array_equal(patch.condition, encode_classes(here, scheme, NAMES))
        assert not patch.known.any()

        assert patch.coordinates.shape == (3, 12, 12, 12)
        assert -1.0 <= patch.coordinates.min() and patch.coordinates.max() <= 1.0
        for axis in range(3):
            line = np.moveaxis(patch.coordinates[axis], axis, 0)
            assert np.ptp(line, axis=(1, 2)).max() == 0, "a coordinate varies across its axis"
            line = line[:, 0, 0]
            assert any(
                np.allclose(line, field[start : start + 12], atol=1e-6)
                for field in fields
                for start in range(len(field) - 11)
            )
    assert 0.3 < flipped / 180 < 0.7


def test_patches_never_leave_the_case_and_reach_its_ends(classes, scheme, serial):
    patches = draws(classes, scheme, replace(PLAIN, target_probability=0.0), 500, image=serial, seed=1)
    places = np.stack([np.stack(np.unravel_index(p.image[0].astype(int), classes.shape)) for p in patches])
    assert all(p.image.shape == (1, 12, 12, 12) for p in patches)
    np.testing.assert_array_equal(places.min((0, 2, 3, 4)), 0)
    np.testing.assert_array_equal(places.max((0, 2, 3, 4)), 25)


def test_a_field_of_the_size_of_the_case_has_all_its_coordinates(classes, scheme, serial):
    """A patch as large as the case: coordinates are those of the whole volume at generation."""
    patch = draws(classes, scheme, replace(PLAIN, field_sizes=(26, 40)), 1, size=26, image=serial)[0]
    np.testing.assert_array_equal(patch.coordinates, coordinate_channels((26, 26, 26)))
    np.testing.assert_array_equal(np.sort(patch.image.ravel()), serial.ravel())


def test_every_second_patch_is_about_the_nodule(classes, scheme):
    """With probability 1, every patch holds some of it; with 0, a good part does not."""
    small = np.where(classes == NODULE, LUNG, classes)
    small[24, 24, 24] = NODULE

    def share(probability: float) -> float:
        config = replace(PLAIN, target_probability=probability, field_sizes=(26, 26))
        return np.mean([(p.condition[3] > 0).any() for p in draws(small, scheme, config, 80, size=8)])

    assert share(1.0) == 1.0
    assert share(0.0) < 0.3


def test_coordinates_have_their_closed_form():
    channels = coordinate_channels((5, 3, 1))
    assert channels.shape == (3, 5, 3, 1) and channels.dtype == np.float32
    np.testing.assert_allclose(channels[0, :, 1, 0], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(channels[1, 2, :, 0], [-1, 0, 1])
    assert not channels[2].any(), "a single voxel lies in the middle"


def test_unknown_region_covers_the_nodule_when_it_is_around_it():
    """In about 60 % of the draws it covers all of it and a margin of at least two voxels."""
    shape = (16, 16, 16)
    target = ball(shape, (3, 12, 8), 2.5)
    near = ndimage.distance_transform_edt(~target) <= 2.0
    rng = np.random.default_rng(4)
    regions = [draw_unknown_region(target, rng) for _ in range(300)]
    covered = np.mean([bool(region[near].all()) for region in regions])
    low, high = stats.binom.interval(1 - 1e-6, 300, 0.6)
    assert low / 300 <= covered <= 0.1 + high / 300  # a region elsewhere may happen to cover it
    assert all(0 < region.sum() < region.size for region in regions)
    elsewhere = [draw_unknown_region(np.zeros(shape, bool), rng) for _ in range(100)]
    centers = np.array([ndimage.center_of_mass(region) for region in elsewhere])
    assert np.ptp(centers, axis=0).min() > 6, "regions without a nodule do not move about"


def test_known_voxels(classes, scheme, serial):
    """A known image is given in about half of the patches; where it is given, some voxels are unknown and most of the
    image is known; the image itself is not touched without blurring."""
    config = replace(PLAIN, inpaint_probability=0.5, blur_probability=0.0)
    patches = draws(classes, scheme, config, 200, image=serial, seed=8)
    given = [p for p in patches if p.known.any()]
    low, high = stats.binom.interval(1 - 1e-6, 200, 0.5)
    assert low <= len(given) <= high
    for patch in given:
        assert set(np.unique(patch.known)) == {0.0, 1.0} and patch.known.shape == (1, 12, 12, 12)
        places = np.unravel_index(patch.image[0].astype(int), classes.shape)
        np.testing.assert_array_equal(serial[places], patch.image[0])
        # The known image that the network is given (`image * known`) holds nothing where it is unknown.
        assert not (patch.image * patch.known)[patch.known == 0].any()


def test_coordinates_are_mirrored_with_the_patch(classes, scheme, serial):
    """Over the whole case: a voxel's coordinate is that of its place, or of the mirrored place in a mirrored patch."""
    line = coordinate_channels(classes.shape)[0, :, 0, 0]
    flipped = 0
    for patch in draws(classes, scheme, replace(PLAIN, field_sizes=(26, 26)), 30, image=serial):
        places = np.unravel_index(patch.image[0].astype(int), classes.shape)
        for axis, place in enumerate(places):
            mirrored = np.diff(place, axis=axis).max() < 0
            flipped += mirrored
            np.testing.assert_allclose(patch.coordinates[axis], line[25 - place if mirrored else place], atol=1e-6)
    assert 20 < flipped < 70


def test_blur_is_for_the_known_image_alone(classes, scheme):
    """Where the image is known it is smoother, along all axes or along one; what is to be synthesised stays sharp."""
    noise = np.random.default_rng(2).standard_normal(classes.shape).astype(np.float32)
    config = replace(PLAIN, inpaint_probability=0.5, blur_probability=1.0)
    single_axis = blurred = 0
    for patch in draws(classes, scheme, config, 60, image=noise, size=20):
        known = patch.known > 0
        assert patch.image[~known].std() > 0.9 or (~known).sum() < 200
        if not known.any():
            assert patch.image.std() > 0.9
            continue
        assert patch.image[known].std() < 0.85
        blurred += 1
        steps = [np.abs(np.diff(np.where(known[0], patch.image[0], np.nan), axis=axis)) for axis in range(3)]
        roughness = np.array([np.nanmean(step) for step in steps])
        single_axis += roughness.min() < 0.8 * roughness.max()
    low, high = stats.binom.interval(1 - 1e-6, blurred, 0.5)
    assert low <= single_axis <= high


def test_the_same_seed_draws_the_same_patch(classes, scheme, serial):
    config = replace(shipped_patches(), field_sizes=(16, 26))
    a, b, c = (draws(classes, scheme, config, 6, image=serial, seed=s) for s in ([3, 1], [3, 1], [3, 2]))
    for name in ("image", "condition", "coordinates", "known"):
        assert all(np.array_equal(getattr(p, name), getattr(q, name)) for p, q in zip(a, b))
        assert all(getattr(p, name).dtype == np.float32 for p in a)
    assert not all(np.array_equal(p.image, q.image) for p, q in zip(a, c))
