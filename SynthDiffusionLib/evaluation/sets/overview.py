"""All results of an evaluation together: one page, and the rows that the panel in Slicer shows.

A result is a `KIND.json` of `results`; an overview is what `combine` makes of several, the `report.json` of
`synthdiffusion evaluate report`. Nothing is measured here, and no number is changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets.results import (
    SECTION_SHAPE,
    TITLES,
    definitions_html,
    frame_line,
    made_html,
    read_file,
    read_result,
    sections_problem,
    sets_html,
    shape_problem,
    shown_tables,
)
from SynthDiffusionLib.reports.headlines import headline_rows, headlines_table
from SynthDiffusionLib.reports.page import figure_html, render_page, text_of, write_page
from SynthDiffusionLib.reports.sections import Section, Table, columns, counted, listing, plain

# What drawing raises where the data of a plot are not what its kind needs.
_UNDRAWABLE = (KeyError, TypeError, ValueError, IndexError, AttributeError)
REPORT_FORMAT = "synthdiffusion-set-evaluation-report-1"
TITLE = "Evaluation of synthetic volumes"
UTILITY_SETS = "Sets of utility are images with class maps: their letters say nothing about sets of other measures."
NAMES = {kind: title.partition(":")[0] for kind, title in TITLES.items()}
_REPORT_SHAPE = {
    "title": str, "not_measured": [str], "notes": [str], "left_out": [str],
    "results": [{"kind": str, "name": str, "id": str, "first_sentence": str}], "sections": [SECTION_SHAPE],
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Results in files and folders.

    Args:
        results: with the file that each is from.
        problems: files in folders that could not be read, each as a sentence.
    """

    results: tuple[tuple[Path, dict[str, Any]], ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """What a person is shown of one result or of several, see `show`.

    Args:
        sentences: the answers, one of each measure, and what is to be known about all of them.
        rows: of `reports.headlines.headline_rows`.
        page: the HTML page, if there is one.
        problems: what could not be read.
    """

    sentences: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    page: Path | None
    problems: tuple[str, ...] = field(default=())


def find_results(paths: Sequence[Path]) -> Found:
    """Results in folders (also one folder deeper, where a folder has none itself) and in the files that are named.

    Raises:
        BadInput: nothing is there, a named file cannot be read, or none of those in the folders can.
    """
    results: dict[Path, tuple[Path, dict[str, Any]]] = {}
    problems: list[str] = []
    for given in map(Path, paths):
        if not given.exists():
            raise BadInput(f"'{given}' does not exist", "Give the folders of --out of synthdiffusion evaluate.")
        for path in _files_of(given) if given.is_dir() else [given]:
            try:
                results.setdefault(path.resolve(), (path, read_result(path)))
            except BadInput as error:
                if path == given:
                    raise
                reason = error.message.replace(f"'{path}'", f"'{path.parent.name}/{path.name}'")
                problems.append(f"{reason}.")
    if not results:
        told = f" {problems[0]}" if problems else ""
        places = listing(f"'{path}'" for path in paths)
        raise BadInput(
            f"No result of synthdiffusion evaluate is in {places}.{told}",
            f"Give folders that hold {', '.join(f'{kind}.json' for kind in TITLES)}, of --real and --synthetic.",
        )
    order = list(TITLES)
    found = sorted(results.values(), key=lambda entry: order.index(entry[1]["kind"]))  # stable: as given
    return Found(tuple(found), tuple(problems))


def combine(found: Found, title: str | None = None) -> dict[str, Any]:
    """One overview as JSON has it.

    Args:
        found: see `find_results`.
        title: of the page, as typed.

    Returns:
        "sections" of all results, their IDs and those of their tables with the result's name in front, and for each
        result what is not in its sections: sets, settings, definitions, command, software.
    """
    names = _names(found)
    sections = [_sets_section(found, names)]
    results = []
    for name, slug, (_, result) in zip(names, _slugs(found), found.results, strict=True):
        sections += [_named(section, name, slug) for section in result["sections"]]
        results.append(
            {key: result[key] for key in ("kind", "title", "command", "sets", "settings", "definitions", "software")}
            | {"name": name, "id": slug, "seconds": result.get("seconds"), "first_sentence": first_sentence(result)}
        )
    kinds = {result["kind"] for result in results}
    return plain(
        {
            "format": REPORT_FORMAT,
            "kind": "report",
            "title": title or TITLE,
            "not_measured": [kind for kind in TITLES if kind not in kinds],
            "notes": _notes(found, names),
            "left_out": list(found.problems),
            "results": results,
            "sections": sections,
        }
    )


def write_overview(overview: Mapping[str, Any], out: Path, page: str | None = None) -> dict[str, Path]:
    """Writes `report.html`, `report.json` and `report-tables/*.csv`: all of them, or none.

    Args:
        overview: of `combine`.
        out: a folder; made if missing.
        page: of `drawn`, which is called where it is None.

    Returns:
        paths by "html", "json" and each table's ID.

    Raises:
        BadInput, RunFailed: the folder cannot be written to.
    """
    if page is None:
        overview, page = drawn(overview)
    tables = [*overview["sections"], *headlines_table(overview["sections"])]
    return write_page(page, overview, shown_tables(tables), Path(out), "report", "report-tables")


def render_overview(overview: Mapping[str, Any]) -> str:
    """The page of an overview: answers, what to know about them, main figures, then every section."""
    answers = "".join(
        f'<li><a href="#{text_of(_first_id(overview, r["id"]))}"><b>{text_of(r["name"])}</b></a>: '
        f"{text_of(r['first_sentence'] or 'no answer could be given.')}</li>"
        for r in overview["results"]
    )
    notes = "".join(f"<li>{text_of(line)}</li>" for line in summary_notes(overview))
    heading = f'<h1>{text_of(overview["title"])}</h1><ul class="answer">{answers}</ul><ul class="meta">{notes}</ul>'
    parts = "".join(
        f"<h3>{text_of(r['name'])}</h3>{sets_html(r)}{made_html(r)}"
        f"<details><summary>Definitions</summary>{definitions_html(r)}</details>"
        for r in overview["results"]
    )
    footer = f"""<h2>Sets, commands and definitions</h2>
{parts}
<p>Every number in full is in report.json and report-tables/*.csv. For research only; not for diagnosis.</p>"""
    return render_page(overview["title"], heading, overview["sections"], footer, "report-tables")


def summary_notes(overview: Mapping[str, Any]) -> list[str]:
    """What is to be known about all answers together: sets, what was left out, what was not measured."""
    skipped = [
        f"{NAMES[r['kind']]}: {counted(n, 'file')} left out"
        for r in overview["results"]
        if (n := sum(len(s["skipped"]) for s in r["sets"]))
    ]
    missing = [NAMES.get(kind, kind).lower() for kind in overview["not_measured"]]
    return [
        *overview["notes"],
        f"{'; '.join(skipped)} (named below)." if skipped else "No file of the sets was left out.",
        *([f"Not measured: {listing(missing)}."] if missing else []),
        *(f"Left out of this report: {line}" for line in overview["left_out"]),
    ]


def overview_lines(overview: Mapping[str, Any]) -> list[str]:
    """What the command prints."""
    answers = [f"{r['name']}: {r['first_sentence']}" for r in overview["results"]]
    return [overview["title"], *(f"- {line}" for line in answers), "", *summary_notes(overview)]


def show(path: Path) -> Shown:
    """What a file or a folder says, for the panel.

    Args:
        path: a `KIND.json`, a `report.json`, or a folder with either.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir() and not any(_files_of(path)) and (path / "report.json").is_file():
        path = path / "report.json"
    if path.is_file():
        content = read_file(path)
        if isinstance(content, dict) and content.get("format") == REPORT_FORMAT:
            wrong = shape_problem(content, _REPORT_SHAPE) or sections_problem(content["sections"])
            if wrong:
                raise BadInput(f"'{path}' is damaged: {wrong}", "Run synthdiffusion evaluate report again.")
            return _shown(content, path.with_suffix(".html"))
    found = find_results([path])
    overview = combine(found)
    page = path / "report.html" if path.is_dir() else path.with_suffix(".html")
    if not page.is_file() and found.results:
        page = found.results[0][0].with_suffix(".html")
    return _shown(overview, page)


def first_sentence(result: Mapping[str, Any]) -> str:
    """The answer of a result: the first sentence of its first section that answers anything."""
    sections = sorted(result["sections"], key=lambda section: section["label"] == "data")
    return next((section["sentences"][0] for section in sections if section["sentences"]), "")


def _shown(overview: Mapping[str, Any], page: Path) -> Shown:
    answers = [f"{r['name']}: {r['first_sentence'] or 'no answer could be given.'}" for r in overview["results"]]
    missing = [NAMES.get(kind, kind).lower() for kind in overview["not_measured"]]
    notes = [*overview["notes"], *([f"Not measured: {listing(missing)}."] if missing else [])]
    rows = tuple(headline_rows(overview["sections"]))
    return Shown((*answers, *notes), rows, page if page.is_file() else None, tuple(overview["left_out"]))


def _files_of(folder: Path) -> list[Path]:
    """Files with the names of results: of the folder, else of the folders in it."""
    try:
        own = [folder / f"{kind}.json" for kind in TITLES if (folder / f"{kind}.json").is_file()]
        inner = [] if own else sorted(path for path in folder.iterdir() if path.is_dir())
        return own or [p for deeper in inner for kind in TITLES if (p := deeper / f"{kind}.json").is_file()]
    except OSError as error:
        raise BadInput(f"The folder '{folder}' cannot be read ({error.strerror})", "Check its permissions.") from error


def _names(found: Found) -> list[str]:
    """A name for each result: its kind, and where two are of one kind, the folder or a number as well."""
    names: list[str] = []
    kinds = [result["kind"] for _, result in found.results]
    for path, result in found.results:
        name = NAMES[result["kind"]]
        if kinds.count(result["kind"]) > 1:
            name += f" ({path.resolve().parent.name})"
        number = sum(other == name or other.startswith(f"{name}, ") for other in names)
        names.append(f"{name}, {number + 1}" if number else name)
    return names


def _slugs(found: Found) -> list[str]:
    """A name for each result in IDs and file names: "fidelity", "fidelity-2"."""
    kinds = [result["kind"] for _, result in found.results]
    before = [kinds[:i].count(kind) for i, kind in enumerate(kinds)]
    return [f"{kind}-{n + 1}" if n else kind for kind, n in zip(kinds, before, strict=True)]


def _named(section: Mapping[str, Any], name: str, slug: str) -> dict[str, Any]:
    """A section among those of other results: IDs of its own, and the measure in its title and its headlines."""
    return {
        **section,
        "id": f"{slug}-{section['id']}",
        "title": f"{name}: {section['title']}",
        "tables": [{**table, "id": f"{slug}-{table['id']}"} for table in section["tables"]],
        "plots": [{**plot, "id": f"{slug}-{plot['id']}"} for plot in section["plots"]],
        "headlines": [{**entry, "measure": f"{name}: {entry['measure']}"} for entry in section.get("headlines") or ()],
    }


def _first_id(overview: Mapping[str, Any], slug: str) -> str:
    return next((s["id"] for s in overview["sections"] if s["id"].startswith(f"{slug}-")), "sets")


def _sets_section(found: Found, names: Sequence[str]) -> dict[str, Any]:
    """Which measure saw which volumes."""
    known: dict[str, str] = {}
    rows = []
    utility = any(result["kind"] == "utility" for _, result in found.results)
    for name, (_, result) in zip(names, found.results, strict=True):
        frame = result["settings"].get("frame")
        spacing = frame.get("spacing_mm") if isinstance(frame, Mapping) else None
        for s in result["sets"]:
            at = spacing or s.get("spacing_mm")
            rows.append(
                {
                    "measure": name,
                    "role": s["role"],
                    "set": known.setdefault(s["sha256"], chr(ord("A") + len(known) % 26) + "'" * (len(known) // 26)),
                    "volumes": s["volumes"],
                    "patients": s["patients"],
                    "left_out": len(s["skipped"]),
                    "spacing": " x ".join(f"{mm:g}" for mm in at) if isinstance(at, list) else "",
                    "fingerprint": s["sha256"][:12],
                }
            )
    table = Table(
        "sets",
        "Which measure saw which volumes",
        columns(
            "measure|Measure", "role|As", "set|Set", "volumes|Volumes|int", "patients|Patients|int",
            "left_out|Left out|int", "spacing|Spacing in mm", "fingerprint|SHA-256 of its files (beginning)",
        ),
        tuple(rows),
        "The same letter stands for the very same files." + (f" {UTILITY_SETS}" if utility else ""),
    )  # fmt: skip
    return Section("sets", "What was measured on what?", "data", tables=(table,)).to_json()


def _notes(found: Found, names: Sequence[str]) -> list[str]:
    """Whether the results are about the same volumes, read in the same way; in sentences."""
    notes = [
        f"{name}: the {one['role']} and the {other['role']} volumes are the very same files."
        for name, (_, result) in zip(names, found.results, strict=True)
        for one, other in combinations(result["sets"], 2)
        if one["sha256"] == other["sha256"]
    ]
    if len(found.results) < 2:
        return notes
    compared: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, (_, result) in zip(names, found.results, strict=True):
        for s in result["sets"]:
            measures = compared.setdefault((s["role"], _compared_in(result["kind"], s["role"])), {})
            if name not in measures.setdefault(s["sha256"], []):
                measures[s["sha256"]].append(name)
    agreed: dict[tuple[str, ...], list[str]] = {}
    for (role, _), of_set in compared.items():
        if sum(map(len, of_set.values())) < 2:
            continue
        if len(of_set) == 1:
            agreed.setdefault(tuple(*of_set.values()), []).append(role)
            continue
        told = "; ".join(listing(measures) for measures in of_set.values())
        notes.append(
            f"The {role} volumes are not the same ones in all measures, so the figures are not all about one set: "
            f"{len(of_set)} different sets were measured ({told})."
        )
    same = [f"{listing(measures)} saw the same {listing(roles)} volumes." for measures, roles in agreed.items()]
    notes = [*same, *notes, *_notes_on_utility(found, names)]
    frames: dict[str, list[str]] = {}
    for name, (_, result) in zip(names, found.results, strict=True):
        frames.setdefault(frame_line(result), []).append(name)
    if len(frames) > 1:
        told = " ".join(f"{listing(measures)}: {line or 'not recorded.'}" for line, measures in frames.items())
        notes.append(f"The volumes were not read in the same way in all measures. {told}")
    return notes


def _compared_in(kind: str, role: str) -> str:
    """Among which measures the sets of a role are the same thing: "training" is of the generator in memorisation, of
    the segmenter in adherence and volumes, and of networks in utility."""
    if kind != "utility" and role in ("real", "synthetic"):
        return "all but utility"
    return "segmenters" if kind in ("adherence", "volumes") else kind


def _notes_on_utility(found: Found, names: Sequence[str]) -> list[str]:
    """That its sets are no others' sets, where there are other measures."""
    if all(result["kind"] == "utility" for _, result in found.results):
        return []
    notes = []
    for name, (_, result) in zip(names, found.results, strict=True):
        if result["kind"] == "utility":
            tested = next((s for s in result["sets"] if s["role"] == "test"), None)
            told = counted(tested["volumes"], "volume") if tested else "the test volumes"
            told += f" of {counted(tested['patients'], 'patient')}" if tested else ""
            notes.append(
                f"{name} has sets of its own: its networks were tested on {told} of a prepared data set, and its "
                "synthetic images were made for it. Whether these are volumes of the other measures was not compared."
            )
    return notes


def drawn(overview: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The overview and its page; without plots that cannot be drawn, which are named then."""
    try:
        return overview, render_overview(overview)
    except _UNDRAWABLE:
        pass
    left_out, sections = list(overview["left_out"]), []
    for section in overview["sections"]:
        plots = []
        for plot in section["plots"]:
            try:
                figure_html(plot)
                plots.append(plot)
            except _UNDRAWABLE as error:
                left_out.append(
                    f"A plot of '{section['title']}' cannot be drawn ({type(error).__name__}): its file is damaged or "
                    "of another version. Its numbers are there."
                )
        sections.append({**section, "plots": plots})
    overview = {**overview, "sections": sections, "left_out": list(dict.fromkeys(left_out))}
    return overview, render_overview(overview)
