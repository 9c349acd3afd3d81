"""The child process that writes a scene file: `python -m SynthDiffusionScene.write JOB_DIR`.

A process of its own, because the engine may not import slicer, and because Slicer's writer can end the process that it
runs in when a scene holds something it does not expect. It reads `JOB_DIR/scene.json`:

    {"format": "synthdiffusion-scene-1",
     "output": "case7.mrb",                       a name in JOB_DIR, or an absolute path
     "case": "case7",                             optional; name of the patient item
     "volumes": [{"path": "case7_lung-nodule-ct_seed3.nii.gz", "role": "synthetic", "name": optional,
                  "provenance": a file's path, or the object itself}],
     "segmentations": [{"path": "segmentation.seg.nrrd", "name": optional}]}

Roles are "synthetic", "inpainted" (synthetic in part, real patient elsewhere) and "real"; a real volume may have
"modality" and "display" ({"window", "level"}), for the others the provenance says it. Relative paths lie in JOB_DIR.
The last line on stdout is one JSON object, {"event": "done", "output": ...} or {"event": "error", "kind", "message",
"hint"}; the exit code is 0, 1 (failed while running) or 2 (bad input).
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from SynthDiffusionScene.errors import SceneError

FORMAT = "synthdiffusion-scene-1"
ROLES = ("synthetic", "inpainted", "real")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: `[--debug] JOB_DIR`; default the process's. With --debug, tracebacks go to stderr.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    folders = [argument for argument in arguments if argument != "--debug"]
    try:
        if len(folders) != 1:
            raise SceneError("One job folder is needed", "Usage: python -m SynthDiffusionScene.write JOB_DIR")
        output = _write(Path(folders[0]).resolve())
    except SceneError as error:
        if debug:
            traceback.print_exc()
        _say(event="error", kind=error.kind, message=error.message, hint=error.hint)
        return error.exitCode
    except Exception as error:  # the last line of defence: a child has nobody else to tell
        if debug:
            traceback.print_exc()
        _say(event="error", kind="internal", message=f"{type(error).__name__}: {error}", hint="")
        return 1
    _say(event="done", output=str(output))
    return 0


def readDescription(jobFolder: Path) -> dict:
    """Reads and checks `scene.json`; makes its paths absolute and loads the provenance that it names.

    Raises:
        SceneError: it is missing or not as described in this module's docstring.
    """
    path = jobFolder / "scene.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SceneError(f"'{path}' cannot be read ({error.strerror})", "Write the job's scene.json first.") from error
    except ValueError as error:
        raise SceneError(f"'{path}' is not valid JSON ({error})") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise SceneError(f"'{path}' is not a scene description of format '{FORMAT}'")
    output = _inFolder(jobFolder, description.get("output"), "output")
    if output.suffix != ".mrb":
        raise SceneError(f"The scene's file name '{output.name}' does not end in .mrb")
    result = {"output": output, "case": description.get("case"), "volumes": [], "segmentations": []}
    for kind in ("volumes", "segmentations"):
        entries = description.get(kind, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise SceneError(f"'{kind}' in '{path}' is not a list of objects")
        for entry in entries:
            result[kind].append({**entry, "path": _inFolder(jobFolder, entry.get("path"), f"{kind}: path")})
    for entry in result["volumes"]:
        if entry.get("role") not in ROLES:
            raise SceneError(f"Role '{entry.get('role')}' of volume '{entry['path'].name}' is not one of {ROLES}")
        entry["provenance"] = _provenance(jobFolder, entry.get("provenance"))
    return result


def _write(jobFolder: Path) -> Path:
    description = readDescription(jobFolder)
    try:
        import slicer

        slicer.vtkMRMLScene  # noqa: B018 - another package on PyPI is called slicer, too
    except (ImportError, AttributeError) as error:
        raise SceneError(
            f"The slicer-core package is not installed ({error})",
            'Install it with: pip install "SynthDiffusion[slicer]"',
        ) from error
    from SynthDiffusionScene.bundle import saveScene

    return saveScene(description)


def _inFolder(folder: Path, value: object, what: str) -> Path:
    """An absolute path as it is; a relative one below `folder`, and not out of it."""
    if not isinstance(value, str) or not value:
        raise SceneError(f"scene.json: '{what}' is missing")
    path = Path(value)
    if path.is_absolute():
        return path
    path = (folder / path).resolve()
    if not path.is_relative_to(folder):
        raise SceneError(f"scene.json: '{value}' leads out of the job folder")
    return path


def _provenance(folder: Path, value: object) -> dict:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    path = _inFolder(folder, value, "provenance")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SceneError(f"Provenance '{path}' cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SceneError(f"Provenance '{path}' is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise SceneError(f"Provenance '{path}' is not a JSON object")
    return content


def _say(**event: str) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
