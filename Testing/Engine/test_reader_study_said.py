"""What a report must not leave unsaid, and must not say twice in two ways."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import reader_study_examples as folders
import reader_study_ratings as examples

from SynthDiffusionLib.reader_study import exports
from SynthDiffusionLib.reader_study.analysis import analyse
from SynthDiffusionLib.reader_study.merge import merge
from SynthDiffusionLib.reader_study.reading import Reading
from SynthDiffusionLib.reader_study.report import render

pytest.importorskip("scipy")
pytest.importorskip("statsmodels")
pytest.importorskip("matplotlib")

SINGLE = [("turing", "single")]


def run(ratings, kinds=SINGLE, changes=None, **primary):
    return analyse(examples.merged(examples.study(kinds, primary), ratings, **(changes or {})))


def section(result, name):
    return next(s for s in result["sections"] if s["id"] == name)


def rows(result, table):
    return next(t["rows"] for s in result["sections"] for t in s["tables"] if t["id"] == table)


def said(result, name):
    return " ".join(section(result, name)["sentences"])


def called(share_synthetic, share_real, readers=3, cases=40, seed=0, real=None):
    """Readers who call so much of either kind synthetic."""
    rng = np.random.default_rng(seed)
    ratings = []
    for reader in range(readers):
        for i in range((real or cases) + cases):
            truth = int(i >= (real or cases))
            share = share_synthetic if truth else share_real
            value = 2 if rng.random() < share else -2
            place = {"arm": "gen-a" if truth else "real", "truth": truth}
            ratings.append(examples.rating(f"R{reader}", i, "score", "confidence", value, **place))
    return ratings


def test_readers_who_are_not_there_stand_beside_the_primary_result():
    ratings = examples.simulated((1.0, 1.2))
    lacking = [{"reader": "R4", "position": 0, "session": "s1", "task": "turing", "presentation": 1, "phase": "main"}]
    changes = {"excluded": {"R3": "left out on request; its record is sound"}, "absent": {"R4": 1}, "missing": lacking}
    result = run(ratings, changes=changes)
    stated, departure, interim, *_ = section(result, "primary")["sentences"]
    assert stated.startswith("Stated before reading")
    assert "4 readers were planned, 2 analysed" in departure
    assert "R3 (left out on request; its record is sound)" in departure and "Without a record: R4" in departure
    assert "interim analysis: 1 of 81 planned readings" in interim
    states = {r["reader"]: r["state"] for r in rows(result, "readers")}
    assert states["R1"] == "analysed" and states["R3"].startswith("left out") and states["R4"] == "no record"
    assert "Departure" not in said(run(ratings), "primary")


def test_one_answer_to_everything_shows_no_equivalence():
    ratings = called(1.0, 1.0)
    for measure in ("auc", "accuracy"):
        result = run(ratings, measure=measure, test="equivalence", margin=0.2)
        assert "equivalence is not judged" in said(result, "primary")
        assert rows(result, "primary")[0]["equivalent"] == "not judged"


def test_equivalent_accuracy_of_readers_who_call_most_real_is_not_taken_for_likeness():
    """Of what they call synthetic most is synthetic: they see something, and are right in 60 %."""
    result = run(called(0.35, 0.15, cases=200), measure="accuracy", test="equivalence", margin=0.2)
    text = said(result, "primary")
    assert "Result of the stated test: equivalence is shown" in text
    assert "does not show that the volumes look alike" in text and "% of the real volumes synthetic" in text
    assert "does not show that the volumes look alike" in said(result, "turing")


def test_with_unequal_arms_readers_are_held_against_a_half_by_balanced_accuracy():
    """Guessers who like "synthetic", 15 real and 40 synthetic volumes."""
    result = run(called(0.9, 0.9, real=15, seed=3), measure="accuracy")
    for row in rows(result, "turing_readers"):
        assert row["accuracy"] > 0.6 and row["balanced_low"] <= 0.5 <= row["balanced_high"]
    (plot,) = [p for p in section(result, "turing")["plots"] if p["kind"] == "intervals"]
    assert plot["label"] == "Balanced accuracy" and plot["average"]["value"] is not None
    assert {round(p["value"], 9) for p in plot["rows"]} == {
        round(r["balanced_accuracy"], 9) for r in rows(result, "turing_readers")
    }
    assert "Balanced accuracy (mean of sensitivity and specificity)" in said(result, "turing")


def test_a_figure_has_one_interval():
    """Of each reader and of each generator, with masks in common (clusters), wherever it stands."""
    ratings = examples.simulated((1.0, 1.4, 0.6), cases=24, arms=("gen-a", "gen-b"), paired=True)
    result = run(ratings, measure="auc", arm="gen-a")
    (plot,) = [p for p in section(result, "primary")["plots"] if p["id"] == "primary_readers"]
    alone = {r["reader"]: r for r in rows(result, "turing_detection") if r["arm"] == "gen-a"}
    for bar in plot["rows"]:
        row = alone[bar["reader"]]
        assert (bar["value"], bar["low"], bar["high"]) == pytest.approx((row["auc"], row["auc_low"], row["auc_high"]))
    averages = {(r["arm"], r["measure"]): r for r in rows(result, "turing_average")}
    for row in rows(result, "generators_values"):
        same = averages[row["arm"], row["measure"]]
        assert [row[k] for k in ("value", "low", "high")] == pytest.approx([same[k] for k in ("value", "low", "high")])


def test_nothing_ticked_is_an_answer(tmp_path):
    """R1 ticks a clue wherever it is asked, R2 never: they agree by chance only, on all that they were asked."""
    form = {
        "format": "synthdiffusion-form-1", "id": "f", "title": "f", "items": [
            {"id": "clues", "type": "multiple_choice", "text": "Clues?",
             "options": [{"value": "a", "label": "a"}, {"value": "b", "label": "b"}]},
        ],
    }  # fmt: skip
    folder = folders.make_reading_folder(tmp_path / "study", readers=("R1", "R2"), single=6, form=form)
    for reader, ticked in (("R1", {"clues": ["a"]}), ("R2", {})):
        with Reading.open(folder, reader, clock=folders.FakeClock()) as reading:
            while reading.current is not None:
                reading.show({})
                reading.commit(ticked, {})
    merged = merge(tmp_path / "study")
    assert sorted(r.value for r in merged.ratings) == [[]] * 6 + [["a"]] * 6
    pairs = rows(analyse(merged), "agreement_pairs")
    assert {(r["item"].split("[")[1], r["units"], r["agreement"]) for r in pairs} == {("a]", 6, 0.0), ("b]", 6, 1.0)}
    responses = exports_fhir_items(merged)
    assert responses["R1"] == 6 and responses["R2"] == 0


def exports_fhir_items(merged):
    from SynthDiffusionLib.reader_study.exports_fhir import fhir_responses

    counts = {"R1": 0, "R2": 0}
    for entry in fhir_responses(merged)["entry"]:
        text = str(entry["resource"])
        reader = "R1" if "R1" in text else "R2"
        counts[reader] += sum("clues" in str(item) for item in entry["resource"].get("item", []))
    return counts


def test_a_mark_belongs_to_the_arm_of_its_volume():
    ratings = examples.forced()
    for r in list(ratings):
        place = {"kind": "forced_choice", "task": "choice", "unit": r.unit, "arm": r.arm, "truth": r.truth}
        place |= {"volume_left": r.volume_left, "volume_right": r.volume_right}
        point = {"volume": r.volume_right, "ras": [0.0, 0.0, 0.0], "slice": "axial"}
        ratings.append(examples.rating(r.reader, r.position, "marks", "point", [point], **place))
    result = run(ratings, [("choice", "forced_choice")], measure="forced_choice", task="choice", item="side")
    arms = {row["unit"]: row["arm"] for row in rows(result, "marks")}
    assert arms == {r.unit: "gen-a" if r.truth == 1 else "real" for r in ratings}


def test_volumes_of_one_mask_are_one_case_in_exports(tmp_path):
    ratings = examples.simulated(cases=8, arms=("gen-a", "gen-b"), paired=True)
    study = examples.study(SINGLE, {"measure": "auc"})
    path = exports.mrmcaov_csv(examples.merged(study, ratings), tmp_path / "out.csv")
    with open(path, encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    cases = {arm: {r["case"] for r in table if r["treatment"] == arm} for arm in ("gen-a", "gen-b")}
    assert cases["gen-a"] == cases["gen-b"] and len(cases["gen-a"]) == 16


def test_intervals_without_width_are_not_given():
    ratings = [
        examples.rating(f"R{reader}", i, "score", "confidence", 2 if i % 2 else -2, truth=i % 2,
                        arm="gen-a" if i % 2 else "real", presentation=times, unit=f"u{i}")
        for reader in range(2) for times in (1, 2) for i in range(12)
    ]  # fmt: skip
    result = run(ratings)
    assert all(r["low"] is None and r["high"] is None for r in rows(result, "agreement_pairs"))
    assert all(r["kappa_low"] is None for r in rows(result, "repeatability"))


def test_marks_that_turn_the_direction_of_text_are_shown():
    turned, null = chr(0x202E), chr(0)
    result = run(examples.simulated())
    result["study"]["title"] = f"a{turned}gnp.exe{null}"
    page = render(result)
    assert turned not in page and null not in page and page.count(chr(0xFFFD)) >= 2
