"""Lists of a report of regional volumes: found beside drawn, what is missing, every volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.sets.volumes import ALPHA, TEXTURES, Regional, by_patient
from SynthDiffusionLib.reports.sections import Section, Table, columns, counted, listing, p_text


def points(share: float | None) -> float | None:
    """In percent."""
    return None if share is None else 100.0 * share


def spread(numbers: Sequence[float]) -> float | None:
    """Standard deviation over patients; None of fewer than two."""
    return float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None


def uneven_presence(result: Regional) -> list[dict[str, Any]]:
    """Regions that are clearly not equally often there in real and synthetic patients, the clearest first.

    Rows of `Regional.presence` whose p-value stays below `ALPHA` after Holm's correction, and those that no synthetic
    volume has though half of the real patients have them.
    """
    half = len({c.patient for c in result.real}) / 2
    rows = [
        r
        for r in result.presence
        if (r["p_holm"] is not None and r["p_holm"] < ALPHA) or (not r["synthetic"] and r["real"] >= half)
    ]
    return sorted(rows, key=lambda r: r["p"])


def presence_text(result: Regional, rows: Sequence[dict[str, Any]]) -> str:
    """How often regions are there, one sentence for each row of `uneven_presence`."""
    real, synthetic = (len({c.patient for c in cases}) for cases in (result.real, result.synthetic))
    return " ".join(
        f"{result.names[r['value']]} is in {r['synthetic'] or 'none'} of {counted(synthetic, 'synthetic patient')} and "
        f"in {r['real']} of {real} real ones (after correction {p_text(r['p_holm'])})."
        for r in rows
    )


def drawn_section(result: Regional) -> Section:
    """How far the segmenter's volumes are from those of the label maps."""
    rows = []
    for value in result.values:
        row: dict[str, Any] = {"region": result.names[value]}
        for name, cases in (("real", result.real), ("synthetic", result.synthetic)):
            pairs = [
                (c.ml[value] / c.drawn_ml[value], c) for c in cases if c.drawn_ml is not None and c.drawn_ml.get(value)
            ]
            own = list(by_patient([c for _, c in pairs], [q for q, _ in pairs]).values())
            row |= {name: float(np.mean(own)) if own else None, f"{name}_n": len(own), f"{name}_sd": spread(own)}
        rows.append(row)
    return Section(
        "drawn",
        "How large is what was found, beside what was drawn?",
        "measured",
        (
            "On real images this is the segmenter's own error. Where it is farther from 1 on synthetic images, the "
            "regions were made smaller or larger than they were drawn, or are found worse.",
        ),
        (
            Table(
                "drawn",
                "Volume found divided by volume drawn, mean and standard deviation over patients",
                columns(
                    "region|Region", "real_n|Real, patients|int", "real|Real|number", "real_sd|SD|number",
                    "synthetic_n|Synthetic, patients|int", "synthetic|Synthetic|number", "synthetic_sd|SD|number",
                ),
                tuple(rows),
            ),
        ),
    )  # fmt: skip


def left_out_section(result: Regional) -> Section:
    """Regions, wholes and volumes that are missing."""
    sentences = []
    for name, cases in (("real", result.real), ("synthetic", result.synthetic)):
        none = [c.case for c in cases if not any(c.ml.values())]
        without = [c.case for c in cases if not c.whole_ml and any(c.ml.values())]
        if none:
            sentences.append(f"{counted(len(none), f'{name} volume')} without any region: {listing(none)}.")
        if without:
            sentences.append(
                f"{counted(len(without), f'{name} volume')} without a whole, no share: {listing(without)}."
            )
    if result.failures:
        failed = [f"{f.case} ({f.row})" for f in result.failures]
        sentences.append(f"The segmenter failed on {counted(len(failed), 'volume')}, left out: {listing(failed)}.")
    rows = []
    tests = {r["value"]: r for r in result.presence}
    for value in result.values:
        absent = [[c.case for c in cases if not c.ml[value]] for cases in (result.real, result.synthetic)]
        if any(absent):
            own = tests.get(value, {})
            rows.append(
                {
                    "region": result.names[value],
                    "real": len(result.real) - len(absent[0]),
                    "real_of": len(result.real),
                    "synthetic": len(result.synthetic) - len(absent[1]),
                    "synthetic_of": len(result.synthetic),
                    "p": own.get("p"),
                    "p_holm": own.get("p_holm"),
                    "cases": listing([*absent[0], *absent[1]]),
                }
            )
    differing = [result.names[r["value"]] for r in uneven_presence(result)]
    if differing:
        sentences.append(f"Not equally often there in real and synthetic patients: {listing(differing)}.")
    elif rows:
        sentences.append("Some regions are not in every volume; they are counted in the table.")
    return Section(
        "left-out",
        "What is missing?",
        "data",
        tuple(sentences) or ("Nothing: every volume has every region.",),
        (
            Table(
                "presence",
                "Regions that are not in every volume",
                columns(
                    "region|Region", "real|Real with it|int", "real_of|of|int", "synthetic|Synthetic with it|int",
                    "synthetic_of|of|int", "p|p|p", "p_holm|corrected|p", "cases|Volumes without it",
                ),
                tuple(rows),
                "p: Fisher's exact test over patients, as if the two sets were of different patients; corrected by "
                "Holm." if tests else "",
            ),
            Table(
                "failures",
                "Volumes that could not be segmented",
                columns("row|Of", "case|Case", "reason|Reason"),
                tuple(vars(f) for f in result.failures),
            ),
        ),
    )  # fmt: skip


def volumes_section(result: Regional) -> Section:
    """Every region of every volume."""
    rows = [
        {
            "set": name, "case": c.case, "patient": c.patient, "region": result.names[v], "ml": c.ml[v],
            "whole": c.whole_ml, "share": points(c.share(v)), "drawn": (c.drawn_ml or {}).get(v),
            **dict(zip(TEXTURES, c.textures[v])),
        }
        for name, cases in (("real", result.real), ("synthetic", result.synthetic))
        for c in cases
        for v in result.values
    ]  # fmt: skip
    return Section(
        "volumes",
        "Every volume",
        "data",
        (),
        (
            Table(
                "per_volume",
                "Regions of every volume",
                columns(
                    "set|Set", "case|Case", "patient|Patient", "region|Region", "ml|Volume (ml)|number",
                    "whole|Whole (ml)|number", "share|Share (%)|number", "drawn|Drawn (ml)|number", "mean|Mean|number",
                    "sd|SD|number", "local_sd|Local SD|number", "correlation|Neighbour correlation|number",
                ),
                tuple(rows),
            ),
        ),
    )  # fmt: skip
