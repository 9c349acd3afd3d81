"""The error of the scene layer."""

from __future__ import annotations


class SceneError(Exception):
    """Something that the user can mend, or a failure of the scene's reader or writer.

    Args:
        message: what is wrong, naming the file or node.
        hint: how to mend it.
        kind: "bad_input" (the request or a file that it names) or "internal" (reading or writing failed).
    """

    def __init__(self, message: str, hint: str = "", kind: str = "bad_input") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.kind = kind

    @property
    def exitCode(self) -> int:
        """2 for bad input, 1 for a failure while running, as on the engine's command line."""
        return 2 if self.kind == "bad_input" else 1
