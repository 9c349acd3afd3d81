"""The folder of a batch: what is finished, what failed and why, and what is being made.

```
OUT/batch.json                  what all items have in common; written once
OUT/volumes/ab/<key>/           the files of one item and its item.json; renamed into place when it is complete
OUT/failures/<key>.json         why an item could not be made; goes when it has been made after all
OUT/work/<token>/               what a worker has begun; goes with its driver
OUT/logs/                       what workers print
OUT/manifest.csv, report.json, report.html
```

A folder is renamed by one call that fails where another is in its place: of two workers that make the same item, one
publishes it and the other throws its own away. So nothing here needs a lock, on network folders either.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.batch.items import Item
from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.jobs.provenance import sha256_of, write_json
from SynthDiffusionLib.volumes.atomic import atomic_file, rename, writing_error

FORM = "synthdiffusion-batch-1"
ITEM_FORM = "synthdiffusion-batch-item-1"
BATCH_FILE, ITEM_FILE = "batch.json", "item.json"
VOLUMES, FAILURES, WORK, LOGS, DAMAGED = "volumes", "failures", "work", "logs", "damaged"
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}


@dataclass(frozen=True)
class Finished:
    """An item that has been made.

    Args:
        folder: its files.
        record: its `item.json`.
    """

    folder: Path
    record: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """Size of its files together."""
        return sum(entry["bytes"] for entry in self.record["files"].values())


class Store:
    """The folder of a batch.

    Args:
        out: that folder; there already.
    """

    def __init__(self, out: Path) -> None:
        self.out = Path(os.path.abspath(Path(out).expanduser()))

    def begin(self, description: Mapping[str, Any], resume: bool, shared: bool) -> None:
        """Writes what all items have in common, or compares it with what an earlier driver wrote.

        Args:
            description: JSON values: "software", "model", "settings", "seed", "same_seeds".
            resume: go on with a batch that is there.
            shared: other drivers may have begun the same batch just now.

        Raises:
            BadInput: another batch is there, or one is there that was not to be gone on with.
            RunFailed: the disk is full.
        """
        path = self.out / BATCH_FILE
        content = {"form": FORM, **description}
        if not path.exists():
            strangers = sorted(p.name for p in self.out.iterdir() if p.name in (VOLUMES, FAILURES))
            if strangers:
                raise BadInput(
                    f"'{self.out}' has a folder '{strangers[0]}', but no {BATCH_FILE}",
                    "Choose another folder with --out.",
                )
            if _write_once(path, content):
                return
        there = self.description()
        if differences := _differences(there, content):
            raise BadInput(
                f"'{self.out}' holds another batch: {'; '.join(differences)}",
                "Give the settings of that batch to go on with it, or choose another folder with --out.",
            )
        if not resume and not shared and (count := self.count()):
            raise BadInput(
                f"'{self.out}' holds this batch already, {count} volumes of it are made",
                "Give --resume to go on with it, or choose another folder with --out.",
            )

    def description(self) -> dict[str, Any]:
        """Content of `batch.json`.

        Raises:
            BadInput: missing or damaged.
        """
        path = self.out / BATCH_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"'{path}' cannot be read ({error})", "Is the folder of the batch at hand?") from error
        known = isinstance(content, dict) and content.get("form") == FORM
        if not known or not all(isinstance(content.get(name), dict) for name in ("model", "settings", "software")):
            raise BadInput(f"'{path}' is not of a batch of this version", "Choose another folder with --out.")
        return content

    def folder_of(self, key: str) -> Path:
        """Where the files of an item are, or will be."""
        return self.out / VOLUMES / key[:2] / key

    def finished(self, item: Item, checksums: bool = False) -> Finished | None:
        """An item, if all its files are there as they were written.

        Args:
            item: which one.
            checksums: read the files too, instead of only looking at their sizes.
        """
        folder = self.folder_of(item.key)
        try:
            record = json.loads((folder / ITEM_FILE).read_text(encoding="utf-8"))
            said = [record[name] for name in ("form", "key", "seed", "inputs")]
            if said != [ITEM_FORM, item.key, item.seed, dict(item.checksums)]:
                return None
            if not isinstance(record["case"], str) or not isinstance(record["made"], dict):
                return None
            if not {"volume", "provenance"} <= record["files"].keys():
                return None
            for entry in record["files"].values():
                path = folder / Path(entry["name"]).name
                if path.stat().st_size != entry["bytes"] or checksums and sha256_of(path) != entry["sha256"]:
                    return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return Finished(folder, record)

    def finished_or_cleared(self, item: Item, checksums: bool = False) -> tuple[Finished | None, bool]:
        """An item, see `finished`; if something else lies in its place, that goes to `damaged`.

        Returns:
            the item, if it is there; and whether something was put aside.
        """
        folder = self.folder_of(item.key)
        # Looked for first: what another driver publishes a moment later is not taken for damaged.
        there = folder.exists()
        found = self.finished(item, checksums)
        if found is not None or not there:
            return found, False
        key = item.key
        try:
            (self.out / DAMAGED).mkdir(exist_ok=True)
        except FileExistsError as error:
            raise BadInput(f"'{self.out / DAMAGED}' is no folder", "Move it away.") from error
        rename(folder, self.out / DAMAGED / f"{key}-{uuid.uuid4().hex[:8]}")
        return None, True

    def work_folder(self, token: str) -> Path:
        """A folder for what a worker has begun; made.

        Raises:
            BadInput, RunFailed: it cannot be made; the batch is not there any more.
        """
        self.description()
        folder = self.out / WORK / token
        try:
            folder.parent.mkdir(exist_ok=True)
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise writing_error(error, folder) from error
        return folder

    def clear_work(self, prefix: str = "") -> None:
        """Removes what workers have begun and nobody will finish: those whose token begins so."""
        with suppress(OSError):
            for folder in (self.out / WORK).iterdir():
                if folder.name.startswith(prefix):
                    shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            (self.out / WORK).rmdir()

    def publish(self, folder: Path, item: Item, files: Mapping[str, Path], made: Mapping[str, Any]) -> bool:
        """Gives the files of an item their place.

        Args:
            folder: on the disk of the batch; holds the files and nothing else, and is gone afterwards.
            item: which one.
            files: by what they hold ("volume", "provenance", ...).
            made: how, where and when; JSON values.

        Returns:
            False if another worker was first; its files stay.

        Raises:
            BadInput, RunFailed: it cannot be written.
        """
        entries = {
            what: {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for what, path in files.items()
        }
        record = {
            "form": ITEM_FORM,
            "key": item.key,
            "case": item.case,
            "number": item.number,
            "seed": item.seed,
            "inputs": dict(item.checksums),
            "files": entries,
            "made": dict(made),
        }
        write_json(folder / ITEM_FILE, record)
        self.description()  # a folder of the same name, such as a place where no disk is mounted now, is not the batch
        target = self.folder_of(item.key)
        try:
            target.parent.parent.mkdir(exist_ok=True)
            target.parent.mkdir(exist_ok=True)
            rename(folder, target)
        except OSError as error:
            if not target.is_dir():
                raise writing_error(error, target) from error
            shutil.rmtree(folder, ignore_errors=True)
            return False
        finally:
            with suppress(OSError):
                (self.out / FAILURES / f"{item.key}.json").unlink(missing_ok=True)
        return True

    def fail(self, item: Item, kind: str, message: str, hint: str, attempts: int) -> None:
        """Records why an item could not be made."""
        folder = self.out / FAILURES
        folder.mkdir(exist_ok=True)
        content = {
            "key": item.key,
            "case": item.case,
            "number": item.number,
            "seed": item.seed,
            "segmentation": None if item.segmentation is None else item.segmentation.name,
            "kind": kind,
            "message": message,
            "hint": hint,
            "attempts": attempts,
        }
        write_json(folder / f"{item.key}.json", content)

    def failure(self, key: str) -> dict[str, Any] | None:
        """Why an item could not be made when it was last tried, if it was."""
        try:
            content = json.loads((self.out / FAILURES / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def all_keys(self) -> Iterator[str]:
        """Keys of all items whose folder is there, in order."""
        with suppress(FileNotFoundError):
            for part in sorted(os.scandir(self.out / VOLUMES), key=lambda e: e.name):
                if part.is_dir():
                    yield from sorted(entry.name for entry in os.scandir(part.path) if entry.is_dir())

    def count(self) -> int:
        """How many items are there."""
        return sum(1 for _ in self.all_keys())


def is_batch(folder: Path) -> bool:
    """Whether a folder is that of a batch."""
    return (folder / BATCH_FILE).is_file() and (folder / VOLUMES).is_dir()


def batch_files(folder: Path) -> Iterator[Path]:
    """The files of all finished items of a batch."""
    store = Store(folder)
    for key in store.all_keys():
        yield from store.folder_of(key).iterdir()


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error comes of a full disk, or of a used up quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return True
        error = error.__cause__
    return False


def _write_once(path: Path, content: Mapping[str, Any]) -> bool:
    """Writes a file unless another process has just done so; complete or not at all."""
    draft = path.with_name(f".part-{uuid.uuid4().hex[:12]}.json")
    try:
        with atomic_file(draft) as stream:
            stream.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
        try:
            os.link(draft, path)  # fails where one is there already, unlike a rename
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if path.exists():
                return False
            rename(draft, path)
        return True
    except OSError as error:
        raise writing_error(error, path) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions, in words."""
    found = []
    for part in ("model", "settings", "software"):
        before, now = there.get(part) or {}, wanted[part]
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                label = {"id": "its model", "version": f"version of the {part}"}.get(name, f"'{name}'")
                if name == "files":
                    found.append("the weights of its model are others")
                else:
                    found.append(f"{label} is {_shown(before.get(name))}, not {_shown(now.get(name))}")
    for name in ("seed", "same_seeds"):
        if there.get(name) != wanted[name]:
            found.append(f"'{name.replace('_', '-')}' is {_shown(there.get(name))}, not {_shown(wanted[name])}")
    return found


def _shown(value: Any) -> str:
    return "not set" if value is None else shortened(json.dumps(value), 60)
