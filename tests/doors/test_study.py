"""study.py: what it starts, where, and what becomes of it. A copy of the scripts has a stand-in for train.py,
which takes a moment and writes what a run leaves. Run: python -m pytest tests/doors/test_study.py"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import run_python

from core.common import UserError
from grid import launch, plan

HERE = Path(__file__).parents[2]

def write_study(path: Path, **names) -> str:
    path.write_text('\n'.join(f'{name} = {value!r}' for name, value in names.items()) + '\n')
    return str(path)

# ------------------------------------------------------------------------------------------------------------
# tuning, the study file, records from elsewhere

@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A copy of the scripts in which train.py is a stand-in, as the working directory."""
    folders = [HERE / name for name in ('configs', 'core', 'grid', 'run', 'verdict')]
    for path in (*HERE.glob('*.py'), *folders):
        if path.is_dir():
            shutil.copytree(path, tmp_path / path.name)
        else:
            shutil.copy(path, tmp_path / path.name)
    (tmp_path / 'train.py').write_text(STAND_IN)
    launcher = tmp_path / 'grid' / 'launch.py'
    text = launcher.read_text().replace('POLL_SECONDS = 0.5', 'POLL_SECONDS = 0.02')
    # The stand-in needs no GPU: here there are four.
    launcher.write_text(text.replace('return torch.cuda.device_count()', 'return 4'))
    monkeypatch.chdir(tmp_path)
    return tmp_path

# What it does is in behavior.json, by the last two parts of its out_dir and the number of its start; '' is
# all others.
STAND_IN = """
import json, os, signal, sys, time
from core.common import locked
from config import config_to_dict, load_config
import schedule

config = schedule.resolve(load_config(sys.argv[1:], ''))
total = schedule.plan(config).total_steps
folder = '/'.join(config.out_dir.split('/')[-2:])

def log(what):
    with open('log.jsonl', 'a') as f:
        line = {'what': what, 'folder': folder, 'time': time.monotonic(), 'pid': os.getpid()}
        line['argv'] = sys.argv
        for name in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'MASTER_PORT', 'RANK'):
            line[name] = os.environ.get(name)
        f.write(json.dumps(line) + '\\n')

def on_signal(number, frame):
    log('signal')
    sys.exit(0)

signal.signal(signal.SIGTERM, on_signal)
behavior = json.load(open('behavior.json')) if os.path.exists('behavior.json') else {}
starts = 0
if os.path.exists('log.jsonl'):
    for line in map(json.loads, open('log.jsonl')):
        starts += line['what'] == 'start' and line['folder'] == folder
log('start')
with locked(config.out_dir):
    acts = behavior.get(folder, behavior.get('', ['sleep 0']))
    act = acts[min(starts, len(acts) - 1)]
    for step in config.checkpoint_steps:
        open(f'{config.out_dir}/ckpt_{step:06d}.pt', 'w').close()
    json.dump(config_to_dict(config), open(f'{config.out_dir}/config.json', 'w'))
    if act == 'fail':
        print('error: this run cannot be')
        sys.exit(2)
    if act == 'diverge':
        print('error: step 3: loss nan, gradient norm nan: stopped before the update')
        json.dump({'ended': 'diverged', 'ended_step': 3}, open(f'{config.out_dir}/run.json', 'w'))
        sys.exit(1)
    if act == 'crash':
        sys.exit(1)
    if act.startswith('on '):  # a slot that is dead
        if os.environ.get('CUDA_VISIBLE_DEVICES') == act.split()[1]:
            sys.exit(1)
        act = 'sleep 0.2'
    if act == 'hang':
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(500)
    if act == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(act.split()[1]))
    if os.environ.get('RANK', '0') == '0':
        loss = 1 + abs(config.learning_rate - 0.02) + config.seed / 1000
        line = {'kind': 'eval', 'step': total, 'tokens': total, 'flops': total, 'flops_paper': total,
                'seconds': 1.0, 'eval_seconds': 0.0, 'checkpoint_seconds': 0.0, 'stage': 1,
                'phase': 'continual', 'depth': config.n_layer, 'val_loss': loss}
        open(f'{config.out_dir}/metrics.jsonl', 'w').write(json.dumps(line) + '\\n')
        json.dump({'ended': 'done'}, open(f'{config.out_dir}/run.json', 'w'))
log('end')
"""
TWO_ARMS = {'arms': {'full': 'baseline', 'Li': 'incremental_8stage'}, 'baseline': 'full',
            'budgets': (100, 200),
            'seeds': (1, 2), 'overlays': ('cpu',),
            'settings': {'lr_schedule': 'wsd', 'vocab_size': 320, 'warmup_steps': 10}}

def start_launcher(*argv) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, 'study.py', 'mine.py', *argv], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                            text=True)

def run_launcher(*argv, code=0) -> str:
    """What a launcher says until it ends with exit code `code`."""
    done = run_python('study.py', 'mine.py', *argv, cwd=os.getcwd(), **os.environ)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout + done.stderr

def logged(what='start') -> list[dict]:
    if not os.path.exists('log.jsonl'):
        return []
    lines = [json.loads(line) for line in open('log.jsonl')]
    return [line for line in lines if line['what'] == what]

def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it took too long'
        time.sleep(0.05)

def behave(**acts):
    Path('behavior.json').write_text(json.dumps(acts))

def test_a_budget_may_be_limited_to_some_arms_and_seeds(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS | {'budgets': (100, 200, 400), 'only': {
        200: {'seeds': (2,)}, 400: {'arms': ('full',)}}})
    run_launcher('--slots=cpu,cpu')
    folders = {str(path.relative_to(scripts / 'out/mine')) for path in scripts.glob('out/mine/*/b*')}
    assert folders == {'full/b100_s1', 'full/b100_s2', 'li/b100_s1', 'li/b100_s2', 'full/b200_s2',
                       'li/b200_s2', 'full/b400_s1', 'full/b400_s2'}
    assert '8 done' in run_launcher('--status').splitlines()[-1]

def test_a_part_that_only_leaves_out_is_said(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS | {'only': {200: {'arms': ('full',), 'seeds': (2,)}}})
    for part in (['--only=Li', '--budgets=200'], ['--budgets=200', '--seeds=1']):
        done = subprocess.run([sys.executable, 'study.py', 'mine.py', *part], capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert done.stderr == f"error: {' '.join(part)}: the study's `only` leaves all of that out\n"
    assert not logged()

def test_records_of_another_machine_count_as_done_unless_a_part_is_named(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS | {'tune': {'Li': {'learning_rate': (0.01, 0.02)}},
                                                   'tune_at': (100,), 'tune_seeds': (0,)})
    run_launcher('--slots=cpu,cpu')
    assert '10 finished runs are in results/mine/records.jsonl' in run_launcher('--collect')
    lines = [json.loads(line) for line in open('results/mine/records.jsonl')]
    assert len(lines) == 10 and all(set(line) == {'run', 'config', 'info', 'metrics'} for line in lines)
    shutil.rmtree('out')
    before = len(logged())
    run_launcher('--slots=cpu,cpu')
    assert len(logged()) == before
    run_launcher('--slots=cpu', '--only=Li', '--budgets=100', '--seeds=2')
    assert [line['folder'] for line in logged()[before:]] == ['li/b100_s2']
    assert '--learning_rate=0.02' in logged()[-1]['argv']  # the tuning is known

def test_a_run_that_was_made_with_other_settings_is_said_not_taken(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS)
    run_launcher('--slots=cpu,cpu')
    write_study(scripts / 'mine.py', **TWO_ARMS | {'settings': TWO_ARMS['settings'] | {'weight_decay': 0.3}})
    assert (
        'out/mine/full/b100_s1 was made with other settings (weight_decay: was 0.1, now 0.3)'
        in run_launcher(code=2)
    )
    assert len(logged()) == 8

def test_dry_run_says_what_all_costs(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS)
    said = run_launcher('--dry_run', '--tflops=0.02', '--slots=cpu,cpu')
    assert (
        '8 runs' in said
        and 'shared prefixes spare' in said
        and 'hours of one slot' in said
        and 'GB on the disk' in said
    )
    assert not os.path.exists('out')

# ------------------------------------------------------------------------------------------------------------
# faults

def test_a_run_that_fails_is_tried_once_more_then_reported_and_the_others_go_on(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS)
    behave(**{'': ['sleep 0'], 'full/b100_s1': ['fail', 'sleep 0'], 'full/b200_s2': ['fail'],
              'li/b100_s1': ['die', 'sleep 0']})
    said = run_launcher('--slots=cpu,cpu', code=1)
    assert (
        'failed full/b200_s2: error: this run cannot be' in said
        and '1 runs failed twice: full/b200_s2' in said
    )
    folders = [line['folder'] for line in logged()]
    assert {name: folders.count(name) for name in ('full/b100_s1', 'full/b200_s2', 'li/b100_s1',
                                                   'li/b200_s1')} == {
        'full/b100_s1': 2, 'full/b200_s2': 2, 'li/b100_s1': 2, 'li/b200_s1': 1}
    status = run_launcher('--status')
    assert (
        '7 done' in status
        and '1 failed' in status
        and 'full/b200_s2 failed: error: this run cannot be' in status
    )
    behave()
    run_launcher('--slots=cpu,cpu')
    assert len(logged()) == len(folders) + 1  # only what wasn't done

def test_why_a_run_failed_is_its_error_whatever_torchrun_says_after_it(tmp_path):
    console = tmp_path / 'console.txt'
    console.write_text('$ python train.py\nerror: of another try\n$ torchrun train.py\nstep 3\nerror: loss '
                       'nan: stopped before the update\nTraceback (most recent call last):\n=====\n')
    assert launch.last_words(str(tmp_path)) == 'error: loss nan: stopped before the update'
    console.write_bytes(b'$ python train.py\nerror: of another try\n$ python train.py\nKilled \xe2\n\n')
    assert launch.last_words(str(tmp_path)).startswith('Killed')
    console.write_text('$ python train.py\nerror: of another try\n$ python train.py\n')
    assert launch.last_words(str(tmp_path)) == ''

@pytest.mark.parametrize('signals', [[signal.SIGKILL], [signal.SIGINT]])
def test_a_launcher_that_ends_ends_its_runs_and_the_next_one_goes_on(scripts, signals):
    write_study(scripts / 'mine.py', **TWO_ARMS)
    behave(**{'': ['sleep 0'], 'full/b200_s1': ['sleep 500', 'sleep 0'], 'full/b200_s2': ['sleep 500',
                                                                                          'sleep 0']})
    process = start_launcher('--slots=cpu,cpu,cpu')
    wait_for(lambda: len(logged()) == 8 and len(logged('end')) == 6)
    for number in signals:
        process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    if signals == [signal.SIGINT]:
        assert process.returncode == 130 and 'stopped; the runs have saved' in out
    wait_for(lambda: len(logged('signal')) == 2)  # each was told once, so that it saves
    run_launcher('--slots=cpu,cpu')
    assert sorted(line['folder'] for line in logged()[8:]) == ['full/b200_s1', 'full/b200_s2']

def test_a_second_launcher_of_one_study_is_refused(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS)
    behave(**{'': ['sleep 500']})
    process = start_launcher('--slots=cpu')
    wait_for(lambda: len(logged()) == 1)
    assert 'out/mine is in use by process' in run_launcher('--slots=cpu', code=2)
    assert 'running' in run_launcher('--status')
    process.terminate()
    process.communicate(timeout=60)
    assert len(logged()) == len(logged('signal')) == 1

def test_a_diverged_run_is_trained_once_whoever_asks(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS | {'budgets': (100,), 'seeds': (1,), 'tune_seeds': (0,),
                                                   'tune': {'Li': {'learning_rate': (0.01, 0.02)}}})
    behave(**{'': ['sleep 0'], 'li/tune_b100_s0_learning_rate=0.02': ['diverge'],
              'full/b100_s1': ['diverge']})
    said = run_launcher('--slots=cpu')
    assert 'diverged full/b100_s1: error: step 3: loss nan' in said and 'once more' not in said
    assert '2 diverged' in run_launcher('--status') and '# level' not in run_launcher('--print')
    # Nor where only its record is.
    run_launcher('--collect')
    shutil.rmtree('out')
    before = len(logged())
    run_launcher('--slots=cpu')
    assert len(logged()) == before == 4

def test_minutes_begin_nothing_that_would_not_end_by_then(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS | {'budgets': (100, 100_000)})
    behave(**{'': ['sleep 1']})
    said = run_launcher('--slots=cpu', '--minutes=2', '--separate')
    assert {line['folder'] for line in logged()} == {f'{arm}/b100_s{seed}' for arm in ('full', 'li')
                                                     for seed in (1, 2)}
    assert '4 runs or more are left for the next time' in said and 'the report is' in said
    assert 'must be a positive number' in run_launcher('--minutes=-1', code=2)

def test_a_second_ctrl_c_ends_a_run_that_hangs(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS)
    behave(**{'': ['hang']})
    process = start_launcher('--slots=cpu')
    wait_for(lambda: len(logged()) == 1)
    time.sleep(1)  # until it is deaf to the first one
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(1)
    process.communicate(timeout=60)
    assert process.returncode == 130
    pid = logged()[0]['pid']
    wait_for(lambda: not os.path.exists(f'/proc/{pid}'))

# ------------------------------------------------------------------------------------------------------------
# slots

def overlapping(starts, ends) -> int:
    """The most runs at a time."""
    changes = sorted([(line['time'], 1) for line in starts] + [(line['time'], -1) for line in ends])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most

def test_runs_see_their_slots_gpu_and_never_more_run_than_there_are_slots(scripts, monkeypatch):
    write_study(scripts / 'mine.py', **TWO_ARMS | {'seeds': (1, 2, 3)})
    behave(**{'': ['sleep 0.3']})
    run_launcher('--slots=0,3')
    for gpu in ('0', '3'):
        starts = [line for line in logged() if line['CUDA_VISIBLE_DEVICES'] == gpu]
        ends = [line for line in logged('end') if line['CUDA_VISIBLE_DEVICES'] == gpu]
        assert len(starts) > 2 and overlapping(starts, ends) == 1
        assert all('--device=cuda' in line['argv'] for line in starts)
    assert len(logged()) == 12 and overlapping(logged(), logged('end')) <= 2  # 1 where it is busy

def test_numbers_of_gpus_count_within_those_that_a_scheduler_gave(scripts, monkeypatch):
    write_study(scripts / 'mine.py', **TWO_ARMS | {'seeds': (1,), 'budgets': (100,)})
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '5,6')
    run_launcher('--slots=1')
    assert {line['CUDA_VISIBLE_DEVICES'] for line in logged()} == {'6'}
    assert 'names only 2 GPUs' in run_launcher('--slots=2', '--only=full', '--seeds=1', code=2)

def test_a_gpu_that_is_not_there_is_refused_before_the_first_run(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS)
    assert 'slot 4: this machine has 4 GPUs, numbered from 0' in run_launcher('--slots=0,4', code=2)
    assert not logged()

def test_a_dead_gpu_takes_two_runs_and_no_more(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS | {'seeds': (1, 2, 3)})
    behave(**{'': ['on 1']})
    said = run_launcher('--slots=0,1')
    assert 'slot 1 gets no more runs' in said and len(logged('end')) == 12
    assert sum(line['CUDA_VISIBLE_DEVICES'] == '1' for line in logged()) == 2

def test_groups_of_a_slot_are_ranks_whose_ports_do_not_clash(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS | {'seeds': (1,), 'budgets': (100,)})
    # both ranks are in the folder
    shared = STAND_IN.replace('with locked(config.out_dir):', 'for _ in range(1):')
    (scripts / 'train.py').write_text(shared)
    behave(**{'': ['sleep 4']})
    run_launcher('--slots=0+1,2+3')
    by_folder = {}
    for line in logged():
        by_folder.setdefault(line['folder'], []).append(line)
    assert len(by_folder) == 2 and overlapping(logged(), logged('end')) == 4
    for lines in by_folder.values():
        assert sorted(line['RANK'] for line in lines) == ['0', '1']
        assert len({line['MASTER_PORT'] for line in lines}) == 1
    assert len({(line['MASTER_PORT'], line['CUDA_VISIBLE_DEVICES']) for line in logged()}) == 2
    assert len({line['MASTER_PORT'] for line in logged()}) == 2

def test_cpu_slots_have_one_thread_and_no_gpu(scripts):
    write_study(scripts / 'mine.py', **TWO_ARMS | {'seeds': (1,), 'budgets': (100,)})
    run_launcher('--slots=cpu')
    assert {(line['CUDA_VISIBLE_DEVICES'], line['OMP_NUM_THREADS']) for line in logged()} == {('', '1')}
    console = (scripts / 'out/mine/full/b100_s1/console.txt').read_text()
    assert console.startswith('$ CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 python train.py configs/baseline.py '
                              'configs/cpu.py ')

@pytest.mark.parametrize('slots, message', [('gpu', "'gpu' is no slot"),
                                            ('0+0,1+2', 'a GPU stands there twice'),
                                            ('0+1,1+2', 'a GPU stands there twice'),
                                            ('cpu,0', 'slots must be alike'),
                                            ('0,1+2', 'slots must be alike')])
def test_slots_that_overlap_or_differ_are_refused(slots, message):
    with pytest.raises(UserError, match=message):
        launch.parse_slots(slots)

# ------------------------------------------------------------------------------------------------------------
# other people's engines, and the README

def test_slurm_arrays_run_level_by_level_with_what_they_need_done(scripts, monkeypatch):
    shutil.copy(HERE / 'slurm_study.sh', scripts)
    write_study(scripts / 'mine.py', **TWO_ARMS | {'budgets': (1000, 4000), 'seeds': (1,)})
    # Runs the tasks of an array at once, and says which one it was told to wait for.
    (scripts / 'bin').mkdir()
    (scripts / 'bin' / 'sbatch').write_text('''#!/bin/bash
echo "$@" >> sbatch.txt
for arg in "$@"; do
    case "$arg" in
        --array=1-*) last=${arg#--array=1-} ;;
    esac
done
for task in $(seq 1 "$last"); do
    SLURM_ARRAY_TASK_ID=$task sh -c "${!#}" >&2
done
wc -l < sbatch.txt
''')
    (scripts / 'bin' / 'sbatch').chmod(0o755)
    (scripts / 'bin' / 'python').write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (scripts / 'bin' / 'python').chmod(0o755)
    monkeypatch.setenv('PATH', f'{scripts / "bin"}:{os.environ["PATH"]}')
    done = subprocess.run(['bash', 'slurm_study.sh', 'mine.py', '--', '--time=1:00'], capture_output=True,
                          text=True, check=True)
    assert 'level 1: 2 runs, job 1' in done.stdout and 'level 2: 2 runs, job 2' in done.stdout
    calls = Path('sbatch.txt').read_text().splitlines()
    assert len(calls) == 2 and '--dependency' not in calls[0] and '--dependency=afterany:1' in calls[1]
    assert all('--time=1:00' in call for call in calls)
    folders = [line['folder'] for line in logged()]
    assert {folder.split('/')[1] for folder in folders[:2]} == {'b4000_s1'} and len(set(folders)) == 4
    assert '--branch_from=out/mine/full/b4000_s1' in logged()[folders.index('full/b1000_s1')]['argv']
    shown = subprocess.run(['bash', 'slurm_study.sh', 'mine.py', '--slots', '0+1', '--only=full', '--print'],
                           capture_output=True, text=True, check=True)
    assert 'sbatch' not in shown.stdout
    again = subprocess.run(['bash', 'slurm_study.sh', 'mine.py'], capture_output=True, text=True, check=True)
    assert 'nothing is left to run' in again.stdout

def test_the_studies_own_commands_in_the_readme_make_a_study(tmp_path, monkeypatch):
    block = re.search(r"cat > studies/mine.py <<'EOF'\n(.*?)\nEOF\n", (HERE / 'README.md').read_text(),
                      re.DOTALL)
    (tmp_path / 'mine.py').write_text(block[1])
    monkeypatch.chdir(HERE)
    loaded = plan.load_study(str(tmp_path / 'mine.py'), out='nowhere')
    assert len(loaded.arms) == 2 and len(loaded.seeds) == 3
