"""What measures of sets return, as files: JSON with everything, a CSV for every table, an HTML page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, escaped, shortened
from SynthDiffusionLib.reports.headlines import COLUMNS, headline_rows, headlines_table
from SynthDiffusionLib.reports.page import LONGEST_TABLE, formatted, render_page, text_of, write_page
from SynthDiffusionLib.reports.sections import NUMBERS, Section, counted, headline, plain

FORMAT = "synthdiffusion-set-evaluation-1"
LARGEST_BYTES = 128 * 1024 * 1024  # of a file: pictures are in it
TITLES = {
    "fidelity": "Fidelity: are the synthetic images like real ones?",
    "adherence": "Adherence: do the images show what was drawn?",
    "volumes": "Regional volumes: are the proportions those of real patients?",
    "memorisation": "Memorisation: are synthetic images copies of training cases?",
    "utility": "Utility: do synthetic images help to train a segmentation network?",
}


def assemble(
    kind: str,
    sections: Sequence[Section],
    *,
    sets: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    definitions: Mapping[str, str],
    command: str,
    seconds: float,
) -> dict[str, Any]:
    """A result as JSON has it.

    Args:
        kind: key of `TITLES`.
        sections: what was found.
        sets: of `ImageSet.summary`.
        settings: everything that the figures depend on: frame, seeds, numbers of resamples, ...
        definitions: name of a figure to how it is computed, with its source.
        command: that makes the result again; without paths of this machine.
        seconds: that it took.
    """
    from SynthDiffusionLib.jobs.provenance import software

    return plain(
        {
            "format": FORMAT,
            "kind": kind,
            "title": TITLES[kind],
            "command": command,
            "seconds": round(seconds, 1),
            "software": software(),
            "sets": [dict(s) for s in sets],
            "settings": dict(settings),
            "sections": [s.to_json() for s in sections],
            "definitions": dict(definitions),
        }
    )


def write_result(result: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Writes `KIND.html`, `KIND.json` and `KIND-tables/*.csv`: all of them, or none.

    Returns:
        paths by "html", "json" and each table's ID; "main-figures" is the table of all headlines.

    Raises:
        ValueError: the result is not as `read_result` will ask.
    """
    if wrong := problem_of(result):
        raise ValueError(f"The result of {result.get('kind')} is wrong: {wrong}")
    tables = [*result["sections"], *headlines_table(result["sections"])]
    return write_page(
        render(result), result, shown_tables(tables), Path(out), result["kind"], f"{result['kind']}-tables"
    )


def shown_tables(sections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tables of sections with control characters of names from outside spelled (\\x1b), since a terminal that shows
    a CSV file would obey them."""
    return [
        {
            "tables": [
                {**t, "rows": [{k: spelled(v) if isinstance(v, str) else v for k, v in r.items()} for r in t["rows"]]}
                for t in s["tables"]
            ]
        }
        for s in sections
    ]


def spelled(text: str) -> str:
    """Text with its control characters spelled."""
    return _CONTROL.sub(lambda found: escaped(found[0]), text)


def render(result: Mapping[str, Any]) -> str:
    """The page of a result."""
    kind = result["kind"]
    heading = f"<h1>{text_of(result['title'])}</h1>{sets_html(result)}"
    footer = f"""<h2>Definitions</h2>{definitions_html(result)}
<h2>How this was made</h2>
{made_html(result)}
<p>Every number in full is in {text_of(kind)}.json and {text_of(kind)}-tables/*.csv. For research only; not for
diagnosis.</p>"""
    return render_page(result["title"], heading, result["sections"], footer, f"{kind}-tables")


def sets_lines(result: Mapping[str, Any]) -> list[str]:
    """The sets of a result, as sentences; see `frame_line` for how they were read."""
    return [
        f"{s['role']}: {counted(s['volumes'], 'volume')} of {counted(s['patients'], 'patient')}"
        + (f", {len(s['skipped'])} left out" if s["skipped"] else "")
        + (f", {s['same_files']} of them the same file as another" if s.get("same_files") else "")
        for s in result["sets"]
    ]


def frame_line(result: Mapping[str, Any]) -> str:
    """How the volumes were read, as a sentence; empty where the settings have no frame."""
    frame = result["settings"].get("frame")
    if not isinstance(frame, Mapping) or not isinstance(frame.get("intensity_range"), list):
        return ""
    spacing = frame.get("spacing_mm") or next((s["spacing_mm"] for s in result["sets"] if s.get("spacing_mm")), None)
    try:
        at = f" at {' x '.join(f'{mm:g}' for mm in spacing)} mm" if spacing else ""
        limits = " to ".join(f"{v:g}" for v in frame["intensity_range"])
    except (TypeError, ValueError):  # no numbers: not of this software
        return ""
    at += " (their own)" if spacing and not frame.get("spacing_mm") else ""
    scaled = ", each brought to one scale by its own percentiles" if frame.get("normalised_by_percentiles") else ""
    return f"Read as {frame.get('modality')}{at}{scaled}, intensities clipped to {limits} ({frame.get('unit')})."


def told_lines(result: Mapping[str, Any]) -> list[str]:
    """What was told about the sets while they were read and checked, and what was compared with a training list; as
    sentences."""
    trained_on = result["settings"].get("trained_on")
    told = [result["settings"].get("told"), trained_on.get("sentences") if isinstance(trained_on, Mapping) else None]
    return [s for sentences in told if isinstance(sentences, list) for s in sentences if isinstance(s, str)]


def sets_html(result: Mapping[str, Any]) -> str:
    """The sets of a result, and what was left out of them."""
    lines = [*sets_lines(result), frame_line(result), *told_lines(result)]
    rows = "".join(f"<li>{text_of(line)}</li>" for line in lines if line)
    skipped = [(s["role"], f) for s in result["sets"] for f in s["skipped"]]
    left = "".join(f"<li>{text_of(f['file'])} ({text_of(role)}): {text_of(f['reason'])}</li>" for role, f in skipped)
    title = f"<summary>Left out: {counted(len(skipped), 'file')}</summary>"
    left = f"<details{' open' if len(skipped) <= 12 else ''}>{title}<ul>{left}</ul></details>" if left else ""
    return f'<ul class="meta">{rows}</ul>{left}'


def definitions_html(result: Mapping[str, Any]) -> str:
    """Each figure and how it is computed."""
    rows = (f"<dt><b>{text_of(name)}</b></dt><dd>{text_of(text)}</dd>" for name, text in result["definitions"].items())
    return f"<dl>{''.join(rows)}</dl>"


def made_html(result: Mapping[str, Any]) -> str:
    """Command, version and libraries."""
    libraries = ", ".join(f"{text_of(n)} {text_of(v)}" for n, v in result["software"]["libraries"].items())
    version = text_of(result["software"]["version"])
    return f"<p><code>{text_of(result['command'])}</code></p>\n<p>SynthDiffusion {version}; {libraries}.</p>"


def read_result(path: Path) -> dict[str, Any]:
    """Reads a `KIND.json`.

    Raises:
        BadInput: missing, damaged, or no result of a measure of sets.
    """
    result = read_file(path)
    if not isinstance(result, dict) or result.get("format") != FORMAT or result.get("kind") not in TITLES:
        raise BadInput(
            f"'{path}' is no result of synthdiffusion evaluate that was made of folders",
            "Give a KIND.json that it wrote with --real and --synthetic.",
        )
    if wrong := problem_of(result):
        raise BadInput(f"'{path}' is damaged: {wrong}", "Run synthdiffusion evaluate again.")
    return result


def read_file(path: Path) -> Any:
    """JSON that `synthdiffusion evaluate` has written.

    Raises:
        BadInput: missing, or no JSON.
    """
    from SynthDiffusionLib.schemas import read_json

    try:
        return read_json(Path(path), LARGEST_BYTES)
    except OSError as error:
        raise BadInput(
            f"The result '{path}' cannot be read ({error.strerror})", "Run synthdiffusion evaluate first."
        ) from error
    except ValueError as error:
        raise BadInput(f"'{path}' is damaged: {error}", "Run synthdiffusion evaluate again.") from error


_NUMBER = (int, float, type(None))
_COLUMN = {"key": str, "label": str, "kind": str}
_TABLE = {"id": str, "title": str, "columns": [_COLUMN], "rows": [dict], "note": str}
SECTION_SHAPE = {
    "id": str, "title": str, "label": str, "sentences": [str], "tables": [_TABLE], "family": str, "sources": [str],
    "plots": [{"id": str, "kind": str, "title": str}], "detail": dict,
}  # fmt: skip
RESULT_SHAPE = {
    "title": str, "command": str, "settings": dict, "definitions": dict,
    "software": {"version": str, "libraries": dict},
    "sets": [
        {"role": str, "volumes": int, "patients": int, "sha256": str, "skipped": [{"file": str, "reason": str}]}
    ],
}  # fmt: skip
# Control characters, and marks that turn the direction of what follows.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NO_FILE_NAME = re.compile(r'[<>:"/\\|?*\x00-\x1f]|^\.|[. ]$')


def problem_of(result: Mapping[str, Any]) -> str | None:
    """What a result lacks to be shown, in one line, or None."""
    return (
        shape_problem(result, RESULT_SHAPE)
        or shape_problem(result, {"sections": [SECTION_SHAPE]})
        or sections_problem(result["sections"])
    )


def sections_problem(sections: Sequence[Mapping[str, Any]]) -> str | None:
    """Names that cannot be file names or are there twice, and headlines that are none, in one line, or None."""
    names = ["main-figures"]
    for section in sections:
        for table in section["tables"]:
            name = table["id"]
            if not name or len(name) > 120 or _NO_FILE_NAME.search(name):
                return f"the table '{shortened(name, 40)}' has a name that no file can have"
            if name.casefold() in names:
                return f"two tables have the name '{shortened(name, 40)}'"
            names.append(name.casefold())
        for entry in section.get("headlines") or ():
            try:
                whole = headline(**entry)
            except (TypeError, ValueError) as error:
                return f"a headline of '{shortened(section['title'], 40)}' is none: {shortened(error)}"
            for key, value in whole.items():
                fits = isinstance(value, _NUMBER if key in NUMBERS else str)
                if not fits or isinstance(value, bool):
                    return f"'{key}' of a headline of '{shortened(section['title'], 40)}' is {shortened(value, 40)}"
    return None


def shape_problem(value: Any, shape: Any, place: str = "") -> str | None:
    """Where JSON is not of a shape (a type, a list of one shape, or shapes by key), in one line, or None."""
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            return f"'{place}' is no object"
        for key, inner in shape.items():
            if key not in value:
                return f"'{key}'{f' of {place}' if place else ''} is missing"
            if wrong := shape_problem(value[key], inner, f"{place}.{key}" if place else key):
                return wrong
        return None
    if isinstance(shape, list):
        if not isinstance(value, list | tuple):
            return f"'{place}' is no list"
        found = (shape_problem(entry, shape[0], f"{place}[{i}]") for i, entry in enumerate(value))
        return next((wrong for wrong in found if wrong), None)
    return None if isinstance(value, shape) else f"'{place}' is {shortened(value, 40)}"


def console_lines(result: Mapping[str, Any]) -> list[str]:
    """What the command prints: the sets, the sentences, the tables."""
    from SynthDiffusionLib.evaluation.report import console

    lines = [result["title"]]
    for s, line in zip(result["sets"], sets_lines(result), strict=True):
        lines += [line, *(f"  left out: {f['file']}: {f['reason']}" for f in s["skipped"])]
    lines += [line for line in (frame_line(result), *told_lines(result)) if line]
    figures = headline_rows(result["sections"])
    if figures:
        used = [c for c in COLUMNS if any(row[c.key] for row in figures)]
        lines += ["", *console([c.label for c in used], [[row[c.key] or "-" for c in used] for row in figures])]
    width = shutil.get_terminal_size((120, 40)).columns
    for section in result["sections"]:
        lines += ["", section["title"], *(f"- {s}" for s in section["sentences"])]
        for table in section["tables"]:
            if not table["rows"]:
                continue
            if len(table["rows"]) > LONGEST_TABLE:
                place = f"{result['kind']}-tables/{table['id']}.csv"
                lines += ["", f"{table['title']}: {len(table['rows'])} rows, in {place}"]
                continue
            titles = [c["label"] for c in table["columns"]]
            cells = [[formatted(r.get(c["key"]), c["kind"]) or "-" for c in table["columns"]] for r in table["rows"]]
            text = console(titles, cells)
            if max(map(len, text)) <= max(width, 160):
                lines += ["", table["title"], *text]
    return [spelled(line) for line in lines]
