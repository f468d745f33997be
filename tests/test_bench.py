"""bench.py, run for real on a tiny plan. Its figures of speed are not judged here. Run: python -m pytest tests/test_bench.py"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import device
import model

ROOT = Path(__file__).parent.parent
TINY = ['configs/incremental_4stage.py', '--n_layer=4', '--n_head=2', '--n_embd=32', '--block_size=64', '--vocab_size=320',
        '--batch_size=2', '--total_batch_size=512', '--device=cpu', '--repeats=1']


def bench(*flags):
    return subprocess.run([sys.executable, 'bench.py', *TINY, *flags], capture_output=True, text=True, cwd=ROOT)


def test_rows_predictions_and_the_plain_way():
    done = bench('--plain', '--json', '--phases=0,1')
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(r['row'], r['depth'], r['n_frozen']) for r in found['phases']] == [('full', 4, 0), (0, 1, 0), (1, 2, 1)]
    full, first, frozen = found['phases']
    assert full['measured'] == full['predicted'] == 1 and 0 < frozen['predicted'] < 1 and 0 < first['predicted'] < 1
    dtypes = {'float32', 'bfloat16'} if device.has_bfloat16(torch.device('cpu')) else {'float32'}
    assert set(found['plain']) == dtypes and 'plan_hours' not in found
    for row in (*found['phases'], *found['plain'].values()):
        assert row['memory'] > 1e7
        step = 4 * (row['forward'] + row['backward']) + row['optimizer']  # 512 tokens are four micro-steps of 2 x 64
        assert row['tok_per_sec'] == pytest.approx(512 / step)
    assert full['of_peak'] < 1 and found['matmul_flops_per_second'] > 0


def test_a_machine_that_slows_down_favours_no_row(monkeypatch, capsys):
    """Measured on a clock by which all takes 2% longer each time, costs relative to full depth are still right."""
    import bench

    done = []

    def slowing(function, config, *args):
        if function is bench.matmul_speed:
            return 1e9
        phase = args[0]
        done.append(phase.depth)
        seconds = (phase.depth - phase.n_frozen / 2) * 1.02 ** len(done)
        return {'forward': seconds, 'backward': 2 * seconds, 'optimizer': 0.0, 'memory': 1}

    monkeypatch.setattr(bench, 'in_own_process', slowing)
    monkeypatch.setattr(sys, 'argv', ['bench.py', 'configs/incremental_8stage.py', '--device=cpu', '--json'])
    bench.main()
    for row in json.loads(capsys.readouterr().out)['phases']:
        assert row['measured'] == pytest.approx((row['depth'] - row['n_frozen'] / 2) / 12, rel=0.03)
    assert 1.02 ** len(done) > 2.5  # the last full depth against the first


def test_the_whole_plan_as_text():
    done = bench('--n_stages=2', '--n_layer=2')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 3 + 1  # full depth, depth 1, depth 2 with a frozen layer
    assert lines[-1].startswith('the whole plan, ') and 'plain' not in done.stdout


def test_out_of_memory_is_one_line():
    done = bench(f'--batch_size={2**40}', f'--total_batch_size={2**46}', '--phases=none')
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1] == f'error: out of memory: lower --batch_size, now {2**40}'


def test_autocast_casts_a_weight_once_in_a_step_of_many_micro_steps():
    """An outer context, though disabled, keeps autocast's cache alive; gradients are the same to the bit."""
    torch.manual_seed(0)
    gpt = model.GPT(model.GPTConfig(32, 320, 2, 2, 16))
    tokens = torch.randint(320, (2, 33))
    amp = device.autocast(torch.device('cpu'), 'bfloat16')

    def casts(grad_accum_steps):
        gpt.zero_grad()
        with torch.profiler.profile() as profile:
            for _ in range(grad_accum_steps):
                with amp:
                    loss = gpt(tokens[:, :-1], tokens[:, 1:])
                loss.backward()
        return sum(e.count for e in profile.key_averages() if e.key == 'aten::_to_copy'), [p.grad for p in gpt.parameters()]

    each, gradients = casts(3)
    with torch.autocast('cpu', enabled=False):
        once, cached_gradients = casts(3)
    assert each - once == 2 * 2 * 8  # in the 2 later micro-steps, 2 blocks' 4 weights and 4 biases
    assert all(torch.equal(a, b) for a, b in zip(gradients, cached_gradients))
