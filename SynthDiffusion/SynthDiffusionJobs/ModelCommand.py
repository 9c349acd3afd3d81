"""`synthdiffusion models install`, `import` and `remove` in a child process: progress, log, and how it ended."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from SynthDiffusionJobs.Engine import Engine
from SynthDiffusionJobs.EngineProcess import EngineProcess, ProcessResult
from SynthDiffusionJobs.Signal import Signal

# Stages: the steps of the first are bytes; in the second what has come is made a package.
DOWNLOAD, CONVERT = "download", "convert"
# argparse and the engine begin their last line with the name of the command.
_COMMAND_PREFIX = re.compile(r"^synthdiffusion[a-z ]*: error: ")
_ACCESS = re.compile(r"--token-file|access token|\b40[13]\b")


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Args:
        done: it has done what it was asked to.
        cancelled: by the user.
        id: of the model that it was about, "" if it has not said.
        message, hint: why it is not done.
    """

    done: bool = False
    cancelled: bool = False
    id: str = ""
    message: str = ""
    hint: str = ""

    @property
    def needsAccess(self) -> bool:
        """Whether the place that the model is downloaded from wants to know who is asking."""
        return not self.done and bool(_ACCESS.search(f"{self.message} {self.hint}"))


class ModelCommand:
    """Carries out one command at a time.

    Args:
        engine: starts it.

    Attributes:
        changed: Signal(), it has got on.
        stage, step, total, etaSeconds: of the last progress event.
        downloaded: whether anything has come from the network.
        log: what the last command has said.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.changed = Signal()
        self._process: EngineProcess | None = None
        self._onEnded: Callable[[Outcome], None] | None = None
        self._forget()

    @property
    def busy(self) -> bool:
        return self._onEnded is not None

    def run(self, arguments: Sequence[str], onEnded: Callable[[Outcome], None]) -> None:
        """Starts `synthdiffusion models ARGUMENTS`.

        Args:
            arguments: without `--json`.
            onEnded: called with the outcome, unless `close` was called before.
        """
        self._forget()
        self._onEnded = onEnded
        command = ["SynthDiffusionLib", "models", *arguments, "--json"]
        process = self._engine.ask(command, self._onAnswered, self._onEvent)
        if self.busy:  # it has not ended already
            self._process = process

    def cancel(self) -> None:
        """Ends it. What it has begun to copy never gets its final name."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Ends it without a word."""
        if self.busy:
            self._onEnded = _nobody
        self.changed.disconnectAll()
        self.cancel()

    def _forget(self) -> None:
        self.stage, self.step, self.total, self.downloaded, self.log = "", 0, 0, False, ""
        self.etaSeconds: float | None = None

    def _onEvent(self, event: dict) -> None:
        if event.get("event") != "progress":
            return
        self.stage = str(event.get("stage") or "")
        self.step, self.total = int(event.get("step") or 0), int(event.get("total") or 0)
        self.downloaded = self.downloaded or (self.stage == DOWNLOAD and self.step > 0)
        left = event.get("eta_s")
        self.etaSeconds = float(left) if left is not None and math.isfinite(left) else None
        self.changed.emit()

    def _onAnswered(self, result: ProcessResult, message: str) -> None:
        onEnded, self._onEnded, self._process = self._onEnded, None, None
        event = result.event
        notes = [str(note) for note in event.get("notes") or ()] if result.done else []
        self.log = "\n".join(filter(None, [result.log, *notes]))
        if result.done:
            outcome = Outcome(done=True, id=str(event.get("id") or ""))
        elif result.cancelled:
            outcome = Outcome(cancelled=True)
        elif event.get("event") == "error":
            outcome = Outcome(message=str(event.get("message") or ""), hint=str(event.get("hint") or ""))
        else:
            outcome = Outcome(message=_COMMAND_PREFIX.sub("", message))
        onEnded(outcome)


def _nobody(outcome: Outcome) -> None:
    """Who has asked is not there any more."""
