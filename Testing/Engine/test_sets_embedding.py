"""The embedding: one result for a seed, also after an interruption; and how volumes are brought to one form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets import embedding as e

SMALL = e.EmbeddingSettings(steps=6, batch=4, channels=(8, 8), features=8)


@pytest.fixture(scope="module")
def volumes() -> np.ndarray:
    return np.random.default_rng(0).random((6, 16, 14, 12), dtype=np.float32)


def weights(embedding: e.Embedding) -> np.ndarray:
    return np.concatenate([v.double().numpy().ravel() for v in embedding.network.state_dict().values()])


def test_the_loss_is_that_of_the_paper():
    """Chen et al. 2020, equation 1, of B pairs that agree and are orthogonal to all others: -log(e^(1/t) / (e^(1/t) +
    2B - 2))."""
    from monai.losses import ContrastiveLoss

    pairs, temperature = 5, 0.1
    points = torch.eye(8)[:pairs]
    expected = -math.log(math.exp(1 / temperature) / (math.exp(1 / temperature) + 2 * pairs - 2))
    assert float(ContrastiveLoss(temperature)(points, points)) == pytest.approx(expected, rel=1e-4)


def test_a_seed_gives_one_result_also_after_an_interruption(volumes, tmp_path, monkeypatch):
    monkeypatch.setattr(e, "CHECKPOINT_STEPS", 2)
    whole = e.train_embedding(volumes, "key", SMALL, tmp_path / "a")

    def stop(event):
        if event["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        e.train_embedding(volumes, "key", SMALL, tmp_path / "b", on_event=stop)
    steps = []
    again = e.train_embedding(volumes, "key", SMALL, tmp_path / "b", on_event=lambda event: steps.append(event["step"]))
    assert steps == [4, 5]
    np.testing.assert_array_equal(weights(whole), weights(again))
    done = e.train_embedding(volumes, "key", SMALL, tmp_path / "b", on_event=lambda event: pytest.fail("trained again"))
    np.testing.assert_array_equal(weights(whole), weights(done))
    assert len(list((tmp_path / "b").iterdir())) == 1


def test_other_volumes_settings_or_seeds_have_other_checkpoints(volumes, tmp_path):
    one = e.EmbeddingSettings(steps=1, batch=4, channels=(8,), features=8)
    other = e.EmbeddingSettings(steps=1, batch=4, channels=(8,), features=8, seed=1)
    for key, settings in (("a", one), ("b", one), ("a", other)):
        e.train_embedding(volumes, key, settings, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_checkpoint_is_named(volumes, tmp_path):
    e.train_embedding(volumes, "key", SMALL, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"embedding-.*\.pt' is damaged"):
        e.train_embedding(volumes, "key", SMALL, tmp_path)


def test_training_leaves_the_random_state_of_others_alone(volumes, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    e.train_embedding(volumes, "key", SMALL, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_changes_keep_what_a_volume_shows_and_depend_on_the_seed(volumes):
    given = torch.from_numpy(volumes)[:, None]
    one, again, other = (e.changed(given, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    cut = e.margins((16, 14, 12))
    assert one.shape == (6, 1, *(n - 2 * m for n, m in zip((16, 14, 12), cut)))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.isfinite(one).all()


def test_without_random_changes_the_middle_is_left(monkeypatch):
    """The sampling grid, with its margins, is at the voxels: a plane wave comes out as it went in."""
    shape = (20, 18, 16)
    i, j, k = np.indices(shape)
    wave = torch.from_numpy((0.5 + 0.2 * np.sin(0.3 * i + 0.2 * j + 0.25 * k)).astype(np.float32))[None, None]
    monkeypatch.setattr(torch, "rand", lambda *size, generator=None: torch.full(size, 0.5))
    monkeypatch.setattr(torch, "randn", lambda *size, generator=None: torch.zeros(*size))
    monkeypatch.setattr(e, "_blurred", lambda v: v)
    found = e.changed(wave, torch.Generator())[0, 0].numpy()
    cut = tuple(slice(m, n - m) for m, n in zip(e.margins(shape), shape))
    np.testing.assert_allclose(found, wave[0, 0].numpy()[cut], atol=1e-5)


def test_crops_are_at_all_shifts_and_in_all_mirror_images(volumes):
    cut = e.margins(volumes.shape[1:])
    searched, looked = e.crops(volumes, searched=True), e.crops(volumes, searched=False)
    assert searched.shape[1] == 27 and looked.shape[1] == 64
    middle = tuple(slice(m, n - m) for m, n in zip(cut, volumes.shape[1:]))
    np.testing.assert_array_equal(searched[:, 13], volumes[(slice(None), *middle)])
    np.testing.assert_array_equal(looked[:, 0], searched[:, 0])
    np.testing.assert_array_equal(looked[:, 7], searched[:, 26])
    np.testing.assert_array_equal(looked[:, 63], np.flip(searched[:, 26], (1, 2, 3)))


def test_a_mirrored_volume_is_at_no_distance(volumes, tmp_path):
    embedding = e.train_embedding(volumes, "key", SMALL, tmp_path)
    others = embedding.points(volumes, searched=True)
    flipped = embedding.points(np.ascontiguousarray(np.flip(volumes, (1, 3))), searched=False)
    found = e.cosine_distances(flipped, others)
    np.testing.assert_allclose(found.diagonal(), 0.0, atol=1e-6)
    assert (found.argmin(1) == np.arange(6)).all() and found.max() <= 2.0


def test_changes_of_a_volume_count_alike_in_all_directions(volumes, tmp_path, monkeypatch):
    """Outputs with a known covariance of changes: scaled, it is the unit matrix, but for the shrinkage."""
    rng = np.random.default_rng(8)
    mixing, centers = np.diag([5.0, 1.0, 0.2]), 10 * rng.standard_normal((30, 3))
    monkeypatch.setattr(e, "_outputs", lambda network, v: centers + rng.standard_normal((30, 3)) @ mixing)
    monkeypatch.setattr(e, "VIEWS", 200)
    monkeypatch.setattr(e, "SHRINKAGE", 1e-6)
    many = np.zeros((30, 12, 12, 12), np.float32)
    scaled = e._scaled(torch.nn.Identity(), many, 0)
    found = scaled.scale.T @ mixing.T @ mixing @ scaled.scale
    np.testing.assert_allclose(found, np.eye(3), atol=0.08)
    np.testing.assert_allclose(scaled.mean, centers.mean(0), atol=0.2)


def test_the_distance_is_that_of_the_nearest_crops():
    rng = np.random.default_rng(3)
    points, others = rng.standard_normal((4, 5, 3)), rng.standard_normal((6, 2, 3))
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    others /= np.linalg.norm(others, axis=-1, keepdims=True)
    found = e.cosine_distances(points, others)
    for n in range(4):
        for m in range(6):
            assert found[n, m] == pytest.approx(1 - max(float(a @ b) for a in points[n] for b in others[m]))


def test_all_volumes_are_cut_to_the_box_that_they_have_in_common():
    assert e.common_box([(20, 30, 16), (24, 18, 40)]) == (20, 18, 16)
    with pytest.raises(BadInput, match="20 x 18 x 8 voxels in common"):
        e.common_box([(20, 30, 8), (24, 18, 40)])
    array = np.arange(7 * 6 * 5).reshape(7, 6, 5)
    np.testing.assert_array_equal(e.central(array, (3, 6, 4)), array[2:5, :, 0:4])


@pytest.mark.parametrize(("side", "factor"), [(32, 1), (33, 2), (64, 2), (65, 3), (512, 16)])
def test_large_boxes_are_thinned_by_whole_factors(side, factor):
    assert e.thinning((side, 12, 20), 32) == factor


def test_thinning_takes_means_and_range_becomes_zero_to_one():
    image = np.random.default_rng(1).uniform(-1000, 400, (40, 13, 12)).astype(np.float32)
    (found,) = e.prepared([image], (40, 13, 12), (-1000.0, 400.0), 32)
    assert found.shape == (20, 6, 6) and 0 <= found.min() and found.max() <= 1
    assert found[0, 0, 0] == pytest.approx((image[:2, :2, :2].mean() + 1000) / 1400, abs=1e-6)
