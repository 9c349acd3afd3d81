"""What `volumes` found, as sentences for a radiologist and tables for a statistician."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.sets.image_set import FEWEST_CASES
from SynthDiffusionLib.evaluation.sets.regional import LOCAL_SIDE, Sensitivity
from SynthDiffusionLib.evaluation.sets.volumes import ALPHA, TEXTURES, CaseRegions, Regional, by_patient
from SynthDiffusionLib.evaluation.sets.volumes_lists import (
    drawn_section,
    left_out_section,
    points,
    presence_text,
    spread,
    uneven_presence,
    volumes_section,
)
from SynthDiffusionLib.reports.sections import (
    Section,
    Table,
    columns,
    counted,
    listing,
    p_text,
    percent,
)

REGIONS_IN_A_PLOT = 12
SPOKEN = 8
HEADLINE_REGIONS = 3
TEXTURE_NAMES = {
    "mean": "mean",
    "sd": "standard deviation",
    "local_sd": "local standard deviation",
    "correlation": "neighbour correlation",
}
SOURCES = (
    "Wasserstein-1 distance: Villani, Optimal Transport, 2009, remark 6.5 (one dimension). Kolmogorov-Smirnov "
    "statistic: Massey, J Am Stat Assoc 1951;46:68. Permutation "
    "p-value: Phipson and Smyth, Stat Appl Genet Mol Biol 2010;9:39.",
    "Several tests: Holm, Scand J Stat 1979;6:65.",
    "That regional volumes are compared relative to a whole: named, without a formula, by the MedLoRD paper (arXiv "
    "2503.13211). The definitions are ours.",
)


def definitions(result: Regional, unit: str, permutations: int) -> dict[str, str]:
    """How the figures are computed."""
    texts = {
        "volume": "voxels of the region times the volume of a voxel (the determinant of the affine), in ml.",
        "share": f"volume of the region divided by that of {result.whole.text(result.names, unit)}, per volume; mean "
        "of a patient's volumes. Volumes without the region have none, and are counted apart.",
        "Wasserstein": "Wasserstein-1 distance between the distributions of the patients' shares: the mean distance in "
        "percentage points that the one has to be moved to become the other.",
        "KS": "Kolmogorov-Smirnov statistic: the largest difference of the two distribution functions.",
        "p": f"share of {permutations} permutations over patients with a distance at least as large; a patient of both "
        "sets keeps both values together, which are exchanged or not. Not defined with fewer than "
        f"{FEWEST_CASES} patients.",
        "mean difference": "synthetic minus real, of the means over patients; its p-value by the same permutations, "
        "two-sided; its interval is a 95 % percentile bootstrap over patients, those of both sets drawn with both "
        "values. Where the same patients are in both sets it sees a small change that all have in common, which the "
        "distances of the distributions hardly see.",
        "differs": f"the p-value of the Wasserstein distance or of the mean difference is below {ALPHA}, corrected by "
        "Holm for these two tests of all regions.",
        "floor": "median (and 95th percentile) of the Wasserstein distance between random halves of the real patients. "
        "Halves are smaller than the sets, so that they lie a little farther apart than two whole sets would.",
        "found": "share of random halvings of the real patients in which the test (uncorrected, p < 0.05, halves as "
        "two samples) calls the halves different: unchanged; with the region of one half 10 or 20 % larger, the whole "
        "growing with it where it holds it; with the one half's mean in place of each of its values.",
        "local standard deviation": f"standard deviation of the region's voxels in neighbourhoods of {LOCAL_SIDE} x "
        f"{LOCAL_SIDE} x {LOCAL_SIDE} voxels, averaged over the region: its texture at the scale of a voxel. Ours; it "
        "depends on the spacing.",
        "neighbour correlation": "correlation of the intensities of all pairs of the region's voxels that touch: 0 of "
        "noise, near 1 of a smooth texture, whatever the brightness and contrast. IBSI's co-occurrence correlation "
        "(NI2N, arXiv:1612.07003) without grey levels; it depends on the spacing.",
    }
    if not result.compared:
        for name in ("Wasserstein", "KS", "p", "differs", "floor", "found"):
            del texts[name]
    return texts


def build_sections(result: Regional, unit: str, segmenter_name: str | None, labels_given: bool) -> list[Section]:
    """All sections of the report."""
    sections = [_shares(result, unit, segmenter_name, labels_given)]
    if result.compared:
        sections.append(_sensitivity(result))
    sections.append(_textures(result, unit))
    if segmenter_name and labels_given:
        sections.append(drawn_section(result))
    return [*sections, left_out_section(result), volumes_section(result)]


def _shares(result: Regional, unit: str, segmenter_name: str | None, labels_given: bool) -> Section:
    real_n, synthetic_n = result.patients
    sentences = [*_origin(result, segmenter_name), f"Shares are of {result.whole.text(result.names, unit)}."]
    tested = [r for r in result.rows if r.get("p_holm") is not None]
    differing = sorted((r for r in tested if r["differs"]), key=lambda r: min(r["p"], r["mean_p"]))
    if not result.synthetic:
        sentences.insert(0, "No synthetic set was given: the real regions are listed, and nothing is compared.")
    elif not result.compared:
        sentences.insert(
            0,
            f"There {'is' if real_n == 1 else 'are'} {counted(real_n, 'real patient')} and "
            f"{counted(synthetic_n, 'synthetic one')}; with fewer than "
            f"{FEWEST_CASES} in either set the shares are listed, and no distribution is compared.",
        )
    else:
        n = len(tested)
        caution = "" if segmenter_name else ", which are those of the label maps, whatever the images show"
        if result.same_masks and not segmenter_name:
            caution = f"; {_same_masks(result)}"
        sentences.insert(
            0,
            f"Of {counted(n, 'region')} that could be compared, {len(differing)} "
            f"{'has' if len(differing) == 1 else 'have'} shares that differ between real and synthetic volumes, after "
            f"correction for {counted(2 * n, 'test')}{caution}.",
        )
        rarer = uneven_presence(result)
        if rarer:
            sentences[0] = f"{presence_text(result, rarer[:SPOKEN])} {sentences[0]}"
        sentences += [_difference(result, r) for r in differing[:SPOKEN]]
        if n > len(differing):
            sentences.append(
                f"{'Of the others' if differing else 'Of their shares'} a difference is not shown, which is not the "
                "same as being equal: the next section says how large one would have to be."
            )
        few = [result.names[r["value"]] for r in result.rows if r.get("p") is None]
        if few:
            sentences.append(f"In fewer than {FEWEST_CASES} patients of either set, and not compared: {listing(few)}.")
    return Section(
        "shares",
        "Are the proportions those of real patients?",
        "measured",
        tuple(sentences),
        (_share_table(result), _ks_table(result), _ml_table(result)),
        tuple(_plots(result)),
        family=_family(len(tested)),
        sources=SOURCES,
        headlines=tuple(_headlines(result, tested)),
    )


def _headlines(result: Regional, tested: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Regions of unequal presence; then of those that differ most, beside the floor and a model without skill."""
    entries: list[dict[str, Any]] = []
    everyone = [len({c.patient for c in cases}) for cases in (result.real, result.synthetic)]
    for row in uneven_presence(result)[:HEADLINE_REGIONS]:
        entries.append(
            {
                "measure": "Patients with the region",
                "row": result.names[row["value"]],
                "value": row["synthetic"] / everyone[1],
                "kind": "percent",
                "reference": row["real"] / everyone[0],
                "reference_name": "real patients",
                "better": "near real",
                "n": everyone[1],
            }
        )
    for row in sorted(tested, key=lambda r: min(r["p"], r["mean_p"]))[:HEADLINE_REGIONS]:
        floor = (result.sensitivity or {}).get(row["value"])
        shared = {
            "row": result.names[row["value"]],
            "n": row["synthetic_n"],
            "cartoon_name": "the real mean for everyone",
        }
        entries += [
            {
                "measure": "Share in %, mean difference",
                "value": points(row["difference"]),
                "low": points(row["difference_low"]),
                "high": points(row["difference_high"]),
                "cartoon": 0.0,
                "better": "near 0",
                **shared,
            },
            {
                "measure": "Share in %, Wasserstein distance",
                "value": points(row["wasserstein"]),
                "reference": points(floor.floor) if floor else None,
                "reference_name": "halves of the real patients",
                "cartoon": points(row["everyone_alike"]),
                "better": "lower",
                **shared,
            },
        ]
    return entries


def _origin(result: Regional, segmenter_name: str | None) -> list[str]:
    if segmenter_name:
        text = f"The regions were found in the images by {segmenter_name}"
        return [f"{text}, in real and synthetic ones alike, so that its own errors are in both."]
    if not result.synthetic:
        return []
    sentences = [
        "The regions are those of the label maps that were given. For synthetic volumes they say what was asked for, "
        "not what is in the images; --segmenter finds the regions in the images, which is the honest measure."
    ]
    if result.same_masks:
        sentences.append(f"Compared voxel by voxel, {_same_masks(result)}.")
    return sentences


def _same_masks(result: Regional) -> str:
    n, same = len(result.synthetic), result.same_masks
    text = f"{same} of the {n} synthetic label maps {'is a real one' if same == 1 else 'are real ones'}"
    if 2 * same < n:
        return f"{text}, which says nothing about the model"
    return f"{text}, so that agreement with the real ones says nothing about the model"


def _difference(result: Regional, row: dict[str, Any]) -> str:
    real, synthetic = (_mean(cases, row["value"]) for cases in (result.real, result.synthetic))
    change = synthetic / real - 1
    more = "larger" if change > 0 else "smaller"
    how = (
        f"{abs(100 * change):.0f} % {more} on average"
        if abs(change) >= 0.005
        else "the same on average, spread otherwise"
    )
    return (
        f"{result.names[row['value']]}: {percent(synthetic, 2)} in synthetic against {percent(real, 2)} in real "
        f"volumes, {how} (after correction: distribution {p_text(row['p_holm'])}, mean {p_text(row['mean_p_holm'])})."
    )


def _mean(cases: Sequence[CaseRegions], value: int) -> float:
    shares = list(by_patient(cases, [c.share(value) for c in cases]).values())
    return float(np.mean(shares)) if shares else float("nan")


def _family(rows: int) -> str:
    return f"Holm's correction for {2 * rows} tests, two for each row (distribution, mean)." if rows else ""


def _share_table(result: Regional) -> Table:
    compared = {r["value"]: r for r in result.rows}
    rows = []
    for value in result.values:
        row: dict[str, Any] = {"region": result.names[value]}
        for name, cases in (("real", result.real), ("synthetic", result.synthetic)):
            shares = list(by_patient(cases, [c.share(value) for c in cases]).values())
            row |= {f"{name}_n": len(shares) if cases else None, f"{name}_sd": points(spread(shares))}
            row[name] = points(float(np.mean(shares))) if shares else None
        own = compared.get(value, {})
        row |= {k: own.get(k) for k in ("p", "p_holm", "mean_p", "mean_p_holm")}
        row |= {k: points(own.get(k)) for k in ("wasserstein", "difference", "difference_low", "difference_high")}
        if own.get("p_holm") is not None:
            row["verdict"] = "differs" if own["differs"] else "not shown"
        rows.append(row)
    return Table(
        "shares",
        "Share of the whole in percent, mean and standard deviation over patients; distances in percentage points",
        columns(
            "region|Region", "real_n|Real, N|int", "real|Real|number", "real_sd|SD|number", "synthetic_n|Synth., N|int",
            "synthetic|Synthetic|number", "synthetic_sd|SD|number",
            "wasserstein|Wasserstein|number", "p|p|p", "p_holm|corrected|p", "difference|Mean difference|number",
            "difference_low|from|number", "difference_high|to|number", "mean_p|p|p", "mean_p_holm|corrected|p",
            "verdict|Difference",
        ),
        tuple(rows),
        "Corrected by Holm: Wasserstein distance and mean difference of all regions together." if result.rows else "",
    )  # fmt: skip


def _ks_table(result: Regional) -> Table:
    return Table(
        "ks",
        "Kolmogorov-Smirnov statistic of the shares",
        columns("region|Region", "ks|KS|number", "ks_p|p|p", "ks_p_holm|corrected|p"),
        tuple({**r, "region": result.names[r["value"]]} for r in result.rows if r.get("ks") is not None),
        "Corrected by Holm over all regions, by itself; the verdicts above do not use it.",
    )


def _ml_table(result: Regional) -> Table:
    rows = []
    for value in result.values:
        row: dict[str, Any] = {"region": result.names[value]}
        for name, cases in (("real", result.real), ("synthetic", result.synthetic)):
            own = list(by_patient(cases, [c.ml[value] or np.nan for c in cases]).values())
            if own:
                row |= {name: float(np.mean(own)), f"{name}_sd": spread(own)}
                row |= {f"{name}_low": min(own), f"{name}_high": max(own), f"{name}_n": len(own)}
        rows.append(row)
    return Table(
        "millilitres",
        "Volume in ml, over patients that have the region",
        columns(
            "region|Region", "real_n|Real, N|int", "real|Real, mean|number", "real_sd|SD|number",
            "real_low|Smallest|number", "real_high|Largest|number", "synthetic_n|Synth., N|int",
            "synthetic|Synthetic, mean|number", "synthetic_sd|SD|number", "synthetic_low|Smallest|number",
            "synthetic_high|Largest|number",
        ),
        tuple(rows),
    )  # fmt: skip


def _plots(result: Regional) -> list[dict[str, Any]]:
    """Shares relative to the real median, so that large and small regions fit into one plot."""
    rows = []
    for value in result.values:
        real, synthetic = (
            list(by_patient(cases, [c.share(value) for c in cases]).values())
            for cases in (result.real, result.synthetic)
        )
        middle = float(np.median(real)) if real else 0.0
        if middle and synthetic:
            groups = {"real": real, "synthetic": synthetic}
            values = {name: [round(x / middle, 5) for x in shares] for name, shares in groups.items()}
            rows.append({"label": result.names[value], "values": values})
    parts = [rows[i : i + REGIONS_IN_A_PLOT] for i in range(0, len(rows), REGIONS_IN_A_PLOT)]
    return [
        {
            "id": f"shares-{i}",
            "kind": "distribution",
            "title": "Share of the whole, each patient a point" + (f" ({i} of {len(parts)})" if len(parts) > 1 else ""),
            "label": "Share divided by the real median (boxes: quartiles and median)",
            "line": 1.0,
            "rows": part,
        }
        for i, part in enumerate(parts, start=1)
    ]


def _sensitivity(result: Regional) -> Section:
    known: dict[int, Sensitivity] = dict(result.sensitivity or {})
    total = len(known)
    distances = {r["value"]: r.get("wasserstein") for r in result.rows}
    sentences = []
    if known:
        ten, twenty = (sum(getattr(s, k) >= 0.8 for s in known.values()) for k in ("larger_10", "larger_20"))
        sentences = [
            f"A region that is 10 % larger in every patient would be noticed in at least 80 % of the trials for {ten} "
            f"of {counted(total, 'region')}, one that is 20 % larger for {twenty}. The trials are random halves of the "
            "real patients, each region tested by itself: whole sets of the same patients see more, and the "
            f"correction for {counted(2 * total, 'test')} sees less.",
            f"Unchanged halves are called different in {percent(float(np.mean([s.false for s in known.values()])))} of "
            "the trials (nominal 5 %).",
        ]
        flat = sum(s.mean_only >= 0.8 for s in known.values())
        sentences.append(
            "No skill: a model that gives every patient the mean share would be noticed for "
            f"{flat} of {counted(total, 'region')}; its mean is right, its spread is not."
        )
        near = sum(distances[v] is not None and distances[v] <= s.floor_95 for v, s in known.items())
        paired = len({c.patient for c in result.real} & {c.patient for c in result.synthetic})
        sentences.append(
            f"In {near} of {counted(total, 'region')} the synthetic volumes lie no farther from the real ones than "
            "95 % of random halves of the real patients lie from each other."
            + (
                f" {counted(paired, 'patient')} of both sets {'is' if paired == 1 else 'are'} compared with "
                "themselves, "
                "which may show smaller differences than that."
                if paired
                else ""
            )
        )
        if result.whole.kind != "body":
            sentences.append(
                "Shares depend on each other: where one region is too large, the shares of all others fall. --of takes "
                "another whole."
            )
    rows = [
        {
            "region": result.names[v],
            "distance": points(distances[v]),
            "floor": points(s.floor),
            "floor_95": points(s.floor_95),
            **{k: getattr(s, k) for k in ("false", "larger_10", "larger_20", "mean_only")},
        }
        for v, s in known.items()
    ]
    return Section(
        "sensitivity",
        "What would this comparison have noticed?",
        "measured",
        tuple(sentences) or (f"No region is in {FEWEST_CASES} patients of both sets.",),
        (
            Table(
                "sensitivity",
                "Wasserstein distance (percentage points) between random halves of the real patients, and how often "
                "changes of one half are noticed",
                columns(
                    "region|Region", "distance|Real to synthetic|number", "floor|Real halves, median|number",
                    "floor_95|95th percentile|number", "false|Unchanged|percent", "larger_10|10 % larger|percent",
                    "larger_20|20 % larger|percent", "mean_only|Mean for everyone|percent",
                ),
                tuple(rows),
            ),
        ),
    )  # fmt: skip


def _textures(result: Regional, unit: str) -> Section:
    rows = []
    if result.textures:
        for entry in result.textures:
            rows.append({**entry, "region": result.names[entry["value"]], "figure": TEXTURE_NAMES[entry["figure"]]})
    else:
        for value in result.values:
            for i, figure in enumerate(TEXTURES):
                row: dict[str, Any] = {"region": result.names[value], "figure": TEXTURE_NAMES[figure]}
                for name, cases in (("real", result.real), ("synthetic", result.synthetic)):
                    own = list(by_patient(cases, [c.textures[value][i] for c in cases]).values())
                    row |= {name: float(np.mean(own)) if own else None, f"{name}_sd": spread(own)}
                    row[f"{name}_n"] = len(own) if cases else None
                rows.append(row)
    tested = [r for r in rows if r.get("p_holm") is not None]
    differing = [r for r in tested if r["differs"]]
    sentences: list[str] = []
    if tested:
        sentences.append(
            f"Of {counted(len(tested), 'figure')} of intensity and texture, {len(differing)} differ between real and "
            f"synthetic regions, after correction for {counted(2 * len(tested), 'test')}."
        )
        for figure in TEXTURE_NAMES.values():
            own = [r for r in differing if r["figure"] == figure]
            if own:
                up = [r["region"] for r in own if r["synthetic"] > r["real"]]
                down = [r["region"] for r in own if r["synthetic"] <= r["real"]]
                told = [f"{word} in {listing(names)}" for word, names in (("higher", up), ("lower", down)) if names]
                sentences.append(f"The {figure} of synthetic regions is {'; '.join(told)}.")
    elif result.synthetic:
        sentences.append("Intensities are listed, and not compared.")
    return Section(
        "intensities",
        "Do the regions look the same inside?",
        "measured",
        tuple(sentences),
        (
            Table(
                "intensities",
                f"Intensity and texture of regions ({unit}), mean and standard deviation over patients",
                columns(
                    "region|Region", "figure|Figure", "real_n|Real, N|int", "real|Real|number", "real_sd|SD|number",
                    "synthetic_n|Synth., N|int", "synthetic|Synthetic|number", "synthetic_sd|SD|number",
                    "difference|Mean difference|number", "difference_low|from|number", "difference_high|to|number",
                    "wasserstein|Wasserstein|number",
                    "p|p|p", "p_holm|corrected|p", "mean_p|p of the mean|p", "mean_p_holm|corrected|p",
                ),
                tuple(rows),
            ),
        ),
        family=_family(len(tested)),
    )  # fmt: skip
