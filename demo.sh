#!/usr/bin/env bash
# Grow a GPT from 2 to 12 layers beside one trained at full depth for the same compute: under five minutes on two idle CPU cores.
# Ctrl-C stops it. Typed again, it goes on where it was, or says that it is done.
set -euo pipefail
cd "$(dirname "$0")"
trap 'echo; echo "Stopped; what is done is kept. Type again: bash demo.sh"; exit 130' INT
if ! cmp -s requirements.txt .venv/installed.txt; then
    echo "Installing torch and what else requirements.txt names into .venv: up to 3 GB, a few minutes, once."
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet -r requirements.txt
    cp requirements.txt .venv/installed.txt
fi
PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"

# Half of the grown run's compute goes into growing, so that the picture shows it. Warm-up, stable, decay over the last fifth.
settings="configs/cpu.py --optimizer=muon --muon_learning_rate=0.01 --lr_schedule=wsd --decay_fraction=0.2 \
    --baseline_steps=500 --growth_steps=430 --batch_size=16 --val_tokens=32_768 --hellaswag_limit=500 --hellaswag_interval=100_000"
if [ "$(cat out/demo/done 2> /dev/null)" = "$settings" ]; then
    echo "The demo is done already. The picture is out/demo.png; to see the way again: rm -r out/demo"
    exit
fi
echo "1 of 5: a corpus from the docstrings of the installed packages (half a minute)"
python prepare_demo.py
echo "2 of 5: a GPT with 12 layers from the start (two minutes)"
python train.py configs/baseline.py $settings --out_dir=out/demo/baseline --resume=auto
echo "3 of 5: one that grows from 2 layers to 12 with the same compute (two to three minutes); its plan:"
python schedule.py configs/incremental_8stage.py $settings
python train.py configs/incremental_8stage.py $settings --out_dir=out/demo/incremental_8stage --resume=auto
echo "4 of 5: the two side by side"
python compare.py out/demo/baseline out/demo/incremental_8stage --figure=out/demo.png
echo "5 of 5: the grown model speaks"
python sample.py out/demo/incremental_8stage --prompt='Returns the '
echo "$settings" > out/demo/done
echo
echo "You saw one run of each: the way, not a result (one seed has no error bar). The picture is out/demo.png. Next:"
echo "    source .venv/bin/activate; python study.py studies/smoke.py     # the same question with seeds, intervals, a verdict"
