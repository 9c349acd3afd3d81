"""The parser of all commands."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any

from SynthDiffusionLib import __version__

DESCRIPTION = """Synthetic CT and MR volumes from segmentations, with diffusion models on your own computer.
For research only; not for diagnosis."""

EPILOG = """Start with: synthdiffusion demo
Exit codes: 0 done, 1 failed while running, 2 bad input or usage, 130 cancelled."""


# Numbers with a comma, which argparse takes for an option where the first one is negative.
_NEGATIVE_NUMBERS = re.compile(r"-[\d.][\d.eE+-]*(,[\d.eE+-]*)+")


def numbers_joined(arguments: Sequence[str]) -> list[str]:
    """Arguments in which `--range -1000,400` is `--range=-1000,400`; what follows a lone `--` is left as it is."""
    joined: list[str] = []
    for word in arguments:
        before = joined[-1] if joined else ""
        takes = before.startswith("--") and before != "--" and "=" not in before and "--" not in joined
        if takes and _NEGATIVE_NUMBERS.fullmatch(word):
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined


class _Parser(argparse.ArgumentParser):
    """argparse, with errors on one line, the nearest match named, and options that take negative numbers."""

    _words: Sequence[str] = ()  # that are being parsed

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> Any:
        self._words = numbers_joined(sys.argv[1:] if args is None else args)
        return super().parse_args(self._words, namespace)

    def error(self, message: str) -> None:
        wrong = re.search(r"unrecognized arguments: (--?[\w-]+)", message)
        invalid = re.search(r"invalid choice: '([^']+)' \(choose from (.+)\)", message)
        hint = f"See {self.prog} --help."
        if wrong:
            hint = _unknown_option(self, self._words, wrong.group(1))
        elif invalid:
            near = difflib.get_close_matches(invalid.group(1), re.findall(r"[\w-]+", invalid.group(2)), n=1)
            hint = f"Did you mean '{near[0]}'? {hint}" if near else hint
        self.exit(2, f"synthdiffusion: error: {' '.join(message.split())}. {hint}\n")


def _unknown_option(parser: argparse.ArgumentParser, words: Sequence[str], wrong: str) -> str:
    """What to do about an option that the command of these words does not have."""
    used, siblings = parser, {}
    for word in words:
        commands = _commands(used)
        if word in commands:
            used, siblings = commands[word], commands
    name = used.prog.rpartition(" ")[2]
    see = f"See {used.prog} --help."
    if wrong in used._option_string_actions:
        return f"Give it after the command: {used.prog} {wrong}. {see}"
    having = [other for other, p in siblings.items() if wrong in p._option_string_actions]
    if having:
        told = " and ".join([", ".join(having[:-1]), having[-1]]) + " have" if having[1:] else f"{having[0]} has"
        return f"{name} has no such option; {told} it. {see}"
    near = difflib.get_close_matches(wrong, [*_option_strings(used), *parser._option_string_actions], n=1)
    return f"Did you mean {near[0]}? {see}" if near and near[0] != wrong else see


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def _option_strings(parser: argparse.ArgumentParser) -> list[str]:
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
    return found + [name for sub in _commands(parser).values() for name in _option_strings(sub)]


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from SynthDiffusionLib.cli import (
        batch_command,
        demo_command,
        evaluate_command,
        export_command,
        generate_command,
        models_command,
        plan_command,
        prepare_command,
        study_command,
        train_command,
    )

    parser = _Parser(
        prog="synthdiffusion",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"synthdiffusion {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error; may stand anywhere")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for command in (
        demo_command,
        models_command,
        plan_command,
        prepare_command,
        generate_command,
        batch_command,
        train_command,
        evaluate_command,
        study_command,
        export_command,
    ):
        command.add_parser(subparsers)
    return parser
