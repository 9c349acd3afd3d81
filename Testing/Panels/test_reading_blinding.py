"""Nothing in Slicer's window or scene tells a reader what is real, and everything comes back at the end."""

from __future__ import annotations

import json
import types

import pytest
from panel_harness import ROOT
from reading_harness import Reader, make_study, shown_texts

MODULE_FILE = ROOT / "SynthDiffusion" / "SynthDiffusion.py"


class Annotations:
    """Slicer's corner annotations (DataProbeLib.SliceAnnotations), as far as a reading touches them."""

    def __init__(self) -> None:
        self.sliceViewAnnotationsEnabled, self.updates = 1, 0

    def updateSliceViewFromGUI(self) -> None:
        self.updates += 1


@pytest.fixture
def annotations(standin):
    import slicer

    made = Annotations()
    slicer.modules.DataProbeInstance = types.SimpleNamespace(infoWidget=types.SimpleNamespace(sliceAnnotations=made))
    return made


@pytest.fixture
def window(standin):
    """The main window, opened, with names that would give everything away in every corner of it."""
    main = standin.app.mainWindow()
    main.statusBar().showMessage("LEAK status")
    main.menuBar().actions()[0].menu().addAction("LEAK recent file")
    from PySide6 import QtWidgets

    main.data_probe.setLayout(QtWidgets.QVBoxLayout())
    main.data_probe.layout().addWidget(QtWidgets.QLabel("LEAK probe"))
    main.show()
    standin.process_events()
    return main


@pytest.fixture
def reader(standin, tmp_path):
    made = Reader(standin, make_study(tmp_path / "a study", single=3, pairs=1))
    yield made
    if made.panel.isActive:
        made.panel.leave()
    made.close()


def secrets(folder) -> set[str]:
    """All that must not be seen: arms, source names, opaque IDs, file names, units, truth."""
    key = json.loads((folder.parent / "private" / "key.json").read_text(encoding="utf-8"))
    found = {arm["id"] for arm in key["arms"]} - {"real"}  # the questions themselves ask for real or synthetic
    for opaque, entry in key["volumes"].items():
        found |= {opaque, entry["source"], entry["source_sha256"]}
    found |= set(key["units"]) | {str(folder), "volumes/", ".nii"}
    return found


def scene_texts(scene) -> list[str]:
    """Names, IDs, descriptions, attributes and file names of all nodes, and what their arrays are called."""
    found = []
    for index in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(index)
        found += [node.GetName() or "", node.GetID() or "", node.GetDescription() or ""]
        found += [f"{name} {node.GetAttribute(name)}" for name in node.GetAttributeNames()]
        if node.IsA("vtkMRMLStorageNode"):
            found += [node.GetFileName() or ""]
        if node.IsA("vtkMRMLVolumeNode") and node.GetImageData() is not None:
            found.append(str(node.GetImageData()))
        if node.IsA("vtkMRMLScriptedModuleNode"):
            found += [f"{name} {node.GetParameter(name)}" for name in node.GetParameterNames()]
    return found


def test_the_reading_shows_nothing_of_the_key(reader, standin, window, annotations):
    reader.begin()
    hidden = secrets(reader.folder)
    assert len(hidden) > 10
    seen = 0
    while reader.panel.isActive:
        texts = [*shown_texts(window), *shown_texts(reader.study.widget)]
        assert len(texts) > 10 and any(text.startswith("Case") for text in texts)
        for text in [*texts, *scene_texts(standin.scene)]:
            assert not any(secret in text for secret in hidden), text
            assert "LEAK" not in text
        seen += 1
        reader.answer(reader.form.questions[0].item.id, 1)
        reader.next()
    assert seen == 4


def test_the_check_itself_sees_what_is_visible(reader, standin, window):
    """Before the reading, the same look finds the file's folder, menus, status bar and data probe."""
    reader.log_in()
    texts = [*shown_texts(window), *shown_texts(reader.study.widget)]
    assert sum("LEAK" in text for text in texts) == 3
    assert any(str(reader.folder) in text for text in texts)


def test_nodes_are_opaque_hidden_and_not_saved(reader, standin):
    import slicer

    before = {standin.scene.GetNthNode(n).GetID() for n in range(standin.scene.GetNumberOfNodes())}
    reader.begin()
    nodes = [standin.scene.GetNthNode(n) for n in range(standin.scene.GetNumberOfNodes())]
    new = [node for node in nodes if node.GetID() not in before]
    volumes = [node for node in new if node.IsA("vtkMRMLScalarVolumeNode")]
    assert volumes and {node.GetName() for node in volumes} == {"Volume"}
    for node in new:
        assert not node.GetSaveWithScene() or node.IsA("vtkMRMLSubjectHierarchyNode"), node.GetName()
        assert not node.IsA("vtkMRMLStorageNode")
    for node in volumes:
        assert node.GetHideFromEditors() and not node.GetAttributeNames() and node.GetStorageNode() is None
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(standin.scene)
    if hierarchy is not None:
        assert not any(hierarchy.GetItemByDataNode(node) for node in volumes)


def test_slicer_is_never_asked_to_load_a_file(reader, standin, monkeypatch):
    """Its list of recent files is filled by its manager of files."""
    manager = type(standin.app.coreIOManager())
    monkeypatch.setattr(manager, "loadNodes", lambda *_: pytest.fail("loaded through the I/O manager"))
    reader.begin()
    assert standin.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") >= 1


def test_the_window_is_blinded_and_given_back(reader, standin, window, annotations):
    from PySide6 import QtWidgets

    def state():
        parts = window.findChildren(QtWidgets.QWidget)
        hidden = {part.objectName(): part.isHidden() for part in parts if part.objectName()}
        docks = window.findChildren(QtWidgets.QDockWidget)
        titles = {dock.objectName(): dock.titleBarWidget() for dock in docks}
        return hidden, titles, [a.isEnabled() for a in window.menuBar().actions()], window.acceptDrops()

    before = state()
    reader.begin()
    assert window.menuBar().isHidden() and window.statusBar().isHidden() and window.data_probe.isHidden()
    assert all(bar.isHidden() for bar in window.findChildren(QtWidgets.QToolBar))
    docks = {dock.objectName(): dock for dock in window.findChildren(QtWidgets.QDockWidget)}
    assert docks["PythonConsoleDockWidget"].isHidden() and docks["ErrorLogDockWidget"].isHidden()
    assert not docks["PanelDockWidget"].isHidden() and docks["PanelDockWidget"].titleBarWidget() is not None
    assert not any(action.isEnabled() for action in window.menuBar().actions()) and not window.acceptDrops()
    assert not annotations.sliceViewAnnotationsEnabled and annotations.updates == 1
    reader.read_all(1)
    assert state() == before and docks["ErrorLogDockWidget"].isHidden()  # it was hidden before
    assert annotations.sliceViewAnnotationsEnabled == 1 and annotations.updates == 2


def test_the_bars_above_the_images_are_hidden(reader):
    import slicer

    reader.begin()
    manager = slicer.app.layoutManager()
    for tag in ("SynthDiffusionRead1", "SynthDiffusionRead2", "SynthDiffusionRead3"):
        assert manager.sliceWidget(tag).sliceController().isHidden()


def test_nothing_is_written_to_slicers_settings(reader, annotations):
    import slicer

    before = set(slicer.app.userSettings().allKeys())
    reader.begin()
    assert {key for key in slicer.app.userSettings().allKeys() if key not in before} <= {
        "SynthDiffusion/StudyReader",
        "SynthDiffusion/StudyFolder",
    }


@pytest.mark.parametrize("end", ["finished", "left", "module", "closed", "scene", "node"])
def test_everything_comes_back_whatever_ends_it(standin, tmp_path, window, annotations, end):
    import slicer

    layout = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
    reader = Reader(standin, make_study(tmp_path, single=2))
    reader.log_in()
    standin.process_events()
    nodes, arrangement, counts = standin.scene.GetNumberOfNodes(), layout.GetViewArrangement(), standin.counts()
    reader.begin()
    assert layout.GetViewArrangement() != arrangement and window.menuBar().isHidden()
    reader.answer()
    reader.next()
    if end == "finished":
        reader.read_all()
    elif end == "left":
        standin.dialogs.answer("Leave")
        reader.ui.leaveButton.click()
    elif end == "module":
        reader.study.exit()
        assert "The module was left" in reader.login.messageLabel.text
    elif end == "closed":
        reader.close()
    elif end == "scene":
        standin.scene.Clear(0)
        assert "The scene was closed" in reader.login.messageLabel.text
    else:
        standin.scene.RemoveNode(standin.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode"))
        assert "was removed" in reader.login.messageLabel.text
    standin.process_events(0.05)
    assert not reader.panel.isActive and not window.menuBar().isHidden() and not window.data_probe.isHidden()
    assert annotations.sliceViewAnnotationsEnabled == 1
    if end != "scene":
        assert layout.GetViewArrangement() == arrangement and standin.scene.GetNumberOfNodes() == nodes
    assert standin.counts()["timers"] == counts["timers"]
    assert reader.types()[-1] == "close" and len(reader.answers()) == (2 if end == "finished" else 1)
    assert not list((reader.folder / "records").glob("*.lock"))
    if end != "closed":
        reader.close()


def test_an_error_while_it_begins_gives_all_back(reader, standin, window, annotations, monkeypatch):
    import SynthDiffusionScene.readingViews as views

    monkeypatch.setattr(views.ReadingViews, "show", lambda *_: 1 / 0)
    reader.log_in()
    reader.login.beginButton.click()
    assert isinstance(standin.faults.pop(), ZeroDivisionError)
    assert not reader.panel.isActive and not window.menuBar().isHidden()
    assert not reader.login.loginWidget.isHidden()
    monkeypatch.undo()
    reader.begin()  # the lock was given back
    assert reader.panel.page == "case"


def test_what_else_is_in_the_scene_is_not_drawn_over_the_images(reader, standin):
    import slicer
    from panel_harness import add_segmentation

    drawing = add_segmentation(standin.scene, {"nodule": 5})
    marks = standin.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "LEAK marks")
    marks.CreateDefaultDisplayNodes()
    hidden = standin.scene.AddNewNodeByClass("vtkMRMLModelNode", "own")
    hidden.CreateDefaultDisplayNodes()
    hidden.GetDisplayNode().SetVisibility2D(False)
    reader.begin()
    assert not any(node.GetDisplayNode().GetVisibility2D() for node in (drawing, marks, hidden))
    reader.panel.leave()
    assert drawing.GetDisplayNode().GetVisibility2D() and marks.GetDisplayNode().GetVisibility2D()
    assert not hidden.GetDisplayNode().GetVisibility2D()
    assert isinstance(drawing, slicer.vtkMRMLSegmentationNode)


def test_without_a_main_window_or_a_data_probe(reader, standin, monkeypatch):
    import slicer.util

    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None)
    reader.begin()
    assert reader.read_all(1) == 4


def test_the_module_shows_nothing_but_the_reading(standin, tmp_path):
    loaded = standin.load_module(MODULE_FILE)
    panel = loaded.make_widget().panel
    loaded.enter()
    study = panel.studyPanel
    study.ui.folderEdit.currentPath = str(make_study(tmp_path, single=2))
    before = {section.name: section.isHidden() for section in panel.sections}
    study.ui.beginButton.click()
    assert study.isReading
    shown = [section.name for section in panel.sections if not section.isHidden()]
    assert shown == ["studySection"]
    assert not any("Research only" in text for text in shown_texts(panel.widget))
    loaded.exit()
    assert not study.isReading
    assert {section.name: section.isHidden() for section in panel.sections} == before
    loaded.enter()
    assert "1 of" not in study.ui.messageLabel.text and "0 of 2 cases" in study.ui.messageLabel.text


def test_closing_the_scene_in_the_module(standin, tmp_path):
    loaded = standin.load_module(MODULE_FILE)
    panel = loaded.make_widget().panel
    loaded.enter()
    study = panel.studyPanel
    study.ui.folderEdit.currentPath = str(make_study(tmp_path, single=2))
    study.ui.beginButton.click()
    standin.scene.Clear(0)
    assert not study.isReading and not panel.sections.keys() - {s for s in panel.sections if not s.isHidden()}
    study.ui.beginButton.click()
    assert study.isReading and study.reading.page == "case"
    loaded.unload()
