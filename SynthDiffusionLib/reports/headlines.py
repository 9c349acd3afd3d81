"""The few figures that people compare sets by, as every place shows them: page, command line, panel.

`sections.headline` says what a headline holds. One function turns them into text, so that no two places can differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from SynthDiffusionLib.reports.cells import formatted
from SynthDiffusionLib.reports.sections import Column, headline

COLUMNS = (
    Column("measure", "Measure"),
    Column("row", "Of"),
    Column("value", "Value (interval)"),
    Column("n", "Patients"),
    Column("reference", "Real images"),
    Column("cartoon", "Best without skill"),
    Column("better", "Better"),
)


def headline_rows(sections: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The headlines of sections as text.

    Args:
        sections: of `Section.to_json`; those of older results have no headlines.

    Returns:
        a row a headline: the keys of `COLUMNS`, and "sentence", which says it in plain words.
    """
    return [
        _row(figure, section.get("sentences") or [""])
        for section in sections
        for figure in section.get("headlines") or ()
    ]


def headlines_table(sections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All headlines with their numbers in full, as a section that has one table; empty where there are none."""
    rows = [headline(**entry) for section in sections for entry in section.get("headlines") or ()]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = [{"key": key, "label": key, "kind": "text"} for key in keys]
    return [{"tables": [{"id": "main-figures", "columns": columns, "rows": rows}]}] if rows else []


def _row(figure: Mapping[str, Any], sentences: list[str]) -> dict[str, str]:
    def shown(key: str) -> str:
        text = formatted(figure.get(key), str(figure.get("kind") or "number"))
        return f"{text} {figure['unit']}" if text and figure.get("unit") else text

    value = shown("value") or "not defined"
    low, high = (formatted(figure.get(key), str(figure.get("kind") or "number")) for key in ("low", "high"))
    return {
        "measure": str(figure["measure"]),
        "row": str(figure.get("row") or ""),
        "value": f"{value} ({low} to {high})" if low and high else value,
        "n": formatted(figure.get("n"), "int"),
        "reference": _named(shown("reference"), figure.get("reference_name")),
        "cartoon": _named(shown("cartoon"), figure.get("cartoon_name")),
        "better": str(figure.get("better") or ""),
        "sentence": str(figure.get("sentence") or sentences[0]),
    }


def _named(value: str, name: Any) -> str:
    return f"{value} ({name})" if value and name else value
