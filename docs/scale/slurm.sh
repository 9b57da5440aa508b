#!/bin/bash
# A study on the machines of one Slurm allocation: sbatch slurm.sh RECIPE OUT [--seeds 3 …]
#SBATCH --job-name=trimtab
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=trimtab-%j.log
set -euo pipefail

recipe=$1 out=$2
shift 2
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# On every machine the same line: the first becomes Ray's head and runs the study, the others lend themselves to it.
srun --kill-on-bad-exit=1 \
  ray symmetric-run --address "${hosts[0]}:6379" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- \
  trimtab study "$recipe" --out "$out" --ray auto "$@"
