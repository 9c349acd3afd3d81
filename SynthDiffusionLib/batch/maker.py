"""Making the items of a batch, one after the other, with the model in memory: what every worker does."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib import __version__
from SynthDiffusionLib.batch.items import Item
from SynthDiffusionLib.batch.store import Store, is_disk_full
from SynthDiffusionLib.errors import BadInput, Cancelled, OutOfMemory, RunFailed, SynthDiffusionError
from SynthDiffusionLib.jobs.events import OnEvent, ignore
from SynthDiffusionLib.jobs.provenance import library_versions, sha256_of
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.volumes.atomic import writing_error

# Why an item is not there: its input or settings, which no other worker can mend; something that may pass; or the
# worker's surroundings, so that it is of no use for other items either.
# `UNREADABLE`: a file of its input, which may be so for this worker alone.
FINAL, PASSING, SURROUNDINGS, UNREADABLE = "final", "passing", "surroundings", "unreadable"


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know before its first item.

    Args:
        template: `GenerateRequest.to_json` of what all items have in common, the device among it.
        out: folder of the batch, as the worker sees it.
        token: of the worker, unique in the batch; begins with that of its driver.
        scratch: folder on the worker's own disk for what it has begun, in which variables such as $TMPDIR stand for
            what they are there; None: within the batch's folder.
    """

    template: Mapping[str, Any]
    out: str
    token: str
    scratch: str | None = None


@dataclass(frozen=True)
class Made:
    """What became of an item.

    Args:
        key: of the item.
        status: "done", "there" (another worker was first) or "failed".
        seconds: that it took.
        how: of a failure: `FINAL`, `PASSING`, `SURROUNDINGS` or `UNREADABLE`.
        kind: of a failure: that of the error.
        message, hint: of a failure.
        resident_bytes: memory of the worker's process afterwards.
    """

    key: str
    status: str
    seconds: float = 0.0
    how: str = ""
    kind: str = ""
    message: str = ""
    hint: str = ""
    resident_bytes: int = 0


def code_checksum() -> str:
    """SHA-256 of the library's own code: two workers of one version may still differ."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        text = path.read_bytes().replace(b"\r\n", b"\n")  # as Git writes it on Windows
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + text)
    return digest.hexdigest()


def software_here() -> dict[str, Any]:
    """What must be alike on all machines of a batch ("version", "code"), and what should be ("libraries", "python")."""
    return {
        "version": __version__,
        "code": code_checksum(),
        "libraries": library_versions(),
        "python": platform.python_version(),
    }


def begun_folder(setup: Setup) -> Path:
    """Where a worker keeps what it has begun, if that is not within the batch's folder."""
    scratch = Path(os.path.expandvars(str(setup.scratch))).expanduser()
    return scratch / f"synthdiffusion-{setup.token}"


class Maker:
    """Makes items with a model that is loaded once.

    Args:
        setup: of the worker.
        on_event: gets the events of the runs.

    Raises:
        BadInput: the batch's folder cannot be reached from here.
        ModelError: the model is not here, or is another.
    """

    def __init__(self, setup: Setup, on_event: OnEvent = ignore) -> None:
        from SynthDiffusionLib.batch.items import model_of
        from SynthDiffusionLib.errors import ModelError
        from SynthDiffusionLib.jobs.runner import load_model
        from SynthDiffusionLib.memory.heap import keep_heap_small

        keep_heap_small()
        self._template = GenerateRequest.from_json(dict(setup.template))
        self._store, self._setup, self._on_event = Store(Path(setup.out)), setup, on_event
        batch = self._store.description()
        self._work = self._begun_in()
        self.loaded = load_model(self._template.model, self._template.adherence, on_event)
        if (here := model_of(self.loaded.package.spec)) != batch["model"]:
            version = f"version {here['version']}" if here["version"] != batch["model"]["version"] else "other weights"
            raise ModelError(
                f"The model '{here['id']}' on {platform.node()} is not that of the batch ({version})",
                "Install the same package on all machines.",
            )

    def describe(self) -> dict[str, Any]:
        """Where this worker is, and with which software."""
        return {"host": platform.node(), "pid": os.getpid(), "software": software_here()}

    def make(self, item: Item, should_cancel: Callable[[], bool] = lambda: False) -> Made:
        """Makes an item and gives it its place, or says why not. Never raises but for `Cancelled`."""
        began = time.monotonic()
        work = self._work / item.key
        try:
            if self._store.finished(item) is not None:
                return Made(item.key, "there")
            self._store.description()  # or it is not the batch's folder any more
            first = self._make(item, work, should_cancel, began)
            return Made(item.key, "done" if first else "there", time.monotonic() - began, resident_bytes=_resident())
        except (Cancelled, KeyboardInterrupt):
            raise
        except Exception as error:
            return self._failed(item, error, time.monotonic() - began)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def close(self) -> None:
        """Removes what was begun."""
        shutil.rmtree(self._work, ignore_errors=True)

    def _begun_in(self) -> Path:
        """The folder for what is begun.

        Raises:
            BadInput, RunFailed: it cannot be made.
        """
        if self._setup.scratch is None:
            return self._store.work_folder(self._setup.token)
        folder = begun_folder(self._setup)
        try:
            shutil.rmtree(folder, ignore_errors=True)  # of this worker, before it was killed and started again
            folder.mkdir(parents=True)
        except OSError as error:
            raise writing_error(error, folder) from error
        return folder

    def _make(self, item: Item, work: Path, should_cancel: Callable[[], bool], began: float) -> bool:
        from SynthDiffusionLib.jobs.runner import run

        shutil.rmtree(work, ignore_errors=True)  # left by a worker that was killed
        work.mkdir(parents=True)
        _check_inputs(item)
        request = item.request(self._template, work)
        result = run(request, self._on_event, should_cancel, loaded=self.loaded)
        (output,) = result.outputs
        files = {what: path for what, path in output.items() if isinstance(path, Path)}
        made = {
            "host": platform.node(),
            "worker": self._setup.token,
            "software": __version__,
            "seconds": round(time.monotonic() - began, 3),
            "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "notes": result.notes,
        }
        if self._setup.scratch is None:
            return self._store.publish(work, item, files, made)
        token = f"{self._setup.token}-{uuid.uuid4().hex[:8]}"
        beside = self._store.work_folder(token)
        try:
            copied = {what: Path(shutil.copy(path, beside / path.name)) for what, path in files.items()}
            return self._store.publish(beside, item, copied, made)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _failed(self, item: Item, error: Exception, seconds: float) -> Made:
        if isinstance(error, SynthDiffusionError):
            kind, message, hint = error.kind, error.message, error.hint
            # What is too large now may fit when others need less memory.
            how = FINAL if error.exit_code == 2 and not isinstance(error, OutOfMemory) else PASSING
            how = UNREADABLE if isinstance(error, _Unreadable) else how
        elif isinstance(error, MemoryError):
            kind, message, hint = "out_of_memory", "The machine ran out of memory", "Use fewer workers."
            how = PASSING
        elif isinstance(error, OSError):
            kind, message = "internal", f"{type(error).__name__}: {error}"
            hint, how = "Check the path and the disk.", PASSING
        else:
            traceback.print_exception(error, file=sys.stderr)
            kind, message = "internal", f"{type(error).__name__}: {error}"
            hint = "This is a fault of SynthDiffusion; please report it with the log of the worker."
            how = PASSING
        if not self._work.is_dir():  # somebody has tidied up
            how = PASSING
        if is_disk_full(error):
            how, hint = SURROUNDINGS, "Free some space, then go on with --resume."
        elif (trouble := self._surroundings()) is not None:
            how, kind, message, hint = SURROUNDINGS, trouble.kind, trouble.message, trouble.hint
        return Made(item.key, "failed", seconds, how, kind, message, hint, _resident())

    def _surroundings(self) -> SynthDiffusionError | None:
        """What is wrong with the folders that this worker needs, if anything."""
        try:
            self._store.description()
            self._work.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._work) as probe:
                probe.write(bytes(4096))
        except SynthDiffusionError as error:
            return error
        except OSError as error:
            return writing_error(error, self._work)
        return None


class _Unreadable(RunFailed):
    """A file of an input cannot be opened here."""


def _check_inputs(item: Item) -> None:
    """Refuses files that are not those whose checksums the item's key was made of.

    Raises:
        BadInput: changed.
        _Unreadable: missing, or no permission, which may be so on this computer alone.
    """
    for name, path in (("segmentation_sha256", item.segmentation), ("image_sha256", item.image)):
        if path is None:
            continue
        try:
            found = sha256_of(path)
        except OSError as error:
            raise _Unreadable(
                f"'{path}' cannot be read on {platform.node()} ({error.strerror or error})",
                "All machines of a batch must see its files under the same paths.",
            ) from error
        if found != item.checksums[name]:
            raise BadInput(f"'{path}' has been changed since the batch began", "Start the batch again with --resume.")


def _resident() -> int:
    import psutil

    with suppress(psutil.Error):
        return psutil.Process().memory_info().rss
    return 0
