"""Which files of a folder an export wrote, of which study: so that the next one takes away what is not its own.

`exports.json` has the name, the study and the SHA-256 of each. A file is removed only if it is listed there and is what
the export wrote, to the byte: what somebody has worked on since stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import shortened
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.reader_study.exports import write_json
from SynthDiffusionLib.reader_study.study import Study
from SynthDiffusionLib.schemas import read_json

NAME, FORMAT = "exports.json", "synthdiffusion-exports-1"
_NAMES = (
    "ratings_long.csv", "ratings_wide.csv", "ratings.imrmc", "ratings.cases.csv", "ratings_mrmcaov.csv",
    "ratings_mrmcaov.cases.csv", "Questionnaire-*.json", "QuestionnaireResponses.json", "codebook.csv", "grras.md",
)  # fmt: skip


class Exported:
    """The list of a folder.

    Args:
        folder: that is exported to.
        study: that is exported now.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        self.folder, self.study = folder, study
        self.path = folder / NAME
        self._files: dict[str, dict[str, str]] = _read(self.path)

    def add(self, kind: str, paths: Iterable[Path]) -> None:
        """Lists files that have just been written.

        Raises:
            BadInput, RunFailed: the list cannot be written.
        """
        for path in paths:
            entry = {"kind": kind, "study": self.study.id, "study_sha256": self.study.sha256}
            self._files[path.name] = {**entry, "sha256": sha256_of(path)}
        self._write()

    def remove_stale(self, kinds: Collection[str], written: Collection[Path]) -> list[str]:
        """Removes files of other studies, and those of this one that the kinds asked for no longer have.

        Args:
            kinds: that were asked for.
            written: files of this export.

        Returns:
            a sentence for each that stays because it is not what an export wrote, and one on files that are named like
            an export's and not listed.

        Raises:
            BadInput, RunFailed: the list cannot be written.
        """
        notes = self._unlisted(written)
        for name, entry in list(self._files.items()):
            path = self.folder / name
            is_own = entry["study_sha256"] == self.study.sha256
            if path in written or (is_own and entry["kind"] not in kinds):
                continue
            del self._files[name]
            if not path.is_file() or path.is_symlink():
                continue
            of = "an earlier export of this study" if is_own else f"an export of the study {entry['study']}"
            with suppress(OSError):
                if sha256_of(path) == entry["sha256"]:
                    path.unlink()
                    continue
            notes.append(f"'{name}' is from {shortened(of, 80)} and was changed since: it is left there.")
        self._write()
        return notes

    def _unlisted(self, written: Collection[Path]) -> list[str]:
        found = sorted(path for pattern in _NAMES for path in self.folder.glob(pattern))
        names = [path.name for path in found if path not in written and path.name not in self._files]
        if not names:
            return []
        shown = ", ".join(f"'{shortened(name, 60)}'" for name in names[:3])
        shown += f" and {len(names) - 3} more" if len(names) > 3 else ""
        return [f"The folder held {shown} before, and '{NAME}' does not say of which study: left there."]

    def _write(self) -> None:
        files = [{"file": name, **entry} for name, entry in sorted(self._files.items())]
        write_json(self.path, {"format": FORMAT, "files": files})


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Entries by name; nothing of a list that is missing or damaged, and no name that leaves the folder."""
    try:
        data: Any = read_json(path)
    except (OSError, ValueError):
        return {}
    entries = data.get("files") if isinstance(data, dict) and data.get("format") == FORMAT else None
    keys = ("file", "kind", "study", "study_sha256", "sha256")
    return {
        entry["file"]: {key: entry[key] for key in keys[1:]}
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in keys)
        and entry["file"] == Path(entry["file"]).name
        and entry["file"] not in ("", ".", "..", NAME)
        and not any(c in entry["file"] for c in "\0\\/:")
    }
