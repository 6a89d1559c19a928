#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=1
#SBATCH --job-name=qrpo-training-0123456789
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=60
#SBATCH --wckey=submitit

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/%j_%t_log.out --kill-on-bad-exit=1 --cpus-per-task=1 PYTHON -u -m submitit.core._submit FOLDER

