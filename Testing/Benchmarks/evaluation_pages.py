"""Puts the sentences and tables of evaluation results between the marks of a page.

    python Testing/Benchmarks/evaluation_pages.py Docs/Evaluation/utility.md augmentation=runs/augmentation/utility.json

The page has `<!-- NAME: begin -->` and `<!-- NAME: end -->`, each on a line of its own. What stood between them goes.
Tables with a line for every case are left out: they are in the CSV files beside the JSON.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets.results import read_result
from SynthDiffusionLib.reports.cells import formatted

MOST_ROWS = 40


def block(result: Mapping[str, Any]) -> list[str]:
    """A result as Markdown."""
    libraries = result["software"]["libraries"]
    with_versions = ", ".join(f"{n} {v}" for n, v in libraries.items() if n in ("torch", "monai", "numpy", "scipy"))
    lines = [f"`{result['command']}` ({result['seconds']:.0f} s; {with_versions})", ""]
    return [*lines, *sections_text(result["sections"])]


def sections_text(sections: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences and tables of sections as Markdown."""
    lines: list[str] = []
    for section in sections:
        if section["label"] != "data":
            lines += [f"- {sentence}" for sentence in section["sentences"]]
        for table in section["tables"]:
            if 0 < len(table["rows"]) <= MOST_ROWS:
                lines += ["", f"{table['title']}:", "", *markdown(table)]
        lines.append("")
    while lines[-1:] == [""]:
        lines.pop()
    return [*lines, ""]


def markdown(table: Mapping[str, Any]) -> Iterator[str]:
    """A table; the limits of an interval stand in the column before them."""
    columns: list[list[Mapping[str, Any]]] = []
    for column in table["columns"]:
        if (column["label"] == "to" or column["label"].endswith("from")) and columns:
            columns[-1].append(column)
        elif any(row.get(column["key"]) not in (None, "") for row in table["rows"]):
            columns.append([column])
    yield "| " + " | ".join(group[0]["label"] for group in columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in table["rows"]:
        cells = []
        for first, *limits in columns:
            text = formatted(row.get(first["key"]), first["kind"]) or "-"
            ends = [formatted(row.get(c["key"]), c["kind"]) for c in limits]
            cells.append(f"{text} [{', '.join(ends)}]" if ends and all(ends) else text)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def put(page: str, name: str, lines: Sequence[str]) -> str:
    """The page with the lines between the marks of that name.

    Raises:
        BadInput: the page has no such marks.
    """
    begin, end = (f"<!-- {name}: {mark} -->" for mark in ("begin", "end"))
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise BadInput(f"The page has no marks '{begin}' and '{end}'", "Write them where the tables are to stand.")
    return "\n".join([before + begin, "", *lines, end + after])


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("results", nargs="+", metavar="NAME=KIND.json")
    args = parser.parse_args(arguments)
    text = args.page.read_text(encoding="utf-8")
    try:
        for entry in args.results:
            name, _, path = entry.partition("=")
            text = put(text, name, block(read_result(Path(path))))
    except BadInput as error:
        print(error.one_line(), file=sys.stderr)
        return 2
    args.page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
