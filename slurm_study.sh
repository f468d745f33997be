#!/bin/bash
# A study under Slurm: one array of jobs for each level of shared prefixes, each waiting for the one before.
#
#     bash slurm_study.sh studies/gpt2_growth.py [--slots=0+1] [--only=...] [-- --time=24:00:00 --gpus=2 ...]
#     bash slurm_study.sh studies/gpt2_growth.py --print         the commands of the jobs alone
#
# What follows -- goes to sbatch as it is. --slots says how many ranks a run has; which GPUs they get is Slurm's choice.
# A job that fails holds no others: what lacks its source or its prefix then says so, and stops.
# Type it again when the tuning is done: the grid follows. And when jobs have failed or met their time limit: what is
# finished is left out, the rest goes on. Submit from this folder, with the environment active that has python and torchrun.
set -euo pipefail

options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
done
[ $# -gt 0 ] && shift
case " ${options[*]} " in
    *" --slots="* | *" --slots "*) ;;
    *) options+=(--slots=0) ;; # the machine that submits need not have a GPU
esac
case " ${options[*]} " in
    *" --print "*) exec python study.py "${options[@]}" ;;
esac
command -v sbatch > /dev/null || { echo 'error: there is no sbatch here: --print shows the commands' >&2; exit 2; }

printed=$(python study.py "${options[@]}" --print)
levels=$(grep -c '^# level ' <<< "$printed" || true)
[ "$levels" -gt 0 ] || { echo 'nothing is left to run'; exit; }
mkdir -p out
commands=$(mktemp out/slurm_study.XXXXXX) # read by the jobs, so it stays
echo "$printed" > "$commands"

previous=
for level in $(seq 1 "$levels"); do
    awk -v level="$level" '/^#/ { here = $0 == "# level " level; next } here' "$commands" > "$commands.$level"
    job=$(sbatch --parsable --job-name=study --array=1-"$(wc -l < "$commands.$level")" \
        ${previous:+--dependency=afterany:$previous} "$@" \
        --wrap "bash -c \"\$(sed -n \${SLURM_ARRAY_TASK_ID}p $commands.$level)\"")
    previous=${job%%;*}
    echo "level $level: $(wc -l < "$commands.$level") runs, job $previous"
done
grep '^# these' "$commands" || true
