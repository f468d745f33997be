"""What can be wrong in a study file, said before anything runs. Run: python -m pytest tests/grid"""

from pathlib import Path

import pytest
from fake_study import TWO_ARMS, write_study

from core.common import UserError
from grid.plan import load_study, plan_runs
from grid.study_file import arm_argv

ROOT = Path(__file__).parents[2]
MISTAKES = [
    ({'seds': (1,)}, "there is no 'seds' in a study; did you mean 'seeds'"),
    ({'baseline': 'ful'}, "baseline: there is no 'ful'; did you mean 'full'"),
    ({'arms': {'full': 'basline'}},
     "arm 'full': configs/basline.py: no such config file; did you mean 'baseline'"),
    ({'arms': {'full': 'baseline --n_layr=3'}}, "arm 'full': .*did you mean 'n_layer'"),
    ({'arms': {'full': 'baseline --seed=3'}}, 'seed is what the study itself gives'),
    ({'arms': {'full': 'baseline', 'Full': 'baseline'}}, "'full' and 'Full' would share the name full"),
    ({'arms': {'full': 'baseline', 'x': "baseline --init_from='@ful'"}},
     "arm 'x': there is no 'ful'; did you mean 'full'"),
    ({'arms': {'full': "baseline --init_from='@full'"}}, 'starts from its own end'),
    ({'arms': {}}, "baseline: there is no 'full'"),
    ({'settings': {'lr_schedul': 'wsd'}}, "settings: there is no 'lr_schedul'; did you mean 'lr_schedule'"),
    ({'settings': {'out_dir': 'x'}}, 'out_dir is what the study itself gives'),
    ({'budgets': (100, 100)}, r'budgets must be a tuple of different values of .*, not \(100, 100\)'),
    ({'budgets': (0,)}, r'of type int from 1 to .*, not \(0,\)'),
    ({'budgets': ()}, 'budgets is missing'),
    ({'budgets': (3,)}, "arm 'Li': growth_steps 2 is less than one step for each of 8 stages"),
    ({'only': {1_00: {'arms': ('full', 'Lee')}}}, "only, 100: there is no 'Lee'"),
    ({'only': {1_000: {'seeds': (1,)}}}, 'only, 1000: there is no such scale or budget'),
    ({'only': {100: {'seeds': (1, 7)}}}, 'only, 100: there is no 7; there are 1, 2'),
    ({'only': {100: {'seeds': (1, 1)}}}, r'seeds must be a tuple of different ones, not \(1, 1\)'),
    ({'only': {100: {'seeds': 1}}}, 'seeds must be a tuple of different ones, not 1'),
    ({'only': {100: {'arm': ('full',)}}}, "it must have a dict of 'arms' and 'seeds'"),
    ({'only': {100: {'arms': ([],)}}}, r'only, 100: there is no \[\]'),
    ({'only': {100: ('full',)}}, "it must have a dict of 'arms' and 'seeds'"),
    ({'only': {100: {'arms': ('Li',)}}}, 'only, 100: there is no baseline to judge by'),
    ({'only': (100,)}, 'only must be a dict'),
    ({'only': {100: {'arms': ('full',)}, 200: {'arms': ('full',)}}}, "only leaves 'Li' out at every budget"),
    ({'arms': {'full': 'baseline', 'old': 'baseline --n_layer=6', 'x': "baseline --init_from='@old'"},
      'only': {100: {'arms': ('full', 'x')}}}, "'x' starts from the end of 'old', which is left out"),
    ({'seeds': 'one'}, "seeds must be a tuple of different values of type int from 0 to .*, not .'one',."),
    ({'tune': {'learning_rate': 0.1}}, 'learning_rate must have a tuple of values to try'),
    ({'tune': {'learning_rat': (0.1, 0.2)}}, "tune: there is no 'learning_rat'"),
    ({'tune': {'Lee': {'learning_rate': (0.1,)}}}, "tune: there is no 'Lee'"),
    ({'tune': {'learning_rate': ('high',)}}, "learning_rate must be float, not 'high'"),
    ({'tune': {'Li': {'learning_rate': (0.1, 'high')}}},
     "arm 'Li': .*learning_rate must be float, not 'high'"),
    ({'tune_extend': -1}, 'tune_extend must be an int from 0 to 20, not -1'),
    ({'tune_extend': 2.0}, 'tune_extend must be an int'),
    ({'seeds': (1, 2**32)}, r'from 0 to 2\*\*32 - 1, not \(1, 4294967296\)'),
    ({'more_seeds': (2, 3)}, 'more_seeds: 2 is one of the seeds that judge'),
    ({'tune_seeds': (1,)}, 'tune_seeds: 1 is one of the seeds that judge'),
    ({'margin': 0}, 'margin must be a number between 0 and 1, not 0'),
    ({'margin': (0, 5)}, r'margin must be a number between 0 and 1, not \(0, 5\)'),
    ({'questions': (('Lee', 100),)}, r"questions: \('Lee', 100\) is nowhere in the grid"),
    ({'questions': ('Li', 300)}, r"questions: \('Li', 300\) is nowhere in the grid"),
    ({'questions': (('Li', 200),), 'only': {200: {'arms': ('full',)}}}, "only leaves .*'Li'.* out"),
    ({'arms': {'full': 'baseline', '---': 'baseline'}}, "its folder would be '___'; a name needs a letter"),
    ({'arms': {'full': 'baseline', 'x' * 101: 'baseline'}}, 'at most 100 bytes'),
    ({'arms': {'full': 'baseline', '\u8a9e' * 34: 'baseline'}}, 'at most 100 bytes'),
    ({'arms': {'full': 'baseline', 'a\nb': 'baseline'}}, 'a name is one line'),
    ({'arms': {'full': 'baseline', '=1+1': 'baseline'}}, "doesn't begin with = "),
    ({'arms': {'full': 'baseline', 'x': "baseline --run_name='a"}}, "arm 'x': No closing quotation in"),
    ({'arms': {'full': 'baseline', 'x': 'baseline --seed 3'}}, 'seed is what the study itself gives'),
    ({'arms': {'full': 'baseline', 'x': 'baseline --out-dir=y'}}, 'out_dir is what the study itself gives'),
    ({'arms': {'full': 'baseline', 'x': 'baseline --init_from @ful'}}, "arm 'x': there is no 'ful'"),
    ({'arms': {'full': 'baseline --learning_rate=0,5'}}, "learning_rate must be float, not '0,5'"),
]

@pytest.mark.parametrize('change, message', MISTAKES)
def test_a_mistake_in_a_study_file_is_one_clear_line(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(ROOT)
    path = write_study(tmp_path / 'mine.py', **TWO_ARMS | change)
    with pytest.raises(UserError, match=message):
        load_study(path)

def test_a_study_that_is_not_there_is_said_with_the_nearest_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r'studies/smok.py: no such study file; did you mean '
                                        r"'studies/smoke.py'\?"):
        load_study('studies/smok.py')

def test_all_mistakes_are_said_at_once(tmp_path):
    path = write_study(tmp_path / 'mine.py', **TWO_ARMS | {'budget': 3, 'seeds': 'x', 'settings': 4})
    with pytest.raises(UserError) as error:
        load_study(path)
    assert str(error.value).startswith('the study is wrong:\n') and str(error.value).count('\n  ') == 3
    with pytest.raises(UserError, match=r'^the study is wrong:\n'):  # of two as well
        load_study(write_study(tmp_path / 'two.py', **TWO_ARMS | {'budget': 3, 'settings': 4}))

def test_what_is_just_allowed(tmp_path, monkeypatch):
    """A name as long as a name may be, a list where a tuple is usual, looks at 3, 5, 8 and all seeds."""
    monkeypatch.chdir(ROOT)
    arms = {'full': 'baseline', 'x' * 100: 'nofreeze_8stage --n_stages=2'}
    names = TWO_ARMS | {'arms': arms, 'seeds': (1, 2, 3), 'more_seeds': tuple(range(4, 12))}
    names['settings'] = names['settings'] | {'eval_after_growth': [10, 30]}
    study = load_study(write_study(tmp_path / 'mine.py', **names))
    assert [len(look) for look in study.looks] == [3, 5, 8, 11]
    assert '--eval_after_growth=(10,30)' in arm_argv(study, 'full')

LADDER = {'arms': TWO_ARMS['arms'], 'baseline': 'full', 'overlays': ('cpu',), 'seeds': (1,),
          'settings': TWO_ARMS['settings'], 'per_parameter': (1, 4),
          'scales': {'small': '--n_embd=48 --n_head=3', 'large': '--n_embd=96 --n_head=6'}}
OF_LADDERS = [
    ({'budgets': (100,)}, 'budgets and per_parameter are two ways to say the same'),
    ({'scales': {}}, 'scales is missing'),
    ({'scales': {'small': 48}}, "scale 'small': must be a name, with configs and flags as a text, not 48"),
    ({'scales': {'a b': '', 'a_b': ''}}, "scales 'a b' and 'a_b' would share the name a_b"),
    ({'scales': {'small': '--n_embd=50'}}, "arm 'full': n_embd 50 is not divisible by n_head 4"),
    ({'scales': {'small': '--seed 3'}}, 'seed is what the study itself gives'),
    ({'held_out': ('huge',)}, "held_out: there is no 'huge'; there are 'small', 'large'"),
    ({'held_out': ('small', 'large')}, 'held_out: no scale is left to predict from'),
    ({'only': {'larg': {'arms': ('full',)}}}, "only, 'larg': there is no such scale or budget; did"),
    ({'only': {('large', 2): {'arms': ('full',)}}}, 'there is no such scale or budget'),
    ({'questions': (('Li', 4),)}, r'questions: each must be \(arm, scale, budget\), not'),
    ({'questions': (('Li', 'large', 2),)}, 'is nowhere in the grid'),
    ({'tune_at': {'huge': (1,)}, 'tune': {'learning_rate': (0.1,)}}, "tune_at: there is no 'huge'"),
    ({'tune_at': (2,), 'tune': {'learning_rate': (0.1,)}}, 'tune_at: there is no 2'),
]

@pytest.mark.parametrize('change, message', OF_LADDERS)
def test_a_mistake_in_a_ladder_is_one_clear_line(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        load_study(write_study(tmp_path / 'mine.py', **LADDER | change))

def test_mistakes_of_all_kinds_stand_in_one_message(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = TWO_ARMS | {'budget': 3, 'seeds': (2**32,), 'tune_extend': -1, 'margin': (0, 5),
                        'baseline': 'ful',
                        'arms': {'full': 'baseline', '=x': 'baseline', 'open': 'baseline --x="y',
                                 'Li': 'incremental_8stage --n_layr=3'}}
    with pytest.raises(UserError) as error:
        load_study(write_study(tmp_path / 'mine.py', **names))
    said = str(error.value)
    for part in ("no 'budget'", 'from 0 to 2**32', 'tune_extend must be an int', 'margin must be a number',
                 "baseline: there is no 'ful'", "arm '=x': a name", "arm 'open': No closing quotation"):
        assert said.count(part) == 1, part
    # With a baseline to measure budgets by, the arms' own mistakes stand there, too.
    with pytest.raises(UserError) as error:
        load_study(write_study(tmp_path / 'mine.py', **names | {'baseline': 'full'}))
    assert "arm 'Li'" in str(error.value) and "did you mean 'n_layer'" in str(error.value)

def test_names_with_commas_are_told_apart_in_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    arms = {'Li, 8 stages': 'baseline', 'b': 'baseline'}
    with pytest.raises(UserError, match=r"there are 'Li, 8 stages', 'b'$"):
        load_study(write_study(tmp_path / 'mine.py', **TWO_ARMS | {'arms': arms, 'baseline': 'zzzzzz'}))

def test_an_arm_needs_no_plan_at_a_budget_from_which_it_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = TWO_ARMS | {'budgets': (3, 100), 'settings': {'vocab_size': 320, 'warmup_steps': 1},
                        'only': {3: {'arms': ('full',)}}}
    loaded = load_study(write_study(tmp_path / 'mine.py', **names))
    _, runs = plan_runs(loaded)
    assert {(run.arm, run.budget) for run in runs} == {('full', 3), ('full', 100), ('Li', 100)}
    # Where it is tuned it is run all the same.
    tune = {'Li': {'learning_rate': (0.01, 0.02)}}
    write_study(tmp_path / 'mine.py', **names | {'tune_at': (3,), 'tune': tune})
    with pytest.raises(UserError, match="arm 'Li': growth_steps 2 is less than one step"):
        load_study(str(tmp_path / 'mine.py'))
