"""Paths as arguments of commands."""

from __future__ import annotations

import argparse
from pathlib import Path


def path_arg(text: str) -> Path:
    """For `type=` of argparse: an empty text, such as a shell variable that is not set, is not the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)
