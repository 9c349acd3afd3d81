"""The segmentation panel on the stand-in: where a segmentation comes from, drawing, and the mapping table."""

from __future__ import annotations

import pytest
from panel_harness import Harness, add_segmentation, add_volume, shipped_description, shipped_model, widths


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.SegmentationPanel import SegmentationPanel

    made = Harness(standin.scene, SegmentationPanel, [shipped_model()])
    made.parameters.modelId = "lung-nodule-ct"
    yield made
    made.close()


def cells(harness) -> list[tuple[str, ...]]:
    """Segment, volume, class and why, row by row."""
    table = harness.ui.mappingTable
    return [
        (
            table.item(row, 0).text(),
            table.item(row, 1).text(),
            table.cellWidget(row, 2).currentText,
            table.item(row, 3).text(),
        )
        for row in range(table.rowCount)
    ]


def choose(harness, row: int, name: str) -> None:
    """The user picks a class in a row."""
    box = harness.ui.mappingTable.cellWidget(row, 2)
    index = box.findText(name)
    assert index >= 0, f"no '{name}'"
    box.setCurrentIndex(index)
    box._obj.activated.emit(index)


def choose_node(selector, node) -> None:
    """The user picks a node."""
    selector.setCurrentNode(node)


def test_the_table_says_what_the_engine_will_do(harness):
    from SynthDiffusionLib.labels import LabelScheme, match_segments
    from SynthDiffusionLib.volumes import Segment

    names = {"Left lung": 20, "tumour": 4, "stomach": 5, "Ribs": 0}
    harness.parameters.segmentation = add_segmentation(harness.scene, names)
    scheme = LabelScheme.from_json(shipped_description()["label_scheme"])
    segments = [(Segment(name, n), side**3) for n, (name, side) in enumerate(names.items(), start=1)]
    expected = [entry.target or "left out" for entry in match_segments(segments, scheme, "nodule")]
    assert [row[2] for row in cells(harness)] == expected == ["lung", "nodule", "left out", "bone"]
    assert [row[1] for row in cells(harness)] == ["8.00 ml", "0.06 ml", "0.12 ml", "empty"]
    assert [row[3] for row in cells(harness)] == ["by name", "by name", "not recognized: left out", "by name"]
    assert "stomach" in harness.ui.notesLabel.text and "Ribs" not in harness.ui.notesLabel.text


def test_choosing_a_class_and_going_back(harness):
    harness.parameters.segmentation = node = add_segmentation(harness.scene, {"lung": 20, "stomach": 5})
    lung, stomach = node.GetSegmentation().GetSegmentIDs()
    choose(harness, 1, "nodule")
    assert dict(harness.parameters.classes) == {stomach: "nodule"}
    assert cells(harness)[1][2:] == ("nodule", "chosen by you")
    choose(harness, 0, "left out")
    assert dict(harness.parameters.classes) == {stomach: "nodule", lung: ""}
    choose(harness, 0, "lung")  # what the name says anyway
    assert dict(harness.parameters.classes) == {stomach: "nodule"}
    assert cells(harness)[0][3] == "by name"
    harness.ui.resetButton.click()
    assert dict(harness.parameters.classes) == {}
    assert cells(harness)[1][2] == "left out" and not harness.ui.resetButton.enabled


def test_segments_of_one_class_are_said_to_be_taken_together(harness):
    harness.parameters.segmentation = add_segmentation(
        harness.scene, {"left lung": 9, "right lung": 8, "lung lesion": 3}
    )
    assert "left lung, right lung" in harness.ui.notesLabel.text
    assert "Left out" not in harness.ui.notesLabel.text


def test_a_lone_nameless_segment_is_taken_as_the_target_and_the_note_says_so(harness):
    harness.parameters.segmentation = add_segmentation(harness.scene, {"Segment_1": 6})
    assert cells(harness)[0][2:] == ("nodule", "the only segment")
    assert "--labels" not in harness.ui.notesLabel.text and "nodule" in harness.ui.notesLabel.text


def test_another_segmentation_does_not_inherit_the_choices_of_the_first(harness):
    first = add_segmentation(harness.scene, {"lung": 20, "stomach": 5}, "first")
    second = add_segmentation(harness.scene, {"lung": 20, "stomach": 5}, "second")
    assert first.GetSegmentation().GetSegmentIDs() == second.GetSegmentation().GetSegmentIDs()  # as copies have
    choose_node(harness.ui.segmentationSelector, first)
    choose(harness, 1, "bone")
    choose_node(harness.ui.segmentationSelector, second)
    assert harness.parameters.segmentation is second
    assert dict(harness.parameters.classes) == {}
    assert cells(harness)[1][2] == "left out"


def test_a_new_segment_does_not_inherit_the_choice_for_a_deleted_one(harness, standin):
    harness.parameters.segmentation = node = add_segmentation(harness.scene, {"lung": 20, "stomach": 5})
    choose(harness, 1, "bone")
    stomach = node.GetSegmentation().GetNthSegmentID(1)
    node.GetSegmentation().RemoveSegment(stomach)
    standin.wait(lambda: not dict(harness.parameters.classes), what="the choice to be forgotten")


def test_painting_updates_the_table_a_moment_later(harness, standin):
    import slicer

    harness.parameters.segmentation = node = add_segmentation(harness.scene, {"lung": 20})
    assert len(cells(harness)) == 1
    for number in range(3):
        node.GetSegmentation().AddEmptySegment("", f"rib {number}", [1, 1, 1])
    assert len(cells(harness)) == 1  # not at every stroke
    standin.wait(lambda: len(cells(harness)) == 4, what="the table")
    segment = node.GetSegmentation().GetNthSegment(0)
    slicer.vtkOrientedImageDataResample.FillImage(segment.GetRepresentation("Binary labelmap"), 0)
    segment.GetRepresentation("Binary labelmap").Modified()
    segment.Modified()
    standin.wait(lambda: cells(harness)[0][1] == "empty", what="the new volume")


def test_refreshing_writes_nothing_and_makes_no_rows_anew(harness):
    harness.parameters.segmentation = add_segmentation(harness.scene, {"lung": 20, "stomach": 5})
    writes, box = harness.writes, harness.ui.mappingTable.cellWidget(0, 2)
    for _ in range(5):
        harness.panel.refresh()
    assert harness.writes == writes
    assert harness.ui.mappingTable.cellWidget(0, 2) == box


def test_a_model_with_other_classes_gives_another_table(harness):
    harness.parameters.segmentation = add_segmentation(harness.scene, {"liver": 20, "lung": 5})
    liver = [{"name": "liver", "value": 1, "optional": True, "color": [0.5, 0.3, 0.2]}]
    harness.setModels(shipped_model(), shipped_model(id="liver-ct", label_scheme=liver, target_class="liver"))
    assert [row[2] for row in cells(harness)] == ["left out", "lung"]
    harness.parameters.modelId = "liver-ct"
    assert [row[2] for row in cells(harness)] == ["liver", "left out"]
    box = harness.ui.mappingTable.cellWidget(0, 2)
    assert [box.itemText(n) for n in range(box.count)] == ["liver", "left out"]


def test_a_sample_is_loaded_from_the_menu(harness):
    actions = harness.ui.sampleButton.menu().actions()
    assert [action.text for action in actions] == ["Solitary nodule", "Pleural nodule", "Two nodules", "Hippocampus"]
    actions[2].trigger()
    node = harness.parameters.segmentation
    assert node.GetName() == "Two nodules"
    assert sorted(row[2] for row in cells(harness)) == ["body", "bone", "lung", "nodule"]
    assert {row[3] for row in cells(harness)} == {"by SNOMED code"}
    actions[2].trigger()
    assert harness.parameters.segmentation is not node
    assert harness.parameters.segmentation.GetName() != node.GetName()


def test_a_damaged_sample_is_reported_in_the_panel(harness, monkeypatch, tmp_path):
    from dataclasses import replace

    from SynthDiffusionJobs.Samples import samples

    broken = tmp_path / "broken.seg.nrrd"
    broken.write_bytes(b"NRRD0004\nnonsense")
    harness.panel._onSample(replace(samples(harness.session.resourcePath)[0], path=broken))
    assert "broken.seg.nrrd" in harness.ui.messageLabel.text
    assert harness.parameters.segmentation is None
    assert harness.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_loading_takes_what_slicers_dialog_has_loaded(harness, monkeypatch):
    import slicer.util

    add_segmentation(harness.scene, {"lung": 3}, "earlier")
    new = []
    monkeypatch.setattr(
        slicer.util, "openAddSegmentationDialog", lambda: new.append(add_segmentation(harness.scene, {"rib": 3}, "new"))
    )
    harness.ui.loadButton.click()
    assert harness.parameters.segmentation is new[0]
    monkeypatch.setattr(slicer.util, "openAddSegmentationDialog", lambda: None)  # cancelled
    harness.ui.loadButton.click()
    assert harness.parameters.segmentation is new[0]


def test_a_label_map_becomes_a_segmentation(harness, monkeypatch):
    import numpy as np
    import slicer.util

    array = np.zeros((8, 9, 10), np.uint8)
    array[2:5, 3:6, 2:9] = 2
    array[6, 7, 8] = 4

    def load():
        node = harness.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
        node.SetSpacing(1, 2, 3)
        slicer.util.updateVolumeFromArray(node, array)

    monkeypatch.setattr(slicer.util, "openAddDataDialog", load)
    other = next(action for action in harness.panel._loadMenu.actions() if "label map" in action.text)
    other.trigger()
    assert harness.parameters.segmentation.GetName() == "labels"
    # Plain numbers are the values of the model's classes.
    assert [(row[2], row[3]) for row in cells(harness)] == [("lung", "by label value"), ("nodule", "by label value")]
    assert [row[1] for row in cells(harness)] == [f"{63 * 6 / 1000:.2f} ml", "0.01 ml"]
    assert harness.scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0


def test_a_label_map_that_slicer_reads_as_a_segmentation_keeps_its_values(harness, monkeypatch, tmp_path):
    import nibabel
    import numpy as np
    import slicer.util

    array = np.zeros((8, 9, 10), np.uint8)
    array[2:5, 3:6, 2:9] = 2
    array[6, 7, 8] = 4
    path = tmp_path / "labels.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    monkeypatch.setattr(slicer.util, "openAddSegmentationDialog", lambda: slicer.util.loadSegmentation(str(path)))
    harness.ui.loadButton.click()
    assert [row[0] for row in cells(harness)] == ["2", "4"]
    assert [row[2] for row in cells(harness)] == ["lung", "nodule"]


def add_ball(scene, radius: float = 8.0):
    """A segmentation of one surface, as from an STL file."""
    import slicer
    import vtk

    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(15, 15, 15)
    sphere.SetRadius(radius)
    sphere.SetThetaResolution(60)
    sphere.SetPhiResolution(60)
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surface")
    node.SetSourceRepresentationToClosedSurface()
    segment = slicer.vtkSegment()
    segment.SetName("nodule")
    segment.AddRepresentation("Closed surface", sphere.GetOutput())
    node.GetSegmentation().AddSegment(segment)
    return node


@pytest.mark.parametrize("on_volume", [True, False])
def test_surfaces_can_be_generated_from_and_stay_surfaces(harness, tmp_path, on_volume):
    import numpy as np
    import SimpleITK

    from SynthDiffusionScene.segmentations import JOB_SEGMENTATION, writeJobInput

    volume = add_volume(harness.scene)
    if on_volume:
        choose_node(harness.ui.volumeSelector, volume)
    node = add_ball(harness.scene)
    choose_node(harness.ui.segmentationSelector, node)
    assert cells(harness) == [("nodule", "surface", "nodule", "by name")]
    assert harness.session.generation.problem(harness.parameters) == ""
    writeJobInput(node, tmp_path)
    image = SimpleITK.ReadImage(str(tmp_path / JOB_SEGMENTATION))
    ml = (SimpleITK.GetArrayFromImage(image) > 0).sum() * np.prod(image.GetSpacing()) / 1000
    assert ml == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.05)  # the volume of a ball
    if on_volume:
        assert image.GetSize() == volume.GetImageData().GetDimensions()
    assert node.GetSegmentation().GetSourceRepresentationName() == "Closed surface"


def test_the_button_for_dicom_goes_to_slicers_module(harness, monkeypatch):
    import slicer.util

    gone = []
    monkeypatch.setattr(slicer.util, "selectModule", gone.append)
    harness.ui.dicomButton.click()
    assert gone == ["DICOM"]


def test_a_new_drawing_on_a_blank_grid_has_the_size_of_the_model(harness):
    import slicer.util

    harness.ui.newButton.click()
    node = harness.parameters.segmentation
    editor = harness.panel.draw._editor
    volume = editor.sourceVolumeNode()
    grid = shipped_description()["grid"]
    assert volume.GetImageData().GetDimensions() == tuple(grid["max_size"])
    assert volume.GetSpacing() == tuple(grid["spacing_mm"])
    assert slicer.util.arrayFromVolume(volume).max() == -1000
    assert editor.segmentationNode() is node
    assert not harness.ui.drawSection.collapsed
    assert harness.parameters.realVolume is None
    assert harness.ui.notesLabel.text == "Nothing is drawn yet."


def test_a_blank_grid_is_no_real_volume(harness):
    harness.ui.newButton.click()
    real = add_volume(harness.scene)
    selector = harness.ui.volumeSelector
    harness.panel.refresh()
    assert [selector.nodeFromIndex(n) for n in range(selector.nodeCount())] == [real]


def test_a_new_drawing_on_a_real_volume_has_its_grid(harness):
    volume = add_volume(harness.scene)
    volume.SetSpacing(0.7, 0.8, 2.5)
    choose_node(harness.ui.volumeSelector, volume)
    assert harness.parameters.realVolume is volume
    harness.ui.newButton.click()
    node = harness.parameters.segmentation
    assert harness.panel.draw._editor.sourceVolumeNode() is volume
    role = type(node).GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is volume


def test_an_empty_drawing_moves_to_the_volume_that_is_chosen_later(harness):
    harness.ui.newButton.click()
    node, volume = harness.parameters.segmentation, add_volume(harness.scene)
    choose_node(harness.ui.volumeSelector, volume)
    assert node.GetNodeReference(type(node).GetReferenceImageGeometryReferenceRole()) is volume
    assert harness.panel.draw._editor.sourceVolumeNode() is volume
    assert harness.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1  # the blank one is gone


def test_segments_of_the_models_classes_are_ready_made(harness, standin):
    harness.ui.newButton.click()
    buttons = {button.text: button for button in harness.panel.draw._buttons}
    assert list(buttons) == ["Add body", "Add lung", "Add bone", "Add nodule", "Add region to remove"]
    buttons["Add nodule"].click()
    buttons["Add lung"].click()
    segmentation = harness.parameters.segmentation.GetSegmentation()
    assert [segmentation.GetNthSegment(n).GetName() for n in range(2)] == ["nodule", "lung"]
    assert "SCT^39607008^Lung" in segmentation.GetNthSegment(1).GetTerminology()
    editor = harness.panel.draw._editor
    assert editor.currentSegmentID() == segmentation.GetNthSegmentID(1)
    assert editor.mrmlSegmentEditorNode().GetActiveEffectName() == "Paint"
    standin.wait(lambda: len(cells(harness)) == 2, what="the table")
    assert [row[1:] for row in cells(harness)] == [
        ("empty", "nodule", "by SNOMED code"),
        ("empty", "lung", "by SNOMED code"),
    ]


def test_before_the_set_up_there_are_no_classes_and_it_says_what_comes_first(harness):
    from SynthDiffusionJobs.Engine import EngineStatus

    harness.parameters.segmentation = add_segmentation(harness.scene, {"lung": 20})
    harness.ui.drawSection.collapsed = False
    assert harness.ui.drawLabel.isVisibleTo(harness.panel.widget)
    ready, harness.session.engine.status = harness.session.engine.status, EngineStatus(state="missing")
    harness.setModels()
    assert "once the set-up is complete" in harness.ui.notesLabel.text
    assert not harness.ui.drawLabel.isVisibleTo(harness.panel.widget) and harness.panel.draw._buttons == []
    harness.session.engine.status = ready
    harness.setModels()
    assert harness.ui.notesLabel.text.endswith("shown once a model is chosen.")
    assert "set-up" not in harness.ui.notesLabel.text
    harness.setModels(shipped_model())
    assert harness.ui.drawLabel.isVisibleTo(harness.panel.widget) and harness.ui.notesLabel.text == ""


def test_without_a_segmentation_no_segment_can_be_added(harness):
    assert [button.enabled for button in harness.panel.draw._buttons] == [False] * 5


def test_a_loaded_segmentation_gets_a_blank_volume_on_its_grid_to_draw_on(harness):
    import numpy as np
    import SimpleITK
    import vtk

    harness.ui.sampleButton.menu().actions()[0].trigger()
    assert harness.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    harness.ui.drawSection.collapsed = False
    volume = harness.panel.draw._editor.sourceVolumeNode()
    assert volume.GetAttribute("SynthDiffusion.Blank") == "YES"
    # The grid, as another reader has it from the file.
    image = SimpleITK.ReadImage(harness.session.resourcePath("Segmentations/solitary-nodule.seg.nrrd"))
    assert volume.GetImageData().GetDimensions() == image.GetSize()
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    lps = [np.array(matrix.MultiplyPoint((*index, 1))[:3]) * (-1, -1, 1) for index in ((0, 0, 0), (55, 20, 7))]
    assert np.allclose(lps, [image.TransformIndexToPhysicalPoint(index) for index in ((0, 0, 0), (55, 20, 7))])
    harness.panel.refresh()
    harness.ui.drawSection.collapsed = True
    harness.ui.drawSection.collapsed = False
    assert harness.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_the_editor_is_made_when_it_is_opened_and_let_go_when_the_module_is_left(harness):
    assert harness.panel.draw._editor is None
    assert harness.scene.GetNumberOfNodesByClass("vtkMRMLSegmentEditorNode") == 0
    harness.ui.sampleButton.menu().actions()[0].trigger()
    harness.ui.drawSection.collapsed = False
    editor = harness.panel.draw._editor
    assert not editor.segmentationNodeSelectorVisible and not editor.sourceVolumeNodeSelectorVisible
    assert editor.undoEnabled
    assert editor.mrmlSegmentEditorNode().GetSingletonTag() == "SynthDiffusion.SegmentEditor"
    assert editor._obj.shortcuts == 1
    editor.setActiveEffectByName("Paint")
    assert editor._obj.observed
    harness.panel.exit()
    assert editor.activeEffect() is None and editor._obj.shortcuts == 0 and not editor._obj.observed
    harness.panel.enter()
    assert editor._obj.shortcuts == 1
    editor.setActiveEffectByName("Paint")
    harness.ui.drawSection.collapsed = True
    assert editor.activeEffect() is None and editor._obj.shortcuts == 0
    editor.setupViewObservations()  # as other code may ask, without a tool
    harness.panel.exit()
    assert not editor._obj.observed


def test_painting_a_nodule_leaves_the_lung_under_it(harness):
    import slicer

    harness.ui.newButton.click()
    node = harness.panel.draw._editor.mrmlSegmentEditorNode()
    assert node.GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone


def test_nothing_is_left_behind(standin):
    from SynthDiffusionPanels.SegmentationPanel import SegmentationPanel

    before = standin.counts()
    harness = Harness(standin.scene, SegmentationPanel, [shipped_model()])
    harness.ui.newButton.click()
    harness.panel.draw._buttons[1].click()
    harness.parameters.segmentation.GetSegmentation().GetNthSegment(0).Modified()
    harness.close()
    assert standin.counts()["timers"] == before["timers"]
    assert harness.scene.GetNumberOfNodesByClass("vtkMRMLSegmentEditorNode") == 0
    assert harness.session.drawingChanged.receiverCount == 0


def test_closing_the_scene_empties_the_panel_and_the_next_scene_works(harness):
    harness.ui.newButton.click()
    editor = harness.panel.draw._editor
    harness.closeScene()
    assert editor.segmentationNode() is None and editor.activeEffect() is None
    assert not harness.panel.widget.enabled and cells(harness) == []
    harness.scene.Clear(0)
    harness.beginScene()
    assert harness.panel.widget.enabled
    harness.ui.newButton.click()
    assert editor.segmentationNode() is harness.parameters.segmentation is not None
    assert editor._obj.shortcuts == 1


def test_the_case_name_and_what_it_is_without_one(harness):
    harness.parameters.segmentation = add_segmentation(harness.scene, {"lung": 3}, "Smith lung")
    assert harness.ui.caseEdit.placeholderText == "Smith lung"
    harness.ui.caseEdit.text = " case 7 "
    harness.ui.caseEdit._obj.editingFinished.emit()
    assert harness.parameters.caseName == "case 7"


def test_a_segmentation_that_is_deleted_leaves_the_panel(harness):
    other = add_segmentation(harness.scene, {"lung": 3}, "other")
    harness.parameters.segmentation = node = add_segmentation(harness.scene, {"rib": 3})
    harness.parameters.classes = {"Segment_1": "nodule"}
    assert harness.ui.segmentationSelector.currentNode() is node
    harness.ui.segmentationSelector.removeCurrentNode()
    assert harness.parameters.segmentation is None
    assert cells(harness) == [] and "To begin" in harness.ui.notesLabel.text
    choose_node(harness.ui.segmentationSelector, other)
    assert cells(harness)[0][2:] == ("lung", "by name")  # nothing is left of what was chosen for the deleted one


def test_the_panel_fits_its_width(harness, tmp_path):
    names = {"Left lung upper lobe and more": 20, "nodule": 3, "something else entirely": 4}
    harness.parameters.segmentation = add_segmentation(harness.scene, names)
    harness.ui.advancedBox.collapsed = False
    assert not any(widths(harness.panel, tmp_path, "segmentation").values())
