"""The command line that makes a volume again, from the provenance of the volume."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib.jobs.tumour import tumour_text

# Special to a shell or to the Windows command prompt. Within JSON text any character may be written as \uXXXX.
_SPECIAL = "&|<>^%!'`$;*?~#()"


def command_line(
    provenance: Mapping[str, Any],
    segmentation: Path | str | None,
    out: Path | str,
    image: Path | str | None = None,
) -> list[str]:
    """Arguments that make the same volume again: all that was resolved is given, so that no default matters.

    The number of CPU threads cannot be given; with another one, voxels may differ in their last bit before rounding.

    Args:
        provenance: content of the .json file beside the volume.
        segmentation: file of the segmentation that it was made from; None for a volume without a drawing.
        out: folder for the results.
        image: the real volume, if it was inpainted.

    Returns:
        `["synthdiffusion", "generate", ...]`.

    Raises:
        ValueError: the volume was inpainted, and no image is given; or it was made from a segmentation, and none is.
    """
    settings, plan = provenance["settings"], provenance["plan"]
    inpainted = settings["mode"] == "inpaint"
    if inpainted and image is None:
        raise ValueError("the volume was inpainted: its real volume is needed")
    undrawn = settings["mode"] in ("unconditional", "joint")
    if not undrawn and segmentation is None:
        raise ValueError("the volume was made from a segmentation: it is needed")
    options: list[tuple[str, Any]] = [
        ("--model", provenance["model"]["id"]),
        ("--out", out),
        ("--mode", settings["mode"]),
        ("--image", image if inpainted else None),
        ("--labels", _labels_text(provenance["mapping"]["segments"])),
        ("--classes", _classes_text(provenance)),
        ("--tumour", tumour_text(settings["tumour"]["used"]) if settings.get("tumour") else None),
        ("--crop", bool(settings.get("crop"))),
        ("--sampler", settings["sampler"]),
        ("--steps", settings["steps"]),
        ("--seed", settings["seed"]),
        ("--guidance", settings["guidance"]),
        ("--size", _by(settings.get("size"))),
        ("--spacing", _by(settings.get("spacing_mm"))),
        ("--condition-scale", settings.get("condition_scale")),
        ("--region", ",".join(settings["region"]) if settings.get("region") else None),
        ("--modality", settings.get("modality")),
        ("--margin", settings.get("margin_mm")),
        ("--inpaint-method", settings.get("inpaint_method")),
        ("--device", plan["device"].split(":")[0]),  # another machine numbers its GPUs differently
        ("--precision", plan["precision"]),
        ("--strategy", _strategies_text(plan.get("execution"))),
        ("--case", provenance["case"]),
        ("--adherence", "adherence" in provenance),
    ]
    arguments = ["synthdiffusion", "generate", *([] if undrawn else [_positional(str(segmentation))])]
    for name, value in options:
        if value is True:
            arguments.append(name)
        elif value is not None and value is not False:
            text = str(value)
            # A value that begins with a dash would be taken for an option.
            arguments += [f"{name}={text}"] if text.startswith("-") else [name, text]
    return arguments


def as_text(arguments: Sequence[str], windows: bool = os.name == "nt") -> str:
    """The arguments as one line that can be pasted into a terminal.

    Args:
        arguments: see `command_line`.
        windows: quote for the Windows command prompt (cmd) instead of a POSIX shell.
    """
    if not windows:
        return shlex.join(arguments)
    return " ".join(_quoted_for_windows(argument) for argument in arguments)


def _quoted_for_windows(argument: str) -> str:
    """By the rules of Microsoft's C runtime: backslashes count only before a double quote, which they escape."""
    import subprocess

    quoted = subprocess.list2cmdline([argument])
    if quoted.startswith('"') or not any(c in _SPECIAL for c in argument):
        return quoted
    # Without a blank in it, list2cmdline leaves what is special to the command prompt bare.
    return '"' + quoted + "\\" * (len(argument) - len(argument.rstrip("\\"))) + '"'


def _by(values: Sequence[float] | str | None) -> str | None:
    return "x".join(f"{v!r}" for v in values) if isinstance(values, list | tuple) else values


def _strategies_text(execution: Mapping[str, Any] | None) -> str | None:
    return ",".join(f"{name}={way}".lower() for name, way in (execution or {}).items()) or None


def _positional(path: str) -> str:
    return os.path.join(".", path) if path.startswith("-") else path


def _labels_text(segments: Sequence[Mapping[str, Any]]) -> str | None:
    """The explicit map that gives every drawn segment the class that it had, as JSON; None where none is needed."""
    named: dict[str, set[str | None]] = {}
    for s in segments:
        if s["voxels"]:
            named.setdefault(s["name"], set()).add(_class_of(s))
    labels: dict[str, str | None] = {}
    for s in segments:
        if not s["voxels"] or (_class_of(s) is None and s["how"] is None):
            continue  # empty, or nothing matches it: left out again without being named
        if len(named[s["name"]]) == 1 and s["name"]:
            labels[s["name"]] = _class_of(s)
            continue
        # Segments of one name went to different classes, or it has no name: only the value tells it apart.
        value = str(s["value"])
        if value in named or sum(str(other["value"]) == value for other in segments) > 1:
            return None  # not even these: the codes that they were matched by will match again
        labels[value] = _class_of(s)
    if not labels:
        return None
    text = json.dumps(labels)  # ASCII
    return "".join(f"\\u{ord(c):04x}" if c in _SPECIAL else c for c in text)


def _class_of(segment: Mapping[str, Any]) -> str | None:
    return segment.get("unused") or segment["class"]


def _classes_text(provenance: Mapping[str, Any]) -> str | None:
    """The classes that were used, if others were drawn that were not."""
    if not any(s.get("unused") for s in provenance["mapping"]["segments"]):
        return None
    return ",".join(provenance["given_classes"])
