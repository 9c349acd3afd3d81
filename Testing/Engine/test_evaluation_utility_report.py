"""What a report of utility says where nothing can be said: weak networks, one network an arm, no difference."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tiny_utility import scored

pytest.importorskip("matplotlib")

from SynthDiffusionLib.evaluation.sets import results
from SynthDiffusionLib.evaluation.utility import augmentation, gap, scarcity
from SynthDiffusionLib.evaluation.utility.networks import Recipe
from SynthDiffusionLib.evaluation.utility.report import report

DATA = SimpleNamespace(targets=("nodule",))
ARMS = {
    "augmentation": (augmentation.Settings(), list(augmentation.ARMS), ["test", "validation"], "real-targeted"),
    "scarcity": (
        scarcity.Settings(patients=(5, 10)),
        [scarcity.arm_name(arm, n) for n in (5, 10) for arm in scarcity.ARMS],
        ["test"],
        "real-synthetic-n10",
    ),
    "gap": (gap.Settings(), ["real"], list(gap.SETS), "synthetic"),
}
WORDS = {
    "augmentation": ("worst validation masks raises the Dice", "worst validation masks does not clearly change"),
    "scarcity": (
        "10 real patients: adding 50 synthetic pairs raises",
        "10 real patients: adding 50 synthetic pairs does",
    ),
    "gap": (", a clear difference.", ", no clear difference."),
}


def said(experiment: str, gain: float, out=None, **scores) -> list[str]:
    """The first section's sentences, where every patient gains as much in one arm or set."""
    settings, arms, parts, better = ARMS[experiment]
    networks = scored(arms, parts, gains={better: gain}, **scores)
    found = {"networks": networks, "worst": {}, "others": {}, "patients": {}, "leak": {}, "empty": {}}
    measured = report(experiment, DATA, Recipe(), settings, found)
    if out is not None:
        result = results.assemble(
            "utility", measured.sections, sets=[], settings=measured.settings, definitions=measured.definitions,
            command="synthdiffusion evaluate utility", seconds=1.0,
        )  # fmt: skip
        assert "nan" not in results.write_result(result, out)["html"].read_text(encoding="utf-8").casefold().split()
    return list(measured.sections[0].sentences)


@pytest.mark.parametrize("experiment", ARMS)
def test_weak_networks_are_told_first_and_those_that_find_nothing_judge_nothing(experiment):
    clear, unclear = WORDS[experiment]
    strong, weak, blind = (said(experiment, 0.02, base=base) for base in ((0.65, 0.9), (0.4, 0.5), (0.02, 0.06)))
    assert "weak" not in strong[0] and any(clear in s for s in strong)
    assert weak[0].startswith("The networks are weak: trained on real images")
    assert any(clear in s for s in weak)
    assert blind[0].startswith("The networks find next to nothing: trained on real images")
    assert any(unclear in s for s in blind) and not any("is clear:" in s or "raises" in s for s in blind)


@pytest.mark.parametrize("experiment", ARMS)
def test_one_network_an_arm_calls_nothing_clear(experiment, tmp_path):
    sentences = said(experiment, 0.2, tmp_path, networks=1, base=(0.65, 0.75))
    assert sentences[0] == (
        "One network an arm: chance in training is not known, so that there is no interval and nothing can be called "
        "clear. Give --seeds 3 or more."
    )
    assert any("+0.200 (no interval)" in s for s in sentences) and not any("nan" in s for s in sentences)
    assert any(WORDS[experiment][1] in s for s in sentences) and not any("is clear:" in s for s in sentences)


def test_a_difference_of_0_000_is_never_clear():
    """Though each patient's is the same, and its P the smallest that there is."""
    clear, unclear = WORDS["gap"]
    for gain in (0.0004, -0.0004):
        sentences = said("gap", gain, base=(0.65, 0.9))
        assert any(unclear in s for s in sentences) and not any("-0.000" in s for s in sentences)
    assert any(clear in s for s in said("gap", -0.0006, base=(0.65, 0.9)))


def test_of_several_numbers_of_patients_the_largest_tells_how_strong_the_networks_are():
    """With few patients, finding next to nothing is what the question is about."""
    few = {scarcity.arm_name(arm, 5): -0.6 for arm in scarcity.ARMS}
    networks = scored(ARMS["scarcity"][1], ["test"], gains=few, base=(0.65, 0.69))
    found = {"networks": networks, "patients": {}, "leak": {}, "empty": {}}
    sentences = report("scarcity", DATA, Recipe(), scarcity.Settings(patients=(5, 10)), found).sections[0].sentences
    assert sentences[0].startswith("5 real patients: adding 50 synthetic pairs")
