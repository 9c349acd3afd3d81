"""Folders for temporary files: made, removed, and what crashed sessions have left."""

from __future__ import annotations

import os
import time

import pytest

DAY = 24 * 3600


@pytest.fixture
def folders(standin, tmp_path):
    from SynthDiffusionJobs.JobFolders import JobFolders

    made = JobFolders(tmp_path)
    yield made
    made.removeAll()


def make_session(parent, name: str, folder_age: float, file_age: float):
    """What a session has left: a folder, and in a folder of a job a file; the ages are in seconds."""
    folder = parent / name
    job = folder / "run-1"
    job.mkdir(parents=True)
    file = job / "volume.nrrd"
    file.write_bytes(b"a patient's")
    now = time.time()
    for path, age in ((file, file_age), (job, folder_age), (folder, folder_age)):
        os.utime(path, (now - age, now - age))
    return folder


def test_only_what_nobody_has_touched_for_a_day_is_removed(folders, tmp_path):
    own = folders.new("run").parent
    os.utime(own, (0, 0))
    os.utime(next(own.iterdir()), (0, 0))
    abandoned = make_session(tmp_path, "SynthDiffusion-old", 1.1 * DAY, 1.1 * DAY)
    recent = make_session(tmp_path, "SynthDiffusion-recent", 0.9 * DAY, 0.9 * DAY)
    working = make_session(tmp_path, "SynthDiffusion-working", 3 * DAY, 60)  # a long run writes into its file only
    others = make_session(tmp_path, "SynthDiffusionOther", 3 * DAY, 3 * DAY)
    file = tmp_path / "SynthDiffusion-notes.txt"
    file.write_text("mine")
    os.utime(file, (0, 0))
    folders.removeAbandoned()
    assert not abandoned.exists()
    assert [path.exists() for path in (own, recent, working, others, file)] == [True] * 5
    assert (working / "run-1" / "volume.nrrd").read_bytes() == b"a patient's"
    folders.removeAll()
    assert not own.exists() and recent.exists()


def test_a_session_begins_with_cleaning_up(standin, tmp_path, monkeypatch):
    from panel_harness import ROOT, resource_path

    from SynthDiffusionJobs.Session import Session

    abandoned = make_session(tmp_path, "SynthDiffusion-old", 2 * DAY, 2 * DAY)
    monkeypatch.setattr(type(standin.app), "temporaryPath", property(lambda self: str(tmp_path)))
    session = Session(standin.scene, ROOT, resource_path)
    monkeypatch.setattr(session.engine, "refresh", lambda: None)
    session.begin()
    assert not abandoned.exists()
    session.shutdown()
