"""`python -m SynthDiffusionLib.jobs.worker JOB_DIR`: one job in a process of its own.

JOB_DIR holds `request.json`; relative paths in it start there. Every event is one JSON object a line on standard output
and in `events.jsonl`. A file named `cancel` in JOB_DIR ends the job; the worker removes it when it has obeyed. With
`--end-with-stdin` the worker ends when its standard input is closed, at once and without an event. The folder of a
killed or cancelled worker can be run again as it is: temporary files lie in it too, in `temporary`.
"""

from __future__ import annotations

import _thread
import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from SynthDiffusionLib.errors import BadInput, Cancelled, SynthDiffusionError
from SynthDiffusionLib.jobs.events import OnEvent, event_file, json_lines
from SynthDiffusionLib.jobs.interrupts import end_with_stdin, ended_like_interrupted, wait_if_ending
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.memory.heap import keep_heap_small

CANCEL_FILE = "cancel"
TEMPORARY_FOLDER = "temporary"
POLL_SECONDS = 0.2
MOST_PREVIEWS = 100


def read_request(job_dir: Path) -> GenerateRequest:
    """`request.json` of a job folder, its paths made absolute.

    Raises:
        BadInput: no such file, not JSON, or not a request.
    """
    path = Path(job_dir) / "request.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"Cannot read '{path}'", "Give the folder of a job.") from error
    except ValueError as error:
        raise BadInput(f"'{path}' is not valid JSON: {error}", "Write the job again.") from error
    if not isinstance(content, dict):
        raise BadInput(f"'{path}' is not a request", "Write the job again.")
    request = GenerateRequest.from_json(content)
    absolute = {
        name: Path(job_dir) / getattr(request, name)
        for name in ("segmentation", "out", "image")
        if getattr(request, name) is not None
    }
    return replace(request, **absolute)


def report(error: BaseException, on_event: OnEvent) -> int:
    """Writes the `error` event of an exception and returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        error = Cancelled()
    if isinstance(error, SynthDiffusionError):
        on_event({"event": "error", "kind": error.kind, "message": error.message, "hint": error.hint})
        return error.exit_code
    if isinstance(error, MemoryError):
        hint = "Close other programs, or use --crop."
        on_event({"event": "error", "kind": "out_of_memory", "message": "The machine ran out of memory", "hint": hint})
        return 1
    on_event(
        {
            "event": "error",
            "kind": "internal",
            "message": f"{type(error).__name__}: {error}",
            "hint": "This is a fault of SynthDiffusion: please report it with the job's log.",
        }
    )
    traceback.print_exception(error)
    return 1


@contextmanager
def interrupted_by(cancel: Path) -> Iterator[None]:
    """Raises KeyboardInterrupt in the block when the file appears: a denoising step on a large grid takes longer than
    the user should wait, and so does the import of torch.
    """
    # Where the parent ignores interrupts (a job in the background of a shell), so would this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            if cancel.exists():
                _thread.interrupt_main()
                return

    threading.Thread(target=watch, name="cancel", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def temporary_files_in(job_dir: Path) -> Iterator[None]:
    """Temporary files of this process and its children lie in the job's folder: a process that is ended at once cannot
    remove them, and they may hold a patient's image. What an earlier run has left there is removed, and what is left
    when the block ends well; a scene that failed leaves its log.
    """
    folder = job_dir.resolve() / TEMPORARY_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    before, variables = tempfile.tempdir, {name: os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")}
    tempfile.tempdir = str(folder)
    os.environ.update(dict.fromkeys(variables, str(folder)))
    try:
        yield
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        tempfile.tempdir = before
        for name, value in variables.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def previews_argument(text: str) -> int:
    """The value of `--previews`."""
    if not text.isdecimal() or int(text) > MOST_PREVIEWS:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {MOST_PREVIEWS}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Runs the job of a folder and returns the exit code."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m SynthDiffusionLib.jobs.worker", description=__doc__)
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--end-with-stdin", action="store_true", help="end when standard input, a pipe, is closed")
    parser.add_argument(
        "--previews", type=previews_argument, default=0, metavar="N", help="coarse volumes to show of each sample"
    )
    options = parser.parse_args(arguments)
    keep_heap_small()
    job_dir = options.job_dir
    if options.end_with_stdin:
        try:
            end_with_stdin()
        except BadInput as error:
            return report(error, json_lines(sys.stdout))
    if not job_dir.is_dir():
        return report(BadInput(f"'{job_dir}' is not a folder", "Give the folder of a job."), json_lines(sys.stdout))
    try:
        log = event_file(job_dir)
    except OSError as error:
        refused = BadInput(f"'{job_dir}' cannot be written to ({error.strerror})", "Choose another folder for the job.")
        return report(refused, json_lines(sys.stdout))
    with log:
        on_event = json_lines(sys.stdout, log)
        cancel = job_dir / CANCEL_FILE
        try:
            with ended_like_interrupted(), interrupted_by(cancel), temporary_files_in(job_dir):
                request = read_request(job_dir)
                from SynthDiffusionLib.jobs import previews
                from SynthDiffusionLib.jobs.runner import run

                folder = job_dir / previews.FOLDER
                shutil.rmtree(folder, ignore_errors=True)  # those of an earlier run
                shown = previews.Previews(folder, options.previews, on_event) if options.previews else None
                run(request, on_event, should_cancel=cancel.exists, previews=shown, began=began)
        except (Exception, KeyboardInterrupt) as error:
            wait_if_ending()
            if isinstance(error, (Cancelled, KeyboardInterrupt)):
                with suppress(OSError):
                    cancel.unlink(missing_ok=True)
            return report(error, on_event)
    return 0


if __name__ == "__main__":
    sys.exit(main())
