"""`slicer.i18n`, `slicer.ScriptedLoadableModule`, `slicer.modules` and `SampleData` as far as a module uses them."""

from __future__ import annotations

import importlib
import logging
import os
import types
import unittest


class ScriptedLoadableModule:
    def __init__(self, parent) -> None:
        import qt
        import slicer

        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title, parent.categories, parent.dependencies = "", [], []
        parent.contributors, parent.helpText, parent.acknowledgementText = ["template"], "template", "template"
        for ending in ("svg", "png"):
            icon = self.resourcePath(f"Icons/{self.moduleName}.{ending}")
            if os.path.isfile(icon):
                parent.icon = qt.QIcon(icon)
                break
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, name: str) -> str:
        return os.path.join(os.path.dirname(self.parent.path), "Resources", name)

    def getDefaultModuleDocumentationLink(self, docPage=None) -> str:
        import slicer

        page = (
            slicer.app.documentationBaseUrl + docPage if docPage else slicer.app.moduleDocumentationUrl(self.moduleName)
        )
        return f'<p>For more information, see the <a href="{page}">online documentation</a>.</p>'

    def runTest(self, msec: int = 100, **kwargs) -> None:
        case = getattr(importlib.import_module(self.__module__), self.moduleName + "Test")()
        case.messageDelay = msec
        case.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None) -> None:
        import qt
        import slicer

        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        self.parent = parent
        if not parent:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if not parent:
            self.setup()
            self.parent.show()
        manager = slicer.app.moduleManager()
        manager.connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, name: str) -> str:
        import slicer

        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", name)

    def setup(self) -> None:
        self.setupDeveloperSection()

    def setupDeveloperSection(self) -> None:
        if self.developerMode:
            import ctk

            self.reloadCollapsibleButton = ctk.ctkCollapsibleButton()
            self.reloadCollapsibleButton.text = "Reload && Test"
            self.layout.addWidget(self.reloadCollapsibleButton)

    def enter(self) -> None:
        """Called when the user comes to the module."""

    def exit(self) -> None:
        """Called when the user leaves the module."""

    def cleanup(self) -> None:
        """Called before the widget is deleted."""

    def setEditedNode(self, _node, _role="", _context="") -> bool:
        return False

    def nodeEditable(self, _node) -> float:
        return 0.5

    def onReload(self) -> None:
        import slicer

        slicer.util.reloadScriptedModule(self.moduleName)

    def _onModuleAboutToBeUnloaded(self, name: str) -> None:
        import slicer

        if name == self.moduleName:
            self.cleanup()
            manager = slicer.app.moduleManager()
            manager.disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        import slicer

        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node:
                if node.GetAttribute("ModuleName") != self.moduleName:
                    node.SetAttribute("ModuleName", self.moduleName)
                return node
        elif self.getAllParameterNodes():
            return self.getAllParameterNodes()[0]
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list:
        import slicer

        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self):
        import slicer

        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.enableScreenshots, self.screenshotScaleFactor = False, 1.0
        self.moduleTestNames = [name for name in dir(self) if "test" in name and callable(getattr(self, name))]

    def delayDisplay(self, message: str, requestedDelay=None, msec=None) -> None:
        logging.info(message)

    def takeScreenshot(self, name: str, description: str, type: int = -1) -> None:
        logging.info(description)

    def runTest(self) -> None:
        self.setUpClass()
        for name in self.moduleTestNames:
            self.setUp()
            logging.info("Running %s", name)
            getattr(self, name)()
            self.tearDown()
        self.tearDownClass()


def base_module() -> types.ModuleType:
    """A new module object `slicer.ScriptedLoadableModule`."""
    module = types.ModuleType("slicer.ScriptedLoadableModule")
    for cls in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(module, cls.__name__, cls)
    module.__all__ = [name for name in vars(module) if name.startswith("Scripted")]
    return module


def i18n_module() -> types.ModuleType:
    """A new module object `slicer.i18n`; `translations` may hold texts in another language, as a test wants them."""
    module = types.ModuleType("slicer.i18n")
    module.translations = {}
    module.tr = lambda text: module.translations.get(text, text)
    module.translate = lambda context, text: module.translations.get(text, text)
    return module


class Modules(types.SimpleNamespace):
    """`slicer.modules`: those of Slicer's own modules whose logics the wheel has, and those that a test loads."""

    def __init__(self, scene, application_logic) -> None:
        super().__init__()
        import slicer

        classes = {
            "colors": slicer.vtkSlicerColorLogic,
            "segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
            "subjecthierarchy": slicer.vtkSlicerSubjectHierarchyModuleLogic,
            "terminologies": slicer.vtkSlicerTerminologiesModuleLogic,
            "volumes": slicer.vtkSlicerVolumesLogic,
        }
        for name, cls in classes.items():
            setattr(self, name, _SlicerModule(name, cls, scene, application_logic))
        self.segmentations.logic()  # registers its node classes with the scene


class _SlicerModule:
    """A module of Slicer itself: its real logic, made when it is first asked for."""

    def __init__(self, name: str, logic_class, scene, application_logic) -> None:
        self.name, self._class, self._scene, self._application_logic = name, logic_class, scene, application_logic
        self._logic = None

    def logic(self):
        if self._logic is None:
            self._logic = self._class()
            if hasattr(self._logic, "SetMRMLApplicationLogic"):
                self._logic.SetMRMLApplicationLogic(self._application_logic)
            self._logic.SetMRMLScene(self._scene)
        return self._logic


def sample_data_module(modules) -> types.ModuleType:
    """A new module object `SampleData`: takes Slicer's keywords and fills `slicer.modules.sampleDataSources`."""

    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
        loadFileType=None,
    ) -> None:
        source = types.SimpleNamespace(**{k: v for k, v in locals().items() if k != "category"})
        sources = modules.__dict__.setdefault("sampleDataSources", {}).setdefault(category, [])
        if source not in sources:
            sources.append(source)

    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        modules.__dict__.setdefault("sampleDataCategories", {})[category] = title

    module = types.ModuleType("SampleData")
    module.SampleDataLogic = type(
        "SampleDataLogic",
        (),
        {f.__name__: staticmethod(f) for f in (registerCustomSampleDataSource, registerCustomSampleDataCategory)},
    )
    return module
