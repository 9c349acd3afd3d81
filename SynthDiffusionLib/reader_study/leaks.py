"""The leak report of a study: what, apart from the image, could tell a reader which volumes are synthetic.

It is made twice, of the source files and of the rewritten ones that readers get. A classifier (`leak_classifier`) tries
to tell the kinds apart by header and global intensities (`leak_features`); names and header texts are searched for
words that give a volume away; the headers of the rewritten files are compared byte by byte.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.reader_study.headers import SourceHeader, raw_start, read_header
from SynthDiffusionLib.reader_study.leak_classifier import PERMUTATIONS, find_leak
from SynthDiffusionLib.reader_study.leak_features import (
    GROUPS,
    feature_table,
    intensity_features,
    place_features,
    texture_features,
)

FORMAT = "synthdiffusion-study-leaks-1"
TELLING = ("synth", "seed", "fake", "generat", "diffusion", "inpaint", "sample", "artificial", "simulat", "gan_")
_SHORTEST_NAME = 4  # names of patients and pairs that are shorter are in every file by chance
_STAGES = {"before": "Source files, before", "after": "Files that readers get, after"}
_TABLES = {"format": ("header", "intensity"), **{g: (g,) for g in GROUPS}}
_TITLES = {"format": "header, file and global intensities together", **GROUPS}
_SHOWN_FEATURES = 8


@dataclass(frozen=True)
class MeasuredVolume:
    """What the report needs of one file.

    Args:
        name: of the file.
        header: see `headers`.
        intensity, place, texture: see `leak_features`.
        text: everything in the header that is text, to be searched.
        start: the header's bytes.
    """

    name: str
    header: SourceHeader
    intensity: dict[str, float]
    place: dict[str, float]
    texture: dict[str, float]
    text: str
    start: bytes


def measure_volume(path: Path, array: np.ndarray, spacing: Sequence[float]) -> MeasuredVolume:
    """Looks at one file.

    Args:
        path: of the file, or folder of a DICOM series.
        array: its voxels.
        spacing: (3,) mm.

    Raises:
        BadInput: as `read_header`.
    """
    header = read_header(path)
    size = 0
    if header.kind == "nifti":
        size = int(max(header.numbers["nifti_vox_offset"], header.numbers["nifti_sizeof_hdr"] + 4))
    elif header.kind == "nrrd":
        size = int(header.numbers["header_bytes"])
    start = raw_start(path, min(size, 1 << 20)) if size else b""
    text = "\n".join([*(f"{k}: {v}" for k, v in header.texts.items()), start.decode("latin-1")])
    features = intensity_features(array), place_features(array), texture_features(array, spacing)
    return MeasuredVolume(path.name, header, *features, text, start)


def leak_stage(
    volumes: Sequence[MeasuredVolume],
    truths: Sequence[int],
    patients: Sequence[str],
    words: Iterable[str] = (),
    names: Iterable[str] = (),
    *,
    permutations: int = PERMUTATIONS,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """One half of the report, of source files or of rewritten ones.

    Args:
        volumes: measured.
        truths: 0 real, 1 synthetic.
        patients: of each volume; they are kept together in the cross-validation.
        words: what must not be found beside `TELLING`: arms, models.
        names: of patients and pairs, which must not be found either.
        permutations: relabellings behind each P value.
        on_step: called with (relabellings done, all).

    Returns:
        JSON-able: for each of "format", "header", "intensity", "place" and "texture" what `Leak.to_json`
        gives; "words" found.
    """
    table = feature_table(
        [v.header for v in volumes],
        [v.intensity for v in volumes],
        [v.texture for v in volumes],
        [v.place for v in volumes],
    )
    stage: dict[str, Any] = {}
    for number, (name, groups) in enumerate(_TABLES.items()):
        part = table.part(*groups)
        stage[name] = find_leak(
            part.values,
            part.names,
            truths,
            patients,
            permutations=permutations,
            on_step=lambda done, total, n=number: on_step(n * total + done, len(_TABLES) * total),
        ).to_json()
        stage[name]["features_in_all"] = len(part.names)
    stage["words"] = find_words(volumes, truths, words, names)
    return stage


def find_words(
    volumes: Sequence[MeasuredVolume], truths: Sequence[int], words: Iterable[str] = (), names: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Words that give volumes away, in file names and in the text of headers.

    Args:
        volumes: measured.
        truths: 0 real, 1 synthetic.
        words: arms and models, beside `TELLING`. Looked for as whole words: an arm "a" is not in "v0a7e".
        names: of patients and pairs, likewise; those of fewer than four characters are in every file by chance, and
            not looked for.

    Returns:
        {"word", "is_name", "where", "real", "synthetic" (number of volumes), "example"}, sorted.
    """
    wanted = dict.fromkeys(sorted(n.lower() for n in names if len(n) >= _SHORTEST_NAME), True)
    wanted |= dict.fromkeys(sorted({*TELLING, *(w.lower() for w in words)}), False)
    patterns = {
        word: re.compile(re.escape(word) if word in TELLING else rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])")
        for word in wanted
    }
    found = []
    for where in ("file name", "header"):
        texts = [(v.name if where == "file name" else v.text).lower() for v in volumes]
        for word, is_name in wanted.items():
            hits = [i for i, text in enumerate(texts) if patterns[word].search(text)]
            if hits:
                real = sum(int(truths[i]) == 0 for i in hits)
                found.append(
                    {
                        "word": word,
                        "is_name": is_name,
                        "where": where,
                        "real": real,
                        "synthetic": len(hits) - real,
                        "example": volumes[hits[0]].name,
                    }
                )
    return sorted(found, key=lambda f: (f["is_name"], f["where"], f["word"]))


def shared_bytes(volumes: Sequence[MeasuredVolume], files: Sequence[Path]) -> dict[str, bool]:
    """Whether the rewritten files are the same in everything but the voxels."""
    times = {path.stat().st_mtime_ns for path in files}
    gzip_headers = set()
    for path in files:
        with open(path, "rb") as file:
            gzip_headers.add(file.read(10))
    return {
        "headers": len({v.start for v in volumes}) <= 1,
        "gzip_headers": len(gzip_headers) <= 1,
        "file_sizes": len({path.stat().st_size for path in files}) <= 1,
        "file_times": len(times) <= 1,
    }


def summary(report: Mapping[str, Any]) -> list[str]:
    """The report in plain sentences."""
    lines = []
    for stage in ("before", "after"):
        if stage in report:
            for name in ("format", "place", "texture"):
                lines.append(_sentence(_STAGES[stage], name, report[stage][name]))
            lines += _word_sentences(_STAGES[stage], report[stage]["words"])
    if same := report.get("same"):
        different = [name.replace("_", " ") for name, equal in same.items() if not equal]
        lines.append(
            "The files that readers get differ in " + ", ".join(different) + "."
            if different
            else "The files that readers get are the same, byte by byte, in all but the voxels: headers, sizes, times."
        )
    return [*lines, *report.get("notes", ())]


_TELL = {
    "header": f"The {GROUPS['header']} of the volumes tell",
    "intensity": f"The {GROUPS['intensity']} of the volumes tell",
    "place": "Where bright and dark parts lie tells",
}
_MENDS = {
    "header": "Leave out the volumes that differ, or see leaks.html for which.",
    "place": "Look for volumes of one kind that are mirrored, cut out elsewhere, or marked in a corner; what stays is "
    "the images' own, and belongs into the paper.",
    "intensity": "Narrow the range, coarsen the steps ('blinding' in a design file) or lock the window; what stays is "
    "the images' own, and belongs into the paper.",
}


def leaking(stage: Mapping[str, Any], alpha: float = 0.05) -> list[str]:
    """What of the files that readers get gives the study away: sentences; empty if nothing was found."""
    found = []
    smallest = stage["format"]["smallest_p"]
    if smallest > alpha:
        counts = stage["format"]["volumes"]
        found.append(
            f"With {counts['real']} real and {counts['synthetic']} synthetic volumes the leak report can find nothing: "
            f"no P value can be below {smallest:.2g}. Take more volumes."
        )
    for name in ("header", "intensity", "place"):
        leak = stage[name]
        if leak["p"] <= alpha and leak["auc"]["value"] > 0.5:
            top = ", ".join(f["name"] for f in leak["features"][:3] if abs(f["auc"] - 0.5) > 0.05)
            found.append(
                f"{_TELL[name]} real from synthetic (AUC {leak['auc']['value']:.2f}, "
                f"P {leak['p']:.3g}): {top}. {_MENDS[name]}"
            )
    return found + _word_sentences("Files that readers get", stage["words"])


def leaks_html(report: Mapping[str, Any], title: str) -> str:
    """The report as one page without scripts."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{html.escape(title)}: leak report</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>Leak report: {html.escape(title)}</h1>",
        "<p>For the coordinator only: it names what tells the kinds apart. An AUC of 1 is certainty. The better of two "
        "classifiers counts, so that what sees nothing comes to a little more than 0.5: the tables give what chance "
        "comes to on average. Header and global intensities should be at chance in the files that readers get. Texture "
        "belongs to the image: whether readers see it is what the study asks, and how dark or bright an image is, and "
        "where, belongs to it in part. A mark of a few voxels within the body is not found. The interval is over "
        "patients, for the classifier as it was trained; it covers the truth somewhat less often than 95 % (85 to 90 % "
        "in simulations with 12 to 30 patients). The P value comes from relabelling whole patients.</p>",
        "<ul>",
        *(f"<li>{html.escape(line)}</li>" for line in summary(report)),
        "</ul>",
    ]
    for stage in ("before", "after"):
        if stage in report:
            parts.append(f"<h2>{_STAGES[stage]} equalisation</h2>")
            parts += _stage_html(report[stage])
    return "\n".join([*parts, "</body></html>", ""])


def _sentence(stage: str, name: str, leak: Mapping[str, Any]) -> str:
    value, low, high = (leak["auc"][k] for k in ("value", "low", "high"))
    if low is None or high is None:
        low, high = value, value
    what = _TITLES[name]
    text = f"{stage} equalisation, {what}: AUC {value:.2f} (95 % interval {low:.2f} to {high:.2f}), P {leak['p']:.3g}"
    if leak["p"] <= 0.05 and value > 0.5:
        top = ", ".join(f["name"] for f in leak["features"][:4] if f["auc"] != 0.5)
        text += f"; told by {top}." if top else "."
    elif leak["smallest_p"] > 0.05:
        text += "; too few volumes to see any leak."
    else:
        text += f"; no more than chance can give, which comes to {leak['chance_mean']:.2f} on average."
    counts = leak["volumes"]
    if not high > low:
        text += " An interval without width is no sign of certainty: these volumes are few, or all features equal."
    elif high - low > 0.2:
        text += f" The interval is {high - low:.2f} wide:"
        text += f" with {counts['real']} real and {counts['synthetic']} synthetic volumes, chance alone comes to "
        text += f"{leak['chance_95']:.2f} in one of twenty cases, and a smaller leak cannot be seen."
    return text


def _word_sentences(stage: str, words: Sequence[Mapping[str, Any]]) -> list[str]:
    """One for each telling word, and one for all names of patients and pairs together."""
    lines = [
        f"{stage}: '{w['word']}' is in the {w['where']} of {w['real']} real and {w['synthetic']} synthetic volumes."
        for w in words
        if not w["is_name"]
    ]
    for where in ("file name", "header"):
        names = [w for w in words if w["is_name"] and w["where"] == where]
        if names:
            lines.append(
                f"{stage}: names of {len(names)} patients or pairs are in the {where}, such as '{names[0]['word']}'."
            )
    return lines


def _stage_html(stage: Mapping[str, Any]) -> list[str]:
    parts = [
        "<table><tr><th>Group</th><th>Features</th><th>AUC</th><th>95 % interval</th><th>P</th>"
        "<th>linear</th><th>stumps</th><th>chance, mean</th><th>chance, 95 %</th></tr>"
    ]
    for name in _TABLES:
        leak = stage[name]
        low, high = (leak["auc"][k] for k in ("low", "high"))
        interval = "undefined" if low is None or high is None else f"{low:.2f} to {high:.2f}"
        parts.append(
            f"<tr><td>{_TITLES[name]}</td><td>{leak['features_in_all']}</td><td>{leak['auc']['value']:.2f}</td>"
            f"<td>{interval}</td><td>{leak['p']:.3g}</td><td>{leak['aucs']['linear']:.2f}</td>"
            f"<td>{leak['aucs']['stumps']:.2f}</td><td>{leak['chance_mean']:.2f}</td>"
            f"<td>{leak['chance_95']:.2f}</td></tr>"
        )
    parts.append("</table>")
    for name in GROUPS:
        rows = [f for f in stage[name]["features"] if f["auc"] != 0.5][:_SHOWN_FEATURES]
        parts.append(f"<h3>Most telling features: {GROUPS[name]}</h3>")
        if not rows:
            parts.append("<p>All features are the same in all volumes.</p>")
            continue
        parts.append(
            "<table><tr><th>Feature</th><th>AUC alone</th><th>P (Mann-Whitney)</th><th>P (Holm)</th>"
            "<th>median, real</th><th>median, synthetic</th></tr>"
        )
        parts += [
            f"<tr><td>{html.escape(f['name'])}</td><td>{f['auc']:.2f}</td><td>{f['p']:.2g}</td>"
            f"<td>{f['p_holm']:.2g}</td><td>{f['real']:.6g}</td><td>{f['synthetic']:.6g}</td></tr>"
            for f in rows
        ]
        parts.append("</table>")
    parts.append("<h3>Names and texts</h3>")
    if stage["words"]:
        parts.append("<ul>")
        parts += [f"<li>{html.escape(line)}</li>" for line in _word_sentences("Found", stage["words"])]
        parts.append("</ul>")
    else:
        parts.append("<p>No telling word in file names and headers.</p>")
    return parts


_STYLE = (
    "body{font-family:system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;line-height:1.45}"
    "table{border-collapse:collapse;margin:.5em 0 1em}th,td{border:1px solid #bbb;padding:.25em .6em;text-align:left}"
    "th{background:#eee}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}th{background:#333}}"
)
