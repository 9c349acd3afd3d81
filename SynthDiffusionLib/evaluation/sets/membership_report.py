"""The membership test of `memorisation` as sentences, table and main figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from SynthDiffusionLib.reports.sections import Section, Table, columns, interval_text, number, p_text

NAMES = {"embedding": "embedding", "voxels": "registered voxels"}
IN = {"embedding": "In the embedding", "voxels": "In registered voxel space"}
ALPHA = 0.05


def membership_sentences(found: Mapping[str, Any]) -> list[str]:
    """What the membership test says, for report and card."""
    rows = found["membership"]
    if not rows:
        return ["Membership inference was not tested: it needs fresh real cases (--real)."]
    lines = []
    for row in _shown_tests(found):
        text = (
            f"{IN[row['space']]}, the distance to the nearest synthetic volume tells training cases from fresh real "
            f"ones with an AUC of {number(row['auc'], 2)} ({interval_text(row['low'], row['high'], 0.95)}; "
            f"{p_text(row['p_holm'])}, corrected); 0.5 is guessing"
            + (
                f", and real volumes in the synthetic ones' place have {number(row['floor'], 2)}."
                if row["floor"]
                else "."
            )
        )
        if row["p_holm"] is not None and row["p_holm"] < ALPHA:
            text += f" {_meaning(row)}"
        lines.append(text)
    row = rows[0]
    lines.append(
        f"With {row['training_patients']} training and {row['fresh_patients']} fresh patients, an AUC of "
        f"{number(row['smallest_found'], 2)} or more would be found in four of five such studies; a weaker leak would "
        "mostly be missed."
    )
    if any(r["own_mask"] == "left out" for r in rows):
        lines.append(
            "Synthetic volumes made for a case's own mask are left out, since they are near it for the mask's sake; "
            "a copy that is made only when the patient's own mask is given is not seen by this test. The table has the "
            "test with them as well."
        )
    return lines


def _meaning(row: Mapping[str, Any]) -> str:
    """What an AUC says that is not chance."""
    if row["auc"] < 0.5:
        return (
            "Training cases are further from the synthetic volumes than fresh ones are: the two sets differ, and the "
            "test cannot be read."
        )
    if row["floor"] and row["low"] <= row["floor"]:
        return (
            "That is more than guessing: the synthetic volumes may give away who was trained on. But it is not clearly "
            "more than what real volumes of other patients have, so that some of it may be how the patients differ."
        )
    return "The synthetic volumes give away who was trained on."


def membership_section(found: Mapping[str, Any]) -> Section:
    """Sentences, table and main figures."""
    rows = tuple(dict(r, name=NAMES[r["space"]]) for r in found["membership"])
    table = Table(
        "membership",
        "Telling training cases from fresh real ones",
        columns(
            "name|search", "own_mask|volumes of the own mask", "training_patients|training patients|int",
            "fresh_patients|fresh patients|int", "auc|AUC|number", "low|95 % interval from|number", "high|to|number",
            "p|p|p", "p_holm|p, corrected|p", "floor|AUC of real volumes instead|number",
            "floor_low|95 % interval from|number", "floor_high|to|number",
            "smallest_found|smallest AUC that is found|number",
            "median_training|median distance, training|number", "median_fresh|fresh|number",
        ),
        rows,
    )  # fmt: skip
    return Section(
        "membership",
        "Do the synthetic volumes give away who was trained on?",
        "measured",
        tuple(membership_sentences(found)),
        (table,),
        family="The two searches are corrected together (Holm 1979)." if rows else "",
        detail={"rows": rows},
        headlines=tuple(_auc_headline(row, found) for row in _shown_tests(found)),
    )


def _auc_headline(row: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "measure": f"Membership AUC, {NAMES[row['space']]}",
        "row": "training against fresh real cases",
        "value": row["auc"],
        "low": row["low"],
        "high": row["high"],
        "reference": row["floor"],
        "reference_name": "validation cases as if synthetic",
        "cartoon": 0.5,
        "cartoon_name": "guessing",
        "better": "lower",
        "n": row["training_patients"] + row["fresh_patients"],
        "sentence": next(s for s in membership_sentences(found) if s.startswith(IN[row["space"]])),
    }


def _shown_tests(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The membership tests that the sentences are about."""
    rows = found["membership"]
    which = "left out" if any(r["own_mask"] == "left out" for r in rows) else "kept"
    return [r for r in rows if r["own_mask"] == which]
