"""How long runs took, what is made of it, and the remaining time of a run."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import platformdirs
import psutil
import pytest
from tiny_package import Painter, make_working_package

from SynthDiffusionLib.jobs import GenerateRequest, events, run, runner, timings
from SynthDiffusionLib.jobs.events import Progress
from SynthDiffusionLib.jobs.timings import Estimate, Timing, estimate, record

RUN = Timing("tiny-ct", "1.2.0", "a card", "bf16", 4, (10, 20, 30), 40, denoise_s=12.0, setup_s=3.0, other_s=1.0)
ASKED = ("tiny-ct", "1.2.0", "a card", "bf16")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Path:
    """An empty state folder (that is not there yet); the path of the store in it."""
    monkeypatch.setenv("SYNTHDIFFUSION_STATE", str(tmp_path / "state, ü" / "deeper"))
    return tmp_path / "state, ü" / "deeper" / "timings.json"


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A clock for `Progress` that the test sets."""
    now = [100.0]
    monkeypatch.setattr(events.time, "monotonic", lambda: now[0])
    return now


def test_nothing_is_known_at_first(store):
    assert estimate(*ASKED, 6000, 40) is None and not store.exists()


def test_the_same_run_takes_the_same_time():
    record(RUN)
    assert estimate(*ASKED, 6000, 40) == Estimate(pytest.approx(16.0), "past runs", 1)


def test_time_grows_with_voxels_evaluations_and_samples():
    record(RUN)
    assert estimate(*ASKED, 12000, 40).seconds == pytest.approx(3 + 24 + 1)
    assert estimate(*ASKED, 6000, 10).seconds == pytest.approx(3 + 3 + 1)
    assert estimate(*ASKED, 6000, 120, samples=3).seconds == pytest.approx(3 + 36 + 3)
    record(replace(RUN, samples=4, other_s=4.0))
    assert estimate(*ASKED, 6000, 40).seconds == pytest.approx(16.0), "the time around is that of one sample"


@pytest.mark.parametrize("field", ["model", "version", "device", "precision"])
def test_another_model_device_or_precision_says_nothing(field):
    record(replace(RUN, **{field: "another"}))
    assert estimate(*ASKED, 6000, 40) is None


def test_median_of_the_newest_ten():
    for seconds in [1000.0] * 30 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 500.0]:
        record(replace(RUN, denoise_s=seconds))
    assert estimate(*ASKED, 6000, 40) == Estimate(pytest.approx(3 + 5.5 + 1), "past runs", 10)


def test_a_run_goes_before_a_calibration_even_an_older_one():
    calibration = replace(RUN, source="calibration", denoise_s=99.0, evaluations=2)
    record(calibration)
    assert estimate(*ASKED, 6000, 2) == Estimate(pytest.approx(3 + 99 + 1), "calibration", 1)
    record(RUN)
    record(calibration)
    assert estimate(*ASKED, 6000, 40) == Estimate(pytest.approx(16.0), "past runs", 1)


def test_the_newest_two_hundred_are_kept(store):
    store.parent.mkdir(parents=True)
    many = [timings.asdict(replace(RUN, threads=n + 1, date="2026-01-01")) for n in range(200)]
    store.write_text(json.dumps({"format": timings.FORMAT, "records": many}), encoding="utf-8")
    record(replace(RUN, threads=1000))
    kept = timings.load()
    assert [t.threads for t in kept] == [*range(2, 201), 1000]
    assert kept[-1].date.startswith("20") and kept[-1].date.endswith("+00:00")
    assert replace(kept[-1], date="") == replace(RUN, threads=1000) and list(store.parent.iterdir()) == [store]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"format": "synthdiffusion-timings-9", "records": [1]}',
        b'{"format": "synthdiffusion-timings-1"}',
        b'{"format": "synthdiffusion-timings-1", "records": {"a": 1}}',
        b'{"format": "synthdiffusion-timings-1", "records": [null, 3, "x", [], {"model": "tiny-ct"}]}',
        b"[" * 100_000,
        b" " * (timings.LARGEST_BYTES + 1),
    ],
    ids=["empty", "half", "not text", "list", "null", "newer", "bare", "no list", "no records", "deep", "huge"],
)
def test_a_damaged_file_is_replaced(store, content):
    store.parent.mkdir(parents=True)
    store.write_bytes(content)
    assert estimate(*ASKED, 6000, 40) is None
    record(RUN)
    assert estimate(*ASKED, 6000, 40).runs == 1
    assert len(json.loads(store.read_text(encoding="utf-8"))["records"]) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"evaluations": 0},
        {"grid": [0, 20, 30]},
        {"grid": [10, 20]},
        {"grid": "abc"},
        {"threads": 10**400},
        {"denoise_s": -1.0},
        {"denoise_s": float("nan")},
        {"setup_s": "3"},
        {"samples": True},
        {"source": "guess"},
        {"source": []},
        {"model": 3},
        {"colour": "red"},
    ],
)
def test_one_damaged_record_is_passed_over(store, change):
    record(RUN)
    content = json.loads(store.read_text(encoding="utf-8"))
    content["records"].insert(0, content["records"][0] | change)
    store.write_text(json.dumps(content), encoding="utf-8")
    assert estimate(*ASKED, 6000, 40) == Estimate(pytest.approx(16.0), "past runs", 1)


def test_a_store_that_cannot_be_written_is_a_line_in_the_log(store, caplog):
    store.parent.parent.mkdir(parents=True)
    store.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        record(RUN)
    assert "was not kept" in caplog.text and estimate(*ASKED, 6000, 40) is None


def test_where_the_store_lies(store, monkeypatch):
    assert timings.state_folder() == store.parent
    monkeypatch.delenv("SYNTHDIFFUSION_STATE")
    assert str(timings.state_folder()).startswith(str(Path(platformdirs.user_state_dir()).parent))
    assert "SynthDiffusion" in timings.state_folder().parts


def test_name_of_the_processor():
    name, _, count = timings.cpu_name().rpartition(", ")
    assert name and count == f"{psutil.cpu_count(logical=True)} processors"
    assert timings.device_name("cpu") == timings.cpu_name()


def test_what_a_run_leaves(tmp_path, monkeypatch):
    package = make_working_package(tmp_path / "tiny-ct").folder
    monkeypatch.setattr(runner, "load_backend", lambda package: Painter())
    array = np.full((12, 11, 10), 2, np.uint8)
    array[4:8, 4:8, 4:8] = 4
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "seg.nii.gz")
    told: list[dict] = []
    request = GenerateRequest(
        tmp_path / "seg.nii.gz", str(package), tmp_path, seed=1, samples=3, steps=7, guidance=2.0, precision="fp32"
    )
    run(request, told.append, began=timings_began())
    timing = told[-1]["timing"]
    assert timing["evaluations"] == 3 * 7 * 2 and timing["voxels"] == 12 * 11 * 10
    assert timing["device"] == "cpu" and timing["precision"] == "fp32" and timing["setup_s"] >= 50.0
    parts = timing["setup_s"] + timing["denoise_s"] + timing["other_s"]
    assert parts == pytest.approx(told[-1]["seconds"], abs=0.02)
    (kept,) = timings.load()
    assert (kept.model, kept.version, kept.device) == ("tiny-ct", "1.2.0", timings.cpu_name())
    assert (kept.source, kept.grid, kept.samples) == ("run", (12, 11, 10), 3)
    assert kept.denoise_s == timing["denoise_s"] and kept.other_s == timing["other_s"]


def timings_began() -> float:
    """As if the process had been started 50 seconds ago."""
    return runner.time.monotonic() - 50.0


# The remaining time of a run.


def drive(progress: Progress, clock: list[float], durations: list[float]) -> None:
    """One sample whose steps take so long."""
    with progress.sample():
        for seconds in durations:
            clock[0] += seconds
            progress.step()


def test_remaining_time_of_even_steps(clock):
    told: list[dict] = []
    drive(Progress(told.append, 4, [1.0]), clock, [2.0] * 4)
    assert [e["eta_s"] for e in told] == [6.0, 4.0, 2.0, 0.0]
    assert [(e["step"], e["total"], e["sample"], e["samples"]) for e in told] == [(n, 4, 1, 1) for n in (1, 2, 3, 4)]


def test_a_slow_first_step_is_left_out(clock):
    told: list[dict] = []
    progress = Progress(told.append, 4, [1.0])
    drive(progress, clock, [30.0, 2.0, 2.0, 2.0])
    assert [e["eta_s"] for e in told] == [90.0, 4.0, 2.0, 0.0]
    assert progress.warm_up_s == pytest.approx(28.0) and progress.denoise_s == pytest.approx(36.0)


def test_remaining_time_goes_by_the_size_of_the_regions(clock):
    """Two regions, the second three times as large, whose steps take three times as long."""
    told: list[dict] = []
    drive(Progress(told.append, 2, [1.0, 3.0]), clock, [1.0, 1.0, 3.0, 3.0])
    assert [e["eta_s"] for e in told] == [7.0, 6.0, 3.0, 0.0]


def test_what_comes_between_samples_counts_for_those_to_come(clock):
    told: list[dict] = []
    progress = Progress(told.append, 2, [1.0], samples=3)
    for _ in range(3):
        drive(progress, clock, [1.0, 1.0])
        clock[0] += 10.0  # writing
    steps = [e for e in told if e["stage"] == "denoise"]
    assert [e["eta_s"] for e in steps] == [5.0, 4.0, 3.0 + 20, 2.0 + 20, 1.0 + 10, 10.0]
    assert [e["sample"] for e in steps] == [1, 1, 2, 2, 3, 3] and {e["total"] for e in steps} == {6}
    assert progress.denoise_s == pytest.approx(6.0)
