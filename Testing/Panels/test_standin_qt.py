"""The stand-in's `qt`: PythonQt's manners, and the refusal of what Qt 5.15 or Qt 6 lacks."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def qt(standin):
    import qt

    return qt


def test_properties_are_attributes_and_have_setters(qt):
    label = qt.QLabel("one")
    assert label.text == "one"
    label.text = "two"
    assert label.text == "two"
    label.setText("three")
    assert label.text == "three"
    with pytest.raises(TypeError):
        label.text()
    label.name = "title"  # PythonQt's other name for objectName
    assert label.objectName == "title"


def test_writing_converts_numbers_and_calling_does_not(qt):
    box = qt.QSpinBox()
    box.maximum = 10
    box.value = 3.0
    assert box.value == 3
    with pytest.raises(TypeError):
        box.setValue("3")


@pytest.mark.parametrize(
    "call",
    [
        lambda qt, label: setattr(label, "colour", 1),  # no such property
        lambda qt, label: setattr(label, "setText", print),  # a method
        lambda qt, label: setattr(label, "sizeHint", 1),  # cannot be written
        lambda qt, label: label.colour,
        lambda qt, label: label.textChanged,  # a signal of other widgets
        lambda qt, label: qt.QCheckBox().checkStateChanged,  # Qt 6 only
        lambda qt, label: qt.QFontMetrics(qt.QFont()).width,  # Qt 5 only
        lambda qt, label: qt.QTextCodec,
        lambda qt, label: qt.QRegExp,
        lambda qt, label: qt.QNothing,
        lambda qt, label: qt.Qt.AlignMiddle,
        lambda qt, label: qt.QMessageBox.Maybe,
    ],
)
def test_names_that_are_not_in_both_qt_versions_are_refused(qt, call):
    with pytest.raises(AttributeError):
        call(qt, qt.QLabel())


@pytest.mark.parametrize(
    "call",
    [
        lambda qt: qt.QLabel(text="x"),
        lambda qt: qt.QLabel().setText(text="x"),
        lambda qt: qt.QMenu().addAction("x", print),
    ],
)
def test_calls_that_pythonqt_cannot_make_are_refused(qt, call):
    with pytest.raises(TypeError):
        call(qt)


def test_python_cannot_derive_from_qt_classes_here(qt):
    with pytest.raises(TypeError):
        type("Mine", (qt.QWidget,), {})


def test_what_qt_6_moved_or_renamed_works_as_in_qt_5(qt, standin):
    window = qt.QWidget()
    action = qt.QAction("Go", window)  # in QtGui since Qt 6
    called = []
    action.connect("triggered()", lambda: called.append(1))
    action.trigger()
    assert called == [1]
    dialog = qt.QDialog()
    standin.dialogs.answer(lambda shown: shown.accept())
    assert dialog.exec_() == qt.QDialog.Accepted


def test_enumerators_are_numbers_and_combine(qt):
    both = qt.QMessageBox.Yes | qt.QMessageBox.No
    assert both == 0x4000 | 0x10000
    box = qt.QMessageBox()
    box.standardButtons = both
    assert box.standardButtons == both
    assert qt.QProcess.ProcessState.NotRunning == qt.QProcess.NotRunning == 0
    label = qt.QLabel()
    label.alignment = qt.Qt.AlignRight | qt.Qt.AlignTop
    assert label.alignment == qt.Qt.AlignRight | qt.Qt.AlignTop


def test_one_object_has_one_wrapper_and_lists_come_as_tuples(qt):
    window = qt.QWidget()
    layout = qt.QVBoxLayout(window)
    label = qt.QLabel("x")
    layout.addWidget(label)
    assert window.layout() is layout and layout.itemAt(0).widget() is label and label.parent() is window
    assert window.children() == (layout, label)
    assert window.findChildren(qt.QLabel) == (label,)
    assert type(label) == qt.QLabel and isinstance(label, qt.QWidget)  # noqa: E721 - as Slicer's connectors compare


def test_signals_reach_functions_with_as_many_arguments_as_they_take(qt):
    button, got = qt.QPushButton("x"), []
    button.checkable = True

    class Receiver:
        def none(self):
            got.append("none")

        def one(self, checked):
            got.append(checked)

    receiver = Receiver()
    button.connect("clicked(bool)", receiver.one)
    button.clicked.connect(receiver.none)
    button.connect("clicked()", receiver.none)
    button.connect("clicked(bool)", lambda *args: got.append(args))
    button.click()
    assert got == [True, "none", "none", (True,)]
    assert button.disconnect("clicked(bool)", receiver.one) and button.clicked.disconnect(receiver.none)
    assert button.disconnect("clicked()", receiver.none)
    assert not button.disconnect("clicked(bool)", receiver.one)
    got.clear()
    button.click()
    assert got == [(False,)]


@pytest.mark.parametrize("signal", ["clicked(int)", "clack()", "clicked", "setText(QString)"])
def test_signatures_that_do_not_exist_are_refused(qt, signal):
    with pytest.raises(AttributeError):
        qt.QPushButton().connect(signal, print)


def test_a_connection_between_objects_names_a_slot_that_exists(qt):
    button, box = qt.QPushButton(), qt.QCheckBox()
    button.checkable = True
    button.connect("toggled(bool)", box, "setChecked(bool)")
    button.checked = True
    assert box.checked
    with pytest.raises(AttributeError):
        button.connect("toggled(bool)", box, "setTicked(bool)")


def test_exceptions_in_slots_are_kept_for_the_test(qt, standin):
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.click()
    assert isinstance(standin.faults.pop(), ZeroDivisionError)


def test_exceptions_in_observers_are_kept_for_the_test(standin):
    import slicer
    import vtk

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: 1 / 0)
    node.SetText("x")
    assert isinstance(standin.faults.pop(), ZeroDivisionError)


def test_a_child_process_runs_and_is_counted_while_it_lives(qt, standin):
    process, lines = qt.QProcess(), []
    environment = qt.QProcessEnvironment.systemEnvironment()
    environment.insert("SAID", "hällo")
    process.setProcessEnvironment(environment)
    process.connect("readyReadStandardOutput()", lambda: lines.append(process.readAllStandardOutput().data()))
    ended = []
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append((code, status)))
    code = (
        "import os, sys; sys.stdout.buffer.write(os.environ['SAID'].encode()); sys.stdout.flush(); input(); sys.exit(3)"
    )
    process.start(sys.executable, ["-c", code])
    standin.wait(lambda: lines, what="output")
    assert standin.counts()["processes"] == 1
    process.write(b"\n")
    standin.wait(lambda: ended, what="the end")
    assert b"".join(lines).decode() == "hällo"
    assert ended == [(3, qt.QProcess.NormalExit)]
    assert standin.counts()["processes"] == 0


def test_timers_are_counted_while_they_run(qt, standin):
    timer, called = qt.QTimer(), []
    timer.connect("timeout()", lambda: called.append(1))
    timer.start(5)
    qt.QTimer.singleShot(1, lambda: called.append(2))
    assert standin.counts()["timers"] == 2
    standin.wait(lambda: 1 in called and 2 in called)
    timer.stop()
    assert standin.counts()["timers"] == 0


def test_settings_of_one_test(qt):
    import slicer

    assert not qt.QSettings().contains("Left")
    qt.QSettings().setValue("Left", 5)
    assert slicer.util.settingsValue("Left", 0, converter=int) == 5
    assert slicer.app.userSettings().value("Left") == "5"  # as at the next start, from the file


test_settings_of_the_next_test_are_empty = test_settings_of_one_test


def test_dialogs_are_answered_as_the_test_says(qt, standin):
    import slicer

    standin.dialogs.answer("Yes", "No", "/tmp/a.nrrd", "a name")
    assert slicer.util.confirmYesNoDisplay("Sure?")
    assert not slicer.util.confirmYesNoDisplay("Sure?")
    assert qt.QFileDialog.getSaveFileName(None, "Save", "", "*.nrrd") == "/tmp/a.nrrd"
    assert qt.QInputDialog.getText(None, "Rename", "Name:") == "a name"
    slicer.util.errorDisplay("It broke", detailedText="a log")
    last = standin.dialogs.shown[-1]
    assert (last.text, last.details) == ("It broke", "a log")
    with pytest.raises(AssertionError, match="Sure"):
        slicer.util.confirmOkCancelDisplay("Sure?")
