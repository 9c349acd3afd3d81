"""One child process of the engine: started, listened to, cancelled, and ended with all its children."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import qt
import slicer

CANCEL_FILE = "cancel"  # as in SynthDiffusionLib.jobs.worker
OUTPUT_FILE = "output.jsonl"
LOG_FILE = "log.txt"

_POLL_MS = 100
# A worker answers the cancel file within 0.2 s, plus the network evaluation under way. What takes longer is ended hard,
# so that the user never waits for more than two seconds.
_PATIENCE_MS = 1200
_LAST_WAIT_MS = 500


@dataclass
class ProcessResult:
    """How a process ended.

    Args:
        exitCode: None if it could not be started, was killed, or crashed.
        event: its last `done` or `error` event, {} if there was none.
        cancelled: it was asked to end, or ended hard, by us.
        problem: why it could not be started, "" if it could.
        log: what it has said on its standard error, of questions to the engine (`Engine.ask`).
    """

    exitCode: int | None = None
    event: dict = field(default_factory=dict)
    cancelled: bool = False
    problem: str = ""
    log: str = ""

    @property
    def done(self) -> bool:
        return self.exitCode == 0 and self.event.get("event") == "done"


class EngineProcess:
    """A process that prints a JSON object a line.

    Its output goes to files in its folder, not through pipes: they are the log that the user can open, and a busy
    Slicer cannot stall it. Its standard input is a pipe that it watches (`--end-with-stdin`): when Slicer ends, in
    whatever way, so does the process.

    Args:
        command: program and arguments.
        environment: the whole environment of the process.
        folder: its working folder; gets `output.jsonl` and `log.txt`.
        onEvent: called with every event but the last one.
        onFinished: called once, with the `ProcessResult`, when the process has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        onEvent: Callable[[dict], None],
        onFinished: Callable[[ProcessResult], None],
    ) -> None:
        self.folder = Path(folder)
        self._command = [str(part) for part in command]
        self._environment = environment
        self._onEvent, self._onFinished = onEvent, onFinished
        self._process = None
        self._poll = self._patience = None
        self._position = 0
        self._rest = b""
        self._result = ProcessResult()

    @property
    def logPath(self) -> Path:
        return self.folder / LOG_FILE

    @property
    def isRunning(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Starts it. A program that cannot be started is reported through `onFinished`, too."""
        try:
            (self.folder / CANCEL_FILE).unlink(missing_ok=True)
            (self.folder / OUTPUT_FILE).write_bytes(b"")
        except OSError as error:  # somebody has cleared the temporary folder, or the disk is full
            self._result.problem = f"{error.filename or self.folder}: {error.strerror or error}"
            self._onFinished(self._result)
            return
        environment = qt.QProcessEnvironment()
        for name, value in self._environment.items():
            environment.insert(name, value)
        # With a parent: an object without one goes with its last Python reference, which may be in one of its signals.
        process = qt.QProcess(slicer.app)
        process.setProcessEnvironment(environment)
        process.setWorkingDirectory(str(self.folder))
        process.setStandardOutputFile(str(self.folder / OUTPUT_FILE))
        process.setStandardErrorFile(str(self.logPath))
        process.connect("finished(int,QProcess::ExitStatus)", self._onProcessFinished)
        process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._process = process
        self._poll = qt.QTimer(slicer.app)
        self._poll.setInterval(_POLL_MS)
        self._poll.connect("timeout()", self._readEvents)
        self._poll.start()
        process.start(self._command[0], self._command[1:])

    def cancel(self) -> None:
        """Asks it to end; ends it hard if it has not within a little more than a second."""
        if self._process is None or self._result.cancelled:
            return
        self._result.cancelled = True
        try:
            (self.folder / CANCEL_FILE).write_bytes(b"")
        except OSError:  # a full disk must not keep it alive
            self.kill()
            return
        self._patience = qt.QTimer(slicer.app)
        self._patience.setSingleShot(True)
        self._patience.setInterval(_PATIENCE_MS)
        self._patience.connect("timeout()", self.kill)
        self._patience.start()

    def kill(self) -> None:
        """Ends it and all its children now, and reports it as cancelled."""
        if self._process is None:
            return
        self._result.cancelled = True
        process, children = self._process, _descendants(self._process.processId())
        process.closeWriteChannel()  # the worker, if it is a launcher's child, ends with this
        process.kill()
        for child in children:
            _killQuietly(child)
        process.waitForFinished(_LAST_WAIT_MS)
        if self._process is not None:  # its end was not reported meanwhile
            self._finish(None)

    def _onProcessFinished(self, exitCode: int, exitStatus: object) -> None:
        crashed = exitStatus == qt.QProcess.CrashExit
        self._finish(None if crashed else exitCode)

    def _onProcessError(self, error: object) -> None:
        if self._process is not None and error == qt.QProcess.FailedToStart:
            self._result.problem = self._process.errorString()
            self._finish(None)

    def _finish(self, exitCode: int | None) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._result.exitCode = exitCode
        for timer in (self._poll, self._patience):
            if timer is not None:
                timer.stop()
                timer.deleteLater()
        self._poll = self._patience = None
        process.disconnect("finished(int,QProcess::ExitStatus)", self._onProcessFinished)
        process.disconnect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._readEvents(atEnd=True)
        process.deleteLater()
        with suppress(OSError):  # a virus scanner may hold a file that is so new
            (self.folder / CANCEL_FILE).unlink(missing_ok=True)
        self._onFinished(self._result)

    def _readEvents(self, atEnd: bool = False) -> None:
        try:
            with open(self.folder / OUTPUT_FILE, "rb") as file:
                file.seek(self._position)
                data = file.read()
        except OSError:
            return
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if atEnd:
            lines.append(self._rest)
        for line in lines:
            event = _eventOf(line)
            if event.get("event") in ("done", "error"):
                self._result.event = event
            elif event:
                self._tell(event)

    def _tell(self, event: dict) -> None:
        """Hands on an event. A receiver that fails must not keep the end of the process from being told."""
        try:
            self._onEvent(event)
        except Exception:
            logging.exception("SynthDiffusion: an event of the engine could not be shown: %s", event)


def _eventOf(line: bytes) -> dict:
    """The JSON object of a line; {} for what libraries print."""
    try:
        event = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def _descendants(processId: int) -> list:
    """psutil processes below one: Slicer's Python is a launcher, and killing it alone leaves its child running."""
    try:
        import psutil
    except ImportError:  # not installed in Slicer's Python; the worker then ends itself when its input closes
        return []
    try:
        return psutil.Process(processId).children(recursive=True)
    except (psutil.Error, ValueError):
        return []


def _killQuietly(process) -> None:
    import psutil

    try:
        process.kill()
    except psutil.Error:
        return  # it has ended meanwhile
