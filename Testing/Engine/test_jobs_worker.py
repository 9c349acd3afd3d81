"""The worker: one job in a process of its own, told by a folder and read line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_package import Stopwatch, make_working_package

from SynthDiffusionLib.jobs import GenerateRequest
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

    def call(folder: Path) -> subprocess.Popen:
        own = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        child = subprocess.Popen(
            [sys.executable, "-m", "SynthDiffusionLib.jobs.worker", str(folder)],
            cwd=ROOT,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        children.append(child)
        return child

    yield call
    for child in children:
        child.kill()
        child.communicate()


def request(folder: Path, package: Path, **settings) -> None:
    GenerateRequest(Path("drawing.nii.gz"), str(package), Path("out"), seed=1, **settings).save(folder)


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
    assert [e["stage"] for e in events if e["event"] == "progress"] == ["read", "model", "denoise", "denoise"]
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


def test_a_killed_job_can_be_run_again(job, package, start):
    request(job, package, steps=MANY_STEPS)
    child = start(job)
    until_step(child, 2)
    child.kill()
    child.wait(timeout=60)
    assert child.returncode not in (0, 1, 2, 130) or os.name == "nt"
    assert not names(job) and logged(job)[-1]["event"] == "progress"
    request(job, package, steps=1)
    child = start(job)
    out, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
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
