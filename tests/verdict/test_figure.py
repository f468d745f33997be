"""What the figures show, read from what matplotlib was told to draw. Run: python -m pytest
tests/verdict/test_figure.py"""

import contextlib
import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
from fake_runs import COMING, ladder, make_seeds, study, write_seeds
from matplotlib.figure import Figure

from verdict import figure, report
from verdict.judge import Question, judge_runs
from verdict.runs import Place, read_runs

@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that a call draws, drawn as for a file, and not written."""
    made = []

    @contextlib.contextmanager
    def keep(path, width, height):
        one = Figure(figsize=(width, height), layout='constrained')
        yield one
        one.canvas.draw()
        made.append(one)

    monkeypatch.setattr(figure, 'new_figure', keep)
    return made

def markers(axes):
    """(x, y, filled) of each value that is drawn."""
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0]), line.get_markerfacecolor() != 'white')
            for line in axes.lines if line.get_marker() == 'o']

def blocks(forest) -> dict[str, list[str]]:
    """{title: names of the rows} of a forest's blocks."""
    found = {}
    for axes in forest.axes:
        if axes.get_subplotspec().is_first_col():
            title, *names = [label.get_text() for label in axes.get_yticklabels()]
            found[title] = names
    return found

def labels_overlap(axis) -> bool:
    boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
    return any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[k + 1:])

def test_each_value_of_the_forest_stands_where_it_is(drawn):
    shifts = {'better': -0.05, 'worse': 0.05, 'equal': 0.0}
    judged = study(shifts, questions=[Question('better', 1000), Question('worse', 2000)])
    figure.draw_forest('x.png', judged)
    panels = drawn[0].axes
    assert len(panels) == 3  # a column a budget
    arms = list(shifts)
    for axes, budget in zip(panels, (500, 1000, 2000)):
        assert axes.get_xscale() == 'log'
        expected = []
        for one in judged.comparisons:
            if one.budget == budget:
                expected.append((one.cost.value, -arms.index(one.arm), one.settled))
        assert sorted(markers(axes)) == sorted(expected)
        bars = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
        for one in judged.comparisons:
            if one.budget == budget:
                assert any(list(bar) == [one.cost.low, one.cost.high] for bar in bars)

def test_a_single_seed_has_no_interval_and_one_budget_no_cost(drawn):
    runs = [*make_seeds('base', (3.0,)), *make_seeds('grown', (2.9,), n_stages=4),
            *make_seeds('other', (2.8,), n_stages=2)]
    places = {run.path: Place(run.config.run_name, '', 1000) for run in runs}
    figure.draw_forest('x.png', judge_runs(runs, ['base'], places))
    [axes] = drawn[0].axes
    assert axes.get_xscale() == 'linear'
    assert [(x, filled) for x, _, filled in markers(axes)] == [(pytest.approx(-0.1), False),
                                                               (pytest.approx(-0.2), False)]
    assert all(line.get_color() == 'black' for line in axes.lines if len(line.get_xdata()) == 2)

@pytest.mark.parametrize('n, budgets', [(6, (500, 1000, 2000)), (14, (1000,)), (20, (1000, 2000))])
def test_no_labels_overprint(drawn, n, budgets):
    rng = np.random.default_rng(n)
    judged = study({f'a recipe of some length, {k}': 0.03 * rng.standard_normal() for k in range(n)}, budgets)
    figure.draw_forest('x.png', judged)
    figure.draw_losses('x.png', judged)
    for one in drawn:
        for axes in one.axes:
            if axes.get_visible():
                assert not labels_overlap(axes.xaxis) and not labels_overlap(axes.yaxis)
        colors = {line.get_color() for axes in one.axes for line in axes.lines}
        assert len(colors) <= 6

def test_what_lies_far_away_is_told_at_the_edge_and_presses_nothing_together(drawn):
    judged = study({**{f'arm {k}': 0.01 * k for k in range(1, 6)}, 'far': 3.0}, (1000,))
    figure.draw_forest('x.png', judged)
    [axes] = drawn[0].axes
    low, high = axes.get_xlim()
    assert len([x for x, _, _ in markers(axes) if low < x < high]) == 5 and high < 0.3
    assert '3 →' in [text.get_text() for text in axes.texts]

def test_arms_that_end_alike_have_an_axis_all_the_same(drawn):
    runs = make_seeds('base', (3.0, 3.0)) + make_seeds('grown', (3.0, 3.0), n_stages=4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        figure.draw_forest('x.png', judge_runs(runs))
    [axes] = drawn[0].axes
    assert axes.get_xlim()[0] < 0 < axes.get_xlim()[1]

def test_a_diverged_arm_is_a_row_without_a_value(drawn):
    runs = []
    for name, stages in (('base', 1), ('grown', 4), ('lost', 4)):
        for run in make_seeds(name, (3.0, 3.001, 3.002), n_stages=stages):
            if name == 'lost' and run.seed == 1:
                run = replace(run, records=run.records[:1], info={'ended': 'diverged'})
            runs.append(run)
    places = {run.path: Place(run.config.run_name, '', 1000) for run in runs}
    judged = judge_runs(runs, ['base'], places)
    figure.draw_forest('x.png', judged)
    [axes] = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ['a seed diverged'] and len(markers(axes)) == 1

def test_a_few_runs_are_curves_over_percent_of_the_baseline_before_a_pale_staircase(drawn):
    judged = judge_runs([*make_seeds('base', (3.0,)), *make_seeds('grown', (2.9,), n_stages=4)])
    figure.draw('x.png', judged)
    behind, axes = drawn[0].axes
    curves = [line for line in axes.lines if len(line.get_xdata()) > 1]
    assert [list(line.get_xdata()) for line in curves] == [[50, 100], [50, 100]]
    losses = [list(line.get_ydata()) for line in curves]
    assert losses == [[3.4, 3.0], [pytest.approx(3.3), pytest.approx(2.9)]]
    [stairs] = behind.patches
    assert list(stairs.get_data().values) == [3, 6, 6, 9, 9, 12, 12]
    assert stairs.get_data().edges[0] == 0 and stairs.get_data().edges[-1] == pytest.approx(100)
    assert axes.get_ylim()[1] > 3.4  # the beginning isn't cut off
    assert 'one seed: the way, not a result' in axes.get_title('left')

def test_blocks_and_panels_are_named_by_size_or_by_what_sets_arms_apart(drawn):
    judged, _ = ladder(0.2, -0.1, ('small', 'large'))
    figure.draw_forest('x.png', judged)
    figure.draw_losses('x.png', judged)
    assert blocks(drawn[0]) == {'small': ['grown'], 'large': ['grown']}
    assert [axes.get_title('left') for axes in drawn[1].axes] == ['grown, small', 'grown, large']
    runs = [*make_seeds('base', (3.0, 3.1)), *make_seeds('grown', (2.9, 3.0), n_stages=4),
            *make_seeds('muon', (2.8, 2.9), n_stages=4, optimizer='muon')]
    figure.draw_forest('x.png', judge_runs(runs))
    assert blocks(drawn[2]) == {'adamw': ['grown'], 'muon': ['muon']}

def test_catching_up_is_drawn_of_what_a_question_asks_about(tmp_path, drawn):
    write_seeds(tmp_path, 'base', (1, 2), lr_schedule='constant')
    for name, depth in (('asked', 6), ('other', 4)):
        write_seeds(tmp_path, name, (1, 2), n_stages=2, stage_depths=(depth, 12), lr_schedule='constant')
    judged = judge_runs(read_runs([str(tmp_path)]))
    assert sorted(figure.gaps_of(judged)) == ['asked', 'other']
    for one in judged.comparisons:
        one.declared = one.arm == 'asked'
    gaps = figure.gaps_of(judged)
    figure.draw_catch_up('x.png', gaps)
    [axes] = [axes for axes in drawn[0].axes if axes.get_visible()]
    [curve] = [line for line in axes.lines if len(line.get_xdata()) > 2]
    [(_, points)] = gaps['asked']
    assert list(curve.get_xdata()) == [tokens / 1e6 for tokens, _ in points] and len(points) == 10
    assert list(curve.get_ydata()) == [gap.value for _, gap in points]

def test_the_trend_shows_predicted_and_measured(drawn):
    judged, sizes = ladder(0.2, -0.1, ('small', 'middle', 'large'))
    trends = report.trends(judged, sizes, ('largest',), COMING)
    figure.draw_trend('x.png', trends)
    [axes] = drawn[0].axes
    measured = {(cell.size / 1e6, cell.measured.value) for cell in trends[0].cells if cell.measured}
    assert {(x, y) for x, y, _ in markers(axes)} == measured and len(measured) == 9
    crosses = [line for line in axes.lines if line.get_marker() == 'x']
    assert {float(line.get_ydata()[0]) for line in crosses} == {
        cell.predicted.value for cell in trends[0].cells if cell.is_held_out}
    assert not labels_overlap(axes.xaxis) and not labels_overlap(axes.yaxis)

@pytest.mark.parametrize('form, begins', [('png', b'\x89PNG'), ('svg', b'<?xml')])
def test_files_are_whole_and_any_name_is_drawn(tmp_path, form, begins):
    judged = study({'増長 $x_1$ & <b>': -0.05, '=a|b': 0.02}, (500, 1000))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        paths = figure.draw(str(tmp_path / f'x.{form}'), judged)
    assert [os.path.basename(path) for path in paths] == [f'x.{form}', f'x_losses.{form}']
    for path in paths:
        with open(path, 'rb') as f:
            assert f.read().startswith(begins)
    assert len(os.listdir(tmp_path)) == 2

def test_nothing_is_drawn_of_runs_without_an_evaluation(tmp_path):
    """And a baseline without one leaves the others' curves."""
    runs = make_seeds('base', (3.0,), until=0)
    assert figure.draw(str(tmp_path / 'x.png'), judge_runs(runs)) == []
    runs += make_seeds('grown', (2.9,), n_stages=4)
    assert figure.draw(str(tmp_path / 'x.png'), judge_runs(runs)) == [str(tmp_path / 'x.png')]
    # A study of which the baseline alone is done.
    runs = make_seeds('base', (3.0,))
    places = {run.path: Place('base', '', 1000) for run in runs}
    judged = judge_runs(runs, ['base'], places, [Question('a', 1000)])
    assert figure.draw(str(tmp_path / 'x.png'), judged) == []
