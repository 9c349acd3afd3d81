"""One HTML page of sections, for people: no network, no script; plots are inline SVG, pictures inline PNG.

Everything that a person typed (titles, names, comments) is escaped, and a policy in the page forbids scripts and
loading besides. Nothing in it depends on the time, so that the same sections give the same bytes with the same library
versions.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reports.cells import cell, formatted
from SynthDiffusionLib.reports.headlines import COLUMNS, headline_rows
from SynthDiffusionLib.reports.plots import description, draw
from SynthDiffusionLib.reports.sections import plain
from SynthDiffusionLib.volumes.atomic import atomic_file, files_together

# Control characters, and marks that turn the direction of what follows.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
LONGEST_TABLE = 60  # rows shown in the HTML; the CSV has all
LONGEST_LINE = 30  # characters of a cell that are not broken
_LABELS = {
    "primary": "primary endpoint, fixed before reading",
    "exploratory": "exploratory",
    "data": "what there is",
    "measured": "measured",
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
figure svg,figure img{max-width:100%;height:auto}nav{font-size:.9rem}code{font-size:.85em;overflow-wrap:anywhere}
details{margin:.6rem 0}summary{cursor:pointer;color:#0b5394}
@media print{body{max-width:none;margin:0}details{display:block}.scroll{overflow:visible}
table{font-size:.62rem}th,td{padding:.15rem .3rem}figure{break-inside:avoid}}
"""


def write_page(
    page: str,
    content: Mapping[str, Any],
    sections: Sequence[Mapping[str, Any]],
    out: Path,
    name: str,
    tables: str = "tables",
) -> dict[str, Path]:
    """Writes `NAME.html`, `NAME.json` and `TABLES/<table>.csv`: all of them, or none.

    Tables of an earlier report in the same folder go.

    Args:
        page: of `render_page`.
        content: of the JSON.
        sections: as in `content`; their tables are written.
        out: a folder; made if missing.
        name: "report".
        tables: name of the folder of the tables.

    Returns:
        paths by "html", "json" and each table's ID.

    Raises:
        BadInput, RunFailed: the folder cannot be written to.
    """
    out = Path(out)
    try:
        (out / tables).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"The folder '{out}' cannot be made ({error.strerror})", "Choose another folder.") from error
    paths = {"html": out / f"{name}.html", "json": out / f"{name}.json"}
    text = json.dumps(plain(dict(content)), indent=1, ensure_ascii=False, allow_nan=False)
    contents = {"html": page.encode("utf-8"), "json": f"{text}\n".encode()}
    for table in (table for section in sections for table in section["tables"]):
        paths[table["id"]] = out / tables / f"{table['id']}.csv"
        contents[table["id"]] = table_csv(table).encode("utf-8")
    with files_together(paths) as staged:
        for name, path in staged.items():
            with atomic_file(path) as file:
                file.write(contents[name])
    for path in (out / tables).glob("*.csv"):
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


def render_page(
    title: str, heading: str, sections: Sequence[Mapping[str, Any]], footer: str, tables: str = "tables"
) -> str:
    """The page.

    Args:
        title: of the page, as typed.
        heading: HTML above the list of sections.
        sections: of `Section.to_json`.
        footer: HTML below them.
        tables: name of the folder of the tables, see `write_page`.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    links = "".join(f'<li><a href="#{_attribute(s["id"])}">{text_of(s["title"])}</a></li>' for s in sections)
    body = "\n".join(_section(section, tables) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text_of(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{heading}
{_headlines(sections, tables)}
<nav><ul>{links}</ul></nav>
{body}
<footer>
{footer}
</footer>
</body>
</html>
"""


_UNBROKEN = dict.fromkeys(("value", "n", "better"), ' class="s"')  # those that are not broken


def _headlines(sections: Sequence[Mapping[str, Any]], folder: str) -> str:
    """The table at the top of the page; nothing where no section has headlines."""
    rows = headline_rows(sections)
    if not rows:
        return ""
    used = [c for c in COLUMNS if any(row[c.key] for row in rows)]
    head = "".join(f'<th scope="col">{text_of(c.label)}</th>' for c in used)
    body = "".join(
        f'<tr title="{_attribute(row["sentence"])}">'
        + "".join(f"<td{_UNBROKEN.get(c.key, '')}>{text_of(row[c.key])}</td>" for c in used)
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="scroll"><table class="headlines"><caption>The main figures</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="note">In full: {folder}/main-figures.csv.</p>'
    )


def _section(section: Mapping[str, Any], folder: str) -> str:
    answers = "".join(f"<li>{text_of(s)}</li>" for s in section["sentences"])
    figures = "".join(figure_html(plot) for plot in section["plots"])
    tables = "".join(_table(table, folder) for table in section["tables"] if table["rows"])
    family = f'<p class="note">Several tests: {text_of(section["family"])}</p>' if section["family"] else ""
    sources = "".join(f"<li>{text_of(s)}</li>" for s in section["sources"])
    sources = (
        f'<details class="note"><summary>Sources of the formulas</summary><ul>{sources}</ul></details>'
        if sources
        else ""
    )
    label = text_of(_LABELS.get(section["label"], section["label"]))
    return f"""<section class="{_attribute(section["label"])}" id="{_attribute(section["id"])}">
<h2>{text_of(section["title"])} <span class="label">{label}</span></h2>
<ul class="answer">{answers}</ul>
{figures}
{tables}
{family}
{sources}
</section>"""


def figure_html(plot: Mapping[str, Any]) -> str:
    """A plot as inline SVG, or a picture ({"kind": "picture", "png": base64, "title"}) as inline PNG."""
    label = _attribute(description(plot))
    if plot["kind"] == "picture":  # {"png": base64, "title"}
        return (
            f'<figure><img alt="{label}" src="data:image/png;base64,{_attribute(plot["png"])}">'
            f"<figcaption>{text_of(plot['title'])}</figcaption></figure>"
        )
    svg = draw(plot).decode("utf-8")
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)  # matplotlib repeats each text in a comment
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return f"<figure>{svg}</figure>"


def _table(table: Mapping[str, Any], folder: str) -> str:
    """A table for reading: limits of an interval in one cell, notes below, empty columns left out."""
    shown = table["rows"][:LONGEST_TABLE]
    used = [c for c in table["columns"] if any(_there(row.get(c["key"])) for row in table["rows"])]
    groups = _groups([c for c in used if c["key"] != "note"])
    footnotes = list(dict.fromkeys(str(row["note"]) for row in shown if _there(row.get("note"))))
    head = "".join(f'<th scope="col">{text_of(label)}</th>' for label, _ in groups)
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
    notes.append(f"In full: {folder}/{table['id']}.csv.")
    whole = f'<div class="scroll"><table><caption>{text_of(table["title"])}</caption><thead><tr>{head}</tr></thead>'
    whole += f'<tbody>{"".join(rows)}</tbody></table></div><p class="note">{text_of(" ".join(notes))}</p>'
    if len(table["rows"]) > 12:
        return f"<details><summary>{text_of(table['title'])} ({len(table['rows'])} rows)</summary>{whole}</details>"
    return whole


def _groups(columns: list[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Columns with their labels; the two limits of an interval together."""
    groups: list[tuple[str, list[Mapping[str, Any]]]] = []
    for column in columns:
        if column["label"] == "to" and groups and groups[-1][0].endswith("from"):
            label, before = groups.pop()
            of = label.removesuffix("from").strip(" ,")
            told = f"{of}, interval" if of and groups and groups[-1][0] == of else of or "Interval"
            groups.append((told, [*before, column]))
        else:
            groups.append((column["label"], [column]))
    return groups


def _cell(row: Mapping[str, Any], columns: list[Mapping[str, Any]]) -> str:
    parts = [formatted(row.get(column["key"]), column["kind"]) for column in columns]
    text = " to ".join(parts) if all(parts) else ""
    numeric = columns[0]["kind"] != "text"
    style = "n" if numeric else "s" if len(text) <= LONGEST_LINE else "t"
    return f'<td class="{style}">{text_of(text)}</td>'


def _there(value: Any) -> bool:
    return value is not None and value != ""


def text_of(value: Any) -> str:
    """A value as text of an HTML page."""
    return html.escape(_UNSEEN.sub("\ufffd", str(value)), quote=True)


def _attribute(value: Any) -> str:
    return html.escape(_UNSEEN.sub("\ufffd", " ".join(str(value).split())), quote=True)
