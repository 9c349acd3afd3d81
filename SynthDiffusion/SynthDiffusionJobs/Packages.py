"""The packages of Slicer's Python: what is there, what pip would add, and why it cannot.

Pure: nothing here runs pip or changes anything, see `Installation`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

_LONGEST_REASON = 8  # lines of pip's own words in a message; the log has all of them

# What pip prints when it cannot reach a package server. It then goes on, and ends with "no matching distribution".
_NETWORK_SIGNS = (
    "connection broken by",
    "failed to establish a new connection",
    "could not fetch url",
    "name or service not known",
    "getaddrinfo failed",
    "temporary failure in name resolution",
    "network is unreachable",
    "connecttimeouterror",
    "proxyerror",
    "sslerror",
)
_FULL_SIGNS = ("no space left on device", "[errno 28]", "not enough space on the disk", "winerror 112")
_DENIED_SIGNS = ("[errno 13]", "winerror 5]", "permission denied")


@dataclass(frozen=True)
class PlannedPackage:
    """A package that pip would install.

    Args:
        name, version: as the distribution writes them.
        bytes: size of the download, as measured for the release; None if that is not known.
    """

    name: str
    version: str
    bytes: int | None = None


def canonicalName(name: str) -> str:
    """The form in which two names of one distribution are equal (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installedVersions() -> dict[str, str]:
    """Canonical name and version of every distribution that this Python now finds."""
    importlib.invalidate_caches()  # pip has run in another process
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        name, version = metadata.get("Name"), metadata.get("Version")
        if name and version:  # else it is damaged, and pip ignores it, too
            # The first on the path is the one that is imported.
            versions.setdefault(canonicalName(name), version)
    return versions


def changedVersions(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """ "numpy 2.4.1 → 2.5.0" for each package of `before` that has another version, or none, in `after`."""
    return [
        f"{name} {version} → {after.get(name) or _('removed')}"
        for name, version in sorted(before.items())
        if after.get(name) != version
    ]


def constraintLines(versions: Mapping[str, str]) -> list[str]:
    """Lines of a file for `pip --constraint` that allows these versions and no others.

    A version that PEP 440 does not know is left out: pip would refuse the whole file. `changedVersions` guards it.
    """
    from packaging.version import InvalidVersion, Version

    lines = []
    for name, version in sorted(versions.items()):
        try:
            Version(version)
        except InvalidVersion:
            continue
        lines.append(f"{name}=={version}")
    return lines


def readRequirements(path: str | Path) -> list[str]:
    """The requirements in a file of Resources/Requirements, without comments."""
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def readReport(path: Path, sizes: Mapping[str, Mapping]) -> list[PlannedPackage]:
    """What `pip install --dry-run --report` says that it would install.

    Args:
        path: the report.
        sizes: the "packages" of Resources/Requirements/sizes.json.

    Raises:
        ValueError: it is not a report of pip.
    """
    known = {canonicalName(name): entry["bytes"] for name, entry in sizes.items()}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["install"]
        found = [(entry["metadata"]["name"], entry["metadata"]["version"]) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(_("pip's report cannot be read ({reason}).").format(reason=error)) from error
    found.sort(key=lambda item: canonicalName(item[0]))
    return [PlannedPackage(name, version, known.get(canonicalName(name))) for name, version in found]


def changesTo(installed: Mapping[str, str], plan: Sequence[PlannedPackage]) -> list[str]:
    """ "numpy 2.4.1 → 2.5.0" for each package of a plan that is installed already, whatever its version."""
    return [
        f"{package.name} {installed[canonicalName(package.name)]} → {package.version}"
        for package in plan
        if canonicalName(package.name) in installed
    ]


def describePlan(plan: Sequence[PlannedPackage]) -> tuple[str, list[str]]:
    """Number and size of the downloads in a line, and each package with its version and size."""
    known = [package.bytes for package in plan if package.bytes is not None]
    total = _("about {size}").format(size=_megabytes(sum(known))) if known else _("size not known")
    if known and len(known) < len(plan):
        total += _(", and {n} of which the size is not known").format(n=len(plan) - len(known))
    sizes = [_("size not known") if package.bytes is None else _megabytes(package.bytes) for package in plan]
    lines = [f"{package.name} {package.version} ({size})" for package, size in zip(plan, sizes)]
    return _("{n} packages: {total}").format(n=len(plan), total=total), lines


def pipProblem(log: str) -> tuple[str, str]:
    """Why pip has failed, and the mend, from all that it has printed."""
    lower = log.lower()
    otherPython = _("Choose another Python under Advanced, in which versions that go together can be installed.")
    if "resolutionimpossible" in lower:
        reason = "\n".join(_conflict(log) or _errorLines(log))
        return _("The packages do not go together with what Slicer has:\n{reason}").format(reason=reason), otherPython
    if any(sign in lower for sign in _FULL_SIGNS):
        return _("The disk is full."), _("Free some space and try again.")
    if any(sign in lower for sign in _DENIED_SIGNS):
        return (
            _("Slicer's folder cannot be written."),
            _("Install Slicer into a folder of your own, or choose another Python under Advanced."),
        )
    if any(sign in lower for sign in _NETWORK_SIGNS):
        return (
            _("No package server could be reached."),
            _(
                "Connect the computer to the internet and try again. Behind a proxy, set the environment variable"
                " HTTPS_PROXY before Slicer starts. Without internet, choose another Python under Advanced."
            ),
        )
    errors = _errorLines(log) or [line for line in log.splitlines() if line.strip()][-1:]
    if not errors:
        return _("pip has ended without saying why."), _("Try again, or choose another Python under Advanced.")
    return "\n".join(errors), otherPython


def _conflict(log: str) -> list[str]:
    """The indented lines below pip's "The conflict is caused by:"."""
    lines: list[str] = []
    for block in log.split("The conflict is caused by:\n")[1:]:
        for line in block.splitlines():
            if not line.startswith(" "):
                break
            if line.strip() not in lines:
                lines.append(line.strip())
    return lines[:_LONGEST_REASON]


def _errorLines(log: str) -> list[str]:
    lines = [line.strip() for line in log.splitlines()]
    return [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")][-_LONGEST_REASON:]


def _megabytes(size: float) -> str:
    """ "0.3 MB", "80 MB"; of 10^6 bytes, as download sizes are given."""
    size /= 1e6
    return _("{n:.0f} MB").format(n=size) if size >= 10 else _("{n:.1f} MB").format(n=max(size, 0.1))
