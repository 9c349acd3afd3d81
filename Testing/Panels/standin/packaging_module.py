"""`slicer.packaging` with Slicer 5.12's signatures. What an installation does is what the test says."""

from __future__ import annotations

import importlib.metadata
import subprocess
import types


class Installations:
    """What pip was asked for, and how it answers.

    Attributes:
        calls: the arguments of every pip_install, by name.
        act: called with the requirements; returns the log lines, and may raise. The test replaces it.
        exit_code: of pip.
        hold: when true, a non-blocking installation ends only at `finish()`.
    """

    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.act = lambda requirements: [f"Collecting {requirements}", "Successfully installed"]
        self.exit_code = 0
        self.hold = False
        self._finish = None

    @property
    def running(self) -> bool:
        return self._finish is not None

    def finish(self) -> None:
        """Ends the installation that runs."""
        finish, self._finish = self._finish, None
        finish()

    def begin(self, finish) -> None:
        import qt

        self._finish = finish
        if not self.hold:
            qt.QTimer.singleShot(0, self.finish)


def packaging_module(installations: Installations) -> types.ModuleType:
    """A new module object `slicer.packaging`."""
    from packaging.requirements import InvalidRequirement, Requirement

    module = types.ModuleType("slicer.packaging")

    def as_requirements(given) -> list:
        if isinstance(given, Requirement):
            return [given]
        if isinstance(given, str):
            try:
                return [Requirement(given)]
            except InvalidRequirement:
                return [Requirement(part) for part in given.split()]
        return [one if isinstance(one, Requirement) else Requirement(one) for one in given]

    def load_requirements(path) -> list:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
        return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]

    def pip_check(req, _seen=None) -> bool:
        for requirement in as_requirements(req):
            if requirement.marker is not None and not requirement.marker.evaluate():
                continue
            try:
                version = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                return False
            if not requirement.specifier.contains(version, prereleases=True):
                return False
        return True

    def isPipInstallInProgress() -> bool:
        return installations.running

    def pip_install(
        requirements,
        constraints=None,
        no_deps_requirements=None,
        skip_packages=None,
        blocking=True,
        show_progress=True,
        requester=None,
        parent=None,
        logCallback=None,
        completedCallback=None,
    ):
        if skip_packages is not None and (no_deps_requirements is not None or not blocking):
            raise ValueError("skip_packages goes neither with no_deps_requirements nor with blocking=False")
        if not blocking and installations.running:
            raise RuntimeError("A non-blocking pip_install is already in progress.")
        arguments = {k: v for k, v in locals().items() if k not in ("requirements",)}
        installations.calls.append({"requirements": requirements, **arguments})

        def finish() -> None:
            for line in installations.act(requirements):
                if logCallback is not None:
                    logCallback(line)
            if completedCallback is not None:
                completedCallback(installations.exit_code)

        if not blocking:
            installations.begin(finish)
            return None
        installations.act(requirements)
        if installations.exit_code:
            raise subprocess.CalledProcessError(installations.exit_code, "pip")
        return [] if skip_packages is not None else None

    def pip_uninstall(requirements, blocking=True, logCallback=None, completedCallback=None) -> None:
        installations.calls.append({"uninstall": requirements})

    def pip_ensure(
        requirements,
        constraints=None,
        skip_packages=None,
        prompt_install=True,
        prompt_restart=True,
        requester=None,
        skip_in_testing=True,
        show_progress=True,
    ):
        import slicer

        missing = [str(req) for req in as_requirements(requirements) if not pip_check(req)]
        if not missing or (skip_in_testing and slicer.app.testingEnabled()):
            return None
        text = f"{len(missing)} Python packages need to be installed."
        if prompt_install and not slicer.util.confirmOkCancelDisplay(text, f"{requester} - Install Python Packages"):
            raise RuntimeError("User declined package installation")
        return pip_install(missing, constraints, skip_packages=skip_packages, requester=requester)

    for function in (load_requirements, pip_check, pip_ensure, pip_install, pip_uninstall, isPipInstallInProgress):
        setattr(module, function.__name__, function)
    return module
