"""The command line. Every command is a module of this package with `add_parser` and `run`; nothing heavy is imported
until a command runs."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import traceback

from SynthDiffusionLib import __version__
from SynthDiffusionLib.errors import Cancelled, OutOfMemory, RunFailed, SynthDiffusionError
from SynthDiffusionLib.jobs.interrupts import ended_like_interrupted

DESCRIPTION = """Synthetic CT and MR volumes from segmentations, with diffusion models on your own computer.
For research only; not for diagnosis."""

EPILOG = """Start with: synthdiffusion demo
Exit codes: 0 done, 1 failed while running, 2 bad input or usage, 130 cancelled."""


class _Parser(argparse.ArgumentParser):
    """argparse, with errors on one line and the nearest match named."""

    def error(self, message: str) -> None:
        wrong = re.search(r"unrecognized arguments: (--?[\w-]+)", message)
        invalid = re.search(r"invalid choice: '([^']+)' \(choose from (.+)\)", message)
        hint = f"See {self.prog} --help."
        if wrong:
            near = difflib.get_close_matches(wrong.group(1), _option_strings(self), n=1)
            hint = f"Did you mean {near[0]}? {hint}" if near else hint
        elif invalid:
            near = difflib.get_close_matches(invalid.group(1), re.findall(r"[\w-]+", invalid.group(2)), n=1)
            hint = f"Did you mean '{near[0]}'? {hint}" if near else hint
        self.exit(2, f"synthdiffusion: error: {' '.join(message.split())}. {hint}\n")


def _option_strings(parser: argparse.ArgumentParser) -> list[str]:
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                found += _option_strings(sub)
    return found


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from SynthDiffusionLib.cli import (
        demo_command,
        evaluate_command,
        export_command,
        generate_command,
        models_command,
        plan_command,
        prepare_command,
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
        train_command,
        evaluate_command,
        export_command,
    ):
        command.add_parser(subparsers)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        with ended_like_interrupted():
            args = build_parser().parse_args([a for a in arguments if a != "--debug"])
            return args.run(args)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is left to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exception(error)
        known = _known(error)
        print(f"synthdiffusion: error: {known.one_line()}", file=sys.stderr)
        return known.exit_code


def _known(error: BaseException) -> SynthDiffusionError:
    """The error to show for any exception."""
    if isinstance(error, SynthDiffusionError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Cancelled()
    if isinstance(error, MemoryError):
        return OutOfMemory("The machine ran out of memory", "Close other programs, or use --crop.")
    if isinstance(error, OSError):
        return RunFailed(f"{type(error).__name__}: {error}", "Check the path and the disk; --debug shows more.")
    return RunFailed(
        f"{type(error).__name__}: {error}",
        "This is a fault of SynthDiffusion; please report it with the output of --debug.",
    )
