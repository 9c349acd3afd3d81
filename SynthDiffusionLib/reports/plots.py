"""The plots of a report, as SVG text. The same data give the same bytes.

Text that a reader or a designer typed is drawn as shapes, never as markup, and not read as mathematics.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import MissingExtra
from SynthDiffusionLib.reports.sections import number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that people with a colour vision deficiency can tell apart (Okabe and Ito 2008), and line styles beside them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLES = ("-", "--", "-.", ":")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")  # told apart without colour
AVERAGE = "#333333"
LONGEST_LABEL = 60
NAME_WIDTH = 40  # characters of a line of a name beside an axis


def draw(plot: Mapping[str, Any], format: str = "svg") -> bytes:
    """A plot of a section.

    Args:
        plot: {"id", "kind", "title", ...data}: of reader studies "roc", "likert", "agreement" and "times"; of any
            report "intervals" (here) and those of `evaluation_plots`: "distribution", "curve", "scatter".
        format: "svg", or "png".

    Returns:
        the file's bytes.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    # A fixed salt makes the names inside an SVG the same each time.
    settings = {
        "svg.hashsalt": str(plot.get("id", "plot")),
        "svg.fonttype": "path",
        "font.size": 9,
        "text.parse_math": False,
        "text.usetex": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        _drawing(str(plot["kind"]))(figure, plot)
        file = io.BytesIO()
        # No date and no version of the library: both would change the bytes.
        metadata = {"Date": None, "Creator": None} if format == "svg" else {"Software": None}
        figure.savefig(file, format=format, metadata=metadata, dpi=110)
    return file.getvalue()


def require_matplotlib() -> None:
    """For work that ends in a report: to be called before it, not after hours.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Drawing the plots of a report (or a reader study)", "study") from error


def description(plot: Mapping[str, Any]) -> str:
    """What a plot shows, for those who cannot see it."""
    if plot["kind"] == "intervals":
        values = ", ".join(f"{_name(row)} {_said(row)}" for row in plot["rows"])
        return f"{plot['title']}: {values}"
    if plot["kind"] in _KINDS or plot["kind"] == "picture":
        return str(plot["title"])
    from SynthDiffusionLib.reports.evaluation_plots import described

    return f"{plot['title']}: {text}" if (text := described(plot)) else str(plot["title"])


def _roc(figure: Figure, plot: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    for i, curve in enumerate(plot["readers"]):
        axes.plot(
            curve["false_positive"], curve["true_positive"], STYLES[i % 4], color=COLOURS[i % len(COLOURS)], lw=1.2,
            marker="o", ms=2.5, label=short(curve["reader"]),
        )  # fmt: skip
    if len(plot["readers"]) > 1:
        average = plot["average"]
        axes.plot(average["false_positive"], average["true_positive"], "-", color=AVERAGE, lw=2.5, label="Average")
    axes.plot([0, 1], [0, 1], ":", color="#888888", lw=1, label="Guessing")
    axes.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal",
        xlabel="Real volumes called synthetic (1 - specificity)",
        ylabel="Synthetic volumes called synthetic (sensitivity)",
    )  # fmt: skip
    title(axes, plot)
    _legend(axes, len(plot["readers"]) + 2)


def _intervals(figure: Figure, plot: Mapping[str, Any]) -> None:
    """Values with intervals, one below the other.

    Of the plot: "rows" ({"label" or, in reader studies, "reader"; "value", "low", "high"; "group": rows of one group
    have one colour and mark}), "label" (of the axis), "line" (where nothing differs; optional), "lines" ({"value",
    "label"}: a floor, a ceiling; optional), "average" (of readers; optional).
    """
    rows = [{"name": _name(row), **row} for row in plot["rows"]]
    average = plot.get("average") or {}
    if average.get("value") is not None:
        rows.append({"name": "Average", **average})
    groups = list(dict.fromkeys(row["group"] for row in rows if row.get("group")))
    lines = plot.get("lines") or ()
    names = [wrapped(row["name"], NAME_WIDTH) for row in rows]
    wide = max(map(len, names), default=0) > 34 or len(str(plot["label"])) > 50
    height = sum(0.28 + 0.12 * name.count("\n") for name in names)
    figure.set_size_inches(7.2 if wide else 5.2, 1.6 + height + 0.2 * (len(groups) + len(lines)))
    axes = figure.subplots()
    for y, row in enumerate(reversed(rows)):
        at = groups.index(row["group"]) if row.get("group") else 0
        colour = AVERAGE if row["name"] == "Average" else COLOURS[at % len(COLOURS)]
        _interval(axes, y, row, colour, MARKS[at % len(MARKS)])
    if plot.get("line") is not None:
        axes.axvline(plot["line"], color="#888888", ls=":", lw=1)
    for i, line in enumerate(lines):
        axes.axvline(line["value"], color=AVERAGE, ls=STYLES[(i + 1) % 4], lw=1, label=short(line["label"]))
    for at, group in enumerate(groups):
        colour, mark = COLOURS[at % len(COLOURS)], MARKS[at % len(MARKS)]
        axes.plot([], [], mark, color=colour, ms=5, label=short(group))
    axes.set_yticks(range(len(rows)), names[::-1])
    axes.set(xlabel=wrapped(plot["label"], 70 if wide else 50), ylim=(-0.6, len(rows) - 0.4))
    if plot.get("scale") == "symlog":  # values of several orders of magnitude, some of them below 0
        _several_orders(axes, [row[k] for row in rows for k in ("value", "low", "high") if row.get(k) is not None])
    title(axes, plot)
    if groups or lines:
        legend_below(figure, axes)


def _agreement(figure: Figure, plot: Mapping[str, Any]) -> None:
    rows = plot["rows"]
    figure.set_size_inches(7.2, 1.4 + 0.24 * len(rows))
    axes = figure.subplots()
    for y, row in enumerate(reversed(rows)):
        _interval(axes, y, row, COLOURS[0])
    axes.axvline(0, color="#888888", ls=":", lw=1)
    axes.set_yticks(range(len(rows)), [short(f"{row['item']}: {row['name']}", 70) for row in reversed(rows)])
    axes.set(xlabel="Coefficient (1: full agreement, 0: chance)", ylim=(-0.6, len(rows) - 0.4))
    axes.set_xlim(right=1.03)
    title(axes, plot)


def _likert(figure: Figure, plot: Mapping[str, Any]) -> None:
    rows, labels = plot["rows"], plot["labels"]
    figure.set_size_inches(7.2, 1.5 + 0.4 * len(rows) + 0.2 * len(labels))
    axes = figure.subplots()
    shades = np.linspace(0.15, 0.9, len(labels))
    import matplotlib

    colours = matplotlib.colormaps["viridis"](shades)
    for y, row in enumerate(reversed(rows)):
        counts = np.array(row["counts"], float)
        part = counts / max(counts.sum(), 1)
        left = np.concatenate([[0.0], np.cumsum(part)])
        for i, width in enumerate(part):
            axes.barh(y, width, left=left[i], color=colours[i], edgecolor="white", height=0.7)
            if width > 0.06:
                ink = "white" if shades[i] < 0.6 else "black"
                axes.text(left[i] + width / 2, y, f"{int(counts[i])}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_yticks(range(len(rows)), [short(row["arm"]) for row in reversed(rows)])
    axes.set(xlim=(0, 1), xlabel="Part of the answers (numbers: answers)")
    handles = [matplotlib.patches.Patch(color=colours[i]) for i in range(len(labels))]
    figure.legend(handles, [short(text, 75) for text in labels], loc="outside lower left", frameon=False, fontsize=8)
    title(axes, plot)


def _times(figure: Figure, plot: Mapping[str, Any]) -> None:
    figure.set_size_inches(7.2, 3.6)
    axes = figure.subplots()
    readers = sorted({p["reader"] for p in plot["points"]})
    for i, reader in enumerate(readers):
        own = sorted((p["position"], p["seconds"]) for p in plot["points"] if p["reader"] == reader)
        x, y = np.array(own, float).T
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(x, y, "o", color=colour, ms=2.5, alpha=0.45)
        width = max(3, len(x) // 8) | 1
        if len(x) >= width:
            middle = np.array([np.median(y[max(0, j - width // 2) : j + width // 2 + 1]) for j in range(len(x))])
            axes.plot(x, middle, STYLES[i % 4], color=colour, lw=1.6, label=short(reader))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(value)[0] in "25" else "")
    axes.set(xlabel="Position in the reader's order (lines: running median)", ylabel="Active time in s (logarithmic)")
    title(axes, plot)
    _legend(axes, len(readers))


def _several_orders(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic but for the part round 0, which is linear, where the values need it."""
    sizes = np.sort(np.abs(values))
    if len(sizes) and sizes[-1] > 30 * max(np.median(sizes), 1e-12):
        linear = 10.0 ** np.floor(np.log10(max(np.median(sizes), 1e-9)))
        axes.set_xscale("symlog", linthresh=linear)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _name(row: Mapping[str, Any]) -> str:
    return str(next(row[key] for key in ("label", "reader", "name") if key in row))


def _said(row: Mapping[str, Any]) -> str:
    return percent(row["value"]) if "reader" in row else number(row["value"])


def _interval(axes: Axes, y: int, row: Mapping[str, Any], colour: str, mark: str = "o") -> None:
    if row.get("value") is None:
        place = axes.get_yaxis_transform()
        axes.text(0.02, y, "not defined", transform=place, va="center", color="#777777", fontsize=8)
        return
    if row.get("low") is not None and row.get("high") is not None:
        axes.plot([row["low"], row["high"]], [y, y], "-", color=colour, lw=1.6, solid_capstyle="butt")
    axes.plot([row["value"]], [y], mark, color=colour, ms=5)


def title(axes: Axes, plot: Mapping[str, Any]) -> None:
    """Writes the plot's title above the axes."""
    axes.set_title(short(plot["title"], 80), fontsize=10, loc="left")


def _legend(axes: Axes, entries: int) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if handles and entries <= 14:
        axes.legend(frameon=False, fontsize=8, loc="best")


def legend_below(figure: Figure, axes: Axes) -> None:
    """A legend under the axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=1 if max(map(len, labels)) > 30 else 2, frameon=False,
            fontsize=8,
        )  # fmt: skip


def wrapped(text: Any, width: int, lines: int = 2) -> str:
    """The same on up to so many lines, for names beside an axis."""
    return textwrap.fill(short(text, width * lines), width, max_lines=lines, placeholder="...")


def short(text: Any, most: int = LONGEST_LABEL) -> str:
    """One line, not too long, without control characters that fonts lack."""
    text = "".join(c if c.isprintable() else " " for c in str(text))
    return text if len(text) <= most else f"{text[: most - 3]}..."


_KINDS: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "roc": _roc,
    "intervals": _intervals,
    "agreement": _agreement,
    "likert": _likert,
    "times": _times,
}


def _drawing(kind: str) -> Callable[[Any, Mapping[str, Any]], None]:
    if kind in _KINDS:
        return _KINDS[kind]
    from SynthDiffusionLib.reports.evaluation_plots import KINDS

    return KINDS[kind]


def draw_all(plots: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """SVGs by the plots' IDs."""
    return {str(plot["id"]): draw(plot) for plot in plots}
