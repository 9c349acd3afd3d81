"""The stand-in's ctk and qMRML widgets and its .ui loader, against the table of Slicer's headers and a real scene."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

STANDIN = Path(__file__).with_name("standin")


def test_the_table_is_a_copy_of_the_full_list(shared_facts):
    if not shared_facts:
        pytest.skip("the full list of Qt classes is not at hand")
    copied = json.loads((STANDIN / "slicer_qt_api.json").read_text(encoding="utf-8"))
    assert copied == runpy.run_path(str(STANDIN / "write_api_table.py"))["entries"](shared_facts)


def test_every_class_is_in_the_table_and_derives_from_its_base(application):
    from PySide6 import QtWidgets
    from standin import api_table
    from standin.widget_classes import CLASSES

    for name, cls in CLASSES.items():
        _names, qt_base = api_table.chain(name)
        assert cls.standin_name == name
        assert qt_base in [base.__name__ for base in cls.__mro__] or not hasattr(QtWidgets, qt_base), name


def test_signals_of_the_stand_in_are_signals_of_slicer(application):
    from standin import api_table
    from standin.widget_classes import CLASSES

    for name, cls in CLASSES.items():
        for signature in getattr(cls, "standin_signals", {}):
            assert api_table.kind_of(name, signature.partition("(")[0]) == "signal", (name, signature)


@pytest.mark.parametrize(
    "call",
    [
        lambda slicer, ctk: slicer.qMRMLNodeComboBox().setNodeTypes(
            ["vtkMRMLVolumeNode"]
        ),  # neither slot nor invokable
        lambda slicer, ctk: slicer.qMRMLNodeComboBox().currentNodeName,
        lambda slicer, ctk: ctk.ctkSliderWidget().setMinimum(1),
        lambda slicer, ctk: setattr(ctk.ctkSliderWidget(), "maximumm", 1),
        lambda slicer, ctk: ctk.ctkCollapsibleButton().setCollapsed(True),
        lambda slicer, ctk: ctk.ctkCollapsibleButton().connect("collapsed(bool)", print),
        lambda slicer, ctk: slicer.qMRMLNodeComboBox().connect("currentNodeChanged(int)", print),
        lambda slicer, ctk: ctk.ctkNothing,
        lambda slicer, ctk: slicer.qMRMLNothing,
        lambda slicer, ctk: slicer.app.applicationLogik,
    ],
)
def test_names_that_slicer_does_not_have_are_refused(standin, call):
    import ctk
    import slicer

    with pytest.raises(AttributeError):
        call(slicer, ctk)


def make_selector(slicer, **properties):
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    for name, value in properties.items():
        setattr(selector, name, value)
    return selector


def test_node_selector_follows_the_scene(standin):
    import slicer

    selector, told = make_selector(slicer, noneEnabled=True), []
    assert not selector.enabled
    selector.connect("currentNodeChanged(vtkMRMLNode*)", told.append)
    selector.setMRMLScene(slicer.mrmlScene)
    assert selector.enabled and selector.nodeCount() == 0
    first, second = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", n) for n in ("one", "two"))
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    hidden = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
    hidden.UnRegister(None)
    hidden.SetHideFromEditors(True)
    slicer.mrmlScene.AddNode(hidden)
    assert [selector.nodeFromIndex(i) for i in range(selector.nodeCount())] == [first, second]
    assert selector.currentNode() is None and told == []
    selector.setCurrentNode(second)
    assert (selector.currentNode(), selector.currentNodeID) == (second, second.GetID())
    second.SetName("renamed")
    assert "renamed" in [selector.children()[0].itemText(i) for i in range(selector.children()[0].count)]
    slicer.mrmlScene.RemoveNode(second)
    assert selector.currentNode() is None and told == [second, None]


def test_node_selector_without_none_takes_the_first_node(standin):
    import slicer

    selector = make_selector(slicer)
    selector.setMRMLScene(slicer.mrmlScene)
    first = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "one")
    second = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "two")
    assert selector.currentNode() is first
    slicer.mrmlScene.RemoveNode(first)
    assert selector.currentNode() is second
    slicer.mrmlScene.Clear(0)
    assert selector.currentNode() is None and selector.nodeCount() == 0


def test_node_selector_filters(standin):
    import slicer

    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
    volume.SetAttribute("Kind", "CT")
    selector = make_selector(slicer, noneEnabled=True)
    selector.setMRMLScene(slicer.mrmlScene)

    def shown():
        return {selector.nodeFromIndex(i) for i in range(selector.nodeCount())}

    assert shown() == {labels, volume}  # a label map is a scalar volume
    selector.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode"]
    assert shown() == {volume}
    selector.addAttribute("vtkMRMLScalarVolumeNode", "Kind", "MR")
    assert shown() == set()
    made = selector.addNode()
    assert made.GetAttribute("Kind") == "MR" and selector.currentNode() is made
    selector.removeAttribute("vtkMRMLScalarVolumeNode", "Kind")
    selector.sortFilterProxyModel().hiddenNodeIDs = [made.GetID()]
    assert shown() == {volume}


def test_observers_of_a_selector_end_with_it(standin):
    import slicer

    selector = make_selector(slicer)
    selector.setMRMLScene(slicer.mrmlScene)
    selector.deleteLater()
    standin.process_events()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "after")  # a dead selector would raise


def test_collapsible_button_hides_and_remembers(standin):
    import ctk
    import qt

    button, told = ctk.ctkCollapsibleButton(), []
    layout = qt.QVBoxLayout(button)
    stays, hidden, late = qt.QLabel("a"), qt.QLabel("b"), qt.QLabel("c")
    for label in (stays, hidden):
        layout.addWidget(label)
    button.connect("contentsCollapsed(bool)", told.append)
    button.show()
    hidden.setVisible(False)
    button.collapsed = True
    assert told == [True] and not stays.visible
    layout.addWidget(late)
    late.setVisible(True)
    assert not late.visible
    button.collapsed = False
    assert stays.visible and late.visible and not hidden.visible


def test_slider_widget_keeps_value_in_range_and_tells(standin):
    import ctk

    slider, told = ctk.ctkSliderWidget(), []
    slider.maximum, slider.decimals = 5, 1
    slider.connect("valueChanged(double)", told.append)
    slider.value = 2.5
    slider.setValue(9)
    assert told == [2.5, 5.0] and slider.value == 5.0


def test_segment_editor_needs_its_node_and_holds_what_it_is_given(standin):
    import slicer

    editor = slicer.qMRMLSegmentEditorWidget()
    editor.setMRMLScene(slicer.mrmlScene)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    with pytest.raises(RuntimeError, match="setMRMLSegmentEditorNode"):
        editor.setSegmentationNode(segmentation)
    editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.setSegmentationNode(segmentation)
    segmentation.GetSegmentation().AddEmptySegment("nodule", "Nodule")
    editor.setCurrentSegmentID("nodule")
    editor.setActiveEffectByName("Paint")
    assert editor.segmentationNode() is segmentation and editor.currentSegmentID() == "nodule"
    assert editor.mrmlSegmentEditorNode().GetActiveEffectName() == "Paint"


def test_segment_editor_shows_its_source_volume_and_observes_the_views_while_a_tool_is_active(standin):
    import slicer
    import slicer.util

    def add_volume():
        return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")

    def shown():
        composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        return {(c.GetBackgroundVolumeID(), c.GetForegroundVolumeID()) for c in composites}

    first, second, third = add_volume(), add_volume(), add_volume()
    editor = slicer.qMRMLSegmentEditorWidget()
    editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.setMRMLScene(slicer.mrmlScene)
    editor.setSegmentationNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode"))
    slicer.util.setSliceViewerLayers(background=first, foreground=second)
    editor.setSourceVolumeNode(second)
    assert shown() == {(first.GetID(), second.GetID())}  # it is there already
    editor.setSourceVolumeNode(third)
    assert shown() == {(third.GetID(), None)}
    slicer.util.setSliceViewerLayers(background=first)
    changed = slicer.app.layoutManager()._obj.layoutChanged
    changed.emit(3)
    assert shown() == {(first.GetID(), None)}
    editor.setActiveEffectByName("Paint")
    assert editor.activeEffect().name == "Paint" and editor._obj.observed
    changed.emit(3)
    assert shown() == {(third.GetID(), None)}
    editor.autoShowSourceVolumeNode = False
    editor.setSourceVolumeNode(first)
    changed.emit(3)
    assert shown() == {(third.GetID(), None)}
    editor.setActiveEffect(None)
    assert editor.activeEffect() is None and not editor._obj.observed
    editor.setActiveEffectByName("no such tool")
    assert editor.activeEffect() is None


UI = """<ui version="4.0"><class>Panel</class>
<widget class="qMRMLWidget" name="Panel"><layout class="QFormLayout" name="form">
 <item row="0" column="0"><widget class="QLabel" name="label"><property name="text"><string>Node:</string></property>
  <property name="buddy"><cstring>selector</cstring></property></widget></item>
 <item row="0" column="1"><widget class="qMRMLNodeComboBox" name="selector">
  <property name="toolTip"><string>Choose</string></property>
  <property name="nodeTypes"><stringlist><string>vtkMRMLSegmentationNode</string></stringlist></property>
  <property name="SlicerParameterName" stdset="0"><string>segmentation</string></property></widget></item>
 <item row="1" column="1"><widget class="ctkCollapsibleButton" name="more">
  <property name="collapsed"><bool>true</bool></property></widget></item>
</layout></widget>
<customwidgets><customwidget><class>qMRMLWidget</class><extends>QWidget</extends><header>qMRMLWidget.h</header>
 <container>1</container></customwidget></customwidgets>
<connections><connection><sender>Panel</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>selector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


def load(text: str, folder: Path):
    import slicer.util

    path = folder / "Panel.ui"
    path.write_text(text, encoding="utf-8")
    return slicer.util.loadUI(str(path))


def test_ui_file_is_loaded_with_properties_and_connections(standin, tmp_path):
    import slicer

    panel = load(UI, tmp_path)
    ui = slicer.util.childWidgetVariables(panel)
    assert ui.selector.nodeTypes == ("vtkMRMLSegmentationNode",) and ui.selector.toolTip == "Choose"
    assert ui.more.collapsed and ui.selector.property("SlicerParameterName") == "segmentation"
    panel.setMRMLScene(slicer.mrmlScene)
    assert ui.selector.mrmlScene() is slicer.mrmlScene


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("ctkCollapsibleButton", "ctkCollapsableButton"),
        ('name="collapsed"', 'name="colapsed"'),
        ('name="toolTip"', 'name="tooltip"'),
        (' stdset="0"', ""),
        ("mrmlSceneChanged(vtkMRMLScene*)", "mrmlSceneChanged(int)"),
        ("setMRMLScene(vtkMRMLScene*)</slot>", "setScene(vtkMRMLScene*)</slot>"),
        ("<receiver>selector", "<receiver>nobody"),
        ("<cstring>selector", "<cstring>nobody"),
    ],
)
def test_ui_files_with_what_slicer_does_not_have_are_refused(standin, tmp_path, right, wrong):
    assert right in UI
    with pytest.raises(AttributeError):
        load(UI.replace(right, wrong), tmp_path)
