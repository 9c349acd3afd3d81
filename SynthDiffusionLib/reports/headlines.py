"""The few figures that people compare sets by, as every place shows them: page, command line, panel.

`sections.headline` says what a headline holds. One function turns them into text, so that no two places can differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from SynthDiffusionLib.reports.cells import formatted
from SynthDiffusionLib.reports.sections import Column

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
        _row(headline, section.get("sentences") or [""])
        for section in sections
        for headline in section.get("headlines") or ()
    ]


def _row(headline: Mapping[str, Any], sentences: list[str]) -> dict[str, str]:
    def shown(key: str) -> str:
        text = formatted(headline.get(key), str(headline.get("kind") or "number"))
        return f"{text} {headline['unit']}" if text and headline.get("unit") else text

    value = shown("value") or "not defined"
    low, high = (formatted(headline.get(key), str(headline.get("kind") or "number")) for key in ("low", "high"))
    return {
        "measure": str(headline["measure"]),
        "row": str(headline.get("row") or ""),
        "value": f"{value} ({low} to {high})" if low and high else value,
        "n": formatted(headline.get("n"), "int"),
        "reference": _named(shown("reference"), headline.get("reference_name")),
        "cartoon": _named(shown("cartoon"), headline.get("cartoon_name")),
        "better": str(headline.get("better") or ""),
        "sentence": str(headline.get("sentence") or sentences[0]),
    }


def _named(value: str, name: Any) -> str:
    return f"{value} ({name})" if value and name else value
