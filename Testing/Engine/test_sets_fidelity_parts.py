"""Parts of the fidelity of two folders: slices, similarity, no-skill sets, networks; growth with what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_image_sets import phantom_volume, write_phantoms

from SynthDiffusionLib.evaluation.sets import (
    comparison,
    distances,
    exchange,
    extraction,
    fidelity,
    no_skill_sets,
    resampling,
    similarity,
)
from SynthDiffusionLib.evaluation.sets.image_set import Frame, only_patients, read_set

SIDE = 18
FRAME = Frame("CT", None, (-1000.0, 1000.0))


def image_set(folder: Path, role: str = "real"):
    return read_set(role, folder, FRAME)


@pytest.fixture(scope="module", autouse=True)
def fewer_draws():
    """Fewer draws and slices than users get, for the time that the tests take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "PARTS", 12)
        patch.setattr(comparison, "AUC_SPLITS", 2)
        for name, deals in (("DEALS", 99), ("CLOUD_DEALS", 19), ("AUC_DEALS", 4)):
            patch.setattr(exchange, name, deals)
        patch.setattr(extraction, "MOST_SLICES", 7)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_phantoms(root / "real", range(10), side=SIDE)
    write_phantoms(root / "other", range(100, 110), side=SIDE)
    return root


def test_the_same_set_twice_is_at_zero(folders):
    real = image_set(folders / "real")
    features = extraction.extract(
        "real", fidelity.sources_of(real), extraction.volume_radiomics((-1000.0, 1000.0)), FRAME, folders / "kept"
    )
    found = comparison.compare(comparison.view_of(features, 1), features)["volume"]
    for kernel in comparison.KERNELS:
        assert found[kernel]["low"] <= 0.0 <= found[kernel]["high"]
        assert found[kernel]["value"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        lambda hu, rng, much: no_skill_sets.blurred(hu, 0.3 + 0.4 * much),
        lambda hu, rng, much: no_skill_sets.noisy(hu, (-1000.0, 1000.0), rng, 0.02 * 2**much),
        lambda hu, rng, much: no_skill_sets.shuffled(hu, rng, 2 ** (much + 1)),
    ],
    ids=["blur", "noise", "shuffled blocks, finer and finer"],
)
def test_distances_grow_with_what_is_wrong(change, tmp_path):
    """The more of it, the further from real: energy and KID of volumes, Fréchet of slices."""
    limits = FRAME.intensity_range
    kinds = [extraction.volume_radiomics(limits), extraction.slice_radiomics(limits)]

    def measured(numbers: range, much: int | None) -> list[dict[str, list[np.ndarray]]]:
        images = [phantom_volume(i, SIDE) for i in numbers]
        if much is not None:
            images = [change(image, np.random.default_rng(i), much) for i, image in enumerate(images)]
        return [{p: [kind.compute(i)[p] for i in images] for p in kind.parts[:1]} for kind in kinds]

    real = [{p: np.concatenate(v) for p, v in m.items()} for m in measured(range(8), None)]
    standards = [comparison.standard_of(m[p]) for m, p in zip(real, ("volume", "XY"))]
    found = []
    for much in range(3):
        made = [{p: np.concatenate(v) for p, v in m.items()} for m in measured(range(50, 58), much)]
        pairs = [[s(m[p]) for m in both] for s, both, p in zip(standards, zip(real, made), ("volume", "XY"))]
        kernels = (distances.energy_kernel, distances.polynomial_kernel)
        found.append([distances.mmd2(*pairs[0], kernel) for kernel in kernels] + [distances.frechet(*pairs[1])])
    for one in np.transpose(found):
        assert one[0] < one[1] < one[2], found


def test_shuffling_keeps_every_voxel_and_moves_blocks():
    image = np.arange(8 * 8 * 8, dtype=np.float32).reshape(8, 8, 8)
    moved = no_skill_sets.shuffled(image, np.random.default_rng(1))
    assert sorted(moved.ravel()) == sorted(image.ravel()) and not np.array_equal(moved, image)
    assert {moved[0, 0, 0] - moved[1, 1, 1]} == {image[0, 0, 0] - image[1, 1, 1]}
    assert no_skill_sets.shuffled(np.zeros((5, 9, 10)), np.random.default_rng(1)).shape == (5, 8, 8)


def test_flat_classes_have_the_values_of_tissues_and_noise_without_texture():
    """Four slabs with their own noise: the classes are found, and the noise is as strong, and white."""
    from SynthDiffusionLib.evaluation.sets import copies

    rng, level, sd = np.random.default_rng(3), np.array([-900.0, -500.0, 0.0, 500.0]), np.array([10.0, 20, 40, 60])
    of = np.repeat(np.arange(4), 8)[:, None, None] + np.zeros((32, 16, 16), int)
    grain = no_skill_sets.blurred(rng.standard_normal(of.shape), 1.0)
    image = level[of] + sd[of] * grain / grain.std()
    classes = copies.flat_classes([image], 1)
    assert classes.centers == pytest.approx(level, abs=15) and classes.spreads == pytest.approx(sd, rel=0.25)
    made = copies.noisy_cartoon(image, classes, rng)
    for number in range(4):
        core, old = (a[8 * number + 2 : 8 * number + 6] for a in (made, image))
        assert core.std() == pytest.approx(sd[number], rel=0.2)
        correlation = [np.corrcoef(a[:, :, 1:].ravel(), a[:, :, :-1].ravel())[0, 1] for a in (core, old)]
        assert abs(correlation[0]) < 0.1 and correlation[1] > 0.5
    flat = copies.cartoons([image], [image], 1)[0]
    assert set(np.unique(flat)) == set(classes.centers.astype(np.float32))


def test_similarity_is_one_for_equal_volumes_and_falls_with_noise():
    image = phantom_volume(1)
    limits = FRAME.intensity_range
    assert similarity.ms_ssim(image, image, 2, limits) == pytest.approx(1.0, abs=1e-5)
    rng = np.random.default_rng(2)
    values = [
        similarity.ms_ssim(image, no_skill_sets.noisy(image, limits, rng, s), 2, limits) for s in (0.02, 0.1, 0.4)
    ]
    assert 1 > values[0] > values[1] > values[2]


@pytest.mark.parametrize(
    "side, scales", [(6, 0), (7, 1), (14, 2), (27, 2), (28, 3), (51, 3), (63, 4), (112, 5), (400, 5)]
)
def test_as_many_scales_as_monai_takes(side, scales):
    measure = similarity.measure_for((side, side + 3, side))
    assert (measure.scales if measure else 0) == scales
    if measure and side < 60:
        image = np.random.default_rng(1).normal(0, 300, measure.shape).astype(np.float32)
        assert similarity.ms_ssim(image, image, measure.scales, (-1000.0, 1000.0)) == pytest.approx(1.0, abs=1e-4)


def test_similarity_interval_draws_patients():
    """Mean over pairs; the interval against SciPy's for a statistic of that form, the mean of products."""
    rng = np.random.default_rng(3)
    level = rng.normal(0.5, 0.1, 20)
    patients = [f"p{i}" for i in range(20)]
    pairs = similarity.draw_pairs(patients, 1000, 1)
    assert len(pairs) == 190 and len(similarity.draw_pairs(patients, 30, 1)) == 30
    values = np.array([(level[i] + level[j]) / 2 for i, j in pairs])
    estimate = similarity.mean_similarity(values, pairs, patients, 1)
    error = level.std(ddof=1) / np.sqrt(20)
    assert estimate.value == pytest.approx(level.mean())
    assert (estimate.high - estimate.low) / 3.92 == pytest.approx(error, rel=0.2)
    assert not similarity.draw_pairs(["a", "a"], 10, 1)


def test_slices_are_of_the_middle_and_of_the_right_plane():
    image = np.stack([np.full((5, 60), i) for i in range(10)])  # (10, 5, 60)
    sagittal = extraction.central_slices(image, "YZ")
    assert sagittal.shape == (4, 5, 60) and sorted(set(sagittal.ravel())) == [3, 4, 5, 6]
    assert extraction.central_slices(image, "ZX").shape == (2, 10, 60)
    assert extraction.central_slices(image, "XY").shape == (7, 10, 5)
    assert extraction.central_slices(np.zeros((200, 5, 5)), "YZ").shape == (7, 5, 5)


def test_features_that_do_not_vary_are_left_out_and_said():
    values = np.random.default_rng(1).standard_normal((20, 3))
    values[:, 1] = 7.0
    standard = comparison.standard_of(values)
    assert standard.used.tolist() == [True, False, True] and standard(values).shape == (20, 2)
    assert standard(values).std(0, ddof=1) == pytest.approx(1.0)


def test_networks_are_trained_where_steps_are_given(folders):
    real = only_patients(image_set(folders / "real"), [f"p{i}" for i in range(5)])
    other = only_patients(image_set(folders / "other"), [f"p{i}" for i in range(100, 105)])
    found, recipes = fidelity._networks(real, {"synthetic": other}, fidelity.Options(auc_steps=1), lambda event: None)
    assert set(found) == set(recipes) == {"large", "small"} and recipes["large"]["steps"] == 1
    assert 0 <= found["large"]["synthetic"]["value"] <= 1
    assert fidelity._networks(real, {"synthetic": other}, fidelity.Options(), lambda event: None) == ({}, None)


def test_a_medicalnet_file_gives_features_of_its_own(folders, tmp_path):
    from test_sets_networks import random_network, saved

    file = saved(tmp_path / "resnet_10.pth", random_network(10).state_dict())
    kind = extraction.network_extractor(file, FRAME.intensity_range)
    sets = [
        extraction.extract(role, fidelity.sources_of(image_set(folders / role))[:10], kind, FRAME, tmp_path / "kept")
        for role in ("real", "other")
    ]
    found = comparison.compare(comparison.view_of(sets[0], 1), sets[1])["volume"]
    assert kind.identity["network"] == "MedicalNet ResNet-10" and kind.identity["sha256"]
    assert found["energy"]["low"] <= found["energy"]["value"] <= found["energy"]["high"]
    assert found["frechet"]["value"] is None and "there are 10 real and 10 others" in found["frechet"]["reason"]


def test_real_volumes_blurred_and_noisy_are_further_than_other_real_ones(shared_data, tmp_path):
    """Real CT: 24 nodule cubes against 12 of other patients, against the same 12 blurred, and with noise."""
    from SynthDiffusionLib.volumes import read_volume

    files = sorted((shared_data / "lidc_nodules_51" / "images").glob("*.nii.gz"))[:36]
    images = [np.clip(read_volume(f, "HU").array, -1000, 1000).astype(np.float32) for f in files]
    kind = extraction.volume_radiomics(FRAME.intensity_range)
    limits, rng = FRAME.intensity_range, np.random.default_rng(1)
    values = [np.concatenate([kind.compute(i)["volume"] for i in part]) for part in (
        images[:24],
        images[24:],
        [no_skill_sets.blurred(i) for i in images[24:]],
        [no_skill_sets.noisy(i, limits, rng) for i in images[24:]],
    )]  # fmt: skip
    standard = comparison.standard_of(values[0])
    other, blur, noise = (distances.mmd2(standard(values[0]), standard(v)) for v in values[1:])
    assert other < 0.2 * min(blur, noise)
