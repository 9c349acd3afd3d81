"""From measured parts to the costs of many volumes on many GPUs: arithmetic only; see `scale_costs`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

VOLUMES = 100_000
CONTENT = "real CT"  # of `scale_volumes`, where it was measured
GPUS = (1, 8, 64)
LINK_BYTES_PER_S = 10e9 / 8  # a link of 10 Gbit/s to the shared file system, assumed
FILES_PER_S = 1000.0  # small files that a shared file system makes, assumed; the local disk here is measured
LOSSES_PER_GPU_DAY = 1.0  # workers lost, assumed


@dataclass(frozen=True)
class GpuSeconds:
    """What the networks take for a volume of 512 x 512 x 256.

    Args:
        name: in the tables.
        preset: whose steps beside the network are added.
        low, high: seconds; the same where there is one figure.
        how: where they come from.
    """

    name: str
    preset: str
    low: float
    high: float
    how: str

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


# Docs/performance.md, "Compared with the one measurement on a GPU": an evaluation, and decoding.
MEDLORD_EVALUATION_S, MEDLORD_DECODE_S, MEDLORD_STEPS = 0.11, 0.75, 300
# NVIDIA's own program on an A100 80 GB (docs/performance.md of NV-Generate-CTMR): s at 512 x 512 x 128 and 512^3.
MAISI_PUBLISHED_S = {"maisi-rflow": (13.0, 48.0), "maisi-ddpm": (146.0, 598.0)}
ASSUMED_S = (10.0, 60.0, 300.0)


def gpu_seconds() -> list[GpuSeconds]:
    """What is known, what is derived from it, and round numbers for other models and step counts."""
    whole = MEDLORD_STEPS * MEDLORD_EVALUATION_S + MEDLORD_DECODE_S
    rows = [
        GpuSeconds(
            "medlord-x4",
            "medlord-x4",
            whole,
            whole,
            f"multiplied: {MEDLORD_STEPS} steps x {MEDLORD_EVALUATION_S} s + {MEDLORD_DECODE_S} s for decoding, as "
            "measured once on an NVIDIA H100 in bf16 "
            "([performance.md](performance.md#compared-with-the-one-measurement-on-a-gpu))",
        )
    ]
    for preset, (quarter, full) in MAISI_PUBLISHED_S.items():
        low, high = sorted((2 * quarter, full / 2))
        rows.append(
            GpuSeconds(
                preset,
                "maisi-rflow",
                low,
                high,
                f"derived: twice NVIDIA's {quarter:g} s for 512 x 512 x 128, and half of its {full:g} s for 512 x 512 "
                "x 512 (its own program, A100 80 GB; docs/performance.md of NV-Generate-CTMR)",
            )
        )
    rows += [GpuSeconds(f"S = {s:g} s", "medlord-x4", s, s, "assumed") for s in ASSUMED_S]
    return rows


@dataclass(frozen=True)
class Parts:
    """What is measured of a volume and of a driver.

    Args:
        beside_s: of a worker, for a volume, without the network.
        start_s: of a worker, once.
        volume_bytes, other_bytes: written for a volume: the volume, and the rest.
        mask_bytes: of its drawing.
        files: of a volume.
        calls: of the file system, for a volume.
        before_s: of the driver for an item, before workers get any: listing it, and looking whether it is there.
        schedule_s: of the driver for an item, while workers work.
        after_s: of the driver for an item, at the end: manifest and report.
        driver_bytes: of the driver's memory for an item.
    """

    beside_s: float
    start_s: float
    volume_bytes: float
    other_bytes: float
    mask_bytes: float
    files: int
    calls: int
    before_s: float
    schedule_s: float
    after_s: float
    driver_bytes: float

    @property
    def written_bytes(self) -> float:
        return self.volume_bytes + self.other_bytes


@dataclass(frozen=True)
class Cost:
    """Of a batch.

    Args:
        each_s: of a volume in a worker.
        busy_hours, held_hours: of GPUs that compute, and that are held.
        wall_s: from start to report.
        per_s: volumes a second of all workers.
        written_per_s: bytes.
        read_per_s: bytes of drawings, each read once over the network.
        files_per_s, calls_per_s: of the file system.
        driver_share: of the driver's one thread.
        link_share: of `LINK_BYTES_PER_S`.
        files_share: of `FILES_PER_S`.
        stored_bytes: in the end.
    """

    each_s: float
    busy_hours: float
    held_hours: float
    wall_s: float
    per_s: float
    written_per_s: float
    read_per_s: float
    files_per_s: float
    calls_per_s: float
    driver_share: float
    link_share: float
    files_share: float
    stored_bytes: float

    @property
    def idle(self) -> float:
        """Share of the held GPU time in which the networks do not run."""
        return 1 - self.busy_hours / self.held_hours


def cost(volumes: int, gpus: int, network_s: float, parts: Parts) -> Cost:
    """A batch on so many GPUs, each with one worker, which computes, then writes, then takes the next.

    Args:
        volumes: one drawing each.
        gpus: alike.
        network_s: GPU seconds of a volume.
        parts: measured.
    """
    each = network_s + parts.beside_s
    rounds = math.ceil(volumes / gpus)
    wall = parts.start_s + rounds * each + volumes * (parts.before_s + parts.after_s)
    rate = gpus / each
    written, read = rate * parts.written_bytes, rate * parts.mask_bytes
    return Cost(
        each_s=each,
        busy_hours=volumes * network_s / 3600,
        held_hours=gpus * wall / 3600,
        wall_s=wall,
        per_s=rate,
        written_per_s=written,
        read_per_s=read,
        files_per_s=rate * parts.files,
        calls_per_s=rate * parts.calls,
        driver_share=rate * parts.schedule_s,
        link_share=(written + read) / LINK_BYTES_PER_S,
        files_share=rate * parts.files / FILES_PER_S,
        stored_bytes=volumes * parts.written_bytes,
    )


def gpus_until_full(network_s: float, parts: Parts) -> dict[str, float]:
    """With how many GPUs each shared thing is used to the full."""
    one = cost(1, 1, network_s, parts)
    shares = {"driver": one.driver_share, "link": one.link_share, "files": one.files_share}
    return {name: 1 / share for name, share in shares.items()}


def first_full(network_s: float, gpus: int, parts: Parts) -> str:
    """Which part costs the largest share first: "worker" for its steps beside the network, "driver", "link", "
    ""files"."""
    found = cost(VOLUMES, gpus, network_s, parts)
    shares = {
        "worker": parts.beside_s / found.each_s,
        "driver": found.driver_share,
        "link": found.link_share,
        "files": found.files_share,
    }
    return max(shares, key=shares.__getitem__)


def losses_share(network_s: float, parts: Parts) -> float:
    """Share of the GPU time that lost workers cost: each the volume in hand, all but made, and a start."""
    return LOSSES_PER_GPU_DAY * (network_s + parts.beside_s + parts.start_s) / 86_400


def line(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float]:
    """Intercept and slope, by least squares, of a figure over the length of the list."""
    slope, intercept = np.polyfit([row["items"] for row in rows], [row[key] for row in rows], 1)
    return float(intercept), float(slope)


def life_of(results: Mapping[str, Any], preset: str, content: str) -> Mapping[str, Any]:
    """The measured steps of a preset's worker with a content; the nearest to it where that was not measured."""
    rows = results["life"]
    return max(rows, key=lambda row: (row["preset"] == preset, row["content"] == content))


def parts_of(results: Mapping[str, Any], preset: str, content: str = CONTENT) -> Parts:
    """The parts that `cost` takes, from the measurements of `scale_costs`."""
    life, rows = life_of(results, preset, content), results["driver"]
    slopes = {key: line(rows, key)[1] for key in ("list_s", "look_new_s", "schedule_s", "report_s", "bytes")}
    return Parts(
        beside_s=sum(life["seconds"].values()),
        start_s=results["loading"]["start_s"],
        volume_bytes=life["volume_bytes"],
        other_bytes=life["other_bytes"],
        mask_bytes=life["mask_bytes"],
        files=life["files"],
        calls=sum(life["calls"].values()),
        before_s=slopes["list_s"] + slopes["look_new_s"] + life["mask_bytes"] / results["disk"]["hashed_per_s"],
        schedule_s=slopes["schedule_s"],
        after_s=slopes["report_s"],
        driver_bytes=slopes["bytes"],
    )
