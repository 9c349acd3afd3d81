"""`synthdiffusion export volume`: a volume from a scene becomes a marked file with its provenance."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from command_process import labels, save
from tiny_package import make_working_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.volumes import Volume, read_segmentation, read_volume, write_volume


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Outputs of a whole and of an inpainted run, as NRRD."""
    folder = tmp_path_factory.mktemp("made")
    model = make_working_package(folder / "tiny-ct").folder
    seg = save(folder / "seg.nii.gz", labels())
    image = save(folder / "image.nii.gz", np.full((20, 20, 20), -700, np.int16))
    common = {"seed": 3, "steps": 1, "device": "cpu", "precision": "fp32", "format": "nrrd"}
    whole = run(GenerateRequest(seg, str(model), folder / "out", **common))
    inpainted = run(GenerateRequest(seg, str(model), folder / "out", mode="inpaint", image=image, **common))
    return {"whole": whole.outputs[0], "inpaint": inpainted.outputs[0]}


def as_saved_from_a_scene(volume: Path, folder: Path) -> Path:
    """The same voxels in a file that says nothing of being synthetic, and something that must not get out."""
    read = read_volume(volume)
    path = folder / "from scene.nrrd"
    write_volume(Volume(read.array, read.affine, read.unit, {"PatientName": "Doe^Jane"}), path)
    return path


def export(*arguments: Any) -> int:
    return cli.main(["export", "volume", *map(str, arguments)])


def test_the_file_is_the_one_that_generate_wrote(made, tmp_path, capsys):
    """Byte for byte: voxels, geometry, name and marks."""
    out = made["whole"]
    saved = as_saved_from_a_scene(out["volume"], tmp_path)
    arguments = [saved, "--provenance", out["provenance"], "--out", tmp_path / "new"]
    assert export(*arguments, "--format", "nrrd", "--json") == 0
    printed = capsys.readouterr().out.splitlines()
    written = {what: Path(path) for what, path in json.loads(printed[-1]).items()}
    assert set(written) == {"volume", "provenance"} and printed[0] == str(written["volume"])
    assert written["volume"].name == out["volume"].name
    assert written["volume"].read_bytes() == out["volume"].read_bytes()
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in written.values())
    record = json.loads(written["provenance"].read_text(encoding="utf-8"))
    before = json.loads(out["provenance"].read_text(encoding="utf-8"))
    assert record == before | {"generated_sha256": before["output_sha256"]}


def test_another_format_and_changed_voxels(made, tmp_path):
    out = made["whole"]
    saved = as_saved_from_a_scene(out["volume"], tmp_path)
    read = read_volume(saved)
    write_volume(read.with_array(read.array + 1), saved)
    assert export(saved, "--provenance", out["provenance"], "--edited", "--out", tmp_path) == 0
    path = tmp_path / out["volume"].name.replace(".nrrd", ".nii.gz")
    image = nib.load(path)
    assert np.array_equal(np.asanyarray(image.dataobj), read.array + 1)
    assert bytes(image.header["descrip"].item()).startswith(b"SYNTHETIC tiny-ct 1.2.0 seed 3")
    assert b"Doe" not in image.header.binaryblock
    record = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
    before = json.loads(out["provenance"].read_text(encoding="utf-8"))
    assert record["output_sha256"] == sha256_of(path) != before["output_sha256"] == record["generated_sha256"]
    assert export(path, "--provenance", path.with_name(f"{path.name[:-7]}.json"), "--out", tmp_path / "twice") == 0
    twice = json.loads(next((tmp_path / "twice").glob("*.json")).read_text(encoding="utf-8"))
    assert twice["generated_sha256"] == before["output_sha256"] and twice["modified_after_generation"] is True


@pytest.fixture
def real(tmp_path) -> Path:
    """A patient's CT on the grid of the synthetic volumes."""
    return save(tmp_path / "real.nii.gz", np.random.default_rng(0).integers(-900, 200, (20, 20, 20)).astype(np.int16))


def test_a_patients_image_does_not_leave_as_synthetic_by_the_record_of_another(made, real, tmp_path, capsys):
    for out in made.values():
        line = refused(capsys, real, "--provenance", out["provenance"], "--out", tmp_path / "out")
        assert "are not those of its record" in line and "--edited" in line
        assert not (tmp_path / "out").exists()


def test_what_is_said_to_be_edited_says_so_wherever_it_goes(made, real, tmp_path, capsys):
    provenance = tmp_path / "record.json"
    record = json.loads(made["whole"]["provenance"].read_text(encoding="utf-8"))
    provenance.write_text(json.dumps(record | {"adherence": {"dice": 0.9}}), encoding="utf-8")
    out = tmp_path / "out"
    assert export(real, "--provenance", provenance, "--edited", "--format", "nrrd", "--out", out, "--json") == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out.splitlines()[-1])
    assert told["edited"] is True and "Nothing shows whose they are" in told["notes"][0] and "note: " in printed.err
    header = nrrd.read_header(told["volume"])
    assert header["SynthDiffusion.Edited"] == "YES" and ", EDITED, " in header["description"]
    record = json.loads(Path(told["provenance"]).read_text(encoding="utf-8"))
    assert record["modified_after_generation"] is True and "adherence" not in record
    volume, dicom = told["volume"], tmp_path / "dicom"
    assert cli.main(["export", "dicom", volume, "--out", str(dicom), "--json"]) == 0
    slices = sorted(dicom.rglob("slice*.dcm"))
    assert slices
    item = pydicom.dcmread(slices[0])
    assert "changed after the model had made them; nothing shows whose they are" in item.DerivationDescription
    assert "acquired from a patient" not in item.DerivationDescription
    assert "BurnedInAnnotation" not in item and "LossyImageCompression" not in item
    arguments = ["--synthetic", str(out), "--out", str(tmp_path / "set"), "--suffix", "ct", "--validation", "0"]
    assert cli.main(["export", "bids", *arguments]) == 0
    (row,) = json.loads(next((tmp_path / "set").rglob("manifest.json")).read_text(encoding="utf-8"))["volumes"]
    assert row["kind"] == "synthetic" and row["edited"] == "yes"


@pytest.mark.parametrize("form", ["nii.gz", "mha", "turned", "compressed double"])
def test_the_same_voxels_saved_by_another_program(made, tmp_path, form):
    """Another format, number type, order of axes, or a file of a scene that lies under a transform."""
    image = sitk.ReadImage(str(made["whole"]["volume"]))
    path = tmp_path / f"saved.{form if form in ('nii.gz', 'mha') else 'nrrd'}"
    if form == "turned":
        image = sitk.Flip(sitk.PermuteAxes(image, [2, 0, 1]), [True, True, False])
        image.SetDirection(np.eye(3).ravel())  # the directions of the axes no longer say where they were
    if form == "compressed double":
        image = sitk.Cast(image, sitk.sitkFloat64)
    sitk.WriteImage(image, str(path), useCompression=True)
    assert export(path, "--provenance", made["whole"]["provenance"], "--out", tmp_path / "out") == 0
    record = json.loads(next((tmp_path / "out").glob("*.json")).read_text(encoding="utf-8"))
    assert "modified_after_generation" not in record


def test_a_record_of_an_older_version(made, tmp_path, capsys):
    """It has no checksum of the voxels: the very file is taken, another one only on the user's word, and marked."""
    record = json.loads(made["whole"]["provenance"].read_text(encoding="utf-8"))
    del record["output_voxels_sha256"]
    older = tmp_path / "older.json"
    older.write_text(json.dumps(record), encoding="utf-8")
    saved = as_saved_from_a_scene(made["whole"]["volume"], tmp_path)
    assert export(made["whole"]["volume"], "--provenance", older, "--out", tmp_path / "a") == 0
    assert "voxels_unchecked" not in next((tmp_path / "a").glob("*.json")).read_text(encoding="utf-8")
    assert "cannot be checked" in refused(capsys, saved, "--provenance", older, "--out", tmp_path / "b")
    assert export(saved, "--provenance", older, "--edited", "--out", tmp_path / "b") == 0
    assert "could not be checked" in capsys.readouterr().err
    new = next((tmp_path / "b").glob("*.json"))
    record = json.loads(new.read_text(encoding="utf-8"))
    assert record["voxels_unchecked"] is True and "modified_after_generation" not in record
    volume = str(new.with_suffix(".nii.gz"))
    assert cli.main(["export", "dicom", volume, "--out", str(tmp_path / "dicom")]) == 0
    item = pydicom.dcmread(next((tmp_path / "dicom").rglob("slice*.dcm")))
    assert "was not checked; nothing shows whose they are" in item.DerivationDescription
    assert "acquired from a patient" not in item.DerivationDescription and "BurnedInAnnotation" not in item


def test_an_inpainted_volume_is_not_called_synthetic_as_a_whole(made, tmp_path):
    out = made["inpaint"]
    saved = as_saved_from_a_scene(out["volume"], tmp_path)
    arguments = ["--provenance", out["provenance"], "--out", tmp_path / "new", "--format", "nrrd"]
    assert export(saved, *arguments, "--region", out["region"]) == 0
    new = tmp_path / "new"
    assert sorted(p.name for p in new.iterdir()) == sorted(out[k].name for k in ("volume", "provenance", "region"))
    header = nrrd.read_header(str(new / out["volume"].name))
    assert header["SynthDiffusion.Synthetic"] == "YES"
    assert "not anonymous" in header["SynthDiffusion.Notice"]
    assert "PatientName" not in header
    assert (new / out["volume"].name).read_bytes() == out["volume"].read_bytes()
    assert np.array_equal(
        read_segmentation(new / out["region"].name).layers[0], read_segmentation(out["region"]).layers[0]
    )
    assert export(saved, "--provenance", out["provenance"], "--out", tmp_path / "without") == 0
    assert len(list((tmp_path / "without").iterdir())) == 2


def test_the_region_beside_an_inpainted_volume_goes_with_it(made, tmp_path, capsys):
    """As `export dicom` finds it; one on another grid is no reason to leave it out without a word."""
    out, new = made["inpaint"], tmp_path / "new"
    given = ["--provenance", out["provenance"], "--out", new]
    assert export(out["volume"], *given, "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Path(told["region"]).name == out["region"].name
    assert np.array_equal(read_segmentation(told["region"]).layers[0], read_segmentation(out["region"]).layers[0])
    assert cli.main(["export", "dicom", told["volume"], "--out", str(tmp_path / "dicom")]) == 0
    assert "there is no region file" not in capsys.readouterr().err and list((tmp_path / "dicom").rglob("region.dcm"))
    volume = Path(shutil.copy(out["volume"], tmp_path / "v.nrrd"))
    write_volume(Volume(labels((20, 20, 21)), np.eye(4), "label"), tmp_path / "v_region.seg.nrrd")
    assert "another grid" in refused(capsys, volume, "--provenance", out["provenance"], "--out", tmp_path / "no")


def refused(capsys, *arguments: Any) -> str:
    assert export(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda r: r.update(format="another"), "'format'"),
        (lambda r: r.update(synthetic=False), "'synthetic'"),
        (lambda r: r.pop("notice"), "notice"),
        (lambda r: r.update(notice="one\ntwo"), "one line of text"),
        (lambda r: r["model"].update(id="../x"), "the ID of a model"),
        (lambda r: r["settings"].update(seed="3"), "whole number"),
        (lambda r: r["settings"].update(mode="inpaint"), "contradicts itself"),
        (lambda r: r.update(contains_real_patient_pixels=True), "contradicts itself"),
    ],
)
def test_a_record_that_is_none(made, tmp_path, capsys, change, cause):
    record = json.loads(made["whole"]["provenance"].read_text(encoding="utf-8"))
    change(record)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    line = refused(capsys, made["whole"]["volume"], "--provenance", path, "--out", tmp_path / "out")
    assert cause in line and "generate has written" in line
    assert not (tmp_path / "out").exists()


def test_no_path_leaves_the_folder(made, tmp_path):
    record = json.loads(made["whole"]["provenance"].read_text(encoding="utf-8"))
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record | {"case": "../../evil:name"}), encoding="utf-8")
    assert export(made["whole"]["volume"], "--provenance", path, "--out", tmp_path / "deep" / "out") == 0
    names = {p.name for p in (tmp_path / "deep" / "out").iterdir()}
    assert names == {"_.._evil_name_tiny-ct_seed3.nii.gz", "_.._evil_name_tiny-ct_seed3.json"}
    assert {p.name for p in tmp_path.iterdir()} == {"record.json", "deep"}


def test_other_refusals(made, tmp_path, capsys):
    whole, inpainted = made["whole"], made["inpaint"]
    given = ["--provenance", whole["provenance"], "--out", tmp_path / "out"]
    assert "does not exist" in refused(capsys, tmp_path / "none.nrrd", *given)
    assert "Did you mean 'nrrd'?" in refused(capsys, whole["volume"], *given, "--format", "nrd")
    assert "--region was given" in refused(capsys, whole["volume"], *given, "--region", inpainted["region"])
    other = save(tmp_path / "other.nii.gz", labels((20, 20, 21)))
    given = ["--provenance", inpainted["provenance"], "--out", tmp_path / "out"]
    assert "another grid" in refused(capsys, inpainted["volume"], *given, "--region", other)
    assert "Cannot read the provenance" in refused(
        capsys, whole["volume"], "--provenance", tmp_path / "no.json", "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()
    assert export(whole["volume"], "--provenance", whole["provenance"], "--out", tmp_path / "out") == 0
    capsys.readouterr()
    taken = ["--provenance", whole["provenance"], "--out", tmp_path / "out", "--format", "nrrd"]
    assert "lies there" in refused(capsys, whole["volume"], *taken)


def test_what_generate_wrote_is_not_lost_to_another_volume_of_its_name(made, tmp_path, capsys):
    """Edited, moved, with another region, or in the very place of the file: all stay out."""
    for kind, out in made.items():
        folder = tmp_path / kind
        folder.mkdir()
        kept = [what for what in ("volume", "provenance", "region") if what in out]
        files = {what: Path(shutil.copy(out[what], folder)) for what in kept}
        before = {path: path.read_bytes() for path in files.values()}
        given = ["--provenance", files["provenance"], "--out", folder, "--format", "nrrd"]
        edited = tmp_path / "edited.nrrd"
        read = read_volume(files["volume"])
        write_volume(read.with_array(read.array + 1), edited)
        for more in ([], ["--replace"]):
            line = refused(capsys, edited, *given, "--edited", *more)
            assert str(files["volume"]) in line and "Choose another --out" in line
        moved = tmp_path / "moved.nrrd"
        write_volume(Volume(read.array, np.eye(4) + np.eye(4, k=3) * 9, "HU"), moved)
        assert "lies there" in refused(capsys, moved, *given)
        if kind == "inpaint":
            other = save(tmp_path / "other.nii.gz", 1 - labels())
            assert "lies there" in refused(capsys, files["volume"], *given, "--region", other)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        assert export(files["volume"], *given) == 0, "the same again"
        assert files["volume"].read_bytes() == before[files["volume"]]
        write_volume(read.with_array(read.array + 1), files["volume"])
        assert "lies there" in refused(capsys, files["volume"], *given, "--edited")


def test_an_earlier_export_of_the_same_edited_volume_is_replaced_on_request(made, tmp_path, capsys):
    out = made["whole"]
    saved = as_saved_from_a_scene(out["volume"], tmp_path)
    read = read_volume(saved)
    given = [saved, "--provenance", out["provenance"], "--edited", "--out", tmp_path / "out"]
    for step, more in ((1, []), (2, ["--replace"])):
        write_volume(read.with_array(read.array + step), saved)
        assert export(*given, *more) == 0
    (path,) = (tmp_path / "out").glob("*.nii.gz")
    assert np.array_equal(read_volume(path).array, read.array + 2)
    write_volume(read.with_array(read.array + 3), saved)
    capsys.readouterr()
    assert "lies there" in refused(capsys, *given)


@pytest.mark.parametrize("scale", [(2, 1, 1), (1, 1, 0.99), (1.1, 1.1, 1.1)])
def test_a_scaled_volume_is_an_edited_one(made, tmp_path, capsys, scale):
    read = read_volume(made["whole"]["volume"])
    saved = tmp_path / "scaled.nrrd"
    write_volume(Volume(read.array, read.affine @ np.diag([*scale, 1]), read.unit), saved)
    given = [saved, "--provenance", made["whole"]["provenance"], "--out", tmp_path / "out"]
    line = refused(capsys, *given)
    assert "scaled after it was made" in line and "--edited" in line and not (tmp_path / "out").exists()
    assert export(*given, "--edited") == 0
    assert "not of the size that the model made" in capsys.readouterr().err
    path = next((tmp_path / "out").glob("*.json"))
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["modified_after_generation"] is True
    assert np.allclose(sorted(record["output_voxel_edges_mm"]), sorted(read.spacing * scale))
    assert export(path.with_suffix(".nii.gz"), "--provenance", path, "--out", tmp_path / "twice") == 0, (
        "it says so itself"
    )


def test_a_moved_and_turned_volume_with_long_voxels_is_not_an_edited_one(made, tmp_path):
    """The edges are turned with the voxels."""
    volume = made["whole"]["volume"]
    record = json.loads(made["whole"]["provenance"].read_text(encoding="utf-8"))
    provenance = tmp_path / "record.json"
    provenance.write_text(json.dumps(record | {"output_voxel_edges_mm": [1.0, 1.5, 4.0]}), encoding="utf-8")
    read = read_volume(volume)
    turn = np.array([[0.0, 1, 0, 30], [0, 0, -1, 9], [-1, 0, 0, 4], [0, 0, 0, 1]])
    saved = tmp_path / "turned.nrrd"
    write_volume(Volume(read.array, turn @ read.affine @ np.diag([1.0, 1.5, 4.0, 1]), read.unit), saved)
    assert np.allclose(read.spacing, 1)
    assert export(saved, "--provenance", provenance, "--out", tmp_path / "out") == 0
    new = json.loads(next((tmp_path / "out").glob("*.json")).read_text(encoding="utf-8"))
    assert "modified_after_generation" not in new and new["output_voxel_edges_mm"] != [1.0, 1.5, 4.0]
