"""The PyTorch extension, the only way in which PyTorch comes into Slicer's Python: it finds the build for the GPU."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import slicer
from slicer.i18n import tr as _

NAME = "PyTorch"


def isPyTorchPart(name: str) -> bool:
    """Whether a distribution (canonical name) comes and goes with PyTorch, so that installing PyTorch may change it."""
    parts = ("torch", "torchvision", "torchaudio", "triton", "light-the-torch")
    return name in parts or name.startswith(("nvidia-", "cuda-"))


def loadProblem() -> str:
    """Why the extension cannot be used: "" if it can, "missing", or what Python says about it."""
    try:
        import PyTorchUtils  # noqa: F401
    except ImportError as error:
        return "missing" if error.name == "PyTorchUtils" else str(error)
    return ""


def offerExtension() -> tuple[str, str]:
    """Has Slicer install the extension, if the user agrees to Slicer's question.

    Returns:
        what came of it, and what is to be done next.
    """
    manager = slicer.app.extensionsManagerModel()
    byHand = _("Install the extension 'PyTorch' in the Extensions Manager, then restart Slicer.")
    if manager is None:
        return _("PyTorch is installed through the extension 'PyTorch', and this Slicer has no extensions."), byHand
    if manager.isExtensionInstalled(NAME):
        return (
            _("The extension 'PyTorch' is installed, but not loaded."),
            _("Restart Slicer. If this comes again, enable the extension in the Extensions Manager."),
        )
    # No restart: the user may want to save the scene first.
    if not manager.installExtensionFromServer(NAME, False, False):
        return _("PyTorch is installed through the extension 'PyTorch', which is not installed."), byHand
    return (
        _("The extension 'PyTorch' is installed now."),
        _("Save your scene, restart Slicer, and click 'Install PyTorch...' again."),
    )


def installTorch(requirement: str, constraints: Path, onLine: Callable[[str], None]) -> bool:
    """Has the extension install PyTorch after a question of its own. Blocks, while Slicer's events are processed.

    Args:
        requirement: range of versions, such as ">=2.8,<3".
        constraints: file for `pip --constraint`: what must not change.
        onLine: gets each line that pip prints.

    Returns:
        False if the user has declined.

    Raises:
        Exception: whatever the extension raises.
    """
    import PyTorchUtils

    with _pipConstraint(constraints), contextlib.redirect_stdout(_Tee(sys.stdout, onLine)):
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=requirement)
    return torch is not None


@contextlib.contextmanager
def _pipConstraint(path: Path) -> Iterator[None]:
    """Holds each pip below to a constraints file. The extension calls pip itself, and has no argument for one."""
    before = os.environ.get("PIP_CONSTRAINT")
    # As an address: pip splits the variable at blanks, which the path of a temporary folder may have.
    os.environ["PIP_CONSTRAINT"] = " ".join(filter(None, [before, path.as_uri()]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PIP_CONSTRAINT"]
        else:
            os.environ["PIP_CONSTRAINT"] = before


class _Tee(io.TextIOBase):
    """Passes text on, and hands out its lines: Slicer prints what pip prints."""

    def __init__(self, stream, onLine: Callable[[str], None]) -> None:
        self._stream, self._onLine = stream, onLine
        self._rest = ""

    def write(self, text: str) -> int:
        self._stream.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._onLine(line.rstrip("\r"))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
