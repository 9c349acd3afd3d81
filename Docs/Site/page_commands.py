"""Commands in the code blocks of Markdown pages, held against the program's own parser: a command or an option that it
does not have is a fault of the page.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_links import ROOT

PROGRAM = "synthdiffusion"
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_START = re.compile(rf"(?:\$ )?{PROGRAM}(?:\s|$)")
_END = re.compile(r"[|;&>]+|#.*|\.\.\.")  # of a command within a line


class Command(NamedTuple):
    """A command of a page as its words after the program's name, and its line, from 1."""

    words: tuple[str, ...]
    line: int


def commands(text: str) -> Iterator[Command]:
    """The lines of code blocks, fenced and indented ones, that begin with the program's name, with the lines that
    continue them."""
    lines = iter(enumerate(_code(text), start=1))
    for number, line in lines:
        whole = line.strip()
        if not _START.match(whole):
            continue
        while whole.endswith("\\"):
            whole = whole[:-1] + next(lines, (0, ""))[1].strip()
        yield Command(tuple(_words(whole.removeprefix("$ "))[1:]), number)


def faults(page: Path, parser: argparse.ArgumentParser, root: Path = ROOT) -> list[str]:
    """The commands of a page that the program does not have, as one line each.

    Args:
        page: a Markdown file below `root`.
        parser: of all commands.
        root: of the repository.
    """
    found = []
    for command in commands(page.read_text(encoding="utf-8")):
        if problem := _problem(command.words, parser):
            found.append(f"{page.relative_to(root).as_posix()}:{command.line}: {problem}")
    return found


def _code(text: str) -> list[str]:
    """The lines of a page with all that is not in a code block blanked."""
    found, fence, indented, before = [], "", False, ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if fence:
            closes = mark and mark.group(1).startswith(fence) and not line.strip().strip(fence[0])
            found.append("" if closes else line)
            fence = "" if closes else fence
        elif mark:
            fence = mark.group(1)
            found.append("")
        else:
            # An indented block begins after an empty line; in a list it lies deeper, and is none by its indent alone.
            indented = line.startswith("    ") and (indented or not before.strip()) or (indented and not line.strip())
            found.append(line if indented else "")
        before = line
    return found


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError:  # an apostrophe of a remark
        words = line.split()
    end = next((i for i, word in enumerate(words) if _END.fullmatch(word) or word.startswith("#")), len(words))
    return words[:end]


def _problem(words: tuple[str, ...], parser: argparse.ArgumentParser) -> str:
    for word in words:
        word = word.strip("[]")
        below = next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        if word.startswith("--"):
            option = re.split(r"[=\]]", word)[0]
            if option not in parser._option_string_actions:
                return f"{parser.prog} has no option {option}"
        elif below is not None and not word.startswith("-"):
            if word in below:
                parser = below[word]
            elif re.fullmatch(r"[a-z][a-z-]*", word):
                return f"{parser.prog} has no command {word}"
            else:
                return ""  # a word that stands for several
    return ""
