"""Memory and time of the full-size presets on a GPU. The weights are random: what is drawn means nothing.

    python Testing/Benchmarks/full_size.py [--only medlord-x4:512x512x256,...] [--precision bf16] [--out FILE.json]

For every preset and size, in a process of its own: peak of PyTorch's allocator while denoising and while decoding, and
seconds per network evaluation and for decoding. Sizes that do not fit are reported as such. A short table comes last.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (
    "medlord-x8:512x512x256",
    "medlord-x4:512x512x128",
    "medlord-x4:512x512x256",
    "maisi-rflow:256x256x128",
    "maisi-rflow:256x256x256",
    "maisi-rflow:512x512x128",
    "maisi-ddpm:256x256x128",
)
STEPS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SIZES), metavar="ID:XxYxZ,...")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one.split(":"), args.precision, args.device)))
        return 0
    rows = []
    for job in args.only.split(","):
        command = [sys.executable, __file__, "--one", job, "--precision", args.precision, "--device", args.device]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
        except (IndexError, ValueError):
            rows.append({"job": job, "error": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]})
        print(json.dumps(rows[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\n| preset | voxels | precision | denoise GiB | decode GiB | s per evaluation | decode s | device |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        if "error" in r:
            print(f"| {r['job']} | | {args.precision} | {r['error']} | | | | |")
        else:
            gib = (r["denoise_bytes"] / 2**30, r["decode_bytes"] / 2**30)
            print(
                f"| {r['preset']} | {r['size']} | {r['precision']} | {gib[0]:.2f} | {gib[1]:.2f} "
                f"| {r['seconds_per_evaluation']:.3f} | {r['decode_s']:.2f} | {r['device']} |"
            )
    return 0


def measure(preset: str, size: str, precision: str, device: str) -> dict:
    """One preset at one size; errors end the process."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from SynthDiffusionLib.backends import load_backend
    from SynthDiffusionLib.labels.condition import Condition
    from SynthDiffusionLib.memory.plan import Plan
    from SynthDiffusionLib.models import seal_package
    from SynthDiffusionLib.models.package import ModelPackage
    from SynthDiffusionLib.models.presets import load_preset
    from SynthDiffusionLib.networks.build import build_network

    spec = load_preset(preset)
    shape = tuple(int(n) for n in size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / preset
        folder.mkdir()
        torch.manual_seed(0)
        roles = {}
        for role, network in (
            ("denoiser", spec.network),
            ("autoencoder", spec.autoencoder),
            ("controlnet", spec.controlnet),
        ):
            if network is not None:
                state = {k: v.contiguous() for k, v in build_network(network).state_dict().items()}
                save_file(state, folder / f"{role}.safetensors")
                roles[f"{role}.safetensors"] = role
        description = {k: v for k, v in spec.raw.items() if k not in ("format", "files")}
        package: ModelPackage = seal_package(folder, description, roles)
        backend = load_backend(package)

    classes = np.zeros(shape, np.uint8)
    names = []
    for number, label in enumerate(spec.label_scheme.condition_classes[:3]):
        classes[10 + 20 * number : -10 - 20 * number, 20:-20, 5:-5] = label.value
        names.append(label.name)
    affine = np.diag([*spec.grid.spacing_mm, 1.0])
    condition = Condition(classes, affine, spec.label_scheme, tuple(names))
    plan = Plan(device, precision, "whole", None, 0, torch.get_num_threads(), backend.working_grid(shape))
    peaks, times = {}, []

    def on_step(done: int, total: int) -> None:
        if cuda:
            torch.cuda.synchronize()
        times.append(time.monotonic())
        if done == total and cuda:
            peaks["denoise"] = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()

    cuda = device.startswith("cuda")
    backend.sample(condition, plan, sampler=spec.sampling.default_sampler, steps=STEPS, seed=1, on_step=on_step)
    ended = time.monotonic()
    return {
        "preset": preset,
        "size": size,
        "precision": precision,
        "device": torch.cuda.get_device_name() if cuda else "CPU, memory not read",
        "torch": torch.__version__,
        "weight_bytes_fp32": backend.weight_bytes,
        "denoise_bytes": peaks.get("denoise", 0),
        "decode_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
        "seconds_per_evaluation": (times[-1] - times[0]) / (len(times) - 1),
        "decode_s": ended - times[-1],
    }


if __name__ == "__main__":
    sys.exit(main())
