"""From an entry of the catalogue to an installed package: licence, files, conversion."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.jobs.events import OnEvent, ignore
from SynthDiffusionLib.models import hub
from SynthDiffusionLib.models.catalogue import CatalogueEntry, CatalogueFile, origin_of
from SynthDiffusionLib.models.download import bytes_there, check_space, clear, download, expect, only_one
from SynthDiffusionLib.models.folders import package_folders, user_folder
from SynthDiffusionLib.models.importers import import_checkpoint
from SynthDiffusionLib.models.package import load_package, sha256_of
from SynthDiffusionLib.models.registry import Installed, remove

_EVENT_SECONDS = 0.25


@dataclass(frozen=True)
class Acceptance:
    """That the user has accepted a licence: when (ISO 8601, UTC), and how ("option" or "terminal")."""

    at: str
    how: str

    @staticmethod
    def now(how: str) -> Acceptance:
        """An acceptance at this moment."""
        return Acceptance(_now(), how)


def install_released(
    entry: CatalogueEntry,
    acceptance: Acceptance | None,
    *,
    source: Path | None = None,
    token_file: Path | None = None,
    on_event: OnEvent = ignore,
    should_cancel: Callable[[], bool] = lambda: False,
) -> Installed:
    """Gets the files of a released model, converts them, and installs them as a package with the entry's ID.

    Args:
        entry: which.
        acceptance: of its licence.
        source: folder with the files, by their paths in the repository or by their plain names; nothing is asked of
            the network then.
        token_file: file with the access token, for gated repositories; HF_TOKEN without it.
        on_event: receives progress: bytes of all files together.
        should_cancel: asked while downloading.

    Raises:
        BadInput: the licence has not been accepted, or the folder lacks a file.
        ModelError: no access; the files are not what the catalogue says; another model has the ID.
        RunFailed: the network, the server or the disk failed, or another process is installing it.
        Cancelled: by `should_cancel`; what has been downloaded is kept for the next time.
    """
    if installed := already_installed(entry):
        return installed
    if acceptance is None:
        raise not_accepted(entry)
    progress = _Progress(on_event)
    if source is not None:
        return _converted(entry, acceptance, *_local(entry, source), progress)
    token, folder = hub.read_token(token_file), download_folder(entry)
    with only_one(folder, entry.id):
        if installed := already_installed(entry):  # by another process, just now
            return installed
        files, records = _downloaded(entry, token, progress, should_cancel)
        try:
            done = _converted(entry, acceptance, files, records, progress)
        except ModelError as error:
            raise ModelError(error.message, f"{error.hint} The downloaded files are in '{folder}'.") from error
        clear(folder, [path.name for path in files])
    return done


def _converted(
    entry: CatalogueEntry,
    acceptance: Acceptance,
    files: list[Path],
    records: list[dict[str, Any]],
    progress: _Progress,
) -> Installed:
    licence = entry.license
    provenance = {
        "source_files": records,
        "licence_accepted": {
            "name": licence.name,
            "spdx": licence.spdx,
            "url": licence.url,
            "version": licence.version,
            "at": acceptance.at,
            "how": acceptance.how,
        },
    }
    progress.converting(entry.id)
    if entry.id in package_folders():  # damaged, or `already_installed` would have said so
        remove(entry.id)
    return import_checkpoint(files, entry.id, like=entry.preset, origin=origin_of(entry, provenance))


def already_installed(entry: CatalogueEntry) -> Installed | None:
    """The package of an entry, if it is there and intact; a damaged one is to be replaced.

    Raises:
        ModelError: another model has the ID.
    """
    known = package_folders()
    if entry.id not in known:
        return None
    try:
        package = load_package(entry.id)
    except ModelError:
        if known[entry.id][1] == "user":
            return None
        raise
    if package.spec.provenance.get("catalogue") != entry.id:
        raise ModelError(
            f"Another model '{entry.id}' is installed already", f"Remove it: synthdiffusion models remove {entry.id}."
        )
    return Installed(package, already_there=True)


def not_accepted(entry: CatalogueEntry) -> BadInput:
    """The error for a licence that has not been accepted."""
    licence = entry.license
    return BadInput(
        f"'{entry.id}' comes under the {licence.name} ({licence.url}), which has not been accepted. "
        f"{licence.permitted_use}",
        "Read it; to accept it, give --accept-licence.",
    )


def download_folder(entry: CatalogueEntry) -> Path:
    """Where the files of an entry are until they are converted."""
    return user_folder() / ".downloads" / entry.id


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _record(file: CatalogueFile, path: Path, **more: Any) -> dict[str, Any]:
    return {
        "role": file.role,
        "repo": file.repo,
        "path": file.path,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        **more,
        "at": _now(),
    }


def _local(entry: CatalogueEntry, source: Path) -> tuple[list[Path], list[dict[str, Any]]]:
    source = source.expanduser()
    if not source.is_dir():
        raise BadInput(f"'{source}' is not a folder", "Give the folder that holds the files by --from.")
    found, lacking = [], []
    for file in entry.files:
        plain = source / file.path.rsplit("/", 1)[-1]
        path = next((p for p in (source / file.path, plain) if p.is_file()), None)
        if path is None:
            lacking.append(file)
        else:
            found.append(path)
    if lacking:
        names = ", ".join(f"'{f.path}' ({hub.DEFAULT_ENDPOINT}/{f.repo})" for f in lacking)
        raise BadInput(f"'{source}' lacks {names}", "Download it there, and put it into the folder.")
    records = []
    for file, path in zip(entry.files, found):
        record = _record(file, path, revision=None, source="local file")
        for what in ("sha256", "bytes"):
            known = getattr(file, what)
            if known is not None and record[what] != known:
                raise ModelError(
                    f"'{path}' is not the released file: {what} {record[what]} instead of {known}", "Get it again."
                )
        records.append(record)
    return found, records


def _downloaded(
    entry: CatalogueEntry, token: str | None, progress: _Progress, should_cancel: Callable[[], bool]
) -> tuple[list[Path], list[dict[str, Any]]]:
    folder = download_folder(entry)
    remotes = [expect(hub.describe(f.repo, f.path, f.revision, token), f.sha256, f.bytes) for f in entry.files]
    sizes = [remote.bytes or 0 for remote in remotes]
    left = sum(max(0, size - bytes_there(remote, folder)) for size, remote in zip(sizes, remotes))
    # The package's weights take about as much again, before the downloads are deleted.
    check_space(folder, left + sum(sizes), f"'{entry.id}'")
    progress.total = sum(sizes)
    files, records = [], []
    for file, remote in zip(entry.files, remotes):
        before = sum(path.stat().st_size for path in files)
        path = download(remote, folder, token, progress.of(remote.name, before), should_cancel)
        records.append(
            _record(
                file,
                path,
                revision=remote.commit,
                etag=remote.etag,
                checksum_from="server" if remote.sha256 else "measured here, the server gives none",
                source=hub.host_of(remote.url),
            )
        )
        files.append(path)
    return files, records


class _Progress:
    """Progress of a download as events: bytes of all files, a few times a second."""

    def __init__(self, on_event: OnEvent) -> None:
        self.total = 0
        self._on_event = on_event
        self._began: tuple[float, int] | None = None
        self._last = 0.0

    def of(self, name: str, before: int) -> Callable[[int], None]:
        """What `download` reports to, for a file that comes after `before` bytes of others."""

        def report(done: int) -> None:
            now, step = time.monotonic(), before + done
            if self._began is None:
                self._began = now, step
            if now - self._last >= _EVENT_SECONDS or step == self.total:
                self._last = now
                self._send("download", step, self.total, self._seconds_left(now, step), name)

        return report

    def converting(self, name: str) -> None:
        """The files are there and are made into a package now."""
        self._send("convert", 0, 1, None, name)

    def _seconds_left(self, now: float, step: int) -> float | None:
        began, first = self._began or (now, step)
        if step <= first or now <= began:
            return None
        return round(max(0, self.total - step) * (now - began) / (step - first), 1)

    def _send(self, stage: str, step: int, total: int, eta_s: float | None, message: str) -> None:
        self._on_event(
            {
                "event": "progress",
                "stage": stage,
                "step": step,
                "total": max(total, step),
                "eta_s": eta_s,
                "message": message,
            }
        )
