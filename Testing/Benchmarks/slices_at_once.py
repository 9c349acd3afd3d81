"""Time of decoding the slices of `limb-tumour-mr` so many at once, on a CPU.

    python Testing/Benchmarks/slices_at_once.py [--repeats 5]

All numbers in turn, in one process, one thread; medians of processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from SynthDiffusionLib.backends.slice_ldm import SliceLDM
from SynthDiffusionLib.models import load_package

NUMBERS = (1, 2, 4, 8, 16, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    package = load_package("limb-tumour-mr")
    model = SliceLDM(package)
    latents = torch.randn(1, *model.latent.shape(package.spec.grid.max_size))
    print("| precision | " + " | ".join(f"{n} at once" for n in NUMBERS) + " |")
    print("|---|" + "---|" * len(NUMBERS))
    for dtype in (torch.float32, torch.bfloat16):
        seconds: dict[int, list[float]] = {n: [] for n in NUMBERS}
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            for _ in range(repeats):
                for n in NUMBERS:
                    began = time.process_time()
                    model.autoencoder.decode_volume(latents, n)
                    seconds[n].append(time.process_time() - began)
        medians = {n: statistics.median(times) for n, times in seconds.items()}
        cells = [f"{medians[n]:.2f} s ({medians[n] / medians[8]:.2f})" for n in NUMBERS]
        print(f"| {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
