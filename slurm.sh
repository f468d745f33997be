#!/bin/bash
# Train on two nodes of 8 GPUs under Slurm, for as many time limits as it takes:
#
#     sbatch slurm.sh configs/incremental_8stage.py [more configs] [--key=value ...]
#
# Three minutes before the time is up the ranks finish their step, save and exit, and the job queues itself again to go on
# there. Slurm queues it again itself, from the last checkpoint, when a node fails or the job is preempted. A mistake in the
# settings, or a loss that isn't finite, ends it. data_dir and out_dir must be on a file system that all nodes share; submit
# from this folder, with the environment active that has torchrun.
#SBATCH --job-name=incremental
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# torchrun kills its ranks 30 s after a SIGTERM unless told otherwise, which may be in the middle of a large checkpoint.
srun --kill-on-bad-exit=1 torchrun --nnodes="$SLURM_NNODES" --nproc_per_node="$SLURM_GPUS_ON_NODE" --shutdown-timeout=150 \
    --rdzv_backend=c10d --rdzv_endpoint="$head:29500" --rdzv_id="$SLURM_JOB_ID" train.py "$@" --resume=auto &
run=$!

# To the tasks, not to srun: srun takes a SIGTERM of its own as an order to kill them. USR1 and not TERM, since scancel sends
# TERM, and who cancels the job doesn't want it back.
trap 'again=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
wait "$run"
status=$?
if [ -n "${again:-}" ]; then
    wait "$run" # the signal had ended the first wait
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
