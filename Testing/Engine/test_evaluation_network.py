"""The network that tells real from synthetic: folds by patient, and chance where there is nothing to see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_evaluation import RANGE, phantom_case

from SynthDiffusionLib.evaluation import real_or_synthetic as ros
from SynthDiffusionLib.evaluation.discriminant import discriminate_by_features, linear_discriminant
from SynthDiffusionLib.evaluation.real_or_synthetic import Recipe, discriminate, patient_folds
from SynthDiffusionLib.evaluation.rows import real_items

QUICK = Recipe(crop=8, channels=(8, 8), steps=80, batch=8, learning_rate=1e-2, crops_per_volume=6)


@pytest.fixture(scope="module")
def real():
    return real_items([phantom_case(n, side=16) for n in range(10)], RANGE)


def test_folds_are_made_of_patients_and_even():
    patients = [f"p{n // 3}" for n in range(30)]
    folds = patient_folds(patients, 5, seed=1)
    assert set(folds) == set(patients)
    assert sorted(np.bincount(list(folds.values())).tolist()) == [2] * 5
    assert folds == patient_folds(patients, 5, seed=1) != patient_folds(patients, 5, seed=2)


def test_no_patient_is_in_training_and_test_of_one_network(real, monkeypatch):
    """Every image is marked with its patient's number; what trains and what is scored is noted."""
    marked = tuple(replace(item, hu=np.full((8, 8, 8), 10.0 * n, np.float32)) for n, item in enumerate(real))
    twice = marked + tuple(replace(item, seed=1) for item in marked)  # two synthetic volumes of a mask
    networks = []

    def patients_in(images):
        return {round(float((i.mean() + 1) / 2 * (RANGE[1] - RANGE[0]) + RANGE[0]) / 10) for i in images}

    def train(real_images, synthetic_images, recipe, seed):
        networks.append({"trained": patients_in(real_images) | patients_in(synthetic_images), "tested": set()})
        assert patients_in(real_images) == patients_in(synthetic_images)
        return networks[-1]

    def score(network, image, recipe, rng):
        network["tested"] |= patients_in([image])
        return np.zeros(1)

    monkeypatch.setattr(ros, "_train", train)
    monkeypatch.setattr(ros, "_score", score)
    found = discriminate(marked, twice, QUICK, RANGE)
    assert len(networks) == 5 and found.auc.value == 0.5
    assert all(n["tested"] and not n["tested"] & n["trained"] for n in networks)
    assert set().union(*(n["tested"] for n in networks)) == set(range(10))


def test_white_noise_is_told_from_texture(real):
    rng = np.random.default_rng(0)
    noisy = tuple(replace(i, hu=i.hu + 120 * rng.standard_normal(i.hu.shape).astype(np.float32)) for i in real)
    found = discriminate(real, noisy, QUICK, RANGE, folds=2)
    assert found.auc.value > 0.85
    again = discriminate(real, noisy, QUICK, RANGE, folds=2)
    assert np.array_equal(found.synthetic_scores, again.synthetic_scores)


def test_the_same_images_cannot_be_told_apart(real):
    """Real and synthetic are scored on the same crops, so equal images tie exactly."""
    found = discriminate(real, real, QUICK, RANGE, folds=2)
    assert found.auc.value == 0.5
    assert np.array_equal(found.real_scores, found.synthetic_scores)


def test_single_crops_are_scored_when_asked(real):
    rng = np.random.default_rng(0)
    noisy = tuple(replace(i, hu=i.hu + 80 * rng.standard_normal(i.hu.shape).astype(np.float32)) for i in real)
    recipe = replace(QUICK, steps=5, average=False)
    found = discriminate(real, noisy, recipe, RANGE, folds=2)
    assert found.real_scores.shape == (10, 6) and np.ptp(found.real_scores, axis=1).min() > 0
    assert found.auc.low <= found.auc.value <= found.auc.high


def test_volumes_smaller_than_a_crop_and_of_several_sizes(real):
    """The shapes of a batch are one: crops are as large as the smallest volume of either kind."""
    cut = tuple(replace(item, hu=item.hu[: 9 + n, : 16 - n % 3]) for n, item in enumerate(real[:6]))
    recipe = replace(QUICK, crop=24, steps=2)
    assert ros.fitted(recipe, [i.hu.shape for i in cut]).crop == 8
    assert np.isfinite(discriminate(real, cut, recipe, RANGE, folds=2).auc.value)


def test_training_does_not_disturb_the_random_state_of_the_caller(real):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    discriminate(real, real, replace(QUICK, steps=2), RANGE, folds=2)
    assert torch.equal(torch.rand(3), expected)


def test_shipped_recipes_fit_the_cubes_they_are_for():
    assert set(ros.RECIPES) == {"large", "small"}
    for recipe in ros.RECIPES.values():
        assert recipe.crop % 2 ** len(recipe.channels) == 0 and recipe.batch % 2 == 0
    assert ros.RECIPES["large"].average and not ros.RECIPES["small"].average


def test_the_discriminant_is_the_best_direction_of_two_normal_distributions():
    """The direction is known: the inverse covariance times the difference of the means."""
    rng = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    shift = np.array([0.5, -0.5])
    a = rng.multivariate_normal([0, 0], covariance, 4000)
    b = rng.multivariate_normal(shift, covariance, 4000)
    score = linear_discriminant(a, b, shrinkage=0.0)
    best = np.linalg.solve(covariance, shift)
    gradient = score(np.eye(2) * 0.5) - score(np.zeros((2, 2)))
    assert gradient @ best / np.linalg.norm(gradient) / np.linalg.norm(best) > 0.99
    # Half the Mahalanobis distance on each side, in standard deviations within a class.
    assert score(b).mean() == pytest.approx(np.sqrt(shift @ best) / 2, rel=0.1)
    assert score(a).mean() == pytest.approx(-score(b).mean(), abs=1e-6)


def test_the_discriminant_is_at_chance_without_a_difference_and_finds_one_feature_of_many():
    rng = np.random.default_rng(1)
    patients = [f"p{n}" for n in range(20)]
    chance, found = [], []
    for _ in range(8):
        real, other = rng.normal(size=(2, 20, 40))
        chance.append(discriminate_by_features(real, patients, other, patients, repeats=3).auc.value)
        other[:, 7] += 4.0
        found.append(discriminate_by_features(real, patients, other, patients, repeats=3).auc.value)
    assert 0.4 < np.mean(chance) < 0.6 and np.mean(found) > 0.8
    same = discriminate_by_features(real, patients, real, patients)
    assert same.auc.value == 0.5 and np.array_equal(same.real_scores, same.synthetic_scores)


def test_the_discriminant_does_not_learn_patients():
    """Features that name the patient, alike in real and synthetic, tell nothing, and both are in one fold."""
    rng = np.random.default_rng(2)
    patients = [f"p{n}" for n in range(10)]
    own = 5.0 * rng.normal(size=(10, 30))
    found = discriminate_by_features(
        own + 0.01 * rng.normal(size=own.shape), patients, own + 0.01 * rng.normal(size=own.shape), patients
    )
    assert 0.2 < found.auc.value < 0.8
