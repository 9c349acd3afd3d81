"""The report of a reader study: one HTML file for people, JSON and CSV of every number.

The HTML needs nothing else: no network, no script; plots are inline SVG. Everything that a person typed (titles,
questions, comments) is escaped, and a policy in the page forbids scripts and loading besides. The files hold no time
but the record's, so that the same records give the same bytes with the same library versions.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.plots import description, draw
from SynthDiffusionLib.reader_study.sections import plain
from SynthDiffusionLib.reader_study.tables import cell
from SynthDiffusionLib.volumes.atomic import atomic_file, files_together

# Control characters, and marks that turn the direction of what follows.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
LONGEST_TABLE = 60  # rows shown in the HTML; the CSV has all
LONGEST_LINE = 30  # characters of a cell that are not broken
_LABELS = {
    "primary": "primary endpoint, fixed before reading",
    "exploratory": "exploratory",
    "data": "what there is",
}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.25rem;margin-top:2.4rem;border-top:1px solid #ccc;
padding-top:1.2rem}
.label{display:inline-block;font-size:.75rem;border:1px solid #777;border-radius:.7rem;padding:0 .6rem;color:#444;
vertical-align:middle;font-weight:normal}.primary .label{background:#0b5394;border-color:#0b5394;color:#fff}
.primary{background:#f2f7fc;padding:.2rem 1.2rem 1rem;border-left:4px solid #0b5394}
.primary h2{border:0;margin-top:.6rem}
.answer li{margin:.3rem 0}.scroll{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.82rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.4rem 0}th,td{border-bottom:1px solid #ddd;padding:.2rem .55rem;
text-align:left;vertical-align:top}th{border-bottom:2px solid #888;font-weight:600}
td.n{text-align:right;white-space:nowrap}
td.s{white-space:nowrap}td.t{min-width:10rem;max-width:26rem;overflow-wrap:anywhere}
.note,.meta,footer{color:#555;font-size:.82rem}figure{margin:1rem 0;display:inline-block;
vertical-align:top;max-width:100%}
figure svg{max-width:100%;height:auto}nav{font-size:.9rem}code{font-size:.85em;overflow-wrap:anywhere}
details{margin:.6rem 0}summary{cursor:pointer;color:#0b5394}
@media print{body{max-width:none;margin:0}details{display:block}.scroll{overflow:visible}
table{font-size:.62rem}th,td{padding:.15rem .3rem}figure{break-inside:avoid}}
"""


def write_report(result: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Writes `report.html`, `report.json` and `tables/<table>.csv`: all of them, or none.

    Tables of an earlier report in the same folder go.

    Args:
        result: of `analysis.analyse`.
        out: a folder; made if missing.

    Returns:
        paths by "html", "json" and each table's ID.

    Raises:
        MissingExtra: matplotlib is not installed.
        BadInput, RunFailed: the folder cannot be written to.
    """
    out = Path(out)
    page = render(result).encode("utf-8")  # before anything is written
    try:
        (out / "tables").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"The folder '{out}' cannot be made ({error.strerror})", "Choose another folder.") from error
    paths = {"html": out / "report.html", "json": out / "report.json"}
    text = json.dumps(plain(dict(result)), indent=1, ensure_ascii=False, allow_nan=False)
    contents = {"html": page, "json": f"{text}\n".encode()}
    for table in (table for section in result["sections"] for table in section["tables"]):
        paths[table["id"]] = out / "tables" / f"{table['id']}.csv"
        contents[table["id"]] = table_csv(table).encode("utf-8")
    with files_together(paths) as staged:
        for name, path in staged.items():
            with atomic_file(path) as file:
                file.write(contents[name])
    for path in (out / "tables").glob("*.csv"):
        if path not in paths.values():
            with suppress(OSError):
                path.unlink()
    return paths


def table_csv(table: Mapping[str, Any]) -> str:
    """A table with numbers in full; text cells that a spreadsheet would run as a formula are defused (`safe_cell`)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([column["key"] for column in table["columns"]])
    for row in table["rows"]:
        writer.writerow([cell(row.get(column["key"])) for column in table["columns"]])
    return text.getvalue()


def render(result: Mapping[str, Any]) -> str:
    """The page. Raises MissingExtra if matplotlib is not installed."""
    study = result["study"]
    links = "".join(f'<li><a href="#{_attribute(s["id"])}">{_text(s["title"])}</a></li>' for s in result["sections"])
    sections = "\n".join(_section(section) for section in result["sections"])
    software = ", ".join(f"{_text(name)} {_text(version)}" for name, version in result["software"].items())
    description_ = f"<p>{_text(study['description'])}</p>" if study.get("description") else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(study["title"])} - reader study</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{_text(study["title"])}</h1>
{description_}
<p class="meta">Study {_text(study["id"])}, built {_text(study.get("created_utc", ""))}. SHA-256 of the study file:
<code>{_text(study["sha256"])}</code></p>
<nav><ul>{links}</ul></nav>
{sections}
<footer>
<h2>How this was made</h2>
<p>{software}. Intervals are two-sided. Sections labelled exploratory were not the study's primary endpoint: their
p-values are corrected within each table as said there, and suggest rather than prove. Every number in full
is in report.json and tables/*.csv.</p>
<p>For research only. The report supports, and does not claim, compliance with 21 CFR Part 11 or ICH E6.</p>
</footer>
</body>
</html>
"""


def _section(section: Mapping[str, Any]) -> str:
    answers = "".join(f"<li>{_text(s)}</li>" for s in section["sentences"])
    figures = "".join(_figure(plot) for plot in section["plots"])
    tables = "".join(_table(table) for table in section["tables"] if table["rows"])
    family = f'<p class="note">Several tests: {_text(section["family"])}</p>' if section["family"] else ""
    sources = "".join(f"<li>{_text(s)}</li>" for s in section["sources"])
    sources = (
        f'<details class="note"><summary>Sources of the formulas</summary><ul>{sources}</ul></details>'
        if sources
        else ""
    )
    label = _text(_LABELS.get(section["label"], section["label"]))
    return f"""<section class="{_attribute(section["label"])}" id="{_attribute(section["id"])}">
<h2>{_text(section["title"])} <span class="label">{label}</span></h2>
<ul class="answer">{answers}</ul>
{figures}
{tables}
{family}
{sources}
</section>"""


def _figure(plot: Mapping[str, Any]) -> str:
    svg = draw(plot).decode("utf-8")
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)  # matplotlib repeats each text in a comment
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{_attribute(description(plot))}"', 1)
    return f"<figure>{svg}</figure>"


def _table(table: Mapping[str, Any]) -> str:
    """A table for reading: limits of an interval in one cell, notes below, empty columns left out."""
    shown = table["rows"][:LONGEST_TABLE]
    used = [c for c in table["columns"] if any(_there(row.get(c["key"])) for row in table["rows"])]
    groups = _groups([c for c in used if c["key"] != "note"])
    footnotes = list(dict.fromkeys(str(row["note"]) for row in shown if _there(row.get("note"))))
    head = "".join(f'<th scope="col">{_text(label)}</th>' for label, _ in groups)
    rows = []
    for row in shown:
        cells = [_cell(row, columns) for _, columns in groups]
        if _there(row.get("note")):
            cells[0] = cells[0].replace("</td>", f"<sup>{footnotes.index(str(row['note'])) + 1}</sup></td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    notes = [table["note"]] if table["note"] else []
    notes += [f"({i}) {note}" for i, note in enumerate(footnotes, start=1)]
    if len(table["rows"]) > LONGEST_TABLE:
        notes.append(f"{LONGEST_TABLE} of {len(table['rows'])} rows are shown.")
    notes.append(f"In full: tables/{table['id']}.csv.")
    whole = f'<div class="scroll"><table><caption>{_text(table["title"])}</caption><thead><tr>{head}</tr></thead>'
    whole += f'<tbody>{"".join(rows)}</tbody></table></div><p class="note">{_text(" ".join(notes))}</p>'
    if len(table["rows"]) > 12:
        return f"<details><summary>{_text(table['title'])} ({len(table['rows'])} rows)</summary>{whole}</details>"
    return whole


def _groups(columns: list[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Columns with their labels; the two limits of an interval together."""
    groups: list[tuple[str, list[Mapping[str, Any]]]] = []
    for column in columns:
        if column["label"] == "to" and groups and groups[-1][0].endswith("from"):
            label, before = groups.pop()
            groups.append((label.removesuffix("from").strip() or "Interval", [*before, column]))
        else:
            groups.append((column["label"], [column]))
    return groups


def _cell(row: Mapping[str, Any], columns: list[Mapping[str, Any]]) -> str:
    parts = [formatted(row.get(column["key"]), column["kind"]) for column in columns]
    text = " to ".join(parts) if all(parts) else ""
    numeric = columns[0]["kind"] != "text"
    style = "n" if numeric else "s" if len(text) <= LONGEST_LINE else "t"
    return f'<td class="{style}">{_text(text)}</td>'


def formatted(value: Any, kind: str) -> str:
    """A cell as people read it."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    match kind:
        case "percent":
            return f"{100 * value:.1f} %"
        case "p":
            return "<0.001" if value < 0.001 else f"{value:.3f}"
        case "number":
            return f"{value:g}" if isinstance(value, int) else f"{value:.3f}"
        case "number6":
            return f"{value:.6g}"
        case "seconds":
            return f"{value:.1f} s"
    return str(value)


def _there(value: Any) -> bool:
    return value is not None and value != ""


def _text(value: Any) -> str:
    return html.escape(_UNSEEN.sub("\ufffd", str(value)), quote=True)


def _attribute(value: Any) -> str:
    return html.escape(_UNSEEN.sub("\ufffd", " ".join(str(value).split())), quote=True)
