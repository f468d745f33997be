"""Verdicts on runs whose truth is known. Run: python -m pytest tests/verdict/test_judge.py"""

import math
from dataclasses import replace

import numpy as np
import pytest
from fake_runs import RATES, make_run, make_seeds, power_law, shifted, write_run, write_seeds

from core.common import UserError
from verdict import judge, stats
from verdict.judge import Question, catch_up, judge_groups, judge_runs
from verdict.runs import AXES, Place, make_groups, read_runs

SD = 0.01
STUDIES = 100
LOSSES = (2.9, 2.91, 2.92)
LOOKS = ((1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7, 8))

def study_of(arms, baselines, questions=None, **options):
    """A report on {arm: runs, or {budget: runs}}, judged as a study."""
    runs, places = [], {}
    for arm, budgets in arms.items():
        for budget, some in (budgets if isinstance(budgets, dict) else {1000: budgets}).items():
            for run in some:
                run = replace(run, path=f'out/{arm}/{budget}_{run.seed}')
                runs.append(run)
                places[run.path] = Place(arm, '', budget)
    return judge_runs(runs, baselines, places, questions, **options)

def grown(losses, **settings):
    """Seeds of a run that grows in four stages."""
    return make_seeds('grown', losses, n_stages=4, **settings)

def full(losses=(3.0, 3.01, 3.02), **settings):
    return make_seeds('full', losses, **settings)

def of(report, arm, budget=1000):
    [found] = [one for one in report.comparisons if (one.arm, one.budget) == (arm, budget)]
    return found

# ---- a study's questions

def test_the_correction_is_over_the_declared_questions_alone():
    rng = np.random.default_rng(1)
    arms = {f'arm{k}': grown(3 + SD * rng.standard_normal(3)) for k in range(7)}
    arms = {'full': make_seeds('full', 3 + SD * rng.standard_normal(3))} | arms
    questions = [Question(f'arm{k}', 1000) for k in (0, 3, 4)]
    report = study_of(arms, ['full'], questions)
    losses = {arm: [run.records[-1]['val_loss'] for run in runs] for arm, runs in arms.items()}
    p = {arm: stats.welch(losses[arm], losses['full']).p for arm in arms if arm != 'full'}
    corrected = stats.holm([p['arm0'], p['arm3'], p['arm4']])
    assert [of(report, f'arm{k}').corrected for k in (0, 3, 4)] == pytest.approx(list(corrected))
    for arm in p:
        assert of(report, arm).p == pytest.approx(p[arm])
        if arm not in ('arm0', 'arm3', 'arm4'):
            assert (of(report, arm).corrected, of(report, arm).word, of(report, arm).why) == (None, '', '')
    assert len(report.declared) == 3

def test_without_questions_every_arm_is_asked_about_at_the_largest_budget():
    arms = {'full': {1000: full((3.0, 3.01)), 4000: full((2.0, 2.01), steps=4000)}}
    for arm in ('a', 'b'):
        arms[arm] = {1000: grown((3.0, 3.01)),
                     4000: grown((2.0, 2.01), steps=4000)}
    report = study_of(arms, ['full'])
    assert {(one.arm, one.budget) for one in report.declared} == {('a', 4000), ('b', 4000)}
    assert len(report.comparisons) == 4

@pytest.mark.parametrize('shift, sd, word', [(-0.1, 0.002, 'saves'), (0.1, 0.002, 'costs'),
                                             (0.0, 0.0005, 'same'), (0.0, 0.05, 'open')])
def test_four_words(shift, sd, word):
    offsets = sd * np.array([-1, 0, 1])
    arms = {'full': {steps: make_seeds('full', truth(steps * RATES['flops']) + offsets, steps=steps)
                     for steps in (500, 1000, 2000)},
            'grown': grown(truth(1000 * RATES['flops']) + shift + 1.1 * offsets)}
    found = of(study_of(arms, ['full'], [Question('grown', 1000)]), 'grown')
    assert (found.word, found.why) == (word, '')
    assert found.settled == (word != 'open')
    # A wider margin is easier to stay within.
    wide = of(study_of(arms, ['full'], [Question('grown', 1000)], margin=30.0), 'grown')
    assert wide.word == {'open': 'open' if wide.cost.low < -29 else 'same'}.get(word, word)

@pytest.mark.parametrize('corrected, low, high, word', [
    (0.0499, 0.5, 0.7, 'saves'), (0.0501, 0.5, 0.7, 'open'), (0.0501, 0.91, 1.09, 'same'),
    (0.0501, 0.89, 1.09, 'open'), (0.0501, 0.9, 1.1, 'same'), (0.0499, 0.91, 1.09, 'saves')])
def test_a_word_is_at_5_percent_and_within_the_margin(corrected, low, high, word):
    arms = {'full': full(), 'grown': grown(LOSSES)}
    found = replace(of(study_of(arms, ['full']), 'grown'), word='', cost=stats.Interval(1.0, low, high))
    judge.put_word(found, corrected, 0.1)
    assert found.word == word

def test_runs_of_one_budget_are_compared_at_their_ends_which_whole_steps_keep_apart():
    arms = {'full': full(steps=1004), 'grown': grown(LOSSES, steps=1000)}
    found = of(study_of({arm: {1000: runs} for arm, runs in arms.items()}, ['full']), 'grown')
    assert found.difference.value == pytest.approx(-0.1)

# ---- pairs

def on_from(made, losses, n_layer=6, sha256=''):
    """Seeds that each start from a checkpoint of 6 layers, to go on or to grow."""
    runs = []
    for seed, loss in enumerate(losses, 1):
        start = {'path': f'{made}{seed}/ckpt_000100.pt', 'step': 100, 'flops': 1e12,
                 'sha256': sha256}
        runs.append(make_run('on', loss, seed, init_from=f'{made}{seed}', init_depth=6, n_layer=n_layer,
                             n_stages=1, phase1_fraction=0.0, info={'init_from': start}))
    return runs

def test_runs_that_start_from_one_checkpoint_are_judged_in_pairs():
    heights = 2 + 0.1 * np.array([0, 1, -1])
    worse = heights + [0.02, 0.021, 0.019]
    arms = {'on': on_from('out/first', heights), 'grown': on_from('out/first', worse, 12)}
    found = of(study_of(arms, ['on']), 'grown')
    assert (found.how, found.word, found.seeds) == ('pairs', 'costs', (1, 2, 3))
    assert found.difference.value == pytest.approx(0.02)
    assert found.p == pytest.approx(stats.paired([0.02, 0.021, 0.019], [0, 0, 0]).p)
    # Of the seeds that both have.
    arms['on'] = on_from('out/first', [*heights, 2.3])
    assert of(study_of(arms, ['on']), 'grown').opponent_seeds == (1, 2, 3)
    # A checkpoint is what it holds, wherever it lies.
    for sha256, how in (('x', 'pairs'), ('y', 'Welch')):
        arms = {'on': on_from('out/first', heights, sha256='x'),
                'grown': on_from('out/moved', worse, 12, sha256)}
        assert of(study_of(arms, ['on']), 'grown').how == how
    # Other checkpoints, or from scratch: independent.
    arms['grown'] = on_from('out/second', worse, 12)
    found = of(study_of(arms, ['on']), 'grown')
    assert (found.how, found.word) == ('Welch', 'open')
    arms = {'on': full(heights), 'grown': grown(worse)}
    assert of(study_of(arms, ['on']), 'grown').how == 'Welch'

# ---- looks

def test_a_question_is_looked_at_when_all_seeds_of_a_look_are_in():
    rng = np.random.default_rng(2)
    theirs, mine = 3 + SD * rng.standard_normal(8), 3 + SD * rng.standard_normal(8)
    question = [Question('grown', 1000, looks=LOOKS)]
    for n, taken in ((2, 0), (3, 1), (4, 1), (5, 2), (7, 2), (8, 3)):
        arms = {'full': full(theirs), 'grown': grown(mine[:n])}
        found = of(study_of(arms, ['full'], question), 'grown')
        assert (found.looks, found.planned) == (taken, 3)
        if not taken:
            assert (found.word, found.why) == ('', 'grown at 1,000: seed 3 is not there')
            assert found.needs == (1, 2, 3)
            continue
        # Both sides with the seeds of the look, and p times the looks that are planned.
        seeds = len(LOOKS[taken - 1])
        assert found.seeds == found.opponent_seeds == LOOKS[taken - 1]
        p = stats.welch(mine[:seeds], theirs[:seeds]).p
        assert found.p == pytest.approx(p)
        assert found.corrected == pytest.approx(min(1, 3 * p))
        assert (found.word, found.needs) == ('open', LOOKS[taken] if taken < 3 else ())

def test_a_look_waits_for_the_opponent_too():
    arms = {'full': full((3.0, 3.01)), 'grown': grown(LOSSES)}
    found = of(study_of(arms, ['full'], [Question('grown', 1000, looks=LOOKS)]), 'grown')
    assert (found.looks, found.word, found.needs) == (0, '', (1, 2, 3))
    assert found.why == 'full at 1,000: seed 3 is not there'

def test_what_is_settled_asks_for_no_more_seeds_and_stays_as_it_is():
    offsets = SD * np.random.default_rng(0).standard_normal((2, 8))
    question = [Question('grown', 1000, looks=LOOKS)]
    for n in (3, 8):
        # Further seeds of the opponent came in for another question.
        arms = {'full': make_seeds('full', 3 + offsets[0, :n]),
                'grown': grown(2.5 + offsets[1, :3])}
        found = of(study_of(arms, ['full'], question), 'grown')
        assert (found.word, found.looks, found.needs) == ('saves', 1, ())
        assert found.p == pytest.approx(stats.welch(2.5 + offsets[1, :3], 3 + offsets[0, :3]).p)

def test_a_question_without_runs_counts_and_says_so():
    arms = {'full': full((3.0, 3.01, 2.99)), 'a': grown((2.9, 2.91, 2.92))}
    questions = [Question('a', 1000, looks=LOOKS[:1]), Question('b', 1000, looks=LOOKS[:1])]
    report = study_of(arms, ['full'], questions)
    assert of(report, 'a').corrected == pytest.approx(2 * of(report, 'a').p)
    assert (of(report, 'b').why, of(report, 'b').needs) == ('no run of it is there', (1, 2, 3))

def test_three_seeds_against_nine_are_said_to_be_unsafe():
    rng = np.random.default_rng(0)
    for n, unsafe in ((9, True), (5, False)):
        arms = {'full': make_seeds('full', 3 + SD * rng.standard_normal(n)),
                'grown': grown(3 + SD * rng.standard_normal(3))}
        found = of(study_of(arms, ['full']), 'grown')
        assert found.caution == ('3 seeds against 9: unsafe where one side scatters more' if unsafe else '')

# ---- the opponent

def test_the_opponent_is_the_best_baseline_at_that_budget_and_full_depth_stands_beside_it():
    arms = {'full': {1000: full(),
                     4000: full((2.0, 2.01, 2.02), steps=4000)},
            'short': {1000: make_seeds('short', (2.8, 2.81, 2.82), n_layer=6),
                      4000: make_seeds('short', (2.2, 2.21, 2.22), n_layer=6, steps=4000)},
            'grown': {1000: grown((2.9, 2.91, 2.92)),
                      4000: grown((2.0, 2.01, 2.02), steps=4000)}}
    report = study_of(arms, ['full', 'short'], [Question('grown', 1000), Question('grown', 4000)])
    early, late = of(report, 'grown'), of(report, 'grown', 4000)
    assert (early.opponent, late.opponent) == ('short', 'full')
    assert (early.word, late.to_full_depth) == ('costs', None)
    assert early.to_full_depth.opponent == 'full'
    assert early.to_full_depth.difference.value == pytest.approx(-0.1)
    assert (early.to_full_depth.word, early.to_full_depth.corrected) == ('', None)
    # Whichever is named first.
    assert of(study_of(arms, ['short', 'full']), 'grown').to_full_depth.opponent == 'full'
    # The other baselines are judged by each other, the first one named is what others stand beside.
    assert of(report, 'short').opponent == 'full'
    assert not [one for one in report.comparisons if one.arm == 'full']
    # Better than the best of two is no harder to see, worse is easier: so its p counts twice.
    p = stats.welch([2.9, 2.91, 2.92], [2.8, 2.81, 2.82]).p
    assert early.p == pytest.approx(2 * p)

@pytest.mark.parametrize('like, unlike', [
    ({'n_embd': 768}, {'n_embd': 384}), ({'optimizer': 'muon'}, {'optimizer': 'adamw'}),
    ({'vocab_size': 320}, {'vocab_size': 640}), ({'val_tokens': 65536}, {'val_tokens': 32768}),
    ({'weight_decay': 0.1}, {'weight_decay': 0.2})])
def test_of_two_baselines_the_one_like_the_run_judges(like, unlike):
    """Whichever is named first, and though the other one is better."""
    arms = {'like': full((3.0, 3.01), **like), 'unlike': full((2.7, 2.71), **unlike),
            'grown': grown((3.0, 3.01), **like)}
    for names in (['like', 'unlike'], ['unlike', 'like']):
        found = of(study_of(arms, names), 'grown')
        assert (found.opponent, found.difference.value) == ('like', 0)

def test_what_grows_a_checkpoint_is_judged_by_what_trains_it_on():
    arms = {'scratch': full((1.9, 1.91, 1.92)), 'on': on_from('out/first', (2.0, 2.1, 2.2)),
            'grown': on_from('out/first', (2.1, 2.2, 2.3), 12)}
    report = study_of(arms, ['scratch', 'on'])
    assert of(report, 'grown').opponent == 'on'
    assert 'on at 1,000: starts from a checkpoint, whose 1e+12 FLOPs are not counted' in report.notes

def test_what_is_trained_otherwise_or_elsewhere_is_judged_and_that_is_said():
    arms = {'full': full(info={'git_commit': 'a', 'device': 'x'}),
            'grown': grown(LOSSES, weight_decay=0.3, info={'git_commit': 'b', 'device': 'x'})}
    report = study_of(arms, ['full'], [])
    assert of(report, 'grown').difference
    assert report.notes == [
        'grown at 1,000 differs from full at 1,000 in more than growth: weight_decay 0.3, not 0.1',
        'the runs differ in code (a, b)', 'all runs: device x']

# ---- cost

def truth(flops, exponent=0.21):
    return 2.0 + 0.6 * (max(flops, 1.0) / 3e13) ** -exponent

def ladder(budgets=(500, 1000, 2000), exponent=0.21, offsets=(-0.001, 0, 0.001)):
    return {steps: full(truth(steps * RATES['flops'], exponent) + np.array(offsets), steps=steps)
            for steps in budgets}

@pytest.mark.parametrize('exponent', [0.1, 0.21, 0.84])
@pytest.mark.parametrize('multiplier', [0.8, 1.0, 1.3])
@pytest.mark.parametrize('budget', [500, 1000, 2000])
def test_a_cost_is_recovered_at_each_rung(exponent, multiplier, budget):
    losses = truth(multiplier * budget * RATES['flops'], exponent) + np.array([-0.001, 0, 0.001])
    arms = {'full': ladder(exponent=exponent),
            'grown': {budget: grown(losses, steps=budget)}}
    found = of(study_of(arms, ['full']), 'grown', budget)
    assert found.cost.value == pytest.approx(1 / multiplier, rel=1e-6)
    assert found.cost.low < found.cost.value < found.cost.high
    assert set(found.costs) == set(AXES)

@pytest.mark.parametrize('multiplier, budget, is_beyond', [
    (1.3, 1000, False), (1.3, 2000, True), (1.05, 2000, False), (0.7, 500, True), (0.7, 1000, False)])
def test_a_cost_beyond_the_budgets_of_the_opponent_is_said_to_be_extrapolated(multiplier, budget, is_beyond):
    losses = truth(multiplier * budget * RATES['flops']) + np.array([-0.001, 0, 0.001])
    report = study_of({'full': ladder(), 'grown': {budget: grown(losses, steps=budget)}}, ['full'])
    assert ('extrapolated' in of(report, 'grown', budget).caution) == is_beyond

def test_the_interval_of_a_cost_is_the_difference_s_read_off_the_ladder():
    arms = {'full': ladder(), 'grown': grown(truth(3e13) + np.array([-0.01, 0.02, 0.0]))}
    found = of(study_of(arms, ['full']), 'grown')
    for end, cost in ((found.difference.low, found.cost.low), (found.difference.high, found.cost.high)):
        assert truth(3e13 / cost) == pytest.approx(truth(3e13) + end)

def test_by_another_ledger_and_the_clock_it_is_that_compute():
    arms = {'full': ladder(), 'grown': grown(truth(3e13) + np.array([-0.01, 0.02, 0.0]))}
    for run in arms['grown']:
        for record in run.records:
            record['seconds'] *= 1.5
    found = of(study_of(arms, ['full']), 'grown')
    assert found.costs['seconds'].value == pytest.approx(1.5 * found.cost.value)
    assert found.costs['flops_paper'].value == pytest.approx(found.cost.value)

@pytest.mark.parametrize('exponent', [0.05, 0.3, 0.84])
@pytest.mark.parametrize('multiplier', [0.7, 1.4])
def test_two_budgets_do_not_say_how_the_ladder_bends_and_the_interval_holds_it(exponent, multiplier):
    losses = truth(multiplier * 1000 * RATES['flops'], exponent) + np.array([-1e-6, 0, 1e-6])
    arms = {'full': ladder((1000, 4000), exponent, (-1e-6, 0, 1e-6)),
            'grown': grown(losses)}
    found = of(study_of(arms, ['full']), 'grown')
    assert found.cost.low < 1 / multiplier < found.cost.high

def test_of_more_than_three_budgets_the_nearest_three_are_the_curve():
    budgets = (250, 500, 1000, 2000, 4000)
    arms = {'full': ladder(budgets), 'grown': grown(truth(1.3 * 3e13) + np.zeros(3))}
    for far in (250, 4000):
        arms['full'][far] = full((9.0, 9.1, 9.2) if far == 250 else (0.1, 0.11, 0.12), steps=far)
    assert of(study_of(arms, ['full']), 'grown').cost.value == pytest.approx(1 / 1.3)

def test_losses_that_do_not_bend_as_a_power_law_are_still_met():
    """The second step down is the larger one; and a ladder that doesn't fall has no cost."""
    rungs = {steps: full((loss, loss + 0.001), steps=steps)
             for steps, loss in ((500, 3.0), (1000, 2.9), (2000, 2.5))}
    arms = {'full': rungs, 'grown': grown((2.9, 2.901))}
    assert of(study_of(arms, ['full']), 'grown').cost.value == pytest.approx(1)
    rungs[2000] = full((2.95, 2.96), steps=2000)
    assert of(study_of(arms, ['full']), 'grown').cost is None

def test_a_rung_that_lost_a_seed_is_none_but_the_opponent_itself_stays():
    arms = {'full': ladder(), 'grown': grown(truth(1.3 * 3e13) + np.array([-1e-3, 0, 1e-3]))}
    lost = make_run('full', 3.0, 4, until=500, info={'ended': 'diverged'})
    arms['full'][1000] = [*arms['full'][1000], lost]
    question = [Question('grown', 1000, looks=LOOKS[:1])]
    assert of(study_of(arms, ['full'], question), 'grown').cost.value == pytest.approx(1 / 1.3)
    # Of three budgets two are left, which say less.
    arms['full'][2000] = [*full((0.1, 0.11), steps=2000), make_run('full', 3.0, 3, steps=2000, until=1000)]
    two = of(study_of(arms, ['full'], question), 'grown').cost
    assert two.low < 1 / 1.3 < two.high
    assert two.high - two.low > 0.02

def test_below_what_the_ladder_tends_to_no_compute_is_enough():
    arms = {'full': ladder(), 'grown': grown((0.5, 0.51, 0.52))}
    assert of(study_of(arms, ['full']), 'grown').cost.value == 0

# ---- what the page shows beside the loss

def scored(runs, **scores):
    for run in runs:
        same = {'hellaswag_acc_norm': 0.3, 'hellaswag_n': 400, 'hellaswag_bits': 2.0}
        run.records[-1].update({**same, **scores})
    return runs

def test_a_score_whose_direction_disagrees_with_the_loss_is_marked():
    def found(loss, **scores):
        arms = {'full': scored(full((3.0, 3.001, 2.999))),
                'grown': scored(grown((loss, loss + 0.001, loss - 0.001)), **scores)}
        return of(study_of(arms, ['full']), 'grown').disagree

    assert found(2.5, hellaswag_acc_norm=0.25, hellaswag_bits=1.9) == ('hellaswag_acc_norm',)
    assert found(3.5, hellaswag_acc_norm=0.25, hellaswag_bits=1.9) == ('hellaswag_bits',)
    assert found(2.5, hellaswag_acc_norm=0.35, hellaswag_bits=1.9) == ()
    assert found(2.5, hellaswag_acc_norm=0.35, hellaswag_bits=None) == ()  # which the run lacks
    # Where nobody knows which loss is lower, no score disagrees with it.
    assert found(3.0001, hellaswag_acc_norm=0.35, hellaswag_bits=1.9) == ()

# ---- what can't be answered, and what is said

def wrong_inputs():
    """{name: (arms, the sentence that the question about 'grown' gets)}."""
    diverged = make_run('grown', 2.9, 3, until=500, n_stages=4, info={'ended': 'diverged'})
    later = replace(diverged, info={'ended': 'diverged', 'ended_step': 612})
    of_other_data = {'data': {'train': {'sha256': 'abc'}}}
    whole = {'full': full(), 'grown': grown(LOSSES)}
    return {
        'other data': (whole | {'grown': grown(LOSSES, info=of_other_data)},
                       'not measured on what full at 1,000 is: data'),
        'other evaluation': (whole | {'grown': grown(LOSSES, val_tokens=32_768)},
                             'not measured on what full at 1,000 is: val_tokens 32768, not 4194304'),
        'a missing rung': ({'full': {2000: full(steps=2000)}, 'grown': {1000: grown(LOSSES)}},
                           'no baseline ends at this budget'),
        'a rung that is not finished': (
            whole | {'full': full(until=500)},
            '; '.join(f'full at 1,000: seed {seed} unfinished at step 500 of 1,000' for seed in (1, 2, 3))),
        'a diverged seed': (whole | {'grown': [*grown(LOSSES[:2]), diverged]},
                            'grown at 1,000: seed 3 diverged at step 500 of 1,000'),
        'a seed whose record says where it diverged': (
            whole | {'grown': [*grown(LOSSES[:2]), later]},
            'grown at 1,000: seed 3 diverged at step 612 of 1,000'),
        'a diverged seed of the opponent': (
            whole | {'full': [*full()[:2], make_run('full', 3.0, 3, until=500, info={'ended': 'diverged'})]},
            'full at 1,000: seed 3 diverged at step 500 of 1,000'),
        'seeds in two number formats': (
            whole | {'grown': [*grown(LOSSES[:2], dtype='float32'),
                               make_run('grown', 2.9, 3, n_stages=4, dtype='bfloat16')]},
            'grown at 1,000: its seeds differ in dtype (float32, bfloat16) and are not pooled'),
        'one seed': ({'full': full()[:1], 'grown': grown(LOSSES[:1])},
                     'one seed a side has no spread: it takes two, or --sigma'),
        'no seed at all': (whole | {'grown': grown((2.9,), until=0)},
                           'grown at 1,000: seed 1 unfinished at step 0 of 1,000'),
    }

@pytest.mark.parametrize('case', wrong_inputs())
def test_what_cannot_be_answered_says_why(case):
    arms, sentence = wrong_inputs()[case]
    report = study_of(arms, ['full'], [Question('grown', 1000)])
    answers = [one for one in report.comparisons if one.arm == 'grown']
    assert {(one.word, one.why, one.corrected is None or math.isnan(one.corrected)) for one in answers} == {
        ('', sentence, True)}

def test_a_diverged_seed_counts_in_the_family_and_a_survivors_mean_never_stands_alone():
    lost = make_run('b', 2.9, 3, until=500, n_stages=4, info={'ended': 'diverged'})
    arms = {'full': full(), 'a': grown((2.9, 2.91, 2.92)),
            'b': [*grown(LOSSES[:2]), lost]}
    questions = [Question(arm, 1000, looks=LOOKS) for arm in 'ab']
    report = study_of(arms, ['full'], questions)
    assert of(report, 'a').corrected == pytest.approx(min(1, 2 * 3 * of(report, 'a').p))
    assert of(report, 'b').needs == ()  # no seed will mend it

def test_a_seed_that_diverges_after_a_look_leaves_what_is_settled_and_ends_what_is_open():
    lost = make_run('grown', 2.9, 4, until=500, n_stages=4, info={'ended': 'diverged'})
    for loss, word, why in ((2.5, 'saves', ''),
                            (3.0, '', 'grown at 1,000: seed 4 diverged at step 500 of 1,000')):
        arms = {'full': full(),
                'grown': [*grown((loss, loss + 0.01, loss + 0.02)), lost]}
        found = of(study_of(arms, ['full'], [Question('grown', 1000, looks=LOOKS)]), 'grown')
        assert (found.word, found.why, found.needs) == (word, why, ())

@pytest.mark.parametrize('ended, done, word', [('diverged', 0, 'saves'), ('diverged', 2, 'saves'),
                                               ('stopped', 0, '')])
def test_a_baseline_that_is_under_way_may_become_the_opponent_one_that_diverged_does_not(ended, done, word):
    short = make_seeds('short', (2.0, 2.01, 2.02), n_layer=6)
    lost = make_seeds('short', (2.0, 2.01, 2.02), n_layer=6, until=500, info={'ended': ended})
    arms = {'short': short[:done] + lost[done:], 'full': full(), 'grown': grown((2.5, 2.51, 2.52))}
    found = of(study_of(arms, ['short', 'full'], [Question('grown', 1000)]), 'grown')
    assert (found.opponent, found.word) == ('full', word)

def test_a_known_deviation_gives_one_seed_a_verdict():
    arms = {'full': ladder(offsets=(0,)), 'grown': grown((truth(3e13) - 0.1,))}
    found = of(study_of(arms, ['full'], sigma=0.01), 'grown')
    assert (found.word, found.how) == ('saves', 'Welch')
    assert found.difference.se == pytest.approx(0.01 * math.sqrt(2))
    assert found.cost.low < found.cost.value < found.cost.high

# ---- outside of a study

def on_disk(folder, **options):
    return judge_runs(read_runs([str(path) for path in sorted(folder.iterdir())]), **options)

def test_the_baseline_is_what_has_one_stage_and_starts_from_scratch(tmp_path):
    write_seeds(tmp_path, 'base', (1, 2, 3))
    write_seeds(tmp_path, 'short', (1, 2, 3), n_layer=6)
    write_seeds(tmp_path, 'grown', (1, 2, 3), lambda step: power_law(1.3 * step), n_stages=4)
    report = on_disk(tmp_path)
    assert {group.name for group in report.baselines} == {'base', 'short'}
    assert {one.arm for one in report.comparisons} == {'grown', 'short'}  # not full depth
    assert [one.arm for one in report.declared] == ['grown']

def test_runs_at_several_rates_are_arms_of_their_own_and_the_baseline_is_the_best_of_them(tmp_path):
    """No choice is made on the seeds that judge: each rate has its own verdict."""
    for rate, shift in ((1e-3, 0.0), (2e-3, 0.2)):
        for name, stages in (('base', 1), ('grown', 4)):
            write_seeds(tmp_path, f'{name}{rate}', (1, 2, 3), shifted(power_law, shift), learning_rate=rate,
                        n_stages=stages)
    report = on_disk(tmp_path)
    grown = {one.arm: one for one in report.comparisons if 'grown' in one.arm}
    assert set(grown) == {'grown0.001', 'grown0.002'}
    assert {one.opponent for one in grown.values()} == {'base0.001'}
    assert grown['grown0.002'].word == 'costs'
    # Who names a baseline means this one, not a better one beside it.
    report = on_disk(tmp_path, baselines=[f'{tmp_path}/base0.002_seed1'])
    assert {one.opponent for one in report.comparisons} == {'base0.002'}

def test_full_depth_at_several_budgets_is_a_ladder(tmp_path):
    for steps in (500, 1000, 2000):
        write_seeds(tmp_path, f'base{steps}', (1, 2, 3), lambda step: truth(step * 3e10), sd=1e-5,
                    growth_steps=steps, lr_schedule='wsd')
    write_seeds(tmp_path, 'grown', (1, 2, 3), lambda step: truth(1.25 * step * 3e10), sd=1e-5, n_stages=4,
                lr_schedule='wsd')
    [found] = [one for one in on_disk(tmp_path).comparisons if one.arm == 'grown']
    assert (found.opponent, found.word) == ('base1000', 'saves')
    assert len(on_disk(tmp_path).comparisons) == 1  # none of the rungs themselves
    assert found.cost.value == pytest.approx(0.8, rel=1e-3)
    # Named by one run, the baseline is the same ladder.
    [named] = [one for one in on_disk(tmp_path, baselines=[f'{tmp_path}/base1000_seed2']).comparisons
               if one.arm == 'grown']
    assert (named.cost, named.p) == (found.cost, found.p)

@pytest.mark.parametrize('schedule, budgets, opponent, at', [
    ('constant', (2000, 4000), 'base2000', 1000), ('constant', (200, 500), 'base500', 500),
    ('wsd', (2000, 4000), '', math.nan)])
def test_at_a_constant_rate_both_are_read_where_the_shorter_ends(tmp_path, schedule, budgets, opponent, at):
    """A decaying run never: there is no reading in the middle of a decay."""
    for steps in budgets:
        write_seeds(tmp_path, f'base{steps}', (1, 2), sd=1e-5, growth_steps=steps, lr_schedule=schedule)
    write_seeds(tmp_path, 'grown', (1, 2), shifted(power_law, 0.1), sd=1e-5, n_stages=4, lr_schedule=schedule)
    [found] = on_disk(tmp_path).comparisons
    assert (found.opponent, found.cost) == (opponent, None)
    if opponent:
        assert found.at == at * RATES['flops']
        assert found.difference.value == pytest.approx(0.1, abs=1e-4)
    else:
        assert (found.difference, found.why) == (None, 'no baseline ends at this budget')

@pytest.mark.parametrize('names, sentence', [(['nowhere'], 'none of the runs'),
                                             (['base', 'nowhere'], 'nowhere')])
def test_a_baseline_that_is_not_there_is_an_error(tmp_path, names, sentence):
    write_run(tmp_path / 'base')
    with pytest.raises(UserError, match=sentence):
        on_disk(tmp_path, baselines=[f'{tmp_path}/{name}' for name in names])

def test_without_a_baseline_nothing_is_judged_and_that_is_said(tmp_path):
    write_run(tmp_path / 'grown', n_stages=4)
    report = on_disk(tmp_path)
    assert not report.comparisons
    assert report.notes[0].startswith('nothing is judged: none of these is a run of one stage from scratch')

# ---- catching up

@pytest.mark.parametrize('schedule, last', [({'lr_schedule': 'constant'}, 1000),
                                            ({'lr_schedule': 'wsd', 'decay_fraction': 0.2}, 800)])
def test_the_gap_since_the_last_growth_is_the_one_that_there_is_until_a_rate_decays(tmp_path, schedule, last):
    """Grown at 500 of 1000 steps, the run is behind by 0.2 / sqrt(steps since) at equal tokens."""
    def grown(step):
        return power_law(step) + (0.2 / math.sqrt(step - 500) if step > 500 else 0.3)

    write_seeds(tmp_path, 'base', (1, 2, 3), sd=0.001, **schedule)
    write_seeds(tmp_path, 'grown', (1, 2, 3), grown, sd=0.001, n_stages=2, stage_depths=(6, 12), **schedule)
    [found] = on_disk(tmp_path).comparisons
    points = catch_up(found)
    assert [tokens / RATES['tokens'] for tokens, _ in points] == list(range(50, last - 499, 50))
    noise = found.group.finals().mean() - grown(1000) - (found.against.finals().mean() - power_law(1000))
    for tokens, gap in points:
        since = tokens / RATES['tokens']
        assert gap.value == pytest.approx(0.2 / math.sqrt(since) + noise, abs=1e-9)
        assert gap.low < gap.value < gap.high

def test_gaps_of_pairs_are_paired():
    """Seeds that are .1 apart, and .02 behind on each of them."""
    heights = 2 + 0.1 * np.array([0, 1, -1])
    arms = {'on': on_from('out/first', heights),
            'grown': on_from('out/first', heights + [0.02, 0.021, 0.019], 12)}
    arms['again'] = on_from('out/first', heights - 0.1)
    report = study_of(arms, ['on'])
    assert catch_up(of(report, 'again')) == []  # it doesn't grow
    [(_, gap)] = catch_up(of(report, 'grown'))
    assert gap.value == pytest.approx(0.02) and gap.high - gap.low < 0.006

# ---- the promise, simulated through the judge

class Simulation:
    """A study in memory whose final losses are drawn again and again. Full depth is at three budgets, the
    other arms are at the middle one."""

    def __init__(self, n_arms, baselines=('full',)):
        runs, places = [], {}
        self.arms = [f'arm{k}' for k in range(n_arms)]
        places_of_runs = [(arm, budget) for arm in baselines for budget in (500, 1000, 2000)]
        for arm, budget in places_of_runs + [(arm, 1000) for arm in self.arms]:
            for run in make_seeds(arm, [3.0] * 8, steps=budget, n_stages=1 if arm in baselines else 4):
                run.path = f'{arm}_{budget}_{run.seed}'
                runs.append(run)
                places[run.path] = Place(arm, '', budget)
        self.groups, _ = make_groups(runs, places)
        self.whole = {id(group): (group.done, group.curves) for group in self.groups}
        self.baselines = [group for group in self.groups if group.arm in baselines]
        self.questions = [Question(arm, 1000, looks=LOOKS) for arm in self.arms]

    def study(self, losses, looks=LOOKS):
        """The declared comparisons after the study gave seeds to whatever is open. losses: {(arm, budget): of
        each seed}."""
        for group in self.groups:
            for curve, loss in zip(self.whole[id(group)][1], losses[group.arm, group.budget]):
                curve['loss'][-1] = loss
            self.give(group, 3)
        questions = [replace(question, looks=looks) for question in self.questions]
        while True:
            report = judge_groups(self.groups, self.baselines, questions)
            asking = [one for one in report.declared if one.needs]
            for one in asking:
                for group in (one.group, one.against):
                    self.give(group, max(len(group.seeds), len(one.needs)))
            if not asking:
                return report.declared

    def give(self, group, n):
        """The first n seeds are done."""
        done, curves = self.whole[id(group)]
        group.done, group.curves = done[:n], curves[:n]
        group.seeds = tuple(run.seed for run in group.done)

    def draw(self, rng, sds, shift=0.0):
        """Final losses by the law of `truth`; the arms' are off by `shift`."""
        losses = {}
        for group in self.baselines:
            losses[group.arm, group.budget] = truth(3e10 * group.budget) + sds[0] * rng.standard_normal(8)
        for arm, sd in zip(self.arms, sds[1:]):
            losses[arm, 1000] = truth(3e13) + shift + sd * rng.standard_normal(8)
        return losses

# Deviations of cpu_growth's arms under AdamW at 1,000, full depth first.
MEASURED = (0.0262, 0.2124, 0.1195, 0.0346, 0.0185, 0.0175, 0.0068)

@pytest.mark.slow
@pytest.mark.parametrize('sds, baselines', [(MEASURED, 1), ([SD] * 7, 2)])
def test_equal_schedules_are_called_different_in_at_most_5_of_100_studies_with_looks(sds, baselines):
    """With two baselines the better one is the opponent, which chance makes better than it is."""
    simulation = Simulation(6, baselines=('full', 'short')[:baselines])
    rng = np.random.default_rng(0)
    false = 0
    studies = STUDIES // baselines
    for _ in range(studies):
        false += any(one.word in ('saves', 'costs') for one in simulation.study(simulation.draw(rng, sds)))
    print(f'family-wise error {false / studies:.3f}')
    assert false / studies <= 0.05

@pytest.mark.slow
def test_differences_of_four_deviations_are_found_in_9_of_10_cases():
    simulation = Simulation(6)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(STUDIES // 4):
        losses = simulation.draw(rng, np.full(7, SD), 4 * SD)
        found += [one.word == 'costs' for one in simulation.study(losses)]
    print(f'power {np.mean(found):.3f}')
    assert np.mean(found) >= 0.9

@pytest.mark.slow
# ratio: of the run's deviation to full depth's
@pytest.mark.parametrize('multiplier, ratio', [(0.8, 1.0), (1.25, 3.0)])
def test_the_interval_of_a_cost_covers_the_truth_in_93_to_98_of_100_cases(multiplier, ratio):
    simulation = Simulation(5)
    rng = np.random.default_rng(0)
    covered = []
    shift = truth(multiplier * 3e13) - truth(3e13)
    for _ in range(STUDIES):
        losses = simulation.draw(rng, [0.003, *[0.003 * ratio] * 5], shift)
        for one in simulation.study(losses, LOOKS[:1]):
            covered.append(one.cost.low <= 1 / multiplier <= one.cost.high)
            losses['full', 1000] = truth(3e13) + 0.003 * rng.standard_normal(8)
    print(f'coverage {np.mean(covered):.3f}')
    assert 0.93 <= np.mean(covered) <= 0.98
