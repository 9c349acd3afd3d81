"""The study file: what is shown to readers and what they are asked. It holds no truth.

`study.json` is fixed when reading begins: its SHA-256 goes into `frozen.json`, into every order and every reader's
record, and a study whose file was edited afterwards is refused.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.forms import Form
from SynthDiffusionLib.reader_study.study_checks import check_study

FORMAT = "synthdiffusion-study-1"
ORDER_FORMAT = "synthdiffusion-study-order-1"
KEY_FORMAT = "synthdiffusion-study-key-1"
FROZEN_FORMAT = "synthdiffusion-study-frozen-1"
KINDS = ("single", "forced_choice")
# Types of questions that a primary endpoint can be calculated from.
MEASURE_TYPES: dict[str, tuple[str, ...]] = {
    "accuracy": ("confidence",),
    "auc": ("confidence", "scale", "number"),
    "mrmc_auc_difference": ("confidence", "scale", "number"),
    "likert_difference": ("scale", "number", "confidence"),
    "forced_choice": ("forced_choice",),
}
READING, PRIVATE = "reading", "private"


@dataclass(frozen=True)
class Task:
    """One way of reading.

    Args:
        id: unique in the study.
        kind: "single", one volume at a time, or "forced_choice", two side by side.
        form: what is asked.
        show_mask: whether the mask is drawn over the volume.
    """

    id: str
    kind: str
    form: Form
    show_mask: bool = False


@dataclass(frozen=True)
class Unit:
    """What is shown at once: one volume or a pair; `feedback` is for training only."""

    id: str
    task: str
    phase: str
    volumes: tuple[str, ...]
    feedback: str = ""


@dataclass(frozen=True)
class Presentation:
    """A unit at a position of a reader's order.

    Args:
        position: 0-based, through all sessions.
        session: id of the session.
        task: id of the task.
        unit: id of the unit.
        volumes: opaque IDs, left before right.
        presentation: 1, or 2 for a hidden repeat.
        phase: "training" or "main".
    """

    position: int
    session: str
    task: str
    unit: str
    volumes: tuple[str, ...]
    presentation: int
    phase: str


class Study:
    """A study as readers get it.

    Args:
        folder: the reading folder.
        data: content of its study.json.
        sha256: of the bytes of study.json.

    Attributes:
        tasks, units: by id.
        sessions: [{"id", "tasks", "min_days_after_previous"}], in order.
        viewing, randomisation, primary: as in study.json.
    """

    def __init__(self, folder: Path, data: Mapping[str, Any], sha256: str) -> None:
        self.folder, self.data, self.sha256 = Path(folder), dict(data), sha256
        self.id: str = data["id"]
        self.title: str = data["title"]
        self.sessions: list[dict[str, Any]] = list(data["sessions"])
        self.viewing: dict[str, Any] = dict(data["viewing"])
        self.randomisation: dict[str, Any] = dict(data["randomisation"])
        self.primary: dict[str, Any] = dict(data["primary"])
        self.tasks = {
            t["id"]: Task(
                t["id"],
                t["kind"],
                Form.from_json(t["form"], f"The form of the task '{t['id']}'"),
                t.get("show_mask", False),
            )
            for t in data["tasks"]
        }
        self.units = {
            u["id"]: Unit(u["id"], u["task"], u["phase"], tuple(u["volumes"]), u.get("feedback", ""))
            for u in data["units"]
        }

    @classmethod
    def load(cls, folder: Path) -> Study:
        """Reads a study and checks that it is the one that reading began with.

        Args:
            folder: the reading folder, or the folder that holds it.

        Raises:
            BadInput: missing, damaged, or edited after reading began.
        """
        folder = reading_folder(folder)
        raw = _bytes(folder / "study.json", "study")
        data = _parsed(raw, folder / "study.json", FORMAT)
        sha256 = hashlib.sha256(raw).hexdigest()
        frozen = folder / "frozen.json"
        if frozen.exists():
            fixed = _parsed(_bytes(frozen, "note that reading began"), frozen, FROZEN_FORMAT).get("study_sha256")
            if fixed != sha256:
                raise BadInput(
                    f"'{folder / 'study.json'}' was changed after reading began (SHA-256 {sha256[:12]}..., it was "
                    f"{str(fixed)[:12]}...)",
                    "Put the original file back; for another design, build another study.",
                )
        check_study(data, str(folder / "study.json"))
        try:
            study = cls(folder, data, sha256)
            study._check()
            return study
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"'{folder / 'study.json'}' is damaged: {error!r} is missing or wrong", "Copy the study again."
            ) from error

    @property
    def is_frozen(self) -> bool:
        return (self.folder / "frozen.json").exists()

    def freeze(self) -> None:
        """Fixes the study file: reading begins. Does nothing the second time.

        Raises:
            BadInput, RunFailed: the folder cannot be written to.
        """
        text = json.dumps({"format": FROZEN_FORMAT, "study_sha256": self.sha256, "utc": utc_now()}) + "\n"
        if self.is_frozen:
            return
        # Beside and renamed: half a note would keep everybody out. Two readers who begin at once write the same.
        temporary = self.folder / f".part-{uuid.uuid4().hex[:12]}.json"
        try:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.folder / "frozen.json")
        except OSError as error:
            from SynthDiffusionLib.reader_study.locks import writing_error

            raise writing_error(error, self.folder / "frozen.json", "Reading cannot begin") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    @cached_property
    def volumes(self) -> dict[str, dict[str, Any]]:
        """Entries of study.json by opaque ID."""
        return {v["id"]: v for v in self.data["volumes"]}

    def volume_path(self, volume_id: str) -> Path:
        return self._inside(self.volumes[volume_id]["file"])

    def mask_path(self, volume_id: str) -> Path | None:
        """The mask of a volume; None if it has none."""
        name = self.volumes[volume_id].get("mask")
        return self._inside(name) if name else None

    def order(self, reader: str) -> tuple[list[Presentation], str]:
        """The realised order of a reader, and the SHA-256 of its file.

        Raises:
            BadInput: the reader is unknown, or the order is damaged or of another study.
        """
        if not safe_name(reader):
            raise BadInput(f"'{reader}' is no reader of this study", f"Readers are {', '.join(self.readers())}.")
        path = self.folder / "orders" / f"{reader}.json"
        if not path.is_file():
            known = ", ".join(self.readers()) or "none yet"
            raise BadInput(f"'{reader}' is no reader of this study", f"Readers are {known}; see study add-reader.")
        raw = _bytes(path, "order")
        data = _parsed(raw, path, ORDER_FORMAT)
        if data.get("study_sha256") != self.sha256 or data.get("reader") != reader:
            raise BadInput(f"The order '{path.name}' belongs to another study or reader", "Copy the study again.")
        try:
            order = [
                Presentation(
                    p["position"],
                    p["session"],
                    p["task"],
                    p["unit"],
                    tuple(p["volumes"]),
                    p["presentation"],
                    p["phase"],
                )
                for p in data["presentations"]
            ]
            self._check_order(order)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"The order '{path.name}' is damaged ({error})", "Copy the study again.") from error
        return order, hashlib.sha256(raw).hexdigest()

    def _check_order(self, order: list[Presentation]) -> None:
        """Raises:
        ValueError: positions, units, volumes or tasks do not fit, or a unit is missing or there too often.
        """
        for i, p in enumerate(order):
            unit = self.units.get(p.unit)
            if unit is None or p.position != i or p.task != unit.task or p.phase != unit.phase:
                raise ValueError(f"position {p.position} does not fit")
            if sorted(p.volumes) != sorted(unit.volumes):
                raise ValueError(f"position {p.position} shows volumes of another unit")
        shown = [(p.unit, p.presentation) for p in order]
        if len(set(shown)) < len(shown) or {u for u, n in shown if n == 1} != set(self.units):
            raise ValueError("a unit is missing, or there twice")

    def readers(self) -> list[str]:
        """Readers that have an order."""
        files = (path for path in (self.folder / "orders").glob("*.json") if path.is_file())
        return sorted(path.stem for path in files if safe_name(path.stem))

    def _inside(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or ":" in name:
            raise BadInput(f"The study names the file '{name}', outside of its folder", "Copy the study again.")
        return self.folder.joinpath(*parts)

    def _check(self) -> None:
        for unit in self.units.values():
            if unit.task not in self.tasks or any(v not in self.volumes for v in unit.volumes):
                raise KeyError(unit.id)
            if len(unit.volumes) != (2 if self.tasks[unit.task].kind == "forced_choice" else 1):
                raise KeyError(unit.id)
        for session in self.sessions:
            for task in session["tasks"]:
                self.tasks[task]


def reading_folder(folder: Path) -> Path:
    """The folder with study.json: itself, or its part `reading`.

    Raises:
        BadInput: neither has one.
    """
    folder = Path(folder)
    for candidate in (folder, folder / READING):
        if (candidate / "study.json").is_file():
            return candidate
    raise BadInput(f"There is no study in '{folder}'", "Give the folder that study new wrote, or its part 'reading'.")


def safe_name(name: str) -> bool:
    """Whether a reader's name can be part of a file name on every system."""
    return (
        0 < len(name) <= 40
        and all(c.isalnum() or c in "-_" for c in name)
        and name.isascii()
        and name.upper() not in {"CON", "PRN", "AUX", "NUL", *(f"{d}{i}" for d in ("COM", "LPT") for i in range(10))}
    )


def utc_now() -> str:
    """Now, as in `2026-11-28T10:00:00.123Z`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bytes(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"The {what} '{path}' cannot be read ({error.strerror})", "Check the path.") from error


def _parsed(raw: bytes, path: Path, expected: str) -> dict[str, Any]:
    from SynthDiffusionLib.schemas import parse_json

    try:
        data = parse_json(raw)
    except ValueError as error:
        raise BadInput(f"'{path}' is damaged: {error}", "Copy the study again.") from error
    if not isinstance(data, dict) or data.get("format") != expected:
        raise BadInput(f"'{path}' is not of the format {expected}", "It may come from another version or program.")
    return data
