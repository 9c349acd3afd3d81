"""What else the module shows while a comparison is on the screen stays out of the comparison's views."""

from __future__ import annotations

import pytest
from job_fakes import add_results, obey, provenance, write_volume
from panel_harness import MODEL_ID, ROOT, add_segmentation, add_volume, shipped_model


class Compared:
    """The whole module with a comparison on the screen.

    Attributes:
        panel: the `ModulePanel`; real, synthetic: what is compared; session, scene, parameters: see there.
    """

    def __init__(self, standin, folder) -> None:
        loaded = standin.load_module(ROOT / "SynthDiffusion" / "SynthDiffusion.py")
        standin.complete_startup()
        loaded.make_widget()
        self.panel, self.scene = loaded.widget.panel, standin.scene
        self.session = self.panel.session
        obey(self.session.engine)
        from SynthDiffusionJobs.Engine import Device, EngineStatus

        device = Device("cpu", "CPU", 32 << 30, 16 << 30, "fp32")
        self.session.engine.status = EngineStatus(state="ready", devices=(device,))
        self.session.engine.models = (shipped_model(),)
        loaded.enter()
        self.parameters = self.session.parameters
        self.parameters.modelId = MODEL_ID
        self.real = add_volume(self.scene, shape=(40, 40, 40))
        self.drawing = add_segmentation(self.scene, {"lung": 20, "tumour": 4})
        self.drawing.SetReferenceImageGeometryParameterFromVolumeNode(self.real)
        self.parameters.segmentation = self.drawing
        (self.synthetic,) = add_results(self, folder, self.drawing, provenance(7))

    def compare(self) -> None:
        self.panel.comparePanel.compare(self.synthetic)
        assert self.panel.comparePanel.isActive, self.panel.comparePanel.ui.messageLabel.text

    def views(self) -> dict[str, tuple]:
        """Background and foreground of every slice view, by the label that the user reads over it."""
        import slicer.util

        found = {}
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            node = self.scene.GetSingletonNode(composite.GetLayoutName(), "vtkMRMLSliceNode")
            shown = (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID())
            found[node.GetLayoutLabel()] = tuple(self.scene.GetNodeByID(name or "") for name in shown)
        return found

    def compared(self) -> dict[str, tuple]:
        """Those of the comparison."""
        return {label: shown for label, shown in self.views().items() if len(label) > 1}

    def users(self) -> list[tuple]:
        """Those of the user's own: R, G, Y and more of one letter."""
        return [shown for label, shown in self.views().items() if len(label) == 1]


@pytest.fixture
def compared(standin, tmp_path):
    return Compared(standin, tmp_path)


def test_a_new_drawing_and_another_volume_to_draw_on(compared):
    compared.compare()
    before = compared.compared()
    assert before["Synthetic"][0] is compared.synthetic and before["Real"][0] is compared.real
    assert len(before) == 3 and len(compared.users()) >= 3
    segmentation = compared.panel.segmentationPanel
    segmentation.ui.newButton.click()
    blank = segmentation.draw._editor.sourceVolumeNode()
    assert blank not in (None, compared.real, compared.synthetic)
    assert compared.panel.comparePanel.isActive and compared.compared() == before
    assert set(compared.users()) == {(blank, None)}
    other = add_volume(compared.scene, "another patient")
    segmentation.ui.volumeSelector.setCurrentNode(other)
    assert segmentation.draw._editor.sourceVolumeNode() is other
    assert compared.panel.comparePanel.isActive and compared.compared() == before
    assert set(compared.users()) == {(other, None)}


def test_opening_the_section_to_draw(compared):
    import slicer

    compared.parameters.realVolume = other = add_volume(compared.scene, "another patient")
    compared.compare()
    before = compared.compared()
    draw = compared.panel.segmentationPanel.draw
    draw.open()
    draw._editor.setActiveEffectByName("Paint")
    slicer.app.layoutManager()._obj.layoutChanged.emit(0)  # as when one view is shown alone
    assert draw._editor.sourceVolumeNode() is other
    assert compared.compared() == before and set(compared.users()) == {(other, None)}


def test_a_tool_is_put_down_when_a_comparison_begins(compared):
    draw = compared.panel.segmentationPanel.draw
    draw.open()
    draw._editor.setActiveEffectByName("Paint")
    assert draw._editor.activeEffect().name == "Paint" and draw._editor._obj.observed
    compared.compare()
    assert draw._editor.activeEffect() is None and not draw._editor._obj.observed
    assert draw._editor._obj.shortcuts == 1, "the keys still choose a tool"


def test_a_preview_that_comes_meanwhile(compared, tmp_path):
    from SynthDiffusionScene.preview import Preview

    preview = Preview(compared.scene)
    users = compared.users()
    compared.compare()
    before = compared.compared()
    preview.show(write_volume(tmp_path / "preview.nrrd"))
    assert compared.compared() == before
    assert all(preview.node in shown for shown in compared.users())
    preview.remove()
    assert compared.compared() == before and compared.users() == users


def test_a_scene_that_was_saved_from_slicers_menu_meanwhile(compared, tmp_path):
    import slicer
    import slicer.util

    layout = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
    saved = slicer.vtkMRMLScene()
    node = slicer.vtkMRMLLayoutNode()
    node.SetSingletonTag(layout.GetSingletonTag())
    node.SetViewArrangement(20571)  # views that only a running comparison knows
    node = saved.AddNode(node)
    saved.SetURL(str(tmp_path / "saved.mrml"))
    assert saved.Commit()
    slicer.util.loadScene(str(tmp_path / "saved.mrml"))
    assert layout.IsLayoutDescription(layout.GetViewArrangement())
    assert layout.GetCurrentLayoutDescription()
