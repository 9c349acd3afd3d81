"""Writes a Slicer scene (.mrb) of a job's results in a child process.

The engine may not import slicer, and Slicer's scene writer can end the process that it runs in. So the scene is written
by `python -m SynthDiffusionScene.write JOB_DIR` (in SynthDiffusion/ of the repository); it needs the extra `slicer`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from SynthDiffusionLib.errors import MissingExtra, RunFailed
from SynthDiffusionLib.volumes.atomic import atomic_file

FORMAT = "synthdiffusion-scene-1"
_PACKAGE = "SynthDiffusionScene"


def write_scene(job_dir: Path | str, description: Mapping, timeout_s: float = 900.0) -> Path:
    """Writes the scene of a job.

    Args:
        job_dir: the job's folder; gets `scene.json` (the description) and `scene.log` (the child's messages).
        description: `output` (a name in the job folder, or an absolute path, ending in .mrb), `volumes` (each with
            `path`, `role` "synthetic", "inpainted" or "real", and as a rule `provenance`, an object or a file's path)
            and `segmentations` (each with `path` of a .seg.nrrd and optionally `name`). In full: the docstring of
            `SynthDiffusionScene.write`.
        timeout_s: seconds after which the child is ended.

    Returns:
        Path of the scene file. It exists only when it is complete and has been read back.

    Raises:
        MissingExtra: the slicer-core package is not installed.
        RunFailed: the child refused the description, failed, was killed, or took too long.
    """
    require_scene_writer()
    job_dir = Path(job_dir).resolve()
    with atomic_file(job_dir / "scene.json") as file:
        file.write(json.dumps({"format": FORMAT, **description}, indent=1, default=str).encode())
    log = job_dir / "scene.log"
    hint = f"The log is {log}."
    try:
        with open(log, "wb") as stderr:
            child = subprocess.run(
                _command(job_dir),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
                timeout=timeout_s,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"The scene was not written within {timeout_s:g} seconds", hint) from error
    except OSError as error:
        raise RunFailed(f"The scene writer could not be started ({error.strerror or error})", hint) from error
    event = _last_event(child.stdout)
    if event.get("event") == "error":
        reason = event.get("message", "no reason was given")
        raise RunFailed(f"The scene was not written: {reason}", " ".join(filter(None, [event.get("hint"), hint])))
    if child.returncode != 0:
        raise RunFailed(f"The scene writer ended unexpectedly ({_how_it_ended(child.returncode, log)})", hint)
    if event.get("event") != "done" or not Path(event.get("output", "")).is_file():
        raise RunFailed("The scene writer ended without writing a scene", hint)
    return Path(event["output"])


def require_scene_writer() -> None:
    """Checks, without importing it, that slicer-core is there; call it before a long run that ends in a scene.

    Raises:
        MissingExtra: it is not.
    """
    # Two other packages provide a `slicer`: SHAP's dependency of that name, which is no use here, and 3D Slicer itself.
    spec = importlib.util.find_spec("slicer")
    if spec is not None:
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        if importlib.util.find_spec("slicer_core") or any((folder / "util.py").is_file() for folder in folders):
            return
    raise MissingExtra("--scene", "slicer")


def _command(job_dir: Path) -> list[str]:
    # -P: the job folder's files are no modules. faulthandler: a crash in Slicer's C++ leaves its place in the log.
    return [sys.executable, "-P", "-X", "faulthandler", "-m", f"{_PACKAGE}.write", "--debug", str(job_dir)]


def _environment() -> dict[str, str]:
    """The parent's environment, with the folder that holds SynthDiffusionScene on the module path."""
    root = Path(__file__).resolve().parents[2]
    for folder in (root / "SynthDiffusion", root):  # in a clone; pip-installed, or in Slicer's module folder
        if (folder / _PACKAGE / "write.py").is_file():
            path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
            return {**os.environ, "PYTHONPATH": path}
    if importlib.util.find_spec(_PACKAGE) is None:
        raise RunFailed(f"{_PACKAGE} is missing beside the engine in '{root}'", "Install SynthDiffusion again.")
    return dict(os.environ)


def _last_event(stdout: bytes) -> dict:
    """The last line that is a JSON object with an `event`; libraries may print lines of their own."""
    for line in reversed(stdout.decode("utf-8", "replace").splitlines()):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            return event
    return {}


def _how_it_ended(code: int, log: Path) -> str:
    """Signal or exit code, and what C++ or Python said last about the cause."""
    if code < 0:
        try:
            how = f"killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"killed by signal {-code}"
    else:
        how = f"exit code {code}"
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if "what():" in line or line.startswith("MemoryError"):
            return f"{how}; {line.replace('what():', '').strip()}"
    return how
