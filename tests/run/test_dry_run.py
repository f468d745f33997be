"""What train.py does before step 0 and at each phase's start for memory and compiled code.

Run: python -m pytest tests/run/test_dry_run.py
"""

import dataclasses
import functools
import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import config as configuration
import train
from core import device
from core.common import UserError
from model import GPT
from run import checkpoint, start

QUIET = ['--eval_interval=0', '--hellaswag_interval=0']

def run(monkeypatch, tiny, out_dir, *flags):
    monkeypatch.setattr(sys, 'argv', ['train.py', *tiny, f'--out_dir={out_dir}', *flags])
    train.main()

def models_alive() -> int:
    gc.collect()
    return sum(isinstance(o, GPT) for o in gc.get_objects())

# ------------------------------------------------------------------------------------------------------------
# compiled code

def test_all_graphs_of_a_plan_exist_before_step_0_and_no_model_of_the_dry_run(monkeypatch, tiny, tmp_path):
    """Three stages with old layers among new ones: four graphs for blocks, and those of the first block, of
    the embeddings, the final norm and the head."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    seen = []
    before = models_alive()
    real_initial_state, real_train = train.initial_state, train.train

    def initial_state(*args):
        seen.append((counters['stats']['unique_graphs'], models_alive() - before))
        return real_initial_state(*args)

    def watched_train(*args):
        stopped_by = real_train(*args)
        seen.append(counters['stats']['unique_graphs'])
        return stopped_by

    # Graphs are counted alike, whatever makes code of them: that takes a minute on the CPU.
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager'))
    monkeypatch.setattr(train, 'initial_state', initial_state)
    monkeypatch.setattr(train, 'train', watched_train)
    run(monkeypatch, tiny, tmp_path, *QUIET, '--compile=True', '--n_layer=6', '--n_stages=3',
        '--growth_steps=6', '--continual_steps=1', '--grow_init=interleave')
    assert seen == [(9, 0), 9]
    assert not counters['graph_break'] and not counters['unimplemented']
    torch._dynamo.reset()

@pytest.mark.parametrize('flags, expected', [
    ((), [(), (0, 1), (0, 1, 2)]), (('--n_stages=1',), [()]), (('--phase1_fraction=0',), [()]),
    (('--grow_init=interleave',), [(), (0, 2), (0, 2, 3)]),
])
def test_a_micro_step_of_each_way_to_freeze_compiles_what_a_plan_needs(monkeypatch, tiny, flags, expected):
    config = configuration.load_config([*tiny, *flags], '')
    model = GPT(checkpoint.gpt_config(configuration.config_to_dict(config))).train()
    monkeypatch.setattr(device, 'compile_blocks', lambda model: None)
    frozen = []

    def note(model, inputs):
        trains = [block.ln_1.weight.requires_grad for block in model.transformer.h]
        frozen.append(tuple(i for i in range(model.depth) if not trains[i]))

    model.register_forward_pre_hook(note)
    job = dataclasses.replace(train.prepare([*tiny, *flags]), compiled=True)
    start.compile_graphs(job, model, torch.zeros(2, 32, dtype=torch.int64))
    assert frozen == expected
    assert all(p.grad is None for p in model.parameters())

def test_a_missing_compiler_is_one_line_that_names_the_way_out(monkeypatch, tiny, tmp_path):
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    without = inductor.patch({'cpp.cxx': ('no-such-compiler',), 'force_disable_caches': True})
    message = r'torch.compile does not work here \(.*\): .*--compile=False'
    with without, pytest.raises(UserError, match=message) as error:
        run(monkeypatch, tiny, tmp_path / 'run', *QUIET, '--compile=True')
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'run').exists()
    torch._dynamo.reset()

def test_only_what_the_compiler_raises_counts_as_its_failure():
    from torch._dynamo.exc import Unsupported
    from torch._inductor.exc import InvalidCxxCompiler

    assert device.compile_failure(InvalidCxxCompiler()).startswith('No working C++ compiler found')
    assert device.compile_failure(Unsupported('a graph break\nand more')) == 'a graph break'
    assert device.compile_failure(RuntimeError('mat1 and mat2 shapes cannot be multiplied')) is None
    assert device.compile_failure(UserError('torch._inductor')) is None

# ------------------------------------------------------------------------------------------------------------
# memory

# train.py with a limit on its memory; without one it ends after the dry run and prints the most that it had
# before and after it
WATCHED = """
import resource, sys
import train
from core import common

limit, real = int(sys.argv.pop(1)), train.dry_run

def peak():
    with open('/proc/self/status') as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith('VmPeak'))

def dry_run(*args):
    before = peak()
    real(*args)
    print(before, peak())
    sys.exit()

if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
else:
    train.dry_run = dry_run
common.run_main(train.main)
"""

@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc, sets RLIMIT_AS')
def test_what_passes_the_dry_run_does_not_run_out_of_memory_later(tiny, tmp_path):
    """Growth, accumulation, checkpoints, evaluation: with as much memory as the dry run took, the run ends
    well; with less it is refused before step 0."""
    flags = [*tiny, '--n_layer=6', '--n_embd=256', '--batch_size=8', '--total_batch_size=512',
             '--hellaswag_interval=3', '--checkpoint_interval=2', '--grow_optimizer=copy',
             '--grow_init=stack', '--vocab_size=2048', '--growth_steps=6', '--continual_steps=2']

    def start(limit, name):
        # The limit counts addresses. One arena: glibc reserves 64 MB for a thread that finds the first busy.
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MALLOC_ARENA_MAX': '1'}
        command = [sys.executable, '-c', WATCHED, str(limit), *flags, f'--out_dir={tmp_path / name}']
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    before, dry = map(int, start(0, 'free').stdout.split()[-2:])
    assert dry - before > 100e6  # else the rest would show nothing
    done = start(dry + 16 * 2**20, 'enough')  # stacks of two threads, 8 MB of addresses each
    assert done.returncode == 0 and (tmp_path / 'enough' / 'ckpt_000008.pt').exists(), done.stderr
    done = start((before + dry) // 2, 'too_little')
    assert done.returncode == 2
    assert 'error: out of memory at full depth (6 layers) with batch_size 8' in done.stderr
    assert not (tmp_path / 'too_little').exists()

def test_ddps_buckets_are_gone_before_the_next_ones_are_made(monkeypatch, tiny, tmp_path, capsys):
    """A group of one rank that takes itself for two: every wrapper, the dry run's too, is gone when the next
    one comes."""
    alive = weakref.WeakSet()
    found = []

    class Watched(DistributedDataParallel):
        def __init__(self, *args, **kwargs):
            found.append(len(alive))
            super().__init__(*args, **kwargs)
            alive.add(self)

    real = train.prepare
    monkeypatch.setattr(device, 'DistributedDataParallel', Watched)
    monkeypatch.setattr(train, 'prepare', lambda argv: dataclasses.replace(real(argv), world_size=2))
    one = {'store': dist.HashStore(), 'rank': 0, 'world_size': 1}
    monkeypatch.setattr(device, 'init_distributed', lambda *args: dist.init_process_group('gloo', **one))
    monkeypatch.setattr(dist, 'all_gather_object', lambda found, mine: found.sort(key=str))
    monkeypatch.setattr(train, 'leave_distributed', lambda world_size: dist.destroy_process_group())
    run(monkeypatch, tiny, tmp_path, *QUIET)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'dry run: takes two steps at full depth ...' and lines[1].startswith('dry run: ')
    assert found == [0] * 7  # the dry run's, and one for each phase

def test_the_exchange_of_a_step_is_exact_and_says_loss_norm_and_signals(tiny):
    job = train.prepare(tiny)
    loss, norm, stopping = train.mean_over_ranks(job, torch.tensor(8.0), torch.tensor(3.3), [15])
    assert (loss, stopping) == (8.0 / job.grad_accum_steps, 1.0) and norm == float(torch.tensor(3.3))
