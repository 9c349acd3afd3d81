"""`export dicom`: what is refused, in one line that names cause and mend, and what a failure leaves behind: nothing."""

from __future__ import annotations

import builtins
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_examples import SHAPE, ct, drawing, exported, generated, labels

from SynthDiffusionLib import cli
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, read_volume, write_segmentation, write_volume

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")


@pytest.fixture
def sample(tmp_path, oblique_affine) -> Path:
    return generated(tmp_path / "in", ct(), oblique_affine("LPS"))


@pytest.fixture
def refused(tmp_path, capsys):
    """Calls the command line, and checks what every refusal has in common; returns the line."""

    def call(*arguments: Any, code: int = 2) -> str:
        out = tmp_path / "deep" / "out"
        assert cli.main(["export", "dicom", *map(str, arguments), "--out", str(out)]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("synthdiffusion: error: ") and "fault of SynthDiffusion" not in line
        assert not out.parent.exists(), "nothing is left"
        return line

    return call


def test_a_volume_without_its_record(sample, refused, tmp_path):
    other = tmp_path / "patient.nii.gz"
    shutil.copy(sample, other)
    assert "has no record ('patient.json') beside it" in refused(other)
    assert "does not exist" in refused(tmp_path / "none.nii.gz")
    (tmp_path / "ct").mkdir()
    assert "is a folder" in refused(tmp_path / "ct")
    assert "Cannot read the provenance" in refused(sample, "--provenance", tmp_path / "no.json")
    (tmp_path / "patient.json").write_text("{}", encoding="utf-8")
    assert "is not the provenance of a synthetic volume" in refused(other)


def test_the_record_of_another_volume(sample, refused, tmp_path, oblique_affine):
    """Else a real image could be called synthetic as a whole."""
    inpainted = generated(tmp_path / "other", ct(seed=1), oblique_affine("LPS"), mode="inpaint")
    line = refused(inpainted, "--provenance", sample.with_name("Doe_m_seed3.json"))
    assert "the checksums differ" in line and "export volume" in line
    record = json.loads(sample.with_name("Doe_m_seed3.json").read_text(encoding="utf-8"))
    del record["output_sha256"]
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    assert "the checksums differ" in refused(sample, "--provenance", path)


def test_a_volume_from_a_scene_gets_a_record_of_its_own_first(sample, refused, tmp_path):
    read = read_volume(sample)
    saved = tmp_path / "saved.nrrd"
    write_volume(read.with_array(read.array + np.int16(1), metadata={}), saved)
    record = sample.with_name("Doe_m_seed3.json")
    assert "run synthdiffusion export volume first" in refused(saved, "--provenance", record)
    command = ["export", "volume", str(saved), "--provenance", str(record), "--out", str(tmp_path / "again")]
    assert cli.main(command) == 2, "it was edited"
    assert cli.main([*command, "--edited"]) == 0
    (volume,) = (tmp_path / "again").glob("*.nii.gz")
    assert exported(volume, tmp_path / "out").slices == SHAPE[2]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda r: r["model"].update(files={"a": "no checksum"}), "64 hexadecimal digits"),
        (lambda r: r["model"].update(modality="US"), "modality"),
        (lambda r: r.update(inputs={"image_sha256": "Doe^Jane"}), "64 hexadecimal digits"),
        (lambda r: r.update(mapping={"segments": ["x"]}), "mapping"),
        (lambda r: (r["model"].pop("modality"), r.pop("display")), "CT or MR"),
    ],
)
def test_a_record_that_is_none(sample, refused, change, cause):
    path = sample.with_name("Doe_m_seed3.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    assert cause in refused(sample)


def test_older_records_say_by_their_window_what_they_are(tmp_path, oblique_affine):
    for display, modality in (({"window": 500, "level": 50}, "CT"), ({}, "MR")):
        model = {"id": "lung-nodule-ct", "version": "1.0.0"}
        volume = generated(tmp_path / modality, np.abs(ct() // 2), oblique_affine("LPS"), model=model, display=display)
        export = exported(volume, tmp_path / "out", subject=modality)
        assert pydicom.dcmread(next(export.image.iterdir())).Modality == modality


def test_segmentations_and_regions_that_do_not_belong(sample, refused, tmp_path, oblique_affine):
    shape = (SHAPE[0], SHAPE[1], SHAPE[2] + 1)
    other = tmp_path / "larger.nii.gz"
    write_volume(Volume(labels(shape), oblique_affine("LPS"), "label"), other)
    line = refused(sample, "--segmentation", other)
    assert "on another grid" in line and "20 x 16 x 10 voxels, the image has 20 x 16 x 9" in line
    moved = drawing(tmp_path, oblique_affine("LPS", origin=(0.25, 0, 0)))
    assert "on another grid than its image (origin in RAS 0.25, 0, 0 mm, of the image " in refused(
        sample, "--segmentation", moved
    )
    coarse = drawing(tmp_path, oblique_affine("LPS", spacing=(3, 3, 3)))
    assert "(spacing 3, 3, 3 mm, of the image" in refused(sample, "--segmentation", coarse)
    assert "--region was given" in refused(sample, "--region", moved)
    assert "not an image in a format" in refused(sample, "--segmentation", sample.with_name("Doe_m_seed3.json"))


def test_another_drawing_than_that_of_the_record_is_told_of(sample, tmp_path, oblique_affine, capsys):
    drawn = drawing(tmp_path, oblique_affine("LPS"))
    arguments = ["export", "dicom", str(sample), "--out", str(tmp_path / "out"), "--segmentation", str(drawn)]
    assert cli.main(arguments) == 0
    assert "note: 'drawing.seg.nrrd' is not the file that the volume was made from" in capsys.readouterr().err


def test_an_inpainted_volume_without_its_region_is_told_of(tmp_path, oblique_affine):
    volume = generated(tmp_path, ct(), oblique_affine("LPS"), mode="inpaint")
    (tmp_path / "Doe_m_seed3_region.seg.nrrd").unlink()
    export = exported(volume, tmp_path / "out")
    assert export.region is None and any("no region file" in note for note in export.notes)


@pytest.mark.parametrize("name", ["", "a\\b", "Doe^Jane", "x" * 49, "a\nb", "../up"])
def test_subjects_that_dicom_or_a_folder_cannot_hold(sample, refused, name):
    assert "--subject cannot be used" in refused(sample, "--subject", name)


def test_labels_and_dates(sample, refused, tmp_path, capsys):
    assert "Did you mean 'overlay'?" in refused(sample, "--label", "overlai")
    line = refused(sample, "--label", "overlay")
    assert "20 x 16 pixels are too small for the label 'SYNTHETIC'" in line
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", "dicom", str(sample), "--out", str(tmp_path / "out"), "--date", "31.1.2026"])
    assert ended.value.code == 2 and "write it like 2026-01-31" in capsys.readouterr().err


def test_a_tilted_gantry(tmp_path, refused, oblique_affine):
    affine = oblique_affine("LPS")
    affine[1, 2] += 0.4
    assert "not at right angles" in refused(generated(tmp_path, ct(), affine))


def test_a_name_that_is_taken(sample, tmp_path, capsys):
    export = exported(sample, tmp_path / "out")
    before = sorted(p.name for p in export.image.iterdir())
    assert cli.main(["export", "dicom", str(sample), "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert "says no more than subject, model and seed, is there already" in line and "--subject" in line
    assert sorted(p.name for p in export.image.iterdir()) == before
    assert list((tmp_path / "out").iterdir()) == [export.folder]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on the disk"),
        (KeyboardInterrupt(), 130, "Cancelled"),
    ],
)
def test_a_full_disk_and_ctrl_c_leave_nothing(sample, refused, monkeypatch, error, code, said):
    real = pydicom.Dataset.save_as

    def save_as(self, path, **options):
        if "slice0004" in str(path):
            raise error
        return real(self, path, **options)

    monkeypatch.setattr(pydicom.Dataset, "save_as", save_as)
    assert said in refused(sample, code=code)


def test_without_the_extra(sample, refused, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("pydicom", "highdicom"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    line = refused(sample)
    assert "Writing DICOM needs packages" in line and "[dicom]" in line


def test_many_segments_are_written_without_their_empty_frames(sample, tmp_path, oblique_affine, monkeypatch):
    """Whole frames for every segment of an atlas would take gigabytes."""
    from SynthDiffusionLib.export import dicom_seg

    path = tmp_path / "two.seg.nrrd"
    parts = Segmentation((labels(),), oblique_affine("LPS"), (Segment("lung", 1), Segment("nodule", 4)))
    write_segmentation(parts, path)
    full = exported(sample, tmp_path / "full", segmentation=path)
    monkeypatch.setattr(dicom_seg, "ALL_FRAMES_BYTES", 10)
    sparse = exported(sample, tmp_path / "sparse", segmentation=path)
    frames = [int(pydicom.dcmread(e.segmentation).NumberOfFrames) for e in (full, sparse)]
    assert frames == [2 * SHAPE[2], 3 + 4]
