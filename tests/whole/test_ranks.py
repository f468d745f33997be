"""The same run on 1, 2 and 4 gloo ranks, on two nodes, through kills and signals. Run: python -m pytest
tests/whole/test_ranks.py"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ENV, free_port, run_python, run_ranks, start_ranks
from same_run import assert_same_run, metrics

from run import checkpoint

# A train.py that also writes down, per rank, which tokens it read and its weights at each phase's start and
# at the end. It trains several runs, one after the other: a process takes two seconds to begin.
PROBE = '''
import hashlib, json, os, sys
import train
from core.common import run_main

seen, models = {}, []
real_freeze, real_get_batch = train.GPT.freeze, train.data.Split.get_batch

def digest(model):
    return hashlib.sha256(b''.join(t.numpy().tobytes() for t in model.state_dict().values())).hexdigest()

def freeze(self, blocks, embeddings):
    real_freeze(self, blocks, embeddings)
    models[:] = [self]
    seen['weights'].append((self.depth, digest(self)))

def get_batch(self, step, sequences_per_step, rows, shuffle, seed):
    x, y = real_get_batch(self, step, sequences_per_step, rows, shuffle, seed)
    for row, a, b in zip(rows, x, y):
        seen['tokens'].append((step, row, hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest()))
    return x, y

def init(self, *args):
    seen['weights'] = []  # what came before was the rehearsal's model
    real_init(self, *args)

real_init, train.GPT.__init__ = train.GPT.__init__, init
train.GPT.freeze, train.data.Split.get_batch = freeze, get_batch
for port, folder, flags in json.loads(sys.argv[1]):
    seen.update(tokens=[], weights=[])
    os.environ['MASTER_PORT'] = str(port)
    sys.argv[1:] = flags
    run_main(train.main)
    seen['weights'].append((models[0].depth, digest(models[0])))
    json.dump(seen, open(os.path.join(folder, 'rank_' + os.environ.get('RANK', '0') + '.json'), 'w'))
'''

def torchrun(ranks, script, *args, options=('--standalone',)):
    command = [sys.executable, '-m', 'torch.distributed.run', *options, f'--nproc_per_node={ranks}']
    return subprocess.run([*command, script, *args], capture_output=True, text=True, env=ENV, timeout=240)

@pytest.fixture(scope='module')
def probe(tmp_path_factory):
    path = tmp_path_factory.mktemp('probe') / 'probe.py'
    path.write_text(PROBE)
    return str(path)

SETTINGS = {
    'plain': (),
    'trained embeddings': ('--phase1_embeddings=train', '--shuffle=True', '--dropout=0.1'),
    'frozen embeddings': ('--phase1_embeddings=frozen', '--grow_init=interleave', '--grow_optimizer=copy',
                          '--grad_clip=0.5'),
}

@pytest.fixture(scope='module')
def on_ranks(probe, tiny, tmp_path_factory):
    """A folder with the run of each setting on 1, 2 and 4 ranks: SETTING/RANKS/run."""
    folder = tmp_path_factory.mktemp('on_ranks')
    for ranks in (1, 2, 4):
        runs = []
        for setting, flags in SETTINGS.items():
            out = folder / setting / str(ranks)
            out.mkdir(parents=True)
            runs.append((free_port(), str(out), [*tiny, f'--out_dir={out}/run', *flags]))
        codes, _, said = run_ranks(ranks, probe, json.dumps(runs))
        assert set(codes) == {0}, said
    return folder

@pytest.fixture(scope='module')
def straight(on_ranks):
    """A folder with a run on 2 ranks from beginning to end: run/."""
    return on_ranks / 'plain' / '2'

@pytest.mark.slow
@pytest.mark.parametrize('setting', SETTINGS)
def test_1_2_and_4_ranks_are_the_same_run(on_ranks, setting):
    numbers = (1, 2, 4)
    folder = on_ranks / setting
    per_rank = {ranks: [json.loads((folder / str(ranks) / f'rank_{r}.json').read_text())
                        for r in range(ranks)] for ranks in numbers}
    tokens = {ranks: sorted(t for seen in all_seen for t in seen['tokens'])
              for ranks, all_seen in per_rank.items()}
    # each step's sequences, each exactly once
    assert all(tokens[ranks] == tokens[1] for ranks in numbers)
    for all_seen in per_rank.values():  # bit for bit at each phase's start and at the end
        assert all(seen['weights'] == all_seen[0]['weights'] for seen in all_seen)
    weights = {ranks: checkpoint.latest(str(folder / str(ranks) / 'run'))[1]['model'] for ranks in numbers}
    # equal to one rank's up to the order of sums, which Adam amplifies where gradients are tiny
    for ranks in numbers[1:]:
        for name, tensor in weights[1].items():
            assert (weights[ranks][name] - tensor).norm() <= 2e-3 * tensor.norm() + 1e-4, (ranks, name)
        for one, other in zip(metrics(folder / '1' / 'run'), metrics(folder / str(ranks) / 'run')):
            assert one.keys() == other.keys()
            for key in one:
                summed = 'loss' in key or key == 'grad_norm' or key.startswith(('hellaswag_bits',
                                                                                'hellaswag_margin'))
                assert one[key] == (pytest.approx(other[key], rel=1e-3) if summed else other[key]), key

@pytest.mark.slow
def test_compiled_ranks_train_as_an_eager_one_does(tiny, tmp_path):
    """Compiled blocks inside DDP, in every phase: what CUDA does by default."""
    # Fresh layers below and above the old one, which at first train alone: every graph that there is.
    flags = [*tiny, '--n_layer=3', '--n_stages=2', '--stage_depths=1,3', '--grow_map=((-1,0,-1),)',
             '--growth_steps=8', '--continual_steps=2']
    # All but the code that inductor makes of the graphs: for each rank a minute on the CPU.
    script = tmp_path / 'compiled.py'
    script.write_text('import functools, torch, train\nfrom core.common import run_main\n'
                      "torch.compile = functools.partial(torch.compile, backend='aot_eager')\n"
                      'run_main(train.main)\n')
    codes, _, said = run_ranks(2, str(script), *flags, f'--out_dir={tmp_path}/compiled', '--compile=True')
    assert set(codes) == {0}, said
    assert run_python('train.py', *flags, f'--out_dir={tmp_path}/eager').returncode == 0
    eager, compiled = metrics(tmp_path / 'eager'), metrics(tmp_path / 'compiled')
    names = ('kind', 'step', 'phase', 'depth')
    for one, other in zip(eager, compiled, strict=True):
        assert [one[name] for name in names] == [other[name] for name in names]
        for key in one.keys() & {'loss', 'val_loss', 'grad_norm'}:
            assert one[key] == pytest.approx(other[key], rel=1e-3)

@pytest.mark.slow
def test_a_llama_on_two_ranks_is_the_run_of_one(tiny, tmp_path):
    """Heads that share keys, an untied head that phase 1 trains, Muon."""
    flags = [*tiny, '--arch=llama', '--n_kv_head=1', '--tie_embeddings=False', '--optimizer=muon']
    codes, _, said = run_ranks(2, 'train.py', *flags, f'--out_dir={tmp_path}/two')
    assert codes == [0, 0], said
    assert run_python('train.py', *flags, f'--out_dir={tmp_path}/one').returncode == 0
    one, two = metrics(tmp_path / 'one'), metrics(tmp_path / 'two')
    assert [line['kind'] for line in one].count('eval') == 6
    for a, b in zip(one, two, strict=True):
        assert (a['kind'], a['step'], a['depth']) == (b['kind'], b['step'], b['depth'])
        for key in a.keys() & {'loss', 'val_loss', 'grad_norm'}:
            assert a[key] == pytest.approx(b[key], rel=1e-3)

@pytest.mark.slow
def test_resume_on_another_number_of_ranks_and_another_micro_batch(tiny, on_ranks, straight, tmp_path):
    moved = tmp_path / 'moved'
    shutil.copytree(on_ranks / 'plain' / '4' / 'run', moved)
    for ranks, batch_size, keep in ((2, 1, 15), (1, 8, 12)):
        for path in moved.glob('ckpt_*.pt'):
            if int(path.stem[5:]) > keep:
                path.unlink()
        codes, _, said = run_ranks(ranks, 'train.py', *tiny, f'--out_dir={moved}', '--resume=auto',
                                   f'--batch_size={batch_size}')
        assert set(codes) == {0}, said
        for one, other in zip(metrics(straight / 'run'), metrics(moved), strict=True):
            assert one['step'] == other['step'] and one['kind'] == other['kind']
            assert one.get('loss', 0) == pytest.approx(other.get('loss', 0), rel=1e-3)

@pytest.mark.slow
def test_a_nan_on_one_rank_only_stops_all_before_the_update(tiny, tmp_path):
    script = tmp_path / 'nan.py'
    script.write_text('import os, train\nfrom core.common import run_main\n'
                      'real = train.GPT.forward\ncalls = []\n'
                      'def forward(self, idx, targets):\n'
                      '    loss = real(self, idx, targets)\n'
                      '    calls.append(self.training)\n'
                      "    return loss * float('nan') if sum(calls) == 21 and os.environ['RANK'] == '1' else "
                      'loss\ntrain.GPT.forward = forward\nrun_main(train.main)\n')
    codes, _, said = run_ranks(2, str(script), *tiny, f'--out_dir={tmp_path}/a')
    assert codes == [1, 1]
    assert 'loss nan' in said and 'stopped before the update' in said
    path, state = checkpoint.latest(str(tmp_path / 'a'))
    assert path in said and all(t.isfinite().all() for t in state['model'].values())

@pytest.mark.slow
def test_a_rank_killed_under_max_restarts_ends_with_the_same_weights(tiny, straight, tmp_path):
    script = tmp_path / 'kill.py'
    script.write_text('import os, signal, schedule, train\nfrom core.common import run_main\nreal = '
                      "schedule.Plan.row\ndef row(plan, step):\n    where = os.environ['RANK'], "
                      "os.environ['TORCHELASTIC_RESTART_COUNT'], step\n    if where == ('1', '0', 11):"
                      "\n        os.kill(os.getpid(), signal.SIGKILL)\n    return "
                      'real(plan, step)\nschedule.Plan.row = row\nrun_main(train.main)\n')
    done = torchrun(2, str(script), *tiny, f'--out_dir={tmp_path}/killed', '--resume=auto',
                    options=('--standalone', '--max-restarts=1'))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('resumed at step') == 1
    assert_same_run(straight / 'run', tmp_path / 'killed')

@pytest.mark.slow
def test_a_mistake_on_one_rank_only_is_told(tiny, tmp_path):
    # Before rank 0 makes a folder all ranks have what they need.
    script = tmp_path / 'mistake.py'
    script.write_text('import os, time, train\nfrom core.common import UserError, run_main\n'
                      'sleep = time.sleep\n'
                      'time.sleep = lambda seconds: sleep(min(seconds, 2))  # of the 10 that others get\n'
                      'real = train.pick_device\n'
                      'def pick_device(*args):\n'
                      "    if os.environ['RANK'] == '1':\n"
                      "        raise UserError('this rank has no GPU')\n"
                      '    return real(*args)\n'
                      'train.pick_device = pick_device\nrun_main(train.main)\n')
    done = torchrun(2, str(script), *tiny, f'--out_dir={tmp_path}/a')
    assert done.returncode == 1 and done.stderr.count('error: this rank has no GPU') == 1, done.stderr
    assert not (tmp_path / 'a').exists()

@pytest.mark.slow
def test_a_signal_to_any_rank_saves_at_one_step_and_all_exit_0(tiny, straight, tmp_path):
    """Straight to the ranks: torchrun itself passes signals on, and reports them as its own failure."""
    stopped, steps = tmp_path / 'stopped', []
    for signum, rank, after in ((signal.SIGTERM, 1, 3), (signal.SIGINT, 0, 12)):
        ranks = start_ranks(2, 'train.py', *tiny, f'--out_dir={stopped}', '--resume=auto')
        for line in ranks[0].stdout:
            if f'step {after:05d}/24' in line:
                ranks[rank].send_signal(signum)
                break
        out = ranks[0].stdout.read()
        assert [r.wait() for r in ranks] == [0, 0]
        steps.append(checkpoint.latest(str(stopped))[1]['step'])
        assert after < steps[-1] < 24 and f'saved at step {steps[-1]}' in out
    assert run_ranks(2, 'train.py', *tiny, f'--out_dir={stopped}', '--resume')[0] == [0, 0]
    assert_same_run(straight / 'run', stopped)

# A train.py whose update 6 takes five seconds on each rank, which say that they are there and when they stop.
SLOW_STEP = '''
import os, sys, time, schedule, train
from core.common import run_main
real = schedule.Plan.row
def row(plan, step):
    if step == 6:
        os.write(1, b'\\nrank is %d\\n' % os.getpid())  # a line of its own, whatever others print
        time.sleep(5)
    return real(plan, step)
schedule.Plan.row = row
run_main(train.main)
'''

def is_alive(pid: int) -> bool:
    state = Path(f'/proc/{pid}/stat')
    return state.exists() and state.read_text().rpartition(')')[2].split()[0] != 'Z'

@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells a process that its parent has died')
@pytest.mark.parametrize('signals', [[signal.SIGINT, signal.SIGINT], [signal.SIGKILL]])
def test_ranks_do_not_outlive_torchrun(tiny, tmp_path, signals):
    """A second Ctrl-C ends it, and them at once; if it is killed they save and end."""
    script = tmp_path / 'slow_step.py'
    script.write_text(SLOW_STEP)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
               str(script), *tiny, f'--out_dir={tmp_path}/run']
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                env=ENV)
    ranks = []
    for line in launcher.stdout:
        if line.startswith('rank is '):
            ranks.append(int(line.split()[2]))
        if len(ranks) == 2:
            break
    for number in signals:
        launcher.send_signal(number)
        time.sleep(1)  # for torchrun to pass it on
    launcher.wait(60)
    assert len(ranks) == 2
    assert any(is_alive(rank) for rank in ranks) == (len(signals) == 1)
    launcher.stdout.read()  # until the last rank has closed it
    assert not any(is_alive(rank) for rank in ranks)
    assert checkpoint.latest(str(tmp_path / 'run'))[1]['step'] == 6 + (len(signals) == 1)

# What slurm.sh calls, on one machine: srun starts a task for each of two nodes and passes scancel's signal on
# to them.
SLURM = {'srun': 'shift; echo $$ > "$STUBS/pid"; "$@" & a=$!; "$@" & b=$!; trap "kill -TERM $a $b" TERM\n'
                 'wait $a; wait $a; x=$?; wait $b; y=$?; exit $((x > y ? x : y))',
         'scancel': 'echo "scancel $@" >> "$STUBS/calls"; kill -TERM $(cat "$STUBS/pid")',
         'scontrol': '[ "$1" = show ] && echo 127.0.0.1 || echo "scontrol $@" >> "$STUBS/calls"',
         'torchrun': f'exec {sys.executable} -m torch.distributed.run "$@"'}

@pytest.mark.slow
def test_slurm_sh_stops_two_nodes_before_the_limit_and_queues_itself(tiny, straight, tmp_path):
    for name, body in SLURM.items():
        (tmp_path / name).write_text(f'#!/bin/bash\n{body}\n')
        (tmp_path / name).chmod(0o755)
    env = {**ENV, 'STUBS': str(tmp_path), 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '17',
           'SLURM_JOB_NODELIST': 'node[1-2]', 'SLURM_NNODES': '2', 'SLURM_GPUS_ON_NODE': '1'}
    script = tmp_path / 'slurm.sh'
    script.write_text(Path('slurm.sh').read_text().replace(':29500', f':{free_port()}'))
    job = subprocess.Popen(['bash', str(script), *tiny, f'--out_dir={tmp_path}/run'], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True, env=env)
    for line in job.stdout:
        if 'step 00005/24' in line:
            job.send_signal(signal.SIGUSR1)
            break
    out = job.stdout.read()
    assert job.wait(240) == 0 and 'stopped by a signal; saved at step' in out
    assert (tmp_path / 'calls').read_text() == 'scancel --signal=TERM 17\nscontrol requeue 17\n'
    codes, _, said = run_ranks(2, 'train.py', *tiny, f'--out_dir={tmp_path}/run', '--resume=auto')
    assert codes == [0, 0], said
    assert_same_run(straight / 'run', tmp_path / 'run')
    for code in (0, 2):  # finished, and a mistake in the settings: not queued again
        (tmp_path / 'srun').write_text(f'#!/bin/bash\nexit {code}\n')
        assert subprocess.run(['bash', str(script)], env=env, timeout=240).returncode == code
    assert (tmp_path / 'calls').read_text().count('\n') == 2
