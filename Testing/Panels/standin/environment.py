"""Everything in place for one test, and taken away after it."""

from __future__ import annotations

import gc
import importlib.util
import sys
import time
import types
from pathlib import Path

from PySide6 import QtCore

from . import faults, qt_overrides
from .application import (
    application,
    qSlicerScriptedLoadableModule,
    qSlicerScriptedLoadableModuleWidget,
)
from .dialogs import dialogs
from .module_base import Modules, base_module, i18n_module, sample_data_module
from .packaging_module import Installations, packaging_module
from .parameter_node import connected_guis, parameter_node_module
from .qt_module import qt_module
from .qt_proxy import proxy_of
from .qt_signals import disconnect_everything
from .widget_classes import CLASSES, ctk_module, slicer_class

_MISSING = object()


class Environment:
    """Slicer's Python, as far as it is stood in for.

    Args:
        folder: an empty folder for settings and temporary files.
        paths: folders to put before sys.path, as Slicer does with a module's folder.
        own_packages: top-level names of the product's packages on Slicer's side; they are imported anew.

    Attributes:
        app: the application object itself (PySide6), with what tests may set; product code sees `slicer.app`.
        dialogs: modal dialogs that were opened, and the answers to those to come.
        installations: what `slicer.packaging` was asked for.
        extensions: the extensions manager: `installed`, `asked`.
        faults: exceptions from slots, timers and observers. The fixture fails the test if any is left.
        i18n: the module slicer.i18n; `translations` may be filled.
    """

    def __init__(self, folder: Path, paths: list[str], own_packages: tuple[str, ...]) -> None:
        self._folder, self._paths, self._own = str(folder), paths, own_packages
        self.app, self.dialogs, self.faults = application(), dialogs, faults.uncaught
        self._modules_before: dict[str, object] = {}
        self._slicer_before: dict[str, object] = {}
        self._loaded: list[LoadedModule] = []

    def __enter__(self) -> Environment:
        import slicer

        self._path_before, self._hook_before = list(sys.path), sys.excepthook
        sys.path[:0] = self._paths
        sys.excepthook = faults.record
        self.faults.clear()
        self.dialogs.reset()
        self._own_before = self._take_own_packages()
        self.scene = slicer.vtkMRMLScene()
        self._set(slicer, "mrmlScene", self.scene)
        self.app.reset(self.scene, self._folder)
        self.installations = Installations()
        self.extensions = self.app.extensionsManagerModel()
        self.modules = Modules(self.scene, self.app.applicationLogic())
        self.i18n = i18n_module()
        values = {"app": proxy_of(self.app), "modules": self.modules, "selfTests": {}, "i18n": self.i18n}
        values |= {name: slicer_class(name) for name in CLASSES if not name.startswith("ctk")}
        values["parameterNodeWrapper"] = parameter_node_module()
        values["packaging"] = packaging_module(self.installations)
        values["ScriptedLoadableModule"] = base_module()
        for name, value in values.items():
            self._set(slicer, name, value)
        for name in ("i18n", "parameterNodeWrapper", "packaging", "ScriptedLoadableModule"):
            self._put_module(f"slicer.{name}", values[name])
        self._put_module("qt", qt_module())
        self._put_module("ctk", ctk_module())
        self._put_module("SampleData", sample_data_module(self.modules))
        return self

    def __exit__(self, *_exception) -> None:
        import slicer

        for module in list(self._loaded):
            module.unload()
        for timer in qt_overrides.live_timers():
            timer.stop()
        for process in qt_overrides.live_processes():
            process.kill()
            process.waitForFinished(2000)
        disconnect_everything()
        self.scene.Clear(1)
        self.app.close()
        for name, value in self._slicer_before.items():
            delattr(slicer, name) if value is _MISSING else setattr(slicer, name, value)
        for name, value in self._modules_before.items():
            sys.modules.pop(name, None) if value is _MISSING else sys.modules.__setitem__(name, value)
        self._take_own_packages()
        sys.modules.update(self._own_before)  # other tests may hold classes of theirs
        sys.path[:], sys.excepthook = self._path_before, self._hook_before
        gc.collect()

    def load_module(self, path: str | Path) -> LoadedModule:
        """Loads a scripted module as Slicer does: its file, and the object of its module class; no widget yet."""
        loaded = LoadedModule(self, Path(path))
        self._loaded.append(loaded)
        return loaded

    def complete_startup(self) -> None:
        """Tells the modules that the application is up: slicer.app's signal startupCompleted()."""
        self.app.startupCompleted.emit()

    def wait(self, condition, seconds: float = 10.0, what: str = "") -> None:
        """Processes events until `condition()` is true.

        Raises:
            AssertionError: it has not come true in time, or an exception was raised meanwhile in a slot or observer.
        """
        end = time.monotonic() + seconds
        while not condition():
            if self.faults:
                raise AssertionError(f"an exception while waiting: {self.faults[0]!r}") from self.faults[0]
            if time.monotonic() > end:
                raise AssertionError(f"waited {seconds} s in vain{' for ' + what if what else ''}")
            self.app.processEvents(QtCore.QEventLoop.ProcessEventsFlag.AllEvents, 20)
            time.sleep(0.005)

    def process_events(self, seconds: float = 0.0) -> None:
        """Processes events for a time; at least those that are waiting."""
        end = time.monotonic() + seconds
        while True:
            self.app.processEvents()
            self.app.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)
            if time.monotonic() >= end:
                return
            time.sleep(0.005)

    def counts(self) -> dict[str, int]:
        """What must not grow from run to run.

        nodes of the scene; observers made through VTKObservationMixin; all observers of the scene itself, the
        stand-in's and VTK's own included; running timers and processes; GUIs connected to parameter nodes. Observers
        that product code adds to nodes without the mixin cannot be counted.
        """
        gc.collect()
        import slicer.util

        mixins = [o for o in gc.get_objects() if isinstance(o, slicer.util.VTKObservationMixin)]
        return {
            "nodes": self.scene.GetNumberOfNodes(),
            "observers": sum(len(mixin.Observations) for mixin in mixins),
            "scene_observers": str(self.scene).count("vtkObserver ("),
            "timers": len(qt_overrides.live_timers()),
            "processes": len(qt_overrides.live_processes()),
            "guis": connected_guis(),
        }

    def put_module(self, name: str, module: types.ModuleType) -> None:
        """Puts a module of another extension in place, such as PyTorchUtils, for the rest of the test."""
        self._put_module(name, module)

    def _set(self, slicer, name: str, value) -> None:
        self._slicer_before[name] = getattr(slicer, name, _MISSING)
        setattr(slicer, name, value)

    def _put_module(self, name: str, module: types.ModuleType) -> None:
        self._modules_before[name] = sys.modules.get(name, _MISSING)
        sys.modules[name] = module

    def _take_own_packages(self) -> dict[str, types.ModuleType]:
        names = [name for name in sys.modules if name.split(".")[0] in self._own]
        return {name: sys.modules.pop(name) for name in names}


class LoadedModule:
    """A scripted module under the stand-in.

    Attributes:
        python: the module object of its file.
        proxy: the module as product code sees it in `slicer.modules`.
        parent: the proxy of the widget that holds its panel; None until then.
    """

    def __init__(self, environment: Environment, path: Path) -> None:
        self._environment, self.name, self.parent = environment, path.stem, None
        specification = importlib.util.spec_from_file_location(self.name, path)
        self.python = importlib.util.module_from_spec(specification)
        environment.put_module(self.name, self.python)
        specification.loader.exec_module(self.python)
        self._module = qSlicerScriptedLoadableModule(self.name, str(path))
        self.proxy = proxy_of(self._module)
        self._manager = environment.app.moduleManager()
        self._manager.modules[self.name] = self._module
        setattr(environment.modules, self.name.lower(), self.proxy)
        self.instance = getattr(self.python, self.name)(self.proxy)
        self._manager.moduleLoaded.emit(self.name)

    def make_widget(self):
        """Makes the panel, as Slicer does when the module is chosen for the first time. Returns `widget`."""
        holder = qSlicerScriptedLoadableModuleWidget(self.name)
        self.parent = proxy_of(holder)
        self._module.widget = holder
        holder.make()
        holder.setMRMLScene(self._environment.scene)
        return self.widget

    @property
    def widget(self):
        """The object of its widget class, another one after a reload; None until `make_widget`."""
        return self._module.widget.self() if self._module.widget is not None else None

    def enter(self) -> None:
        """The user comes to the module."""
        self._module.widget.isEntered = True
        self._environment.app.mainWindow().moduleSelector().selectModule(self.name)
        self.widget.enter()

    def exit(self) -> None:
        """The user leaves the module."""
        self._module.widget.isEntered = False
        self.widget.exit()

    def unload(self) -> None:
        """Slicer ends: cleanup() is called and the widget deleted."""
        if self not in self._environment._loaded:
            return
        self._environment._loaded.remove(self)
        if self.widget is not None and self._module.widget.isEntered:
            self.exit()
        self._manager.moduleAboutToBeUnloaded.emit(self.name)
        self._manager.modules.pop(self.name, None)
        if self._module.widget is not None:
            self._module.widget.deleteLater()
            self._module.widget = None
        self.parent = None
        self._environment.process_events()
