#!/usr/bin/env bash
# Trains Resources/Training/lung-nodule-ct-gpu.toml on a CUDA GPU and prints a short table last. It prepares no data.
#
#   Testing/Benchmarks/train_gpu.sh [OUT]        OUT: folder of the run (default runs/lung-nodule-ct-gpu)
#
# Called again after an interruption, it goes on from the last checkpoint. PYTHON=/path/to/python chooses the interpreter
# in which SynthDiffusion is installed with its extra "train" (default: .venv/bin/python, else python3).
# Not measured: no GPU was at hand when this was written.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

config=Resources/Training/lung-nodule-ct-gpu.toml
out=${1:-runs/lung-nodule-ct-gpu}
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
fi

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "PyTorch sees no CUDA GPU here ($python). Install a CUDA build of PyTorch, or name the interpreter: PYTHON=..." >&2
    exit 2
fi
if [ ! -f runs/lidc-prepared/dataset.json ]; then
    echo "The training data are not prepared. Docs/TRAINING.md tells where to get them; then run:" >&2
    echo "  synthdiffusion prepare IMAGES LABELS --out runs/lidc-prepared --split 67,20,20 --seed 2026" >&2
    exit 2
fi

mkdir -p "$out"
memory=$out/gpu_memory_mib.txt
: >"$memory"
sampler=
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits --loop=5 >"$memory" 2>/dev/null &
    sampler=$!
    trap 'kill "$sampler" 2>/dev/null || true' EXIT
fi

began=$(date +%s)
arguments=(train "$config" --out "$out" --device cuda)
if [ -f "$out/checkpoint.pt" ]; then arguments+=(--resume); fi
"$python" -m SynthDiffusionLib "${arguments[@]}"
seconds=$(($(date +%s) - began))

"$python" - "$out" "$seconds" <<'END'
import csv
import sys
from pathlib import Path

import torch

out, seconds = Path(sys.argv[1]), int(sys.argv[2])
with (out / "log.csv").open(newline="", encoding="utf-8") as stream:
    rows = list(csv.DictReader(stream))
validated = [row for row in rows if row["validation_loss"]]
best = min(validated, key=lambda row: float(row["validation_loss"]))
memory = [int(line) for line in (out / "gpu_memory_mib.txt").read_text().split() if line.isdigit()]
print()
print("| what | value |")
print("|---|---|")
print(f"| GPU | {torch.cuda.get_device_name(0)}, PyTorch {torch.__version__} |")
print(f"| steps | {rows[-1]['step']} |")
print(f"| wall time of this call, segmenter included | {seconds / 3600:.2f} h |")
print(f"| largest memory in use on the card | {max(memory) / 1024:.1f} GiB |" if memory else "| memory | not read |")
print(f"| training loss, last 50 steps | {rows[-1]['loss']} |")
print(f"| validation loss, last | {float(validated[-1]['validation_loss']):.4f} |")
print(f"| validation loss, lowest | {float(best['validation_loss']):.4f} at step {best['step']} |")
print(f"| package | {out / 'package'} |")
END
