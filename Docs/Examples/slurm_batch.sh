#!/usr/bin/env bash
# A batch as an array of Slurm jobs, one GPU each, all of which write into one folder on a shared file system.
#
#     sbatch --array=1-16 Docs/Examples/slurm_batch.sh masks/ lung-nodule-ct /shared/batch 10
#
# Each job makes its shard; a job that is killed, requeued or sent again goes on where it was. When all have ended, the
# last line of this file makes one manifest and one report of the whole, and whatever is still missing:
#
#     sbatch --dependency=afterany:JOB_ID Docs/Examples/slurm_batch.sh masks/ lung-nodule-ct /shared/batch 10
#
# Without a number of an array the script makes the whole.
#SBATCH --job-name=synthdiffusion
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
set -euo pipefail

if [ "$#" -lt 3 ]; then
    echo "usage: [sbatch --array=1-N] $0 SEGMENTATIONS MODEL OUT [SAMPLES]" >&2
    exit 2
fi
masks=$1 model=$2 out=$3 samples=${4:-1}

shard=()
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    shard=(--shard "$((SLURM_ARRAY_TASK_ID - ${SLURM_ARRAY_TASK_MIN:-1} + 1))/${SLURM_ARRAY_TASK_COUNT:?}")
fi

exec synthdiffusion batch "$masks" --model "$model" --out "$out" --samples "$samples" --resume --workers 1 \
    ${TMPDIR:+--scratch "$TMPDIR"} ${shard[@]+"${shard[@]}"}
