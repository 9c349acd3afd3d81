"""The worker: one job in a process of its own, told by a folder and read line by line."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import psutil
import pytest
from PIL import Image
from tiny_package import Stopwatch, make_working_package

from SynthDiffusionLib.jobs import GenerateRequest, interrupts, worker
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.volumes import Volume, write_volume

ROOT = Path(__file__).resolve().parents[2]
MANY_STEPS = 1000


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return make_working_package(tmp_path_factory.mktemp("model") / "tiny-ct").folder


@pytest.fixture
def job(package, tmp_path) -> Path:
    """A job folder with a segmentation, but no request yet."""
    folder = tmp_path / "job with blanks, ü"
    folder.mkdir()
    array = np.ones((16, 16, 16), np.uint8)
    array[6:10, 6:10, 6:10] = 4
    write_volume(Volume(array, np.eye(4), "label"), folder / "drawing.nii.gz")
    return folder


@pytest.fixture
def start() -> Iterator:
    """Starts workers and ends those that a failed test has left."""
    children: list[subprocess.Popen] = []

    def call(folder: Path, *options: str, **settings) -> subprocess.Popen:
        own = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        child = subprocess.Popen(
            [sys.executable, "-m", "SynthDiffusionLib.jobs.worker", str(folder), *options],
            cwd=ROOT,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            **settings,
        )
        children.append(child)
        return child

    yield call
    for child in children:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()


def request(folder: Path, package: Path, **settings) -> None:
    GenerateRequest(Path("drawing.nii.gz"), str(package), Path("out"), seed=1, **settings).save(folder)


def run_here(folder: Path, monkeypatch) -> None:
    """Runs a job that an earlier worker has left, in this process, which has loaded torch already."""
    monkeypatch.setattr(worker, "keep_heap_small", lambda: None)  # it would stay so, and slow the tests that follow
    assert worker.main([str(folder)]) == 0


def until_step(child: subprocess.Popen, step: int) -> list[dict]:
    """The events up to a denoising step."""
    events = []
    for line in child.stdout:
        events.append(json.loads(line))
        if events[-1].get("stage") == "denoise" and events[-1]["step"] >= step:
            return events
    pytest.fail(f"the worker ended early: {events}, {child.stderr.read()}")


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def names(folder: Path) -> set[str]:
    return {p.name for p in (folder / "out").iterdir()} if (folder / "out").exists() else set()


OUTPUTS = {f"drawing_tiny-ct_seed1{suffix}" for suffix in (".nii.gz", ".json", ".png")}


def test_events_and_outputs(job, package, start):
    request(job, package, steps=2)
    child = start(job)
    out, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    events = [json.loads(line) for line in out.splitlines()]
    assert events == logged(job)
    assert [e["stage"] for e in events if e["event"] == "progress"] == ["read", "model", "denoise", "denoise", "write"]
    denoise = [e for e in events if e.get("stage") == "denoise"]
    assert all({"step", "total", "eta_s"} <= e.keys() and e["total"] == 2 for e in denoise)
    assert [e["event"] for e in events].count("done") == 1 and events[-1]["event"] == "done"
    assert names(job) == OUTPUTS
    assert all(Path(events[-1]["outputs"][0][k]).is_file() for k in ("volume", "provenance", "contact_sheet"))
    assert str(job).encode() not in b"".join(p.read_bytes() for p in (job / "out").iterdir())


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda job, package: None, "bad_input", "request.json"),
        (lambda job, package: (job / "request.json").write_text("{"), "bad_input", "not valid JSON"),
        (lambda job, package: (job / "request.json").write_text("[]"), "bad_input", "not a request"),
        (lambda job, package: (job / "request.json").write_bytes(b"\xff\xfe{"), "bad_input", "request.json"),
        (
            lambda job, package: (request(job, package), (job / "drawing.nii.gz").write_text("no image")),
            "bad_input",
            "drawing.nii.gz",
        ),
        (lambda job, package: request(job, package.parent / "none"), "model", "not a folder with a model package"),
    ],
    ids=["no request", "half of one", "a list", "another encoding", "not an image", "no model"],
)
def test_bad_input_is_an_event(job, package, start, spoil, kind, message):
    spoil(job, package)
    child = start(job)
    out, errors = child.communicate(timeout=300)
    assert child.returncode == 2 and "Traceback" not in errors
    event = json.loads(out.splitlines()[-1])
    assert event["event"] == "error" and event["kind"] == kind and message in event["message"] and event["hint"]
    assert logged(job)[-1] == event and not names(job)


def test_no_job_folder(tmp_path, start):
    child = start(tmp_path / "nothing")
    out, errors = child.communicate(timeout=300)
    (event,) = map(json.loads, out.splitlines())
    assert child.returncode == 2 and event["kind"] == "bad_input" and "Traceback" not in errors


def test_job_folder_whose_log_cannot_be_written(job, package, start):
    request(job, package)
    (job / "events.jsonl").mkdir()
    child = start(job)
    out, errors = child.communicate(timeout=300)
    (event,) = map(json.loads, out.splitlines())
    assert child.returncode == 2 and event["kind"] == "bad_input" and "Traceback" not in errors


def test_a_killed_job_can_be_run_again(job, package, start, capsys, monkeypatch):
    request(job, package, steps=MANY_STEPS)
    child = start(job)
    until_step(child, 2)
    child.kill()
    child.wait(timeout=60)
    assert child.returncode not in (0, 1, 2, 130) or os.name == "nt"
    assert not names(job) and logged(job)[-1]["event"] == "progress"
    request(job, package, steps=1)
    run_here(job, monkeypatch)
    out = capsys.readouterr().out
    assert logged(job) == [json.loads(line) for line in out.splitlines()], "the log has started anew"
    assert names(job) == OUTPUTS


def test_cancel_file(job, package, start):
    request(job, package, steps=MANY_STEPS)
    child = start(job)
    until_step(child, 2)
    stopwatch = Stopwatch(child)
    (job / "cancel").touch()
    code = stopwatch.wait()
    out, errors = child.stdout.read(), child.stderr.read()
    assert code == 130, errors
    assert stopwatch.seconds < 2.0, f"{stopwatch.seconds:.1f} s"
    assert logged(job)[-1] == {"event": "error", "kind": "cancelled", "message": "Cancelled", "hint": ""}
    assert json.loads(out.splitlines()[-1]) == logged(job)[-1] and not names(job)
    assert not (job / "cancel").exists(), "or the job could not be run again as it is"


def test_cancelled_before_the_first_step(job, package, start):
    """While libraries are loaded, which takes longer than the two seconds that a user should wait."""
    request(job, package, steps=MANY_STEPS)
    (job / "cancel").touch()
    child = start(job)
    out, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    events = [json.loads(line) for line in out.splitlines()]
    assert events[-1]["kind"] == "cancelled" and "Traceback" not in errors
    assert len([e for e in events if e.get("stage") == "denoise"]) < 20


def test_previews(job, package, start):
    (job / "previews").mkdir()
    (job / "previews" / "of an earlier run.nrrd").touch()
    request(job, package, steps=4)
    child = start(job, "--previews", "2", "--end-with-stdin", stdin=subprocess.PIPE)
    out = child.stdout.read()
    assert child.wait(timeout=60) == 0, "an open pipe holds nothing up"
    assert json.loads(out.splitlines()[-1])["event"] == "done"
    shown = [e["path"] for e in map(json.loads, out.splitlines()) if e["event"] == "preview"]
    assert len(shown) == 2 and {Path(p) for p in shown} == set((job / "previews").resolve().iterdir())
    assert all(Path(p).is_absolute() for p in shown) and names(job) == OUTPUTS
    assert not (job / "temporary").exists()


@pytest.mark.parametrize("value", ["-1", "2.5", "many", "101"])
def test_number_of_previews(job, start, value):
    child = start(job, f"--previews={value}")
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 2 and "must be a number from 0 to 100" in errors and "Traceback" not in errors


# A parent that closes the worker's standard input, or is gone.


def close_stdin(child: subprocess.Popen) -> float:
    """Closes the pipe and waits; the seconds until the end."""
    stopwatch = Stopwatch(child)
    child.stdin.close()
    code = stopwatch.wait()
    assert code == 130, child.stderr.read()
    assert child.stderr.read() == ""
    return stopwatch.seconds


def test_ends_with_stdin_while_it_samples(job, package, start):
    request(job, package, steps=MANY_STEPS)
    child = start(job, "--end-with-stdin", stdin=subprocess.PIPE)
    until_step(child, 2)
    child.stdin.write("what is sent is of no interest\n")
    child.stdin.flush()
    until_step(child, 4)
    assert close_stdin(child) < 1.0
    assert not names(job) and logged(job)[-1]["stage"] == "denoise"


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.8, 1.5, 2.5])
def test_ends_with_stdin_while_libraries_are_loaded(job, package, start, delay):
    request(job, package, steps=MANY_STEPS)
    child = start(job, "--end-with-stdin", stdin=subprocess.PIPE)
    time.sleep(delay)
    assert close_stdin(child) < 1.0 + (0.5 if delay == 0 else 0.0), "at first, Python itself has to start"
    assert not names(job)


LONG_OPERATION = """
from SynthDiffusionLib.jobs.interrupts import end_with_stdin
end_with_stdin()
import torch
a = torch.ones(12000, 12000)
print("begun", flush=True)
a @ a
print("ended", flush=True)
"""


def test_ends_with_stdin_within_one_operation_of_torch():
    child = subprocess.Popen(
        [sys.executable, "-c", LONG_OPERATION],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with child:
        assert child.stdout.readline() == "begun\n", child.stderr.read()
        time.sleep(0.1)
        stopwatch = Stopwatch(child)
        child.stdin.close()
        assert stopwatch.wait() == 130
        # A matter of the clock: the operation itself takes several processors' seconds.
        assert stopwatch.seconds < 2.0 and child.stdout.read() == "", "before the operation has ended"


@pytest.mark.parametrize("after", [1, 3])
def test_no_half_written_file_is_left(job, package, start, after):
    """Ended while it writes: small samples of one step each, so that it hardly does anything else."""
    request(job, package, steps=1, samples=2000)
    child = start(job, "--end-with-stdin", stdin=subprocess.PIPE)
    for line in child.stdout:
        event = json.loads(line)
        if event.get("stage") == "write" and event["sample"] > after:
            break
    close_stdin(child)
    files = [p for p in (job / "out").iterdir() if not p.name.startswith(".part-")]
    volumes = [p for p in files if p.name.endswith(".nii.gz")]
    assert len(volumes) >= after
    for path in volumes:
        assert nib.load(path).get_fdata().shape == (16, 16, 16)
    for path in files:
        if path.suffix == ".png":
            Image.open(path).load()
        if path.suffix == ".json":
            volume = path.with_suffix(".nii.gz")
            record = json.loads(path.read_text(encoding="utf-8"))
            assert not volume.exists() or record["output_sha256"] == sha256_of(volume)
    assert {p.name for p in job.iterdir()} <= {"drawing.nii.gz", "request.json", "events.jsonl", "out", "temporary"}


@pytest.mark.skipif(importlib.util.find_spec("slicer") is None, reason="needs the extra slicer")
def test_ends_with_stdin_and_takes_its_child_along(job, package, start, monkeypatch):
    """While a child process writes the scene, whose inputs lie in the job's folder."""
    before = set(Path(tempfile.gettempdir()).iterdir())
    request(job, package, steps=1, scene=True)
    child = start(job, "--end-with-stdin", stdin=subprocess.PIPE)
    for line in child.stdout:
        if json.loads(line).get("stage") == "scene":
            break
    process, deadline = psutil.Process(child.pid), time.monotonic() + 30
    while not (children := process.children(recursive=True)):
        assert time.monotonic() < deadline and child.poll() is None, "no child has been started"
        time.sleep(0.01)
    close_stdin(child)
    _, alive = psutil.wait_procs(children, timeout=2)
    assert not alive and not list((job / "out").glob("*.mrb"))
    left = [p.name for p in set(Path(tempfile.gettempdir()).iterdir()) - before if "synthdiffusion" in p.name]
    assert left == [] and list((job / "temporary").iterdir())
    run_here(job, monkeypatch)
    assert list((job / "out").glob("*.mrb")) and not (job / "temporary").exists()


@pytest.mark.parametrize("kind", ["null device", "file", "closed"])
def test_standard_input_that_is_no_pipe_is_refused(job, package, start, kind):
    request(job, package, steps=1)
    if kind == "closed":
        code = (
            "import sys; sys.stdin.close(); from SynthDiffusionLib.jobs import worker;"
            f"sys.exit(worker.main([{str(job)!r}, '--end-with-stdin']))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=False)
        code, out = done.returncode, done.stdout.decode()
    else:
        with (job / "request.json").open() as file:
            child = start(job, "--end-with-stdin", stdin=file if kind == "file" else subprocess.DEVNULL)
            out, _ = child.communicate(timeout=60)
            code = child.returncode
    (event,) = map(json.loads, out.splitlines())
    assert code == 2 and event["kind"] == "bad_input" and "standard input is" in event["message"] and event["hint"]
    assert not names(job)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")
def test_a_terminal_is_refused(job, package, start):
    ours, theirs = os.openpty()
    child = start(job, "--end-with-stdin", stdin=theirs)
    out, _ = child.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert child.returncode == 2 and "standard input is a terminal" in json.loads(out)["message"]


def test_on_windows_the_pipe_is_polled_and_emptied(monkeypatch):
    """Stands for Windows: a pipe with three bytes in it that breaks at the fourth look."""
    looks, read = iter([(0, 0), (3, 0), (0, 0)]), []

    def peek(handle: int, size: int) -> tuple[int, int]:
        assert (handle, size) == (70, 0)
        try:
            return next(looks)
        except StopIteration:
            raise BrokenPipeError from None

    monkeypatch.setitem(sys.modules, "_winapi", SimpleNamespace(PeekNamedPipe=peek))
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(get_osfhandle=lambda descriptor: 10 * descriptor))
    monkeypatch.setattr(interrupts, "os", SimpleNamespace(name="nt", read=lambda *call: read.append(call)))
    began = time.monotonic()
    interrupts.wait_until_closed(7)
    assert read == [(7, 3)] and 0.25 < time.monotonic() - began < 5.0
