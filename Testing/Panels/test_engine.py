"""What the module learns of the worker's Python: ready, incomplete, broken, another one, asked twice, ended."""

from __future__ import annotations

import json
import sys
import venv
from pathlib import Path

import pytest
from panel_harness import ROOT


@pytest.fixture
def engine(standin, tmp_path):
    from SynthDiffusionJobs.Engine import Engine
    from SynthDiffusionJobs.JobFolders import JobFolders

    made = Engine(ROOT, JobFolders(tmp_path / "jobs"))
    made.states = []
    made.changed.connect(lambda: made.states.append(made.status.state))
    yield made
    made.shutdown()
    made.folders.removeAll()


def fake_python(folder: Path, code: str) -> Path:
    """A program that is called like Python and runs some code instead of what it is asked to."""
    (folder / "code.py").write_text(code, encoding="utf-8")
    program = folder / "python-fake"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / "code.py"}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return program


ANSWER = {
    "event": "done",
    "python": "3.12.1",
    "executable": "/somewhere",
    "version": "0.1.0",
    "missing": [],
    "missing_dicom": [],
    "torch": "2.9.0",
    "torch_problem": None,
    "devices": [
        {"id": "cpu", "name": "A CPU", "total_bytes": 8 << 30, "free_bytes": 4 << 30, "precision": "bf16"},
        {"id": "cuda:0", "name": "A GPU", "total_bytes": 24 << 30, "free_bytes": 20 << 30, "precision": "bf16"},
    ],
}


def answering(tmp_path, **changes) -> Path:
    """A Python whose probe says so, and which has no models."""
    lines = {"probe": json.dumps(ANSWER | changes), "models": json.dumps({"models": []})}
    code = f"import sys\nlines = {lines!r}\nprint(lines['probe' if 'probe' in sys.argv[3] else 'models'])"
    return fake_python(tmp_path, code)


def test_the_real_engine_answers(engine, standin):
    from SynthDiffusionLib import __version__

    engine.refresh()
    assert engine.status.state == "checking" and not engine.status.ready
    standin.wait(lambda: engine.models, seconds=60, what="the models")
    status = engine.status
    assert status.ready and (status.version, status.missing, status.problem) == (__version__, (), "")
    assert status.python == ".".join(map(str, sys.version_info[:3]))
    assert engine.device("auto") is status.devices[0]
    cpu = engine.device("cpu")
    assert cpu.totalBytes > cpu.freeBytes > 0 and cpu.precision in ("fp32", "bf16")
    assert engine.device("cuda:77") is None
    model = engine.model("lung-nodule-ct")
    assert model.usable and model.origin == "shipped" and model.description["backend"] == "patch_ddpm"
    assert engine.model("no-such") is None
    assert not list(Path(engine.folders._session).iterdir())  # the folders of the questions are gone


def test_a_quiet_check_keeps_the_state(engine, standin, tmp_path):
    engine.setOtherPython(str(answering(tmp_path)))
    standin.wait(lambda: engine.status.ready, seconds=20, what="the first answer")
    engine.states.clear()
    engine.refresh(quietly=True)
    assert engine.status.ready
    standin.wait(lambda: len(engine.states) >= 2, seconds=20, what="the second answer")
    assert set(engine.states) == {"ready"}


def test_a_gpu_comes_first_and_cuda_means_the_first_one(engine, standin, tmp_path):
    engine.setOtherPython(str(answering(tmp_path)))
    standin.wait(lambda: engine.status.ready, seconds=20, what="the answer")
    assert engine.device("auto").id == engine.device("cuda").id == "cuda:0"


@pytest.mark.parametrize(
    "changes",
    [
        {"missing": [{"name": "monai", "requirement": "monai>=1.6", "installed": None}]},
        {"torch": None, "torch_problem": "PyTorch is not installed"},
    ],
    ids=["package", "torch"],
)
def test_an_incomplete_python_is_not_ready_and_is_not_asked_for_models(engine, standin, tmp_path, changes):
    engine.setOtherPython(str(answering(tmp_path, **changes)))
    standin.wait(lambda: engine.status.state == "missing", seconds=20, what="the answer")
    assert engine.status.missing == tuple(changes.get("missing", ()))
    assert engine.status.problem == changes.get("torch_problem", "")
    standin.process_events(0.5)
    assert not engine._running


def test_another_python_is_remembered_runs_clean_and_can_be_given_up(engine, standin, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/slicer")
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    python = tmp_path / "bare" / "bin" / "python"
    if not python.exists():
        pytest.skip("this Python makes no virtual environments like that")
    engine.setOtherPython(str(python))
    environment = engine.environment()
    assert environment["PYTHONPATH"] == str(ROOT) and "PYTHONHOME" not in environment
    assert engine.command("x")[0] == str(python)
    standin.wait(lambda: engine.status.state in ("missing", "failed"), seconds=30, what="the answer")
    assert engine.status.state == "missing"
    assert {"numpy", "monai"} <= {entry["name"] for entry in engine.status.missing}

    from SynthDiffusionJobs.Engine import Engine

    assert Engine(ROOT, engine.folders).otherPython == str(python)  # in Slicer's settings
    monkeypatch.delenv("PYTHONHOME")
    engine.setOtherPython("")
    assert engine.command("x")[0] == sys.executable
    assert engine.environment()["PYTHONNOUSERSITE"] == "1"  # Slicer's own Python keeps Slicer's variables


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('no such module', file=sys.stderr); sys.exit(1)", "no such module"),
        ("print('hello')", "without an answer"),
        ("import os; os.abort()", ""),
        ("""print('{"event": "done", "devices": []}')""", "without an answer"),
        ("""print('{"event": "done", "devices": [{"id": "cpu"}]}')""", "without an answer"),
        ("""print('{"event": "done", "devices": "abc", "missing": []}')""", "without an answer"),
    ],
    ids=["error", "silent", "crash", "keys missing", "devices of another form", "devices a text"],
)
def test_a_program_that_is_no_python_with_an_engine(engine, standin, tmp_path, code, said):
    program = fake_python(tmp_path, code)
    engine.setOtherPython(str(program))
    standin.wait(lambda: engine.status.state == "failed", seconds=20, what="the answer")
    assert str(program) in engine.status.problem and said in engine.status.problem
    assert "Choose Slicer's own Python" in engine.status.hint


def test_a_program_that_is_not_there(engine, standin, tmp_path):
    engine.setOtherPython(str(tmp_path / "none"))
    standin.wait(lambda: engine.status.state == "failed", seconds=20, what="the answer")
    assert str(tmp_path / "none") in engine.status.problem


def test_models_that_cannot_be_listed_are_a_failure(engine, standin, tmp_path):
    code = f"import sys\nif 'probe' in sys.argv[3]: print({json.dumps(ANSWER)!r})\nelse: sys.exit('no folder')"
    engine.setOtherPython(str(fake_python(tmp_path, code)))
    standin.wait(lambda: engine.status.state == "failed", seconds=20, what="the answer")
    assert "no folder" in engine.status.problem


def test_asked_again_while_it_is_asked_only_the_last_answer_counts(engine, standin, tmp_path):
    (tmp_path / "slow").mkdir()
    (tmp_path / "quick").mkdir()
    slow = fake_python(tmp_path / "slow", "import time; time.sleep(60)")
    engine.setOtherPython(str(slow))
    process = engine._probe
    engine.setOtherPython(str(answering(tmp_path / "quick")))
    assert not process.isRunning and len(engine._running) == 1
    standin.wait(lambda: engine.status.ready, seconds=20, what="the answer")
    assert "failed" not in engine.states


def test_models_of_the_python_before_do_not_arrive_late(engine, standin, tmp_path):
    (tmp_path / "slow").mkdir()
    (tmp_path / "quick").mkdir()
    late = json.dumps({"models": [{"id": "old", "origin": "user", "folder": "/", "problem": None, "model": {}}]})
    code = (
        f"import sys, time\nif 'probe' in sys.argv[3]: print({json.dumps(ANSWER)!r})\n"
        f"else:\n    time.sleep(1.0)\n    print({late!r})"
    )
    engine.setOtherPython(str(fake_python(tmp_path / "slow", code)))
    standin.wait(lambda: engine.status.ready, seconds=20, what="the first answer")
    engine.setOtherPython(str(answering(tmp_path / "quick")))
    standin.wait(lambda: engine.status.ready and not engine._running, seconds=20, what="the second answer")
    standin.process_events(1.2)
    assert engine.models == ()


def test_shutdown_in_the_middle_of_a_question(engine, standin, tmp_path):
    before = standin.counts()
    engine.refresh()
    heard = len(engine.states)
    engine.shutdown()
    standin.process_events(0.2)
    assert engine._running == [] and len(engine.states) == heard
    after = standin.counts()
    assert (after["timers"], after["processes"]) == (before["timers"], before["processes"])


def test_an_answer_without_an_event_and_the_events_before_it(engine, standin, tmp_path):
    code = 'print(\'{"event": "progress", "step": 1}\')\nprint(\'noise\')\nprint(\'{"id": "x"}\')'
    engine.setOtherPython(str(fake_python(tmp_path, code)))
    events, answers = [], []
    engine.ask(["anything"], lambda result, message: answers.append(result), events.append)
    standin.wait(lambda: answers, seconds=20, what="the answer")
    assert answers[0].done and answers[0].event == {"event": "done", "id": "x"}
    assert events[0] == {"event": "progress", "step": 1}


def test_a_question_whose_folder_cannot_be_written(engine, standin, monkeypatch):
    answers = []
    monkeypatch.setattr(engine.folders, "new", lambda purpose: ROOT / "no" / "such" / "folder")
    engine.ask(["anything"], lambda result, message: answers.append((result, message)))
    assert not answers[0][0].done and "No such file" in answers[0][1]
    assert engine._running == []


def test_a_full_disk_is_not_blamed_on_the_installation(engine, standin, tmp_path, monkeypatch):
    from collections import namedtuple

    from SynthDiffusionJobs import JobFolders

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(JobFolders.shutil, "disk_usage", lambda path: usage(1000, 1000, 0))
    engine.setOtherPython(str(fake_python(tmp_path, "print('half an ans')")))
    standin.wait(lambda: engine.status.state == "failed", seconds=20, what="the answer")
    assert "disk of the temporary files is full" in engine.status.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": [ANSWER["devices"][0] | {"total_bytes": "abc"}]},
        {"missing": ["monai"]},
        {"missing": {"a": 1}},
        {"missing": [{"name": "monai"}]},
    ],
    ids=str,
)
def test_an_answer_of_another_form_is_none(engine, standin, tmp_path, changes):
    engine.setOtherPython(str(answering(tmp_path, **changes)))
    standin.wait(lambda: engine.status.state == "failed", seconds=20, what="the answer")


def test_a_model_whose_description_lacks_what_is_shown_cannot_be_used(engine, standin, tmp_path):
    entry = {"id": "a", "origin": "user", "folder": str(tmp_path), "problem": None, "model": {"id": "a"}}
    lines = {"probe": json.dumps(ANSWER), "models": json.dumps({"models": [entry]})}
    code = f"import sys\nlines = {lines!r}\nprint(lines['probe' if 'probe' in sys.argv[3] else 'models'])"
    engine.setOtherPython(str(fake_python(tmp_path, code)))
    standin.wait(lambda: engine.models, seconds=20, what="the models")
    assert not engine.models[0].usable and "incomplete" in engine.models[0].problem
