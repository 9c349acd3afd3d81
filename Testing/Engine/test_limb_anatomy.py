"""Coarse anatomy of limbs from HU, on a phantom whose structures are known, and `prepare` for them at any spacing."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from tiny_training import prepared_set, write_config

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.matching import class_by_name
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.training.dataset import load_split, read_description, spacing_of
from SynthDiffusionLib.training.limb_anatomy import body_mask, limb_class_map
from SynthDiffusionLib.training.prepare import ANATOMIES, anatomy_of, prepare, split_by_patient
from SynthDiffusionLib.volumes import Volume, write_volume

OUTSIDE, BODY, FAT, MUSCLE, BONE, TUMOUR = range(6)
SPACING = (2.0, 2.0, 3.3)
SHAPE = (60, 66, 24)
AXIS = (60.0, 58.0)  # of the limb, mm
SKIN_RADIUS, FAT_RADIUS, MUSCLE_RADIUS, BONE_RADIUS, MARROW_RADIUS = 46.0, 44.0, 32.0, 10.0, 6.0


def phantom_limb(seed: int = 0) -> dict[str, np.ndarray]:
    """A limb along the third axis, on a table, as HU and masks by name.

    Skin, subcutaneous fat with a vein, muscle with a plane of fat, a shaft with fatty marrow, and a tumour in the
    muscle. The table is a plate under the limb, one voxel from the skin.
    """
    x, y, z = np.meshgrid(*[np.arange(n) * mm for n, mm in zip(SHAPE, SPACING, strict=True)], indexing="ij")
    radius = np.hypot(x - AXIS[0], y - AXIS[1])
    parts = {
        "skin": radius <= SKIN_RADIUS,
        "inside": radius <= FAT_RADIUS,
        "muscle": radius <= MUSCLE_RADIUS,
        "plane": (radius <= MUSCLE_RADIUS) & (np.abs(x - AXIS[0]) <= 2.5),
        "vein": np.hypot(x - AXIS[0] - 38, y - AXIS[1]) <= 2.5,
        "bone": radius <= BONE_RADIUS,
        "marrow": radius <= MARROW_RADIUS,
        "tumour": (x - AXIS[0] - 20) ** 2 + (y - AXIS[1]) ** 2 + (z - 40) ** 2 <= 9.0**2,
        "table": (np.abs(y - 110) <= 2.5),
    }
    hu = np.full(SHAPE, -1000.0)
    for name, value in {"table": 200, "skin": 20, "inside": -105, "vein": 40, "muscle": 55, "plane": -95, "bone": 900,
                        "marrow": -100, "tumour": 35}.items():  # fmt: skip
        hu[parts[name]] = value
    parts["hu"] = np.rint(hu + np.random.default_rng(seed).normal(0, 12, SHAPE)).clip(-1000, 3071).astype(np.int16)
    return parts


@pytest.fixture(scope="module")
def limb() -> dict[str, np.ndarray]:
    parts = phantom_limb()
    return {**parts, "classes": limb_class_map(parts["hu"], parts["tumour"], SPACING)}


def within(mask: np.ndarray, mm: float) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask, sampling=SPACING) <= mm


def test_every_compartment_has_its_class(limb):
    """Outlines are blunt, so a voxel may be off by up to 5 mm; away from them, every one is right."""
    classes = limb["classes"]
    assert classes.shape == SHAPE and classes.dtype == np.uint8
    np.testing.assert_array_equal(classes == TUMOUR, limb["tumour"])
    expected = np.select(
        [limb["tumour"], limb["bone"], limb["muscle"], limb["skin"]], [TUMOUR, BONE, MUSCLE, FAT], OUTSIDE
    )
    edge = np.zeros(SHAPE, bool)
    for value in (BONE, MUSCLE, FAT, TUMOUR, OUTSIDE):
        edge |= within(expected == value, 5.0) & (expected != value)
    assert (~edge).mean() > 0.25
    for value in (OUTSIDE, FAT, MUSCLE):
        sure = (expected == value) & ~edge
        assert sure.sum() > 500
        np.testing.assert_array_equal(classes[sure], value)


def test_volumes_are_those_of_the_phantom(limb):
    """In mm, not in voxels: circles of the phantom's radii, to 1.5 mm."""
    classes = limb["classes"]
    for mask, radius in (
        (classes == BONE, BONE_RADIUS),
        (classes >= MUSCLE, MUSCLE_RADIUS),
        (classes > OUTSIDE, SKIN_RADIUS),
    ):
        area = mask.sum() * SPACING[0] * SPACING[1] / SHAPE[2]
        assert np.sqrt(area / np.pi) == pytest.approx(radius, abs=1.5)


def test_what_nobody_would_draw_is_not_drawn(limb):
    """Marrow is bone, the plane of fat is muscle, the vein and the skin are fat, and there is no table."""
    classes, hu = limb["classes"], limb["hu"]
    marrow = limb["marrow"] & ~limb["tumour"]
    assert np.median(hu[marrow]) < 0 and (classes[marrow] == BONE).all()
    plane = limb["plane"] & ~within(limb["bone"] | limb["tumour"], 4.0) & ~within(~limb["muscle"], 5.0)
    assert plane.sum() > 300 and np.median(hu[plane]) < -50 and (classes[plane] == MUSCLE).all()
    assert (classes[limb["vein"]] == FAT).all()
    skin = limb["skin"] & ~limb["inside"]
    assert set(np.unique(classes[skin])) <= {OUTSIDE, FAT}
    assert (classes[limb["table"] & ~within(limb["skin"], 4.0)] == OUTSIDE).all()


def test_no_threshold_of_hu_gives_the_class_map(limb):
    """Not even the best map from HU alone: it misses what the compartments hold inside."""
    hu, classes = limb["hu"].astype(int) + 1000, limb["classes"]
    votes = np.zeros((hu.max() + 1, 6), int)
    np.add.at(votes, (hu, classes), 1)
    by_value = votes.argmax(1)[hu]
    plane = limb["plane"] & (classes == MUSCLE)
    assert (by_value[plane] == MUSCLE).mean() < 0.3
    assert (by_value[limb["marrow"]] == BONE).mean() < 0.6


def test_thick_slices_change_the_compartments_little(limb):
    """The same limb with every second slice: lengths are in mm, so the slices that both have agree."""
    half = limb_class_map(limb["hu"][:, :, ::2], limb["tumour"][:, :, ::2], (*SPACING[:2], 2 * SPACING[2]))
    assert (half == limb["classes"][:, :, ::2]).mean() > 0.98


def test_a_volume_without_air_or_bone_is_body_throughout():
    hu = np.full((20, 20, 10), 50, np.int16)
    tumour = np.zeros(hu.shape, bool)
    tumour[8:12, 8:12, 4:7] = True
    assert body_mask(hu, SPACING).all()
    classes = limb_class_map(hu, tumour, SPACING)
    assert set(np.unique(classes)) == {MUSCLE, TUMOUR}


def test_real_limbs_are_not_handed_over_by_their_class_maps(shared_data):
    """The class means explain well under four fifths of each image within the body (median R²), and less than those
    of five HU classes do."""
    folder = shared_data / "soft_tissue_sarcoma"
    if not folder.is_dir():
        pytest.skip("no soft_tissue_sarcoma")
    names = sorted(p.name for p in folder.glob("STS_*"))
    training = split_by_patient(names, (25, 5, 10), 2026, r"(STS_\d+)")["train"]
    explained, by_threshold = [], []
    for name in training[::5]:
        image = nibabel.load(folder / name / "CT_image.nii.gz")
        hu = np.asarray(image.dataobj).astype(float)
        tumour = np.asarray(nibabel.load(folder / name / "CT_mask.nii.gz").dataobj) > 0
        classes = limb_class_map(hu, tumour, image.header.get_zooms()[:3])
        np.testing.assert_array_equal(classes == TUMOUR, tumour)
        for value in (FAT, MUSCLE, BONE):
            assert (classes == value).mean() > 0.005, (name, value)
        body = classes > 0
        values = np.clip(hu[body], -1000, 1000)
        for labels, found in ((classes, explained), (np.digitize(hu, (-500, -150, -30, 150)), by_threshold)):
            labels = labels[body]
            means = np.bincount(labels, values) / np.maximum(np.bincount(labels), 1)
            found.append(1 - ((values - means[labels]) ** 2).sum() / ((values - values.mean()) ** 2).sum())
    assert 0.4 < np.median(explained) < 0.75
    assert all(a < b - 0.05 for a, b in zip(explained, by_threshold, strict=True))


# --- the label scheme ---------------------------------------------------------------------------------------------


def test_the_scheme_is_what_the_anatomy_makes():
    for name, anatomy in ANATOMIES.items():
        assert anatomy_of(load_scheme(name)) is anatomy
        assert anatomy.target in anatomy.classes
    scheme = load_scheme("limb-tumour-ct")
    assert scheme.containing("body") == (1, 2, 3, 4, 5)
    assert scheme.containing("muscle") == (3, 5)
    assert scheme.containing("fat") == (2,) and scheme.containing("bone") == (4,)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("femur_left", "bone"),
        ("hip_right", "bone"),
        ("tibia", "bone"),
        ("subcutaneous_fat", "fat"),
        ("torso_fat", "fat"),
        ("skeletal_muscle", "muscle"),
        ("quadriceps_femoris_left", "muscle"),
        ("gluteus_maximus_right", "muscle"),
        ("body_extremities", "body"),
        ("Gross tumour volume", "tumour"),
        ("GTV 1", "tumour"),
        ("GTV_Mass", "tumour"),
        ("Neoplasm", "tumour"),
        ("liver", None),
    ],
)
def test_segments_are_recognised(name, expected):
    found = class_by_name(name, load_scheme("limb-tumour-ct"))
    assert (found.name if found else None) == expected


# --- prepare ------------------------------------------------------------------------------------------------------


def write_limbs(folder: Path, spacings: dict[str, tuple[float, float, float]], codes: str = "LPS") -> tuple[Path, Path]:
    """`images/NAME.nii.gz` and `labels/NAME.nii.gz` with the axes of `codes`; spacings are along L, P and S."""
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("LPS"), nibabel.orientations.axcodes2ornt(tuple(codes))
    )
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for seed, (name, spacing) in enumerate(spacings.items()):
        parts = phantom_limb(seed)
        affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
        affine = affine @ nibabel.orientations.inv_ornt_aff(turn, SHAPE)
        for kind, array, unit in (("images", parts["hu"], "HU"), ("labels", parts["tumour"].astype(np.uint8), "label")):
            turned = np.ascontiguousarray(nibabel.orientations.apply_orientation(array, turn))
            write_volume(Volume(turned, affine, unit), folder / kind / f"{name}.nii.gz")
    return folder / "images", folder / "labels"


def prepared(folder: Path, images: Path, labels: Path, *arguments: str) -> dict:
    assert main(["prepare", str(images), str(labels), "--out", str(folder), "--scheme", "limb-tumour-ct",
                 "--split", "1,0,1", *arguments]) == 0  # fmt: skip
    return read_description(folder)


@pytest.mark.parametrize("codes", ["LPS", "SLA"])
def test_keep_keeps_every_voxel_of_anisotropic_cases(codes, tmp_path):
    """Also where the source's axes are in another order: the three spacings are those along L, P and S."""
    images, labels = write_limbs(tmp_path, {"p1": (2.0, 2.1, 3.3), "p2": (2.0, 2.1, 3.31)}, codes)
    description = prepared(tmp_path / "out", images, labels, "--spacing", "keep")
    np.testing.assert_allclose(description["spacing_mm"], (2.0, 2.1, 3.3), atol=1e-5)
    assert description["classes"] == {"body": 1, "fat": 2, "muscle": 3, "bone": 4, "tumour": 5}
    assert description["target"] == "tumour"
    for part in ("train", "test"):
        (case,) = load_split(tmp_path / "out", part)
        parts = phantom_limb(int(case.name[1]) - 1)
        np.testing.assert_array_equal(case.image.array, parts["hu"])
        np.testing.assert_array_equal(case.classes.array == TUMOUR, parts["tumour"])
        assert (case.classes.array[parts["marrow"] & ~parts["tumour"]] == BONE).all()


def test_one_spacing_or_three_are_asked_for(tmp_path):
    images, labels = write_limbs(tmp_path, {"p1": SPACING, "p2": (2.2, 2.2, 3.0)})
    description = prepared(tmp_path / "three", images, labels, "--spacing", "3x2.5x4")
    assert description["spacing_mm"] == [3.0, 2.5, 4.0] and spacing_of(description) == (3.0, 2.5, 4.0)
    for part in ("train", "test"):
        np.testing.assert_allclose(load_split(tmp_path / "three", part)[0].image.spacing, (3.0, 2.5, 4.0), atol=1e-5)
    for text in ("3", "3x3x3"):
        description = prepared(tmp_path / text, images, labels, "--spacing", text)
        assert description["spacing_mm"] == 3.0 and spacing_of(description) == (3.0, 3.0, 3.0)


def test_isotropic_cases_are_kept_as_one_number(tmp_path):
    images, labels = write_limbs(tmp_path, {"p1": (2.0, 2.0, 2.0), "p2": (2.0, 2.0, 2.0)})
    assert prepared(tmp_path / "out", images, labels, "--spacing", "keep")["spacing_mm"] == 2.0


def test_spacings_that_differ_cannot_be_kept(tmp_path, capsys):
    images, labels = write_limbs(tmp_path, {"p1": SPACING, "p2": (2.0, 2.0, 3.4)})
    arguments = ["prepare", str(images), str(labels), "--out", str(tmp_path / "out"), "--scheme", "limb-tumour-ct"]
    assert main([*arguments, "--spacing", "keep", "--split", "1,0,1"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be kept" in error and "2 x 2 x 3.3 mm in 'p1.nii.gz'" in error
    assert "2 x 2 x 3.4 mm in 'p2.nii.gz'" in error
    for text in ("kept", "1x2", "1x2x3x4", "0", "2x2x0", "nan", "-1", "1e9", "x", ""):
        assert main([*arguments, "--spacing", text]) == 2
        assert "is no spacing" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_tumours_that_vanish_are_refused(tmp_path):
    images, labels = write_limbs(tmp_path, {"p1": SPACING})
    with pytest.raises(BadInput, match="The tumour of 'p1' vanishes at a spacing of 2 x 90 x 90 mm"):
        prepare(images, labels, tmp_path / "out", load_scheme("limb-tumour-ct"), spacing_mm=(2, 90, 90))


@pytest.mark.parametrize("spacing", [[1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, "1"], [1.0, 1.0, True], [], "1", True, 0])
def test_damaged_spacings_are_refused(spacing, tmp_path):
    description = {"format": "synthdiffusion-dataset-1", "unit": "HU", "spacing_mm": [1.0, 1.0, 2.0], "classes": {},
                   "split_seed": 0, "split": {}, "cases": {}}  # fmt: skip
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(description), encoding="utf-8")
    assert read_description(tmp_path)["spacing_mm"] == [1.0, 1.0, 2.0]
    path.write_text(json.dumps({**description, "spacing_mm": spacing}), encoding="utf-8")
    with pytest.raises(BadInput, match="spacing_mm"):
        read_description(tmp_path)


def test_packages_state_the_three_spacings(tmp_path):
    from SynthDiffusionLib.training.config import load_config
    from SynthDiffusionLib.training.pack import package_content

    data = prepared_set(tmp_path)
    config = load_config(write_config(tmp_path, data))
    description = read_description(data)
    for stored, stated in ((1.0, [1.0, 1.0, 1.0]), ([2.0, 2.5, 3.0], [2.0, 2.5, 3.0])):
        content = package_content(
            config,
            load_scheme("lung-nodule-ct"),
            {**description, "spacing_mm": stored},
            steps=1,
            segmenter_steps=None,
        )
        assert content["grid"]["spacing_mm"] == stated
