"""Rows, headlines and verdicts that the sections of `fidelity` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from SynthDiffusionLib.evaluation.sets.exchange import LEVEL
from SynthDiffusionLib.evaluation.sets.fidelity import REFERENCE, SYNTHETIC, Fidelity
from SynthDiffusionLib.reports.sections import both_p, listing, number

FLOOR = "real against real, parts of the set"


def no_skill_rows(found: Fidelity) -> list[str]:
    """Names of the rows that need no generator."""
    return [name for name in found.labels if name not in (SYNTHETIC, REFERENCE)]


def differs(test: Mapping[str, Any]) -> bool:
    """Whether a test of `exchange.result` finds a difference, corrected for the tests of its family."""
    return test["p_holm"] < LEVEL


def too_alike(test: Mapping[str, Any]) -> bool:
    """Whether a figure is lower than nearly all deals, corrected for the tests of its family."""
    return test["p_low_holm"] < LEVEL / 2


def dealt_verdict(test: Mapping[str, Any], found: str, figure: str, looked_for: str, alike: str) -> str:
    """What a test by deals says, as a sentence or two; never that there is no difference.

    Args:
        found: the sentence's beginning where there is a difference.
        figure: with its verb.
        looked_for: what is not shown.
        alike: the sentence's beginning where the figure is lower than nearly all deals.
    """
    n, m = test["patients"]

    def dealt(key: str, extreme: str) -> str:
        extremes = round(test[key] * (1 + test["deals"])) - 1
        often = f"in {extremes if extremes else 'none'} of {test['deals']} deals"
        told = both_p(test[key], test[f"{key}_holm"])
        return f"with the patients of both sets dealt anew at random, {figure} as {extreme} {often} ({told})."

    if differs(test):
        return f"{found}: {dealt('p', 'large')}"
    if too_alike(test):
        return (
            f"{alike}: {dealt('p_low', 'small')} That is a sign of copies, or of patients who are in both sets under "
            "two names, and not of quality: see evaluate memorisation."
        )
    return (
        f"These {n} real and {m} synthetic patients do not show {looked_for}: {dealt('p', 'large')} It may be there "
        "all the same."
    )


def copies_sentence(found: Fidelity) -> str:
    """Which synthetic volumes are real ones; empty where none is."""
    if not found.copies:
        return ""
    names = listing((f"{copy} is {real}" for copy, real in found.copies), 3)
    several = "are real ones" if len(found.copies) > 1 else "is a real one"
    return (
        f"{len(found.copies)} of {len(found.synthetic.cases)} synthetic volumes {several}, voxel by voxel ({names}): "
        "of copies, figures of likeness say nothing."
    )


def _best(found: Fidelity, table: Mapping[str, Mapping[str, Any]], key: str, better: str) -> dict[str, Any]:
    others = {n: table[n][key]["value"] for n in no_skill_rows(found) if table[n][key].get("value") is not None}
    if not others:
        return {}
    worse = {"higher": lambda v: -v, "lower": lambda v: v, "near 0.5": lambda v: abs(v - 0.5)}[better]
    name = min(others, key=lambda n: worse(others[n]))
    return {"cartoon": others[name], "cartoon_name": found.labels[name]}


def headline_of(
    found: Fidelity, measure: str, table: Mapping[str, Mapping[str, Any]], key: str, better: str, biased: bool = False
) -> dict[str, Any]:
    """The figure of all volumes, with the interval of that figure.

    Args:
        better: "higher", "lower" or "near 0.5".
        biased: the figure depends on the numbers, so that what it is at those of the real parts is said beside them.
    """
    own = table[SYNTHETIC][key]
    floor = own.get("floor")
    real = "two parts of the real set"
    if biased and floor:
        real += ", {} and {} volumes; the synthetic set at these numbers: {}".format(*own["numbers"], number(own["at"]))
    return {
        "measure": measure,
        "row": "synthetic against real",
        "value": own["value"],
        "low": own["low"],
        "high": own["high"],
        "reference": floor["mean"] if floor else None,
        "reference_name": real,
        "better": better,
        "n": len(set(found.synthetic.patients)),
    } | _best(found, table, key, better)


def cells_of(label: str, result: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """A row of a table: figures of `comparison` by key, with limits, at equal numbers, and p-values."""
    row: dict[str, Any] = {"set": label, "volumes": result["volumes"], "patients": result["patients"]}
    for key in keys:
        own = result[key]
        row |= {key: own["value"], f"{key}_reason": own.get("reason")}
        row |= {f"{key}_{k}": own.get(k) for k in ("low", "high", "at", "at_low", "at_high")}
        row |= {f"{key}_{k}": (own.get("test") or {}).get(k) for k in ("p", "p_holm")}
    return row


def floor_row(result: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any] | None:
    """What parts of the real set differ by, as a row; None where they are too small."""
    known = [k for k in keys if result[k].get("floor")]
    if not known:
        return None
    row: dict[str, Any] = {"set": FLOOR, "volumes": "{} and {}".format(*result[known[0]]["numbers"])}
    for key in known:
        floor = result[key]["floor"]
        row |= {f"{key}_at": floor["mean"], f"{key}_at_low": floor["low"], f"{key}_at_high": floor["high"]}
    return row
