"""Results as DICOM: written by the real engine, and read by programs that nobody here wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from job_fakes import add_results, provenance
from joint_fakes import joint_outputs, joint_record, write_mask
from panel_harness import MODEL_ID, Harness, add_segmentation, add_volume, shipped_model, widths
from test_generate_panel import tab_order, visible

from SynthDiffusionLib.volumes import Volume
from SynthDiffusionLib.volumes.digests import voxel_edges_mm, voxels_sha256

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
SimpleITK = pytest.importorskip("SimpleITK")

DRAWN = {"lung": 20, "tumour": 4}
SYNTHETIC_DATA = 0x0008001C


def record(seed: int = 7, mode: str = "whole", **changes) -> dict:
    return provenance(seed, mode, model={"id": MODEL_ID, "version": "1.0.0", "modality": "CT"}, **changes)


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.ResultsPanel import ResultsPanel

    made = Harness(standin.scene, ResultsPanel, [shipped_model()])
    made.ui.dicomGroup.collapsed = False
    yield made
    made.close()
    made.session.folders.removeAll()


@pytest.fixture
def drawing(harness):
    return add_segmentation(harness.scene, DRAWN, "DOE^JOHN 1970-01-01")


@pytest.fixture
def ui(harness):
    return harness.panel.dicom.ui


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out ü"
    folder.mkdir()
    return folder


def add(harness, folder: Path, drawing, *records: dict, values: bool = True, **more) -> list:
    """Results with voxels that are all different along each axis, the first of which is chosen."""
    import slicer.util

    nodes = add_results(harness, folder, drawing, *records, **more)
    for node in nodes if values else ():
        k, j, i = np.indices(slicer.util.arrayFromVolume(node).shape)
        slicer.util.updateVolumeFromArray(node, (i - 900 + 40 * j - 7 * k).astype(np.int16))
        node.SetAttribute("SynthDiffusion.VoxelDigest", None)  # as the model has made them
    harness.panel.refresh()
    harness.panel.select(nodes[0])
    return nodes


def export(harness, standin, folder: Path, *answers) -> str:
    """The user clicks the button, answers what is asked, and waits. Returns what is said at the end."""
    standin.dialogs.answer(*answers, str(folder))
    harness.panel.dicom.ui.exportButton.click()
    return wait(harness, standin)


def wait(harness, standin) -> str:
    standin.wait(lambda: not harness.panel.dicom.busy, seconds=60, what="the export")
    return harness.panel.dicom.ui.messageLabel.text


def only_folder(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


def image_of(folder: Path):
    """The series as ITK reads it: voxels (k, j, i) and (4, 4) RAS affine."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "image")))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def segments_of(path: Path) -> dict[str, set[tuple[int, ...]]]:
    """The places of the voxels of each segment in tenths of mm (LPS), by its name, as highdicom reads them."""
    seg = highdicom.seg.segread(path)
    found = {}
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=True)
        places = volume.map_indices_to_reference(np.argwhere(volume.array > 0))
        label = seg.get_segment_description(number).segment_label
        found[label] = {tuple(np.round(place * 10).astype(int).tolist()) for place in places}
    return found


def drawn_places(node) -> dict[str, set[tuple[int, ...]]]:
    """The same of a segmentation node."""
    from SynthDiffusionScene.segmentations import segmentBounds, segmentsOf

    found = {}
    for segment in segmentsOf(node):
        mask, affine = segmentBounds(segment)
        indices = np.argwhere(mask)[:, ::-1]
        places = (indices @ affine[:3, :3].T + affine[:3, 3]) * (-1, -1, 1)
        found[segment.GetName()] = {tuple(np.round(place * 10).astype(int).tolist()) for place in places}
    return found


def test_a_result_and_its_drawing_become_a_series_and_a_segmentation(harness, standin, ui, drawing, out, tmp_path):
    import slicer.util

    (node,) = add(harness, tmp_path / "made", drawing, record())
    oblique = np.array([[1.9, 0.3, 0, -11.5], [-0.3, 1.9, 0, 22.25], [0, 0, 2.5, -3.125], [0, 0, 0, 1]])
    oblique[:2, :2] /= np.hypot(1.9, 0.3) / 0.75
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(oblique))
    own = Volume(slicer.util.arrayFromVolume(node).T, oblique, "HU")  # as in the record of the volume's own file
    sums = {"output_voxels_sha256": voxels_sha256(own), "output_voxel_edges_mm": voxel_edges_mm(own)}
    node.SetAttribute("SynthDiffusion.Provenance", json.dumps(record() | sums))
    for segment in drawing.GetSegmentation().GetSegmentIDs():
        labelmap = drawing.GetSegmentation().GetSegment(segment).GetRepresentation("Binary labelmap")
        labelmap.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(oblique))
    assert ui.exportButton.enabled and ui.segmentationCheck.checked and not visible(harness, ui.realLabel)
    seen = []
    harness.panel.dicom._export.changed.connect(
        lambda: seen.append((ui.progressBar.value, ui.progressBar.maximum, ui.messageLabel.text))
    )
    standin.dialogs.answer(str(out))
    ui.exportButton.click()
    assert harness.panel.dicom.busy and not ui.exportButton.enabled and ui.cancelButton.enabled
    assert visible(harness, ui.progressBar) and ui.messageLabel.text == "Preparing the image."
    lines = wait(harness, standin).splitlines()
    folder = only_folder(out)
    assert lines == [f"Written: 40 slices, the segmentation, in {folder}"]
    assert seen[-1] == (40, 40, "Writing slice 40 of 40.") and [value for value, *_ in seen] == list(range(1, 41))
    assert not visible(harness, ui.progressBar) and ui.exportButton.enabled
    ui.folderButton.click()
    assert standin.dialogs.opened_urls[-1].removeprefix("file://") == str(folder)
    voxels, affine = image_of(folder)
    made = slicer.util.arrayFromVolume(node)
    corners = np.array([(i, j, k, 1) for i in (0, 39) for j in (0, 39) for k in (0, 39)], float)
    for corner in corners.astype(int):  # voxel by voxel: the slices may be stored in another order
        place = oblique @ corner
        i, j, k = np.round(np.linalg.inv(affine) @ place).astype(int)[:3]
        assert np.allclose(affine @ (i, j, k, 1), place, atol=1e-3)
        assert voxels[k, j, i] == made[corner[2], corner[1], corner[0]]
    assert np.array_equal(np.sort(voxels, axis=None), np.sort(made, axis=None))
    assert segments_of(folder / "segmentation.dcm") == drawn_places(drawing)
    one = pydicom.dcmread(next((folder / "image").iterdir()))
    assert one[SYNTHETIC_DATA].value == "YES" and one.BurnedInAnnotation == "NO" and 0x60003000 not in one
    assert "No part of it was acquired from a patient" in one.DerivationDescription
    assert not any(b"DOE" in path.read_bytes() or "DOE" in str(path) for path in folder.rglob("*.dcm"))


def test_a_cropped_image_gets_the_part_of_the_drawing_that_lies_on_it(harness, standin, drawing, out, tmp_path):
    import slicer.util

    (node,) = add(harness, tmp_path / "made", drawing, record(), values=False)
    slicer.util.updateVolumeFromArray(node, np.full((10, 12, 14), -500, np.int16))
    node.SetOrigin(3, 4, 5)
    lines = export(harness, standin, out).splitlines()
    assert lines[0].startswith("Written: 10 slices, the segmentation, in") and "nearest" not in "".join(lines)
    low, high = np.array([3, 4, 5]) * 10, np.array([16, 15, 14]) * 10  # centres of the corner voxels

    def inside(place: tuple[int, ...]) -> bool:
        ras = np.array(place) * (-1, -1, 1)
        return bool(np.all((low <= ras) & (ras <= high)))

    drawn = {name: set(filter(inside, places)) for name, places in drawn_places(drawing).items()}
    assert segments_of(only_folder(out) / "segmentation.dcm") == drawn and all(drawn.values())


def test_a_drawing_on_other_voxels_is_said_to_be_moved(harness, standin, drawing, out, tmp_path):
    (node,) = add(harness, tmp_path / "made", drawing, record())
    node.SetSpacing(0.9, 0.9, 1.3)
    text = export(harness, standin, out)
    assert "'DOE^JOHN 1970-01-01' has other voxels than the image: the nearest ones were taken." in text
    counts = {name: len(places) for name, places in segments_of(only_folder(out) / "segmentation.dcm").items()}
    volumes = {name: count * 0.9 * 0.9 * 1.3 for name, count in counts.items()}
    assert volumes == pytest.approx({"lung": 20**3, "tumour": 4**3}, rel=0.3)


def test_an_inpainted_image_is_asked_about_and_said_to_be_a_patients(harness, standin, ui, drawing, out, tmp_path):
    real = add_volume(harness.scene)
    region = add_segmentation(harness.scene, {"synthetic region": 6}, "region")
    (node,) = add(harness, tmp_path / "made", drawing, record(8, "inpaint"), real=real)
    node.AddNodeReferenceID("SynthDiffusion.Region", region.GetID())
    assert visible(harness, ui.realLabel) and "not anonymous" in ui.realLabel.text
    standin.dialogs.answer("Cancel")
    ui.exportButton.click()
    assert "real patient's image" in standin.dialogs.shown[-1].text and not harness.panel.dicom.busy
    lines = export(harness, standin, out, "OK").splitlines()
    folder = only_folder(out)
    assert lines[0] == f"Written: 40 slices, the segmentation, the region that is synthetic, in {folder}"
    assert lines[1] == "⚠ Not anonymous: it holds a real patient's image."
    assert folder.name.endswith("_inpainted")
    (places,) = segments_of(folder / "region.dcm").values()
    assert len(places) == 6**3
    one = pydicom.dcmread(next((folder / "image").iterdir()))
    assert one.PatientIdentityRemoved == "NO" and "is not anonymous" in one.DerivationDescription


def test_options_are_kept_in_the_scene_and_heeded(harness, standin, ui, drawing, out, tmp_path):
    import slicer.util

    from SynthDiffusionJobs.Parameters import Parameters

    (node,) = add(harness, tmp_path / "made", drawing, record(), values=False)
    slicer.util.updateVolumeFromArray(node, np.full((3, 64, 64), -500, np.int16))  # room for the word
    ui.labelCombo.setCurrentIndex(1)
    ui.labelCombo.activated(1)
    ui.segmentationCheck.click()
    again = Parameters(harness.parameters.parameterNode)
    assert (again.dicomLabel, again.dicomSegmentation) == ("overlay", False)
    harness.panel.refresh()
    assert ui.labelCombo.currentIndex == 1 and not ui.segmentationCheck.checked
    assert "the segmentation" not in export(harness, standin, out)
    folder = only_folder(out)
    assert [path.name for path in folder.iterdir()] == ["image"]
    one = pydicom.dcmread(next((folder / "image").iterdir()))
    assert one[0x60001500].value == "SYNTHETIC"


def test_what_a_model_has_marked_itself_is_not_said_to_be_drawn_by_hand(harness, standin, drawing, out, tmp_path):
    """What it has marked is known by the record, whatever file Slicer has written it into."""
    from SynthDiffusionLib.volumes import read_segmentation
    from SynthDiffusionLib.volumes.digests import mask_sha256
    from SynthDiffusionScene.runs import addRun

    mask = read_segmentation(write_mask(tmp_path / "mask.seg.nrrd"))
    made = joint_record(7) | {"masks": {"segmentation_sha256": mask_sha256(mask.layers[0], mask.affine)}}
    made["model"] |= {"modality": "MR"}
    (node,) = addRun(harness.scene, joint_outputs(tmp_path / "made", made), None)
    harness.panel.refresh()
    harness.panel.select(node)
    assert "the segmentation" in export(harness, standin, out)
    folder = only_folder(out)
    seg = pydicom.dcmread(folder / "segmentation.dcm")
    assert [(s.SegmentLabel, s.SegmentAlgorithmType) for s in seg.SegmentSequence] == [("tumour", "AUTOMATIC")]
    assert {path.name for path in folder.iterdir()} == {"image", "segmentation.dcm"}
    assert pydicom.dcmread(next((folder / "image").iterdir())).Modality == "MR"
    text = export(harness, standin, out)  # into the same folder once more
    assert "is there already. Remove it, or choose another folder." in text and "error" not in text
    assert not visible(harness, harness.panel.dicom.ui.folderButton)


def test_a_label_that_does_not_fit_is_refused_with_what_to_choose(harness, standin, ui, drawing, out, tmp_path):
    import slicer.util

    (node,) = add(harness, tmp_path / "made", drawing, record(), values=False)
    slicer.util.updateVolumeFromArray(node, np.full((8, 8, 8), -500, np.int16))
    harness.parameters.dicomLabel = "burned-in"
    text = export(harness, standin, out)
    assert "too small for the label" in text and f"Choose '{ui.labelCombo.itemText(0)}' as the label" in text
    assert list(out.iterdir()) == []


def test_cancelled_in_either_process_nothing_is_left(harness, standin, ui, drawing, out, tmp_path):
    import slicer.util

    (node,) = add(harness, tmp_path / "made", drawing, record(), values=False)
    before = standin.counts()["processes"]
    standin.dialogs.answer(str(out))
    ui.exportButton.click()
    ui.cancelButton.click()
    assert wait(harness, standin) == "Canceled. Nothing was written."
    slicer.util.updateVolumeFromArray(node, np.zeros((3000, 16, 16), np.int16))  # takes some seconds to write
    standin.dialogs.answer(str(out))
    ui.exportButton.click()
    standin.wait(lambda: harness.panel.dicom._export.step > 0, seconds=60, what="the first slices")
    assert list(out.iterdir())  # under a name that is not final
    ui.cancelButton.click()
    assert ui.messageLabel.text == "Canceling." and not ui.cancelButton.enabled
    standin.wait(lambda: not harness.panel.dicom.busy, seconds=2, what="the end")
    assert ui.messageLabel.text == "Canceled. Nothing was written." and list(out.iterdir()) == []
    assert standin.counts()["processes"] == before and ui.exportButton.enabled


def test_closing_in_the_middle_ends_the_export_without_a_word(standin, tmp_path):
    from SynthDiffusionPanels.ResultsPanel import ResultsPanel

    before = standin.counts()["processes"]
    harness = Harness(standin.scene, ResultsPanel, [shipped_model()])
    harness.ui.dicomGroup.collapsed = False
    add(harness, tmp_path / "made", add_segmentation(harness.scene, DRAWN), record())
    standin.dialogs.answer(str(tmp_path))
    harness.panel.dicom.ui.exportButton.click()
    assert standin.counts()["processes"] == before + 1
    harness.close()
    standin.process_events(0.1)
    assert standin.counts()["processes"] == before


def test_no_folder_chosen_does_nothing(harness, standin, ui, drawing, tmp_path):
    add(harness, tmp_path / "made", drawing, record())
    standin.dialogs.answer("")
    ui.exportButton.click()
    assert not harness.panel.dicom.busy and not visible(harness, ui.messageLabel)


def test_a_drawing_that_lies_elsewhere_is_said(harness, standin, ui, drawing, out, tmp_path):
    import slicer.util

    (node,) = add(harness, tmp_path / "made", drawing, record())
    node.SetOrigin(500, 0, 0)
    text = export(harness, standin, out)
    assert "Nothing of the segmentation" in text and "without its segmentation" in text and list(out.iterdir()) == []
    transform = harness.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 9))
    node.SetAndObserveTransformNodeID(transform.GetID())
    text = export(harness, standin, out)
    assert "lies under another transform than the image, and was left out" in text
    assert image_of(only_folder(out))[1][0, 3] == pytest.approx(509, abs=39)  # where the user sees it


def test_what_the_python_lacks_is_named_with_the_mend(harness, ui, drawing, tmp_path, monkeypatch):
    from dataclasses import replace

    from SynthDiffusionJobs.Engine import Engine

    add(harness, tmp_path / "made", drawing, record())
    engine, ready = harness.session.engine, harness.session.engine.status
    assert not visible(harness, ui.missingLabel)
    missing = tuple({"name": n, "requirement": f"{n}>=1,<2", "installed": None} for n in ("pydicom", "highdicom"))
    engine.status = replace(ready, missingDicom=missing)
    harness.panel.refresh()
    assert not ui.exportButton.enabled
    assert "pydicom>=1,<2 and highdicom>=1,<2, which Slicer 5.12 comes with" in ui.missingLabel.text
    monkeypatch.setattr(Engine, "otherPython", "/my python")
    harness.panel.refresh()
    assert ui.missingLabel.text.splitlines()[-1] == ("'/my python' -m pip install 'pydicom>=1,<2' 'highdicom>=1,<2'")
    engine.status = replace(ready, state="missing", missingDicom=missing)
    harness.panel.refresh()
    assert not visible(harness, ui.missingLabel) and "set-up" in ui.exportButton.toolTip


def test_nothing_chosen_and_the_end_of_the_scene(harness, ui, drawing, tmp_path):
    assert not visible(harness, harness.ui.dicomGroup)
    add(harness, tmp_path / "made", drawing, record())
    harness.panel.select(None)
    harness.panel.refresh()
    assert not ui.exportButton.enabled and visible(harness, harness.ui.dicomGroup)
    harness.closeScene()
    assert not ui.exportButton.enabled and not ui.labelCombo.enabled


def test_the_label_choices_are_those_of_the_engine(slicer_python, ui):
    from SynthDiffusionJobs.Parameters import DICOM_LABELS
    from SynthDiffusionLib.export.dicom_label import CHOICES

    assert DICOM_LABELS == CHOICES and ui.labelCombo.count == len(CHOICES)


def test_the_keyboard_goes_from_top_to_bottom(harness, ui, drawing, tmp_path):
    add(harness, tmp_path / "made", drawing, record())
    assert tab_order(harness.panel.widget, ui.labelCombo)[:3] == ["labelCombo", "segmentationCheck", "exportButton"]


def test_the_panel_fits_its_width(harness, standin, ui, drawing, out, tmp_path):
    (node,) = add(harness, tmp_path / "made", drawing, record(8, "inpaint"), real=add_volume(harness.scene))
    harness.panel.widget.layout().setContentsMargins(30, 0, 30, 0)
    standin.dialogs.answer("OK", str(out))
    ui.exportButton.click()
    assert not any(widths(harness.panel, tmp_path, "dicom_running").values())
    wait(harness, standin)
    assert not any(widths(harness.panel, tmp_path, "dicom").values())
