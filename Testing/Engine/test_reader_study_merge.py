"""Merging: the right truth to the right answer, and every record that should not be trusted refused by name."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import reader_study_examples as examples
import reader_study_ratings as made_up

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.merge import merge
from SynthDiffusionLib.reader_study.reading import Reading
from SynthDiffusionLib.reader_study.tables import COLUMNS, read_ratings, write_ratings
from SynthDiffusionLib.reader_study.verify import verify_record, verify_study
from SynthDiffusionLib.reports.cells import original_cell, safe_cell


def read(folder, reader, *, stop=None, seed=0, clock=None, close=True):
    """Reads, up to `stop` answers; returns the answers by position."""
    reading = Reading.open(folder, reader, clock=clock or examples.FakeClock())
    rng, given = random.Random(seed), {}
    while reading.current is not None and (stop is None or len(given) < stop):
        reading.show({})
        answers = examples.right_answers(reading.task.id, rng)
        given[reading.current.position] = answers
        reading.commit(answers, {})
    reading.close() if close else reading.abandon()
    return given


@pytest.fixture
def study(tmp_path):
    """Two readers who have read everything."""
    folder = examples.make_reading_folder(
        tmp_path / "study", readers=("R1", "R2"), single=6, pairs=3, training=2, repeats=2
    )
    return folder.parent, {reader: read(folder, reader, seed=i) for i, reader in enumerate(("R1", "R2"))}


def key_of(root):
    return json.loads((root / "private" / "key.json").read_text(encoding="utf-8"))


def test_every_answer_with_its_truth(study):
    root, given = study
    merged = merge(root)
    key = key_of(root)
    for reader, answers in given.items():
        own = [r for r in merged.ratings if r.reader == reader]
        assert {(r.position, r.item): r.value for r in own} == {
            (position, item): value for position, items in answers.items() for item, value in items.items()
        }
        order = json.loads((root / "reading" / "orders" / f"{reader}.json").read_text(encoding="utf-8"))
        for r in own:
            place = order["presentations"][r.position]
            assert (r.unit, r.task, r.presentation, r.phase, r.session) == tuple(
                place[k] for k in ("unit", "task", "presentation", "phase", "session")
            )
            assert [v for v in (r.volume_left, r.volume_right) if v] == place["volumes"]
            shown = key["volumes"][place["volumes"][-1]]
            assert r.truth == shown["truth"]
            assert (r.arm, r.pair) == (key["units"][r.unit]["arm"], key["units"][r.unit]["pair"])
    assert merged.missing == () and merged.problems == ()
    assert {r.presentation for r in merged.ratings} == {1, 2} and {r.phase for r in merged.ratings} == {
        "training",
        "main",
    }
    assert all(r.is_first == (r.phase == "main" and r.presentation == 1) for r in merged.ratings)
    assert [r.answered for r in merged.readers] == [r.expected for r in merged.readers] == [13, 13]


def test_forced_choice_truth_is_the_side(study):
    root, given = study
    merged = merge(root)
    volumes = key_of(root)["volumes"]
    forced = [r for r in merged.ratings if r.kind == "forced_choice"]
    assert len(forced) == 6
    for r in forced:
        synthetic = "right" if volumes[r.volume_right]["truth"] else "left"
        assert r.is_correct == (r.value == synthetic)


def test_merging_is_logged_as_unblinding(study):
    root, _ = study
    for _ in range(2):
        merge(root, clock=examples.FakeClock("2026-05-01T00:00:00.000Z"))
    log = root / "private" / "coordinator.jsonl"
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [r["type"] for r in records] == ["built", "unblinded", "merged", "unblinded", "merged"]
    assert records[2]["readers"]["R1"]["answered"] == 13
    assert verify_record(log, is_reading=False).ok


def test_changes_keep_the_first_answer(tmp_path):
    folder = examples.make_reading_folder(tmp_path / "study", single=4)
    reading = Reading.open(folder, "R1", clock=examples.FakeClock())
    for _ in range(2):
        reading.show({})
        reading.commit({"score": -2}, {})
    reading.back()
    reading.show({})
    reading.change({"score": 3, "why": "=grainy"}, "wrong key", {})
    reading.change({"score": 1, "why": "=grainy"}, "too bold", {})
    position = reading.current.position
    reading.close()
    merged = merge(tmp_path / "study")
    (score,) = [r for r in merged.ratings if r.position == position and r.item == "score"]
    assert (score.value, score.old_value, score.changed) == (1, -2, 2) and score.reason == "wrong key; too bold"
    assert [r.changed for r in merged.ratings if r.position != position] == [0]
    assert merged.readers[0].changes == 2
    assert len(merged.missing) == 2 and "has not finished: 2 of 4 readings" in merged.problems[0]


def test_a_longer_copy_is_taken_and_a_fork_refused(tmp_path):
    folder = examples.make_reading_folder(tmp_path / "study", readers=("R1", "R2"), single=6)
    read(folder, "R1", stop=2)
    read(folder, "R2")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    read(copy, "R1", seed=3, clock=examples.FakeClock("2026-03-02T08:00:00.000Z", boot="boot2"))
    merged = merge(tmp_path / "study", [copy])
    assert verify_study(tmp_path / "study", copies=[copy]).readers["R1"].count == merged.readers[0].records
    assert len({r.position for r in merged.ratings if r.reader == "R1"}) == 6
    assert any("earlier state" in p for p in merged.problems) and any("same record" in p for p in merged.problems)
    # Both go on from the same state: two records of one reader that contradict each other.
    read(folder, "R1", stop=1, seed=9, clock=examples.FakeClock("2026-03-03T08:00:00.000Z", boot="boot3"))
    with pytest.raises(BadInput, match="contradict each other from record"):
        merge(tmp_path / "study", [copy])
    found = verify_study(tmp_path / "study", copies=[copy])
    assert not found.ok and [f.kind for f in found.findings if f.severity == "damage"] == ["copies"]
    merged = merge(tmp_path / "study", [copy], exclude=["R1"])
    assert {r.reader for r in merged.ratings} == {"R2"}
    assert any(p.startswith("R1 is left out of everything") and "contradict" in p for p in merged.problems)


def test_readers_on_copies_of_their_own(tmp_path):
    folder = examples.make_reading_folder(tmp_path / "study", readers=("R1", "R2"), single=4)
    for reader in ("R1", "R2"):
        shutil.copytree(folder, tmp_path / reader)
        read(tmp_path / reader, reader)
    with pytest.raises(BadInput, match="no reader's record"):
        merge(tmp_path / "study")
    merged = merge(tmp_path / "study", [tmp_path / "R1", tmp_path / "R2" / "records" / "R2.jsonl"])
    assert {r.reader for r in merged.ratings} == {"R1", "R2"} and not merged.missing
    assert set(verify_study(tmp_path / "study", copies=[tmp_path / "R1"]).readers) == {"R1"}
    with pytest.raises(BadInput, match="no folder"):
        merge(tmp_path / "study", [tmp_path / "R3"])


def test_a_damaged_record_is_refused_unless_excluded(study):
    root, _ = study
    path = root / "reading" / "records" / "R1.jsonl"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"score":', b'"score": ', 1))
    with pytest.raises(BadInput, match="record of R1 .* cannot be used") as caught:
        merge(root)
    assert "exclude R1" in caught.value.hint
    assert (root / "private" / "coordinator.jsonl").read_text(encoding="utf-8").count("\n") == 1  # nothing was joined
    merged = merge(root, exclude=["R1"])
    assert {r.reader for r in merged.ratings} == {"R2"} and set(merged.excluded) == {"R1"}


def test_receipts_show_a_record_rewritten_with_its_head(study):
    root, _ = study
    records = root / "reading" / "records"
    private = root / "private" / "receipts"
    for receipt in (records / "receipts").glob("R1-*.json"):
        shutil.copy(receipt, private)
    shutil.rmtree(records / "receipts")
    from SynthDiffusionLib.reader_study.chain import Head, head_bytes, read_chain

    lines = (records / "R1.jsonl").read_bytes().splitlines(keepends=True)[:-1]  # the closing record is cut off
    (records / "R1.jsonl").write_bytes(b"".join(lines))
    last = read_chain(b"".join(lines)).records[-1]
    (records / "R1.head").write_bytes(head_bytes(Head(len(lines), last["hash"])))
    with pytest.raises(BadInput, match="receipt of"):
        merge(root)
    (private / next(private.glob("R1-*.json")).name).unlink()
    assert any("not closed" in p for p in merge(root).problems)


def test_missing_and_foreign_records(tmp_path):
    folder = examples.make_reading_folder(tmp_path / "study", readers=("R1", "R2", "R3"), single=4)
    read(folder, "R1")
    read(folder, "R3", stop=2)
    other = examples.make_reading_folder(tmp_path / "other", readers=("R2", "X9"), single=4, seed=5)
    read(other, "R2")
    read(folder, "R2")
    (folder / "records" / "R2.jsonl").rename(folder / "records" / "R7.jsonl")
    with pytest.raises(BadInput, match="R2 is not here, but a receipt speaks of 4 answers"):
        merge(tmp_path / "study", [other])
    kept = Path(shutil.move(folder / "records" / "receipts", tmp_path / "kept"))
    with pytest.raises(BadInput, match="R2 is not here, but its head file"):
        merge(tmp_path / "study", [other])
    (folder / "records" / "R2.head").unlink()
    merged = merge(tmp_path / "study", [other])
    text = " ".join(merged.problems)
    assert "belongs to another study" in text and "'R7' is no reader of this study" in text
    assert "R2 has no record although a receipt" not in text and "R2 has no record" in text
    assert [sum(m["reader"] == r for m in merged.missing) for r in ("R1", "R2", "R3")] == [0, 4, 2]
    assert merged.absent == {"R2": 4} and not any({"arm", "unit"} & set(m) for m in merged.missing)
    # The coordinator holds the receipt.
    shutil.copy(next(kept.glob("R2-*.json")), tmp_path / "study" / "private" / "receipts")
    with pytest.raises(BadInput, match="R2 is not here, but a receipt speaks of 4 answers"):
        merge(tmp_path / "study")
    assert merge(tmp_path / "study", exclude=["R2"]).excluded["R2"] == (
        "left out on request; its record is not here, though a receipt speaks of 4 answers"
    )


def test_a_renamed_record_is_refused(study):
    root, _ = study
    records = root / "reading" / "records"
    for name in ("jsonl", "head"):
        shutil.copy(records / f"R1.{name}", records / f"R2.{name}")
    with pytest.raises(BadInput, match="R2"):
        merge(root)


def test_another_key_or_study(study):
    root, _ = study
    path = root / "private" / "key.json"
    raw = path.read_bytes()
    key = json.loads(raw)
    volume = next(iter(key["volumes"]))
    key["volumes"][volume]["truth"] ^= 1
    path.write_text(json.dumps(key), encoding="utf-8")
    with pytest.raises(BadInput, match="not the key"):
        merge(root)
    path.unlink()
    with pytest.raises(BadInput, match="key .* cannot be read"):
        merge(root)
    path.write_bytes(raw)
    with pytest.raises(BadInput, match="no reader of this study"):
        merge(root, exclude=["nobody"])
    study_file = root / "reading" / "study.json"
    study_file.write_bytes(study_file.read_bytes().replace(b"A small study", b"A great study"))
    with pytest.raises(BadInput, match="changed after reading began"):
        merge(root)


def test_a_torn_tail_loses_nothing_committed(tmp_path):
    folder = examples.make_reading_folder(tmp_path / "study", single=4)
    given = read(folder, "R1", stop=3, close=False)
    with open(folder / "records" / "R1.jsonl", "ab") as file:
        file.write(b'{"active_s":1.0,"answ')
    merged = merge(tmp_path / "study")
    assert {r.position for r in merged.ratings} == set(given)
    assert any("incomplete line" in p for p in merged.problems)


def test_questions_at_the_end_of_the_study(tmp_path):
    folder = examples.make_reading_folder(tmp_path / "study", single=2, study_items=True)
    reading = Reading.open(folder, "R1", clock=examples.FakeClock())
    examples.read_all(reading)
    reading.commit_study(reading.current_study_task, {"overall": "@all good"})
    reading.close()
    merged = merge(tmp_path / "study")
    (said,) = [r for r in merged.ratings if r.position < 0]
    assert (said.item, said.value, said.truth, said.is_first) == ("overall", "@all good", None, False)


# The long table


def test_long_table_reads_back(study, tmp_path):
    root, _ = study
    merged = merge(root)
    path = write_ratings(tmp_path / "long.csv", merged.ratings)
    assert read_ratings(path) == list(merged.ratings)
    items = ("score", "quality", "organ", "flaws", "sure", "size", "why", "marks")
    ratings = made_up.simulated((1.0,), cases=4, items=items)
    ratings += [
        replace(ratings[0], item="c", item_type="choice", value=value) for value in ("3", 3, 2.5, '"q"', "x", "-1")
    ]
    ratings += [replace(ratings[0], item="t", item_type="text", value=v, old_value="'=x") for v in NASTY]
    path = write_ratings(tmp_path / "made.csv", ratings)
    back = read_ratings(path)
    assert back == ratings and [type(r.value) for r in back] == [type(r.value) for r in ratings]
    assert path.read_text(encoding="utf-8").splitlines()[0].split(",") == list(COLUMNS)


NASTY = ("=1+1", "+1", "-1", "@SUM(A1)", "'=1", "''=1", "'quoted'", "a,b\r\nc;d", 'say "no"', "\t=x", "ü", "=", "'")


@pytest.mark.parametrize("text", NASTY)
def test_no_cell_is_a_formula(text):
    assert not safe_cell(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert original_cell(safe_cell(text)) == text


DAMAGE = [
    (b"reader,", b"who,", "lacks the column"),
    (b",turing,single,", b",turing,", "row 2"),
    (b",1,main,", b",x,main,", "row 2"),
]


@pytest.mark.parametrize("old, new, words", DAMAGE)
def test_a_table_that_is_none(tmp_path, old, new, words):
    path = write_ratings(tmp_path / "long.csv", made_up.simulated((1.0,), cases=2))
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(BadInput, match=words):
        read_ratings(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_ratings(tmp_path / "none.csv")
