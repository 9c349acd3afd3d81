"""What the user does to the scene and the module while a real worker runs, and several requests one after the other."""

from __future__ import annotations

import subprocess
import sys

import pytest
from whole_way import STEPS, array, children, processes_of, slow_workers

PREVIEW = "SynthDiffusion preview"
LATE = '"stage": "denoise", "step": 6'  # previews have been shown by then


@pytest.fixture
def drawn(quick_answers, opened):
    """A drawing that is ready to be generated into."""
    opened.add_chest()
    opened.set_usual()
    return opened


def stopped_run(slicer, monkeypatch):
    """A run that has shown previews and is stopped in the middle, by the file that this returns, too."""
    slow_workers(monkeypatch, LATE)
    run = slicer.generate()
    slow_workers(monkeypatch, "")
    slicer.wait_stopped(run)
    slicer.wait(lambda: slicer.panel.generatePanel._preview is not None, what="a preview")
    return run, run.folder / "stopped"


def test_the_module_is_left_and_nodes_are_deleted_while_it_runs(drawn, monkeypatch):
    scene = drawn.scene
    run, stopped = stopped_run(drawn, monkeypatch)
    drawn.loaded.exit()
    drawn.standin.process_events(0.3)
    assert run.state == "running" and processes_of(run)
    drawn.loaded.enter()
    assert drawn.ui.stageLabel.isVisibleTo(drawn.panel.widget)
    scene.RemoveNode(scene.GetFirstNodeByName(PREVIEW))
    scene.RemoveNode(drawn.parameters.realVolume)
    scene.RemoveNode(drawn.parameters.segmentation)
    assert not drawn.ui.generateButton.enabled
    drawn.loaded.exit()
    stopped.unlink()
    drawn.wait_run(run)
    drawn.loaded.enter()
    (node,) = drawn.volumes(run)
    assert array(node).shape == (24, 24, 24)
    assert drawn.panel.resultsPanel.ui.volumesTable.rowCount == 1
    assert scene.GetFirstNodeByName(PREVIEW) is None
    assert all(view[1:3] == (None, None) for view in drawn.views())
    drawn.wait_idle()
    assert children() == []


def test_closing_the_scene_reloading_and_closing_slicer_end_the_run(drawn, monkeypatch):
    drawn.wait_idle()
    counts = drawn.standin.counts()

    # The scene is closed: nothing is left but an empty scene, and the next run begins.
    run, _stopped = stopped_run(drawn, monkeypatch)
    drawn.scene.Clear(0)
    drawn.wait(lambda: not processes_of(run), seconds=2, what="the end of the worker")
    assert drawn.queue.runs == [] and not run.folder.exists()
    assert drawn.scene.GetFirstNodeByName(PREVIEW) is None
    drawn.wait_idle()
    assert children() == [] and drawn.files() == ["SynthDiffusion"]
    assert drawn.parameters.segmentation is None and not drawn.ui.generateButton.enabled
    volume, _segmentation = drawn.add_chest()
    drawn.set_usual()
    drawn.wait_idle()
    assert drawn.standin.counts() == counts

    # The module is reloaded by a developer: a new panel shows the parameters of the scene.
    drawn.parameters.compareReal = drawn.parameters.compareSynthetic = volume
    inventory, old = drawn.inventory(), drawn.loaded.widget
    run, _stopped = stopped_run(drawn, monkeypatch)
    old.onReload()
    drawn.wait(lambda: not processes_of(run), seconds=2, what="the end of the worker")
    assert drawn.loaded.widget is not old
    assert not run.folder.parent.exists()
    drawn.wait_ready()
    assert drawn.parameters.modelId == "tiny-ct" and drawn.parameters.steps == STEPS
    assert drawn.parameters.realVolume is drawn.parameters.compareReal is drawn.parameters.compareSynthetic is volume
    drawn.wait_idle()
    assert drawn.inventory() == inventory
    assert drawn.standin.counts() == counts

    # Slicer is closed.
    run, _stopped = stopped_run(drawn, monkeypatch)
    drawn.loaded.unload()
    drawn.wait(lambda: not processes_of(run), seconds=2, what="the end of the worker")
    assert children() == []
    assert not run.folder.parent.exists()
    assert drawn.scene.GetFirstNodeByName(PREVIEW) is None
    assert drawn.views() == inventory["views"]
    left = drawn.standin.counts()
    assert [left[name] for name in ("observers", "timers", "processes", "guis")] == [0, 0, 0, 0]
    assert left["scene_observers"] < counts["scene_observers"]


def test_each_of_three_queued_requests_keeps_its_own_settings(drawn):
    from SynthDiffusionScene.volumes import provenanceOf

    wanted = [
        {"seed": 11, "sampler": "ddim", "steps": 5, "mode": "inpaint", "guidance": 1.5, "samples": 1},
        {"seed": 22, "sampler": "dpmpp-2m", "steps": 6, "mode": "whole", "guidance": 2.0, "samples": 2},
        {"seed": 33, "sampler": "ddpm", "steps": 4, "mode": "inpaint", "guidance": 1.0, "samples": 1},
    ]
    runs = []
    for settings in wanted:
        drawn.set(**settings)
        drawn.standin.process_events(0.1)
        runs.append(drawn.generate())
    drawn.set(seed=99, sampler="ddim", steps=3, mode="whole", guidance=4.0, samples=1, caseName="other")
    for run in runs:
        drawn.wait_run(run)
    for number, (run, settings) in enumerate(zip(runs, wanted), start=1):
        volumes = drawn.volumes(run)
        assert len(volumes) == settings["samples"]
        for index, node in enumerate(volumes):
            made = provenanceOf(node)["settings"]
            expected = {**settings, "seed": settings["seed"] + index}
            assert {name: made[name] for name in expected if name != "samples"} == {
                name: value for name, value in expected.items() if name != "samples"
            }
            assert provenanceOf(node)["case"] == "drawing"
            assert node.GetAttribute("SynthDiffusion.Run") == str(number)


def test_another_python_that_lacks_packages_is_named_and_nothing_can_be_generated(drawn, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    folder = "Scripts" if sys.platform == "win32" else "bin"
    assert drawn.ui.generateButton.enabled
    drawn.session.engine.setOtherPython(str(tmp_path / "bare" / folder / "python"))
    assert not drawn.ui.generateButton.enabled
    drawn.wait(lambda: drawn.session.engine.status.state == "missing", what="the probe")
    texts = shown_texts(drawn.panel.setupPanel.widget)
    assert "monai" in texts and "torch" in texts.lower()
    assert not drawn.ui.generateButton.enabled
    assert "set-up is not complete" in drawn.ui.estimateLabel.text
    drawn.session.engine.setOtherPython("")
    drawn.wait_ready()
    assert drawn.ui.generateButton.enabled


def shown_texts(widget) -> str:
    """All that the labels and tables of a widget say."""
    import qt

    texts = [label.text for label in widget.findChildren(qt.QLabel)]
    for table in widget.findChildren(qt.QTableWidget):
        cells = [table.item(row, column) for row in range(table.rowCount) for column in range(table.columnCount)]
        texts += [cell.text() for cell in cells if cell is not None]
    return "\n".join(texts)
