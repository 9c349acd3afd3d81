"""What an experiment found, as sections: sentences, tables for those who check, plots, example slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.sets.measured import Measured
from SynthDiffusionLib.evaluation.utility import analysis, augmentation, gap, scarcity
from SynthDiffusionLib.evaluation.utility.examples import picture
from SynthDiffusionLib.evaluation.utility.networks import Recipe
from SynthDiffusionLib.evaluation.utility.pairs import Data
from SynthDiffusionLib.reports.sections import Section, Table, columns, with_holm

LEVEL = 0.05
LEAST_REAL_DICE = 0.6  # as in `evaluate adherence`: below it networks are weak
LEAST_FOUND = 0.1  # below it networks find next to nothing
UNEVEN = 0.1  # of the Dice of two networks of one arm
KHADRA = "Khadra and Türkbey, arXiv:2410.12542 (abstract and figures; the paper's numbers were not at hand)"
KEBAILI = "Kebaili et al., ISBI 2024, arXiv:2406.05421"
LSDM = "Tang, Seyam and Yang, Med-LSDM, arXiv:2507.00206"
DEFINITIONS = {
    "Dice": "2 |A and B| / (|A| + |B|) of the target found and the target drawn, 1 where both are empty; over a "
    "patient's cases and the targets, then over the networks of the arm: each patient counts once",
    "interval": "95 %, Student's t: the squared standard error is the variance between patients over their number plus "
    "that between the networks of an arm, within its fold, over theirs, with Satterthwaite's degrees of freedom: who "
    "was tested, and how the trainings happened to go. That other patients might have been trained on is not in it. "
    "With several folds of one network each, the networks of all folds are one group, and which patients they were "
    "trained on is in it too. With one network an arm there is no interval",
    "p": "Wilcoxon's signed-rank test of the patients' differences, each a mean over the arm's networks: of these "
    "networks, over patients. Holm's correction over the tests of one table",
    "clear": "a difference whose interval leaves out 0 and whose corrected P is below 0.05; all others are not clear. "
    "Nothing is clear with one network an arm, nor where the Dice of the networks that were trained on real images "
    f"alone is below {LEAST_FOUND} on real images, nor is a difference of 0.000",
    "worst masks": "the arms 'real + synthetic' of worst and of other masks are trained on class maps of validation "
    "patients with images that the generator made for them; these patients' own images are in one arm only, which says "
    "so. Validation patients are not tested on",
    "weak": f"networks whose Dice on real images is below {LEAST_REAL_DICE}, trained on real images alone; of several "
    "numbers of patients, on the largest",
    "better, worse": "patients whose mean Dice is higher or lower than with the arm that it is compared with",
    "equal": "every network of every arm is trained with as many optimiser steps, crops and the same first weights "
    "(those of its seed), and its last weights are tested: nothing is chosen on validation or test cases",
    "cartoon": "the training cases' class means with Gaussian noise of their voxels' deviations, painted on a mask: "
    "an image that needs no model. What a cartoon gains as well is no sign of skill",
}


def report(experiment: str, data: Data, recipe: Recipe, settings: Any, found: Mapping[str, Any]) -> Measured:
    """The sections of an experiment, with settings and definitions.

    Args:
        experiment: "augmentation", "scarcity" or "gap".
        settings: of the experiment.
        found: what its function returned.
    """
    make = {"augmentation": _augmentation, "scarcity": _scarcity, "gap": _gap}[experiment]
    networks = found["networks"]
    part = gap.REAL if experiment == "gap" else "test"
    patients = len({s["patient"] for s in networks[0]["scores"][part]})
    sections = [*make(data, settings, found), *_examples(found), _each(networks)]
    told = {k: v for k, v in found.items() if k not in ("networks", "examples")}
    chosen = {
        "experiment": experiment,
        "settings": vars(settings),
        "recipe": recipe.to_json(),
        "targets": list(data.targets),
        "test_patients": patients,
        "found": told,
    }
    return Measured(sections, chosen, DEFINITIONS, ())


def _row(arm: str, label: str, networks: Sequence[Mapping[str, Any]], part: str = "test") -> dict[str, Any]:
    scores = analysis.scores_of(networks, arm, part)
    own = [n for n in networks if n["arm"] == arm]
    estimate = analysis.mean(scores)
    return {
        "arm": arm,
        "label": label,
        "training": " + ".join(str(len(g)) for g in own[0]["training"]),
        "networks": len(scores.values),
        "patients": len(scores.patients),
        "dice": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "median": float(np.median(scores.by_patient)),
        **_networks(scores),
    }


def _networks(scores: analysis.Scores) -> dict[str, float]:
    """The worst and the best network of an arm."""
    means = scores.values.mean(1)
    return {"worst_network": float(means.min()), "best_network": float(means.max())}


def _uneven(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence where networks of one arm differ much among themselves."""
    apart = [r for r in rows if r["best_network"] - r["worst_network"] > UNEVEN]
    if not apart:
        return []
    row = max(apart, key=lambda r: r["best_network"] - r["worst_network"])
    return [
        f"The trainings went unevenly: the networks of '{row['label']}' lie between {row['worst_network']:.2f} and "
        f"{row['best_network']:.2f}. More steps or more networks would say more."
    ]


def _warnings(real: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the figures: too few networks, or weak ones.

    Args:
        real: row of the networks that were trained on real images alone, with their Dice on real images, and with the
            "number" of patients where there are several.
    """
    said = []
    if real["networks"] < 2:
        said.append(
            "One network an arm: chance in training is not known, so that there is no interval and nothing can be "
            "called clear. Give --seeds 3 or more."
        )
    of = f" of {real['number']} patients" if "number" in real else ""
    reach = f"trained on real images{of} alone, their Dice on real test images is {real['dice']:.2f}"
    if real["dice"] < LEAST_FOUND:
        said.append(
            f"The networks find next to nothing: {reach}, and nothing is called clear. Give --network-steps a larger "
            "number, or more patients."
        )
    elif real["dice"] < LEAST_REAL_DICE:
        said.append(
            f"The networks are weak: {reach}, less than {LEAST_REAL_DICE}. What they gain may not hold for stronger "
            "ones."
        )
    return said


def _against(one: str, other: str, networks: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> dict[str, Any]:
    a, b = (analysis.scores_of(networks, arm) for arm in (one, other))
    estimate = analysis.difference(a, b)
    gains = a.by_patient - b.by_patient
    return {
        "arm": one,
        "label": labels[one],
        "other": labels[other],
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "better": int((gains > 0).sum()),
        "worse": int((gains < 0).sum()),
        "p": analysis.signed_rank(a, b),
    }


_ARMS = columns(
    "label|Trained on", "training|Cases", "networks|Networks|int", "patients|Test patients|int", "dice|Dice|number",
    "low|from|number", "high|to|number", "median|Median|number", "worst_network|Worst network|number",
    "best_network|Best|number",
)  # fmt: skip
_TESTS = columns(
    "label|Trained on", "other|Compared with", "difference|Dice, difference|number", "low|from|number",
    "high|to|number", "better|Better|int", "worse|Worse|int", "p|P|p", "p_holm|P (Holm)|p",
)  # fmt: skip


def _augmentation(data: Data, settings: augmentation.Settings, found: Mapping[str, Any]) -> list[Section]:
    networks, labels = found["networks"], augmentation.ARMS
    rows = [_row(arm, label, networks) for arm, label in labels.items()]
    pairs = [(arm, augmentation.REAL) for arm in labels if arm != augmentation.REAL]
    pairs += [*augmentation.CONTROLS.items(), ("real-targeted", "real-untargeted")]
    tests = [_against(one, other, networks, labels) for one, other in pairs]
    value = {r["arm"]: r for r in rows}
    _judge(tests, value["real"])
    by = {(t["label"], t["other"]): t for t in tests}

    def test(one: str, other: str) -> dict[str, Any]:
        return by[(labels[one], labels[other])]

    sentences = [
        *_warnings(value["real"]),
        _gain("Adding synthetic images of the worst validation masks", test("real-targeted", "real")),
        _versus("cartoons of the same masks", test("real-targeted", "real-cartoons")),
        _versus("as many synthetic images of other masks", test("real-targeted", "real-untargeted")),
        _gain("Adding one synthetic image of every training mask", test("real-synthetic", "real")),
        f"Synthetic images alone: Dice {value['synthetic']['dice']:.2f}, real ones {value['real']['dice']:.2f}, "
        f"cartoons alone {value['cartoons']['dice']:.2f}. " + _clear(test("synthetic", "real")),
        f"The real images of the worst cases themselves: {_signed(test('real-worst', 'real'))}.",
        *_uneven(rows),
    ]

    def gain(arm: str, **beside: Any) -> dict[str, Any]:
        found = test(arm, "real")
        limits = {"value": found["difference"], "low": found["low"], "high": found["high"]}
        measure = "Dice gained over real images alone"
        return (
            {"measure": measure, "row": labels[arm], "n": value["real"]["patients"], "better": "higher"}
            | limits
            | beside
        )

    headlines = (
        gain(
            "real-targeted",
            reference=test("real-worst", "real")["difference"],
            reference_name="their real images added",
            cartoon=test("real-cartoons", "real")["difference"],
            cartoon_name="cartoons added",
        ),
        gain("real-synthetic"),
        gain("synthetic", cartoon=test("cartoons", "real")["difference"], cartoon_name=labels["cartoons"]),
    )
    return [
        Section(
            "augmentation",
            "Segmentation of real test images, by what the network was trained on",
            "measured",
            tuple(sentences),
            (
                Table("arms", "Dice on the real test images", _ARMS, tuple(rows)),
                Table("tests", "Paired differences", _TESTS, tuple(tests), "P corrected over all lines."),
            ),
            (_intervals("arms", "Dice on real test images", rows),),
            f"{len(tests)} tests, Holm's correction.",
            (KHADRA,),
            {"worst": found["worst"], "others": found["others"], "leak": found["leak"]},
            headlines,
        )
    ]


def _scarcity(data: Data, settings: scarcity.Settings, found: Mapping[str, Any]) -> list[Section]:
    networks = found["networks"]
    rows, tests = [], []
    for number in settings.patients:
        labels = {scarcity.arm_name(a, number): f"{number} patients: {text}" for a, text in scarcity.ARMS.items()}
        rows += [{**_row(arm, label, networks), "number": number} for arm, label in labels.items()]
        real, both, painted, made = labels
        tests += [
            {**_against(one, other, networks, labels), "number": number}
            for one, other in ((both, real), (painted, real), (both, painted), (made, real))
        ]
    most = next(r for r in rows if r["arm"] == scarcity.arm_name(scarcity.REAL, max(settings.patients)))
    _judge(tests, most)
    sentences = _warnings(most)
    for number in settings.patients:
        with_pairs, with_cartoons, against, _ = (t for t in tests if t["number"] == number)
        sentences.append(
            f"{_gain(f'{number} real patients: adding {settings.pairs} synthetic pairs', with_pairs)} "
            f"Cartoons in their place: {_signed(with_cartoons)}. {_clear(against, 'pairs', 'cartoons')}"
        )
    sentences += _uneven(rows)
    first = [t for t in tests if t["arm"].startswith("real-synthetic") and t["other"].endswith(scarcity.ARMS["real"])]
    painted = [t for t in tests if t["arm"].startswith("real-cartoons")]
    headlines = tuple(
        {
            "measure": "Dice gained by synthetic pairs",
            "row": f"{t['number']} real patients",
            "value": t["difference"],
            "low": t["low"],
            "high": t["high"],
            "cartoon": c["difference"],
            "cartoon_name": "cartoons in their place",
            "n": rows[0]["patients"],
        }
        for t, c in zip(first, painted)
    )
    curve = {
        "id": "scarcity-curve",
        "kind": "curve",
        "title": "Dice on real test images, by the number of real patients",
        "xlabel": "real patients trained on",
        "ylabel": "Dice",
        "lines": [_line(arm, text, rows, settings.patients) for arm, text in scarcity.ARMS.items()],
    }
    return [
        Section(
            "scarcity",
            "Few real patients, with and without synthetic pairs",
            "measured",
            tuple(sentences),
            (
                Table("arms", "Dice on the real test images", _ARMS, tuple(rows)),
                Table("tests", "Paired differences", _TESTS, tuple(tests), "P corrected over all lines."),
            ),
            (curve,),
            f"{len(tests)} tests, Holm's correction.",
            (KEBAILI,),
            {"leak": found["leak"], "empty": found["empty"], "patients": found["patients"]},
            headlines,
        )
    ]


def _line(arm: str, text: str, rows: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> dict[str, Any]:
    own = {r["number"]: r for r in rows if r["arm"] == scarcity.arm_name(arm, r["number"])}
    values = {"value": "dice", "low": "low", "high": "high"}
    return {"label": text, "x": list(numbers)} | {k: [own[n][v] for n in numbers] for k, v in values.items()}


def _gap(data: Data, settings: gap.Settings, found: Mapping[str, Any]) -> list[Section]:
    networks = found["networks"]
    rows = []
    names = [None, *(data.targets if len(data.targets) > 1 else ())]
    for target in names:
        real = analysis.scores_of(networks, gap.REAL, gap.REAL, target)
        for part, label in gap.SETS.items():
            own = analysis.scores_of(networks, gap.REAL, part, target)
            estimate = analysis.mean(own)
            change = analysis.difference_of_sets(own, real)
            share = analysis.ratio_of_sets(own, real)
            rows.append(
                {
                    "set": part,
                    "label": label,
                    "target": target or ("all" if len(data.targets) > 1 else data.targets[0]),
                    "networks": len(own.values),
                    "patients": len(own.patients),
                    "dice": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    **_networks(own),
                    "difference": None if part == gap.REAL else change.value,
                    "d_low": None if part == gap.REAL else change.low,
                    "d_high": None if part == gap.REAL else change.high,
                    "ratio": None if part == gap.REAL else share.value,
                    "r_low": None if part == gap.REAL else share.low,
                    "r_high": None if part == gap.REAL else share.high,
                    "p": None if part == gap.REAL else analysis.signed_rank(own, real),
                }
            )
    shown = {r["set"]: r for r in rows[: len(gap.SETS)]}
    _judge(rows, shown[gap.REAL], "d_low", "d_high")
    made, real = shown["synthetic"], shown[gap.REAL]
    best = max((shown["cartoons"], shown["unrelated"]), key=lambda r: r["dice"])
    over = analysis.difference_of_sets(*(analysis.scores_of(networks, gap.REAL, r["set"]) for r in (made, best)))
    higher = over.low > 0 and round(over.value, 3) > 0 and real["dice"] >= LEAST_FOUND
    sentences = (
        *_warnings(real),
        "Networks that were trained on real images reach a Dice of "
        f"{_limits(made['dice'], made['low'], made['high'], '')} on synthetic images and {real['dice']:.3f} on the "
        f"real images of the same masks: {_limits(made['difference'], made['d_low'], made['d_high'])}, "
        + ("a clear difference." if made["side"] else "no clear difference."),
        f"{best['label'].capitalize()} reach {best['dice']:.3f}, the higher of the two rows without skill: synthetic "
        f"images {_limits(over.value, over.low, over.high)} against them"
        + ("." if higher else ", which is not clearly higher."),
        *_uneven(rows),
        "A Dice as on real images says that what was drawn is found where it was drawn; it does not say that the "
        "image is realistic.",
    )
    head = {
        "measure": "Dice of networks trained on real images",
        "row": "synthetic images",
        "value": made["dice"],
        "low": made["low"],
        "high": made["high"],
        "reference": real["dice"],
        "reference_name": "real images of the same masks",
        "cartoon": best["dice"],
        "cartoon_name": best["label"],
        "n": made["patients"],
        "better": "near real",
    }
    table = columns(
        "label|Tested on", "target|Class", "networks|Networks|int", "patients|Patients|int", "dice|Dice|number",
        "low|from|number", "high|to|number", "worst_network|Worst network|number", "best_network|Best|number",
        "difference|Minus real|number", "d_low|from|number", "d_high|to|number",
        "ratio|Ratio to real|number", "r_low|from|number", "r_high|to|number", "p|P|p", "p_holm|P (Holm)|p",
    )  # fmt: skip
    return [
        Section(
            "gap",
            "Networks trained on real images, tested on synthetic ones",
            "measured",
            sentences,
            (Table("arms", "Dice by test set", table, tuple(rows), "P of the difference from real images."),),
            (_intervals("arms", "Dice of networks trained on real images", rows[: len(gap.SETS)]),),
            f"{sum(r['p'] is not None for r in rows)} tests, Holm's correction.",
            (LSDM,),
            {"leak": found["leak"]},
            (head,),
        )
    ]


def _examples(found: Mapping[str, Any]) -> list[Section]:
    plots = [picture(columns, f"{name.capitalize()}: " + ", ".join(columns)) | {"id": f"examples-{name}"}
             for name, columns in found.get("examples", ())]  # fmt: skip
    said = "The slice in which the target is largest, outlined. Some images are of patients: keep the page like them."
    return [Section("examples", "Examples", "data", (said,), (), tuple(plots))] if plots else []


def _each(networks: Sequence[Mapping[str, Any]]) -> Section:
    """Every Dice, so that a statistician can do it all again."""
    rows = [
        {"arm": n["arm"], "set": p, "fold": n["fold"], "seed": n["seed"], "case": s["case"], "patient": s["patient"],
         "target": target, "dice": dice}
        for n in networks
        for p, found in n["scores"].items()
        for s in found
        for target, dice in s["dice"].items()
    ]  # fmt: skip
    table = columns(
        "arm|Arm", "set|Set", "fold|Fold|int", "seed|Seed|int", "case|Case", "patient|Patient", "target|Class",
        "dice|Dice|number",
    )  # fmt: skip
    title = "Every network's Dice on every case"
    return Section("each", title, "data", (), (Table("each", title, table, tuple(rows)),))


def _intervals(name: str, title: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "id": name,
        "kind": "intervals",
        "title": title,
        "label": "Dice",
        "line": rows[0]["dice"],
        "rows": [{"reader": r["label"], "value": r["dice"], "low": r["low"], "high": r["high"]} for r in rows],
    }


def _judge(tests: Sequence[dict[str, Any]], real: Mapping[str, Any], low: str = "low", high: str = "high") -> None:
    """Holm's correction, and which way each difference is clear ("side": 1, -1 or 0).

    Args:
        tests: rows with "difference" and "p"; None where there is no difference.
        real: see `_warnings`.
        low, high: keys of the difference's interval.
    """
    with_holm(tests)
    for test in tests:
        shown = test["difference"] is not None and round(test["difference"], 3) != 0
        possible = shown and real["dice"] >= LEAST_FOUND and test["p_holm"] is not None and test["p_holm"] < LEVEL
        test["side"] = int(test[low] > 0) - int(test[high] < 0) if possible else 0


def _limits(value: float, low: float, high: float, sign: str = "+") -> str:
    """ "+0.020 [-0.010, +0.050]", or without an interval where there is none."""
    one, *limits = (f"{round(number, 3) + 0.0:{sign}.3f}" for number in (value, low, high))
    return f"{one} [{', '.join(limits)}]" if np.isfinite(low) else f"{one} (no interval)"


def _signed(test: Mapping[str, Any]) -> str:
    return _limits(test["difference"], test["low"], test["high"])


def _gain(what: str, test: Mapping[str, Any]) -> str:
    """A sentence: clearly raised, clearly lowered, or not clear."""
    words = {1: "raises the Dice", -1: "lowers the Dice", 0: "does not clearly change the Dice"}
    return f"{what} {words[test['side']]}: {_signed(test)}, {test['better']} patients better, {test['worse']} worse."


def _versus(what: str, test: Mapping[str, Any]) -> str:
    words = {1: "clearly more than", -1: "clearly less than", 0: "not clearly other than"}
    return f"That is {words[test['side']]} {what} do: {_signed(test)}."


def _clear(test: Mapping[str, Any], one: str = "synthetic", other: str = "real") -> str:
    word = "clear" if test["side"] else "not clear"
    return f"The difference ({one} minus {other}) is {word}: {_signed(test)}."
