"""A batch on a Ray cluster of three nodes on this machine, while a worker, a node and the driver are killed.

    python Testing/Benchmarks/batch_cluster.py [--volumes 200] [--endurance 500] [--steps 2] [--out FOLDER]

First one process makes `endurance` volumes: its rate is what the cluster is compared with, its memory must stay flat,
and its voxels are what the cluster must make again. Then a cluster of a head without CPUs and three nodes of one CPU
makes the first `volumes` of them, twice. The second time, at 20 % a worker process is killed (SIGKILL), at 40 % a whole
node, and at 60 % the driver, which is started again with --resume. A second cluster of three nodes, one of which has a
full disk for what is begun, makes a tenth. Prints a table; the exit code is 1 if a volume is missing, doubled, or not
the same voxel for voxel.

Linux, and the extra `ray`. The small disk needs the right to mount one (root); without it that row is "not run".
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
MODEL = "hippocampus-mr"
SEEDS = 2  # of each segmentation


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--endurance", type=int, default=500)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="batch-cluster-"))
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    masks = out / "masks"
    write_masks(masks, max(options.endurance, options.volumes) // SEEDS)
    common = ["--model", MODEL, "--steps", str(options.steps), "--samples", str(SEEDS), "--threads", "1"]
    rows: list[tuple[str, str]] = []

    alone = out / "alone"
    first = names(masks, options.endurance // SEEDS)
    done = batch([*first, *common, "--out", alone, "--workers", "1", "--device", "cpu"])
    assert done == 0, "the process alone failed"
    summary = json.loads((alone / "report.json").read_text(encoding="utf-8"))
    (resident,) = summary["this_run"]["resident_bytes"].values()
    tenth = max(1, len(resident) // 10)
    early, late = (median(part) / 2**20 for part in (resident[tenth : 2 * tenth], resident[-tenth:]))
    rows += [
        ("volumes made by one process", f"{summary['there']}"),
        ("its resident memory, second and last tenth of the volumes", f"{early:.0f} and {late:.0f} MiB"),
        ("its rate", f"{summary['this_run']['per_hour']:.0f} an hour"),
    ]
    reference = sums(alone)

    few = names(masks, options.volumes // SEEDS)
    killed = out / "killed"
    faults: list[str] = []
    with cluster([{}, {}, {}]) as (address, nodes):
        quiet = out / "cluster"
        assert batch([*few, *common, "--out", quiet, "--ray", address]) == 0, "the undisturbed cluster failed"
        rate = json.loads((quiet / "report.json").read_text(encoding="utf-8"))["this_run"]["per_hour"]
        ratio = rate / summary["this_run"]["per_hour"]
        rows.append((f"rate of three nodes of one CPU on {os.cpu_count()} cores, against one process", f"{ratio:.2f}"))
        faults += compare("the undisturbed cluster", quiet, reference, options.volumes)

        arguments = [*few, *common, "--out", killed, "--ray", address, "--resume"]
        driver = start(arguments)
        reach(killed, 0.2 * options.volumes, driver)
        worker = next(p for p in processes("RayMaker"))
        worker.kill()
        reach(killed, 0.4 * options.volumes, driver)
        nodes[0].kill_all_processes(check_alive=False, allow_graceful=False)
        reach(killed, 0.6 * options.volumes, driver)
        driver.kill()
        driver.wait()
        rows.append(("there when the driver was killed", f"{there(killed)} of {options.volumes}"))
        assert batch(arguments) == 0, "the driver that was started again failed"
    result = json.loads((killed / "report.json").read_text(encoding="utf-8"))
    rows.append(("there in the end, a worker, a node and the driver killed", f"{result['there']} of {result['total']}"))
    faults += compare("the disturbed cluster", killed, reference, options.volumes)

    with small_disk(out / "small-disk") as small:
        if small is None:
            rows.append(("a node with a full disk", "not run: no right to mount one"))
        else:
            scratch = [{"BATCH_SCRATCH": str(path)} for path in (small, out / "scratch-2", out / "scratch-3")]
            part = names(masks, max(1, options.volumes // 10 // SEEDS))
            with cluster(scratch) as (address, _):
                code = batch(
                    [*part, *common, "--out", out / "full-disk", "--ray", address, "--scratch", "$BATCH_SCRATCH"]
                )
            report = json.loads((out / "full-disk" / "report.json").read_text(encoding="utf-8"))
            aside = report["this_run"]["workers_put_aside"]
            faults += compare("the cluster with a full disk", out / "full-disk", reference, report["total"])
            if code or not aside:
                faults.append("the node with a full disk was not put aside")
            rows.append(("there with a full disk on one node", f"{report['there']} of {report['total']}"))
            rows += [("its message", entry["reason"]) for entry in aside[:1]]

    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


def write_masks(folder: Path, count: int) -> None:
    """Different drawings: the sample's, with some voxels of its surface taken off or added."""
    from SynthDiffusionLib.volumes import Segmentation, read_segmentation, write_segmentation

    folder.mkdir(parents=True, exist_ok=True)
    sample = read_segmentation(ROOT / "Resources" / "Segmentations" / "hippocampus.seg.nrrd")
    rng = np.random.default_rng(1)
    for number in range(count):
        layers = []
        for layer in sample.layers:
            changed = layer.copy()
            edge = np.argwhere((layer != 0) & (np.roll(layer, 1, 0) == 0))
            for i, j, k in rng.permutation(edge)[:10]:
                changed[i, j, k] = 0
            layers.append(changed)
        write_segmentation(
            Segmentation(tuple(layers), sample.affine, sample.segments), folder / f"m{number:04}.seg.nrrd"
        )


def names(folder: Path, count: int) -> list[Path]:
    return sorted(folder.iterdir())[:count]


def start(arguments: list[object]) -> subprocess.Popen:
    command = [sys.executable, "-m", "SynthDiffusionLib", "batch", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    print(f"synthdiffusion batch ... {' '.join(map(str, arguments[-8:]))}", flush=True)
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def batch(arguments: list[object]) -> int:
    return start(arguments).wait()


def there(out: Path) -> int:
    return len(list(out.glob("volumes/*/*/item.json")))


def reach(out: Path, count: float, driver: subprocess.Popen) -> None:
    """Waits until so many volumes are there."""
    while there(out) < count:
        assert driver.poll() is None, "the driver has ended"
        time.sleep(0.1)


def processes(title: str) -> Iterator[psutil.Process]:
    """Processes of Ray that run an actor of this class."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline() and process.cmdline()[0].startswith(f"ray::{title}"):
                yield process


@contextmanager
def cluster(variables: list[dict[str, str]]) -> Iterator[tuple[str, list]]:
    """A head without CPUs and a node of one CPU for each set of environment variables."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    before = dict(os.environ)
    try:
        nodes = []
        for own in variables:
            os.environ.update({**own, "PYTHONPATH": str(ROOT)})
            nodes.append(made.add_node(num_cpus=1, include_dashboard=False))
        yield made.address, nodes
    finally:
        os.environ.clear()
        os.environ.update(before)
        made.shutdown()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of 64 kB, less than a volume takes; None without the right to mount it."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False)
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=False)


def sums(out: Path) -> dict[str, str]:
    """Checksum of the volume of each key, from the files."""
    found = {}
    for item in out.glob("volumes/*/*/item.json"):
        record = json.loads(item.read_text(encoding="utf-8"))
        volume = item.with_name(record["files"]["volume"]["name"])
        found[record["key"]] = hashlib.sha256(volume.read_bytes()).hexdigest()
    return found


def compare(what: str, out: Path, reference: dict[str, str], total: int) -> list[str]:
    """What is wrong with a batch: missing, doubled, or other voxels than one process made."""
    found, faults = sums(out), []
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        manifest = {row["key"]: row for row in csv.DictReader(stream)}
    volumes = [path for path in out.rglob("*.nii.gz")]
    if len(found) != total or len(volumes) != total or len(manifest) != total:
        faults.append(f"{what}: {len(found)} items, {len(volumes)} volumes, {len(manifest)} lines, {total} expected")
    for key, checksum in found.items():
        if reference.get(key) != checksum:
            faults.append(f"{what}: {key} is not what one process made")
        if manifest.get(key, {}).get("sha256") != checksum:
            faults.append(f"{what}: the manifest has another checksum of {key}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
