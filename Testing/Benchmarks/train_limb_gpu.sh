#!/usr/bin/env bash
# Trains the three stages and the segmenter of limb-tumour-ct on a CUDA GPU in about nine minutes and prints a short table
# last. It prepares no data.
#
#   Testing/Benchmarks/train_limb_gpu.sh [COPY]      COPY: folder that package, logs and pictures are copied to (optional)
#
# The runs are runs/limb-autoencoder, runs/limb-diffusion and runs/limb-controlnet. Called again after an interruption, it
# goes on from the last checkpoints, and the minutes already spent count. PYTHON=/path/to/python chooses the interpreter in
# which SynthDiffusion is installed with its extra "train" (default: .venv/bin/python, else python3). MINUTES="2.5 3 2"
# sets the minutes of the three stages in other words than the configurations.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

copy=${1:-}
device=${DEVICE:-cuda}
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "PyTorch sees no CUDA GPU here ($python). Install a CUDA build of PyTorch, or name the interpreter: PYTHON=..." >&2
    exit 2
fi
if [ ! -f runs/limb-prepared/dataset.json ]; then
    echo "The training data are not prepared. Docs/TRAINING.md tells where to get them and how to prepare them." >&2
    exit 2
fi
"$python" -c 'import SynthDiffusionLib.cli.train_command, SynthDiffusionLib.training.medlord.run' || exit 2

# Configurations with other minutes lie beside the shipped ones for as long as the script runs: their paths are relative.
read -r -a minutes <<<"${MINUTES:-}"
configs=()
made=()
stages=(autoencoder diffusion controlnet)
for i in 0 1 2; do
    config=Resources/Training/limb-tumour-ct-${stages[$i]}.toml
    if [ -n "${minutes[$i]:-}" ]; then
        other=Resources/Training/.limb-${stages[$i]}-$$.toml
        sed "s/^minutes = .*/minutes = ${minutes[$i]}/" "$config" >"$other"
        made+=("$other")
        config=$other
    fi
    configs+=("$config")
done
segmenter=
collect() {
    if [ -n "$segmenter" ]; then kill "$segmenter" 2>/dev/null || true; fi
    if [ ${#made[@]} -gt 0 ]; then rm -f "${made[@]}"; fi
    if [ -n "$copy" ]; then
        for stage in "${stages[@]}"; do
            mkdir -p "$copy/limb-$stage"
            for name in checkpoint.pt segmenter.pt log.csv segmenter.csv segmenter.log summary.json samples package; do
                if [ -e "runs/limb-$stage/$name" ]; then cp -r "runs/limb-$stage/$name" "$copy/limb-$stage/"; fi
            done
        done
    fi
}
trap collect EXIT

began=$(date +%s)
mkdir -p runs/limb-controlnet
"$python" -m SynthDiffusionLib train "${configs[2]}" --out runs/limb-controlnet --device "$device" --only-segmenter \
    >runs/limb-controlnet/segmenter.log 2>&1 &
segmenter=$!
for i in 0 1; do
    "$python" -m SynthDiffusionLib train "${configs[$i]}" --out "runs/limb-${stages[$i]}" --device "$device" --resume
done
wait "$segmenter" || { cat runs/limb-controlnet/segmenter.log >&2; exit 1; }
segmenter=
"$python" -m SynthDiffusionLib train "${configs[2]}" --out runs/limb-controlnet --device "$device" --resume
seconds=$(($(date +%s) - began))

"$python" - "$seconds" <<'END'
import csv
import json
import sys
from pathlib import Path

print()
print("| stage | steps | seconds | GPU memory | training loss | validation loss | else |")
print("|---|---|---|---|---|---|---|")
for stage in ("autoencoder", "diffusion", "controlnet"):
    out = Path("runs") / f"limb-{stage}"
    summary = json.loads((out / "summary.json").read_text())
    with (out / "log.csv").open(newline="", encoding="utf-8") as stream:
        row = list(csv.DictReader(stream))[-1]
    memory = summary["peak_gpu_bytes"]
    extra = f"PSNR {row['validation_psnr']} dB, perplexity {row['perplexity']}" if stage == "autoencoder" else ""
    print(
        f"| {stage} | {summary['steps']} | {summary['seconds']} | {memory / 2**30:.1f} GiB " if memory else
        f"| {stage} | {summary['steps']} | {summary['seconds']} | - ",
        f"| {row['loss']} | {row['validation_loss']} | {extra} |",
    )
with Path("runs/limb-controlnet/segmenter.csv").open(newline="", encoding="utf-8") as stream:
    row = list(csv.DictReader(stream))[-1]
print(f"| segmenter | {row['step']} | | | {row['loss']} | Dice {row['validation_dice']} | |")
package = Path("runs/limb-controlnet/package")
print(f"\n{summary['device']}, PyTorch {summary['torch']}; {int(sys.argv[1])} s of wall time in this call; package of "
      f"{sum(f.stat().st_size for f in package.iterdir()):,} bytes in {package}")
END
