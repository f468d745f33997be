"""A study's page, on made-up records. Run: python -m pytest tests/grid/test_page.py"""

import csv
import os
import re
from pathlib import Path

import pytest
from fake_study import TWO_ARMS, finish, finish_all, left, make_study

from core.common import UserError
from grid import page, plan
from grid.records import read_records, write_records

def loss_of(run):
    base = 1 + 4 * (run.flops() / 1e10)**-0.2
    return base + 0.001 * run.seed - 0.05 * (run.arm != 'full') if run.seed else base

def written(study) -> tuple[str, list[dict]]:
    with open(os.path.join(study.results, 'report.md')) as f:
        text = f.read()
    with open(os.path.join(study.results, 'report.csv'), newline='') as f:
        return text, list(csv.DictReader(f))

@pytest.fixture
def study(tmp_path):
    made = make_study(tmp_path, **TWO_ARMS, questions=(('Li', 200),))
    made.about = 'Does Li pay? At two budgets.'
    return made

def test_the_page_is_question_answer_pictures_then_tables(study):
    finish_all(study, loss_of)
    page.write_report(study)
    text, rows = written(study)
    assert text.startswith('# Does Li pay?\n\n**Saves compute: Li at 200 (')
    order = ['At two budgets.', '1 question declared', '![what each arm needs for the same loss](report.png)',
             '(report_losses.png)', '## What was found', '**Declared questions**', '**Exploration**',
             '## What it rests on', '8 of 8 runs are finished', '## Commands']
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    for name in ('report.png', 'report_losses.png'):
        assert os.path.getsize(os.path.join(study.results, name)) > 1000
    assert {(row['arm'], row['budget'], row['verdict']) for row in rows if row['arm'] == 'Li'} == {
        ('Li', '100', ''), ('Li', '200', 'saves')}
    for never in ('nan', 'head start', 'trained otherwise', 'multiplier', str(study.out)):
        assert never not in text

def test_a_page_from_the_records_is_the_same_again(study):
    finish_all(study, loss_of)
    page.write_report(study)
    first = written(study)
    page.write_report(study)
    assert written(study) == first

def test_what_is_missing_or_diverged_is_said(study):
    runs = left(study)
    finish(study, loss_of, [run for run in runs if (run.arm, run.budget, run.seed) != ('Li', 200, 2)])
    page.write_report(study)
    text, _ = written(study)
    assert '7 of 8 runs are finished' in text and 'Missing: Li at 200, seed 2.' in text
    assert text.count('No answer: Li at 200') == 1
    finish(study, lambda run: None)
    page.write_report(study)
    text, _ = written(study)
    assert 'seed 2 diverged' in text and '8 of 8' in text

def test_nothing_finished_is_one_line(study):
    with pytest.raises(UserError, match='nothing to report'):
        page.write_report(study)

def test_a_ladder_writes_its_prediction_before_what_is_held_out_runs(tmp_path):
    names = {**TWO_ARMS, 'seeds': (1, 2, 3), 'per_parameter': (5, 20), 'held_out': ('w96',),
             'scales': {'w32': '--n_embd=32 --n_head=2', 'w64': '--n_embd=64 --n_head=4',
                        'w96': '--n_embd=96 --n_head=6'}}
    del names['budgets']
    study = make_study(tmp_path, **names)
    runs = left(study)
    now = [run for run in runs if run.scale != 'w96']
    finish(study, loss_of, now[:-1])
    page.write_report(study)
    assert '## Prediction' not in written(study)[0]
    finish(study, loss_of, now)
    page.write_report(study)
    text, rows = written(study)
    assert '## Prediction' in text and '(report_trend.png)' in text
    held_out = [row for row in rows if row['scale'] == 'w96' and row['predicted']]
    assert [row['budget'] for row in held_out] == ['5', '20'] and not held_out[0]['flops:cost']
    finish(study, loss_of)
    page.write_report(study)
    _, rows = written(study)
    after = [row for row in rows if row['scale'] == 'w96' and row['predicted']]
    for a, b in zip(held_out, after):
        assert float(a['predicted']) == pytest.approx(float(b['predicted']), rel=1e-9) and b['flops:cost']
    assert all(plan.outcome_of(study, run) for run in runs)

def test_what_is_not_tuned_yet_is_said_and_keeps_the_prediction_back_unless_it_diverged(tmp_path):
    names = {**TWO_ARMS, 'per_parameter': (5, 20), 'held_out': ('w96',),
             'scales': {'w32': '--n_embd=32 --n_head=2', 'w96': '--n_embd=96 --n_head=6'},
             'tune': {'learning_rate': (0.01, 0.02)}, 'tune_at': {'w32': (20,)}}
    del names['budgets']
    study = make_study(tmp_path, **names)
    tuning = left(study)
    assert all(run.is_tuning for run in tuning)
    finish(study, loss_of, [run for run in tuning if run.arm == 'full'])
    finish(study, loss_of, [run for run in left(study) if run.scale == 'w32' and not run.is_tuning])
    page.write_report(study)
    text, _ = written(study)
    assert 'Not tuned yet, w32 at 5: Li. Not tuned yet, w32 at 20: Li.' in text
    assert '## Prediction' not in text
    finish(study, lambda run: None, [run for run in tuning if run.arm == 'Li'])
    page.write_report(study)
    text, _ = written(study)
    assert 'Not tuned yet' not in text and '## Prediction' in text

def test_losses_on_other_validation_sets_are_columns(tmp_path):
    settings = TWO_ARMS['settings'] | {'val_dirs': ('old:data/old',)}
    study = make_study(tmp_path, **TWO_ARMS | {'settings': settings})
    finish_all(study, loss_of)
    records = dict(read_records(study.records_path))
    for record in records.values():
        record['metrics'][-1]['val_loss_old'] = 4.5
    write_records(study.records_path, records)
    page.write_report(study)
    text = Path(study.results, 'report.md').read_text()
    assert re.search(r'val loss ± sd \| +old \|', text)
    assert '4.5000 ± 0.0000' in text
