"""Requests, events, and the one function that carries requests out.

`run` and `RunResult` are loaded when first used: they need torch.
"""

from __future__ import annotations

from typing import Any

from SynthDiffusionLib.jobs.request import GenerateRequest

__all__ = ["GenerateRequest", "RunResult", "run"]


def __getattr__(name: str) -> Any:
    if name in ("run", "RunResult"):
        from SynthDiffusionLib.jobs import runner

        return getattr(runner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
