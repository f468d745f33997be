"""Plan, learning rate and ledgers. Run: python -m pytest tests/story/test_schedule.py"""

import dataclasses
import itertools
import json
import math
import random
import subprocess
import sys
import time
from fractions import Fraction

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import schedule
from config import TrainConfig, check, config_to_dict, load_config
from core.common import UserError
from core.optim import make_optimizers
from model import GPT, GPTConfig
from schedule import plan

# A small model, as the settings and as the model have it.
SMALL = {'n_layer': 6, 'n_head': 4, 'n_embd': 64, 'block_size': 32, 'vocab_size': 512}
BATCH = {'total_batch_size': 64, 'batch_size': 2}

def load(*argv):
    return load_config([*map(str, argv)], '', say=None)

def run(*args):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True)

def printed(capsys, monkeypatch, *argv) -> str:
    monkeypatch.setattr(sys, 'argv', ['schedule.py', *argv])
    schedule.main()
    return capsys.readouterr().out

# ----------------------------------------------------------------------------------------------------------
# phases

def test_twelve_layers_in_eight_stages_are_the_papers_depths():
    c = load('configs/incremental_8stage.py')
    phases = plan(c).phases
    assert schedule.stage_depths(c) == (2, 3, 5, 6, 8, 9, 11, 12)
    assert len(phases) == 16 and [p.phase for p in phases[:3]] == ['phase2', 'phase1', 'phase2']
    assert phases[-1].phase == 'continual' and phases[-1].steps == 10_000
    assert [p.n_frozen for p in phases if p.phase == 'phase1'] == [2, 3, 5, 6, 8, 9, 11]
    # The CPU overlay leaves the layers to the schedule.
    for name, depths in (('gpt2_12to16', (14, 16)), ('incremental_8stage', (2, 3, 5, 6, 8, 9, 11, 12))):
        assert schedule.stage_depths(load(f'configs/{name}.py', 'configs/cpu.py')) == depths

@pytest.mark.parametrize('n_stages', range(1, 13))
def test_steps_add_up_exactly_for_awkward_numbers(n_stages):
    for growth_steps in [*range(1000, 10_008, 910), 9973, 10_007]:
        for fraction in (0.0, 0.3, 0.5, 1.0):
            c = TrainConfig(n_stages=n_stages, growth_steps=growth_steps, phase1_fraction=fraction,
                            continual_steps=17)
            phases = plan(c).phases
            assert phases[0].start == 0 and all(a.stop == b.start for a, b in itertools.pairwise(phases))
            assert all(p.steps > 0 for p in phases) and phases[-1].stop == growth_steps + 17
            assert phases[-1].depth == 12 and [p.depth for p in phases] == sorted(p.depth for p in phases)
            per_stage = [sum(p.steps for p in phases if p.stage == s and p.phase != 'continual')
                         for s in range(1, n_stages + 1)]
            assert max(per_stage) - min(per_stage) <= 1

def test_a_share_of_the_steps_is_not_one_less_by_rounding():
    c = TrainConfig(n_layer=2, n_stages=2, stage_depths=(1, 2), growth_steps=200, phase1_fraction=0.29)
    assert plan(c).phases[1].steps == 29  # 100 * .29 is 28.999...

def test_600_000_steps_are_planned_at_once():
    c = TrainConfig(n_stages=8, growth_steps=300_000, continual_steps=300_000, lr_schedule='wsd')
    began = time.process_time()
    made = plan(c)
    assert made.row(599_999).phase.phase == 'continual' and made.row(0).flops == 0
    assert made.row(599_999).flops + made.step_costs['flops'][-1] == made.flops() > 2**63
    assert time.process_time() - began < 1

def test_settings_per_stage_may_be_one_value_or_one_for_each():
    one = TrainConfig(n_layer=4, n_stages=3, stage_depths=(1, 2, 4), growth_steps=30, grow_init='stack')
    each = dataclasses.replace(one, grow_init=('stack',) * 3, phase1_fraction=(0.0, 0.5, 0.5))
    assert plan(one).phases == plan(each).phases
    assert schedule.shared_prefix(one, each) == plan(one).total_steps
    c = dataclasses.replace(one, grow_init=('random', 'zero', 'stack'), phase1_fraction=(0.5, 0.2, 0.0))
    assert [(p.stage, p.phase, p.start, p.stop) for p in plan(c).phases[:4]] == [
        (1, 'phase2', 0, 10), (2, 'phase1', 10, 12), (2, 'phase2', 12, 20), (3, 'phase2', 20, 30)]
    assert [growth.name for p in plan(c).phases for growth in p.growths] == ['zero', 'stack']
    mixed = dataclasses.replace(c, grow_map=((), (1, 0, 0, 1)))  # () leaves a growth to grow_init
    mixed = dataclasses.replace(mixed, grow_init=('random', 'zero', 'random'))
    assert [growth.name for p in plan(mixed).phases for growth in p.growths] == ['zero', 'grow_map']

@pytest.mark.parametrize('grow_map, grow_init, words', [
    (((0, 1, 2, 3, 0, 1),), 'random', r'grow_map \(0, 1, 2, 3, 0, 1\) of stage 2 takes layer 3, and there'),
    (((0, 1, 2, 0, 1),), 'random', 'makes 5 layers out of 3, not 6'),
    (((-1,) * 6,), 'random', 'keeps layer 0 0 times, not once'),
    (((0, 1, 2, 0, 1, 2), (0, 1, 2), (0,)), 'random', 'grow_map has 3 entries, and the run 1 growths'),
    (((0, 1, 2, -1, 0, 1),), 'stack', r"of stage 2 needs grow_init 'random' or 'zero'.*, not 'stack'"),
])
def test_a_wrong_map_is_one_line_that_names_it(grow_map, grow_init, words):
    c = TrainConfig(n_layer=6, n_stages=2, stage_depths=(3, 6), grow_map=grow_map, grow_init=grow_init)
    with pytest.raises(UserError, match=rf'{words}.*--grow_map=\(\)'):
        plan(c)

def test_a_map_beside_zero_says_how_fresh_layers_start():
    c = TrainConfig(n_layer=6, n_stages=2, stage_depths=(3, 6), grow_map=((0, 1, 2, -1, 0, 1),))
    assert plan(c).phases[1].growths[0].fresh == 'random'
    assert plan(dataclasses.replace(c, grow_init='zero')).phases[1].growths[0].fresh == 'zero'

def test_layers_of_a_stage_without_steps_count_as_new():
    c = TrainConfig(n_layer=12, n_stages=3, stage_depths=(3, 6, 12), stage_fractions=(0.4, 0.0, 0.4),
                    growth_steps=0, continual_steps=100, grow_init='stack')
    first, phase1, phase2, last = plan(c).phases
    assert (first.depth, first.stop) == (3, 40)
    assert [(g.stage, g.old_depth, g.depth) for g in phase1.growths] == [(2, 3, 6), (3, 6, 12)]
    # Not 0 to 5: three of those never trained.
    assert phase1.frozen == (0, 1, 2) and phase1.new == tuple(range(3, 12))
    assert (phase2.growths, phase2.frozen, last.growths) == ((), (), ())
    interleaved = plan(dataclasses.replace(c, grow_init='interleave')).phases[1]
    assert interleaved.frozen == (0, 4, 8)
    # A share that rounds to no step is a stage without steps too.
    c = TrainConfig(n_layer=4, n_stages=3, stage_depths=(1, 2, 4), stage_fractions=(0.5, 0.004, 0.4),
                    growth_steps=0, continual_steps=100)
    assert [(p.stage, p.depth, p.start) for p in plan(c).phases] == [
        (1, 1, 0), (3, 4, 50), (3, 4, 70), (3, 4, 90)]
    assert plan(c).phases[1].frozen == (0,) and plan(c).phases[1].new == (1, 2, 3)

def test_from_scratch_a_run_begins_with_its_first_stage_that_has_steps():
    c = TrainConfig(n_layer=6, n_stages=3, stage_depths=(2, 4, 6), stage_fractions=(0.0, 0.5, 0.2),
                    growth_steps=0, continual_steps=100, rewarm_steps=5)
    phases = plan(c).phases
    assert (phases[0].depth, phases[0].growths, phases[0].frozen) == (4, (), ())
    assert plan(c).lr[0] == c.learning_rate
    assert phases[1].frozen == (0, 1, 2, 3)

def test_growing_from_a_checkpoint_has_something_to_freeze_in_its_first_stage():
    c = TrainConfig(init_from='gpt2', init_depth=12, n_layer=16, n_stages=2, growth_steps=100,
                    continual_steps=0)
    assert [(p.stage, p.phase, p.depth, p.n_frozen) for p in plan(c).phases] == [
        (1, 'phase1', 14, 12), (1, 'phase2', 14, 0), (2, 'phase1', 16, 14), (2, 'phase2', 16, 0)]

def test_the_depth_of_what_a_run_grows_from_comes_from_its_files(tmp_path):
    flags = ['--n_layer=16', '--n_stages=2', '--growth_steps=8']
    assert schedule.resolve(load(*flags, '--init_from=gpt2')).init_depth == 12
    larger = [schedule.depth_of(f'gpt2-{size}') for size in ('medium', 'large', 'xl')]
    assert larger == [24, 36, 48]
    (tmp_path / 'hf').mkdir()
    (tmp_path / 'hf' / 'config.json').write_text('{"model_type": "llama", "num_hidden_layers": 3}')
    run_dir = tmp_path / 'run'
    run_dir.mkdir()
    grown = TrainConfig(n_layer=9, n_stages=3, growth_steps=30, continual_steps=10)
    (run_dir / 'config.json').write_text(json.dumps(config_to_dict(grown)))
    with pytest.raises(UserError, match=r'init_from .*run: no file there says how many layers .*init_depth'):
        schedule.depth_of(str(run_dir))  # no checkpoint yet
    for step in (9, 10, 11, 20):
        (run_dir / f'ckpt_{step:06d}.pt').touch()
    found = {}
    for name in ('hf', 'run', 'run/stage_01.pt', 'run/ckpt_000010.pt', 'run/ckpt_000011.pt'):
        found[name] = schedule.resolve(load(*flags, f'--init_from={tmp_path}/{name}')).init_depth
    # A checkpoint of the step at which the model grows is of before it.
    assert [*found.values()] == [3, 6, 3, 3, 6]

@pytest.mark.parametrize('settings, words', [
    ({'n_stages': 2, 'stage_depths': (1, 12), 'stage_fractions': (1.0, 0.0)},
     r'would end with 1 of 12 layers, since stage 2'),
    ({'n_stages': 2, 'stage_fractions': (0.0, 0.0)}, r'nothing grows, although n_stages is 2'),
    ({'n_stages': 2, 'init_from': 'x', 'init_depth': 12}, r'nothing grows, although n_stages is 2'),
    ({'growth_steps': 0, 'continual_steps': 0}, r'nothing to do: growth_steps and continual_steps'),
    ({'growth_steps': 0, 'continual_steps': 'equal_compute', 'baseline_steps': 0}, r'nothing to do'),
    ({'n_stages': 8, 'growth_steps': 1000, 'continual_steps': 'equal_compute', 'baseline_steps': 100},
     r'the stages alone cost .* more than the 100 that are to be matched \(baseline_steps'),
    ({'n_stages': 2, 'stage_fractions': (0.5, 0.0), 'stage_lr_scale': (1.0, 0.5)},
     r'stage_lr_scale of stage 2 is 0.5, but that stage has no steps'),
    ({'n_stages': 2, 'stage_fractions': (0.5, 0.0), 'phase1_fraction': (0.0, 0.5)},
     r'phase1_fraction of stage 2 is 0.5, but that stage has no steps'),
])
def test_a_plan_that_no_one_means_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        plan(TrainConfig(**settings))

# ----------------------------------------------------------------------------------------------------------
# ledgers

@pytest.mark.parametrize('S', [1, 2, 3, 4, 6, 12])
def test_paper_ledger_equals_the_papers_closed_forms(S):
    """C_baseline = 2 T L c, C_incremental = T c L (3S + 5) / (4S), T_cont = 5/8 (1 - 1/S) T, exactly."""
    T = 24_000  # divides into 2 S whole phases
    c = TrainConfig(n_stages=S, growth_steps=T, continual_steps=0, ledger='paper', baseline_steps=T)
    layer = sum(schedule.layer_flops(c)) * c.total_batch_size
    baseline = T * schedule.step_cost(c, 'paper')
    assert baseline == 2 * T * 12 * layer
    assert Fraction(plan(c).flops(ledger='paper')) == Fraction(T * layer * 12 * (3 * S + 5), 4 * S)
    assert Fraction(plan(c).flops(ledger='paper'), baseline) == Fraction(3 * S + 5, 8 * S)
    equal = plan(dataclasses.replace(c, continual_steps='equal_compute'))
    assert equal.total_steps - T == round(Fraction(5, 8) * (1 - Fraction(1, S)) * T)

def test_the_costs_at_gpt2_124m_are_the_known_ones():
    """Relative to 12 layers for the same tokens: paper's ledger, input frozen, the original runs, never
    frozen.

    With the embeddings training, backward through a frozen layer is one product per weight matrix, and all of
    attention's: freezing saves nothing there (an attention counted once would give .681, .641, .610).
    """
    known = {4: (.531, .636, .689, .727), 8: (.469, .585, .651, .696), 12: (.427, .555, .620, .666)}
    for S, expected in known.items():
        base = TrainConfig(n_stages=S, growth_steps=24_000, continual_steps=0)
        full = schedule.step_cost(base, 'flops') * 24_000
        measured = [plan(base).flops(ledger='paper') / (schedule.step_cost(base, 'paper') * 24_000)]
        for change in ({}, {'phase1_embeddings': 'train'}, {'phase1_fraction': 0.0}):
            measured.append(plan(dataclasses.replace(base, **change)).flops() / full)
        assert [round(m, 3) for m in measured] == pytest.approx(expected, abs=0.001)
    head = schedule.token_flops(base, schedule.Phase(1, 'phase2', 0, 1, 0, (), 'train'))[0]
    assert head / sum(schedule.layer_flops(base)) == pytest.approx(4.47, abs=0.01)

def count_flops(model) -> int:
    """FLOPs of one forward and backward pass over 64 tokens, as torch counts them.

    The chunked loss does part of its backward ahead, in forward: the sum is what is comparable.
    """
    x = torch.randint(512, (2, 32))
    # flash recomputes scores in its backward, which no convention counts
    with pytest.MonkeyPatch.context() as patch, FlopCounterMode(display=False) as counter:
        patch.setattr('model.cudnn_attention_first', lambda: sdpa_kernel(SDPBackend.MATH))
        model(x, x).backward()
    return counter.get_total_flops()

@pytest.mark.parametrize('embeddings', ['train', 'input_frozen', 'frozen'])
@pytest.mark.parametrize('depth, frozen', [(2, ()), (5, (0, 1, 2)), (4, (0, 2)), (3, (0, 1))])
@pytest.mark.parametrize('llama', [
    {}, {'n_kv_head': 2, 'head_dim': 16}, {'n_kv_head': 4, 'head_dim': 32, 'tie_embeddings': False}])
def test_flops_ledger_equals_torchs_counter_on_the_real_model(llama, embeddings, depth, frozen):
    shape = SMALL | ({'arch': 'llama', 'n_ff': 192} | llama if llama else {})
    c = TrainConfig(**shape, **BATCH)
    phase = schedule.Phase(1, 'phase1', 0, 1, depth, frozen, embeddings)
    model = GPT(GPTConfig(**shape), depth)
    model.freeze(frozen, embeddings)
    assert count_flops(model) == pytest.approx(64 * sum(schedule.token_flops(c, phase)), rel=0.01)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == schedule.trained_parameters(c, phase)
    matrices = []
    for linear in model.transformer.h[0].modules():
        if isinstance(linear, torch.nn.Linear):
            matrices += linear.weight.split(getattr(linear, 'rows', len(linear.weight)))
    assert sorted(tuple(matrix.shape) for matrix in matrices) == sorted(schedule.layer_matrices(c))

def test_compute_up_to_a_step_grows_to_the_total():
    c = TrainConfig(n_stages=3, growth_steps=100, continual_steps=10)
    at = [plan(c).flops(s) for s in range(111)]
    assert at[0] == 0 and at[-1] == plan(c).flops()
    costs = [b - a for a, b in itertools.pairwise(at)]
    for phase in plan(c).phases:
        expected = sum(schedule.token_flops(c, phase)) * c.total_batch_size
        assert {*costs[phase.start:phase.stop]} == {expected}

# How 3 layers become 6, and which of the 6 are old: what an operator or a map says, and what freezes.
GROWN = {
    'random': ({'grow_init': 'random'}, (0, 1, 2)),
    'stack': ({'grow_init': 'stack'}, (0, 1, 2)),
    'interleave': ({'grow_init': 'interleave'}, (0, 2, 4)),
    'middle_layer': ({'grow_init': 'middle_layer'}, (0, 1, 5)),
    'fresh below': ({'grow_map': ((-1, -1, -1, 0, 1, 2),), 'grow_init': 'zero'}, (3, 4, 5)),
    'fresh between': ({'grow_map': ((0, -1, 1, 1, -1, 2),)}, (0, 2, 5)),
    'turned round': ({'grow_map': ((2, 2, 1, 0, -1, 0),)}, (0, 2, 3)),
}

@pytest.mark.parametrize('embeddings', ['train', 'input_frozen', 'frozen'])
@pytest.mark.parametrize('name', GROWN)
def test_both_ledgers_and_torchs_counter_know_where_the_frozen_layers_are(name, embeddings):
    settings, old_places = GROWN[name]
    c = TrainConfig(**SMALL, **BATCH, n_stages=2, stage_depths=(3, 6), growth_steps=8, continual_steps=1,
                    phase1_embeddings=embeddings, **settings)
    phases = plan(c).phases
    assert [(p.phase, p.frozen, p.new) for p in phases] == [
        ('phase2', (), ()), ('phase1', old_places, tuple(sorted({*range(6)} - {*old_places}))),
        ('phase2', (), phases[1].new), ('continual', (), phases[1].new)]
    growth = phases[1].growths[0]
    assert [p.growths for p in phases] == [(), (growth,), (), ()]
    layer, attention, head = 24 * 64 * 64, 4 * 32 * 64, 2 * 64 * 512  # forward, a token
    assert schedule.step_flops(c, phases[1], 'paper') == 64 * 9 * (layer + attention)

    # By hand: from the lowest layer that is reached on, each weight's product for the input, and for itself
    # if it trains.
    reached = 0 if embeddings == 'train' else min({*range(6)} - {*old_places})
    backward = head if embeddings == 'frozen' else 2 * head
    for i in range(reached, 6):
        backward += 2 * attention + (layer if i in old_places else 2 * layer)
    assert schedule.token_flops(c, phases[1]) == (6 * (layer + attention) + head, backward)

    model = GPT(GPTConfig(**SMALL), 3)
    model.grow(growth.layers, growth.fresh)
    model.freeze(phases[1].frozen, embeddings)
    assert count_flops(model) == pytest.approx(64 * sum(schedule.token_flops(c, phases[1])), rel=0.01)

def test_no_layer_costs_the_head_alone_and_nothing_by_the_papers_ledger():
    c = TrainConfig(**SMALL, **BATCH, n_stages=2, stage_depths=(0, 6), growth_steps=8, continual_steps=0,
                    lr_depth_power=0.5, learning_rate=1.0)
    first, second = plan(c).phases  # growing from nothing freezes nothing
    assert (first.depth, second.depth, second.phase, second.frozen) == (0, 6, 'phase2', ())
    assert schedule.token_flops(c, first) == (2 * 64 * 512, 4 * 64 * 512)
    assert schedule.step_flops(c, first, 'paper') == 0
    assert count_flops(GPT(GPTConfig(**SMALL), 0)) == 64 * 6 * 64 * 512
    assert float(plan(c).lr[0]) == pytest.approx(6**0.5)  # no layer has the rate of one

@pytest.mark.parametrize('optimizer, frozen', [('muon', ()), ('muon', (0, 2)), ('adamw', ())])
def test_the_optimizers_flops_and_memory_are_those_of_its_steps(optimizer, frozen):
    c = TrainConfig(n_layer=3, n_head=2, n_embd=16, block_size=32, vocab_size=512, optimizer=optimizer)
    phase = schedule.Phase(1, 'phase2', 10, 12, 3, frozen, 'train')
    model = GPT(GPTConfig(32, 512, 3, 2, 16))
    model.freeze(frozen, 'train')
    x = torch.randint(512, (2, 32))
    model(x, x).backward()
    optimizers = make_optimizers(model, c)
    with FlopCounterMode(display=False) as counter:
        for _ in range(2):
            for each in optimizers:
                each.step()
    assert schedule.optimizer_flops(c, [phase]) == counter.get_total_flops()
    assert (counter.get_total_flops() > 0) == (optimizer == 'muon')
    size = 0
    for each in optimizers:
        for state in each.state.values():
            size += sum(4 * value.numel() for value in state.values() if value.numel() > 1)
    assert frozen or schedule.memory(c)['optimizer'] == size
    assert schedule.memory(c)['weights'] == 4 * sum(p.numel() for p in model.parameters())

# ----------------------------------------------------------------------------------------------------------
# budgets

@pytest.mark.parametrize('ledger', ['flops', 'paper'])
@pytest.mark.parametrize('n_stages', [2, 5, 12])
def test_equal_compute_lands_within_one_step_of_the_target(ledger, n_stages):
    c = TrainConfig(n_stages=n_stages, growth_steps=3001, continual_steps='equal_compute',
                    baseline_steps=4003, ledger=ledger)
    full = schedule.step_cost(c, ledger)
    assert abs(plan(c).flops(ledger=ledger) - 4003 * full) <= full

def test_stage_fractions_are_shares_of_the_whole_run_also_at_equal_compute():
    c = TrainConfig(n_stages=2, stage_depths=(1, 12), stage_fractions=(0.8, 0.0), grow_init='copy_last',
                    phase1_fraction=0.0, growth_steps=0, continual_steps=1000, baseline_steps=1000)
    assert [(p.stage, p.phase, p.start, p.stop, p.depth) for p in plan(c).phases] == [
        (1, 'phase2', 0, 800, 1), (2, 'continual', 800, 1000, 12)]
    full = schedule.step_cost(c, 'flops')
    assert plan(c).flops() / (1000 * full) == pytest.approx(0.466, abs=0.001)  # known at 124M
    equal = dataclasses.replace(c, continual_steps='equal_compute')
    assert abs(plan(equal).flops() - 1000 * full) <= full
    assert plan(equal).phases[0].stop == pytest.approx(0.8 * plan(equal).total_steps, abs=1)
    matched = schedule.resolve(load('--n_stages=2', '--stage_depths=1,12', '--stage_fractions=0.8,0',
                                    '--phase1_fraction=0', '--match=configs/baseline.py'))
    assert abs(plan(matched).flops() - 20_000 * full) <= full

@pytest.mark.parametrize('config', ['bu_1to12_wsd', 'gong_3_6_12', 'incremental_8stage', 'baseline'])
@pytest.mark.parametrize('budget', [1000, 1003, 16_001])
def test_fit_lands_within_half_a_step_of_any_budget(config, budget):
    c = load(f'configs/{config}.py', '--growth_steps=500')
    step = schedule.step_cost(c, 'flops')
    c = schedule.fit(c, budget * step)
    assert abs(plan(c).flops() - budget * step) <= step / 2

def test_a_baseline_that_is_fitted_below_its_growth_steps_has_just_so_many():
    c = TrainConfig(growth_steps=500)
    c = schedule.fit(c, 300 * schedule.step_cost(c, 'flops'))
    assert (c.growth_steps, c.continual_steps, plan(c).total_steps) == (300, 0, 300)

def test_match_counts_by_the_ledger_of_the_run_that_matches(tmp_path):
    """At full depth the paper's ledger leaves out the head, so the two ask for other numbers of steps."""
    other = load('configs/incremental_8stage.py')
    (tmp_path / 'config.json').write_text(json.dumps(config_to_dict(other)))
    steps = {}
    for match in ('configs/incremental_8stage.py', tmp_path):  # configs, or a run directory
        for ledger in ('flops', 'paper'):
            c = schedule.resolve(load('configs/baseline.py', f'--match={match}', f'--ledger={ledger}'))
            assert c.match == '' and type(c.continual_steps) is int
            steps[ledger] = plan(c).total_steps
            cost = plan(other).flops(ledger=ledger)
            assert steps[ledger] == round(cost / schedule.step_cost(other, ledger))
        assert steps == {'flops': 15_850, 'paper': 14_688}

def test_a_config_that_matches_itself_is_told(tmp_path):
    a, b = tmp_path / 'a.py', tmp_path / 'b.py'
    a.write_text(f'match = {str(b)!r}\n')
    for target in (a, b):
        b.write_text(f'match = {str(target)!r}\n')
        with pytest.raises(UserError, match='it matches itself in the end'):
            schedule.resolve(load(a))

# ----------------------------------------------------------------------------------------------------------
# learning rates

def closed_form(c: TrainConfig, total: int, step: int) -> float:
    """The schedule alone, of update number `step`, from 0, in a run of `total` steps."""
    if step < c.warmup_steps:
        return c.learning_rate * (step + 1) / c.warmup_steps
    share = 1.0
    if c.lr_schedule == 'cosine':
        share = (1 + math.cos(math.pi * (step - c.warmup_steps) / (total - c.warmup_steps))) / 2
    if c.lr_schedule == 'wsd':
        share = min(1.0, (total - step) / (c.decay_fraction * total))
    return c.min_lr + share * (c.learning_rate - c.min_lr)

@pytest.mark.parametrize('rewarm', ['all', 'new'])
@pytest.mark.parametrize('power', [0.0, 0.25])
@pytest.mark.parametrize('scale', [1.0, 0.5, (1.0, 0.8, 0.25)])
@pytest.mark.parametrize('lr_schedule', ['constant', 'cosine', 'wsd'])
def test_the_rate_of_every_step_follows_its_closed_form(lr_schedule, scale, power, rewarm):
    c = TrainConfig(n_layer=8, n_stages=3, stage_depths=(1, 4, 8), stage_steps=(20, 20, 20), warmup_steps=10,
                    continual_steps=20, learning_rate=0.5, min_lr=0.125, decay_fraction=0.35, rewarm_steps=6,
                    lr_schedule=lr_schedule, stage_lr_scale=scale, lr_depth_power=power, rewarm=rewarm)
    for step in range(80):
        stage = min(step // 20, 3)  # from 0; 3 is continual training
        depth = (1, 4, 8, 8)[stage]
        scales = (scale,) * 3 if type(scale) is float else scale
        expected = closed_form(c, 80, step) * (*scales, 1.0)[stage] * (8 / depth) ** power
        warming = (step % 20 + 1) / 6 if 20 <= step < 26 or 40 <= step < 46 else 1.0
        new = warming if rewarm == 'new' else 1.0
        expected *= warming if rewarm == 'all' else 1.0
        assert plan(c).lr[step] == pytest.approx(expected, rel=1e-12), step
        assert plan(c).new_scale[step] == pytest.approx(new, rel=1e-12), step

@pytest.mark.parametrize('settings, growths', [
    ({'n_stages': 2, 'growth_steps': 100}, (0, 50)),
    ({'n_stages': 1, 'growth_steps': 100}, (0,)),
    ({'n_stages': 2, 'growth_steps': 100, 'stage_depths': (12, 16)}, (50,)),  # its first stage grows nothing
    ({'n_stages': 2, 'growth_steps': 0, 'stage_fractions': (0.0, 0.5)}, (0,)),
    ({'n_stages': 1, 'growth_steps': 0}, (0,)),
])
def test_rewarming_follows_a_growth_at_step_0_of_a_run_that_grows_a_trained_model(settings, growths):
    c = TrainConfig(init_from='gpt2', init_depth=12, n_layer=16, continual_steps=100, learning_rate=1.0,
                    rewarm_steps=10, **settings)
    expected = [1.0] * plan(c).total_steps
    for growth in growths:
        expected[growth:growth + 10] = [k / 10 for k in range(1, 11)]
    assert plan(c).lr.tolist() == pytest.approx(expected)

def test_a_warm_up_that_the_decay_cuts_off_is_refused_and_one_over_its_first_tenth_is_not():
    c = TrainConfig(growth_steps=100, continual_steps=0, lr_schedule='wsd', decay_fraction=0.2,
                    warmup_steps=82)
    assert plan(c).lr.max() == c.learning_rate
    for changed in ({'warmup_steps': 83}, {'warmup_steps': 101, 'lr_schedule': 'cosine'},
                    {'warmup_steps': 101, 'lr_schedule': 'constant'}):
        with pytest.raises(UserError, match=r'warmup_steps \d+ is too long for a run of 100 steps'):
            plan(dataclasses.replace(c, **changed))
    plan(dataclasses.replace(c, decay_fraction=1.0, warmup_steps=10))

# ----------------------------------------------------------------------------------------------------------
# shared prefixes

@pytest.mark.parametrize('change, shared', [
    ({'stage_lr_scale': (1.0, 0.5, 1.0)}, 20), ({'stage_lr_scale': 0.5}, 0), ({'lr_depth_power': 0.25}, 0),
    ({'rewarm': 'new'}, 20), ({'rewarm': 'new', 'rewarm_steps': 0}, 20),
    ({'grow_init': ('random', 'random', 'stack')}, 40), ({'grow_init': ('stack', 'random', 'random')}, 80),
    ({'grow_map': ((0, -1, -1), (0, 1, 2, -1, -1, -1))}, 80),
    ({'grow_map': ((0, -1, -1), (-1, 0, 1, 2, -1, -1))}, 40),
    ({'phase1_fraction': (0.5, 0.5, 0.25)}, 45), ({'stage_depths': (0, 3, 6)}, 0),
    ({'grow_init': ('random', 'zero', 'random')}, 20),
])
def test_shared_prefixes_end_where_rates_or_growths_begin_to_differ(change, shared):
    a = TrainConfig(n_layer=6, n_stages=3, stage_depths=(1, 3, 6), stage_steps=(20, 20, 20),
                    continual_steps=20, rewarm_steps=5)
    b = dataclasses.replace(a, **change)
    assert schedule.shared_prefix(a, b) == schedule.shared_prefix(b, a) == shared

def test_runs_of_other_muon_rates_share_nothing():
    a = TrainConfig(growth_steps=20, continual_steps=0, optimizer='muon')
    assert schedule.shared_prefix(a, dataclasses.replace(a, muon_learning_rate=0.1)) == 0
    b = dataclasses.replace(a, optimizer='adamw')
    assert schedule.shared_prefix(b, dataclasses.replace(b, muon_learning_rate=0.1)) == 20

NEVER_MATTER = {'out_dir', 'run_name', 'resume', 'device', 'log_interval', 'eval_interval', 'val_tokens'}
BY_STEP = {'n_stages', 'stage_depths', 'growth_steps', 'stage_steps', 'stage_fractions', 'phase1_fraction',
           'phase1_embeddings', 'continual_steps', 'baseline_steps', 'ledger', 'grow_init', 'grow_optimizer',
           'min_lr', 'lr_schedule', 'warmup_steps', 'rewarm_steps', 'decay_fraction', 'rewarm',
           'lr_depth_power', 'stage_lr_scale', 'grow_map'}

def step_by_step(a: TrainConfig, b: TrainConfig) -> int:
    """The steps that two runs train alike, by walking through both."""
    for name in {f.name for f in dataclasses.fields(TrainConfig)} - NEVER_MATTER - BY_STEP:
        if getattr(a, name) != getattr(b, name) and (name != 'muon_learning_rate' or a.optimizer == 'muon'):
            return 0
    plans = [plan(c).phases for c in (a, b)]
    steps = 0
    while steps < min(phases[-1].stop for phases in plans):
        did = []
        for c, phases in zip((a, b), plans):
            phase = next(p for p in phases if p.start <= steps < p.stop)
            did.append([phase.stage, phase.phase, phase.depth, phase.frozen, phase.embeddings,
                        plan(c).lr[steps], plan(c).new_scale[steps]])
            if steps > phase.start:
                continue
            copies = False
            for growth in phase.growths:
                copies |= any(source is not None for source, is_new in growth.layers if is_new)
                did[-1] += [growth.stage, growth.layers, growth.fresh]
            if phase.growths and steps > 0 and (copies or c.grow_optimizer == 'reset'):
                did[-1].append(c.grow_optimizer.replace('copy', 'copied'))
        if did[0] != did[1]:
            break
        steps += 1
    return steps

def random_config(random) -> TrainConfig:
    choose = random.choice
    n_stages = choose((1, 2, 3, 4))
    fractions = choose(((), (), tuple([choose((.1, .2, .25))] * n_stages), (.2,) * (n_stages - 1) + (0.0,)))
    growing = choose((False, False, True))
    return TrainConfig(
        n_layer=6, n_stages=n_stages, growth_steps=choose((8, 12, 13)),
        continual_steps=choose((0, 10, 30, 31)), stage_fractions=fractions,
        phase1_fraction=choose((0.0, 0.5)), grow_init=choose(('random', 'copy_last', 'zero', 'stack')),
        rewarm=choose(('all', 'new')), lr_depth_power=choose((0.0, 0.0, 0.25)),
        stage_lr_scale=choose((1.0, 1.0, 0.5, (1.0,) * (n_stages - 1) + (0.5,))),
        phase1_embeddings=choose(('input_frozen', 'train')),
        grow_optimizer=choose(('keep', 'copy', 'reset')), init_from='x' if growing else 'scratch',
        init_depth=1 if growing else 0, min_lr=choose((0.0, 1e-4)),
        lr_schedule=choose(('constant', 'wsd', 'wsd', 'cosine')), warmup_steps=choose((0, 5, 25)),
        rewarm_steps=choose((0, 4)), decay_fraction=choose((0.1, 0.2, 1.0)))

def has_plan(config: TrainConfig) -> bool:
    if check(config):
        return False
    try:
        plan(config)
    except UserError:
        return False
    return True

def test_shared_prefix_is_what_walking_through_both_plans_finds_for_500_random_pairs():
    generator = random.Random(7)
    found = []
    while len(found) < 500:
        a, other = random_config(generator), random_config(generator)
        values = {f.name: getattr(other, f.name) for f in dataclasses.fields(a) if generator.random() < 0.3}
        values |= generator.choice(({}, {}, {}, {'weight_decay': 0.0}, {'muon_learning_rate': 1.0},
                                    {'dtype': 'float32'}))
        b = dataclasses.replace(a, **values)
        if not (has_plan(a) and has_plan(b)):
            continue
        steps, reason = schedule.prefix_difference(a, b)
        assert steps == step_by_step(a, b) == schedule.shared_prefix(b, a), (reason, a, b)
        assert reason or steps == plan(a).total_steps == plan(b).total_steps
        found.append(steps)
    assert sum(steps > 0 for steps in found) > 110 and len(set(found)) > 20

def test_what_differs_is_said_in_words():
    a = TrainConfig(n_layer=4, n_stages=2, stage_depths=(2, 4), growth_steps=20, continual_steps=0)
    b = dataclasses.replace(a, grow_init='stack', rewarm_steps=5, eval_interval=7)
    assert schedule.prefix_difference(a, b) == (10, "grow_init 'random' and 'stack', rewarm_steps 0 and 5")
    assert schedule.prefix_difference(a, dataclasses.replace(a, seed=1)) == (0, 'seed 1337 and 1')

# ----------------------------------------------------------------------------------------------------------
# the printed plan

def test_the_printed_plan_needs_no_torch():
    block = ("import sys; sys.modules['torch'] = None; sys.argv = ['schedule.py', 'incremental_8stage']; "
             "import runpy; runpy.run_path('schedule.py', run_name='__main__')")
    done = run('-c', block)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    phases = lines[2:18]
    assert [line[1] for line in phases].count('phase1') == 7 and phases[-1][1] == 'continual'
    assert phases[3] == ['3', 'phase1', '625', '3125', '5', '3', '52,810,752', '3.28e+08', '1.27e+17', '1.4%']
    assert sum(int(line[2]) for line in phases) == 20_000
    assert lines[18] == ['total', '20000', '20000', '1.05e+10', '7.1e+18', '79.3%']
    assert 'stage 3, step 2500: 3 -> 5 by random: 0 1 2 +new +new' in done.stdout

def test_hours_and_money_follow_from_the_given_speed(capsys, monkeypatch):
    hours = plan(load('configs/baseline.py')).flops() / 4e14 / 3600
    said = printed(capsys, monkeypatch, 'configs/baseline.py', '--tflops=100', '--gpus=4', '--price=2')
    assert f'\n{hours:.2f} hours of training on 4 GPUs at 100 TFLOP/s each, {8 * hours:,.2f} at 2 an' in said
    assert f'{hours / 2:.2f}' in said.splitlines()[2].split()[-1]  # of its two phases, alike
    said = printed(capsys, monkeypatch, 'configs/baseline.py', '--gpu=H100', '--mfu=0.4', '--gpus=8')
    assert 'on 8 GPUs at 395.6 TFLOP/s each' in said

def test_the_plan_says_the_optimizers_share_under_muon_alone(capsys, monkeypatch):
    share = f'in neither ledger: {2000 * 12 * 300 * 64**3:.4g} FLOPs a rank, 9.5% of this plan'
    for optimizer, is_said in (('muon', True), ('adamw', False)):
        said = printed(capsys, monkeypatch, 'configs/baseline.py', 'configs/cpu.py',
                       f'--optimizer={optimizer}')
        assert (share in said) == is_said == ('in neither ledger' in said)
