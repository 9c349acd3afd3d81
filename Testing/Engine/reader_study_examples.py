"""Small studies for tests: the folders of `study new` without its work, and a clock that a test sets by hand."""

from __future__ import annotations

import datetime
import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib.reader_study.clock import format_utc, parse_utc
from SynthDiffusionLib.reader_study.records import RecordFile

SYNTHETIC_ARM = "gen-a"
VIEW = {"window": "Lung", "slices": [4, 5, 6]}


def turing_form(study_items: bool = False) -> dict[str, Any]:
    """A signed confidence of six levels, a conditional text, and on wish a question at the end of the study."""
    labels = ["Real, certain", "Real, probable", "Real, guess", "Synthetic, guess", "Synthetic, probable"]
    labels.append("Synthetic, certain")
    items: list[dict[str, Any]] = [
        {
            "id": "score",
            "type": "confidence",
            "text": "Is this volume real or synthetic?",
            "required": True,
            "options": [{"value": v, "label": t} for v, t in zip((-3, -2, -1, 1, 2, 3), labels, strict=True)],
        },
        {"id": "why", "type": "text", "text": "Why?", "show_if": {"item": "score", "at_least": 1}},
    ]
    if study_items:
        items.append({"id": "overall", "type": "text", "text": "Remarks?", "per": "study", "required": True})
    return {"id": "turing", "title": "Real or synthetic?", "items": items}


def choice_form() -> dict[str, Any]:
    """Which of two is synthetic?"""
    return {
        "id": "choice",
        "title": "Which one is synthetic?",
        "items": [{"id": "side", "type": "forced_choice", "text": "Which?", "per": "pair", "required": True}],
    }


def make_reading_folder(
    path: Path,
    *,
    readers: Sequence[str] = ("R1",),
    single: int = 6,
    pairs: int = 0,
    sessions: int = 1,
    back: str = "session",
    form: dict[str, Any] | None = None,
    seed: int = 0,
    real_volumes: bool = False,
    repeats: int = 0,
    training: int = 0,
    min_days: int = 28,
    viewing: dict[str, Any] | None = None,
    study_items: bool = False,
    arms: Sequence[str] = ("real", SYNTHETIC_ARM),
    created_utc: str = "2026-01-01T00:00:00.000Z",
) -> Path:
    """Writes a small valid study: `path`/reading and `path`/private/key.json.

    Args:
        path: folder to make.
        readers: each gets an order.
        single: single-volume units of the task "turing"; arms take turns, the first is real.
        pairs: forced-choice units of the task "choice".
        sessions: units are dealt to sessions "s1", "s2", ... in turn.
        back: rule of back-navigation.
        form: of the task "turing".
        seed: of everything that is random.
        real_volumes: write NIfTI files of 12 x 12 x 12 voxels instead of a few bytes.
        repeats: hidden repeats of single units at the end of the last session.
        training: training units of the task "turing", with feedback, at the start of the first session.
        min_days: washout between sessions.
        viewing: further viewing rules.
        study_items: ask a question at the end of the study.
        arms: the first is real.
        created_utc: of the study.

    Returns:
        The reading folder.
    """
    path, rng = Path(path), random.Random(seed)
    reading = path / "reading"
    for folder in ("volumes", "orders", "records"):
        (reading / folder).mkdir(parents=True, exist_ok=True)
    (path / "private" / "receipts").mkdir(parents=True, exist_ok=True)
    volumes: list[dict[str, Any]] = []
    units: list[dict[str, Any]] = []
    key_volumes: dict[str, Any] = {}
    key_units: dict[str, Any] = {}

    def opaque(letter: str) -> str:
        return letter + f"{rng.getrandbits(40):010x}"

    def volume(arm: str, pair: str, phase: str) -> str:
        name = opaque("v")
        file = reading / "volumes" / f"{name}.nii.gz"
        if real_volumes:
            _write_nifti(file, rng.getrandbits(30))
        else:
            file.write_bytes(rng.randbytes(40))
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        volumes.append({"id": name, "file": f"volumes/{name}.nii.gz", "sha256": sha256})
        key_volumes[name] = {
            "arm": arm,
            "truth": int(arm != arms[0]),
            "pair": pair,
            "patient": pair,
            "source": f"{pair}_{arm}.nii.gz",
            "source_sha256": sha256,
            "phase": phase,
        }
        return name

    def unit(task: str, shown: list[str], phase: str) -> str:
        name = opaque("u")
        entry = {"id": name, "task": task, "phase": phase, "volumes": sorted(shown)}
        last = key_volumes[shown[-1]]
        key_units[name] = {k: last[k] for k in ("arm", "truth", "pair", "patient")}
        if phase == "training":
            entry["feedback"] = "This volume is synthetic." if last["truth"] else "This volume is real."
        units.append(entry)
        return name

    trained = [unit("turing", [volume(arms[i % len(arms)], f"t{i}", "training")], "training") for i in range(training)]
    singles = [
        unit("turing", [volume(arms[i % len(arms)], f"p{i // len(arms)}", "main")], "main") for i in range(single)
    ]
    forced = [
        unit("choice", [volume(arms[0], f"q{i}", "main"), volume(arms[1], f"q{i}", "main")], "main")
        for i in range(pairs)
    ]
    forms = {"turing": form or turing_form(study_items), "choice": choice_form()}
    kinds = {"turing": "single", "choice": "forced_choice"}
    used = [task for task, of_it in (("turing", singles + trained), ("choice", forced)) if of_it]
    key = {
        "format": "synthdiffusion-study-key-1",
        "study_id": f"{rng.getrandbits(32):08x}",
        "volumes": key_volumes,
        "arms": [{"id": arm, "truth": "synthetic" if i else "real"} for i, arm in enumerate(arms)],
        "units": key_units,
        "nonce": f"{rng.getrandbits(128):032x}",
    }
    _write(path / "private" / "key.json", key)
    study = {
        "format": "synthdiffusion-study-1",
        "id": key["study_id"],
        "title": "A small study",
        "description": "",
        "created_utc": created_utc,
        "seed": seed,
        "software": "test",
        "key_sha256": hashlib.sha256((path / "private" / "key.json").read_bytes()).hexdigest(),
        "readers_planned": list(readers),
        "tasks": [{"id": t, "kind": kinds[t], "form": forms[t], "show_mask": False} for t in used],
        "sessions": [
            {"id": f"s{i + 1}", "tasks": used, **({"min_days_after_previous": min_days} if i else {})}
            for i in range(sessions)
        ],
        "randomisation": {"block_size": 2, "longest_run": 3, "repeats": repeats / max(single, 1)},
        "viewing": {
            "layout": "three_planes",
            "windows": [{"name": "Lung", "center": -600, "width": 1500}],
            "window_locked": False,
            "start_slice": "middle",
            "back": back,
            "idle_cap_s": 60,
            "min_view_s": 0,
            "show_position": True,
            **(viewing or {}),
        },
        "primary": {
            "measure": "accuracy",
            "task": used[0],
            "item": forms[used[0]]["items"][0]["id"],
            "arm": arms[1],
            "test": "difference",
            "null": 0.5,
            "alpha": 0.05,
            "readers": "random",
            "cases": "random",
        },
        "secondary": "exploratory",
        "units": sorted(units, key=lambda u: u["id"]),
        "volumes": sorted(volumes, key=lambda v: v["id"]),
    }
    _write(reading / "study.json", study)
    study_sha256 = hashlib.sha256((reading / "study.json").read_bytes()).hexdigest()
    by_id = {u["id"]: u for u in units}
    for index, reader in enumerate(readers):
        order = random.Random(1000 * seed + index)
        dealt = [[(u, 1) for u in trained], *([] for _ in range(sessions - 1))]
        shuffled = order.sample(singles, len(singles)) + order.sample(forced, len(forced))
        for i, u in enumerate(shuffled):
            dealt[i % sessions].append((u, 1))
        dealt[-1] += [(u, 2) for u in singles[:repeats]]
        presentations: list[dict[str, Any]] = []
        for i, content in enumerate(dealt):
            for u, times in content:
                shown = list(by_id[u]["volumes"])
                if order.random() < 0.5:
                    shown.reverse()
                presentations.append(
                    {
                        "position": len(presentations),
                        "session": f"s{i + 1}",
                        "task": by_id[u]["task"],
                        "unit": u,
                        "volumes": shown,
                        "presentation": times,
                        "phase": by_id[u]["phase"],
                    }
                )
        _write(
            reading / "orders" / f"{reader}.json",
            {
                "format": "synthdiffusion-study-order-1",
                "study_sha256": study_sha256,
                "reader": reader,
                "index": index,
                "algorithm": "test",
                "presentations": presentations,
            },
        )
    orders = {r: hashlib.sha256((reading / "orders" / f"{r}.json").read_bytes()).hexdigest() for r in readers}
    with RecordFile.open(reading.parent / "private" / "coordinator.jsonl", clock=FakeClock()) as journal:
        journal.append("built", study_sha256=study_sha256, orders=orders)
    return reading


def right_answers(task: str, rng: random.Random | None = None) -> dict[str, Any]:
    """Answers that fit the example forms; random with `rng`."""
    if task == "choice":
        return {"side": rng.choice(["left", "right"]) if rng else "left"}
    score = rng.choice([-3, -2, -1, 1, 2, 3]) if rng else 2
    return {"score": score, **({"why": "grainy, weiß nicht"} if score > 0 else {})}


def record_lines(folder: Path, reader: str = "R1") -> list[dict[str, Any]]:
    """A reader's records."""
    raw = (folder / "records" / f"{reader}.jsonl").read_bytes()
    return [json.loads(line) for line in raw.split(b"\n")[:-1]]


def of_type(folder: Path, kind: str, reader: str = "R1") -> list[dict[str, Any]]:
    """A reader's records of one type."""
    return [record for record in record_lines(folder, reader) if record["type"] == kind]


def answer(reading: Any, clock: FakeClock | None = None, seconds: float = 5.0) -> str | None:
    """Shows and answers the current case, `seconds` later."""
    reading.show(VIEW)
    reading.touch()
    if clock:
        clock.pass_s(seconds)
    return reading.commit(right_answers(reading.task.id), VIEW)


def read_all(reading: Any, rng: random.Random | None = None) -> int:
    """Reads to the end of the session; returns how many answers were given."""
    given = 0
    while reading.current is not None:
        reading.show({"window": "Lung"})
        reading.touch()
        reading.commit(right_answers(reading.task.id, rng), {"window": "Lung"})
        given += 1
    return given


class FakeClock:
    """A clock that a test sets: `pass_s` lets time pass, `set_utc` turns the time of day."""

    def __init__(self, utc: str = "2026-03-01T08:00:00.000Z", boot: str = "boot1") -> None:
        self.boot = boot
        self._utc, self._mono = parse_utc(utc), 100.0

    def utc(self) -> str:
        return format_utc(self._utc)

    def monotonic(self) -> float:
        return self._mono

    def pass_s(self, seconds: float) -> None:
        self._mono += seconds
        self._utc += datetime.timedelta(seconds=seconds)

    def set_utc(self, utc: str) -> None:
        self._utc = parse_utc(utc)


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def _write_nifti(file: Path, seed: int) -> None:
    import nibabel as nib
    import numpy as np

    voxels = np.random.default_rng(seed).integers(-1000, 400, (12, 12, 12)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), file)
