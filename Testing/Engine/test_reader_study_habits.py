"""Readers who give nearly one answer are near chance whatever is to be seen: of them, equivalence is not judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reader_study_ratings as examples

from SynthDiffusionLib.reader_study import habits
from SynthDiffusionLib.reader_study.analysis import analyse
from SynthDiffusionLib.reader_study.analysis_turing import HABIT, NO_SPREAD
from SynthDiffusionLib.reader_study.report import render
from SynthDiffusionLib.reports.page import formatted

pytest.importorskip("scipy")
pytest.importorskip("statsmodels")
pytest.importorskip("matplotlib")

SINGLE = [("turing", "single")]
CHOICE = [("choice", "forced_choice")]
LIKENESS = "a figure near chance then says nothing about likeness"


def run(ratings, kinds=SINGLE, **primary):
    return analyse(examples.merged(examples.study(kinds, {"test": "equivalence", "margin": 0.1} | primary), ratings))


def choose(ratings, **primary):
    return run(ratings, CHOICE, measure="forced_choice", task="choice", item="side", **{"margin": 0.2} | primary)


def rows(result, table):
    return next(t["rows"] for s in result["sections"] for t in s["tables"] if t["id"] == table)


def said(result, name="primary"):
    return " ".join(next(s for s in result["sections"] if s["id"] == name)["sentences"])


def answered(policy, readers=3, real=20, synthetic=20, item=("score", "confidence")):
    """`policy(reader, case, truth)` is the answer; the first cases are real."""
    ratings = []
    for reader in range(readers):
        for i in range(real + synthetic):
            truth = int(i >= real)
            place = {"arm": "gen-a" if truth else "real", "truth": truth}
            ratings.append(examples.rating(f"R{reader + 1}", i, *item, policy(reader, i, truth), **place))
    return ratings


def pairs(policy, readers=3, n=24):
    """`policy(reader, pair, side of the synthetic volume)` is 1 for right; sides alternate, readers exchange them."""
    ratings = []
    for reader in range(readers):
        for i in range(n):
            truth = (i + reader) % 2
            place = {"task": "choice", "kind": "forced_choice", "unit": f"f{i}", "arm": "gen-a", "truth": truth}
            value = "right" if policy(reader, i, truth) else "left"
            ratings.append(examples.rating(f"R{reader + 1}", 1000 + i, "side", "forced_choice", value, **place))
    return ratings


@pytest.mark.parametrize("measure", ["auc", "accuracy"])
@pytest.mark.parametrize("slips, times", [(0, 40), (1, 39), (2, 38), (4, 36)])
def test_real_for_nearly_all_volumes_is_no_equivalence(measure, slips, times):
    result = run(answered(lambda r, i, t: 3 if 19 <= i < 19 + slips else -3), measure=measure)
    did = f"gave the same answer to {times} of 40 volumes" if measure == "auc" else f"called {times} of 40 volumes real"
    text = said(result)
    assert "Result of the stated test: equivalence is not judged." in text
    assert f"Equivalence is not judged: readers R1, R2 and R3 each {did}; {LIKENESS}." in text
    assert "equivalence is shown" not in text and "is shown" not in said(result, "turing")
    (row,) = rows(result, "primary")
    assert row["equivalent"] == "not judged" and row["equivalence_p"] is not None and row["value"] is not None
    assert {r["equivalent"] for r in rows(result, "turing_average")} == {"not judged"}
    cell = "not judged: same answer to " + ("all" if not slips else f"{times} of 40")
    assert {r["equivalent"] for r in rows(result, "turing_readers")} == {cell}
    assert cell in render(result) and formatted(cell, "yes") == cell
    assert "does not depend on that habit" not in render(result)


def test_one_such_reader_is_enough_and_is_named():
    rng = np.random.default_rng(1)
    result = run(answered(lambda r, i, t: -3 if r == 0 and i else int(rng.choice(examples.LEVELS)), real=60))
    assert "Equivalence is not judged: reader R1 gave the same answer to 79 of 80 volumes" in said(result)
    assert "R2" not in said(result).split("Levels of the scale")[0].split("not judged: ")[1].split(";")[0]
    levels = {r["reader"]: (r["levels"], round(r["commonest"], 2)) for r in rows(result, "turing_detection")}
    assert levels["R1"][0] == 2 and levels["R1"][1] > 0.98 and levels["R2"][0] == 6


def test_readers_who_look_are_judged():
    """Random ones, perfect ones with equal arms and with few of one kind, and those who grade within one call."""
    rng = np.random.default_rng(2)
    guessing = answered(lambda r, i, t: int(rng.choice(examples.LEVELS)), real=150, synthetic=150)
    for measure in ("auc", "accuracy"):
        text = said(run(guessing, measure=measure))
        assert "equivalence is shown" in text and "not judged" not in text and HABIT in text
        for arms in ((20, 20), (40, 4)):
            perfect = answered(lambda r, i, t: 3 if t else -3, real=arms[0], synthetic=arms[1])
            text = said(run(perfect, measure=measure, margin=0.3))
            assert "equivalence is not shown" in text and "not judged" not in text
    graded = answered(lambda r, i, t: int(rng.choice((-3, -2, -1))), real=150, synthetic=150)
    assert "not judged" in said(run(graded, measure="accuracy"))
    text = said(run(graded, measure="auc"))
    assert "equivalence is shown" in text and "rests on the degrees of confidence in one and the same answer" in text
    assert "readers R1, R2 and R3 each called 300 of 300 volumes real".replace("readers", "Readers", 1) in text


def test_the_rule_is_where_a_figure_cannot_leave_the_margin():
    """The best that a reader with a share s of one answer can do is 0.5 + 1 - s."""
    from SynthDiffusionLib.reader_study.statistics.single_arm import single_arm

    truth = np.repeat([0, 1], 50)
    for others in (2, 10, 20):
        best = np.where(np.arange(100) >= 100 - others, 2.0, -2.0)[None]
        habit = habits.commonest("R1", habits.LEVEL, best[0], truth)
        assert habit.share == pytest.approx(1 - others / 100) and habit.count == 100 - others
        for figure in ("auc", "accuracy"):
            options = {"threshold": 0.0} if figure == "accuracy" else {}
            value = single_arm(best, truth, figure=figure, readers="fixed", **options).value
            assert value == pytest.approx(0.5 + others / 100) == pytest.approx(1.5 - habit.share)
    assert [habits.limit(m) for m in (None, 0.05, 0.1, 0.15, 0.2, 0.4)] == pytest.approx(
        [0.9, 0.9, 0.9, 0.85, 0.8, 0.8]
    )


@pytest.mark.parametrize("figure", ["auc", "accuracy"])
def test_readers_who_see_but_call_nearly_all_real_are_not_passed_off_as_guessers(figure):
    """d' = 1 behind an extreme criterion, and guessers without one: 100 studies of 3 readers and 24 + 24 volumes."""
    from SynthDiffusionLib.reader_study.statistics.single_arm import single_arm

    rng, truth, margin = np.random.default_rng(3), np.repeat([0, 1], 24), 0.2
    options = {"threshold": 0.0} if figure == "accuracy" else {}
    found = {}
    for d, criterion in ((1.0, 2.5), (0.0, 0.0)):
        shown, stopped, left = 0, 0, 0
        for _ in range(100):
            own = np.sqrt(0.75) * rng.normal(size=(3, 48)) - criterion + rng.normal(0, 0.2, (3, 1))
            x = d * (truth - 0.5) + rng.normal(0, 0.5, 48) + own
            x = np.where(x >= 0, 1, -1) * np.minimum(3, 1 + np.floor(1.5 * np.abs(x)))
            answers = x if figure == "auc" else x > 0
            stop = bool(habits.beyond([habits.commonest("R", habits.LEVEL, row, truth) for row in answers], margin))
            equivalent = single_arm(x, truth, figure=figure, margin=margin, **options).equivalence.equivalent
            shown, stopped, left = shown + equivalent, stopped + stop, left + (equivalent and not stop)
        found[d] = (shown, stopped, left)
    assert found[1.0][0] > 50 and found[1.0][2] <= 2, found
    assert found[0.0][1] <= 5 and found[0.0][2] > 70, found


def test_the_same_side_in_nearly_all_pairs_is_no_equivalence():
    for n, often in ((0, 24), (1, 23)):
        result = choose(pairs(lambda r, i, t, n=n: i < n))
        text = said(result)
        assert "equivalence is not judged" in text and "is shown" not in text
        assert f"readers R1, R2 and R3 each chose the left side in {often} of 24 pairs; {LIKENESS}" in text
        cells = {r["equivalent"] for r in rows(result, "forced_choice_readers")}
        assert cells == {f"not judged: same side in {'all' if often == 24 else '23 of 24'}"}
        assert {(r["right"], r["n"]) for r in rows(result, "forced_choice_detection")} == {(24 - often, 24)}
        assert "is shown" not in said(result, "forced_choice")


def test_a_milder_preference_for_a_side_is_told():
    result = choose(pairs(lambda r, i, t: i % 4 != 0 if r == 0 else i % 4 < 2, n=40), margin=0.2)
    for name in ("primary", "forced_choice"):
        assert "Reader R1 chose the right side in 30 of 40 pairs (p = 0.002, against one half)" in said(result, name)
        assert "Reader R2" not in said(result, name) and "not judged" not in said(result, name)
    for right in (choose(pairs(lambda r, i, t: t)), choose(examples.forced((0.5, 0.5, 0.5), units=60))):
        assert "not judged" not in said(right) and "prefer" not in said(right)


def test_grades_and_differences_of_generators_obey_the_rule():
    same = answered(lambda r, i, t: 4 if i != 3 + r else 3, item=("quality", "scale"), synthetic=30, real=30)
    stated = {"measure": "likert_difference", "item": "quality", "null": 0.0, "margin": 0.5}
    result = run(same, **stated)
    assert "readers R1, R2 and R3 each gave the same answer to 59 of 60 volumes; a small difference then" in said(
        result
    )
    assert "is shown" not in said(result) and "is shown" not in said(result, "likert")
    two = answered(lambda r, i, t: -3 if i != 3 + r else 3)
    for r in answered(lambda r, i, t: -3 if i != 25 + r else 3):
        if r.truth:
            two.append(replace(r, arm="gen-b", unit=f"b{r.unit}", volume_left=f"b{r.volume_left}"))
    stated = {"measure": "mrmc_auc_difference", "arm2": "gen-b", "null": 0.0}
    result = run(two, **stated)
    assert "Result of the stated test: equivalence is not judged." in said(result)
    assert "is shown" not in said(result) and rows(result, "primary")[0]["equivalent"] == "not judged"
    honest = examples.simulated((0.1, 0.2, 0.0), cases=60, arms=("gen-a", "gen-b"), paired=True)
    assert "equivalence is shown" in said(run(honest, **stated | {"margin": 0.3}))


def test_equal_figures_of_all_readers_say_nothing_of_others():
    """Each is right in other cases, but equally often: the d' are equal but for rounding."""
    result = run(answered(lambda r, i, t: (3 if t else -3) * (-1 if i in (r, 20 + r) else 1)), test="difference")
    assert NO_SPREAD in said(result) and "for these readers and cases like these" in said(result)
    assert "no interval over readers can be given, since all have the same d'" in said(result, "turing")
    differing = run(examples.simulated((0.5, 1.0, 1.5)), test="difference")
    assert NO_SPREAD not in said(differing) and "for readers and cases like these" in said(differing)
    assert "over readers, for these cases" in said(differing, "turing")


def test_accuracy_that_is_balanced_for_want_of_cases_is_a_departure():
    rng = np.random.default_rng(4)
    ratings = answered(lambda r, i, t: int(rng.choice(examples.LEVELS)))
    lacking = [r for r in ratings if not (r.reader == "R3" and r.position < 5)]
    departure = "Departure from the study: it states accuracy; the mean of sensitivity and specificity takes its place"
    assert departure in said(run(lacking, measure="accuracy"))
    assert departure not in said(run(ratings, measure="accuracy"))
    assert departure not in said(run(lacking, measure="auc"))


def test_clues_that_nobody_gave_are_one_sentence():
    ratings = answered(lambda r, i, t: [], item=("flaws", "multiple_choice"))
    ratings += answered(lambda r, i, t: 3 if (i + r) % 3 else -3)
    text = said(run(ratings), "agreement")
    assert text.count("All answers are the same") == 1 and "Flaws? (turing), 2 of 2 options" in text
