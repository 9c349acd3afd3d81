"""Folders of volumes as sets: what is read, what is left out by name, and what is refused."""

from __future__ import annotations

import gzip
import os
import struct
import sys

import nibabel
import numpy as np
import pytest
from tiny_sets import SHAPE, affine, ct_array, label_array, mr_array, write_set

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets import case_file, image_set
from SynthDiffusionLib.evaluation.sets.image_set import (
    Frame,
    base_name,
    check_comparable,
    frame_of,
    guess_modality,
    only_patients,
    read_set,
)
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, write_segmentation, write_volume

CT = Frame("CT", None, (-1000.0, 1000.0))
MR = Frame("MR", None, (0.0, 1000.0))


@pytest.fixture
def real(tmp_path):
    return write_set(tmp_path / "real")


def left_out(folder, frame=CT, least=9, **options) -> list[str]:
    """Reasons of a set of ten good volumes and others; each is told as a warning too, on one line, without a folder."""
    warnings: list[str] = []

    def note(event):
        if event["event"] == "warning":
            warnings.append(event["message"])

    found = read_set("real", folder, frame, least=least, on_event=note, **options)
    reasons = [f"{s['file']}: {s['reason']}" for s in found.skipped]
    assert warnings == [f"{s['file']} is left out: {s['reason']}" for s in found.skipped]
    assert not any(str(folder.parent) in text or "\n" in text for text in reasons)
    return reasons


# What is read


def test_a_set_is_in_one_frame(real):
    events: list[dict] = []
    found = read_set("real", real, CT, on_event=events.append)
    assert [c.name for c in found.cases] == [f"p{i:02d}" for i in range(10)] == found.patients
    assert all(c.image.dtype == np.float32 and c.image.flags.c_contiguous and c.labels is None for c in found.cases)
    np.testing.assert_array_equal(found.cases[3].image, np.clip(ct_array(3), -1000, 1000))
    assert [(e["step"], e["total"]) for e in events] == [(i, 10) for i in range(10)]
    summary = found.summary()
    assert (summary["volumes"], summary["patients"], summary["skipped"], summary["same_files"]) == (10, 10, [], 0)
    assert summary["spacing_mm"] == [1, 1, 1]


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha", "mhd"])
def test_every_format_gives_the_same_voxels(tmp_path, suffix):
    folder = tmp_path / "x"
    folder.mkdir()
    for seed in range(3):
        write_volume(Volume(ct_array(seed), affine((1, 2, 3), (7.5, -3, 2))), folder / f"a b ü{seed}.{suffix}")
    found = read_set("real", folder, CT, least=3)
    assert found.patients == ["a b ü0", "a b ü1", "a b ü2"]
    np.testing.assert_array_equal(found.cases[2].image, np.clip(ct_array(2), -1000, 1000))
    np.testing.assert_allclose(found.cases[0].spacing, (1, 2, 3), rtol=1e-6)


def test_any_orientation_and_an_oblique_axis_give_the_same_voxels(tmp_path):
    """nibabel's own reorientation is the oracle."""
    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]]
    image = nibabel.Nifti1Image(ct_array(0), turn @ np.diag([1.5, 1.5, 1.5, 1]))
    (tmp_path / "set").mkdir()
    for codes in ("RAS", "LPS", "SAR", "PIL"):
        change = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
        )
        nibabel.save(image.as_reoriented(change), tmp_path / "set" / f"{codes}.nii.gz")
    found = read_set("real", tmp_path / "set", CT, least=4)
    assert len({c.image.tobytes() for c in found.cases}) == 1
    for case in found.cases:
        assert nibabel.aff2axcodes(case.affine) == ("L", "P", "S")
        np.testing.assert_allclose(case.affine, found.cases[0].affine, atol=1e-4)


def test_resampling_keeps_image_and_labels_on_one_grid(tmp_path):
    folder = write_set(tmp_path / "i", 3, labels=tmp_path / "l")
    found = read_set("real", folder, Frame("CT", (0.5, 0.5, 0.5), (-1000, 1000)), labels=tmp_path / "l", least=3)
    case = found.cases[0]
    assert case.image.shape == case.labels.shape == (16, 18, 20) and case.labels.dtype == np.uint16
    np.testing.assert_allclose(case.spacing, 0.5)
    assert set(np.unique(case.labels)) <= {0, 1, 2}


def test_mr_of_any_scale_comes_to_one(tmp_path):
    folder = tmp_path / "mr"
    folder.mkdir()
    for seed, scale in enumerate((1, 10, 1000)):
        array = mr_array(5).astype(np.float32) * scale
        write_volume(Volume(array, affine(), "arbitrary"), folder / f"{seed}.nii.gz")
    found = read_set("real", folder, MR, least=3)
    for case in found.cases[1:]:
        assert np.abs(case.image - found.cases[0].image).max() <= 1
    as_it_is = read_set("real", folder, Frame("MR", None, (0, 1e9), normalise=False), least=3)
    assert as_it_is.cases[2].image.max() > 100 * as_it_is.cases[0].image.max()


# Whose a case is


def test_names_that_generate_writes():
    assert base_name("a_b_lung-nodule-ct_seed7") == "a_b"
    assert base_name("a_limb-tumour-mr_seed12_inpainted") == "a"
    assert base_name("a_b") == "a_b" and base_name("_seed7") == "_seed7"


def test_synthetic_volumes_belong_to_the_patient_of_their_mask(tmp_path):
    folder = write_set(tmp_path / "s", 4, names="case7_2_med-x_seed{}", labels=None)
    assert read_set("synthetic", folder, CT, least=4).patients == ["case7_2"] * 4
    assert read_set("synthetic", folder, CT, least=4, patient_pattern=r"(case\d+)_\d$").patients == ["case7"] * 4


def test_outputs_of_a_joint_model_are_images_with_their_own_label_maps(tmp_path):
    """Beside each volume lies its segmentation under the same name, and regions of inpainting under another."""
    folder = write_set(tmp_path / "out", 3, names="t{}_m_seed1")
    for i in range(3):
        segmentation = Segmentation((label_array(),), affine(), (Segment("tumour", 1), Segment("fat", 2)))
        write_segmentation(segmentation, folder / f"t{i}_m_seed1.seg.nrrd")
    write_segmentation(segmentation, folder / "t0_m_seed1_region.seg.nrrd")
    found = read_set("synthetic", folder, CT, labels=folder, least=3)
    assert found.patients == ["t0", "t1", "t2"] and found.classes == {1: "tumour", 2: "fat"}
    assert read_set("synthetic", folder, CT, least=3).skipped == ()


def test_the_table_of_patients(real, tmp_path):
    table = tmp_path / "patients.csv"
    rows = [f"p{i:02d}.nii.gz;P{i // 2}" for i in range(10)]
    table.write_text("\ufeffCase; Patient \n" + "\n".join(rows), encoding="utf-8")  # as a spreadsheet in Europe writes
    assert read_set("real", real, CT, patients=table).patients == [f"P{i // 2}" for i in range(10)]
    table.write_text("case,patient\np00,A\n", encoding="utf-8")
    with pytest.raises(BadInput, match="has no case 'p01'"):
        read_set("real", real, CT, patients=table)
    table.write_text("case,patient\np00,A\np00,B\n", encoding="utf-8")
    with pytest.raises(BadInput, match="'p00' two patients, 'A' and 'B'"):
        read_set("real", real, CT, patients=table)


@pytest.mark.parametrize(
    "content", [b"", b"name,who\na,b\n", b"\xff\xfe\x00", b"case,patient\n\x00,\x00", b"case\nx\n"]
)
def test_no_table_of_patients(real, tmp_path, content):
    table = tmp_path / "patients.csv"
    table.write_bytes(content)
    with pytest.raises(BadInput, match="table of patients"):
        read_set("real", real, CT, patients=table)


def test_a_pattern_without_a_group_is_refused(real):
    for pattern in (r"p\d+", "(", "x(.*)"):
        with pytest.raises(BadInput, match="pattern") as caught:
            read_set("real", real, CT, patient_pattern=pattern)
        assert "first group is the patient" in caught.value.one_line()


def test_part_of_a_set(real):
    found = only_patients(read_set("real", real, CT), ["p03", "p07", "p99"])
    assert found.patients == ["p03", "p07"]


# Files that are left out, each by name and with its reason


def damage(folder, name: str, how) -> None:
    path = folder / name
    path.write_bytes(how(path.read_bytes()))


def huge_header(data: bytes) -> bytes:
    raw = bytearray(gzip.decompress(data))
    struct.pack_into("<8h", raw, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    return gzip.compress(bytes(raw))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(b ^ 0xFF for b in data[middle : middle + 20]) + data[middle + 20 :]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (flipped, ""),
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: b"", "empty"),
        (lambda data: b"not an image" * 50, "not a NIfTI"),
        (huge_header, "30000 x 30000 x 30000"),
        (lambda data: gzip.compress(gzip.decompress(data)[:900]), "ends after"),
        (lambda data: gzip.decompress(data)[:-100], "ends after 93%"),
    ],
    ids=["flipped", "half", "empty", "text", "huge", "truncated", "unpacked"],
)
def test_a_damaged_file_in_the_middle(real, how, reason):
    damage(real, "p05.nii.gz", how)
    (text,) = left_out(real)
    assert text.startswith("p05.nii.gz: ") and reason in text and text.count("p05") == 1


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (
            np.where(np.arange(720).reshape(SHAPE) == 5, np.nan, ct_array(1)).astype(np.float32),
            "1 voxels are not finite",
        ),
        (np.stack([ct_array(1)] * 3, -1), "4-D"),
        (ct_array(1)[:, :, :1], "single slice"),
        (ct_array(1).astype(np.complex64), "not a scalar image"),
    ],
    ids=["nan", "4D", "slice", "complex"],
)
def test_a_file_that_is_no_volume(real, array, reason):
    nibabel.save(nibabel.Nifti1Image(array, affine()), real / "p05.nii.gz")
    (text,) = left_out(real)
    assert text.startswith("p05.nii.gz: ") and reason in text and text.count("p05") == 1


def test_names_that_are_no_files(real):
    (real / "folder.nii.gz").mkdir()
    (real / ".hidden.nii.gz").write_bytes(b"x")
    (real / "notes.txt").write_text("x")
    expected = ["folder.nii.gz: it is a folder"]
    if sys.platform != "win32":
        (real / "loop.nii.gz").symlink_to(real / "loop.nii.gz")
        expected.append("loop.nii.gz: it is a link that leads nowhere")
    assert left_out(real, least=10) == expected


@pytest.mark.skipif(sys.platform == "win32" or getattr(os, "geteuid", lambda: 0)() == 0, reason="all may be read")
def test_a_file_without_permission(real):
    (real / "p05.nii.gz").chmod(0)
    assert left_out(real) == ["p05.nii.gz: no permission to read it"]


def test_a_file_that_cannot_be_opened(real, monkeypatch):
    read = case_file.read_volume

    def refuses(path, unit):
        if path.name == "p05.nii.gz":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, unit)

    monkeypatch.setattr(case_file, "read_volume", refuses)
    (text,) = left_out(real)
    assert "Permission denied" in text


def test_volumes_of_another_modality_among_the_others(real, tmp_path):
    write_volume(Volume(mr_array(1), affine(), "arbitrary"), real / "p05.nii.gz")
    assert left_out(real) == ["p05.nii.gz: no value is below 0: it is not in HU like the others"]
    mr = write_set(tmp_path / "mr", 11, array=mr_array)
    write_volume(Volume(ct_array(1), affine()), mr / "p03.nii.gz")
    (text,) = left_out(mr, MR)
    assert text.startswith("p03.nii.gz: it holds values like the air of a CT")


def test_a_constant_mr_has_no_scale(tmp_path):
    mr = write_set(tmp_path / "mr", 10, array=mr_array)
    write_volume(Volume(np.full(SHAPE, 7, np.int16), affine(), "arbitrary"), mr / "p03.nii.gz")
    (text,) = left_out(mr, MR)
    assert "is constant (7)" in text


# Label maps


@pytest.fixture
def labelled(tmp_path):
    return write_set(tmp_path / "i", 10, labels=tmp_path / "l"), tmp_path / "l"


def test_labels_and_their_names(labelled):
    images, labels = labelled
    found = read_set("real", images, CT, labels=labels, classes={2: "spleen", 9: "liver"})
    assert found.classes == {1: "class 1", 2: "spleen", 9: "liver"}
    np.testing.assert_array_equal(found.cases[4].labels, label_array())


@pytest.mark.parametrize(
    ("array", "shift", "reason"),
    [
        (label_array() * 0, 0, "only background"),
        (label_array().astype(np.float32) * 0.5, 0, "fractions"),
        (label_array().astype(np.int16) * -1, 0, "negative"),
        (label_array().astype(np.uint32) * 65536, 0, "131072 is too large"),
        (label_array(), 0.5, "another grid"),
        (label_array()[:-1], 0, "another grid"),
        (np.arange(720, dtype=np.int16).reshape(SHAPE) * 3, 0, ""),
    ],
    ids=["empty", "fractions", "negative", "beyond", "shifted", "smaller", "image"],
)
def test_a_label_map_that_cannot_be_used(labelled, array, shift, reason):
    images, labels = labelled
    nibabel.save(nibabel.Nifti1Image(array, affine(origin=(shift, 0, 0))), labels / "p05.nii.gz")
    if not reason:  # 719 values could be an atlas
        assert left_out(images, labels=labels, least=10) == []
        return
    (text,) = left_out(images, labels=labels)
    assert text.startswith("p05.nii.gz: label map p05.nii.gz: ") and reason in text


def test_whole_numbers_as_floats_are_labels(labelled):
    images, labels = labelled
    nibabel.save(nibabel.Nifti1Image(label_array().astype(np.float64), affine()), labels / "p05.nii.gz")
    found = read_set("real", images, CT, labels=labels)
    np.testing.assert_array_equal(found.cases[5].labels, label_array())


def test_a_case_without_a_label_map(labelled):
    images, labels = labelled
    (labels / "p05.nii.gz").unlink()
    assert left_out(images, labels=labels) == ["p05.nii.gz: it has no label map in 'l'"]
    for path in labels.iterdir():
        write_volume(Volume(label_array() * 0, affine(), "label"), path)
    with pytest.raises(BadInput, match="0 usable volumes.*10 left out") as caught:
        read_set("real", images, CT, labels=labels)
    assert "only background" in caught.value.one_line() and len(caught.value.one_line().splitlines()) == 1


def test_a_segmentation_that_slicer_has_cropped(labelled):
    images, labels = labelled
    (labels / "p05.nii.gz").unlink()
    cropped, moved = label_array()[2:6, 2:5, 2:5], affine()
    moved[:3, 3] = affine()[:3, :3] @ [2, 2, 2]
    segmentation = Segmentation((cropped,), moved, (Segment("liver", 1), Segment("spleen", 2)))
    write_segmentation(segmentation, labels / "p05.seg.nrrd")
    found = read_set("real", images, CT, labels=labels)
    np.testing.assert_array_equal(found.cases[5].labels, label_array())
    assert found.classes == {1: "liver", 2: "spleen"}


def test_a_segmentation_in_layers(labelled):
    images, labels = labelled
    one, two = label_array() == 1, label_array() == 2
    for name, layers, segments in (
        ("p03", (one * 1, two * 2), (Segment("liver", 1, 0), Segment("spleen", 2, 1))),
        ("p05", (one * 1, two * 1), (Segment("liver", 1, 0), Segment("spleen", 1, 1))),
        ("p07", (one * 1, one * 2), (Segment("liver", 1, 0), Segment("spleen", 2, 1))),
    ):
        (labels / f"{name}.nii.gz").unlink()
        layers = tuple(np.asarray(layer, np.uint8) for layer in layers)
        write_segmentation(Segmentation(layers, affine(), segments), labels / f"{name}.seg.nrrd")
    texts = left_out(images, labels=labels, least=8)
    assert len(texts) == 2 and "the same label value" in texts[0] and "overlap" in texts[1]
    found = read_set("real", images, CT, labels=labels, least=8)
    np.testing.assert_array_equal(found.cases[3].labels, label_array())


def test_a_value_that_means_two_things_is_refused(labelled):
    """In Slicer the values follow the order in which segments were drawn, which differs from file to file."""
    images, labels = labelled
    for i, names in enumerate((("liver", "spleen"), ("spleen", "liver"))):
        (labels / f"p0{i}.nii.gz").unlink()
        segments = (Segment(names[0], 1), Segment(names[1], 2))
        write_segmentation(Segmentation((label_array(),), affine(), segments), labels / f"p0{i}.seg.nrrd")
    with pytest.raises(BadInput, match="label value 1 is 'liver' for 'p00.nii.gz' and 'spleen' for 'p01.nii.gz'"):
        read_set("real", images, CT, labels=labels)


# What is refused


def test_folders_that_hold_no_set(real, tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        read_set("real", tmp_path / "nowhere", CT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="No volume of the real set"):
        read_set("real", tmp_path / "empty", CT)
    with pytest.raises(BadInput, match="1 usable volume; fewer than 10"):
        read_set("real", write_set(tmp_path / "one", 1), CT)
    with pytest.raises(BadInput, match="9 usable volumes"):
        read_set("real", write_set(tmp_path / "nine", 9), CT)
    (real / "p03.nii").write_bytes(gzip.decompress((real / "p03.nii.gz").read_bytes()))
    with pytest.raises(BadInput, match="'p03.nii' and 'p03.nii.gz'.* are of one case"):
        read_set("real", real, CT)


def test_different_spacings_are_refused_or_resampled(real, tmp_path):
    other = write_set(tmp_path / "other", 10, spacing=(1, 1, 2), first=20)
    one, two = read_set("real", real, CT), read_set("synthetic", other, CT)
    with pytest.raises(BadInput, match=r"1 x 1 x 1 mm, 'p20.nii.gz' \(synthetic\) 1 x 1 x 2 mm") as caught:
        check_comparable(one, two)
    assert "--spacing" in caught.value.hint
    frame = Frame("CT", (1.0, 1.0, 1.0), (-1000, 1000))
    check_comparable(read_set("real", real, frame), read_set("synthetic", other, frame))
    write_volume(Volume(ct_array(5), affine((1, 1, 3))), real / "p05.nii.gz")
    with pytest.raises(BadInput, match="different spacings"):
        read_set("real", real, CT)


def test_classes_of_different_names_are_not_compared(labelled):
    images, labels = labelled
    one = read_set("real", images, CT, labels=labels, classes={1: "Liver"})
    check_comparable(one, read_set("synthetic", images, CT, labels=labels))
    check_comparable(one, read_set("synthetic", images, CT, labels=labels, classes={1: "liver"}))
    with pytest.raises(BadInput, match="value 1 is 'Liver' in the real set and 'fat' in the synthetic set"):
        check_comparable(one, read_set("synthetic", images, CT, labels=labels, classes={1: "fat"}))


def test_modalities(real, tmp_path):
    mr = write_set(tmp_path / "mr", 10, array=mr_array)
    assert guess_modality(real) == "CT" and guess_modality(mr) == "MR"
    assert frame_of({"real": real}, None, None, None) == CT
    with pytest.raises(BadInput, match="real looks like CT, synthetic looks like MR"):
        frame_of({"real": real, "synthetic": mr}, None, None, None)
    damage(real, "p00.nii.gz", flipped)
    assert guess_modality(real) == "CT"
    write_volume(Volume(mr_array(1), affine(), "arbitrary"), real / "p02.nii.gz")
    with pytest.raises(BadInput, match="look like CT in HU and some do not"):
        guess_modality(real)
    write_volume(Volume(np.clip(ct_array(1), -120, 400), affine()), real / "p00.nii.gz")  # no air
    with pytest.raises(BadInput, match="'p00.nii.gz' is CT or MR cannot be told"):
        guess_modality(real)


@pytest.mark.parametrize("values", [(1000, -1000), (0, 0), (float("nan"), 1), (0, float("inf"))])
def test_no_range(real, values):
    with pytest.raises(BadInput, match="is no intensity range"):
        frame_of({"real": real}, "CT", None, values)


@pytest.mark.parametrize("spacing", [(0, 1, 1), (-1, 1, 1), (float("nan"),) * 3, (float("inf"),) * 3])
def test_no_spacing(real, spacing):
    with pytest.raises(BadInput, match="spacing must be above 0"):
        frame_of({"real": real}, "CT", spacing, None)


def test_memory_is_asked_before_it_is_taken(real, monkeypatch):
    """A spacing of a micron, a file that unpacks to gigabytes, and a folder larger than the memory."""
    texts = [f"p{i:02d}.nii.gz: " for i in range(10)]
    with pytest.raises(BadInput, match="spacing of 0.001 x 0.001 x 0.001 mm leaves 0 usable volumes") as caught:
        read_set("real", real, Frame("CT", (0.001,) * 3, (-1000, 1000)))
    assert "GiB of memory" in caught.value.one_line() and texts[0] in caught.value.one_line()
    free = type("Free", (), {"available": 10_000})()
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    free.available = 24 * 8 * 9 * 10  # a volume may be read, but not ten of them be kept
    with pytest.raises(BadInput, match="The real set needs about"):
        read_set("real", real, CT)


def test_a_set_is_measured_against_the_memory_that_was_free_before(real, monkeypatch):
    """What the first volumes have taken is not counted twice: a set that fits, fits to its last volume."""
    one = 8 * 9 * 10 * 4
    size = {"read": 0}

    class Memory:
        @property
        def available(self):
            return 22 * one - size["read"] * one

    original = image_set.read_case

    def counting(*arguments):
        found = original(*arguments)
        size["read"] += 1
        return found

    monkeypatch.setattr(image_set, "read_case", counting)
    monkeypatch.setattr("psutil.virtual_memory", Memory)
    assert len(read_set("real", real, CT).cases) == 10


# Speed


def test_no_file_is_decoded_twice(labelled, monkeypatch):
    images, labels = labelled
    calls: dict[str, int] = {}
    for name in ("read_volume", "read_segmentation"):
        original = getattr(case_file, name)

        def counting(path, *arguments, original=original, **options):
            calls[str(path)] = calls.get(str(path), 0) + 1
            return original(path, *arguments, **options)

        monkeypatch.setattr(case_file, name, counting)
    read_set("real", images, CT, labels=labels)
    assert len(calls) == 20 and set(calls.values()) == {1}
