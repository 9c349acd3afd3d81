"""Names that a model and the files of its package may have, on every system."""

from __future__ import annotations

import re

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. +-]*")
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def id_problem(model_id: str) -> str | None:
    """Why a text cannot be the ID of a model, or None."""
    if not _ID.fullmatch(model_id) or len(model_id) > 64:
        return "it must be lower-case letters and digits in groups joined by hyphens, 64 at most"
    if _WINDOWS_DEVICES.fullmatch(model_id):
        return "Windows reserves the name"
    return None


def unsafe_name(name: str) -> str | None:
    """Why a file name of a package is refused on every system, or None.

    Plain names only: no folder parts in either notation, no drive, no stream (`a:b`), nothing hidden, nothing that
    Windows takes for a device or strips (trailing blanks and dots).
    """
    if name in (".", "..") or "/" in name or "\\" in name or ":" in name or name.startswith("~"):
        return "it names a path outside its folder, not a file beside the model.json"
    if not _PLAIN_NAME.fullmatch(name) or name != name.rstrip(". ") or len(name) > 128:
        return "it is not a plain file name"
    if _WINDOWS_DEVICES.fullmatch(name):
        return "Windows reserves the name"
    return None
