"""Decoding MAISI's latents: whole, with MONAI's splits, in a sliding window, and streamed. Random weights.

    python Testing/Benchmarks/streamed_decode.py [--repeats 5] [--latent 32] [--threads N] [--only NAME,...] [--all]
                                                 [--out FILE]
    python Testing/Benchmarks/streamed_decode.py --gpu [--only NAME,...] [--sizes 512x512x256,...] [--precision bf16]

On the CPU every decode runs in a fresh process, the ways in turn, each time in another order; medians are printed.
Plain and the first streamed way, which the marks are on, are repeated, the others run once unless --all says otherwise.
Time and memory do not depend on the weights' values. Memory is what the resident set grew by at its peak over what it
was with the network loaded and everything warm (from /proc where there is one, else sampled every few milliseconds).
With --out, decodes that are in the file already are not repeated.

"plain" is MONAI's network, "plain-own-layers" what the backend computes at once (`networks.maisi_decoder`). MONAI's
splits are right at sizes that they divide; try --latent 30.

The pass marks, of the first streamed way: at most 0.5 of the plain decode's memory and 1.6 of its time; the aim is 0.4
and 1.5. The sliding window is MONAI's, with Gaussian weights, 20^3 of 32^3 latent voxels, 0.4 overlap; its largest
deviation from the plain decode is in the last column, which also shows that the others differ by rounding only.

What was tried, from profiles of a 32^3 latent on one core, 105 to 110 GFLOP/s in plain convolutions of this size:

- Kept: channels last throughout. oneDNN then needs no copies of input and output in its own order: a slab's convolution
  takes its output and nothing else (32 MiB in place of 82), and is 5 to 10 % faster.
- Kept: doubling a row's own sides once and interpolating between rows after that. Doubling slabs in three dimensions
  did four times the work at one row a slab, and in the order of memory it chose by itself ran at a third of the speed:
  the widest convolution went from 63 to 103 GFLOP/s, all from 84 to 69 s.
- Kept: sums in place of `var_mean`, which on a CPU takes ten times as long.
- Kept: both halves of a block that narrows written in place of its input: the upsampled map is not computed again.
- Kept: blocks of rows of at least 32 MiB, which the C library gives back to the system.
- Kept: no reference cycles among streams. With them, windows stayed until the garbage was collected, 0.1 to 1 GB.
- Dropped, on a CPU: computing inner maps anew, which takes twice the time. On a GPU, where multiplying is cheap beside
  moving maps to host memory, it is the way to small limits.
- Dropped: slabs above 64 MiB: more memory, no faster.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WAYS: dict[str, dict] = {
    "plain": {},
    "plain-own-layers": {"own_layers": True},
    "monai-splits-4": {"splits": 4},
    "sliding-window": {"window": 20, "overlap": 0.4},
    "streamed-32": {"slab_bytes": 32 * 2**20},
    "streamed-64": {"slab_bytes": 64 * 2**20},
    "streamed-256": {"slab_bytes": 256 * 2**20},
    "streamed-32-inner-anew": {"slab_bytes": 32 * 2**20, "keep_inner": 0},
}
GPU_SIZES = ("256x256x256", "512x512x128", "512x512x256", "512x512x512")
GIB = 2**30
GPU_WAYS: dict[str, dict] = {
    "plain": {},
    "streamed": {"slab_bytes": GIB // 2},
    "streamed-inner-anew": {"slab_bytes": GIB // 2, "keep_inner": 0},
    "streamed-blocks-anew": {"slab_bytes": GIB // 2, "keep_inner": GIB, "keep_blocks": 2 * GIB},
    "streamed-host": {"slab_bytes": GIB // 2, "device_bytes": 2 * GIB},
    "streamed-inner-anew-host": {"slab_bytes": GIB // 2, "keep_inner": GIB, "device_bytes": 2 * GIB},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latent", type=int, default=32, metavar="N")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", metavar="NAME,...")
    parser.add_argument("--all", action="store_true", help="repeat every way, not only those that the marks are on")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--sizes", default=",".join(GPU_SIZES))
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(args)
    return on_gpu(args) if args.gpu else on_cpu(args)


def one(args: argparse.Namespace) -> int:
    """A child process: one decode, its figures on the last line."""
    if args.gpu:
        name, size = args.one.split(":")
        print(json.dumps(measured_on_gpu(name, size, args.precision)))
        return 0
    figures, volume = measured(args.one, args.latent, args.threads)
    if args.result:
        import numpy as np

        np.save(args.result, volume)
    print(json.dumps(figures))
    return 0


def network(splits: int = 1, device: str = "cpu"):
    """MAISI's autoencoder as its preset has it, with MONAI's layers and random weights."""
    import torch

    from SynthDiffusionLib.models.presets import load_preset
    from SynthDiffusionLib.models.spec import NetworkSpec
    from SynthDiffusionLib.networks.build import build_network

    spec = load_preset("maisi-rflow").autoencoder
    torch.manual_seed(0)
    with torch.device(device):
        made = build_network(NetworkSpec(spec.name, {**spec.parameters, "num_splits": splits}))
    return made.eval().requires_grad_(False)


def latents(sides: tuple[int, int, int]):
    """Noise about a mean that differs between the halves of the volume, as it does between a body and air."""
    import torch

    z = torch.randn((1, 4, *sides), generator=torch.Generator().manual_seed(1))
    z[:, :, : sides[0] // 2] += 1.5
    return z


def decoder(name: str, way: dict, made) -> Callable:
    """How a way decodes."""
    from SynthDiffusionLib.networks.streaming import Streaming, decode

    if name == "sliding-window":
        from monai.inferers import SlidingWindowInferer

        window = SlidingWindowInferer((way["window"],) * 3, 1, way["overlap"], mode="gaussian")
        return lambda z: window(z, made.decode)
    if name.startswith("streamed"):
        return lambda z: decode(made, z, Streaming(**way))
    return made.decode


def measured(name: str, side: int, threads: int) -> tuple[dict, object]:
    """Seconds, seconds of processor time and bytes of one decode on the CPU, and the volume."""
    import torch

    torch.set_num_threads(threads)
    way = WAYS[name]
    made = network(way.get("splits", 1))
    if way.get("own_layers"):  # as the backend decodes at once
        from SynthDiffusionLib.networks.maisi_decoder import replace_layers

        replace_layers(made.decoder)
    decode = decoder(name, way, made)
    z = latents((side,) * 3)
    with torch.inference_mode():
        warm = 16 if "splits" in way else 8  # MONAI's splits fail below that
        decode(z[:, :, :warm, :warm, :warm])  # what is loaded and chosen at the first call
        with peak_memory() as memory:
            wall, processor = time.perf_counter(), time.process_time()
            volume = decode(z)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {"way": name, "seconds": wall, "processor_s": processor, "bytes": memory["peak"]}, volume.numpy()


@contextmanager
def peak_memory():
    """Growth of the resident set in the block, at its peak: {"peak": bytes} after it."""
    import psutil

    process, found, ended = psutil.Process(), {"peak": 0}, threading.Event()
    before = process.memory_info().rss

    def sample() -> None:
        while not ended.wait(0.005):
            found["peak"] = max(found["peak"], process.memory_info().rss - before)

    exact = False
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins anew
        exact = True
    watch = threading.Thread(target=sample, daemon=True)
    if not exact:
        watch.start()
    try:
        yield found
    finally:
        ended.set()
        if exact:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            high = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
            found["peak"] = 1024 * high - before


def child(arguments: list[str], threads: int) -> dict:
    """Figures of a child process, or {"error": its last line}."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}


def on_cpu(args: argparse.Namespace) -> int:
    """All ways in turn, and a table."""
    import numpy as np
    import torch

    names = [name for name in args.only.split(",") if name] or list(WAYS)
    rows = []
    if args.out and args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text(encoding="utf-8").splitlines() if line]
    with tempfile.TemporaryDirectory() as folder:
        exact = args.out.with_suffix(".npy") if args.out else Path(folder) / "plain.npy"
        for name, repeat in turns(names, args.repeats, args.all):
            if not any(row["way"] == name and row["repeat"] == repeat for row in rows):
                file = exact if name == "plain" else Path(folder) / f"{name}.npy"
                arguments = ["--one", name, "--latent", str(args.latent), "--threads", str(args.threads)]
                row = child([*arguments, "--result", str(file)], args.threads) | {"way": name, "repeat": repeat}
                if file.exists() and exact.exists():
                    whole, volume = np.load(exact), np.load(file)
                    if whole.shape == volume.shape:
                        row["deviation"] = float(np.abs(whole - volume).max() / np.ptp(whole))
                    else:
                        row["deviation"] = f"shape {volume.shape}"
                rows.append(row)
                print(json.dumps(row), flush=True)
                if args.out:
                    with args.out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(row) + "\n")
                if name != "plain" and file.exists():
                    file.unlink()
    print(
        f"\n{args.latent}^3 latent voxels to {4 * args.latent}^3 voxels, fp32, {args.threads} thread(s), "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}\n"
    )
    return table(rows, names)


def turns(names: list[str], repeats: int, everything: bool) -> Iterator[tuple[str, int]]:
    """Ways and numbers of their repetitions in the order of measuring: what the marks are on comes first."""
    marked = [name for name in names if everything or name in ("plain", first_streamed(names))]
    for repeat in range(repeats):
        turn = repeat % max(1, len(marked))
        yield from ((name, repeat) for name in marked[turn:] + marked[:turn])
    yield from ((name, 0) for name in names if name not in marked)


def first_streamed(names: list[str]) -> str | None:
    """The way that the marks are on."""
    return next((name for name in names if name.startswith("streamed")), None)


def table(rows: list[dict], names: list[str]) -> int:
    """Prints medians and ratios to the plain decode; 1 if the first streamed way misses a mark."""
    medians = {}
    for name in names:
        of_way = [row for row in rows if row["way"] == name and "error" not in row]
        if of_way:
            medians[name] = {k: statistics.median(r[k] for r in of_way) for k in ("bytes", "seconds", "processor_s")}
            medians[name]["n"] = len(of_way)
            medians[name]["deviation"] = next((r["deviation"] for r in of_way if "deviation" in r), math.nan)
    print(
        "| decode | n | MB over base | of plain | s | of plain | processor s | of plain | largest deviation / range |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    plain = medians.get("plain")
    for name, m in medians.items():
        cells = [name, str(m["n"])]
        for key, unit in (("bytes", 1e6), ("seconds", 1.0), ("processor_s", 1.0)):
            cells += [f"{m[key] / unit:.{0 if unit > 1 else 1}f}", f"{m[key] / plain[key]:.2f}" if plain else ""]
        cells.append(f"{m['deviation']:.1e}" if isinstance(m["deviation"], float) else m["deviation"])
        print("| " + " | ".join(cells) + " |")
    first = first_streamed(list(medians))
    if plain is None or first is None:
        return 0
    memory = medians[first]["bytes"] / plain["bytes"]
    seconds = medians[first]["processor_s"] / plain["processor_s"]
    passed = memory <= 0.5 and seconds <= 1.6
    print(f"\n{first}: {memory:.2f} of plain's memory (0.5 to pass, aim 0.4), {seconds:.2f} of its time (1.6, 1.5)")
    return 0 if passed else 1


def measured_on_gpu(name: str, size: str, precision: str) -> dict:
    """Peaks of PyTorch's allocator, and seconds of the second of two decodes."""
    import torch

    from SynthDiffusionLib.networks.maisi_decoder import replace_layers, safe_splits, set_splits
    from SynthDiffusionLib.networks.streaming import Streaming, outlook

    device, sides = "cuda:0", tuple(int(n) // 4 for n in size.split("x"))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    made = network()
    replace_layers(made.decoder)
    made.to(device)
    z = latents(sides).to(device)
    row: dict = {"way": name, "size": size, "precision": precision, "device": torch.cuda.get_device_name(device)}
    if name.startswith("streamed"):
        predicted = outlook(made, tuple(z.shape), "decode", Streaming(**GPU_WAYS[name]), dtype)
        row |= {"predicted_bytes": predicted.device_bytes, "host_bytes": predicted.host_bytes}
        row |= {"teraflop": 2 * predicted.multiplications / 1e12}
    else:
        set_splits(made.decoder, safe_splits(sides, 4, (64, 128, 256), device))
    decode = decoder(name, GPU_WAYS[name], made)
    base = torch.cuda.memory_allocated(device)
    try:
        with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=precision != "fp32"):
            for _ in range(2):  # the first one loads and chooses kernels
                torch.cuda.reset_peak_memory_stats(device)
                torch.cuda.synchronize(device)
                start = time.perf_counter()
                volume = decode(z)
                torch.cuda.synchronize(device)
                row["seconds"] = time.perf_counter() - start
                del volume
    except torch.OutOfMemoryError:
        row["error"] = "out of memory"
    row["allocated_bytes"] = torch.cuda.max_memory_allocated(device) - base
    row["reserved_bytes"] = torch.cuda.max_memory_reserved(device)
    return row


def on_gpu(args: argparse.Namespace) -> int:
    """Every way at every size, in a process of its own, and a table."""
    names = [name for name in args.only.split(",") if name] or list(GPU_WAYS)
    rows = []
    for size in args.sizes.split(","):
        for name in names:
            row = child(["--gpu", "--one", f"{name}:{size}", "--precision", args.precision], args.threads)
            rows.append(row | {"way": name, "size": size})
            print(json.dumps(rows[-1]), flush=True)
            if args.out:
                with args.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(rows[-1]) + "\n")
    print("\n| decode | voxels | allocated GiB | predicted GiB | reserved GiB | host GiB | s | TFLOP | device |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [row["way"], row["size"]]
        for key in ("allocated_bytes", "predicted_bytes", "reserved_bytes", "host_bytes"):
            cells.append(f"{row[key] / GIB:.2f}" if key in row else "")
        cells.append(row.get("error") or f"{row['seconds']:.2f}")
        cells += [f"{row['teraflop']:.0f}" if "teraflop" in row else "", row.get("device", "")]
        print("| " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
