"""The figures of `memorisation` as sentences, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from SynthDiffusionLib.evaluation.sets import copies
from SynthDiffusionLib.evaluation.sets.flags import flags_needed, patient_shares, share_interval
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet
from SynthDiffusionLib.evaluation.sets.leaks import Leak, copy_sentence, leak_sentences
from SynthDiffusionLib.evaluation.sets.membership_report import ALPHA, IN, NAMES, membership_section
from SynthDiffusionLib.evaluation.sets.memorisation import SPACES
from SynthDiffusionLib.evaluation.sets.pair_picture import pair_picture
from SynthDiffusionLib.evaluation.sets.registered import VoxelSpace
from SynthDiffusionLib.reports.sections import (
    Section,
    Table,
    columns,
    counted,
    interval_text,
    listing,
    number,
    p_text,
    percent,
    with_holm,
)

WEAK = 0.8  # share of the planted copies that a search must find to be worth anything
PATIENTS_SHOWN = (
    "The pictures show training patients: this report then holds real patient images and must be kept like them. "
    "--no-pictures leaves them out."
)


def sections_of(
    found: dict[str, Any],
    training: ImageSet,
    validation: ImageSet,
    synthetic: ImageSet,
    fresh: ImageSet | None,
    *,
    pictures: bool = True,
) -> list[Section]:
    """The report."""
    _correct(found)
    return [
        _copies(found),
        _controls(found),
        _closest(found, training, synthetic, pictures),
        membership_section(found),
        _limits(found),
    ]


def _correct(found: dict[str, Any]) -> None:
    """p of the synthetic rows, corrected for the two searches; so of the fresh ones, and of the membership tests."""
    for name in {r["row"] for r in found["rows"]}:
        with_holm([r for r in found["rows"] if r["row"] == name])
    for own in {r["own_mask"] for r in found["membership"]}:
        with_holm([r for r in found["membership"] if r["own_mask"] == own])


def row_of(found: Mapping[str, Any], name: str, space: str) -> Mapping[str, Any] | None:
    """One row."""
    return next((r for r in found["rows"] if r["row"] == name and r["space"] == space), None)


def headline_row(found: Mapping[str, Any]) -> str:
    """The synthetic row that the sentences are about."""
    there = any(r["row"] == "synthetic_other" for r in found["rows"])
    return "synthetic_other" if found["own_mask"] == "leave-out" and there else "synthetic"


def rate_text(row: Mapping[str, Any]) -> str:
    """The flag rate with its interval: of patients with one volume each, or with several."""
    text = f"{percent(row['rate'])} of {counted(row['patients'], 'patient')}"
    if row["volumes"] > row["patients"]:
        text = f"on average {percent(row['rate'])} of a patient's volumes"
    return f"{text} ({interval_text(row['low'], row['high'], 0.95, True)})"


def flag_sentences(found: Mapping[str, Any]) -> list[str]:
    """What was found of copies, for report and card."""
    lines = []
    name = headline_row(found)
    for space in SPACES:
        row, threshold = row_of(found, name, space), found["thresholds"][space]
        what = "the limit" if threshold["exists"] else f"any of the {threshold['patients']} patients of the reference"
        whose = " of another patient than that of their mask" if name == "synthetic_other" else ""
        text = (
            f"{IN[space]}, {row['flagged']} of {row['volumes']} synthetic volumes are nearer to a training case{whose} "
            f"than {what}: {rate_text(row)}, where {'at most ' if threshold['paired'] else ''}"
            f"{percent(row['expected'])} are expected of volumes that copy nothing ({p_text(row['p_holm'])}, "
            "corrected)."
        )
        if row["volumes"] > row["patients"]:
            text += f" {row['patients_flagged']} of {counted(row['patients'], 'patient')} have any flagged volume."
        needed = flags_needed(row["places"], threshold["safe_rank"], threshold["patients"], ALPHA / len(SPACES))
        if row["p_holm"] is not None and row["p_holm"] < ALPHA:
            text += " That is more than chance explains: copying of training cases is suspected."
        elif needed is None:
            text += " No number of flags would have been more than chance explains: there are too few volumes."
        else:
            text += f" From {counted(needed, 'flagged patient')} on, it would have been more than chance explains"
            several = row["volumes"] > row["patients"]
            text += " (counting one volume of each: all first ones, or all second ones, ...)." if several else "."
        lines.append(text)
        near = f"{IN[space]}, {row['far_below']} of {row['volumes']} are nearer than half the limit"
        fresh, planted = (row_of(found, name, space) for name in ("fresh", "all_three"))
        if fresh is not None and fresh["kind"] == "real":
            near += f"; of the fresh real cases {fresh['far_below']} of {fresh['volumes']}"
        near += f"; of the copies with noise, shift and mirroring {planted['far_below']} of {planted['volumes']}"
        lines.append(near + ".")
    if found["same_files"]:
        names = listing(found["same_files"])
        lines.insert(0, f"{counted(len(found['same_files']), 'synthetic file')} are training files: {names}.")
    return lines


def control_sentences(found: Mapping[str, Any]) -> list[str]:
    """What would have been found, what not, and how often nothing is taken for something."""
    lines, missed = [], []
    controls = [r for r in found["rows"] if r["kind"] == "control" and r["space"] == SPACES[0]]
    for space in SPACES:
        rows = [r for r in found["rows"] if r["kind"] == "control" and r["space"] == space]
        said = listing((f"{copies.CONTROLS[r['row']].label} {r['flagged']} of {r['volumes']}" for r in rows), 20)
        lines.append(f"{IN[space]}, planted copies of training cases were found: {said}.")
        weak = [r for r in rows if r["flagged"] < WEAK * r["volumes"]]
        if any(r["needed"] for r in weak):
            kinds = listing(copies.CONTROLS[r["row"]].label for r in weak)
            lines.append(f"{IN[space]}, the search is too weak for copies that are {kinds}: few flags mean little.")
    for control in controls:
        limits = [found["thresholds"][s]["value"] for s in SPACES]
        pairs = zip(*(row_of(found, control["row"], s)["values"] for s in SPACES))
        either = sum(any(v < limit for v, limit in zip(values, limits)) for values in pairs)
        if either < WEAK * control["volumes"]:
            missed.append(f"{copies.CONTROLS[control['row']].label} ({either} of {control['volumes']} found)")
    lines.append(
        f"What both searches together would often have missed: {listing(missed)}; and copies changed more than those, "
        "copies of a small part of a case, and single near copies among few volumes."
        if missed
        else "Every kind of planted copy is found by one of the two searches. Copies changed more than those, copies "
        "of a small part of a case, and single near copies among few volumes may still be missed."
    )
    alarms = [r for r in found["rows"] if r["kind"] == "no skill" and r["flagged"]]
    if alarms:
        said = listing(
            f"{r['flagged']} of {r['volumes']} {r['label'].removeprefix('no skill: ')} ({NAMES[r['space']]})"
            for r in alarms
        )
        lines.append(
            f"False alarms: {said} are flagged, though they are copies of nobody. A flagged volume without detail "
            "proves nothing; look at the pictures."
        )
    else:
        lines.append("None of the volumes without detail, which are copies of nobody, is flagged.")
    return lines


def copy_check_sentence(found: Mapping[str, Any]) -> str:
    """What is as near to a training case as probable copies are: synthetic, real and planted volumes, and such without
    detail."""
    if found["copy_limit"] is None:
        return "Probable copies could not be told from others: all training cases are of one patient."

    def told(kind: str, prefix: str) -> str:
        rows = [r for r in found["rows"] if r["kind"] == kind and r["space"] == "voxels"]
        return listing((f"{r['label'].removeprefix(prefix)} {r['copies']} of {r['volumes']}" for r in rows), 20)

    doubles = sum(leak["role"] != "training" for leak in found["leaks"])
    return (
        f"Nearer than {number(found['copy_limit'])} in registered voxel space, as planted copies are, lie "
        f"{len(found['copies'])} of {row_of(found, 'synthetic', 'voxels')['volumes']} synthetic volumes (probable "
        f"copies) and {doubles} of {found['held_out']} held-out real cases; of volumes without detail: "
        f"{told('no skill', 'no skill: ')}; of the planted copies, to say what is seen and what is missed: "
        f"{told('control', 'planted: ')}."
    )


def answer(found: Mapping[str, Any], named: bool = True) -> str:
    """Both searches in one sentence, with what must be known to read it; before it, volumes that are probably copies.

    Args:
        named: see `copy_sentence`.
    """
    name = headline_row(found)
    rows = [row_of(found, name, space) for space in SPACES]
    sure = any(row["p_holm"] is not None and row["p_holm"] < ALPHA for row in rows)
    told = " and ".join(
        f"{row['flagged']} of {row['volumes']} synthetic volumes in {NAMES[space]}" for space, row in zip(SPACES, rows)
    )
    verdict = "suspected" if sure else "not shown"
    whose = " of another patient than that of their mask" if name == "synthetic_other" else ""
    text = f"Copying of training cases is {verdict}"
    copied = [Leak(**leak) for leak in found["copies"]]
    if copied:
        volumes = row_of(found, "synthetic", "voxels")["volumes"]
        shown = "is more than chance explains" if sure else "by itself would not be more than chance explains"
        text = f"{copy_sentence(copied, volumes, named)} The number of volumes near to any training case {shown}"
    text += f": nearer to one{whose} than the limit are {told}"
    others = [row_of(found, "synthetic_other", space) for space in SPACES]
    if name == "synthetic" and None not in others:
        left = " and ".join(f"{row['flagged']} of {row['volumes']}" for row in others)
        text += f"; some were made for masks of training patients, and without each one's own patient it is {left}"
    fresh = [row_of(found, "fresh", space) for space in SPACES]
    if all(row is not None and row["kind"] == "real" for row in fresh):
        text += "; of fresh real cases " + " and ".join(f"{row['flagged']} of {row['volumes']}" for row in fresh)
    return f"{text}."


def _copies(found: Mapping[str, Any]) -> Section:
    doubles = leak_sentences([Leak(**leak) for leak in found["leaks"]])
    first = [answer(found), *doubles] if found["copies"] else [*doubles, answer(found)]
    sentences = [*first, *found["box_told"], copy_check_sentence(found), *flag_sentences(found)]
    masks = found["masks"]
    if masks["training"]:
        sentences.append(
            f"{counted(masks['training'], 'synthetic volume')} of {sum(masks.values())} were made for masks of "
            "training patients and are near those for the mask's sake; the row without the patient of the mask is "
            "free of that, and blind for copies of just that patient."
        )
    fresh = row_of(found, "fresh", SPACES[0])
    if fresh is None:
        sentences.append(
            "No fresh real cases were given (--real), so the flag rate of volumes that copy nothing was not checked."
        )
    elif fresh["kind"] == "real":
        for space in SPACES:
            row = row_of(found, "fresh", space)
            sentences.append(
                f"{IN[space]}, {row['flagged']} of {row['volumes']} fresh real cases are flagged: {rate_text(row)}."
            )
    sentences.append(
        "This says what was looked for: near copies of whole training volumes. It is no proof that nothing was learnt "
        "by heart."
    )
    kinds = ("reference", "real", "synthetic")
    rows = tuple(r for r in found["rows"] if r["kind"] in kinds)
    table = Table(
        "distances",
        "Distance to the nearest training case",
        columns(
            "space|search", "label|volumes", "volumes|number|int", "patients|patients|int", "smallest|nearest|number",
            "median|median|number", "flagged|flagged|int", "patients_flagged|patients with any|int",
            "rate|flag rate|percent", "low|95 % interval from|percent", "high|to|percent",
            "expected|expected|percent", "p|p|p", "p_holm|p, corrected|p",
            "far_below|nearer than half the limit|int", "copies|probable copies|int",
        ),
        rows,
        "Training cases are driven apart by the training of the embedding: there, their distances to each other are "
        "for comparison only and set no limit.",
    )  # fmt: skip
    plots = [_distances(found, space) for space in SPACES]
    shown = [r for r in found["rows"] if r["low"] is not None and r["kind"] != "control"]
    plots.append(
        {
            "id": "flag-rates",
            "kind": "intervals",
            "title": "Flag rates with exact intervals",
            "label": "Share of a patient's volumes that are flagged, mean over patients (line: 5 %)",
            "line": 0.05,
            "rows": [
                {"reader": f"{r['label']}, {NAMES[r['space']]}", "value": r["rate"], "low": r["low"], "high": r["high"]}
                for r in shown
            ],
        }
    )
    return Section(
        "copies",
        "Are synthetic volumes nearer to training cases than other patients are?",
        "measured",
        tuple(sentences),
        (*_probable_copies(found), *_doubles(found), table),
        tuple(plots),
        family="The two searches of each row are corrected together (Holm 1979).",
        detail={
            "rows": [{k: v for k, v in r.items() if k != "values"} for r in found["rows"]],
            "per_volume": found["per_volume"],
            "masks": masks,
            "same_files": found["same_files"],
            "answer": {"named": answer(found), "unnamed": answer(found, named=False)},
            **{k: found[k] for k in ("leaks", "copies", "copy_limit", "held_out")},
        },
        headlines=(_copy_headline(found), *(_rate_headline(found, space) for space in SPACES)),
    )


def _probable_copies(found: Mapping[str, Any]) -> tuple[Table, ...]:
    """Synthetic volumes that are probably copies; nothing where there are none."""
    table = Table(
        "copies",
        "Probable copies of training cases",
        columns(
            "case|synthetic", "nearest|training case", "distance|distance in registered voxels|number6",
            "limit|copies are nearer than|number6",
            "median|training patients to the nearest other one, median|number", "own|made for that patient's mask|yes",
        ),
        tuple(found["copies"]),
        "Look at the two volumes. Copies that are rotated or warped, and blends of two cases, are mostly not seen so.",
    )  # fmt: skip
    return (table,) if found["copies"] else ()


def _copy_headline(found: Mapping[str, Any]) -> dict[str, Any]:
    """The share of probable copies beside that of held-out real cases and of volumes without detail."""
    shown = [v for v in found["per_volume"] if v["row"] == "synthetic" and v["space"] == "voxels"]
    limit, real = found["copy_limit"], sum(leak["role"] != "training" for leak in found["leaks"])
    figure = {
        "measure": "Probable copies",
        "better": "near 0",
        "kind": "percent",
        "sentence": copy_check_sentence(found),
    }
    if limit is None:
        return figure | {"row": "synthetic", "value": None}
    shares = patient_shares([v["distance"] < limit for v in shown], [v["patient"] for v in shown])
    low, high = share_interval(shares, len(shown))
    none = [r for r in found["rows"] if r["kind"] == "no skill" and r["space"] == "voxels"]
    best = min(none, key=lambda r: r["copies"] / r["volumes"])
    return figure | {
        "row": f"{len(found['copies'])} of {len(shown)} synthetic volumes",
        "value": float(shares.mean()),
        "low": low,
        "high": high,
        "reference": real / found["held_out"],
        "reference_name": f"{real} of {found['held_out']} held-out real cases",
        "cartoon": best["copies"] / best["volumes"],
        "cartoon_name": best["label"].removeprefix("no skill: "),
        "n": len(shares),
    }


def _doubles(found: Mapping[str, Any]) -> tuple[Table, ...]:
    """Cases that are probably in the training set under another name; nothing where there are none."""
    table = Table(
        "doubles",
        "Probable doubles of training cases among real ones",
        columns(
            "role|set", "case|case", "patient|patient", "nearest|training case",
            "distance|distance in registered voxels|number6", "limit|doubles are nearer than|number6",
            "median|training patients to the nearest other one, median|number",
        ),
        tuple(found["leaks"]),
        "Look at the two volumes. Patients of the held-out sets were left out of all figures.",
    )  # fmt: skip
    return (table,) if found["leaks"] else ()


def _rate_headline(found: Mapping[str, Any], space: str) -> dict[str, Any]:
    """The flag rate of synthetic volumes beside that of fresh real ones and of volumes without detail."""
    row, fresh = row_of(found, headline_row(found), space), row_of(found, "fresh", space)
    at_most = "at most " if found["thresholds"][space]["paired"] else ""
    expected = f"{at_most}{percent(row['expected'])} expected"
    known = fresh is not None and fresh["kind"] == "real"
    none = [r for r in found["rows"] if r["kind"] == "no skill" and r["space"] == space]
    best = min(none, key=lambda r: r["rate"])
    return {
        "measure": f"Volumes flagged as near-copies, {NAMES[space]}",
        "row": row["label"],
        "value": row["rate"],
        "low": row["low"],
        "high": row["high"],
        "reference": fresh["rate"] if known else row["expected"],
        "reference_name": f"fresh real cases; {expected}" if known else "expected of copies of nothing",
        "cartoon": best["rate"],
        "cartoon_name": best["label"].removeprefix("no skill: "),
        "better": "lower",
        "kind": "percent",
        "n": row["patients"],
        "sentence": next(s for s in flag_sentences(found) if s.startswith(IN[space])),
    }


def _distances(found: Mapping[str, Any], space: str) -> dict[str, Any]:
    threshold = found["thresholds"][space]
    line = "limit" if threshold["exists"] else "smallest of the held-out patients"
    return {
        "id": f"distances-{space}",
        "kind": "distribution",
        "title": f"Distance to the nearest training case: {NAMES[space]}",
        "label": f"Distance (0: the same; dotted: {line})",
        "line": threshold["value"],
        "rows": [
            {"label": r["label"], "values": {"volumes": r["values"]}} for r in found["rows"] if r["space"] == space
        ],
    }


def _controls(found: Mapping[str, Any]) -> Section:
    table = Table(
        "controls",
        "Planted copies, which must be found, and volumes without detail, which must not",
        columns(
            "space|search", "label|volumes", "volumes|number|int", "smallest|nearest|number", "median|median|number",
            "flagged|flagged|int", "rate|flag rate|percent", "low|95 % interval from|percent", "high|to|percent",
            "far_below|nearer than half the limit|int", "copies|as near as probable copies|int",
            "right|nearest is the copied case|int",
        ),
        tuple(r for r in found["rows"] if r["kind"] in ("control", "no skill")),
        "Means of random halves of one set resemble each other: they count as one volume, without an interval.",
    )  # fmt: skip
    return Section("controls", "What would have been found, and what not?", "measured",
                   tuple(control_sentences(found)), (table,))  # fmt: skip


def _closest(found: dict[str, Any], training: ImageSet, synthetic: ImageSet, pictures: bool) -> Section:
    plots, rows = [], []
    space = VoxelSpace(**{k: found["space"][k] for k in ("box", "factor", "step", "core", "intensity_range")})
    for rank, pair in enumerate(found["pairs"], start=1):
        one, two = synthetic.cases[pair["number"]], training.cases[pair["nearest_number"]]
        row = {
            "rank": rank,
            "synthetic": one.name,
            "training": two.name,
            "space": NAMES[pair["space"]],
            "distance": pair["distance"],
            "ratio": pair["ratio"],
            "flagged": pair["flagged"],
            "own": one.patient == two.patient,
        }
        rows.append(row)
        if pictures:
            png, correlation = pair_picture(one.image, two.image, space, one.spacing)
            row["correlation"] = correlation
            title = f"{rank}. {one.name} | {two.name}, laid on it | difference. {NAMES[pair['space']].capitalize()}: "
            title += f"{number(pair['ratio'], 2)} times the limit{' (flagged)' if pair['flagged'] else ''}"
            plots.append({"id": f"pair-{rank}", "kind": "picture", "title": title, "png": png})
    table = Table(
        "pairs",
        "The closest pairs, by turns of the two searches",
        columns(
            "rank|rank|int", "synthetic|synthetic", "training|training case", "space|search",
            "distance|distance|number6", "ratio|times the limit|number", "flagged|flagged|yes",
            "own|made for that patient's mask|yes", "correlation|correlation when laid on each other|number",
        ),
        tuple(rows),
    )  # fmt: skip
    pairs = counted(len(rows), "closest pair")
    said = [f"The {pairs} of synthetic volumes and training cases, by turns of the two searches."]
    said.append(PATIENTS_SHOWN if pictures else "Pictures were left out; the names of training cases were not.")
    return Section("pairs", "What do the closest pairs look like?", "measured", tuple(said), (table,), tuple(plots))


def limit_sentences(found: Mapping[str, Any]) -> list[str]:
    """How far the limit can be trusted."""
    lines = []
    for space in SPACES:
        threshold = found["thresholds"][space]
        patients = threshold["patients"]
        who = f"{patients} {'real' if threshold['paired'] else 'held-out'} patients"
        most = "at most " if threshold["paired"] else ""
        if threshold["exists"]:
            lines.append(
                f"{IN[space]}, the limit is distance number {threshold['rank']} of {who}: over such sets, "
                f"{most}{percent(threshold['expected'])} of new patients are flagged. It is drawn from few patients "
                f"itself: one such limit in twenty flags more than {percent(threshold['upper'])}."
            )
        else:
            needed = found["fewest_paired" if threshold["paired"] else "fewest"]
            lines.append(
                f"{IN[space]}, no limit at 5 % exists with {who}: at least {needed} are needed. Flagged is what is "
                f"nearer than all of them, which happens to {most}{percent(threshold['expected'])} of new patients; "
                "only ranks are reported."
            )
    if found["reference"] == "held-out":
        lines.append(
            "Validation and fresh real cases set the limit together, so that none is left to check its rate with; it "
            "holds as far as they are alike."
        )
    if not any(leak["role"] != "training" for leak in found["leaks"]):
        lines.append(
            "No held-out case lies as near to a training case as planted copies do: none seems to be in the training "
            "set under another name. Copies of one that are rotated or warped would not be seen."
        )
    return lines


def _limits(found: Mapping[str, Any]) -> Section:
    rows = tuple({"name": NAMES[s], **found["thresholds"][s]} for s in SPACES)
    table = Table(
        "limits",
        "The limits",
        columns(
            "name|search", "value|limit|number6", "rank|rank|int", "patients|of patients|int",
            "expected|expected flag rate|percent", "upper|19 of 20 limits flag at most|percent",
            "exists|is a limit at 5 %|yes", "paired|training cases among them|yes",
        ),
        rows,
    )  # fmt: skip
    return Section("limits", "How far can the limit be trusted?", "data", tuple(limit_sentences(found)), (table,))
