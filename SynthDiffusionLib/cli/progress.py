"""Progress of a job on a terminal: one line that is rewritten, or plain lines where nobody looks."""

from __future__ import annotations

import sys
from typing import Any, TextIO

STAGES = {
    "read": "reading the input",
    "model": "loading the model",
    "denoise": "synthesising",
    "decode": "decoding",
    "write": "writing the files",
    "adherence": "measuring how well it follows the drawing",
    "scene": "writing the scene",
    "list": "reading the segmentations",
    "verify": "verifying the volumes",
    "batch": "volumes",
}
COUNTED = ("list", "verify", "batch")  # stages that count what the user knows


class ProgressLine:
    """Receives a job's events and shows them.

    Args:
        stream: where to; standard error by default, so that standard output stays free for results.
        quiet: show warnings only.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._rewrite = self._stream.isatty()
        self._open = False
        self._last_stage = self._last_line = ""

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "warning":
            self._line(f"note: {event['message']}")
        elif event["event"] == "progress" and not self._quiet:
            self._progress(event)
        elif event["event"] == "done":
            self.close()

    def close(self) -> None:
        """Ends the line that is being rewritten."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False

    def _progress(self, event: dict[str, Any]) -> None:
        stage, step, total = event["stage"], event["step"], event["total"]
        text = STAGES.get(stage, stage)
        if stage == "denoise":
            text += f": step {step} of {total}, about {event['eta_s']:.0f} s left"
        elif stage == "decode" and "eta_s" in event:
            text += f": {step} %, about {event['eta_s']:.0f} s left"
        elif stage in COUNTED:
            text += f": {step} of {total}" + (f", {event['failed']} failed" if event.get("failed") else "")
            text += f", about {duration(event['eta_s'])} left" if event.get("eta_s") else ""
        elif stage not in STAGES and total > 1:  # of evaluations, which take long
            text += f": {step} of {total}" + (f", about {event['eta_s']:.0f} s left" if event.get("eta_s") else "")
        if self._rewrite:
            self._stream.write(f"\r{text:<70}")
            self._stream.flush()
            self._open = True
        elif stage != self._last_stage or step in (1, total) or step % max(1, total // 4) == 0:
            if text != self._last_line:
                self._line(text)
            self._last_line = text
        self._last_stage = stage

    def _line(self, text: str) -> None:
        self.close()
        print(text, file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """A time as people say it: "40 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
