"""The training loop on one process. Run: python -m pytest tests/story/test_train.py"""

import ctypes
import json
import math
import os
import platform
import re
import shutil
import signal
import sys
import types

import numpy as np
import pytest
import torch
from long_memory import growth_per_step
from processes import run_python, start_python
from same_run import assert_same_run, metrics

import config as configuration
import schedule
import train
from config import TrainConfig
from core import common, data
from core.common import UserError
from run import checkpoint, log, start

def run(monkeypatch, tiny, out_dir, *flags):
    """train.py in this process; as torch's global state matters to no run, runs may follow each other."""
    monkeypatch.setattr(sys, 'argv', ['train.py', *tiny, f'--out_dir={out_dir}', *flags])
    torch.manual_seed(len(flags) + 99)
    train.main()

@pytest.fixture(scope='module')
def straight(tiny, tmp_path_factory):
    """The folder of a run from beginning to end, which the tests only read."""
    folder = tmp_path_factory.mktemp('straight') / 'run'
    with pytest.MonkeyPatch.context() as patch:
        run(patch, tiny, folder)
    return folder

@pytest.fixture
def finished(straight, tmp_path):
    """Such a run of a test's own: tmp_path/a."""
    return shutil.copytree(straight, tmp_path / 'a')

def folder_of(tiny) -> str:
    return next(flag for flag in tiny if flag.startswith('--data_dir=')).partition('=')[2]

def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.iterdir()}

def test_a_run_grows_through_its_phases_and_records_them(tiny, straight):
    lines = metrics(straight, timing=True)
    phases = [(m['step'], m['stage'], m['phase'], m['depth'], m['n_frozen']) for m in lines
              if m['kind'] == 'phase']
    assert phases == [(0, 1, 'phase2', 2, 0), (6, 2, 'phase1', 3, 2), (9, 2, 'phase2', 3, 0),
                      (12, 3, 'phase1', 4, 3), (15, 3, 'phase2', 4, 0), (18, 3, 'continual', 4, 0)]
    train_lines = [m for m in lines if m['kind'] == 'train']
    assert [m['step'] for m in train_lines] == list(range(1, 25))
    evals = [m for m in lines if m['kind'] == 'eval']
    assert [m['step'] for m in evals] == [4, 8, 12, 16, 20, 24]  # an untrained model isn't evaluated
    assert [m['step'] for m in evals if 'hellaswag_acc' in m] == [8, 16, 24]
    assert evals[-1]['val_loss'] < evals[0]['val_loss'] - 1 and evals[-1]['hellaswag_n'] == 12
    config = configuration.load_config([*tiny, f'--out_dir={straight}'], '')
    for m in lines:
        assert {'flops_paper', 'seconds', 'stage', 'phase', 'depth', 'eval_seconds',
                'checkpoint_seconds'} <= m.keys()
        assert (m['tokens'], m['flops']) == (256 * m['step'], schedule.plan(config).flops(m['step']))
    assert {'loss', 'lr', 'grad_norm', 'tok_per_sec'} <= train_lines[0].keys()
    stages = sorted(straight.glob('stage_*'))
    assert [path.name for path in stages] == ['stage_01.pt', 'stage_02.pt', 'stage_03.pt']
    assert [checkpoint.load_model(str(path))[0].depth for path in stages] == [2, 3, 4]
    assert configuration.load_run_config(str(straight)) == config

@pytest.mark.parametrize('flags', [
    ('--phase1_embeddings=frozen', '--shuffle=True', '--dropout=0.2'),
    ('--optimizer=muon', '--lr_schedule=wsd', '--decay_fraction=0.3', '--grow_init=middle',
     '--grow_optimizer=copy'),
    ('--grow_init=interleave', '--grow_optimizer=copy', '--grad_clip=0.5', '--lr_schedule=cosine',
     '--rewarm_steps=3'),
    ('--grow_init=stack', '--grow_optimizer=reset', '--phase1_fraction=0'),
    ('--grow_init=zero', '--phase1_embeddings=train'), ('--rewarm=new', '--rewarm_steps=5'),
])
def test_stopping_anywhere_and_resuming_is_the_same_run(monkeypatch, tiny, tmp_path, flags):
    straight, resumed = tmp_path / 'straight', tmp_path / 'resumed'
    run(monkeypatch, tiny, straight, *flags)
    shutil.copytree(straight, resumed)
    # growth, and the middle of a phase; lose all after `step`
    # At 9 the new layer warms up still; others are stopped elsewhere, too.
    for step in (12, 9, 3) if '--rewarm=new' in flags else (15, 12, 3):
        for path in resumed.glob('ckpt_*.pt'):
            if int(path.stem[5:]) > step:
                path.unlink()
        run(monkeypatch, tiny, resumed, *flags, '--resume')
        assert_same_run(straight, resumed)

def stop_after(monkeypatch, n_steps):
    """Send this process SIGTERM while the n-th update is under way."""
    counted = []

    def row(*args):
        counted.append(1)
        if len(counted) == n_steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    real = schedule.Plan.row
    monkeypatch.setattr(schedule.Plan, 'row', row)

@pytest.mark.parametrize('split', [1, 6, 7, 23])
def test_sigterm_finishes_the_step_saves_and_the_run_goes_on(monkeypatch, tiny, straight, tmp_path, split):
    stopped = tmp_path / 'stopped'
    with monkeypatch.context() as patch:
        stop_after(patch, split)
        run(patch, tiny, stopped)
    assert checkpoint.latest(str(stopped))[1]['step'] == split
    run(monkeypatch, tiny, stopped, '--resume=auto')
    assert_same_run(straight, stopped)

def test_every_parameter_that_should_train_changes_in_each_phase_and_no_other(straight):
    states = {}
    for step in (3, 6, 9, 12, 15, 18, 24):
        states[step] = checkpoint.read_checkpoint(str(straight / f'ckpt_{step:06d}.pt'))['model']
    for a, b, frozen in ((3, 6, ()), (6, 9, (0, 1)), (9, 12, ()), (12, 15, (0, 1, 2)), (15, 18, ()),
                         (18, 24, ())):
        for name, tensor in states[a].items():
            fixed = any(f'.h.{i}.' in name for i in frozen) or (frozen and 'wpe' in name)
            assert torch.equal(tensor, states[b][name]) == bool(fixed), (name, a, b)

def test_a_wrong_set_of_gradients_stops_the_phases_first_step(monkeypatch, tiny, tmp_path):
    real = train.GPT.freeze

    def forget_one(self, blocks, embeddings):
        real(self, blocks, embeddings)
        weight = self.transformer.h[0].attn.c_attn.weight
        weight.register_post_accumulate_grad_hook(lambda p: setattr(p, 'grad', None))

    monkeypatch.setattr(train.GPT, 'freeze', forget_one)
    with pytest.raises(AssertionError, match=r'transformer.h.0.attn.c_attn.weight should train'):
        run(monkeypatch, tiny, tmp_path / 'a')

@pytest.mark.parametrize('where', ['an evaluation', 'a growth'])
def test_an_evaluation_that_is_not_finite_ends_the_run_as_diverged(monkeypatch, tiny, tmp_path, capsys,
                                                                   where):
    def poisoned(job, model, split, n_sequences):
        depths.append(model.depth)
        bad = len(depths) == 2 if where == 'an evaluation' else depths[1:].count(3) == 1
        return math.nan if bad else real(job, model, split, n_sequences)

    depths, real = [], train.estimate_loss  # the first one is the dry run's
    monkeypatch.setattr(train, 'estimate_loss', poisoned)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, tiny, tmp_path / 'a')
    step = {'an evaluation': 4, 'a growth': 6}[where]
    info = json.loads((tmp_path / 'a' / 'run.json').read_text())
    assert (stop.value.code, info['ended'], info['ended_step']) == (1, 'diverged', step)
    assert f'step {step}: val_loss nan: stopped before the update' in capsys.readouterr().err
    assert max(m['step'] for m in metrics(tmp_path / 'a')) == step

def test_further_validation_sets_are_measured_at_each_evaluation_and_growth(monkeypatch, tiny, tmp_path):
    folder = folder_of(tiny)
    other = tmp_path / 'other'
    shutil.copytree(folder, other)
    tokens = np.frombuffer(b'zebras quiz few jocks ' * 40, np.uint8).astype(np.uint16)
    data.write_shard(str(other / 'tiny_val_000000.bin'), tokens)
    run(monkeypatch, tiny, tmp_path / 'a', f'--val_dirs=same:{folder},other:{other}', '--grow_init=stack')
    losses = [m for m in metrics(tmp_path / 'a') if 'val_loss' in m or 'val_loss_after' in m]
    for m in losses:
        for end in ('', '_before', '_after'):
            if f'val_loss{end}' in m:
                assert m[f'val_loss_same{end}'] == m[f'val_loss{end}'] != m[f'val_loss_other{end}']
    assert len(losses) == 8

def test_the_last_step_is_evaluated_and_scored_whatever_the_intervals(monkeypatch, tiny, tmp_path, capsys):
    run(monkeypatch, tiny, tmp_path / 'a', '--eval_interval=7', '--hellaswag_interval=5', '--log_interval=7')
    assert [m['step'] for m in metrics(tmp_path / 'a') if m['kind'] == 'train'] == [7, 14, 21, 24]
    last = metrics(tmp_path / 'a')[-1]
    assert last['step'] == 24 and {'val_loss', 'hellaswag_acc', 'hellaswag_data'} <= last.keys()
    assert 'the last evaluation ...' in capsys.readouterr().out
    assert json.loads((tmp_path / 'a' / 'run.json').read_text())['ended'] == 'done'
    totals = checkpoint.latest(str(tmp_path / 'a'))[1]['totals']
    assert (totals['train_tokens'], totals['val_tokens']) == (4000, 1640)

def test_a_run_takes_another_length_as_long_as_its_steps_so_far_are_the_same(monkeypatch, tiny, tmp_path):
    wsd = ['--lr_schedule=wsd', '--decay_fraction=0.25']
    run(monkeypatch, tiny, tmp_path / 'long', *wsd, '--continual_steps=10')
    run(monkeypatch, tiny, tmp_path / 'short', *wsd)
    later = [path for path in (tmp_path / 'short').glob('ckpt_*.pt') if int(path.stem[5:]) > 15]
    with pytest.raises(UserError, match='continual_steps: was 6, now 10'):  # its decay has begun
        run(monkeypatch, tiny, tmp_path / 'short', *wsd, '--continual_steps=10', '--resume')
    for path in later:
        path.unlink()
    run(monkeypatch, tiny, tmp_path / 'short', *wsd, '--continual_steps=10', '--resume')
    assert_same_run(tmp_path / 'long', tmp_path / 'short')
    shares = ['--stage_fractions=0.25,0.25,0.25', '--growth_steps=0', '--continual_steps=24']
    run(monkeypatch, tiny, tmp_path / 'shares', *shares)
    with pytest.raises(UserError, match='continual_steps: was 24, now 36'):  # growths would move
        run(monkeypatch, tiny, tmp_path / 'shares', *shares[:2], '--continual_steps=36', '--resume')

def test_the_dtype_that_is_asked_for_is_the_one(tiny):
    for dtype, expected in (('bfloat16', torch.bfloat16), ('float32', torch.float32)):
        with train.prepare([*tiny, f'--dtype={dtype}']).amp:
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected

def test_a_run_is_never_overwritten_and_a_finished_one_says_so(monkeypatch, tiny, finished, capsys):
    before = contents(finished)
    with pytest.raises(UserError, match=r'already holds a run: go on with --resume'):
        run(monkeypatch, tiny, finished)
    run(monkeypatch, tiny, finished, '--resume=auto')
    assert 'finished, 24 steps' in capsys.readouterr().out
    assert before == contents(finished)

def test_a_longer_run_may_change_what_its_length_is_counted_by(monkeypatch, tiny, tmp_path, capsys):
    run(monkeypatch, tiny, tmp_path / 'a', '--continual_steps=3')
    capsys.readouterr()
    run(monkeypatch, tiny, tmp_path / 'a', '--resume', '--batch_size=4', '--val_tokens=320',
        '--continual_steps=9', '--baseline_steps=5', '--ledger=paper')
    assert ', 27 steps of ' in capsys.readouterr().out
    assert {r['val_tokens'] for r in metrics(tmp_path / 'a') if 'val_loss' in r} == {320, 640}
    with pytest.raises(UserError, match='continual_steps: was 9, now 12'):
        run(monkeypatch, tiny, tmp_path / 'a', '--resume', '--lr_schedule=cosine', '--continual_steps=12')

# every setting that isn't free, and a value that no run may change to (beside what it needs to be valid)
REFUSED = {
    'seed': 7, 'shuffle': True, 'n_layer': 5, 'n_head': 4, 'n_embd': 32, 'block_size': 16,
    'vocab_size': 384, 'dropout': 0.1, 'init_from': '{run} --init_depth=1',
    'init_depth': '1 --init_from={run}', 'n_stages': '2 --growth_steps=20',
    'stage_depths': (1, 2, 4), 'growth_steps': 21,
    'stage_steps': (6, 7, 5), 'stage_fractions': (0.2, 0.2, 0.2), 'phase1_fraction': 0.25,
    'phase1_embeddings': 'train', 'continual_steps': 9, 'match': '{long}', 'grow_init': 'stack',
    'grow_map': '[[0,1,0],[0,1,2,0]]', 'grow_optimizer': 'reset', 'rewarm': 'new', 'lr_depth_power': 0.25,
    'stage_lr_scale': 0.5, 'total_batch_size': 512, 'optimizer': 'muon', 'learning_rate': 0.02,
    'min_lr': 0.001, 'lr_schedule': 'wsd', 'warmup_steps': 2, 'rewarm_steps': 2, 'decay_fraction': 0.2,
    'weight_decay': 0.2, 'beta1': 0.8, 'beta2': 0.99, 'muon_learning_rate': 0.1, 'grad_clip': 1.0,
    'arch': 'llama', 'n_kv_head': '1 --arch=llama', 'head_dim': '4 --arch=llama', 'n_ff': '64 --arch=llama',
    'rope_theta': '500.0 --arch=llama', 'norm_eps': '1e-6 --arch=llama',
    'tie_embeddings': 'False --arch=llama'}
LENGTH = {'baseline_steps', 'ledger'}  # may change where the steps so far stay the same
# Free ones, in groups that one run changes together; the first doesn't touch records or bits.
ACCEPTED = {
    'where and when': {'out_dir': '{copy}', 'run_name': 'another', 'data_dir': '{data}', 'resume': 'auto',
                       'checkpoint_interval': 1, 'checkpoint_steps': (5, 7), 'keep_checkpoints': 1,
                       'branch_from': '{run}', 'device': 'cpu:0', 'compile': True},
    'what is said': {'eval_interval': 3, 'val_tokens': 320, 'val_dirs': 'old:{data}', 'hellaswag_interval': 7,
                     'hellaswag_data': '{data}/hellaswag.jsonl', 'hellaswag_limit': 5, 'log_interval': 2,
                     'eval_after_growth': '1,2'},
    'the tracker': {'tracker': 'wandb', 'tracker_project': 'mine'},
    'bits': {'batch_size': 4, 'dtype': 'bfloat16'}}

@pytest.fixture(scope='module')
def cosine(tiny, tmp_path_factory):
    """A finished run, the same one without its last checkpoint, a longer one's config, and a copy of the
    data."""
    folder = tmp_path_factory.mktemp('cosine')
    with pytest.MonkeyPatch.context() as patch:
        run(patch, tiny, folder / 'run', '--lr_schedule=cosine')
    shutil.copytree(folder / 'run', folder / 'copy')
    (folder / 'copy' / 'ckpt_000024.pt').unlink()
    shutil.copytree(folder_of(tiny), folder / 'data')
    (folder / 'long').mkdir()
    config = json.loads((folder / 'run' / 'config.json').read_text())
    (folder / 'long' / 'config.json').write_text(json.dumps(config | {'continual_steps': 60}))
    return folder

def filled(value, folder) -> list[str]:
    places = {name: folder / name for name in ('run', 'copy', 'long', 'data')}
    return str(value).format(**places).replace('(', '').replace(')', '').replace(', ', ',').split()

def test_every_setting_is_in_one_of_the_tables():
    free = {name for name, field in configuration.FIELDS.items() if field.metadata['free']}
    assert free == {name for group in ACCEPTED.values() for name in group}
    assert configuration.FIELDS.keys() - free == REFUSED.keys() | LENGTH

@pytest.mark.parametrize('name', REFUSED)
def test_a_setting_that_changes_the_trajectory_is_refused_with_both_values(monkeypatch, tiny, cosine, name):
    value, *more = filled(REFUSED[name], cosine)
    before = contents(cosine / 'copy')
    with pytest.raises(UserError) as error:
        run(monkeypatch, tiny, cosine / 'copy', '--lr_schedule=cosine', '--resume', f'--{name}={value}',
            *more)
    old = configuration.load_config([*tiny, '--lr_schedule=cosine'], '')
    new = configuration.load_config([*tiny, '--lr_schedule=cosine', f'--{name}={value}', *more], '')
    shown = 'continual_steps' if name == 'match' else name  # a match is the steps that it means
    new = schedule.resolve(new)
    assert f'\n  {shown}: was {getattr(old, shown)!r}, now {getattr(new, shown)!r}' in str(error.value)
    assert before == contents(cosine / 'copy')

@pytest.mark.parametrize('group', ACCEPTED)
def test_settings_that_do_not_are_accepted(monkeypatch, tiny, cosine, tmp_path, group):
    wandb, logged, compiled = types.ModuleType('wandb'), [], []
    wandb.init = lambda **settings: logged.append(settings) or wandb
    wandb.define_metric = lambda *names, **axes: None
    wandb.log = lambda values, step: logged.append((step, values))
    wandb.finish = lambda: logged.append('finish')
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    monkeypatch.setattr(train, 'compile_blocks', compiled.append)
    monkeypatch.setattr(start, 'compile_graphs', lambda *arguments: None)
    copy = shutil.copytree(cosine / 'copy', tmp_path / 'copy')
    flags = []
    for name, value in ACCEPTED[group].items():
        folder = tmp_path if name == 'out_dir' else cosine
        flags.append(f'--{name}={filled(value, folder)[0]}')
    run(monkeypatch, tiny, copy, '--lr_schedule=cosine', '--resume', *flags)
    assert metrics(copy)[-1]['step'] == 24
    assert bool(compiled) == (group == 'where and when') and bool(logged) == (group == 'the tracker')
    if logged:
        run_id = json.loads((copy / 'run.json').read_text())['run_id']
        assert logged[0]['id'] == run_id and logged[0]['resume'] == 'allow' and logged[-1] == 'finish'
        assert [step for step, values in logged[1:-1] if 'train/loss' in values] == [*range(1, 25)]
    if group in ('where and when', 'the tracker'):
        assert_same_run(cosine / 'run', copy)
    elif group == 'what is said':
        assert_same_weights(cosine / 'run', copy)

def assert_same_weights(a, b):
    one, other = (checkpoint.latest(str(d))[1]['model'] for d in (a, b))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

def test_a_full_disk_at_a_save_keeps_the_checkpoint_before_it(monkeypatch, tiny, straight, tmp_path):
    full = tmp_path / 'full'
    real = schedule.Plan.row

    def row(plan, step):
        if step == 14:
            (full / 'ckpt_000015.pt.tmp').symlink_to('/dev/full')
        return real(plan, step)

    message = r'ckpt_000015.pt could not be saved .*No space left'
    with monkeypatch.context() as patch, pytest.raises(UserError, match=message):
        patch.setattr(schedule.Plan, 'row', row)
        run(patch, tiny, full)
    assert checkpoint.latest(str(full))[1]['step'] == 12 and not list(full.glob('*.tmp'))
    (full / 'ckpt_000099.pt.tmp').write_bytes(b'left over from a kill')
    run(monkeypatch, tiny, full, '--resume')
    assert_same_run(straight, full)
    assert not list(full.glob('*.tmp'))

def test_a_full_disk_under_the_log_is_one_message(monkeypatch, tiny, straight, tmp_path):
    """A file-size limit stands in for the full disk: half a line fits."""
    full = tmp_path / 'full'
    code = ('from core import common; import os, resource, schedule, train\nreal = schedule.Plan.row\n'
            'def row(plan, step):\n'
            '    if step == 10:\n'
            "        size = os.path.getsize(plan.config.out_dir + '/metrics.jsonl') + 100\n"
            '        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n'
            '    return real(plan, step)\n'
            'schedule.Plan.row = row\ncommon.run_main(train.main)')
    done = run_python('-c', code, *tiny, f'--out_dir={full}')
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f'error: {full}/metrics.jsonl could not be written (File too large); the '
                                  'last checkpoint is')
    assert done.stderr.count('\n') == 1 and not (full / 'metrics.jsonl').read_text().endswith('\n')
    assert checkpoint.latest(str(full))[1]['step'] == 9
    run(monkeypatch, tiny, full, '--resume')
    assert_same_run(straight, full)

@pytest.mark.slow
def test_runs_killed_again_and_again_end_as_if_nothing_had_happened():
    """On the first step, in a save, a growth, an evaluation, by the clock, in a line of the log; 40 by hand:
    long_kill.py."""
    done = run_python('dev/long_kill.py', '6')
    assert done.returncode == 0, done.stderr
    assert re.match(r'6 kills in \d runs, all ended bit for bit .* [1-9] in a save, [1-9] in a growth, [1-9] '
                    r'in an', done.stdout)

@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallinfo2'), reason='glibc tells it since 2.33')
def test_the_memory_of_the_process_stays_flat(tmp_path):
    growth, samples = growth_per_step(300, tmp_path)
    assert len(samples) == 20 and samples[0, 1] > 1e8
    # bytes a step: about 200; with 200 bytes kept by each micro-step 440, and 10,000 steps grow by 1
    assert growth < 320

@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('more', [False, True])
def test_a_run_does_not_go_on_with_other_data(monkeypatch, tiny, finished, tmp_path, split, more):
    """Be they as many or more, in whichever folder."""
    (finished / 'ckpt_000024.pt').unlink()
    shutil.copytree(folder_of(tiny), tmp_path / 'moved')
    path = next((tmp_path / 'moved').glob(f'*_{split}_*'))
    tokens = np.fromfile(path, np.uint16, offset=1024)
    tokens[-1] ^= 1
    data.write_shard(str(path), np.concatenate([tokens, tokens[:7]]) if more else tokens)
    before = contents(finished)
    with pytest.raises(UserError, match=f'moved: {split} was .* when the checkpoint was saved'):
        run(monkeypatch, tiny, finished, f'--data_dir={tmp_path}/moved', '--resume')
    assert before == contents(finished)

@pytest.mark.parametrize('broken', ['hellaswag.batch_losses', 'train.estimate_loss'])
def test_an_evaluation_that_fails_at_full_depth_does_so_before_step_0(monkeypatch, tiny, tmp_path, broken):
    def fail_when_deep(*args):
        model = next(each for each in args if isinstance(each, train.GPT))
        if model.depth == 4:  # the first evaluation of the run itself is of 2 layers
            raise RuntimeError('too deep')
        return real(*args)

    module, _, name = broken.rpartition('.')
    real = getattr(sys.modules[module], name)
    monkeypatch.setattr(broken, fail_when_deep)
    with pytest.raises(RuntimeError, match='too deep'):
        run(monkeypatch, tiny, tmp_path / 'a')
    assert not (tmp_path / 'a').exists()

def test_a_llama_may_be_trained_on_a_shorter_context_and_not_on_a_longer_one(monkeypatch, tiny, tmp_path,
                                                                             capsys):
    short = ['--arch=llama', '--n_stages=1', '--growth_steps=2', '--continual_steps=0']
    run(monkeypatch, tiny, tmp_path / 'a', *short)
    run(monkeypatch, tiny, tmp_path / 'b', *short, f'--init_from={tmp_path}/a', '--block_size=16')
    capsys.readouterr()
    with pytest.raises(UserError, match='its block_size is 32, the config says 64'):
        run(monkeypatch, tiny, tmp_path / 'c', *short, f'--init_from={tmp_path}/a', '--block_size=64')
    assert 'dry run' not in capsys.readouterr().out  # which takes minutes where it compiles

def test_val_loss_does_not_depend_on_the_batch_size(monkeypatch, tiny, tmp_path):
    losses = []
    for n in (1, 8):
        run(monkeypatch, tiny, tmp_path / str(n), f'--batch_size={n}', '--hellaswag_interval=0')
        losses.append([m['val_loss'] for m in metrics(tmp_path / str(n)) if m['kind'] == 'eval'])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)

# ------------------------------------------------------------------------------------------------------------
# one process in a run directory; who runs, and what a run says

def test_a_second_start_in_the_same_out_dir_is_refused_by_name(monkeypatch, capsys, tiny, tmp_path):
    """The first one is killed, as hard as it goes, and its lock is no obstacle."""
    flags = [*tiny, f'--out_dir={tmp_path}/a', '--continual_steps=14000', '--eval_interval=0',
             '--hellaswag_interval=0']
    first = start_python('train.py', *flags)
    try:
        for line in first.stdout:
            if line.startswith('step 00024'):
                break
        before = (tmp_path / 'a' / 'config.json').read_bytes()
        first.send_signal(signal.SIGSTOP)  # it holds its lock, and leaves the cores to the others
        message = f'{tmp_path}/a is in use by process {first.pid} on {platform.node()}'
        for more in ([], ['--resume'], ['--resume=auto', '--log_interval=7']):
            monkeypatch.setattr(sys, 'argv', ['train.py', *flags, *more])
            with pytest.raises(SystemExit) as stop:
                common.run_main(train.main)
            said = capsys.readouterr().err
            assert stop.value.code == 2 and message in said and said.count('\n') == 1, said
        assert (tmp_path / 'a' / 'config.json').read_bytes() == before
    finally:
        first.send_signal(signal.SIGKILL)
        first.finish()
    step = checkpoint.latest(str(tmp_path / 'a'))[1]['step']
    run(monkeypatch, tiny, tmp_path / 'a', f'--continual_steps={step - 15}', '--resume')
    assert metrics(tmp_path / 'a')[-1]['step'] == step + 3

def test_a_start_that_is_refused_leaves_no_folder(monkeypatch, tiny, tmp_path):
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'notes.txt').write_text('mine')
    for name in ('a', 'b'):
        with pytest.raises(OSError, match=r'nowhere\.jsonl'):
            run(monkeypatch, tiny, tmp_path / name, '--hellaswag_data=nowhere.jsonl')
    assert not (tmp_path / 'a').exists() and (tmp_path / 'b' / 'notes.txt').read_text() == 'mine'

def test_run_json_tells_data_code_machine_and_each_start(monkeypatch, tiny, tmp_path):
    run(monkeypatch, tiny, tmp_path / 'a', '--continual_steps=3')
    run(monkeypatch, tiny, tmp_path / 'a', '--continual_steps=5', '--resume')
    run(monkeypatch, tiny, tmp_path / 'a', '--continual_steps=6', '--resume')
    info = json.loads((tmp_path / 'a' / 'run.json').read_text())
    assert [start['step'] for start in info['starts']] == [0, 21, 23]
    assert '--continual_steps=6' in info['command'] and '--continual_steps=3' in info['starts'][0]['command']
    assert info['data']['train']['tokens'] == 4000 and len(info['data']['val']['sha256']) == 64
    assert info['hellaswag_data']['n'] == 12 and len(info['hellaswag_data']['sha256']) == 64
    assert info['world_size'] == 1 and info['device'] and info['host'] == platform.node()
    assert info['cpu_capability'] == torch.backends.cpu.get_cpu_capability()
    assert torch.__version__.startswith(info['versions']['torch'])  # which may say +cu130
    assert re.fullmatch('[0-9a-f]{8}', info['run_id'])
    assert info['init_from'] is None and info['branch_from'] is None

def test_growth_is_evaluated_before_and_after_on_the_same_tokens(monkeypatch, tiny, tmp_path, capsys):
    """With layers that start as zero nothing changes; eval_after_growth adds evaluations behind each
    growth."""
    run(monkeypatch, tiny, tmp_path / 'a', '--grow_init=zero', '--eval_interval=6', '--eval_after_growth=1,4')
    records = metrics(tmp_path / 'a')
    grown = [r for r in records if 'val_loss_after' in r]
    at = {r['step']: r['val_loss'] for r in records if 'val_loss' in r}
    assert [r['step'] for r in grown] == [6, 12] and all(r['kind'] == 'phase' for r in grown)
    for r in grown:
        assert r['val_loss_before'] == at[r['step']] == r['val_loss_after']
    assert sorted(at) == [6, 7, 10, 12, 13, 16, 18, 24]
    # An evaluation belongs to the phase of the step before it.
    stages = {r['step']: (r['stage'], r['phase']) for r in records if 'val_loss' in r}
    assert stages[6] == (1, 'phase2') and stages[7] == (2, 'phase1') and stages[24] == (3, 'continual')
    out = capsys.readouterr().out
    assert f'growth | depth 2 -> 3: 0 1 +new | val_loss {at[6]:.4f} -> {at[6]:.4f}' in out
    # an operator that does change the function: both losses are what the checkpoint and its grown model have
    run(monkeypatch, tiny, tmp_path / 'b', '--grow_init=stack', '--eval_interval=5')
    first = next(r for r in metrics(tmp_path / 'b') if 'val_loss_after' in r)
    assert first['val_loss_before'] != first['val_loss_after']
    state = checkpoint.read_checkpoint(str(tmp_path / 'b' / 'ckpt_000006.pt'))
    model = checkpoint.build_model(state, 'here')
    job = train.prepare([*tiny, f'--out_dir={tmp_path}/c'])
    val, _ = job.val_sets['val_loss']
    assert train.estimate_loss(job, model, val, 20) == pytest.approx(first['val_loss_before'], rel=1e-6)
    model.grow(((0, False), (1, False), (0, True)))
    assert train.estimate_loss(job, model, val, 20) == pytest.approx(first['val_loss_after'], rel=1e-6)

def test_the_summary_says_what_each_stage_took(monkeypatch, tiny, tmp_path, capsys):
    run(monkeypatch, tiny, tmp_path / 'a', '--grow_init=stack')  # with random layers the loss hardly moves
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-6:]]
    del rows[1]  # the line under the header
    assert rows[0][:3] == ['stage', 'depth', 'steps']
    records = metrics(tmp_path / 'a')
    flops = {r['step']: r['flops'] for r in records}
    assert [row[:3] for row in rows[1:]] == [['1', '2', '6'], ['2', '3', '6'], ['3', '4', '6'],
                                             ['continual', '4', '6']]
    for row, first, last in zip(rows[1:], (0, 6, 12, 18), (6, 12, 18, 24)):
        assert row[3] == '1.54e+03' and float(row[5]) == pytest.approx(flops[last] - flops[first], rel=0.01)
    assert rows[4][7] == f'{records[-1]["val_loss"]:.4f}'
    grown = next(r for r in records if 'val_loss_after' in r)
    assert rows[1][7] == f'{grown["val_loss_before"]:.4f}' and rows[2][6] == f'{grown["val_loss_after"]:.4f}'
    assert rows[1][7] != rows[2][6]

@pytest.mark.parametrize('again', [False, True])
def test_ctrl_c_saves_and_ends_as_the_signal_does_and_a_second_one_ends_at_once(tiny, tmp_path, again):
    code = ('import os, signal, schedule, train\nfrom core import common\nreal = schedule.Plan.row\n'
            'def row(plan, step):\n'
            '    if step == 10:\n'
            '        os.kill(os.getpid(), signal.SIGINT)\n'
            f'        {again} and os.kill(os.getpid(), signal.SIGINT)\n'
            '    return real(plan, step)\n'
            'schedule.Plan.row = row\ncommon.run_main(train.main)')
    done = run_python('-c', code, *tiny, f'--out_dir={tmp_path}/a')
    assert done.returncode == -signal.SIGINT and 'Traceback' not in done.stderr, done.stderr
    # The second one doesn't wait for the thread, which may be writing step 9 still.
    assert checkpoint.latest(str(tmp_path / 'a'))[1]['step'] in ((6, 9) if again else (11,))
    assert ('saved at step 11' in done.stdout) == (not again)

def test_ctrl_c_before_step_0_ends_without_a_traceback(tiny, tmp_path):
    code = ('import os, signal, train\nfrom core import common\n'
            'train.dry_run = lambda *arguments: os.kill(os.getpid(), '
            'signal.SIGINT)\ncommon.run_main(train.main)')
    done = run_python('-c', code, *tiny, f'--out_dir={tmp_path}/a')
    assert done.returncode == -signal.SIGINT and done.stderr == ''
    assert not (tmp_path / 'a').exists()

def test_dropout_takes_any_seed_and_its_masks_depend_on_all_of_it():
    masks = []
    for seed in (1, 180_000_001, 2**31, 2**32 - 1):  # from 1.8e8 on the product has more than 64 bits
        for step, micro_batch in ((0, 0), (1, 0), (0, 1)):
            job = types.SimpleNamespace(config=TrainConfig(seed=seed, dropout=0.1))
            train.seed_dropout(job, step, micro_batch)
            masks.append(torch.rand(8).tolist())
    assert len({tuple(mask) for mask in masks}) == len(masks)

def test_the_summary_tells_minutes(tmp_path):
    records = []
    for kind, step, seconds in (('phase', 0, 0.0), ('train', 9, 90.0), ('eval', 9, 90.0)):
        records.append({'kind': kind, 'step': step, 'tokens': step, 'flops': step, 'flops_paper': step,
                        'seconds': seconds, 'stage': 1, 'phase': 'phase2', 'depth': 2})
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records))
    assert log.summary(str(tmp_path / 'metrics.jsonl')).splitlines()[2].split()[4] == '1.5'
