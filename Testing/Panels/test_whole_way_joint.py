"""Image and segmentation made together by real workers, from the sliders to the saved scene: a tiny network."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import whole_way
from test_generation import saved_request
from test_volume_export import Export, names
from test_whole_way import choose_model
from whole_way import ROOT, Slicer, array

MAKE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from tiny_slice_ldm import make_joint_package
make_joint_package(Path(sys.argv[1]) / "tiny-joint")
make_joint_package(Path(sys.argv[1]) / "tiny-empty", id="tiny-empty", name="Tiny empty", mask_bias=-100.0)
"""


@pytest.fixture(scope="module")
def joint_folder(tmp_path_factory):
    """A model folder; made in a child process, so that this one has no torch."""
    folder = tmp_path_factory.mktemp("joint models")
    paths = [str(ROOT), str(ROOT / "Testing" / "Engine")]
    subprocess.run([sys.executable, "-c", MAKE, str(folder), *paths], check=True)
    return folder


@pytest.fixture
def opened(standin, joint_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SYNTHDIFFUSION_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(joint_folder))
    made = Slicer(standin)
    made.set(device="cpu", fixedSeed=True, seed=5)
    return made


def made_with(volume):
    return volume.GetNodeReference("SynthDiffusion.MadeSegmentation")


def mask(volume) -> np.ndarray:
    """What is marked, on the grid of the volume."""
    import slicer.util

    segmentation = made_with(volume)
    segment = segmentation.GetSegmentation().GetNthSegmentID(0)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume) > 0


def test_from_the_sliders_to_the_saved_scene_and_again(opened, tmp_path, monkeypatch, tiny_model_folder):
    from SynthDiffusionScene.bundle import inventory, readBundle
    from SynthDiffusionScene.runs import runsOf
    from SynthDiffusionScene.sceneExport import exportScene

    choose_model(opened, "tiny-joint")
    assert opened.parameters.mode == "joint" and opened.parameters.segmentation is None
    ui = opened.panel.modelPanel.tumour.ui
    ui.volumeBox.click()
    ui.volumeSlider.value = 15
    ui.centerBox.click()
    ui.centerSSlider.value = -3
    generate = opened.panel.generatePanel
    opened.wait(lambda: generate._answer.get("event") == "done", what="the estimate")
    whole_way.quick_answers(monkeypatch, tiny_model_folder)  # from now on
    run = opened.generate()
    opened.wait_run(run)
    (volume,) = opened.volumes(run)

    # Both are there, on one grid whose middle is the origin, and shown together.
    assert volume.GetImageData().GetDimensions() == (16, 24, 16)
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    np.testing.assert_allclose(bounds, [-32, 32, -48, 48, -40, 40], atol=1e-3)
    record = json.loads(volume.GetAttribute("SynthDiffusion.Provenance"))
    assert record["settings"]["tumour"]["asked"]["volume_mm3"] == 15000.0
    assert record["settings"]["tumour"]["asked"]["center_s_mm"] == -3.0
    voxels = mask(volume)
    assert voxels.sum() * 4 * 4 * 5 == pytest.approx(record["measured"]["volume_mm3"])
    place = np.argwhere(voxels).mean(0)[::-1]  # i, j, k; the grid is LPS
    centre = (place - (np.array([16, 24, 16]) - 1) / 2) * [-4, -4, 5]
    found = [record["measured"][f"center_{axis}_mm"] for axis in "ras"]
    np.testing.assert_allclose(centre, found, atol=0.01)
    assert made_with(volume).GetDisplayNode().GetVisibility()
    text = opened.panel.resultsPanel.ui.tumourLabel.text
    assert ">15&nbsp;" in text and "by chance" in text and f"{record['measured']['volume_mm3'] / 1000:.3g}" in text

    # The scene has them, and not the box.
    path = exportScene(opened.scene, tmp_path / "scene.mrb")
    found = inventory(readBundle(path, tmp_path / "opened", like=opened.scene))
    assert sum(name.startswith("volume") for name in found) == 1
    assert sum(name.startswith("segmentation") for name in found) == 1

    # As files, each with the name of the volume and marked.
    (tmp_path / "files").mkdir()
    paths, problem = Export(opened, opened.standin).run([volume], tmp_path / "files", "nrrd", segmentations=True)
    assert problem == "" and names(tmp_path / "files") == [
        f"joint_tiny-joint_seed5.{e}" for e in ("json", "nrrd", "seg.nrrd")
    ]
    reader = sitk.ImageFileReader()
    for end in ("nrrd", "seg.nrrd"):
        reader.SetFileName(str(tmp_path / "files" / f"joint_tiny-joint_seed5.{end}"))
        reader.ReadImageInformation()
        assert reader.GetMetaData("SynthDiffusion.Synthetic") == "YES"
    marked = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "files" / "joint_tiny-joint_seed5.seg.nrrd")))
    assert (marked > 0).sum() == voxels.sum()

    # The same again: to the voxel, image and segmentation.
    first = saved_request(run.folder)
    ui.volumeBox.click()
    opened.set(seed=99, tumour={"sphericity": 0.9})
    opened.panel.resultsPanel.select(volume)
    opened.panel.resultsPanel.ui.sameButton.click()
    assert "are set" in opened.panel.resultsPanel.ui.messageLabel.text
    opened.wait(lambda: opened.ui.generateButton.enabled, what="the button")
    second = opened.generate()
    opened.wait_run(second)
    request = saved_request(second.folder)
    for name in ("mode", "tumour", "seed", "sampler", "steps", "case", "segmentation"):
        assert first[name] == request[name], name
    (again,) = opened.volumes(second)
    assert np.array_equal(array(again), array(volume)) and np.array_equal(mask(again), voxels)
    displays = [made_with(node).GetDisplayNode() for node in (volume, again)]
    assert [display.GetVisibility() for display in displays] == [0, 1]  # they lie in one place

    # Removed together.
    from SynthDiffusionScene.runs import deleteVolume

    for row in runsOf(opened.scene):
        deleteVolume(opened.scene, row.node)
    assert opened.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_what_cannot_be_is_refused_in_the_words_of_the_panel(opened):
    choose_model(opened, "tiny-joint")
    generate = opened.panel.generatePanel
    opened.set(tumour={"box_r_mm": 5.0, "box_a_mm": 5.0, "box_s_mm": 5.0, "volume_mm3": 20000.0})
    opened.wait(lambda: generate._answer.get("event") == "error", what="the refusal")
    text = opened.ui.estimateLabel.text
    assert "an extent of 5 x 5 x 5 mm holds 0.125 ml, less than the size of 20 ml" in text
    assert "check 'As in the training patients'" in text and "--" not in text
    assert not opened.ui.generateButton.enabled
    opened.set(tumour={"volume_mm3": 45000.0})
    opened.wait(lambda: generate._answer.get("event") == "done", what="the estimate")
    assert "Size 45 ml lies outside" in opened.ui.notesLabel.text and opened.ui.generateButton.enabled


def test_an_image_in_which_nothing_was_marked(quick_answers, opened):
    choose_model(opened, "tiny-empty")
    run = opened.generate()
    opened.wait_run(run)
    (volume,) = opened.volumes(run)
    assert made_with(volume) is None
    assert "marked nothing" in opened.panel.resultsPanel.ui.tumourLabel.text
    assert any("no voxel of tumour" in warning for warning in run.warnings)
    assert "--" not in opened.ui.errorLabel.text and "another size, shape or place" in opened.ui.errorLabel.text
