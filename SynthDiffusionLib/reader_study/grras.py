"""The GRRAS items, filled in as far as the study file and the merged data know.

Guidelines for Reporting Reliability and Agreement Studies: Kottner et al., J Clin Epidemiol 2011;64:96 (15 items). What
only the authors know is marked so; nothing is made up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib.reader_study.analysis_agreement import is_main
from SynthDiffusionLib.reader_study.merge import Merged
from SynthDiffusionLib.reader_study.selection import Data, cases_text
from SynthDiffusionLib.reports.sections import counted, interval_text, listing, number
from SynthDiffusionLib.volumes.atomic import atomic_file

BLANK = "**to be filled in by the authors**"


def grras(merged: Merged, result: Mapping[str, Any] | None = None) -> str:
    """The 15 items as Markdown.

    Args:
        merged: the merged study.
        result: of `analysis.analyse`, for items 10 to 15; without it, they say what is missing.
    """
    data = Data(merged.study, tuple(merged.ratings))
    rows = [
        ("Title and abstract", 1, "Identify in title or abstract that reliability or agreement was investigated",
         f"Title of the study file: {merged.study.title}. Wording of title and abstract: {BLANK}."),
        ("Introduction", 2, "Name and describe the diagnostic or measurement device", _device(merged)),
        ("Introduction", 3, "Specify the subject population of interest",
         f"{_arms(data, merged)} Population: {BLANK}."),
        ("Introduction", 4, "Specify the rater population of interest", f"{_raters(merged)} Population: {BLANK}."),
        ("Introduction", 5, "Describe what is already known about reliability and agreement; rationale", f"{BLANK}."),
        ("Methods", 6, "Explain how the sample size was chosen; number of raters, subjects and replicates",
         f"{_sizes(data, merged)} Reason for these numbers: {BLANK}."),
        ("Methods", 7, "Describe the sampling method",
         f"Subjects and raters were selected: {BLANK}. {_randomisation(merged)}"),
        ("Methods", 8, "Describe the measurement or rating process", _process(merged)),
        ("Methods", 9, "State whether measurements or ratings were conducted independently", _independence(merged)),
        ("Methods", 10, "Describe the statistical analysis", _analysis(merged, result)),
        ("Results", 11, "State the actual number of raters, subjects and replicates", _actual(data, merged)),
        ("Results", 12, "Describe the sample characteristics of raters and subjects",
         f"{_raters(merged)} Characteristics of the subjects: {BLANK}."),
        ("Results", 13, "Report estimates with measures of uncertainty", _estimates(result)),
        ("Discussion", 14, "Discuss the practical relevance of results", f"{BLANK}."),
        ("Auxiliary material", 15, "Provide detailed results if possible",
         "Long and wide tables, codebook, report.json and tables/*.csv can be published with the paper. Where they "
         "are: "
         f"{BLANK}."),
    ]  # fmt: skip
    lines = [
        f"# GRRAS: {_cell(merged.study.title)}",
        "",
        "Guidelines for Reporting Reliability and Agreement Studies (Kottner et al., J Clin Epidemiol 2011;64:96-106). "
        f"Filled in from the study file (SHA-256 {merged.study.sha256}) and the merged records.",
        "",
        "| Section | Item | What is asked | This study |",
        "|---|---|---|---|",
        *(f"| {a} | {n} | {_cell(asked)} | {_cell(text)} |" for a, n, asked, text in rows),
    ]
    return "\n".join(lines) + "\n"


def write_grras(merged: Merged, path: Path, result: Mapping[str, Any] | None = None) -> Path:
    """Writes `grras` as a Markdown file."""
    with atomic_file(Path(path)) as file:
        file.write(grras(merged, result).encode("utf-8"))
    return Path(path)


def _device(merged: Merged) -> str:
    models = [f"{a['id']} (model {a['model']})" for a in merged.arms if a.get("model")]
    axial = merged.study.viewing.get("layout") == "axial"  # pairs are shown side by side whatever it says
    kinds = {t.kind for t in merged.study.tasks.values()}
    layouts = [f"single volumes in {'axial slices' if axial else 'three planes'}"] if "single" in kinds else []
    layouts += ["pairs side by side, in axial slices"] if "forced_choice" in kinds else []
    parts = [
        f"Shown were {listing(layouts)}",
        f"windows {listing(_window(w) for w in merged.study.viewing.get('windows', ()))}",
        "window locked" if merged.study.viewing.get("window_locked") else "window free",
        f"forms {listing(t.form.title for t in merged.study.tasks.values())}",
    ]
    text = "; ".join(parts) + "."
    if models:
        text += f" Generators: {listing(models)}."
    return f"{text} Read with {listing(sorted({s for r in merged.readers for s in r.software}))}."


def _window(window: Mapping[str, Any]) -> str:
    return f"{window.get('name', '')} (centre {window.get('center')}, width {window.get('width')})"


def _arms(data: Data, merged: Merged) -> str:
    arm_of: dict[str, str] = {}
    reals = [a["id"] for a in merged.arms if a["truth"] == "real"]
    for r in data.first:
        if not r.volume_left:
            continue  # a question of the study
        if r.kind == "single":
            arm_of[r.volume_left] = r.arm
        elif r.volume_right:
            synthetic, real = (r.volume_right, r.volume_left) if r.truth else (r.volume_left, r.volume_right)
            arm_of[synthetic] = r.arm
            if len(reals) == 1:  # else nothing here says which of them the real one is of
                arm_of.setdefault(real, reals[0])
    counts = Counter(arm_of.values())
    words = [f"{a['id']} ({a['truth']}, {counted(counts[a['id']], 'volume')} read)" for a in merged.arms]
    return f"Arms: {listing(words)}."


def _raters(merged: Merged) -> str:
    words = [f"{r.reader}: {r.experience or BLANK}" for r in merged.readers]
    return f"{counted(len(merged.readers), 'reader')}; training and experience: {'; '.join(words)}."


def _sizes(data: Data, merged: Merged) -> str:
    planned = {*(r.reader for r in merged.readers), *merged.excluded, *merged.absent} - set(merged.added)
    added = f" and {len(merged.added)} added later" if merged.added else ""
    expected = sorted({r.expected for r in merged.readers})
    repeats = merged.study.randomisation.get("repeats", 0)
    units = [u for u in merged.study.units.values() if u.phase == "main"]
    volumes = {v for u in units for v in u.volumes}
    return (
        f"Planned: {counted(len(planned), 'reader')}{added}, {counted(len(units), 'case')} of "
        f"{counted(len(volumes), 'volume')}, {listing(expected)} readings each with training and repeats, "
        f"hidden repeats of {100 * float(repeats or 0):g} %."
    )


def _randomisation(merged: Merged) -> str:
    rules = merged.study.randomisation
    automatic = {"block_size": "one block, the whole list", "longest_run": "longest run chosen automatically"}
    words = [
        automatic[key] if key in automatic and not value else f"{key.replace('_', ' ')} {value}"
        for key, value in rules.items()
    ]
    return (
        f"Order of reading: random by study seed and reader, stored before reading ({'; '.join(words) or 'no rules'})."
    )


def _process(merged: Merged) -> str:
    viewing, sessions, rules = merged.study.viewing, merged.study.sessions, merged.study.randomisation
    gaps = [f"{s['id']}: {s['min_days_after_previous']} days" for s in sessions if s.get("min_days_after_previous")]
    distance = rules.get("repeat_min_distance")
    apart = f"at least {distance} readings" if distance else "not stated in the study file"
    departed = [f"{r.reader}: {note}" for r in merged.readers for note in r.notes if "' was begun " in note]
    early = f" Departures: {' '.join(departed)}" if departed else ""
    return (
        f"{counted(len(sessions), 'session')}; washout {listing(gaps)}.{early} "
        f"Going back: {viewing.get('back', 'none')}. "
        "Blinding: volumes under opaque names with equalised headers, key kept apart (its hash is in the study "
        "file); the "
        "program told readers neither arm nor pair. Clinical information given: none by the program; otherwise "
        f"{BLANK}. Distance of hidden repeats: {apart}."
    )


def _independence(merged: Merged) -> str:
    text = "Each reader had an own order and an own record; the program shows no reader the answers of another"
    unblinded = [p for p in merged.problems if "unblinded" in p]
    return f"{text}. {' '.join(unblinded)} Whether readers spoke about the cases: {BLANK}."


def _analysis(merged: Merged, result: Mapping[str, Any] | None) -> str:
    p = merged.study.primary
    task = merged.study.tasks.get(p.get("task", ""))
    item = next((i for i in task.form.items if i.id == p.get("item")), None) if task is not None else None
    asked = f"question '{p.get('item')}'" + (f' ("{item.text}")' if item is not None else "")
    arms = [str(p[key]) for key in ("arm", "arm2") if p.get(key)]
    against = f" against {' and '.join(arms[1:])}" if arms[1:] else ""
    test = f"test of {p.get('test', 'difference')}, null value {p.get('null', 'not stated')}"
    if p.get("margin") is not None:
        test += f", margin {p['margin']}"
    text = (
        f"Primary endpoint, fixed before reading: {p.get('measure')} of the arm {arms[0] if arms else 'not stated'}"
        f"{against}, task '{p.get('task')}', {asked} ({test}, alpha {p.get('alpha', 0.05)}, readers "
        f"{p.get('readers', 'random')}, cases {p.get('cases', 'random')}); all else exploratory."
    )
    if result is None:
        return f"{text} The analysis was not given to this export."
    sources = [s for section in result["sections"] if section["id"] == "agreement" for s in section["sources"][:3]]
    software = listing(f"{name} {version}" for name, version in result["software"].items())
    return f"{text} Agreement and repeatability: {' '.join(sources) or 'not analysed.'} Calculated with {software}."


def _actual(data: Data, merged: Merged) -> str:
    first = {(r.reader, r.position) for r in data.first}
    repeats = {(r.reader, r.position) for r in data.ratings if r.phase == "main" and r.presentation == 2}
    apart = [f"{reader} left out ({why})" for reader, why in merged.excluded.items()]
    apart += [f"{reader} without a record" for reader in merged.absent]
    return (
        f"{counted(len(data.readers), 'reader')}{f' ({listing(apart)})' if apart else ''}, {cases_text(data)}, "
        f"{counted(len(first), 'first reading')}, "
        f"{counted(len(repeats), 'repeated reading')}; {counted(len(merged.missing), 'reading')} missing."
    )


def _estimates(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "The analysis was not given to this export."
    words = []
    for section in result["sections"]:
        if section["id"] == "agreement":
            confidence = 1.0 - float(result["study"]["primary"].get("alpha", 0.05))
            for table in section["tables"][:1]:
                words += [
                    f"{row['item']} ({row['task']}): {row['name']} {number(row['value'])} "
                    f"({interval_text(row['low'], row['high'], confidence)})"
                    for row in table["rows"]
                    if row.get("value") is not None and is_main(row["name"])
                ]
        if section["id"] == "repeatability":
            words += [s.rstrip(".") for s in section["sentences"] if "hidden repeat" in s]
    return "; ".join(words) + "." if words else "No question was answered by two readers, and there are no repeats."


def _cell(text: str) -> str:
    """One cell of a Markdown table: no line break, no cell's end, no markup."""
    text = " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("<", "&lt;").replace(">", "&gt;")
