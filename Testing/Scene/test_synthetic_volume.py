"""A generated volume in the scene: where it lies, how it is named, marked and shown."""

from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest

pytest.importorskip("slicer")
nibabel = pytest.importorskip("nibabel")

import slicer  # noqa: E402
import slicer.util  # noqa: E402

from SynthDiffusionScene import hierarchy, volumes  # noqa: E402
from SynthDiffusionScene.errors import SceneError  # noqa: E402

PROVENANCE = {
    "case": "case7",
    "model": {"id": "lung-nodule-ct", "version": "1.0"},
    "settings": {"mode": "whole", "seed": 41},
    "display": {"window": 1400, "level": -500},
    "notes": ['50 % of "lung; left" → nodule', "a:b;c=d\nnext <line> & more"],
}


@pytest.fixture
def generated(tmp_path, affine):
    """Path of a small NIfTI file, and its voxels (I, J, K)."""
    voxels = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7) - 1000
    path = tmp_path / "generated.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path, voxels


@pytest.fixture
def segmentation(two_overlapping):
    return two_overlapping[0]


def test_voxels_and_geometry_are_those_that_nibabel_reads(scene, generated, segmentation):
    path, voxels = generated
    node = volumes.addSyntheticVolume(scene, path, PROVENANCE, segmentation)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node).T, voxels)
    np.testing.assert_allclose(volumes.ijkToRas(node), nibabel.load(path).affine, atol=1e-4)


def test_name_marks_and_provenance(scene, generated, segmentation):
    node = volumes.addSyntheticVolume(scene, generated[0], PROVENANCE, segmentation)
    assert node.GetName() == "case7 synthetic (lung-nodule-ct, seed 41)"
    assert node.GetAttribute("SynthDiffusion.Synthetic") == "YES"
    assert node.GetAttribute("SynthDiffusion.Model") == "lung-nodule-ct"
    assert node.GetAttribute("SynthDiffusion.Seed") == "41"
    assert node.GetAttribute("SynthDiffusion.ContainsRealPatientPixels") is None
    assert volumes.provenanceOf(node) == PROVENANCE


@pytest.mark.parametrize("sign", [{"settings": {"mode": "inpaint", "seed": 3}}, {"contains_real_patient_pixels": True}])
def test_inpainted_volume_says_that_it_holds_real_pixels(scene, generated, segmentation, sign):
    node = volumes.addSyntheticVolume(scene, generated[0], {"seed": 3} | PROVENANCE | sign, segmentation)
    assert node.GetName() == "case7 inpainted (lung-nodule-ct, seed 3)"
    assert node.GetAttribute("SynthDiffusion.Synthetic") == "YES"
    assert node.GetAttribute("SynthDiffusion.ContainsRealPatientPixels") == "YES"


@pytest.mark.parametrize(
    ("provenance", "window_level"),
    [
        ({"model": "m", "seed": 1}, (1400, -500)),
        ({"model": "m", "seed": 1, "modality": "CT"}, (1400, -500)),
        ({"model": "m", "seed": 1, "display": {"window": 350, "level": 40}}, (350, 40)),
        ({"model": "m", "seed": 1, "modality": "MR"}, None),
        ({"model": "m", "seed": 1, "display": {}}, None),
    ],
)
def test_window_and_level(scene, generated, provenance, window_level):
    display = volumes.addSyntheticVolume(scene, generated[0], provenance).GetDisplayNode()
    assert display.GetColorNodeID() == "vtkMRMLColorTableNodeGrey"
    assert bool(display.GetAutoWindowLevel()) == (window_level is None)
    if window_level:
        assert (display.GetWindow(), display.GetLevel()) == window_level


def test_joins_the_study_that_there_is(scene, generated, segmentation):
    tree = hierarchy.subjectHierarchy(scene)
    patient = tree.CreateSubjectItem(tree.GetSceneItemID(), "anonymous 7")
    study = tree.CreateStudyItem(patient, "CT thorax")
    folder = tree.CreateFolderItem(study, "my drawings")
    tree.SetItemParent(hierarchy.itemOfNode(scene, segmentation), folder)
    before = tree.GetNumberOfItems()
    node = volumes.addSyntheticVolume(scene, generated[0], PROVENANCE, segmentation)
    assert tree.GetItemParent(tree.GetItemByDataNode(node)) == study
    assert tree.GetItemParent(tree.GetItemByDataNode(segmentation)) == folder
    assert tree.GetNumberOfItems() == before + 1


def test_study_is_made_below_the_patient_that_there_is(scene, generated, segmentation):
    tree = hierarchy.subjectHierarchy(scene)
    patient = tree.CreateSubjectItem(tree.GetSceneItemID(), "anonymous 7")
    tree.SetItemParent(hierarchy.itemOfNode(scene, segmentation), patient)
    node = volumes.addSyntheticVolume(scene, generated[0], PROVENANCE, segmentation)
    study = hierarchy.studyOfNode(scene, segmentation)
    assert study == hierarchy.studyOfNode(scene, node)
    assert tree.GetItemParent(study) == patient


def test_patient_and_study_are_made_where_missing_and_used_again(scene, generated, segmentation):
    tree = hierarchy.subjectHierarchy(scene)
    first = volumes.addSyntheticVolume(scene, generated[0], PROVENANCE, segmentation)
    second = volumes.addSyntheticVolume(scene, generated[0], PROVENANCE | {"seed": 42}, segmentation)
    studies = {hierarchy.studyOfNode(scene, node) for node in (first, second, segmentation)}
    assert len(studies) == 1 and None not in studies
    patient = tree.GetItemParent(studies.pop())
    assert tree.GetItemName(patient) == "case7"
    assert tree.GetItemLevel(patient) == "Patient"
    assert tree.GetItemParent(patient) == tree.GetSceneItemID()


def test_lies_under_the_transform_of_the_segmentation(scene, generated, segmentation):
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    node = volumes.addSyntheticVolume(scene, generated[0], PROVENANCE, segmentation)
    assert node.GetParentTransformNode() is transform


@pytest.mark.parametrize("kind", ["missing", "junk", "cut nifti", "cut nrrd", "4d"])
def test_unreadable_file_is_refused_and_leaves_no_node(scene, generated, tmp_path, kind):
    path = tmp_path / "bad.nii.gz"
    if kind == "junk":
        path.write_bytes(b"junk" * 200)
    elif kind == "cut nifti":
        path.write_bytes(gzip.compress(gzip.decompress(generated[0].read_bytes())[:380]))
    elif kind == "cut nrrd":
        path = tmp_path / "bad.nrrd"
        path.write_bytes(b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n\n" + bytes(9))
    elif kind == "4d":
        nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.int16), np.eye(4)), path)
    nodes = scene.GetNumberOfNodes()
    whole = hashlib.sha256(generated[0].read_bytes()).hexdigest()
    provenance = PROVENANCE | ({"output_sha256": whole} if kind == "cut nifti" else {})
    with pytest.raises(SceneError, match=path.name) as caught:
        volumes.addSyntheticVolume(scene, path, provenance)
    assert caught.value.exitCode == 2
    assert scene.GetNumberOfNodes() == nodes


def test_checksum_of_the_generated_file_is_accepted(scene, generated):
    provenance = PROVENANCE | {"output_sha256": hashlib.sha256(generated[0].read_bytes()).hexdigest()}
    assert volumes.addSyntheticVolume(scene, generated[0], provenance)


def test_volume_without_voxels_is_refused(scene):
    with pytest.raises(SceneError, match="'hollow' has no voxels"):
        volumes.checkVolume(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow"))
