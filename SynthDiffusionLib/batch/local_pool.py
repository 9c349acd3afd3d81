"""Workers as processes of this machine: one for each GPU, or several that share the CPU."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.batch.items import Item
from SynthDiffusionLib.batch.maker import Made, Setup
from SynthDiffusionLib.batch.pool import LOST, MADE, READY, UNUSABLE, Outcome
from SynthDiffusionLib.batch.store import LOGS, Store
from SynthDiffusionLib.jobs.interrupts import uninterrupted

GRACE_S = 1.0  # that a worker has to tidy up before it is killed
STARTS = 3  # in a row without getting ready, after which a worker is given up
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Seat:
    """Where a worker computes.

    Args:
        device: "cpu" or "cuda:N".
        threads: of its CPU; None: as many as torch takes.
        memory_bytes: that it may use; None: as `GenerateRequest.vram_limit`.
    """

    device: str
    threads: int | None = None
    memory_bytes: int | None = None


class LocalPool:
    """A pool of processes; see `pool.Pool`.

    Args:
        seats: one a worker.
        template: `GenerateRequest.to_json` of the batch.
        store: folder of the batch.
        token: of the driver.
        scratch: see `maker.Setup`.
    """

    def __init__(
        self, seats: Sequence[Seat], template: Mapping[str, Any], store: Store, token: str, scratch: Path | None
    ) -> None:
        self._news: queue.Queue[tuple[_Process, dict[str, Any]]] = queue.Queue()
        self._store, self._token, self._scratch = store, token, scratch
        self._template = template
        self._seats = {f"{number}": seat for number, seat in enumerate(seats, 1)}
        self._workers: dict[str, _Process] = {}

    def start(self) -> None:
        for name in self._seats:
            self._begin(name, starts=1)

    def free(self) -> Sequence[str]:
        return [name for name, worker in self._workers.items() if worker.ready and worker.item is None]

    def submit(self, worker: str, item: Item) -> None:
        process = self._workers[worker]
        process.item = item
        process.say(item.to_json())

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes: list[Outcome] = []
        with suppress(queue.Empty):
            news = self._news.get(timeout=timeout_s)
            while True:
                outcomes += self._heard(*news)
                news = self._news.get_nowait()
        return outcomes

    def put_aside(self, worker: str) -> None:
        self._workers.pop(worker).end()

    def alive(self) -> int:
        return len(self._workers)

    def close(self) -> None:
        with uninterrupted():  # or a worker that hangs would be left behind
            for process in self._workers.values():
                process.let_go()
            until = time.monotonic() + GRACE_S
            for process in self._workers.values():
                process.end(max(0.0, until - time.monotonic()))
            self._workers.clear()

    def _begin(self, name: str, starts: int) -> None:
        seat = self._seats[name]
        changes: dict[str, Any] = {"device": seat.device}
        if seat.memory_bytes is not None:
            changes["vram_limit"] = seat.memory_bytes
        setup = Setup(
            {**self._template, **changes},
            str(self._store.out),
            f"{self._token}-{name}",
            None if self._scratch is None else str(self._scratch),
        )
        log = self._store.out / LOGS / f"{self._token}-{name}.log"
        log.parent.mkdir(exist_ok=True)
        self._workers[name] = _Process(name, setup, seat.threads, log, starts, self._news)

    def _heard(self, process: _Process, content: dict[str, Any]) -> list[Outcome]:
        if self._workers.get(process.name) is not process:
            return []  # it was put aside
        name = process.name
        if content["what"] == "ready":
            process.ready = True
            return [Outcome(name, READY, about=content["about"])]
        if content["what"] == "made":
            item, process.item = process.item, None
            return [Outcome(name, MADE, item, Made(**content["made"]))]
        item = process.item
        del self._workers[name]
        process.end()
        if content["what"] == "unusable":
            return [Outcome(name, UNUSABLE, item, reason=content["reason"])]
        reason = process.how_it_ended()
        if not process.ready and process.starts >= STARTS:
            return [Outcome(name, UNUSABLE, item, reason=f"it ended {STARTS} times before it was ready ({reason})")]
        self._begin(name, 1 if process.ready else process.starts + 1)
        return [Outcome(name, LOST, item, reason=reason)]


class _Process:
    """One worker, and the thread that listens to it."""

    def __init__(
        self,
        name: str,
        setup: Setup,
        threads: int | None,
        log: Path,
        starts: int,
        news: queue.Queue[tuple[_Process, dict[str, Any]]],
    ) -> None:
        self.name, self.starts = name, starts
        self.ready = False
        self.item: Item | None = None
        root = str(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        if threads is not None:
            environment |= dict.fromkeys(_THREADS, str(threads))
        self._log = log
        with log.open("ab") as stream:
            self._child = subprocess.Popen(
                # -P: files in the working directory are no modules.
                [sys.executable, "-P", "-m", "SynthDiffusionLib.batch.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environment,
                encoding="utf-8",
            )
        self.say(asdict(setup))
        threading.Thread(target=self._listen, args=(news,), name=f"worker {name}", daemon=True).start()

    def say(self, content: Mapping[str, Any]) -> None:
        """Sends a line; that the worker has ended is heard of by the thread."""
        with suppress(OSError, ValueError):
            self._child.stdin.write(json.dumps(content) + "\n")
            self._child.stdin.flush()

    def let_go(self) -> None:
        """Tells it to throw away what it has begun, and to end."""
        with suppress(OSError):
            self._child.stdin.close()

    def end(self, grace_s: float = GRACE_S) -> None:
        """Ends it, with its children, whatever they are doing; after so many seconds, if it does not by itself."""
        import psutil

        self.let_go()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=grace_s)
            return
        children: list[psutil.Process] = []
        with suppress(psutil.Error):
            children = psutil.Process(self._child.pid).children(recursive=True)
        with suppress(OSError):
            self._child.kill()
        for child in children:
            with suppress(psutil.Error):
                child.kill()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=10)

    def how_it_ended(self) -> str:
        """Its exit code, or the signal that killed it."""
        code = self._child.returncode
        if code is not None and code < 0:
            with suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    def _listen(self, news: queue.Queue[tuple[_Process, dict[str, Any]]]) -> None:
        with suppress(OSError, ValueError):
            for line in self._child.stdout:
                with suppress(ValueError):
                    news.put((self, json.loads(line)))
        news.put((self, {"what": "ended"}))
