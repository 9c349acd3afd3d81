"""Precision, recall, density and coverage, as sentences and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from SynthDiffusionLib.evaluation.sets.comparison import PLAUSIBLE, VARIED
from SynthDiffusionLib.evaluation.sets.distances import MANIFOLD
from SynthDiffusionLib.evaluation.sets.fidelity import SYNTHETIC, Fidelity
from SynthDiffusionLib.evaluation.sets.fidelity_rows import (
    cells_of,
    differs,
    floor_row,
    headline_of,
    no_skill_rows,
)
from SynthDiffusionLib.reports.sections import (
    Section,
    Table,
    both_p,
    columns,
    interval_text,
    listing,
    number,
    percent,
)


def clouds_section(found: Fidelity) -> Section:
    """Are they plausible, and as varied as real ones?"""
    sentences, tables, headlines = [], [], []
    for kind, rows in found.clouds.items():
        plausible, varied = _plausible(found, kind), _varied(found, kind)
        sentences += [*plausible, *varied, _at_equal_numbers(rows[SYNTHETIC])]
        tables += _tables(found, kind)
        if kind == "radiomics":
            told = {"precision": plausible[0], "recall": varied[0], "coverage": varied[0]}
            headlines += [
                headline_of(found, k.capitalize(), rows, k, "higher", biased=True) | {"sentence": text}
                for k, text in told.items()
            ]
    return Section(
        "clouds",
        "Are they plausible, and as varied as real ones?",
        "measured",
        tuple(s for s in sentences if s),
        tuple(tables),
        family="Holm's correction for the two figures of each question: precision and density, recall and coverage.",
        sources=("Kynkäänniemi et al. 2019, arXiv:1904.06991", "Naeem et al. 2020, arXiv:2002.09797"),
        detail={"clouds": found.clouds},
        headlines=tuple(headlines),
    )


def _interval(own: Mapping[str, Any], share: bool = True) -> str:
    return interval_text(own["low"], own["high"], 0.95, share)


def _plausible(found: Fidelity, kind: str) -> list[str]:
    rows = found.clouds[kind]
    own = rows[SYNTHETIC]
    precision, density = own["precision"], own["density"]
    cartoons = sorted(no_skill_rows(found), key=lambda n: -rows[n]["precision"]["value"])
    told = listing(
        f"{found.labels[n]} {percent(rows[n]['precision']['value'], 0)} ({number(rows[n]['density']['value'], 2)})"
        for n in cartoons
    )
    beaten = [n for n in cartoons if rows[n]["precision"]["value"] >= precision["low"]]
    first = (
        f"Of the synthetic volumes, {percent(precision['value'], 0)} lie among the real ones ({_interval(precision)}; "
        f"precision, {found.titles[kind]}, k = {own['k']}); their density is {number(density['value'], 2)} "
        f"({_interval(density, False)}; about 1 between sets of one kind). No-skill sets (density in brackets): {told}."
    )
    if beaten:
        first += f" So precision does not tell the synthetic set from {listing(found.labels[n] for n in beaten)}."
    verdict = _verdict(
        own,
        PLAUSIBLE,
        "Synthetic volumes lie where real ones are not, or where they are rare",
        "that synthetic volumes lie where real ones are not",
        "all are plausible",
    )
    return [first, verdict]


def _varied(found: Fidelity, kind: str) -> list[str]:
    rows = found.clouds[kind]
    own, repeated = rows[SYNTHETIC], rows["repeated"]
    recall, coverage = own["recall"], own["coverage"]
    best = {k: max(no_skill_rows(found), key=lambda n: rows[n][k]["value"]) for k in VARIED}
    tops = [f"{percent(rows[n][k]['value'], 0)} {k} ({found.labels[n]})" for k, n in best.items()]
    first = (
        f"Of the real volumes, {percent(recall['value'], 0)} lie among the synthetic ones ({_interval(recall)}; "
        f"recall), and {percent(coverage['value'], 0)} have a synthetic one near ({_interval(coverage)}; coverage). "
        f"One real volume repeated would have {percent(repeated['recall']['value'], 0)} and "
        f"{percent(repeated['coverage']['value'], 0)}; the most that a no-skill set has is {listing(tops)}."
    )
    verdict = _verdict(
        own,
        VARIED,
        "The synthetic set misses kinds of images that the real set has",
        "that the synthetic set misses kinds of images",
        "it is as varied as the real one",
    )
    return [first, verdict]


def _verdict(own: Mapping[str, Any], keys: tuple[str, str], found: str, looked_for: str, never: str) -> str:
    tests = {k: own[k].get("test") for k in keys}
    if not all(tests.values()):
        return ""
    n, m = tests[keys[0]]["patients"]
    told = []
    for key, test in tests.items():
        limit, here = (number(test[k], 2) if key == "density" else percent(test[k], 0) for k in ("limit", "observed"))
        told.append(f"a {key} of at least {limit} (here {here}; {both_p(test['p'], test['p_holm'])})")
    dealt = (
        "with the patients of both sets dealt anew at random, and features in standard deviations of both sets "
        f"together, 95 % of the deals have {listing(told)}"
    )
    if any(differs(t) for t in tests.values()):
        return f"{found}: {dealt}."
    return (
        f"These {n} real and {m} synthetic patients do not show {looked_for}: {dealt}. That does not say that {never}."
    )


def _at_equal_numbers(own: Mapping[str, Any]) -> str:
    floors = {k: own[k]["floor"] for k in MANIFOLD}
    if not all(floors.values()):
        return ""
    one, two = own["precision"]["numbers"]
    told = listing(f"{k} {number(own[k]['at'], 2)} ({number(floors[k]['mean'], 2)})" for k in MANIFOLD)
    return f"At equal numbers ({one} real volumes against {two} others; in brackets two parts of the real set): {told}."


def _tables(found: Fidelity, kind: str) -> list[Table]:
    rows = found.clouds[kind]
    own = rows[SYNTHETIC]
    shown = [cells_of(found.labels[n], rows[n], MANIFOLD) for n in rows]
    floor = floor_row(own, MANIFOLD)
    figures = [
        f"{k}|{k.capitalize()}|number;{k}_low|95 % from|number;{k}_high|to|number;{k}_at|At equal numbers|number"
        for k in MANIFOLD
    ]
    tests = [f"{k}|{k.capitalize()}|number;{k}_p|p|p;{k}_p_holm|p, corrected|p" for k in MANIFOLD]
    title = f"{found.titles[kind]}, k = {own['k']}"
    return [
        Table(
            f"{kind}-clouds",
            f"How the clouds overlap, {title}",
            columns("set|Set, against the real one", "volumes|Volumes", *";".join(figures).split(";")),
            tuple([*shown, *([floor] if floor else [])]),
        ),
        Table(
            f"{kind}-clouds-tests",
            f"Lower than if patients were dealt anew? {title}",
            columns("set|Set, against the real one", "patients|Patients", *";".join(tests).split(";")),
            tuple(shown),
            "One-sided permutation tests over patients; Holm's correction for the two figures of each question.",
        ),
    ]
