#!/usr/bin/env bash
# A batch as an array of Slurm jobs, one GPU each, all of which write into one folder on a shared file system.
#
#     sbatch --array=1-16 Docs/Examples/slurm_batch.sh masks/ lung-nodule-ct /shared/batch 10 16
#
# The last argument is the number of shards, and the number of a job in the array is its shard. A job that is killed,
# requeued or sent again (--array=5 with the same arguments) goes on where it was. When all have ended, the same without
# an array makes one manifest and one report of the whole, and whatever is still missing:
#
#     sbatch --dependency=afterany:JOB_ID Docs/Examples/slurm_batch.sh masks/ lung-nodule-ct /shared/batch 10
#
# Options of `synthdiffusion batch` follow after --:
#
#     sbatch --array=1-16 Docs/Examples/slurm_batch.sh masks/ hippocampus-mr /shared/batch 10 16 -- --labels map.json
#
#SBATCH --job-name=synthdiffusion
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
set -euo pipefail

own=()
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
    own+=("$1")
    shift
done
[ "$#" -eq 0 ] || shift
if [ "${#own[@]}" -lt 3 ]; then
    echo "usage: [sbatch --array=1-N] $0 SEGMENTATIONS MODEL OUT [SAMPLES [N]] [-- OPTIONS]" >&2
    exit 2
fi
masks=${own[0]} model=${own[1]} out=${own[2]} samples=${own[3]:-1} shards=${own[4]:-}

shard=()
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    if [ -z "$shards" ]; then
        echo "$0: an array needs the number of shards as its last argument" >&2
        exit 2
    fi
    shard=(--shard "$SLURM_ARRAY_TASK_ID/$shards")
fi

exec synthdiffusion batch "$masks" --model "$model" --out "$out" --samples "$samples" --resume --workers 1 \
    ${TMPDIR:+--scratch "$TMPDIR"} ${shard[@]+"${shard[@]}"} "$@"
