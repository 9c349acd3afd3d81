"""What 100,000 volumes of 512 x 512 x 256 cost on 1, 8 and 64 GPUs: parts measured on this machine, the rest on paper.

    python Testing/Benchmarks/scale_costs.py [--out FOLDER] [--inputs FOLDER]   measures, about a quarter of an hour
    python Testing/Benchmarks/scale_costs.py --quick [--out FOLDER]             the same on tiny volumes, in seconds
    python Testing/Benchmarks/scale_costs.py --from Docs/Tables/scale.json      only writes Docs/SCALE.md again
    python Testing/Benchmarks/scale_costs.py --from Docs/Tables/scale.json --parts driver      measures a part anew

Writes `scale.json` (all that was measured) and `scale.md` (the tables) into FOLDER. With --write, and with --from, the
tables go between the marks of Docs/SCALE.md, and the measurements beside it, into Docs/Tables/scale.json.

Measured are (`scale_volumes`) ways to store a volume and every step of a worker but the network, by the code that
workers use, and (`scale_driver`) a driver's steps for lists of several lengths, and the disk. GPU seconds come from
elsewhere and name their source (`scale_paper`). Nothing is run on several GPUs.

To compare with another state of the library: --parts life with that state first in PYTHONPATH, then --before with the
`scale.json` of that run.

One process and one thread (OMP_NUM_THREADS=1). isal, zlib-ng and zstandard are compared where they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import scale_driver
import scale_volumes
from scale_page import PAGE, RESULTS, tables, write_page

import SynthDiffusionLib
from SynthDiffusionLib.errors import BadInput

FORM = "synthdiffusion-scale-1"
PARTS = ("compression", "life", "driver")
FULL = {"size": (512, 512, 256), "repeats": 3, "counts": (1000, 10_000, 30_000), "files": 10_000, "steps": None}
QUICK = {"size": (64, 64, 16), "repeats": 1, "counts": (20, 40), "files": 10, "steps": 1}


def main(arguments: list[str] | None = None) -> int:
    """Measures, or takes measurements, and writes the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny volumes and lists: tries the commands, no figures")
    parser.add_argument("--out", type=Path, help="folder for scale.json and scale.md; there already, or made")
    parser.add_argument("--inputs", type=Path, default=scale_volumes.INPUTS, help="folder with the real CT")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--before", type=Path, help="scale.json of another state of the library, whose steps are shown")
    parser.add_argument("--from", dest="source", type=Path, help="scale.json: measure nothing, write the page of it")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} and {RESULTS.name}")
    options = parser.parse_args(arguments)
    try:
        some = options.source is None and set(options.parts) != set(PARTS)
        if options.source is not None and options.quick or options.write and (options.quick or some):
            raise BadInput("The page shows whole measurements alone", "Leave out --quick, or give --from with --parts.")
        results = read(options.source) if options.source is not None else {}
        if options.source is None or set(options.parts) != set(PARTS):
            results = joined(results, measured(options))
        if options.before is not None:
            other = read(options.before)
            results["before"] = {"life": other["life"], "commit": other["commits"]["life"]}
    except BadInput as error:
        print(error.one_line(), file=sys.stderr)
        return error.exit_code
    if options.source is not None:
        keep(results)
        return 0
    out = options.out or Path(tempfile.mkdtemp(prefix="scale-"))
    out.mkdir(parents=True, exist_ok=True)
    save(results, out / "scale.json")
    if set(options.parts) == set(PARTS):
        (out / "scale.md").write_text("\n".join(tables(results)) + "\n", encoding="utf-8")
        if options.write:
            keep(results)
    print(f"Written to '{out}'.")
    return 0


def joined(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Measurements with some parts measured anew.

    Raises:
        BadInput: on another machine.
    """
    if earlier and any(earlier["machine"][key] != later["machine"][key] for key in ("cpu", "cores", "python", "zlib")):
        raise BadInput("The other parts were measured on another machine", "Measure all of them, without --from.")
    commits = earlier.get("commits", {}) | later["commits"]
    return earlier | later | {"seconds": earlier.get("seconds", 0) + later["seconds"], "commits": commits}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All parts that are asked for; JSON values."""
    import torch

    torch.set_num_threads(1)
    setting = QUICK if options.quick else FULL
    began = time.monotonic()
    results: dict[str, Any] = {
        "form": FORM,
        "quick": options.quick,
        "size": list(setting["size"]),
        "machine": machine(),
    }
    results["commits"] = dict.fromkeys(options.parts, results["machine"].pop("commit"))
    with tempfile.TemporaryDirectory(prefix="scale-", dir=options.out and _made(options.out)) as name:
        folder = Path(name)
        if {"compression", "life"} & set(options.parts):
            found = scale_volumes.contents(options.inputs, setting["size"], setting["steps"], folder / "sample")
            results["contents"] = {c.name: c.about for c in found}
        if "compression" in options.parts:
            results["compression"] = []
            for content in found:
                print(f"compressing: {content.name}", flush=True)
                floats = content is found[0]
                results["compression"] += scale_volumes.compression(content, folder, setting["repeats"], floats)
        if "life" in options.parts:
            results["life"] = []
            for content in found:
                for preset in content.labels:
                    if options.quick and preset != "medlord-x4":
                        continue  # MAISI makes no volumes as small as that
                    print(f"a worker's steps: {preset}, {content.name}", flush=True)
                    place = folder / f"{preset}-{content.name}"
                    results["life"].append(scale_volumes.life(preset, content, place, setting["repeats"]))
        if "driver" in options.parts:
            print("a driver's steps", flush=True)
            (folder / "driver").mkdir()
            (folder / "files").mkdir()
            results["driver"] = scale_driver.driver(setting["counts"], folder / "driver")
            results["files"] = scale_driver.files(setting["files"], folder / "files")
            results["disk"] = scale_driver.disk((1 if options.quick else 256) << 20, folder, setting["repeats"])
            results["loading"] = scale_driver.loading(setting["repeats"])
    return results | {"seconds": round(time.monotonic() - began, 1)}


def machine() -> dict[str, Any]:
    """What this ran on; no names of hosts or folders."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("numpy", "nibabel", "isal", "zlib-ng", "zstandard"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    library = Path(SynthDiffusionLib.__file__).parent
    command = ["git", "-C", str(library), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "versions": versions,
        "commit": commit,
    }


def read(path: Path) -> dict[str, Any]:
    """A `scale.json`.

    Raises:
        BadInput: it is none.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["form"] != FORM:
            raise ValueError(f"its form is {results['form']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"'{path}' is no file of this command ({error})", "Give its scale.json.") from error
    return results


def keep(results: dict[str, Any]) -> None:
    """Writes the project's measurements, and the page as they stand there."""
    save(results, RESULTS)
    write_page(PAGE, read(RESULTS))


def save(results: dict[str, Any], path: Path) -> None:
    """Writes the measurements, with as many digits as they bear."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        if isinstance(value, dict):
            return {key: short(inner) for key, inner in value.items()}
        return [short(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(short(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
