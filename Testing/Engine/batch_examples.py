"""Batches for tests: four drawings, a tiny model, and workers without processes of their own."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_process import labels, save
from tiny_package import make_working_package

from SynthDiffusionLib.batch import run as batch_run
from SynthDiffusionLib.batch.items import Item
from SynthDiffusionLib.batch.local_pool import Seat
from SynthDiffusionLib.batch.maker import Maker, Setup
from SynthDiffusionLib.batch.pool import MADE, READY, Outcome
from SynthDiffusionLib.batch.run import BatchRequest
from SynthDiffusionLib.batch.sources import find_sources
from SynthDiffusionLib.batch.store import Store
from SynthDiffusionLib.jobs.request import GenerateRequest


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The model `models/tiny-ct`, and `masks` with four drawings."""
    folder = tmp_path_factory.mktemp("a batch")
    make_working_package(folder / "models" / "tiny-ct")
    (folder / "masks").mkdir()
    for number in range(4):
        save(folder / "masks" / f"mäsk {number}.nii.gz", labels(block=slice(5 + number, 9 + number)))
    return folder


@pytest.fixture
def small(place, tmp_path) -> Callable[..., BatchRequest]:
    """A batch of the four drawings with two seeds each, in `tmp_path/out`."""

    def make(masks: Path = place / "masks", out: Path = tmp_path / "out", **options: Any) -> BatchRequest:
        sources = find_sources([masks])
        steps = options.pop("steps", 2)
        model = str(place / "models" / "tiny-ct")
        template = GenerateRequest(sources[0].segmentation, model, out, device="cpu", steps=steps)
        return BatchRequest(template, sources, **({"samples": 2, "workers": 2, "threads": 1} | options))

    return make


class InProcess:
    """A pool of one worker in this process; see `batch.pool.Pool`."""

    def __init__(
        self, seats: Sequence[Seat], template: Mapping[str, Any], store: Store, token: str, scratch: Path | None
    ) -> None:
        self._setup = Setup({**template, "device": "cpu"}, str(store.out), f"{token}-1", scratch)
        self._news: list[Outcome] = []

    def start(self) -> None:
        self._maker = Maker(self._setup)
        self._news.append(Outcome("1", READY, about=self._maker.describe()))

    def free(self) -> Sequence[str]:
        return [] if self._news else ["1"]

    def submit(self, worker: str, item: Item) -> None:
        self._news.append(Outcome("1", MADE, item, self._maker.make(item)))

    def wait(self, timeout_s: float) -> list[Outcome]:
        news, self._news = self._news, []
        return news

    def put_aside(self, worker: str) -> None:
        raise AssertionError("the worker is put aside")

    def alive(self) -> int:
        return 1

    def close(self) -> None:
        self._maker.close()


@pytest.fixture
def in_process(monkeypatch) -> None:
    """Batches of this machine are made in this process, which takes no time to start."""
    monkeypatch.setattr(batch_run, "LocalPool", InProcess)


def manifest(out: Path, name: str = "manifest.csv") -> list[dict[str, str]]:
    """Lines of a batch's manifest."""
    with (out / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
