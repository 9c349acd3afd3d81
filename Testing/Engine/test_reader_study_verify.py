"""Verification: every edit up to the last head held elsewhere, torn tails as what they are, and what it cannot see."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from reader_study_examples import FakeClock, answer, make_reading_folder, read_all

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.chain import Head, head_bytes, read_chain, read_head
from SynthDiffusionLib.reader_study.merge import merge
from SynthDiffusionLib.reader_study.reading import Reading
from SynthDiffusionLib.reader_study.receipts import Receipt, read_receipt
from SynthDiffusionLib.reader_study.records import RecordFile
from SynthDiffusionLib.reader_study.study import Study
from SynthDiffusionLib.reader_study.verify import LIMITS, verify_record, verify_study

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))

import reader_study_tampering as tampering  # noqa: E402


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A record of two sittings, closed; the study lies at `tmp_path`."""
    folder = make_reading_folder(tmp_path, single=6, training=1)
    clock = FakeClock()
    with Reading.open(folder, "R1", clock=clock) as reading:
        for _ in range(3):
            answer(reading, clock)
    clock.boot = "boot2"
    with Reading.open(folder, "R1", clock=clock) as reading:
        answer(reading, clock)
        reading.back()
        reading.show()
        reading.change({"score": -1}, "looked again")
        reading.forward()
        read_all(reading)
    return folder / "records" / "R1.jsonl"


def kinds(path: Path, severity: str = "damage", **arguments) -> list[str]:
    found = verify_record(path, **arguments)
    return [f.kind for f in found.findings if f.severity == severity]


def forge(path: Path, n: int, with_head: bool = True, **fields) -> None:
    """Changes a record as somebody who computes all hashes anew."""
    lines = path.read_bytes().split(b"\n")[:-1]
    lines[n] = tampering.canonical(json.loads(lines[n]) | fields)
    path.write_bytes(tampering._joined(tampering._rehash(lines, n)))
    if with_head:
        path.with_suffix(".head").write_bytes(head_bytes(read_chain(path.read_bytes()).head))


def number_of(path: Path, kind: str, which: int = 0) -> int:
    records = read_chain(path.read_bytes()).records
    return [r["n"] for r in records if r["type"] == kind][which]


def test_an_untouched_record_has_no_findings(record, tmp_path):
    found = verify_study(tmp_path)
    assert found.ok and found.readers["R1"].findings == [] and found.readers["R1"].confirmed == 0
    assert len(found.readers["R1"].answers) == 7
    assert found.readers["R1"].count == len(read_chain(record.read_bytes()).records)


def test_random_edits_are_all_found_with_the_head_and_told_honestly_without(tmp_path):
    """A smaller version of Testing/Benchmarks/reader_study_tampering.py."""
    counts, _ = tampering.tamper(140, 11, tmp_path)
    for kind in tampering.KINDS:
        assert counts[kind, tampering.HEAD.name] == {"damage": 10, "torn tail": 0, "not found": 0}, kind
    by_chain = {kind: counts[kind, tampering.CHAIN.name]["damage"] for kind in tampering.KINDS}
    uninformed = ("flip", "flip_last", "blank", "delete", "swap", "duplicate", "insert_copy", "edit", "edit_last")
    assert all(by_chain[kind] == 10 for kind in uninformed), by_chain
    assert by_chain["truncate_line"] == by_chain["informed_edit"] == by_chain["informed_edit_last"] == 0
    assert counts["truncate_inside", tampering.CHAIN.name]["torn tail"] == 10
    some = counts["informed_edit", tampering.OLD_RECEIPT.name]["damage"]
    assert 0 < some < 10  # those before the receipt
    forged = {kind: counts[kind, tampering.FORGED_HEAD.name]["damage"] for kind in tampering.FORGED}
    assert forged == {"forged_early": 7, "forged_late": 0, "forged_cut": 0}


def test_its_limits_name_what_it_cannot_detect():
    assert "after the last receipt" in LIMITS and "head file" in LIMITS


def test_a_torn_tail_is_a_note_and_says_what_it_is(record):
    raw = record.read_bytes()
    record.write_bytes(raw + b'{"active_s":1.5,"ans')
    found = verify_record(record)
    assert found.ok and [f.kind for f in found.findings] == ["torn"]
    assert "20 bytes of an incomplete line" in found.sentences()[0] and "power cut" in found.sentences()[0]
    assert "without the head file" in verify_record(record, use_head=False).sentences()[0]


def test_a_cut_inside_the_last_record_is_no_torn_tail(record):
    """The head file knows that the record was whole."""
    for cut in (1, 2, 100):
        raw = record.read_bytes()
        record.write_bytes(raw[:-cut])
        assert kinds(record) == ["cut_off", "cut_inside"]
        record.write_bytes(raw)


def test_a_kill_between_record_and_head_is_a_note(record):
    lines = record.read_bytes().split(b"\n")[:-1]
    before = json.loads(lines[-2])
    record.with_suffix(".head").write_bytes(head_bytes(Head(len(lines) - 1, before["hash"])))
    assert kinds(record) == [] and kinds(record, "note") == ["head_behind"]
    record.with_suffix(".head").write_bytes(head_bytes(Head(len(lines) - 2, json.loads(lines[-3])["hash"])))
    assert kinds(record) == ["head_stale"]


def test_the_head_file_itself_is_checked(record):
    path = record.with_suffix(".head")
    raw = path.read_bytes()
    for i in range(len(raw)):
        path.write_bytes(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :])
        assert kinds(record), i
    path.unlink()
    assert kinds(record) == ["head"]


def test_receipts_hold_what_lies_before_them(record, tmp_path):
    receipts = [read_receipt(p) for p in (record.parent / "receipts").glob("*.json")]
    receipts.sort(key=lambda r: r.count)
    assert len(receipts) == 2 and kinds(record, receipts=receipts) == []
    raw, head = record.read_bytes(), record.with_suffix(".head").read_bytes()
    forge(record, number_of(record, "answer", 1), active_s=1.0)
    assert kinds(record) == []
    assert kinds(record, receipts=receipts[:1]) == ["receipt"]
    record.write_bytes(raw), record.with_suffix(".head").write_bytes(head)
    forge(record, number_of(record, "answer", 5), active_s=0.005)
    assert kinds(record, receipts=receipts[:1]) == []  # after the first receipt
    assert kinds(record, receipts=receipts) == ["receipt"]
    lines = raw.split(b"\n")[:-1]
    record.write_bytes(tampering._joined(lines[: receipts[0].count - 2]))
    record.with_suffix(".head").write_bytes(head_bytes(read_chain(record.read_bytes()).head))
    assert kinds(record, receipts=receipts) == ["receipt", "receipt"]


def test_receipts_that_the_coordinator_keeps_confirm(record, tmp_path):
    receipts = list((record.parent / "receipts").glob("*.json"))
    first = min((read_receipt(p) for p in receipts), key=lambda r: r.count)
    (tmp_path / "private" / "receipts" / "from-mail.json").write_text(json.dumps(first.to_json()), encoding="utf-8")
    assert verify_study(tmp_path).readers["R1"].confirmed == first.count
    other = Receipt(**{**first.__dict__, "reader": "R2"})
    assert kinds(record, receipts=[other]) == ["receipt"]
    (tmp_path / "private" / "receipts" / "junk.json").write_text("[]", encoding="utf-8")
    assert [f.kind for f in verify_study(tmp_path).findings] == ["receipt"]


@pytest.mark.parametrize(
    ("kind", "which", "fields", "expected"),
    [
        ("answer", 2, {"answers": {"score": 7}}, "form"),
        ("answer", 2, {"answers": {}}, "form"),
        ("answer", 2, {"unit": "u0000000000"}, "order"),
        ("answer", 2, {"presentation": 2}, "order"),
        ("answer", 2, {"position": 5}, "order"),
        ("answer", 2, {"position": 99}, "position"),
        ("answer", 2, {"position": 1}, "twice"),
        ("answer", 2, {"committed_s": 500.0}, "times"),
        ("answer", 2, {"active_s": 400.0}, "times"),
        ("answer", 2, {"active_s": "quick"}, "fields"),
        ("answer", 2, {"mono": 1.0}, "times"),
        ("answer", 2, {"utc": "yesterday"}, "fields"),
        ("answer", 2, {"type": "answered"}, "type"),
        ("shown", 2, {"position": 4}, "not_shown"),
        ("shown", 2, {"volumes": ["v0000000000"]}, "order"),
        ("shown", 2, {"session": "s2"}, "order"),
        ("change", 0, {"reason": " "}, "change"),
        ("change", 0, {"old_answers": {"score": 3}}, "change"),
        ("open", 0, {"study_sha256": "0" * 64}, "study"),
        ("open", 0, {"order_sha256": "0" * 64}, "order_file"),
        ("open", 0, {"reader": "R9"}, "reader"),
        ("login", 1, {"sitting": 3}, "sitting"),
        ("close", 1, {"count": 3}, "sitting"),
        ("feedback_shown", 0, {"position": 3}, "feedback"),
    ],
)
def test_a_story_that_cannot_be_is_found_even_with_all_hashes_right(record, tmp_path, kind, which, fields, expected):
    forge(record, number_of(record, kind, which), **fields)
    assert expected in kinds(record, study=Study.load(tmp_path))
    with pytest.raises(BadInput):
        Reading.open(tmp_path, "R1")


def test_a_record_whose_own_hash_alone_was_computed_anew_breaks_the_chain_behind_it(record):
    lines = record.read_bytes().split(b"\n")[:-1]
    n = number_of(record, "answer", 2)
    edited = tampering._other_answer(lines[: n + 1], tampering.random.Random(0), spared=frozenset({0, 1}))[0]
    lines[n] = tampering._rehash(edited, n)[n]
    record.write_bytes(tampering._joined(lines))
    found = verify_record(record, use_head=False)
    assert [(f.kind, f.line) for f in found.findings] == [("chain", n + 1)]


def test_an_answer_that_was_taken_out_leaves_a_gap_in_the_order(record, tmp_path):
    lines = record.read_bytes().split(b"\n")[:-1]
    n = number_of(record, "answer", 1)
    assert b'"type":"shown"' in lines[n - 1]
    record.write_bytes(tampering._joined(tampering._rehash(lines[: n - 1] + lines[n + 1 :], n - 1)))
    assert "order" in kinds(record, study=Study.load(tmp_path), use_head=False)


def test_an_answer_outside_of_a_sitting_is_found(record, tmp_path):
    lines = record.read_bytes().split(b"\n")[:-1]
    n = number_of(record, "login", 1)
    record.write_bytes(tampering._joined(tampering._rehash(lines[:n] + lines[n + 1 :], n)))
    assert "sitting" in kinds(record, study=Study.load(tmp_path), use_head=False)


def test_a_jump_of_the_time_of_day_is_a_note(record, tmp_path):
    forge(record, number_of(record, "answer", 2), utc="2026-03-01T11:00:00.000Z")
    assert kinds(record, study=Study.load(tmp_path)) == []
    assert kinds(record, "note", study=Study.load(tmp_path)) == ["clock", "clock"]  # there and back


def test_a_session_before_its_washout_is_found(tmp_path):
    folder = make_reading_folder(tmp_path, single=4, sessions=2, min_days=28)
    clock = FakeClock()
    with Reading.open(folder, "R1", clock=clock) as reading:
        read_all(reading)
    clock.boot = "boot2"
    with Reading.open(folder, "R1", clock=clock, override_reason="in a hurry") as reading:
        read_all(reading)
    path = folder / "records" / "R1.jsonl"
    study = Study.load(folder)
    assert kinds(path, study=study) == [] and kinds(path, "note", study=study) == ["override"]
    forge(path, number_of(path, "override"), session="s1")
    assert "washout" in kinds(path, study=study)


def test_a_whole_study_is_looked_over(record, tmp_path):
    (record.parent / "R9.jsonl").write_bytes(record.read_bytes())
    with RecordFile.open(tmp_path / "private" / "coordinator.jsonl", clock=FakeClock()) as journal:
        journal.append("merged", readers={})
    found = verify_study(tmp_path / "reading")
    assert [f.kind for f in found.findings] == ["foreign"] and found.coordinator.ok and found.coordinator.count == 2
    journal = tmp_path / "private" / "coordinator.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"merged"', b'"mergee"'))
    (tmp_path / "private" / "key.json").write_text("{}", encoding="utf-8")
    (record.parent / "R9.jsonl").unlink()
    record.unlink()
    found = verify_study(tmp_path)
    assert sorted(f.kind for f in found.findings) == ["key", "missing"]
    assert not found.coordinator.ok and found.not_begun == ["R1"] and not found.ok


def test_a_damaged_order_is_a_finding_and_the_chain_is_still_checked(record, tmp_path):
    (tmp_path / "reading" / "orders" / "R1.json").write_text("{", encoding="utf-8")
    found = verify_study(tmp_path)
    kinds_found = [f.kind for f in found.findings]
    assert kinds_found == ["order_file", "order_file"] and found.readers["R1"].count > 10


def test_orders_are_those_that_the_coordinator_has_made(record, tmp_path):
    """Volumes of another unit, a unit left out, one there twice: refused by the study; a sound order that is another
    one, and a reader whom nobody has added: found against the coordinator's log; merge takes neither."""
    path = tmp_path / "reading" / "orders" / "R1.json"
    sound = json.loads(path.read_text(encoding="utf-8"))
    shown = sound["presentations"]
    a, b = shown[0], shown[1]
    for changed in (
        [{**a, "volumes": b["volumes"]}, {**b, "volumes": a["volumes"]}, *shown[2:]],
        shown[:-1],
        [{**a, "unit": b["unit"], "volumes": b["volumes"]}, *shown[1:]],
    ):
        path.write_text(json.dumps({**sound, "presentations": changed}), encoding="utf-8")
        with pytest.raises(BadInput, match="damaged"):
            Study.load(tmp_path).order("R1")
        assert not verify_study(tmp_path).ok
    path.write_text(json.dumps(sound), encoding="utf-8")  # the same order, other bytes
    assert "is not the one that was made" in " ".join(f.message for f in verify_study(tmp_path).findings)
    with pytest.raises(BadInput, match="orders were changed"):
        merge(tmp_path)
    path.with_name("R9.json").write_text(json.dumps({**sound, "reader": "R9"}), encoding="utf-8")
    assert "added nobody of that name" in " ".join(f.message for f in verify_study(tmp_path).findings)
    (tmp_path / "private" / "coordinator.jsonl").unlink()
    assert "the coordinator's log is gone" in [f.message for f in verify_study(tmp_path).findings]


def test_what_was_refused_on_opening_is_what_verification_finds(record, tmp_path):
    """The head of a copy that was cut off, as a reader would meet it."""
    lines = record.read_bytes().split(b"\n")[:-1]
    record.write_bytes(tampering._joined(lines[:-3]))
    with pytest.raises(BadInput, match="cut off"):
        Reading.open(tmp_path, "R1")
    assert kinds(record) == ["cut_off"]
    assert read_head(record.with_suffix(".head")).count == len(lines)
