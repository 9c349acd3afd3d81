"""Folders of the jobs of one Slicer session, below Slicer's folder for temporary files.

They hold copies of what the user works on, so they are removed as soon as they are not needed, and at the latest when
the module is cleaned up. What a crashed session has left is removed by a later one.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from pathlib import Path

import slicer
from slicer.i18n import tr as _

_PREFIX = "SynthDiffusion-"
_ABANDONED_SECONDS = 24 * 3600
_LEAST_FREE_BYTES = 1 << 20


class JobFolders:
    """Makes and removes folders.

    Args:
        parent: where the session's folder is made; default Slicer's temporary folder.
    """

    def __init__(self, parent: str | Path | None = None) -> None:
        self._parent = Path(parent or slicer.app.temporaryPath)
        self._session: Path | None = None

    def new(self, purpose: str) -> Path:
        """An empty folder whose name begins with `purpose`.

        Raises:
            OSError: it cannot be made.
        """
        if self._session is None or not self._session.exists():  # systems delete old temporary files
            self._parent.mkdir(parents=True, exist_ok=True)
            self._session = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
        return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=self._session))

    def remove(self, folder: Path | None) -> None:
        """Deletes a folder that `new` has made. What another program holds open stays until the session ends."""
        if folder is not None and self._session is not None and folder.parent == self._session:
            shutil.rmtree(folder, ignore_errors=True)

    def fullText(self, problem: str = "") -> str:
        """What to do, if the disk of the temporary files is as good as full, or `problem` says so; else ""."""
        try:
            full = shutil.disk_usage(self._parent).free < _LEAST_FREE_BYTES
        except OSError:
            full = False
        full = full or any(sign in problem for sign in (os.strerror(errno.ENOSPC), "Errno 28", "quota"))
        return _("The disk of the temporary files is full: free some space.") if full else ""

    def removeAll(self) -> None:
        if self._session is not None:
            shutil.rmtree(self._session, ignore_errors=True)
            self._session = None

    def removeAbandoned(self) -> None:
        """Deletes the folders of sessions that wrote nothing for a day."""
        limit = time.time() - _ABANDONED_SECONDS
        for folder in self._parent.glob(f"{_PREFIX}*"):
            try:
                if folder != self._session and folder.is_dir() and _lastChange(folder) < limit:
                    shutil.rmtree(folder, ignore_errors=True)
            except OSError:
                continue  # gone meanwhile, or another user's


def unwritableText(error: OSError) -> str:
    """Why nothing can be written, and the mend, for the user."""
    cause = _("The temporary files could not be written ({reason}).").format(reason=error.strerror or error)
    return f"{cause} " + _("Free some space on the disk, or choose another temporary folder in Slicer's settings.")


def _lastChange(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
