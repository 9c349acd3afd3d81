"""The page of all commands, from the parser itself: what it prints for --help, with a heading for each command and an
anchor for each option. Nothing on it is written by hand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

# Characters that Markdown may take for markup. Help texts are plain text.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$])")

WIDTH = 84  # characters of a line of usage

INTRODUCTION = """# Commands

This page is written by the program itself: it is what `--help` says of every command of version {version}. Words in
capitals stand for what you give. What is in brackets in the first lines may be left out.
"""


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all those below it, in the order of the help."""
    yield parser
    for sub in _subcommands(parser).values():
        yield from commands(sub)


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def plain(text: str) -> str:
    """A help text as Markdown that shows just it. What stands between backticks stays code."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(p if i % 2 else _MARKUP.sub(r"\\\1", p) for i, p in enumerate(pieces))


def reference(parser: argparse.ArgumentParser, version: str) -> str:
    """The page as Markdown.

    Args:
        parser: of all commands, as `SynthDiffusionLib.cli.build_parser` makes it.
        version: of the program.
    """
    parts = [INTRODUCTION.format(version=version), _overview(parser)]
    for command in commands(parser):
        level = min(2 + command.prog.count(" "), 5) if command is not parser else 2
        parts.append(_section(command, "#" * level))
    return "\n".join(parts)


def anchor(prog: str, option: str = "") -> str:
    """The anchor of a command, or of one of its options: "synthdiffusion-generate--steps"."""
    return prog.replace(" ", "-") + option


def _overview(parser: argparse.ArgumentParser) -> str:
    rows = []
    for name, sub in _subcommands(parser).items():
        below = ", ".join(f"[{n}](#{anchor(s.prog)})" for n, s in _subcommands(sub).items())
        rows.append(f"| [{name}](#{anchor(sub.prog)}) | {plain(_summary(parser, name))} | {below} |")
    return "\n".join(["| command | what it does | its parts |", "|---|---|---|", *rows, ""])


def _summary(parser: argparse.ArgumentParser, name: str) -> str:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return next((a.help or "" for a in action._choices_actions if a.dest == name), "")
    return ""


def _section(command: argparse.ArgumentParser, heading: str) -> str:
    parts = [f"({anchor(command.prog)})=", f"{heading} {command.prog}", ""]
    if command.description:
        parts += [plain(paragraph) + "\n" for paragraph in command.description.split("\n\n")]
    parts += ["```text", _usage(command), "```", ""]
    parts += [part for group in command._action_groups for part in _group(command, group)]
    if command.epilog:
        parts += ["```text", command.epilog.strip("\n"), "```", ""]
    return "\n".join(parts)


def _usage(command: argparse.ArgumentParser) -> str:
    """The first lines of the help, as wide as the page whatever the terminal is."""
    formatter = command.formatter_class(command.prog, width=WIDTH)
    formatter.add_usage(command.usage, command._actions, command._mutually_exclusive_groups, prefix="")
    return formatter.format_help().strip()


def _group(command: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> Iterator[str]:
    actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS]
    if actions:
        yield f"**{(group.title or '').capitalize()}**\n"
        if group.description:
            yield plain(group.description) + "\n"
    formatter = command._get_formatter()  # fills in %(default)s and the like, as for --help
    for action in actions:
        yield from _argument(command, action, formatter)


def _argument(
    command: argparse.ArgumentParser, action: argparse.Action, formatter: argparse.HelpFormatter
) -> Iterator[str]:
    if isinstance(action, argparse._SubParsersAction):
        for choice in action._choices_actions:
            yield f"[{choice.dest}](#{anchor(action.choices[choice.dest].prog)})"
            yield f": {plain(formatter._expand_help(choice)) if choice.help else ''}\n"
        return
    if action.option_strings:
        yield f"({anchor(command.prog, action.option_strings[-1])})="
    yield f"`{formatter._format_action_invocation(action)}`"
    text = plain(formatter._expand_help(action)) if action.help else ""
    needed = " (must be given)" if action.required and action.option_strings else ""
    yield f": {text}{needed}{_default(action)}\n"


def _default(action: argparse.Action) -> str:
    """The default, where the help does not say it itself."""
    value = action.default
    said = "default" in (action.help or "")
    if said or value is None or value is False or value == argparse.SUPPRESS or value in ([], ()):
        return ""
    return f" (default: {plain(str(value))})"
