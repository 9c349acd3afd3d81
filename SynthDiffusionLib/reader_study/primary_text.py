"""The primary endpoint of a study in a sentence, as it was stated before reading."""

from __future__ import annotations

from SynthDiffusionLib.reader_study.study import Study

MEASURES = {
    "accuracy": "accuracy, averaged over readers",
    "auc": "area under the ROC curve, averaged over readers",
    "mrmc_auc_difference": "difference of the areas under the ROC curves of two generators",
    "likert_difference": "mean rating of synthetic less real volumes",
    "forced_choice": "proportion of pairs in which the synthetic volume was found",
}


def primary_text(study: Study) -> str:
    """What is measured, of which question and arms, with which test.

    Args:
        study: of which the primary endpoint is told; defaults are those of the analysis.
    """
    p = study.primary
    measure = str(p.get("measure"))
    text = f"Stated before reading: {MEASURES.get(measure, measure)}, task '{p.get('task')}'"
    if p.get("item"):
        text += f", question '{p['item']}'"
    text += f", '{p.get('arm')}'"
    if p.get("arm2"):
        text += f" against '{p['arm2']}'"
    null = p.get("null", 0.5 if is_proportion(measure) else 0.0)
    if p.get("test") == "equivalence":
        text += f"; test of equivalence with {null:g}, margin {p.get('margin', 'missing')}"
    else:
        text += f"; test of a difference from {null:g}"
    text += f"; alpha {float(p.get('alpha', 0.05)):g}"
    text += f"; readers {p.get('readers', 'random')}, cases {p.get('cases', 'random')}"
    return f"{text}; covariance {p.get('covariance', 'delong')}."


def is_proportion(measure: str) -> bool:
    """Whether a measure is compared with 0.5 unless the study says otherwise."""
    return measure in ("accuracy", "auc", "forced_choice")
