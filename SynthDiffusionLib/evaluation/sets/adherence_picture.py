"""Slices of synthetic volumes with what was drawn and what was found, and of a real one."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

from SynthDiffusionLib.errors import MissingExtra
from SynthDiffusionLib.evaluation.sets.adherence import REAL, SYNTHETIC, Scores
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet, SetCase
from SynthDiffusionLib.reports.plots import COLOURS
from SynthDiffusionLib.reports.sections import Section, number

DRAWN, FOUND = COLOURS[4], COLOURS[5]


def picture_section(real: ImageSet, synthetic: ImageSet, scores: Scores) -> Section:
    """The section of the pictures."""
    shown = [(SYNTHETIC, c, d) for c, d in _spread(synthetic.cases, _dice_of(scores, SYNTHETIC))]
    middle = _spread(real.cases, _dice_of(scores, REAL))
    shown += [(REAL, *middle[len(middle) // 2])] if middle else []
    plots = [{"id": "slices", "kind": "picture", "title": _title(shown), "png": _png(shown, scores)}] if shown else []
    return Section(
        "slices",
        "How does it look?",
        "data",
        (
            "Each picture is the slice with most of the drawn classes. Solid line: drawn. Dashed line: found by the "
            "segmenter. From left: the synthetic volumes with the lowest, a middle and the highest Dice, and a real "
            "one with a middle Dice.",
        ),
        plots=tuple(plots),
    )


def _dice_of(scores: Scores, row: str) -> dict[str, float]:
    """Mean Dice of a volume over its classes."""
    values: dict[str, list[float]] = {}
    for score in scores.all:
        if score.row == row and score.figures["state"] in ("both", "missed"):
            values.setdefault(score.case, []).append(float(score.figures["dice"]))
    return {case: float(np.mean(v)) for case, v in values.items()}


def _spread(cases: Sequence[SetCase], dice: dict[str, float]) -> list[tuple[SetCase, float]]:
    ordered = sorted(((c, dice[c.name]) for c in cases if c.name in dice), key=lambda pair: (pair[1], pair[0].name))
    if len(ordered) <= 3:
        return ordered
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _title(shown: Sequence[tuple[str, SetCase, float]]) -> str:
    return "; ".join(f"{row}: {case.name}, Dice {number(dice, 2)}" for row, case, dice in shown)


def _png(shown: Sequence[tuple[str, SetCase, float]], scores: Scores) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("Drawing the pictures of a report", "study") from error
    figure = Figure(figsize=(3.0 * len(shown), 3.4), layout="constrained")
    for axes, (row, case, dice) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown):
        drawn = np.where(np.isin(case.labels, scores.values), case.labels, 0)
        k = int((drawn > 0).sum((0, 1)).argmax())
        low, high = np.percentile(case.image, (1, 99))
        aspect = case.spacing[1] / case.spacing[0]
        axes.imshow(case.image[:, :, k].T, cmap="gray", vmin=low, vmax=max(high, low + 1), aspect=aspect)
        for value in scores.values:
            for mask, colour, style in (
                (drawn == value, DRAWN, "-"),
                (scores.found[row, case.name].mask(value), FOUND, "--"),
            ):
                if mask[:, :, k].any() and not mask[:, :, k].all():
                    axes.contour(mask[:, :, k].T.astype(float), [0.5], colors=colour, linestyles=style, linewidths=1.2)
        axes.set_title(f"{row}, Dice {number(dice, 2)}", fontsize=9)
        axes.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90, metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode("ascii")
