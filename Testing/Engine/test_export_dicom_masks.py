"""`export dicom`: what is written beside the slices is what the record says; text of a record is not taken over."""

from __future__ import annotations

import errno
import json
from dataclasses import replace

import numpy as np
import pytest
from dicom_examples import LUNG, NODULE, SHAPE, assert_same_image, ct, drawing, exported, generated, itk_series, labels

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.jobs.outputs import header_marks
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, read_segmentation, write_segmentation, write_volume
from SynthDiffusionLib.volumes.digests import mask_sha256
from SynthDiffusionLib.volumes.grid import corner_indices, shear_mm, voxel_positions

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
pytest.importorskip("SimpleITK")

NAMES = ("volume_mm3", "surface_mm2", "sphericity", "center_r_mm", "center_a_mm", "center_s_mm", "box_r_mm", "box_a_mm",
         "box_s_mm")  # fmt: skip
JOINT = {"mode": "joint", "seed": 3, "tumour": {"asked": {}, "drawn": [], "used": dict.fromkeys(NAMES, 1.0)}}


def saved(path, array, affine, *names, layers=None):
    if layers is not None:
        segments = tuple(Segment(name, 1, layer) for layer, name in enumerate(names))
    else:
        values = [int(v) for v in np.unique(array) if v]
        segments = tuple(Segment(name, v) for name, v in zip(names or map(str, values), values, strict=True))
    write_segmentation(Segmentation(layers or (array,), affine, segments), path)
    return path


def kinds(export):
    seg = highdicom.seg.segread(export.segmentation)
    return {
        d.SegmentLabel: d.SegmentAlgorithmType for d in (seg.get_segment_description(n) for n in seg.segment_numbers)
    }


def region_of(affine):
    return (labels() == 4).astype(np.uint8), {"region_sha256": mask_sha256(labels() == 4, affine)}


def test_the_region_is_the_volumes_own(tmp_path, oblique_affine):
    affine = oblique_affine("PSL")
    region, masks = region_of(affine)
    volume = generated(tmp_path / "in", ct(), affine, mode="inpaint", masks=masks)
    export = exported(volume, tmp_path / "out")
    assert not any("cannot be checked" in note for note in export.notes)
    plain = tmp_path / "plain.nii.gz"
    write_volume(Volume(region * np.uint8(7), affine, "label"), plain)
    assert exported(volume, tmp_path / "again", region=plain).region is not None, "another file of the same voxels"
    wrong = {
        "is empty": saved(tmp_path / "empty.seg.nrrd", region * 0, affine),
        "has 2 segments": saved(tmp_path / "two.seg.nrrd", region, affine, "a", "b", layers=(region, region[::-1])),
        "is not the region that was written with": saved(tmp_path / "other.seg.nrrd", region[::-1], affine),
    }
    wrong["segments, and a region is one"] = saved(tmp_path / "values.seg.nrrd", labels(), affine)
    for cause, path in wrong.items():
        with pytest.raises(BadInput, match=cause) as error:
            exported(volume, tmp_path / "bad", region=path)
        assert "_region.seg.nrrd" in error.value.hint and not (tmp_path / "bad").exists()


def test_a_region_that_cannot_be_checked_is_told_of(tmp_path, oblique_affine):
    volume = generated(tmp_path / "in", ct(), oblique_affine("LPS"), mode="inpaint")
    assert any("cannot be checked" in note for note in exported(volume, tmp_path / "out").notes)


@pytest.mark.parametrize("bound", [True, False])
def test_only_what_the_model_has_made_is_called_its_work(tmp_path, oblique_affine, bound):
    """By the record, else by the file beside the volume; a user's own segmentation is a drawing."""
    affine = oblique_affine("LPS")
    mask = (labels() == 4).astype(np.uint8)
    masks = {"segmentation_sha256": mask_sha256(mask, affine)} if bound else {}
    volume = generated(tmp_path / "in", ct(), affine, "MR", "joint", settings=JOINT, inputs={}, masks=masks)
    made = saved(tmp_path / "in" / "Doe_m_seed3.seg.nrrd", mask, affine, "tumour")
    copy = saved(tmp_path / "copy.seg.nrrd", mask * np.uint8(9), affine, "my copy")
    own = saved(tmp_path / "own.seg.nrrd", labels(), affine, "a", "b")
    assert kinds(exported(volume, tmp_path / "a")) == {"tumour": "AUTOMATIC"}
    assert kinds(exported(volume, tmp_path / "b", segmentation=copy)) == {"my copy": "AUTOMATIC"}
    assert kinds(exported(volume, tmp_path / "c", segmentation=own)) == {"a": "MANUAL", "b": "MANUAL"}
    if bound:
        saved(made, mask[::-1], affine, "edited")
        assert kinds(exported(volume, tmp_path / "d")) == {"edited": "MANUAL"}
        made.unlink()
        assert kinds(exported(volume, tmp_path / "e", segmentation=copy)) == {"my copy": "AUTOMATIC"}


def test_tracking_uids_follow_from_what_is_drawn(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    volume = generated(tmp_path / "in", ct(), affine)
    one = saved(tmp_path / "one.seg.nrrd", labels(), affine, "a", "b")
    other = saved(tmp_path / "other.seg.nrrd", np.where(labels() == 4, 4, labels()[::-1] == 1).astype(np.uint8), affine,
                  "a", "b")  # fmt: skip
    twins = saved(tmp_path / "twins.seg.nrrd", labels(), affine, "a", "b", layers=(region_of(affine)[0],) * 2)

    def tracked(path, out):
        items = pydicom.dcmread(exported(volume, tmp_path / out, segmentation=path).segmentation).SegmentSequence
        return [(str(i.TrackingUID), str(i.TrackingID)) for i in items]

    first, second, third = tracked(one, "a"), tracked(other, "b"), tracked(twins, "c")
    assert first == tracked(one, "d")
    assert first[0] not in second and first[1] == second[1], "the second segments show the same"
    assert third[0] != third[1], "two segments of one shape are two"
    for found in (first, second, third):
        assert len({value for pair in found for value in pair}) == 4


@pytest.mark.parametrize("own_file", [True, False])
def test_segments_that_the_model_was_not_given_are_left_out(tmp_path, oblique_affine, own_file):
    affine = oblique_affine("LPS")
    drawn = drawing(tmp_path, affine)
    entries = [{"name": LUNG.name, "value": 1, "layer": 0, "class": "lung"},
               {"name": NODULE.name, "value": 4, "layer": 0, "class": None}]  # fmt: skip
    inputs = {"segmentation_sha256": sha256_of(drawn)} if own_file else {"segmentation_sha256": "cd" * 32}
    volume = generated(tmp_path / "in", ct(), affine, mapping={"segments": entries}, inputs=inputs)
    export = exported(volume, tmp_path / "out", segmentation=drawn)
    (found,) = read_segmentation(export.segmentation).segments
    assert found.name == LUNG.name
    assert any("'nodule' of 'drawing.seg.nrrd' was not given to the model" in note for note in export.notes)


def test_the_drawing_of_a_crop_is_cut_to_it(tmp_path, oblique_affine):
    affine = oblique_affine("AIR")
    moved = affine.copy()
    moved[:3, 3] = voxel_positions(affine, np.array([3, 4, 1]))
    inner = (slice(3, 15), slice(4, 14), slice(1, 8))
    settings = {"mode": "whole", "seed": 3, "crop": True}
    volume = generated(tmp_path / "in", ct()[inner], moved, settings=settings)
    drawn = tmp_path / "drawn.nii.gz"
    write_volume(Volume(labels(), affine, "label"), drawn)
    export = exported(volume, tmp_path / "out", segmentation=drawn)
    found = read_segmentation(export.segmentation)
    assert_same_image(labels()[inner] == 1, moved, found.mask(found.segments[0]).astype(np.uint8), found.affine)
    assert any("was cut to the grid" in note for note in export.notes)
    half = affine.copy()
    half[:3, 3] += 0.4
    write_volume(Volume(labels(), half, "label"), drawn)
    with pytest.raises(BadInput, match="on another grid"):
        exported(volume, tmp_path / "bad", segmentation=drawn)


@pytest.mark.parametrize("mode", ["whole", "inpaint"])
def test_a_record_that_contradicts_the_header(tmp_path, oblique_affine, mode):
    """Else a volume that is partly a patient's could be passed off as synthetic by a record that was changed."""
    volume = generated(tmp_path, ct(), oblique_affine("LPS"), mode=mode)
    path = tmp_path / "Doe_m_seed3.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    write_volume(Volume(ct(), oblique_affine("LPS"), metadata=header_marks(record)), volume)
    record["output_sha256"] = sha256_of(volume)
    path.write_text(json.dumps(record), encoding="utf-8")
    assert exported(volume, tmp_path / "out").slices == SHAPE[2]
    record["contains_real_patient_pixels"] = mode == "whole"
    record["settings"]["mode"] = "inpaint" if mode == "whole" else "whole"
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(BadInput, match="by its header, and .* by its record"):
        exported(volume, tmp_path / "bad")


def test_text_of_a_record_gets_into_no_header(tmp_path, oblique_affine):
    """A record can be edited: names of people in it are refused, or not taken over."""
    affine = oblique_affine("LPS")
    for where, text in (("software", "Doe Jane"), ("sampler", "Doe Jane"), ("steps", "Doe")):
        settings = {"mode": "whole", "seed": 3} | ({where: text} if where != "software" else {})
        changes = {"software": {"version": text}} if where == "software" else {}
        volume = generated(tmp_path / where, ct(), affine, settings=settings, **changes)
        with pytest.raises(BadInput, match="is not the provenance of a synthetic volume"):
            exported(volume, tmp_path / "bad")
    files = {"/home/Jane.Doe/a.safetensors": "ab" * 32, "C:\\Users\\Jane\\b.safetensors": "cd" * 32}
    model = {"id": "lung-nodule-ct", "version": "1.2.0", "modality": "CT", "files": files}
    volume = generated(tmp_path / "in", ct(), affine, model=model, notice="Jane Doe, born on 1 January 1970")
    export = exported(volume, tmp_path / "out", segmentation=drawing(tmp_path, affine))
    for path in export.folder.rglob("*.dcm"):
        assert b"Jane" not in path.read_bytes()
    text = pydicom.dcmread(export.segmentation).ContributingEquipmentSequence[0].ContributionDescription
    assert f"a.safetensors {'ab' * 32}, b.safetensors {'cd' * 32}" in text


def test_a_disk_that_is_full_while_pydicom_writes(tmp_path, oblique_affine, monkeypatch):
    """pydicom raises another error, whose text is a traceback and which has no number."""
    from pydicom import filewriter

    volume = generated(tmp_path / "in", ct(), oblique_affine("LPS"))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(filewriter.writers, "OW", (full, None))
    with pytest.raises(RunFailed) as error:
        exported(volume, tmp_path / "out")
    assert "No space left on the disk" in error.value.message and "Traceback" not in error.value.message
    assert error.value.hint == "Free some space or choose another folder." and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("shear", "slices", "written"), [(9e-5, 9, True), (9e-5, 200, False), (4e-6, 200, True)])
def test_how_much_shear_is_written_depends_on_how_far_the_grid_reaches(tmp_path, shear, slices, written):
    """As ITK places it, no corner is off by more than a thousandth of a millimetre."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[0, 2] = shear
    volume = generated(tmp_path / "in", ct((8, 8, slices)), affine)
    if not written:
        with pytest.raises(BadInput, match="not at right angles.*here by up to 0.018 mm"):
            exported(volume, tmp_path / "out")
        return
    array, placed = itk_series(exported(volume, tmp_path / "out").image)
    corners = corner_indices(array.shape)
    off = np.linalg.norm(voxel_positions(placed, corners) - voxel_positions(affine, corners), axis=1).max()
    assert off == pytest.approx(shear_mm(array.shape, affine), abs=2e-5) and off < 1e-3


def test_a_region_is_the_same_instance_whatever_is_exported_beside_it(tmp_path, oblique_affine):
    """One UID, one content: the number of its series does not count what else there is."""
    affine = oblique_affine("LPS")
    volume = generated(tmp_path / "in", ct(), affine, mode="inpaint")
    alone = exported(volume, tmp_path / "alone")
    both = exported(volume, tmp_path / "both", segmentation=drawing(tmp_path, affine))
    assert alone.region.read_bytes() == both.region.read_bytes()
    paths = (next(both.image.iterdir()), both.segmentation, both.region)
    assert [pydicom.dcmread(path).SeriesNumber for path in paths] == [1, 2, 3]


@pytest.mark.parametrize(
    "change", [{"name": "scar"}, {"type": LUNG.type}, {"region": None, "region_modifier": None}, {"color": (0, 0, 1)}]
)
def test_a_tracking_uid_stands_for_one_meaning(tmp_path, oblique_affine, change):
    """The same voxels with another name or other codes are another thing; with another colour they are not."""
    affine = oblique_affine("LPS")
    volume = generated(tmp_path / "in", ct(), affine)
    found = []
    for number, nodule in enumerate((NODULE, replace(NODULE, **change))):
        path = tmp_path / f"drawing{number}.seg.nrrd"
        write_segmentation(Segmentation((labels(),), affine, (LUNG, nodule)), path)
        seg = highdicom.seg.segread(exported(volume, tmp_path / f"out{number}", segmentation=path).segmentation)
        found.append([seg.get_segment_description(n) for n in (1, 2)])
    (lung, first), (same_lung, second) = found
    assert lung.TrackingUID == same_lung.TrackingUID
    assert (first.TrackingUID == second.TrackingUID) == (first.TrackingID == second.TrackingID) == ("color" in change)
