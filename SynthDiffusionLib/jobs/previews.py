"""Coarse volumes of what is being made, to look at while it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from SynthDiffusionLib.jobs.events import OnEvent
from SynthDiffusionLib.volumes import Volume, write_volume

FOLDER = "previews"
FINE_VOXELS = 32**3  # of a larger grid, every second voxel along each axis is shown


class Previews:
    """Writes a few previews of every sample as NRRD files and tells of them with `preview` events.

    Args:
        folder: for the files; made when it is needed.
        count: previews a sample, spread evenly over its steps.
        on_event: receives `preview` events, and one warning if they cannot be written: a run does not end for that.
    """

    def __init__(self, folder: Path, count: int, on_event: OnEvent) -> None:
        self._folder = Path(folder)
        self._count = count
        self._on_event = on_event
        self._warned = False
        self._sample = self._samples = self._step = self._total = 0
        self._marks: Mapping[str, str] = {}

    def begin(self, sample: int, samples: int, total: int, marks: Mapping[str, str]) -> None:
        """Announces the next sample.

        Args:
            sample: its number, from 1.
            samples: how many there are.
            total: denoising steps of this sample, over all its regions.
            marks: what its header will say, see `outputs.header_marks`.
        """
        self._sample, self._samples, self._step, self._total = sample, samples, 0, total
        self._marks = marks

    def __call__(self, estimate: Callable[[], Volume]) -> None:
        """One step is done; `estimate` gives the volume as this step sees it, and is called if it is to be shown."""
        self._step += 1
        if self._step not in preview_steps(self._count, self._total):
            return
        path = self._folder / f"sample{self._sample}_step{self._step}.nrrd"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_volume(coarse(estimate(), self._marks), path)
        except Exception as error:
            if not self._warned:
                self._warned = True
                self._on_event({"event": "warning", "message": f"Previews cannot be written: {error}"})
            return
        self._on_event(
            {
                "event": "preview",
                "path": str(path.resolve()),
                "sample": self._sample,
                "samples": self._samples,
                "step": self._step,
                "total": self._total,
            }
        )


def preview_steps(count: int, total: int) -> list[int]:
    """The steps, from 1, after which a sample is shown: `count` of them, evenly spread, never the last.

    Example:
        >>> preview_steps(3, 20)
        [5, 10, 15]
    """
    count = min(count, total - 1)
    return [round((n + 1) * total / (count + 1)) for n in range(count)]


def coarse(volume: Volume, marks: Mapping[str, str]) -> Volume:
    """A preview of a volume: int16, of a large one every second voxel, with the marks of the volume to come."""
    array, affine = volume.array, np.array(volume.affine, float)
    if array.size > FINE_VOXELS:
        array = array[::2, ::2, ::2]
        affine[:3, :3] *= 2  # the first voxel stays where it is
    limits = np.iinfo(np.int16)
    array = np.clip(np.rint(array), limits.min, limits.max).astype(np.int16)
    metadata = {**marks, "description": f"PREVIEW, {marks['description']}", "SynthDiffusion.Preview": "YES"}
    return Volume(array, affine, volume.unit, metadata)
