"""`synthdiffusion study new` in a child process: progress, and how it ended."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from SynthDiffusionJobs.Engine import Engine
from SynthDiffusionJobs.EngineProcess import EngineProcess, ProcessResult
from SynthDiffusionJobs.Signal import Signal

# argparse and the engine begin their last line with the name of the command.
_COMMAND_PREFIX = re.compile(r"^synthdiffusion[a-z ]*: error: ")
# Sentences of the leak report on the files that readers get; others are about the source files.
_AFTER = "Files that readers get"


@dataclass(frozen=True)
class StudyRequest:
    """What a study is made of.

    Args:
        out: folder to write.
        design: a design file, which says all the rest; "" if there is none.
        real: folder of volumes.
        synthetic: folders of volumes, one for each generator.
        form: id of a shipped form, or the path of one.
        readers: their names.
        seed: of cases and orders.
        patients: table of patients, "" if there is none.
        masks: folder of segmentations, "" if there is none.
        training: cases of each kind.
        repeats: fraction that is read twice.
        margin: of equivalence; 0 tests a difference.
    """

    out: str
    design: str = ""
    real: str = ""
    synthetic: tuple[str, ...] = ()
    form: str = ""
    readers: tuple[str, ...] = ()
    seed: int = 1
    patients: str = ""
    masks: str = ""
    training: int = 0
    repeats: float = 0.0
    margin: float = 0.0

    @property
    def arguments(self) -> list[str]:
        """Of `synthdiffusion`."""
        if self.design:
            return ["study", "new", self.design, "--out", self.out]
        optional = (
            ("--patients", self.patients),
            ("--masks", self.masks),
            ("--training", self.training),
            ("--repeats", self.repeats),
            ("--margin", self.margin),
        )
        return [
            "study",
            "new",
            *("--real", self.real),
            *(part for folder in self.synthetic for part in ("--synthetic", folder)),
            *("--form", self.form),
            *("--readers", ",".join(self.readers)),
            *("--seed", str(self.seed)),
            *(part for option, value in optional if value for part in (option, str(value))),
            *("--out", self.out),
        ]


@dataclass(frozen=True)
class StudyOutcome:
    """How it ended.

    Args:
        done: the study is there.
        cancelled: by the user.
        folder: of the study; reading, private: its two parts.
        leaks: what the leak report says of the files that readers get, in sentences.
        warnings: what of it should be mended before anybody reads.
        leakReport: path of the report, "" if it is not there.
        message, hint: why it is not done.
    """

    done: bool = False
    cancelled: bool = False
    folder: str = ""
    reading: str = ""
    private: str = ""
    leaks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    leakReport: str = ""
    message: str = ""
    hint: str = ""


class StudyCommand:
    """Makes one study at a time.

    Args:
        engine: starts it.

    Attributes:
        changed: Signal(), it has got on.
        stage, step, total, etaSeconds: of the last progress event; a total of 0 says that it is not known.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.changed = Signal()
        self._process: EngineProcess | None = None
        self._onEnded: Callable[[StudyOutcome], None] | None = None
        self._forget()

    @property
    def busy(self) -> bool:
        return self._onEnded is not None

    def run(self, request: StudyRequest, onEnded: Callable[[StudyOutcome], None]) -> None:
        """Starts it.

        Args:
            request: what is wanted.
            onEnded: called with the outcome, unless `close` was called before.
        """
        self._forget()
        self._onEnded = onEnded
        command = ["SynthDiffusionLib", *request.arguments, "--events"]
        process = self._engine.ask(command, self._onAnswered, self._onEvent)
        if self.busy:  # it has not ended already
            self._process = process

    def cancel(self) -> None:
        """Ends it. What it has begun never gets its final name."""
        if self._process is not None:
            self._process.cancel()  # in time to take away what it has begun; ended hard if it does not

    def close(self) -> None:
        """Ends it now, without a word."""
        if self.busy:
            self._onEnded = _nobody
        self.changed.disconnectAll()
        if self._process is not None:
            self._process.kill()

    def _forget(self) -> None:
        self.stage, self.step, self.total = "", 0, 0
        self.etaSeconds: float | None = None

    def _onEvent(self, event: dict) -> None:
        if event.get("event") != "progress":
            return
        self.stage = str(event.get("stage") or "")
        self.step, self.total = int(event.get("step") or 0), int(event.get("total") or 0)
        left = event.get("eta_s")
        self.etaSeconds = float(left) if left is not None and math.isfinite(left) else None
        self.changed.emit()

    def _onAnswered(self, result: ProcessResult, message: str) -> None:
        onEnded, self._onEnded, self._process = self._onEnded, None, None
        event = result.event
        if result.done:
            outcome = _madeOf(event)
        elif result.cancelled:
            outcome = StudyOutcome(cancelled=True)
        elif event.get("event") == "error":
            outcome = StudyOutcome(message=str(event.get("message") or ""), hint=str(event.get("hint") or ""))
        else:
            outcome = StudyOutcome(message=_COMMAND_PREFIX.sub("", message))
        onEnded(outcome)


def _madeOf(event: dict) -> StudyOutcome:
    """What `study new --events` says at its end."""
    private = str(event.get("private") or "")
    report = Path(private) / "leaks.html"
    return StudyOutcome(
        done=True,
        folder=str(event.get("folder") or ""),
        reading=str(event.get("reading") or ""),
        private=private,
        leaks=tuple(str(line) for line in event.get("leaks") or () if str(line).startswith(_AFTER)),
        warnings=tuple(str(line) for line in event.get("warnings") or ()),
        leakReport=str(report) if private and report.is_file() else "",
    )


def _nobody(outcome: StudyOutcome) -> None:
    """Who has asked is not there any more."""
