"""Real workers that are cancelled, killed, or have no disk: nothing is left of them, and the next run works."""

from __future__ import annotations

import shutil
import sys
import time

import pytest
from whole_way import STAGES, cancel_at, children, processes_of, slow_workers, use_launcher, worker_of

# The others, which take as long, are for Testing/Benchmarks/module_endurance.py.
SOME_STAGES = ("while Python starts", "while torch is imported", "while torch hangs")


@pytest.fixture
def drawn(quick_answers, opened):
    """A drawing that is ready to be generated into."""
    opened.add_chest()
    opened.set_usual()
    return opened


def test_cancelled_leaves_nothing_and_the_next_run_works(drawn, monkeypatch, tmp_path):
    use_launcher(monkeypatch, tmp_path)
    drawn.wait_idle()
    before, files = drawn.inventory(), drawn.files()
    for stage in SOME_STAGES:
        cancel_at(drawn, monkeypatch, stage)
        assert drawn.inventory() == before, stage
        assert drawn.ui.generateButton.enabled, stage

    # Waiting ones, and the one under way, whose row stays chosen.
    slow_workers(monkeypatch, STAGES["before the inputs are read"])
    runs = [drawn.generate() for _ in range(3)]
    first = len(drawn.queue.runs) - len(runs)
    drawn.wait_stopped(runs[0])
    for number in (1, 2, 0):
        drawn.ui.runsTable.selectRow(first + number)
        drawn.ui.cancelRunButton.click()
        assert [run.state for run in runs[1:]] == ["cancelled", "waiting" if number == 1 else "cancelled"]
    drawn.wait_run(runs[0], "cancelled")
    assert [processes_of(run) for run in runs] == [[], [], []]
    assert drawn.inventory() == before

    # The next run works, also one that was cancelled while it waited.
    slow_workers(monkeypatch, "")
    drawn.ui.runsTable.selectRow(first + 1)
    drawn.ui.retryButton.click()
    drawn.wait_run(runs[1])
    assert len(drawn.volumes(runs[1])) == 1
    drawn.wait_idle()
    assert drawn.files() == files
    assert children() == []
    while drawn.queue.runs:
        drawn.ui.runsTable.selectRow(0)
        drawn.ui.removeRunButton.click()
    assert not list(runs[0].folder.parent.glob("run-*"))


def test_killed_from_outside_is_said_and_can_be_run_again(drawn, monkeypatch, tmp_path):
    use_launcher(monkeypatch, tmp_path)
    slow_workers(monkeypatch, '"stage": "denoise", "step": 6')
    before = drawn.inventory()
    run = drawn.generate()
    drawn.wait_stopped(run)
    drawn.wait(lambda: drawn.panel.generatePanel._preview is not None, what="a preview")
    began = time.monotonic()
    worker_of(run).kill()
    drawn.wait(lambda: run.ended and not processes_of(run), what="the end")
    assert time.monotonic() - began < 2.0
    assert (run.state, run.kind) == ("failed", "killed")
    assert "ended from outside" in drawn.ui.errorLabel.text and "Run it again" in drawn.ui.errorLabel.text
    assert drawn.ui.errorLabel.isVisibleTo(drawn.panel.widget)
    assert drawn.inventory() == before
    drawn.ui.logButton.click()
    assert '"stage": "denoise", "step": 5' in drawn.ui.logText.toPlainText()
    assert drawn.ui.retryButton.text == "Run again" and drawn.ui.retryButton.enabled
    slow_workers(monkeypatch, "")
    drawn.ui.retryButton.click()
    drawn.wait_run(run)
    assert "ended from outside" not in drawn.ui.errorLabel.text
    assert len(drawn.volumes(run)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of files")
def test_a_full_disk_is_said_and_leaves_nothing(drawn, monkeypatch):
    """In the worker: no file may be larger than 9 kB, and the volume is."""
    pytest.importorskip("resource")
    drawn.wait_idle()
    slow_workers(monkeypatch, "", largest=9_000)
    before, files = drawn.inventory(), drawn.files()
    run = drawn.generate()
    drawn.wait_run(run, "failed")
    assert "No space left" in drawn.ui.errorLabel.text and "Free some space" in drawn.ui.errorLabel.text
    assert drawn.ui.retryButton.enabled
    assert drawn.inventory() == before
    assert list(run.folder.glob("results/*")) == []
    drawn.wait_idle()
    assert drawn.files() == files


def test_a_temporary_folder_that_cannot_be_written_to_is_said(drawn, monkeypatch):
    """A file lies where the session's folder was, which no user can write into, not even root."""
    folder = drawn.session.folders.new("probe").parent
    moved = folder.with_name("moved")
    folder.rename(moved)
    folder.write_text("")
    before = drawn.inventory()
    drawn.ui.generateButton.click()
    assert drawn.queue.runs == []
    assert "could not be written" in drawn.ui.errorLabel.text and "space" in drawn.ui.errorLabel.text
    drawn.session.engine.refresh()
    drawn.wait(lambda: drawn.session.engine.status.state == "failed", what="the answer")
    assert "could not be written" in drawn.session.engine.status.problem
    assert not drawn.ui.generateButton.enabled
    assert drawn.inventory() == before
    # It can be written to again; then the system clears it, as it does with the files of a Slicer open for weeks.
    folder.unlink()
    moved.rename(folder)
    drawn.session.engine.refresh()
    drawn.wait_ready()
    shutil.rmtree(folder)
    cancel_at(drawn, monkeypatch, "before the model is loaded")
