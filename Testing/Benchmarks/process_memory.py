"""Peaks of whole `generate` processes on a CPU, and what was predicted for them.

    python Testing/Benchmarks/process_memory.py [--only NAME;...] [--repeats 3] [--out FILE.jsonl] [--plain-heap]

Every row is a process of its own with the shipped model's weights: `ru_maxrss` of the process that has ended, and
"predicted_bytes" of its record. A prediction must not lie below the measured peak, and at most 25 % above it. With
--out, rows that are in the file already are not repeated. --plain-heap leaves glibc's heap as it is (`memory.heap`).
Needs Linux and PyTorch's CPU build.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MIB = 2**20
PLAIN_HEAP = (
    "import sys; from SynthDiffusionLib import cli; from SynthDiffusionLib.memory import heap; "
    "heap.keep_heap_small = lambda: None; sys.exit(cli.main(sys.argv[1:]))"
)
FP32, BF16 = ("--precision", "fp32"), ("--precision", "bf16")


@dataclass(frozen=True)
class Case:
    """One kind of run.

    Args:
        model: id.
        drawn: (I, J, K) of the drawing; None: the model draws it itself.
        options: further ones of `generate`.
        image: (I, J, K) of a real volume to inpaint, on which the drawing lies then.
        voxel: size of the drawing's voxels in mm; None: the model's.
    """

    model: str
    drawn: tuple[int, int, int] | None
    options: tuple[str, ...]
    image: tuple[int, int, int] | None = None
    voxel: float | None = None


CASES = {
    "nodule, 51, fp32": Case("lung-nodule-ct", (51, 51, 51), FP32),
    "nodule, 64, fp32": Case("lung-nodule-ct", (64, 64, 64), FP32),
    "nodule, 64, bf16": Case("lung-nodule-ct", (64, 64, 64), BF16),
    "nodule, 51, fp32, 4 samples": Case("lung-nodule-ct", (51, 51, 51), (*FP32, "--samples", "4")),
    "nodule, into 200x200x150": Case("lung-nodule-ct", (48, 48, 48), FP32, (200, 200, 150)),
    "nodule, into 512x512x300": Case("lung-nodule-ct", (48, 48, 48), FP32, (512, 512, 300)),
    "nodule, 400x400x400 of 0.1 mm": Case("lung-nodule-ct", (400, 400, 400), FP32, voxel=0.1),
    "nodule, 300x300x200, cropped": Case("lung-nodule-ct", (300, 300, 200), (*FP32, "--crop"), voxel=0.7),
    "limb, 96x96x64, fp32": Case("limb-tumour-ct", (96, 96, 64), FP32),
    "limb, 96x96x64, bf16": Case("limb-tumour-ct", (96, 96, 64), BF16),
    "limb, 70x61x33, fp32": Case("limb-tumour-ct", (70, 61, 33), FP32),
    "limb, 160x160x128, fp32": Case("limb-tumour-ct", (160, 160, 128), FP32),
    "limb, 160x160x128, fp32, stream": Case("limb-tumour-ct", (160, 160, 128), (*FP32, "--strategy", "decode=stream")),
    "limb MR, fp32": Case("limb-tumour-mr", None, FP32),
    "limb MR, bf16": Case("limb-tumour-mr", None, BF16),
    "limb MR, fp32, 6 samples": Case("limb-tumour-mr", None, (*FP32, "--samples", "6")),
    "hippocampus, 48x64x64, fp32": Case("hippocampus-mr", (48, 64, 64), FP32),
    "hippocampus, 40x48x40, bf16": Case("hippocampus-mr", (40, 48, 40), BF16),
    "hippocampus, 48x64x64, fp32, stream-recompute": Case(
        "hippocampus-mr", (48, 64, 64), (*FP32, "--strategy", "decode=stream-recompute")
    ),
}
LABELS = {
    "lung-nodule-ct": {"1": "lung", "2": "nodule"},
    "limb-tumour-ct": {"1": "muscle", "2": "tumour"},
    "hippocampus-mr": {"1": "anterior hippocampus", "2": "posterior hippocampus"},
}


def drawing(case: Case, folder: Path) -> list[str]:
    """Arguments for the drawing and the real volume, which are written."""
    from SynthDiffusionLib.models import load_package
    from SynthDiffusionLib.volumes import Volume, write_volume

    if case.drawn is None:
        return ["--mode", "joint"]
    spacing = (case.voxel,) * 3 if case.voxel else load_package(case.model, verify=False).spec.grid.spacing_mm
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    shape = case.image or case.drawn
    middle = [slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(shape, case.drawn)]
    classes = np.zeros(shape, np.uint8)
    classes[tuple(middle)] = 0 if case.image else 1
    core = tuple(slice(s.start + m * 3 // 8, s.start + m * 5 // 8) for s, m in zip(middle, case.drawn))
    classes[core] = 2
    write_volume(Volume(classes, affine, "label"), folder / "drawn.nii.gz")
    labels = {value: name for value, name in LABELS[case.model].items() if (classes == int(value)).any()}
    arguments = [str(folder / "drawn.nii.gz"), "--labels", json.dumps(labels)]
    if case.image:
        # Little of it at once: what this process holds counts as the child's until that has begun.
        noise = np.random.default_rng(0).integers(-900, -300, shape, dtype=np.int16)
        write_volume(Volume(noise, affine, "scalar"), folder / "real.nii.gz")
        arguments += ["--mode", "inpaint", "--image", str(folder / "real.nii.gz")]
    return arguments


def measured(case: Case, plain_heap: bool = False) -> dict[str, float]:
    """Peak of the process and its prediction, in bytes, and its processor time in s."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = ["-c", PLAIN_HEAP] if plain_heap else ["-m", "SynthDiffusionLib"]
        command = [sys.executable, *program, "generate", *drawing(case, folder), "--model", case.model]
        command += [*case.options, "--steps", "2", "--seed", "1", "--device", "cpu", "--out", str(folder / "out")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(folder / "log.txt", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError((folder / "log.txt").read_text(encoding="utf-8")[-500:])
        record = json.loads(next((folder / "out").glob("*.json")).read_text(encoding="utf-8"))
    processor = usage.ru_utime + usage.ru_stime
    return {
        "measured": 1024 * usage.ru_maxrss,
        "predicted": record["plan"]["predicted_bytes"],
        "processor_s": processor,
    }


def table(rows: list[dict]) -> str:
    """Medians and the largest peak of each case, and its prediction against the largest."""
    lines = [
        "| run | n | measured MiB: least, median, largest | predicted MiB | predicted / largest | processor s |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        of_case = [row for row in rows if row["name"] == name]
        peaks = [row["measured"] for row in of_case]
        predicted, largest = of_case[0]["predicted"], max(peaks)
        spread = ", ".join(f"{n / MIB:.0f}" for n in (min(peaks), statistics.median(peaks), largest))
        seconds = statistics.median(row["processor_s"] for row in of_case)
        cells = [
            name,
            str(len(peaks)),
            spread,
            f"{predicted / MIB:.0f}",
            f"{predicted / largest:.2f}",
            f"{seconds:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME;...", help="rows whose names begin so")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plain-heap", action="store_true")
    args = parser.parse_args()
    only = tuple(part for part in args.only.split(";") if part)
    rows = []
    if args.out and args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text(encoding="utf-8").splitlines() if line]
    for repeat in range(args.repeats):
        for name, case in CASES.items():
            if only and not name.startswith(only):
                continue
            if any(row["name"] == name and row["repeat"] == repeat for row in rows):
                continue
            rows.append({"name": name, "repeat": repeat, **measured(case, args.plain_heap)})
            print(json.dumps(rows[-1]), flush=True)
            if args.out:
                with args.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(rows[-1]) + "\n")
    print(f"\n{table(rows)}\n\n{platform.system()}, {platform.machine()}, one thread")
    return 0


if __name__ == "__main__":
    sys.exit(main())
