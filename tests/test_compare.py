"""compare.py as it is typed: tables, verdicts, files. Run: python -m pytest tests/test_compare.py"""

import csv
import json
import math
import os
import re
import statistics
import subprocess
import sys

import pytest
from fake_runs import RATES, counters, power_law, write_run

import compare
import train
from config import TrainConfig, config_to_dict
from core.common import UserError
from verdict.old_runs import AXES


@pytest.fixture
def run(monkeypatch, capsys):
    """compare.py on some arguments, in this process -> (its standard output, the rows of its CSV by run)."""
    def call(*args):
        monkeypatch.setattr(sys, 'argv', ['compare.py', *map(str, args)])
        compare.main()
        rows = {}
        for arg in map(str, args):
            if arg.startswith('--csv='):
                with open(arg[6:], newline='') as f:
                    rows = {row['run']: row for row in csv.DictReader(f)}
        return capsys.readouterr().out, rows
    return call


def lines_of(out, name):
    return [line for line in out.splitlines() if line.startswith(name)]


# ---- equal compute


@pytest.mark.parametrize('speed', [0.5, 0.76, 0.95, 1.05, 1.3, 2.0])
@pytest.mark.parametrize('every', [10, 100])
def test_a_run_that_learns_at_another_speed_costs_what_it_must(tmp_path, run, speed, every):
    """The run's loss is the baseline's at `speed` times as many steps, its steps cost other amounts on every
    axis: then on each axis the ratio for the same loss is (its cost per step / the baseline's) / speed,
    exactly."""
    rates = {'flops': 2.4e10, 'flops_paper': 1.1e10, 'seconds': 0.22}
    base = write_run(tmp_path / 'base', every=every)
    write_run(tmp_path / 'other', lambda step: power_law(speed * step), rates, every=every, n_stages=4)
    out, rows = run(base, tmp_path / 'other', f'--csv={tmp_path}/c.csv')
    row = rows['other']
    for axis in AXES:
        wanted = rates[axis] / RATES[axis] / speed
        assert float(row[f'{axis}:cost']) == pytest.approx(wanted, rel=0.01)
        if speed < 1:
            assert float(row[f'{axis}:baseline_needs']) == pytest.approx(1000 * speed * RATES[axis], rel=0.01)
            assert float(row[f'{axis}:saving']) == pytest.approx(1 - wanted, abs=0.01 * wanted)
            assert row[f'{axis}:needs'] == row[f'{axis}:saving_at_baseline_loss'] == ''
        else:
            assert float(row[f'{axis}:needs']) == pytest.approx(1000 / speed * rates[axis], rel=0.01)
            assert float(row[f'{axis}:saving_at_baseline_loss']) == pytest.approx(1 - wanted,
                                                                                  abs=0.01 * wanted)
            assert row[f'{axis}:baseline_needs'] == row[f'{axis}:saving'] == ''
        # same compute: where the shorter ends, here always the run
        at = 1000 * rates[axis]
        assert float(row[f'{axis}:at']) == pytest.approx(at)
        assert float(row[f'{axis}:baseline_loss']) == pytest.approx(power_law(at / RATES[axis]), rel=1e-3)
        assert float(row[f'{axis}:loss']) == pytest.approx(power_law(1000 * speed))
        difference = power_law(1000 * speed) - power_law(at / RATES[axis])
        assert float(row[f'{axis}:difference']) == pytest.approx(difference, abs=2e-3)
    printed = re.search(r'other: costs (\S+)x the baseline for the same loss \((\S+)x by .*, (\S+)x in '
                        r'seconds\)', out)
    assert [float(x) for x in printed.groups()] == pytest.approx([float(row[f'{a}:cost']) for a in AXES],
                                                                 abs=0.0051)
    assert ("the baseline's final loss" if speed < 1 else 'its own final loss') in lines_of(out, 'other: ')[0]
    assert 'not reached' in lines_of(out, 'other: ')[0]


def test_the_run_may_also_be_the_longer_one(tmp_path, run):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'other', lambda step: power_law(0.8 * step), growth_steps=2000, n_stages=4)
    _, rows = run(tmp_path / 'base', tmp_path / 'other', f'--csv={tmp_path}/c.csv')
    row = rows['other']
    assert float(row['flops:at']) == 1000 * RATES['flops']
    assert float(row['flops:loss']) == pytest.approx(power_law(800)) and float(
        row['flops:baseline_loss']
    ) == power_law(1000)
    assert row['flops:baseline_needs'] == ''
    assert float(row['flops:cost']) == pytest.approx(1.25, rel=0.01)  # it got there, later


def test_a_run_with_one_evaluation_has_bounds_and_no_inventions(tmp_path, run):
    write_run(tmp_path / 'base')
    other = write_run(tmp_path / 'other', lambda step: 2.1, n_stages=4)
    lines = [line for line in (other / 'metrics.jsonl').read_text().splitlines() if '"step": 1000' in line]
    (other / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
    out, _ = run(tmp_path / 'base', other)
    assert 'costs at most 1.00x the baseline' in out


def test_a_run_that_ends_where_the_baseline_began_is_called_so(tmp_path, run):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'other', lambda step: 10.0 - step / 1000, n_stages=4)
    out, _ = run(tmp_path / 'base', tmp_path / 'other')
    assert 'other: ends no better than the baseline started' in out


# ---- seeds


def test_runs_that_differ_in_the_seed_alone_are_a_mean_and_a_sample_deviation(tmp_path, run):
    offsets = {1: 0.03, 2: -0.01, 7: 0.01}
    for seed, offset in offsets.items():
        write_run(tmp_path / f'base_seed{seed}', lambda s, o=offset: power_law(s) + o,
                  {'seconds': 0.2 + 0.01 * seed},
                  acc_norm=0.3 + offset, seed=seed, device='cpu', out_dir=f'anywhere{seed}')
        write_run(tmp_path / f'grown_seed{seed}', lambda s, o=offset: power_law(s) + 2 * o + 0.05, seed=seed,
                  n_stages=4)
    out, rows = run(*sorted(tmp_path.iterdir()), f'--csv={tmp_path}/c.csv')
    losses = [power_law(1000) + o for o in offsets.values()]
    row = rows['base']
    assert row['seeds'] == '3' and row['baseline'] == '1' and len(row['directories'].split()) == 3
    assert float(row['val_loss']) == pytest.approx(statistics.mean(losses))
    assert float(row['val_loss_sd']) == pytest.approx(0.02)  # sample deviation of .03 -.01 .01
    assert float(row['seconds']) == pytest.approx(1000 * (0.2 + 0.01 * 10 / 3))
    assert float(row['acc_norm']) == pytest.approx(0.31) and float(row['acc_norm_sd']) == pytest.approx(0.02)
    assert float(row['acc_norm_se']) == pytest.approx(math.sqrt(0.31 * 0.69 / 400))
    assert '± 0.0200' in lines_of(out, 'base')[0]
    assert lines_of(out, 'base')[1].split()[-4:] == ['0.3100', '±', '0.0231', '0.0200']
    # the difference's error: sqrt(.02^2 / 3 + .04^2 / 3); Welch's t with Satterthwaite's 2.94 degrees of
    # freedom
    assert float(rows['grown']['flops:error']) == pytest.approx(math.sqrt((0.02**2 + 0.04**2) / 3), rel=1e-6)
    assert float(rows['grown']['flops:difference']) == pytest.approx(0.06, abs=1e-6)
    assert float(rows['grown']['flops:df']) == pytest.approx(2.941, abs=0.001)
    assert float(rows['grown']['p']) == pytest.approx(0.1053, abs=0.001)
    assert 'at equal compute +0.0600 nats (95%: -0.0231 to +0.1431), p 0.1: not clear' in out


def test_a_difference_within_the_noise_of_the_seeds_is_called_so(tmp_path, run):
    for seed, offset in ((1, 0.02), (2, -0.02)):
        write_run(tmp_path / f'base_seed{seed}', lambda s, o=offset: power_law(s) + o, seed=seed)
        write_run(tmp_path / f'grown_seed{seed}', lambda s, o=offset: power_law(s) + 0.01 + o, seed=seed,
                  n_stages=4)
    write_run(tmp_path / 'single', n_stages=3)
    out, _ = run(*sorted(tmp_path.iterdir()))
    assert lines_of(out, 'grown: ')[0].endswith('not clear (two seeds a side: only a huge difference can '
                                                'show)')
    assert lines_of(out, 'single: ')[0].endswith('no verdict: it takes two seeds or more a side (or --sigma)')
    assert re.search(r'2 seeds a side see differences from 0\.1217 \(a saving of \d+.\d%\) on', out)
    # With a known deviation one seed is enough, and two see more.
    out, rows = run(*sorted(tmp_path.iterdir()), '--sigma=0.001', f'--csv={tmp_path}/c.csv')
    assert lines_of(out, 'grown: ')[0].endswith(': clear') and lines_of(out,
                                                                        'single: ')[0].endswith(': not clear')
    assert float(rows['grown']['flops:error']) == pytest.approx(0.001)
    assert float(rows['single']['flops:error']) == pytest.approx(0.001 * math.sqrt(1.5))


def test_other_settings_make_another_group_and_a_repeated_seed_is_left_out(tmp_path, run):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'a' / 'grown', n_stages=4)
    write_run(tmp_path / 'b' / 'grown', lambda s: 9.0 - s / 1000, n_stages=4)  # the same seed again
    write_run(tmp_path / 'c' / 'grown', n_stages=4, learning_rate=1e-3, seed=5)
    out, rows = run(tmp_path / 'base', *(tmp_path / d / 'grown' for d in 'abc'), f'--csv={tmp_path}/c.csv')
    assert [row['seeds'] for row in rows.values()] == ['1', '1', '1']
    # names made unique
    assert set(rows) == {'base', str(tmp_path / 'a' / 'grown'), str(tmp_path / 'c' / 'grown')}
    assert float(rows[str(tmp_path / 'a' / 'grown')]['val_loss']) == power_law(1000)
    assert re.search('note: .*/b/grown repeats seed 1337 of .*/a/grown', out)


# ---- flagged, not mixed


def test_an_unfinished_run_is_shown_but_neither_averaged_nor_judged(tmp_path, run):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'grown_seed1', n_stages=4, seed=1)
    write_run(tmp_path / 'grown_seed2', lambda s: 99.0, n_stages=4, seed=2, until=500)
    write_run(tmp_path / 'grown_seed3', n_stages=4, seed=3, until=900,
              tail=b'{"kind": "train", "step": 920, "tok')
    (tmp_path / 'started').mkdir()
    (tmp_path / 'started' / 'config.json').write_text(json.dumps(config_to_dict(TrainConfig(n_stages=2))))
    out, rows = run(*sorted(tmp_path.iterdir()), f'--csv={tmp_path}/c.csv', f'--figure={tmp_path}/f.png')
    assert float(rows['grown_seed1']['val_loss']) == power_law(1000) and rows['grown_seed1']['seeds'] == '1'
    assert (
        rows['grown_seed2']['flags'] == 'unfinished: step 500 of 1000'
        and rows['grown_seed2']['flops:cost'] == ''
    )
    assert rows['grown_seed3']['flags'] == 'unfinished: step 900 of 1000, last line truncated'
    assert rows['started']['val_loss'] == '' and rows['started']['flags'] == 'unfinished: step 0 of 20000'
    assert 'flagged: grown_seed2: unfinished: step 500 of 1000' in out
    assert lines_of(out, 'grown_seed2: ') == ['grown_seed2: not judged (unfinished: step 500 of 1000)']


@pytest.mark.parametrize('field, value', [('data_dir', 'data/other'), ('vocab_size', 320),
                                          ('block_size', 512),
                                          ('val_tokens', 99)])
def test_a_run_on_other_data_is_flagged_and_not_judged(tmp_path, run, field, value):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'same', n_stages=4, data_dir='/elsewhere/edu_fineweb10B/')
    write_run(tmp_path / 'other', n_stages=4, **{field: value})
    out, _ = run(*sorted(tmp_path.iterdir()))
    shown = 'other' if field == 'data_dir' else value
    assert f'flagged: other: other data: {field} {shown}, not' in out
    assert lines_of(out, 'other: ')[0].startswith('other: not judged (other data')
    assert lines_of(out, 'same: ')[0].startswith('same: costs 1.00x')


def test_what_compares_only_with_a_caution_is_said(tmp_path, run):
    write_run(tmp_path / 'base', device='cuda')
    write_run(tmp_path / 'deeper', n_layer=16, init_from='out/checkpoint', init_depth=12, device='cpu',
              hellaswag_limit=10,
              warmup_steps=50, grad_clip=1.0)
    out, _ = run(*sorted(tmp_path.iterdir()))
    assert 'note: deeper ends as another model: n_layer 16, not 12' in out
    assert (
        'note: deeper is trained otherwise, whatever it grows: warmup_steps 50, not 0, grad_clip 1.0, not 0.0'
        in out
    )
    assert out.count('note: ') == 5
    assert 'note: deeper starts from out/checkpoint; the compute that made it is not counted' in out
    assert 'note: the runs differ in device: their seconds may not compare' in out
    assert 'note: the runs differ in hellaswag_limit: their HellaSwag scores may not compare' in out


@pytest.mark.parametrize('lr, grow_lr, steps, speed, notes', [
    ('constant', 'constant', 2000, 0.9, []),
    ('cosine', 'constant', 2000, 0.9, ['flatter the run']),  # longer baseline: compared in its middle
    # same budget, but its cost for this loss is read off its middle
    ('cosine', 'cosine', 1000, 0.9, ['flatter the run']),
    ('wsd', 'wsd', 1000, 1.1, ['flatter the baseline']),  # the run overtakes in its middle
    ('wsd', 'wsd', 1000, 1.0, []),  # both at their own ends
    ('constant', 'cosine', 500, 0.9, ['flatter the baseline']),
])
def test_a_decaying_schedule_that_is_compared_in_its_middle_is_said(tmp_path, run, lr, grow_lr, steps, speed,
                                                                    notes):
    write_run(tmp_path / 'base', growth_steps=steps, lr_schedule=lr)
    write_run(tmp_path / 'grown', lambda s: power_law(speed * s), n_stages=4, lr_schedule=grow_lr)
    out, _ = run(*sorted(tmp_path.iterdir()))
    assert [n for n in ('flatter the run', 'flatter the baseline') if n in out] == notes


# ---- the baseline


def test_the_baseline_is_the_run_of_one_stage_or_the_one_that_is_named(tmp_path, run):
    for seed in (1, 2):
        write_run(tmp_path / f'base_seed{seed}', seed=seed)
    write_run(tmp_path / 'grown', n_stages=4)
    out, _ = run(*sorted(tmp_path.iterdir()))
    assert len(lines_of(out, 'base (baseline)')) == 1 and lines_of(out, 'grown: costs 1.00x')
    cosine = write_run(tmp_path / 'cosine', lr_schedule='cosine')
    with pytest.raises(UserError, match=r'--baseline=RUN: .*base_seed1, .*cosine'):
        run(*sorted(tmp_path.iterdir()))
    out, _ = run(*sorted(tmp_path.iterdir()), f'--baseline={cosine}')
    assert lines_of(out, 'cosine (baseline)') and lines_of(out, 'base: costs 1.00x')
    out, _ = run(tmp_path / 'grown', f'--baseline={tmp_path}/base_seed2')  # named, and not among the runs
    assert lines_of(out, 'base_seed2 (baseline)')
    with pytest.raises(UserError, match='nowhere: no such run directory'):
        run(tmp_path / 'grown', f'--baseline={tmp_path}/nowhere')


def test_without_a_finished_baseline_the_table_stands_alone(tmp_path, run):
    write_run(tmp_path / 'grown', n_stages=4)
    out, _ = run(tmp_path / 'grown')
    assert lines_of(out, 'grown  ') and 'costs' not in out
    assert 'nothing is judged: none of these is a run of one stage' in out
    write_run(tmp_path / 'base', until=500)
    out, _ = run(tmp_path / 'grown', tmp_path / 'base')
    assert 'nothing is judged: the baseline base is not finished' in out and 'costs' not in out


# ---- what the user gets wrong


GOOD = {'kind': 'eval', **counters(1000, RATES), 'val_loss': 3.0}


@pytest.mark.parametrize('line, what', [
    (b'garbage', 'not a line of metrics'), (b'\xff\xfe\x00', 'not a line of metrics'),
    (b'', 'not a line of metrics'),
    (b'[1, 2]', 'not a line of metrics'), (b'7', 'not a line of metrics'), (b'[' * 100_000,
                                                                            'not a line of metrics'),
    ({**GOOD, 'kind': 'test'}, 'not a line of metrics'), ({**GOOD, 'val_loss': math.nan},
                                                          'not a line of metrics'),
    ({**GOOD, 'flops': 10**400}, 'not a line of metrics'), ({**GOOD, 'step': 10.5}, 'not a line of metrics'),
    ({**GOOD, 'seconds': True}, 'not a line of metrics'), ({**GOOD, 'tokens': '7'}, 'not a line of metrics'),
    ({**GOOD, 'hellaswag_acc_norm': 2.0, 'hellaswag_n': 5}, 'not a line of metrics'),
    ({**GOOD, 'hellaswag_acc_norm': 0.3}, 'not a line of metrics'), ({**GOOD, 'kind': 'phase'},
                                                                     'not a line of metrics'),
    ({k: v for k, v in GOOD.items() if k != 'flops_paper'}, 'not a line of metrics'),
    ({**GOOD, 'step': 990}, 'step goes back from 1000 to 990'), ({**GOOD, 'seconds': 1}, 'seconds goes back'),
    (GOOD, 'step 1000 is evaluated twice')])
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path, run, line, what):
    path = write_run(tmp_path / 'base')
    metrics = path / 'metrics.jsonl'
    number = len(metrics.read_bytes().splitlines()) + 1
    with open(metrics, 'ab') as f:
        f.write((line if type(line) is bytes else json.dumps(line).encode()) + b'\n'
                + json.dumps(GOOD).encode() + b'\n')
    with pytest.raises(UserError, match=f'base/metrics.jsonl, line {number}: .*{what}'):
        run(path)


def test_other_mistakes_are_one_clear_line_before_anything_is_written(tmp_path, run, capsys):
    base = write_run(tmp_path / 'base')
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'config.json').write_text('{"n_layer": ')
    (tmp_path / 'file.png').write_text('')
    for args, message in [([tmp_path / 'nowhere'], 'nowhere: no such run directory'),
                          ([tmp_path / 'file.png'], 'none of these is a run directory'),
                          ([tmp_path / 'x*'], 'nothing there matches'),
                          ([base, tmp_path / 'broken'], 'broken/config.json: not a readable config'),
                          ([base, '--figure=x.jpg'], 'must end in .png'), ([base, '--panels=tokens'],
                                                                           '--panels needs --figure'),
                          ([base, '--figure=x.png', '--panels=tokns'], 'no panel is called so'),
                          ([base, f'--csv={tmp_path}/no/x.csv'], 'there is no folder'),
                          ([base, f'--json={tmp_path}/no/x.json'], 'there is no folder'),
                          ([base, '--sigma=0'], 'must be a positive number of nats'),
                          ([base, '--sigma=nan'], 'must be a positive number of nats'),
                          ([base, '--tuned=learning_rat'], '--tuned=learning_rat: no setting is called so'),
                          ([base, '--json', '--csv'], 'only one of'),
                          ([tmp_path / 'a.jsonl'], '1 files: two scorings are compared')]:
        with pytest.raises(UserError, match=re.escape(message)):
            run(*args)
        assert not capsys.readouterr().out
    out, _ = run(base, f'{tmp_path}/file.png')  # as with compare.py out/*
    assert lines_of(out, 'base (baseline)')


# ---- what it writes


def test_each_format_goes_to_its_file_or_alone_to_the_standard_output(tmp_path, run):
    write_run(tmp_path / 'runs' / 'base')
    write_run(tmp_path / 'runs' / 'grown', n_stages=4)
    runs = sorted((tmp_path / 'runs').iterdir())
    files = {'markdown': 'x.md', 'latex': 'x.tex', 'json': 'x.json', 'csv': 'x.csv'}
    out, _ = run(*runs, *(f'--{name}={tmp_path}/{file}' for name, file in files.items()))
    assert lines_of(out, 'grown: costs 1.00x')
    for name, file in files.items():
        alone, _ = run(f'--{name}', *runs)  # before a run, too: it doesn't take that for its file
        assert alone == (tmp_path / file).read_text()
        assert not lines_of(alone, 'grown: costs')
    assert json.loads((tmp_path / 'x.json').read_text())['runs'][1]['flops:cost'] == pytest.approx(1.0)


def test_a_run_may_be_called_as_an_option_is(tmp_path, run, monkeypatch):
    write_run(tmp_path / 'a_csv')
    monkeypatch.chdir(tmp_path)
    assert lines_of(run('a_csv')[0], 'a_csv (baseline)')


def test_full_prints_the_catch_up_and_all_settings(tmp_path, run):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'grown', n_stages=4)
    short, _ = run(tmp_path / 'base', tmp_path / 'grown')
    full, _ = run(tmp_path / 'base', tmp_path / 'grown', '--full')
    for title in ('Catching up after the last growth', 'What all runs share'):
        assert title in full and title not in short
    assert 'What differs' in short


def test_two_scorings_are_compared_on_the_same_questions(tmp_path, run):
    line = {'style': 'nanogpt', 'label': 0, 'pred': 0, 'pred_norm': 0, 'losses': [1.0] * 4,
            'losses_norm': [1.0] * 4,
            'margin': 0.1}
    for name, bits in (('a', 1.0), ('b', 0.9)):
        lines = [json.dumps({**line, 'ind': i, 'bits': bits + 0.01 * (i % 2) * (name == 'a')})
                 for i in range(4)]
        (tmp_path / f'{name}.jsonl').write_text('\n'.join(lines) + '\n')
    out, _ = run(tmp_path / 'a.jsonl', tmp_path / 'b.jsonl')
    assert out.startswith(f'{tmp_path}/b.jsonl less {tmp_path}/a.jsonl: acc +0.0000')
    assert 'bits -0.1050 +- 0.0029' in out


def test_a_closed_pipe_and_a_terminal_without_the_characters_are_no_error(tmp_path):
    for k in range(3):
        write_run(tmp_path / f'run{k}', seed=k)
    command = f'{sys.executable} compare.py {tmp_path}/* --full'
    done = subprocess.run(f'set -o pipefail; {command} | head -1', shell=True, capture_output=True, text=True,
                          executable='/bin/bash')
    assert done.stderr == '' and done.stdout == 'Runs\n'
    env = {**os.environ, 'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0', 'LC_ALL': 'C'}
    done = subprocess.run(command, shell=True, capture_output=True, env=env, executable='/bin/bash')
    assert done.returncode == 0, done.stderr
    assert b'val loss' in done.stdout and b'sd' in done.stdout


# ---- runs of train.py itself


def test_on_runs_of_train_py_the_numbers_are_those_of_the_last_lines(tiny, tmp_path, run, monkeypatch,
                                                                     capsys):
    for name, n_stages in (('base', 1), ('grown', 3)):
        monkeypatch.setattr(sys, 'argv', ['train.py', *tiny, f'--n_stages={n_stages}',
                                          f'--out_dir={tmp_path}/{name}'])
        train.main()
    capsys.readouterr()
    files = {name: tmp_path / f'c.{name}' for name in ('csv', 'json')}
    out, rows = run(tmp_path / 'base', tmp_path / 'grown', f'--csv={files["csv"]}',
                    f'--json={files["json"]}', '--full',
                    f'--figure={tmp_path}/f.svg', '--panels=hero,accuracy,bits,catch_up')
    for name in ('base', 'grown'):
        lines = [json.loads(line) for line in (tmp_path / name / 'metrics.jsonl').read_text().splitlines()]
        last = lines[-1]
        assert last['kind'] == 'eval' and last['step'] == 24 and rows[name]['flags'] == ''
        for column in ('tokens', 'flops', 'flops_paper', 'seconds', 'val_loss'):
            assert float(rows[name][column]) == last[column]
        assert float(rows[name]['bits']) == last['hellaswag_bits']
        assert float(rows[name]['margin_se']) == last['hellaswag_margin_stderr']
    assert float(rows['grown']['flops:at']) == float(rows['grown']['flops']) < float(rows['base']['flops'])
    found = json.loads(files['json'].read_text())
    # The catch-up begins with the loss that the growth itself left.
    growth = [line for line in lines if line['kind'] == 'phase' and 'val_loss_after' in line][-1]
    first = found['catch_up'][0]
    assert (first['run'], first['step'], first['tokens_since_growth']) == ('grown', growth['step'], 0)
    base = {line['step']: line['val_loss'] for line in map(json.loads,
                                                           open(tmp_path / 'base' / 'metrics.jsonl'))
            if line['kind'] == 'eval' and 'val_loss' in line}
    assert growth['step'] == 12 and 12 in base
    assert first['gap_at_tokens'] == pytest.approx(growth['val_loss_after'] - base[12])
    # The same questions on both sides, from the hellaswag.jsonl that each run leaves.
    [pair] = found['hellaswag']
    assert pair['n'] == 12
    assert pair['bits'] == pytest.approx(float(rows['grown']['bits']) - float(rows['base']['bits']))
    # run.json says what 'auto' would hide from compare.py: seeds in bfloat16 are no seeds of a float32 run.
    assert json.loads((tmp_path / 'grown' / 'run.json').read_text())['dtype'] == 'float32'
    # Of one checkout and one machine nothing is to be said.
    assert 'differ in' not in out
