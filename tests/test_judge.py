"""Verdicts on runs whose truth is known. Run: python -m pytest tests/test_judge.py"""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from fake_runs import power_law, shifted, write_run, write_seeds

import schedule
from config import TrainConfig
from core.common import UserError
from verdict import old_judge as judge
from verdict import old_stats as stats
from verdict.ladder import Ladder
from verdict.old_judge import Judgment, Report, catch_up, compare, judge_runs
from verdict.old_runs import AXES, Curve, Group, Run, read_runs

STEPS = np.array([50, 100, 200, 400, 600, 800, 1000.0])
FLOPS = 3e10  # per step at full depth
SD = 0.01


def flat(steps, loss_at_step, offsets):
    """Curves of some seeds: one loss curve, moved by an offset each."""
    curves = []
    for offset in offsets:
        flops = steps * FLOPS
        curves.append(Curve(steps, steps * 2048, flops, flops, steps * 0.25, loss_at_step(steps) + offset))
    return curves


def make_group(name, offsets, loss_at_step=power_law, steps=STEPS, **settings):
    """A group in memory, as runs.make_groups makes them of directories."""
    total = int(steps[-1])
    config = TrainConfig(**{'growth_steps': total, 'continual_steps': 0, **settings})
    records = [{'kind': 'eval', 'step': total, 'val_loss': 0.0}]
    runs = []
    for seed in range(len(offsets)):
        seeded = dataclasses.replace(config, seed=seed)
        runs.append(Run(f'{name}{seed}', seeded, schedule.plan(config), records, False, {}, 0.0))
    return Group(name, name, runs, flat(steps, loss_at_step, offsets), [], None, {}, {})


def judged(groups, ladder):
    """A report on some groups in memory, corrected for their number."""
    report = Report([*ladder.rungs, *groups], [ladder], [], [], None, False)
    for group in groups:
        report.judgments.append(Judgment(group, ladder, ladder.nearest(group),
                                         {'flops': compare(group, ladder, 'flops')}))
    judge.correct(report)
    return report


# ---- the promise: a verdict that is true 95 times in 100


def test_a_verdict_is_welch_and_holm_as_stats_computes_them():
    """So what test_stats.py simulates 20,000 times (false alarms of one and of seven, coverage) is what judge
    says."""
    rng = np.random.default_rng(1)
    for seeds in (2, 3, 5, 8):
        offsets = SD * rng.standard_normal((8, seeds))
        ladder = Ladder('base', [make_group('base', offsets[0])])
        report = judged([make_group(f'run{k}', offsets[k]) for k in range(1, 8)], ladder)
        expected = stats.welch(offsets[1:], offsets[0])
        found = [judgment.by_axis['flops'].difference for judgment in report.judgments]
        np.testing.assert_allclose([difference.p for difference in found], expected.p)
        np.testing.assert_allclose([difference.low for difference in found], expected.low, atol=1e-12)
        np.testing.assert_allclose([judgment.p for judgment in report.judgments], stats.holm(expected.p))


@pytest.mark.parametrize('p, verdict', [(0.0499, 'clear'), (0.0501, 'not clear'), (1.0, 'not clear'),
                                        (math.nan, '')])
def test_clear_means_a_corrected_p_below_5_percent(p, verdict):
    group = make_group('run', [0.0, 0.1])
    ladder = Ladder('base', [group])
    assert Judgment(group, ladder, group, {}, p).verdict == verdict


@pytest.mark.parametrize('seeds', [2, 3, 5, 8])
def test_of_equal_schedules_few_are_called_different(seeds):
    """One comparison: at most 6 of 100. Seven at once: in at most 6 of 100 calls one or more."""
    rng = np.random.default_rng(seeds)
    calls = 150
    single = 0
    any_of_seven = 0
    for _ in range(calls):
        ladder = Ladder('base', [make_group('base', SD * rng.standard_normal(seeds))])
        groups = [make_group('run', SD * rng.standard_normal(seeds)) for _ in range(7)]
        reference = ladder.reference('flops')
        p = [judge.equal_compute(group, ladder, reference).difference.p for group in groups]
        single += np.sum(np.array(p) < stats.SIGNIFICANT)
        any_of_seven += np.any(stats.holm(p) < stats.SIGNIFICANT)
    assert single / (7 * calls) <= 0.06
    assert any_of_seven / calls <= 0.06


@pytest.mark.parametrize('seeds', [3, 5])
@pytest.mark.parametrize('ratio', [1.0, 3.0])  # of the run's deviation to the baseline's
@pytest.mark.parametrize('speed', [0.8, 1.25])  # the run needs 1 / speed of the baseline's compute
def test_the_interval_of_a_cost_covers_the_truth_in_93_to_97_of_100_cases(seeds, ratio, speed):
    rng = np.random.default_rng(7)
    draws = 500
    covered = 0
    for _ in range(draws):
        ladder = Ladder('base', [make_group('base', SD * rng.standard_normal(seeds))])
        run = make_group('run', ratio * SD * rng.standard_normal(seeds), lambda step: power_law(speed * step))
        cost = judge.find_cost(run, ladder.reference('flops'), None).cost
        low = 0 if cost.low_open else cost.low
        high = math.inf if cost.high_open else cost.high
        assert low <= cost.value <= high
        covered += low <= 1 / speed <= high
    # 500 draws know a share of .95 to within .02 (two deviations).
    assert 0.93 <= covered / draws <= 0.98


def test_four_deviations_are_seen_by_five_seeds_in_over_95_of_100_cases():
    rng = np.random.default_rng(3)
    clear = 0
    for _ in range(300):
        ladder = Ladder('base', [make_group('base', SD * rng.standard_normal(5))])
        group = make_group('run', 4 * SD + SD * rng.standard_normal(5))
        clear += judged([group], ladder).judgments[0].verdict == 'clear'
    assert clear / 300 > 0.95


def test_one_seed_has_no_verdict_and_a_known_deviation_gives_one():
    ladder = Ladder('base', [make_group('base', [0.0, 0.01])])
    run = make_group('run', [0.1])
    report = judged([run], ladder)
    assert report.judgments[0].verdict == ''
    assert math.isnan(report.judgments[0].by_axis['flops'].cost.low)
    known = compare(run, ladder, 'flops', sigma=0.01)
    assert known.difference.df == math.inf
    assert known.difference.se == pytest.approx(0.01 * math.sqrt(1.5))
    assert known.cost.low < known.cost.value < known.cost.high


def test_what_could_be_seen_is_the_half_width_at_the_corrected_level():
    rng = np.random.default_rng(0)
    ladder = Ladder('base', [make_group('base', SD * rng.standard_normal(3))])
    alone = judged([make_group('run', SD * rng.standard_normal(3))], ladder).judgments[0]
    difference = alone.by_axis['flops'].difference
    assert alone.sees == pytest.approx(difference.high - difference.value)
    report = judged([alone.group, *(make_group('other', SD * rng.standard_normal(3)) for _ in range(6))],
                    ladder)
    assert report.judgments[0].sees > 1.5 * alone.sees


# ---- cost


@pytest.mark.parametrize('speed', [0.5, 0.76, 0.95, 1.05, 1.3, 2.0])
def test_a_run_that_learns_at_another_speed_costs_what_it_must(speed):
    steps = np.arange(10.0, 1001, 10)
    ladder = Ladder('base', [make_group('base', [0.0, 0.001], steps=steps)])
    run = make_group('run', [0.0, 0.001], lambda step: power_law(speed * step), steps)
    found = compare(run, ladder, 'flops')
    assert found.cost.value == pytest.approx(1 / speed, rel=1e-3)
    assert found.cost.bound == ''
    assert found.cost.inverse().value == pytest.approx(speed, rel=1e-3)
    if speed < 1:
        assert found.baseline_needs == pytest.approx(speed * 1000 * FLOPS, rel=1e-3)
        assert math.isnan(found.needs)
    else:
        assert found.needs == pytest.approx(1000 * FLOPS / speed, rel=1e-3)
        assert math.isnan(found.baseline_needs)


def test_beyond_the_first_evaluation_there_is_a_bound_and_no_guess():
    ladder = Ladder('base', [make_group('base', [0.0, 0.001])])
    bad = compare(make_group('bad', [0.0, 0.001], lambda step: power_law(0.01 * step)), ladder, 'flops')
    # the baseline's first is at 50 of 1000
    assert (bad.cost.value, bad.cost.bound) == (pytest.approx(20), 'at least')
    good = compare(make_group('good', [0.0, 0.001], lambda step: 0.5 + 0 * step), ladder, 'flops')
    assert (good.cost.value, good.cost.bound) == (pytest.approx(0.05), 'at most')
    assert (good.cost.inverse().value, good.cost.inverse().bound) == (pytest.approx(20), 'at least')


def test_seeds_that_were_evaluated_at_other_steps_all_count(tmp_path):
    """Where one seed alone was evaluated the others are interpolated: a value, no bound, and no point thrown
    away."""
    for seed, every in ((1, 50), (2, 70)):
        write_run(tmp_path / f'base_seed{seed}', every=every, seed=seed, eval_interval=every)
        write_run(tmp_path / f'grown_seed{seed}', lambda step: power_law(0.09 * step), every=every, seed=seed,
                  n_stages=4,
                  eval_interval=every)
    report = judge_runs(read_runs([str(path) for path in sorted(tmp_path.iterdir())]))
    # The runs end at the loss that the baselines have at step 90: seed 1 was evaluated at 50 and 100, seed 2
    # at 70 and 140.
    for axis in AXES:
        cost = report.judgments[0].by_axis[axis].cost
        assert (cost.value, cost.bound) == (pytest.approx(1 / 0.09, rel=0.02), '')


def test_a_run_that_begins_below_the_baseline_has_no_cost():
    ladder = Ladder('base', [make_group('base', [0.0, 0.001])])
    run = make_group('run', [0.0, 0.001], lambda step: 1.9 + 0 * step)
    run.start_loss = 1.95
    assert math.isnan(compare(run, ladder, 'flops').cost.value)
    run.start_loss = 5.0
    assert compare(run, ladder, 'flops').cost.bound == 'at most'
    # Where the compute that made it is counted, it isn't below from the start: its start has a price.
    run.start_loss = 1.95
    run.sunk = {'flops': 1e13}
    counted = compare(run, ladder, 'flops')
    assert counted.cost.bound == 'at most'
    assert counted.cost.value == pytest.approx((1e13 + 50 * FLOPS) / (1000 * FLOPS))


def test_a_run_that_ends_where_the_baseline_began_has_no_cost():
    base = make_group('base', [0.0, 0.001])
    base.start_loss = 5.0
    run = make_group('run', [0.0, 0.001], lambda step: 6.0 + 0 * step)
    assert math.isnan(compare(run, Ladder('base', [base]), 'flops').cost.value)


def test_the_first_crossing_counts():
    positions = np.arange(5.0)
    assert judge.crossing(positions, np.array([-1.0, -0.5, 0.5, -1.0, 1.0])) == (1.5, False)
    assert judge.crossing(positions, np.array([0.0, 1, 2, 3, 4])) == (0.0, True)
    assert math.isnan(judge.crossing(positions, -np.ones(5))[0])


# ---- the ladder


E, A, ALPHA = 2.0, 400.0, 0.21


def truth(flops):
    return E + A * flops**-ALPHA


def rung(steps, offsets=(0.0, 0.0, 0.0), multiplier=1.0, name='base', **settings):
    """A decayed run: far above the power law on its way, on it at its end."""
    on_the_way = np.linspace(0.1, 1, 10) * steps

    def loss(step):
        return truth(multiplier * step * FLOPS) + 0.4 * (1 - step / steps)

    return make_group(f'{name}{steps}', offsets, loss, on_the_way, lr_schedule='cosine', **settings)


def ladder_of(budgets, rng=None, seeds=3, sd=0.002):
    rungs = []
    for steps in budgets:
        offsets = sd * rng.standard_normal(seeds) if rng else np.zeros(seeds)
        rungs.append(rung(steps, offsets))
    return Ladder('base', rungs)


@pytest.mark.parametrize('budgets', [(500, 1000, 2000, 4000), (500, 2000, 8000), (500, 1000),
                                     (250, 1000, 4000, 16000)])
@pytest.mark.parametrize('multiplier', [0.8, 1.0, 1.3])
def test_a_multiplier_is_recovered_within_2_percent(budgets, multiplier):
    """With three rungs or more; between two the straight line in log compute overrates a run, by what the
    docstring says."""
    ladder = ladder_of(budgets)
    steps = budgets[0] if multiplier > 1 else budgets[-1]
    found = compare(rung(steps, (0.0, 0.0), multiplier, 'run'), ladder, 'flops')
    allowed = 0.02 if len(budgets) > 2 else 0.03
    assert found.cost.inverse().value == pytest.approx(multiplier, rel=allowed)
    assert found.cost.bound == ''
    assert not found.reads_baseline_middle
    # At equal compute it's judged by the rung of its own budget.
    assert found.baseline_loss == pytest.approx(truth(steps * FLOPS))
    assert found.difference.value == pytest.approx(truth(multiplier * steps * FLOPS) - truth(steps * FLOPS))


@pytest.mark.parametrize('factor, exponent, percent', [(2, 0.3, 2), (4, 0.3, 7), (2, 0.84, 5), (4, 0.84, 22)])
def test_a_straight_line_between_two_rungs_overrates_by_what_the_docstring_says(factor, exponent, percent):
    def law(steps):
        return 2.0 + 400.0 * (steps * FLOPS) ** -exponent

    def group(steps):
        on_the_way = np.linspace(0.1, 1, 10) * steps
        return make_group(f'b{steps}', [0.0, 0.0], law, on_the_way, lr_schedule='cosine')

    reference = Ladder('base', [group(1000), group(1000 * factor)]).reference('flops')
    steps = np.geomspace(1000, 1000 * factor, 2000)
    line = reference.at(steps * FLOPS)[0]
    # A full-depth run itself, between the rungs: the line has its loss only later.
    later = np.interp(-law(steps), -line, steps)
    assert 100 * ((later / steps).max() - 1) == pytest.approx(percent, abs=0.5)


def test_a_run_between_two_rungs_is_judged_by_what_lies_between_them():
    ladder = ladder_of((500, 1000, 2000, 4000))
    found = compare(rung(1400, (0.0, 0.0), 1.2, 'run'), ladder, 'flops')
    assert found.cost.inverse().value == pytest.approx(1.2, rel=1e-3)
    assert found.baseline_loss == pytest.approx(truth(1400 * FLOPS), abs=1e-5)
    assert not found.reads_baseline_middle
    assert not found.reads_run_middle


@pytest.mark.parametrize('budgets', [(500, 1000, 2000), (500, 1000, 2000, 4000, 8000)])
def test_the_interval_of_a_multiplier_covers_the_truth(budgets):
    rng = np.random.default_rng(5)
    draws = 300
    covered = 0
    for _ in range(draws):
        ladder = ladder_of(budgets, rng)
        run = rung(800, 0.002 * rng.standard_normal(3), 1.15, 'run')
        cost = judge.find_cost(run, ladder.reference('flops'), None).cost
        covered += cost.low <= 1 / 1.15 <= cost.high
    assert 0.92 <= covered / draws <= 0.985


def test_outside_the_ladder_there_are_bounds():
    ladder = ladder_of((500, 1000, 2000, 4000))
    better = compare(rung(4000, (0.0, 0.0), 1.3, 'run'), ladder, 'flops')
    # No worse than by the run's own middle, and no guess beyond that.
    assert better.cost.bound == 'at most'
    assert 1 / 1.3 < better.cost.value <= 1.0
    assert better.cost.low_open
    assert not better.cost.high_open
    worse = compare(rung(500, (0.0, 0.0), 0.7, 'run'), ladder, 'flops')
    # The lowest rung's middle, too, bounds it: what an undecayed baseline needs, a decayed one doesn't
    # exceed.
    assert worse.cost.bound == 'at least'
    assert 1.02 < worse.cost.value < 1 / 0.7
    assert worse.cost.low_open
    assert worse.cost.high_open


def test_an_identical_baseline_of_another_budget_has_a_multiplier_of_1_and_is_a_rung(tmp_path):
    """Not 1.40: read in the middle of a schedule that has yet to decay, any shorter run looks good."""
    for steps in (500, 1000, 2000):
        end = truth(steps * FLOPS)
        write_run(tmp_path / f'b{steps}', lambda step, end=end, steps=steps: end + 0.4 * (1 - step / steps),
                  growth_steps=steps, lr_schedule='cosine', rates={'flops': FLOPS})
    runs = read_runs([str(path) for path in sorted(tmp_path.iterdir())])
    report = judge_runs(runs)
    [ladder] = report.ladders
    assert [group.name for group in ladder.rungs] == ['b500', 'b1000', 'b2000']
    assert not report.judgments
    # Named as the baseline or not, it makes no difference.
    assert len(judge_runs(runs, [f'{tmp_path}/b2000']).ladders[0].rungs) == 3
    # And held against the others, it has the compute that it has.
    found = compare(ladder.rungs[1], Ladder('base', [ladder.rungs[0], ladder.rungs[2]]), 'flops')
    assert found.cost.inverse().value == pytest.approx(1.0, abs=0.06)  # on a straight line from 500 to 2000
    alone = compare(ladder.rungs[1], Ladder('base', [ladder.rungs[2]]), 'flops')
    assert alone.cost.inverse().value > 1.4
    assert alone.reads_baseline_middle  # which is said


def test_at_a_constant_rate_the_longest_run_is_the_whole_ladder():
    ladder = Ladder('base', [make_group('b500', [0.0, 0.001], steps=STEPS / 2),
                             make_group('b1000', [0.0, 0.001])])
    assert len(ladder.reference('flops').rungs) == 1
    early = make_group('run', [0.0, 0.001], lambda step: power_law(0.3 * step))
    assert compare(early, ladder, 'flops').cost.value == pytest.approx(1 / 0.3, rel=0.02)
    assert not compare(early, ladder, 'flops').reads_baseline_middle


def test_three_losses_on_no_power_law_are_joined_by_straight_lines():
    rungs = [rung(steps) for steps in (500, 1000, 2000)]
    for group, height in zip(rungs, (3.0, 2.9, 2.6)):
        for curve in group.curves:
            curve.loss += height - curve.loss[-1]
    reference = Ladder('base', rungs).reference('flops')
    assert reference.law is None
    middle = math.sqrt(500 * 1000) * FLOPS
    assert reference.at(middle)[0] == pytest.approx(2.95)


# ---- which baseline


def test_of_several_baselines_each_run_gets_the_one_that_is_trained_like_it(tmp_path):
    for optimizer in ('adamw', 'muon'):
        write_run(tmp_path / f'base_{optimizer}', optimizer=optimizer)
        write_run(tmp_path / f'grown_{optimizer}', optimizer=optimizer, n_stages=4)
    runs = read_runs([str(path) for path in sorted(tmp_path.iterdir())])
    with pytest.raises(UserError, match='several different runs could be the baseline'):
        judge_runs(runs)
    report = judge_runs(runs, [f'{tmp_path}/base_adamw', f'{tmp_path}/base_muon'])
    assert {judgment.group.name: judgment.rung.name for judgment in report.judgments} == {
        'grown_adamw': 'base_adamw', 'grown_muon': 'base_muon'}


def test_a_study_names_its_arms_and_is_judged_by_budget(tmp_path):
    arms = {}
    for steps, seed in itertools.product((500, 1000), (1, 2)):
        for arm, settings, gain in (('full depth', {}, 1.0), ('Li, 4 stages', {'n_stages': 4}, 1.2)):
            offset = 0.001 * seed
            path = write_run(tmp_path / arm / f'b{steps}_s{seed}', lambda step, gain=gain,
                             o=offset: power_law(gain * step) + o,
                             growth_steps=steps, lr_schedule='cosine', seed=seed, **settings)
            arms[str(path)] = arm
    report = judge_runs(read_runs(list(arms)), ['full depth'], arms)
    assert report.study
    assert [(judgment.group.arm, judgment.group.budget, judgment.rung.budget)
            for judgment in report.judgments] == [
        ('Li, 4 stages', 1.5e13, 1.5e13), ('Li, 4 stages', 3e13, 3e13)]
    assert [len(judgment.group.finals) for judgment in report.judgments] == [2, 2]
    assert [ladder.arm for ladder in report.arm_ladders()] == ['full depth', 'Li, 4 stages']
    with pytest.raises(UserError, match="baseline 'nobody': there is no run of that arm"):
        judge_runs(read_runs(list(arms)), ['nobody'], arms)


def test_a_named_baseline_counts_even_where_a_better_rate_was_tried(tmp_path):
    write_run(tmp_path / 'low', shifted(power_law, 0.1), learning_rate=1e-4)
    write_run(tmp_path / 'high', learning_rate=1e-3)
    write_run(tmp_path / 'grown', n_stages=4)
    runs = read_runs([str(path) for path in sorted(tmp_path.iterdir())])
    assert judge_runs(runs).judgments[0].rung.name == 'high'
    assert judge_runs(runs, [f'{tmp_path}/low']).judgments[0].rung.name == 'low'


# ---- sunk cost


def test_a_grown_checkpoint_is_judged_twice_where_its_cost_is_known(tmp_path):
    write_run(tmp_path / 'base', growth_steps=2000)
    made = {'init_from': {'path': 'out/first', 'flops': 1.5e13, 'flops_paper': 1e13}}
    write_run(tmp_path / 'grown', n_layer=12, init_from='out/first', init_depth=6, n_stages=2, info=made)
    report = judge_runs(read_runs([str(path) for path in sorted(tmp_path.iterdir())]))
    without, counted = report.judgments
    assert counted.group.name == 'grown + first training'
    for axis, sunk in (('flops', 1.5e13), ('flops_paper', 1e13)):
        a, b = without.by_axis[axis], counted.by_axis[axis]
        assert b.end == a.end + sunk
        assert b.cost.value == pytest.approx(a.cost.value * b.end / a.end, rel=0.01)
    assert 'seconds' in without.by_axis
    assert 'seconds' not in counted.by_axis  # nobody knows how long the first training took


def test_seeds_of_an_arm_start_from_checkpoints_of_their_own_and_are_one_group(tmp_path):
    """In a study, '@full depth' is that arm's run of the same seed."""
    arms = {}
    for seed, seconds in ((1, 100.0), (2, 200.0)):
        first = write_run(tmp_path / 'full depth' / f's{seed}', seed=seed)
        made = {'init_from': {'path': str(first), 'flops': 1.5e13, 'flops_paper': 1e13, 'seconds': seconds}}
        on = write_run(tmp_path / 'on' / f's{seed}', init_from=str(first), init_depth=12, seed=seed,
                       info=made)
        arms |= {str(first): 'full depth', str(on): 'on'}
    runs = read_runs(list(arms))
    on, counted = judge_runs(runs, ['full depth'], arms).judgments
    assert on.group.seeds == [1, 2]
    assert counted.group.seeds == [1, 2]
    assert counted.group.sunk == {'flops': 1.5e13, 'flops_paper': 1e13, 'seconds': 150.0}
    # Elsewhere nobody says that the checkpoints are alike.
    judgments = judge_runs(runs, [f'{tmp_path}/full depth/s1']).judgments
    alone = {judgment.group.name: judgment.group.seeds for judgment in judgments}
    assert all(len(seeds) == 1 for seeds in alone.values()) and len(alone) == 4


def test_what_grows_a_checkpoint_is_judged_by_the_baseline_that_trains_it_on(tmp_path):
    """The first training is spent for both. Where it is counted, the baseline is the one from scratch."""
    write_run(tmp_path / 'from_scratch', n_layer=12)
    made = {'init_from': {'path': 'out/first', 'flops': 1.5e13, 'flops_paper': 1e13}}
    checkpoint = {'init_from': 'out/first', 'init_depth': 6, 'info': made}
    write_run(tmp_path / 'on', n_layer=6, learning_rate=1e-4, **checkpoint)
    write_run(tmp_path / 'grown', n_layer=12, n_stages=2, learning_rate=2e-4, **checkpoint)
    write_run(tmp_path / 'small', n_layer=6, learning_rate=1e-4)
    runs = read_runs([str(path) for path in sorted(tmp_path.iterdir())])
    # Named first or second, and whatever learning rate the others have.
    for names in (('on', 'from_scratch'), ('from_scratch', 'on')):
        report = judge_runs(runs, [f'{tmp_path}/{name}' for name in names])
        assert {judgment.group.name: judgment.rung.name for judgment in report.judgments} == {
            'grown': 'on', 'grown + first training': 'from_scratch', 'on + first training': 'from_scratch',
            'small': 'from_scratch'}


# ---- catching up


def test_the_gap_since_the_last_growth_is_the_one_that_there_is(tmp_path):
    """Grown at 500 of 1000 steps, the run is behind by 0.2 / sqrt(steps since) at equal tokens; its
    full-depth updates are those since step 750, where the frozen phase ends."""
    def grown(step):
        return power_law(step) + (0.2 / math.sqrt(step - 500) if step > 500 else 0.3)

    write_seeds(tmp_path, 'base', (1, 2, 3), sd=0.001)
    write_seeds(tmp_path, 'grown', (1, 2, 3), grown, sd=0.001, n_stages=2, stage_depths=(6, 12))
    report = judge_runs(read_runs([str(path) for path in sorted(tmp_path.iterdir())]))
    points = catch_up(report.judgments[0])
    assert [point.step for point in points] == list(range(550, 1001, 50))
    noise = report.judgments[0].group.finals.mean() - grown(1000) - (
        report.judgments[0].rung.finals.mean() - power_law(1000))
    for point in points:
        since = point.step - 500
        assert point.tokens == since * 2048
        assert point.updates == max(0, point.step - 750)
        assert point.at_tokens.value == pytest.approx(0.2 / math.sqrt(since) + noise, abs=1e-9)
        assert math.isnan(point.at_tokens.p) is False
        if point.updates >= 50:
            expected = grown(point.step) - power_law(point.updates)
            assert point.at_updates.value == pytest.approx(expected + noise, abs=2e-3)
        else:
            assert point.at_updates is None  # before the baseline's first evaluation


def test_a_model_is_evaluated_before_and_after_it_grows(tmp_path):
    path = write_run(tmp_path / 'grown', n_stages=2, stage_depths=(6, 12))
    write_run(tmp_path / 'base')
    lines = []
    for line in (path / 'metrics.jsonl').read_text().splitlines():
        record = json.loads(line)
        if record['kind'] == 'phase' and record['step'] == 500:
            record |= {'val_loss_before': power_law(500), 'val_loss_after': 4.5}
        lines.append(json.dumps(record) + '\n')
    (path / 'metrics.jsonl').write_text(''.join(lines))
    report = judge_runs(read_runs([str(tmp_path / 'base'), str(path)]))
    group = report.judgments[0].group
    assert group.mean.loss[group.mean.step == 500] == power_law(500)  # what training had reached
    first = catch_up(report.judgments[0])[0]
    assert (first.step, first.tokens) == (500, 0)
    assert first.at_tokens.value == pytest.approx(4.5 - power_law(500))


def estimates(*pairs):
    return [None if pair is None else stats.Estimate(pair[0], 0.01, 4, 0, 0, pair[1]) for pair in pairs]


def test_a_gap_is_gone_from_where_no_later_one_is_clear():
    assert judge.gone_from(estimates((0.3, 0.001), (0.1, 0.3), (0.2, 0.01), (0.05, 0.2), None, (-0.1, 0.01)),
                           1) == 3
    assert judge.gone_from(estimates((0.3, 0.001)), 1) is None
    assert judge.gone_from(estimates((-0.3, 0.001), (0.2, 0.01)), -1) == 1
    assert judge.gone_from(estimates((0.3, math.nan)), 1) is None
    assert judge.gone_from([], 1) is None
