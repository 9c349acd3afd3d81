"""Where PythonQt or Slicer differ from PySide6, or where a test must not wait for a user."""

from __future__ import annotations

import weakref

import shiboken6
from PySide6 import QtCore, QtWidgets

from .dialogs import dialogs
from .qt_proxy import on_construction, overrides, proxy_of
from .qt_signals import connect
from .qt_values import QtEnum, to_python, to_qt
from .ui_files import load_ui

timers: weakref.WeakSet = weakref.WeakSet()
processes: weakref.WeakSet = weakref.WeakSet()


def live_timers() -> list:
    """PySide6's timers that run, of those that product code made."""
    return [timer for timer in list(timers) if shiboken6.isValid(timer) and timer.isActive()]


def live_processes() -> list:
    """PySide6's processes that run, of those that product code made."""
    idle = QtCore.QProcess.ProcessState.NotRunning
    return [process for process in list(processes) if shiboken6.isValid(process) and process.state() != idle]


def _single_shot(milliseconds: int, receiver, member: str | None = None) -> None:
    # As slicerqt.py has it: a timer that belongs to the module manager.
    timer = QtCore.QTimer(QtWidgets.QApplication.instance())
    timers.add(timer)
    timer.setSingleShot(True)
    connect(proxy_of(timer), "timeout()", receiver, *([member] if member else []))
    timer.timeout.connect(timer.deleteLater)
    timer.start(milliseconds)


def _ask(kind: str):
    """A static function of QFileDialog or QInputDialog: only the result, no flag beside it, as in C++."""

    def ask(_parent=None, *args):
        return dialogs.ask(kind, str(args[0]) if args else "", str(args[1]) if len(args) > 1 else "")

    return ask


def _message(kind: str):
    def show(parent=None, title: str = "", text: str = "", buttons=None, _default=None):
        box = QtWidgets.QMessageBox(to_qt(parent))
        box.setWindowTitle(title)
        box.setText(text)
        box.setStandardButtons(to_qt(buttons) if buttons is not None else QtWidgets.QMessageBox.StandardButton.Ok)
        return QtEnum(QtWidgets.QMessageBox.StandardButton(dialogs.execute(proxy_of(box))))

    show.__name__ = kind
    return show


def _open_url(url) -> bool:
    dialogs.opened_urls.append(url._obj.toString())
    return True


def _settings_value(proxy, key: str, default=None):
    """QSettings.value: numbers and truth values as texts, as they come from the file at the next start of Slicer."""
    value = proxy._obj.value(key)
    if value is None:
        return default
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else to_python(value)


def _find_children(proxy, *args) -> tuple:
    """findChildren(class[, name]): all descendants of a class of Qt or of the stand-in."""
    kind, name = to_qt(args[0]) if args else QtCore.QObject, args[1] if len(args) > 1 else ""
    found = [child for child in proxy._obj.findChildren(QtCore.QObject) if isinstance(child, kind)]
    return to_python([child for child in found if not name or child.objectName() == name])


def install() -> None:
    """Has the proxies behave so; once for the process."""
    if overrides:
        return
    on_construction("QTimer", timers.add)
    on_construction("QProcess", processes.add)
    overrides.update(
        {
            ("QTimer", "singleShot"): _single_shot,
            ("QDialog", "exec_"): lambda proxy, *args: dialogs.execute(proxy),
            ("QMenu", "exec_"): lambda proxy, *args: dialogs.execute_menu(proxy),
            ("QDesktopServices", "openUrl"): _open_url,
            ("QSettings", "value"): _settings_value,
            ("QObject", "findChildren"): _find_children,
            ("QUiLoader", "load"): lambda proxy, device, parent=None: load_ui(device._obj, to_qt(parent)),
        }
    )
    for name in ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory"):
        overrides["QFileDialog", name] = _ask(f"QFileDialog.{name}")
    for name in ("getText", "getItem", "getInt", "getDouble", "getMultiLineText"):
        overrides["QInputDialog", name] = _ask(f"QInputDialog.{name}")
    for name in ("question", "information", "warning", "critical", "about"):
        overrides["QMessageBox", name] = _message(name)
