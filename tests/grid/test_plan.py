"""What a study runs: cells, rates, seeds, all from its records. Run: python -m pytest tests/grid"""

import dataclasses
import json
import random
import time
from pathlib import Path

import pytest
from fake_study import TWO_ARMS, finish, finish_all, left, make_study, record_of, write_study

import schedule
from config import load_config
from core.common import UserError
from grid.plan import argv_of, kept_point, load_study, outcome_of, plan_runs, saved_prefix
from grid.records import write_records

ROOT = Path(__file__).parents[2]
LADDER = {'scales': {'small': '--n_embd=48 --n_head=3', 'large': '--n_embd=96 --n_head=6'},
          'per_parameter': (1, 4), 'seeds': (1,)}

@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)

def without(names, *left_out):
    return {name: value for name, value in names.items() if name not in left_out}

# ------------------------------------------------------------------------------------------------------------
# cells

def test_every_arm_is_run_at_every_scale_with_tokens_by_its_own_size(tmp_path):
    study = make_study(tmp_path, **without(TWO_ARMS, 'budgets') | LADDER)
    _, grid = plan_runs(study)
    assert len(grid) == 2 * 2 * 2
    for run in grid:
        C = run.config.n_embd
        assert {'small': 48, 'large': 96}[run.scale] == C
        # Matrices 12 C^2, biases and norms 13 C a layer, a last norm; no embeddings.
        assert run.parameters == 12 * (12 * C * C + 13 * C) + 2 * C
        full = next(one for one in grid if one.arm == 'full' and one.place[1:] == run.place[1:])
        assert full.total == round(run.budget * run.parameters / 2048)
        step = schedule.step_cost(full.config, 'flops')
        assert abs(run.flops() - full.total * step) <= step / 2
    assert {run.folder for run in grid if run.arm == 'Li'} == {
        'li/small_p1_s1', 'li/small_p4_s1', 'li/large_p1_s1', 'li/large_p4_s1'}

def test_only_names_budgets_scales_and_cells(tmp_path):
    only = {4: {'arms': ('full',)}, 'large': {'seeds': (2,)}, ('large', 4): {'arms': ()}}
    study = make_study(tmp_path, **without(TWO_ARMS, 'budgets') | LADDER | {'only': only, 'seeds': (1, 2)})
    _, grid = plan_runs(study)
    assert {run.folder for run in grid} == {
        'full/small_p1_s1', 'full/small_p1_s2', 'li/small_p1_s1', 'li/small_p1_s2', 'full/large_p1_s2',
        'li/large_p1_s2', 'full/small_p4_s1', 'full/small_p4_s2'}

def test_a_run_of_a_ladder_is_the_run_of_a_plain_study_of_that_width_but_for_names(tmp_path):
    ladder = make_study(tmp_path, **without(TWO_ARMS, 'budgets') | LADDER)
    run = next(run for run in plan_runs(ladder)[1] if run.place == ('Li', 'large', 4))
    steps = round(4 * run.parameters / 2048)
    settings = TWO_ARMS['settings'] | {'n_embd': 96, 'n_head': 6}
    plain = make_study(tmp_path, **TWO_ARMS | {'budgets': (steps,), 'seeds': (1,), 'settings': settings})
    same = next(run for run in plan_runs(plain)[1] if run.arm == 'Li')
    assert dataclasses.replace(same.config, out_dir='', run_name='') == dataclasses.replace(
        run.config, out_dir='', run_name='')

def test_the_command_of_a_run_makes_its_config(tmp_path):
    arms = TWO_ARMS['arms'] | {'on': "baseline --init_from @full --init_depth=12 --grow_init zero",
                               'stages': 'incremental_4stage --stage_steps=10,20,30,40 --baseline_steps=400',
                               'late': 'bu_1to12_wsd'}
    settings = TWO_ARMS['settings'] | {'val_dirs': {'old': 'data/old', 'code': 'data/code'}}
    study = make_study(tmp_path, **TWO_ARMS | {'arms': arms, 'settings': settings,
                                               'tune': {'late': {'learning_rate': (1, 2e-2)}}})
    finish(study, lambda run: 1.0 + run.config.learning_rate)
    _, grid = plan_runs(study)
    assert len(grid) == 5 * 2 * 2
    for run in grid:
        typed = load_config(argv_of(study, run), '', say=None)
        free = {name: getattr(typed, name) for name in ('out_dir', 'run_name')}
        assert typed == dataclasses.replace(run.config, **free), run.folder
        assert typed.val_dirs == ('old:data/old', 'code:data/code')
        if run.arm == 'on':
            assert run.config.init_from == f'{tmp_path}/out/full/b{run.budget}_s{run.seed}'

def test_planning_420_runs_takes_less_than_two_seconds_of_a_processor(tmp_path):
    arms = {f'{name} {rate}': f'{name} --learning_rate={rate}' for rate in (1e-3, 2e-3, 4e-3, 5e-3)
            for name in ('baseline', 'incremental_8stage', 'gong_3_6_12', 'bu_1to12_wsd', 'interleave_6_12')}
    names = {'arms': arms, 'baseline': 'baseline 0.001', 'budgets': (1000, 4000, 16000),
             'seeds': (1, 2, 3, 4, 5, 6, 7)}
    began = time.process_time()
    study = make_study(tmp_path, **TWO_ARMS | names)
    _, grid = plan_runs(study)
    assert len(grid) == 420
    assert time.process_time() - began < 2

# ------------------------------------------------------------------------------------------------------------
# rates

def test_the_lowest_of_the_values_that_a_seeds_deviation_cannot_tell_apart_is_kept():
    rates = [{'learning_rate': rate} for rate in (0.01, 0.02, 0.04)]
    clear = [[2.00, 2.02], [1.90, 1.92], [1.80, 1.82]]
    assert kept_point(rates, clear) == 2
    by_a_hair = [[2.00, 2.02], [1.90, 1.92], [1.895, 1.915]]
    assert kept_point(rates, by_a_hair) == 1
    # One value on the cliff, or beyond, doesn't make everything else the same.
    assert kept_point(rates, [[2.00, 2.01], [1.90, 1.91], [2.9, 1.885]]) == 1
    assert kept_point(rates, [[2.00, 2.01], [1.90, 1.91], [float('inf'), 1.2]]) == 1
    # With one seed a deviation isn't known.
    assert kept_point(rates, [[2.0], [1.9], [1.899]]) == 2
    # The order is that of the numbers, not of the file; a text has none.
    assert kept_point(rates[::-1], [[1.895, 1.915], [1.90, 1.92], [2.00, 2.02]]) == 1
    texts = [{'grow_init': 'zero'}, {'grow_init': 'random'}]
    assert kept_point(texts, [[1.91, 1.95], [1.90, 1.94]]) == 1

def test_each_budget_is_tuned_on_seeds_that_judge_nothing(tmp_path):
    names = TWO_ARMS | {'more_seeds': (3, 9), 'tune': {'learning_rate': (0.005, 0.01, 0.02)}}
    study = make_study(tmp_path, **names)
    assert study.tune_seeds == (0, 10)
    # At the larger budget a lower rate is best.
    done = finish_all(study, lambda run: 1 + abs(run.config.learning_rate - 1 / run.budget) + run.seed / 1e4)
    assert {run.folder for run in done if run.is_tuning and run.arm == 'full'} == {
        f'full/tune_b{budget}_s{seed}_learning_rate={rate}'
        for budget in (100, 200) for seed in (0, 10) for rate in (0.005, 0.01, 0.02)}
    rates = {(run.arm, run.budget, run.config.learning_rate) for run in done if not run.is_tuning}
    assert rates == {(arm, 100, 0.01) for arm in ('full', 'Li')} | {(arm, 200, 0.005)
                                                                   for arm in ('full', 'Li')}
    assert not {run.seed for run in done if run.is_tuning} & {1, 2, 3, 9}

def test_a_cell_that_is_not_tuned_takes_the_values_of_the_nearest_one(tmp_path):
    scales = LADDER['scales'] | {'huge': '--n_embd=192 --n_head=12'}
    names = without(TWO_ARMS, 'budgets') | LADDER | {'scales': scales, 'per_parameter': (1, 4, 16)}
    names |= {'tune': {'learning_rate': (0.01, 0.02), 'large': {'learning_rate': (0.001, 0.005)}},
              'tune_at': {'small': (1, 4), 'large': (1,)}, 'held_out': ('huge',)}
    study = make_study(tmp_path, **names)
    assert study.tuned_like('full', 'small', 16) == ('small', 4)
    assert study.tuned_like('full', 'large', 16) == study.tuned_like('full', 'huge', 4) == ('large', 1)
    best = {('small', 1): 0.02, ('small', 4): 0.01, ('large', 1): 0.005}
    finish_all(study, lambda run: 1 + abs(run.config.learning_rate - best.get(run.place[1:], 1)))
    _, grid = plan_runs(study)
    rates = {run.place[1:]: run.config.learning_rate for run in grid}
    assert rates == best | {('small', 16): 0.01, ('large', 4): 0.005, ('large', 16): 0.005,
                            **{('huge', budget): 0.005 for budget in (1, 4, 16)}}

def test_a_grid_goes_on_at_its_edge_and_an_edge_that_stays_is_said(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS | {
        'budgets': (100,), 'tune_extend': 2, 'tune_seeds': (0,),
        'tune': {'learning_rate': (0.0025, 0.005), 'Li': {'learning_rate': (0.05, 0.02)}}})
    done = finish_all(study, lambda run: None if run.tuned == {'learning_rate': 0.02} and run.arm == 'Li'
                      else 1 + abs(run.config.learning_rate - 0.02))
    tried = [run.tuned['learning_rate'] for run in done if run.is_tuning and run.arm == 'full']
    assert tried == [0.0025, 0.005, 0.01, 0.02]
    tunings, grid = plan_runs(study)
    assert str(tunings['full', '', 100]) == ('learning_rate 0.02, the best of 4 (learning_rate: best at the '
                                             'largest value tried)')
    # A value that diverged is as bad as can be.
    assert tunings['Li', '', 100].best == {'learning_rate': 0.05}
    assert {run.config.learning_rate for run in grid if run.arm == 'Li'} == {0.05}

def test_a_grid_of_two_settings_does_not_go_on(tmp_path):
    tune = {'learning_rate': (0.1, 0.2), 'weight_decay': (0.1, 0.2)}
    study = make_study(tmp_path, **TWO_ARMS | {'tune': {'Li': tune}, 'tune_at': (100,), 'tune_extend': 2})
    done = finish_all(study, lambda run: 1.0 - run.config.learning_rate - run.config.weight_decay)
    assert sum(run.is_tuning for run in done) == 4 * 2
    assert {run.config.weight_decay for run in done if run.arm == 'Li' and not run.is_tuning} == {0.2}

def test_an_arm_waits_for_the_tuning_of_what_it_starts_from(tmp_path):
    arms = {'full': 'baseline', 'on': "baseline --init_from='@full' --init_depth=12"}
    study = make_study(tmp_path, **TWO_ARMS | {'arms': arms, 'tune': {'learning_rate': (0.1, 0.2)}})
    tunings, grid = plan_runs(study)
    assert grid == [] and not tunings['on', '', 100].decided
    assert {run.arm for run in finish(study, lambda run: 1.0)} == {'full'}
    assert {run.arm for run in finish(study, lambda run: 1.0)} == {'full', 'on'}

def test_an_arm_whose_values_all_diverge_has_no_grid_and_is_not_tuned_again(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS | {'tune': {'Li': {'learning_rate': (0.1, 0.2)}}})
    finish_all(study, lambda run: None if run.is_tuning else 1.0)
    assert left(study) == []
    tunings, grid = plan_runs(study)
    assert not tunings['Li', '', 100].decided and {run.arm for run in grid} == {'full'}

# ------------------------------------------------------------------------------------------------------------
# seeds until a question is settled

MANY = {'seeds': (1, 2, 3), 'more_seeds': (4, 5, 6, 7, 8), 'questions': (('near', 100), ('far', 100)),
        'arms': {'full': 'baseline', 'six': 'baseline --n_layer=6', 'far': 'incremental_8stage',
                 'near': 'gong_3_6_12', 'other': 'interleave_6_12'},
        'baseline': ('full', 'six')}

def loss_of(run) -> float:
    """'far' is far below the baselines, 'near' within the noise of the better one, which is 'six'."""
    noise = random.Random(f'{run.arm} {run.budget} {run.seed}').gauss(0, 0.01)
    level = {'full': 2.1, 'six': 2.0, 'far': 1.5, 'near': 2.0, 'other': 1.9}[run.arm]
    return level - run.budget / 1e3 + noise

def test_an_open_question_gets_its_next_seeds_and_a_settled_one_none(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS | MANY)
    assert study.looks == ((1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7, 8))
    first = finish(study, loss_of)
    assert {run.seed for run in first} == {1, 2, 3} and len(first) == 5 * 2 * 3
    second = left(study)
    assert {(run.arm, run.budget, run.seed) for run in second} == {
        (arm, 100, seed) for arm in ('near', 'six') for seed in (4, 5)}
    finish_all(study, loss_of)
    _, grid = plan_runs(study)
    seeds = {}
    for run in grid:
        seeds.setdefault(run.place, []).append(run.seed)
    assert seeds['near', '', 100] == seeds['six', '', 100] == [1, 2, 3, 4, 5, 6, 7, 8]
    others = [place for place in seeds if place not in (('near', '', 100), ('six', '', 100))]
    assert all(seeds[place] == [1, 2, 3] for place in others) and len(others) == 8

def test_without_declared_questions_every_arm_at_the_largest_budget_is_one(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS | MANY | {'questions': ()})
    finish(study, loss_of)
    assert {(run.arm, run.budget) for run in left(study)} == {('near', 200), ('six', 200)}

def test_killed_after_any_run_a_study_asks_for_the_same_runs(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS | MANY)
    whole = {run.folder for run in finish_all(study, loss_of)}
    for seed in (1, 2):
        generator = random.Random(seed)
        write_records(study.records_path, {})
        done = set()
        # One at a time, whichever comes: an open look is finished before it is judged.
        while asked := left(study):
            run = generator.choice(asked)
            finish(study, loss_of, [run] if len(done) > 34 else asked[:7])
            done |= {one.folder for one in ([run] if len(done) > 34 else asked[:7])}
        assert done == whole

def test_a_question_that_a_diverged_seed_spoils_asks_for_nothing(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS | MANY | {'questions': (('near', 100),)})
    finish(study, lambda run: None if run.arm == 'near' and run.seed == 2 else loss_of(run))
    assert [run.folder for run in left(study)] == []

# ------------------------------------------------------------------------------------------------------------
# what is there

def test_what_was_made_or_measured_otherwise_is_refused(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS)
    finish(study, lambda run: 1.0)
    for name, value in (('weight_decay', 0.3), ('val_tokens', 32_768), ('dtype', 'bfloat16')):
        changed = make_study(tmp_path, **TWO_ARMS | {'settings': TWO_ARMS['settings'] | {name: value}})
        with pytest.raises(UserError, match=rf'records.jsonl: full/b100_s1 was made with other settings '
                                            rf'\({name}: was .*, now {value!r}\): rename the study'):
            [outcome_of(changed, run) for run in plan_runs(changed)[1]]

def test_a_diverged_run_is_over_and_an_unfinished_record_is_not(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS)
    runs = finish(study, lambda run: None if run.arm == 'Li' else 1.0)
    assert all(outcome_of(study, run).diverged == (run.arm == 'Li') for run in runs)
    record = record_of(runs[0], None) | {'info': {'ended': 'stopped'}}
    write_records(study.records_path, {runs[0].folder: record})
    assert outcome_of(study, runs[0]) is None

@pytest.mark.parametrize('name', ['config.json', 'run.json', 'metrics.jsonl'])
@pytest.mark.parametrize('text', ['', '{"out_dir": "ou', '[]', 'null'])
def test_a_damaged_file_of_a_run_is_named_and_the_others_go_on(tmp_path, name, text):
    study = make_study(tmp_path, **TWO_ARMS)
    run = plan_runs(study)[1][0]
    folder = Path(study.out, run.folder)
    folder.mkdir(parents=True)
    record = record_of(run, 1.0)
    (folder / 'config.json').write_text(json.dumps(record['config']))
    (folder / 'run.json').write_text('{}')
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in record['metrics']))
    assert outcome_of(study, run).loss == 1.0
    (folder / name).write_text(text)
    assert len(left(study)) == 8 and outcome_of(study, run) is None
    assert (run.folder in study.damaged) == (name != 'metrics.jsonl')

def test_a_prefix_is_taken_from_the_run_that_has_saved_most_of_it(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS | {'budgets': (1000, 2000, 4000), 'seeds': (1,)})
    runs = {run.folder: run for run in plan_runs(study)[1]}
    short, middle, long = (runs[f'full/b{budget}_s1'] for budget in (1000, 2000, 4000))
    assert short.parent in (middle, long) and middle.parent is long and long.parent is None
    assert saved_prefix(study, short) == ('', 0)
    for run, steps in ((long, (300, 3999)), (middle, (700, 900))):
        folder = Path(study.out, run.folder)
        folder.mkdir(parents=True)
        for step in steps:
            (folder / f'ckpt_{step:06d}.pt').write_text('')
    # It decays over its last 1/10: the steps from 900 on are its own.
    assert saved_prefix(study, short)[0] == str(Path(study.out, middle.folder))

@pytest.mark.parametrize('path', sorted(ROOT.glob('studies/*.py')), ids=lambda path: path.stem)
def test_the_studies_that_come_with_it_can_be_planned_and_say_how_to_run_them(path):
    study = load_study(f'studies/{path.name}', out='nowhere')
    _, grid = plan_runs(study, guess=True)
    asked = [study.seeds_at(arm, budget, scale) for arm in study.arms for scale, budget in study.cells]
    assert len(grid) == sum(map(len, asked)) > 0
    assert f'python study.py studies/{path.name}' in path.read_text()

def test_a_renamed_file_a_mark_before_its_text_and_a_torn_state_do_no_harm(tmp_path):
    path = Path(write_study(tmp_path / 'mine.py', **TWO_ARMS))
    path.write_bytes(b'\xef\xbb\xbf# Does it\n# pay?\n#\n# No.\n' + path.read_bytes())
    (tmp_path / 'out').mkdir()
    for state in ('', '[1]', '{"pid": 1'):
        (tmp_path / 'out' / 'study.json').write_text(state)
        study = load_study(str(path), out=str(tmp_path / 'out'))
        assert study.about == 'Does it pay?' and study.failed == {} and study.damaged
    path.rename(tmp_path / 'other.py')
    plan_runs(study)
