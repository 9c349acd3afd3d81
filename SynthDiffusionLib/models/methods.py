"""What each method is best for (Resources/Methods/methods.json), for lists of models and the panel to recommend by.

The file is written by Testing/Benchmarks/compare_methods.py, from the figures of Docs/COMPARISON.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.resources import resource_path

FORMAT = "synthdiffusion-methods-1"
# What a user may want most, and how it is said.
NEEDS = {
    "follows_drawing": "follows a drawing best",
    "looks_real": "looks most like real images",
    "fastest": "is the fastest",
    "least_memory": "needs the least memory",
}


@dataclass(frozen=True)
class MethodInfo:
    """One method.

    Args:
        backend: as in a `model.json`.
        name: for readers.
        title, authors, url: of its paper.
        needs_drawing: whether it is steered by a drawing; False where it is asked for characteristics.
        in_short: what it is best for in a few words, for tables.
        best_for: the same in a sentence or two.
        wins: those of `NEEDS` in which it is the best of those compared.
        figures: what `wins` rests on, or None where nothing was measured.
    """

    backend: str
    name: str
    title: str
    authors: str
    url: str
    needs_drawing: bool
    in_short: str
    best_for: str
    wins: tuple[str, ...]
    figures: Mapping[str, Any] | None


def load_methods(path: Path | None = None) -> dict[str, MethodInfo]:
    """All methods, by backend.

    Args:
        path: another file than the shipped one.

    Raises:
        ModelError: the file is missing or damaged.
    """
    return dict(_shipped()) if path is None else _read(Path(path))


def method_info(backend: str) -> MethodInfo | None:
    """What is known of the method of a backend; None of one that the file does not name."""
    return _shipped().get(backend)


def best_for(backend: str) -> str:
    """What the method of a backend is best for; empty for one that the file does not name."""
    info = method_info(backend)
    return info.best_for if info else ""


def recommended(backends: Sequence[str], need: str, methods: Mapping[str, MethodInfo] | None = None) -> str | None:
    """The backend, of those that are there, whose method is the best for a need.

    Args:
        backends: of the models that can be had.
        need: one of `NEEDS`.
        methods: of `load_methods`; the shipped ones when None.

    Returns:
        None where the best one is not among them, or nothing was measured.
    """
    if need not in NEEDS:
        raise ValueError(f"'{need}' is none of {', '.join(NEEDS)}")
    known = _shipped() if methods is None else methods
    return next((b for b in backends if b in known and need in known[b].wins), None)


@lru_cache(maxsize=1)
def _shipped() -> dict[str, MethodInfo]:
    return _read(resource_path("Methods", "methods.json"))


def _read(path: Path) -> dict[str, MethodInfo]:
    from SynthDiffusionLib.schemas import first_problem, read_json

    hint = "Install SynthDiffusion again."
    try:
        content = read_json(path)
    except OSError as error:
        raise ModelError(f"Cannot read '{path}'", hint) from error
    except ValueError as error:
        raise ModelError(f"'{path}' is damaged: {error}", hint) from error
    problem = first_problem(content, "methods")
    if problem:
        raise ModelError(f"'{path}' is damaged: {problem}", hint)
    return {
        backend: MethodInfo(
            backend,
            entry["name"],
            entry["paper"]["title"],
            entry["paper"]["authors"],
            entry["paper"]["url"],
            entry["input"] == "drawing",
            entry["in_short"],
            entry["best_for"],
            tuple(entry["wins"]),
            entry["figures"],
        )
        for backend, entry in content["methods"].items()
    }
