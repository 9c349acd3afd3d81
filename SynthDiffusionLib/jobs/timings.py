"""How long runs took on this machine, kept in the user's state folder, and what that says about the next one.

Needs the standard library and platformdirs only: the estimate is shown before torch is loaded. The records name the
model, the device and the size of the work; nothing of an input.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from SynthDiffusionLib.errors import SynthDiffusionError

STATE_FOLDER_VARIABLE = "SYNTHDIFFUSION_STATE"
FILE_NAME = "timings.json"
FORMAT = "synthdiffusion-timings-1"
KEPT = 200
COUNTED = 10  # newest records that an estimate is made of
LARGEST_BYTES = 1 << 20  # 200 records take about 100 kB
SOURCES = {"run": "past runs", "calibration": "calibration"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """One run, or one calibration.

    Args:
        model: id of the model package.
        version: of the package.
        device: name of the hardware, see `cpu_name` and `device_name`.
        precision: "fp32", "bf16" or "fp16".
        threads: CPU threads that torch used.
        grid: (I, J, K) that the network worked on, that of the largest condition.
        evaluations: evaluations of the network, both of guidance counted.
        denoise_s: seconds for these.
        setup_s: seconds before the first of them: reading, loading libraries and weights.
        other_s: seconds for the rest: writing, adherence, scene.
        samples: volumes made.
        source: a key of `SOURCES`.
        date: ISO 8601, UTC; empty: now.
    """

    model: str
    version: str
    device: str
    precision: str
    threads: int
    grid: tuple[int, int, int]
    evaluations: int
    denoise_s: float
    setup_s: float
    other_s: float = 0.0
    samples: int = 1
    source: str = "run"
    date: str = ""

    @property
    def voxels(self) -> int:
        """Voxels of the grid."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    def summary(self, device: str) -> dict[str, Any]:
        """The "timing" of a `done` event; `device` is torch's name of the device."""
        names = ("setup_s", "denoise_s", "other_s", "evaluations", "voxels", "precision", "threads")
        return {name: getattr(self, name) for name in names} | {"device": device, "device_name": self.device}


@dataclass(frozen=True)
class Estimate:
    """How long a run will take.

    Args:
        seconds: from the start to the last file.
        source: "past runs" or "calibration".
        runs: how many of them it was taken from, `COUNTED` at most.
    """

    seconds: float
    source: str
    runs: int


def state_folder() -> Path:
    """The user's folder for what is kept between runs (it may not exist yet); SYNTHDIFFUSION_STATE overrides it."""
    override = os.environ.get(STATE_FOLDER_VARIABLE)
    if override:
        return Path(override).expanduser()
    import platformdirs

    return Path(platformdirs.user_state_dir("SynthDiffusion", appauthor=False))


def cpu_name() -> str:
    """Model and number of logical processors of this machine, such as "AMD EPYC 7B13, 8 processors"."""
    name = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("model name")), "")
    except OSError:  # not Linux
        pass
    return f"{name or platform.processor() or platform.machine() or 'CPU'}, {os.cpu_count() or 1} processors"


def device_name(device: str) -> str:
    """Name of the hardware behind a device of torch ("cpu", "cuda:N"); loads torch for a GPU's."""
    if device == "cpu":
        return cpu_name()
    import torch

    return torch.cuda.get_device_name(device)


def estimate(
    model_id: str,
    version: str,
    device_name: str,
    precision: str,
    voxels: int,
    evaluations: int,
    samples: int = 1,
) -> Estimate | None:
    """Seconds that a run will take, from runs of the same model, device and precision, else from a calibration.

    The median over the newest records of the time per evaluation and voxel, times what is asked, plus the median times
    before (once a run) and after (once a sample) denoising.

    Args:
        model_id, version: of the model package.
        device_name: as `cpu_name` and `device_name` give it.
        precision: resolved, not "auto".
        voxels: of the working grid of the largest condition.
        evaluations: of the network, both of guidance counted, over all samples.
        samples: volumes to make.

    Returns:
        None where nothing is known.
    """
    known = [
        t for t in load() if (t.model, t.version, t.device, t.precision) == (model_id, version, device_name, precision)
    ]
    for source, described in SOURCES.items():
        newest = [t for t in known if t.source == source][-COUNTED:]
        if newest:
            per_voxel = median(t.denoise_s / (t.evaluations * t.voxels) for t in newest)
            around = median(t.setup_s for t in newest) + samples * median(t.other_s / t.samples for t in newest)
            return Estimate(per_voxel * evaluations * voxels + around, described, len(newest))
    return None


def record(timing: Timing) -> None:
    """Adds a record to the store and drops the oldest beyond `KEPT`.

    What goes wrong is logged, never raised: a run does not fail for its timing. Of two processes that write at the same
    moment, one record may be lost.
    """
    from SynthDiffusionLib.volumes.atomic import atomic_file

    if not timing.date:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        timing = Timing(**{**asdict(timing), "date": now})
    try:
        folder = state_folder()
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "records": [asdict(t) for t in [*load(), timing][-KEPT:]]}
        with atomic_file(folder / FILE_NAME) as file:
            file.write((json.dumps(content, indent=0) + "\n").encode("utf-8"))
    except (OSError, RuntimeError, SynthDiffusionError) as error:  # RuntimeError: no home folder
        _log.warning("The time of this run was not kept: %s", error)


def load() -> list[Timing]:
    """All records, oldest first; none where there is no file, or one that cannot be read."""
    try:
        path = state_folder() / FILE_NAME
        if path.stat().st_size > LARGEST_BYTES:
            return []
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError, RecursionError):
        return []
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return []
    records = content.get("records")
    read = (_timing(entry) for entry in records) if isinstance(records, list) else ()
    return [timing for timing in read if timing is not None]


def _timing(entry: Any) -> Timing | None:
    """A record of the file, or None where it is not one that an estimate can be made of."""
    if not isinstance(entry, dict) or set(entry) != {f.name for f in fields(Timing)}:
        return None
    if not isinstance(entry["grid"], list) or len(entry["grid"]) != 3:
        return None
    counts = [entry["threads"], entry["evaluations"], entry["samples"], *entry["grid"]]
    texts = [entry[k] for k in ("model", "version", "device", "precision", "source", "date")]
    seconds = [entry[k] for k in ("denoise_s", "setup_s", "other_s")]
    valid = (
        all(type(n) is int and 0 < n < 2**31 for n in counts)
        and all(isinstance(t, str) for t in texts)
        and all(type(s) in (int, float) and 0 <= s < 1e9 for s in seconds)
        and entry["source"] in SOURCES
    )
    return Timing(**{**entry, "grid": tuple(entry["grid"])}) if valid else None
