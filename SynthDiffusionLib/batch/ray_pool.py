"""Workers as actors of a Ray cluster: one for each GPU of it, or for each share of its CPUs.

Ray does what it is good at: it places the actors, notices that a process or a machine has gone, and starts the actor
again where there is room (`max_restarts`). Which item is whose stays with `schedule`, which holds back what no actor is
free for; an item whose actor has gone comes back at once and goes to another.

Source of the calls: Ray's documentation, "Ray Core", parts "Actors", "Fault tolerance" and "Limiting pending tasks".
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.batch.items import Item
from SynthDiffusionLib.batch.maker import Made, Maker, Setup, software_here
from SynthDiffusionLib.batch.pool import LOST, MADE, READY, UNUSABLE, Outcome
from SynthDiffusionLib.batch.store import Store
from SynthDiffusionLib.errors import BadInput, MissingExtra, RunFailed, SynthDiffusionError

LOCAL = "local"
CONNECT_S = 10.0
HEALTH_S = 30.0  # in which a cluster must say that it is one
HEAD_EVERY_S, HEAD_LOST = 5.0, 3  # how often the head is asked, and how often in vain before it is given up
NO_ROOM_S = 600.0  # without any actor, after which the cluster is given up
_READY, _ITEM = "ready", "item"


@dataclass
class _Actor:
    """An actor, and what was asked of it."""

    handle: Any
    pending: Any = None  # the reference of a call
    asked: str = ""
    item: Item | None = None
    ready: bool = False


class RayMaker:
    """The actor: a `Maker` that is made with the first call, so that what goes wrong comes back as a value."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._maker: Maker | None = None

    def describe(self) -> dict[str, Any]:
        """`Maker.describe`, or {"problem": why it cannot work here}."""
        import platform

        try:
            if self._maker is None:
                self._maker = Maker(self._setup)
            return self._maker.describe()
        except SynthDiffusionError as error:
            return {"host": platform.node(), "problem": error.one_line()}

    def make(self, item: dict[str, Any]) -> Made:
        """Makes an item; see `Maker.make`."""
        if self._maker is None:  # started again by Ray
            self._maker = Maker(self._setup)
        return self._maker.make(Item.from_json(item))


class RayPool:
    """A pool of actors; see `pool.Pool`. `connect` comes first.

    Args:
        workers: how many; None: one a GPU, or without any GPU one for each `threads` CPUs.
        threads: CPUs of an actor; None: with GPUs 1, else all of the smallest machine.
        template: `GenerateRequest.to_json` of the batch.
        store: folder of the batch, which all machines see under the same path.
        token: of the driver.
        scratch: see `maker.Setup`.
    """

    def __init__(
        self,
        workers: int | None,
        threads: int | None,
        template: Mapping[str, Any],
        store: Store,
        token: str,
        scratch: Path | None,
    ) -> None:
        self._workers, self._threads, self._template = workers, threads, template
        self._store, self._token, self._scratch = store, token, scratch
        self._actors: dict[str, _Actor] = {}
        self._here = software_here()
        self._without_s = 0.0
        self._head_asked, self._head_silent = time.monotonic(), 0

    def start(self) -> None:
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0)) if self._template["device"] != "cpu" else 0
        shares = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        machines = [int(cpus) for cpus in shares if cpus >= 1]
        threads = self._threads or (1 if gpus else min(machines, default=1))
        count = self._workers or gpus or sum(cpus // threads for cpus in machines)
        if count < 1:
            raise BadInput(
                f"No machine of the cluster has {threads} CPUs for a worker",
                "Give fewer with --threads, or add machines.",
            )
        remote = ray.remote(RayMaker)
        for number in range(1, count + 1):
            setup = Setup(
                {**self._template, "device": "auto" if gpus else "cpu"},
                str(self._store.out),
                f"{self._token}-{number}",
                None if self._scratch is None else str(self._scratch),
            )
            handle = remote.options(
                num_gpus=1 if gpus else 0,
                num_cpus=threads,  # Ray tells it to OpenMP too
                max_restarts=-1,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            ).remote(setup)
            self._actors[f"{number}"] = _Actor(handle)
            self._ask(f"{number}")

    def free(self) -> Sequence[str]:
        return [name for name, actor in self._actors.items() if actor.ready and actor.pending is None]

    def submit(self, worker: str, item: Item) -> None:
        actor = self._actors[worker]
        actor.item, actor.asked = item, _ITEM
        actor.pending = actor.handle.make.remote(item.to_json())

    def wait(self, timeout_s: float) -> list[Outcome]:
        import ray

        self._check_head()
        names = {actor.pending: name for name, actor in self._actors.items() if actor.pending is not None}
        if not names:
            return []
        finished, _ = ray.wait(list(names), num_returns=len(names), timeout=0)
        if not finished:
            finished, _ = ray.wait(list(names), num_returns=1, timeout=timeout_s)
        self._without_s = 0.0 if any(actor.ready for actor in self._actors.values()) else self._without_s + timeout_s
        if not finished and self._without_s > NO_ROOM_S:
            raise RunFailed(
                f"For {NO_ROOM_S / 60:.0f} minutes no machine of the cluster had room for a worker",
                "Add machines, or stop what keeps them busy; then go on with --resume.",
            )
        return [outcome for reference in finished for outcome in self._heard(names[reference], reference)]

    def put_aside(self, worker: str) -> None:
        import ray

        handle = self._actors.pop(worker).handle
        if self._head_silent < HEAD_LOST:  # else the call would not come back
            with suppress(Exception):  # it may have gone by itself
                ray.kill(handle, no_restart=True)

    def alive(self) -> int:
        return len(self._actors)

    def close(self) -> None:
        for name in list(self._actors):
            self.put_aside(name)

    def _check_head(self) -> None:
        """Asks for the cluster's head now and then: without one, Ray ends the driver after a minute, without a word.

        Raises:
            RunFailed: it is gone.
        """
        import ray

        if time.monotonic() - self._head_asked < HEAD_EVERY_S:
            return
        try:
            _call(ray.get_runtime_context().gcs_address)
            self._head_silent = 0
        except OSError as error:
            self._head_silent += 1
            if self._head_silent >= HEAD_LOST:
                raise RunFailed(
                    "The head of the Ray cluster is gone", "Start the cluster again, then go on with --resume."
                ) from error
        self._head_asked = time.monotonic()

    def _ask(self, name: str) -> None:
        """Asks an actor who it is; the answer comes once it has been started, or started again."""
        actor = self._actors[name]
        actor.ready, actor.asked, actor.item = False, _READY, None
        actor.pending = actor.handle.describe.options(max_task_retries=-1).remote()

    def _heard(self, name: str, reference: Any) -> list[Outcome]:
        import ray

        actor = self._actors[name]
        item, actor.item, actor.pending = actor.item, None, None
        try:
            answer = ray.get(reference)
        except ray.exceptions.ActorUnschedulableError as error:
            return [self._unusable(name, item, _line(error))]
        except ray.exceptions.RayTaskError as error:
            # Raised by the actor's own code: most likely it has no SynthDiffusion, or another one.
            return [self._unusable(name, item, _line(error.cause or error))]
        except ray.exceptions.RayActorError as error:
            if "creation task failed" in str(error) or isinstance(error.__cause__, ImportError):
                return [self._unusable(name, item, _line(error))]
            self._ask(name)
            return [Outcome(name, LOST, item, reason=_line(error))]
        except ray.exceptions.RayError as error:
            self._ask(name)
            return [Outcome(name, LOST, item, reason=_line(error))]
        if actor.asked == _ITEM:
            return [Outcome(name, MADE, item, answer)]
        if problem := answer.get("problem") or self._mismatch(answer):
            return [self._unusable(name, item, f"{answer['host']}: {problem}")]
        actor.ready = True
        return [Outcome(name, READY, about=answer)]

    def _unusable(self, name: str, item: Item | None, reason: str) -> Outcome:
        self.put_aside(name)
        return Outcome(name, UNUSABLE, item, reason=reason)

    def _mismatch(self, about: Mapping[str, Any]) -> str:
        """Why an actor's software would not make the same volumes; "" if it would."""
        there = about["software"]
        if there["version"] != self._here["version"]:
            return f"it has SynthDiffusion {there['version']}, and this driver {self._here['version']}"
        if there["code"] != self._here["code"]:
            return (
                f"its SynthDiffusion {there['version']} is of other code ({there['code'][:8]}, here "
                f"{self._here['code'][:8]})"
            )
        others = [
            f"{name} {there['libraries'].get(name)} instead of {version}"
            for name, version in self._here["libraries"].items()
            if _release(there["libraries"].get(name, "")) != _release(version)
        ]
        return f"it has {', '.join(others)}" if others else ""


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """The block is part of a Ray cluster; see `connect`."""
    connect(address)
    try:
        yield
    finally:
        _leave()


def _leave() -> None:
    """Leaves the cluster; not where its head has gone, which Ray would wait for."""
    import ray

    with suppress(OSError):
        _call(ray.get_runtime_context().gcs_address)
        ray.shutdown()


def connect(address: str, cpus: int | None = None) -> None:
    """Joins a Ray cluster, or starts one on this machine.

    Args:
        address: "local", "auto" (the cluster that this machine is part of), or HOST:PORT of its head.
        cpus: of a cluster that is started here; None: all of this machine.

    Raises:
        MissingExtra: Ray is not installed.
        BadInput: no cluster there, or one of another version of Ray or Python.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("--ray", "ray")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells its makers nothing
    if address == LOCAL:
        options |= {"address": "local", "num_cpus": cpus}  # a new one, although the machine may be part of another
    elif address == "auto" or re.fullmatch(r"[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", address):
        _check_answers(address)
        options["address"] = address
        del options["include_dashboard"]
    else:
        raise BadInput(
            f"'{address}' is no address of a Ray cluster",
            "Give --ray local, auto, or HOST:PORT of the cluster's head, such as 10.0.0.5:6379.",
        )
    import ray  # only now: it looks at the environment, which `_check_answers` may have changed

    try:
        with _handlers_kept():
            ray.init(**options)
    except (ConnectionError, TimeoutError) as error:
        raise BadInput(
            f"No Ray cluster answers at '{address}' ({_line(error)})",
            "Start one with: ray start --head; other machines join it with: ray start --address=HOST:6379.",
        ) from error
    except RuntimeError as error:
        if "ersion mismatch" in str(error):
            raise BadInput(
                f"The cluster at '{address}' has another version: {_line(error)}",
                "Install the same Ray and Python on all machines.",
            ) from error
        raise RunFailed(f"Ray could not be started: {_line(error)}", "Look at its logs in /tmp/ray.") from error


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; this program ends by `jobs.interrupts`, and says so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_JOIN = "import logging, ray, sys; ray.init(sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)"


def _check_answers(address: str) -> None:
    """Asks an address before `ray.init` does, which takes minutes to give up.

    Raises:
        BadInput: nobody is there, or somebody else.
    """
    hint = "Start one with: ray start --head; other machines join it with: ray start --address=HOST:6379."
    if address != "auto":
        try:
            _call(address)
        except (OSError, OverflowError) as error:
            raise BadInput(f"No Ray cluster answers at '{address}' ({error})", hint) from error
    answered, said = _try_to_join(address)
    if not answered and "RAY_AUTH_MODE" in said and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"  # as Ray itself does for the cluster of its own machine
        answered, said = _try_to_join(address)
    if not answered and "uthentication" in said:
        raise BadInput(
            f"The Ray cluster at '{address}' wants its token",
            "Set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its other machines (Ray keeps it in ~/.ray/auth_token).",
        )
    if not answered and "ersion mismatch" not in said:  # that is told when it is joined
        raise BadInput(
            f"What answers at '{address}' is no Ray cluster that is well"
            if address != "auto"
            else "This machine is part of no Ray cluster that is well",
            hint,
        )


def _try_to_join(address: str) -> tuple[bool, str]:
    """Joins a cluster in a process of its own, which can be ended: whether that went well, and what was said."""
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", _JOIN, address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=HEALTH_S,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        return False, (error.stderr or b"").decode("utf-8", "replace") if isinstance(error.stderr, bytes) else ""
    return child.returncode == 0, child.stderr


def _call(address: str) -> None:
    """Opens a connection to HOST:PORT and closes it.

    Raises:
        OSError: nobody answers.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _release(version: str) -> str:
    """A version without what says how it was built, such as "+cpu"."""
    return version.partition("+")[0]


def _line(error: BaseException) -> str:
    """The first words of an error of Ray, which come in many lines."""
    text = " ".join(str(error).split())
    return (text[:300] + "...") if len(text) > 300 else text or type(error).__name__
