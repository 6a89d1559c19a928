#!/bin/bash

# Parameters
#SBATCH --account=a-project
#SBATCH --array=0-63%16
#SBATCH --cpus-per-task=72
#SBATCH --dependency=afterok:41:42_3,afterany:43
#SBATCH --gpus-per-node=4
#SBATCH --job-name=qrpo-training-0123456789
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=471040MB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/%A_%a_0_log.out
#SBATCH --partition=normal
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=720
#SBATCH --wckey=submitit

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/%A_%a_%t_log.out --kill-on-bad-exit=1 --cpus-per-task=72 PYTHON -u -m submitit.core._submit FOLDER

