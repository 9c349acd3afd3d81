"""What one request yields, over many seeds: how far a model that makes image and mask together scatters round it.

Run: python Testing/Benchmarks/joint_scatter.py --out runs/joint-scatter

Makes the volumes with `synthdiffusion generate` and reads their records. The default request is the example of
Docs/JOINT.md, in the middle of what `limb-tumour-mr` was trained on. `evaluate control` says how a model obeys over the
whole range; this says what somebody gets who types one line several times.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
REQUEST = "volume_mm3=150000,sphericity=0.75,center=10x0x-15"
FOLD = 2.0  # a volume off by more than this factor
CENTER = ("center_r_mm", "center_a_mm", "center_s_mm")


def summary_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the records say, in lines.

    Args:
        records: of one request, as `generate` writes them.
    """
    asked = records[0]["settings"]["tumour"]["asked"]
    made = [r["measured"] for r in records if r.get("measured") and r["measured"]["volume_mm3"] > 0]
    lines = [f"{len(records)} volumes, {len(records) - len(made)} without a tumour"]
    if not made:
        return lines
    if "volume_mm3" in asked:
        volumes = np.array([m["volume_mm3"] for m in made])
        folds = np.abs(np.log(volumes / asked["volume_mm3"]))
        lines += [
            f"volume: asked {asked['volume_mm3'] / 1000:.4g} ml; least {volumes.min() / 1000:.3g}, median "
            f"{np.median(volumes) / 1000:.3g}, largest {volumes.max() / 1000:.3g} ml",
            f"volume: off by a factor of {np.exp(folds.mean()):.2f} (geometric mean), by more than {FOLD:g} in "
            f"{int((folds > np.log(FOLD)).sum())} of {len(made)}",
        ]
    if "sphericity" in asked:
        values = [m["sphericity"] for m in made]
        lines.append(f"sphericity: asked {asked['sphericity']:g}; {min(values):.2f} to {max(values):.2f}")
    if set(CENTER) <= set(asked):
        off = np.linalg.norm([[m[c] - asked[c] for c in CENTER] for m in made], axis=1)
        lines.append(f"place: off by {np.median(off):.0f} mm (median), at most {off.max():.0f} mm")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the volumes and prints what they are like."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="limb-tumour-mr")
    parser.add_argument("--out", type=Path, required=True, help="folder for the volumes")
    parser.add_argument("--tumour", default=REQUEST, help=f"default: {REQUEST}")
    parser.add_argument("--samples", type=int, default=24, help="seeds 1 to this (default 24)")
    args = parser.parse_args(arguments)
    command = [sys.executable, "-m", "SynthDiffusionLib", "generate", "--model", args.model, "--mode", "joint"]
    command += ["--out", str(args.out.resolve()), "--tumour", args.tumour, "--samples", str(args.samples)]
    done = subprocess.run([*command, "--seed", "1", "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return done.returncode
    outputs = json.loads(done.stdout.strip().splitlines()[-1])["outputs"]
    records = [json.loads(Path(o["provenance"]).read_text(encoding="utf-8")) for o in outputs]
    print("\n".join(summary_lines(records)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
