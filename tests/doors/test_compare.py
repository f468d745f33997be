"""compare.py as it is typed: tables, verdicts, files. Run: python -m pytest
tests/doors/test_compare.py"""

import csv
import json
import math
import os
import subprocess
import sys

import pytest
from fake_runs import RATES, counters, power_law, write_run, write_seeds

import compare
import train
from config import TrainConfig, config_to_dict
from core.common import UserError
from grid import plan
from verdict import report

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

@pytest.fixture
def pair(tmp_path):
    """Three seeds of a baseline and of a run that grows, .1 nats better -> their paths."""
    folder = tmp_path / 'runs'
    write_seeds(folder, 'base', (1, 2, 3), sd=0.001)
    write_seeds(folder, 'grown', (1, 2, 3), lambda step: power_law(step) - 0.1, sd=0.001, n_stages=4)
    return sorted(folder.iterdir())

# ---- what it says

def test_each_arm_is_a_row_with_its_verdict(pair, tmp_path, run):
    out, rows = run(*pair, f'--csv={tmp_path}/c.csv')
    assert set(rows) == {'base', 'grown'}
    grown = rows['grown']
    assert [grown[key] for key in ('judged_by', 'verdict', 'declared', 'how')] == [
        'base', 'saves', '1', 'Welch']
    assert float(grown['difference']) == pytest.approx(-0.1, abs=0.003)
    assert float(grown['difference_low']) < -0.1 < float(grown['difference_high']) + 0.003
    assert float(grown['corrected']) == float(grown['p']) < 0.001
    assert grown['flops:cost'] == ''  # of one budget there is none
    assert (rows['base']['baseline'], rows['base']['verdict']) == ('1', '')
    assert lines_of(out, 'Saves compute: grown (-0.10')

def test_a_verdict_does_not_depend_on_how_the_runs_are_given(pair, tmp_path, run):
    _, rows = run(*pair, f'--csv={tmp_path}/c.csv')
    for args in ([pair[0].parent], [*reversed(pair), pair[0].parent],
                 [*pair, f'--baseline={pair[1]}']):
        _, others = run(*args, f'--csv={tmp_path}/d.csv')
        assert others['grown'] == {**rows['grown'], 'directories': others['grown']['directories']}

def test_a_known_deviation_and_another_margin_are_options(tmp_path, run):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'grown', lambda step: power_law(step) - 0.1, n_stages=4)
    assert lines_of(run(tmp_path, '--sigma=0.001')[0], 'Saves compute: grown')
    assert lines_of(run(tmp_path, '--sigma=1')[0], 'Open: grown')
    for steps in (500, 2000):
        write_run(tmp_path / f'base{steps}', growth_steps=steps)
    for margin, word in ((0.001, 'open'), (0.9, 'same')):
        write_run(tmp_path / f'equal{margin}', n_stages=4, weight_decay=margin)
        _, rows = run(tmp_path, '--sigma=0.01', f'--margin={margin}', f'--csv={tmp_path}/c.csv')
        assert rows[f'equal{margin}']['verdict'] == word

def test_what_has_just_begun_is_a_row_and_says_so(tmp_path, run):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'under_way', n_stages=3, until=500)
    (tmp_path / 'started').mkdir()
    (tmp_path / 'started' / 'config.json').write_text(json.dumps(config_to_dict(TrainConfig(n_stages=2))))
    out, rows = run(tmp_path, f'--csv={tmp_path}/c.csv')
    assert lines_of(out, 'under_way: no verdict: under_way: seed 1337 unfinished at step 500 of 1,000')
    assert (rows['started']['val_loss'], rows['started']['verdict']) == ('', '')

# ---- a study

def test_a_study_s_runs_are_judged_as_its_page_judges_them(run, tmp_path):
    """By the study file, which knows the arms' names, what was declared, and which runs were tuning."""
    study = plan.load_study('studies/cpu_pretrained.py')
    judged = plan.judge(study, plan.plan_runs(study)[1])
    out, _ = run('results/cpu_pretrained')
    for said in [*report.sentences(judged), *report.verdict_tables(judged), report.answer(judged)]:
        assert (said.text() if isinstance(said, report.Table) else said) in out
    assert {one.word for one in judged.declared} == {'costs'}

def test_some_of_a_study_s_runs_are_these_alone(tmp_path):
    path = write_run(tmp_path / 'cpu_pretrained' / 'on_at_12' / 'b1000_s1')
    for given, folders in ((path, ['on_at_12/b1000_s1']), (tmp_path / 'cpu_pretrained', [])):
        study, found = compare.study_of([str(given)])
        assert (study.name, found) == ('cpu_pretrained', folders)

# ---- what the user gets wrong

GOOD = {'kind': 'eval', **counters(1000, RATES), 'val_loss': 3.0}

NO_LINES = [
    b'garbage', b'\xff\xfe\x00', b'', b'[1, 2]', b'7', b'[' * 100_000, GOOD | {'kind': 'test'},
    GOOD | {'kind': 'phase'}, GOOD | {'val_loss': math.nan}, GOOD | {'flops': 10**400}, GOOD | {'step': 10.5},
    GOOD | {'seconds': True}, GOOD | {'tokens': '7'}, GOOD | {'hellaswag_acc_norm': 0.3},
    GOOD | {'hellaswag_acc_norm': 2.0, 'hellaswag_n': 5},
    {key: value for key, value in GOOD.items() if key != 'flops_paper'}]

@pytest.mark.parametrize('line, what', [
    *((line, 'not a line of metrics') for line in NO_LINES),
    (GOOD | {'step': 990}, "its step can't follow"), (GOOD | {'seconds': 1}, "its seconds can't follow"),
    (GOOD, "its eval can't follow")])
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path, run, line, what):
    path = write_run(tmp_path / 'base')
    metrics = path / 'metrics.jsonl'
    number = len(metrics.read_bytes().splitlines()) + 1
    with open(metrics, 'ab') as f:
        f.write((line if type(line) is bytes else json.dumps(line).encode()) + b'\n'
                + json.dumps(GOOD).encode() + b'\n')
    with pytest.raises(UserError, match=f'base/metrics.jsonl, line {number}: .*{what}'):
        run(path)

# ---- what it writes

def test_each_format_goes_to_its_file_or_alone_to_the_standard_output(pair, tmp_path, run):
    files = {'markdown': 'x.md', 'latex': 'x.tex', 'json': 'x.json', 'csv': 'x.csv'}
    out, _ = run(*pair, *(f'--{name}={tmp_path}/{file}' for name, file in files.items()))
    assert lines_of(out, 'Saves compute: grown')
    for name, file in files.items():
        alone, _ = run(f'--{name}', *pair)  # before a run, too: it doesn't take that for its file
        assert alone == (tmp_path / file).read_text()
    found = json.loads((tmp_path / 'x.json').read_text())
    [grown] = [row for row in found['comparisons'] if row['run'] == 'grown']
    assert (grown['verdict'], grown['flops:cost']) == ('saves', None)
    # A word and a number in LaTeX are those of the terminal.
    assert 'saves' in (tmp_path / 'x.tex').read_text()
    assert f'{grown["difference"]:+.4f}' in (tmp_path / 'x.tex').read_text()

def test_the_curves_are_every_evaluation_of_every_run(tmp_path, run):
    write_seeds(tmp_path / 'runs', 'base', (1, 2), acc_norm=0.3)
    write_run(tmp_path / 'runs' / 'grown', n_stages=4, until=400)
    run(tmp_path / 'runs', f'--curves={tmp_path}/curves.csv')
    with open(tmp_path / 'curves.csv', newline='') as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 21 + 21 + 9
    assert {row['arm'] for row in rows} == {'base', 'grown'}
    for row in rows:
        step = int(row['step'])
        assert float(row['flops']) == step * RATES['flops']
        assert float(row['val_loss']) == pytest.approx(power_law(step), abs=0.02)
        assert row['hellaswag_acc_norm'] == ('' if row['arm'] == 'grown' else '0.3')
    assert sorted({int(row['seed']) for row in rows if row['arm'] == 'base'}) == [1, 2]

def test_two_scorings_are_compared_on_the_same_questions(tmp_path, run):
    line = {'style': 'nanogpt', 'label': 0, 'pred': 0, 'pred_norm': 0, 'losses': [1.0] * 4,
            'losses_norm': [1.0] * 4,
            'margin': 0.1}
    for name, bits in (('a', 1.0), ('b', 0.9)):
        lines = [json.dumps({**line, 'ind': i, 'bits': bits + 0.01 * (i % 2) * (name == 'a')})
                 for i in range(4)]
        (tmp_path / f'{name}.jsonl').write_text('\n'.join(lines) + '\n')
    out, _ = run(tmp_path / 'a.jsonl', tmp_path / 'b.jsonl')
    assert out.startswith(f'{tmp_path}/b.jsonl less {tmp_path}/a.jsonl: bits -0.1050 +- 0.0029')

def test_judging_loads_nothing_that_it_does_not_need():
    code = 'import sys, grid.plan, verdict.judge; print([m for m in sys.argv[1:] if m in sys.modules])'
    heavy = ['torch', 'scipy.stats', 'scipy.optimize', 'pandas', 'matplotlib', 'datasets']
    done = subprocess.run([sys.executable, '-c', code, *heavy], capture_output=True, text=True)
    assert done.stdout == '[]\n', done.stderr

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

def test_on_runs_of_train_py_the_numbers_are_the_last_lines(tiny, tmp_path, run, monkeypatch, capsys):
    for name, n_stages in (('base', 1), ('grown', 3)):
        monkeypatch.setattr(sys, 'argv', ['train.py', *tiny, f'--n_stages={n_stages}',
                                          f'--out_dir={tmp_path}/{name}'])
        train.main()
    capsys.readouterr()
    out, rows = run(tmp_path / 'base', tmp_path / 'grown', f'--csv={tmp_path}/c.csv')
    for name in ('base', 'grown'):
        lines = [json.loads(line) for line in (tmp_path / name / 'metrics.jsonl').read_text().splitlines()]
        last = lines[-1]
        assert last['kind'] == 'eval' and last['step'] == 24
        for column in ('tokens', 'flops', 'flops_paper', 'seconds', 'val_loss'):
            assert float(rows[name][column]) == last[column]
        assert float(rows[name]['bits']) == last['hellaswag_bits']
        assert float(rows[name]['margin_se']) == last['hellaswag_margin_stderr']
    # At a constant rate the baseline, which has more compute, is read where the run ends.
    assert float(rows['grown']['at']) == float(rows['grown']['flops']) < float(rows['base']['flops'])
    # Of one checkout and one machine nothing is to be said.
    assert 'differ in' not in out
