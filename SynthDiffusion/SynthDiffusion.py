"""The Slicer module SynthDiffusion: synthetic CT and MR volumes from segmentations by generative diffusion models.

This file is thin on purpose. What the user sees is in SynthDiffusionPanels, the processes that do the work are started
by SynthDiffusionJobs, what happens in the scene is in SynthDiffusionScene, and the engine is SynthDiffusionLib, which
never runs its models inside Slicer's process.
"""

import logging
import os
import sys

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class SynthDiffusion(ScriptedLoadableModule):
    """Name, category and help of the module."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SynthDiffusion")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        parent.dependencies = []
        parent.contributors = ["SynthDiffusion contributors"]
        parent.helpText = _(
            "Makes synthetic CT and MR volumes from segmentations with generative diffusion models, on the local"
            " computer.<p><b>Research only. Synthetic images are not for diagnosis.</b> A volume into which a structure"
            " was painted still holds the real patient's image everywhere else: it is not anonymous.</p>"
        )
        parent.acknowledgementText = _(
            "Built on MONAI, diffusers, PyTorch and 3D Slicer. The methods and data sets behind each model are named in"
            " its model card."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offers the sample segmentations in Slicer's Sample Data module."""
    from SynthDiffusionJobs.Samples import registerSampleData

    registerSampleData(SynthDiffusionLogic().resourcePath)


class SynthDiffusionWidget(ScriptedLoadableModuleWidget):
    """Puts the panel into the module's layout, and tells it when it is shown, hidden and taken down."""

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        from SynthDiffusionJobs.Session import Session
        from SynthDiffusionPanels.ModulePanel import ModulePanel

        self.logic, self.panel = SynthDiffusionLogic(), None
        try:
            engineFolder = self.logic.engineFolder()
        except ImportError as error:
            self.layout.addWidget(self._messageLabel(str(error)))
            return
        session = Session(slicer.mrmlScene, engineFolder, self.logic.resourcePath)
        self.panel = ModulePanel(session, self.logic.parameters)
        self.layout.addWidget(self.panel.widget)

    def enter(self) -> None:
        if self.panel is not None:
            self.panel.enter()

    def exit(self) -> None:
        if self.panel is not None:
            self.panel.exit()

    def cleanup(self) -> None:
        if self.panel is not None:
            self.panel.close()
            self.panel = None

    def onReload(self) -> None:
        """Slicer reloads this file only; the module's packages are to be read anew as well. The engine's stay."""
        for name in list(sys.modules):
            if name.split(".")[0] in ("SynthDiffusionPanels", "SynthDiffusionJobs", "SynthDiffusionScene"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)
        # Slicer does not tell the new widget that it is being shown, and the button to reload is on the shown module.
        slicer.modules.SynthDiffusionWidget.enter()

    @staticmethod
    def _messageLabel(text: str):
        import qt

        label = qt.QLabel(text)
        label.setTextFormat(qt.Qt.PlainText)  # a folder may have characters that rich text takes for markup
        label.setWordWrap(True)
        return label


class SynthDiffusionLogic(ScriptedLoadableModuleLogic):
    """Finds the engine and the project's resources, installed or in a clone, and the parameters of the scene."""

    def parameters(self):
        """The scene's `SynthDiffusionJobs.Parameters.Parameters`, in a parameter node that is made if missing."""
        from SynthDiffusionJobs.Parameters import Parameters, makeValid

        node = self.getParameterNode()
        try:
            parameters = Parameters(node)
            makeValid(parameters)
        except (ValueError, TypeError) as error:
            logging.warning("The settings of SynthDiffusion in this scene cannot be read, and are reset: %s", error)
            node.UnsetAllParameters()
            parameters = Parameters(node)
        return parameters

    def engineFolder(self) -> str:
        """The folder that holds SynthDiffusionLib. In a clone it is put on sys.path, before any that is installed.

        Raises:
            ImportError: it is nowhere; the message says how to mend it.
        """
        # Installed, the engine lies beside this file, which Slicer has on sys.path; in a clone, one folder up.
        folder = self._repositoryFolder()
        if folder and folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            import SynthDiffusionLib
        except ImportError as error:
            raise ImportError(
                _("The engine, SynthDiffusionLib, cannot be imported ({reason}).").format(reason=error)
                + " "
                + _(
                    "Install the SynthDiffusion extension again. In a clone of the repository, keep the folder"
                    " SynthDiffusionLib beside the folder SynthDiffusion."
                )
            ) from error
        return os.path.dirname(os.path.dirname(os.path.abspath(SynthDiffusionLib.__file__)))

    def resourcePath(self, name: str) -> str:
        """Absolute path of a file or folder under Resources: merged beside this file when installed, in two in a clone.

        Raises:
            FileNotFoundError: it is in neither place.
        """
        here = os.path.dirname(os.path.abspath(__file__))
        places = [os.path.join(folder, "Resources", name) for folder in (here, os.path.dirname(here))]
        for place in places:
            if os.path.exists(place):
                return place
        raise FileNotFoundError(_("Resource '{name}' is missing: install SynthDiffusion again").format(name=name))

    @staticmethod
    def _repositoryFolder() -> str:
        """The folder above this file's, if the engine is there; else ""."""
        folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        return folder if os.path.isfile(os.path.join(folder, "SynthDiffusionLib", "__init__.py")) else ""


class SynthDiffusionTest(ScriptedLoadableModuleTest):
    """Tests the scene logic on Slicer's own scene. Models and sampling are tested outside of Slicer."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def test_engineIsFound(self) -> None:
        logic = SynthDiffusionLogic()
        self.assertTrue(os.path.isfile(os.path.join(logic.engineFolder(), "SynthDiffusionLib", "__init__.py")))
        self.assertTrue(os.path.isdir(logic.resourcePath("LabelSchemes")))

    def test_segmentationToJobAndBack(self) -> None:
        import tempfile

        from SynthDiffusionScene.segmentations import (
            JOB_SEGMENTATION,
            importSegmentation,
            segmentMask,
            segmentsOf,
            writeJobInput,
        )

        segmentation, _volume = self._makeNodes()
        with tempfile.TemporaryDirectory() as folder:
            writeJobInput(segmentation, folder)
            copy = importSegmentation(slicer.mrmlScene, os.path.join(folder, JOB_SEGMENTATION), "copy")
        before, after = segmentsOf(segmentation)[0], segmentsOf(copy)[0]
        self.assertEqual(after.GetName(), before.GetName())
        self.assertEqual(segmentMask(after).sum(), segmentMask(before).sum())
        self.assertGreater(segmentMask(after).sum(), 0)

    def test_syntheticVolume(self) -> None:
        import tempfile

        from SynthDiffusionScene.hierarchy import studyOfNode
        from SynthDiffusionScene.volumes import addSyntheticVolume

        segmentation, volume = self._makeNodes()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "generated.nrrd")
            storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
            storage.SetFileName(path)
            self.assertTrue(storage.WriteData(volume))
            provenance = {"case": "selftest", "model": {"id": "lung-nodule-ct"}, "settings": {"seed": 3}}
            node = addSyntheticVolume(slicer.mrmlScene, path, provenance, segmentation)
        self.assertEqual(node.GetName(), "selftest synthetic (lung-nodule-ct, seed 3)")
        self.assertEqual(node.GetAttribute("SynthDiffusion.Synthetic"), "YES")
        self.assertEqual(node.GetDisplayNode().GetWindow(), 1400)
        study = studyOfNode(slicer.mrmlScene, segmentation)
        self.assertIsNotNone(study)
        self.assertEqual(studyOfNode(slicer.mrmlScene, node), study)

    def test_parametersSurviveInTheScene(self) -> None:
        logic = SynthDiffusionLogic()
        segmentation, _volume = self._makeNodes()
        parameters = logic.parameters()
        parameters.segmentation = segmentation
        parameters.classes = {"Segment_1": "nodule"}
        parameters.samples = 3
        again = logic.parameters()
        self.assertEqual(again.segmentation, segmentation)
        self.assertEqual(dict(again.classes), {"Segment_1": "nodule"})
        self.assertEqual(again.samples, 3)

    def _makeNodes(self):
        """A segmentation with one box, and the volume that it was drawn on."""
        import numpy as np
        import slicer.util
        import vtk

        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
        volume.SetSpacing(0.7, 0.8, 2.5)
        volume.SetOrigin(-10.5, 4.25, 100)
        slicer.util.updateVolumeFromArray(volume, np.full((8, 10, 12), -700, np.int16))
        labelmap = slicer.vtkOrientedImageData()
        labelmap.SetExtent(3, 7, 2, 6, 1, 4)
        labelmap.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        labelmap.GetPointData().GetScalars().Fill(1)
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        labelmap.SetImageToWorldMatrix(matrix)
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawing")
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segmentation.AddSegmentFromBinaryLabelmapRepresentation(labelmap, "nodule")
        return segmentation, volume
