"""What the stand-in adds to `slicer`: parameter nodes, layouts, modules, files, packages, pictures."""

import enum
import textwrap
from typing import Annotated, Optional

import pytest


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


@pytest.fixture
def parameters(standin):
    """A class of parameters and a node for it."""
    import slicer
    from slicer.parameterNodeWrapper import Choice, Default, Minimum, WithinRange, parameterNodeWrapper

    @parameterNodeWrapper
    class Parameters:
        segmentation: slicer.vtkMRMLSegmentationNode
        maybe: Optional[int]  # noqa: UP045 - the form that Slicer's documentation has
        classes: dict[str, str]
        names: list[str]
        seed: Annotated[int, WithinRange(0, 99)] = 7
        guidance: Annotated[float, Minimum(0.0), Default(1.5)]
        mode: Annotated[str, Choice(["whole", "inpaint"])] = "whole"
        fixed: bool = False
        colour: Colour = Colour.GREEN

    return Parameters, slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")


def test_values_are_kept_in_the_text_that_slicer_writes(parameters):
    """The texts of Base/Python/slicer/parameterNodeWrapper/serializers.py, written out by hand."""
    Parameters, node = parameters
    values = Parameters(node)
    values.classes["Segment_1"] = "nodule"
    values.names.append("one")
    expected = {
        "seed": "7",
        "guidance": "1.5",
        "mode": "whole",
        "fixed": "False",
        "colour": "GREEN",
        "segmentation": "",
        "maybe.1": "True",
        "classes.len": "1",
        "classes.0.0": "Segment_1",
        "classes.0.1": "nodule",
        "names.len": "1",
        "names.0": "one",
    }
    assert {name: node.GetParameter(name) for name in node.GetParameterNames()} == expected
    values.maybe = 3
    assert (node.GetParameter("maybe.0"), node.HasParameter("maybe.1")) == ("3", 0)


def test_wrong_values_are_refused_and_change_nothing(parameters):
    Parameters, node = parameters
    values = Parameters(node)
    for name, value, error in [
        ("seed", 100, ValueError),
        ("seed", 1.5, TypeError),
        ("mode", "joint", ValueError),
        ("fixed", 1, TypeError),
        ("guidance", -1.0, ValueError),
        ("segmentation", node, TypeError),
        ("names", [1], TypeError),
        ("seed", None, ValueError),
    ]:
        with pytest.raises(error):
            setattr(values, name, value)
    assert (values.seed, values.mode, values.fixed, values.segmentation, list(values.names)) == (
        7,
        "whole",
        False,
        None,
        [],
    )
    with pytest.raises(AttributeError):
        values.classes.update({"a": "b"})  # Slicer's ObservedDict has no update


def test_parameters_survive_saving_and_reopening(parameters, standin, tmp_path):
    import slicer

    Parameters, node = parameters
    values = Parameters(node)
    values.segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawing")
    values.classes["Segment_1"] = "Lunge, größer"
    values.seed, values.maybe, values.colour = 42, 5, Colour.RED
    path = str(tmp_path / "scene.mrml")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(path)
    reopened = Parameters(slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")[0])
    assert reopened.segmentation.GetName() == "drawing"
    assert dict(reopened.classes) == {"Segment_1": "Lunge, größer"}
    assert (reopened.seed, reopened.maybe, reopened.colour, reopened.guidance) == (42, 5, Colour.RED, 1.5)


def test_widgets_follow_parameters_and_parameters_follow_widgets(parameters, standin):
    import qt
    import slicer

    Parameters, node = parameters
    values = Parameters(node)
    panel = qt.QWidget()
    layout = qt.QVBoxLayout(panel)
    widgets = {"seed": qt.QSpinBox(), "mode": qt.QComboBox(), "fixed": qt.QCheckBox(), "guidance": qt.QDoubleSpinBox()}
    widgets["segmentation"] = slicer.qMRMLNodeComboBox()
    widgets["segmentation"].noneEnabled = True
    for name, widget in widgets.items():
        widget.setProperty("SlicerParameterName", name)
        layout.addWidget(widget)
    widgets["segmentation"].setMRMLScene(slicer.mrmlScene)
    tag = values.connectGui(panel)
    assert (widgets["seed"].value, widgets["seed"].maximum, widgets["mode"].currentText) == (7, 99, "whole")
    drawing = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawing")
    widgets["seed"].value, widgets["mode"].currentIndex, widgets["fixed"].checked = 12, 1, True
    widgets["segmentation"].setCurrentNode(drawing)
    assert (values.seed, values.mode, values.fixed, values.segmentation) == (12, "inpaint", True, drawing)
    values.seed, values.segmentation = 13, None
    assert widgets["seed"].value == 13 and widgets["segmentation"].currentNode() is None
    assert standin.counts()["guis"] == 1
    values.disconnectGui(tag)
    widgets["seed"].value = 14
    assert values.seed == 13 and standin.counts()["guis"] == 0


def test_widgets_that_slicer_does_not_bind_are_refused(parameters):
    import qt

    Parameters, node = parameters
    values = Parameters(node)
    with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
        values.connectParametersToGui({"seed": qt.QLineEdit()})
    with pytest.raises(ValueError, match="Cannot find a param"):
        values.connectParametersToGui({"sead": qt.QSpinBox()})


def test_observers_hear_of_a_change_once(parameters):
    import vtk

    Parameters, node = parameters
    values, told = Parameters(node), []
    tag = values.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: told.append(values.seed))
    values.seed = 8
    values.RemoveObserver(tag)
    values.seed = 9
    assert told == [8]


def test_layout_description_makes_real_slice_nodes_with_logics(standin):
    import slicer

    manager, told = slicer.app.layoutManager(), []
    assert manager.sliceViewNames() == ("Red", "Green", "Yellow")
    manager.connect("layoutChanged(int)", told.append)
    before = manager.layout
    manager.layoutLogic().GetLayoutNode().AddLayoutDescription(
        4711,
        '<layout type="horizontal"><item><view class="vtkMRMLSliceNode" singletontag="Left">'
        '<property name="orientation" action="default">Coronal</property></view></item></layout>',
    )
    manager.setLayout(4711)
    assert told == [4711] and "Left" in manager.sliceViewNames()
    widget = manager.sliceWidget("Left")
    assert widget.mrmlSliceNode().GetOrientation() == "Coronal"
    composite = widget.sliceLogic().GetSliceCompositeNode()
    assert composite.GetLayoutName() == "Left" and composite.GetScene() is slicer.mrmlScene
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "v")
    slicer.util.setSliceViewerLayers(background=volume)
    assert composite.GetBackgroundVolumeID() == volume.GetID()
    manager.setLayout(before)
    assert told == [4711, before]


def test_volume_and_segmentation_are_read_by_slicers_readers(standin, tmp_path):
    import numpy as np
    import slicer

    volume = slicer.util.addVolumeFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4), name="v")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(tmp_path / "image.nrrd"))
    assert storage.WriteData(volume)
    loaded = slicer.util.loadVolume(str(tmp_path / "image.nrrd"))
    assert (slicer.util.arrayFromVolume(loaded) == slicer.util.arrayFromVolume(volume)).all()
    with pytest.raises(RuntimeError, match="does not exist"):
        slicer.util.loadSegmentation(str(tmp_path / "none.seg.nrrd"))


MODULE = """
    import slicer
    from slicer.ScriptedLoadableModule import *

    class Tiny(ScriptedLoadableModule):
        def __init__(self, parent):
            ScriptedLoadableModule.__init__(self, parent)
            parent.title = "Tiny module"

    class TinyWidget(ScriptedLoadableModuleWidget):
        def setup(self):
            ScriptedLoadableModuleWidget.setup(self)
            self.calls = ["setup", self.resourcePath("x.txt")]
            self.node = TinyLogic().getParameterNode()

        def enter(self):
            self.calls.append("enter")

        def exit(self):
            self.calls.append("exit")

        def cleanup(self):
            self.calls.append("cleanup")

    class TinyLogic(ScriptedLoadableModuleLogic):
        pass

    class TinyTest(ScriptedLoadableModuleTest):
        def test_it(self):
            slicer.ran = True
"""


def test_module_goes_through_its_life(standin, tmp_path):
    import slicer

    path = tmp_path / "Tiny.py"
    path.write_text(textwrap.dedent(MODULE), encoding="utf-8")
    loaded = standin.load_module(path)
    assert slicer.modules.tiny.title == "Tiny module" and "Tiny" in slicer.util.moduleNames()
    widget = loaded.make_widget()
    assert slicer.util.getModuleWidget("Tiny") is widget
    loaded.enter()
    loaded.unload()
    assert widget.calls == ["setup", str(tmp_path / "Resources" / "x.txt"), "enter", "exit", "cleanup"]
    assert widget.node.GetSingletonTag() == "Tiny" and widget.node.GetAttribute("ModuleName") == "Tiny"
    assert "Tiny" not in slicer.util.moduleNames()


def test_the_application_forgets_who_listened_in_the_last_test(application, tmp_path):
    from standin.environment import Environment

    for _test in range(2):
        told = []
        with Environment(tmp_path, [], ()) as environment:
            import slicer

            slicer.app.connect("startupCompleted()", lambda told=told: told.append(1))
            environment.complete_startup()
        assert told == [1]
    environment.app.startupCompleted.emit()
    assert told == [1]


def test_counts_see_observers_of_the_mixin(standin):
    import slicer
    import vtk

    class Observing(slicer.util.VTKObservationMixin):
        pass

    observing = Observing()
    before = standin.counts()
    observing.addObserver(slicer.mrmlScene, vtk.vtkCommand.ModifiedEvent, print)
    assert standin.counts()["observers"] == before["observers"] + 1
    assert standin.counts()["scene_observers"] == before["scene_observers"] + 1
    observing.removeObservers()
    assert standin.counts() == before


def test_packages_are_installed_as_the_test_says(standin, tmp_path):
    import slicer.packaging

    file = tmp_path / "requirements.txt"
    file.write_text(
        "# what is needed\nnumpy>=1\n-r other.txt\nno-such-package>=2 ; python_version > '3'\n", encoding="utf-8"
    )
    numpy, missing = slicer.packaging.load_requirements(file)
    assert slicer.packaging.pip_check(numpy) and not slicer.packaging.pip_check([numpy, missing])
    lines, codes = [], []
    standin.installations.exit_code = 1
    slicer.packaging.pip_install(
        ["a>=1"], constraints="c.txt", blocking=False, logCallback=lines.append, completedCallback=codes.append
    )
    assert slicer.packaging.isPipInstallInProgress() and codes == []
    standin.wait(lambda: codes)
    assert codes == [1] and lines[-1] == "Successfully installed"
    assert standin.installations.calls[0]["constraints"] == "c.txt"


def test_everything_is_taken_away_again(application, tmp_path):
    import sys

    import slicer
    from standin.environment import Environment

    before, paths = set(vars(slicer)), list(sys.path)
    with Environment(tmp_path, ["somewhere"], ()) as environment:
        assert slicer.mrmlScene is environment.scene and "qt" in sys.modules
    assert set(vars(slicer)) == before and sys.path == paths
    assert not {"qt", "ctk", "SampleData", "slicer.packaging"} & set(sys.modules)


def test_picture_has_the_width_the_text_and_the_caption(standin, tmp_path):
    import qt
    from PySide6.QtGui import QImage
    from standin.screenshots import screenshot

    def ink(text: str, **options):
        label = qt.QLabel(text)
        screenshot(label, tmp_path / "picture.png", width=300, height=40, caption="A label", **options)
        image = QImage(str(tmp_path / "picture.png"))
        background = image.pixelColor(299, 20)
        changed = [(x, y) for x in range(300) for y in range(40) if image.pixelColor(x, y) != background]
        return image, len(changed)

    image, letters = ink("Generate")
    assert image.width() == 300 and image.height() > 55  # a line of caption below the 40 rows
    assert image.pixelColor(299, image.height() - 1).name() == "#ffe9a8"
    assert letters > 50 and ink("")[1] == 0  # a font is there, and draws
    assert ink("Generate", fontScale=2.0)[1] > 2 * letters
    dark, _letters = ink("Generate", dark=True)
    assert dark.pixelColor(299, 20).lightness() < 80 < image.pixelColor(299, 20).lightness()
