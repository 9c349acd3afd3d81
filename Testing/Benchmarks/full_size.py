"""Memory and time of the full-size presets on a GPU under memory limits. The weights are random: what is drawn means
nothing, and time and memory do not depend on it.

    python Testing/Benchmarks/full_size.py --out FILE.json [--only medlord-x4:512x512x256:8,...] [--minutes N]
    python Testing/Benchmarks/full_size.py --out FILE.json --list
    python Testing/Benchmarks/full_size.py --out FILE.json --write Docs/performance.md

One row is a preset, a size and a limit in GiB of the whole process as the driver counts it; each runs in a process of
its own, the most important first. Rows that FILE.json holds are not run again, so that a call that was cut off is
simply repeated (--again runs those that failed once more); `--minutes` stops before a row that would begin later. A row
plans as a job does, caps PyTorch's allocator, makes a warm-up step and three more, and decodes; the time of a whole
volume is given as steps x the time of one, plus the rest. A row that ends in "end-to-end" makes a volume with all
steps instead. Memory is read twice: from NVML, of the process, sampled every 20 ms, and from PyTorch's allocator.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

GIB = 2**30
PRESETS = ("medlord-x4", "maisi-rflow", "medlord-x8", "maisi-ddpm")
SIZES = ("512x512x256", "512x512x128", "256x256x256", "512x512x512")
LIMITS = (8, 24, 12, 16)
END_TO_END = tuple(f"{preset}:512x512x256:24:end-to-end" for preset in PRESETS)
ROWS = (
    *(f"{preset}:512x512x256:8" for preset in PRESETS),
    *(f"{preset}:512x512x512:24" for preset in PRESETS),
    *END_TO_END,
    *(f"{preset}:{size}:{limit}" for size in SIZES for limit in LIMITS for preset in PRESETS),
)
WARM_STEPS = 3
SAMPLED_S = 0.02
LONGEST_S = 1800
BEGIN, END = "<!-- GPU rows: begin -->", "<!-- GPU rows: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(dict.fromkeys(ROWS)), metavar="ID:XxYxZ:GIB,...")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, help="results, which are kept and added to")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row after so long")
    parser.add_argument("--again", action="store_true", help="run rows again that failed")
    parser.add_argument("--list", action="store_true", help="say which rows are there and which are not, and run none")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into a page, and run none")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.precision, args.device)))
        return 0
    rows: dict[str, dict[str, Any]] = {}
    if args.out is not None and args.out.is_file():
        rows = {row["job"]: row for row in json.loads(args.out.read_text(encoding="utf-8"))}
    if args.write is not None:
        write_page(args.write, rows)
        return 0
    began = time.monotonic()
    for job in args.only.split(","):
        known = job in rows and not (args.again and "error" in rows[job])
        if args.list:
            print(
                job,
                "measured" if known and "error" not in rows[job] else rows.get(job, {}).get("error", "not measured"),
            )
        elif not known and time.monotonic() - began < 60 * args.minutes:
            rows[job] = in_a_process(job, args.precision, args.device)
            print(json.dumps(rows[job]), flush=True)
            if args.out is not None:
                beside = args.out.with_name(args.out.name + ".part")
                beside.write_text(json.dumps(list(rows.values()), indent=1) + "\n", encoding="utf-8")
                beside.replace(args.out)
    if not args.list:
        print("\n" + "\n".join(table(rows)))
    return 0


def in_a_process(job: str, precision: str, device: str) -> dict[str, Any]:
    """A row, or its error."""
    command = [sys.executable, __file__, "--one", job, "--precision", precision, "--device", device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_S)
        return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"job": job, "error": f"longer than {LONGEST_S} s"}
    except (IndexError, ValueError):
        return {"job": job, "error": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}


class Sampled(threading.Thread):
    """The most memory that the driver counts for this process, looked at again and again."""

    def __init__(self, device: str) -> None:
        super().__init__(daemon=True)
        from SynthDiffusionLib.memory.gpu import pci_bus_id

        self.bus, self.peak, self._over = pci_bus_id(device), 0, threading.Event()

    def run(self) -> None:
        from SynthDiffusionLib.memory.gpu import process_bytes

        while not self._over.wait(SAMPLED_S):
            self.peak = max(self.peak, process_bytes(self.bus) or 0)

    def end(self) -> int:
        self._over.set()
        self.join()
        return self.peak


def measure(job: str, precision: str, device: str) -> dict[str, Any]:
    """One row; what does not fit is said, other errors end the process."""
    import numpy as np
    import psutil
    import torch

    from SynthDiffusionLib.errors import OutOfMemory
    from SynthDiffusionLib.labels.condition import Condition
    from SynthDiffusionLib.memory.plan import resolve_plan
    from SynthDiffusionLib.models.presets import load_preset

    preset, size, limit, *rest = job.split(":")
    spec, shape, cuda = load_preset(preset), tuple(int(n) for n in size.split("x")), device.startswith("cuda")
    backend = with_random_weights(preset)
    classes, names = np.zeros(shape, np.uint8), []
    for number, label in enumerate(spec.label_scheme.condition_classes[:3]):
        inset = tuple(slice(n * (1 + number) // 10, n - n * (1 + number) // 10) for n in shape)
        classes[inset] = label.value
        names.append(label.name)
    condition = Condition(classes, np.diag([*spec.grid.spacing_mm, 1.0]), spec.label_scheme, tuple(names))
    told = {"job": job, "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU"}
    told |= {"torch": torch.__version__, "commit": commit(), "os": platform.system()}
    try:
        grid = backend.working_grid(shape)
        plan = resolve_plan(
            spec, grid, device=device, precision=precision, vram_limit=int(float(limit) * GIB), conditional=True
        )
    except OutOfMemory as error:
        return told | {"fits": False, "said": error.one_line()}
    steps = spec.sampling.default_steps if rest else 1 + WARM_STEPS
    times, peaks = [time.monotonic()], {}

    def on_step(done: int, total: int) -> None:
        if cuda:
            torch.cuda.synchronize()
        times.append(time.monotonic())
        if done == total and cuda:
            peaks["denoise"] = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()

    sampled = Sampled(device) if cuda else None
    if sampled:
        sampled.start()
    try:
        made = backend.sample(
            condition, plan, sampler=spec.sampling.default_sampler, steps=steps, seed=1, on_step=on_step
        )
    except OutOfMemory as error:
        return told | {"fits": False, "ran_out": True, "said": error.one_line()}
    ended = time.monotonic()
    evaluations = times[2:] if not rest else times[1:]
    return told | {
        "fits": True,
        "precision": plan.precision,
        "execution": plan.execution.to_json(),
        "predicted_bytes": plan.predicted_bytes,
        "predicted_by_stage": dict(plan.stage_bytes),
        "predicted_host_bytes": plan.predicted_host_bytes,
        "nvml_bytes": sampled.end() if sampled else 0,
        "denoise_bytes": peaks.get("denoise", 0),
        "decode_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
        "reserved_bytes": torch.cuda.max_memory_reserved() if cuda else 0,
        "host_bytes": psutil.Process().memory_info().rss,
        "first_step_s": times[1] - times[0],
        "seconds_per_evaluation": (evaluations[-1] - evaluations[0]) / max(1, len(evaluations) - 1),
        "evaluations": steps,
        "default_steps": spec.sampling.default_steps,
        "decode_s": ended - times[-1],
        "whole_s": ended - times[0] if rest else None,
        "finite": bool(np.isfinite(made).all()),
    }


def with_random_weights(preset: str) -> Any:
    """The backend of a preset, of a package that is made for it."""
    import torch
    from safetensors.torch import save_file

    from SynthDiffusionLib.backends import load_backend
    from SynthDiffusionLib.models import seal_package
    from SynthDiffusionLib.models.presets import load_preset, networks
    from SynthDiffusionLib.networks.build import build_network

    spec = load_preset(preset)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder, roles = Path(folder) / preset, {}
        folder.mkdir()
        for role, network in networks(spec):
            state = {k: v.contiguous() for k, v in build_network(network, spec.label_scheme).state_dict().items()}
            save_file(state, folder / f"{role}.safetensors")
            roles[f"{role}.safetensors"] = role
        description = {k: v for k, v in spec.raw.items() if k not in ("format", "files")}
        return load_backend(seal_package(folder, description, roles))


def commit() -> str:
    """Of this clone; "" where Git cannot say."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """All rows in Markdown, those that are not measured among them."""
    lines = [
        "| preset | voxels | limit GiB | computed | predicted GiB | NVML GiB | allocator GiB: denoise, decode "
        "| s per evaluation | decode s | steps, s in all | GPU, PyTorch, commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for job in dict.fromkeys((*ROWS, *rows)):
        preset, size, limit, *rest = job.split(":")
        start, row = f"| {preset} | {size} | {limit} |", rows.get(job)
        if row is None:
            lines.append(f"{start} not measured{' (end-to-end)' if rest else ''} | | | | | | | |")
        elif "error" in row or not row["fits"]:
            lines.append(f"{start} {row.get('error') or row['said']} | | | | | | | |")
        else:
            one, steps = row["seconds_per_evaluation"], row["evaluations"] if rest else row["default_steps"]
            whole = (
                f"{steps}, {row['whole_s']:.1f}"
                if rest
                else f"{steps}, {steps * one + row['decode_s']:.1f} (multiplied)"
            )
            how = ", ".join(f"{stage} {way}" for stage, way in row["execution"].items()) or "at once"
            lines.append(
                f"{start} {how}, {row['precision']} | {row['predicted_bytes'] / GIB:.2f} "
                f"| {row['nvml_bytes'] / GIB:.2f} "
                f"| {row['denoise_bytes'] / GIB:.2f}, {row['decode_bytes'] / GIB:.2f} | {one:.3f} "
                f"| {row['decode_s']:.2f} | {whole} | {row['device']}, {row['torch']}, {row['commit']} |"
            )
    return lines


def write_page(page: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Puts the table between its marks in a page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n" + "\n".join(table(rows)) + f"\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
