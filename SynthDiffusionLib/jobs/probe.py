"""`python -m SynthDiffusionLib.jobs.probe`: whether this Python can run jobs, and on which devices.

Prints one JSON object on one line and exits with 0 whatever it finds. Runs in a Python without any package.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sys
from typing import Any

from SynthDiffusionLib import __version__
from SynthDiffusionLib.errors import SynthDiffusionError
from SynthDiffusionLib.jobs.timings import cpu_name
from SynthDiffusionLib.resources import resource_path

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_CLAUSE = re.compile(r"(>=|<)\s*([\w.]+)")
_PRE_RELEASE = re.compile(r"\.?(a|b|c|rc|alpha|beta|pre|preview|dev)\.?\d*")


def read_requirements(name: str) -> list[tuple[str, str]]:
    """Name and whole line of each requirement in a file of Resources/Requirements."""
    text = resource_path("Requirements", name).read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(_NAME.match(line).group(), line) for line in lines]


def satisfies(version: str, requirement: str) -> bool:
    """Whether a version lies in the range of a requirement such as "numpy>=2.0,<3".

    PEP 440 as far as the files here go, which have no other operators: the package that knows all of it may be missing.
    """
    release, final = _release(version)
    for operator, bound in _CLAUSE.findall(requirement):
        wanted, _ = _release(bound)
        length = max(len(release), len(wanted))
        here, there = (numbers + (0,) * (length - len(numbers)) for numbers in (release, wanted))
        if operator == "<" and here >= there:  # "<3" leaves out 3.0rc1 too
            return False
        if operator == ">=" and (here < there or (here == there and not final)):  # 2.0rc1 comes before 2.0
            return False
    return True


def _release(version: str) -> tuple[tuple[int, ...], bool]:
    """Numbers of a version, and whether it is no pre-release; what stands after a "+" does not count."""
    match = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version.strip(), re.IGNORECASE)
    if not match:
        return (), False
    numbers = tuple(int(n) for n in match.group(1).split("."))
    rest = version.strip()[match.end() :].partition("+")[0].lower()
    return numbers, not _PRE_RELEASE.fullmatch(rest)


def installed_version(name: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, KeyError):  # KeyError: its metadata is damaged
        return None


def missing_packages(file: str = "engine.txt") -> list[dict[str, Any]]:
    """What of a file of Resources/Requirements is not installed, or in another version than is needed."""
    missing = []
    for name, requirement in read_requirements(file):
        found = installed_version(name)
        if found is None or not satisfies(found, requirement):
            missing.append({"name": name, "requirement": requirement, "installed": found})
    return missing


def look_at_torch() -> tuple[str | None, str | None]:
    """Version of torch (None: not there), and why it cannot be used (None: it can)."""
    ((name, requirement),) = read_requirements("torch.txt")
    found = installed_version(name)
    if found is None:
        return None, "PyTorch is not installed"
    if not satisfies(found, requirement):
        return found, f"PyTorch {found} is installed, but {requirement} is needed"
    try:
        import torch
    except Exception as error:  # a library that is missing, a driver that is too old: anything
        return found, f"PyTorch {found} cannot be loaded ({type(error).__name__}: {_one_line(error)})"
    return torch.__version__, None


def cpu(usable: bool) -> dict[str, Any]:
    """The processor and its memory; bytes are None where psutil is missing, the precision where torch is."""
    total = free = None
    try:
        import psutil
    except ImportError:
        pass
    else:
        memory = psutil.virtual_memory()
        total, free = memory.total, memory.available
    precision = _best_precision("cpu") if usable else None
    return {"id": "cpu", "name": cpu_name(), "total_bytes": total, "free_bytes": free, "precision": precision}


def gpus() -> list[dict[str, Any]]:
    """The GPUs that torch can use; one that is broken is left out."""
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = f"cuda:{index}"
        try:
            free, total = torch.cuda.mem_get_info(device)
            name = torch.cuda.get_device_name(device)
            with torch.cuda.device(device):
                precision = _best_precision(device)
        except RuntimeError as error:
            print(f"{device}: {_one_line(error)}", file=sys.stderr)
            continue
        found.append({"id": device, "name": name, "total_bytes": total, "free_bytes": free, "precision": precision})
    return found


def probe() -> dict[str, Any]:
    """The event "done" with what is here.

    Returns:
        "missing": packages, each with "name", "requirement" and "installed" (a version that does not do, or None);
        "missing_dicom": the same of those that only DICOM needs;
        "torch" and "torch_problem": see `look_at_torch`; "devices": the CPU first, then the GPUs. Jobs can be run if
        nothing is missing and torch has no problem.
    """
    torch, problem = look_at_torch()
    devices = [cpu(problem is None), *(gpus() if problem is None else [])]
    return {
        "event": "done",
        "python": platform.python_version(),
        "executable": sys.executable,
        "version": __version__,
        "missing": missing_packages(),
        "missing_dicom": missing_packages("dicom.txt"),
        "torch": torch,
        "torch_problem": problem,
        "devices": devices,
    }


def _best_precision(device: str) -> str:
    from SynthDiffusionLib.memory.plan import resolve_precision

    return resolve_precision("auto", device)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def main() -> int:
    """Prints the probe."""
    try:
        event = probe()
    except SynthDiffusionError as error:  # the installation is incomplete
        event = {"event": "error", "kind": error.kind, "message": error.message, "hint": error.hint}
    print(json.dumps(event), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
