"""A study that somebody falsifies: what `verify` and `merge` say of readers, orders, receipts, logs that are gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import reader_study_examples as examples

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.analysis import departures
from SynthDiffusionLib.reader_study.build import add_reader
from SynthDiffusionLib.reader_study.history import earliest_date
from SynthDiffusionLib.reader_study.merge import merge
from SynthDiffusionLib.reader_study.reading import Reading
from SynthDiffusionLib.reader_study.sitting import WashoutNotOver
from SynthDiffusionLib.reader_study.study import Study
from SynthDiffusionLib.reader_study.verify import verify_study


@pytest.fixture
def root(tmp_path):
    """Two readers; R1 has read everything and handed in the receipt, R2 has read two cases."""
    folder = examples.make_reading_folder(tmp_path / "study", readers=("R1", "R2"), single=4)
    read(folder, "R1")
    read(folder, "R2", stop=2)
    held = folder.parent / "private" / "receipts"
    held.mkdir(exist_ok=True)
    for receipt in (folder / "records" / "receipts").glob("R1-*.json"):
        shutil.copy(receipt, held)
    return folder.parent


def read(folder: Path, reader: str, stop: int | None = None, clock=None, boot: str = "boot1") -> None:
    with Reading.open(folder, reader, clock=clock or examples.FakeClock(boot=boot)) as reading:
        done = 0
        while reading.current is not None and (stop is None or done < stop):
            reading.show({})
            reading.commit(examples.right_answers(reading.task.id), {})
            done += 1


def forget(root: Path, reader: str, *, order: bool = False, receipts: bool = True) -> None:
    records = root / "reading" / "records"
    for path in (records / f"{reader}.jsonl", records / f"{reader}.head"):
        path.unlink()
    if receipts:
        for path in (records / "receipts").glob(f"{reader}-*.json"):
            path.unlink()
    if order:
        (root / "reading" / "orders" / f"{reader}.json").unlink()


def messages(root: Path) -> str:
    found = verify_study(root)
    assert not found.ok
    return " ".join(f.message for f in found.findings)


def test_a_reader_of_whom_nothing_is_left_is_missed(root):
    forget(root, "R1", order=True)
    said = messages(root)
    assert "the order of 'R1' is gone" in said and "a receipt of 'R1', who is no reader of this study" in said
    with pytest.raises(BadInput, match="the order of 'R1' is gone"):
        merge(root)
    merged = merge(root, exclude=["R1"])
    assert "the order of 'R1' is gone" in merged.excluded["R1"]
    assert "2 readers were planned, 1 analysed" in departures(merged)[0]


def test_a_kill_while_a_reader_is_added(root, monkeypatch):
    from SynthDiffusionLib.reader_study import order_files

    with monkeypatch.context() as patch:
        patch.setattr(order_files, "write_bytes", lambda path, content: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            add_reader(root, "R3")
    assert "the order of 'R3' is gone" in messages(root)
    add_reader(root, "R3")
    assert verify_study(root).ok
    log = (root / "private" / "coordinator.jsonl").read_text(encoding="utf-8")
    assert log.count('"reader_added"') == 1


def test_nobody_reads_a_second_time_in_place_of_the_first(root):
    """The receipt beside the record speaks before the first case shows; none is ever overwritten."""
    folder = root / "reading"
    forget(root, "R1", receipts=False)
    with pytest.raises(BadInput, match="not the one that was read before"):
        Reading.open(folder, "R1", clock=examples.FakeClock())
    mine = list((folder / "records" / "receipts").glob("R1-*.json"))
    names = {path.name for path in mine}
    for path in mine:
        path.unlink()
    (folder / "records" / "R1.lock").unlink(missing_ok=True)
    read(folder, "R1", clock=examples.FakeClock("2026-05-01T08:00:00.000Z", boot="boot2"))
    assert names.isdisjoint(path.name for path in (folder / "records" / "receipts").glob("R1-*.json"))
    assert "the receipt of" in " ".join(f.message for f in verify_study(root).readers["R1"].damage)
    with pytest.raises(BadInput, match="R1"):
        merge(root)


@pytest.mark.parametrize("how", ["emptied", "no line", "another study's"])
def test_a_reader_is_not_dropped_because_the_record_is_damaged(root, tmp_path, how):
    path = root / "reading" / "records" / "R2.jsonl"
    if how == "emptied":
        path.write_bytes(b"")
    elif how == "no line":
        path.write_bytes(path.read_bytes().replace(b"\n", b" "))
    else:
        other = examples.make_reading_folder(tmp_path / "other", readers=("R2",), single=4, seed=9)
        read(other, "R2")
        path.write_bytes((other / "records" / "R2.jsonl").read_bytes())
    assert not verify_study(root).ok
    with pytest.raises(BadInput, match="R2"):
        merge(root)
    assert "R2" in merge(root, exclude=["R2"]).excluded


def test_answers_after_unblinding_are_told(root):
    then = examples.FakeClock("2026-03-03T08:00:00.000Z")
    assert not any("knew the truth" in p for p in merge(root, clock=then).problems)
    read(root / "reading", "R2", clock=examples.FakeClock("2026-03-05T08:00:00.000Z", boot="boot2"))
    said = [p for p in merge(root).problems if "somebody knew the truth" in p]
    assert len(said) == 1 and said[0].startswith("2 answers of R2 came after the answers of R1 and R2 were joined")
    found = verify_study(root)
    assert found.ok and any(f.kind == "unblinded" and f.severity == "note" for f in found.findings)
    merged = merge(root, exclude=["R2"])
    assert any("left out nobody" in p for p in merged.problems)


@pytest.mark.parametrize("how", ["deleted", "cut", "cut without head"])
def test_the_coordinators_log_cannot_be_shortened_without_a_word(root, how):
    merge(root)
    log, head = (root / "private" / f"coordinator.{end}" for end in ("jsonl", "head"))
    if how == "deleted":
        log.unlink()
        head.unlink()
    else:
        log.write_bytes(log.read_bytes().split(b"\n")[0] + b"\n")
        if how == "cut without head":
            head.unlink()
    assert not verify_study(root).ok
    with pytest.raises(BadInput, match="coordinator's log"):
        merge(root)


def test_a_merge_tells_the_end_of_the_log(root):
    log = merge(root).log
    last = json.loads((root / "private" / "coordinator.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (log["hash"], log["records"]) == (last["hash"], last["n"] + 1)


def test_the_washout_counts_from_the_last_look(tmp_path):
    folder = examples.make_reading_folder(tmp_path / "study", single=4, sessions=2, min_days=28, back="session")
    clock = examples.FakeClock()
    with Reading.open(folder, "R1", clock=clock) as reading:
        examples.read_all(reading)
    clock = examples.FakeClock("2026-04-10T08:00:00.000Z", boot="boot2")  # the washout is over
    with Reading.open(folder, "R1", session="s1", clock=clock) as reading:
        reading.back()
        reading.show({})
    with pytest.raises(WashoutNotOver) as refused:
        Reading.open(folder, "R1", clock=clock)
    assert refused.value.earliest.isoformat() == "2026-05-08"


def test_one_bad_record_does_not_hide_the_others(root):
    path = root / "reading" / "records" / "R2.jsonl"
    path.unlink()
    path.mkdir()
    found = verify_study(root)
    assert not found.ok and found.readers["R1"].ok and any("is no file" in f.message for f in found.findings)
    (root / "reading" / "orders" / "R1 (copy).json").write_text("{}")
    assert Study.load(root).readers() == ["R1", "R2"]
    with pytest.raises(BadInput, match="R2"):
        merge(root)


def test_a_clock_in_the_year_9999(tmp_path):
    folder = examples.make_reading_folder(tmp_path / "study", single=4, sessions=2, min_days=28)
    with Reading.open(folder, "R1", clock=examples.FakeClock("9999-12-20T08:00:00.000Z")) as reading:
        examples.read_all(reading)
        history = reading._history
    assert earliest_date(Study.load(folder), history, "s2").year == 9999
