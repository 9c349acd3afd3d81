"""The section that compares: what it proposes, its views and table, and how it ends."""

from __future__ import annotations

import pytest
from job_fakes import add_results, provenance
from panel_harness import Harness, add_segmentation, add_volume, widths
from test_generate_panel import tab_order, visible

DRAWN = {"lung": 20, "tumour": 4}


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.ComparePanel import ComparePanel

    made = Harness(standin.scene, ComparePanel)
    yield made
    made.close()


@pytest.fixture
def pair(harness, tmp_path):
    """A real volume and a synthetic one, of a segmentation that was drawn on the real one."""
    real = add_volume(harness.scene, shape=(40, 40, 40))
    real.CreateDefaultDisplayNodes()
    drawing = add_segmentation(harness.scene, DRAWN)
    drawing.SetReferenceImageGeometryParameterFromVolumeNode(real)
    record = provenance(7)
    record["mapping"]["segments"] = record["mapping"]["segments"][:2]
    (synthetic,) = add_results(harness, tmp_path, drawing, record)
    return real, synthetic, drawing


@pytest.fixture
def active(harness, pair):
    harness.panel.compare(pair[1])
    assert harness.panel.isActive, harness.ui.messageLabel.text
    return harness


def layout():
    import slicer

    return slicer.app.layoutManager().layoutLogic().GetLayoutNode()


def cells(harness) -> dict[str, dict[str, str]]:
    """The table by segment and column."""
    table = harness.ui.statisticsTable
    header = [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]
    rows = [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]
    return {row[0]: dict(zip(header, row)) for row in rows}


def test_two_volumes_are_needed(harness, pair):
    real, synthetic, _drawing = pair
    assert not harness.ui.compareButton.enabled and not visible(harness, harness.ui.controlsWidget)
    assert harness.ui.messageLabel.text == "Choose a real volume and a synthetic one."
    harness.ui.syntheticSelector.setCurrentNode(synthetic)
    assert harness.parameters.compareSynthetic is synthetic and not harness.ui.compareButton.enabled
    harness.ui.realSelector.setCurrentNode(real)
    assert harness.parameters.compareReal is real and harness.ui.compareButton.enabled


def test_only_volumes_of_the_module_are_offered_as_synthetic(harness, pair):
    selector = harness.ui.syntheticSelector
    names = [selector.nodeFromIndex(n).GetName() for n in range(selector.nodeCount())]
    assert names == [pair[1].GetName()]


def test_the_image_that_was_drawn_on_is_proposed(harness, pair, tmp_path):
    real, synthetic, drawing = pair
    assert harness.panel.choose(synthetic)
    assert harness.parameters.compareReal is real and harness.parameters.compareSynthetic is synthetic
    other = add_volume(harness.scene, "painted into", shape=(40, 40, 40))
    (inpainted,) = add_results(harness, tmp_path / "b", drawing, provenance(8, "inpaint"), real=other)
    assert harness.panel.choose(inpainted) and harness.parameters.compareReal is other


def test_without_a_real_volume_it_asks_for_one(harness, pair, tmp_path):
    from SynthDiffusionScene.drawing import newSegmentation

    blank = newSegmentation(harness.scene, None, (20, 20, 20), 1.0, "blank drawing")
    (node,) = add_results(harness, tmp_path / "c", blank, provenance(9))
    harness.panel.compare(node)
    assert not harness.panel.isActive and harness.parameters.compareSynthetic is node
    assert harness.ui.messageLabel.text == "Choose the real volume to compare with."
    harness.parameters.compareReal = chosen = pair[0]
    harness.panel.compare(node)
    assert not harness.panel.isActive and harness.parameters.compareReal is chosen  # the user's own choice stays
    assert "is not known. Click Compare if" in harness.ui.messageLabel.text and harness.ui.compareButton.enabled
    harness.scene.RemoveNode(pair[0])  # the blank volume and the synthetic ones are no real ones
    harness.panel.compare(node)
    assert "There is no real volume in the scene" in harness.ui.messageLabel.text
    assert "another synthetic volume" in harness.ui.messageLabel.text
    harness.ui.realSelector.setCurrentNode(pair[1])
    harness.ui.compareButton.click()
    assert harness.panel.isActive  # as it says


def test_one_click_compares_and_another_gives_the_views_back(harness, pair):
    real, synthetic, drawing = pair
    before, nodes = layout().GetViewArrangement(), harness.scene.GetNumberOfNodes()
    window = real.GetDisplayNode().GetWindow()
    harness.panel.choose(synthetic)
    harness.ui.compareButton.click()
    assert harness.panel.isActive and layout().GetViewArrangement() != before
    assert harness.ui.compareButton.text == "Back to my own views" and harness.ui.compareButton.checked
    assert visible(harness, harness.ui.controlsWidget)
    # From now on the window is common to both.
    assert real.GetDisplayNode().GetWindow() == synthetic.GetDisplayNode().GetWindow()
    harness.ui.compareButton.click()
    assert not harness.panel.isActive and layout().GetViewArrangement() == before
    assert harness.scene.GetNumberOfNodes() == nodes and real.GetDisplayNode().GetWindow() == window
    assert harness.ui.compareButton.text == "Compare" and not harness.ui.compareButton.checked


def test_the_table_holds_what_numpy_counts(active, pair):
    import numpy as np
    import slicer.util

    real, synthetic, _drawing = pair
    table = cells(active)
    assert list(table) == ["lung", "tumour"]
    # add_segmentation: a cube from voxel 5 on
    for name, side in DRAWN.items():
        box = (slice(5, 5 + side),) * 3
        values = [slicer.util.arrayFromVolume(node)[box] for node in (real, synthetic)]
        row = table[name]
        assert row["Voxels, real"] == row["Voxels, synthetic"] == str(side**3)
        means = [float(np.mean(part)) for part in values]
        found = [float(text) for key, text in row.items() if key.startswith("Mean, ")]
        assert found == pytest.approx(means, abs=0.05)
        assert float(row["Volume, ml"].split()[0]) == pytest.approx(side**3 / 1000, rel=0.01)
    assert table["tumour"]["Adherence (Dice)"].startswith("0.71, 1 of 1 found")
    assert table["lung"]["Adherence (Dice)"] == ""


def test_the_table_is_copied_as_spreadsheets_take_it(active):
    import slicer

    active.ui.copyButton.click()
    lines = [line.split("\t") for line in slicer.app.clipboard().text().split("\n")]
    assert len(lines) == 3 and {len(line) for line in lines} == {active.ui.statisticsTable.columnCount}
    assert lines[0][0] == "Segment" and lines[2][0] == "tumour"


def test_the_third_view(active, standin):
    comparison, ui = active.panel._comparison, active.ui
    assert comparison.mode == "difference" and not visible(active, ui.fadeSlider)
    ui.modeCombo.setCurrentIndex(2)
    assert comparison.mode == "fade" and visible(active, ui.fadeSlider) and visible(active, ui.fadeLabel)
    ui.fadeSlider.setValue(80)
    assert comparison.fade == 0.8
    ui.modeCombo.setCurrentIndex(1)
    assert comparison.mode == "flicker" and not visible(active, ui.fadeSlider)
    shown = comparison.shown
    standin.wait(lambda: comparison.shown != shown, seconds=5, what="the flicker")
    ui.modeCombo.setCurrentIndex(0)
    assert not active.panel._flicker.active


def test_planes_and_segments(active):
    comparison, ui = active.panel._comparison, active.ui
    ui.orientationCombo.setCurrentIndex(2)
    assert comparison.orientation == "Coronal"
    assert {node.GetOrientation() for node in comparison.layout.slices.values()} == {"Coronal"}
    assert [ui.segmentCombo.itemText(n) for n in range(ui.segmentCombo.count)] == ["Whole volume", "lung", "tumour"]
    assert ui.segmentCombo.currentText == "tumour"  # the smallest, as a rule the lesion
    ui.segmentCombo.setCurrentIndex(1)
    assert comparison.segmentId == "Segment_1"
    ui.segmentCombo.setCurrentIndex(0)
    assert comparison.segmentId is None


def test_drawing_measures_anew_a_moment_later(active, pair, standin):
    pair[2].GetSegmentation().GetSegment("Segment_2").SetName("knot")
    active.session.drawingChanged.emit()
    standin.wait(lambda: "knot" in cells(active), seconds=5, what="the table")
    assert "tumour" not in cells(active)
    assert "knot" in [active.ui.segmentCombo.itemText(n) for n in range(active.ui.segmentCombo.count)]


def test_another_volume_while_it_is_shown(active, pair, tmp_path):
    (second,) = add_results(active, tmp_path / "b", pair[2], provenance(8))
    active.ui.modeCombo.setCurrentIndex(2)
    active.ui.orientationCombo.setCurrentIndex(1)
    active.ui.syntheticSelector.setCurrentNode(second)
    assert active.panel.isActive and active.panel._comparison.synthetic is second
    assert active.panel._comparison.mode == "fade" and active.panel._comparison.orientation == "Sagittal"
    active.ui.syntheticSelector.setCurrentNode(None)
    assert not active.panel.isActive


def test_what_cannot_be_compared_is_said(harness, pair):
    real, synthetic, _drawing = pair
    real.SetOrigin(1000, 1000, 1000)
    before = layout().GetViewArrangement()
    harness.panel.compare(synthetic)
    assert not harness.panel.isActive and layout().GetViewArrangement() == before
    assert "do not overlap" in harness.ui.messageLabel.text and visible(harness, harness.ui.messageLabel)
    assert not harness.ui.compareButton.checked
    real.SetOrigin(0, 0, 0)
    harness.ui.compareButton.click()
    assert harness.panel.isActive and not visible(harness, harness.ui.messageLabel)


def test_it_ends_when_a_volume_is_deleted_and_says_why(active, pair):
    name = pair[0].GetName()
    active.ui.modeCombo.setCurrentIndex(1)
    active.scene.RemoveNode(pair[0])
    assert not active.panel.isActive and f"'{name}' was removed" in active.ui.messageLabel.text
    assert not active.panel._flicker.active and not active.ui.compareButton.checked


def test_it_ends_with_the_module_and_with_the_scene(active, pair):
    before = active.panel._comparison.layout._before[0]
    active.panel.exit()
    assert not active.panel.isActive and layout().GetViewArrangement() == before
    active.panel.enter()
    active.panel.compare(pair[1])
    active.closeScene()
    active.scene.Clear(False)
    active.panel.refresh()
    assert not active.panel.isActive and active.ui.messageLabel.text == ""
    assert not active.ui.compareButton.enabled


def test_the_scene_can_be_saved_as_the_user_knows_it(active):
    during = layout().GetViewArrangement()
    with active.panel.paused():
        assert layout().GetViewArrangement() == active.panel._comparison.layout._before[0]
    assert layout().GetViewArrangement() == during and active.panel.isActive


def test_refreshing_writes_nothing(active):
    writes = active.writes
    for _ in range(3):
        active.panel.refresh()
    assert active.writes == writes and active.panel.isActive


def test_markup_in_segment_names(active, pair, standin):
    pair[2].GetSegmentation().GetSegment("Segment_1").SetName("<b>lung</b>")
    active.session.drawingChanged.emit()
    standin.wait(lambda: "<b>lung</b>" in cells(active), seconds=5, what="the table")
    assert "&lt;b&gt;lung" in active.ui.statisticsTable.item(0, 0).toolTip()


def test_the_keyboard_goes_from_top_to_bottom(active):
    active.ui.modeCombo.setCurrentIndex(2)
    order = tab_order(active.panel.widget, active.ui.compareButton)
    expected = ["compareButton", "orientationCombo", "modeCombo", "fadeSlider", "segmentCombo", "statisticsTable"]
    assert order[:7] == [*expected, "copyButton"]


def test_closing_the_panel_leaves_the_choice_in_the_scene(standin, tmp_path):
    from SynthDiffusionPanels.ComparePanel import ComparePanel

    harness = Harness(standin.scene, ComparePanel)
    harness.parameters.compareReal = real = add_volume(harness.scene)
    assert harness.ui.realSelector.currentNode() is real
    harness.close()
    assert harness.parameters.compareReal is real


def test_nothing_is_left_behind(standin, tmp_path):
    from SynthDiffusionPanels.ComparePanel import ComparePanel

    before = standin.counts()
    harness = Harness(standin.scene, ComparePanel)
    real = add_volume(harness.scene, shape=(40, 40, 40))
    drawing = add_segmentation(harness.scene, DRAWN)
    drawing.SetReferenceImageGeometryParameterFromVolumeNode(real)
    (synthetic,) = add_results(harness, tmp_path, drawing, provenance(7))
    harness.panel.compare(synthetic)
    harness.ui.modeCombo.setCurrentIndex(1)
    assert harness.panel.isActive
    harness.close()
    standin.process_events(0.1)
    after = standin.counts()
    for kind in ("observers", "timers", "scene_observers"):
        assert after[kind] == before[kind], kind
    assert harness.session.drawingChanged.receiverCount == 0


def test_the_panel_fits_its_width(active, tmp_path):
    active.ui.modeCombo.setCurrentIndex(2)
    assert not any(widths(active.panel, tmp_path, "compare").values())
