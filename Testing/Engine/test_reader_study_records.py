"""Record files: the chain, torn tails, full disks, locks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from reader_study_examples import FakeClock

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.reader_study import locks
from SynthDiffusionLib.reader_study.chain import Head, head_bytes, read_chain, read_head
from SynthDiffusionLib.reader_study.locks import FileLock, Locked, host_name, process_runs
from SynthDiffusionLib.reader_study.records import RecordFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "R1.jsonl"


def written(path: Path, count: int = 5) -> bytes:
    with RecordFile.open(path, clock=FakeClock()) as file:
        for i in range(count):
            file.append("note", i=i, text="ü\u2028 and a line\nbreak")
    return path.read_bytes()


def dead_process() -> int:
    """Number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return child.pid


def test_the_chain_can_be_checked_with_hashlib_and_json_alone(path):
    """What a stranger needs to verify a record: SHA-256, JSON with sorted keys, nothing of ours."""
    lines = written(path).split(b"\n")
    assert lines.pop() == b""
    previous = "0" * 64
    for n, line in enumerate(lines):
        record = json.loads(line)
        claimed = record.pop("hash")
        again = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert (record["n"], record["previous"]) == (n, previous)
        assert hashlib.sha256(again).hexdigest() == claimed
        previous = hashlib.sha256(line).hexdigest()
    head = json.loads(path.with_suffix(".head").read_bytes())
    assert (head["count"], head["hash"]) == (5, claimed)
    assert not path.with_suffix(".lock").exists()


def test_every_byte_counts(path):
    """Each single changed byte, and each blank put in, is found by the chain or the head."""
    raw = written(path, 3)
    head = read_head(path.with_suffix(".head"))
    for i in range(len(raw)):
        for edited in (raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :], raw[:i] + b" " + raw[i:]):
            chain = read_chain(edited)
            assert chain.faults or chain.head != head, (i, edited)


def test_the_line_is_on_the_disk_before_the_head_and_the_head_before_the_return(path, monkeypatch):
    calls: list[str] = []

    def note(name: str, what):
        real = getattr(os, what)
        monkeypatch.setattr(os, what, lambda *args: (calls.append(name), real(*args))[1])

    with RecordFile.open(path, clock=FakeClock()) as file:
        file.append("note", i=0)
        note("write", "write"), note("sync", "fsync"), note("exchange", "replace")
        file.append("note", i=1)
        assert calls[:5] == ["write", "sync", "write", "sync", "exchange"]


def test_it_goes_on_where_it_stopped(path):
    written(path)
    with RecordFile.open(path, clock=FakeClock()) as file:
        assert file.count == 5 and file.messages == []
        assert file.append("note", i=5)["n"] == 5
    assert read_chain(path.read_bytes()).faults == []


def test_a_cut_at_every_byte_of_the_last_line_recovers(path, monkeypatch):
    """A power cut in the middle of a write, simulated at each byte; the head is still that of the line before."""
    raw = written(path)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of files: what is read back is the same
    start = raw.rstrip(b"\n").rfind(b"\n") + 1
    before = read_chain(raw[:start])
    for cut in range(start, len(raw)):
        folder = path.parent / str(cut)
        folder.mkdir()
        copy = folder / "R1.jsonl"
        copy.write_bytes(raw[:cut])
        copy.with_suffix(".head").write_bytes(head_bytes(before.head))
        with RecordFile.open(copy, clock=FakeClock()) as file:
            kept = sorted(folder.glob("R1.torn-*"))
            if cut == start:
                assert file.count == 4 and not kept and not file.messages
            elif cut == len(raw) - 1:  # only the newline was missing
                assert file.count == 6 and not kept and file.records[4] == json.loads(raw[start:])
                assert file.records[5]["type"] == "recovered"
            else:
                assert [p.read_bytes() for p in kept] == [raw[start:cut]]
                assert kept[0].name == "R1.torn-4" and len(file.messages) == 1
                note = file.records[4]
                assert (note["type"], note["torn_bytes"], note["kept_as"]) == ("recovered", cut - start, "R1.torn-4")
                assert note["torn_sha256"] == hashlib.sha256(raw[start:cut]).hexdigest()
            assert file.records[:4] == before.records
            assert file.append("note")["n"] == file.count - 1
        assert read_chain(copy.read_bytes()).faults == []
        assert read_head(copy.with_suffix(".head")) == read_chain(copy.read_bytes()).head


def test_zeros_at_the_end_are_a_torn_tail(path):
    """Some file systems lengthen a file first and fill it later."""
    raw = written(path)
    path.write_bytes(raw + bytes(300))
    with RecordFile.open(path) as file:
        assert file.records[5]["torn_bytes"] == 300
        assert file.records[5]["torn_hex"] == "00" * 256


def test_a_kill_between_cutting_the_tail_off_and_noting_it_is_noted_later(path):
    written(path)
    (path.parent / "R1.torn-5").write_bytes(b'{"active')
    with RecordFile.open(path) as file:
        assert (file.records[5]["type"], file.records[5]["torn_bytes"]) == ("recovered", 8)
    with RecordFile.open(path) as file:
        assert file.count == 6


def test_a_head_that_is_one_behind_is_normal(path):
    raw = written(path)
    path.with_suffix(".head").write_bytes(head_bytes(Head(4, json.loads(raw.split(b"\n")[3])["hash"])))
    with RecordFile.open(path) as file:
        assert file.count == 5 and file.messages == []
    assert read_head(path.with_suffix(".head")) == read_chain(raw).head


def test_a_missing_head_is_told_of_and_stays_in_the_record(path):
    written(path)
    path.with_suffix(".head").unlink()
    with RecordFile.open(path) as file:
        assert (file.records[5]["type"], file.records[5]["head"]) == ("integrity", "missing")
        assert "missing" in file.messages[0]


def cut_a_record_off(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def cut_all_off(_: list[bytes]) -> list[bytes]:
    return []


def edit_a_record(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"i":1', b'"i":7'), *lines[2:]]


def rewrite_the_last(lines: list[bytes]) -> list[bytes]:
    record = json.loads(lines[-1]) | {"i": 9}
    record["hash"] = hashlib.sha256(
        json.dumps(
            {k: v for k, v in record.items() if k != "hash"},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        ).encode()
    ).hexdigest()
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return [*lines[:-1], text.encode()]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (cut_a_record_off, "cut off: it has 4 records, its head file knows of 5"),
        (cut_all_off, "cut off: it has 0 records"),
        (edit_a_record, "line 2"),
        (rewrite_the_last, "Record 5"),
    ],
)
def test_a_changed_file_is_refused_and_left_as_it_is(path, edit, said):
    raw = b"".join(line + b"\n" for line in edit(written(path).split(b"\n")[:-1]))
    path.write_bytes(raw)
    with pytest.raises(BadInput, match=said) as caught:
        RecordFile.open(path)
    assert "study verify" in caught.value.hint
    assert path.read_bytes() == raw
    assert not path.with_suffix(".lock").exists()


def test_another_program_that_writes_into_the_open_file_is_noticed(path):
    with RecordFile.open(path) as file:
        file.append("note", i=0)
        raw = path.read_bytes()
        path.write_bytes(raw + b'{"by":"someone"}\n')
        with pytest.raises(BadInput, match="Another program changed"):
            file.append("note", i=1)
        assert file.count == 1
        path.write_bytes(raw)
        file.append("note", i=1)
    assert read_chain(path.read_bytes()).faults == []


def test_a_deleted_file_is_not_begun_anew(path):
    with RecordFile.open(path) as file:
        file.append("note", i=0)
        path.unlink()
        with pytest.raises(BadInput, match="gone"):
            file.append("note", i=1)
        assert file.count == 1


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800"])
def test_what_json_does_not_have_is_refused(path, value):
    with RecordFile.open(path) as file:
        with pytest.raises(BadInput, match="cannot be stored"):
            file.append("note", value=value)
        file.append("note", value=1)
        assert file.count == 1


class FullDisk:
    """Lets `budget` bytes be written, then has no space left; fsync and replace can be made to fail too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, budget: int = 10**9, fail: str = "") -> None:
        self.budget, self.fail = budget, fail
        self._write, self._fsync, self._replace = os.write, os.fsync, os.replace
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "replace", self.replace)

    def write(self, file, data):
        if self.budget <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = bytes(data)[: self.budget]
        self.budget -= len(part)
        return self._write(file, part)

    def fsync(self, file):
        if self.fail == "fsync":
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._fsync(file)

    def replace(self, *args):
        if self.fail == "replace":
            raise OSError(errno.EIO, "Input/output error")
        return self._replace(*args)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.7, 0.8, 0.9, 0.99])
def test_a_full_disk_at_any_moment_loses_nothing_and_can_be_tried_again(path, share):
    """The disk fills up within the line, which is two thirds of what is written, or within the head."""
    with RecordFile.open(path, clock=FakeClock()) as file:
        for i in range(3):
            size = path.stat().st_size if i else 0
            file.append("note", i=i, text="x" * 30)
        needed = path.stat().st_size - size + path.with_suffix(".head").stat().st_size
        before = (path.read_bytes(), path.with_suffix(".head").read_bytes())
        with pytest.MonkeyPatch.context() as patch:
            disk = FullDisk(patch, int(share * needed))
            with pytest.raises(RunFailed, match="no space left"):
                file.append("note", i=3, text="x" * 30)
            assert (path.read_bytes(), path.with_suffix(".head").read_bytes()) == before
            assert file.count == 3
            disk.budget = 10**9
            file.append("note", i=3, text="x" * 30)
    chain = read_chain(path.read_bytes())
    assert not chain.faults and [r["i"] for r in chain.records] == [0, 1, 2, 3]
    assert read_head(path.with_suffix(".head")) == chain.head
    assert not list(path.parent.glob(".part-*"))


@pytest.mark.parametrize("fail", ["fsync", "replace"])
def test_a_failing_disk_loses_nothing(path, fail):
    with RecordFile.open(path, clock=FakeClock()) as file:
        file.append("note", i=0)
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, fail=fail)
            with pytest.raises(RunFailed):
                file.append("note", i=1)
        file.append("note", i=1)
    chain = read_chain(path.read_bytes())
    assert not chain.faults and [r["i"] for r in chain.records] == [0, 1] and not chain.tail


def test_a_partial_line_that_could_not_be_cut_off_is_recovered_on_opening(path):
    """The disk fails so badly that not even the cut works, and then the program ends."""
    with RecordFile.open(path, clock=FakeClock()) as file:
        file.append("note", i=0)
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, 20)

            def no_cut(*_):
                raise OSError(errno.EIO, "Input/output error")

            patch.setattr(os, "ftruncate", no_cut)
            with pytest.raises(RunFailed):
                file.append("note", i=1)
            assert read_chain(path.read_bytes()).tail
    with RecordFile.open(path, clock=FakeClock()) as file:
        assert [r["type"] for r in file.records] == ["note", "recovered"]
        assert file.records[1]["torn_bytes"] == 20


@pytest.mark.skipif(os.name == "nt", reason="Windows has no read-only folders of this kind")
def test_a_read_only_folder_is_told_of(path, monkeypatch):
    path.parent.chmod(0o555)
    if os.access(path.parent, os.W_OK):  # an administrator may write anywhere: let the system's answer come from here
        real = os.open

        def refuse(name, flags, *args, **kwargs):
            if flags & (os.O_WRONLY | os.O_RDWR):
                raise PermissionError(errno.EACCES, "Permission denied", str(name))
            return real(name, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", refuse)
    try:
        with pytest.raises(BadInput, match="no permission to write"):
            RecordFile.open(path)
    finally:
        path.parent.chmod(0o755)
    assert list(path.parent.iterdir()) == []


# Locks


def test_the_second_one_is_refused_with_who_has_it(path):
    with RecordFile.open(path) as file:
        file.append("note")
        with pytest.raises(Locked) as caught:
            RecordFile.open(path)
        assert f"process {os.getpid()}" in caught.value.message and "Close the other" in caught.value.hint
        file.append("note")
    RecordFile.open(path).close()


def lock_of(path: Path, **content) -> Path:
    lock = path.with_suffix(".lock")
    lock.write_text(json.dumps({"host": host_name(), "utc": "2026-03-01T08:00:00.000Z", "token": "t"} | content))
    return lock


def test_the_lock_of_a_dead_process_is_taken_over_with_a_note(path):
    lock_of(path, pid=dead_process())
    with RecordFile.open(path) as file:
        assert "ended without a log-out" in file.messages[0]
        file.append("note")
    assert [p.name for p in path.parent.iterdir() if ".lock" in p.name] == []


def test_the_lock_of_an_earlier_process_with_our_number_is_stale(path):
    lock_of(path, pid=os.getpid())
    with RecordFile.open(path) as file:
        assert "ended without a log-out" in file.messages[0]


def test_the_lock_of_an_earlier_process_with_a_living_number_is_stale(path):
    """Process numbers come round again; the time of the start tells them apart."""
    pytest.importorskip("psutil")
    lock_of(path, pid=os.getppid(), started=1.0)
    with RecordFile.open(path) as file:
        assert file.messages


def test_an_empty_lock_is_stale(path, monkeypatch):
    monkeypatch.setattr(locks, "_EMPTY_WAIT_S", 0.1)
    path.with_suffix(".lock").write_bytes(b"")
    with RecordFile.open(path) as file:
        assert "empty" in file.messages[0]


def test_the_lock_of_another_computer_needs_a_decision(path):
    lock_of(path, pid=1, host="reading-room-2")
    with pytest.raises(Locked, match=r"reading-room-2.*since 2026-03-01") as caught:
        RecordFile.open(path)
    assert caught.value.other_computer and "take the reading over" in caught.value.hint
    with RecordFile.open(path, take_over=True) as file:
        assert "taken over on request" in file.messages[0]


def test_whoever_was_taken_over_from_can_write_no_more(path):
    first = RecordFile.open(path)
    first.append("note", by=1)
    second = RecordFile.open(path, take_over=True)
    second.append("note", by=2)
    with pytest.raises(Locked, match="took it over"):
        first.append("note", by=1)
    first.close()
    second.append("note", by=2)
    second.close()
    chain = read_chain(path.read_bytes())
    assert [r["by"] for r in chain.records] == [1, 2, 2] and not chain.faults


def test_a_lock_that_somebody_tidied_away_is_made_again(path):
    with RecordFile.open(path) as file:
        path.with_suffix(".lock").unlink()
        file.append("note")
        with pytest.raises(Locked):
            RecordFile.open(path)


def test_of_many_that_want_a_stale_lock_one_gets_it(path):
    """Six processes at once, several times."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from SynthDiffusionLib.reader_study.locks import FileLock, Locked\n"
        "while not Path(sys.argv[2]).exists(): time.sleep(0.001)\n"
        "try:\n"
        "    FileLock.acquire(Path(sys.argv[1]), utc='now'); print('got it', flush=True); time.sleep(1.5)\n"
        "except Locked: print('refused', flush=True)\n"
    )
    for attempt in range(2):
        lock, go = lock_of(path, pid=dead_process()), path.parent / f"go{attempt}"
        children = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(lock), str(go)],
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            for _ in range(6)
        ]
        try:
            # All are waiting once they have started; the slowest need not have.
            go.touch()
            said = [child.communicate(timeout=60)[0].strip() for child in children]
        finally:
            for child in children:
                child.kill()
        assert sorted(said) == ["got it"] + ["refused"] * 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"pid": -1}, "'pid' is no number of a process (-1)"),
        ({"pid": "x"}, "'pid' is no number"),
        ({"pid": 10**30}, "'pid' is no number"),
        ({"pid": os.getppid(), "started": "x"}, "'started' is no time (x)"),
        ({"pid": os.getpid(), "token": ["a"]}, "'token' is no text (['a'])"),
        ({"pid": os.getpid(), "host": "\u202e", "utc": 5}, "'utc' is no text"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "no JSON object"),
    ],
)
def test_a_damaged_lock_is_named_with_how_to_remove_it(path, content, said):
    lock = lock_of(path, **content) if isinstance(content, dict) else path.with_suffix(".lock")
    if isinstance(content, str):
        lock.write_text(content)
    with pytest.raises(Locked) as caught:
        RecordFile.open(path)
    assert said in caught.value.message and "R1.lock" in caught.value.message
    assert "delete this file" in caught.value.hint and caught.value.exit_code == 2
    with RecordFile.open(path, take_over=True) as file:
        assert "damaged lock" in file.messages[0]
        file.append("note")
    assert not lock.exists()


def test_processes_are_told_alive_and_dead():
    assert process_runs(os.getpid())
    assert not process_runs(dead_process())


@pytest.mark.skipif(os.name == "nt", reason="POSIX part")
def test_processes_are_told_alive_and_dead_without_psutil(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert process_runs(os.getpid())
    assert not process_runs(dead_process())


def test_a_released_lock_of_somebody_else_stays(path):
    lock = FileLock.acquire(path.with_suffix(".lock"), utc="now")
    other = lock_of(path, pid=1, host="elsewhere")
    lock.release()
    assert other.exists()
