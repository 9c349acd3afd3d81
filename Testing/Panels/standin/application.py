"""slicer.app, the main window, the managers of modules, extensions and files: one application, reset by each test."""

from __future__ import annotations

import os
import sys
import tempfile

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Qt

from .ctk_widgets import ctkCollapsibleButton
from .mrml_widgets import qSlicerWidget
from .qt_proxy import proxy_of

VERSION = (5, 12, 4)


class qSlicerModuleFactoryManager(QtCore.QObject):
    standin_name = "qSlicerModuleFactoryManager"

    def loadedModuleNames(self) -> list[str]:
        return list(self.parent().modules)


class qSlicerModuleManager(QtCore.QObject):
    """Knows the modules that a test has loaded."""

    standin_name = "qSlicerModuleManager"
    standin_signals = {
        "moduleLoaded(QString)": "moduleLoaded",
        "moduleAboutToBeUnloaded(QString)": "moduleAboutToBeUnloaded",
    }
    moduleLoaded = QtCore.Signal(str)
    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[str, QtCore.QObject] = {}
        self._factory = qSlicerModuleFactoryManager(self)

    def factoryManager(self):
        return self._factory

    def module(self, name: str):
        return self.modules.get(name)

    def modulesNames(self) -> list[str]:
        return list(self.modules)


class qSlicerExtensionsManagerModel(QtCore.QObject):
    """What is installed is what the test puts into `installed`; what is asked to be installed is in `asked`."""

    standin_name = "qSlicerExtensionsManagerModel"

    def __init__(self) -> None:
        super().__init__()
        self.installed: list[str] = []
        self.asked: list[str] = []
        self.interactive = True

    installedExtensions = property(lambda self: tuple(self.installed))
    managedExtensions = property(lambda self: tuple(self.installed))

    def isExtensionInstalled(self, name: str) -> bool:
        return name in self.installed

    def isExtensionEnabled(self, name: str) -> bool:
        return name in self.installed

    def installExtensionFromServer(self, name: str, *_options) -> bool:
        self.asked.append(name)
        return True

    def updateExtensionsMetadataFromServer(self, *_options) -> bool:
        return True


class qSlicerIOManager(QtCore.QObject):
    """Reads volumes, segmentations and scenes with the real readers, and writes scenes."""

    standin_name = "qSlicerIOManager"

    def fileType(self, path: str) -> str:
        name = os.path.basename(str(path)).lower()
        if name.endswith((".mrb", ".mrml")):
            return "SceneFile"
        return "SegmentationFile" if ".seg." in name else "VolumeFile"

    def loadNodes(self, file_type: str, properties: dict, loaded, messages=None) -> bool:
        import slicer
        import vtk

        path, scene = properties["fileName"], slicer.mrmlScene
        name = properties.get("name") or os.path.basename(path).split(".")[0]
        if not os.path.isfile(path):
            if messages is not None:
                messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"File does not exist: {path}")
            return False
        if file_type == "SceneFile":
            scene.SetURL(path)
            return bool(scene.ReadFromMRB(path) if path.lower().endswith(".mrb") else scene.Import())
        if file_type == "SegmentationFile":
            logic = slicer.modules.segmentations.logic()
            node = logic.LoadSegmentationFromFile(path, True, name)
        else:
            options = 1 if properties.get("labelmap") else 0
            node = slicer.modules.volumes.logic().AddArchetypeVolume(path, name, options)
        if node is not None and loaded is not None:
            loaded.AddItem(node)
        return node is not None

    def loadScene(self, path: str, clear: bool = True) -> bool:
        import slicer

        if clear:
            slicer.mrmlScene.Clear(0)
        return self.loadNodes("SceneFile", {"fileName": path}, None)

    def saveNodes(self, file_type: str, properties: dict, _messages=None) -> bool:
        import slicer

        path, scene = properties["fileName"], slicer.mrmlScene
        if path.lower().endswith(".mrb"):
            return bool(scene.WriteToMRB(path))
        scene.SetURL(path)
        return bool(scene.Commit(path))

    def saveScene(self, path: str, *_options) -> bool:
        return self.saveNodes("SceneFile", {"fileName": path})


class qSlicerModuleSelectorToolBar(QtWidgets.QToolBar):
    """Enters and leaves the modules that a test has loaded."""

    standin_name = "qSlicerModuleSelectorToolBar"
    moduleSelected = QtCore.Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.selectedModule = ""

    def selectModule(self, name: str) -> None:
        self.selectedModule = name
        self.moduleSelected.emit(name)


class qSlicerAppMainWindow(QtWidgets.QMainWindow):
    """The main window, with what Slicer shows around the views and the module's panel."""

    standin_name = "qSlicerAppMainWindow"

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setAcceptDrops(True)
        self._selector = qSlicerModuleSelectorToolBar()
        self.addToolBar(self._selector)
        self.addToolBar("Main").setObjectName("MainToolBar")
        for title, action in (("File", "Save Data..."), ("Edit", "Application Settings"), ("View", "Layout")):
            self.menuBar().addMenu(title).addAction(action)
        self._panel_dock = self._dock("PanelDockWidget", Qt.DockWidgetArea.LeftDockWidgetArea)
        self._console_dock = self._dock("PythonConsoleDockWidget", Qt.DockWidgetArea.BottomDockWidgetArea)
        self._error_log_dock = self._dock("ErrorLogDockWidget", Qt.DockWidgetArea.BottomDockWidgetArea)
        self._error_log_dock.hide()  # as after the installation of Slicer
        contents = QtWidgets.QWidget()
        QtWidgets.QVBoxLayout(contents)
        self._panel_dock.setWidget(contents)
        self.data_probe = ctkCollapsibleButton("Data Probe")
        self.data_probe.setObjectName("DataProbeCollapsibleWidget")
        contents.layout().addWidget(self.data_probe)
        self.statusBar()

    def _dock(self, name: str, area):
        dock = QtWidgets.QDockWidget(name, self)
        dock.setObjectName(name)
        self.addDockWidget(area, dock)
        return dock

    def moduleSelector(self):
        return self._selector

    def errorLogDockWidget(self):
        return self._error_log_dock

    def saveGUIState(self, *_force) -> None:
        """Stores nothing, as Slicer does unless the user wants it otherwise."""


class qSlicerApplication(QtWidgets.QApplication):
    """The application object. `reset` gives it the scene and the folders of one test."""

    standin_name = "qSlicerApplication"
    standin_signals = {
        "startupCompleted()": "startupCompleted",
        "mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged",
        "renderPaused(bool)": "renderPaused",
    }
    startupCompleted = QtCore.Signal()
    mrmlSceneChanged = QtCore.Signal(object)
    renderPaused = QtCore.Signal(bool)

    def __init__(self) -> None:
        super().__init__(["SynthDiffusion-test"])
        self.setApplicationName("Slicer")
        self.setOrganizationName("SlicerStandIn")
        self._testing, self._scene, self._layout_manager = False, None, None
        self.light = QtGui.QPalette(self.palette())
        self.plain_font = QtGui.QFont(self.font())

    def reset(self, scene, folder: str) -> None:
        """Gives the application a scene, an empty temporary folder and empty settings."""
        import slicer

        from .view_widgets import qSlicerLayoutManager

        self.pauses, self._testing, self.restarts = 0, False, 0
        self._folder, self._scene = folder, scene
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        for scope in (QtCore.QSettings.Scope.UserScope, QtCore.QSettings.Scope.SystemScope):
            QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, scope, os.path.join(folder, "settings"))
        self._settings = QtCore.QSettings(
            QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, "SlicerStandIn", "Slicer"
        )
        self._settings.clear()
        self._revision_settings = QtCore.QSettings(
            os.path.join(folder, "revision.ini"), QtCore.QSettings.Format.IniFormat
        )
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(scene)
        self._logic.SetTemporaryPath(self.temporaryPath)
        # Opening a scene bundle needs these.
        self._remote_io, self._data_io = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
        self._remote_io.GetCacheManager().SetRemoteCacheDirectory(self.cachePath)
        self._data_io.SetMRMLApplicationLogic(self._logic)
        self._data_io.SetAndObserveDataIOManager(self._remote_io.GetDataIOManager())
        self._logic.SetMRMLSceneDataIO(scene, self._remote_io, self._data_io)
        self._managers = (qSlicerModuleManager(), qSlicerExtensionsManagerModel(), qSlicerIOManager())
        self._layout_manager = qSlicerLayoutManager(scene, self._logic)
        self._window = qSlicerAppMainWindow()
        self.clipboard().clear()
        self.setPalette(self.light)
        self.setFont(self.plain_font)

    def close(self) -> None:
        """Lets go of the scene; for the end of a test."""
        for widget in self.topLevelWidgets():
            if shiboken6.isValid(widget):  # a list that drops down goes with the window of its box
                widget.close()
            if shiboken6.isValid(widget):
                widget.deleteLater()
        self._layout_manager.close()
        self._logic.SetMRMLSceneDataIO(None, self._remote_io, self._data_io)
        self._logic.SetMRMLScene(None)
        self._remote_io = self._data_io = None
        self._scene = self._logic = self._layout_manager = self._window = None
        self.processEvents()
        self.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)

    majorVersion, minorVersion = property(lambda self: VERSION[0]), property(lambda self: VERSION[1])
    mainApplicationMajorVersion, mainApplicationMinorVersion = majorVersion, minorVersion
    mainApplicationPatchVersion = property(lambda self: VERSION[2])
    mainApplicationName = mainApplicationDisplayName = property(lambda self: "Slicer")
    revision = repositoryRevision = mainApplicationRevision = property(lambda self: "34000")
    os = property(lambda self: {"nt": "win"}.get(os.name, "linux"))
    arch = property(lambda self: "amd64")
    releaseType = property(lambda self: "Stable")
    isInstalled = property(lambda self: True)
    slicerHome = property(lambda self: os.path.join(self._folder, "home"))
    applicationLocaleName = property(lambda self: "en_US")
    documentationBaseUrl = property(lambda self: "https://slicer.readthedocs.io/en/5.12/")

    @property
    def temporaryPath(self) -> str:
        return self._made("temporary")

    @property
    def cachePath(self) -> str:
        return self._made("cache")

    def _made(self, name: str) -> str:
        path = os.path.join(self._folder, name)
        os.makedirs(path, exist_ok=True)
        return path

    def mrmlScene(self):
        return self._scene

    def applicationLogic(self):
        return self._logic

    def layoutManager(self):
        return self._layout_manager

    def moduleManager(self):
        return self._managers[0]

    def extensionsManagerModel(self):
        return self._managers[1]

    def coreIOManager(self):
        return self._managers[2]

    ioManager = coreIOManager

    def mainWindow(self):
        return self._window

    def settings(self):
        return self._settings

    userSettings = settings

    def revisionUserSettings(self):
        return self._revision_settings

    def startupEnvironment(self):
        return QtCore.QProcessEnvironment.systemEnvironment()

    environment = startupEnvironment

    def testingEnabled(self) -> bool:
        return self._testing

    def setTesting(self, testing: bool) -> None:
        """For tests: as if Slicer was started with --testing."""
        self._testing = testing

    def restart(self) -> None:
        self.restarts += 1

    def currentLogFile(self) -> str:
        path = os.path.join(self.temporaryPath, "Slicer.log")
        open(path, "a", encoding="utf-8").close()
        return path

    def setRenderPaused(self, paused: bool) -> None:
        self.pauses += 1 if paused else -1

    def pauseRender(self) -> None:
        self.setRenderPaused(True)

    def resumeRender(self) -> None:
        self.setRenderPaused(False)

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def openExtensionsManagerDialog(self) -> None:
        from .dialogs import dialogs

        dialogs.ask("Extensions Manager", "")

    def openUrl(self, url: str) -> bool:
        from .dialogs import dialogs

        dialogs.opened_urls.append(url)
        return True


class qSlicerScriptedLoadableModule(QtCore.QObject):
    """A module: what its Python class writes into it."""

    standin_name = "qSlicerScriptedLoadableModule"

    def __init__(self, name: str, path: str) -> None:
        super().__init__()
        self._name, self._path, self.widget = name, path, None
        self.title, self.helpText, self.acknowledgementText = name, "", ""
        self.categories, self.dependencies, self.contributors, self.associatedNodeTypes = (), (), (), ()
        self.icon, self.hidden, self.index = QtGui.QIcon(), False, -1

    name = property(lambda self: self._name)
    path = property(lambda self: self._path)

    def mrmlScene(self):
        return QtWidgets.QApplication.instance().mrmlScene()

    def widgetRepresentation(self):
        return self.widget


class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    """The widget that a module's Python class gets as its parent."""

    standin_name = "qSlicerScriptedLoadableModuleWidget"

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._python, self.isEntered = name, None, False
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)

    moduleName = property(lambda self: self._name)

    def self(self):
        return self._python

    def make(self):
        """Makes the object of the module's Python class, as its file in sys.modules now has it, and calls setup()."""
        import slicer

        class_name = self._name + "Widget"
        self._python = getattr(sys.modules[self._name], class_name)(proxy_of(self))
        setattr(slicer.modules, class_name, self._python)
        self._python.setup()
        return self._python

    def reload(self) -> None:
        """As Slicer's: a new object and its setup(), without enter()."""
        self.make()


def application() -> qSlicerApplication:
    """The one application of this process.

    Raises:
        RuntimeError: a test made a plain QApplication before.
    """
    found = QtWidgets.QApplication.instance()
    if found is None:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
        found = qSlicerApplication()
    if not isinstance(found, qSlicerApplication):
        raise RuntimeError("there is another QApplication already")
    return found


CLASSES = {name: value for name, value in globals().items() if name.startswith("qSlicer") and isinstance(value, type)}
