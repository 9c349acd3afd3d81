"""GRRAS: what the filled-in items say of layouts, counts and the primary endpoint."""

from __future__ import annotations

import re

import reader_study_ratings as examples

from SynthDiffusionLib.reader_study.grras import grras


def item(text: str, number: int) -> str:
    return next(line for line in text.splitlines() if re.match(rf"\| [^|]+ \| {number} \|", line))


def pairs(readers: int, units: int) -> list:
    """Each unit shows one real and one synthetic volume; every second reader sees the sides exchanged."""
    ratings = []
    for reader in range(readers):
        for n in range(units):
            side = (reader + n) % 2  # 1: the synthetic one on the right
            names = (f"r{n}", f"s{n}") if side else (f"s{n}", f"r{n}")
            place = {"task": "choice", "kind": "forced_choice", "unit": f"f{n}", "arm": "gen-a", "truth": side}
            place |= {"volume_left": names[0], "volume_right": names[1]}
            ratings.append(examples.rating(f"R{reader}", n, "side", "forced_choice", "left", **place))
    return ratings


ARMS = ({"id": "real", "truth": "real"}, {"id": "gen-a", "truth": "synthetic"})


def test_pairs_are_reported_side_by_side_and_single_volumes_as_they_are_shown():
    forced = examples.study([("choice", "forced_choice")])
    said = item(grras(examples.merged(forced, pairs(2, 3), arms=ARMS)), 2)
    assert "pairs side by side, in axial slices" in said and "three planes" not in said
    single = examples.study([("turing", "single")])
    ratings = examples.simulated(cases=3)
    assert "single volumes in three planes" in item(grras(examples.merged(single, ratings)), 2)
    axial = examples.study([("turing", "single")], viewing={"layout": "axial", "windows": []})
    assert "single volumes in axial slices" in item(grras(examples.merged(axial, ratings)), 2)


def test_volumes_are_counted_once_however_many_tasks_show_them():
    """Six volumes of each arm, in a task that shows them singly, another one too, and one that shows them as pairs."""
    tasks = [("turing", "single"), ("again", "single"), ("choice", "forced_choice")]
    ratings = []
    for n in range(6):
        for name, arm in ((f"r{n}", "real"), (f"s{n}", "gen-a")):
            for task in ("turing", "again"):
                place = {"task": task, "unit": f"{task}-{name}", "arm": arm, "truth": int(arm != "real")}
                ratings.append(examples.rating("R0", n, "score", "confidence", 1, volume_left=name, **place))
    said = item(grras(examples.merged(examples.study(tasks), ratings + pairs(2, 6), arms=ARMS)), 3)
    assert "real (real, 6 volumes read)" in said and "gen-a (synthetic, 6 volumes read)" in said
    # Pairs alone: the real ones are known too, since there is one real arm.
    said = item(grras(examples.merged(examples.study(tasks[2:]), pairs(3, 4), arms=ARMS)), 3)
    assert "real (real, 4 volumes read)" in said and "gen-a (synthetic, 4 volumes read)" in said


def test_the_primary_endpoint_is_stated_whole():
    primary = {"test": "equivalence", "null": 0.5, "margin": 0.125}
    study = examples.study([("turing", "single")], primary)
    said = item(grras(examples.merged(study, examples.simulated(cases=3))), 10)
    for part in ("auc of the arm gen-a", "task 'turing'", "question 'score'", "Is this volume real or synthetic?",
                 "null value 0.5", "margin 0.125", "alpha 0.05"):  # fmt: skip
        assert part in said
    two = examples.study([("turing", "single")], {"measure": "likert_difference", "arm2": "real", "item": "quality"})
    assert "of the arm gen-a against real" in item(grras(examples.merged(two, examples.simulated(cases=3))), 10)
