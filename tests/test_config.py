"""Strict settings. Run: python -m pytest tests/test_config.py"""

import dataclasses
import json

import pytest

import config as configuration
from common import UserError
from config import TrainConfig, load_config


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_configs_apply_from_left_to_right_and_flags_last(tmp_path):
    a = write(tmp_path, 'a.py', 'n_layer = 6\nn_stages = 3\nstage_depths = [2, 4, 6]\n_private = n_layer * 2\n')
    b = write(tmp_path, 'b.py', 'n_layer = 8\nstage_depths = (2, 4, 8)\nlearning_rate = 1')
    c = load_config([a, b, '--learning_rate=3e-4', '--shuffle', '--total_batch_size=524_288'], '')
    assert (c.n_layer, c.stage_depths, c.learning_rate, c.shuffle) == (8, (2, 4, 8), 3e-4, True)
    assert load_config([a, b], '').out_dir == 'out/a_b' and load_config([a, b], '').run_name == 'a_b'


def test_out_dir_names_the_configs_and_a_seed_that_is_not_the_default():
    assert load_config(['configs/incremental_8stage.py'], '').out_dir == 'out/incremental_8stage'
    c = load_config(['configs/incremental_8stage.py', 'configs/cpu.py', '--seed=7'], '')
    assert c.out_dir == 'out/incremental_8stage_cpu_seed7'


def test_the_defaults_are_the_papers_run():
    c = TrainConfig()
    assert (c.n_layer, c.n_head, c.n_embd, c.block_size, c.total_batch_size) == (12, 12, 768, 1024, 524_288)
    assert (c.learning_rate, c.beta1, c.beta2, c.weight_decay, c.lr_schedule) == (6e-4, 0.9, 0.95, 0.1, 'constant')
    assert (c.growth_steps, c.continual_steps, c.seed, c.grad_clip) == (10_000, 10_000, 1337, 0.0)


def test_all_mistakes_come_in_one_message(tmp_path):
    bad = write(tmp_path, 'bad.py', 'import os\nn_layers = 12\nlearning_rate = "fast"\nstage_depths = (2, "three")\n'
                                    'shuffle = 1\nn_head = 2.5\n')
    broken = write(tmp_path, 'broken.py', 'n_layer = 12\nn_stages = = 4\n')
    raises = write(tmp_path, 'raises.py', 'n_layer = 12\n\nn_stages = undefined\n')
    with pytest.raises(UserError) as error:
        load_config([bad, broken, raises, 'missing.py', '--lr=3', '--optimizer=sgd', '--seed', '--continual_steps=equal',
              '--n_embd=770'], '')
    message = str(error.value)
    for piece in [f"{bad}: no setting is called 'os'", f"{bad}: no setting is called 'n_layers'; did you mean 'n_layer'?",
                  f"{bad}: learning_rate must be float, not 'fast'", f'{bad}: stage_depths must be a tuple of int',
                  f'{bad}: shuffle must be bool, not 1', f'{bad}: n_head must be int, not 2.5',
                  f'{broken}, line 2: SyntaxError', f'{raises}, line 3: NameError', 'missing.py: no such config file',
                  "--lr=3: no setting is called 'lr'", "optimizer must be 'adamw' or 'muon', not 'sgd'", '--seed=...',
                  "continual_steps must be int or 'equal_compute', not 'equal'", 'n_embd 770 is not divisible by n_head 12']:
        assert piece in message


@pytest.mark.parametrize('flags, piece', [
    ('--n_stages=13', '13 stages need at least as many layers'),
    ('--n_stages=2 --stage_depths=6,10', 'stage_depths must end with n_layer 12'),
    ('--n_stages=2 --stage_depths=12,12', 'stage_depths must grow'),
    ('--n_stages=3 --stage_depths=6,12', 'stage_depths has 2 depths, n_stages is 3'),
    ('--n_stages=3 --stage_steps=6,12', 'stage_steps has 2 entries, n_stages is 3'),
    ('--n_stages=2 --stage_steps=0,12', 'every one of stage_steps must be at least 1'),
    ('--n_stages=4 --growth_steps=3', 'less than one step for each of 4 stages'),
    ('--total_batch_size=1000', 'total_batch_size 1000 is not a multiple of'),
    ('--phase1_fraction=1.5', 'phase1_fraction must be at most 1'),
    ('--continual_steps=-1', 'continual_steps must be at least 0'),
    ('--learning_rate=nan', 'learning_rate must be'),
    ('--learning_rate=1e999', 'learning_rate must be a finite number'),
    ('--min_lr=1', 'min_lr 1.0 is above learning_rate'),
    ('--dropout=1', 'dropout must be below 1'),
    ('--init_from=gpt2', 'init_from and init_depth go together'),
    ('--init_depth=3', 'init_from and init_depth go together'),
    ('--init_from=gpt2 --init_depth=13', 'init_depth 13 is above n_layer'),
    ('--batch_size=0', 'batch_size must be at least 1, not 0'),
    ('--keep_checkpoints=0', 'keep_checkpoints must be at least 1'),
    ('--seed=-1', 'seed must be at least 0'),
    ('--seed=5000000000', 'seed must be below'),
])
def test_impossible_settings_are_named(flags, piece):
    with pytest.raises(UserError) as error:
        load_config(flags.split(), '')
    assert piece in str(error.value)


def test_every_shipped_config_loads_alone_and_under_the_cpu_overlay():
    import glob
    names = sorted(glob.glob('configs/*.py'))
    assert len(names) >= 6
    for name in names:
        load_config([name], '')
        load_config([name, 'configs/cpu.py'], '')


def test_every_setting_has_help_and_help_shows_it(capsys):
    with pytest.raises(SystemExit) as stop:
        load_config(['--help'], 'usage text')
    out = capsys.readouterr().out
    assert stop.value.code == 0 and 'usage text' in out
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata['help'] and f'--{field.name}=' in out


def test_vocab_size_0_is_the_datas_rounded_up(tmp_path):
    (tmp_path / 'meta.json').write_text(json.dumps({'vocab_size': 257}))
    assert load_config([f'--data_dir={tmp_path}', '--vocab_size=0'], '').vocab_size == 320
    with pytest.raises(UserError, match=r"vocab_size is 0, and nowhere/meta.json doesn't say one"):
        load_config(['--data_dir=nowhere', '--vocab_size=0'], '')


def test_a_config_survives_json():
    c = load_config(['configs/incremental_8stage.py', 'configs/cpu.py', '--n_stages=2', '--stage_depths=6,12'], '')
    assert configuration.config_from_dict(json.loads(json.dumps(configuration.config_to_dict(c))), 'x') == c
    with pytest.raises(UserError, match="x: no setting is called 'evil'"):
        configuration.config_from_dict({'evil': 1}, 'x')
    with pytest.raises(UserError, match='x: not a saved config'):
        configuration.config_from_dict([1], 'x')
