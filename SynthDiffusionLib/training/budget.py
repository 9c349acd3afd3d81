"""How long a training goes on: so many steps, or so many minutes of one clock."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from SynthDiffusionLib.volumes.atomic import atomic_file

# Processor time counts only what this process has had: other programs on the machine take nothing of a budget.
CLOCKS = {"wall": time.monotonic, "processor": time.process_time}
ENDLESS = 10**9  # steps that no run reaches


class Budget:
    """Steps, or minutes where there are no steps.

    Args:
        steps: optimiser steps; 0 where `minutes` counts.
        minutes: of training.
        clock: what `minutes` counts, see `CLOCKS`.
        spent: seconds that an earlier part of the run took.
    """

    def __init__(self, steps: int, minutes: float, clock: str, spent: float = 0.0) -> None:
        self.steps, self.minutes, self.name = steps, minutes, clock
        self.clock = CLOCKS[clock]
        self.began = self.clock() - spent

    @property
    def last_step(self) -> int:
        """The step that the run ends with at the latest."""
        return self.steps or ENDLESS

    def seconds(self) -> float:
        """Training time up to now, earlier parts included."""
        return self.clock() - self.began

    def share(self, done: int) -> float:
        """The share of the run that is over after `done` steps; 1 or more at its end."""
        return done / self.steps if self.steps else self.seconds() / (60.0 * self.minutes)

    def total(self, done: int, share: float) -> int:
        """Steps of the whole run, guessed where minutes count."""
        return self.steps or max(done, round(done / max(share, 1e-6)))

    def summarise(self, out: Path, device: torch.device, steps: int) -> None:
        """Writes `summary.json`: what the run took, validation, pictures and checkpoints included."""
        on_gpu = device.type == "cuda"
        summary = {
            "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
            "torch": torch.__version__,
            "steps": steps,
            "seconds": round(self.seconds(), 1),
            "clock": self.name,
            "peak_gpu_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
        }
        with atomic_file(out / "summary.json") as stream:
            stream.write((json.dumps(summary, indent=1) + "\n").encode("utf-8"))
