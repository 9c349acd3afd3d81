"""Runs: requests that are carried out one after the other, each by a worker process of its own."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import Engine
from SynthDiffusionJobs.EngineProcess import LOG_FILE, OUTPUT_FILE, EngineProcess, ProcessResult
from SynthDiffusionJobs.Signal import Signal

PREVIEWS = 4  # coarse volumes a sample

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"


@dataclass(eq=False)
class Run:
    """One request and what has become of it.

    Args:
        title: for the user.
        folder: the job's folder, with `request.json` and its inputs.
        context: what the owner of the queue wants to know when it is done; the queue does not look at it.
        previews: whether coarse volumes are wanted while it runs.
        number: counts the runs of a session.
        state: WAITING, RUNNING, DONE, FAILED or CANCELLED.
        stage, step, total: progress, in the words of the engine ("read", "model", "denoise", ...).
        etaSeconds: time left, None while unknown.
        memoryBytes: peak use of GPU memory so far, None on the CPU.
        warnings: sentences that the user should read.
        kind, message, hint: of the error, once it has failed. kind "killed": the process was ended from outside.
        outputs, timing: of the `done` event.
        seconds: how long it took.
    """

    title: str
    folder: Path
    context: dict = field(default_factory=dict)
    previews: bool = False
    number: int = 0
    state: str = WAITING
    stage: str = ""
    step: int = 0
    total: int = 0
    etaSeconds: float | None = None
    memoryBytes: int | None = None
    warnings: list[str] = field(default_factory=list)
    kind: str = ""
    message: str = ""
    hint: str = ""
    outputs: list[dict] = field(default_factory=list)
    timing: dict = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def logPath(self) -> Path:
        return self.folder / LOG_FILE

    @property
    def ended(self) -> bool:
        return self.state in (DONE, FAILED, CANCELLED)

    def forget(self) -> None:
        """Back to before it was started."""
        self.state, self.stage, self.step, self.total, self.etaSeconds, self.memoryBytes = WAITING, "", 0, 0, None, None
        self.warnings, self.kind, self.message, self.hint = [], "", "", ""
        self.outputs, self.timing, self.seconds = [], {}, 0.0


class RunQueue:
    """Carries out runs in their order.

    Args:
        engine: which processes are started.
        onDone: called with a run whose worker is done, before it counts as done; if it raises, the run has failed.

    Attributes:
        changed: Signal(run), a run has another state; run is None when the list itself has changed.
        progressed: Signal(run).
        previewed: Signal(run, path of a coarse volume).
        runs: all runs that were not removed, oldest first.
    """

    def __init__(self, engine: Engine, onDone: Callable[[Run], None]) -> None:
        self._engine, self._onDone = engine, onDone
        self.changed, self.progressed, self.previewed = Signal(), Signal(), Signal()
        self.runs: list[Run] = []
        self._numbers = itertools.count(1)
        self._process: EngineProcess | None = None
        self._current: Run | None = None
        self._began = 0.0
        self._closed = False

    @property
    def current(self) -> Run | None:
        """The run under way."""
        return self._current

    def add(self, run: Run) -> Run:
        """Puts a run at the end of the queue and starts it when it is its turn."""
        run.number = next(self._numbers)
        self.runs.append(run)
        self._startNext()
        self.changed.emit(None)
        return run

    def cancel(self, run: Run) -> None:
        """Takes a waiting run out of the queue, or ends the running one within two seconds."""
        if run is self._current:
            self._process.cancel()
        elif run.state == WAITING:
            run.state = CANCELLED
            self.changed.emit(run)

    def retry(self, run: Run) -> None:
        """Runs one again that has failed or was cancelled; its folder still has all inputs."""
        if run.ended:
            run.forget()
            for name in (OUTPUT_FILE, LOG_FILE):  # of the try before
                with contextlib.suppress(OSError):  # it is written over in any case
                    (run.folder / name).unlink(missing_ok=True)
            self.runs.remove(run)
            self.runs.append(run)
            self._startNext()
            self.changed.emit(None)

    def remove(self, run: Run) -> None:
        """Forgets an ended run and deletes its folder."""
        if run.ended:
            self.runs.remove(run)
            self._engine.folders.remove(run.folder)
            self.changed.emit(None)

    def discardAll(self) -> None:
        """Ends the running one at once and forgets all, without a result: the scene that they belong to is closing."""
        for run in self.runs:
            if run.state == WAITING:
                run.state = CANCELLED
        if self._process is not None:
            self._process.kill()
        for run in list(self.runs):
            self.remove(run)

    def shutdown(self) -> None:
        """Ends everything; no signal is sent any more, and nothing more can be added."""
        self._closed = True
        for signal in (self.changed, self.progressed, self.previewed):
            signal.disconnectAll()
        self.discardAll()

    def _startNext(self) -> None:
        run = next((run for run in self.runs if run.state == WAITING), None)
        if self._closed or self._current is not None or run is None:
            return
        arguments = ["SynthDiffusionLib.jobs.worker", str(run.folder), "--end-with-stdin"]
        if run.previews:
            arguments += ["--previews", str(PREVIEWS)]
        self._current, self._began = run, time.monotonic()
        run.state = RUNNING
        self._process = EngineProcess(
            self._engine.command(*arguments), self._engine.environment(), run.folder, self._onEvent, self._onFinished
        )
        self._process.start()  # before anybody is told: who fails then must not keep it from starting
        self.changed.emit(run)

    def _onEvent(self, event: dict) -> None:
        run, kind = self._current, event.get("event")  # None for JSON that some library prints
        if kind == "progress":
            run.stage, run.step, run.total = str(event["stage"]), int(event["step"]), int(event["total"])
            left = event.get("eta_s", run.etaSeconds if run.stage == "denoise" else None)
            run.etaSeconds = float(left) if left is not None and math.isfinite(left) else None
            run.memoryBytes = event.get("vram_bytes", run.memoryBytes)
        elif kind == "warning":
            if event.get("topic") != "mapping":  # the user has set that in the panel's table
                run.warnings.append(str(event["message"]))
        elif kind == "preview":
            self.previewed.emit(run, str(event["path"]))
            return
        self.progressed.emit(run)

    def _onFinished(self, result: ProcessResult) -> None:
        run, self._current, self._process = self._current, None, None
        run.seconds = time.monotonic() - self._began
        if result.done:
            self._conclude(run, result.event)
        elif result.cancelled:
            run.state = CANCELLED
        else:
            run.state = FAILED
            run.kind, run.message, run.hint = _cause(result)
        try:
            self.changed.emit(run)
        finally:
            self._startNext()

    def _conclude(self, run: Run, event: dict) -> None:
        try:
            run.outputs, run.timing = event["outputs"], event.get("timing", {})
            self._onDone(run)
        except Exception as error:
            # The volumes are made but cannot be shown: the user must learn why, and the queue must go on.
            run.state, run.kind = FAILED, "internal"
            run.message = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
            run.hint = getattr(error, "hint", "") or _("The files are in the run's folder.")
        else:
            run.state = DONE


def _cause(result: ProcessResult) -> tuple[str, str, str]:
    """Kind, message and hint of a run that was not done."""
    event = result.event
    # "cancelled", when it is not we who have asked for it: somebody else has told the process to end.
    if event.get("event") == "error" and event.get("kind") != "cancelled":
        message = str(event.get("message") or _("The run has failed without saying why."))
        return str(event.get("kind") or "internal"), message, str(event.get("hint") or "")
    if result.problem:
        return "internal", _("The run could not be started: {reason}").format(reason=result.problem), ""
    # In Slicer the process is a launcher, which ends with a code when its child was killed; so the code says little.
    how = "" if result.exitCode is None else _(" (code {code})").format(code=result.exitCode)
    message = _("The run was ended from outside, or has crashed{how}.").format(how=how)
    hint = _("The computer may have run out of memory. Run it again, or look at the log.")
    return "killed", message, hint
