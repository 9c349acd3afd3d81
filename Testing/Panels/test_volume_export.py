"""Volumes of a scene as marked files: written by the real engine, with record, region and segmentation."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from job_fakes import add_results, provenance, write_volume
from panel_harness import ROOT, Harness, add_segmentation, add_volume
from test_generation import DRAWN, NoPanel


@pytest.fixture
def harness(standin):
    made = Harness(standin.scene, NoPanel)
    yield made
    made.close()


@pytest.fixture(scope="module")
def record():
    """Records of volumes of the shipped model: `record(seed, mode)`."""
    shipped = json.loads((ROOT / "Resources" / "Models" / "lung-nodule-ct" / "model.json").read_text(encoding="utf-8"))

    def make(seed: int = 7, mode: str = "whole", **changes) -> dict:
        return provenance(seed, mode, version=shipped["version"]) | changes

    return make


class Export:
    """Runs a `VolumeExport` to its end."""

    def __init__(self, harness, standin) -> None:
        from SynthDiffusionJobs.VolumeExport import VolumeExport

        self.standin, self.progress, self.ends = standin, [], []
        session = harness.session
        self.job = VolumeExport(
            session.engine,
            session.folders,
            lambda done, total: self.progress.append((done, total)),
            lambda paths, problem: self.ends.append((paths, problem)),
        )

    def run(self, nodes, target, suffix="nrrd", segmentations=False) -> tuple[list[str], str]:
        self.job.start(nodes, target, suffix, segmentations)
        self.standin.wait(lambda: self.ends, seconds=60, what="the export")
        assert len(self.ends) == 1
        return self.ends[0]


@pytest.fixture
def export(harness, standin):
    return Export(harness, standin)


def names(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_volume_and_record_are_written_and_marked(harness, export, record, tmp_path):
    import nibabel
    import slicer.util

    drawing = add_segmentation(harness.scene, DRAWN)
    nodes = add_results(harness, tmp_path / "made", drawing, record(7), record(8))
    (tmp_path / "out").mkdir()
    paths, problem = export.run(nodes, tmp_path / "out", "nii.gz")
    assert problem == ""
    stems = [f"drawing_lung-nodule-ct_seed{seed}" for seed in (7, 8)]
    assert names(tmp_path / "out") == sorted(f"{stem}.{end}" for stem in stems for end in ("json", "nii.gz"))
    assert [path.rsplit("/", 1)[-1] for path in paths] == [f"{stem}.nii.gz" for stem in stems]
    assert export.progress == [(0, 2), (1, 2), (2, 2)]
    for node, path in zip(nodes, paths):
        image = nibabel.load(path)
        assert np.array_equal(np.asarray(image.dataobj).T, slicer.util.arrayFromVolume(node))
        assert b"synthetic" in bytes(image.header["descrip"]).lower()
    assert not any(harness.session.folders._session.iterdir())


def test_an_inpainted_volume_comes_with_what_was_changed(harness, export, record, tmp_path):
    from SynthDiffusionScene.runs import addRun
    from SynthDiffusionScene.segmentations import exportSegmentation, importSegmentation

    drawing = add_segmentation(harness.scene, DRAWN)
    real = add_volume(harness.scene, shape=(40, 40, 40))
    region, volume = tmp_path / "region.seg.nrrd", write_volume(tmp_path / "volume.nrrd")
    exportSegmentation(add_segmentation(harness.scene, {"synthetic": 6}, "x"), region)
    (tmp_path / "r.json").write_text(json.dumps(record(7, "inpaint")), encoding="utf-8")
    output = {"volume": str(volume), "provenance": str(tmp_path / "r.json"), "region": str(region)}
    (node,) = addRun(harness.scene, [output], drawing, realVolumeNode=real)
    (tmp_path / "out").mkdir()
    # Under a transform the files still fit together.
    transform = harness.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    for moved in (node, node.GetNodeReference("SynthDiffusion.Region"), drawing):
        moved.SetAndObserveTransformNodeID(transform.GetID())
    import slicer.util

    matrix = np.eye(4)
    matrix[:3, 3] = 3, 4, 5
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    paths, problem = export.run([node], tmp_path / "out", "nrrd", segmentations=True)
    assert problem == ""
    stem = "drawing_lung-nodule-ct_seed7_inpainted"
    assert names(tmp_path / "out") == ["drawing.seg.nrrd", f"{stem}.json", f"{stem}.nrrd", f"{stem}_region.seg.nrrd"]
    copy = importSegmentation(harness.scene, tmp_path / "out" / f"{stem}_region.seg.nrrd")
    from SynthDiffusionScene.segmentations import segmentMask, segmentsOf

    assert sum(int(segmentMask(segment).sum()) for segment in segmentsOf(copy)) == 6**3
    text = (tmp_path / "out" / f"{stem}.json").read_text(encoding="utf-8")
    assert json.loads(text)["contains_real_patient_pixels"] is True


def test_a_volume_alone_lies_where_the_user_sees_it(harness, export, record, tmp_path):
    import slicer
    import slicer.util

    (node,) = add_results(harness, tmp_path / "made", add_segmentation(harness.scene, DRAWN), record(7))
    transform = harness.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, 3] = 3, 4, 5
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    (tmp_path / "out").mkdir()
    paths, problem = export.run([node], tmp_path / "out")
    assert problem == ""
    from SynthDiffusionScene.volumes import loadVolume

    assert loadVolume(harness.scene, paths[0], "read").GetOrigin() == (3, 4, 5)


def test_the_segmentation_is_called_like_the_volumes_and_written_once(harness, export, record, tmp_path):
    first = add_segmentation(harness.scene, DRAWN, "DOE^JOHN 1970-01-01")
    second = add_segmentation(harness.scene, {"lung": 9}, "DOE^JANE")
    nodes = add_results(harness, tmp_path / "a", first, record(1, case="case"), record(2, case="case"))
    nodes += add_results(harness, tmp_path / "b", second, record(3, case="case"))
    (tmp_path / "out").mkdir()
    _paths, problem = export.run(nodes, tmp_path / "out", segmentations=True)
    assert problem == ""
    found = names(tmp_path / "out")
    assert [name for name in found if name.endswith(".seg.nrrd")] == ["case (2).seg.nrrd", "case.seg.nrrd"]
    assert not any(b"DOE" in (tmp_path / "out" / name).read_bytes() for name in found)


def test_two_volumes_of_one_seed_do_not_replace_each_other(harness, export, record, tmp_path):
    drawing = add_segmentation(harness.scene, DRAWN)
    nodes = add_results(harness, tmp_path / "a", drawing, record(7))
    nodes += add_results(harness, tmp_path / "b", drawing, record(7))
    (tmp_path / "out").mkdir()
    paths, problem = export.run(nodes, tmp_path / "out")
    assert problem == "" and len(set(paths)) == 2
    assert len(names(tmp_path / "out")) == 4


@pytest.fixture
def made(harness, record, tmp_path):
    """Makes a volume as the engine does: its record has the checksum of its file. `made(value, **changes)`."""
    from SynthDiffusionScene.runs import addRun

    drawing = add_segmentation(harness.scene, DRAWN)

    def make(value: int, **changes):
        path, text = write_volume(tmp_path / f"made{value}.nrrd", value), tmp_path / f"made{value}.json"
        sums = {"output_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        text.write_text(json.dumps(record(**changes) | sums), encoding="utf-8")
        return addRun(harness.scene, [{"volume": str(path), "provenance": str(text)}], drawing)[0]

    return make


def exported(harness, standin, nodes, folder, suffix="nrrd") -> list[str]:
    """One export, and what it has written, within the folder."""
    paths, problem = Export(harness, standin).run(nodes, folder, suffix)
    assert problem == ""
    return [Path(path).relative_to(folder).as_posix() for path in paths]


def values(path) -> set[int]:
    """The voxels of a file, as another reader has them."""
    import SimpleITK

    return set(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).ravel().tolist())


STEM = "drawing_lung-nodule-ct_seed7"


def test_a_later_export_does_not_replace_another_volume_but_its_own_files(harness, standin, made, tmp_path):
    first, second, third = made(-500), made(-400), made(-300)
    out = tmp_path / "out"
    out.mkdir()
    assert exported(harness, standin, [first], out) == [f"{STEM}.nrrd"]
    folders = [f"{node.GetName()}/{STEM}.nrrd" for node in (second, third)]
    assert folders[0] == f"drawing synthetic (lung-nodule-ct, seed 7) (2)/{STEM}.nrrd"
    assert exported(harness, standin, [second], out) == folders[:1]
    written = names(out)
    for _time in range(2):  # in another order, and again
        assert exported(harness, standin, [third, first, second], out) == [folders[1], f"{STEM}.nrrd", folders[0]]
    assert names(out) == sorted([*written, folders[1], folders[1].replace(".nrrd", ".json")])
    assert [values(out / path) for path in (f"{STEM}.nrrd", *folders)] == [{-500}, {-400}, {-300}]


def test_files_of_unknown_origin_stay(harness, standin, made, tmp_path):
    node = made(-500)
    (tmp_path / f"{STEM}.nii.gz").write_text("a file of the user's own")
    folder = "drawing synthetic (lung-nodule-ct, seed 7)"
    (tmp_path / folder).mkdir()
    (tmp_path / folder / f"{STEM}.json").write_text("no record")
    assert exported(harness, standin, [node], tmp_path, "nii.gz") == [f"{folder} (2)/{STEM}.nii.gz"]
    assert (tmp_path / f"{STEM}.nii.gz").read_text() == "a file of the user's own"


def test_a_volume_that_was_renamed_is_found_by_its_name(harness, standin, made, tmp_path):
    from SynthDiffusionJobs.VolumeExport import targetName
    from SynthDiffusionScene.runs import renameVolume

    first, second = made(-500), made(-400)
    renameVolume(first, "large: nodule")
    for node in (first, second):
        assert exported(harness, standin, [node], tmp_path) == [targetName(node, "nrrd")]
    assert targetName(first, "nrrd") == f"large_ nodule (synthetic)/{STEM}.nrrd"
    assert targetName(second, "nii.gz") == f"{STEM}.nii.gz"
    assert values(tmp_path / targetName(first, "nrrd")) == {-500}


def test_a_segmentation_is_not_replaced_by_another_one_of_its_name(harness, standin, made, tmp_path):
    import slicer.util

    node, out = made(-500), tmp_path / "out"
    out.mkdir()
    drawing = node.GetNodeReference("SynthDiffusion.Segmentation")
    for _time in range(2):
        Export(harness, standin).run([node], out, segmentations=True)
        assert [name for name in names(out) if ".seg." in name] == ["drawing.seg.nrrd"]
    before = (out / "drawing.seg.nrrd").read_bytes()
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[5:10, 5:10, 5:10] = 1
    reference = add_volume(harness.scene, shape=(40, 40, 40))
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, drawing, "Segment_2", reference)
    paths, problem = Export(harness, standin).run([node], out, segmentations=True)
    assert problem == "" and Path(paths[0]).name == "drawing (2).seg.nrrd"
    assert (out / "drawing.seg.nrrd").read_bytes() == before != Path(paths[0]).read_bytes()


def test_the_engine_s_refusal_is_shown_and_what_was_written_stays(harness, export, record, tmp_path):
    drawing = add_segmentation(harness.scene, DRAWN)
    nodes = add_results(harness, tmp_path / "a", drawing, record(1))
    nodes += add_results(harness, tmp_path / "b", drawing, {**record(2), "settings": {"mode": "whole"}}, record(3))
    (tmp_path / "out").mkdir()
    paths, problem = export.run(nodes, tmp_path / "out")
    assert len(paths) == 1 and problem and "lacks 'seed'" in problem and "error:" not in problem
    assert names(tmp_path / "out") == [f"drawing_lung-nodule-ct_seed1.{end}" for end in ("json", "nrrd")]
    assert not any(harness.session.folders._session.iterdir())


def test_cancelling_ends_the_process_and_says_nothing_more(harness, export, record, standin, tmp_path):
    before = standin.counts()
    nodes = add_results(harness, tmp_path / "a", add_segmentation(harness.scene, DRAWN), record(1), record(2))
    (tmp_path / "out").mkdir()
    export.job.start(nodes, tmp_path / "out", "nrrd", False)
    assert standin.counts()["processes"] == before["processes"] + 1
    export.job.cancel()
    standin.process_events(0.3)
    assert export.ends == [] and standin.counts()["processes"] == before["processes"]
    # The first one may have been written before the process was ended; nothing comes after it.
    assert not [name for name in names(tmp_path / "out") if "seed2" in name]
    assert not any(harness.session.folders._session.iterdir())


def test_an_exported_volume_is_what_the_command_line_reads(harness, export, record, tmp_path):
    """The record that was written is accepted for another export, by the engine's own check."""
    (node,) = add_results(harness, tmp_path / "a", add_segmentation(harness.scene, DRAWN), record(5))
    (tmp_path / "out").mkdir()
    (path,), problem = export.run([node], tmp_path / "out")
    assert problem == ""
    command = [sys.executable, "-m", "SynthDiffusionLib", "export", "volume", path]
    command += ["--provenance", path.replace(".nrrd", ".json"), "--out", str(tmp_path / "again"), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout.splitlines()[-1])["volume"].endswith("drawing_lung-nodule-ct_seed5.nii.gz")


def test_a_volume_that_was_changed_says_so_and_has_no_adherence(harness, export, record, tmp_path):
    import slicer.util

    from SynthDiffusionScene.digests import VOXEL_DIGEST, volumeDigest

    drawing = add_segmentation(harness.scene, DRAWN)
    nodes = add_results(harness, tmp_path / "made", drawing, record(7), record(8))
    for node in nodes:
        node.SetAttribute(VOXEL_DIGEST, volumeDigest(node))
    slicer.util.arrayFromVolume(nodes[0])[3, 2, 1] += 1
    (tmp_path / "out").mkdir()
    paths, said = export.run(nodes, tmp_path / "out")
    assert said == f"'{nodes[0].GetName()}' was changed after it was made: its record says so, and holds no adherence."
    changed, kept = (json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8")) for path in paths)
    assert changed["modified_after_generation"] is True and not [name for name in changed if "adherence" in name]
    assert "modified_after_generation" not in kept and kept["adherence"]["dice"] == 0.71


def test_a_segmentation_that_was_changed_is_not_called_the_one_of_the_volume(harness, export, record, tmp_path):
    from SynthDiffusionLib.volumes import read_segmentation
    from SynthDiffusionScene.digests import DRAWING_DIGEST, segmentationDigest
    from SynthDiffusionScene.segmentations import writeJobInput

    drawing = add_segmentation(harness.scene, DRAWN)
    drawing.GetSegmentation().GetSegment("Segment_3").SetName("tumour")  # a second one of that name
    nodes = add_results(harness, tmp_path / "made", drawing, record(7), record(8))
    (tmp_path / "job").mkdir()
    names = list(writeJobInput(drawing, tmp_path / "job").values())
    nodes[0].SetAttribute(DRAWING_DIGEST, segmentationDigest(drawing))
    drawing.GetSegmentation().RemoveSegment("Segment_1")
    nodes[1].SetAttribute(DRAWING_DIGEST, segmentationDigest(drawing))
    (tmp_path / "out").mkdir()
    paths, said = export.run(nodes, tmp_path / "out", segmentations=True)
    assert said == (
        f"The drawing was changed after '{nodes[0].GetName()}' was made: the exported segmentation is not the one that "
        "it was made from."
    )
    # Told apart by the names that the command line of a volume has.
    found = [segment.name for segment in read_segmentation(paths[0]).segments]
    assert found == names[1:] == ["tumour", "tumour (2)"]
    assert [drawing.GetSegmentation().GetNthSegment(n).GetName() for n in (0, 1)] == ["tumour", "tumour"]


def test_voxels_that_are_not_those_of_the_record_are_said_to_be_edited(harness, standin, made, tmp_path):
    """The engine compares them, also where the node does not know what it was like (scenes of older versions)."""
    import slicer.util

    from SynthDiffusionLib.volumes import read_volume
    from SynthDiffusionLib.volumes.digests import voxels_sha256
    from SynthDiffusionScene.digests import VOXEL_DIGEST

    sums = {"output_voxels_sha256": voxels_sha256(read_volume(write_volume(tmp_path / "own.nrrd", -500)))}
    same, other = made(-500, **sums), made(-400, **sums)
    for node in (same, other):
        node.RemoveAttribute(VOXEL_DIGEST)
    assert set(np.unique(slicer.util.arrayFromVolume(other))) == {-400}
    for folder, node in (("a", same), ("b", other)):
        (tmp_path / folder).mkdir()
        paths, said = Export(harness, standin).run([node], tmp_path / folder)
        record = json.loads(Path(paths[0]).with_suffix(".json").read_text(encoding="utf-8"))
        assert record.get("modified_after_generation", False) == (node is other)
        expected = f"The voxels of '{node.GetName()}' are not those that the model made"
        assert said.startswith(expected) if node is other else said == ""
