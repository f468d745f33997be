"""Strict settings. Run: python -m pytest tests/story/test_config.py"""

import dataclasses
import glob
import json
import os
import re
from pathlib import Path

import pytest

import config as configuration
import schedule
from config import TrainConfig, load_config
from core.common import UserError

REPO = Path(__file__).parents[2]

def load(*argv):
    return load_config([*map(str, argv)], '', say=None)

def write(folder, name, text):
    path = Path(folder, name)
    path.write_text(text)
    return str(path)

def error_of(*argv) -> str:
    with pytest.raises(UserError) as error:
        load(*argv)
    return str(error.value)

def test_configs_apply_from_left_to_right_and_flags_last(tmp_path):
    a = write(tmp_path, 'a.py',
              'n_layer = 6\nn_stages = 3\nstage_depths = [2, 4, 6]\n_private = n_layer * 2\n')
    b = write(tmp_path, 'b.py', 'n_layer = 8\nstage_depths = (2, 4, 8)\nlearning_rate = 1')
    c = load(a, b, '--learning_rate=3e-4', '--shuffle', '--total_batch_size=524_288')
    assert (c.n_layer, c.stage_depths, c.learning_rate, c.shuffle) == (8, (2, 4, 8), 3e-4, True)
    assert load(a, b).out_dir == 'out/a_b' and load(a, b).run_name == 'a_b'

# Adding a setting is a decision, and says which one went: val_dirs came, wandb_project went.
SETTINGS = '''out_dir run_name seed resume branch_from data_dir shuffle arch n_layer n_head n_embd n_kv_head
head_dim n_ff rope_theta norm_eps tie_embeddings block_size vocab_size dropout init_from init_depth
n_stages stage_depths growth_steps stage_steps stage_fractions phase1_fraction phase1_embeddings
continual_steps baseline_steps ledger match grow_init grow_map grow_optimizer total_batch_size
batch_size optimizer learning_rate min_lr lr_schedule warmup_steps rewarm_steps rewarm
lr_depth_power stage_lr_scale decay_fraction weight_decay beta1 beta2 muon_learning_rate grad_clip
eval_interval eval_after_growth val_tokens val_dirs hellaswag_interval hellaswag_data
hellaswag_limit log_interval checkpoint_interval checkpoint_steps keep_checkpoints tracker
tracker_project device dtype compile'''
# What a resumed run may change, since the steps stay the same.
FREE = '''out_dir run_name resume branch_from data_dir batch_size eval_interval eval_after_growth val_tokens
val_dirs hellaswag_interval hellaswag_data hellaswag_limit log_interval checkpoint_interval
checkpoint_steps keep_checkpoints tracker tracker_project device dtype compile'''

def test_the_list_of_settings_is_frozen_and_so_is_what_may_change_on_resume():
    fields = configuration.FIELDS
    assert [*fields] == SETTINGS.split()
    assert {field.metadata['group'] for field in fields.values()} == {*configuration.GROUPS}
    assert [name for name, field in fields.items() if field.metadata['free']] == FREE.split()

def test_the_defaults_are_the_papers_run():
    c = TrainConfig()
    assert (c.n_layer, c.n_head, c.n_embd, c.block_size, c.total_batch_size) == (12, 12, 768, 1024, 524_288)
    assert (c.learning_rate, c.beta1, c.beta2, c.weight_decay, c.lr_schedule) == (6e-4, 0.9, 0.95, 0.1,
                                                                                  'constant')
    assert (c.growth_steps, c.continual_steps, c.seed, c.grad_clip) == (10_000, 10_000, 1337, 0.0)
    assert (c.muon_learning_rate, c.decay_fraction, c.vocab_size) == (0.02, 0.1, 50304)

def test_all_mistakes_come_in_one_message(tmp_path):
    bad = write(tmp_path, 'bad.py', 'import os\nn_layers = 12\nlearning_rate = "fast"\n'
                'stage_depths = (2, "three")\nshuffle = 1\nn_head = 2.5\n')
    broken = write(tmp_path, 'broken.py', 'n_layer = 12\nn_stages = = 4\n')
    raises = write(tmp_path, 'raises.py', 'n_layer = 12\n\nn_stages = undefined\n')
    message = error_of(bad, broken, raises, 'missing.py', '--lr=3', '--optimizer=sgd', '--seed',
                       '--continual_steps=equal', '--n_embd=770')
    for piece in [f"{bad}: no setting is called 'os'",
                  f"{bad}: no setting is called 'n_layers'; did you mean 'n_layer'?",
                  f"{bad}: learning_rate must be float, not 'fast'",
                  f'{bad}: stage_depths must be a tuple of int',
                  f'{bad}: shuffle must be bool, not 1', f'{bad}: n_head must be int, not 2.5',
                  f'{broken}, line 2: SyntaxError', f'{raises}, line 3: NameError',
                  'missing.py: no such config file', "--lr=3: no setting is called 'lr'",
                  "optimizer must be 'adamw' or 'muon', not 'sgd'", '--seed=...',
                  "continual_steps must be int or 'equal_compute', not 'equal'",
                  'n_embd 770 is not divisible by n_head 12']:
        assert piece in message

@pytest.mark.parametrize('flags, piece', [
    ('--n_stages=13', '13 stages need at least as many layers'),
    ('--n_stages=2 --stage_depths=6,10', 'stage_depths must grow'),
    ('--n_stages=2 --stage_depths=12,12', 'stage_depths must grow'),
    ('--n_stages=2 --stage_depths=6,12 --init_from=x --init_depth=7', 'stage_depths must grow'),
    ('--n_stages=3 --init_from=x --init_depth=10', '3 stages need at least as many layers to grow'),
    ('--val_dirs=here', 'val_dirs must be name:folder'), ('--val_dirs=a:x,a:y', 'val_dirs must be'),
    ('--n_stages=3 --stage_depths=6,12', 'stage_depths has 2 entries, n_stages is 3'),
    ('--n_stages=3 --stage_steps=6,12', 'stage_steps has 2 entries, n_stages is 3'),
    ('--n_stages=2 --stage_steps=0,12', 'every one of stage_steps must be at least 1'),
    ('--n_stages=2 --stage_steps=5,5 --stage_fractions=.5,.5', 'exclude each other'),
    ('--n_stages=2 --stage_fractions=.5,.6', 'stage_fractions must be shares of 1'),
    ('--n_stages=4 --growth_steps=3', 'less than one step for each of 4 stages'),
    ('--n_stages=2 --growth_steps=0', 'growth_steps 0 is less than one step for each of 2'),
    ('--total_batch_size=1000', 'total_batch_size 1000 is not a multiple of'),
    ('--phase1_fraction=1.5', 'phase1_fraction must be at most 1'),
    ('--continual_steps=-1', 'continual_steps must be at least 0'),
    ('--learning_rate=1e999', 'learning_rate must be a finite number'),
    ('--min_lr=1', 'min_lr 1.0 is above learning_rate'), ('--min_lr -1', 'min_lr must be at least 0'),
    ('--optimizer=muon --learning_rate=0', 'learning_rate 0 would stop Muon too'),
    ('--dropout=1', 'dropout must be below 1'),
    ('--init_depth=3', "init_depth 3 is of the model to grow from, and init_from is 'scratch'"),
    ('--init_from=gpt2 --init_depth=13', 'init_depth 13 is above n_layer'),
    ('--batch_size=0', 'batch_size must be at least 1, not 0'), ('--seed=5000000000', 'seed must be below'),
    ('--arch=llama --n_kv_head=5', 'n_head 12 is not divisible by n_kv_head 5'),
    ('--arch=llama --head_dim=3', 'width of a head must be even'), ('--n_ff=8', 'n_ff is a setting of arch'),
    ('--arch=llama --rope_theta=1,2', 'one number or five'), ('--arch=llama --dropout=.1', 'no dropout'),
    (f'--n_layer={2**63}', 'n_layer must be below 9223372036854775808'), ('--n_layer=1e300', 'must be below'),
    (f'--n_layer={9**99}', 'must be below'), (f'--learning_rate={10**400}', 'must be a finite number'),
    ('--checkpoint_steps=3,0', 'every one of checkpoint_steps must be at least 1'),
    ('--grow_map=((0,-2),)', 'every one of grow_map must be at least -1'),
])
def test_impossible_settings_are_named(flags, piece):
    assert piece in error_of(*flags.split())

@pytest.mark.parametrize('name', ['n_layer', 'n_head', 'n_embd', 'block_size', 'n_stages', 'total_batch_size',
                                  'batch_size', 'val_tokens', 'log_interval', 'keep_checkpoints'])
def test_one_is_the_least_of_what_there_must_be(name):
    assert not configuration.read_command_line([f'--{name}=1']).problems
    assert configuration.read_command_line([f'--{name}=0']).problems

def test_every_shipped_config_loads_alone_and_under_the_cpu_overlay():
    names = sorted(glob.glob('configs/*.py'))
    assert len(names) >= 6
    for name in names:
        # A Llama's heads don't go by GPT-2's.
        overlays = ['configs/cpu_llama.py'] if load(name).arch == 'llama' else []
        load(name, 'configs/cpu.py', *overlays)
    overlay = configuration.read_file('configs/cpu.py', [])
    assert not {*overlay} & {'n_layer', 'n_stages', 'stage_depths', 'stage_steps', 'stage_fractions'}

def test_vocab_size_is_the_datas_rounded_up_unless_a_config_says_it(tmp_path):
    (tmp_path / 'meta.json').write_text(json.dumps({'tokenizer': 'bytes', 'vocab_size': 257, 'eot': 256}))
    for flags in ([], ['--vocab_size=0']):  # also where nobody says one
        assert load(f'--data_dir={tmp_path}', *flags).vocab_size == 320
        assert load('--data_dir=nowhere', *flags).vocab_size == 50304
    assert load(f'--data_dir={tmp_path}', '--vocab_size=512').vocab_size == 512

def test_a_llama_has_gpt2s_heads_and_an_mlp_of_8_thirds_unless_it_is_said():
    c = load('--arch=llama', '--n_embd=640', '--n_head=10')
    assert (c.n_kv_head, c.head_dim, c.n_ff) == (10, 64, 1728)  # 1706.7 up to a multiple of 64
    c = load('--arch=llama', '--n_kv_head=4', '--head_dim=32', '--n_ff=100')
    assert (c.n_kv_head, c.head_dim, c.n_ff) == (4, 32, 100)

def test_a_config_survives_json():
    c = load('configs/incremental_8stage.py', 'configs/cpu.py', '--n_stages=2', '--stage_depths=6,12',
             '--grow_map=((0,1,2,3,4,5,0,1,2,3,4,5),)')
    saved = configuration.config_to_dict(c)
    assert configuration.config_from_dict(json.loads(json.dumps(saved)), 'x') == c
    assert saved['stage_depths'] == [6, 12] and type(saved['grow_map'][0]) is list
    # An older one, which lacks a setting, was made with its default.
    old = configuration.config_to_dict(TrainConfig())
    for name in ('tracker', 'eval_after_growth', 'grow_map', 'rewarm', 'lr_depth_power', 'arch'):
        del old[name]
    assert configuration.config_from_dict(old, 'x') == TrainConfig()

# ----------------------------------------------------------------------------------------------------------
# one value

@pytest.mark.parametrize('flag, value', [
    ('--out_dir=2025_01_31', '2025_01_31'), ('--run_name=1e5', '1e5'), ('--run_name=None', 'None'),
    ('--run_name=(1, 2)', '(1, 2)'), ("--run_name='x'", "'x'"), ('--run_name= a b ', ' a b '),
    ('--run_name=a=b', 'a=b'), ('--hellaswag_data=', ''), ('--init_from=7', '7'),
    ('--n_layer=1e1', 10), ('--total_batch_size=524_288', 524_288), ('--n_layer=007', 7),
    ('--n_layer=4.0', 4), ('--seed=1E3', 1000), ('--n_layer=+4', 4), ('--n-layer=4', 4),
    ('--learning_rate=1', 1.0), ('--learning_rate=.5', 0.5), ('--learning_rate=1_0e-3', 0.01),
    ('--stage_depths=2,4,6', (2, 4, 6)), ('--stage_depths=(2, 4, 6)', (2, 4, 6)),
    ('--stage_depths=[2,4,6,]', (2, 4, 6)), ('--stage_depths=6', (6,)), ('--stage_depths=', ()),
    ('--stage_depths=()', ()), ('--stage_steps=1e3,2_000', (1000, 2000)),
    ('--phase1_fraction=0', 0.0), ('--phase1_fraction=0.5,0,1', (0.5, 0.0, 1.0)),
    ('--phase1_fraction=0.5,', (0.5,)), ('--rope_theta=1e4,8,1,4,8192', (1e4, 8.0, 1.0, 4.0, 8192.0)),
    ('--grow_init=stack', 'stack'), ('--grow_init=stack,zero', ('stack', 'zero')),
    ("--grow_init=('stack', 'zero')", ('stack', 'zero')), ('--val_dirs=a:x,b:y/z', ('a:x', 'b:y/z')),
    ('--grow_map=((0, 1, 0, 1), (0, 1, 2, 3, -1))', ((0, 1, 0, 1), (0, 1, 2, 3, -1))),
    ('--grow_map=((), (0, 1, 0))', ((), (0, 1, 0))), ('--grow_map=()', ()),
    ('--grow_map=0,1,0', ((0, 1, 0),)),
    ('--continual_steps=equal_compute', 'equal_compute'), ('--continual_steps=1e3', 1000),
    ('--compile=False', False), ('--compile=auto', 'auto'), ('--compile', True), ('--shuffle=TRUE', True),
])
def test_a_flag_means_what_its_setting_is(flag, value):
    given = configuration.read_command_line([flag])
    name = flag[2:].partition('=')[0].replace('-', '_')
    assert not given.problems
    assert given.flags == {name: value} and type(given.flags[name]) is type(value)

@pytest.mark.parametrize('flag, piece', [
    ('--n_layer=0x10', "must be int, not '0x10'"), ('--n_layer=None', "n_layer must be int, not 'None'"),
    ('--n_layer=True', "n_layer must be int, not 'True'"), ('--n_layer=', "n_layer must be int, not ''"),
    ('--n_layer=4.5', 'n_layer must be int, not 4.5'), ('--n_layer=1e999', 'n_layer must be int'),
    ('--n_layer=2,4', "n_layer must be int, not '2,4'"), ('--n_layer=()', "n_layer must be int, not '()'"),
    ('--learning_rate=fast', "learning_rate must be float, not 'fast'"),
    ('--learning_rate=nan', 'learning_rate must be float, not nan'),
    ('--shuffle=1', "shuffle must be bool, not '1'"),
    ('--compile=1', "compile must be bool or 'auto', not '1'"),
    ('--stage_depths=2,,4', "stage_depths must be a tuple of int, not '2,,4'"),
    ('--stage_depths=(2,4', "stage_depths must be a tuple of int, not '(2,4'"),
    ('--stage_depths=None', 'stage_depths must be a tuple of int'),
    ('--stage_depths=((2,4),)', 'stage_depths must be a tuple of int'),
    ('--grow_map=((0,1),2)', 'grow_map must be a tuple of tuples of int'),
    ('--stage_fractions=0.5,nan', 'stage_fractions must be a tuple of float'),
    ('--grow_init=stack,clone', "or a tuple of them, not ('stack', 'clone')"),
    ('--grow_map=os.getcwd()', 'grow_map must be a tuple of tuples of int'),
    ('--grow_map=' + '(' * 10_000, 'grow_map must be a tuple of tuples of int'),
    ('--tracker=None', "tracker must be '' or 'wandb'"), ('--n_layer', '--n_layer: a flag needs a value'),
    ('--n_layer --shuffle', '--n_layer: a flag needs a value'), ('--', "no setting is called ''"),
])
def test_a_flag_of_another_type_is_refused(flag, piece):
    assert piece in error_of(*flag.split())

@pytest.mark.parametrize('line, piece', [
    ('compile = None', "compile must be bool or 'auto', not None"), ('n_layer = True', 'int, not True'),
    ('run_name = 2025_01_31', 'run_name must be str, not 20250131'), ('n_layer = "4"', "int, not '4'"),
    ('shuffle = "False"', "shuffle must be bool, not 'False'"), ('n_layer = (4,)', 'int, not (4,)'),
    ('learning_rate = float("inf")', 'learning_rate must be a finite number'),
    ('learning_rate = float("nan")', 'learning_rate must be float, not nan'),
    ('learning_rate = 1j', 'learning_rate must be float'), ('stage_depths = {2, 12}', 'not {2, 12}'),
    ('stage_depths = (2, None)', 'must be a tuple of int, not (2, None)'),
    ('import sys; sys.exit(0)', 'line 1: SystemExit'), ('def f(): f()\nf()', 'RecursionError'),
    ('n_layer = 4\0', 'Error'), ('n_layer: int = "x"', 'n_layer must be int'),
])
def test_a_config_that_can_not_be_is_refused_with_its_name(tmp_path, line, piece):
    path = write(tmp_path, 'mine.py', line)
    message = error_of(path)
    assert path in message and piece in message

def test_a_configs_values_take_the_settings_type(tmp_path):
    # A byte order mark, as Windows' editors write it.
    path = write(tmp_path, 'mine.py', '\ufeffgrowth_steps = 1e3\nlearning_rate = 1\nn_stages = 2\n'
                 "stage_depths = [1e0, 12]\nval_dirs = {'old': 'data/old', 'code': 'data/code'}\n")
    c = load(path)
    assert (c.growth_steps, c.learning_rate, c.stage_depths) == (1000, 1.0, (1, 12))
    assert [type(v) for v in (c.growth_steps, c.learning_rate, *c.stage_depths)] == [int, float, int, int]
    assert c.val_dirs == ('old:data/old', 'code:data/code')

@pytest.mark.parametrize('argv, expected', [
    (['--n_layer', '4', '--learning_rate', '1e-3'], {'n_layer': 4, 'learning_rate': 1e-3}),
    (['--run_name', '007', '--shuffle', '--seed', '2'], {'run_name': '007', 'shuffle': True, 'seed': 2}),
    (['--shuffle', 'false', '--compile', 'auto'], {'shuffle': False, 'compile': 'auto'}),
    (['--min_lr', '0', '--stage_depths', '6,12', '--n_stages', '2'], {'stage_depths': (6, 12)}),
    (['--compile', 'configs/cpu.py'], {'compile': True, 'n_embd': 64}),
    (['--resume', 'configs/cpu.py', '--seed', '7'], {'resume': 'yes', 'n_embd': 64, 'seed': 7}),
    (['--resume', 'auto', 'configs/cpu.py'], {'resume': 'auto', 'n_embd': 64}),
    (['-seed=3', '--seed=4'], {'seed': 4}),
])
def test_a_value_may_stand_behind_its_flag(argv, expected):
    c = load(*argv)
    assert {name: getattr(c, name) for name in expected} == expected

def test_a_home_directory_is_meant_by_a_tilde_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    write(tmp_path, 'mine.py', "data_dir = '~/data'\nn_layer = 4\n")
    paths = {name for name, field in configuration.FIELDS.items() if field.metadata['path']}
    assert paths == {'out_dir', 'resume', 'branch_from', 'data_dir', 'init_from', 'match', 'hellaswag_data'}
    c = load(tmp_path / 'mine.py', '--out_dir=~/out', '--init_from=~/b', '--match=~/mine.py+~/mine.py',
             '--run_name=~/x')
    assert (c.out_dir, c.init_from, c.data_dir) == (f'{tmp_path}/out', f'{tmp_path}/b', f'{tmp_path}/data')
    assert c.match == f'{tmp_path}/mine.py+{tmp_path}/mine.py' and c.run_name == '~/x'

# ----------------------------------------------------------------------------------------------------------
# names

def test_the_names_of_other_projects_lead_to_settings_that_are_there():
    for ours, theirs in configuration.OTHER_NAMES.items():
        assert {*ours.split(' or ')} <= configuration.FIELDS.keys()
        assert not {*theirs.split()} & configuration.FIELDS.keys()

@pytest.mark.parametrize('name, ours', [
    ('max_iters', "'growth_steps or continual_steps'"), ('LR', "'learning_rate'"),
    ('max-iters', "'growth_steps or continual_steps'"), ('n_layers', "'n_layer'"),
    ('learning_rat', "'learning_rate'"), ('wandb_project', "'tracker_project'"), ('banana', ''), ('bias', ''),
])
def test_another_projects_name_gets_ours_and_a_strange_one_no_suggestion(tmp_path, name, ours):
    path = write(tmp_path, 'theirs.py', f'{name.replace("-", "_")} = 3\n')
    for argv in ([f'--{name}=3'], [f'--{name}', '3'], [path]):
        end = f'; did you mean {ours}?' if ours else f"no setting is called '{name}'"
        assert error_of(*argv).endswith(end)

# ----------------------------------------------------------------------------------------------------------
# several configs

def test_what_a_later_config_changes_is_said_in_one_line(tmp_path, capsys):
    mine = write(tmp_path, 'mine.py', 'n_layer = 6\nlearning_rate = 1e-3\nn_stages = 2\n')
    cpu = write(tmp_path, 'cpu.py', 'n_layer = 12\nlearning_rate = 1e-3\nn_head = 4\n')
    last = write(tmp_path, 'last.py', 'n_layer = 8\nn_head = 2\nn_stages = 1\n')
    load_config([mine, cpu, last], '')
    assert capsys.readouterr().out.splitlines() == [
        'cpu.py: n_layer 6 -> 12 (mine.py)', 'last.py: n_layer 12 -> 8, n_head 4 -> 2 (cpu.py)',
        'last.py: n_stages 2 -> 1 (mine.py)']
    load_config([mine, '--n_layer=8'], '')  # a flag is meant
    load(mine, cpu)
    assert capsys.readouterr().out == ''

@pytest.mark.parametrize('argv', [['configs/cpu.py', 'configs/incremental_8stage.py'],
                                  ['cpu', 'baseline'], ['baseline', 'cpu', 'gong_3_6_12']])
def test_an_overlay_before_a_schedule_is_refused(argv):
    """Its model would be trained for another one's steps."""
    assert re.search(r'not meant for the model of .*cpu.py: name that config last', error_of(*argv))

@pytest.mark.parametrize('name', ['baseline', 'configs/baseline', 'configs/baseline.py', '--config=baseline'])
def test_a_config_of_ours_is_found_by_its_name_from_any_directory(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    c = load(name, '--config', 'cpu')
    assert (c.out_dir, c.n_embd) == ('out/baseline_cpu', 64)

def test_configs_to_match_get_this_runs_overlays_and_shape(tmp_path):
    gong, cpu = 'configs/gong_3_6_12.py', 'configs/cpu.py'
    baseline = ['configs/baseline_cosine.py', cpu]
    assert load(*baseline, f'--match={gong}').match == f'{gong}+{cpu}'
    c = load(*baseline, f'--match={gong}+{cpu}', '--n_embd=128', '--seed=3')
    assert c.match == f'{gong}+{cpu}+--n_embd=128'
    assert load(write(tmp_path, 'here.py', f"match = '{gong}'\n"), cpu).match == f'{gong}+{cpu}'
    assert load('configs/baseline.py', f'--match={gong}').match == gong
    write(tmp_path, 'config.json', '{}')  # a run directory
    assert load(*baseline, f'--match={tmp_path}').match == str(tmp_path)
    for more in ([], ['--n_embd=128'], ['--block_size=64', '--total_batch_size=1024']):
        c = schedule.resolve(load(*baseline, f'--match={gong}', *more))
        assert 500 < schedule.plan(c).total_steps <= 2100  # in steps of GPT-2 124M thousands of millions

@pytest.mark.parametrize('argv, out_dir', [
    ('configs/baseline.py configs/cpu.py --seed=7 --learning_rate=1e-2',
     'baseline_cpu_learning_rate=0.01_seed7'),
    ('--learning_rate=1e-2 configs/baseline.py --seed=7 configs/cpu.py',
     'baseline_cpu_learning_rate=0.01_seed7'),
    ('configs/baseline.py --seed=1337', 'baseline'), ('configs/baseline.py --n_stages=1', 'baseline'),
    ('configs/baseline.py --batch_size=4 --device=cpu --eval_interval=7 --run_name=x', 'baseline'),
    ('configs/baseline.py --growth_steps=1e3', 'baseline_growth_steps=1000'),
    ('configs/incremental_4stage.py --stage_depths=1,2,4,12', 'incremental_4stage_stage_depths=1,2,4,12'),
    ('configs/baseline.py --data_dir=/big/my,data/', 'baseline_data_dir=big-my,data'),
    ('configs/baseline.py --init_from=../out/x --init_depth=4', 'baseline_init_from=..-out-x_init_depth=4'),
    ('--seed=7', 'run_seed7'), ('', 'run'),
])
def test_out_dir_names_the_configs_and_each_flag_that_changes_the_run(argv, out_dir):
    c = load(*argv.split())
    assert c.out_dir == f'out/{out_dir}'
    assert c.run_name == ('x' if '--run_name=x' in argv else out_dir)

def test_long_names_of_folders_are_cut_and_still_differ():
    folders = set()
    for first in (1, 2):
        depths = [*range(first, 100)]
        folders.add(load(f'--stage_depths={",".join(map(str, depths))}', f'--n_stages={len(depths)}',
                         '--n_layer=99').out_dir)
    assert len(folders) == 2 and max(map(len, folders)) < 200

# ----------------------------------------------------------------------------------------------------------
# a run that is resumed

@pytest.fixture
def started(tmp_path, monkeypatch):
    """A folder with a config and a run of it, as the settings see it: config.json and the name of a
    checkpoint."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 'mine.py', 'n_layer = 4\nn_stages = 2\ngrowth_steps = 10\nlearning_rate = 1e-3\n')

    def start(*flags, out_dir='run'):
        config = load('mine.py', f'--out_dir={out_dir}', *flags)
        os.makedirs(out_dir, exist_ok=True)
        write(out_dir, 'config.json', json.dumps(configuration.config_to_dict(config)))
        write(out_dir, 'ckpt_000003.pt', '')
        return config

    return start

def test_resume_with_a_directory_needs_nothing_else(started):
    config = started('--continual_steps=119', '--seed=7', '--stage_depths=1,4', '--shuffle')
    for argv in ('--resume=run', '--resume=run/', '--resume=./run', '--resume run', '--resume --out_dir=run',
                 '--resume=auto --out_dir=run', '--resume=run --out_dir=run'):
        resumed = load(*argv.split())
        assert resumed == dataclasses.replace(config, resume='auto' if 'auto' in argv else 'yes')

def test_flags_change_a_resumed_run_and_configs_its_other_settings(started):
    started('--continual_steps=119')
    resumed = load('--resume=run', '--continual_steps=200', '--eval_interval=9')
    assert (resumed.continual_steps, resumed.eval_interval, resumed.growth_steps) == (200, 9, 10)
    write('.', 'other.py', 'learning_rate = 5.0\nlog_interval = 3\n')
    # what can't change train.py refuses, with both values
    resumed = load('other.py', '--resume=run')
    assert (resumed.learning_rate, resumed.log_interval, resumed.continual_steps) == (5.0, 3, 119)

def test_a_forgotten_schedule_flag_changes_nothing_and_is_said(started, capsys):
    config = started('--continual_steps=119', '--growth_steps=30', '--phase1_fraction=0')
    write('.', 'mine.py', 'n_layer = 4\nn_stages = 2\ngrowth_steps = 10\ncontinual_steps = 2000\n'
          'learning_rate = 1e-3\n')
    argv = ['mine.py', '--out_dir=run', '--resume']
    resumed = load_config(argv, '')
    assert resumed == dataclasses.replace(config, resume='yes')
    line = capsys.readouterr().out
    assert line.count('\n') == 1
    assert 'growth_steps 30 (not 10 as in mine.py), continual_steps 119 (not 2000 as in mine.py)' in line
    assert load_config([*argv, '--growth_steps=30', '--continual_steps=119'], '') == resumed
    assert capsys.readouterr().out == ''

def test_without_a_checkpoint_a_start_takes_the_command_line(started):
    started('--continual_steps=119')
    os.rename('run/ckpt_000003.pt', 'run/ckpt_best.pt')
    for out_dir in ('run', 'nowhere'):
        assert load('mine.py', f'--out_dir={out_dir}', '--resume=auto').continual_steps == 10_000

def test_a_run_that_moved_has_its_new_names(started):
    started('--data_dir=data', '--hellaswag_data=data/hellaswag.jsonl')
    os.rename('run', 'elsewhere')
    os.makedirs('new')
    write('new', 'hellaswag.jsonl', '')
    c = load('--resume=elsewhere', '--data_dir=new')
    assert (c.out_dir, c.run_name, c.hellaswag_data) == ('elsewhere', 'elsewhere', 'new/hellaswag.jsonl')
    started('--run_name=mine', out_dir='b')
    os.rename('b', 'c')
    assert load('--resume=c').run_name == 'mine'

@pytest.mark.parametrize('argv, piece', [
    ('--resume=nowhere', '--resume=nowhere: no run directory with a config.json'),
    ('--resume=run --out_dir=other', '--resume=run and --out_dir=other are two run directories'),
    ('--resume=new', "new/config.json: no setting is called 'from_the_future'"),
    ('--resume=bad', 'bad/config.json: n_layer must be at least 1, not 0'),
])
def test_a_run_directory_that_can_not_be_resumed_is_named(started, argv, piece):
    started()
    for name, text in {'new': '{"from_the_future": 1}', 'bad': '{"n_layer": 0}'}.items():
        os.makedirs(name)
        write(name, 'config.json', text)
    assert piece in error_of(*argv.split())

# ----------------------------------------------------------------------------------------------------------
# what the data decides, and help

def questions_of(folder, tokenizer, has_questions, *flags):
    folder.mkdir(exist_ok=True)
    meta = {'tokenizer': tokenizer, 'vocab_size': 257, 'eot': 256}
    if folder.name == 'own':
        meta['options'] = {'source': ['texts.jsonl']}
    (folder / 'meta.json').write_text(json.dumps(meta))
    if has_questions:
        (folder / 'hellaswag.jsonl').write_text('')
    said = []
    config = load_config([f'--data_dir={folder}', *flags], '', say=said.append)
    return config.hellaswag_data, config.hellaswag_interval, said

def test_questions_belong_to_the_data(tmp_path):
    own = str(tmp_path / 'a' / 'hellaswag.jsonl')
    assert questions_of(tmp_path / 'a', 'bytes', True) == (own, 250, [])
    assert questions_of(tmp_path / 'b', 'gpt2', False) == ('', 250, [])
    data, interval, said = questions_of(tmp_path / 'c', 'bytes', False, 'configs/cpu.py')
    assert (data, interval) == ('', 0)
    assert 'has no hellaswag.jsonl and is not FineWeb in GPT-2 tokens' in said[0]
    assert questions_of(tmp_path / 'c', 'bytes', False, '--hellaswag_interval=0')[2] == []
    assert questions_of(tmp_path / 'own', 'gpt2', False)[:2] == ('', 0)  # one's own text in GPT-2's tokens
    # the official ones, as one says
    assert questions_of(tmp_path / 'a', 'bytes', True, '--hellaswag_data=')[0] == ''
    assert questions_of(tmp_path / 'a', 'bytes', True, f'--hellaswag_data={own}x')[:2] == (own + 'x', 250)
    (tmp_path / 'd').mkdir()  # others' shards, without a meta.json: GPT-2's
    assert load(f'--data_dir={tmp_path}/d').hellaswag_data == ''

@pytest.mark.parametrize('columns', [50, 80, 132])
def test_help_comes_in_groups_as_wide_as_the_terminal(monkeypatch, capsys, columns):
    monkeypatch.setenv('COLUMNS', str(columns))
    with pytest.raises(SystemExit) as stop:
        load('--help', '--no_such=1')
    lines = capsys.readouterr().out.partition(':\n\n')[2].splitlines()
    assert stop.value.code == 0 and columns - 12 < max(map(len, lines)) <= columns
    titles = [line for line in lines if line and not line.startswith(' ')]
    assert titles == list(configuration.GROUPS.values())
    assert lines.index('Optimizer') < lines.index('  --learning_rate=0.0006') < lines.index('Evaluation')
    names = [line.split('=')[0] for line in lines if line.startswith('  --')]
    assert {*names} == {f'  --{name}' for name in configuration.FIELDS}

def test_the_docs_have_every_setting_as_help_prints_it(monkeypatch):
    """Made by: COLUMNS=80 python -c 'import config; print(config.describe())'"""
    monkeypatch.setenv('COLUMNS', '80')
    text = (REPO / 'docs' / 'settings.md').read_text(encoding='utf-8').split('```')[1]
    assert text.strip('\n') == configuration.describe().strip('\n')
