"""Errors that a user can act on.

Every error carries a one-line message that names the cause and a hint that names the mend. The command line prints
both on one line and exits with `exit_code`; a job writes them as its `error` event.
"""

from __future__ import annotations

import unicodedata

_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # Unicode Standard Annex 9


def shortened(value: object, most: int = 120) -> str:
    """A value from outside as a message shows it: its middle left out where it is long, what does not print escaped.

    Control characters could drive a terminal, and right-to-left marks turn the rest of a line around.

    Args:
        value: text, or anything that has one.
        most: characters of the result, about; escapes count as several.
    """
    if isinstance(value, int) and value.bit_length() > 1000:  # Python refuses to spell the largest ones
        return "a number with hundreds of digits"
    text = value if isinstance(value, str) else str(value)
    if len(text) > most:
        text = f"{text[: most * 2 // 3]}...{text[len(text) - most // 3 + 3 :]}"
    return escaped(text)


def escaped(text: str) -> str:
    """Text in which everything that does not print is spelled as in Python: \\n, \\x00, \\u202e, \\ud800."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def drives_a_terminal(text: str) -> str | None:
    """The first character of a text that could do more in a terminal than be shown, spelled as in Python: control
    characters, line ends, and marks that turn the direction of a line. None if there is none."""
    for c in text:
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in _TURNING:
            return escaped(c)
    return None


class SynthDiffusionError(Exception):
    """Base of all errors that are reported without a traceback.

    Args:
        message: what is wrong, naming the file or value.
        hint: how to mend it.
    """

    kind = "internal"
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def one_line(self) -> str:
        """Message and hint as a single line."""
        text = self.message if not self.hint else f"{self.message.rstrip('.')}. {self.hint}"
        return escaped(" ".join(text.split()))


class BadInput(SynthDiffusionError):
    """The request, or a file that it names, cannot be used."""

    kind = "bad_input"
    exit_code = 2


class ModelError(SynthDiffusionError):
    """A model package is missing, damaged, or cannot do what is asked."""

    kind = "model"
    exit_code = 2


class MissingExtra(SynthDiffusionError):
    """An optional package is needed for what is asked."""

    kind = "bad_input"
    exit_code = 2

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs packages that are not installed",
            f'Install them with: pip install "SynthDiffusion[{extra}]" (in a clone: pip install ".[{extra}]").',
        )


class RunFailed(SynthDiffusionError):
    """Something failed while a valid request was being carried out (disk full, child process failed)."""

    kind = "internal"
    exit_code = 1


class OutOfMemory(SynthDiffusionError):
    """The device or the machine has too little memory for the request."""

    kind = "out_of_memory"
    exit_code = 1


class TooLarge(OutOfMemory):
    """What is asked for does not fit into the memory that may be used, as can be said before anything is computed."""

    exit_code = 2


class Cancelled(SynthDiffusionError):
    """The user stopped the run."""

    kind = "cancelled"
    exit_code = 130

    def __init__(self) -> None:
        super().__init__("Cancelled")
