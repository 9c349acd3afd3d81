"""A batch on a Ray cluster that is started here: versions that differ, killed actors, and volumes that do not."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import batch_examples
import psutil
import pytest
from batch_examples import manifest
from command_process import ROOT

from SynthDiffusionLib.batch import ray_pool
from SynthDiffusionLib.batch.run import run_batch
from SynthDiffusionLib.errors import BadInput, MissingExtra, RunFailed

ray = pytest.importorskip("ray")
place, small, in_process = batch_examples.place, batch_examples.small, batch_examples.in_process


@pytest.fixture
def local_ray(monkeypatch, tmp_path_factory) -> Iterator[None]:
    """`--ray local` with two CPUs, and nothing left of it."""
    connect = ray_pool.connect
    # Ray's sockets need short paths; its workers get the library from where the tests have it.
    monkeypatch.setattr(ray_pool, "connect", lambda address: connect(address, cpus=2))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    yield
    ray.shutdown()


def test_a_cluster_makes_what_one_process_makes_although_an_actor_is_killed(small, tmp_path, local_ray):
    killed: list[int] = []

    def kill(event: dict) -> None:
        if not killed and event["event"] == "progress" and event["stage"] == "batch" and 0 < event["step"] < 6:
            for process in psutil.process_iter():
                if process.cmdline() and process.cmdline()[0].startswith("ray::RayMaker"):
                    killed.append(process.pid)
                    process.kill()
                    return

    result = run_batch(small(out=tmp_path / "cluster", ray="local", steps=20), kill)
    assert killed and result.complete and result.summary["this_run"]["workers_lost"] >= 1
    alone = run_batch(small(out=tmp_path / "alone", steps=20, workers=1))
    sums = [{row["key"]: row["sha256"] for row in manifest(tmp_path / name)} for name in ("cluster", "alone")]
    assert sums[0] == sums[1] and len(sums[0]) == 8
    for row in manifest(tmp_path / "cluster"):
        volume = tmp_path / "cluster" / row["volume"]
        assert hashlib.sha256(volume.read_bytes()).hexdigest() == row["sha256"]
    assert len(list((tmp_path / "cluster").rglob("*.nii.gz"))) == 8 and alone.complete


def test_actors_of_other_software_are_put_aside_and_nothing_is_lost(small, tmp_path, local_ray, monkeypatch):
    here = ray_pool.software_here()
    monkeypatch.setattr(ray_pool, "software_here", lambda: here | {"version": "99.0.0"})
    result = run_batch(small(ray="local"))
    assert (result.summary["there"], result.summary["failed"], result.summary["left"]) == (0, 0, 8)
    reasons = [entry["reason"] for entry in result.summary["this_run"]["workers_put_aside"]]
    assert len(reasons) == 2 and all("and this driver 99.0.0" in reason for reason in reasons)
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["left"] == 8


def test_what_differs_between_driver_and_actor_is_named():
    pool = ray_pool.RayPool.__new__(ray_pool.RayPool)
    pool._here = {"version": "1.0.0", "code": "a" * 64, "libraries": {"torch": "2.13.0+cpu", "monai": "1.6.1"}}

    def told(**changes) -> str:
        return pool._mismatch({"software": pool._here | changes})

    assert told() == "" == told(libraries={"torch": "2.13.0+cu128", "monai": "1.6.1"})
    assert told(version="0.9.0") == "it has SynthDiffusion 0.9.0, and this driver 1.0.0"
    assert told(code="b" * 64) == "its SynthDiffusion 1.0.0 is of other code (bbbbbbbb, here aaaaaaaa)"
    assert told(libraries={"torch": "2.12.0", "monai": "1.6.1"}) == "it has torch 2.12.0 instead of 2.13.0+cpu"


@pytest.mark.parametrize("address", ["", "host", "ray://host:10001", "host:port", "a b:1", "host:6379/x"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(BadInput, match="no address of a Ray cluster"):
        ray_pool.connect(address)


def test_without_ray_its_extra_is_named(monkeypatch):
    monkeypatch.setattr(ray_pool.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="--ray needs packages that are not installed"):
        ray_pool.connect("local")


def test_an_address_without_a_cluster_is_refused_soon():
    with pytest.raises(BadInput, match="No Ray cluster answers at '127.0.0.1:9'"):
        ray_pool.connect("127.0.0.1:9")


def test_a_port_that_is_no_cluster_is_refused_soon(monkeypatch):
    monkeypatch.setattr(ray_pool, "HEALTH_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(BadInput, match=f"What answers at '{address}' is no Ray cluster that is well"):
            ray_pool.connect(address)


def test_a_cluster_with_a_token_is_joined_with_it_or_says_so(monkeypatch):
    tried: list[str | None] = []

    def join(has_token: bool):
        def try_to_join(address: str) -> tuple[bool, str]:
            tried.append(os.environ.get("RAY_AUTH_MODE"))
            token = has_token and tried[-1] == "token"
            return token, "" if token else "AuthenticationError: ... RAY_AUTH_MODE is currently 'disabled'"

        return try_to_join

    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"})
    monkeypatch.setattr(ray_pool, "_try_to_join", join(True))
    ray_pool._check_answers("auto")
    assert tried == [None, "token"]
    os.environ["RAY_AUTH_MODE"] = "disabled"
    monkeypatch.setattr(ray_pool, "_try_to_join", join(False))
    with pytest.raises(BadInput, match="wants its token"):
        ray_pool._check_answers("auto")


def test_a_head_that_has_gone_is_told(monkeypatch):
    monkeypatch.setattr(ray_pool, "HEAD_EVERY_S", 0.0)
    pool = ray_pool.RayPool.__new__(ray_pool.RayPool)
    pool._head_asked, pool._head_silent, pool._actors = 0.0, 0, {}
    context = SimpleNamespace(gcs_address="127.0.0.1:9")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    pool._check_head()
    pool._check_head()
    with pytest.raises(RunFailed, match="The head of the Ray cluster is gone"):
        pool._check_head()


def test_a_cluster_of_another_version_is_refused(monkeypatch):
    def init(**options) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.40.0\n    Python: 3.9.1")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(BadInput, match=r"has another version: Version mismatch: .* Ray: 2\.40\.0 Python: 3\.9\.1"):
        ray_pool.connect("local")
