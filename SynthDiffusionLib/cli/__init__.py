"""The command line. Every command is a module of this package with `add_parser` and `run`; nothing heavy is imported
until a command runs.

This file itself imports nothing that takes time, so that Ctrl+C finds `main` at work from the first moment.
"""

from __future__ import annotations

import atexit
import os
import sys

_reported: list[int] = []  # exit codes

TYPE_CHECKING = False  # as `typing` has it, which takes time to import
if TYPE_CHECKING:
    import argparse

    from SynthDiffusionLib.errors import SynthDiffusionError


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns the exit code.

    Args:
        arguments: of the command line. None: those of this process, which ends afterwards; Ctrl+C then still ends it
            with one line and no traceback.
    """
    try:
        if arguments is None:
            atexit.register(_end_as_cancelled)  # first, so that it is called last
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            if arguments is None:
                from SynthDiffusionLib.jobs.interrupts import end_at_once_when_interrupted

                end_at_once_when_interrupted()
    except KeyboardInterrupt:  # another one, while the first or the result was being told of
        return _report(KeyboardInterrupt())


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from SynthDiffusionLib.cli import parser

    return parser.build_parser()


def _run(arguments: list[str]) -> int:
    """Runs a command and tells of its errors."""
    debug = "--debug" in arguments
    try:
        from SynthDiffusionLib.jobs.interrupts import ended_like_interrupted

        with ended_like_interrupted():
            args = build_parser().parse_args([a for a in arguments if a != "--debug"])
            code = args.run(args)
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a reader that has gone is no surprise
            return code
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is left to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _report(KeyboardInterrupt()) if _was_interrupted() else 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            import traceback

            traceback.print_exception(error)
        return _report(error)


def _report(error: BaseException) -> int:
    """Prints the line of an error; returns its exit code."""
    known = _known(error)
    if known.exit_code != 130 and _was_interrupted():  # while a module was loaded: see `interrupted`
        known = _known(KeyboardInterrupt())
    print(f"synthdiffusion: error: {known.one_line()}", file=sys.stderr)
    _reported.append(known.exit_code)
    return known.exit_code


def _was_interrupted() -> bool:
    from SynthDiffusionLib.jobs.interrupts import interrupted

    return interrupted()


def _end_as_cancelled() -> None:
    """Keeps the exit code of a cancelled command. Where Ctrl+C has come while Python ran code from a text, as it does
    to make a dataclass, it would end itself with the signal, although the exception was caught."""
    if _reported and _reported[-1] == 130:
        import contextlib

        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # none, gone, or closed
                stream.flush()
        os._exit(130)


def _known(error: BaseException) -> SynthDiffusionError:
    """The error to show for any exception."""
    from SynthDiffusionLib.errors import Cancelled, OutOfMemory, RunFailed, SynthDiffusionError

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
