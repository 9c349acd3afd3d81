"""After answers were joined with the key: changed, replaced and removed records, late ones, readers who are added."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import reader_study_examples as examples

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.analysis import departures
from SynthDiffusionLib.reader_study.build import add_reader
from SynthDiffusionLib.reader_study.locks import Locked
from SynthDiffusionLib.reader_study.merge import merge
from SynthDiffusionLib.reader_study.reading import Reading
from SynthDiffusionLib.reader_study.records import RecordFile
from SynthDiffusionLib.reader_study.verify import verify_study

MERGED = "2026-04-01T08:00:00.000Z"
READERS = ("R1", "R2", "R3")


def read(folder: Path, reader: str, stop: int | None = None, utc: str = "2026-03-01T08:00:00.000Z") -> None:
    with Reading.open(folder, reader, clock=examples.FakeClock(utc, boot=utc)) as reading:
        done = 0
        while reading.current is not None and (stop is None or done < stop):
            reading.show({})
            reading.commit(examples.right_answers(reading.task.id), {})
            done += 1


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three readers who have read everything."""
    made = examples.make_reading_folder(tmp_path / "study", readers=READERS, single=4, back="session")
    for reader in READERS:
        read(made, reader)
    return made


def merged(folder: Path, utc: str = MERGED, **settings):
    return merge(folder.parent, clock=examples.FakeClock(utc), **settings)


def forget(folder: Path, reader: str) -> None:
    for path in (folder / "records").rglob(f"{reader}*"):
        path.unlink()


def notes(folder: Path) -> str:
    found = verify_study(folder.parent)
    assert found.ok, [f.message for f in found.findings]
    return " ".join(f.message for f in found.findings)


def test_an_honest_study_is_told_nothing(folder):
    assert merged(folder).departures == ()
    again = merged(folder, "2026-04-02T08:00:00.000Z")
    assert again.departures == () and not any("unblinded" in p or "joined with the key" in p for p in again.problems)
    assert notes(folder) == ""


def test_answers_changed_with_the_truth_known(folder):
    merged(folder)
    with Reading.open(folder, "R1", session="s1", clock=examples.FakeClock("2026-04-05T08:00:00.000Z", "b")) as reading:
        for _ in range(2):
            reading.back()
            reading.show({})
            reading.change({"score": -3}, "I know better now", {})
    said = "of R1 came after the answers of R1, R2 and R3 were joined with the key"
    assert said in notes(folder)
    found = merged(folder, "2026-04-06T08:00:00.000Z")
    assert [s for s in departures(found) if said in s and s.startswith("2 changes of R1") and "knew the truth" in s]


@pytest.mark.parametrize("how", ["read again", "cut back", "gone"])
def test_a_merge_is_a_receipt_of_every_record(folder, how):
    merged(folder)
    if how == "cut back":
        path = folder / "records" / "R1.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-3]))
        (folder / "records" / "R1.head").unlink()
        shutil.rmtree(folder / "records" / "receipts")
    else:
        forget(folder, "R1")
    if how == "read again":
        read(folder, "R1", utc="2026-04-03T08:00:00.000Z")
    found = verify_study(folder.parent)
    text = " ".join(f.message for part in (found, *found.readers.values()) for f in part.findings)
    assert not found.ok and f"the merge of {MERGED}" in text
    with pytest.raises(BadInput, match="R1"):
        merged(folder)
    left = merged(folder, exclude=["R1"])
    assert "R1" in left.excluded and "3 readers were planned, 2 analysed" in departures(left)[0]


def test_who_hands_in_late_is_not_accused(folder, tmp_path):
    """R2 read on a copy before the first merge; the file comes afterwards."""
    copy = tmp_path / "copy"
    (copy / "receipts").mkdir(parents=True)
    for path in (folder / "records").rglob("R2*"):
        shutil.move(path, copy / path.relative_to(folder / "records"))
    merged(folder)
    late = merged(folder, "2026-04-02T08:00:00.000Z", extra_records=[copy])
    (said,) = late.departures
    assert said.startswith("4 answers of R2 had not been handed in when the answers of R1 and R3 were joined")
    assert "knew" not in said


def test_who_was_left_out_and_comes_back_is_not_accused(folder):
    merged(folder, exclude=["R3"])
    back = merged(folder, "2026-04-02T08:00:00.000Z")
    assert back.departures == (f"An earlier merge ({MERGED}) left out R3.",)
    # The record that was left out was seen as well.
    forget(folder, "R3")
    with pytest.raises(BadInput, match="R3"):
        merged(folder)


def test_who_reads_after_the_merge_of_others(folder):
    forget(folder, "R3")
    merged(folder)
    read(folder, "R3", utc="2026-04-03T08:00:00.000Z")
    assert "by the clock of the reader's computer: somebody knew the truth" in notes(folder)
    assert "4 answers of R3 came after" in " ".join(merged(folder).departures)


def test_added_readers_are_told_beside_the_result(folder):
    add_reader(folder.parent, "R4")
    merged(folder)
    add_reader(folder.parent, "R5")
    read(folder, "R4")
    read(folder, "R5", utc="2026-04-03T08:00:00.000Z")
    found = merged(folder, exclude=["R3"])
    said = departures(found)
    assert "3 readers were planned, 2 added later, 4 analysed" in said[0] and found.added == ("R4", "R5")
    assert [s for s in said if s.startswith("R4 was not planned, and was added later (")]
    assert [s for s in said if s.startswith("R5 was not planned") and "after answers had been joined with the key" in s]


def test_a_log_begun_anew_without_a_planned_reader_or_for_another_study(folder):
    log, head = (folder.parent / "private" / f"coordinator.{end}" for end in ("jsonl", "head"))
    built = json.loads(log.read_text(encoding="utf-8").splitlines()[0])

    def begin_anew(**changes) -> None:
        log.unlink()
        head.unlink()
        with RecordFile.open(log, clock=examples.FakeClock()) as file:
            file.append("built", **{"study_sha256": built["study_sha256"], "orders": built["orders"]} | changes)

    begin_anew(study_sha256="0" * 64)
    assert "not the one that was built" in " ".join(f.message for f in verify_study(folder.parent).findings)
    with pytest.raises(BadInput, match="not the one that was built"):
        merged(folder)
    forget(folder, "R3")
    (folder / "orders" / "R3.json").unlink()
    begin_anew(orders={r: sha for r, sha in built["orders"].items() if r != "R3"})
    assert "'R3' was planned" in " ".join(f.message for f in verify_study(folder.parent).findings)
    with pytest.raises(BadInput, match="'R3' was planned"):
        merged(folder)


def test_the_log_that_another_command_writes(folder):
    with RecordFile.open(folder.parent / "private" / "coordinator.jsonl"), pytest.raises(Locked) as refused:
        merged(folder)
    assert "Another command" in refused.value.message and "try again" in refused.value.hint
    assert "reading" not in refused.value.message + refused.value.hint


def test_what_was_not_checked_is_noted(folder):
    (folder / "frozen.json").unlink()
    assert "'frozen.json', which fixed the study when reading began, is gone" in notes(folder)
    shutil.move(folder.parent / "private", folder.parent / "elsewhere")
    assert "were not checked" in notes(folder)


def test_status_tells_the_primary_endpoint_and_copes_with_damage(folder, capsys):
    assert cli.main(["study", "status", str(folder.parent)]) == 0
    said = capsys.readouterr().out
    assert "Stated before reading: " in said and "R3: 4 of 4 answered in 1 sitting; record verifies" in said
    (folder / "orders" / "R3.json").write_text("{", encoding="utf-8")
    (folder / "frozen.json").unlink()
    assert cli.main(["study", "status", str(folder.parent)]) == 0
    said = capsys.readouterr().out
    assert "reading has begun" in said and "of an unknown number" in said and "see study verify" in said


def test_who_reads_on_with_a_copy_is_not_accused(folder, tmp_path):
    """A part of the record was in the first merge, the rest was given before it and is handed in later."""
    forget(folder, "R2")
    read(folder, "R2", stop=2)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    read(copy, "R2", utc="2026-03-05T08:00:00.000Z")
    merged(folder)
    late = merged(folder, "2026-04-02T08:00:00.000Z", extra_records=[copy / "records"])
    (said,) = late.departures
    assert said.startswith("2 answers of R2 had not been handed in when") and "knew" not in said
    found = verify_study(folder.parent)
    assert "if it was read on with a copy, give that with --records" in found.readers["R2"].damage[0].message
    with pytest.raises(BadInput) as refused:
        merged(folder)
    assert "--records" in refused.value.hint


def test_a_record_that_is_gone_is_no_reader_who_never_read(folder):
    merged(folder)
    forget(folder, "R1")
    why = merged(folder, exclude=["R1"]).excluded["R1"]
    assert f"not here, though the merge of {MERGED} had 4 answers of it" in why


def test_what_was_left_out_as_damaged_was_there(folder):
    path = folder / "records" / "R2.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"score":2', b'"score":3', 1))
    merged(folder, exclude=["R2"])
    path.write_bytes(whole)
    assert any(s.startswith("4 answers of R2 were left out when") for s in merged(folder).departures)


def test_a_lock_of_the_log_on_a_computer_that_is_gone(folder):
    holder = {"pid": 7, "host": "elsewhere", "utc": MERGED, "started": 1.0, "token": "t"}
    (folder.parent / "private" / "coordinator.lock").write_text(json.dumps(holder), encoding="utf-8")
    with pytest.raises(Locked) as refused:
        merged(folder)
    assert "delete the file 'coordinator.lock'" in refused.value.hint
