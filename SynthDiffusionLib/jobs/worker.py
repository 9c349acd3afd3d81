"""`python -m SynthDiffusionLib.jobs.worker JOB_DIR`: one job in a process of its own.

JOB_DIR holds `request.json`; relative paths in it start there. Every event is one JSON object a line on standard output
and in `events.jsonl`. A file named `cancel` in JOB_DIR ends the job; the worker removes it when it has obeyed. The
folder of a killed or cancelled worker can be run again as it is.
"""

from __future__ import annotations

import _thread
import argparse
import json
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from SynthDiffusionLib.errors import BadInput, Cancelled, SynthDiffusionError
from SynthDiffusionLib.jobs.events import OnEvent, event_file, json_lines
from SynthDiffusionLib.jobs.interrupts import ended_like_interrupted
from SynthDiffusionLib.jobs.request import GenerateRequest

CANCEL_FILE = "cancel"
POLL_SECONDS = 0.2


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


def main(arguments: list[str] | None = None) -> int:
    """Runs the job of a folder and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m SynthDiffusionLib.jobs.worker", description=__doc__)
    parser.add_argument("job_dir", type=Path)
    job_dir = parser.parse_args(arguments).job_dir
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
            with ended_like_interrupted(), interrupted_by(cancel):
                request = read_request(job_dir)
                from SynthDiffusionLib.jobs.runner import run

                run(request, on_event, should_cancel=cancel.exists)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, (Cancelled, KeyboardInterrupt)):
                with suppress(OSError):
                    cancel.unlink(missing_ok=True)
            return report(error, on_event)
    return 0


if __name__ == "__main__":
    sys.exit(main())
