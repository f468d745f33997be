"""Every recipe at toy size, its parts over whole runs. Run: python -m pytest tests/whole/test_recipes.py"""

import ast
import json
import math
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from processes import run_ranks
from torch.optim.optimizer import register_optimizer_step_pre_hook

import compare
import export_hf
import schedule
import train
from config import load_config, load_run_config
from growth import describe
from run import checkpoint
from run.start import sunk_cost

ROOT = Path(__file__).parents[2]
OVERLAYS = ('cpu', 'cpu_llama')
CONFIGS = sorted(path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in OVERLAYS)
TIMES = ('seconds', 'eval_seconds', 'checkpoint_seconds', 'tok_per_sec', 'mfu')

@dataclass
class Toy:
    """Runs of train.py in this process, at a size at which 12 layers take a second."""

    overlay: str  # a config file
    folder: Path

    def run(self, name: str, *args) -> Path:
        """A run of some configs and flags, behind which the overlay's sizes hold. Returns its directory."""
        out_dir = self.folder / name
        configs = [arg for arg in args if not arg.startswith('--')]
        flags = [arg for arg in args if arg.startswith('--')]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', ['train.py', *configs, self.overlay, *flags, f'--out_dir={out_dir}'])
            torch.manual_seed(len(args) + 99)  # no run depends on torch's global state
            train.main()
        return out_dir

    def config(self, out_dir: Path):
        return load_run_config(str(out_dir))

@pytest.fixture(scope='module')
def toy(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp('recipes')
    paths = [flag[2:] for flag in tiny if flag.startswith(('--data_dir', '--hellaswag_data'))]
    lines = []
    for path in paths:
        name, _, value = path.partition('=')
        lines.append(f'{name} = {value!r}')
    lines += [
        'vocab_size = 257',
        'n_head = 2',
        'n_embd = 16',
        'block_size = 16',
        'total_batch_size = 64',
        'batch_size = 4',
        'growth_steps = 24',
        'continual_steps = 8',
        'baseline_steps = 32',
        'val_tokens = 160',
        'eval_interval = 0',
        'hellaswag_interval = 0',
        'log_interval = 1',
        'checkpoint_interval = 0',
        "dtype = 'float32'",
        "device = 'cpu'",
        'warmup_steps = 2',
        'learning_rate = 1e-2',
        'shuffle = True',
    ]
    overlay = folder / 'toy.py'
    overlay.write_text('\n'.join(lines) + '\n')
    return Toy(str(overlay), folder)

@pytest.fixture(scope='module')
def source(toy):
    """A trained model of 12 layers to grow from."""
    return toy.run('source', 'configs/baseline.py', '--growth_steps=6', '--continual_steps=6')

def lines_of(out_dir, kind=''):
    """The lines of metrics.jsonl, without what a clock says."""
    found = []
    for text in Path(out_dir, 'metrics.jsonl').read_text().splitlines():
        line = json.loads(text)
        if kind in ('', line['kind']):
            found.append({key: value for key, value in line.items() if key not in TIMES})
    return found

def last_state(out_dir):
    return checkpoint.latest(str(out_dir))[1]

def assert_same_end(a, b):
    """The same weights, optimizer state and metrics, bit for bit."""
    one, other = last_state(a), last_state(b)
    assert (one['step'], one['depth']) == (other['step'], other['depth'])
    assert (
        one['model'].keys() == other['model'].keys() and one['optimizer'].keys() == other['optimizer'].keys()
    )
    for name, weight in one['model'].items():
        assert torch.equal(weight, other['model'][name]), name
    for name, state in one['optimizer'].items():
        for key, value in state.items():
            assert torch.equal(value, other['optimizer'][name][key]), (name, key)
    assert lines_of(a) == lines_of(b)

# ----------------------------------------------------------------------------------------------------------
# the shipped configs

def first_comment(name: str) -> str:
    """The comment that a config begins with, as one line."""
    words = []
    for line in (ROOT / 'configs' / f'{name}.py').read_text().splitlines():
        if not line.startswith('#'):
            break
        words += line[1:].split()
    return ' '.join(words)

@pytest.mark.parametrize('name', CONFIGS)
def test_a_recipe_costs_what_its_comment_says(name):
    config = schedule.resolve(load_config([f'configs/{name}.py'], ''))
    phases = schedule.plan(config).phases
    total = phases[-1].stop
    flops = schedule.plan(config).flops()
    comment = first_comment(name)
    assert f'{total:,} steps' in comment
    assert f'{total * 524_288 / 1e9:.1f}B tokens' in comment
    assert f'{flops:.1e}'.replace('e+', 'e') + ' FLOPs' in comment
    share = re.search(
        r'([\d.]+)% of full depth for the same tokens(?: \(([\d.]+)% by the paper\'s ledger)?', comment
    )
    if share is None:
        assert name.startswith('shallow')  # it is compared with another depth
        return
    assert share[1] == f'{100 * flops / (total * schedule.step_cost(config, "flops")):.1f}'
    if share[2]:
        paper = schedule.plan(config).flops(ledger='paper')
        assert share[2] == f'{100 * paper / (total * schedule.step_cost(config, "paper")):.1f}'
    else:
        assert share[1] == '100.0'

LLAMA_FLAGS = ('--n_kv_head=1', '--n_ff=32')

def small_llama(toy):
    """A model of SmolLM2's 30 layers to grow from."""
    flags = ('--n_layer=30', '--rope_theta=100000', '--growth_steps=2', '--continual_steps=2')
    if not (toy.folder / 'llama' / 'config.json').exists():
        toy.run('llama', 'configs/llama_baseline_wsd.py', *LLAMA_FLAGS, *flags)
    return toy.folder / 'llama'

@pytest.mark.parametrize('name', CONFIGS)
def test_a_recipe_runs_to_its_end_at_toy_size(toy, source, name):
    flags = []
    settings = (ROOT / 'configs' / f'{name}.py').read_text()
    if 'smollm2' in name:
        flags += [f'--init_from={small_llama(toy)}', *LLAMA_FLAGS]
    elif 'init_from' in settings:
        flags.append(f'--init_from={source}')
    matched = re.search(r"^match = '(.*)'", settings, re.M)
    if matched:
        flags.append(f'--match={matched[1]}+{toy.overlay}')
    out_dir = toy.run(name, f'configs/{name}.py', *flags)
    config = toy.config(out_dir)
    phases = schedule.plan(config).phases
    entered = [
        (line['step'], line['phase'], line['depth'], line['n_frozen']) for line in lines_of(out_dir, 'phase')
    ]
    assert entered == [(p.start, p.phase, p.depth, p.n_frozen) for p in phases]
    losses = [line['loss'] for line in lines_of(out_dir, 'train')]
    assert len(losses) == phases[-1].stop
    last = lines_of(out_dir, 'eval')[-1]
    assert (last['step'], last['depth']) == (len(losses), config.n_layer)
    assert last['flops'] == schedule.plan(config).flops()
    assert last['flops_paper'] == schedule.plan(config).flops(ledger='paper')
    assert math.isfinite(last['val_loss']) and (config.init_depth or losses[-1] < losses[0] - 0.5)

# What the recipes are, beside their cost: the layers after each growth.
LAYERS = {
    'bu_0to12_wsd': [(16_000, 0, ' '.join(['+new'] * 12))],
    'bu_1to12_wsd': [(16_000, 1, ' '.join(['0'] + ['+new'] * 11))],
    'bu_1to12_wsd_muon': [(16_000, 1, ' '.join(['0'] + ['+new'] * 11))],
    'marin_1to12': [(14_000, 1, ' '.join(['+new'] * 11 + ['0']))],
    'g_stack_3to12': [(2_000, 3, "0 1 2 +0' +1' +2' +0' +1' +2' +0' +1' +2'")],
    'lidas_3_6_9_12': [(2_000, 3, "0 1 +1' +1' +1' 2"), (6_000, 6, "0 1 2 +2' +2' +2' 3 4 5"),
                       (12_000, 9, "0 1 2 3 4 +4' +4' +4' 5 6 7 8")],
    'ntng_3_6_12': [(2_500, 3, "0 1 2 +0' +1' +2'"), (6_000, 6, "0 1 2 3 4 5 +0' +1' +2' +3' +4' +5'")],
    'solar_12to18': [(0, 12, "0 1 2 3 4 5 6 7 8 +3' +4' +5' +6' +7' +8' 9 10 11")],
}

@pytest.mark.parametrize('name', LAYERS)
def test_a_recipe_grows_the_layers_of_its_paper(name):
    config = load_config([f'configs/{name}.py'], '')
    found = []
    for phase in schedule.plan(config).phases:
        for growth in phase.growths:
            found.append((phase.start, growth.old_depth, describe(growth.layers)))
    assert found == LAYERS[name]

def test_ntngs_learning_rates_are_those_of_its_comment():
    config = load_config(['configs/ntng_3_6_12.py'], '')
    rates = [
        float(schedule.plan(config).lr[step]) / config.learning_rate
        for step in (0, 2_500, 6_000)
    ]
    assert [f'{rate:.2f}' for rate in rates] == ['1.41', '1.19', '1.00']

def test_the_plan_is_printed_with_the_layers_of_each_stage(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['schedule.py', 'configs/ntng_3_6_12.py'])
    schedule.main()
    printed = capsys.readouterr().out.splitlines()
    assert 'step 0: 3 fresh layers' in printed
    assert "stage 2, step 2500: 3 -> 6 by stack: 0 1 2 +0' +1' +2'" in printed
    monkeypatch.setattr(sys, 'argv', ['schedule.py', 'configs/baseline.py'])
    schedule.main()
    assert 'fresh' not in capsys.readouterr().out

def test_the_plan_is_drawn(tmp_path, monkeypatch, capsys):
    path = tmp_path / 'plan.png'
    monkeypatch.setattr(sys, 'argv', ['schedule.py', 'configs/incremental_4stage.py', f'--figure={path}'])
    schedule.main()
    assert path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n' and f'{path} written' in capsys.readouterr().out

# ----------------------------------------------------------------------------------------------------------
# maps and operators over whole runs

# Each operator for 2 -> 3 -> 6 layers, written out.
MAPS = {
    'random': '((0, 1, -1), (0, 1, 2, -1, -1, -1))',
    'zero': '((0, 1, -1), (0, 1, 2, -1, -1, -1))',
    'copy_last': '((0, 1, 1), (0, 1, 2, 2, 2, 2))',
    'stack': '((0, 1, 0), (0, 1, 2, 0, 1, 2))',
    'interleave': '((0, 0, 1), (0, 0, 1, 1, 2, 2))',
    'middle': '((0, 0, 1), (0, 1, 2, 0, 1, 2))',
    'middle_layer': '((0, 0, 1), (0, 1, 1, 1, 1, 2))',
}
STAGES = ('--n_layer=6', '--n_stages=3', '--stage_depths=2,3,6', '--stage_steps=4,4,4', '--continual_steps=4')

@pytest.mark.parametrize('name', MAPS)
def test_an_operator_written_out_as_a_map_is_the_same_run_bit_for_bit(toy, name):
    flags = [*STAGES, '--grow_optimizer=copy', '--phase1_fraction=0.5']
    named = toy.run(f'operator_{name}', *flags, f'--grow_init={name}')
    fresh = name if name == 'zero' else 'random'
    written = toy.run(f'map_{name}', *flags, f'--grow_map={MAPS[name]}', f'--grow_init={fresh}')
    assert toy.config(written).grow_map == ast.literal_eval(MAPS[name])
    assert_same_end(named, written)
    assert schedule.shared_prefix(toy.config(named), toy.config(written)) == 16

def test_another_map_is_another_run(toy):
    """So that the test above could fail."""
    flags = [*STAGES, '--grow_optimizer=copy', '--phase1_fraction=0.5']
    one = toy.run('stacked', *flags, '--grow_init=stack')
    other = toy.run('otherwise', *flags, '--grow_map=((0, 1, 0), (0, 1, 2, 0, 2, 1))')
    losses = [[line['loss'] for line in lines_of(run, 'train')] for run in (one, other)]
    assert losses[0][:8] == losses[1][:8] and losses[0][8] != losses[1][8]

def test_each_stage_draws_new_layers_of_its_own():
    config = load_config(['--seed=5'], '')
    draws = [torch.randn(4, generator=train.stage_generator(config, stage)).tolist() for stage in (1, 2, 3)]
    assert draws[0] != draws[1] != draws[2] != draws[0]
    again = torch.randn(4, generator=train.stage_generator(config, 2)).tolist()
    assert again == draws[1]

def test_fresh_layers_of_two_stages_differ_in_a_run(toy):
    out_dir = toy.run(
        'fresh',
        *STAGES,
        '--checkpoint_interval=1',
        '--keep_checkpoints=100',
        '--learning_rate=0',
        '--weight_decay=0',
        '--phase1_fraction=0',
    )
    weights = last_state(out_dir)['model']
    matrices = [weights[f'transformer.h.{i}.attn.c_attn.weight'] for i in range(6)]
    for i in range(6):
        for j in range(i):
            assert not torch.equal(matrices[i], matrices[j]), (i, j)

# ----------------------------------------------------------------------------------------------------------
# resume

# A run of everything at once: no layer, fresh ones below, copies, a stage without steps, new layers that
# warm up alone.
EVERYTHING = (
    '--n_layer=6',
    '--n_stages=4',
    '--stage_depths=0,2,3,6',
    '--stage_fractions=0.25,0.25,0,0.25',
    '--growth_steps=0',
    '--continual_steps=24',
    '--grow_map=((-1, -1), (-1, 0, 1), (0, 1, 1, -1, 2, 2))',
    '--grow_init=zero',
    '--grow_optimizer=copy',
    '--phase1_fraction=0.5',
    '--rewarm=new',
    '--rewarm_steps=5',
    '--lr_depth_power=0.25',
    '--stage_lr_scale=1,0.5,1,0.7',
    '--lr_schedule=wsd',
    '--decay_fraction=0.4',
)

@pytest.fixture(scope='module', params=['adamw', 'muon'])
def everything(request, toy):
    return toy.run(
        f'everything_{request.param}',
        *EVERYTHING,
        f'--optimizer={request.param}',
        '--checkpoint_interval=1',
        '--keep_checkpoints=100',
        '--hellaswag_interval=6',
        '--eval_interval=4',
    )

def test_a_run_of_everything_is_planned_as_it_should_be(toy, everything):
    phases = schedule.plan(toy.config(everything)).phases
    assert [(p.start, p.phase, p.depth, p.frozen, p.new) for p in phases] == [
        (0, 'phase2', 0, (), ()), (6, 'phase2', 2, (), (0, 1)), (12, 'phase1', 6, (1, 4), (0, 2, 3, 5)),
        (15, 'phase2', 6, (), (0, 2, 3, 5)), (18, 'continual', 6, (), (0, 2, 3, 5))]
    assert [line['depth'] for line in lines_of(everything, 'phase')] == [0, 2, 6, 6, 6]
    scored = [line['step'] for line in lines_of(everything, 'eval') if 'hellaswag_acc_norm' in line]
    assert scored == [6, 12, 18, 24]  # the first time without any layer

@pytest.mark.parametrize('step', [3, 6, 12, 14])
def test_a_run_of_everything_resumes_bit_for_bit(toy, everything, step):
    """Without a layer, at both growths, and while new layers warm up."""
    resumed = toy.folder / f'resumed_{everything.name}_{step}'
    shutil.copytree(everything, resumed)
    for path in resumed.glob('ckpt_*.pt'):
        if int(path.stem[5:]) > step:
            path.unlink()
    optimizer = everything.name.removeprefix('everything_')
    toy.run(
        resumed.name,
        *EVERYTHING,
        f'--optimizer={optimizer}',
        '--checkpoint_interval=1',
        '--keep_checkpoints=100',
        '--hellaswag_interval=6',
        '--eval_interval=4',
        '--resume',
    )
    assert_same_end(everything, resumed)

def test_frozen_layers_stay_and_new_ones_move_wherever_a_map_puts_them(everything):
    states = {}
    for step in (12, 13, 15, 16):
        states[step] = checkpoint.read_checkpoint(str(everything / f'ckpt_{step:06d}.pt'))['model']
    # The checkpoint of step 12 has the two layers that then freeze as 1 and 4 of six.
    for name, before in states[12].items():
        if '.h.' in name:
            place = {'0': '1', '1': '4'}[name.split('.')[2]]
            moved = name.replace(f'.h.{name.split(".")[2]}.', f'.h.{place}.')
            assert torch.equal(states[15][moved], before), name
            assert not torch.equal(states[16][moved], before), name
    for i in (0, 2, 3, 5):
        name = f'transformer.h.{i}.mlp.c_proj.weight'
        assert not torch.equal(states[13][name], states[15][name])

@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
def test_the_optimizers_get_the_rate_of_their_step_and_new_layers_theirs(toy, optimizer):
    seen = []

    def record(optimizer, args, kwargs):
        step_rates = [(group['lr'] / group['lr_scale'], group['is_new']) for group in optimizer.param_groups]
        seen.append((type(optimizer).__name__, step_rates))

    hook = register_optimizer_step_pre_hook(record)
    out_dir = toy.run(f'rates_{optimizer}', *EVERYTHING, f'--optimizer={optimizer}', '--learning_rate=0.01')
    hook.remove()
    config = toy.config(out_dir)
    adamw = [rates for name, rates in seen if name == 'AdamW'][-24:]  # the first ones are the dry run's
    logged = [line['lr'] for line in lines_of(out_dir, 'train')]
    for step in range(24):
        lr, new = schedule.plan(config).lr[step], schedule.plan(config).new_scale[step]
        assert logged[step] == lr
        for rate, is_new in adamw[step]:
            assert rate == pytest.approx(lr * new if is_new else lr, rel=1e-12), step
        assert {is_new for _, is_new in adamw[step]} == ({False} if step < 6 else {False, True})
    if optimizer == 'muon':
        muon = [rates for name, rates in seen if name == 'Muon'][-18:]  # there is no matrix before step 6
        for step, rates in zip(range(6, 24), muon):
            for rate, is_new in rates:
                new = schedule.plan(config).new_scale[step] if is_new else 1.0
                assert rate == pytest.approx(schedule.plan(config).lr[step] * new, rel=1e-12), step

# ----------------------------------------------------------------------------------------------------------
# growing a trained model

@pytest.fixture(scope='module')
def exported(toy, source):
    """The source as a Hugging Face folder."""
    folder = toy.folder / 'exported'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['export_hf.py', str(source), str(folder)])
        export_hf.main()
    return folder

@pytest.mark.parametrize('of', ['ours', 'Hugging Face'])
def test_12_layers_become_18_by_zero_at_exactly_the_old_loss(toy, source, exported, of):
    old_loss = lines_of(source, 'eval')[-1]['val_loss']
    init_from = source if of == 'ours' else exported
    out_dir = toy.run(
        f'zero_from_{of.split()[0]}',
        'configs/solar_12to18.py',
        f'--init_from={init_from}',
        '--grow_map=()',
        '--grow_init=zero',
        '--growth_steps=3',
        '--continual_steps=0',
        '--eval_interval=1',
    )
    evals = lines_of(out_dir, 'eval')
    assert (evals[0]['step'], evals[0]['depth'], evals[0]['val_loss']) == (0, 12, old_loss)
    growth = lines_of(out_dir, 'phase')[0]
    assert growth['val_loss_before'] == growth['val_loss_after'] == old_loss and growth['depth'] == 18
    assert evals[-1]['val_loss'] != old_loss  # and then it learns

def test_a_solar_start_is_two_copies_of_the_source_on_each_other(toy, source):
    out_dir = toy.run('solar_start', 'configs/solar_12to18.py', f'--init_from={source}', '--learning_rate=0',
                      '--weight_decay=0', '--growth_steps=1', '--continual_steps=0', '--warmup_steps=0')
    old, new = last_state(source)['model'], last_state(out_dir)['model']
    for place, layer in enumerate([*range(9), *range(3, 12)]):
        for name in ('attn.c_attn.weight', 'mlp.c_fc.bias', 'ln_2.weight'):
            assert torch.equal(new[f'transformer.h.{place}.{name}'], old[f'transformer.h.{layer}.{name}'])

def test_what_a_source_has_cost_is_its_runs_compute_up_to_the_checkpoint(toy, source):
    config = toy.config(source)
    _, info = checkpoint.load_model(str(source))
    cost = sunk_cost(info)
    assert cost['path'] == info['path'] and cost['step'] == 12 and cost['seconds'] > 0
    assert cost['flops'] == schedule.plan(config).flops()
    assert cost['flops_paper'] == schedule.plan(config).flops(ledger='paper')
    halfway = sunk_cost({**info, 'step': 6})
    assert halfway['flops'] == schedule.plan(config).flops(6)
    assert json.loads(json.dumps(cost)) == cost

def test_a_source_that_was_itself_grown_counts_what_came_before(toy, source, tmp_path):
    grown = toy.run(
        'grown', 'configs/solar_12to18.py', f'--init_from={source}', '--growth_steps=2', '--continual_steps=0'
    )
    own = schedule.plan(toy.config(grown)).flops()
    _, info = checkpoint.load_model(str(grown))
    before = sunk_cost(checkpoint.load_model(str(source))[1])
    copy = tmp_path / 'copy'
    shutil.copytree(grown, copy)
    info['path'] = str(copy / os.path.basename(info['path']))
    for said, expected in ((before, own + before['flops']), (None, None), ({**before, 'flops': None}, None)):
        (copy / 'run.json').write_text(json.dumps({'init_from': said}))
        assert sunk_cost(info)['flops'] == expected
    (copy / 'run.json').unlink()
    assert sunk_cost(info)['flops'] is None

def test_a_grown_run_says_what_its_source_has_cost_and_so_does_compare(toy, source, capsys, monkeypatch):
    flags = ['--growth_steps=2', '--continual_steps=0']
    grown = toy.run('up', 'configs/solar_12to18.py', f'--init_from={source}', *flags)
    sunk = sunk_cost(checkpoint.load_model(str(source))[1])
    assert json.loads((grown / 'run.json').read_text())['init_from'] == sunk
    scratch = toy.run('deep', 'configs/baseline.py', '--n_layer=18', *flags)
    monkeypatch.setattr(sys, 'argv', ['compare.py', str(scratch), str(grown), f'--baseline={scratch}'])
    capsys.readouterr()
    compare.main()
    said = f'note: up: starts from a checkpoint, whose {sunk["flops"]:.3g} FLOPs are not counted'
    assert said in capsys.readouterr().out

def test_nobody_knows_what_a_model_of_hugging_face_has_cost(exported):
    cost = sunk_cost(checkpoint.load_model(str(exported))[1])
    assert (cost['flops'], cost['flops_paper'], cost['seconds']) == (None, None, None)

def test_a_model_without_layers_can_be_grown_from_where_that_is_meant(toy, everything):
    source = everything / 'stage_01.pt'
    flags = [f'--init_from={source}', '--n_layer=2', '--n_stages=2', '--grow_init=zero', '--growth_steps=4',
             '--continual_steps=0']
    # Its file says that it has no layer. Stage 2 has two phases, since only there is something to freeze.
    by_default = toy.run(f'from_nothing_by_default_{everything.name}', *flags)
    phases = [(line['step'], line['depth']) for line in lines_of(by_default, 'phase')]
    assert phases == [(0, 1), (2, 2), (3, 2)]
    out_dir = toy.run(
        f'from_nothing_{everything.name}', *flags, '--stage_depths=0,2', '--stage_fractions=0,0.5'
    )
    growth = lines_of(out_dir, 'phase')[0]
    assert (growth['step'], growth['depth']) == (0, 2) and growth['val_loss_before'] == growth[
        'val_loss_after'
    ]

# ----------------------------------------------------------------------------------------------------------
# ranks

@pytest.mark.slow
def test_two_ranks_train_a_run_of_everything_as_one_does(toy):
    one = toy.run('one_rank', *EVERYTHING, '--batch_size=2')
    two = toy.folder / 'two_ranks'
    codes, _, said = run_ranks(2, 'train.py', toy.overlay, *EVERYTHING, '--batch_size=2', f'--out_dir={two}')
    assert set(codes) == {0}, said
    assert_close_runs(one, two)

def assert_close_runs(one, other):
    """The same losses up to the order of sums."""
    lines = lines_of(one), lines_of(other)
    assert len(lines[0]) == len(lines[1]) > 24
    for a, b in zip(*lines):
        assert (a['kind'], a['step'], a['depth'], a['flops']) == (
            b['kind'],
            b['step'],
            b['depth'],
            b['flops'],
        )
        for key in a.keys() & {'loss', 'val_loss', 'grad_norm'}:
            assert a[key] == pytest.approx(b[key], rel=2e-3), (key, a['step'])

def test_more_than_1000_epochs_are_questioned_at_the_start(toy, monkeypatch, capsys):
    class Started(Exception):
        pass

    def start(out_dir):
        raise Started

    monkeypatch.setattr(train, 'locked', start)
    for steps, questioned in ((62_500, False), (62_501, True)):  # of 64 tokens, in a file of 4,000
        with pytest.raises(Started):
            toy.run('epochs', 'configs/baseline.py', f'--growth_steps={steps}', '--continual_steps=0')
        said = capsys.readouterr().err
        assert ('sees the 4,000 tokens of' in said and 'is that meant?' in said) == questioned
