#!/usr/bin/env bash
# Grow a GPT from 2 to 12 layers on two CPU cores, beside one trained at full depth for the same compute.
# Typed again, it goes on where it was, or says that it is done.
set -euo pipefail
cd "$(dirname "$0")"
[ -x .venv/bin/python ] || python3 -m venv .venv
if ! cmp -s requirements.txt .venv/installed.txt; then
    .venv/bin/python -m pip install --quiet -r requirements.txt
    cp requirements.txt .venv/installed.txt
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # two ranks, one thread each
PATH="$PWD/.venv/bin:$PATH"

# Warm-up, stable, decay over the last fifth, at a learning rate that was chosen for full depth, not for growing.
settings="configs/cpu.py --lr_schedule=wsd --decay_fraction=0.2 --learning_rate=0.01"

python prepare_demo.py
for schedule in baseline incremental_8stage; do
    python schedule.py "configs/$schedule.py" $settings
    torchrun --standalone --nproc_per_node=2 train.py "configs/$schedule.py" $settings --out_dir="out/demo/$schedule" \
        --resume=auto
done
for schedule in baseline incremental_8stage; do
    torchrun --standalone --nproc_per_node=2 hellaswag.py "out/demo/$schedule" --data=data/demo/hellaswag.jsonl
done
python compare.py out/demo/baseline out/demo/incremental_8stage --figure=out/demo.png
python sample.py out/demo/incremental_8stage --prompt='Returns the '
