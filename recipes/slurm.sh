#!/bin/bash
# A run on several machines under SLURM, eight cards each: sbatch --nodes 4 recipes/slurm.sh --set data.shards=/data/shards
# FEWSTEP_RUNS is a folder that all machines see. A job that was stopped goes on when the same line is given again, on as many machines as there are
# then, as long as the ranks divide batch_size / accumulate of the recipe.
#SBATCH --job-name=fewstep
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@900
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# a job whose time runs out has a quarter of an hour's notice: the update in progress is finished, the state saved
srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node 8 --shutdown-timeout 840 --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
    -m fewstep distill "${RECIPE:-recipes/sdxl-full-fsdp.toml}" "$@"
