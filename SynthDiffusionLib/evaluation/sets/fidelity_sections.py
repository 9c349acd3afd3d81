"""What `fidelity` found, as sentences, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from SynthDiffusionLib.evaluation.sets import extraction
from SynthDiffusionLib.evaluation.sets.fidelity import REFERENCE, SYNTHETIC, Fidelity
from SynthDiffusionLib.evaluation.sets.fidelity_picture import examples
from SynthDiffusionLib.reports.sections import Section, Table, columns, interval_text, listing, number

SHOWN_SHIFTS = 10
FLOOR = "real against real, parts of the set"


def sections_of(found: Fidelity) -> list[Section]:
    """The report's sections."""
    sections = [_distances(found), _slices(found), _clouds(found)]
    if found.similarity is not None:
        sections.append(_similarity(found))
    return [*sections, _classifiers(found), _shifts(found), _examples(found)]


def _no_skill(found: Fidelity) -> list[str]:
    return [name for name in found.labels if name not in (SYNTHETIC, REFERENCE)]


def verdict(own: Mapping[str, Any], what: str) -> str:
    """A sentence: where the synthetic set's distance lies by what real parts differ by."""
    floor, value = own.get("floor"), own["value"]
    text = f"{what} of the synthetic from the real set is {number(value)} "
    text += f"({interval_text(own['low'], own['high'], 0.95)})"
    if not floor:
        return f"{text}; there are too few volumes to say what two parts of the real set differ by."
    at, (one, two) = own["at"], own["numbers"]
    text += f". At equal numbers ({one} real volumes against {two} others) it is {number(at)}, where two parts of the "
    text += (
        f"real set differ by {number(floor['mean'])} on average and by at most {number(floor['high'])} in 97.5 % of "
    )
    text += "the draws: "
    if at <= floor["high"]:
        return f"{text}no more than real volumes differ among themselves, as far as these numbers show."
    if floor["high"] > 0 and at >= 2 * floor["high"]:
        return f"{text}{at / floor['high']:.1f} times that limit."
    return f"{text}beyond that limit."


def _beside(found: Fidelity, table: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """A sentence: which no-skill sets the synthetic one is clearly nearer to real than, by the intervals."""
    own = table[SYNTHETIC][key]
    others = {n: table[n][key] for n in _no_skill(found) if table[n][key]["value"] is not None}
    if own["value"] is None or not others:
        return ""
    told = listing(f"{found.labels[n]} {number(v['value'])}" for n, v in others.items())
    reach = own["value"] if own["high"] is None else own["high"]
    near = [n for n, v in others.items() if (v["value"] if v["low"] is None else v["low"]) <= reach]
    text = f"No-skill sets: {told}."
    if near:
        return f"{text} The synthetic set is not clearly nearer to real than {listing(found.labels[n] for n in near)}."
    return f"{text} The synthetic set is nearer to real than all of them, interval and all."


def _best(
    found: Fidelity, table: Mapping[str, Mapping[str, Any]], key: str, lower: bool = True, of: str = "value"
) -> dict[str, Any]:
    others = {n: table[n][key][of] for n in _no_skill(found) if table[n][key].get(of) is not None}
    if not others:
        return {}
    name = (min if lower else max)(others, key=lambda n: others[n])
    return {"cartoon": others[name], "cartoon_name": found.labels[name]}


def _headline(found: Fidelity, measure: str, table, key: str, better: str, biased: bool = False) -> dict[str, Any]:
    """Args: biased: the figure depends on the numbers, so that it is shown at those of the real parts, if there are."""
    own = table[SYNTHETIC][key]
    floor = own.get("floor")
    at = biased and floor
    row = "synthetic against real"
    if at:
        row += ", {} and {} volumes".format(*own["numbers"])
    value, low, high = ("at", "at_low", "at_high") if at else ("value", "low", "high")
    return {
        "measure": measure,
        "row": row,
        "value": own[value],
        "low": own.get(low),
        "high": own.get(high),
        "reference": floor["mean"] if floor else None,
        "reference_name": "two parts of the real set",
        "better": better,
        "n": len(set(found.synthetic.patients)),
    } | _best(found, table, key, better != "higher", value)


def _row(label: str, result: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"set": label, "volumes": result["volumes"], "patients": result["patients"]}
    for key in keys:
        own = result[key]
        row |= {key: own["value"], f"{key}_reason": own.get("reason")}
        row |= {f"{key}_{k}": own.get(k) for k in ("low", "high", "at", "at_low", "at_high")}
    return row


def _floor_row(result: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any] | None:
    known = [k for k in keys if result[k].get("floor")]
    if not known:
        return None
    row: dict[str, Any] = {"set": FLOOR, "volumes": "{} and {}".format(*result[known[0]]["numbers"])}
    for key in known:
        floor = result[key]["floor"]
        row |= {f"{key}_at": floor["mean"], f"{key}_at_low": floor["low"], f"{key}_at_high": floor["high"]}
    return row


def _distance_table(id: str, title: str, rows: Mapping[str, Mapping[str, Any]], found: Fidelity, key: str) -> Table:
    floor = _floor_row(rows[SYNTHETIC], [key])
    shown = [_row(found.labels[name], rows[name], [key]) for name in rows]
    reason = next((r[f"{key}_reason"] for r in shown if r.get(f"{key}_reason")), None)
    return Table(
        id,
        title,
        columns(
            "set|Set, against the real one", "volumes|Volumes", "patients|Patients", f"{key}|All volumes|number",
            f"{key}_low|95 % from|number", f"{key}_high|to|number", f"{key}_at|At equal numbers|number",
            f"{key}_at_low|95 % of draws from|number", f"{key}_at_high|to|number",
        ),
        tuple([*shown, *([floor] if floor else [])]),
        f"Not given: {reason}." if reason else "",
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
            headlines.append(_headline(found, f"Fréchet distance, {title}", rows, "frechet", "lower", biased=True))
        for key, name in (("energy", "Energy distance"), ("polynomial", "Polynomial kernel distance, as KID (MMD²)"),
                          ("gaussian", "Gaussian kernel distance (MMD²)"),
                          ("frechet", "Fréchet distance")):  # fmt: skip
            if own[key]["value"] is not None:
                tables.append(_distance_table(f"{kind}-{key}", f"{name}, {title}", rows, found, key))
        plots.append(_plot(f"{kind}-distance", f"Energy distance, {title}", rows, found, "energy",
                           "Distance from the real set (0 on average: of one kind)"))  # fmt: skip
        headlines.insert(0, _headline(found, f"Energy distance, {title}", rows, "energy", "lower"))  # fmt: skip
    if found.copies:
        sentences.insert(0, f"{found.copies} synthetic files are the same as a real one, byte by byte.")
    return Section(
        "distances",
        "How far are the synthetic volumes from real ones?",
        "measured",
        tuple(s for s in sentences if s),
        tuple(tables),
        tuple(plots),
        sources=("Gretton et al. 2012, JMLR 13:723", "Bińkowski et al. 2018, arXiv:1801.01401",
                 "Heusel et al. 2017, arXiv:1706.08500", "IBSI, arXiv:1612.07003"),
        detail={"distances": found.volumes},
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
        headlines.append(_headline(found, "Energy distance, slices", means, "energy", "lower"))
    else:
        sentences.append(verdict(own["frechet"], "The Fréchet distance (2.5D, mean of three planes)"))
        headlines.append(_headline(found, "Fréchet distance, 2.5D", means, "frechet", "lower", biased=True))
    per_plane = []
    for name in found.planes:
        for plane in extraction.PLANES:
            part = found.planes[name][plane]
            row = {"plane": f"{plane} ({extraction.PLANE_NAMES[plane]})", "slices": part["rows"]}
            per_plane.append(row | _row(found.labels[name], part, ("frechet", "energy", "polynomial")))
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
        detail={"planes": found.planes},
        headlines=tuple(headlines),
    )


def _clouds(found: Fidelity) -> Section:
    sentences, tables, headlines = [], [], []
    keys = ("precision", "recall", "density", "coverage")
    for kind, rows in found.clouds.items():
        own = rows[SYNTHETIC]
        floors = {k: own[k]["floor"] for k in keys}
        sentences.append(
            f"Of the synthetic volumes, {own['precision']['value']:.0%} lie among the real ones "
            f"({interval_text(own['precision']['low'], own['precision']['high'], 0.95, True)}; precision, "
            f"{found.titles[kind]}, k = {own['k']}); of the real volumes, {own['coverage']['value']:.0%} have a "
            f"synthetic one near ({interval_text(own['coverage']['low'], own['coverage']['high'], 0.95, True)}; "
            "coverage)."
        )
        if floors["coverage"]:
            one, two = own["coverage"]["numbers"]
            sentences.append(
                f"At equal numbers ({one} real volumes against {two} others), precision is "
                f"{own['precision']['at']:.0%} and coverage {own['coverage']['at']:.0%}, where two parts of the real "
                f"set reach {floors['precision']['mean']:.0%} and {floors['coverage']['mean']:.0%}."
            )
            low = own["coverage"]["at"] < floors["coverage"]["low"]
            sentences.append(
                "The synthetic set misses kinds of images that the real set has."
                if low
                else "By coverage, the synthetic set is as varied as real parts of these numbers are."
            )
        repeated = rows["repeated"]
        sentences.append(
            f"A set that repeats one real volume would have a precision of {repeated['precision']['value']:.0%}, a "
            f"recall of {repeated['recall']['value']:.0%} and a coverage of {repeated['coverage']['value']:.0%}: read "
            "none of the four alone."
        )
        shown = [_row(found.labels[n], rows[n], keys) for n in rows]
        floor = _floor_row(own, keys)
        columns_of = [f"{k}|{k.capitalize()}|number;{k}_low|95 % from|number;{k}_high|to|number;"
                      f"{k}_at|At equal numbers|number" for k in keys]  # fmt: skip
        tables.append(
            Table(
                f"{kind}-clouds",
                f"How the clouds overlap, {found.titles[kind]}, k = {own['k']}",
                columns("set|Set, against the real one", "volumes|Volumes", *";".join(columns_of).split(";")),
                tuple([*shown, *([floor] if floor else [])]),
            )
        )
        if kind == "radiomics":
            headlines += [
                _headline(found, k.capitalize(), rows, k, "higher", biased=True) for k in ("precision", "coverage")
            ]
    return Section(
        "clouds",
        "Are they plausible, and as varied as real ones?",
        "measured",
        tuple(sentences),
        tuple(tables),
        sources=("Kynkäänniemi et al. 2019, arXiv:1904.06991", "Naeem et al. 2020, arXiv:2002.09797"),
        detail={"clouds": found.clouds},
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
        cartoon = {n: table[n]["value"] for n in _no_skill(found) if n in table and n != "repeated"}
        if cartoon:
            sentences.append(
                "No-skill sets: " + listing(f"{found.labels[n]} {number(v)}" for n, v in cartoon.items())
                + "; one volume repeated has 1. Blur raises the figure and noise lowers it, so it measures variety "
                "only where the distances above are small."
            )  # fmt: skip
        headlines = (
            {"measure": "MS-SSIM between volumes", "row": "synthetic", "value": own["value"], "low": own["low"],
             "high": own["high"], "reference": real["value"], "reference_name": "between real volumes",
             "cartoon": 1.0, "cartoon_name": found.labels["repeated"], "better": "lower", "n": own["patients"]},
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
        f"A linear classifier on radiomics tells synthetic from real volumes with an AUC of {number(own['value'], 2)} "
        f"({interval_text(own['low'], own['high'], 0.95)}); 0.5 is guessing, 1 is always right."
    ]
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
            **{k: v.get(k) for k in ("value", "low", "high", "at")},
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
                        "at_low|95 % of draws from|number", "at_high|to|number"),
                tuple(rows),
            ),
        ),
        detail={"auc": found.auc, "networks": found.networks},
        headlines=(_auc_headline(found),),
    )  # fmt: skip


def _auc_headline(found: Fidelity) -> dict[str, Any]:
    rows = {name: {"auc": told} for name, told in found.auc.items()}
    return _headline(found, "AUC of a linear classifier", rows, "auc", "lower")


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
