#!/bin/bash

# Parameters
#SBATCH --array=0-2%3
#SBATCH --constraint=gpu
#SBATCH --cpus-per-task=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --job-name=qrpo-training-0123456789
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/%A_%a_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=60
#SBATCH --wckey=submitit

# setup
module load cray
export HF_HUB_OFFLINE=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/%A_%a_%t_log.out --kill-on-bad-exit=1 --cpus-per-task=1 --environment=qrpo /opt/qrpo/bin/python -u -m submitit.core._submit FOLDER

