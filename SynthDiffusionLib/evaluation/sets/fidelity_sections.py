"""What `fidelity` found, as sentences, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from SynthDiffusionLib.evaluation.sets import extraction
from SynthDiffusionLib.evaluation.sets.comparison import AUC_MISSES, AUC_MISSES_SIZES, TESTED
from SynthDiffusionLib.evaluation.sets.fidelity import SYNTHETIC, Fidelity
from SynthDiffusionLib.evaluation.sets.fidelity_clouds import clouds_section
from SynthDiffusionLib.evaluation.sets.fidelity_picture import examples
from SynthDiffusionLib.evaluation.sets.fidelity_rows import (
    FLOOR,
    cells_of,
    copies_sentence,
    dealt_verdict,
    floor_row,
    headline_of,
    no_skill_rows,
)
from SynthDiffusionLib.reports.sections import Section, Table, columns, interval_text, listing, number, percent

SHOWN_SHIFTS = 10
TESTS = (
    "p: permutation test over patients, of features in standard deviations of both sets together; corrected by Holm "
    "for the spaces (volumes, slices) of this distance."
)


def sections_of(found: Fidelity) -> list[Section]:
    """The report's sections."""
    sections = [_distances(found), _slices(found), clouds_section(found)]
    if found.similarity is not None:
        sections.append(_similarity(found))
    return _with_copies_first(
        [*sections, _classifiers(found), _shifts(found), _examples(found)], copies_sentence(found)
    )


def _with_copies_first(sections: list[Section], told: str) -> list[Section]:
    """Says at the top of the page, and of every main figure, which synthetic volumes are real ones, if any are."""
    if not told:
        return sections
    warned = [
        replace(s, headlines=tuple({**h, "sentence": f"{told} {h.get('sentence') or s.sentences[0]}"}
                                   for h in s.headlines))
        for s in sections
    ]  # fmt: skip
    return [replace(warned[0], sentences=(told, *warned[0].sentences)), *warned[1:]]


def verdict(own: Mapping[str, Any], what: str) -> str:
    """Sentences: a distance of the synthetic set, whether it is shown to be there, and what real parts differ by."""
    text = f"{what} of the synthetic from the real set is {number(own['value'])} "
    text += f"({interval_text(own['low'], own['high'], 0.95)}). "
    if test := own.get("test"):
        figure = f"the distance in standard deviations of both sets together ({number(test['observed'])}) is"
        nearer = "The synthetic volumes are nearer to the real ones than real patients are to each other"
        text += dealt_verdict(test, "The sets differ", figure, "a difference", nearer) + " "
    floor, at = own.get("floor"), own.get("at")
    if not floor:
        return f"{text}There are too few volumes to say what two parts of the real set differ by."
    one, two = own["numbers"]
    text += f"At equal numbers ({one} real volumes against {two} others) it is {number(at)}, where two parts of the "
    text += (
        f"real set differ by {number(floor['mean'])} on average and by at most {number(floor['high'])} in 97.5 % of "
    )
    text += "the draws."
    if floor["high"] > 0 and at >= 2 * floor["high"]:
        text += f" It is {at / floor['high']:.1f} times that limit."
    elif not test and at <= floor["high"]:
        text += " That is within the limit, which only a large difference passes at such numbers."
    elif not test:
        text += " That is beyond the limit."
    return text


def _beside(found: Fidelity, table: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """A sentence: which no-skill sets the synthetic one is clearly nearer to real than, by the intervals."""
    own = table[SYNTHETIC][key]
    others = {n: table[n][key] for n in no_skill_rows(found) if table[n][key]["value"] is not None}
    if own["value"] is None or not others:
        return ""
    told = listing(f"{found.labels[n]} {number(v['value'])}" for n, v in others.items())
    reach = own["value"] if own["high"] is None else own["high"]
    near = [n for n, v in others.items() if (v["value"] if v["low"] is None else v["low"]) <= reach]
    text = f"No-skill sets: {told}."
    if near:
        return f"{text} The synthetic set is not clearly nearer to real than {listing(found.labels[n] for n in near)}."
    return f"{text} The synthetic set is nearer to real than all of them, interval and all."


def _distance_table(id: str, title: str, rows: Mapping[str, Mapping[str, Any]], found: Fidelity, key: str) -> Table:
    floor = floor_row(rows[SYNTHETIC], [key])
    shown = [cells_of(found.labels[name], rows[name], [key]) for name in rows]
    reason = next((r[f"{key}_reason"] for r in shown if r.get(f"{key}_reason")), None)
    return Table(
        id,
        title,
        columns(
            "set|Set, against the real one", "volumes|Volumes", "patients|Patients", f"{key}|All volumes|number",
            f"{key}_low|95 % from|number", f"{key}_high|to|number", f"{key}_at|At equal numbers|number",
            f"{key}_at_low|95 % of draws from|number", f"{key}_at_high|to|number",
            *([f"{key}_p|p, dealt anew|p", f"{key}_p_holm|p, corrected|p"] if key in TESTED else []),
        ),
        tuple([*shown, *([floor] if floor else [])]),
        f"Not given: {reason}." if reason else TESTS if key in TESTED else "",
    )  # fmt: skip


def _plot(id: str, title: str, rows: Mapping[str, Mapping[str, Any]], found: Fidelity, key: str, label: str) -> dict:
    """Intervals of all rows, with the floor; of a Fréchet distance at equal numbers, where there is a floor."""
    floor = rows[SYNTHETIC][key].get("floor")
    at = key == "frechet" and floor
    keys = ("at", "at_low", "at_high") if at else ("value", "low", "high")
    shown = [
        {"name": found.labels[n], **{to: rows[n][key].get(k) for to, k in zip(("value", "low", "high"), keys)}}
        for n in rows
    ]
    if floor:
        shown.append({"name": FLOOR, "value": floor["mean"], "low": floor["low"], "high": floor["high"]})
    if at:
        label += " ({} real volumes against {} others)".format(*rows[SYNTHETIC][key]["numbers"])
    return {"id": id, "kind": "intervals", "title": title, "rows": shown, "line": 0.0, "label": label,
            "unit": "number", "scale": "symlog"}  # fmt: skip


def _distances(found: Fidelity) -> Section:
    sentences, tables, plots, headlines = [], [], [], []
    for kind, rows in found.volumes.items():
        own, title = rows[SYNTHETIC], found.titles[kind]
        sentences.append(verdict(own["energy"], f"The energy distance ({title}, {own['features']} features)"))
        sentences.append(_beside(found, rows, "energy"))
        if kind == "radiomics" and rows["shuffled"]["energy"]["value"] < min(
            rows[n]["energy"]["value"] for n in ("blurred", "noisy")
        ):
            sentences.append(
                "Radiomics do not know where something is: real volumes whose blocks are shuffled are nearer to real "
                "ones than blurred or noisy ones are. Wrong anatomy must be looked for elsewhere (evaluate volumes, "
                "evaluate adherence, readers)."
            )
        if own["frechet"]["value"] is None:
            sentences.append(
                f"No Fréchet distance of {title}: {own['frechet']['reason']}. The energy distance, "
                "which is unbiased at any number, stands in for it."
            )
        else:
            sentences.append(verdict(own["frechet"], f"The Fréchet distance ({title})"))
            headlines.append(headline_of(found, f"Fréchet distance, {title}", rows, "frechet", "lower", biased=True))
        for key, name in (("energy", "Energy distance"), ("polynomial", "Polynomial kernel distance, as KID (MMD²)"),
                          ("gaussian", "Gaussian kernel distance (MMD²)"),
                          ("frechet", "Fréchet distance")):  # fmt: skip
            if own[key]["value"] is not None:
                tables.append(_distance_table(f"{kind}-{key}", f"{name}, {title}", rows, found, key))
        plots.append(_plot(f"{kind}-distance", f"Energy distance, {title}", rows, found, "energy",
                           "Distance from the real set (0 on average: of one kind)"))  # fmt: skip
        headlines.insert(0, headline_of(found, f"Energy distance, {title}", rows, "energy", "lower"))  # fmt: skip
    return Section(
        "distances",
        "How far are the synthetic volumes from real ones?",
        "measured",
        tuple(s for s in sentences if s),
        tuple(tables),
        tuple(plots),
        family=TESTS,
        sources=("Gretton et al. 2012, JMLR 13:723", "Bińkowski et al. 2018, arXiv:1801.01401",
                 "Heusel et al. 2017, arXiv:1706.08500", "IBSI, arXiv:1612.07003"),
        detail={"distances": found.volumes, "copies": [{"synthetic": s, "real": r} for s, r in found.copies]},
        headlines=tuple(headlines),
    )  # fmt: skip


def _slices(found: Fidelity) -> Section:
    means = {name: parts["mean"] for name, parts in found.planes.items()}
    own, title = means[SYNTHETIC], found.titles["planes"]
    sentences = [verdict(own["energy"], f"The energy distance ({title}, mean of three planes)")]
    sentences.append(_beside(found, means, "energy"))
    headlines = []
    if own["frechet"]["value"] is None:
        sentences.append(f"No Fréchet distance of {title}: {own['frechet']['reason']}.")
        headlines.append(headline_of(found, "Energy distance, slices", means, "energy", "lower"))
    else:
        sentences.append(verdict(own["frechet"], "The Fréchet distance (2.5D, mean of three planes)"))
        headlines.append(headline_of(found, "Fréchet distance, 2.5D", means, "frechet", "lower", biased=True))
    per_plane = []
    for name in found.planes:
        for plane in extraction.PLANES:
            part = found.planes[name][plane]
            row = {"plane": f"{plane} ({extraction.PLANE_NAMES[plane]})", "slices": part["rows"]}
            per_plane.append(row | cells_of(found.labels[name], part, ("frechet", "energy", "polynomial")))
    tables = [
        _distance_table(f"slices-{key}", f"{name} of slices, mean of three planes", means, found, key)
        for key, name in (("frechet", "Fréchet distance"), ("energy", "Energy distance"))
        if own[key]["value"] is not None
    ]
    tables.append(
        Table(
            "slices-planes",
            "Slices, per plane",
            columns(
                "set|Set, against the real one", "plane|Plane", "slices|Slices|int", "patients|Patients|int",
                "frechet|Fréchet distance|number", "frechet_low|95 % from|number", "frechet_high|to|number",
                "energy|Energy distance|number", "energy_low|95 % from|number", "energy_high|to|number",
                "polynomial|Polynomial kernel distance|number", "polynomial_low|95 % from|number",
                "polynomial_high|to|number",
            ),
            tuple(per_plane),
        )
    )  # fmt: skip
    key = "frechet" if own["frechet"]["value"] is not None else "energy"
    name = "Fréchet distance" if key == "frechet" else "Energy distance"
    return Section(
        "slices",
        "How far are slices from real ones (2.5D)?",
        "measured",
        tuple(s for s in sentences if s),
        tuple(tables),
        (_plot("slices", f"{name} of slices, mean of three planes", means, found, key, "Distance from the real set"),),
        family=TESTS,
        detail={"planes": found.planes},
        headlines=tuple(headlines),
    )


def _similarity(found: Fidelity) -> Section:
    table, settings = found.similarity or {}, found.settings["ms_ssim"]
    own, real = table.get(SYNTHETIC), table.get("real")
    size = " x ".join(map(str, settings["shape"]))
    sentences, headlines = [], ()
    if own and real:
        text = f"Two synthetic volumes are alike by an MS-SSIM of {number(own['value'])} "
        text += f"({interval_text(own['low'], own['high'], 0.95)}), two real ones by {number(real['value'])} "
        text += f"({interval_text(real['low'], real['high'], 0.95)}): "
        if own["low"] is not None and real["high"] is not None and own["low"] > real["high"]:
            text += "the synthetic ones are less varied, or smoother."
        elif own["high"] is not None and real["low"] is not None and own["high"] < real["low"]:
            text += "the synthetic ones differ more from each other than patients do, or are noisier."
        else:
            text += "no difference that the intervals would show."
        sentences = [text]
        cartoon = {n: table[n]["value"] for n in no_skill_rows(found) if n in table and n != "repeated"}
        if cartoon:
            sentences.append(
                "No-skill sets: " + listing(f"{found.labels[n]} {number(v)}" for n, v in cartoon.items())
                + "; one volume repeated has 1. Blur raises the figure and noise lowers it, so it measures variety "
                "only where the distances above are small."
            )  # fmt: skip
        nearest = min(cartoon, key=lambda n: abs(cartoon[n] - real["value"]), default="repeated")
        headlines = (
            {"measure": "MS-SSIM between volumes", "row": "synthetic", "value": own["value"], "low": own["low"],
             "high": own["high"], "reference": real["value"], "reference_name": "between real volumes",
             "cartoon": cartoon.get(nearest, 1.0), "cartoon_name": found.labels[nearest], "better": "near real",
             "n": own["patients"]},
        )  # fmt: skip
    rows = [{"set": found.labels.get(n, n)} | dict(v) for n, v in table.items()]
    return Section(
        "similarity",
        "How alike are two volumes of one set?",
        "measured",
        tuple(sentences),
        (
            Table(
                "ms-ssim",
                f"MS-SSIM of pairs, middle {size} voxels, {settings['scales']} scales",
                columns("set|Pairs within", "patients|Patients|int", "pairs|Pairs|int", "value|MS-SSIM|number",
                        "low|95 % from|number", "high|to|number"),
                tuple(rows),
            ),
        ),
        sources=("Wang, Simoncelli and Bovik 2003, Asilomar 2:1398",),
        headlines=headlines,
    )  # fmt: skip


def _classifiers(found: Fidelity) -> Section:
    own = found.auc[SYNTHETIC]
    sentences = [
        "A linear classifier on radiomics that is to tell synthetic from real volumes has an AUC of "
        f"{number(own['value'], 2)} ({interval_text(own['low'], own['high'], 0.95)}). Best is 0.5, which is guessing; "
        "1 is always right, and 0 is always wrong, as copies of real volumes make it. The interval holds the "
        f"classifiers as they are and is too narrow: between real sets of {AUC_MISSES_SIZES} patients it left out "
        f"0.5 in {percent(AUC_MISSES, 0)} of the draws, not 5 %."
    ]
    if test := own.get("test"):
        figure = f"the AUC ({number(test['observed'], 2)}) is"
        astray = (
            "It is wrong more often than with real patients, as where volumes of either set have a double in the other"
        )
        sentences.append(dealt_verdict(test, "It can tell them apart", figure, "that it can tell them apart", astray))
    if own["floor"]:
        one, two = own["numbers"]
        sentences.append(
            f"At equal numbers ({one} real volumes against {two} others) it reaches {number(own['at'], 2)}, between "
            f"two parts of the real set {number(own['floor']['mean'], 2)} (95 % of draws "
            f"{number(own['floor']['low'], 2)} to {number(own['floor']['high'], 2)}). With few volumes a classifier "
            "learns little: an AUC near 0.5 says that this one sees nothing, not that there is nothing."
        )
    for recipe, rows in found.networks.items():
        told = rows[SYNTHETIC]
        sentences.append(
            f"The {recipe} network: {number(told['value'], 2)} ({interval_text(told['low'], told['high'], 0.95)})."
        )
    rows = [
        {
            "classifier": "linear, radiomics",
            "set": found.labels[n],
            **{k: v.get(k) for k in ("value", "low", "high", "at", "at_low", "at_high")},
            "p": (v.get("test") or {}).get("p"),
        }
        for n, v in found.auc.items()
    ]
    if own["floor"]:
        floor = own["floor"]
        rows.append({"classifier": "linear, radiomics", "set": FLOOR, "at": floor["mean"], "at_low": floor["low"],
                     "at_high": floor["high"]})  # fmt: skip
    rows += [
        {"classifier": f"{recipe} network", "set": found.labels[n], **told}
        for recipe, table in found.networks.items()
        for n, told in table.items()
    ]
    return Section(
        "classifier",
        "Can a classifier tell them from real ones?",
        "measured",
        tuple(sentences),
        (
            Table(
                "auc",
                "Area under the ROC curve",
                columns("classifier|Classifier", "set|Set, against the real one", "value|AUC|number",
                        "low|95 % from|number", "high|to|number", "at|At equal numbers|number",
                        "at_low|95 % of draws from|number", "at_high|to|number", "p|p, dealt anew|p"),
                tuple(rows),
                "p: permutation test over patients, with a training for every deal.",
            ),
        ),
        detail={"auc": found.auc, "networks": found.networks},
        headlines=(_aucheadline_of(found),),
    )  # fmt: skip


def _aucheadline_of(found: Fidelity) -> dict[str, Any]:
    rows = {name: {"auc": told} for name, told in found.auc.items()}
    return headline_of(found, "AUC of a linear classifier", rows, "auc", "near 0.5")


def _shifts(found: Fidelity) -> Section:
    beyond = [r for r in found.shifts if r["low"] is not None and (r["low"] > 0 or r["high"] < 0)]
    rows = found.shifts
    top = beyond[:3]
    sentences = (
        [
            "What differs most: "
            + listing(f"{r['feature']} is {abs(r['value']):.1f} standard deviations {_side(r['value'])}" for r in top)
            + "."
        ]
        if top
        else ["No single feature's mean is off by more than its interval."]
    )
    sentences.append(
        f"{len(beyond)} of {len(rows)} features have an interval without 0; by chance alone about "
        f"{0.05 * len(rows):.0f} would, and related features go together."
    )
    unused = found.settings["features_without_spread"].get("radiomics")
    if unused:
        sentences.append(f"Left out, since they are the same in all real volumes: {listing(unused)}.")
    return Section(
        "features",
        "What differs?",
        "exploratory",
        tuple(sentences),
        (
            Table(
                "features",
                "Radiomics: difference of the means, in standard deviations of the real set",
                columns("feature|Feature (IBSI code)", "real|Real mean|number6", "synthetic|Synthetic mean|number6",
                        "value|Difference|number", "low|95 % from|number", "high|to|number"),
                tuple(rows),
                "Intervals over patients, not corrected for the number of features.",
            ),
        ),
        (
            {
                "id": "features",
                "kind": "intervals",
                "title": f"The {min(SHOWN_SHIFTS, len(rows))} features that differ most",
                "rows": [{"name": r["feature"], **{k: r[k] for k in ("value", "low", "high")}}
                         for r in rows[:SHOWN_SHIFTS]],
                "line": 0.0,
                "label": "Difference of the means (in SD of the real set)",
                "unit": "number",
            },
        ),
    )  # fmt: skip


def _side(value: float) -> str:
    return "above the real mean" if value > 0 else "below the real mean"


def _examples(found: Fidelity) -> Section:
    return Section(
        "examples",
        "What do they look like?",
        "data",
        ("Drawn at random, not chosen. The last row shows what the no-skill sets are.",),
        plots=({"id": "examples", "kind": "picture", "title": "Middle axial slices", "png": examples(found)},),
    )
