"""Sittings that are disturbed: files edited or exchanged, a full disk, a read-only folder, two readers at once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from reader_study_examples import VIEW, FakeClock, answer, make_reading_folder, of_type

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.reader_study.locks import Locked
from SynthDiffusionLib.reader_study.reading import Reading
from SynthDiffusionLib.reader_study.verify import verify_study


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# Who may read what


def test_an_unknown_reader_is_told_who_is_known(tmp_path):
    make_reading_folder(tmp_path, readers=("R1", "R2"))
    with pytest.raises(BadInput, match="'R7' is no reader") as caught:
        Reading.open(tmp_path, "R7")
    assert "R1, R2" in caught.value.one_line()


def test_a_study_that_was_edited_after_reading_began_is_refused(tmp_path, clock):
    folder = make_reading_folder(tmp_path)
    with Reading.open(folder, "R1", clock=clock) as reading:
        answer(reading)
    before = (folder / "records" / "R1.jsonl").read_bytes()
    text = (folder / "study.json").read_text(encoding="utf-8")
    (folder / "study.json").write_text(text.replace("A small study", "A better study"), encoding="utf-8")
    with pytest.raises(BadInput, match="changed after reading began"):
        Reading.open(folder, "R1", clock=clock)
    (folder / "frozen.json").unlink()  # and whoever takes that away too
    with pytest.raises(BadInput, match="another study"):
        Reading.open(folder, "R1", clock=clock)
    assert (folder / "records" / "R1.jsonl").read_bytes() == before


def test_an_order_that_was_edited_after_reading_began_is_refused(tmp_path, clock):
    folder = make_reading_folder(tmp_path)
    with Reading.open(folder, "R1", clock=clock) as reading:
        answer(reading)
    path = folder / "orders" / "R1.json"
    order = json.loads(path.read_text(encoding="utf-8"))
    a, b = order["presentations"][2:4]
    order["presentations"][2:4] = [b | {"position": 2}, a | {"position": 3}]
    path.write_text(json.dumps(order), encoding="utf-8")
    with pytest.raises(BadInput, match="order was changed"):
        Reading.open(folder, "R1", clock=clock)
    assert not (folder / "records" / "R1.lock").exists()


def test_a_record_of_another_reader_under_this_name_is_refused(tmp_path, clock):
    folder = make_reading_folder(tmp_path, readers=("R1", "R2"))
    with Reading.open(folder, "R1", clock=clock) as reading:
        answer(reading)
    for suffix in (".jsonl", ".head"):
        (folder / "records" / f"R2{suffix}").write_bytes((folder / "records" / f"R1{suffix}").read_bytes())
    with pytest.raises(BadInput, match="does not fit this study"):
        Reading.open(folder, "R2", clock=clock)


def test_a_volume_that_was_exchanged_is_refused(tmp_path, clock):
    make_reading_folder(tmp_path)
    with Reading.open(tmp_path, "R1", clock=clock) as reading:
        path = reading.volume_paths[0]
        answer(reading)
        path = reading.study.volume_path(reading.current.volumes[0])
        path.write_bytes(b"another")
        with pytest.raises(BadInput, match="not the file that the study was made with"):
            _ = reading.volume_paths
        path.unlink()
        with pytest.raises(BadInput, match="cannot be read"):
            _ = reading.volume_paths


def test_a_missing_head_file_does_not_stop_a_reader(tmp_path, clock):
    folder = make_reading_folder(tmp_path)
    with Reading.open(folder, "R1", clock=clock) as reading:
        answer(reading)
    (folder / "records" / "R1.head").unlink()
    for _ in range(2):
        with Reading.open(folder, "R1", clock=clock) as reading:
            answer(reading)
    assert reading.progress[0] == 3
    found = verify_study(tmp_path).readers["R1"]
    assert [f.kind for f in found.damage] == ["head_was_missing"]


# The disk


def test_a_full_disk_changes_nothing_and_the_answer_can_be_given_again(tmp_path, clock):
    folder = make_reading_folder(tmp_path)
    with Reading.open(folder, "R1", clock=clock) as reading:
        answer(reading)
        reading.show(VIEW)
        before = (folder / "records" / "R1.jsonl").read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            real = os.write

            def half(file, data):
                patch.setattr(os, "write", full)
                return real(file, bytes(data)[:100])

            def full(*_):
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os, "write", half)
            with pytest.raises(RunFailed, match="no space left") as caught:
                reading.commit({"score": 2, "why": "noise"}, VIEW)
            assert "everything stored before is safe" in caught.value.one_line()
        assert (folder / "records" / "R1.jsonl").read_bytes() == before
        assert reading.progress[0] == 1 and reading.current.position == 1
        reading.commit({"score": 2, "why": "noise"}, VIEW)
        assert reading.progress[0] == 2
    assert verify_study(tmp_path).ok


def test_feedback_that_could_not_be_noted_does_not_take_the_answer_back(tmp_path, clock, monkeypatch):
    make_reading_folder(tmp_path, training=1)
    reading = Reading.open(tmp_path, "R1", clock=clock)
    reading.show(VIEW)
    append = reading._file.append

    def fail_on_feedback(kind, **fields):
        if kind == "feedback_shown":
            raise RunFailed("Nothing was stored: no space left")
        return append(kind, **fields)

    monkeypatch.setattr(reading._file, "append", fail_on_feedback)
    assert reading.commit({"score": 2}, VIEW) == "This volume is real."
    assert reading.progress[0] == 1 and "no space" in reading.messages[-1]
    reading.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no read-only folders of this kind")
def test_a_read_only_study_is_told_of_before_reading(tmp_path, monkeypatch):
    folder = make_reading_folder(tmp_path)
    real = os.open

    def refuse(name, flags, *args, **kwargs):  # chmod does not stop an administrator, as whom tests may run
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system", str(name))
        return real(name, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BadInput, match="no permission to write"):
        Reading.open(folder, "R1")
    assert not (folder / "frozen.json").exists() and list((folder / "records").iterdir()) == []


# Two at once

READ_SCRIPT = """
import sys
from reader_study_examples import read_all
from SynthDiffusionLib.errors import SynthDiffusionError
from SynthDiffusionLib.reader_study.reading import Reading
try:
    reading = Reading.open(sys.argv[1], sys.argv[2])
except SynthDiffusionError as error:
    print(type(error).__name__, error.one_line())
    raise SystemExit(error.exit_code)
print("opened", flush=True)
sys.stdin.readline()
print(read_all(reading))
reading.close()
"""


def start(folder: Path, reader: str) -> subprocess.Popen:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1])])
    return subprocess.Popen(
        [sys.executable, "-c", READ_SCRIPT, str(folder), reader],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def test_two_readers_read_at_the_same_time(tmp_path):
    folder = make_reading_folder(tmp_path, readers=("R1", "R2", "R3"), single=30)
    children = [start(folder, reader) for reader in ("R1", "R2")]
    try:
        assert [child.stdout.readline().strip() for child in children] == ["opened", "opened"]
        with pytest.raises(Locked) as caught:
            Reading.open(folder, "R1")
        assert f"process {children[0].pid}" in caught.value.message and not caught.value.other_computer
        second = start(folder, "R1")
        assert second.communicate(timeout=60)[0].startswith("Locked 'R1' is being read by process")
        assert second.returncode == 2
        outputs = [child.communicate("go\n", timeout=120)[0].strip() for child in children]
    finally:
        for child in children:
            child.kill()
    assert outputs == ["30", "30"]
    found = verify_study(tmp_path)
    assert found.ok and sorted(found.readers) == ["R1", "R2"] and found.not_begun == ["R3"]
    assert all(len(v.answers) == 30 for v in found.readers.values())
    units = [[a["unit"] for a in of_type(folder, "answer", r)] for r in ("R1", "R2")]
    assert sorted(units[0]) == sorted(units[1]) and units[0] != units[1]


def test_reading_needs_only_the_standard_library():
    """Slicer's Python has no jsonschema, scipy or pandas, and reading should not wait for numpy."""
    code = (
        "import sys\n"
        "import SynthDiffusionLib.reader_study.reading, SynthDiffusionLib.reader_study.verify\n"
        "heavy = {'numpy', 'scipy', 'pandas', 'statsmodels', 'jsonschema', 'nibabel', 'SimpleITK', 'torch', 'psutil'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert out.stdout.strip() == "[]"
