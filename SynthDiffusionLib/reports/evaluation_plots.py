"""Plots of evaluations: distributions of two groups, curves with intervals, clouds of points. Drawn by `plots.draw`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.reports.plots import (
    AVERAGE,
    COLOURS,
    MARKS,
    NAME_WIDTH,
    STYLES,
    legend_below,
    short,
    title,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SAID = 30  # rows in the text that stands for a plot
MOST_POINTS = 80  # of one group that are drawn one by one; beyond that the box and what lies outside of its whiskers


def _distribution(figure: Figure, plot: Mapping[str, Any]) -> None:
    """Boxes with their points, a row for each region, a colour and a mark for each group.

    Of the plot: "rows" ({"label", "values": {group: [numbers]}, "note": after the label; optional}), "label" (of the
    axis), "log" (optional; not followed where a value is 0 or less), "line" (optional).
    """
    rows = plot["rows"]
    groups = list(dict.fromkeys(name for row in rows for name in row["values"]))
    figure.set_size_inches(7.2, 1.5 + len(rows) * (0.12 + 0.2 * len(groups)) + 0.2)
    axes = figure.subplots()
    clean = [{g: _finite(row["values"].get(g, ())) for g in groups} for row in rows]
    step = 0.8 / max(len(groups), 1)
    rng = np.random.default_rng(0)  # the same data give the same picture
    for y, values in enumerate(reversed(clean)):
        for i, group in enumerate(groups):
            if len(values[group]):
                at = y + 0.4 - step * (i + 0.5)
                _box(axes, at, step, values[group], COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)], rng)
    for i, group in enumerate(groups):
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        axes.plot([], [], mark, color=colour, ms=5, label=short(group))
    if plot.get("line") is not None:
        axes.axvline(plot["line"], color="#888888", ls=":", lw=1)
    if plot.get("log") and all((v > 0).all() for values in clean for v in values.values()):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    names = [wrapped(f"{row['label']} {row.get('note') or ''}".strip(), NAME_WIDTH) for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    for y in range(len(rows) - 1):
        axes.axhline(y + 0.5, color="#dddddd", lw=0.6, zorder=0)
    axes.set(xlabel=plot["label"], ylim=(-0.5, max(len(rows), 1) - 0.5))
    title(axes, plot)
    legend_below(figure, axes)


def _box(axes: Axes, y: float, height: float, values: np.ndarray, colour: str, mark: str, rng) -> None:
    """Median, quartiles, and whiskers to the last value within 1.5 times the quartiles' distance (Tukey 1977)."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    reach = 1.5 * (high - low)
    inside = values[(values >= low - reach) & (values <= high + reach)]
    axes.plot([inside.min(), low], [y, y], "-", color=colour, lw=1)
    axes.plot([high, inside.max()], [y, y], "-", color=colour, lw=1)
    axes.barh(y, high - low, height * 0.72, low, facecolor=(*_rgb(colour), 0.18), edgecolor=colour, linewidth=1)
    axes.plot([middle, middle], [y - height * 0.36, y + height * 0.36], "-", color=colour, lw=2)
    single = values if len(values) <= MOST_POINTS else values[(values < low - reach) | (values > high + reach)]
    if len(single):
        around = y + rng.uniform(-0.22, 0.22, len(single)) * height
        axes.plot(single, around, mark, color=colour, ms=2.2, alpha=0.6, mew=0)


def _curve(figure: Figure, plot: Mapping[str, Any]) -> None:
    """Lines with intervals, such as a score over the number of training patients.

    Of the plot: "lines" ({"label", "x", "value", "low", "high"}: lists of one length; low and high may be left out or
    hold None), "xlabel", "ylabel", "references" ({"value", "label"}: levels; optional).
    """
    lines = plot["lines"]
    references = plot.get("references") or ()
    figure.set_size_inches(6.2, 3.9 + 0.1 * (len(lines) + len(references)))
    axes = figure.subplots()
    places = np.unique(np.concatenate([_numbers(line["x"]) for line in lines])) if lines else np.zeros(0)
    places = places[np.isfinite(places)]
    nearest = np.diff(places).min() if len(places) > 1 else 1.0
    for i, line in enumerate(lines):
        x, value = _numbers(line["x"]), _numbers(line["value"])
        x = x + nearest * 0.12 * (i - (len(lines) - 1) / 2)  # side by side: intervals would hide each other
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        axes.plot(x, value, STYLES[i % 4], color=colour, marker=mark, ms=5, lw=1.4, label=short(line["label"]))
        low, high = (_numbers(line.get(key) or [None] * len(x)) for key in ("low", "high"))
        axes.vlines(x, low, high, color=colour, lw=1.4)
    for i, reference in enumerate(references):
        style = STYLES[(i + 1) % 4]
        axes.axhline(reference["value"], color=AVERAGE, ls=style, lw=1, label=short(reference["label"]))
    if 0 < len(places) <= 12:
        axes.set_xticks(places, [f"{p:g}" for p in places])
    axes.set(xlabel=plot["xlabel"], ylabel=plot["ylabel"])
    title(axes, plot)
    legend_below(figure, axes)


def _scatter(figure: Figure, plot: Mapping[str, Any]) -> None:
    """Points of groups.

    Of the plot: "groups" ({"label", "x", "y"}), "xlabel", "ylabel", "diagonal" (x = y; optional), "lines" ({"axis":
    "x" or "y", "value", "label"}: thresholds; optional).
    """
    figure.set_size_inches(5.6, 4.4)
    axes = figure.subplots()
    for i, group in enumerate(plot["groups"]):
        x, y = _numbers(group["x"]), _numbers(group["y"])
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        axes.plot(
            x, y, mark, color=colour, ms=4 if len(x) < 200 else 2.5, alpha=0.65, mew=0, label=short(group["label"])
        )
    for i, line in enumerate(plot.get("lines") or ()):
        draw_line = axes.axvline if line["axis"] == "x" else axes.axhline
        draw_line(line["value"], color=AVERAGE, ls=STYLES[(i + 1) % 4], lw=1, label=short(line["label"]))
    if plot.get("diagonal"):
        axes.axline((0, 0), slope=1, color="#888888", ls=":", lw=1)
        ends = [*axes.get_xlim(), *axes.get_ylim()]
        axes.set(xlim=(min(ends), max(ends)), ylim=(min(ends), max(ends)), aspect="equal")
    axes.set(xlabel=plot["xlabel"], ylabel=plot["ylabel"])
    title(axes, plot)
    legend_below(figure, axes)


def described(plot: Mapping[str, Any]) -> str:
    """What a plot shows, in numbers, for those who cannot see it; nothing for a cloud of points."""
    if plot["kind"] == "distribution":
        parts = [
            f"{row['label']}: "
            + ", ".join(f"{g} {np.median(v):.4g}" for g, values in row["values"].items() if len(v := _finite(values)))
            for row in plot["rows"][:MOST_SAID]
        ]
        return f"medians, {'; '.join(parts)}"
    if plot["kind"] == "curve":
        return "; ".join(
            f"{line['label']} "
            + ", ".join(f"{y:.4g} at {x:g}" for x, y in zip(line["x"], line["value"], strict=True) if y is not None)
            for line in plot["lines"][:MOST_SAID]
        )
    return ""


def _numbers(values: Any) -> np.ndarray:
    """(N,) float64, NaN for None, which matplotlib leaves out."""
    return np.array([np.nan if v is None else v for v in values], float)


def _finite(values: Any) -> np.ndarray:
    array = _numbers(values)
    return array[np.isfinite(array)]


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


KINDS = {"distribution": _distribution, "curve": _curve, "scatter": _scatter}
