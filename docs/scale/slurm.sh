#!/bin/bash
# A study on the machines of one Slurm allocation: sbatch slurm.sh RECIPE OUT [--seeds 0,1,2 …]
#SBATCH --job-name=trimtab
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=trimtab-%j.log
set -euo pipefail

recipe=$1 out=${2%/}
shift 2
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
ran=$out.ran-$SLURM_JOB_ID # symmetric-run ends with 0 where it could not start Ray
mkdir -p "$(dirname "$out")"
rm -f "$ran"
trap 'rm -f "$ran"' EXIT
# On every machine the same line: the first becomes Ray's head and runs the study, the others lend themselves to it.
# Ray's processes outlive a task that Slurm ends, and symmetric-run refuses where some are left: hence ray stop.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
  ray stop --force; trap "ray stop --force" TERM
  ray symmetric-run "$@" & wait $!' task \
  --address "${hosts[0]}:6379" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- \
  bash -c 'touch "$0" && exec trimtab study "$@"' "$ran" "$recipe" --out "$out" --ray auto "$@"
[ -e "$ran" ]
