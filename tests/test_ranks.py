"""The same run on 1, 2 and 4 gloo ranks, and on two nodes. Run: python -m pytest tests/test_ranks.py"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_train import assert_same_run, metrics

import checkpoint

# A train.py that also writes down, per rank, which tokens it read and its weights at each phase's start and at the end.
PROBE = '''
import hashlib, json, os, sys
import train
from config import run

seen, models = {'tokens': [], 'weights': []}, []
real_freeze, real_batch_at = train.GPT.freeze, train.data.Split.batch_at

def digest(model):
    return hashlib.sha256(b''.join(t.numpy().tobytes() for t in model.state_dict().values())).hexdigest()

def freeze(self, blocks, embeddings):
    real_freeze(self, blocks, embeddings)
    models[:] = [self]
    seen['weights'].append((self.depth, digest(self)))

def batch_at(self, step, per_step, rows, shuffle, seed):
    x, y = real_batch_at(self, step, per_step, rows, shuffle, seed)
    seen['tokens'] += [(step, row, hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest()) for row, a, b in zip(rows, x, y)]
    return x, y

def init(self, *args):
    seen['weights'] = []  # what came before was the rehearsal's model
    real_init(self, *args)

real_init, train.GPT.__init__ = train.GPT.__init__, init
train.GPT.freeze, train.data.Split.batch_at = freeze, batch_at
folder = sys.argv.pop(1)
run(train.main)
seen['weights'].append((models[0].depth, digest(models[0])))
json.dump(seen, open(os.path.join(folder, 'rank_' + os.environ.get('RANK', '0') + '.json'), 'w'))
'''


def torchrun(ranks, script, *args, **kwargs):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}', script, *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}, **kwargs)


@pytest.fixture(scope='module')
def probe(tmp_path_factory):
    path = Path.cwd() / '.probe_train.py'  # beside train.py, so that it finds the modules
    path.write_text(PROBE)
    yield str(path)
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize('flags', [
    (), ('--phase1_embeddings=train', '--shuffle=True', '--dropout=0.1'),
    ('--phase1_embeddings=frozen', '--grow_init=interleave', '--grow_optimizer=copy', '--grad_clip=0.5'),
])
def test_1_2_and_4_ranks_are_the_same_run(probe, tiny, tmp_path, flags):
    per_rank = {}
    for ranks in (1, 2, 4):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        done = torchrun(ranks, probe, str(folder), *tiny, f'--out_dir={folder}/run', *flags)
        assert done.returncode == 0, done.stderr
        per_rank[ranks] = [json.loads((folder / f'rank_{r}.json').read_text()) for r in range(ranks)]
    tokens = {ranks: sorted(t for seen in all_seen for t in seen['tokens']) for ranks, all_seen in per_rank.items()}
    assert tokens[1] == tokens[2] == tokens[4]  # each step's sequences, each exactly once
    for all_seen in per_rank.values():  # bit for bit at each phase's start and at the end
        assert all(seen['weights'] == all_seen[0]['weights'] for seen in all_seen)
    weights = {ranks: checkpoint.newest(str(tmp_path / str(ranks) / 'run'))[1]['model'] for ranks in (1, 2, 4)}
    for ranks in (2, 4):  # equal to one rank's up to the order of sums, which Adam amplifies where gradients are tiny
        for name, tensor in weights[1].items():
            assert (weights[ranks][name] - tensor).norm() <= 2e-3 * tensor.norm() + 1e-4, (ranks, name)
        for one, other in zip(metrics(tmp_path / '1' / 'run'), metrics(tmp_path / str(ranks) / 'run')):
            assert one.keys() == other.keys()
            for key in one:
                summed = key in ('loss', 'val_loss', 'grad_norm')
                assert one[key] == (pytest.approx(other[key], rel=1e-3) if summed else other[key]), key


@pytest.mark.slow
def test_resume_on_another_number_of_ranks_and_another_micro_batch(tiny, tmp_path):
    straight, moved = tmp_path / 'straight', tmp_path / 'moved'
    assert torchrun(1, 'train.py', *tiny, f'--out_dir={straight}').returncode == 0
    assert torchrun(2, 'train.py', *tiny, f'--out_dir={moved}').returncode == 0
    for ranks, batch_size, keep in ((4, 1, 15), (1, 8, 12)):
        for path in moved.glob('ckpt_*.pt'):
            if int(path.stem[5:]) > keep:
                path.unlink()
        done = torchrun(ranks, 'train.py', *tiny, f'--out_dir={moved}', '--resume=auto', f'--batch_size={batch_size}')
        assert done.returncode == 0, done.stderr
        for one, other in zip(metrics(straight), metrics(moved)):
            assert one['step'] == other['step'] and one['kind'] == other['kind']
            assert one.get('loss', 0) == pytest.approx(other.get('loss', 0), rel=1e-3)


@pytest.mark.slow
def test_a_nan_on_one_rank_only_stops_all_before_the_update(tiny, tmp_path):
    script = Path.cwd() / '.probe_nan.py'
    script.write_text('import os, train\nfrom config import run\nreal = train.GPT.forward\ncalls = []\n'
                      'def forward(self, idx, targets):\n'
                      '    loss = real(self, idx, targets)\n'
                      '    calls.append(self.training)\n'
                      "    return loss * float('nan') if sum(calls) == 21 and os.environ['RANK'] == '1' else loss\n"
                      'train.GPT.forward = forward\nrun(train.main)\n')
    try:
        done = torchrun(2, str(script), *tiny, f'--out_dir={tmp_path}/a')
    finally:
        script.unlink()
    assert done.returncode == 1 and 'exitcode  : 1 (' in done.stderr
    assert 'loss nan' in done.stderr and 'stopped before the update' in done.stderr
    path, state = checkpoint.newest(str(tmp_path / 'a'))
    assert path in done.stderr and all(t.isfinite().all() for t in state['model'].values())


@pytest.mark.slow
def test_a_rank_killed_under_max_restarts_ends_with_the_same_weights(tiny, tmp_path):
    straight, killed = tmp_path / 'straight', tmp_path / 'killed'
    assert torchrun(2, 'train.py', *tiny, f'--out_dir={straight}').returncode == 0
    script = Path.cwd() / '.probe_kill.py'
    script.write_text('import os, signal, schedule, train\nfrom config import run\nreal = schedule.lr_at\n'
                      'def lr_at(config, phases, step):\n'
                      "    where = os.environ['RANK'], os.environ['TORCHELASTIC_RESTART_COUNT'], step\n"
                      "    if where in (('1', '0', 11), ('0', '1', 16)):\n"
                      '        os.kill(os.getpid(), signal.SIGKILL)\n'
                      '    return real(config, phases, step)\n'
                      'schedule.lr_at = lr_at\nrun(train.main)\n')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', '--max-restarts=3',
               str(script), *tiny, f'--out_dir={killed}', '--resume=auto']
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('resumed at step') == 2
    assert_same_run(straight, killed)


@pytest.mark.slow
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_any_rank_saves_at_one_step_and_all_exit_0(tiny, tmp_path, signum):
    """Straight to the ranks: torchrun itself passes signals on, and reports them as its own failure."""
    straight, stopped = tmp_path / 'straight', tmp_path / 'stopped'
    assert torchrun(2, 'train.py', *tiny, f'--out_dir={straight}').returncode == 0
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    ranks = [subprocess.Popen([sys.executable, 'train.py', *tiny, f'--out_dir={stopped}'], stdout=subprocess.PIPE, text=True,
                              env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)}) for r in (0, 1)]
    for line in ranks[0].stdout:
        if 'step 00003/24' in line:
            ranks[1].send_signal(signum)
            break
    out = ranks[0].stdout.read()
    assert [r.wait(60) for r in ranks] == [0, 0]
    step = checkpoint.newest(str(stopped))[1]['step']
    assert 3 < step < 24 and f'saved at step {step}' in out
    assert torchrun(2, 'train.py', *tiny, f'--out_dir={stopped}', '--resume').returncode == 0
    assert_same_run(straight, stopped)


@pytest.mark.slow
def test_two_nodes_of_one_rank_end_with_the_weights_of_one_node_of_two(tiny, tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    assert torchrun(2, 'train.py', *tiny, f'--out_dir={one}').returncode == 0
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [sys.executable, '-m', 'torch.distributed.run', '--nnodes=2', '--nproc_per_node=1', '--rdzv_backend=c10d',
               f'--rdzv_endpoint=127.0.0.1:{port}', '--rdzv_id=test', 'train.py', *tiny, f'--out_dir={two}', '--resume=auto']
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    agents = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    outputs = [agent.communicate(timeout=120) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert_same_run(one, two)
