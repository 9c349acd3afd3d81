"""The table of synthetic volumes: what it says, what can be done with a volume, and where a new one is shown."""

from __future__ import annotations

import json

import pytest
from job_fakes import add_results, obey, outputs, provenance
from panel_harness import MODEL_ID, Harness, add_segmentation, add_volume, shipped_model, widths
from test_generate_panel import tab_order, visible

DRAWN = {"lung": 20, "tumour": 4, "stomach": 5}


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.ResultsPanel import ResultsPanel

    made = Harness(standin.scene, ResultsPanel, [shipped_model(version="1.0.0")])
    obey(made.session.engine)
    made.parameters.modelId = MODEL_ID
    yield made
    made.close()
    made.session.folders.removeAll()


@pytest.fixture
def drawing(harness):
    return add_segmentation(harness.scene, DRAWN)


@pytest.fixture
def volumes(harness, drawing, tmp_path):
    """Two volumes of one run, and a third of another run without adherence."""
    found = add_results(harness, tmp_path / "a", drawing, provenance(7), provenance(8))
    record = provenance(9, adherence=None, adherence_note="no segmenter")
    found += add_results(harness, tmp_path / "b", drawing, record, seconds=200.0)
    harness.panel.refresh()
    return found


def cells(harness) -> list[tuple[str, ...]]:
    table = harness.ui.volumesTable
    return [tuple(table.item(row, column).text() for column in range(5)) for row in range(table.rowCount)]


def pick(harness, row: int):
    harness.ui.volumesTable.selectRow(row)
    return harness.panel.selectedNode()


def write_name(harness, row: int, name: str) -> None:
    """The user writes another name into a cell and confirms it."""
    harness.ui.volumesTable.item(row, 0).setText(name)


def test_a_scene_without_results_says_so(harness):
    assert "no synthetic volume" in harness.ui.emptyLabel.text and visible(harness, harness.ui.emptyLabel)
    shown = [name for name, widget in vars(harness.ui).items() if name.endswith("Button") and visible(harness, widget)]
    assert shown == [] and not visible(harness, harness.ui.volumesTable)


def test_the_table_says_what_was_made_and_how_well(harness, volumes):
    assert cells(harness) == [
        ("drawing synthetic (lung-nodule-ct, seed 7)", MODEL_ID, "7", "12 s", "0.71"),
        ("drawing synthetic (lung-nodule-ct, seed 8)", MODEL_ID, "8", "12 s", "0.71"),
        ("drawing synthetic (lung-nodule-ct, seed 9)", MODEL_ID, "9", "3 min", "no segmenter"),
    ]
    table = harness.ui.volumesTable
    assert table.horizontalHeaderItem(4).text() == "Adherence (Dice)"
    tip = table.item(0, 4).toolTip()
    assert all(figure in tip for figure in ("0.71", "0.68", "0.42", "0.73"))
    assert "ball" in tip and "does not mean that the image is realistic" in tip
    assert table.item(2, 4).toolTip() == "no segmenter"
    assert table.item(0, 0).toolTip() == f"{volumes[0].GetName()}\nRun 1: {MODEL_ID}, seeds 7 to 8"


def test_volumes_that_others_add_and_remove_are_noticed(harness, drawing, standin, tmp_path):
    (node,) = add_results(harness, tmp_path, drawing, provenance(3))
    standin.wait(lambda: len(cells(harness)) == 1, what="the new volume")
    harness.scene.RemoveNode(node)
    standin.wait(lambda: cells(harness) == [], what="the volume to be gone")
    assert harness.panel.selectedNode() is None


def test_buttons_need_a_choice(harness, volumes):
    ui = harness.ui
    buttons = (ui.showButton, ui.compareButton, ui.renameButton, ui.deleteButton, ui.detailsButton, ui.againButton)
    assert all(visible(harness, button) and not button.enabled for button in buttons)
    pick(harness, 1)
    assert all(button.enabled for button in buttons)


def test_show_puts_the_volume_into_the_views(harness, volumes):
    import slicer.util

    asked = []
    harness.panel.showRequested.connect(asked.append)
    node = pick(harness, 1)
    harness.ui.showButton.click()
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert composites and {c.GetBackgroundVolumeID() for c in composites} == {node.GetID()}
    assert asked == [node]


def test_compare_asks_for_a_comparison_of_the_chosen_volume(harness, volumes):
    asked = []
    harness.panel.compareRequested.connect(asked.append)
    pick(harness, 2)
    harness.ui.compareButton.click()
    assert asked == [volumes[2]]


def test_renaming_keeps_the_mark(harness, volumes):
    pick(harness, 0)
    write_name(harness, 0, "  first try ")
    assert volumes[0].GetName() == "first try (synthetic)" == cells(harness)[0][0]
    write_name(harness, 0, "   ")
    assert volumes[0].GetName() == "first try (synthetic)" == cells(harness)[0][0]
    assert "cannot be empty" in harness.ui.messageLabel.text and visible(harness, harness.ui.messageLabel)
    assert harness.panel.selectedNode() is volumes[0]


def test_the_button_opens_the_editor_and_a_refresh_does_not_close_it(harness, volumes, drawing, standin, tmp_path):
    import qt

    harness.panel.widget._obj.setAttribute(hide_attribute())
    harness.panel.widget._obj.show()
    pick(harness, 1)
    harness.ui.renameButton.click()
    editors = harness.ui.volumesTable.findChildren(qt.QLineEdit)
    assert len(editors) == 1
    editors[0].setText("half a na")
    (newest,) = add_results(harness, tmp_path / "c", drawing, provenance(20))
    harness.panel.showNewest(newest)
    assert len(cells(harness)) == 4 and harness.panel.selectedNode() is volumes[1]
    assert harness.ui.volumesTable.findChildren(qt.QLineEdit)[0].text == "half a na"


def hide_attribute():
    from PySide6.QtCore import Qt

    return Qt.WidgetAttribute.WA_DontShowOnScreen


def test_deleting_asks_first_and_goes_on_to_the_next(harness, volumes, standin):
    pick(harness, 1)
    standin.dialogs.answer("Cancel")
    harness.ui.deleteButton.click()
    assert len(cells(harness)) == 3
    standin.dialogs.answer("OK")
    harness.ui.deleteButton.click()
    assert [row[2] for row in cells(harness)] == ["7", "9"]
    assert volumes[1].GetName() in standin.dialogs.shown[-1].text
    # What is highlighted is what the buttons act on.
    assert harness.panel.selectedNode() is volumes[2]
    assert harness.ui.volumesTable._obj.selectionModel().selectedRows()[0].row() == 1
    for _ in range(2):
        standin.dialogs.answer("OK")
        harness.ui.deleteButton.click()
    assert cells(harness) == [] and harness.panel.selectedNode() is None
    assert visible(harness, harness.ui.emptyLabel)


def test_the_same_settings_are_put_back_and_it_is_said(harness, volumes, drawing):
    pick(harness, 0)
    harness.ui.sameButton.click()
    assert harness.ui.messageLabel.text == f"The settings of '{volumes[0].GetName()}' are set."
    assert (harness.parameters.seed, harness.parameters.fixedSeed, harness.parameters.guidance) == (7, True, 2.5)
    harness.scene.RemoveNode(drawing)
    harness.ui.sameButton.click()
    assert "not in the scene any more" in harness.ui.messageLabel.text


def test_again_with_a_new_seed(harness, volumes, drawing):
    harness.session.engine.steps = [30]
    other = add_segmentation(harness.scene, {"lung": 9}, "other")
    harness.parameters.segmentation = other
    harness.parameters.fixedSeed, harness.parameters.seed = True, 77
    pick(harness, 1)
    harness.ui.againButton.click()
    (run,) = harness.session.queue.runs
    request = json.loads((run.folder / "request.json").read_text(encoding="utf-8"))
    assert run.context["segmentation"] == drawing.GetID() and request["seed"] == run.context["seed"]
    assert (request["steps"], request["guidance"], request["samples"]) == (33, 2.5, 1)
    text = harness.ui.messageLabel.text
    assert text.startswith("Run 1 is in the queue, see Generate.")
    assert f"The settings of '{volumes[1].GetName()}' are set now, but not its seed." in text
    assert request["seed"] not in (8, 77)
    harness.ui.againButton.click()
    assert len({run.context["seed"] for run in harness.session.queue.runs}) == 2
    assert (harness.parameters.fixedSeed, harness.parameters.seed) == (True, 77)


def test_again_is_refused_when_what_it_was_made_from_is_gone(harness, volumes, drawing):
    other = add_segmentation(harness.scene, {"lung": 9}, "other")
    harness.parameters.segmentation, harness.parameters.guidance = other, 4.0
    harness.scene.RemoveNode(drawing)
    pick(harness, 0)
    harness.ui.againButton.click()
    assert harness.session.queue.runs == []  # and not something from the other segmentation
    assert "not in the scene any more" in harness.ui.messageLabel.text
    assert harness.parameters.guidance == 4.0


def test_an_incomplete_record_is_said_by_every_button(harness, drawing, tmp_path):
    add_results(harness, tmp_path, drawing, provenance(settings={"mode": "whole", "seed": 7}))
    harness.panel.refresh()
    pick(harness, 0)
    for button in (harness.ui.sameButton, harness.ui.againButton):
        button.click()
        assert "incomplete" in harness.ui.messageLabel.text
    harness.ui.detailsButton.click()
    harness.ui.copyCommandButton.click()
    assert "incomplete" in harness.ui.messageLabel.text


def test_how_it_was_made_is_readable_and_copied_as_a_command(harness, volumes):
    import slicer

    pick(harness, 1)
    assert not visible(harness, harness.ui.detailsText)
    harness.ui.detailsButton.click()
    assert json.loads(harness.ui.detailsText.plainText) == provenance(8)
    bar = harness.ui.detailsText.verticalScrollBar()
    bar.setMaximum(50)
    bar.setValue(20)
    harness.panel.refresh()
    assert bar.value == 20  # whoever reads is not thrown back
    pick(harness, 2)
    assert json.loads(harness.ui.detailsText.plainText)["seed"] == 9
    harness.ui.copyCommandButton.click()
    import shlex

    words = shlex.split(slicer.app.clipboard().text())
    assert words[:3] == ["synthdiffusion", "generate", "SEGMENTATION.seg.nrrd"]
    assert words[words.index("--seed") + 1] == "9" and words[words.index("--steps") + 1] == "33"
    assert "in capitals" in harness.ui.messageLabel.text


def test_the_command_of_a_volume_without_a_drawing_names_no_segmentation(harness, tmp_path):
    import slicer

    settings = provenance()["settings"] | {"mode": "unconditional", "crop": False, "size": [256, 256, 128]}
    record = provenance(3, "unconditional", settings=settings, case="image")
    (node,) = add_results(harness, tmp_path, None, record)
    harness.panel.refresh()
    harness.panel.select(node)
    harness.ui.copyCommandButton.click()
    text = slicer.app.clipboard().text()
    assert "SEGMENTATION" not in text and "--mode unconditional" in text and "--size 256x256x128" in text


def test_a_volume_of_the_user_s_own_is_not_in_the_table(harness, volumes):
    add_volume(harness.scene)
    harness.panel.refresh()
    assert len(cells(harness)) == 3


def test_markup_in_names(harness, volumes, standin):
    pick(harness, 0)
    write_name(harness, 0, "<b>x</b> & y (synthetic)")
    assert cells(harness)[0][0] == "<b>x</b> & y (synthetic)"
    assert "&lt;b&gt;x&lt;/b&gt; &amp; y" in harness.ui.volumesTable.item(0, 0).toolTip()
    standin.dialogs.answer("Cancel")
    harness.ui.deleteButton.click()
    assert "&lt;b&gt;x&lt;/b&gt; &amp; y" in standin.dialogs.shown[-1].text


def test_refreshing_writes_nothing_and_is_cheap(harness, drawing, tmp_path):
    import time

    add_results(harness, tmp_path, drawing, *[provenance(seed) for seed in range(40)])
    harness.panel.refresh()
    pick(harness, 3)
    writes, began = harness.writes, time.monotonic()
    for _ in range(10):
        harness.panel.refresh()
    assert (time.monotonic() - began) / 10 < 0.1
    assert harness.writes == writes and harness.panel.selectedNode().GetAttribute("SynthDiffusion.Seed") == "3"


def test_closing_the_scene_empties_the_table(harness, volumes):
    pick(harness, 0)
    harness.closeScene()
    harness.scene.Clear(False)
    harness.panel.refresh()
    assert cells(harness) == [] and harness.panel.selectedNode() is None


def test_the_keyboard_goes_from_top_to_bottom(harness, volumes):
    pick(harness, 0)
    harness.ui.detailsButton.click()
    assert tab_order(harness.panel.widget, harness.ui.volumesTable) == [
        "volumesTable",
        "showButton",
        "compareButton",
        "againButton",
        "sameButton",
        "renameButton",
        "deleteButton",
        "detailsButton",
        "copyCommandButton",
        "detailsText",
        "dicomGroup",
        "evaluationGroup",
    ]


def test_nothing_is_left_behind(standin, tmp_path):
    from SynthDiffusionPanels.ResultsPanel import ResultsPanel

    before = standin.counts()
    harness = Harness(standin.scene, ResultsPanel, [shipped_model()])
    add_results(harness, tmp_path, add_segmentation(harness.scene, DRAWN), provenance(1))
    harness.panel.refresh()
    harness.close()
    after = standin.counts()
    for kind in ("observers", "timers", "processes", "scene_observers"):
        assert after[kind] == before[kind], kind


def test_the_panel_fits_its_width(harness, volumes, tmp_path):
    pick(harness, 1)
    harness.ui.detailsButton.click()
    harness.ui.sameButton.click()
    assert not any(widths(harness.panel, tmp_path, "results").values())


# Where a new volume is shown


def views() -> list[tuple]:
    import slicer.util

    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert composites
    return sorted({(c.GetBackgroundVolumeID(), c.GetForegroundVolumeID()) for c in composites}, key=str)


def show(harness, node) -> int:
    from SynthDiffusionScene.resultViews import showResult

    fitted = []
    shown = showResult(harness.scene, node, fitted.append)
    harness.fitted = len(fitted)
    return shown


def set_views(background=None, foreground=None, opacity: float = 0.0) -> None:
    import slicer.util

    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(background.GetID() if background else None)
        composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
        composite.SetForegroundOpacity(opacity)


def test_empty_views_the_blank_volume_and_an_earlier_result_make_room(harness, volumes, standin):
    from SynthDiffusionScene.drawing import newSegmentation

    assert show(harness, volumes[0]) == harness.fitted > 0
    assert views() == [(volumes[0].GetID(), None)]
    assert show(harness, volumes[1]) > 0 and harness.fitted == 0
    assert views() == [(volumes[1].GetID(), None)]
    newSegmentation(harness.scene, None, (20, 20, 20), 1.0, "blank drawing")
    blank = harness.scene.GetFirstNodeByName("blank drawing (blank volume)")
    set_views(blank)
    show(harness, volumes[2])
    assert views() == [(volumes[2].GetID(), None)]


def test_another_image_is_not_taken_away(harness, volumes):
    other = add_volume(harness.scene, "another patient")
    set_views(other)
    assert show(harness, volumes[0]) == 0
    assert views() == [(other.GetID(), None)]


@pytest.mark.parametrize("mode", ["inpaint", "whole"])
def test_over_the_image_that_it_was_made_from_it_lies_in_the_foreground(harness, drawing, tmp_path, mode):
    import slicer
    import slicer.util

    real = add_volume(harness.scene, shape=(40, 40, 40))
    if mode == "whole":
        drawing.SetReferenceImageGeometryParameterFromVolumeNode(real)
    record = provenance(7, mode)
    first, second = add_results(harness, tmp_path, drawing, record, record, real=real if mode == "inpaint" else None)
    set_views(real)
    assert show(harness, first) > 0
    assert views() == [(real.GetID(), first.GetID())]
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert {c.GetForegroundOpacity() for c in composites} == {1.0}
    show(harness, second)
    assert views() == [(real.GetID(), second.GetID())]
    own = add_volume(harness.scene, "PET")
    set_views(real, own, 0.5)
    assert show(harness, first) == 0 and views() == [(real.GetID(), own.GetID())]


def test_the_module_shows_what_a_run_has_made(standin, tmp_path):
    """The whole module, with a fake worker: results chosen, section open, views and comparison ready."""
    from panel_harness import ROOT

    loaded = standin.load_module(ROOT / "SynthDiffusion" / "SynthDiffusion.py")
    standin.complete_startup()
    loaded.make_widget()
    panel = loaded.widget.panel
    from SynthDiffusionJobs.Engine import Device, EngineStatus

    engine = panel.session.engine
    engine.status = EngineStatus(state="ready", devices=(Device("cpu", "CPU", 32 << 30, 16 << 30, "fp32"),))
    engine.models = (shipped_model(),)
    obey(engine)
    loaded.enter()
    parameters = panel.session.parameters
    real = add_volume(standin.scene, shape=(40, 40, 40))
    parameters.segmentation = drawing = add_segmentation(standin.scene, DRAWN)
    drawing.SetReferenceImageGeometryParameterFromVolumeNode(real)
    parameters.modelId = MODEL_ID
    engine.steps = [{"event": "done", "outputs": outputs(tmp_path, provenance(7), provenance(8))}]
    assert panel._resultsSection.collapsed
    panel.generatePanel.ui.generateButton.click()
    (run,) = panel.session.queue.runs
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    assert run.state == "done", run.message
    newest = standin.scene.GetNodeByID(run.context["nodes"][-1])
    assert panel.resultsPanel.selectedNode() is newest and newest.GetAttribute("SynthDiffusion.Seed") == "8"
    assert not panel._resultsSection.collapsed
    assert views() == [(newest.GetID(), None)]
    assert parameters.compareSynthetic is newest and parameters.compareReal is real

    assert panel._compareSection.collapsed
    panel.resultsPanel.ui.compareButton.click()
    assert panel.comparePanel.isActive and not panel._compareSection.collapsed
    panel.resultsPanel.select(standin.scene.GetNodeByID(run.context["nodes"][0]))
    panel.resultsPanel.ui.showButton.click()  # in the user's views, not in those of the comparison
    assert not panel.comparePanel.isActive
    assert views() == [(run.context["nodes"][0], None)]
