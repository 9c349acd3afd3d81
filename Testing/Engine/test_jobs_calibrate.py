"""Calibration: a process of its own that leaves one record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_package import make_working_package
from tiny_slice_ldm import make_joint_package

from SynthDiffusionLib.jobs import timings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return make_working_package(tmp_path_factory.mktemp("model") / "tiny-ct").folder


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SYNTHDIFFUSION_STATE", str(tmp_path / "state"))


def calibrate(*arguments: str, **settings) -> tuple[int, list[dict]]:
    """Exit code and events."""
    done = subprocess.run(
        [sys.executable, "-m", "SynthDiffusionLib.jobs.calibrate", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
        **settings,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_one_record_that_an_estimate_is_made_of(package):
    code, events = calibrate("--model", str(package), "--device", "cpu", "--precision", "fp32")
    assert code == 0
    *progress, done = events
    assert [e["stage"] for e in progress] == ["model", "denoise", "denoise", "denoise"]
    assert done["event"] == "done" and 0 < done["seconds_per_evaluation"] < 60
    (kept,) = timings.load()
    assert (kept.source, kept.grid, kept.evaluations) == ("calibration", (48, 48, 48), 2)
    assert done["seconds_per_evaluation"] == pytest.approx(kept.denoise_s / 2, abs=1e-5)
    told = timings.estimate("tiny-ct", "1.2.0", timings.cpu_name(), "fp32", 2 * 48**3, 50)
    assert told.source == "calibration"
    assert told.seconds == pytest.approx(kept.setup_s + 100 * done["seconds_per_evaluation"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--model", "no-such-model"], "model"),
        (["--precision", "fp8"], "bad_input"),
        (["--device", "gpu"], "bad_input"),
    ],
)
def test_what_cannot_be_calibrated(package, arguments, kind):
    code, events = calibrate("--model", str(package), *arguments)
    assert code == 2 and events[-1]["event"] == "error" and events[-1]["kind"] == kind and events[-1]["hint"]
    assert timings.load() == []


def test_its_input_must_be_a_pipe_to_end_with(package):
    code, events = calibrate("--model", str(package), "--end-with-stdin", stdin=subprocess.DEVNULL)
    assert code == 2 and "no pipe" in events[-1]["message"]


def test_ends_with_its_input(package):
    code, _ = calibrate("--model", str(package), "--end-with-stdin", input="")
    assert code == 130 and timings.load() == []


def test_a_model_that_makes_its_segmentation_itself(tmp_path):
    code, events = calibrate("--model", str(make_joint_package(tmp_path / "tiny-joint").folder), "--device", "cpu")
    assert code == 0 and events[-1]["seconds_per_evaluation"] > 0
