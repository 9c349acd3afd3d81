"""From a loaded volume to the same voxels in a reopened scene, with real workers, in the stand-in."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from whole_way import STEPS, Slicer, add_segment, array, ball, draw, quick_answers, slicer_session


def test_from_a_drawing_to_the_same_voxels_in_the_reopened_scene(
    application, tiny_model, tiny_model_folder, tmp_path, monkeypatch
):
    bundle = tmp_path / "saved.mrb"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with slicer_session(tmp_path / "first") as standin:
        made = draw_generate_and_save(Slicer(standin), tmp_path, bundle)
    quick_answers(monkeypatch, tiny_model_folder)  # set-up and estimate were real in the first session
    with slicer_session(tmp_path / "second") as standin:
        again = generate_again(Slicer(standin), bundle)
    assert np.array_equal(made, again)


def draw_generate_and_save(slicer, tmp_path, bundle) -> np.ndarray:
    """The first session. Returns the voxels that were made."""
    import slicer.util as util

    # Load.
    image = sitk.GetImageFromArray(np.random.default_rng(3).normal(-700, 40, (24, 24, 24)).astype(np.int16))
    image.SetOrigin((10.0, -20.0, 30.0))
    sitk.WriteImage(image, str(tmp_path / "chest.nrrd"))
    volume = util.loadVolume(str(tmp_path / "chest.nrrd"))
    segmentation_ui, model_ui = slicer.panel.segmentationPanel.ui, slicer.panel.modelPanel.ui
    segmentation_ui.volumeSelector.setCurrentNode(volume)

    # Draw: a new drawing on the volume, and ready-made segments for two classes of the model.
    choose_model(slicer, "tiny-ct")
    segmentation_ui.newButton.click()
    segmentation = slicer.parameters.segmentation
    assert not slicer.ui.generateButton.enabled
    assert "empty" in slicer.ui.estimateLabel.text
    buttons = {button.text: button for button in slicer.panel.segmentationPanel.draw._buttons}
    shape = array(volume).shape
    lung = np.zeros(shape, bool)
    lung[2:-2, 2:-2, 2:-2] = True
    for text, mask in (("Add lung", lung), ("Add nodule", ball(shape, (12, 11, 13), 4))):
        buttons[text].click()
        draw(segmentation, segmentation.GetSegmentation().GetSegmentIDs()[-1], mask, volume)
    slicer.wait(lambda: segmentation_ui.mappingTable.item(1, 1) is not None, what="the table")
    slicer.wait(lambda: segmentation_ui.mappingTable.item(1, 1).text() != "empty", what="the table")

    # Map: both are recognised by their codes; the lung is left out by hand and taken back.
    table = segmentation_ui.mappingTable
    assert [table.cellWidget(row, 2).currentText for row in range(2)] == ["lung", "nodule"]
    choice = table.cellWidget(0, 2)
    choice.setCurrentIndex(choice.findData(""))
    choice._obj.activated.emit(choice.currentIndex)
    assert dict(slicer.parameters.classes) == {segmentation.GetSegmentation().GetSegmentIDs()[0]: ""}
    segmentation_ui.resetButton.click()
    assert dict(slicer.parameters.classes) == {}

    # Generate into it.
    model_ui.inpaintButton.click()
    model_ui.fixedSeedButton.click()
    model_ui.seedBox.value = 41
    slicer.set(customSampling=True, sampler="ddim", steps=STEPS)
    generate = slicer.panel.generatePanel
    slicer.wait(lambda: generate._answer.get("event") == "done", what="the estimate")
    assert "Time: not known yet" in slicer.ui.estimateLabel.text
    util.setSliceViewerLayers(background=volume)
    before = slicer.views()
    progress, previews = [], []
    slicer.queue.progressed.connect(lambda run: progress.append((run.stage, run.step, run.total)))
    slicer.queue.previewed.connect(lambda run, path: previews.append(shown(slicer)))
    run = slicer.generate()
    assert (slicer.ui.cancelButton.enabled, slicer.ui.progressBar.isVisibleTo(slicer.panel.widget)) == (True, True)
    slicer.wait_run(run)
    stages = list(dict.fromkeys(stage for stage, _step, _total in progress))
    assert stages == ["read", "model", "denoise", "adherence", "write"]
    assert [step for stage, step, _ in progress if stage == "denoise" and step] == list(range(1, STEPS + 1))
    assert len(previews) == 4
    assert all(view == {"SynthDiffusion preview"} for view in previews)
    (node,) = slicer.volumes(run)
    made = array(node)
    assert slicer.scene.GetFirstNodeByName("SynthDiffusion preview") is None
    # The views show what they showed, with the result over it.
    assert slicer.views() == [(view, background, node.GetID(), 1.0) for view, background, _id, _opacity in before]
    slicer.wait(lambda: "past runs" in slicer.ui.estimateLabel.text, what="the estimate")

    # Compare.
    results, compare = slicer.panel.resultsPanel, slicer.panel.comparePanel
    assert results.ui.volumesTable.rowCount == 1
    compare.choose(node)
    layout = slicer.panel.session.scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    arrangement, nodes = layout.GetViewArrangement(), slicer.inventory()
    compare.ui.compareButton.click()
    assert compare.isActive and layout.GetViewArrangement() != arrangement
    assert compare.ui.statisticsTable.rowCount >= 2
    compare.ui.compareButton.click()
    assert not compare.isActive and layout.GetViewArrangement() == arrangement
    after = slicer.inventory()
    assert after["views"] == nodes["views"] and after["items"] == nodes["items"]

    # Save, during a comparison.
    compare.ui.compareButton.click()
    slicer.standin.dialogs.answer(str(bundle))
    slicer.panel.exportPanel.ui.sceneButton.click()
    assert "Saved" in slicer.panel.exportPanel.ui.messageLabel.text
    assert compare.isActive
    return made


def generate_again(slicer, bundle) -> np.ndarray:
    """The second session. Returns the voxels of the second run."""
    import slicer as python

    assert python.app.coreIOManager().loadScene(str(bundle))
    slicer.standin.process_events(0.3)
    assert slicer.parameters.steps == STEPS and slicer.parameters.seed == 41
    results = slicer.panel.resultsPanel
    assert results.ui.volumesTable.rowCount == 1
    slicer.set(seed=7, quality="fast", customSampling=False, mode="whole", modelId="lung-nodule-ct", samples=3)
    slicer.parameters.realVolume = slicer.parameters.segmentation = None
    results.ui.volumesTable.selectRow(0)
    first = results.selectedNode()
    results.ui.sameButton.click()
    assert "are set" in results.ui.messageLabel.text
    slicer.wait(lambda: slicer.ui.generateButton.enabled, what="the button")
    run = slicer.generate()
    slicer.wait_run(run)
    (node,) = slicer.volumes(run)
    assert np.array_equal(array(first), array(node))
    assert node.GetAttribute("SynthDiffusion.Run") == "2"
    return array(node)


def test_a_nodule_in_a_real_chest_ct(opened, shared_data):
    """With the shipped model, as a user would: fast, one sample."""
    import slicer.util as util

    folder = shared_data / "inputs" / "chest_ct_64"
    if not folder.is_dir():
        pytest.skip("the chest CT is not there")
    volume = util.loadVolume(str(folder / "ct-64.nrrd"))
    real = array(volume)
    lung = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "wholeLung-64.nrrd"))) > 0
    spacing = volume.GetSpacing()[::-1]
    depth = ndimage.distance_transform_edt(lung & (real < -600), sampling=spacing)
    centre = np.unravel_index(depth.argmax(), depth.shape)
    offsets = [(g - c) * mm for g, c, mm in zip(np.indices(real.shape), centre, spacing)]
    nodule = sum(offset**2 for offset in offsets) <= 8.0**2
    segmentation = opened.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawing")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    add_segment(segmentation, "lung", lung, volume)
    add_segment(segmentation, "nodule", nodule, volume)
    opened.set(segmentation=segmentation, realVolume=volume, modelId="lung-nodule-ct", mode="inpaint", quality="fast")
    opened.set(fixedSeed=True, seed=5)
    run = opened.generate()
    opened.wait_run(run)
    (node,) = opened.volumes(run)
    made = array(node)
    region = node.GetNodeReference("SynthDiffusion.Region")
    changed = util.arrayFromSegmentBinaryLabelmap(region, region.GetSegmentation().GetNthSegmentID(0), volume) > 0
    assert changed.sum() < 0.2 * real.size
    assert np.array_equal(made[~changed], real[~changed])
    assert nodule.sum() > 10 and not (nodule & ~changed).any()
    assert made[nodule].mean() > real[nodule].mean() + 200
    row = opened.panel.resultsPanel._rows[0]
    assert 0 <= float(row.adherence.split(",")[0]) <= 1
    assert float(row.seconds) == pytest.approx(run.seconds, abs=0.1)


def choose_model(slicer, model_id: str) -> None:
    """As the user does, in the list of models."""
    selector = slicer.panel.modelPanel.ui.modelSelector
    index = selector.findData(model_id)
    selector.setCurrentIndex(index)
    selector._obj.activated.emit(index)
    assert slicer.parameters.modelId == model_id


def shown(slicer) -> set[str]:
    """Names of the volumes on top in the slice views."""
    names = set()
    for _id, background, foreground, _opacity in slicer.views():
        node = slicer.scene.GetNodeByID(foreground or background)
        names.add(node.GetName() if node is not None else "")
    return names
