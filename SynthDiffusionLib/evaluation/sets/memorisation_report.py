"""The figures of `memorisation` as sentences, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from SynthDiffusionLib.evaluation.memorisation import rank_test
from SynthDiffusionLib.evaluation.sets import copies
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet
from SynthDiffusionLib.evaluation.sets.memorisation import FAR_BELOW, SPACES
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

NAMES = {"embedding": "embedding", "voxels": "registered voxels"}
IN = {"embedding": "In the embedding", "voxels": "In registered voxel space"}
ALPHA = 0.05
WEAK = 0.8  # share of the planted copies that a search must find to be worth anything
PATIENTS_SHOWN = (
    "The pictures show training patients: this report then holds real patient images and must be kept like them. "
    "--no-pictures leaves them out."
)


def definitions_of(found: Mapping[str, Any]) -> dict[str, str]:
    """What each figure is, with its source."""
    space, embedding = found["space"], found["embedding"]
    box, core = (" x ".join(map(str, space[k])) for k in ("box", "core_mm"))
    return {
        "Distance in the embedding": "1 minus the largest cosine between two volumes' points in a network's output, "
        "over crops at 27 and 8 places of the two and the eight mirror images, scaled by what random changes of one "
        "volume do to its point (within-class covariance normalisation, Hatch et al. 2006). The "
        f"network ({len(embedding['channels'])} convolutions, {embedding['features']} dimensions) is trained on the "
        f"training set alone, {embedding['steps']} steps of SimCLR (Chen et al. 2020, arXiv:2002.05709; looking for "
        "copied patients in such an embedding: Dar et al. 2024, arXiv:2402.01054; network and changes: ours), so that "
        "volumes that are shifted, rotated, warped, blurred, noisy or of another contrast stay where they "
        f"were. All volumes are cut to their middle {box} voxels, which every volume has, thinned to "
        f"{' x '.join(map(str, embedding['shape']))}.",
        "Distance in registered voxel space": "1 minus the largest normalised cross-correlation of the volume's core "
        f"({core} mm round the middle) with a training case, over all shifts that keep the core inside and the eight "
        "mirror images, of band-passed volumes"
        f"{' at half resolution' if space['step'] == 2 else ''}. Brightness and contrast do not matter. Ours.",
        "Limit": "the k-th smallest distance of held-out real patients to their nearest training case (one volume of "
        "each patient), k = floor(0.05 (V + 1)) of V patients. A new real patient is nearer with a probability of "
        "k / (V + 1), at most 5 %, over validation sets and new patients alike (split conformal prediction, Vovk et "
        "al. 2005; order statistics, Wilks 1941). The rate of the one limit that was drawn varies as Beta(k, V + 1 - "
        "k). Fewer than 19 patients allow no limit at 5 %; then the smallest distance stands in, which is a rank only. "
        "In registered voxel space, which learns nothing from the training cases, they join the reference with their "
        "distances to the nearest other patient; since small ones come in pairs, the limit is one rank lower (full "
        "conformal prediction). The embedding drives training cases apart: there, held-out patients alone set it.",
        "Flagged": "volumes that are nearer to a training case than the limit.",
        "Flag rate": "share of patients whose first volume is flagged, with the exact interval of Clopper and Pearson "
        "1934, given the limit. A synthetic volume counts for the patient of its mask.",
        "p of flags": "probability that at least so many are below the limit if all volumes were drawn as the "
        "reference was: the exact precedence test (Nelson 1963, Technometrics 5:491), which knows that the limit was "
        "drawn too; corrected for the two searches (Holm 1979).",
        "Far below the limit": f"nearer than {FAR_BELOW:g} times the limit. How many planted copies and how many fresh "
        "real cases are so near says what that means. Ours.",
        "Membership AUC": "probability that a training case is nearer to its nearest synthetic volume than a fresh "
        "real case is (ties count half). 0.5: the synthetic volumes do not tell who was trained on; 1: they tell it "
        "for certain. p of the test of Mann and Whitney 1947. The embedding of this test is trained on synthetic and "
        "validation volumes only, since one that was trained on the training cases drives those apart. Interval: "
        "bootstrap over patients. Smallest AUC found: by a two-sided test at 5 % in 80 % of studies of this size "
        "(variance of Hanley and McNeil 1982).",
        "Own mask left out": "a synthetic volume is near the patient whose mask it was made for, for the mask's sake. "
        "Such pairs are left out; in the membership test, every case also goes without the volumes of a drawn patient "
        "of the other side, so that none has more to be near to.",
        "Planted copies": f"up to 20 training cases: shifted by at most {copies.SHIFT_SHARE:.0%} of each side, noise "
        f"of {copies.NOISE_SHARE:.0%} of the range, blur of {copies.BLUR_VOXELS:g} voxel, gamma {copies.GAMMA:g} or "
        f"its inverse, rotation by {copies.TURN_DEGREES:g}°, a smooth random warp of {copies.WARP_SHARE:.0%} of the "
        "shortest side (standard deviation), or one half from another training case.",
        "No skill": "volumes that nobody copied and that have no detail: means of random halves of the training "
        f"images; held-out real images smoothed by {copies.SMOOTH_VOXELS:g} voxels; held-out real images as flat "
        f"areas of {copies.CARTOON_CLASSES} intensities. Smooth volumes correlate with everything.",
    }


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
        _membership(found),
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


def flags_needed(row: Mapping[str, Any], threshold: Mapping[str, Any]) -> int | None:
    """The least number of flagged patients that the test calls more than chance, corrected for two searches."""
    n = row["patients"]
    tests = (b for b in range(n + 1) if rank_test(b, n, threshold["safe_rank"], threshold["patients"]) < ALPHA / 2)
    return next(tests, None)


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
            f"than {what}: {percent(row['rate'])} of {counted(row['patients'], 'patient')} "
            f"({interval_text(row['low'], row['high'], 0.95, True)}), where {'at most ' if threshold['paired'] else ''}"
            f"{percent(row['expected'])} are expected of volumes that copy nothing ({p_text(row['p_holm'])}, "
            "corrected)."
        )
        needed = flags_needed(row, threshold)
        if row["p_holm"] is not None and row["p_holm"] < ALPHA:
            text += " That is more than chance explains: copying of training cases is suspected."
        elif needed is None:
            text += " No number of flags would have been more than chance explains: there are too few volumes."
        else:
            text += f" From {counted(needed, 'flagged patient')} on, it would have been more than chance explains."
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
        weak = [r for r in rows if r["needed"] and r["flagged"] < WEAK * r["volumes"]]
        if weak:
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


def _copies(found: Mapping[str, Any]) -> Section:
    sentences = flag_sentences(found)
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
                f"{IN[space]}, {row['flagged']} of {row['volumes']} fresh real cases are flagged: "
                f"{percent(row['rate'])} ({interval_text(row['low'], row['high'], 0.95, True)})."
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
            "median|median|number", "flagged|flagged|int", "rate|flag rate|percent", "low|95 % interval from|percent",
            "high|to|percent", "expected|expected|percent", "p|p|p", "p_holm|p, corrected|p",
            "far_below|nearer than half the limit|int",
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
            "label": "Share of patients whose first volume is flagged (line: 5 %)",
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
        (table,),
        tuple(plots),
        family="The two searches of each row are corrected together (Holm 1979).",
        detail={
            "rows": [{k: v for k, v in r.items() if k != "values"} for r in found["rows"]],
            "per_volume": found["per_volume"],
            "masks": masks,
            "same_files": found["same_files"],
        },
    )


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
            "far_below|nearer than half the limit|int", "right|nearest is the copied case|int",
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
    said = [f"The {counted(len(rows), 'closest pair')} of synthetic volumes and training cases, nearest first."]
    said.append(PATIENTS_SHOWN if pictures else "Pictures were left out; the names of training cases were not.")
    return Section("pairs", "What do the closest pairs look like?", "measured", tuple(said), (table,), tuple(plots))


def membership_sentences(found: Mapping[str, Any]) -> list[str]:
    """What the membership test says, for report and card."""
    rows = found["membership"]
    if not rows:
        return ["Membership inference was not tested: it needs fresh real cases (--real)."]
    lines = []
    which = "left out" if any(r["own_mask"] == "left out" for r in rows) else "kept"
    for row in (r for r in rows if r["own_mask"] == which):
        text = (
            f"{IN[row['space']]}, the distance to the nearest synthetic volume tells training cases from fresh real "
            f"ones with an AUC of {number(row['auc'], 2)} ({interval_text(row['low'], row['high'], 0.95)}; "
            f"{p_text(row['p_holm'])}, corrected); 0.5 is guessing."
        )
        if row["p_holm"] is not None and row["p_holm"] < ALPHA:
            text += (
                " The synthetic volumes give away who was trained on."
                if row["auc"] > 0.5
                else " Training cases are further from the synthetic volumes than fresh ones are: the two sets differ, "
                "and the test cannot be read."
            )
        lines.append(text)
    row = rows[0]
    lines.append(
        f"With {row['training_patients']} training and {row['fresh_patients']} fresh patients, an AUC of "
        f"{number(row['smallest_found'], 2)} or more would be found in four of five such studies; a weaker leak would "
        "mostly be missed."
    )
    if which == "left out":
        lines.append(
            "Synthetic volumes made for a case's own mask are left out, since they are near it for the mask's sake; "
            "a copy that is made only when the patient's own mask is given is not seen by this test."
        )
    return lines


def _membership(found: Mapping[str, Any]) -> Section:
    rows = tuple(dict(r, name=NAMES[r["space"]]) for r in found["membership"])
    table = Table(
        "membership",
        "Telling training cases from fresh real ones",
        columns(
            "name|search", "own_mask|volumes of the own mask", "training_patients|training patients|int",
            "fresh_patients|fresh patients|int", "auc|AUC|number", "low|95 % interval from|number", "high|to|number",
            "p|p|p", "p_holm|p, corrected|p", "smallest_found|smallest AUC that is found|number",
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
    )


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
