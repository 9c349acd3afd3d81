"""What measures of sets return, as files: JSON with everything, a CSV for every table, an HTML page."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reports.page import render_page, text_of, write_page
from SynthDiffusionLib.reports.sections import Section, plain

FORMAT = "synthdiffusion-set-evaluation-1"
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
        paths by "html", "json" and each table's ID.
    """
    return write_page(render(result), result, result["sections"], Path(out), result["kind"], f"{result['kind']}-tables")


def render(result: Mapping[str, Any]) -> str:
    """The page of a result."""
    kind = result["kind"]
    skipped = [(s["role"], f) for s in result["sets"] for f in s["skipped"]]
    rows = "".join(
        f"<li>{text_of(s['role'])}: {s['volumes']} volumes of {s['patients']} patients"
        + (f", {len(s['skipped'])} left out" if s["skipped"] else "")
        + "</li>"
        for s in result["sets"]
    )
    left = "".join(f"<li>{text_of(f['file'])} ({text_of(role)}): {text_of(f['reason'])}</li>" for role, f in skipped)
    left = f"<p>Left out:</p><ul>{left}</ul>" if left else ""
    definitions = "".join(
        f"<dt><b>{text_of(name)}</b></dt><dd>{text_of(text)}</dd>" for name, text in result["definitions"].items()
    )
    libraries = ", ".join(f"{text_of(n)} {text_of(v)}" for n, v in result["software"]["libraries"].items())
    heading = f"<h1>{text_of(result['title'])}</h1><ul class='meta'>{rows}</ul>{left}"
    footer = f"""<h2>Definitions</h2><dl>{definitions}</dl>
<h2>How this was made</h2>
<p><code>{text_of(result["command"])}</code></p>
<p>SynthDiffusion {text_of(result["software"]["version"])}; {libraries}. Every number in full is in {text_of(kind)}.json
and {text_of(kind)}-tables/*.csv. For research only; not for diagnosis.</p>"""
    return render_page(result["title"], heading, result["sections"], footer, f"{kind}-tables")


def read_result(path: Path) -> dict[str, Any]:
    """Reads a `KIND.json`.

    Raises:
        BadInput: missing, damaged, or no result of a measure of sets.
    """
    from SynthDiffusionLib.schemas import read_json

    try:
        result = read_json(Path(path))
    except OSError as error:
        raise BadInput(f"The result '{path}' cannot be read", "Run synthdiffusion evaluate first.") from error
    except ValueError as error:
        raise BadInput(f"'{path}' is damaged: {error}", "Run synthdiffusion evaluate again.") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT or result.get("kind") not in TITLES:
        raise BadInput(f"'{path}' is no result of synthdiffusion evaluate", "Give a KIND.json that it wrote.")
    return result


def console_lines(result: Mapping[str, Any]) -> list[str]:
    """What the command prints: the sets, the sentences, the tables."""
    from SynthDiffusionLib.evaluation.report import console
    from SynthDiffusionLib.reports.page import formatted

    lines = [result["title"]]
    for s in result["sets"]:
        left = f", {len(s['skipped'])} left out" if s["skipped"] else ""
        lines.append(f"{s['role']}: {s['volumes']} volumes of {s['patients']} patients{left}")
        lines += [f"  left out: {f['file']}: {f['reason']}" for f in s["skipped"]]
    width = shutil.get_terminal_size((120, 40)).columns
    for section in result["sections"]:
        lines += ["", section["title"], *(f"- {s}" for s in section["sentences"])]
        for table in section["tables"]:
            if not table["rows"]:
                continue
            titles = [c["label"] for c in table["columns"]]
            cells = [[formatted(r.get(c["key"]), c["kind"]) or "-" for c in table["columns"]] for r in table["rows"]]
            text = console(titles, cells)
            if max(map(len, text)) <= max(width, 160):
                lines += ["", table["title"], *text]
    return lines
