"""Volumes of a scene as marked files: written by the real engine, with record, region and segmentation."""

from __future__ import annotations

import json
import subprocess
import sys

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
    assert names(tmp_path / "out") == [] and not any(harness.session.folders._session.iterdir())


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
