"""The words and tables of a report, on runs whose truth is known. Run: python -m pytest
tests/verdict/test_report.py"""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import COMING, ladder, make_run, make_seeds, study
from same_report import assert_same_report

from verdict import report
from verdict.judge import Question, judge_runs
from verdict.stats import Interval

GOLDEN = Path(__file__).parent / 'golden_report.md'

@pytest.fixture(scope='module')
def judged():
    questions = [Question('better', 1000), Question('worse', 1000), Question('absent', 1000)]
    return study({'better': -0.05, 'worse': 0.05, 'equal': 0.0}, questions=questions)

def test_the_whole_report_reads_as_the_golden_one(judged):
    """Look at the file when it changes: it is what a reader sees."""
    assert_same_report(report.markdown(judged), GOLDEN.read_text())

def test_the_answer_names_what_each_question_came_to(judged):
    answer = report.answer(judged)
    assert answer.startswith('Saves compute: better at 1,000 (0.')
    assert 'Costs compute: worse at 1,000 (1.' in answer
    assert answer.endswith('No answer: absent at 1,000 (no run of it is there).')
    many = study({f'arm {k}': -0.05 for k in range(8)}, budgets=(500, 1000))
    assert report.answer(many) == 'Saves compute: 8 of 8.'

def test_declared_questions_looks_and_exploration_are_counted(judged):
    counts = report.counts(judged)
    assert counts.startswith('3 questions declared; p corrected over them')
    assert 'the other 7 comparisons are exploration' in counts
    looks = ((1, 2), (1, 2, 3))
    two = report.counts(study({'better': -0.05}, questions=[Question('better', 1000, looks=looks)]))
    assert 'looks taken: 2 of at most 2, and each p is multiplied by 2' in two

def test_a_table_is_the_same_in_three_forms(judged):
    for some in report.run_tables(judged) + report.verdict_tables(judged):
        assert all(list(row) == list(some.rows[0]) for row in some.rows), some.title
        for cell in some.rows[0].values():
            assert report.escaped(cell) in some.markdown()
            assert ''.join(cell.split()) in ''.join(some.text().split()) or len(cell) > report.WIDEST
        assert some.latex().count(r'\\') == 1 + len(some.rows)
    assert max(len(line) for line in report.verdict_tables(judged)[0].text().splitlines()) <= 132

def test_names_that_are_markup_stay_names():
    some = report.Table('50% of a_b', [{'a|b': '*x* <b> 100% a_b\nc'}], 'l', 'note_1 & 2')
    assert '\\*x\\* \\<b> 100% a\\_b c' in some.markdown()
    assert some.markdown().count('\n') == 6
    for text in (r'50\% of a\_b', r'note\_1 \& 2', r'100\% a\_b'):
        assert text in some.latex()

def test_a_csv_is_safe_to_open():
    text = report.as_csv([{'a': '=1+1', 'b': -1.5, 'c': 3}, {'a': 'two\nlines', 'b': None, 'd': '-x'}])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row['a'] for row in rows] == ["'=1+1", 'two lines']
    assert [row['b'] for row in rows] == ['-1.5', '']
    assert (rows[0]['c'], rows[1]['d']) == ('3', "'-x")  # whole numbers stay whole

def test_a_run_that_is_lost_is_counted_and_named():
    runs = [*make_seeds('base', (3.0, 3.001, 3.002)), make_run('grown', 2.9, 1, n_stages=4),
            make_run('grown', 2.9, 2, until=500, info={'ended': 'diverged'}, n_stages=4)]
    judged = judge_runs(runs)
    assert report.runs_table(judged).rows[1]['seeds'] == '1 of 2: 2 diverged'
    [sentence] = report.sentences(judged)
    assert 'seed 2 diverged at step 500 of 1,000' in sentence
    assert 'nan' not in report.text(judged, full=True)

def with_last(run, **more):
    return replace(run, records=[*run.records[:-1], run.records[-1] | more])

def test_other_validation_sets_are_columns():
    runs = []
    for name, losses, stages in (('base', (3.0, 3.01, 3.02), 1), ('grown', (2.9, 2.91, 2.92), 4)):
        for run in make_seeds(name, losses, n_stages=stages, val_dirs=('old:data/old',)):
            runs.append(with_last(run, val_loss_old=4.0 + 0.01 * run.seed + 0.1 * (stages > 1)))
    judged = judge_runs(runs)
    assert [row['old'] for row in report.runs_table(judged).rows] == ['4.0200 ± 0.0100', '4.1200 ± 0.0100']
    rows = {row['run']: row for row in report.rows(judged)}
    assert rows['grown']['val_loss_old'] - rows['base']['val_loss_old'] == pytest.approx(0.1)
    del runs[0].records[-1]['val_loss_old']  # a mean of the others would leave a seed out
    assert report.runs_table(judge_runs(runs)).rows[0]['old'] == '-'

def test_a_score_that_disagrees_with_the_loss_is_marked():
    runs = []
    for name, losses, stages, right in (('base', (3.0, 3.001, 3.002), 1, 0.4),
                                        ('grown', (2.9, 2.901, 2.902), 4, 0.3)):
        for run in make_seeds(name, losses, n_stages=stages):
            scores = {'hellaswag_n': 100, 'hellaswag_bits': losses[0], 'hellaswag_acc_norm': right}
            runs.append(with_last(run, **scores))
    judged = judge_runs(runs)
    [row] = [row for row in report.scores_table(judged).rows if row['run'] == 'grown']
    assert row['acc_norm'].endswith('!') and not row['bits a byte'].endswith('!')  # bits agree

# ---- the trend

def test_a_trend_finds_the_slopes_and_predicts_what_is_held_out_before_it_runs():
    judged, sizes = ladder(0.2, -0.1, ('small', 'middle', 'large'))
    [trend] = report.trends(judged, sizes, ('largest',), COMING)
    assert [term.value for term in trend.terms[1:]] == pytest.approx([0.2, -0.1], abs=0.03)
    held_out = [cell for cell in trend.cells if cell.is_held_out]
    assert [(cell.scale, cell.budget, cell.measured) for cell in held_out] == [
        ('largest', budget, None) for budget in (5, 20, 80)]
    for cell in held_out:
        assert cell.predicted.value == pytest.approx(0.8 * 8**0.2 * (cell.budget / 20)**-0.1, rel=0.05)
        assert cell.predicted.low < cell.predicted.value < cell.predicted.high
    rows = report.rows(judged, [trend])
    predicted = [row for row in rows if row.get('scale') == 'largest']
    assert [row['predicted'] for row in predicted] == [cell.predicted.value for cell in held_out]
    [slopes] = [row for row in rows if row['run'] == 'grown: trend']
    assert slopes['trend:b'] == trend.terms[1].value and slopes['trend:c_low'] < slopes['trend:c']
    assert 'held out' in report.trend_tables([trend])[1].text()

def test_what_is_held_out_does_not_move_the_fit_and_stands_beside_its_prediction():
    before, sizes = ladder(0.2, -0.1, ('small', 'middle', 'large'))
    after, _ = ladder(0.2, -0.1, ('small', 'middle', 'large', 'largest'))
    [first] = report.trends(before, sizes, ('largest',), COMING)
    [second] = report.trends(after, sizes, ('largest',), COMING)
    assert first.terms == second.terms
    measured = [cell for cell in second.cells if cell.is_held_out]
    assert all(isinstance(cell.measured, Interval) for cell in measured) and len(measured) == 3

def test_three_cells_have_no_trend():
    judged, sizes = ladder(0.2, -0.1, ('small', 'middle'), (5, 20))
    assert len(report.trends(judged, sizes, (), [])) == 1  # four cells
    assert report.trends(judged, sizes, ('middle',), []) == []

@pytest.mark.parametrize('p, text', [(None, '-'), (math.nan, '-'), (1e-5, '<.0001'), (0.041, '0.041')])
def test_a_p_value_is_not_zero(p, text):
    assert report.p_value(p) == text
