"""What a batch's driver costs for each item, and what the file system bears, measured; see `scale_costs`.

A driver's seconds are processor time, as in `scale_volumes`; those of the disk and of starting a worker are wall time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.batch.items import Item, list_items, model_of, settings_of
from SynthDiffusionLib.batch.maker import Made
from SynthDiffusionLib.batch.pool import MADE, READY, Outcome
from SynthDiffusionLib.batch.report import write_report
from SynthDiffusionLib.batch.schedule import Schedule, Tally
from SynthDiffusionLib.batch.sources import find_sources
from SynthDiffusionLib.batch.store import Store
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.models import ModelSpec, load_package

ROOT = Path(__file__).resolve().parents[2]
MODEL = "lung-nodule-ct"
WORKERS = 64
SMALL = 2048  # bytes of a drawing of the list, and of a record


class ReadyMade:
    """A pool whose workers have made an item as soon as they are given it; see `batch.pool.Pool`."""

    def __init__(self, workers: int) -> None:
        self._names = [f"{n}" for n in range(workers)]
        self._busy: dict[str, Item] = {}
        self._started = False

    def start(self) -> None:
        self._started = True

    def free(self) -> Sequence[str]:
        return [] if self._started else [name for name in self._names if name not in self._busy]

    def submit(self, worker: str, item: Item) -> None:
        self._busy[worker] = item

    def wait(self, timeout_s: float) -> list[Outcome]:
        if self._started:
            self._started = False
            return [Outcome(name, READY) for name in self._names]
        # One at a time, as workers come back that take long.
        name = next(iter(self._busy))
        item = self._busy.pop(name)
        return [Outcome(name, MADE, item, Made(item.key, "done", 1.0, resident_bytes=1))]

    def put_aside(self, worker: str) -> None:
        self._names.remove(worker)

    def alive(self) -> int:
        return len(self._names)

    def close(self) -> None:
        self._names.clear()


def driver(counts: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Every step of a driver for lists of several lengths, one drawing an item.

    Args:
        counts: numbers of items, rising.
        folder: on the disk that is measured.

    Returns:
        a row for each length: "items", "list_s", "look_new_s" and "look_made_s" (which items are there, of none and of
        all), "schedule_s" (with `WORKERS` workers that take no time), "publish_s" (with four small files an item),
        "report_s", "bytes" of memory that list and report held at their peak.
    """
    spec = load_package(MODEL, verify=False).spec
    masks = folder / "masks"
    masks.mkdir()
    rows, written = [], 0
    for count in counts:
        for number in range(written, count):
            (masks / f"m{number:06}.nii.gz").write_bytes(number.to_bytes(8, "little") * (SMALL // 8))
        written = count
        out = folder / f"batch-{count}"
        out.mkdir()
        rows.append({"items": count} | _one_list(masks, out, spec))
    return rows


def _one_list(masks: Path, out: Path, spec: ModelSpec) -> dict[str, Any]:
    template = GenerateRequest(masks / "m000000.nii.gz", MODEL, out, device="cpu")
    row: dict[str, Any] = {}

    def timed(step: str, do: Callable[[], Any]) -> Any:
        began = time.process_time()
        answer = do()
        row[f"{step}_s"] = time.process_time() - began
        return answer

    items, _ = timed("list", lambda: list_items(find_sources([masks]), template, spec, 1, 1))
    store = Store(out)
    software = {"name": "SynthDiffusion", "version": "0"}
    described = {"software": software, "model": model_of(spec), "settings": settings_of(template)}
    store.begin(described | {"seed": 1, "same_seeds": False}, resume=False, shared=False)
    timed("look_new", lambda: [_look(store, item) for item in items])
    tally = Tally(len(items))
    timed("schedule", lambda: Schedule(ReadyMade(WORKERS), store, tally, 2, lambda _: None).carry_out(items))
    assert tally.done == len(items), "the pool has made another number of items"
    work = store.work_folder("t-1")
    timed("publish", lambda: [_publish(store, item, work) for item in items])
    timed("look_made", lambda: [_look(store, item) for item in items])
    report = timed("report", lambda: write_report(store, items, tally, [], ""))
    assert report.complete, "not all that was published is found"
    tracemalloc.start()
    again, _ = list_items(find_sources([masks]), template, spec, 1, 1)
    write_report(store, again, tally, [], "")
    row["bytes"] = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return row


def _look(store: Store, item: Item) -> None:
    """As a driver does before it begins."""
    store.finished_or_cleared(item)


def _publish(store: Store, item: Item, work: Path) -> None:
    folder = work / item.key
    folder.mkdir()
    files = {}
    for what, suffix in (("volume", ".nii.gz"), ("provenance", ".json"), ("contact_sheet", ".png")):
        files[what] = folder / f"{item.case}{suffix}"
        files[what].write_bytes(bytes(SMALL))
    store.publish(folder, item, files, {"host": "h", "seconds": 1.0, "utc": "", "notes": []})


def files(count: int, folder: Path) -> dict[str, float]:
    """Folders of four small files made by plain calls, and listed: what the disk bears without any of this project.

    Returns:
        "made_per_s" and "listed_per_s", in files; "count" of files.
    """
    began = time.perf_counter()
    for number in range(count):
        inner = folder / f"{number:06}"
        inner.mkdir()
        for name in "abcd":
            (inner / name).write_bytes(bytes(SMALL))
    made = time.perf_counter() - began
    began = time.perf_counter()
    found = sum(len(list(os.scandir(entry.path))) for entry in os.scandir(folder))
    listed = time.perf_counter() - began
    assert found == 4 * count
    return {"count": 4 * count, "made_per_s": 4 * count / made, "listed_per_s": 4 * count / listed}


def disk(bytes_: int, folder: Path, repeats: int) -> dict[str, float]:
    """What the disk and SHA-256 bear, in bytes a second; a read comes from the page cache."""
    path, block = folder / "bytes", np.random.default_rng(1).bytes(1 << 20)
    written, hashed = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        with path.open("wb") as stream:
            for _ in range(bytes_ >> 20):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        written.append(time.perf_counter() - began)
        began = time.process_time()
        sha256_of(path)
        hashed.append(time.process_time() - began)
        path.unlink()
    size = bytes_ >> 20 << 20
    return {"written_per_s": size / statistics.median(written), "hashed_per_s": size / statistics.median(hashed)}


def loading(repeats: int) -> dict[str, Any]:
    """A worker from the start of its process until its model is loaded.

    Returns:
        "model", "start_s" (imports and the model), "load_s" (of these the model), "weight_bytes".
    """
    program = (
        "import time; from SynthDiffusionLib.jobs.runner import load_model; import torch\n"
        f"from SynthDiffusionLib.backends import load_backend; began = time.perf_counter(); load_model('{MODEL}')\n"
        "print(time.perf_counter() - began)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    starts, loads = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        answer = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        starts.append(time.perf_counter() - began)
        loads.append(float(answer.stdout.split()[-1]))
    package = load_package(MODEL, verify=False)
    weights = sum(f.bytes for f in package.spec.files if f.path.endswith(".safetensors"))
    return {
        "model": MODEL,
        "start_s": statistics.median(starts),
        "load_s": statistics.median(loads),
        "weight_bytes": weights,
    }
