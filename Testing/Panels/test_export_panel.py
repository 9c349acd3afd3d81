"""The section that writes files: the scene, and checked volumes."""

from __future__ import annotations

import contextlib

import pytest
from job_fakes import add_results, provenance
from panel_harness import Harness, add_segmentation, widths
from test_generate_panel import tab_order, visible

DRAWN = {"lung": 20, "tumour": 4}


@pytest.fixture
def saved(standin):
    """How often the scene was made savable."""
    return []


@pytest.fixture
def harness(standin, saved):
    from SynthDiffusionPanels.ExportPanel import ExportPanel

    @contextlib.contextmanager
    def savable():
        saved.append("begin")
        yield
        saved.append("end")

    made = Harness(standin.scene, lambda session: ExportPanel(session, savable))
    yield made
    made.close()


@pytest.fixture
def volumes(harness, tmp_path):
    drawing = add_segmentation(harness.scene, DRAWN)
    found = add_results(harness, tmp_path / "made", drawing, provenance(7), provenance(8))
    harness.panel.refresh()
    return found


def items(harness) -> list[tuple[str, bool]]:
    import qt

    rows = [harness.ui.volumesList.item(row) for row in range(harness.ui.volumesList.count)]
    return [(item.text(), item.checkState() == qt.Qt.Checked) for item in rows]


def check(harness, row: int, checked: bool) -> None:
    import qt

    harness.ui.volumesList.item(row).setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)


def wait(harness, standin) -> str:
    standin.wait(lambda: not harness.panel.busy, seconds=60, what="the export")
    return harness.ui.messageLabel.text


def test_a_scene_without_results_can_be_saved_only(harness):
    ui = harness.ui
    assert ui.sceneButton.enabled and visible(harness, ui.noticeLabel) and "not anonymous" in ui.noticeLabel.text
    for widget in (ui.volumesList, ui.formatCombo, ui.segmentationCheck, ui.volumesButton, ui.progressBar):
        assert not visible(harness, widget)


def test_all_volumes_are_checked_and_what_the_user_unchecks_stays_so(harness, volumes, tmp_path):
    assert items(harness) == [(node.GetName(), True) for node in volumes]
    check(harness, 0, False)
    volumes[1].SetName("renamed synthetic")
    harness.panel.refresh()
    assert items(harness) == [(volumes[0].GetName(), False), ("renamed synthetic", True)]
    drawing = volumes[0].GetNodeReference("SynthDiffusion.Segmentation")
    add_results(harness, tmp_path / "more", drawing, provenance(9))
    harness.panel.refresh()
    assert [checked for _name, checked in items(harness)] == [False, True, True]
    for row in range(3):
        check(harness, row, False)
    assert not harness.ui.volumesButton.enabled


@pytest.mark.parametrize(("index", "suffix"), [(0, "nii.gz"), (1, "nrrd")])
def test_checked_volumes_are_written_into_the_folder(harness, volumes, standin, tmp_path, index, suffix):
    folder = tmp_path / "my export"
    folder.mkdir()
    check(harness, 0, False)
    harness.ui.formatCombo.setCurrentIndex(index)
    standin.dialogs.answer(str(folder))
    harness.ui.volumesButton.click()
    assert harness.panel.busy and not harness.ui.volumesButton.enabled
    assert visible(harness, harness.ui.progressBar) and visible(harness, harness.ui.cancelButton)
    assert "0 of 1" in harness.ui.messageLabel.text
    text = wait(harness, standin)
    stem = "drawing_lung-nodule-ct_seed8"
    assert {path.name for path in folder.iterdir()} == {f"{stem}.{suffix}", f"{stem}.json", "drawing.seg.nrrd"}
    assert text.splitlines() == ["Written: drawing.seg.nrrd", f"Written: {stem}.{suffix}"]
    assert not visible(harness, harness.ui.progressBar) and harness.ui.volumesButton.enabled
    harness.ui.folderButton.click()
    assert standin.dialogs.opened_urls[-1].removeprefix("file://") == str(folder)


def test_the_list_says_what_the_files_will_be_called(harness, volumes, standin, tmp_path):
    volumes[1].SetName("<b>large</b> synthetic")
    harness.panel.refresh()
    tips = [harness.ui.volumesList.item(row).toolTip() for row in range(2)]
    assert tips[0] == f"{volumes[0].GetName()}\nFile: drawing_lung-nodule-ct_seed7.nii.gz"
    assert "&lt;b&gt;large" in tips[1] and "_b_large__b_ synthetic/drawing_lung-nodule-ct_seed8.nii.gz" in tips[1]
    harness.ui.formatCombo.setCurrentIndex(1)
    assert harness.ui.volumesList.item(0).toolTip().endswith("_seed7.nrrd")
    harness.ui.segmentationCheck.click()
    harness.panel.exportVolumes(str(tmp_path))
    lines = wait(harness, standin).splitlines()
    assert [line.replace("\\", "/") for line in lines] == [
        "Written: drawing_lung-nodule-ct_seed7.nrrd",
        "Written: _b_large__b_ synthetic/drawing_lung-nodule-ct_seed8.nrrd",
    ]


def test_without_segmentations(harness, volumes, standin, tmp_path):
    harness.ui.segmentationCheck.click()
    standin.dialogs.answer(str(tmp_path))
    harness.ui.volumesButton.click()
    wait(harness, standin)
    assert not list(tmp_path.glob("*.seg.nrrd")) and len(list(tmp_path.glob("*.nii.gz"))) == 2


def test_choosing_no_folder_or_file_does_nothing(harness, volumes, standin, saved):
    standin.dialogs.answer("", "")
    harness.ui.volumesButton.click()
    harness.ui.sceneButton.click()
    assert not harness.panel.busy and saved == [] and not visible(harness, harness.ui.messageLabel)


def test_a_failure_is_said_with_what_was_written(harness, volumes, standin, tmp_path):
    drawing = volumes[0].GetNodeReference("SynthDiffusion.Segmentation")
    add_results(harness, tmp_path / "bad", drawing, provenance(9, settings={"mode": "whole"}))
    harness.panel.refresh()
    (tmp_path / "out").mkdir()
    harness.panel.exportVolumes(str(tmp_path / "out"))
    lines = wait(harness, standin).splitlines()
    assert len(lines) == 4 and lines[0] == "Written: drawing.seg.nrrd"
    assert "lacks 'seed'" in lines[3] and "error:" not in lines[3]


def test_a_folder_that_cannot_be_written_to_is_said(harness, volumes, standin, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    harness.panel.exportVolumes(str(tmp_path / "file"))
    text = wait(harness, standin)
    assert "could not be written" in text and not visible(harness, harness.ui.folderButton)
    harness.ui.segmentationCheck.click()
    harness.panel.exportVolumes(str(tmp_path / "file"))
    assert "file" in wait(harness, standin) and harness.ui.volumesButton.enabled


def test_an_export_can_be_cancelled_and_the_next_one_works(harness, volumes, standin, tmp_path):
    harness.ui.segmentationCheck.click()
    harness.panel.exportVolumes(str(tmp_path / "x"))
    harness.ui.cancelButton.click()
    assert not harness.panel.busy and "Canceled." in harness.ui.messageLabel.text
    harness.panel.exportVolumes(str(tmp_path / "x"))
    wait(harness, standin)
    assert len(list((tmp_path / "x").glob("*.nii.gz"))) == 2


def test_the_scene_is_saved_as_the_user_knows_it(harness, volumes, standin, saved, tmp_path):
    import zipfile

    standin.dialogs.answer(str(tmp_path / "all of it"))
    harness.ui.sceneButton.click()
    path = tmp_path / "all of it.mrb"
    assert saved == ["begin", "end"] and zipfile.is_zipfile(path)
    assert harness.ui.messageLabel.text == f"Saved: {path}"
    harness.ui.folderButton.click()
    assert standin.dialogs.opened_urls[-1].removeprefix("file://") == str(tmp_path)


def test_a_scene_that_cannot_be_saved_is_said(harness, volumes, saved, tmp_path):
    harness.panel.saveScene(str(tmp_path / "no" / "such" / "folder" / "x.mrb"))
    assert "folder" in harness.ui.messageLabel.text and not harness.ui.messageLabel.text.startswith("Saved")
    assert not visible(harness, harness.ui.folderButton)


def test_the_engine_is_needed_for_volumes_but_not_for_the_scene(harness, volumes):
    from SynthDiffusionJobs.Engine import EngineStatus

    harness.session.engine.status = EngineStatus(state="missing")
    harness.panel.refresh()
    assert harness.ui.sceneButton.enabled and not harness.ui.volumesButton.enabled


def test_closing_in_the_middle_ends_the_export(standin, tmp_path):
    from SynthDiffusionPanels.ExportPanel import ExportPanel

    before = standin.counts()
    harness = Harness(standin.scene, lambda session: ExportPanel(session, contextlib.nullcontext))
    drawing = add_segmentation(harness.scene, DRAWN)
    add_results(harness, tmp_path / "made", drawing, provenance(7))
    harness.panel.refresh()
    harness.panel.exportVolumes(str(tmp_path))
    assert standin.counts()["processes"] == before["processes"] + 1
    harness.close()
    standin.process_events(0.1)
    assert standin.counts()["processes"] == before["processes"]


def test_the_keyboard_goes_from_top_to_bottom(harness, volumes):
    order = tab_order(harness.panel.widget, harness.ui.sceneButton)
    assert order == ["sceneButton", "volumesList", "formatCombo", "segmentationCheck", "volumesButton"]


def test_the_panel_fits_its_width(harness, volumes, standin, tmp_path):
    volumes[0].SetName("a very long name of a volume that nobody can read in a narrow panel, synthetic")
    # Within the module, its margins and a scroll bar take some of the width.
    harness.panel.widget.layout().setContentsMargins(30, 0, 30, 0)
    harness.panel.saveScene(str(tmp_path / "a_very_long_name_without_any_blank_in_it" / "x.mrb"))
    harness.panel.exportVolumes(str(tmp_path))
    assert not any(widths(harness.panel, tmp_path, "export_running").values())
    wait(harness, standin)
    assert not any(widths(harness.panel, tmp_path, "export").values())
