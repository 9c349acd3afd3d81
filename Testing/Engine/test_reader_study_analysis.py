"""The analysis: published tables come out as published, simulated readers as they were made, and what cannot be said is
refused in words."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import reader_study_ratings as examples

from SynthDiffusionLib.errors import BadInput, MissingExtra
from SynthDiffusionLib.reader_study.analysis import FORMAT, analyse
from SynthDiffusionLib.reader_study.selection import Data
from SynthDiffusionLib.reader_study.single_reader import average_curve
from SynthDiffusionLib.reports.sections import both_p, degrees, listing, number, p_text, with_holm

pytest.importorskip("scipy")
pytest.importorskip("statsmodels")
pytest.importorskip("matplotlib")

SINGLE = [("turing", "single")]
needs_van_dyke = pytest.mark.skipif(not (examples.VAN_DYKE / "vandyke.csv").is_file(), reason="no Van Dyke table here")


def run(ratings, kinds=SINGLE, **primary):
    return analyse(examples.merged(examples.study(kinds, primary), ratings))


def section(result, name):
    return next(s for s in result["sections"] if s["id"] == name)


def rows(result, table):
    return next(t["rows"] for s in result["sections"] for t in s["tables"] if t["id"] == table)


def said(result, name):
    return " ".join(section(result, name)["sentences"])


# Published answers: RJafroc, MRMCaov and the Iowa OR-DBM program (facts 6.6)


@needs_van_dyke
@pytest.mark.parametrize(
    "stated, p, low, high",
    [
        ({}, 0.05123303, -0.0878671960, 0.0002665519),
        ({"covariance": "jackknife"}, 0.05166569, -0.08796, 0.00036),
        ({"covariance": "unbiased"}, 0.0511618, None, None),
        ({"covariance": "jackknife", "readers": "fixed"}, 0.0193, None, None),
        ({"covariance": "jackknife", "cases": "fixed"}, 0.0420, None, None),
    ],
)
def test_van_dyke_as_primary(stated, p, low, high):
    result = analyse(examples.merged(examples.van_dyke_study(**stated), examples.van_dyke()))
    (row,) = rows(result, "primary")
    digits = 1e-8 if p == 0.05123303 else 5e-8 if p in (0.05166569, 0.0511618) else 5e-5
    assert row["p"] == pytest.approx(p, abs=digits)
    assert row["difference"] == pytest.approx(-0.04380032, abs=5e-9)
    if low is not None:
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-5)


@needs_van_dyke
def test_van_dyke_details():
    result = analyse(examples.merged(examples.van_dyke_study(), examples.van_dyke()))
    values = {row["arm"]: row["value"] for row in rows(result, "primary_generators_values")}
    assert values == pytest.approx({"gen-a": 0.89703704, "gen-b": 0.94083736}, abs=5e-9)
    (row,) = rows(result, "primary_generators_components")
    assert row["statistic"] == pytest.approx(4.484854, abs=5e-7) and row["df2"] == pytest.approx(15.06611, abs=5e-6)
    assert row["mst"] == pytest.approx(0.004796171, abs=5e-10)
    jackknife = analyse(examples.merged(examples.van_dyke_study(covariance="jackknife"), examples.van_dyke()))
    by_reader = [row["p"] for row in rows(jackknife, "primary_generators_readers")]
    assert by_reader == pytest.approx([0.2693, 0.0768, 0.5668, 0.1290, 0.0230], abs=5e-5)
    assert "a difference is not shown" in said(result, "primary")
    assert "does not show that the generators are equally good" in said(result, "primary")


def test_lu_mao_likert():
    """Counts of one reader's scores 1..5 and R's p (facts 6.11)."""
    ratings, n = [], 0
    for truth, counts in ((0, (0, 3, 37, 68, 17)), (1, (0, 6, 32, 57, 30))):
        for value, count in enumerate(counts, start=1):
            for _ in range(count):
                arm = "gen-a" if truth else "real"
                ratings.append(examples.rating("R1", n, "rating", "scale", value, task="first", arm=arm, truth=truth))
                n += 1
    study = examples.van_dyke_study(measure="likert_difference", arm2=None)
    result = analyse(examples.merged(study, ratings))
    (row,) = rows(result, "likert_readers")
    assert row["p"] == pytest.approx(0.257, abs=5e-4)
    assert (round(row["mean_real"], 1), round(row["mean_synthetic"], 1)) == (3.8, 3.9)
    assert (round(row["sd_real"], 1), round(row["sd_synthetic"], 1)) == (0.7, 0.8)
    assert "pooled ratings" not in said(result, "likert")  # one reader: nothing is pooled


def test_fleiss_table():
    """Fleiss 1971, 30 patients and 6 psychiatrists (R irr; facts 6.1)."""
    table = [
        "444444",
        "222555",
        "233335",
        "555555",
        "222444",
        "113333",
        "333355",
        "113334",
        "114444",
        "555555",
        "144444",
        "124444",
        "222333",
        "144444",
        "224445",
        "333335",
        "111455",
        "111112",
        "224444",
        "133555",
        "555555",
        "244444",
        "224555",
        "114444",
        "144445",
        "222224",
        "111155",
        "224444",
        "133333",
        "555555",
    ]
    names = "abcde"
    item = {"id": "which", "type": "choice", "text": "Which?"}
    item["options"] = [{"value": name, "label": name} for name in names]
    tasks = [{"id": "t", "kind": "single", "form": {"id": "t", "title": "t", "items": [item]}}]
    ratings = [
        examples.rating(f"R{j}", i, "which", "choice", names[int(answer) - 1], task="t")
        for i, answers in enumerate(table)
        for j, answer in enumerate(answers)
    ]
    result = analyse(examples.merged(examples.study([], {}, tasks=tasks), ratings))
    found = {row["name"]: row["value"] for row in rows(result, "agreement")}
    assert next(v for k, v in found.items() if "Fleiss" in k) == pytest.approx(0.4302445, abs=5e-8)
    for row in rows(result, "agreement"):  # alpha is told by disagreements, all others by agreements
        if "Krippendorff" in row["name"]:
            of = 1 - row["observed_disagreement"] / row["expected_disagreement"]
        else:
            of = (row["observed"] - row["expected"]) / (1 - row["expected"])
        assert row["value"] == pytest.approx(of)


def test_exact_counts_of_a_reader():
    """270 of 468 and the like come from scipy; here that the right counts get there: sensitivity, specificity, d'."""
    ratings = []
    for i in range(20):
        truth, called = int(i < 10), int(i < 7 or 10 <= i < 14)  # hit rate .7, false alarms .4
        arm = "gen-a" if truth else "real"
        ratings.append(examples.rating("R1", i, "score", "confidence", 2 if called else -2, arm=arm, truth=truth))
    result = run(ratings)
    (row,) = rows(result, "turing_readers")
    assert (row["correct"], row["n"], row["accuracy"]) == (13, 20, 0.65)
    (row,) = rows(result, "turing_detection")
    assert (row["sensitivity"], row["specificity"]) == pytest.approx((0.7, 0.6))
    # Log-linear: (7.5 / 11) and (4.5 / 11); standard normal table.
    assert row["d_prime"] == pytest.approx(0.4728 + 0.2299, abs=2e-4)


# Simulated readers


def test_readers_of_known_ability():
    strong = run(examples.simulated((2.0, 2.2, 1.8, 2.0), cases=40, seed=3))
    (auc,) = rows(strong, "primary")
    # Evidence has variance .6**2 + .8**2 = 1: AUC = Phi(d' / sqrt 2); six levels lose a little.
    expected = 0.5 * (1 + math.erf(2.0 / 2.0))
    assert abs(auc["value"] - expected) < 0.06 and auc["low"] < expected < auc["high"]
    assert auc["p"] < 0.001 and "a difference is shown" in said(strong, "primary")
    guessing = run(examples.simulated((0.0, 0.0, 0.0, 0.0), cases=40, seed=4))
    (auc,) = rows(guessing, "primary")
    assert auc["low"] < 0.5 < auc["high"] and auc["p"] > 0.05
    assert "does not show that readers cannot tell the volumes apart" in said(guessing, "primary")


def test_equivalence_is_shown_only_by_its_test():
    many = [r for r in examples.forced((0.5,) * 8, units=120, seed=2)]
    stated = {"measure": "forced_choice", "task": "choice", "item": "side", "test": "equivalence", "margin": 0.15}
    result = run(many, [("choice", "forced_choice")], **stated)
    assert "equivalence is shown" in section(result, "primary")["sentences"][1]
    few = run(examples.forced((0.5, 0.5), units=12, seed=1), [("choice", "forced_choice")], **stated)
    assert "equivalence is not shown" in section(few, "primary")["sentences"][1]
    without = run(many, [("choice", "forced_choice")], **{**stated, "margin": None})
    assert "without a margin" in said(without, "primary") and not section(without, "primary")["tables"]


def test_forced_choice_counts_sides():
    ratings = examples.forced((0.9, 0.5), units=40)
    result = run(ratings, [("choice", "forced_choice")], measure="forced_choice", task="choice", item="side")
    for row in rows(result, "forced_choice_readers"):
        own = [r for r in ratings if r.reader == row["reader"]]
        assert row["correct"] == sum((r.value == "right") == (r.truth == 1) for r in own)
    for row in rows(result, "forced_choice_detection"):
        assert row["right"] == sum(r.value == "right" for r in ratings if r.reader == row["reader"])


def test_generators_that_share_reals_are_partly_paired():
    result = run(examples.simulated((1.0, 1.2, 0.8), cases=16, arms=("gen-a", "gen-b")), measure="mrmc_auc_difference")
    assert rows(result, "primary")[0]["design"].startswith("partly paired")
    assert "only a part of their cases in common" in said(result, "generators")
    paired = examples.simulated((1.0, 1.2, 0.8), cases=16, arms=("gen-a", "gen-b"), paired=True)
    result = run(paired, measure="mrmc_auc_difference")
    assert rows(result, "primary")[0]["design"].startswith("all cases in common")


def test_two_volumes_of_a_mask_are_not_paired_by_name():
    base = examples.simulated((1.0, 1.2), cases=8, arms=("gen-a", "gen-b"), paired=True)
    twice = [replace(r, pair="p0") if r.arm == "gen-a" and r.pair in ("p0", "p1") else r for r in base]
    assert "partly paired" in rows(run(twice), "generators")[0]["design"]


def test_repeats_and_training_stay_out():
    first = examples.simulated((1.0, 1.0), cases=12, repeats=0)
    more = [*first, *(r for r in examples.simulated((1.0, 1.0), cases=12, repeats=6, seed=9) if r.presentation == 2)]
    more += [replace(r, phase="training", unit=f"t{r.unit}", value=3) for r in first[:5]]
    assert rows(run(first), "primary") == rows(run(more), "primary")
    assert not any(s["id"] == "repeatability" for s in run(first)["sections"])
    assert "hidden repeat" in said(run(more), "repeatability")


def test_repeatability_is_of_the_same_reader_and_unit():
    ratings = examples.simulated((1.0, 1.0), cases=12, repeats=10)
    again = {(r.reader, r.unit): r.value for r in ratings if r.presentation == 2}
    same = [again[r.reader, r.unit] == r.value for r in ratings if r.presentation == 1 and (r.reader, r.unit) in again]
    levels = [row for row in rows(run(ratings), "repeatability") if row["level"] == "ordinal"]
    assert sum(row["agreement"] * row["pairs"] for row in levels) == pytest.approx(sum(same))


def test_learning_and_times():
    rng = np.random.default_rng(5)
    ratings = []
    for r in examples.simulated((1.0, 1.0, 1.0, 1.0), cases=50, seed=5):
        right = rng.random() < 1 / (1 + math.exp(-(-1.5 + 0.03 * r.position)))
        seconds = 20 * math.exp(-0.01 * r.position) * math.exp(0.05 * rng.normal()) * (2 if r.truth else 1)
        ratings.append(replace(r, value=2 if (r.truth == 1) == right else -2, active_s=seconds))
    result = run(ratings)
    slopes = {row["what"]: row for row in rows(result, "course")}
    learning = slopes["log odds of a right answer"]
    assert learning["low"] < 0.3 < learning["high"] and learning["p"] < 0.05
    (ratio,) = rows(result, "times_ratio")
    assert ratio["ratio"] == pytest.approx(2.0, rel=0.1) and ratio["p_holm"] < 0.05
    assert [r["n"] for r in rows(result, "times") if r["reader"] == "all" and r["arm"] == "all"] == [400]


# What cannot be said


def test_one_reader_is_fixed_and_the_report_says_so():
    result = run(examples.simulated((1.5,), cases=20, items=("score", "quality")))
    assert rows(result, "primary")[0]["readers_model"] == "fixed"
    assert "Departure from the study" in said(result, "primary")
    assert not any(s["id"] == "agreement" for s in result["sections"])


def test_pooled_mann_whitney_is_refused_with_the_reason():
    result = run(examples.simulated((1.0, 1.0), cases=12, items=("score", "quality")))
    assert "pooled ratings of 2 readers is not made" in said(result, "likert")
    assert len(rows(result, "likert_readers")) == 2


def test_perfect_readers_get_a_bound_and_not_a_point():
    ratings = [replace(r, value=3 if r.truth else -3) for r in examples.simulated((1, 1, 1), cases=10)]
    result = run(ratings)
    (row,) = rows(result, "primary")
    assert row["value"] == 1.0 and row["low"] < 0.9
    assert "do not vary at all" in said(result, "primary") and "for these readers" in said(result, "primary")
    agreement = [r for r in rows(result, "agreement") if r["value"] == 1.0 and "ICC" not in r["name"]]
    assert agreement and all(r["low"] is None for r in agreement)


def test_equal_answers():
    ratings = [replace(r, value=1) for r in examples.simulated((1, 1), cases=10)]
    result = run(ratings)
    assert rows(result, "primary")[0]["value"] == 0.5
    assert "All answers are the same" in said(result, "agreement")


def test_missing_answers_are_left_out_and_said():
    full = examples.simulated((1.0, 1.0, 1.0), cases=20)
    gaps = [r for r in full if not (r.reader == "R2" and r.position % 10 == 0)]
    lost = {r.unit for r in full} - {r.unit for r in gaps if r.reader == "R2"}
    result = run(gaps)
    assert f"{len(lost)} of 40 cases are left out" in said(result, "primary")
    whole = run([r for r in full if r.unit not in lost])
    assert rows(result, "primary")[0]["value"] == pytest.approx(rows(whole, "primary")[0]["value"])
    assert rows(result, "turing_readers")[0]["n"] == 40  # one reader alone keeps the own answers
    few = run([r for r in full if not (r.reader == "R2" and r.position > 4)])
    assert "R2 (answered 5 of 40)" in said(few, "primary") and "exclude" in said(few, "primary")


@pytest.mark.parametrize(
    "stated, words",
    [
        ({"arm": "other"}, "names the arm 'other'"),
        ({"measure": "mystery"}, "'mystery' is unknown"),
        ({"measure": "accuracy", "item": "quality"}, "cannot be made of the question 'quality'"),
        ({"task": "nothing"}, "names the task 'nothing'"),
        ({"item": "nothing"}, "names the question 'nothing'"),
        ({"measure": "mrmc_auc_difference", "arm2": "gen-z"}, "second arm 'gen-z'"),
        ({"test": "equivalence", "margin": 0.6}, "Limits of equivalence"),
    ],
)
def test_a_primary_endpoint_that_cannot_be_calculated(stated, words):
    result = run(examples.simulated((1.0, 1.0), cases=10, items=("score", "quality")), **stated)
    assert words in said(result, "primary") and not section(result, "primary")["tables"]
    assert "Nothing else in this report takes its place" in said(result, "primary")
    assert result["sections"][0]["id"] == "primary"


def test_accuracy_of_unequal_numbers_is_balanced_so_that_a_habit_is_no_ability():
    """Readers who call two of three volumes synthetic, whatever they see: with 5 real and 15 synthetic volumes they are
    right in more than half."""
    ratings = examples.simulated((1.0, 1.0), cases=15)
    fewer = [r for r in ratings if r.truth or int(r.unit.rsplit("-", 1)[1]) < 5]
    habit = [replace(r, value=-1 if int(r.unit.rsplit("-", 1)[1]) % 5 == 0 else 2) for r in fewer]
    result = run(habit, measure="accuracy")
    row = section(result, "primary")["tables"][0]["rows"][0]
    assert row["value"] == pytest.approx(0.5) and row["measure"] == "Balanced accuracy"
    assert "5 real and 15 synthetic cases, so that accuracy is the mean of sensitivity and specificity" in said(
        result, "primary"
    )
    readers = next(t for t in section(result, "turing")["tables"] if t["id"] == "turing_readers")["rows"]
    assert [r["correct"] for r in readers] == [13, 13] and all(r["p"] == 1.0 for r in readers)  # 13 of 20 are no skill


def test_no_answers():
    training = [replace(r, phase="training") for r in examples.simulated(cases=4)]
    with pytest.raises(BadInput, match="no answer outside of training"):
        run(training)


def test_what_to_install(monkeypatch):
    monkeypatch.setattr("SynthDiffusionLib.reader_study.analysis.NEEDED", ("numpy", "no-such-distribution"))
    with pytest.raises(MissingExtra, match="no-such-distribution"):
        run(examples.simulated(cases=4))


def test_patients_are_clusters():
    paired = examples.simulated((1.0, 1.0, 0.5), cases=20, paired=True, seed=8)
    apart = [replace(r, patient=r.unit) for r in paired]
    (together,), (single,) = rows(run(paired), "primary"), rows(run(apart), "primary")
    assert together["value"] == single["value"] and together["se"] != single["se"]
    assert "count as one cluster" in together["note"] and "cluster" not in single["note"]


# Form


def test_primary_first_and_the_rest_exploratory():
    items = ("score", "quality", "organ", "flaws", "sure", "size", "why", "marks")
    ratings = examples.simulated((1.0, 1.0), cases=10, arms=("gen-a", "gen-b"), items=items, repeats=5)
    result = run([*ratings, *examples.forced((0.7, 0.8))], [*SINGLE, ("choice", "forced_choice")])
    assert result["format"] == FORMAT
    labels = [s["label"] for s in result["sections"]]
    assert labels[:2] == ["primary", "data"] and set(labels[2:]) == {"exploratory"}
    assert {s["id"] for s in result["sections"]} == {
        "primary", "data", "turing", "forced_choice", "generators", "likert", "agreement", "repeatability", "times",
        "course", "marks", "comments",
    }  # fmt: skip
    assert all(
        s["family"] for s in result["sections"] if s["id"] in ("turing", "generators", "likert", "times", "course")
    )
    json.dumps(result, allow_nan=False)
    again = run([*ratings, *examples.forced((0.7, 0.8))], [*SINGLE, ("choice", "forced_choice")])
    assert again == result


def test_corrected_p_values_decide_in_exploratory_sections():
    ratings = examples.simulated((1.0, 1.4, 0.6), cases=24, arms=("gen-a", "gen-b"), seed=0)
    result = run(ratings)
    for row in rows(result, "turing_average"):
        sentence = next(
            b
            for a, b in zip(section(result, "turing")["sentences"], section(result, "turing")["sentences"][1:])
            if a.startswith(f"{row['measure']} for '{row['arm']}'")
        )
        deciding = row["p"] if row["p_holm"] is None else row["p_holm"]
        assert ("is statistically significant" in sentence) == (deciding < 0.05) and deciding >= row["p"]
    (primary,) = [r for r in rows(result, "turing_average") if r["p_holm"] is None]  # stated before: in no family
    assert (primary["arm"], primary["measure"], primary["p"]) == (
        result["study"]["primary"]["arm"], "AUC", rows(result, "primary")[0]["p"],
    )  # fmt: skip
    note = next(t["note"] for t in section(result, "turing")["tables"] if t["id"] == "turing_average")
    assert "Holm's correction for the 3 tests" in note and "primary endpoint is not among them" in note


def test_average_curve_has_the_average_area():
    xs = [np.array([0, 0, 0.2, 1]), np.array([0, 0.5, 0.5, 1])]
    ys = [np.array([0, 0.4, 0.7, 1]), np.array([0, 0.3, 0.9, 1])]
    areas = [float(np.trapezoid(y, x)) for x, y in zip(xs, ys)]
    x, y = average_curve(xs, ys)
    assert float(np.trapezoid(y, x)) == pytest.approx(np.mean(areas))


def test_matrix_of_data():
    ratings = examples.simulated((1.0, 1.0), cases=5)
    matrix = Data(examples.study(SINGLE), tuple(ratings)).arm_matrix("turing", "score", "gen-a")
    for i, reader in enumerate(matrix.readers):
        for j, unit in enumerate(matrix.cases):
            (value,) = [r.value for r in ratings if r.reader == reader and r.unit == unit]
            assert matrix.values[i, j] == value
            assert matrix.truth[j] == int("gen-a" in unit)


def test_wording():
    assert p_text(0.0004) == "p < 0.001" and p_text(0.0512) == "p = 0.051" and p_text(math.nan) == "p not defined"
    assert (
        both_p(0.02, 0.04) == "p = 0.020; corrected for the other tests, p = 0.040" and both_p(0.2, 0.2) == "p = 0.20"
    )
    assert number(-0.0001) == "0.000" and degrees(math.inf) == "infinite"
    assert listing(["a", "b", "c"]) == "a, b and c" and listing([]) == "none"
    tests = [{"p": 0.01}, {"p": None}, {"p": 0.03}]
    with_holm(tests)
    assert [t["p_holm"] for t in tests] == [0.02, None, 0.03]


@pytest.mark.parametrize("value", examples.LEVELS)
@pytest.mark.parametrize("truth", [0, 1])
def test_the_sign_is_the_call(value, truth):
    answer = examples.rating("R1", 0, "score", "confidence", value, truth=truth)
    assert answer.is_correct == ((value > 0) == bool(truth))
    assert replace(answer, item_type="scale").is_correct is None and replace(answer, truth=None).is_correct is None


def test_accuracy_is_the_part_of_right_signs():
    ratings = examples.simulated((0.8, 0.3), cases=15, seed=6)
    result = run(ratings, measure="accuracy")
    right = [r.is_correct for r in ratings]
    assert rows(result, "primary")[0]["value"] == pytest.approx(sum(right) / len(right))
    assert sum(row["correct"] for row in rows(result, "turing_readers")) == sum(right)


def test_every_primary_endpoint_that_a_design_may_name_can_be_calculated():
    """What design_checks lets pass must not be refused after reading, when it is too late."""
    from SynthDiffusionLib.reader_study.study import MEASURE_TYPES

    one = examples.simulated((0.5, 1.0, 1.5), cases=12, arms=("gen-a", "gen-b"), items=("score", "quality", "size"))
    questions = {"confidence": "score", "scale": "quality", "number": "size"}
    for measure, types in MEASURE_TYPES.items():
        if measure == "forced_choice":
            continue
        for kind in types:
            arm2 = {"mrmc_auc_difference": "gen-b", "likert_difference": "real"}.get(measure)
            stated = {"measure": measure, "item": questions[kind]} | ({"arm2": arm2} if arm2 else {})
            if measure in ("likert_difference", "mrmc_auc_difference"):
                stated["null"] = 0.0
            row = section(run(one, **stated), "primary")["tables"][0]["rows"][0]
            assert row["p"] is not None, (measure, kind)
