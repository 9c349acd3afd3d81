"""Scene files: written by the child process, read by another process and by zipfile and pynrrd."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from scene_examples import LUNG, NODULE, SHAPE

pytest.importorskip("slicer")
nibabel = pytest.importorskip("nibabel")
nrrd = pytest.importorskip("nrrd")

from SynthDiffusionLib.jobs.scene_export import write_scene  # noqa: E402
from SynthDiffusionScene import bundle, segmentations, write  # noqa: E402
from SynthDiffusionScene.errors import SceneError  # noqa: E402

PROVENANCE = {
    "case": "case7",
    "model": {"id": "lung-nodule-ct"},
    "settings": {"seed": 3, "mode": "whole"},
    "note": "ä;:%",
}


@pytest.fixture
def job(tmp_path, two_overlapping, affine):
    """A job folder with a segmentation and a volume on its grid, and the volume's voxels (I, J, K)."""
    folder = tmp_path / "job"
    folder.mkdir()
    segmentations.writeJobInput(two_overlapping[0], folder)
    voxels = np.random.default_rng(0).integers(-1000, 400, SHAPE, np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / "generated.nii.gz")
    return folder, voxels


def _description(**changes) -> dict:
    return {
        "output": "scene of case7.mrb",
        "volumes": [{"path": "generated.nii.gz", "role": "synthetic", "provenance": PROVENANCE}],
        "segmentations": [{"path": "segmentation.seg.nrrd", "name": "lungs"}],
    } | changes


# Plain Slicer API, none of our code: what another program finds in the file.
READER = """
import json, sys, slicer
scene = slicer.vtkMRMLScene()
scene.SetURL(slicer.vtkMRMLScene.UnpackSlicerDataBundle(sys.argv[1], sys.argv[2]))
assert scene.Connect()
volume = scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
segmentation = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
segments = [segmentation.GetSegmentation().GetNthSegment(i) for i in range(2)]
tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
parents = [tree.GetItemParent(tree.GetItemByDataNode(node)) for node in (volume, segmentation)]
print(json.dumps({
    "volume": volume.GetName(), "segmentation": segmentation.GetName(),
    "attributes": {name: volume.GetAttribute(name) for name in volume.GetAttributeNames()},
    "window": volume.GetDisplayNode().GetWindow(),
    "names": [s.GetName() for s in segments], "terminology": [s.GetTerminology() for s in segments],
    "parents": parents, "level": tree.GetItemLevel(parents[0]),
    "patient": tree.GetItemName(tree.GetItemParent(parents[0])),
}))
"""


def test_both_nodes_survive_saving_and_loading_in_fresh_processes(job, two_overlapping, affine, tmp_path):
    folder, voxels = job
    path = write_scene(folder, _description())
    assert path == folder / "scene of case7.mrb"
    assert not [p.name for p in folder.iterdir() if p.suffix == ".part"]

    (tmp_path / "unpacked").mkdir()
    command = [sys.executable, "-c", READER, str(path), str(tmp_path / "unpacked")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["volume"] == "case7 synthetic (lung-nodule-ct, seed 3)"
    assert found["attributes"]["SynthDiffusion.Synthetic"] == "YES"
    assert json.loads(found["attributes"]["SynthDiffusion.Provenance"]) == PROVENANCE
    assert found["window"] == 1400
    assert found["segmentation"] == "lungs"
    assert found["names"] == list(two_overlapping[1])
    assert found["terminology"] == [LUNG, NODULE]
    assert len(set(found["parents"])) == 1
    assert (found["level"], found["patient"]) == ("Study", "case7")

    # The same file without Slicer: voxels and geometry of both.
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "zip")
    files = {p.name: p for p in (tmp_path / "zip").rglob("*.nrrd")}
    [name] = [n for n in files if not n.endswith(".seg.nrrd")]
    assert "synthetic" in name
    image, header = nrrd.read(str(files[name]))
    np.testing.assert_array_equal(image, voxels)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    np.testing.assert_allclose(header["space directions"].T, lps[:3, :3], atol=1e-4)
    np.testing.assert_allclose(header["space origin"], lps[:3, 3], atol=1e-4)
    [name] = [n for n in files if n.endswith(".seg.nrrd")]
    layers, header = nrrd.read(str(files[name]))
    np.testing.assert_allclose(header["space origin"], lps[:3, 3], atol=1e-4)
    assert layers.shape[-3:] == SHAPE
    for layer, mask in zip(layers, two_overlapping[1].values()):
        np.testing.assert_array_equal(layer > 0, mask)


def test_long_path_with_blanks_and_umlauts(job, tmp_path):
    target = tmp_path / "Größe und Übersicht " / ("x" * 60) / ("y " * 30) / ("zäh" * 20)
    target.mkdir(parents=True)
    output = target / ("Fall 7 " + "ö" * 40 + ".mrb")
    assert len(str(output)) > 250
    path = write_scene(job[0], _description(output=str(output)))
    assert path == output
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    assert [p.name for p in target.iterdir()] == [output.name]


def test_real_and_inpainted_volumes_are_told_apart(job):
    folder, _ = job
    volumes = [
        {"path": "generated.nii.gz", "role": "inpainted", "provenance": PROVENANCE},
        {"path": "generated.nii.gz", "role": "real", "name": "case7 real"},
    ]
    scene = bundle.buildScene(write_description(folder, _description(volumes=volumes)))
    inpainted, real = (scene.GetNthNodeByClass(i, "vtkMRMLScalarVolumeNode") for i in range(2))
    assert inpainted.GetName() == "case7 inpainted (lung-nodule-ct, seed 3)"
    assert inpainted.GetAttribute("SynthDiffusion.Synthetic") == "YES"
    assert real.GetAttribute("SynthDiffusion.Synthetic") is None
    for node in (inpainted, real):
        assert node.GetAttribute("SynthDiffusion.ContainsRealPatientPixels") == "YES"
    assert len({study["study"] for study in bundle.inventory(scene).values() if "study" in study}) == 1


def test_scene_without_segmentation(job):
    scene = bundle.buildScene(write_description(job[0], _description(segmentations=[])))
    [volume] = bundle.inventory(scene).values()
    assert volume["study"] == "case7 / SynthDiffusion"


def test_file_is_opened_again_before_it_gets_its_name(job, monkeypatch):
    """A writer that loses something must not pass: here it saves a scene in which one voxel was changed."""
    import slicer.util

    honest = bundle.writeBundle

    def lossy(scene, path):
        node = scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        slicer.util.arrayFromVolume(node)[3, 2, 1] += 1
        honest(scene, path)

    monkeypatch.setattr(bundle, "writeBundle", lossy)
    with pytest.raises(SceneError, match="differs from what was put in: voxels of volume 1") as caught:
        bundle.saveScene(write_description(job[0], _description()))
    assert caught.value.exitCode == 1
    assert not list(job[0].glob("*.mrb"))


def test_empty_node_in_a_scene_is_refused_before_writing(scene, tmp_path):
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow")
    with pytest.raises(SceneError, match="hollow"):
        bundle.writeBundle(scene, tmp_path / "a.mrb")
    assert not list(tmp_path.iterdir())


def write_description(folder, description) -> dict:
    (folder / "scene.json").write_text(json.dumps({"format": write.FORMAT, **description}), encoding="utf-8")
    return write.readDescription(folder)


def _empty_segmentation(folder):
    voxels, header = nrrd.read(str(folder / "segmentation.seg.nrrd"))
    header = {k: v for k, v in header.items() if "ConversionParameters" not in k}
    nrrd.write(str(folder / "empty.seg.nrrd"), np.zeros_like(voxels), header)


@pytest.mark.parametrize(
    ("changes", "message", "code"),
    [
        ({"format": "synthdiffusion-scene-9"}, "synthdiffusion-scene-1", 2),
        ({"output": "scene.zip"}, "does not end in .mrb", 2),
        ({"output": "../scene.mrb"}, "leads out of the job folder", 2),
        ({"output": None}, "'output' is missing", 2),
        ({"volumes": [{"path": "../generated.nii.gz", "role": "synthetic"}]}, "leads out of the job folder", 2),
        ({"volumes": [{"path": "nothing.nii.gz", "role": "synthetic"}]}, "nothing.nii.gz' does not exist", 2),
        ({"volumes": [{"path": "generated.nii.gz", "role": "imaginary"}]}, "'imaginary'", 2),
        ({"volumes": [{"path": "generated.nii.gz", "role": "synthetic", "provenance": "p.json"}]}, "p.json", 2),
        ({"volumes": "generated.nii.gz"}, "not a list", 2),
        ({"volumes": [], "segmentations": []}, "neither volumes nor segmentations", 2),
        ({"segmentations": [{"path": "empty.seg.nrrd"}]}, "All segments of 'empty' are empty", 2),
        ({"segmentations": [{"path": "scene.json"}]}, "not a NRRD file", 2),
        ({"output": "missing/scene.mrb"}, "could not be written", 1),
    ],
)
def test_bad_description_gets_one_line_and_no_file(job, capfd, changes, message, code):
    folder, _ = job
    _empty_segmentation(folder)
    description = {"format": write.FORMAT} | _description() | changes
    (folder / "scene.json").write_text(json.dumps(description), encoding="utf-8")
    assert write.main([str(folder)]) == code
    output = capfd.readouterr()
    event = json.loads(output.out.splitlines()[-1])
    assert event["event"] == "error"
    assert message in event["message"]
    assert "\n" not in event["message"]
    assert "Traceback" not in output.err
    assert not list(folder.rglob("*.mrb"))


@pytest.mark.parametrize("text", [None, "", "{", "[]", '"text"'])
def test_scene_json_that_is_none(tmp_path, capfd, text):
    if text is not None:
        (tmp_path / "scene.json").write_text(text, encoding="utf-8")
    assert write.main([str(tmp_path)]) == 2
    assert "scene.json" in json.loads(capfd.readouterr().out)["message"]


def test_unforeseen_fault_is_reported_not_thrown(job, monkeypatch, capfd):
    monkeypatch.setattr(bundle, "buildScene", lambda description: [][0])
    (job[0] / "scene.json").write_text(json.dumps({"format": write.FORMAT} | _description()), encoding="utf-8")
    assert write.main([str(job[0])]) == 1
    output = capfd.readouterr()
    assert re.fullmatch(r"IndexError: .+", json.loads(output.out)["message"])
    assert "Traceback" not in output.err
