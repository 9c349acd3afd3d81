"""Checkpoints that a kill cannot damage."""

from __future__ import annotations

from pathlib import Path

import torch

from SynthDiffusionLib.volumes.atomic import atomic_path


def save_state(path: Path, state: dict) -> None:
    """Writes a checkpoint beside its final name and renames it, so that the last complete one always stays."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
