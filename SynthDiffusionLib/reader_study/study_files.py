"""The volumes and masks of a study, each held against its checksum before it is shown."""

from __future__ import annotations

import hashlib
from pathlib import Path

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.study import Study


class StudyFiles:
    """Files of a study, checked once each.

    Args:
        study: whose files.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._checked: set[Path] = set()

    def volume(self, volume_id: str) -> Path:
        """File of a volume.

        Raises:
            BadInput: it is missing, or not the one that the study was made with.
        """
        return self._check(self._study.volume_path(volume_id), self._study.volumes[volume_id].get("sha256"))

    def mask(self, volume_id: str) -> Path | None:
        """File of a volume's mask; None if it has none.

        Raises:
            BadInput: as `volume`.
        """
        path = self._study.mask_path(volume_id)
        return None if path is None else self._check(path, self._study.volumes[volume_id].get("mask_sha256"))

    def _check(self, path: Path, sha256: str | None) -> Path:
        if path in self._checked:
            return path
        try:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BadInput(f"'{path}' cannot be read ({error.strerror})", "Copy the study again.") from error
        if sha256 and found != sha256:
            raise BadInput(f"'{path}' is not the file that the study was made with", "Copy the study again.")
        self._checked.add(path)
        return path
