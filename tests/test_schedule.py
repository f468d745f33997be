"""Plan, learning rate and ledgers. Run: python -m pytest tests/test_schedule.py"""

import dataclasses
import itertools
import json
import math
import random
import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import schedule
from common import UserError
from config import TrainConfig, check, load_config
from model import GPT, GPTConfig
from schedule import plan


def test_twelve_layers_in_eight_stages_are_the_papers_depths():
    c = load_config(['configs/incremental_8stage.py'], '')
    phases = plan(c)
    assert schedule.stage_depths(c) == (2, 3, 5, 6, 8, 9, 11, 12)
    assert len(phases) == 16 and [p.phase for p in phases[:3]] == ['phase2', 'phase1', 'phase2']
    assert phases[-1].phase == 'continual' and phases[-1].steps == 10_000
    assert [p.n_frozen for p in phases if p.phase == 'phase1'] == [2, 3, 5, 6, 8, 9, 11]


@pytest.mark.parametrize('n_stages', range(1, 13))
def test_steps_add_up_exactly_for_awkward_numbers(n_stages):
    for growth_steps in [*range(1000, 10_008, 91), 9973, 10_000, 10_007]:
        for fraction in (0.0, 0.3, 0.5, 1.0):
            c = TrainConfig(n_stages=n_stages, growth_steps=growth_steps, phase1_fraction=fraction, continual_steps=17)
            phases = plan(c)
            assert phases[0].start == 0 and all(a.stop == b.start for a, b in itertools.pairwise(phases))
            assert all(p.steps > 0 for p in phases) and phases[-1].stop == growth_steps + 17
            assert phases[-1].depth == 12 and [p.depth for p in phases] == sorted(p.depth for p in phases)
            per_stage = [sum(p.steps for p in phases if p.stage == s and p.phase != 'continual')
                         for s in range(1, n_stages + 1)]
            assert max(per_stage) - min(per_stage) <= 1


@pytest.mark.parametrize('S', [1, 2, 3, 4, 6, 12])
def test_paper_ledger_equals_the_papers_closed_forms(S):
    """C_baseline = 2 T L c, C_incremental = T c L (3S + 5) / (4S), T_cont = 5/8 (1 - 1/S) T, as exact fractions."""
    T = 24_000  # divides into 2 S whole phases
    c = TrainConfig(n_stages=S, growth_steps=T, continual_steps=0, ledger='paper', baseline_steps=T)
    layer = sum(schedule.layer_flops(c)) * c.total_batch_size
    baseline = schedule.compute(c, [schedule.full_depth(c, T)], 'paper')
    assert baseline == 2 * T * 12 * layer
    assert Fraction(schedule.compute(c, plan(c), 'paper')) == Fraction(T * layer * 12 * (3 * S + 5), 4 * S)
    assert Fraction(schedule.compute(c, plan(c), 'paper'), baseline) == Fraction(3 * S + 5, 8 * S)
    equal = plan(dataclasses.replace(c, continual_steps='equal_compute'))
    assert schedule.total_steps(equal) - T == round(Fraction(5, 8) * (1 - Fraction(1, S)) * T)


def test_the_costs_at_gpt2_124m_are_the_known_ones():
    """Relative to 12 layers for the same tokens: paper's ledger, input frozen, as the original runs, never frozen.

    With the embeddings training, backward through a frozen layer is one product per weight matrix, and all four of
    attention's: freezing saves nothing there (an attention counted once would give .681, .641, .610).
    """
    known = {4: (.531, .636, .689, .727), 8: (.469, .585, .651, .696), 12: (.427, .555, .620, .666)}
    for S, expected in known.items():
        base = TrainConfig(n_stages=S, growth_steps=24_000, continual_steps=0)
        full = schedule.step_cost(base, 'flops') * 24_000
        original = dataclasses.replace(base, phase1_embeddings='train')
        never = dataclasses.replace(base, phase1_fraction=0.0)
        measured = (schedule.compute(base, plan(base), 'paper') / (schedule.step_cost(base, 'paper') * 24_000),
                    *(schedule.compute(c, plan(c), 'flops') / full for c in (base, original, never)))
        assert [round(m, 3) for m in measured] == pytest.approx(expected, abs=0.001)


def test_the_head_weighs_four_and_a_half_layers():
    c = TrainConfig()
    share = schedule.head_flops(c) / sum(schedule.layer_flops(c))
    assert share == pytest.approx(4.47, abs=0.01)
    assert schedule.head_flops(c) / schedule.token_flops(c, schedule.full_depth(c, 1))[0] == pytest.approx(0.27, abs=0.005)


@pytest.mark.parametrize('ledger', ['flops', 'paper'])
@pytest.mark.parametrize('n_stages', [2, 5, 8, 12])
def test_equal_compute_lands_within_one_step_of_the_target(ledger, n_stages):
    c = TrainConfig(n_stages=n_stages, growth_steps=3001, continual_steps='equal_compute', baseline_steps=4003, ledger=ledger)
    full = schedule.step_cost(c, ledger)
    assert abs(schedule.compute(c, plan(c), ledger) - 4003 * full) <= full


def test_equal_compute_that_leaves_nothing_is_told():
    with pytest.raises(UserError, match=r'the stages alone cost .* more than the 100 that are to be matched \(baseline_steps'):
        plan(TrainConfig(n_stages=8, growth_steps=1000, continual_steps='equal_compute', baseline_steps=100))


@pytest.mark.parametrize('embeddings', ['train', 'input_frozen', 'frozen'])
@pytest.mark.parametrize('depth, frozen', [(2, ()), (5, (0, 1, 2)), (4, (0, 2)), (4, (1, 3)), (3, (0, 1))])
def test_flops_ledger_equals_torchs_counter_on_the_real_model(embeddings, depth, frozen):
    c = TrainConfig(n_layer=6, n_head=4, n_embd=64, block_size=32, vocab_size=512, total_batch_size=64, batch_size=2)
    phase = schedule.Phase(1, 'phase1', 0, 1, depth, frozen, embeddings)
    model = GPT(GPTConfig(32, 512, 6, 4, 64), depth)
    model.freeze(frozen, embeddings)
    x = torch.randint(512, (2, 32))
    with sdpa_kernel(SDPBackend.MATH):  # flash recomputes scores in its backward, which no convention counts
        with FlopCounterMode(display=False) as forward:
            loss = model(x, x)
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    expected = schedule.token_flops(c, phase)
    # the chunked loss does part of its backward ahead, in forward: the sum is what is comparable
    assert forward.get_total_flops() + backward.get_total_flops() == pytest.approx(64 * sum(expected), rel=0.01)


def test_compute_up_to_a_step_grows_to_the_total():
    c = TrainConfig(n_stages=3, growth_steps=100, continual_steps=10)
    at = [schedule.compute(c, plan(c), 'flops', s) for s in range(111)]
    assert at[0] == 0 and at[-1] == schedule.compute(c, plan(c), 'flops')
    costs = [b - a for a, b in itertools.pairwise(at)]
    for phase in plan(c):
        assert set(costs[phase.start:phase.stop]) == {sum(schedule.token_flops(c, phase)) * c.total_batch_size}


@pytest.mark.parametrize('init', ['interleave', 'middle', 'stack', 'zero'])
def test_the_ledger_knows_where_an_operator_leaves_the_frozen_layers(init):
    c = TrainConfig(n_stages=2, stage_depths=(6, 12), growth_steps=100, continual_steps=0, grow_init=init)
    phase = next(p for p in plan(c) if p.phase == 'phase1')
    assert phase.frozen == {'interleave': (0, 2, 4, 6, 8, 10), 'middle': (0, 1, 2, 3, 4, 5)}.get(init, tuple(range(6)))
    if init == 'interleave':  # the graph reaches down to layer 1: more than freezing the bottom half costs
        below = dataclasses.replace(phase, frozen=tuple(range(6)))
        assert schedule.token_flops(c, phase)[1] > schedule.token_flops(c, below)[1]


def test_learning_rates_follow_their_closed_forms():
    c = TrainConfig(n_stages=2, growth_steps=600, continual_steps=400, warmup_steps=100, learning_rate=1.0, min_lr=0.1)
    phases = plan(c)
    assert schedule.get_lr(c, phases, 0) == 0.01 and schedule.get_lr(c, phases, 99) == 1.0
    assert {schedule.get_lr(c, phases, s) for s in range(100, 1000)} == {1.0}
    cosine = dataclasses.replace(c, lr_schedule='cosine')
    for s in (100, 550, 999):
        expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (s - 100) / 900))
        assert schedule.get_lr(cosine, phases, s) == pytest.approx(expected)
    wsd = dataclasses.replace(c, lr_schedule='wsd', decay_fraction=0.2)
    assert schedule.get_lr(wsd, phases, 800) == 1.0
    assert schedule.get_lr(wsd, phases, 900) == pytest.approx(0.55)
    assert schedule.get_lr(wsd, phases, 999) == pytest.approx(0.1 + 0.9 / 200)


def test_rewarming_follows_each_growth_but_not_the_first_layers():
    c = TrainConfig(n_stages=3, growth_steps=300, continual_steps=100, learning_rate=1.0, rewarm_steps=10)
    rates = [schedule.get_lr(c, plan(c), s) for s in range(400)]
    assert rates[:100] == [1.0] * 100
    for growth in (100, 200):
        assert rates[growth:growth + 10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert set(rates[210:]) == {1.0}


def test_growing_from_a_checkpoint_has_something_to_freeze_in_its_first_stage():
    c = TrainConfig(init_from='gpt2', init_depth=12, n_layer=16, n_stages=2, growth_steps=100, continual_steps=0)
    assert [(p.stage, p.phase, p.depth, p.n_frozen) for p in plan(c)] == [
        (1, 'phase1', 14, 12), (1, 'phase2', 14, 0), (2, 'phase1', 16, 14), (2, 'phase2', 16, 0)]


def test_match_gives_a_baseline_the_others_compute():
    c = load_config(['configs/baseline.py', 'configs/cpu.py', '--match=configs/nofreeze_8stage.py+configs/cpu.py'], '')
    other = load_config(['configs/nofreeze_8stage.py', 'configs/cpu.py'], '')
    resolved = schedule.resolve(c)
    full = schedule.step_cost(c, 'flops')
    assert resolved.match == '' and type(resolved.continual_steps) is int
    assert abs(schedule.compute(resolved, plan(resolved), 'flops') - schedule.compute(other, plan(other), 'flops')) <= full


def test_stage_fractions_are_shares_of_the_whole_run_also_at_equal_compute():
    c = TrainConfig(n_stages=2, stage_depths=(1, 12), stage_fractions=(0.8, 0.0), grow_init='copy_last', phase1_fraction=0.0,
                    growth_steps=0, continual_steps=1000, baseline_steps=1000)
    assert [(p.stage, p.phase, p.start, p.stop, p.depth) for p in plan(c)] == [
        (1, 'phase2', 0, 800, 1), (2, 'continual', 800, 1000, 12)]
    full = schedule.step_cost(c, 'flops')
    assert schedule.compute(c, plan(c), 'flops') / (1000 * full) == pytest.approx(.466, abs=.001)  # known at 124M
    at_6 = dataclasses.replace(c, stage_fractions=(0.6, 0.0))
    assert schedule.compute(at_6, plan(at_6), 'flops') / (1000 * full) == pytest.approx(.599, abs=.001)
    equal = dataclasses.replace(c, continual_steps='equal_compute')
    assert abs(schedule.compute(equal, plan(equal), 'flops') - 1000 * full) <= full
    total = schedule.total_steps(plan(equal))
    assert plan(equal)[0].stop == pytest.approx(0.8 * total, abs=1)
    matched = schedule.resolve(load_config(['--n_stages=2', '--stage_depths=1,12', '--stage_fractions=0.8,0',
                                            '--phase1_fraction=0', '--match=configs/baseline.py'], ''))
    assert abs(schedule.compute(matched, plan(matched), 'flops') - 20_000 * full) <= full


def test_match_of_a_run_directory_reads_its_config(tmp_path):
    from config import config_to_dict
    other = load_config(['configs/incremental_4stage.py'], '')
    (tmp_path / 'config.json').write_text(json.dumps(config_to_dict(other)))
    resolved = schedule.resolve(load_config(['configs/baseline.py', f'--match={tmp_path}'], ''))
    assert resolved.growth_steps + resolved.continual_steps == round(
        schedule.compute(other, plan(other), 'flops') / schedule.step_cost(other, 'flops'))
    (tmp_path / 'config.json').write_text('{"n_layer": ')
    with pytest.raises(UserError, match='not a readable config'):
        schedule.resolve(load_config(['configs/baseline.py', f'--match={tmp_path}'], ''))


def run(*args):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True)


def test_the_printed_plan_needs_no_torch():
    block = "import sys; sys.modules['torch'] = None; sys.argv = ['schedule.py', 'configs/incremental_8stage.py']; " \
            "import runpy; runpy.run_path('schedule.py', run_name='__main__')"
    done = run('-c', block)
    assert done.returncode == 0 and done.stdout.count('phase1') == 7 and done.stdout.count('continual') >= 1
    assert '79.3%' in done.stdout


def test_json_plan_adds_up():
    done = run('schedule.py', 'configs/incremental_8stage.py', '--json')
    printed = json.loads(done.stdout)
    assert len(printed['phases']) == 16
    for row in printed['phases']:
        assert {'stage', 'phase', 'start', 'stop', 'depth', 'n_frozen', 'tokens', 'flops', 'flops_paper'} <= row.keys()
    for key in ('tokens', 'flops', 'flops_paper'):
        assert sum(p[key] for p in printed['phases']) == printed['totals'][key]
    assert printed['totals']['tokens'] == 20_000 * 524_288
    assert printed['totals']['bytes']['weights'] == 4 * sum(p.numel() for p in GPT(GPTConfig(vocab_size=50304)).parameters())


def test_hours_follow_from_the_given_speed():
    done = run('schedule.py', 'configs/baseline.py', '--tflops=100')
    c = load_config(['configs/baseline.py'], '')
    hours = schedule.compute(c, plan(c), 'flops') / 1e14 / 3600
    assert f'{hours:.2f}' in done.stdout.splitlines()[3]
    assert run('schedule.py', 'configs/baseline.py', '--tflops=fast').returncode == 2


# ---------------------------------------------------------------------------------------------------------------------
# shared prefixes


def step_by_step(a: TrainConfig, b: TrainConfig) -> int:
    """The steps that two runs train alike, by walking through both."""
    never_matter = {'out_dir', 'run_name', 'resume', 'device', 'log_interval', 'eval_interval', 'val_tokens'}
    by_step = {'n_stages', 'stage_depths', 'growth_steps', 'stage_steps', 'stage_fractions', 'phase1_fraction',
               'phase1_embeddings', 'continual_steps', 'baseline_steps', 'ledger', 'grow_init', 'grow_optimizer',
               'min_lr', 'lr_schedule', 'warmup_steps', 'rewarm_steps', 'decay_fraction'}
    for name in {f.name for f in dataclasses.fields(TrainConfig)} - never_matter - by_step:
        if getattr(a, name) != getattr(b, name) and (name != 'muon_learning_rate' or a.optimizer == 'muon'):
            return 0
    plans = [plan(c) for c in (a, b)]
    steps = 0
    while steps < min(phases[-1].stop for phases in plans):
        did = []
        for c, phases in zip((a, b), plans):
            phase = next(p for p in phases if p.start <= steps < p.stop)
            did.append([phase.stage, phase.phase, phase.depth, phase.frozen, phase.embeddings,
                        schedule.get_lr(c, phases, steps)])
            before = c.init_depth if steps == 0 else next(p for p in phases if p.start < steps <= p.stop).depth
            if 0 < before < phase.depth:
                layers = schedule.layout(c.grow_init, before, phase.depth)
                copies = any(source is not None for source, is_new in layers if is_new)
                did[-1] += [layers, c.grow_init == 'zero']
                if steps > 0:
                    did[-1].append({'copy': 'copy' if copies else 'keep'}.get(c.grow_optimizer, c.grow_optimizer))
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
        n_layer=6, n_stages=n_stages, growth_steps=choose((8, 12, 13)), continual_steps=choose((0, 10, 30, 31)),
        stage_fractions=fractions, phase1_fraction=choose((0.0, 0.5)), grow_init=choose(('random', 'copy_last', 'zero', 'stack')),
        phase1_embeddings=choose(('input_frozen', 'train')), grow_optimizer=choose(('keep', 'copy', 'reset')),
        init_from='x' if growing else 'scratch', init_depth=1 if growing else 0, min_lr=choose((0.0, 1e-4)),
        lr_schedule=choose(('constant', 'wsd', 'wsd', 'cosine')), warmup_steps=choose((0, 5, 25)),
        rewarm_steps=choose((0, 4)), decay_fraction=choose((0.1, 0.2, 1.0)))


def test_shared_prefix_is_what_walking_through_both_plans_finds_for_500_random_pairs():
    generator = random.Random(7)
    found = []
    while len(found) < 500:
        a, other = random_config(generator), random_config(generator)
        values = {f.name: getattr(other, f.name) for f in dataclasses.fields(TrainConfig) if generator.random() < 0.3}
        values |= generator.choice(({}, {}, {}, {'weight_decay': 0.0}, {'muon_learning_rate': 1.0}, {'dtype': 'float32'}))
        b = dataclasses.replace(a, **values)
        if check(a) or check(b):
            continue
        expected = step_by_step(a, b)
        steps, reason = schedule.prefix_difference(a, b)
        assert steps == expected == schedule.shared_prefix(b, a), (reason, a, b)
        assert bool(reason) == (steps < max(plan(a)[-1].stop, plan(b)[-1].stop)), (steps, reason)
        found.append(steps)
    assert sum(steps > 0 for steps in found) > 150 and len(set(found)) > 20


@pytest.mark.parametrize('config', ['bu_1to12_wsd', 'gong_3_6_12', 'midas_3_6_9_12', 'incremental_8stage', 'baseline'])
@pytest.mark.parametrize('budget', [1000, 1003, 16_001])
def test_with_compute_lands_within_half_a_step_of_any_budget(config, budget):
    c = load_config([f'configs/{config}.py', '--growth_steps=500'], '')
    step = schedule.step_cost(c, 'flops')
    c = schedule.with_compute(c, budget * step)
    assert abs(schedule.compute(c, plan(c), 'flops') - budget * step) <= step / 2
