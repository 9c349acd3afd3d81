"""Merged studies made up for tests of the analysis: readers of known ability, or ratings of a published table."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.reader_study.merge import Merged, MergedReader
from SynthDiffusionLib.reader_study.study import Study
from SynthDiffusionLib.reader_study.tables import Rating

ORACLES = Path(__file__).parents[2] / "shared" / "data" / "reader_oracles"
VAN_DYKE = next((p for p in (ORACLES, Path(__file__).parents[3] / "shared/data/reader_oracles") if p.is_dir()), ORACLES)
LEVELS = (-3, -2, -1, 1, 2, 3)
PRIMARY = {
    "measure": "auc", "task": "turing", "item": "score", "arm": "gen-a", "test": "difference", "null": 0.5,
    "alpha": 0.05, "readers": "random", "cases": "random", "covariance": "delong",
}  # fmt: skip


def form(task: str) -> dict[str, Any]:
    """Forms with every type of question."""
    score = {
        "id": "score", "type": "confidence", "text": "Is this volume real or synthetic?", "required": True,
        "options": [{"value": v, "label": f"level {v}"} for v in LEVELS],
    }  # fmt: skip
    if task == "choice":
        return {
            "id": "choice", "title": "Which one?",
            "items": [{"id": "side", "type": "forced_choice", "text": "Which is synthetic?", "per": "pair"}],
        }  # fmt: skip
    items: list[dict[str, Any]] = [
        score,
        {"id": "quality", "type": "scale", "text": "How good is it?",
         "options": [{"value": v, "label": f"grade {v}"} for v in (1, 2, 3, 4)]},
        {"id": "organ", "type": "choice", "text": "What is it?",
         "options": [{"value": "lung", "label": "Lung"}, {"value": "bone", "label": "Bone"}]},
        {"id": "flaws", "type": "multiple_choice", "text": "Flaws?",
         "options": [{"value": "noise", "label": "Noise"}, {"value": "edge", "label": "Edges"}]},
        {"id": "sure", "type": "boolean", "text": "Seen before?"},
        {"id": "size", "type": "number", "text": "Size?", "min": 0, "max": 100},
        {"id": "why", "type": "text", "text": "Why?", "show_if": {"item": "score", "at_least": 1}},
        {"id": "marks", "type": "point", "text": "Where?", "max": 3, "show_if": {"item": "flaws", "answered": True}},
        {"id": "note", "type": "info", "text": "Take your time."},
        {"id": "end", "type": "text", "text": "Remarks?", "per": "study"},
    ]  # fmt: skip
    return {"id": task, "title": "Real or synthetic?", "items": items}


def study(kinds: Sequence[tuple[str, str]], primary: dict[str, Any] | None = None, **changes: Any) -> Study:
    """A study file in memory; `kinds` are (id, kind) of tasks."""
    data = {
        "format": "synthdiffusion-study-1", "id": "0badcafe", "title": "A made-up study", "description": "",
        "created_utc": "2026-01-01T00:00:00.000Z", "seed": 1, "software": "test", "key_sha256": "0" * 64,
        "readers_planned": [], "sessions": [{"id": "s1", "tasks": [t for t, _ in kinds]}], "randomisation": {},
        "tasks": [{"id": t, "kind": k, "form": form("choice" if k == "forced_choice" else t)} for t, k in kinds],
        "viewing": {"layout": "three_planes", "windows": []}, "primary": PRIMARY | (primary or {}), "units": [],
        "volumes": [], **copy.deepcopy(changes),
    }  # fmt: skip
    return Study(Path(), data, hashlib.sha256(json.dumps(data).encode()).hexdigest())


def merged(study_: Study, ratings: Sequence[Rating], **changes: Any) -> Merged:
    """As `merge` gives it."""
    readers = []
    for name in sorted({r.reader for r in ratings}):
        n = len({r.position for r in ratings if r.reader == name})
        readers.append(
            MergedReader(name, "", f"{name}.jsonl", n, "0" * 64, 1, n, n, 0, "2026-01-02T00:00:00.000Z",
                         "2026-01-02T01:00:00.000Z", ("test 1",), ())
        )  # fmt: skip
    arms = sorted({(r.arm, r.truth) for r in ratings if r.kind == "single" and r.arm})
    listed = tuple({"id": arm, "truth": "synthetic" if truth else "real"} for arm, truth in arms)
    return Merged(study_, tuple(ratings), readers=tuple(readers), arms=changes.pop("arms", listed), **changes)


def rating(reader: str, position: int, item: str, item_type: str, value: Any, **changes: Any) -> Rating:
    """An answer, with defaults for all that a test does not care about."""
    fields: dict[str, Any] = {
        "session": "s1", "sitting": 1, "task": "turing", "kind": "single", "unit": f"u{position}", "presentation": 1,
        "phase": "main", "arm": "real", "truth": 0, "pair": f"p{position}", "patient": f"p{position}",
        "volume_left": f"v{position}", "volume_right": "", "answered_utc": "2026-01-02T00:00:00.000Z",
        "active_s": 10.0, "first_touch_s": 1.0, "committed_s": 12.0,
    }  # fmt: skip
    return Rating(reader=reader, position=position, item=item, item_type=item_type, value=value, **fields | changes)


def simulated(
    ability: dict[str, float] | Sequence[float] = (1.0, 1.0, 1.0),
    *,
    cases: int = 20,
    arms: Sequence[str] = ("gen-a",),
    seed: int = 0,
    task: str = "turing",
    items: Sequence[str] = ("score",),
    repeats: int = 0,
    paired: bool = False,
) -> list[Rating]:
    """Readers who see each volume's evidence (normal, mean 0 or d') with noise of their own, and cut it into levels.

    Args:
        ability: d' of each reader.
        cases: of each arm, the real one included.
        items: questions that are answered.
        repeats: units that are read again.
        paired: synthetic volumes of all arms share the real ones' pairs.
    """
    rng = np.random.default_rng(seed)
    abilities = ability if isinstance(ability, dict) else {f"R{i + 1}": d for i, d in enumerate(ability)}
    listed = [(arm, i) for arm in ("real", *arms) for i in range(cases)]
    evidence = {key: rng.normal() * 0.6 for key in listed}
    ratings: list[Rating] = []
    for reader, d in abilities.items():
        order = [listed[i] for i in rng.permutation(len(listed))]
        shown = [(key, 1) for key in order] + [(key, 2) for key in order[:repeats]]
        for position, (key, times) in enumerate(shown):
            arm, i = key
            x = evidence[key] + rng.normal() * 0.8 + (d if arm != "real" else 0.0) - d / 2
            level = LEVELS[int(np.searchsorted((-1.0, -0.5, 0.0, 0.5, 1.0), x))]
            name = f"p{i}" if paired or arm == "real" else f"{arm}-{i}"
            place = {
                "task": task, "unit": f"u-{arm}-{i}", "arm": arm, "truth": int(arm != "real"), "pair": name,
                "patient": name, "volume_left": f"v-{arm}-{i}", "presentation": times,
                "active_s": float(np.exp(2.5 + 0.4 * rng.normal() - 0.005 * position)),
            }  # fmt: skip
            answers = {
                "score": ("confidence", level),
                "quality": ("scale", int(np.clip(round(2.5 - x / 2 + 0.5 * rng.normal()), 1, 4))),
                "organ": ("choice", "lung" if rng.random() < 0.7 else "bone"),
                "flaws": ("multiple_choice", ["noise"] if x > 0 else ["edge", "noise"]),
                "sure": ("boolean", bool(rng.random() < 0.5)),
                "size": ("number", round(float(10 + x), 2)),
                "why": ("text", "=grainy"),
                "marks": ("point", [{"volume": f"v-{arm}-{i}", "ras": [1.0, -2.5, 3.0], "slice": "axial"}]),
            }
            for item in items:
                if item != "why" or level >= 1:
                    ratings.append(rating(reader, position, item, *answers[item], **place))
    return ratings


def forced(ability: Sequence[float] = (0.8, 0.8, 0.8), *, units: int = 30, seed: int = 0) -> list[Rating]:
    """Forced choice of readers who are right with probability `ability`; sides at random."""
    rng = np.random.default_rng(seed)
    ratings = []
    for i, p in enumerate(ability):
        for position in range(units):
            side = int(rng.random() < 0.5)
            right = rng.random() < p
            value = "right" if (side == 1) == right else "left"
            place = {"task": "choice", "kind": "forced_choice", "unit": f"f{position}", "arm": "gen-a", "truth": side,
                     "volume_right": f"w{position}"}  # fmt: skip
            ratings.append(rating(f"R{i + 1}", 1000 + position, "side", "forced_choice", value, **place))
    return ratings


def van_dyke() -> list[Rating]:
    """The Van Dyke table: test 0 as the task "first" with the generator "gen-a", test 1 as "second" with "gen-b".

    The same 69 reals and 45 "masks" were read in both, so that the comparison is fully crossed.
    """
    with open(VAN_DYKE / "vandyke.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ratings = []
    for row in rows:
        first, truth, case = row["treatment"] == "0", int(row["truth"]), row["case"]
        arm = "real" if not truth else "gen-a" if first else "gen-b"
        volume = f"v{case}" if not truth else f"{arm}-{case}"
        place = {
            "task": "first" if first else "second", "unit": f"{row['treatment']}-{case}", "arm": arm, "truth": truth,
            "pair": case, "patient": case, "volume_left": volume,
        }  # fmt: skip
        position = int(case) + (0 if first else 1000)
        ratings.append(rating(f"R{row['reader']}", position, "rating", "scale", int(float(row["rating"])), **place))
    return ratings


def van_dyke_study(**primary: Any) -> Study:
    """The study of `van_dyke`."""
    scale = {"id": "rating", "type": "scale", "text": "Rating", "options": [{"value": v, "label": f"{v}"} for v in range(1, 6)]}  # fmt: skip  # noqa: E501
    tasks = [{"id": t, "kind": "single", "form": {"id": t, "title": t, "items": [scale]}} for t in ("first", "second")]
    stated = {"measure": "mrmc_auc_difference", "task": "first", "item": "rating", "arm": "gen-a", "arm2": "gen-b"}
    stated |= {"null": 0.0}
    return study([], stated | primary, tasks=tasks)
