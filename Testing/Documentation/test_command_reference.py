"""The page of commands holds all that the program says of itself, and nothing that it does not know."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from SynthDiffusionLib.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Docs" / "Site"))

import command_reference  # noqa: E402

PARSER = build_parser()
COMMANDS = {parser.prog: parser for parser in command_reference.commands(PARSER)}
PAGE = command_reference.reference(PARSER, "1.2.3")


def sections() -> dict[str, str]:
    """The text of each command on the page, by its anchor."""
    parts = re.split(r"^\((synthdiffusion[a-z-]*)\)=\n(?=#)", PAGE, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def as_read(markdown: str) -> str:
    """A section as people read it: without markup, in one line."""
    text = re.sub(r"^\([\w-]+\)=$", "", markdown, flags=re.M)
    text = re.sub(r"\[([^\]\[]+)\]\(#[^)]*\)", r"\1", text)
    text = re.sub(r"^: ", "", text, flags=re.M)
    return " ".join(re.sub(r"\\([\\`*_{}\[\]<>#|~$])", r"\1", text).split())


def squeezed(text: str) -> str:
    """Letters and signs alone: argparse breaks lines, also within long words."""
    return re.sub(r"[\s`*]", "", text)


def test_there_is_a_section_for_every_command():
    assert set(sections()) == {prog.replace(" ", "-") for prog in COMMANDS}
    assert len(COMMANDS) > 30 and "synthdiffusion evaluate utility gap" in COMMANDS


@pytest.mark.parametrize("prog", COMMANDS)
def test_what_help_prints_is_on_the_page(prog, monkeypatch):
    """Usage, description, every option with its explanation, examples: from argparse's own text."""
    monkeypatch.setenv("COLUMNS", "10000")  # one line for each option
    section = sections()[prog.replace(" ", "-")]
    seen = squeezed(as_read(section))
    printed = COMMANDS[prog].format_help().removeprefix("usage: ").splitlines()
    assert len(printed) > 4
    for line in printed:
        if line.endswith(":") and not line.startswith(" "):  # title of a group
            assert squeezed(line[:-1]).lower() in seen.lower()
            continue
        for piece in re.split(r"\s{2,}", line.strip()):
            if piece != "COMMAND" and piece != "ACTION":  # stands in the usage
                assert squeezed(piece) in seen, piece


@pytest.mark.parametrize("prog", COMMANDS)
def test_the_page_names_no_option_that_the_command_does_not_have(prog):
    section = sections()[prog.replace(" ", "-")]
    known = {option for action in COMMANDS[prog]._actions for option in action.option_strings}
    anchors = re.findall(rf"^\({re.escape(prog.replace(' ', '-'))}(--?[\w-]+)\)=$", section, re.M)
    assert set(anchors) <= known and len(anchors) == len(set(anchors))
    long = {option for option in known if option.startswith("--")}
    shown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(re.findall(r"^`(-[^`]*)`$", section, re.M))))
    assert shown == long


def test_the_program_says_the_same_in_a_process_of_its_own():
    """The whole way, once: `synthdiffusion generate --help`."""
    command = [sys.executable, "-m", "SynthDiffusionLib", "generate", "--help"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    seen = as_read(sections()["synthdiffusion-generate"])
    options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", printed, re.M))
    assert len(options) > 20
    assert [option for option in sorted(options) if option not in seen] == []


def test_markup_in_a_help_text_is_shown_as_it_is():
    text = "a*b* <c> `d*` [e](f) g_h | i%"
    shown = command_reference.plain(text)
    assert "`d*`" in shown and "\\<c\\>" in shown and "\\[e\\]" in shown and "\\|" in shown
    assert html.unescape(as_read(shown)) == text


def test_a_default_is_told_once():
    import argparse

    parser = argparse.ArgumentParser(prog="synthdiffusion")
    parser.add_argument("--a", default=3, help="number")
    parser.add_argument("--b", default=3, help="number (default 3)")
    parser.add_argument("--c", default=None, help="number, %(default)s")
    parser.add_argument("--d", required=True, help=argparse.SUPPRESS)
    page = command_reference.reference(parser, "1")
    assert page.count("(default: 3)") == 1 and page.count("(default 3)") == 1
    assert "number, None" in page and "`--d" not in page
