"""A sitting: order, times, forms, going back, washout, two readers, and what the disk or the clock may do."""

from __future__ import annotations

import datetime
import errno
import json
import os
import random

import pytest
from reader_study_examples import (
    VIEW,
    FakeClock,
    answer,
    choice_form,
    make_reading_folder,
    of_type,
    read_all,
    record_lines,
    right_answers,
    turing_form,
)

from SynthDiffusionLib.errors import BadInput, SynthDiffusionError
from SynthDiffusionLib.reader_study.answers import AnswersIncomplete, TooEarly
from SynthDiffusionLib.reader_study.reading import Reading
from SynthDiffusionLib.reader_study.receipts import read_receipt
from SynthDiffusionLib.reader_study.sitting import WashoutNotOver
from SynthDiffusionLib.reader_study.study import Study
from SynthDiffusionLib.reader_study.verify import verify_record, verify_study


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_a_study_is_read_in_its_order(tmp_path, clock):
    folder = make_reading_folder(tmp_path, single=6, pairs=2, training=2, repeats=2)
    seen, texts, feedback = [], [], []
    with Reading.open(tmp_path, "R1", clock=clock, software={"Slicer": "5.12"}) as reading:
        assert reading.session == "s1" and reading.messages == []
        while reading.current is not None:
            seen.append(reading.current)
            texts.append(reading.position_text)
            assert [p.name for p in reading.volume_paths] == [f"{v}.nii.gz" for v in reading.current.volumes]
            assert reading.mask_paths == [None] * len(reading.current.volumes)
            assert reading.form.id == reading.task.id and reading.previous_answers is None
            feedback.append(answer(reading, clock))
        assert reading.progress == (12, 12)
    assert seen == reading.order
    assert texts == ["Training 1 of 2", "Training 2 of 2", *(f"Case {i} of 10" for i in range(1, 11))]
    assert feedback == ["This volume is real.", "This volume is synthetic."] + [None] * 10
    answers = of_type(folder, "answer")
    assert [a["position"] for a in answers] == list(range(12))
    assert [a["unit"] for a in answers] == [p.unit for p in reading.order]
    assert answers[-1]["presentation"] == 2 and answers[-1]["unit"] in [a["unit"] for a in answers[:-1]]
    assert len(of_type(folder, "feedback_shown")) == 2
    assert record_lines(folder)[0]["software"]["Slicer"] == "5.12"
    assert all("truth" not in json.dumps(r) and "arm" not in r for r in record_lines(folder))
    assert verify_study(tmp_path).ok and (folder / "frozen.json").exists()


def test_the_receipt_is_given_and_written(tmp_path, clock):
    folder = make_reading_folder(tmp_path)
    reading = Reading.open(folder, "R1", clock=clock)
    answer(reading)
    receipt = reading.close()
    last = record_lines(folder)[-1]
    assert (last["type"], last["count"], last["answered"]) == ("close", receipt.count, 1)
    assert (receipt.hash, receipt.count, receipt.reader, receipt.answered) == (last["hash"], last["n"] + 1, "R1", 1)
    assert read_receipt(folder / "records" / "receipts" / receipt.file_name) == receipt
    with pytest.raises(BadInput, match="closed"):
        reading.show()


def test_one_goes_on_where_one_stopped(tmp_path, clock):
    folder = make_reading_folder(tmp_path, single=6)
    with Reading.open(folder, "R1", clock=clock) as reading:
        answer(reading)
        answer(reading)
        reading.show(VIEW)  # shown, not answered
    clock.boot = "boot2"
    with Reading.open(folder, "R1", clock=clock) as reading:
        assert reading.progress == (2, 6) and reading.current.position == 2 and reading.sitting == 2
        assert read_all(reading) == 4
    with Reading.open(folder, "R1", clock=clock) as reading:
        assert reading.current is None and reading.position_text == "All cases of this session are read"
        with pytest.raises(BadInput, match="All cases"):
            reading.show()
    found = verify_study(tmp_path)
    assert found.ok and not found.readers["R1"].findings


# Times


def test_active_time_caps_idle_gaps_and_leaves_pauses_out(tmp_path, clock):
    folder = make_reading_folder(tmp_path, viewing={"idle_cap_s": 60})
    with Reading.open(folder, "R1", clock=clock) as reading:
        reading.show(VIEW)
        clock.pass_s(7)
        reading.touch()  # 7
        clock.pass_s(600)
        reading.touch()  # 60: the reader was away
        clock.pass_s(10)
        reading.pause()  # 10
        assert reading.is_paused
        clock.pass_s(1000)
        reading.touch()  # a slip of the mouse
        with pytest.raises(BadInput, match="paused"):
            reading.commit({"score": 2}, VIEW)
        reading.resume()
        clock.pass_s(13)
        reading.commit({"score": 2}, VIEW)  # 13
    (record,) = of_type(folder, "answer")
    assert record["first_touch_s"] == 7.0
    assert record["committed_s"] == 7 + 600 + 10 + 1000 + 13
    assert record["active_s"] == 7 + 60 + 10 + 13
    assert record["viewed_s"] == 7 + 600 + 10 + 13
    assert record["shown_utc"] == "2026-03-01T08:00:00.000Z" and record["utc"] == "2026-03-01T08:27:10.000Z"
    assert verify_study(tmp_path).ok


def test_without_an_input_there_is_no_first_touch(tmp_path, clock):
    folder = make_reading_folder(tmp_path)
    with Reading.open(folder, "R1", clock=clock) as reading:
        reading.show(VIEW)
        reading.commit({"score": -1}, VIEW)
        reading.touch()  # between two cases
    assert of_type(folder, "answer")[0]["first_touch_s"] is None


def test_a_clock_that_is_set_back_changes_no_duration_and_is_recorded(tmp_path, clock):
    folder = make_reading_folder(tmp_path)
    with Reading.open(folder, "R1", clock=clock) as reading:
        answer(reading, clock)
        reading.show(VIEW)
        clock.pass_s(4)
        clock.set_utc("2026-03-01T07:00:00.000Z")
        reading.touch()
        clock.pass_s(4)
        reading.commit({"score": -2}, VIEW)
        assert len(reading.messages) == 1 and "not affected" in reading.messages[0]
        answer(reading, clock)
        assert len(reading.messages) == 1
    assert [a["committed_s"] for a in of_type(folder, "answer")] == [5.0, 8.0, 5.0]
    (jump,) = of_type(folder, "clock")
    assert jump["jump_s"] == pytest.approx(-3609, abs=1)
    found = verify_study(tmp_path)
    assert found.ok and [f.kind for f in found.readers["R1"].findings] == ["clock"]


def test_a_date_that_went_back_between_sittings_is_recorded(tmp_path, clock):
    folder = make_reading_folder(tmp_path)
    with Reading.open(folder, "R1", clock=clock) as reading:
        answer(reading)
    with Reading.open(folder, "R1", clock=FakeClock("2026-02-20T08:00:00.000Z", boot="boot2")) as reading:
        assert "Is its date right?" in reading.messages[0]
    assert len(of_type(folder, "clock")) == 1
    assert [f.kind for f in verify_study(tmp_path).readers["R1"].findings] == ["clock"]


def test_a_date_before_the_study_was_made_is_recorded(tmp_path):
    folder = make_reading_folder(tmp_path)
    with Reading.open(folder, "R1", clock=FakeClock("2020-01-01T00:00:00.000Z")) as reading:
        answer(reading)
        assert reading.messages
    assert len(of_type(folder, "clock")) == 1


def test_a_case_must_be_looked_at_long_enough(tmp_path, clock):
    make_reading_folder(tmp_path, viewing={"min_view_s": 10})
    with Reading.open(tmp_path, "R1", clock=clock) as reading:
        reading.show(VIEW)
        clock.pass_s(6)
        reading.pause()
        clock.pass_s(100)  # does not count
        reading.resume()
        with pytest.raises(TooEarly) as caught:
            reading.commit({"score": 2}, VIEW)
        assert caught.value.remaining_s == pytest.approx(4)
        clock.pass_s(4)
        reading.commit({"score": 2}, VIEW)
        assert reading.progress[0] == 1


# Forms


def test_answers_must_fit_the_form(tmp_path, clock):
    folder = make_reading_folder(tmp_path)
    with Reading.open(folder, "R1", clock=clock) as reading:
        with pytest.raises(BadInput, match="not been shown"):
            reading.commit({"score": 2}, VIEW)
        reading.show(VIEW)
        for answers, item in (({}, "score"), ({"score": 5}, "score"), ({"score": 2, "color": 1}, "color")):
            with pytest.raises(AnswersIncomplete) as caught:
                reading.commit(answers, VIEW)
            assert list(caught.value.problems) == [item]
        assert reading.progress[0] == 0 and of_type(folder, "answer") == []
        reading.commit({"score": -2, "why": "left over from before"}, VIEW)  # not shown for real ones
    assert of_type(folder, "answer")[0]["answers"] == {"score": -2}


def test_questions_per_study_come_at_the_end_of_the_task(tmp_path, clock):
    folder = make_reading_folder(tmp_path, single=2, sessions=2, min_days=0, study_items=True)
    with Reading.open(folder, "R1", clock=clock) as reading:
        read_all(reading)
        assert reading.current_study_task is None  # the second session is to come
    with Reading.open(folder, "R1", clock=clock) as reading:
        assert reading.session == "s2" and reading.current_study_task is None
        read_all(reading)
        assert reading.current_study_task == "turing" and [i.id for i in reading.study_items] == ["overall"]
        with pytest.raises(AnswersIncomplete):
            reading.commit_study("turing", {})
        reading.commit_study("turing", {"overall": "Vessels were too smooth."})
        assert reading.current_study_task is None
        with pytest.raises(BadInput, match="Nothing is asked"):
            reading.commit_study("turing", {"overall": "Again."})
    assert of_type(folder, "study_answer")[0]["answers"] == {"overall": "Vessels were too smooth."}
    found = verify_study(tmp_path)
    assert found.ok and found.readers["R1"].history.study_answers == {"turing": {"overall": "Vessels were too smooth."}}


def test_a_forced_choice_shows_left_before_right(tmp_path, clock):
    folder = make_reading_folder(tmp_path, single=0, pairs=6)
    with Reading.open(folder, "R1", clock=clock) as reading:
        sides = set()
        while reading.current is not None:
            shown = reading.current.volumes
            sides.add(shown == reading.study.units[reading.current.unit].volumes)
            assert [p.name.split(".")[0] for p in reading.volume_paths] == list(shown)
            answer(reading)
    assert sides == {True, False}  # some are turned round against study.json
    assert of_type(folder, "answer")[0]["answers"] == {"side": "left"}


# Going back


def test_a_changed_answer_keeps_the_old_one_and_its_reason(tmp_path, clock):
    folder = make_reading_folder(tmp_path, single=4)
    with Reading.open(folder, "R1", clock=clock) as reading:
        assert not reading.can_go_back
        answer(reading, clock)
        answer(reading, clock)
        reading.show(VIEW)
        clock.pass_s(3)
        reading.back()
        reading.back()
        assert reading.current.position == 0 and reading.is_answered and not reading.can_go_back
        assert reading.previous_answers == right_answers("turing")
        reading.show(VIEW)
        with pytest.raises(BadInput, match="answered already"):
            reading.commit({"score": -3}, VIEW)
        with pytest.raises(BadInput, match="needs a reason"):
            reading.change({"score": -3}, "  ", VIEW)
        with pytest.raises(BadInput, match="Nothing was changed"):
            reading.change(right_answers("turing"), "no", VIEW)
        with pytest.raises(AnswersIncomplete):
            reading.change({}, "no", VIEW)
        clock.pass_s(2)
        reading.change({"score": -3}, "saw the vessel", VIEW)
        assert reading.previous_answers == {"score": -3}
        reading.change({"score": -2}, "less certain", VIEW)
        reading.forward()
        assert reading.current.position == 1
        reading.forward()
        assert reading.current.position == 2 and not reading.is_answered
        reading.forward()
        assert reading.current.position == 2
        with pytest.raises(BadInput, match="not been shown"):
            reading.change({"score": 1}, "no", VIEW)
        reading.show(VIEW)
        with pytest.raises(BadInput, match="no answer yet"):
            reading.change({"score": 1}, "no", VIEW)
        clock.pass_s(3)
        reading.commit({"score": 1}, VIEW)
    first, second = of_type(folder, "change")
    assert first["old_answers"] == right_answers("turing") and first["answers"] == {"score": -3}
    assert (second["old_answers"], second["reason"]) == ({"score": -3}, "less certain")
    assert first["active_s"] == 7.0  # 5 s until the answer and 2 s when seen again, none of the other cases
    third = of_type(folder, "answer")[2]
    assert (third["active_s"], third["committed_s"]) == (6.0, 8.0)  # the 2 s with the other case are not its own
    given = verify_study(tmp_path).readers["R1"].answers[0]
    assert (given.answers, given.first_answers, given.changes) == ({"score": -2}, right_answers("turing"), 2)
    assert verify_study(tmp_path).ok


def test_the_last_case_can_be_seen_again(tmp_path, clock):
    make_reading_folder(tmp_path, single=2)
    with Reading.open(tmp_path, "R1", clock=clock) as reading:
        read_all(reading)
        reading.back()
        assert reading.current.position == 1
        reading.show(VIEW)
        reading.change({"score": -3}, "looked again", VIEW)
        reading.forward()
        assert reading.current is None
    assert verify_study(tmp_path).ok


def test_the_study_can_forbid_going_back(tmp_path, clock):
    make_reading_folder(tmp_path, back="none")
    with Reading.open(tmp_path, "R1", clock=clock) as reading:
        answer(reading)
        assert not reading.can_go_back
        with pytest.raises(BadInput, match="no going back"):
            reading.back()


def test_training_with_its_feedback_cannot_be_answered_again(tmp_path, clock):
    make_reading_folder(tmp_path, single=4, training=1)
    with Reading.open(tmp_path, "R1", clock=clock) as reading:
        assert answer(reading) is not None
        assert not reading.can_go_back
        answer(reading)
        reading.back()
        assert not reading.can_go_back


# Sessions


def test_a_session_begins_after_its_washout(tmp_path):
    folder = make_reading_folder(tmp_path, single=4, sessions=2, min_days=28)
    with Reading.open(folder, "R1", clock=FakeClock("2026-03-01T23:50:00.000Z")) as reading:
        read_all(reading)
    for early in ("2026-03-02T09:00:00.000Z", "2026-03-28T23:59:00.000Z"):
        with pytest.raises(WashoutNotOver) as caught:
            Reading.open(folder, "R1", clock=FakeClock(early, boot=early))
        assert (caught.value.earliest, caught.value.session) == (datetime.date(2026, 3, 29), "s2")
        assert "2026-03-29" in caught.value.message
    with Reading.open(folder, "R1", clock=FakeClock("2026-03-29T00:10:00.000Z", boot="b")) as reading:
        assert reading.session == "s2" and read_all(reading) == 2
    found = verify_study(tmp_path)
    assert found.ok and not found.readers["R1"].findings


def test_a_washout_is_overridden_with_a_reason_once(tmp_path):
    folder = make_reading_folder(tmp_path, single=6, sessions=2, min_days=28)
    with Reading.open(folder, "R1", clock=FakeClock("2026-03-01T08:00:00.000Z")) as reading:
        read_all(reading)
    with pytest.raises(WashoutNotOver):
        Reading.open(folder, "R1", clock=FakeClock("2026-03-11T08:00:00.000Z", boot="b"), override_reason=" ")
    with Reading.open(
        folder, "R1", clock=FakeClock("2026-03-11T08:00:00.000Z", boot="b"), override_reason="leaves the clinic"
    ) as reading:
        answer(reading)
    with Reading.open(folder, "R1", clock=FakeClock("2026-03-12T08:00:00.000Z", boot="c")) as reading:
        read_all(reading)
    (override,) = of_type(folder, "override")
    assert (override["session"], override["reason"], override["days"]) == ("s2", "leaves the clinic", 18)
    found = verify_study(tmp_path)
    assert found.ok and [f.kind for f in found.readers["R1"].findings] == ["override"]


def test_a_session_begun_out_of_turn_does_not_lift_the_washout_that_follows(tmp_path):
    """The second session is opened with a reason while the first is not read, and left; the first is read; the second
    is then still too early."""
    folder = make_reading_folder(tmp_path, single=6, sessions=2, min_days=28)
    clock = FakeClock("2026-03-01T08:00:00.000Z")
    Reading.open(folder, "R1", session="s2", clock=clock, override_reason="by mistake").close()
    with Reading.open(folder, "R1", clock=clock) as reading:
        assert reading.session == "s1"
        read_all(reading)
    with pytest.raises(WashoutNotOver):
        Reading.open(folder, "R1", session="s2", clock=FakeClock("2026-03-01T10:00:00.000Z", boot="b"))


def test_no_half_note_that_reading_began_keeps_everybody_out(tmp_path, monkeypatch):
    folder = make_reading_folder(tmp_path, single=2)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SynthDiffusionError, match="no space left"):
            Study.load(folder).freeze()
    assert not (folder / "frozen.json").exists() and not list(folder.glob(".part-*"))
    Study.load(folder).freeze()
    assert Study.load(folder).is_frozen


def test_setting_the_date_back_does_not_shorten_the_washout(tmp_path):
    """Counted from the latest time that the record has seen; and the odd dates are noted."""
    folder = make_reading_folder(tmp_path, single=4, sessions=2, min_days=28)
    clock = FakeClock("2026-03-01T08:00:00.000Z")
    with Reading.open(folder, "R1", clock=clock) as reading:
        answer(reading)
        clock.set_utc("2026-01-20T08:00:00.000Z")
        answer(reading)
    assert of_type(folder, "clock")
    with pytest.raises(WashoutNotOver) as caught:
        Reading.open(folder, "R1", clock=FakeClock("2026-03-02T08:00:00.000Z", boot="b"))
    assert caught.value.earliest == datetime.date(2026, 3, 29)


def test_sessions_are_read_in_turn(tmp_path, clock):
    folder = make_reading_folder(tmp_path, single=4, sessions=2, min_days=0)
    with pytest.raises(BadInput, match="'s1' is not finished"):
        Reading.open(folder, "R1", session="s2", clock=clock)
    with pytest.raises(BadInput, match="no session 's9'"):
        Reading.open(folder, "R1", session="s9", clock=clock)
    with Reading.open(folder, "R1", session="s2", clock=clock, override_reason="s1 needs another room") as reading:
        assert reading.session == "s2" and reading.current.position == 2
        answer(reading)
    assert of_type(folder, "override")[0]["unfinished"] == ["s1"]
    with Reading.open(folder, "R1", session="s1", clock=clock) as reading:
        assert reading.current.position == 0
    assert verify_study(tmp_path).ok


def test_unblinding_is_recorded(tmp_path, clock):
    folder = make_reading_folder(tmp_path)
    with Reading.open(folder, "R1", clock=clock) as reading:
        reading.unblinded("the colleague told")
    found = verify_study(tmp_path).readers["R1"]
    assert found.ok and found.history.unblinded and "colleague" in found.sentences()[0]
    assert of_type(folder, "unblinded")[0]["reason"] == "the colleague told"


def test_random_courses_verify_and_are_resumed_exactly(tmp_path):
    """Thirty random courses of going back, changing, pausing, leaving: the record always replays to what was done."""
    for seed in range(30):
        rng, clock = random.Random(seed), FakeClock()
        root = tmp_path / str(seed)
        folder = make_reading_folder(
            root, single=6, pairs=2, training=1, repeats=1, sessions=1, seed=seed, back=rng.choice(["none", "session"])
        )
        expected: dict[int, dict] = {}
        for sitting in range(100):
            clock.boot = f"b{sitting}"
            with Reading.open(folder, "R1", clock=clock) as reading:
                assert {p: g.answers for p, g in reading.given.items()} == expected
                for _ in range(rng.randrange(8)):
                    clock.pass_s(rng.uniform(0, 90))
                    if reading.can_go_back and rng.random() < 0.3:
                        reading.back()
                    elif rng.random() < 0.2:
                        reading.forward()
                    elif reading.current is not None:
                        reading.show(VIEW)
                        if rng.random() < 0.3:
                            reading.pause()
                            clock.pass_s(50)
                            reading.resume()
                        position, new = reading.current.position, right_answers(reading.task.id, rng)
                        if reading.is_answered and new != expected[position]:
                            reading.change(new, "looked again", VIEW)
                            expected[position] = new
                        elif not reading.is_answered:
                            reading.commit(new, VIEW)
                            expected[position] = new
                done = reading.current is None and not reading.is_answered
            if done:
                break
        found = verify_record(folder / "records" / "R1.jsonl", study=reading.study)
        assert done and not found.findings
        assert {p: g.answers for p, g in found.answers.items()} == expected


def test_the_examples_forms_are_forms():
    from SynthDiffusionLib.reader_study.forms import Form

    assert Form.from_json(turing_form(True)).has("overall") and Form.from_json(choice_form()).has("side")
