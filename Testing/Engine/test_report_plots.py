"""The plots of evaluations: they are drawn, say what they show, and take missing values."""

from __future__ import annotations

import json

import numpy as np
import pytest

from SynthDiffusionLib.errors import MissingExtra
from SynthDiffusionLib.reports.plots import COLOURS, description, draw

pytest.importorskip("matplotlib")

EVIL = "<script>$x_{$\x00\u202e"
PLOTS = {
    "intervals": {
        "rows": [
            {"label": "synthetic", "value": 12.0, "low": 9.0, "high": 14.0, "group": "measured"},
            {"label": EVIL, "value": None, "low": None, "high": None, "group": "no skill"},
            {"label": "real against real", "value": 3.0, "low": None, "high": 5.0},
        ],
        "label": "Distance",
        "lines": [{"value": 3.0, "label": "floor"}],
    },
    "distribution": {
        "rows": [
            {
                "label": "liver",
                "values": {"real": [1.0, 2.0, 3.0], "synthetic": [2.0, None, 4.0]},
                "note": "(p = 0.01)",
            },
            {"label": EVIL, "values": {"real": [1.0], "synthetic": []}},
            {"label": "spleen", "values": {"real": list(np.linspace(0.5, 2, 200))}},
        ],
        "label": "Share",
        "log": True,
        "line": 1.0,
    },
    "curve": {
        "lines": [
            {
                "label": "real",
                "x": [5, 10, 20],
                "value": [0.4, 0.5, None],
                "low": [0.3, None, None],
                "high": [0.5, 1, 1],
            },
            {"label": EVIL, "x": [5], "value": [0.6]},
        ],
        "xlabel": "Patients",
        "ylabel": "Dice",
        "references": [{"value": 0.2, "label": "ball"}],
    },
    "scatter": {
        "groups": [{"label": EVIL, "x": [1, 2, None], "y": [1, None, 3]}, {"label": "b", "x": [], "y": []}],
        "xlabel": "x",
        "ylabel": "y",
        "diagonal": True,
        "lines": [{"axis": "x", "value": 1.5, "label": "threshold"}, {"axis": "y", "value": 2, "label": "other"}],
    },
}
EMPTY = {
    "intervals": {"rows": [], "label": "x"},
    "distribution": {"rows": [], "label": "x"},
    "curve": {"lines": [], "xlabel": "x", "ylabel": "y"},
    "scatter": {"groups": [], "xlabel": "x", "ylabel": "y"},
}


@pytest.mark.parametrize("kind", PLOTS)
def test_a_plot_is_the_same_bytes_twice_and_runs_nothing(kind):
    plot = {"id": kind, "kind": kind, "title": EVIL, **PLOTS[kind]}
    svg = draw(json.loads(json.dumps(plot)))
    assert svg == draw(plot) and b"<script" not in svg.split(b"<svg", 1)[1].replace(b"<!--", b"")
    assert draw(plot, "png").startswith(b"\x89PNG")
    assert draw({"id": kind, "kind": kind, "title": "", **EMPTY[kind]})


def test_groups_have_colours_of_their_own():
    svg = draw({"id": "i", "kind": "intervals", "title": "", **PLOTS["intervals"]}).decode().lower()
    assert COLOURS[0].lower() in svg and COLOURS[1].lower() in svg
    svg = draw({"id": "d", "kind": "distribution", "title": "", **PLOTS["distribution"]}).decode().lower()
    assert COLOURS[0].lower() in svg and COLOURS[1].lower() in svg


def test_what_a_plot_says_to_those_who_cannot_see_it():
    def said(kind):
        return description({"id": kind, "kind": kind, "title": "T", **PLOTS[kind]})

    assert said("intervals").startswith("T: synthetic 12.000, ") and "not defined" in said("intervals")
    assert said("distribution").startswith("T: medians, liver: real 2, synthetic 3; ")
    assert said("curve").startswith("T: real 0.4 at 5, 0.5 at 10; ") and said("scatter") == "T"
    readers = {"kind": "intervals", "title": "T", "rows": [{"reader": "A", "value": 0.61}]}
    assert description(readers) == "T: A 61.0 %"


def test_a_logarithmic_axis_takes_no_zero():
    rows = [{"label": "a", "values": {"real": [0.0, 1.0, 10.0]}}]
    assert draw({"id": "d", "kind": "distribution", "title": "", "rows": rows, "label": "x", "log": True})


def test_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match="plots of a report"):
        draw({"id": "s", "kind": "scatter", "title": "", **EMPTY["scatter"]})
