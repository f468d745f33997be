"""What is drawn are the numbers of the runs. Run: python -m pytest tests/test_figure.py"""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from fake_runs import power_law, shifted, write_run, write_seeds
from matplotlib.figure import Figure

from core.common import UserError
from verdict import figure
from verdict.old_judge import judge_runs
from verdict.old_runs import read_runs


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved while a test runs."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    return figures


def report_on(folder, *options):
    return judge_runs(read_runs([str(path) for path in sorted(folder.iterdir())]), *options)


def curves_of(axes):
    """The lines with markers, in the order in which they were drawn."""
    return [line for line in axes.lines if line.get_marker() in (*'o', *figure.MARKERS)
            and len(line.get_xdata()) > 1]


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def lines_of(path, kind):
    return [r for r in map(json.loads, (path / 'metrics.jsonl').read_text().splitlines())
            if r['kind'] == kind]


def two_runs(folder):
    """A baseline and a run of four stages with frozen phases, whose steps cost unlike FLOPs."""
    write_run(folder / 'base', acc_norm=0.3)
    return write_run(folder / 'grown', lambda step: power_law(step) + 0.05, n_stages=4, acc_norm=0.4)


# ---- numbers


@pytest.mark.parametrize('panel, axis, name', [
    ('tokens', 'tokens', 'val_loss'), ('flops', 'flops', 'val_loss'), ('paper', 'flops_paper', 'val_loss'),
    ('seconds', 'seconds', 'val_loss'), ('accuracy', 'flops', 'hellaswag_acc_norm')])
def test_a_panel_shows_the_numbers_of_the_metrics(tmp_path, drawn, panel, axis, name):
    two_runs(tmp_path / 'runs')
    figure.draw_report(str(tmp_path / 'f.svg'), report_on(tmp_path / 'runs'), [panel])
    [axes] = drawn[0].axes
    base, grown = curves_of(axes)
    size = {'seconds': 60, 'tokens': 1}.get(axis, 1e13)
    for line, run in ((base, 'base'), (grown, 'grown')):
        evals = [record for record in lines_of(tmp_path / 'runs' / run, 'eval') if name != 'val_loss'
                 or record['step'] > 0]
        np.testing.assert_allclose(line.get_xdata(), [record[axis] / size for record in evals])
        np.testing.assert_allclose(line.get_ydata(), [record[name] for record in evals])
    assert base.get_color() == 'black' != grown.get_color()
    assert base.get_linestyle() != grown.get_linestyle()  # also without color
    assert base.get_marker() != grown.get_marker()


@pytest.mark.parametrize('panel, axis',
                         [('tokens', 'tokens'), ('flops', 'flops'), ('seconds', 'seconds'), ('accuracy',
                                                                                             'flops')])
def test_growth_marks_lie_on_the_curve_by_the_axis_s_own_values(tmp_path, drawn, panel, axis):
    """A step costs more in a later phase: by steps, a mark between two evaluations would lie beside the
    line."""
    path = two_runs(tmp_path / 'runs')
    text = (path / 'metrics.jsonl').read_text()
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        record['seconds'] = (record['step'] / 100)**2
        record['flops'] = 3e10 * record['step']**1.5
        if 'hellaswag_acc_norm' in record:
            record['hellaswag_acc_norm'] = 0.3 + record['step'] / 1e4
    kept = [record for record in records if record['kind'] != 'eval' or record['step'] % 200 == 0]
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in kept))
    figure.draw_report(str(tmp_path / 'f.svg'), report_on(tmp_path / 'runs'), [panel])
    [axes] = drawn[0].axes
    size = {'seconds': 1, 'tokens': 1}.get(axis, 10.0**13)
    line = curves_of(axes)[1]
    size = max(record[axis] for record in kept) / line.get_xdata()[-1]
    marks = [mark for mark in axes.lines if mark.get_marker() == '|']
    starts = [record[axis] for record in kept if record['kind'] == 'phase'
              and record['step'] in (250, 500, 750)]
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([start / size for start in starts])
    for mark in marks:
        assert mark.get_ydata()[0] == pytest.approx(np.interp(mark.get_xdata()[0], line.get_xdata(),
                                                              line.get_ydata()))
    shadows = [shadow for shadow in axes.lines if shadow.get_linewidth() == 7]
    phases = [record for record in kept if record['kind'] == 'phase']
    frozen = [(a[axis], b[axis]) for a, b in itertools.pairwise(phases) if a['phase'] == 'phase1']
    assert len(shadows) == len(frozen) == 3
    for shadow, (start, stop) in zip(shadows, frozen):
        assert (shadow.get_xdata()[0], shadow.get_xdata()[-1]) == pytest.approx((start / size, stop / size))
        np.testing.assert_allclose(shadow.get_ydata(),
                                   np.interp(shadow.get_xdata(), line.get_xdata(), line.get_ydata()))


def test_the_last_point_is_always_marked(tmp_path, drawn):
    write_run(tmp_path / 'runs' / 'base', every=27)
    figure.draw_report(str(tmp_path / 'f.svg'), report_on(tmp_path / 'runs'), ['flops'])
    [line] = curves_of(drawn[0].axes[0])
    assert line.get_markevery()[-1] == len(line.get_xdata()) - 1
    assert len(line.get_markevery()) <= 14


def test_the_band_is_the_sample_deviation_over_the_seeds(tmp_path, drawn):
    for seed, shift in ((1, 0.0), (2, 0.02), (3, 0.04)):
        write_run(tmp_path / 'runs' / f'base_seed{seed}', shifted(power_law, shift), seed=seed)
    figure.draw_report(str(tmp_path / 'f.svg'), report_on(tmp_path / 'runs'), ['flops'])
    [axes] = drawn[0].axes
    [line] = curves_of(axes)
    edges = axes.collections[0].get_paths()[0].vertices
    assert edges[:, 1].min() == pytest.approx(line.get_ydata()[-1] - 0.02)
    assert '± 1 sd' in axes.get_title(loc='right')


# ---- the hero panel


def test_the_hero_names_the_curves_at_their_ends_and_draws_the_depth_below(tmp_path, drawn):
    two_runs(tmp_path / 'runs')
    figure.draw_report(str(tmp_path / 'f.png'), report_on(tmp_path / 'runs'))
    assert (tmp_path / 'f.png').read_bytes().startswith(b'\x89PNG')
    assert not (tmp_path / 'f.png.tmp').exists()
    above, below = drawn[0].axes
    assert {'base', 'grown'} <= set(texts_of(above))
    assert [text for text in texts_of(above) if text.startswith('same loss, ')
            and text.endswith('more compute (no verdict)')]
    staircase = below.patches[-1]
    assert list(staircase.get_data().values) == [3, 6, 6, 9, 9, 12, 12]
    hatched = [area for area in below.collections if area.get_hatch()]
    assert [area.get_paths()[0].vertices[:, 1].max() for area in hatched] == [3, 6, 9]  # the frozen layers
    assert below.get_title(loc='right') == 'hatched: frozen layers'
    assert above.get_xlim() == below.get_xlim()


@pytest.mark.parametrize('speed, text', [(0.8, 'same loss, 25% more compute'),
                                         (1.25, 'same loss, 20% less compute')])
def test_the_arrow_says_what_the_same_loss_costs(tmp_path, drawn, speed, text):
    write_seeds(tmp_path / 'runs', 'base', (1, 2, 3), sd=1e-4, every=10)
    write_seeds(tmp_path / 'runs', 'grown', (1, 2, 3), lambda step: power_law(speed * step), sd=1e-4,
                n_stages=4, every=10)
    figure.draw_report(str(tmp_path / 'f.svg'), report_on(tmp_path / 'runs'))
    above = drawn[0].axes[0]
    assert text in texts_of(above)
    # From the baseline to the run: to the left where less is needed.
    [arrow] = [a for a in above.texts if a.get_text() == '' and a.arrow_patch]
    start, stop = arrow.xyann[0], arrow.xy[0]
    assert stop / start == pytest.approx(1 / speed, rel=0.02)


@pytest.mark.parametrize('bound, value, text', [
    ('', 0.9, '10% less'), ('at most', 0.9, 'at least 10% less'), ('at least', 0.9, 'at most 10% less'),
    ('at least', 1.3, 'at least 30% more'), ('at most', 1.3, 'at most 30% more')])
def test_a_bound_is_said_the_right_way_round(tmp_path, bound, value, text):
    write_run(tmp_path / 'runs' / 'base')
    write_run(tmp_path / 'runs' / 'grown', n_stages=4)
    [judgment] = report_on(tmp_path / 'runs').judgments
    judgment.by_axis['flops'].cost.value = value
    judgment.by_axis['flops'].cost.bound = bound
    assert figure.arrow_text(judgment) == f'same loss, {text} compute (no verdict)'


@pytest.mark.parametrize('panels', [None, ['tokens', 'seconds']])
def test_names_are_shown_as_they_are(tmp_path, drawn, panels):
    """Matplotlib leaves out of a legend what begins with _, and sets what stands between dollars as
    mathematics."""
    names = ['_hidden', 'for $5 or $6', 'a_b^c', 'x' * 80]
    for k, name in enumerate(names):
        write_run(tmp_path / 'runs' / name, shifted(power_law, 0.01 * k), n_stages=1 + k)
    figure.draw_report(str(tmp_path / 'f.png'), report_on(tmp_path / 'runs'), panels)
    texts = drawn[0].axes[0].texts if panels is None else drawn[0].legends[0].get_texts()
    shown = [text for text in texts if text.get_text()]
    for name in names[:3]:
        [text] = [text for text in shown if text.get_text() == name]
        assert not text.get_parse_math()
    assert [text for text in shown if text.get_text().startswith('xxx') and len(text.get_text()) <= 34]


def test_twenty_names_do_not_lie_on_each_other(tmp_path, drawn):
    for k in range(20):
        write_run(tmp_path / 'runs' / f'run{k}', shifted(power_law, 0.0005 * k), every=200, n_stages=1
                  if k == 0 else 2,
                  rewarm_steps=k)
    figure.draw_report(str(tmp_path / 'f.png'), report_on(tmp_path / 'runs'))
    above = drawn[0].axes[0]
    heights = sorted(text.xyann[1] for text in above.texts if text.get_text().startswith('run'))
    assert len(heights) == 20
    line = 8 / (above.get_position().height * drawn[0].get_figheight() * 72)
    assert np.diff(heights).min() >= line
    assert heights[0] >= 0 and heights[-1] <= 1
    looks = {(line.get_color(), str(line.get_linestyle()), line.get_marker()) for line in curves_of(above)}
    assert len(looks) == 20


def test_places_are_moved_no_further_than_they_must():
    assert figure.spread_out([0.2, 0.5, 0.8], 0.1) == pytest.approx([0.2, 0.5, 0.8])
    assert figure.spread_out([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert figure.spread_out([0.0, 0.0], 0.1) == pytest.approx([0.0, 0.1])
    assert figure.spread_out([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])


# ---- what isn't drawn


def test_runs_on_other_data_are_not_in_it_and_unscored_ones_have_no_empty_panel(tmp_path, drawn):
    write_run(tmp_path / 'runs' / 'base')
    write_run(tmp_path / 'runs' / 'other', vocab_size=320, n_stages=2)
    report = report_on(tmp_path / 'runs')
    figure.draw_report(str(tmp_path / 'f.svg'), report, ['accuracy', 'flops', 'catch_up', 'bits',
                                                         'multiplier'])
    [axes] = drawn[0].axes
    assert len(curves_of(axes)) == 1
    with pytest.raises(UserError, match='--panels=accuracy: these runs have nothing to show there'):
        figure.draw_report(str(tmp_path / 'g.svg'), report, ['accuracy'])
    assert not (tmp_path / 'g.svg').exists()


def test_runs_without_an_evaluation_are_one_clear_error(tmp_path):
    path = write_run(tmp_path / 'runs' / 'started', until=10, every=1000)
    (path / 'metrics.jsonl').unlink()
    with pytest.raises(UserError, match='none of these runs has an evaluation yet'):
        figure.draw_report(str(tmp_path / 'f.svg'), report_on(tmp_path / 'runs'))


def test_every_panel_can_be_drawn(tmp_path, drawn):
    two_runs(tmp_path / 'runs')
    for seed in (1, 2):
        write_run(tmp_path / 'runs' / f'fast_seed{seed}', shifted(power_law, 0.01 * seed), seed=seed,
                  n_stages=2, acc_norm=0.3)
    panels = [panel for panel in figure.PANELS if panel != 'bits']
    figure.draw_report(str(tmp_path / 'f.pdf'), report_on(tmp_path / 'runs'), panels)
    assert len(drawn[0].axes) == len(panels)
    assert (tmp_path / 'f.pdf').read_bytes().startswith(b'%PDF')


def test_panels_and_file_names_that_cannot_be_are_refused():
    for path, panels, message in (('x.jpg', '', 'must end in .png, .pdf or .svg'), ('x.png', 'tokns',
                                                                                    'no panel is called so'),
                                  (None, 'tokens', '--panels needs --figure')):
        with pytest.raises(UserError, match=message):
            figure.check_panels(path, panels)


def test_without_matplotlib_there_is_the_table_and_a_clear_error(tmp_path):
    base = write_run(tmp_path / 'base')
    hidden = tmp_path / 'hidden'
    hidden.mkdir()
    (hidden / 'matplotlib.py').write_text("raise ImportError('hidden')")
    done = subprocess.run([sys.executable, 'compare.py', str(base), f'--figure={tmp_path}/f.png'],
                          capture_output=True,
                          text=True, env={**os.environ, 'PYTHONPATH': str(hidden)})
    assert done.returncode == 2
    assert done.stderr.startswith('error: --figure needs matplotlib')
    assert 'base (baseline)' in done.stdout
    assert not (tmp_path / 'f.png').exists()


# ---- a study, and a plan


def test_a_study_s_figure_shows_losses_multipliers_and_bounds_by_budget(tmp_path, drawn):
    arms = {}
    for steps, seed in itertools.product((500, 1000, 2000), (1, 2)):
        for arm, settings, speed in (('full', {}, 1.0), ('grown', {'n_stages': 4}, 1.2)):
            path = tmp_path / 'runs' / arm / f'b{steps}_s{seed}'
            write_run(path, lambda step, speed=speed, o=0.001 * seed: power_law(speed * step) + o, every=100,
                      seed=seed,
                      growth_steps=steps, lr_schedule='wsd', **settings)
            arms[str(path)] = arm
    report = judge_runs(read_runs(list(arms)), ['full'], arms)
    figure.draw_report(str(tmp_path / 'f.svg'), report, figure.study_panels(report))
    budget, multiplier, catch_up, head_start = drawn[0].axes
    assert (
        budget.get_xscale()
        == multiplier.get_xscale()
        == catch_up.get_xscale()
        == head_start.get_xscale()
        == 'log'
    )
    full, grown = budget.containers
    places = np.array([bars[0].get_xdata() for bars in (full, grown)], float)
    np.testing.assert_allclose(np.sqrt(places[0] * places[1]), [1.5e13, 3e13, 6e13], rtol=0.01)
    np.testing.assert_allclose(places[1] / places[0], 1.03, rtol=0.01)  # side by side
    np.testing.assert_allclose(grown[0].get_ydata(), [power_law(1.2 * s) + 0.0015 for s in (500, 1000, 2000)])
    [bars] = multiplier.containers
    np.testing.assert_allclose(bars[0].get_ydata()[:2], 1.2, rtol=0.02)
    np.testing.assert_allclose(bars[0].get_xdata(), places[1], rtol=0.01)
    assert len([text for text in multiplier.texts if text.arrow_patch]) == 1  # the highest budget is a bound
    assert len(curves_of(catch_up)) == 3
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names == ['full', 'grown']


def test_an_arm_whose_seeds_disagree_leaves_room_for_the_other_multipliers(tmp_path, drawn):
    arms = {}
    slow_then_fast = {'full': (1.0, 1.0), 'grown': (1.2, 1.2), 'unstable': (0.2, 2.0)}
    for steps, seed in itertools.product((500, 1000, 4000), (1, 2)):
        for arm, speeds in slow_then_fast.items():
            path = tmp_path / 'runs' / arm / f'b{steps}_s{seed}'
            settings = {} if arm == 'full' else {'n_stages': 4}
            write_run(path, lambda step, speed=speeds[seed - 1], o=1e-4 * seed: power_law(speed * step) + o,
                      every=100, seed=seed, growth_steps=steps, lr_schedule='wsd', **settings)
            arms[str(path)] = arm
    report = judge_runs(read_runs(list(arms)), ['full'], arms)
    figure.draw_report(str(tmp_path / 'f.svg'), report, figure.study_panels(report))
    multiplier = drawn[0].axes[1]
    low, high = multiplier.get_ylim()
    values = np.concatenate([bars[0].get_ydata() for bars in multiplier.containers])
    assert low < min(values) and max(values) < high
    ends = [segment for bars in multiplier.containers for segment in bars[2][0].get_segments()]
    assert max(end[1, 1] for end in ends) > 2 * max(values)  # there is a bar that leaves the panel
    assert high <= 1.5 * max(values)


def test_two_baselines_look_different_and_a_single_budget_has_a_readable_axis(tmp_path, drawn):
    arms = {}
    for optimizer, seed in itertools.product(('adamw', 'muon'), (1, 2)):
        for arm, settings, better in (('full', {}, 0.0), ('grown', {'n_stages': 4}, 0.01)):
            path = tmp_path / 'runs' / f'{arm} {optimizer}' / f'b1000_s{seed}'
            write_run(path, lambda step, off=0.001 * seed - better: power_law(step) + off, seed=seed,
                      optimizer=optimizer, growth_steps=500 if arm == 'full' else 510, **settings)
            arms[str(path)] = f'{arm} {optimizer}'
    report = judge_runs(read_runs(list(arms)), ['full adamw', 'full muon'], arms)
    figure.draw_report(str(tmp_path / 'f.svg'), report, figure.study_panels(report))
    looks = figure.arm_looks(report)
    first, second = looks['full adamw'], looks['full muon']
    assert first.color == second.color == 'black' and first.line != second.line
    budgets = drawn[0].axes[0]
    assert budgets.get_xlabel() == 'training FLOPs'
    low, high = budgets.get_xlim()
    assert high > 2 * low  # the runs' budgets differ by a hundredth
