"""Runs in child processes: told about, cancelled within two seconds, killed, run again; nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

WORKER = Path(__file__).with_name("fake_worker.py")
DONE = {"event": "done", "outputs": [{"volume": "a.nrrd"}], "timing": {"evaluations": 4}}
PROGRESS = {"event": "progress", "stage": "denoise", "step": 3, "total": 10, "eta_s": 2.5}


class FakeEngine:
    """Starts the fake worker in place of the engine's."""

    def __init__(self, folders):
        self.folders = folders

    def command(self, *arguments):
        return [sys.executable, str(WORKER), *arguments[1:]]

    def environment(self):
        return dict(os.environ)


@pytest.fixture
def make_queue(standin, tmp_path):
    from SynthDiffusionJobs.JobFolders import JobFolders
    from SynthDiffusionJobs.RunQueue import RunQueue

    queues = []

    def make(on_done=lambda run: None):
        queue = RunQueue(FakeEngine(JobFolders(tmp_path)), on_done)
        queues.append(queue)
        return queue

    yield make
    for queue in queues:
        queue.shutdown()
        queue._engine.folders.removeAll()


@pytest.fixture
def queue(make_queue):
    return make_queue()


def add(queue, steps, **arguments):
    from SynthDiffusionJobs.RunQueue import Run

    folder = queue._engine.folders.new("run")
    (folder / "request.json").write_text(json.dumps(steps))
    return queue.add(Run("a run", folder, **arguments))


def worker_processes(folder=None):
    """Of this test process, other ones may have theirs; or all that work in a folder."""
    if folder is not None:
        return [p for p in psutil.process_iter(["cmdline"]) if str(folder) in (p.info["cmdline"] or [])]
    children = psutil.Process().children(recursive=True)
    return [p for p in children if p.status() != psutil.STATUS_ZOMBIE and str(WORKER) in p.cmdline()]


def test_events_become_the_runs_state(queue, standin):
    seen = []
    queue.progressed.connect(lambda run: seen.append((run.stage, run.step, run.total, run.etaSeconds)))
    previews = []
    queue.previewed.connect(lambda run, path: previews.append(path))
    steps = [PROGRESS, "noise", {"event": "warning", "message": "look"}, {"event": "preview", "path": "/p.nrrd"}, DONE]
    run = add(queue, steps, previews=True)
    assert run.state == "running"
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    assert run.state == "done"
    assert seen[0] == ("denoise", 3, 10, 2.5)
    assert previews == ["/p.nrrd"]
    assert run.warnings == ["look"]
    assert run.outputs == DONE["outputs"] and run.timing == DONE["timing"]
    assert run.seconds > 0
    assert "and complains" in run.logPath.read_text()
    arguments = json.loads((run.folder / "arguments.json").read_text())
    assert arguments == [str(run.folder), "--end-with-stdin", "--previews", "4"]


def test_runs_go_one_after_the_other(queue, standin):
    runs = [add(queue, [0.2, DONE]) for _ in range(3)]
    states = [[run.state for run in runs]]
    queue.changed.connect(lambda run: states.append([run.state for run in runs]))
    standin.wait(lambda: all(run.ended for run in runs), seconds=20, what="three runs")
    assert [run.number for run in runs] == [1, 2, 3]
    assert states[0] == ["running", "waiting", "waiting"]
    assert all(row.count("running") <= 1 for row in states)
    assert states[-1] == ["done"] * 3


@pytest.mark.parametrize("stubborn", [False, True], ids=["obedient", "stubborn"])
def test_cancel_ends_the_process_tree_within_two_seconds(queue, standin, stubborn):
    run = add(queue, ["ignore-cancel"] * stubborn + ["child", PROGRESS, 60, DONE])
    standin.wait(lambda: run.step == 3, seconds=20, what="progress")
    child = psutil.Process(int((run.folder / "child.txt").read_text()))
    began = time.monotonic()
    queue.cancel(run)
    standin.wait(lambda: run.ended, seconds=5, what="the end")
    assert time.monotonic() - began < 2.0
    assert run.state == "cancelled"
    assert worker_processes() == []
    if stubborn:  # the obedient worker of this test leaves its child alone; the engine's ends it
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    else:
        child.kill()
    following = add(queue, [DONE])
    standin.wait(lambda: following.ended, seconds=20, what="the next run")
    assert following.state == "done"


def test_without_psutil_closing_the_input_ends_the_children(queue, standin, monkeypatch):
    run = add(queue, ["ignore-cancel", "child", PROGRESS, 60])
    standin.wait(lambda: run.step == 3, seconds=20, what="progress")
    child = psutil.Process(int((run.folder / "child.txt").read_text()))
    process = queue._process._process
    monkeypatch.setitem(sys.modules, "psutil", None)
    from SynthDiffusionJobs import EngineProcess

    assert EngineProcess._descendants(process.processId()) == []
    process.closeWriteChannel()
    standin.wait(lambda: run.ended, seconds=5, what="the end")
    monkeypatch.undo()
    psutil.wait_procs([child], timeout=2)
    assert not child.is_running()


def test_killed_from_outside_is_said_and_can_be_run_again(queue, standin):
    run = add(queue, [PROGRESS, 60])
    standin.wait(lambda: run.step == 3, seconds=20, what="progress")
    worker_processes()[0].kill()
    standin.wait(lambda: run.ended, seconds=5, what="the end")
    assert (run.state, run.kind) == ("failed", "killed")
    assert "ended from outside" in run.message and "Run it again" in run.hint
    (run.folder / "request.json").write_text(json.dumps([DONE]))
    queue.retry(run)
    standin.wait(lambda: run.ended, seconds=20, what="the second try")
    assert (run.state, run.message, run.outputs) == ("done", "", DONE["outputs"])


@pytest.mark.parametrize(
    ("steps", "kind", "message"),
    [
        ([{"event": "error", "kind": "out_of_memory", "message": "too large", "hint": "crop"}, "exit 1"],) * 1
        + ("out_of_memory", "too large"),
        (["exit 3"], "killed", "code 3"),
        (["crash"], "killed", "crashed"),
        ([], "killed", "code 0"),
    ],
)
def test_what_went_wrong_is_said(queue, standin, steps, kind, message):
    run = add(queue, steps)
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    assert (run.state, run.kind) == ("failed", kind)
    assert message in run.message


def test_a_program_that_is_not_there(queue, standin, tmp_path):
    queue._engine.command = lambda *arguments: [str(tmp_path / "no-python"), *arguments]
    run = add(queue, [DONE])
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    assert run.state == "failed"
    assert "could not be started" in run.message


def test_results_that_cannot_be_loaded_make_it_a_failed_run(make_queue, standin):
    def refuse(run):
        raise OSError("no space")

    queue = make_queue(refuse)
    run = add(queue, [DONE])
    following = add(queue, ["exit 0"])
    standin.wait(lambda: following.ended, seconds=20, what="both runs")
    assert run.state == "failed"
    assert "no space" in run.message


def test_waiting_runs_can_be_taken_out_and_ended_ones_removed(queue, standin):
    first, second = add(queue, [0.3, DONE]), add(queue, [DONE])
    queue.cancel(second)
    queue.remove(first)  # runs: stays
    standin.wait(lambda: first.ended, seconds=20, what="the first run")
    assert [run.state for run in queue.runs] == ["done", "cancelled"]
    queue.remove(first)
    assert queue.runs == [second]
    assert not first.folder.exists() and second.folder.exists()


def test_discarding_leaves_no_process_timer_or_folder(queue, standin, tmp_path):
    before = standin.counts()
    heard = []
    runs = [add(queue, ["ignore-cancel", PROGRESS, 60]) for _ in range(2)]
    standin.wait(lambda: runs[0].step == 3, seconds=20, what="progress")
    queue.progressed.connect(heard.append)
    queue.discardAll()
    assert queue.runs == [] and queue.current is None
    assert worker_processes() == []
    standin.process_events(0.3)
    assert standin.counts() == before
    assert not any(run.folder.exists() for run in runs)


def test_after_shutdown_nothing_starts(queue, standin):
    run = add(queue, ["ignore-cancel", PROGRESS, 60])
    standin.wait(lambda: run.step == 3, seconds=20, what="progress")
    queue.shutdown()
    assert worker_processes() == []
    later = add(queue, [DONE])
    standin.process_events(0.2)
    assert later.state == "waiting"


def test_a_worker_ends_when_slicer_is_killed(standin, tmp_path):
    """A process that holds the other end of the worker's input is killed; the worker notices."""
    import subprocess

    (tmp_path / "request.json").write_text(json.dumps([PROGRESS, 60]))
    code = (
        "import subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, {str(WORKER)!r}, {str(tmp_path)!r}, '--end-with-stdin'],"
        " stdin=subprocess.PIPE); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while not (tmp_path / "arguments.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = worker_processes(tmp_path)
    assert workers
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(workers, timeout=3)[1] == [], "still alive"


def test_a_cancel_file_that_cannot_be_deleted_does_not_stop_the_queue(queue, standin, monkeypatch):
    """On Windows a virus scanner may hold it."""
    first, second = add(queue, [PROGRESS, 60]), add(queue, [DONE])
    standin.wait(lambda: first.step == 3, seconds=20, what="progress")
    unlink = Path.unlink

    def refuse(self, missing_ok=False):
        if self.name == "cancel" and self.exists():
            raise PermissionError(13, "held", str(self))
        return unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    queue.cancel(first)
    standin.wait(lambda: second.ended, seconds=20, what="the second run")
    assert [first.state, second.state] == ["cancelled", "done"]


def test_a_receiver_that_fails_does_not_stop_the_queue(queue, standin, caplog):
    def fail(run):
        raise KeyError("a fault of a panel")

    queue.progressed.connect(fail)
    run, second = add(queue, [PROGRESS, DONE]), add(queue, [DONE])
    standin.wait(lambda: second.ended, seconds=20, what="both runs")
    assert [run.state, second.state] == ["done", "done"]
    assert "a fault of a panel" in caplog.text


@pytest.mark.parametrize(
    "event",
    [
        {"event": "progress"},
        {"event": "progress", "stage": "denoise", "step": [1], "total": None},
        {"event": "progress", "stage": "denoise", "step": 1, "total": 2, "eta_s": float("nan")},
        {"event": "warning"},
        {"event": "warning", "message": 5},
        {"event": "preview"},
        {"event": "error", "message": None},
        {"event": "error", "kind": {}, "message": {"a": 1}, "hint": 3},
        {"event": "done"},
        {"event": "done", "outputs": None},
    ],
    ids=json.dumps,
)
def test_events_of_the_wrong_form_do_not_stop_the_queue(queue, standin, event):
    run, second = add(queue, [event, "exit 1"]), add(queue, [DONE])
    standin.wait(lambda: second.ended, seconds=20, what="both runs")
    assert (run.state, second.state) == ("failed", "done")
    assert run.message and all(isinstance(text, str) for text in (run.kind, run.message, run.hint, *run.warnings))


def test_a_process_that_others_have_told_to_end_was_not_cancelled_by_the_user(queue, standin):
    run = add(queue, [{"event": "error", "kind": "cancelled", "message": "Cancelled"}, "exit 130"])
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    assert (run.state, run.kind) == ("failed", "killed")
    assert "ended from outside" in run.message


def test_a_receiver_of_any_change_that_fails_does_not_stop_the_queue(queue, standin):
    heard = []

    def fail(run):
        heard.append(run)
        raise KeyError("a fault of a panel")

    queue.changed.connect(fail)
    later = []
    queue.changed.connect(later.append)
    with pytest.raises(KeyError):
        add(queue, [DONE])
    with pytest.raises(KeyError):
        add(queue, [DONE])
    deadline = time.monotonic() + 20
    while not all(run.ended for run in queue.runs) and time.monotonic() < deadline:
        with contextlib.suppress(KeyError):
            standin.process_events(0.1)
        standin.faults.clear()
    assert [run.state for run in queue.runs] == ["done", "done"]
    assert len(later) == len(heard), "the others are told all the same"
