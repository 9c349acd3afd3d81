"""The lock of a batch's driver: of those that live it keeps others away, of those that have gone it does not."""

from __future__ import annotations

import json
import os
import time

import pytest

from SynthDiffusionLib.batch import lease
from SynthDiffusionLib.batch.lease import lock_name, only_driver, others_at_work
from SynthDiffusionLib.errors import BadInput


def foreign(folder, age_s: float):
    """A lock of another computer that was touched so long ago."""
    path = folder / lock_name("")
    path.write_text(json.dumps({"pid": 1, "host": "another", "utc": "2026-01-01T00:00:00Z", "token": "t"}))
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def test_another_computer_at_work_is_respected(tmp_path):
    path = foreign(tmp_path, lease.LOST_AFTER_S - 60)
    with pytest.raises(BadInput, match="another"), only_driver(tmp_path, ""):
        pass
    assert path.exists()


def test_the_lock_of_a_computer_that_has_gone_is_dropped(tmp_path):
    foreign(tmp_path, lease.LOST_AFTER_S + 60)
    with only_driver(tmp_path, "") as out:
        assert json.loads((out / lock_name("")).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_driver_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "TOUCHED_EVERY_S", 0.02)
    with only_driver(tmp_path, "") as out:
        path = out / lock_name("")
        os.utime(path, (1, 1))
        end = time.monotonic() + 20
        while path.stat().st_mtime < 10 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 10


def test_parts_work_side_by_side_and_one_part_once(tmp_path):
    with only_driver(tmp_path, "-1-of-2") as out:
        assert not others_at_work(out, "-1-of-2")
        with only_driver(tmp_path, "-2-of-2"):
            assert others_at_work(out, "-1-of-2")
        with pytest.raises(BadInput, match="is at work"), only_driver(tmp_path, "-1-of-2"):
            pass
