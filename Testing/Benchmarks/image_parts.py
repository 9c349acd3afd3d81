"""How well parts of an image are known again (`export.image_blocks`), what it costs, and whether patients are mixed up.

    python Testing/Benchmarks/image_parts.py [FOLDER ...]

Each folder holds one volume of each patient. Of a volume of 512 x 512 x 512 voxels of noise, it prints the seconds for
blocks and slices, and how many blocks cubes of several sizes share with it; of the folders, which volumes were joined.
The figures of Docs/DATASETS.md are from here.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from SynthDiffusionLib.export.groups import slice_digests
from SynthDiffusionLib.export.image_blocks import FEWEST_SHARED, block_digests, same_blocks
from SynthDiffusionLib.volumes import Volume, read_volume

SIDE = 512
PARTS = (16, 24, 32, 40, 48, 64, 128, 256)
PLACES = 20  # of a part of each size


def of_noise() -> None:
    """Cost, and the smallest part of a large volume that is known again."""
    rng = np.random.default_rng(0)
    array = rng.normal(0, 30, (SIDE, SIDE, SIDE)).astype(np.int16)
    for name, digests in (("blocks", block_digests), ("slices", slice_digests)):
        start = time.perf_counter()
        found = digests(Volume(array, np.eye(4)))
        print(f"{name} of {SIDE} x {SIDE} x {SIDE} voxels: {len(found)} in {time.perf_counter() - start:.1f} s")
    whole = block_digests(Volume(array, np.eye(4)))
    for side in PARTS:
        shared = []
        for _ in range(PLACES if side < 128 else 2):
            i, j, k = rng.integers(0, SIDE - side, 3)
            part = np.ascontiguousarray(array[i : i + side, j : j + side, k : k + side])
            shared.append(len(np.intersect1d(whole, block_digests(Volume(part, np.eye(4))))))
        known = np.mean([n >= FEWEST_SHARED for n in shared])
        print(
            f"parts of {side} voxels a side: {np.median(shared):g} blocks in common (median), {known:.0%} known again"
        )


def of_patients(folder: Path) -> None:
    """Volumes of different patients that share blocks."""
    paths = sorted(p for p in folder.rglob("*") if p.name.endswith((".nii.gz", ".nii", ".nrrd", ".mha")))
    found = [block_digests(read_volume(path)) for path in paths]
    every = np.concatenate(found)
    print(f"{folder.name}: {len(paths)} volumes, {int(np.median([len(f) for f in found]))} blocks each (median)")
    print(f"  {len(every) - len(np.unique(every))} blocks are in more than one")
    for one, other in same_blocks(found):
        print(f"  joined: {paths[one].name} and {paths[other].name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    args = parser.parse_args()
    of_noise()
    for folder in args.folders:
        of_patients(folder)


if __name__ == "__main__":
    main()
