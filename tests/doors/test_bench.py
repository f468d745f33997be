"""bench.py, run for real on a tiny plan. Its figures of speed are not judged here. Run: python -m pytest
tests/doors/test_bench.py"""

import json
import os
import sys

import pytest
import torch

import bench
import model
import schedule
from config import load_config
from core.common import UserError

TINY = ['configs/incremental_4stage.py', '--n_layer=4', '--n_head=2', '--n_embd=32', '--block_size=64',
        '--vocab_size=320', '--batch_size=2', '--total_batch_size=512', '--device=cpu', '--repeats=1']

def run_here(monkeypatch, capsys, *flags):
    """bench.py in this process, measurements too; returns what it prints."""
    monkeypatch.setattr(bench, 'in_own_process', bench.call)
    monkeypatch.setattr(bench, 'keep_freed_memory', lambda: None)
    monkeypatch.setattr(sys, 'argv', ['bench.py', *TINY, *flags])
    bench.main()
    return capsys.readouterr().out

def tiny_config(*flags):
    return schedule.resolve(load_config([*TINY[:-1], *flags], ''))

def measured(forward, backward, optimizer, memory=1):
    return bench.Measured(forward, backward, optimizer, memory)

# ------------------------------------------------------------------------------------------------------------
# rows and their predictions

def test_rows_of_a_plan_as_data(monkeypatch, capsys):
    found = json.loads(run_here(monkeypatch, capsys, '--json', '--phases=0,1'))
    assert [(r['row'], r['depth'], r['n_frozen']) for r in found['phases']] == [
        ('full', 4, 0), (0, 1, 0), (1, 2, 1)]
    full = found['phases'][0]
    assert full['measured'] == full['predicted'] == 1 and 'plan' not in found
    for row in found['phases']:
        assert row['memory'] > 1e7
        # 512 tokens are four micro-steps of 2 x 64.
        step = 4 * (row['forward'] + row['backward']) + row['optimizer']
        assert row['tok_per_sec'] == pytest.approx(512 / step)
    assert full['mfu'] is None  # no CPU's peak is known

@pytest.mark.parametrize('wanted, names', [
    ('', ['full', '0', '1', '2', '3', '4', '5']), ('none', ['full']), ('4,5', ['full', '4', '5']),
    ('5,0', ['full', '5', '0']),
])
def test_a_row_keeps_its_name_when_others_are_left_out(wanted, names):
    config = tiny_config()
    phases = schedule.plan(config).phases
    everything = bench.choose_rows(config, phases, '')
    rows = bench.choose_rows(config, phases, wanted)
    assert list(rows) == names
    assert all(rows[name] == everything[name] for name in names)

@pytest.mark.parametrize('wanted', ['-1', '6', '0,-1', 'x', '0;3', '1.5', ' '])
def test_a_row_that_is_not_there_is_refused(wanted):
    config = tiny_config()
    with pytest.raises(UserError, match=r'--phases=.*: there are none, 0, 1, 2, 3, 4, 5$'):
        bench.choose_rows(config, schedule.plan(config).phases, wanted)

def test_what_is_predicted_is_the_ledgers_ratio_of_steps(monkeypatch):
    config = tiny_config('--phase1_embeddings=frozen')
    phases = schedule.plan(config).phases
    rows = bench.choose_rows(config, phases, '')
    monkeypatch.setattr(bench, 'peak_flops', lambda device, dtype: 1e12)
    times = [(name, measured(0.25, 0.75, 0.5)) for name in rows]
    found = bench.summarize(schedule.plan(config), rows, times, torch.device('cpu'))
    full = schedule.step_cost(config, 'flops')
    for row, phase in zip(found['phases'], rows.values()):
        of_step = schedule.step_flops(config, phase, 'flops')
        assert row['predicted'] == pytest.approx(of_step / full)
        assert row['mfu'] == pytest.approx(of_step / 4 / 1e12)  # a quarter of the tokens in a second
    predicted = schedule.plan(config).flops() / full / phases[-1].stop
    assert found['plan']['cost']['predicted'] == pytest.approx(predicted)
    assert found['plan']['cost']['measured'] == pytest.approx(1)  # all took the same time
    assert found['plan']['hours']['measured'] == pytest.approx(phases[-1].stop * 4.5 / 3600)

def test_a_machine_that_slows_down_favours_no_row(monkeypatch, capsys):
    """Measured on a clock by which all takes 2% longer each time, costs relative to full depth are still
    right."""
    done = []

    def slowing(function, config, *args):
        phase = args[0]
        done.append(phase.depth)
        seconds = (phase.depth - phase.n_frozen / 2) * 1.02 ** len(done)
        return measured(seconds, 2 * seconds, 0.0)

    monkeypatch.setattr(bench, 'in_own_process', slowing)
    monkeypatch.setattr(sys, 'argv', ['bench.py', 'configs/incremental_8stage.py', '--device=cpu', '--json'])
    bench.main()
    for row in json.loads(capsys.readouterr().out)['phases']:
        assert row['measured'] == pytest.approx((row['depth'] - row['n_frozen'] / 2) / 12, rel=0.03)
    assert 1.02 ** len(done) > 2.5  # the last full depth against the first

# ------------------------------------------------------------------------------------------------------------
# what a measurement does

def test_a_measurement_freezes_as_the_phase_does_in_its_dtype_and_leaves_the_warm_up_out(monkeypatch):
    config = tiny_config('--dtype=bfloat16')
    phase = bench.choose_rows(config, schedule.plan(config).phases, '')['1']
    frozen, dtypes, settings = [], set(), []
    real_freeze, real_hidden = model.GPT.freeze, model.GPT.hidden

    def freeze(gpt, blocks, embeddings):
        frozen.append((blocks, embeddings))
        real_freeze(gpt, blocks, embeddings)

    def hidden(gpt, *args):
        dtypes.add(torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else torch.float32)
        return real_hidden(gpt, *args)

    monkeypatch.setattr(model.GPT, 'freeze', freeze)
    monkeypatch.setattr(model.GPT, 'hidden', hidden)
    monkeypatch.setattr(bench, 'keep_freed_memory', lambda: settings.append(1))
    warm_up = [100.0 * i for i in range(12)]
    step = [0.0, 1.0, 0.0, 1.0, 3.0, 7.0]
    clock = iter([*warm_up, *step, *step])
    monkeypatch.setattr(bench, 'now', lambda device: next(clock))
    found = bench.measure(config, phase)
    assert frozen[-1:] == [(phase.frozen, phase.embeddings)] and phase.frozen
    assert dtypes == {torch.bfloat16} and settings == [1]
    assert (found.forward, found.backward, found.optimizer) == (1, 2, 4) and found.memory > 1e7

# ------------------------------------------------------------------------------------------------------------
# the command

def test_a_measurement_has_a_process_of_its_own():
    assert bench.in_own_process(pid_of, tiny_config()) != os.getpid()

def pid_of(config):
    return os.getpid()

def test_the_whole_plan_as_text(monkeypatch, capsys):
    lines = run_here(monkeypatch, capsys, '--n_stages=2', '--n_layer=2').splitlines()
    assert len(lines) == 3 + 3 + 1  # full depth, depth 1, depth 2 with a frozen layer
    assert lines[-1].startswith('the whole plan, ')

def test_out_of_memory_is_one_line(monkeypatch, capsys):
    with pytest.raises(UserError, match=f'^out of memory: lower --batch_size, now {2**40}$'):
        run_here(monkeypatch, capsys, f'--batch_size={2**40}', f'--total_batch_size={2**46}', '--phases=none')

def test_a_compiler_that_fails_is_one_line():
    from torch._inductor.exc import InvalidCxxCompiler

    def fail(config):
        raise InvalidCxxCompiler

    with pytest.raises(UserError, match=r'torch.compile does not work here \(.*\): say --compile=False'):
        bench.call(fail, tiny_config())
    with pytest.raises(RuntimeError, match='something else'):
        bench.call(lambda config: (_ for _ in ()).throw(RuntimeError('something else')), tiny_config())
