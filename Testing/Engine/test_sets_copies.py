"""The parts of `evaluate memorisation` of folders by themselves: planted copies, the search in voxel space, limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_image_sets import vessels

from SynthDiffusionLib.evaluation.sets import copies, image_set, leaks, odd_sizes, registered
from SynthDiffusionLib.evaluation.sets.thresholds import threshold_of

LIMITS = (-1000.0, 400.0)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def test_two_volumes_are_laid_on_each_other():
    """Moved by whole voxels of the search and mirrored: the search finds the way back."""
    big = vessels(50, 44)
    space = registered.voxel_space((32, 32, 32), LIMITS)
    assert space.step == 1
    image = big[6:38, 6:38, 6:38]
    for flips, move in (((0, 0, 0), (0, 0, 0)), ((1, 0, 0), (2, -3, 1)), ((1, 1, 1), (-4, 0, 3))):
        other = big[tuple(slice(6 + m, 38 + m) for m in move)]
        other = np.flip(other, [a for a in range(3) if flips[a]])
        found = registered.align(image, other, space)
        assert found.correlation > 0.95
        inner = (slice(6, 26),) * 3
        np.testing.assert_array_equal(registered.laid_on(other, found, space)[inner], image[inner])


def test_an_equal_volume_is_at_no_distance_even_where_it_is_nearly_flat(tmp_path):
    """Such a core counts as without a pattern: its correlation with itself is far below 1."""
    flat = {name: (5.0 * vessels(seed, 32) / 1000.0).astype(np.float32) for name, seed in (("a", 1), ("b", 2))}
    space = registered.voxel_space((32, 32, 32), LIMITS)
    gallery, store = registered.gallery_of(flat, space), registered.DistanceCache(tmp_path, ["flat"])
    again = {"c": flat["b"].copy()}
    (blind,) = registered.voxel_distances(again, gallery, space, store, "searching")
    (found,) = registered.voxel_distances(again, gallery, space, store, "searching", equals=registered.by_content(flat))
    assert blind.min() > 0.5 and found[1] == 0.0 and found[0] == blind[0]


def test_a_damaged_cache_of_distances_is_measured_again(tmp_path):
    store = registered.DistanceCache(tmp_path, ["key"])
    assert store.row("a", lambda: np.arange(3.0)).tolist() == [0, 1, 2]
    store.save()
    again = registered.DistanceCache(tmp_path, ["key"])
    assert again.row("a", lambda: pytest.fail("measured")).tolist() == [0, 1, 2]
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    assert registered.DistanceCache(tmp_path, ["key"]).row("a", lambda: np.ones(2)).tolist() == [1, 1]
    assert registered.DistanceCache(tmp_path, ["other"]).row("a", lambda: np.zeros(1)).tolist() == [0]


@pytest.mark.parametrize("kind", copies.CONTROLS)
def test_planted_copies_stay_in_their_range_and_are_reproducible(kind):
    images = [vessels(n) for n in range(3)]
    one, again = (copies.planted(images, kind, LIMITS, 1) for _ in range(2))
    for a, b, image in zip(one, again, images):
        np.testing.assert_array_equal(a, b)
        assert a.shape == image.shape and a.min() >= LIMITS[0] and a.max() <= LIMITS[1]
        assert (kind == "exact") == bool(np.array_equal(a, image))


def test_volumes_without_detail_have_none():
    images = [vessels(n) for n in range(24)]
    detail = lambda v: float(np.abs(np.diff(v, axis=0)).mean())  # noqa: E731
    for made, most in ((copies.mean_images(images, 0), 0.8), (copies.smoothed(images), 0.4)):
        assert all(detail(m) < most * detail(images[0]) for m in made)
    assert all(len(np.unique(c)) <= copies.CARTOON_CLASSES for c in copies.cartoons(images, images, 0))


def test_fresh_lung_nodules_are_flagged_no_more_often_than_they_may(shared_data):
    """LIDC, split by patient as the shipped model's, in voxel space: 5 % lie in the exact interval, and copies are
    found."""
    from SynthDiffusionLib.evaluation.sets.thresholds import clopper_pearson
    from SynthDiffusionLib.models import load_package
    from SynthDiffusionLib.volumes import read_volume

    split = load_package("lung-nodule-ct", verify=False).spec.training.split
    images = shared_data / "lidc_nodules_51" / "images"

    def volumes(part: str) -> list[np.ndarray]:
        return [np.clip(read_volume(images / f"{n}.nii.gz").array, *LIMITS).astype(np.float32) for n in split[part]]

    training = volumes("train")
    space = registered.voxel_space((51, 51, 51), LIMITS)
    gallery = registered.gallery_of({str(n): v for n, v in enumerate(training)}, space)

    def nearest(images: list[np.ndarray], apart: bool = False) -> np.ndarray:
        reduced = [space.reduced(v) for v in images]
        found = np.stack([registered.distances(v, [n // 2 for n in v.shape], gallery) for v in reduced])
        if apart:
            np.fill_diagonal(found, np.inf)
        return found.min(1)

    held_out, between = nearest(volumes("validation")), nearest(training, apart=True)
    limit = threshold_of(held_out, between)
    fresh = nearest(volumes("test"))
    low, high = clopper_pearson(int((fresh < limit.value).sum()), len(fresh))
    assert limit.exists and limit.patients == 87 and low <= 0.05 <= high
    planted = copies.planted(training[:6], "all_three", LIMITS, 0)
    assert (nearest(planted) < limit.value).all()
    # No real patient is taken for a double of another; a mirrored training image with noise of 10 HU is.
    mild = [copies.planted(training[:2], kind, LIMITS, 0) for kind in leaks.MILD]
    doubles = leaks.leak_limit(between, nearest([image for made in mild for image in made]))
    assert doubles < min(held_out.min(), between.min(), fresh.min()) / 2
    noise = 10 * np.random.default_rng(0).standard_normal(training[7].shape)
    assert nearest([training[7][:, ::-1] + noise])[0] < doubles


def test_a_copy_that_was_made_for_its_own_patients_mask_is_one_too():
    one = leaks.Leak("synthetic", "a_m_seed1", "a", "a", True, 0.01, 0.05, 0.5)
    said = leaks.copy_sentence([one], 20)
    assert said.startswith("1 of 20 synthetic volumes is probably a copy of a training case: a_m_seed1 (of 'a'); it is")
    assert said.endswith("1 of them was made for the mask of the very patient that it is near to.")
    assert leaks.copy_sentence([], 20) == ""


def set_of(role: str, sides: list[int]) -> image_set.ImageSet:
    cases = []
    for n, side in enumerate(sides):
        array = np.zeros((side, 26, 26), np.float32)
        made = f"{role}{n}"
        cases.append(image_set.SetCase(made, made, Path(f"{made}.nii.gz"), made, array, None, AFFINE))
    return image_set.ImageSet(role, Path(), tuple(cases), (), image_set.Frame("CT", None, LIMITS), {})


def test_a_few_small_files_are_left_out_and_many_are_told():
    events: list[dict] = []
    sets = [set_of("training", [26] * 20), set_of("synthetic", [26] * 20 + [12])]
    left = odd_sizes.without_odd(sets, [10, 10], events.append)
    assert [len(s.cases) for s in left] == [20, 20] and left[0].skipped == ()
    assert left[1].skipped[0]["file"] == "synthetic20.nii.gz"
    assert "12 x 26 x 26 voxels are less than half of the usual 26 x 26 x 26" in left[1].skipped[0]["reason"]
    assert [e["event"] for e in events] == ["warning"] and "of the synthetic set is left out" in events[0]["message"]
    assert odd_sizes.box_sentences(left, (26, 26, 26)) == []
    # Exactly half is not small; too few would be left; small ones are many.
    for sides, least in (([26] * 20 + [13], 10), ([26] * 20 + [12], 21), ([26] * 18 + [12] * 3, 10)):
        sets[1] = set_of("synthetic", sides)
        assert odd_sizes.without_odd(sets, [10, least]) == sets
    said = odd_sizes.box_sentences(sets, (12, 26, 26))
    assert said[0].startswith("All volumes are compared in their middle 12 x 26 x 26 voxels alone, 46.2 % of the usual")
    assert "since 3 files have less than half" in said[0] and "'synthetic18.nii.gz' (synthetic)" in said[0]
