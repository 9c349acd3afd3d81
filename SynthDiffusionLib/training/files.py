"""Checkpoints that a kill cannot damage."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def save_state(path: Path, state: dict) -> None:
    """Writes a checkpoint beside its final name and renames it, so that the last complete one always stays."""
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    os.replace(temporary, path)
