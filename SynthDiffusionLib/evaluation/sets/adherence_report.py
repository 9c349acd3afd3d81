"""What `adherence` found, as sentences for a radiologist and tables for a statistician."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.sets.adherence import (
    FEWEST_PATIENTS,
    REAL,
    ROWS,
    SYNTHETIC,
    Ratio,
    Scores,
    difference_of,
    mean_of,
    ratio_of,
)
from SynthDiffusionLib.evaluation.sets.adherence_definitions import SOURCES
from SynthDiffusionLib.evaluation.sets.cartoons import LABELS
from SynthDiffusionLib.evaluation.sets.overlap import counted_states, median_hd95
from SynthDiffusionLib.evaluation.statistics import CONFIDENCE, Estimate
from SynthDiffusionLib.reports.sections import (
    Section,
    Table,
    columns,
    counted,
    interval_text,
    listing,
    number,
)

LEAST_REAL_DICE = 0.6  # as in `evaluation.adherence`
HEADLINE_CLASSES = 3
SPOKEN_CLASSES = 6  # each of so many has sentences and a plot; of more, only the worst
MASKED = ("both", "missed")
RIVAL, LOWER, LOWER_ON_AVERAGE = "cannot be told apart, or higher", "lower", "lower on average"


def build_sections(scores: Scores, segmenter_name: str, tolerance_mm: float, shared_training: int) -> list[Section]:
    """All sections of the report."""
    ratios = {
        v: {
            figure: ratio_of(scores.by_patient(SYNTHETIC, v, figure), scores.by_patient(REAL, v, figure))
            for figure in ("dice", "surface_dice")
        }
        for v in scores.values
    }
    return [
        _main(scores, ratios, segmenter_name, shared_training),
        _no_skill(scores),
        _left_out(scores),
        _volumes(scores),
    ]


def _main(scores: Scores, ratios: dict[int, dict[str, Ratio]], segmenter_name: str, shared_training: int) -> Section:
    sentences: list[str] = []
    spoken = scores.values if len(scores.values) <= SPOKEN_CLASSES else _worst(scores, ratios)
    if len(spoken) < len(scores.values):
        known = [r["dice"].estimate.value for r in ratios.values()]
        sentences.append(
            f"Over {len(scores.values)} classes, the median ratio of Dice on synthetic to Dice on real images is "
            f"{number(float(np.nanmedian(known)), 2)}; the {len(spoken)} classes with the lowest follow."
        )
    for value in spoken:
        sentences += _sentences(scores, value, ratios[value])
    # The first sentence is all that `evaluate report` shows: nothing that it must be read against may be missing there.
    sentences = [_answer(scores, ratios), *sentences] if len(scores.values) > 1 else [" ".join(sentences)]
    if shared_training:
        sentences[0] = (
            f"Caution: {counted(shared_training, 'patient')} of the segmenter's training are among those measured, as "
            "was allowed. Its figures on them are too good, on real images more than on synthetic ones. " + sentences[0]
        )
    if scores.not_findable:
        sentences.append(
            f"Not measured, since the segmenter does not know them: "
            f"{listing([scores.names[v] for v in scores.not_findable])}."
        )
    sentences.append(f"The masks were compared with what was found by {segmenter_name}.")
    rows = [row for v in scores.values for row in _ratio_rows(scores, v, ratios[v])]
    return Section(
        "adherence",
        "Does a segmenter find in the synthetic images what was drawn?",
        "measured",
        tuple(sentences),
        (
            Table(
                "ratios",
                "Synthetic images against real ones, by class",
                columns(
                    "class|Class", "figure|Figure", "synthetic|Synthetic|number", "real|Real|number",
                    "ratio|Ratio|number", "low|Ratio from|number", "high|to|number",
                    "synthetic_patients|Patients, synthetic|int", "real_patients|Patients, real|int",
                    "shared|In both|int", "design|Patients drawn",
                ),
                tuple(rows),
                "Ratio of the means over patients, synthetic to real.",
            ),
            Table(
                "rows",
                "All figures, with those of answers that need no model",
                columns(
                    "class|Class", "row|What was segmented", "volumes|Volumes|int", "patients|Patients|int",
                    "dice|Dice|number", "dice_low|Dice from|number", "dice_high|to|number",
                    "surface|Surface Dice|number", "surface_low|Surface Dice from|number", "surface_high|to|number",
                    "hd95|HD95 (mm), median|number", "hd95_low|HD95 from|number", "hd95_high|to|number",
                    "missed|Missed|int",
                ),
                tuple(_figure_row(scores, v, row) for v in scores.values for row in ROWS if scores.of(row, v)),
            ),
        ),
        tuple(_plot(scores, v) for v in spoken),
        sources=SOURCES,
        headlines=tuple(_headlines(scores, spoken, ratios)),
    )  # fmt: skip


def _answer(scores: Scores, ratios: dict[int, dict[str, Ratio]]) -> str:
    """All classes in one sentence."""
    found: dict[str, list[str]] = {"worse": [], "easier": [], "alike": [], "": [], "unfound": []}
    for value in scores.values:
        e = ratios[value]["dice"].estimate
        side = "worse" if e.high < 1 else "easier" if e.low > 1 else "alike" if np.isfinite(e.low) else ""
        side = side if np.isfinite(e.value) else "unfound"
        text = f"{scores.names[value]} ({number(e.value, 2)})" if np.isfinite(e.value) else scores.names[value]
        found[side].append(text)
    words = {
        "worse": "found worse than in real images",
        "easier": "easier to find than in real images",
        "alike": "no difference from real images shown",
        "": "no interval",
        "unfound": "no ratio, since it is found in no real image",
    }
    told = [f"{words[k]}: {_some(names)}" for k, names in found.items() if names]
    rivals = [scores.names[v] for v in scores.values if any(_rivals(scores, v, row) for row in LABELS)]
    if rivals:
        told.append(f"not clearly above an answer that needs no model: {_some(rivals)}")
    alone = [scores.names[v] for v in scores.values if not any(scores.of(row, v) for row in LABELS)]
    if alone:
        told.append(
            "no other patient to make an answer from that needs no model, so that nothing says what the Dice is worth: "
            f"{_some(alone)}"
        )
    weak = [
        scores.names[v] for v in scores.values if mean_of(scores.by_patient(REAL, v, "dice")).value < LEAST_REAL_DICE
    ]
    if weak:
        told.append(f"too weak on real images to judge by (Dice below {LEAST_REAL_DICE}): {_some(weak)}")
    return f"Ratio of Dice on synthetic to Dice on real images, by class; {'; '.join(told)}."


def _some(names: Sequence[str]) -> str:
    return listing(names) if len(names) <= SPOKEN_CLASSES else f"{counted(len(names), 'class', 'classes')}"


def _headlines(scores: Scores, values: Sequence[int], ratios: dict[int, dict[str, Ratio]]) -> list[dict[str, Any]]:
    """Dice, and its ratio to real images, of the classes that have sentences; beside the best row without skill."""
    entries = []
    for value in values[:HEADLINE_CLASSES]:
        synthetic, real = (mean_of(scores.by_patient(row, value, "dice")) for row in (SYNTHETIC, REAL))
        without = {row: mean_of(scores.by_patient(row, value, "dice")).value for row in LABELS}
        known = {row: dice for row, dice in without.items() if np.isfinite(dice)}
        best = max(known, key=lambda row: known[row], default=None)
        ratio = ratios[value]["dice"]
        shared = {"row": scores.names[value], "n": ratio.paired + ratio.only_synthetic, "better": "near real"}
        cartoon = {"cartoon_name": LABELS[best]} if best else {}
        entries += [
            {
                "measure": "Dice",
                **vars(synthetic),
                "reference": real.value,
                "reference_name": "same segmenter",
                "cartoon": known[best] if best else None,
                **cartoon,
                **shared,
            },
            {
                "measure": "Dice, ratio to real images",
                **vars(ratio.estimate),
                "reference": 1.0,
                "cartoon": known[best] / real.value if best and real.value else None,
                **cartoon,
                **shared,
            },
        ]
    return entries


def _sentences(scores: Scores, value: int, ratios: dict[str, Ratio]) -> list[str]:
    name, ratio = scores.names[value], ratios["dice"]
    synthetic, real = (mean_of(scores.by_patient(row, value, "dice")) for row in (SYNTHETIC, REAL))
    if not np.isfinite(synthetic.value):
        return [f"{name}: no mask of a synthetic volume that could be segmented has it."]
    if not np.isfinite(real.value):
        return [
            f"{name}: Dice {number(synthetic.value, 2)} on synthetic images; no real image has it, so that nothing "
            "says what could be reached."
        ]
    n = ratio.paired + ratio.only_synthetic
    text = (
        f"{name}: Dice {number(synthetic.value, 2)} on synthetic images ({counted(n, 'patient')}), "
        f"{number(real.value, 2)} on real ones ({counted(ratio.paired + ratio.only_real, 'patient')})"
    )
    if not np.isfinite(ratio.estimate.value):
        return [f"{text}: the segmenter finds it in no real image, so that it says nothing here."]
    text += f": {_ratio_text(ratio)}."
    sentences = [text]
    if real.value < LEAST_REAL_DICE:
        sentences.append(
            f"{name}: on real images the segmenter reaches less than {LEAST_REAL_DICE}. It is too weak to judge by."
        )
    limits = ratio.estimate
    if np.isfinite(limits.low) and limits.low > 1:
        sentences.append(f"{name} is easier to find in the synthetic images than in real ones, which is no merit.")
    elif np.isfinite(limits.high) and limits.high < 1:
        sentences.append(f"{name} is found worse in the synthetic images than in real ones.")
    elif np.isfinite(limits.low):
        text = f"{name}: a difference of Dice between synthetic and real images is not shown by these patients"
        edge = ratios["surface_dice"].estimate
        if np.isfinite(edge.low) and not edge.low <= 1 <= edge.high:
            text += f"; one of surface Dice is: {_ratio_text(ratios['surface_dice'])}"
        sentences.append(f"{text}.")
    if not any(scores.of(row, value) for row in LABELS):
        sentences.append(
            f"{name}: there is no real image of another patient to make answers from that need no model, so that "
            "nothing says what this Dice is worth."
        )
    rivals = [row for row in LABELS if _rivals(scores, value, row)]
    if rivals:
        told = [f"{LABELS[r]} ({number(mean_of(scores.by_patient(r, value, 'dice')).value, 2)})" for r in rivals]
        sentences.append(
            f"{name}: not clearly higher than what needs no model: {listing(told)}. By this figure the model cannot be "
            "told from that, so a high Dice is no sign of a good image here."
        )
    return sentences


def _ratio_text(ratio: Ratio) -> str:
    e = ratio.estimate
    text = f"a ratio of {number(e.value, 2)}"
    if not np.isfinite(e.low):
        return f"{text} (fewer than {FEWEST_PATIENTS} patients: no interval)"
    design = {"paired": "paired by patient", "two-sample": "two samples of different patients"}
    how = design.get(ratio.design, f"{counted(ratio.paired, 'patient')} paired, the others as two samples")
    return f"{text} ({interval_text(e.low, e.high, CONFIDENCE)}, {how})"


def _rivals(scores: Scores, value: int, row: str) -> bool:
    """Whether a row that needs no model is not clearly below the synthetic images, by Dice."""
    difference = _against(scores, value, row)
    if not np.isfinite(difference.value):
        return False
    return difference.low <= 0 if np.isfinite(difference.low) else difference.value <= 0


def _verdict(scores: Scores, value: int, row: str) -> str:
    if _rivals(scores, value, row):
        return RIVAL
    return LOWER if np.isfinite(_against(scores, value, row).low) else LOWER_ON_AVERAGE


def _against(scores: Scores, value: int, row: str) -> Estimate:
    return difference_of(scores.by_patient(SYNTHETIC, value, "dice"), scores.by_patient(row, value, "dice"))


def _worst(scores: Scores, ratios: dict[int, dict[str, Ratio]]) -> tuple[int, ...]:
    known = [v for v in scores.values if np.isfinite(ratios[v]["dice"].estimate.value)]
    return tuple(sorted(known, key=lambda v: ratios[v]["dice"].estimate.value)[:SPOKEN_CLASSES])


def _ratio_rows(scores: Scores, value: int, ratios: dict[str, Ratio]) -> list[dict[str, Any]]:
    rows = []
    for figure, label in (("dice", "Dice"), ("surface_dice", "surface Dice")):
        ratio = ratios[figure]
        rows.append(
            {
                "class": scores.names[value],
                "figure": label,
                "synthetic": mean_of(scores.by_patient(SYNTHETIC, value, figure)).value,
                "real": mean_of(scores.by_patient(REAL, value, figure)).value,
                "ratio": ratio.estimate.value,
                "low": ratio.estimate.low,
                "high": ratio.estimate.high,
                "synthetic_patients": ratio.paired + ratio.only_synthetic,
                "real_patients": ratio.paired + ratio.only_real,
                "shared": ratio.paired,
                "design": ratio.design,
            }
        )
    return rows


def _figure_row(scores: Scores, value: int, row: str) -> dict[str, Any]:
    own = scores.of(row, value)
    drawn = [s for s in own if s.figures["state"] in MASKED]
    dice, surface = (mean_of(scores.by_patient(row, value, figure)) for figure in ("dice", "surface_dice"))
    hd95 = median_hd95([float(s.figures["hd95_mm"]) for s in drawn], [s.patient for s in drawn], FEWEST_PATIENTS)
    return {
        "class": scores.names[value],
        "row": ROWS[row],
        "volumes": len(drawn),
        "patients": len({s.patient for s in drawn}),
        "dice": dice.value,
        "dice_low": dice.low,
        "dice_high": dice.high,
        "surface": surface.value,
        "surface_low": surface.low,
        "surface_high": surface.high,
        "hd95": hd95.value,
        "hd95_low": hd95.low,
        "hd95_high": hd95.high,
        "missed": counted_states([str(s.figures["state"]) for s in own])["missed"],
    }


def _plot(scores: Scores, value: int) -> dict[str, Any]:
    rows = []
    for row, label in ROWS.items():
        estimate = mean_of(scores.by_patient(row, value, "dice"))
        if np.isfinite(estimate.value):
            rows.append({"reader": label, **estimate.to_json()})
    line = mean_of(scores.by_patient(REAL, value, "dice")).value
    return {
        "id": f"dice-{value}",
        "kind": "intervals",
        "title": f"Dice of {scores.names[value]}",
        "label": "Dice, mean over patients (dotted: real images)",
        "line": line if np.isfinite(line) else 1.0,
        "rows": rows,
    }


def _no_skill(scores: Scores) -> Section:
    rows = []
    for value in scores.values:
        for row, label in LABELS.items():
            if not scores.of(row, value):
                continue
            difference = _against(scores, value, row)
            own = mean_of(scores.by_patient(row, value, "dice"))
            rows.append(
                {
                    "class": scores.names[value],
                    "row": label,
                    "dice": own.value,
                    "difference": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                    "verdict": _verdict(scores, value, row),
                }
            )
    beaten = [r for r in rows if r["verdict"] == RIVAL]
    cartoons = {LABELS[row] for row in ("means_noise", "blobs", "painted_real")}
    sentences = []
    if not rows:
        sentences.append(
            "Nothing: there is no real image of another patient, which answers without a model are made from. So "
            "nothing says what the Dice is worth."
        )
    elif not beaten:
        sure = all(r["verdict"] == LOWER for r in rows)
        sentences.append(
            "The synthetic images score higher than every answer that needs no model, in every class"
            + ("." if sure else ", on average; with so few patients chance is not ruled out.")
        )
    else:
        sentences.append(
            f"In {len(beaten)} of {counted(len(rows), 'comparison')} an answer that needs no model scores as high as "
            "the synthetic images, or cannot be told from them."
        )
        if any(r["row"] in cartoons for r in beaten):
            sentences.append(
                "A cartoon painted on the mask is among them. Such an image looks like no patient: adherence has to be "
                "read together with fidelity, and is never a proof of realism."
            )
        if any(r["row"] == LABELS["mean_mask"] for r in beaten):
            sentences.append("The mean mask is among them: here the place alone is worth as much as the image.")
    return Section(
        "no-skill",
        "What is the figure worth without any model?",
        "measured",
        tuple(sentences),
        (
            Table(
                "no_skill",
                "Dice of the synthetic images minus that of answers that need no model, same masks, paired by patient",
                columns(
                    "class|Class", "row|Needs no model", "dice|Its Dice|number", "difference|Synthetic minus it|number",
                    "low|Difference from|number", "high|to|number", "verdict|It is",
                ),
                tuple(rows),
            ),
        ),
    )  # fmt: skip


def _left_out(scores: Scores) -> Section:
    sentences = []
    for row in (REAL, SYNTHETIC):
        own = [case for r, case in scores.empty if r == row]
        if own:
            sentences.append(
                f"{counted(len(own), 'mask')} of {row} volumes {'has' if len(own) == 1 else 'have'} none of the "
                f"classes, and no figure: {listing(own)}."
            )
    if scores.failures:
        cases = [f"{f.case} ({f.row})" for f in scores.failures]
        sentences.append(
            f"The segmenter failed on {counted(len(cases), 'volume')}, which are left out: {listing(cases)}."
        )
    rows = []
    for value in scores.values:
        for row in (REAL, SYNTHETIC):
            own = scores.of(row, value)
            states = counted_states([str(s.figures["state"]) for s in own])
            absent = [s for s in own if s.figures["state"] in ("not drawn", "neither")]
            if absent:
                false = [float(s.figures["found_ml"]) for s in absent if s.figures["state"] == "not drawn"]
                rows.append(
                    {
                        "class": scores.names[value],
                        "row": ROWS[row],
                        "absent": len(absent),
                        "found": states["not drawn"],
                        "ml": float(np.median(false)) if false else None,
                        "cases": listing([s.case for s in absent]),
                    }
                )
    if rows:
        told = [f"{r['class']} in {r['absent']} of the {r['row']}" for r in rows]
        sentences.append(f"Some masks lack a class, and do not count for it: {listing(told)}.")
    failed = [{"row": f.row, "case": f.case, "reason": f.reason} for f in scores.failures]
    return Section(
        "left-out",
        "What was left out?",
        "data",
        tuple(sentences) or ("Nothing: every mask has every class, and every volume could be segmented.",),
        (
            Table(
                "absent",
                "Masks without a class",
                columns(
                    "class|Class", "row|In", "absent|Masks without it|int", "found|Found there all the same|int",
                    "ml|Median found (ml)|number", "cases|Cases",
                ),
                tuple(rows),
            ),
            Table(
                "failures",
                "Volumes that could not be segmented",
                columns("row|Of", "case|Case", "reason|Reason"),
                tuple(failed),
            ),
        ),
    )  # fmt: skip


def _volumes(scores: Scores) -> Section:
    rows = [
        {"class": scores.names[s.value], "row": ROWS[s.row], "case": s.case, "patient": s.patient, **s.figures}
        for s in scores.all
    ]
    worst = _worst_cases(scores)
    return Section(
        "volumes",
        "Every volume",
        "data",
        (f"Lowest Dice among the synthetic volumes: {listing(worst)}.",) if worst else (),
        (
            Table(
                "per_volume",
                "Figures of every volume and class",
                columns(
                    "class|Class", "row|What was segmented", "case|Case", "patient|Patient", "state|State",
                    "dice|Dice|number", "surface_dice|Surface Dice|number", "hd95_mm|HD95 (mm)|number",
                    "drawn_ml|Drawn (ml)|number", "found_ml|Found (ml)|number",
                ),
                tuple(rows),
            ),
        ),
    )  # fmt: skip


def _worst_cases(scores: Scores, most: int = 3) -> Sequence[str]:
    own = [s for v in scores.values for s in scores.of(SYNTHETIC, v) if s.figures["state"] in MASKED]
    own.sort(key=lambda s: float(s.figures["dice"]))
    return [f"{s.case} ({scores.names[s.value]} {number(float(s.figures['dice']), 2)})" for s in own[:most]]
