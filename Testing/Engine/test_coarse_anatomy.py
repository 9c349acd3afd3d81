"""Coarse anatomy from HU, on a phantom chest whose structures are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from tiny_training import ball

from SynthDiffusionLib.training.coarse_anatomy import chest_class_map, smooth_outline

OUTSIDE, BODY, LUNG, BONE, NODULE = 0, 1, 2, 3, 4
SHAPE = (64, 64, 48)


def tube(start: tuple[float, ...], end: tuple[float, ...], radius: float) -> np.ndarray:
    """Voxels within `radius` of a line."""
    a, b = np.array(start, float), np.array(end, float)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1) - a
    along = np.clip(grid @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return np.linalg.norm(grid - along[..., None] * (b - a), axis=-1) <= radius


@pytest.fixture(scope="module")
def chest() -> dict[str, np.ndarray]:
    """Soft tissue of 40 HU, a lung of -850 HU with vessels of 60 HU, a rib of 500 HU with a marrow of 100 HU, and a
    nodule of 30 HU that touches the chest wall."""
    lung = ball(SHAPE, (34, 34, 24), 20)
    parts = {
        "lung": lung,
        "vessels": lung
        & (
            tube((20, 34, 24), (50, 34, 24), 2.0)
            | tube((34, 18, 20), (34, 50, 30), 1.5)
            | tube((26, 26, 12), (40, 40, 36), 1.0)
        ),
        "rib": tube((9, 12, 8), (9, 52, 40), 3.0),
        "nodule": ball(SHAPE, (34, 52, 24), 4.0),
    }
    hu = np.full(SHAPE, 40.0)
    hu[parts["lung"]] = -850
    hu[parts["vessels"]] = 60
    hu[parts["rib"]] = 500
    hu[tube((9, 12, 8), (9, 52, 40), 1.0)] = 100
    hu[parts["nodule"]] = 30
    noise = np.random.default_rng(0).normal(0, 12, SHAPE)
    parts["hu"] = np.rint(hu + noise).astype(np.int16)
    parts["classes"] = chest_class_map(parts["hu"], parts["nodule"])
    return parts


def inner(mask: np.ndarray, voxels: int = 2) -> np.ndarray:
    """Away from the mask's outline, where smoothing may move it."""
    return ndimage.binary_erosion(mask, iterations=voxels)


def test_every_structure_has_its_class(chest):
    classes = chest["classes"]
    assert classes.shape == SHAPE and classes.dtype == np.uint8
    assert not (classes == OUTSIDE).any()
    np.testing.assert_array_equal(classes == NODULE, chest["nodule"])
    lung = chest["lung"] & ~chest["nodule"]
    assert (classes[inner(lung, 3)] == LUNG).all()
    assert (classes == LUNG).sum() == pytest.approx(lung.sum(), rel=0.1)
    bone = classes == BONE
    assert 2 * (bone & chest["rib"]).sum() / (bone.sum() + chest["rib"].sum()) > 0.8
    plain = ~ndimage.binary_dilation(chest["lung"] | chest["rib"] | chest["nodule"], iterations=3)
    assert plain.any() and (classes[plain] == BODY).all()


def test_vessels_are_filled_in_and_marrow_too(chest):
    vessels = chest["vessels"] & inner(chest["lung"], 4) & ~chest["nodule"]
    assert vessels.sum() > 500
    assert (chest["hu"][vessels] > -200).all(), "the phantom's vessels are not bright"
    assert (chest["classes"][vessels] == LUNG).all()
    marrow = tube((9, 20, 14.4), (9, 44, 33.6), 0.8)
    assert (chest["hu"][marrow] < 200).mean() > 0.9
    assert (chest["classes"][marrow] == BONE).all()


def test_no_threshold_of_hu_gives_the_class_map(chest):
    """The nearest that thresholds come: the best three classes by HU alone miss the vessels, and much of the outline's
    bluntness. So the map does not hand the image over."""
    hu, classes = chest["hu"].astype(int), chest["classes"]
    by_value = np.zeros_like(classes)
    for value in np.unique(hu):
        here = hu == value
        by_value[here] = np.bincount(classes[here], minlength=5).argmax()  # no map of HU alone agrees more often
    assert (by_value != classes).sum() > 1000
    vessels = chest["vessels"] & inner(chest["lung"], 4) & ~chest["nodule"]
    assert (by_value[vessels] == classes[vessels]).mean() < 0.1


def test_the_outline_is_smoother_than_the_threshold(chest):
    """The filled lung has the faces of a ball without vessels, 6 pi r^2, and the thresholded one has many more."""

    def faces(mask: np.ndarray) -> int:
        return sum(int(np.abs(np.diff(mask.astype(np.int8), axis=axis)).sum()) for axis in range(3))

    threshold = chest["hu"] < -400
    lung = np.isin(chest["classes"], (LUNG, NODULE))
    assert faces(lung) == pytest.approx(6 * np.pi * 20**2, rel=0.04)
    assert faces(threshold) > 1.15 * faces(lung)


def test_a_nodule_at_the_wall_is_within_the_filled_lung(chest):
    """The lung with its nodules is one piece; the part of the nodule inside the lung leaves no dent beside it."""
    filled = np.isin(chest["classes"], (LUNG, NODULE))
    assert ndimage.label(filled)[1] == 1
    assert (chest["classes"][chest["nodule"]] == NODULE).all()


def test_specks_of_bone_are_left_out(chest):
    hu, nodule = chest["hu"].copy(), np.zeros(SHAPE, bool)
    speck = ball(SHAPE, (57, 57, 24), 2.0)  # 33 mm³: a calcification, not a bone
    hu[speck] = 600
    assert not (chest_class_map(hu, nodule)[speck] == BONE).any()
    hu[ball(SHAPE, (57, 57, 24), 5.0)] = 600
    assert (chest_class_map(hu, nodule)[speck] == BONE).all()


def test_a_calcified_nodule_is_no_bone(chest):
    hu = chest["hu"].copy()
    hu[chest["nodule"]] = 700
    classes = chest_class_map(hu, chest["nodule"])
    np.testing.assert_array_equal(classes == NODULE, chest["nodule"])
    near = ndimage.binary_dilation(chest["nodule"], iterations=3) & ~chest["nodule"]
    assert (classes[near] == BONE).mean() < 0.05


def test_soft_tissue_alone_and_lung_alone():
    nothing = np.zeros((20, 20, 20), bool)
    assert (chest_class_map(np.full((20, 20, 20), 40, np.int16), nothing) == BODY).all()
    texture = np.random.default_rng(0).normal(-850, 60, (20, 20, 20)).astype(np.int16)
    assert (chest_class_map(texture, nothing) == LUNG).all()


def test_contrast_filled_vessels_are_no_bone():
    """A vessel of 14 mm at 300 HU beside a vertebra of the same mean density, which is spongy and has a hard shell."""
    rng = np.random.default_rng(0)
    hu = rng.normal(40, 15, (48, 48, 48))
    grid = np.mgrid[:48, :48, :48]
    vessel = (grid[0] - 12) ** 2 + (grid[1] - 24) ** 2 <= 7**2
    vertebra = (grid[0] - 34) ** 2 + (grid[1] - 24) ** 2 <= 10**2
    hu[vessel] = rng.normal(300, 15, vessel.sum())
    sponge = 300 + 120 * ndimage.gaussian_filter(rng.standard_normal(hu.shape), 1.0) / 0.2
    hu[vertebra] = sponge[vertebra]
    hu[vertebra & ~((grid[0] - 34) ** 2 + (grid[1] - 24) ** 2 <= 8**2)] = 700
    classes = chest_class_map(np.rint(hu).astype(np.int16), np.zeros(hu.shape, bool))
    assert (classes[vessel] == BONE).mean() < 0.02
    assert (classes[vertebra] == BONE).mean() > 0.95


def air_beside_the_body(thickness: int) -> np.ndarray:
    """Class map of a slab of soft tissue with air of -1000 HU beside it."""
    hu = np.full((thickness + 12, 20, 20), 40.0)
    hu[:thickness] = -1000
    hu += np.random.default_rng(0).normal(0, 10, hu.shape)
    return chest_class_map(np.rint(hu).astype(np.int16), np.zeros(hu.shape, bool))


def test_air_outside_the_body_is_no_lung():
    classes = air_beside_the_body(40)
    assert (classes[:38] == OUTSIDE).all() and (classes[42:] == BODY).all()


def test_thin_air_outside_the_body_is_no_lung():
    """Its blurred border, most of it, does not count."""
    assert (air_beside_the_body(10)[:8] == OUTSIDE).all()


def test_smooth_outline_has_its_closed_form():
    """A half space keeps its border; a bias moves it by sigma times the normal distribution's quantile."""
    half = np.zeros((40, 4, 4), bool)
    half[20:] = True
    np.testing.assert_array_equal(smooth_outline(half, 3.0), half)
    # Phi(d / 3) + 0.2 > 0.5  <=>  d > 3 * Phi^-1(0.3) = -1.573: two more planes, whose centers lie at -0.5 and -1.5.
    grown = smooth_outline(half, 3.0, 0.2)
    assert grown[:, 0, 0].sum() == half[:, 0, 0].sum() + 2
    np.testing.assert_array_equal(smooth_outline(half, 0.0, 0.4), half)


def test_real_cubes_have_lung_and_their_nodule(shared_data):
    """Ten LIDC cubes: the nodule is kept, the lung is there, and vessels, bright voxels deep in the lung, are lung."""
    from SynthDiffusionLib.volumes import read_volume

    folder = shared_data / "lidc_nodules_51"
    if not folder.is_dir():
        pytest.skip("no lidc_nodules_51")
    bright = filled = 0
    for path in sorted((folder / "images").glob("*.nii.gz"))[:10]:
        hu = read_volume(path, unit="HU").array
        nodule = read_volume(folder / "labels" / path.name, unit="label").array > 0
        classes = chest_class_map(hu, nodule)
        np.testing.assert_array_equal(classes == NODULE, nodule)
        assert 0.1 < (classes == LUNG).mean() < 1.0
        by_threshold = hu < -400
        surrounded = ndimage.uniform_filter(by_threshold.astype(np.float32), 9) > 0.85
        vessels = surrounded & (hu > -100) & ~nodule
        bright += int(vessels.sum())
        filled += int((classes[vessels] == LUNG).sum())
    assert bright > 200 and filled / bright > 0.98
