"""What an analysis is made of: sections with sentences, tables and data of plots. The report only draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# How a cell is shown. The JSON and the CSV hold every number in full.
KINDS = ("text", "int", "number", "number6", "percent", "p", "seconds", "yes")
# What is good for a headline's value.
BETTER = ("higher", "lower", "near 0", "near 0.5", "near 1", "near real")
NUMBERS = ("value", "low", "high", "reference", "cartoon", "n")  # of a headline


@dataclass(frozen=True)
class Column:
    """A column: key in the rows, label, one of `KINDS`."""

    key: str
    label: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        id: unique in the report, name of its CSV.
        title: what it shows.
        columns: in order.
        rows: by column key; None: nothing to show.
        note: below the table: test, correction, handling.
    """

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        columns = [vars(c) for c in self.columns]
        rows = [{c.key: plain(row.get(c.key)) for c in self.columns} for row in self.rows]
        return {"id": self.id, "title": self.title, "columns": columns, "rows": rows, "note": self.note}


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        id: unique in the report.
        title: the question that it answers.
        label: "primary", "exploratory" or "data".
        sentences: the answer in plain words, most important first.
        tables: for those who check.
        plots: {"id", "kind", "title", ...data}; drawn by `plots`.
        family: which p-values were corrected together, and how.
        sources: where the formulas are from.
        detail: everything else a statistician may want, as JSON.
        headlines: the few figures that people compare sets by, at most about six; see `headline`. They stand in a
            table at the top of the page, and in the panel's Results table.
    """

    id: str
    title: str
    label: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Mapping[str, Any], ...] = ()
    family: str = ""
    sources: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    headlines: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "title": self.title,
            "label": self.label,
            "sentences": list(self.sentences),
            "tables": [t.to_json() for t in self.tables],
            "plots": plain(list(self.plots)),
            "family": self.family,
            "sources": list(self.sources),
            "detail": plain(dict(self.detail)),
            "headlines": plain([headline(**h) for h in self.headlines]),
        }


def headline(
    measure: str,
    row: str,
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    reference: float | None = None,
    reference_name: str = "",
    cartoon: float | None = None,
    cartoon_name: str = "",
    better: str = "higher",
    kind: str = "number",
    unit: str = "",
    n: int | None = None,
    sentence: str = "",
) -> dict[str, Any]:
    """One figure of `Section.headlines`, with what it must be read against.

    A plain dictionary with (some of) these keys is as good: `Section.to_json` puts it through here.

    Args:
        measure: what was measured: "Dice", "Fréchet distance of radiomics".
        row: of what: "liver", "all classes", "synthetic against real".
        value: the figure; None where it could not be measured.
        low, high: its interval over patients; None where there is none.
        reference: the same measure where nothing is synthetic: the ceiling on real images, the real-to-real floor.
        reference_name: "same segmenter on real images", "real against real".
        cartoon: the same measure of the best no-skill row.
        cartoon_name: which one: "mean image", "flat classes".
        better: one of `BETTER`.
        kind: one of `KINDS`: how value, limits, reference and cartoon are shown ("number": three decimals).
        unit: after the number: "mm", "HU"; not with "percent" or "seconds", which have their own.
        n: patients behind the value.
        sentence: what it means, in plain words; by default the section's first sentence.

    Raises:
        ValueError: `better` or `kind` is none of those.
    """
    if better not in BETTER or kind not in KINDS:
        raise ValueError(f"A headline is one of {BETTER} and one of {KINDS}, not '{better}' and '{kind}'")
    return dict(locals())


def columns(*entries: str) -> tuple[Column, ...]:
    """Columns from "key|label|kind" (kind: text if left out)."""
    return tuple(Column(*entry.split("|")) for entry in entries)


def plain(value: Any) -> Any:
    """The value as JSON has it: no numpy, no NaN or infinity (null stands for both)."""
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for several tests (Holm, Scand J Stat 1979), in the order given.

    NaN (a test that could not be made) stays NaN and does not count.
    """
    import numpy as np

    p = np.asarray(p_values, np.float64)
    adjusted = np.full(p.shape, math.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def with_holm(rows: Sequence[dict[str, Any]], key: str = "p", into: str = "p_holm") -> None:
    """Adds p-values that are adjusted for all tests of the rows (Holm 1979).

    Rows without a p-value do not count, nor does the primary endpoint (`is_primary`), which was fixed before reading:
    its p-value is the same wherever it stands in a report.
    """
    values = [None if row.get("is_primary") else row.get(key) for row in rows]
    adjusted = holm([math.nan if v is None else float(v) for v in values]) if values else []
    for row, value in zip(rows, adjusted):
        row[into] = float(value) if math.isfinite(value) else None


def family_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many tests of rows were corrected together by `with_holm`, as a sentence."""
    number = sum(row.get("p_holm") is not None for row in rows)
    text = f"Holm's correction for the {number} tests of this table" if number > 1 else "One test: nothing to correct"
    if not number:
        text = "No test of this table is corrected"
    if any(row.get("is_primary") for row in rows):
        text += "; the primary endpoint is not among them and is not corrected"
    return f"{text}."


def corrected(rows: Sequence[dict[str, Any]], alpha: float) -> None:
    """`with_holm` of the tests of a difference, and apart from them of those of equivalence, whose verdict follows.

    A verdict that is a text (`habits.NOT_JUDGED`) stays.
    """
    with_holm(rows)
    with_holm(rows, "equivalence_p", "equivalence_holm")
    for row in rows:
        if row.get("equivalence_holm") is not None and not isinstance(row.get("equivalent"), str):
            row["equivalent"] = row["equivalence_holm"] < alpha


def percent(value: float | None, digits: int = 1) -> str:
    """0.6123 as "61.2 %"."""
    return "not defined" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits after the point; "not defined" for NaN."""
    if value is None or not math.isfinite(value):
        return "not defined"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def degrees(df: float) -> float | str:
    """Degrees of freedom for a table: infinity (a normal or chi-square distribution) as a word, since JSON has none."""
    return "infinite" if math.isinf(df) else float(df)


def p_text(p: float | None) -> str:
    """ "p = 0.051", "p < 0.001" """
    if p is None or not math.isfinite(p):
        return "p not defined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def both_p(p: float | None, corrected: float | None) -> str:
    """A p-value with its correction for other tests, where that makes a difference."""
    if p is None or corrected is None or p_text(p) == p_text(corrected):
        return p_text(p)
    return f"{p_text(p)}; corrected for the other tests, {p_text(corrected)}"


def interval_text(low: float | None, high: float | None, confidence: float, as_percent: bool = False) -> str:
    """ "95 % interval 0.41 to 0.63" """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return f"no {100 * confidence:g} % interval can be given"
    show = percent if as_percent else number
    return f"{100 * confidence:g} % interval {show(low)} to {show(high)}"


def listing(words: Iterable[str], most: int = 12) -> str:
    """ "a, b and c"; the rest is counted."""
    words = [str(w) for w in words]
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"


def counted(n: int, one: str, many: str | None = None) -> str:
    """ "1 case", "2 cases" """
    return f"{n} {one if n == 1 else many or one + 's'}"
