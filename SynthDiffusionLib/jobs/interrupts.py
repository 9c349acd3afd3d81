"""Being told to end: by a signal, and by a parent process that closes our standard input or is gone."""

from __future__ import annotations

import atexit
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from SynthDiffusionLib.errors import BadInput, Cancelled

POLL_SECONDS = 0.1

_ending = threading.Event()
_interrupts: list[int] = []  # numbers of the signals that came in the last block of `ended_like_interrupted`


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Lets SIGTERM (`kill`, a batch system) and SIGHUP (a closed terminal) raise KeyboardInterrupt in the block, as
    Ctrl+C does, so that it cleans up and says that it was cancelled. `interrupted` tells whether any of them came.

    Signals that the parent process has told us to ignore (`nohup`) stay ignored. Only the main thread can set
    handlers; elsewhere nothing is changed.
    """
    _interrupts.clear()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        ordinary = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}
        for name, handler in ordinary.items():
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is handler:
                previous[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl+C and the signals of `ended_like_interrupted` do nothing in the block, which takes a moment only."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None:
                previous[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if handler is not None:  # one that was not set from Python
                signal.signal(number, handler)


def interrupted() -> bool:
    """Whether a signal asked the last block of `ended_like_interrupted` to end. Where it came while a module was
    loaded, an ImportError comes out of the block, or what somebody made of it, in place of KeyboardInterrupt."""
    return bool(_interrupts)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.append(number)
    signal.default_int_handler(number, frame)


def end_at_once_when_interrupted() -> None:
    """From now on, Ctrl+C ends this process with one line and the exit code 130. For the time after the work, in which
    nobody catches KeyboardInterrupt any more; what was printed must have been flushed.

    While the interpreter itself is taken down, Ctrl+C does nothing: the exit code stands by then, and no Python code
    can run. Where interrupts are ignored, or have a handler of somebody else, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(number: int, frame: object) -> None:
    """Handler of a signal. Writes past `sys.stderr`, which may be in use at this moment."""
    with suppress(OSError):
        os.write(2, f"synthdiffusion: error: {Cancelled().one_line()}\n".encode())
    os._exit(Cancelled.exit_code)


def end_with_stdin() -> None:
    """From now on, this process and its children end at once when standard input is closed, whatever they are doing.

    The parent holds the other end of the pipe, so this also happens when the parent crashes. Nothing is cleaned up and
    no event is written; files under their final names are whole, since they are written beside and renamed. The exit
    code is 130.

    Raises:
        BadInput: standard input is not a pipe.
    """
    import psutil  # now: an import at the end could have to wait for one in the main thread

    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):  # None, closed, or replaced by something that is no file
        raise _no_pipe("closed") from None
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        raise _no_pipe("a terminal" if os.isatty(descriptor) else "no pipe")
    process = psutil.Process()

    def watch() -> None:
        try:
            wait_until_closed(descriptor)
            _ending.set()
            for _ in range(3):  # a child may be on its way while the first are listed
                children = process.children(recursive=True)
                for child in children:
                    with suppress(psutil.Error):
                        child.kill()
                if not children:
                    break
        finally:
            os._exit(Cancelled.exit_code)

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def wait_if_ending() -> None:
    """Does not come back if `end_with_stdin` is ending this process: what failed then, failed because its child process
    was ended, and is nothing to report."""
    if _ending.is_set():
        time.sleep(60.0)


def wait_until_closed(descriptor: int) -> None:
    """Returns when the other end of a pipe is closed; what comes through it is thrown away.

    On Windows the pipe is polled. A read that waits there would hold up everything else that looks at standard input,
    such as the start-up code of numpy's libraries: the import of numpy would hang (numpy issue 24290).
    """
    try:
        if os.name != "nt":
            while os.read(descriptor, 4096):
                pass
            return
        import _winapi
        import msvcrt

        handle = msvcrt.get_osfhandle(descriptor)
        while True:
            waiting, _ = _winapi.PeekNamedPipe(handle, 0)
            if waiting:
                os.read(descriptor, waiting)
            time.sleep(POLL_SECONDS)
    except OSError:  # on Windows, how a closed pipe shows itself
        return


def _no_pipe(what: str) -> BadInput:
    return BadInput(
        f"--end-with-stdin was given, but standard input is {what}",
        "Start this process with a pipe for its standard input, or leave the option out.",
    )
