"""Two models on the same questions. Run: python -m pytest
tests/verdict/test_paired.py"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_study import TWO_ARMS, finish_all, make_study
from processes import run_python
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar

from core.common import UserError
from grid import plan
from verdict import paired, report

def lines_of(seed: int, skill: float, n=200, style='nanogpt') -> list[dict]:
    """n lines of a model that is right with probability `skill` on questions that are as hard for every
    model."""
    hardness = np.random.RandomState(0).rand(n)
    rng = np.random.RandomState(seed)
    lines = []
    for i in range(n):
        label = i % 4
        pred = label if rng.rand() * 0.3 + hardness[i] * 0.7 < skill else (label + 1) % 4
        bits = 1 + hardness[i] + 0.1 * rng.rand() - skill
        lines.append({'style': style, 'ind': i, 'label': label, 'pred': pred, 'pred_norm': pred,
                      'losses': [1, 2, 3, 4],
                      'losses_norm': [1, 2, 3, None], 'bits': bits, 'margin': 0.5 - bits})
    return lines

def column(lines, name):
    return np.array([line[name] for line in lines])

def test_the_difference_equals_scipys_and_statsmodels_own():
    first = lines_of(1, 0.4)
    second = lines_of(2, 0.5)
    difference = paired.compare_lines(first, second)
    assert difference['n'] == 200
    for name in ('bits', 'margin'):
        a = column(first, name)
        b = column(second, name)
        test = scipy_stats.ttest_rel(b, a)
        stderr = difference[name + '_stderr']
        assert difference[name] == pytest.approx(b.mean() - a.mean())
        assert difference[name] / stderr == pytest.approx(test.statistic)
    a = column(first, 'pred') == column(first, 'label')
    b = column(second, 'pred') == column(second, 'label')
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert table[0][1] > 5 and table[1][0] > 5
    assert difference['acc_p'] == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-12)
    assert (difference['acc_only_first'], difference['acc_only_second']) == (table[0][1], table[1][0])
    assert difference['acc'] == pytest.approx(b.mean() - a.mean()) and difference['acc'] > 0
    assert difference['acc_stderr'] == pytest.approx(scipy_stats.sem(b.astype(float) - a))
    assert difference['acc_norm'] == difference['acc']

def test_a_model_and_itself_do_not_differ():
    difference = paired.compare_lines(lines_of(1, 0.4), lines_of(1, 0.4))
    assert [difference[name] for name in ('bits', 'bits_stderr', 'acc', 'acc_p')] == [0, 0, 0, 1]
    json.dumps(difference, allow_nan=False)

def test_one_example_says_nothing_and_is_still_json():
    difference = paired.compare_lines(lines_of(1, 0.4, n=1), lines_of(2, 0.5, n=1))
    assert difference['bits_stderr'] is None and 'says nothing' in paired.in_words(difference)
    json.dumps(difference, allow_nan=False)

@pytest.mark.parametrize('change', [
    lambda lines: lines[:-1], lambda lines: lines[::-1],
    lambda lines: [line | {'label': 0} for line in lines],
    lambda lines: [line | {'style': 'lm_eval'} for line in lines],
])
def test_scorings_of_other_examples_are_not_compared(change):
    with pytest.raises(UserError, match='a and b are not of the same examples'):
        paired.compare_lines(lines_of(1, 0.4), change(lines_of(1, 0.4)), 'a and b')

def test_seeds_that_both_sides_have_are_compared_question_by_question(tmp_path):
    def run(name, seed, skill, n=200):
        folder = tmp_path / f'{name}{seed}'
        folder.mkdir()
        if skill:
            paired.write_per_example(str(folder / 'hellaswag.jsonl'), lines_of(seed, skill, n))
        return SimpleNamespace(seed=seed, path=str(folder))

    theirs = [run('base', 1, 0.4), run('base', 2, 0.4), run('base', 3, 0.4), run('base', 5, 0.4)]
    # Seed 2 was scored on fewer questions, seed 3 never, and the baseline has no seed 4.
    mine = [run('grown', 1, 0.5), run('grown', 2, 0.5, 100), run('grown', 3, 0), run('grown', 4, 0.5)]
    [(seed, difference)] = paired.by_seed(mine, theirs)
    assert (seed, difference) == (1, paired.compare_lines(lines_of(1, 0.4), lines_of(1, 0.5)))
    assert difference['bits'] < 0 < difference['acc']

def test_a_study_s_runs_are_compared_question_by_question_where_they_lie(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS)
    finish_all(study, lambda run: 3.0)
    _, grid = plan.plan_runs(study)
    for run in grid:
        folder = Path(study.out, run.folder)
        folder.mkdir(parents=True)
        paired.write_per_example(str(folder / 'hellaswag.jsonl'), lines_of(run.seed, 0.4))
    rows = report.pairs_table(plan.judge(study, grid)).rows
    assert [row['run'] for row in rows] == [
        'Li at 100, seed 1', 'Li at 100, seed 2', 'Li at 200, seed 1', 'Li at 200, seed 2']

def test_lines_are_read_as_they_were_written_one_style_at_a_time(tmp_path):
    path = str(tmp_path / 'hellaswag.jsonl')
    paired.write_per_example(path, [*lines_of(1, 0.4), *lines_of(2, 0.4, style='lm_eval')])
    assert paired.read_per_example(path) == lines_of(1, 0.4)
    assert paired.read_per_example(path, 'lm_eval') == lines_of(2, 0.4, style='lm_eval')
    paired.write_per_example(path, lines_of(3, 0.4))  # the next scoring of the run
    assert paired.read_per_example(path) == lines_of(3, 0.4)
    assert [p.name for p in tmp_path.iterdir()] == ['hellaswag.jsonl']
    with pytest.raises(UserError, match='holds no scores in lm_eval style'):
        paired.read_per_example(path, 'lm_eval')

@pytest.mark.parametrize('line', [
    '{"style": "nanogpt"}', '[]', '', '[' * 100_000, '{"style": "nanogpt", "ind":',
    json.dumps(lines_of(1, 0.4)[0] | {'bits': None}), json.dumps(lines_of(1, 0.4)[0] | {'bits': math.nan}),
    json.dumps(lines_of(1, 0.4)[0] | {'margin': 'wide'}),
])
def test_a_line_that_is_none_is_named(tmp_path, line):
    (tmp_path / 'x.jsonl').write_text(json.dumps(lines_of(1, 0.4)[0]) + '\n' + line + '\n')
    with pytest.raises(UserError, match=r'x\.jsonl, line 2: not a line'):
        paired.read_per_example(str(tmp_path / 'x.jsonl'))

def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r'nowhere\.jsonl: cannot be read'):
        paired.read_per_example(str(tmp_path / 'nowhere.jsonl'))

def test_a_run_leaves_the_lines_of_its_last_scoring(tiny, tmp_path):
    """They are what the last line of metrics.jsonl says."""
    done = run_python('train.py', *tiny, f'--out_dir={tmp_path / "run"}', '--growth_steps=6',
                      '--continual_steps=2', '--hellaswag_interval=4')
    assert done.returncode == 0, done.stderr
    lines = paired.read_per_example(str(tmp_path / 'run' / 'hellaswag.jsonl'))
    last = json.loads((tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()[-1])
    assert last['kind'] == 'eval' and last['step'] == 8 and last['hellaswag_n'] == len(lines) == 12
    for name in ('bits', 'margin'):
        assert np.mean(column(lines, name)) == pytest.approx(last[f'hellaswag_{name}'])
        assert scipy_stats.sem(column(lines, name)) == pytest.approx(last[f'hellaswag_{name}_stderr'])
