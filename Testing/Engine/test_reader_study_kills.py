"""No committed answer is lost, and no order changes, however often the reading program is killed."""

from __future__ import annotations

import random

from reader_study_examples import make_reading_folder, of_type, right_answers
from reader_study_killing import read_with_kills

from SynthDiffusionLib.reader_study.study import Study
from SynthDiffusionLib.reader_study.verify import verify_study


def test_a_reading_that_is_killed_twelve_times_loses_nothing(tmp_path):
    folder = make_reading_folder(tmp_path, single=40, repeats=3)
    study = Study.load(folder)
    order = study.order("R1")[0]
    order_bytes = (folder / "orders" / "R1.json").read_bytes()
    rng = random.Random(5)
    answers = {f"{p.unit}/{p.presentation}": right_answers(p.task, rng) for p in order}
    seen = read_with_kills(folder, "R1", answers, kills=12, seed=3)

    assert seen.kills == 12 and len(seen.orders) == 13
    assert seen.early < 8  # most kills fell into the reading itself
    stored = of_type(folder, "answer")
    assert [a["position"] for a in stored] == list(range(43))  # each once, in the order
    assert [(a["unit"], a["presentation"]) for a in stored] == [(p.unit, p.presentation) for p in order]
    for position, told in seen.acknowledged.items():
        assert stored[position]["answers"] == told["answers"]
    assert all(a["answers"] == answers[f"{a['unit']}/{a['presentation']}"] for a in stored)
    committed = [position for positions in seen.orders for position in positions]
    assert committed == sorted(committed) and len(set(committed)) == len(committed)
    assert (folder / "orders" / "R1.json").read_bytes() == order_bytes

    found = verify_study(tmp_path).readers["R1"]
    assert found.ok, found.sentences()
    assert {f.kind for f in found.findings} <= {"not_closed", "recovered"}
    assert sum(f.kind == "not_closed" for f in found.findings) >= 4
